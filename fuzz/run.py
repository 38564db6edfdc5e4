"""Fuzzes the readers: python fuzz/run.py --seconds N [--target NAME] [--seed S] [--engine atheris]

Without --target, all targets share the time. The seed is printed; the same seed and target produce the same inputs (with the built-in
engine; atheris, if installed and selected, is guided by coverage). An input that fails is saved in fuzz/failures and printed with its
traceback; `python fuzz/run.py --target NAME --input FILE` runs it again. Exit status 1 if an input failed.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from targets import Target

HERE = pathlib.Path(__file__).resolve().parent
FAILURES = HERE / "failures"
MAX_FAILURES = 20  # of one target
SLOW = 10.0  # seconds of processor time for one input


def main() -> int:
    """Runs what the arguments ask for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--target")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--engine", choices=["own", "atheris"], default="own")
    parser.add_argument("--input", type=pathlib.Path)
    args = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    if args.engine == "atheris" and args.target:
        return with_atheris(args.target, args.seconds, args.seed or 1)
    from targets import TARGETS

    if args.input:
        TARGETS[args.target].check(args.input.read_bytes())
        return 0
    seed = int.from_bytes(os.urandom(4), "little") if args.seed is None else args.seed
    chosen = [args.target] if args.target else list(TARGETS)
    failed = 0
    for name in chosen:
        if args.engine == "atheris" and not TARGETS[name].forks:
            command = [sys.executable, __file__, "--engine", "atheris", "--target", name, "--seconds", str(args.seconds / len(chosen)),
                       "--seed", str(seed % (1 << 31) or 1)]
            failed += subprocess.run(command).returncode != 0
        else:
            failed += fuzz(name, TARGETS[name], args.seconds / len(chosen), seed)
    return 1 if failed else 0


def fuzz(name: str, target: Target, seconds: float, seed: int) -> int:
    """Runs one target for that long; returns how many inputs failed."""
    chance = random.Random(f"{seed} {name}")
    seeds = list(target.seeds())
    for data in seeds:
        target.check(data)
    pool = list(seeds)
    count = failed = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and failed < MAX_FAILURES:
        data = target.mutate(chance.choice(pool if chance.random() < 0.3 else seeds), chance)
        count += 1
        if len(pool) < 200 and chance.random() < 0.01:
            pool.append(data)  # damage upon damage
        failed += not passes(name, target, data, f"{name}-{seed}-{count}")
    print(f"{name}: {count} inputs in {seconds:.0f} s, {failed} failed (seed {seed})", flush=True)
    return failed


def passes(name: str, target: Target, data: bytes, label: str) -> bool:
    """Whether one input passes; one that fails is saved."""
    began = sum(os.times()[:4])  # of this process and its children: another program's load is not the input's fault
    try:
        target.check(data)
        took = sum(os.times()[:4]) - began
        assert took < SLOW, f"{took:.1f} s"
        return True
    except Exception:
        FAILURES.mkdir(exist_ok=True)
        path = FAILURES / label
        path.write_bytes(data)
        print(f"{traceback.format_exc()}again with: python fuzz/run.py --target {name} --input {path}", flush=True)
        return False


def with_atheris(name: str, seconds: float, seed: int) -> int:
    """One target under atheris, which ends the process."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")

    with atheris.instrument_imports(include=["exporter"]):
        from targets import TARGETS
    target = TARGETS[name]
    FAILURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(target.seeds()):
            pathlib.Path(corpus, str(number)).write_bytes(data)
        atheris.Setup([sys.argv[0], corpus, f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-artifact_prefix={FAILURES}/{name}-",
                       "-timeout=20", "-rss_limit_mb=3000", "-max_len=200000", "-print_final_stats=1", "-verbosity=0"], target.check)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())

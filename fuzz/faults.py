"""Faults that take longer to test: python fuzz/faults.py [--seconds N]

Kills `bn-export` 200 times at random moments, lets it write to a full disk (a small tmpfs; root only), and starts eight exports to the same
file at once. The output file must be complete at every moment: either the previous version or the new one. Tests for faults that
need less time are in tests/test_faults.py. Exit status 1 if a check fails.
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

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "sample_models" / "encoder_keras3" / "model.h5"
COMMAND = [sys.executable, "-c", "from exporter.commands.export import export_command; export_command()"]
OLD = b"what stood there before"


def command(*words: object) -> list[str]:
    """The command line of bn-export."""
    return [*COMMAND, *map(str, words)]


def exported(folder: pathlib.Path) -> bytes:
    """What an export of MODEL writes."""
    path = folder / "sound.json"
    subprocess.run(command(MODEL, path), check=True, cwd=ROOT)
    return path.read_bytes()


def killed(folder: pathlib.Path, times: int, seconds: float, seed: int) -> str:
    """kill -9 at random moments between the start and a little after the usual end."""
    new = exported(folder)
    began = time.monotonic()
    subprocess.run(command(MODEL, folder / "sound.json"), check=True, cwd=ROOT)
    usual = time.monotonic() - began
    out = folder / "killed" / "out.json"
    out.parent.mkdir()
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    count = finished = 0
    while count < times and time.monotonic() < end:
        out.write_bytes(OLD)
        process = subprocess.Popen(command(MODEL, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.3, 1.05) * usual)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        count += 1
        found = out.read_bytes()
        if found not in (OLD, new):
            raise AssertionError(f"after kill {count} (seed {seed}) the output is neither old nor new: {len(found)} bytes")
        finished += found == new
    left = sorted(set(os.listdir(out.parent)) - {"out.json"})
    if len(left) > count or not all(name.startswith(".out.json.") and name.endswith(".tmp") for name in left):
        raise AssertionError(f"files are left that are no temporary ones: {left[:5]}")
    return f"killed {count} times: {count - finished} old outputs, {finished} new ones, {len(left)} temporary files left"


def full(folder: pathlib.Path) -> str:
    """A disk with less room than the output takes."""
    new = exported(folder)
    disk = folder / "disk"
    disk.mkdir()
    size = max(4096, len(new) // 2 // 4096 * 4096)
    mounted = hasattr(os, "geteuid") and os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], stderr=subprocess.DEVNULL).returncode == 0
    if not mounted:
        return "no full disk: a tmpfs cannot be mounted here"
    try:
        (disk / "out.json").write_bytes(OLD)
        done = subprocess.run(command(MODEL, disk / "out.json"), cwd=ROOT, capture_output=True, text=True)
        state = (disk / "out.json").read_bytes() == OLD, os.listdir(disk), done.returncode, "No space left" in done.stderr
        if state != (True, ["out.json"], 1, True):
            raise AssertionError(f"a full disk: {state} {done.stderr}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return f"a disk of {size} bytes for an output of {len(new)}: refused, the old output untouched, nothing left"


def at_once(folder: pathlib.Path, count: int = 8) -> str:
    """Several exports to one name at the same time."""
    new = exported(folder)
    out = folder / "at_once" / "out.json"
    out.parent.mkdir()
    processes = [subprocess.Popen(command(MODEL, out), cwd=ROOT) for _ in range(count)]
    codes = [process.wait() for process in processes]
    if codes != [0] * count or out.read_bytes() != new or os.listdir(out.parent) != ["out.json"]:
        raise AssertionError(f"{codes}, {os.listdir(out.parent)}")
    return f"{count} exports to one name at once: one whole output, nothing left"


def main() -> int:
    """Runs them all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="of killing, at most")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    args = parser.parse_args()
    failed = 0
    for fault in (lambda folder: killed(folder, 200, args.seconds, args.seed), full, at_once):
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(fault(pathlib.Path(folder)), flush=True)
            except AssertionError as error:
                failed = 1
                print(f"FAILED: {error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())

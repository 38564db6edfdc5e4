"""Measures the cost of many small models: python benchmarks/batch.py [--models 300] [--runs 3] [--dask]

Prints the processor time per model (user and system, of all processes involved): with --jobs 1 and --jobs 2 for models with different
configs, and with --jobs 1 for models of one architecture, such as the checkpoints of a training run. With --dask, it also compares a local
Dask cluster of two workers with --jobs 2, including a run in which one of the workers is killed after a third of the models. The other
one then does the rest alone; without any overhead, this would take 1.67 times as long. All results are medians of alternating runs.
Needs a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "sample_models" / "encoder_keras3" / "model.h5"
COMMAND = [sys.executable, "-c", "from exporter.commands.export import export_command; export_command()"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process compiles the package anew
SEED, EACH = b'"seed": null', b'"seed": %4d'  # in the config of an initializer
ORPHANS_ARE_OURS = 36  # PR_SET_CHILD_SUBREAPER: what a killed worker leaves is waited for, and so counted, here
MAX_MILLISECONDS, MAX_TIMES = 10.0, 1.3
ONE_JOB, TWO_JOBS, CLUSTER = "--jobs 1", "--jobs 2", "--dask, two workers"


class Cost(NamedTuple):
    """Seconds of a command: on the clock, and of processor time."""

    wall: float
    cpu: float


class Row(NamedTuple):
    """What a batch costs: milliseconds of processor time a model (None: not known of a cluster), seconds on the clock, and how many times
    those of --jobs 2 beside it (None: of another number of models)."""

    what: str
    milliseconds: float | None
    seconds: float
    times: float | None


def main() -> int:
    """Measures and prints; returns 1 if a figure is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dask", action="store_true", help="also on a Dask cluster")
    args = parser.parse_args()
    found = rows(args.models, args.runs, dask=args.dask)
    for row in found:
        cost = "" if row.milliseconds is None else f"{row.milliseconds:.1f} ms of processor time a model, "
        print(f"{row.what}: {cost}{row.seconds:.2f} s" + ("" if row.times is None else f", {row.times:.2f} times --jobs 2"))
    by_name = {row.what: row for row in found}
    too_slow = [row for name, row in by_name.items() if name in (ONE_JOB, TWO_JOBS) and row.milliseconds > MAX_MILLISECONDS]
    return int(bool(too_slow) or (CLUSTER in by_name and by_name[CLUSTER].times > MAX_TIMES))


def rows(models: int, runs: int, *, dask: bool) -> list[Row]:
    """Medians of the runs, which alternate."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ORPHANS_ARE_OURS, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many, one, alike = zoo(folder / "many", models), zoo(folder / "one", 1), zoo(folder / "alike", models, alike=True)
        batches = {"one model alone": (one, "1"), ONE_JOB: (many, "1"), "--jobs 1, of one architecture": (alike, "1"),
                   TWO_JOBS: (many, "2")}
        costs: dict[str, list[Cost]] = {what: [] for what in batches}
        clusters: dict[str, list[float]] = {CLUSTER: [], f"{CLUSTER}, one killed": []} if dask else {}
        for _ in range(runs):
            for what, (batch, jobs) in batches.items():
                costs[what].append(exported(batch, folder / "out", "--jobs", jobs))
            for what, seconds in clusters.items():
                seconds.append(on_cluster(many, folder, models, kill=what != CLUSTER))

    def row(what: str, seconds: list[float], milliseconds: float | None = None) -> Row:
        times = None if costs.get(what) and batches[what][0] is one else statistics.median(
            there / here.wall for there, here in zip(seconds, costs[TWO_JOBS], strict=True))
        return Row(what, milliseconds, statistics.median(seconds), times)

    return [*(row(what, [cost.wall for cost in found],
                  1000 * statistics.median(cost.cpu for cost in found) / (1 if batches[what][0] is one else models))
              for what, found in costs.items()), *(row(what, seconds) for what, seconds in clusters.items())]


def zoo(folder: Path, count: int, *, alike: bool = False) -> Path:
    """A folder of small models, whose configs differ in a number, or not at all."""
    folder.mkdir()
    content = MODEL.read_bytes()
    assert SEED in content
    for number in range(count):
        (folder / f"m{number:04}.h5").write_bytes(content if alike else content.replace(SEED, EACH % number))
    return folder


def exported(models: Path, out: Path, *options: str) -> Cost:
    """What the export of a folder costs."""
    shutil.rmtree(out, ignore_errors=True)
    _wait_for_orphans()
    before, began = _children(), time.monotonic()
    subprocess.run([*COMMAND, str(models), "--out-dir", str(out), *options], check=True, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    wall = time.monotonic() - began
    _wait_for_orphans()
    return Cost(wall, _children() - before)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait_for_orphans() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def on_cluster(models: Path, folder: Path, count: int, *, kill: bool) -> float:
    """Seconds for the export of a folder by two Dask workers. kill: one of them when a third is done."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    with cluster(folder) as (address, workers):
        began = time.monotonic()
        process = subprocess.Popen([*COMMAND, str(models), "--out-dir", str(out), "--dask", address], env=ENVIRONMENT,
                                   stderr=subprocess.PIPE, text=True)
        while kill and process.poll() is None and (not out.is_dir() or len(os.listdir(out)) < count // 3):
            time.sleep(0.01)
        if kill:
            workers[0].send_signal(signal.SIGKILL)
        _, said = process.communicate()
        wall = time.monotonic() - began
    if f"exported {count}, skipped 0, refused 0" not in said:
        raise SystemExit(f"not all was exported:\n{said}")
    return wall


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler's address and two workers."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> Path:
        log = folder / f"{name}.log"
        with open(log, "wb") as file:
            started.append(subprocess.Popen([sys.executable, "-m", *words], stdout=file, stderr=file, env=ENVIRONMENT, cwd=folder))
        return log

    try:
        log = start("scheduler", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show")
        address = _said(log, r"Scheduler at:\s*(tcp://\S+)")
        for number in range(2):
            log = start(f"worker{number}", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                        "--host", "127.0.0.1")
            _said(log, "(Registered to)")
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def _said(log: Path, pattern: str) -> str:
    for _ in range(1200):
        found = re.search(pattern, log.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    raise SystemExit(log.read_text())


if __name__ == "__main__":
    sys.exit(main())

"""bn-export with --out-dir: workers, progress bar and summary. The work itself is in exporter/pipeline/many.py."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporter.batchnorm.listing import size
from exporter.commands.shared import warn
from exporter.commands.streams import ERASE
from exporter.errors import UsageError, printable
from exporter.files.remote import is_url

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from exporter.pipeline.outcome import Outcome
    from exporter.sources.shared.options import ReadOptions
    from exporter.targets.shared.options import WriteOptions

BAR = 24  # characters


def export_models(args: argparse.Namespace, options: ReadOptions, write_options: WriteOptions) -> int:
    """bn-export MODEL... --out-dir DIR"""
    from exporter.pipeline import report
    from exporter.pipeline.many import export_many
    from exporter.pipeline.readers import collect_rarely

    if args.report is not None:
        report.check_name(args.report)
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"expected --jobs of at least 1, got {args.jobs}")
    progress = Progress(args.verbose)
    with _executor(args) as executor:
        collect_rarely()
        try:
            summary = export_many(args.words, args.out_dir, suffix=".json" if args.suffix is None else args.suffix, options=options,
                                  executor=executor, force=args.force, report=args.report, write_options=write_options, progress=progress)
        except KeyboardInterrupt:
            progress.end()
            print(progress.interrupted(), file=sys.stderr)
            raise
        finally:
            progress.end()
    if args.report is not None:
        report.write(summary, args.report)
    warn(summary.warnings)
    print(summary, file=sys.stderr)
    for count, outcome in summary.reasons() if len(summary.of("refused")) > 1 else ():
        hint = f" ({printable(outcome.hint, 300)})" if outcome.hint else ""
        print(f"  {count} like {printable(outcome.source, 80)}: {printable(outcome.reason, 200)}{hint}", file=sys.stderr)
    return 0 if summary.is_complete else 1


@contextlib.contextmanager
def _executor(args: argparse.Namespace) -> Iterator[Executor | None]:
    if args.dask is not None:
        if args.jobs is not None:
            raise UsageError("expected --jobs or --dask, got both: the number of workers is the cluster's")
        from exporter.commands.workers import cluster

        with cluster(args.dask, args.words[0]) as executor:
            yield executor
        return
    jobs = args.jobs or _processors()
    if jobs == 1:
        yield None
        return
    from exporter.commands.workers import pool

    # fsspec's thread, which lists the matches of a remote pattern, must not be forked
    with pool(jobs, may_fork=not any(map(is_url, [*args.words, args.out_dir]))) as executor:
        yield executor


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Progress:
    """A progress bar on a terminal; elsewhere only refusals and warnings, and with `verbose` a line for each model."""

    def __init__(self, verbose: bool) -> None:
        self._verbose, self._bar = verbose, sys.stderr.isatty()
        self._began, self._refused, self._done, self._count = time.monotonic(), 0, 0, 0
        self._hints: set[str] = set()

    def __call__(self, outcome: Outcome, done: int, count: int) -> None:
        self.end()
        self._done, self._count = done, count
        if outcome.status == "refused":
            self._refused += 1
            print(f"error: {printable(outcome.source)}: {printable(outcome.reason, 500)}", file=sys.stderr)
            if outcome.hint and outcome.hint not in self._hints:  # once for all models that it helps
                self._hints.add(outcome.hint)
                print(f"hint: {printable(outcome.hint, 500)}", file=sys.stderr)
        elif self._verbose:
            held = f": {size(outcome.layers, outcome.channels)}" if outcome.status == "exported" else ""
            print(f"{outcome.status} {printable(outcome.source)}{held}", file=sys.stderr)
        warn([f"{outcome.source}: {warning}" for warning in outcome.warnings])
        if self._bar:
            full = BAR * done // count
            left = (time.monotonic() - self._began) / done * (count - done)
            refused = f", {self._refused} refused" if self._refused else ""
            words = f"{done} of {count}{refused}, {left:.0f} s left"
            bar = f"[{'#' * full}{'.' * (BAR - full)}] {words}"
            columns = shutil.get_terminal_size().columns  # a line that wraps cannot be erased
            sys.stderr.write(bar if len(bar) < columns else words[: columns - 1])
            sys.stderr.flush()

    def interrupted(self) -> str:
        """The message after Ctrl-C: what is done, and how to continue."""
        done = f"{self._done} of {self._count} models are done, {self._refused} of them refused" if self._done else "no model is done yet"
        return f"interrupted: {done}\nhint: run the same command again to export the rest"

    def end(self) -> None:
        """Erases the bar."""
        if self._bar:
            sys.stderr.write(ERASE)
            sys.stderr.flush()

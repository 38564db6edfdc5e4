"""bn-export with --out-dir: arguments, the progress bar, the summary and its report. The work is in exporter/pipeline/many.py."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import gc
import html
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from exporter.__about__ import __version__
from exporter.commands.shared import add_reading_options, read_options, warn
from exporter.errors import MissingExtra, UsageError, printable
from exporter.files.remote import is_url

if TYPE_CHECKING:
    from exporter.pipeline.outcome import Outcome, Summary

BAR = 24  # characters
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>bn-export: {summary}</title>
<style>body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; background: #fff }}
table {{ border-collapse: collapse }}
td, th {{ text-align: left; vertical-align: top; padding: .25em .75em; border-bottom: 1px solid #ddd }}
.refused {{ color: #a00000 }} .number {{ text-align: right }}</style></head>
<body><h1>bn-export {version}: {summary}</h1>
<table><thead><tr><th>model</th><th>outcome</th><th>batch norms</th><th>channels</th><th>export, or reason</th></tr></thead>
<tbody>
{rows}
</tbody></table></body></html>
"""


def export_models(words: Sequence[str]) -> int:
    """bn-export MODEL... --out-dir DIR"""
    gc.enable()  # a long life
    args = many_parser().parse_args(words)
    from exporter.pipeline.many import export_many
    from exporter.targets.shared.options import WriteOptions

    if args.report is not None and not args.report.lower().endswith((".json", ".html")):
        raise UsageError("the report's name ends in .json or .html", where=args.report)
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: at least 1")
    options, progress = read_options(args), Progress(args.verbose)
    with _executor(args) as executor:
        try:
            summary = export_many(args.models, args.out_dir, suffix=args.suffix, options=options, executor=executor, force=args.force,
                                  report=args.report,
                                  write_options=WriteOptions(vectors=not args.no_vectors, names=args.names, folded=args.folded),
                                  progress=progress)
        finally:
            progress.end()
    if args.report is not None:
        _write_report(summary, args.report)
    warn(summary.warnings)
    print(summary, file=sys.stderr)
    for count, outcome in summary.reasons() if len(summary.of("refused")) > 1 else ():
        hint = f" ({printable(outcome.hint, 300)})" if outcome.hint else ""
        print(f"  {count} like {printable(outcome.source, 80)}: {printable(outcome.reason, 200)}{hint}", file=sys.stderr)
    return 0 if summary.is_complete else 1


def many_parser() -> argparse.ArgumentParser:
    """The arguments of bn-export for many models."""
    parser = argparse.ArgumentParser(
        prog="bn-export", usage="%(prog)s MODEL... --out-dir DIR [options]", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Export many models. Names in DIR mirror where the models are; what is there and unchanged is skipped.",
        epilog="examples:\n  bn-export 'models/**/*.h5' more.keras --out-dir bundles/\n"
               "  bn-export 's3://bucket/zoo/*.keras' --out-dir bundles/ --jobs 8 --report summary.html\n\n"
               "exit status: 0 fine, 1 one or more refused (the reasons are on stderr), 2 usage")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="a model, or a pattern in quotes: * ? [], and ** over folders")
    parser.add_argument("--out-dir", required=True, metavar="DIR", help="folder or URL of the exports")
    parser.add_argument("--suffix", default=".json", help="kind of the exports, as for OUT (default: %(default)s)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one for each processor)")
    parser.add_argument("--dask", metavar="ADDRESS", help="let the workers of a Dask cluster do it, e.g. tcp://host:8786; "
                                                          "they need to see the models and DIR under the same names")
    parser.add_argument("--force", action="store_true", help="also export what is there and unchanged")
    parser.add_argument("--report", metavar="FILE", help="write what became of each model to a .json or .html file")
    parser.add_argument("-v", "--verbose", action="store_true", help="one line a model on stderr")
    parser.add_argument("--no-vectors", action="store_true", help="leave the test vectors out of the bundles")
    parser.add_argument("--names", choices=["keras", "torch"], default="keras", help="names of the tensors in .safetensors files")
    parser.add_argument("--folded", action="store_true", help=".h files: also scale and offset")
    parser.add_argument("--version", action="version", version=f"bn-export {__version__}")
    add_reading_options(parser)
    return parser


@contextlib.contextmanager
def _executor(args: argparse.Namespace) -> Iterator[concurrent.futures.Executor | None]:
    if args.dask is not None:
        if args.jobs is not None:
            raise UsageError("--jobs and --dask contradict each other: the cluster has the workers that it has")
        with _dask(args.dask) as executor:
            yield executor
        return
    jobs = args.jobs or _processors()
    if jobs == 1:
        yield None
        return
    # fsspec's thread, which lists what a remote pattern names, must not be forked
    context = multiprocessing.get_context("spawn" if any(map(is_url, [*args.models, args.out_dir])) else None)
    executor = concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)  # what is in work is finished, also after Ctrl-C


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin_worker() -> None:
    """In each process: Ctrl-C is the parent's to handle, and what reading needs is imported once, not in each child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import h5py  # noqa: F401
    import jsonschema  # noqa: F401

    import exporter.targets.bundle_json  # noqa: F401


@contextlib.contextmanager
def _dask(address: str) -> Iterator[concurrent.futures.Executor]:
    try:
        import distributed
    except ImportError:
        raise MissingExtra("distributed", "dask", "--dask") from None
    try:
        client: Any = distributed.Client(address, timeout="15s")  # type: ignore[no-untyped-call]  # distributed has few annotations
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {printable(address)}: {printable(str(error), 150)}") from None
    with client:
        yield client.get_executor(pure=False)


class Progress:
    """A bar on a terminal; elsewhere refusals and warnings alone, and with `verbose` a line for each model."""

    def __init__(self, verbose: bool) -> None:
        self._verbose, self._bar = verbose, sys.stderr.isatty()
        self._began, self._refused = time.monotonic(), 0
        self._hints: set[str] = set()

    def __call__(self, outcome: Outcome, done: int, count: int) -> None:
        self.end()
        if outcome.status == "refused":
            self._refused += 1
            print(f"error: {printable(outcome.source)}: {printable(outcome.reason, 500)}", file=sys.stderr)
            if outcome.hint and outcome.hint not in self._hints:  # once for all that it helps
                self._hints.add(outcome.hint)
                print(f"hint: {printable(outcome.hint, 500)}", file=sys.stderr)
        elif self._verbose:
            held = f": {outcome.layers} batch norms, {outcome.channels} channels" if outcome.status == "exported" else ""
            print(f"{outcome.status} {printable(outcome.source)}{held}", file=sys.stderr)
        warn([f"{outcome.source}: {warning}" for warning in outcome.warnings])
        if self._bar:
            full = BAR * done // count
            left = (time.monotonic() - self._began) / done * (count - done)
            refused = f", {self._refused} refused" if self._refused else ""
            words = f"{done} of {count}{refused}, {left:.0f} s left"
            bar = f"[{'#' * full}{'.' * (BAR - full)}] {words}"
            columns = shutil.get_terminal_size().columns  # a line that wraps cannot be taken away again
            sys.stderr.write(bar if len(bar) < columns else words[: columns - 1])
            sys.stderr.flush()

    def end(self) -> None:
        """Takes the bar away."""
        if self._bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _write_report(summary: Summary, path: str) -> None:
    from pathlib import Path

    from exporter.files import output, remote

    data = (_html(summary) if path.lower().endswith(".html") else _json(summary)).encode("utf-8", "backslashreplace")
    if remote.is_url(path):
        remote.write_bytes(path, data)
    else:
        output.write_bytes(Path(path), data)


def _json(summary: Summary) -> str:
    import json

    counts = {status: len(summary.of(status)) for status in ("exported", "skipped", "refused")}
    models = [{"source": one.source, "out": one.out, "status": one.status, "layers": one.layers, "channels": one.channels,
               "reason": one.reason, "hint": one.hint, "warnings": list(one.warnings)} for one in summary.outcomes]
    return json.dumps({"producer": {"name": "bn-export", "version": __version__}, **counts, "models": models}, indent=2) + "\n"


def _html(summary: Summary) -> str:
    def cell(text: object, kind: str = "") -> str:
        return f'<td class="{kind}">{html.escape(printable(str(text), 600))}</td>'

    rows = []
    for one in summary.outcomes:
        told = " ".join(filter(None, [one.reason or one.out, one.hint, *one.warnings]))
        numbers = (one.layers, one.channels) if one.status == "exported" else ("", "")
        rows.append("<tr>" + cell(one.source) + cell(one.status, one.status) + cell(numbers[0], "number") + cell(numbers[1], "number")
                    + cell(told) + "</tr>")
    return PAGE.format(version=__version__, summary=html.escape(str(summary)), rows="\n".join(rows))

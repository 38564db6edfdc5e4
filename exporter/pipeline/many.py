"""Exports many models: distributes the work, and collects the outcomes.

An index file in the output folder tells the next run which exports exist and are unchanged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from exporter.errors import ExporterError, OutputError, UsageError, printable
from exporter.files.address import is_url, without_file_scheme
from exporter.files.remote import place_for
from exporter.pipeline.each import Task, export_each, refused
from exporter.pipeline.naming import join, named_sources, place_of, public
from exporter.pipeline.outcome import SKIPPED, Outcome, Summary
from exporter.pipeline.readers import READERS

if TYPE_CHECKING:
    import concurrent.futures

    from exporter.pipeline.naming import Plan
    from exporter.pipeline.resume import Index
    from exporter.sources.shared.options import ReadOptions
    from exporter.targets.shared.options import WriteOptions


def export_many(sources: Iterable[str | os.PathLike[str]], out_dir: str | os.PathLike[str], *, suffix: str = ".json",
                options: ReadOptions | None = None, write_options: WriteOptions | None = None,
                executor: concurrent.futures.Executor | None = None, force: bool = False, report: str | os.PathLike[str] | None = None,
                progress: Callable[[Outcome, int, int], object] = lambda outcome, done, count: None) -> Summary:
    """Exports many models. A failure doesn't stop the batch.

    sources:  paths, URLs and patterns (* ? [], and ** for any folders) of models; a folder stands for the models below it.
    out_dir:  folder or URL; subfolders are created to mirror the paths of the sources.
    suffix:   of the outputs; it chooses the format.
    options, write_options: exporter.ReadOptions and exporter.WriteOptions, for all of them.
    executor: any concurrent.futures.Executor; its workers need this package and access to the sources and out_dir. None: this thread works.
    force:    also export models whose export is up to date, and replace files that are no exports.
    report:   a file that the caller will write; refused at the start if it cannot be written or would replace a model or an export.
    progress: called in this thread with each outcome, the number done, and the total.

    Every model is read in a child process with limits on time and memory. Calling it again resumes an interrupted call.
    Raises: UsageError (no sources, unknown suffix, options that the format does not support), OutputError (the folder cannot be
    created or written).
    """
    from exporter import targets
    from exporter.pipeline import resume
    from exporter.sources.shared.options import ReadOptions
    from exporter.targets.shared.options import WriteOptions

    options, write_options = options or ReadOptions(), write_options or WriteOptions()
    if write_options.fold:
        options = dataclasses.replace(options, kernels=True)
    targets.writer_for(f"name{suffix}", write_options)  # the one check of them that comes before any work
    out_dir = without_file_scheme(out_dir)
    if not is_url(out_dir) and os.path.exists(out_dir) and not os.path.isdir(out_dir):
        raise OutputError("expected a folder as --out-dir, got a file", where=out_dir, hint="choose another --out-dir")
    index = resume.Index(out_dir, options, write_options)
    plan = named_sources(sources, out_dir, suffix, index.wrote)
    count = len(plan.outputs) + len(plan.problems)
    if not count:
        raise UsageError("expected at least one model, got none")
    if report is not None:
        _check_report(without_file_scheme(report), out_dir, plan)
    outcomes: dict[str, Outcome] = {}
    try:
        for source, outcome in _settled(plan, index, options, write_options, executor, force=force):
            index.note(outcome)
            outcomes[source] = outcome = dataclasses.replace(outcome, out=public(outcome.out))
            progress(outcome, len(outcomes), count)
    finally:
        READERS.close()
        index.save()
    return Summary(tuple(outcomes[source] for source in [*plan.problems, *plan.outputs]), tuple(index.warnings))


def _settled(plan: Plan, index: Index, options: ReadOptions, write_options: WriteOptions,
             executor: concurrent.futures.Executor | None, *, force: bool) -> Iterator[tuple[str, Outcome]]:
    """Each source with its outcome: first those that need no work."""
    for source, error in plan.problems.items():
        yield source, refused(source, "", error)
    tasks = []
    for source, out in plan.outputs.items():
        found = _before(source, out, index, force)
        if isinstance(found, Task):
            tasks.append(found)
        else:
            yield source, found
    yield from _run(tasks, options, write_options, executor)


def _check_report(report: str, out_dir: str, plan: Plan) -> None:
    """Refuses a report that cannot be written, or would replace a model or an export. It may lie in the output folder, which is then
    created."""
    from exporter.files import output
    from exporter.pipeline import resume

    if not is_url(report) and os.path.dirname(os.path.abspath(report)) == place_of(out_dir):
        with contextlib.suppress(OSError):
            os.makedirs(out_dir)
    output.check_output(report, [place_for(source) for source in plan.outputs])
    if place_of(report) in {*map(place_of, plan.outputs.values()), place_of(join(out_dir, [resume.NAME]))}:
        raise OutputError("the report would replace an export or their index", where=report, hint="choose another name")


def _before(source: str, out: str, index: Index, force: bool) -> Task | Outcome:
    """What is known without reading the model: that its export is there, or that it is to be done."""
    from exporter.pipeline import resume

    try:
        place = place_for(source)
        other = index.owner(out)
        if not force and other not in (None, place_of(public(source))) and place_for(other).exists():
            raise OutputError(f"this is the export of another model, {printable(other)}", where=out,
                              hint="choose another --out-dir, or replace it with --force")
        mark = resume.mark_of(place, index.wrote)
        if not force and mark and index.has(out, mark):
            return Outcome(source=public(source), out=out, status=SKIPPED)
        return Task(source, out, mark, index.out_dir, may_replace=force or other is not None)
    except ExporterError as error:
        return refused(source, out, error)


def _run(tasks: Sequence[Task], options: ReadOptions, write_options: WriteOptions,
         executor: concurrent.futures.Executor | None) -> Iterator[tuple[str, Outcome]]:
    """(source, outcome) as they come."""
    if executor is None:
        yield from zip((task.source for task in tasks), export_each(tasks, options, write_options))
        return
    import concurrent.futures

    from exporter.pipeline import pieces

    waiting = {executor.submit(pieces.export_piece, pieces.text_of(piece, options, write_options)): piece
               for piece in pieces.cut(tasks)}
    try:
        while waiting:
            done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            while done:
                future = done.pop()
                piece = waiting.pop(future)
                outcomes = _outcomes(future, piece)
                del future  # before anybody is told: a cluster would compute its result again if the worker that has it dies
                yield from zip((task.source for task in piece), outcomes)
    finally:
        for future in waiting:
            future.cancel()


def _outcomes(future: concurrent.futures.Future[str], tasks: Sequence[Task]) -> list[Outcome]:
    from exporter.pipeline import pieces

    try:
        return pieces.outcomes_in(future.result())
    except Exception as error:  # of the executor: a worker process was killed, a result could not be sent
        what = f"the worker that exported it failed ({type(error).__name__}: {printable(str(error), 150)})"
        return [refused(task.source, task.out, OutputError(what, hint="run the command again to export the rest"))
                for task in tasks]

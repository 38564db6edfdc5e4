"""Exports the models of a piece of a batch, one after the other, in whatever process an executor runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from exporter.errors import ExporterError, OutputError, unexpected
from exporter.files.address import is_url
from exporter.files.place import MAX_HEAD
from exporter.files.remote import place_for
from exporter.pipeline.naming import public, refuse_links
from exporter.pipeline.outcome import EXPORTED, REFUSED, Outcome
from exporter.pipeline.readers import READERS

if TYPE_CHECKING:
    from exporter.pipeline.readers import Asked
    from exporter.sources.shared.options import ReadOptions
    from exporter.targets.shared.options import WriteOptions


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One export to be done; `mark` identifies the model's current state, `out` is below `out_dir`. may_replace: whether a file named `out`
    may be replaced whatever it contains."""

    source: str
    out: str
    mark: str
    out_dir: str
    may_replace: bool = False


def export_each(tasks: Sequence[Task], options: ReadOptions, write_options: WriteOptions) -> Iterator[Outcome]:
    """Exports models. While one is written, the next is being read."""
    asked: Asked | None = None
    if tasks:
        READERS.begin(place_for(tasks[0].source))
    try:
        for task, following in itertools.zip_longest(tasks, tasks[1:]):
            ahead = _Ahead(following, options)
            outcome = _export_one(task, options, write_options, asked, ahead)
            if asked is not None:
                asked.close()
            asked = ahead.asked
            yield outcome
    finally:
        if asked is not None:
            asked.close()


class _Ahead:
    """The reading of the next model, which begins when this one was read."""

    def __init__(self, task: Task | None, options: ReadOptions) -> None:
        self._task, self._options = task, options
        self.asked: Asked | None = None

    def begin(self) -> None:
        """Asks for it. What goes wrong here goes wrong again, and is reported, when it is read."""
        if self._task is not None:
            with contextlib.suppress(ExporterError, OSError):
                self.asked = READERS.ask(place_for(self._task.source), self._options)


def _export_one(task: Task, options: ReadOptions, write_options: WriteOptions, asked: Asked | None, ahead: _Ahead) -> Outcome:
    """Exports one model. asked: the process that was asked for it. ahead: begins once it is read."""
    from exporter.pipeline import resume
    from exporter.pipeline.read import read_in_batch
    from exporter.pipeline.write import Output

    try:
        place = place_for(task.source)
        refuse_links(task.out, task.out_dir)
        if not is_url(task.out):
            folder = os.path.dirname(task.out)
            if not os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
        output = Output(task.out, write_options, options.inputs(place), sync=False)
        if not task.may_replace:
            _keep_foreign(task.out)
        bundle = read_in_batch(place, options, output, asked)
        ahead.begin()
        output.end(bundle)
        return Outcome(source=public(task.source), out=task.out, status=EXPORTED, layers=len(bundle), mark=task.mark,
                       channels=sum(layer.channels for layer in bundle), warnings=tuple(bundle.remarks()),
                       written=resume.written(task.out))
    except ExporterError as error:
        return refused(task.source, task.out, error)
    except OSError as error:
        return refused(task.source, task.out, OutputError(f"cannot be written: {error.strerror or error}", where=task.out))
    except Exception as error:  # a defect here must not cost the other exports
        return refused(task.source, task.out, unexpected(error))


def _keep_foreign(out: str) -> None:
    """Refuses to replace a file that is no export: nobody gave its name, and what it contains may exist nowhere else."""
    from exporter import targets

    place = place_for(out)
    if place.is_file() and not targets.is_export(out, place.head(MAX_HEAD)):
        raise OutputError("a file of this name exists that is no export", where=out,
                          hint="choose another --out-dir, or replace it with --force")


def refused(source: str, out: str, error: ExporterError) -> Outcome:
    """The outcome for a model that was not exported."""
    name = place_for(source).name
    if error.where == name or error.where.startswith(f"{name}: "):  # the source is printed beside the reason
        error = error.replace(where=error.where[len(name) + 2:])
    return Outcome(source=public(source), out=out, status=REFUSED, reason=str(error), hint=error.hint)

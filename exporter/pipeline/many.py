"""Many models at once: what a list of paths and patterns names, where each export goes, and who does the work.

A name in the output folder is the model's own name and place below the folder that all the arguments have in common, with the output's
suffix behind it: "a/model.h5" becomes "a/model.h5.json". So two models never get one name, and a name does not depend on which others
there are. An index file in the output folder tells the next run what is there and unchanged.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import glob
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from exporter.errors import ExporterError, FormatError, OutputError, UsageError, printable, unexpected
from exporter.files.remote import is_url, place_for, store_for

if TYPE_CHECKING:
    from exporter.files.place import Place
    from exporter.pipeline.resume import Index
    from exporter.sources.shared.options import ReadOptions
    from exporter.targets.shared.options import WriteOptions

EXPORTED, SKIPPED, REFUSED = "exported", "skipped", "refused"
MAGIC = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one model.

    source, out: path or URL of the model and of its export. status: "exported", "skipped" (there and unchanged) or "refused".
    layers, channels: how many batch norms were exported, and the sum of their channels.
    reason, hint:     of a refusal, as the command prints them.
    warnings:         what should be known about an export that is fine.
    mark, written:    what tells this state of the model and of the export from another (exporter/pipeline/resume.py).
    """

    source: str
    out: str
    status: str
    layers: int = 0
    channels: int = 0
    reason: str = ""
    hint: str = ""
    warnings: tuple[str, ...] = ()
    mark: str = ""
    written: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """The outcomes, in the order of the sources."""

    outcomes: tuple[Outcome, ...]

    def of(self, status: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def is_complete(self) -> bool:
        """Whether nothing was refused."""
        return not self.of(REFUSED)

    def __str__(self) -> str:
        return ", ".join(f"{status} {len(self.of(status))}" for status in (EXPORTED, SKIPPED, REFUSED))


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One export that is to be done; `mark` is that of the model as it is now."""

    source: str
    out: str
    mark: str


def export_many(sources: Iterable[str | os.PathLike[str]], out_dir: str | os.PathLike[str], *, suffix: str = ".json",
                options: ReadOptions | None = None, write_options: WriteOptions | None = None,
                executor: concurrent.futures.Executor | None = None, force: bool = False,
                progress: Callable[[Outcome, int, int], object] = lambda outcome, done, count: None) -> Summary:
    """Exports many models. One that cannot be exported does not stop the others.

    sources:  paths, URLs and patterns with * ? [] and ** (over folders) of models.
    out_dir:  folder or URL; folders below it are made as the sources' names ask for.
    suffix:   of the outputs; it chooses the kind that is written.
    options, write_options: exporter.ReadOptions and exporter.WriteOptions, for all of them.
    executor: any concurrent.futures.Executor; its workers need this package, the sources and out_dir. None: this thread does the work.
    force:    export also what is there and unchanged.
    progress: called in this thread with each outcome, how many are done, and how many there are.

    Every model is read in a child process with limits on time and memory. Calling it again goes on where a call was interrupted.
    Raises: UsageError (no sources, unknown suffix), OutputError (no such folder can be made or written).
    """
    from exporter import targets
    from exporter.pipeline import resume
    from exporter.sources.shared.options import ReadOptions
    from exporter.targets.shared.options import WriteOptions

    options, write_options = options or ReadOptions(), write_options or WriteOptions()
    targets.target_for(f"name{suffix}")
    named = named_sources(sources, os.fspath(out_dir), suffix)
    if not named:
        raise UsageError("no models are given")
    index = resume.Index.of(os.fspath(out_dir), options, write_options)
    outcomes: dict[str, Outcome] = {}

    def settle(source: str, outcome: Outcome) -> None:
        outcomes[source] = outcome
        index.note(outcome)
        progress(outcome, len(outcomes), len(named))

    try:
        tasks = []
        for source, out in named.items():
            found = _before(source, out, index, force)
            if isinstance(found, Task):
                tasks.append(found)
            else:
                settle(source, found)
        for source, outcome in _run(tasks, options, write_options, executor):
            settle(source, outcome)
    finally:
        index.save()
    return Summary(tuple(outcomes[source] for source in named))


def export_one(task: Task, options: ReadOptions, write_options: WriteOptions) -> Outcome:
    """Exports one model, in whatever process an executor runs it."""
    from exporter.files import output
    from exporter.pipeline import resume
    from exporter.pipeline.read import read_place

    try:
        place = place_for(task.source)
        if not is_url(task.out):
            os.makedirs(os.path.dirname(task.out), exist_ok=True)
        inputs = [place] if options.architecture is None else [place, options.architecture]
        output.check_output(task.out, inputs)
        bundle = read_place(place, options, isolated=True, fork=threading.active_count() == 1)
        output.write(bundle, task.out, write_options, inputs=inputs)
        return Outcome(source=public(task.source), out=task.out, status=EXPORTED, layers=len(bundle), mark=task.mark,
                       channels=sum(layer.moving_mean.size for layer in bundle), warnings=tuple(bundle.remarks()),
                       written=resume.written(task.out))
    except ExporterError as error:
        return _refused(task.source, task.out, error)
    except OSError as error:
        return _refused(task.source, task.out, OutputError(f"cannot be written: {error.strerror or error}", where=task.out))
    except Exception as error:  # a defect here must not cost the other exports
        return _refused(task.source, task.out, unexpected(error))


def _refused(source: str, out: str, error: ExporterError) -> Outcome:
    name = place_for(source).name
    if error.where == name or error.where.startswith(f"{name}: "):  # the source is told beside the reason
        error.where = error.where[len(name) + 2:]
    return Outcome(source=public(source), out=out, status=REFUSED, reason=str(error), hint=error.hint)


def _before(source: str, out: str, index: Index, force: bool) -> Task | Outcome:
    """What is known without reading the model: that its pattern names nothing, that its export is there, or that it is to be done."""
    from exporter.pipeline import resume

    try:
        place = place_for(source)
        if not out:
            return _refused(source, out, FormatError("no file or folder matches this pattern"))
        other = index.owner(out)
        if not force and other not in (None, _place_of(public(source))) and place_for(other).exists():
            raise OutputError(f"this holds the export of another model, {printable(other)}", where=out,
                              hint="choose another --out-dir, or replace it with --force")
        mark = resume.mark_of(place)
        if not force and mark and index.has(out, mark):
            return Outcome(source=public(source), out=out, status=SKIPPED)
        return Task(source, out, mark)
    except ExporterError as error:
        return _refused(source, out, error)


def _run(tasks: Sequence[Task], options: ReadOptions, write_options: WriteOptions,
         executor: concurrent.futures.Executor | None) -> Iterator[tuple[str, Outcome]]:
    """(source, outcome) as they come."""
    if executor is None:
        for task in tasks:
            yield task.source, export_one(task, options, write_options)
        return
    waiting = {executor.submit(export_one, task, options, write_options): task for task in tasks}
    try:
        while waiting:
            done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                # the future is dropped at once: a cluster would compute its result again if the worker that has it dies
                task = waiting.pop(future)
                yield task.source, _outcome(future, task)
            del done, future
    finally:
        for future in waiting:
            future.cancel()


def _outcome(future: concurrent.futures.Future[Outcome], task: Task) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # of the executor: a worker process was killed, a result could not be sent
        what = f"the worker that exported it failed ({type(error).__name__}: {printable(str(error), 150)})"
        return _refused(task.source, task.out, OutputError(what, hint="run the command again: it goes on with the rest"))


# --- which models, and under which names ------------------------------------------------------------------------------------------------

def named_sources(sources: Iterable[str | os.PathLike[str]], out_dir: str, suffix: str) -> dict[str, str]:
    """Output by source, in the order given; "" for a pattern that names nothing."""
    words = [os.fspath(word) for word in sources]
    common = _common([_parts(_fixed(word)) for word in words])
    named: dict[str, str] = {}
    sources_of: dict[str, str] = {}
    for word in words:
        paths = list(expand(word, out_dir))
        if not paths:
            named.setdefault(word, "")
        for path in paths:
            *folders, name = _parts(path)[len(common):]
            out, number = _join(out_dir, [*folders, name + suffix]), 2
            while sources_of.get(out, _place_of(path)) != _place_of(path):  # two URLs of which one has characters that no file name has
                out, number = _join(out_dir, [*folders, f"{name}~{number}{suffix}"]), number + 1
            if out not in sources_of:
                named[path], sources_of[out] = out, _place_of(path)
    return named


def public(source: str) -> str:
    """A source as it may be shown and recorded: without a URL's user and query, which may be secrets."""
    if not source.lower().startswith(("http:", "https:")):
        return source
    split = urllib.parse.urlsplit(source)
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}" + (f"?{_short_hash(split.query)}" if split.query else "")


def _short_hash(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _place_of(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)


def expand(word: str, out_dir: str) -> Iterator[str]:
    """The models that a path or pattern names. A path without wildcards, or that exists as it stands, names itself.

    A pattern leaves out what lies in `out_dir` or in a folder that is a model itself, folders that are none, and the data and graph
    files beside a checkpoint's index.
    """
    if not _is_pattern(word):
        yield os.path.normpath(word) if not is_url(word) else word
        return
    found = _matches(word)
    folders: list[str] = []
    for path in found:
        place = place_for(path)
        if _is_inside(path, [out_dir, *folders]):
            continue
        if place.is_folder():
            kind = _kind(place)
            # beside a checkpoint there may be other models; the index that the pattern names, too, is the checkpoint
            if kind and not (kind == "tf-checkpoint" and any(_is_inside(other, [path]) for other in found if other != path)):
                folders.append(path)
                yield path
        elif not _is_beside_an_index(path, found):
            yield path


def _matches(word: str) -> list[str]:
    if not is_url(word):
        return sorted({os.path.normpath(path) for path in glob.glob(word, recursive=True)})
    store, path = store_for(word)
    return sorted(store.unstrip_protocol(name) for name in store.glob(path))


def _is_pattern(word: str) -> bool:
    return MAGIC.search(word if not word.lower().startswith("http") else word.partition("?")[0]) is not None \
        and (is_url(word) or not os.path.lexists(word))


def _is_inside(path: str, folders: Sequence[str]) -> bool:
    parts = _parts(path)
    return any(parts[: len(_parts(folder))] == _parts(folder) for folder in folders)


def _kind(place: Place) -> str:
    """NAME of the source that claims `place`, "" where none does."""
    from exporter.sources import source_for

    try:
        source = source_for(place)
        return source.NAME if source else ""
    except ExporterError:
        return "damaged"  # reading it says what is wrong


def _is_beside_an_index(path: str, found: Sequence[str]) -> bool:
    prefix = re.sub(r"(\.data-\d{5}-of-\d{5}|\.meta)$", "", path)
    return os.path.basename(path) == "checkpoint" or (prefix != path and f"{prefix}.index" in found)


def _fixed(word: str) -> str:
    """The folder that a path lies in, or a pattern's matches below."""
    if _is_pattern(word):
        word = word[: MAGIC.search(word).start()] + "x"  # type: ignore[union-attr]  # _is_pattern has found it
    return word.rpartition("/")[0] if is_url(word) else os.path.dirname(os.path.abspath(word))


def _parts(path: str) -> list[str]:
    """A path or URL as names, the first of which tells where it is."""
    if not is_url(path):
        drive, tail = os.path.splitdrive(os.path.abspath(path))
        return ["file" + drive.replace(":", ""), *(part for part in tail.split(os.sep) if part)]
    scheme, _, rest = path.partition("://")
    if scheme.lower() in ("http", "https"):
        split = urllib.parse.urlsplit(path)
        rest = split.netloc.rpartition("@")[2] + split.path + (f"-{_short_hash(split.query)}" if split.query else "")
    safe = (re.sub(r"[\\:*?\"<>|\0]", "_", part) for part in rest.split("/"))
    return [scheme.lower(), *(part for part in safe if part not in ("", ".", ".."))]


def _common(folders: Sequence[list[str]]) -> list[str]:
    shortest = min(folders, key=len, default=[])
    count = next((i for i, part in enumerate(shortest) if any(folder[i] != part for folder in folders)), len(shortest))
    return shortest[:count]


def _join(out_dir: str, names: Sequence[str]) -> str:
    return f"{out_dir.rstrip('/')}/{'/'.join(names)}" if is_url(out_dir) else os.path.join(out_dir, *names)

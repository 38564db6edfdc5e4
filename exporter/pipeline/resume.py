"""What the next run may skip: an index in the output folder that lists the model, and its state, from which every export was made.

A model's state is identified by size, times and inode of its files, similarly to `make`; its contents are not read. An export
counts as present if its contents are those that were written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from exporter.__about__ import __version__
from exporter.errors import ExporterError
from exporter.files import output
from exporter.files.remote import MARKS, RemotePlace, is_url, place_for
from exporter.pipeline.naming import join, place_of, refuse_links

if TYPE_CHECKING:
    from exporter.files.place import Place
    from exporter.pipeline.outcome import Outcome
    from exporter.sources.shared.options import ReadOptions
    from exporter.targets.shared.options import WriteOptions

NAME = ".bn-export-index.json"
SAVE_EVERY = 2.0  # seconds: a killed run's exports since the last save are exported again
SINGLE_FILE_MAGICS = (b"\x89HDF", b"PK\3\4")  # a file that begins like this is a complete model; any other may include files beside it


class Index:
    """The index of one output folder, and what this run adds to it."""

    def __init__(self, out_dir: str, options: ReadOptions, write_options: WriteOptions) -> None:
        """The index in `out_dir`, empty if it is missing or damaged."""
        self.out_dir, self._how, self._entries = out_dir, _how(options, write_options), _entries_in(out_dir)
        self._saved, self._new = time.monotonic(), set[str]()  # keys of the entries that are not yet in the file
        self.warnings: list[str] = []

    def wrote(self, path: str) -> bool:
        """Whether `path`, below the output folder, is an export of an earlier run, or the index itself."""
        key = self._key(path)
        return key == NAME or key in self._entries

    def owner(self, out: str) -> str | None:
        """The model that `out` was exported from, if that is known and `out` exists."""
        found = self._entries.get(self._key(out), {}).get("source") if self._entries else None
        return found if isinstance(found, str) and place_for(out).exists() else None

    def has(self, out: str, mark: str) -> bool:
        """Whether `out` exists unchanged, exported from a model in this state with the same options."""
        entry = self._entries.get(self._key(out), {}) if self._entries else {}
        return (entry.get("mark"), entry.get("how")) == (mark, self._how) and entry.get("written") == written(out)

    def note(self, outcome: Outcome) -> None:
        """Records an export; the file is written every few seconds."""
        if outcome.status != "exported":
            return
        key = self._key(outcome.out)
        self._entries[key] = {"source": place_of(outcome.source), "mark": outcome.mark, "how": self._how, "written": outcome.written}
        self._new.add(key)
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Writes the index, if it has new entries, merged with what another run has added meanwhile, after the names of the exports are on
        disk. It is a cache: if it cannot be written, the next run takes longer, and a warning is printed."""
        if not self._new:
            return
        if not is_url(self.out_dir):
            for folder in {os.path.dirname(os.path.join(self.out_dir, key)) for key in self._new}:
                output.sync_folder(folder)
        self._entries = {**_entries_in(self.out_dir), **{key: self._entries[key] for key in self._new}}
        data = json.dumps({"version": 1, "exports": dict(sorted(self._entries.items()))}).encode()
        path = join(self.out_dir, [NAME])
        try:
            refuse_links(path, self.out_dir)
            output.write(path, data)
        except ExporterError as error:
            self.warnings = [f"the index of the exports could not be written, so the next run will export all of them again: {error}"]
        self._saved = time.monotonic()
        self._new.clear()

    def _key(self, path: str) -> str:
        """`path` relative to the output folder."""
        if is_url(path):
            return path[len(self.out_dir):].lstrip("/")
        return os.path.relpath(path, self.out_dir).replace(os.sep, "/")


def _entries_in(out_dir: str) -> dict[str, dict[str, str]]:
    place = place_for(join(out_dir, [NAME]))
    try:
        content = json.loads(place.read()) if place.is_file() else {}
        entries = content.get("exports", {})
    except (ExporterError, ValueError, AttributeError):
        return {}
    return entries if isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values()) else {}


def _how(options: ReadOptions, write_options: WriteOptions) -> str:
    """Everything besides the models that affects the exports."""
    fields = options.said()
    if options.architecture is not None:
        fields["architecture"] = [options.architecture.name, mark_of(options.architecture) or time.time_ns()]
    return _hash(json.dumps([__version__, fields, dataclasses.asdict(write_options)], sort_keys=True))


def mark_of(place: Place, is_export: Callable[[str], bool] = lambda path: False) -> str:
    """An identifier of the model's state; "" if that is unknown, so that it is exported again. is_export: whether a file beside the model
    is an export and not part of it."""
    if isinstance(place, RemotePlace):
        info = place.info() if place.suffix in (".h5", ".keras", ".hdf5") else None
        known = [str(info[mark]) for mark in MARKS if info and info.get(mark) is not None]
        return _hash("\n".join(known)) if len(known) > 1 else ""
    lines = []
    for path in sorted(path for path in _files_of(place) if not is_export(path)):
        found = os.stat(path)
        lines.append(f"{os.fspath(path)!r} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}")
    return _hash("\n".join(lines)) if lines else ""


def _files_of(place: Place) -> Iterator[str]:
    if place.is_folder():
        for folder, _, names in os.walk(place.local):
            yield from (path for name in names if os.path.isfile(path := os.path.join(folder, name)))
    elif place.head(4).startswith(SINGLE_FILE_MAGICS):
        yield os.fspath(place.local)
    elif place.parent().is_folder():
        stem = place.name.partition(".")[0]
        yield from (os.fspath(other.local) for other in place.parent().children()
                    if other.name.startswith(stem) and os.path.isfile(other.local))


def written(out: str) -> str:
    """An identifier of an export's contents; "" if there is none."""
    place = place_for(out)
    if isinstance(place, RemotePlace):
        try:
            place.refresh()
            return " ".join(f"{mark}={found[mark]}" for mark in MARKS if (found := place.info() or {}).get(mark) is not None)
        except ExporterError:
            return ""
    try:
        with open(out, "rb") as file:
            return _hash(file.read())
    except OSError:
        return ""


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content).hexdigest()

"""Which models a path, a pattern or a folder names."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence

from exporter.errors import ExporterError, FormatError
from exporter.files import address
from exporter.files.address import is_url
from exporter.files.place import Place
from exporter.files.remote import place_for
from exporter.files.stores import listed

WILDCARD = re.compile(r"[*?\[]")
EVERYTHING_BELOW = "**"


def is_pattern(word: str) -> bool:
    """Whether `word` has wildcards; a path that exists as it stands is no pattern, nor is what stands in the query of a URL."""
    return WILDCARD.search(address.split(word)[0] if is_url(word) else word) is not None and (is_url(word) or not os.path.lexists(word))


def is_folder_of_models(word: str) -> bool:
    """Whether `word` is a folder of this machine that is no model itself: the models below it are meant."""
    return not is_url(word) and os.path.isdir(word) and not _kind(place_for(word))


def fixed_folder(word: str, is_folder: bool) -> str:
    """The folder that a path lies in, or in which the matches of a pattern and the models of a folder lie. is_folder: what
    `is_folder_of_models` says of it."""
    if is_folder:
        return os.path.abspath(word)
    path, rest = address.split(word) if is_url(word) else (word, "")
    found = WILDCARD.search(path) if is_pattern(word) else None
    if found is not None:
        path = path[: found.start()] + "x"
    rest = rest[rest.index(address.LINK):] if address.LINK in rest else ""  # without the query of the path itself
    return address.parent_of(path + rest) if is_url(word) else os.path.dirname(os.path.abspath(path))


def expand(word: str, is_left_out: Callable[[str], bool], unreadable: dict[str, ExporterError], is_folder: bool) -> Iterator[str]:
    """The models that `word` names. A path without wildcards, or that exists as it stands, names itself; a folder that is no model
    names the models below it.

    A pattern leaves out what `is_left_out` says (the exports themselves), folders that are no model, what lies in a folder that is one,
    and the data and graph files beside a checkpoint's index. A link to a folder is not followed by ** (nor is it by find or git).
    unreadable: gets the folders that could not be listed. is_folder: as in `fixed_folder`.
    """
    if is_folder:
        here = os.path.normpath(word)
        found = [path for path in _matches(os.path.join(word, EVERYTHING_BELOW), unreadable) if path != here]
        yield from (path for path in _models(found, is_left_out) if _kind(place_for(path)))
    elif is_pattern(word):
        yield from _models(_matches(word, unreadable), is_left_out)
    else:
        yield os.path.normpath(word) if not is_url(word) else word


def _models(found: Sequence[str], is_left_out: Callable[[str], bool]) -> Iterator[str]:
    there, parents = set(found), {parent for path in found for parent in _parents(path)}
    models: set[str] = set()
    for path in found:
        if is_left_out(path) or any(parent in models for parent in _parents(path)):
            continue
        place = place_for(path)
        if _is_folder(place):
            kind = _kind(place)
            # beside a checkpoint there may be other models; the index that the pattern names, too, is the checkpoint
            if kind and not (kind == "tf-checkpoint" and path in parents):
                models.add(path)
                yield path
        elif not _is_beside_an_index(path, there):
            yield path


def _parents(path: str) -> Iterator[str]:
    while (parent := address.parent_of(path) if is_url(path) else os.path.dirname(path)) not in ("", path):
        yield parent
        path = parent


def _matches(word: str, unreadable: dict[str, ExporterError]) -> list[str]:
    """What a pattern matches, sorted."""
    if not is_url(word):
        drive, tail = os.path.splitdrive(word)
        steps = re.split(r"[\\/]+" if os.sep == "\\" else "/+", tail)
        start = drive + os.sep if tail[:1] in ("/", os.sep) else drive
        return sorted({os.path.normpath(path) for path in _walk(start, [step for step in steps if step], unreadable)})
    try:
        return listed(word)
    except ExporterError as error:
        unreadable[word] = error
    return []


def _walk(folder: str, steps: Sequence[str], unreadable: dict[str, ExporterError]) -> Iterator[str]:
    """Paths below `folder` that the steps of a pattern match. As in a shell, a wildcard does not match a leading dot."""
    if not steps:
        yield folder
        return
    step, rest = steps[0], steps[1:]
    if step == EVERYTHING_BELOW:
        yield from _walk(folder, rest, unreadable)
        for entry in _entries(folder, unreadable):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, steps, unreadable)
            elif not rest:
                yield entry.path
    elif WILDCARD.search(step):
        for entry in _entries(folder, unreadable):
            hidden = entry.name.startswith(".") and not step.startswith(".")
            if not hidden and fnmatch.fnmatch(entry.name, step) and (not rest or os.path.isdir(entry.path)):
                yield from _walk(entry.path, rest, unreadable)
    else:
        path = os.path.join(folder, step)
        if os.path.lexists(path):
            yield from _walk(path, rest, unreadable)


def _entries(folder: str, unreadable: dict[str, ExporterError]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder or os.curdir) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except NotADirectoryError:
        return []
    except OSError as error:
        unreadable[folder] = FormatError(f"this folder cannot be listed: {error.strerror}", hint="check its permissions")
        return []


def _is_folder(place: Place) -> bool:
    try:
        return place.is_folder()
    except ExporterError:
        return False  # reading it says what it is


def _kind(place: Place) -> str:
    """NAME of the source that claims `place`, "" if none does. An HDF5 file, which some source claims whatever is in it, is not opened:
    that is for a process with limits."""
    from exporter.formats.hdf5 import is_hdf5
    from exporter.sources import source_for

    try:
        if is_hdf5(place):
            return "hdf5"
        source = source_for(place)
        return source.NAME if source else ""
    except ExporterError:
        return "damaged"  # reading it says what is wrong


def _is_beside_an_index(path: str, there: set[str]) -> bool:
    prefix = re.sub(r"(\.data-\d{5}-of-\d{5}|\.meta)$", "", path)
    return os.path.basename(path) == "checkpoint" or (prefix != path and f"{prefix}.index" in there)

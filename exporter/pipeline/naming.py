"""Which models a list of paths and patterns names, and where each export goes.

A name in the output folder is the model's own name and place below the folder that all the arguments have in common, with the output's
suffix behind it: "a/model.h5" becomes "a/model.h5.json". So two models never get one name, and a name does not depend on which others
there are.
"""

from __future__ import annotations

import glob
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from exporter.errors import ExporterError
from exporter.files.remote import is_url, place_for, store_for

if TYPE_CHECKING:
    from exporter.files.place import Place

MAGIC = re.compile(r"[*?\[]")


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
            while sources_of.get(out, place_of(path)) != place_of(path):  # two URLs of which one has characters that no file name has
                out, number = _join(out_dir, [*folders, f"{name}~{number}{suffix}"]), number + 1
            if out not in sources_of:
                named[path], sources_of[out] = out, place_of(path)
    return named


def place_of(path: str) -> str:
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


def public(source: str) -> str:
    """A source as it may be shown and recorded: without a URL's user and query, which may be secrets."""
    if not source.lower().startswith(("http:", "https:")):
        return source
    split = urllib.parse.urlsplit(source)
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}" + (f"?{_short_hash(split.query)}" if split.query else "")


def _short_hash(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:8]

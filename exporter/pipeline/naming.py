"""Which models are exported, and where each export goes.

A name in the output folder is the model's own name and place below the folder that all the arguments have in common, with the output's
suffix behind it: "a/model.h5" becomes "a/model.h5.json". So two models never get one name, and a name does not depend on which others
there are.
"""

from __future__ import annotations

import dataclasses
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Sequence

from exporter.errors import ExporterError, FormatError, OutputError
from exporter.files import address
from exporter.files.remote import is_url, place_for
from exporter.pipeline.matches import expand, fixed_folder, is_folder_of_models
from exporter.sources import source_for

EXPORTS = ("bundle", "bundle-arrays")  # the sources that read what was exported


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """outputs: the name of the export by source, in the order given. problems: what is wrong with a word that names no model."""

    outputs: dict[str, str]
    problems: dict[str, ExporterError]


def named_sources(sources: Iterable[str | os.PathLike[str]], out_dir: str, suffix: str,
                  is_export: Callable[[str], bool] = lambda path: False) -> Plan:
    """The models that paths, patterns and folders name. is_export: whether a path in `out_dir` is known to be an earlier run's export."""
    words = [address.without_file_scheme(word) for word in sources]
    of_models = {word: is_folder_of_models(word) for word in words}  # each source is asked, and may list the folder
    folders = {word: fixed_folder(word, of_models[word]) for word in words}
    common = _common([_parts(folder) for folder in folders.values()])
    plan = Plan({}, {})
    sources_of: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for word in words:
        problems: dict[str, ExporterError] = {}
        paths = list(expand(word, _left_out(folders[word], out_dir, suffix, is_export), problems, of_models[word]))
        if not paths and not problems:
            problems[word] = FormatError("no file or folder matches this pattern")
        plan.problems.update(problems)
        found[word] = paths
    models = {place_of(path) for paths in found.values() for path in paths}
    for paths in found.values():
        for path in paths:
            *below, name = _parts(path)[len(common):]
            out, number = join(out_dir, [*below, name + suffix]), 2
            while sources_of.get(out, place_of(path)) != place_of(path):  # two URLs of which one has characters that no file name has
                out, number = join(out_dir, [*below, f"{name}~{number}{suffix}"]), number + 1
            if place_of(out) in models:
                plan.problems[path] = OutputError("its export would replace this model", where=out, hint="choose another --out-dir")
            elif out not in sources_of:
                plan.outputs[path], sources_of[out] = out, place_of(path)
    return plan


def _left_out(folder: str, out_dir: str, suffix: str, is_export: Callable[[str], bool]) -> Callable[[str], bool]:
    """What of a pattern's matches is no model: all that lies in the output folder, or, where the models lie there, too, the exports."""
    there = _parts(out_dir)
    models_lie_there = _is_inside(folder, there)

    def test(path: str) -> bool:
        if not _is_inside(path, there):
            return False
        if not models_lie_there:
            return True
        if is_export(path):
            return True
        return path.endswith(suffix) and not is_url(path) and os.path.lexists(path[: -len(suffix)]) and not _is_model(path)

    return test


def _is_model(path: str) -> bool:
    """Whether a file that has the name of an export is a model: "model.json" of TensorFlow.js beside a SavedModel "model"."""
    try:
        source = source_for(place_for(path))
    except ExporterError:
        return False
    return source is not None and source.NAME not in EXPORTS


def _is_inside(path: str, there: list[str]) -> bool:
    """Whether `path` is the folder with these `_parts`, or below it."""
    return _parts(path)[: len(there)] == there


def refuse_links(out: str, out_dir: str) -> None:
    """Refuses an export below `out_dir` that would go through a link: the names there come from the models, and their authors may
    have put a link in their way. The output folder itself may be a link of the user's."""
    if is_url(out):
        return
    path = os.path.abspath(out_dir)
    for part in os.path.relpath(os.path.abspath(out), path).split(os.sep):
        path = os.path.join(path, part)
        if os.path.islink(path):
            raise OutputError("this is a symbolic link; links below the output folder are not followed", where=path,
                              hint="remove the link, or choose another --out-dir")


def place_of(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)


def _parts(path: str) -> list[str]:
    """A path or URL as names, the first of which tells where it is."""
    if not is_url(path):
        drive, tail = os.path.splitdrive(os.path.abspath(path))
        return ["file" + drive.replace(":", ""), *(part for part in tail.split(os.sep) if part)]
    found: list[str] = []
    for link in reversed(path.split(address.LINK)):  # what lies in an archive stands below its name
        if re.fullmatch("[a-z]+", link):  # a cache, which has no path
            continue
        shown, query = address.public(link), urllib.parse.urlsplit(link).query if address.is_web(link) else ""
        scheme, mark, rest = (shown + (f"-{_short_hash(query)}" if query else "")).partition("://")
        safe = (re.sub(r"[\\:*?\"<>|\0]", "_", part) for part in (rest if mark else os.path.abspath(link)).split("/"))
        found += [scheme.lower() if mark else "file", *(part for part in safe if part not in ("", ".", ".."))]
    return found


def _common(folders: Sequence[list[str]]) -> list[str]:
    shortest = min(folders, key=len, default=[])
    count = next((i for i, part in enumerate(shortest) if any(folder[i] != part for folder in folders)), len(shortest))
    return shortest[:count]


def join(out_dir: str, names: Sequence[str]) -> str:
    return f"{out_dir.rstrip('/')}/{'/'.join(names)}" if is_url(out_dir) else os.path.join(out_dir, *names)


def public(source: str) -> str:
    """A source as it may be shown and recorded: without a URL's user and query, which may be secrets."""
    if not (is_url(source) or address.is_mistyped(source)):
        return source
    query = "&".join(filter(None, (urllib.parse.urlsplit(link).query for link in source.split(address.LINK) if address.is_web(link))))
    return address.public(source) + (f"?{_short_hash(query)}" if query else "")


def _short_hash(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:8]

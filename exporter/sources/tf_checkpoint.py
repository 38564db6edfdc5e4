"""TensorFlow checkpoints: save_weights(), tf.train.Checkpoint, tf.train.Saver; as prefix, .index file, V1 file or folder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from exporter.batchnorm.bundle import Origin
from exporter.errors import FormatError, MissingFileError, names
from exporter.files.place import MiB, Place
from exporter.formats.sstable import is_table
from exporter.sources.shared.found import Found

if TYPE_CHECKING:
    from exporter.sources.shared.options import ReadOptions

NAME = "tf-checkpoint"
OPTIONS = ("architecture", "ema")
STATE = "checkpoint"  # the file that names the latest checkpoint of a folder (checkpoint_state.proto, as text)

_DATA = re.compile(r"(.*)\.data-\d{5}-of-\d{5}", re.DOTALL)
_LATEST = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)


def claims(place: Place) -> bool:
    """An index, its prefix, one of its .data or .meta files, or a folder or state file that names one."""
    if place.is_folder():
        if place.child("saved_model.pb").exists():
            return False
        return place.child(STATE).is_file() or bool(_indexes(place))
    if place.is_file():
        if is_table(place) or _LATEST.search(place.head()):
            return True
        beside = [f"{prefix}.index" for prefix in _prefixes(place.name)]
        return bool(_DATA.fullmatch(place.name)) or any(place.sibling(name).is_file() for name in beside) or _is_damaged_index(place)
    return bool(place.name) and place.sibling(f"{place.name}.index").is_file()


def read(place: Place, options: ReadOptions) -> Found:
    """The batch norms of a checkpoint; epsilon and axis are None if neither a graph beside it nor an architecture says them."""
    from exporter.formats.object_graph import OBJECT_GRAPH  # this source is asked about many files that are none of its own
    from exporter.formats.tensor_bundle import TensorBundle, open_checkpoint

    found = Found(Origin(file=place.name, kind=NAME), options)
    table = _table(place, found)
    with open_checkpoint(table) as checkpoint:
        meta, given = _meta(table), options.architecture
        is_meta = meta is not None if given is None else given.suffix == ".meta"  # Keras's estimators of TensorFlow 2 write one, too
        if isinstance(checkpoint, TensorBundle) and OBJECT_GRAPH in checkpoint and not is_meta:
            from exporter.sources.tf_objects.read import read_objects

            read_objects(checkpoint, given, found, kernels=options.wants if options.kernels else None)
        else:
            from exporter.sources.tf_graph.tf1 import read_tf1

            read_tf1(checkpoint, meta, _other_metas(table), found, options)
    return found


def _table(place: Place, found: Found) -> Place:
    """The index of the checkpoint that `place` refers to."""
    if place.is_folder():
        if place.child(STATE).is_file():
            return _latest(place, found)
        indexes = _indexes(place)
        if len(indexes) != 1:
            raise FormatError(f"the folder contains {len(indexes)} checkpoints ({names(index.name for index in indexes)}) and no file "
                              f"'{STATE}' that names the latest", hint="give one of them")
        return indexes[0]
    if not place.is_file():
        return place.sibling(f"{place.name}.index")
    if is_table(place) or _is_damaged_index(place):
        return place
    for prefix in _prefixes(place.name):
        for name in (f"{prefix}.index", prefix):
            if place.sibling(name).is_file():
                return place.sibling(name)
        raise FormatError(f"the index file {prefix}.index is missing",
                          hint="a checkpoint consists of its .index file and all of its .data files")
    return _latest(place.parent(), found)


def _latest(folder: Place, found: Found) -> Place:
    """The checkpoint that the folder's state file names. Nothing outside the folder is opened; a file of the same name inside is used
    instead."""
    match = _LATEST.search(folder.child(STATE).read(MiB))
    if not match:
        raise FormatError(f"the file '{STATE}' is not a checkpoint state file: model_checkpoint_path is missing",
                          hint="give the .index file itself")
    try:
        said = _unescaped(match[1])
    except UnicodeDecodeError:
        raise FormatError(f"the path that the file '{STATE}' names is not UTF-8", hint="give the .index file itself") from None
    parts = [part for part in said.replace("\\", "/").split("/") if part != "."] or [""]
    outside = said.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]
    for name in parts[-1:] if outside else ["/".join(parts), parts[-1]]:
        for table in (f"{name}.index", name, name.replace("-?????-", "-00000-")):  # V2, V1, V1 in shards
            if table and folder.child(table).is_file():
                if outside:
                    found.warn(f"the file '{STATE}' names {said}, outside this folder; {table} in this folder is read instead")
                return folder.child(table)
    others = names(index.name for index in _indexes(folder))
    raise FormatError(f"the file '{STATE}' names {said}, which is not in this folder",
                      hint=f"the folder contains {others}: give one of them" if others else "")


def _unescaped(text: bytes) -> str:
    """A string of protobuf's text format: octal, hexadecimal and C escapes."""
    simple = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}

    def one(match: re.Match[bytes]) -> bytes:
        if match[1]:
            return bytes([int(match[1], 8) & 255])
        return bytes([int(match[2], 16)]) if match[2] else simple.get(match[3], match[3])

    return re.sub(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", one, text, flags=re.DOTALL).decode()


def _indexes(folder: Place) -> list[Place]:
    return [child for child in folder.children() if child.name.endswith(".index") and child.is_file() and is_table(child)]


def _prefixes(name: str) -> list[str]:
    """The prefix of the checkpoint that a .data or .meta file belongs to; None for other files."""
    data = _DATA.fullmatch(name)
    return [data[1]] if data else [name[:-5]] if name.endswith(".meta") else []


def _is_damaged_index(place: Place) -> bool:
    """An index recognized only by its name and data files: its end is damaged."""
    if not place.name.endswith(".index"):
        return False
    prefix = f"{place.name[:-6]}.data-"
    return any(child.name.startswith(prefix) and _DATA.fullmatch(child.name) for child in place.parent().children())


def _meta(table: Place) -> Place | None:
    """The graph that tf.train.Saver wrote beside a checkpoint, or None."""
    prefix = table.name.removesuffix(".index")
    found = table.sibling(re.sub(r"-\d{5}-of-\d{5}$", "", prefix) + ".meta")
    return found if found.is_file() else None


def _other_metas(table: Place) -> list[Place]:
    """Graphs with other names beside a checkpoint: tensorpack writes graph-DATE.meta. Not every server lists its folders."""
    try:
        beside = table.parent().children()
    except MissingFileError:
        return []
    return [child for child in beside if child.name.endswith(".meta") and child.is_file()]

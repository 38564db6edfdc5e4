"""TensorFlow checkpoints: save_weights(), tf.train.Checkpoint, tf.train.Saver; as prefix, .index file, V1 file or folder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from exporter.batchnorm.bundle import Bundle, Origin
from exporter.errors import FormatError, names
from exporter.files.place import MiB, Place
from exporter.formats.object_graph import OBJECT_GRAPH
from exporter.formats.sstable import is_table
from exporter.formats.tensor_bundle import TensorBundle, open_checkpoint
from exporter.keras.config import norm_fields
from exporter.keras.dialects import era_of
from exporter.sources.shared.architecture import node_tree_from
from exporter.sources.tf_objects.configs import StoredConfigs, given_configs
from exporter.sources.tf_objects.norms import ObjectNames, batch_norm, find_norms, open_graph, with_kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.keras.config import Node
    from exporter.sources.shared.options import ReadOptions
    from exporter.sources.tf_graph.norms import GraphNorm

NAME = "tf-checkpoint"
STATE = "checkpoint"  # the file that names the latest checkpoint of a folder (checkpoint_state.proto, as text)

_DATA = re.compile(r"(.*)\.data-\d{5}-of-\d{5}", re.DOTALL)
_LATEST = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)


def claims(place: Place) -> bool:
    """A table, a prefix of one, one of its .data or .meta files, or a folder or state file that names one."""
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


def read(place: Place, options: ReadOptions) -> Bundle:
    """The batch norms of a checkpoint; epsilon and axis are None where neither a graph beside it nor an architecture says them."""
    table, warnings = _table(place)
    with open_checkpoint(table) as checkpoint:
        if isinstance(checkpoint, TensorBundle) and OBJECT_GRAPH in checkpoint:
            found = read_objects(checkpoint, place, options.architecture)
        else:
            from exporter.sources.tf_graph.tf1 import read_tf1

            found = read_tf1(checkpoint, _meta(table), place, options)
    return found.replace(warnings=(*warnings, *found.warnings))


def read_objects(checkpoint: TensorBundle, place: Place, architecture: Place | None,
                 norms: Mapping[str, list[GraphNorm]] | None = None) -> Bundle:
    """The batch norms of an object-based checkpoint (TensorFlow 2, tf.keras from 1.12 on), by its object graph.

    norms: what a graph that is known to compute with them says, by the key of the moving variance.
    """
    graph = open_graph(checkpoint)
    configs: dict[int, tuple[str, Node]] = {}
    era = None
    if architecture is not None:
        given = node_tree_from(architecture)
        configs, era = given_configs(graph, given, architecture.name), era_of(given.keras_version, given.backend)
    paths, stored_configs = ObjectNames(graph), StoredConfigs(checkpoint, graph)
    layers, skipped = [], []
    for norm in find_norms(graph, lambda node: graph.stored(node) is not None):
        path, node = configs.get(norm.node) or stored_configs.of(norm) or (paths.path(norm.node), None)
        if norm.strange:
            skipped.append((path, f"it also holds {names(norm.strange)}, which no BatchNormalization has"))
            continue
        stored = {role: graph.stored(variable) for role, variable in norm.variables.items()}
        keys = {role: value.key for role, value in stored.items() if value}
        layer = batch_norm(checkpoint, keys, path, node=node, config=norm_fields(node) if node else None, era=era)
        layers.append(with_kernel(layer, norms.get(keys["moving_variance"], [])) if norms else layer)
    return Bundle(layers=tuple(layers), origin=Origin(file=place.name, kind=NAME), skipped=tuple(skipped))


def _table(place: Place) -> tuple[Place, list[str]]:
    """The table of the checkpoint that `place` means, and what to warn of."""
    if place.is_folder():
        if place.child(STATE).is_file():
            return _latest(place)
        found = _indexes(place)
        if len(found) != 1:
            raise FormatError(f"the folder holds {len(found)} checkpoints ({names(index.name for index in found)}) and no file "
                              f"'{STATE}' that names the latest", hint="give one of them")
        return found[0], []
    if not place.is_file():
        return place.sibling(f"{place.name}.index"), []
    if is_table(place) or _is_damaged_index(place):
        return place, []
    for prefix in _prefixes(place.name):
        for name in (f"{prefix}.index", prefix):
            if place.sibling(name).is_file():
                return place.sibling(name), []
        raise FormatError(f"the index file {prefix}.index is missing",
                          hint="a checkpoint is its .index file and all of its .data files together")
    return _latest(place.parent())


def _latest(folder: Place) -> tuple[Place, list[str]]:
    """The checkpoint that the folder's state file names. What lies outside the folder is never opened: its namesake inside is."""
    match = _LATEST.search(folder.child(STATE).read(MiB))
    if not match:
        raise FormatError(f"the file '{STATE}' is not a checkpoint state file: it names no model_checkpoint_path",
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
                return folder.child(table), [_warning(said, table)] if outside else []
    others = names(index.name for index in _indexes(folder))
    raise FormatError(f"the file '{STATE}' names {said}, which is not in this folder",
                      hint=f"the folder holds {others}: give one of them" if others else "")


def _warning(said: str, taken: str) -> str:
    return f"the file '{STATE}' names {said}, outside this folder; {taken} of this folder is read"


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
    """The prefix of the checkpoint that a .data or .meta file belongs to; none for another file."""
    data = _DATA.fullmatch(name)
    return [data[1]] if data else [name[:-5]] if name.endswith(".meta") else []


def _is_damaged_index(place: Place) -> bool:
    """An index by its name and its data files alone: its end is damaged."""
    if not place.name.endswith(".index"):
        return False
    prefix = f"{place.name[:-6]}.data-"
    return any(child.name.startswith(prefix) and _DATA.fullmatch(child.name) for child in place.parent().children())


def _meta(table: Place) -> Place | None:
    """The graph that tf.train.Saver wrote beside a checkpoint, or None."""
    prefix = table.name.removesuffix(".index")
    found = table.sibling(re.sub(r"-\d{5}-of-\d{5}$", "", prefix) + ".meta")
    return found if found.is_file() else None

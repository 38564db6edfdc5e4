"""Configs for the objects of a checkpoint: stored with them by TensorFlow 1.12 and 1.13, or an architecture from the user."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from exporter.batchnorm.stored import STATISTICS
from exporter.errors import FormatError, UsageError, names
from exporter.formats.object_graph import CONFIG, CheckpointGraph
from exporter.keras.config import Node, is_batch_norm, join, parse_config, walk
from exporter.keras.names import spellings
from exporter.keras.places import with_shared

if TYPE_CHECKING:
    from exporter.formats.tensor_bundle import TensorBundle
    from exporter.sources.tf_objects.norms import ObjectNorm

OTHER_MODEL = "give the architecture of this checkpoint's model"


class StoredConfigs:
    """The JSON that TensorFlow 1.12 and 1.13 wrote beside each layer."""

    def __init__(self, checkpoint: TensorBundle, graph: CheckpointGraph) -> None:
        self._checkpoint, self._graph = checkpoint, graph
        self._parsed: dict[int, Node | None] = {}
        self._listed: dict[int, dict[str, Node]] = {}

    def of(self, norm: ObjectNorm) -> tuple[str, Node] | None:
        """Path and config of a layer; None if the checkpoint has none, or if it is not that of a batch norm."""
        own = self._config(norm.node)
        if own is None or not is_batch_norm(own):
            return None
        path = ""
        outer = [node for number in norm.way[0][:-1] if (node := self._config(number))]
        for node in [*outer[1:], own]:  # the outermost is the model, whose name is not part of a path
            path = join(path, node.name)
        listed = self._in_model(norm.way[0]).get(path)
        return path, own if listed is None else dataclasses.replace(own, surroundings=listed.surroundings, calls=listed.calls)

    def _in_model(self, way: Sequence[int]) -> dict[str, Node]:
        """The batch norms in the config of the outermost model, by path: it also contains their calls."""
        root = next(number for number in way if self._config(number))  # its own, if no other
        if root not in self._listed:
            tree = self._config(root)
            self._listed[root] = {path: node for path, node in walk(tree) if is_batch_norm(node)} if tree else {}
        return self._listed[root]

    def _config(self, node: int) -> Node | None:
        if node not in self._parsed:
            stored = self._graph.stored(node, CONFIG)
            texts = self._checkpoint.strings(stored.key) if stored else []
            self._parsed[node] = parse_config(texts[0], f"{self._checkpoint.where}: {stored.key}") if stored and texts else None
        return self._parsed[node]


class Laid(NamedTuple):
    """A config that was laid over the objects of a checkpoint.

    norms: path and config of each batch norm, by object. tree: with entries of one object marked as one layer.
    places: the object of each layer of that tree. removed: objects in a Sequential that its config no longer lists.
    """

    norms: dict[int, tuple[str, Node]]
    tree: Node
    places: dict[Node, int]
    removed: frozenset[int] = frozenset()


def given_configs(graph: CheckpointGraph, tree: Node, where: str) -> Laid:
    """Lays an architecture over the model in a checkpoint. Raises: FormatError, UsageError if it does not fit."""
    if not tree.is_model:  # a user's class: its config does not describe its layers
        return Laid({}, tree, {})
    roots = [node for node in (0, *dict.fromkeys(graph.children(0).values())) if _layers_of(graph, node)] if len(graph) else []
    roots = roots[:1] if roots[:1] == [0] else roots  # the models of a tf.train.Checkpoint, which is not itself a model
    misfits, fits = [], []
    for root in roots:
        try:
            fits.append((root, _fit(graph, root, tree)))
        except FormatError as error:
            misfits.append(error)
    if len(fits) == 1:
        root, entries = fits[0]
        pairs = [(first[1], other) for first, *others in filter(None, entries.values()) for _, other in others]
        if pairs:
            tree = with_shared(tree, pairs)
            entries = _fit(graph, root, tree)
        removed = frozenset(node for node, said in entries.items() if not said)
        return Laid({node: said[0] for node, said in entries.items() if said and is_batch_norm(said[0][1])}, tree,
                    {config: node for node, said in entries.items() for _, config in said}, removed)
    if misfits and not fits:
        raise misfits[0].inside(where)
    what = "fits several models of the checkpoint" if fits else "is that of a functional or Sequential model, but the checkpoint is not"
    raise UsageError(f"the architecture {what}", where=where, hint="give --epsilon instead")


def about_removed(paths: Iterable[str]) -> str:
    """A warning about batch norms that are in the file but no longer in the model."""
    return f"{names(paths)}: the file contains this, but the model no longer has such a layer (as after Sequential.pop()); left out"


def _layers_of(graph: CheckpointGraph, node: int) -> list[int]:
    """A model's layers: layer-0, layer-1 … up to Keras 2 (Model._layer_checkpoint_dependencies), a list of its own in Keras 3, which a
    Sequential keeps in its internal functional model; it numbers operations (keras.ops), too, which are no objects."""
    children = graph.children(node)
    found = [children[key] for number in range(len(children)) if (key := f"layer-{number}") in children]
    return found or list(_operations_of(graph, node).values())


def _operations_of(graph: CheckpointGraph, node: int) -> dict[int, int]:
    """The layers of a model of Keras 3 by their numbers, which operations have, too."""
    children = graph.children(node)
    operations = graph.children(children.get("_functional", node)).get("_operations") if len(children) else None
    listed = {} if operations is None else graph.children(operations)
    return {int(key): listed[key] for key in sorted(filter(str.isdecimal, listed), key=int)}


def _fit(graph: CheckpointGraph, root: int, tree: Node) -> dict[int, list[tuple[str, Node]]]:
    """Maps the config's tree to the object graph: the paths and configs of each object, none for objects that the config no longer has.
    Wrappers store their layers under the config's own names. Raises FormatError if the two differ."""
    found: dict[int, list[tuple[str, Node]]] = {}
    stack = [(root, "", tree)]
    while stack:
        node, path, config = stack.pop()
        found.setdefault(node, []).append((path, config))
        if is_batch_norm(config):
            if not graph.children(node).keys() >= set(STATISTICS):
                raise FormatError(f"{path} is a batch norm in it, but not in the checkpoint", hint=OTHER_MODEL)
            continue
        held = _paired(graph, node, path, config) if config.is_model else _held(graph, node, config)
        if config.is_model:
            kept = {child for child, _ in held}
            found.update({child: [] for child in _layers_of(graph, node) if child not in kept and child not in found})
        stack += [(child, join(path, below.name), below) for child, below in reversed(held)]
    return found


def _paired(graph: CheckpointGraph, node: int, path: str, config: Node) -> list[tuple[int, Node]]:
    """The layers of a model with their configs, by their places."""
    is_sequential = config.base_name == "Sequential"
    inner, held = [child for _, child in config.children], _layers_of(graph, node)
    if len(inner) > len(held) and (numbered := _operations_of(graph, node)) and not is_sequential:
        inner = [below for number, below in enumerate(inner) if number in numbered or not _is_operation(below)]
    counts_input = bool(inner) and inner[0].class_name == "InputLayer"  # a Sequential may or may not do it,
    if counts_input and len(inner) == len(held) + 1:
        inner = inner[1:]
    elif not counts_input and len(held) > len(inner) and not graph.children(held[0]) and (is_sequential or len(held) == len(inner) + 1):
        held = held[1:]  # in its config as in its checkpoint
    if is_sequential and len(held) > len(inner) and _are_named(graph, held, inner):
        held = held[:len(inner)]  # TensorFlow 1.15 keeps layers that Sequential.pop() removed
    if len(inner) != len(held):
        raise FormatError(f"{path or 'the model'} has {len(inner)} layers in it, but {len(held)} in the checkpoint", hint=OTHER_MODEL)
    return list(zip(held, inner, strict=True))


def _is_operation(config: Node) -> bool:
    """Whether an entry of Keras 3 is an operation: what a layer's config contains in addition, an operation's does not."""
    return "trainable" not in config.config and config.class_name != "InputLayer"


def _are_named(graph: CheckpointGraph, held: Sequence[int], inner: Sequence[Node]) -> bool:
    """Whether the variables of each layer have the name of the layer in this place, either exactly or with TensorFlow's number."""
    for node, config in zip(held, inner, strict=False):
        for child in graph.children(node).values():
            stored = graph.stored(child)
            if stored and not _is_in(config.name.split("/"), stored.full_name.split("/")[:-1]):
                return False
    return True


def _is_in(name: Sequence[str], scope: Sequence[str]) -> bool:
    """Whether the parts of a layer's name stand one after the other in a scope, each exactly or with TensorFlow's number."""
    return any(all(part in spellings(own) for part, own in zip(name, scope[start:], strict=False))
               for start in range(len(scope) - len(name) + 1))


def _held(graph: CheckpointGraph, node: int, config: Node) -> list[tuple[int, Node]]:
    """The objects inside a wrapper or cell, with their configs: by the role's name, in a list if there are several of one role."""
    held: list[tuple[int, Node]] = []
    for role in dict.fromkeys(role for role, _ in config.children):
        inner = [child for key, child in config.children if key == role]
        target = graph.children(node).get(role)
        if target is None:
            continue
        listed = [child for number in range(len(inner)) if (child := graph.children(target).get(str(number))) is not None]
        nodes = listed if len(listed) == len(inner) else [target]
        if len(nodes) == len(inner):
            held += zip(nodes, inner, strict=True)
    return held

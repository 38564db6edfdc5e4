"""Configs for the objects of a checkpoint: those that TensorFlow 1.12 and 1.13 stored beside them, or an architecture of the user's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.errors import FormatError, UsageError
from exporter.formats.object_graph import CONFIG, CheckpointGraph
from exporter.keras.config import Architecture, Node, is_batch_norm, join, parse_config, walk

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
        """Path and config of a layer; None where the checkpoint has none, or not that of a batch norm."""
        own = self._config(norm.node)
        if own is None or not is_batch_norm(own):
            return None
        path = ""
        outer = [node for number in norm.way[0][:-1] if (node := self._config(number))]
        for node in [*outer[1:], own]:  # the outermost is the model, whose name is no part of a path
            path = join(path, node.name)
        listed = self._in_model(norm.way[0]).get(path)
        return path, own if listed is None else dataclasses.replace(own, surroundings=listed.surroundings, calls=listed.calls)

    def _in_model(self, way: Sequence[int]) -> dict[str, Node]:
        """The batch norms that the config of the outermost model lists, by path: it says their calls, too."""
        root = next((number for number in way if self._config(number)), None)
        if root is None:
            return {}
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


def given_configs(graph: CheckpointGraph, architecture: Architecture, where: str) -> tuple[dict[int, tuple[str, Node]], dict[Node, int]]:
    """Path and config of the batch norms by node of the graph, from the architecture that the user gave; and the nodes of all layers."""
    roots = [node for node in (0, *dict.fromkeys(graph.children(0).values())) if "layer-0" in graph.children(node)] if len(graph) else []
    roots = roots[:1] if roots[:1] == [0] else roots  # the models of a tf.train.Checkpoint, which is none itself
    misfits, fits = [], []
    for root in roots:
        try:
            fits.append(_fit(graph, root, architecture.tree))
        except FormatError as error:
            misfits.append(error)
    if len(fits) == 1:
        return fits[0]
    if misfits and not fits:
        raise misfits[0].inside(where)
    what = "fits several models of the checkpoint" if fits else "is that of a functional or Sequential model, but the checkpoint is not"
    raise UsageError(f"the architecture {what}", where=where, hint="give --epsilon instead")


def _fit(graph: CheckpointGraph, root: int, tree: Node) -> tuple[dict[int, tuple[str, Node]], dict[Node, int]]:
    """Lays the config's tree over the object graph: layer-N is the model's Nth layer (Model._layer_checkpoint_dependencies), and
    wrappers hold theirs under the config's own names. Raises FormatError where the two differ."""
    found: dict[int, tuple[str, Node]] = {}
    places: dict[Node, int] = {}
    stack = [(root, "", tree)]
    while stack:
        node, path, config = stack.pop()
        places[config] = node
        children = graph.children(node)
        if is_batch_norm(config):
            if not {"moving_mean", "moving_variance"} <= children.keys():
                raise FormatError(f"{path} is a batch norm in it, but not in the checkpoint", hint=OTHER_MODEL)
            found.setdefault(node, (path, config))
            continue
        inner = [child for _, child in config.children]
        if config.is_model:
            held = [children[key] for number in range(len(children)) if (key := f"layer-{number}") in children]
            if len(inner) == len(held) + 1 and inner[0].class_name == "InputLayer":  # a Sequential may or may not count it,
                inner = inner[1:]
            elif len(held) == len(inner) + 1 and not graph.children(held[0]):  # in its config as in its checkpoint
                held = held[1:]
            if len(inner) != len(held):
                raise FormatError(f"{path or 'the model'} has {len(inner)} layers in it, but {len(held)} in the checkpoint",
                                  hint=OTHER_MODEL)
            stack += [(child, join(path, below.name), below) for child, below in zip(held, inner, strict=True)]
        else:
            stack += [(child, join(path, below.name), below) for child, below in _held(graph, node, config)]
    return found, places


def _held(graph: CheckpointGraph, node: int, config: Node) -> list[tuple[int, Node]]:
    """The objects that a wrapper or cell holds, with their configs: by the role's name, in a list where there are several of one role."""
    held = []
    for role in dict.fromkeys(role for role, _ in config.children):
        inner = [child for key, child in config.children if key == role]
        target = graph.children(node).get(role)
        if target is None:
            continue
        listed = [graph.children(target).get(str(number)) for number in range(len(inner))]
        nodes = listed if None not in listed and "0" in graph.children(target) else [target]
        if len(nodes) == len(inner):
            held += [(child, below) for child, below in zip(nodes, inner, strict=True) if child is not None]
    return held

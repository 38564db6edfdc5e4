"""An architecture whose layers have the names of another session: Keras numbers its default names, as in batch_normalization_3.

Two runs of one program give one model two sets of such names, and weights with them. Layers are paired by their order if everything else
agrees: the number of layers, each layer's class according to its name, the user-chosen names, which of two layers of a class was created
first, and the shapes in the config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from exporter.batchnorm.places import Call, Neighbor
from exporter.errors import FormatError, names, printable
from exporter.keras.config import MODELS, Node
from exporter.keras.names import numbered
from exporter.sources.shared.sessions import made_up

if TYPE_CHECKING:
    from exporter.formats.hdf5_file import File
    from exporter.sources.legacy_h5.weights import LayerGroup

_CALLED_AS_THEIR_OP = ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer")  # tf.nn.relu_3, of class TFOpLambda
_OUTPUTS = {"Dense": "units", **{f"Conv{rank}D": "filters" for rank in (1, 2, 3)}}  # the size of the last axis of the kernel


def named_as(tree: Node, groups: Sequence[LayerGroup], file: File) -> tuple[Node, str]:
    """(tree, warning) with the names of the weights; the unchanged tree and "" if no name differs, or more than names.

    Raises: FormatError if a kernel does not have the shape in the config.
    """
    layers = [node for _, node in tree.children]
    if len(layers) != len(groups):  # of a Sequential the file does not list the InputLayer
        layers = [node for node in layers if node.base_name != "InputLayer"]
    if len(layers) != len(groups) or not tree.is_model or any(node.base_name == "Merge" for node in layers):
        return tree, ""
    changed = {node.name: group.name for node, group in zip(layers, groups) if node.name != group.name}
    pairs = [(node, group) for node, group in zip(layers, groups) if node.name in changed]
    if not pairs or len({node.name for node in layers}) != len(layers) or not all(_is_counted(node, group.name) for node, group in pairs):
        return tree, ""
    if not _in_one_order((node.name for node in layers), (group.name for group in groups)):
        return tree, ""
    for node, group in zip(layers, groups):
        _check_kernel(node, group, file)
    children = tuple((role, dataclasses.replace(_beside(node, changed), name=changed.get(node.name, node.name),
                                                inputs=tuple(changed.get(name, name) for name in node.inputs)))
                     for role, node in tree.children)
    said = names((f"{printable(old, 60)} for {printable(new, 60)}" for old, new in changed.items()), 3)
    return tree.replace(children=children), (
        f"{len(changed)} layers have other names in the architecture than in the weights, numbered in another session ({said}): "
        "they are paired by their order")


def renamed_path(path: str, changed: Mapping[str, str]) -> str:
    """A path whose first name is changed as that layer's. A name that Keras made contains no slash."""
    top, below, inner = path.partition("/")
    return changed.get(top, top) + below + inner


def _beside(node: Node, changed: Mapping[str, str]) -> Node:
    """The layer, with the changed names in what feeds and follows its batch norms."""
    def side(neighbors: tuple[Neighbor, ...]) -> tuple[Neighbor, ...]:
        return tuple(dataclasses.replace(each, path=renamed_path(each.path, changed)) for each in neighbors)

    return node.replace(calls=tuple(Call(side(call.inputs), side(call.outputs)) for call in node.calls),
                        children=tuple((role, _beside(child, changed)) for role, child in node.children))


def _is_counted(node: Node, name: str) -> bool:
    """Whether both names are Keras's default names for a layer of this class, except for the number."""
    stem = numbered(name)[0]
    if stem != numbered(node.name)[0]:
        return False
    others = {"model", "functional"} if node.base_name in MODELS else {"input"} if node.base_name == "InputLayer" else set()
    return stem in made_up(node) | others or node.base_name in _CALLED_AS_THEIR_OP


def _in_one_order(mine: Iterable[str], theirs: Iterable[str]) -> bool:
    """Whether layers of one class were created in the same order in both sessions."""
    orders: list[dict[str, list[int]]] = [{}, {}]
    for texts, order in zip((mine, theirs), orders):
        for text in texts:
            stem, number = numbered(text)
            order.setdefault(stem, []).append(number)
    ranks = [{stem: sorted(range(len(numbers)), key=numbers.__getitem__) for stem, numbers in order.items()} for order in orders]
    return ranks[0] == ranks[1]


def _check_kernel(node: Node, group: LayerGroup, file: File) -> None:
    wanted = node.config.get(_OUTPUTS.get(node.class_name, ""))
    if not isinstance(wanted, int) or not group.weights:
        return
    shape = file.shape(group.datasets[0])
    if shape and shape[-1] != wanted:
        raise FormatError(f"its kernel has shape {list(shape)}, but the config of {printable(node.name, 80)} has "
                          f"{_OUTPUTS[node.class_name]}={wanted}", where=group.name)

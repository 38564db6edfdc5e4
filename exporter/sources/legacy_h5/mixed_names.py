"""Keras 1.0.0 to 1.0.2 saved a Sequential inside another model layer by layer, but under names in which those of all trainable weights
come first (save_weights: the names of trainable_weights + non_trainable_weights, the values of get_weights())."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.sources.legacy_h5.weights import LayerGroup, parse

if TYPE_CHECKING:
    from exporter.formats.hdf5_file import File
    from exporter.keras.config import Node
    from exporter.keras.dialects import Era


def as_named(file: File, group: LayerGroup, node: Node | None, era: Era) -> LayerGroup | None:
    """The group with its datasets under the right names; None if two readings are possible. A version that is unknown is visible in the
    shapes."""
    sequential = node.children[0][1] if node and node.base_name == "TimeDistributed" and node.children else node
    if (era.facts and not era.facts.mixes_nested_names) or (sequential is not None and sequential.base_name != "Sequential"):
        return group
    by_layer = _layer_by_layer(group, sequential) if sequential else None
    if by_layer == group.weights or (by_layer is None and _is_contiguous(group)):
        return group
    shapes = [file.shape(path) for path in group.datasets]
    fits = era.facts is None and _fits_names(group.weights, shapes)
    if by_layer is None:  # the first kernel after a batch norm would have the shape of a mean
        return group if fits and _has_kernel_after_norm(group) else None
    renamed = dataclasses.replace(group, weights=by_layer, stored=group.weights)
    if fits == _fits_names(by_layer, shapes):
        return None
    return group if fits else renamed


def _layer_by_layer(group: LayerGroup, node: Node) -> tuple[str, ...] | None:
    """The names of the weights in the order of the layers; None if a name belongs to no layer, or a layer contains others."""
    layers = [child.name for _, child in node.children]
    owners = [[name for name in layers if weight.startswith(f"{name}_")] for weight in group.weights]
    if not all(owners) or any(child.children for _, child in node.children):
        return None
    order = [layers.index(max(names, key=len)) for names in owners]
    return tuple(weight for _, weight in sorted(zip(order, group.weights), key=lambda pair: pair[0]))


def _is_contiguous(group: LayerGroup) -> bool:
    positions: dict[str, list[int]] = {}
    for position, parsed in enumerate(group.parsed):
        if parsed:
            positions.setdefault(parsed[0], []).append(position)
    return all(places[-1] - places[0] == len(places) - 1 for places in positions.values())


def _fits_names(weights: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether each batch norm has one shape and each kernel at least two axes."""
    found: dict[str, set[tuple[int, ...]]] = {}
    for weight, shape in zip(weights, shapes):
        if parsed := parse(weight):
            found.setdefault(parsed[0], set()).add(shape)
        elif _is_kernel(weight) and len(shape) < 2:
            return False
    return all(len(each) == 1 for each in found.values())


def _is_kernel(weight: str) -> bool:
    return weight.removesuffix(":0").endswith("_W")


def _has_kernel_after_norm(group: LayerGroup) -> bool:
    first = next((position for position, parsed in enumerate(group.parsed) if parsed), len(group.weights))
    return any(map(_is_kernel, group.weights[first:]))

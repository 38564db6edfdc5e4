"""The rank of each layer's input, from the config alone: only for Keras's own layers with a unique answer.

Most configs contain only the shapes of the model's inputs; a fused kernel's epsilon depends on the rank.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from exporter.keras.calls import references
from exporter.keras.lookalikes import WRAPPERS_AS_THEY_ARE
from exporter.keras.node import Node, is_batch_norm

# Layers whose name ends in 1D, 2D or 3D: the rank of the input and the output.
_SPATIAL_RANKS = {"1D": 3, "2D": 4, "3D": 5}
_SPATIAL = frozenset((
    "Conv", "Convolution", "AtrousConv", "AtrousConvolution", "SeparableConv", "SeparableConvolution", "DepthwiseConv", "Deconvolution",
    "LocallyConnected", "MaxPooling", "AveragePooling", "MaxPool", "AvgPool", "AveragePool", "UpSampling", "ZeroPadding", "Cropping",
    "SpatialDropout"))
_GLOBAL = frozenset(("GlobalMaxPooling", "GlobalAveragePooling", "GlobalMaxPool", "GlobalAvgPool", "GlobalAveragePool"))
_SAME = frozenset((
    "BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization", "LayerNormalization",
    "GroupNormalization", "UnitNormalization", "Normalization", "Rescaling", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU",
    "ThresholdedReLU", "Softmax", "ParametricSoftplus", "SReLU", "Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise",
    "ActivityRegularization", "Masking", "Permute", "Dense", "TimeDistributedDense", "Highway", "MaxoutDense", "InputLayer",
    "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"))
# The rank of the input, of which the second axis is time.
_OVER_TIME = {"ConvLSTM1D": 4, "ConvLSTM2D": 5, "ConvLSTM3D": 6}
_RECURRENT = ("RNN", "LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU")


class _Differ(Exception):
    """Not all calls of a layer have the same rank."""


def input_ranks(root: Node) -> Mapping[Node, int]:
    """Rank, with the batch axis, of the input of each layer below `root` for which it is certain."""
    found: dict[Node, int] = {}
    try:
        _visit(root, None, found, are_calls_alike=True)
    except _Differ:
        found.clear()
        _visit(root, None, found, are_calls_alike=False)
    return found


def _visit(node: Node, rank: int | None, found: dict[Node, int], are_calls_alike: bool) -> int | None:
    """Records the rank of the input of `node` and those below it; returns the rank of the output, None if uncertain.

    are_calls_alike: suppose that all calls of a layer have the rank of its first one. Raises: _Differ if that is wrong.
    """
    class_name = _class_name(node)
    if node.input_shape:
        rank = len(node.input_shape)
    rank = max(_spatial_rank(class_name), rank or 0) or None  # Conv2D of tf.keras also accepts several batch axes
    if rank is not None:
        found[node] = rank
    if node.is_model:
        return _visit_model(node, rank, found, are_calls_alike)
    inner = [_visit(child, _rank_inside(node, rank, role), found, are_calls_alike) for role, child in node.children]
    return _output_rank(node, class_name, rank, inner[0] if inner else None)


def _visit_model(node: Node, rank: int | None, found: dict[Node, int], are_calls_alike: bool) -> int | None:
    if node.base_name == "Merge":
        ranks = [_visit(child, None, found, are_calls_alike) for _, child in node.children]
        return ranks[0] if ranks and node.config.get("mode") == "concat" and len(set(ranks)) == 1 else None
    if not any(child.inputs for _, child in node.children):
        for _, child in node.children:
            rank = _visit(child, rank, found, are_calls_alike)
        return rank
    outputs: dict[str, int | None] = {}
    supposed: list[tuple[Node, int | None]] = []  # layers with calls that come later
    for _, child in node.children:
        incoming = set(map(outputs.get, child.inputs))  # of all calls
        if are_calls_alike and None in incoming and not outputs.keys() >= set(child.inputs):
            incoming = {outputs[name] for name in child.inputs if name in outputs}
            supposed.append((child, next(iter(incoming)) if len(incoming) == 1 else None))
        given = incoming.pop() if len(incoming) == 1 else None
        rank = _visit(child, given, found, are_calls_alike)
        if incoming and not child.is_model:  # its calls may have other ranks than the one that it was built on
            class_name = _class_name(child)
            rank = _output_rank(child, class_name, _spatial_rank(class_name) or None, None)
        outputs[child.name] = rank
    if any(given is not None and outputs.get(name) != given for child, given in supposed for name in child.inputs):
        raise _Differ
    last = {outputs.get(name) for name, _, _ in references(node.config.get("output_layers"))}
    return last.pop() if len(last) == 1 else None


def _rank_inside(node: Node, rank: int | None, role: str) -> int | None:
    if node.base_name == "Bidirectional" or node.base_name in WRAPPERS_AS_THEY_ARE:
        return rank
    if role in ("cell", "cells") and node.base_name != "StackedRNNCells":
        return 2 if rank == 3 else None
    if node.surroundings.added_axes and rank == 2:  # in a cell, which gets only the features, in the cells of a stack, in a user's cell
        return rank
    if node.base_name == "TimeDistributed" and rank is not None and rank > 2:
        return rank - 1
    return None


def _class_name(node: Node) -> str:
    """The class of one of Keras's own layers; another text for a user's class, which may do anything, whatever its name."""
    return "" if node.registered_name is not None else node.class_name


@functools.lru_cache(1000)  # a few classes, over and over
def _spatial_rank(class_name: str) -> int:
    """Rank of the input of Conv2D and its like; 0 for other layers."""
    if class_name in _OVER_TIME:
        return _OVER_TIME[class_name]
    kind = class_name.removesuffix("Transpose")
    return _SPATIAL_RANKS.get(kind[-2:], 0) if kind[:-2] in _SPATIAL or kind[:-2] in _GLOBAL else 0


def _output_rank(node: Node, name: str, rank: int | None, inner: int | None) -> int | None:
    """name: of its class, "" for a user's. inner: the rank of what the layer in it gives."""
    config = node.config
    if name[:-2] in _GLOBAL:
        return rank if config.get("keepdims") else 2
    if name in _OVER_TIME:
        return None if config.get("return_state") else _OVER_TIME[name] - (not config.get("return_sequences"))
    if _spatial_rank(name) or name in _SAME or is_batch_norm(node):
        return rank
    if name == "Flatten":
        return 2
    if name == "RepeatVector":
        return 3
    if name == "Reshape":
        target = config.get("target_shape", config.get("dims"))
        return len(target) + 1 if isinstance(target, list) else None
    if name == "Embedding":
        return 3 if rank in (None, 2) and config.get("input_length") else None
    if name in _RECURRENT:
        return None if config.get("return_state") else 3 if config.get("return_sequences") else 2
    if name == "TimeDistributed":
        return rank if rank is not None and inner == rank - 1 else None if inner is None else inner + 1
    if name == "Bidirectional":
        return inner if config.get("merge_mode") else None
    return None

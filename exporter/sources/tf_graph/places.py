"""The place of a batch norm in a graph: the op that feeds it and those that follow, if they are in one body without conditionals.

A bias between a kernel and the batch norm belongs to the kernel. A path is the name of an op, or its scope if it has a kernel; a class is
the type of an op.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from exporter.batchnorm.places import Call, Neighbor
from exporter.sources.tf_graph.chain import ADDITIONS
from exporter.sources.tf_graph.ops import PASSES
from exporter.sources.tf_graph.trace import Tracer
from exporter.sources.tf_graph.values import Constant, Frame, Parts, Variable, operand

if TYPE_CHECKING:
    from exporter.formats.graph_def import Body, Node
    from exporter.sources.tf_graph.graph_norm import GraphNorm

# The axis of the output channels of each op's kernel; a depthwise one has two.
KERNELS = {"Conv2D": 3, "Conv3D": 4, "MatMul": 1, "DepthwiseConv2dNative": None, "Conv2DBackpropInput": 2}
PARTS_OF_LAYERS = frozenset({"Squeeze", "Reshape", "Transpose", "BatchToSpaceND", "BatchToSpace"})  # of a Conv1D, a dilated one, ...
SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank"})  # they don't read the values
NO_FOLLOWERS = SHAPES | PASSES


class Calls:
    """The calls of the batch norms of a graph."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._known: dict[GraphNorm, Call | None] = {}

    def of(self, kept: Sequence[GraphNorm], found: Iterable[GraphNorm]) -> list[tuple[Call, ...]]:
        """The call of each batch norm of `kept`, if it is certain. found: all, including the same one in other calls and functions."""
        same: dict[Hashable, list[GraphNorm]] = {}
        for norm in found:
            if not norm.in_training:
                same.setdefault(norm.identity(), []).append(norm)
        return [() if norm.in_training else self._at_all(same[norm.identity()]) for norm in kept]

    def _at_all(self, norms: list[GraphNorm]) -> tuple[Call, ...]:
        """The one call on which all occurrences of a batch norm agree; () if one is uncertain, or if the model calls it twice: a body
        contains it twice, or calls the function that contains it twice."""
        ops: dict[str, str] = {}
        callers = [(frame.body.name, frame.caller.body.name) for norm in norms if (frame := norm.x.frame).caller is not None]
        is_once = all(ops.setdefault(norm.x.frame.body.name, norm.node.name) == norm.node.name for norm in norms)
        calls = [self._one(norm) for norm in norms] if is_once and len(set(callers)) == len(callers) else [None]
        first = calls[0]
        return (first,) if first is not None and all(call == first for call in calls) else ()

    def _one(self, norm: GraphNorm) -> Call | None:
        if norm not in self._known:
            self._known[norm] = self._at(norm)
        return self._known[norm]

    def _at(self, norm: GraphNorm) -> Call | None:
        frame = norm.x.frame
        if norm.conditional or frame.body.nodes.get(norm.node.name) is not norm.node:
            return None
        if frame.is_called and norm.node.name in frame.body.ends:
            return None  # what follows belongs to another body
        feeding = self._feeding(frame, norm)
        return None if feeding is None else Call((feeding,), tuple(map(_neighbor, self._following(frame.body, norm.node))))

    def _feeding(self, frame: Frame, norm: GraphNorm) -> Neighbor | None:
        """What computes x: a stored kernel with its bias, or an op that is not part of a layer with a kernel; None if that is not
        certain, x is an argument, or a product of two inputs."""
        body, node, use_bias = frame.body, norm.x.node, False
        if node is None:
            return None
        shared = self._is_shared(body, node)
        before = self._source(body, node) if node.op == "BiasAdd" and self._is_stored(frame, node) else None
        if before is not None and before.op in KERNELS:
            node, use_bias, shared = before, True, shared or self._is_shared(body, before)
        found = _neighbor(node)
        if node.op not in KERNELS:
            is_part = node.op in PARTS_OF_LAYERS or (node.op in ADDITIONS and any(self._is_stored(frame, node, side) for side in (0, 1)))
            return None if is_part else Neighbor(path=found.path, class_name=node.op, is_shared=shared)
        axis = 0 if node.boolean("transpose_b", False) else KERNELS[node.op]
        return Neighbor(path=found.path, class_name=node.op, axis=axis, use_bias=use_bias, is_shared=shared) if self._is_stored(
            frame, node) else None

    def _is_stored(self, frame: Frame, node: Node, number: int = 1) -> bool:
        """Whether an input of an op, the second of most, is a parameter as it is stored."""
        return isinstance(self._tracer.trace(operand(frame, node, number)), (Variable, Constant, Parts))

    def _source(self, body: Body, node: Node) -> Node | None:
        """The op that computes the first input of an op, traced through ops that change no value; None if another body computes it."""
        while True:  # what leads in a circle is read by an op outside of it, too
            found = body.nodes.get(node.inputs[0].node) if node.inputs else None
            if found is None or found.op not in PASSES:
                return found
            if self._is_shared(body, found):
                return None
            node = found

    def _is_shared(self, body: Body, node: Node) -> bool:
        """Whether something else reads a node's output, or it is a result of the function."""
        users = (user for user in body.users.get(node.name, ()) if user.op not in SHAPES)
        return len(list(itertools.islice(users, 2))) > 1 or node.name in body.ends  # one node may have thousands of readers

    def _following(self, body: Body, node: Node) -> list[Node]:
        """The ops that read a batch norm, traced through ops that change no value."""
        same = body.following([node], lambda one, user: user.op in PASSES and _reads(user, one))
        users = [user for one in same for user in body.users.get(one.name, ()) if user.op not in NO_FOLLOWERS and _reads(user, one)]
        return list(dict.fromkeys(users))


def _reads(user: Node, node: Node) -> bool:
    """Whether a node reads the first output of another: the others of a fused op are statistics."""
    return any(each.node == node.name and each.slot == 0 for each in user.inputs)


def _neighbor(node: Node) -> Neighbor:
    """For a kernel, the scope, which is that of the layer: "conv1" for conv1/Conv2D."""
    above = node.name.rpartition("/")[0] if node.op in KERNELS else ""
    padding = node.text("padding").lower() if node.op in KERNELS or node.op.endswith("Pool") else ""
    return Neighbor(path=above or node.name, class_name=node.op, padding=padding or None)

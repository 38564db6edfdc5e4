"""What the function of a layer's own call does besides a batch norm, as Keras 2 saves one for each layer.

    y = 2 * super().call(x)          2 * batch_norm(x): another layer than its config says
    y = super().call(tf.abs(x))

Casts and changes of shape belong to Keras's own batch norms: for mixed precision, other ranks than the kernel's, and other axes.
"""

from __future__ import annotations

from collections.abc import Sequence

from exporter.formats.graph_def import Graph, Node
from exporter.sources.tf_graph.graph_norm import GraphNorm
from exporter.sources.tf_graph.ops import CALLS, CHOICES, LOOPS, PASSES
from exporter.sources.tf_graph.paths import INNER_SCOPE
from exporter.sources.tf_graph.trace import Tracer
from exporter.sources.tf_graph.values import Constant, Value, Variable

KEEPS_NUMBERS = PASSES | {"Reshape", "Transpose", "Squeeze", "ExpandDims"}
UNCLEAR = frozenset({*CALLS, *CHOICES, *LOOPS, "Merge", "RefMerge", "Select", "SelectV2", "IdentityN"})  # one of several values, perhaps
MAX_LENGTH = 100  # ops in a row


def other_op(graph: Graph, function: str, bound: Sequence[Variable | Constant | None], norm: GraphNorm) -> str:
    """The type of an op whose result the function of a layer's call returns in place of that of its batch norm, or which changes what the
    batch norm takes; "" where there is none, or none is certain."""
    if norm.conditional:
        return ""
    tracer = Tracer(graph, {function: bound}, main=False)
    (root,) = tracer.roots
    ends = [_origin(Value(root, output), norm.node, tracer) for output in list(root.body.results.values())[:1]]
    for node in (*ends, _origin(norm.x, norm.node, tracer)):
        if node is not None and node is not norm.node and node.op not in UNCLEAR and node.inputs:
            return node.op
    return ""


def may_do_more(norm: GraphNorm) -> bool:
    """Whether a model has ops in the scope of a batch norm that change what it takes or gives, or whether that is unknown."""
    frame, node = norm.x.frame, norm.node
    if frame.body.nodes.get(node.name) is not node:
        return True
    scope, before = _layer_scope(node), _origin(norm.x, node)
    same = frame.body.following([node], lambda _, user: user.op in KEEPS_NUMBERS)
    after = (user for one in same for user in frame.body.users.get(one.name, ()) if user.op not in KEEPS_NUMBERS)
    return any(each is not None and each.name.startswith(scope) for each in (before, *after))


def _layer_scope(node: Node) -> str:
    """The beginning of the names of all ops that a layer's call makes, from the last op of its batch norm."""
    scope = node.name.split("/")[:-1]
    while scope and INNER_SCOPE.fullmatch(scope[-1]):
        scope.pop()
    return "/".join([*scope, ""])


def _origin(value: Value, end: Node, tracer: Tracer | None = None) -> Node | None:
    """The node that computes a value, traced through what changes no number, and not beyond `end`; None for an argument. tracer: to trace
    into functions."""
    for _ in range(MAX_LENGTH):
        node = value.node
        if node is None:
            before = value.frame.outside(value.output.node)
        elif node is not end and node.op in KEEPS_NUMBERS:
            before = value.operand(0)
        else:
            before = _returned(tracer, value, node) if tracer is not None and node.op in CALLS else None
        if before is None:
            return node
        value = before
    return None


def _returned(tracer: Tracer, value: Value, call: Node) -> Value | None:
    """What the only function that a node calls returns as this output."""
    called = tracer.called(value.frame, call)
    if len(called) != 1:
        return None
    frame = tracer.enter(value.frame, call, *called[0])
    results = list(frame.body.results.values())
    return Value(frame, results[value.output.slot]) if value.output.slot < len(results) else None

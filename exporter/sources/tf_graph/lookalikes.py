"""Sums that have all roles of a batch norm and another divisor than the root of a variance plus epsilon.

    (x - mean) / (deviation + epsilon) * gamma + beta
    (x - mean) / sqrt(maximum(variance, epsilon)) * gamma + beta

They are reported, so that none goes missing in silence. What prepares inputs by stored numbers is not: (pixels - mean) / deviation, and
Keras's Normalization, (x - mean) / maximum(sqrt(variance), epsilon), in TensorFlow 2.3 (x - mean) / sqrt(variance).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from exporter.formats.graph_def import Node
from exporter.sources.tf_graph.chain import DIVISIONS, RECIPROCALS, SUMS, Chain, Cone, inner, rank_of
from exporter.sources.tf_graph.ops import PASSES
from exporter.sources.tf_graph.trace import Tracer
from exporter.sources.tf_graph.values import Constant, Frame, Parts, Traced, Value, Variable, operand

DIVIDES = frozenset({*DIVISIONS, *RECIPROCALS, "Rsqrt"})
SCALES = frozenset({*SUMS, *DIVISIONS, "Mul", "Sub"})
MAX_LENGTH = 100  # ops in a row before a graph's input


def lookalikes(tracer: Tracer, frame: Frame, known: Collection[str]) -> Iterator[Chain]:
    """Those of a frame. known: the roots and the last ops of its batch norms."""
    seen = set(known)
    for node in frame.body.nodes.values():
        if node.op not in DIVIDES or node.name in seen:
            continue
        divisor = inner(operand(frame, node, 1 if node.op in DIVISIONS else 0))
        root, kind = (node, "Rsqrt") if node.op == "Rsqrt" else (divisor.node, "Sqrt")
        source = tracer.trace(divisor)
        if root is None or root.name in seen or rank_of(source) == 0 or not (_is_stored(source) or tracer.of_parameters(source)):
            continue
        seen.add(root.name)
        found = Cone(tracer, frame, [root], kind).find(source, None)
        if found is not None and found.last.name not in seen and _is_stored(found.mean) and _is_layer(tracer, found, divisor):
            yield found


def _is_layer(tracer: Tracer, chain: Chain, divisor: Value) -> bool:
    """Whether it has the parameters of a layer, or the epsilon of one and the outputs of another as its input."""
    if _is_stored(chain.gamma) and _is_stored(chain.beta):
        return True
    has_epsilon = divisor.op in SUMS and any(rank_of(tracer.trace(divisor.operand(number))) == 0 for number in (0, 1))
    return has_epsilon and not _is_input(tracer, chain.x)


def prepares_inputs(tracer: Tracer, frame: Frame, root: Node, chain: Chain) -> bool:
    """Whether a sum with this root only standardizes an input of the graph: it has no epsilon, gamma or beta."""
    return (chain.gamma is None and chain.beta is None and not chain.is_outside and inner(operand(frame, root, 0)).op not in SUMS
            and _is_input(tracer, chain.x))


def _is_stored(source: Traced | None) -> bool:
    """Whether a value is a parameter, and no single number."""
    return isinstance(source, (Variable, Constant, Parts)) and rank_of(source) != 0


def _is_input(tracer: Tracer, x: Value) -> bool:
    """Whether a value is an input of the graph as it is given, or scaled and shifted by single numbers, as by Keras's Rescaling."""
    for _ in range(MAX_LENGTH):
        node = x.node
        before = x.frame.outside(x.output.node) if node is None else x.operand(0) if node.op in PASSES else _scaled(tracer, x)
        if before is None:
            return node is None or node.op.startswith("Placeholder")
        x = before
    return False


def _scaled(tracer: Tracer, x: Value) -> Value | None:
    """What a sum or product with a single number is made of; None for other ops."""
    if x.op not in SCALES:
        return None
    sides = [x.operand(0), x.operand(1)]
    numbers = [rank_of(tracer.trace(side)) == 0 for side in sides]
    return sides[0] if numbers == [False, True] else sides[1] if numbers == [True, False] and x.op not in DIVISIONS else None

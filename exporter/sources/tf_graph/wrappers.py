"""Functions that do nothing but hand their arguments to another one, as TensorFlow makes them for each signature of a model."""

from __future__ import annotations

from exporter.formats.graph_def import Node
from exporter.sources.tf_graph.ops import CALLS
from exporter.sources.tf_graph.values import Frame

RETURNS = frozenset({"Identity", "NoOp"})


def is_wrapper(frame: Frame, call: Node) -> bool:
    """Whether a bound function consists of a call of another one, with its own arguments as they are, and of ops that return the results:
    then everything in the other one means the same as without the wrapper."""
    if frame.caller is not None or call.op not in CALLS or call.op == "RemoteCall" or not frame.bound:
        return False
    return all(frame.argument(output.node) is not None for output in call.inputs) and all(
        node.op in RETURNS or node is call for node in frame.body.nodes.values())

"""Layers that one graph calls in both modes: with the statistics of the batch, and with stored ones."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

from exporter.formats.graph_def import Body
from exporter.sources.tf_graph.graph_norm import GraphNorm

# Both modes are computed before one is chosen: Keras up to 2.1 on a placeholder, the learning phase.
CHOOSES = frozenset({"Switch", "RefSwitch", "Merge", "RefMerge", "Select", "SelectV2", "If", "StatelessIf"})


def layers_in_both_modes(norms: Sequence[tuple[str, GraphNorm]], body: Body, *, is_served: bool) -> set[Hashable]:
    """`of_layer` of the layers that one body calls in both modes: a function to train may be served beside that of inference.

    norms: each with the node of the body that it is, or that calls its function. is_served: whether all of the body computes the result
    of inference. Otherwise there may be a copy of the network for training in it, with a result of its own.
    """
    stored = {norm.of_layer for _, norm in norms if not norm.in_training} - {None}
    training = [(name, norm.of_layer) for name, norm in norms if norm.in_training and not norm.conditional and norm.of_layer in stored]
    if not training:
        return set()
    users = {name: [user.name for user in each] for name, each in body.users.items()}
    ends = body.ends or {
        name for name, node in body.nodes.items() if name not in users and "Assign" not in node.op}
    if not is_served:
        ends &= _reached((name for name, norm in norms if not norm.in_training), users)
    inputs = {name: [output.node for output in node.inputs] for name, node in body.nodes.items() if node.op not in CHOOSES}
    needed = _reached(ends, inputs)
    return {layer for name, layer in training if name in needed}


def _reached(names: Iterable[str], following: Mapping[str, Iterable[str]]) -> set[str]:
    """These and all that follow them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += following.get(name, ())
    return found

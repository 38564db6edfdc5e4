"""Gammas and betas that a graph uses otherwise than the batch norm does beside whose statistics they are stored.

    (x_norm + beta) * gamma          a batch norm with beta alone, and a product
    x_norm * gamma - beta
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

from exporter.batchnorm.stored import AFFINE, STATISTICS
from exporter.formats.graph_def import Body, Output
from exporter.sources.tf_graph.graph_norm import OTHER_USE, GraphNorm
from exporter.sources.tf_graph.ops import PASSES
from exporter.sources.tf_graph.trace import MAX_SEARCH_WIDTH
from exporter.sources.tf_graph.values import Constant, Value, Variable

# How the names of ops begin that compute nothing with the numbers of a variable.
STORES = ("Save", "Assign", "Restore", "VarIsInitialized", "IsVariableInitialized", "VariableShape", "DestroyResource")


def without_other_use(norms: Sequence[GraphNorm], used: Callable[[], Collection[str]]) -> list[GraphNorm]:
    """The batch norms, with the reason against each that lacks a gamma or beta which the graph uses, and for no other batch norm. used: the
    names of the variables or constants that it uses, without those that several have; asked if a batch norm lacks something."""
    lacking = {norm for norm in norms if norm.gamma is None or norm.beta is None}
    if not lacking:
        return list(norms)
    played = {role.name for norm in norms for role in (norm.gamma, norm.beta) if role is not None}
    names = set(used()) - played
    return [_against(norm, names) if norm in lacking else norm for norm in norms]


def _against(norm: GraphNorm, names: Collection[str]) -> GraphNorm:
    name = norm.variance.name if isinstance(norm.variance, (Variable, Constant)) else ""
    scope, _, last = name.rpartition("/")
    if norm.reason or last != STATISTICS[1] or name not in names:
        return norm
    unused = [role for role in AFFINE if getattr(norm, role) is None and f"{scope}/{role}" in names and not _has(norm, f"{scope}/{role}")]
    return dataclasses.replace(norm, reason=OTHER_USE.format(role=unused[0])) if unused else norm


def _has(norm: GraphNorm, name: str) -> bool:
    """Whether a batch norm is itself computed from a variable, without effect (0 * beta), or whether that is unknown."""
    frame = norm.x.frame
    if frame.body.nodes.get(norm.node.name) is not norm.node:
        return True
    queue = [Value(frame, Output(norm.node.name, 0))]
    seen = set(queue)
    for value in queue:
        node = value.node
        before = [value.frame.outside(value.output.node)] if node is None else [Value(value.frame, output) for output in node.inputs]
        new = [one for one in before if one is not None and one not in seen][:MAX_SEARCH_WIDTH - len(seen)]
        seen.update(new)
        queue += new
    return any(_name_of(value) == name for value in queue)


def _name_of(value: Value) -> str:
    source = value.node or value.frame.bound.get(value.output.node)
    return source.name if source is not None else ""


def used_names(body: Body) -> set[str]:
    """The nodes of a body with which others compute. Users follow what they use; a value that is only passed on is not used."""
    used: set[str] = set()
    for node in reversed(list(body.nodes.values())):
        if (node.op not in PASSES or node.name in used) and not node.op.startswith(STORES):
            used.update(output.node for output in node.inputs)
    return used

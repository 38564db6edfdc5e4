"""From a graph in which variables became constants to its batch norms, and what is left of others: folded, truncated, of other forms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporter.batchnorm.stored import AFFINE, STATISTICS
from exporter.errors import UnsupportedError, names
from exporter.formats.graph_def import Graph
from exporter.keras.names import unnumbered
from exporter.sources.shared.refusals import FOLDED, ORIGINAL
from exporter.sources.tf_graph.chain import ROOTS
from exporter.sources.tf_graph.closed import about_compiled, check_is_open
from exporter.sources.tf_graph.graph_norm import GraphNorm
from exporter.sources.tf_graph.layers import layers
from exporter.sources.tf_graph.norms import graph_norms
from exporter.sources.tf_graph.ops import FUSED, VARIABLES
from exporter.sources.tf_graph.other_use import used_names, without_other_use
from exporter.sources.tf_graph.paths import op_scope
from exporter.sources.tf_graph.values import Constant

if TYPE_CHECKING:
    from exporter.sources.shared.found import Found

FOLDABLE = frozenset({"Conv2D", "DepthwiseConv2dNative", "Conv3D", "Conv2DBackpropInput", "MatMul"})
SCALES = frozenset({"Mul", "Add", "AddV2", "Sub", "BiasAdd"})

_AVERAGE = re.compile(r"(.+)/moments/[^/]+/ExponentialMovingAverage")
_CHAIN_SCOPE = re.compile(r"batchnorm(_\d+)?")


def read_constants(graph: Graph, version: str, found: Found) -> None:
    """Reads the batch norms whose parameters are constants of a graph into `found`. Raises: UnsupportedError (not frozen, folded)."""
    norms = without_other_use(graph_norms(graph), lambda: used_names(graph.main))
    for outcome in layers(norms, lambda variable: None, version, is_served=True):
        found.take(outcome)
    folded = list(_folded(graph, norms))
    for scope in folded:
        found.skip(scope, f"it was folded: {FOLDED}")
    known = {path for path, _ in found.skipped}
    for scope, (roles, is_used) in _left_over(graph, norms).items():
        if scope not in known:
            found.skip(scope, f"the graph uses its {names(roles)} in a way that is not a known form of batch norm" if is_used else
                       f"no op of the graph uses its {names(roles)}: the graph seems to be truncated")
    for scope in _averages_left_over(graph, norms):
        if scope not in known:
            found.skip(scope, "the graph contains averages of its batch statistics that no batch norm uses: one of its ops is damaged, or "
                              "it is another kind of normalization")
    if not found.layers:
        _refuse(graph, norms, found, folded)
    for sentence in about_compiled(graph):
        found.warn(sentence)


def _refuse(graph: Graph, norms: list[GraphNorm], found: Found, folded: list[str]) -> None:
    """The error for a graph from which nothing can be exported, if there is one reason for all of it."""
    ops = {node.op for node in graph.main.nodes.values()}
    if not norms:
        check_is_open(graph)
    if norms and ops & VARIABLES:
        raise UnsupportedError("this graph is not frozen: its variables are in a checkpoint",
                               hint="give the checkpoint, with this graph beside it as its .meta file, or the SavedModel's folder")
    if not norms and folded:
        raise UnsupportedError(f"batch norm was folded away ({names(folded)}): {FOLDED}", hint=ORIGINAL)
    if not norms and not found.skipped and ops & FOLDABLE:
        raise UnsupportedError(f"the graph contains no batch norm; if the model had any, it was folded away: {FOLDED}", hint=ORIGINAL)


def _folded(graph: Graph, norms: list[GraphNorm]) -> Iterator[str]:
    """Scopes whose names show that there was a batch norm: a tool replaced its ops by a product and a sum, and kept their names.

    A scope of the user's own called "batchnorm" is not one: it contains batch norms, or sums called "add" (in TensorFlow's scope, "add" is
    variance + epsilon, which such a tool turns into a constant).
    """
    whole = {op_scope(norm.node) for norm in norms}
    above = {"/".join(parts[:count]) for parts in (scope.split("/") for scope in whole) for count in range(1, len(parts))}
    roots = {node.name.rpartition("/")[0] for node in graph.main.nodes.values() if node.op in ROOTS}
    for node in graph.main.nodes.values():
        scope, _, last = node.name.rpartition("/")
        in_chain = _CHAIN_SCOPE.fullmatch(scope.rpartition("/")[2]) and last != "add" and scope not in roots and scope not in above
        named = in_chain or FUSED.fullmatch(unnumbered(last))
        if node.op in SCALES and named and op_scope(node) not in whole:
            whole.add(op_scope(node))
            yield op_scope(node)


def _played(norms: list[GraphNorm]) -> set[str]:
    """The constants that are parameters of a batch norm."""
    return {role.name for norm in norms for role in (norm.gamma, norm.beta, norm.mean, norm.variance) if isinstance(role, Constant)}


def _averages_left_over(graph: Graph, norms: list[GraphNorm]) -> list[str]:
    """Scopes whose tf.nn.moments have moving averages among the constants that no batch norm uses."""
    played = _played(norms)
    found = [(name, match[1]) for name, node in graph.main.nodes.items() if node.op == "Const" and (match := _AVERAGE.fullmatch(name))]
    taken = {scope for name, scope in found if name in played}
    return list(dict.fromkeys(scope for _, scope in found if scope not in taken))


def _left_over(graph: Graph, norms: list[GraphNorm]) -> dict[str, tuple[list[str], bool]]:
    """Constants with the names of a batch norm's parameters that none computes with, by scope, and whether other ops use the statistics.

    A GraphDef does not contain its own length: a file that is cut after any node is still valid.
    """
    played = _played(norms)
    used = used_names(graph.main)
    found: dict[str, tuple[list[str], bool]] = {}
    for node in graph.main.nodes.values():
        scope, _, last = node.name.rpartition("/")
        if node.op == "Const" and node.name not in played and (last in STATISTICS or (last in AFFINE and node.name not in used)):
            roles, is_used = found.get(scope, ([], False))
            found[scope] = [*roles, last], is_used or node.name in used
    return found

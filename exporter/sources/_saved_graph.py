"""What the functions of a SavedModel say about its variables: which are a batch norm's, and its epsilon."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.formats.graph_def import Body, MetaGraph
from exporter.formats.object_graph import SavedGraph
from exporter.sources._graph import GraphNorm, find_norms
from exporter.sources._graph_trace import Source, Variable


class SavedFunctions:
    """The functions of a MetaGraphDef, which TensorFlow 2 calls through objects: their last arguments stand for objects' nodes."""

    def __init__(self, data: bytes, saved: SavedGraph) -> None:
        self._graph = MetaGraph(data, saved.where).graph
        self._graph.main = Body("", {})  # it calls the same functions again, with variables that no object is known by
        self._bound = {name: [Variable(node, saved.variable_name(node)) if saved.is_variable(node) else None for node in nodes]
                       for name, nodes in saved.bound_inputs().items() if name in self._graph}

    def norms(self) -> list[GraphNorm]:
        """Every batch norm of every function, once."""
        return find_norms(self._graph, self._bound)

    def norms_of(self, variances: Iterable[int]) -> dict[int, list[GraphNorm]]:
        """The batch norms that compute with these variables as their variance, by variable; in training they keep it as their average.

        The functions that take most variables are looked into first: whole models, which are enough in nearly all files.
        """
        found: dict[int, list[GraphNorm]] = {node: [] for node in variances}
        for name, variables in sorted(self._bound.items(), key=lambda item: -len(item[1])):
            keys = {variable.key for variable in variables if variable is not None}
            if any(node in keys and not norms for node, norms in found.items()):
                for norm in find_norms(self._graph, {name: variables}):
                    node = key_of(norm.moving[1] if norm.moving else norm.variance)
                    if node in found:
                        found[node].append(norm)
        return found


def key_of(source: Source | None) -> int | None:
    """The node of the object graph that a value is, None for other values."""
    return source.key if isinstance(source, Variable) and isinstance(source.key, int) else None

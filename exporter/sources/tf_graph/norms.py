"""The layers of a TensorFlow graph: each batch norm once, with a path.

One that computes with the statistics of the batch is omitted if the same layer also occurs with stored ones (tf.cond, a second tower,
a function for each mode).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence

from exporter.formats.graph_def import Graph
from exporter.sources.tf_graph.finder import Finder
from exporter.sources.tf_graph.graph_norm import GraphNorm
from exporter.sources.tf_graph.modes import layers_in_both_modes
from exporter.sources.tf_graph.paths import is_of_inference, op_scope, variable_scope
from exporter.sources.tf_graph.places import Calls
from exporter.sources.tf_graph.values import Constant, Value, Variable


def graph_norms(graph: Graph, bound: Mapping[str, Sequence[Variable | Constant | None]] | None = None, *,
                main: bool = True, each: Callable[[GraphNorm], object] | None = None) -> list[GraphNorm]:
    """The batch norms of a graph in the order of its ops, each once, with a path.

    bound: functions to search, with the variables and constants that their last arguments refer to (for TensorFlow 2's SavedModels,
    where the object graph and not the main graph shows what a function's captured inputs are). main: whether to search the main graph, too.
    each: called with those of several ops as they are found, as they will be in the result if no other batch norm changes that.

    Raises FormatError for a broken graph.
    """
    def begin(norm: GraphNorm) -> None:
        if each is not None and norm.certain and not norm.reason:
            each(dataclasses.replace(norm, path=_paths([norm])[0], calls=calls.of([norm], [norm])[0]))

    finder = Finder(graph, bound, main, begin)
    calls = Calls(finder.tracer)
    found, unique, both = list[GraphNorm](), set[GraphNorm](), set[Hashable]()
    copies = collections.Counter[Hashable]()
    for root, norms in finder.run():
        found += [norm for norm in dict.fromkeys(_without_copies([norm for _, norm in norms], copies)) if norm not in unique]
        unique.update(found)
        is_served = is_of_inference(root.name)
        if is_served or main:
            both |= layers_in_both_modes(norms, root, is_served=is_served)
    known = {norm.variance.identity for norm in found if norm.certain}
    found = [norm for norm in found if norm.certain or norm.variance.identity not in known]
    resolved: dict[Hashable, GraphNorm] = {}
    layers = _Layers()
    for norm in found:
        if not norm.in_training:
            if resolved.setdefault(norm.identity(), norm).is_assigned and not norm.is_assigned:
                resolved[norm.identity()] = norm  # another function reads what is stored
            layers.add(norm)
    kept: list[GraphNorm] = []
    for norm in found:
        if norm.in_training:
            if norm not in layers:
                layers.add(norm)
                kept.append(norm)
        elif resolved[norm.identity()] is norm:
            kept.append(norm)
    described = zip(kept, _paths(kept), calls.of(kept, found), strict=True)
    return [dataclasses.replace(norm, path=path, calls=own, also_in_training=not norm.in_training and norm.of_layer in both)
            for norm, path, own in described]


def _without_copies(norms: list[GraphNorm], known: collections.Counter[Hashable]) -> list[GraphNorm]:
    """Those of a function that none before it has: functions that contain a layer's constants are copies of one another, made for each way
    in which a model may be called. known: how often one function contains each; this one is added."""
    counted, kept = collections.Counter[Hashable](), []
    for norm in norms:
        content = _content(norm)
        counted[content] += content is not None
        if content is None or counted[content] > known[content]:
            kept.append(norm)
    known |= counted
    return kept


def _content(norm: GraphNorm) -> Hashable:
    """The values of a batch norm whose parameters are all constants of a function; None of another one."""
    roles = [role for role in (norm.gamma, norm.beta, norm.mean, norm.variance) if role is not None]
    if not norm.certain or not all(isinstance(role, Constant) and role.where for role in roles):
        return None
    return norm.epsilon, norm.axis, *(role.node.tensor().array().tobytes() if isinstance(role, Constant) else None
                                      for role in (norm.gamma, norm.beta, norm.mean, norm.variance))


class _Layers:
    """The layers that are already known. A batch norm in training may be one of them, in another mode.

    It is the same if it has the same gamma and beta, unless both keep their own statistics (a batch norm per domain); if it keeps
    the same statistics; or if it has no parameters and is in another branch of a conditional for the same input. The input alone
    shows nothing: there may be several batch norms over one tensor.
    """

    def __init__(self) -> None:
        self._of_affine: dict[Hashable, set[Hashable]] = {}
        self._statistics: set[Hashable] = set()
        self._of_input: dict[Value, set[tuple[bool, Hashable]]] = {}

    def add(self, norm: GraphNorm) -> None:
        self._of_affine.setdefault(norm.affine, set()).add(norm.stored)
        self._statistics.add(norm.stored)
        if norm.affine == (None, None):
            self._of_input.setdefault(norm.x, set()).add((norm.conditional, norm.stored))

    def __contains__(self, norm: GraphNorm) -> bool:
        stored = norm.stored
        if stored is not None and stored in self._statistics:
            return True
        if norm.affine != (None, None):
            others = self._of_affine.get(norm.affine, set())
            return bool(others) and (stored is None or None in others)
        return any((norm.conditional or conditional) and (stored is None or other is None)
                   for conditional, other in self._of_input.get(norm.x, ()))


def _paths(norms: list[GraphNorm]) -> list[str]:
    """Paths by the variables' scopes; where several layers share one (a whole model's variables in it), by the ops' if these differ."""
    paths = [variable_scope((norm.gamma, norm.beta), norm.moving or (norm.mean, norm.variance)) or op_scope(norm.node) for norm in norms]
    by_path: dict[str, list[int]] = {}
    for number, path in enumerate(paths):
        by_path.setdefault(path, []).append(number)
    for numbers in by_path.values():
        scopes = [op_scope(norms[number].node) for number in numbers]
        if len(numbers) > 1 and len(set(scopes)) == len(scopes):
            for number, scope in zip(numbers, scopes):
                paths[number] = scope
    return paths

"""What the functions of a SavedModel show about its variables: which belong to a batch norm, and its epsilon."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from exporter.errors import FormatError, UnsupportedError, printable
from exporter.formats.graph_def import MetaGraph
from exporter.formats.object_graph import CheckpointGraph, SavedGraph
from exporter.sources.tf_graph.closed import about_compiled, check_is_open
from exporter.sources.tf_graph.graph_norm import GraphNorm
from exporter.sources.tf_graph.norms import graph_norms
from exporter.sources.tf_graph.ops import CALLS
from exporter.sources.tf_graph.other_use import without_other_use
from exporter.sources.tf_graph.paths import is_of_inference
from exporter.sources.tf_graph.values import Constant, Traced, Variable


class SavedFunctions:
    """The functions of a MetaGraphDef, which TensorFlow 2 calls through objects: their last arguments refer to the nodes of objects."""

    def __init__(self, data: bytes, saved: SavedGraph, stored: CheckpointGraph) -> None:
        self._graph = MetaGraph(data, saved.where).graph

        @functools.cache
        def captured(node: int) -> Variable | Constant | None:
            if node < len(stored) and stored.is_variable(node):
                return Variable(node, stored.variable_name(node))
            if saved.is_variable(node):
                return Variable(node, saved.variable_name(node))
            constant = self._graph.main.nodes.get(saved.constant(node))  # the ones that a layer without gamma multiplies by
            return Constant(constant, "") if constant is not None and constant.op == "Const" else None

        self._nodes = saved.bound_inputs()
        self._bound = {name: [captured(node) for node in nodes] for name, nodes in self._nodes.items()}
        self._serving = [name for name in self._bound if is_of_inference(name)]
        self._found: dict[str, list[GraphNorm]] = {}

    def norms(self, each: Callable[[GraphNorm], object] | None = None) -> list[GraphNorm]:
        """Every batch norm of every function, once. each: see `graph_norms`.

        Raises FormatError if a function is bound to other objects than its caller.
        """
        for name in self._nodes:
            self._check_calls(name)
        # without the main graph: it calls the same functions, with variables of no object
        norms = graph_norms(self._graph, self._bound, main=False, each=each)
        return without_other_use(norms, self._used)

    def _check_calls(self, caller: str) -> None:
        """Everything a function is bound to must also be bound to, and passed on by, its callers: the file stores it repeatedly, without a
        checksum."""
        body = self._graph.function(caller)
        own = dict(zip(reversed(body.arguments), reversed(self._nodes[caller])))
        for node in body.nodes.values():
            for called in node.functions(CALLS[node.op]) if node.op in CALLS else ():
                pairs = zip(reversed(node.inputs), reversed(self._nodes.get(called, [])))
                if any(own.get(given.node, taken) != taken for given, taken in pairs):
                    raise FormatError(f"the function {printable(called)} is bound to different objects than its caller {printable(caller)}",
                                      where=self._graph.where, hint="the file is damaged: copy or save the SavedModel again")

    def check_is_open(self) -> None:
        """Raises UnsupportedError if batch norms would be invisible: in compiled code, or if there are no functions."""
        check_is_open(self._graph)
        if not any(isinstance(source, Variable) for sources in self._bound.values() for source in sources):
            raise UnsupportedError("the SavedModel contains no function that uses a variable and no Keras metadata, so the role of its "
                                   "variables is unknown", hint="save the Keras model itself, or use model.export()")

    def about_compiled(self) -> list[str]:
        """A warning about parts that are compiled, if there are any."""
        return about_compiled(self._graph)

    def norms_of(self, variances: Iterable[int]) -> dict[int, list[GraphNorm]]:
        """The batch norms that compute with these variables as their variance, by variable; in training they keep it as their average.

        The functions of inference are searched first, and of the others those with the most variables: these are whole models, which
        suffice for nearly all files. Other functions exist for each mode in which a layer may be called; those of training count only
        if there is nothing else.
        """
        found: dict[int, list[GraphNorm]] = {node: [] for node in variances}
        left = set(found)
        for names in (self._serving, [name for name in self._bound if not is_of_inference(name)]):
            for name in sorted(names, key=lambda name: -len(self._bound[name])):
                if left.isdisjoint(self._variables(name)):
                    continue
                for norm in self._search(name):
                    node = key_of(norm.moving[1] if norm.moving else norm.variance)
                    if node in found:
                        found[node].append(norm)
                        if not norm.in_training and not norm.is_assigned:
                            left.discard(node)
            left = {node for node in left if not found[node]}  # a function to train may be served, too, beside that of inference
        return found

    def of_call(self, names: Iterable[str], variance: int) -> list[tuple[GraphNorm, str]]:
        """The batch norms with stored statistics in functions of a layer's own call that compute with its variance, of the first function
        that has any; each with the op that does something else in it, or ""."""
        from exporter.sources.tf_graph.own_call import other_op

        for name in names:
            found = [norm for norm in self._search(name) if not norm.in_training and key_of(norm.variance) == variance]
            if found:
                return [(norm, other_op(self._graph, name, self._bound[name], norm)) for norm in found]
        return []

    def serve(self, node: int) -> bool:
        """Whether a function of inference uses a variable."""
        return self.use(self._serving, node)

    def use(self, names: Iterable[str], node: int) -> bool:
        """Whether one of these functions uses a variable."""
        return any(node in self._variables(name) for name in names)

    def used(self) -> set[int]:
        """The nodes of the object graph that any function uses."""
        return set().union(*self._nodes.values())

    def others(self, known: AbstractSet[int]) -> list[GraphNorm]:
        """The batch norms in functions of inference that compute with none of these variables; in all functions if none serves."""
        names = self._serving or list(self._bound)
        for name in sorted(names, key=lambda name: (name not in self._found, -len(self._bound[name]))):
            # constants are no variables; a function that computes nothing with the unknown ones says nothing of the next one
            is_searched = not self._variables(name) <= known or name in self._serving or name in self._found
            if is_searched and any(_uses_other(norm, known) for norm in self._search(name)):
                bound = {name: self._bound[name] for name in names}
                norms = graph_norms(self._graph, bound, main=False)
                return without_other_use([norm for norm in norms if _uses_other(norm, known)], self._used)
        return []

    def _used(self) -> set[str]:
        """The names of the variables that functions are bound to, without those that several have."""
        named = {source.key: source.name for sources in self._bound.values() for source in sources if isinstance(source, Variable)}
        return {name for name, count in collections.Counter(named.values()).items() if count == 1}

    def _variables(self, name: str) -> set[int]:
        return {node for variable in self._bound[name] if (node := key_of(variable)) is not None}

    def _search(self, name: str) -> list[GraphNorm]:
        if name not in self._found:
            self._found[name] = graph_norms(self._graph, {name: self._bound[name]}, main=False)
        return self._found[name]


def _uses_other(norm: GraphNorm, known: AbstractSet[int]) -> bool:
    roles = (norm.gamma, norm.beta, *(norm.moving or (norm.mean, norm.variance)))
    nodes = {node for role in roles if (node := key_of(role)) is not None}
    if nodes:
        return nodes.isdisjoint(known)
    return not norm.in_training and (bool(norm.reason) or isinstance(norm.variance, Constant))


def key_of(source: Traced | None) -> int | None:
    """The node of the object graph that a value refers to, None for other values."""
    return source.key if isinstance(source, Variable) and isinstance(source.key, int) else None

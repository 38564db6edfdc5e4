"""Batch norms in TensorFlow's object graphs: found by the names of their variables, named by what the file contains, read."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from exporter.batchnorm.dtypes import HELD_IN, round_to
from exporter.batchnorm.stored import PARAMETERS, STATISTICS, Skipped, Statistic, Stored
from exporter.errors import FormatError
from exporter.formats.object_graph import ADMINISTRATIVE, OBJECT_GRAPH, CheckpointGraph, ObjectGraph, Way
from exporter.formats.protobuf import Message
from exporter.keras.dialects import FUSED_MINIMUM, Era
from exporter.sources.shared.assemble import RENORM_EVER, assemble
from exporter.sources.tf_graph.ops import FUSED

if TYPE_CHECKING:
    from exporter.formats.tensor_bundle import Checkpoint, TensorBundle
    from exporter.keras.config import Node, NormFields
    from exporter.sources.tf_graph.graph_norm import GraphNorm

Names = tuple[str, ...]

SONNET = {"gamma": "scale", "beta": "offset"}
UNNAMED = "batch_normalization"  # Keras's default name of a layer

_NUMBERED = re.compile(r"layer(_with_weights)?-\d+|\d+")  # names given by Keras and by lists, not by people
_IN_MODEL = re.compile(r"layer(_with_weights)?-\d+")


def open_graph(checkpoint: TensorBundle) -> CheckpointGraph:
    """The object graph of an object-based checkpoint."""
    stored = checkpoint.strings(OBJECT_GRAPH)
    if len(stored) != 1:
        raise FormatError("expected the object graph to be one string", where=checkpoint.where)
    return CheckpointGraph(Message(stored[0], f"{checkpoint.where}: object graph"))


class ObjectNorm(NamedTuple):
    """A node with the variables of a batch norm.

    way: how it is reached. variables: the nodes of its parameters, by role. strange: other variables it contains.
    is_sonnet: of Sonnet 2, where scale and offset lack the axes of size 1 that the averages have in front.
    """

    way: Way
    variables: Mapping[str, int]
    strange: tuple[str, ...]
    is_sonnet: bool = False

    @property
    def node(self) -> int:
        return self.way[0][-1]


def object_norms(graph: ObjectGraph, is_variable: Callable[[int], bool]) -> list[ObjectNorm]:
    """Every object with variables moving_mean and moving_variance, in the model's order."""
    found = []
    for way in graph.walk():
        node = way[0][-1]
        variables = parameters(graph, node, is_variable)
        if variables:
            strange = (name for name, child in graph.children(node).items()
                       if name not in (*PARAMETERS, *RENORM_EVER) and is_variable(child))
            found.append(ObjectNorm(way, variables, tuple(strange)))
    return found


def parameters(graph: ObjectGraph, node: int, is_variable: Callable[[int], bool]) -> dict[str, int]:
    """The nodes of a batch norm's parameters, by role; empty if the node is not a batch norm."""
    children = graph.children(node)
    if not all(name in children and is_variable(children[name]) for name in STATISTICS):
        return {}
    return {name: children[name] for name in PARAMETERS if name in children and is_variable(children[name])}


def sonnet_norms(graph: CheckpointGraph) -> list[ObjectNorm]:
    """The batch norms of Sonnet 2: scale, offset, and for each statistic an object with average, which inference reads, hidden and counter
    (sonnet/src/batch_norm.py, sonnet/src/moving_averages.py)."""
    found = []
    for way in graph.walk():
        children = graph.children(way[0][-1])
        averages = [graph.children(children[name]) if name in children else {} for name in STATISTICS]
        if not all(average.keys() >= {"average", "_hidden", "_counter"} and graph.is_variable(average["average"]) for average in averages):
            continue
        own = {role: children[name] for role, name in SONNET.items() if name in children and graph.is_variable(children[name])}
        strange = (name for name, child in children.items() if name not in SONNET.values() and graph.is_variable(child))
        statistics = {role: average["average"] for role, average in zip(STATISTICS, averages, strict=True)}
        found.append(ObjectNorm(way, own | statistics, tuple(strange), is_sonnet=True))
    return found


class ObjectNames:
    """Paths for the objects of a checkpoint, from the names of the variables: "net/block/bn/gamma" is block/bn in the model net.

    The model's own name is removed. A checkpoint contains a nested model's name only in its variables' names; otherwise its name in the
    object graph, "backbone" or "layer_with_weights-1", is used instead. Variables without a scope: the objects' names.
    """

    def __init__(self, graph: CheckpointGraph) -> None:
        self._ways: dict[int, Names] = {}
        self._scopes: dict[Names, Names] = {}
        self._below: dict[Names, list[Names]] = collections.defaultdict(list)
        self._holders: dict[Names, list[Names]] = collections.defaultdict(list)
        self._named: dict[Names, str] = {}
        holders = []
        for nodes, names in graph.walk():
            self._ways[nodes[-1]] = names
            scope = None if not names or ADMINISTRATIVE.intersection(names) else _scope(graph, nodes[-1])
            if scope is not None:
                holders.append(names)
            if scope:
                self._scopes[names] = scope
                self._holders[scope].append(names)
                for length in range(len(names)):
                    self._below[names[:length]].append(names)
        self._model = _model(holders)
        if len(self._scopes) > 1 == len(self._holders) and not any(map(_IN_MODEL.fullmatch, itertools.chain(*holders))):
            self._scopes.clear()  # one scope for all, as in a subclassed model of Keras 3: the model's name, not a layer's

    def path(self, node: int) -> str:
        """The path of an object that can be reached from the root."""
        names = self._ways[node]
        scope = self._scopes.get(names)
        if not scope:
            return "/".join(name for name in names[len(self._model) :] if name not in ADMINISTRATIVE) or (names or (UNNAMED,))[-1]
        parts: list[str] = []
        for end in range(len(self._model) + 1, len(names)):
            if _IN_MODEL.fullmatch(names[end]) and not self._name(names[:end]):
                parts += names[end - 2 : end] if names[end - 1].isdigit() else names[end - 1 : end]
        parts += scope[1:] if scope[0] == self._name(self._model) else scope
        # Layers built by their owner all have its scope: then the attribute distinguishes them.
        shared = any(other != names and names[: len(other) - 1] == other[:-1] for other in self._holders[scope])
        return "/".join([*parts, *([names[-1]] if shared and not _NUMBERED.fullmatch(names[-1]) else [])])

    def _name(self, model: Names) -> str:
        """The model's own name if the scopes below it begin with it: all of several do, or one of its own attributes does; otherwise ""."""
        if model not in self._named:
            below = {names[len(model) :]: self._scopes[names] for names in self._below[model]}
            first = {scope[0] for scope in below.values()}
            named = len(first) == 1 and all(len(scope) > 1 for scope in below.values()) and not any(
                _IN_MODEL.fullmatch(keys[0]) for keys in _shared(below))
            own = {scope[0] for names, scope in below.items() if len(names) == 1 and len(scope) == 2 and not _NUMBERED.fullmatch(names[0])}
            self._named[model] = first.pop() if named else own.pop() if len(own) == 1 else ""
        return self._named[model]


def _model(layers: Sequence[Names]) -> Names:
    """The path from the root to the model: the names shared by all its layers, without those of lists and of layers in a model's own
    list."""
    shared = [keys[0] for keys in _shared(names[:-1] for names in layers)]
    model = tuple(itertools.takewhile(lambda key: not _IN_MODEL.fullmatch(key), shared))
    return model[:-1] if any(names[len(model)].isdigit() for names in layers) else model


def _shared(paths: Iterable[Names]) -> Iterator[Names]:
    """The keys at each position as long as all paths have the same one there."""
    return itertools.takewhile(lambda keys: len(set(keys)) == 1, zip(*paths, strict=False))


def _scope(graph: CheckpointGraph, node: int) -> Names | None:
    """What stands before the last part of the names of a layer's own variables; None for an object without any, or with several."""
    stored = [value for child in graph.children(node).values() if (value := graph.stored(child))]
    scopes = {tuple(value.full_name.split("/")[:-1]) for value in stored}
    return scopes.pop() if len(scopes) == 1 else None


def batch_norm(checkpoint: Checkpoint, keys: Mapping[str, str], path: str, *, node: Node | None, config: NormFields | None, era: Era | None,
               rank: int | None, broadcasts: bool) -> Stored:
    """A layer from the tensors of its parameters (role: key) and what its config says.

    rank: of the input, where the config does not say it itself. broadcasts: whether some may lack the axes in front that others have.

    Raises FormatError if tensors are damaged, or contradict one another or the config.
    """
    infos = {role: checkpoint.info(key) for role, key in keys.items()}
    for role, info in infos.items():
        if info.dtype not in HELD_IN:
            raise FormatError(f"its {role} has type {info.dtype}, expected a floating point type", where=f"layer {path}")
    for role, flag, said in (("gamma", "scale", config and config.scale), ("beta", "center", config and config.center)):
        if said is not None and said != (role in keys):
            raise FormatError(f"its config has {flag}={said}, but the checkpoint has {'a' if role in keys else 'no'} {role} for it",
                              where=f"layer {path}")
    dtype = _dtype({info.dtype for info in infos.values()})
    arrays = {role: (checkpoint.read(key).astype(HELD_IN[dtype]), dtype) for role, key in keys.items()}
    if broadcasts:
        rank = max(values.ndim for values, _ in arrays.values())
        arrays = {role: (values.reshape((1,) * (rank - values.ndim) + values.shape), dtype) for role, (values, _) in arrays.items()}
    return assemble(path, node, config, arrays, era or Era(), rank, name=path.rpartition("/")[2])


def epsilon_of(norms: Iterable[GraphNorm]) -> float | None:
    """The epsilon that all of these compute with; None if they have none or several."""
    epsilons = {norm.epsilon for norm in norms if norm.epsilon is not None}
    return epsilons.pop() if len(epsilons) == 1 else None


def with_kernel(layer: Stored, norms: Iterable[GraphNorm], era: Era | None) -> Stored | Skipped:
    """A layer with a config, and what the graph that TensorFlow made of it computes with: from 1.4 to 2.11 its fused kernels raised small
    epsilons. Skipped where the two contradict each other otherwise."""
    norms, said = list(norms), layer.epsilon
    if said is None:
        return layer
    for norm in norms:
        if norm.epsilon is not None and not _agrees(said, norm.epsilon, norm.node.op, era):
            return Skipped(layer.path, f"its epsilon is {said:g} in its config and {norm.epsilon:.7g} in the graph: the code of its "
                                       "class uses another one, or the file was changed after it was saved")
    epsilon = epsilon_of(norms)
    if epsilon is None:
        return layer
    if all(norm.is_outside for norm in norms):  # what the code of a user's class does with it
        return layer.replace(statistic=Statistic.EPSILON_OUTSIDE)
    effective = None if _is_rounded(said, epsilon) else epsilon
    return layer if effective is layer.effective_epsilon is None else layer.replace(effective_epsilon=effective)


def _agrees(said: float, epsilon: float, op: str, era: Era | None) -> bool:
    """Whether the epsilon of an op is the config's, in whatever type the graph has it, or what a fused kernel raised that to."""
    if _is_rounded(said, epsilon):
        return True
    raised = said < FUSED_MINIMUM and np.float32(epsilon) == np.float32(FUSED_MINIMUM)
    return raised and FUSED.fullmatch(op) is not None and (era is None or era.version is None or era.raises_epsilon)


def _is_rounded(value: float, rounded: float) -> bool:
    """Whether one number is the other in one of the types that layers compute in."""
    return any(rounded == float(round_to(np.asarray(value, np.float64), dtype)) for dtype in HELD_IN)


def _dtype(dtypes: set[str]) -> str:
    """The type that holds all of these exactly."""
    if len(dtypes) == 1:
        return dtypes.pop()
    return "float64" if "float64" in dtypes else "float32"

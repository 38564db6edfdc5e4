"""Every batch norm of a TensorFlow graph: which variable or constant plays which role, and the epsilon.

Fused ops (FusedBatchNorm, V2, V3, and what the graph optimiser makes of them), the op of the first TensorFlow, and chains (`_graph_chain`).
One that computes with the statistics of the batch is left out where the same layer is also there with stored ones (tf.cond, a second tower,
a function for each mode). Layer, group and instance normalisation are not batch norm and are not reported.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from exporter.formats.graph_def import Body, Graph, Node
from exporter.sources.tf_graph.chain import ADDITIONS, Chain, chains, inner, users_of
from exporter.sources.tf_graph.trace import (
    CALLS,
    CHOICES,
    FUSED,
    LOOPS,
    PASSES,
    Constant,
    Filled,
    Frame,
    Moment,
    Opaque,
    Parameter,
    Parts,
    Source,
    Tracer,
    Value,
    Variable,
    operand,
)

FUSED_EPSILON = float(np.float32(1e-4))  # the op's own default, which SavedModels strip (tensorflow/core/ops/nn_ops.cc)
FUSED_CONVOLUTIONS = frozenset({"_FusedConv2D", "_FusedDepthwiseConv2dNative"})
UNKNOWN = "Rsqrt"  # what stands for the class where only the root of a stored variance was found
GLOBAL = "BatchNormWithGlobalNormalization"
LAYOUTS = {"NHWC": (-1, 4), "NCHW": (1, 4), "NDHWC": (-1, 5), "NCDHW": (1, 5)}
RANKS = {"Conv2D": 4, "DepthwiseConv2dNative": 4, "Conv2DBackpropInput": 4, "MaxPool": 4, "AvgPool": 4, "Conv3D": 5, "MatMul": 2}
KEEPS_RANK = PASSES | ADDITIONS | {"Relu", "Relu6", "Elu", "Selu", "LeakyRelu", "Tanh", "Sigmoid", "Softplus", "Mul", "Sub", "Neg"}
OF_THE_BATCH = "it computes with the statistics of the batch (is_training), not with stored ones"

# What TensorFlow and Keras call the scopes and ops of one batch norm, below the layer's own scope.
INNER_SCOPE = re.compile(r"(batchnorm|cond|batch_normalization_op|_?FusedBatchNorm(V2|V3|Ex)?)(_\d+)?")
CALL_SCOPE = re.compile(r"(Stateful)?PartitionedCall(_\d+)?")
# Names that tf.constant, tf.ones and tf.zeros give by themselves: nobody's parameter when every value is neutral.
UNNAMED = re.compile(r"(Const|ones|zeros|ones_like|zeros_like|Fill)(_\d+)?")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class GraphNorm:
    """One batch norm of a graph.

    path:     the scope of its variables, else of its ops; "" until all are known.
    node:     its last op. x: what it normalises.
    gamma, beta: None where the graph has none.
    mean, variance: parameters where `reason` is "".
    epsilon:  a float32 as a double, or None. axis, ndim: where the graph says them.
    moving:   in training, the moving averages that the graph's update ops keep.
    reason:   why it cannot be resolved, or "".
    """

    node: Node
    x: Value
    class_name: str
    gamma: Parameter | None
    beta: Parameter | None
    mean: Source
    variance: Source
    epsilon: float | None
    axis: int | None
    ndim: int | None
    reason: str
    moving: tuple[Parameter, Parameter] | None = None
    path: str = ""

    @property
    def in_training(self) -> bool:
        return self.reason == OF_THE_BATCH

    def identity(self) -> tuple[Hashable, ...]:
        roles = (self.mean, self.variance, self.gamma, self.beta)
        return (*(role.identity if role is not None else None for role in roles), self.epsilon)


def find_norms(graph: Graph, bound: Mapping[str, Sequence[Variable | None]] | None = None) -> list[GraphNorm]:
    """The batch norms of a graph in the order of its ops, each once, with a path.

    bound: functions to look into besides the main graph, with the variables that their last arguments stand for (for TensorFlow 2's
    SavedModels, where the object graph and not the main graph says what a function's captured inputs are).

    Raises FormatError for a broken graph.
    """
    found = list(_Finder(graph, bound).run())
    known = {norm.variance.identity for norm in found if norm.class_name != UNKNOWN}
    found = [norm for norm in found if norm.class_name != UNKNOWN or norm.variance.identity not in known]
    resolved: dict[Hashable, GraphNorm] = {}
    for norm in found:
        if not norm.in_training:
            resolved.setdefault(norm.identity(), norm)
    kept: list[GraphNorm] = []
    for norm in found:
        if norm.in_training:
            if not any(_same_layer(norm, other) for other in (*resolved.values(), *kept)):
                kept.append(norm)
        elif resolved[norm.identity()] is norm:
            kept.append(norm)
    return _with_paths(kept)


def _same_layer(norm: GraphNorm, other: GraphNorm) -> bool:
    """Whether a batch norm in training is the layer that is also there in another mode."""
    affine = [(one.identity if one is not None else None) for one in (norm.gamma, norm.beta, other.gamma, other.beta)]
    if affine[:2] == affine[2:] and (norm.gamma is not None or norm.beta is not None):
        return True
    statistics = norm.moving or (norm.mean, norm.variance)
    return norm.x == other.x or [one.identity for one in statistics] == [other.mean.identity, other.variance.identity]


class _Finder:
    def __init__(self, graph: Graph, bound: Mapping[str, Sequence[Variable | None]] | None) -> None:
        self.graph = graph
        self.tracer = Tracer(graph, bound)
        self._users: dict[str, dict[str, list[Node]]] = {}
        self._interesting: dict[str, bool] = {}
        self._updates: dict[Hashable, Parameter] | None = None
        self._below: dict[Frame, dict[str, list[Frame]]] = {}

    def run(self) -> Iterator[GraphNorm]:
        """Every one in every frame, also the same one several times, in the order of the ops; those of a function where it is called."""
        self._walk()
        for root in self.tracer.roots:
            yield from self._of(root)

    def _of(self, frame: Frame) -> Iterator[GraphNorm]:
        nodes = frame.body.nodes.values()
        norms = {node.name: norm for node in nodes if (norm := self._single(frame, node)) is not None}
        if any(node.op in ("Rsqrt", "Sqrt") for node in nodes):
            norms |= self._chains(frame)
        for node in nodes:
            if node.name in norms:
                yield norms[node.name]
            for below in self._below[frame].get(node.name, ()):
                yield from self._of(below)

    def _walk(self) -> None:
        """Finds what the main graph and the bound functions call that may hold a batch norm, once for equal arguments."""
        seen: set[tuple[str, tuple[Hashable, ...]]] = set()
        queue = list(self.tracer.roots)
        for frame in queue:
            below = self._below[frame] = {}
            for node in frame.body.nodes.values():
                for name, first in self._calls(frame, node):
                    sources = [self.tracer.trace(Value(frame, output)) for output in node.inputs[first:]]
                    key = name, tuple(source.identity for source in sources)
                    if key not in seen:
                        seen.add(key)
                        below.setdefault(node.name, []).append(self.tracer.enter(frame, node, name, first))
            queue += [one for frames in below.values() for one in frames]

    def _calls(self, frame: Frame, node: Node) -> list[tuple[str, int]]:
        if node.op not in CALLS and node.op not in CHOICES and node.op not in LOOPS and node.op not in self.graph:
            return []
        return [(name, first) for name, first in self.tracer.called(frame, node) if self._holds_norms(name)]

    def _holds_norms(self, function: str) -> bool:
        """Whether a function, or one that it calls, has an op from which a batch norm can be found."""
        if function not in self._interesting:
            self._interesting[function] = False  # one that calls itself adds nothing to what it holds
            names, reached = [function], {function}
            for name in names:
                for node in self.graph.function(name).nodes.values():
                    if node.op in ("Rsqrt", "Sqrt", GLOBAL) or FUSED.fullmatch(node.op) or node.op in FUSED_CONVOLUTIONS:
                        self._interesting[function] = True
                        return True
                    attributes = (CALLS.get(node.op, ""), *CHOICES.get(node.op, ()), *LOOPS.get(node.op, ()))
                    called = [*node.functions(*filter(None, attributes)), *([node.op] if node.op in self.graph else [])]
                    new = [name for name in called if name not in reached]
                    reached.update(new)
                    names += new
        return self._interesting[function]

    def _single(self, frame: Frame, node: Node) -> GraphNorm | None:
        """A batch norm that is one op."""
        if FUSED.fullmatch(node.op):
            return self._fused(frame, node, [0, 1, 2, 3, 4], node.boolean("is_training", True))
        if node.op in FUSED_CONVOLUTIONS and _fuses_norm(node):
            return self._fused(frame, node, [0, 2, 3, 4, 5], False)
        if node.op == GLOBAL:
            return self._fused(frame, node, [0, 4, 3, 1, 2], False)
        return None

    def _fused(self, frame: Frame, node: Node, inputs: list[int], training: bool) -> GraphNorm | None:
        x, scale, offset, mean, variance = (operand(frame, node, number) for number in inputs)
        sources = [self.tracer.trace(value) for value in (scale, offset, mean, variance)]
        if node.op == GLOBAL:
            epsilon = node.single("variance_epsilon", 0.0)
            sources[0] = sources[0] if node.boolean("scale_after_normalization", False) else Filled(1.0)
        else:
            epsilon = node.single("epsilon", FUSED_EPSILON)
        moving = (sources[2], sources[3])
        if training:
            sources[2:] = [Moment((frame, node.name, slot), True) for slot in (1, 2)]
            if self._is_layer_norm(x, sources[0], sources[1]):
                return None
        layout = node.text("data_format", "NHWC")
        axis, ndim = LAYOUTS.get(layout, (None, None))
        if axis is not None and ndim is not None:
            axis, ndim = self._through_transposes(frame, node, x, axis, ndim)
        reason = "" if axis is not None else f"its data_format is {layout}"
        return self._norm(node, node.op, x, sources, epsilon, axis, ndim, reason, moving)

    def _is_layer_norm(self, x: Value, scale: Source, offset: Source) -> bool:
        """tf.keras' LayerNormalization and instance norms borrow the fused op: inputs reshaped, scale and offset made for the occasion."""
        if isinstance(scale, (Variable, Parts)) or isinstance(offset, (Variable, Parts)):
            return False
        node = inner(x).node
        made = all(isinstance(one, (Filled, Opaque)) or (isinstance(one, Constant) and UNNAMED.fullmatch(one.name.rpartition("/")[2]))
                   for one in (scale, offset))
        return made and (isinstance(scale, (Opaque, Filled)) or (node is not None and node.op == "Reshape"))

    def _through_transposes(self, frame: Frame, node: Node, x: Value, axis: int, ndim: int) -> tuple[int, int | None]:
        """The axis of the layer where its input is transposed, or reshaped, to what the kernel can do."""
        before = x.node
        if before is None or before.op not in ("Transpose", "Reshape"):
            return axis, ndim
        if before.op == "Reshape":
            return axis, None
        order = self.tracer.integers(operand(x.frame, before, 1))
        after = [user for user in self._users_of(frame.body).get(node.name, ()) if user.op == "Transpose"]
        back = self.tracer.integers(operand(frame, after[0], 1)) if len(after) == 1 else None
        if order is None or back is None or len(order) != ndim or [order[n] for n in back if -1 < n < ndim] != list(range(ndim)):
            return axis, ndim
        return (order[axis] if order[axis] != ndim - 1 else -1), ndim

    def _chains(self, frame: Frame) -> dict[str, GraphNorm]:
        """Those that are several ops, by the name of the last."""
        found = {}
        for root, chain, variance in chains(self.tracer, frame, self._users_of(frame.body)):
            if chain is not None:
                norm, last = self._chained(chain), chain.last
            elif root.op == "Rsqrt" and isinstance(variance, (Variable, Constant, Parts)):
                norm = self._norm(root, UNKNOWN, Value(frame, root.inputs[0]), [Filled(1.0), Filled(0.0), variance, variance], None, None,
                                  None, "what is done with its variance is no batch norm that is known")
                last = root
            else:
                continue
            if norm is not None:
                found[last.name] = norm
        return found

    def _chained(self, chain: Chain) -> GraphNorm | None:
        sources = [chain.gamma or Filled(1.0), chain.beta or Filled(0.0), chain.mean, chain.variance]
        reason = "" if chain.epsilon is not None else "its epsilon is no constant of the graph, or was folded into the variance"
        return self._norm(chain.last, "tf.nn.batch_normalization", chain.x, sources, chain.epsilon, None, self._rank(chain.x), reason)

    def _norm(self, node: Node, class_name: str, x: Value, sources: Sequence[Source], epsilon: float | None, axis: int | None,
              ndim: int | None, reason: str, moving: tuple[Source, Source] | None = None) -> GraphNorm | None:
        """What was found, with the reason where a role is not played by a parameter; None where it is another normalisation."""
        gamma, beta = _affine(sources[0], 1.0), _affine(sources[1], 0.0)
        statistics = [self.tracer.moment(source) or source for source in sources[2:]]
        moments = [one for one in statistics if isinstance(one, Moment)]
        if moments:
            named = gamma is not None or beta is not None or "batchnorm" in node.name.split("/")[-2:] or FUSED.fullmatch(node.op)
            if not named or not all(moment.of_batch for moment in moments):
                return None
            reason, moving = OF_THE_BATCH, self._moving(sources[2:], moving)
        else:
            moving = None
        for role, source in zip(("gamma", "beta", "mean", "variance"), (gamma, beta, *statistics)):
            if isinstance(source, (Opaque, Filled)) and not reason:
                reason = f"its {role} is {source.reason if isinstance(source, Opaque) else 'made by the graph, not stored'}"
        kept = [one if not isinstance(one, (Opaque, Moment)) else None for one in (gamma, beta)]
        return GraphNorm(node, self._origin(x), class_name, kept[0], kept[1], statistics[0], statistics[1], epsilon, axis, ndim, reason,
                         _parameters(moving))

    def _moving(self, statistics: Sequence[Source], inputs: tuple[Source, Source] | None) -> tuple[Source, Source] | None:
        """The moving averages of a layer in training: fed to the op itself (from TensorFlow 2.3 on), or kept by AssignMovingAvg."""
        if inputs is not None and all(isinstance(one, Variable) for one in inputs):
            return inputs
        if self._updates is None:
            self._updates = dict(self._averages())
        mean, variance = (self._updates.get(one.identity) for one in statistics)
        return (mean, variance) if mean is not None and variance is not None else None

    def _averages(self) -> Iterator[tuple[Hashable, Parameter]]:
        """(statistic, moving average) of each  average -= (average - statistic) * (1 - decay)  (training/moving_averages.py)."""
        for frame in self._below:
            for node in frame.body.nodes.values():
                if node.op in ("AssignSub", "AssignSubVariableOp"):
                    target, product = self.tracer.trace(operand(frame, node, 0)), inner(operand(frame, node, 1)).node
                    if product is None or product.op != "Mul" or not isinstance(target, Variable):
                        continue
                    for difference in (inner(operand(frame, product, n)).node for n in (0, 1)):
                        if difference is not None and difference.op == "Sub":
                            sides = [self.tracer.trace(operand(frame, difference, n)) for n in (0, 1)]
                            if sides[0].identity == target.identity:
                                yield sides[1].identity, target

    def _users_of(self, body: Body) -> dict[str, list[Node]]:
        if body.name not in self._users:
            self._users[body.name] = users_of(body)
        return self._users[body.name]

    def _origin(self, x: Value) -> Value:
        """What is normalised, seen through the switches of a conditional."""
        for _ in range(100):
            node = x.node
            outside = x.frame.outside(x.output.node) if node is None else None
            if outside is None and (node is None or node.op not in PASSES):
                break
            x = outside if outside is not None else operand(x.frame, node, 0) if node is not None else x
        return Value(x.frame, x.output._replace(slot=0)) if x.node is not None and x.node.op == "Switch" else x

    def _rank(self, x: Value) -> int | None:
        """The rank of an activation, where the ops before it or the file's own notes say it."""
        for _ in range(100):
            node = x.node
            if node is None:
                outside = x.frame.outside(x.output.node)
                if outside is None:
                    return None
                x = outside
                continue
            shape = node.shape("_output_shapes") or (node.shape("shape") if node.op == "Placeholder" else None)
            if shape or node.op in RANKS:
                return len(shape) if shape else RANKS[node.op]
            if node.op not in KEEPS_RANK:
                return None
            x = operand(x.frame, node, 0)
        return None


def _fuses_norm(node: Node) -> bool:
    value = node.attribute("fused_ops")
    return value is not None and b"FusedBatchNorm" in value.message(1).raws(2)


def _parameters(sources: tuple[Source, Source] | None) -> tuple[Parameter, Parameter] | None:
    if sources is None or isinstance(sources[0], (Moment, Opaque)) or isinstance(sources[1], (Moment, Opaque)):
        return None
    return sources[0], sources[1]


def _affine(source: Source, neutral: float) -> Source | None:
    """gamma or beta, None where the graph itself makes the neutral value because the layer has no such parameter."""
    if isinstance(source, Filled) and source.value == neutral:
        return None
    if isinstance(source, Constant) and UNNAMED.fullmatch(source.name.rpartition("/")[2]):
        tensor = source.node.tensor()
        if tensor.dtype.kind != "other" and bool((tensor.array() == neutral).all()):
            return None
    return source


def _with_paths(norms: list[GraphNorm]) -> list[GraphNorm]:
    """Paths by the variables' scopes; where several layers share one (a whole model's variables in it), by the ops' if these differ."""
    paths = [_variable_scope(norm) or op_scope(norm.node) for norm in norms]
    by_path: dict[str, list[int]] = {}
    for number, path in enumerate(paths):
        by_path.setdefault(path, []).append(number)
    for numbers in by_path.values():
        scopes = [op_scope(norms[number].node) for number in numbers]
        if len(numbers) > 1 and len(set(scopes)) == len(scopes):
            for number, scope in zip(numbers, scopes):
                paths[number] = scope
    return [dataclasses.replace(norm, path=path) for norm, path in zip(norms, paths)]


def _variable_scope(norm: GraphNorm) -> str:
    """The scope that gamma and beta share, else the statistics; "" where they have none or the names are those of ops."""
    statistics = norm.moving or (norm.mean, norm.variance)
    for roles in ((norm.gamma, norm.beta), statistics):
        names = [re.sub(r"/part_\d+$", "", role.name) for role in roles if isinstance(role, (Variable, Constant, Parts))]
        scopes = {name.rpartition("/")[0] for name in names}
        if names:
            by_op = any(name.endswith(("/ReadVariableOp/resource", "/resource")) for name in names)
            return scopes.pop() if len(scopes) == 1 and not by_op else ""
    return ""


def op_scope(node: Node) -> str:
    """The scope of an op of a batch norm without the parts that all batch norms have; the op's own name where nothing is left."""
    parts = node.name.split("/")
    if not FUSED.fullmatch(node.op) and len(parts) > 1:
        parts.pop()
    whole = list(parts)
    while parts and INNER_SCOPE.fullmatch(parts[-1]):
        parts.pop()
    while parts and CALL_SCOPE.fullmatch(parts[0]):
        parts.pop(0)
    return "/".join(parts or whole)

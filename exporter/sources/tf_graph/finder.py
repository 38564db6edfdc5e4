"""Finds the batch norms of a graph: fused ops (FusedBatchNorm, V2, V3, and what the graph optimizer makes of them), the op of the first
TensorFlow, and chains (`chain`). Layer, group and instance normalization are not batch norm and are not reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from exporter.errors import names
from exporter.formats.graph_def import Body, Graph, Node
from exporter.sources.tf_graph.averages import Averages, without_correction
from exporter.sources.tf_graph.chain import ADDITIONS, ROOTS, Chain, chains, corrects_batch, inner, splits_batch
from exporter.sources.tf_graph.graph_norm import ASSIGNED, OF_THE_BATCH, OTHER_DIVISOR, UNKNOWN_FORM, GraphNorm
from exporter.sources.tf_graph.lookalikes import DIVIDES, lookalikes, prepares_inputs
from exporter.sources.tf_graph.ops import CHOICES, FUSED, PASSES, VARIABLES, called_by, functions_called
from exporter.sources.tf_graph.trace import Tracer
from exporter.sources.tf_graph.values import (
    UNNAMED,
    Constant,
    Filled,
    Frame,
    Moment,
    Opaque,
    Parameter,
    Parts,
    Roles,
    Traced,
    Value,
    Variable,
    is_made,
    operand,
    shaped,
)
from exporter.sources.tf_graph.wrappers import is_wrapper
from exporter.sources.tf_graph.writes import Writes

FUSED_EPSILON = float(np.float32(1e-4))  # the op's default, which SavedModels omit (tensorflow/core/ops/nn_ops.cc)
FUSED_CONVOLUTIONS = frozenset({"_FusedConv2D", "_FusedDepthwiseConv2dNative"})
MAX_LENGTH = 100  # ops in a row before a batch norm
GLOBAL = "BatchNormWithGlobalNormalization"
LAYOUTS = {"NHWC": (-1, 4), "NCHW": (1, 4), "NDHWC": (-1, 5), "NCDHW": (1, 5)}
RANKS = {"Conv2D": 4, "DepthwiseConv2dNative": 4, "Conv2DBackpropInput": 4, "MaxPool": 4, "AvgPool": 4, "Conv3D": 5, "MatMul": 2}
OPS_OF_CHAINS = ROOTS | DIVIDES
OPS_OF_NORMS = OPS_OF_CHAINS | FUSED_CONVOLUTIONS | {GLOBAL}
SHAPES = "_output_shapes"  # the attribute with the shapes of a node's outputs
LEADS_ON = PASSES | {"Merge", "RefMerge"}
BROADCASTS = frozenset({"Add", "AddV2", "Mul", "Sub"})
KEEPS_RANK = PASSES | ADDITIONS | BROADCASTS | {"Relu", "Relu6", "Elu", "Selu", "LeakyRelu", "Tanh", "Sigmoid", "Softplus", "Neg"}


class Inputs(NamedTuple):
    """The meaning of each input of an op."""

    x: int
    gamma: int
    beta: int
    mean: int
    variance: int


# tensorflow/core/ops/nn_ops.cc; a fused convolution has its filter and the number of what is fused with it in front.
FUSED_INPUTS = Inputs(x=0, gamma=1, beta=2, mean=3, variance=4)
OTHER_INPUTS = {GLOBAL: Inputs(x=0, mean=1, variance=2, beta=3, gamma=4),
                **dict.fromkeys(FUSED_CONVOLUTIONS, Inputs(x=0, gamma=2, beta=3, mean=4, variance=5))}


class _Op(NamedTuple):
    """The last op of a batch norm, and what it specifies itself."""

    node: Node
    class_name: str
    x: Value
    epsilon: float | None
    axis: int | None
    ndim: int | None
    reason: str


class Finder:
    """Every batch norm of a graph, see `graph_norms`."""

    def __init__(self, graph: Graph, bound: Mapping[str, Sequence[Variable | Constant | None]] | None, main: bool,
                 each: Callable[[GraphNorm], object] = lambda norm: None) -> None:
        """each: called with each chain as soon as it is found."""
        self.graph, self._each = graph, each
        self.tracer = Tracer(graph, bound, main=main)
        self._writes = Writes(self.tracer)
        self._interesting: dict[str, bool] = {}
        self._averages: Averages | None = None
        self._below: dict[Frame, dict[str, list[Frame]]] = {}
        self._norms: dict[Frame, dict[str, GraphNorm]] = {}
        self._ranks: dict[Value, int | None] = {}
        self._shapes: dict[tuple[bytes, int], tuple[int, ...] | None] = {}

    def run(self) -> Iterator[tuple[Body, list[tuple[str, GraphNorm]]]]:
        """Every batch norm in every frame, by the outermost body and with its node there, possibly the same one several times, in the order
        of the ops; those of a function at its call."""
        self._walk()
        for root in self.tracer.roots:
            norms = list(self._of(root))
            if any(norm.in_training and norm.affine == (None, None) for _, norm in norms) and not root.body.results and any(
                    node.op in VARIABLES for node in root.body.nodes.values()):  # else an unused output is the graph's
                users = root.body.users
                norms = [(name, dataclasses.replace(norm, conditional=norm.conditional or (norm.in_training and name not in users)))
                         for name, norm in norms]
            yield root.body, norms

    def _of(self, frame: Frame, outer: str = "") -> Iterator[tuple[str, GraphNorm]]:
        if frame not in self._norms:
            self._norms[frame] = self._within(frame)
        norms, below = self._norms[frame], self._below[frame]
        for name in [name for name in frame.body.nodes if name in norms or name in below] if norms or below else ():
            if name in norms:
                yield outer or name, norms[name]
            for called in below.get(name, ()):
                yield from self._of(called, outer or name)

    def _within(self, frame: Frame) -> dict[str, GraphNorm]:
        """The batch norms of a frame alone, by the name of their last op."""
        nodes = frame.body.nodes.values()
        ops = {node.op for node in nodes}
        single = {op for op in ops if op in OTHER_INPUTS or FUSED.fullmatch(op)}
        norms = {node.name: norm for node in nodes if node.op in single and (norm := self._single(frame, node)) is not None}
        return norms | self._chains(frame) if not ops.isdisjoint(OPS_OF_CHAINS) else norms

    def _walk(self) -> None:
        """Finds the called functions that may contain a batch norm, from the main graph and the bound functions, once for equal
        arguments."""
        seen: set[tuple[str, tuple[Hashable, ...]]] = set()
        known = {(frame.body.name, tuple(map(frame.bound.get, frame.body.arguments))): frame for frame in self.tracer.roots}
        queue = list(self.tracer.roots)
        for frame in queue:
            below = self._below[frame] = {}
            for node, name, first in self._calls(frame):
                if is_wrapper(frame, node):
                    given = name, tuple(frame.bound.get(output.node) for output in node.inputs)
                    if given not in known:
                        known[given] = self.tracer.enter(frame, node, name, first)
                    known[given].is_called = True
                    below[node.name] = [known[given]]
                    continue
                sources = [self.tracer.trace(Value(frame, output)) for output in node.inputs[first:]]
                key = name, tuple(source.identity for source in sources)
                if key not in seen:
                    seen.add(key)
                    below.setdefault(node.name, []).append(self.tracer.enter(frame, node, name, first))
            queue += [one for frames in below.values() for one in frames if one not in self._below]

    def _calls(self, frame: Frame) -> Iterator[tuple[Node, str, int]]:
        """The calls of functions with batch norms: node, function, and the number of the input that is its first argument."""
        nodes = frame.body.nodes.values()
        calling = {op for op in {node.op for node in nodes} if functions_called(op) or op in self.graph}
        for node in nodes if calling else ():
            if node.op in calling:
                yield from ((node, name, first) for name, first in self.tracer.called(frame, node) if self._holds_norms(name))

    def _holds_norms(self, function: str) -> bool:
        """Whether a function, or one that it calls, has an op from which a batch norm can be found."""
        if function not in self._interesting:
            self._interesting[function] = False  # a recursive call adds nothing
            names, reached = [function], {function}
            for name in names:
                for node in self.graph.function(name).nodes.values():
                    if node.op in OPS_OF_NORMS or FUSED.fullmatch(node.op):
                        self._interesting[function] = True
                        return True
                    new = [name for name in called_by(node, self.graph) if name not in reached]
                    reached.update(new)
                    names += new
        return self._interesting[function]

    def _single(self, frame: Frame, node: Node) -> GraphNorm | None:
        """A batch norm that is one op."""
        if FUSED.fullmatch(node.op):
            return self._fused(frame, node, FUSED_INPUTS, node.boolean("is_training", True))
        if node.op == GLOBAL or (node.op in FUSED_CONVOLUTIONS and _fuses_norm(node)):
            return self._fused(frame, node, OTHER_INPUTS[node.op], False)
        return None

    def _fused(self, frame: Frame, node: Node, inputs: Inputs, training: bool) -> GraphNorm | None:
        x = operand(frame, node, inputs.x)
        roles = Roles(*(self.tracer.trace(operand(frame, node, number)) for number in inputs[1:]))
        if node.op == GLOBAL:
            epsilon = node.single("variance_epsilon", 0.0)
            roles = roles if node.boolean("scale_after_normalization", False) else roles._replace(gamma=Filled(1.0))
        else:
            epsilon = node.single("epsilon", FUSED_EPSILON)
        fed = roles.mean, roles.variance
        if training:
            roles = roles._replace(mean=Moment((frame, node.name, 1), True), variance=Moment((frame, node.name, 2), True))
            if self._is_layer_norm(x, roles.gamma, roles.beta):
                return None
        layout = node.text("data_format", "NHWC")
        axis, ndim = LAYOUTS.get(layout, (None, None))
        if axis is not None and ndim is not None:
            axis, ndim = self._through_transposes(frame, node, x, axis, ndim)
        reason = "" if axis is not None else f"its data_format is {layout}"
        return self._norm(_Op(node, node.op, x, epsilon, axis, ndim, reason), roles, fed)

    def _is_layer_norm(self, x: Value, scale: Traced, offset: Traced) -> bool:
        """tf.keras's LayerNormalization and instance norms use the fused op with reshaped inputs and generated scale and offset."""
        if isinstance(scale, (Variable, Parts)) or isinstance(offset, (Variable, Parts)):
            return False
        made = all(isinstance(one, (Filled, Opaque)) or (isinstance(one, Constant) and UNNAMED.fullmatch(one.name.rpartition("/")[2]))
                   for one in (scale, offset))
        return made and (isinstance(scale, (Opaque, Filled)) or inner(x).op == "Reshape")

    def _through_transposes(self, frame: Frame, node: Node, x: Value, axis: int, ndim: int) -> tuple[int, int | None]:
        """The axis of the layer if its input is transposed or reshaped for the kernel."""
        x, _ = self._origin(x)
        if x.op not in ("Transpose", "Reshape"):
            return axis, ndim
        if x.op == "Reshape":  # of a matrix: contrib's batch_norm gives it two axes of size 1
            sizes = self.tracer.integers(x.operand(1))
            kept = [number for number, size in enumerate(sizes or ()) if size != 1]
            return (-1, 2) if sizes and len(sizes) == 4 and kept == [0, axis % 4] and self._after(frame, node, "Reshape") else (
                axis, ndim if axis > 0 else None)  # TimeDistributed's reshape is outside of the layer
        order = self.tracer.integers(x.operand(1))
        after = self._after(frame, node, "Transpose")
        back = self.tracer.integers(operand(frame, after[0], 1)) if len(after) == 1 else None
        if order is None or back is None or len(order) != ndim or [order[n] for n in back if -1 < n < ndim] != list(range(ndim)):
            return axis, ndim
        return (order[axis] if order[axis] != ndim - 1 else -1), ndim

    def _after(self, frame: Frame, node: Node, op: str) -> list[Node]:
        """The ops of this kind that use a node's output, also after a conditional around it."""
        same = frame.body.following([node], lambda _, user: user.op in LEADS_ON)
        return [user for one in same for user in frame.body.users.get(one.name, ()) if user.op == op]

    def _chains(self, frame: Frame) -> dict[str, GraphNorm]:
        """Batch norms that consist of several ops, by the name of the last one."""
        found, roots = dict[str, GraphNorm](), set[str]()
        for root, kind, chain, variance in chains(self.tracer, frame):
            if chain is not None:
                norm = None if prepares_inputs(self.tracer, frame, root, chain) else self._chained(chain)
            elif kind == "Rsqrt" and isinstance(variance, (Variable, Constant, Parts)) and not (
                    _is_number(frame, variance) or corrects_batch(self.tracer, frame, root)):
                norm = GraphNorm(root, Value(frame, root.inputs[0]), "", None, None, variance, variance, None, None, None,
                                 UNKNOWN_FORM, certain=False)
            else:
                continue
            if norm is not None:
                found[norm.node.name] = norm
                roots.add(root.name)
                self._each(norm)
        for chain in lookalikes(self.tracer, frame, roots.union(found)):
            norm = self._chained(chain)
            if norm is not None:
                found[norm.node.name] = dataclasses.replace(norm, reason=OTHER_DIVISOR)
        return found

    def _chained(self, chain: Chain) -> GraphNorm | None:
        roles = Roles(chain.gamma or Filled(1.0), chain.beta or Filled(0.0), chain.mean, chain.variance)
        reason = "" if chain.epsilon is not None else "its epsilon is not a constant of the graph, or was folded into the variance"
        rank = self._rank(chain.x)
        ndim = rank if rank is not None and rank > 1 else None  # a loop over the batch leaves one axis
        norm = self._norm(_Op(chain.last, "tf.nn.batch_normalization", chain.x, chain.epsilon, None, ndim, reason), roles)
        if norm is None:
            return None
        splits = splits_batch(self.tracer, chain)
        return dataclasses.replace(norm, splits_batch=splits, is_outside=chain.is_outside) if splits or chain.is_outside else norm

    def _norm(self, op: _Op, roles: Roles, fed: tuple[Traced, Traced] | None = None) -> GraphNorm | None:
        """The batch norm, with the reason if a role has no parameter; None if it is another normalization.

        fed: the statistics that are inputs of an op that computes its own.
        """
        gamma, beta = (None if is_made(source, neutral) else source for source, neutral in ((roles.gamma, 1.0), (roles.beta, 0.0)))
        mean, variance = (_beside(source) or self.tracer.moment(source) or source for source in (roles.mean, roles.variance))
        moments = [one for one in (mean, variance) if isinstance(one, Moment)]
        reason, moving = op.reason, None
        if moments:
            named = gamma is not None or beta is not None or "batchnorm" in op.node.name.split("/")[-2:] or FUSED.fullmatch(op.node.op)
            if not named or not all(moment.of_batch for moment in moments):
                return None
            moving = self._moving(roles, moments[0], fed)
            gamma, beta = without_correction(self.tracer, gamma, frozenset({"Mul"})), without_correction(self.tracer, beta, ADDITIONS)
            if isinstance(gamma, Opaque) or isinstance(beta, Opaque):
                moving = None  # with the averages, a layer that lacks what the graph computes
            else:
                reason = OF_THE_BATCH
        for role, source in zip(Roles._fields, (gamma, beta, mean, variance), strict=True):
            if isinstance(source, (Opaque, Filled)) and not reason:
                reason = f"its {role} is {source.reason if isinstance(source, Opaque) else 'computed by the graph, not stored'}"
        assigned = [role for role, source in zip(Roles._fields, roles, strict=True) if not moments and self._writes.precede(source)]
        if assigned:
            reason = ASSIGNED.format(role=names(assigned))
        kept = [one if not isinstance(one, (Opaque, Moment)) else None for one in (gamma, beta)]
        x, conditional = self._origin(op.x)
        return GraphNorm(op.node, x, op.class_name, kept[0], kept[1], mean, variance, op.epsilon, op.axis, op.ndim, reason, bool(moments),
                         moving, conditional=conditional, is_assigned=bool(assigned))

    def _moving(self, roles: Roles, moment: Moment, fed: tuple[Traced, Traced] | None) -> tuple[Parameter, Parameter] | None:
        """The moving averages of a layer in training: fed to the op itself (from TensorFlow 2.3 on), or kept by the graph's updates."""
        if fed is not None and isinstance(fed[0], Variable) and isinstance(fed[1], Variable):
            return fed[0], fed[1]
        if self._averages is None:
            self._averages = Averages(self.tracer, list(self._below))
        return self._averages.of(roles, moment)

    def _origin(self, x: Value) -> tuple[Value, bool]:
        """The normalized tensor, traced through conditionals and calls, and whether there was a conditional."""
        conditional = False
        for _ in range(MAX_LENGTH):
            if x.node is None:
                conditional |= x.frame.call is not None and x.frame.call.op in CHOICES
                before = x.frame.outside(x.output.node)
            else:
                conditional |= x.op in ("Switch", "RefSwitch")
                before = x.operand(0) if x.op in PASSES else None
            if before is None:
                break
            x = before
        return x, conditional

    def _rank(self, x: Value) -> int | None:
        """The rank of an activation, if the preceding ops or the file's annotations show it."""
        for _ in range(MAX_LENGTH):
            node = x.node
            if node is None:
                outside = x.frame.outside(x.output.node)
                if outside is None:
                    return None
                x = outside
                continue
            shape = self._output_shape(node, x.output.slot) or (node.shape("shape") if node.op == "Placeholder" else None)
            if shape or node.op in RANKS:
                return len(shape) if shape else RANKS[node.op]
            if node.op not in KEEPS_RANK:
                return None
            if node.op in BROADCASTS:
                return self._rank_of_both(x.operand(0), x.operand(1))
            x = x.operand(0)
        return None

    def _output_shape(self, node: Node, slot: int) -> tuple[int, ...] | None:
        """The shape of an output, if the file says it: each that occurs is parsed once."""
        content = node.content(SHAPES)
        if content is None:
            return node.shape(SHAPES, slot)
        if (content, slot) not in self._shapes:
            self._shapes[content, slot] = node.shape(SHAPES, slot)
        return self._shapes[content, slot]

    def _rank_of_both(self, one: Value, other: Value) -> int | None:
        """The rank of a sum or product. Its second operand may have more axes; what it is does not matter where the first is an image."""
        rank = self._known_rank(one)
        if rank is None or rank > 3 or isinstance(self.tracer.trace(other), (Variable, Constant, Parts)):
            return rank
        second = self._known_rank(other)
        return None if second is None else max(rank, second)

    def _known_rank(self, x: Value) -> int | None:
        if x not in self._ranks:
            self._ranks[x] = self._rank(x)
        return self._ranks[x]


def _beside(statistic: Traced) -> Traced | None:
    """The parameter that a graph may choose in place of a statistic of the batch."""
    if not isinstance(statistic, Opaque) or statistic.beside is None:
        return None
    return shaped(statistic.beside, list(reversed(statistic.shaping)))


def _is_number(frame: Frame, source: Variable | Constant | Parts) -> bool:
    """Whether a value is no vector: x / sqrt(64), or a learning rate of 1 / sqrt(step)."""
    if isinstance(source, Constant):
        return not source.node.tensor().shape
    node = frame.body.nodes.get(source.name)
    return node is not None and node.op in VARIABLES and node.shape("shape") == ()


def _fuses_norm(node: Node) -> bool:
    value = node.attribute("fused_ops")
    return value is not None and b"FusedBatchNorm" in value.message(1).raws(2)

"""The origin of a value in a TensorFlow graph: a variable, a constant, or the batch itself.

Values are traced backward through everything that does not change numbers: reads, casts, reshapes, control flow of both kinds, and calls of
functions.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from exporter.errors import FormatError, printable
from exporter.formats.graph_def import Graph, Node, Output
from exporter.sources.tf_graph.ops import (
    CALLS,
    CHOICES,
    ELEMENTWISE,
    FUSED,
    LOOPS,
    OF_SIZES,
    PASSES,
    REDUCTIONS,
    SIZES,
    VARIABLES,
    data_inputs,
    truncates,
)
from exporter.sources.tf_graph.values import (
    Constant,
    Filled,
    Frame,
    Moment,
    Opaque,
    Parts,
    Traced,
    Value,
    Variable,
    is_made,
    list_of,
    number_of,
    of_constant,
    operand,
    read_by,
    scalar_of,
    shaped,
)

MAX_CALL_DEPTH = 64
MAX_TRACE_DEPTH = 40
MAX_FRAMES = 20_000
MAX_TRACE_LENGTH = 10_000
MAX_SEARCH_WIDTH = 2_000
MAX_STATISTIC_WIDTH = 200
MAX_PARAMETER_WIDTH = 30
TOO_LONG = "a chain of ops too long to follow"

REPLICA = re.compile(r"(.+)/replica_\d+")  # MirroredStrategy: copies of a variable, which no checkpoint contains


class Tracer:
    """Follows values of one graph.

    bound: for functions to start from, the variables and constants that their last arguments refer to (None: neither). main: whether to
    start from the main graph, too.
    """

    def __init__(self, graph: Graph, bound: Mapping[str, Sequence[Variable | Constant | None]] | None = None, *, main: bool) -> None:
        self.graph = graph
        self.roots = [Frame(graph.main)] if main else []
        for name, variables in (bound or {}).items():
            body = graph.function(name)
            last = body.arguments[len(body.arguments) - len(variables) :] if variables else ()
            self.roots.append(Frame(body, bound={a: v for a, v in zip(last, variables) if v is not None}))
        self._memo: dict[Value, Traced] = {}
        self._made: dict[Value, bool] = {}
        self._frames: dict[tuple[Frame, str, str], Frame] = {}
        self._scalars: dict[bytes, float | None] = {}  # of constants, by their bytes
        self._lists: dict[bytes, list[int] | None] = {}
        self._depth = 0

    def called(self, frame: Frame, node: Node) -> list[tuple[str, int]]:
        """The functions that a node may run, with the number of the input that is their first argument."""
        if node.op in CALLS:
            return [(name, 1 if node.op == "RemoteCall" else 0) for name in node.functions(CALLS[node.op])]
        if node.op in LOOPS:
            return [(name, 0) for name in node.functions("body")]
        if node.op in CHOICES:
            names = node.functions(*CHOICES[node.op])
            if len(names) == 2 and node.op.endswith("If") and (known := self.boolean(operand(frame, node, 0))) is not None:
                names = names[:1] if known else names[1:]
            return [(name, 1) for name in names]
        return [(node.op, 0)] if node.op in self.graph else []

    def enter(self, frame: Frame, node: Node, function: str, first: int) -> Frame:
        """The frame of a call; the same object each time."""
        key = frame, node.name, function
        found = self._frames.get(key)
        if found is None:
            if frame.depth >= MAX_CALL_DEPTH or len(self._frames) >= MAX_FRAMES:
                raise FormatError(f"expected function calls at most {MAX_CALL_DEPTH} deep and {MAX_FRAMES} in number, got more",
                                  where=node.where)
            found = self._frames[key] = Frame(self.graph.function(function), frame, node, first)
        return found

    def trace(self, value: Value) -> Traced:
        """The meaning of a value; Opaque if it is not understood, or deeper than in any graph written by people."""
        found = self._memo.get(value)
        if found is None:
            self._depth += 1  # for all ways in which one value leads to another: a broken graph may contain cycles
            found = self._memo[value] = self._trace(value) if self._depth <= MAX_TRACE_DEPTH else Opaque(TOO_LONG, value)
            self._depth -= 1
        return found

    def _trace(self, value: Value) -> Traced:
        shaping: list[tuple[str, tuple[int, ...]]] = []
        read: Value | None = None
        for _ in range(MAX_TRACE_LENGTH):
            node = value.node
            if node is None:
                found = self._argument(value)
                if isinstance(found, Value):
                    value = found
                    continue
                return shaped(read_by(found, read), shaping)
            if node.op == "Cast" and truncates(node):
                return Opaque("a number without its fraction", value)
            if node.op in PASSES:
                read = value if read is None or read.op != "ReadVariableOp" else read
                value = operand(value.frame, node, 0)
            elif node.op == "IdentityN":
                value = operand(value.frame, node, value.output.slot)
            elif node.op in ("Reshape", "ExpandDims", "Squeeze"):
                shaping.append(self._shaping(value.frame, node))
                value = operand(value.frame, node, 0)
            else:
                return shaped(read_by(self._source(value, node), read), shaping)
        return Opaque(TOO_LONG, value)

    def _argument(self, value: Value) -> Traced | Value:
        frame, output = value
        if output.node in frame.bound:
            return frame.bound[output.node]
        outside = frame.outside(output.node)
        if outside is None:
            return Opaque(f"an input of the graph, {printable(output.node)}", value)
        if frame.call is not None and frame.call.op in LOOPS and not self._invariant(frame, output.node):
            return Opaque("a value that changes in a loop", value)
        return outside

    def _invariant(self, frame: Frame, argument: str) -> bool:
        """Whether a loop passes an argument on unchanged."""
        number = frame.argument(argument)
        results = list(frame.body.results.values())
        if number is None or number >= len(results):
            return False
        value = Value(frame, results[number])
        for _ in range(MAX_TRACE_LENGTH):
            node = value.node
            if node is None:
                return value.output.node == argument
            if node.op not in ("Identity", "EnsureShape"):
                return False
            value = operand(frame, node, 0)
        return False

    def _shaping(self, frame: Frame, node: Node) -> tuple[str, tuple[int, ...]]:
        if node.op == "Squeeze":
            return "squeeze", tuple(node.integers("squeeze_dims") or node.integers("axis"))
        sizes = self.integers(operand(frame, node, 1))
        return ("unknown", ()) if sizes is None else ("reshape" if node.op == "Reshape" else "expand", tuple(sizes))

    def _source(self, value: Value, node: Node) -> Traced:
        frame, op = value.frame, node.op
        if op in VARIABLES:
            return self._variable(frame, node)
        if op == "Const":
            return Constant(node, frame.body.name)
        if op in ("OnesLike", "ZerosLike", "Fill"):
            filled = {"OnesLike": 1.0, "ZerosLike": 0.0}.get(op)
            filled = self.scalar(operand(frame, node, 1)) if filled is None else filled
            return Filled(filled) if filled is not None else Opaque("a tensor filled at run time", value)
        if op in ("Merge", "RefMerge"):
            return self._choose(value, [operand(frame, node, n) for n in range(len(node.inputs))])
        if op in ("Select", "SelectV2"):
            known = self.boolean(operand(frame, node, 0))
            return self._choose(value, [operand(frame, node, n) for n in (1, 2) if known is None or known == (n == 1)])
        if op in ("ConcatV2", "Concat"):
            return self._joined(value, node)
        if op in ("Mul", "Add", "AddV2"):
            return self._simplified(value, node)
        if FUSED.fullmatch(op):
            return self._fused_output(value, node)
        if op == "Mean":
            return self._reduction(value)
        called = self.called(frame, node)
        if called:
            return self._result(value, node, called)
        return Opaque(f"what the op {printable(op)} computes", value)

    def _variable(self, frame: Frame, node: Node) -> Variable:
        """The variable of an op; for a copy that a strategy keeps for another device, the stored variable."""
        copy = REPLICA.fullmatch(node.name)
        original = frame.body.nodes.get(copy[1]) if copy else None
        name = original.name if original is not None and original.op in VARIABLES else node.name
        return Variable(name, name)

    def _choose(self, value: Value, values: list[Value]) -> Traced:
        """One of several values, chosen at run time: the one for inference if the others are statistics of the batch.

        Not if they are activations themselves: where(x > 0, x, 0.5) also chooses a value. Zeros in place of the statistics of an empty
        batch (Keras under a distribution strategy) are not a parameter.
        """
        sources = [self.trace(one) for one in values]
        by_identity = {source.identity: source for source in sources if not isinstance(source, (Moment, Opaque))}
        others = [source for source in sources if isinstance(source, (Moment, Opaque))]
        moments = [source for source in others if isinstance(source, Moment)]
        if moments and len(moments) == len(others) and all(is_made(source, 0.0) for source in by_identity.values()):
            return moments[0]
        if len(by_identity) == 1 and all(self.is_statistic(source) for source in others):
            return next(iter(by_identity.values()))
        if not by_identity and others:
            return others[0]
        stored = [source for source in by_identity.values() if isinstance(source, (Variable, Constant, Parts))]
        is_one = len(stored) == len(by_identity) == 1 and all(self.is_statistic(source, over_any=True) for source in others)
        return Opaque("a branch that is chosen only at run time", value, beside=stored[0] if is_one else None)

    def _joined(self, value: Value, node: Node) -> Traced:
        last = len(node.inputs) - 1
        axis = self.scalar(operand(value.frame, node, last if node.op == "ConcatV2" else 0))
        pieces = [operand(value.frame, node, n) for n in (range(last) if node.op == "ConcatV2" else range(1, last + 1))]
        parts = [self.trace(piece) for piece in pieces]
        kept = tuple(part for part in parts if isinstance(part, (Variable, Constant)) and not part.shaping)
        if axis is None or not kept or len(kept) != len(parts):
            return Opaque("what the op ConcatV2 computes", value)
        return Parts(kept, int(axis))

    def _simplified(self, value: Value, node: Node) -> Traced:
        """1 * v, 0 + v, 0 * v: the remains of batch renormalization's corrections in inference."""
        sources = [self.trace(operand(value.frame, node, n)) for n in (0, 1)]
        numbers = [number_of(source) for source in sources]
        for number, other in zip(numbers, sources[::-1]):
            if number == (1 if node.op == "Mul" else 0) and not isinstance(other, Opaque):
                return other
            if number == 0 and node.op == "Mul":
                return Filled(0.0)
        return Opaque(f"what the op {node.op} computes", value)

    def _fused_output(self, value: Value, node: Node) -> Traced:
        if value.output.slot not in (1, 2):
            return Opaque("an activation", value)
        if node.boolean("is_training", True):
            return Moment((value.frame, node.name, value.output.slot), True)
        return self.trace(operand(value.frame, node, 2 + value.output.slot))  # handed through: mean, variance

    def _result(self, value: Value, node: Node, called: list[tuple[str, int]]) -> Traced:
        inner = []
        for function, first in called:
            frame = self.enter(value.frame, node, function, first)
            results = frame.body.results
            output = results.get(value.output.name) if node.op == function else None  # other ops call all of their outputs "output"
            output = output or (list(results.values())[value.output.slot] if value.output.slot < len(results) else None)
            if output is None:
                return Opaque(f"an output that the function {printable(function)} does not have", value)
            if node.op in LOOPS:
                argument = frame.body.arguments[value.output.slot] if value.output.slot < len(frame.body.arguments) else ""
                if not self._invariant(frame, argument):
                    return Opaque("a value that changes in a loop", value)
                return self.trace(operand(value.frame, node, value.output.slot))
            inner.append(Value(frame, output))
        return self.trace(inner[0]) if len(inner) == 1 else self._choose(value, inner)

    def of_activations(self, source: Opaque) -> bool:
        """Whether a value depends on the batch that the graph is fed."""
        return any(node is None or node.op in REDUCTIONS or node.op.startswith("Placeholder") or FUSED.fullmatch(node.op)
                   for node in self._ancestors(source.value))

    def of_parameters(self, source: Traced) -> bool:
        """Whether a value is computed in a few ops from parameters and constants alone: exp(gamma), gamma[None, :, None, None]."""
        if not isinstance(source, Opaque):
            return False
        if source.value not in self._made:
            nodes = list(itertools.islice(self._ancestors(source.value), MAX_PARAMETER_WIDTH))
            self._made[source.value] = len(nodes) < MAX_PARAMETER_WIDTH and all(
                node is not None and (bool(node.inputs) or node.op == "Const" or node.op in VARIABLES) for node in nodes)
        return self._made[source.value]

    def is_statistic(self, source: Traced, *, over_any: bool = False) -> bool:
        """Whether a value is a statistic of the batch, or computed only from such statistics, parameters and numbers.

        over_any: also one over axes that the graph counts from the last, or that are known only at run time: it may be of the batch.
        """
        if isinstance(source, Opaque):
            return bool(self.statistics(source, over_any=over_any))
        return isinstance(source, Moment) and (source.of_batch or (over_any and source.may_be_of_batch))

    def statistics(self, source: Opaque, *, over_any: bool = False) -> list[Moment | Variable | Constant | Parts]:
        """The statistics of the batch and the parameters that a value is computed from; none where it is anything else."""
        queue, seen, found = [source.value], {source.value}, []
        for value in queue:
            inputs = self._operands(value)
            if not inputs and not self._is_size(value):
                leaf = self._reduction(value) if value.op in REDUCTIONS else self.trace(value)
                if isinstance(leaf, Opaque) or (isinstance(leaf, Moment) and not self.is_statistic(leaf, over_any=over_any)):
                    return []
                found += [leaf] if not isinstance(leaf, Filled) else []
            new = [one for one in inputs if one not in seen]
            seen.update(new)
            queue += new
            if len(queue) > MAX_STATISTIC_WIDTH:
                return []
        return found if any(isinstance(leaf, Moment) for leaf in found) else []

    def _operands(self, value: Value) -> list[Value]:
        """The inputs of a value that is computed element by element; none for other values."""
        node = value.node
        if node is None:
            outside = value.frame.outside(value.output.node)
            return [outside] if outside is not None else []
        if node.op in CHOICES or node.op in CALLS:
            frames = [self.enter(value.frame, node, function, first) for function, first in self.called(value.frame, node)]
            results = [list(frame.body.results.values())[value.output.slot : value.output.slot + 1] for frame in frames]
            return [Value(frame, output) for frame, outputs in zip(frames, results, strict=True) for output in outputs]
        if node.op in ELEMENTWISE:
            return [Value(value.frame, output) for output in data_inputs(node)]
        return [operand(value.frame, node, 0)] if node.op in PASSES or node.op in ("Reshape", "Squeeze", "ExpandDims") else []

    def _is_size(self, value: Value) -> bool:
        """Whether a value is the size of a tensor, by which a sum is divided."""
        for _ in range(MAX_CALL_DEPTH):
            if value.op not in OF_SIZES:
                break
            value = value.operand(0)
        return value.op in SIZES

    def _reduction(self, value: Value) -> Moment:
        """The statistic that a Mean or Sum is."""
        axes = self.integers(value.operand(1))
        over_batch = axes is not None and 0 in axes and not any(axis < 0 for axis in axes)
        return Moment((value.frame, value.output.node), over_batch, axes=tuple(axes) if axes is not None else None)

    def moment(self, source: Traced) -> Moment | None:
        """A statistic of activations, also if it is combined from sums (tf.nn.moments before TF 1.0)."""
        if isinstance(source, Moment):
            return source
        if isinstance(source, Opaque):
            for value, node in self._search(source.value):
                if node is not None and node.op in REDUCTIONS:
                    return self._reduction(Value(*value))
        return None

    def _ancestors(self, value: Value) -> Iterator[Node | None]:
        return (node for _, node in self._search(value))

    def _search(self, value: Value) -> Iterator[tuple[tuple[Frame, Output], Node | None]]:
        """A value and everything that it is computed from, nearest first; function arguments are traced to the caller."""
        queue: list[tuple[Frame, Output]] = [value]
        seen = set(queue)
        for one in queue:
            frame, output = one
            node = frame.body.nodes.get(output.node) or Value(frame, output).node
            outside = frame.outside(output.node) if node is None else None
            if node is not None or (outside is None and output.node not in frame.bound):
                yield one, node
            inputs = [(frame, output) for output in data_inputs(node)] if node is not None else [outside] if outside else []
            for next_one in inputs:
                if next_one not in seen and len(seen) < MAX_SEARCH_WIDTH:
                    seen.add(next_one)
                    queue.append(next_one)

    def scalar(self, value: Value) -> float | None:
        """The number of a constant with one element."""
        source = self.trace(value)
        if isinstance(source, Filled):
            return source.value
        if not isinstance(source, Constant):
            return None
        return of_constant(source, scalar_of, self._scalars)

    def boolean(self, value: Value) -> bool | None:
        """The truth value of a constant."""
        number = self.scalar(value)
        return None if number is None else number != 0

    def integers(self, value: Value) -> list[int] | None:
        """The integers of a small constant, or of constants joined by the op Pack."""
        node = value.node
        if node is not None and node.op == "Pack":
            found = []
            for n in range(len(node.inputs)):
                number = self.scalar(value.operand(n))
                if number is None:
                    return None
                found.append(int(number))
            return found
        source = self.trace(value)
        if not isinstance(source, Constant):
            return None
        return of_constant(source, list_of, self._lists)

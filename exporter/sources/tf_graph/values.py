"""Values of a graph and their possible meanings: a variable, a constant, a statistic of the batch, or something else.

A function body is examined once per call, in a `Frame` that knows its caller, so that arguments can be traced out of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

from exporter.errors import FormatError, printable
from exporter.formats.graph_def import Body, Node, Output, TensorProto

# Default names of tf.constant, tf.ones and tf.zeros: not a parameter if every value is neutral.
UNNAMED = re.compile(r"(Const|ones|zeros|ones_like|zeros_like|Fill)(_\d+)?")

# The classes below are not frozen, and have no repr: that would triple the time to make one, and double the time to import them. Nothing
# changes them.
_Made = TypeVar("_Made")
Shaping = tuple[tuple[str, tuple[int, ...]], ...]


@dataclasses.dataclass(slots=True, unsafe_hash=True, repr=False)
class Variable:
    """A variable. key: in the checkpoint; name: in the graph; shaping: reshapes on the way to its use; read: the op that reads it."""

    key: Hashable
    name: str
    shaping: Shaping = ()
    read: Value | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def identity(self) -> Hashable:
        return "variable", self.key


@dataclasses.dataclass(slots=True, unsafe_hash=True, repr=False)
class Constant:
    """A Const of the graph. name: of the node; where: its function, "" for the main graph."""

    node: Node
    where: str
    shaping: Shaping = ()

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def identity(self) -> Hashable:
        return "constant", self.where, self.node.name


@dataclasses.dataclass(slots=True, unsafe_hash=True, repr=False)
class Parts:
    """A partitioned variable: its parts, joined along `axis`."""

    parts: tuple[Variable | Constant, ...]
    axis: int
    shaping: Shaping = ()

    @property
    def name(self) -> str:
        return re.sub(r"/part_\d+$", "", self.parts[0].name)

    @property
    def identity(self) -> Hashable:
        return "parts", tuple(part.identity for part in self.parts)


@dataclasses.dataclass(slots=True, unsafe_hash=True, repr=False)
class Filled:
    """A tensor of one value that the graph makes itself (ones_like, fill): not a parameter."""

    value: float
    shaping: Shaping = ()
    name: str = ""

    @property
    def identity(self) -> Hashable:
        return "filled", self.value


@dataclasses.dataclass(slots=True, unsafe_hash=True, repr=False)
class Moment:
    """A statistic of activations. of_batch: over the batch axis, as in batch norm in training (otherwise: layer norm and the like).

    identity: of the op that computes it. axes: that it is computed over, if the graph specifies them.
    """

    identity: Hashable
    of_batch: bool
    shaping: Shaping = ()
    axes: tuple[int, ...] | None = None

    @property
    def may_be_of_batch(self) -> bool:
        """Whether it is, or is over axes that are known only at run time or with the rank."""
        return self.of_batch or self.axes is None or any(axis < 0 for axis in self.axes)


@dataclasses.dataclass(slots=True, unsafe_hash=True, repr=False)
class Opaque:
    """Anything else. reason: what it is, for a message; value: the first output that could not be traced.

    beside: of a choice between a parameter and what may be a statistic of the batch, over axes known only at run time, the parameter: what
    is read in inference if the value is a statistic of a batch norm. It may also be an activation, of which nothing is stored.
    """

    reason: str
    value: Value
    shaping: Shaping = ()
    beside: Variable | Constant | Parts | None = None

    @property
    def identity(self) -> Hashable:
        return "opaque", self.value


Parameter = Variable | Constant | Parts | Filled
Traced = Variable | Constant | Parts | Filled | Moment | Opaque


class Roles(NamedTuple):
    """The value for each role."""

    gamma: Traced
    beta: Traced
    mean: Traced
    variance: Traced


class Frame:
    """A function body in one call. caller, call, first: the calling frame and node, and the index of the first argument's input.

    is_called: whether a function calls it; also a frame without a caller, for that of another call in which all of it means the same.
    """

    __slots__ = ("_arguments", "body", "bound", "call", "caller", "depth", "first", "is_called")

    def __init__(self, body: Body, caller: Frame | None = None, call: Node | None = None, first: int = 0,
                 bound: Mapping[str, Variable | Constant] | None = None) -> None:
        self.body, self.caller, self.call, self.first = body, caller, call, first
        self.bound = bound or {}
        self.depth: int = caller.depth + 1 if caller is not None else 0
        self.is_called = caller is not None
        self._arguments = {name: number for number, name in enumerate(body.arguments)}

    def argument(self, name: str) -> int | None:
        """The number of the argument of this name."""
        return self._arguments.get(name)

    def outside(self, name: str) -> Value | None:
        """What the caller passes for an argument."""
        number = self._arguments.get(name)
        if number is None or self.caller is None or self.call is None or number + self.first >= len(self.call.inputs):
            return None
        return Value(self.caller, self.call.inputs[number + self.first])


class Value(NamedTuple):
    """One output of a node of a frame, or one of its arguments."""

    frame: Frame
    output: Output

    @property
    def node(self) -> Node | None:
        """The node; None for an argument. FormatError if the graph has neither: a batch norm before it would otherwise be missed."""
        found = self.frame.body.nodes.get(self.output.node)
        if found is None and self.frame.argument(self.output.node) is None:
            raise FormatError(f"the graph reads {printable(self.output.node)!r}, which it does not contain", where=self.frame.body.name,
                              hint="the file is damaged; copy or download it again")
        return found

    @property
    def op(self) -> str:
        """The type of its node; "" for an argument."""
        node = self.node
        return node.op if node is not None else ""

    def operand(self, number: int) -> Value:
        """An input of its node."""
        node = self.node
        assert node is not None, "an argument is computed elsewhere"
        return operand(self.frame, node, number)


def operand(frame: Frame, node: Node, number: int) -> Value:
    """An input of a node. FormatError if it has too few."""
    if not 0 <= number < len(node.inputs):
        raise FormatError(f"{node.op} has {len(node.inputs)} inputs", where=node.where)
    return Value(frame, node.inputs[number])


def is_made(source: Traced, neutral: float) -> bool:
    """Whether a tensor contains only the neutral value and is created by the graph itself, so that it is not a parameter."""
    if isinstance(source, Filled):
        return source.value == neutral
    if not isinstance(source, Constant) or not UNNAMED.fullmatch(source.name.rpartition("/")[2]):
        return False
    tensor = source.node.tensor()
    return tensor.dtype.kind != "other" and bool((tensor.array() == neutral).all())


def number_of(source: Traced) -> float | None:
    """The value of all elements of a tensor of 0s or 1s."""
    if isinstance(source, Filled):
        return source.value
    if not isinstance(source, Constant) or source.node.tensor().dtype.kind != "float":
        return None
    values = source.node.tensor().array().reshape(-1)
    return float(values[0]) if values.size and values[0] in (0, 1) and bool((values == values[0]).all()) else None


def scalar_of(tensor: TensorProto) -> float | None:
    """The number of a tensor with one element."""
    return float(tensor.array().reshape(-1)[0]) if tensor.size == 1 and tensor.dtype.kind != "other" else None


def list_of(tensor: TensorProto) -> list[int] | None:
    """The integers of a small tensor."""
    if tensor.size > 64 or tensor.dtype.kind != "integer":
        return None
    return [int(number) for number in tensor.array().reshape(-1)]


def of_constant(source: Constant, make: Callable[[TensorProto], _Made], known: dict[bytes, _Made]) -> _Made:
    """What is made of a constant's value; once of equal ones, which layers that are alike have."""
    content = source.node.content("value")
    if content is None:
        return make(source.node.tensor())
    if content not in known:
        known[content] = make(source.node.tensor())
    return known[content]


def read_by(source: Traced, read: Value | None) -> Traced:
    """A variable with the op that reads it, unless one between it and that op does; anything else as it is."""
    if read is None or not isinstance(source, Variable) or source.read is not None:
        return source
    return Variable(source.key, source.name, source.shaping, read)


def shaped(source: Traced, shaping: list[tuple[str, tuple[int, ...]]]) -> Traced:
    """The value with the reshapes between the source and its use, which were found in reverse order."""
    if not shaping:
        return source
    whole = (*source.shaping, *reversed(shaping))
    if isinstance(source, Variable):  # the most frequent
        return Variable(source.key, source.name, whole, source.read)
    return dataclasses.replace(source, shaping=whole)

"""GraphDef, MetaGraphDef and FunctionDef (tensorflow/core/framework/graph.proto, tensorflow/core/protobuf/meta_graph.proto).

Nodes are parsed at once, their attributes on demand: constants stay undecoded views of the input, so a large frozen
graph needs little more memory than its names. Fields are given by number, with their name in the .proto beside them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import mmap
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from exporter.errors import COPY_AGAIN, FormatError, printable
from exporter.files.place import MiB, Place
from exporter.formats.arrays import shaped
from exporter.formats.protobuf import BYTES, Message, fields_at, text_in, varint
from exporter.formats.tensorflow_types import DOUBLE_VAL, FLOAT_VAL, HALF_VAL, STRING_VAL, VALUE_FIELDS, dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_NODES = 1_000_000
MAX_FUNCTIONS = 100_000
MAX_GRAPH = 2048 * MiB  # protobuf's own limit for a message
MAX_CONSTANT = 64 * MiB
MAX_COPIED = 16 * MiB  # of a function: its bytes are gone through twice as fast as a view of them
MAX_CONTENT = 1024
FIRST_BYTES, SECOND_BYTES = 1 << 3 | BYTES, 2 << 3 | BYTES  # the tags of fields 1 and 2, where they are of bytes

# Outputs that function bodies name and that are not the first of their op (tensorflow/core/ops/*.cc).
OUTPUTS = {"batch_mean": 1, "batch_variance": 2, "output_true": 1, "value_index": 1}


class Output(NamedTuple):
    """One output of a node, or an argument of a function. name: of the output, if a called function names it."""

    node: str
    slot: int
    name: str = ""


class TensorProto:
    """A TensorProto: type and shape are parsed at once, values on demand."""

    __slots__ = ("_fields", "dtype", "shape", "where")

    def __init__(self, data: bytes | int, where: str) -> None:
        self._fields = _fields(data, where)
        self.where = where
        number = self._fields.get(1, [0])[-1]
        self.dtype = dtype_of(number if isinstance(number, int) else 0)
        sizes = [dimension.integer(1) for dimension in _message(self._fields, 2, where).messages(2)]
        if any(size < 0 for size in sizes) or len(sizes) > 32:
            raise FormatError("a constant has an invalid shape", where=where)
        self.shape = tuple(sizes)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def array(self) -> NDArray[Any]:
        """The values, bfloat16 as float32. FormatError if they are not numbers, or if the bytes do not fit the shape."""
        if self.dtype.kind == "other":
            raise FormatError(f"expected a numeric constant, got one of type {self.dtype.name}", where=self.where)
        if self.size * self.dtype.item_size > MAX_CONSTANT:
            raise FormatError(f"expected constants of at most {MAX_CONSTANT} bytes, got one of shape {list(self.shape)}",
                              where=self.where)
        content = self._fields.get(4, [b""])[-1]
        if isinstance(content, int):
            raise FormatError("expected bytes as tensor_content", where=self.where)
        if len(content):
            if len(content) != self.size * self.dtype.item_size:
                raise FormatError(f"a constant of shape {list(self.shape)} has {len(content)} bytes", where=self.where)
            values = np.frombuffer(content, self.dtype.numpy)
        else:
            values = self._repeated(self.dtype.numpy, self.dtype.field)
        values = self.dtype.widened(values)
        return shaped(values.astype(values.dtype.newbyteorder("=")), self.shape, self.where)

    def strings(self) -> list[bytes]:
        """The values of a constant of strings."""
        return [bytes(value) for value in self._fields.get(STRING_VAL, []) if not isinstance(value, int)]

    def _repeated(self, form: str, field: int) -> NDArray[Any]:
        """The values listed one by one; missing ones repeat the last, and no values means zeros (Tensor::FromProto in
        framework/tensor.cc)."""
        values = [value if isinstance(value, int) else bytes(value) for value in self._fields.get(field, [])]
        if not values and not VALUE_FIELDS.isdisjoint(self._fields):  # TensorFlow would take zeros; it never writes this
            raise FormatError(f"a constant of type {self.dtype.name} has values of another type", where=self.where, hint=COPY_AGAIN)
        message = Message.of({field: values}, self.where)
        if field in (FLOAT_VAL, DOUBLE_VAL):
            numbers = np.frombuffer(message.packed(field, self.dtype.item_size), form)
        else:
            bits = np.array([value & 0xFFFFFFFFFFFFFFFF for value in message.unsigneds(field)], "<u8")
            numbers = bits.astype("<u2").view(form) if field == HALF_VAL else bits.view("<i8").astype(form)
        if len(numbers) > max(self.size, 1):
            raise FormatError(f"a constant of shape {list(self.shape)} has {len(numbers)} values", where=self.where)
        whole = np.zeros(self.size, form)
        whole[: len(numbers)] = numbers[: self.size]
        if len(numbers):
            whole[len(numbers) :] = numbers[-1]
        return whole


class Node:
    """A NodeDef. inputs: the data inputs; controls: the nodes that have to run before it."""

    __slots__ = ("_attributes", "_tensor", "_where", "controls", "inputs", "name", "op")

    def __init__(self, data: bytes | int, where: str, in_function: bool) -> None:
        found = _fields(data, where)
        try:  # in place, because there are thousands
            self.name, self.op = str(found[1][-1], "utf-8"), str(found[2][-1], "utf-8")  # type: ignore[arg-type]
        except (KeyError, TypeError, UnicodeDecodeError):
            self.name, self.op = _text(found, 1, where), _text(found, 2, where)
        self._where = where
        given = found.get(3, ())
        self.inputs = [_output(str(value, "utf-8", "replace"), in_function) for value in given
                       if not isinstance(value, int) and value[:1] != b"^"]
        self.controls = () if len(self.inputs) == len(given) else tuple(
            str(value[1:], "utf-8", "replace") for value in given if not isinstance(value, int) and value[:1] == b"^")
        self._attributes: list[int | bytes] | dict[str, int | bytes] = found.get(5, [])
        self._tensor: TensorProto | None = None

    @property
    def where(self) -> str:
        """The place of the node, for messages."""
        return f"{self._where}: node {printable(self.name)}" if self._where else f"node {printable(self.name)}"

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {self.op!r})"

    def attribute(self, name: str) -> Message | None:
        """The AttrValue of this name: s = 2, i = 3, f = 4, b = 5, type = 6, shape = 7, tensor = 8, list = 1, func = 10."""
        value = self._values().get(name)
        if isinstance(value, int):
            raise FormatError(f"the attribute {printable(name)} is a number, expected a message", where=self.where)
        return None if value is None else Message(bytes(value), self.where)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.attribute(name)
        return default if value is None else value.boolean(5)

    def single(self, name: str, default: float) -> float:
        """A float attribute, the float32 as a double."""
        value = self.attribute(name)
        return default if value is None else value.single(4)

    def text(self, name: str, default: str = "") -> str:
        value = self.attribute(name)
        return default if value is None else value.text(2)

    def integers(self, name: str) -> list[int]:
        value = self.attribute(name)
        return [] if value is None else value.message(1).integers(3)

    def functions(self, *names: str) -> list[str]:
        """The functions that these attributes name."""
        values = [value for name in names if (value := self.attribute(name)) is not None]
        return [function.text(1) for value in values for function in ([value.message(10)] if 10 in value else value.message(1).messages(9))]

    def shape(self, name: str, place: int = 0) -> tuple[int, ...] | None:
        """A shape attribute (or the one at this index of a list), -1 for unknown sizes; None: absent, or of unknown rank."""
        value = self.attribute(name)
        if value is None:
            return None
        shapes = [value.message(7)] if 7 in value else value.message(1).messages(7)
        if place >= len(shapes) or shapes[place].boolean(3):
            return None
        return tuple(dimension.integer(1) for dimension in shapes[place].messages(2))

    def tensor(self, name: str = "value") -> TensorProto:
        """A tensor attribute; of a Const, its value."""
        if name == "value" and self._tensor is not None:
            return self._tensor
        data = self._values().get(name)
        tensor = None if data is None else _fields(data, self.where).get(8)
        if not tensor:
            raise FormatError("the constant has no value", where=self.where)
        found = TensorProto(tensor[-1], self.where)
        if name == "value":
            self._tensor = found
        return found

    def content(self, name: str) -> bytes | None:
        """The bytes of a short attribute, by which equal ones are known; None if it is long, or if there is none."""
        data = self._values().get(name)
        return bytes(data) if data is not None and not isinstance(data, int) and len(data) <= MAX_CONTENT else None

    def _values(self) -> dict[str, int | bytes]:
        if not isinstance(self._attributes, dict):
            self._attributes = dict([_short_entry(data) or _entry(data, self.where) for data in self._attributes])
        return self._attributes


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """The nodes of a graph or a function by name, in the order of the file.

    arguments: names of a function's inputs. results: the function's outputs by name, in order, each an output of a node or an argument.
    """

    name: str
    nodes: Mapping[str, Node]
    arguments: tuple[str, ...] = ()
    results: Mapping[str, Output] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def users(self) -> Mapping[str, list[Node]]:
        """The nodes that use each node or argument."""
        users: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for output in dict.fromkeys([one.node for one in node.inputs]):
                users.setdefault(output, []).append(node)
        return users

    def following(self, starts: Collection[Node], leads_on: Callable[[Node, Node], bool]) -> Iterator[Node]:
        """These nodes and what follows them, each once. leads_on: whether the walk goes from a node to one that uses it."""
        queue, seen = list(starts), set(starts)
        for one in queue:
            yield one
            for user in self.users.get(one.name, ()):
                if user not in seen and leads_on(one, user):
                    seen.add(user)
                    queue.append(user)

    @functools.cached_property
    def ends(self) -> frozenset[str]:
        """The nodes whose outputs are results."""
        return frozenset(output.node for output in self.results.values())


class Graph:
    """A GraphDef: the main body, and the functions of its library, each parsed on first use."""

    def __init__(self, data: bytes | int, where: str = "") -> None:
        found = _fields(data, where)
        self.where = where
        self._left = MAX_NODES
        self._main: Body | list[int | bytes] = found.get(1, [])
        self._functions: dict[str, bytes | Body] = {}
        for library in found.get(2, []):
            self._add_library(library)

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    @property
    def main(self) -> Body:
        """The main body. A SavedModel of TensorFlow 2 has no need of it: it does nothing but call the functions."""
        if not isinstance(self._main, Body):
            self._main = Body("", self._nodes(self._main, False))
        return self._main

    def all_nodes(self) -> Iterator[Node]:
        """The nodes of the main body and of every function."""
        yield from self.main.nodes.values()
        for name in self._functions:
            yield from self.function(name).nodes.values()

    def parsed(self) -> Iterator[Body]:
        """The bodies that were used so far."""
        yield from (body for body in (self._main, *self._functions.values()) if isinstance(body, Body))

    def function(self, name: str) -> Body:
        """The function of this name; FormatError if the library has none."""
        found = self._functions.get(name)
        if found is None:
            raise FormatError(f"the graph calls the function {printable(name)}, which it does not contain", where=self.where)
        if not isinstance(found, Body):
            found = self._functions[name] = self._body(found, name)
        return found

    def _add_library(self, library: bytes | int) -> None:
        functions = _fields(library, self.where).get(1, [])
        if len(functions) + len(self._functions) > MAX_FUNCTIONS:
            raise FormatError(f"expected at most {MAX_FUNCTIONS} functions, got more", where=self.where)
        for data in functions:
            self._functions[_name_of(data, self.where)] = cast("bytes", data)

    def _body(self, data: bytes, name: str) -> Body:
        found = _fields(bytes(data) if len(data) <= MAX_COPIED else data, self.where)
        signature = _message(found, 1, self.where)
        if signature.text(1) != name:
            raise FormatError(f"the function {printable(name)} has another name in a second signature", where=self.where)
        entries = [Message(bytes(entry), self.where) for entry in found.get(4, []) if not isinstance(entry, int)]
        returned = {entry.text(1): _output(entry.text(2), True) for entry in entries}
        results = {name: returned[name] for output in signature.messages(3) if (name := output.text(1)) in returned}
        arguments = tuple(text_in(fields_at(argument, self.where), 1, self.where) for argument in signature.raws(2))
        return Body(signature.text(1), self._nodes(found.get(3, []), True), arguments, results)

    def _nodes(self, values: list[Any], in_function: bool) -> dict[str, Node]:
        self._left -= len(values)
        if self._left < 0:
            raise FormatError(f"expected at most {MAX_NODES} nodes, got more", where=self.where)
        nodes: dict[str, Node] = {}
        for value in values:
            node = Node(value, self.where, in_function)
            if node.name in nodes:
                raise FormatError(f"two nodes are named {printable(node.name)}", where=self.where)
            nodes[node.name] = node
        return nodes


class MetaGraph:
    """A MetaGraphDef. save_node: the op that writes the variables, or "" (SaverDef.save_tensor_name)."""

    def __init__(self, data: bytes, where: str = "") -> None:
        found = _fields(data, where)
        info = _message(found, 1, where)
        self.tags, self.tensorflow_version = info.texts(4), info.text(5)
        self.save_node = _message(found, 3, where).text(2).split(":")[0]
        self.graph = Graph(found.get(2, [b""])[-1], where)


def open_file(place: Place) -> bytes:
    """The bytes of a possibly large file, memory-mapped: only the parts that are used are loaded."""
    size = place.size()
    if size > MAX_GRAPH:
        raise FormatError(f"expected a graph of at most {MAX_GRAPH} bytes, got {size}", where=place.name)
    if size == 0:
        return b""
    if not place.is_local:  # behind a URL, or in an archive
        return place.read(MAX_GRAPH)
    with place.open() as file:
        return cast("bytes", memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _fields(data: bytes | int, where: str) -> dict[int, list[int | bytes]]:
    # `data` may be a memoryview behind the cast above: slices of it are views, so that nothing is copied before it is used.
    if isinstance(data, int):
        raise FormatError("expected a message, got a number", where=where)
    return fields_at(data, where)


def _name_of(function: bytes | int, where: str) -> str:
    """The name of a function, which stands at the beginning of its signature, as that at its own: to go through all functions would take as
    long as all else that is read. One that is used is gone through, and has to have this name."""
    name = function if isinstance(function, int) else _first(_first(function))
    return _message(_fields(function, where), 1, where).text(1) if isinstance(name, int) or not name else _text({1: [name]}, 1, where)


def _first(data: bytes) -> bytes:
    """Field 1, where a message begins with it and it is of bytes; else b""."""
    if len(data) < 2 or data[0] != FIRST_BYTES:
        return b""
    size, at = varint(data, 1, len(data))
    return data[at: at + size] if at + size <= len(data) else b""


def _short_entry(data: bytes | int) -> tuple[str, bytes] | None:
    """Key and value of an entry, as most are: nothing but the two, with short lengths, and a key in UTF-8; None of another one."""
    if not isinstance(data, int) and len(data) > 3 and data[0] == FIRST_BYTES and data[1] < 128:
        at = 2 + data[1]
        if at + 1 < len(data) and data[at] == SECOND_BYTES and data[at + 1] < 128 and at + 2 + data[at + 1] == len(data):
            try:
                return str(data[2:at], "utf-8"), data[at + 2 :]
            except UnicodeDecodeError:
                return None
    return None


def _entry(data: bytes | int, where: str) -> tuple[str, int | bytes]:
    """Key and value of an entry of a map<string, message>."""
    found = _fields(data, where)
    return _text(found, 1, where), found.get(2, [b""])[-1]


def _message(found: dict[int, list[int | bytes]], number: int, where: str) -> Message:
    """One field as a separate message; repeated occurrences, which protobuf allows, are merged."""
    values = found.get(number, [])
    if any(isinstance(value, int) for value in values):
        raise FormatError(f"expected a message in field {number}", where=where)
    return Message(b"".join(bytes(cast("bytes", value)) for value in values), where)


def _text(found: dict[int, list[int | bytes]], number: int, where: str) -> str:
    return _decoded(found[number][-1], number, where) if number in found else ""


def _decoded(value: int | bytes, number: int, where: str) -> str:
    try:
        if not isinstance(value, int):
            return str(value, "utf-8")
    except UnicodeDecodeError:
        pass
    raise FormatError(f"field {number} is not UTF-8 text", where=where)


def _output(text: str, in_function: bool) -> Output:
    """An input as a NodeDef writes it: "node", "node:1"; in a function "argument", "node:output_name:0"."""
    node, colon, rest = text.partition(":")
    return Output(node, *_place(rest, in_function)) if colon else Output(node, 0)


@functools.lru_cache(1024)  # there are few, and thousands of inputs
def _place(rest: str, in_function: bool) -> tuple[int, str]:
    """Slot and name of an output, from what follows the name of its node."""
    name, _, index = rest.rpartition(":") if in_function else ("", "", rest)
    number = int(index) if index.isascii() and index.isdigit() and len(index) < 10 else 0
    return OUTPUTS.get(name, 0) + number, name

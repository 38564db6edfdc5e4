"""TensorFlow's object graphs: which object contains which, under which name.

A TensorFlow 2 checkpoint contains one (TrackableObjectGraph, trackable_object_graph.proto) under OBJECT_GRAPH; a SavedModel contains
another one with the same numbering and the kind of each object (SavedObjectGraph, saved_object_graph.proto); keras_metadata.pb
adds Keras's JSON by node (saved_metadata.proto). Graphs have cycles: every walk here keeps a set of what it has seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from exporter.errors import FormatError, printable
from exporter.formats.protobuf import BYTES, Message, fields, fields_at, text_in, varint

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the key of the checkpoint, as in trackable/base.py

# Field numbers.
GRAPH_NODES, NODE_CHILDREN, CHILD_NODE, CHILD_NAME = 1, 1, 1, 2
NODE_TAG, NAME_TAG = bytes([CHILD_NODE << 3]), CHILD_NAME << 3 | BYTES
NODE_ATTRIBUTES, ATTRIBUTE_NAME, ATTRIBUTE_FULL_NAME, ATTRIBUTE_KEY = 2, 1, 2, 3
OBJECT_USER, USER_IDENTIFIER, USER_METADATA = 4, 1, 3
OBJECT_FUNCTION, FUNCTION_CONCRETE = 6, 1
OBJECT_VARIABLE, VARIABLE_NAME = 7, 6
OBJECT_CONSTANT, CONSTANT_OPERATION = 9, 1
SAVED_FUNCTIONS, FUNCTION_BOUND_INPUTS = 2, 2
METADATA_NODES, METADATA_ID, METADATA_PATH, METADATA_KIND, METADATA_TEXT = 1, 2, 3, 4, 5

MAX_DEPTH = 200

VALUE = "VARIABLE_VALUE"
KERAS_KIND = "_tf_keras_"  # prefix of the kinds of Keras's own objects
CONFIG = "OBJECT_CONFIG_JSON"  # written by TensorFlow 1.12 and 1.13

# What Keras adds to each object when it saves: lists of objects that are also elsewhere, losses, functions.
ADMINISTRATIVE = frozenset({"variables", "trainable_variables", "non_trainable_variables", "_all_variables", "regularization_losses",
                            "keras_api", "signatures", "optimizer", "save_counter"})

Way = tuple[tuple[int, ...], tuple[str, ...]]  # the nodes from the root, and each node's name in its predecessor


class KeptValue(NamedTuple):
    """A value that a checkpoint keeps for an object: the variable's own name and the tensor's key. `full_name` may be ""."""

    full_name: str
    key: str


class ObjectGraph:
    """The nodes of either graph. Methods raise FormatError for damage and for missing nodes."""

    def __init__(self, graph: Message) -> None:
        self.where = graph.where
        self._nodes = graph.messages(GRAPH_NODES)
        self._children: dict[int, dict[str, int]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def children(self, node: int) -> dict[str, int]:
        """The children of this node by name, in the file's order."""
        found = self._children.get(node)
        if found is None:
            found = {}
            for data in self._nodes[node].raws(NODE_CHILDREN):
                child, name = self._reference(data)
                if not 0 <= child < len(self._nodes):
                    raise FormatError(f"the object graph refers to node {child}, but has {len(self._nodes)} nodes", where=self.where)
                if found.setdefault(name, child) != child:
                    raise FormatError(f"node {node} of the object graph has two children named {name}", where=self.where)
            self._children[node] = found
        return found

    def holders(self, name: str) -> list[int]:
        """The nodes that have a child of this name, reachable or not."""
        return [number for number, node in enumerate(self._nodes) if name.encode() in node.data and name in self.children(number)]

    def _reference(self, data: bytes) -> tuple[int, str]:
        """(node, name) of an ObjectReference. Parsed without a Message object, because there are thousands: mostly of the two, in order."""
        child: int | bytes
        name: int | bytes
        child, at = varint(data, 1, len(data)) if data[:1] == NODE_TAG else (0, 0)
        if 2 <= len(data) - at < 130 and data[at] == NAME_TAG and data[at + 1] == len(data) - at - 2:
            name = data[at + 2 :]
        else:
            found = fields(data)
            child, name = found.get(CHILD_NODE, [0])[-1], found.get(CHILD_NAME, [b""])[-1]
        if not isinstance(child, int) or not isinstance(name, bytes):
            raise FormatError("a reference in the object graph has the wrong types", where=self.where)
        try:
            return child, name.decode()
        except UnicodeDecodeError:
            raise FormatError("the name of an object is not UTF-8", where=self.where) from None

    def walk(self) -> Iterator[Way]:
        """One path to each node that can be reached from the root.

        Depth first, in the file's order; paths through an object's own attributes are preferred to paths through
        Keras's lists.
        """
        seen: set[int] = set()
        later: list[Way] = [((0,), ())] if self._nodes else []
        for last_resort in (False, True):
            stack, later = later[::-1], []
            while stack:
                nodes, names = stack.pop()
                if nodes[-1] in seen:
                    continue
                if len(names) > MAX_DEPTH:
                    raise FormatError(f"expected objects at most {MAX_DEPTH} levels deep, got more", where=self.where)
                seen.add(nodes[-1])
                yield nodes, names
                ways = [((*nodes, child), (*names, name)) for name, child in self.children(nodes[-1]).items() if child not in seen]
                if not last_resort:
                    later += [way for way in ways if way[1][-1] in ADMINISTRATIVE]
                    ways = [way for way in ways if way[1][-1] not in ADMINISTRATIVE]
                stack += reversed(ways)


class CheckpointGraph(ObjectGraph):
    """A TrackableObjectGraph."""

    def __init__(self, graph: Message) -> None:
        super().__init__(graph)
        self._stored: dict[tuple[int, str], KeptValue | None] = {}  # by node and attribute

    def stored(self, node: int, attribute: str = VALUE) -> KeptValue | None:
        """Where the checkpoint stores this attribute of the node; None if there is none."""
        asked = node, attribute
        if asked not in self._stored:
            self._stored[asked] = self._kept(node, attribute)
        return self._stored[asked]

    def _kept(self, node: int, attribute: str) -> KeptValue | None:
        where = self.where
        for data in self._nodes[node].raws(NODE_ATTRIBUTES):
            found = fields_at(data, where)
            if text_in(found, ATTRIBUTE_NAME, where) == attribute:
                return KeptValue(text_in(found, ATTRIBUTE_FULL_NAME, where), text_in(found, ATTRIBUTE_KEY, where))
        return None

    def is_variable(self, node: int) -> bool:
        return self.stored(node) is not None

    def variable_name(self, node: int) -> str:
        """As in a SavedGraph."""
        stored = self.stored(node)
        return stored.full_name if stored else ""


class SavedGraph(ObjectGraph):
    """A SavedObjectGraph."""

    def __init__(self, graph: Message) -> None:
        super().__init__(graph)
        self._graph = graph

    def bound_inputs(self) -> dict[str, list[int]]:
        """For each function, the nodes that its last arguments refer to: variables, and other captured tensors."""
        found = {name: function.integers(FUNCTION_BOUND_INPUTS) for name, function in self._graph.map(SAVED_FUNCTIONS).items()}
        for name, nodes in found.items():
            if not all(0 <= node < len(self) for node in nodes):
                raise FormatError(f"the function {name} is bound to a node that does not exist", where=self.where)
        return found

    def functions(self, node: int) -> list[str]:
        """The functions that an object is, one for each way in which it was called; none for other objects."""
        return self._nodes[node].message(OBJECT_FUNCTION).texts(FUNCTION_CONCRETE)

    def identifier(self, node: int) -> str:
        """What kind of object the node is, e.g. "_tf_keras_layer"; "" for variables, functions and the like."""
        return self._nodes[node].message(OBJECT_USER).text(USER_IDENTIFIER)

    def metadata(self, node: int) -> bytes:
        """Keras's JSON about the node (TensorFlow 1.15 to 2.4), or b""."""
        return self._nodes[node].message(OBJECT_USER).raw(USER_METADATA)

    def reached(self, way: str) -> set[int]:
        """The nodes that "root.layer-1.cell" may refer to: a name may itself contain dots."""
        level, parts = {0: {0}}, way.split(".")
        for end in range(2, min(len(parts), MAX_DEPTH) + 1):
            level[end - 1] = {children[name] for begin in range(1, end) for node in level[begin - 1]
                              if (name := ".".join(parts[begin:end])) in (children := self.children(node))}
        return level.get(len(parts) - 1, set())

    def is_variable(self, node: int) -> bool:
        return OBJECT_VARIABLE in self._nodes[node]

    def variable_name(self, node: int) -> str:
        """The variable's own name, e.g. "bn/gamma"; "" if there is none."""
        return self._nodes[node].message(OBJECT_VARIABLE).text(VARIABLE_NAME)

    def constant(self, node: int) -> str:
        """The name of the op in the main graph that a captured tensor is; "" for other objects."""
        return self._nodes[node].message(OBJECT_CONSTANT).text(CONSTANT_OPERATION)


def read_metadata(data: bytes, where: str, saved: SavedGraph) -> dict[int, bytes]:
    """Keras's JSON of each node in keras_metadata.pb (TensorFlow 2.5 and later), which lists each object's number, path from the root and
    kind. Raises FormatError if the object graph disagrees: then it is uncertain which object each entry describes.
    """
    found: dict[int, bytes] = {}
    for node in Message(data, where).messages(METADATA_NODES):
        number, way, kind = node.integer(METADATA_ID), node.text(METADATA_PATH), node.text(METADATA_KIND)
        if number in found or not 0 <= number < len(saved):
            raise _contradicts(f"node {number}", where)
        if (kind and kind != saved.identifier(number)) or (way and number not in saved.reached(way)):
            raise _contradicts(f"node {number}, {printable(way, 100)!r}", where)
        found[number] = node.raw(METADATA_TEXT)
    for number in range(len(saved)) if found else ():
        if number not in found and saved.identifier(number).startswith(KERAS_KIND):
            raise _contradicts(f"node {number}", where)
    return found


def _contradicts(what: str, where: str) -> FormatError:
    return FormatError(f"it and the object graph of saved_model.pb disagree about {what}", where=where,
                       hint="a file of the folder is damaged or another model's: copy or save the whole folder again")

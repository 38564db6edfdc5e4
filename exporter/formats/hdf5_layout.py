"""The structures of HDF5 that are parsed here: groups, in files with 8-byte addresses, as libhdf5 writes by default.

Specification: HDF5 File Format 3.0; the section is given with each structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from exporter.formats.layout import Layout

Read = Callable[[int, int], bytes]  # address, size: bytes of the file, fewer at its end
UNDEFINED = (1 << 64) - 1  # an address of nothing

# types of messages (IV.A.2)
NOTHING, DATASPACE, DATATYPE, FILL_VALUE, DATA_LAYOUT, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, MODIFIED = 0, 1, 3, 5, 8, 12, 16, 17, 18
CONTIGUOUS = 1
SIZES, RANKS_AT, ADDRESSES_AT = slice(13, 15), 16, {0: 24, 1: 28}  # in a superblock; the last by its version
GROUP_NODE, CACHED_GROUP, CACHED_LINK = 0, 1, 2  # kind of a B-tree (III.A.1), types of a cache (III.C)


class Ranks(NamedTuple):
    """In a superblock of version 0 or 1 (II.A): half of the most entries of a symbol table node, and of a group's B-tree node."""

    leaf: int
    internal: int
    flags: int


class Addresses(NamedTuple):
    """The base that every address is relative to, and the places of structures (II.A); in version 0 and 1 the root's symbol table entry
    follows."""

    base: int
    free_space: int
    end: int
    driver: int


class TreeNode(NamedTuple):
    """A node of a version 1 B-tree (III.A.1); key 0, child 0, key 1, child 1, ... and a last key follow, of 8 bytes each in a group's."""

    signature: bytes
    kind: int
    level: int
    used: int
    left: int
    right: int


class Branch(NamedTuple):
    """A child of a B-tree's node between the keys on both sides (III.A.1)."""

    low: int
    child: int
    high: int


class TableNode(NamedTuple):
    """A symbol table node (III.B); its entries follow."""

    signature: bytes
    version: int
    reserved: int
    used: int


class TableEntry(NamedTuple):
    """An entry of a symbol table (III.C). tree, heap: the scratch pad of a group's."""

    name: int
    header: int
    cache: int
    reserved: int
    tree: int
    heap: int


class LocalHeap(NamedTuple):
    """The header of a local heap (III.D)."""

    signature: bytes
    version: int
    size: int
    free: int
    data: int


class ObjectHeader(NamedTuple):
    """The prefix of an object header of version 1 (IV.A.1.a); its messages follow 4 bytes later."""

    version: int
    reserved: int
    messages: int
    links: int
    size: int


class MessageHeader(NamedTuple):
    """Before each message of an object header of version 1 (IV.A.1.a)."""

    kind: int
    size: int
    flags: int


class FirstMessage(NamedTuple):
    """An object header of version 1 up to its first message (IV.A.1.a), where that is one of a pair of numbers: the symbol table message,
    or the continuation to which it was moved when attributes came."""

    version: int
    kind: int
    first: int
    second: int


class OnlyMessage(NamedTuple):
    """The first message of a continuation, likewise."""

    kind: int
    first: int
    second: int


class Pair(NamedTuple):
    """The data of a symbol table message (IV.A.2.r: addresses of B-tree and heap), of a continuation (IV.A.2.q) and of a contiguous
    layout (IV.A.2.i): an address, and an address or a size."""

    first: int
    second: int


class AttributeHead(NamedTuple):
    """The beginning of an attribute message of version 1 (IV.A.2.m); name, datatype, dataspace, each of so many bytes and padded to a
    multiple of 8, and the data follow."""

    version: int
    reserved: int
    name: int
    datatype: int
    dataspace: int


class HeapCollection(NamedTuple):
    """The header of a global heap collection (III.E); its objects follow, up to one of number 0."""

    signature: bytes
    version: int
    size: int


class HeapObject(NamedTuple):
    """Before each object of a global heap collection (III.E), whose data is padded to a multiple of 8."""

    number: int
    references: int
    size: int


class HeapReference(NamedTuple):
    """A string of any length: its size, the address of its collection, and its number there (IV.B)."""

    size: int
    address: int
    number: int


RANKS = Layout(Ranks, "<HHI")
ADDRESSES = Layout(Addresses, "<QQQQ")
TREE_NODE = Layout(TreeNode, "<4sBBHQQ")
BRANCH = Layout(Branch, "<QQQ")
TABLE_NODE = Layout(TableNode, "<4sBBH")
TABLE_ENTRY = Layout(TableEntry, "<QQIIQQ")
LOCAL_HEAP = Layout(LocalHeap, "<4sB3xQQQ")
FIRST_OF_HEADER = Layout(FirstMessage, "<B15xH6xQQ")
FIRST_OF_BLOCK = Layout(OnlyMessage, "<H6xQQ")
OBJECT_HEADER = Layout(ObjectHeader, "<BBHII")
MESSAGE_HEADER = Layout(MessageHeader, "<HHB3x")
PAIR = Layout(Pair, "<QQ")
ATTRIBUTE_HEAD = Layout(AttributeHead, "<BBHHH")
HEAP_COLLECTION = Layout(HeapCollection, "<4sB3xQ")
HEAP_OBJECT = Layout(HeapObject, "<HH4xQ")
HEAP_REFERENCE = Layout(HeapReference, "<IQI")
FIRST_MESSAGE = 16  # from the start of an object header


def messages(block: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(type, data) of the messages in `block` from `at` to `end`."""
    end = min(end, len(block))
    while at + MESSAGE_HEADER.size <= end:
        header = MESSAGE_HEADER.at(block, at)
        at += MESSAGE_HEADER.size
        yield header.kind, block[at: at + header.size]
        at += header.size

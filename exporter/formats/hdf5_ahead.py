"""Finds the parts of a remote HDF5 file that will be needed, in a dozen rounds of concurrent requests.

libhdf5 follows one address after the other. Over a network each is a round trip, and a model has thousands. This module traverses the
groups one whole level at a time, and makes the file fetch what libhdf5 and the sources will read: the metadata of the groups,
and the data of vectors that look like a batch norm. Nothing is decided here: whatever is guessed wrong, or is in a form that
this module doesn't know, is fetched later when libhdf5 reads it.

Specification: HDF5 File Format 3.0, sections III.A.1 (B-trees), III.B (symbol table nodes), III.D (local heaps), IV.A (headers).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import struct
from collections.abc import Callable, Iterator

from exporter.files.input_file import InputFile
from exporter.formats.hdf5_layout import (
    ADDRESSES,
    ADDRESSES_AT,
    CACHED_GROUP,
    CONTIGUOUS,
    CONTINUATION,
    DATA_LAYOUT,
    DATASPACE,
    FIRST_MESSAGE,
    GROUP_NODE,
    LOCAL_HEAP,
    OBJECT_HEADER,
    PAIR,
    RANKS,
    RANKS_AT,
    SIZES,
    TABLE_ENTRY,
    TABLE_NODE,
    TREE_NODE,
    TableEntry,
    messages,
)

HEADER_BYTES = 512  # the bytes that libhdf5 reads of an object header or a heap before it knows its size
NEAR_BYTES = 6144  # the bytes fetched from the header of a batch norm: its subgroups follow there
GAP_BYTES = 64 << 10  # up to this many, everything before the header of the next layer: Keras writes the layers one after the other
MAX_ROUNDS = 40
MAX_BYTES = 64 << 20
MAX_CONTINUATION = 1 << 16
MAX_VECTOR = 1 << 24  # bytes of an array, and of the names of a group
LAYOUT_VERSION = 3
CONTAINER = re.compile(rb"functional|sequential|model|layers?$|layers_|.*_layer$|cells?$|bidirectional|time_distributed")
NORM = re.compile(rb"moving_variance|running_std|batch_?norm|(?<![a-z])bn", re.IGNORECASE)

Step = tuple[int, int, Callable[[bytes], "Iterator[Step]"]]  # first byte, number of bytes, continuation


def walk(file: InputFile, start: int) -> None:
    """Makes `file` fetch what will be read; start: offset of the superblock. In a damaged file this just ends early."""
    pending: list[Step] = [(start, 96, _Walk().superblock)]
    spent, end = 0, file.seek(0, 2)
    for _ in range(MAX_ROUNDS):
        pending = _whole(pending)
        spent += sum(size for _, size, _ in pending)
        if not pending or spent > MAX_BYTES:
            return
        file.fetch_ahead([(at, at + size) for at, size, _ in pending])
        following: list[Step] = []
        for at, size, go_on in pending:
            file.seek(at)
            with contextlib.suppress(struct.error, IndexError, ValueError):
                following += go_on(file.read(size))
        pending = [step for step in following if step[0] < end]


def _whole(steps: list[Step]) -> list[Step]:
    """The steps; at the header of a batch norm, extended to all of it if the next header to be fetched shows its size."""
    starts = sorted({at for at, _, _ in steps})
    following = dict(itertools.pairwise(starts))
    gaps = {at: next_at - at for at, next_at in following.items() if next_at - at <= GAP_BYTES}
    return [(at, gaps.get(at, size) if size == NEAR_BYTES else size, go_on) for at, size, go_on in steps]


class _Walk:
    def __init__(self) -> None:
        self._seen: set[int] = set()

    def superblock(self, data: bytes) -> Iterator[Step]:
        if data[8] != 0 or data[SIZES] != b"\x08\x08":
            return
        ranks, addresses = RANKS.at(data, RANKS_AT), ADDRESSES.at(data, ADDRESSES_AT[0])
        self._base = addresses.base
        self._leaf = TABLE_NODE.size + 2 * ranks.leaf * TABLE_ENTRY.size
        self._internal = TREE_NODE.size + 8 + 2 * ranks.internal * 16
        root = TABLE_ENTRY.at(data, ADDRESSES_AT[0] + ADDRESSES.size)
        yield self._at(root.header, HEADER_BYTES, _nothing)
        if root.cache == CACHED_GROUP:
            yield from self._group(root.tree, root.heap, True, False)

    def _at(self, address: int, size: int, go_on: Callable[[bytes], Iterator[Step]]) -> Step:
        return self._base + address, size, go_on

    def _group(self, tree: int, heap: int, is_root: bool, is_norm: bool) -> Iterator[Step]:
        if tree not in self._seen:
            self._seen.add(tree)
            yield from _Group(self, is_root, is_norm).steps(tree, heap)

    def _member(self, entry: TableEntry, name: bytes, is_in_root: bool, is_norm: bool) -> Iterator[Step]:
        """The parts of one member of a group that are needed."""
        if name.startswith((b"optimizer", b"_optimizer")) or (name == b"vars" and not is_norm):
            return
        if entry.cache == CACHED_GROUP:
            expected = is_norm or NORM.search(name) is not None
            yield self._at(entry.header, NEAR_BYTES if expected and not is_norm else HEADER_BYTES,
                           functools.partial(self._inner, entry, name, is_in_root, expected))
        elif is_norm:
            yield self._at(entry.header, HEADER_BYTES, self._dataset)

    def _inner(self, entry: TableEntry, name: bytes, is_in_root: bool, expected: bool, header: bytes) -> Iterator[Step]:
        """The parts needed after the header of a group, which contains its attributes: there a layer lists the names of its weights."""
        end = FIRST_MESSAGE + OBJECT_HEADER.at(header).size
        is_norm = expected or NORM.search(header, 0, end) is not None
        for kind, message in _messages(header):
            if kind == CONTINUATION:
                address, size = PAIR.at(message)
                go_on = _nothing if is_norm else functools.partial(self._continued, entry)
                yield self._at(address, min(size, MAX_CONTINUATION), go_on)
        if is_norm or is_in_root or CONTAINER.match(name):
            yield from self._group(entry.tree, entry.heap, False, is_norm)

    def _continued(self, entry: TableEntry, data: bytes) -> Iterator[Step]:
        return self._group(entry.tree, entry.heap, False, True) if NORM.search(data) else iter(())

    def _dataset(self, header: bytes) -> Iterator[Step]:
        rank = place = None
        for kind, message in _messages(header):
            if kind == DATASPACE:
                rank = message[1]
            elif kind == DATA_LAYOUT and message[:2] == bytes((LAYOUT_VERSION, CONTIGUOUS)):
                place = PAIR.at(message, 2)
        if rank == 1 and place is not None and place.second < MAX_VECTOR:
            yield self._at(place.first, place.second, _nothing)


class _Group:
    """One group: its names may arrive later than its members, whose parts wait for them."""

    def __init__(self, walk: _Walk, is_root: bool, is_norm: bool) -> None:
        self._walk, self._is_root, self._is_norm = walk, is_root, is_norm
        self._names: bytes | None = None
        self._leaves: list[bytes] = []

    def steps(self, tree: int, heap: int) -> Iterator[Step]:
        yield self._walk._at(tree, self._walk._internal, self._node)
        yield self._walk._at(heap, HEADER_BYTES, self._heap)

    def _heap(self, data: bytes) -> Iterator[Step]:
        heap = LOCAL_HEAP.at(data)
        if heap.signature == b"HEAP" and heap.size < MAX_VECTOR:
            yield self._walk._at(heap.data, heap.size, self._named)

    def _named(self, names: bytes) -> Iterator[Step]:
        self._names = names
        for leaf in self._leaves:
            yield from self._leaf(leaf)

    def _node(self, data: bytes) -> Iterator[Step]:
        node = TREE_NODE.at(data)
        if node.signature == b"TREE" and node.kind == GROUP_NODE:
            for i in range(node.used):
                child = PAIR.at(data, TREE_NODE.size + 16 * i).second
                size, go_on = (self._walk._internal, self._node) if node.level else (self._walk._leaf, self._leaf)
                yield self._walk._at(child, size, go_on)

    def _leaf(self, data: bytes) -> Iterator[Step]:
        if self._names is None:
            self._leaves.append(data)
            return
        for i in range(TABLE_NODE.at(data).used if data[:4] == b"SNOD" else 0):
            entry = TABLE_ENTRY.at(data, TABLE_NODE.size + i * TABLE_ENTRY.size)
            name = self._names[entry.name: self._names.index(b"\0", entry.name)]
            yield from self._walk._member(entry, name, self._is_root, self._is_norm)


def _nothing(data: bytes) -> Iterator[Step]:
    return iter(())


def _messages(header: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, data) of the messages in the first piece of an object header of version 1."""
    start = OBJECT_HEADER.at(header)
    return messages(header, FIRST_MESSAGE, FIRST_MESSAGE + start.size) if start.version == 1 else iter(())

"""What of a remote HDF5 file will be wanted, found out in a dozen rounds of concurrent requests.

libhdf5 follows one address after the other; over a network each is a round trip, and a model has thousands. This module walks the
groups level by level, all of a level at once, and has the file keep what libhdf5 and the sources will ask for: the metadata of the groups,
and the data of vectors where a batch norm seems to be. Nothing is decided here: what is guessed wrong, or lies in a form that
this module doesn't know, is fetched when libhdf5 asks for it.

Specification: HDF5 File Format 3.0, sections III.A.1 (B-trees), III.B (symbol table nodes), III.D (local heaps), IV.A (headers).
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Iterator
from typing import Protocol

HEADER = 512  # what libhdf5 reads of an object header or a heap before it knows its size
NEAR = 6144  # what is fetched from the header of a batch norm on: the groups below it stand there
WHOLE = 64 << 10  # up to so much, all that stands before the header of the next layer: Keras writes one layer after the other
MOST_ROUNDS = 40
MOST_BYTES = 64 << 20
CONTAINER = re.compile(rb"functional|sequential|model|layers?$|layers_|.*_layer$|cells?$|bidirectional|time_distributed")
NORM = re.compile(rb"moving_variance|running_std|batch_?norm|(?<![a-z])bn", re.IGNORECASE)
SYMBOL_TABLE, DATASPACE, LAYOUT, CONTINUATION = 0x11, 1, 8, 16
CONTIGUOUS = 1


class RemoteFile(Protocol):
    """A file object that can fetch several ranges at once and keep them."""

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


Step = tuple[int, int, Callable[[bytes], "Iterator[Step]"]]  # first byte, how many, what goes on from them


def walk(file: RemoteFile, start: int) -> None:
    """Has `file` fetch what will be read of it; start: where its superblock is. A damaged file ends this early, no more."""
    pending: list[Step] = [(start, 96, _Walk().superblock)]
    spent, end = 0, file.seek(0, 2)
    for _ in range(MOST_ROUNDS):
        pending = _whole(pending)
        spent += sum(size for _, size, _ in pending)
        if not pending or spent > MOST_BYTES:
            return
        file.fetch_ahead([(at, at + size) for at, size, _ in pending])
        following: list[Step] = []
        for at, size, go_on in pending:
            file.seek(at)
            try:
                following += go_on(file.read(size))
            except (struct.error, IndexError, ValueError):
                continue
        pending = [step for step in following if step[0] < end]


def _whole(steps: list[Step]) -> list[Step]:
    """The steps, those at the header of a batch norm with all of it, where the next header that is to be fetched says how much that is."""
    starts = sorted({at for at, _, _ in steps})
    following = dict(itertools.pairwise(starts))
    return [(at, following[at] - at, go_on) if size == NEAR and following.get(at, at + WHOLE + 1) - at <= WHOLE else (at, size, go_on)
            for at, size, go_on in steps]


class _Walk:
    def __init__(self) -> None:
        self._seen: set[int] = set()

    def superblock(self, data: bytes) -> Iterator[Step]:
        version, widths, leaf, internal, base = data[8], data[13:15], *struct.unpack_from("<HH4xQ", data, 16)
        if version or widths != b"\x08\x08":
            return
        self._base = base
        self._leaf, self._internal = 8 + 2 * leaf * 40, 32 + 2 * internal * 16
        header, kind, tree, heap = struct.unpack_from("<QI4xQQ", data, 64)
        yield self._at(header, HEADER, lambda _: iter(()))
        if kind == 1:
            yield from self._group(tree, heap, 0, False)

    def _at(self, address: int, size: int, go_on: Callable[[bytes], Iterator[Step]]) -> Step:
        return self._base + address, size, go_on

    def _group(self, tree: int, heap: int, depth: int, is_norm: bool) -> Iterator[Step]:
        if tree in self._seen or depth > 30:
            return
        self._seen.add(tree)
        names: list[bytes] = []
        waiting: list[Iterator[Step]] = []

        def heap_header(data: bytes) -> Iterator[Step]:
            size, _, address = struct.unpack_from("<8xQQQ", data)
            if data[:4] == b"HEAP" and size < 1 << 24:
                yield self._at(address, size, heap_data)

        def heap_data(data: bytes) -> Iterator[Step]:
            names.append(data)
            for steps in waiting:
                yield from steps

        def node(data: bytes) -> Iterator[Step]:
            signature, kind, level, used = struct.unpack_from("<4sBBH", data)
            if signature != b"TREE" or kind != 0:
                return
            for i in range(used):
                child, = struct.unpack_from("<Q", data, 32 + 16 * i)
                yield self._at(child, self._internal, node) if level else self._at(child, self._leaf, leaf)

        def leaf(data: bytes) -> Iterator[Step]:
            steps = self._entries(data, names, depth, is_norm)
            if names:
                yield from steps
            else:
                waiting.append(steps)

        yield self._at(tree, self._internal, node)
        yield self._at(heap, HEADER, heap_header)

    def _entries(self, data: bytes, names: list[bytes], depth: int, is_norm: bool) -> Iterator[Step]:
        for i in range(struct.unpack_from("<4x2xH", data)[0] if data[:4] == b"SNOD" else 0):
            offset, header, kind, tree, heap = struct.unpack_from("<QQI4xQQ", data, 8 + 40 * i)
            name = names[0][offset: names[0].index(b"\0", offset)]
            if name.startswith((b"optimizer", b"_optimizer")) or (name == b"vars" and not is_norm):
                continue
            if kind == 1:
                yield self._member(header, name, tree, heap, depth, is_norm)
            elif is_norm:
                yield self._at(header, HEADER, self._dataset)

    def _member(self, header: int, name: bytes, tree: int, heap: int, depth: int, is_norm: bool) -> Step:
        expected = is_norm or NORM.search(name) is not None

        def look(data: bytes) -> Iterator[Step]:
            norm = expected or NORM.search(data, 0, _end(data)) is not None
            for kind, message in _messages(data):
                if kind == CONTINUATION:
                    address, size = struct.unpack_from("<QQ", message)
                    yield self._at(address, min(size, 1 << 16), more if not norm else lambda _: iter(()))
            if norm or depth == 0 or CONTAINER.match(name):
                yield from self._group(tree, heap, depth + 1, norm)

        def more(data: bytes) -> Iterator[Step]:
            return self._group(tree, heap, depth + 1, True) if NORM.search(data) else iter(())

        return self._at(header, NEAR if expected and not is_norm else HEADER, look)

    def _dataset(self, data: bytes) -> Iterator[Step]:
        rank, place = 0, None
        for kind, message in _messages(data):
            if kind == DATASPACE:
                rank = message[1]
            elif kind == LAYOUT and message[:2] == bytes((3, CONTIGUOUS)):
                place = struct.unpack_from("<QQ", message, 2)
        if rank == 1 and place is not None and place[1] < 1 << 24:
            yield self._at(place[0], place[1], lambda _: iter(()))


def _end(header: bytes) -> int:
    return min(len(header), 16 + int(struct.unpack_from("<8xI", header)[0]))


def _messages(header: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, data) of the messages in the first piece of an object header of version 1."""
    if header[:1] != b"\1":
        return
    at, end = 16, _end(header)
    while at + 8 <= end:
        kind, size = struct.unpack_from("<HH", header, at)
        yield kind, header[at + 8: at + 8 + size]
        at += 8 + size

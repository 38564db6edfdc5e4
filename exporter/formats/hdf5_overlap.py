"""Detects data of an HDF5 file that overlaps something else: only an address, without a checksum, says which data belongs to an object."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from exporter.errors import COPY_AGAIN, FormatError, printable

TOGETHER = 16 << 10  # bytes that are read at once with the data of several datasets in them
MAX_LOOK_BACK = 4096  # bytes before the data that are searched for a structure that extends into it

# How structures begin: a group's B-tree node and leaf, which have these sizes if the superblock has the library's default ranks; a heap,
# which contains the size and place of its names; an object header of version 1 with one link to it, which contains its size, and its first
# message (HDF5 File Format, III.A.1, III.B, III.D, IV.A.1.a). Without the message, addresses above 16 MiB look like one here and there.
# Separate patterns: one that begins with fixed bytes is found several times faster than one with alternatives.
FIXED = (re.compile(rb"TREE\0"), 544), (re.compile(rb"SNOD\x01\0"), 328)
HEAP, HEAP_BYTES = re.compile(rb"HEAP\0{4}(?:(.{8}).{8}(.{8}))?", re.DOTALL), 32
HEADER, HEADER_BYTES = re.compile(rb"\x01\0[^\0]\0\x01\0{3}(..)\0{6}(?=[\x01-\x17]\0..[\0-\x3f]\0{3})", re.DOTALL), 16
LONGEST = 24  # bytes that one of these looks at before it is sure, in which others than zeros are
PATTERNS = [*(pattern for pattern, _ in FIXED), HEAP, HEADER]
ANY, SHORT = re.compile(b"|".join(pattern.pattern for pattern in PATTERNS), re.DOTALL), 256  # in so few bytes, one search is faster


class _Dataset(Protocol):
    """Where the header of a contiguous dataset is and how many bytes of it hold no other structure, and where its data."""

    address: int
    head: int
    place: int
    size: int


class _Block(Protocol):
    """A part of the file, from `start` on, with datasets that are alike. holds_structure: whether their data may."""

    @property
    def block(self) -> bytes: ...

    @property
    def start(self) -> int: ...

    @property
    def holds_structure(self) -> bool: ...


class Data:
    """The data of a file's datasets, none of which overlaps anything else."""

    def __init__(self, read_at: Callable[[int, int], bytes], can_look_back: bool) -> None:
        """read_at: reads bytes of the file.
        can_look_back: whether the sizes of structures are known and reading bytes before the data costs no request."""
        self._read_at, self.can_look_back = read_at, can_look_back
        self._spans = Spans()

    def read(self, path: str, at: int, size: int) -> bytes:
        """Data of the dataset at a path; b"" if it cannot look back."""
        start = max(at - MAX_LOOK_BACK, min(at, self._spans.add(path, at, at + size)))
        return self._checked(start, at, size) if self.can_look_back else b""

    def read_all(self, paths: Sequence[str], datasets: Sequence[_Dataset]) -> list[bytes]:
        """`read` for each of these datasets, at once if they are close together."""
        first, end = datasets[0].place, datasets[-1].place + datasets[-1].size
        base = max(first - MAX_LOOK_BACK, min(first, self._spans.end))
        block = self._read_at(base, end - base) if 0 <= end - base <= TOGETHER else b""
        found = []
        for path, dataset in zip(paths, datasets):
            at, size, head = dataset.place, dataset.size, dataset.head
            start = max(at - MAX_LOOK_BACK, min(at, self._spans.add(path, at, at + size)))
            if start == dataset.address and start + head <= at:  # behind the data before there is its own header, and nothing in that
                start += head
            found.append(self._checked(start, at, size, block[start - base: at + size - base] if start >= base else b""))
        return found

    def check(self, path: str, header: int, at: int, alike: _Block, size: int, head: int) -> None:
        """Refuses the data at `at` of one of these datasets as `read_all` does; header, size, head: as those of a `_Dataset`."""
        start = max(at - MAX_LOOK_BACK, min(at, self._spans.add(path, at, at + size)))
        if start == header and start + head <= at:
            start += head
        if start < at or alike.holds_structure:
            begin = start - alike.start
            self._checked(start, at, size, alike.block[begin: at + size - alike.start] if begin >= 0 else b"")

    def _checked(self, start: int, at: int, size: int, data: bytes = b"") -> bytes:
        """data: from `start` on, if it is all there."""
        whole = at + size - start
        if len(data) != whole:
            data = self._read_at(start, whole)
        if len(data) != whole:
            raise FormatError("the file ends inside its data", hint=COPY_AGAIN)
        check_structures(data, start, at)
        return data[at - start:]


class Spans:
    """The location of the data read so far, and the object that it belongs to."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, str]] = []
        self.end = 0  # of the last ones

    def add(self, path: str, at: int, end: int) -> int:
        """Refuses data, from `at` to `end` in the file, that overlaps the data of another path. Returns the end of the data before it."""
        last = self.end
        if at >= last:  # nearly always: what is read later was written later
            self._spans.append((at, end, path))
            self.end = end
            return last
        place = bisect.bisect(self._spans, (at, end))
        for first, last, other in self._spans[max(0, place - 1): place + 1]:
            if at < last and first < end and other != path:
                raise FormatError(f"its data overlaps that of {printable(other)}", hint=COPY_AGAIN)
        self._spans.insert(place, (at, end, path))
        return self._spans[place - 1][1] if place else 0


def check_structures(data: bytes, start: int, at: int) -> None:
    """Refuses data from `at` that overlaps one of these structures; a structure that begins before `start` is not found.

    data: the bytes from `start` to the end of the data. A structure begins no earlier than the end of the data before.
    """
    if len(data) < SHORT and ANY.search(data) is None:
        return
    before = at - start
    for pattern, size in FIXED:
        if pattern.search(data, max(0, before - size + 1)):
            raise _in_metadata()
    for found in HEADER.finditer(data):
        if found.start() + HEADER_BYTES + int.from_bytes(found[1], "little") > before:
            raise _in_metadata()
    for found in HEAP.finditer(data):
        if found.start() + HEAP_BYTES + _names_behind(found, start + found.end()) > before:
            raise _in_metadata()


def holds_structure(header: bytes) -> bool:
    """Whether a structure may begin in these bytes of a header, but not with the first, and not end in them."""
    return ANY.search(header, 1) is not None or any(header[-LONGEST:])


def _in_metadata() -> FormatError:
    return FormatError("its data overlaps the metadata of the file", hint=COPY_AGAIN)


def _names_behind(heap: re.Match[bytes], end: int) -> int:
    """The bytes of a heap's names if they follow immediately after its header, which ends at `end`."""
    return int.from_bytes(heap[1], "little") if heap[2] is not None and int.from_bytes(heap[2], "little") == end else 0

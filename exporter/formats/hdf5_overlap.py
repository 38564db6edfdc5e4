"""Detects data of an HDF5 file that overlaps something else: only an address, without a checksum, says which data belongs to an object."""

from __future__ import annotations

import bisect
import re

from exporter.errors import FormatError, printable

MAX_LOOK_BACK = 4096  # bytes before the data that are searched for a structure that extends into it

# How structures begin: a group's B-tree node and leaf, which have these sizes if the superblock has the library's default ranks; a heap,
# which contains the size and place of its names; an object header of version 1 with one link to it, which contains its size, and its first
# message (HDF5 File Format, III.A.1, III.B, III.D, IV.A.1.a). Without the message, addresses above 16 MiB look like one here and there.
# Separate patterns: one that begins with fixed bytes is found several times faster than one with alternatives.
NODE, LEAF = (re.compile(rb"TREE\0"), 544), (re.compile(rb"SNOD\x01\0"), 328)
HEAP = re.compile(rb"HEAP\0{4}(?:(.{8}).{8}(.{8}))?", re.DOTALL), 32
HEADER = re.compile(rb"\x01\0[^\0]\0\x01\0{3}(..)\0{6}(?=[\x01-\x17]\0..[\0-\x3f]\0{3})", re.DOTALL), 16
STRUCTURES = (NODE, LEAF, HEAP, HEADER)
ANY, SHORT = re.compile(b"|".join(pattern.pattern for pattern, _ in STRUCTURES), re.DOTALL), 256  # in so few bytes, one search is faster


class Spans:
    """The location of the data read so far, and the object that it belongs to."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, str]] = []

    def add(self, path: str, at: int, end: int) -> int:
        """Refuses data, from `at` to `end` in the file, that overlaps the data of another path. Returns the end of the data before it."""
        last = self._spans[-1][1] if self._spans else 0
        if at >= last:  # nearly always: what is read later was written later
            self._spans.append((at, end, path))
            return last
        place = bisect.bisect(self._spans, (at, end))
        for first, last, other in self._spans[max(0, place - 1): place + 1]:
            if at < last and first < end and other != path:
                raise FormatError(f"its data overlaps that of {printable(other)}", hint="the file is damaged; copy or download it again")
        self._spans.insert(place, (at, end, path))
        return self._spans[place - 1][1] if place else 0


def check_structures(data: bytes, start: int, at: int) -> None:
    """Refuses data from `at` that overlaps one of these structures; a structure that begins before `start` is not found.

    data: the bytes from `start` to the end of the data. A structure begins no earlier than the end of the data before.
    """
    if len(data) < SHORT and ANY.search(data) is None:
        return
    for pattern, size in STRUCTURES:
        for found in pattern.finditer(data):
            if start + found.start() + size + _more(found, start + found.start()) > at:
                raise FormatError("its data overlaps the metadata of the file", hint="the file is damaged; copy or download it again")


def _more(found: re.Match[bytes], place: int) -> int:
    """The bytes that follow the fixed part of a structure at `place`: a header's messages, or a heap's names if they follow immediately."""
    if found.re is HEADER[0]:
        return int.from_bytes(found[1], "little")
    follow = found.re is HEAP[0] and found[2] is not None and int.from_bytes(found[2], "little") == place + HEAP[1]
    return int.from_bytes(found[1], "little") if follow else 0

"""The parts of a remote file that were fetched so far, and which to fetch next: each byte at most once, in few requests."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from typing import Protocol

from exporter.errors import FormatError
from exporter.files.input_file import PieceFile
from exporter.files.place import MiB

Range = tuple[int, int]  # first byte, byte after the last

SMALL_FILE = 128 << 10  # bytes: a file up to this size is fetched whole
# Wanted data is near other data that will be wanted, so a request is widened by a fraction of the file's size, within limits. A server
# that can send several ranges in one response is asked for narrower ones.
BEHIND, AHEAD, NARROW = 1 / 8192, 1 / 4096, 1 / 16384
MIN_AHEAD, MAX_AHEAD = 4 << 10, 64 << 10
FEW_RANGES = 8  # ranges: for fewer it is not worth asking the server whether it sends several in one response
MAX_KEPT = 512 * MiB  # bytes of one file; a server without support for ranges sends the whole file


class Far(Protocol):
    """Where the bytes come from."""

    def fetch(self, ranges: list[Range]) -> list[bytes]:
        """The bytes of each range; the whole file for the first range if the server does not support ranges."""

    def fetch_whole(self) -> bytes: ...

    def packs_ranges(self) -> bool:
        """Whether the server sends several ranges in one response."""


class Ranges:
    """The parts of a remote file that were fetched so far. size: None if the server does not specify it; then the whole file is fetched."""

    def __init__(self, far: Far, size: int | None, name: str) -> None:
        self._far, self._name = far, name
        self._starts: list[int] = []
        self._parts: list[bytes] = []
        self._kept = 0
        if size is None:
            whole = far.fetch_whole()
            size = len(whole)
            self._keep(0, whole)
        self.size = size
        self._behind, self._ahead, self._narrow = (min(MAX_AHEAD, max(MIN_AHEAD, int(size * part))) for part in (BEHIND, AHEAD, NARROW))

    def read(self, start: int, end: int) -> bytes:
        """The bytes from start to end, or to the end of the file."""
        end = min(end, self.size)
        missing = list(self._missing(start, end))
        if missing:
            enough = min(self.size, max(end, missing[0][0] + self._ahead))
            self._fetch(self._whole() or [piece for piece in self._missing(missing[0][0], enough) if piece[0] < end])
        parts = []
        for i in range(self._at(start), len(self._parts)):
            base, part = self._starts[i], self._parts[i]
            if base >= end:
                break
            parts.append(part[max(0, start - base): end - base])
        return b"".join(parts)

    def fetch_ahead(self, ranges: Iterable[Range]) -> None:
        """Fetches the missing parts of these ranges and some bytes around them, all at once."""
        wanted = [(start, min(end, self.size)) for start, end in ranges if any(self._missing(start, min(end, self.size)))]
        if not wanted:
            return
        whole = self._whole()
        if whole:
            self._fetch(whole)
        elif len(wanted) > FEW_RANGES and self._far.packs_ranges():
            self._fetch(self._widened(wanted, 0, self._narrow))
        else:
            self._fetch(self._widened(wanted, self._behind, self._ahead))

    def _whole(self) -> list[Range]:
        return list(self._missing(0, self.size)) if self.size <= SMALL_FILE else []

    def _widened(self, wanted: list[Range], behind: int, ahead: int) -> list[Range]:
        """The missing parts of windows around these ranges; parts at most `ahead` bytes apart are merged."""
        merged: list[Range] = []
        for start, end in sorted(wanted):
            start, end = max(0, start - behind), min(self.size, max(end, start + ahead))
            if merged and start - merged[-1][1] <= ahead // 2:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        return [piece for start, end in merged for piece in self._missing(start, end)]

    def _fetch(self, ranges: list[Range]) -> None:
        for (start, end), data in zip(ranges, self._far.fetch(ranges)):
            if len(data) == self.size and (start, end) != (0, self.size):  # the server does not support ranges
                self._starts, self._parts, self._kept = [], [], 0
                self._keep(0, data)
                return
            if len(data) != end - start:
                raise FormatError(f"expected {end - start} bytes from the server, got {len(data)}", where=self._name,
                                  hint="download the file and pass its path")
            self._keep(start, data)

    def _keep(self, start: int, data: bytes) -> None:
        """Inserts a part, without the bytes that are already there."""
        for a, b in list(self._missing(start, start + len(data))):
            i = bisect.bisect(self._starts, a)
            self._starts.insert(i, a)
            self._parts.insert(i, data[a - start: b - start])
            self._kept += b - a
        if self._kept > MAX_KEPT:
            raise FormatError(f"expected to fetch at most {MAX_KEPT} bytes of it, needed more", where=self._name,
                              hint="download the file and pass its path")

    def _at(self, position: int) -> int:
        return max(0, bisect.bisect(self._starts, position) - 1)

    def _missing(self, start: int, end: int) -> Iterator[Range]:
        for i in range(self._at(start), len(self._parts)):
            base = self._starts[i]
            if base >= end:
                break
            if base > start:
                yield start, base
            start = max(start, base + len(self._parts[i]))
        if start < end:
            yield start, end


class RangesFile(PieceFile):
    """A remote file, for reading; returns all requested bytes up to the end of the file."""

    is_far = True

    def __init__(self, content: Ranges) -> None:
        super().__init__(content.size)
        self._content = content

    def fetch_ahead(self, ranges: list[Range]) -> None:
        """Fetches ranges that will be read, all at once."""
        self._content.fetch_ahead(ranges)

    def read_at(self, at: int, size: int) -> bytes:
        """As in InputFile."""
        return self._content.read(at, at + size)

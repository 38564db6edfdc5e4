"""InputFile: an open local or remote file. Formats read pieces of known offset and size anywhere in it."""

from __future__ import annotations

import io
import os
from typing import Any, Protocol

AHEAD, MAX_WINDOWS = 608, 2  # bytes of a local file that are read with a piece, from behind it; pieces that are kept with them
MORE_AHEAD, MAX_AHEAD, LONG_RUN = 512, 16384, 4  # bytes more with each piece after so many in a row, each close behind another
NEAR = 4096  # bytes from one piece to the next that is close behind it


class InputFile(Protocol):
    """A seekable binary file. is_far: whether reading a piece that was not announced costs a network request."""

    is_far: bool

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...

    def read_at(self, at: int, size: int) -> bytes:
        """Bytes from offset `at`, fewer at the end of the file; the position afterward is undefined."""

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None:
        """Makes a remote file fetch these ranges (first byte, byte after the last) at once, because they will be read."""

    def __enter__(self) -> InputFile: ...

    def __exit__(self, *exception: Any) -> None: ...


class LocalFile(io.FileIO):
    """A local file, unbuffered."""

    is_far = False

    if hasattr(os, "pread"):
        def read_at(self, at: int, size: int) -> bytes:
            """With one system call."""
            return os.pread(self.fileno(), size, at)
    else:
        def read_at(self, at: int, size: int) -> bytes:
            """As in InputFile."""
            self.seek(at)
            return self.read(size)

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None:
        """Nothing: it is here."""


class MemoryFile(io.BytesIO):
    """Bytes as a file."""

    is_far = False

    def read_at(self, at: int, size: int) -> bytes:
        """As in InputFile."""
        return self.getvalue()[at: at + size]  # which copies nothing but the piece

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None:
        """Nothing: it is here."""


class PieceFile(io.RawIOBase):
    """A file of `size` bytes that is read by `read_at` alone."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def read_at(self, at: int, size: int) -> bytes:
        """As in InputFile."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self.read_at(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = self.read_at(self._at, max(0, self._size - self._at))
        self._at += len(data)
        return data


class Windows:
    """Reads pieces of a local file with fewer system calls: what follows a piece is usually read next."""

    def __init__(self, file: InputFile, ahead: int = AHEAD) -> None:
        """ahead: bytes that are read with a piece; in a long run of pieces without gaps, these become more."""
        self._file, self._ahead = file, ahead
        self._run = 0
        self._start, self._window = 0, b""  # the piece of the latest reading, with what follows it
        self._others: tuple[tuple[int, bytes], ...] = ()

    def read_at(self, at: int, size: int) -> bytes:
        """As in InputFile."""
        begin = at - self._start
        if 0 <= begin <= len(self._window) - size:
            return self._window[begin: begin + size]
        for start, window in self._others:
            if start <= at and at + size <= start + len(window):
                return window[at - start: at - start + size]
        return self._read(at, size)

    def _read(self, at: int, size: int) -> bytes:
        windows = ((self._start, self._window), *self._others)
        self._run = self._run + 1 if any(start <= at <= start + len(window) + NEAR for start, window in windows) else 0
        more = min(MORE_AHEAD * max(0, self._run - LONG_RUN), MAX_AHEAD)
        self._start, self._window = at, self._file.read_at(at, size + self._ahead + more)
        self._others = windows[:MAX_WINDOWS - 1]
        return self._window[:size]

"""InputFile: an open local or remote file. Formats read pieces of known offset and size anywhere in it."""

from __future__ import annotations

import io
import os
from typing import Any, Protocol


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


class _Seekable(Protocol):
    def seek(self, offset: int, /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


class Seeking:
    """`read_at` by means of seek and read."""

    def read_at(self: _Seekable, at: int, size: int) -> bytes:
        """As in InputFile."""
        self.seek(at)
        return self.read(size)


class LocalFile(Seeking, io.FileIO):
    """A local file, unbuffered."""

    is_far = False

    if hasattr(os, "pread"):
        def read_at(self, at: int, size: int) -> bytes:
            """With one system call."""
            return os.pread(self.fileno(), size, at)

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

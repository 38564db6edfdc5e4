"""InputFile: an open file of the input, near or far. Formats read all over it, in pieces whose place and size they know."""

from __future__ import annotations

import io
import os
from typing import Any, Protocol


class InputFile(Protocol):
    """A binary file that can seek. is_far: whether a piece that was not announced costs a request over a network."""

    is_far: bool

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...

    def read_at(self, at: int, size: int) -> bytes:
        """Bytes from `at` on, fewer at the end of the file; where the next `read` begins is not said."""

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None:
        """Has a far file fetch these ranges (first byte, byte after the last), all at once; they will be read."""

    def __enter__(self) -> InputFile: ...

    def __exit__(self, *exception: Any) -> None: ...


class _Seekable(Protocol):
    def seek(self, offset: int, /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


class Seeking:
    """`read_at` by way of the file's own place."""

    def read_at(self: _Seekable, at: int, size: int) -> bytes:
        """As in InputFile."""
        self.seek(at)
        return self.read(size)


class LocalFile(Seeking, io.FileIO):
    """A file of this machine, without a buffer."""

    is_far = False

    if hasattr(os, "pread"):
        def read_at(self, at: int, size: int) -> bytes:
            """In one call of the system."""
            return os.pread(self.fileno(), size, at)

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None:
        """Nothing: it is here."""


class MemoryFile(Seeking, io.BytesIO):
    """Bytes as a file."""

    is_far = False

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None:
        """Nothing: it is here."""

"""Standard input, output and error in any state: closed by a daemon, on a full disk, with a limited encoding."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from exporter.errors import OutputError, printable

WHERE = "standard output"
ERASE = "\r\x1b[K"  # erases a progress bar: the only control sequence that we write


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Makes standard output raise OutputError if it cannot be written, and escape what its encoding lacks; makes standard error ignore its
    failures, which lose only the message."""
    _occupy()
    given, given_error = sys.stdout, sys.stderr
    if isinstance(given, io.TextIOWrapper):
        given.reconfigure(errors="backslashreplace")  # like stderr
    sys.stdout = Guarded(given or Closed())
    sys.stderr = Lossy(given_error or Closed())
    try:
        yield
    finally:
        sys.stdout, sys.stderr = given, given_error
        try:
            if given_error is not None:
                given_error.flush()
        except OSError:
            discard_output(2)


def _occupy() -> None:
    """Opens the null device in place of each closed standard stream, so that no pipe or file of ours gets its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets this number: the lowest that is free


def discard_output(descriptor: int = 1) -> None:
    """Discards what is still buffered in standard output (or 2: error), so that the interpreter does not fail to write it at exit."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), descriptor)


class Closed(io.StringIO):
    """A replacement for a standard output that was closed before the command started."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "it is closed")


class Guarded:
    """A stream whose errors say what could not be written; a closed pipe remains a BrokenPipeError. Text on it is harmless to a
    terminal, whatever file or argument it comes from."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: str | bytes) -> None:
        with self._told():
            self._stream.write(harmless(data) if isinstance(data, str) else data)

    def flush(self) -> None:
        with self._told():
            self._stream.flush()

    @property
    def buffer(self) -> Guarded:
        return Guarded(getattr(self._stream, "buffer", self._stream))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            discard_output()
            raise OutputError(f"cannot be written: {error.strerror or error}", where=WHERE) from None


def harmless(text: str) -> str:
    """Text in which everything except line ends is printable."""
    lines = text.split("\n")
    if text == ERASE or all(map(str.isprintable, lines)):
        return text
    return "\n".join(printable(line, sys.maxsize) for line in lines)


class Lossy(Guarded):
    """A stream that may lose what is written: there is nowhere to report that standard error is full or closed."""

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        with contextlib.suppress(OSError):
            yield

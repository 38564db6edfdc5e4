"""Standard input, output and error as a command finds them: closed by a daemon, on a full disk, in an encoding that lacks characters."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from exporter.errors import OutputError

WHERE = "standard output"


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Standard output that tells an OutputError where it cannot be written, and escapes what its encoding lacks."""
    _occupy()
    given = sys.stdout
    if isinstance(given, io.TextIOWrapper):
        given.reconfigure(errors="backslashreplace")  # as stderr does
    sys.stdout = Guarded(given or Closed())
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    try:
        yield
    finally:
        sys.stdout = given


def _occupy() -> None:
    """Opens the null device in place of each closed standard stream: no pipe or file of ours must get its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)


def discard_output() -> None:
    """Sends what is still in the buffers of standard output nowhere, lest the interpreter fails to write it at its end."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


class Closed(io.StringIO):
    """In place of a standard output that was closed before the command began."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "it is closed")


class Guarded:
    """A stream whose errors say what could not be written; a reader that went away stays a BrokenPipeError."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: str | bytes) -> None:
        with self._told():
            self._stream.write(data)

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

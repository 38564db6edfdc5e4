"""Bytes and streams as a temporary named file: formats read anywhere in a file, which a pipe does not allow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from exporter.errors import FormatError, UsageError
from exporter.files.place import Place

MAX_SPOOLED = 64 << 30  # bytes: more than any model has, less than an endless stream
PIECE = 1 << 20  # bytes

Content = bytes | bytearray | memoryview | IO[bytes]


@contextlib.contextmanager
def spooled(content: Content) -> Iterator[Place]:
    """A copy of `content` in a temporary folder, which is removed at the end. A file object is read from its beginning if it can
    seek, and its position is restored; it is never closed.

    Raises: UsageError if it does not contain bytes, FormatError if it cannot be read or copied.
    """
    import tempfile

    with contextlib.ExitStack() as stack:
        name = _name(content)
        try:
            folder = tempfile.TemporaryDirectory(prefix="bn-export-", ignore_cleanup_errors=True)
            path = Path(stack.enter_context(folder), name)
            with open(path, "wb") as file:
                size = 0
                for piece in _pieces(content):
                    size += len(piece)
                    if size > MAX_SPOOLED:
                        raise FormatError(f"expected at most {MAX_SPOOLED} bytes, got more", where=name)
                    file.write(piece)
        except OSError as error:
            raise FormatError(f"cannot be copied to a temporary file: {error.strerror or error}", where=name,
                              hint="set TMPDIR to a folder with enough space") from None
        yield Place(path)


def _pieces(content: Content) -> Iterator[bytes | memoryview]:
    if isinstance(content, (bytes, bytearray, memoryview)):
        view = memoryview(content)
        yield view.cast("B") if view.contiguous else view.tobytes()
        return
    if not hasattr(content, "read"):
        raise UsageError(f"expected a path, a URL, bytes or a binary file object, got {type(content).__name__}",
                         hint="save the model first, e.g. model.save('model.keras'), and give its path" if hasattr(content, "save") else "")
    stood = content.tell() if (can_seek := _can_seek(content)) else 0
    try:
        if can_seek:
            content.seek(0)
        while piece := content.read(PIECE):
            if isinstance(piece, str):
                raise UsageError("expected a binary file object, got a text file object", hint="open it in mode 'rb'")
            yield piece
    finally:
        if can_seek:
            content.seek(stood)


def _can_seek(file: IO[bytes]) -> bool:
    return bool(getattr(file, "seekable", lambda: False)())


def _name(content: Content) -> str:
    """The name of the copy, and so of the model in messages and in the bundle: the file object's name, without its path."""
    name = getattr(content, "name", None)
    name = os.path.basename(name)[-60:] if isinstance(name, str) else ""
    if name in ("", ".", "..") or "\0" in name:
        name = "<bytes>"
    return name if os.name != "nt" else "".join("_" if character in '<>:"|?*' else character for character in name)

"""Paths, names and text of an HDF5 file, and the messages of errors."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from exporter.errors import COPY_AGAIN, FormatError, printable

P = ParamSpec("P")
R = TypeVar("R")


class _File(Protocol):
    def where(self, path: str) -> str: ...


F = TypeVar("F", bound=_File)
MAX_DEPTH = 64  # names of a path: groups inside each other
# What reading a damaged file raises; h5py raises nearly any built-in exception.
DAMAGED = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError)


def split(path: str) -> tuple[str, bytes]:
    """The group's path and the member's name as stored in the file; a path never starts at the root, as HDF5's own do."""
    parent, slash, name = path.rpartition("/")
    try:
        if (not slash or parent) and name not in ("", ".", ".."):
            return parent, name.encode()
    except UnicodeEncodeError:
        pass
    raise FormatError(f"{printable(name if parent else path)!r} is not a valid name in an HDF5 file")


def decoded(raw: bytes, what: str) -> str:
    """Text of the file; `what` describes it in the error."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{what} is not UTF-8 text: {printable(repr(raw), 60)}") from None


def all_decoded(raws: Sequence[bytes], what: str) -> list[str]:
    """`decoded` for each of these."""
    try:
        found = b"\0".join(raws).decode().split("\0")
    except UnicodeDecodeError:
        found = []
    return found if len(found) == len(raws) else [decoded(raw, what) for raw in raws]


def reason(error: BaseException) -> str:
    """libhdf5's own message, without h5py's words around it."""
    text = str(error.args[0] if error.args else error) or type(error).__name__
    inner = re.search(r"\((.*)\)$", text, re.DOTALL)
    return printable(inner[1] if inner and inner[1] else text)


def each_once(found: list[bytes]) -> list[bytes]:
    """The names of a group's members, none of which occurs twice."""
    if len({*found}) != len(found):
        twice, _ = collections.Counter(found).most_common(1)[0]
        raise FormatError(f"the name {printable(repr(twice)[1:])} occurs more than once in this group", hint=COPY_AGAIN)
    return found


def located_errors(method: Callable[Concatenate[F, str, P], R]) -> Callable[Concatenate[F, str, P], R]:
    """Adds the place in the file to errors of a method, its own and libhdf5's."""

    def guarded(self: F, path: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, path, *args, **kwargs)
        except FormatError as error:
            raise error if error.where else error.inside(self.where(path)) from None
        except DAMAGED as error:
            raise FormatError(f"HDF5 cannot read this: {reason(error)}", where=self.where(path), hint=COPY_AGAIN) from None

    functools.update_wrapper(guarded, method)
    return guarded

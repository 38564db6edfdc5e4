"""Operands that are files: "-" is standard input for an input, and standard output for an output."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from exporter.errors import UsageError

if TYPE_CHECKING:
    from exporter.files.place import Place

STANDARD = "-"


@contextlib.contextmanager
def operand(word: str) -> Iterator[Place]:
    """The Place of an input operand; "-" is a copy of standard input."""
    from exporter.files.remote import place_for

    if word != STANDARD:
        yield place_for(word)
        return
    from exporter.files.spool import spooled

    if sys.stdin is None:
        raise UsageError("- is standard input, which is closed")
    with spooled(sys.stdin.buffer) as place:
        yield place


def check_one_standard_input(*words: str | None) -> None:
    """Refuses a second operand that is "-"."""
    if words.count(STANDARD) > 1:
        raise UsageError("expected - at most once: standard input contains only one file", hint="for a file of this name, give ./-")


def binary_output() -> Any:
    """Standard output for binary data. Raises UsageError if it is a terminal."""
    if sys.stdout.isatty():
        raise UsageError("standard output is a terminal, which binary data is not written to",
                         hint="redirect it to a file or another program: ... - > FILE")
    return sys.stdout.buffer

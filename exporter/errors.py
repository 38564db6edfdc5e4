"""Every error that the package raises on purpose.

    ExporterError            what is wrong, where, and what to do about it
    ├── UsageError           options that contradict each other or match nothing
    ├── FormatError          the bytes are damaged, truncated or not what they claim to be
    │   └── MissingFileError  there is nothing at this path; it is also a FileNotFoundError
    ├── UnsupportedError     a valid file from which nothing exact can be exported (folded, pickled, no batch norm)
    ├── UnresolvedError      batch norms that the file does not describe well enough
    ├── LayerError           a layer's numbers cannot be used by the formula (NaN, variance + epsilon <= 0)
    ├── BundleError          a bundle violates docs/format.md
    ├── OutputError          the output cannot be written
    └── MissingExtra         a package of an optional extra is not installed; the hint is the `pip install` command

Errors are immutable: `inside`, `replace` and `located` make new ones. Copies and pickles keep all fields, whatever arguments a class's
constructor takes.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

MAX_MESSAGE_LENGTH = 500
MAX_REASONS_LENGTH = 400  # characters, so that the place of the error fits before them
HINT = "hint: "
COPY_AGAIN = "the file is damaged; copy or download it again"  # the hint about what no program writes
FIELDS = frozenset({"what", "where", "hint", "layers"})


_Error = TypeVar("_Error", bound="ExporterError")


class ExporterError(Exception):
    """The base class of all errors: the input was refused.

    what:  one sentence without a full stop, e.g. "gamma has 3 channels, moving_mean 4".
    where: the place in the input, outermost first, joined by ": ", e.g. "model.h5: encoder/bn_1".
    hint:  what the user can do, or "".
    """

    what: str
    where: str
    hint: str

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        vars(self).update(_noted({"what": what, "where": where, "hint": hint}))

    def __setattr__(self, name: str, value: object) -> None:
        if name in FIELDS:
            raise AttributeError(f"{name} of an error cannot be changed; `replace` makes another error")
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt, (type(self), vars(self))

    def replace(self: _Error, **fields: Any) -> _Error:
        """The same error with other `what`, `where` or `hint`, raised from the same line."""
        return rebuilt(type(self), {**vars(self), **fields}).with_traceback(self.__traceback__)

    def inside(self: _Error, place: str) -> _Error:
        """The same error with an outer place in front of `where`, unless `where` already begins with it or the place is ""."""
        if not place or self.where == place or self.where.startswith(f"{place}: "):
            return self
        return self.replace(where=f"{place}: {self.where}" if self.where else place)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return printable(text, MAX_MESSAGE_LENGTH)


class UsageError(ExporterError):
    """Options that contradict each other or match nothing."""


class FormatError(ExporterError):
    """The bytes are damaged, truncated, or not what they claim to be."""


class MissingFileError(FormatError, FileNotFoundError):
    """There is nothing at this path; `except FileNotFoundError` in a calling program catches it."""

    errno = errno.ENOENT


class UnsupportedError(ExporterError):
    """A valid file from which nothing exact can be exported; `what` gives the reason."""


class UnresolvedError(ExporterError):
    """Batch norms that are in the model but cannot be exported with certainty.

    layers: (path, reason) of each.
    """

    layers: tuple[tuple[str, str], ...]

    def __init__(self, layers: Sequence[tuple[str, str]], *, where: str = "", hint: str = "") -> None:
        super().__init__(f"{counted(len(layers), 'batch norm')} cannot be resolved: {by_reason(layers)}", where=where, hint=hint)
        vars(self).update(layers=tuple(layers))


class LayerError(ExporterError):
    """A layer with numbers that the formula cannot use; the message names the layer, parameter, channel and value."""


class BundleError(ExporterError):
    """A bundle that violates docs/format.md."""


class OutputError(ExporterError):
    """The output cannot be written; an existing file is unchanged."""


class MissingExtra(ExporterError):
    """A package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed",
                         hint=f"pip install 'bn-export[{extra}]'")


KINDS: dict[str, type[ExporterError]] = {kind.__name__: kind for kind in (
    ExporterError, UsageError, FormatError, MissingFileError, UnsupportedError, UnresolvedError, LayerError, BundleError, OutputError,
    MissingExtra)}


def rebuilt(kind: type[_Error], fields: dict[str, Any]) -> _Error:
    """An error of this kind with these fields, made without its constructor: for pickles, copies and the answers of a child process."""
    error = kind.__new__(kind)
    error.args = (fields["what"],)
    vars(error).update(_noted(fields))
    return error


def _noted(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the hint as the first of the notes, which tracebacks of Python 3.11 and later show below the message."""
    others = [note for note in fields.get("__notes__", ()) if not note.startswith(HINT)]
    return {**fields, "__notes__": [HINT + fields["hint"], *others] if fields["hint"] else others}


@contextlib.contextmanager
def located(place: str, hint: str = "") -> Iterator[None]:
    """Adds `place` in front of the `where` of errors raised in the block, and `hint` if they have none."""
    try:
        yield
    except ExporterError as error:
        placed = error.inside(place)
        raise (placed.replace(hint=hint) if hint and not error.hint else placed) from None


def unexpected(error: Exception) -> ExporterError:
    """An unforeseen exception as an error for the user."""
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno}" if last else ""
    return ExporterError(f"unexpected {type(error).__name__}{place}: {error}",
                         hint="the file is damaged in a way that no check foresaw, or this is a bug of bn-export: please report it")


def printable(text: str, longest: int = 200) -> str:
    """`text` safe to show on a terminal: control, bidi, surrogate, unassigned characters and odd spaces escaped, long text cut."""
    if len(text) <= longest and text.isprintable():
        return text
    out = []
    for character in text[: longest + 1]:
        out.append(character if character.isprintable() else character.encode("unicode_escape").decode())
    shown = "".join(out)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def counted(number: int, word: str) -> str:
    """A number with its word: "1 layer", "2 layers"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def paths_by_reason(layers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The paths with each reason, of (path, reason) pairs."""
    paths: dict[str, list[str]] = {}
    for path, reason in layers:
        paths.setdefault(reason, []).append(path)
    return paths


def by_reason(layers: Iterable[tuple[str, str]]) -> str:
    """(path, reason) of each layer as one sentence: each reason appears once, with its layers, and is never truncated."""
    paths = paths_by_reason(layers)
    parts: list[str] = []
    for reason, found in paths.items():
        fitting = next((part for most in (5, 3) if len(part := f"{names(found, most)}: {reason}") <= MAX_REASONS_LENGTH), None)
        part = fitting or f"{names(found, 1)}: {reason}"
        if parts and len("; ".join([*parts, part])) > MAX_REASONS_LENGTH:
            break
        parts.append(part)
    left = sum(map(len, list(paths.values())[len(parts):]))
    return "; ".join(parts) + (f"; and {left} more for other reasons" if left else "")


def names(items: Iterable[str], most: int = 5) -> str:
    """A short list for a message: the first few names, then how many more."""
    items = list(items)
    shown = ", ".join(printable(item, 80) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")

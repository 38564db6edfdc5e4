"""Every error that the package raises on purpose.

    ExporterError            what is wrong, where, and what to do about it
    ├── UsageError           options that contradict each other or name nothing
    ├── FormatError          the bytes are damaged, truncated or not what they claim to be
    ├── UnsupportedError     sound, but nothing exact can be had from it (folded, pickled, no batch norm)
    ├── UnresolvedError      some batch norms are there and the file does not say enough about them
    ├── LayerError           a layer's numbers cannot be used by the formula (NaN, variance + epsilon <= 0)
    ├── BundleError          a bundle breaks the contract of docs/format.md
    ├── OutputError          the output cannot be written
    └── MissingExtra         an optional package is not installed; the hint is its `pip install` line
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LONGEST_MESSAGE = 500


class ExporterError(Exception):
    """An input that is refused.

    what:  one sentence without a full stop, e.g. "gamma has 3 channels, moving_mean 4".
    where: the place in the input, outermost first, joined by ": ", e.g. "model.h5: encoder/bn_1".
    hint:  what the user can do, or "".
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def inside(self, place: str) -> ExporterError:
        """The same error with an outer place in front of `where`, if it isn't there; returns itself, for `raise error.inside(...)`."""
        if self.where != place:
            self.where = f"{place}: {self.where}" if self.where else place
        return self

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return printable(text, LONGEST_MESSAGE)


class UsageError(ExporterError):
    """Options that contradict each other or name nothing."""


class FormatError(ExporterError):
    """The bytes are damaged, truncated, or not what they claim to be."""


class UnsupportedError(ExporterError):
    """A sound file from which nothing exact can be had; `what` says why."""


class UnresolvedError(ExporterError):
    """Batch norms that are in the model but cannot be exported with certainty.

    layers: (path, reason) of each.
    """

    def __init__(self, layers: Sequence[tuple[str, str]], *, where: str = "", hint: str = "") -> None:
        self.layers = tuple(layers)
        named = "; ".join(f"{path}: {reason}" for path, reason in self.layers[:3])
        more = f"; and {len(self.layers) - 3} more" if len(self.layers) > 3 else ""
        count = "1 batch norm" if len(self.layers) == 1 else f"{len(self.layers)} batch norms"
        super().__init__(f"{count} cannot be resolved: {named}{more}", where=where, hint=hint)


class LayerError(ExporterError):
    """A layer whose numbers the formula cannot use; names layer, parameter, channel and value."""


class BundleError(ExporterError):
    """A bundle that breaks the contract of docs/format.md."""


class OutputError(ExporterError):
    """The output cannot be written; what stood there before is untouched."""


class MissingExtra(ExporterError):
    """An optional package is missing."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed",
                         hint=f"pip install 'bn-export[{extra}]'")


def unexpected(error: Exception) -> ExporterError:
    """An exception that no reader foresaw, as an error for the user: nothing was written, and where to look."""
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno}" if last else ""
    return ExporterError(f"unexpected {type(error).__name__}{place}: {error}",
                         hint="the file is damaged in a way that no check foresaw, or this is a bug of bn-export: please report it")


def printable(text: str, longest: int = 200) -> str:
    """`text` safe to show on a terminal: control, bidi, surrogate, unassigned characters and odd spaces escaped, long text cut."""
    if len(text) <= longest and text.isascii() and text.isprintable():
        return text
    out = []
    for character in text[: longest + 1]:
        out.append(character if character.isprintable() else character.encode("unicode_escape").decode())
    shown = "".join(out)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def names(items: Iterable[str], most: int = 5) -> str:
    """A short list for a message: the first few names, then how many more."""
    items = list(items)
    shown = ", ".join(printable(item, 80) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")

"""A table for a spreadsheet, R or pandas: one row per channel, with every number of the layer and the folded scale and offset."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.layer import PARAMETERS, BatchNorm, scale_and_offset
from exporter.targets.shared.options import WriteOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "csv"
OPTIONS = frozenset({"vectors"})  # holds none
COLUMNS = ("path", "channel", "epsilon", *PARAMETERS, "scale", "offset")
MARK = ",".join(COLUMNS).encode() + rb"\r?\n"
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")  # spreadsheets run a cell that starts like this, even if it is quoted
PLAIN = re.compile(r"[^\s,;\"|]+")  # not a separator in any locale


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """RFC 4180 in UTF-8; numbers with enough digits to read them back bit for bit, an absent gamma or beta as an empty cell."""
    text = io.StringIO(newline="")
    text.write(",".join(COLUMNS) + "\r\n")
    for layer in bundle:
        text.writelines(",".join(row) + "\r\n" for row in _rows(layer))
    return text.getvalue().encode()


def _rows(layer: BatchNorm) -> Iterator[list[str]]:
    path = _cell(layer.path)
    stored = [getattr(layer, name) for name in PARAMETERS]
    columns = [_digits(values, layer.channels) for values in (*stored, *scale_and_offset(layer))]
    for channel, numbers in enumerate(zip(*columns)):
        yield [path, str(channel), repr(layer.epsilon), *numbers]


def _cell(text: str) -> str:
    """A text cell: with an apostrophe in front if a spreadsheet would run it, quoted if it contains a separator of any locale."""
    text = f"'{text}" if FORMULA.match(text) else text
    return text if PLAIN.fullmatch(text) else '"' + text.replace('"', '""') + '"'


def _digits(values: NDArray[Any] | None, count: int) -> list[str]:
    """The digits of each value as a double: they can be read back as a double and, rounded, as the layer's dtype."""
    return [""] * count if values is None else [repr(value) for value in values.ravel().tolist()]

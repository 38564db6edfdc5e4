"""A table written by bn-export (MODEL out.csv), or one with the same columns: one row per channel."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

import numpy as np

from exporter.batchnorm.stored import PARAMETERS, STATISTICS
from exporter.diagnosis.ports.port import Port, Ported
from exporter.diagnosis.ports.state import ROLE_OF
from exporter.errors import FormatError, printable

if TYPE_CHECKING:
    from exporter.files.place import Place

MAX_BYTES = 256 << 20  # bytes
MAX_HEAD = 1 << 12  # bytes of the first line
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")  # a path that begins like this has an apostrophe in front, for spreadsheets


def claims(place: Place) -> bool:
    """Text whose first line contains the names of the statistics, separated by commas or semicolons."""
    line = place.head(MAX_HEAD).split(b"\n", 1)[0].decode("utf-8", "replace").strip("\ufeff\r")
    if not line.isprintable() and "\t" not in line:
        return False
    columns = _columns([name.strip('"') for name in line.split(_delimiter(line))])
    return all(name in columns for name in STATISTICS)


def read(place: Place) -> Port:
    """The layers of a table, in the order of their first rows. Raises: FormatError."""
    try:
        text = place.read(MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError("expected UTF-8 text", where=place.name) from None
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text.split("\n", 1)[0])))
    except csv.Error as error:
        raise FormatError(f"expected a table of comma-separated values: {printable(str(error), 100)}", where=place.name) from None
    columns = _columns(rows[0])
    groups: dict[str, list[list[str]]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(rows[0]):
            raise FormatError(f"expected {len(rows[0])} cells, got {len(row)}", where=f"{place.name}: line {number}")
        path = row[columns["path"]] if "path" in columns else ""
        groups.setdefault(path[1:] if path[:1] == "'" and FORMULA.match(path[1:]) else path, []).append(row)
    return Port(name=place.name, kind="a table", layers=tuple(_layer(path, group, columns, place.name) for path, group in groups.items()))


def _delimiter(line: str) -> str:
    return ";" if line.count(";") > line.count(",") else "\t" if line.count("\t") > line.count(",") else ","


def _columns(head: list[str]) -> dict[str, int]:
    """The index of each column by its contents; an exact name has priority over another name ("scale")."""
    plain = [name.strip().lower() for name in head]
    found = {name: place for place, name in reversed(list(enumerate(plain)))}
    for place, name in enumerate(plain):
        found.setdefault(ROLE_OF.get(name, name), place)
    return found


def _layer(path: str, rows: list[list[str]], columns: dict[str, int], where: str) -> Ported:
    at = f"{where}: {printable(path, 80)}"
    if "channel" in columns:
        order = [_number(row[columns["channel"]], "channel", at) for row in rows]
        if sorted(order) != list(range(len(rows))):
            raise FormatError(f"expected the channels 0 to {len(rows) - 1}, once each", where=at)
        rows = [row for _, row in sorted(zip(order, rows), key=lambda pair: pair[0])]
    arrays = {}
    for name in PARAMETERS:
        cells = [row[columns[name]].strip() for row in rows] if name in columns else []
        if any(cells):
            arrays[name] = np.array([_number(cell, name, at) for cell in cells])
    if not all(name in arrays for name in STATISTICS):
        raise FormatError("expected numbers for moving_mean and moving_variance, got empty cells", where=at)
    epsilons = {_number(row[columns["epsilon"]], "epsilon", at) for row in rows} if "epsilon" in columns else set()
    if len(epsilons) > 1:
        raise FormatError(f"expected one epsilon a layer, got {len(epsilons)}", where=at)
    return Ported(path=path, arrays=arrays, called={name: name for name in arrays}, dtype="float64",
                  epsilon=epsilons.pop() if epsilons else None, text=True)


def _number(cell: str, name: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise FormatError(f"expected a number for {name}, got {printable(cell, 40)!r}", where=where) from None

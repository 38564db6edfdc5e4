"""A header written by bn-export (MODEL out.h), possibly edited by hand: static const arrays STEM_gamma, ..., and STEM_epsilon."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from exporter.batchnorm.stored import PARAMETERS, STATISTICS
from exporter.diagnosis.ports.port import Port, Ported, coarsest
from exporter.errors import FormatError, printable

if TYPE_CHECKING:
    from exporter.files.place import Place

MAX_BYTES = 256 << 20  # bytes
MAX_HEAD = 1 << 16  # bytes in which the first array begins
_CONSTANT = re.compile(r"\bconst\s+(?:float|double)\s")
_ARRAY = re.compile(r"const\s+(float|double)\s+(\w+)_(" + "|".join(PARAMETERS) + r")\s*\[[\s\d]*\][^={]*=\s*")
_EPSILON = re.compile(r"const\s+(?:float|double)\s+(\w+)_epsilon\s*=(.*)", re.DOTALL)
_COMMENT = re.compile(r"/\*|//")
_STEM = re.compile(r"\s*enum \{ (\w+)_channels")


def claims(place: Place) -> bool:
    """Text with an array of statistics under one of our names."""
    head = place.head(MAX_HEAD)
    return b"_moving_variance[" in head and b"const" in head and b"\0" not in head


def read(place: Place) -> Port:
    """The layers of a header, in its order. Raises: FormatError."""
    text = place.read(MAX_BYTES).decode("utf-8", "replace")
    code, paths = _without_comments(text)
    epsilons: dict[str, float] = {}
    groups: dict[str, dict[str, tuple[str, list[float]]]] = {}
    for statement in code.split(";"):
        head, brace, body = statement.rpartition("{")
        starts = [found.start() for found in _CONSTANT.finditer(head if brace else statement)]
        if brace and starts and (found := _ARRAY.fullmatch(head, starts[-1])):
            kind, stem, name = found.groups()
            where = f"{place.name}: {stem}_{name}"
            if name in groups.setdefault(stem, {}):
                raise FormatError("the array occurs twice", where=where)
            groups[stem][name] = (kind, [_number(word, where) for word in body.partition("}")[0].split(",") if word.strip()])
        elif not brace and starts and (found := _EPSILON.fullmatch(statement, starts[-1])):
            epsilons[found[1]] = _number(found[2], f"{place.name}: {found[1]}_epsilon")
    layers = [_layer(stem, paths.get(stem, stem), arrays, epsilons.get(stem), place.name) for stem, arrays in groups.items()]
    return Port(name=place.name, kind="a C header", layers=tuple(layers))


def _without_comments(text: str) -> tuple[str, dict[str, str]]:
    """The code, and the path of each layer by its stem, from the comment in front of the enum with its number of channels."""
    code: list[str] = []
    paths: dict[str, str] = {}
    at = 0
    while found := _COMMENT.search(text, at):
        code += text[at:found.start()], " "
        end = text.find("*/" if found[0] == "/*" else "\n", found.end())
        if end < 0:
            return "".join(code), paths
        at = end + 2 if found[0] == "/*" else end
        path, shape, _ = text[found.end():end].rpartition(": shape ")
        if shape and (stem := _STEM.match(text, at)):
            paths[stem[1]] = _unescaped(path.removeprefix(" "))
    return "".join([*code, text[at:]]), paths


def _layer(stem: str, path: str, arrays: dict[str, tuple[str, list[float]]], epsilon: float | None, where: str) -> Ported:
    at = f"{where}: {printable(path, 80)}"
    sizes = {len(values) for _, values in arrays.values()}
    if len(sizes) != 1 or not arrays.keys() >= set(STATISTICS):
        raise FormatError(f"expected moving_mean and moving_variance and arrays of one length, got {', '.join(sorted(arrays))}", where=at)
    held = {name: np.array(values, np.float32 if kind == "float" else np.float64) for name, (kind, values) in arrays.items()}
    return Ported(path=path, arrays={name: held[name] for name in PARAMETERS if name in held}, epsilon=epsilon,
                  called={name: f"{stem}_{name}" for name in held}, dtype=coarsest(held.values()))


def _number(word: str, where: str) -> float:
    """A constant of C: decimal or hexadecimal, with or without the suffix f."""
    plain = word.strip().rstrip("fFlL")  # a hexadecimal one always has an exponent, so that the suffix is not taken for a digit
    try:
        return float.fromhex(plain) if "0x" in plain.lower() else float(plain)
    except (ValueError, OverflowError):  # a hexadecimal one over the largest number
        raise FormatError(f"expected a floating constant, got {printable(word.strip(), 40)!r}", where=where) from None


def _unescaped(text: str) -> str:
    """The path of a comment, whose unusual characters are written as octal escapes of their UTF-8."""
    data = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), text.encode())
    return data.decode("utf-8", "replace")

"""A C99 header: one `static const` array per parameter, so that the device needs no parser and no file.

Numbers are hexadecimal floating constants (C99 6.4.4.2), exact under every compiler. float16 and bfloat16 values are written as float,
which represents them exactly. If `batchnorm.h` of the runtimes is included first, the header also defines a table of the layers for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.__about__ import __version__
from exporter.batchnorm import vectors
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.document import FORMULA
from exporter.batchnorm.dtypes import TINY, round_to
from exporter.batchnorm.layer import PARAMETERS, BatchNorm, scale_and_offset
from exporter.errors import OutputError
from exporter.targets.shared.names import identifiers
from exporter.targets.shared.options import WriteOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "c-header"
MARK = rb"/\* [^\n]*, written by bn-export "
OPTIONS = frozenset({"vectors", "folded"})
NUMBERS_A_LINE = 6


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The header, in ASCII. Raises OutputError for a layer whose folded factors do not fit the type."""
    guard = f"BN_BUNDLE_{bundle.digest()[7:23].upper()}_H"
    stems = identifiers(bundle.paths())
    lines = [f"/* {_comment(bundle.origin.file)} ({_comment(bundle.origin.kind)}), written by bn-export {__version__}.",
             f" * {FORMULA}", f" * {bundle.digest()} */", f"#ifndef {guard}", f"#define {guard}", ""]
    for stem, layer in zip(stems, bundle):
        lines += _layer(stem, layer, options)
    if bundle.layers:
        rows = [_row(stem, layer, options.vectors) for stem, layer in zip(stems, bundle)]
        lines += ["#ifdef BATCHNORM_H", f"enum {{ bn_layer_count = {len(bundle)} }};",
                  "static const bn_layer bn_layers[bn_layer_count] = {", *rows, "};", "#endif", ""]
    return "\n".join([*lines, "#endif", ""]).encode("ascii")


def _layer(stem: str, layer: BatchNorm, options: WriteOptions) -> Iterator[str]:
    kind = "double" if layer.dtype == "float64" else "float"
    lacking = [f"no {name}: use {value}" for name, value in (("gamma", 1), ("beta", 0)) if getattr(layer, name) is None]
    shape = "x".join(map(str, layer.shape))
    facts = [f"shape {shape}, axis {', '.join(map(str, layer.axis))}", f"stored as {layer.dtype}", *lacking]
    yield f"/* {_comment(layer.path)}: {'; '.join(facts)} */"
    yield f"enum {{ {stem}_channels = {layer.channels} }};"
    yield f"static const double {stem}_epsilon = {_number(layer.epsilon)};"
    arrays = {name: (kind, values) for name, values in layer.parameters().items()}
    if options.folded:
        arrays |= {name: (kind, values) for name, values in zip(("scale", "offset"), _folded(layer))}
    if options.vectors:
        arrays |= {name: (kind, rows) for name, rows in zip(("input", "output"), vectors.make(layer))}
    for name, (kind, values) in arrays.items():
        yield from _array(f"{stem}_{name}", kind, values)
    yield ""


def _folded(layer: BatchNorm) -> list[NDArray[Any]]:
    """[scale, offset] in the type of the layer's arrays. Raises OutputError if that type cannot hold one with its precision."""
    dtype = "float64" if layer.dtype == "float64" else "float32"
    factors = scale_and_offset(layer)
    found = [round_to(values, dtype) for values in factors]
    bad = ~np.isfinite(found[0]) | ~np.isfinite(found[1]) | ((factors[0] != 0) & (np.abs(factors[0]) < TINY[dtype]))
    if bad.any():
        channel = int(np.argmax(bad))
        scale, offset = (values.flat[channel] for values in factors)
        raise OutputError(f"channel {channel} cannot be folded: scale {scale:.6g} and offset {offset:.6g} are outside the range of {dtype}",
                          where=layer.path, hint="omit --folded")
    return found


def _array(name: str, kind: str, values: NDArray[Any]) -> Iterator[str]:
    ending = "f" if kind == "float" else ""
    numbers = [_number(value) + ending for value in values.ravel().tolist()]
    yield f"static const {kind} {name}[{len(numbers)}] = {{"
    for start in range(0, len(numbers), NUMBERS_A_LINE):
        yield f"    {', '.join(numbers[start:start + NUMBERS_A_LINE])},"
    yield "};"


def _number(value: float) -> str:
    """0x1.99999ap-4 rather than float.hex's 0x1.99999a0000000p-4."""
    return re.sub(r"\.?0*p", "p", value.hex())


def _row(stem: str, layer: BatchNorm, with_vectors: bool) -> str:
    axis, shape = (", ".join(map(str, sizes)) for sizes in (layer.axis, layer.shape))
    arrays = [f"{stem}_{name}" if getattr(layer, name) is not None else "0" for name in PARAMETERS]
    rows = [f"{stem}_input", f"{stem}_output", "2"] if with_vectors else ["0", "0", "0"]
    fields = [_string(layer.path), f"BN_{layer.dtype.upper()}", f"{stem}_channels", str(len(layer.shape)), f"{{{axis}}}", f"{{{shape}}}",
              _number(layer.epsilon), *arrays, *rows, str(layer.ndim or 0)]
    return f"    {{{', '.join(fields)}}},"


def _comment(text: str) -> str:
    """Text for a comment: no character of it can end the comment, open another or reach the compiler as a trigraph."""
    return "".join(c if c.isascii() and c.isprintable() and c not in "*?\\" else _escape(c) for c in text)


def _string(text: str) -> str:
    plain = "".join(c if c.isascii() and c.isprintable() and c not in "\"?\\" else _escape(c) for c in text)
    return f'"{plain}"'


def _escape(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogatepass"))

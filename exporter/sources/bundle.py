"""Our own bundles, read back (docs/format.md): the .json form. A bundle may be the MODEL of every command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.bundle import Bundle, Origin
from exporter.batchnorm.layer import PARAMETERS, BatchNorm
from exporter.errors import BundleError, ExporterError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.files.place import Place
    from exporter.sources.shared.options import ReadOptions

NAME = "bundle"
VERSION = 1
LARGEST = 1 << 30  # bytes of a bundle: 100 000 layers or a layer of a million channels, with vectors, stay far below


def claims(place: Place) -> bool:
    """A JSON object whose first kilobytes name the format: other producers may order keys otherwise."""
    head = place.head(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith(b"{") and b'"bn-bundle"' in head


def read(place: Place, options: ReadOptions) -> Bundle:
    """The bundle in `place`. Raises BundleError where it breaks the contract."""
    from exporter.formats.strict_json import parse_json

    return from_document(parse_json(place.read(LARGEST), "the bundle", limit=LARGEST))


def from_document(document: Any) -> Bundle:
    """The Bundle of a parsed JSON document; checks all that docs/format.md asks of a reader."""
    from exporter.batchnorm import schema

    if not isinstance(document, dict) or document.get("format") != "bn-bundle":
        raise BundleError("this is not a bundle: its format is not \"bn-bundle\"")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version != VERSION:
        raise BundleError(f"the bundle has version {printable(repr(version), 40)}, this program reads version {VERSION}",
                          hint="use a newer bn-export" if isinstance(version, int) and version > VERSION else "")
    layers = document.get("layers")
    if isinstance(layers, list):
        document["layers"] = [_with_arrays(layer) for layer in layers]
    schema.validate(document)
    found, vectors, paths = [], {}, set()
    for entry in document["layers"]:
        layer = _layer(entry)
        if layer.path in paths:
            raise BundleError(f"the path {printable(layer.path)!r} occurs twice")
        paths.add(layer.path)
        found.append(layer)
        if "vectors" in entry:
            vectors[layer.path] = _vectors(layer, entry["vectors"])
    source = document["source"]
    origin = Origin(file=source["file"], kind=source["kind"], keras_version=source["keras_version"], backend=source["backend"],
                    tensorflow_version=source.get("tensorflow_version"))
    skipped = tuple((entry["path"], entry["reason"]) for entry in document.get("skipped", []))
    bundle = Bundle(layers=tuple(found), origin=origin, skipped=skipped, vectors=vectors, settled=True)
    if bundle.digest() != document["digest"]:
        raise BundleError("the digest does not fit the layers: the bundle was changed or damaged after it was written",
                          hint="export the model again")
    return bundle


def _with_arrays(layer: Any) -> Any:
    """Lists of numbers as float64 arrays, so that the schema is checked without a visit to each number."""
    if not isinstance(layer, dict):
        return layer
    layer = {key: _array(value) if key in PARAMETERS else value for key, value in layer.items()}
    vectors = layer.get("vectors")
    if isinstance(vectors, dict):
        layer["vectors"] = {key: _rows(value) if key in ("input", "output") else value for key, value in vectors.items()}
    return layer


def _array(value: Any) -> Any:
    if isinstance(value, list) and value and set(map(type, value)) <= {int, float}:
        try:
            return np.array(value, np.float64)
        except OverflowError:
            return value
    return value


def _rows(value: Any) -> Any:
    rows = [_array(row) for row in value] if isinstance(value, list) else []
    if rows and all(isinstance(row, np.ndarray) and row.shape == rows[0].shape for row in rows):
        return np.stack(rows)
    return value


def _layer(entry: dict[str, Any]) -> BatchNorm:
    try:
        shape, axis = (tuple(_whole(number, name) for number in entry[name]) for name in ("shape", "axis"))
        ndim, dtype = entry["ndim"], entry["dtype"]
        parameters: dict[str, Any] = {name: None if entry[name] is None else _typed(entry[name], dtype, name) for name in PARAMETERS}
        channels = int(np.prod(shape, dtype=object))
        for name, values in parameters.items():
            if values is not None and values.size != channels:
                raise BundleError(f"{name} has {values.size} numbers, its shape {list(shape)} asks for {channels}")
        effective = entry.get("effective_epsilon")
        shaped: dict[str, Any] = {name: None if values is None else values.reshape(shape) for name, values in parameters.items()}
        return BatchNorm(
            path=entry["path"], name=entry["name"], class_name=entry["class_name"], axis=axis, shape=shape,
            ndim=None if ndim is None else _whole(ndim, "ndim"), dtype=dtype, epsilon=float(entry["epsilon"]),
            momentum=None if entry["momentum"] is None else float(entry["momentum"]),
            effective_epsilon=None if effective is None else float(effective), assumed=tuple(entry.get("assumed", ())),
            converted=tuple(entry.get("converted", ())), quantized=entry.get("quantized"), **shaped)
    except ExporterError as error:
        raise error.inside(f"layer {printable(entry['path'])}") from None


def _whole(number: float, name: str) -> int:
    """To JSON Schema 2.0 is an integer, too."""
    if not -1 << 31 < number < 1 << 31:
        raise BundleError(f"{name} holds {number:g}")
    return int(number)


def _typed(values: NDArray[np.float64], dtype: str, name: str) -> NDArray[Any]:
    from exporter.batchnorm.dtypes import round_to

    typed = round_to(values, dtype)
    if not np.isfinite(typed).all():
        raise BundleError(f"{name} holds a number that does not fit {dtype}")
    return typed


def _vectors(layer: BatchNorm, entry: dict[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        channels = layer.moving_mean.size
        if any(not isinstance(entry[key], np.ndarray) for key in ("input", "output")):
            raise BundleError(f"input and output of the vectors are not rows of {channels} numbers")
        pair = tuple(_typed(entry[key], layer.dtype, key) for key in ("input", "output"))
        if any(rows.ndim != 2 or rows.shape[1] != channels for rows in pair) or pair[0].shape != pair[1].shape:
            raise BundleError(f"input and output of the vectors are not rows of {channels} numbers")
    except ExporterError as error:
        raise error.inside(f"layer {printable(layer.path)}: vectors") from None
    return pair[0], pair[1]



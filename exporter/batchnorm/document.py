"""The bundle's JSON document, both ways: docs/format.md is the specification, schemas/bundle-1.schema.json the schema."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.__about__ import __version__
from exporter.batchnorm import schema, vectors
from exporter.batchnorm.bundle import Bundle, Origin, ReadBack
from exporter.batchnorm.dtypes import round_to
from exporter.batchnorm.gate import MAX_NUMBERS, check_numbers
from exporter.batchnorm.layer import PARAMETERS, BatchNorm
from exporter.batchnorm.places import Call
from exporter.batchnorm.stored import Skipped
from exporter.errors import BundleError, located, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT, VERSION = "bn-bundle", 1
MAX_BYTES = 1 << 30  # bytes of a document: 100 000 layers, or a layer of a million channels, with vectors, take far less
MAX_VALUES = 4 * MAX_NUMBERS  # of a document: the vectors of a layer without gamma and beta are twice the size of its parameters
FLOAT32 = np.dtype(np.float32)
FORMULA = "gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta"

# The one non-negative finite float32 (and its negative) whose shortest decimal, 7.038531e-26, lands on a neighbor when it is
# parsed as a double and then rounded; benchmarks/all_float32.py checks all numbers.
DOUBLE_ROUNDED = np.uint32(0x15AE43FD)
DOUBLE_ROUNDED_PART = DOUBLE_ROUNDED.tobytes()[:3] if sys.byteorder == "little" else DOUBLE_ROUNDED.tobytes()[1:]  # quick to search for


def document(bundle: Bundle, *, with_vectors: bool = True) -> dict[str, Any]:
    """The bundle as a dictionary in the order of docs/format.md; the parameters are flat arrays in the layer's dtype."""
    return {**frame(bundle), "layers": [layer_entry(layer, with_vectors) for layer in bundle.layers]}


def frame(bundle: Bundle, digest: str | None = None) -> dict[str, Any]:
    """The document without the layers themselves. digest: the bundle's, if it is known."""
    origin = bundle.origin
    source = {"file": origin.file, "kind": origin.kind, "keras_version": origin.keras_version, "backend": origin.backend}
    if origin.tensorflow_version is not None:
        source["tensorflow_version"] = origin.tensorflow_version
    content = {"format": FORMAT, "version": VERSION, "producer": {"name": "bn-export", "version": __version__}, "source": source,
               "formula": FORMULA, "digest": digest or bundle.digest(), "layers": []}
    if bundle.skipped:
        content["skipped"] = [each._asdict() for each in bundle.skipped]
    return content


def layer_entry(layer: BatchNorm, with_vectors: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": layer.name, "path": layer.path, "class_name": layer.class_name, "axis": list(layer.axis),
        "shape": list(layer.shape), "ndim": layer.ndim, "dtype": layer.dtype, "epsilon": layer.epsilon}
    if layer.effective_epsilon is not None:
        content["effective_epsilon"] = layer.effective_epsilon
        content["kernel_epsilon"] = float(np.float32(layer.effective_epsilon))
    content["momentum"] = layer.momentum
    for name in PARAMETERS:
        values = getattr(layer, name)
        content[name] = None if values is None else values.reshape(-1)
    for name in ("assumed", "converted"):
        if getattr(layer, name):
            content[name] = list(getattr(layer, name))
    if layer.quantized is not None:
        content["quantized"] = layer.quantized
    if layer.called_in_training:
        content["called_in_training"] = True
    content |= calls_entry(layer)
    if with_vectors:
        x, y = vectors.make(layer)
        content["vectors"] = {"input": x, "output": y}
    return content


def calls_entry(layer: BatchNorm) -> dict[str, Any]:
    """The fields for where a layer stands in its model."""
    if len(layer.calls) == 1:
        return layer.calls[0].as_dict()
    return {"calls": [call.as_dict() for call in layer.calls]} if layer.calls else {}


def portable(value: Any) -> Any:
    """Arrays in a form whose decimals are read back bit for bit: docs/format.md, "numbers"."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype is FLOAT32 and value.flags.c_contiguous:
        array: NDArray[Any] = value
    else:
        array = np.ascontiguousarray(value, np.float64 if value.dtype == np.float64 else np.float32)
    if array.dtype == FLOAT32 and DOUBLE_ROUNDED_PART in array.tobytes() \
            and ((array.view(np.uint32) & np.uint32(0x7FFFFFFF)) == DOUBLE_ROUNDED).any():
        return array.astype(np.float64)  # 17 digits
    return array


def from_document(document: Any) -> ReadBack:
    """The bundle of a parsed JSON document; checks everything that docs/format.md requires of a reader."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError("this is not a bundle: its format is not \"bn-bundle\"")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version != VERSION:
        raise BundleError(f"expected a bundle of version {VERSION}, got version {printable(repr(version), 40)}",
                          hint="upgrade bn-export" if isinstance(version, int) and version > VERSION else "")
    layers = document.get("layers")
    if isinstance(layers, list):
        document["layers"] = [_with_arrays(layer) for layer in layers]
    schema.validate(document)
    check_numbers(sum(len(layer[name]) for layer in document["layers"] for name in PARAMETERS if layer[name] is not None))
    found, vectors = [], {}
    for entry in document["layers"]:
        layer = _layer(entry)
        found.append(layer)
        if "vectors" in entry:
            vectors[layer.path] = _vectors(layer, entry["vectors"])
    source = document["source"]
    origin = Origin(file=source["file"], kind=source["kind"], keras_version=source["keras_version"], backend=source["backend"],
                    tensorflow_version=source.get("tensorflow_version"))
    skipped = tuple(Skipped(entry["path"], entry["reason"]) for entry in document.get("skipped", []))
    bundle = ReadBack(layers=tuple(found), origin=origin, skipped=skipped, vectors=vectors)
    if bundle.digest() != document["digest"]:
        raise BundleError("the digest does not match the layers: the bundle was modified or damaged after it was written",
                          hint="export the model again")
    return bundle


def _with_arrays(layer: Any) -> Any:
    """Lists of numbers as float64 arrays, so that validation does not have to visit every number."""
    if not isinstance(layer, dict):
        return layer
    layer = {key: _array(value) if key in PARAMETERS else value for key, value in layer.items()}
    vectors = layer.get("vectors")
    if isinstance(vectors, dict):
        layer["vectors"] = {key: _rows(value) if key in ("input", "output") else value for key, value in vectors.items()}
    return layer


def _array(value: Any) -> Any:
    is_numeric = isinstance(value, list) and value and set(map(type, value)) <= {int, float}
    return np.array(value, np.float64) if is_numeric else value


def _rows(value: Any) -> Any:
    rows = [_array(row) for row in value] if isinstance(value, list) else []
    if rows and all(isinstance(row, np.ndarray) and row.shape == rows[0].shape for row in rows):
        return np.stack(rows)
    return value


def _layer(entry: dict[str, Any]) -> BatchNorm:
    with located(f"layer {printable(entry['path'])}"):
        shape, axis = (tuple(_whole(number, name) for number in entry[name]) for name in ("shape", "axis"))
        ndim, dtype = entry["ndim"], entry["dtype"]
        parameters: dict[str, Any] = {name: None if entry[name] is None else _typed(entry[name], dtype, name) for name in PARAMETERS}
        channels = int(np.prod(shape, dtype=object))
        for name, values in parameters.items():
            if values is not None and values.size != channels:
                raise BundleError(f"expected {channels} numbers for shape {list(shape)} in {name}, got {values.size}")
        effective = _effective_epsilon(entry)
        shaped: dict[str, Any] = {name: None if values is None else values.reshape(shape) for name, values in parameters.items()}
        return BatchNorm(
            path=entry["path"], name=entry["name"], class_name=entry["class_name"], axis=axis, shape=shape,
            ndim=None if ndim is None else _whole(ndim, "ndim"), dtype=dtype, epsilon=float(entry["epsilon"]),
            momentum=None if entry["momentum"] is None else float(entry["momentum"]),
            effective_epsilon=effective, assumed=tuple(entry.get("assumed", ())),
            converted=tuple(entry.get("converted", ())), quantized=entry.get("quantized"),
            called_in_training=entry.get("called_in_training", False),
            calls=_calls(entry), **shaped)


def _effective_epsilon(entry: dict[str, Any]) -> float | None:
    """The epsilon that the fused kernel used; `kernel_epsilon` is the same number in float32."""
    effective, kernel = entry.get("effective_epsilon"), entry.get("kernel_epsilon")
    if effective is None:
        if kernel is not None:
            raise BundleError("kernel_epsilon is present without effective_epsilon")
        return None
    if kernel is not None and np.float32(kernel) != np.float32(effective):
        raise BundleError(f"expected kernel_epsilon to be effective_epsilon, {effective:g}, in float32, got {kernel:g}")
    return float(effective)


def _calls(entry: dict[str, Any]) -> tuple[Call, ...]:
    if "calls" in entry:
        return tuple(map(Call.of, entry["calls"]))
    return (Call.of(entry),) if "inputs" in entry and "outputs" in entry else ()


def _whole(number: float, name: str) -> int:
    """In JSON Schema, 2.0 is also an integer."""
    if not -1 << 31 < number < 1 << 31:
        raise BundleError(f"{name} contains {number:g}")
    return int(number)


def _typed(values: NDArray[np.float64], dtype: str, name: str) -> NDArray[Any]:
    typed = round_to(values, dtype)
    if not np.isfinite(typed).all():
        raise BundleError(f"{name} contains a number that does not fit {dtype}")
    return typed


def _vectors(layer: BatchNorm, entry: dict[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    with located(f"layer {printable(layer.path)}: vectors"):
        channels = layer.channels
        if any(not isinstance(entry[key], np.ndarray) for key in ("input", "output")):
            raise BundleError(f"expected rows of {channels} numbers as input and output of the vectors")
        pair = tuple(_typed(entry[key], layer.dtype, key) for key in ("input", "output"))
        if any(rows.ndim != 2 or rows.shape[1] != channels for rows in pair) or pair[0].shape != pair[1].shape:
            raise BundleError(f"expected rows of {channels} numbers as input and output of the vectors")
    return pair[0], pair[1]

"""The bundle itself, as JSON: docs/format.md is the specification, schemas/bundle-1.schema.json the schema."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from exporter.__about__ import __version__
from exporter.batchnorm import schema, vectors
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.gate import check_layer
from exporter.batchnorm.layer import PARAMETERS, BatchNorm
from exporter.errors import ExporterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.targets.shared.options import WriteOptions

NAME = "bundle"
SUFFIXES = (".json",)
FORMULA = "gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta"

# The one non-negative finite float32 (and its negative) whose shortest decimal, 7.038531e-26, lands on a neighbour when it is
# parsed as a double and then rounded; benchmarks/all_float32.py goes over all of them.
DOUBLE_ROUNDED = np.uint32(0x15AE43FD)


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The document, validated against the schema, one key a line."""
    content = _frame(bundle)
    schema.validate(content)
    parts: list[bytes] = []
    for key, value in content.items():
        parts += (b",\n  " if parts else b"{\n  ", _text(key), b": ")
        if key == "layers" and bundle.layers:
            for place, layer in enumerate(bundle.layers):
                parts.append(b",\n    {" if place else b"[\n    {")
                parts += options.begun.get(layer) or _entry(layer, options)
                parts.append(b"\n    }")
            parts.append(b"\n  ]")
        else:
            parts.append(_text(value))
    parts.append(b"\n}\n")
    return b"".join(parts)  # the one copy: the text is several times the size of the parameters


def begin(layer: BatchNorm, options: WriteOptions) -> None:
    """Makes the text of a layer that is complete and passes the gate, which looks at it once more with its bundle."""
    if layer.epsilon is None or layer.axis is None or layer.statistic != "variance":
        return
    with np.errstate(all="ignore"), contextlib.suppress(ExporterError):
        check_layer(layer)
        options.begun[layer] = _entry(layer, options)


def _entry(layer: BatchNorm, options: WriteOptions) -> list[bytes]:
    """The text of a layer, between its braces, in pieces: joined once, at the end, for they are many or large."""
    content = _layer(layer, options.vectors)
    schema.validate_layer(content)
    return [(b",\n      " if place else b"\n      ") + _text(field) + b": " + _text(portable(held))
            for place, (field, held) in enumerate(content.items())]


def _text(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def document(bundle: Bundle, *, with_vectors: bool = True) -> dict[str, Any]:
    """The bundle as a dictionary in the order of docs/format.md; the parameters are flat arrays in the layer's dtype."""
    return {**_frame(bundle), "layers": [_layer(layer, with_vectors) for layer in bundle.layers]}


def _frame(bundle: Bundle) -> dict[str, Any]:
    """The document without the layers themselves."""
    origin = bundle.origin
    source = {"file": origin.file, "kind": origin.kind, "keras_version": origin.keras_version, "backend": origin.backend}
    if origin.tensorflow_version is not None:
        source["tensorflow_version"] = origin.tensorflow_version
    content = {"format": "bn-bundle", "version": 1, "producer": {"name": "bn-export", "version": __version__}, "source": source,
               "formula": FORMULA, "digest": bundle.digest(), "layers": []}
    if bundle.skipped:
        content["skipped"] = [{"path": path, "reason": reason} for path, reason in bundle.skipped]
    return content


def _layer(layer: BatchNorm, with_vectors: bool) -> dict[str, Any]:
    assert layer.axis is not None
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
    if with_vectors:
        x, y = vectors.make(layer)
        content["vectors"] = {"input": x, "output": y}
    return content


def portable(value: Any) -> Any:
    """Arrays in a form whose decimals come back bit for bit: docs/format.md, "numbers"."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    array: NDArray[Any] = np.ascontiguousarray(value, np.float64 if value.dtype == np.float64 else np.float32)
    if array.dtype == np.float32 and ((array.view(np.uint32) & np.uint32(0x7FFFFFFF)) == DOUBLE_ROUNDED).any():
        return array.astype(np.float64)  # 17 digits
    return array

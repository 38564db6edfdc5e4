"""What a reading process sends to the one that started it: JSON and raw array bytes, nothing that is unpickled.

A message is a row of frames, each of the lengths of its header and its data (8 bytes each, little-endian), the header, which is JSON padded
with spaces to 16 bytes, and the data, arrays one after the other. There is a frame for each layer, from the moment it is found, and
a last one that says their order and all else of the bundle, or the error that there is instead.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from exporter.batchnorm.bundle import Bundle, Origin
from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.layer import PARAMETERS, BatchNorm
from exporter.errors import KINDS, ExporterError, FormatError, UnresolvedError, printable, rebuilt

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTHS = struct.Struct("<QQ")
FIELDS: dict[str, Any] = {**dict.fromkeys(("path", "name", "class_name", "statistic", "doubt"), str), "quantized": str | None,
                          **dict.fromkeys(("epsilon", "momentum", "effective_epsilon"), float | None), "ndim": int | None,
                          "shape": tuple, "called_in_training": bool}
_HEADER = tuple(field.name for field in dataclasses.fields(BatchNorm) if field.name not in PARAMETERS)


class Writer:
    """Writes a message with `write`, which takes all the bytes that it is given."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._sent: dict[BatchNorm, int] = {}

    def layer(self, layer: BatchNorm) -> None:
        """A layer of the bundle to come; one that doesn't come to stand in it is no harm."""
        parameters = layer.parameters()
        header = {name: getattr(layer, name) for name in _HEADER}
        self._frame({**header, "present": list(parameters)}, list(parameters.values()))
        self._sent[layer] = len(self._sent)

    def bundle(self, bundle: Bundle) -> None:
        """The end: the bundle, with the layers that were not sent before."""
        for layer in bundle.layers:
            if layer not in self._sent:
                self.layer(layer)
        self._frame({"order": [self._sent[layer] for layer in bundle.layers], "origin": dataclasses.asdict(bundle.origin),
                     "skipped": list(map(list, bundle.skipped)), "warnings": bundle.warnings, "settled": bundle.settled,
                     "vectors": {path: list(x.shape) for path, (x, _) in bundle.vectors.items()}},
                    [rows for pair in bundle.vectors.values() for rows in pair])

    def error(self, error: ExporterError) -> None:
        """The end, where there is no bundle."""
        fields = {"what": error.what, "where": error.where, "hint": error.hint}
        layers = [(printable(path), printable(reason, 1000)) for path, reason in getattr(error, "layers", ())]
        self._frame({"error": type(error).__name__, "layers": layers,
                     **{name: printable(str(text), 1000) for name, text in fields.items()}}, [])

    def _frame(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> None:
        text = orjson.dumps(header)
        text += b" " * (-len(text) % 16)
        data = [np.ascontiguousarray(values).data.cast("B") if values.size else b"" for values in arrays]
        self._write(b"".join([LENGTHS.pack(len(text), sum(map(len, data))), text, *data]))


class Reader:
    """Takes in a message as it comes, every length checked; `each` is called with each layer, long before the bundle is there."""

    def __init__(self, broken: FormatError, each: Callable[[BatchNorm], object] = lambda layer: None) -> None:
        """broken: raised for what is no message."""
        self._broken, self._each = broken, each
        self._rest = bytearray()
        self._layers: list[BatchNorm] = []
        self._bundle: Bundle | None = None
        self._error: ExporterError | None = None

    def feed(self, part: bytes) -> None:
        """More bytes. Raises what `broken` says."""
        self._rest += part
        at = 0
        while len(self._rest) - at >= LENGTHS.size:
            header, size = LENGTHS.unpack_from(self._rest, at)
            begin, at_end = at + LENGTHS.size, at + LENGTHS.size + header + size
            if at_end > len(self._rest):
                break
            with memoryview(self._rest) as view:
                frame = bytes(view[begin:at_end])
            try:
                self._take(orjson.loads(frame[:header]), memoryview(frame)[header:])
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                raise self._broken from None
            at = at_end
        del self._rest[:at]

    def bundle(self) -> Bundle:
        """The bundle, once everything was fed; raises the error that the message holds instead."""
        if self._error is not None:
            raise self._error
        if self._bundle is None or self._rest:
            raise self._broken
        return self._bundle

    def _take(self, header: dict[str, Any], data: memoryview) -> None:
        if self._bundle is not None or self._error is not None:
            raise ValueError("a frame behind the last")
        arrays = _Arrays(data)
        if "error" in header:
            self._error = _error(header)
        elif "order" in header:
            self._bundle = self._whole(header, arrays)
        else:
            layer = _layer(header, arrays)
            self._layers.append(layer)
            self._each(layer)
        if arrays.left:
            raise ValueError("more data than arrays")

    def _whole(self, header: dict[str, Any], arrays: _Arrays) -> Bundle:
        numbers = header["order"]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise TypeError("a number of a layer is none")
        layers = tuple(self._layers[number] for number in numbers)
        by_path = {layer.path: layer for layer in layers}
        vectors = {path: (arrays.take(by_path[path].dtype, shape), arrays.take(by_path[path].dtype, shape))
                   for path, shape in header["vectors"].items()}
        skipped = tuple((str(path), str(reason)) for path, reason in header["skipped"])
        return Bundle(layers=layers, origin=Origin(**header["origin"]), skipped=skipped, warnings=tuple(map(str, header["warnings"])),
                      vectors=vectors, settled=bool(header["settled"]))


class _Arrays:
    """The data of a frame, taken from its beginning."""

    def __init__(self, data: memoryview) -> None:
        self.left = data

    def take(self, dtype: str, shape: Any) -> NDArray[Any]:
        kind = np.dtype(HELD_IN[dtype])
        size = kind.itemsize
        for length in shape:
            size *= int(length)
        if not 0 <= size <= len(self.left):
            raise ValueError("fewer data than arrays")
        array: NDArray[Any] = np.frombuffer(self.left[:size], kind).reshape(shape)
        self.left = self.left[size:]
        return array


def _error(header: dict[str, Any]) -> ExporterError:
    said: dict[str, Any] = {name: str(header[name]) for name in ("what", "where", "hint")}
    kind = KINDS.get(header["error"], ExporterError)
    if kind is UnresolvedError:
        said["layers"] = tuple((str(path), str(reason)) for path, reason in header["layers"])
    return rebuilt(kind, said)


def _layer(fields: dict[str, Any], arrays: _Arrays) -> BatchNorm:
    present = fields.pop("present")
    for name in ("axis", "shape", "assumed", "converted"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    whole = all(type(number) is int for name in ("axis", "shape") for number in fields[name] or ())
    if not (whole and all(isinstance(fields[name], kind) for name, kind in FIELDS.items())):
        raise TypeError("a field is of another type")
    for name in PARAMETERS:
        fields[name] = arrays.take(fields["dtype"], fields["shape"]) if name in present else None
    if fields["moving_mean"] is None or fields["moving_variance"] is None:
        raise TypeError("a parameter is missing")
    return BatchNorm(**fields)

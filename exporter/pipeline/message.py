"""What a reading process sends to the one that started it: JSON and raw array bytes, nothing that is unpickled.

A message is a row of frames, each of the lengths of its header and its data (8 bytes each, little-endian), the header, which is JSON padded
with spaces to 16 bytes, and the data, arrays one after the other. There is a frame for each run of layers that are alike, soon after
they are found, and a last one that says their order and all else that was found, or the error that there is instead.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from exporter.batchnorm.bundle import Origin, ReadBack
from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.kernels import Kernel
from exporter.batchnorm.layer import BatchNorm
from exporter.batchnorm.places import Call, Neighbor
from exporter.batchnorm.stored import PARAMETERS, STATISTICS, Skipped, Statistic, Stored
from exporter.errors import KINDS, ExporterError, FormatError, UnresolvedError, printable, rebuilt
from exporter.sources.shared.found import Found, OwnClass, Remedy
from exporter.sources.shared.options import ReadOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTHS = struct.Struct("<QQ")
NOTHING = type(None)
MAX_RUN, MAX_NUMBERS = 128, 1 << 14  # layers of a run; numbers of one parameter in it
OWN = ("path", "name", "calls")  # fields in which layers of a run differ: a list of each is in the header
FIELDS: dict[str, frozenset[type]] = {
    "class_name": frozenset((str,)), "quantized": frozenset((str, NOTHING)),
    **dict.fromkeys(("epsilon", "momentum", "effective_epsilon"), frozenset((float, NOTHING))), "ndim": frozenset((int, NOTHING)),
    "shape": frozenset((tuple,)), "called_in_training": frozenset((bool,))}
NEIGHBORS = frozenset(itertools.product((str,), (str,), (int, NOTHING), (bool, NOTHING), (str, NOTHING), (str, NOTHING), (bool,)))
_values_of = operator.itemgetter(*FIELDS)
_NEIGHBOR = [field.name for field in dataclasses.fields(Neighbor)]
_of_neighbor = operator.attrgetter(*_NEIGHBOR)
_ARRAYS = {name: np.dtype(kind) for name, kind in HELD_IN.items()}
_HEADERS = {kind: (fields, operator.attrgetter(*fields)) for kind in (Stored, BatchNorm) for fields in [
    [field.name for field in dataclasses.fields(kind) if field.name not in (*OWN, *PARAMETERS)]]}
_floats_of = operator.attrgetter("epsilon", "momentum", "effective_epsilon")
NO_PARAMETERS = dict.fromkeys(PARAMETERS)
TEXTS = frozenset(("assumed", "converted", "notes"))
_KERNEL: dict[str, Any] = {**dict.fromkeys(("path", "class_name", "kind", "dtype"), str), "compute_dtype": str | None, "channels": tuple}


class Writer:
    """Writes a message with `write`, which takes all the bytes that it is given."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._sent: dict[int, tuple[Stored | BatchNorm, int]] = {}  # by id: equal layers are not the same
        self._run: list[Stored | BatchNorm] = []  # layers that are alike, to be sent together

    def layer(self, layer: Stored | BatchNorm) -> None:
        """A layer of the answer to come; one that doesn't come to stand in it is no harm."""
        run = self._run
        if run and not _are_alike(run[0], layer):
            self._send()
            run = self._run
        run.append(layer)
        self._sent[id(layer)] = layer, len(self._sent)
        if len(run) >= MAX_RUN or len(run) * layer.moving_mean.size >= MAX_NUMBERS:
            self._send()

    def _send(self) -> None:
        """The layers of the run."""
        run, self._run = self._run, []
        if not run:
            return
        fields, values = _HEADERS[type(run[0])]
        present = [*run[0].parameters()]
        arrays = operator.attrgetter(*present)
        calls = [[[[*map(_of_neighbor, call.inputs)], [*map(_of_neighbor, call.outputs)]] for call in layer.calls] for layer in run]
        header = {**dict(zip(fields, values(run[0]))), "present": present, "path": [layer.path for layer in run],
                  "name": [layer.name for layer in run], "calls": calls}
        self._frame(header, [values for layer in run for values in arrays(layer)])

    def answer(self, answer: Found | ReadBack) -> None:
        """The end: all that was found, with the layers that were not sent before."""
        for layer in answer.layers:
            if id(layer) not in self._sent:
                self.layer(layer)
        self._send()
        kernels = answer.kernels or {} if isinstance(answer, Found) else {}
        for path, kernel in kernels.items():
            if isinstance(kernel, Kernel):
                self._kernel(path, kernel)
        header = {"order": [self._sent[id(layer)][1] for layer in answer.layers], "origin": dataclasses.asdict(answer.origin),
                  "skipped": list(map(list, answer.skipped)), "warnings": answer.warnings}
        if isinstance(answer, Found):
            remedies = {path: remedy.value for path, remedy in answer.remedies.items()}
            said = {path: kernel for path, kernel in kernels.items() if isinstance(kernel, str)}
            self._frame({**header, "left_out": list(map(list, answer.left_out)), "remedies": remedies, "has_config": answer.has_config,
                         "own_classes": list(map(list, answer.own_classes)), "no_kernels": None if answer.kernels is None else said}, [])
        else:
            self._frame({**header, "vectors": {path: list(x.shape) for path, (x, _) in answer.vectors.items()}},
                        [rows for pair in answer.vectors.values() for rows in pair])

    def _kernel(self, path: str, kernel: Kernel) -> None:
        header = {name: getattr(kernel, name) for name in _KERNEL}
        arrays = [kernel.kernel] if kernel.bias is None else [kernel.kernel, kernel.bias]
        self._frame({"kernel_before": path, **header, "shapes": [values.shape for values in arrays]}, arrays)

    def error(self, error: ExporterError) -> None:
        """The end, where there is no answer."""
        fields = {"what": error.what, "where": error.where, "hint": error.hint}
        layers = [(printable(path), printable(reason, 1000)) for path, reason in getattr(error, "layers", ())]
        self._frame({"error": type(error).__name__, "layers": layers,
                     **{name: printable(str(text), 1000) for name, text in fields.items()}}, [])

    def _frame(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> None:
        text = orjson.dumps(header)
        text += b" " * (-len(text) % 16)
        data = b"".join([np.ascontiguousarray(values).data for values in arrays])
        self._write(b"".join([LENGTHS.pack(len(text), len(data)), text, data]))


def _are_alike(one: Stored | BatchNorm, other: Stored | BatchNorm) -> bool:
    """Whether two layers differ only in their own fields and numbers. Epsilons that are not the same object may be 0.0 and -0.0."""
    values_of = _HEADERS[type(one)][1]
    return (type(one) is type(other) and values_of(one) == values_of(other) and all(map(operator.is_, _floats_of(one), _floats_of(other)))
            and (one.gamma is None, one.beta is None) == (other.gamma is None, other.beta is None))


class Reader:
    """Takes in a message as it comes, every length checked; `each` is called with the stored layers of each part, long before the answer
    is there."""

    def __init__(self, broken: FormatError, each: Callable[[list[Stored]], object] = lambda layers: None) -> None:
        """broken: raised for what is no message."""
        self._broken, self._each = broken, each
        self._rest = bytearray()
        self._layers: list[Stored | BatchNorm] = []
        self._kernels: dict[str, Kernel | str] = {}
        self._answer: Found | ReadBack | None = None
        self._error: ExporterError | None = None

    def feed(self, part: bytes) -> None:
        """More bytes. Raises what `broken` says."""
        self._rest += part
        at, known = 0, len(self._layers)
        while len(self._rest) - at >= LENGTHS.size:
            header, size = LENGTHS.unpack_from(self._rest, at)
            begin, at_end = at + LENGTHS.size, at + LENGTHS.size + header + size
            if at_end > len(self._rest):
                break
            with memoryview(self._rest) as view:
                frame = bytes(view[begin:at_end])
            try:
                self._take(orjson.loads(frame[:header]), _Arrays(frame, header))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                raise self._broken from None
            at = at_end
        del self._rest[:at]
        if stored := [layer for layer in self._layers[known:] if isinstance(layer, Stored)]:
            self._each(stored)

    @property
    def is_complete(self) -> bool:
        """Whether the last frame came, and nothing behind it."""
        return (self._answer is not None or self._error is not None) and not self._rest

    def answer(self) -> Found | ReadBack:
        """What was found, once everything was fed; raises the error that the message holds instead."""
        if self._error is not None:
            raise self._error
        if self._answer is None or self._rest:
            raise self._broken
        return self._answer

    def _take(self, header: dict[str, Any], arrays: _Arrays) -> None:
        if self._answer is not None or self._error is not None:
            raise ValueError("data after the final frame")
        if "error" in header:
            self._error = _error(header)
        elif "kernel_before" in header:
            self._kernels[str(header["kernel_before"])] = _kernel(header, arrays)
        elif "order" in header:
            self._answer = self._whole(header, arrays)
        else:
            self._layers += _layers(header, arrays)
        if not arrays.are_all_taken:
            raise ValueError("more data than arrays")

    def _whole(self, header: dict[str, Any], arrays: _Arrays) -> Found | ReadBack:
        numbers = header["order"]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise TypeError("expected a number in a layer")
        layers: list[Any] = [self._layers[number] for number in numbers]
        if any(isinstance(layer, Stored) == ("vectors" in header) for layer in layers):
            raise TypeError("expected the layers of a model, or of a bundle")
        origin = Origin(**{name: text and str(text) for name, text in header["origin"].items()})
        warnings = list(map(str, header["warnings"]))
        skipped = [Skipped(str(path), str(reason)) for path, reason in header["skipped"]]
        if "vectors" not in header:
            found = Found(origin, ReadOptions())
            found.layers += layers
            found.skipped += skipped
            found.warnings += warnings
            found.left_out += [Skipped(str(path), str(reason)) for path, reason in header["left_out"]]
            found.has_config = bool(header["has_config"])
            found.remedies |= {path: Remedy(value) for path, value in header["remedies"].items()}
            found.own_classes += [OwnClass(str(name), None if epsilon is None else float(epsilon))
                                  for name, epsilon in header["own_classes"]]
            if header["no_kernels"] is not None:
                found.kernels = self._kernels | {str(path): str(reason) for path, reason in header["no_kernels"].items()}
            return found
        dtypes = {layer.path: layer.dtype for layer in layers}
        vectors = {path: (x, y) for path, shape in header["vectors"].items() for x, y in [arrays.take(dtypes[path], shape, 2)]}
        return ReadBack(layers=tuple(layers), origin=origin, skipped=tuple(skipped), warnings=tuple(warnings), vectors=vectors)


class _Arrays:
    """The data of a frame, taken from its beginning."""

    def __init__(self, frame: bytes, at: int) -> None:
        self._frame, self._at = frame, at

    @property
    def are_all_taken(self) -> bool:
        return self._at == len(self._frame)

    def take(self, dtype: str, shape: Any, count: int) -> list[NDArray[Any]]:
        """`count` arrays of one type and shape."""
        kind = _ARRAYS[dtype]
        size = kind.itemsize * math.prod(shape)
        begin, self._at = self._at, self._at + count * size
        if not begin <= self._at <= len(self._frame):
            raise ValueError("fewer data than arrays")
        return [np.ndarray(shape, kind, self._frame, begin + place * size) for place in range(count)]


def _error(header: dict[str, Any]) -> ExporterError:
    said: dict[str, Any] = {name: str(header[name]) for name in ("what", "where", "hint")}
    kind = KINDS.get(header["error"], ExporterError)
    if kind is UnresolvedError:
        said["layers"] = tuple((str(path), str(reason)) for path, reason in header["layers"])
    return rebuilt(kind, said)


def _kernel(header: dict[str, Any], arrays: _Arrays) -> Kernel:
    fields = {name: header[name] for name in _KERNEL}
    fields["channels"] = tuple(fields["channels"])
    whole = all(type(axis) is int for axis in fields["channels"])
    if not (whole and all(isinstance(fields[name], kind) for name, kind in _KERNEL.items())):
        raise TypeError("a field has the wrong type")
    values = [values for shape in header["shapes"] for values in arrays.take(fields["dtype"], shape, 1)]
    return Kernel(**fields, kernel=values[0], bias=values[1] if len(values) > 1 else None)


def _layers(fields: dict[str, Any], arrays: _Arrays) -> list[Stored | BatchNorm]:
    """The layers of a run."""
    present, paths, titles, calls = map(fields.pop, ("present", *OWN))
    for name in {"axis", "shape", *TEXTS} & fields.keys():
        fields[name] = None if fields[name] is None else tuple(fields[name])
    whole = {int}.issuperset(map(type, (*fields["shape"], *(fields["axis"] or ()))))
    texts = itertools.chain(paths, titles, (fields.get("doubt", ""),), *(fields[name] for name in TEXTS & fields.keys()))
    said = {str}.issuperset(map(type, texts)) and len(paths) == len(titles) == len(calls)
    if not (whole and said and all(map(operator.contains, FIELDS.values(), map(type, _values_of(fields))))):
        raise TypeError("a field has the wrong type")
    names = [name for name in PARAMETERS if name in present]
    if not {*STATISTICS} <= {*names}:
        raise TypeError("a parameter is missing")
    if "statistic" in fields:
        fields["statistic"] = Statistic(fields["statistic"])
    kind = Stored if "statistic" in fields else BatchNorm
    fields |= NO_PARAMETERS
    values = iter(arrays.take(fields["dtype"], fields["shape"], len(names) * len(paths)))
    return [kind(**{**fields, "path": path, "name": title, "calls": tuple(map(_call, own)), **dict(zip(names, values))})
            for path, title, own in zip(paths, titles, calls)]


def _call(sides: Any) -> Call:
    inputs, outputs = sides
    return Call(tuple(map(_neighbor, inputs)), tuple(map(_neighbor, outputs)))


def _neighbor(values: Any) -> Neighbor:
    if tuple(map(type, values)) not in NEIGHBORS:
        raise TypeError("a field has the wrong type")
    return Neighbor(**dict(zip(_NEIGHBOR, values)))

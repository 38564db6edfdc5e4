"""The weightsManifest of a model.json, and the weights in the shards that it lists."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.gate import MAX_CHANNELS
from exporter.batchnorm.stored import AFFINE, PARAMETERS, STATISTICS
from exporter.errors import FormatError, UnsupportedError, names, printable
from exporter.formats.arrays import shaped
from exporter.sources.keras_v3.groups import VARIABLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.files.place import Place

SIZES = {"float32": 4, "int32": 4, "bool": 1, "uint8": 1, "uint16": 2, "float16": 2, "complex64": 8}
AGAIN = "put all shards that model.json lists in the folder of model.json; copy or download them again"


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
    """An entry of the manifest. start, size: its bytes in group number `group`; quantization: {"dtype", "min", "scale"} or None."""

    name: str
    group: int
    start: int
    size: int
    shape: tuple[int, ...]
    dtype: str
    quantization: dict[str, Any] | None

    @property
    def quantized(self) -> str | None:
        return self.quantization["dtype"] if self.quantization else None


class Weights:
    """The weights of a model.json, read from its shards on demand."""

    def __init__(self, manifest: Any, model_json: Place) -> None:
        self._model_json = model_json
        self._paths: list[list[str]] = []
        self._listed: set[str] = set()
        self._sizes: list[int] = []
        self._shards: dict[int, list[tuple[Place, int]]] = {}
        self.by_name: dict[str, Weight] = {}
        if not isinstance(manifest, list):
            raise FormatError("this model.json lists no weights (weightsManifest)", hint="it contains only the model's topology")
        for group in manifest:
            self._add(group)

    def _add(self, group: Any) -> None:
        paths, entries = (group.get("paths"), group.get("weights")) if isinstance(group, dict) else (None, None)
        if not isinstance(paths, list) or not isinstance(entries, list) or not all(isinstance(path, str) for path in paths):
            raise FormatError("a group of the weightsManifest has no paths or no weights")
        for path in paths:
            if path in self._listed:
                raise FormatError(f"the shard {printable(path, 80)} is listed twice: its bytes would belong to several weights")
            self._listed.add(path)
        start = 0
        for entry in entries:
            weight = _weight(entry, len(self._paths), start)
            if weight.name in self.by_name:
                raise FormatError(f"two weights are named {printable(weight.name)!r}, so which layer each belongs to is ambiguous")
            self.by_name[weight.name] = weight
            start += weight.size
        self._paths.append(paths)
        self._sizes.append(start)

    def by_group(self) -> list[list[str]]:
        """The names of the weights of each group, in the order in which their bytes follow one another."""
        found: list[list[str]] = [[] for _ in self._paths]
        for weight in self.by_name.values():
            found[weight.group].append(weight.name)
        return found

    def are_by_path(self) -> bool:
        return any(f"/{VARIABLES}/" in name for name in self.by_name)

    def names(self) -> Iterable[str]:
        return self.by_name

    def quantized(self, owner: str) -> str | None:
        """How the weights directly below `owner` were quantized."""
        kinds = {weight.quantized for name, weight in self.by_name.items() if name.rpartition("/")[0] == owner}
        return ", ".join(sorted(kind for kind in kinds if kind)) or None

    def read(self, name: str) -> tuple[NDArray[Any], str]:
        """Values and dtype of a weight. TensorFlow.js computes v * scale + min in float64 and rounds to float32 once."""
        weight = self.by_name[name]
        if weight.dtype != "float32":
            raise FormatError(f"expected type float32, got {printable(weight.dtype, 40)}", where=name)
        if math.prod(weight.shape) > MAX_CHANNELS:
            raise FormatError(f"expected at most {MAX_CHANNELS} values, got shape {list(weight.shape)}", where=name)
        stored = {None: "<f4", "float16": "<f2", "uint8": "u1", "uint16": "<u2"}[weight.quantized]
        values = shaped(np.frombuffer(self._bytes(weight), stored), weight.shape, name)
        if weight.quantization and weight.quantized != "float16":
            values = values * np.float64(weight.quantization["scale"]) + np.float64(weight.quantization["min"])
        with np.errstate(over="ignore"):  # the gate reports infinite values
            return values.astype(np.float32), "float32"

    def _bytes(self, weight: Weight) -> bytes:
        """A weight's bytes, from all shards that contain parts of it."""
        parts = []
        start, end = weight.start, weight.start + weight.size
        at = 0
        for place, size in self._shards_of(weight.group):
            low, high = max(start, at), min(end, at + size)
            if low < high:
                with place.open() as file:
                    file.seek(low - at)
                    parts.append(file.read(high - low))
            at += size
        data = b"".join(parts)
        if len(data) != weight.size:
            raise FormatError("the shards end inside this weight", where=weight.name, hint=AGAIN)
        return data

    def _shards_of(self, group: int) -> list[tuple[Place, int]]:
        """The shards of a group and their sizes, which must add up to its weights."""
        if group not in self._shards:
            places = [self._model_json.sibling(path) for path in self._paths[group]]
            for place, path in zip(places, self._paths[group], strict=True):
                if not place.is_file():
                    raise FormatError(f"the shard {printable(path, 80)} is missing", hint=AGAIN)
            sizes = [place.size() for place in places]
            if sum(sizes) != self._sizes[group]:
                self._raise_wrong_size(group, places, sum(sizes))
            self._shards[group] = list(zip(places, sizes, strict=True))
        return self._shards[group]

    def _raise_wrong_size(self, group: int, places: list[Place], size: int) -> None:
        for place in places:
            if place.head().lstrip()[:1] == b"<":
                raise FormatError("the shard is an HTML page: the download went wrong", where=place.name, hint=AGAIN)
        what = "cut short or one is missing" if size < self._sizes[group] else "longer than that"
        raise FormatError(f"model.json lists {self._sizes[group]} bytes of weights, the shards {names(self._paths[group])} have {size}: "
                          f"they are {what}", hint=AGAIN)


def _weight(entry: Any, group: int, start: int) -> Weight:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise FormatError("a weight of the weightsManifest has no name")
    name, shape, dtype, quantization = entry["name"], entry.get("shape"), entry.get("dtype"), entry.get("quantization")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise FormatError("expected a list of sizes as its shape", where=name)
    if quantization is not None:
        _check_quantization(quantization, name)
    stored = quantization["dtype"] if quantization else dtype
    if not isinstance(dtype, str) or stored not in SIZES:
        raise UnsupportedError(f"weights of type {printable(str(stored), 40)} are not supported", where=name)
    return Weight(name, group, start, math.prod(shape) * SIZES[stored], tuple(shape), dtype, quantization)


def _check_quantization(quantization: Any, name: str) -> None:
    fields = quantization if isinstance(quantization, dict) else {}
    affine = all(type(fields.get(key)) in (int, float) for key in ("min", "scale"))
    if fields.get("dtype") != "float16" and not (affine and fields.get("dtype") in ("uint8", "uint16")):
        raise FormatError("expected a quantization of uint8 or uint16 with min and scale, or float16", where=name)


class Paths:
    """The weights as a tree of groups, like exporter.formats.hdf5_file.File. Attributes, and so names of layers, are lost."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._members: dict[str, dict[str, None]] = {"": {}}
        for name in weights.by_name:
            while name:
                parent, _, own = name.rpartition("/")
                self._members.setdefault(parent, {})[own] = None
                name = parent

    def kind(self, path: str) -> str | None:
        return "dataset" if path in self._weights.by_name else "group" if path in self._members else None

    def names(self, path: str) -> list[str]:
        return list(self._members[path])

    def text(self, path: str, name: str) -> None:
        return None

    def shape(self, path: str) -> tuple[int, ...]:
        return self._weights.by_name[path].shape

    def dtype(self, path: str) -> str | None:
        return "float32" if self._weights.by_name[path].dtype == "float32" else None

    def array(self, path: str, *, is_kernel: bool = False) -> tuple[NDArray[Any], str]:
        return self._weights.read(path)

    def arrays(self, paths: Iterable[str]) -> list[tuple[NDArray[Any], str]]:
        return [self.array(path) for path in paths]

    def expect(self, groups: Iterable[str]) -> None:
        """Nothing: all weights were read."""


def check_order(weights: Sequence[str], *, is_any_frozen: bool) -> None:
    """Refuses names of weights, such as "layer/gamma", at impossible positions: some of them were exchanged.

    A layer's trainable weights follow one another, gamma and beta, and so do its others, the mean and the variance, whether they are
    written layer by layer or, as Model.weights has them, all trainable ones first. In both, the layers come in one order; a frozen
    layer's weights move to its place among the others.
    """
    places: dict[str, dict[str, int]] = {}
    for place, name in enumerate(weights):
        owner, _, role = name.rpartition("/")
        if role in PARAMETERS:
            places.setdefault(owner, {})[role] = place
    norms = {owner: roles for owner, roles in places.items() if roles.keys() >= set(STATISTICS)}
    odd = [owner for owner, roles in norms.items() if not _is_regular(roles)]
    if not odd and not is_any_frozen:
        odd = _out_of_order(norms)
    if odd:
        raise FormatError(f"names and positions of the weights disagree for {names(odd)}: gamma and beta of a layer must be side by side, "
                          "and so must mean and variance, and all layers must use one order", where="weightsManifest",
                          hint="names were swapped after the model was converted: convert it again")


def _is_regular(roles: Mapping[str, int]) -> bool:
    """Whether the parameters of a layer are in Keras's order, each pair side by side."""
    order = [roles[role] for role in PARAMETERS if role in roles]
    pairs = [(roles[first], roles[second]) for first, second in (AFFINE, STATISTICS) if first in roles and second in roles]
    return order == sorted(order) and all(second == first + 1 for first, second in pairs)


def _out_of_order(norms: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The layers whose trainable weights are in another order than their statistics."""
    trained = [owner for owner, roles in norms.items() if len(roles) > 2]
    by_mean = sorted(trained, key=lambda owner: norms[owner]["moving_mean"])
    by_first = sorted(trained, key=lambda owner: min(norms[owner][role] for role in AFFINE if role in norms[owner]))
    return [owner for owner, other in zip(by_mean, by_first, strict=True) if owner != other]

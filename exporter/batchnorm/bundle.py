"""Bundle: the layers of one model and where they came from. `check` is the gate: nothing is written or returned that did not pass it."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import HELD_IN, stored_bytes
from exporter.batchnorm.layer import PARAMETERS, BatchNorm
from exporter.errors import ExporterError, LayerError, UnresolvedError, UnsupportedError, names, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CHANNELS = 1 << 20
MOST_LAYERS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a bundle came from.

    file: name of the model's file or folder, without its path. kind: NAME of the source that read it.
    keras_version, backend, tensorflow_version: as the file says them, or None.
    """

    file: str
    kind: str
    keras_version: str | None = None
    backend: str | None = None
    tensorflow_version: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bundle:
    """The batch norms of one model, in the model's order.

    layers:   each with a `path` of its own.
    origin:   see Origin.
    skipped:  (path, reason) of those the file does not resolve.
    warnings: sentences for the user, not part of the bundle's content.
    vectors:  for a bundle that was read back: (input, output) arrays of shape (rows, channels) by path.
    settled:  for a bundle that was read back: what it skips was accepted when it was made.
    passed:   it came out of `check`, which needs not look again.
    """

    layers: tuple[BatchNorm, ...]
    origin: Origin
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    vectors: Mapping[str, tuple[NDArray[Any], NDArray[Any]]] = dataclasses.field(default_factory=dict)
    settled: bool = False
    passed: bool = False

    def __getitem__(self, path: str) -> BatchNorm:
        for layer in self.layers:
            if layer.path == path:
                return layer
        raise KeyError(f"no layer {path!r}; the bundle has {names(self.paths())}")

    def __contains__(self, path: object) -> bool:
        return any(layer.path == path for layer in self.layers)

    def __iter__(self) -> Iterator[BatchNorm]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def paths(self) -> list[str]:
        """The paths of the layers, in the model's order."""
        return [layer.path for layer in self.layers]

    def replace(self, **changes: Any) -> Bundle:
        """A copy with some fields changed, which has to pass the gate anew."""
        return dataclasses.replace(self, **{"passed": False, **changes})

    def remarks(self) -> list[str]:
        """What the user should know about a bundle that is fine: its warnings, other epsilons that a kernel used, what was skipped."""
        remarks = list(self.warnings)
        different = [layer for layer in self.layers if layer.effective_epsilon is not None]
        if different:
            first = different[0]
            remarks.append(
                f"{len(different)} of {len(self)} layers ran in a fused kernel that used epsilon {first.effective_epsilon:g}, not the "
                f"config's {first.epsilon:g} (first: {first.path}); --effective-epsilon writes that value as epsilon")
        return remarks + [f"skipped {path}: {reason}" for path, reason in self.skipped]

    def digest(self) -> str:
        """"sha256:" and the hash of what the layers hold (docs/format.md, "digest"): equal layers, equal digests."""
        import hashlib

        state = hashlib.sha256()
        for layer in self.layers:
            state.update(_identity(layer))
            for name in PARAMETERS:
                values = getattr(layer, name)
                state.update(b"\0" if values is None else b"\1" + stored_bytes(values, layer.dtype))
        return f"sha256:{state.hexdigest()}"


def _identity(layer: BatchNorm) -> bytes:
    axis = layer.axis or ()
    numbers = struct.pack(f"<I{len(axis)}iI{len(layer.shape)}I", len(axis), *axis, len(layer.shape), *layer.shape)
    text = layer.path.encode("utf-8", "surrogatepass") + b"\0" + layer.dtype.encode() + b"\0"
    return text + numbers + struct.pack("<d", layer.epsilon if layer.epsilon is not None else 0.0)


def check(bundle: Bundle) -> Bundle:
    """The gate. Returns `bundle` (perhaps with more warnings); refuses one that is empty, incomplete or unusable.

    Raises: UnsupportedError (no batch norm at all), UnresolvedError, LayerError.
    """
    if bundle.passed:
        return bundle
    if not bundle.layers and not bundle.skipped:
        raise UnsupportedError("the model holds no BatchNormalization layer",
                               hint="LayerNormalization, GroupNormalization and the like are not batch norm")
    if len(bundle.layers) > MOST_LAYERS:
        raise LayerError(f"{len(bundle.layers)} batch norms is over the limit of {MOST_LAYERS}")
    missing = [(layer.path, f"the file does not say its {field}")
               for layer in bundle.layers for field in ("epsilon", "axis") if getattr(layer, field) is None]
    if missing:
        raise UnresolvedError(missing)
    paths = bundle.paths()
    if len(set(paths)) != len(paths):
        raise LayerError(f"the path {printable(next(p for p in paths if paths.count(p) > 1))!r} occurs twice")
    warnings = [warning for layer in bundle.layers for warning in check_layer(layer)]
    return bundle.replace(warnings=(*bundle.warnings, *warnings), passed=True)


def check_layer(layer: BatchNorm) -> list[str]:
    """Refuses a layer that the formula cannot use (LayerError); returns warnings about one that it can."""
    try:
        _check_geometry(layer)
        for name, values in layer.parameters().items():
            _check_values(layer, name, values)
        return _check_variance(layer)
    except ExporterError as error:
        raise error.inside(layer.path) from None


def _check_geometry(layer: BatchNorm) -> None:
    if layer.dtype not in HELD_IN:
        raise LayerError(f"parameters of type {layer.dtype} are not batch norm parameters")
    channels = int(np.prod(layer.shape, dtype=object)) if layer.shape else 0
    if not 0 < channels <= MOST_CHANNELS:
        raise LayerError(f"{channels} channels; 1 to {MOST_CHANNELS} are possible")
    axis = layer.axis
    assert axis is not None
    if len(axis) != len(layer.shape) or len(set(axis)) != len(axis):
        raise LayerError(f"axis {list(axis)} does not fit parameters of shape {list(layer.shape)}")
    for a in axis:
        rank = 32 if layer.ndim is None else layer.ndim
        if not -rank <= a < rank or a in (0, -rank):
            raise LayerError(f"axis {a} does not fit an input of rank {layer.ndim or '2 or more'}; axis 0 is the batch")
    if layer.ndim is not None and len({a % layer.ndim for a in axis}) != len(axis):
        raise LayerError(f"axis {list(axis)} names one axis twice")


def _check_values(layer: BatchNorm, name: str, values: NDArray[Any]) -> None:
    if values.shape != layer.shape:
        raise LayerError(f"{name} has shape {list(values.shape)}, the layer {list(layer.shape)}")
    if values.dtype != HELD_IN[layer.dtype]:
        raise LayerError(f"{name} has type {values.dtype}, the layer {layer.dtype}")
    finite = np.isfinite(values)
    if not finite.all():
        channel = int(np.argmin(finite.ravel()))
        value = values.ravel()[channel]
        kind = "NaN (not a number)" if np.isnan(value) else "infinite"
        raise LayerError(f"{name}[{channel}] is {kind}: no inference can be computed from it",
                         hint="the training run diverged or the file is damaged; export an earlier checkpoint")


def _check_variance(layer: BatchNorm) -> list[str]:
    epsilon = layer.epsilon
    if not isinstance(epsilon, float) or not np.isfinite(epsilon) or epsilon < 0 or epsilon > float(np.finfo(np.float32).max):
        raise LayerError(f"epsilon is {epsilon}; a number of 0 or more that fits float32 is possible")
    variance = layer.moving_variance.astype(np.float64).ravel()
    worst = int(np.argmin(variance))
    if variance[worst] + epsilon <= 0:
        raise LayerError(f"moving_variance[{worst}] is {variance[worst]:.9g} and epsilon {epsilon:g}: nothing can be divided by the "
                         "root of their sum")
    if variance[worst] < 0:
        return [f"{layer.path}: moving_variance[{worst}] is slightly negative ({variance[worst]:.9g}); epsilon lifts it above 0"]
    return []

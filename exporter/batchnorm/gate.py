"""The gate: what must hold before anything is returned or written. A layer that passes is complete and usable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.layer import BatchNorm
from exporter.errors import LayerError, UnresolvedError, UnsupportedError, located, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CHANNELS = 1 << 20
MOST_LAYERS = 100_000


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
    with located(layer.path):
        _check_geometry(layer)
        for name, values in layer.parameters().items():
            _check_values(layer, name, values)
        return _check_variance(layer)


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

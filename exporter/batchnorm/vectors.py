"""The test vectors of a bundle: inputs that reveal mistakes, the outputs of the formula, and the error bound for runtimes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.alike import stacked
from exporter.batchnorm.dtypes import HELD_IN, TINY, UNIT, all_finite, rounded
from exporter.batchnorm.layer import BatchNorm, formula, scale_and_offset, wide

if TYPE_CHECKING:
    from numpy.typing import NDArray

AT_ONCE = 1 << 16  # channels; there are a dozen intermediate float64 arrays
MAX_KEPT = 1 << 12  # channels
GOLDEN = 0.6180339887498949  # its multiples modulo 1 are spread evenly, so neighboring channels get different inputs


def make(layer: BatchNorm) -> tuple[NDArray[Any], NDArray[Any]]:
    """(input, output), each of shape (2, channels) in the layer's dtype; the channels are in row-major order over the layer's shape.

    The inputs are 0.5 to 2 standard deviations above and 1 to 4 below the mean, different for each channel: there a wrong epsilon, a
    swapped pair or a shifted channel changes the output by its own size. The outputs are the formula in float64, rounded once.
    """
    size = layer.channels
    if size <= AT_ONCE:
        return _of_one(layer)
    x, y = (np.empty((2, size), HELD_IN[layer.dtype]) for _ in range(2))
    for start in range(0, size, AT_ONCE):
        part = slice(start, min(start + AT_ONCE, size))
        x[:, part], y[:, part] = _of_one(_part(layer, part), start)
    return x, y


def _part(layer: BatchNorm, part: slice) -> BatchNorm:
    """Some of the channels of a layer, by their index in row-major order."""
    arrays = {name: values.reshape(-1)[part] for name, values in layer.parameters().items()}
    return layer.replace(shape=(part.stop - part.start,), axis=(-1,), ndim=None, **arrays)


def _of_one(layer: BatchNorm, before: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    x, y = of_run([layer], stacked([layer]), before)
    return x[0], y[0]


def of_run(run: Sequence[BatchNorm], numbers: NDArray[Any], before: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """`make` of layers that are alike, for channels that come after `before` others: arrays of shape (layers, 2, channels).

    numbers: see `stacked`.
    """
    dtype = run[0].dtype
    present = dict(zip(run[0].parameters(), numbers.astype(np.float64)[:, :, None].swapaxes(0, 1)))
    mean, root = present["moving_mean"], np.sqrt(present["moving_variance"] + run[0].epsilon)
    parts = present.get("gamma", np.ones_like(mean)), present.get("beta", np.zeros_like(mean)), mean, root
    size = mean.shape[-1]
    with np.errstate(over="ignore", invalid="ignore"):
        x = rounded(mean + (_kept_steps(size) if size <= MAX_KEPT and not before else _steps(before, size)) * root, dtype)
        y = rounded(formula(parts, x), dtype)
        if not all_finite(y):  # near the largest number of the dtype, where x may be infinite, too; at the mean itself the output is beta
            x = np.where(np.isfinite(y), x, rounded(mean, dtype))
            y = rounded(formula(parts, x), dtype)
    return x, y


def _steps(before: int, size: int) -> NDArray[np.float64]:
    """How many deviations the two inputs of each channel lie above the mean."""
    spread = np.modf(GOLDEN * np.arange(before + 1, before + size + 1))[0]
    return np.stack([0.5 + 1.5 * spread, -(1 + 3 * spread)])


@functools.lru_cache(64)
def _kept_steps(size: int) -> NDArray[np.float64]:
    """Of layers of the usual sizes, which come again and again."""
    return _steps(0, size)


def bound(layer: BatchNorm, x: NDArray[Any], dtype: str | None = None) -> NDArray[np.float64]:
    """The largest error allowed for a runtime that computes x of shape (rows, channels) in `dtype` (default: the layer's).

    16 * u * (|a*x| + |a*moving_mean| + |beta|) + tiny, with a = gamma / sqrt(moving_variance + epsilon), u the unit roundoff
    and tiny the smallest normal number of the dtype; derived in docs/batchnorm.md.
    """
    dtype = dtype or layer.dtype
    gamma, beta, mean, root = (values.ravel() for values in wide(layer))
    a = np.abs(gamma) / root
    size: NDArray[np.float64] = a * np.abs(np.asarray(x, np.float64)) + a * np.abs(mean) + np.abs(beta)
    return 16 * UNIT[dtype] * size + TINY[dtype]


def part_of_bound(layer: BatchNorm, x: NDArray[Any], y: NDArray[Any]) -> float:
    """The largest error of scale * x + offset against y, as a fraction of the bound; inf if it overflows.

    Computed in float32, or in float64 for a float64 layer. x, y: the inputs and outputs of a bundle's test vectors.
    """
    kind = np.float64 if layer.dtype == "float64" else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        scale, offset = (values.ravel().astype(kind) for values in scale_and_offset(layer))
        got = (scale * x.astype(kind) + offset).astype(np.float64)
        parts = np.abs(got - np.asarray(y, np.float64)) / bound(layer, x)
    return float(np.where(np.isnan(parts), np.inf, parts).max())


def ulps(got: NDArray[Any], want: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """|got - want| in units in the last place of `want` in `dtype` (below the smallest normal number: of that number)."""
    want = np.asarray(want, np.float64)
    _, exponent = np.frexp(np.maximum(np.abs(want), TINY[dtype]))
    distance: NDArray[np.float64] = np.abs(np.asarray(got, np.float64) - want)
    last_place: NDArray[np.float64] = np.ldexp(2 * UNIT[dtype], exponent.astype(np.int64) - 1)
    return distance / last_place

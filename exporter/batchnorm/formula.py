"""The formula, once: gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta.

`exact` is the reference: float64 inside, rounded once. `fast` is float32 with one scale and one offset a channel.
Their error bounds are derived in docs/batchnorm.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.layer import HELD_IN, BatchNorm
from exporter.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FLOATS = ("float16", "bfloat16", "float32", "float64")
BLOCK = 1 << 15  # numbers worked on at once by `fast`: x, the result, scale and offset, 512 KiB together, stay in the second-level cache
LONG, FEW = 1 << 13, 4  # a run of so many numbers of one channel, or so few rows, are better done with one scale for each run


def evaluate(layer: BatchNorm, x: ArrayLike, *, axis: int | tuple[int, ...] | None = None, fast: bool | str = False,
             out: NDArray[np.float32] | None = None) -> NDArray[Any]:
    """What `layer` gives in inference for `x`.

    x:    array of any rank that has the layer's channels along its axis. Arrays of float16, bfloat16 (ml_dtypes), float32 and
          float64 are taken as they are and the result has their type; lists, numbers and integer arrays are converted to the
          layer's dtype first, as Keras does (bfloat16: float32 arrays of bfloat16 values).
    axis: another axis than the layer's, e.g. 1 for a channels_first input to a layer saved as channels_last.
    fast: True for float32 arithmetic, one multiplication and one addition a number; needs float32 input. "numba": the same numbers
          in one pass, at the speed of memory, with the extra `numba`; its first call compiles it.
    out:  with `fast`: float32 array of x's shape for the result; may be `x` itself.

    Error, with u the unit roundoff and a = gamma / sqrt(moving_variance + epsilon): exact, at most one rounding to the result's
    type (plus 2**-50 relative to |a*x| + |a*moving_mean| + |beta|); fast, 8 * 2**-24 * (|a*x| + |a*moving_mean| + |beta|).

    Raises: UsageError where x does not fit the layer, MissingExtra.
    """
    array = _as_input(layer, x)
    axes = find_axes(layer, array, axis)
    if fast not in (False, True, "numba"):
        raise UsageError(f"fast is {fast!r}; there are False, True and 'numba'")
    if fast:
        return _fast(layer, array, axes, out, fast == "numba")
    if out is not None:
        raise UsageError("`out` goes with fast=True: the exact mode makes an array of its own")
    return _exact(layer, array, axes)


def exact_rows(layer: BatchNorm, x: NDArray[Any]) -> NDArray[np.float64]:
    """The formula in float64, not rounded yet, for x of shape (rows, *layer.shape)."""
    gamma, beta, mean, root = wide(layer)
    with np.errstate(over="ignore", invalid="ignore"):
        return gamma * (np.asarray(x, np.float64) - mean) / root + beta


def wide(layer: BatchNorm) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(gamma, beta, moving_mean, sqrt(moving_variance + epsilon)) in float64, of layer.shape; gamma 1 and beta 0 where it has none."""
    if layer.epsilon is None:
        raise UsageError("the layer has no epsilon, so nothing can be computed", where=layer.path)
    gamma = np.ones(layer.shape) if layer.gamma is None else layer.gamma.astype(np.float64)
    beta = np.zeros(layer.shape) if layer.beta is None else layer.beta.astype(np.float64)
    return gamma, beta, layer.moving_mean.astype(np.float64), np.sqrt(layer.moving_variance.astype(np.float64) + layer.epsilon)


def scale_and_offset(layer: BatchNorm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(scale, offset) in float64, of layer.shape, with y = scale * x + offset."""
    gamma, beta, mean, root = wide(layer)
    scale = gamma / root
    return scale, beta - scale * mean


def round_to(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """Float64 values rounded once, half to even, to `dtype` (bfloat16: float32 arrays of bfloat16 values)."""
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            return np.asarray(values).astype(HELD_IN[dtype])
        _, exponent = np.frexp(values)
        quantum = np.maximum(exponent.astype(np.int64) - 8, -133)  # 8 bits of significand; subnormals end at 2**-133
        rounded = np.ldexp(np.rint(np.ldexp(values, -quantum)), quantum)
        return np.where(np.isfinite(values), rounded, values).astype(np.float32)


def _as_input(layer: BatchNorm, x: ArrayLike) -> NDArray[Any]:
    if isinstance(x, np.ndarray) and x.dtype.name in FLOATS:
        return x
    array = np.asarray(x)
    if array.dtype.kind not in "iufb":
        raise UsageError(f"an input of type {array.dtype} is not numeric")
    return round_to(array.astype(np.float64), layer.dtype)


def find_axes(layer: BatchNorm, x: NDArray[Any], axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The axes of `x`, none negative, that the layer's dimensions run along. Raises: UsageError where x does not fit."""
    given = layer.axis if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    if given is None or len(given) != len(layer.shape):
        raise UsageError(f"axis {given} does not fit parameters of shape {list(layer.shape)}", where=layer.path)
    for a, size in zip(given, layer.shape):
        if not -x.ndim <= a < x.ndim:
            raise UsageError(f"the layer's axis is {a}, the input has {x.ndim} dimensions", where=layer.path,
                             hint="give the input's own channel axis with axis=, e.g. axis=-1")
        if x.shape[a] != size:
            raise UsageError(f"the input has {x.shape[a]} channels along axis {a}, the layer {size}", where=layer.path)
    axes = tuple(a % x.ndim for a in given)
    if len(set(axes)) != len(axes):
        raise UsageError(f"axis {list(given)} names one axis twice", where=layer.path)
    return axes


def broadcast(values: NDArray[Any], axes: tuple[int, ...], ndim: int) -> NDArray[Any]:
    """`values`, whose dimensions run along `axes` of an input of rank `ndim`, shaped to broadcast against it."""
    order = np.argsort(axes)
    shape = [1] * ndim
    for axis, size in zip(axes, values.shape):
        shape[axis] = size
    return values.transpose(order).reshape(shape)


def _exact(layer: BatchNorm, x: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    gamma, beta, mean, root = (broadcast(values, axes, x.ndim) for values in wide(layer))
    with np.errstate(over="ignore", invalid="ignore"):
        y: NDArray[np.float64] = gamma * (x.astype(np.float64) - mean) / root + beta
    if x.dtype.name == "bfloat16":  # ml_dtypes: through float32 it is exact once the value is a bfloat16
        return round_to(y, "bfloat16").astype(x.dtype)
    if layer.dtype == "bfloat16" and x.dtype == np.float32:
        return y.astype(np.float32)
    return round_to(y, x.dtype.name)


def _fast(layer: BatchNorm, x: NDArray[Any], axes: tuple[int, ...], out: NDArray[np.float32] | None, compiled: bool) -> NDArray[np.float32]:
    if x.dtype != np.float32:
        raise UsageError(f"the fast mode takes float32, the input is {x.dtype}", where=layer.path)
    if out is None:
        out = np.empty(x.shape, np.float32)
    elif out.shape != x.shape or out.dtype != np.float32:
        raise UsageError(f"`out` is {out.dtype} of shape {out.shape}, needed: float32 of shape {x.shape}", where=layer.path)
    scale, offset = (values.astype(np.float32) for values in scale_and_offset(layer))
    if len(axes) == 1 and x.flags.c_contiguous and out.flags.c_contiguous and x.size:
        inner = int(np.prod(x.shape[axes[0] + 1:], dtype=np.int64))
        if compiled:
            from exporter.batchnorm.compiled import blocks
        else:
            blocks = _fast_blocks
        blocks(x.reshape(-1, len(scale), inner), out.reshape(-1, len(scale), inner), scale, offset)
    else:
        np.multiply(x, broadcast(scale, axes, x.ndim), out=out)
        np.add(out, broadcast(offset, axes, x.ndim), out=out)
    return out


def _fast_blocks(x: NDArray[np.float32], out: NDArray[np.float32], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> None:
    """x, out: (outer, channels, inner). NumPy runs a row of numbers fast and starts one slowly, so the runs are made long."""
    outer, _, inner = x.shape
    if inner >= LONG or (outer < FEW and inner > 1):  # one number for each run
        x, out = x.reshape(-1, inner), out.reshape(-1, inner)
        scales, offsets = (np.tile(a, outer)[:, None] for a in (scale, offset))
        step = max(1, 2 * BLOCK // inner)
        for i in range(0, len(x), step):
            _multiply_add(x[i:i + step], out[i:i + step], scales[i:i + step], offsets[i:i + step])
        return
    # scale and offset written out along the run, a block of them for all rows that it fits
    for wide_x, wide_out, count in joined_rows(x, out, BLOCK):
        _along(wide_x, wide_out, np.tile(scale, count), np.tile(offset, count), inner)


def joined_rows(x: NDArray[np.float32], out: NDArray[np.float32],
                most: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], int]]:
    """x and out with rows joined to longer ones of up to `most` numbers, and how many each joins; what is left over joins to one."""
    outer, period = len(x), math.prod(x.shape[1:])
    repeat = max(1, min(outer, most // period))
    whole = outer - outer % repeat
    for first, last, count in ((0, whole, repeat), (whole, outer, outer - whole)):
        if last > first:
            yield x[first:last].reshape(-1, count * period), out[first:last].reshape(-1, count * period), count


def _along(x: NDArray[np.float32], out: NDArray[np.float32], scale: NDArray[np.float32], offset: NDArray[np.float32], inner: int) -> None:
    """x, out: (rows, len(scale) * inner)."""
    step = -(-BLOCK // inner)  # channels
    for i in range(0, len(scale), step):
        scales, offsets = (a[i:i + step] if inner == 1 else np.repeat(a[i:i + step], inner) for a in (scale, offset))
        columns = slice(i * inner, (i + step) * inner)
        for row, result in zip(x, out):
            _multiply_add(row[columns], result[columns], scales, offsets)


def _multiply_add(x: NDArray[np.float32], out: NDArray[np.float32], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> None:
    np.multiply(x, scale, out)
    np.add(out, offset, out)

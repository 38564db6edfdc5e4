"""scale * x + offset over plain float32 arrays: one multiplication and one addition per number, in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Run = Callable[[NDArray[np.float32], NDArray[np.float32]], None]

NUMBERS_AT_ONCE = 1 << 15  # by `fast`: x, the result, scale and offset, 512 KiB together, stay in the second-level cache
LONG_RUN, FEW_ROWS = 1 << 13, 4  # runs of this many numbers of one channel, or this few rows, are faster with one scale per run


def written_out(shape: tuple[int, int, int], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> Run:
    """A function that computes arrays of `shape`, (outer, channels, inner).

    NumPy is fast within a row but slow to start one, so the rows are made long.
    """
    outer, channels, inner = shape
    if inner >= LONG_RUN or (outer < FEW_ROWS and inner > 1):
        return _by_run(shape, scale, offset)
    count = joined(shape, NUMBERS_AT_ONCE)
    if count * channels * inner <= NUMBERS_AT_ONCE:
        return _by_row(shape, count, *(np.tile(np.repeat(values, inner), count) for values in (scale, offset)))
    return _by_part(shape, scale, offset)


def joined(shape: tuple[int, int, int], most: int) -> int:
    """How many rows are joined into longer ones of up to `most` numbers."""
    outer, channels, inner = shape
    return max(1, min(outer, most // (channels * inner)))


def _by_run(shape: tuple[int, int, int], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> Run:
    """One scale and one offset for each run of a channel."""
    outer, _, inner = shape
    scales, offsets = (np.tile(values, outer)[:, None] for values in (scale, offset))
    step = max(1, 2 * NUMBERS_AT_ONCE // inner)

    def run(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        x, out = x.reshape(-1, inner), out.reshape(-1, inner)
        for i in range(0, len(x), step):
            _multiply_add(x[i:i + step], out[i:i + step], scales[i:i + step], offsets[i:i + step])

    return run


def _by_row(shape: tuple[int, int, int], count: int, scales: NDArray[np.float32], offsets: NDArray[np.float32]) -> Run:
    """Scale and offset are repeated along `count` rows."""
    size, whole = len(scales), shape[0] - shape[0] % count

    def run(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        if whole == count == shape[0]:
            _multiply_add(x.reshape(size), out.reshape(size), scales, offsets)
            return
        for row, result in zip(x[:whole].reshape(-1, size), out[:whole].reshape(-1, size)):
            _multiply_add(row, result, scales, offsets)
        if whole < shape[0]:
            row, result = x[whole:].reshape(-1), out[whole:].reshape(-1)
            _multiply_add(row, result, scales[:len(row)], offsets[:len(row)])

    return run


def _by_part(shape: tuple[int, int, int], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> Run:
    """Scale and offset are repeated along a part of a row; the parts are computed one after the other, each for all rows."""
    outer, channels, inner = shape
    step = -(-NUMBERS_AT_ONCE // inner)  # channels

    def run(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        x, out = x.reshape(outer, channels * inner), out.reshape(outer, channels * inner)
        for i in range(0, channels, step):
            scales, offsets = (values[i:i + step] if inner == 1 else np.repeat(values[i:i + step], inner) for values in (scale, offset))
            part = slice(i * inner, (i + step) * inner)
            for row, result in zip(x, out):
                _multiply_add(row[part], result[part], scales, offsets)

    return run


def _multiply_add(x: NDArray[np.float32], out: NDArray[np.float32], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> None:
    np.multiply(x, scale, out)
    np.add(out, offset, out)

"""scale * x + offset over plain float32 arrays: one multiplication and one addition a number, in blocks that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 1 << 15  # numbers worked on at once by `fast`: x, the result, scale and offset, 512 KiB together, stay in the second-level cache
LONG, FEW = 1 << 13, 4  # a run of so many numbers of one channel, or so few rows, are better done with one scale for each run


def blocks(x: NDArray[np.float32], out: NDArray[np.float32], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> None:
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

"""The fast mode in one pass over memory, compiled by Numba: the same operations on the same float32 numbers, so the same results.

NumPy needs two passes, a multiplication and an addition, over blocks in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.fast import joined
from exporter.errors import MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.fast import Run

SHORT_ROW = 64  # numbers in a row per channel, below which scale and offset are repeated along the row
WIDE_ROW = 1 << 12  # numbers in a row of the repeated scale and offset, if a whole number of rows of the array gives that


def written_out(shape: tuple[int, int, int], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> Run:
    """As in `fast.py`; arrays are contiguous, and the result may be the input.

    Raises: MissingExtra if Numba is not installed.
    """
    by_number, by_run = loops()
    outer, channels, inner = shape
    if inner >= SHORT_ROW:
        return lambda x, out: by_run(x, out, scale, offset)
    count = joined(shape, WIDE_ROW)
    size, whole = count * channels * inner, outer - outer % count
    scales, offsets = (np.tile(np.repeat(values, inner), count) for values in (scale, offset))

    def run(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        by_number(x[:whole].reshape(-1, size), out[:whole].reshape(-1, size), scales, offsets)
        if whole < outer:
            by_number(x[whole:].reshape(1, -1), out[whole:].reshape(1, -1), scales, offsets)

    return run


def _by_number(x: Any, out: Any, scale: Any, offset: Any) -> None:
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] * scale[j] + offset[j]


def _by_run(x: Any, out: Any, scale: Any, offset: Any) -> None:
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            a, b = scale[c], offset[c]
            for k in range(x.shape[2]):
                out[i, c, k] = x[i, c, k] * a + b


@functools.cache
def loops() -> tuple[Callable[..., None], Callable[..., None]]:
    """The two loops, compiled when they are first called, and cached on disk if Numba finds a writable directory."""
    try:
        import numba
    except ImportError:
        raise MissingExtra("numba", "numba", 'fast="numba"') from None
    # without `fastmath` a product and a sum stay two operations, each rounded
    try:
        return numba.njit(nogil=True, cache=True)(_by_number), numba.njit(nogil=True, cache=True)(_by_run)
    except RuntimeError:  # no writable directory
        return numba.njit(nogil=True)(_by_number), numba.njit(nogil=True)(_by_run)

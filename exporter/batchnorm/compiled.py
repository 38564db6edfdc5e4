"""The fast mode in one pass over memory, compiled by Numba: the same operations on the same float32 numbers, so the same results.

NumPy needs two passes, a multiplication and an addition, over blocks in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.fast import joined_rows
from exporter.errors import MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORT = 64  # numbers of one channel in a row below which scale and offset are written out along the row
WIDE = 1 << 12  # numbers in a row of what is written out, where a whole number of rows of the array gives them


def blocks(x: NDArray[np.float32], out: NDArray[np.float32], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> None:
    """out = scale * x + offset, rounded after each operation. x, out: contiguous, of shape (outer, channels, inner); out may be x.

    Raises: MissingExtra without Numba.
    """
    by_number, by_run = _compiled()
    inner = x.shape[2]
    if inner >= SHORT:
        by_run(x, out, scale, offset)
        return
    for wide_x, wide_out, count in joined_rows(x, out, WIDE):
        by_number(wide_x, wide_out, *(np.tile(np.repeat(values, inner), count) for values in (scale, offset)))


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
def _compiled() -> tuple[Callable[..., None], Callable[..., None]]:
    """The two loops, compiled when they are first called, and kept on the disk where Numba finds a place for them."""
    try:
        import numba
    except ImportError:
        raise MissingExtra("numba", "numba", 'fast="numba"') from None
    # without `fastmath` a product and a sum stay two operations, each rounded
    try:
        return numba.njit(nogil=True, cache=True)(_by_number), numba.njit(nogil=True, cache=True)(_by_run)
    except RuntimeError:  # no such place
        return numba.njit(nogil=True)(_by_number), numba.njit(nogil=True)(_by_run)

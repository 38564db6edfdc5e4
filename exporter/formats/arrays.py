"""Stored arrays as NumPy has them: shapes that it may not be able to have, and bfloat16, which it does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from exporter.errors import FormatError, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def shaped(values: NDArray[Any], shape: Sequence[int], where: str, order: Literal["C", "F"] = "C") -> NDArray[Any]:
    """`values`, as many as the shape says, in that shape. Raises: FormatError for more axes than NumPy has (64; 32 before NumPy 2), and for
    sizes beside a zero that are too large."""
    try:
        return values.reshape(shape, order=order)
    except (ValueError, OverflowError):
        raise FormatError(f"expected a shape that an array can have, got {printable(str(list(shape)), 60)}", where=where) from None


def widen(stored: NDArray[Any]) -> NDArray[np.float32]:
    """The values of bfloat16 numbers stored as 16-bit integers, as float32, the upper half of which they are."""
    widened: NDArray[np.float32] = (stored.astype("<u4") << 16).view("<f4")
    return widened

"""Shapes that files specify, which NumPy may not be able to have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from exporter.errors import FormatError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray


def shaped(values: NDArray[Any], shape: Sequence[int], where: str, order: Literal["C", "F"] = "C") -> NDArray[Any]:
    """`values`, as many as the shape says, in that shape. Raises: FormatError for more axes than NumPy has (64; 32 before NumPy 2), and for
    sizes beside a zero that are too large."""
    try:
        return values.reshape(shape, order=order)
    except (ValueError, OverflowError):
        raise FormatError(f"expected a shape that an array can have, got {printable(str(list(shape)), 60)}", where=where) from None

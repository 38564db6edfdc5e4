"""bfloat16, which NumPy does not have: the upper half of a float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def widen(stored: NDArray[Any]) -> NDArray[np.float32]:
    """The values of bfloat16 numbers stored as 16-bit integers, as float32, which represents each of them exactly."""
    widened: NDArray[np.float32] = (stored.astype("<u4") << 16).view("<f4")
    return widened

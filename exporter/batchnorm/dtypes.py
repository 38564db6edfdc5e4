"""The four types that parameters are stored in: their NumPy types, rounding, and stored bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The NumPy type for each dtype. NumPy has no bfloat16, but float32 contains its values exactly.
HELD_IN = {"float16": np.float16, "bfloat16": np.float32, "float32": np.float32, "float64": np.float64}

_LITTLE = {dtype: np.dtype(held).newbyteorder("<") for dtype, held in HELD_IN.items()}

# Unit roundoff (half the distance from 1 to the next number) and smallest normal number of each dtype.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


def coarser(*dtypes: str) -> str:
    """The coarsest of these types."""
    return max(dtypes, key=UNIT.__getitem__)


def round_to(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """Float64 values rounded once, half to even, to `dtype` (bfloat16: float32 arrays of bfloat16 values)."""
    with np.errstate(over="ignore"):
        return rounded(values, dtype)


def rounded(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """`round_to` for a caller that ignores overflow itself, for several numbers at once: to say so takes as long as to round a few."""
    if dtype != "bfloat16":
        return np.asarray(values).astype(HELD_IN[dtype])
    _, exponent = np.frexp(values)
    quantum = np.maximum(exponent.astype(np.int64) - 8, -133)  # 8 bits of significand; subnormals end at 2**-133
    whole = np.ldexp(np.rint(np.ldexp(values, -quantum)), quantum)
    return np.where(np.isfinite(values), whole, values).astype(np.float32)


def all_finite(values: NDArray[Any]) -> bool:
    """Whether there is neither NaN nor infinity among them: `np.isfinite(values).all()`, in half its time where they are few."""
    return b"\0" not in np.isfinite(values).tobytes()


def stored_bytes(values: NDArray[Any], dtype: str) -> bytes:
    """The values as little-endian bytes of `dtype`, flat in row-major order (bfloat16: the upper half of a float32)."""
    if dtype == "bfloat16":
        return (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(values, _LITTLE[dtype]).tobytes()

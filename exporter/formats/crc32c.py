"""CRC-32C (Castagnoli, RFC 3720 appendix B.4), and the masked form that TensorFlow's tables store.

google-crc32c does it where it is installed with its C half; otherwise NumPy: the bytes are cut into equal lanes that
advance together, one table look-up a step, and the lanes' sums are joined by the rule that CRC(A + B) is CRC(A) carried over
len(B) zero bytes, xor CRC(B).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78  # reflected
LANES = 1024  # a power of two: lanes are joined in pairs


def masked(data: bytes) -> int:
    """The CRC of `data` rotated and offset, as in tsl/lib/hash/crc32c.h (a CRC stored beside its data is a poor check of both)."""
    crc = _function()(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(maxsize=1)
def _function() -> Callable[[bytes], int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where its C half is missing
            import google_crc32c
    except ImportError:
        return crc32c
    value: Callable[[bytes], int] = google_crc32c.value
    return value if google_crc32c.implementation == "c" else crc32c


def crc32c(data: bytes) -> int:
    """The CRC of `data`, by NumPy where that pays."""
    steps = len(data) // LANES
    crc = 0xFFFFFFFF
    if steps >= 8:
        crc = _lanes(np.frombuffer(data, np.uint8, steps * LANES).reshape(LANES, steps), crc)
        data = data[steps * LANES :]
    table = _byte_table()
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@lru_cache(maxsize=1)
def _byte_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


def _lanes(rows: NDArray[np.uint8], start: int) -> int:
    """The raw register after all rows, one lane each, joined in pairs until one is left."""
    table = np.array(_byte_table(), np.uint32)
    crc = np.zeros(len(rows), np.uint32)
    crc[0] = start
    for column in np.ascontiguousarray(rows.T):
        crc = table[(crc ^ column) & 255] ^ crc >> 8
    carry = _zero_bytes(rows.shape[1])
    while len(crc) > 1:
        crc = _apply(carry, crc[0::2]) ^ crc[1::2]
        carry = _apply(carry, carry)
    return int(crc[0])


def _zero_bytes(count: int) -> NDArray[np.uint32]:
    """What `count` zero bytes do to the register, a linear map: its 32 columns, the images of the single bits."""
    table = np.array(_byte_table(), np.uint32)
    result = power = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = table[power & 255] ^ power >> 8
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result


def _apply(columns: NDArray[np.uint32], values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The linear map of these columns, applied to each value."""
    bits = values[:, None] >> np.arange(32, dtype=np.uint32) & 1
    joined: NDArray[np.uint32] = np.bitwise_xor.reduce(np.where(bits, columns, np.uint32(0)), axis=1)
    return joined

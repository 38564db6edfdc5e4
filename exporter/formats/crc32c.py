"""CRC-32C (Castagnoli, RFC 3720 appendix B.4) in the masked form that TensorFlow's tables store."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # if its C extension cannot be loaded, it warns and computes the same in Python
    import google_crc32c


def masked(data: bytes) -> int:
    """The CRC of `data` rotated and offset, as in tsl/lib/hash/crc32c.h (a CRC stored beside its data is a poor check of both)."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

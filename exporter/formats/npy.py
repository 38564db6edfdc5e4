"""NumPy's .npy arrays, version 1.0, little-endian and in row-major order.

Written here because the header's padding differs between versions of NumPy, and read here because numpy.load allocates what
the header declares before it reads the data. Specification: numpy.lib.format.
"""

from __future__ import annotations

import math
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import FormatError
from exporter.formats.arrays import shaped

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"\x93NUMPY\1\0"
ALIGNMENT = 64
TYPES = ("<f2", "<f4", "<f8", "|u1")

_HEADER = re.compile(rb"\{'descr': '([<>|]\w\d)', 'fortran_order': False, 'shape': \(((?:\d{1,10}, ?)*(?:\d{1,10})?)\), \} *\n")


def dump(array: NDArray[Any]) -> bytes:
    """`array`, of one of TYPES, as the content of a .npy file."""
    text = repr({"descr": array.dtype.str, "fortran_order": False, "shape": array.shape})[:-1].encode() + b", }"
    padding = -(len(MAGIC) + 2 + len(text) + 1) % ALIGNMENT
    return MAGIC + struct.pack("<H", len(text) + padding + 1) + text + b" " * padding + b"\n" + array.tobytes()


def parse(data: bytes, where: str) -> NDArray[Any]:
    """The array of a .npy file, read-only. Raises FormatError for one of another type or order, or whose length is wrong."""
    length = int.from_bytes(data[8:10], "little")
    header = _HEADER.fullmatch(data[10:10 + length])
    if not data.startswith(MAGIC) or header is None:
        raise FormatError("expected a .npy array of version 1.0 in row-major order", where=where)
    kind, dimensions = header[1].decode(), header[2].decode()
    if kind not in TYPES:
        raise FormatError(f"expected an array of one of {', '.join(TYPES)}, got {kind}", where=where)
    shape = tuple(int(size) for size in dimensions.split(",") if size.strip())
    size = math.prod(shape) * np.dtype(kind).itemsize
    if len(data) - 10 - length != size:
        raise FormatError(f"expected {size} bytes for shape {list(shape)}, got {len(data) - 10 - length}", where=where)
    return shaped(np.frombuffer(data, kind, offset=10 + length), shape, where)

"""The part of MessagePack that flax.serialization.to_bytes writes: maps, strings, numbers, and arrays as extension type 1.

Specification: https://github.com/msgpack/msgpack/blob/master/spec.md; the extension in flax/serialization.py: (shape, name of the
dtype, bytes in row-major order), packed again.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import FormatError, printable
from exporter.formats.arrays import shaped, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_DEPTH = 64
ARRAY = 1  # extension type
DTYPES = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
# first byte: (bytes of the length, what follows)
LENGTHS = {0xC4: (1, "bytes"), 0xC5: (2, "bytes"), 0xC6: (4, "bytes"), 0xC7: (1, "extension"), 0xC8: (2, "extension"),
           0xC9: (4, "extension"), 0xD9: (1, "text"), 0xDA: (2, "text"), 0xDB: (4, "text"), 0xDC: (2, "list"), 0xDD: (4, "list"),
           0xDE: (2, "map"), 0xDF: (4, "map")}
NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def is_map(head: bytes) -> bool:
    """Whether a file begins with a map whose first key is text: what a tree of parameters begins with."""
    at = 1 if head[:1] and 0x81 <= head[0] <= 0x8F else {0xDE: 3, 0xDF: 5}.get(head[0] if head else 0, 0)
    if not at or len(head) < at + 2:
        return False
    size = head[at] - 0xA0 if 0xA0 < head[at] <= 0xBF else head[at + 1] if head[at] == 0xD9 else 0
    start = at + (1 if head[at] != 0xD9 else 2)
    return size > 0 and all(31 < byte < 127 for byte in head[start:start + size])


def parse(data: bytes, where: str, depth: int = 0) -> Any:
    """The value of one document, `depth` levels inside another: dict, list, str, bytes, int, float, bool, None or an array.

    Raises: FormatError.
    """
    reader = _Reader(data, where)
    value = reader.value(depth)
    if reader.at != len(data):
        raise FormatError(f"{len(data) - reader.at} bytes follow the msgpack document", where=where)
    return value


class _Reader:
    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where, self.at = data, where, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise FormatError(f"expected {size} bytes at {self.at}, got {len(self.data) - self.at}: the msgpack file is cut short",
                              where=self.where)
        self.at += size
        return self.data[self.at - size:self.at]

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise FormatError(f"expected at most {MAX_DEPTH} levels of nested msgpack, got more", where=self.where)
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 256
        if first < 0xC0:
            kind = "map" if first < 0x90 else "list" if first < 0xA0 else "text"
            return self.sized(kind, first & (0x1F if kind == "text" else 0x0F), depth)
        if first in CONSTANTS:
            return CONSTANTS[first]
        if first in NUMBERS:
            return struct.unpack(NUMBERS[first], self.take(struct.calcsize(NUMBERS[first])))[0]
        if first in FIXED_EXTENSIONS:
            return self.sized("extension", FIXED_EXTENSIONS[first], depth)
        if first not in LENGTHS:
            raise FormatError(f"expected a msgpack type, got the byte {first:#x}", where=self.where)
        size, kind = LENGTHS[first]
        return self.sized(kind, int.from_bytes(self.take(size), "big"), depth)

    def sized(self, kind: str, size: int, depth: int) -> Any:
        if kind == "text":
            try:
                return self.take(size).decode()
            except UnicodeDecodeError:
                raise FormatError("expected UTF-8 text", where=self.where) from None
        if kind == "bytes":
            return self.take(size)
        if kind == "extension":
            code = self.take(1)[0]
            content = self.take(size)
            return _array(content, self.where, depth + 1) if code == ARRAY else None
        if kind == "list":
            return [self.value(depth + 1) for _ in range(size)]
        return self.map(size, depth)

    def map(self, size: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in range(size):
            key = self.value(depth + 1)
            if not isinstance(key, (str, int)):
                raise FormatError("expected a name or a number as the key of a map", where=self.where)
            if key in found:
                raise FormatError(f"the key {printable(repr(key), 60)} occurs more than once in one map", where=self.where)
            found[key] = self.value(depth + 1)
        return found


def _array(content: bytes, where: str, depth: int) -> NDArray[Any]:
    parts = parse(content, where, depth)
    if not isinstance(parts, list) or len(parts) != 3:
        raise FormatError("expected shape, dtype and bytes of an array", where=where)
    shape, dtype, raw = parts
    if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise FormatError("expected a list of sizes as an array's shape", where=where)
    if dtype not in DTYPES or not isinstance(raw, bytes):
        raise FormatError(f"expected an array of one of {', '.join(DTYPES)}, got {printable(repr(dtype), 40)}", where=where)
    itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    if len(raw) != math.prod(shape) * itemsize:
        raise FormatError(f"expected {math.prod(shape) * itemsize} bytes for shape {shape}, got {len(raw)}", where=where)
    if dtype == "bfloat16":
        return shaped(widen(np.frombuffer(raw, "<u2")), shape, where)
    return shaped(np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")), shape, where)

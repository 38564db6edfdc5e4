"""The messages in the headers of HDF5 objects, in the form in which the library writes those of nearly every Keras file.

Nothing is guessed: `other_form` leaves whatever differs to libhdf5.

Specification: HDF5 File Format 3.0, sections IV.A.1.a (headers), IV.A.2 (messages).
"""

from __future__ import annotations

import functools
import math
import struct
from typing import Any, NamedTuple, NoReturn

import numpy as np

from exporter.formats.hdf5_layout import (
    ATTRIBUTE,
    ATTRIBUTE_HEAD,
    CONTINUATION,
    DATA_LAYOUT,
    DATASPACE,
    DATATYPE,
    FILL_VALUE,
    FIRST_MESSAGE,
    MESSAGE_HEADER,
    MODIFIED,
    NOTHING,
    OBJECT_HEADER,
    PAIR,
    SYMBOL_TABLE,
    Read,
)

Message = tuple[int, bytes]
MAX_BLOCK, MAX_BLOCKS, MAX_MESSAGES = 1 << 20, 16, 1000
FLOATS: dict[bytes, tuple[str, np.dtype[Any]]] = {
    bytes.fromhex("11200f0002000000000010000a05000a0f000000"): ("float16", np.dtype("<f2")),
    bytes.fromhex("11201f000400000000002000170800177f000000"): ("float32", np.dtype("<f4")),
    bytes.fromhex("11203f000800000000004000340b0034ff030000"): ("float64", np.dtype("<f8"))}
IN_HEADERS = frozenset((NOTHING, DATASPACE, DATATYPE, FILL_VALUE, DATA_LAYOUT, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, MODIFIED))
# The types of text: of fixed length, padded with NUL (1) or ending in one (0), and of any length, each in ASCII or UTF-8.
FIXED_BYTES = 8
FIXED = {b"\x13" + bytes([charset << 4 | pad, 0, 0]): pad for pad in (0, 1) for charset in (0, 1)}
ANY_LENGTH = {b"\x19" + bytes([pad << 4 | 1, charset, 0]) + b"\x10\0\0\0" + b"\x10\0\0\0\x01\0\0\0\0\0\x08\0"
              for pad in (0, 1) for charset in (0, 1)}


class OtherFormError(Exception):
    """The object does not have the form that is read here."""


def other_form() -> NoReturn:
    raise OtherFormError


def all_messages(read: Read, address: int, block: bytes) -> list[Message]:
    """All messages of a header, which contains their number and begins with `block`."""
    head = OBJECT_HEADER.at(block)
    if head.version != 1 or head.reserved or not head.links:
        other_form()
    waiting, at = [(address + FIRST_MESSAGE, head.size)], FIRST_MESSAGE
    found: list[Message] = []
    while waiting:
        start, size = waiting.pop(0)
        if size > MAX_BLOCK or len(waiting) > MAX_BLOCKS or len(found) > MAX_MESSAGES:
            other_form()
        if start != address + FIRST_MESSAGE or len(block) < at + size:
            block, at = read(start, size), 0
        end = at + size
        if len(block) < end:
            other_form()
        while at < end:
            kind, length, flags = MESSAGE_HEADER.fields(block, at)
            begin, at = at + MESSAGE_HEADER.size, at + MESSAGE_HEADER.size + length
            if kind not in IN_HEADERS or flags > 1 or at > end:
                other_form()
            found.append((kind, block[begin:at]))
            if kind == CONTINUATION:
                waiting.append(PAIR.at(found[-1][1]))
    if len(found) != head.messages:
        other_form()
    return found


def attribute_name(data: bytes) -> bytes:
    version, reserved, length, _, _ = ATTRIBUTE_HEAD.fields(data)
    name = data[ATTRIBUTE_HEAD.size: ATTRIBUTE_HEAD.size + length]
    if version != 1 or reserved or not name or name.find(b"\0") != len(name) - 1 or not name.isascii():
        other_form()
    return name[:-1]


def dataspace(data: bytes) -> tuple[tuple[int, ...], int]:
    """A dataspace of version 1 that cannot grow, and the bytes that it takes."""
    version, rank, flags = data[0], data[1], data[2]
    if version != 1 or rank > 32 or flags > 1 or any(data[3:8]):
        other_form()
    sizes = struct.unpack_from(f"<{rank * (1 + flags)}Q", data, 8)
    shape, most = sizes[:rank], sizes[rank:]
    if flags and shape != most:
        other_form()
    return shape, 8 + 8 * len(sizes)


def is_no_value(fill: bytes) -> bool:
    """Whether a fill value message has version 2 and contains no value."""
    return fill[0] == 2 and 0 < fill[1] < 4 and fill[2] < 3 and fill[3] < 2 and fill[4:] == b"\0\0\0\0"


class TextForm(NamedTuple):
    """What an attribute's message says before its data. item: bytes of each text; size: of them all."""

    shape: tuple[int, ...]
    item: int
    size: int
    is_of_any_length: bool
    is_text: bool
    ends_in_nul: bool


@functools.lru_cache(64)  # attributes of alike layers are alike
def text_form(data: bytes) -> TextForm:
    """data: of the message, up to its data."""
    head = ATTRIBUTE_HEAD.at(data)
    kind_at = ATTRIBUTE_HEAD.size + padded(head.name)
    space_at = kind_at + padded(head.datatype)
    kind = data[kind_at: kind_at + head.datatype]
    shape, taken = dataspace(data[space_at: space_at + head.dataspace])
    item = int.from_bytes(kind[4:8], "little")
    size = math.prod(shape) * item
    is_of_any_length = kind in ANY_LENGTH
    is_text = is_of_any_length or (kind[:4] in FIXED and len(kind) == FIXED_BYTES)
    is_empty = not size and kind in FLOATS
    if not (is_empty or (is_text and size)) or taken != head.dataspace:
        other_form()
    return TextForm(shape, item, size, is_of_any_length, is_text, FIXED.get(kind[:4]) == 0)


def padded(size: int) -> int:
    return size + -size % 8

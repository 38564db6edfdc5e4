"""Protocol buffers' wire format (https://protobuf.dev/programming-guides/encoding/), without schemas.

`fields` parses one message; `Message` gives its fields by number and parses them on first use. Field numbers
are tables in the modules that use them. Damage is a FormatError: every length is checked against the remaining bytes, varints
have at most 10 bytes, messages nest at most 64 deep, groups (obsolete, used by no TensorFlow message) are refused.
"""

from __future__ import annotations

import struct

from exporter.errors import FormatError

MAX_DEPTH = 64

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
OF_VARINTS, OF_BYTES = (frozenset(number << 3 | wire for number in range(1, 16)) for wire in (VARINT, BYTES))  # tags of one byte

NOTHING = [b""]


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The unsigned 64-bit varint at `at` and the position after it."""
    if at < end and data[at] < 128:  # most have one byte
        return data[at], at + 1
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                raise FormatError("a varint of more than 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            raise FormatError("a varint of more than 10 bytes")
    raise FormatError("the data ends inside a varint")


def signed(value: int) -> int:
    """An unsigned 64-bit number as the int64 (or sign-extended int32) that was written."""
    return value - (1 << 64) if value >> 63 else value


def fields(data: bytes) -> dict[int, list[int | bytes]]:
    """The values of each field number, in order: ints for varints, bytes for all else (fixed ones: 4 or 8 bytes)."""
    found: dict[int, list[int | bytes]] = {}
    at, end = 0, len(data)
    last = end - 1
    value: int | bytes
    while at < end:
        tag = data[at]
        if at < last and tag in OF_BYTES:  # what is most frequent is read in place: this loop is much of the time that a graph takes
            size = data[at + 1]
            if size < 128:
                begin = at + 2
            elif at + 2 < end and data[at + 2] < 128:
                size, begin = size & 127 | data[at + 2] << 7, at + 3
            else:
                size, begin = varint(data, at + 1, end)
            at = begin + size
            if at > end:
                raise FormatError(f"field {tag >> 3} claims {size} bytes, but {end - begin} are left")
            number, value = tag >> 3, data[begin:at]
        elif at < last and tag in OF_VARINTS:
            number, value, at = tag >> 3, data[at + 1], at + 2
            if value > 127:
                value, at = varint(data, at - 1, end)
        else:
            number, value, at = _field(data, at, end)
        if number in found:
            found[number].append(value)
        else:
            found[number] = [value]
    return found


def _field(data: bytes, at: int, end: int) -> tuple[int, int | bytes, int]:
    """Number and value of the field at `at`, and the position after it."""
    value: int | bytes
    tag, at = varint(data, at, end)
    wire = tag & 7
    if wire == VARINT:
        value, at = varint(data, at, end)
    else:
        if wire == BYTES:
            size, at = varint(data, at, end)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise FormatError("unexpected protobuf group; these files never contain one" if wire < 5 else
                              f"expected wire type 0, 1, 2 or 5, got {wire}")
        value = data[at : at + size]
        at += size
        if at > end:
            raise FormatError(f"field {tag >> 3} claims {size} bytes, but {end - at + size} are left")
    if tag < 8:
        raise FormatError("expected a field number of at least 1, got 0")
    return tag >> 3, value, at


def fields_at(data: bytes, where: str) -> dict[int, list[int | bytes]]:
    """Like `fields`, with `where` in its errors."""
    try:  # like `located`, whose generator would take as long as parsing most messages
        return fields(data)
    except FormatError as error:
        raise error.inside(where) from None


def text_in(found: dict[int, list[int | bytes]], number: int, where: str) -> str:
    """A string of a message whose fields were parsed."""
    value = found.get(number, NOTHING)[-1]
    return str(value, "ascii") if isinstance(value, bytes) and value.isascii() else Message.of(found, where).text(number)


class Message:
    """One message. A missing field gives proto3's default (0, "", b"", False, empty); the last of a scalar's values wins.

    where: put into errors, e.g. "saved_model.pb".
    """

    __slots__ = ("_depth", "_fields", "data", "where")

    def __init__(self, data: bytes, where: str = "", depth: int = 0) -> None:
        if depth > MAX_DEPTH:
            raise FormatError(f"expected messages at most {MAX_DEPTH} levels deep, got more", where=where)
        self.data, self.where, self._depth = data, where, depth
        self._fields: dict[int, list[int | bytes]] | None = None

    @classmethod
    def of(cls, fields: dict[int, list[int | bytes]], where: str) -> Message:
        """A message of fields that are already parsed."""
        message = cls(b"", where)
        message._fields = fields
        return message

    def __contains__(self, number: int) -> bool:
        return number in self._parsed()

    def numbers(self) -> list[int]:
        """The numbers of the present fields, in the order in which they first occur."""
        return list(self._parsed())

    def unsigned(self, number: int) -> int:
        """uint32, uint64, enum."""
        found = self._parsed().get(number)
        if found is None:
            return 0
        value = found[-1]
        if not isinstance(value, int):
            raise self._mistyped(number)
        return value

    def integer(self, number: int) -> int:
        """int32, int64."""
        return signed(self.unsigned(number))

    def boolean(self, number: int) -> bool:
        return self.unsigned(number) != 0

    def raw(self, number: int) -> bytes:
        """bytes."""
        found = self._parsed().get(number)
        if found is None:
            return b""
        value = found[-1]
        if not isinstance(value, bytes):
            raise self._mistyped(number)
        return value

    def text(self, number: int) -> str:
        """string."""
        return self._decode(number, self.raw(number))

    def fixed32(self, number: int) -> int:
        """fixed32."""
        return int(self._fixed(number, "<I"))

    def single(self, number: int) -> float:
        """float."""
        return float(self._fixed(number, "<f"))

    def message(self, number: int) -> Message:
        """The sub-message, empty if there is none. Several occurrences are merged, as protobuf requires, by joining their bytes."""
        return Message(b"".join(self.raws(number)), self.where, self._depth + 1)

    def messages(self, number: int) -> list[Message]:
        """A repeated message."""
        depth = self._depth + 1
        return [Message(value, self.where, depth) for value in self.raws(number)]

    def raws(self, number: int) -> list[bytes]:
        """Repeated bytes."""
        found = self._parsed().get(number, [])
        values = [value for value in found if isinstance(value, bytes)]
        if len(values) != len(found):
            raise self._mistyped(number)
        return values

    def texts(self, number: int) -> list[str]:
        """A repeated string."""
        return [self._decode(number, value) for value in self.raws(number)]

    def unsigneds(self, number: int) -> list[int]:
        """A repeated varint field, packed or not."""
        out: list[int] = []
        for value in self._parsed().get(number, []):
            if isinstance(value, int):
                out.append(value)
                continue
            at = 0
            while at < len(value):
                one, at = varint(value, at, len(value))
                out.append(one)
        return out

    def integers(self, number: int) -> list[int]:
        """A repeated int32 or int64 field, packed or not."""
        return [signed(value) for value in self.unsigneds(number)]

    def packed(self, number: int, size: int) -> bytes:
        """A repeated field of `size`-byte fixed numbers, packed or not, as one run of little-endian bytes."""
        run = b"".join(self.raws(number))
        if len(run) % size:
            raise FormatError(f"field {number} has {len(run)} bytes, expected a multiple of {size}", where=self.where)
        return run

    def map(self, number: int) -> dict[str, Message]:
        """map<string, message>; the last of two equal keys wins."""
        return {entry.text(1): entry.message(2) for entry in self.messages(number)}

    def _parsed(self) -> dict[int, list[int | bytes]]:
        found = self._fields
        if found is None:
            found = self._fields = fields_at(self.data, self.where)
        return found

    def _mistyped(self, number: int) -> FormatError:
        return FormatError(f"field {number} has the wrong wire type", where=self.where)

    def _fixed(self, number: int, form: str) -> int | float:
        if number not in self:
            return 0
        value = self.raw(number)
        if len(value) != struct.calcsize(form):
            raise FormatError(f"field {number} has {len(value)} bytes, expected {struct.calcsize(form)}", where=self.where)
        unpacked: int | float = struct.unpack(form, value)[0]
        return unpacked

    def _decode(self, number: int, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise FormatError(f"field {number} is not UTF-8 text", where=self.where) from None

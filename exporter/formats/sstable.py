"""The sorted string table that TensorFlow took from LevelDB (tsl/lib/io/table_format.txt): keys with values in blocks.

Only the required blocks are read; the CRC of each is verified before its contents are used. Every length is bounded by
the remaining bytes, and every key must be greater than the one before it.
"""

from __future__ import annotations

import bisect
import struct
import warnings
from collections.abc import Iterator

from exporter.errors import FormatError, located
from exporter.files.input_file import InputFile
from exporter.files.place import MiB, Place
from exporter.formats.protobuf import varint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # if its C extension cannot be loaded, it warns and computes the same in Python
    import google_crc32c

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # two handles padded with zeros to 40 bytes, then the magic number
TRAILER = 5  # after each block: one byte of compression, its masked CRC-32C
NO_COMPRESSION, SNAPPY = 0, 1
MAX_BLOCK = 256 * MiB
MAX_KEYS = 32 * MiB  # keys of one block with their shared prefixes expanded: a few hundred bytes can ask for gigabytes
BLOCKS_KEPT = 8

Entry = tuple[bytes, bytes]
Handle = tuple[int, int]


def masked_crc(data: bytes) -> int:
    """The CRC-32C of `data` (RFC 3720, appendix B.4), rotated and offset, as in tsl/lib/hash/crc32c.h (a CRC stored beside its data is a
    poor check of both)."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def is_table(place: Place) -> bool:
    """Whether the file ends in a table's magic number."""
    if not place.is_file() or place.size() < FOOTER:
        return False
    with place.open() as file:
        file.seek(-8, 2)
        return file.read(8) == struct.pack("<Q", MAGIC)


class Table:
    """An open table. `close` it, or use it in a `with` statement.

    Raises FormatError on damage, here and in each method.
    """

    def __init__(self, place: Place) -> None:
        self.where = place.name
        self._size = place.size()
        if self._size < FOOTER:
            raise FormatError(f"{self._size} bytes; the file is {'empty' if not self._size else 'cut short'}", where=self.where)
        self._file: InputFile = place.open()
        self._kept: dict[int, list[Entry]] = {}
        try:
            self._read_index()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        number = bisect.bisect_left(self._last_keys, key)
        if number == len(self._last_keys):
            return None
        entries = self._block(number)
        at = bisect.bisect_left(entries, (key,))
        return entries[at][1] if at < len(entries) and entries[at][0] == key else None

    def items(self) -> Iterator[Entry]:
        """All keys and values, in the keys' order."""
        for number in range(len(self._last_keys)):
            yield from self._block(number)

    def _read_index(self) -> None:
        footer = self._read(self._size - FOOTER, FOOTER)
        if struct.unpack("<Q", footer[-8:])[0] != MAGIC:
            raise FormatError("this is not a TensorFlow checkpoint index, or the file is cut short", where=self.where)
        with located(self.where):
            meta, end = _handle(footer, 0)
            index, end = _handle(footer, end)
        if end > 40 or any(footer[end:40]):
            raise FormatError("bad footer", where=self.where)
        self._entries(meta)  # empty in every file that TensorFlow writes; its CRC still reveals damage
        blocks = self._entries(index)
        self._last_keys = [key for key, _ in blocks]
        self._handles = [_handle(value, 0)[0] for _, value in blocks]

    def _block(self, number: int) -> list[Entry]:
        entries = self._kept.get(number)
        if entries is None:
            entries = self._entries(self._handles[number])
            if not entries or entries[-1][0] > self._last_keys[number] or (number and entries[0][0] <= self._last_keys[number - 1]):
                raise FormatError("the keys of a block do not match the index: keys out of order", where=self.where)
            if len(self._kept) >= BLOCKS_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[number] = entries
        return entries

    def _entries(self, handle: Handle) -> list[Entry]:
        with located(self.where):
            return list(_parse(self._contents(*handle)))

    def _contents(self, offset: int, size: int) -> bytes:
        if offset + size + TRAILER > self._size - FOOTER:
            raise FormatError("a block is outside the file, which may be cut short")
        if size > MAX_BLOCK:
            raise FormatError(f"expected a block of at most {MAX_BLOCK} bytes, got {size}")
        raw = self._read(offset, size + TRAILER)
        kind, crc = struct.unpack("<BI", raw[size:])
        if masked_crc(raw[: size + 1]) != crc:
            raise FormatError("the file is damaged: the CRC of a block does not match")
        if kind == SNAPPY:
            return unsnappy(raw[:size], MAX_BLOCK)
        if kind != NO_COMPRESSION:
            raise FormatError(f"unknown compression of a block: {kind}")
        return raw[:size]

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise FormatError("the file was truncated while it was being read", where=self.where)
        return data


def _handle(data: bytes, at: int) -> tuple[Handle, int]:
    offset, at = varint(data, at, len(data))
    size, at = varint(data, at, len(data))
    return (offset, size), at


def _parse(block: bytes) -> Iterator[Entry]:
    """The entries of one block: each key is stored with the length of the prefix that it shares with the previous key."""
    if len(block) < 4:
        raise FormatError("bad block: no terminator")
    end = len(block) - 4 * (1 + int(struct.unpack("<I", block[-4:])[0]))
    if end < 0:
        raise FormatError("bad block: more restart points than bytes")
    at = spelled = 0
    key: bytes | None = None
    while at < end:
        shared, at = varint(block, at, end)
        fresh, at = varint(block, at, end)
        length, at = varint(block, at, end)
        before = key or b""
        if shared > len(before) or fresh + length > end - at:
            raise FormatError("bad entry: it is longer than its block, or shares more than the key before it has")
        found = before[:shared] + block[at : at + fresh]
        if key is not None and found <= key:
            raise FormatError("a key occurs more than once" if found == key else "keys out of order")
        key = found
        spelled += len(key)
        if spelled > MAX_KEYS:
            raise FormatError(f"expected at most {MAX_KEYS} bytes of keys in one block, got more")
        at += fresh
        yield key, block[at : at + length]
        at += length


def unsnappy(data: bytes, limit: int) -> bytes:
    """Decompresses one snappy block (google/snappy, format_description.txt) of at most `limit` bytes."""
    size, at = varint(data, 0, len(data))
    if size > limit or size > 32 * len(data):  # the densest element gives 64 bytes for 3
        raise FormatError(f"a compressed block cannot be read: it declares {size} bytes")
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        if tag & 3 == 0:
            length = (tag >> 2) + 1
            extra = max(length - 60, 0)
            if extra:
                length = int.from_bytes(data[at : at + extra], "little") + 1
            at += extra
            out += data[at : at + length]  # one that is too long, or that the data lacks a part of, gives another size than it should
            at += length
            continue
        extra = (1, 2, 4)[(tag & 3) - 1]
        if extra > len(data) - at:
            raise FormatError("a compressed block cannot be read: it ends inside a copy")
        offset = int.from_bytes(data[at : at + extra], "little")
        length = (tag >> 2) + 1
        if extra == 1:
            offset, length = (tag >> 5) << 8 | offset, (tag >> 2 & 7) + 4
        at += extra
        if not 0 < offset <= len(out) or len(out) + length > size:
            raise FormatError("a compressed block cannot be read: a copy points outside")
        start = len(out) - offset
        piece = bytes(out[start : start + length])
        out += (piece * (length // len(piece) + 1))[:length]  # a copy may overlap what it writes
    if len(out) != size:
        raise FormatError(f"a compressed block cannot be read: expected {size} bytes, got {len(out)}")
    return bytes(out)

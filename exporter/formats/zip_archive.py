"""Zip archives, read only and in place: stored members are views of the archive; nothing is ever unpacked to disk.

Stricter than `zipfile`, which accepts two members of one name (and uses the last), bytes before the archive, and local headers that
contradict the directory: a file that two readers understand differently is refused.

Specification: APPNOTE 6.3.10, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (section numbers below).
"""

from __future__ import annotations

import bisect
import dataclasses
import io
import stat
import struct
import zlib
from typing import NamedTuple, cast

from exporter.errors import FormatError, UnsupportedError, printable
from exporter.files.input_file import InputFile, MemoryFile, PieceFile
from exporter.files.place import MiB, Place
from exporter.formats.layout import Layout

MAGIC = (b"PK\3\4", b"PK\5\6")  # a first member, or an archive without any

MAX_MEMBERS = 10_000
MAX_DIRECTORY = 4 * MiB
MAX_TEXT = 64 * MiB
MAX_INFLATED = 256 * MiB  # of a deflated member, which is kept in memory; above 64 MiB, at most 100 times its packed size
MAX_RATIO = 100
MAX_OVERHEAD = 4096  # bytes that the packed form of a few may take beside them
# A stored member up to this size is read once to check its CRC-32 (3 ms). Of a larger one, only the parts that are used are
# read, so that the cost depends on the batch norms and not on the model. An .h5 file has no checksum at all.
MAX_CHECKED = 16 * MiB
MAX_CHECKED_FAR_AWAY = MiB // 2  # of a remote file, of which only ranges are fetched

STORED, DEFLATED = 0, 8
ENCRYPTED = 0x2041  # flags (4.4.4): encrypted, strongly encrypted, its directory encrypted
NUMBERS_BEHIND = 8  # flag: CRC-32 and sizes follow the data, and the local header contains zeros for what was not known yet
CUT_SHORT = "the zip archive is cut short: the central directory at its end is missing"
AGAIN = "copy or download the file again"


class LocalHeader(NamedTuple):
    """Before a member's data (4.3.7); name and extra field follow."""

    signature: bytes
    version: int
    flags: int
    method: int
    time: int
    crc: int
    packed_size: int
    size: int
    name_length: int
    extra_length: int


class DirectoryEntry(NamedTuple):
    """A member in the directory (4.3.12); name, extra field and comment follow."""

    signature: bytes
    made_by: int
    version: int
    flags: int
    method: int
    time: int
    crc: int
    packed_size: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal_attributes: int
    attributes: int
    offset: int


class EndRecord(NamedTuple):
    """At the end of the archive (4.3.16); a comment follows. here, members: how many on this disk, and in all."""

    signature: bytes
    disk: int
    first_disk: int
    here: int
    members: int
    length: int
    start: int
    comment_length: int


class EndRecord64(NamedTuple):
    """The zip64 version with wider numbers (4.3.14)."""

    signature: bytes
    record_size: int
    made_by: int
    version: int
    disk: int
    first_disk: int
    here: int
    members: int
    length: int
    start: int


class Locator64(NamedTuple):
    """Between the two: the location of the zip64 record (4.3.15)."""

    signature: bytes
    disk: int
    record: int
    disks: int


LOCAL_HEADER = Layout(LocalHeader, "<4sHHHIIIIHH")
DIRECTORY_ENTRY = Layout(DirectoryEntry, "<4sHHHHIIIIHHHHHII")
END_RECORD = Layout(EndRecord, "<4sHHHHIIH")
END_RECORD_64 = Layout(EndRecord64, "<4sQHHIIQQQQ")
LOCATOR_64 = Layout(Locator64, "<4sIQI")


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One entry of the directory (4.3.12)."""

    name: str
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    offset: int
    mode: int

    @property
    def is_regular(self) -> bool:
        return stat.S_IFMT(self.mode) in (0, stat.S_IFREG)

    @property
    def is_unsafe(self) -> bool:
        """Whether unpacking it could write outside the folder: worth a warning, although nothing is unpacked here."""
        pieces = self.name.replace("\\", "/").split("/")
        special = not self.is_regular and not self.name.endswith("/")
        return special or ".." in pieces or pieces[0] == "" or ":" in pieces[0]


class Archive:
    """The members of a zip archive. The caller has to close the file.

    Raises FormatError if the archive is damaged, cut short or ambiguous.
    """

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._largest_checked = MAX_CHECKED_FAR_AWAY if file.is_far else MAX_CHECKED
        size = file.seek(0, io.SEEK_END)
        count, self._start, length = _end_record(file, size)
        file.seek(self._start)
        self.members = _directory(file.read(length), count)
        self._named: dict[str, list[Member]] = {}
        for member in self.members:
            self._named.setdefault(member.name, []).append(member)
        self._offsets = sorted(member.offset for member in self.members)

    def warnings(self) -> list[str]:
        """A warning for each member that no valid model archive contains. They are ignored."""
        return [f"the archive's member {printable(member.name, 80)!r} has an unsafe name or is a link; it is ignored"
                for member in self.members if member.is_unsafe]

    def __contains__(self, name: object) -> bool:
        return name in self._named

    def read(self, name: str, limit: int = MAX_TEXT) -> bytes:
        """All bytes of a member, checked against its CRC-32; an error if it has more than `limit`."""
        member = self.member(name)
        if member.size > limit:
            raise FormatError(f"expected at most {limit} bytes in this member, got {member.size}", where=name)
        with self.open(name) as file:
            data = file.read()
        if member.size > self._largest_checked:
            _check_crc(member, data)
        return data

    def open(self, name: str) -> InputFile:
        """A member as a seekable file: a stored one in place, a deflated one inflated in memory."""
        member = self.member(name)
        start = self._data_of(member)
        if member.method == DEFLATED:
            return MemoryFile(self._inflated(member, start))
        if member.size <= self._largest_checked:
            self._file.seek(start)
            _check_crc(member, self._file.read(member.size))
        return cast(InputFile, Window(self._file, start, member.size))

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a member; no more is read or inflated, so its CRC-32 is not checked."""
        member = self.member(name)
        self._file.seek(self._data_of(member))
        if member.method == STORED:
            return self._file.read(min(count, member.size))
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(self._file.read(min(count + MAX_OVERHEAD, member.packed_size)), count)
        except zlib.error as error:
            raise FormatError(f"it cannot be decompressed: {error}", where=member.name, hint=AGAIN) from None

    def member(self, name: str) -> Member:
        """The one member of this name, if it can be read: not encrypted, stored or deflated, a regular file."""
        found = self._named.get(name, [])
        if len(found) != 1:
            raise self._not_one(name, len(found))
        member = found[0]
        if member.flags & ENCRYPTED:
            raise UnsupportedError("the archive is encrypted", where=name, hint="decrypt it first")
        if not member.is_regular:
            raise FormatError("this member of the archive is a symbolic link or another special file, not a file", where=name)
        if member.method not in (STORED, DEFLATED):
            raise UnsupportedError(f"expected a stored or deflated member, got compression method {member.method}", where=name)
        if member.method == STORED and member.packed_size != member.size:
            raise FormatError(f"expected the declared {member.size} bytes, got {member.packed_size} stored", where=name, hint=AGAIN)
        return member

    def _not_one(self, name: str, count: int) -> FormatError:
        if count:
            return FormatError(f"{name} occurs {count} times in the archive, so which one is meant is ambiguous")
        inner = [member.name for member in self.members if member.name.endswith(f"/{name}")]
        if inner:
            return FormatError(f"{name} is not at the top of the archive but at {printable(inner[0], 120)!r}",
                               hint="the archive was repacked by hand: unpack it and pass the folder of the model")
        return FormatError(f"{name} is missing from the archive")

    def _data_of(self, member: Member) -> int:
        """Where a member's data starts, after comparing its local header (4.3.7) with the directory."""
        after = bisect.bisect_right(self._offsets, member.offset)
        end = self._offsets[after] if after < len(self._offsets) else self._start
        if after > 1 and self._offsets[after - 2] == member.offset:
            raise FormatError("two members of the archive overlap", where=member.name)
        self._file.seek(member.offset)
        block = self._file.read(LOCAL_HEADER.size)
        if len(block) < LOCAL_HEADER.size or block[:4] != b"PK\3\4":
            raise FormatError("its header is not at the offset that the archive's directory gives", where=member.name, hint=AGAIN)
        header = LOCAL_HEADER.at(block)
        name, extra = self._file.read(header.name_length), self._file.read(header.extra_length)
        start: int = member.offset + LOCAL_HEADER.size + header.name_length + header.extra_length
        size, packed_size, _ = _wide(extra, header.size, header.packed_size, 0, member.name)
        said = (_decoded(name, header.flags), header.flags & ENCRYPTED, header.method, header.crc, packed_size, size)
        known = (member.name, 0, member.method, member.crc, member.packed_size, member.size)
        if said != known and not (header.flags & NUMBERS_BEHIND and said[:3] == known[:3] and all(
                number in (0, other) for number, other in zip(said[3:], known[3:], strict=True))):
            raise FormatError("its header and the archive's directory disagree about it", where=member.name, hint=AGAIN)
        if start + member.packed_size > end:
            raise FormatError(f"its size of {member.packed_size} bytes exceeds the archive", where=member.name, hint=AGAIN)
        return start

    def _inflated(self, member: Member, start: int) -> bytes:
        if member.size > min(MAX_INFLATED, max(MAX_TEXT, MAX_RATIO * member.packed_size)):
            raise FormatError(f"it decompresses from {member.packed_size} to {member.size} bytes, a higher ratio than is allowed",
                              where=member.name, hint="Keras stores models without compression; save it again with Keras")
        self._file.seek(start)
        packed = self._file.read(member.packed_size)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(packed, member.size + 1)
        except zlib.error as error:
            raise FormatError(f"it cannot be decompressed: {error}", where=member.name, hint=AGAIN) from None
        if len(data) != member.size or not inflater.eof or inflater.unused_data:
            raise FormatError(f"it does not decompress to the declared {member.size} bytes", where=member.name, hint=AGAIN)
        _check_crc(member, data)
        return data


def names_in(place: Place) -> list[str] | None:
    """The names of the members of a zip archive, each once; None: it is damaged."""
    with place.open() as file:
        try:
            return [*Archive(file)._named]
        except FormatError:
            return None


class Window(PieceFile):
    """A part of a file as a separate file."""

    def __init__(self, file: InputFile, start: int, size: int) -> None:
        super().__init__(size)
        self._file, self._start, self.is_far = file, start, file.is_far

    def read_at(self, at: int, size: int) -> bytes:
        """As in InputFile."""
        return self._file.read_at(self._start + at, max(0, min(size, self._size - at)))

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None:
        self._file.fetch_ahead([(self._start + first, self._start + end) for first, end in ranges])


def _check_crc(member: Member, data: bytes) -> None:
    if zlib.crc32(data) != member.crc:
        raise FormatError("it is damaged: its CRC-32 does not match the archive's", where=member.name, hint=AGAIN)


def _end_record(file: InputFile, size: int) -> tuple[int, int, int]:
    """(members, start, length) of the directory, from the record that ends the archive (4.3.16, with zip64 4.3.14)."""
    tail_size = min(size, END_RECORD.size + 0xFFFF)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < END_RECORD.size:
        raise FormatError(CUT_SHORT, hint=AGAIN)
    record = END_RECORD.at(tail, at)
    if len(tail) - at - END_RECORD.size != record.comment_length:
        raise FormatError("the zip archive is cut short, or bytes follow its end", hint=AGAIN)
    end = size - tail_size + at
    here, count, length, start = record.here, record.members, record.length, record.start
    if 0xFFFF in (count, here) or 0xFFFFFFFF in (length, start):
        end, here, count, length, start = _end_record_64(file, end)
    if record.disk or record.first_disk or here != count:
        raise UnsupportedError("this is one part of a multi-part zip archive", hint="join the parts first")
    if count > MAX_MEMBERS or length > MAX_DIRECTORY:
        raise FormatError(f"expected at most {MAX_MEMBERS} members in {MAX_DIRECTORY} bytes of directory, got {count} in {length}")
    if start + length != end:
        raise FormatError("the zip archive's directory is not at the recorded offset: bytes are missing, or others were put before it",
                          hint=AGAIN)
    return count, start, length


def _end_record_64(file: InputFile, end: int) -> tuple[int, int, int, int, int]:
    """(start of the record, members on this disk, members, length, start) from the zip64 record before the end."""
    record_at = end - END_RECORD_64.size - LOCATOR_64.size
    file.seek(max(0, record_at))
    block = file.read(END_RECORD_64.size + LOCATOR_64.size)
    if len(block) < END_RECORD_64.size + LOCATOR_64.size or not block.startswith(b"PK\6\6") or block[END_RECORD_64.size:][:4] != b"PK\6\7":
        raise FormatError("the zip64 record of the archive is missing", hint=AGAIN)
    record = END_RECORD_64.at(block)
    return record_at, record.here, record.members, record.length, record.start


def _directory(data: bytes, count: int) -> list[Member]:
    members = []
    at = 0
    while at < len(data):
        if data[at: at + 4] != b"PK\1\2" or len(data) - at < DIRECTORY_ENTRY.size:
            raise FormatError("the zip archive's directory is damaged", hint=AGAIN)
        entry = DIRECTORY_ENTRY.at(data, at)
        at += DIRECTORY_ENTRY.size
        name = _decoded(data[at: at + entry.name_length], entry.flags)
        at += entry.name_length
        size, packed_size, offset = _wide(data[at: at + entry.extra_length], entry.size, entry.packed_size, entry.offset, name)
        members.append(Member(name, entry.flags, entry.method, entry.crc, packed_size, size, offset, entry.attributes >> 16))
        at += entry.extra_length + entry.comment_length
    if at != len(data) or len(members) != count:
        raise FormatError("the zip archive's directory is damaged", hint=AGAIN)
    return members


def _wide(extra: bytes, size: int, packed_size: int, offset: int, name: str) -> tuple[int, int, int]:
    """The three numbers, each taken from the zip64 extra field (4.5.3) if it does not fit 32 bits."""
    values = [size, packed_size, offset]
    narrow = [i for i, value in enumerate(values) if value == 0xFFFFFFFF]
    at = 0
    while narrow and at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at: at + 4])
        field = extra[at + 4: at + 4 + length]
        if kind == 1 and len(field) >= 8 * len(narrow):
            for number, i in enumerate(narrow):
                values[i] = int.from_bytes(field[8 * number: 8 * number + 8], "little")
            narrow = []
        at += 4 + length
    if narrow:
        raise FormatError("a size or offset above 4 GiB is missing", where=printable(name, 80), hint=AGAIN)
    return values[0], values[1], values[2]


def _decoded(name: bytes, flags: int) -> str:
    return name.decode("utf-8" if flags & 0x800 else "cp437", "surrogateescape")

"""Zip archives: members in place, nothing ambiguous, nothing unpacked."""

from __future__ import annotations

import os
import random
import stat
import struct
import zipfile
import zlib

import pytest

from exporter.errors import ExporterError, FormatError, UnsupportedError
from exporter.files.input_file import MemoryFile
from exporter.files.place import Place
from exporter.formats import zip_archive
from exporter.formats.zip_archive import Archive
from exporter.formats.zip_writer import stored_zip

CONFIG, WEIGHTS = b'{"a": 1}' * 30, bytes(range(256)) * 40


def packed(*members, compression=zipfile.ZIP_STORED):
    """An archive of (name or ZipInfo, data)."""
    buffer = MemoryFile()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


GOOD = packed(("config.json", CONFIG), ("model.weights.h5", WEIGHTS))


def refused(data, name="config.json", kind=FormatError):
    with pytest.raises(kind) as error:
        Archive(MemoryFile(data)).open(name)
    return str(error.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read(compression):
    data = packed(("config.json", CONFIG), ("model.weights.h5", WEIGHTS), ("empty", b""), ("é/ü.txt", b"x"), compression=compression)
    archive = Archive(MemoryFile(data))
    assert archive.read("config.json") == CONFIG
    assert archive.read("empty") == b""
    assert archive.read("é/ü.txt") == b"x"
    assert ("config.json" in archive, "none" in archive) == (True, False)
    assert archive.warnings() == []
    with archive.open("model.weights.h5") as file:
        assert file.read() == WEIGHTS
        assert file.seek(-10, os.SEEK_END) == len(WEIGHTS) - 10
        assert file.read(100) == WEIGHTS[-10:]
        assert file.read(5) == b""
        assert file.seek(300) == file.tell() == 300
        assert (file.read(7), file.tell()) == (WEIGHTS[300:307], 307)
        assert file.seek(3, os.SEEK_CUR) == 310


def test_a_stored_member_is_a_window_and_not_a_copy():
    file = Archive(MemoryFile(GOOD)).open("model.weights.h5")
    assert isinstance(file, zip_archive.Window)
    assert file.readable()
    assert file.seekable()


def test_written_as_keras_writes_weights(tmp_path):
    """Keras writes the weights through ZipFile.open, with room for a size of 64 bits."""
    with zipfile.ZipFile(tmp_path / "k", "w") as archive:
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            member.write(WEIGHTS)
        archive.writestr("config.json", CONFIG)
    with Place(tmp_path / "k").open() as file:
        assert Archive(file).open("model.weights.h5").read() == WEIGHTS


def test_written_to_a_stream():
    """Sizes and CRC then stand behind the data."""

    class Stream(MemoryFile):
        def seekable(self):
            return False

        def seek(self, *_):
            raise OSError

        def tell(self):
            raise OSError

    buffer = Stream()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", CONFIG)
        archive.writestr("model.weights.h5", WEIGHTS)
    archive = Archive(MemoryFile(buffer.getvalue()))
    assert (archive.read("config.json"), archive.read("model.weights.h5")) == (CONFIG, WEIGHTS)


def as_zip64(data):
    """The same archive with a zip64 end: the fields of the plain one all ones."""
    end = data.rfind(b"PK\5\6")
    _, _, count, _, length, start, _ = struct.unpack("<HHHHIIH", data[end + 4:])
    record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, length, start)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, end, 1)
    return data[:end] + record + locator + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def test_zip64():
    data = as_zip64(GOOD)
    assert Archive(MemoryFile(data)).read("config.json") == CONFIG
    for damaged in (data.replace(b"PK\6\6", b"PK\7\7"), data.replace(b"PK\6\7", b"PK\7\7"), data[data.rfind(b"PK\5\6"):]):
        assert "zip64 record" in refused(damaged)


@pytest.mark.parametrize(("at", "form", "value"), [(8, "<HH", (0xFFFF, 0xFFFF)), (12, "<I", (0xFFFFFFFF,)), (16, "<I", (0xFFFFFFFF,))],
                         ids=["members", "length", "start"])
def test_any_number_that_does_not_fit_is_in_the_zip64_record(at, form, value):
    """The others stand in the plain record as they are."""
    data = bytearray(as_zip64(GOOD))
    plain = bytes(GOOD[GOOD.rfind(b"PK\5\6"):])
    end = data.rfind(b"PK\5\6")
    data[end:] = plain
    struct.pack_into(form, data, end + at, *value)
    assert Archive(MemoryFile(bytes(data))).read("config.json") == CONFIG


def test_numbers_behind_the_data_are_those_of_the_directory_only_where_the_header_says_so():
    data = bytearray(GOOD)
    struct.pack_into("<III", data, 14, 0, 0, 0)
    assert "disagree" in refused(bytes(data))
    for start, offset in ((0, 6), (data.find(b"PK\1\2"), 8)):
        struct.pack_into("<H", data, start + offset, 8)
    assert Archive(MemoryFile(bytes(data))).read("config.json") == CONFIG


@pytest.mark.parametrize("at", [14, 18, 22], ids=["CRC", "packed size", "size"])
def test_some_numbers_behind_the_data(at):
    """Info-ZIP's zip knows the size of a file that it packs into a pipe: it was refused."""
    data = bytearray(GOOD)
    known = data[at:at + 4]
    struct.pack_into("<III", data, 14, 0, 0, 0)
    for start, offset in ((0, 6), (data.find(b"PK\1\2"), 8)):
        struct.pack_into("<H", data, start + offset, 8)
    data[at:at + 4] = known
    assert Archive(MemoryFile(bytes(data))).read("config.json") == CONFIG
    data[at] ^= 1
    assert "disagree" in refused(bytes(data))


@pytest.mark.parametrize("size", [0, 3, 30, 200, len(GOOD) // 2, len(GOOD) - 60, len(GOOD) - 1])
def test_cut_short(size):
    assert "cut short" in refused(GOOD[:size])


def test_other_damage():
    assert "others were put before it" in refused(b"#!/bin/sh\n" + GOOD)
    assert "bytes follow its end" in refused(GOOD + b"more")
    assert "directory is damaged" in refused(GOOD.replace(b"PK\1\2", b"PK\1\3", 1))
    assert "its header is not at the offset that the archive's directory gives" in refused(GOOD.replace(b"PK\3\4", b"PK\3\5", 1))
    assert "config.json: it is damaged: its CRC-32" in refused(GOOD.replace(CONFIG, CONFIG[:-1] + b"?"))
    assert "model.weights.h5: it is damaged" in refused(GOOD.replace(WEIGHTS, WEIGHTS[:-1] + b"?"), "model.weights.h5")


def test_a_directory_of_more_or_fewer_members_than_the_archive_says():
    at = GOOD.rfind(b"PK\5\6")
    for form, place, values in (("<HH", at + 8, (1, 1)), ("<HH", at + 8, (3, 3)), ("<H", GOOD.rfind(b"PK\1\2") + 32, (1,))):
        data = bytearray(GOOD)
        struct.pack_into(form, data, place, *values)
        assert "directory is damaged" in refused(bytes(data))
    whole = packed(("config.json", CONFIG))
    end = whole.rfind(b"PK\5\6")
    cut = bytearray(whole[:end - 20] + whole[end:])
    struct.pack_into("<I", cut, end - 20 + 12, end - 20 - whole.rfind(b"PK\1\2"))
    assert "directory is damaged" in refused(bytes(cut))


def test_a_comment_of_any_length_is_no_part_of_the_archive():
    for length in (1, 0xFFFF):
        data = bytearray(GOOD)
        struct.pack_into("<H", data, len(data) - 2, length)
        assert Archive(MemoryFile(bytes(data) + b"c" * length)).read("config.json") == CONFIG


def test_comments_and_extra_fields_of_members_are_passed_over():
    infos = [zipfile.ZipInfo(name) for name in ("a", "b", "c")]
    for info in infos:
        info.comment, info.extra = b"said of " + info.filename.encode(), b"\x99\x99\3\0" + b"own"
    archive = Archive(MemoryFile(packed(*[(info, info.filename.encode() * 9) for info in infos])))
    assert [archive.read(name) for name in ("c", "a", "b")] == [b"c" * 9, b"a" * 9, b"b" * 9]


def test_a_name_in_the_code_page_of_dos():
    """Without the flag for UTF-8."""
    archive = Archive(MemoryFile(packed(("cafX.json", CONFIG)).replace(b"cafX", b"caf\x82")))
    assert archive.read("café.json") == CONFIG


@pytest.mark.parametrize(("flush", "behind"), [(zlib.Z_SYNC_FLUSH, b""), (zlib.Z_FINISH, b"more")])
def test_a_deflated_stream_that_does_not_end_where_its_member_does(flush, behind):
    """Its numbers and its CRC-32 are right."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    stream = packer.compress(CONFIG) + packer.flush(flush) + behind
    data = bytearray(packed(("config.json", stream)))
    for start, offset in ((0, 8), (data.find(b"PK\1\2"), 10)):
        struct.pack_into("<H", data, start + offset, zipfile.ZIP_DEFLATED)
        struct.pack_into("<III", data, start + offset + 6, zlib.crc32(CONFIG), len(stream), len(CONFIG))
    assert f"does not decompress to the declared {len(CONFIG)} bytes" in refused(bytes(data))


def test_a_part_of_a_file_has_its_own_places():
    asked = []

    class Far(MemoryFile):
        is_far = True

        def fetch_ahead(self, ranges):
            asked.extend(ranges)

    part = zip_archive.Window(Far(bytes(range(100))), 10, 20)
    assert part.is_far
    part.fetch_ahead([(0, 3), (5, 20)])
    assert asked == [(10, 13), (15, 30)]
    assert [part.read_at(*where) for where in ((0, 2), (18, 5), (20, 5), (25, 5))] == [b"\x0a\x0b", b"\x1c\x1d", b"", b""]
    assert (part.seek(-5), part.read(1), part.seek(25), part.read(1)) == (0, b"\x0a", 25, b"")


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_two_mebibytes_of_little_text_are_no_bomb(name):
    """A config of zeros packs a thousand to one; up to 64 MiB that is nobody's harm."""
    text = b" " * (2 << 20)
    assert Archive(MemoryFile(packed((name, text), compression=zipfile.ZIP_DEFLATED))).read(name) == text


def test_what_is_missing_or_ambiguous():
    assert "config.json is missing" in refused(packed(("other", b"")))
    assert "at 'model/config.json'" in refused(packed(("model/config.json", CONFIG), ("other/config.json", CONFIG)))
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = packed(("config.json", CONFIG), ("config.json", b"{}"))
    assert "occurs 2 times" in refused(twice)
    assert "is missing" in refused(packed())


def test_encrypted_linked_and_strange_members():
    def changed(flags=0, method=None):
        data = bytearray(GOOD)
        for start, at in ((data.find(b"PK\3\4"), 6), (data.find(b"PK\1\2"), 8)):
            struct.pack_into("<H", data, start + at, flags)
            if method is not None:
                struct.pack_into("<H", data, start + at + 2, method)
        return bytes(data)

    assert "encrypted" in refused(changed(1), kind=UnsupportedError)
    assert "method 12" in refused(changed(method=12), kind=UnsupportedError)
    link = zipfile.ZipInfo("config.json")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    assert "symbolic link" in refused(packed((link, b"/etc/passwd")))


def test_headers_that_disagree():
    data = bytearray(GOOD)
    struct.pack_into("<I", data, 18, 17)  # the packed size in the local header
    assert "disagree" in refused(bytes(data))
    assert "disagree" in refused(GOOD.replace(b"config.json", b"konfig.json", 1))
    data = bytearray(GOOD)
    at = data.find(b"PK\1\2")
    for start, offset in ((0, 18), (at, 20)):
        struct.pack_into("<II", data, start + offset, 1 << 30, 1 << 30)
    assert "exceeds the archive" in refused(bytes(data))
    second = data.find(b"PK\1\2", at + 1)
    struct.pack_into("<I", data, second + 42, 0)
    assert "two members of the archive overlap" in refused(bytes(data))


@pytest.mark.parametrize(("more", "said"), [(0, None), (1, "exceeds the archive")])
def test_a_member_that_reaches_into_the_next(more, said):
    """By one byte; the last ends where the directory begins."""
    for name, data in (("config.json", CONFIG), ("model.weights.h5", WEIGHTS)):
        changed = bytearray(GOOD)
        size = len(data) + more
        struct.pack_into("<II", changed, GOOD.find(name.encode()) - 12, size, size)
        struct.pack_into("<II", changed, GOOD.rfind(name.encode()) - 26, size, size)
        if said is None:
            assert bytes(changed) == GOOD
        else:
            assert f"its size of {size} bytes exceeds the archive" in refused(bytes(changed), name)


@pytest.mark.parametrize(("disk", "first_disk", "here"), [(1, 0, 2), (0, 1, 2), (0, 0, 1), (0, 0, 3)])
def test_a_part_of_an_archive_in_several(disk, first_disk, here):
    data = bytearray(GOOD)
    struct.pack_into("<HHH", data, data.rfind(b"PK\5\6") + 4, disk, first_disk, here)
    assert "one part of a multi-part zip archive" in refused(bytes(data), kind=UnsupportedError)


ALL = 0xFFFFFFFF


@pytest.mark.parametrize(("extra", "given", "found"), [
    (b"", (1, 2, 3), (1, 2, 3)), (struct.pack("<HHQ", 1, 8, 9), (1, 2, ALL), (1, 2, 9)), (struct.pack("<HHQ", 1, 8, 9), (ALL, 2, 3),
    (9, 2, 3)),
    (struct.pack("<HHQQQ", 1, 24, 7, 8, 9), (ALL, ALL, ALL), (7, 8, 9)), (struct.pack("<HHQQ", 1, 16, 7, 8), (1, ALL, ALL), (1, 7, 8)),
    (struct.pack("<HHQ", 1, 8, 9), (1, 2, 3), (1, 2, 3)), (struct.pack("<HH3sHHQ", 5, 3, b"xyz", 1, 8, 9), (1, 2, ALL), (1, 2, 9)),
    (struct.pack("<HHQ", 2, 8, 9), (1, 2, ALL), None), (struct.pack("<HHQ", 1, 8, 9), (1, ALL, ALL), None), (b"", (ALL, 2, 3), None),
    (struct.pack("<HHI", 1, 4, 9), (1, 2, ALL), None), (b"\1\0\x08", (1, 2, ALL), None),
    (struct.pack("<HHQHHQ", 1, 8, 9, 1, 8, 10), (1, 2, ALL), (1, 2, 9))])
def test_numbers_of_more_than_32_bits(extra, given, found):
    if found is None:
        with pytest.raises(FormatError, match="m: a size or offset above 4 GiB is missing"):
            zip_archive._wide(extra, *given, "m")
        return
    assert zip_archive._wide(extra, *given, "m") == found


def test_a_directory_with_a_number_of_more_than_32_bits():
    whole = packed(("config.json", CONFIG))
    start, end = whole.find(b"PK\1\2"), whole.rfind(b"PK\5\6")
    entry, record = bytearray(whole[start:end]), bytearray(whole[end:])
    struct.pack_into("<I", entry, 24, ALL)
    struct.pack_into("<H", entry, 30, 12)
    struct.pack_into("<I", record, 12, len(entry) + 12)
    assert Archive(MemoryFile(whole[:start] + entry + struct.pack("<HHQ", 1, 8, len(CONFIG)) + record)).read("config.json") == CONFIG


def test_deflated_size_that_lies():
    data = bytearray(packed(("config.json", CONFIG), compression=zipfile.ZIP_DEFLATED))
    for size in (len(CONFIG) - 1, len(CONFIG) + 1):
        struct.pack_into("<I", data, 22, size)
        struct.pack_into("<I", data, data.find(b"PK\1\2") + 24, size)
        assert f"does not decompress to the declared {size} bytes" in refused(bytes(data))


def test_a_stored_size_that_lies():
    data = bytearray(GOOD)
    for place in (22, data.find(b"PK\1\2") + 24):
        struct.pack_into("<I", data, place, len(CONFIG) + 1)
    assert f"expected the declared {len(CONFIG) + 1} bytes, got {len(CONFIG)} stored" in refused(bytes(data))


def test_a_size_that_is_left_to_a_record_which_is_not_there():
    data = bytearray(GOOD)
    struct.pack_into("<I", data, data.find(b"PK\1\2") + 24, 0xFFFFFFFF)
    with pytest.raises(FormatError, match="a size or offset above 4 GiB is missing"):
        Archive(MemoryFile(bytes(data)))


def test_the_head_of_a_member_that_cannot_be_decompressed():
    data = bytearray(packed(("config.json", CONFIG), compression=zipfile.ZIP_DEFLATED))
    archive = Archive(MemoryFile(bytes(data)))
    assert archive.head("config.json", 4) == CONFIG[:4]
    noise = random.Random(1).randbytes(9000)
    assert Archive(MemoryFile(packed(("x", noise), compression=zipfile.ZIP_DEFLATED))).head("x", 300) == noise[:300]
    start = 30 + len("config.json")
    data[start] = 0xFF  # a block of no kind
    with pytest.raises(FormatError, match="it cannot be decompressed") as error:
        Archive(MemoryFile(bytes(data))).head("config.json", 4)
    assert error.value.where == "config.json"


def test_what_is_written_unpacks_to_regular_files_that_can_be_read():
    with zipfile.ZipFile(MemoryFile(stored_zip([("a", b"1"), ("b/c", b"2")]))) as archive:
        for member in archive.infolist():
            mode = member.external_attr >> 16
            assert (member.create_system, mode) == (3, stat.S_IFREG | 0o644)


def test_what_is_packed_well_and_is_no_bomb_is_read(monkeypatch):
    monkeypatch.setattr(zip_archive, "MAX_TEXT", 100)
    data = bytes(range(50)) * 100  # 5000 bytes, in some 90
    file = packed(("a", data), compression=zipfile.ZIP_DEFLATED)
    assert Archive(MemoryFile(file)).read("a", 5000) == data
    monkeypatch.setattr(zip_archive, "MAX_RATIO", 20)
    assert "a higher ratio than is allowed" in refused(file, "a")


def test_bombs():
    zeros = packed(("config.json", bytes(70 << 20)), compression=zipfile.ZIP_DEFLATED)
    assert "a higher ratio than is allowed" in refused(zeros)
    largest = Archive(MemoryFile(packed(("config.json", bytes(1001)))))
    assert len(largest.read("config.json", 1001)) == 1001
    with pytest.raises(FormatError, match="expected at most 1000 bytes"):
        largest.read("config.json", 1000)


def test_unsafe_names_are_ignored_and_said():
    link = zipfile.ZipInfo("assets/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    names = ["../up", "/absolute", "..\\back", "C:/drive", "a/../../b"]
    archive = Archive(MemoryFile(packed(("config.json", CONFIG), (link, b"/"), *((name, b"") for name in names), ("assets/", b""))))
    assert len(archive.warnings()) == len(names) + 1
    assert archive.read("config.json") == CONFIG


def test_too_many_members(monkeypatch):
    monkeypatch.setattr(zip_archive, "MAX_MEMBERS", 20)
    many = packed(*((f"{i}", b"") for i in range(21)))
    assert "expected at most 20 members in 4194304 bytes of directory, got 21" in refused(many)
    monkeypatch.setattr(zip_archive, "MAX_MEMBERS", 21)
    monkeypatch.setattr(zip_archive, "MAX_DIRECTORY", 900)
    assert "expected at most 21 members in 900 bytes of directory, got 21 in 998" in refused(many)


def test_a_large_stored_member_is_not_read_through(monkeypatch):
    monkeypatch.setattr(zip_archive, "MAX_CHECKED", 100)

    class Counting(MemoryFile):
        read_bytes = 0

        def read(self, size=-1):
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    file = Counting(packed(("model.weights.h5", bytes(1 << 20))))
    member = Archive(file).open("model.weights.h5")
    member.seek(1000)
    assert member.read(10) == bytes(10)
    assert file.read_bytes < 100_000
    damaged, far = (MemoryFile(GOOD.replace(WEIGHTS, WEIGHTS[:-1] + b"?")) for _ in range(2))
    far.is_far = True
    for limit, near_limit, file in ((100, 1 << 20, far), (1 << 20, 100, damaged)):  # a small one of either is read through
        monkeypatch.setattr(zip_archive, "MAX_CHECKED_FAR_AWAY", limit)
        monkeypatch.setattr(zip_archive, "MAX_CHECKED", near_limit)
        Archive(file).open("model.weights.h5")
        monkeypatch.setattr(zip_archive, "MAX_CHECKED_FAR_AWAY", 1 << 20)
        monkeypatch.setattr(zip_archive, "MAX_CHECKED", 1 << 20)
        with pytest.raises(FormatError, match="CRC"):
            Archive(file).open("model.weights.h5")
    for limit in (1 << 20, 10):  # what is read whole is checked whatever its size
        monkeypatch.setattr(zip_archive, "MAX_CHECKED", limit)
        with pytest.raises(FormatError, match="CRC"):
            Archive(MemoryFile(GOOD.replace(CONFIG, CONFIG[:-1] + b"?"))).read("config.json")
        assert Archive(MemoryFile(GOOD)).read("config.json") == CONFIG


def test_random_damage_never_gives_other_bytes():
    """One changed byte anywhere: an error, or the members as they were."""
    source = random.Random(0)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        good = packed(("config.json", CONFIG), ("model.weights.h5", WEIGHTS), compression=compression)
        for _ in range(300):
            data = bytearray(good)
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
            try:
                archive = Archive(MemoryFile(bytes(data)))
                got = archive.read("config.json"), archive.read("model.weights.h5")
            except ExporterError:
                continue
            assert got == (CONFIG, WEIGHTS)


def test_crc_is_the_usual_one():
    assert Archive(MemoryFile(GOOD)).member("config.json").crc == zlib.crc32(CONFIG)

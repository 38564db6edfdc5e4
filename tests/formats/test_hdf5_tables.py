"""A group of an HDF5 file, byte by byte: what each field of its symbol table may be."""

from __future__ import annotations

import struct

import pytest

from exporter.errors import FormatError
from exporter.formats import hdf5_groups
from exporter.formats.hdf5_groups import Groups
from exporter.formats.hdf5_layout import TABLE_ENTRY, TableEntry
from exporter.formats.layout import Layout

HEADER, HEAP, NAMES, TOP, LOW, HIGH, FIRST, SECOND, MOVED = 200, 300, 400, 600, 1200, 1800, 2400, 2800, 3200
UNDEFINED = (1 << 64) - 1
ROOT = struct.pack("<QQIIQQ", 0, HEADER, 1, 0, TOP, HEAP)
MEMBERS = (b"a", b"b", b"c", b"d")  # the first two are below the first node, in the first leaf


def name_at(place):
    return 8 * place  # 0 is the empty name


def node(level, left, right, *pairs):
    """pairs: key, child, key, child, ..., key."""
    return struct.pack(f"<4sBBHQQ{len(pairs)}Q", b"TREE", 0, level, len(pairs) // 2, left, right, *pairs)


def leaf(*places):
    entries = (struct.pack("<QQIIQQ", name_at(place), 5000 + place, 0, 0, 0, 0) for place in places)
    return struct.pack("<4sBBH", b"SNOD", 1, 0, len(places)) + b"".join(entries)


def image(base=0, version=0, **changes):
    """A file with one group of four members in two leaves below two nodes. changes: bytes by the name of a place."""
    superblock = bytearray(128)
    superblock[8], superblock[13:15], superblock[16:20] = version, b"\x08\x08", struct.pack("<HH", 4, 16)
    first = 24 if version == 0 else 28
    struct.pack_into("<QQQQ", superblock, first, base, UNDEFINED, 5000, UNDEFINED)
    superblock[first + 32: first + 72] = ROOT
    parts = {0: bytes(superblock), HEADER: struct.pack("<BBHII4xHHB3xQQ", 1, 0, 1, 1, 24, 17, 16, 0, TOP, HEAP),
             HEAP: struct.pack("<4sB3xQQQ", b"HEAP", 0, 64, 40, NAMES),
             NAMES: bytes(8) + b"".join(name.ljust(8, b"\0") for name in MEMBERS) + struct.pack("<QQ", 1, 24) + bytes(8),
             TOP: node(1, UNDEFINED, UNDEFINED, name_at(0), LOW, name_at(2), HIGH, name_at(4)),
             LOW: node(0, UNDEFINED, HIGH, name_at(0), FIRST, name_at(2)), HIGH: node(0, LOW, UNDEFINED, name_at(2), SECOND, name_at(4)),
             FIRST: leaf(1, 2), SECOND: leaf(3, 4), MOVED: struct.pack("<HHB3xQQ", 17, 16, 0, TOP, HEAP)}
    data = bytearray(4000)
    for at, part in {**parts, **{globals()[name]: changed for name, changed in changes.items()}}.items():
        start = at if at == 0 else base + at
        data[start: start + len(part)] = part
    return bytes(data)


def members(data, start=0):
    groups = Groups(lambda at, size: data[at: at + size], start)
    return groups.members("")


def heap(**fields):
    return struct.pack("<4sB3xQQQ", *{"signature": b"HEAP", "version": 0, "size": 64, "free": 40, "data": NAMES, **fields}.values())


def edited(place, form, offset, value):
    at = globals()[place]
    part = bytearray(image()[at: at + 200])
    struct.pack_into(form, part, offset, value)
    return {place: bytes(part)}


@pytest.mark.parametrize("changes", [
    {}, {"base": 40}, {"version": 1}, {"HEADER": struct.pack("<BBHII4xHHB3xQQ", 1, 0, 1, 1, 24, 16, 16, 0, MOVED, 24)},
    {"HEADER": struct.pack("<BBHII4xHHB3xQHHB3xQQ", 1, 0, 2, 1, 40, 0, 8, 0, 0, 17, 16, 0, TOP, HEAP)},
    {"HEADER": struct.pack("<BBHII4xHHB3xQHHB3xQQ", 1, 0, 2, 1, 40, 0, 8, 0, 0, 16, 16, 0, MOVED, 24)}, {"HEAP": heap(free=1)}])
def test_a_group_is_listed(changes):
    found = members(image(**changes))
    assert list(found) == list(MEMBERS)
    assert found[b"c"] == TABLE_ENTRY.at(struct.pack("<QQIIQQ", name_at(3), 5003, 0, 0, 0, 0))


DAMAGED = "the B-tree of this group is damaged"
NEIGHBORS = "its nodes disagree about their neighbors"


@pytest.mark.parametrize(("changes", "said"), [
    ({"HEAP": heap(signature=b"HEAQ")}, "are not at the recorded address"), ({"HEAP": heap(version=1)}, "are not at the recorded address"),
    ({"HEAP": heap(size=(64 << 20) + 1)}, "are not at the recorded address"), ({"HEAP": heap(free=200)}, "cannot be read"),
    ({"HEAP": heap(free=2)}, "free list"), ({"HEAP": heap(free=48)}, "free list|cannot be read"),
    (edited("NAMES", "<Q", 40, 0), "free list"), (edited("NAMES", "<Q", 48, 25), "free list"), (edited("NAMES", "<Q", 40, 40), "free list"),
    (edited("TOP", "<4s", 0, b"TREF"), DAMAGED), (edited("TOP", "<B", 4, 1), DAMAGED), (edited("TOP", "<B", 5, 255), DAMAGED),
    (edited("LOW", "<B", 5, 1), DAMAGED), (edited("HIGH", "<B", 5, 2), DAMAGED), (edited("TOP", "<Q", 8, LOW), NEIGHBORS),
    (edited("TOP", "<Q", 16, LOW), NEIGHBORS), (edited("LOW", "<Q", 8, HIGH), NEIGHBORS), (edited("LOW", "<Q", 16, UNDEFINED), NEIGHBORS),
    (edited("HIGH", "<Q", 8, UNDEFINED), NEIGHBORS), (edited("HIGH", "<Q", 8, TOP), NEIGHBORS),
    (edited("TOP", "<Q", 48, LOW), DAMAGED), (edited("FIRST", "<4s", 0, b"SNOE"), "a symbol table node of this group is damaged"),
    (edited("FIRST", "<B", 4, 2), "a symbol table node of this group is damaged"),
    (edited("FIRST", "<H", 6, 9), "a symbol table node of this group is damaged"), (edited("FIRST", "<H", 6, 8), "is out of order"),
    (edited("FIRST", "<Q", 8, name_at(2)), "'b' occurs more than once in this group"),
    (edited("SECOND", "<Q", 8, name_at(2)), "'b' occurs more than once in this group"),
    (edited("SECOND", "<Q", 8, name_at(1)), "'a' is out of order in this group"),
    (edited("FIRST", "<Q", 8, name_at(0)), "'' occurs more than once in this group"),
    (edited("LOW", "<Q", 24, name_at(1)), "'a' is at a place that no lookup in this group reaches"),
    (edited("LOW", "<Q", 40, name_at(1)), "'b' is at a place that no lookup in this group reaches"),
    (edited("TOP", "<Q", 24, name_at(1)), "'a' is at a place that no lookup in this group reaches"),
    (edited("TOP", "<Q", 40, name_at(1)), "'b' is at a place that no lookup in this group reaches"),
    (edited("TOP", "<Q", 56, name_at(3)), "'d' is at a place that no lookup in this group reaches"),
    (edited("FIRST", "<I", 24, 3), "'a' is recorded as something unknown"), (edited("FIRST", "<Q", 8, 64), "cannot be read"),
    ({"HEADER": struct.pack("<BBHII4xHHB3xQQ", 1, 0, 1, 1, 24, 17, 16, 0, LOW, HEAP)}, "the two records of where this group's members are"),
    ({"HEADER": struct.pack("<BBHII4xHHB3xQQ", 1, 0, 1, 1, 24, 17, 16, 0, TOP, NAMES)}, "the two records")])
def test_a_group_that_contradicts_itself(changes, said):
    with pytest.raises(FormatError, match=said):
        members(image(**changes))


@pytest.mark.parametrize("value", [0, 1, 2])
def test_what_an_entry_may_record(value):
    assert members(image(**edited("FIRST", "<I", 24, value)))[b"a"].cache == value


@pytest.mark.parametrize("header", [
    struct.pack("<BBHII4xHHB3xQQ", 2, 0, 1, 1, 24, 17, 16, 0, TOP, HEAP), struct.pack("<BBHII4xHHB3xQQ", 1, 0, 1, 1, 24, 12, 16, 0, 0, 0),
    struct.pack("<BBHII4xHHB3xQQ", 1, 0, 1, 1, 24, 16, 16, 0, NAMES, 24)])
def test_a_group_of_another_form_is_not_listed(header):
    assert members(image(HEADER=header)) is None


@pytest.mark.parametrize(("limit", "value"), [("MAX_HEAP", 63), ("MAX_MEMBERS", 3), ("MAX_LEVELS", 1)])
def test_limits(monkeypatch, limit, value):
    monkeypatch.setattr(hdf5_groups, limit, value)
    with pytest.raises(FormatError):
        members(image())


def test_what_lies_below_is_found_by_its_path(monkeypatch):
    data = image()
    groups = Groups(lambda at, size: data[at: at + size], 0)
    with pytest.raises(FormatError, match="HDF5 finds this name, but the symbol table does not list it"):
        groups.members("x")
    with pytest.raises(FormatError, match="cannot be read"):
        groups.members("a")  # which is said to be at the end of the file
    own = image(**edited("FIRST", "<Q", 16, HEADER))
    groups = Groups(lambda at, size: own[at: at + size], 0)
    top = groups.members("")
    assert list(groups.members("a")) == list(MEMBERS)
    assert groups.members("") is top
    assert groups.tables == {"": (TOP, HEAP), "a": (TOP, HEAP)}
    monkeypatch.setattr(hdf5_groups, "MAX_MEMBERS", 4)
    assert list(groups.members("a/a/a/a/a/a/a/a")) == list(MEMBERS)
    assert (len(groups.tables) <= 5, len(groups._found)) == (True, 1), "no more is kept"


def test_a_structure_has_as_many_names_as_fields():
    with pytest.raises(TypeError):
        Layout(TableEntry, "<QQIIQ")
    with pytest.raises(TypeError):
        Layout(TableEntry, "<QQIIQQQ")

"""The parts of an HDF5 file that are read without libhdf5, each alone: what differs in one place from what it writes is left to it."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from exporter.errors import FormatError
from exporter.formats import hdf5_messages, hdf5_plain, hdf5_storage
from exporter.formats.hdf5_layout import ATTRIBUTE, CONTINUATION, DATA_LAYOUT, DATASPACE, DATATYPE, FILL_VALUE, SYMBOL_TABLE
from exporter.formats.hdf5_messages import OtherFormError, attribute_name, dataspace, is_no_value
from exporter.formats.hdf5_names import all_decoded
from exporter.formats.hdf5_plain import Heap, PlainAttribute, PlainDataset, PlainGroup, PlainObjects

FLOAT32 = bytes.fromhex("11201f000400000000002000170800177f000000")
OTHER = (OtherFormError, struct.error, IndexError)  # what leaves an object to libhdf5


def space(*sizes, version=1, flags=0, reserved=bytes(5), most=()):
    return bytes([version, len(sizes), flags]) + reserved + struct.pack(f"<{len(sizes) + len(most)}Q", *sizes, *most)


def is_left(read, *given):
    try:
        read(*given)
    except OTHER:
        return True
    return False


@pytest.mark.parametrize(("data", "found"), [
    (space(), ((), 8)), (space(5), ((5,), 16)), (space(2, 3) + b"more", ((2, 3), 24)), (space(5, flags=1, most=(5,)), ((5,), 24)),
    (space(*[1] * 32), ((1,) * 32, 264)), (space(*[1] * 33), None), (space(5, version=2), None), (space(5, version=0), None),
    (space(5, flags=1, most=(6,)), None), (space(5, flags=1), None), (space(5, flags=2), None), (space(5, flags=2, most=(5, 5)), None),
    (space(5)[:15], None), (space(5, reserved=b"\1\0\0\0\0"), None), (space(5, reserved=b"\0\0\0\0\1"), None), (b"", None)])
def test_a_shape(data, found):
    assert is_left(dataspace, data) if found is None else dataspace(data) == found


@pytest.mark.parametrize(("fill", "is_none"), [
    (b"\2\1\0\0\0\0\0\0", True), (b"\2\2\1\1\0\0\0\0", True), (b"\2\3\2\0\0\0\0\0", True), (b"\1\1\0\0\0\0\0\0", False),
    (b"\3\1\0\0\0\0\0\0", False), (b"\2\0\0\0\0\0\0\0", False), (b"\2\4\0\0\0\0\0\0", False), (b"\2\1\3\0\0\0\0\0", False),
    (b"\2\1\0\2\0\0\0\0", False), (b"\2\1\0\1\4\0\0\0", False), (b"\2\1\0\1\0\0\0\0\0", False), (b"\2\1\0\1\0\0\0", False)])
def test_a_value_that_fills(fill, is_none):
    assert is_no_value(fill) is is_none


def attribute(name=b"a\0", kind=b"\x13\0\0\0\4\0\0\0", shape=None, data=b"ab\0\0", version=1, reserved=0, **sizes):
    shape = space() if shape is None else shape
    head = struct.pack("<BBHHH", version, reserved, sizes.get("name_size", len(name)), len(kind), sizes.get("space_size", len(shape)))
    return head + b"".join(part + bytes(-len(part) % 8) for part in (name, kind, shape)) + data


@pytest.mark.parametrize(("data", "name"), [
    (attribute(), b"a"), (attribute(b"weight_names\0"), b"weight_names"), (attribute(version=2), None), (attribute(version=3), None),
    (attribute(reserved=1), None), (attribute(b""), None), (attribute(b"a"), None), (attribute(b"a\0b\0"), None),
    (attribute(b"\xc3\0"), None),
    (attribute(b"ab\0", name_size=2), None), (attribute(b"\0"), b""), (b"\1\0\2", None)])
def test_the_name_of_an_attribute(data, name):
    assert is_left(attribute_name, data) if name is None else attribute_name(data) == name


ANY = b"\x19\1\0\0\x10\0\0\0\x13\0\0\0\1\0\0\0\0\0\x08\0"  # not what is written: the size of its base is another
WRITTEN = b"\x19\1\0\0" + b"\x10\0\0\0" + b"\x10\0\0\0\x01\0\0\0\0\0\x08\0"


def collection(*objects, free=0, version=1, signature=b"GCOL", size=None):
    """A heap of (number, text)."""
    body = b"".join(struct.pack("<HH4xQ", number, 1, len(text)) + text + bytes(-len(text) % 8) for number, text in objects)
    body += struct.pack("<HH4xQ", 0, 0, free) + bytes(free - 16) if free else b""
    return struct.pack("<4sB3xQ", signature, version, len(body) + 16 if size is None else size) + body


def heap(data, place=64):
    return Heap(lambda at, size: (bytes(place) + data)[at: at + size])


@pytest.mark.parametrize(("data", "reference", "text"), [
    (collection((1, b"one"), (2, b"two"), free=32), (3, 64, 2), b"two"), (collection((1, b"one")), (3, 64, 1), b"one"),
    (collection((1, b"o\0e"), free=16), (3, 64, 1), b"o"), (collection((1, b"one")), (0, 0, 0), b""),
    (collection((1, b"one")), (0, 0, 7), b""),
    (collection((1, b"one")), (2, 64, 1), None), (collection((1, b"one")), (4, 64, 1), None), (collection((1, b"one")), (3, 64, 2), None),
    (collection((1, b"one")), (3, 0, 1), None), (collection((1, b"one")), (0, 64, 2), None),
    (collection((1, b"one"), (1, b"two")), (3, 64, 1), None), (collection((1, b"one"), (0, b"two")), (3, 64, 1), None),
    (collection((1, b"one"), free=32)[:-1], (3, 64, 1), None), (collection((1, b"one"), version=2), (3, 64, 1), None),
    (collection((1, b"one"), signature=b"GCOM"), (3, 64, 1), None), (collection((1, b"one"), size=24), (3, 64, 1), None),
    (collection((1, b"one"), size=35), (3, 64, 1), b"one"), (collection((1, b"one"), size=34), (3, 64, 1), None),
    (collection((1, b"12345678"), size=40), (8, 64, 1), b"12345678"),
    (collection((1, b"12345678"), size=39), (8, 64, 1), None)])
def test_a_text_in_a_heap(data, reference, text):
    assert is_left(heap(data).text, reference) if text is None else heap(data).text(reference) == text


def test_a_heap_over_the_limit_is_not_read(monkeypatch):
    monkeypatch.setattr(hdf5_plain, "MAX_HEAP", 39)
    assert is_left(heap(collection((1, b"one"))).text, (3, 64, 1))


@pytest.mark.parametrize(("data", "texts"), [
    (attribute(), [b"ab"]), (attribute(data=b"a\0b\0"), [b"a"]), (attribute(kind=b"\x13\1\0\0\4\0\0\0", data=b"a\0b\0"), [b"a\0b"]),
    (attribute(kind=b"\x13\x10\0\0\4\0\0\0"), [b"ab"]), (attribute(kind=b"\x13\2\0\0\4\0\0\0"), None),
    (attribute(kind=b"\x13\0\0\0\4\0\0\0more"), None), (attribute(shape=space(2), data=b"abcdefgh"), [b"abcd", b"efgh"]),
    (attribute(shape=space(2), data=b"abcdefg"), None), (attribute(shape=space(0), data=b""), None),
    (attribute(shape=space(0), kind=FLOAT32, data=b""), []), (attribute(shape=space(1), kind=FLOAT32, data=b"1234"), None),
    (attribute(shape=space(2) + b"x", data=b"abcdefgh"), None), (attribute(kind=WRITTEN, data=struct.pack("<IQI", 3, 64, 1)), [b"one"]),
    (attribute(kind=WRITTEN, shape=space(2), data=struct.pack("<IQIIQI", 0, 0, 0, 3, 64, 1)), [b"", b"one"]),
    (attribute(kind=WRITTEN, data=struct.pack("<IQI", 3, 64, 2)), None), (attribute(kind=ANY, data=struct.pack("<IQI", 3, 64, 1)), None)])
def test_the_texts_of_an_attribute(data, texts):
    place = heap(collection((1, b"one"), free=16))
    if texts is None:
        assert is_left(PlainAttribute, data, place)
        return
    found = PlainAttribute(data, place)
    assert found.texts() == texts
    assert (found.is_text, found.is_of_any_length, found.type_name) == (
        bool(texts), WRITTEN in data, "text" if texts else "floating point numbers")


def message(kind, data, flags=0, size=None):
    return struct.pack("<HHB3x", kind, len(data) if size is None else size, flags) + data


def header(*messages, count=None, version=1, reserved=0, links=1, size=None, behind=b""):
    body = b"".join(messages)
    return struct.pack("<BBHII", version, reserved, len(messages) if count is None else count, links, len(body) if size is None else size
                       ) + bytes(4) + body + behind


TABLE = message(SYMBOL_TABLE, struct.pack("<QQ", 136, 680))
SPACE, KIND, FILL = message(DATASPACE, space(5)), message(DATATYPE, FLOAT32 + bytes(4)), message(FILL_VALUE, b"\2\2\2\0\0\0\0\0")


def layout(at=2048, size=20, version=3, kind=1):
    return message(DATA_LAYOUT, bytes([version, kind]) + struct.pack("<QQ", at, size) + bytes(6))


NAMED = message(ATTRIBUTE, attribute(data=b"ab\0\0" + bytes(4)))
MOVED = message(CONTINUATION, struct.pack("<QQ", 512, len(TABLE)))
UNDEFINED = (1 << 64) - 1


@pytest.mark.parametrize(("data", "kind"), [
    (header(TABLE), "group"), (header(NAMED, TABLE), "group"), (header(SPACE, KIND, FILL, layout()), "dataset"),
    (header(SPACE, KIND, layout()), "dataset"), (header(SPACE, KIND, layout(), NAMED), "dataset"), (header(MOVED, count=2), "group"),
    (header(SPACE, KIND, message(18, bytes(8)), message(0, bytes(8)), layout()), "dataset"),
    (header(message(SYMBOL_TABLE, TABLE[8:], 1)), "group"),
    (header(TABLE, links=2), "group"), (header(TABLE, version=2), None), (header(TABLE, reserved=1), None), (header(TABLE, links=0), None),
    (header(TABLE, count=2), None), (header(TABLE, TABLE), None), (header(NAMED, NAMED, TABLE), None), (header(TABLE, SPACE), None),
    (header(SPACE, KIND), None), (header(SPACE, SPACE, KIND, layout()), None), (header(NAMED), None),
    (header(message(SYMBOL_TABLE, TABLE[8:], 2)), None), (header(TABLE, message(6, b"")), None), (header(TABLE, size=25), None),
    (header(message(SYMBOL_TABLE, TABLE[8:], size=24), size=24), None), (header(MOVED, count=1), None),
    (header(SPACE, KIND, layout(size=24)), None), (header(SPACE, KIND, layout(size=0)), None),
    (header(SPACE, KIND, layout(at=UNDEFINED)), None),
    (header(SPACE, KIND, layout(version=4)), None), (header(SPACE, KIND, layout(kind=0)), None),
    (header(SPACE, KIND, layout(kind=2)), None),
    (header(message(DATASPACE, space(0)), KIND, layout(size=0)), None),
    (header(SPACE, message(DATATYPE, b"\x10" + FLOAT32[1:]), layout()), None),
    (header(SPACE, KIND, message(FILL_VALUE, b"\2\2\2\1\4\0\0\0"), layout()), None)])
def test_an_object(data, kind):
    """A table of members or an array; MOVED continues at 512."""
    block = data.ljust(512, b"\0") + TABLE
    found = PlainObjects(lambda at, size: block[at: at + size], lambda path: None).at(0, "x")
    assert {type(None): None, PlainGroup: "group", PlainDataset: "dataset"}[type(found)] == kind
    if kind == "group":
        assert tuple(found.table) == (136, 680)
    elif kind == "dataset":
        assert (found.shape, found.item_size, found.places(20)) == ((5,), 4, [(2048, 20, True)])
    if found is not None:
        assert found.attribute_names() == ([b"a"] if NAMED in data else [])
        assert found.has_attribute(b"a") is (NAMED in data)


def test_a_header_in_which_the_file_ends_is_left():
    whole = header(SPACE, KIND, layout(), message(0, bytes(8)))
    found = [PlainObjects(lambda at, size, size_of_all=size: whole[:size_of_all][at: at + size], None).at(0, "x")
             for size in (len(whole), len(whole) - 1)]
    assert [type(one) for one in found] == [PlainDataset, type(None)]


def test_an_array_whose_header_was_seen_before(monkeypatch):
    """Of the same bytes, but for the address of its data."""
    monkeypatch.setattr(hdf5_plain, "_FORMS", {})
    grown = message(DATASPACE, space(5, flags=1, most=(5,)))
    whole = [header(grown, KIND, FILL, layout(at), message(0, bytes(136))) for at in (2048, 4096, UNDEFINED)]
    longer = message(DATASPACE, space(6, flags=1, most=(6,)))
    PlainObjects(lambda at, size: header(longer, KIND, FILL, layout(size=24), message(0, bytes(136)))[at: at + size], None).at(0, "y")
    assert {len(block) for block in whole} == {hdf5_plain.HEAD_BYTES}
    first, second, third = (PlainObjects(lambda at, size, block=block: block[at: at + size], lambda path: None) for block in whole)
    assert first.at(0, "x").places(20)[0][0] == 2048
    with monkeypatch.context() as patch:
        patch.setattr(hdf5_plain, "all_messages", None)  # nothing but the address is looked at
        assert second.at(0, "x").places(20)[0][0] == 4096
    assert third.at(0, "x") is None
    assert [form.shape for form in hdf5_plain._FORMS.values()] == [(6,), (5,)]


@pytest.mark.parametrize(("limit", "value", "header"), [
    ("MAX_BLOCK", 23, header(MOVED, count=2)), ("MAX_BLOCKS", 0, header(MOVED, message(CONTINUATION, struct.pack("<QQ", 600, 0)), count=3)),
    ("MAX_MESSAGES", 5, header(message(CONTINUATION, struct.pack("<QQ", 16, 24)), count=6))], ids=["large", "many", "in a circle"])
def test_a_header_over_a_limit_is_left(monkeypatch, limit, value, header):
    block = header.ljust(512, b"\0") + TABLE

    def found():
        return PlainObjects(lambda at, size: block[at: at + size], lambda path: None).at(0, "x")

    assert (found() is None) is (limit == "MAX_MESSAGES")
    monkeypatch.setattr(hdf5_messages, limit, value)
    assert found() is None


@pytest.mark.parametrize(("packed", "size"), [
    (b"", 0), (b"\0a", 1), (b"\x1f" + bytes(32), 32), (b"\1a", -1), (b"\1ab\0c", 3), (b"\0a\x20\0", 4), (b"\0a\xc0\0", 9),
    (b"\0a\xe0\0\0", 10),
    (b"\0a\xe0\5\0", 15), (b"\0a\x20", -1), (b"\0a\xe0\0", -1), (b"\0a\xe0", -1), (b"\0a\xe0\0\0\0b", 11)])
def test_the_size_of_lzf(packed, size):
    """Runs of bytes as they are, and references to earlier ones; cut off inside, it has none."""
    assert hdf5_storage._lzf_size(packed) == size


def test_how_many_heaps_are_kept(monkeypatch):
    monkeypatch.setattr(hdf5_plain, "MAX_KEPT", 2)
    one = collection((1, b"one"))
    found = Heap(lambda at, size: (one * 5)[at: at + size])
    assert found.text((3, 0, 1)) == b"one"
    kept = [found.text((3, number * len(one), 1)) and len(found._collections) for number in (1, 2, 3, 4)]
    assert kept == [2, 1, 2, 1]


@pytest.mark.parametrize(("raws", "texts"), [
    ([], []), ([b""], [""]), ([b"a", "\u00e9".encode(), b""], ["a", "\u00e9", ""]), ([b"a\0b", b"c"], ["a\0b", "c"]), ([b"\0"], ["\0"])])
def test_texts_are_decoded_together(raws, texts):
    assert all_decoded(raws, "a name") == texts


def test_a_text_that_is_not_utf_8_is_shown():
    with pytest.raises(FormatError, match=r"a name is not UTF-8 text: b'\\xa9'"):
        all_decoded([b"a", b"\xa9"], "a name")


def test_two_halves_of_a_character_are_no_text():
    """Nothing is decoded across the end of a text."""
    with pytest.raises(FormatError, match="not UTF-8"):
        all_decoded([b"\xc3", b"\xa9"], "a name")


def test_a_header_that_continues_in_itself_is_left():
    """Its messages have no end; they are read up to a limit, whatever number it claims."""
    head = struct.pack("<BBHII4x", 1, 0, 2, 1, 24)
    continued = struct.pack("<HHB3x", CONTINUATION, 16, 0) + struct.pack("<QQ", 16, 24)
    reads = []

    def read(at, size):
        reads.append(at)
        assert len(reads) <= hdf5_messages.MAX_MESSAGES + 1
        return (head + continued)[at: at + size]

    assert is_left(hdf5_messages.all_messages, read, 0, head + struct.pack("<HHB3x", CONTINUATION, 16, 0) + struct.pack("<QQ", 32, 24))
    reads.clear()
    assert is_left(hdf5_messages.all_messages, read, 0, head + continued)


def test_a_layout_that_is_not_known_is_refused():
    """A later libhdf5 may have one, which says nothing of where the data is."""
    properties = SimpleNamespace(get_layout=lambda: 9, get_external_count=lambda: 0)
    dataset = SimpleNamespace(get_offset=lambda: None, get_storage_size=lambda: 8, get_create_plist=lambda: properties)
    with pytest.raises(FormatError, match="its storage layout is unknown"):
        hdf5_storage.storage_of(dataset, 8)

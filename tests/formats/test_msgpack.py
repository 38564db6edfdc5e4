"""MessagePack as flax writes it: each type of the specification, and damage."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from exporter.errors import FormatError
from exporter.formats.msgpack import is_map, parse

NDARRAY = b"\x93" + b"\x91\x02" + b"\xa7float32" + b"\xc4\x08" + struct.pack("<2f", 1.5, -2)


def array(shape, content=b"x"):
    """An array of int8 with the bytes of a shape."""
    data = b"\x93" + shape + b"\xa4int8" + b"\xc4" + bytes([len(content)]) + content
    return b"\xc7" + bytes([len(data)]) + b"\x01" + data


def nested_arrays(count):
    data = b"\x01"
    for _ in range(count):
        data = b"\xc9" + struct.pack(">I", len(data)) + b"\x01" + data
    return data


@pytest.mark.parametrize(("data", "value"), [
    (b"\x00", 0), (b"\x7f", 127), (b"\xff", -1), (b"\xe0", -32), (b"\xc0", None), (b"\xc2", False), (b"\xc3", True),
    (b"\xcc\xff", 255), (b"\xcd\x01\x00", 256), (b"\xce\x00\x01\x00\x00", 65536), (b"\xcf" + (1 << 40).to_bytes(8, "big"), 1 << 40),
    (b"\xd0\x80", -128), (b"\xd1\xff\x00", -256), (b"\xd2\xff\xff\x00\x00", -65536), (b"\xd3" + b"\xff" * 8, -1),
    (b"\xca" + struct.pack(">f", 1.5), 1.5), (b"\xcb" + struct.pack(">d", 0.1), 0.1),
    (b"\xa2hi", "hi"), (b"\xd9\x02hi", "hi"), (b"\xda\x00\x02hi", "hi"), (b"\xdb\x00\x00\x00\x02hi", "hi"),
    (b"\xbf" + b"x" * 31, "x" * 31), (b"\xc4\x02hi", b"hi"), (b"\xc5\x00\x02hi", b"hi"), (b"\xc6\x00\x00\x00\x02hi", b"hi"),
    (b"\x92\x01\x02", [1, 2]), (b"\xdc\x00\x02\x01\x02", [1, 2]), (b"\xdd\x00\x00\x00\x02\x01\x02", [1, 2]),
    (b"\x81\xa1a\x01", {"a": 1}), (b"\xde\x00\x01\xa1a\x01", {"a": 1}), (b"\xdf\x00\x00\x00\x01\xa1a\x01", {"a": 1}), (b"\x80", {}),
    (b"\x81\x07\x01", {7: 1}), (b"\xd4\x05x", None), (b"\xc7\x02\x05hi", None), (b"\x92\xd5\x05hi\x07", [None, 7])])
def test_each_type(data, value):
    assert parse(data, "m") == value


@pytest.mark.parametrize("head", [b"\xc7" + bytes([len(NDARRAY)]), b"\xc8" + len(NDARRAY).to_bytes(2, "big"),
                                  b"\xc9" + len(NDARRAY).to_bytes(4, "big")])
def test_an_array(head):
    found = parse(head + b"\x01" + NDARRAY, "m")
    assert (found.dtype, found.tolist()) == (np.dtype("float32"), [1.5, -2])


def test_an_array_of_bfloat16():
    content = b"\x93\x91\x01\xa8bfloat16\xc4\x02\x80\x3f"
    assert parse(b"\xc7" + bytes([len(content)]) + b"\x01" + content, "m").tolist() == [1.0]


@pytest.mark.parametrize(("data", "words"), [
    (b"", "cut short"), (b"\xa2h", "cut short"), (b"\x01\x02", "1 bytes follow"), (b"\xc1", "got the byte 0xc1"), (b"\xa1\xff", "UTF-8"),
    (b"\x81\xc0\x01", "name or a number as the key"), (b"\x82\xa1a\x01\xa1a\x02", "more than once"), (b"\x9f\x01", "cut short"),
    (b"\xdd\xff\xff\xff\xff\x01", "cut short"),
    (b"\x91" * 66 + b"\x01", "levels of nested"), (b"\xc7\x01\x01\x01", "shape, dtype and bytes"),
    (b"\xc7\x05\x01\x93\x01\xa1f\xc0", "list of sizes"), (b"\xc7\x06\x01\x93\x91\x01\xa1f\xc0", "an array of one of"),
    (b"\xc7\x09\x01\x93\x91\x01\xa4int8\xc0", "an array of one of"), (b"\xc7\x08\x01\x93\x91\x01\xa1i\xc4\x01x", "an array of one of"),
    (b"\x81\x01" * 66 + b"\x01", "levels of nested"), (b"\x81" * 66, "levels of nested"),
    (array(b"\xdc\x00\x41" + b"\x01" * 65), "a shape that an array can have"),
    (array(b"\x93\x00" + (b"\xcf\x40" + bytes(7)) * 2, b""), "a shape that an array can have"),
    (nested_arrays(66), "levels of nested"), (nested_arrays(2000), "levels of nested"),
    (b"\xc7\x0c\x01\x93\x91\x02\xa4int8\xc4\x01x", "cut short"),
    (b"\xc7\x0b\x01\x93\x91\x02\xa4int8\xc4\x01x", "expected 2 bytes for shape")])
def test_damage(data, words):
    with pytest.raises(FormatError, match=words):
        parse(data, "m")


def test_as_deep_as_it_may_be():
    value = parse(b"\x91" * 64 + b"\x01", "m")
    for _ in range(64):
        (value,) = value
    assert value == 1


@pytest.mark.parametrize(("head", "is_one"), [
    (b"\x81\xa6params\x01", True), (b"\x8f\xa1a\x01", True), (b"\xde\x00\x01\xa1a\x01", True), (b"\xdf\x00\x00\x00\x01\xa1a\x01", True),
    (b"\x81\xd9\x20" + b"a" * 32, True), (b"\x81\xd9\x03\x01ab", False), (b"\x81\xd9\x00\x01", False), (b"\x81\xa3a\nb", False),
    (b"\x81\xa0\x01", False), (b"\x80\xa1a", False), (b"\x81", False), (b"\x81\xa1", False), (b"", False), (b"\x91\xa1a", False),
    (b"\x81\x01\x01", False), (b"\x81\xbf" + b"z" * 31, True), (b"\x81\xa1\x7f\x01", False), (b"\x81\xa1\x1f\x01", False)])
def test_what_a_tree_of_parameters_begins_with(head, is_one):
    assert is_map(head) == is_one

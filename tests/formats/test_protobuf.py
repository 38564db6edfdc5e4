"""The wire format: what a writer wrote comes back, and damage is a FormatError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import FormatError
from exporter.formats.protobuf import MAX_DEPTH, Message, fields, signed, text_in, varint
from tests.make.tensor_files import encode, field

numbers = st.integers(1, (1 << 29) - 1)
values = st.integers(0, (1 << 64) - 1) | st.binary(max_size=300)


@given(st.lists(st.tuples(numbers, values), max_size=20))
def test_fields_come_back_in_order(pairs):
    found = fields(b"".join(field(*pair) for pair in pairs))
    expected = {}
    for number, value in pairs:
        expected.setdefault(number, []).append(value)
    assert found == expected


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_signed_numbers(value):
    assert signed(varint(encode(value), 0, 10)[0]) == value
    assert Message(field(1, value)).integer(1) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        for found in fields(data).values():
            assert all(isinstance(value, (int, bytes)) for value in found)
    except FormatError:
        pass


@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1)), st.booleans())
def test_repeated_numbers_packed_or_not(items, packed):
    data = field(3, b"".join(map(encode, items))) if packed else b"".join(field(3, item) for item in items)
    assert Message(data).integers(3) == items


def test_scalars_and_defaults():
    message = Message(field(1, "é") + field(2, 7) + field(2, 8) + field(3, 1.5) + encode(4 << 3 | 1) + struct.pack("<d", 0.1)
                      + field(5, field(1, "k") + field(2, field(9, 1))))
    assert message.text(1) == "é"
    assert message.unsigned(2) == 8, "the last of a scalar's values wins"
    assert message.boolean(2)
    assert message.single(3) == 1.5
    assert message.map(5)["k"].unsigned(9) == 1
    assert (message.text(9), message.raw(9), message.integer(9), message.single(9), message.fixed32(9)) == ("", b"", 0, 0.0, 0)
    assert message.messages(9) == message.integers(9) == []
    assert 1 in message
    assert 9 not in message
    assert message.numbers() == [1, 2, 3, 4, 5]


def test_a_message_in_pieces_is_merged():
    message = Message(field(1, field(1, 5) + field(3, 1)) + field(1, field(2, 6) + field(3, 2))).message(1)
    assert (message.integer(1), message.integer(2), message.integers(3)) == (5, 6, [1, 2])


@pytest.mark.parametrize(("data", "what"), [
    (b"\x08", "ends inside a varint"),
    (b"\x08" + b"\xff" * 10, "more than 10 bytes"),
    (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
    (b"\x0a\x05abc", "claims 5 bytes, but 3 are left"), (b"\x0a", "ends inside a varint"), (b"\x0a\x80", "ends inside a varint"),
    (b"\x0a\x80\x80", "ends inside a varint"), (b"\x80", "ends inside a varint"), (b"\x0a\x80\x01", "claims 128 bytes, but 0 are left"),
    (b"\x0a\x80\x80\x01", "claims 16384 bytes, but 0 are left"), (b"\x09" + bytes(7), "claims 8 bytes, but 7 are left"),
    (b"\x0d" + bytes(3), "claims 4 bytes, but 3 are left"),
    (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fabc", "claims"),
    (b"\x0d\x00", "claims 4 bytes, but 1 are left"),
    (b"\x0b\x0c", "unexpected protobuf group"),
    (b"\x0e", "expected wire type 0, 1, 2 or 5, got 6"),
    (b"\x0f", "expected wire type 0, 1, 2 or 5, got 7"),
    (b"\x00\x00", "expected a field number of at least 1, got 0"),
    (b"\x02\x00", "expected a field number of at least 1, got 0"),
])
def test_damage(data, what):
    with pytest.raises(FormatError, match=what) as caught:
        Message(data, "here").numbers()
    assert caught.value.where == "here"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 16383, 16384, 16385])
def test_a_size_of_one_two_and_three_bytes(size):
    assert fields(field(1, b"x" * size) + field(16, 7)) == {1: [b"x" * size], 16: [7]}, "the first number whose tag takes two bytes"
    with pytest.raises(FormatError, match=f"claims {size} bytes, but {size - 1} are left" if size else "inside a varint"):
        fields(field(1, b"x" * size)[:-1])


@pytest.mark.parametrize("ask", [
    lambda m: m.unsigned(1), lambda m: m.raw(2), lambda m: m.message(2), lambda m: m.texts(2), lambda m: m.text(3), lambda m: m.single(3),
    lambda m: m.packed(3, 4),
])
def test_wrong_types_are_refused(ask):
    with pytest.raises(FormatError):
        ask(Message(field(1, b"x") + field(2, 5) + field(3, b"\xff\xfe\xfd")))


def test_a_text_of_parsed_fields():
    """The same as that of the message, also for what is none."""
    data = field(1, "bn") + field(2, "é") + field(3, b"\xff") + field(4, 7) + field(5, "a") + field(5, "b")
    found = fields(data)
    assert [text_in(found, number, "here") for number in (1, 2, 5, 9)] == [Message(data).text(number) for number in (1, 2, 5, 9)]
    for number, what in ((3, "not UTF-8"), (4, "field 4")):
        with pytest.raises(FormatError, match=what) as caught:
            text_in(found, number, "here")
        assert caught.value.where == "here"


def test_depth_is_bounded():
    message = Message(b"")
    for _ in range(MAX_DEPTH):
        message = message.message(1)
    with pytest.raises(FormatError, match="expected messages at most"):
        message.message(1)

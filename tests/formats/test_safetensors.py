"""The safetensors format: what is written is what is read, as strictly as by the reference reader."""

from __future__ import annotations

import json

import pytest

from exporter.errors import FormatError
from exporter.formats.safetensors import ITEM_SIZES, MAX_HEADER, Tensor, dump, header_size, parse

TWO = {"a": Tensor("F32", (2, 1), bytes(range(8))), "b": Tensor("U8", (3,), b"xyz"), "c": Tensor("F64", (), bytes(8)),
       "d": Tensor("I16", (0, 4), b"")}


def test_what_is_written_is_read():
    data = dump(TWO, {"about": "these"})
    assert (len(data) - 19) % 8 == 0
    metadata, tensors = parse(data)
    assert metadata == {"about": "these"}
    assert list(tensors) == ["c", "a", "d", "b"], "the widest first"
    assert {name: (each.dtype, each.shape, bytes(each.data)) for name, each in tensors.items()} == {
        name: (each.dtype, each.shape, each.data) for name, each in TWO.items()}
    assert parse(dump({}, {})) == ({}, {})
    assert b'{"__metadata__":{"\xc3\xa9":"\xc3\xbc"}}' in dump({}, {"é": "ü"}), "as the reference writer does"


def made(header=None, data=bytes(8), size=None, **changes):
    header = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}} if header is None else header
    text = json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def entry(start, end, kind="U8"):
    return {"dtype": kind, "shape": [(end - start) // ITEM_SIZES[kind]], "data_offsets": [start, end]}


@pytest.mark.parametrize(("data", "said"), [
    (made(), None), (made({"x": entry(4, 8), "y": entry(0, 4), "__metadata__": {}}), None), (made({}, b""), None),
    (made({"x": entry(0, 0), "y": entry(0, 8), "z": entry(8, 8)}), None), (made(shape=[2, 1, 1]), None),
    (made(dtype="U64", shape=[1]), None),
    (made(dtype="BOOL", shape=[8]), None), (made(dtype="BF16", shape=[4]), None), (b"", "cut short or damaged"),
    (made(size=10_000), "cut short or damaged"), (made()[:20], "cut short or damaged"), (made(size=0), "safetensors header"),
    (made({"__metadata__": {"a": 1}}, b""), "to map strings to strings"), (made({"__metadata__": []}, b""), "to map strings to strings"),
    (made({"x": 3}), "an entry with dtype, shape and data_offsets"), (made(more=1), "an entry with dtype"),
    (made(dtype="F31"), "'F31' is not a"),
    (made(dtype=["F32"]), "is not a safetensors type"), (made(shape=2), "not lists of sizes"), (made(shape=[-2]), "not lists of sizes"),
    (made(shape=[2.0]), "not lists of sizes"), (made(shape=[True, 2]), "not lists of sizes"),
    (made(data_offsets=[0]), "not lists of sizes"),
    (made(data_offsets=[0, 8, 8]), "not lists of sizes"), (made(data_offsets=["0", 8]), "not lists of sizes"),
    (made(shape=[3]), "its shape [3] does not fit its 8 bytes"), (made(shape=[1]), "does not fit its 8 bytes"),
    (made(data_offsets=[8, 0]), "does not fit its -8 bytes"), (made(data=bytes(7)), "does not fit its 8 bytes"),
    (made(data=bytes(9)), "expected 8 bytes of tensors in the safetensors file, got 9"), (made({}, b"x"), "expected 0 bytes of tensors"),
    (made({"x": entry(0, 4), "y": entry(4, 7)}), "expected 7 bytes of tensors in the safetensors file, got 8"),
    (made({"x": entry(0, 4), "y": entry(5, 8)}), "overlap or leave a gap"),
    (made({"x": entry(0, 5), "y": entry(4, 8)}), "overlap or leave"),
    (made({"x": entry(1, 8)}), "overlap or leave a gap"), (made({"x": entry(0, 8), "y": entry(0, 8)}), "overlap or leave a gap")])
def test_what_is_read_and_what_is_refused(data, said):
    if said is None:
        parse(data)
        return
    with pytest.raises(FormatError) as caught:
        parse(data)
    assert said in str(caught.value)


@pytest.mark.parametrize(("size", "after", "found"), [
    (2, b"{", 2), (0, b"{", 0), (MAX_HEADER, b"{", MAX_HEADER), (MAX_HEADER + 1, b"{", None), (2, b"[", None), (2, b"", None)])
def test_the_length_of_the_header(size, after, found):
    assert header_size(size.to_bytes(8, "little") + after) == found

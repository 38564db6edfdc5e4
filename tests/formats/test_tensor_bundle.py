"""Checkpoints' bytes: what is written comes back bit for bit, only what is asked for is read, and all damage is refused by name."""

from __future__ import annotations

import contextlib
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter.errors import FormatError
from exporter.files.place import Place
from exporter.formats import sstable, tensor_bundle
from exporter.formats.sstable import Table, is_table, unsnappy
from exporter.formats.tensor_bundle import TensorBundle, TensorSlices, open_checkpoint, slice_key
from exporter.formats.tensorflow_types import TYPES, dtype_of
from tests.make.tensor_files import DTYPES, encode, field, fixed32, literal, shape_proto, table, write_bundle, write_v1

MAGIC = bytes.fromhex("57fb808b247547db")  # of LevelDB's tables, which end in it
ANY_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
WEIGHTS = {"a/gamma": np.array([1, -2, 0.5], "f4"), "a/beta": np.array([[1, 2], [3, 4]], "f8"), "graph": [b"one", b"", b"three" * 99]}

dtypes = st.sampled_from(["float16", "float32", "float64"])
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)))
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda name: name[0] != "\0")


def opened(index):
    return open_checkpoint(Place(index))


def same(found, expected):
    return found.shape == expected.shape and found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


@ANY_FOLDER
@given(st.dictionaries(names, arrays, min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 5))
def test_round_trip(tmp_path, tensors, shards, per_block):
    index = write_bundle(tmp_path, "model", tensors, shards=shards, per_block=per_block)
    with opened(index) as checkpoint:
        assert isinstance(checkpoint, TensorBundle)
        assert checkpoint.names() == sorted(tensors, key=str.encode)
        for name, array in tensors.items():
            assert name in checkpoint
            assert checkpoint.info(name) == tensor_bundle.TensorInfo(str(array.dtype), array.shape)
            assert same(checkpoint.read(name), array)
        assert "no such name" not in checkpoint
        assert "" not in checkpoint


@ANY_FOLDER
@given(hnp.arrays("float32", 5, elements=st.floats(width=16, allow_nan=False)))
def test_bfloat16_is_read_as_float32(tmp_path, values):
    values = ((values.view("u4") >> 16) << 16).astype("u4").view("f4")
    with opened(write_bundle(tmp_path, "m", {"x": (values, "bfloat16")})) as checkpoint:
        assert checkpoint.info("x").dtype == "bfloat16"
        assert same(checkpoint.read("x"), values)


@given(st.lists(st.binary(max_size=300), max_size=5))
@ANY_FOLDER
def test_strings(tmp_path, strings):
    def shaped(entries):
        shape = field(2, shape_proto((len(strings),)))
        return [(key, value + shape if key == b"s" else value) for key, value in entries]

    with opened(write_bundle(tmp_path, "m", {"s": strings}, change=shaped)) as checkpoint:
        assert checkpoint.strings("s") == strings


def test_damaged_strings_are_noticed(tmp_path):
    """Of their lengths and of their letters there is a CRC each."""
    strings = [b"gamma", b"", b"beta" * 40]

    def shaped(entries):
        return [(key, value + field(2, shape_proto((3,))) if key == b"s" else value) for key, value in entries]

    index = write_bundle(tmp_path, "m", {"s": strings}, change=shaped)
    path = tmp_path / "m.data-00000-of-00001"
    sound = path.read_bytes()
    with opened(index) as checkpoint:
        assert checkpoint.strings("s") == strings
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1:])
        with opened(index) as checkpoint, pytest.raises(FormatError, match=r"CRC|lengths"):
            checkpoint.strings("s")


def test_a_shard_that_is_cut_while_it_is_read(tmp_path):
    with opened(write_bundle(tmp_path, "m", {"w": np.arange(6, dtype=np.float32), "s": [b"gamma"]})) as checkpoint:
        assert checkpoint.info("w").shape == (6,)
        assert checkpoint.read("w").tolist() == [0, 1, 2, 3, 4, 5]
        os.truncate(tmp_path / "m.data-00000-of-00001", 10)
        with pytest.raises(FormatError, match=r"w was cut off: m\.data-00000-of-00001 was truncated while it was being read"):
            checkpoint.read("w")


@pytest.mark.parametrize("count", [1, 2, 1 << 60])
def test_more_strings_than_there_is_room_for(tmp_path, count):
    index = write_bundle(tmp_path, "m", {"s": [b""]}, change=lambda entries: [
        (key, value + field(2, shape_proto((count,))) if key == b"s" else value) for key, value in entries])
    with opened(index) as checkpoint:
        if count == 1:
            assert checkpoint.strings("s") == [b""]
            return
        with pytest.raises(FormatError, match="tensor s is too small for its shape"):
            checkpoint.strings("s")


SLICES = {"rows": [[(0, 3), (0, -1)], [(3, 4), (0, -1)], [(7, 3), (0, -1)]], "columns": [[(0, -1), (0, 2)], [(0, 10), (2, 3)]],
          "whole": [[(0, -1), (0, -1)]], "far": [[(0, 70), (0, 5)], [(70, 200), (0, 5)]]}


@pytest.mark.parametrize("name", SLICES)
@pytest.mark.parametrize("write", ["V1", "V2"])
def test_slices_of_partitioned_variables(tmp_path, name, write):
    array = np.arange(1350 if name == "far" else 50, dtype="f4").reshape(-1, 5)
    if write == "V2":
        path = write_bundle(tmp_path, "m", {name: array}, slices={name: SLICES[name]}, shards=2)
    else:
        path = write_v1(tmp_path / "m", {name: array}, {name: SLICES[name]})
    with opened(path) as checkpoint:
        assert checkpoint.names() == [name]
        assert same(checkpoint.read(name), array)


@pytest.mark.parametrize(("extents", "what"), [
    ([[(0, 3), (0, -1)], [(2, 8), (0, -1)]], "overlap"),
    ([[(0, 3), (0, -1)]], "do not cover all of it"),
    ([[(0, 10)]], "another rank"),
    ([[(4, 7), (0, -1)]], "outside its shape"),
])
def test_slices_that_do_not_make_the_tensor(tmp_path, extents, what):
    array = np.zeros((10, 5), "f4")
    with opened(write_bundle(tmp_path, "m", {"w": array}, slices={"w": extents})) as checkpoint, pytest.raises(FormatError, match=what):
        checkpoint.read("w")
    with opened(write_v1(tmp_path / "v1", {"w": array}, {"w": extents})) as checkpoint, pytest.raises(FormatError, match=what):
        checkpoint.read("w")


@pytest.mark.parametrize(("change", "what"), [
    ({"dtype": 2}, "is stored in slices of several types"), ({"shape": (4, 5)}, "has a slice whose shape does not match its extent"),
    ({"shape": (15,)}, "has a slice whose shape does not match its extent")])
def test_slices_that_differ_from_what_lists_them(tmp_path, change, what):
    key = slice_key("w", ((0, 3), (0, -1)))
    bad = entry(**{"shape": (3, 5), "size": 60, **change})
    index = write_bundle(tmp_path, "m", {"w": np.zeros((10, 5), "f4")}, slices={"w": SLICES["rows"]}, change=replaced(key, bad))
    with opened(index) as checkpoint, pytest.raises(FormatError, match=what):
        checkpoint.read("w")


def v1_changed(path, change):
    """A V1 checkpoint of two tensors with changed entries."""
    write_v1(path, {"w": np.arange(4, dtype="f4"), "h": np.arange(4).astype("f2")})
    with Table(Place(path)) as found:
        entries = change(dict(found.items()))
    path.write_bytes(table(sorted(entries.items())))
    return path


KEY, HALF = slice_key("w", ((0, -1),)), slice_key("h", ((0, -1),))


@pytest.mark.parametrize(("name", "change", "what"), [
    ("w", lambda entries: {key: value for key, value in entries.items() if key != KEY}, "lacks a slice that the checkpoint lists"),
    ("w", lambda entries: {**entries, KEY: entries[HALF]}, "is stored under the key of another tensor"),
    ("w", lambda entries: {**entries, KEY: entries[KEY].replace(b"\x0a\x01w", b"\x0a\x01v")}, "is stored under the key of another tensor"),
    ("h", lambda entries: {**entries, HALF: entries[HALF].replace(encode(int(np.float16(3).view("u2"))), encode(1 << 16))},
     "has 16-bit numbers that do not fit 16 bits"),
    ("w", lambda entries: {**entries, b"": entries[b""].replace(shape_proto((4,)), shape_proto((5,)))}, "has 4 numbers, expected 5"),
], ids=["missing", "another tensor", "another name", "large", "few"])
def test_v1_entries_that_differ_from_what_lists_them(tmp_path, name, change, what):
    with opened(v1_changed(tmp_path / "m", change)) as checkpoint, pytest.raises(FormatError, match=f"tensor {name} {what}"):
        checkpoint.read(name)


def test_shards_that_differ_about_a_tensor_are_refused(tmp_path):
    write_v1(tmp_path / "m-00000-of-00002", {"a": np.zeros(4, "f4")})
    for other in (np.zeros(4, "f8"), np.zeros(5, "f4")):
        write_v1(tmp_path / "m-00001-of-00002", {"a": other})
        with pytest.raises(FormatError, match="tensor a has another type or shape in another shard"):
            opened(tmp_path / "m-00000-of-00002")
    (tmp_path / "m-00000-of-00002").rename(tmp_path / "m-00002-of-00002")
    with pytest.raises(FormatError, match="got shard 2 of 2"):
        opened(tmp_path / "m-00002-of-00002")


def test_numbers_are_no_strings(tmp_path):
    with opened(damaged(tmp_path)) as checkpoint, pytest.raises(FormatError, match="tensor a/gamma is not a tensor of strings"):
        checkpoint.strings("a/gamma")


def test_more_data_files_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_bundle, "MAX_OPEN", 2)
    tensors = {name: np.full(3, number, "f4") for number, name in enumerate("abcdef")}
    with opened(write_bundle(tmp_path, "m", tensors, shards=5)) as checkpoint:
        for name in "abcdefabc":
            assert same(checkpoint.read(name), tensors[name])
            assert len(checkpoint._files) <= 2


@ANY_FOLDER
@given(st.dictionaries(names, arrays.filter(lambda array: array.size), min_size=1, max_size=6))
def test_v1_round_trip(tmp_path, tensors):
    with opened(write_v1(tmp_path / "model.ckpt", tensors)) as checkpoint:
        assert isinstance(checkpoint, TensorSlices)
        assert checkpoint.names() == sorted(tensors)
        for name, array in tensors.items():
            assert checkpoint.info(name).shape == array.shape
            assert same(checkpoint.read(name), array)
        with pytest.raises(FormatError, match="missing"):
            checkpoint.read("no such name")


def test_v1_in_shards(tmp_path):
    a, b = np.arange(4, dtype="f4"), np.arange(6, dtype="f8")
    write_v1(tmp_path / "m-00000-of-00002", {"a": a})
    write_v1(tmp_path / "m-00001-of-00002", {"b": b})
    for number in (0, 1):
        with opened(tmp_path / f"m-0000{number}-of-00002") as checkpoint:
            assert same(checkpoint.read("a"), a)
            assert same(checkpoint.read("b"), b)
    (tmp_path / "m-00000-of-00002").unlink()
    with pytest.raises(FormatError, match="m-00000-of-00002 is missing"):
        opened(tmp_path / "m-00001-of-00002")


@pytest.mark.parametrize("value", [0, 1, 63, 64, 8191, 8192, 2**20 - 1, 2**20, 2**34, 2**62, 2**63 - 1, -1, -64, -65, -8193, -(2**63)])
def test_slice_keys_keep_the_order_of_numbers(value):
    keys = {other: slice_key("n", ((other, 0),)) for other in (value, value - 1, value + 1) if -(2**63) <= other < 2**63}
    assert [keys[other] for other in sorted(keys)] == sorted(keys.values())


@pytest.mark.parametrize(("name", "extents", "key"), [  # as TensorFlow 1.15 wrote them
    ("d", (), "0064000100"),
    ("h", ((0, -1),), "006800010101807f"),
    ("p/w1", ((7, 3),), "00702f7731000101018783"),
    ("p/w2", ((5, 2), (0, 5)), "00702f77320001010285828085"),
])
def test_slice_keys_are_those_of_tensorflow(name, extents, key):
    assert slice_key(name, extents) == bytes.fromhex(key)


@pytest.mark.parametrize(("value", "size"), [
    (0, 1), (63, 1), (64, 2), (8191, 2), (8192, 3), (-1, 1), (-64, 1), (-65, 2), (-8192, 2), (-8193, 3)])
def test_a_number_of_a_slice_key_has_seven_bits_a_byte_with_its_sign(value, size):
    assert len(slice_key("n", ((value, 0),))) == len(slice_key("n", ((0, 0),))) - 1 + size


def test_a_nul_in_a_name_is_escaped_in_its_slice_key():
    assert slice_key("a\0b", ()) == b"\0a\0\xffb\0\1\0"  # OrderedCode::WriteString: 0 is followed by 0xff, 0 and 1 end it


def test_only_the_blocks_and_bytes_asked_for_are_read(tmp_path, monkeypatch):
    tensors = {f"layer_{number:04}/kernel": np.zeros(1000, "f4") for number in range(500)}
    tensors["layer_0250/gamma"] = np.ones(4, "f4")
    index = write_bundle(tmp_path, "m", tensors, per_block=10)
    blocks, reads = [], []
    contents, data = Table._contents, TensorBundle._bytes
    monkeypatch.setattr(Table, "_contents", lambda self, *handle: blocks.append(handle) or contents(self, *handle))
    monkeypatch.setattr(TensorBundle, "_bytes", lambda self, name, entry: reads.append(name) or data(self, name, entry))
    with opened(index) as checkpoint:
        assert checkpoint.read("layer_0250/gamma").tolist() == [1, 1, 1, 1]
    assert len(blocks) == 4, "the index of the blocks, the empty one of metadata, the block of the header, the block of the key"
    assert reads == ["layer_0250/gamma"]


# ---- damage

def damaged(tmp_path, change=None, header=None, **options):
    return write_bundle(tmp_path, "m", WEIGHTS, change=change, header=header, **options)


def replaced(key, entry):
    return lambda entries: [(k, entry if k == key else v) for k, v in entries]


def entry(dtype=1, shape=(3,), shard=0, offset=0, size=12, crc=0):
    return field(1, dtype) + field(2, shape_proto(shape)) + field(3, shard) + field(4, offset) + field(5, size) + fixed32(6, crc)


@pytest.mark.parametrize(("bad", "what"), [
    (entry(crc=7), "damaged: its CRC does not match"),
    (entry(dtype=7), "has type string, expected a floating point type"),
    (entry(dtype=9), "has type int64"),
    (entry(dtype=999), "number 999, which is unknown"),
    (entry(shape=(-1,)), "unknown dimension"),
    (entry(shape=(2**40,)), "does not match its shape"),
    (entry(shape=(2**32, 2**32), size=0), "does not match its shape"),
    (entry(size=2**60), "does not match its shape"),
    (entry(shape=(2**40,), size=2**42), "may be cut short"),
    (entry(offset=2**40), "is outside m.data-00000-of-00001"),
    (entry(offset=-4), "is outside"),
    (entry(shard=7), "data shard 7, but there are 1"),
    (entry(shard=-1), "data shard -1, but there are 1"),
    (b"\xff\xff\xff\xff\x0f\x01", "entry of a/gamma"),
    (entry(shape=(1,) * 300, size=4), "300 dimensions"),
    (field(1, 1) + field(2, field(3, 1)) + field(5, 4), "unknown dimension"),
])
def test_bad_entries(tmp_path, bad, what):
    with opened(damaged(tmp_path, replaced(b"a/gamma", bad))) as checkpoint, pytest.raises(FormatError, match=what) as caught:
        checkpoint.read("a/gamma")
    assert "m.index" in caught.value.where


@pytest.mark.parametrize(("header", "what"), [
    (field(1, 1) + field(2, 1), "big-endian"),
    (field(1, 2**31 - 1), "expected 1 to 10000 data shards, got 2147483647"),
    (b"", "0 data shards"),
    (b"\x0f", "bad header"),
    (field(1, 1) + field(3, field(2, 9)), "a version of TensorFlow that does not exist yet"),
])
def test_bad_headers(tmp_path, header, what):
    with pytest.raises(FormatError, match=what):
        opened(damaged(tmp_path, header=header))


@pytest.mark.parametrize(("change", "what"), [
    (lambda entries: entries[1:], "no header"),
    (lambda entries: [*entries, entries[-1]], "a key occurs more than once"),
    (lambda entries: [entries[0], *entries[:0:-1]], "keys out of order"),
])
def test_bad_orders(tmp_path, change, what):
    with pytest.raises(FormatError, match=what):
        opened(damaged(tmp_path, change, per_block=99)).names()


def test_a_data_file_that_is_missing_or_short(tmp_path):
    index = damaged(tmp_path)
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:10])
    with opened(index) as checkpoint, pytest.raises(FormatError, match=r"is outside .* which has 10 bytes"):
        checkpoint.read("a/beta")
    data.unlink()
    with opened(index) as checkpoint, pytest.raises(FormatError, match="data-00000-of-00001 is missing"):
        checkpoint.read("a/beta")


def test_a_tensor_over_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_bundle, "MAX_TENSOR", 8)
    with opened(damaged(tmp_path)) as checkpoint, pytest.raises(FormatError, match="expected at most 8"):
        checkpoint.read("a/gamma")
    slices = {"v": [[(0, 2)], [(2, 1)]]}
    with opened(write_v1(tmp_path / "v1", {"v": np.ones(3, "f4")}, slices)) as checkpoint:
        with pytest.raises(FormatError, match=r"tensor v of shape \[3\] has more than the limit of 8 bytes"):
            checkpoint.read("v")
        monkeypatch.setattr(tensor_bundle, "MAX_TENSOR", 12)
        assert checkpoint.read("v").tolist() == [1, 1, 1]


def test_an_index_without_its_suffix_and_a_name_that_is_no_text(tmp_path):
    """Of what lies at such a place the data files are not known; a name is compared as bytes."""
    index = write_bundle(tmp_path, "m", {"v": np.ones(3, "f4")})
    index.rename(tmp_path / "m.table")
    with opened(tmp_path / "m.table") as checkpoint:
        assert checkpoint.names() == ["v"]
        with pytest.raises(FormatError, match="give the path of the file on disk: the names of the data files are derived from its own"):
            checkpoint.read("v")
    (tmp_path / "n.index").write_bytes(table([(b"", field(1, 1)), (b"\xff", b"")]))
    with opened(tmp_path / "n.index") as checkpoint, pytest.raises(FormatError, match="a tensor's name is not UTF-8"):
        checkpoint.names()


def test_more_blocks_than_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sstable, "BLOCKS_KEPT", 2)
    entries = [(b"key%d" % number, b"%d" % number) for number in range(9)]
    (tmp_path / "t").write_bytes(table(entries, per_block=1))
    with Table(Place(tmp_path / "t")) as found:
        for key, value in entries + entries[::-1]:
            assert found.get(key) == value
            assert len(found._kept) <= 2


def test_every_flipped_bit_of_an_index_is_noticed(tmp_path):
    index = damaged(tmp_path)
    sound = index.read_bytes()
    for number in range(len(sound)):
        index.write_bytes(sound[:number] + bytes([sound[number] ^ 1 << number % 8]) + sound[number + 1 :])
        with pytest.raises(FormatError):
            read_all(index)


def test_every_cut_of_an_index_is_noticed(tmp_path):
    index = damaged(tmp_path)
    sound = index.read_bytes()
    for size in range(len(sound)):
        index.write_bytes(sound[:size])
        with pytest.raises(FormatError):
            read_all(index)


def read_all(index):
    with opened(index) as checkpoint:
        for name in checkpoint.names():
            if checkpoint.info(name).dtype == "string":
                checkpoint.strings(name)
            else:
                checkpoint.read(name)


@ANY_FOLDER
@given(st.data())
def test_damage_under_a_sound_crc(tmp_path, data):
    """Entries and keys of any bytes: read or refused, never another exception."""
    junk = st.binary(max_size=40)
    extra = data.draw(st.lists(st.tuples(junk, junk), max_size=4))
    swapped = data.draw(st.dictionaries(st.sampled_from(sorted(name.encode() for name in WEIGHTS)), junk, max_size=2))
    index = damaged(tmp_path, lambda entries: [*((k, swapped.get(k, v)) for k, v in entries), *extra])
    with contextlib.suppress(FormatError):
        read_all(index)


# ---- tables

@given(st.binary(max_size=2000), st.integers(0, 5))
def test_tables_of_any_bytes_are_refused(tmp_path_factory, data, footer):
    path = tmp_path_factory.mktemp("t") / "t"
    path.write_bytes(data + (b"\0" * footer * 8 + struct.pack("<Q", sstable.MAGIC) if footer else b""))
    with pytest.raises(FormatError), Table(Place(path)) as found:
        list(found.items())


def sealed(content, kind=0):
    """A block of any content, with the right CRC."""
    whole = content + bytes([kind])
    return whole + struct.pack("<I", sstable.masked_crc(whole))


ENTRY = b"\0\1\1bv"  # shares nothing with the key before; the key b, the value v
RESTARTS = struct.pack("<II", 0, 1)


def of_blocks(first):
    """A table of one block, which the index says ends with the key b."""
    def handle(at, size):
        return encode(at) + encode(size - 5)

    meta = sealed(RESTARTS)
    index = sealed(b"\0\1" + encode(len(handle(0, len(first)))) + b"b" + handle(0, len(first)) + RESTARTS)
    footer = handle(len(first), len(meta)) + handle(len(first) + len(meta), len(index))
    return first + meta + index + footer.ljust(40, b"\0") + struct.pack("<Q", sstable.MAGIC)


@pytest.mark.parametrize(("content", "what"), [
    (ENTRY + RESTARTS, None),
    (b"\0\0\0", "bad block: no terminator"), (ENTRY + struct.pack("<II", 0, 3), "bad block: more restart points than bytes"),
    (b"\0\0\0" + struct.pack("<I", 1), "bad block: more restart points than bytes"),
    (ENTRY + struct.pack("<II", 0, 1 << 31), "bad block: more restart points than bytes"),
    (b"\1\1\1bv" + RESTARTS, "bad entry: it is longer than its block, or shares more"),
    (b"\0\1\2bv" + RESTARTS, "bad entry: it is longer than its block"), (b"\0\3\0bv" + RESTARTS, "bad entry: it is longer than its block"),
    (b"\0\1\1cv" + RESTARTS, "do not match the index"), (RESTARTS, "do not match the index"), (bytes(4), "do not match the index"),
], ids=["sound", "short", "restarts", "odd restarts", "many restarts", "shared", "value", "key", "another key", "empty",
        "no restarts"])
def test_blocks_that_are_wrong_under_a_right_crc(tmp_path, content, what):
    (tmp_path / "t").write_bytes(of_blocks(sealed(content)))
    with Table(Place(tmp_path / "t")) as found:
        if what is None:
            assert list(found.items()) == [(b"b", b"v")]
            return
        with pytest.raises(FormatError, match=what):
            list(found.items())


def test_a_block_outside_of_the_file_means_that_it_is_cut_short(tmp_path):
    data = of_blocks(sealed(ENTRY + RESTARTS))
    far = (encode(1 << 20) + encode(10)) * 2
    (tmp_path / "t").write_bytes(data[:-sstable.FOOTER] + far.ljust(40, b"\0") + data[-8:])
    with pytest.raises(FormatError, match="a block is outside the file, which may be cut short"), Table(Place(tmp_path / "t")) as found:
        list(found.items())


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    (tmp_path / "t").write_bytes(of_blocks(sealed(ENTRY + RESTARTS)))
    with Table(Place(tmp_path / "t")) as found:
        os.truncate(tmp_path / "t", 10)
        with pytest.raises(FormatError, match="t: the file was truncated while it was being read"):
            found.get(b"b")


def test_a_compression_that_is_not_known(tmp_path):
    (tmp_path / "t").write_bytes(of_blocks(sealed(ENTRY + RESTARTS, kind=2)))
    with Table(Place(tmp_path / "t")) as found, pytest.raises(FormatError, match="unknown compression of a block: 2"):
        list(found.items())


def test_a_block_over_the_limit_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "t").write_bytes(of_blocks(sealed(b"\0\1\x64b" + b"v" * 100 + RESTARTS)))
    monkeypatch.setattr(sstable, "MAX_BLOCK", 100)
    with Table(Place(tmp_path / "t")) as found, pytest.raises(FormatError, match="expected a block of at most 100 bytes, got 112"):
        list(found.items())


@pytest.mark.parametrize("size", [0, 1, 100, 70_000])
def test_compressed_blocks(tmp_path, size):
    entries = [(b"key%05d" % number, b"v" * size) for number in range(5)]
    path = tmp_path / "t"
    path.write_bytes(table(entries, compress=literal))
    with Table(Place(path)) as found:
        assert list(found.items()) == entries
        assert found.get(b"key00003") == b"v" * size
        assert found.get(b"key00003x") is None
        assert found.get(b"z") is None
    assert is_table(Place(path))


@pytest.mark.parametrize(("size", "ending", "is_one"), [(48, MAGIC, True), (47, MAGIC, False), (8, MAGIC, False), (100, MAGIC, True),
                                                        (100, MAGIC[::-1], False), (0, b"", False)])
def test_what_ends_as_a_table(tmp_path, size, ending, is_one):
    (tmp_path / "t").write_bytes(ending.rjust(size, b"\0"))
    assert is_table(Place(tmp_path / "t")) is is_one
    assert not is_table(Place(tmp_path))


def test_keys_that_share_too_much_are_refused(tmp_path):
    long = b"k" * 40_000
    path = tmp_path / "t"
    path.write_bytes(table([(b"", b""), *((long + b"%05d" % number, b"") for number in range(1000))], per_block=5000))
    with pytest.raises(FormatError, match="bytes of keys in one block"), Table(Place(path)) as found:
        list(found.items())


@pytest.mark.parametrize(("data", "expected"), [
    (bytes([5, 4 << 2]) + b"hello", b"hello"),
    (bytes([11, 0 << 2]) + b"a" + bytes([(6 << 2 | 1), 1]), b"a" * 11),          # a copy that overlaps what it writes
    (bytes([9, 2 << 2]) + b"abc" + bytes([5 << 2 | 2, 3, 0]), b"abc" * 3),       # two-byte offset
    (bytes([8, 2 << 2]) + b"abc" + bytes([4 << 2 | 2, 3, 0]), b"abcabcab"),      # that ends in the middle of what it repeats
    (bytes([6, 2 << 2]) + b"abc" + bytes([2 << 2 | 3, 3, 0, 0, 0]), b"abcabc"),  # four-byte offset
    (encode(1281) + b"\0a" + bytes([63 << 2 | 2, 1, 0]) * 20, b"a" * 1281),      # twenty times as much as it takes
])
def test_snappy(data, expected):
    assert unsnappy(data, len(expected)) == expected
    with pytest.raises(FormatError, match=f"it declares {len(expected)} bytes"):
        unsnappy(data, len(expected) - 1)


@pytest.mark.parametrize("data", [
    b"", b"\x80", bytes([200, 1, 0]), bytes([5, 4 << 2]) + b"hel", bytes([4, 4 << 2]) + b"hello", bytes([6, 4 << 2]) + b"hello",
    bytes([9, 2 << 2]) + b"abc" + bytes([5 << 2 | 2, 4, 0]), bytes([9, 2 << 2]) + b"abc" + bytes([5 << 2 | 2, 0, 0]),
    bytes([9, 2 << 2]) + b"abc" + bytes([5 << 2 | 2, 3]), bytes([4, 62 << 2, 255, 255]),
])
def test_damaged_snappy(data):
    with pytest.raises(FormatError):
        unsnappy(data, 100)


# ---- CRC-32C

@pytest.mark.parametrize(("data", "crc"), [  # RFC 3720, appendix B.4
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (b"123456789", 0xE3069283), (b"", 0),
])
def test_crc_of_the_standard(data, crc):
    rotated = sstable.masked_crc(data) - 0xA282EAD8 & 0xFFFFFFFF
    assert (rotated << 15 | rotated >> 17) & 0xFFFFFFFF == crc


def test_types_are_those_of_the_format():
    assert {name: dtype_of(number).name for name, number in DTYPES.items()} == {name: name for name in DTYPES}
    for number, dtype in TYPES.items():
        assert (dtype.number, dtype.kind == "other") == (number, not dtype.numpy)
        if dtype.numpy and dtype.name != "bfloat16":
            assert np.dtype(dtype.numpy).name == dtype.name
    others = {7: "string", 8: "complex64", 10: "bool", 11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16",
              18: "complex128", 20: "resource", 21: "variant"}  # types.proto
    assert {number: dtype_of(number).name for number in others} == others
    assert dtype_of(99).name == "number 99, which is unknown"
    assert encode(300) == b"\xac\x02"

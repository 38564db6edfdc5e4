"""The door to HDF5: what comes out is bit-exact, what a model file has no use for is refused before it is read."""

from __future__ import annotations

import gc
import os
import struct
import subprocess
import sys
import weakref
import zlib

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import FormatError
from exporter.files.input_file import MemoryFile, PieceFile, Windows
from exporter.files.place import Place
from exporter.formats import hdf5, hdf5_file, hdf5_objects, hdf5_overlap, hdf5_plain, hdf5_storage
from exporter.formats.hdf5 import is_hdf5, open_hdf5, superblock_at
from exporter.formats.zip_archive import Window


@pytest.fixture
def made(tmp_path):
    """made(fill, **options) -> an open File, after `fill` wrote the file."""
    files = []

    def make(fill, **options):
        path = tmp_path / f"{len(files)}.h5"
        with h5py.File(path, "w", **options) as file:
            fill(file)
        files.append(open_hdf5(Place(path)))
        return files[-1]

    yield make
    for file in files:
        file.close()


def test_a_closed_file_is_freed_at_once(tmp_path):
    """Its bytes, too: a batch would otherwise hold those of dozens of files until cycles are searched for."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["v"] = np.zeros(3, np.float32)
    gc.disable()
    try:
        with open_hdf5(Place(tmp_path / "m.h5")) as file:
            assert file.array("v")[0].size == 3
        is_there = weakref.ref(file)
        del file
        assert is_there() is None
    finally:
        gc.enable()


def test_what_libhdf5_says_of_a_file_that_it_cannot_open(tmp_path):
    """Whether it opens the file itself or is given its bytes."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["v"] = np.zeros(3, np.float32)
    with open(tmp_path / "m.h5", "r+b") as file:
        file.seek(16)  # of the superblock: half the number of entries in a leaf
        file.write(b"\0")
        file.seek(0)
        data = file.read()
    for source in (Place(tmp_path / "m.h5"), MemoryFile(data)):
        with pytest.raises(FormatError, match="HDF5 cannot open this file: bad symbol table leaf node"), open_hdf5(source) as file:
            file.names("")


def refused(call, *words):
    with pytest.raises(FormatError) as error:
        call(*words)
    return str(error.value)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_every_bit_pattern_survives(made, name, order):
    width = np.dtype(name).itemsize
    raw = np.random.default_rng(1).integers(0, 256, 600 * width, np.uint8)
    values = raw.view(np.dtype(name).newbyteorder(order))
    got, kind = made(lambda file: file.create_dataset("a/b", data=values)).array("a/b")
    assert kind == name
    assert got.dtype == np.dtype(name)
    assert got.astype(got.dtype.newbyteorder(order)).tobytes() == raw.tobytes()


@pytest.mark.parametrize("orders", ["<<<<", ">>>>", "<<><", "><<<"])
def test_the_parameters_of_a_layer_have_one_byte_order(made, orders):
    """With two, the type of one is damaged, and its numbers are others."""
    def fill(file):
        for name, order in zip("abcd", orders):
            file[f"g/{name}"] = np.arange(3).astype(f"{order}f4")

    file, paths = made(fill), ["g/a", "g/b", "g/c", "g/d"]
    if len({*orders}) == 1:
        assert [values.tolist() for values, _ in file.arrays(paths)] == [[0, 1, 2]] * 4
    else:
        said = refused(file.arrays, paths)
        assert said.endswith("g: expected the parameters of a layer in one byte order, got big-endian and little-endian ones")
        assert file.array("g/a")[0].tolist() == file.array("g/c")[0].tolist() == [0, 1, 2]


def test_a_vector_that_is_no_object_any_more_is_named(tmp_path):
    """Of several that are asked for together."""
    with h5py.File(tmp_path / "whole.h5", "w") as whole:
        whole["g/a"], whole["g/b"] = np.arange(3, dtype="f4"), np.arange(3, dtype="f4")
        place = h5py.h5o.get_info(whole["g/b"].id).addr
    data = bytearray((tmp_path / "whole.h5").read_bytes())
    data[place: place + 64] = bytes(64)
    with open_hdf5(MemoryFile(bytes(data))) as damaged:
        assert "g/b: " in refused(damaged.arrays, ["g/a", "g/b"])


def test_bfloat16_is_what_keras_marks_as_such(made):
    bits = np.arange(1 << 16, dtype="<u2")

    def fill(file):
        file.create_dataset("b", data=bits.view("V2")).attrs["dtype"] = "bfloat16"
        file.create_dataset("opaque", data=bits[:4].view("V2"))
        file.create_dataset("other", data=bits[:4].view("V2")).attrs["dtype"] = "float8"
        file.create_dataset("whole", data=bits[:4]).attrs["dtype"] = "bfloat16"

    file = made(fill)
    values, kind = file.array("b")
    assert (kind, values.dtype) == ("bfloat16", np.float32)
    assert (values.view(np.uint32) >> 16).astype("<u2").tobytes() == bits.tobytes()
    assert [file.dtype(name) for name in ("b", "opaque", "whole")] == ["bfloat16", None, None]
    assert "integers" in refused(file.array, "whole")
    assert "opaque bytes" in refused(file.array, "opaque")
    assert "opaque bytes" in refused(file.array, "other")


def test_bfloat16_as_hdf5_2_writes_it(made):
    def fill(file):
        kind = h5py.h5t.IEEE_F16LE.copy()
        kind.set_fields(15, 7, 8, 0, 7)
        kind.set_ebias(127)
        dataset = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((3,)))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([0x3F80, 0xC000, 0x3DCD], "<u2").view("V2"), mtype=kind)

    values, dtype = made(fill).array("x")
    assert (dtype, values.tolist()) == ("bfloat16", [1.0, -2.0, float(np.float32(0.10009765625))])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 4, 1, 2)])
def test_shapes(made, shape):
    file = made(lambda file: file.create_dataset("x", data=np.ones(shape, np.float32)))
    assert file.shape("x") == shape
    assert file.size("x") == 4 * int(np.prod(shape))
    assert file.array("x")[0].shape == shape


@pytest.mark.parametrize("options", [
    {"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True, "compression": "gzip", "fletcher32": True},
    {"shuffle": True, "compression": "lzf", "fletcher32": True}, {"fletcher32": True}, {"shuffle": True}])
@pytest.mark.parametrize("chunk", [7, 100, 600])
def test_packed_data(made, options, chunk):
    values = np.repeat(np.random.default_rng(0).normal(size=60), 10).astype(np.float32)
    file = made(lambda file: file.create_dataset("x", data=values, chunks=(chunk,), **options))
    assert file.array("x")[0].tobytes() == values.tobytes()


def test_compact_storage(made):
    def fill(file):
        properties = h5p.create(h5p.DATASET_CREATE)
        properties.set_layout(h5d.COMPACT)
        h5d.create(file.id, b"x", h5t.IEEE_F32LE, h5s.create_simple((3,)), properties).write(h5s.ALL, h5s.ALL, np.arange(3, dtype="f4"))

    assert made(fill).array("x")[0].tolist() == [0, 1, 2]


def test_names_kinds_and_walk(made):
    def fill(file):
        file.create_group("a/b")
        file["a/x"] = np.float32([1])
        file["soft"], file["far"] = h5py.SoftLink("/a"), h5py.ExternalLink("else.h5", "/")
        file["type"] = np.dtype("f4")
        file["a/again"] = file["a"]

    file = made(fill)
    assert file.names("") == ["a", "far", "soft", "type"]
    kinds = {path: file.kind(path) for path in ("", "a", "a/x", "soft", "far", "type", "none", "a/none", "soft/x")}
    assert kinds == {"": "group", "a": "group", "a/x": "dataset", "soft": "soft link", "far": "external link", "type": "named type",
                     "none": None, "a/none": None, "soft/x": None}
    assert list(file.walk()) == ["", "a", "a/b"]  # the circle a/again is gone round once
    assert file.identity("a") == file.identity("a/again")
    assert (file.exists("soft"), file.exists("none"), file.is_group("a"), file.is_group("a/x")) == (True, False, True, False)


def test_attributes(made):
    def fill(file):
        file.attrs["vlen"], file.attrs["fixed"] = "é text", np.bytes_(b"fixed")
        file.attrs["list"] = ["a", "é", ""]
        file.attrs["bytes"] = np.array([b"a", "é".encode(), b""])
        file.attrs["empty"] = np.array([])  # as Keras writes an empty list
        file.attrs["null"], file.attrs["number"], file.attrs["float"] = h5py.Empty("f"), 7, 1.5
        file.attrs["bad"] = np.array([b"\xff\xfe"])

    file = made(fill)
    assert (file.text("", "vlen"), file.text("", "fixed"), file.text("", "none")) == ("é text", "fixed", None)
    assert file.strings("", "list") == file.strings("", "bytes") == ["a", "é", ""]
    assert (file.strings("", "empty"), file.strings("", "none")) == ([], None)
    assert (file.integer("", "number"), file.integer("", "none")) == (7, None)
    assert "expected one string" in refused(file.text, "", "list")
    assert "is empty" in refused(file.text, "", "null")
    assert "is integers of 8 bytes each, expected text" in refused(file.text, "", "number")
    assert "not an integer" in refused(file.integer, "", "float")
    assert "not UTF-8" in refused(file.strings, "", "bad")


def test_lists_in_pieces(made):
    def fill(file):
        for number, piece in enumerate(([b"a", b"b"], [b"c"], [b"d"])):
            file.attrs[f"whole{number}"] = np.array(piece)
            if number != 1:
                file.attrs[f"gap{number}"] = np.array(piece)
        file.attrs["both"], file.attrs["both0"] = np.array([b"a"]), np.array([b"a"])
        for number in range(11):
            file.attrs[f"many{number}"] = np.array([f"{number}".encode()])
        for other in ("01", "x", "-1", "1_0", "1.0", "0000000000"):  # no numbers as Keras writes them
            file.attrs[f"many{other}"] = np.array([b"other"])

    file = made(fill)
    assert file.strings("", "whole") == ["a", "b", "c", "d"]
    assert file.strings("", "many") == [str(number) for number in range(11)]
    assert "gap1 is missing" in refused(file.strings, "", "gap")
    assert "expected both or both0, got both" in refused(file.strings, "", "both")


def add_external(file):
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_external(b"/etc/hostname", 0, 16)
    h5d.create(file.id, b"x", h5t.IEEE_F32LE, h5s.create_simple((4,)), properties)


def add_virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "y", (4,))
    file.create_virtual_dataset("x", layout)


def add_unknown_filter(file):
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_filter(32001, 1, (1,))  # optional, so that it can be written where the plugin is missing
    h5d.create(file.id, b"x", h5t.IEEE_F32LE, h5s.create_simple((4,)), properties).write(h5s.ALL, h5s.ALL, np.ones(4, "f4"))


def add_twice_packed(file):
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_deflate(9)
    properties.set_deflate(9)
    h5d.create(file.id, b"x", h5t.IEEE_F32LE, h5s.create_simple((4,)), properties).write(h5s.ALL, h5s.ALL, np.ones(4, "f4"))


def add_partly_written(file):
    file.create_dataset("x", (64,), "f4", chunks=(16,))[:16] = 1


REFUSED = [
    (lambda file: file.__setitem__("x", h5py.SoftLink("/y")), "soft link"),
    (lambda file: file.__setitem__("x", h5py.ExternalLink("y.h5", "/")), "external link"),
    (lambda file: file.create_group("x"), "expected a dataset here, got a group"),
    (lambda file: file.__setitem__("x", np.dtype("f4")), "expected a dataset here, got a named type"),
    (lambda file: file.create_dataset("x", data=np.arange(3)), "integers of 8 bytes"),
    (lambda file: file.create_dataset("x", data=np.array([True])), "enumeration"),
    (lambda file: file.create_dataset("x", data=np.ones(3, np.complex64)), "compound"),
    (lambda file: file.create_dataset("x", data=np.array([b"abc"])), "text"),
    (lambda file: file.create_dataset("x", data=["abc"]), "text"),
    (lambda file: file.create_dataset("x", (2,), h5py.ref_dtype), "references"),
    (lambda file: file.create_dataset("x", (2,), h5py.vlen_dtype("f4")), "variable length"),
    (lambda file: file.create_dataset("x", (2,), np.dtype(("f4", (3,)))), "arrays"),
    (lambda file: file.create_dataset("x", data=np.ones(3, np.longdouble)), "unusual floating point"),
    (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "this dataset is empty"),
    (lambda file: file.create_dataset("x", (4,), "f4"), "never written"),
    (lambda file: file.create_dataset("x", (4,), "f4", chunks=(2,)), "never written"),
    (add_partly_written, "expected 4 stored chunks, got 1"),
    (lambda file: file.create_dataset("x", (1 << 40,), "f4", chunks=(1 << 20,)), "expected at most 1048576 values"),
    (lambda file: file.create_dataset("x", (1 << 21,), "f4"), "expected at most 1048576 values"),
    (add_external, "another file"),
    (add_virtual, "virtual"),
    (add_unknown_filter, "filter 32001"),
    (add_twice_packed, "compressed twice"),
    (lambda file: file.create_dataset("x", data=np.ones(4, "f4"), chunks=(1 << 19,), maxshape=(None,), compression="gzip"),
     "got chunks of 2097152 bytes"),
]


@pytest.mark.parametrize(("fill", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_refused_before_it_is_read(made, fill, said):
    file = made(fill)
    assert said in refused(file.array, "x")
    assert "x" in refused(file.array, "x")


def test_links_on_the_way(made):
    def fill(file):
        file["real/x"] = np.ones(2, "f4")
        file["soft"], file["far"] = h5py.SoftLink("/real"), h5py.ExternalLink("e.h5", "/real")

    file = made(fill)
    assert "soft link" in refused(file.array, "soft/x")
    assert "external link" in refused(file.names, "far/x")
    assert "the file contains no object of this name" in refused(file.array, "real/y")
    for name in ("../x", "real/../x", "/real/x", "real//x", "real/./x", "real/\ud800"):
        assert "is not a valid name in an HDF5 file" in refused(file.array, name)


def test_named_type_as_element_type(made):
    def fill(file):
        file["type"] = np.dtype("f4")
        file.create_dataset("x", data=np.ones(3, "f4"), dtype=file["type"])

    assert "committed (named) datatype" in refused(made(fill).array, "x")


def test_deep_groups(made):
    file = made(lambda file: file.create_group("/".join("a" * 100)))
    assert "at most 64 levels deep" in refused(lambda: list(file.walk()))


def test_total_of_what_is_read(made, monkeypatch):
    file = made(lambda file: file.create_dataset("x", data=np.ones(100, "f4")))
    monkeypatch.setattr(hdf5_file, "MAX_BYTES", 1000)
    file.array("x")
    file.array("x")
    assert "expected at most 1000 bytes of parameters and attributes, got more" in refused(file.array, "x")


def with_chunk(tmp_path, packed, **options):
    """A file whose only chunk, of 400 bytes, is stored as `packed`."""
    with h5py.File(tmp_path / "c.h5", "w") as file:
        dataset = file.create_dataset("x", (100,), "f4", chunks=(100,), **options)
        dataset.id.write_direct_chunk((0,), packed)
    return open_hdf5(Place(tmp_path / "c.h5"))


@pytest.mark.parametrize(("packed", "said"), [
    (zlib.compress(b"\0" * 396), "expected a chunk to decompress to 400 bytes, got 396"),
    (zlib.compress(b"\0" * 401), "expected a chunk to decompress to 400 bytes, got 401"),
    (zlib.compress(b"\0" * (1 << 19)), "expected a chunk to decompress to 400 bytes, got 405"),
    (zlib.compress(b"\0" * (1 << 26)), "expected at most the 400 bytes of a chunk"),
    (zlib.compress(b"\0" * 400)[:-8], "expected a chunk to decompress to 400 bytes, got 260"),
    (b"garbage" * 9, "a chunk cannot be decompressed: Error -3 while decompressing data: incorrect header check"),
])
def test_chunk_of_another_size(tmp_path, packed, said):
    with with_chunk(tmp_path, packed, compression="gzip") as file, pytest.raises(FormatError, match=said):
        file.array("x")


def test_short_lzf_chunk(tmp_path):
    with with_chunk(tmp_path, bytes([3, 1, 2, 3, 4]), compression="lzf") as file:
        assert "expected a chunk to decompress to 400 bytes, got 4" in refused(file.array, "x")


def test_checksum(tmp_path):
    values = np.arange(100, dtype="f4")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        dataset = file.create_dataset("x", data=values, chunks=(100,), fletcher32=True)
        offset = dataset.id.get_chunk_info(0).byte_offset
    data = bytearray((tmp_path / "f.h5").read_bytes())
    data[offset + 8] ^= 1
    (tmp_path / "f.h5").write_bytes(data)
    with open_hdf5(Place(tmp_path / "f.h5")) as file:
        assert "HDF5 cannot read this" in refused(file.array, "x")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("block", [0, 512, 2048])
def test_superblocks_and_truncation(tmp_path, libver, block):
    path = tmp_path / "t.h5"
    with h5py.File(path, "w", libver=libver, userblock_size=block) as file:
        file["x"] = np.arange(1000, dtype="f4")
    data = path.read_bytes()
    assert superblock_at(MemoryFile(data)) == block
    assert is_hdf5(Place(path))
    with open_hdf5(Place(path)) as file:
        assert file.array("x")[0][999] == 999
    with open_hdf5(MemoryFile(data)) as file:
        assert file.array("x")[0][999] == 999
    path.write_bytes(data[:-5])
    assert f"expected {len(data)} bytes, got {len(data) - 5} (5 are missing)" in refused(open_hdf5, Place(path))
    for size in (block + 8, block + 9, block + 20, block + 40):
        assert "cut short" in refused(open_hdf5, MemoryFile(data[:size]))


@pytest.mark.parametrize(("version", "width_at", "first"), [(0, 13, 24), (1, 13, 28), (2, 9, 12), (3, 9, 12), (4, 9, 12)])
def test_where_each_version_of_the_superblock_says_how_long_the_file_is(version, width_at, first):
    block = bytearray(b"\x89HDF\r\n\x1a\n" + b"\7" * 88)
    block[8], block[width_at] = version, 4
    struct.pack_into("<I", block, first + 8, 96)
    if version == 4:
        assert "expected an HDF5 superblock of version 0 to 3, got version 4" in refused(hdf5._check_extent, MemoryFile(block), 0)
        return
    hdf5._check_extent(MemoryFile(block), 0)
    hdf5._check_extent(MemoryFile(block + b"PK\5\5"), 0)
    assert "an HDF5 file and a zip archive at once" in refused(hdf5._check_extent, MemoryFile(block + b"PK\5\6" + bytes(65553)), 0)
    assert "expected 96 bytes, got 95 (1 are missing)" in refused(hdf5._check_extent, MemoryFile(block[:95]), 0)


def test_only_pieces_of_a_near_file_on_disk_are_read_with_what_follows(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["x"] = np.ones(1 << 16, "f4")
    far = MemoryFile((tmp_path / "m.h5").read_bytes())
    far.is_far = True
    with Place(tmp_path / "m.h5").open() as near:
        for source, kind in ((near, Windows), (Window(near, 0, 1 << 20), Windows), (Window(far, 0, 1 << 20), Window), (far, MemoryFile)):
            with open_hdf5(source) as file:
                assert type(file._read_at.__self__) is kind


def test_of_a_small_file_far_away_only_what_is_needed_is_read(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["kernel"], file["gamma"] = np.ones(20000, "f4"), np.arange(3, dtype="f4")
    data = (tmp_path / "m.h5").read_bytes()
    assert len(data) < hdf5.MAX_WHOLE

    class Far(PieceFile):
        is_far, spent = True, 0

        def read_at(self, at, size):
            self.spent += len(piece := data[at: at + size])
            return piece

        def fetch_ahead(self, ranges):
            self.spent += sum(end - start for start, end in ranges)

    far = Far(len(data))
    with open_hdf5(far) as file:
        assert file.array("gamma")[0].tolist() == [0, 1, 2]
    assert 0 < far.spent < 20000


def test_what_is_not_hdf5(tmp_path):
    (tmp_path / "a").write_bytes(b"no such thing" * 100)
    assert not is_hdf5(Place(tmp_path / "a"))
    assert not is_hdf5(Place(tmp_path))
    assert "signature is missing" in refused(open_hdf5, Place(tmp_path / "a"))
    assert "got version 77" in refused(open_hdf5, MemoryFile(hdf5.SIGNATURE + bytes([77]) * 100))
    with h5py.File(tmp_path / "h", "w"):
        pass
    data = (tmp_path / "h").read_bytes()
    assert superblock_at(MemoryFile(b"PK\3\4" + bytes(508) + data)) is None
    assert "zip archive at once" in refused(open_hdf5, MemoryFile(data + b"PK\5\6" + bytes(18)))


def test_numbers_may_look_like_the_end_of_an_archive(made):
    """What an HDF5 file ends with is its own, as far as its superblock says."""
    numbers = np.frombuffer(b"PK\5\6" * 100, "<f4")
    file = made(lambda file: file.create_dataset("x", data=numbers))
    assert file.array("x")[0].tobytes() == numbers.tobytes()


def test_messages_name_the_member(tmp_path):
    with h5py.File(tmp_path / "h", "w") as file:
        file["g/x"] = 1
    with Place(tmp_path / "h").open() as raw, open_hdf5(raw, "model.weights.h5") as file:
        assert refused(file.array, "g/x").startswith("model.weights.h5: g/x: ")
    assert refused(open_hdf5, MemoryFile(b""), "model.weights.h5").startswith("model.weights.h5: ")


class Short(MemoryFile):
    """A file that gives less than it is asked for from some time on, as one that shrinks while it is read."""

    is_short = False

    def read_at(self, at, size):
        return super().read_at(at, size)[:-1 if self.is_short else None]


def test_a_short_read_is_an_error(tmp_path):
    with h5py.File(tmp_path / "h", "w") as file:
        file["x"] = np.ones(3)
        file["more"] = np.ones(hdf5.MAX_WHOLE)  # a smaller file is read at once
    source = Short((tmp_path / "h").read_bytes())
    with open_hdf5(source) as file:
        assert file.kind("x") == "dataset"
        source.is_short = True
        assert "ends inside its data" in refused(file.array, "x")


@given(st.lists(st.integers(0, 255), min_size=0, max_size=300), st.integers(1, 40))
def test_sizes_of_lzf(raw, repeat):
    """The size that is computed for HDF5's own LZF chunks is always theirs."""
    values = np.array(raw * repeat or [0], np.uint8).view(np.uint8).astype(np.float32)
    with h5py.File(MemoryFile(), "w") as file:
        dataset = file.create_dataset("x", data=values, chunks=values.shape, compression="lzf", shuffle=True)
        mask, packed = dataset.id.read_direct_chunk((0,))
        if not mask:
            assert hdf5_storage._lzf_size(packed) == values.nbytes


def test_an_address_above_16_mib_is_not_taken_for_a_structure():
    """The layout of a contiguous dataset of 64 bytes at 0x1007a00 begins as an object header does."""
    layout = bytes((3, 1)) + struct.pack("<QQ", 0x1007A00, 64)
    assert not any(pattern.search(layout + bytes(64)) for pattern in hdf5_overlap.PATTERNS)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_that_the_program_has_open_with_h5py(tmp_path, mode):
    """Within a process, libhdf5 opens a file a second time only with the same properties; what is read is what the disk has."""
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        file["x"] = np.float32([1, 2])
    with h5py.File(tmp_path / "m.h5", mode) as file:
        with open_hdf5(Place(tmp_path / "m.h5")) as again:
            assert again.array("x")[0].tolist() == [1, 2]
        assert file["x"][()].tolist() == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="locks of Linux")
def test_a_file_that_another_program_writes(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        file["x"] = np.float32([1, 2])
    program = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+', locking=True); print(flush=True); sys.stdin.read()"
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "m.h5")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline()
        with pytest.raises(FormatError, match="the file is locked") as caught, open_hdf5(Place(tmp_path / "m.h5")) as file:
            file.array("x")
        assert caught.value.hint == "wait until it is written"
    finally:
        writer.communicate()


@pytest.mark.parametrize("has_parts", [False, True])
def test_a_variable_does_not_change_how_a_file_is_opened(tmp_path, has_parts):
    """HDF5_DRIVER would have libhdf5 look for the parts of a split file, and read these where they are."""
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        file["a"] = np.float32([1, 2])
    if has_parts:
        with h5py.File(tmp_path / "other", "w", libver="latest", driver="split", meta_ext=b".meta", raw_ext=b".raw") as file:
            file["b"] = np.float32([3, 4])
        for part in (".meta", ".raw"):
            (tmp_path / f"other{part}").rename(tmp_path / f"m.h5{part}")
    program = ("from exporter.files.place import Place\nfrom exporter.formats.hdf5 import open_hdf5\n"
               f"with open_hdf5(Place({str(tmp_path / 'm.h5')!r})) as file:\n    print(file.names(''))")
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "HDF5_DRIVER": "split"},
                          capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("['a']\n", 0), done.stderr


def test_what_somebody_still_holds_of_a_closed_file_does_not_keep_it_open(made):
    file = made(lambda file: file.create_group("a"), libver="latest")
    held = file._open("a")
    assert held.id.valid
    file.close()
    assert not held.id.valid


def test_what_libhdf5_wants_is_read_whole_or_not_at_all():
    file = hdf5._Exact(MemoryFile(b"abc"))
    buffer = bytearray(2)
    assert (file.readinto(buffer), file.tell(), bytes(buffer)) == (2, 2, b"ab")
    with pytest.raises(OSError, match="the file ends inside its data"):
        file.readinto(buffer)


@pytest.mark.parametrize("by_library", [False, True])
def test_texts_of_any_length_count_with_their_letters(made, monkeypatch, by_library):
    file = made(lambda file: file.attrs.update(text="x" * 100))
    file._is_plain = not by_library
    monkeypatch.setattr(hdf5_file, "MAX_BYTES", 100)  # the reference alone takes 8 or 16
    assert "expected at most 100 bytes of parameters and attributes, got more" in refused(file.text, "", "text")


def test_a_kernel_may_be_larger(made, monkeypatch):
    monkeypatch.setattr(hdf5_plain, "_FORMS", {})  # a form that was read before is not measured by these limits
    monkeypatch.setattr(hdf5_file, "MAX_ELEMENTS", 3)
    monkeypatch.setattr(hdf5_file, "MAX_KERNEL_ELEMENTS", 4)
    monkeypatch.setattr(hdf5_file, "MAX_PLAIN", 11)  # bytes
    file = made(lambda file: file.update({}) or [file.create_dataset(f"x{size}", data=np.ones(size, "f4")) for size in (3, 4, 5)])
    assert (file.array("x3")[0].size, file.array("x4", is_kernel=True)[0].size, file._spent) == (3, 4, 12)
    assert "expected at most 3 values, got 4" in refused(file.array, "x4")
    with pytest.raises(FormatError, match="expected at most 4 values, got 5"):
        file.array("x5", is_kernel=True)


def test_an_array_of_more_bytes_than_its_shape_has(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["x"] = np.ones(5, "f4")
        place = struct.pack("<QQ", file["x"].id.get_offset(), 20)
    data = (tmp_path / "m.h5").read_bytes()
    assert data.count(place) == 1
    with open_hdf5(MemoryFile(data.replace(place, place[:8] + struct.pack("<Q", 24)))) as file:
        assert "expected 20 stored bytes, got 24" in refused(file.array, "x")


@pytest.mark.parametrize("by_library", [False, True])
def test_how_many_objects_are_kept(made, monkeypatch, by_library):
    monkeypatch.setattr(hdf5_objects, "MAX_KEPT", 3)
    monkeypatch.setattr(hdf5_objects, "MAX_GROUPS", 3)

    def fill(file):
        for number in range(5):
            file[f"x{number}"] = np.ones(1, "f4")
            file.create_group(f"g{number}")

    file = made(fill)
    file._is_plain = not by_library
    assert file._open("x0") is file._open("x0")
    assert file._open("") is file._open("")
    sizes = [(len(file._others), len(file._groups)) for number in range(1, 5) if file.array(f"x{number}") and file.is_group(f"g{number}")]
    assert sizes == [(2, 2), (3, 3), (1, 1), (2, 2)]


@pytest.mark.parametrize("by_library", [False, True])
def test_texts_of_fixed_length_count_with_their_padding(made, by_library):
    file = made(lambda file: file.attrs.update(names=np.array([b"ab", b"c", b"de"])))
    file._is_plain = not by_library
    assert file.strings("", "names") == ["ab", "c", "de"]
    assert file._spent == 6

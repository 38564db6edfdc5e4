"""Where the data of a file lies: no two datasets in one place."""

from __future__ import annotations

import struct

import h5py
import numpy as np
import pytest

from exporter.errors import FormatError
from exporter.files.input_file import MemoryFile
from exporter.files.place import Place
from exporter.formats.hdf5 import open_hdf5
from exporter.formats.hdf5_overlap import Spans


def test_each_place_is_told_where_the_one_before_ends():
    spans = Spans()
    assert spans.add("a", 10, 20) == 0
    assert spans.add("b", 30, 40) == 20
    assert spans.add("c", 0, 5) == 0
    assert spans.add("d", 20, 30) == 20
    assert spans.add("e", 5, 10) == 5
    assert spans.add("f", 40, 41) == 40


@pytest.mark.parametrize(("at", "end"), [(10, 20), (0, 11), (19, 25), (12, 13), (0, 100)])
def test_a_place_that_is_taken_is_refused(at, end):
    spans = Spans()
    spans.add("a", 10, 20)
    with pytest.raises(FormatError, match="its data overlaps that of a"):
        spans.add("b", at, end)


def test_the_same_path_may_be_read_again():
    spans = Spans()
    spans.add("a", 10, 20)
    spans.add("a", 10, 20)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_a_dataset_without_a_number_lies_nowhere(tmp_path, shape, dtype):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["x"] = np.zeros(shape, dtype)
    with open_hdf5(Place(tmp_path / "m.h5")) as file:
        values, name = file.array("x")
    assert (values.shape, values.dtype, name) == (shape, np.dtype(dtype), np.dtype(dtype).name)


@pytest.mark.parametrize(("ranks", "is_far", "can"), [
    (b"\4\0\x10\0", False, True), (b"\4\0\x10\0", True, False), (b"\4\0\x20\0", False, False), (b"\5\0\x10\0", False, False)])
def test_structures_are_looked_for_where_their_size_is_known_and_reading_them_costs_no_request(ranks, is_far, can):
    memory = MemoryFile()
    with h5py.File(memory, "w") as file:
        file["x"] = np.zeros(3, "f4")
    data = memory.getvalue()
    assert data[16:20] == b"\4\0\x10\0"
    source = MemoryFile(data[:16] + ranks + data[20:])
    source.is_far = is_far
    with open_hdf5(source) as file:
        assert file._data.can_look_back is can


def test_numbers_that_lie_in_a_structure_are_refused():
    memory = MemoryFile()
    with h5py.File(memory, "w") as file:
        file["g/x"] = np.ones(20, "f4")
        layout = struct.pack("<QQ", file["g/x"].id.get_offset(), 80)
    data = memory.getvalue()
    assert data.count(layout) == 1
    for structure in (b"TREE", b"SNOD", b"HEAP"):
        inside = struct.pack("<QQ", data.rindex(structure) + 8, 80)
        with open_hdf5(MemoryFile(data.replace(layout, inside))) as file, pytest.raises(FormatError, match="overlaps the metadata"):
            file.array("g/x")


def two_vectors():
    memory = MemoryFile()
    with h5py.File(memory, "w") as file:
        for name in ("x", "y"):
            file.create_dataset(f"g/{name}", data=np.arange(8, dtype="f4"))
        places = [file[f"g/{name}"].id.get_offset() for name in ("x", "y")]
        header = h5py.h5o.get_info(file["g/y"].id).addr
    assert (header, places[1]) == (places[0] + 32, header + 272)
    return memory.getvalue(), header


def test_vectors_with_their_headers_between_them_are_read_together():
    data, _ = two_vectors()
    for _ in range(2):
        with open_hdf5(MemoryFile(data)) as file:
            assert [(values.tolist(), name) for values, name in file.arrays(["g/x", "g/y"])] == [(list(range(8)), "float32")] * 2


@pytest.mark.parametrize("at", [200, 267, 269])
def test_a_structure_that_begins_in_the_header_before_the_data_is_refused(at):
    """In bytes of the header that mean nothing; or at its end, where it goes on in the data."""
    data, header = two_vectors()
    assert not any(data[header + 200: header + 272])
    forged = bytearray(data)
    forged[header + at: header + at + 5] = b"TREE\0"
    for order in ("x", "y"), ("y", "x"):
        with open_hdf5(MemoryFile(bytes(forged))) as file, pytest.raises(FormatError, match=r"g/y: its data overlaps the metadata"):
            file.arrays([f"g/{name}" for name in order])


def test_vectors_that_overlap_are_refused_where_they_are_read_together():
    data, header = two_vectors()
    place = (header + 272).to_bytes(8, "little")
    assert data.count(place) == 1
    with open_hdf5(MemoryFile(data.replace(place, (header - 8).to_bytes(8, "little")))) as file, \
            pytest.raises(FormatError, match="g/y: its data overlaps that of g/x"):
        file.arrays(["g/x", "g/y"])

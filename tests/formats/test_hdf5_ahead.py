"""What of a remote HDF5 file is fetched ahead of time: in few rounds, what will be read, and little else."""

from __future__ import annotations

import io

import h5py
import numpy as np
import pytest

from exporter.files.input_file import MemoryFile
from exporter.formats import hdf5_ahead
from exporter.formats.hdf5_ahead import GAP_BYTES, HEADER_BYTES, NEAR_BYTES, walk
from exporter.formats.hdf5_layout import DATASPACE, FILL_VALUE, SIZES
from tests.formats.test_hdf5_messages import KIND, SPACE, header, layout, message, space
from tests.make.layers import ROOT


class Fetching(MemoryFile):
    """Notes what it is made to fetch, round by round."""

    def __init__(self, data):
        super().__init__(data)
        self.rounds = []

    def fetch_ahead(self, ranges):
        self.rounds.append(list(ranges))

    def has(self, text):
        at = self.getvalue().index(text)
        return any(start <= at and at + len(text) <= end for each in self.rounds for start, end in each)

    def count(self):
        return sum(end - start for each in self.rounds for start, end in each)


@pytest.mark.parametrize(("steps", "sizes"), [
    ([(0, NEAR_BYTES), (1000, HEADER_BYTES)], [1000, HEADER_BYTES]), ([(0, HEADER_BYTES), (1000, HEADER_BYTES)], [HEADER_BYTES] * 2),
    ([(0, NEAR_BYTES)], [NEAR_BYTES]), ([(5000, NEAR_BYTES), (0, NEAR_BYTES)], [NEAR_BYTES, 5000]),
    ([(0, NEAR_BYTES), (GAP_BYTES, 8)], [GAP_BYTES, 8]), ([(0, NEAR_BYTES), (GAP_BYTES + 1, 8)], [NEAR_BYTES, 8])])
def test_a_batch_norm_is_fetched_up_to_the_next_header(steps, sizes):
    whole = hdf5_ahead._whole([(at, size, hdf5_ahead._nothing) for at, size in steps])
    assert [(at, size) for at, size, _ in whole] == [(at, size) for (at, _), size in zip(steps, sizes, strict=True)]


def written(names, root="model_weights", **options):
    memory = io.BytesIO()
    with h5py.File(memory, "w", **options) as file:
        for name in names:
            group = file.create_group(f"{root}/{name}")
            group.attrs["weight_names"] = [b"gamma:0"]
            group.create_dataset(f"{name}/gamma:0", data=np.frombuffer(f"vector of {name}.".encode().ljust(32), "f4"))
            if not name.startswith("bn"):
                group.create_dataset(f"{name}/kernel:0", data=np.zeros((100, 100), "f4"))
    return Fetching(memory.getvalue())


def test_a_group_at_the_top_is_looked_into_whatever_its_name_is():
    file = written(["bn"], root="mine")
    walk(file, 0)
    assert file.has(b"vector of bn.")


def test_the_vectors_of_batch_norms_and_no_kernels_are_fetched():
    file = written([f"{kind}_{number}" for number in range(12) for kind in ("bn", "conv", "optimizer")])
    walk(file, 0)
    assert all(file.has(f"vector of bn_{number}.".encode()) for number in range(12))
    assert not file.has(b"vector of conv_0.")
    assert not file.has(b"vector of optimizer_0.")
    assert len(file.rounds) <= 14
    assert file.count() < len(file.getvalue()) / 10
    places = [span for each in file.rounds for span in each]
    assert all(start < end for start, end in places)
    assert all(start < len(file.getvalue()) for start, _ in places)


@pytest.mark.parametrize(("sample", "pieces", "count"), [
    ("encoder_keras3/model.h5", [1, 3, 2, 1, 3, 5, 17, 25, 7, 3, 6, 6, 10, 10], 38864),
    ("encoder_keras3/model.weights.h5", [1, 3, 2, 1, 2, 4, 16, 18, 18, 8, 21, 16, 26, 24, 8, 2, 6, 4, 8, 8], 95056),
    ("no_beta_keras208/model.h5", [1, 3, 2, 1, 3, 2, 2, 4, 2, 1, 2, 2, 3, 3], 16308)])
def test_what_is_fetched_of_a_sample(sample, pieces, count):
    """In each round, and of all bytes: more of either costs time, and fewer cost a request later."""
    file = Fetching((ROOT / "sample_models" / sample).read_bytes())
    walk(file, 0)
    assert ([len(each) for each in file.rounds], file.count()) == (pieces, count)


@pytest.mark.parametrize(("limit", "value", "rounds"), [("MAX_ROUNDS", 3, 3), ("MAX_BYTES", 2000, 2)])
def test_there_is_an_end(monkeypatch, limit, value, rounds):
    monkeypatch.setattr(hdf5_ahead, limit, value)
    file = written(["bn"])
    walk(file, 0)
    assert len(file.rounds) <= rounds
    assert not file.has(b"vector of bn.")


@pytest.mark.parametrize(("messages", "steps"), [
    ((SPACE, KIND, layout()), [(2148, 20)]), ((layout(), SPACE), [(2148, 20)]), ((SPACE, layout(kind=2)), []),
    ((SPACE, layout(version=4)), []),
    ((message(DATASPACE, space(2, 3)), layout()), []), ((message(DATASPACE, space()), layout()), []), ((SPACE,), []),
    ((SPACE, message(FILL_VALUE, bytes([3, 1]) + bytes(16))), []),
    ((SPACE, layout(size=(1 << 24) - 1)), [(2148, (1 << 24) - 1)]), ((SPACE, layout(size=1 << 24)), [])])
def test_vectors_are_fetched_where_they_lie_in_one_piece(messages, steps):
    walk = hdf5_ahead._Walk()
    walk._base = 100
    assert [(at, size) for at, size, _ in walk._dataset(header(*messages))] == steps


def test_other_forms_and_damage_end_early():
    file = written(["bn"], libver="latest")
    walk(file, 0)
    assert len(file.rounds) == 1
    data = written(["bn"]).getvalue()
    for sizes in (b"\4\4", b"\4\x08", b"\x08\4"):
        other = bytearray(data)
        other[SIZES] = sizes
        file = Fetching(other)
        walk(file, 0)
        assert len(file.rounds) == 1
    for signature in (b"TREE", b"SNOD", b"HEAP"):
        damaged = Fetching(data.replace(signature, b"XXXX"))
        walk(damaged, 0)
        assert not damaged.has(b"vector of bn.")
    cut = Fetching(data[:1000])
    walk(cut, 0)
    assert len(cut.rounds) < 6

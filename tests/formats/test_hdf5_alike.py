"""Groups that are looked at together are read as each alone, and what is wrong with one of them is reported as if it were read alone."""

from __future__ import annotations

import contextlib
import io
import re
import struct

import h5py
import numpy as np
import pytest

from exporter.errors import FormatError
from exporter.files.input_file import MemoryFile
from exporter.formats import hdf5, hdf5_alike, hdf5_objects

COUNT, NAMES = 40, ("0", "1", "2", "3")


def model(*, change=lambda file: None, has_attribute=True, count=COUNT):
    """The bytes of a file with groups as Keras lays out layers, or with the attribute in the group above."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for number in range(count):
            group = file.create_group(f"layers/n{number}/vars")
            (group if has_attribute else group.parent).attrs["name"] = f"n{number}"
            for place, name in enumerate(NAMES):
                group[name] = np.arange(place, place + 5, dtype="f4") + number
        change(file)
    return memory.getvalue()


def groups(count=COUNT):
    return [f"layers/n{number}/vars" for number in range(count)]


def paths(group):
    return [f"{group}/{name}" for name in NAMES]


def content(data, *, together, count=COUNT):
    """(what a reader gets of each group or the error there is instead, how many groups were looked at together)."""
    found, alike = [], 0
    with hdf5.open_hdf5(MemoryFile(data)) as file:
        for number, group in enumerate(groups(count)):
            with contextlib.suppress(FormatError):
                above = group.rpartition("/")[0]
                file.kind(above if number % 2 and "name" in file.attributes(above) else group)  # some were opened before
        if together:
            file.expect(groups(count))
        for group in groups(count):
            try:
                missing = file.first_missing(paths(group))
                found.append((file.names(group), missing, [(values.tobytes(), values.dtype, values.shape, name)
                                                           for values, name in file.arrays(paths(group))]))
            except FormatError as error:
                found.append((error.what, error.where, error.hint))
            alike += file._expected is not None and file._expected.has_all([f"{group}/{name}" for name in file._expected.names(group)])
        is_refused = any(type(each[0]) is str for each in found)
        return (found, None if is_refused else file._spent), alike


def both(data):
    """What is read in either way, if that is the same, and how many groups were alike."""
    alone, none = content(data, together=False)
    together, alike = content(data, together=True)
    assert together == alone
    assert not none
    return alone, alike


@pytest.mark.parametrize("has_attribute", [True, False])
def test_groups_that_are_alike_are_read_together(has_attribute):
    (found, spent), alike = both(model(has_attribute=has_attribute))
    assert alike == COUNT - 1  # the first is read alone
    assert spent == COUNT * len(NAMES) * 20
    assert [np.frombuffer(arrays[2][0], "f4")[0] for _, _, arrays in found] == [number + 2 for number in range(COUNT)]


def test_what_is_not_all_in_one_group_that_is_like_others_is_read_alone():
    with hdf5.open_hdf5(MemoryFile(model())) as file:
        for group in groups():
            file.kind(group)
        file.expect(groups())
        assert file.first_missing(paths(groups()[0])) is None
        file.arrays(paths(groups()[0]))
        first, second = map(paths, groups()[1:3])
        assert file._expected.has_all(first)
        for others in ([], [*first, second[0]], [*first, f"{groups()[1]}/more"], [first[0].replace("vars", "more")]):
            assert not file._expected.has_all(others), others
        assert [values[0] for values, _ in file.arrays([first[0], second[0]])] == [1, 2]
        with pytest.raises(FormatError):
            file.arrays([*first, f"{groups()[1]}/more"])


def test_vectors_of_a_form_that_was_not_seen_before_are_read_alone():
    """Such as that of all groups but the first."""
    def change(file):
        for group in groups()[1:]:
            for name in NAMES:
                del file[f"{group}/{name}"]
                file[f"{group}/{name}"] = np.arange(11, dtype="f4")

    data = model(change=change)
    together, alike = content(data, together=True)
    assert (together, alike) == content(data, together=False)


def test_the_limit_on_levels_is_that_of_each_alone(monkeypatch):
    for most, count in ((4, COUNT - 1), (3, 0)):  # the first makes the form of the vectors known
        for module in (hdf5_objects, hdf5_alike):
            monkeypatch.setattr(module, "MAX_DEPTH", most)
        assert both(model())[1] == count


def test_few_groups_are_not_worth_it_and_many_are_looked_at_in_parts(monkeypatch):
    assert content(model(count=32), together=True, count=32)[1] == 0
    monkeypatch.setattr(hdf5_alike, "MAX_GROUPS", 7)
    assert both(model())[1] == COUNT - 1


@pytest.mark.parametrize("change", [
    lambda vars: vars.create_dataset("4", data=np.ones(5, "f4")), lambda vars: vars.__delitem__("3"),
    lambda vars: [vars.__delitem__("3"), vars.create_dataset("3", data=np.ones(6, "f4"))],
    lambda vars: [vars.__delitem__("3"), vars.create_dataset("3", data=np.ones(5, "f8"))],
    lambda vars: [vars.__delitem__("3"), vars.create_dataset("3", data=np.ones(5, "f4"), chunks=(5,))],
    lambda vars: [vars.__delitem__("3"), vars.__setitem__("3", h5py.SoftLink("/layers/n0/vars/3"))],
    lambda vars: [vars.__delitem__("3"), vars.__setitem__("3", h5py.ExternalLink("other.h5", "/x"))],
    lambda vars: [vars.__delitem__("3"), vars.create_group("3")],
    lambda vars: [vars.__delitem__("3"), vars.__setitem__("3", vars.file["layers/n0/vars/3"])],
    lambda vars: vars["3"].attrs.update(said="text"), lambda vars: vars.attrs.update(more="text")])
def test_a_group_that_is_different_is_read_alone(change):
    (found, _), alike = both(model(change=lambda file: change(file["layers/n20/vars"])))
    assert alike in (0, COUNT - 1)
    assert sum(type(each[0]) is list for each in found) >= COUNT - 1


@pytest.mark.parametrize("has_attribute", [True, False])
def test_each_damaged_byte_of_a_group_is_seen_as_if_it_were_read_alone(has_attribute, request):
    data = model(has_attribute=has_attribute)
    step = 1 if request.config.getoption("--thorough") else 43
    with hdf5.open_hdf5(MemoryFile(data)) as file:
        members = file._symbols.members("layers")
        first, after = sorted(entry.header for entry in members.values())[20:22]
    refused = 0
    free_list = first + 40 + 544 + 16  # in the heap behind its header and its B-tree
    for at in (*range(first, after, step), free_list + 7):
        for value in {data[at] ^ 1, data[at] ^ 0x80, 0xFF}:
            changed = bytearray(data)
            changed[at] = value
            (found, _), _ = both(bytes(changed))
            refused += any(type(each[0]) is str for each in found)
    assert refused > (after - first) // step / 20


@pytest.mark.parametrize(("at", "byte"), [(3, b"Q"), (4, b"\1")], ids=["signature", "version"])
def test_what_is_wrong_with_each_heap_of_names_is_seen(at, byte):
    """Groups that are damaged alike are not taken for sound ones behind one that is."""
    data = bytearray(model())
    heaps = [found.start() for found in re.finditer(b"HEAP", data)]
    places = {heap: int.from_bytes(data[heap + 24 : heap + 32], "little") + 8 for heap in heaps}  # of their first name
    _, *others = (heap for heap, place in places.items() if data[place : place + 2] == b"0\0")
    for heap in others:
        data[heap + at : heap + at + 1] = byte
    (found, _), alike = both(bytes(data))
    assert (alike, [type(each[0]) is str for each in found]) == (0, [False, *[True] * len(others)])


def test_data_that_overlaps_that_of_another_group_or_a_structure_is_refused():
    data = model()
    with hdf5.open_hdf5(MemoryFile(data)) as file:
        for group in groups():
            file.kind(f"{group}/0")
        places = {path: file._open(path).place for group in (groups()[5], groups()[6]) for path in paths(group)}
        header = file._open(f"{groups()[6]}/1").address
    victim, thief = (places[f"{group}/2"] for group in (groups()[5], groups()[6]))
    assert data.count(struct.pack("<Q", thief)) == 1
    for stolen, what in ((victim, "its data overlaps that of layers/n5/vars/2"), (victim + 4, "its data overlaps that of layers/n5/vars/2"),
                         (header - 8, "its data overlaps the metadata of the file")):
        (found, _), alike = both(data.replace(struct.pack("<Q", thief), struct.pack("<Q", stolen)))
        assert (found[6][0], alike) == (what, COUNT - 1)

"""What is read of an HDF5 file without libhdf5 is what libhdf5 reads; what is of another form, or damaged, is left to it."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest

from exporter.errors import FormatError
from exporter.files.input_file import MemoryFile
from exporter.formats import hdf5, hdf5_file, hdf5_groups, hdf5_messages, hdf5_objects, hdf5_plain


def written(fill, **options):
    """The bytes of an HDF5 file that `fill` makes."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", **options) as file:
        fill(file)
    return memory.getvalue()


def model(file):
    """As Keras lays out weights, with the kinds of attributes that it and others write."""
    file.attrs["keras_version"], file.attrs["fixed"], file.attrs["empty"] = "2.15.0", np.array([b"ab", b"c"]), []
    for name in ("a", "bb"):
        group = file.create_group(f"weights/{name}")
        group.attrs["weight_names"] = [b"x/gamma:0", b"x/beta:0"]
        for weight, dtype in (("gamma", "f4"), ("beta", "f8"), ("half", "f2")):
            group[f"x/{weight}:0"] = np.arange(5).astype(dtype)
        group["x/scalar"], group["x/matrix"] = np.float32(3), np.ones((2, 3), "f4")
        group["x/gamma:0"].attrs["said"] = "text"


class AskedError(Exception):
    """libhdf5 would be asked."""


def ask():
    raise AskedError


def content(data, *, by_library, never=False):
    """(all that a file holds, whether libhdf5 was asked for any of it); the first None where it is refused, or where it may not be asked:
    it hangs on some damaged files."""
    found = []
    try:
        with hdf5.open_hdf5(MemoryFile(data)) as file:
            if by_library:
                file._is_plain = False
            if never:
                if file._id is not None:
                    return None, True
                file._by_library = ask
            for path in file.walk():
                found += _attributes(file, path)
                for name in file.names(path):
                    inner = f"{path}/{name}" if path else name
                    found.append((inner, file.kind(inner), file.identity(inner)))
                    if file.kind(inner) == "dataset":
                        values, dtype = file.array(inner)
                        found += [*_attributes(file, inner), (dtype, values.shape, values.tobytes(), file.size(inner), file.dtype(inner))]
            return found, file._id is not None
    except (AskedError, FormatError):
        return None, True


def _attributes(file, path):
    return [(path, name, file.strings(path, name)) for name in file.attributes(path)]


@pytest.mark.parametrize(("padding", "expected"), [(h5py.h5t.STR_NULLTERM, ["ab", "rest", "12345678"]), (h5py.h5t.STR_SPACEPAD, None),
                                                   (h5py.h5t.STR_NULLPAD, None)], ids=["terminated", "spaces", "nul"])
@pytest.mark.parametrize("by_library", [False, True])
def test_texts_end_as_their_type_says(padding, expected, by_library):
    """What a writer in C leaves behind the NUL of a terminated text is none of it."""
    def fill(file):
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(8)
        kind.set_strpad(padding)
        raw = [b"ab\0junk\0", b"rest\0\0\0\0", b"12345678"] if expected else [b"ab      ", b"rest    ", b"12345678"]
        if padding == h5py.h5t.STR_NULLPAD:
            raw = [text.replace(b" ", b"\0") for text in raw]
        h5py.h5a.create(file.id, b"names", kind, h5py.h5s.create_simple((3,))).write(np.array(raw, "V8"), mtype=kind)

    with hdf5.open_hdf5(MemoryFile(written(fill))) as file:
        file._is_plain = file._is_plain and not by_library
        assert file.strings("", "names") == (expected or ["ab", "rest", "12345678"])


def test_a_file_as_keras_writes_it_is_read_without_libhdf5_and_alike():
    data = written(model)
    plain, asked = content(data, by_library=False)
    assert not asked
    assert len(plain) > 30
    assert content(data, by_library=True) == (plain, True)


def test_reading_a_model_imports_no_h5py(tmp_path):
    (tmp_path / "w.h5").write_bytes(written(model))
    program = (f"import sys; from exporter.files.place import Place; from exporter.formats.hdf5 import open_hdf5; "
               f"file = open_hdf5(Place({str(tmp_path / 'w.h5')!r})); file.array('weights/a/x/gamma:0'); file.close(); print(*sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "h5py" not in done.stdout.split()


def of_chunks(file):
    file.create_dataset("x", data=np.ones((4, 4), "f4"), chunks=(2, 2))


def packed(file):
    file.create_dataset("x", data=np.ones(64, "f4"), compression="gzip")


def growing(file):
    file.create_dataset("x", data=np.ones(4, "f4"), maxshape=(None,))


def compact(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, properties).write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(4, "f4"))


def growing_attribute(file):
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(4)
    space = h5py.h5s.create_simple((2,), (5,))
    h5py.h5a.create(file.id, b"text", kind, space).write(np.array([b"ab", b"cde"], "S4"))


def filled(file):
    file.create_dataset("x", data=np.ones(4, "f4"), fillvalue=2.0)


def big_endian(file):
    file["x"] = np.arange(4).astype(">f4")


def spaces(file):
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(4)
    kind.set_strpad(h5py.h5t.STR_SPACEPAD)
    h5py.h5a.create(file.id, b"text", kind, h5py.h5s.create(h5py.h5s.SCALAR)).write(np.array(b"ab", "S4"))


def non_ascii(file):
    file.attrs["größe"] = "ß"
    file["ß/x"] = np.ones(3, "f4")


def many_attributes(file):
    file["g/x"] = np.ones(1, "f4")
    for number in range(40):
        file["g"].attrs[f"a{number:02}"] = f"text {number}"


def strings_of_many_heaps(file):
    for number in range(200):
        file.attrs.create(f"{number}long", "x" * 300)


def changed(file):
    for number in range(30):
        file[f"g/x{number}"] = np.ones(2, "f4")
    for number in range(0, 30, 2):
        del file[f"g/x{number}"]
    file["g/y"] = np.ones(3, "f4")


def nul_inside(file):
    file.attrs["fixed"] = np.array([b"a\0b", b"\0c"])


@pytest.mark.parametrize(("fill", "plain"), [
    (of_chunks, False), (packed, False), (growing, False), (growing_attribute, False), (compact, False), (filled, False),
    (big_endian, False), (spaces, False),
    (non_ascii, False), (many_attributes, True), (strings_of_many_heaps, True), (changed, True), (nul_inside, True)],
    ids=lambda value: getattr(value, "__name__", None))
def test_other_forms_are_left_to_libhdf5_and_read_alike(fill, plain):
    data = written(fill)
    ours, asked = content(data, by_library=False)
    assert ours
    assert asked != plain
    assert content(data, by_library=True)[0] == ours


@pytest.mark.parametrize("options", [{"libver": "latest"}, {"userblock_size": 512}, {"fs_strategy": "page"}])
def test_other_files_are_left_to_libhdf5(options):
    memory = io.BytesIO()
    with h5py.File(memory, "w", **options) as file:
        model(file)
    assert content(memory.getvalue(), by_library=False)[1]


@pytest.mark.parametrize(("module", "limit", "value"), [
    (hdf5_objects, "MAX_GROUPS", 1), (hdf5_objects, "MAX_KEPT", 1), (hdf5_plain, "MAX_KEPT", 1), (hdf5_plain, "MAX_FORMS", 1),
    (hdf5_groups, "MAX_MEMBERS", 8)], ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("by_library", [False, True])
def test_what_is_forgotten_for_lack_of_room_is_read_again(monkeypatch, module, limit, value, by_library):
    def fill(file):
        model(file)
        for number in range(6):
            file[f"more/{number}/in/x"] = np.ones(number + 1, "f4")
            file[f"more/{number}"].attrs["long"] = "x" * 3000

    data = written(fill)
    expected = content(data, by_library=by_library)
    monkeypatch.setattr(hdf5_plain, "_FORMS", {})
    monkeypatch.setattr(module, limit, value)
    assert content(data, by_library=by_library) == expected


@pytest.mark.parametrize(("module", "limit", "call", "what"), [
    (hdf5_file, "MAX_ATTRIBUTE", lambda file: file.strings("", "keras_version"), "the attribute keras_version has"),
    (hdf5_file, "MAX_BYTES", lambda file: file.strings("", "fixed"), "expected at most 2 bytes of parameters and attributes, got more"),
    (hdf5_objects, "MAX_MEMBERS", lambda file: list(file.walk()), "expected at most 2 groups, got more"),
    (hdf5_objects, "MAX_MEMBERS", lambda file: file.names("weights/a/x"), "expected a group of at most 2 members, got 5"),
    (hdf5_groups, "MAX_MEMBERS", lambda file: file.names("weights/a/x"), "expected a group of at most 2 members, got more"),
    (hdf5_groups, "MAX_LEVELS", lambda file: file.names("weights/a/x/gamma:0"), "weights/a/x/gamma:0: expected a group here")])
@pytest.mark.parametrize("by_library", [False, True])
def test_what_is_over_a_limit_or_no_group_is_refused(monkeypatch, module, limit, call, what, by_library):
    with hdf5.open_hdf5(MemoryFile(written(model))) as file:
        file._is_plain = file._is_plain and not by_library
        monkeypatch.setattr(module, limit, 2)
        monkeypatch.setattr(hdf5_groups, "FEW_NAMES", 0)  # which are never too many
        with pytest.raises(FormatError) as refused:
            call(file)
    assert what in str(refused.value)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough("much time")) for seed in (1, 2, 3))])
def test_of_damaged_files_nothing_is_read_that_libhdf5_reads_otherwise_or_refuses(seed):
    """A byte or two changed, where something stands: what is read without libhdf5 is read alike with it."""
    data, chance = written(model), random.Random(seed)
    places = [place for place, byte in enumerate(data) if byte]
    alike = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 2))):
            place = min(max(chance.choice(places) + chance.choice((-1, 0, 0, 1)), 0), len(data) - 1)
            damaged[place] = chance.choice((0, 1, 255, damaged[place] ^ 1 << chance.randrange(8)))
        ours, asked = content(bytes(damaged), by_library=False, never=True)
        if not asked:
            assert content(bytes(damaged), by_library=True)[0] == ours
            alike += 1
    assert alike > 10


def heap(*objects, mark=b"GCOL", version=1, more=0, free=0):
    """The strings of a collection at address 8, of objects (number, data, bytes more than its size says) and 32 unused bytes."""
    parts = [struct.pack("<HH4xQ", number, 1, len(data) + extra) + data + bytes(-len(data) % 8) for number, data, extra in objects]
    body = b"".join(parts) + struct.pack("<HH4xQ", free, 0, 32 if not free else 16) + bytes(16)
    data = bytes(8) + struct.pack("<4sB3xQ", mark, version, 16 + len(body) + more) + body
    return hdf5_plain.Heap(lambda at, size: data[at: at + size])


STRINGS = (1, b"ab", 0), (3, b"cd\0e", 0), (2, b"12345678", 0)


def test_the_strings_of_a_global_heap():
    for free in (0, 4):
        found = heap(*STRINGS, free=free)
        assert [found.text(each) for each in ((2, 8, 1), (8, 8, 2), (4, 8, 3), (0, 0, 0))] == [b"ab", b"12345678", b"cd", b""]


@pytest.mark.parametrize(("found", "reference"), [
    (heap(*STRINGS, mark=b"GCOM"), (2, 8, 1)), (heap(*STRINGS, version=2), (2, 8, 1)), (heap(*STRINGS, more=8), (2, 8, 1)),
    (heap(*STRINGS, STRINGS[0]), (8, 8, 2)), (heap(*STRINGS, (0, b"x", 0)), (2, 8, 1)),
    (heap(*STRINGS, (4, b"x", 100)), (2, 8, 1)), (heap(*STRINGS), (3, 8, 1)), (heap(*STRINGS), (2, 8, 4))],
    ids=["its mark", "its version", "cut off", "a number twice", "no number", "an object too long", "another size", "not there"])
def test_a_damaged_heap_is_left_to_libhdf5(found, reference):
    with pytest.raises(hdf5_messages.OtherFormError):
        found.text(reference)


@pytest.mark.parametrize(("old", "new", "asked"), [
    (b"aXc\0", b"a/c\0", "g/a/c"), (b"b\0\0\0\0\0\0\0c\0", b"b\0\0\0\0\0\0\0\xff\0", "g/\ufffd")])
def test_datasets_opened_with_another_of_their_group_are_found_only_under_their_names(old, new, asked):
    def fill(file):
        for name in ("aXc", "b", "c"):
            file[f"g/{name}"] = np.arange(3, dtype="f4")

    data = written(fill)
    assert data.count(old) == 1
    with hdf5.open_hdf5(MemoryFile(data.replace(old, new))) as file:
        assert file.array("g/b")[0].tolist() == [0, 1, 2]
        assert file.first_missing(["g/b", asked]) == asked


def test_datasets_opened_with_another_of_their_group_are_those_of_their_names():
    def fill(file):
        for name in "abcdef":
            file[f"g/{name}"] = np.full(3, ord(name), "f4" if name < "e" else "f8")

    with hdf5.open_hdf5(MemoryFile(written(fill))) as file:
        assert file.first_missing(f"g/{name}" for name in "afbz") == "g/z"
        assert {name: int(file.array(f"g/{name}")[0][2]) for name in "fedcba"} == {name: ord(name) for name in "abcdef"}

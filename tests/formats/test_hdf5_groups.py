"""What an HDF5 file says twice about its groups has to agree; sound files of every form pass."""

from __future__ import annotations

import re
import struct

import h5py
import numpy as np
import pytest

from exporter.errors import FormatError
from exporter.files.input_file import MemoryFile
from exporter.files.place import Place
from exporter.formats import hdf5_names
from exporter.formats.hdf5 import open_hdf5
from exporter.formats.hdf5_groups import MAX_RANK, UNDEFINED, Groups
from exporter.formats.hdf5_layout import ADDRESSES, ADDRESSES_AT, LOCAL_HEAP, RANKS_AT, TABLE_ENTRY, TABLE_NODE, TREE_NODE

ROOT_ENTRY = ADDRESSES_AT[0] + ADDRESSES.size
MANY = [f"layer_{number:03}" for number in range(40)]  # several nodes


def made(tmp_path, **options):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", **options) as file:
        for number, name in enumerate(("bn", "bn_1", *MANY)):
            file[f"layers/{name}/vars/0"] = np.full(3, number, "f4")
            file[f"layers/{name}"].attrs["class"] = "x" * 200
    return path


def entries(data, name, base=0):
    """Where the symbol table entry of each member of the group `name` of the root's group "layers" stands, by the member's name."""
    def members(tree, heap):
        head = LOCAL_HEAP.at(data, base + heap)
        names = data[base + head.data: base + head.data + head.size]

        def below(address):
            node = TREE_NODE.at(data, base + address)
            for i in range(node.used):
                child, = struct.unpack_from("<Q", data, base + address + TREE_NODE.size + 8 + 16 * i)
                yield from below(child) if node.level else leaf(child)

        def leaf(address):
            for i in range(TABLE_NODE.at(data, base + address).used):
                at = base + address + TABLE_NODE.size + i * TABLE_ENTRY.size
                start = TABLE_ENTRY.at(data, at).name
                yield names[start: names.index(b"\0", start)].decode(), at

        return dict(below(tree))

    root = TABLE_ENTRY.at(data, ROOT_ENTRY + base)
    found = members(root.tree, root.heap)
    for part in name.split("/"):
        entry = TABLE_ENTRY.at(data, found[part])
        found = members(entry.tree, entry.heap)
    return found


def read_all(data):
    with open_hdf5(MemoryFile(bytes(data)), "m.h5") as file:
        groups = [path for path in file.walk() if path.endswith("/vars")]
        return {path: file.array(f"{path}/0")[0] for path in groups}


def refused(data):
    with pytest.raises(FormatError) as error:
        read_all(data)
    return str(error.value)


@pytest.mark.parametrize("options", [
    {}, {"libver": "latest"}, {"libver": ("earliest", "v108")}, {"track_order": True}, {"userblock_size": 1024},
    {"fs_strategy": "page"}], ids=str)
def test_sound_files_pass(tmp_path, options):
    found = read_all(made(tmp_path, **options).read_bytes())
    assert [int(found[f"layers/{name}/vars"][0]) for name in ("bn", "bn_1", *MANY)] == list(range(42))


def test_groups_that_were_changed_pass(tmp_path):
    path = made(tmp_path)
    with h5py.File(path, "r+") as file:
        for name in MANY[::3]:
            del file[f"layers/{name}"]
        for number in range(50):
            file[f"layers/new_{number}/vars/0"] = np.ones(3, "f4")
        file["link"] = h5py.SoftLink("/layers/bn")
        file["outside"] = h5py.ExternalLink("other.h5", "/")  # changes the form of the root's group
        file["layers"].attrs["names"] = np.array(["x" * 1000] * 60, "S")
    found = read_all(path.read_bytes())
    assert len(found) == 2 + len(MANY) - len(MANY[::3]) + 50
    with open_hdf5(Place(path)) as file:
        assert [file.kind(name) for name in ("link", "outside", "layers", "nothing")] == ["soft link", "external link", "group", None]


@pytest.mark.parametrize("what", ["headers", "scratch pads", "trees", "heaps"])
@pytest.mark.parametrize("block", [0, 512])
def test_addresses_of_two_groups_exchanged(tmp_path, what, block):
    data = bytearray(made(tmp_path, userblock_size=block).read_bytes())
    found = entries(data, "layers", block)
    first, second = found["bn"], found["bn_1"]
    for part in {"headers": [slice(8, 16)], "scratch pads": [slice(24, 40)], "trees": [slice(24, 32)], "heaps": [slice(32, 40)]}[what]:
        a, b = (slice(at + part.start, at + part.stop) for at in (first, second))
        data[a], data[b] = data[b], data[a]
    assert "the two records of where this group's members are disagree" in refused(data)


def test_the_entry_of_the_root(tmp_path):
    data = bytearray(made(tmp_path).read_bytes())
    data[ROOT_ENTRY + 24: ROOT_ENTRY + 40] = data[(at := entries(data, "layers")["bn"]) + 24: at + 40]
    assert "root group: the two records" in refused(data)


def test_a_group_where_a_dataset_should_be(tmp_path):
    data = bytearray(made(tmp_path).read_bytes())
    group, dataset = entries(data, "layers")["bn"], entries(data, "layers/bn_1/vars")["0"]
    data[group + 8: group + 16] = data[dataset + 8: dataset + 16]
    assert "describes this as a group, its header as something else" in refused(data)


@pytest.mark.parametrize(("old", "new", "said"), [
    (b"bn_1", b"bn", "'bn' occurs more than once in this group"), (b"bn", b"zz", "is at a place that no lookup"),
    (b"layer_039", b"aaaa", "is at a place that no lookup"),
])
def test_names(tmp_path, old, new, said):
    data = made(tmp_path).read_bytes()
    room = len(old) + 1
    data = re.sub(rb"(?<=\0)" + old + rb"\0", new.ljust(room, b"\0"), data, count=1)
    assert said in refused(data)


def test_entries_out_of_order(tmp_path):
    data = bytearray(made(tmp_path).read_bytes())
    found = entries(data, "layers")
    first, second = (slice(found[name], found[name] + 40) for name in ("bn", "bn_1"))
    data[first], data[second] = data[second], data[first]
    assert "'bn' is out of order in this group" in refused(data)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_free_list_of_the_names(tmp_path, count):
    """In a group that is read at once, and in larger ones."""
    with h5py.File(tmp_path / "m.h5", "w", libver="earliest") as file:
        for number in range(count):
            file[f"name_{number}"] = np.ones(2, "f4")
    data = bytearray((tmp_path / "m.h5").read_bytes())
    with open_hdf5(MemoryFile(data)) as file:
        assert len(file.names("")) == count
    struct.pack_into("<Q", data, data.index(b"HEAP") + 16, 2)
    with pytest.raises(FormatError, match="the free list among the names of this group's members is damaged"), \
            open_hdf5(MemoryFile(data)) as file:
        file.array("name_0")


def test_a_name_twice_in_a_group_of_the_newer_form(tmp_path):
    with h5py.File(tmp_path / "n.h5", "w", libver="latest") as file:
        file["g/gamma"] = file["g/gamme"] = np.ones(3, "f4")
    data = (tmp_path / "n.h5").read_bytes()
    at = data.index(b"gamme")
    header = data.rindex(b"OHDR", 0, at)
    sound = data[:at] + b"gamma" + data[at + 5:]
    size_at = header + 6 + (16 if data[header + 5] & 0x20 else 0) + (4 if data[header + 5] & 0x10 else 0)
    width = 1 << (data[header + 5] & 3)
    end = size_at + width + int.from_bytes(data[size_at: size_at + width], "little")
    sound = sound[:end] + struct.pack("<I", lookup3(sound[header:end])) + sound[end + 4:]
    with open_hdf5(MemoryFile(sound)) as file, pytest.raises(FormatError, match="'gamma' occurs more than once in this group"):
        file.kind("g/gamma")


def lookup3(data):
    """Jenkins' hash, the checksum of newer structures (HDF5 File Format, appendix of the library: H5_checksum_lookup3)."""
    def rotate(x, k):
        return (x << k | x >> 32 - k) & 0xFFFFFFFF

    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & mask
    at = 0
    while len(data) - at > 12:
        x, y, z = struct.unpack_from("<III", data, at)
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        a = (a - c & mask) ^ rotate(c, 4)
        c = c + b & mask
        b = (b - a & mask) ^ rotate(a, 6)
        a = a + c & mask
        c = (c - b & mask) ^ rotate(b, 8)
        b = b + a & mask
        a = (a - c & mask) ^ rotate(c, 16)
        c = c + b & mask
        b = (b - a & mask) ^ rotate(a, 19)
        a = a + c & mask
        c = (c - b & mask) ^ rotate(b, 4)
        b = b + a & mask
        at += 12
    rest = data[at:].ljust(12, b"\0")
    x, y, z = struct.unpack("<III", rest)
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    c = (c ^ b) - rotate(b, 14) & mask
    a = (a ^ c) - rotate(c, 11) & mask
    b = (b ^ a) - rotate(a, 25) & mask
    c = (c ^ b) - rotate(b, 16) & mask
    a = (a ^ c) - rotate(c, 4) & mask
    b = (b ^ a) - rotate(a, 14) & mask
    return (c ^ b) - rotate(b, 24) & mask


def test_keys_that_hide_a_name(tmp_path):
    """A key of the B-tree is lowered: the names above it are listed, and found by nothing."""
    data = bytearray(made(tmp_path).read_bytes())
    root = TABLE_ENTRY.at(data, ROOT_ENTRY)
    layers = entry_of(data, root, b"layers")
    struct.pack_into("<Q", data, layers.tree + TREE_NODE.size + 16, 0)
    assert "is at a place that no lookup in this group reaches" in refused(data)


def entry_of(data, root, name):
    head = LOCAL_HEAP.at(data, root.heap)
    names = bytes(data[head.data: head.data + head.size])
    leaf, = struct.unpack_from("<Q", data, root.tree + TREE_NODE.size + 8)
    for i in range(TABLE_NODE.at(data, leaf).used):
        entry = TABLE_ENTRY.at(data, leaf + TABLE_NODE.size + i * TABLE_ENTRY.size)
        if names[entry.name:].startswith(name + b"\0"):
            return entry
    raise KeyError(name)


def test_damage_is_an_error_of_ours(tmp_path):
    sound = made(tmp_path).read_bytes()
    for magic in (b"TREE", b"HEAP", b"SNOD"):
        data = bytearray(sound)
        for found in re.finditer(magic, sound):
            data[found.start()] ^= 1
            with pytest.raises(FormatError):
                read_all(data)
            data[found.start()] ^= 1


@pytest.mark.parametrize("used", [33, 0xFFFF])
def test_a_node_that_claims_more_entries_than_fit_in_it(tmp_path, used):
    data = bytearray(made(tmp_path).read_bytes())
    struct.pack_into("<H", data, entry_of(data, TABLE_ENTRY.at(data, ROOT_ENTRY), b"layers").tree + 6, used)
    assert "the symbol table of this group cannot be read" in refused(data)


@pytest.mark.parametrize("rank", [300, 0xFFFF])
def test_a_node_is_read_as_far_as_it_is_used_whatever_rank_the_file_claims(tmp_path, rank):
    names = [f"g{number:04}" for number in range(1500)]
    with h5py.File(tmp_path / "r.h5", "w") as file:
        for name in names:
            file.create_group(name)
    data = bytearray((tmp_path / "r.h5").read_bytes())
    root = TABLE_ENTRY.at(data, ROOT_ENTRY)
    links = links_of(data, root.tree)
    struct.pack_into("<H", data, RANKS_AT + 2, rank)
    usual, sizes = members_of(data)
    assert list(usual) == [name.encode() for name in names]
    assert max(sizes) < 30_000

    node = struct.pack(f"<4sBBH{3 + 2 * len(links)}Q", b"TREE", 0, 0, len(links), UNDEFINED, UNDEFINED, 0,
                       *(number for link in links for number in link))
    wide = data.replace(struct.pack("<QQ", root.tree, root.heap), struct.pack("<QQ", len(data), root.heap)) + node
    assert len(links) > 2 * MAX_RANK
    assert members_of(wide)[0] == usual
    struct.pack_into("<H", wide, RANKS_AT + 2, len(links) // 2 - 1)
    with pytest.raises(FormatError, match="the symbol table of this group cannot be read"):
        members_of(wide)


def links_of(data, tree):
    """(leaf, key behind it) for each leaf below a node of a group's B-tree."""
    node = TREE_NODE.at(data, tree)
    pairs = [struct.unpack_from("<QQ", data, tree + TREE_NODE.size + 8 + 16 * i) for i in range(node.used)]
    return [link for child, _ in pairs for link in links_of(data, child)] if node.level else pairs


def members_of(data):
    """The members of the root group, and the sizes of what was read to find them."""
    sizes = []

    def read_at(address, size):
        sizes.append(size)
        return bytes(data[address: address + size])

    return Groups(read_at, 0).members(""), sizes


@pytest.mark.parametrize(("error", "said"), [
    (KeyError("no such name"), "no such name"), (ValueError(), "ValueError"), (OSError("Unable to open (truncated file: eof = 3)"),
    "truncated file: eof = 3"), (RuntimeError("in ()"), "in ()"), (OSError("(a) b"), "(a) b")])
def test_what_libhdf5_says(error, said):
    assert hdf5_names.reason(error) == said

"""Groups of vectors that are alike, as those of most batch norms of a large model are: all are looked at together instead of one by one.

Nothing is decided here. Groups are alike if all their structures are the same, byte for byte, except for addresses, the first one has the
form that is read without libhdf5 (exporter/formats/hdf5_plain.py), and nothing is unusual. All others are read one by one, and whatever is
wrong with them is reported there.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from exporter.errors import FormatError
from exporter.formats.hdf5_groups import FEW_NAMES, ONLY_LEAF, Groups, few_names
from exporter.formats.hdf5_layout import BRANCH, CACHED_GROUP, LOCAL_HEAP, TABLE_ENTRY, TABLE_NODE, TableEntry
from exporter.formats.hdf5_names import DAMAGED, MAX_DEPTH
from exporter.formats.hdf5_overlap import ANY, Data
from exporter.formats.hdf5_plain import HEAD_BYTES, ONLY_A_TABLE, PLACE_AT, Form, known_form

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Addresses = NDArray[np.int64]

_Entry = tuple[TableEntry, bool]
MAX_GROUPS = 256  # that are looked at together
AROUND, EACH = 1 << 16, 1 << 13  # bytes of a file before and behind the groups, in which their data may be, and for each of them


class _UnlikeError(Exception):
    """The groups are not alike, or in an unusual form."""


@dataclasses.dataclass(frozen=True, slots=True)
class Alike:
    """The vectors of groups that are alike: `names` has their places in the rows of `headers` and `places`, the addresses of each group's.

    data: of all of them. block: a part of the file, from `start` on, that contains everything. holds_structure: whether the data may.
    """

    names: dict[str, int]
    form: Form
    headers: list[list[int]]
    places: list[list[int]]
    data: bytes
    block: bytes
    start: int
    holds_structure: bool


class Expected:
    """Groups whose vectors will be read in this order."""

    def __init__(self, groups: Sequence[str], symbols: Groups, data: Data) -> None:
        self._groups, self._symbols, self._data = groups, symbols, data
        self._turns = {group: turn for turn, group in enumerate(groups)}
        self._tried = 1  # so many of them were looked at: the first is opened alone, so that the form of its vectors is known
        self._found: Alike | None = None  # the latest that are alike, and the place of each among them
        self._places: dict[str, int] = {}

    def names(self, group: str) -> Collection[str]:
        """The names of the vectors in a group; empty if it is not known to be like others."""
        return self._found.names if self._is_alike(group) and self._found else ()

    def has_all(self, paths: Sequence[str]) -> bool:
        """Whether these are vectors of one group that is like others."""
        group = paths[0].rpartition("/")[0] if paths else ""
        size, names = len(group) + 1, self.names(group)
        return bool(names) and all(path[size:] in names and path.startswith(group) for path in paths)

    def size(self, paths: Sequence[str]) -> int:
        """The bytes of such vectors."""
        return self._found.form.size * len(paths) if self._found else 0

    def arrays(self, paths: Sequence[str]) -> list[tuple[NDArray[Any], str]]:
        """The values of such vectors and the name of their type. Raises FormatError if one overlaps something else."""
        found = self._found
        assert found is not None, "has_all"
        group = paths[0].rpartition("/")[0]
        row, first = self._places[group], self._places[group] * len(found.names)
        own = [found.names[path[len(group) + 1:]] for path in paths]
        shape, (name, raw), size, head = found.form
        for path, place in zip(paths, own):
            self._data.check(path, found.headers[row][place], found.places[row][place], found, size, head)
        return [(np.ndarray(shape, raw, found.data, (first + place) * size), name) for place in own]

    def _is_alike(self, group: str) -> bool:
        """Whether a group is like others; if it was not looked at, it is now, with those after it."""
        turn = self._turns.get(group, -1)
        if turn >= self._tried:
            run = self._groups[turn: turn + MAX_GROUPS]
            self._tried = turn + len(run)
            entries = [entry for entry in itertools.takewhile(bool, map(self._entry, run)) if entry]
            try:
                self._found = _alike(entries, self._symbols)
                self._places = {each: place for place, each in enumerate(run[:len(entries)])}
            except (_UnlikeError, struct.error, IndexError, *DAMAGED):
                self._found, self._places = None, {}
        return group in self._places

    def _entry(self, group: str) -> _Entry | None:
        """The entry of a group in the table of the group above it, and whether it was opened; None: it must be opened alone."""
        parent, _, name = group.rpartition("/")
        try:
            members = self._symbols.members(parent) if parent in self._symbols.tables and group.count("/") < MAX_DEPTH - 1 else None
            entry = (members or {})[name.encode()]
            return entry, self._symbols.tables.get(group) == (entry.tree, entry.heap)
        except (FormatError, *DAMAGED):
            return None


def _alike(entries: Sequence[_Entry], symbols: Groups) -> Alike:
    """The vectors of groups, if they are alike."""
    _check(len(entries) > 1 and all(entry.cache == CACHED_GROUP for entry, _ in entries))
    addresses = np.array([(entry.header, entry.tree, entry.heap) for entry, _ in entries], np.int64)
    start = max(0, int(addresses.min()) - AROUND)
    size = int(addresses.max()) + AROUND - start
    _check(size <= 2 * AROUND + EACH * len(entries))
    rows = _Rows(symbols.read(start, size), start)
    expected = [np.tile(np.frombuffer(ONLY_A_TABLE, np.uint8), (len(entries), 1)), addresses[:, 1:].copy().view(np.uint8)]
    is_expected = (rows.at(addresses[:, 0], len(ONLY_A_TABLE) + 16) == np.hstack(expected)).all(axis=1)
    _check(is_expected | [is_open for _, is_open in entries])
    names, vectors = _listed(rows, addresses[:, 1], addresses[:, 2], symbols.leaf_size)
    head, places = rows.but_address(vectors.ravel(), HEAD_BYTES, PLACE_AT)
    form = known_form(head)
    if form is None:
        raise _UnlikeError
    data = rows.at(places, form.size).tobytes()
    return Alike({name.decode(): place for place, name in enumerate(names)}, form, vectors.tolist(),
                 places.reshape(len(vectors), -1).tolist(), data, rows.block, start, ANY.search(data) is not None)


def _listed(rows: _Rows, trees: _Addresses, heaps: _Addresses, leaf_size: int) -> tuple[Sequence[bytes], _Addresses]:
    """The names in groups and the addresses of the headers, a row for each group, if the groups have the same names and no link."""
    root, leaves = rows.but_address(trees, len(ONLY_LEAF) + BRANCH.size, len(ONLY_LEAF) + 8)
    low, high = struct.unpack_from("<QQ", root, len(ONLY_LEAF))
    head, places = rows.but_address(heaps, LOCAL_HEAP.size, LOCAL_HEAP.size - 8)
    signature, version, length, free, _ = LOCAL_HEAP.fields(head + bytes(8))
    _check(root.startswith(ONLY_LEAF) and signature == b"HEAP" and not version and length <= FEW_NAMES)
    texts, leaf = rows.at(places, length), rows.at(leaves, leaf_size)
    signature, version, _, used = TABLE_NODE.fields(leaf[0].tobytes())
    table = leaf[:, TABLE_NODE.size: TABLE_NODE.size + used * TABLE_ENTRY.size].reshape(len(leaf), used, TABLE_ENTRY.size)
    _check(signature == b"SNOD" and version == 1 and used)
    for same in (texts, leaf[:, :TABLE_NODE.size], table[:, :, :8], table[:, :, 16:20]):  # names, their offsets, and types of caches
        _check(same == same[0])
    entries = [*TABLE_ENTRY.rows(table[0].tobytes(), 0, used)]
    names = few_names(texts[0].tobytes(), free, (low, *(entry.name for entry in entries), high))
    _check(bool(names) and not any(entry.cache or b"/" in name or not name.strip(b".") for entry, name in zip(entries, names)))
    return names, table[:, :, 8:16].copy().view(np.int64)[:, :, 0]


class _Rows:
    """Bytes at many addresses of a block, which begins at `start` in the file."""

    def __init__(self, block: bytes, start: int) -> None:
        self.block, self._start = block, start
        self._bytes = np.frombuffer(block, np.uint8)

    def at(self, addresses: _Addresses, size: int) -> NDArray[np.uint8]:
        """So many at each, all of which are in the block."""
        places = addresses - self._start
        _check(size and (addresses >= self._start) & (places <= len(self.block) - size))
        found: NDArray[np.uint8] = sliding_window_view(self._bytes, size)[places]
        return found

    def but_address(self, addresses: _Addresses, size: int, place: int) -> tuple[bytes, _Addresses]:
        """Bytes that are the same at each, without an address at `place` in them, and that of each."""
        found = self.at(addresses, size)
        own = found[:, place: place + 8].copy().view(np.int64).ravel()
        rest = np.delete(found, slice(place, place + 8), axis=1)
        _check(rest == rest[0])
        return rest[0].tobytes(), own


def _check(fits: Any) -> None:
    if not np.all(fits):
        raise _UnlikeError

"""Compares the two copies of information about groups in an HDF5 file: libhdf5 follows one of them, another reader the other.

The entry of a group in the symbol table of the group above it contains the address of its object header and, next to it, a copy of what the
header says about the location of its members. Names are in strictly ascending order, within the bounds that the B-tree gives for each node:
no lookup finds a name that occurs twice or is outside these bounds.

Specification: HDF5 File Format 3.0, sections III.A.1 (B-trees), III.B and III.C (symbol tables), III.D (local heaps), IV.A.1.a (headers).
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from exporter.errors import COPY_AGAIN, FormatError, printable
from exporter.formats.hdf5_layout import (
    ADDRESSES,
    ADDRESSES_AT,
    BRANCH,
    CACHED_GROUP,
    CACHED_LINK,
    CONTINUATION,
    FIRST_MESSAGE,
    FIRST_OF_BLOCK,
    FIRST_OF_HEADER,
    GROUP_NODE,
    LOCAL_HEAP,
    OBJECT_HEADER,
    PAIR,
    RANKS,
    RANKS_AT,
    SIZES,
    SYMBOL_TABLE,
    TABLE_ENTRY,
    TABLE_NODE,
    TREE_NODE,
    UNDEFINED,
    Ranks,
    Read,
    TableEntry,
    TreeNode,
    messages,
)

if TYPE_CHECKING:
    from exporter.formats.hdf5_library import LibraryObject
    from exporter.formats.hdf5_plain import PlainDataset, PlainGroup

SUPERBLOCK_BYTES = 128
MAX_RANK = 64  # of what is read at once; libhdf5's ranks are 4 for leaves and 16 for the nodes above them
MAX_MEMBERS = 200_000  # per group, of all cached groups, and groups per traversal
MAX_HEAP = 64 << 20  # bytes of the names of one group
MAX_BLOCKS, MAX_BLOCK = 64, 1 << 20  # of one object header; bytes of each
MAX_LEVELS = 255  # of a B-tree

CACHES = {0, CACHED_GROUP, CACHED_LINK}
ONLY_LEAF = b"TREE\0\0\1\0" + b"\xff" * 16  # the only node of a B-tree, up to its branch to the only leaf
FEW_NAMES = 256  # bytes: groups of alike layers have the same names
LAST_FREE = 1

Members = dict[bytes, TableEntry]
Table = tuple[int, int]  # addresses of a group's B-tree and of its names
_Leaf = tuple[Iterator[TableEntry], bytes, bytes]
P = ParamSpec("P")
R = TypeVar("R")


class Groups:
    """The symbol tables of a file: each group is checked when it is opened, and its members at the first lookup in it.

    Raises FormatError if one contradicts itself.
    """

    def __init__(self, read_at: Read, start: int) -> None:
        """read_at: reads bytes of the file. start: offset of the superblock."""
        self.tables: dict[str, Table | None] = {}  # of the groups that were opened; None: it has no symbol table
        self._found: dict[str, Members | None] = {}
        self._kept = 0
        block = read_at(start, SUPERBLOCK_BYTES)
        first = ADDRESSES_AT.get(block[8]) if block[SIZES] == b"\x08\x08" else None  # versions 2 and 3 have no entry for the root
        base = ADDRESSES.at(block, first).base if first else 0
        self.read: Read = (lambda address, size: read_at(base + address, size)) if base else read_at
        self.root = TABLE_ENTRY.at(block, first + ADDRESSES.size) if first else None
        ranks = RANKS.at(block, RANKS_AT) if first else Ranks(0, 0, 0)
        self.leaf_size = TABLE_NODE.size + 2 * min(ranks.leaf, MAX_RANK) * TABLE_ENTRY.size
        self._node_size = TREE_NODE.size + 8 * (2 * 2 * min(ranks.internal, MAX_RANK) + 1)
        self._most_read, self._most_used = 2 * min(ranks.internal, MAX_RANK), 2 * ranks.internal

    def check(self, path: str, entry: TableEntry | None, found: LibraryObject | PlainGroup | PlainDataset) -> None:
        """Compares the entry of an opened object in the parent group's symbol table with the object's header.

        entry: the object's entry in that table.
        """
        if found.kind == "group":
            if path not in self.tables:
                self._keep(path, entry, found.table)
        elif entry is not None and entry.cache == CACHED_GROUP:
            raise FormatError("the symbol table describes this as a group, its header as something else", hint=COPY_AGAIN)

    def members(self, path: str) -> Members | None:
        """The members of a group by name; None: they are not listed in a symbol table."""
        try:
            return self._found[path]
        except KeyError:
            pass
        if path not in self.tables:
            self._keep(path, self._entry(path))
        table = self.tables[path]
        members = None if table is None else _complete(self._listed, *table)
        self._kept += len(members or ())
        if self._kept > MAX_MEMBERS:
            self._found.clear()  # the groups above it are listed again when they are needed
            self._kept = len(members or ())
        self._found[path] = members
        return members

    def _entry(self, path: str) -> TableEntry | None:
        """The entry of an object in its parent group; None: the group has another form."""
        if not path:
            return self.root
        parent, _, name = path.rpartition("/")
        members = self.members(parent)
        if members is None:
            return None
        found = members.get(name.encode())
        if found is None:
            raise FormatError("HDF5 finds this name, but the symbol table does not list it", hint=COPY_AGAIN)
        return found

    def _keep(self, path: str, entry: TableEntry | None, table: Table | None = None) -> None:
        """Records where the B-tree and the names of a group are, if it has a symbol table. table: what its header says, if it is known."""
        if entry is not None and table is None:
            table = _complete(self._symbol_table, entry.header)
        if entry is not None and table is not None and entry.cache == CACHED_GROUP and table != (entry.tree, entry.heap):
            raise FormatError("the two records of where this group's members are disagree", hint=COPY_AGAIN)
        if len(self.tables) > MAX_MEMBERS:
            self.tables.clear()
        self.tables[path] = table

    def _symbol_table(self, address: int) -> Table | None:
        """The location of the members according to an object header."""
        header = FIRST_OF_HEADER.at(self.read(address, FIRST_OF_HEADER.size))
        if header.version != 1:
            return None
        message = FIRST_OF_BLOCK.at(self.read(header.first, FIRST_OF_BLOCK.size)) if header.kind == CONTINUATION else header
        return (message.first, message.second) if message.kind == SYMBOL_TABLE else self._message(address)

    def _message(self, address: int) -> Table | None:
        """The symbol table message of a header, wherever it is."""
        size = FIRST_MESSAGE + OBJECT_HEADER.at(self.read(address, OBJECT_HEADER.size)).size
        first, waiting = FIRST_MESSAGE, [(address, size)]
        for _ in range(MAX_BLOCKS):
            if not waiting:
                break
            at, size = waiting.pop(0)
            block = self.read(at, min(size, MAX_BLOCK))
            for kind, data in messages(block, first, len(block)):
                if kind == SYMBOL_TABLE:
                    place = PAIR.at(data)
                    return place.first, place.second
                if kind == CONTINUATION:
                    waiting.append(PAIR.at(data))
            first = 0
        return None

    def _listed(self, tree: int, heap_address: int) -> Members:
        root = self.read(tree, self._node_size)  # first: the library writes the names behind it, so that they are read with it
        signature, version, size, free, place = LOCAL_HEAP.fields(self.read(heap_address, LOCAL_HEAP.size))
        if signature != b"HEAP" or version or size > MAX_HEAP:
            raise FormatError("the names of this group's members are not at the recorded address", hint=COPY_AGAIN)
        names = self.read(place, size)
        if root.startswith(ONLY_LEAF) and size <= FEW_NAMES:  # nearly always
            low, leaf, high = BRANCH.fields(root, len(ONLY_LEAF))
            entries = [*self._leaf(leaf)]
            if entries:
                offsets, _, caches, *_ = zip(*entries)
                found = few_names(names, free, (low, *offsets, high))
                if found and CACHES.issuperset(caches):
                    return dict(zip(found, entries))
        if not _has_free_list(names, free):
            raise FormatError("the free list among the names of this group's members is damaged", hint=COPY_AGAIN)
        members: Members = {}
        before = b""
        for leaf, low, high in self._leaves(tree, root, names, {}, MAX_LEVELS):
            for entry in leaf:
                name = _name(names, entry.name)
                if not (before < name and low < name <= high and entry.cache in CACHES):
                    what = ("occurs more than once in this group" if name == before else "is out of order in this group" if name < before
                            else "is recorded as something unknown" if low < name <= high
                            else "is at a place that no lookup in this group reaches")
                    raise FormatError(f"the name {printable(repr(name)[1:])} {what}", hint=COPY_AGAIN)
                members[name], before = entry, name
            if len(members) > MAX_MEMBERS:
                raise FormatError(f"expected a group of at most {MAX_MEMBERS} members, got more")
        return members

    def _leaves(self, address: int, data: bytes, names: bytes, seen: dict[int, TreeNode], above: int) -> Iterator[_Leaf]:
        """The entries of each leaf below a node of the B-tree, with the keys on both sides: names are above the first, up to the second.

        data: of the node. seen: the nodes so far by address, in their order within a level.
        """
        node = TREE_NODE.at(data)
        if node.signature != b"TREE" or node.kind != GROUP_NODE or node.level >= above or address in seen:
            raise FormatError("the B-tree of this group is damaged", hint=COPY_AGAIN)
        left = next(((place, other) for place, other in reversed(seen.items()) if other.level == node.level), None) if seen else None
        if node.left != (left[0] if left else UNDEFINED) or (left and left[1].right != address) or (not seen and node.right != UNDEFINED):
            raise FormatError("the B-tree of this group is damaged: its nodes disagree about their neighbors", hint=COPY_AGAIN)
        seen[address] = node
        if self._most_read < node.used <= self._most_used:  # a rank above MAX_RANK, of which this node makes use
            data = self.read(address, TREE_NODE.size + 8 * (2 * node.used + 1))
        pairs = struct.unpack_from(f"<{2 * node.used + 1}Q", data, TREE_NODE.size)
        for i in range(0, 2 * node.used, 2):
            low, high = _name(names, pairs[i]), _name(names, pairs[i + 2])
            if node.level == 0:
                yield self._leaf(pairs[i + 1]), low, high
                continue
            inner = self.read(pairs[i + 1], self._node_size)
            for leaf, inner_low, inner_high in self._leaves(pairs[i + 1], inner, names, seen, node.level):
                yield leaf, max(low, inner_low), min(high, inner_high)

    def _leaf(self, address: int) -> Iterator[TableEntry]:
        data = self.read(address, self.leaf_size)
        signature, version, _, used = TABLE_NODE.fields(data)
        if signature != b"SNOD" or version != 1 or TABLE_NODE.size + used * TABLE_ENTRY.size > len(data):
            raise FormatError("a symbol table node of this group is damaged", hint=COPY_AGAIN)
        return TABLE_ENTRY.rows(data, TABLE_NODE.size, used)


def _complete(read: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return read(*args, **kwargs)
    except (struct.error, IndexError, ValueError):
        raise FormatError("the symbol table of this group cannot be read", hint=COPY_AGAIN) from None


@functools.lru_cache(64)
def few_names(names: bytes, free: int, offsets: tuple[int, ...]) -> Sequence[bytes]:
    """The names in a leaf, given the offsets of its lower key, its entries and its upper key; () if they are not as they should be."""
    first, *found, last = (_name(names, offset) for offset in offsets)
    is_ordered = all(before < name for before, name in itertools.pairwise([first, *found])) and found[-1] <= last
    return found if is_ordered and _has_free_list(names, free) else ()


def _has_free_list(names: bytes, place: int) -> bool:
    """Whether the free blocks of a heap, each of which links to the next, are inside the heap."""
    for _ in range(len(names) // PAIR.size + 1):
        if place == LAST_FREE:
            return True
        following, size = PAIR.fields(names, place)
        if not following or size > len(names) - place:
            return False
        place = following
    return False


def _name(names: bytes, offset: int) -> bytes:
    return names[offset: names.index(b"\0", offset)]

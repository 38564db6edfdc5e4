"""Objects of an HDF5 file in the form of nearly every Keras file, read without libhdf5, which takes several times as long:
groups with a symbol table, contiguous arrays of IEEE floats, text attributes.

Nothing is guessed: whatever differs from what the library itself writes, byte for byte, is left to libhdf5, which reads it or
reports what is wrong.

Specification: HDF5 File Format 3.0, sections II.A (superblock), III.E (global heap).
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from exporter.formats.hdf5_layout import (
    ATTRIBUTE,
    ATTRIBUTE_HEAD,
    CONTINUATION,
    DATA_LAYOUT,
    DATASPACE,
    DATATYPE,
    FILL_VALUE,
    FIRST_MESSAGE,
    HEAP_COLLECTION,
    HEAP_OBJECT,
    HEAP_REFERENCE,
    MESSAGE_HEADER,
    OBJECT_HEADER,
    PAIR,
    SYMBOL_TABLE,
    UNDEFINED,
    Pair,
    Read,
)
from exporter.formats.hdf5_messages import (
    FLOATS,
    OtherFormError,
    all_messages,
    attribute_name,
    dataspace,
    is_no_value,
    other_form,
    padded,
    text_form,
)
from exporter.formats.hdf5_overlap import holds_structure

if TYPE_CHECKING:
    from exporter.formats.hdf5_library import LibraryAttribute, LibraryObject

Attributes = Mapping[bytes, bytes]  # messages by name
_kind_of = operator.itemgetter(0)

# The superblock of a file that the library wrote with its default settings: version 0, addresses and sizes of 8 bytes, ranks 4 and 16,
# base 0, no free space and no driver. The end-of-file address is between the two halves.
SUPERBLOCK = b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0\x04\0\x10\0\0\0\0\0" + bytes(8) + b"\xff" * 8, b"\xff" * 8
ROOT_CACHE, IS_GROUP = slice(72, 76), b"\x01\0\0\0"  # in the entry of the root, which follows
ONLY_A_TABLE = b"\1\0\1\0\1\0\0\0\x18\0\0\0\0\0\0\0\x11\0\x10\0\0\0\0\0"  # the header of a group without attributes, up to the addresses
HEAD_BYTES, PLACE_AT = 272, 106  # of the header of a vector as the library writes it; the offset of the data's address in it
MAX_FORMS = 1000
NO_ATTRIBUTES: Attributes = {}
MAX_HEAP = 64 << 20
MAX_KEPT = 16  # collections of strings
CONTIGUOUS_3 = b"\x03\x01"  # version and class of a layout


def is_plain(superblock: bytes, size: int) -> bool:
    """Whether a file of this size begins with the library's default superblock."""
    first, last = SUPERBLOCK
    return superblock.startswith(first + size.to_bytes(8, "little") + last) and superblock[ROOT_CACHE] == IS_GROUP


class PlainObjects:
    """The objects of a file that have this form."""

    def __init__(self, read: Read, by_library: Callable[[str], LibraryObject]) -> None:
        """by_library: gives the object at a path by libhdf5."""
        self._read, self.heap, self.by_library = read, Heap(read), by_library

    def known(self, address: int, path: str, block: bytes = b"") -> PlainDataset | None:
        """The dataset with its header at `address`, if that is like one that was parsed before. block: the beginning of its header."""
        block = block or self._read(address, HEAD_BYTES)
        form = _FORMS.get(block[:PLACE_AT] + block[PLACE_AT + 8:])
        if form is None:
            return None
        place = int.from_bytes(block[PLACE_AT: PLACE_AT + 8], "little")
        return None if place == UNDEFINED else PlainDataset(address, path, NO_ATTRIBUTES, self, form, place)

    def at(self, address: int, path: str) -> PlainGroup | PlainDataset | None:
        """The object with its header at `address`; None if it has another form. path: the same object's, for libhdf5."""
        block = self._read(address, HEAD_BYTES)
        try:
            if block.startswith(ONLY_A_TABLE):
                return PlainGroup(address, path, NO_ATTRIBUTES, self, PAIR.at(block, len(ONLY_A_TABLE)))
            return self.known(address, path, block) or self._parsed(address, path, block)
        except (OtherFormError, struct.error, IndexError):
            return None

    def _parsed(self, address: int, path: str, block: bytes) -> PlainGroup | PlainDataset | None:
        found = all_messages(self._read, address, block)
        kinds = [*map(_kind_of, found)]
        attributes = [data for kind, data in found if kind == ATTRIBUTE]
        named = {attribute_name(data): data for data in attributes}
        if len(named) < len(attributes):
            other_form()
        table, whole = kinds.count(SYMBOL_TABLE), [*map(kinds.count, (DATASPACE, DATATYPE, DATA_LAYOUT))]
        if (table, whole) == (1, [0, 0, 0]):
            return PlainGroup(address, path, named, self, PAIR.at(dict(found)[SYMBOL_TABLE]))
        if (table, whole) != (0, [1, 1, 1]):
            return None
        form, place = _form(dict(found))
        before_layout = sum(MESSAGE_HEADER.size + len(data) for _, data in found[:kinds.index(DATA_LAYOUT)])
        is_alone = not named and CONTINUATION not in kinds and FIRST_MESSAGE + OBJECT_HEADER.at(block).size == len(block)
        if is_alone and FIRST_MESSAGE + before_layout + MESSAGE_HEADER.size + len(CONTIGUOUS_3) == PLACE_AT:
            if len(_FORMS) >= MAX_FORMS:
                _FORMS.clear()
            form = form._replace(head=0 if holds_structure(block) else HEAD_BYTES)
            _FORMS[block[:PLACE_AT] + block[PLACE_AT + 8:]] = form
        return PlainDataset(address, path, named, self, form, place)


class PlainObject:
    """What a group and a dataset have in common. Whatever they can't answer is left to libhdf5."""

    __slots__ = ("_attributes", "_owner", "_path", "address")

    kind: str

    def __init__(self, address: int, path: str, attributes: Attributes, owner: PlainObjects) -> None:
        """attributes: their messages by name."""
        self.address, self._path, self._attributes, self._owner = address, path, attributes, owner

    def attribute_names(self) -> list[bytes]:
        return sorted(self._attributes)  # in the order of the names, as in libhdf5

    def has_attribute(self, name: bytes) -> bool:
        return name in self._attributes

    def attribute(self, name: bytes) -> PlainAttribute | LibraryAttribute:
        """An attribute that exists."""
        try:
            return PlainAttribute(self._attributes[name], self._owner.heap)
        except (OtherFormError, struct.error, IndexError):
            return self._otherwise().attribute(name)

    def _otherwise(self) -> LibraryObject:
        """The same object by libhdf5."""
        return self._owner.by_library(self._path)


class PlainGroup(PlainObject):
    """A group. table: where its members are."""

    __slots__ = ("table",)

    kind = "group"

    def __init__(self, address: int, path: str, attributes: Attributes, owner: PlainObjects, table: Pair) -> None:
        self.address, self._path, self._attributes, self._owner, self.table = address, path, attributes, owner, table

    def links(self) -> list[bytes]:
        """As in LibraryObject, like the following; the symbol table of the parent group usually answers this first."""
        return self._otherwise().links()

    def link(self, name: bytes) -> int | None:
        return self._otherwise().link(name)

    def count(self) -> int:
        return self._otherwise().count()


class Form(NamedTuple):
    """The contents of a dataset's header except the address of its data.

    size: of the data in bytes. head: of the header, if no other structure may begin in it; 0: one may.
    """

    shape: tuple[int, ...]
    float_type: tuple[str, np.dtype[Any]]
    size: int
    head: int


# Parsed headers of datasets of any file, keyed by all their bytes except the data's address: those of one shape are identical.
_FORMS: dict[bytes, Form] = {}


def known_form(header: bytes) -> Form | None:
    """The form of a dataset whose header, without the address of its data, has these bytes, if one like it was parsed before."""
    return _FORMS.get(header)


def _form(messages: dict[int, bytes]) -> tuple[Form, int]:
    """The contents of a dataset's messages, and the address of its data."""
    shape, _ = dataspace(messages[DATASPACE])
    kind, layout = messages[DATATYPE], messages[DATA_LAYOUT]
    float_type = FLOATS.get(kind[:20]) or other_form()
    place, size = PAIR.at(layout, len(CONTIGUOUS_3))
    if layout[:2] != CONTIGUOUS_3 or place == UNDEFINED or not size or size != math.prod(shape) * float_type[1].itemsize:
        other_form()
    if FILL_VALUE in messages and not is_no_value(messages[FILL_VALUE]):
        other_form()
    return Form(shape, float_type, size, 0), place


class PlainDataset(PlainObject):
    """A contiguous array of floats."""

    __slots__ = ("form", "head", "place", "shape", "size")

    kind, type_name, table = "dataset", "floating point numbers", None

    def __init__(self, address: int, path: str, attributes: Attributes, owner: PlainObjects, form: Form, place: int) -> None:
        self.address, self._path, self._attributes, self._owner = address, path, attributes, owner
        self.form, self.place = form, place
        self.shape, _, self.size, self.head = form

    @property
    def item_size(self) -> int:
        return self.form.float_type[1].itemsize

    def float_type(self) -> tuple[str, np.dtype[Any]]:
        """As in LibraryObject."""
        return self.form.float_type

    def is_two_opaque_bytes(self) -> bool:
        return False

    def places(self, size: int) -> list[tuple[int, int, bool]]:
        """As in LibraryObject."""
        return [(self.place, self.size, True)]


class PlainAttribute:
    """A text attribute of fixed or variable length (in a global heap), or an empty one, in which form Keras writes an empty list."""

    is_null = False

    def __init__(self, data: bytes, heap: Heap) -> None:
        _, _, name, datatype, dataspace = ATTRIBUTE_HEAD.fields(data)
        at = ATTRIBUTE_HEAD.size + padded(name) + padded(datatype) + padded(dataspace)
        self.shape, self._item, self.size, self.is_of_any_length, self.is_text, self._ends_in_nul = text_form(data[:at])
        self._data = data[at: at + self.size]
        if len(self._data) != self.size:
            other_form()
        self._texts = list(map(heap.text, HEAP_REFERENCE.rows(self._data, 0, self.size // self._item))) if self.is_of_any_length else []

    @property
    def type_name(self) -> str:
        return "text" if self.is_text else "floating point numbers"

    def texts(self) -> list[bytes]:
        """As in LibraryAttribute."""
        if self.is_of_any_length:
            return self._texts
        found = [self._data[at: at + self._item] for at in range(0, self.size, self._item)]
        return [(text.partition(b"\0")[0] if self._ends_in_nul else text).rstrip(b"\0") for text in found]


class Heap:
    """The strings in the global heap of a file."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._collections: dict[int, dict[int, bytes]] = {}

    def text(self, reference: tuple[int, int, int]) -> bytes:
        """One string, up to its first NUL. Raises IndexError if the reference is invalid."""
        size, address, number = reference
        if not size and not address:
            return b""
        if address not in self._collections:
            if len(self._collections) == MAX_KEPT:
                self._collections.clear()
            self._collections[address] = _collection(self._read, address)
        found = self._collections[address].get(number)
        if found is None or len(found) != size:
            other_form()
        return found.partition(b"\0")[0]


def _collection(read: Read, address: int) -> dict[int, bytes]:
    """The objects of a global heap collection by their numbers."""
    head = HEAP_COLLECTION.at(read(address, HEAP_COLLECTION.size))
    if head.signature != b"GCOL" or head.version != 1 or head.size > MAX_HEAP:
        other_form()
    data = read(address, head.size)
    if len(data) != head.size:
        other_form()
    found: dict[int, bytes] = {}
    at = HEAP_COLLECTION.size
    while at + HEAP_OBJECT.size <= len(data):
        number, _, size = HEAP_OBJECT.fields(data, at)
        begin = at + HEAP_OBJECT.size
        if not number and at + size == len(data):  # the rest is free
            break
        if not number or number in found or begin + size > len(data):
            other_form()
        found[number] = data[begin: begin + size]
        at = begin + size + -size % 8
    return found

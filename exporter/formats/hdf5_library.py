"""Objects of an HDF5 file and their attributes read by libhdf5, through h5py's low-level interface: 31-40 us per dataset instead of
230-310 us with `file[name][()]`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from h5py import h5a, h5d, h5g, h5o, h5s, h5t

from exporter.errors import FormatError
from exporter.formats.hdf5_storage import shape_of, storage_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

# (bytes, (sign, exponent, its bits, mantissa, its bits), bias of the exponent, H5T_NORM_IMPLIED): name and NumPy type of the bytes
FLOATS = {(2, (15, 10, 5, 0, 10), 15, 0): ("float16", "f2"), (4, (31, 23, 8, 0, 23), 127, 0): ("float32", "f4"),
          (8, (63, 52, 11, 0, 52), 1023, 0): ("float64", "f8"), (2, (15, 7, 8, 0, 7), 127, 0): ("bfloat16", "u2")}  # the last: HDF5 2.0


class LibraryObject:
    """A group, a dataset or a named type."""

    table = None  # where a group's members are, which is not asked of libhdf5

    def __init__(self, identifier: Any) -> None:
        self.id = identifier
        self.kind = "group" if isinstance(identifier, h5g.GroupID) else "dataset" if isinstance(identifier, h5d.DatasetID) else "named type"

    @classmethod
    def at(cls, root: Any, path: str) -> LibraryObject:
        """The object at `path` of an open file, each component of which is known to be a hard link."""
        return cls(h5o.open(root, path.encode() or b"/"))

    @property
    def address(self) -> int:
        """The address of its header."""
        return int(h5o.get_info(self.id).addr)

    def attribute_names(self) -> list[bytes]:
        found: list[bytes] = []
        h5a.iterate(self.id, found.append)
        return found

    def has_attribute(self, name: bytes) -> bool:
        return bool(h5a.exists(self.id, name))

    def attribute(self, name: bytes) -> LibraryAttribute:
        """An attribute that exists."""
        return LibraryAttribute(h5a.open(self.id, name))

    def links(self) -> list[bytes]:
        """The names in a group, in the order of its index."""
        found: list[bytes] = []
        self.id.links.iterate(found.append)
        return found

    def link(self, name: bytes) -> int | None:
        """The type of a link; None: there is none of this name."""
        return int(self.id.links.get_info(name).type) if self.id.links.exists(name) else None

    def count(self) -> int:
        """How many links a group has."""
        return int(self.id.get_num_objs())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a dataset."""
        return shape_of(self.id)

    @property
    def item_size(self) -> int:
        return int(self.id.get_type().get_size())

    @property
    def type_name(self) -> str:
        return name_of(self.id.get_type())

    def float_type(self) -> tuple[str, np.dtype[Any]] | None:
        """Name of a dataset's floating point type and the NumPy type of its bytes; None for other types."""
        kind = self.id.get_type()
        if kind.committed():
            raise FormatError("its element type is a committed (named) datatype, which is not supported")
        if kind.equal(h5t.IEEE_F32LE):  # nearly always; the code below gives the same result, more slowly
            return "float32", np.dtype("<f4")
        if kind.get_class() != h5t.FLOAT:
            return None
        order = {h5t.ORDER_LE: "<", h5t.ORDER_BE: ">"}.get(kind.get_order())
        layout = FLOATS.get((kind.get_size(), kind.get_fields(), kind.get_ebias(), kind.get_norm()))
        return (layout[0], np.dtype(order + layout[1])) if layout and order else None

    def is_two_opaque_bytes(self) -> bool:
        """The type in which Keras 3 stores bfloat16, which h5py doesn't support."""
        kind = self.id.get_type()
        return bool(kind.get_class() == h5t.OPAQUE and kind.get_size() == 2)

    def places(self, size: int) -> list[tuple[int, int, bool]]:
        """Where a dataset's data is: see `storage_of`."""
        return storage_of(self.id, size)

    def read_into(self, values: NDArray[Any]) -> None:
        """The values as the file contains them: with the file's own type as the memory type, bytes are copied without conversion."""
        self.id.read(h5s.ALL, h5s.ALL, values, self.id.get_type())


class LibraryAttribute:
    """An attribute."""

    def __init__(self, identifier: Any) -> None:
        self._id, self._type = identifier, identifier.get_type()
        self.is_null = identifier.shape is None  # has no value at all
        self.shape: tuple[int, ...] = () if self.is_null else identifier.shape

    @property
    def size(self) -> int:
        """The total size in bytes according to its type and shape."""
        return math.prod(self.shape) * int(self._type.get_size())

    @property
    def is_text(self) -> bool:
        return bool(self._type.get_class() == h5t.STRING)

    @property
    def is_integer(self) -> bool:
        return bool(self._type.get_class() == h5t.INTEGER)

    @property
    def is_of_any_length(self) -> bool:
        """Whether its strings have variable length and are stored elsewhere."""
        return bool(self._type.is_variable_str())

    @property
    def type_name(self) -> str:
        return name_of(self._type)

    def integer(self) -> int:
        value = np.zeros((), np.int64)
        self._id.read(value)
        return int(value)

    def texts(self) -> list[bytes]:
        """Its strings, without padding."""
        kind = self._type
        if kind.is_variable_str():
            values = np.empty(self.shape, kind.dtype)
            self._id.read(values)
            found: list[bytes] = values.ravel().tolist()
            return found
        raw = np.zeros(self.shape, f"V{kind.get_size()}")
        self._id.read(raw, kind)
        pad = b" " if kind.get_strpad() == h5t.STR_SPACEPAD else b"\0"
        texts = [value.tobytes() for value in raw.reshape(-1)]
        if kind.get_strpad() == h5t.STR_NULLTERM:
            texts = [text.partition(b"\0")[0] for text in texts]
        return [text.rstrip(pad) for text in texts]


def name_of(kind: Any) -> str:
    """A type in words."""
    named = {h5t.INTEGER: "integers", h5t.FLOAT: "an unusual floating point type", h5t.STRING: "text", h5t.BITFIELD: "bit fields",
             h5t.OPAQUE: "opaque bytes", h5t.COMPOUND: "compound values", h5t.REFERENCE: "references",
             h5t.VLEN: "values of variable length", h5t.ENUM: "an enumeration (or booleans)", h5t.ARRAY: "arrays", h5t.TIME: "times"}
    return f"{named.get(kind.get_class(), 'an unknown type')} of {kind.get_size()} bytes each"

"""An open HDF5 file (exporter/formats/hdf5.py opens it): reads its contents, and refuses some before reading them.

What a model file never needs is refused before anything is read: links other than hard ones, data outside the file, virtual datasets,
plugin filters, element types that are not floating point, sizes over the limits, data that was declared but never written.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from exporter.errors import COPY_AGAIN, FormatError, printable
from exporter.files.place import MiB
from exporter.formats.arrays import widen
from exporter.formats.hdf5_names import all_decoded, located_errors, split
from exporter.formats.hdf5_objects import Objects
from exporter.formats.hdf5_plain import PlainAttribute, PlainDataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.formats.hdf5_library import LibraryAttribute, LibraryObject
    from exporter.formats.hdf5_objects import Dataset, Object

MAX_ELEMENTS = 1 << 20  # of one dataset
MAX_BYTES = 256 * MiB  # of all datasets and attributes read from one file
MAX_PLAIN = 1 << 20  # bytes of a dataset that is read without looking at its elements' size
MAX_KERNEL_ELEMENTS = 1 << 26  # of one that is read as a kernel; the reader of kernels limits their sum
MAX_ATTRIBUTE = 64 * MiB


class File(Objects):
    """An open HDF5 file: its objects and what they contain.

    Every method raises FormatError for what is damaged or refused. Use it in a `with` statement.
    """

    _spent = 0  # bytes of parameters and attributes so far

    def __enter__(self) -> File:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @located_errors
    def attributes(self, path: str) -> list[str]:
        """Names of the attributes of an object."""
        return all_decoded(self._open(path).attribute_names(), "the name of an attribute")

    @located_errors
    def text(self, path: str, name: str) -> str | None:
        """A text attribute: one string of fixed or variable length. None: the object has no attribute of this name."""
        found = self._attribute(self._open(path), name)
        if found is None:
            return None
        if found.shape != ():
            raise FormatError(f"the attribute {printable(name)} is an array of shape {list(found.shape)}, expected one string")
        return self._strings(found, name)[0]

    @located_errors
    def integer(self, path: str, name: str) -> int | None:
        """An integer attribute. None: the object has no attribute of this name."""
        found = self._attribute(self._open(path), name)
        if found is None:
            return None
        if isinstance(found, PlainAttribute) or found.shape != () or not found.is_integer:
            raise FormatError(f"the attribute {printable(name)} is not an integer")
        return found.integer()

    @located_errors
    def strings(self, path: str, name: str) -> list[str] | None:
        """A list of strings, also if it is split into the attributes `name`0, `name`1 … None: there is neither.

        Keras 2.1.6 and later split lists of more than 64512 bytes, the limit of one object header message.
        """
        owner = self._open(path)
        found = self._attribute(owner, name)
        if found is not None:
            if owner.has_attribute(f"{name}0".encode()):
                raise FormatError(f"expected {printable(name)} or {printable(name)}0, got both")
            return self._strings(found, name)
        pieces = self._pieces(path, name)
        if not pieces:
            return None
        if pieces != list(range(len(pieces))):
            missing = next(i for i in range(len(pieces) + 1) if i not in pieces)
            raise FormatError(f"the attribute {printable(name)}{missing} is missing: part of the list is lost")
        return [text for i in pieces if (piece := self._attribute(owner, f"{name}{i}")) for text in self._strings(piece, name)]

    def _pieces(self, path: str, name: str) -> list[int]:
        numbers = [attribute[len(name):] for attribute in self.attributes(path) if attribute.startswith(name)]
        return sorted(int(number) for number in numbers if re.fullmatch(r"0|[1-9][0-9]{0,8}", number))

    @located_errors
    def shape(self, path: str) -> tuple[int, ...]:
        """Shape of a dataset; () for a scalar. Its data is not read."""
        return self._dataset(path).shape

    @located_errors
    def size(self, path: str) -> int:
        """The size in bytes of a dataset's values according to its shape and type, whatever the type."""
        dataset = self._dataset(path)
        return math.prod(dataset.shape) * dataset.item_size

    @located_errors
    def dtype(self, path: str) -> str | None:
        """"float16", "bfloat16", "float32" or "float64" as in `array`; None for any other element type."""
        found = self._float_type(self._dataset(path), path)
        return found[0] if found else None

    @located_errors
    def array(self, path: str, *, is_bfloat16: bool = False, is_kernel: bool = False) -> tuple[NDArray[Any], str]:
        """The values of a floating point dataset, in its shape, and the name of its type.

        float16, float32 and float64 of either byte order come as native arrays of that type, bit for bit; bfloat16 comes
        as a float32 array. At most 2**20 values. Type, shape, filters and storage are checked before data is read.

        is_bfloat16: treat two opaque bytes as a bfloat16 even without the attribute (Keras 3 in files of the old layout).
        is_kernel: it may be larger than a batch norm's parameters are.
        """
        dataset = self._dataset(path)
        if type(dataset) is PlainDataset and self._data.can_look_back and dataset.size <= MAX_PLAIN and not is_kernel:  # nearly always
            shape, (name, raw), size, _ = dataset.form
            self._spend(size)
            return np.ndarray(shape, raw, self._data.read(path, dataset.place, size)), name
        found = self._float_type(dataset, path, is_bfloat16)
        if found is None:
            raise FormatError(f"expected a dataset of floating point numbers, got {dataset.type_name}")
        name, raw = found
        shape = dataset.shape
        count = math.prod(shape)
        most = MAX_KERNEL_ELEMENTS if is_kernel else MAX_ELEMENTS
        if count > most:
            raise FormatError(f"expected at most {most} values, got {count} in shape {list(shape)}")
        self._spend(0 if is_kernel else count * raw.itemsize)
        values = self._values(path, dataset, shape, raw, count * raw.itemsize) if count else np.zeros(shape, raw)
        if name == "bfloat16":
            return widen(values), name
        return values if raw.isnative else values.astype(raw.newbyteorder("=")), name

    def arrays(self, paths: Sequence[str], *, is_bfloat16: bool = False) -> list[tuple[NDArray[Any], str]]:
        """`array` of each path, with less work for vectors in one group. A layer's parameters, which are of one byte order."""
        if self._expected and self._expected.has_all(paths):
            with contextlib.suppress(FormatError):  # of which one? each alone says it
                self._spend(self._expected.size(paths))
                return self._expected.arrays(paths)
        if paths[0] not in self._others:
            self.kind(paths[0])  # opens those beside it, too
        found = [dataset for path in paths if type(dataset := self._others.get(path)) is PlainDataset]
        size = sum([dataset.size for dataset in found])
        if self._data.can_look_back and len(found) == len(paths) and size <= MAX_PLAIN:
            with contextlib.suppress(FormatError):  # of which one? each alone says it
                self._spend(size)
                data = self._data.read_all(paths, found)
                return [(np.ndarray(dataset.shape, dataset.form.float_type[1], own), dataset.form.float_type[0])
                        for dataset, own in zip(found, data)]
        if len({*map(self._byte_order, paths)} - {""}) > 1:
            raise FormatError("expected the parameters of a layer in one byte order, got big-endian and little-endian ones",
                              where=self.where(split(paths[0])[0]), hint=COPY_AGAIN)
        return [self.array(path, is_bfloat16=is_bfloat16) for path in paths]

    @located_errors
    def _byte_order(self, path: str) -> str:
        """"<" or ">"; "" for a type that is not floating point."""
        found = self._dataset(path).float_type()
        return found[1].str[0] if found else ""

    def _values(self, path: str, dataset: Dataset, shape: tuple[int, ...], raw: np.dtype[Any], size: int) -> NDArray[Any]:
        """The values as the file contains them. Contiguous ones are read from the file itself, together with the bytes before them."""
        for at, length, is_plain in dataset.places(size):
            data = self._data.read(path, at, length)
            if is_plain and data:
                return np.ndarray(shape, raw, data)
        values = np.empty(shape, raw)
        cast("LibraryObject", dataset).read_into(values)  # in a file in which libhdf5 is not needed, each was read above
        return values

    def _spend(self, count: int) -> None:
        self._spent += count
        if self._spent > MAX_BYTES:
            raise FormatError(f"expected at most {MAX_BYTES} bytes of parameters and attributes, got more")

    def _attribute(self, owner: Object, name: str) -> LibraryAttribute | PlainAttribute | None:
        encoded = name.encode()
        if not owner.has_attribute(encoded):
            return None
        found = owner.attribute(encoded)
        if found.is_null:
            raise FormatError(f"the attribute {printable(name)} is empty")
        if found.size > MAX_ATTRIBUTE:
            raise FormatError(f"the attribute {printable(name)} has {found.size} bytes, expected at most {MAX_ATTRIBUTE}")
        self._spend(found.size)
        return found

    def _strings(self, attribute: LibraryAttribute | PlainAttribute, name: str) -> list[str]:
        if not math.prod(attribute.shape):  # Keras writes an empty list as float64 of shape (0,)
            return []
        if not attribute.is_text:
            raise FormatError(f"the attribute {printable(name)} is {attribute.type_name}, expected text")
        texts = attribute.texts()
        if attribute.is_of_any_length:
            self._spend(sum(map(len, texts)))
        return all_decoded(texts, f"the attribute {printable(name)}")

    def _float_type(self, dataset: Dataset, path: str, is_bfloat16: bool = False) -> tuple[str, np.dtype[Any]] | None:
        """Name of the dataset's floating point type and the NumPy type of its bytes; None for other types."""
        found = dataset.float_type()
        if found is None and dataset.is_two_opaque_bytes():
            # Keras 3 stores bfloat16, which h5py doesn't support, as two opaque bytes and marks it in an attribute
            said = is_bfloat16 or self.text(path, "dtype") == "bfloat16"
            return ("bfloat16", np.dtype("<u2")) if said else None
        return found

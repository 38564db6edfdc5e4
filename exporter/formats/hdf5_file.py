"""An open HDF5 file (exporter/formats/hdf5.py opens it): reads its contents, and refuses some before reading them.

Objects of the usual form are read without libhdf5 (exporter/formats/hdf5_plain.py), all others by it (hdf5_library.py). What a model file
never needs is refused before anything is read: links other than hard ones, data outside the file, virtual datasets, plugin filters,
element types that are not floating point, sizes over the limits, data that was declared but never written.

Specification: HDF5 File Format 3.0, https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from exporter.errors import COPY_AGAIN, FormatError, printable
from exporter.files.input_file import InputFile, MemoryFile, Windows
from exporter.files.place import MiB
from exporter.formats.bfloat16 import widen
from exporter.formats.hdf5_groups import MAX_MEMBERS, Groups, Members
from exporter.formats.hdf5_layout import CACHED_LINK, TableEntry
from exporter.formats.hdf5_names import MAX_DEPTH, all_decoded, each_once, located_errors, split
from exporter.formats.hdf5_overlap import Data
from exporter.formats.hdf5_plain import PlainAttribute, PlainDataset, PlainGroup, PlainObjects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.formats.hdf5_alike import Expected
    from exporter.formats.hdf5_library import LibraryAttribute, LibraryObject

    Dataset = LibraryObject | PlainDataset
    Object = Dataset | PlainGroup

MAX_ELEMENTS = 1 << 20  # of one dataset
MAX_BYTES = 256 * MiB  # of all datasets and attributes read from one file
MAX_PLAIN = 1 << 20  # bytes of a dataset that is read without looking at its elements' size
MAX_KERNEL_ELEMENTS = 1 << 26  # of one that is read as a kernel; the reader of kernels limits their sum
MAX_ATTRIBUTE = 64 * MiB
MAX_KEPT, MAX_GROUPS = 64, 1024  # datasets and groups held open: 10 KiB each
MIN_EXPECTED = 32  # groups that are looked at together if they are alike
MAX_BESIDE = 8  # members of a group whose datasets are opened together

HARD_LINK, SOFT_LINK = 0, 1
LINK_KINDS = {HARD_LINK: "hard link", SOFT_LINK: "soft link", 64: "external link"}


def _closed(path: str) -> NoReturn:
    raise FormatError("the file was closed", where=printable(path))


class File:
    """An open HDF5 file. Objects are named by their path, "" for the root; each component must be a hard link.

    Every method raises FormatError for what is damaged or refused. Use it in a `with` statement.
    """

    def __init__(self, by_library: Callable[[], Any], label: str, file: InputFile, start: int, *, is_plain: bool,
                 can_look_back: bool) -> None:
        """by_library: opens the bytes of `file`, whose superblock is at `start`, with libhdf5, when it is first needed.
        is_plain: whether the superblock allows reading objects without it.
        can_look_back: whether the sizes of structures are known and reading bytes before the data costs no request."""
        self._by_library, self._id = by_library, None if is_plain else by_library()
        self._label = label
        self._is_plain = is_plain
        is_local = not (file.is_far or isinstance(file, MemoryFile))
        self._read_at = Windows(file).read_at if is_local else file.read_at
        self._data = Data(Windows(file, 0).read_at if is_local else file.read_at, can_look_back)
        self._symbols = Groups(self._read_at, start)
        self._objects = PlainObjects(self._symbols.read, self._entered_by_library)
        self._checked: set[str] = set()  # groups of another form, whose member names were checked
        self._groups: dict[str, Object] = {}
        self._others: dict[str, Object] = {}  # recently used datasets
        self._expected: Expected | None = None
        self._stack = contextlib.ExitStack()
        self._spent = 0

    def __enter__(self) -> File:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._groups.clear()
        self._others.clear()
        self._objects.by_library = _closed  # no longer a method of this file: without a cycle, its bytes are freed at once
        if self._id is not None:
            self._id.close()
        self._stack.close()

    def keep_open(self, stack: contextlib.ExitStack) -> None:
        """Closes `stack` together with this file."""
        self._stack = stack

    def expect(self, groups: Iterable[str]) -> None:
        """Says that the vectors in these groups will be read in this order, so that those that are alike can be looked at together."""
        listed = [*groups]
        if self._is_plain and self._data.can_look_back and len(listed) > MIN_EXPECTED:
            from exporter.formats.hdf5_alike import Expected

            self._expected = Expected(listed, self._symbols, self._data)

    @located_errors
    def names(self, path: str) -> list[str]:
        """Names of the members of a group, links of every kind among them, in the order of the group's index."""
        if self._expected and (known := self._expected.names(path)):
            return [*known]
        group = self._container(path)
        members = self._symbols.members(path)
        count = group.count() if members is None else len(members)
        if count > MAX_MEMBERS:
            raise FormatError(f"expected a group of at most {MAX_MEMBERS} members, got {count}")
        return all_decoded(each_once(group.links()) if members is None else [*members], "the name of a member")

    @located_errors
    def count(self, path: str) -> int:
        """The number of members of a group; this reads much less than their names."""
        group, members = self._container(path), self._symbols.members(path)
        return group.count() if members is None else len(members)

    @located_errors
    def kind(self, path: str) -> str | None:
        """"group", "dataset", "named type", "soft link", "external link", "user-defined link"; None: nothing there."""
        found = self._find(path)
        return found if found is None or isinstance(found, str) else found.kind

    def exists(self, path: str) -> bool:
        """Whether anything has this name, including a link of any kind."""
        return self.kind(path) is not None

    def first_missing(self, paths: Sequence[str]) -> str | None:
        """The first path where there is nothing."""
        if self._expected and self._expected.has_all(paths):
            return None
        return next((path for path in paths if path not in self._others and not self.exists(path)), None)

    def is_group(self, path: str) -> bool:
        return self.kind(path) == "group"

    @located_errors
    def identity(self, path: str) -> int:
        """A number that is the same for all paths to one object."""
        return self._open(path).address

    def walk(self, path: str = "") -> Iterator[str]:
        """`path` and the groups below it, outer ones first; each object once, however many links lead to it."""
        seen: set[int] = set()
        stack = [path]
        while stack:
            here = stack.pop()
            identity = self.identity(here)
            if identity in seen:
                continue
            seen.add(identity)
            if len(seen) > MAX_MEMBERS:
                raise FormatError(f"expected at most {MAX_MEMBERS} groups, got more", where=self.where(path))
            yield here
            below = [f"{here}/{name}" if here else name for name in self.names(here)]
            stack += [child for child in reversed(below) if self.kind(child) == "group"]

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

    def where(self, path: str) -> str:
        """The place of an object, for error messages."""
        inside = printable(path) or "root group"
        return f"{self._label}: {inside}" if self._label else inside

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

    def _open(self, path: str) -> Object:
        """The object at `path`; each component must be a hard link in its group."""
        found = self._find(path)
        if found is None:
            self._group(split(path)[0])  # raises if it is not there, or not a group
            raise FormatError("the file contains no object of this name")
        if isinstance(found, str):
            raise FormatError(f"this {found} points to other data; only data stored in the file itself is read", where=self.where(path))
        return found

    def _find(self, path: str) -> Object | str | None:
        """The object at `path`, the kind of the link there if it is not a hard one, or None if there is nothing."""
        found = self._groups.get(path) or self._others.get(path)
        if found is not None:
            return found
        if not path:
            return self._enter(path, self._symbols.root)
        parent, name = split(path)
        if parent not in self._symbols.tables and self.kind(parent) != "group":
            return None
        members = self._symbols.members(parent)
        if members is None:
            link, entry = self._container(parent).link(name), None
        else:
            entry = members.get(name)
            link = None if entry is None else SOFT_LINK if entry.cache == CACHED_LINK else HARD_LINK
        if link != HARD_LINK:
            return None if link is None else LINK_KINDS.get(link, "user-defined link")
        found = self._enter(path, entry)
        if parent and members is not None and type(found) is PlainDataset and self._data.can_look_back and len(members) <= MAX_BESIDE:
            self._enter_beside(f"{parent}/", members)
        return found

    def _enter_beside(self, above: str, members: Members) -> None:
        """Opens the datasets of a group in which one was opened, if they are like others before: usually they are needed next."""
        if len(self._others) > MAX_KEPT - MAX_BESIDE:
            self._others.clear()
        for name, entry in members.items():
            if not entry.cache and b"/" not in name and name.strip(b"."):  # else no lookup finds it here
                path = above + name.decode(errors="surrogateescape")
                if path not in self._others and (found := self._objects.known(entry.header, path)):
                    self._others[path] = found

    def _enter(self, path: str, entry: TableEntry | None) -> Object:
        """Opens an object that is known to exist behind a hard link. entry: its own in the symbol table of its group."""
        if path.count("/") >= MAX_DEPTH:
            raise FormatError(f"expected groups at most {MAX_DEPTH} levels deep, got more")
        found = (self._is_plain and entry and self._objects.at(entry.header, path)) or self._entered_by_library(path)
        self._symbols.check(path, entry, found)
        if found.kind == "group":
            if len(self._groups) == MAX_GROUPS:
                self._groups.clear()  # the groups above it are opened again when they are needed
            self._groups[path] = found
            return found
        if len(self._others) == MAX_KEPT:
            self._others.clear()
        self._others[path] = found
        return found

    def _entered_by_library(self, path: str) -> LibraryObject:
        """The object at `path`, whose components are known to be hard links, opened from the nearest group that libhdf5 has open."""
        from exporter.formats.hdf5_library import LibraryObject

        if self._id is None:
            self._id = self._by_library()
        parent, _, name = path.rpartition("/")
        above = self._groups.get(parent)
        return LibraryObject.at(above.id, name) if path and isinstance(above, LibraryObject) else LibraryObject.at(self._id, path)

    def _group(self, path: str) -> LibraryObject | PlainGroup:
        found = self._open(path)
        if found.kind != "group":
            raise FormatError("expected a group here", where=self.where(path))
        return cast("LibraryObject | PlainGroup", found)

    def _container(self, path: str) -> LibraryObject | PlainGroup:
        """A group for a lookup, after refusing names that occur twice or that a lookup cannot reach."""
        group = self._group(path)
        if self._symbols.members(path) is None and path not in self._checked:
            each_once(group.links())
            self._checked.add(path)
        return group

    def _dataset(self, path: str) -> Dataset:
        found = self._others.get(path) or self._open(path)
        if found.kind != "dataset":
            raise FormatError(f"expected a dataset here, got a {found.kind}")
        return cast("Dataset", found)

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

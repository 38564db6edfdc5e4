"""The objects of an open HDF5 file by their path: groups, datasets and the links to them.

Objects of the usual form are read without libhdf5 (exporter/formats/hdf5_plain.py), all others by it (hdf5_library.py). Links other than
hard ones are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from exporter.errors import FormatError, printable
from exporter.files.input_file import InputFile, MemoryFile, Windows
from exporter.formats.hdf5_groups import MAX_MEMBERS, Groups, Members
from exporter.formats.hdf5_layout import CACHED_LINK, TableEntry
from exporter.formats.hdf5_names import MAX_DEPTH, all_decoded, each_once, located_errors, split
from exporter.formats.hdf5_overlap import Data
from exporter.formats.hdf5_plain import PlainDataset, PlainGroup, PlainObjects

if TYPE_CHECKING:
    from exporter.formats.hdf5_alike import Expected
    from exporter.formats.hdf5_library import LibraryObject

    Dataset = LibraryObject | PlainDataset
    Object = Dataset | PlainGroup

MAX_KEPT, MAX_GROUPS = 64, 1024  # datasets and groups held open: 10 KiB each
MIN_EXPECTED = 32  # groups that are looked at together if they are alike
MAX_BESIDE = 8  # members of a group whose datasets are opened together

HARD_LINK, SOFT_LINK = 0, 1
LINK_KINDS = {HARD_LINK: "hard link", SOFT_LINK: "soft link", 64: "external link"}


def _closed(path: str) -> NoReturn:
    raise FormatError("the file was closed", where=printable(path))


class Objects:
    """The objects of an open file, named by their path, "" for the root; each component must be a hard link."""

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

    def where(self, path: str) -> str:
        """The place of an object, for error messages."""
        inside = printable(path) or "root group"
        return f"{self._label}: {inside}" if self._label else inside

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

"""Files and folders inside a zip archive, as places: sources read them in place; nothing is unpacked to disk."""

from __future__ import annotations

import os
import stat
from typing import cast

from exporter.errors import FormatError
from exporter.files.input_file import InputFile, MemoryFile
from exporter.files.place import Place, check_parts
from exporter.formats.zip_archive import MAX_INFLATED, STORED, Archive, Window

MAX_DEPTH = 16  # nested folders; anything deeper is ignored


class ZipPlace(Place):
    """A member of an archive, or a folder of members: "" is the archive's own top."""

    def __init__(self, content: Content, path: str = "") -> None:
        self._content, self._path = content, path

    def __repr__(self) -> str:
        return f"ZipPlace({self.address!r})"

    @property
    def is_local(self) -> bool:
        return False

    @property
    def address(self) -> str:
        return f"{self._content.place.address}/{self._path}".rstrip("/")

    @property
    def name(self) -> str:
        return os.fsencode(self._path.rpartition("/")[2]).decode("utf-8", "replace") or self._content.place.name

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1].lower()

    def stat(self) -> os.stat_result | None:
        if self._path in self._content.archive and self._path:
            return os.stat_result((stat.S_IFREG, *bytes(5), self._content.archive.member(self._path).size, *bytes(3)))
        return os.stat_result((stat.S_IFDIR, *bytes(9))) if self._path in self._content.folders else None

    def open(self) -> InputFile:
        self.check_is_file()
        return self._content.open(self._path)

    def head(self, count: int = 512) -> bytes:
        """The first bytes only, so the member's CRC-32 is not checked."""
        return self._content.archive.head(self._path, count) if self.is_file() else b""

    def child(self, *parts: str) -> Place:
        check_parts(parts, self.name)
        return ZipPlace(self._content, "/".join([self._path, *parts]).lstrip("/"))

    def parent(self) -> Place:
        return ZipPlace(self._content, self._path.rpartition("/")[0])

    def children(self) -> list[Place]:
        return [self.child(name) for name in sorted(self._content.folders.get(self._path, ()))]

    def opened(self) -> list[Place]:
        return [ZipPlace(self._content, name) for name in self._content.opened]

    def check_unchanged(self) -> None:
        self._content.place.check_unchanged()


class Content:
    """The contents of an archive. The caller has to close the file, after the last use of the places."""

    def __init__(self, place: Place, file: InputFile) -> None:
        self.place, self.archive = place, Archive(file)
        self.opened: dict[str, bytes | InputFile] = {}
        self.folders: dict[str, set[str]] = {"": set()}
        self._inflated = 0
        for member in self.archive.members:
            if not member.is_unsafe and member.name.count("/") <= MAX_DEPTH:
                self._add(member.name)

    def _add(self, name: str) -> None:
        if name.endswith("/"):
            name = name.rstrip("/")
            self.folders.setdefault(name, set())
        while name:
            above, _, own = name.rpartition("/")
            self.folders.setdefault(above, set()).add(own)
            name = above

    def open(self, name: str) -> InputFile:
        """A member as a separate file; inflated data is kept, and its total is limited."""
        member = self.archive.member(name)
        if name not in self.opened:
            if member.method != STORED and self._inflated + member.size > MAX_INFLATED:
                raise FormatError(f"the archive's members decompress to more than the limit of {MAX_INFLATED} bytes", where=name,
                                  hint="unpack the archive and pass the model in it")
            file = self.archive.open(name)
            self.opened[name] = file.getvalue() if isinstance(file, MemoryFile) else file
            self._inflated += member.size if member.method != STORED else 0
        kept = self.opened[name]
        return MemoryFile(kept) if isinstance(kept, bytes) else cast(InputFile, Window(kept, 0, member.size))

"""Remote files: https, S3 and everything else that fsspec supports. Ranges of a file are fetched, each byte at most once.

A URL is opened by the process that reads it, so with `isolated` only the child opens it. Credentials and endpoints come from
fsspec: its configuration files and the environment variables of the store's own tools.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import urllib.parse
from collections.abc import Iterable
from typing import Any, Protocol, cast

from exporter.errors import ExporterError, FormatError, OutputError, UsageError, printable
from exporter.files import address
from exporter.files.address import is_url as is_url
from exporter.files.input_file import InputFile
from exporter.files.patience import Patience
from exporter.files.place import Place, check_parts
from exporter.files.ranges import Far, Ranges, RangesFile
from exporter.files.stores import StoredFile, patiently, reason, store_for

MARKS = ("ETag", "size", "mtime", "LastModified", "Last-Modified", "last_modified")  # what distinguishes two versions of a file


class FarFile(Far, Protocol):
    """One file of a store."""

    def info(self) -> dict[str, Any] | None:
        """The store's information about it; None if there is nothing."""

    def failed(self, error: BaseException) -> ExporterError:
        """One of our errors for an error of the store."""


def place_for(path: str | os.PathLike[str]) -> Place:
    """The Place of a path or URL. Nothing is opened."""
    text = address.without_file_scheme(path)
    if not text:
        raise UsageError("expected a path or URL, got an empty name")
    if not is_url(text):
        return Place(text)
    return RemotePlace(text)


class RemotePlace(Place):
    """A file or folder behind a URL. Fetched bytes are kept as long as the place exists."""

    def __init__(self, url: str, family: dict[str, RemotePlace] | None = None) -> None:
        self.url = url
        self._family = {} if family is None else family  # the files of one model, by URL
        self._family[url] = self
        self._content: Ranges | None = None
        self._file: FarFile | None = None
        self._known: dict[str, Any] | None = None
        self._asked = False

    def __repr__(self) -> str:
        return f"RemotePlace({self.name!r})"

    @property
    def address(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        return False

    @property
    def name(self) -> str:
        """The last component, without the query, which may contain a signature."""
        return address.name_of(self.url)

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1].lower()

    def stat(self) -> os.stat_result | None:
        info = self.info()
        if info is None:
            return None
        kind, size = stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG, info.get("size")
        if kind == stat.S_IFREG and size is None:  # the server does not specify it, so the file has to be fetched
            self._content = self._content or Ranges(self._far(), None, self.name)
            size = self._content.size
        return os.stat_result((kind | 0o444, 0, 0, 1, 0, 0, size or 0, 0, 0, 0))

    def info(self) -> dict[str, Any] | None:
        """The store's information about it, requested once; None if there is nothing."""
        if not self._asked:
            self._known = self._far().info()
            self._asked = True
        return self._known

    def open(self) -> InputFile:
        self.check_is_file()
        self._content = self._content or Ranges(self._far(), self.size(), self.name)
        return cast(InputFile, RangesFile(self._content))

    def child(self, *parts: str) -> Place:
        check_parts(parts, self.name)
        return self._relative(address.child_of(self.url, parts))

    def parent(self) -> Place:
        return self._relative(address.parent_of(self.url))

    def _relative(self, url: str) -> Place:
        return self._family.get(url) or RemotePlace(url, self._family)

    def children(self) -> list[Place]:
        store, path = store_for(self.url)
        try:
            names = patiently(lambda: store.ls(path, detail=False), Patience())
        except Exception as error:  # stores raise whatever their client libraries do
            raise self._far().failed(error) from None
        if address.is_web(self.url):
            names = [urllib.parse.unquote(address.split(name)[0]) for name in names]
            path = urllib.parse.unquote(path)
        found = sorted({posixpath.basename(name.rstrip("/")) for name in names if name.rstrip("/") != path.rstrip("/")})
        return [self.child(name) for name in found]

    def opened(self) -> list[Place]:
        return [place for place in self._family.values() if place._content is not None]

    def check_unchanged(self) -> None:
        """Refuses a model if one of its files was replaced while its ranges were read: parts of two versions would be mixed."""
        for place in list(self._family.values()):
            if place._content is not None:
                place._compare()

    def refresh(self) -> None:
        """Has `info` ask the store again."""
        store, _ = store_for(self.url)
        store.invalidate_cache()
        self._asked = False

    def _compare(self) -> None:
        before = self._known or {}
        self.refresh()
        after = self.info() or {}
        if any(before.get(mark) != after.get(mark) for mark in MARKS):
            raise FormatError("the file changed on the server while it was being read", where=self.name, hint="try again")

    def _far(self) -> FarFile:
        """The file in its store, with the time that was spent waiting for it so far."""
        if self._file is None:
            store, _ = store_for(self.url)
            plain = self.url.lower().startswith(("http:", "https:"))
            if plain and hasattr(store, "set_session"):
                from exporter.files.web import WebFile  # it imports asyncio: slow, and useless for local files

                self._file = WebFile(store, self.url, self.name)
            else:
                self._file = StoredFile(self.url, self.name)
        return self._file


def check_output(url: str, inputs: Iterable[Place] = ()) -> None:
    """Refuses a URL that cannot be written to, or that is one of the inputs, before any work is done and without network access."""
    where = printable(address.public(url), 120)
    if url.endswith("/"):
        raise OutputError("expected the URL of a file, got a folder", where=where, hint="give the name of a file")
    if re.match("https?:", url, re.IGNORECASE):
        raise OutputError("http addresses cannot be written to", where=where, hint="write to a local file or an object store such as s3://")
    if any(place.address == url for place in inputs):
        raise OutputError("the output would replace the input", where=where, hint="choose another name")


def write_bytes(url: str, data: bytes) -> None:
    """Writes a remote file in an fsspec transaction: the object appears complete if the store supports that (docs/many.md).

    Raises OutputError.
    """
    store, path = store_for(url)
    try:
        with store.transaction, store.open(path, "wb") as file:
            file.write(data)
    except Exception as error:  # stores raise whatever their client libraries do
        store.end_transaction()  # older fsspec stays in one whose commit failed: what the program writes there later would go nowhere
        raise OutputError(f"cannot be written: {reason(error, url)}", where=printable(address.public(url), 120),
                          hint="check the address, the network, and the credentials in the environment") from None

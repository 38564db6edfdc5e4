"""Files far away: https, S3 and whatever else fsspec knows. Ranges of a file are fetched, and each byte at most once.

A URL is opened where it is read, so with `isolated` the child opens it and the caller never does. Credentials and end points are
fsspec's affair: its configuration files and the environment variables of the store's own tools.
"""

from __future__ import annotations

import bisect
import io
import os
import posixpath
import re
import stat
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from exporter.errors import ExporterError, FormatError, MissingExtra, OutputError, UsageError, printable
from exporter.files.input_file import InputFile, Seeking
from exporter.files.place import MiB, Place, check_parts

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:://|::)")  # two letters or more: C:\\ is a drive

LEAST = 4096  # bytes of a request for what nobody announced: formats are read in small pieces near each other
BLOCK, GAP = 512, 512  # announced ranges are widened to multiples of the one; closer than the other they become one request
AT_ONCE = 32  # requests; small servers let more of them wait for seconds
MARKS = ("ETag", "size", "mtime", "LastModified", "Last-Modified", "last_modified")  # what tells two versions of a file apart

MOST_KEPT = 512 * MiB  # bytes of one file; a server that knows no ranges sends the whole file


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is for fsspec rather than the local file system."""
    return URL.match(os.fspath(path)) is not None


def place_for(path: str | os.PathLike[str]) -> Place:
    """The Place of a path or URL. Nothing is opened."""
    text = os.fspath(path)
    if not text:
        raise UsageError("expected a path or URL, got an empty name")
    if not is_url(text):
        return Place(text)
    if text.lower().startswith("file://"):
        from urllib.request import url2pathname

        return Place(url2pathname(urllib.parse.urlsplit(text).path))
    return RemotePlace(text)


class RemotePlace(Place):
    """A file or folder behind a URL. What is fetched of a file is kept as long as the place is."""

    def __init__(self, url: str, family: dict[str, RemotePlace] | None = None) -> None:
        self.url = url
        self._family = {} if family is None else family  # the files of one model, by URL
        self._family[url] = self
        self._content: Ranges | None = None
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
        """The last component, without the query, which may hold a signature."""
        bare, _ = _split(self.url)
        return urllib.parse.unquote(posixpath.basename(bare.rstrip("/"))) or bare

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1].lower()

    def stat(self) -> os.stat_result | None:
        info = self.info()
        if info is None:
            return None
        kind, size = stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG, info.get("size")
        if kind == stat.S_IFREG and size is None:  # a server that does not say: the file has to be fetched
            self._content = self._content or Ranges(self._fetch, self._fetch_all, None, self.name)
            size = self._content.size
        return os.stat_result((kind | 0o444, 0, 0, 1, 0, 0, size or 0, 0, 0, 0))

    def info(self) -> dict[str, Any] | None:
        """What the store says about it, asked once; None where there is nothing."""
        if not self._asked:
            store, path = self._store()
            try:
                self._known = dict(store.info(path))
            except FileNotFoundError as error:
                if error.__cause__ is not None and getattr(error.__cause__, "status", None) not in (404, 410):
                    raise self._failed(error.__cause__) from None  # fsspec's HTTP says "not found" for every failure
                self._known = None
            except Exception as error:  # stores raise whatever their client libraries do
                raise self._failed(error) from None
            self._asked = True
        return self._known

    def open(self) -> InputFile:
        if not self.is_file():
            self.size()  # says so where there is nothing
            raise FormatError("this is a folder, not a file", where=self.name)
        self._content = self._content or Ranges(self._fetch, self._fetch_all, self.size(), self.name)
        return cast(InputFile, _File(self._content))

    def child(self, *parts: str) -> Place:
        check_parts(parts, self.name)
        bare, query = _split(self.url)
        return self._relative("/".join([bare.rstrip("/"), *map(self._quoted, parts)]) + query)

    def sibling(self, name: str) -> Place:
        return self.parent().child(name)

    def parent(self) -> Place:
        bare, query = _split(self.url)
        return self._relative(posixpath.dirname(bare.rstrip("/")) + query)

    def _relative(self, url: str) -> Place:
        return self._family.get(url) or RemotePlace(url, self._family)

    def children(self) -> list[Place]:
        store, path = self._store()
        try:
            found = sorted(posixpath.basename(name.rstrip("/")) for name in store.ls(path, detail=False) if name.rstrip("/") != path)
        except Exception as error:  # as in `info`
            raise self._failed(error) from None
        return [self.child(name) for name in found if name]

    def opened(self) -> list[Place]:
        return [place for place in self._family.values() if place._content is not None]

    def check_unchanged(self) -> None:
        """Refuses a model of which a file was replaced while its ranges were read: parts of two would be mixed."""
        for place in list(self._family.values()):
            if place._content is not None:
                place._compare()

    def refresh(self) -> None:
        """Has `info` ask the store again."""
        store, _ = self._store()
        store.invalidate_cache()
        self._asked = False

    def _compare(self) -> None:
        before = self._known or {}
        self.refresh()
        after = self.info() or {}
        if any(before.get(mark) != after.get(mark) for mark in MARKS):
            raise FormatError("the file was replaced while it was read", where=self.name, hint="try again")

    def _quoted(self, part: str) -> str:
        return urllib.parse.quote(part, safe="/") if self.url.lower().startswith("http") else part

    def _store(self) -> tuple[Any, str]:
        return store_for(self.url)

    def _fetch(self, start: int | None, end: int | None) -> bytes:
        store, path = self._store()
        try:
            data: bytes = store.cat_file(path, start=start, end=end)
            return data
        except Exception as error:  # as in `info`
            raise self._failed(error) from None

    def _fetch_all(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        store, path = self._store()
        try:
            found: list[bytes] = []
            for i in range(0, len(ranges), AT_ONCE):
                starts, ends = zip(*ranges[i: i + AT_ONCE])
                found += store.cat_ranges([path] * len(starts), list(starts), list(ends), on_error="raise")
            return found
        except Exception as error:  # as in `info`
            raise self._failed(error) from None

    def _failed(self, error: BaseException) -> ExporterError:
        if isinstance(error, ExporterError):
            return error
        return FormatError(f"cannot be read: {reason(error, self.url)}", where=self.name,
                           hint="check the address, the network, and the credentials in the environment")


def store_for(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL and the path in it. Raises MissingExtra, UsageError."""
    try:
        import fsspec
    except ImportError:
        raise MissingExtra("fsspec", "remote", "reading and writing URLs") from None
    # a proxy or server that packs its answers would give ranges of the packed file
    options = {"headers": {"Accept-Encoding": "identity"}} if url.lower().startswith("http") else {}
    try:
        store, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise MissingExtra(error.name or str(error), "remote", f"the URL {printable(_split(url)[0], 80)}") from None
    except ValueError as error:
        raise UsageError(f"{printable(_split(url)[0], 80)}: {reason(error, url)}") from None
    except Exception as error:  # some stores connect here, and raise whatever their client libraries do
        raise FormatError(f"cannot be reached: {reason(error, url)}", where=printable(_split(url)[0], 80),
                          hint="check the address, the network, and the credentials in the environment") from None
    return store, path


def reason(error: BaseException, url: str) -> str:
    """The library's own words, without the URL's query and user information, which may be secrets."""
    status = getattr(error, "status", None)
    if status is not None:
        return f"the server answers {status} {printable(str(getattr(error, 'message', '')), 60)}".rstrip()
    text = str(error) or type(error).__name__
    for secret in (urllib.parse.urlsplit(url).query, urllib.parse.urlsplit(url).netloc.rpartition("@")[0]):
        if secret:
            text = text.replace(secret, "…")
    return printable(text, 200)


def check_output(url: str, inputs: Iterable[Place] = ()) -> None:
    """Refuses a URL that nothing can be written to, or that is an input's own, before any work is done and without the network."""
    where = printable(_split(url)[0], 120)
    if url.endswith("/"):
        raise OutputError("a folder cannot be written to a URL", where=where, hint="give the name of a file")
    if re.match("https?:", url, re.IGNORECASE):
        raise OutputError("nothing can be written over http", where=where, hint="write to a file or to a store such as s3://")
    if any(place.address == url for place in inputs):
        raise OutputError("the output would replace the input", where=where, hint="choose another name")


def write_bytes(url: str, data: bytes) -> None:
    """Writes a remote file in a transaction of fsspec: the object appears whole where the store can do that (docs/many.md).

    Raises OutputError.
    """
    store, path = store_for(url)
    try:
        with store.transaction, store.open(path, "wb") as file:
            file.write(data)
    except Exception as error:  # stores raise whatever their client libraries do
        raise OutputError(f"cannot be written: {reason(error, url)}", where=printable(_split(url)[0], 120),
                          hint="check the address, the network, and the credentials in the environment") from None


def _split(url: str) -> tuple[str, str]:
    """A URL without its query and fragment, and these. Only the web's have any: "?" may stand in the name of an object of S3."""
    cut = re.search(r"[?#]", url) if url.lower().startswith(("http:", "https:")) else None
    return (url[: cut.start()], url[cut.start():]) if cut else (url, "")


class Ranges:
    """The parts of a remote file that were fetched so far.

    fetch:     gives the bytes from start to end, or with (None, None) the whole file.
    fetch_all: gives several ranges, requested at once.
    size:      of the file, or None where the server does not say: then the whole file is fetched.
    """

    def __init__(self, fetch: Callable[[int | None, int | None], bytes], fetch_all: Callable[[list[tuple[int, int]]], list[bytes]],
                 size: int | None, name: str) -> None:
        self._fetch, self._fetch_all, self._name = fetch, fetch_all, name
        self._starts: list[int] = []
        self._parts: list[bytes] = []
        self._kept = 0
        if size is None:
            whole = fetch(None, None)
            size = len(whole)
            self._keep(0, whole)
        self.size = size

    def read(self, start: int, end: int) -> bytes:
        """The bytes from start to end, cut at the end of the file."""
        end = min(end, self.size)
        if start >= end:
            return b""
        missing = list(self._missing(start, end))
        if missing:
            enough = min(self.size, max(end, missing[0][0] + LEAST))
            for first, last in list(self._missing(missing[0][0], enough)):
                if first < end:
                    self._request(first, last)
        parts = []
        for i in range(self._at(start), len(self._parts)):
            base, part = self._starts[i], self._parts[i]
            if base >= end:
                break
            parts.append(part[max(0, start - base): end - base])
        return b"".join(parts)

    def fetch_ahead(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetches what is missing of these ranges, all at once; neighbours, with the gap between them, in one request."""
        missing = sorted(piece for start, end in ranges
                         for piece in self._missing(start // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, self.size)))
        merged: list[tuple[int, int]] = []
        for start, end in missing:
            if merged and start - merged[-1][1] <= GAP:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        wanted = [piece for start, end in merged for piece in self._missing(start, end)]
        for (start, end), data in zip(wanted, self._fetch_all(wanted) if wanted else []):
            self._received(start, end, data)

    def _request(self, start: int, end: int) -> None:
        self._received(start, end, self._fetch(start, end))

    def _received(self, start: int, end: int, data: bytes) -> None:
        if len(data) == self.size and (start, end) != (0, self.size):  # the server knows no ranges
            self._starts, self._parts, self._kept = [], [], 0
            start = 0
        elif len(data) != end - start:
            raise FormatError(f"{len(data)} bytes came where {end - start} were asked for", where=self._name,
                              hint="download the file and give its path")
        self._keep(start, data)

    def _keep(self, start: int, data: bytes) -> None:
        """Puts a part in its place, without what is there already."""
        for a, b in list(self._missing(start, start + len(data))):
            i = bisect.bisect(self._starts, a)
            self._starts.insert(i, a)
            self._parts.insert(i, data[a - start: b - start])
            self._kept += b - a
        if self._kept > MOST_KEPT:
            raise FormatError(f"more than {MOST_KEPT} bytes of it would have to be fetched", where=self._name,
                              hint="download the file and give its path")

    def _at(self, position: int) -> int:
        return max(0, bisect.bisect(self._starts, position) - 1)

    def _missing(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for i in range(self._at(start), len(self._parts)):
            base = self._starts[i]
            if base >= end or start >= end:
                break
            if base > start:
                yield start, base
            start = max(start, base + len(self._parts[i]))
        if start < end:
            yield start, end


class _File(Seeking, io.RawIOBase):
    """A remote file, for reading; gives all bytes asked for up to the end of the file."""

    is_far = True

    def __init__(self, content: Ranges) -> None:
        self._content, self._at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._content.size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def fetch_ahead(self, ranges: list[tuple[int, int]]) -> None:
        """Fetches ranges that will be read, all at once."""
        self._content.fetch_ahead(ranges)

    def readinto(self, buffer: Any) -> int:
        data = self._content.read(self._at, self._at + len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = self._content.read(self._at, self._content.size)
        self._at += len(data)
        return data

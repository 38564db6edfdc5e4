"""One file on a web server: its ranges, several per request if the server supports that, and all of the same version.

Specification: RFC 9110, sections 8.8.3 (ETag), 13.1.1 (If-Match), 14 (range requests), 15.3.7.2 (several parts).
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from exporter.errors import ExporterError, FormatError, printable
from exporter.files.address import escaped, scheme_of, without_secrets
from exporter.files.patience import BUSY, Patience
from exporter.files.ranges import MAX_KEPT, Range
from exporter.files.store_errors import NOT_FOUND, StatusError, chain, is_lost, told

AT_ONCE = 32  # requests; small servers keep more of them waiting for seconds
PIECE = 1 << 20  # bytes
MAX_RANGES = 64  # per request: its header stays within what servers accept
LAST_SECONDS = 1.0  # for the pending responses after one of them failed
PROBE = "bytes=0-0,2-2"
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
VERSION = ("ETag", "Last-Modified")  # headers
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names are case-insensitive
    body: bytes


class WebFile:
    """A file behind http or https. store: fsspec's store, whose session and thread are used."""

    def __init__(self, store: Any, url: str, name: str) -> None:
        self._store, self._url, self._name = store, escaped(url), name
        self._patience = Patience()
        self._size: int | None = None
        self._version: dict[str, str] = {}
        self._packs: bool | None = None
        self._knows_ranges = False  # set once a response was one

    def info(self) -> dict[str, Any] | None:
        """As in fsspec: the size if known, and what distinguishes versions; None if there is nothing."""
        self._version = {}
        try:
            headers = self._run(self._ask("HEAD", {})).headers
        except StatusError as error:
            if error.status in NOT_FOUND:
                return None
            headers = self._answered(self._ask("GET", {"Range": "bytes=0-0"})).headers  # it may be signed for GET only
        packed = headers.get("Content-Encoding", "identity") != "identity"
        found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        size = None if packed else found[3] if found else headers.get("Content-Length")
        self._size = int(size) if size is not None and size.isdecimal() else None
        self._version = {name: headers[name] for name in VERSION if name in headers}
        return {"name": self._url, "type": "file", "size": self._size, **self._version}

    def fetch(self, ranges: list[Range]) -> list[bytes]:
        return self._answered(self._packed(ranges) if len(ranges) > 1 and self._packs else self._singly(ranges))

    def fetch_whole(self) -> bytes:
        return self._answered(self._ask("GET", {})).body

    def packs_ranges(self) -> bool:
        """Asks with HEAD: to a GET, a server without support for ranges would send the whole file."""
        if self._packs is None:
            try:
                answer = self._run(self._ask("HEAD", {"Range": PROBE}))
                self._packs = answer.status == 206 and _boundary(answer) is not None
            except StatusError:
                self._packs = False
        return self._packs

    def failed(self, error: BaseException) -> ExporterError:
        if _may_go_better(error):
            error = ConnectionResetError("the server closed the connection")
        return told(error, self._name, scheme_of(self._url), printable(without_secrets(str(error) or type(error).__name__, self._url), 200))

    def _answered(self, work: Coroutine[Any, Any, T]) -> T:
        """What the server answers; an error status is an error of ours."""
        try:
            return self._run(work)
        except StatusError as error:
            raise self.failed(error) from None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        from fsspec.asyn import sync

        try:
            result: T = sync(self._store.loop, _awaited, work)
        except (ExporterError, StatusError):
            raise
        except Exception as error:  # of aiohttp, of the system, of ssl
            raise self.failed(error) from None
        return result

    async def _singly(self, ranges: list[Range]) -> list[bytes]:
        """Each range by its own request; a server without support for ranges sends the whole file for the first."""
        first = [] if self._knows_ranges else [await self._range(ranges[0])]
        if len(ranges) == 1 or not self._knows_ranges:
            return first or [await self._range(ranges[0])]
        room = asyncio.Semaphore(AT_ONCE)

        async def one(wanted: Range) -> bytes:
            async with room:
                return await self._range(wanted)

        return [*first, *await _all(map(one, ranges[len(first):]))]

    async def _range(self, wanted: Range) -> bytes:
        start, end = wanted
        answer = await self._ask("GET", {"Range": f"bytes={start}-{end - 1}"}, whole=end - start)
        if answer.status != 206:
            return answer.body
        self._check_place(answer.headers.get("Content-Range", ""), wanted)
        self._knows_ranges = True
        return answer.body

    async def _packed(self, ranges: list[Range]) -> list[bytes]:
        """Several ranges by one request; ranges that are missing in the response are requested one by one."""
        room = asyncio.Semaphore(AT_ONCE)

        async def some(wanted: list[Range]) -> list[bytes]:
            async with room:
                text = ", ".join(f"{start}-{end - 1}" for start, end in wanted)
                answer = await self._ask("GET", {"Range": f"bytes={text}"}, whole=sum(end - start for start, end in wanted))
            found = self._parts(answer)
            got = [next((data[start - at: end - at] for at, data in found if at <= start and end <= at + len(data)), None)
                   for start, end in wanted]
            return [data if data is not None else await self._range(piece) for piece, data in zip(wanted, got)]

        pieces = [ranges[i: i + MAX_RANGES] for i in range(0, len(ranges), MAX_RANGES)]
        return [data for part in await _all(map(some, pieces)) for data in part]

    def _parts(self, answer: Answer) -> list[tuple[int, bytes]]:
        """(first byte, data) of each part of a response."""
        if answer.status != 206:
            return [(0, answer.body)]
        boundary = _boundary(answer)
        if boundary is None:  # one range: the server merged them, or sent only the first
            found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            return [(int(found[1]), answer.body)] if found and int(found[2]) + 1 - int(found[1]) == len(answer.body) else []
        mark, parts, at = b"--" + boundary, [], 0
        while (at := answer.body.find(mark, at)) >= 0:
            end = answer.body.find(b"\r\n\r\n", at)
            place = re.search(rb"^content-range:\s*(bytes \d+-\d+/\S+)", answer.body[at:max(at, end)], re.IGNORECASE | re.MULTILINE)
            found = CONTENT_RANGE.fullmatch(place[1].decode("ascii", "replace")) if place else None
            if found is None:
                break
            first, last = int(found[1]), int(found[2])
            self._check_place(found[0], (first, last + 1))
            parts.append((first, answer.body[end + 4: end + 5 + last - first]))
            at = end + 5 + last - first
        return parts

    def _check_place(self, said: str, wanted: Range) -> None:
        """Refuses a response with another part than the requested one, or from a file of another size."""
        found = CONTENT_RANGE.fullmatch(said)
        if found is None or (int(found[1]), min(int(found[2]) + 1, wanted[1])) != wanted:
            raise FormatError(f"expected the bytes {wanted[0]}-{wanted[1] - 1}, got {said!r}", where=self._name,
                              hint="download the file and pass its path")
        if found[3] != "*" and self._size is not None and int(found[3]) != self._size:
            raise self._replaced()

    def _check_version(self, headers: Mapping[str, str]) -> None:
        """Compares the ETag, or if there is none the date, with those of earlier responses."""
        for name in VERSION:
            if name in headers:
                if self._version.setdefault(name, headers[name]) != headers[name]:
                    raise self._replaced()
                return

    def _replaced(self) -> FormatError:
        return FormatError("the file changed on the server while it was being read", where=self._name, hint="try again")

    async def _ask(self, method: str, headers: dict[str, str], whole: int = 0) -> Answer:
        """A response with its body, retried as often as allowed. whole: the number of bytes wanted."""
        import aiohttp

        attempt = 0
        while True:
            try:
                return await self._once(method, headers, whole)
            except (StatusError, aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                again = error.status in BUSY if isinstance(error, StatusError) else _may_go_better(error)
                delay = self._patience.delay(attempt, getattr(error, "retry_after", None)) if again else None
                if delay is None:
                    raise
            await asyncio.sleep(delay)
            attempt += 1

    async def _once(self, method: str, headers: dict[str, str], whole: int) -> Answer:
        import yarl

        options = dict(self._store.kwargs)
        headers = {**options.pop("headers", {}), **headers, "Accept-Encoding": "identity"}
        tag = self._version.get("ETag", "")
        if method == "GET" and tag.startswith('"'):  # a strong one
            headers["If-Match"] = tag
        session = await self._store.set_session()
        async with session.request(method, yarl.URL(self._url, encoded=True), headers=headers, allow_redirects=True, **options) as answer:
            if answer.status == 412:
                raise self._replaced()
            if answer.status >= 400:
                raise StatusError(answer.status, answer.reason or "", answer.headers.get("Retry-After"))
            body = b"" if method == "HEAD" else await self._body(answer)
            if "Range" in headers and headers["Range"] != PROBE:
                self._check_version(answer.headers)
            if answer.status == 206 and len(body) < whole and "Content-Length" not in answer.headers:
                raise ConnectionResetError("the response ended early")
            return Answer(answer.status, answer.headers, body)

    async def _body(self, answer: Any) -> bytes:
        body = bytearray()
        declared = answer.headers.get("Content-Length", "0")
        if not declared.isdecimal() or int(declared) <= MAX_KEPT:
            async for piece in answer.content.iter_chunked(PIECE):
                body += piece
                if len(body) > MAX_KEPT:
                    break
            else:
                return bytes(body)
        raise FormatError(f"expected to fetch at most {MAX_KEPT} bytes of it, needed more", where=self._name,
                          hint="download the file and pass its path")


async def _awaited(work: Coroutine[Any, Any, T]) -> T:
    return await work


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all. If one fails, the others may finish: a server reports a dropped connection as an error of its own."""
    tasks = [asyncio.ensure_future(work) for work in works]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    if waiting:
        await asyncio.wait(waiting, timeout=LAST_SECONDS)
        for task in waiting:
            task.cancel()
    for failed in (task for task in done if task.exception()):
        await failed
    return [task.result() for task in tasks]


def _boundary(answer: Answer) -> bytes | None:
    kind = answer.headers.get("Content-Type", "")
    found = re.search(r"boundary=\"?([^\";\s]+)", kind) if kind.lower().startswith("multipart/byteranges") else None
    return found[1].encode("ascii", "replace") if found else None


def _may_go_better(error: BaseException) -> bool:
    """Whether a connection was lost after it had been established."""
    import aiohttp

    never = any(isinstance(each, aiohttp.ClientConnectorError) for each in chain(error))
    lost = (aiohttp.ServerConnectionError, aiohttp.ClientPayloadError, aiohttp.ClientOSError)
    return not never and (is_lost(error) or isinstance(error, lost))

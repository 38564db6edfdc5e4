"""fsspec's stores: opens the store of an address, and reads a file of it in ranges."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from exporter.errors import ExporterError, FormatError, MissingExtra, MissingFileError, UsageError, printable
from exporter.files import address
from exporter.files.patience import Patience
from exporter.files.ranges import Range
from exporter.files.store_errors import is_lost, is_no_bucket, missing, told

AT_ONCE = 32  # requests
WITHOUT_QUERIES = ("sftp", "ssh", "ftp", "smb")  # fsspec removes what follows "?" from their paths
WITH_BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "tos")
T = TypeVar("T")


def store_for(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL and the path in it. Raises MissingExtra, UsageError, FormatError."""
    try:
        import fsspec
    except ImportError:
        raise MissingExtra("fsspec", "remote", "reading and writing URLs") from None
    scheme, where = address.scheme_of(url), printable(address.public(url), 80)
    # a proxy or server that compresses its responses would send ranges of the compressed file
    options = {"headers": {"Accept-Encoding": "identity"}} if url.lower().startswith("http") else {}
    try:
        store, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise missing(error.name or str(error), scheme, f"the URL {where}") from None
    except ValueError as error:
        raise UsageError(f"{where}: {reason(error, url)}") from None
    except Exception as error:  # some stores connect here, and raise whatever their client libraries do
        raise told(error, where, scheme, reason(error, url)) from None
    if scheme in WITHOUT_QUERIES and "?" in url and address.LINK not in url:
        path = "/" + address.parts(url)[1].partition("/")[2]
    return store, path


def listed(pattern: str) -> list[str]:
    """The addresses that a pattern matches, sorted. Raises as `store_for`, and FormatError."""
    store, path = store_for(pattern)
    try:
        names = patiently(lambda: store.glob(path), Patience())
    except Exception as error:  # stores raise whatever their client libraries do
        failed = told(error, "", address.scheme_of(pattern), reason(error, pattern))
        raise failed.replace(what=failed.what.replace("cannot be read", "cannot be listed")) from None
    if not names and address.scheme_of(pattern) in WITH_BUCKETS:
        _check_bucket(store, path.lstrip("/").partition("/")[0])
    head, wanted, rest = address.parts(pattern)
    # a store removes its host, user or repository from the path; an archive or a cache is another link
    host = wanted.removesuffix(path) if wanted.endswith(path) else wanted.removesuffix(path.lstrip("/"))
    if host == wanted and path:
        return sorted(names if address.is_web(pattern) else map(store.unstrip_protocol, names))
    return sorted(f"{head}{host}{name if host else name.lstrip('/')}{rest}" for name in names)


def _check_bucket(store: Any, bucket: str) -> None:
    """Refuses a bucket that does not exist; a search in it would also just find nothing."""
    try:
        patiently(lambda: store.info(bucket), Patience())
    except Exception as error:  # as in `listed`; if the store cannot be asked, nothing is refused
        if isinstance(told(error, "", "", ""), MissingFileError) or is_no_bucket(error):
            raise FormatError(f"there is no bucket {printable(bucket, 80)!r}", hint="check the address") from None


def patiently(call: Callable[[], T], patience: Patience, is_whole: Callable[[T], bool] = lambda found: True) -> T:
    """The result of `call`, which is repeated if the connection is lost. is_whole: whether the result is complete."""
    attempt = 0
    while True:
        try:
            found = call()
            if is_whole(found):
                return found
            delay = patience.delay(attempt)
            if delay is None:
                return found
        except Exception as error:  # stores raise whatever their client libraries do
            delay = patience.delay(attempt) if is_lost(error) else None
            if delay is None:
                raise
        time.sleep(delay)
        attempt += 1


class StoredFile:
    """A file in a store."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._patience = Patience()

    def info(self) -> dict[str, Any] | None:
        """The store's information about it; None if there is nothing."""
        store, path = store_for(self._url)
        try:
            return dict(patiently(lambda: store.info(path), self._patience))
        except Exception as error:  # as in `patiently`
            failed = self.failed(error)
            if isinstance(failed, MissingFileError):
                return None
            raise failed from None

    def fetch(self, ranges: list[Range]) -> list[bytes]:
        store, path = store_for(self._url)
        found: dict[Range, bytes] = {}

        def rest() -> bool:
            """Fetches what is missing; returns whether everything is there."""
            wanted = [piece for piece in ranges if len(found.get(piece, b"")) != piece[1] - piece[0]]
            lost: BaseException | None = None
            for i in range(0, len(wanted), AT_ONCE):
                starts, ends = zip(*wanted[i: i + AT_ONCE])
                answers = store.cat_ranges([path] * len(starts), list(starts), list(ends), on_error="return")
                for piece, answer in zip(wanted[i: i + AT_ONCE], answers):
                    if isinstance(answer, BaseException):
                        lost = answer
                    else:
                        found[piece] = answer
            if lost is not None:
                raise lost
            return all(len(found[start, end]) == end - start for start, end in ranges)

        try:
            patiently(rest, self._patience, bool)
        except Exception as error:  # as in `patiently`
            raise self.failed(error) from None
        return [found[piece] for piece in ranges]

    def fetch_whole(self) -> bytes:
        store, path = store_for(self._url)
        try:
            data: bytes = patiently(lambda: store.cat_file(path), self._patience)
            return data
        except Exception as error:  # as in `patiently`
            raise self.failed(error) from None

    def packs_ranges(self) -> bool:
        return False

    def failed(self, error: BaseException) -> ExporterError:
        return told(error, self._name, address.scheme_of(self._url), reason(error, self._url))


def reason(error: BaseException, url: str) -> str:
    """The library's own message, without the secrets of an address."""
    return printable(address.without_secrets(str(error) or type(error).__name__, url), 200)

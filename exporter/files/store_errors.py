"""Errors of remote files as errors of this package: stores raise whatever their client libraries raise."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from exporter.errors import ExporterError, FormatError, MissingExtra, MissingFileError, printable

# The packages that fsspec needs for each protocol; those for http, https and S3 come with the extra "remote".
PACKAGES = {"abfs": "adlfs", "abfss": "adlfs", "adl": "adlfs", "az": "adlfs", "box": "boxfs", "dropbox": "dropboxdrivefs", "gcs": "gcsfs",
            "gdrive": "gdrive-fsspec", "git": "pygit2", "github": "requests", "gs": "gcsfs", "hdfs": "pyarrow", "hf": "huggingface_hub",
            "lakefs": "lakefs-spec", "libarchive": "libarchive-c", "oci": "ocifs", "oss": "ossfs", "sftp": "paramiko", "smb": "smbprotocol",
            "ssh": "paramiko", "webdav": "webdav4", "webhdfs": "requests", "arrow_hdfs": "pyarrow", "tos": "tosfs", "wandb": "wandbfs"}
LOST = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, TimeoutError, EOFError)
LOST_NUMBERS = {errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.ENETRESET}
NOT_FOUND, FORBIDDEN = (404, 410), (401, 403)
NETWORK = "check the address and the network"


class StatusError(Exception):
    """A web server answered with an error status."""

    def __init__(self, status: int, message: str, retry_after: str | None = None) -> None:
        super().__init__(f"{status} {message}")
        self.status, self.message, self.retry_after = status, message, retry_after


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [other for other in (each.__cause__, each.__context__, getattr(each, "os_error", None),
                                            *(arg for arg in each.args if isinstance(arg, BaseException))) if other is not None]


def status_of(error: BaseException) -> int | None:
    """The HTTP status in an error of any library."""
    for each in chain(error):
        answer = getattr(each, "response", None)
        fields = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
        for value in (getattr(each, "status", None), fields.get("HTTPStatusCode"), getattr(answer, "status_code", None),
                      getattr(each, "status_code", None), getattr(each, "code", None)):
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


def is_lost(error: BaseException) -> bool:
    """Whether a connection broke, so that a retry may help."""
    return any(isinstance(each, LOST) or (isinstance(each, OSError) and each.errno in LOST_NUMBERS) for each in chain(error))


def is_no_bucket(error: BaseException) -> bool:
    """Whether an S3-like store reports that the bucket does not exist."""
    for each in chain(error):
        answer = getattr(each, "response", None)
        if isinstance(answer, dict) and answer.get("Error", {}).get("Code") == "NoSuchBucket":
            return True
    return False


def credentials(scheme: str) -> str:
    """A hint about the credentials that a store requires."""
    known = {"s3": "the credentials of S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
             "gs": "the credentials of Google Cloud: GOOGLE_APPLICATION_CREDENTIALS",
             "az": "the credentials of Azure: AZURE_STORAGE_CONNECTION_STRING",
             "hf": "the token of the Hugging Face Hub: HF_TOKEN",
             "http": "whether the address needs a signature, or has one that has expired"}
    alias = {"gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az", "https": "http", "s3a": "s3"}
    return "check the address, and " + known.get(alias.get(scheme, scheme), "the credentials of the store")


def told(error: BaseException, name: str, scheme: str, words: str) -> ExporterError:
    """An error of ours for one of a store's. words: the library's message, without secrets."""
    if isinstance(error, ExporterError):
        return error
    causes = list(chain(error))
    status = status_of(error)
    if is_no_bucket(error):
        return FormatError("no such bucket", where=name, hint="check the address")
    if status in NOT_FOUND or any(type(each) is FileNotFoundError for each in causes):
        return MissingFileError("no such file or folder", where=name, hint="check the address")
    if status in FORBIDDEN or any(isinstance(each, PermissionError) for each in causes):
        answer = f": the server answered {status}" if status else ""
        return FormatError(f"access denied{answer}", where=name, hint=credentials(scheme))
    if status is not None:
        return FormatError(f"cannot be read: the server answered {status}", where=name, hint=NETWORK)
    import socket

    if any(isinstance(each, socket.gaierror) for each in causes):
        return FormatError("cannot resolve the host name of the server", where=name, hint=NETWORK)
    if any(isinstance(each, ConnectionRefusedError) for each in causes):
        return FormatError("cannot be read: the server refused the connection", where=name, hint=NETWORK)
    if any(isinstance(each, TimeoutError) for each in causes):
        return FormatError("cannot be read: the server did not answer in time", where=name, hint=NETWORK)
    if is_lost(error):
        return FormatError("cannot be read: the connection broke repeatedly", where=name, hint=NETWORK)
    return FormatError(f"cannot be read: {words}", where=name, hint=f"{NETWORK}, and the credentials in the environment")


def missing(package: str, scheme: str, purpose: str) -> ExporterError:
    """The error for a protocol whose package is not installed; package: what could not be imported."""
    needed = PACKAGES.get(scheme)
    error = MissingExtra(printable(needed or package, 60), "remote", purpose)
    return error.replace(hint=f"pip install {needed}") if needed else error

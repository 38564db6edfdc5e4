"""What is said of an error of a store, whichever library raised it."""

from __future__ import annotations

import errno
import socket

import pytest

from exporter.errors import FormatError, MissingExtra, MissingFileError
from exporter.files.store_errors import PACKAGES, StatusError, chain, credentials, is_lost, is_no_bucket, missing, status_of, told


class Library(Exception):
    """An error of a client library, with attributes of its own."""

    def __init__(self, *args, **fields):
        super().__init__(*args)
        self.__dict__.update(fields)


class Answer:
    def __init__(self, status_code):
        self.status_code = status_code


def caused(error, cause=None, context=None):
    error.__cause__, error.__context__ = cause, context
    return error


LOST = [ConnectionResetError(), ConnectionAbortedError(), BrokenPipeError(), TimeoutError(), EOFError(), OSError(errno.ECONNRESET, "x"),
        OSError(errno.ENETRESET, "x"), OSError(errno.EPIPE, "x"), OSError(errno.ETIMEDOUT, "x"), OSError(errno.ECONNABORTED, "x")]


@pytest.mark.parametrize(("error", "kind", "words", "hint"), [
    (FormatError("ours", where="x"), FormatError, "x: ours", ""),
    (Library(response={"Error": {"Code": "NoSuchBucket"}, "ResponseMetadata": {"HTTPStatusCode": 404}}), FormatError, "no such bucket",
     "check the address"),
    (Library(status=404), MissingFileError, "no such file or folder", "check the address"),
    (Library(status=410), MissingFileError, "no such file or folder", "check the address"),
    (FileNotFoundError(), MissingFileError, "no such file or folder", "check the address"),
    (Library(code=403), FormatError, "access denied: the server answered 403", "the credentials of S3"),
    (Library(code=401), FormatError, "access denied: the server answered 401", "the credentials of S3"),
    (PermissionError(), FormatError, "n: access denied", "the credentials of S3"),
    (Library(status_code=500), FormatError, "cannot be read: the server answered 500", "network"),
    (Library(response=Answer(418)), FormatError, "cannot be read: the server answered 418", "network"),
    (caused(Library(), socket.gaierror()), FormatError, "cannot resolve the host name", "network"),
    (caused(Library(), None, ConnectionRefusedError()), FormatError, "the server refused the connection", "network"),
    (TimeoutError(), FormatError, "did not answer in time", "network"),
    (ConnectionResetError(), FormatError, "the connection broke repeatedly", "network"),
    (Library("whatever"), FormatError, "n: cannot be read: words of the library", "credentials in the environment")])
def test_what_is_said(error, kind, words, hint):
    found = told(error, "n", "s3", "words of the library")
    assert type(found) is kind
    assert words in str(found)
    assert hint in found.hint
    if found.what == "access denied":
        assert "answered" not in str(found)


def test_an_error_is_looked_for_in_all_that_it_came_from():
    deep = ValueError(ConnectionResetError())
    for error in (caused(Library(), deep), caused(Library(), None, deep), Library(os_error=deep), Library("text", deep)):
        assert [type(each) for each in chain(error)] == [Library, ValueError, ConnectionResetError]
        assert is_lost(error)
        assert told(error, "n", "s3", "").what == "cannot be read: the connection broke repeatedly"
    circle = Library()
    caused(circle, caused(Library(), circle))
    assert len(list(chain(circle))) == 2


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_connection_that_broke_may_hold_next_time(error):
    assert is_lost(error)
    assert is_lost(caused(Library(), error))


@pytest.mark.parametrize("error", [ValueError(), OSError(errno.ENOENT, "x"), PermissionError(), ConnectionRefusedError(), OSError("x")],
                         ids=repr)
def test_other_errors_will_be_the_same_next_time(error):
    assert not is_lost(error)


@pytest.mark.parametrize(("error", "status"), [
    (Library(status=404), 404), (Library(status=399), None), (Library(status=400), 400), (Library(status=599), 599),
    (Library(status=600), None), (Library(status="404"), None), (Library(status_code=503), 503), (Library(code=429), 429),
    (Library(response={"ResponseMetadata": {"HTTPStatusCode": 412}}), 412), (Library(response={}), None),
    (Library(response=Answer(502)), 502),
    (Library(status=0, code=404), 404), (caused(Library(), Library(code=403)), 403), (StatusError(504, "late"), 504), (ValueError(), None)])
def test_the_status_of_whichever_library(error, status):
    assert status_of(error) == status


def test_only_a_bucket_that_is_not_there_is_none():
    assert is_no_bucket(caused(ValueError(), Library(response={"Error": {"Code": "NoSuchBucket"}})))
    assert not is_no_bucket(Library(response={"Error": {"Code": "NoSuchKey"}}))
    assert not is_no_bucket(Library(response={}))
    assert not is_no_bucket(Library(response=Answer(404)))


def test_the_status_is_told_with_the_servers_words():
    error = StatusError(503, "busy", "3")
    assert (str(error), error.status, error.message, error.retry_after) == ("503 busy", 503, "busy", "3")


@pytest.mark.parametrize(("scheme", "words"), [
    ("s3", "AWS_PROFILE"), ("s3a", "AWS_PROFILE"), ("gs", "GOOGLE_APPLICATION_CREDENTIALS"), ("gcs", "GOOGLE_APPLICATION_CREDENTIALS"),
    *((scheme, "AZURE_STORAGE_CONNECTION_STRING") for scheme in ("az", "abfs", "abfss", "adl")), ("hf", "HF_TOKEN"),
    ("http", "expired"), ("https", "expired"), ("sftp", "check the address, and the credentials of the store")])
def test_the_hint_at_what_a_store_asks_for(scheme, words):
    assert words in credentials(scheme)


@pytest.mark.parametrize("scheme", [*PACKAGES, "nosuch"])
def test_the_package_of_a_protocol(scheme):
    error = missing("something", scheme, "the URL x")
    assert isinstance(error, MissingExtra)
    needed = PACKAGES.get(scheme)
    assert error.hint == (f"pip install {needed}" if needed else "pip install 'bn-export[remote]'")
    assert (needed or "something") in str(error)
    assert "the URL x" in str(error)

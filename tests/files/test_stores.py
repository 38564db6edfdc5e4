"""fsspec's stores: what is asked again, in how many requests, and what a search finds; on a store of the test's own."""

from __future__ import annotations

import types

import pytest

from exporter.errors import FormatError, MissingFileError, UsageError
from exporter.files import patience, stores
from exporter.files.patience import Patience
from exporter.files.stores import StoredFile, listed, patiently, store_for


class Store:
    """A store that answers what it is told to. calls: what it was asked."""

    def __init__(self, data=b"", answers=()):
        self.data, self.answers, self.calls = data, list(answers), []

    def _next(self, honest):
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return honest if answer is None else answer

    def cat_ranges(self, paths, starts, ends, on_error):
        assert on_error == "return"
        self.calls.append(list(zip(starts, ends, strict=True)))
        assert len(paths) == len(starts)
        return self._next([self.data[start:end] for start, end in zip(starts, ends, strict=True)])

    def cat_file(self, path):
        self.calls.append(path)
        return self._next(self.data)

    def info(self, path):
        self.calls.append(path)
        return self._next({"size": len(self.data), "type": "file"})


@pytest.fixture
def waits(monkeypatch):
    """What was waited for, on a clock that waiting alone moves."""
    found = []
    monkeypatch.setattr(stores, "time", types.SimpleNamespace(sleep=found.append))
    monkeypatch.setattr(patience, "time", types.SimpleNamespace(monotonic=lambda: sum(found)))
    return found


def of(monkeypatch, store, url="s3://bucket/m.h5"):
    monkeypatch.setattr(stores, "store_for", lambda url: (store, "bucket/m.h5"))
    return StoredFile(url, "m.h5")


RESET = ConnectionResetError("lost")


def test_only_a_lost_connection_is_tried_again(monkeypatch, waits):
    store = Store(b"abc", [RESET, TimeoutError(), None])
    assert of(monkeypatch, store).fetch_whole() == b"abc"
    assert len(store.calls) == 3
    assert len(waits) == 2
    assert 0.18 < waits[0] < 0.32 < waits[1] < 0.63
    store = Store(b"abc", [ValueError("wrong"), None])
    with pytest.raises(FormatError, match=r"m\.h5: cannot be read: wrong"):
        of(monkeypatch, store).fetch_whole()
    assert len(store.calls) == 1


def test_patience_is_of_the_file(monkeypatch, waits):
    store = Store(b"abc", [RESET] * 100)
    file = of(monkeypatch, store)
    for call in (file.fetch_whole, lambda: file.fetch([(0, 1)]), file.info):
        with pytest.raises(FormatError, match="the connection broke repeatedly"):
            call()
    assert 4 <= len(store.calls) < 20


def test_ranges_go_in_requests_of_thirty_two(monkeypatch, waits):
    data = bytes(range(200))
    wanted = [(at, at + 2) for at in range(0, 140, 2)]
    store = Store(data)
    assert of(monkeypatch, store).fetch(wanted) == [data[start:end] for start, end in wanted]
    assert [len(call) for call in store.calls] == [32, 32, 6]
    assert [piece for call in store.calls for piece in call] == wanted


def test_only_what_did_not_come_is_asked_again(monkeypatch, waits):
    data = bytes(range(200))
    store = Store(data, [[data[0:2], RESET, data[4:6]], None])
    assert of(monkeypatch, store).fetch([(0, 2), (2, 4), (4, 6)]) == [data[0:2], data[2:4], data[4:6]]
    assert store.calls == [[(0, 2), (2, 4), (4, 6)], [(2, 4)]]
    store = Store(data, [[data[0:2], data[2:3], data[4:6]], None])
    assert of(monkeypatch, store).fetch([(0, 2), (2, 4), (4, 6)])[1] == data[2:4]
    assert store.calls[1] == [(2, 4)], "what was cut short"
    store = Store(data, [[data[0:2], PermissionError()]])
    with pytest.raises(FormatError, match="access denied"):
        of(monkeypatch, store).fetch([(0, 2), (2, 4)])
    assert of(monkeypatch, store).packs_ranges() is False


def test_what_stays_short_is_given_as_it_is(monkeypatch, waits):
    """The file may be shorter than was said: who reads it says so."""
    store = Store(b"abc")
    assert of(monkeypatch, store).fetch([(0, 9)]) == [b"abc"]
    assert len(store.calls) > 3


def test_what_is_said_of_a_file(monkeypatch, waits):
    assert of(monkeypatch, Store(b"abc")).info() == {"size": 3, "type": "file"}
    assert of(monkeypatch, Store(b"", [FileNotFoundError()])).info() is None
    with pytest.raises(FormatError, match="access denied") as caught:
        of(monkeypatch, Store(b"", [PermissionError()])).info()
    assert "AWS_PROFILE" in caught.value.hint
    assert isinstance(of(monkeypatch, Store()).failed(FileNotFoundError()), MissingFileError)


def test_patience_until_all_of_it_came(waits):
    found = iter([1, 2, 3, 4])
    assert patiently(lambda: next(found), Patience(), lambda number: number == 3) == 3
    assert len(waits) == 2
    last = patiently(lambda: "less", Patience(), lambda _: False)
    assert last == "less"


# searching

class Searched:
    """A store with names, which a search gives. bucket: what asking for it raises."""

    def __init__(self, names, bucket=None):
        self.names, self.bucket, self.asked = names, bucket, []

    def glob(self, path):
        self.asked.append(path)
        if isinstance(self.names, BaseException):
            raise self.names
        return self.names

    def info(self, path):
        self.asked.append(path)
        if self.bucket is not None:
            raise self.bucket
        return {}

    def unstrip_protocol(self, name):
        return f"memory://{name}"


def found(monkeypatch, pattern, path, names, **more):
    store = Searched(names, **more)
    monkeypatch.setattr(stores, "store_for", lambda url: (store, path))
    return listed(pattern), store.asked


@pytest.mark.parametrize(("pattern", "path", "names", "wanted"), [
    ("s3://zoo/*.h5", "zoo/*.h5", ["zoo/b.h5", "zoo/a.h5"], ["s3://zoo/a.h5", "s3://zoo/b.h5"]),
    ("memory://zoo/*.h5", "/zoo/*.h5", ["/zoo/b.h5", "/zoo/a.h5"], ["memory://zoo/a.h5", "memory://zoo/b.h5"]),
    ("https://host/*.h5", "https://host/*.h5", ["https://host/b.h5", "https://host/a.h5"], ["https://host/a.h5", "https://host/b.h5"]),
    ("sftp://me@host/zoo/*.h5", "/zoo/*.h5", ["/zoo/a.h5"], ["sftp://me@host/zoo/a.h5"]),
    ("zip://*.h5::s3://b/z.zip", "*.h5", ["b.h5", "a.h5"], ["zip://a.h5::s3://b/z.zip", "zip://b.h5::s3://b/z.zip"]),
    ("simplecache::s3://zoo/*.h5", "zoo/*.h5", ["zoo/a.h5"], ["simplecache::s3://zoo/a.h5"]),
    ("other://x/*.h5", "y/*.h5", ["y/b.h5", "y/a.h5"], ["memory://y/a.h5", "memory://y/b.h5"]), ("memory://none/*", "/none/*", [], [])])
def test_what_a_pattern_finds_are_addresses(monkeypatch, pattern, path, names, wanted):
    assert found(monkeypatch, pattern, path, names) == (wanted, [path])


def test_a_bucket_that_is_not_there_is_told_from_an_empty_one(monkeypatch):
    assert found(monkeypatch, "s3://zoo/*.h5", "zoo/*.h5", []) == ([], ["zoo/*.h5", "zoo"])
    for error in (FileNotFoundError(), type("E", (Exception,), {"response": {"Error": {"Code": "NoSuchBucket"}}})()):
        with pytest.raises(FormatError, match="there is no bucket 'zoo'"):
            found(monkeypatch, "gs://zoo/*.h5", "zoo/*.h5", [], bucket=error)
    assert found(monkeypatch, "s3://zoo/*.h5", "zoo/*.h5", [], bucket=PermissionError())[0] == [], "who may not ask knows nothing"
    assert found(monkeypatch, "memory://zoo/*.h5", "/zoo/*.h5", [], bucket=FileNotFoundError())[1] == ["/zoo/*.h5"], "it has no buckets"


def test_a_search_that_fails_is_told_as_one(monkeypatch, waits):
    with pytest.raises(FormatError, match="cannot be listed: words") as caught:
        found(monkeypatch, "s3://zoo/*.h5", "zoo/*.h5", ValueError("words"))
    assert "credentials" in caught.value.hint


# opening

def test_a_question_mark_may_stand_in_a_name(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    asked = []
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **options: asked.append(options) or ("store", "/cut"))
    assert store_for("sftp://host/a?b.h5") == ("store", "/a?b.h5")
    assert store_for("ftp://me@host/d/a?b.h5") == ("store", "/d/a?b.h5")
    assert store_for("sftp://host/ab.h5") == store_for("s3://host/a?b.h5") == store_for("zip://x::sftp://h/a?b") == ("store", "/cut")
    assert asked == [{}] * 5
    for url in ("https://host/a", "HTTP://host/a"):
        store_for(url)
    assert asked[5:] == [{"headers": {"Accept-Encoding": "identity"}}] * 2


@pytest.mark.parametrize(("error", "kind", "words"), [
    (ValueError("nosuch protocol"), UsageError, "s3://b/k: nosuch protocol"), (PermissionError(), FormatError, "s3://b/k: access denied"),
    (RuntimeError("it is late"), FormatError, "cannot be read: it is late")])
def test_a_store_that_cannot_be_opened(monkeypatch, error, kind, words):
    fsspec = pytest.importorskip("fsspec")

    def fails(url, **options):
        raise error

    monkeypatch.setattr(fsspec.core, "url_to_fs", fails)
    with pytest.raises(kind, match=words):
        store_for("s3://me:pw@b/k?sig=TOKEN")

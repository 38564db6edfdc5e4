"""Files and folders far away as places, on stores that say what the test tells them to."""

from __future__ import annotations

import pytest

from exporter.errors import FormatError, MissingFileError, UsageError
from exporter.files import remote, stores
from exporter.files.remote import place_for

fsspec = pytest.importorskip("fsspec")


class Listing:
    """A store that lists what it is told to, and says what it is told to of each path."""

    def __init__(self, names=(), info=None):
        self.names, self.info_of = names, info

    def ls(self, path, detail):
        if isinstance(self.names, Exception):
            raise self.names
        return self.names

    def info(self, path):
        return self.info_of

    def cat_file(self, path):
        return b"12345"


@pytest.mark.parametrize(("url", "path", "names", "found"), [
    ("s3://b/m", "b/m", ["b/m/y.h5", "b/m/x/", "b/m", "b/m/"], ["x", "y.h5"]), ("s3://b/m/", "b/m/", ["b/m/y.h5", "b/m"], ["y.h5"]),
    ("https://h/m", "https://h/m", ["https://h/m/a%20b.h5?sig=1", "https://h/m", "https://h/m/c.h5"], ["a b.h5", "c.h5"]),
    ("sftp://h/m", "/m", ["/m/a%20b", "/m/c d"], ["a%20b", "c d"])])
def test_what_a_folder_far_away_contains(monkeypatch, url, path, names, found):
    monkeypatch.setattr(remote, "store_for", lambda url: (Listing(names), path))
    assert [child.name for child in place_for(url).children()] == found


def test_a_folder_far_away_that_cannot_be_listed(monkeypatch):
    monkeypatch.setattr(remote, "store_for", lambda url: (Listing(PermissionError()), "b/m"))
    with pytest.raises(FormatError, match="m: access denied"):
        place_for("s3://b/m").children()


def test_a_folder_far_away_is_no_file():
    fsspec.filesystem("memory").pipe("/folder/x", b"1")
    place = place_for("memory://folder")
    with pytest.raises(FormatError, match="folder: expected a file, got a folder"):
        place.open()
    assert (place.head(), place.is_local, repr(place)) == (b"", False, "RemotePlace('folder')")
    with pytest.raises(MissingFileError, match="no such file"):
        place_for("memory://folder/absent").open()
    with pytest.raises(UsageError, match="expected a path or URL, got an empty name"):
        place_for("")


def test_what_is_opened_far_away_is_told_and_must_not_change():
    store = fsspec.filesystem("memory")
    for name in "ab":
        store.pipe(f"/changing/{name}", b"1")
    folder = place_for("memory://changing")
    assert folder.child("a").size() == folder.child("b").size() == 1
    folder.child("a").read()
    assert [place.name for place in folder.opened()] == ["a"]
    store.pipe("/changing/b", b"22")
    folder.check_unchanged()
    store.pipe("/changing/a", b"22")
    with pytest.raises(FormatError, match="a: the file changed on the server while it was being read"):
        folder.check_unchanged()
    folder.child("a").refresh()
    assert folder.child("a").size() == 2


@pytest.mark.parametrize("mark", ["ETag", "size", "mtime", "LastModified", "Last-Modified", "last_modified"])
def test_each_mark_of_a_version_tells_two_apart(monkeypatch, mark):
    place = place_for("s3://b/m.h5")
    place._known, place._asked = {"type": "file", "size": 1, mark: 1}, True
    monkeypatch.setattr(place, "refresh", lambda: setattr(place, "_known", {"type": "file", "size": 1, mark: 2}))
    with pytest.raises(FormatError, match="the file changed on the server"):
        place._compare()


def test_a_size_that_nobody_says_is_that_of_the_file(monkeypatch):
    store = Listing(info={"type": "file", "size": None})
    for module in (remote, stores):
        monkeypatch.setattr(module, "store_for", lambda url: (store, "b/m"))
    place = place_for("s3://b/m")
    assert (place.size(), place.is_file(), place.read()) == (5, True, b"12345")
    store.info_of = {"type": "directory", "size": None}
    assert (place_for("s3://b/x").size(), place_for("s3://b/x").is_folder()) == (0, True)

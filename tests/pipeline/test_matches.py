"""Patterns on stores: what they match keeps its host, its archive and its cache, so that it can be opened."""

from __future__ import annotations

import importlib
import zipfile

import pytest

import exporter
from exporter.errors import ExporterError, FormatError
from exporter.files import address
from exporter.files.remote import place_for
from exporter.pipeline import matches
from exporter.pipeline.many import export_many
from exporter.pipeline.read import read_here
from tests.make.layers import make_bundle, make_layer

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

registry = importlib.import_module("fsspec.registry")


class Hosted(MemoryFileSystem):
    """A store that takes its host off the path, as sftp, ftp and smb do, and keeps none in the names that it gives."""

    protocol, store, pseudo_dirs, cachable = "hosted", {}, [""], False

    @classmethod
    def _strip_protocol(cls, path):
        if "://" in path:
            path = "/" + path.partition("://")[2].partition("/")[2]
        return "/" + path.strip("/") if path.strip("/") else ""

    def __init__(self, **options):
        super().__init__()

    @staticmethod
    def _get_kwargs_from_urls(path):
        return {"host": path.partition("://")[2].partition("/")[0]}


class Hub(MemoryFileSystem):
    """A stand-in for the Hugging Face Hub's: names are user/repository/path, without the protocol and a leading slash."""

    protocol, store, pseudo_dirs, cachable = "hf", {}, [""], False

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("hf://").strip("/")

    def __init__(self, **options):
        super().__init__()


def model(seed=0):
    import json

    from exporter.targets import writer_for
    from exporter.targets.shared.options import WriteOptions

    data = b"".join(writer_for("a.json", WriteOptions()).end(make_bundle(make_layer(seed=seed))))
    assert json.loads(data)
    return data


@pytest.fixture
def stores(monkeypatch):
    for kind in (Hosted, Hub):
        monkeypatch.setattr(kind, "store", {})
        monkeypatch.setattr(kind, "pseudo_dirs", [""])
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    fsspec.filesystem("memory").store.clear()
    # a child that is spawned knows nothing of these stores
    monkeypatch.setattr("exporter.pipeline.read.read_in_batch", lambda place, options, output, asked=None: read_here(place, options))
    yield
    for kind in (Hosted, Hub):
        registry._registry.pop(kind.protocol, None)


def expanded(word):
    unreadable: dict[str, ExporterError] = {}
    found = list(matches.expand(word, lambda path: False, unreadable, matches.is_folder_of_models(word)))
    assert not unreadable
    return found


def test_a_host_is_kept(stores):
    store = Hosted()
    for name in ("a.json", "b.json", "c.txt"):
        store.pipe(f"/zoo/{name}", model())
    found = expanded("hosted://bob:pw@host:22/zoo/*.json")
    assert found == ["hosted://bob:pw@host:22/zoo/a.json", "hosted://bob:pw@host:22/zoo/b.json"]
    assert len(exporter.load(found[0])) == 1


def test_an_archive_is_kept(stores, tmp_path):
    with zipfile.ZipFile(tmp_path / "zoo.zip", "w") as archive:
        for name in ("x/a.json", "x/b.json", "c.json"):
            archive.writestr(name, model())
    address_of = f"::{tmp_path}/zoo.zip"
    assert expanded(f"zip://x/*.json{address_of}") == [f"zip://x/a.json{address_of}", f"zip://x/b.json{address_of}"]
    fsspec.filesystem("memory").pipe("/zoo.zip", (tmp_path / "zoo.zip").read_bytes())
    assert expanded("zip://**/*.json::memory://zoo.zip")[-1] == "zip://x/b.json::memory://zoo.zip"
    summary = export_many([f"zip://x/*.json{address_of}", "zip://*.json::memory://zoo.zip"], tmp_path / "out")
    assert summary.is_complete, summary.outcomes
    assert len(summary.of("exported")) == 3
    assert sorted(path.name for path in (tmp_path / "out").rglob("[!.]*.json")) == ["a.json.json", "b.json.json", "c.json.json"]


def test_a_cache_is_kept(stores):
    fsspec.filesystem("memory").pipe("/zoo/a.json", model())
    assert expanded("simplecache::memory://zoo/*.json") == ["simplecache::memory://zoo/a.json"]


def test_the_hub(stores, tmp_path):
    store = Hub()
    for name in ("m.json", "100%.json", "what?#.json"):
        store.pipe(f"user/repo/{name}", model())
    assert set(expanded("hf://user/repo/*.json")) == {"hf://user/repo/m.json", "hf://user/repo/100%.json", "hf://user/repo/what?#.json"}
    summary = export_many(["hf://user/repo/*.json"], tmp_path / "out")
    assert summary.is_complete, summary.outcomes
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"m.json.json", "100%.json.json", "what_#.json.json"}
    assert len(exporter.load("hf://user/repo/what?#.json")) == 1


@pytest.mark.parametrize(("url", "name", "parent", "shown"), [
    ("zip://a/b.keras::https://u:p@h/z.zip?sig=S", "b.keras", "zip://a::https://u:p@h/z.zip?sig=S", "zip://a/b.keras::https://h/z.zip"),
    ("simplecache::s3://bucket/k.h5", "k.h5", "simplecache::s3://bucket", "simplecache::s3://bucket/k.h5"),
    ("https://h/d/m%20n.h5?sig=a/b", "m n.h5", "https://h/d?sig=a/b", "https://h/d/m%20n.h5"),
    ("s3://bucket/100%25.h5", "100%25.h5", "s3://bucket", "s3://bucket/100%25.h5"),
    ("s3://bucket/what?#.h5", "what?#.h5", "s3://bucket", "s3://bucket/what?#.h5"),
    ("sftp://u:p@h:22/d/m.h5", "m.h5", "sftp://u:p@h:22/d", "sftp://h:22/d/m.h5"),
    ("hf://user/repo@main/m.keras", "m.keras", "hf://user/repo@main", "hf://user/repo@main/m.keras"),
    ("memory://x", "x", "memory://", "memory://x")])
def test_addresses_are_taken_apart(url, name, parent, shown):
    assert address.name_of(url) == name
    assert address.parent_of(url) == parent
    assert address.public(url) == shown
    assert place_for(url).sibling("other.json").address == address.child_of(parent, ("other.json",))


def test_words_of_others_are_told_without_secrets():
    words = "GET https://bob:s3cret@h/m.h5?sig=TOKEN failed for TOKEN of bob"
    told = address.without_secrets(words, "https://bob:s3cret@h/m.h5?sig=TOKEN")
    assert not any(secret in told for secret in ("bob", "s3cret", "TOKEN"))
    assert "https://h/m.h5 failed" in told


@pytest.mark.parametrize(("error", "words"), [(PermissionError("no"), "access denied"), (FileNotFoundError("x"), "no such file"),
                                              (ConnectionRefusedError(111, "x"), "refused the connection"), (ValueError("odd"), "odd")])
def test_a_store_that_cannot_be_listed(stores, monkeypatch, error, words):
    def fail(self, path, **options):
        raise error

    monkeypatch.setattr(Hub, "glob", fail)
    unreadable: dict[str, ExporterError] = {}
    assert list(matches.expand("hf://user/repo/*.json", lambda path: False, unreadable, is_folder=False)) == []
    assert isinstance(unreadable["hf://user/repo/*.json"], FormatError)
    assert words in str(unreadable["hf://user/repo/*.json"])


def test_folders_and_archives_stand_in_names(tmp_path, stores):
    """Two archives of one name in two places, and a query that is a secret."""
    from exporter.pipeline.naming import _parts

    assert _parts("zip://a/b.h5::https://u:p@h/z.zip?sig=SECRET")[:3] == ["https", "h", _parts("https://h/z.zip?sig=SECRET")[-1]]
    assert "SECRET" not in "".join(_parts("zip://a/b.h5::https://h/z.zip?sig=SECRET"))
    assert _parts("zip://a/b.h5::memory://z.zip") == ["memory", "z.zip", "zip", "a", "b.h5"]


def test_what_cannot_be_looked_at_is_no_folder():
    class Damaged:
        def is_folder(self):
            raise FormatError("damaged")

    assert not matches._is_folder(Damaged())

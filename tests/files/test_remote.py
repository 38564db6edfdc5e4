"""Reading and writing far away: which bytes are asked for, in how many requests, and what a server can do wrong."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import itertools
import json
import sys
import threading

import h5py
import numpy as np
import pytest

import exporter
from exporter.commands.export import export
from exporter.errors import FormatError, MissingExtra, OutputError, UsageError
from exporter.files import patience
from exporter.files.place import Place
from exporter.files.remote import Ranges, RemotePlace, is_url, place_for
from tests.make import processes
from tests.make.layers import make_bundle, make_layer, same_layer, script
from tests.make.range_server import POLL_SECONDS, serving

needs_http = pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None or importlib.util.find_spec("fsspec") is None,
                                reason="needs the extra `remote`: pip install 'bn-export[remote]'")
one_worker = pytest.mark.xdist_group("s3")  # importing the server takes seconds
needs_fsspec = pytest.mark.skipif(importlib.util.find_spec("fsspec") is None, reason="needs fsspec")


@pytest.fixture
def densenet(tmp_path, name):
    """A folder with DenseNet201 in the file of this name."""
    made = script("benchmarks/models.py")
    (made.write_keras if name.endswith("keras") else made.write_h5)(tmp_path / name, made.densenet201())
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    made = script("benchmarks/models.py")
    made.write_h5(tmp_path / "small.h5", made.row(3, 5))
    made.write_keras(tmp_path / "small.keras", made.row(3, 5))
    return tmp_path


def command(*words):
    return processes.run(processes.MODULE, *words, text=True, stores=True)


def test_only_urls_are_remote():
    for word in ("s3://bucket/key", "https://host/a.h5", "memory://x", "simplecache::s3://b/k", "HTTP://host/a"):
        assert is_url(word), word
    for word in ("model.h5", "/a/b.h5", "C:\\models\\a.h5", "C:/models/a.h5", "dir:name/x", "a:b", ""):
        assert not is_url(word), word
    assert isinstance(place_for("https://host/a"), RemotePlace)
    assert place_for("file:///tmp/a%20b.h5").address == "/tmp/a b.h5"
    assert type(place_for("model.h5")) is Place


def test_the_query_is_no_part_of_a_name():
    place = place_for("https://host/dir/model.h5?signature=SECRET&x=a/b")
    assert (place.name, place.suffix) == ("model.h5", ".h5")
    assert place.sibling("model.json").address == "https://host/dir/model.json?signature=SECRET&x=a/b"
    assert place.parent().child("a b", "c").address == "https://host/dir/a%20b/c?signature=SECRET&x=a/b"
    assert place_for("s3://bucket/what?.h5").name == "what?.h5"
    for part in ("../x", "/x", "a/../../b", ""):
        with pytest.raises(FormatError):
            place.child(part)


class Held:
    """Bytes as a file far away; `asked` has the ranges of each call."""

    def __init__(self, data, packs=False):
        self.data, self.packs, self.asked = data, packs, []

    def fetch(self, ranges):
        self.asked.append(list(ranges))
        return [self.data[start:end] for start, end in ranges]

    def fetch_whole(self):
        self.asked.append([(0, len(self.data))])
        return self.data

    def packs_ranges(self):
        return self.packs


def test_ranges_are_fetched_once():
    data = bytes(range(256)) * 4000
    far = Held(data)
    content = Ranges(far, len(data), "f")
    for start, end in ((5, 9), (500_000, 500_010), (0, 100), (499_990, 600_000), (1_023_990, 2_000_000), (7, 1_024_000), (0, 1_024_000)):
        assert content.read(start, end) == data[start:end]
    content.fetch_ahead([(0, 500), (900_000, 900_001)])
    pieces = sorted(itertools.chain.from_iterable(far.asked))
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(pieces)), "a byte was fetched twice"
    assert sum(end - start for start, end in pieces) <= len(data)


def test_a_small_file_is_one_request():
    far = Held(bytes(100_000))
    content = Ranges(far, 100_000, "f")
    content.read(5, 9)
    content.fetch_ahead([(10, 20), (50_000, 60_000)])
    assert far.asked == [[(0, 100_000)]]


def test_a_server_that_does_not_say_the_size_sends_all():
    far = Held(bytes(1_000_000))
    content = Ranges(far, None, "f")
    assert (content.size, len(content.read(0, 2_000_000))) == (1_000_000, 1_000_000)
    assert far.asked == [[(0, 1_000_000)]]


@pytest.mark.parametrize("packs", [False, True])
def test_announced_ranges_are_widened_and_merged(packs):
    far = Held(bytes(4_000_000), packs)
    content = Ranges(far, 4_000_000, "f")
    apart = [(k * 300_000, k * 300_000 + 1) for k in range(1, 9)]
    content.fetch_ahead([(100_000, 100_010), (105_000, 105_001), (3_999_999, 5_000_000), *apart])
    (asked,) = far.asked
    assert len(asked) == 10
    assert asked[0] == ((100_000, 109_096) if packs else (95_904, 109_096))
    assert asked[-1][1] == 4_000_000
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(asked))
    content.read(100_000, 105_001)
    assert len(far.asked) == 1


@needs_http
@pytest.mark.thorough("much time: a DenseNet by hundreds of requests")
@pytest.mark.parametrize(("name", "several", "requests", "part"), [
    ("model.h5", False, 255, 0.11), ("model.keras", True, 30, 0.055), ("model.keras", False, 255, 0.11), ("model.h5", True, 30, 0.055)])
def test_few_requests_and_few_bytes(densenet, name, several, requests, part, tmp_path, run):
    """Its 201 batch norms lie in 200 places, each of them far from the next: a server that sends one range in an answer needs 200 answers,
    or 120 with a sixth of the file."""
    with serving(densenet, several=several) as server:
        done = command(server.url(name), tmp_path / "far.json")
        assert done.returncode == 0, done.stderr
        sent, size = server.bytes_sent, (densenet / name).stat().st_size
    assert run(export, densenet / name, tmp_path / "near.json")[0] == 0
    assert (tmp_path / "far.json").read_bytes() == (tmp_path / "near.json").read_bytes()
    assert sent < size * part, f"{sent} of {size} bytes"
    assert len(server.requests) <= requests


@needs_http
@pytest.mark.parametrize("isolated", [False, True])
def test_reading_from_the_library(folder, isolated):
    with serving(folder) as server:
        far = exporter.read(server.url("small.h5"), isolated=isolated)
    near = exporter.read(folder / "small.h5")
    assert far.origin == near.origin
    assert all(same_layer(a, b) for a, b in zip(far, near, strict=True))


@needs_http
@pytest.mark.parametrize("behavior", [{"ranges": False}, {"sizes": False}, {"ranges": False, "sizes": False}])
def test_a_server_without_ranges_or_sizes_sends_the_file_whole(folder, behavior):
    with serving(folder, **behavior) as server:
        far = exporter.read(server.url("small.keras"))
    assert far.digest() == exporter.read(folder / "small.keras").digest()


@needs_http
def test_an_architecture_may_be_remote(folder):
    with serving(folder) as server:
        bundle = exporter.read(folder / "small.h5", architecture=server.url("small.keras"))
    assert len(bundle) == 3


@needs_http
@pytest.mark.parametrize(("status", "words"), [(200, "no such file"), (403, "access denied: the server answered 403"),
                                               (401, "access denied"), (500, "the server answered 500")])
def test_what_a_server_refuses(folder, status, words):
    with serving(folder, status=status) as server, pytest.raises(FormatError, match=words):
        exporter.read(server.url("absent.h5"))


@needs_http
def test_a_server_that_is_not_there():
    done = command("http://127.0.0.1:9/model.h5?token=SECRET")
    assert done.returncode == 1
    assert "error: model.h5: cannot be read" in done.stderr
    assert "SECRET" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def soon(monkeypatch):
    """Requests are repeated soon, where the server does not ask for more; how long they wait is what test_patience.py tests."""
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.01)


def some(*troubles):
    """The troubles, one for each request from the second on."""
    return lambda number, method, headers: troubles[number - 1] if 1 <= number <= len(troubles) else None


@needs_http
@pytest.mark.parametrize("troubles", [["drop"], ["cut"], [(429, {"Retry-After": "0"})], [503, "drop", "cut"], [None, "cut", "cut"],
                                      pytest.param([(503, {"Retry-After": "1"})], marks=pytest.mark.thorough("much time"))], ids=str)
@pytest.mark.parametrize("several", [pytest.param(False, marks=pytest.mark.thorough("much time: with several ranges always")), True])
def test_what_goes_wrong_on_the_way_is_asked_for_again(large, troubles, several, soon):
    with serving(large, trouble=some(*troubles), several=several) as server:
        far = exporter.read(server.url("large.h5"))
        assert len(server.requests) > len(troubles)
    assert far.digest() == exporter.read(large / "large.h5").digest()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("large"), script("benchmarks/models.py")
    made.write_h5(folder / "large.h5", made.plain(12, 96))
    return folder


@needs_http
@pytest.mark.parametrize(("trouble", "words"), [
    ((503, {"Retry-After": "3600"}), "the server answered 503"), ("drop", "the connection broke"),
    ((429, {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}), "the server answered 429")], ids=str)
def test_patience_ends(large, trouble, words, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 1.0)
    with serving(large, trouble=lambda *_: trouble) as server, pytest.raises(FormatError, match=words):
        exporter.read(server.url("large.h5"))
    assert 1 <= len(server.requests) < 12


@needs_http
@pytest.mark.parametrize("several", [False, True])
def test_an_answer_of_another_version_is_refused(large, several):
    """As a cache or a replica gives one that is ahead of the others."""
    with serving(large, trouble=lambda number, method, headers: "other" if number == 3 and "If-Match" not in headers else None,
                 several=several) as server:
        server.version["large.h5"] = 1
        assert len(exporter.read(server.url("large.h5"))) == 12, "a server that knows If-Match is asked with it"
    with serving(large, trouble=lambda number, method, headers: "other" if number >= 3 else None, several=several) as server, \
            pytest.raises(FormatError, match="the file changed on the server while it was being read"):
        exporter.read(server.url("large.h5"))


def test_what_is_under_way_comes_to_its_end_when_another_answer_fails(monkeypatch):
    """A server tells a connection that its reader drops as an error of its own."""
    from exporter.files import web

    monkeypatch.setattr(web, "LAST_SECONDS", 0.3)
    ended = []

    async def takes(seconds):
        try:
            await asyncio.sleep(seconds)
            ended.append(seconds)
        finally:
            ended.append("gone")

    async def fails():
        raise FormatError("another version", where="x")

    async def all_of_them():
        with pytest.raises(FormatError, match="another version"):
            await web._all([takes(0.01), fails(), takes(3600)])
        await asyncio.sleep(0)
        return list(ended)

    assert asyncio.run(all_of_them()) == [0.01, "gone", "gone"], "the last one is given up before the loop ends: that of fsspec never does"


@needs_http
def test_a_server_that_sends_other_bytes_than_it_was_asked_for(large, monkeypatch):
    from tests.make import range_server

    honest = range_server.Handler._ranges

    def shifted(self, data):
        status, headers, body = honest(self, data)
        return status, {"Content-Range": f"bytes 1-{len(body)}/{len(data)}"} if status == 206 else headers, body

    monkeypatch.setattr(range_server.Handler, "_ranges", shifted)
    with serving(large) as server, pytest.raises(FormatError, match="expected the bytes 0-"):
        exporter.read(server.url("large.h5"))


@needs_http
def test_many_ranges_that_come_one_by_one_after_all(large):
    """The server promises several ranges in one answer and then sends the first alone."""
    def trouble(number, method, headers):
        if method == "GET" and "," in headers.get("Range", ""):
            headers.replace_header("Range", headers["Range"].partition(",")[0])

    with serving(large, several=True, trouble=trouble) as server:
        far = exporter.read(server.url("large.h5"))
    assert far.digest() == exporter.read(large / "large.h5").digest()


@needs_http
@pytest.mark.parametrize("name", ["100%.h5", "a%20b.h5", "what#1?.h5", "ä ö.h5", "a+b&c.h5"])
def test_names_with_signs_that_mean_something(folder, name):
    import urllib.parse

    (folder / "small.h5").rename(folder / name)
    with serving(folder) as server:
        far = exporter.read(server.url(urllib.parse.quote(name)))
        assert far.origin.file == name
        assert place_for(server.url("x")).sibling(name).exists()
    assert len(far) == 3


@needs_http
def test_a_file_that_is_replaced_meanwhile_is_refused(folder, monkeypatch):
    with serving(folder) as server:
        place = place_for(server.url("small.h5"))
        with place.open() as file:
            file.read(100)
        server.version["small.h5"] = 2
        with pytest.raises(FormatError, match="changed on the server while it was being read"):
            place.check_unchanged()


@needs_http
def test_a_pointer_of_git_lfs_instead_of_the_weights(folder):
    """Not the file that was asked for, but one that it leads to."""
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    (folder / "small.h5").write_bytes(text)
    with serving(folder) as server, pytest.raises(FormatError, match="Git LFS pointer"):
        exporter.read(server.url("small.h5"))


@needs_http
def test_a_web_page_instead_of_the_model(folder):
    (folder / "model.h5").write_text("<!DOCTYPE html><html>Sign in</html>")
    with serving(folder) as server, pytest.raises(FormatError, match="HTML"):
        exporter.read(server.url("model.h5"))


@needs_fsspec
def test_a_folder_far_away(folder):
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/models/unpacked/config.json", b"{}")
    place = place_for("memory://models/unpacked")
    assert place.is_folder()
    assert place.exists()
    assert [child.name for child in place.children()] == ["config.json"]
    assert place.child("config.json").read() == b"{}"
    assert not place.child("absent").exists()
    assert place.child("config.json") is place.child("config.json"), "what was fetched is not fetched again"


@needs_fsspec
def test_writing_far_away():
    import fsspec

    bundle = make_bundle(make_layer())
    exporter.write(bundle, "memory://out/bundle.json")
    assert json.loads(fsspec.filesystem("memory").cat("/out/bundle.json"))["format"] == "bn-bundle"
    assert exporter.load("memory://out/bundle.json").digest() == bundle.digest()


@needs_fsspec
@pytest.mark.parametrize("ends_itself", [True, False])
def test_a_failed_write_leaves_nothing(monkeypatch, ends_itself):
    """Neither the file nor the transaction, in which fsspec would keep back all that the program writes to this store later."""
    import fsspec
    from fsspec.implementations.memory import MemoryFile
    from fsspec.transaction import Transaction

    def commit(self):
        raise OSError("the store is full")

    def complete(self, commit=True):
        """As in fsspec of 2024: an error comes before the end."""
        while self.files:
            getattr(self.files.popleft(), "commit" if commit else "discard")()
        self.fs._intrans, self.fs._transaction = False, None

    with monkeypatch.context() as full:
        full.setattr(MemoryFile, "commit", commit)
        if not ends_itself:
            full.setattr(Transaction, "complete", complete)
        with pytest.raises(OutputError, match="the store is full"):
            exporter.write(make_bundle(), "memory://full/bundle.json")
    store = fsspec.filesystem("memory")
    assert not store.exists("/full/bundle.json")
    store.pipe("/full/of the program", b"text")
    assert store.cat("/full/of the program") == b"text"
    store.rm("/full", recursive=True)


def test_an_output_far_away_does_not_replace_its_input():
    from exporter.files import output

    with pytest.raises(OutputError, match="the output would replace the input"):
        output.check_output("memory://there/model.json", [place_for("memory://there/model.json")])
    output.check_output("memory://there/other.json", [place_for("memory://there/model.json")])


def test_what_cannot_be_written():
    for url, words in (("https://host/out.json", "http addresses cannot be written to"), ("s3://bucket/kit.zip/", "folder")):
        with pytest.raises((OutputError, UsageError), match=words):
            exporter.write(make_bundle(), url)
    done = command("s3://bucket/a.json", "s3://bucket/a.json")
    assert done.returncode == 1
    assert "would replace the input" in done.stderr


@needs_fsspec
def test_a_protocol_that_nobody_knows():
    with pytest.raises(UsageError, match="nosuch"):
        exporter.read("nosuch://host/model.h5")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtra) as caught:
        exporter.read("s3://bucket/model.h5")
    assert caught.value.hint == "pip install 'bn-export[remote]'"


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The server as that of this environment."""
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1",
                        "ENDPOINT_URL": s3_server[0]}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return s3_server


@pytest.fixture(scope="module")
def s3_server():
    """An S3 server on this machine: (its address, the length of each answer to a GET)."""
    moto = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'", exc_type=ImportError)
    pytest.importorskip("s3fs")
    import werkzeug.serving

    application, sent = moto.DomainDispatcherApplication(moto.create_backend_app), []

    def counted(environ, start_response):
        body = b"".join(application(environ, start_response))
        if environ["REQUEST_METHOD"] == "GET":
            sent.append(len(body))
        return [body]

    server = werkzeug.serving.make_server("127.0.0.1", 0, counted, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}", sent
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of moto and aiobotocore
@one_worker
@pytest.mark.thorough("much time: a server of S3 is imported")
@pytest.mark.parametrize("name", ["model.h5", pytest.param("model.keras", marks=pytest.mark.thorough("much time"))])
def test_s3(s3, tmp_path, name, run):
    import boto3

    address, sent = s3
    made = script("benchmarks/models.py")
    (made.write_keras if name.endswith("keras") else made.write_h5)(tmp_path / name, made.plain(30, 96))
    store = boto3.client("s3", endpoint_url=address, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    store.create_bucket(Bucket="zoo")
    store.upload_file(str(tmp_path / name), "zoo", name)
    sent.clear()
    done = command(f"s3://zoo/{name}", "s3://zoo/out.json")
    assert done.returncode == 0, done.stderr
    assert sum(sent) < (tmp_path / name).stat().st_size / 20, f"{sum(sent)} bytes in {len(sent)} requests"
    assert run(export, tmp_path / name, tmp_path / "near.json")[0] == 0
    assert store.get_object(Bucket="zoo", Key="out.json")["Body"].read() == (tmp_path / "near.json").read_bytes()
    missing = command("s3://zoo/absent.h5")
    assert missing.returncode == 1
    assert "no such file" in missing.stderr


class Announced(io.BytesIO):
    """A file that notes which ranges are announced."""

    def __init__(self, data):
        super().__init__(data)
        self.announced = []

    def fetch_ahead(self, ranges):
        self.announced += ranges


def test_walking_ahead_finds_the_data(folder):
    from exporter.formats.hdf5_ahead import walk

    file = Announced((folder / "small.h5").read_bytes())
    walk(file, 0)
    covered = {position for start, end in file.announced for position in range(start, end)}
    with h5py.File(folder / "small.h5") as opened:
        opened.visititems(lambda _, found: covered.issuperset(range(found.id.get_offset(), found.id.get_offset() + 20))
                          or pytest.fail(found.name) if isinstance(found, h5py.Dataset) else None)


def test_walking_ahead_in_damaged_files_ends(folder):
    from exporter.formats.hdf5_ahead import MAX_BYTES, walk

    good = (folder / "small.h5").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good)
        for position in random.integers(0, len(data), random.integers(1, 30)):
            data[position] = random.choice([0, 1, 255, random.integers(256)])
        file = Announced(bytes(data[: random.integers(96, len(data))]))
        walk(file, 0)
        assert sum(end - start for start, end in file.announced) <= MAX_BYTES


@needs_fsspec
@pytest.mark.parametrize(("url", "package"), [("gs://b/m.h5", "gcsfs"), ("az://c/m.h5", "adlfs"), ("abfs://c/m.h5", "adlfs"),
                                              ("hf://u/r/m.h5", "huggingface_hub"), ("sftp://h/m.h5", "paramiko"),
                                              ("smb://h/s/m.h5", "smbprotocol")])
def test_the_hint_names_the_package_of_the_protocol(url, package, monkeypatch):
    import fsspec

    def not_there(url, **options):
        raise ImportError("its package is missing")

    monkeypatch.setattr(fsspec.core, "url_to_fs", not_there)
    with pytest.raises(MissingExtra) as caught:
        exporter.read(url)
    assert caught.value.hint == f"pip install {package}"


@needs_http
@pytest.mark.parametrize(("address", "words"), [("http://127.0.0.1:9/m.h5", "cannot be read: the server refused the connection"),
                                                ("http://nosuch.invalid/m.h5", "cannot resolve the host name of the server"),
                                                ("ftp://127.0.0.1:9/m.h5", "cannot be read: the server refused the connection")])
def test_a_server_that_is_not_there_is_told_as_that(address, words):
    with pytest.raises(FormatError, match=words):
        exporter.read(address)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of moto and aiobotocore
@one_worker
@pytest.mark.thorough("much time: a server of S3 is imported")
def test_no_such_bucket(s3):
    done = command("s3://nowhere/model.h5")
    assert done.returncode == 1
    assert "error: model.h5: no such bucket" in done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of moto and aiobotocore
@one_worker
@pytest.mark.thorough("much time: a server of S3 is imported")
@pytest.mark.thorough("much time")
def test_a_pattern_on_no_such_bucket(s3, tmp_path):
    import boto3

    done = command("s3://nowhere/zoo/*.h5", "--out-dir", tmp_path)
    assert done.returncode == 1
    assert "error: s3://nowhere/zoo/*.h5: there is no bucket 'nowhere'" in done.stderr
    store = boto3.client("s3", endpoint_url=s3[0], aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    store.create_bucket(Bucket="empty")
    done = command("s3://empty/nothing-here-*.h5", "--out-dir", tmp_path)
    assert done.returncode == 1
    assert "no file or folder matches this pattern" in done.stderr


@needs_fsspec
@pytest.mark.parametrize("trouble", [ConnectionResetError("lost"), TimeoutError("late"), OSError(104, "reset"), "cut"], ids=repr)
def test_a_store_that_loses_connections_is_asked_again(large, monkeypatch, trouble, soon):
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    fsspec.filesystem("memory").pipe("/large.h5", (large / "large.h5").read_bytes())
    honest, count = MemoryFileSystem.cat_file, itertools.count()

    def cat_file(self, path, start=None, end=None, **options):
        if next(count) % 5 == 2:
            if isinstance(trouble, Exception):
                raise type(trouble)(*trouble.args)
            return honest(self, path, start, end - 1)
        return honest(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    far = exporter.read("memory://large.h5")
    assert next(count) > 10
    assert far.digest() == exporter.read(large / "large.h5").digest()

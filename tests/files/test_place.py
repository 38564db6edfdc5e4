"""Place, the one door to files: what it opens, and what it does not."""

from __future__ import annotations

import os
import socket

import pytest

import exporter
from exporter.errors import FormatError, MissingFileError
from exporter.files.place import Place


def test_reads_files_and_folders(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    place = Place(tmp_path)
    assert [child.name for child in place.children()] == ["a"]
    assert place.is_folder()
    assert place.child("a").read() == b"12345"
    assert place.child("a").head(2) == b"12"
    assert place.child("a").size() == 5
    assert place.head() == b""
    assert not place.child("b").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..", "a\\..\\x", "", "a\0b", "C:\\x", "\\x"])
def test_names_from_a_file_stay_inside(name, tmp_path):
    with pytest.raises(FormatError, match="expected a name inside the model's folder"):
        Place(tmp_path).child(name)
    with pytest.raises(FormatError, match="expected a name inside the model's folder"):
        Place(tmp_path / "x").sibling(name)


def test_links_inside_a_model_stay_inside(tmp_path):
    model, outside = tmp_path / "model", tmp_path / "outside"
    model.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"s")
    (model / "real").write_bytes(b"r")
    (model / "fine").symlink_to("real")
    (model / "file").symlink_to(outside / "secret")
    (model / "folder").symlink_to(outside)
    assert Place(model).child("fine").read() == b"r"
    for parts in (("file",), ("folder", "secret"), ("folder/secret",)):
        with pytest.raises(FormatError, match="points outside the model's folder"):
            Place(model).child(*parts).read()
    (tmp_path / "link").symlink_to(model)
    assert Place(tmp_path / "link").child("real").read() == b"r", "the user's own link is followed"


def test_a_snapshot_of_the_hub_cache_is_a_model(tmp_path):
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "0123" / "variables"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "f00").write_bytes(b"data")
    (repository / "secret").write_bytes(b"s")
    (snapshot / "variables.index").symlink_to("../../../blobs/f00")
    (snapshot / "other").symlink_to("../../../secret")
    place = Place(repository / "snapshots" / "0123")
    assert place.child("variables", "variables.index").read() == b"data"
    with pytest.raises(FormatError, match="points outside the model's folder"):
        place.child("variables", "other").read()


def test_pipes_sockets_and_devices_are_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # a socket's path may be short only
    listener.bind("socket")
    for path in (tmp_path / "pipe", tmp_path / "socket", "/dev/zero"):
        with pytest.raises(FormatError, match="expected a file or folder, got a pipe, socket or device"):
            Place(path).open()
    listener.close()


def test_sizes_are_checked_before_anything_is_read(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="expected at most 67108864 bytes in this file, got 1099511627776"):
        Place(tmp_path / "sparse").read()


def test_a_file_may_be_as_large_as_its_limit(tmp_path):
    (tmp_path / "m").write_bytes(b"12345")
    assert Place(tmp_path / "m").read(5) == b"12345"
    with pytest.raises(FormatError, match="at most 4 bytes in this file, got 5"):
        Place(tmp_path / "m").read(4)


def test_dangling_links_and_loops_are_nothing_or_an_error(tmp_path):
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    assert not Place(tmp_path / "dangling").exists()
    with pytest.raises(FormatError, match="cannot be read: Too many levels of symbolic links"):
        Place(tmp_path / "loop").exists()


def test_in_a_folder_that_was_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert not Place("m.h5").exists()
    assert Place("m.h5").parent().name == ""
    with pytest.raises(MissingFileError):
        exporter.read("m.h5")


def test_what_was_opened_must_not_change(tmp_path):
    def changed(change):
        path = tmp_path / "m"
        path.write_bytes(b"12345")
        os.utime(path, ns=(10**9, 10**9))
        place = Place(tmp_path)
        place.child("m").read()
        change(path)
        assert [one.local for one in place.opened()] == [path]
        return place

    def replaced(path):
        (path.parent / "new").write_bytes(b"12345")
        os.utime(path.parent / "new", ns=(10**9, 10**9))
        os.replace(path.parent / "new", path)

    def longer(path):
        path.write_bytes(b"123456")
        os.utime(path, ns=(10**9, 10**9))

    changed(lambda path: None).check_unchanged()
    for change in (lambda path: os.utime(path, ns=(10**9, 10**9 + 1)), longer, replaced, os.unlink):
        with pytest.raises(FormatError, match="changed while it was being read"):
            changed(change).check_unchanged()


def test_what_a_file_was_when_it_was_first_opened_counts(tmp_path):
    (tmp_path / "m").write_bytes(b"1")
    place = Place(tmp_path / "m")
    place.read()
    os.utime(tmp_path / "m", ns=(5, 5))
    place.read()
    place.parent().child("m").read()
    with pytest.raises(FormatError, match="m: the file changed"):
        place.sibling("other").check_unchanged()


@pytest.mark.parametrize(("number", "hinted"), [(13, True), (1, True), (5, False)])
def test_an_error_of_the_system_is_told(tmp_path, monkeypatch, number, hinted):
    (tmp_path / "m").write_bytes(b"1")

    def fails(*_):
        raise OSError(number, "x")

    for name, call in (("stat", lambda: Place(tmp_path / "m").exists()), ("open", lambda: Place(tmp_path / "m").open()),
                       ("listdir", lambda: Place(tmp_path).children())):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fails)
            with pytest.raises(FormatError, match=f"cannot be read: {os.strerror(number)}") as caught:
                call()
        assert bool(caught.value.hint) == hinted


def test_a_name_that_no_system_takes(tmp_path):
    with pytest.raises(FormatError, match=r"cannot be read: .*embedded null"):
        Place(f"{tmp_path}/a\0b").exists()


def test_folders_and_nothing_cannot_be_opened(tmp_path):
    with pytest.raises(FormatError, match="expected a file, got a folder"):
        Place(tmp_path).open()
    for call in (Place.open, Place.size, Place.read):
        with pytest.raises(MissingFileError, match="no such file"):
            call(Place(tmp_path / "absent"))
    assert Place(tmp_path / "absent").head() == b""
    (tmp_path / "m").write_bytes(b"1" * 600)
    assert len(Place(tmp_path / "m").head()) == 512
    assert not Place(tmp_path / "m").child("x").exists(), "below a file there is nothing"
    assert (Place(tmp_path / "m").is_file(), Place(tmp_path / "m").is_folder()) == (True, False)
    assert (Place(tmp_path).is_file(), Place(tmp_path).is_folder()) == (False, True)


def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(b"123456")
    place = Place(tmp_path / "m")
    monkeypatch.setattr(place, "size", lambda: 4)
    with pytest.raises(FormatError, match="expected at most 5 bytes in this file, got more"):
        place.read(5)
    assert place.read(6) == b"123456"


def test_names_and_the_folders_above(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Place("a/B.H5").suffix == ".h5"
    assert Place(".").name == tmp_path.name
    assert Place(b"a\xff".decode("utf-8", "surrogateescape")).name == "a\ufffd"
    assert os.path.samefile(Place(".").parent().local, tmp_path.parent)
    (tmp_path / "d").mkdir()
    assert os.path.samefile(Place("d/..").parent().local, tmp_path.parent)
    assert Place("d/x").parent().local == Place("d").local
    for name in ("b", "a", "c"):
        (tmp_path / "d" / name).touch()
    assert [child.name for child in Place("d").children()] == ["a", "b", "c"]


def test_a_link_in_a_folder_of_a_folder_is_checked_against_the_model(tmp_path):
    (tmp_path / "m" / "inner").mkdir(parents=True)
    (tmp_path / "m" / "data").write_bytes(b"d")
    (tmp_path / "outside").write_bytes(b"o")
    (tmp_path / "m" / "inner" / "up").symlink_to("../data")
    (tmp_path / "m" / "inner" / "out").symlink_to("../../outside")
    inner = Place(tmp_path / "m").child("inner")
    assert inner.child("up").read() == b"d"
    assert next(child for child in inner.children() if child.name == "up").read() == b"d"
    listed = next(child for child in inner.children() if child.name == "out")
    for place in (inner.child("out"), listed, inner.parent().child("inner", "out")):
        with pytest.raises(FormatError, match="points outside the model's folder"):
            place.read()

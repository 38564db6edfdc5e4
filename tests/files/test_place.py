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

"""What a pattern matches: as the standard library's glob has it, in which ** means the folders themselves, too."""

from __future__ import annotations

import glob
import os

import pytest

from exporter.errors import FormatError
from exporter.pipeline.matches import _is_beside_an_index, _matches, _parents, expand, fixed_folder, is_folder_of_models, is_pattern

FILES = ["a.h5", "b.keras", ".hidden.h5", "sub/a.h5", "sub/b1.h5", "sub/.dir/c.h5", "sub/deep/c.h5", "sub/deep/[x].h5", "other/a.h5",
         "other/deep/deeper/d.h5", "10/a.h5"]
PATTERNS = ["*", "*.h5", "?.h5", "*/*.h5", "sub/*", "sub/b?.h5", "s*/d*/*", "**", "**/*.h5", "sub/**", "**/deep/*", "*/**/*.h5", ".*",
            ".h*",
            "[ab].h5", "sub/[!a]*.h5", "nothing*", "*/a.h5", "**/a.h5", "other/**/d.h5", "sub/deep/[[]x].h5", "a.h5/*", "*.h5/*", "1*/*",
            "sub/.d*/*",
            "sub//*.h5", "./sub/*", "sub/../*.h5", "**/deep", "**/deep/**"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_a_shell_has(tree, pattern):
    for word in (pattern, f"{tree}/{pattern}"):
        unreadable = {}
        want = sorted({os.path.normpath(path) for path in glob.glob(word, recursive=True)})
        assert [path for path in _matches(word, unreadable) if path not in (".", str(tree))] == [
            path for path in want if path not in (".", str(tree))]
        assert unreadable == {}


def test_links_to_folders(tree):
    os.symlink("sub", "link")
    assert _matches("l*/a.h5", {}) == ["link/a.h5"]
    assert "link/a.h5" not in _matches("**/*.h5", {})
    assert "link" in _matches("**", {}), "the link itself is what it leads to"
    os.symlink("nothing", "dangling.h5")
    assert _matches("d*.h5", {}) == ["dangling.h5"]
    assert _matches("dangling.h5", {}) == ["dangling.h5"]


def test_a_folder_that_cannot_be_listed_is_told(tree, monkeypatch):
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    unreadable = {}
    found = _matches("**/*.h5", unreadable)
    assert "a.h5" in found
    assert "sub/a.h5" not in found
    assert {os.path.normpath(path): (type(error), str(error), error.hint) for path, error in unreadable.items()} == {
        "sub": (FormatError, "this folder cannot be listed: Permission denied", "check its permissions")}


@pytest.mark.parametrize(("word", "yes"), [("*.h5", True), ("a?.h5", True), ("a[1].h5", True), ("a.h5", False), ("s3://b/a.h5?x=*", True),
                                           ("https://h/a.h5?x=*", False), ("https://h/*.h5?x=1", True), ("zip://*.h5::z.zip", True)])
def test_what_is_a_pattern(tree, word, yes):
    assert is_pattern(word) == yes


def test_what_exists_as_it_stands_is_none(tree):
    (tree / "a[1].h5").touch()
    assert not is_pattern("a[1].h5")
    assert list(expand("a[1].h5", lambda path: False, {}, is_folder=False)) == ["a[1].h5"]
    assert list(expand("./sub/../a.h5", lambda path: False, {}, is_folder=False)) == ["a.h5"]
    assert list(expand("s3://b/../a.h5", lambda path: False, {}, is_folder=False)) == ["s3://b/../a.h5"]


@pytest.mark.parametrize(("word", "folder"), [
    ("a.h5", "."), ("sub/a.h5", "sub"), ("sub", "sub"), ("sub/*.h5", "sub"), ("sub/d*/x/*.h5", "sub"), ("*", "."), ("s*", "."),
    ("s3://b/x/*.h5", "s3://b/x"), ("s3://b/x/a.h5", "s3://b/x"), ("https://h/x/*.h5?q=1", "https://h/x"),
    ("zip://x/*.h5::s3://b/z.zip", "zip://x::s3://b/z.zip")])
def test_the_folder_in_which_matches_lie(tree, word, folder):
    assert fixed_folder(word, is_folder_of_models(word)) == (folder if "://" in folder else os.path.normpath(tree / folder))


def test_a_folder_of_models_is_no_model(tree):
    assert is_folder_of_models("sub")
    assert not is_folder_of_models("a.h5")
    assert not is_folder_of_models("absent")
    assert not is_folder_of_models("s3://b/x")


@pytest.mark.parametrize(("path", "there", "beside"), [
    ("m.data-00000-of-00001", {"m.index"}, True), ("m.meta", {"m.index"}, True), ("m.meta", {"n.index"}, False),
    ("m.index", {"m.index"}, False),
    ("d/checkpoint", set(), True), ("checkpoint.h5", set(), False), ("m.data-0-of-1", {"m.index"}, False),
    ("m.meta.h5", {"m.index"}, False)])
def test_what_lies_beside_the_index_of_a_checkpoint(path, there, beside):
    assert _is_beside_an_index(path, there) == beside


@pytest.mark.parametrize(("path", "parents"), [("a/b/c", ["a/b", "a"]), ("/a/b", ["/a", "/"]), ("a", []),
                                               ("s3://b/a/c", ["s3://b/a", "s3://b", "s3://"])])
def test_the_folders_above(path, parents):
    assert list(_parents(path)) == parents

"""Where the export of each model goes: names from places, never two for one, never through a link."""

from __future__ import annotations

import os

import pytest

from exporter.errors import OutputError
from exporter.pipeline.naming import _common, _is_inside, _parts, join, named_sources, refuse_links


def outputs(*words, out="/out", suffix=".json"):
    plan = named_sources(words, out, suffix)
    assert plan.problems == {}
    return plan.outputs


def test_names_begin_below_what_all_have_in_common():
    assert outputs("/m/a/x.h5", "/m/b/x.h5") == {"/m/a/x.h5": "/out/a/x.h5.json", "/m/b/x.h5": "/out/b/x.h5.json"}
    assert outputs("/m/a/x.h5", "/m/x.h5") == {"/m/a/x.h5": "/out/a/x.h5.json", "/m/x.h5": "/out/x.h5.json"}
    assert outputs("/m/a/x.h5") == {"/m/a/x.h5": "/out/x.h5.json"}
    assert outputs("/m/a/x.h5", "/n/y.h5", suffix=".npz") == {"/m/a/x.h5": "/out/m/a/x.h5.npz", "/n/y.h5": "/out/n/y.h5.npz"}
    assert outputs("s3://b/a/x.h5", "s3://c/x.h5", out="s3://o/dir/") == {
        "s3://b/a/x.h5": "s3://o/dir/b/a/x.h5.json", "s3://c/x.h5": "s3://o/dir/c/x.h5.json"}
    assert outputs("s3://b/x.h5", "/m/x.h5") == {"s3://b/x.h5": "/out/s3/b/x.h5.json", "/m/x.h5": "/out/file/m/x.h5.json"}


def test_one_model_has_one_name_and_two_have_two():
    assert outputs("/m/x.h5", "/m/./x.h5", "/m/../m/x.h5") == {"/m/x.h5": "/out/x.h5.json"}
    several = outputs("gs://b/a_b.h5", "gs://b/a:b.h5", 'gs://b/a"b.h5')
    assert list(several.values()) == ["/out/a_b.h5.json", "/out/a_b.h5~2.json", "/out/a_b.h5~3.json"]
    assert outputs("gs://b/a_b.h5", "gs://b/a:b.h5", "gs://b/a_b.h5") == {"gs://b/a_b.h5": "/out/a_b.h5.json",
                                                                         "gs://b/a:b.h5": "/out/a_b.h5~2.json"}


def test_a_pattern_without_a_match_is_a_problem(tmp_path):
    plan = named_sources([f"{tmp_path}/*.h5", "/m/x.h5"], "/out", ".json")
    assert [str(error) for error in plan.problems.values()] == ["no file or folder matches this pattern"]
    assert list(plan.problems) == [f"{tmp_path}/*.h5"]
    assert list(plan.outputs) == ["/m/x.h5"]


@pytest.mark.parametrize(("path", "parts"), [
    ("/a/b.h5", ["file", "a", "b.h5"]), ("s3://b/a/c.h5", ["s3", "b", "a", "c.h5"]), ("simplecache::s3://b/c.h5", ["s3", "b", "c.h5"]),
    ("zip://a/b.h5::s3://z/y.zip", ["s3", "z", "y.zip", "zip", "a", "b.h5"]),
    ("zip://a.h5::/m/y.zip", ["file", "m", "y.zip", "zip", "a.h5"]),
    ("gs://b/../a/./c\\d.h5", ["gs", "b", "a", "c_d.h5"]), ("HTTPS://Host/A.h5", ["https", "Host", "A.h5"]),
    ("https://me:pw@h/a.h5", ["https", "h", "a.h5"]), ('gs://b/<a>|?*".h5', ["gs", "b", "_a_____.h5"])])
def test_an_address_as_names(path, parts):
    assert _parts(path) == parts


def test_queries_tell_models_apart_without_being_shown():
    one, other = _parts("https://h/a.h5?sig=S1"), _parts("https://h/a.h5?sig=S2")
    assert one[:2] == other[:2] == ["https", "h"]
    assert one != other
    assert len(one) == 3
    assert one[2].startswith("a.h5-")
    assert len(one[2]) == len("a.h5-") + 8


@pytest.mark.parametrize(("folders", "common"), [
    ([["a", "b"], ["a", "b", "c"]], ["a", "b"]), ([["a"], ["b"]], []), ([["a", "b", "c"], ["a", "x", "c"]], ["a"]), ([], []),
    ([["a", "b"]], ["a", "b"]), ([["a", "b"], ["a", "b"]], ["a", "b"])])
def test_what_folders_have_in_common(folders, common):
    assert _common(folders) == common


@pytest.mark.parametrize(("path", "folder", "inside"), [
    ("/a/b/c", "/a/b", True), ("/a/b", "/a/b", True), ("/a/bc", "/a/b", False), ("/a", "/a/b", False), ("s3://b/x/y", "s3://b/x", True),
    ("s3://b/x", "/b", False)])
def test_what_lies_in_a_folder(path, folder, inside):
    assert _is_inside(path, _parts(folder)) == inside


def test_names_are_joined_as_the_folder_is(tmp_path):
    assert join("s3://b/out/", ["a", "b"]) == join("s3://b/out", ["a", "b"]) == "s3://b/out/a/b"
    assert join("/out", ["a", "b"]) == os.path.join("/out", "a", "b")


def test_no_link_below_the_output_folder_is_gone_through(tmp_path):
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "out").symlink_to("real")
    (tmp_path / "real" / "link").symlink_to(tmp_path)
    (tmp_path / "real" / "sub" / "file.json").symlink_to(tmp_path / "x")
    refuse_links(f"{tmp_path}/out/sub/a.json", f"{tmp_path}/out")
    refuse_links("s3://b/link/a.json", "s3://b")
    for name in ("link/a.json", "link", "sub/file.json"):
        with pytest.raises(OutputError, match="this is a symbolic link") as caught:
            refuse_links(f"{tmp_path}/out/{name}", f"{tmp_path}/out")
        assert caught.value.where in (f"{tmp_path}/out/link", f"{tmp_path}/out/sub/file.json")


@pytest.mark.skipif(os.sep != "/", reason="a backslash is part of a name")
def test_a_backslash_is_part_of_a_name(tmp_path):
    for name in ("a\\b", "a"):
        (tmp_path / name).mkdir()
    for name in ("a\\b/x.h5", "a/b"):
        (tmp_path / name).write_bytes(b"x")
    assert list(named_sources([f"{tmp_path}/a\\b/*.h5"], "/out", ".json").outputs) == [f"{tmp_path}/a\\b/x.h5"]


def test_exports_that_lie_among_the_models_are_no_models(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.h5", "a.h5.json", "b.json", "sub/c.h5", "sub/d.json"):
        (tmp_path / name).write_bytes(b"x")

    def found(out, is_export=lambda path: False):
        plan = named_sources([f"{tmp_path}/**"], str(out), ".json", is_export)
        return sorted(os.path.relpath(path, tmp_path) for path in plan.outputs)

    everything = ["a.h5", "a.h5.json", "b.json", "sub/c.h5", "sub/d.json"]
    assert found(tmp_path / "elsewhere") == everything
    assert found(tmp_path) == ["a.h5", "b.json", "sub/c.h5", "sub/d.json"], "a.h5.json stands beside a.h5"
    assert found(tmp_path, lambda path: path.endswith("b.json")) == ["a.h5", "sub/c.h5", "sub/d.json"]
    assert found(tmp_path / "sub") == ["a.h5", "a.h5.json", "b.json"], "all that lies in the output folder"


def tfjs_beside_a_folder(tmp_path):
    """A model called "model", and one of TensorFlow.js, which has the name of its export."""
    (tmp_path / "model").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "model.json").write_text('{"modelTopology": {}, "weightsManifest": []}')
    return str(tmp_path)


def test_a_model_with_the_name_of_an_export_is_one(tmp_path):
    folder = tfjs_beside_a_folder(tmp_path)
    assert set(named_sources([f"{folder}/*"], folder, ".npz").outputs) == {f"{folder}/model", f"{folder}/model.json"}
    (tmp_path / "model.json").write_text('{"format": "bn-bundle"}')
    assert set(named_sources([f"{folder}/*"], folder, ".json").outputs) == {f"{folder}/model"}


@pytest.mark.parametrize("words", [["*"], ["model", "model.json"], ["model.json", "model"]])
def test_no_export_replaces_a_model(words, tmp_path):
    folder = tfjs_beside_a_folder(tmp_path)
    plan = named_sources([f"{folder}/{word}" for word in words], folder, ".json")
    assert plan.outputs == {f"{folder}/model.json": f"{folder}/model.json.json"}
    assert [(path, error.where) for path, error in plan.problems.items()] == [(f"{folder}/model", f"{folder}/model.json")]

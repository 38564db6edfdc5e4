"""Folders and zip archives that hold a model and are none: exactly one is read where it lies, several are named."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest

import exporter
from exporter.commands.evaluate import evaluate
from exporter.commands.export import export
from exporter.errors import ExporterError, FormatError, UnsupportedError
from exporter.files.input_file import MemoryFile
from exporter.files.place import Place
from exporter.formats import zip_place
from exporter.formats.zip_place import Content, ZipPlace
from exporter.pipeline import inside
from tests.make.graph_files import const, graph
from tests.make.layers import ROOT
from tests.make.v3_files import functional, given, norm, norm_arrays, stored, weights_bytes, write_archive

SAMPLES = ROOT / "sample_models"
H5 = (SAMPLES / "no_beta_keras208" / "model.h5").read_bytes()
A = norm_arrays(1)
CONFIG = functional("net", norm("bn", epsilon=0.02))


def archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def packed(path, folder, method=zipfile.ZIP_STORED):
    return archive(path, {str(file.relative_to(folder.parent)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()},
                   method)


def tfjs(folder):
    """A layers model as the converter writes it, with the metadata that Teachable Machine puts beside it."""
    folder.mkdir()
    data = b"".join(A[name].astype("<f4").tobytes() for name in A)
    weights = [{"name": f"bn/{name}", "shape": [3], "dtype": "float32"} for name in A]
    topology = {"keras_version": "2.15.0", "backend": "tensorflow", "model_config": CONFIG}
    (folder / "model.json").write_text(json.dumps({"format": "layers-model", "modelTopology": topology, "weightsManifest": [
        {"paths": ["weights.bin"], "weights": weights}]}))
    (folder / "weights.bin").write_bytes(data)
    (folder / "metadata.json").write_text('{"labels": ["a", "b"]}')
    return folder


def refusal(path, kind=UnsupportedError, **options):
    with pytest.raises(kind) as caught:
        exporter.read(path, **options)
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize(("name", "method"), [
    ("trained.h5", zipfile.ZIP_STORED), ("a/b/trained.h5", zipfile.ZIP_DEFLATED), ("no suffix", zipfile.ZIP_DEFLATED),
    *(pytest.param(*both, marks=pytest.mark.thorough("much time")) for both in (
        ("trained.h5", zipfile.ZIP_DEFLATED), ("a/b/trained.h5", zipfile.ZIP_STORED), ("no suffix", zipfile.ZIP_STORED)))])
def test_a_zip_with_one_h5_is_read_in_place(tmp_path, name, method):
    beside = {"labels.txt": b"0 cat\n1 dog\n", f"__MACOSX/._{name}": H5, ".hidden": H5}
    path = archive(tmp_path / "trained.h5.zip", {name: H5, **beside}, method)
    before = sorted(tmp_path.iterdir())
    bundle = exporter.read(path)
    assert stored(bundle["bn"]) == stored(exporter.read(SAMPLES / "no_beta_keras208" / "model.h5")["bn"])
    assert bundle.warnings == (f"{name} is the model in trained.h5.zip and is read",)
    assert sorted(tmp_path.iterdir()) == before
    if method == zipfile.ZIP_DEFLATED and "/" in name:
        assert exporter.read(path, isolated=True).digest() == bundle.digest()


@pytest.mark.parametrize("name", ["graph.pb", "a/frozen.PB", "graph.pbtxt", "graph"])
def test_a_graph_is_looked_for_by_its_suffix(tmp_path, name):
    """It begins with nothing that tells it from other files."""
    data = b'node {\n  name: "x"\n  op: "Placeholder"\n}\n' if name.endswith("txt") else graph(const("x", np.ones(3, "f4")))
    said, _ = refusal(archive(tmp_path / "m.zip", {name: data, "notes.txt": b"none"}), kind=ExporterError)
    assert ("this zip archive is not a .keras model" in said) is (name == "graph")


def test_a_keras_file_beside_notes(tmp_path, run):
    folder = tmp_path / "mine"
    folder.mkdir()
    write_archive(folder / "classifier.keras", CONFIG, {"layers/batch_normalization": A})
    (folder / "notes.txt").write_text("trained on Tuesday")
    for kind in (folder, packed(tmp_path / "mine.zip", folder, zipfile.ZIP_DEFLATED)):
        code, out, err = run(export, kind)
        assert code == 0
        assert "classifier.keras is the model in" in err
        assert "0.02" in out
    shutil.copy(tmp_path / "mine.zip", folder / "copy.zip")
    assert "mine/classifier.keras" in refusal(folder)[0], "an archive in a folder is looked into"


def test_which_model_is_read_is_said_before_anything_of_it(tmp_path):
    path = archive(tmp_path / "m.zip", {"trained.h5": H5})
    first, *others = exporter.read(path, ema="yes").warnings
    assert first == "trained.h5 is the model in m.zip and is read"
    assert len(others) == 1


def test_a_tfjs_folder(tmp_path):
    folder = tfjs(tmp_path / "web")
    flat = archive(tmp_path / "flat.zip", {file.name: file.read_bytes() for file in folder.iterdir()})
    for path, name in ((folder, "model.json"), (packed(tmp_path / "web.zip", folder, zipfile.ZIP_DEFLATED), "web/model.json"),
                       (flat, "model.json")):
        bundle = exporter.read(path)
        assert stored(bundle["bn"]) == given(A)
        assert bundle.warnings == (f"{name} is the model in {path.name} and is read",)
    outer = archive(tmp_path / "outer.zip", {"web.zip": (tmp_path / "web.zip").read_bytes()})
    assert "contains no supported model" in refusal(outer)[0], "an archive in an archive is not looked into"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_saved_model_below_its_time(tmp_path, method):
    """TensorFlow Serving's folder of versions; Edge Impulse packs such a folder."""
    source = SAMPLES / "saved_model_tfkeras" / "saved_model"
    shutil.copytree(source, tmp_path / "exp" / "1795642988")
    want = exporter.read(source).digest()
    assert exporter.read(tmp_path / "exp").digest() == want
    assert exporter.read(packed(tmp_path / "exp.zip", tmp_path / "exp", method)).digest() == want
    members = {str(file.relative_to(source)): file.read_bytes() for file in source.rglob("*") if file.is_file()}
    flat = exporter.read(archive(tmp_path / "flat.zip", members, method))
    assert flat.digest() == want
    assert flat.warnings[0] == "flat.zip is the model in flat.zip and is read"
    shutil.copytree(source, tmp_path / "exp" / "1795642999")
    what, hint = refusal(tmp_path / "exp")
    assert "this folder contains 2 models" in what
    assert hint == "give one of them"


def test_a_backup_of_keras(tmp_path):
    """BackupAndRestore of Keras 3: the weights lie beside the epoch's number; epsilon is to be given as for any weights."""
    (tmp_path / "latest.weights.h5").write_bytes(weights_bytes({"layers/batch_normalization": A}))
    (tmp_path / "training_metadata.json").write_text('{"epoch": 3, "batch": 0}')
    assert stored(exporter.read(tmp_path, epsilon=0.1).layers[0]) == given(A)
    assert "the file does not contain its epsilon" in refusal(tmp_path, ExporterError)[0]


def test_shards_are_one_model(tmp_path):
    half = {"layers/batch_normalization": A}
    (tmp_path / "m_00000.weights.h5").write_bytes(weights_bytes(half))
    total = sum(array.nbytes for array in A.values())
    (tmp_path / "m.weights.json").write_text(json.dumps({"metadata": {"total_size": float(total)},
                                                         "weight_map": {"/layers/batch_normalization/vars": "m_00000.weights.h5"}}))
    assert stored(exporter.read(tmp_path, epsilon=0.1).layers[0]) == given(A)


def test_several_models_are_named_and_none_is_read(tmp_path):
    members = {"best.h5": H5, "last/model.h5": H5, "model.tflite": b"\x1c\0\0\0TFL3" + bytes(40)}
    what, hint = refusal(archive(tmp_path / "runs.zip", members))
    assert "this zip archive contains 2 models" in what
    assert hint == "unpack it and give one of them"
    what, _ = refusal(archive(tmp_path / "many.zip", {f"{i}.h5": H5 for i in range(40)}))
    assert f"contains {inside.MAX_MODELS} or more models" in what


@pytest.mark.parametrize(("count", "rest"), [(8, ""), (9, " and 1 more")])
def test_of_several_models_eight_are_named(tmp_path, count, rest):
    for number in range(count):
        (tmp_path / f"{number}.h5").write_bytes(H5)
    shown = ", ".join(f"{number}.h5" for number in range(8))
    assert refusal(tmp_path)[0].endswith(f"this folder contains {count} models: {shown}{rest}")


def test_a_bundle_beside_its_model_is_none(tmp_path):
    (tmp_path / "model.h5").write_bytes(H5)
    bundle = exporter.read(tmp_path / "model.h5")
    for name in ("out.json", "out.npz", "out.safetensors"):
        exporter.write(bundle, tmp_path / name)
    assert exporter.read(tmp_path).digest() == bundle.digest()


def test_what_holds_no_model_says_what_it_holds(tmp_path):
    what, _ = refusal(archive(tmp_path / "photos.zip", {"cat.jpg": b"\xff\xd8\xff\xe0", "labels.txt": b"cat"}))
    assert what.endswith("this zip archive is not a .keras model and contains no supported model; it contains cat.jpg, labels.txt")
    assert refusal(archive(tmp_path / "none.zip", {}))[0].endswith("it contains no file")
    (tmp_path / "empty").mkdir()
    assert "this is a folder" in refusal(tmp_path / "empty", FormatError)[0]


def test_a_file_of_pytorch_is_called_so(tmp_path):
    path = archive(tmp_path / "state.pt", {"state/data.pkl": b"\x80\x02.", "state/version": b"3\n"})
    assert refusal(path)[0].endswith("this is a PyTorch file, which is a pickle: it can run code and is not loaded")
    other = archive(tmp_path / "other.zip", {"state/data.txt": b"", "data.pkl": b""})
    assert "this zip archive is not a .keras model" in refusal(other)[0]


def test_the_error_of_the_model_inside_says_where(tmp_path):
    what, _ = refusal(archive(tmp_path / "m.zip", {"in/cut.h5": H5[:3000]}), FormatError)
    assert what.startswith("m.zip: in/cut.h5: ")
    assert "cut short" in what
    damaged = bytearray(archive(tmp_path / "d.zip", {"m.h5": H5}).read_bytes())
    damaged[2000] ^= 255
    (tmp_path / "d.zip").write_bytes(damaged)
    assert "CRC-32" in refusal(tmp_path / "d.zip", FormatError)[0]


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(inside, "MAX_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("x")
    assert "more than 3 files" in refusal(tmp_path)[0]


def place(members, method=zipfile.ZIP_STORED):
    data = archive(MemoryFile(), members, method)
    return ZipPlace(Content(Place("a.zip"), data))


def test_a_place_in_an_archive():
    root = place({"a/b/c.txt": b"12345", "a/d/": b"", "../out": b"", "/abs": b"", "x/" * 40 + "deep": b""})
    assert [child.name for child in root.children()] == ["a"], "neither unsafe nor deep names"
    assert root.name == "a.zip"
    inner = root.child("a", "b")
    assert (inner.is_folder(), inner.is_file(), inner.name) == (True, False, "b")
    file = inner.child("c.txt")
    assert (file.size(), file.suffix, file.read(), file.head(2)) == (5, ".txt", b"12345", b"12")
    assert file.sibling("c.txt").exists()
    assert not file.sibling("none").exists()
    assert root.child("a", "d").children() == []
    assert root.child("a", "d").is_folder(), "an empty one"
    for bad, said in ((lambda: root.child("..", "out"), "expected a name inside the model's folder"),
                      (lambda: root.child("none").open(), "none: no such file"),
                      (lambda: inner.open(), "b: expected a file, got a folder")):
        with pytest.raises(FormatError, match=said):
            bad()


def test_an_archive_that_changes_while_it_is_read(tmp_path):
    path = archive(tmp_path / "a.zip", {"m": b"1"})
    outer = Place(path)
    with outer.open() as file:
        inner = ZipPlace(Content(outer, file)).child("m")
        inner.check_unchanged()
        path.write_bytes(b"another")
        with pytest.raises(ExporterError, match="changed while"):
            inner.check_unchanged()


def test_a_layer_of_a_model_in_an_archive_is_evaluated_and_the_model_named(tmp_path, run):
    np.save(tmp_path / "x.npy", np.zeros((2, 1), np.float32))
    code, _, err = run(evaluate, archive(tmp_path / "m.zip", {"trained.h5": H5}), tmp_path / "x.npy", tmp_path / "y.npy")
    assert (code, err) == (0, "warning: trained.h5 is the model in m.zip and is read\n")


def test_what_is_inflated_is_limited_in_all(monkeypatch):
    root = place({name: bytes(1000) for name in "abc"}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zip_place, "MAX_INFLATED", 2500)
    for name in "aab":
        with root.child(name).open() as file:
            assert file.read() == bytes(1000)
    with pytest.raises(FormatError, match="the archive's members decompress to more than the limit of 2500 bytes"):
        root.child("c").open()
    assert root.child("c").head(10) == bytes(10), "a look at the beginning inflates no more than that"
    whole = place({name: bytes(1000) for name in "abc"})
    assert [whole.child(name).read() for name in "abc"] == [bytes(1000)] * 3, "members that are only stored do not count"


def test_two_readers_of_one_member_do_not_disturb_each_other():
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        member = place({"m": bytes(np.arange(200, dtype=np.uint8))}, method).child("m")
        first, second = member.open(), member.open()
        assert first.read(3) == bytes([0, 1, 2])
        assert second.read(2) == bytes([0, 1])
        assert first.read(2) == bytes([3, 4])


def test_how_deep_a_model_may_lie(tmp_path):
    for depth, is_found in ((3, True), (4, False)):
        folder = tmp_path / str(depth) / "/".join("abcd"[:depth])
        folder.mkdir(parents=True)
        (folder / "m.h5").write_bytes(H5)
        if is_found:
            assert exporter.read(tmp_path / str(depth)).warnings == ("a/b/c/m.h5 is the model in 3 and is read",)
        else:
            assert "this is a folder" in refusal(tmp_path / str(depth), FormatError)[0]

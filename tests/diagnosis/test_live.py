"""bn-verify --live: the real layers; and what is never run."""

from __future__ import annotations

import importlib.util
import json
import os
import types
import zipfile

import h5py
import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors
from exporter.batchnorm.bundle import ReadBack
from exporter.commands.verify import verify
from exporter.diagnosis import live
from exporter.files.place import Place
from tests.make.layers import ROOT, make_bundle, make_layer

SAMPLES = ROOT / "sample_models"
needs_keras = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")


@pytest.mark.live
@needs_keras
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", [
    "encoder_keras3/model.keras", "no_beta_keras208/model.h5",
    pytest.param("encoder_keras3/model.h5", marks=pytest.mark.thorough("much time")),
    pytest.param("saved_model_tfkeras/model.h5", marks=pytest.mark.thorough("much time"))])
def test_the_real_layers_agree(run, tmp_path, model):
    exporter.write(exporter.read(SAMPLES / model), tmp_path / "b.json")
    code, out, err = run(verify, tmp_path / "b.json", SAMPLES / model, "--live", "--json")
    assert code == 0, (out, err)
    report = json.loads(out)
    assert report["not_found_live"] == []
    assert len(report["live"]) == report["layers"]
    assert max(check["times_the_bound"] for check in report["live"]) <= 1


@pytest.mark.live
@needs_keras
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_bundle_is_found_out(run, tmp_path):
    model = SAMPLES / "encoder_keras3" / "model.keras"
    bundle = exporter.read(model)
    layers = [layer.replace(epsilon=0.01) if layer.path == "head_bn" else layer for layer in bundle]
    exporter.write(bundle.replace(layers=tuple(layers)), tmp_path / "b.json")
    code, out, _ = run(verify, tmp_path / "b.json", model, "--live", "--json")
    assert code == 1
    assert [check["path"] for check in json.loads(out)["live"] if not check["passed"]] == ["head_bn"]


def archive(path, config):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))
    return Place(path)


def layer_entry(**changes):
    return {"module": "keras.layers", "class_name": "Dense", "config": {"name": "d"}, "registered_name": None, **changes}


@pytest.mark.parametrize(("entry", "named"), [
    (layer_entry(class_name="Lambda"), "a Lambda"),
    (layer_entry(config={"f": {"class_name": "__lambda__", "config": {"value": "x"}}}), "a Lambda"),
    ({"class_name": "Lambda", "config": {"function_type": "lambda"}}, "a Lambda"),
    (layer_entry(registered_name="mine>Dense"), "custom object 'mine>Dense'"),
    (layer_entry(class_name="mine>Dense"), "custom object"),
    (layer_entry(module="os", class_name="system"), "os.system"),
    (layer_entry(module="keras.utils", class_name="get_file"), "keras.utils.get_file"),
    (layer_entry(module="keras.src.utils.file_utils", class_name="get_file"), "get_file"),
    (layer_entry(module="builtins", class_name="eval"), "builtins.eval"),
    (layer_entry(module="builtins", class_name="eval", config="1 + 1"), "builtins.eval"),
    (layer_entry(module="builtins", class_name="function", config={"name": "f"}), "builtins.function"),
    (layer_entry(module="keras_extra.layers"), "keras_extra.layers.Dense")])
def test_code_that_is_not_keras_own_is_not_run(tmp_path, monkeypatch, entry, named):
    monkeypatch.setattr(live, "_load", lambda *_: pytest.fail("the model reached Keras"))
    place = archive(tmp_path / "m.keras", {"class_name": "Sequential", "config": {"layers": [layer_entry(), entry]}})
    with pytest.raises(exporter.UnsupportedError, match="is not run") as caught:
        live.live_layers(place)
    assert named in str(caught.value)


def test_keras_own_entries_pass(tmp_path, monkeypatch):
    reached = []
    monkeypatch.setattr(live, "_load", lambda place, suffix: reached.append(suffix))
    monkeypatch.setattr(live, "_walk", lambda model: [])
    activation = {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"}
    entries = [layer_entry(), layer_entry(module="keras.src.models.functional", class_name="Functional"),
               {"class_name": "Dense", "config": {}}, layer_entry(config={"activation": activation})]
    live.live_layers(archive(tmp_path / "m.keras", {"class_name": "Sequential", "config": {"layers": entries}}))
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": entries})
    live.live_layers(Place(tmp_path / "m.h5"))
    assert reached == [".keras", ".h5"]


def test_what_no_keras_can_run(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros(2))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a"] = np.zeros(2)
    for name, message in (("a.npz", "contains no model"), ("w.h5", "only weights"), ("", "only .keras")):
        with pytest.raises(exporter.UnsupportedError, match=message):
            live.live_layers(Place(tmp_path / name))


def test_keras_sees_the_suffix_that_it_wants(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m.keras", "m.h5", "blob"):
        (tmp_path / name).write_bytes(name.encode())
    with live._with_suffix(Place(tmp_path / "m.keras"), ".keras") as path:
        assert path == str(tmp_path / "m.keras")
    for name, suffix in (("m.h5", ".keras"), ("blob", ".h5")):
        with live._with_suffix(Place(tmp_path / name), suffix) as path:
            assert path.endswith(f"model{suffix}")
            with open(path, "rb") as file:
                assert file.read() == name.encode()
        assert not os.path.lexists(path), "the link is gone"


class Real:
    """As much of a Keras layer as is walked and run. called: the shapes that it was called with."""

    def __init__(self, what, rank=None, **inner):
        self.name, self.what, self.called = what if isinstance(what, str) else what.name, what, []
        self.__dict__.update(inner)
        if rank is not None:
            self.input_spec = type("Spec", (), {"ndim": rank})()

    def get_weights(self):
        return []

    def __call__(self, x, training):
        assert training is False
        self.called.append(x.shape)
        return self.what(x, axis=tuple(a % x.ndim for a in self.what.axis))


class BatchNormalization(Real):
    """By the name of its class."""


@pytest.mark.parametrize(("shape", "axis", "rank", "given"), [
    ((4,), (-1,), None, (5, 4)), ((4,), (-1,), 4, (5, 1, 1, 4)), ((4,), (1,), 4, (5, 4, 1, 1)), ((4,), (2,), None, (5, 1, 4)),
    ((2, 3), (1, 2), None, (5, 2, 3)), ((2, 3), (3, 1), None, (5, 3, 1, 2)), ((2, 3), (-1, 1), 4, (5, 3, 1, 2))])
def test_a_real_layer_is_given_an_input_of_its_rank(shape, axis, rank, given):
    layer = make_layer("bn", shape=shape, axis=axis)
    real = BatchNormalization(layer, rank)
    rows = np.random.default_rng(1).normal(size=(5, layer.channels)).astype(np.float32)
    got = live.run(real, layer, rows)
    assert real.called == [given]
    flat = layer.replace(shape=(layer.channels,), axis=(-1,), **{name: v.ravel() for name, v in layer.parameters().items()})
    assert np.allclose(got, flat(rows), rtol=1e-5, atol=1e-5)


def test_layers_inside_of_layers_have_paths():
    one, two, three, four, five = (BatchNormalization(make_layer(name)) for name in ("a", "b", "c", "d", "e"))
    inner = Real("inner", layers=[two, Real("wrap", layer=three)])
    model = Real("model", layers=[Real("input"), one, inner, Real("rnn", cell=Real("cell", cells=[types.SimpleNamespace(), four])), one,
                                  Real("both", forward_layer=Real("f", layers=[five]), backward_layer=Real("b"))])
    found = list(live._walk(model))
    assert [(path, layer.name) for path, layer in found] == [("a", "a"), ("inner/b", "b"), ("inner/wrap/c", "c"), ("rnn/cell/d", "d"),
                                                             ("both/f/e", "e")]


def test_what_a_model_does_not_contain_is_absent(monkeypatch):
    layers = [make_layer("a"), make_layer("b", seed=1)]
    monkeypatch.setattr(live, "live_layers", lambda place: {"b": lambda x, training: layers[1](x)})
    checks, absent = live.check_live(make_bundle(*layers), Place("m"))
    assert ([check.path for check in checks], absent) == (["b"], ["a"])
    assert checks[0].passed


def test_without_keras_nothing_is_run(tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(live, "importlib", types.SimpleNamespace(import_module=absent))
    (tmp_path / "m.keras").write_bytes(b"")
    with pytest.raises(exporter.MissingExtra, match="running the real layers"):
        live._load(Place(tmp_path / "m.keras"), ".keras")


def test_a_model_is_loaded_in_safe_mode(tmp_path, monkeypatch):
    said = []
    models = types.SimpleNamespace(load_model=lambda path, **options: said.append((path, options)) or "model")
    monkeypatch.setattr(live, "importlib", types.SimpleNamespace(import_module=lambda name: models if name == "keras.models" else None))
    (tmp_path / "m.keras").write_bytes(b"")
    assert live._load(Place(tmp_path / "m.keras"), ".keras") == "model"
    assert said == [(str(tmp_path / "m.keras"), {"compile": False, "safe_mode": True})]


@pytest.mark.parametrize(("words", "said"), [("unknown layer\nand more", "unknown layer"), (" \n", "ValueError")])
def test_what_each_keras_says_of_a_model_that_it_cannot_load(tmp_path, monkeypatch, words, said):
    def load_model(path, **_):
        raise ValueError(words)

    monkeypatch.setattr(live, "importlib", types.SimpleNamespace(import_module=lambda name: types.SimpleNamespace(load_model=load_model)))
    (tmp_path / "m.keras").write_bytes(b"")
    with pytest.raises(exporter.UnsupportedError, match=rf"cannot load the model \(keras: {said}; tf_keras: {said}\)"):
        live._load(Place(tmp_path / "m.keras"), ".keras")


def test_the_real_layers_are_run_on_the_vectors_of_the_bundle(monkeypatch):
    layer, seen = make_layer("a"), []
    rows = np.ones((3, 4), "f4")
    monkeypatch.setattr(live, "live_layers", lambda place: {"a": lambda x, training: seen.append(x) or layer(x)})
    bundle = ReadBack(layers=(layer,), origin=make_bundle(layer).origin, vectors={"a": (rows, layer(rows))})
    live.check_live(bundle, Place("m"))
    live.check_live(make_bundle(layer), Place("m"))
    assert [x.shape for x in seen] == [(3, 4), (2, 4)], "else vectors are made"
    assert np.array_equal(seen[0], rows)
    assert np.array_equal(seen[1], vectors.make(layer)[0])

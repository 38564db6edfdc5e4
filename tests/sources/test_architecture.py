"""Configs beside weights: dumps of get_config(), and architectures of another session, whose layers Keras counted anew."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.errors import FormatError
from tests.make.h5_files import named, parameters, write
from tests.make.v3_files import entry, functional, norm, sequential, stored

A, B = parameters(seed=1), parameters(seed=2)


def kernel(name, inputs=2, outputs=3):
    return [(f"{name}/kernel:0", np.zeros((inputs, outputs), np.float32)), (f"{name}/bias:0", np.zeros(outputs, np.float32))]


def model(first, second, dense="dense", make=functional, **fields):
    layers = [entry("InputLayer", "input_1", batch_input_shape=[None, 2]), entry("Dense", dense, units=3),
              norm(first, epsilon=0.1, **fields), entry("Activation", "activation"), norm(second, epsilon=0.2, **fields)]
    return make("model", *layers)


def weights(path, first, second, dense="dense", names=("input_1",)):
    layers = {dense: kernel(dense), first: named(first, A), "activation": [], second: named(second, B)}
    return write(path, {**{name: [] for name in names}, **layers})


def read(tmp_path, config, file=None):
    (tmp_path / "architecture.json").write_text(json.dumps(config))
    return exporter.read(file or weights(tmp_path / "w.h5", "bn_a", "bn_b"), architecture=tmp_path / "architecture.json")


def shown(bundle):
    return {layer.path: (layer.epsilon, stored(layer)["gamma"]) for layer in bundle}


def gammas(first, second):
    return {first: (0.1, A["gamma"].tolist()), second: (0.2, B["gamma"].tolist())}


@pytest.mark.parametrize("make", [functional, sequential])
@pytest.mark.parametrize("form", [
    lambda entry: entry, lambda entry: entry["config"], lambda entry: entry["config"]["layers"],
    lambda entry: json.dumps(entry["config"]), lambda entry: {"model_config": entry["config"]}],
    ids=["to_json", "get_config", "list", "text of get_config", "under model_config"])
def test_a_dump_of_get_config_is_an_architecture(tmp_path, make, form):
    assert shown(read(tmp_path, form(model("bn_a", "bn_b", make=make)))) == gammas("bn_a", "bn_b")


def test_what_is_no_config_stays_none(tmp_path):
    for content in ([], {"layers": []}, [1, 2], {"name": "m", "layers": [{"class_name": 3, "config": {}}]}, [["class_name"]]):
        with pytest.raises(FormatError):
            read(tmp_path, content)


@pytest.mark.parametrize("keras_1", [False, True])
def test_names_of_another_session_are_paired_by_order(tmp_path, keras_1):
    stem = "batchnormalization" if keras_1 else "batch_normalization"
    file = weights(tmp_path / "w.h5", f"{stem}_3", f"{stem}_4", "dense_2", names=("input_2",))
    bundle = read(tmp_path, model(f"{stem}_1", f"{stem}_2"), file)
    assert shown(bundle) == gammas(f"{stem}_3", f"{stem}_4")
    assert any("paired by their order" in warning and f"{stem}_1 for {stem}_3" in warning for warning in bundle.warnings)


def test_a_sequential_does_not_list_its_input(tmp_path):
    file = weights(tmp_path / "w.h5", "batch_normalization", "batch_normalization_1", names=())
    bundle = read(tmp_path, model("batch_normalization_6", "batch_normalization_7", make=sequential), file)
    assert shown(bundle) == gammas("batch_normalization", "batch_normalization_1")


@pytest.mark.parametrize(("config", "what"), [
    (model("bn_1", "bn_2"), "the file contains no weights for it"),  # names that a user gave
    (model("batch_normalization_5", "batch_normalization_4"), "the file contains no weights for it"),  # made in another order
    (model("batch_normalization_4", "batch_normalization_5", "fc"), "the file contains no weights for it"),
    (functional("m", *model("batch_normalization_7", "batch_normalization_8")["config"]["layers"][:4]), "file contains no weights for it"),
    (model("batch_normalization_7", "batch_normalization_8", scale=False), "scale=false")])
def test_architectures_that_differ_in_more_than_made_up_names(tmp_path, config, what):
    file = weights(tmp_path / "w.h5", "batch_normalization", "batch_normalization_1")
    with pytest.raises(FormatError, match=what):
        read(tmp_path, config, file)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_kernel_of_a_convolution_of_another_shape(tmp_path, rank):
    shape = (*[1] * rank, 2, 3)
    names = ("batch_normalization", "batch_normalization_1")
    layers = [entry("InputLayer", "input_1", batch_input_shape=[None, *[4] * rank, 2]),
              entry(f"Conv{rank}D", "conv", filters=3), norm("batch_normalization_4", epsilon=0.1), entry("Activation", "activation"),
              norm("batch_normalization_5", epsilon=0.2)]
    held = [("conv/kernel:0", np.zeros(shape, np.float32)), ("conv/bias:0", np.zeros(3, np.float32))]
    first, second = named(names[0], A), named(names[1], B)
    file = write(tmp_path / "w.h5", {"input_1": [], "conv": held, names[0]: first, "activation": [], names[1]: second})
    assert len(read(tmp_path, functional("model", *layers), file)) == 2
    layers[1]["config"]["filters"] = 5
    with pytest.raises(FormatError, match=r"kernel has shape .*filters=5"):
        read(tmp_path, functional("model", *layers), file)


def test_a_kernel_of_another_shape(tmp_path):
    config = model("batch_normalization_4", "batch_normalization_5")
    config["config"]["layers"][1]["config"]["units"] = 5
    with pytest.raises(FormatError, match=r"kernel has shape \[2, 3\].*units=5"):
        read(tmp_path, config, weights(tmp_path / "w.h5", "batch_normalization", "batch_normalization_1"))

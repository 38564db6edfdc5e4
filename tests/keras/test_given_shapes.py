"""The input_shape that a user gives a layer: Keras 2 stores it in any layer, and uses only that of a model's input."""

from __future__ import annotations

import pytest

import exporter
from exporter.keras.config import model_tree
from exporter.keras.ranks import input_ranks
from tests.keras.test_places import called, layer, model, norm, sequential
from tests.make.h5_files import named, parameters, write

COPIED = {"batch_input_shape": [None, None, None, 3]}  # from the first layer, as in many tutorials
INPUT = {"batch_input_shape": [None, 8]}
DENSE = layer("Dense", "fc", units=3, **INPUT)


def test_it_counts_in_the_first_layer_of_a_sequential(tmp_path):
    write(tmp_path / "m.h5", {"bn": named("bn", parameters())}, sequential(norm(**COPIED)), keras_version="2.4.0")
    assert exporter.read(tmp_path / "m.h5")["bn"].ndim == 4


@pytest.mark.parametrize("config", [
    sequential(DENSE, norm(axis=[1], **COPIED)), {"class_name": "Sequential", "config": [DENSE, norm(axis=[1], **COPIED)]},
    sequential(layer("InputLayer", "x", **INPUT), norm(axis=[1], **COPIED)),
    model(called(layer("InputLayer", "x", **INPUT)), called(norm(axis=[1], **COPIED), ["x"]), outputs=["bn"])])
@pytest.mark.parametrize("copied", [COPIED["batch_input_shape"], [None, 28, 28, 1]])
def test_it_does_not_anywhere_else(config, copied, tmp_path):
    layers = config["config"] if isinstance(config["config"], list) else config["config"]["layers"]
    layers[-1]["config"]["batch_input_shape"] = copied
    groups = {entry["config"]["name"]: named("bn", parameters()) if entry["config"]["name"] == "bn" else [] for entry in layers}
    write(tmp_path / "m.h5", groups, config, keras_version="2.4.0", backend="tensorflow")
    assert exporter.read(tmp_path / "m.h5")["bn"].ndim == 2


def test_nor_in_a_wrapper():
    tree = model_tree(sequential(DENSE, layer("TimeDistributed", "td", layer=norm(**COPIED))), "m")
    assert [rank for node, rank in input_ranks(tree).items() if node.name == "bn"] == []


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".h5", ".keras", "_saved"])
def test_as_tf_keras_stores_it(suffix, tmp_path):
    import tf_keras

    layers = tf_keras.layers
    chain = tf_keras.Sequential([layers.Dense(4, input_shape=(8,)), layers.BatchNormalization(input_shape=(28, 28, 1), name="bn")])
    chain.save(tmp_path / f"m{suffix}")
    found = exporter.read(tmp_path / f"m{suffix}")["bn"]
    assert (found.axis, found.ndim) == ((1,), 2)

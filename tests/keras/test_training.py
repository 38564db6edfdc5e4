"""Batch norms that model(x) of Keras 3 runs as in training because of a layer before them."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.batchnorm.bundle import Origin
from exporter.batchnorm.layer import PARAMETERS
from exporter.keras.config import model_tree
from exporter.keras.dialects import Era, era_of
from exporter.keras.training import switched_on
from exporter.sources.shared.architecture import note_training
from exporter.sources.shared.found import Found
from exporter.sources.shared.matching import by_name
from exporter.sources.shared.options import ReadOptions
from tests.make.v3_files import entry, functional, sequential


def nested(keras, *layers):
    return keras.Sequential([keras.Input((6, 6, 3)), *layers])


# What stands in the model, given keras.layers, the input, and a function that makes a batch norm.
MODELS = {
    "augmentation first": lambda keras, x, norm: norm()(keras.layers.RandomFlip()(x)),
    "another default": lambda keras, x, norm: norm()(keras.layers.Resizing(6, 6)(x)),
    "augmentation last": lambda keras, x, norm: keras.layers.RandomFlip()(norm()(x)),
    "told not to train": lambda keras, x, norm: norm()(keras.layers.RandomFlip()(x, training=False)),
    "told to train": lambda keras, x, norm: norm()(keras.layers.Dropout(0.1)(x, training=True)),
    "told nothing": lambda keras, x, norm: norm()(keras.layers.Dropout(0.1)(x)),
    "a batch norm told to train": lambda keras, x, norm: norm()(keras.layers.Rescaling(2.0)(norm()(x, training=True))),
    "the batch norm told not to": lambda keras, x, norm: norm()(keras.layers.RandomFlip()(x), training=False),
    "frozen": lambda keras, x, norm: norm(trainable=False)(keras.layers.RandomFlip()(x)),
    "beside it": lambda keras, x, norm: keras.layers.Add()([keras.layers.RandomFlip()(x), norm()(x)]),
    "inside a model": lambda keras, x, norm: norm()(nested(keras, keras.layers.RandomFlip(), norm())(x)),
    "in front of a model": lambda keras, x, norm: nested(keras, norm())(nested(keras, keras.layers.RandomFlip())(x)),
    "a model told not to train": lambda keras, x, norm: norm()(nested(keras, norm())(keras.layers.RandomFlip()(x), training=False)),
    "a model told to train": lambda keras, x, norm: norm()(nested(keras, keras.layers.Dense(3))(x, training=True)),
}


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_those_that_are_named_are_those_whose_statistics_the_call_changes(keras, name, tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    made = []

    def norm(**fields):
        made.append(keras.layers.BatchNormalization(**fields, name=f"norm_{len(made)}"))
        return made[-1]

    x = keras.Input((6, 6, 3))
    model = keras.Model(x, MODELS[name](keras, x, norm))
    for each in made:
        each.set_weights([np.full(3, value, "f4") for value in (1, 0, 5, 9)])
    for form in ("keras", "h5"):
        model.save(tmp_path / f"m.{form}")
    model(np.random.default_rng(0).uniform(0, 1, (4, 6, 6, 3)).astype("f4"))
    trained = {each.name for each in made if float(np.asarray(each.moving_mean)[0]) != 5}
    told = {"norm_1"} if name == "a batch norm told to train" else set()  # has a warning of its own
    model.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "m.json").write_text(model.to_json())
    np.savez(tmp_path / "m.npz", **{f"{each.name}/{name}": np.asarray(getattr(each, name)) for each in made for name in PARAMETERS})
    tensorflow.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    config = tmp_path / "m.json"
    for form, given in (("m.keras", None), ("m.h5", None), ("m.weights.h5", config), ("m.npz", config), ("checkpoint", config)):
        warnings = exporter.read(tmp_path / form, architecture=given, stored_statistics=True).warnings
        said = [warning.partition(":")[0] for warning in warnings if "Keras 3 runs what comes after" in warning]
        named = {path.rpartition("/")[2] for path in ", ".join(said).split(", ") if path}
        assert named == trained - told, (form, warnings)


NORM = entry("BatchNormalization", "bn", axis=-1, momentum=0.99, epsilon=0.001, center=True, scale=True,
             moving_variance_initializer={})


@pytest.mark.parametrize(("class_name", "registered", "version", "expected"), [
    ("RandomFlip", None, "3.0.5", True), ("RandomFlip", None, None, True), ("RandomFlip", None, "2.15.0", False),
    ("Resizing", None, "3.5.0", False), ("Resizing", None, "3.6.0", True), ("Rescaling", None, "3.15.1", False),
    ("RandomFlip", "lab>RandomFlip", None, False), ("RandomFlip", "lab>RandomFlip", "3.6.0", False), ("Resizing", None, "4.0.0", True)])
def test_classes_and_versions(class_name, registered, version, expected):
    first = {**entry(class_name, "first"), "registered_name": registered}
    found = switched_on(model_tree(sequential("m", first, NORM), ""), era_of(version, None))
    assert (found is not None) == expected
    if found is not None:
        assert (found.layer, found.class_name, list(found.paths)) == ("first", class_name, ["bn"])


def test_a_config_that_names_no_classes_as_its_own_needs_a_version():
    """.h5 of Keras 3 writes no registered_name; without a version the same JSON may be that of Keras 2."""
    first = entry("RandomFlip", "first")
    tree = sequential("m", {key: value for key, value in first.items() if key != "registered_name"}, NORM)
    assert switched_on(model_tree(tree, ""), Era()) is None
    assert switched_on(model_tree(tree, ""), era_of("3.3.3", None)) is not None


@pytest.mark.parametrize(("calls", "expected"), [
    ([{"args": [], "kwargs": {"training": True}}], True), ([{"args": [], "kwargs": {"training": False}}], False),
    ([[["x", 0, 0, {"training": True}]]], False)])
def test_a_call_of_keras_2_changes_nothing_after_it(calls, expected):
    first = {**entry("Dropout", "first"), "inbound_nodes": calls}
    assert (switched_on(model_tree(functional("m", first, NORM), ""), Era()) is not None) == expected


def test_a_layer_that_was_not_found_is_not_named():
    found = Found(Origin(file="m.keras", kind="keras-archive"), ReadOptions())
    tree = model_tree(sequential("m", entry("RandomFlip", "first"), NORM), "")
    assert switched_on(tree, era_of("3.6.0", None)) is not None
    note_training(tree, era_of("3.6.0", None), found)
    assert found.warnings == []


class Weights:
    """As an Orbax checkpoint gives them."""

    def names(self):
        return [f"bn/{name}" for name in PARAMETERS]

    def read(self, name):
        return np.ones(3, "f4"), "float32"

    def quantized(self, owner):
        return None


def test_weights_by_name():
    found = Found(Origin(file="step", kind="orbax"), ReadOptions())
    by_name(model_tree(sequential("m", entry("RandomFlip", "first"), NORM), ""), Weights(), era_of("3.15.0", None), found, own_config=True)
    assert found.paths() == ["bn"]
    assert [warning.partition(":")[0] for warning in found.warnings] == ["bn"]


def test_a_config_without_the_class_of_the_model_may_be_that_of_keras_2():
    """get_config() of tf_keras names no version, but says that RandomFlip is Keras's own."""
    whole = sequential("m", entry("RandomFlip", "first"), NORM)
    assert switched_on(model_tree(whole, ""), Era()) is not None
    assert switched_on(model_tree({key: whole[key] for key in ("class_name", "config")}, ""), Era()) is None

"""Layers that a model calls with training=True: one answer from every container that the installed Keras and tf_keras write."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.errors import UnresolvedError

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]

CALLED = {"down/bn", "late/inner", "two"}


def build(keras):
    """Layers called in training by themselves, by the model around them, by a wrapper and in one of two calls; and layers that are not."""
    layers, norm = keras.layers, keras.layers.BatchNormalization
    x = keras.Input((4, 4, 3))
    down = keras.Model(x, norm(name="bn")(layers.Conv2D(3, 1)(x)), name="down")
    x = keras.Input((4, 4, 3))
    y = norm(name="frozen")(norm(name="plain")(down(x, training=True)), training=False)
    y = layers.TimeDistributed(norm(name="inner"), name="early")(y)
    y = layers.TimeDistributed(norm(name="inner"), name="late")(y, training=True)
    two, off = norm(name="two"), norm(name="off")
    off.trainable = False
    return keras.Model(x, off(two(two(y), training=True), training=True))


def test_one_answer_from_all_containers(keras, tmp_path):
    model, is_keras_3 = build(keras), keras.__name__ == "keras"
    model.save(tmp_path / "m.keras")
    model.save(tmp_path / "m.h5")
    model.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "m.json").write_text(model.to_json())
    ways = {"m.keras": {}, "m.h5": {}, "m.weights.h5": {"architecture": tmp_path / "m.json"}}
    if not is_keras_3:
        model.save(tmp_path / "saved")
        model.save_weights(tmp_path / "ckpt" / "weights")
        ways |= {"saved": {}, "ckpt": {"architecture": tmp_path / "m.json"}}
    for name, options in ways.items():
        bundle = exporter.read(tmp_path / name, stored_statistics=True, **options)
        assert {layer.path for layer in bundle if layer.called_in_training} == CALLED, name
        assert any("training=True" in warning for warning in bundle.warnings)
        if is_keras_3:
            assert exporter.read(tmp_path / name, **options).digest() == bundle.digest()
            continue
        with pytest.raises(UnresolvedError) as caught:
            exporter.read(tmp_path / name, **options)
        assert {path for path, _ in caught.value.layers} == CALLED


def test_what_is_refused_is_what_predict_normalizes_by_the_batch(keras, tmp_path):
    """One output a layer, all fed by the input: the mean over the batch is 0 where its statistics are used."""
    norm = keras.layers.BatchNormalization
    x = keras.Input((3,))
    inner = keras.Model(x, [norm(name="heir")(x), norm(name="firm")(x, training=False)], name="inner")
    x = keras.Input((3,))
    off = norm(name="off")
    off.trainable = False
    outputs = {"inner/heir": None, "inner/firm": None, "called": norm(name="called")(x, training=True), "off": off(x, training=True),
               "plain": norm(name="plain")(x)}
    outputs["inner/heir"], outputs["inner/firm"] = inner(x, training=True)
    model = keras.Model(x, list(outputs.values()))
    means = [np.abs(y.mean(0)).max() for y in model.predict(np.random.default_rng(0).normal(3, 1, (32, 3)).astype("float32"), verbose=0)]
    model.save(tmp_path / "m.h5")
    refused = {layer.path for layer in exporter.read(tmp_path / "m.h5", stored_statistics=True) if layer.called_in_training}
    if keras.__name__ == "keras":  # predict() overrides every call
        assert min(means) > 2
        assert refused == {"inner/heir", "inner/firm", "called"}
    else:
        assert {path for path, mean in zip(outputs, means, strict=True) if mean < 0.01} == refused == {"inner/heir", "called"}

"""A layer that several models hold: one layer, with all of its calls, from every container that says or shows that it is one."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from tests.make.live import ROLES, fill

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]


def build(keras):
    """The outer model calls "bn" first, then a model in it; that one holds another which calls "deep" after it."""
    layers, norm = keras.layers, keras.layers.BatchNormalization
    bn, deep = norm(name="bn"), norm(name="deep")
    x = keras.Input((3,))
    lowest = keras.Model(x, layers.ReLU(name="relu")(deep(x)), name="lowest")
    x = keras.Input((3,))
    inner = keras.Model(x, lowest(bn(deep(x))), name="inner")
    x = keras.Input((3,))
    model = keras.Model(x, inner(layers.Dense(3, name="fc")(bn(x))))
    fill([bn, deep])
    return model


def save(keras, model, folder):
    """{name: options} of all files."""
    (folder / "m.json").write_text(model.to_json())
    beside = {"architecture": folder / "m.json"}
    model.save_weights(folder / "m.weights.h5")
    model.save(folder / "m.h5")
    import tensorflow

    tensorflow.train.Checkpoint(model=model).write(str(folder / "ckpt"))
    ways = {"m.weights.h5": beside, "ckpt.index": beside, "m.h5": {}}
    if keras.__name__ != "keras":
        model.save(folder / "saved")
        ways["saved"] = {}
    return ways


def places(layer):
    return {(*(each.path for each in call.inputs), "to", *(each.path for each in call.outputs)) for call in layer.calls}


def test_one_layer_with_all_its_calls(keras, tmp_path):
    model = build(keras)
    first, deep = model.layers[0].name, model.get_layer("inner").get_layer("deep")
    for name, options in save(keras, model, tmp_path).items():
        bundle = exporter.read(tmp_path / name, **options)
        layers = dict(bundle.items())
        if name in ("m.h5", "saved") and keras.__name__ == "tf_keras":
            # its config has the calls of one model for both, which contradicts itself
            assert [places(layer) for layer in bundle] == [set(), set()], name
            assert layers.keys() == {"bn", "inner/deep"}
            continue
        if (name, keras.__name__) == ("m.h5", "keras"):  # it has weights for each layer of the outermost model, and its config no more
            copy = layers.pop("inner/bn")
            assert (places(layers["bn"]), places(copy)) == ({(first, "to", "fc")}, {("inner/deep", "to", "inner/lowest/deep")})
        else:
            assert places(layers["bn"]) == {(first, "to", "fc"), ("inner/deep", "to", "inner/lowest/deep")}, name
        assert layers.keys() == {"bn", "inner/deep"}, name
        assert places(layers["inner/deep"]) == {("fc", "to", "inner/bn"), ("inner/bn", "to", "inner/lowest/relu")}, name
        for role in ROLES:
            assert getattr(layers["inner/deep"], role).tobytes() == np.asarray(getattr(deep, role)).tobytes(), name

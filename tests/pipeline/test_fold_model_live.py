"""Whole models of a live Keras, folded: every kernel is the layer's own, and the network without the batch norms gives the same."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from tests.make.folding import KINDS, arrays_of, layers_of, randomize, without_norms, zoo

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]


def files_of(keras, model, tmp_path):
    """(path, options of reading) of everything that this Keras writes of a model."""
    architecture = tmp_path / "a.json"
    architecture.write_text(model.to_json())
    whole, alone = [tmp_path / "m.keras", tmp_path / "m.h5"], [tmp_path / "m.weights.h5"]
    if keras.__name__ == "tf_keras":
        whole.append(tmp_path / "saved_model")
        alone += [tmp_path / "old.h5", tmp_path / "checkpoint" / "c"]
    for path in whole:
        model.save(path)
    for path in alone:
        model.save_weights(path)
    return [(path, {}) for path in whole] + [(path, {"architecture": architecture}) for path in alone]


def check(keras, model, path, **options):
    """Folds a file and compares kernels bit for bit; returns what was folded."""
    live = dict(layers_of(model))
    folded = exporter.fold_model(path, **options)
    for each in folded.folded:
        assert each.source.kernel.tobytes() == arrays_of(live[each.path], each.kernel_name).tobytes(), f"{path}: {each.path}"
        assert each.norm.moving_mean.tobytes() == np.asarray(live[each.norm.path].moving_mean).tobytes()
    return folded


def outputs(model, x):
    found = model.predict(x, verbose=0)
    return [np.asarray(each, np.float64) for each in (found if isinstance(found, list) else [found])]


def check_outputs(keras, model, folded, x):
    """The whole network with the folded arrays against the whole network as it was."""
    for got, want in zip(outputs(without_norms(keras, model, folded), x), outputs(model, x), strict=True):
        assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()
        assert np.abs(want).max() > 0


OFTEN = ("Conv2D",)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.thorough("much time")] * (kind not in OFTEN)) for kind in KINDS])
def test_every_kind_in_every_file(keras, kind, tmp_path):
    if not hasattr(keras.layers, kind):
        pytest.skip(f"this Keras has no {kind}")
    model = zoo(keras, kind)
    for path, options in files_of(keras, model, tmp_path):
        folded = check(keras, model, path, **options)
        assert {each.path for each in folded.folded} == {"first", "inner/second"}, path
        assert not folded.kept
    check_outputs(keras, model, folded, np.random.default_rng(0).normal(size=(2, *KINDS[kind][0])).astype("float32"))


@pytest.mark.thorough("much time")
def test_a_network_with_all_that_stays(keras, tmp_path):
    """Sums, activations, groups, TimeDistributed, a layer used twice, a frozen one: folded where that is right, and nowhere else."""
    layers = keras.layers

    def conv(name, **fields):
        return layers.Conv2D(4, 3, padding="same", **{"use_bias": False, "name": name, **fields})

    def norm(name, **fields):
        return layers.BatchNormalization(name=name, **fields)

    x = layers.Input((3, 6, 6, 4))
    y = layers.TimeDistributed(norm("td_norm"), name="td2")(layers.TimeDistributed(conv("td_conv", groups=2), name="td1")(x))
    y = layers.Reshape((18, 6, 4))(y)
    frozen = conv("frozen", trainable=False)(y)
    a = norm("frozen_norm", trainable=False)(frozen)
    b = norm("active_norm")(conv("active", activation="relu")(y))
    twice = conv("twice")
    c = norm("twice_norm")(twice(a))
    d = norm("other_norm")(twice(b))
    y = norm("sum_norm")(layers.Add(name="sum")([c, d]))
    both = conv("both")(y)
    y = layers.Add()([norm("both_norm")(both), layers.ReLU()(both)])
    y = norm("pad_norm")(layers.ZeroPadding2D(name="pad")(conv("padded")(y)))
    y = norm("drop_norm")(layers.Activation("linear")(layers.SpatialDropout2D(0.9)(conv("before_drop")(y), training=False)))
    y = norm("train_norm")(layers.Dropout(0.0, name="drop")(conv("before_training")(y), training=True))
    y = layers.Dense(5, name="dense")(layers.GlobalAveragePooling2D()(y))
    y = layers.ActivityRegularization(0.1)(layers.GaussianNoise(0.9)(layers.AlphaDropout(0.9)(layers.GaussianDropout(0.9)(y))))
    y = norm("last_norm", center=False)(y)
    model = randomize(keras.Model(x, y), seed=1)
    said = {"td1/td_conv": None, "frozen": None, "before_drop": None, "dense": None}
    for path, options in files_of(keras, model, tmp_path):
        folded = check(keras, model, path, **options)
        assert {each.path for each in folded.folded} == set(said), path
        reasons = {norm.path: reason for norm, reason in folded.kept}
        assert "applies an activation (relu)" in reasons["active_norm"]
        assert "it is fed by sum of class Add" in reasons["sum_norm"]
        assert "it is fed by pad of class ZeroPadding2D" in reasons["pad_norm"]
        assert all("is used elsewhere, too" in reasons[name] for name in ("twice_norm", "other_norm", "both_norm"))
        assert "drop, which feeds it, is called with training=True" in reasons["train_norm"]
    check_outputs(keras, model, folded, np.random.default_rng(0).normal(size=(2, 3, 6, 6, 4)).astype("float32"))

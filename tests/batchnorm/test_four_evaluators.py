"""Four ways to compute one layer agree to float32 rounding: the live Keras layer, NumPy, tf.nn.batch_normalization, keras.ops."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors

pytestmark = pytest.mark.live


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_they_agree(suffix, flags, tmp_path):
    keras = pytest.importorskip("keras", reason="Keras is not installed")  # not above: each worker would import it to collect the tests
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    center, scale = flags
    random = np.random.default_rng(5)
    layer = keras.layers.BatchNormalization(center=center, scale=scale, epsilon=1e-3, name="bn")
    model = keras.Sequential([keras.Input((4, 6)), layer])
    for variable in layer.weights:
        kind = variable.path.rsplit("/", 1)[-1]
        variable.assign(10.0 ** random.uniform(-6, 1, variable.shape) if kind == "moving_variance" else random.normal(size=variable.shape))
    model.save(tmp_path / f"model{suffix}")
    ours = exporter.read(tmp_path / f"model{suffix}")["bn"]
    assert ours.moving_variance.tobytes() == np.asarray(layer.moving_variance).tobytes()

    x = random.normal(0, 2, (8, 4, 6)).astype(np.float32)
    gamma, beta = (np.asarray(v) if v is not None else None for v in (layer.gamma, layer.beta))
    mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
    answers = {
        "the live layer": layer(x, training=False),
        "NumPy": (x - mean) / np.sqrt(variance + np.float32(1e-3)) * (1 if gamma is None else gamma) + (0 if beta is None else beta),
        "tf.nn.batch_normalization": tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3),
        "keras.ops.batch_normalization": keras.ops.batch_normalization(x, mean, variance, -1, beta, gamma, 1e-3),
        "exporter, fast": exporter.evaluate(ours, x, fast=True),
    }
    want = exporter.evaluate(ours, x.astype(np.float64)).reshape(-1, 6)
    bound = vectors.bound(ours, x.reshape(-1, 6))
    for name, answer in answers.items():
        error = np.abs(np.asarray(answer, np.float64).reshape(-1, 6) - want)
        assert (error <= bound).all(), f"{name}: {np.max(error / bound):.3g} times the bound"

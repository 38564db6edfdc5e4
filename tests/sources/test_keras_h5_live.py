"""Legacy HDF5 files that the installed Keras 3 and tf_keras write: bits, paths, epsilons and outputs of every layer."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors
from exporter.batchnorm.layer import PARAMETERS

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]


def chain(keras, shape, *layers, name=None):
    return keras.Sequential([keras.Input(shape), *layers], name=name)


def flags_and_axes(keras, norm):
    x = keras.Input((3, 4, 5))
    ways = [(axis, center, scale) for axis in (1, 2, 3, -1, -2) for center in (True, False) for scale in (True, False)]
    return keras.Model(x, [norm(axis=axis, center=center, scale=scale, epsilon=0.1 / (place + 1), name=f"bn_{place}")(x)
                           for place, (axis, center, scale) in enumerate(ways)])


def ranks(keras, norm):
    layers, x = keras.layers, keras.Input((8, 8, 3))
    y = norm()(layers.ReLU()(layers.Conv2D(4, 3)(x)))
    y = norm(epsilon=1e-7)(layers.DepthwiseConv2D(3)(y))
    z = norm()(layers.Reshape((4, 4, 2, 2))(y))
    y = norm()(layers.LSTM(3, return_sequences=True)(layers.Reshape((16, 4))(y)))
    return keras.Model(x, [z, norm()(layers.GlobalAveragePooling1D()(y))])


def nested(keras, norm):
    dense = keras.layers.Dense
    deep = chain(keras, (4,), norm(name="bn"), dense(4), norm(name="frozen", trainable=False), name="deep")
    x = keras.Input((4,))
    middle = keras.Model(x, norm(name="late")(deep(norm(name="early", scale=False)(dense(4)(x)))), name="middle")
    return chain(keras, (4,), dense(4), norm(name="first"), middle, norm(name="last", center=False))


def frozen_model(keras, norm):
    inner = chain(keras, (4,), norm(name="a"), keras.layers.Dense(4), norm(name="b"), name="inner")
    inner.trainable = False
    return chain(keras, (4,), inner, norm(name="c"))


def twins(keras, norm):
    sub = [chain(keras, (4,), keras.layers.Dense(4, name="fc"), norm(name="norm"), name=name) for name in ("left", "right")]
    x = keras.Input((4,))
    return keras.Model(x, sub[1](sub[0](x)))


def shared(keras, norm):
    one, two = norm(name="one"), chain(keras, (4,), keras.layers.Dense(4), norm(name="in"), name="two")
    x, y = keras.Input((4,)), keras.Input((4,))
    return keras.Model([x, y], keras.layers.Concatenate()([two(one(x)), two(one(y))]))


def wrappers(keras, norm):
    layers = keras.layers
    x = keras.Input((6, 4))
    sub = chain(keras, (4,), layers.Dense(3), norm(name="b1"), layers.Dense(5), norm(name="b2"), name="sub")
    y = layers.TimeDistributed(sub, name="td")(x)
    y = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(y)
    y = layers.TimeDistributed(norm(name="inner"), name="td2")(layers.TimeDistributed(norm(name="inner"), name="td3")(y))
    return keras.Model(x, norm(name="after")(layers.MultiHeadAttention(2, 3)(y, y)))


def odd_names(keras, norm):
    names = ["gamma", "beta_bn", "moving_mean", "vars", "layers", "bn_1", "bn", "model_weights"]
    if keras.__name__ == "tf_keras":
        names += ["block/bn", "block/bn/inner"]
    return chain(keras, (4,), *(norm(name=name) for name in names))


def many(keras, norm):
    return chain(keras, (2,), *(norm(scale=place % 3 > 0, center=place % 2 > 0) for place in range(40)))


def trained(keras, norm):
    model = chain(keras, (4,), keras.layers.Dense(3), norm(name="bn"), keras.layers.LayerNormalization(name="batch_normalization"))
    model.compile("adam", "mse")
    random = np.random.default_rng(3)
    model.fit(random.normal(size=(16, 4)), random.normal(size=(16, 3)), verbose=0)
    return model


def dtypes(keras, norm):
    names = ("float64", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
    return chain(keras, (4,), *(norm(name=name, dtype=name) for name in names))


MODELS = (flags_and_axes, ranks, nested, frozen_model, twins, shared, wrappers, odd_names, many, trained, dtypes)


def live_norms(keras, model, path=""):
    """(path, layer) of the live model, in its own order, a shared one once."""
    found = {}
    for layer in model.layers:
        inner = f"{path}/{layer.name}" if path else layer.name
        wrapped = getattr(layer, "layer", None)
        if isinstance(layer, keras.layers.BatchNormalization):
            found[inner] = layer
        elif isinstance(wrapped, keras.layers.BatchNormalization):
            found[f"{inner}/{wrapped.name}"] = wrapped
        elif isinstance(wrapped, keras.Model):
            found.update(live_norms(keras, wrapped, f"{inner}/{wrapped.name}"))
        elif isinstance(layer, keras.Model):
            found.update(live_norms(keras, layer, inner))
    return found


def fill(layers):
    random = np.random.default_rng(11)
    for layer in layers:
        for role in PARAMETERS:
            variable = getattr(layer, role)
            if variable is not None:
                values = 10.0 ** random.uniform(-6, 1, variable.shape) if role == "moving_variance" else random.normal(size=variable.shape)
                variable.assign(values.astype(str(variable.numpy().dtype)))


OFTEN = (flags_and_axes, nested, shared, wrappers, dtypes)


@pytest.mark.parametrize("build", [pytest.param(build, id=build.__name__, marks=[pytest.mark.thorough("much time")] * (build not in OFTEN))
                                   for build in MODELS])
def test_what_keras_saves(keras, build, tmp_path):
    keras.backend.clear_session()
    model = build(keras, keras.layers.BatchNormalization)
    live = live_norms(keras, model)
    if build is not trained:
        fill(live.values())
    model.save(tmp_path / "model.h5")
    bundle = exporter.read(tmp_path / "model.h5")
    assert bundle.paths() == list(live)
    for ours in bundle:
        check_layer(ours, live[ours.path])
    if keras.__name__ == "tf_keras":
        model.save_weights(tmp_path / "weights.h5")
        (tmp_path / "model.json").write_text(model.to_json())
        again = exporter.read(tmp_path / "weights.h5", architecture=tmp_path / "model.json")
        assert again.digest() == bundle.digest()


def check_layer(ours, layer):
    for role in PARAMETERS:
        want, got = getattr(layer, role), getattr(ours, role)
        assert (want is None) == (got is None), f"{ours.path}: {role}"
        if want is not None:
            want = want.numpy()
            assert ours.dtype == str(want.dtype)
            assert got.tobytes() == (want.astype(np.float32) if ours.dtype == "bfloat16" else want).tobytes(), f"{ours.path}: {role}"
    assert ours.epsilon == layer.epsilon
    assert not ours.assumed
    if ours.ndim is None or "float16" in str(getattr(layer, "dtype_policy", getattr(layer, "_dtype_policy", ""))):
        return  # mixed precision gives half precision
    shape = [4] * ours.ndim
    shape[ours.axis[0]] = ours.shape[0]
    x = np.random.default_rng(2).normal(size=shape).astype(ours.dtype)
    flat = np.moveaxis(x, ours.axis[0], -1).reshape(-1, ours.shape[0])
    got = np.moveaxis(np.asarray(layer(x, training=False), np.float64), ours.axis[0], -1).reshape(flat.shape)
    want = np.moveaxis(exporter.evaluate(ours, x.astype(np.float64)), ours.axis[0], -1).reshape(flat.shape)
    assert (np.abs(got - want) <= vectors.bound(ours, flat)).all(), ours.path


def test_a_subclassed_model_says_its_names_and_not_its_epsilons(tmp_path):
    """Keras 3 saves it whole as .h5; its config holds what the user's get_config() gives and no layers."""
    keras = pytest.importorskip("keras", reason="keras is not installed")

    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.norms = [keras.layers.BatchNormalization(name="first", epsilon=0.25),
                          keras.layers.BatchNormalization(name="second", scale=False)]

        def call(self, x):
            return self.norms[1](self.norms[0](x))

        def get_config(self):
            return {"name": self.name}

    net = Net()
    net(np.zeros((1, 3), np.float32))
    fill(net.norms)
    net.save(tmp_path / "model.h5")
    with pytest.raises(exporter.UnresolvedError, match=r"first, second: .*the file does not contain its epsilon"):
        exporter.read(tmp_path / "model.h5")
    bundle = exporter.read(tmp_path / "model.h5", epsilon={"first": 0.25, "second": 0.001})
    assert bundle.paths() == ["first", "second"]
    for ours, layer in zip(bundle, net.norms):
        assert ours.moving_variance.tobytes() == np.asarray(layer.moving_variance).tobytes()
        assert (ours.gamma is None) == (layer.gamma is None)

"""What the installed Keras 3 and tf_keras save as .keras, folder, .weights.h5 and shards: bits, paths, epsilons, outputs."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors
from exporter.batchnorm.layer import PARAMETERS
from exporter.files.place import Place
from exporter.sources import keras_archive, keras_weights
from exporter.sources.shared.options import ReadOptions
from tests.make.layers import same_layer
from tests.make.v3_models import Builder, classes

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def own(keras):
    return classes(keras)


def live_norms(keras, model, path=""):
    """[(path, layer)] in the model's order, a shared layer once."""
    found, seen = [], []
    for layer in model._flatten_layers(recursive=False, include_self=False):
        if layer is model or any(layer is other for other in seen):
            continue
        seen.append(layer)
        inner = f"{path}/{layer.name}" if path else layer.name
        if isinstance(layer, keras.layers.BatchNormalization):
            found.append((inner, layer))
        else:
            found += live_norms(keras, layer, inner)
    unique = []
    for inner, layer in found:
        if not any(layer is other for _, other in unique):
            unique.append((inner, layer))
    return unique


def numpy(variable):
    if variable is None:
        return None
    values = np.asarray(variable.numpy())
    return values.astype(np.float32) if values.dtype.name == "bfloat16" else values


def fill(norms, seed=0):
    random = np.random.default_rng(seed)
    for _, layer in norms:
        for role in PARAMETERS:
            variable = getattr(layer, role)
            if variable is not None:
                values = 10.0 ** random.uniform(-4, 1, variable.shape) if role == "moving_variance" else random.normal(size=variable.shape)
                variable.assign(values.astype("float32"))


def pair(bundle, norms):
    """[(ours, live path, live layer)], by the means, which are random."""
    left = list(norms)
    pairs = []
    for ours in bundle:
        found = [item for item in left if np.array_equal(numpy(item[1].moving_mean), ours.moving_mean)]
        assert found, f"{ours.path} is no batch norm of the model"
        left.remove(found[0])
        pairs.append((ours, *found[0]))
    return pairs, left


def check_layer(ours, layer):
    for role in PARAMETERS:
        want, got = numpy(getattr(layer, role)), getattr(ours, role)
        assert (want is None) == (got is None), f"{ours.path}: {role}"
        if want is not None:
            assert got.dtype == want.dtype
            assert got.tobytes() == want.tobytes(), f"{ours.path}: {role}"
    assert ours.epsilon in (layer.epsilon, None)
    if ours.ndim != 2 or ours.epsilon is None or ours.dtype != "float32" or layer.compute_dtype != "float32":
        return
    x = np.random.default_rng(2).normal(size=(5, *ours.shape)).astype(np.float32)
    difference = np.abs(np.asarray(layer(x, training=False), np.float64) - exporter.evaluate(ours, x.astype(np.float64)))
    assert (difference <= vectors.bound(ours, x)).all(), ours.path


def check(bundle, norms, *, named):
    """All layers are there with their bits; what is skipped is so for a reason that the file gives."""
    pairs, left = pair(bundle, norms)
    for ours, path, layer in pairs:
        check_layer(ours, layer)
        if named:
            assert ours.path == path
    lost = [path for path, layer in left if layer.center and layer.scale]
    assert not lost
    return pairs, left


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough("much time")) for seed in range(1, 12))])
def test_random_models(keras, own, seed, tmp_path):
    keras.backend.clear_session()
    three = keras.__name__ == "keras"
    model = None
    for attempt in range(20):  # names may clash, which Keras refuses
        try:
            model = Builder(keras, own, 100 * seed + attempt, ("float64", "float16", "bfloat16", "mixed_bfloat16") if three else ()).model()
            break
        except ValueError:
            continue
    norms = live_norms(keras, model)
    fill(norms, seed)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "arch.json").write_text(model.to_json())
    bundle = keras_archive.read(Place(tmp_path / "m.keras"), ReadOptions())
    _, left = check(bundle, norms, named=three)
    assert len(left) == len(bundle.skipped)
    beside = ReadOptions(architecture=Place(tmp_path / "arch.json"))
    again = keras_weights.read(Place(tmp_path / "m.weights.h5"), beside)
    assert len(again) == len(bundle)
    for one, other in zip(again, bundle, strict=True):  # to_json() does not say which entries are one layer, a .keras config does
        assert same_layer(one.replace(calls=other.calls), other)
    alone = keras_weights.read(Place(tmp_path / "m.weights.h5"), ReadOptions())
    alone.layers = again.layers
    check(alone, norms, named=three)
    if three:
        model.save(tmp_path / "folder", zipped=False)
        assert all(map(same_layer, keras_archive.read(Place(tmp_path / "folder"), ReadOptions()), bundle))
        model.save_weights(tmp_path / "s.weights.json", max_shard_size=5e-7)
        assert all(map(same_layer, keras_weights.read(Place(tmp_path / "s.weights.json"), beside), again))


def test_subclassed(keras, own, tmp_path):
    keras.backend.clear_session()
    model = own.Net(3)
    model(np.ones((2, 3), "float32"))
    norms = live_norms(keras, model)
    assert len(norms) == 6
    fill(norms)
    model.save(tmp_path / "m.keras")
    bundle = keras_archive.read(Place(tmp_path / "m.keras"), ReadOptions())
    check(bundle, norms, named=keras.__name__ == "keras")
    assert len(bundle) == 6
    assert all(layer.epsilon is None for layer in bundle)


def test_axes_and_flags(keras, tmp_path):
    keras.backend.clear_session()
    flags = [(center, scale) for center in (True, False) for scale in (True, False)]
    ways = [(axis, *both) for axis in (1, 2, 3, -1) for both in flags]
    x = keras.Input((3, 4, 5))
    model = keras.Model(x, [keras.layers.BatchNormalization(axis=axis, center=center, scale=scale, name=f"bn_{place}")(x)
                            for place, (axis, center, scale) in enumerate(ways)])
    norms = live_norms(keras, model)
    fill(norms)
    model.save(tmp_path / "m.keras")
    bundle = exporter.read(tmp_path / "m.keras")
    assert bundle.paths() == [path for path, _ in norms]
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)
    for ours, (_, layer), (axis, _, _) in zip(bundle, norms, ways, strict=True):
        check_layer(ours, layer)
        assert ours.axis[0] % 4 == axis % 4
        got = np.moveaxis(np.asarray(layer(x, training=False), np.float64), axis, -1).reshape(-1, *ours.shape)
        want = np.moveaxis(exporter.evaluate(ours, x.astype(np.float64)), axis, -1).reshape(-1, *ours.shape)
        assert (np.abs(got - want) <= vectors.bound(ours, np.moveaxis(x, axis, -1).reshape(got.shape))).all()


@pytest.mark.thorough("much time")
def test_trained_with_optimizer_and_metrics(keras, tmp_path):
    keras.backend.clear_session()
    layers = keras.layers
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(name="bn"), layers.LayerNormalization(),
                              layers.Dense(1, activation="sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=[keras.metrics.AUC()])
    random = np.random.default_rng(0)
    model.fit(random.normal(size=(32, 3)), random.integers(0, 2, (32, 1)), verbose=0)
    model.save(tmp_path / "m.keras")
    bundle = exporter.read(tmp_path / "m.keras")
    assert bundle.paths() == ["bn"]
    assert not bundle.warnings
    check_layer(bundle["bn"], model.get_layer("bn"))
    model.save_weights(tmp_path / "m.weights.h5")
    assert len(exporter.read(tmp_path / "m.weights.h5", epsilon=0.001)) == 1

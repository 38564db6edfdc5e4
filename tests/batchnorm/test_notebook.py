"""A bundle and its layers as somebody meets them in a notebook: how they look, compare, are looked up, copied and made by hand."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import exporter
from exporter.batchnorm.bundle import Bundle, Origin
from exporter.batchnorm.layer import PARAMETERS, BatchNorm
from tests.make.layers import ROOT, make_bundle, make_layer, mixed, same_layer
from tests.make.questions import BATCH_QUESTION, EPSILON_QUESTION

KERAS = ROOT / "sample_models" / "encoder_keras3" / "model.keras"


def test_a_bundle_is_one_line():
    layers = [make_layer(f"bn{number}", shape=(512,)) for number in range(53)]
    bundle = make_bundle(*layers, origin=Origin(file="resnet.h5", kind="keras-h5"))
    assert repr(bundle) == str(bundle) == f"{bundle}" == "<Bundle resnet.h5: 53 layers, 27136 channels>"
    one = make_bundle(make_layer(shape=(1,)), skipped=(("a", "why"),), origin=Origin(file="a\x1b[2J\n.h5", kind="k"))
    assert repr(one) == r"<Bundle a\x1b[2J\n.h5: 1 layer, 1 channel, 1 skipped>"
    assert repr(make_layer("a/b", shape=(2, 3), axis=(1, 3))) == "<BatchNorm a/b: 6 channels, axis 1,3, epsilon 0.001, float32>"
    assert "\x1b" not in repr(make_layer("\x1b[2J" * 1000))
    assert len(repr(make_layer("x" * 10_000))) < 200


def test_a_bundle_read_back_looks_the_same(tmp_path):
    exporter.write(make_bundle(), tmp_path / "b.json")
    assert repr(exporter.load(tmp_path / "b.json")) == repr(make_bundle()) == "<Bundle model.h5: 1 layer, 4 channels>"


def test_a_notebook_shows_the_table():
    page = exporter.read(KERAS)._repr_html_()
    assert page.startswith("<p>model.keras (keras-archive, Keras ")
    assert "<td>block_a/bn</td>" in page
    assert exporter.read(KERAS)._ipython_key_completions_() == exporter.read(KERAS).paths()


def test_it_is_a_mapping_from_paths_to_layers():
    bundle = mixed()
    assert bundle.keys() == bundle.paths()
    assert list(bundle.values()) == list(bundle)
    assert bundle.items() == list(zip(bundle.paths(), bundle))
    assert dict(bundle) == dict(bundle.items())
    assert bundle.get("a/b") is bundle["a/b"] is bundle.layers[0]
    assert bundle.get("nothing") is None
    assert bundle.get("nothing", 3) == 3
    assert "a/b" in bundle
    assert ["a/b"] not in bundle
    with pytest.raises(KeyError, match="no layer 'nothing'; the bundle has a/b"):
        bundle["nothing"]


def test_equality_is_by_content(tmp_path):
    bundle = mixed()
    exporter.write(bundle, tmp_path / "b.json")
    for other in (mixed(), exporter.load(tmp_path / "b.json"), bundle.replace(warnings=("more",))):
        assert bundle == other
        assert hash(bundle) == hash(other)
    for other in (bundle.replace(layers=bundle.layers[::-1]), bundle.replace(skipped=()), bundle.replace(origin=Origin(file="a", kind="b")),
                  bundle.layers, None):
        assert bundle != other
    layer = make_layer()
    assert layer == make_layer()
    assert hash(layer) == hash(make_layer())
    assert len({layer, make_layer(), make_layer(seed=1)}) == 2
    changed = layer.gamma.copy()
    changed[1] = np.nextafter(changed[1], np.float32(9))
    negative = make_layer(beta=False).replace(beta=np.float32([-0.0] * 4))
    for other in (layer.replace(gamma=changed), layer.replace(epsilon=0.002), layer.replace(gamma=None), layer.replace(axis=(1,)),
                  layer.replace(assumed=("axis",)), "layer"):
        assert layer != other
    assert negative != negative.replace(beta=np.float32([0.0] * 4)), "bit for bit"


COPIES = {"pickle": lambda it: pickle.loads(pickle.dumps(it)), "pickle 2": lambda it: pickle.loads(pickle.dumps(it, 2)),
          "copy": copy.copy, "deepcopy": copy.deepcopy, "replace": lambda it: it.replace()}


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
def test_arrays_stay_read_only_through_every_copy(how, tmp_path):
    exporter.write(mixed(), tmp_path / "b.json")
    back = exporter.load(tmp_path / "b.json")
    for bundle in (mixed(), exporter.read(KERAS), back, how(how(mixed()))):
        again = how(bundle)
        assert again == bundle
        assert type(again) is type(bundle)
        for layer, twin in zip(bundle, again, strict=True):
            assert same_layer(layer, twin)
            for array in [*layer.parameters().values(), *twin.parameters().values(), *how(layer).parameters().values()]:
                assert not array.flags.writeable
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = -5
                with pytest.raises(ValueError, match="WRITEABLE"):
                    array.flags.writeable = True
    for rows in [array for pair in how(back).vectors.values() for array in pair]:
        assert not rows.flags.writeable
    assert how(back).vectors.keys() == back.vectors.keys()


@pytest.mark.parametrize("how", [COPIES["pickle"], copy.copy, copy.deepcopy, COPIES["replace"]])
def test_a_copy_passes_the_gate_again(how):
    layer, bundle = make_layer(), make_bundle()
    object.__setattr__(layer, "epsilon", -1.0)
    object.__setattr__(bundle, "layers", (make_layer(), make_layer()))
    for tampered, message in ((layer, "epsilon"), (bundle, "occurs twice")):
        with pytest.raises(exporter.LayerError, match=message):
            how(tampered)


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[:], lambda a: a[::-1], np.broadcast_to, memoryview],
                         ids=["itself", "slice", "backward", "broadcast", "memoryview"])
def test_the_arrays_of_the_caller_stay_theirs(view):
    mine = np.ones(4, np.float32)
    given = view(mine, (4,)) if view is np.broadcast_to else np.asarray(view(mine))
    layers = [make_layer().replace(gamma=given), make_layer().replace(beta=given),
              BatchNorm(gamma=given, moving_mean=given, moving_variance=given, epsilon=1e-3)]
    mine[:] = 7
    assert mine.flags.writeable
    for array in [layers[0].gamma, layers[1].beta, *layers[2].parameters().values()]:
        assert array.tolist() == [1, 1, 1, 1]
        assert not array.flags.writeable


@pytest.mark.parametrize("question", [EPSILON_QUESTION, BATCH_QUESTION])
@pytest.mark.parametrize("form", [list, tuple, np.array, lambda values: values[0], lambda values: np.float32(values[0])],
                         ids=["list", "tuple", "array", "number", "NumPy number"])
def test_five_numbers_make_a_layer(question, form):
    given = {name: form(values.tolist()) for name, values in question.parameters().items()}
    if form is np.array:
        given = {name: values.astype(np.float32) for name, values in given.items()}
    layer = BatchNorm(**given, epsilon=question.epsilon)
    assert (layer.path, layer.name, layer.class_name) == ("batch_normalization", "batch_normalization", "BatchNormalization")
    assert (layer.dtype, layer.shape, layer.axis, layer.ndim) == ("float32", (1,), (-1,), None)
    for name in PARAMETERS:
        assert (getattr(layer, name) is None) == (getattr(question, name) is None)
        if getattr(layer, name) is not None:
            assert getattr(layer, name).tobytes() == getattr(question, name).tobytes()
    assert layer([[0.5]]).tolist() == question([[0.5]]).tolist()
    assert Bundle(layers=[layer], origin=Origin(file="paper", kind="numbers")).paths() == ["batch_normalization"]


def test_numbers_of_a_layer_take_the_type_that_is_meant():
    plain = {"moving_mean": [1, 2], "moving_variance": [3, 4], "epsilon": 1}
    layer = BatchNorm(**plain, gamma=[0.1, 0.2], path="a/b", axis=1)
    assert (layer.name, layer.axis, layer.dtype, layer.epsilon, type(layer.epsilon)) == ("b", (1,), "float32", 1.0, float)
    assert BatchNorm(**plain, dtype="float64", gamma=[0.1, 0.2]).gamma.tolist() == [0.1, 0.2]
    assert BatchNorm(**plain, dtype="bfloat16", gamma=[0.1, 0.2]).gamma.tolist() == [0.10009765625, 0.2001953125]
    doubles = BatchNorm(moving_mean=np.array([0.1, 0.2]), moving_variance=[1, 1], epsilon=1e-3)
    assert (doubles.dtype, doubles.moving_variance.dtype) == ("float64", np.float64)
    swapped = BatchNorm(moving_mean=np.array([1, 2], ">f4"), moving_variance=np.array([1, 2]), epsilon=np.float64(1e-3))
    assert (swapped.dtype, swapped.moving_mean.tolist(), swapped.moving_variance.tolist()) == ("float32", [1, 2], [1, 2])
    square = BatchNorm(moving_mean=[[1, 2], [3, 4]], moving_variance=np.ones((2, 2)), epsilon=0, axis=[1, 3])
    assert (square.shape, square.axis) == ((2, 2), (1, 3))


@pytest.mark.parametrize(("fields", "message"), [
    ({"moving_variance": [1, 2, 3]}, r"expected moving_variance of shape \[2\], got \[3\]"),
    ({"moving_variance": [-1, 1]}, "nothing can be divided"), ({"gamma": ["1", "2"]}, "gamma: expected numbers, got <U1"),
    ({"gamma": [1, float("nan")]}, "NaN"), ({"gamma": [1j, 2]}, "expected numbers"), ({"epsilon": "0.001"}, "epsilon"),
    ({"dtype": "int8"}, "int8"), ({"gamma": np.ones(2, np.float32), "beta": np.ones(2)}, "expected beta of type float32, got float64"),
    ({"axis": 0}, "axis 0")])
def test_numbers_that_make_no_layer_are_refused(fields, message):
    with pytest.raises(exporter.LayerError, match=message):
        BatchNorm(**{"moving_mean": [1, 2], "moving_variance": [3, 4], "epsilon": 1e-3, **fields})
    with pytest.raises(TypeError, match="epsilon"):
        BatchNorm(moving_mean=[1], moving_variance=[1])

"""Folding a batch norm into the layer that feeds it: against exact arithmetic, against Keras, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

import exporter
from exporter.batchnorm import fold as folding
from exporter.batchnorm.places import Call, Neighbor
from tests.make.folding import KINDS
from tests.make.layers import ROOT, make_layer, script

VECTORS = ROOT / "vectors" / "folding-1.json"
CASES = json.loads(VECTORS.read_text())["cases"]


def layer_of(case):
    values = {name: np.float32(case[name]) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    return make_layer(shape=(len(case["gamma"]),), epsilon=case["epsilon"]).replace(**values)


def kernel_of(case):
    return np.float32(case["kernel"]).reshape(case["kernel_shape"])


def test_the_vectors_are_what_their_script_makes():
    assert {case["kind"] for case in CASES} == set(folding.KINDS)
    made = script("vectors/make_folding_1.py").case("Conv2D", False, CASES.index(next(case for case in CASES if case["kind"] == "Conv2D")))
    assert made in CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}-{'bias' if case['bias'] else 'no-bias'}")
def test_folded_numbers_are_the_exact_ones_rounded_once(case):
    found = exporter.fold(layer_of(case), kernel_of(case), case["bias"], case["kind"])
    for got, want in ((found.kernel.ravel(), np.float32(case["folded_kernel"])), (found.bias, np.float32(case["folded_bias"]))):
        assert got.dtype == np.float32
        assert (np.abs(got.view(np.int32) - want.view(np.int32)) <= 1).all(), "double rounding through float64 may cost one unit"
        assert (got == want).mean() > 0.9


@pytest.mark.live
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_bias", [False, True])
def test_live_keras_gives_within_the_bound_what_the_layer_and_its_batch_norm_give(keras, kind, use_bias):
    if not hasattr(keras.layers, kind):
        pytest.skip(f"this Keras has no {kind}")
    shape, fields = KINDS[kind]
    random = np.random.default_rng(3)
    live = getattr(keras.layers, kind)(use_bias=True, **fields)
    x = random.normal(size=(2, *shape)).astype(np.float32)
    live(x)
    weights = [random.normal(size=w.shape).astype(np.float32) for w in live.get_weights()]
    kernel, bias = weights[-2], weights[-1] if use_bias else np.zeros_like(weights[-1])
    live.set_weights([*weights[:-1], bias])
    norm = make_layer(shape=(6,), seed=4).replace(moving_variance=np.float32([0.01, 0.1, 1, 2, 30, 0.5]))
    want = exporter.evaluate(norm, np.asarray(live(x)).astype(np.float64))  # the convolution itself rounds: its bound is added
    folded = exporter.fold(norm, kernel, bias if use_bias else None, kind)
    live.set_weights([*weights[:-2], folded.kernel, folded.bias])
    got = np.asarray(live(x)).astype(np.float64)
    live.set_weights([*map(np.abs, weights[:-2]), np.abs(folded.kernel), np.zeros_like(folded.bias)])
    size = np.asarray(live(np.abs(x))).astype(np.float64)
    allowed = folding.bound(folded, kind, size) * (20 if kind.startswith("Separable") else 1) + 30 * 2.0**-24 * size
    assert (np.abs(got - want) <= 2 * allowed).all()
    assert np.abs(got - want).max() > 0 or kind == "Dense"


@pytest.mark.parametrize(("kernel", "bias", "kind", "said"), [
    (np.zeros((3, 3, 2, 5), "f4"), None, "Conv2D", "a kernel with 4 output channels, got 5"),
    (np.zeros((2, 4), "f4"), None, "Conv2D", "the kernel of a Conv2D with 4 axes, got shape [2, 4]"),
    (np.zeros((3, 3, 2, 4), "i4"), None, "Conv2D", "float16, float32 or float64, got int32"),
    (np.zeros((2, 4), "f4"), [1, 2, 3], "Dense", "a bias of shape [4], got [3]"),
    (np.zeros((2, 4), "f4"), None, "LSTM", "a kind of layer among Dense"),
    (np.zeros((3, 3, 2, 2), "f4"), None, "Conv2DTranspose", "a kernel with 4 output channels, got 2"),
])
def test_what_does_not_fit_is_refused(kernel, bias, kind, said):
    with pytest.raises(exporter.UsageError, match=re.escape(said)):
        exporter.fold(make_layer(), kernel, bias, kind)


def standing(*inputs, **fields):
    """A layer of four channels behind these."""
    return make_layer(calls=(Call(tuple(inputs), ()),), **fields)


CONV = Neighbor(path="block/conv", class_name="Conv2D", axis=3, use_bias=False)


@pytest.mark.parametrize(("layer", "said"), [
    (standing(dataclasses.replace(CONV, activation="relu")), "block/conv, which feeds it, applies an activation (relu) in between"),
    (standing(dataclasses.replace(CONV, is_shared=True)), "the output of block/conv, which feeds it, is used elsewhere, too"),
    (standing(Neighbor(path="add_1", class_name="Add")), "it is fed by add_1 of class Add, which has no kernel of a known kind"),
    (standing(Neighbor(path="mine", class_name="mine>Conv2D")), "mine of class mine>Conv2D, which has no kernel of a known kind"),
    (standing(Neighbor(path="input_1", class_name="InputLayer")), "it reads the input of the model"),
    (standing(), "it reads the input of the model"),
    (standing(CONV, CONV), "2 layers feed it"),
    (make_layer(calls=(Call((CONV,), ()), Call((CONV,), ()))), "it is called 2 times"),
    (standing(CONV, called_in_training=True), "its model calls it with training=True"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_where_the_layer_says_that_it_stands_folding_is_refused(layer, said):
    with pytest.raises(exporter.LayerError, match=re.escape(said)) as caught:
        exporter.fold(layer, np.zeros((3, 3, 2, 4), "f4"))
    assert caught.value.where == layer.path
    assert "layer.replace(calls=())" in caught.value.hint


def test_the_kind_is_that_of_the_feeding_layer():
    kernel = np.ones((3, 3, 2, 4), "f4")
    for name in ("Conv2D", "Convolution2D"):
        layer = standing(dataclasses.replace(CONV, class_name=name))
        assert (exporter.fold(layer, kernel).kernel == exporter.fold(layer.replace(calls=()), kernel).kernel).all()
    with pytest.raises(exporter.UsageError, match="expected the kernel of block/conv, a Conv2D that feeds the layer, got kind='Dense'"):
        exporter.fold(standing(CONV), np.ones((2, 4), "f4"), kind="Dense")


def test_a_number_that_overflows_is_refused():
    layer = make_layer().replace(moving_variance=np.full(4, 1e-20, np.float32), epsilon=0.0, gamma=np.full(4, 1e30, np.float32))
    with pytest.raises(exporter.LayerError, match="does not fit float32"):
        exporter.fold(layer, np.full((2, 4), 1e30, np.float32), None, "Dense")


@pytest.mark.parametrize(("changes", "kernel"), [
    ({"gamma": 1e30}, 1e10), ({"moving_mean": 1e30, "gamma": 1e10}, 1), ({"beta": 3e38, "moving_mean": -1, "gamma": 3e38}, 1e-3)])
def test_the_kernel_and_the_bias_are_each_looked_at(changes, kernel):
    """One of them may overflow alone, in one channel alone."""
    values = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1} | changes
    arrays = {name: np.float32([1 if name == "moving_variance" else 0] * 3 + [value]) for name, value in values.items()}
    with pytest.raises(exporter.LayerError, match="does not fit float32"):
        exporter.fold(make_layer(epsilon=0.0).replace(**arrays), np.full((2, 4), kernel, np.float32), None, "Dense")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bias", [None, [1, 2, 3, 4]])
def test_the_result_has_the_kernels_type_and_shape(dtype, bias):
    layer = make_layer(epsilon=0.25).replace(**{name: np.float32([2, 3, 4, 5]) for name in ("gamma", "beta", "moving_mean")},
                                             moving_variance=np.float32([0.75, 3.75, 8.75, 15.75]))
    found = exporter.fold(layer, np.ones((3, 4), dtype), bias, "Dense")
    assert (found.kernel.dtype, found.bias.dtype, found.kernel.shape, found.bias.shape) == (dtype, dtype, (3, 4), (4,))
    scale = np.array([2, 3 / 2, 4 / 3, 5 / 4])
    assert (found.kernel == scale.astype(dtype)).all()
    mean, beta = np.array([2, 3, 4, 5]), np.array([2, 3, 4, 5])
    want = (scale * ((bias or 0) - mean) + beta).astype(dtype)
    assert np.allclose(found.bias, want, rtol=4 * float(np.finfo(dtype).eps), atol=0)


@pytest.mark.parametrize("kind", list(folding.KINDS))
def test_each_axis_of_channels_gets_its_own_scale(kind):
    """Channel by channel, and for a depthwise kernel in the order input * multiplier + which."""
    layout = folding.KINDS[kind]
    shape = [2, 3, 5, 2, 3][: layout.rank]
    channels = int(np.prod([shape[axis] for axis in layout.channels]))
    layer = make_layer(shape=(channels,), epsilon=1e-3).replace(
        gamma=np.arange(1, channels + 1, dtype=np.float32), moving_variance=np.full(channels, 1 - 1e-3, np.float32))
    found = exporter.fold(layer, np.ones(shape, np.float64), None, kind).kernel
    last = np.moveaxis(found, layout.channels, range(-len(layout.channels), 0)).reshape(-1, channels)
    assert np.allclose(last, np.arange(1, channels + 1), rtol=1e-6)
    assert folding.products(found, kind) == found.size // channels


@pytest.mark.parametrize(("dtype", "unit", "tiny"), [(None, 2.0**-24, 2.0**-126), ("float16", 2.0**-11, 2.0**-14),
                                                     ("bfloat16", 2.0**-8, 2.0**-126), ("float64", 2.0**-53, 2.0**-1022)])
def test_the_bound_is_what_the_document_says(dtype, unit, tiny):
    """docs/folding.md: (n + 3) u (size + |bias|) + (n + 1) tiny, for n products."""
    folded = folding.Folded(np.ones((3, 3, 2, 2), np.float32), np.float32([-4, 0]))
    found = folding.bound(folded, "Conv2D", np.float64([[10, 0], [0, 0]]), dtype)
    assert found.tolist() == [[21 * unit * 14 + 19 * tiny, 19 * tiny], [21 * unit * 4 + 19 * tiny, 19 * tiny]]


@pytest.mark.parametrize(("layer", "said"), [
    (make_layer(), ""), (make_layer(shape=(2, 3), axis=(1, 3)), "it runs along 2 axes of its input"),
    (standing(CONV), ""), (standing(CONV, shape=(2, 3), axis=(1, 2)), "it runs along 2 axes"),
    (make_layer(calls=(Call((CONV,), ()),) * 3), "it is called 3 times"), (standing(), "it reads the input of the model"),
    (standing(CONV, CONV, CONV), "3 layers feed it"), (make_layer(called_in_training=True), "its model calls it with training=True"),
    (standing(Neighbor(path="d", class_name="Dropout")), "it is fed by d of class Dropout")])
def test_what_is_against_it_where_the_layer_stands(layer, said):
    found = folding.reason_against(layer)
    assert found.startswith(said)
    assert bool(found) is bool(said)


@pytest.mark.parametrize(("class_name", "kind"), [
    ("Dense", "Dense"), ("Conv3DTranspose", "Conv3DTranspose"), ("Convolution1D", "Conv1D"), ("Convolution2D", "Conv2D"),
    ("Convolution3D", "Conv3D"), ("SeparableConvolution2D", "SeparableConv2D"), ("MatMul", "Dense"),
    ("DepthwiseConv2dNative", "DepthwiseConv2D"), ("Conv2DBackpropInput", "Conv2DTranspose"), ("Embedding", None), ("own>Dense", None)])
def test_classes_that_have_a_kernel(class_name, kind):
    assert folding.kind_of(class_name) == kind


def test_several_axes_are_refused():
    with pytest.raises(exporter.UsageError, match="output channels"):
        exporter.fold(make_layer(shape=(2, 3), axis=(1, 3)), np.zeros((2, 6), np.float32), None, "Dense")


def test_a_bound_is_broken_by_a_forgotten_epsilon():
    """The bound is narrow enough to see what it is for."""
    layer = make_layer(epsilon=1e-3, seed=5)
    kernel = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    good, bad = exporter.fold(layer, kernel, None, "Dense"), exporter.fold(layer.replace(epsilon=1.1e-3), kernel, None, "Dense")
    want = layer(x.astype(np.float64) @ kernel.astype(np.float64))
    size = np.abs(x).astype(np.float64) @ np.abs(good.kernel)
    allowed = folding.bound(good, "Dense", size)
    assert (np.abs(x.astype(np.float64) @ good.kernel + good.bias - want) <= allowed).all()
    assert not (np.abs(x.astype(np.float64) @ bad.kernel + bad.bias - want) <= allowed).all()


def test_scale_and_offset_are_public():
    layer = make_layer(seed=3)
    x = np.float64([[0.5, -1, 2, 3]])
    assert layer.scale.dtype == layer.offset.dtype == np.float64
    assert np.allclose(layer.scale * x + layer.offset, layer(x), rtol=1e-12, atol=0)

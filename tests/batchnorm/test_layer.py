"""The formula: exact against plain Python floats and fractions, fast within its bound, over ranks, axes, dtypes and layouts."""

from __future__ import annotations

import fractions
import math
import re
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exporter
from exporter.batchnorm import compiled, vectors
from exporter.batchnorm.dtypes import round_to
from exporter.errors import MissingExtra, UsageError
from tests.make.layers import make_layer

DTYPES = ("float16", "bfloat16", "float32", "float64")


def by_hand(layer, x, axis):
    """The formula with Python floats, number by number."""
    out = np.empty(x.shape)
    for index in np.ndindex(*x.shape):
        channel = tuple(index[a] for a in axis)
        gamma = 1.0 if layer.gamma is None else float(layer.gamma[channel])
        beta = 0.0 if layer.beta is None else float(layer.beta[channel])
        root = math.sqrt(float(layer.moving_variance[channel]) + layer.epsilon)
        out[index] = gamma * (float(x[index]) - float(layer.moving_mean[channel])) / root + beta
    return out


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("shape", "axis", "x_shape"), [
    ((3,), (-1,), (2, 3)), ((3,), (1,), (2, 3, 4)), ((3,), (1,), (2, 3, 4, 5)), ((5,), (3,), (2, 3, 4, 5)), ((4,), (-2,), (2, 3, 4, 5)),
    ((3, 5), (1, 3), (2, 3, 4, 5)), ((5, 3), (3, 1), (2, 3, 4, 5)), ((2, 3), (1, 2), (4, 2, 3)), ((3,), (0,), (3,)),
    ((2,), (4,), (1, 2, 1, 2, 2))])
@pytest.mark.parametrize("lacks", [(), ("gamma",), ("beta",), ("gamma", "beta")])
def test_exact_is_the_formula_rounded_once(dtype, shape, axis, x_shape, lacks):
    layer = make_layer(shape=shape, axis=axis if 0 not in axis else (-1,), gamma="gamma" not in lacks, beta="beta" not in lacks)
    x = np.random.default_rng(1).normal(0, 3, x_shape).astype(dtype)
    y = exporter.evaluate(layer, x, axis=axis)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    assert y.tobytes() == by_hand(layer, x, axis).astype(dtype).tobytes()


def test_exact_takes_and_gives_bfloat16_arrays():
    layer = make_layer(dtype="bfloat16")
    x = np.random.default_rng(2).normal(size=(7, 4)).astype(ml_dtypes.bfloat16)
    y = exporter.evaluate(layer, x)
    assert y.dtype == ml_dtypes.bfloat16
    assert y.astype(np.float32).tobytes() == round_to(by_hand(layer, x.astype(np.float64), (-1,)), "bfloat16").tobytes()
    made = layer.replace(gamma=layer.gamma.astype(ml_dtypes.bfloat16))
    assert made.gamma.tobytes() == layer.gamma.tobytes()


def test_the_result_has_the_type_of_the_input():
    """Also where the layer's own type is another."""
    for dtype in DTYPES:
        for other in ("float16", "float32", "float64"):
            x = np.linspace(-2, 2, 8, dtype=other).reshape(2, 4)
            y = exporter.evaluate(make_layer(dtype=dtype), x)
            assert y.dtype == x.dtype, (dtype, other)
            assert y.tobytes() == by_hand(make_layer(dtype=dtype), x, (-1,)).astype(other).tobytes()


def test_lists_are_taken_in_the_layers_dtype():
    layer = make_layer(shape=(2,))
    assert layer([[0.1, 0.2]]).dtype == np.float32
    assert layer([[0.1, 0.2]]).tobytes() == layer(np.float32([[0.1, 0.2]])).tobytes()
    assert make_layer(shape=(2,), dtype="float64")([[1, 2]]).dtype == np.float64


@pytest.mark.parametrize(("x_shape", "axis"), [((64, 1024), (-1,)), ((9, 3), (-1,)), ((5000, 3), (-1,)), ((3, 7, 7, 33), (3,)),
                                               ((3, 33, 7, 7), (1,)),
                                               ((2, 3, 4, 5, 6), (2,)), ((1, 2, 200_001), (1,)), ((2, 70_000), (1,)), ((1, 6), (1,)),
                                               ((0, 6), (1,)), ((70000, 2), (-1,))])
def test_fast_keeps_its_bound_and_works_in_place(x_shape, axis):
    channels = x_shape[axis[0]]
    layer = make_layer(shape=(channels,), axis=axis)
    x = np.random.default_rng(3).normal(0, 3, x_shape).astype(np.float32)
    y = exporter.evaluate(layer, x, fast=True)
    rows, got, want = (np.moveaxis(a, axis[0], -1).reshape(-1, channels) for a in (x, y, exporter.evaluate(layer, x.astype(np.float64))))
    assert (np.abs(got - want) <= vectors.bound(layer, rows) / 2).all()
    copy = x.copy()
    assert exporter.evaluate(layer, copy, fast=True, out=copy) is copy
    assert copy.tobytes() == y.tobytes()


@pytest.mark.parametrize(("x_shape", "axis"), [((5, 33, 7, 7), (1,)), ((7, 7, 5, 33), (-1,)), ((2, 3, 90), (1,)), ((9, 4), (1,)),
                                               ((0, 6), (1,)), ((5001, 3), (1,)), ((3, 5000), (1,))])
def test_compiled_gives_the_very_same(x_shape, axis):
    layer = make_layer(shape=(x_shape[axis[0]],), axis=axis)
    x = np.random.default_rng(3).normal(0, 3, x_shape).astype(np.float32)
    want = exporter.evaluate(layer, x, fast=True)
    assert exporter.evaluate(layer, x, fast="numba").tobytes() == want.tobytes()
    x.flags.writeable = False
    out = np.zeros_like(x)
    assert layer(x, fast="numba").tobytes() == want.tobytes()
    assert exporter.evaluate(layer, x, fast="numba", out=out) is out
    assert out.tobytes() == want.tobytes()
    assert exporter.evaluate(layer, out[::-1], fast="numba").tobytes() == exporter.evaluate(layer, out[::-1], fast=True).tobytes()
    copy = x.copy()
    exporter.evaluate(layer, copy, fast="numba", out=copy)
    assert copy.tobytes() == want.tobytes()


def test_compiled_has_nowhere_to_keep_it(monkeypatch):
    import numba

    def njit(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    monkeypatch.setattr(compiled, "loops", compiled.loops.__wrapped__)
    x = np.ones((2, 4), np.float32)
    assert make_layer()(x, fast="numba").tobytes() == make_layer()(x, fast=True).tobytes()


def test_compiled_without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(compiled, "loops", compiled.loops.__wrapped__)
    with pytest.raises(MissingExtra, match="numba") as error:
        make_layer()(np.ones((2, 4), np.float32), fast="numba")
    assert error.value.hint == "pip install 'bn-export[numba]'"


PREPARED = [((64, 1024), (-1,)), ((9, 3), (-1,)), ((5000, 3), (-1,)), ((3, 7, 7, 33), (3,)), ((3, 33, 7, 7), (1,)), ((2, 3, 4, 5, 6), (2,)),
            ((1, 2, 20_001), (1,)), ((2, 70_000), (1,)), ((7, 40_000, 3), (1,)), ((0, 6), (1,)), ((4, 5, 3), (1, 2)), ((5, 4), (1,))]


@pytest.mark.parametrize("fast", [True, "numba"])
@pytest.mark.parametrize(("x_shape", "axis"), PREPARED)
def test_a_prepared_layer_gives_the_very_same(x_shape, axis, fast):
    layer = make_layer(shape=tuple(x_shape[a] for a in axis), axis=axis)
    prepared = layer.prepare(fast=fast)
    x = np.random.default_rng(3).normal(0, 3, x_shape).astype(np.float32)
    want = exporter.evaluate(layer, x, fast=True)
    for form in (x, np.asfortranarray(x), x[::-1][::-1], np.stack([x, x], -1)[..., 0]):
        assert prepared(form).tobytes() == want.tobytes()
    out = np.zeros_like(x)
    assert prepared(x, out) is out
    assert out.tobytes() == want.tobytes()
    strided = np.zeros((*x_shape, 2), np.float32)[..., 0]
    assert prepared(x, out=strided) is strided
    assert strided.tobytes() == want.tobytes()
    copy = x.copy()
    assert prepared(copy, copy) is copy
    assert copy.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_prepared_layer_of_any_dtype_and_without_parameters(dtype):
    for layer in (make_layer(dtype=dtype), make_layer(dtype=dtype).replace(gamma=None), make_layer(dtype=dtype).replace(beta=None)):
        x = np.random.default_rng(3).normal(0, 3, (6, 4)).astype(np.float32)
        assert layer.prepare()(x).tobytes() == exporter.evaluate(layer, x, fast=True).tobytes()


def test_a_prepared_layer_takes_one_shape_after_the_other_and_another_axis():
    layer = make_layer(shape=(4,), axis=(-1,))
    prepared, along_1 = layer.prepare(), layer.prepare(axis=1)
    for shape in ((2, 4), (3, 5, 4), (2, 4), (0, 4), (4, 4)):
        x = np.random.default_rng(3).normal(0, 3, shape).astype(np.float32)
        assert prepared(x).tobytes() == exporter.evaluate(layer, x, fast=True).tobytes()
    x = np.random.default_rng(3).normal(0, 3, (2, 4, 7)).astype(np.float32)
    assert along_1(x).tobytes() == exporter.evaluate(layer, x, axis=1, fast=True).tobytes()
    assert repr(prepared) == f"<Prepared {layer.path}>"


@pytest.mark.parametrize(("call", "words"), [
    (lambda layer: layer.prepare()(np.zeros((2, 3), np.float32)), "expected 4 channels along axis -1 of the input, got 3"),
    (lambda layer: layer.prepare()(np.zeros((2, 4))), "expected a float32 input in the fast mode, got float64"),
    (lambda layer: layer.prepare()([[1, 2, 3, 4]]), "expected a float32 input in the fast mode, got list"),
    (lambda layer: layer.prepare()(np.zeros((2, 4), np.float32), np.zeros((2, 4))), "got float64 of shape (2, 4)"),
    (lambda layer: layer.prepare()(np.zeros((2, 4), np.float32), np.zeros((4, 2), np.float32)), "to be float32 of shape (2, 4)"),
    (lambda layer: layer.prepare(fast=False), "expected True or 'numba' for fast, got False"),
    (lambda layer: layer.prepare(axis=(0, 1))(np.zeros((2, 4), np.float32)), "does not fit parameters of shape")])
def test_what_does_not_fit_a_prepared_layer_is_refused(call, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        call(make_layer())


def test_a_layer_is_prepared_for_numba_only_where_it_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(compiled, "loops", compiled.loops.__wrapped__)
    with pytest.raises(MissingExtra, match="numba"):
        make_layer().prepare(fast="numba")


def test_fast_handles_views_and_several_axes():
    layer = make_layer(shape=(3, 5), axis=(1, 3))
    x = np.random.default_rng(4).normal(size=(2, 3, 8, 5)).astype(np.float32)[:, :, ::2]
    np.testing.assert_allclose(exporter.evaluate(layer, x, fast=True), exporter.evaluate(layer, x), rtol=1e-5, atol=1e-4)
    out = np.zeros((2, 3, 8, 5), np.float32)[:, :, ::2]
    exporter.evaluate(layer, x, fast=True, out=out)
    assert out.any()


@pytest.mark.parametrize(("call", "words"), [
    (lambda layer: layer(np.zeros((2, 3), np.float32)), "expected 4 channels along axis -1 of the input, got 3"),
    (lambda layer: layer(np.zeros((2, 4), np.float32), axis=5), "the layer's axis is 5, but the input has 2 dimensions"),
    (lambda layer: layer(np.zeros((2, 4), np.float32), axis=(0, 1)), "does not fit parameters of shape"),
    (lambda layer: layer(np.array(["a"])), "expected a numeric input, got type <U1"),
    (lambda layer: layer(np.zeros((2, 4)), fast=True), "expected a float32 input in the fast mode"),
    (lambda layer: exporter.evaluate(layer, np.zeros((2, 4), np.float32), fast=True, out=np.zeros((2, 4))), "expected `out` to be float32"),
    (lambda layer: exporter.evaluate(layer, np.zeros((2, 4)), out=np.zeros((2, 4), np.float32)), "fast=True"),
    (lambda layer: layer(np.zeros((2, 4), np.float32), fast="fast"), "expected False, True or 'numba' for fast, got 'fast'"),
    (lambda layer: make_layer(shape=(2, 2), axis=(1, -1))(np.zeros((2, 2))), "lists one axis twice")])
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(").replace("[", r"\[")):
        call(make_layer())


@given(st.floats(allow_nan=False, width=64), st.sampled_from(["float16", "bfloat16", "float32"]))
def test_round_to_is_round_half_to_even(value, dtype):
    """Against exact rational arithmetic: the result is the nearest number of the dtype, ties to the even one."""
    got = float(round_to(np.array([value]), dtype)[0])
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}[dtype]
    largest = float(ml_dtypes.finfo(kind).max)
    before = float(np.nextafter(kind(largest), kind(0)))
    if math.isinf(got):  # from halfway to where the next number would be
        assert math.isinf(value) or abs(fractions.Fraction(value)) >= fractions.Fraction(largest) + fractions.Fraction(largest - before) / 2
        return
    here = kind(got)
    assert float(here) == got
    with np.errstate(over="ignore"):
        neighbors = np.nextafter(here, kind(np.inf)), np.nextafter(here, kind(-np.inf))
    for neighbor in neighbors:
        if np.isfinite(neighbor):
            mine, other = (abs(fractions.Fraction(value) - fractions.Fraction(float(n))) for n in (here, neighbor))
            assert mine < other or (mine == other and int(here.view(np.uint16 if dtype != "float32" else np.uint32)) % 2 == 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_finite_and_the_formula(dtype):
    for seed in range(5):
        layer = make_layer(shape=(257,), dtype=dtype, seed=seed)
        x, y = vectors.make(layer)
        assert x.shape == y.shape == (2, 257)
        assert np.isfinite(x).all()
        assert np.isfinite(y).all()
        assert y.tobytes() == round_to(by_hand(layer, x, (-1,)), dtype).tobytes()


def test_at_the_mean_itself_the_output_is_beta():
    layer = make_layer(dtype="float16").replace(moving_mean=np.full(4, 65_504, np.float16), moving_variance=np.full(4, 6e4, np.float16))
    x, y = vectors.make(layer)
    assert x[0].tolist() == [65_504] * 4  # half a deviation above it does not fit
    assert y[0].tobytes() == layer.beta.tobytes()
    assert (x[1] < 65_504).all()
    assert y[1].tobytes() != layer.beta.tobytes()


@pytest.mark.parametrize(("dtype", "unit", "tiny"), [
    ("float16", 2**-11, 2**-14), ("bfloat16", 2**-8, 2**-126), ("float32", 2**-24, 2**-126), ("float64", 2**-53, 2**-1022)])
def test_the_bound_is_the_one_of_the_page(dtype, unit, tiny):
    """docs/batchnorm.md: 16 * u * (|a*x| + |a*moving_mean| + |beta|) + tiny, here number by number."""
    layer = make_layer(dtype=dtype)
    x = np.array([[0.5, -2, 3, 1]])
    for channel, got in enumerate(vectors.bound(layer, x)[0]):
        gamma, beta, mean, variance = (float(values[channel]) for values in layer.parameters().values())
        a = abs(gamma) / math.sqrt(variance + layer.epsilon)
        assert got == pytest.approx(16 * unit * (a * abs(x[0, channel]) + a * abs(mean) + abs(beta)) + tiny, rel=1e-12)


def test_vectors_stay_finite_next_to_the_largest_number():
    top = np.full(4, np.finfo(np.float32).max, np.float32)
    layer = make_layer().replace(moving_mean=top, moving_variance=top.copy(), gamma=top.copy(), beta=top.copy())
    steep = make_layer(dtype="float16").replace(gamma=np.full(4, 6e4, np.float16))  # where only the output would be infinite
    for each in (layer, steep):
        x, y = vectors.make(each)
        assert np.isfinite(x).all()
        assert np.isfinite(y).all()


def test_the_bound_sees_a_wrong_epsilon_where_it_shows():
    """Variances near epsilon: the vectors tell epsilon 1e-3 from 1e-5 by thousands of times the bound."""
    layer = make_layer(shape=(64,)).replace(moving_variance=np.full(64, 4e-4, np.float32))
    x, y = vectors.make(layer)
    wrong = exporter.evaluate(layer.replace(epsilon=1e-5), x)
    assert (np.abs(wrong - y) / vectors.bound(layer, x))[:, :-1].max() > 1000


def test_ulps_counts_units_in_the_last_place():
    want = np.float32([1.0, -2.0, 0.0, 1e-40])
    assert vectors.ulps(np.nextafter(want, np.float32(9)), want, "float32").tolist() == [1, 0.5, 2.0**-149 / 2.0**-149, 1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_whole_numbers_are_those_of_the_type_that_is_given(dtype):
    layer = exporter.BatchNorm(path="bn", gamma=np.array([1, 2]), beta=np.array([3, 4]), moving_mean=np.array([5, 6]),
                               moving_variance=np.array([7, 8]), epsilon=1e-3, axis=-1, dtype=dtype)
    assert (layer.dtype, layer.gamma.tolist(), layer.moving_variance.tolist()) == (dtype, [1.0, 2.0], [7.0, 8.0])
    assert {values.dtype.kind for values in layer.parameters().values()} == {"f"}

"""What must hold of every layer and bundle, at both sides of each limit."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.batchnorm import gate
from exporter.batchnorm.stored import Skipped
from exporter.errors import FormatError, LayerError, UnsupportedError
from tests.make.layers import make_layer

MAX32 = float(np.finfo(np.float32).max)


def geometry(shape, axis, ndim):
    """Refused, or not."""
    values = {name: np.broadcast_to(np.float32(1), shape) for name in ("moving_mean", "moving_variance")}
    gate.check_layer("p", shape=shape, axis=axis, ndim=ndim, dtype="float32", epsilon=0.0, effective_epsilon=None, parameters=values)


@pytest.mark.parametrize(("shape", "axis", "ndim"), [
    ((1,), (1,), None), ((4,), (-1,), 2), ((4,), (1,), 2), ((4,), (-3,), 4), ((4,), (3,), 4), ((4,), (31,), None), ((4,), (-31,), None),
    ((2, 3), (1, -1), 3), ((2, 3), (1, -1), None), ((3, 2), (2, 1), 3), ((1 << 20,), (-1,), None), ((1024, 1024), (1, 2), None)])
def test_axes_and_shapes_that_fit(shape, axis, ndim):
    geometry(shape, axis, ndim)


@pytest.mark.parametrize(("shape", "axis", "ndim", "said"), [
    ((), (), None, "expected 1 to 1048576 channels, got 0"), ((0,), (-1,), None, "channels, got 0"), ((4, 0), (1, 2), None, "got 0"),
    (((1 << 20) + 1,), (-1,), None, "channels, got 1048577"), ((1 << 40, 1 << 20), (1, 2), None, "channels, got 1152921504606846976"),
    ((4,), 3, None, "expected axis to be a tuple"), ((4,), [3], None, "expected axis to be a tuple"),
    ((4,), None, None, "expected axis to be a tuple"),
    ((4,), (), None, "axis [] does not fit parameters of shape [4]"), ((2, 2), (1,), None, "axis [1] does not fit"),
    ((2, 2), (1, 1), None, "axis [1, 1] does not fit"), ((4,), (0,), None, "axis 0 does not fit an input of rank 2 or more; axis 0 is"),
    ((4,), (0,), 4, "axis 0 does not fit an input of rank 4"), ((4,), (-4,), 4, "axis -4 does not fit"), ((4,), (4,), 4, "axis 4 does not"),
    ((4,), (-5,), 4, "axis -5 does not"), ((4,), (32,), None, "axis 32 does not"), ((4,), (-32,), None, "axis -32 does not"),
    ((2, 2), (1, -1), 2, "axis [1, -1] lists one axis twice"), ((2, 2), (3, -1), 4, "axis [3, -1] lists one axis twice"),
    ((2, 2), (1, 0), 4, "axis 0 does not fit")])
def test_axes_and_shapes_that_do_not(shape, axis, ndim, said):
    with pytest.raises(LayerError) as caught:
        geometry(shape, axis, ndim)
    assert said in str(caught.value)
    assert caught.value.where == "p"


@pytest.mark.parametrize("name", ["gamma", "beta", "moving_mean", "moving_variance"])
@pytest.mark.parametrize(("change", "said"), [
    (lambda values: np.concatenate([values, values]), "of shape [4], got [8]"), (lambda values: values.reshape(2, 2), "got [2, 2]"),
    (lambda values: values.astype(np.float64), "of type float32, got float64"),
    (lambda values: values.astype(np.float16), "of type float32, got float16"),
    (lambda values: np.where(np.arange(4) == 2, np.float32(np.nan), values), "[2] is NaN (not a number)"),
    (lambda values: np.where(np.arange(4) >= 1, np.float32(np.inf), values), "[1] is infinite"),
    (lambda values: np.where(np.arange(4) == 3, np.float32(-np.inf), values), "[3] is infinite")])
def test_each_parameter_is_checked(name, change, said):
    layer = make_layer()
    with pytest.raises(LayerError) as caught:
        layer.replace(**{name: change(getattr(layer, name))})
    assert name in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(("variance", "epsilon", "said"), [
    ([1, 0], 0.0, "moving_variance[1] is 0 and epsilon 0"), ([-1, 1], 1.0, "moving_variance[0] is -1 and epsilon 1"),
    ([1, -2, -3], 1.0, "moving_variance[2] is -3 and epsilon 1"), ([1], -1e-9, "expected an epsilon of 0 or more"),
    ([1], float("inf"), "expected an epsilon"), ([1], float("nan"), "expected an epsilon"), ([1], MAX32 * 1.01, "expected an epsilon"),
    ([1, 0], 1e-300, ""), ([1, -0.5], 0.75, ""), ([0], 1e-9, ""), ([1e-9], 0.0, ""), ([1], MAX32, "")])
def test_what_is_divided_by(variance, epsilon, said):
    values = np.array(variance, np.float32)
    fields = {"shape": values.shape, "moving_mean": values, "moving_variance": values, "epsilon": epsilon, "gamma": None, "beta": None}
    if not said:
        assert np.isfinite(make_layer(shape=values.shape).replace(**fields)(values)).all()
        return
    with pytest.raises(LayerError) as caught:
        make_layer(shape=values.shape).replace(**fields)
    assert said in str(caught.value)


@pytest.mark.parametrize(("effective", "said"), [
    (None, ""), (1e-5, ""), (1.001e-5, ""), (float(np.nextafter(1e-5, 0)), ""), (MAX32, ""),
    (0.99e-5, "expected an effective_epsilon of at least epsilon, 1e-05, got 9.9e-06"), (MAX32 * 1.01, "that fits float32, got 3.4368"),
    (float("nan"), "that fits float32, got nan"), (float("inf"), "that fits float32, got inf"), (1, "that fits float32, got 1"),
    ("1", "that fits float32, got 1")])
def test_kernels_raise_epsilon_and_never_lower_it(effective, said):
    """Equal in float32, which kernels compute in, is no lower one."""
    layer = make_layer(epsilon=1e-5)
    if not said:
        assert layer.replace(effective_epsilon=effective).effective_epsilon == effective
        return
    with pytest.raises(LayerError) as caught:
        layer.replace(effective_epsilon=effective)
    assert said in str(caught.value)


@pytest.mark.parametrize("dtype", ["int8", "float8", "complex64", "float", ""])
def test_types_that_are_no_floats(dtype):
    with pytest.raises(LayerError, match=f"expected floating point parameters, got type {dtype}"):
        gate.check_layer("p", shape=(1,), axis=(-1,), ndim=None, dtype=dtype, epsilon=1.0, effective_epsilon=None, parameters={})


@pytest.mark.parametrize(("paths", "skipped"), [
    (["a"], []), ([], [Skipped("a", "why")]), (["a"], [Skipped("a", "why")]), ([str(number) for number in range(10)], [])])
def test_paths_that_make_a_bundle(monkeypatch, paths, skipped):
    monkeypatch.setattr(gate, "MAX_LAYERS", 10)
    gate.check_bundle(paths, skipped)


@pytest.mark.parametrize(("paths", "kind", "said"), [
    ([], UnsupportedError, "no BatchNormalization layer"), (["a", "b", "c", "b"], LayerError, "the path 'b' occurs twice"),
    ([str(number) for number in range(11)], LayerError, "expected at most 10 batch norms, got 11")])
def test_paths_that_make_none(monkeypatch, paths, kind, said):
    monkeypatch.setattr(gate, "MAX_LAYERS", 10)
    with pytest.raises(kind, match=said):
        gate.check_bundle(paths, [])


def test_how_many_numbers_a_model_may_have():
    gate.check_numbers(1 << 24)
    with pytest.raises(FormatError, match="expected at most 16777216 numbers"):
        gate.check_numbers((1 << 24) + 1)
    assert gate.MAX_LAYERS == 100_000


@pytest.mark.parametrize(("variance", "said"), [
    ([1, 0, 2], []), ([1, -1e-6, -2e-6], ["p: moving_variance[2] is slightly negative (-2e-06); epsilon lifts it above 0"])])
def test_what_is_odd_and_passes(variance, said):
    assert gate.remarks_on("p", np.array(variance)) == said

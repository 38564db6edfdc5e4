"""The axis of a batch norm in a wrapper that goes over axes of the input: counted from the end, it is right inside and outside of it."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.commands.evaluate import evaluate as bn_eval
from exporter.errors import LayerError
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import named, parameters, write

VALUES = parameters(5, 1)


def read(tmp_path, config, group="td"):
    path = write(tmp_path / "m.h5", {group: named(group, VALUES)}, config, keras_version="2.4.0", backend="tensorflow")
    (found,) = exporter.read(path)
    return found


def distributed(shape, inner, name="td"):
    return sequential(layer("TimeDistributed", name, layer=inner, batch_input_shape=[None, *shape]))


@pytest.mark.parametrize(("config", "axis", "ndim"), [
    (distributed((5, 5), norm(axis=[1])), (-1,), None), (distributed((5, 5), norm(axis=-1)), (-1,), None),
    (distributed((4, 8, 8, 5), norm(axis=3)), (-1,), None), (distributed((4, 5, 8, 8), norm(axis=[1])), (1,), 4),
    (distributed((4, 8, 8, 5), sequential(norm(axis=[3]), name="sub")), (-1,), None),
    (distributed((2, 4, 8, 5), layer("TimeDistributed", "deep", layer=norm(axis=[2]))), (-1,), None),
    (distributed((4, 8, 8, 5), layer("SpectralNormalization", "sn", layer=norm(axis=[3]))), (-1,), None),
    (distributed((2, 4, 8, 5), norm(axis=-2)), (-2,), None),
    (sequential(layer("Lambda", "l"), layer("TimeDistributed", "td", layer=norm(axis=[3]))), (4,), None),
    (sequential(layer("RNN", "td", cell=layer("own>Cell", "cell", inner=norm(axis=[1])), batch_input_shape=[None, 7, 5])), (-1,), None),
    (sequential(layer("RNN", "td", cell=layer("StackedRNNCells", "s", cells=[layer("own>Cell", "c", inner=norm(axis=[1]))]),
                      batch_input_shape=[None, 7, 5])), (-1,), None),
    (sequential(layer("SpectralNormalization", "td", layer=norm(axis=[3]), batch_input_shape=[None, 8, 8, 5])), (3,), 4),
    (sequential(norm("td", axis=[3], batch_input_shape=[None, 8, 8, 5])), (3,), 4),
])
def test_the_last_axis_is_counted_from_the_end(tmp_path, config, axis, ndim):
    found = read(tmp_path, config)
    assert (found.axis, found.ndim, found.assumed) == (axis, ndim, ())


@pytest.mark.parametrize("axis", [1, 3])
def test_the_axis_of_the_wrapper_s_input_is_certain_whatever_its_rank(tmp_path, axis):
    """TimeDistributed(BatchNormalization(axis=k)) normalizes along axis k + 1 of its input (live: TensorFlow 2.8, Keras 2.2.5)."""
    config = sequential(layer("Lambda", "l"), layer("TimeDistributed", "td", layer=norm(axis=[axis])))
    path = write(tmp_path / "m.h5", {"td": named("td", VALUES)}, config, keras_version="2.4.0", backend="tensorflow")
    (found,), warnings = (bundle := exporter.read(path)), bundle.warnings
    assert (found.axis, found.ndim, found.assumed) == ((axis + 1,), None, ())
    assert any("its axis is that of the input of the wrapper" in warning for warning in warnings)


def test_inner_and_outer_inputs_where_all_sizes_are_the_same(tmp_path):
    found = read(tmp_path, distributed((5, 5), norm(axis=[1])))
    x = np.random.default_rng(0).normal(size=(2, 5, 5)).astype("f4")
    root = np.sqrt(VALUES["moving_variance"].astype("f8") + found.epsilon)
    expected = (VALUES["gamma"] * (x.astype("f8") - VALUES["moving_mean"]) / root + VALUES["beta"]).astype("f4")
    np.testing.assert_array_max_ulp(found(x), expected, 1)
    np.testing.assert_array_max_ulp(found(x.reshape(10, 5)), expected.reshape(10, 5), 1)


def test_the_epsilon_of_a_fused_kernel_goes_by_the_inner_rank(tmp_path):
    """TensorFlow's kernel for rank 4, inside TimeDistributed, raised this one; that for rank 2 did not."""
    assert read(tmp_path, distributed((4, 8, 8, 5), norm(axis=[3], epsilon=1e-6))).effective_epsilon == 1.001e-5
    assert read(tmp_path, distributed((8, 5), norm(axis=[1], epsilon=1e-6))).effective_epsilon is None


def test_an_axis_from_the_front_says_nothing_of_another_rank(tmp_path, run):
    found = read(tmp_path, sequential(norm("td", axis=[1], batch_input_shape=[None, 5, 8, 8])))
    x = np.random.default_rng(0).normal(size=(2, 5, 5)).astype("f4")
    with pytest.raises(LayerError, match=r"expected an input of 4 dimensions for axis \[1\], got 3") as caught:
        found(x)
    assert "axis=" in caught.value.hint
    assert found(x, axis=1).shape == found(x, axis=2).shape == x.shape
    np.save(tmp_path / "x.npy", x)
    code, _, err = run(bn_eval, tmp_path / "m.h5", tmp_path / "x.npy", tmp_path / "y.npy")
    assert (code, (tmp_path / "y.npy").exists()) == (1, False)
    assert "--axis" in err
    code, _, _ = run(bn_eval, tmp_path / "m.h5", tmp_path / "x.npy", tmp_path / "y.npy", "--axis", "1")
    assert code == 0
    assert np.load(tmp_path / "y.npy").tobytes() == found(x, axis=1).tobytes()

"""The kernel of a feeding layer: what nothing can be folded into is refused when it is made."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from exporter.batchnorm.dtypes import HELD_IN, round_to
from exporter.batchnorm.folded import fold_bundle, reason_to_keep
from exporter.batchnorm.kernels import Kernel
from exporter.batchnorm.places import Call, Neighbor
from exporter.errors import LayerError
from exporter.sources.shared.kernels import checked
from tests.make.layers import make_bundle, make_layer


def made(**changes):
    return Kernel(**{"path": "block/conv", "class_name": "Conv2D", "kind": "Conv2D", "channels": (3,), "dtype": "float32",
                     "kernel": np.ones((3, 2, 4, 5), np.float32), "bias": np.ones(5, np.float32), **changes})


@pytest.mark.parametrize(("changes", "count"), [
    ({}, 5), ({"bias": None}, 5), ({"channels": (2, 3), "bias": np.ones(20, np.float32)}, 20),
    ({"dtype": "float16", "kernel": np.ones((2, 3), np.float16), "channels": (1,), "bias": None}, 3),
    ({"channels": (0,), "bias": np.ones(3, np.float32)}, 3), ({"dtype": "bfloat16"}, 5)])
def test_what_fits(changes, count):
    kernel = made(**changes)
    assert kernel.count == count
    for other in (copy.copy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert (other.path, other.channels, other.kernel.tobytes()) == (kernel.path, kernel.channels, kernel.kernel.tobytes())
    with pytest.raises(ValueError, match="read-only"):
        kernel.kernel[:] = 0


@pytest.mark.parametrize(("changes", "said"), [
    ({"dtype": "int8"}, "got int8"), ({"channels": ()}, "no axes"), ({"channels": (4,)}, r"no axes \[4\] of channels"),
    ({"channels": (-1,)}, r"no axes \[-1\]"), ({"channels": (3, 4)}, "no axes"), ({"kernel": np.ones((3, 2, 0, 5), np.float32)}, "no axes"),
    ({"kernel": np.ones((3, 2, 4, 5), np.float64)}, "kernel has type float64"), ({"bias": np.ones(5, np.float16)}, "bias has type float16"),
    ({"kernel": np.full((3, 2, 4, 5), np.inf, np.float32)}, "kernel .* not finite"),
    ({"bias": np.float32([1, 2, np.nan, 4, 5])}, "bias .* not finite"),
    ({"bias": np.ones(4, np.float32)}, r"bias of shape \[5\], got \[4\]"),
    ({"bias": np.ones((1, 5), np.float32)}, r"bias of shape \[5\], got \[1, 5\]")])
def test_what_does_not(changes, said):
    with pytest.raises(LayerError, match=said) as caught:
        made(**changes)
    assert caught.value.where == "block/conv"


@pytest.mark.parametrize(("changes", "kernel", "fits"), [
    ({}, 1.0, True), ({"gamma": 1e30}, 1e10, False), ({"gamma": -1e30}, 1e10, False), ({"gamma": 1e30}, -1e10, False),
    ({"gamma": 1e20}, 1e10, True), ({"gamma": 1e20, "moving_mean": 1e20}, 1e10, False), ({"beta": 3e38}, 1.0, True)])
def test_a_kernel_that_would_overflow_stays(changes, kernel, fits):
    """The product of the largest number of a channel and its scale, and the bias, each of them alone."""
    numbers = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1, **changes}
    call = Call((Neighbor(path="block/conv", class_name="Conv2D"),), ())
    arrays = {name: np.float32([1] * 4 + [value]) for name, value in numbers.items()}
    layer = make_layer("bn", shape=(5,), epsilon=0.0, calls=(call,)).replace(**arrays)
    values = np.ones((3, 2, 4, 5), np.float32)
    values[0, 0, 0, 4] = kernel
    assert reason_to_keep(layer, {"bn": made(kernel=values)}) == ("" if fits else "a folded number does not fit float32")


def test_kernels_of_one_path_are_two_layers_and_so_are_none():
    one, twin, other = made(), made(), made(path="other")
    found = checked({"a": one, "b": twin, "c": other, "d": "a reason"})
    assert (found["c"], found["d"]) == (other, "a reason")
    assert found["a"] == found["b"]
    assert "block/conv" in found["a"]
    assert checked({"a": one, "c": other}) == {"a": one, "c": other}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_a_folded_kernel_is_rounded_once_to_its_own_type(dtype):
    """Of exact products of float64; what is folded can be looked up by its path."""
    call = Call((Neighbor(path="block/conv", class_name="Conv2D"),), ())
    layer = make_layer("bn", shape=(5,), dtype=dtype, epsilon=0.25, calls=(call,))
    layer = layer.replace(moving_variance=np.full(5, 2, HELD_IN[dtype]))
    random = np.random.default_rng(0)
    values, bias = (round_to(random.normal(size=shape), dtype) for shape in ((3, 2, 4, 5), 5))
    source = made(dtype=dtype, kernel=values, bias=bias)
    folded = fold_bundle(make_bundle(layer, kernels={"bn": source}))
    scale = layer.gamma.astype(np.float64) / 1.5
    one = folded["block/conv"]
    assert one.kernel.tobytes() == round_to(values.astype(np.float64) * scale, dtype).tobytes()
    assert np.allclose(one.bias, scale * (bias.astype(np.float64) - layer.moving_mean) + layer.beta, rtol=2.0**-7, atol=2.0**-7)
    with pytest.raises(KeyError, match="no layer 'conv' is folded"):
        folded["conv"]

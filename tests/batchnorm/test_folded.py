"""A whole model with its batch norms folded in: what is kept and why, what is said of it, and how far off the numbers may be."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.batchnorm.folded import fold_bundle, reason_to_keep, remark_on
from exporter.batchnorm.kernels import Kernel
from exporter.batchnorm.places import Call, Neighbor
from exporter.errors import UnsupportedError
from tests.make.layers import make_bundle, make_layer

CALL = Call((Neighbor(path="conv", class_name="Conv2D"),), ())
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


def standing(path="bn", **fields):
    """A layer of two channels behind a convolution: scales 3 and -1, offsets of a bias of 1: 2 and 6."""
    arrays = {"gamma": [6, -2], "beta": [-1, 5], "moving_mean": [0, 2], "moving_variance": [3.75, 3.75]}
    layer = make_layer(path, shape=(2,), epsilon=0.25, calls=(CALL,), **fields)
    return layer.replace(**{name: np.float32(values) for name, values in arrays.items()})


def kernel(dtype="float32", count=2, **fields):
    values = np.zeros((1, 1, 2, count), np.float16 if dtype == "float16" else np.float64 if dtype == "float64" else np.float32)
    values[0, 0, 0], values[0, 0, 1, 0] = -4, 2
    return Kernel(**{"path": "conv", "class_name": "Conv2D", "kind": "Conv2D", "channels": (3,), "dtype": dtype, "kernel": values,
                     "bias": np.ones(count, values.dtype), **fields})


@pytest.mark.parametrize("dtype", UNIT)
def test_the_errors_are_those_of_the_page(dtype):
    """docs/folding.md: u (1 + 2u) largest + 7 * 2**-53 size + u tiny; of the bias, its size is that of what is added."""
    (one,) = fold_bundle(make_bundle(standing(), kernels={"bn": kernel(dtype)})).folded
    assert one.kernel.ravel().tolist() == [-12, 4, 6, 0]
    assert one.bias.tolist() == [2, 6]
    unit, tiny = UNIT[dtype], TINY[dtype]
    assert one.kernel_error == unit * (1 + 2 * unit) * 12 + 7 * 2.0**-53 * 12 + unit * tiny
    assert one.bias_error == unit * (1 + 2 * unit) * 6 + 7 * 2.0**-53 * 6 + unit * tiny
    assert (one.products, one.kernel_name, one.path) == (2, "kernel", "conv")
    for values in (one.kernel, one.bias):
        assert not values.flags.writeable


@pytest.mark.parametrize(("fields", "found", "said"), [
    ({}, kernel(), ""), ({}, "because", "because"), ({"quantized": "uint8"}, kernel(), "its parameters are stored quantized (uint8)"),
    ({"called_in_training": True}, "because", "its model calls it with training=True"),
    ({"calls": ()}, kernel(), "the file does not specify what feeds it"), ({}, None, "the file does not specify what feeds it"),
    ({}, kernel(count=3), "conv, which feeds it, has 3 output channels, but the batch norm has 2")])
def test_why_a_batch_norm_is_kept(fields, found, said):
    reason = reason_to_keep(standing().replace(**fields), {} if found is None else {"bn": found})
    assert reason.startswith(said)
    assert bool(reason) is bool(said)


@pytest.mark.parametrize(("reasons", "said"), [
    ({}, []), ({"b": "why"}, ["1 of 3 batch norms cannot be folded and are kept: b: why"]),
    ({"a": "why", "c": "why"}, ["2 of 3 batch norms cannot be folded and are kept: a, c: why"]),
    ({"a": "x", "b": "x", "c": "x"}, [])])
def test_what_is_said_of_those_that_are_kept(reasons, said):
    """Nothing where none can be folded: that is an error."""
    layers = tuple(map(standing, "abc"))
    kernels = {layer.path: reasons.get(layer.path, kernel()) for layer in layers}
    assert remark_on(layers, kernels) == said
    bundle = make_bundle(*layers, kernels=kernels, skipped=(("d", "no epsilon"),))
    if len(reasons) == 3:
        with pytest.raises(UnsupportedError, match="no batch norm of the model can be folded: a, b, c: x") as caught:
            fold_bundle(bundle)
        assert caught.value.hint == ""
        return
    found = fold_bundle(bundle)
    assert all(repr(layer) == f"<FoldedLayer {layer.path}: {layer.source.kind} and {layer.norm.path}>" for layer in found.folded)
    assert repr(found) == f"<FoldedModel model.h5: {3 - len(reasons)} folded, {len(reasons)} kept>"
    assert [(layer.path, reason) for layer, reason in found.kept] == list(reasons.items())
    assert (found.origin, found.skipped) == (bundle.origin, bundle.skipped)


def test_what_would_help_is_said_where_no_place_is_known():
    with pytest.raises(UnsupportedError, match="the file does not specify what feeds it") as caught:
        fold_bundle(make_bundle(standing("a").replace(calls=()), standing("b"), kernels={"b": "because"}))
    assert "give the whole model, or --architecture" in caught.value.hint
    with pytest.raises(UnsupportedError, match=r"no kernels are read from this kind of file \(keras-h5\)"):
        fold_bundle(make_bundle(standing()))

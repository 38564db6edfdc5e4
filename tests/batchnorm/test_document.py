"""Every field of the JSON document: when it is there, what it says, and what becomes of it when it is read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from exporter.batchnorm import document as module
from exporter.batchnorm import schema
from exporter.batchnorm.bundle import Origin
from exporter.batchnorm.document import document, from_document
from exporter.batchnorm.places import Call, Neighbor
from exporter.errors import BundleError, ExporterError
from tests.make.layers import make_bundle, make_layer, same_layer

CONV = Neighbor(path="conv", class_name="Conv2D", activation="relu", axis=3, use_bias=False, is_shared=True)
RELU = Neighbor(path="relu", class_name="ReLU")
CALL, OTHER = Call((CONV,), (RELU,)), Call((), (RELU, RELU))
OPTIONAL = ("effective_epsilon", "kernel_epsilon", "assumed", "converted", "quantized", "called_in_training", "inputs", "outputs", "calls",
            "vectors")


def entry(layer, **options):
    return document(make_bundle(layer), **{"with_vectors": False, **options})["layers"][0]


def as_lists(value):
    """As JSON has it."""
    return json.loads(json.dumps(value, default=lambda each: each.astype(np.float64).tolist()))


@pytest.mark.parametrize(("fields", "said"), [
    ({}, {}), ({"effective_epsilon": 0.1}, {"effective_epsilon": 0.1, "kernel_epsilon": float(np.float32(0.1))}),
    ({"assumed": ("axis", "epsilon")}, {"assumed": ["axis", "epsilon"]}), ({"converted": ("epsilon",)}, {"converted": ["epsilon"]}),
    ({"quantized": "uint8"}, {"quantized": "uint8"}), ({"called_in_training": True}, {"called_in_training": True}),
    ({"calls": (CALL,)}, {"inputs": [{"path": "conv", "class_name": "Conv2D", "activation": "relu", "axis": 3, "use_bias": False,
                                      "shared": True}], "outputs": [{"path": "relu", "class_name": "ReLU"}]}),
    ({"calls": (CALL, OTHER)}, {"calls": [CALL.as_dict(), OTHER.as_dict()]})])
def test_fields_that_few_layers_have(fields, said):
    layer = make_layer(**fields)
    found = entry(layer)
    assert {name: found[name] for name in OPTIONAL if name in found} == said
    assert same_layer(from_document(as_lists(document(make_bundle(layer)))).layers[0], layer)


@pytest.mark.parametrize(("shape", "axis", "ndim", "momentum", "missing"), [
    ((4,), (-1,), None, 0.9, ()), ((2, 3), (1, 3), 4, None, ("gamma",)), ((1,), (3,), 4, 1.0, ("beta",)),
    ((5,), (1,), 5, 0.0, ("gamma", "beta"))])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_fields_that_all_layers_have(shape, axis, ndim, momentum, missing, dtype):
    layer = make_layer(shape=shape, axis=axis, ndim=ndim, momentum=momentum, dtype=dtype, epsilon=0.25).replace(**dict.fromkeys(missing))
    found = as_lists(entry(layer))
    assert (found["shape"], found["axis"], found["ndim"], found["momentum"]) == (list(shape), list(axis), ndim, momentum)
    assert (found["dtype"], found["epsilon"], found["class_name"]) == (dtype, 0.25, "BatchNormalization")
    assert [name for name in ("gamma", "beta", "moving_mean", "moving_variance") if found[name] is None] == list(missing)
    assert found["moving_mean"] == layer.moving_mean.astype(np.float64).ravel().tolist()
    assert same_layer(from_document(as_lists(document(make_bundle(layer)))).layers[0], layer)


def test_the_vectors_are_there_unless_they_are_not_wanted():
    layer = make_layer()
    assert "vectors" not in entry(layer)
    x, y = from_document(as_lists(document(make_bundle(layer), with_vectors=True))).vectors[layer.path]
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((2, 4), np.float32, (2, 4), np.float32)
    assert from_document(as_lists(document(make_bundle(layer), with_vectors=False))).vectors == {}


@pytest.mark.parametrize("origin", [Origin(file="a", kind="keras-h5"), Origin(
    file="b", kind="saved-model", keras_version="2.4.0", backend="tensorflow", tensorflow_version="2.4.1")])
@pytest.mark.parametrize("skipped", [(), (("a", "why"), ("b", "because"))])
def test_where_it_comes_from(origin, skipped):
    content = as_lists(document(make_bundle(origin=origin, skipped=skipped)))
    assert content["source"] == {"file": origin.file, "kind": origin.kind, "keras_version": origin.keras_version, "backend": origin.backend,
                                 **({"tensorflow_version": "2.4.1"} if origin.tensorflow_version else {})}
    assert content.get("skipped") == ([{"path": path, "reason": reason} for path, reason in skipped] or None)
    back = from_document(content)
    assert (back.origin, back.skipped) == (origin, skipped)


def changed(bundle=None, **fields):
    """A document with other fields in its only layer."""
    content = as_lists(document(bundle or make_bundle(make_layer(epsilon=1e-6, effective_epsilon=1.001e-5, ndim=4))))
    content["layers"][0] |= fields
    return {**content, "layers": [{key: value for key, value in content["layers"][0].items() if value is not ...}]}


@pytest.mark.parametrize(("fields", "said"), [
    ({"shape": [5]}, r"expected 5 numbers for shape \[5\] in gamma, got 4"), ({"beta": [1, 2, 3]}, "in beta, got 3"),
    ({"shape": [2, 2]}, "does not fit parameters of shape"), ({"axis": [2**31]}, "axis contains 2.14748e"),
    ({"axis": [-(2**31)]}, "axis contains -2.14748e"), ({"axis": [2**31 - 1]}, "axis 2147483647 does not fit an input of rank 4"),
    ({"ndim": 2**31}, "ndim contains"), ({"axis": [1 - 2**31]}, "axis -2147483647 does not fit"), ({"axis": [-4]}, "axis -4 does not fit"),
    ({"moving_mean": [0, 0, 0, 1e39]}, "moving_mean contains a number that does not fit float32"),
    ({"moving_mean": [0, 0, 0, -1e39]}, "moving_mean contains a number that does not fit float32"),
    ({"gamma": [1, 2, 3, 2.0**200]}, "gamma contains a number"), ({"gamma": []}, "gamma"), ({"gamma": [[1, 2, 3, 4]]}, "gamma"),
    ({"effective_epsilon": ...}, "kernel_epsilon is present without effective_epsilon"),
    ({"effective_epsilon": None}, "None is not"), ({"epsilon": 2e-5}, "expected an effective_epsilon of at least epsilon"),
    ({"epsilon": 1e-5}, "the digest does not match"), ({"axis": [3]}, "the digest does not match"),
    ({"beta": None}, "the digest does not match"), ({"dtype": "float64"}, "the digest does not match"),
    ({"path": "x"}, "the digest does not match"), ({"moving_variance": [1, 2, 3, 4]}, "the digest does not match"),
    ({"vectors": {"input": [[1, 2, 3]] * 2, "output": [[1, 2, 3]] * 2}}, "expected rows of 4 numbers as input and output"),
    ({"vectors": {"input": [[1, 2, 3, 4]], "output": [[1, 2, 3, 4]] * 2}}, "expected rows of 4 numbers as input and output"),
    ({"vectors": {"input": [[1, 2, 3, 4], [1]], "output": [[1, 2, 3, 4]] * 2}}, "expected rows of 4 numbers as input and output"),
    ({"vectors": {"input": [[1, 2, 3, 1e39]], "output": [[1, 2, 3, 4]]}}, "input contains a number that does not fit float32"),
    ({"vectors": {"input": [[1, 2, 3, 4]], "output": [[1, 2, 3, 1e39]]}}, "output contains a number that does not fit float32"),
    ({"vectors": {"input": [1, 2, 3, 4], "output": [1, 2, 3, 4]}}, "vectors"), ({"vectors": {"input": [[1, 2, 3, 4]]}}, "output"),
    ({"vectors": [[1]]}, "vectors")])
def test_a_layer_that_breaks_the_contract(fields, said):
    with pytest.raises(ExporterError, match=said):
        from_document(changed(**fields))


@pytest.mark.parametrize("fields", [
    {"kernel_epsilon": ...}, {"ndim": 4.0}, {"axis": [-1.0]}, {"shape": [4.0]}, {"momentum": None}, {"momentum": 1}, {"class_name": "Own"},
    {"vectors": ...}, {"color": "blue"}, {"vectors": {"input": [[1, 2, 3, 4]] * 3, "output": [[4, 3, 2, 1.5]] * 3}}])
def test_a_layer_that_does_not(fields):
    (layer,) = from_document(changed(**fields)).layers
    assert (layer.ndim, layer.axis, layer.shape, layer.effective_epsilon) == (4, (-1,), (4,), 1.001e-5)
    assert {type(number) for number in (layer.ndim, *layer.axis, *layer.shape)} == {int}
    assert layer.momentum is None or type(layer.momentum) is float


@pytest.mark.parametrize("fields", [{"inputs": [CONV.as_dict()]}, {"outputs": [RELU.as_dict()]}])
def test_one_half_of_a_place_is_no_place(fields):
    (layer,) = from_document(changed(**fields)).layers
    assert layer.calls == ()


@pytest.mark.parametrize(("version", "hint"), [(2, "upgrade bn-export"), (99, "upgrade bn-export"), (0, ""), (-1, ""), ("1", ""), (1.0, ""),
                                               (None, ""), (False, "")])
def test_versions(version, hint):
    with pytest.raises(ExporterError, match="expected a bundle of version 1, got version") as caught:
        from_document({**changed(), "version": version})
    assert caught.value.hint == hint


@pytest.mark.parametrize("content", [None, [], "bn-bundle", {}, {"format": "other"}, {"version": 1, "layers": []}])
def test_what_is_no_bundle(content):
    with pytest.raises(ExporterError, match="this is not a bundle"):
        from_document(content)


@pytest.mark.parametrize("layers", [None, {}, "x", [None], [1], ["x"], [[]]])
def test_layers_that_are_none(layers):
    with pytest.raises(ExporterError, match="layers"):
        from_document({**changed(), "layers": layers})


def test_a_path_that_occurs_twice_is_named():
    content = changed()
    with pytest.raises(ExporterError, match=r"the path encoder/bn_1 occurs twice|the path 'encoder/bn_1' occurs twice"):
        from_document({**content, "layers": content["layers"] * 2})


def test_more_numbers_than_any_model_has_are_refused_before_layers_are_made(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "check_numbers", seen.append)
    from_document(as_lists(document(make_bundle(make_layer("a"), make_layer("b", shape=(2, 3), axis=(1, 2), gamma=False)))))
    assert seen == [4 * 4 + 3 * 6]


def test_one_layer_is_validated_as_it_is_in_a_document():
    content = entry(make_layer())
    schema.validate_layer(content)
    for key in ("gamma", "epsilon", "axis"):
        with pytest.raises(BundleError, match=f"'{key}' is a required property"):
            schema.validate_layer({name: value for name, value in content.items() if name != key})
    with pytest.raises(BundleError, match="dtype: 'int8' is not one of"):
        schema.validate_layer({**content, "dtype": "int8"})

"""Layers that are treated together are treated as each would be alone."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from exporter.batchnorm import alike, schema, vectors
from exporter.batchnorm.layer import BatchNorm
from exporter.batchnorm.places import Call, Neighbor
from exporter.errors import BundleError, LayerError
from exporter.targets import bundle_json
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import make_bundle, make_layer, make_stored, same_layer

NEAR = Neighbor(path="a\"%b", class_name="Conv2D", axis=3, use_bias=True, activation="relu", padding="same", is_shared=True)
ONE, TWO = (Call((NEAR,), ()),), (Call((), (NEAR, NEAR)), Call((), ()))
KINDS = [{}, {"gamma": None}, {"gamma": None, "beta": None}, {"calls": ONE}, {"calls": TWO},
         {"quantized": "uint8", "called_in_training": True},
         {"effective_epsilon": 0.5, "assumed": ("axis", "%s")}, {"momentum": 1}, {"momentum": 1.0}, {"epsilon": 0.0}, {"epsilon": -0.0},
         {"class_name": "100%d>\u00fc"}]
FORMS = [{"dtype": dtype, **form} for dtype in ("float16", "bfloat16", "float32", "float64")
         for form in ({"shape": (1,)}, {"shape": (5,)}, {"shape": (2, 3), "axis": (1, -1)})]


def layers(kind, form, count=3):
    return [make_layer(f"net/{number}%", seed=number, **form).replace(**kind) for number in range(count)]


@pytest.mark.parametrize("with_vectors", [True, False])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_text_of_each_layer_is_that_of_it_alone(form, with_vectors):
    options = WriteOptions(vectors=with_vectors)
    run = [layer.replace(path=f"{place}/{layer.path}") for place, kind in enumerate(KINDS) for layer in layers(kind, form)]
    alone = b",\n    ".join(b"{" + bundle_json._entry_at_once(layer, options) + b"\n    }" for layer in run)
    assert alone in bundle_json.write(make_bundle(*run), options)
    for some in alike.runs(run):
        for layer, x, y in zip(some, *vectors.of_run(some, alike.stacked(some)), strict=True):
            assert [rows.tobytes() for rows in vectors.make(layer)] == [x.tobytes(), y.tobytes()]


def test_runs_are_of_layers_that_have_all_else_in_common():
    run = [layer for kind in KINDS for layer in layers(kind, {"shape": (2,)})]
    assert [len(some) for some in alike.runs(run)] == [3] * len(KINDS)
    mixed = list(itertools.chain(*zip(*(layers(kind, {"shape": (2,)}) for kind in KINDS), strict=True)))
    assert [len(some) for some in alike.runs(mixed)] == [1] * len(mixed)
    assert [layer for some in alike.runs(mixed) for layer in some] == mixed


def test_runs_are_not_longer_than_is_good_for_memory(monkeypatch):
    monkeypatch.setattr(alike, "MAX_LAYERS", 4)
    monkeypatch.setattr(alike, "MAX_NUMBERS", 9)
    assert [len(some) for some in alike.runs(layers({}, {"shape": (2,)}, 9))] == [4, 4, 1]
    assert [len(some) for some in alike.runs(layers({}, {"shape": (4,)}, 5))] == [2, 2, 1]
    assert [len(some) for some in alike.runs(layers({}, {"shape": (10,)}, 3))] == [1, 1, 1]


@pytest.mark.parametrize("fields", [
    {}, {"gamma": False}, {"dtype": "bfloat16"}, {"calls": ONE}, {"name": ""}, {"assumed": ("axis",)}], ids=str)
def test_layers_are_completed_as_each_would_be(fields):
    run = [make_stored(f"net/{number}", seed=number, **fields) for number in range(4)]
    made = alike.of_run(run)
    assert list(map(type, made)) == [BatchNorm] * 4
    assert all(map(same_layer, made, map(BatchNorm.of, run)))
    assert not any(values.flags.writeable for layer in made for values in layer.parameters().values())
    with pytest.raises(LayerError):
        made[2].replace(epsilon=-1.0)


@pytest.mark.parametrize("bad", [
    {"moving_variance": np.float32([1, -1, 1, 1])}, {"moving_variance": np.float32([1, 1, 1, -0.001])},
    {"gamma": np.float32([1, np.nan, 1, 1])},
    {"beta": np.float32([1, 1, 1, np.inf])}, {"moving_mean": np.float32([1, 1, 1])}, {"moving_mean": np.float64([1, 1, 1, 1])},
    {"gamma": np.float32([[1, 1], [1, 1]])}], ids=str)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_what_is_wrong_with_one_layer_is_said_as_of_it_alone(bad, place):
    run = [make_stored(f"net/{number}", seed=number, epsilon=0.001) for number in range(4)]
    run[place] = dataclasses.replace(run[place], **bad)
    with pytest.raises(LayerError) as alone:
        BatchNorm.of(run[place])
    with pytest.raises(LayerError) as together:
        alike.of_run(run)
    assert (str(together.value), together.value.where, together.value.hint) == (str(alone.value), alone.value.where, alone.value.hint)


@pytest.mark.parametrize("rare", [0x15AE43FD, 0x95AE43FD])
def test_a_number_that_needs_more_digits_gives_them_only_to_its_own_arrays(rare):
    run = layers({}, {"shape": (3,)})
    run[1] = run[1].replace(beta=np.array([1, 2, 0], np.float32) + np.array([0, 0, rare], np.uint32).view(np.float32))
    text = bundle_json.write(make_bundle(*run), WriteOptions())
    assert text.count(b"7.03853") == 3  # gamma is 0 in this channel, so that its outputs are beta
    assert all(bundle_json._entry_at_once(layer, WriteOptions()) in text for layer in run)


@pytest.mark.parametrize("wrong", [{"path": 5}, {"name": None}, {"calls": (Call((dataclasses.replace(NEAR, axis="3"),), ()),)}], ids=str)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_layer_is_validated(wrong, place):
    run = layers({"calls": ONE}, {"shape": (3,)})
    for field, value in wrong.items():
        object.__setattr__(run[place], field, value)
    with pytest.raises(BundleError) as alone:
        bundle_json._entry_at_once(run[place], WriteOptions())
    with pytest.raises(BundleError) as together:
        list(bundle_json._entries_of_run(run, WriteOptions()))
    assert str(together.value) == str(alone.value)
    assert schema.accepts({"path": "a", "name": "b"})


def test_an_object_of_known_keys_and_types_is_valid_and_no_other():
    near = {"path": "a", "class_name": "Conv2D", "axis": 3, "shared": True}
    for _ in range(2):  # the second time it is known
        assert schema.accepts({"inputs": [near, {**near, "path": "b", "axis": 5}], "outputs": [{**near, "new": None}]})
        for wrong in ({"axis": True}, {"axis": 3.5}, {"axis": None}, {"shared": 1}, {"path": 1}, {"padding": 0}):
            assert not schema.accepts({"inputs": [near | wrong]}), wrong
        assert not any(schema.accepts({"outputs": [wrong]}) for wrong in ({}, {"path": "a"}, {"class_name": "a"}, [], None, "", ()))

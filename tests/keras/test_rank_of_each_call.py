"""The rank of what goes into a layer behind one that is called several times, or behind a model with several outputs."""

from __future__ import annotations

import pytest

from exporter.keras.config import model_tree
from exporter.keras.ranks import input_ranks
from tests.keras.test_places import called, layer, model, norm, source

CONV, FLAT, DENSE = layer("Conv2D", "conv"), layer("Flatten", "flat"), layer("Dense", "dense")


def rank_of(config, name="bn"):
    return next((rank for node, rank in input_ranks(model_tree(config, "m")).items() if node.name == name), None)


def relu_twice(second, reader, norm_of=1, **more):
    """A ReLU behind a convolution, and again behind `second`; the batch norm reads one of its calls."""
    relu = called({**layer("ReLU", "relu"), **more}, ["conv"], [second])
    return model(source(), called(CONV, ["x"]), relu, *reader, called(norm(), [("relu", norm_of)]), outputs=["bn"])


@pytest.mark.parametrize("norm_of", [0, 1])
def test_calls_of_other_ranks_make_it_uncertain(norm_of):
    behind = [called(FLAT, [("relu", 0)]), called(DENSE, ["flat"])]
    assert rank_of(relu_twice("dense", behind, norm_of)) is None


def test_a_layer_that_was_built_on_one_of_them_does_not_make_it_certain():
    behind = [called(FLAT, [("relu", 0)]), called(DENSE, ["flat"])]
    assert rank_of(relu_twice("dense", behind, build_config={"input_shape": [None, 4, 4, 3]})) is None


def test_calls_of_one_rank_do_not():
    assert rank_of(relu_twice("again", [called(layer("Conv2D", "again"), [("relu", 0)])])) == 4


def test_a_kernel_has_its_rank_in_every_call():
    conv = called(CONV, ["x"], ["unknown"])
    before = called(layer("Lambda", "unknown"), ["x"])
    assert rank_of(model(source(), before, conv, called(norm(), [("conv", 1)]), outputs=["bn"])) == 4


@pytest.mark.parametrize(("outputs", "rank"), [(["conv", "pool"], None), (["conv", "conv"], 4), (["pool"], 2)])
def test_the_outputs_of_a_model_may_differ(outputs, rank):
    parts = [source("i"), called(CONV, ["i"]), called(layer("GlobalAveragePooling2D", "pool"), ["conv"])]
    inner = model(*parts, inputs=["i"], outputs=outputs, name="inner")
    assert rank_of(model(source(), called(inner, ["x"]), called(norm(), ["inner"]), outputs=["bn"])) == rank


@pytest.mark.parametrize("registered", [{"class_name": "acme>Activation"}, {"registered_name": "Activation"}])
def test_a_users_class_of_a_known_name_may_do_anything(registered):
    pool = called({**layer("Activation", "pool"), **registered}, ["x"])
    assert rank_of(model(source(), pool, called(norm(), ["pool"]), outputs=["bn"])) is None

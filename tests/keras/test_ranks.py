"""The rank of what goes into a layer, from the config: of each class of Keras that has one."""

from __future__ import annotations

import pytest

from exporter.keras.config import model_tree
from exporter.keras.ranks import input_ranks
from tests.make.configs import norm, sequential

SPATIAL = ["Conv", "Convolution", "AtrousConv", "AtrousConvolution", "SeparableConv", "SeparableConvolution", "DepthwiseConv",
           "Deconvolution", "LocallyConnected", "MaxPooling", "AveragePooling", "MaxPool", "AvgPool", "AveragePool", "UpSampling",
           "ZeroPadding", "Cropping", "SpatialDropout"]
GLOBAL = ["GlobalMaxPooling", "GlobalAveragePooling", "GlobalMaxPool", "GlobalAvgPool", "GlobalAveragePool"]
SAME = ["LayerNormalization", "GroupNormalization", "UnitNormalization", "Normalization", "Rescaling", "Activation", "ReLU", "LeakyReLU",
        "PReLU", "ELU", "ThresholdedReLU", "Softmax", "ParametricSoftplus", "SReLU", "Dropout", "AlphaDropout", "GaussianDropout",
        "GaussianNoise", "ActivityRegularization", "Masking", "Permute", "Dense", "TimeDistributedDense", "Highway", "MaxoutDense"]


def layer(class_name, **config):
    return {"class_name": class_name, "config": {"name": "before", **config}}


def behind(*layers, shape=None):
    """The rank of what goes into a batch norm behind these layers."""
    before, *more = layers
    if shape is not None:
        before = {**before, "config": {**before["config"], "batch_input_shape": [None, *shape]}}
    tree = model_tree(sequential(before, *more, norm("bn")), "m")
    return next((rank for node, rank in input_ranks(tree).items() if node.name == "bn"), None)


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("more", ["", "Transpose"])
def test_what_slides_over_space_says_it_itself(name, dimensions, more):
    """Also what undoes it: a decoder begins with Conv2DTranspose."""
    assert behind(layer(f"{name}{dimensions}D{more}")) == dimensions + 2


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(("config", "rank"), [({"return_sequences": True}, 3), ({"return_sequences": False}, 2),
                                              ({"return_state": True}, None)])
def test_a_convolution_in_a_cell_goes_over_time(dimensions, config, rank):
    assert behind(layer(f"ConvLSTM{dimensions}D", **config)) == (rank and dimensions + rank)


@pytest.mark.parametrize("name", GLOBAL)
def test_what_pools_over_all_of_space(name):
    assert behind(layer(f"{name}2D")) == 2
    assert behind(layer(f"{name}2D", keepdims=True)) == 4


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("rank", [2, 4])
def test_what_keeps_the_rank(name, rank):
    assert behind(layer(name), shape=[3] * (rank - 1)) == rank


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU"])
def test_what_runs_over_a_sequence(name):
    assert behind(layer(name), shape=[5, 3]) == 2
    assert behind(layer(name, return_sequences=True), shape=[5, 3]) == 3
    assert behind(layer(name, return_state=True), shape=[5, 3]) is None


@pytest.mark.parametrize(("before", "shape", "rank"), [
    (layer("Flatten"), [4, 4, 3], 2), (layer("RepeatVector", n=4), [3], 3), (layer("Reshape", target_shape=[2, 2, 3]), [12], 4),
    (layer("Reshape", dims=[2, 6]), [12], 3), (layer("Reshape"), [12], None), (layer("Embedding", input_length=7), [7], 3),
    (layer("Embedding"), [7], None), (layer("Lambda"), [7], None), (layer("SomebodysOwn"), [4, 4, 3], None)])
def test_what_changes_the_rank(before, shape, rank):
    assert behind(before, shape=shape) == rank


@pytest.mark.parametrize(("inner", "shape", "rank"), [
    (layer("Dense"), [5, 3], 3), (layer("Conv2D"), [5, 8, 8, 3], 5), (layer("Flatten"), [5, 4, 4, 3], 3), (layer("LSTM"), [9, 5, 3], 3),
    (layer("Lambda"), [5, 3], None)])
def test_a_layer_for_each_step(inner, shape, rank):
    """TimeDistributed puts back the axis that it takes away."""
    assert behind(layer("TimeDistributed", layer=inner), shape=shape) == rank


@pytest.mark.parametrize(("config", "rank"), [({"merge_mode": "concat"}, 2), ({"merge_mode": None}, None)])
def test_both_directions_in_one_output_or_in_two(config, rank):
    assert behind(layer("Bidirectional", layer=layer("LSTM"), **config), shape=[5, 3]) == rank

"""Where a batch norm of a graph stands: kernels and their biases, ops that follow, and what is not said because it is not certain."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.batchnorm.places import Neighbor
from tests.make.graph_files import Function, chain, const, frozen_variables, function, graph, node, parameters

X = node("x", "Placeholder", shape=(-1, 4, 4, 3))
KERNEL = const("c/kernel", np.ones((1, 1, 3, 3), np.float32))


def read(tmp_path, *nodes, functions=()):
    reads, names = frozen_variables("bn", parameters())
    (tmp_path / "g.pb").write_bytes(graph(X, *reads, *nodes, functions=functions))
    return exporter.read(tmp_path / "g.pb")["bn"], names


def norm(x, name="bn/FusedBatchNormV3", scope="bn"):
    return node(name, "FusedBatchNormV3", x, *(f"{scope}/{role}/read" for role in ("gamma", "beta", "moving_mean", "moving_variance")),
                is_training=False, epsilon=0.001)


def conv(name="c/Conv2D", x="x"):
    return node(name, "Conv2D", x, "c/kernel", padding="SAME")


BIAS = [const("c/bias", np.ones(3, np.float32)), node("c/BiasAdd", "BiasAdd", "c/Conv2D", "c/bias")]


def test_a_kernel_with_and_without_its_bias_and_what_follows(tmp_path):
    relu = node("relu/Relu", "Relu", "bn/FusedBatchNormV3")
    layer, _ = read(tmp_path, KERNEL, conv(), norm("c/Conv2D"), relu)
    assert layer.inputs == (Neighbor(path="c", class_name="Conv2D", axis=3, use_bias=False),)
    assert layer.outputs == (Neighbor(path="relu/Relu", class_name="Relu"),)
    passes = [node("i", "Identity", "c/BiasAdd"), node("j", "Identity", "bn/FusedBatchNormV3")]
    layer, _ = read(tmp_path, KERNEL, conv(), *BIAS, *passes, norm("i"),
                    node("next/Conv2D", "Conv2D", "j", "c/kernel", padding="VALID"))
    assert layer.inputs == (Neighbor(path="c", class_name="Conv2D", axis=3, use_bias=True),)
    assert layer.outputs == (Neighbor(path="next", class_name="Conv2D", padding="valid"),)


def test_it_decides_what_fold_allows(tmp_path):
    kernel = np.ones((1, 1, 3, 3), np.float32)
    layer, _ = read(tmp_path, KERNEL, conv(), norm("c/Conv2D"))
    assert exporter.fold(layer, kernel).bias.shape == (3,)
    layer, _ = read(tmp_path, KERNEL, conv(), node("r", "Relu", "c/Conv2D"), norm("r"))
    with pytest.raises(exporter.LayerError, match="it is fed by r of class Relu"):
        exporter.fold(layer, kernel)


TWIN = [*frozen_variables("twin", parameters(seed=9))[0], norm("c/Conv2D", "twin/FusedBatchNormV3", "twin")]


@pytest.mark.parametrize("more", [[node("other", "Relu", "c/Conv2D")], TWIN])
def test_an_output_that_something_else_reads_is_shared(tmp_path, more):
    layer, _ = read(tmp_path, KERNEL, conv(), norm("c/Conv2D"), *more)
    assert layer.inputs[0].is_shared
    layer, _ = read(tmp_path, KERNEL, conv(), norm("c/Conv2D"), node("size", "Shape", "c/Conv2D"))
    assert not layer.inputs[0].is_shared, "a shape is no number of it"


def test_a_chain_stands_where_a_fused_op_does(tmp_path):
    _, names = frozen_variables("bn", parameters())
    layer, _ = read(tmp_path, KERNEL, conv(), *chain("bn", "c/Conv2D", *names), node("relu", "Relu", "bn/batchnorm/add_1"))
    assert layer.inputs == (Neighbor(path="c", class_name="Conv2D", axis=3, use_bias=False),)
    assert [each.path for each in layer.outputs] == ["relu"]


def test_a_product_of_two_inputs_is_no_kernel(tmp_path):
    flat = node("y", "Placeholder", shape=(-1, 3))
    layer, _ = read(tmp_path, flat, node("m/MatMul", "MatMul", "y", "y"), norm("m/MatMul"))
    assert layer.calls == ()


def test_who_reads_the_statistics_of_a_fused_op_does_not_follow_it(tmp_path):
    relu, other = node("relu", "Relu", "bn/FusedBatchNormV3"), node("log", "Log", "bn/FusedBatchNormV3:1")
    layer, _ = read(tmp_path, KERNEL, conv(), norm("c/Conv2D"), relu, other)
    assert [each.path for each in layer.outputs] == ["relu"]


@pytest.mark.parametrize("is_read", [False, True])
def test_a_kernel_whose_sums_something_else_reads_before_the_bias(tmp_path, is_read):
    """The bias is then not of a layer with that kernel alone: nothing is said."""
    more = [node("i", "Identity", "c/Conv2D"), BIAS[0], node("c/BiasAdd", "BiasAdd", "i", "c/bias")]
    layer, _ = read(tmp_path, KERNEL, conv(), *more, norm("c/BiasAdd"), *([node("other", "Relu", "i")] if is_read else []))
    assert [(each.path, each.use_bias) for call in layer.calls for each in call.inputs] == ([] if is_read else [("c", True)])


def test_what_may_be_a_part_of_a_layer_with_a_kernel_is_not_said(tmp_path):
    """Keras 3 adds a bias with AddV2, and a Conv1D is a Conv2D between ExpandDims and Squeeze: fold is not to be refused there."""
    bias = const("c/bias", np.ones(3, np.float32))
    for last in (node("c/add", "AddV2", "c/Conv2D", "c/bias"), node("c/add", "AddV2", "c/bias", "c/Conv2D"),
                 node("c/add", "Squeeze", "c/Conv2D", squeeze_dims=[])):
        layer, _ = read(tmp_path, KERNEL, conv(), bias, last, norm("c/add"))
        assert layer.calls == ()
    layer, _ = read(tmp_path, KERNEL, conv(), node("sum", "AddV2", "c/Conv2D", "x"), norm("sum"))
    assert [each.class_name for each in layer.inputs] == ["AddV2"]


def test_an_op_that_reads_itself(tmp_path):
    """As only a broken graph has it; here nothing but what follows asks for it."""
    layer, _ = read(tmp_path, KERNEL, conv(), norm("c/Conv2D"), node("s", "Switch", "bn/FusedBatchNormV3", "s"), node("y", "Relu", "s"))
    assert [each.path for each in layer.outputs] == ["y"]


def test_a_kernel_in_another_body_than_its_bias(tmp_path):
    roles = ["gamma", "beta", "moving_mean", "moving_variance"]
    inside = [node("add", "BiasAdd", "h", "bias"), node("bn", "FusedBatchNormV3", "add:output:0", *roles, is_training=False, epsilon=0.001),
              node("y", "Relu", "bn:y:0")]
    body = function("f", ["h", "bias", *roles], inside, {"y": "y:activations:0"})
    call = node("call", "PartitionedCall", "c/Conv2D", "c/bias", *(f"bn/{role}/read" for role in roles), f=Function("f"))
    layer, _ = read(tmp_path, KERNEL, conv(), BIAS[0], call, functions=[body])
    assert layer.calls == ()


def test_a_bias_that_the_graph_computes_is_none_of_a_layer_with_a_kernel(tmp_path):
    layer, _ = read(tmp_path, KERNEL, conv(), node("computed", "Placeholder"), node("c/add", "BiasAdd", "c/Conv2D", "computed"),
                    norm("c/add"))
    assert layer.inputs == (Neighbor(path="c/add", class_name="BiasAdd"),)


def test_a_dense_kernel_and_one_that_lies_the_other_way(tmp_path):
    kernel = const("d/kernel", np.ones((3, 3), np.float32))
    for said, axis in (({"transpose_b": False}, 1), ({"transpose_b": True}, 0), ({}, 1)):
        _, names = frozen_variables("bn", parameters())
        product = node("d/MatMul", "MatMul", "x", "d/kernel", **said)
        layer, _ = read(tmp_path, kernel, product, *chain("bn", "d/MatMul", *names))
        assert layer.inputs == (Neighbor(path="d", class_name="MatMul", axis=axis, use_bias=False),)


@pytest.mark.parametrize(("op", "axis"), [("Conv2D", 3), ("Conv3D", 4), ("DepthwiseConv2dNative", None), ("Conv2DBackpropInput", 2)])
def test_the_axis_of_a_kernels_output_channels(tmp_path, op, axis):
    """Of a transposed convolution, whose inputs are the output's shape, the kernel and x, the one before the last."""
    inputs = ["s", "c/kernel", "x"] if op == "Conv2DBackpropInput" else ["x", "c/kernel"]
    _, names = frozen_variables("bn", parameters())
    layer, _ = read(tmp_path, KERNEL, const("s", np.int32([1, 4, 4, 3])), node("c/op", op, *inputs), *chain("bn", "c/op", *names))
    assert [(each.class_name, each.axis) for each in layer.inputs] == [(op, axis)]


def test_a_layer_that_is_called_twice_has_no_one_place(tmp_path):
    layer, _ = read(tmp_path, KERNEL, conv(), norm("c/Conv2D"), conv("d/Conv2D"), norm("d/Conv2D", "again/FusedBatchNormV3"))
    assert layer.calls == ()
    layer, _ = read(tmp_path, KERNEL, conv(), norm("c/Conv2D"), norm("c/Conv2D", "again/FusedBatchNormV3"))
    assert layer.calls == (), "also on one input"


def test_what_another_body_computes_or_reads_is_not_said(tmp_path):
    roles = ["gamma", "beta", "mean", "variance"]
    inside = node("f/bn", "FusedBatchNormV3", "x", *roles, is_training=False, epsilon=0.001)
    body = function("f", ["x", *roles], [inside], {"y": "f/bn:y:0"})
    call = node("call", "PartitionedCall", "c/Conv2D", *(f"bn/{role}/read" for role in (
        "gamma", "beta", "moving_mean", "moving_variance")), f=Function("f"))
    layer, _ = read(tmp_path, KERNEL, conv(), call, functions=[body])
    assert layer.calls == ()


@pytest.mark.parametrize("result", ["bn:y:0", "y:activations:0"])
def test_what_follows_a_result_of_a_function_is_not_said(tmp_path, result):
    roles = ["gamma", "beta", "moving_mean", "moving_variance"]
    inside = [node("conv", "Conv2D", "h", "k", padding="SAME"), node("bn", "FusedBatchNormV3", "conv:output:0", *roles, is_training=False,
                                                                    epsilon=0.001), node("y", "Relu", "bn:y:0")]
    body = function("f", ["h", "k", *roles], inside, {"y": result})
    call = node("call", "PartitionedCall", "x", "c/kernel", *(f"bn/{role}/read" for role in roles), f=Function("f"))
    layer, _ = read(tmp_path, KERNEL, call, functions=[body])
    assert [each.path for call in layer.calls for each in call.outputs] == ([] if result == "bn:y:0" else ["y"])
    assert len(layer.calls) == (result != "bn:y:0")


@pytest.mark.parametrize("more", [{}, {"features": "conv:output:0"}])
def test_a_kernel_whose_output_is_a_result_of_the_function_is_shared(tmp_path, more):
    """The caller may read it, too: folded into the kernel, the batch norm would change what it gets."""
    roles = ["gamma", "beta", "moving_mean", "moving_variance"]
    inside = [node("conv", "Conv2D", "h", "k", padding="SAME"), node("bn", "FusedBatchNormV3", "conv:output:0", *roles, is_training=False,
                                                                    epsilon=0.001), node("y", "Relu", "bn:y:0")]
    body = function("f", ["h", "k", *roles], inside, {"y": "y:activations:0", **more})
    call = node("call", "PartitionedCall", "x", "c/kernel", *(f"bn/{role}/read" for role in roles), f=Function("f"))
    layer, _ = read(tmp_path, KERNEL, call, functions=[body])
    assert [each.is_shared for call in layer.calls for each in call.inputs] == [bool(more)]

"""Frozen graphs again: the ops that hold a batch norm beside other things, a single channel, and choices that are made already."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.errors import UnresolvedError, UnsupportedError
from tests.make.graph_files import Function, chain, const, frozen_variables, function, node, parameters
from tests.sources.test_frozen_graph import ROLES, X, check, fused, read


@pytest.mark.parametrize("scaled", [True, False])
def test_the_op_of_2015(tmp_path, scaled):
    """BatchNormWithGlobalNormalization(t, m, v, beta, gamma): gamma comes last, and is not used unless the op says so."""
    values = parameters()
    nodes, (g, b, mean, variance) = frozen_variables("bn", values)
    op = node("bn/norm", "BatchNormWithGlobalNormalization", "x", mean, variance, b, g, variance_epsilon=0.02,
              scale_after_normalization=scaled)
    layer = read(tmp_path, X, *nodes, op)["bn"]
    check(layer, [values[0] if scaled else None, *values[1:]], epsilon=0.02)
    assert (layer.class_name, layer.axis, layer.ndim) == ("BatchNormWithGlobalNormalization", (-1,), 4)


@pytest.mark.parametrize("op", ["_FusedConv2D", "_FusedDepthwiseConv2dNative"])
@pytest.mark.parametrize(("layout", "axis"), [("NHWC", (-1,)), ("NCHW", (1,))])
def test_a_convolution_that_grappler_fused_it_into(tmp_path, op, layout, axis):
    """_FusedConv2D(input, filter, scale, offset, mean, variance)."""
    values = parameters()
    nodes, reads = frozen_variables("conv/bn", values)
    kernel = const("kernel", np.ones((1, 1, 3, 3), "f4"))
    layer = read(tmp_path, X, *nodes, kernel,
                 node("conv", op, "x", "kernel", *reads, fused_ops=["FusedBatchNorm", "Relu"], epsilon=2e-3, data_format=layout))["conv/bn"]
    check(layer, values, epsilon=2e-3)
    assert (layer.axis, layer.ndim) == (axis, 4)


def test_a_convolution_that_something_else_was_fused_into(tmp_path):
    nodes = [const("kernel", np.ones((1, 1, 3, 3), "f4")), const("bias", np.ones(3, "f4"))]
    with pytest.raises(UnsupportedError, match="contains no BatchNormalization"):
        read(tmp_path, X, *nodes, node("conv", "_FusedConv2D", "x", "kernel", "bias", fused_ops=["BiasAdd", "Relu"]))


@pytest.mark.parametrize("swapped", [False, True])
def test_of_one_channel_the_number_without_a_dimension_is_epsilon(tmp_path, swapped):
    values = parameters(1)
    nodes, reads = frozen_variables("bn", values)
    ops = chain("bn", "x", *reads, epsilon=0.03)
    if swapped:
        ops[1] = node("bn/batchnorm/add", "AddV2", "bn/batchnorm/add/y", reads[3])
    layer = read(tmp_path, node("x", "Placeholder", shape=(-1, 4, 4, 1)), *nodes, *ops)["bn"]
    check(layer, values, epsilon=0.03)
    assert (layer.axis, layer.shape) == ((-1,), (1,))


@pytest.mark.parametrize(("shape", "axis"), [((1, 1, 1, 1), (1,)), ((1,), (-1,)), ((1, 1), (-1,))])
def test_one_channel_that_is_reshaped_lies_along_another_axis_than_the_last(tmp_path, shape, axis):
    """tf.keras reshapes parameters only where the axis is not the last one."""
    values = parameters(1)
    nodes, reads = frozen_variables("bn", values)
    reshaped = [const("s", np.int32(shape)), *(node(f"r{n}", "Reshape", one, "s") for n, one in enumerate(reads))]
    x = node("x", "Placeholder", shape=(-1, 1, 4, 4))
    layer = read(tmp_path, x, *nodes, *reshaped, *chain("bn", "x", "r0", "r1", "r2", "r3"))["bn"]
    assert (layer.axis, layer.shape) == (axis, (1,))
    assert layer.moving_variance.tobytes() == values[3].tobytes()


@pytest.mark.parametrize("op", ["If", "StatelessIf"])
def test_a_choice_that_is_made_already(tmp_path, op):
    """keras_learning_phase, frozen: only the branch that will run is looked at, also where that is the one of training."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    branches = [function("batch", ["x", *ROLES], [node("y", "FusedBatchNormV3", "x", *ROLES)], {"o": "y:y:0"}),
                function("stored", ["x", *ROLES], [node("y", "FusedBatchNormV3", "x", *ROLES, is_training=False)], {"o": "y:y:0"})]
    choice = node("c", op, "phase", "x", *reads, then_branch=Function("batch"), else_branch=Function("stored"))
    bundle = read(tmp_path, X, *nodes, const("phase", np.bool_(False)), choice, functions=branches)
    check(bundle["bn"], values, epsilon=1e-4)
    with pytest.raises(UnresolvedError, match="statistics of the batch"):
        read(tmp_path, X, *nodes, const("phase", np.bool_(True)), choice, functions=branches)


def test_both_sides_of_a_choice_that_is_not_made(tmp_path):
    first, second = parameters(), parameters(seed=1)
    nodes, reads = frozen_variables("first", first)
    more, others = frozen_variables("second", second)
    branch = [node("y", "FusedBatchNormV3", "x", *ROLES, is_training=False)]
    functions = [function("one", ["x", *ROLES, *(f"o_{role}" for role in ROLES)], branch, {"o": "y:y:0"}),
                 function("two", ["x", *(f"o_{role}" for role in ROLES), *ROLES], branch, {"o": "y:y:0"})]
    choice = node("c", "If", "phase", "x", *reads, *others, then_branch=Function("one"), else_branch=Function("two"))
    bundle = read(tmp_path, X, *nodes, *more, node("phase", "Placeholder"), choice, functions=functions)
    assert bundle.paths() == ["first", "second"]


def test_a_transpose_that_does_not_come_back_changes_nothing(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    orders = [const("p", np.int32([0, 2, 3, 1])), const("q", np.int32([0, 1, 2, 3]))]
    layer = read(tmp_path, X, *nodes, *orders, node("t", "Transpose", "x", "p"), fused("bn", reads, x="t"),
                 node("u", "Transpose", "bn/FusedBatchNormV3", "q"))["bn"]
    assert (layer.axis, layer.ndim) == ((-1,), 4)


def test_a_transpose_behind_both_sides_of_a_conditional_is_one(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    orders = [const("p", np.int32([0, 2, 3, 1])), const("q", np.int32([0, 3, 1, 2]))]
    sides = [node("s", "Switch", "bn/FusedBatchNormV3", "train"), node("a", "Identity", "s"), node("b", "Identity", "s:1"),
             node("m", "Merge", "a", "b")]
    layer = read(tmp_path, X, node("train", "Placeholder"), *nodes, *orders, node("t", "Transpose", "x", "p"), fused("bn", reads, x="t"),
                 *sides, node("u", "Transpose", "m", "q"))["bn"]
    assert (layer.axis, layer.ndim) == ((1,), 4)


def test_a_function_that_is_called_for_two_layers_holds_both(tmp_path):
    first, second = parameters(), parameters(seed=1)
    nodes, reads = frozen_variables("a", first)
    more, others = frozen_variables("b", second)
    body = function("f", ["h", *ROLES], [node("y", "FusedBatchNormV3", "h", *ROLES, is_training=False, epsilon=0.001)], {"o": "y:y:0"})
    calls = [node("one", "PartitionedCall", "x", *reads, f=Function("f")), node("two", "PartitionedCall", "one", *others, f=Function("f"))]
    bundle = read(tmp_path, X, *nodes, *more, *calls, functions=[body])
    check(bundle["a"], first)
    check(bundle["b"], second)


@pytest.mark.parametrize("op", ["While", "StatelessWhile"])
@pytest.mark.parametrize("inside", ["same", "changed", "exchanged", "in circles", "too many", "too few"])
def test_a_parameter_that_comes_out_of_a_loop(tmp_path, op, inside):
    """It is the one that went in if no step of the loop changes it."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    gamma, beta = {"same": ("i:output:0", "b"), "changed": ("d:z:0", "b"), "exchanged": ("b", "g"),
                   "in circles": ("k:output:0", "b"), "too many": ("g", "b"), "too few": ("g", "b")}[inside]
    ops = [node("i", "Identity", "g"), node("d", "Add", "g", "g"), node("j", "Identity", "k:output:0"), node("k", "Identity", "j:output:0")]
    more = {"more": "g"} if inside == "too many" else {}
    body = function("body", ["h", "g", "b"], ops, {"h": "h", **({} if inside == "too few" else {"g": gamma, "b": beta}), **more})
    condition = function("cond", ["h", "g", "b"], [], {"c": "h"})
    loop = node("loop", op, "x", *reads[:2], body=Function("body"), cond=Function("cond"))
    used = [X, *nodes, loop, fused("bn", ["loop:3" if more else "loop:1", "loop:2", *reads[2:]])]
    if inside == "same":
        check(read(tmp_path, *used, functions=[body, condition])["bn"], values)
        return
    said = "an output that the function body does not have" if inside == "too few" else "a value that changes in a loop"
    with pytest.raises(UnresolvedError, match=f"its gamma is {said}"):
        read(tmp_path, *used, functions=[body, condition])


@pytest.mark.parametrize("inside", ["same", "changed", "too few"])
def test_a_batch_norm_in_a_loop_that_is_given_its_parameters(tmp_path, inside):
    """As in the cell of a recurrent layer. What a step changes is the stored parameter only in the first one."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    ops = [node("y", "FusedBatchNormV3", "h", *ROLES, is_training=False, epsilon=0.001), node("d", "Add", "moving_variance", "gamma")]
    results = {"h": "y:y:0", **{role: role for role in ROLES}}
    if inside == "changed":
        results["moving_variance"] = "d:z:0"
    elif inside == "too few":
        del results["moving_variance"]
    body = function("body", ["h", *ROLES], ops, results)
    loop = node("loop", "While", "x", *reads, body=Function("body"), cond=Function("cond"))
    graph_of = [X, *nodes, loop], [body, function("cond", ["h", *ROLES], [], {"c": "h"})]
    if inside == "same":
        check(read(tmp_path, *graph_of[0], functions=graph_of[1])["bn"], values)
        return
    with pytest.raises(UnresolvedError, match="its variance is a value that changes in a loop"):
        read(tmp_path, *graph_of[0], functions=graph_of[1])


def test_the_copy_in_training_of_one_function_and_that_of_inference_of_another(tmp_path):
    """What is normalized is seen through the calls: both copies are fed the same input."""
    values = parameters()
    nodes, (g, b, mean, variance) = frozen_variables("bn", values)
    training = function("training", ["h", "g", "b"], [const("none", np.zeros(0, "f4")),
                                                      node("y", "FusedBatchNormV3", "h", "g", "b", "none:output:0", "none:output:0",
                                                           epsilon=0.001)], {"o": "y:y:0"})
    inference = function("inference", ["h", *ROLES], [node("y", "FusedBatchNormV3", "h", *ROLES, is_training=False, epsilon=0.001)],
                         {"o": "y:y:0"})
    calls = [node("a", "PartitionedCall", "x", g, b, f=Function("training")),
             node("c", "PartitionedCall", "x", g, b, mean, variance, f=Function("inference"))]
    bundle = read(tmp_path, X, *nodes, *calls, functions=[training, inference])
    assert bundle.paths() == ["bn"]
    check(bundle["bn"], values)
    with pytest.raises(UnresolvedError, match="statistics of the batch"):
        read(tmp_path, X, *nodes[:4], calls[0], functions=[training])


def test_parameters_in_parts_by_the_op_of_old(tmp_path):
    """Concat takes the axis first, ConcatV2 last."""
    values = parameters(5)
    nodes, reads = [const("axis", np.int32(0))], []
    for role, array in zip(ROLES, values, strict=True):
        nodes += [const(f"bn/{role}/part_0", array[:2]), const(f"bn/{role}/part_1", array[2:]),
                  node(f"bn/{role}/concat", "Concat", "axis", f"bn/{role}/part_0", f"bn/{role}/part_1")]
        reads.append(f"bn/{role}/concat")
    check(read(tmp_path, X, *nodes, *chain("bn", "x", *reads))["bn"], values)


@pytest.mark.parametrize("op", ["ExpandDims", "Squeeze"])
def test_parameters_with_an_axis_more_or_less(tmp_path, op):
    """A column and a row of parameters are what the graph makes of them."""
    values = parameters()
    held = values if op == "ExpandDims" else [one.reshape(1, 3) for one in values]
    nodes, reads = frozen_variables("bn", held)
    if op == "ExpandDims":
        changed = [const("at", np.int32(0)), *(node(f"r{n}", op, one, "at") for n, one in enumerate(reads))]
    else:
        changed = [node(f"r{n}", op, one, squeeze_dims=[0]) for n, one in enumerate(reads)]
    layer = read(tmp_path, X, *nodes, *changed, *chain("bn", "x", "r0", "r1", "r2", "r3"))["bn"]
    check(layer, values)
    assert (layer.axis, layer.shape) == ((-1,), (3,))


@pytest.mark.parametrize("role", ["mean", "variance"])
def test_a_statistic_that_the_graph_computes_is_none_that_is_stored(tmp_path, role):
    nodes, reads = frozen_variables("bn", parameters())
    reads[2 if role == "mean" else 3] = "made"
    made = [const("size", np.int32([3])), const("number", np.float32(0.5)), node("made", "Fill", "size", "number")]
    with pytest.raises(UnresolvedError, match=f"its {role if role == 'mean' else 'variance'}|moving_{role}"):
        read(tmp_path, X, *nodes, *made, fused("bn", reads))

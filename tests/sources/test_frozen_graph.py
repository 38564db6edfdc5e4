"""Batch norms of frozen graphs: by the edges of the graph, whatever the names; what is no batch norm; what was folded."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import numpy as np
import pytest

import exporter
from exporter.errors import FormatError, UnresolvedError, UnsupportedError
from exporter.files.place import Place
from exporter.sources.frozen_graph import claims
from exporter.sources.tf_graph.graph_norm import OTHER_DIVISOR
from tests.make.graph_files import (
    Function,
    chain,
    const,
    formula,
    frozen_variables,
    function,
    graph,
    meta_graph,
    node,
    parameters,
    tensor,
    variables,
)
from tests.make.layers import ROOT
from tests.make.tensor_files import field, shape_proto

ROLES = ("gamma", "beta", "moving_mean", "moving_variance")
X = node("x", "Placeholder", shape=(-1, 4, 4, 3))


def read(tmp_path, *nodes, name="g.pb", wrap=lambda data: data, functions=(), **options):
    (tmp_path / name).write_bytes(wrap(graph(*nodes, functions=functions)))
    return exporter.read(tmp_path / name, **options)


def check(layer, values, *, epsilon=1e-3):
    """Bits, and epsilon as the float32 that a graph holds."""
    for role, expected in zip(ROLES, values, strict=True):
        found = getattr(layer, role)
        assert (found is None) == (expected is None), role
        assert found is None or found.tobytes() == np.asarray(expected).tobytes(), role
    assert layer.epsilon == float(np.float32(epsilon))


def fused(scope, reads, op="FusedBatchNormV3", x="x", **attributes):
    return node(f"{scope}/{op}", op, x, *reads, **{"is_training": False, "epsilon": 0.001, **attributes})


@pytest.mark.parametrize("op", ["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "_FusedBatchNormEx"])
def test_a_fused_op(tmp_path, op):
    values = parameters()
    nodes, reads = frozen_variables("net/bn", values)
    bundle = read(tmp_path, X, *nodes, fused("net/bn", reads, op))
    layer = bundle["net/bn"]
    check(layer, values)
    assert (bundle.origin.kind, layer.class_name, layer.axis, layer.ndim) == ("frozen-graph", op, (-1,), 4)


def test_an_absent_epsilon_is_the_ops_default(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    bundle = read(tmp_path, X, *nodes, node("bn/FusedBatchNormV3", "FusedBatchNormV3", "x", *reads, is_training=False))
    assert bundle["bn"].epsilon == float(np.float32(1e-4))


@pytest.mark.parametrize(("shapes", "axis", "ndim"), [
    ([(-1, 4), (-1, 3, 4, 4)], (1,), 4), ([(-1, 4), (-1, 3, 4)], (1,), 3), ([(-1, 3, 4, 4)], (-2,), None)])
def test_the_rank_is_that_of_the_output_that_is_read(tmp_path, shapes, axis, ndim):
    """An op may have several, as a call of a recurrent layer's function does; what is said of another says nothing."""
    wide = [one.reshape(3, *[1] * ((ndim or 3) - 2)) for one in parameters()]
    nodes, reads = frozen_variables("bn", wide)
    layer = read(tmp_path, node("call", "PartitionedCall", _output_shapes=shapes), *nodes, *chain("bn", "call:1", *reads))["bn"]
    assert (layer.axis, layer.ndim) == (axis, ndim)


@pytest.mark.parametrize(("layout", "axis", "ndim"), [("NHWC", (-1,), 4), ("NCHW", (1,), 4), ("NDHWC", (-1,), 5), ("NCDHW", (1,), 5)])
def test_the_layout_is_the_axis(tmp_path, layout, axis, ndim):
    nodes, reads = frozen_variables("bn", parameters())
    layer = read(tmp_path, X, *nodes, fused("bn", reads, data_format=layout))["bn"]
    assert (layer.axis, layer.ndim) == (axis, ndim)


def test_a_layout_that_is_not_known_is_unresolved(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    with pytest.raises(UnresolvedError, match="data_format is NCHW_VECT_C"):
        read(tmp_path, X, *nodes, fused("bn", reads, data_format="NCHW_VECT_C"))


def test_transposes_around_a_kernel_that_knows_one_layout(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    orders = [const("p", np.int32([0, 2, 3, 1])), const("q", np.int32([0, 3, 1, 2]))]
    layer = read(tmp_path, X, *nodes, *orders, node("t", "Transpose", "x", "p"), fused("bn", reads, x="t"),
                 node("u", "Transpose", "bn/FusedBatchNormV3", "q"))["bn"]
    assert (layer.axis, layer.ndim) == ((1,), 4)


@pytest.mark.parametrize("gamma", [True, False])
@pytest.mark.parametrize("beta", [True, False])
@pytest.mark.parametrize("add", ["Add", "AddV2"])
def test_a_chain_in_each_of_its_forms(tmp_path, gamma, beta, add):
    values = parameters()
    values[:2] = values[0] if gamma else None, values[1] if beta else None
    nodes, (g, b, mean, variance) = frozen_variables("bn", values)
    bundle = read(tmp_path, X, *nodes, *chain("bn", "x", g if gamma else None, b if beta else None, mean, variance, 2e-3, add))
    check(bundle["bn"], values, epsilon=2e-3)
    assert (bundle["bn"].class_name, bundle["bn"].axis, bundle["bn"].ndim) == ("tf.nn.batch_normalization", (-1,), 4)


def by_hand(form, g, b, mean, variance):
    """Ways to write it down that people use."""
    root = [const("e", np.float32(1e-3)), node("v", "Add", variance, "e"),
            node("r", "Rsqrt", "v") if " r)" in form else node("s", "Sqrt", "v")]
    return {
        "g * (x - m) / s + b": [*root, node("d", "Sub", "x", mean), node("gd", "Mul", g, "d"), node("n", "RealDiv", "gd", "s"),
                                node("y", "Add", "n", b)],
        "(x - m) / s * g + b": [*root, node("d", "Sub", "x", mean), node("n", "Div", "d", "s"), node("gn", "Mul", "n", g),
                                node("y", "AddV2", "gn", b)],
        "b + g * ((x - m) * r)": [*root, node("d", "Sub", "x", mean), node("n", "Mul", "d", "r"), node("gn", "Mul", g, "n"),
                                  node("y", "Add", b, "gn")],
        "x * (g / s) + (b - m * (g / s))": [*root, node("i", "RealDiv", g, "s"), node("xi", "Mul", "x", "i"), node("mi", "Mul", mean, "i"),
                                            node("c", "Sub", b, "mi"), node("y", "Add", "xi", "c")],
        "x * (g / s) + (b + -(m * (g / s)))": [*root, node("i", "RealDiv", g, "s"), node("xi", "Mul", "x", "i"),
                                              node("mi", "Mul", mean, "i"), node("neg", "Neg", "mi"), node("c", "Add", b, "neg"),
                                              node("y", "Add", "xi", "c")],
        "x * (g / s) - m * (g / s) + b": [*root, node("i", "RealDiv", g, "s"), node("xi", "Mul", "x", "i"), node("mi", "Mul", mean, "i"),
                                          node("c", "Sub", "xi", "mi"), node("y", "BiasAdd", "c", b)],
        "g * (x - m) * v ** -0.5 + b": [*root[:2], const("p", np.float32(-0.5)), node("i", "Pow", "v", "p"), node("d", "Sub", "x", mean),
                                        node("gd", "Mul", g, "d"), node("n", "Mul", "gd", "i"), node("y", "Add", "n", b)],
        "g * (x - m) / v ** 0.5 + b": [*root[:2], const("p", np.float32(0.5)), node("i", "Pow", "v", "p"), node("d", "Sub", "x", mean),
                                       node("gd", "Mul", g, "d"), node("n", "RealDiv", "gd", "i"), node("y", "Add", "n", b)],
        "(x + -m) * (1 / s) * g + b": [*root, node("i", "Reciprocal", "s"), node("neg", "Neg", mean), node("d", "Add", "x", "neg"),
                                       node("n", "Mul", "d", "i"), node("gn", "Mul", "n", g), node("y", "Add", "gn", b)],
    }[form]


@pytest.mark.parametrize("form", ["g * (x - m) / s + b", "(x - m) / s * g + b", "b + g * ((x - m) * r)", "x * (g / s) + (b - m * (g / s))",
                                  "x * (g / s) + (b + -(m * (g / s)))", "x * (g / s) - m * (g / s) + b", "(x + -m) * (1 / s) * g + b",
                                  "g * (x - m) * v ** -0.5 + b", "g * (x - m) / v ** 0.5 + b"])
def test_one_written_by_hand(tmp_path, form):
    values = parameters()
    nodes, reads = frozen_variables("w", values, ("scale", "offset", "mu", "sigma2"))
    check(read(tmp_path, X, *nodes, *by_hand(form, *reads))["w"], values)


@pytest.mark.parametrize("text", ["y = g * (x - m) / (sqrt(v) + e) + b", "y = (x - m) / (e + sqrt(v)) * g + b",
                                  "i = g / (sqrt(v) + e); y = x * i + (b - m * i)"])
def test_an_epsilon_beside_the_root_is_converted(tmp_path, text):
    values = parameters()
    nodes, reads = frozen_variables("w", values, ("scale", "offset", "mu", "sigma2"))
    ops = [const("e", np.float32(0.05)), *formula(text, x="x", e="e", **dict(zip("gbmv", reads, strict=True)))]
    (layer,) = read(tmp_path, X, *nodes, *ops)
    assert layer.converted
    x = np.linspace(-2, 3, 12, dtype="f4").reshape(4, 3)
    gamma, beta, mean, variance = (value.astype("f8") for value in values)
    expected = gamma * (x - mean) / (np.sqrt(variance) + np.float32(0.05)) + beta
    np.testing.assert_allclose(layer(x), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("text", ["y = g * (x - m) / (sqrt(v) + u) + b", "y = g * (x - m) / (sqrt(v + u) + e) + b"])
def test_another_sum_beside_the_root_is_none(tmp_path, text):
    nodes, reads = frozen_variables("w", parameters(), ("scale", "offset", "mu", "sigma2"))
    more, (u,) = frozen_variables("u", [np.float32([1, 2, 3])], ("u",))
    ops = [const("e", np.float32(0.05)), *formula(text, x="x", e="e", u=u, **dict(zip("gbmv", reads, strict=True)))]
    with pytest.raises(UnresolvedError, match=OTHER_DIVISOR[:30]):
        read(tmp_path, X, *nodes, *more, *ops)


@pytest.mark.parametrize("form", ["(x - m) / s * g + b", "g * (x - m) / s + b"])
def test_what_is_normalized_is_no_constant(tmp_path, form):
    """A kernel that is standardized by stored numbers is no layer."""
    nodes, reads = frozen_variables("w", parameters(), ("scale", "offset", "mu", "sigma2"))
    with pytest.raises(UnsupportedError, match="the model contains no BatchNormalization layer"):
        read(tmp_path, const("x", np.ones((2, 3), np.float32)), *nodes, *by_hand(form, *reads))


def test_a_bias_before_and_a_sum_after_are_not_beta(tmp_path):
    """x + bias is what is normalized, and a residual is added outside."""
    values = parameters()
    nodes, (g, _, mean, variance) = frozen_variables("bn", [values[0], None, *values[2:]])
    bundle = read(tmp_path, X, *nodes, const("bias", np.float32([1, 2, 3])), node("b", "Identity", "bias"), node("in", "BiasAdd", "x", "b"),
                  *chain("bn", "in", g, None, mean, variance), node("block/add", "AddV2", "bn/batchnorm/add_1", "b"))
    check(bundle["bn"], [values[0], None, *values[2:]])


def test_parameters_reshaped_for_another_axis(tmp_path):
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    shapes = [const("s", np.int32([1, 3, 1, 1])), *(node(f"r{n}", "Reshape", one, "s") for n, one in enumerate(reads))]
    layer = read(tmp_path, X, *nodes, *shapes, *chain("bn", "x", "r0", "r1", "r2", "r3"))["bn"]
    check(layer, values)
    assert (layer.axis, layer.shape, layer.ndim) == ((1,), (3,), 4)


def test_parameters_stored_with_all_axes(tmp_path):
    values = [one.reshape(1, 1, 1, 3) for one in parameters()]
    nodes, reads = frozen_variables("bn", values)
    layer = read(tmp_path, X, *nodes, *chain("bn", "x", *reads))["bn"]
    assert (layer.axis, layer.shape) == ((-1,), (3,))
    check(layer, values)


@pytest.mark.parametrize("size", [[2, -1], [-1, 1]])
@pytest.mark.parametrize("known", [True, False])
def test_a_virtual_batch_size_has_one_axis_more_than_the_layer(tmp_path, size, known):
    """tf.keras reshapes (batch, 3, 4, 4) to (2, -1, 3, 4, 4), in inference from TensorFlow 2.12 on to (-1, 1, 3, 4, 4)."""
    values = [one.reshape(1, 1, 3, 1, 1) for one in parameters()]
    nodes, reads = frozen_variables("bn", values)
    whole = const("bn/sizes", np.int32([*size, 3, 4, 4]))
    sizes = [whole] if known else [const("bn/s", np.int32(size)), node("bn/shape", "Shape", "x"), const("bn/a", np.int32(0)),
                                   node("bn/sizes", "ConcatV2", "bn/s", "bn/shape", "bn/a")]
    x = node("x", "Placeholder", shape=(-1, 3, 4, 4))
    split = node("bn/Reshape", "Reshape", "x", "bn/sizes", _output_shapes=[(2, -1, 3, 4, 4)])
    layer = read(tmp_path, x, *nodes, *sizes, split, *chain("bn", "bn/Reshape", *reads))["bn"]
    check(layer, [one.reshape(3) for one in values])
    assert (layer.axis, layer.shape, layer.ndim) == ((1,), (3,), 4)
    outside = node("cut/Reshape", "Reshape", "x", "bn/sizes", _output_shapes=[(2, -1, 3, 4, 4)])
    layer = read(tmp_path, x, *nodes, *sizes, outside, *chain("bn", "cut/Reshape", *reads))["bn"]
    assert (layer.axis, layer.ndim) == ((2,), 5)  # another layer reshapes it


@pytest.mark.parametrize("grappler", [True, False])
def test_a_beta_that_grappler_added_to_something_else(tmp_path, grappler):
    """(x - mean) * r * gamma + beta + y becomes AddN((x - mean) * r * gamma, y) + beta: the batch norm ends in front of its beta."""
    values = parameters()
    nodes, (g, b, mean, variance) = frozen_variables("bn", values, ("scale", "offset", "mean", "variance"))
    scope = "ArithmeticOptimizer/AddOpsRewrite_" if grappler else "block/add_"
    ops = [const("y", np.float32(1e-3)), node("a", "AddV2", variance, "y"), node("r", "Rsqrt", "a"), node("d", "Sub", "x", mean),
           node("n", "Mul", "d", "r"), node("scaled", "Mul", "n", g)]
    leaf = node(f"{scope}Leaf_1", "AddN", "scaled", "x")
    with pytest.raises(UnresolvedError, match="bn: its beta is in a sum that TensorFlow's graph optimizer rearranged") if grappler else (
            contextlib.nullcontext()):
        read(tmp_path, X, *nodes, *ops, leaf, node(f"{scope}2", "Add", b, f"{scope}Leaf_1"))
    layer = read(tmp_path, X, *nodes, *ops, leaf)["bn"]  # a sum of activations alone: it has no beta
    assert layer.beta is None


def test_sums_that_grappler_arranged_again_and_again(tmp_path):
    """Each is looked at once, not once for each way to it."""
    values = parameters()
    nodes, (g, _, mean, variance) = frozen_variables("bn", [values[0], None, *values[2:]])
    scope, last = "ArithmeticOptimizer/AddOpsRewrite_", "bn/batchnorm/add_1"
    ops = []
    for number in range(40):
        ops += [node(f"{scope}Leaf_{number}", "Identity", last), node(f"{scope}{number}", "AddN", last, f"{scope}Leaf_{number}")]
        last = f"{scope}{number}"
    check(read(tmp_path, X, *nodes, *chain("bn", "x", g, None, mean, variance), *ops)["bn"], [values[0], None, *values[2:]])


@pytest.mark.parametrize(("name", "shape", "reason"), [
    ("bn/batchnorm/sub", (3,), "its beta was computed by a graph optimizer, from more than one parameter"),
    ("bn/batchnorm_1/mul_2", (3,), "its beta was computed by a graph optimizer"),
    ("bn/offset", (1, 3, 1, 3), r"its gamma has the shape \[3\], its parameters together \[1, 3, 1, 3\]")])
def test_a_constant_that_an_optimizer_made_of_beta_and_what_followed_is_none(tmp_path, name, shape, reason):
    """grappler subtracts the mean of the batch norm behind from beta, as long as the statistics are chosen at run time."""
    values = parameters()
    nodes, (g, _, mean, variance) = frozen_variables("bn", [values[0], None, *values[2:]])
    folded = const(name, np.broadcast_to(values[1], shape))
    with pytest.raises(UnresolvedError, match=reason):
        read(tmp_path, X, *nodes, folded, *chain("bn", "x", g, name, mean, variance, name="normalize"))


def test_parameters_in_parts(tmp_path):
    values = parameters(5)
    nodes, reads = [const("axis", np.int32(0))], []
    for role, array in zip(ROLES, values, strict=True):
        nodes += [const(f"bn/{role}/part_0", array[:2]), const(f"bn/{role}/part_1", array[2:]),
                  node(f"bn/{role}/concat", "ConcatV2", f"bn/{role}/part_0", f"bn/{role}/part_1", "axis")]
        reads.append(f"bn/{role}/concat")
    check(read(tmp_path, X, *nodes, *chain("bn", "x", *reads))["bn"], values)


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    values = parameters(5)
    nodes, reads = frozen_variables("bn", values)
    parts = [const("axis", np.int32(0)), const("g/part_0", values[0][:2]), const("g/part_1", values[0][2:].reshape(3, 1)),
             node("g/concat", "ConcatV2", "g/part_0", "g/part_1", "axis")]
    with pytest.raises(FormatError, match="the slices of g do not match"):
        read(tmp_path, X, *nodes, *parts, *chain("bn", "x", "g/concat", *reads[1:]))


def test_an_op_with_too_few_inputs_is_refused(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    with pytest.raises(FormatError, match="FusedBatchNormV3 has 4 inputs"):
        read(tmp_path, X, *nodes, fused("bn", reads[:3]))


def test_parameters_of_no_channels_are_unresolved(tmp_path):
    nodes, reads = frozen_variables("bn", [np.zeros(0, np.float32)] * 4)
    with pytest.raises(UnresolvedError, match=r"its parameters have the shape \[0\]"):
        read(tmp_path, X, *nodes, *chain("bn", "x", *reads))


def test_a_conditional_takes_the_side_of_inference(tmp_path):
    """tf.cond: Merge of the stored statistics and of those of the batch."""
    values = parameters()
    nodes, (g, b, mean, variance) = frozen_variables("bn", values)
    sides = [const("axes", np.int32([0, 1, 2])), node("p", "Placeholder"), node("batch_mean", "Mean", "x", "axes"),
             node("square", "SquaredDifference", "x", "batch_mean"), node("batch_variance", "Mean", "square", "axes"),
             node("sm", "Switch", mean, "p"), node("sv", "Switch", variance, "p"), node("im", "Identity", "batch_mean"),
             node("iv", "Identity", "batch_variance"), node("m", "Merge", "sm", "im"), node("v", "Merge", "iv", "sv")]
    check(read(tmp_path, X, *nodes, *sides, *chain("bn", "x", g, b, "m", "v"))["bn"], values)


def test_two_stored_statistics_to_choose_from_are_unresolved(tmp_path):
    nodes, (g, b, mean, variance) = frozen_variables("bn", parameters())
    more, reads = frozen_variables("other", parameters(seed=1))
    choice = [node("p", "Placeholder"), node("a", "Switch", mean, "p"), node("c", "Switch", reads[2], "p"), node("m", "Merge", "a", "c:1")]
    with pytest.raises(UnresolvedError, match="its mean is a branch that is chosen only at run time"):
        read(tmp_path, X, *nodes, *more, *choice, *chain("bn", "x", g, b, "m", variance))


@pytest.mark.parametrize("op", ["StatelessIf", "If"])
def test_a_conditional_of_functions(tmp_path, op):
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    inputs = ["x", *ROLES]
    batch = function("batch", inputs, [node("y", "FusedBatchNormV3", "x", *ROLES)], {"o": "y:y:0"})
    stored = function("stored", inputs, [node("y", "FusedBatchNormV3", "x", *ROLES, is_training=False)], {"o": "y:y:0"})
    choice = node("c", op, "p", "x", *reads, then_branch=Function("batch"), else_branch=Function("stored"))
    check(read(tmp_path, X, *nodes, node("p", "Placeholder"), choice, functions=[batch, stored])["bn"], values, epsilon=1e-4)


def test_a_cell_in_a_loop_and_in_calls(tmp_path):
    values = parameters()
    nodes, reads = frozen_variables("cell/bn", values)
    inner = function("inner", ["h", "gamma", "beta", "mean", "variance"],
                     [const("eps", np.float32(1e-3)), node("a", "AddV2", "variance", "eps:output:0"), node("r", "Rsqrt", "a:z:0"),
                      node("i", "Mul", "r:y:0", "gamma"), node("xi", "Mul", "h", "i:z:0"), node("mi", "Mul", "mean", "i:z:0"),
                      node("s", "Sub", "beta", "mi:z:0"), node("y", "AddV2", "xi:z:0", "s:z:0")], {"y": "y:z:0"})
    body = function("body", ["h", "g", "b", "m", "v"], [node("c", "PartitionedCall", "h", "g", "b", "m", "v", f=Function("inner")),
                                                       node("same", "Identity", "g")],
                    {"h": "c:output:0", "g": "same:output:0", "b": "b", "m": "m", "v": "v"})
    condition = function("cond", ["h", "g", "b", "m", "v"], [], {"c": "h"})
    loop = node("loop", "StatelessWhile", "x", *reads, body=Function("body"), cond=Function("cond"))
    check(read(tmp_path, X, *nodes, loop, functions=[inner, body, condition])["cell/bn"], values)


def test_functions_that_call_one_another_for_ever_are_refused(tmp_path):
    again = function("f", ["x"], [node("r", "Rsqrt", "x"), node("c", "PartitionedCall", "r:y:0", f=Function("f"))], {"y": "c:output:0"})
    with pytest.raises((FormatError, UnsupportedError)):
        read(tmp_path, X, node("c", "PartitionedCall", "x", f=Function("f")), functions=[again])


def test_gamma_of_ones_that_the_graph_made_is_none(tmp_path):
    """slim and tf.layers with scale=False: a Const named by TensorFlow; a frozen gamma that happens to be ones stays."""
    values = parameters()
    ones, zeros = np.ones(3, "f4"), np.zeros(3, "f4")
    nodes, (_, beta, mean, variance) = frozen_variables("a", [None, *values[1:]])
    more, reads = frozen_variables("b", [ones, zeros, *values[2:]])
    bundle = read(tmp_path, X, *nodes, *more, const("a/Const", ones), fused("a", ["a/Const", beta, mean, variance]), fused("b", reads))
    check(bundle["a"], [None, *values[1:]])
    check(bundle["b"], [ones, zeros, *values[2:]])


def reduced(name, axes):
    """A chain over statistics of x, over these axes."""
    return [const(f"{name}/axes", np.int32(axes)), node(f"{name}/mean", "Mean", "x", f"{name}/axes"),
            node(f"{name}/square", "SquaredDifference", "x", f"{name}/mean"),
            node(f"{name}/variance", "Mean", f"{name}/square", f"{name}/axes")]


@pytest.mark.parametrize("axes", [[1, 2, 3], [3], [-1], [1, 2], [0, -1]])
def test_other_normalizations_are_not_reported(tmp_path, axes):
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    more, (g, b, _, _) = frozen_variables("ln", [*parameters(seed=1)[:2], None, None])
    other = [*reduced("ln", axes), *chain("ln", "x", g, b, "ln/mean", "ln/variance"), node("l2", "Rsqrt", "x")]
    assert read(tmp_path, X, *nodes, *more, *other, fused("bn", reads)).paths() == ["bn"]
    with pytest.raises(UnsupportedError, match="the model contains no BatchNormalization layer"):
        read(tmp_path, X, *more, *other)


def test_layer_norm_that_borrows_the_fused_op_is_not_reported(tmp_path):
    """tf.keras LayerNormalization: the input reshaped to one row a sample, scale of ones and offset of zeros filled in."""
    nodes, reads = frozen_variables("bn", parameters())
    filled = [const("shape", np.int32([1, 2, 48, 1])), node("r", "Reshape", "x", "shape"), node("n", "Placeholder"),
              const("one", np.float32(1)), const("zero", np.float32(0)), node("ones", "Fill", "n", "one"),
              node("zeros", "Fill", "n", "zero"), const("none", np.zeros(0, "f4")),
              node("ln", "FusedBatchNormV3", "r", "ones", "zeros", "none", "none", data_format="NCHW", epsilon=0.001)]
    assert read(tmp_path, X, *nodes, *filled, fused("bn", reads)).paths() == ["bn"]


def test_statistics_of_the_batch_are_unresolved(tmp_path):
    nodes, (g, b, _, _) = frozen_variables("bn", [*parameters()[:2], None, None])
    for batch in ([*reduced("bn", [0, 1, 2]), *chain("bn", "x", g, b, "bn/mean", "bn/variance")],
                  [const("none", np.zeros(0, "f4")), node("bn/FusedBatchNorm", "FusedBatchNorm", "x", g, b, "none", "none")]):
        with pytest.raises(UnresolvedError, match=r"bn: it uses the statistics of the batch \(is_training\), not stored ones"):
            read(tmp_path, X, *nodes, *batch)


def test_a_second_copy_in_training_is_the_same_layer(tmp_path):
    values = parameters()
    nodes, (g, b, mean, variance) = frozen_variables("bn", values)
    bundle = read(tmp_path, X, *nodes, *reduced("t", [0, 1, 2]), *chain("tower", "x", g, b, "t/mean", "t/variance"),
                  *chain("bn", "x", g, b, mean, variance), *chain("again", "x", g, b, mean, variance))
    assert bundle.paths() == ["bn"]
    assert bundle.skipped == ()


AGAIN, ONCE = "again/batchnorm/add_1", "bn/batchnorm/add_1"


@pytest.mark.parametrize(("ends", "is_refused"), [
    ([node("sum", "Add", AGAIN, ONCE)], True), ([node("relu", "Relu", AGAIN), node("sum", "Add", "relu", ONCE)], True), ([], False),
    ([node("loss", "Sum", AGAIN), node("y", "Identity", ONCE)], False),
    ([node("phase", "Placeholder"), node("a", "Switch", AGAIN, "phase"), node("b", "Switch", ONCE, "phase"),
      node("c", "Merge", "b", "a:1"), node("y", "Relu", "c")], False)])  # Keras 2.0
def test_a_layer_that_one_result_calls_in_both_modes(tmp_path, ends, is_refused):
    """Unlike a copy of the network for training, which has a result of its own, and what the learning phase chooses from."""
    nodes, (g, b, mean, variance) = frozen_variables("bn", parameters())
    nodes += [*reduced("t", [0, 1, 2]), *chain("again", "x", g, b, "t/mean", "t/variance"), *chain("bn", "x", g, b, mean, variance)]
    if is_refused:
        with pytest.raises(UnresolvedError, match="bn: in one of its calls it uses the statistics of the batch"):
            read(tmp_path, X, *nodes, *ends)
    else:
        assert read(tmp_path, X, *nodes, *ends).paths() == ["bn"]


@pytest.mark.parametrize(("end", "is_refused"), [(node("sum", "AddV2", "c", ONCE), True), (node("loss", "Sum", "c"), False)])
def test_a_layer_that_functions_call_in_both_modes(tmp_path, end, is_refused):
    """It stands where the outermost of them is called."""
    nodes, (g, b, mean, variance) = frozen_variables("bn", parameters())
    fused_in_training = node("y", "FusedBatchNormV3", "h", "g", "b", "none:output:0", "none:output:0", epsilon=0.001)
    copy = function("copy", ["h", "g", "b"], [const("none", np.zeros(0, "f4")), fused_in_training], {"o": "y:y:0"})
    outer = function("outer", ["h", "g", "b"], [node("inner", "PartitionedCall", "h", "g", "b", f=Function("copy"))],
                     {"o": "inner:output:0"})
    ops = [X, *nodes, node("c", "PartitionedCall", "x", g, b, f=Function("outer")), *chain("bn", "x", g, b, mean, variance), end]
    if is_refused:
        with pytest.raises(UnresolvedError, match="bn: in one of its calls it uses the statistics of the batch"):
            read(tmp_path, *ops, functions=[copy, outer])
    else:
        assert read(tmp_path, *ops, functions=[copy, outer]).paths() == ["bn"]


def test_copies_in_one_graph_have_paths_of_their_own(tmp_path):
    """160 networks in one graph, none of whose variables has a scope: the ops' scopes tell them apart, or a number does."""
    nodes, expected = [], {}
    for number in range(160):
        tail = f"_{number}" if number else ""
        values = parameters(seed=number)
        names = [f"Variable_{4 * number + n}" for n in range(4)]
        for name, array in zip(names, values, strict=True):
            nodes += [const(name, array), node(f"{name}/read", "Identity", name)]
        nodes += chain("", "x", *(f"{name}/read" for name in names), name=f"batchnorm{tail}")
        expected[f"batchnorm{tail}"] = values
    bundle = read(tmp_path, X, *nodes)
    assert bundle.paths() == list(expected)
    for path, values in expected.items():
        check(bundle[path], values)


@pytest.mark.parametrize("ops", ["bn", "computed"])
def test_copies_that_share_all_scopes_are_numbered(tmp_path, ops):
    """Also if their ops share another scope than their variables."""
    one, reads = frozen_variables("bn", parameters())
    two, others = frozen_variables("bn", parameters(seed=1), ("gamma_1", "beta_1", "moving_mean_1", "moving_variance_1"))
    bundle = read(tmp_path, X, *one, *two, *chain(ops, "x", *reads), *chain(ops, "x", *others, name="batchnorm_1"))
    assert bundle.paths() == ["bn", "bn#2"]
    check(bundle["bn#2"], parameters(seed=1))


def for_quantization(gamma, beta, mean, variance, reshaped=False, last="Add"):
    """What tf.contrib.quantize makes of a convolution and its batch norm (fold_batch_norms.py)."""
    s = "bn_Fold"
    scale = f"{s}/mul" if gamma else f"{s}/Rsqrt"
    weights = [const(f"{s}/scale_reshape/shape", np.int32([3, 1])),
               node(f"{s}/scale_reshape", "Reshape", scale, f"{s}/scale_reshape/shape")] if reshaped else []
    return [const("w", np.ones((1, 1, 3, 1) if reshaped else (1, 1, 3, 3), "f4")), const(f"{s}/add/y", np.float32(1e-3)),
            node(f"{s}/add", "Add", variance, f"{s}/add/y"), node(f"{s}/Rsqrt", "Rsqrt", f"{s}/add"),
            *([node(f"{s}/mul", "Mul", gamma, f"{s}/Rsqrt")] if gamma else []), node(f"{s}/mul_1", "Mul", mean, scale),
            node(f"{s}/bias", "Sub", beta, f"{s}/mul_1"), *weights,
            node("mul_fold", "Mul", "w", f"{s}/scale_reshape" if reshaped else scale), const("least", np.float32(-1)),
            const("most", np.float32(1)), node("quant", "FakeQuantWithMinMaxVars", "mul_fold", "least", "most"),
            node("conv", "DepthwiseConv2dNative" if reshaped else "Conv2D", "x", "quant"), node("add_fold", last, "conv", f"{s}/bias"),
            node("block/add", "Add", "add_fold", "x")]


@pytest.mark.parametrize("gamma", [True, False])
@pytest.mark.parametrize("reshaped", [True, False])
def test_one_that_scales_the_weights_in_training_for_quantization(tmp_path, gamma, reshaped):
    values = parameters()
    nodes, (g, *reads) = frozen_variables("bn", [values[0] if gamma else None, *values[1:]])
    bundle = read(tmp_path, X, *nodes, *for_quantization(g if gamma else None, *reads, reshaped))
    check(bundle["bn"], [values[0] if gamma else None, *values[1:]])
    assert (len(bundle), bundle["bn"].axis, bundle["bn"].ndim) == (1, (-1,), 4)


def test_an_offset_alone_is_no_batch_norm(tmp_path):
    """Nothing else is multiplied by the scale, or it is not clear along which axis the offset is added."""
    nodes, reads = frozen_variables("bn", parameters())
    alone = [one for one in for_quantization(*reads) if b"mul_fold" not in one] + [node("quant", "Identity", "w")]
    for ops in (alone, for_quantization(*reads, last="BiasAdd")):
        with pytest.raises(UnresolvedError, match="the graph uses its variance in a way that is not a known form of batch norm"):
            read(tmp_path, X, *nodes, *ops)


def folded(scope):
    """What constant folding leaves of a chain: a product and a sum, under the old names."""
    return [const(f"{scope}/batchnorm/mul", np.float32([1, 2, 3])), const(f"{scope}/batchnorm/sub", np.float32([1, 2, 3])),
            node(f"{scope}/batchnorm/mul_1", "Mul", "x", f"{scope}/batchnorm/mul"),
            node(f"{scope}/batchnorm/add_1", "Add", f"{scope}/batchnorm/mul_1", f"{scope}/batchnorm/sub")]


def test_what_was_folded_is_named_and_the_rest_had(tmp_path):
    values = parameters()
    nodes, reads = frozen_variables("whole", values)
    offset = [const("c_bn_offset", np.float32([1, 2, 3])), node("conv/FusedBatchNorm", "BiasAdd", "x", "c_bn_offset")]
    with pytest.raises(UnresolvedError, match="2 batch norms cannot be resolved: gone, conv: it was folded"):
        read(tmp_path, X, *nodes, fused("whole", reads), *folded("gone"), *offset)
    bundle = read(tmp_path, X, *nodes, fused("whole", reads), *folded("gone"), *offset, skip_unresolved=True)
    check(bundle["whole"], values)
    assert [path for path, _ in bundle.skipped] == ["gone", "conv"]


def test_a_scope_of_somebodys_own_that_is_called_as_tensorflows(tmp_path):
    """Sums of residuals in it are not what is left of a batch norm that was folded."""
    values = parameters()
    nodes, reads = frozen_variables("batchnorm/first", values)
    sums = [node("batchnorm/add", "AddV2", "x", "batchnorm/first/batchnorm/add_1"), node("batchnorm/add_1", "AddV2", "batchnorm/add", "x"),
            node("b/batchnorm/add", "AddV2", "x", "batchnorm/add_1")]
    bundle = read(tmp_path, X, *nodes, *chain("batchnorm/first", "x", *reads), *sums)
    assert bundle.paths() == ["batchnorm/first"]


def test_a_graph_that_was_folded_altogether_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"batch norm was folded away \(gone\)"):
        read(tmp_path, X, *folded("gone"))
    kernel = [const("kernel", np.zeros((1, 1, 3, 3), "f4")), node("conv", "Conv2D", "x", "kernel")]
    with pytest.raises(UnsupportedError, match="the graph contains no batch norm; if the model had any, it was folded away"):
        read(tmp_path, X, *kernel)


def test_an_epsilon_folded_into_the_variance_is_unresolved(tmp_path):
    nodes, (g, b, mean, _) = frozen_variables("bn", parameters())
    chained = chain("bn", "x", g, b, mean, "bn/moving_variance/read")
    chained[1] = const("bn/batchnorm/add", np.float32([1, 2, 3]))
    with pytest.raises(UnresolvedError, match="its epsilon is not a constant of the graph, or was folded into the variance"):
        read(tmp_path, X, *nodes, *chained)


def test_a_graph_with_variables_is_not_frozen(tmp_path):
    nodes, reads = variables("bn")
    with pytest.raises(UnsupportedError, match="this graph is not frozen") as error:
        read(tmp_path, X, *nodes, fused("bn", reads))
    assert "checkpoint" in error.value.hint


@pytest.mark.parametrize("wrap", [meta_graph, lambda data: field(1, 1) + field(2, meta_graph(data))],
                         ids=["MetaGraphDef", "SavedModel"])
def test_a_frozen_graph_in_another_wrapping(tmp_path, wrap):
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    bundle = read(tmp_path, X, *nodes, fused("bn", reads), wrap=wrap)
    check(bundle["bn"], values)
    assert bundle.origin.tensorflow_version == "1.15.5"


def test_what_looks_like_a_graph_of_tensorflow_and_is_none(tmp_path):
    """MMdnn's graph.proto has the fields of GraphDef."""
    with pytest.raises(UnsupportedError, match="MMdnn"):
        read(tmp_path, node("data", "DataInput"), node("conv", "Conv", "data"), node("bn", "BatchNorm", "conv", epsilon=0.001))


def test_a_graph_in_text_is_refused(tmp_path):
    (tmp_path / "graph.pbtxt").write_bytes(b'# a comment\nnode {\n  name: "x"\n  op: "Placeholder"\n}\n')
    with pytest.raises(UnsupportedError, match="a graph in text form"):
        exporter.read(tmp_path / "graph.pbtxt")


def test_parameters_that_do_not_fit_together_are_unresolved(tmp_path):
    nodes, reads = frozen_variables("bn", [*parameters()[:3], np.ones(4, "f4")])
    with pytest.raises(UnresolvedError, match="its parameters have different shapes: gamma"):
        read(tmp_path, X, *nodes, *chain("bn", "x", *reads))
    nodes, reads = frozen_variables("bn", [*parameters()[:3], np.ones(3, "f8")])
    with pytest.raises(UnresolvedError, match="expected parameters of one floating point type, got float32, float64"):
        read(tmp_path, X, *nodes, *chain("bn", "x", *reads))
    nodes, reads = frozen_variables("bn", [one.astype("i4") for one in parameters()])
    with pytest.raises(UnresolvedError, match="expected parameters of one floating point type, got int32"):
        read(tmp_path, X, *nodes, *chain("bn", "x", *reads))


def test_a_huge_constant_is_not_decoded(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    nodes[0] = node("bn/gamma", "Const", value=tensor(np.float32([1]), shape=(1 << 50,)))
    with pytest.raises((UnresolvedError, FormatError), match=r"values|over the limit"):
        read(tmp_path, X, *nodes, *chain("bn", "x", *reads))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_parameters_whose_batch_norm_is_missing_are_named(tmp_path, count):
    """A GraphDef that ends behind a node is sound; gamma and beta alone may be another layer's, but then some op uses them."""
    values = parameters()
    nodes, reads = frozen_variables("first", values)
    cut, _ = frozen_variables("second", parameters(seed=1)[:count], ROLES[:count])
    whole = [X, *nodes, *chain("first", "x", *reads)]
    with pytest.raises(UnresolvedError, match=r"second: no op of the graph uses its gamma.*truncated"):
        read(tmp_path, *whole, *cut)
    bundle = read(tmp_path, *whole, *cut, skip_unresolved=True)
    check(bundle["first"], values)
    assert read(tmp_path, *whole, *cut[:2], node("y", "Mul", "second/gamma/read", "x")).paths() == ["first"]


def test_every_cut_of_a_graph_behind_a_node_is_whole_or_an_error(tmp_path):
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    nodes = [X, *nodes, *chain("bn", "x", *reads)]
    for count in range(1, len(nodes)):
        with pytest.raises((UnresolvedError, UnsupportedError)):
            read(tmp_path, *nodes[:count])
    check(read(tmp_path, *nodes)["bn"], values)


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lower", [True, False], ids=["lowered", "functions"])
def test_what_the_installed_tensorflow_freezes(tmp_path, lower):
    """Every combination of gamma and beta, both ranks, another axis, against the live layers."""
    tf = pytest.importorskip("tensorflow")
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    layers = {name: tf.keras.layers.BatchNormalization(name=name, **options) for name, options in {
        "both": {}, "no_gamma": {"scale": False, "epsilon": 1e-4}, "no_beta": {"center": False, "epsilon": 1e-12},
        "neither": {"center": False, "scale": False}, "rows": {"axis": 1}}.items()}
    model = tf.keras.Sequential([tf.keras.Input((4, 5, 3)), *layers.values(), tf.keras.layers.LayerNormalization()])
    random = np.random.default_rng(3)
    for layer in layers.values():
        for weight in layer.weights:
            weight.assign(10.0 ** random.uniform(-6, 1, weight.shape) if "variance" in weight.name else random.normal(size=weight.shape))
    concrete = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec((None, 4, 5, 3)))
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=lower).graph.as_graph_def()
    (tmp_path / "g.pb").write_bytes(frozen.SerializeToString())
    bundle = exporter.read(tmp_path / "g.pb")
    assert len(bundle) == len(layers)
    for ours, live in zip(bundle, layers.values(), strict=True):
        check(ours, [None if getattr(live, role) is None else np.asarray(getattr(live, role)) for role in ROLES], epsilon=live.epsilon)
        x = random.normal(0, 2, (2, 4, 5, 3)).astype("float32")
        assert_within_bound(ours, x, np.asarray(live(x, training=False)))


def assert_within_bound(layer, x, y):
    from exporter.batchnorm import vectors

    axis = layer.axis[0]
    got, x, y = (np.moveaxis(np.asarray(one, np.float64), axis, -1).reshape(-1, layer.shape[0]) for one in (layer(x), x, y))
    assert (np.abs(got - y) <= vectors.bound(layer, x)).all(), layer.path


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_few_bytes_that_stand_for_very_many_numbers(tmp_path):
    """A constant may say one value and a shape: forty norms of 2^20 channels take 8 KB. Measured in a process of its own."""
    def one(name, value):
        return node(name, "Const", value=field(1, 1) + field(2, shape_proto((1 << 20,))) + field(5, np.float32(value).tobytes()))

    def norm(i):
        reads = [f"bn_{i}/{role}" for role in ROLES]
        return [*(one(name, 1 + i) for name in reads), fused(f"bn_{i}", reads)]

    nodes = [each for i in range(40) for each in norm(i)]
    (tmp_path / "big.pb").write_bytes(graph(node("x", "Placeholder", shape=(-1, 4, 4, 1 << 20)), *nodes))
    assert (tmp_path / "big.pb").stat().st_size < 30_000
    program = ("import re, sys, exporter\n"
               "try:\n    exporter.read(sys.argv[1])\n"
               "except exporter.FormatError as error:\n    print(error)\n"
               "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])\n")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "big.pb")], cwd=ROOT, capture_output=True, text=True, check=True)
    said, memory = done.stdout.splitlines()
    assert said == "big.pb: expected at most 16777216 numbers in all batch norms of a model, got more"
    assert int(memory) < 600_000  # KiB


def test_averages_of_batch_statistics_that_no_batch_norm_uses(tmp_path):
    """One wrong letter in the name of an op, and a batch norm of hand-made layers was gone without a word."""
    averages = [f"{scope}/moments/{word}/ExponentialMovingAverage" for scope in ("a", "b") for word in ("Squeeze", "Squeeze_1")]
    nodes = [X]
    for number, scope in enumerate("ab"):
        values = parameters(seed=number)
        affine, reads = frozen_variables(scope, values[:2], ("gamma", "beta"))
        statistics = averages[2 * number:2 * number + 2]
        nodes += [*affine, *(const(name, array) for name, array in zip(statistics, values[2:], strict=True)),
                  *chain(scope, "x", *reads, *statistics, name="norm")]
    assert read(tmp_path, *nodes).paths() == ["a", "b"]
    data, op = graph(*nodes), b"b/norm/Rsqrt\x12\x05Rsqrt"
    assert data.count(op) == 1
    (tmp_path / "damaged.pb").write_bytes(data.replace(op, op[:-5] + b"Ssqrt"))
    with pytest.raises(UnresolvedError, match="b: the graph contains averages of its batch statistics that no batch norm uses"):
        exporter.read(tmp_path / "damaged.pb")


NODE = field(1, node("x", "Placeholder"))
OP = field(1, "Abs") + field(2, field(1, "x") + field(4, "T")) + field(3, field(1, "y") + field(4, "T")) + field(4, field(1, "T"))


@pytest.mark.parametrize("data", [
    NODE, field(1, node("x" * 200, "Placeholder")), field(1, node("x", "B")), field(1, node("", "Placeholder")), meta_graph(NODE),
    field(1, field(1, "v1") + field(4, "serve")), field(1, field(1, "v1") + field(5, "1.15")), field(1, field(4, "serve")),
    field(1, field(5, "1.15")), field(1, field(2, field(1, b"")) + field(4, "serve")), b"\x08\x01\x12" + bytes(3),
    field(1, field(1, "v1") + field(2, field(1, OP))), field(1, field(2, field(1, OP))),
    b'node {\n name: "x"', b"  node{", b"# one\n# two\n versions: {", b"library\n {", b"meta_info_def {", b"graph_def{"], ids=range(19))
def test_how_graphs_begin(tmp_path, data):
    """With a node: name, then op; a MetaGraphDef with its version, its ops, its tags or TensorFlow's version."""
    (tmp_path / "f").write_bytes(data)
    assert claims(Place(tmp_path / "f"))


@pytest.mark.parametrize("data", [
    field(1, field(2, "Placeholder")), field(1, field(1, "x") + field(2, "not an op")), field(1, field(1, "x") + field(2, "9x")),
    field(1, field(1, "x") + field(2, "")), field(1, field(1, "x") + field(3, "input")), field(1, field(1, "x")), field(1, b""),
    field(1, field(3, "x")), field(2, node("x", "Placeholder")), b"\x08\x02\x12" + bytes(3), b"\x08\x01\x13", b"nodes {", b"node [",
    b"a node {", b"", b"\x0a", b"\x0a" + b"\xff" * 10 + b"\x01", b"\x0a\x02\x0a\x00", b"\x08\x07\x12\x04abcd", b"text",
    field(1, "just some text"), field(1, OP), field(1, field(1, "Abort") + field(4, field(1, "error_msg")))], ids=range(23))
def test_how_they_do_not(tmp_path, data):
    """The last two are lists of ops, an OpList: with a name, then inputs or attributes."""
    (tmp_path / "f").write_bytes(data)
    assert not claims(Place(tmp_path / "f"))


@pytest.mark.parametrize(("names", "more", "said"), [
    (["bn/moving_mean"], [], {"bn": "moving_mean"}), (["bn/moving_variance", "bn/moving_mean"], [], {"bn": "moving_variance, moving_mean"}),
    (["a/gamma", "b/beta"], [], {"a": "gamma", "b": "beta"}), (["a/gamma"], [node("y", "Mul", "a/gamma", "x")], {}),
    (["a/gamma"], [node("r", "Identity", "a/gamma"), node("s", "Identity", "r")], {"a": "gamma"}),
    (["a/gamma"], [node("r", "Identity", "a/gamma"), node("y", "Mul", "r", "x")], {}),
    (["a/kernel", "b/gamma_1"], [], {}),
    (["moving_mean"], [], {"": "moving_mean"})])
def test_constants_that_are_left_over(tmp_path, names, more, said):
    """Statistics are nobody else's; gamma and beta may be, where something computes with them."""
    nodes, reads = frozen_variables("whole", parameters())
    held = [const(name, np.ones(3, np.float32)) for name in names]
    bundle = read(tmp_path, X, *nodes, *chain("whole", "x", *reads), *held, *more, skip_unresolved=True)
    assert bundle.paths() == ["whole"]
    assert dict(bundle.skipped) == {
        scope: f"no op of the graph uses its {roles}: the graph seems to be truncated" for scope, roles in said.items()}


@pytest.mark.parametrize(("name", "op", "scope"), [
    ("gone/FusedBatchNormV3", "Add", "gone"), ("gone/FusedBatchNorm_1", "BiasAdd", "gone"), ("gone/batchnorm/mul_1", "Mul", "gone"),
    ("gone/batchnorm_1/add_1", "AddV2", "gone"), ("gone/batchnorm/sub", "Sub", "gone"), ("gone/batchnorm/x", "Relu", None),
    ("gone/FusedBatchNormV3", "Identity", None), ("gone/batchnorms/mul", "Mul", None), ("whole/batchnorm/more", "Mul", None),
    ("gone/mul", "Mul", None), ("gone/FusedBatchNormGrad", "Mul", None)])
def test_names_that_say_what_was_folded(tmp_path, name, op, scope):
    nodes, reads = frozen_variables("whole", parameters())
    left = [const("c", np.ones(3, np.float32)), node(name, op, *(["x", "c"] if op not in ("Relu", "Identity") else ["x"]))]
    bundle = read(tmp_path, X, *nodes, *chain("whole", "x", *reads), *left, skip_unresolved=True)
    assert bundle.paths() == ["whole"]
    assert [path for path, reason in bundle.skipped if "folded" in reason] == ([scope] if scope else [])


@pytest.mark.parametrize(("nodes", "said"), [
    ([X], "contains no BatchNormalization"), ([X, node("y", "Conv2D", "x", "x")], "if the model had any, it was folded away"),
    ([X, node("y", "MatMul", "x", "x")], "if the model had any, it was folded away"),
    ([X, node("y", "XlaCallModule", "x")], "compiled StableHLO"), ([X, node("y", "TRTEngineOp", "x")], "compiled for TensorRT")])
def test_graphs_without_one(tmp_path, nodes, said):
    with pytest.raises(UnsupportedError, match=said):
        read(tmp_path, *nodes)


def test_a_graph_a_part_of_which_is_compiled(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    bundle = read(tmp_path, X, node("a", "TRTEngineOp", "x"), *nodes, *chain("bn", "a", *reads))
    assert bundle.warnings == ("a part of the model is compiled (the op TRTEngineOp); batch norms in it are not visible",)


def test_a_graph_whose_variables_are_elsewhere(tmp_path):
    nodes, reads = variables("bn")
    with pytest.raises(UnsupportedError, match="this graph is not frozen: its variables are in a checkpoint"):
        read(tmp_path, X, *nodes, *chain("bn", "x", *reads))


def test_the_graph_of_inference_of_a_renamed_saved_model(tmp_path):
    """Estimators write one to train, too."""
    values, others = parameters(), parameters(seed=1)
    parts = b""
    for tag, held in (("train", others), ("serve", values)):
        nodes, reads = frozen_variables("bn", held)
        info = field(4, tag) + field(5, "1.15.0")
        parts += field(2, field(1, info) + field(2, graph(X, *nodes, fused("bn", reads))))
    (tmp_path / "model.pb").write_bytes(field(1, 1) + parts)
    check(exporter.read(tmp_path / "model.pb")["bn"], values)


def test_the_scope_of_an_op_is_without_what_calls_add(tmp_path):
    """Where the variables have no scope of their own, as those of resources in TensorFlow 2."""
    names = [f"{role}/ReadVariableOp/resource" for role in ROLES]
    nodes = [const(name, array) for name, array in zip(names, parameters(), strict=True)]
    for prefix, path in (("StatefulPartitionedCall/", "net/bn"), ("PartitionedCall_1/StatefulPartitionedCall/", "net/bn"), ("", "net/bn"),
                         ("Call/", "Call/net/bn")):
        bundle = read(tmp_path, X, *nodes, node(f"{prefix}net/bn/FusedBatchNormV3", "FusedBatchNormV3", "x", *names, is_training=False))
        assert bundle.paths() == [path]

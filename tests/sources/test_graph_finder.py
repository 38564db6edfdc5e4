"""Where in a graph batch norms are looked for, what of a fused op decides its axis, and what borrows it for another normalization."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.errors import FormatError, UnresolvedError, UnsupportedError
from tests.make.graph_files import Function, chain, const, frozen_variables, function, node, parameters
from tests.sources.test_frozen_graph import ROLES, X, check, fused, read

NONE = "the model contains no BatchNormalization layer"
INSIDE = {
    "FusedBatchNormV3": [node("y", "FusedBatchNormV3", "h", *ROLES, is_training=False, epsilon=0.001)],
    "the op of 2015": [node("y", "BatchNormWithGlobalNormalization", "h", "moving_mean", "moving_variance", "beta", "gamma",
                            variance_epsilon=0.001, scale_after_normalization=True)],
    "_FusedConv2D": [node("y", "_FusedConv2D", "h", "h", *ROLES, fused_ops=["FusedBatchNorm"], epsilon=0.001)],
    "Rsqrt": [const("e", np.float32(1e-3)), node("a", "AddV2", "moving_variance", "e:output:0"), node("r", "Rsqrt", "a:z:0"),
              node("i", "Mul", "r:y:0", "gamma"), node("xi", "Mul", "h", "i:z:0"), node("mi", "Mul", "moving_mean", "i:z:0"),
              node("s", "Sub", "beta", "mi:z:0"), node("y", "AddV2", "xi:z:0", "s:z:0")]}
CALLS = {
    "PartitionedCall": lambda given: node("c", "PartitionedCall", *given, f=Function("inner")),
    "TPUPartitionedCall": lambda given: node("c", "TPUPartitionedCall", *given, "device", f=Function("inner")),
    "XlaLaunch": lambda given: node("c", "XlaLaunch", *given, function=Function("inner")),
    "by name": lambda given: node("c", "inner", *given),
    "If": lambda given: node("c", "If", "p", *given, then_branch=Function("inner"), else_branch=Function("inner")),
    "StatelessCase": lambda given: node("c", "StatelessCase", "p", *given, branches=Function("inner")),
    "While": lambda given: node("c", "While", *given, body=Function("inner"), cond=Function("never"))}


@pytest.mark.parametrize(("inside", "call"), [*((inside, "PartitionedCall") for inside in INSIDE), *(("Rsqrt", call) for call in CALLS)])
def test_functions_that_functions_call(tmp_path, inside, call):
    """A batch norm of each kind two calls deep, each of the second in another way."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    result = {"Rsqrt": "y:z:0"}.get(inside, "y:y:0")
    passed = {name: name for name in ROLES} if call == "While" else {}
    inner = function("inner", ["h", *ROLES], INSIDE[inside], {"h": result, **passed})
    outer = function("outer", ["p", "h", *ROLES], [const("device", np.int32(0)), CALLS[call](["h", *ROLES])], {"o": "c:output:0"})
    never = function("never", ["h", *ROLES], [], {"c": "h"})
    bundle = read(tmp_path, X, node("p", "Placeholder"), *nodes, node("o", "PartitionedCall", "p", "x", *reads, f=Function("outer")),
                  functions=[inner, outer, never])
    check(bundle["bn"], values)


def test_functions_without_one_and_one_that_no_graph_calls(tmp_path):
    relu = function("relu", ["h"], [node("y", "Relu", "h")], {"o": "y:y:0"})
    unused = function("unused", ["h", *ROLES], INSIDE["FusedBatchNormV3"], {"o": "y:y:0"})
    with pytest.raises(UnsupportedError, match=NONE):
        read(tmp_path, X, node("c", "PartitionedCall", "x", f=Function("relu")), functions=[relu, unused])


def test_what_the_op_of_2015_does_not_specify(tmp_path):
    values = parameters()
    nodes, (g, b, mean, variance) = frozen_variables("bn", values)
    layer = read(tmp_path, X, *nodes, node("bn/norm", "BatchNormWithGlobalNormalization", "x", mean, variance, b, g))["bn"]
    check(layer, [None, *values[1:]], epsilon=0)


def test_a_fused_convolution_that_says_nothing_of_what_was_fused(tmp_path):
    with pytest.raises(UnsupportedError, match=NONE):
        read(tmp_path, X, node("conv", "_FusedConv2D", "x", "x", "x"))


GIVEN = {"made": [const("s", np.int32([3])), const("one", np.float32(1)), const("zero", np.float32(0)), node("g", "Fill", "s", "one"),
                  node("b", "Fill", "s", "zero")],
         "constant": [const("Const", np.ones(3, "f4")), node("g", "Identity", "Const"), const("Const_1", np.zeros(3, "f4")),
                      node("b", "Identity", "Const_1")],
         "stored": [const("n/gamma", np.ones(3, "f4")), node("g", "Identity", "n/gamma"), const("n/beta", np.ones(3, "f4")),
                    node("b", "Identity", "n/beta")],
         "made and stored": [const("s", np.int32([3])), const("one", np.float32(1)), node("g", "Fill", "s", "one"),
                             const("n/beta", np.ones(3, "f4")), node("b", "Identity", "n/beta")],
         "parts": [const("g/part_0", np.ones(1, "f4")), const("g/part_1", np.ones(2, "f4")), const("a", np.int32(0)),
                   node("g", "ConcatV2", "g/part_0", "g/part_1", "a"), const("Const", np.zeros(3, "f4")), node("b", "Identity", "Const")],
         "computed": [node("g", "Placeholder"), node("b", "Placeholder")]}


@pytest.mark.parametrize(("given", "reshaped", "is_one"), [
    ("made", True, False), ("made", False, False), ("computed", False, False), ("constant", True, False), ("constant", False, True),
    ("stored", True, True), ("stored", False, True), ("made and stored", True, True), ("parts", True, True)])
def test_what_borrows_the_fused_op_in_training(tmp_path, given, reshaped, is_one):
    """Layer and instance normalization give it a scale and an offset that the graph makes, and reshape their input."""
    nodes = [X, *GIVEN[given], const("shape", np.int32([1, 16, 3, 1])), node("r", "Reshape", "x", "shape"),
             const("none", np.zeros(0, "f4")),
             node("n/FusedBatchNorm", "FusedBatchNorm", "r" if reshaped else "x", "g", "b", "none", "none", epsilon=0.001)]
    with pytest.raises(UnresolvedError if is_one else UnsupportedError, match="it uses the statistics of the batch" if is_one else NONE):
        read(tmp_path, *nodes)


@pytest.mark.parametrize(("sizes", "layout", "after", "axis", "ndim"), [
    ([-1, 1, 1, 3], "NHWC", ["Reshape"], -1, 2), ([-1, 3, 1, 1], "NCHW", ["Reshape"], -1, 2),
    ([-1, 3, 1, 1], "NHWC", ["Reshape"], -1, None), ([-1, 1, 1, 3], "NCHW", ["Reshape"], 1, 4),
    ([-1, 2, 1, 3], "NHWC", ["Reshape"], -1, None), ([-1, 1, 1, 3], "NHWC", [], -1, None), ([-1, 1, 1, 3], "NHWC", ["Relu"], -1, None),
    ([-1, 1, 1, 3], "NHWC", ["Identity", "Reshape"], -1, 2),
    ([-1, 1, 1, 3, 1], "NHWC", ["Reshape"], -1, None), (None, "NHWC", ["Reshape"], -1, None)])
def test_an_input_that_is_reshaped_for_the_fused_op(tmp_path, sizes, layout, after, axis, ndim):
    """A matrix, if it is reshaped back and has the axis of the channels and that of the batch alone; else its
    rank is unknown, but for that of the kernel where an axis counts from the front."""
    nodes, reads = frozen_variables("bn", parameters())
    shape = node("shape", "Placeholder") if sizes is None else const("shape", np.int32(sizes))
    ops, last = [], "bn/FusedBatchNormV3"
    for number, op in enumerate(after):
        ops.append(node(f"o{number}", op, last, "back"))
        last = f"o{number}"
    layer = read(tmp_path, X, *nodes, shape, node("r", "Reshape", "x", "shape"), fused("bn", reads, x="r", data_format=layout),
                 const("back", np.int32([-1, 3])), *ops)["bn"]
    assert (layer.axis, layer.ndim) == ((axis,), ndim)


@pytest.mark.parametrize(("order", "back", "layout", "axis"), [
    ([0, 2, 3, 1], [[0, 3, 1, 2]], "NHWC", 1), ([0, 3, 1, 2], [[0, 2, 3, 1]], "NCHW", -1), ([0, 3, 2, 1], [[0, 3, 2, 1]], "NHWC", 1),
    ([0, 1, 3, 2], [[0, 1, 3, 2]], "NHWC", 2), ([0, 2, 3, 1], [], "NHWC", -1), ([0, 2, 3, 1], [[0, 3, 1, 2]] * 2, "NHWC", -1),
    ([0, 2, 3, 1], [[0, 3, 1]], "NHWC", -1), ([0, 2, 3, 1], [[0, 3, 1, 2, 9, -5]], "NHWC", 1), ([0, 2, 1], [[0, 2, 1]], "NHWC", -1),
    ([0, 2, 3, 1], [None], "NHWC", -1), (None, [[0, 3, 1, 2]], "NHWC", -1)])
def test_an_input_that_is_transposed_for_the_fused_op(tmp_path, order, back, layout, axis):
    """The axis is that before, if one transpose comes back to it."""
    nodes, reads = frozen_variables("bn", parameters())
    ops = [node("p", "Placeholder") if order is None else const("p", np.int32(order)), node("t", "Transpose", "x", "p")]
    for number, one in enumerate(back):
        ops += [node(f"q{number}", "Placeholder") if one is None else const(f"q{number}", np.int32(one)),
                node(f"u{number}", "Transpose", "bn/FusedBatchNormV3", f"q{number}")]
    layer = read(tmp_path, X, *nodes, *ops, fused("bn", reads, x="t", data_format=layout))["bn"]
    assert (layer.axis, layer.ndim) == ((axis,), 4)


@pytest.mark.parametrize("sizes", [[2, 3], [-1, -1], [0, -1], [-1, 0], [3], [-1]])
def test_other_reshapes_than_those_of_a_virtual_batch_size(tmp_path, sizes):
    wide = [one.reshape(1, 1, 3, 1, 1) for one in parameters()]
    nodes, reads = frozen_variables("bn", wide)
    split = node("bn/Reshape", "Reshape", "x", "bn/sizes", _output_shapes=[(2, -1, 3, 4, 4)])
    layer = read(tmp_path, X, *nodes, const("bn/sizes", np.int32(sizes)), split, *chain("bn", "bn/Reshape", *reads))["bn"]
    assert (layer.axis, layer.ndim) == ((2,), 5)


def test_functions_without_one_that_call_one_another_for_ever(tmp_path):
    """They are not looked into."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    again = function("f", ["h"], [node("r", "Relu", "h"), node("c", "PartitionedCall", "r:y:0", f=Function("f"))], {"y": "c:output:0"})
    bundle = read(tmp_path, X, *nodes, node("c", "PartitionedCall", "x", f=Function("f")), fused("bn", reads), functions=[again])
    check(bundle["bn"], values)


@pytest.mark.parametrize(("depth", "is_read"), [(60, True), (70, False)])
def test_how_deep_functions_may_call_one_another(tmp_path, depth, is_read):
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    functions = [function("f0", ["h", *ROLES], INSIDE["FusedBatchNormV3"], {"o": "y:y:0"})]
    functions += [function(f"f{number}", ["h", *ROLES], [node("c", "PartitionedCall", "h", *ROLES, f=Function(f"f{number - 1}"))],
                           {"o": "c:output:0"}) for number in range(1, depth)]
    call = node("c", "PartitionedCall", "x", *reads, f=Function(f"f{depth - 1}"))
    if is_read:
        check(read(tmp_path, X, *nodes, call, functions=functions)["bn"], values)
        return
    with pytest.raises(FormatError, match="expected function calls at most 64 deep"):
        read(tmp_path, X, *nodes, call, functions=functions)


def test_functions_that_call_the_next_twice(tmp_path):
    """With equal arguments each is looked at once."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    functions = [function("f0", ["h", *ROLES], INSIDE["FusedBatchNormV3"], {"o": "y:y:0"})]
    for number in range(1, 20):
        calls = [node(name, "PartitionedCall", "h", *ROLES, f=Function(f"f{number - 1}")) for name in "cd"]
        functions.append(function(f"f{number}", ["h", *ROLES], calls, {"o": "c:output:0"}))
    check(read(tmp_path, X, *nodes, node("c", "PartitionedCall", "x", *reads, f=Function("f19")), functions=functions)["bn"], values)

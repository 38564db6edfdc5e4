"""What a value of a graph turns out to be: each op that hands it on, chooses between values, or makes one; and what ranks are known by."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.errors import FormatError, UnresolvedError
from tests.make.graph_files import Function, chain, const, frozen_variables, function, meta_graph, node, parameters
from tests.sources.test_frozen_graph import ROLES, X, check, fused, graph, read

ONES, ZEROS = np.ones(3, np.float32), np.zeros(3, np.float32)


def with_gamma(tmp_path, gamma, *more, values=None):
    """A batch norm in whose place for gamma this node stands."""
    values = values or parameters()
    nodes, reads = frozen_variables("bn", values)
    used = [each for each in nodes if b"bn/gamma" not in each or any(b"bn/gamma" in one for one in more)]
    bundle = read(tmp_path, X, *used, *more, fused("bn", [gamma, *reads[1:]]))
    return bundle.layers[0]


@pytest.mark.parametrize("op", ["Identity", "RefIdentity", "ReadVariableOp", "Enter", "RefEnter", "Exit", "Snapshot", "StopGradient",
                                "PreventGradient", "CheckNumerics", "Cast", "EnsureShape", "Switch", "RefSwitch", "_SwitchN", "IdentityN"])
def test_ops_that_hand_a_value_on(tmp_path, op):
    """As they come between a variable and what computes with it, in one version or another."""
    values = parameters()
    check(with_gamma(tmp_path, "h", node("p", "Placeholder"), node("h", op, "bn/gamma", "p"), values=values), values)


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_which_of_several_an_op_hands_on(tmp_path, slot):
    values = parameters()
    inputs = ["bn/beta", "bn/beta", "bn/beta"]
    inputs[slot] = "bn/gamma"
    output = f"h:{slot}" if slot else "h"
    check(with_gamma(tmp_path, output, node("h", "IdentityN", *inputs), values=values), values)


@pytest.mark.parametrize(("op", "first", "second"), [
    ("Mul", ONES, None), ("Mul", None, ONES), ("Add", ZEROS, None), ("AddV2", None, ZEROS), ("Add", np.float32(0), None)])
def test_products_with_one_and_sums_with_zero(tmp_path, op, first, second):
    """What batch renormalization leaves of its corrections in inference."""
    values = parameters()
    sides = ["bn/gamma" if side is None else "number" for side in (first, second)]
    number = const("number", first if first is not None else second)
    check(with_gamma(tmp_path, "h", number, node("h", op, *sides), values=values), values)


def test_a_product_with_nothing_is_no_parameter(tmp_path):
    with pytest.raises(UnresolvedError, match="its gamma is what the op Mul computes"):
        with_gamma(tmp_path, "h", const("number", ONES[:0]), node("h", "Mul", "bn/gamma", "number"))


def test_products_in_products(tmp_path):
    """They are followed up to a limit."""
    def ones(count):
        return [*(const(f"one{number}", ONES) for number in range(count)), node("h0", "Mul", "bn/gamma", "one0"),
                *(node(f"h{number}", "Mul", f"one{number}", f"h{number - 1}") for number in range(1, count))]

    assert with_gamma(tmp_path, "h29", *ones(30)).gamma is not None
    with pytest.raises(UnresolvedError, match="its gamma is what the op Mul computes"):
        with_gamma(tmp_path, "h49", *ones(50))


@pytest.mark.parametrize(("length", "is_read"), [(30, True), (50, False)])
def test_how_far_a_value_is_followed_whatever_was_followed_before(tmp_path, length, is_read):
    def multiplied(scope, count):
        nodes, (gamma, *reads) = frozen_variables(scope, parameters())
        nodes += [node(f"{scope}/h{number}", "Mul", "one", f"{scope}/h{number - 1}" if number else gamma) for number in range(count)]
        return [*nodes, fused(scope, [f"{scope}/h{count - 1}", *reads])]

    others = [one for number in range(15) for one in multiplied(f"bn{number}", 2)]
    bundle = read(tmp_path, X, const("one", ONES), *others, *multiplied("last", length), skip_unresolved=True)
    assert (len(bundle), "last" in bundle.paths()) == (15 + is_read, is_read)


@pytest.mark.parametrize(("op", "number"), [("Mul", ONES * 2), ("Add", ONES), ("AddV2", np.float32([0, 0, 1])), ("Sub", ZEROS),
                                            ("Mul", -ONES), ("Mul", np.float32([1, 1, 0]))])
def test_products_and_sums_that_change_a_parameter(tmp_path, op, number):
    with pytest.raises(UnresolvedError, match="its gamma"):
        with_gamma(tmp_path, "h", const("number", number), node("h", op, "bn/gamma", "number"))


@pytest.mark.parametrize(("name", "value", "is_there"), [
    ("Const", 1, False), ("Const_12", 1, False), ("ones", 1, False), ("net/ones_like", 1, False), ("ones_like_3", 1, False),
    ("Fill_1", 1, False), ("zeros", 1, False),
    ("Const", 2, True), ("zeros", 0, True), ("gamma", 1, True), ("Constant", 1, True), ("Const_a", 1, True)])
def test_a_gamma_that_the_graph_made_is_none(tmp_path, name, value, is_there):
    """By the names that TensorFlow gives by itself, and only where it changes nothing."""
    layer = with_gamma(tmp_path, name, const(name, np.full(3, value, np.float32)))
    assert (layer.gamma is not None) is is_there
    assert layer.gamma is None or (layer.gamma == value).all()


@pytest.mark.parametrize(("name", "value", "is_there"), [("zeros", 0, False), ("Const_1", 0, False), ("ones", 1, True), ("beta", 0, True)])
def test_a_beta_that_the_graph_made_is_none(tmp_path, name, value, is_there):
    values = parameters()
    nodes, (gamma, _, mean, variance) = frozen_variables("bn", [values[0], None, *values[2:]])
    made = const(name, np.full(3, value, np.float32))
    (layer,) = read(tmp_path, X, *nodes, made, *chain("bn", "x", gamma, name, mean, variance))
    assert (layer.beta is not None) is is_there


@pytest.mark.parametrize("made", [
    [node("h", "OnesLike", "bn/beta")], [const("s", np.int32([3])), const("v", np.float32(1)), node("h", "Fill", "s", "v")]])
def test_tensors_of_ones_are_no_gamma(tmp_path, made):
    assert with_gamma(tmp_path, "h", *made).gamma is None


@pytest.mark.parametrize("made", [
    [node("h", "ZerosLike", "bn/beta")], [const("s", np.int32([3])), const("v", np.float32(2)), node("h", "Fill", "s", "v")],
    [const("s", np.int32([3])), node("v", "Placeholder"), node("h", "Fill", "s", "v")], [node("h", "Exp", "bn/gamma")],
    [node("h", "Placeholder")], [node("h", "RandomUniform", "bn/gamma")]])
def test_a_gamma_that_the_graph_computes_is_unresolved(tmp_path, made):
    with pytest.raises(UnresolvedError, match="its gamma is"):
        with_gamma(tmp_path, "h", *made)


def test_a_beta_that_is_multiplied_by_zeros_is_none(tmp_path):
    values = parameters()
    nodes, (gamma, beta, mean, variance) = frozen_variables("bn", values)
    (layer,) = read(tmp_path, X, *nodes, const("zeros_of_it", ZEROS), node("h", "Mul", beta, "zeros_of_it"),
                    *chain("bn", "x", gamma, "h", mean, variance))
    check(layer, [values[0], None, *values[2:]])


def test_a_mean_that_the_graph_makes_is_unresolved(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    with pytest.raises(UnresolvedError, match="its mean is computed by the graph, not stored"):
        read(tmp_path, X, *nodes, node("h", "ZerosLike", reads[2]), fused("bn", [*reads[:2], "h", reads[3]]))


def test_statistics_that_a_fused_op_in_inference_hands_on(tmp_path):
    """Its second and third output are the mean and the variance that it was given."""
    first, second = parameters(), parameters(seed=1)
    nodes, reads = frozen_variables("a", first)
    more, (gamma, beta, *_) = frozen_variables("b", [*second[:2], None, None])
    bundle = read(tmp_path, X, *nodes, *more, fused("a", reads),
                  *chain("b", "a/FusedBatchNormV3", gamma, beta, "a/FusedBatchNormV3:1", "a/FusedBatchNormV3:2"))
    check(bundle["a"], first)
    check(bundle["b"], [*second[:2], *first[2:]])
    with pytest.raises(UnresolvedError, match="b: it uses the statistics of the batch"):  # it is in training where it says nothing
        read(tmp_path, X, *nodes, *more, node("a/FusedBatchNormV3", "FusedBatchNormV3", "x", *reads),
             *chain("b", "a/FusedBatchNormV3", gamma, beta, "a/FusedBatchNormV3:1", "a/FusedBatchNormV3:2"))


@pytest.mark.parametrize("output", ["c:1", "c:2"])
def test_an_output_that_a_function_does_not_have(tmp_path, output):
    body = function("f", ["g"], [node("i", "Identity", "g")], {"o": "i:output:0"})
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    call = node("c", "PartitionedCall", reads[0], f=Function("f"))
    check(read(tmp_path, X, *nodes, call, fused("bn", ["c", *reads[1:]]), functions=[body])["bn"], values)
    with pytest.raises(UnresolvedError, match="its gamma is an output that the function f does not have"):
        read(tmp_path, X, *nodes, call, fused("bn", [output, *reads[1:]]), functions=[body])


@pytest.mark.parametrize("op", ["Select", "SelectV2"])
@pytest.mark.parametrize("chosen", [True, False])
def test_a_choice_that_is_made_already(tmp_path, op, chosen):
    values = parameters()
    sides = ["bn/gamma", "other"] if chosen else ["other", "bn/gamma"]
    more = [const("p", np.bool_(chosen)), const("other", ONES * 7), node("h", op, "p", *sides)]
    check(with_gamma(tmp_path, "h", *more, values=values), values)


@pytest.mark.parametrize("op", ["Select", "SelectV2", "Merge", "RefMerge"])
@pytest.mark.parametrize("same", [True, False])
def test_a_choice_that_is_not(tmp_path, op, same):
    """Between one and the same it is none."""
    values = parameters()
    sides = ["bn/gamma", "bn/gamma/read" if same else "other"]
    more = [node("p", "Placeholder"), const("other", ONES * 7), node("h", op, *(["p"] if "Select" in op else []), *sides)]
    if same:
        check(with_gamma(tmp_path, "h", *more, values=values), values)
        return
    with pytest.raises(UnresolvedError, match="its gamma is a branch that is chosen only at run time"):
        with_gamma(tmp_path, "h", *more)


@pytest.mark.parametrize(("shape", "more"), [
    ("s", [const("s", np.int32([3]))]), ("s", [const("s", np.int32([-1]))]), ("s", [const("s", np.int64([3]))]),
    ("s", [const("n", np.int32(3)), node("s", "Pack", "n")])])
def test_shapes_that_a_parameter_is_brought_to(tmp_path, shape, more):
    values = parameters()
    held = [values[0].reshape(1, 3, 1), *values[1:]]
    layer = with_gamma(tmp_path, "h", *more, node("h", "Reshape", "bn/gamma", shape), values=held)
    check(layer, values)


def test_a_shape_that_a_function_is_given(tmp_path):
    values = parameters()
    body = function("f", ["g", "s"], [node("r", "Reshape", "g", "s")], {"o": "r:output:0"})
    nodes, reads = frozen_variables("bn", [values[0].reshape(1, 3), *values[1:]])
    call = node("c", "PartitionedCall", reads[0], "s", f=Function("f"))
    layer = read(tmp_path, X, *nodes, const("s", np.int32([3])), call, fused("bn", ["c", *reads[1:]]), functions=[body])["bn"]
    check(layer, values)


@pytest.mark.parametrize(("more", "said"), [
    ([const("s", np.int32([4]))], "its gamma of shape [3] does not match the graph's reshape to [4]"),
    ([node("s", "Placeholder")], "its gamma is reshaped to a shape that is known only at run time"),
    ([const("n", np.int32(3)), node("m", "Placeholder"), node("s", "Pack", "n", "m")], "known only at run time"),
    ([const("s", np.float32([3]))], "known only at run time")])
def test_shapes_that_it_cannot_have(tmp_path, more, said):
    with pytest.raises(UnresolvedError) as caught:
        with_gamma(tmp_path, "h", *more, node("h", "Reshape", "bn/gamma", "s"))
    assert said in str(caught.value)


@pytest.mark.parametrize(("shape", "made"), [
    ((1, 3), node("h", "Squeeze", "bn/gamma", squeeze_dims=[0])), ((3, 1), node("h", "Squeeze", "bn/gamma", axis=[1])),
    ((1, 3, 1), node("h", "Squeeze", "bn/gamma")), ((1, 3, 1), node("h", "Squeeze", "bn/gamma", axis=[0, 2]))])
def test_axes_that_are_left_out(tmp_path, shape, made):
    values = parameters()
    check(with_gamma(tmp_path, "h", made, values=[values[0].reshape(shape), *values[1:]]), values)


def test_an_axis_that_cannot_be_left_out(tmp_path):
    with pytest.raises(UnresolvedError, match="does not match the graph's squeeze"):
        with_gamma(tmp_path, "h", node("h", "Squeeze", "bn/gamma", axis=[0]))


@pytest.mark.parametrize("op", ["Identity", "Add", "AddV2", "BiasAdd", "Relu", "Relu6", "Elu", "Selu", "LeakyRelu", "Tanh", "Sigmoid",
                                "Softplus", "Mul", "Sub", "Neg", "Cast"])
@pytest.mark.parametrize("rank", [2, 5])
def test_ops_that_keep_the_rank(tmp_path, op, rank):
    nodes, reads = frozen_variables("bn", parameters())
    x = node("x", "Placeholder", shape=(-1, *[4] * (rank - 2), 3))
    before = [x, const("c", ONES), node("made", op, "x", "c"), node("h", "Relu", "made")]
    assert read(tmp_path, *before, *nodes, *chain("bn", "h", *reads))["bn"].ndim == rank


@pytest.mark.parametrize(("op", "rank"), [("Conv2D", 4), ("DepthwiseConv2dNative", 4), ("Conv2DBackpropInput", 4), ("MaxPool", 4),
                                          ("AvgPool", 4), ("Conv3D", 5), ("MatMul", 2), ("Mean", None), ("Reshape", None), ("Exp", None)])
def test_ops_that_say_the_rank(tmp_path, op, rank):
    nodes, reads = frozen_variables("bn", parameters())
    before = [node("x", "Placeholder"), const("c", np.int32([1])), node("h", op, "x", "c")]
    assert read(tmp_path, *before, *nodes, *chain("bn", "h", *reads))["bn"].ndim == rank


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (1, 1, 3), (1, 1, 1, 3)])
def test_a_fused_op_takes_one_dimension(tmp_path, shape):
    nodes, reads = frozen_variables("bn", [one.reshape(shape) for one in parameters()])
    with pytest.raises(UnresolvedError) as caught:
        read(tmp_path, X, *nodes, fused("bn", reads))
    assert f"its parameters have the shape {list(shape)}, but a fused op takes one dimension" in str(caught.value)


@pytest.mark.parametrize(("shapes", "axis", "shape"), [
    ([(3,)] * 4, (-1,), (3,)), ([(3, 1, 1)] * 4, (1,), (3,)), ([(1, 3, 1, 1)] * 4, (1,), (3,)), ([(3, 1)] * 4, (2,), (3,)),
    ([(2, 1, 3)] * 4, (1, -1), (2, 3)), ([(1,), (3,), (3,), (3,)], (-1,), (3,)),
    ([(), (3,), (3,), (3,)], (-1,), (3,))])
def test_parameters_that_broadcast(tmp_path, shapes, axis, shape):
    """Against one another and an input of rank 4."""
    values = [np.arange(1, 1 + np.prod(one, dtype=int), dtype=np.float32).reshape(one) for one in shapes]
    nodes, reads = frozen_variables("bn", values)
    layer = read(tmp_path, X, *nodes, *chain("bn", "x", *reads))["bn"]
    assert (layer.axis, layer.shape) == (axis, shape)
    whole = np.broadcast_shapes(*shapes)
    for role, given in zip(ROLES, values, strict=True):
        assert (getattr(layer, role).ravel() == np.broadcast_to(given, whole).ravel()).all(), role


@pytest.mark.parametrize(("shape", "axis"), [((3, 1, 1), (-3,)), ((3, 1), (-2,)), ((1, 3, 1, 1), (1,)), ((1, 3, 1), (1,)),
                                             ((2, 1, 3), (-3, -1)), ((1, 1, 3), (-1,)), ((1, 3), (-1,))])
def test_parameters_and_an_input_of_unknown_rank(tmp_path, shape, axis):
    """Those with an axis of size 1 in front have all axes of the input; of others, axes can be counted from the end alone."""
    values = [np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)] * 4
    nodes, reads = frozen_variables("bn", values)
    layer = read(tmp_path, node("x", "Placeholder"), *nodes, *chain("bn", "x", *reads))["bn"]
    assert (layer.axis, layer.ndim) == (axis, None)


def test_parameters_that_do_not_broadcast(tmp_path):
    nodes, reads = frozen_variables("bn", [*parameters()[:3], np.ones(2, np.float32)])
    with pytest.raises(UnresolvedError, match=r"different shapes: gamma \[3\], beta \[3\], moving_mean \[3\], moving_variance \[2\]"):
        read(tmp_path, X, *nodes, *chain("bn", "x", *reads))


@pytest.mark.parametrize(("version", "in_graph", "epsilon", "effective"), [
    ("1.2.0", 1e-5 + 1e-12, 1e-5, 1e-5 + 1e-12), ("1.3.0", 1e-6 + 1e-12, 1e-6, 1e-6 + 1e-12), ("1.2.0", 1e-3, 1e-3, None),
    ("1.4.0", 1e-5 + 1e-12, 1e-5 + 1e-12, None), ("1.2.0", 0.0, 0.0, None), ("1.2.0", 2e-5, 2e-5, None)])
def test_what_early_versions_added_to_epsilon(tmp_path, version, in_graph, epsilon, effective):
    """In fused ops alone."""
    nodes, reads = frozen_variables("bn", parameters())
    (tmp_path / "g.meta.pb").write_bytes(meta_graph(graph(X, *nodes, fused("bn", reads, epsilon=in_graph)), version))
    layer = exporter.read(tmp_path / "g.meta.pb")["bn"]
    assert layer.epsilon == pytest.approx(epsilon, rel=1e-7)
    assert layer.effective_epsilon == (None if effective is None else float(np.float32(in_graph)))
    (tmp_path / "h.meta.pb").write_bytes(meta_graph(graph(X, *nodes, *chain("bn", "x", *reads, epsilon=in_graph)), version))
    assert exporter.read(tmp_path / "h.meta.pb")["bn"].effective_epsilon is None


BEFORE = {
    "x - number": [const("c", np.float32(0.5)), node("h", "Sub", "x", "c")],
    "x - vector": [const("c", ONES / 3), node("h", "Sub", "x", "c")],
    "x - variable": [const("v", ONES * 3), node("v/read", "Identity", "v"), node("h", "Sub", "x", "v/read")],
    "x + -number": [const("c", np.float32(0.5)), node("n", "Neg", "c"), node("h", "Add", "x", "n")],
    "(x - number) * number": [const("c", np.float32(0.5)), node("d", "Sub", "x", "c"), const("k", np.float32(2)),
                              node("h", "Mul", "d", "k")],
    "x - mean of x": [const("a", np.int32([0])), node("m", "Mean", "x", "a"), node("h", "Sub", "x", "m")],
    "(x - vector) / number": [const("c", ONES / 3), node("d", "Sub", "x", "c"), const("k", np.float32(2)), node("h", "RealDiv", "d", "k")]}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("missing", [(), ("gamma",), ("beta",), ("gamma", "beta")], ids=lambda names: "no " + " ".join(names))
def test_a_difference_that_feeds_a_batch_norm_is_not_its_own(tmp_path, before, missing):
    """gamma * (x - c) * r is a batch norm, too, as people write one, but here the same root multiplies the mean."""
    values = [None if role in missing else one for role, one in zip(ROLES, parameters(), strict=True)]
    nodes, reads = frozen_variables("bn", values)
    gamma, beta = (None if one is None else name for one, name in zip(values, reads[:2]))
    bundle = read(tmp_path, X, *BEFORE[before], *nodes, *chain("bn", "h", gamma, beta, *reads[2:]))
    assert bundle.paths() == ["bn"]
    check(bundle["bn"], values)


def test_one_part_is_the_whole(tmp_path):
    values = parameters()
    check(with_gamma(tmp_path, "h", const("axis", np.int32(0)), node("h", "ConcatV2", "bn/gamma", "axis"), values=values), values)


@pytest.mark.parametrize(("factor", "op"), [("bn/gamma/read", "Sub"), ("other", "Sub"), (None, "AddV2")])
def test_a_mean_that_something_more_multiplies_or_that_is_added_is_none(tmp_path, factor, op):
    """r*x*gamma - r*mean*gamma*other + beta and r*x*gamma + r*mean*gamma + beta are no batch norms."""
    nodes, (gamma, beta, mean, variance) = frozen_variables("bn", parameters())
    ops = [const("other", ONES * 3), const("e", np.float32(1e-3)), node("v", "Add", variance, "e"), node("r", "Rsqrt", "v"),
           node("rg", "Mul", "r", gamma), node("rgx", "Mul", "x", "rg"),
           node("rgo", *(["Mul", "rg", factor] if factor else ["Identity", "rg"])),
           node("rgom", "Mul", "rgo", mean), node("shift", op, beta, "rgom"), node("y", "Add", "rgx", "shift")]
    with pytest.raises(UnresolvedError, match="bn: the graph uses its variance in a way that is not a known form"):
        read(tmp_path, X, *nodes, *ops)


@pytest.mark.parametrize("statistics", ["mean", "sum", None])
def test_arguments_of_functions_are_followed_out_of_them(tmp_path, statistics):
    """A mean of the batch is one also where a function subtracts it from what it is given, or divides the sum that it is given."""
    nodes, (gamma, beta, mean, variance) = frozen_variables("bn", parameters())
    made = [const("a", np.int32([0, 1, 2])), node("m", "Mean", "x", "a"), node("d", "SquaredDifference", "x", "m"),
            node("v", "Mean", "d", "a"), node("sum", "Sum", "x", "a")]
    divided = [const("n", np.float32(32)), node("mean", "RealDiv", "moving_mean", "n:output:0")] if statistics == "sum" else []
    mean_inside = "mean:z:0" if divided else "moving_mean"
    body = function("f", ["x", *ROLES], [const("e", np.float32(1e-3)), node("p", "Add", "moving_variance", "e:output:0"),
                                        node("r", "Rsqrt", "p:z:0"), node("g", "Mul", "r:y:0", "gamma"), node("gx", "Mul", "x", "g:z:0"),
                                        node("gm", "Mul", mean_inside, "g:z:0"), node("s", "Sub", "beta", "gm:z:0"), *divided,
                                        node("y", "Add", "gx:z:0", "s:z:0")], {"o": "y:z:0"})
    given = [{"mean": "m", "sum": "sum"}[statistics], "v"] if statistics else [mean, variance]
    used = nodes[:4] if statistics else nodes
    call = node("c", "PartitionedCall", "x", gamma, beta, *given, f=Function("f"))
    if statistics:
        with pytest.raises(UnresolvedError, match="statistics of the batch"):
            read(tmp_path, X, *used, *made, call, functions=[body])
    else:
        check(read(tmp_path, X, *used, *made, call, functions=[body])["bn"], parameters())


@pytest.mark.parametrize("inputs", [
    ["bn/gamma", "other", "made"], ["made", "other", "axis"], ["shaped", "other", "axis"], ["axis"]], ids=lambda names: " ".join(names))
def test_what_is_joined_of_something_else_than_parts_is_none(tmp_path, inputs):
    """Along an axis that is known only at run time, of what the graph computes, of what is reshaped first, or of nothing."""
    more = [const("axis", np.int32(0)), const("other", ONES[:0]), node("made", "Placeholder"), const("s", np.int32([3])),
            node("shaped", "Reshape", "bn/gamma", "s"), node("h", "ConcatV2", *inputs)]
    with pytest.raises(UnresolvedError, match="its gamma is what the op ConcatV2 computes"):
        with_gamma(tmp_path, "h", *more)


def test_another_use_of_a_variance_is_no_second_batch_norm(tmp_path):
    """Somebody's 1 / sqrt(variance + epsilon) for a summary, beside the batch norm itself."""
    nodes, reads = frozen_variables("bn", parameters())
    more = [const("e", np.float32(1)), node("v", "AddV2", reads[3], "e"), node("r", "Rsqrt", "v"), node("s", "Sum", "r", "axes"),
            const("axes", np.int32([0]))]
    bundle = read(tmp_path, X, *nodes, *more, *chain("bn", "x", *reads))
    assert (bundle.paths(), bundle.skipped) == (["bn"], ())


def test_a_function_that_is_called_by_its_name(tmp_path):
    """The op of a call in TensorFlow 1 is the function itself."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    body = function("f", ["h", *ROLES], [node("y", "FusedBatchNormV3", "h", *ROLES, is_training=False, epsilon=0.001)], {"o": "y:y:0"})
    bundle = read(tmp_path, X, *nodes, node("c", "f", "x", *reads), functions=[body])
    check(bundle["bn"], values)


@pytest.mark.parametrize("op", ["RemoteCall", "PartitionedCall"])
def test_a_function_that_is_called_elsewhere(tmp_path, op):
    """The first input of a call on another device is the device."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    body = function("f", ["h", *ROLES], [node("y", "FusedBatchNormV3", "h", *ROLES, is_training=False, epsilon=0.001)], {"o": "y:y:0"})
    device = ["target"] if op == "RemoteCall" else []
    call = node("c", op, *device, "x", *reads, f=Function("f"))
    check(read(tmp_path, X, *nodes, const("target", [b"/cpu:0"]), call, functions=[body])["bn"], values)


def test_what_is_joined_of_nothing_at_all_is_damaged(tmp_path):
    with pytest.raises(FormatError, match="ConcatV2 has 0 inputs"):
        with_gamma(tmp_path, "h", node("h", "ConcatV2"))


@pytest.mark.parametrize(("count", "rank"), [(90, 4), (110, None)])
def test_a_rank_that_many_ops_keep(tmp_path, count, rank):
    """They are followed up to a limit, and end in circles, too."""
    nodes, reads = frozen_variables("bn", parameters())
    relus = [node(f"h{number}", "Relu", f"h{number - 1}" if number else "x") for number in range(count)]
    assert read(tmp_path, X, *relus, *nodes, *chain("bn", f"h{count - 1}", *reads))["bn"].ndim == rank


@pytest.mark.parametrize("op", ["If", "PartitionedCall"])
def test_a_call_that_passes_too_few_arguments(tmp_path, op):
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    body = function("f", ["h", *ROLES], [node("y", "FusedBatchNormV3", "h", *ROLES, is_training=False, epsilon=0.001)], {"o": "y:y:0"})
    given = ["x", *reads[:3]]
    call = node("c", "If", "p", *given, then_branch=Function("f"), else_branch=Function("f")) if op == "If" else node(
        "c", op, *given, f=Function("f"))
    with pytest.raises(UnresolvedError, match="its variance is an input of the graph, moving_variance"):
        read(tmp_path, X, node("p", "Placeholder"), *nodes, call, functions=[body])

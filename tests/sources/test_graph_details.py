"""Graphs that differ from a common one in a detail that decides what is read: ranks, names, branches, and what is only similar."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.errors import LayerError, UnresolvedError
from exporter.formats.object_graph import CheckpointGraph, SavedGraph
from exporter.formats.protobuf import Message
from exporter.sources.tf_graph.saved import SavedFunctions
from tests.make.graph_files import chain, const, formula, frozen_variables, function, graph, meta_graph, node, parameters, tensor, variables
from tests.make.tensor_files import field, graph_proto, saved_graph_proto, shape_proto
from tests.sources.test_frozen_graph import ROLES, X, check, fused, read
from tests.sources.test_graph_chains import written
from tests.sources.test_saved_model import CHILDREN, INFERENCE, VECTORS, saved_functions
from tests.sources.test_tf1_checkpoint import save, tensors
from tests.sources.test_training_graphs import average, moments


def test_a_gamma_of_one_channel_that_is_1_is_a_gamma(tmp_path):
    """A number without a dimension would be the 1 of 1 / sqrt(v + e)."""
    values = [np.float32([one]) for one in (1, 2, 3, 4)]
    check(written(tmp_path, "q = g / sqrt(v + e); y = x * q + (b - m * q)", values)["bn"], values)


def test_a_factor_that_is_an_activation_is_no_gamma(tmp_path):
    with pytest.raises(UnresolvedError, match="not a known form of batch norm"):
        written(tmp_path, "h = relu(x); y = (h * (x - m)) * rsqrt(v + e) + b")


def test_parameters_with_more_axes_than_the_input(tmp_path):
    """What an input of two axes is broadcast to has three, and they are counted from the end of that."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    shape = [const("s", np.int32([3, 1, 1])), *(node(f"r{n}", "Reshape", one, "s") for n, one in enumerate(reads))]
    x = node("x", "Placeholder", shape=(-1, 4))
    with pytest.raises(LayerError, match="bn: axis -3 does not fit an input of rank 2"):
        read(tmp_path, x, *nodes, *shape, *chain("bn", "x", "r0", "r1", "r2", "r3"))


@pytest.mark.parametrize("order", [[0, 1], [0, 2, 3], [0, 2, 3, 1, 4]])
def test_a_transpose_of_another_rank_than_the_op_has(tmp_path, order):
    nodes, reads = frozen_variables("bn", parameters())
    turned = [const("there", np.int32(order)), const("back", np.int32([0, 3, 1, 2])), node("t", "Transpose", "x", "there"),
              fused("bn", reads, x="t"), node("u", "Transpose", "bn/FusedBatchNormV3", "back")]
    assert read(tmp_path, X, *nodes, *turned)["bn"].axis == (-1,)


def test_layers_whose_statistics_are_unknown_for_one_reason_are_not_one(tmp_path):
    made = [const("c", np.float32([1, 2, 3])), *(node(f"e{number}", "Exp", "c") for number in range(4)),
            const("ones", np.float32([1, 1, 1])), const("zeros", np.float32([0, 0, 0]))]
    ops = [fused(f"a{number}", ["ones", "zeros", f"e{2 * number}", f"e{2 * number + 1}"]) for number in (0, 1)]
    with pytest.raises(UnresolvedError) as caught:
        read(tmp_path, X, *made, *ops)
    assert [path for path, _ in caught.value.layers] == ["a0", "a1"]


def test_what_an_average_of_a_sum_reads_is_no_result(tmp_path):
    """The call in training reaches nothing but a metric."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    ops = [fused("bn", reads), node("b", "FusedBatchNormV3", "x", *reads, is_training=True),
           node("sum", "AddV2", "bn/FusedBatchNormV3", "b"),
           node("metric", "Placeholder"), node("update", "AssignAdd", "metric", "sum"), node("y", "Relu", "bn/FusedBatchNormV3")]
    check(read(tmp_path, X, *nodes, *ops)["bn"], values)


@pytest.mark.parametrize("present", ["gamma", "beta"])
def test_the_resource_that_a_frozen_function_reads_says_no_scope(tmp_path, present):
    """Freezing calls the constant after the op that read the variable; the layer has the name of its own op."""
    values = dict(zip(ROLES, parameters(), strict=True))
    given = {role: f"net/bn/{role}" for role in ROLES}
    given[present] = "net/bn/ReadVariableOp/resource"
    other = "beta" if present == "gamma" else "gamma"
    nodes = [const(given[role], values[role]) for role in ROLES if role != other]
    nodes += [const("ones", np.float32([1, 1, 1] if other == "gamma" else [0, 0, 0]))]
    op = fused("net/bn", ["ones" if role == other else given[role] for role in ROLES])
    assert read(tmp_path, X, *nodes, op).paths() == ["net/bn"]


def test_a_bias_behind_something_else_than_a_kernel_may_be_a_layers(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    more = [node("r", "Relu", "x"), const("bias", np.float32([1, 2, 3])), node("biased", "BiasAdd", "r", "bias")]
    assert read(tmp_path, X, *nodes, *more, fused("bn", reads, x="biased"))["bn"].calls == ()


@pytest.mark.parametrize("index", [0, 1])
def test_a_case_counts_its_branches_from_0(tmp_path, index):
    """Its number is no truth value."""
    nodes, reads = frozen_variables("bn", parameters())
    branches = [function(name, ["x", *ROLES], [node("y", "FusedBatchNormV3", "x", *ROLES, is_training=name == "batch")], {"o": "y:y:0"})
                for name in ("stored", "batch")]
    listed = field(1, b"".join(field(9, field(1, name)) for name in ("stored", "batch")))
    choice = field(1, "c") + field(2, "Case") + b"".join(field(3, one) for one in ("index", "x", *reads)) + field(
        5, field(1, "branches") + field(2, listed))
    assert read(tmp_path, X, *nodes, const("index", np.int32(index)), choice, functions=branches).paths() == ["bn"]


def test_a_function_of_inference_with_constants_alone_is_searched_too():
    """It has no variables that nothing else uses; the first one has all of a layer."""
    constants = [const(f"c/{role}", value) for role, value in zip(ROLES, parameters(seed=7), strict=True)]
    own = [*constants, node("served", "FusedBatchNormV3", "x", *(f"c/{role}:output:0" for role in ROLES), is_training=False, epsilon=0.5)]
    functions = saved_functions({"__inference_signature_wrapper_1": ([INFERENCE], {"y": "served:y:0"}, 4),
                                 "__inference_signature_wrapper_2": (own, {"y": "served:y:0"}, 0)})
    assert len(functions.norms_of([5])[5]) == 1
    assert [norm.epsilon for norm in functions.others({2, 3, 4, 5})] == [0.5]


def test_constants_in_a_function_that_nothing_asks_about_are_not_searched():
    """A function of a layer's own, which may hold a copy of what another one computes."""
    constants = [const(f"c/{role}", value) for role, value in zip(ROLES, parameters(seed=7), strict=True)]
    own = [*constants, node("y", "FusedBatchNormV3", "x", *(f"c/{role}:output:0" for role in ROLES), is_training=False)]
    assert saved_functions({"call": (own, {"y": "y:y:0"}, 4)}).others({2, 3, 4, 5}) == []


def test_a_captured_object_that_is_no_variable_is_unknown():
    """A file of assets, or a table."""
    gamma, beta, mean, variance = VECTORS
    ops = [node("m", "Mul", gamma, "t"), node("served", "FusedBatchNormV3", "x", "m:z:0", beta, mean, variance, is_training=False),
           *(node(f"read_{one}", "ReadVariableOp", one) for one in "gbmv")]
    body = function("__inference_signature_wrapper_1", ["x", *"gbmvt"], ops, {"y": "served:y:0"})
    objects = [({"bn": 1, "table": 6}, None), (CHILDREN, None)]
    nodes = [*objects, *(({}, name) for name in ROLES), ({}, None)]
    bound = field(2, field(1, "__inference_signature_wrapper_1") + field(2, field(2, bytes(range(2, 7)))))
    stored = graph_proto([*objects, *(({}, (name, name)) for name in ROLES), ({}, None)])
    functions = SavedFunctions(meta_graph(graph(functions=[body])), SavedGraph(Message(saved_graph_proto(nodes) + bound, "objects")),
                               CheckpointGraph(Message(stored, "stored")))
    assert [norm.reason for norm in functions.norms()] == ["its gamma is what the op Mul computes"]


def test_a_saver_of_what_the_graph_does_not_hold_says_nothing(tmp_path):
    nodes, reads = variables("bn")
    saver = [node("save/tensor_names", "Const", value=tensor([b"one"])),
             node("save/Save", "Save", "save/Const", "save/tensor_names", "not_there")]
    values = parameters()
    index = save(tmp_path, tensors("bn", values), *nodes, *chain("bn", "x", *reads), *saver)
    assert exporter.read(index).paths() == ["bn"]


def test_statistics_without_gamma_and_beta_that_the_graph_does_not_use_are_named(tmp_path):
    values = parameters()
    nodes, reads = variables("bn")
    stored = {**tensors("bn", values), **tensors("left", values[2:], ROLES[2:])}
    bundle = exporter.read(save(tmp_path, stored, *nodes, *chain("bn", "x", *reads)), skip_unresolved=True)
    assert (bundle.paths(), [path for path, _ in bundle.skipped]) == (["bn"], ["left"])


@pytest.mark.parametrize("present", ["mean", "variance"])
def test_an_average_of_one_moment_alone_is_none_of_a_batch_norm(tmp_path, present):
    values = parameters()
    last = {"mean": "Squeeze", "variance": "Squeeze_1"}[present]
    stored = {**tensors("bn", values[:2]), f"bn/bn/moments/{last}/ExponentialMovingAverage": values[2],
              **tensors("sure", parameters(seed=1))}
    bundle = exporter.read(save(tmp_path, stored), epsilon=0.5, skip_unresolved=True)
    assert (bundle.paths(), bundle.skipped) == (["sure"], ())


@pytest.mark.parametrize("gamma", ["Exp", "Identity", None])
def test_several_averages_of_one_statistic_and_a_gamma_that_says_no_scope(tmp_path, gamma):
    """One that the graph computes has no name; beta says it alone."""
    values, others = parameters(), parameters(seed=1)
    nodes, (scale, beta, _, _) = variables("bn")
    more, _ = variables("summary", 2, names=("mean", "variance"))
    of_batch, mean, variance = moments("bn")
    updates = [*average("m", "bn/moving_mean", mean), *average("v", "bn/moving_variance", variance),
               *average("sm", "summary/mean", mean), *average("sv", "summary/variance", variance)]
    stored = {**tensors("bn", values), **tensors("summary", others[2:], ("mean", "variance"))}
    made = [node("made", gamma, scale)] if gamma else []
    index = save(tmp_path, stored, *nodes, *more, *of_batch, *updates, *made,
                 *chain("bn", "x", "made" if gamma else None, beta, mean, variance))
    if gamma == "Exp":
        with pytest.raises(UnresolvedError, match="its gamma is what the op Exp computes"):
            exporter.read(index)
    else:
        check(exporter.read(index)["bn"], values if gamma else [None, *values[1:]])


def test_a_difference_that_is_multiplied_twice_has_no_certain_gamma(tmp_path):
    with pytest.raises(UnresolvedError, match="not a known form of batch norm"):
        written(tmp_path, "r = rsqrt(v + e); y = ((x - m) * c) * (r * g) + b")


@pytest.mark.parametrize(("gamma", "said"), [("ZerosLike", "its gamma is computed by the graph, not stored"),
                                             ("Exp", "its gamma is a branch that is chosen only at run time")])
def test_a_choice_between_zeros_and_something_that_the_graph_computes(tmp_path, gamma, said):
    """Only beside statistics of the batch are zeros those of an empty one."""
    nodes, (scale, *reads) = frozen_variables("bn", parameters())
    made = [node("train", "Placeholder"), node("zeros", "ZerosLike", scale), node("other", gamma, scale),
            node("chosen", "SelectV2", "train", "other", "zeros")]
    with pytest.raises(UnresolvedError, match=said):
        read(tmp_path, X, *nodes, *made, fused("bn", ["chosen", *reads]))


def test_the_scope_of_one_whose_epsilon_is_stored(tmp_path):
    with pytest.raises(UnresolvedError) as caught:
        written(tmp_path, "y = (x - m) * rsqrt(v + c)")
    assert [path for path, _ in caught.value.layers] == ["bn"]


@pytest.mark.parametrize("is_read", [True, False])
def test_a_kernel_whose_biased_output_something_else_reads_too(tmp_path, is_read):
    nodes, reads = frozen_variables("bn", parameters())
    more = [const("conv/kernel", np.ones((1, 1, 3, 3), "f4")), const("conv/bias", np.float32([1, 2, 3])),
            node("conv/Conv2D", "Conv2D", "x", "conv/kernel", padding="SAME"), node("conv/BiasAdd", "BiasAdd", "conv/Conv2D", "conv/bias"),
            *([node("other", "Relu", "conv/BiasAdd")] if is_read else [])]
    (call,) = read(tmp_path, X, *nodes, *more, fused("bn", reads, x="conv/BiasAdd"))["bn"].calls
    assert [(each.path, each.use_bias, each.is_shared) for each in call.inputs] == [("conv", True, is_read)]


@pytest.mark.parametrize("divisor", ["of the batch", "stored"])
def test_a_stored_root_over_that_of_another_stored_variance_may_be_a_layer(tmp_path, divisor):
    values = parameters()
    nodes, (gamma, beta, _, stored_variance) = variables("bn")
    of_batch, mean, variance = moments("bn")
    other = variance if divisor == "of the batch" else "other"
    scaled = formula("w * (rsqrt(s + e) / rsqrt(d + e))", "correction", s=stored_variance, d=other, e="bn/batchnorm/add/y", w="w")
    more = [node("w", "VariableV2"), node("other", "VariableV2", shape=(3,)), *average("m", "bn/moving_mean", mean),
            *average("v", "bn/moving_variance", variance)]
    index = save(tmp_path, {**tensors("bn", values), "w": np.ones(3, "f4"), "other": np.ones(3, "f4")}, *nodes, *of_batch, *more,
                 *chain("bn", "x", gamma, beta, mean, variance), *scaled)
    bundle = exporter.read(index, skip_unresolved=True)
    check(bundle["bn"], values)
    assert (len(bundle.skipped) > 0) is (divisor == "stored")


def test_sizes_that_are_no_sizes_before_a_batch_norm_are_not_filled_in(tmp_path):
    """A few bytes can stand for a constant larger than memory."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    sizes = node("sizes", "Const", value=field(1, 3) + field(2, shape_proto((1 << 40,))))
    check(read(tmp_path, X, *nodes, sizes, node("r", "Reshape", "x", "sizes"), fused("bn", reads, x="r"))["bn"], values)

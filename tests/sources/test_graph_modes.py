"""Graphs that train: statistics of the batch in forms that are rarely written, and layers in both modes."""

from __future__ import annotations

import collections

import numpy as np
import pytest

import exporter
from exporter.errors import UnresolvedError
from exporter.formats.graph_def import Graph
from exporter.sources.tf_graph.saved import key_of
from exporter.sources.tf_graph.trace import Tracer
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
from tests.make.tensor_files import write_bundle
from tests.sources.test_saved_model import VECTORS, saved_functions
from tests.sources.test_tf1_checkpoint import check, save, tensors
from tests.sources.test_training_graphs import average, freeze


def by_sums(scope, x="x"):
    """The moments of TensorFlow before 1.0: sums, divided by the number of rows."""
    s = f"{scope}/moments"
    nodes = [const(f"{s}/axes", np.int32([0])), const(f"{s}/share", np.float32(1 / 8)), node(f"{s}/sum", "Sum", x, f"{s}/axes"),
             node(f"{s}/mean", "Mul", f"{s}/sum", f"{s}/share"), node(f"{s}/diff", "SquaredDifference", x, f"{s}/mean"),
             node(f"{s}/squares", "Sum", f"{s}/diff", f"{s}/axes"), node(f"{s}/variance", "Mul", f"{s}/squares", f"{s}/share")]
    return nodes, f"{s}/mean", f"{s}/variance"


@pytest.mark.parametrize("has_averages", [True, False])
def test_statistics_of_the_batch_that_are_computed_from_sums(tmp_path, has_averages):
    values = parameters()
    nodes, (gamma, beta, _, _) = variables("bn")
    of_batch, mean, variance = by_sums("bn")
    updates = [*average("m", "bn/moving_mean", mean), *average("v", "bn/moving_variance", variance)] if has_averages else []
    index = save(tmp_path, tensors("bn", values), *nodes, *of_batch, *updates, *chain("bn", "x", gamma, beta, mean, variance))
    if has_averages:
        check(exporter.read(index)["bn"], values)
        return
    with pytest.raises(UnresolvedError, match="it uses the statistics of the batch"):
        exporter.read(index)


def test_a_layer_that_only_trains_is_in_no_other_mode():
    ops = [node("y", "FusedBatchNormV3", "x", *VECTORS, is_training=True, epsilon=0.02, exponential_avg_factor=0.5)]
    functions = saved_functions({"__inference_signature_wrapper_1": (ops, {"y": "y:y:0"}, 4)})
    assert [(norm.in_training, norm.also_in_training) for norm in functions.norms()] == [(True, False)]


@pytest.mark.parametrize("text", ["y = x * exp(rsqrt(s + e)) * g", "y = rsqrt(s + e) * rsqrt(d + e) * x",
                                  "y = rsqrt(s + e) / sqrt(d + e) * x"])
def test_what_becomes_of_a_stored_root_is_no_correction_of_the_batch(tmp_path, text):
    """Only a quotient of two roots of one kind is, of which the other is of the batch."""
    values = parameters()
    nodes, (gamma, _, _, stored_variance) = variables("bn")
    of_batch, _, variance = by_sums("bn")
    ops = formula(text, "f", s=stored_variance, d=variance, e="e", g=gamma, x="x")
    index = save(tmp_path, tensors("bn", values), *nodes, *of_batch, const("e", np.float32(1e-3)), *ops)
    with pytest.raises(UnresolvedError, match="not a known form of batch norm"):
        exporter.read(index)


def test_a_branch_whose_statistics_a_function_computes(tmp_path):
    """The stored ones are those of inference, also where a call combines those of the batch from several."""
    values = parameters()
    nodes, (gamma, beta, *stored) = frozen_variables("bn", values)
    body = function("spread", ["a", "b"], [node("square", "Square", "b"), node("d", "Sub", "a", "square:y:0")], {"o": "d:z:0"})
    of_batch = [const("axes", np.int32([0])), node("m", "Mean", "x", "axes"), node("xx", "Square", "x"), node("mm", "Mean", "xx", "axes"),
                node("v", "PartitionedCall", "mm", "m", f=Function("spread"))]
    chosen = [node(f"s{n}", "SelectV2", "train", one, other) for n, (one, other) in enumerate(zip("mv", stored, strict=True))]
    x = node("x", "Placeholder", shape=(-1, 3))
    bundle = freeze(tmp_path, x, node("train", "Placeholder"), *nodes, *of_batch, *chosen, *chain("bn", "x", gamma, beta, "s0", "s1"),
                    functions=[body])
    check(bundle["bn"], values)


@pytest.mark.parametrize("is_input", [True, False])
def test_a_mean_that_comes_through_a_conditional_from_an_input_is_none(tmp_path, is_input):
    nodes, reads = frozen_variables("bn", parameters(), ("scale", "offset", "mu", "sigma2"))
    more = [const("epsilon", np.float32(1e-3)), node("p", "Placeholder"), node("sw", "Switch", "x" if is_input else reads[2], "p"),
            node("moved", "Add", "sw", reads[2])]
    ops = formula("y = (x - m) * rsqrt(v + e) * g + b", "f", x="x", e="epsilon", m="moved", g=reads[0], b=reads[1], v=reads[3])
    with pytest.raises(UnresolvedError, match="not a known form of batch norm" if is_input else "its mean is what the op Add computes"):
        freeze(tmp_path, node("x", "Placeholder", shape=(-1, 3)), *nodes, *more, *ops)


@pytest.mark.parametrize(("name", "is_one"), [("net/batchnorm/", True), ("net/batchnorm/inner/", False), ("net/moments/", False)])
def test_statistics_of_the_batch_without_parameters_are_those_of_a_batch_norm_by_their_scope(tmp_path, name, is_one):
    """Whoever normalizes an input by its own statistics uses the same sums."""
    of_batch, mean, variance = by_sums("pre")
    ops = formula("y = (x - m) * rsqrt(v + e)", name, x="x", m=mean, v=variance, e="e")
    nodes = [const("e", np.float32(1e-3)), *of_batch, *ops]
    x = node("x", "Placeholder", shape=(-1, 3))
    with pytest.raises(UnresolvedError if is_one else exporter.UnsupportedError):
        freeze(tmp_path, x, *nodes)


@pytest.mark.parametrize("used", ["moving_mean", "moving_variance", None])
def test_parameters_that_are_left_over_of_which_one_is_used(tmp_path, used):
    """Whether anything else computes with one of the statistics decides what is said."""
    nodes, reads = frozen_variables("bn", parameters())
    more, _ = frozen_variables("left", parameters(seed=1))
    ops = [node("other", "Relu", f"left/{used}/read")] if used else []
    x = node("x", "Placeholder", shape=(-1, 4, 4, 3))
    said = "in a way that is not a known form of batch norm" if used else "the graph seems to be truncated"
    with pytest.raises(UnresolvedError, match=said):
        freeze(tmp_path, x, *nodes, *more, node("y", "FusedBatchNormV3", "x", *reads, is_training=False), *ops)


@pytest.mark.parametrize("text", ["y = (x - m) * rsqrt(v) * g + b", "y = (x - m) / sqrt(v) * g + b"])
def test_a_root_without_an_epsilon_has_0(tmp_path, text):
    values = parameters()
    nodes, (gamma, beta, mean, variance) = variables("bn")
    index = save(tmp_path, tensors("bn", values), *nodes, *formula(text, "f", x="x", g=gamma, b=beta, m=mean, v=variance))
    check(exporter.read(index)["bn"], values, epsilon=0)


def test_statistics_that_are_skipped_are_not_said_to_be_missing(tmp_path):
    """What has only one of them is named once."""
    values = parameters()
    index = save(tmp_path, {**tensors("half", values[:3]), **tensors("whole", values), **tensors("norm", values[:2])})
    bundle = exporter.read(index, epsilon=0.1, skip_unresolved=True)
    assert ([path for path, _ in bundle.skipped], bundle.paths()) == (["half"], ["whole"])
    assert [warning.partition(":")[0] for warning in bundle.warnings] == ["norm"]


def test_a_variable_of_a_function_alone_is_in_no_checkpoint():
    """It has no object: its handle is made by an op of the body."""
    handles = [node(f"own_{one}", "VarHandleOp") for one in "gbmv"]
    reads = [node(f"own_read_{one}", "ReadVariableOp", f"own_{one}:resource:0") for one in "gbmv"]
    op = node("y", "FusedBatchNormV3", "x", *(f"own_read_{one}:value:0" for one in "gbmv"), is_training=False, epsilon=0.02)
    functions = saved_functions({"__inference_signature_wrapper_1": ([*handles, *reads, op], {"y": "y:y:0"}, 0)})
    assert [key_of(norm.variance) for norm in functions.norms()] == [None]
    assert [norm.path for norm in functions.others(set())] == []


def test_functions_that_call_one_another_in_more_ways_than_any_model_has():
    """A few lines of a graph can stand for a million calls."""
    calls = [node(name, "PartitionedCall", "x", f=Function("f")) for name in "ab"]
    body = function("f", ["x"], calls, {"o": "a:output:0"})
    tracer = Tracer(Graph(graph(node("x", "Placeholder"), *calls, functions=[body])), main=True)
    frames = collections.deque(tracer.roots)

    def enter_all():
        while frames:
            frame = frames.popleft()
            frames.extend([tracer.enter(frame, frame.body.nodes[name], "f", 0) for name in "ab"])

    with pytest.raises(exporter.FormatError, match=r"expected function calls at most 64 deep and 20000 in number, got more"):
        enter_all()
    assert len(frames) > 5_000


@pytest.mark.parametrize("names", [("loop",), ("loop", "back")])
def test_functions_that_call_themselves(tmp_path, names):
    """They end by a condition, and neither hold a batch norm nor assign a variable."""
    values = parameters()
    nodes, (gamma, beta, mean, _) = variables("bn")
    bodies = [function(name, ["a"], [node("again", "PartitionedCall", "a", f=Function(after))], {"o": "again:output:0"})
              for name, after in zip(names, (*names[1:], names[0]), strict=True)]
    late = [node("call", "PartitionedCall", "x", f=Function("loop")), node("late", "Identity", "bn/moving_variance", "^call")]
    index = write_bundle(tmp_path, "model.ckpt", tensors("bn", values))
    x = node("x", "Placeholder", shape=(-1, 3))
    data = graph(x, *nodes, *late, *chain("bn", "x", gamma, beta, mean, "late"), functions=bodies)
    (tmp_path / "model.ckpt.meta").write_bytes(meta_graph(data))
    check(exporter.read(index)["bn"], values)


def test_functions_without_a_variable_say_nothing_of_roles():
    ops = [node("y", "Relu", "x")]
    with pytest.raises(exporter.UnsupportedError, match="contains no function that uses a variable"):
        saved_functions({"call": (ops, {"y": "y:activations:0"}, 0)}).check_is_open()
    saved_functions({"call": (ops, {"y": "y:activations:0"}, 2)}).check_is_open()


@pytest.mark.parametrize("inputs", [("one", "other"), ("one",)])
def test_a_choice_between_values_that_the_graph_computes(tmp_path, inputs):
    """Also of a single one, as a conditional whose other branch was cut off."""
    nodes, reads = frozen_variables("bn", parameters())
    made = [node("one", "Exp", reads[0]), node("other", "Log", reads[0]), node("chosen", "Merge", *inputs)]
    with pytest.raises(UnresolvedError, match="its gamma is what the op Exp computes"):
        freeze(tmp_path, node("x", "Placeholder", shape=(-1, 4, 4, 3)), *nodes, *made,
               node("y", "FusedBatchNormV3", "x", "chosen", *reads[1:], is_training=False))


@pytest.mark.parametrize("text", ["y = (c - m) * rsqrt(v + e) * g + b", "y = (b - m) * rsqrt(v + e) * g + b"])
def test_a_difference_of_parameters_is_none_of_an_input(tmp_path, text):
    nodes, reads = frozen_variables("bn", parameters(), ("scale", "offset", "mu", "sigma2"))
    ops = formula(text, "f", e="e", c="other", **dict(zip("gbmv", reads, strict=True)))
    with pytest.raises(UnresolvedError, match="not a known form of batch norm"):
        freeze(tmp_path, const("e", np.float32(1e-3)), const("other", np.float32([3, 4, 5])), *nodes, *ops)


@pytest.mark.parametrize("kept", ["mean", "variance"])
def test_an_average_of_one_statistic_alone(tmp_path, kept):
    nodes, (gamma, beta, _, _) = variables("bn")
    of_batch, mean, variance = by_sums("bn")
    update = average("u", f"bn/moving_{kept}", mean if kept == "mean" else variance)
    index = save(tmp_path, tensors("bn", parameters()), *nodes, *of_batch, *update, *chain("bn", "x", gamma, beta, mean, variance))
    with pytest.raises(UnresolvedError, match="it uses the statistics of the batch"):
        exporter.read(index)


def test_a_mean_that_the_graph_computes_and_reshapes(tmp_path):
    nodes, (gamma, beta, mean, variance) = frozen_variables("bn", parameters())
    made = [node("e", "Exp", mean), const("shape", np.int32([3])), node("r", "Reshape", "e", "shape")]
    with pytest.raises(UnresolvedError, match="its mean is what the op Exp computes"):
        freeze(tmp_path, node("x", "Placeholder", shape=(-1, 4, 4, 3)), *nodes, *made,
               node("y", "FusedBatchNormV3", "x", gamma, beta, "r", variance, is_training=False))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_what_follows_and_who_reads_the_statistics_and_something_else(tmp_path, padding):
    """A pooling layer has a padding; an op that reads the statistics and an input does not follow."""
    nodes, reads = frozen_variables("bn", parameters())
    norm = node("y", "FusedBatchNormV3", "x", *reads, is_training=False)
    more = [node("pool", "MaxPool", "y", padding=padding), node("other", "AddV2", "y:1", "x"), node("act", "Relu", "y"),
            node("later", "Tanh", "act")]
    (call,) = freeze(tmp_path, node("x", "Placeholder", shape=(-1, 4, 4, 3)), *nodes, norm, *more)["bn"].calls
    assert sorted((each.path, each.padding) for each in call.outputs) == [("act", None), ("pool", padding.lower())]


def test_a_choice_of_nothing(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    with pytest.raises(UnresolvedError, match="its gamma is a branch that is chosen only at run time"):
        freeze(tmp_path, node("x", "Placeholder", shape=(-1, 4, 4, 3)), *nodes, node("chosen", "Merge"),
               node("y", "FusedBatchNormV3", "x", "chosen", *reads[1:], is_training=False))


def test_an_op_without_a_scope_has_its_own_name(tmp_path):
    names = ("scale", "offset", "mean", "variance")
    nodes = [const(name, value) for name, value in zip(names, parameters(), strict=True)]
    ops = formula("y = (x - m) * rsqrt(v + e) * g + b", "f", x="x", e="e", g="scale", b="offset", m="mean", v="variance")
    bundle = freeze(tmp_path, node("x", "Placeholder", shape=(-1, 3)), const("e", np.float32(1e-3)), *nodes, *ops)
    assert bundle.paths() == ["f5"]


def test_a_saver_that_saves_each_variable_by_an_op_of_its_own(tmp_path):
    values, names = parameters(), ("one", "two", "three", "four")
    nodes, reads = variables("bn")
    roles = ("gamma", "beta", "moving_mean", "moving_variance")
    savers = [part for name, role in zip(names, roles, strict=True) for part in (
        node(f"save/{name}", "Const", value=tensor([name.encode()])),
        node(f"save/Save_{name}", "Save", "save/Const", f"save/{name}", f"bn/{role}"))]
    index = save(tmp_path, dict(zip(names, values, strict=True)), *nodes, *chain("bn", "x", *reads), *savers)
    check(exporter.read(index)["bn"], values)

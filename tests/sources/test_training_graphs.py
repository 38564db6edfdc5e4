"""Graphs of training: which variable inference reads, what is an activation and what a statistic, and how many layers there are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import exporter
from exporter.errors import UnresolvedError
from exporter.formats.graph_def import Graph
from exporter.sources.tf_graph.norms import _Layers, graph_norms
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
    variables,
)
from tests.make.tensor_files import write_bundle

ROLES = ("gamma", "beta", "moving_mean", "moving_variance")
X = node("x", "Placeholder", shape=(-1, 3))


def save(folder, stored, *nodes):
    (folder / "model.ckpt.meta").write_bytes(meta_graph(graph(*nodes)))
    return write_bundle(folder, "model.ckpt", stored)


def tensors(scope, values, names=ROLES):
    return {f"{scope}/{name}": value for name, value in zip(names, values, strict=True)}


def freeze(folder, *nodes, functions=(), **options):
    (folder / "g.pb").write_bytes(graph(*nodes, functions=functions))
    return exporter.read(folder / "g.pb", **options)


def check(layer, values):
    for role, expected in zip(ROLES, values, strict=True):
        found = getattr(layer, role)
        assert (found is None) == (expected is None), role
        assert found is None or found.tobytes() == np.asarray(expected).tobytes(), role
    assert layer.epsilon == float(np.float32(1e-3))


def moments(scope, x="x", axes=(0,)):
    """tf.nn.moments with keep_dims. Returns (nodes, mean, variance)."""
    s = f"{scope}/moments"
    nodes = [const(f"{s}/axes", np.int32(axes)), node(f"{s}/mean", "Mean", x, f"{s}/axes", keep_dims=True),
             node(f"{s}/diff", "SquaredDifference", x, f"{s}/mean"),
             node(f"{s}/variance", "Mean", f"{s}/diff", f"{s}/axes", keep_dims=True)]
    return nodes, f"{s}/mean", f"{s}/variance"


@pytest.mark.parametrize("op", ["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"])
def test_averages_that_go_into_the_op_itself(tmp_path, op):
    """From TensorFlow 2.3 on with exponential_avg_factor: the op in training is fed the variables that it updates."""
    values = parameters()
    nodes, reads = variables("bn")
    fused = node(f"bn/{op}", op, "x", *reads, is_training=True, epsilon=0.001, exponential_avg_factor=0.01)
    bundle = exporter.read(save(tmp_path, tensors("bn", values), X, *nodes, fused))
    check(bundle["bn"], values)
    assert "in training mode in this graph" in bundle.warnings[0]


def test_a_gamma_that_the_graph_makes_is_unresolved_in_training_too(tmp_path):
    values = parameters()
    nodes, reads = variables("bn")
    made = [const("s", np.int32([3])), const("two", np.float32(2)), node("h", "Fill", "s", "two")]
    fused = node("bn/norm", "FusedBatchNorm", "x", "h", *reads[1:], is_training=True, epsilon=0.001, exponential_avg_factor=0.01)
    with pytest.raises(UnresolvedError, match="its gamma is computed by the graph, not stored"):
        exporter.read(save(tmp_path, tensors("bn", values), X, *nodes, *made, fused))


@pytest.mark.parametrize("fed", ["mean", "variance"])
def test_an_op_that_is_fed_one_of_its_averages_alone(tmp_path, fed):
    """What it is fed for the other is nothing that it updates: the graph shows which variables are."""
    values = parameters()
    nodes, (gamma, beta, mean, variance) = variables("bn")
    given = [mean, "none"] if fed == "mean" else ["none", variance]
    fused = [const("none", np.zeros(3, "f4")),
             node("bn/norm", "FusedBatchNormV3", "x", gamma, beta, *given, is_training=True, epsilon=0.001)]
    updates = [*average("m", "bn/moving_mean", "bn/norm:1"), *average("v", "bn/moving_variance", "bn/norm:2")]
    check(exporter.read(save(tmp_path, tensors("bn", values), X, *nodes, *fused, *updates))["bn"], values)


@pytest.mark.parametrize("role", ["mean", "variance"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_call_in_training_with_one_statistic_of_the_batch_is_of_the_layer_that_has_its_gamma_and_beta(tmp_path, role, is_first):
    """Which average it keeps of it is not shown, so that it is no layer beside that in inference."""
    values = parameters()
    nodes, (gamma, beta, *stored) = variables("bn")
    of_batch, *batch = moments("bn")
    mixed = [batch[0], stored[1]] if role == "mean" else [stored[0], batch[1]]
    calls = [chain("bn", "x", gamma, beta, *mixed, name="batchnorm"), chain("bn", "x", gamma, beta, *stored, name="batchnorm_1")]
    calls = calls if is_first else calls[::-1]
    check(exporter.read(save(tmp_path, tensors("bn", values), X, *nodes, *of_batch, *calls[0], *calls[1]))["bn"], values)


@pytest.mark.parametrize("op", ["FusedBatchNorm", "FusedBatchNormV3"])
def test_averages_of_what_the_op_in_training_gives(tmp_path, op):
    """Its second output is the mean of the batch, its third the variance: tf.layers keeps the averages of these."""
    values = parameters()
    nodes, (g, b, _, _) = variables("bn")
    fused = [const("none", np.zeros(0, "f4")), node(f"bn/{op}", op, "x", g, b, "none", "none", is_training=True, epsilon=0.001)]
    updates = [*average("m", "bn/moving_mean", f"bn/{op}:1"), *average("v", "bn/moving_variance", f"bn/{op}:2")]
    index = save(tmp_path, tensors("bn", values), X, *nodes, *fused, *updates)
    check(exporter.read(index)["bn"], values)
    crossed = [*average("m", "bn/moving_mean", f"bn/{op}:2"), *average("v", "bn/moving_variance", f"bn/{op}:1")]
    save(tmp_path, tensors("bn", [*values[:2], *values[:1:-1]]), X, *nodes, *fused, *crossed)
    check(exporter.read(index)["bn"], values)  # whatever their names say


def average(name, variable, statistic, *, unless_empty=False):
    """assign_moving_average without zero_debias; unless_empty: as Keras has it under a distribution strategy."""
    nodes = [const(f"{name}/decay", np.float32(0.1)), node(f"{name}/sub", "Sub", f"{variable}/read", statistic),
             node(f"{name}/mul", "Mul", f"{name}/sub", f"{name}/decay")]
    if not unless_empty:
        return [*nodes, node(name, "AssignSub", variable, f"{name}/mul")]
    return [*nodes, node(f"{name}/full", "Greater", "x", "x"), node(f"{name}/zeros", "ZerosLike", f"{name}/mul"),
            node(f"{name}/chosen", "SelectV2", f"{name}/full", f"{name}/mul", f"{name}/zeros"),
            node(name, "AssignSub", variable, f"{name}/chosen")]


def debiased(name, variable, statistic, *, assigns):
    """assign_moving_average with zero_debias: of TensorFlow 1 (takes the difference off) and of TensorFlow 2 (assigns)."""
    biased = f"{variable}/biased"
    nodes = [node(biased, "VariableV2"), node(f"{biased}/read", "Identity", biased), *average(name, biased, statistic),
             const(f"{name}/factor", np.float32(0.4))]
    divided = node(f"{name}/truediv", "RealDiv", name if assigns else f"{biased}/read", f"{name}/factor")
    if assigns:
        return [*nodes, divided, node(f"{name}/assign", "Assign", variable, f"{name}/truediv")]
    return [*nodes, divided, node(f"{name}/rest", "Sub", f"{variable}/read", f"{name}/truediv"),
            node(f"{name}/assign", "AssignSub", variable, f"{name}/rest")]


@pytest.mark.parametrize("assigns", [True, False])
def test_a_zero_debiased_average_is_the_variable_and_not_its_bookkeeping(tmp_path, assigns):
    values, biased = parameters(), parameters(seed=1)
    nodes, (gamma, beta, _, _) = variables("bn")
    of_batch, mean, variance = moments("bn")
    updates = [*debiased("m", "bn/moving_mean", mean, assigns=assigns), *average("v", "bn/moving_variance", variance)]
    stored = {**tensors("bn", values), "bn/moving_mean/biased": biased[2]}
    index = save(tmp_path, stored, X, *nodes, *of_batch, *updates, *chain("bn", "x", gamma, beta, mean, variance))
    check(exporter.read(index)["bn"], values)


def test_averages_that_somebody_wrote_by_hand(tmp_path):
    """pop_mean = pop_mean * 0.9 + batch_mean * 0.1"""
    values, names = parameters(), ("scale", "shift", "pop_mean", "pop_var")
    nodes, (gamma, beta, _, _) = variables("bn", names=names)
    of_batch, mean, variance = moments("bn")
    updates = [const("k", np.float32(0.9)), const("j", np.float32(0.1))]
    for name, variable, statistic in (("m", "bn/pop_mean", mean), ("v", "bn/pop_var", variance)):
        updates += [node(f"{name}/old", "Mul", f"{variable}/read", "k"), node(f"{name}/new", "Mul", statistic, "j"),
                    node(f"{name}/sum", "Add", f"{name}/old", f"{name}/new"), node(name, "Assign", variable, f"{name}/sum")]
    check(exporter.read(save(tmp_path, tensors("bn", values, names), X, *nodes, *of_batch, *updates,
                             *chain("bn", "x", gamma, beta, mean, variance)))["bn"], values)


@pytest.mark.parametrize(("kept", "op"), [(ROLES[:2], "RealDiv"), (ROLES[:1], "RealDiv"), (ROLES[1:2], "RealDiv"), ((), "RealDiv"),
                                          ((), "Mul")])
def test_batch_renormalization_is_read_as_inference_will(tmp_path, kept, op):
    """gamma * r and gamma * d + beta, r and d from the batch and renorm_mean, renorm_stddev, which are neither gamma nor beta."""
    values = parameters()
    nodes, _ = variables("bn", 6, names=(*ROLES, "renorm_mean", "renorm_stddev")[:6])
    of_batch, mean, variance = moments("bn")
    nodes += [node("sd", "Sqrt", variance), node("r", op, "sd", "bn/renorm_stddev/read"), node("rs", "StopGradient", "r"),
              node("off", "Sub", mean, "bn/renorm_mean/read"), node("d", "RealDiv", "off", "bn/renorm_stddev/read"),
              *average("rm", "bn/renorm_mean", mean), *average("m", "bn/moving_mean", mean)]
    scale, offset = "rs", "d"
    if "gamma" in kept:
        nodes += [node("rg", "Mul", "rs", "bn/gamma/read"), node("dg", "Mul", "d", "bn/gamma/read")]
        scale, offset = "rg", "dg"
    if "beta" in kept:
        nodes += [node("db", "AddV2", offset, "bn/beta/read")]
        offset = "db"
    stored = tensors("bn", [*values, values[0], values[3]], (*ROLES, "renorm_mean", "renorm_stddev"))
    bundle = exporter.read(save(tmp_path, stored, X, *of_batch, *nodes, *chain("bn", "x", scale, offset, mean, variance)))
    check(bundle["bn"], [values[0] if "gamma" in kept else None, values[1] if "beta" in kept else None, *values[2:]])
    assert "in training mode in this graph" in bundle.warnings[0]


@pytest.mark.parametrize(("axes", "is_one"), [([0], True), ([-1], False)])
@pytest.mark.parametrize("role", ["gamma", "beta"])
def test_what_is_corrected_by_another_statistic_than_the_batchs_is_unresolved(tmp_path, axes, role, is_one):
    """Inference of batch renormalization leaves its corrections out, which are made of statistics of the batch."""
    values = parameters()
    nodes, (gamma, beta, *reads) = variables("bn")
    made = [const("axes", np.int32(axes)), node("other", "Mean", "x", "axes", keep_dims=True)]
    if role == "gamma":
        made += [node("r", "RealDiv", "other", "bn/renorm_stddev"), node("corrected", "Mul", "r", gamma)]
    else:
        made += [node("r", "Sub", "other", "bn/renorm_mean"), node("corrected", "AddV2", "r", beta)]
    roles = ["corrected" if role == name else one for name, one in (("gamma", gamma), ("beta", beta))]
    fused = node("bn/norm", "FusedBatchNormV3", "x", *roles, *reads, is_training=True, epsilon=0.001)
    renorm = [node(f"bn/renorm_{name}", "VariableV2") for name in ("mean", "stddev")]
    stored = tensors("bn", [*values, values[0], values[3]], (*ROLES, "renorm_mean", "renorm_stddev"))
    index = save(tmp_path, stored, X, *nodes, *renorm, *made, fused)
    if is_one:
        check(exporter.read(index)["bn"], values)
        return
    with pytest.raises(UnresolvedError, match=f"bn: its {role} is what the op"):
        exporter.read(index)


def test_batch_renormalization_that_functions_choose(tmp_path):
    """r = cond(training, r, 1) as a functional conditional, and another that also returns x: in inference gamma alone is left."""
    values = parameters()
    nodes, (gamma, beta, *stored) = frozen_variables("bn", values)
    of_batch, *batch = moments("bn")
    passed, results = node("z", "Identity", "x"), {"y": "y:output:0", "z": "z:output:0"}
    first, second = (function(name, ["one", "other", "x"], [node("y", "Identity", kept), passed], results)
                     for name, kept in (("batch", "one"), ("stored", "other")))
    neutral = function("neutral", ["one"], [node("y", "OnesLike", "one")], {"y": "y:y:0"})
    corrected = function("corrected", ["one"], [node("y", "Identity", "one")], {"y": "y:output:0"})
    chosen = [node(f"s{n}", "If", "train", *pair, "x", then_branch=Function("batch"), else_branch=Function("stored"))
              for n, pair in enumerate(zip(batch, stored, strict=True))]
    chosen += [node("sd", "Sqrt", "s1"), node("r", "RealDiv", "sd", stored[1]),
               node("rc", "If", "train", "r", then_branch=Function("corrected"), else_branch=Function("neutral")),
               node("rs", "StopGradient", "rc"), node("rg", "Mul", "rs", gamma)]
    whole = [X, node("train", "Placeholder"), *nodes, *of_batch, *chosen, *chain("bn", "x", "rg", beta, "s0", "s1")]
    (tmp_path / "g.pb").write_bytes(graph(*whole, functions=[first, second, neutral, corrected]))
    check(exporter.read(tmp_path / "g.pb")["bn"], values)


@pytest.mark.parametrize("affine", [True, False])
def test_channels_first_in_training_has_as_many_channels_as_its_averages(tmp_path, affine):
    """Statistics of the batch in the shape [1, 3, 1], gamma and beta broadcast to it, moving averages in one dimension."""
    values = parameters()
    nodes, (gamma, beta, _, _) = variables("bn")
    of_batch, mean, variance = moments("bn", axes=(0, 2))
    shaped = [const("shape", np.int32([1, 3, 1])), node("g", "Reshape", gamma, "shape"), node("b", "Reshape", beta, "shape")]
    updates = []
    for name, role, statistic in (("m", "moving_mean", mean), ("v", "moving_variance", variance)):
        updates += [node(f"{name}/squeezed", "Squeeze", statistic, squeeze_dims=[0, 2]), *average(name, f"bn/{role}", f"{name}/squeezed")]
    roles = ("g", "b") if affine else (None, None)
    x = node("x", "Placeholder", shape=(-1, 3, 3))
    layer = exporter.read(save(tmp_path, tensors("bn", values), x, *nodes, *of_batch, *shaped, *updates,
                               *chain("bn", "x", *roles, mean, variance)))["bn"]
    check(layer, values if affine else [None, None, *values[2:]])
    assert (layer.axis, layer.shape, layer.ndim) == ((1,), (3,), 3)


@pytest.mark.parametrize("affine", [True, False])
def test_several_axes_in_training_are_those_of_their_averages(tmp_path, affine):
    """axis=[1, 3]: statistics of the batch and moving averages, gamma and beta have one shape, [1, 2, 1, 3]."""
    values = [value.reshape(1, 2, 1, 3) for value in parameters(6)]
    nodes, (gamma, beta, _, _) = variables("bn")
    of_batch, mean, variance = moments("bn", axes=(0, 2))
    updates = [*average("m", "bn/moving_mean", mean), *average("v", "bn/moving_variance", variance)]
    roles = (gamma, beta) if affine else (None, None)
    x = node("x", "Placeholder", shape=(-1, 2, 4, 3))
    layer = exporter.read(save(tmp_path, tensors("bn", values), x, *nodes, *of_batch, *updates,
                               *chain("bn", "x", *roles, mean, variance)))["bn"]
    check(layer, values if affine else [None, None, *values[2:]])
    assert (layer.axis, layer.shape, layer.ndim) == ((1, -1), (2, 3), 4)


def quantized(divisor):
    """A batch norm in training whose weights quantization-aware training scales by the root of the stored variance over another root."""
    values = parameters()
    nodes, (gamma, beta, _, stored_variance) = variables("bn")
    of_batch, mean, variance = moments("bn")
    updates = [*average("m", "bn/moving_mean", mean), *average("v", "bn/moving_variance", variance)]
    scaled = formula(f"stored = rsqrt(v + e); scale = stored / rsqrt({divisor} + e); w * scale", "correction", v=stored_variance,
                     of_batch=variance, bessel="bessel", e="bn/batchnorm/add/y", w="w")
    more = [const("n", np.float32(0.9)), node("bessel", "Mul", variance, "n"), node("w", "VariableV2")]
    return values, [X, *nodes, *of_batch, *updates, *more, *chain("bn", "x", gamma, beta, mean, variance), *scaled]


@pytest.mark.parametrize("divisor", ["of_batch", "bessel"])
def test_the_correction_of_quantization_aware_training_is_no_layer(tmp_path, divisor):
    """contrib.quantize of TensorFlow 1 folds the statistics of the batch into the weights, and scales these back to the stored ones."""
    values, nodes = quantized(divisor)
    bundle = exporter.read(save(tmp_path, {**tensors("bn", values), "w": np.ones(3, "f4")}, *nodes))
    assert bundle.paths() == ["bn"]
    check(bundle["bn"], values)


@pytest.mark.parametrize("text", ["w / stored; stored / of_batch", "stored / of_batch; w / stored"])
def test_the_correction_of_quantization_aware_training_beside_something_that_the_root_divides(tmp_path, text):
    """It is one in whichever order the ops come."""
    values, nodes = quantized("of_batch")
    more = formula("stored = rsqrt(v + e); of_batch = rsqrt(b + e); " + text, "more", v="bn/moving_variance/read", b="bn/moments/variance",
                   e="bn/batchnorm/add/y", w="w")
    check(exporter.read(save(tmp_path, {**tensors("bn", values), "w": np.ones(3, "f4")}, *nodes, *more))["bn"], values)


def test_a_stored_root_over_another_than_that_of_the_batch_may_be_a_layer(tmp_path):
    values, nodes = quantized("w")
    with pytest.raises(UnresolvedError, match="not a known form of batch norm"):
        exporter.read(save(tmp_path, {**tensors("bn", values), "w": np.ones(3, "f4")}, *nodes))


def test_copies_for_other_devices_are_the_variable_that_is_stored(tmp_path):
    """MirroredStrategy: bn/gamma/replica_1 is in the graph and in no checkpoint; zeros stand in for the statistics of an empty batch."""
    values = parameters()
    nodes, _ = variables("bn")
    copies, _ = variables("bn", names=[f"{role}/replica_1" for role in ROLES])
    towers = []
    for tail in ("", "/replica_1"):
        scope = f"bn{'_1' if tail else ''}"
        of_batch, mean, variance = moments(scope)
        towers += [*of_batch, node(f"{scope}/full", "Greater", "x", "x"), node(f"{scope}/zeros", "ZerosLike", mean),
                   node(f"{scope}/m", "SelectV2", f"{scope}/full", mean, f"{scope}/zeros"),
                   node(f"{scope}/v", "SelectV2", f"{scope}/full", variance, f"{scope}/zeros"),
                   *average(f"{scope}/am", f"bn/moving_mean{tail}", f"{scope}/m", unless_empty=True),
                   *average(f"{scope}/av", f"bn/moving_variance{tail}", f"{scope}/v", unless_empty=True),
                   *chain(scope, "x", f"bn/gamma{tail}/read", f"bn/beta{tail}/read", f"{scope}/m", f"{scope}/v")]
    bundle = exporter.read(save(tmp_path, tensors("bn", values), X, *nodes, *copies, *towers))
    assert bundle.paths() == ["bn"]
    check(bundle["bn"], values)


def test_a_variable_named_like_a_copy_of_something_else_is_itself(tmp_path):
    names = [f"{role}/replica_1" for role in ROLES]
    values = parameters()
    nodes, reads = variables("bn", names=names)
    others = [node(f"bn/{role}", "Placeholder") for role in ROLES]
    check(exporter.read(save(tmp_path, tensors("bn", values, names), X, *others, *nodes, *chain("bn", "x", *reads))).layers[0], values)


@pytest.mark.parametrize("other", ["zeros", "half", "named"])
def test_a_choice_between_an_activation_and_a_constant_is_an_activation(tmp_path, other):
    """Masking, threshold, hard_shrink: where(x > t, x, constant) before a batch norm."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    chosen = {"zeros": node("c", "ZerosLike", "x"), "half": const("c", np.float32(0.5)), "named": const("c", np.float32([1, 2, 3]))}[other]
    bundle = freeze(tmp_path, X, const("t", np.float32(0)), node("over", "Greater", "x", "t"), chosen,
                    node("masked", "SelectV2", "over", "x", "c"), *nodes, *chain("bn", "masked", *reads))
    check(bundle["bn"], values)


def test_a_choice_between_the_statistics_of_the_batch_and_stored_ones_is_the_stored_ones(tmp_path):
    values = parameters()
    nodes, (gamma, beta, *stored) = frozen_variables("bn", values)
    of_batch, *batch = moments("bn")
    chosen = [node(f"s{n}", "SelectV2", "train", one, other) for n, (one, other) in enumerate(zip(batch, stored, strict=True))]
    bundle = freeze(tmp_path, X, node("train", "Placeholder"), *nodes, *of_batch, *chosen, *chain("bn", "x", gamma, beta, "s0", "s1"))
    check(bundle["bn"], values)


AXES = {"negative": [const("axes", np.int32([-4, -3, -2]))], "one by one": [const("axes", np.int32([0, 1, 2]))],
        "of the input": [node("rank", "Rank", "x"), const("n1", np.int32(1)), node("last", "Sub", "rank", "n1"), const("n0", np.int32(0)),
                         node("axes", "Range", "n0", "last", "n1")]}


@pytest.mark.parametrize("axes", sorted(AXES))
@pytest.mark.parametrize("op", ["SelectV2", "If"])
@pytest.mark.parametrize("form", ["chain", "centered"])
def test_a_choice_of_statistics_over_axes_that_the_graph_counts_from_the_last_or_computes(tmp_path, axes, op, form):
    """It was no batch norm, and missing in silence."""
    values = parameters()
    nodes, (gamma, beta, *stored) = frozen_variables("bn", values)
    of_batch = [*AXES[axes], node("m", "Mean", "x", "axes"), node("d", "SquaredDifference", "x", "m"), node("v", "Mean", "d", "axes")]
    ends = [function(name, ["a", "b"], [], {"o": name}) for name in "ab"]
    chosen = [node(f"s{name}", "SelectV2", "train", name, one) if op == "SelectV2" else
              node(f"s{name}", "If", "train", name, one, then_branch=Function("a"), else_branch=Function("b"))
              for name, one in zip("mv", stored, strict=True)]
    norm = chain("bn", "x", gamma, beta, "sm", "sv") if form == "chain" else [const("e", np.float32(1e-3)), *formula(
        "y = (x - m) / sqrt(v + e) * g + b", "bn/", x="x", e="e", m="sm", v="sv", g=gamma, b=beta)]
    bundle = freeze(tmp_path, X, node("train", "Placeholder"), *nodes, *of_batch, *chosen, *norm, functions=ends)
    check(bundle["bn"], values)


def test_a_choice_of_a_pooled_activation_and_a_vector_is_none_of_statistics(tmp_path):
    """A learned token in place of what is masked: the input of a batch norm."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    token, (token_read,) = frozen_variables("token", [np.float32([1, 2, 3])], ("token",))
    for axes in ([1, 2], [-3, -2]):
        chosen = [const("axes", np.int32(axes)), node("pooled", "Mean", "x", "axes"), node("c", "SelectV2", "mask", "pooled", token_read)]
        bundle = freeze(tmp_path, X, node("mask", "Placeholder"), *token, *nodes, *chosen, *chain("bn", "c", *reads))
        check(bundle["bn"], values)


def test_a_statistic_is_one_however_often_it_is_added_to_itself(tmp_path):
    """Each value that it is computed from is looked at once, not once for each way to it."""
    values = parameters()
    nodes, (gamma, beta, *stored) = frozen_variables("bn", values)
    of_batch, *batch = moments("bn")
    sums = [node(f"{name}{n + 1}", "Add", *[f"{name}{n}"] * 2) for name in "mv" for n in range(12)]
    firsts = [node(f"{name}0", "Identity", one) for name, one in zip("mv", batch, strict=True)]
    chosen = [node(f"s{n}", "SelectV2", "train", one, other) for n, (one, other) in enumerate(zip(("m12", "v12"), stored, strict=True))]
    bundle = freeze(tmp_path, X, node("train", "Placeholder"), *nodes, *of_batch, *firsts, *sums, *chosen,
                    *chain("bn", "x", gamma, beta, "s0", "s1"))
    check(bundle["bn"], values)


def test_two_batch_norms_over_one_tensor_are_two_layers(tmp_path):
    values, others = parameters(), parameters(seed=1)
    nodes, reads = frozen_variables("b", values)
    more, (gamma, beta, _, _) = frozen_variables("a", others)
    of_batch, mean, variance = moments("a")
    both = [X, *nodes, *more[:4], *of_batch, *chain("a", "x", gamma, beta, mean, variance), *chain("b", "x", *reads)]
    with pytest.raises(UnresolvedError, match="a: it uses the statistics of the batch"):
        freeze(tmp_path, *both)
    bundle = freeze(tmp_path, *both, skip_unresolved=True)
    assert bundle.paths() == ["b"]
    check(bundle["b"], values)


def test_gamma_and_beta_of_two_layers_with_statistics_of_their_own(tmp_path):
    """A batch norm for each domain."""
    values, others = parameters(), parameters(seed=1)
    nodes, (gamma, beta, _, _) = variables("bn")
    towers = []
    for domain, x in (("one", "x"), ("two", "z")):
        more, _ = variables(domain, names=ROLES[2:])
        of_batch, mean, variance = moments(domain, x)
        towers += [*more, *of_batch, *average(f"{domain}/m", f"{domain}/moving_mean", mean),
                   *average(f"{domain}/v", f"{domain}/moving_variance", variance), *chain(domain, x, gamma, beta, mean, variance)]
    stored = {**tensors("bn", values), **tensors("one", values[2:], ROLES[2:]), **tensors("two", others[2:], ROLES[2:])}
    bundle = exporter.read(save(tmp_path, stored, X, node("z", "Placeholder", shape=(-1, 3)), *nodes, *towers), skip_unresolved=True)
    check(bundle["one"], values)
    check(bundle["two"], [*values[:2], *others[2:]])


@pytest.mark.parametrize("conditional", [True, False])
def test_a_shared_layer_without_parameters_is_told_by_its_conditional(tmp_path, conditional):
    """Called a second time, its branch of training has no parameters: it belongs to the branch of inference beside it."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values[2:], ROLES[2:])
    calls = []
    for scope, x in (("bn", "x"), ("bn_1", "y")):
        of_batch, mean, variance = moments(scope, x)
        given = f"{scope}/cond/x" if conditional else x
        calls += [*of_batch, *chain(f"{scope}/t", x, None, None, mean, variance), node(f"{scope}/cond/x", "Switch", x, "train"),
                  *chain(f"{scope}/cond", given, None, None, *reads)]
    nodes = [X, node("y", "Relu", "x"), node("train", "Placeholder"), *nodes, *calls]
    bundle = freeze(tmp_path, *nodes, skip_unresolved=True)
    check(bundle["bn"], [None, None, *values[2:]])
    assert [said for said, _ in bundle.skipped] == ([] if conditional else ["bn/t", "bn_1/t"])


@pytest.mark.parametrize(("known", "own", "conditional", "is_same"), [
    ("one", "two", True, False), ("one", "one", False, True), ("one", None, True, True), (None, "two", True, True),
    (None, None, True, True), ("one", None, False, False), (None, "two", False, False), (None, None, False, False)])
def test_of_one_tensor_only_the_branches_of_a_conditional_are_one_layer(known, own, conditional, is_same):
    """Without gamma and beta, unless each keeps its own statistics."""
    layers = _Layers()
    layers.add(SimpleNamespace(affine=(None, None), stored=known, conditional=False, x="x"))
    assert (SimpleNamespace(affine=(None, None), stored=own, conditional=conditional, x="x") in layers) is is_same
    assert SimpleNamespace(affine=(None, None), stored="other", conditional=True, x="y") not in layers


def test_a_copy_in_training_of_which_nothing_is_used_is_no_layer(tmp_path):
    """Keras 2.2 with a learning phase of 0: what the layer gives in training is there for its averages alone."""
    values = parameters()
    nodes, reads = variables("bn", 2, ROLES[2:])
    of_batch, mean, variance = moments("bn", "x")
    nodes = [X, *nodes, *of_batch, *chain("bn/t", "x", None, None, mean, variance), *chain("bn", "x", None, None, *reads)]
    (norm,) = graph_norms(Graph(graph(*nodes)))
    assert (norm.path, norm.reason) == ("bn", "")
    assert len(graph_norms(Graph(graph(*nodes, node("y", "Relu", "bn/t/batchnorm/add_1"))))) == 2
    frozen, reads = frozen_variables("bn", values[2:], ROLES[2:])
    nodes = [X, *frozen, *of_batch, *chain("bn/t", "x", None, None, mean, variance), *chain("bn", "x", None, None, *reads)]
    assert len(graph_norms(Graph(graph(*nodes)))) == 2  # both are its results


def test_a_matrix_that_the_fused_kernel_takes_as_an_image(tmp_path):
    """contrib's batch_norm, in a conditional as well."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    bundle = freeze(tmp_path, X, node("train", "Placeholder"), *nodes, const("shape", np.int32([-1, 1, 1, 3])),
                    node("r", "Reshape", "x", "shape"),
                    node("s", "Switch", "r", "train"),
                    node("bn/FusedBatchNorm", "FusedBatchNorm", "s", *reads, is_training=False, epsilon=0.001),
                    node("m", "Merge", "bn/FusedBatchNorm"), const("back", np.int32([-1, 3])), node("o", "Reshape", "m", "back"))
    check(bundle["bn"], values)
    assert (bundle["bn"].axis, bundle["bn"].ndim) == ((-1,), 2)


def test_batch_renormalization_whose_gamma_lies_elsewhere(tmp_path):
    """The statistics of inference lie beside renormalization's own, wherever gamma and beta do."""
    values = parameters()
    nodes = [*variables("bn", names=("moving_mean", "moving_variance", "renorm_mean", "renorm_stddev"))[0],
             *variables("affine", 2, names=ROLES[:2])[0]]
    of_batch, mean, variance = moments("bn")
    nodes += [node("sd", "Sqrt", variance), node("r", "RealDiv", "sd", "bn/renorm_stddev/read"),
              node("rg", "Mul", "r", "affine/gamma/read"),
              node("off", "Sub", mean, "bn/renorm_mean/read"), node("d", "RealDiv", "off", "bn/renorm_stddev/read"),
              node("dg", "Mul", "d", "affine/gamma/read"), node("db", "AddV2", "dg", "affine/beta/read"),
              *average("rm", "bn/renorm_mean", mean), *average("m", "bn/moving_mean", mean)]
    stored = {**tensors("affine", values[:2], ROLES[:2]), **tensors("bn", [*values[2:], values[0], values[3]],
                                                                   ("moving_mean", "moving_variance", "renorm_mean", "renorm_stddev"))}
    (layer,) = exporter.read(save(tmp_path, stored, X, *of_batch, *nodes, *chain("bn", "x", "rg", "db", mean, variance)))
    check(layer, values)


def renormalized(scope, own, *, gamma="affine/gamma/read", beta="affine/beta/read"):
    """The ops of a layer in training whose gamma and beta are corrected by averages in the scope `own`."""
    of_batch, mean, variance = moments(scope)
    s, own = f"{scope}/", f"{own}/" if own else ""
    nodes = [node(f"{s}sd", "Sqrt", variance), node(f"{s}r", "RealDiv", f"{s}sd", f"{own}renorm_stddev/read"),
             node(f"{s}rg", "Mul", f"{s}r", gamma), node(f"{s}off", "Sub", mean, f"{own}renorm_mean/read"),
             node(f"{s}d", "RealDiv", f"{s}off", f"{own}renorm_stddev/read"), node(f"{s}dg", "Mul", f"{s}d", gamma),
             node(f"{s}db", "AddV2", f"{s}dg", beta)]
    return [*of_batch, *nodes, *chain(scope, "x", f"{s}rg", f"{s}db", mean, variance)]


RENORM = ("renorm_mean", "renorm_stddev")


@pytest.mark.parametrize(("statistics", "is_found"), [
    (variables("bn", names=ROLES[2:])[0], True), (variables("bn", 1, names=ROLES[2:])[0], False),
    (variables("bn", names=ROLES[2:], op="Placeholder")[0], False)], ids=["there", "one is missing", "no variables"])
def test_statistics_beside_those_of_batch_renormalization(tmp_path, statistics, is_found):
    values = parameters()
    nodes = [*variables("bn", names=RENORM)[0], *variables("affine", 2)[0], *statistics, *renormalized("bn", "bn")]
    stored = {**tensors("affine", values[:2], ROLES[:2]), **tensors("bn", [*values[2:], *values[2:]], (*ROLES[2:], *RENORM))}
    index = save(tmp_path, stored, X, *nodes)
    if is_found:
        check(exporter.read(index).layers[0], values)
        return
    with pytest.raises(UnresolvedError, match=r"affine.*statistics of the batch"):
        exporter.read(index)


def test_batch_renormalization_without_a_scope(tmp_path):
    values = parameters()
    names = (*ROLES[2:], *RENORM)
    own = [each for name in names for each in (node(name, "VariableV2"), node(f"{name}/read", "Identity", name))]
    stored = {**tensors("affine", values[:2], ROLES[:2]), **dict(zip(names, [*values[2:], *values[2:]], strict=True))}
    index = save(tmp_path, stored, X, *own, *variables("affine", 2)[0], *renormalized("bn", ""))
    check(exporter.read(index).layers[0], values)


def test_an_average_of_a_parameter_is_none_of_a_statistic(tmp_path):
    """shadow = shadow * 0.9 + gamma * 0.1: the average of a weight, as tf.train.ExponentialMovingAverage keeps it."""
    nodes, (gamma, beta, _, _) = variables("bn")
    of_batch, mean, variance = moments("bn")
    updates = [const("k", np.float32(0.9)), const("j", np.float32(0.1))]
    for name, variable, source in (("m", "bn/moving_mean", gamma), ("v", "bn/moving_variance", beta)):
        updates += [node(f"{name}/old", "Mul", f"{variable}/read", "k"), node(f"{name}/new", "Mul", source, "j"),
                    node(f"{name}/sum", "Add", f"{name}/old", f"{name}/new"), node(name, "Assign", variable, f"{name}/sum")]
    index = save(tmp_path, tensors("bn", parameters()), X, *nodes, *of_batch, *updates, *chain("bn", "x", gamma, beta, mean, variance))
    with pytest.raises(UnresolvedError, match="statistics of the batch"):
        exporter.read(index)


@pytest.mark.parametrize("other", ["towers", "elsewhere", "nowhere"])
def test_of_several_averages_of_one_statistic_that_beside_gamma_is_used(tmp_path, other):
    """A summary keeps one, too; where none is beside gamma and beta, or two are, nothing says which inference reads."""
    values, others = parameters(), parameters(seed=1)
    nodes, (gamma, beta, _, _) = variables("bn")
    scope = {"towers": "bn", "elsewhere": "summary", "nowhere": "summary"}[other]
    names = ("mean", "variance")
    more, _ = variables(scope, 2, names=names)
    of_batch, mean, variance = moments("bn")
    updates = [*average("m", "bn/moving_mean", mean), *average("v", "bn/moving_variance", variance),
               *average("sm", f"{scope}/mean", mean), *average("sv", f"{scope}/variance", variance)]
    stored = {**tensors("bn", values), **tensors(scope, others[2:], names)}
    if other == "nowhere":
        gamma = beta = None
    index = save(tmp_path, stored, X, *nodes, *more, *of_batch, *updates, *chain("bn", "x", gamma, beta, mean, variance))
    if other == "elsewhere":
        check(exporter.read(index)["bn"], values)
        return
    with pytest.raises(UnresolvedError, match="statistics of the batch"):
        exporter.read(index)


@pytest.mark.parametrize("same", [True, False])
def test_a_copy_in_training_that_keeps_the_statistics_of_a_layer_is_that_layer(tmp_path, same):
    """Whatever it has of gamma and beta; one with averages of its own is another."""
    values, others = parameters(), parameters(seed=1)
    nodes, reads = variables("bn")
    of_batch, mean, variance = moments("t")
    scope = "bn" if same else "own"
    more = [] if same else variables(scope, names=ROLES[2:])[0]
    updates = [*average("m", f"{scope}/moving_mean", mean), *average("v", f"{scope}/moving_variance", variance)]
    index = save(tmp_path, {**tensors("bn", values), **tensors("own", others[2:], ROLES[2:])}, X, *nodes, *more, *of_batch, *updates,
                 *chain("t", "x", None, None, mean, variance), *chain("bn", "x", *reads), node("y", "Relu", "t/batchnorm/mul_1"))
    bundle = exporter.read(index, skip_unresolved=True)
    assert bundle.paths() == (["bn"] if same else ["own", "bn"])
    check(bundle["bn"], values)


def test_batch_renormalization_of_two_scopes_says_no_statistics(tmp_path):
    nodes = [*variables("bn", names=(*ROLES[2:], *RENORM))[0], *variables("other", names=(*ROLES[2:], *RENORM))[0],
             *variables("affine", 2)[0]]
    ops = [one.replace(b"bn/renorm_mean/read", b"other/renorm_mean/rd") for one in renormalized("bn", "bn")]
    ops.append(node("other/renorm_mean/rd", "Identity", "other/renorm_mean"))
    ops = [one if b"other/renorm_mean/rd" not in one or b"Identity" in one else
           node("bn/off", "Sub", "bn/moments/mean", "other/renorm_mean/rd") for one in ops]
    values = parameters()
    stored = {**tensors("affine", values[:2], ROLES[:2]),
              **{f"{scope}/{name}": values[2] + 1 for scope in ("bn", "other") for name in (*ROLES[2:], *RENORM)}}
    with pytest.raises(UnresolvedError, match="statistics of the batch"):
        exporter.read(save(tmp_path, stored, X, *nodes, *ops))


AVERAGES = [
    ("Assign", "u = a * k + s * j", True), ("Assign", "u = s * j + a * k", True), ("AssignVariableOp", "u = k * a + j * s", True),
    ("Assign", "u = a * k - s * j", False), ("Assign", "u = a * k + g * j", False), ("Assign", "u = a * k + s * a", False),
    ("Assign", "u = s * k + s * j", False), ("Assign", "u = a * k + s", False), ("Assign", "u = (a - s) * k", False),
    ("AssignSub", "u = (a - s) * k", True), ("AssignSubVariableOp", "u = k * (a - s)", True), ("AssignSub", "u = (s - a) * k", False),
    ("AssignSub", "u = (g - s) * k", False), ("AssignSub", "u = a - s", False), ("AssignSub", "u = identity((a - s) * k)", True),
    ("Assign", "u = identity(a * k) + identity(s * j)", True), ("AssignAdd", "u = (a - s) * k", False)]


def test_how_an_average_is_kept(tmp_path):
    """Each update is of a layer of its own, in one graph."""
    nodes, stored = [const("k", np.float32(0.9)), const("j", np.float32(0.1))], {}
    for number, (op, text, _) in enumerate(AVERAGES):
        scope = f"n{number}"
        stored |= tensors(scope, parameters(seed=number))
        own, (gamma, beta, _, _) = variables(scope)
        of_batch, mean, variance = moments(scope)
        nodes += [*own, *of_batch, *chain(scope, "x", gamma, beta, mean, variance)]
        for role, statistic in (("moving_mean", mean), ("moving_variance", variance)):
            made = formula(text, f"{scope}/{role}_", a=f"{scope}/{role}/read", s=statistic, k="k", j="j", g=gamma)
            nodes += [*made, node(f"{scope}/{role}_", op, f"{scope}/{role}", f"{scope}/{role}_{len(made) - 1}")]
    bundle = exporter.read(save(tmp_path, stored, X, *nodes), skip_unresolved=True)
    kept = {f"n{number}": text for number, (_, text, is_one) in enumerate(AVERAGES) if is_one}
    assert bundle.paths() == list(kept)
    for scope in kept:
        check(bundle[scope], parameters(seed=int(scope[1:])))
    assert {path: "statistics of the batch" in reason for path, reason in bundle.skipped} == {
        f"n{number}": True for number, (_, _, is_one) in enumerate(AVERAGES) if not is_one}


@pytest.mark.parametrize(("text", "is_one"), [
    ("u = a - b / c", True), ("u = a - b", False), ("u = b - a / c", False), ("u = a - a / c", False), ("u = a + b / c", False)])
def test_how_a_zero_debiased_average_is_kept(tmp_path, text, is_one):
    """average -= average - biased / (1 - decay ** n); else what is averaged is what the update itself keeps."""
    values, biased = parameters(), parameters(seed=1)
    nodes, (gamma, beta, _, _) = variables("bn")
    of_batch, mean, variance = moments("bn")
    own = [node("biased", "VariableV2"), node("biased/read", "Identity", "biased"), const("c", np.float32(0.5))]
    made = formula(text, "z", a="bn/moving_mean/read", b="biased/read", c="c")
    updates = [*average("m", "biased", mean), *made, node("z", "AssignSub", "bn/moving_mean", f"z{len(made) - 1}"),
               *average("v", "bn/moving_variance", variance)]
    stored = {**tensors("bn", values), "biased": biased[2]}
    (layer,) = exporter.read(save(tmp_path, stored, X, *nodes, *own, *of_batch, *updates, *chain("bn", "x", gamma, beta, mean, variance)))
    check(layer, values if is_one else [*values[:2], biased[2], values[3]])


CHOICES = [
    ("t = mean(x, axes)", True), ("t = c * mean(x, axes)", True), ("t = sum(x, axes) / c", True),
    ("t = sum(x, axes) / cast(size(x))", True), ("t = sum(x, axes) / cast(prod(gather(shape(x), axes), axes))", True),
    ("t = mean(square(x), axes) - square(mean(x, axes))", True), ("t = maximum(mean(x, axes), zeroslike(m))", True),
    ("t = identity(reshape(mean(x, axes), three))", True), ("t = mean(x, axes) * m", True),
    ("t = relu(x)", False), ("t = mean(x, axes) + x", False), ("t = exp(mean(x, axes))", False), ("t = c", False),
    ("t = zeroslike(m)", False), ("t = exp(m)", False), ("t = cast(size(x))", False),
    ("t = c * c", False)]


def test_what_a_conditional_may_choose_beside_the_stored_mean(tmp_path):
    """A statistic of the batch, or what is computed from such, parameters and numbers, element by element."""
    ops = [X, const("axes", np.int32([0])), const("three", np.int32([3])), const("c", np.float32([5, 6, 7])), node("train", "Placeholder")]
    names = {name: name for name in ("x", "axes", "three", "c", "train")}
    for number, (text, _) in enumerate(CHOICES):
        scope = f"n{number}"
        held, (gamma, beta, mean, variance) = frozen_variables(scope, parameters(seed=number), ("scale", "offset", "mu", "sigma2"))
        made = formula(text + "; y = selectv2(train, t, m)", f"{scope}/f", m=mean, **names)
        ops += [*held, *made, *chain(scope, "x", gamma, beta, f"{scope}/f{len(made) - 1}", variance)]
    bundle = freeze(tmp_path, *ops, skip_unresolved=True)
    stored = {f"n{number}": text for number, (text, is_stored) in enumerate(CHOICES) if is_stored}
    assert bundle.paths() == list(stored)
    for scope in stored:
        check(bundle[scope], parameters(seed=int(scope[1:])))
    assert [path for path, _ in bundle.skipped] == [f"n{number}" for number, (_, is_stored) in enumerate(CHOICES) if not is_stored]


@pytest.mark.parametrize(("axis", "is_read"), [(1, True), (0, False)])
def test_averages_of_the_statistics_of_the_parts_of_a_batch(tmp_path, axis, is_read):
    """virtual_batch_size in a graph that is made with training=True: each part has its statistics, and their mean is kept."""
    values = [one.reshape(1, 1, 3) for one in parameters()]
    nodes, (gamma, beta, _, _) = variables("bn")
    ops, mean, variance = moments("bn", "bn/Reshape")
    ops = [const("bn/sizes", np.int32([2, -1, 3])), node("bn/Reshape", "Reshape", "x", "bn/sizes", _output_shapes=[(2, -1, 3)]), *ops,
           *chain("bn", "bn/Reshape", gamma, beta, mean, variance), const("bn/parts", np.int32([axis]))]
    for role, statistic in zip(ROLES[2:], (mean, variance), strict=True):
        ops += [node(f"mean_{role}", "Mean", statistic, "bn/parts", keep_dims=True), *average(role, f"bn/{role}", f"mean_{role}")]
    index = save(tmp_path, tensors("bn", values), X, *nodes, *ops)
    if not is_read:
        with pytest.raises(UnresolvedError, match=r"it uses the statistics of the batch \(is_training\), not stored ones"):
            exporter.read(index)
        return
    layer = exporter.read(index)["bn"]
    check(layer, [one.reshape(3) for one in values])
    assert (layer.axis, layer.ndim) == ((-1,), 2)

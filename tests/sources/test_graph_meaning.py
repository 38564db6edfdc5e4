"""What a graph computes with is what is exported, or nothing is: parameters that it changes first, and batch norms beside others."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.errors import UnresolvedError
from exporter.sources.tf_graph.graph_norm import UNKNOWN_FORM
from exporter.sources.tf_graph.tf1 import _is_whole
from tests.make.graph_files import (
    TYPES,
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
from tests.make.live import config
from tests.make.tensor_files import field, write_bundle
from tests.sources.test_frozen_graph import ROLES, X, check, read
from tests.sources.test_graph_chains import NAMES, NUMBERS, written
from tests.sources.test_saved_model import CHILDREN, VECTORS, saved_functions, write_exported
from tests.sources.test_saved_model import read as read_saved_model


@pytest.mark.parametrize("text", [
    "s = sqrt(v + e); i = one / s; y = (x - m) * i * g + b",
    "s = sqrt(v + e); i = one / s; y = x * (i * g) + (b - m * (i * g))"])
def test_one_divided_by_the_root(tmp_path, text):
    values = parameters()
    check(written(tmp_path, text, values)["bn"], values)


@pytest.mark.parametrize(("text", "said"), [
    ("s = sqrt(v + e); h = g + one; y = (x - m) / s * h + b", "its gamma is what the op AddV2 computes"),
    ("s = sqrt(v + e); h = exp(g); y = h * (x - m) / s + b", "its gamma is what the op Exp computes"),
    ("r = rsqrt(v + e); h = exp(g); y = (x - m) * r * h + b", "its gamma is what the op Exp computes"),
    ("r = rsqrt(v + e); h = exp(g); y = x * (r * h) + (b - m * (r * h))", "its gamma is what the op Exp computes"),
    ("r = rsqrt(v + e); y = (x - m) * r * g + b * c", "its beta is what the op Mul computes")])
def test_parameters_that_the_graph_changes_first(tmp_path, text, said):
    """They were taken for something that comes after a batch norm without them."""
    with pytest.raises(UnresolvedError, match=said):
        written(tmp_path, text)


NORM = "r = rsqrt(v + e); y = {x} * (r * g) + (b - m * (r * g))"


@pytest.mark.parametrize("scale", ["rsqrt(depth)", "pow(depth, power)"])
def test_a_number_is_no_variance(tmp_path, scale):
    """Attention divides by the root of a number of channels."""
    values = parameters()
    bundle = written(tmp_path, f"{NORM.format(x='x')}; z = y * {scale}", values, more=[const("depth", np.float32(64))], depth="depth")
    check(bundle["bn"], values)
    assert bundle.paths() == ["bn"]


def test_the_statistics_of_parameters_without_the_axis_of_the_batch(tmp_path):
    """(channels, 1, 1) is broadcast over (batch, channels, height, width): its first axis is not the batch."""
    pad = [const("p", np.int32([[0, 0], [0, 0], [1, 1], [1, 1]])), node("padded", "Pad", "x", "p")]
    values = parameters()
    layer = written(tmp_path, NORM.format(x="w"), [one.reshape(3, 1, 1) for one in values], more=pad, w="padded")["bn"]
    check(layer, values)
    assert (layer.axis, layer.ndim) == ((-3,), None)


@pytest.mark.parametrize(("first", "second", "ndim"), [
    ("d2", "x3", 3), ("d2", "d2", 2), ("x3", "d2", 3), ("d2", "unknown", None), ("d2", "c", 2), ("x4", "unknown", 4)])
def test_the_rank_of_a_sum(tmp_path, first, second, ndim):
    """A matrix may be added to each of several, as positions are."""
    more = [const("w", np.eye(3, dtype="f4")), node("d2", "MatMul", "unknown", "w"), node("x3", "Placeholder", shape=(-1, 5, 3)),
            node("x4", "Placeholder", shape=(-1, 5, 5, 3))]
    layer = written(tmp_path, f"w = {first} + {second}; {NORM.format(x='w')}", more=more, d2="d2", x3="x3", x4="x4")["bn"]
    assert (layer.axis, layer.ndim) == ((-1,), ndim)


@pytest.mark.parametrize(("sizes", "axis"), [((1, 1, 1, -1), (-1,)), ((1, 1, 1, 1), (1,))])
def test_one_channel_along_the_axis_that_a_reshape_leaves_open(tmp_path, sizes, axis):
    x = node("x", "Placeholder", shape=(-1, 1, 4, 4) if axis == (1,) else (-1, 4, 4, 1))
    reshaped = "g, b, m, v = (reshape(one, s) for one in (g, b, m, v)); "
    layer = written(tmp_path, reshaped + NORM.format(x="x"), parameters(1), x=x, more=[const("s", np.int32(sizes))], s="s")["bn"]
    assert (layer.axis, layer.shape, layer.assumed) == (axis, (1,), ("axis",) if axis == (1,) else ())


def test_one_channel_with_axes_in_front_of_it(tmp_path):
    widened = "g, b, m, v = (expanddims(expanddims(one, n), n) for one in (g, b, m, v)); "
    layer = written(tmp_path, widened + NORM.format(x="x"), parameters(1), more=[const("n", np.int32(0))], n="n")["bn"]
    assert (layer.axis, layer.shape) == ((-1,), (1,))


def test_a_bias_along_another_axis_is_no_beta(tmp_path):
    values = parameters()
    nodes, reads = frozen_variables("bn", values, ("scale", "offset", "mu", "sigma2"))
    ops = formula("r = rsqrt(v + e); y = (x - m) * r * g", **NAMES, **dict(zip("gbmv", reads, strict=True)))
    bias = node("biased", "BiasAdd", f"f{len(ops) - 1}", reads[1], data_format="NCHW")
    layer = read(tmp_path, X, *NUMBERS, *nodes, *ops, bias)["bn"]
    check(layer, [values[0], None, *values[2:]])


def test_statistics_that_are_used_are_not_said_to_be_unused(tmp_path):
    nodes, reads = frozen_variables("bn", parameters())
    ops = formula("y = (x - m) * relu(v) * g + b", **NAMES, **dict(zip("gbmv", reads, strict=True)))
    with pytest.raises(UnresolvedError, match="bn: the graph uses its moving_mean, moving_variance in a way"):
        read(tmp_path, X, *NUMBERS, *nodes, *ops)


def exported(tmp_path, ops, serve="__inference_signature_wrapper_7"):
    return read_saved_model(write_exported(tmp_path, children=CHILDREN, ops=ops, serve=serve))


@pytest.mark.parametrize(("serve", "said"), [("__inference_signature_wrapper_7", True), ("other", False)])
def test_an_object_whose_variables_are_called_like_a_batch_norms(tmp_path, serve, said):
    """(x - mean) / sqrt(exp(variance) + epsilon): with --epsilon it would have been another number."""
    gamma, beta, mean, variance = VECTORS
    ops = [const("eps", np.float32(0.02)), node("v", "Exp", variance), node("d", "AddV2", "v:y:0", "eps:output:0"),
           node("s", "Sqrt", "d:z:0"), node("c", "Sub", "x", mean), node("q", "RealDiv", "c:z:0", "s:y:0"),
           node("qg", "Mul", "q:z:0", gamma), node("call", "AddV2", "qg:z:0", beta)]
    found = exported(tmp_path, ops, serve)
    assert [each.reason for each in found.skipped] == [UNKNOWN_FORM] * said
    assert [layer.epsilon for layer in found.layers] == [None] * (not said)


def test_an_object_whose_gamma_comes_after_the_batch_norm(tmp_path):
    gamma, beta, mean, variance = VECTORS
    ops = [const("ones", np.ones(3, "f4")), node("n", "FusedBatchNormV3", "x", "ones:output:0", beta, mean, variance, is_training=False),
           node("act", "Relu", "n:y:0"), node("call", "Mul", "act:activations:0", gamma)]
    (skipped,) = exported(tmp_path, ops).skipped
    assert skipped.reason == "the graph does not use its gamma as the gamma of a batch norm"


def both_modes(*training):
    return saved_functions({f"__inference_signature_wrapper_{number}": (
        [node("y", "FusedBatchNormV3", "x", *VECTORS, epsilon=0.02, is_training=one, exponential_avg_factor=0.5)], {"y": "y:y:0"},
        5 - number) for number, one in enumerate(training)})


@pytest.mark.parametrize(("training", "modes"), [((True, False), [True, False]), ((False, True), [False]), ((True, True), [True, True])])
def test_a_signature_to_train_beside_that_of_inference(training, modes):
    """The larger one is asked first; it must not hide the other."""
    assert [norm.in_training for norm in both_modes(*training).norms_of([5])[5]] == modes


@pytest.mark.parametrize(("known", "count"), [({2, 3, 4, 5}, 0), ({4}, 0), ({6}, 1), (set(), 1)])
def test_batch_norms_of_other_variables_than_the_known_ones(known, count):
    functions = both_modes(False, False)
    assert len(functions.others(known)) == count
    assert (functions.serve(5), functions.serve(7)) == (True, False)


CONSTANTS = [const(f"c/{role}", value) for role, value in zip(ROLES, parameters(seed=7), strict=True)]


@pytest.mark.parametrize("serve", ["__inference_signature_wrapper_7", "other"])
@pytest.mark.parametrize(("used", "count"), [(ROLES, 1), (ROLES[:2], 0)])
def test_a_batch_norm_of_constants_beside_one_of_variables(tmp_path, serve, used, count):
    """A function with constants of the user's own, in a model with Keras's layers: it was left out in silence."""
    gamma, beta, mean, variance = VECTORS
    given = [f"c/{role}:output:0" if role in used else read for role, read in zip(ROLES, VECTORS, strict=True)]
    ops = [*CONSTANTS, node("one", "FusedBatchNormV3", "x", gamma, beta, mean, variance, epsilon=2e-3, is_training=False),
           node("call", "FusedBatchNormV3", "one:y:0", *given, epsilon=2e-3, is_training=False)]
    folder = write_exported(tmp_path, children=CHILDREN, ops=ops, serve=serve)
    found = read_saved_model(folder)
    assert [layer.path for layer in found.layers] == ["bn", *["c"] * count]
    assert not count or found.layers[1].gamma.tobytes() == parameters(seed=7)[0].tobytes()


@pytest.mark.live
def test_live_objects_with_variables_of_other_names(tmp_path):
    """Beside one with the names of a batch norm's variables they were left out in silence."""
    import tensorflow as tf

    class Norm(tf.Module):
        def __init__(self, *names):
            super().__init__()
            self.roles = names
            for number, name in enumerate(names, 1):
                setattr(self, name, tf.Variable(np.arange(1, 4, dtype="f4") * number))

        def __call__(self, x):
            mean, variance, beta, gamma = (getattr(self, name) for name in self.roles)
            return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 0.02)

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Norm("moving_mean", "moving_variance", "beta", "gamma"), Norm("u", "s", "b", "k")
            self.three = Norm("u2", "s2", "b2", "k2")

        @tf.function(input_signature=[tf.TensorSpec((None, 3))])
        def __call__(self, x):
            return tf.nondifferentiable_batch_function(1, 8, 1)(lambda y: self.three(self.two(y)))(self.one(x))

    net = Net()
    tf.saved_model.save(net, str(tmp_path / "m"))
    bundle = exporter.read(tmp_path / "m")
    x = y = np.random.default_rng(0).normal(size=(4, 3)).astype("f4")
    for layer in bundle:
        y = layer(y)
    assert len(bundle) == 3
    assert np.allclose(y, net(x), rtol=1e-4, atol=1e-5)


def save_in_slices(folder, values, names, slices=(b"5 0,3", b"5 3,2"), joined=True):
    """Variables in two parts, each stored as a slice of a tensor of these names. joined: whether one batch norm uses both parts."""
    nodes, parts = [const("axis", np.int32(0))], [f"bn/{role}/part_{number}" for role in ROLES for number in (0, 1)]
    for part in parts:
        nodes += [node(part, "VariableV2"), node(f"{part}/read", "Identity", part)]
    if joined:
        nodes += [node(f"bn/{role}/concat", "ConcatV2", *(f"bn/{role}/part_{n}/read" for n in (0, 1)), "axis") for role in ROLES]
        nodes += chain("bn", "x", *(f"bn/{role}/concat" for role in ROLES))
    else:
        nodes += [op for n in (0, 1) for op in chain(f"one_{n}", "x", *(f"bn/{role}/part_{n}/read" for role in ROLES))]
    saver = [node("save/names", "Const", value=tensor([name.encode() for name in names for _ in (0, 1)])),
             node("save/slices", "Const", value=tensor([*slices] * 4)),
             node("save/SaveV2", "SaveV2", "save/Const", "save/names", "save/slices", *parts)]
    (folder / "model.ckpt.meta").write_bytes(meta_graph(graph(X, *nodes, *saver)))
    return exporter.read(write_bundle(folder, "model.ckpt", dict(zip(names, values, strict=True)),
                                      slices={name: [[(0, 3)], [(3, 2)]] for name in names}))


@pytest.mark.parametrize("names", [[f"bn/{role}" for role in ROLES], ["one", "two", "three", "four"]])
def test_slices_under_a_name_that_the_saver_gave(tmp_path, names):
    """Each part was read as the whole tensor: twice the channels."""
    values = parameters(5)
    check(save_in_slices(tmp_path, values, names)["bn"], values)


def test_a_batch_norm_of_one_slice(tmp_path):
    with pytest.raises(UnresolvedError, match="no value of its gamma, the variable bn/gamma/part_1"):
        save_in_slices(tmp_path, parameters(5), ["one", "two", "three", "four"], joined=False)


@pytest.mark.parametrize(("part", "whole"), [
    ("5 0,5", True), ("5 -", True), ("5 0,3", False), ("5 3,2", False), ("4 5 -:0,5", True), ("4 5 0,4:0,4", False), ("5 ", False)])
def test_slices_that_are_whole_tensors(part, whole):
    assert _is_whole(part) is whole


@pytest.mark.parametrize("op", ["FusedBatchNormV3", "chain"])
def test_a_gamma_that_a_graph_of_training_computes(tmp_path, op):
    """With its moving averages it was exported without gamma."""
    values = parameters()
    nodes, (gamma, beta, mean, variance) = variables("bn")
    ops = [*nodes, node("h", "Exp", gamma), const("axes", np.int32([0])), const("decay", np.float32(0.01))]
    if op == "chain":
        moments = ["mean", "variance"]
        ops += [node("mean", "Mean", "x", "axes"), node("d", "SquaredDifference", "x", "mean"), node("variance", "Mean", "d", "axes"),
                *chain("bn", "x", "h", beta, *moments)]
    else:
        moments = ["y:1", "y:2"]
        ops.append(node("y", op, "x", "h", beta, mean, variance, epsilon=1e-3))
    for name, moment in zip(("moving_mean", "moving_variance"), moments):
        ops += [node(f"{name}_d", "Sub", f"bn/{name}/read", moment), node(f"{name}_p", "Mul", f"{name}_d", "decay"),
                node(f"{name}_u", "AssignSub", f"bn/{name}", f"{name}_p")]
    (tmp_path / "model.ckpt.meta").write_bytes(meta_graph(graph(X, *ops)))
    with pytest.raises(UnresolvedError, match="its gamma is what the op Exp computes"):
        exporter.read(write_bundle(tmp_path, "model.ckpt", {f"bn/{role}": value for role, value in zip(ROLES, values, strict=True)}))


@pytest.mark.parametrize(("source", "target", "is_kept"), [
    ("float32", "int32", False), ("float32", "bool", False), ("float64", "float32", True), ("float32", "bfloat16", True)])
def test_a_parameter_without_its_fraction(tmp_path, source, target, is_kept):
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    kinds = [field(5, field(1, key) + field(2, field(6, TYPES[kind]))) for key, kind in (("SrcT", source), ("DstT", target))]
    cast = node("h", "Cast", reads[0]) + b"".join(kinds)
    graph_of_it = [X, *nodes, cast, node("back", "Cast", "h"), *chain("bn", "x", "back", *reads[1:])]
    if is_kept:
        check(read(tmp_path, *graph_of_it)["bn"], values)
    else:
        with pytest.raises(UnresolvedError, match="its gamma is a number without its fraction"):
            read(tmp_path, *graph_of_it)


def test_a_loop_over_the_batch_leaves_one_axis(tmp_path):
    x = node("x", "Placeholder", shape=(3,))
    layer = written(tmp_path, NORM.format(x="x"), x=x)["bn"]
    assert (layer.axis, layer.ndim) == ((-1,), None)


@pytest.mark.parametrize(("other", "count"), [("same", 2), ("changed", 3), ("fewer", 2)])
def test_functions_that_contain_the_same_constants(other, count):
    """Each way to call a model is a function with all of its constants: two equal layers are still two."""
    def body(*numbers):
        nodes = []
        for n, number in enumerate(numbers):
            held = [const(f"{role}{n}", value) for role, value in zip(ROLES, parameters(seed=number), strict=True)]
            nodes += [*held, node(f"y{n}", "FusedBatchNormV3", "x", *[f"{role}{n}:output:0" for role in ROLES], is_training=False)]
        return nodes

    numbers = {"same": (0, 0), "changed": (0, 1), "fewer": (0,)}[other]
    functions = {"__inference_signature_wrapper_1": (body(0, 0), {"y": "y0:y:0"}, 0), "call": (body(*numbers), {"y": "y0:y:0"}, 0)}
    assert len(saved_functions(functions).norms()) == count


@pytest.mark.parametrize("op", ["PartitionedCall", "roles"])
def test_a_function_one_of_whose_outputs_is_called_output(tmp_path, op):
    """As an op of its own it has its outputs' names; the ops that call functions call all of theirs "output", and number them."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values)
    results = ("output", "b", "m", "v")
    roles = function("roles", results, [node(f"own_{name}", "Identity", name) for name in results],
                     {name: f"own_{name}:output:0" for name in results})
    given = [f"p:{name}:0" if op == "roles" else f"p:output:{number}" for number, name in enumerate(results)]
    body = [node("p", op, *"gbmv", **({} if op == "roles" else {"f": Function("roles")})),
            node("y", "FusedBatchNormV3", "x", *given, is_training=False, epsilon=1e-3)]
    call = node("net", "PartitionedCall", "x", *reads, f=Function("net"))
    layer = read(tmp_path, X, *nodes, call, functions=[roles, function("net", ["x", *"gbmv"], body, {"y": "y:y:0"})])["bn"]
    check(layer, values)


@pytest.mark.parametrize("text", [
    "y = x * (g / sqrt(v + e)) + (b - m * g / sqrt(v + e))",
    "y = x * (g / sqrt(v + e)) - (m * (g / sqrt(v + e)) - b)",
    "y = x * (g * rsqrt(v + e)) + (b - m * (g * rsqrt(v + e)))"])
def test_a_root_that_is_written_twice(tmp_path, text):
    values = parameters()
    bundle = written(tmp_path, text, values)
    assert bundle.paths() == ["bn"]
    check(bundle["bn"], values)


def test_roots_of_different_sums_are_not_one(tmp_path):
    with pytest.raises(UnresolvedError, match=UNKNOWN_FORM):
        written(tmp_path, "y = x * (g * rsqrt(v + e)) + (b - m * (g * rsqrt(v + quarter)))")


@pytest.mark.parametrize("class_name", ["lab>Norm", "BatchNormalization"])
def test_a_class_whose_function_shows_another_formula(tmp_path, class_name):
    """(x - mean) / sqrt(variance + epsilon) * (1 + gamma) + beta, in a class with the config of BatchNormalization and perhaps its name."""
    gamma, beta, mean, variance = VECTORS
    ops = [const("one", np.float32(1)), node("g1", "AddV2", gamma, "one:output:0"),
           node("call", "FusedBatchNormV3", "x", "g1:z:0", beta, mean, variance, epsilon=2e-3, is_training=False)]
    folder = write_exported(tmp_path, children=CHILDREN, ops=ops, serve="__inference_signature_wrapper_7")
    said = config("bn", 2e-3) | {"name": "bn", "class_name": class_name, "build_input_shape": [None, 4, 4, 3]}
    (folder / "keras_metadata.pb").write_bytes(field(1, field(2, 1) + field(5, json.dumps(said))))
    found = read_saved_model(folder)
    assert [each.reason for each in found.skipped] == ["its gamma is what the op AddV2 computes"]

"""Sums of a graph that look like a batch norm, and divide by something else: which are reported, which are none of its layers."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.errors import UnresolvedError, UnsupportedError
from exporter.sources.tf_graph.graph_norm import OTHER_DIVISOR
from tests.make.graph_files import const, formula, frozen_variables, node, parameters
from tests.sources.test_frozen_graph import X, check, read
from tests.sources.test_graph_chains import NAMES, NUMBERS, written
from tests.sources.test_saved_model import VECTORS, saved_functions

AFTER = "h = relu(x); "  # else it prepares the inputs of the graph


@pytest.mark.parametrize("text", [
    "y = (x - m) / v * g + b", "y = (x - m) / (v + e) * g + b", "y = (x - m) * inv(v + e) * g + b", "y = x * (g / v) + (b - m * (g / v))",
    "y = (x - m) / sqrt(maximum(v, e)) * g + b", "y = (x - m) * rsqrt(maximum(v, e)) * g + b", "y = (x - m) / maximum(sqrt(v), e) * g + b",
    "y = (x - m) / (sqrt(v + e) + e) * g + b", "y = (x - m) / pow(v + e, quarter) * g + b",
    "s = sqrt(v + e); y = (x - m) * inv(s + s) * g + b",
    AFTER + "y = (h - m) / (v + e)", AFTER + "y = (h - m) / (e + v) * g", AFTER + "y = divnonan(h - m, sqrt(v + e) + e)"])
def test_what_looks_like_a_batch_norm(tmp_path, text):
    with pytest.raises(UnresolvedError) as caught:
        written(tmp_path, text)
    assert [(path, reason) for path, reason in caught.value.layers] == [("bn", OTHER_DIVISOR)]


@pytest.mark.parametrize("text", [
    "y = (x - m) / v", "y = (x - m) / (v + e)", "i = identity(x); y = (i - m) / (v + e) * g", AFTER + "y = (h - m) / v * g",
    AFTER + "y = (h - m) / maximum(sqrt(v), e) * c", AFTER + "y = (h - m) / maximum(sqrt(v), e) * g + one",
    AFTER + "y = (h - e) / (v + e) * g + b", AFTER + "y = (h - m) / one * g + b", AFTER + "y = (h - m) / relu(h) * g + b",
    AFTER + "y = (h - m) / (v + g) * c",
    AFTER + "y = (h - relu(h)) / (v + e) * g + b", AFTER + "y = h / (v + e) * g + b"])
def test_what_does_not(tmp_path, text):
    """Inputs that are prepared by stored numbers, sums with other parameters, and quotients of other kinds."""
    with pytest.raises(UnsupportedError, match="the model contains no BatchNormalization layer"):
        written(tmp_path, text)


STANDARDIZED = ["y = ({x} - m) / sqrt(v)", "y = ({x} - m) * rsqrt(v)", "r = rsqrt(v); y = {x} * r - m * r"]


@pytest.mark.parametrize("text", STANDARDIZED)
@pytest.mark.parametrize("x", ["x", "(x * e + one)", "((one + x) / e)", "identity(x - e)"])
def test_inputs_that_are_standardized(tmp_path, text, x):
    """Keras's Normalization of TensorFlow 2.3, as in its EfficientNet: it was refused, and in SavedModels a batch norm with epsilon 0."""
    with pytest.raises(UnsupportedError, match="the model contains no BatchNormalization layer"):
        written(tmp_path, text.format(x=x))


@pytest.mark.parametrize("divisor", ["(sqrt(v) + e)", "(e + sqrt(v))", "sqrt(v + e)"])
def test_what_has_an_epsilon_does_not_only_prepare_inputs(tmp_path, divisor):
    """Wherever epsilon is: a batch norm without gamma and beta may be the first layer of a model."""
    assert written(tmp_path, f"y = (x - m) / {divisor}").paths() == ["bn"]


OTHERS = ("relu(x)", "(one / x)", "(x * c)", "(e - relu(x))")


@pytest.mark.parametrize("text", [*(text.format(x=x) for text in STANDARDIZED for x in OTHERS),
                                  "y = (x - m) / sqrt(v) * g", "y = (x - m) * rsqrt(v) + b"])
def test_what_else_has_no_epsilon_is_reported(tmp_path, text):
    with pytest.raises(UnresolvedError) as caught:
        written(tmp_path, text)
    assert [reason for _, reason in caught.value.layers] == ["its epsilon is not a constant of the graph, or was folded into the variance"]


def test_one_beside_batch_norms_is_reported_alone(tmp_path):
    nodes, reads = frozen_variables("other", parameters(), ("scale", "offset", "mu", "sigma2"))
    nodes += formula("z = (x - m) / (v + e) * g + b", "o", **NAMES, **dict(zip("gbmv", reads, strict=True)))
    with pytest.raises(UnresolvedError) as caught:
        written(tmp_path, "y = (x - m) / sqrt(v + e) * g + b", more=nodes)
    assert [path for path, _ in caught.value.layers] == ["other"]


@pytest.mark.parametrize("op", ["DivNoNan", "Xdivy"])
@pytest.mark.parametrize("text", ["s = sqrt(v + e); y = {op}(x - m, s) * g + b", "s = sqrt(v + e); q = {op}(g, s); y = x * q + (b - m * q)",
                                  "s = sqrt(v) + e; y = {op}(x - m, s) * g + b"])
def test_a_quotient_that_is_0_where_it_is_not_a_number(tmp_path, op, text):
    """The root is not 0, where epsilon is not. It was not listed at all."""
    values = parameters()
    bundle = written(tmp_path, text.format(op=op.lower()), values)
    check(bundle["bn"], values) if "+ e)" in text else None
    assert bundle.paths() == ["bn"]


def test_an_op_in_a_scope_of_its_own(tmp_path):
    """tf.math.xdivy opens one: gamma and beta, which come after it, were left out."""
    values = parameters()
    nodes, reads = frozen_variables("bn", values, ("scale", "offset", "mu", "sigma2"))
    ops = formula("c = x - m; s = sqrt(v + e)", "n/", **NAMES, **dict(zip("gbmv", reads, strict=True)))
    ops += [node("n/xdivy_1/Xdivy", "Xdivy", "n/0", "n/2"), node("n/scaled", "Mul", "n/xdivy_1/Xdivy", reads[0]),
            node("n/shifted", "AddV2", "n/scaled", reads[1])]
    check(read(tmp_path, X, *NUMBERS, *nodes, *ops)["bn"], values)


def test_it_is_reported_once_for_all_functions():
    gamma, beta, mean, variance = VECTORS
    ops = [const("e", np.float32(0.1)), node("s", "AddV2", variance, "e:output:0"), node("d", "Sub", "x", mean),
           node("q", "RealDiv", "d:z:0", "s:z:0"), node("p", "Mul", "q:z:0", gamma), node("y", "AddV2", "p:z:0", beta)]
    functions = saved_functions({name: (ops, {"y": "y:z:0"}, 5) for name in ("call", "__inference_signature_wrapper_1")})
    assert [norm.reason for norm in functions.norms()] == [OTHER_DIVISOR]

"""Batch norms spelled out in a graph, as sums and products: which formula is one, with which gamma and beta, and which is none."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.errors import UnresolvedError, UnsupportedError
from tests.make.graph_files import const, formula, frozen_variables, node, parameters
from tests.sources.test_frozen_graph import X, check, read

NUMBERS = [const("none", np.zeros(0, np.int32)), node("filled", "Fill", "none", "epsilon"),
           const("epsilon", np.float32(1e-3)), const("other", np.float32([2, 3, 4])), const("axes", np.int32([0, 1, 2])),
           const("power", np.float32(-0.5)), const("quarter", np.float32(0.25)), const("one", np.float32(1)),
           node("unknown", "Placeholder")]
NAMES = {"x": "x", "e": "epsilon", "c": "other", "axes": "axes", "power": "power", "quarter": "quarter", "one": "one",
         "unknown": "unknown", "filled": "filled"}
UNKNOWN_FORM = "the graph uses its variance in a way that is not a known form of batch norm"


def written(tmp_path, text, values=None, x=X, more=(), **more_names):
    """A bundle of the formula `text` of x, g, b, m, v, e, another vector c, and other NAMES. more: nodes, which more_names may refer to."""
    nodes, reads = frozen_variables("bn", values or parameters(), ("scale", "offset", "mu", "sigma2"))
    named = NAMES | dict(zip("gbmv", reads, strict=True)) | more_names
    return read(tmp_path, x, *NUMBERS, *nodes, *more, *formula(text, **named))


FORMULAS = [
    ("r = rsqrt(v + e); y = x * (g * r) + (b - m * (g * r))", "gb"),
    ("r = rsqrt(e + v); y = (x - m) * r * g + b", "gb"), ("r = rsqrt(v + filled); y = (x - m) * r * g + b", "gb"),
    ("i = inv(sqrt(v + e)); y = (x - m) * i * g + b", "gb"),
    ("r = rsqrt(v + e); y = x * r + (b - m * r)", "b"),
    ("r = rsqrt(v + e); y = x * r - m * r", ""),
    ("r = identity(rsqrt(identity(v + e))); y = identity(x * identity(r * g)) - m * (r * g) + b", "gb"),
    ("s = sqrt(v + e); y = (x - m) / s / s", ""),
    ("s = sqrt(v + e); y = (x - m) / s * g - b", "g"),
    ("r = rsqrt(v + e); y = (x - m) * r * g + x", "g"),
    ("r = rsqrt(v + e); y = (x - m) * r * g * c + b", "g"),
    ("r = rsqrt(v + e); y = x * (r * g) - m * (r * g) - m * (r * g) + b", "g"),
    ("r = rsqrt(v + e); y = x * (r * g) - m * (r * g) + b + c", "gb"),
    ("r = pow(v + e, power); y = (x - m) * r * g", "g"),
    ("r = rsqrt(v + e); y = -(-((x - m) * r * g)) + b", "gb"),
    ("r = rsqrt(v + e); s = r * g; w = c * s; h = relu(x); y = h + (b - m * s)", "gb"),
    ("r = rsqrt(v + e); w = c * r; h = relu(x); y = h + (b - m * r)", "b"),
    ("r = rsqrt(v + e); s = r * g; w = reshape(s, axes); h = relu(x); y = (b - m * s) + h", "gb"),
    ("r = rsqrt(v + e); y = biasadd(x * (r * g) - m * (r * g), b)", "gb")]


def all_of(tmp_path, texts, **options):
    """A bundle of one graph with a batch norm of each of these formulas, in the scopes n0, n1, and so on."""
    nodes = []
    for number, text in enumerate(texts):
        held, reads = frozen_variables(f"n{number}", parameters(seed=number), ("scale", "offset", "mu", "sigma2"))
        nodes += [*held, *formula(text, f"n{number}_", **NAMES, **dict(zip("gbmv", reads, strict=True)))]
    return read(tmp_path, X, *NUMBERS, *nodes, **options)


def test_which_parameters_a_formula_has(tmp_path):
    """What is added, subtracted or multiplied afterward is no part of it."""
    bundle = all_of(tmp_path, [text for text, _ in FORMULAS])
    for number, (text, kept) in enumerate(FORMULAS):
        values, layer = parameters(seed=number), bundle[f"n{number}"]
        assert (layer.gamma is not None, layer.beta is not None) == ("g" in kept, "b" in kept), text
        check(layer, [values[0] if "g" in kept else None, values[1] if "b" in kept else None, *values[2:]])


NO_FORMULAS = [
    "r = rsqrt(v + e); y = (m - x) * r * g + b",
    "r = rsqrt(v + e); y = (-m + x) * r * g + b",
    "r = rsqrt(v + e); y = (x + m) * r * g + b",
    "r = rsqrt(v + e); y = (x - -m) * r * g + b",
    "r = rsqrt(v + e); q = r * g * c; y = x * q - m * q + b",
    "r = rsqrt(v + e); y = x * (r * g) + (b - m * (r * g) - c * (r * g))",
    "r = rsqrt(v + e); y = x * (r * g) + (m * (r * g) + b)",
    "r = rsqrt(v + e); y = x * (r * g) + (b - m * r)",
    "r = rsqrt(v + e); y = (x - m) * (r * r) * g + b",
    "r = rsqrt(v + e); y = x * (r * g) - relu(x) * (r * g) + b",
    "r = rsqrt(v + e); y = x * x * r",
    "r = rsqrt(v + e); s = r * g; h = relu(x); y = h + (b - m * s)",
    "r = rsqrt(v + e); s = r * g; w = exp(s); h = relu(x); y = h + (b - m * s)",
    "r = rsqrt(v + e); s = r * g; w = c * s; h = relu(x); y = h - (b - m * s)",
    "r = rsqrt(v + e); s = r * g; w = c * s; h = relu(x); y = -h + (b - m * s)",
    "r = rsqrt(v + e); s = r * g; w = c * s; h = relu(x); y = h + (b + m * s)",
    "r = rsqrt(v + e); s = r * g; w = c * s; h = relu(x); y = h + (-b - m * s)",
    "r = rsqrt(v + e); s = r * g; w = c * s; h = relu(x); y = h + (h - m * s)",
    "r = rsqrt(v + e); s = r * g; w = c * s; h = relu(x); y = b + (b - m * s)",
    "r = rsqrt(v + e); w = r * c; k = c * w; l = g * w; h = relu(x); y = (h - m * r) * c + b",
    "r = rsqrt(v + e); y = x * r * (x - m)",
    "r = rsqrt(v + e); y = r * g + b"]


def test_formulas_that_are_none(tmp_path):
    with pytest.raises(UnresolvedError) as caught:
        all_of(tmp_path, NO_FORMULAS)
    said = dict(caught.value.layers)
    assert {text: said.get(f"n{number}") for number, text in enumerate(NO_FORMULAS)} == dict.fromkeys(NO_FORMULAS, UNKNOWN_FORM)


@pytest.mark.parametrize("text", ["s = pow(v + e, unknown); y = (x - m) / s * g + b", "s = sqrt(v + e); y = s / (x - m) * g + b",
                                  "r = rsqrt(x); y = x * r * g + b", "s = sqrt(v + e); y = x + s"])
def test_other_uses_of_roots_are_not_reported(tmp_path, text):
    with pytest.raises(UnsupportedError, match="the model contains no BatchNormalization layer"):
        written(tmp_path, text)


@pytest.mark.parametrize(("text", "said"), [
    ("r = rsqrt(v + unknown); y = x * (r * g) - m * (r * g) + b", "its epsilon is not a constant of the graph"),
    ("r = rsqrt(v); y = x * (r * g) - m * (r * g) + b", "its epsilon is not a constant of the graph"),
    ("r = rsqrt(v + e); mm = exp(m); y = x * (r * g) - mm * (r * g) + b", "its mean is what the op Exp computes"),
    ("r = rsqrt(v + e); mm = exp(m); y = (x - mm) * r * g + b", "its mean is what the op Exp computes"),
    ("r = rsqrt(v + e); mm = mean(x, axes); y = x * (r * g) - mm * (r * g) + b", "it uses the statistics of the batch"),
    ("r = rsqrt(v + e); mm = exp(exp(mean(x, axes))); y = (x - mm) * r * g + b", "it uses the statistics of the batch"),
    ("r = rsqrt(v + e); mm = mean(x, axes); y = (x - mm) * r * g + b", "it uses the statistics of the batch")])
def test_why_one_is_unresolved(tmp_path, text, said):
    with pytest.raises(UnresolvedError, match=said):
        written(tmp_path, text)


def test_of_two_numbers_without_a_dimension_none_is_certain_to_be_epsilon(tmp_path):
    values = [one.reshape(()) for one in parameters(1)]
    with pytest.raises(UnresolvedError, match="its epsilon is not a constant of the graph"):
        written(tmp_path, "r = rsqrt(v + e); y = x * (r * g) - m * (r * g) + b", values)


def test_formulas_of_many_terms(tmp_path):
    """They are followed up to a limit, each value once."""
    text = "r = rsqrt(v + e); y = x * (r * g) - m * (r * g) + b"
    assert written(tmp_path, text + "; y = y * c + y" * 40).paths() == ["bn"]
    with pytest.raises(UnresolvedError, match=UNKNOWN_FORM):
        written(tmp_path, "r = rsqrt(v + e); q = r + r + r + r; y = x * (q + q + q + q)")

"""What a graph computes with is what is exported, or nothing is: parameters that it changes first, and batch norms beside others."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.errors import UnresolvedError
from tests.make.graph_files import const, formula, frozen_variables, parameters
from tests.sources.test_frozen_graph import X, check, read
from tests.sources.test_graph_chains import NAMES, NUMBERS


def written(tmp_path, text, values=None, x=X, more=()):
    """A bundle of the formula `text` of x, g, b, m, v, e, a vector c and the number one."""
    nodes, reads = frozen_variables("bn", values or parameters(), ("scale", "offset", "mu", "sigma2"))
    named = NAMES | dict(zip("gbmv", reads, strict=True)) | {"one": "one"}
    return read(tmp_path, x, const("one", np.float32(1)), *NUMBERS, *nodes, *more, *formula(text, **named))


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

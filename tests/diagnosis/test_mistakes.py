"""The table of mistakes, the conformance file that catches them, and the document that explains them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

import exporter
from exporter.batchnorm.dtypes import round_to
from exporter.diagnosis import mistakes
from exporter.diagnosis.case import make_case
from exporter.diagnosis.mistakes import MISTAKES
from tests.make.layers import ROOT, make_layer, script

MARGIN = 16  # times the error bound
VECTORS = ROOT / "vectors" / "batchnorm-1.json"
# One needs a layer that lacks gamma or beta, the other one that has both; one a model that calls it in training mode, the other one
# that does not.
NEVER_TOGETHER = {("BN137", "BN138"), ("BN121", "BN129")}


@pytest.fixture(scope="module")
def conformance():
    """(document, [(layer, entry of the case, case)])"""
    document = json.loads(VECTORS.read_text("utf-8"))
    bundle = exporter.load(VECTORS)
    found = []
    for layer, content in zip(bundle, document["layers"]):
        others = [other for other in bundle if other is not layer and other.moving_mean.size == layer.moving_mean.size]
        for entry in content["cases"]:
            x = np.array(entry["input"]).reshape(entry["shape"])
            found.append((layer, entry, make_case(layer, x, tuple(a % x.ndim for a in layer.axis), others=others)))
    return document, found


def apart(a, b, bound):
    """The largest distance in units of the bound; infinite where only one of them is a number."""
    with np.errstate(all="ignore"):
        ratio = np.abs(a - b) / bound
    ratio = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.where(np.isnan(ratio), np.inf, ratio))
    return ratio.max()


@pytest.fixture(scope="module")
def wrong(conformance):
    """[(layer, entry of the case, bound, {code of a mistake: [(detail, output, its distance from the right one)]})]"""
    found = []
    for layer, entry, case in conformance[1]:
        right, bound = case.value(), case.bound(layer.dtype)
        found.append((layer, entry, bound, {mistake.code: [(detail, value := changed.value(), apart(value, right, bound))
                                                           for detail, changed in mistake.variants(case)] for mistake in MISTAKES}))
    return found


def test_the_table_is_complete_and_in_order():
    codes = [mistake.code for mistake in MISTAKES]
    assert codes == sorted(set(codes))
    assert len(codes) > 40
    assert len({mistake.name for mistake in MISTAKES}) == len(codes)
    for mistake in MISTAKES:
        assert re.fullmatch(r"BN1\d\d", mistake.code)
        assert (mistake.wrong is None) != (mistake.example is None), mistake.code
        assert mistake.why.endswith(".")
        assert not mistake.instead.endswith(".")
        assert mistake.seen
        assert all(re.match(r"https://[a-z.-]+/\S+$", address) for address in mistake.seen), mistake.code


def lines():
    """The rows whose line is a formula of one channel."""
    return [mistake for mistake in MISTAKES if not mistake.line.startswith(("right", "y = ")) and not set("[#") & set(mistake.line)]


@pytest.mark.parametrize("mistake", lines(), ids=lambda mistake: mistake.code)
def test_the_line_of_code_computes_what_the_table_computes(mistake):
    """The line, run on one channel's numbers, is one of the row's variants."""
    lacking = {"gamma": False} if mistake.code == "BN137" else {}
    epsilon = 1e-6 if mistake.code == "BN104" else 1e-3
    layer = make_layer(shape=(1,), epsilon=epsilon, seed=3, **lacking).replace(
        moving_mean=np.array([0.25], np.float32), moving_variance=np.array([0.0004], np.float32))
    x = np.array([[1.5], [-0.25], [0.75]])
    case = make_case(layer, x, (1,))
    names = {"np": np, "x": x, "gamma": case.gamma, "beta": case.beta, "mean": case.mean, "variance": case.variance, "epsilon": epsilon}
    with np.errstate(all="ignore"):
        want = eval(mistake.line, names)
    assert any(np.allclose(changed.value(), want, rtol=1e-12, equal_nan=True) for _, changed in mistake.variants(case))
    assert np.allclose(eval(mistakes.RIGHT, names), case.value(), rtol=1e-12)


def test_each_mistake_is_caught_in_each_variant(wrong):
    """The kill matrix, one way: no variant slips through all the vectors."""
    caught = {}
    for _, _, _, outputs in wrong:
        for code, variants in outputs.items():
            for detail, _, ratio in variants:
                key = (code, re.sub("'.*'", "another", detail) if code == "BN145" else detail)
                caught[key] = max(caught.get(key, 0.0), ratio)
    assert {code for code, _ in caught} == {mistake.code for mistake in MISTAKES}
    assert len(caught) > 110
    assert {key: ratio for key, ratio in caught.items() if ratio <= MARGIN} == {}


def test_each_pair_of_mistakes_is_told_apart(wrong):
    """The kill matrix, the other way: for each two mistakes some vector tells all variants of one from all of the other."""
    left = set(itertools.combinations((mistake.code for mistake in MISTAKES), 2))
    for _, _, bound, outputs in wrong:
        for one, two in sorted(left):
            a, b = outputs[one], outputs[two]
            if a and b and all(apart(first, second, bound) > MARGIN for _, first, _ in a for _, second, _ in b):
                left.discard((one, two))
    assert left == NEVER_TOGETHER


def test_the_flags_of_the_vectors_are_true(conformance, wrong):
    assert conformance[0]["mistakes"] == {mistake.code: mistake.name for mistake in MISTAKES}
    for layer, entry, _, outputs in wrong:
        for code, variants in outputs.items():
            assert (code in entry["catches"]) == (bool(variants) and min(ratio for *_, ratio in variants) > MARGIN), (layer.path, code)


def test_the_outputs_of_the_vectors_are_those_of_evaluate(conformance):
    for layer, entry, _ in conformance[1]:
        x, want = (round_to(np.array(entry[key], np.float64), layer.dtype).reshape(entry["shape"]) for key in ("input", "output"))
        got = round_to(layer(x).astype(np.float64), layer.dtype)
        assert got.dtype == want.dtype
        assert got.tobytes() == want.tobytes(), layer.path


def test_the_script_writes_the_file_that_is_published(tmp_path):
    script("vectors/make_batchnorm_1.py").main(tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == VECTORS.read_bytes()


def test_what_a_reader_has_to_refuse_is_refused(conformance, tmp_path):
    entries = conformance[0]["refuse"]
    assert len(entries) > 100
    assert len({entry["why"] for entry in entries}) == len({entry["text"] for entry in entries}) == len(entries)
    for entry in entries:
        (tmp_path / "b.json").write_bytes(entry["text"].encode())
        with pytest.raises(exporter.ExporterError):
            exporter.load(tmp_path / "b.json")


def test_what_a_reader_has_to_take_is_taken(conformance, tmp_path):
    assert len(conformance[0]["accept"]) > 5
    for entry in conformance[0]["accept"]:
        (tmp_path / "b.json").write_bytes(entry["text"].encode())
        assert exporter.load(tmp_path / "b.json").paths() == ["bn"], entry["why"]


def test_the_document_is_made_from_the_table():
    text = (ROOT / "docs" / "batchnorm.md").read_text("utf-8")
    assert script("docs/make_batchnorm.py").page(text) == text
    for mistake in MISTAKES:
        assert f"### {mistake.code}: {mistake.name}\n" in text


def test_explain_says_all_of_a_row():
    text = mistakes.explain(mistakes.find("bn101")).replace("\n" + " " * 9, " ")
    row = mistakes.BY_CODE["BN101"]
    for part in (row.code, row.name, row.line, row.why, row.instead, mistakes.RIGHT, *row.seen):
        assert part in text
    with pytest.raises(exporter.UsageError, match="no mistake 'BN000'"):
        mistakes.find("BN000")


def test_which_mistakes_are_tried_in_pairs():
    """Those that people combine: of formulas and of parameters. Two of the others would fit many numbers by chance."""
    assert " ".join(mistake.code for mistake in MISTAKES if not mistake.alone) == (
        "BN101 BN102 BN103 BN104 BN111 BN112 BN113 BN114 BN121 BN122 BN123 BN124 BN125 BN126 BN131 BN132 BN133 BN134 BN140 BN141 BN142 "
        "BN143 BN151 BN152")


def test_advice_is_wrapped_between_words():
    """A code, a path or an expression with a hyphen would be another one in two lines."""
    words = ["pre-trained", "a" * 90, "moving_mean-1"] * 30
    mistake = dataclasses.replace(MISTAKES[0], why=" ".join(words), instead=" ".join(words))
    first, *lines = mistakes.advice(mistake)
    assert first == f"written  {mistake.line}", "code is not wrapped"
    assert [word for line in lines for word in line.split()] == ["why", *words, "instead", *words]
    assert [line[:9].strip() for line in lines if line[0] != " "] == ["why", "instead"]
    assert {line[:9] for line in lines} == {"why      ", "instead  ", " " * 9}
    assert max(len(line) for line in lines if "a" * 90 not in line) <= mistakes.MAX_WIDTH

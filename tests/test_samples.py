"""Every row of sample_models/manifest.json: the layers that the live model had, bit for bit, or the exact error."""

from __future__ import annotations

import importlib
import json
import re

import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors
from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.layer import PARAMETERS
from exporter.files.place import Place
from exporter.sources import SOURCES, source_for
from tests.make.layers import ROOT

SAMPLES = ROOT / "sample_models"
README = (ROOT / "README.md").read_text()
ROWS = json.loads((SAMPLES / "manifest.json").read_text())


def read(row):
    options = dict(row.get("options", {}))
    if "architecture" in options:
        options["architecture"] = SAMPLES / options["architecture"]
    return exporter.read(SAMPLES / row["model"], **options)


def test_the_manifest_is_not_empty_and_names_every_sample():
    assert len([row for row in ROWS if "truth" in row]) >= 6
    assert len([row for row in ROWS if "error" in row]) >= 3
    folders = {path.parent.name for path in SAMPLES.glob("*/make.py")}
    assert folders == {row["model"].split("/")[0] for row in ROWS}, "each sample has its script, each script its rows"


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_has_a_sample_and_its_row_in_the_readme(name):
    """docs/architecture.md, "How to add": a kind that is read has a file that its own writer made, and stands in README.md."""
    kind = importlib.import_module(f"exporter.sources.{name}").NAME
    assert any(row.get("source", row.get("kind")) == kind for row in ROWS if "truth" in row), f"no sample is read by {name}"
    assert kind == source_for(Place(SAMPLES / next(row["model"] for row in ROWS if row.get("source", row.get("kind")) == kind))).NAME
    table = README[README.index("## What is read"):README.index("## What is written")]
    assert re.search(rf"`{kind}`", table), f"README.md, What is read, does not name the kind {kind}"


@pytest.mark.parametrize("row", [row for row in ROWS if "truth" in row], ids=lambda row: row["model"])
def test_a_sample_is_read_exactly(row):
    bundle = read(row)
    truth = json.loads((SAMPLES / row["truth"]).read_text())
    assert bundle.origin.kind == row["kind"]
    assert row["keras_version"] in (None, bundle.origin.keras_version)
    assert sorted(bundle.paths()) == sorted(truth), "no layer lost, none invented"
    for layer in bundle:
        want = truth[layer.path]
        assert np.isclose(layer.epsilon, want["epsilon"], rtol=1e-7, atol=0)
        rank = layer.ndim or 4
        assert {a % rank for a in layer.axis} == {a % rank for a in want["axis"]}
        for name in PARAMETERS:
            values, expected = getattr(layer, name), want["parameters"][name]
            assert (values is None) == (expected is None), f"{layer.path}: {name}"
            if values is not None:
                assert values.ravel().tobytes() == np.array(expected, HELD_IN[layer.dtype]).tobytes(), f"{layer.path}: {name}"


@pytest.mark.parametrize("row", [row for row in ROWS if "error" in row], ids=lambda row: f"{row['model']}: {row['what']}")
def test_a_sample_is_refused_with_its_error(row):
    with pytest.raises(getattr(exporter, row["error"])) as error:
        read(row)
    assert row["message"] in str(error.value)


def test_the_public_question_about_a_layer_without_beta():
    """1 and 5 give what Keras 2.0.8 printed, 0.79519051 and 4.17485714, to float32 rounding; not the [-1, 1] of batch statistics."""
    layer = exporter.read(SAMPLES / "no_beta_keras208" / "model.h5")["bn"]
    assert layer.beta is None
    printed = np.array([[0.79519051], [4.17485714]])
    x = np.float32([[1], [5]])
    y = layer(x.reshape(1, 1, 2, 1)).reshape(2, 1)
    assert (np.abs(y - printed) <= vectors.bound(layer, x)).all()
    assert vectors.ulps(y, printed, "float32").max() <= 1.01

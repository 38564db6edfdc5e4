"""One file, one bundle: by whatever way it is read, and after it was written and read back."""

from __future__ import annotations

import json
import sys

import pytest

from tests.make.layers import ROOT
from tests.make.ways import SAMPLES, documents

LIKES = ("bundles_010/encoder.json", "bundles_010/encoder.npz", "bundles_010/encoder.safetensors", "encoder_keras3/model.h5",
         "encoder_keras3/model.weights.h5", "saved_model_tfkeras/model.h5", "saved_model_tfkeras/checkpoint", "no_beta_keras208/model.h5",
         "named_arrays_tfkeras/weights.npz", "hand_made_tf115/model.ckpt.index",
         "hand_made_tf115/frozen.pb")
ROWS = [row for row in json.loads((ROOT / "sample_models" / "manifest.json").read_text()) if "truth" in row]


@pytest.mark.skipif(sys.platform == "win32", reason="the ways include forks")
@pytest.mark.parametrize("row", [
    pytest.param(row, id=row["model"], marks=[pytest.mark.thorough("much time: ten ways of reading, by servers and processes")] * (
        row["model"] in LIKES)) for row in ROWS])
def test_every_way_gives_the_same_bundle(row, tmp_path, forks):
    options = dict(row.get("options", {}))
    if "architecture" in options:
        options["architecture"] = str(SAMPLES / options["architecture"])
    found = dict(documents(SAMPLES / row["model"], tmp_path, options))
    assert len(found) >= 10
    assert [way for way, text in found.items() if text != found["here"]] == []

"""The documents' examples hold."""

from __future__ import annotations

import json
import re

import exporter
from tests.make.layers import ROOT


def test_the_example_of_the_format_is_a_bundle(tmp_path):
    text = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "format.md").read_text(), re.DOTALL).group(1)
    (tmp_path / "b.json").write_text(text)
    bundle = exporter.load(tmp_path / "b.json")
    layer = bundle["encoder/bn_1"]
    row, want = (json.loads(text)["layers"][0]["vectors"][key] for key in ("input", "output"))
    assert layer(row).tolist() == layer.moving_mean.dtype.type(want).tolist()


def test_the_table_of_limits_names_files_that_are_there():
    text = (ROOT / "docs" / "security.md").read_text()
    named = set(re.findall(r"`((?:exporter|fuzz|tests)/[\w/]+\.py)`", text))
    assert len(named) > 12
    assert all((ROOT / name).is_file() for name in named), named

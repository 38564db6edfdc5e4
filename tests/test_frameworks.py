"""docs/frameworks.md: each row with a measurement is run as it says; what is not installed is a visible skip."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.make.layers import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import measure_frameworks

PAGE = (ROOT / "docs" / "frameworks.md").read_text("utf-8")
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu",
               "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(ROOT)}


def test_the_page_has_a_row_for_each_that_is_measured():
    rows = re.findall(r"^\| .* \| `([\w. ]+)` \|$", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(measure_frameworks.FRAMEWORKS)


@pytest.mark.thorough("other frameworks")
@pytest.mark.parametrize("name", list(measure_frameworks.FRAMEWORKS))
def test_each_keeps_the_bound(name):
    """In a process of its own: their libraries do not all go together."""
    if package := measure_frameworks.missing(name):
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, str(ROOT / "docs" / "measure_frameworks.py"), name]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    numbers, worst = re.search(r"(\d+) numbers, worst at ([\d.]+) of the bound", done.stdout).groups()
    assert int(numbers) > 200
    assert float(worst) < 1


def test_a_wrong_row_would_be_seen():
    """The measure itself: an exchanged pair, and another framework's epsilon, are far beyond the bound."""
    def swapped(layer, x):
        return layer.replace(gamma=layer.beta, beta=layer.gamma)(x)

    def other_epsilon(layer, x):
        return layer.replace(epsilon=1e-5)(x)

    for wrong in (swapped, other_epsilon):
        measure_frameworks.FRAMEWORKS["wrong"] = (wrong, ())
        try:
            assert measure_frameworks.measure("wrong")[1] > 100
        finally:
            del measure_frameworks.FRAMEWORKS["wrong"]

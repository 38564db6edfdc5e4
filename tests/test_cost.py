"""What an export costs, counted in lines of the package that run and modules that it imports: the same on every machine, busy or not.

Where a count rises over its bound, look for what is done twice; where there is a reason, the bound is raised with it in the commit.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

import exporter
from tests.make.counting import lines_run
from tests.make.layers import ROOT

# By suffix, for a model of a convolution and a batch norm, over and over: lines for each pair, and for all else.
BOUNDS = {".h5": (2340, 3500), ".keras": (2185, 3700)}
HEAVY = {"h5py", "jsonschema", "asyncio", "ssl", "http", "logging", "multiprocessing", "concurrent", "tempfile", "email", "random"}


@pytest.fixture(scope="module")
def make():
    """Writes a model of `count` convolutions and batch norms to a path."""
    spec = importlib.util.spec_from_file_location("models", ROOT / "benchmarks" / "models.py")
    models = sys.modules["models"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    return lambda path, count: (models.write_keras if path.suffix == ".keras" else models.write_h5)(path, models.plain(count, 4))


def lines_of_an_export(model, out):
    return lines_run(lambda: exporter.write(exporter.read(model), out))


@pytest.mark.parametrize("suffix", sorted(BOUNDS))
def test_an_export_runs_no_more_lines_than_it_did(tmp_path, make, suffix):
    counts = {}
    for count in (1, 10, 100):
        make(tmp_path / f"{count}{suffix}", count)
        if count == 1:  # imports, and what is compiled once
            exporter.write(exporter.read(tmp_path / f"1{suffix}"), tmp_path / "out.json")
        counts[count] = lines_of_an_export(tmp_path / f"{count}{suffix}", tmp_path / "out.json")
    each, rest = BOUNDS[suffix]
    assert (counts[100] - counts[10]) / 90 <= each, counts
    assert counts[10] - 10 * (counts[100] - counts[10]) / 90 <= rest, counts
    assert counts[100] - counts[10] < 1.1 * 10 * (counts[10] - counts[1]), f"more than in proportion: {counts}"


@pytest.mark.parametrize("suffix", sorted(BOUNDS))
def test_an_export_imports_only_what_it_needs(tmp_path, make, suffix):
    make(tmp_path / f"m{suffix}", 3)
    program = f"import sys, exporter; exporter.write(exporter.read({str(tmp_path / f'm{suffix}')!r}), {str(tmp_path / 'o.json')!r})"
    done = subprocess.run([sys.executable, "-c", f"{program}; print(*sys.modules)"], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert not HEAVY & modules
    assert len([name for name in modules if name.startswith("exporter.")]) < 85


def test_a_source_that_is_only_asked_imports_little(tmp_path, make):
    """A bundle is the last that is tried; of a folder of models, every source is asked whether it is a model itself."""
    make(tmp_path / "m.h5", 1)
    exporter.write(exporter.read(tmp_path / "m.h5"), tmp_path / "b.json")
    program = ("import sys, exporter; from exporter.pipeline.matches import is_folder_of_models; "
               f"exporter.read({str(tmp_path / 'b.json')!r}); assert is_folder_of_models({str(tmp_path)!r}); print(*sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert not [name for name in modules if name.startswith(("exporter.sources.tf_graph", "exporter.formats.graph_def"))]
    assert len([name for name in modules if name.startswith("exporter.sources.")]) < 35

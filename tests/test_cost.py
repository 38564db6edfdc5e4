"""What an export costs, counted in lines of the package that run and modules that it imports: the same on every machine, busy or not.

Where a count rises over its bound, look for what is done twice; where there is a reason, the bound is raised with it in the commit.
"""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

import exporter
from exporter.files.place import Place
from exporter.formats.object_graph import OBJECT_GRAPH
from exporter.sources import OF_FOLDERS, SOURCES
from tests.make.counting import lines_run
from tests.make.graph_files import Function, chain, function, graph, node
from tests.make.layers import script
from tests.make.live import ROLES
from tests.make.tensor_files import encode, field, graph_proto, saved_graph_proto, saved_model_proto, write_bundle

# By suffix, for a model of a convolution and a batch norm, over and over: lines for each of many pairs, of which some are looked at
# together, for each of few, and for all else.
BOUNDS = {".h5": (1650, 1910, 1700), ".keras": (1440, 1670, 2110), ".saved": (7_530, 7_330, 2340)}
MODULES = {".saved": 98}
HEAVY = {"h5py", "jsonschema", "asyncio", "ssl", "http", "logging", "multiprocessing", "concurrent", "tempfile", "email", "random"}


@pytest.fixture(scope="module")
def make():
    """Writes a model of `count` convolutions and batch norms to a path."""
    models = script("benchmarks/models.py")
    return lambda path, count: write_saved(path, count) if path.suffix == ".saved" else (
        models.write_keras if path.suffix == ".keras" else models.write_h5)(path, models.plain(count, 4))


def write_saved(folder, count):
    """What model.export writes: a function that computes, and one for each of two signatures, which calls it."""
    names = [f"n{number}/{role}" for number in range(count) for role in ("kernel", *ROLES)]
    nodes, x = [node(f"{name}/read", "ReadVariableOp", name) for name in names], "x"
    for number in range(count):
        kernel, *reads = (f"n{number}/{role}/read" for role in ("kernel", *ROLES))
        nodes += [node(f"n{number}/Conv2D", "Conv2D", x, kernel), *chain(f"n{number}", f"n{number}/Conv2D", *reads)]
        x = f"n{number}/batchnorm/add_1"
    call = [node("c", "StatefulPartitionedCall", "x", *names, f=Function("call")), node("i", "Identity", "c:output:0")]
    functions = [function("call", ["x", *names], nodes, {"y": x}),
                 *(function(f"__inference_signature_wrapper_{number}", ["x", *names], call, {"y": "i:output:0"}) for number in (1, 2))]
    keys = [f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in range(len(names))]
    objects = [({str(number): number + 1 for number in range(len(names))}, None)]
    stored = [*objects, *(({}, (name, key)) for name, key in zip(names, keys, strict=True))]
    values = np.float32([1, 2, 3, 4])
    (folder / "variables").mkdir(parents=True)
    write_bundle(folder / "variables", "variables", {**dict.fromkeys(keys, values), OBJECT_GRAPH: [graph_proto(stored)]})
    bound = b"".join(encode(number + 1) for number in range(len(names)))
    concrete = b"".join(field(2, field(1, name) + field(2, field(2, bound))) for name in (
        "call", "__inference_signature_wrapper_1", "__inference_signature_wrapper_2"))
    said = saved_graph_proto([*objects, *(({}, name) for name in names)]) + concrete
    (folder / "saved_model.pb").write_bytes(saved_model_proto(said, "2.21.0", graph=graph(functions=functions)))


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
    many, few, rest = BOUNDS[suffix]
    of_many, of_few = (counts[100] - counts[10]) / 90, (counts[10] - counts[1]) / 9
    assert of_many <= many, counts
    assert of_few <= few, counts
    assert min(counts[1] - of_few, counts[10] - 10 * of_many) <= rest, counts
    assert counts[100] - counts[10] < 1.1 * 10 * (counts[10] - counts[1]), f"more than in proportion: {counts}"


@pytest.mark.parametrize("suffix", sorted(BOUNDS))
def test_an_export_imports_only_what_it_needs(tmp_path, make, suffix):
    make(tmp_path / f"m{suffix}", 3)
    program = f"import sys, exporter; exporter.write(exporter.read({str(tmp_path / f'm{suffix}')!r}), {str(tmp_path / 'o.json')!r})"
    done = subprocess.run([sys.executable, "-c", f"{program}; print(*sys.modules)"], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert not HEAVY & modules
    assert len([name for name in modules if name.startswith("exporter.")]) < MODULES.get(suffix, 85)


def test_for_a_folder_no_source_of_files_is_imported(tmp_path, make):
    make(tmp_path / "m.saved", 3)
    program = f"import sys, exporter; exporter.read({str(tmp_path / 'm.saved')!r}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    others = ("exporter.sources.legacy_h5", "exporter.sources.numpy_archive", "exporter.sources.shared.matching",
              "exporter.formats.zip_archive")
    assert not [name for name in modules if name.startswith(others)]
    for name in set(SOURCES).difference(OF_FOLDERS):
        assert not importlib.import_module(f"exporter.sources.{name}").claims(Place(tmp_path))


def test_a_source_that_is_only_asked_imports_little(tmp_path, make):
    """A bundle is the last that is tried; of a folder of models, every source is asked whether it is a model itself."""
    make(tmp_path / "m.h5", 1)
    exporter.write(exporter.read(tmp_path / "m.h5"), tmp_path / "b.json")
    program = ("import sys, exporter; from exporter.pipeline.matches import is_folder_of_models; "
               f"exporter.read({str(tmp_path / 'b.json')!r}); assert is_folder_of_models({str(tmp_path)!r}); print(*sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    others = ("exporter.sources.tf_graph", "exporter.formats.graph_def", "exporter.sources.keras_v3.w")
    assert not [name for name in modules if name.startswith(others)]
    assert len([name for name in modules if name.startswith("exporter.sources.")]) < 35

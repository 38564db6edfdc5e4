"""The import rules: layers of the package point one way, start-up is light, TensorFlow is never imported."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys

import pytest

import exporter
from tests.make.layers import ROOT
from tests.make.package import PACKAGE, one_worker, tree_of

pytestmark = one_worker
OPTIONAL = {"tensorflow", "keras", "tf_keras", "torch", "pickle", "marshal", "yaml", "dill", "cloudpickle"}


# Who may import whom, floor by floor (docs/architecture.md). Imports inside functions and under TYPE_CHECKING count.
MAY_IMPORT = {
    "errors": set(),
    "batchnorm": {"errors"},
    "files": {"errors"},
    "formats": {"errors", "files"},
    "keras": {"errors", "batchnorm", "formats", "files"},
    "targets": {"errors", "batchnorm", "formats", "files", "keras"},
    "diagnosis": {"errors", "batchnorm", "formats", "files", "keras"},
    "sources": {"errors", "batchnorm", "formats", "files", "keras"},
    "pipeline": {"errors", "batchnorm", "formats", "files", "keras", "targets", "sources"},
    "commands": {"errors", "batchnorm", "formats", "files", "keras", "targets", "sources", "pipeline", "diagnosis"},
}
FACE = {"__init__.py", "__main__.py", "__about__.py"}


@functools.cache
def imports(path):
    """Names of the modules that a file imports, wherever the statement stands; `from package import module` gives the module."""
    return list(names_of_imports(path))


def names_of_imports(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if file_of(name)]
            yield from modules
            if len(modules) < len(inner):
                yield node.module


@functools.cache
def file_of(name):
    """The file of a module of the package, or None."""
    if name.split(".")[0] != "exporter":
        return None
    plain = ROOT.joinpath(*name.split("."))
    return next((path for path in (plain.with_suffix(".py"), plain / "__init__.py") if path.is_file()), None)


def room_of(path):
    return path.relative_to(ROOT / "exporter").parts[0].removesuffix(".py")


def test_the_guard_sees_the_package():
    assert len(PACKAGE) > 20


def test_the_rooms_are_the_ten_of_the_drawing():
    there = {path.name.removesuffix(".py") for path in (ROOT / "exporter").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for name in there if not name.startswith("__")} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_down(room):
    for path in PACKAGE:
        for name in imports(path) if room_of(path) == room else ():
            target = file_of(name)
            if target is None or (target.parent.name == "exporter" and target.name == "__about__.py"):
                continue
            assert target.parent.name != "exporter" or target.name not in FACE, f"{path}: {name}: the face of the package is for others"
            assert room_of(target) in {room, *MAY_IMPORT[room]}, f"{path}: {room} may not import {name}"


@pytest.mark.parametrize("folder", ["sources", "targets"])
def test_no_kind_imports_another(folder):
    """What two sources, or two targets, share stands in a workshop. The kit packs other targets."""
    for path in (ROOT / "exporter" / folder).glob("*.py"):
        found = {target for name in imports(path) if (target := file_of(name)) and target.parent == path.parent}
        if path.name not in ("__init__.py", "kit.py"):
            assert found <= {path.parent / "__init__.py"}, path.name


def test_no_files_import_each_other_in_a_circle():
    graph = {path: {target for name in imports(path) if (target := file_of(name)) and target != path} for path in PACKAGE
             if path.name not in FACE or path.parent.name != "exporter"}
    done, under_way = set(), []

    def visit(path):
        assert path not in under_way, " -> ".join(str(step.relative_to(ROOT)) for step in [*under_way[under_way.index(path):], path])
        if path in done or path not in graph:
            return
        under_way.append(path)
        for target in sorted(graph[path]):
            visit(target)
        done.add(under_way.pop())

    for path in sorted(graph):
        visit(path)
    assert len(done) > 20


RUN_APART = ("live.py", "torch_child.py")  # the one runs a model when asked to, the other is a process of its own


def test_nothing_can_run_code_of_a_model():
    for path in PACKAGE:
        if path.name in RUN_APART:
            continue
        assert not OPTIONAL & {name.split(".")[0] for name in imports(path)}, path
        calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        called = {function.id for function in calls if isinstance(function, ast.Name)}
        assert not called & {"eval", "exec", "compile", "__import__"}, path


def loaded_after(statement):
    program = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())


def test_import_is_light():
    assert not loaded_after("import exporter") & {"numpy", "h5py", "jsonschema", "orjson", "asyncio"}
    heavy = {"h5py", "jsonschema", "asyncio", "email", "tempfile", "concurrent", "multiprocessing", "ssl", "http", "logging", "socket"}
    assert not loaded_after("import exporter.pipeline.read, exporter.pipeline.write, exporter.targets.bundle_json") & heavy
    assert not loaded_after("from exporter.commands import export; export.export_parser()") & {"numpy", "h5py", "jsonschema", "orjson"}


def test_every_public_name_is_there_and_no_other():
    for name in exporter.__all__:
        assert getattr(exporter, name) is not None
        assert name in dir(exporter)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        exporter.nothing  # noqa: B018


def test_function_names_are_not_hidden_by_modules():
    """`exporter.evaluate` stays the function, whatever was imported before it."""
    program = "import exporter.batchnorm.layer, exporter.batchnorm.vectors, exporter.pipeline.read, exporter; "
    program += "print(callable(exporter.evaluate), callable(exporter.read))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.parametrize(("folder", "listed"), [("sources", "SOURCES"), ("targets", "TARGETS")])
def test_the_visible_list_names_every_module(folder, listed):
    module = __import__(f"exporter.{folder}", fromlist=[listed])
    there = {path.stem for path in (ROOT / "exporter" / folder).glob("*.py") if not path.stem.startswith("_")}
    assert set(getattr(module, listed)) == there
    for name in getattr(module, listed):
        found = __import__(f"exporter.{folder}.{name}", fromlist=["NAME"])
        wanted = ("NAME", "claims", "read") if folder == "sources" else ("NAME", "OPTIONS", "write")
        assert all(hasattr(found, attribute) for attribute in wanted), name

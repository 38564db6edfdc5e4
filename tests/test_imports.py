"""The import rules: layers of the package point one way, start-up is light, TensorFlow is never imported."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

import exporter

PACKAGE = sorted((ROOT / "exporter").rglob("*.py"))
OPTIONAL = {"tensorflow", "keras", "tf_keras", "torch", "pickle", "marshal", "yaml", "dill", "cloudpickle"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_the_guard_sees_the_package():
    assert len(PACKAGE) > 20


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    place = path.relative_to(ROOT / "exporter").parts[0]
    for name in imports(path):
        if not name.startswith("exporter."):
            continue
        target = name.split(".")[1]
        if place == "formats":
            assert target in ("formats", "errors", "files"), f"a format has never heard of {name}"
        if place == "sources":
            assert target not in ("targets", "cli", "output", "resolve"), f"a source does not know {name}"
        if place == "targets":
            assert target not in ("sources", "cli", "output", "resolve"), f"a target does not know {name}"


@pytest.mark.parametrize("path", [p for p in PACKAGE if p.name != "live.py"], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_can_run_code_of_a_model(path):
    assert not OPTIONAL & {name.split(".")[0] for name in imports(path)}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}


def loaded_after(statement):
    program = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())


def test_import_is_light():
    assert not loaded_after("import exporter") & {"numpy", "h5py", "jsonschema", "orjson", "asyncio"}
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
        wanted = ("NAME", "claims", "read") if folder == "sources" else ("NAME", "SUFFIXES", "write")
        assert all(hasattr(found, attribute) for attribute in wanted), name

"""The source files of the package, parsed once for all tests of a worker; tests that use them belong to its xdist group."""

from __future__ import annotations

import ast
import functools

import pytest

from tests.make.layers import ROOT

PACKAGE = sorted((ROOT / "exporter").rglob("*.py"))
one_worker = pytest.mark.xdist_group("package")


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text("utf-8"))

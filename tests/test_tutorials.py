"""The tutorials run from their first line to their last, and print what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.make.layers import ROOT

TUTORIALS = sorted((ROOT / "docs").glob("tutorial-*.md"))


def test_there_is_one_for_each_reader():
    assert len(TUTORIALS) == 3


@pytest.mark.thorough("much time: each block of a page is a program of its own")
@pytest.mark.parametrize("page", [*TUTORIALS, ROOT / "docs" / "reading.md"], ids=lambda page: page.stem)
def test_a_tutorial_runs(page, tmp_path):
    """Each block after the other in one folder; a block of text shows lines of what the block before it printed."""
    shutil.copytree(ROOT / "sample_models", tmp_path / "sample_models")
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    blocks = re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)
    printed = ""
    for language, block in blocks:
        if language == "text":
            for line in block.strip().splitlines():
                assert line in printed, page.name
            continue
        command = ["bash", "-euc", block] if language == "bash" else [sys.executable, "-c", block]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        printed = done.stdout
    assert len(blocks) >= 3


def test_the_pages_of_the_site_are_there():
    """mkdocs.yml names every page of docs/, and no other."""
    named = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")}

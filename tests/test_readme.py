"""The README's own examples run, and what it lists is what there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.make.layers import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
BIN = os.path.dirname(sys.executable)


def without_setup(block):
    """The block's commands after its own set-up, which this environment has behind it already (the whole block runs on a clean machine)."""
    steps = re.split(r"\s*&&\s*|\n(?=\S)", block.replace("\\\n", " ").strip())
    kept = [step.strip() for step in steps if not re.match(r"(python3 -m venv|\.venv/bin/pip install) ", step.strip())]
    return " && ".join(step.replace(".venv/bin/", BIN + "/") for step in kept)


def test_there_are_examples():
    assert len(BLOCKS) == 2, "the set-up with an example, and the tests"
    assert README.count("```console") >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1].strip()[:60])
def test_a_shell_example_runs(block, tmp_path):
    command = without_setup(block)
    if "pytest" in command:
        assert command == f"{BIN}/python -m pytest -n auto", "the tests' command is what is running now"
        return
    shutil.copytree(ROOT / "sample_models", tmp_path / "sample_models")
    done = subprocess.run(["bash", "-euc", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_python_examples_run(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "sample_models", tmp_path / "sample_models")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("block", re.findall(r"```console\n(.*?)```", README, re.DOTALL))
def test_what_a_console_shows_is_what_the_commands_print(block, tmp_path):
    """A command that shows no output only has to run; "..." stands for what is left out at the end."""
    shutil.copytree(ROOT / "sample_models", tmp_path / "sample_models")
    for command, shown in re.findall(r"^\$ (.*?)\n(.*?)(?=^\$ |\Z)", block, re.DOTALL | re.MULTILINE):
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
                              check=False)
        assert done.returncode in (0, 1), done.stderr
        wanted = shown.rstrip()
        if wanted.endswith("..."):
            assert done.stdout.startswith(wanted[:-3].rstrip())
        elif wanted:
            assert done.stdout.rstrip() == wanted


def test_links_work_on_a_package_index_and_lead_somewhere():
    """An index shows the README without the repository around it, so no link is relative; those into the repository exist here."""
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    named = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", prose, re.MULTILINE))
    used = set(re.findall(r"\]\[([\w-]+)\]", prose))
    assert used == set(named), "each link that is named is used, and the other way round"
    targets = [*re.findall(r"\]\(([^)]+)\)", prose), *named.values()]
    assert len(targets) > 20
    for target in targets:
        assert target.startswith("https://"), target
        inside = re.fullmatch(r"https://(?:github\.com/bn-export/bn-export/(?:blob|tree)|raw\.githubusercontent\.com/bn-export/bn-export)"
                              r"/main/([^#]+)(?:#.*)?", target)
        assert inside is None or (ROOT / inside[1]).exists(), target

"""The documents' examples hold."""

from __future__ import annotations

import json
import re
import sys

import pytest

import exporter
from tests.make.layers import ROOT, script
from tests.test_language import texts


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


@pytest.fixture(scope="module")
def reference():
    return script("docs/make_reference.py")


@pytest.mark.parametrize(("page", "make"), [("cli.md", "commands"), ("api.md", "api")])
def test_the_pages_of_commands_and_api_are_what_the_code_says(reference, page, make):
    assert (ROOT / "docs" / page).read_text("utf-8") == getattr(reference, make)(), "run python docs/make_reference.py"


def test_every_flag_has_a_page_that_explains_it(reference):
    flags = reference.flags()
    named = [flag for explained in reference.PAGES.values() for flag in explained]
    assert sorted(named) == sorted(flags), "each flag once in PAGES of docs/make_reference.py"
    for page, explained in reference.PAGES.items():
        text = (ROOT / "docs" / page).read_text("utf-8")
        assert not [flag for flag in explained if not re.search(rf"{flag}(?![\w-])", text)], page


def test_every_flag_of_every_command_is_on_the_page():
    from exporter.commands.diagnose import diagnose_parser
    from exporter.commands.evaluate import eval_parser
    from exporter.commands.export import export_parser
    from exporter.commands.verify import verify_parser

    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    flags = {flag for make in (diagnose_parser, eval_parser, export_parser, verify_parser) for action in make()._actions
             for flag in action.option_strings}
    assert len(flags) > 25
    assert not [flag for flag in sorted(flags) if f"`{flag}" not in text]


def test_markdown_has_short_lines():
    sys.path.insert(0, str(ROOT / "docs"))
    from short_lines import long_lines

    found = [f"{name}: {line[:60]}" for name, text in texts(".md") if name.endswith(".md")
             for line in long_lines(text)]
    assert not found, "run python docs/short_lines.py on:\n" + "\n".join(found)

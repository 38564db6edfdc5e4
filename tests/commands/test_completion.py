"""--print-completion: what a shell completes is what the parser has."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from exporter.commands.diagnose import diagnose_parser
from exporter.commands.evaluate import eval_parser
from exporter.commands.export import export_parser
from exporter.commands.verify import verify_parser
from tests.make.layers import ROOT

PARSERS = (export_parser, diagnose_parser, verify_parser, eval_parser)
shtab = pytest.importorskip("shtab")


def script(capsys, make, shell):
    with pytest.raises(SystemExit) as done:
        make().parse_args(["--print-completion", shell])
    assert not done.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
@pytest.mark.parametrize("make", PARSERS, ids=lambda make: make.__name__)
def test_every_flag_is_in_the_script(capsys, make, shell):
    text = script(capsys, make, shell)
    for action in make()._actions:
        for flag in action.option_strings:
            assert flag.lstrip("-") in text


@pytest.mark.parametrize("make", PARSERS, ids=lambda make: make.__name__)
def test_bash_completes_flags_choices_and_files(tmp_path, capsys, make):
    bash = shutil.which("bash")
    assert bash, "the README's commands are run by bash, too"
    (tmp_path / "completion").write_text(script(capsys, make, "bash"))
    (tmp_path / "model.keras").touch()
    name = make().prog

    def completed(*words):
        line = " ".join(f"'{word}'" for word in (name, *words))
        code = (f"source ./completion; COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
                f"_shtab_{name.replace('-', '_')} {name} '{words[-1]}' '' 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
        done = subprocess.run([bash, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
        return set(done.stdout.split())

    assert "--version" in completed("--vers")
    assert completed("--print-completion", "") >= {"bash", "zsh", "tcsh"}
    assert "model.keras" in completed("mod")


def test_without_the_extra_the_hint_is_its_install_line(tmp_path):
    code = ("import sys; sys.modules['shtab'] = None; sys.argv = ['bn-export', '--print-completion', 'bash']\n"
            "from exporter.commands.export import export_command; export_command()")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: shell completion needs the package 'shtab', which is not installed" in done.stderr
    assert "hint: pip install 'bn-export[completion]'" in done.stderr

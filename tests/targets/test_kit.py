"""The kit in an empty folder: its evaluators run there with nothing of this package installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile

import jsonschema
import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors
from exporter.errors import FormatError, OutputError
from exporter.targets import kit
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import make_bundle, make_layer, same_layer

LAYERS = (make_layer("encoder/bn_1", shape=(3,), seed=1, ndim=4), make_layer("no gamma \"`| é", gamma=False, seed=2),
          make_layer("half", dtype="float16", seed=3), make_layer("wide", dtype="float64", shape=(2, 2), axis=(1, 3), ndim=4, seed=4))


@pytest.fixture
def folder(tmp_path):
    exporter.write(make_bundle(*LAYERS), tmp_path / "kit.zip")
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path / "empty")
    return tmp_path / "empty"


def page(folder):
    return (folder / "README.md").read_text("utf-8")


def code(folder, language):
    """The block of code of a language on the page."""
    return re.search(rf"```{language}\n(.*?)```", page(folder), re.DOTALL)[1]


def call(words, folder):
    """Runs a command with nothing of this environment but the usual programs."""
    for program in (words[0], *(["node"] if words[0] == "npm" else [])):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PYTHON = (sys.executable, "-E", "-s", "-S")  # -S: no installed packages


@pytest.mark.parametrize(("language", "tool"), [("python", "python3"), ("javascript", "node"), ("c", "cc")])
def test_the_lines_that_check_an_evaluator(language, tool, folder):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    line = re.search(rf"^To check: `cd {language} && (.*?)`", page(folder), re.MULTILINE)[1]
    out = call(["sh", "-c", line.replace("python ", " ".join(PYTHON) + " ")], folder / language)
    assert re.search(r"4 layers, 4 tests.*, 30 numbers, 0 wrong, worst \d\.\d\d ulp", out)


@pytest.mark.thorough("much time: npm; the same tests run always in runtimes/javascript")
def test_the_tests_of_the_javascript_module(folder):
    call(["npm", "test"], folder / "javascript")


X = np.linspace(-2, 2, 2 * 4 * 3, dtype=np.float32).reshape(2, 2, 2, 3)


def results(text):
    return np.array([float(word) for word in text.replace(",", " ").split()]).reshape(X.shape)


def test_the_lines_of_python(folder):
    program = f"x, shape = {X.ravel().tolist()}, [2, 2, 2, 3]\n{code(folder, 'python')}print(*y)\n"
    (folder / "python" / "use.py").write_text(program)
    assert (results(call([*PYTHON, "use.py"], folder / "python")) == LAYERS[0](X)).all()


def test_the_lines_of_javascript(folder):
    (folder / "javascript" / "use.mjs").write_text(
        'import { readFileSync } from "node:fs";\nconst text = readFileSync("../bundle.json", "utf8");\n'
        f"const x = Float32Array.of({', '.join(map(str, X.ravel().tolist()))}), shape = [2, 2, 2, 3];\n"
        f"{code(folder, 'js')}console.log(x.join(' '));\n")
    assert (results(call(["node", "use.mjs"], folder / "javascript")).astype(np.float32) == LAYERS[0](X)).all()


def test_the_lines_of_c(folder):
    (folder / "c" / "use.c").write_text(
        '#include "batchnorm.h"\n#include "layers.h"\n#include <stdio.h>\nint main(void) {\n'
        f"size_t outer = 8, inner = 1;\nfloat x[] = {{{', '.join(map(str, X.ravel().tolist()))}}};\n{code(folder, 'c')}"
        'for (int i = 0; i < 24; i++) printf("%.9g ", x[i]);\nreturn 0; }\n')
    call(["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "use.c", "-lm", "-o", "use"], folder / "c")
    got, want = results(call([str(folder / "c" / "use")], folder)), LAYERS[0](X)
    assert (np.abs(got - want).reshape(-1, 3) <= vectors.bound(LAYERS[0], X.reshape(-1, 3))).all()


@pytest.mark.parametrize("path", ['q" \\', "\\\" and 0 or list(layers)[0]]; import os; os.mkdir('OWNED') #", "line\nbreak ```",
                                  "{stem} ${x} 😀 é", "\u2028\u202e", "x" * 300])
def test_the_lines_work_for_every_name_and_run_nothing_else(path, tmp_path):
    exporter.write(make_bundle(make_layer(path, shape=(3,), seed=1, ndim=4)), f"{tmp_path}/kit/")
    folder = tmp_path / "kit"
    test_the_lines_of_python(folder)
    if shutil.which("node"):
        test_the_lines_of_javascript(folder)
    assert not list(tmp_path.rglob("OWNED"))


@pytest.mark.parametrize(("language", "words"), [("python", [*PYTHON, "check.py"]), ("javascript", ["node", "check.mjs"])])
def test_the_programs_that_check_know_the_bundle_of_their_kit(language, words, folder):
    assert "4 layers, 4 tests" in call(words, folder / language)


def test_what_is_in_it(folder, tmp_path):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {"README.md", "bundle.json", "bundle-1.schema.json", "batchnorm-1.json", "c/layers.h", *kit.FILES}
    exporter.write(make_bundle(*LAYERS), tmp_path / "direct.json")
    assert (folder / "bundle.json").read_bytes() == (tmp_path / "direct.json").read_bytes()
    assert len(exporter.load(folder / "batchnorm-1.json")) >= 32
    bundle, schema = (json.loads((folder / name).read_text("utf-8")) for name in ("bundle.json", "bundle-1.schema.json"))
    jsonschema.validate(bundle, schema)
    assert all(layer.path.replace("`", "?").replace("|", "?") in page(folder) for layer in LAYERS)
    assert "\nThe 4 layers of batch normalization of a trained model, " in page(folder)


def test_archive_and_folder_hold_the_same(tmp_path, folder):
    exporter.write(make_bundle(*LAYERS), f"{tmp_path}/folder/")
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "folder" / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_both_are_read_back(tmp_path, folder):
    for place in (tmp_path / "kit.zip", folder):
        back = exporter.load(place)
        assert all(same_layer(a, b) for a, b in zip(LAYERS, back))
        assert len(exporter.read(place, isolated=True)) == 4


def test_a_damaged_kit_is_refused(tmp_path):
    exporter.write(make_bundle(*LAYERS), tmp_path / "kit.zip")
    data = bytearray((tmp_path / "kit.zip").read_bytes())
    at = data.index(b'"moving_mean": [') + 20
    data[at] ^= 1
    (tmp_path / "kit.zip").write_bytes(data)
    with pytest.raises(FormatError, match="CRC"):
        exporter.load(tmp_path / "kit.zip")


def test_a_kit_of_nothing_is_refused(tmp_path):
    nothing = make_bundle(*LAYERS).replace(layers=(), skipped=(("a", "no reason"),))
    with pytest.raises(OutputError, match="no layer"):
        kit.write(nothing, WriteOptions())


@pytest.mark.parametrize("folder", ["exporter/conformance", "vectors"])
def test_what_it_holds_lies_in_the_package_or_beside_it(tmp_path, monkeypatch, folder):
    (tmp_path / "exporter" / "targets").mkdir(parents=True)
    (tmp_path / folder).mkdir()
    monkeypatch.setattr(kit, "__file__", str(tmp_path / "exporter" / "targets" / "kit.py"))
    assert kit._shipped("conformance", "vectors") == tmp_path / folder

"""The runtimes of other languages, built and run by their own programs; a tool that is not installed is a visible skip."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import exporter
from exporter.batchnorm.layer import PARAMETERS
from exporter.targets import c_header
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import ROOT, make_bundle, make_layer

sys.path.insert(0, str(ROOT / "runtimes"))
import measure

NAMES = list(measure.RUNTIMES)
ALL = [name if name in ("python", "javascript") else pytest.param(name, marks=pytest.mark.thorough("compilers")) for name in NAMES]
READERS = [one for name, one in zip(NAMES, ALL, strict=True) if name != "c"]  # C reads no bundle: its layers are compiled in


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """built(name) -> how to run a runtime, built once; a skip where its tools are missing."""

    @functools.cache
    def build(name):
        try:
            return measure.build(name, tmp_path_factory.mktemp(name))
        except measure.Missing as missing:
            return str(missing)

    def get(name):
        run = build(name)
        return pytest.skip(run) if isinstance(run, str) else run

    return get


def document(tmp_path, *layers):
    exporter.write(make_bundle(*layers), tmp_path / "b.json")
    return json.loads((tmp_path / "b.json").read_text("utf-8"))


def written(tmp_path, content):
    (tmp_path / "b.json").write_text(json.dumps(content), "utf-8")
    return tmp_path / "b.json"


def test_the_listing_names_every_folder():
    assert set(NAMES) == {path.name for path in (ROOT / "runtimes").iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert all((ROOT / "runtimes" / name / "README.md").is_file() for name in NAMES)


@pytest.mark.parametrize("name", ALL)
def test_the_conformance_file_and_the_page(name, built):
    numbers, wrong, worst = measure.measure(built(name), measure.VECTORS)
    cases = json.loads(measure.VECTORS.read_text("utf-8"))["layers"]
    assert numbers == sum(np.size(layer["vectors"]["input"]) + sum(len(case["input"]) for case in layer["cases"]) for layer in cases)
    assert wrong == 0
    assert measure.row(name, numbers, wrong, worst) in measure.PAGE.read_text("utf-8"), "run: python runtimes/measure.py --write"


@pytest.mark.parametrize("name", ALL)
def test_a_bundle_of_every_type(name, tmp_path, built):
    layers = [make_layer(f"{dtype}/{seed}", dtype=dtype, shape=(31,), seed=seed, gamma=seed != 1, beta=seed != 2)
              for dtype in ("float32", "float64", "float16", "bfloat16") for seed in range(3)]
    document(tmp_path, *layers, make_layer("two", shape=(2, 5), axis=(1, 3), ndim=4), make_layer("ключ \"*/ ?", seed=9))
    numbers, wrong, _ = measure.measure(built(name), tmp_path / "b.json")
    assert (numbers, wrong) == (2 * (12 * 31 + 10 + 4), 0)


@pytest.mark.parametrize("name", ALL)
def test_a_wrong_result_is_noticed(name, tmp_path, built):
    """The same layers with an epsilon that is one percent larger: where a variance is about epsilon, the outputs say so."""
    layer = make_layer("bn").replace(moving_variance=np.full(4, 1e-3, np.float32))
    content = document(tmp_path, layer)
    if name == "c":  # layers.h makes its vectors from the layer: the case holds the other layer's
        exporter.write(make_bundle(layer.replace(epsilon=1.01e-3)), tmp_path / "b.json")
        changed = json.loads((tmp_path / "b.json").read_text("utf-8"))
        rows = content["layers"][0]["vectors"]
        flat = {key: [value for row in rows[key] for value in row] for key in ("input", "output")}
        changed["layers"][0]["cases"] = [{"shape": [2, 4], **flat}]
        content = changed
    else:
        content["layers"][0]["epsilon"] = 1.01e-3
    with pytest.raises(RuntimeError, match=r"[1-9] wrong"):
        measure.measure(built(name), written(tmp_path, content))


def changed(**fields):
    def change(content):
        content["layers"][0].update(fields)

    return change


def without(key):
    def change(content):
        del content["layers"][0][key]

    return change


REFUSED = {
    **{f"no {key}": without(key) for key in (*PARAMETERS, "axis", "shape", "dtype", "path", "epsilon")},
    "null among numbers": changed(gamma=[1.0, None, 1.0, 1.0]), "text among numbers": changed(beta=[1.0, "1", 1.0, 1.0]),
    "true among numbers": changed(beta=[1.0, True, 1.0, 1.0]),
    "gamma is a number": changed(gamma=1.0), "gamma is an object": changed(gamma={}),
    "axis 0": changed(axis=[0]), "no axis": changed(axis=[], shape=[]), "half an axis": changed(axis=[1.5]), "shape 0": changed(shape=[0]),
    "a negative shape": changed(shape=[-4]), "float32 overflows": changed(gamma=[1.0, 1e39, 1.0, 1.0]),
    "float16 overflows": changed(dtype="float16", gamma=[1.0, 65520.0, 1.0, 1.0]), "another dtype": changed(dtype="int8"),
    "epsilon is null": changed(epsilon=None), "layers is null": lambda content: content.update(layers=None),
    "format is missing": lambda content: content.pop("format"), "version is missing": lambda content: content.pop("version")}


@pytest.mark.parametrize("name", READERS)
def test_what_breaks_the_format_is_refused(name, tmp_path, built):
    content, good = document(tmp_path, make_layer("bn")), (tmp_path / "b.json").read_text("utf-8")
    refused = [{"why": f"this text: {text[-20:]}", "text": text} for text in (good + "{}", "[]", "null", "")]
    for why, change in REFUSED.items():
        bad = json.loads(good)
        change(bad)
        refused.append({"why": why, "text": json.dumps(bad)})
    content["refuse"] = refused
    assert measure.measure(built(name), written(tmp_path, content))[1] == 0
    content["refuse"] = [{"why": "nothing is wrong", "text": good}]
    with pytest.raises(RuntimeError, match=r"not refused: \"?nothing is wrong"):
        measure.measure(built(name), written(tmp_path, content))


@pytest.mark.parametrize("name", ALL)
def test_two_axes_of_an_input_of_any_rank(name, tmp_path, built):
    """Axes 1 and -1 are two in every rank but 2: that is seen with the input only."""
    layer = make_layer("bn", shape=(2, 2), axis=(1, -1), ndim=None)
    content = document(tmp_path, layer)
    for shape in ((3, 2, 2), (1, 2, 3, 2)):
        x = np.linspace(-2, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
        case = {"shape": shape, "input": x.ravel().tolist(), "output": layer(x).ravel().tolist()}
        content["layers"][0].setdefault("cases", []).append(case)
    content["refuse_inputs"] = [{"why": "one axis twice", "layer": "bn", "shape": [3, 2], "count": 6}]
    assert measure.measure(built(name), written(tmp_path, content))[:2] == (8 + 12 + 12, 0)
    content["refuse_inputs"] = [{"why": "nothing is wrong", "layer": "bn", "shape": [1, 2, 2], "count": 4}]
    with pytest.raises(RuntimeError, match=r"not refused: "):
        measure.measure(built(name), written(tmp_path, content))


COSTLY = {  # small documents, or fast to make, that a careless reader needs gigabytes, minutes or its whole stack for
    "a million lists": "[" * 1_000_000, "objects inside each other": '{"a":' * 300_000,
    "lists that are closed": "[" * 300_000 + "]" * 300_000,
    "a number of a million digits": '{"format": "bn-bundle", "version": 1' + "0" * 1_000_000 + "}",
    "a fraction of a million digits": "[0." + "7" * 1_000_000 + "1e]", "quotation marks that are escaped": '"' + '\\"' * 500_000,
    "backslashes": '"' + "\\\\" * 500_000, "a string that does not end": '{"' + "a" * 2_000_000,
    "keys without end": "{" + ", ".join(f'"{i}": 0' for i in range(200_000)) + ', "7": 0}'}


@pytest.mark.thorough("much time: documents of megabytes, in each language")
@pytest.mark.parametrize("name", READERS)
def test_documents_that_could_cost_much_are_refused_at_little_cost(name, tmp_path, built):
    content = document(tmp_path, make_layer("bn"))
    shape = {"shape": [4, 2**40], "axis": [1, 2], "ndim": 3, "gamma": None, "beta": None}
    content["refuse"] = [{"why": why, "text": text} for why, text in COSTLY.items()]
    content["refuse"].append({"why": "a shape of 2**42", "text": json.dumps({**content, "layers": [{**content["layers"][0], **shape}]})})
    run, start = built(name), time.monotonic()
    assert measure.measure(run, written(tmp_path, content))[1] == 0
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("name", READERS)
def test_text_that_is_not_utf_8_is_refused(name, tmp_path, built):
    document(tmp_path, make_layer("bn"))
    data = (tmp_path / "b.json").read_bytes()
    assert measure.measure(built(name), tmp_path / "b.json")[1] == 0
    for bad in (b"\xff", b"\xc3", b"\xed\xa0\x80"):
        (tmp_path / "b.json").write_bytes(data.replace(b'"path": "bn', b'"path": "bn' + bad))
        with pytest.raises(RuntimeError):
            measure.measure(built(name), tmp_path / "b.json")


@pytest.mark.thorough("compilers")
def test_compilers_vectorize_the_loops_of_c(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    header = ROOT / "runtimes" / "c" / "batchnorm.h"
    (tmp_path / "loop.c").write_text(
        f'#include "{header}"\nvoid run(const float *k, size_t o, size_t c, size_t i, float *x) {{\n    bn_run(k, o, c, i, x);\n}}\n')
    command = ["gcc", "-std=c99", "-O3", "-fopt-info-vec", "-c", "loop.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = {int(line) for line in re.findall(r"batchnorm\.h:(\d+):\d+: optimized: loop vectorized", done.stderr)}
    loops = {number for number, line in enumerate(header.read_text().splitlines(), 1) if re.match(r" +for .* x\[[ci]\] = ", line)}
    assert len(loops) == 2
    assert lines == loops


@pytest.mark.thorough("compilers")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_header_alone_and_with_the_runtime(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    (tmp_path / "layers.h").write_bytes(c_header.write(exporter.load(measure.VECTORS), WriteOptions()))
    for text in ('#include "layers.h"\n', f'#include "{ROOT}/runtimes/c/batchnorm.h"\n#include "layers.h"\n'):
        (tmp_path / "main.c").write_text(f"{text}int main(void) {{ return 0; }}\n")
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
        subprocess.run([compiler, *flags, "main.c"], cwd=tmp_path, check=True)


@pytest.mark.thorough("much time: node and npm")
def test_the_module_tests_of_javascript():
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    done = subprocess.run(["npm", "test"], cwd=ROOT / "runtimes" / "javascript", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.thorough("compilers")
def test_the_declared_types_of_javascript(tmp_path):
    if shutil.which("tsc") is None:
        pytest.skip("tsc (npm install -g typescript) is not installed")
    (tmp_path / "use.mts").write_text(
        'import { load, BundleError, roundTo, type Layer } from "./batchnorm.mjs";\nconst layer: Layer | undefined = load("").get("bn");\n'
        "const y: Float32Array = layer!.apply(new Float32Array(4), [1, 4]);\nconst c: number = layer!.channelOf(y.length, [1, 4]);\n"
        'export const z: [number, typeof BundleError] = [roundTo(c, "float16"), BundleError];\n')
    shutil.copy(ROOT / "runtimes" / "javascript" / "batchnorm.d.mts", tmp_path)
    done = subprocess.run(["tsc", "--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "use.mts"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

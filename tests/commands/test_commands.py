"""bn-diagnose, bn-eval and bn-verify as people call them."""

from __future__ import annotations

import gc
import importlib
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors
from exporter.commands import shared
from exporter.commands.diagnose import diagnose, gathered
from exporter.commands.evaluate import evaluate
from exporter.commands.verify import verify
from exporter.diagnosis import live
from exporter.diagnosis.comparison import Check
from exporter.pipeline import streaming
from tests.make.layers import ROOT, make_bundle, make_layer
from tests.make.ports import torch_state
from tests.make.questions import BATCH_QUESTION, EPSILON_QUESTION
from tests.make.tensor_files import write_bundle

KERAS = ROOT / "sample_models" / "encoder_keras3" / "model.keras"
CONFORMANCE = ROOT / "vectors" / "batchnorm-1.json"


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "q.json"
    exporter.write(make_bundle(EPSILON_QUESTION.replace(path="one", name="one"), BATCH_QUESTION.replace(path="two", name="two")), path)
    return path


@pytest.fixture
def several(tmp_path):
    bundle = make_bundle(make_layer("a", seed=1), make_layer("b", seed=2), make_layer("c", shape=(2, 3), axis=(1, 3), seed=3))
    exporter.write(bundle, tmp_path / "b.json")
    return tmp_path / "b.json", bundle


# bn-diagnose

def test_the_two_public_questions(run, questions):
    code, out, err = run(diagnose, questions, "--layer", "one", "--input", "-0.077417567", "--output", "0.543057")
    assert (code, err) == (1, "")
    assert "BN101  epsilon outside the root" in out
    assert "right    gamma * (x - mean) / np.sqrt(variance + epsilon) + beta" in out
    code, out, _ = run(diagnose, questions, "--layer", "one", "--input", "-0.077417567", "--output", "0.30664611")
    assert code == 0
    assert out.startswith("one: same")
    code, out, _ = run(diagnose, questions, "--layer", "two", "--input", "[1, 5]", "--output", "[-1, 1]")
    assert code == 1
    assert "BN121  statistics of the batch instead of the moving ones" in out
    code, out, _ = run(diagnose, questions, "--layer", "two", "--input", "[1, 5]", "--output", "[0.79519051, 4.17485714]")
    assert code == 0


@pytest.mark.parametrize("words", [["--output", "-0.895", "4.175"], ["--output", "-0.895,4.175"], ["--output=-0.895,4.175"],
                                   ["--output", "-0.895, 4.175"], ["--output", "[-0.895 4.175]"]])
def test_negative_numbers_are_no_options(run, questions, words):
    code, out, _ = run(diagnose, questions, "--layer", "two", "--input", "-1", "5", *words)
    assert code == 0
    assert out.startswith("two: same")


def test_the_layer_is_found_and_files_are_read(run, several, tmp_path):
    path, bundle = several
    layer = bundle["b"]
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    wrong = layer.gamma * (x - layer.moving_mean) / (layer.moving_variance + np.float32(layer.epsilon)) + layer.beta
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "z.npz", input=x, output=layer(x))
    np.savetxt(tmp_path / "y.csv", layer(x), delimiter=",", fmt="%.9g")
    (tmp_path / "y.json").write_text(json.dumps(layer(x).tolist()))
    np.save(tmp_path / "wrong.npy", wrong)
    for output in ("z.npz", "y.csv", "y.json", "z.npz:output"):
        code, out, err = run(diagnose, path, "--input", tmp_path / "x.npy", "--output", tmp_path / output)
        assert (code, err) == (0, ""), output
        assert out.startswith("b: same")
    code, out, err = run(diagnose, path, "--input", tmp_path / "z.npz", "--output", tmp_path / "wrong.npy")
    assert (code, err) == (1, "")
    assert out.startswith("b: differs")
    assert "BN111" in out


def test_json_for_machines(run, questions):
    code, out, _ = run(diagnose, questions, "--layer", "one", "--input", "-0.077417567", "--output", "0.543057", "--json")
    content = json.loads(out)
    assert (code, content["verdict"], content["explanations"][0]["codes"]) == (1, "differs", ["BN101"])
    assert content["explanations"][0]["instead"]


def test_a_model_may_stand_for_a_bundle(run):
    layer = exporter.read(KERAS)["head_bn"]
    x = [0.5, -0.25, 1.0, 2.0]
    right = layer(np.array([x], np.float32))[0].tolist()
    code, out, err = run(diagnose, KERAS, "--layer", "head_bn", "--input", x, "--output", right)
    assert code == 0, (out, err)


def test_the_other_set_of_variables_of_a_checkpoint(run, tmp_path):
    """The moving averages explain numbers that the variables do not."""
    variables, averages = (make_layer("bn", seed=seed) for seed in (1, 2))
    tensors = {f"bn/{name}{ending}": values for layer, ending in ((variables, ""), (averages, "/ExponentialMovingAverage"))
               for name, values in layer.parameters().items()}
    x = np.float32([[1, 2, -3, 0.5], [2, 0, 1, 1]])
    code, out, _ = run(diagnose, write_bundle(tmp_path, "m.ckpt", tensors), "--epsilon", "0.001", "--input", str(x.tolist()), "--output",
                       str(averages(x).tolist()))
    assert (code, "BN147" in out) == (1, True)


@pytest.mark.parametrize(("words", "joined"), [
    (["m", "--input", "-1", "2", "--output", "-:y", "--json"], ["m", "--input=-1 2", "--output=-:y", "--json"]),
    (["--output", "-1,1", "--input", "x.npy"], ["--output=-1,1", "--input", "x.npy"]), (["--input"], ["--input"]),
    (["--input", "--output", "1"], ["--input", "--output=1"]), (["--layer", "-1"], ["--layer", "-1"]), ([], [])])
def test_words_that_begin_with_a_dash(words, joined):
    assert gathered(words) == joined


def test_explain_and_list(run):
    code, out, _ = run(diagnose, "--explain", "BN101")
    assert code == 0
    assert out.startswith("BN101  epsilon outside the root\n")
    code, out, _ = run(diagnose, "--list")
    assert (code, len(out.splitlines())) == (0, len(exporter.diagnosis.mistakes.MISTAKES))
    code, _, err = run(diagnose, "--explain", "BN1")
    assert code == 2
    assert "there is no mistake 'BN1'" in err


@pytest.mark.parametrize(("words", "message"), [
    ([], "BUNDLE, --input and --output are needed"), (["--input", "1", "--output"], "expected one argument"),
    (["--layer", "x", "--input", "1", "--output", "1"], "there is no layer 'x'"),
    (["--input", "1,2,3", "--output", "1,2,3", "--axis", "7"], "fits none of the 2"),
    (["--layer", "one", "--input", "one.npy", "--output", "1"], "one.npy: no such file"),
    (["--input", "1, 2", "--output", "1"], "the input has shape [2], the output []")])
def test_diagnose_usage(run, questions, words, message):
    code, out, err = run(diagnose, questions, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


# bn-eval

@pytest.mark.parametrize("fast", [False, True])
def test_eval_is_evaluate(run, several, tmp_path, fast):
    path, bundle = several
    x = np.random.default_rng(0).normal(size=(7, 3, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code, out, err = run(evaluate, path, tmp_path / "x.npy", tmp_path / "y.npy", "--layer", "a", *(["--fast"] if fast else []))
    assert (code, out, err) == (0, "", "")
    assert np.array_equal(np.load(tmp_path / "y.npy"), exporter.evaluate(bundle["a"], x, fast=fast))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("most", [1, 5, 16, 1000])
@pytest.mark.parametrize(("shape", "axis"), [((3, 5, 4), None), ((2, 4, 3, 5), 1), ((1, 4, 9), 1), ((0, 4), None), ((4,), 0)])
def test_eval_in_blocks_of_any_size(tmp_path, monkeypatch, shape, axis, most):
    monkeypatch.setattr(streaming, "blocks", lambda shape, blocks=streaming.blocks: blocks(shape, most))
    layer = make_layer(seed=7)
    for order in "CF":
        x = np.asarray(np.random.default_rng(1).normal(size=shape).astype(np.float32), order=order)
        np.save(tmp_path / "x.npy", x)
        streaming.evaluate_file(layer, np.load(tmp_path / "x.npy", mmap_mode="r" if x.size else None), tmp_path / "y.npy", axis=axis)
        assert np.array_equal(np.load(tmp_path / "y.npy"), exporter.evaluate(layer, x, axis=axis))


def test_blocks_cover_an_array_in_order():
    for shape in ((3, 4, 5), (1,), (7,), (2, 1, 3), ()):
        numbers = np.arange(int(np.prod(shape))).reshape(shape)
        for most in (1, 2, 7, 60):
            parts = [numbers[part] for part in streaming.blocks(shape, most)]
            assert np.concatenate([part.ravel() for part in parts]).tolist() == numbers.ravel().tolist()
            assert all(part.size <= most for part in parts)


def test_several_axes_are_cut_with_the_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "blocks", lambda shape, blocks=streaming.blocks: blocks(shape, 4))
    layer = make_layer(shape=(2, 3), axis=(1, 3), seed=3)
    x = np.random.default_rng(1).normal(size=(3, 2, 2, 3)).astype(np.float32)
    streaming.evaluate_file(layer, x, tmp_path / "y.npy")
    assert np.array_equal(np.load(tmp_path / "y.npy"), layer(x))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "<i4", "|u1"])
def test_the_output_has_the_inputs_type(run, several, tmp_path, dtype):
    path, bundle = several
    x = np.arange(20).reshape(5, 4).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    code, _, _ = run(evaluate, path, tmp_path / "x.npy", tmp_path / "y.npy", "--layer", "a")
    y = np.load(tmp_path / "y.npy")
    assert code == 0
    assert y.dtype == (np.dtype(dtype).newbyteorder("<") if dtype[1] == "f" else np.float32)
    assert np.array_equal(y, bundle["a"](x))


def test_eval_takes_little_memory_for_a_large_input(several, tmp_path):
    """A sparse file of 256 MiB goes through a process that may have 150 MiB of data."""
    pytest.importorskip("resource")
    path, _ = several
    shape = (1 << 24, 4)
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + 4 * 4 * (1 << 24))
    program = ("import resource, sys, pathlib, numpy as np, exporter; from exporter.pipeline import streaming\n"
               "layer = exporter.load(sys.argv[1])['a']; source = np.load(sys.argv[2], mmap_mode='r')\n"
               "class Sink:\n    def write(self, data): pass\n"
               "import contextlib, exporter.files.output as output\n"
               "output.replacing = lambda path: contextlib.nullcontext(Sink())\n"
               "resource.setrlimit(resource.RLIMIT_DATA, (150 << 20, 150 << 20))\n"
               "streaming.evaluate_file(layer, source, pathlib.Path('unused'), fast=True); print('done')")
    done = subprocess.run([sys.executable, "-c", program, str(path), str(tmp_path / "x.npy")], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize(("words", "code", "message"), [
    (["x.npy", "y.npy"], 2, "the bundle has 3 layers"), (["x.npy", "y.npy", "--layer", "q"], 2, "there is no layer 'q'"),
    (["x.npy", "x.npy", "--layer", "a"], 1, "would replace the input"), (["x.npy", "no/y.npy", "--layer", "a"], 1, "folder does not exist"),
    (["x.npy", "y.npy", "--layer", "c"], 2, "axis"), (["double.npy", "y.npy", "--layer", "a", "--fast"], 2, "float32"),
    (["text.npy", "y.npy", "--layer", "a"], 2, "expected an array of numbers as input"),
    (["b.json", "y.npy", "--layer", "a"], 1, "cannot be read"),
    (["gone.npy", "y.npy", "--layer", "a"], 1, "no such file"),
    (["x.npy", "y.npy", "--layer", "a", "--axis", "0"], 2, "channels along axis 0")])
def test_eval_refuses(run, several, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((3, 4), np.float32))
    np.save("double.npy", np.ones((3, 4)))
    np.save("text.npy", np.array([["a"] * 4]))
    got, out, err = run(evaluate, "b.json", *words)
    assert (got, out) == (code, "")
    assert message in err
    assert not (tmp_path / "y.npy").exists()
    assert not list(tmp_path.glob(".*"))


# bn-verify

def test_the_conformance_file_verifies(run):
    code, out, _ = run(verify, CONFORMANCE)
    assert code == 0
    layers = len(json.loads(CONFORMANCE.read_text("utf-8"))["layers"])
    assert f"{layers} of {layers} layers pass" in out


def test_a_changed_vector_is_found(run, several):
    path, _ = several
    content = json.loads(path.read_text())
    content["layers"][1]["vectors"]["output"][0][2] += 1
    path.write_text(json.dumps(content))
    code, out, _ = run(verify, path)
    assert code == 1
    assert "2 of 3 layers pass" in out
    code, out, _ = run(verify, path, "--json")
    checks = json.loads(out)["vectors"]
    assert [check["passed"] for check in checks] == [True, False, True]
    assert checks[1]["times_the_bound"] > 1000


def test_beside_a_comparison_only_the_vectors_that_fail_are_shown(run, several, tmp_path):
    """All of them would bury it; without one that fails, none is mentioned."""
    path, bundle = several
    content = json.loads(path.read_text())
    content["layers"][1]["vectors"]["output"][0][2] += 1
    (tmp_path / "changed.json").write_text(json.dumps(content))
    code, out, _ = run(verify, tmp_path / "changed.json", path)
    shown, _, compared = out.partition("b.json: ")
    assert (code, compared != "") == (1, True)
    assert shown.splitlines()[0] == "the bundle's own vectors: 2 of 3 layers pass"
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["layer", bundle.paths()[1]]


@pytest.mark.parametrize(("times", "expected"), [(0.9, 0), (1.2, 1), (-0.9, 0), (-1.2, 1)])
def test_a_vector_may_be_off_by_the_bound_and_no_more(run, tmp_path, times, expected):
    """docs/batchnorm.md says how far a runtime may be off."""
    layer = make_layer()
    exporter.write(make_bundle(layer), tmp_path / "b.json")
    content = json.loads((tmp_path / "b.json").read_text("utf-8"))
    given = content["layers"][0]["vectors"]
    bound = vectors.bound(layer, np.array(given["input"]))[0, 0]
    given["output"][0][0] = float(np.float32(given["output"][0][0] + times * bound))
    (tmp_path / "b.json").write_text(json.dumps(content), "utf-8")
    assert run(verify, tmp_path / "b.json")[0] == expected


def test_a_bundle_without_vectors_says_so(run, tmp_path):
    from exporter.targets.shared.options import WriteOptions

    exporter.write(make_bundle(), tmp_path / "b.json", WriteOptions(vectors=False))
    code, out, _ = run(verify, tmp_path / "b.json")
    assert code == 0
    assert "1 without vectors" in out


def test_what_is_odd_about_a_bundle_is_said_when_it_is_verified(run, tmp_path):
    odd = make_layer().replace(moving_variance=np.float32([1, -1e-12, 1, 1]))
    exporter.write(make_bundle(odd), tmp_path / "b.json")
    code, _, err = run(verify, tmp_path / "b.json")
    assert (code, "warning: encoder/bn_1: moving_variance[1] is slightly negative" in err) == (0, True)


def test_against_a_checkpoint(run, tmp_path):
    exporter.write(exporter.read(KERAS), tmp_path / "b.json")
    code, out, _ = run(verify, tmp_path / "b.json", KERAS)
    assert code == 0
    assert "the 8 layers are equal bit for bit" in out
    code, out, _ = run(verify, tmp_path / "b.json", KERAS.with_name("model.h5"))
    assert code == 0, out


def test_what_differs_is_told_by_layer_parameter_and_channel(run, several, tmp_path):
    path, bundle = several
    a, b = bundle["a"], bundle["b"]
    gamma = a.gamma.copy()
    gamma[2] = np.nextafter(gamma[2], np.float32(9), dtype=np.float32)
    other = make_bundle(a.replace(gamma=gamma, epsilon=0.01), b.replace(beta=None), make_layer("d", seed=1))
    exporter.write(other, tmp_path / "other.json")
    code, out, _ = run(verify, path, tmp_path / "other.json")
    assert code == 1
    name = "other.json"
    for line in (f"{name}: 4 layers differ\n", f"a: BN105 another epsilon: epsilon: 0.001 in the bundle, 0.01 in {name}",
                 "gamma: 1 of 4 channels differ, by up to 1 ULP (channel 2",
                 f"b: BN132 beta left out: beta: there in the bundle, none in {name}", f"c: not in {name}", "d: not in the bundle"):
        assert line in out
    code, out, _ = run(verify, path, tmp_path / "other.json", "--json")
    differences = json.loads(out)["differences"]
    found = [(one["path"], one["what"]) for one in differences]
    assert found == [("a", "epsilon"), ("a", "gamma"), ("b", "beta"), ("c", "missing"), ("d", "added")]
    assert differences[1]["ulp"] == 1


def test_against_a_state_of_another_framework(run, several, tmp_path):
    path, bundle = several
    state = torch_state(bundle["a"], bundle["b"].replace(gamma=bundle["b"].beta, beta=bundle["b"].gamma), b="z")
    state |= {name: values.reshape(-1) for name, values in torch_state(bundle["c"]).items()}
    np.savez(tmp_path / "state.npz", **state)
    code, out, err = run(verify, path, tmp_path / "state.npz", "--map", "b=z")
    assert (code, err) == (1, "")
    assert "3 of 3 layers paired: 1 by --map, 2 by path\n  b = z (by --map)\n" in out
    assert "  b: BN133 gamma and beta swapped: gamma (z.weight) is the layer's beta" in out
    assert "note: state.npz contains no epsilon, so it was not compared: set eps=0.001, momentum=0.01\n" in out
    assert out.endswith("state.npz: 1 layer differs\n")
    code, out, _ = run(verify, path, tmp_path / "state.npz", "--json")
    report = json.loads(out)
    assert [(pair["path"], pair["other"], pair["how"]) for pair in report["pairs"]][1] == ("b", "z", "by content")
    assert {one["code"] for one in report["differences"]} == {"BN133"}
    assert report["to_set"] == ["set eps=0.001, momentum=0.01"]


def test_two_models(run):
    code, out, _ = run(verify, KERAS, KERAS.with_name("model.h5"))
    assert code == 0
    assert "own vectors" not in out


def test_an_epsilon_of_the_architecture_is_compared(run, tmp_path):
    """It is assumed, and known."""
    weights, layer = KERAS.with_name("model.weights.h5"), exporter.read(KERAS)["stem_bn"]
    exporter.write(make_bundle(layer.replace(epsilon=0.25)), tmp_path / "b.json")
    code, out, _ = run(verify, tmp_path / "b.json", weights, "--layers", "stem_bn", "--architecture", KERAS)
    assert code == 1
    assert "epsilon: 0.25 in the bundle, 0.001 in model.weights.h5" in out
    assert "does not contain epsilon" not in out


def test_a_model_that_does_not_say_epsilon(run, tmp_path):
    weights, kept = KERAS.with_name("model.weights.h5"), ["stem_bn", "head_bn"]
    only = [word for path in kept for word in ("--layers", path)]
    exporter.write(exporter.read(KERAS, layers=kept), tmp_path / "b.json")
    code, out, err = run(verify, tmp_path / "b.json", weights, *only)
    assert (code, err) == (0, ""), out
    assert "does not contain epsilon (" in out
    assert out.endswith("the 2 layers are equal bit for bit\n")
    code, out, _ = run(verify, tmp_path / "b.json", weights, *only, "--epsilon", "0.5")
    assert code == 1
    assert "epsilon: 0.001 in the bundle, 0.5 in model.weights.h5" in out
    code, out, _ = run(verify, tmp_path / "b.json", weights, *only, "--epsilon", "1")
    assert (code, "epsilon: 0.001 in the bundle, 1 in model.weights.h5" in out) == (1, True), "which stands for an unknown one elsewhere"


def test_a_page_of_numbers_that_are_none(run, tmp_path):
    """A channel whose number is no finite one has no place in the drawing; the others have theirs."""
    layers = [make_layer(name, shape=(6,), seed=seed, epsilon=1e-5) for seed, name in enumerate(("a", "b"))]
    exporter.write(make_bundle(*layers), tmp_path / "b.json")
    state = torch_state(*layers)
    state["a.weight"] = np.float32([1, np.inf, 2, np.nan, -np.inf, 0])
    np.savez(tmp_path / "s.npz", **state)
    code, _, _ = run(verify, tmp_path / "b.json", tmp_path / "s.npz", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    circles = re.findall(r'<circle cx="([-\w.]+)" cy="([-\w.]+)"', text)
    assert code == 1
    assert len(circles) == 3
    assert all(number.lstrip("-").isdigit() for circle in circles for number in circle)
    assert [re.search(rf'<bdi>{name}</bdi>.*?class="(\w+)"', text, re.DOTALL)[1] for name in "ab"] == ["differs", "equal"]


def test_two_checkpoints_as_a_page(run, several, tmp_path):
    path, bundle = several
    a, b, c = bundle
    odd = c.replace(path="<script>x", beta=np.full(c.shape, 3, np.float32))
    other = make_bundle(a.replace(gamma=a.beta, beta=a.gamma, epsilon=0.25), b, odd)
    exporter.write(other, tmp_path / "other.json")
    code, out, err = run(verify, path, tmp_path / "other.json", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert (code, err) == (1, "")
    assert out.splitlines()[-1] in text
    assert f"<title>{path.name} and other.json" in text
    assert "BN133" in text
    assert text.count("<figure>") == 3
    assert "&lt;script&gt;x" in text
    assert "<script" not in text
    assert "default-src 'none'" in text
    code, _, _ = run(verify, path, path, tmp_path / "report.html")
    assert code == 0
    assert "the 3 layers are equal bit for bit" in (tmp_path / "report.html").read_text("utf-8")
    for words, message in (([tmp_path / "report.txt"], "expected a REPORT.html"), ([tmp_path / "no" / "r.html"], "folder"),
                           ([path.with_suffix(".html"), "--live"], "a comparison is reported as an .html file; --live writes no report")):
        code, _, err = run(verify, path, tmp_path / "other.json", *words)
        assert code in (1, 2)
        assert message in err


@pytest.mark.parametrize(("times", "absent", "expected"), [
    ((0.5, 1.0), [], (0, "the real layers: 2 of 2 layers pass\n")), ((0.5, 1.5), [], (1, "the real layers: 1 of 2 layers pass\n")),
    ((0.5,), ["b"], (1, "the real layers: 1 of 1 layers pass; 1 not found in the model: b\n")),
    ((math.inf,), list("abcdef"), (1, "the real layers: 0 of 1 layers pass; 6 not found in the model: a, b, c, d, e\n"))])
def test_what_is_said_of_the_real_layers(run, several, monkeypatch, times, absent, expected):
    checks = [Check(path=f"layer{number}", numbers=8, dtype="float32", ulp=1.0, error=0.25, times_the_bound=part)
              for number, part in enumerate(times)]
    asked = []
    monkeypatch.setattr(live, "check_live", lambda bundle, place: asked.append((bundle.paths(), place.name)) or (checks, absent))
    code, out, err = run(verify, several[0], KERAS, "--live")
    assert asked == [(exporter.load(several[0]).paths(), KERAS.name)]
    title, *rows = out[out.index("the real layers"):].splitlines(keepends=True)
    assert (code, title, err) == (*expected, "")
    assert [row.split() for row in rows[1:]] == [[each.path, "8", "float32", "1", "0.25", f"{each.times_the_bound:g}"] for each in checks]
    code, out, _ = run(verify, several[0], KERAS, "--live", "--json")
    report = json.loads(out)
    assert (code, report["not_found_live"]) == (expected[0], absent)
    assert [(row["passed"], float(row["times_the_bound"])) for row in report["live"]] == [(part <= 1, part) for part in times]


@pytest.mark.parametrize("suffix", [".json", ".npz", ".safetensors"])
@pytest.mark.parametrize("epsilons", [(0.001, 0.01), (0.001, 1.0)])
def test_an_epsilon_that_was_given_when_a_bundle_was_made_is_compared(run, tmp_path, suffix, epsilons):
    """The bundle contains it, unlike the model, of which everything else is compared."""
    one, other = (tmp_path / f"{name}{suffix}" for name in "ab")
    for path, epsilon in zip((one, other), epsilons, strict=True):
        exporter.write(make_bundle(make_layer("bn", epsilon=epsilon, assumed=("epsilon",))), path)
    code, out, _ = run(verify, one, other)
    assert (code, "epsilon" in out, "does not contain epsilon" in out) == (1, True, False)
    assert run(verify, one, one)[0] == 0


def test_verify_refuses(run, tmp_path):
    code, _, err = run(verify, KERAS, "--live")
    assert code == 2
    assert "--live requires the MODEL whose layers to run" in err
    code, _, err = run(verify, KERAS)
    assert code == 1
    assert "this is not a bundle" in err
    assert "bn-export MODEL out.json" in err
    for missing in ([], [KERAS], [KERAS, "--live"]):
        code, _, err = run(verify, tmp_path / "missing.json", *missing)
        assert (code, err.splitlines()[0]) == (1, "error: missing.json: no such file or folder")
    code, _, err = run(verify, CONFORMANCE, "--map", "a=b")
    assert (code, "--map requires OTHER" in err) == (2, True)
    for pair in ("a", "=b", "a=", "="):
        code, _, err = run(verify, CONFORMANCE, KERAS, "--map", pair)
        assert (code, f"--map {pair}: expected OLD=NEW" in err) == (2, True)
    for words in ((tmp_path / "none.json", KERAS), (CONFORMANCE, tmp_path / "none.h5")):
        code, _, err = run(verify, *words)
        assert (code, "no such file or folder" in err) == (1, True)


# all of them

@pytest.mark.parametrize("name", ["diagnose", "eval", "verify"])
def test_help_and_version_need_nothing_but_python(name):
    for word, said in (("--help", f"usage: bn-{name}"), ("--version", f"bn-{name} {exporter.__version__}")):
        module = "evaluate" if name == "eval" else name
        program = (f"import sys; sys.modules['numpy'] = None; sys.argv = ['x', {word!r}]; "
                   f"from exporter.commands.{module} import {name}_command; {name}_command()")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(said)


def test_the_commands_that_are_installed(monkeypatch, capsys):
    monkeypatch.setattr(shared, "_end", lambda code: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    scripts = re.findall(r'^(bn-\w+) = "([\w.]+):(\w+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert len(scripts) == 4
    for name, module, function in scripts:
        monkeypatch.setattr(sys, "argv", [name, "--version"])
        with pytest.raises(SystemExit) as done:
            getattr(importlib.import_module(module), function)()
        gc.enable()
        assert (done.value.code, capsys.readouterr().out) == (0, f"{name} {exporter.__version__}\n")

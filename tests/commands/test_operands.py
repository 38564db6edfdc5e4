""""-" as an operand: standard input where a file is read, standard output where one is written; at both ends of each command."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

import exporter
from exporter.commands.diagnose import diagnose
from exporter.commands.evaluate import evaluate
from exporter.commands.export import export
from exporter.commands.verify import verify
from exporter.targets import SUFFIXES
from tests.make import processes
from tests.make.configs import functional, layer
from tests.make.h5_files import named, parameters, write
from tests.make.layers import ROOT, make_bundle, make_layer
from tests.make.v3_files import norm, sequential

SAMPLES = ROOT / "sample_models"
H5 = SAMPLES / "encoder_keras3" / "model.h5"


@pytest.fixture
def piped():
    """piped(data, command, *words) -> the finished process of a command with these bytes on standard input."""

    def call(data, command, *words):
        program = f"from exporter.commands import {command.__module__.rpartition('.')[2]} as it; it.{command.__name__}_command()"
        program = program.replace("evaluate_command", "eval_command")
        return processes.run(program, *words, data=data)

    return call


@pytest.fixture
def bundle(tmp_path):
    made = make_bundle(make_layer("a", shape=(4,), seed=1))
    exporter.write(made, tmp_path / "b.json")
    return tmp_path / "b.json", made


OFTEN = (".json", ".npz", ".h", ".zip")


@pytest.mark.parametrize("suffix", [pytest.param(suffix, marks=[pytest.mark.thorough("much time")] * (suffix not in OFTEN))
                                    for suffix in SUFFIXES if suffix != "/"])
def test_each_kind_of_file_goes_to_standard_output_as_it_goes_to_disk(suffix, piped, tmp_path):
    pytest.importorskip("onnx") if suffix == ".onnx" else None
    done = piped(H5.read_bytes(), export, "-", "-", "--suffix", suffix)
    assert (done.returncode, done.stderr) == (0, b"")
    (tmp_path / "<stdin>").write_bytes(H5.read_bytes())
    exporter.write(exporter.read(tmp_path / "<stdin>"), tmp_path / f"out{suffix}")
    assert done.stdout == (tmp_path / f"out{suffix}").read_bytes()
    if suffix in (".json", ".npz", ".safetensors"):
        assert exporter.load(done.stdout).layers == exporter.read(H5).layers


@pytest.mark.parametrize("path", [
    "no_beta_keras208/model.h5", "encoder_keras3/model.keras", "hand_made_tf115/frozen.pb",
    *(pytest.param(path, marks=pytest.mark.thorough("much time")) for path in (
        "encoder_keras3/model.weights.h5", "named_arrays_tfkeras/weights.npz", "bundles_010/encoder.npz"))])
def test_each_kind_of_single_file_comes_from_standard_input(path, piped):
    data = (SAMPLES / path).read_bytes()
    done = piped(data, export, "-", "-", "--epsilon", "0.5", "--skip-unresolved")
    assert done.returncode == 0, done.stderr
    assert exporter.load(done.stdout).layers == exporter.read(SAMPLES / path, epsilon=0.5, skip_unresolved=True).layers


def test_a_model_of_several_files_does_not(piped):
    done = piped((SAMPLES / "hand_made_tf115" / "model.ckpt.index").read_bytes(), export, "-", "-")
    assert done.returncode == 1
    assert b"the names of the data files are derived from its own, NAME.index" in done.stderr
    assert done.stdout == b""


def test_a_folder_does_not_go_to_standard_output(run):
    code, out, err = run(export, H5, "-", "--suffix", "/")
    assert (code, out) == (2, "")
    assert err == ("error: OUT is -, and a folder cannot be written to standard output\n"
                   "hint: --suffix .zip writes the same files as one archive\n")
    code, _, err = run(export, H5, "out.json", "--suffix", ".npz")
    assert code == 2
    assert "--suffix requires --out-dir DIR or - as OUT" in err


def test_a_terminal_gets_text_only(run, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, out, err = run(export, H5, "-", "--suffix", ".npz")
    assert (code, out) == (2, "")
    assert "standard output is a terminal" in err


def test_standard_input_holds_one_file(run):
    for command, *words in ((verify, "-", "-"), (evaluate, "-", "-", "y.npy"), (diagnose, "-", "--input", "-", "--output", "1")):
        code, out, err = run(command, *words)
        assert (code, out) == (2, "")
        assert err == "error: expected - at most once: standard input contains only one file\nhint: for a file of this name, give ./-\n"


def test_outputs_are_written_to_local_files_alone(run, bundle):
    code, out, err = run(evaluate, bundle[0], "x.npy", "s3://bucket/y.npy", "--layer", "a")
    assert (code, out, err) == (2, "", "error: expected a local file as OUT, got a URL\nhint: copy it afterward\n")


def test_a_bundle_is_verified_and_compared_from_standard_input(bundle, piped, tmp_path):
    path, _ = bundle
    done = piped(path.read_bytes(), verify, "-")
    assert done.returncode == 0
    assert b"1 of 1 layers pass" in done.stdout
    for words in (("-", path), (path, "-"), ("-", path, tmp_path / "report.html")):
        done = piped(path.read_bytes(), verify, *words)
        assert done.returncode == 0, done.stderr
        assert b"equal bit for bit" in done.stdout
    assert b"standard input" in (tmp_path / "report.html").read_bytes()


def test_an_array_goes_through(bundle, piped, tmp_path):
    path, made = bundle
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "x.npy", x)
    wanted = exporter.evaluate(made["a"], x)
    for data, words in (((tmp_path / "x.npy").read_bytes(), (path, "-", "-")), (path.read_bytes(), ("-", tmp_path / "x.npy", "-"))):
        done = piped(data, evaluate, *words)
        assert (done.returncode, done.stderr) == (0, b"")
        np.testing.assert_array_equal(np.load(io.BytesIO(done.stdout)), wanted)


def test_numbers_to_diagnose_come_from_standard_input(bundle, piped, tmp_path):
    path, made = bundle
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    y = exporter.evaluate(made["a"], x)
    np.save(tmp_path / "x.npy", x)
    both = io.BytesIO()
    np.savez(both, input=x, output=y, other=x)
    text = json.dumps(y.astype(float).tolist()).encode()
    for data, words in ((text, ("--input", tmp_path / "x.npy", "--output", "-")), (both.getvalue(), ("--input", "-", "--output", "-")),
                        (both.getvalue(), ("--input", "-:other", "--output", "-:output"))):
        done = piped(data, diagnose, path, *words)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(b"a: same")
    done = piped(both.getvalue(), diagnose, path, "--input", "-", "--output", "-:nothing")
    assert done.returncode == 2
    assert b"choose the output: -:NAME" in done.stderr
    done = piped(path.read_bytes(), diagnose, "-", "--input", "[0, 1, 2, 3]", "--output", str(y[0].tolist()))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def half_bad(tmp_path):
    spoilt = parameters(seed=2)
    spoilt["moving_variance"][0] = -1
    layers = {"good": parameters(seed=1), "bad": spoilt}
    return write(tmp_path / "half.h5", {name: named(name, values) for name, values in layers.items()},
                 sequential("net", *(norm(name, epsilon=0.01) for name in layers)), keras_version="2.2.4", backend="tensorflow")


def test_a_layer_that_its_model_calls_in_training_is_compared_nevertheless(run, tmp_path):
    """With its stored statistics, which are what a port has; to export or evaluate it, they have to be asked for."""
    model = functional((layer("InputLayer", "x"), ()), (norm("bn"), ("x",)), outputs=("bn",))
    model["config"]["layers"][1]["inbound_nodes"][0][0][3]["training"] = True
    path = write(tmp_path / "m.h5", {"bn": named("bn", parameters(seed=1))}, model, keras_version="2.2.4", backend="tensorflow")
    right = exporter.read(path, stored_statistics=True)["bn"]([[1, 2, 3]]).tolist()
    assert run(diagnose, path, "--input", "1,2,3", "--output", str(right))[0] == 0
    assert run(verify, path, path)[0] == 0
    assert run(export, path, tmp_path / "out.json")[0] == 1


def test_a_sound_layer_beside_an_unusable_one_is_evaluated(half_bad, run, tmp_path):
    good = exporter.read(half_bad, skip_unresolved=True)["good"]
    x = np.ones((2, good.channels), np.float32)
    np.save(tmp_path / "x.npy", x)
    code, _, err = run(evaluate, half_bad, tmp_path / "x.npy", tmp_path / "y.npy", "--layer", "good")
    assert code == 0, err
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), exporter.evaluate(good, x))
    code, _, err = run(evaluate, half_bad, tmp_path / "x.npy", tmp_path / "z.npy", "--layer", "bad")
    assert code == 1
    assert err.startswith("error: bad: moving_variance[0] is -1")
    assert err.endswith("hint: there is no inference to compute; others are good\n")
    code, _, err = run(evaluate, half_bad, tmp_path / "x.npy", tmp_path / "z.npy", "--layers", "bad")
    assert (code, err.endswith("hint: there is no inference to compute\n")) == (1, True)
    code, _, err = run(evaluate, half_bad, tmp_path / "x.npy", tmp_path / "z.npy")
    assert code == 2
    assert "the bundle has 2 layers" in err
    assert not (tmp_path / "z.npy").exists()


def test_an_unusable_layer_of_a_model_is_not_compared(half_bad, run, tmp_path):
    exporter.write(exporter.read(half_bad, skip_unresolved=True), tmp_path / "good.json")
    code, out, err = run(verify, half_bad, tmp_path / "good.json")
    assert "warning: bad is not compared: moving_variance[0] is -1" in err, (code, out)

"""bn-export as people call it: what it prints, its exit codes, every refusal with its words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import exporter
from exporter.commands import export as cli
from exporter.commands import shared
from exporter.targets import SUFFIXES
from tests.make.layers import ROOT, make_bundle, make_layer

SAMPLES = ROOT / "sample_models"
KERAS = SAMPLES / "encoder_keras3" / "model.keras"


def test_help_and_version_need_nothing_but_python():
    program = ("import sys; from exporter.commands import export; sys.argv = ['bn-export', {!r}]; sys.modules['numpy'] = None; "
               "export.export_command()")
    for word, said in (("--help", "usage: bn-export"), ("--version", f"bn-export {exporter.__version__}")):
        done = subprocess.run([sys.executable, "-c", program.format(word)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(said)


def test_help_names_every_option_and_fits_the_readme(run):
    code, out, _ = run(cli.export, "--help")
    assert code == 0
    for option in ("--epsilon", "--architecture", "--skip-unresolved", "--layers", "--effective-epsilon", "--json",
                   "--no-vectors", "--ema", "--names", "--folded", "--out-dir", "--suffix", "--jobs", "--dask", "--force", "--report"):
        assert option in out
    for suffix in SUFFIXES:
        assert f" {suffix}" in out or suffix == "/"


def written(run, tmp_path, *words):
    """The bundle that a command line writes, whose words stand in the order given."""
    (tmp_path / "o.json").unlink(missing_ok=True)
    code, out, err = run(cli.export, *words)
    assert (code, out, err) == (0, "", "")
    return exporter.load(tmp_path / "o.json")


def test_what_is_odd_about_a_model_is_said_for_one_and_for_many(run, tmp_path):
    odd = make_layer().replace(moving_variance=np.float32([1, -1e-12, 1, 1]))
    exporter.write(make_bundle(odd), tmp_path / "m.json")
    said = "encoder/bn_1: moving_variance[1] is slightly negative"
    code, _, err = run(cli.export, tmp_path / "m.json", tmp_path / "o.json")
    assert (code, err.startswith(f"warning: {said}")) == (0, True)
    code, _, err = run(cli.export, tmp_path / "m.json", "--out-dir", tmp_path / "d", "--jobs", "1")
    assert code == 0
    assert f"warning: {tmp_path / 'm.json'}: {said}" in err
    assert err.endswith("exported 1, skipped 0, refused 0\n")


def test_options_stand_anywhere_and_may_be_abbreviated(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ([KERAS, "o.json", "--layers", "head_bn", "--no-vectors"], [KERAS, "--layers", "head_bn", "o.json", "--no-vectors"],
                  ["--layers", "head_bn", KERAS, "--no-vectors", "o.json"], ["--no-vec", "--lay=head_bn", KERAS, "o.json"]):
        bundle = written(run, tmp_path, *words)
        assert bundle.paths() == ["head_bn"]
        assert not bundle.vectors
    code, out, err = run(cli.export, KERAS, "--out-di", "d", "--job", "1", "--lay", "head_bn")
    assert (code, out, err) == (0, "", "exported 1, skipped 0, refused 0\n")
    assert exporter.load(tmp_path / "d" / "model.keras.json").paths() == ["head_bn"]


@pytest.mark.parametrize(("words", "said"), [
    (["o.json", "--json"], "--json lists the layers"), (["--json", "--out-dir", "d"], "--json lists the layers"),
    (["-v"], "--verbose requires OUT or --out-dir DIR"), (["--names", "torch"], "--names requires OUT"),
    (["--names", "keras"], "--names requires OUT"), (["--folded"], "--folded requires OUT"),
    (["--no-vectors"], "--no-vectors requires OUT"), (["o.json", "--jobs", "2"], "--jobs requires --out-dir DIR"),
    (["--force"], "--force requires --out-dir"), (["--report", "r.json"], "--report requires --out-dir"),
    (["o.json", "--suffix", ".npz"], "--suffix requires --out-dir"), (["--dask", "tcp://a:1"], "--dask requires --out-dir"),
    (["o.json", "p.json"], "expected MODEL and OUT, got 3 names"), ([""], "expected a file name, got an empty argument"),
    (["--out-dir", ""], "expected a file name, got an empty argument"),
    (["-", "--out-dir", "d"], "expected one model with -: standard input contains only one")])
def test_what_would_be_ignored_is_refused(words, said, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(cli.export, KERAS, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("jobs", ["0", "-1"])
def test_a_number_of_processes_that_is_none(run, tmp_path, jobs):
    code, _, err = run(cli.export, tmp_path / "m.json", "--out-dir", tmp_path / "d", "--jobs", jobs)
    assert (code, err) == (2, f"error: expected --jobs of at least 1, got {jobs}\n")
    assert not (tmp_path / "d").exists()


def test_exports_and_lists(run, tmp_path):
    code, out, err = run(cli.export, KERAS, tmp_path / "out.json")
    assert (code, out, err) == (0, "", "")
    assert exporter.load(tmp_path / "out.json").paths()[0] == "stem_bn"
    code, out, err = run(cli.export, KERAS)
    assert (code, err) == (0, "")
    assert out.startswith("model.keras (keras-archive, Keras ")
    assert "block_a/bn" in out
    code, out, _ = run(cli.export, KERAS, "--json")
    listed = json.loads(out)
    assert [layer["path"] for layer in listed["layers"]] == exporter.read(KERAS).paths()
    assert listed["layers"][0]["gamma"] == 6, "the count of its numbers"


def test_verbose_names_each_layer_on_stderr(run, tmp_path):
    code, out, err = run(cli.export, KERAS, tmp_path / "out.json", "-v")
    assert (code, out) == (0, "")
    assert "stem_bn: 6 channels, epsilon 0.001" in err


def test_the_same_model_gives_the_same_bytes(run, tmp_path):
    for name in ("a.json", "b.json"):
        run(cli.export, KERAS, tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "a.json").read_bytes()


def test_a_bundle_is_converted(run, tmp_path):
    run(cli.export, KERAS, tmp_path / "a.json")
    code, _, _ = run(cli.export, tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_epsilon_is_given_by_path_and_said_to_be_assumed(run, tmp_path):
    checkpoint = SAMPLES / "saved_model_tfkeras" / "checkpoint"
    code, _, err = run(cli.export, checkpoint, tmp_path / "out.json")
    assert code == 1
    assert "the file does not contain its epsilon" in err
    assert "hint: give it with --epsilon VALUE" in err
    assert "--architecture" in err
    assert not (tmp_path / "out.json").exists()
    code, _, err = run(cli.export, checkpoint, tmp_path / "out.json", "--epsilon", "0.002", "--epsilon", "first=0.5")
    assert code == 0, err
    bundle = exporter.load(tmp_path / "out.json")
    assert bundle["first"].epsilon == 0.5
    assert {layer.epsilon for layer in bundle if layer.path != "first"} == {0.002}
    assert all("epsilon" in layer.assumed for layer in bundle)


def test_unresolved_layers_are_skipped_on_request_only(run, tmp_path):
    weights = SAMPLES / "encoder_keras3" / "model.weights.h5"
    code, _, err = run(cli.export, weights, tmp_path / "out.json", "--epsilon", "0.001")
    assert code == 1
    assert "cannot be resolved" in err
    code, _, err = run(cli.export, weights, tmp_path / "out.json", "--epsilon", "0.001", "--skip-unresolved")
    assert code == 0
    assert "warning: skipped" in err
    assert exporter.load(tmp_path / "out.json").skipped


def test_layers_are_chosen_by_glob(run, tmp_path):
    code, _, _ = run(cli.export, KERAS, tmp_path / "out.json", "--layers", "block_*/*", "--layers", "head_bn")
    assert code == 0
    assert exporter.load(tmp_path / "out.json").paths() == ["block_a/bn", "block_b/bn", "head_bn"]
    code, _, err = run(cli.export, KERAS, tmp_path / "out.json", "--layers", "nothing*")
    assert code == 2
    assert "matches none of the batch norms stem_bn, block_a/bn" in err


def test_the_effective_epsilon_is_told_and_written_on_request(run, tmp_path):
    exporter.write(make_bundle(make_layer("a", epsilon=1e-7, effective_epsilon=1.001e-5), make_layer("b")), tmp_path / "m.json")
    code, _, err = run(cli.export, tmp_path / "m.json", tmp_path / "out.json")
    assert code == 0
    assert "1 of 2 layers ran in a fused kernel that used epsilon 1.001e-05" in err
    code, _, err = run(cli.export, tmp_path / "m.json", tmp_path / "out.json", "--effective-epsilon")
    assert (code, err) == (0, "")
    assert exporter.load(tmp_path / "out.json")["a"].epsilon == 1.001e-5


@pytest.mark.parametrize(("content", "words"), [
    (b"", "the file is empty (0 bytes)"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    (b"<!DOCTYPE html><html>", "HTML or XML page"), (b"\x80\x04\x95abc", "pickle, which is never loaded"), (b"\x1f\x8b\x08", "gzip file"),
    (b"PK\x05\x06" + bytes(18), "this zip archive is not a .keras model and contains no supported model"),
    (b"\x93NUMPY\x01\x00", ".npy file"),
    (b"backend: theano\n", "YAML"),
    (b"\x1c\x00\x00\x00TFL3" + bytes(50), "TFLite model"), (b"\x89HDF\r\n\x1a", "cut short"), (b"\x89HDF\n\x1a\n" + bytes(99), "text mode"),
    (b'{"a": 1}', "contains no weights"), (b"random words, no model", "this is a text file"),
    (bytes(range(200)), "not a model file of Keras or TensorFlow"),
    (b"\xff\xd8\xff\xe0" + bytes(9), "a JPEG image"), (b"BZh91AY", "bzip2 file"),
    ("0 Katze\n1 Hündin".encode()[:12], "this is a text file")])
def test_what_is_no_model_is_named(content, words, run, tmp_path):
    (tmp_path / "model.h5").write_bytes(content)
    code, out, err = run(cli.export, tmp_path / "model.h5", tmp_path / "out.json")
    assert (code, out) == (1, "")
    assert err.startswith("error: model.h5: ")
    assert words in err
    assert sorted(os.listdir(tmp_path)) == ["model.h5"]


@pytest.mark.parametrize("pointer", ["saved_model.pb", "keras_metadata.pb", "variables/variables.index",
                                     "variables/variables.data-00000-of-00001"])
def test_a_file_of_a_folder_that_was_not_fetched_is_named(pointer, run, tmp_path):
    model = shutil.copytree(SAMPLES / "saved_model_tfkeras" / "saved_model", tmp_path / "model")
    (model / pointer).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 100\n")
    code, _, err = run(cli.export, model, tmp_path / "out.json")
    assert code == 1
    assert err.startswith(f"error: model: {pointer.rpartition('/')[2]}: this is a Git LFS pointer")


@pytest.mark.parametrize("cut", [1, 8, 100, 5000, 70000])
def test_a_truncated_file_is_told(cut, run, tmp_path):
    for name in ("model.h5", "model.keras"):
        whole = (SAMPLES / "encoder_keras3" / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-cut] if cut < 5000 else whole[:cut])
        code, _, err = run(cli.export, tmp_path / name, tmp_path / "out.json")
        assert code == 1, err
        assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(("words", "said", "code"), [
    (["nosuch.h5", "out.json"], "no such file", 1), ([KERAS, "no/such/out.json"], "its folder does not exist", 1),
    ([KERAS, "out.xyz"], "unknown suffix '.xyz'", 2),
    ([KERAS, "out.json", "--epsilon", "x"], "expected a number of 0 or more for --epsilon", 2),
    ([KERAS, "out.json", "--epsilon", "-1"], "a number of 0 or more", 2),
    ([KERAS, "out.json", "--epsilon", "nothing=1"], "matches none", 2),
    ([KERAS, "out.json", "--nothing"], "unrecognized arguments", 2), ([], "required: MODEL", 2),
    ([".", "../out.json"], "this is a folder", 1)])
def test_usage_and_paths(words, said, code, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, out, err = run(cli.export, *words)
    assert (got, out) == (code, "")
    assert said in err
    assert os.listdir(tmp_path) == []


def test_names_from_a_file_are_printed_harmlessly(run, tmp_path):
    exporter.write(make_bundle(make_layer("bad\x1b[31m\u202ename")), tmp_path / "m.json")
    code, out, _ = run(cli.export, tmp_path / "m.json")
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert r"bad\x1b[31m\u202ename" in out


def test_warnings_are_counted_after_twenty(capsys):
    shared.warn([f"number {n}" for n in range(30)])
    err = capsys.readouterr().err
    assert err.count("warning: ") == 21
    assert "and 10 more like these" in err


def test_a_closed_pipe_is_no_traceback():
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m exporter {KERAS} | head -1"], capture_output=True, text=True)
    assert done.stderr == ""


def test_an_unforeseen_exception_is_told_without_a_traceback(run):
    def command(words):
        raise ZeroDivisionError("by nought")

    code, _, err = run(command)
    assert code == 1
    assert "error: unexpected ZeroDivisionError at test_export.py:" in err
    assert "report it" in err
    assert "Traceback" not in err

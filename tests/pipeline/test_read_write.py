"""read, load and write as a program calls them: their options stand in their signatures."""

from __future__ import annotations

import dataclasses
import inspect
import io

import pytest

import exporter
from exporter.errors import MissingFileError
from exporter.pipeline.write import Output
from tests.make.graph_files import frozen_variables, graph, node, parameters
from tests.make.layers import ROOT, make_bundle

KERAS = ROOT / "sample_models" / "encoder_keras3" / "model.keras"


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    assert not [p for p in parameters if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {p.name for p in parameters if p.kind == p.KEYWORD_ONLY}


def fields(options):
    return {field.name for field in dataclasses.fields(options)}


def test_every_option_stands_in_a_signature():
    assert keywords(exporter.read) - {"isolated"} == fields(exporter.ReadOptions) - {"announce"}
    assert keywords(exporter.write) - {"inputs"} == fields(exporter.WriteOptions)
    assert {"options", "write_options", "suffix"} <= keywords(exporter.export_many)
    assert keywords(exporter.load) == set()
    for name in keywords(exporter.read):
        assert f"{name}:" in exporter.read.__doc__


def test_a_typo_is_a_type_error():
    for call in (lambda: exporter.read(KERAS, epsilom=1), lambda: exporter.write(make_bundle(), "b.json", vector=False),
                 lambda: exporter.load("b.json", epsilon=1)):
        with pytest.raises(TypeError, match="unexpected keyword"):
            call()


def test_layers_may_be_one_glob_or_several():
    assert exporter.read(KERAS, layers="block_a/*").paths() == exporter.read(KERAS, layers=["block_a/*"]).paths() == ["block_a/bn"]


@pytest.mark.parametrize("epsilon", [-1, float("nan"), float("inf"), 1e300, "0.001", {"*": -0.5}])
def test_an_epsilon_that_is_none_is_refused(epsilon):
    with pytest.raises(exporter.UsageError, match="expected a finite epsilon of 0 or more, got"):
        exporter.read(KERAS, epsilon=epsilon)


def test_a_word_that_no_option_takes_is_refused(tmp_path):
    with pytest.raises(exporter.UsageError, match="ema must be 'yes', 'no' or None, got 'maybe'"):
        exporter.read(KERAS, ema="maybe")
    with pytest.raises(exporter.UsageError, match="names must be 'keras' or 'torch', got 'nonsense'"):
        exporter.write(make_bundle(), tmp_path / "b.safetensors", names="nonsense")


def test_the_options_of_an_output_are_given_once(tmp_path):
    exporter.write(make_bundle(), tmp_path / "a.safetensors", names="torch")
    exporter.write(make_bundle(), tmp_path / "b.safetensors", exporter.WriteOptions(names="torch"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(exporter.UsageError, match="expected the output options as WriteOptions or by name, got both"):
        exporter.write(make_bundle(), tmp_path / "c.safetensors", exporter.WriteOptions(names="torch"), vectors=False)


def test_what_is_no_bundle_is_not_written(tmp_path):
    with pytest.raises(exporter.UsageError, match="expected a Bundle, got FoldedModel") as caught:
        exporter.write(exporter.fold_model(KERAS), tmp_path / "folded.npz", fold=True)
    assert "write(read(path, kernels=True), out, fold=True)" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "unused"), [
    ("encoder_keras3/model.keras", ["--keras-version", "--backend", "--ema"]), ("saved_model_tfkeras/saved_model", ["--architecture"]),
    ("frozen", ["--architecture", "--keras-version", "--backend", "--ema"])])
def test_options_that_a_kind_of_file_has_no_use_for(tmp_path, kind, unused):
    """They were ignored in silence."""
    model = ROOT / "sample_models" / kind
    if kind == "frozen":
        nodes, reads = frozen_variables("bn", parameters())
        model = tmp_path / "frozen.pb"
        model.write_bytes(graph(node("x", "Placeholder"), *nodes, node("y", "FusedBatchNormV3", "x", *reads, is_training=False)))
    bundle = exporter.read(model, architecture=KERAS, keras_version="3.0.0", backend="jax", ema="yes")
    named = [warning.partition(" ")[0] for warning in bundle.warnings if "it does not apply to this kind of file" in warning]
    assert [flag for flag in named if flag in unused] == unused
    assert len(exporter.read(model)) == len(bundle)


def test_an_architecture_without_effect_that_does_not_exist(tmp_path):
    with pytest.raises(MissingFileError, match="no such file or folder"):
        exporter.read(ROOT / "sample_models" / "saved_model_tfkeras" / "saved_model", architecture=tmp_path / "none.json")


def test_an_output_into_a_stream_has_the_same_bytes(tmp_path):
    target = io.BytesIO()
    Output("b.json", exporter.WriteOptions(), stream=target).end(make_bundle())
    exporter.write(make_bundle(), tmp_path / "b.json")
    assert target.getvalue() == (tmp_path / "b.json").read_bytes()

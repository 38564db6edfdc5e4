"""Hints: what helps and was not given, with no value that could be pasted; and what is missing is said to be missing."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.commands.diagnose import diagnose
from exporter.commands.export import export
from exporter.errors import UnresolvedError
from exporter.files.remote import place_for
from exporter.pipeline.hints import hint
from exporter.sources.shared.found import OwnClass, Remedy
from exporter.sources.shared.options import ReadOptions
from tests.make.h5_files import named, parameters, write
from tests.make.v3_files import entry, functional, norm, norm_arrays, write_archive, write_weights

FOUR, THREE = norm_arrays(1), norm_arrays(2, center=False)


def refusal(path, **options):
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(path, **options)
    return str(caught.value), caught.value.hint


def test_gamma_or_beta_is_said_by_an_architecture(tmp_path):
    path = write_weights(tmp_path / "m.weights.h5", {"layers/batch_normalization": THREE})
    for options in ({"epsilon": 0.1}, {"epsilon": 0.1, "skip_unresolved": True}):
        what, said = refusal(path, **options)
        assert "gamma or beta" in what
        assert said == "give the model's config with --architecture FILE, which contains it"
    both = write_weights(tmp_path / "both.weights.h5", {"layers/batch_normalization": THREE, "layers/batch_normalization_1": FOUR})
    assert refusal(both, epsilon=0.1)[1].endswith("; --skip-unresolved writes the rest and lists these")
    assert exporter.read(both, epsilon=0.1, skip_unresolved=True).paths() == ["layers/batch_normalization_1"]


def test_no_value_stands_in_a_hint(tmp_path):
    path = write(tmp_path / "w.h5", {"bn": named("bn", parameters())})
    assert refusal(path)[1] == ("give it with --epsilon VALUE, or with --epsilon 'GLOB=VALUE' for some of the layers, or give the model's "
                                "config with --architecture FILE")
    old_names = ("gamma", "beta", "running_mean", "running_std")
    old = write(tmp_path / "old.h5", {"bn": named("bn", parameters(), separator="_", names=old_names)})
    what, said = refusal(old, epsilon=0.1)
    assert "the file contains neither its epsilon nor the version of Keras" in what
    assert said == ("give the model's config with --architecture FILE, which contains it; specify the Keras that wrote the weights "
                    "with --keras-version VERSION and --backend")


@pytest.mark.parametrize("isolated", [False, True])
def test_the_config_of_an_own_class_is_not_asked_for_again(tmp_path, isolated):
    config = entry("TinyBackbone", "tiny", registered="mine>TinyBackbone", width=8)
    model = write_archive(tmp_path / "tiny.keras", config, {"layers/bn": FOUR})
    weights = write_weights(tmp_path / "tiny.weights.h5", {"layers/bn": FOUR})
    for path, options in ((model, {}), (weights, {"architecture": model})):
        what, said = refusal(path, isolated=isolated, **options)
        assert "the config does not describe the layers inside the class TinyBackbone, " in what
        assert said == "give it with --epsilon VALUE, or with --epsilon 'GLOB=VALUE' for some of the layers"
        assert isolated or exporter.read(path, epsilon=0.5, **options).layers[0].epsilon == 0.5


@pytest.mark.parametrize(("name", "config", "epsilon"), [
    ("ResNetBackbone", {}, "1e-05"), ("DenseNetBackbone", {}, "1.001e-05"), ("VGGBackbone", {}, None),
    ("EfficientNetBackbone", {"batch_norm_epsilon": 0.002}, "0.002")])
def test_kerashub_backbones_tell_their_own_epsilon(tmp_path, name, config, epsilon):
    """In a hint: it is never taken."""
    classifier = entry("ImageClassifier", "net", registered="keras_hub>ImageClassifier",
                       backbone=entry(name, "backbone", registered=f"keras_hub>{name}", **config))
    model = write_archive(tmp_path / "m.keras", classifier, {"backbone/bn": FOUR})
    what, said = refusal(model)
    assert name in what
    assert (f"{name} of KerasHub builds its own batch norms with epsilon {epsilon}" in said) == (epsilon is not None)
    assert ("those of the other classes may have another" in said) == (epsilon is not None)  # of ImageClassifier
    assert "KerasHub" not in refusal(write_archive(tmp_path / "n.keras", entry(name, "b", registered=f"mine>{name}"), {"bn": FOUR}))[1]


def test_a_class_around_another_has_its_own_epsilon(tmp_path):
    """The batch norms that DeepLabV3 builds around its ResNet: only the ResNet and its epsilon were named."""
    deeplab = entry("DeepLabV3Backbone", "net", registered="keras_hub>DeepLabV3Backbone",
                    image_encoder=entry("ResNetBackbone", "backbone", registered="keras_hub>ResNetBackbone"))
    what, said = refusal(write_archive(tmp_path / "m.keras", deeplab, {"functional/bn": FOUR, "decoder_norm": FOUR}))
    assert "the layers inside the class DeepLabV3Backbone, ResNetBackbone, so" in what
    assert "DeepLabV3Backbone of KerasHub builds its own batch norms with epsilon 0.001" in said
    assert "ResNetBackbone of KerasHub builds its own batch norms with epsilon 1e-05" in said
    assert "other classes" not in said
    wrapper = entry("Wrap", "w", registered="mine>Wrap", layer=entry("Block", "block", registered="mine>Block"))
    what, _ = refusal(write_archive(tmp_path / "w.keras", functional("net", wrapper), {"layers/wrap/layer/bn": FOUR}))
    assert "the layers inside the class Block, so" in what


def test_a_functional_model_with_an_own_class_inside(tmp_path):
    config = functional("net", norm("bn", epsilon=0.1), entry("Block", "block", registered="mine>Block"))
    model = write_archive(tmp_path / "m.keras", config, {"layers/batch_normalization": FOUR, "layers/block/bn": FOUR})
    what, said = refusal(model)
    assert "inside the class Block" in what
    assert said.endswith("--skip-unresolved writes the rest and lists these")


def test_what_was_given_is_never_hinted():
    given = ReadOptions(architecture=place_for("a.json"), keras_version="1.0.5", stored_statistics=True, skip_unresolved=True)
    everything = {"classes": (), "remedies": list(Remedy), "doubtful": True, "rest": True}
    assert hint(given, epsilon=False, **everything) == ""
    said = hint(ReadOptions(), epsilon=True, **everything)
    for option in ("--epsilon", "--architecture", "--keras-version", "--stored-statistics", "--skip-unresolved"):
        assert option in said
        assert option not in hint(given, epsilon=False, **everything)
    assert "--architecture" not in hint(ReadOptions(), epsilon=True, classes=[OwnClass("A", None)], remedies=list(Remedy), doubtful=False,
                                        rest=False)


def test_missing_files_are_said_to_be_missing(tmp_path, run):
    weights = write(tmp_path / "w.h5", {"bn": named("bn", parameters())})
    for command, words in ((export, ["nosuch.h5"]), (export, [weights, "--architecture", tmp_path / "nosuch.json"]),
                           (diagnose, ["nosuch.h5", "--input", "1", "--output", "2"])):
        code, _, err = run(command, *words)
        assert code == 1
        assert "no such file or folder" in err


def test_a_model_in_the_place_of_a_bundle_is_told_the_command(tmp_path):
    path = write(tmp_path / "w.h5", {"bn": named("bn", parameters())})
    with pytest.raises(exporter.FormatError) as caught:
        exporter.load(path)
    assert caught.value.hint == "create a bundle from a model: bn-export MODEL out.json"


def test_what_lies_beside_models_is_named(tmp_path, run):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "labels.txt").write_text("cat\n")
    _, _, err = run(export, tmp_path / "folder")
    assert "this is a folder without a model" in err
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "t.tar").write_bytes(bytes(257) + b"ustar" + bytes(300))
    (tmp_path / "a.json").write_text(json.dumps(functional("net", norm("bn"))))
    for name, words in (("x.npy", ".npy file"), ("t.tar", "a tar file"), ("a.json", "this JSON file contains no weights")):
        assert words in run(export, tmp_path / name)[2]

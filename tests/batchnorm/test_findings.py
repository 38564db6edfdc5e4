"""Findings: what is said about a bundle, and at which numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exporter
from exporter.batchnorm import findings as module
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.findings import KINDS, findings
from exporter.batchnorm.listing import notes
from exporter.errors import LayerError
from tests.make.configs import norm, sequential
from tests.make.h5_files import named, parameters, write
from tests.make.layers import ROOT, make_bundle, make_layer


def plain(path="bn", *, channels=4, dtype="float32", epsilon=1e-3, **fields):
    """A layer about which there is nothing to say, but for `fields`: numbers stand for all channels, lists for each."""
    values = {"gamma": 1.5, "beta": 0.25, "moving_mean": -0.5, "moving_variance": 2.0}
    arrays = {name: np.broadcast_to(np.asarray(fields.pop(name, value), dtype), (channels,)).copy() for name, value in values.items()}
    return make_layer(path, shape=(channels,), dtype=dtype, epsilon=epsilon).replace(**arrays, **fields)


def test_findings_that_count_no_channels():
    layer = plain(quantized="uint8")
    assert said(layer)["quantized"].channels == 0
    assert said(layer)["quantized"].sentence == "stored as uint8"
    skipped = said(layer, skipped=(("other", "no reason"),))["not-exported"]
    assert (skipped.path, skipped.channels, skipped.sentence) == ("other", 0, "no reason")


def said(*layers, **fields):
    return {finding.kind.code: finding for finding in findings(make_bundle(*layers, **fields))}


def test_nothing_is_said_about_a_plain_layer():
    assert said(plain()) == {}
    assert said(plain().replace(gamma=None, beta=None)) == {}


def test_the_variance_of_the_first_public_question_is_below_epsilon():
    layer = plain(channels=1, gamma=1.0055743, beta=-0.016652612, moving_mean=-0.089603029, moving_variance=0.000436493)
    assert list(said(layer)) == ["below-epsilon"]
    finding = said(layer)["below-epsilon"]
    assert (finding.path, finding.channels, finding.kind.level) == ("bn", 1, "note")
    assert finding.sentence == ("the only channel has a variance below epsilon 0.001; the lowest is 0.000436493 in channel 0, "
                                "where the scale is 26.53 with epsilon under the root and would be 48.13 without it")


@pytest.mark.parametrize(("code", "inside", "outside"), [
    ("below-epsilon", {"moving_variance": [2, 9.99e-4, 2, 2]}, {"moving_variance": [2, 1.01e-3, 2, 2]}),
    ("constant-input", {"moving_variance": [2, 1e-12, 2, 2]}, {"moving_variance": [2, 1.01e-12, 2, 2]}),
    ("negative-variance", {"moving_variance": [2, -1e-6, 2, 2]}, {"moving_variance": [2, 0, 2, 2]}),
    ("dead-channel", {"gamma": [1, -9.9e-5, 1, 1]}, {"gamma": [1, 1.01e-4, 1, 1]}),
    ("huge-scale", {"gamma": [1, -100.1, 1, 1], "moving_variance": 0.999}, {"gamma": [1, 99.9, 1, 1], "moving_variance": 0.999}),
    ("float16-overflow", {"moving_variance": [1, 65600, 1, 1]}, {"moving_variance": [1, 65400, 1, 1]}),
    ("float16-overflow", {"moving_mean": [1, 65500, 1, 1], "moving_variance": 90},
                         {"moving_mean": [1, 65400, 1, 1], "moving_variance": 90}),
    ("float16-overflow", {"gamma": [1, 16400, 1, 1], "moving_variance": 9e8}, {}),
    ("float16-overflow", {"epsilon": 1e-8, "moving_variance": [1, 1e-8, 1, 1]}, {"epsilon": 1e-8, "moving_variance": [1, 1e-7, 1, 1]}),
])
def test_each_threshold_has_two_sides(code, inside, outside):
    found = said(plain(**inside))
    assert code in found
    assert found[code].channels == (4 if inside.get("moving_variance") == 9e8 else 1)
    assert code not in said(plain(**outside))


def test_float16_says_what_overflows_and_where():
    layer = plain(channels=3, moving_mean=[0, -70000, 0], moving_variance=[1, 1, 80000.0])
    assert said(layer)["float16-overflow"].sentence == (
        "2 of 3 channels: moving_mean reaches -7e+04 in channel 1, moving_variance reaches 8e+04 in channel 2, "
        "offset reaches 1.049e+05 in channel 1, the input reaches 7e+04 in channel 1")


def test_statistics_never_trained():
    new = plain(moving_mean=0, moving_variance=1, gamma=1, beta=0)
    assert said(new)["never-trained"].sentence.endswith("in all 4 channels; gamma and beta also have their initial values")
    assert said(new.replace(gamma=None))["never-trained"].channels == 4
    assert said(plain(moving_mean=0, moving_variance=1))["never-trained"].sentence.endswith("gamma and beta were trained")
    assert "never-trained" not in said(plain(moving_mean=0, moving_variance=[1, 1, 1, 1.001]))


def test_what_did_not_come_from_the_file_as_it_is_used():
    found = said(plain(epsilon=1e-6, moving_variance=1e-6, effective_epsilon=1.001e-5, assumed=("epsilon", "axis"),
                       converted=("moving_variance",), quantized="uint8"))
    factor = np.sqrt((1e-6 + 1.001e-5) / (1e-6 + 1e-6))
    assert f"up to {factor:.4g} times as large" in found["effective-epsilon"].sentence
    assert [found[code].channels for code in ("effective-epsilon", "assumed", "converted", "quantized")] == [0] * 4, "it is of the layer"
    assert found["assumed"].sentence == "epsilon (1e-06) and axis (-1)"
    assert found["converted"].sentence == "moving_variance"
    assert found["quantized"].sentence == "stored as uint8"


def test_layers_that_were_not_exported_come_first():
    skipped = (("c", "the file does not say its epsilon"),)
    found = findings(make_bundle(plain("a", gamma=0), plain("b", gamma=[0, 0, 1, 1]), skipped=skipped))
    assert [(finding.path, finding.kind.code) for finding in found] == [("c", "not-exported"), ("a", "dead-channel"), ("b", "dead-channel")]
    assert [finding.sentence for finding in found][1:] == ["all 4 channels have a |gamma| below 0.0001; it is exactly 0",
                                                           "2 of 4 channels have a |gamma| below 0.0001; it is exactly 0"]


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5), st.sampled_from([0.0, 1e-8, 1e-3, 1.0]),
       st.sampled_from(["float16", "float32", "float64"]))
def test_every_usable_layer_can_be_described(rows, epsilon, dtype):
    with np.errstate(over="ignore"):
        gamma, beta, mean, variance = np.array(rows, np.float64).T.astype(dtype)
    layer = plain(channels=len(rows), dtype=dtype, epsilon=epsilon)
    try:
        bundle: Bundle = make_bundle(layer.replace(gamma=gamma, beta=beta, moving_mean=mean, moving_variance=variance))
    except LayerError:
        return
    for finding in findings(bundle):
        assert 0 <= finding.channels <= len(rows)
        assert "nan" not in finding.sentence


def test_the_document_explains_every_kind_with_its_threshold():
    text = (ROOT / "docs" / "report.md").read_text()
    for kind in KINDS.values():
        assert f"| {kind.title} |" in text, kind.code
    for value in (module.DEAD, module.CONSTANT, module.HUGE, module.FLOAT16_MAX):
        assert f"{value:g}" in text


def test_a_word_that_names_no_field_is_shown_and_never_looked_up():
    layer = make_layer("bn", assumed=("epsilon", "moving", "replace", "__class__", "\x1b[2J"))
    [found] = [finding for finding in findings(make_bundle(layer)) if finding.kind.code == "assumed"]
    assert found.sentence == "epsilon (0.001) and moving and replace and __class__ and \x1b[2J"


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, True), ({"gamma": [1, 1], "beta": [0, 0]}, False), ({"gamma": None, "beta": None}, False), ({"gamma": None}, True),
    ({"beta": None}, True), ({"moving_mean": [0, 1e-6]}, False), ({"moving_variance": [1, 0.999]}, False)])
def test_statistics_that_were_never_updated(changes, expected):
    values = {"gamma": [1.5, 1], "beta": [0, 0.1], "moving_mean": [0, 0], "moving_variance": [1, 1], **changes}
    arrays = {name: None if each is None else np.array(each, np.float32) for name, each in values.items()}
    layer = make_layer(shape=(2,)).replace(**arrays)
    assert layer.is_never_updated is expected
    assert ("statistics are still 0 and 1" in notes(layer)) is expected


def test_that_is_a_warning_once_for_all(tmp_path):
    values = {**parameters(3), "moving_mean": np.zeros(3, np.float32), "moving_variance": np.ones(3, np.float32)}
    path = write(tmp_path / "m.h5", {name: named(name, values) for name in ("a", "b")}, sequential(norm("a"), norm("b")))
    (warning,) = exporter.read(path).warnings
    assert warning.startswith("a, b: the moving statistics are still 0 and 1")


def test_how_the_model_uses_the_layer():
    found = said(plain(called_in_training=True, class_name="lab>MyNorm"))
    assert list(found) == ["called-in-training", "own-class"]
    assert found["own-class"].sentence == "its class is lab>MyNorm"
    assert {one.channels for one in found.values()} == {0}, "they concern the whole layer"
    assert not said(plain(class_name="SyncBatchNormalization"))


@pytest.mark.parametrize(("code", "fields", "sentence"), [
    ("never-trained", {"channels": 1, "moving_mean": 0, "moving_variance": 1},
     "moving_mean is 0 and moving_variance 1 in the only channel; gamma and beta were trained"),
    ("never-trained", {"channels": 2, "moving_mean": 0, "moving_variance": 1},
     "moving_mean is 0 and moving_variance 1 in all 2 channels; gamma and beta were trained"),
    ("dead-channel", {"channels": 1, "gamma": 1e-5}, "the only channel has a |gamma| below 0.0001"),
    ("dead-channel", {"gamma": [0, 1e-5, 1, 1]}, "2 of 4 channels have a |gamma| below 0.0001; in 1 of them it is exactly 0"),
    ("dead-channel", {"gamma": [1, 1, 1e-5, 1]}, "1 of 4 channels has a |gamma| below 0.0001"),
    ("huge-scale", {"gamma": [200, -500, 1, 1], "moving_variance": 1, "epsilon": 0.0},
     "2 of 4 channels have a scale above 100; the largest is -500 in channel 1 (gamma -500, variance 1)"),
    ("huge-scale", {"channels": 1, "gamma": 3, "moving_variance": 1e-4, "epsilon": 0.0, "dtype": "float64"},
     "the only channel has a scale above 100; the largest is 300 in channel 0 (gamma 3, variance 0.0001)"),
    ("negative-variance", {"moving_variance": [1, -1e-4, -2e-4, 1]},
     "2 of 4 channels have a negative variance; the lowest is -0.0002 in channel 2, epsilon is 0.001"),
    ("constant-input", {"moving_variance": [1, 0, -1e-13, 1]}, "2 of 4 channels have a variance of 1e-12 or less"),
    ("below-epsilon", {"moving_variance": [1, 1e-12, 1, 1], "dtype": "float64"},
     "1 of 4 channels has a variance below epsilon 0.001; the lowest is 1e-12 in channel 1"),
    ("below-epsilon", {"moving_variance": [1, 1e-3, 1e-6, 1], "gamma": [1, 1, 0, 1], "dtype": "float64"},
     "1 of 4 channels has a variance below epsilon 0.001; the lowest is 1e-06 in channel 2"),
    ("below-epsilon", {"channels": 1, "moving_variance": 0.0025, "gamma": 0.5, "epsilon": 0.01, "dtype": "float64"},
     "the only channel has a variance below epsilon 0.01; the lowest is 0.0025 in channel 0, where the scale is 4.472 with epsilon "
     "under the root and would be 10 without it"),
    ("float16-overflow", {"channels": 1, "moving_variance": 1e-9, "epsilon": 1e-9, "gamma": 0.5},
     "1 of 1 channel: variance + epsilon rounds to 0 in channel 0"),
    ("float16-overflow", {"beta": [1, -7e4, 8e4, 1]},
     "2 of 4 channels: beta reaches 8e+04 in channel 2, offset reaches 8e+04 in channel 2, the output reaches 8.001e+04 in channel 2"),
    ("float16-overflow", {"moving_variance": [1, 1, 2.8e8, 1]},
     "1 of 4 channels: moving_variance reaches 2.8e+08 in channel 2, the input reaches 6.693e+04 in channel 2"),
    ("assumed", {"assumed": ("axis", "momentum")}, "axis (-1) and momentum (0.99)"),
    ("effective-epsilon", {"epsilon": 1e-6, "moving_variance": [0, 1, 1, 1], "effective_epsilon": 4e-6},
     "the kernel used 4e-06, the config specifies 1e-06; with the config's the scale is up to 2 times as large")])
def test_sentences(code, fields, sentence):
    assert said(plain(**fields))[code].sentence == sentence


@pytest.mark.parametrize(("code", "fields"), [
    ("below-epsilon", {"moving_variance": 1e-3, "dtype": "float64"}), ("dead-channel", {"gamma": 1e-4, "dtype": "float64"}),
    ("huge-scale", {"gamma": 100, "moving_variance": 1, "epsilon": 0.0}), ("float16-overflow", {"beta": 65504, "gamma": 0}),
    ("negative-variance", {"moving_variance": 0})])
def test_a_threshold_itself_is_not_odd(code, fields):
    assert code not in said(plain(**fields))

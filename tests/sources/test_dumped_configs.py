"""The JSON of get_config() beside weights of Keras 1: unlike to_json(), it never contains a version, so that it says nothing of the era."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from tests.make.h5_files import named, parameters, write

NAMES = ("gamma", "beta", "running_mean", "running_std")
CONFIG = [{"class_name": "BatchNormalization", "config": {"name": "bn", "epsilon": 0.001, "mode": 0, "axis": -1, "momentum": 0.9}}]


@pytest.fixture
def weights(tmp_path):
    return write(tmp_path / "w.h5", {"bn": named("bn", parameters(), separator="_", ending=":0", names=NAMES)})


def given(tmp_path, value):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(value))
    return path


def test_without_a_version_it_is_no_older_keras(weights, tmp_path):
    dumped = given(tmp_path, CONFIG)
    with pytest.raises(exporter.UnresolvedError, match="its config does not specify the version of Keras") as refused:
        exporter.read(weights, architecture=dumped)
    assert "--keras-version" in refused.value.hint
    for version, is_deviation in (("1.0.5", True), ("1.0.8", False)):
        (layer,) = exporter.read(weights, architecture=dumped, keras_version=version)
        assert (layer.converted != ()) == is_deviation
        assert np.array_equal(layer.moving_variance, parameters()["moving_variance"]) != is_deviation


def test_to_json_without_one_is(weights, tmp_path):
    (layer,) = exporter.read(weights, architecture=given(tmp_path, {"class_name": "Sequential", "config": CONFIG}))
    assert layer.converted == ("moving_variance",)


def test_what_shows_a_later_one_needs_no_version(weights, tmp_path):
    later = [{**CONFIG[0], "config": {**CONFIG[0]["config"], "gamma_regularizer": None}}]
    (layer,) = exporter.read(weights, architecture=given(tmp_path, later))
    assert layer.converted == ()

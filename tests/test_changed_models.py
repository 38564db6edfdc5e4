"""fuzz/changed.py: what is changed in one place of a model, and how it is judged what that may change in the result."""

from __future__ import annotations

import dataclasses
import io
import random
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

import exporter
from tests.make.h5_files import named, parameters, write
from tests.make.layers import ROOT
from tests.make.v3_files import norm, sequential

FUZZ = ROOT / "fuzz"
SAMPLES = ROOT / "sample_models"


@pytest.fixture(scope="module")
def fuzz():
    """The modules changed and changes."""
    sys.path.insert(0, str(FUZZ))
    try:
        import changed
        import changes

        yield changed, changes
    finally:
        sys.path.remove(str(FUZZ))


@pytest.fixture
def h5(tmp_path):
    return write(tmp_path / "m.h5", {name: named(name, parameters(seed=seed)) for seed, name in enumerate(("a", "b"))},
                 sequential("net", norm("a", epsilon=0.25), norm("b")), keras_version="2.4.0", backend="tensorflow")


@pytest.mark.thorough("much time: the fuzzer reads each changed model by itself")
def test_the_samples_give_the_same_or_are_refused_or_what_changed_stands_there_alone():
    words = [sys.executable, FUZZ / "changed.py", SAMPLES / "no_beta_keras208" / "model.h5", SAMPLES / "tfjs_layers" / "model.json",
             SAMPLES / "hand_made_tf115" / "model.ckpt.index", SAMPLES / "encoder_keras3" / "model.keras", "--changes", "6", "--seed", "3"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.splitlines()
    refused, same, explained, unexplained = map(int, last.split()[:4])
    assert (refused + same + explained, unexplained) == (24, 0)


@pytest.mark.parametrize("path", ["no_beta_keras208/model.h5", "encoder_keras3/model.keras", "hand_made_tf115/frozen.pb",
                                  "tfjs_layers/model.json", "hand_made_tf115/model.ckpt.index", "hand_made_tf115/model.ckpt.meta"])
def test_a_change_changes_and_comes_again_with_its_seed(fuzz, path):
    _, changes = fuzz
    data = (SAMPLES / path).read_bytes()
    made = [[changes.change(path, data, random.Random(f"{seed}")) for seed in range(12)] for _ in range(2)]
    assert made[0] == made[1]
    assert len({change.data for change in made[0] if change is not None}) > 6
    for change in filter(None, made[0]):
        assert change.data != data
        if path.endswith(".keras"):
            assert zipfile.ZipFile(io.BytesIO(change.data)).testzip() is None


def judged(changed, path, data):
    """(what differs, why that is no contradiction) of a file with other bytes."""
    before = path.read_bytes()
    original = exporter.read(path)
    path.write_bytes(data)
    found = exporter.read(path)
    differing = changed.differences(original, found)
    return set(differing), changed.explanation(before, data, {path.name: before}, original, found, differing)


def test_numbers_in_an_array(fuzz, h5):
    data = h5.read_bytes()
    values = exporter.read(h5)["b"].moving_mean
    at = data.index(values.tobytes())
    assert judged(fuzz[0], h5, data[:at] + np.float32(7).tobytes() + data[at + 4:]) == ({"b: moving_mean"}, "the numbers of a parameter")


def test_a_value_that_stands_once_in_a_config(fuzz, h5):
    data = h5.read_bytes()
    assert data.count(b'"epsilon": 0.25') == 1
    assert judged(fuzz[0], h5, data.replace(b'"epsilon": 0.25', b'"epsilon": 0.75')) == (
        {"a: epsilon"}, "the only place of a value in a config")


def test_a_name_that_stands_once_in_a_config(fuzz, tmp_path):
    """Of a nested model in a Sequential, whose weights are called after its layers; another layer's numbers are not explained by it."""
    changed, _ = fuzz
    net = sequential("net", sequential("outer", sequential("deep", norm("bn"))))
    path = write(tmp_path / "m.h5", {"outer": named("bn", parameters())}, net, keras_version="2.4.0", backend="tensorflow")
    data, original = path.read_bytes(), exporter.read(path)
    renamed = data.replace(b'"deep"', b'"dorp"')
    assert judged(changed, path, renamed) == (
        {"outer/deep/bn: layer", "outer/dorp/bn: layer"}, "the only place of the name of a layer or nested model in a config")
    other = original.replace(layers=(original["outer/deep/bn"].replace(path="outer/dorp/bn", epsilon=0.5),))
    assert changed.explanation(data, renamed, {"m.h5": data}, original, other, changed.differences(original, other)) == ""


def test_a_name_that_leads_to_another_array(fuzz, h5, tmp_path):
    _, changes = fuzz
    data = h5.read_bytes()
    with h5py.File(h5) as file:
        places = [h5py.h5o.get_info(file[f"model_weights/a/a/{role}:0"].id).addr for role in ("beta", "moving_mean")]
    one, two = ([entry for entry in changes.entries(data) if int.from_bytes(data[entry + 8:entry + 16], "little") == place]
                for place in places)
    swapped = changes.replaced(data, (one[0] + 8, data[two[0] + 8:two[0] + 16]), (two[0] + 8, data[one[0] + 8:one[0] + 16]))
    assert judged(fuzz[0], h5, swapped) == ({"a: beta", "a: moving_mean"}, "to which object a name leads")


def test_what_nothing_explains(fuzz, h5):
    """Another epsilon from a change that has nothing to do with it."""
    changed, _ = fuzz
    data = h5.read_bytes()
    bundle = exporter.read(h5)
    layers = tuple(layer.replace(epsilon=0.5) if layer.path == "a" else layer for layer in bundle)
    other = bundle.replace(layers=layers)
    differing = changed.differences(bundle, other)
    assert set(differing) == {"a: epsilon"}
    assert changed.explanation(data, data[:-1] + b"x", {"m.h5": data}, bundle, other, differing) == ""
    unversioned = bundle.replace(origin=dataclasses.replace(bundle.origin, keras_version=None))
    assert changed.explanation(data, data[:-1] + b"x", {"m.h5": data}, bundle, unversioned, changed.differences(bundle, unversioned))

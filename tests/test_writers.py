"""The search over writers (fuzz/writers.py), on a few models: what the installed Keras and tf_keras save is what their layers hold."""

from __future__ import annotations

import collections
import functools
import json
import pathlib

import pytest

from exporter.batchnorm.places import Call, Neighbor

HERE = pathlib.Path(__file__).resolve().parent.parent / "fuzz"
Given = collections.namedtuple("Given", "path calls")
FORMS = ("keras", "h5", "weights.h5 + json", "checkpoint + json", "tf weights + json")

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def fuzz(monkeypatch):
    """The modules of the search, which import each other by their names."""
    monkeypatch.syspath_prepend(str(HERE))
    import read_models
    import write_models

    return write_models, read_models


def test_calls_of_a_layer_with_two_paths(fuzz):
    """A file that holds such a layer once says all its calls; one that holds it twice, those of each path where it is that one."""
    def call(path):
        return {"path": path, "training": False, "inputs": [[f"{path} feeds", "Dense"]], "outputs": []}

    def entry(path, *paths):
        return Given(path, tuple(Call((Neighbor(path=f"{each} feeds", class_name="Dense"),), ()) for each in paths))

    check = functools.partial(fuzz[1].Reading.calls, None, "h5", truth={"calls": [call("a/bn"), call("b/bn")]})
    assert list(check([entry("a/bn", "a/bn", "b/bn")])) == list(check([entry("a/bn", "a/bn"), entry("b/bn", "b/bn")])) == []
    for wrong in ([entry("a/bn", "a/bn")], [entry("a/bn", "b/bn"), entry("b/bn", "a/bn")], [entry("a/bn", "a/bn", "b/bn", "b/bn")]):
        assert any("calls" in line for line in check(wrong))


@functools.cache
def loaded(name):
    import users_classes
    import write_models

    api, tensorflow = write_models.load(name)
    return api, tensorflow, users_classes.classes(api.keras)


@pytest.mark.thorough("much time; sources/test_keras_v3_live.py has random models always")
@pytest.mark.parametrize("seed", [10, 117])
def test_random_models(keras, fuzz, seed, tmp_path):
    write, read = fuzz
    api, tensorflow, own = loaded(keras.__name__)
    truth = write.make(api, tensorflow, own, seed, tmp_path, FORMS)
    reading = read.Reading(tmp_path)
    assert reading.run() == []
    assert len(truth["files"]) >= 3
    assert sum(counts["right"] for counts in reading.counts.values()) > len(truth["files"])


def test_what_is_wrong_is_said(keras, fuzz, tmp_path):
    """The search itself: a truth that was changed is no longer what is read."""
    write, read = fuzz
    api, tensorflow, own = loaded(keras.__name__)
    truth = write.make(api, tensorflow, own, 10, tmp_path, ("weights.h5 + json",))
    for layer in truth["layers"]:
        layer.update(epsilon=7.0, axis=[layer["ndim"]], paths=["elsewhere"], training=not layer["training"], own=False)
        layer["calls"] = [{"path": "", "training": False, "inputs": [["elsewhere", "Dense"]], "outputs": []}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    said = " ".join(read.Reading(tmp_path).run())
    assert all(word in said for word in ("epsilon", "axis", "path", "called_in_training", "calls"))

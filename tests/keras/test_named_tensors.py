"""Models whose inputs or outputs are a dict: Keras numbers these in the order of their keys, whatever order the config has."""

from __future__ import annotations

import pytest

from tests.keras.test_places import called, keras_3, layer, model, norm, places, source

IN_A_LIST, IN_A_DICT = [["b", 0, 0], ["a", 0, 0]], {"b": ["b", 0, 0], "a": ["a", 0, 0]}


def passing(entry, given):
    """The entry, called with a dict of layers."""
    return {**called(entry), "inbound_nodes": [{key: [name, 0, 0, {}] for key, name in given.items()}]}


def passing_3(entry, given):
    """The same as Keras 3 writes it."""
    tensors = {key: {"class_name": "__keras_tensor__", "config": {"shape": [None, 3], "keras_history": [name, 0, 0]}}
               for key, name in given.items()}
    return {**called(entry), "inbound_nodes": [{"args": [tensors], "kwargs": {"mask": dict.fromkeys(given)}}]}


def two_inputs(said, form):
    """Two batch norms in a model of the inputs `a` and `b`, which Keras calls with what `fa` and `fb` give."""
    inner = model(source("b"), source("a"), form(norm("na"), ["a"]), form(norm("nb"), ["b"]), outputs=["na", "nb"], name="inner")
    inner["config"]["input_layers"] = said
    dense = [form(layer("Dense", name, units=3), ["x"]) for name in ("fa", "fb")]
    return inner, [source(), *dense]


@pytest.mark.parametrize(("form", "pass_on"), [(called, passing), (keras_3, passing_3)])
@pytest.mark.parametrize("said", [IN_A_DICT, IN_A_LIST])
@pytest.mark.parametrize("given", [{"a": "fa", "b": "fb"}, {"b": "fb", "a": "fa"}])
def test_a_dict_of_inputs_is_passed_by_its_keys(form, pass_on, said, given):
    inner, before = two_inputs(said, form)
    found = places(model(*before, pass_on(inner, given), outputs=[("inner", 0)]))
    assert found == {"inner/na": [(["fa"], [])], "inner/nb": [(["fb"], [])]}


@pytest.mark.parametrize(("said", "given"), [(IN_A_LIST, {"p": "fa", "q": "fb"}), (IN_A_DICT, {"a": "fa", "b": "fb", "c": "x"})])
def test_with_other_keys_nothing_is_known(said, given):
    inner, before = two_inputs(said, called)
    found = places(model(*before, passing(inner, given), outputs=[("inner", 0)]))
    assert found == {"inner/na": [], "inner/nb": []}


@pytest.mark.parametrize("form", [called, keras_3])
def test_a_dict_of_outputs_is_numbered_by_its_keys(form):
    inner = model(source("i"), form(norm("nz"), ["i"]), form(norm("ny"), ["i"]), inputs=["i"], name="inner")
    inner["config"]["output_layers"] = {"z": ["nz", 0, 0], "y": ["ny", 0, 0]}
    readers = [{**called(layer("Dense", f"reads_{key}", units=3)), "inbound_nodes": [[["inner", 0, number, {}]]]}
               for number, key in enumerate("yz")]
    found = places(model(source(), form(inner, ["x"]), *readers, outputs=["reads_y", "reads_z"]))
    assert found == {"inner/nz": [(["x"], ["reads_z"])], "inner/ny": [(["x"], ["reads_y"])]}


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", [{"b": "b", "a": "a"}, ["b", "a"]])
def test_as_the_installed_keras_passes_them(said, tmp_path):
    import keras
    import numpy as np

    import exporter

    layers, inputs = keras.layers, {name: keras.Input((1,), name=name) for name in "ab"}
    ends = [layers.BatchNormalization(name=f"n{name}")(inputs[name]) for name in "ab"]
    inner = keras.Model({key: inputs[key] for key in said} if isinstance(said, dict) else [inputs[key] for key in said], ends, name="inner")
    x = keras.Input((1,))
    parts = {name: layers.Dense(1, name=f"f{name}", kernel_initializer="zeros", bias_initializer=start)(x)
             for name, start in (("a", "zeros"), ("b", "ones"))}
    whole = keras.Model(x, inner(parts))
    whole.save(tmp_path / "model.keras")
    bundle = exporter.read(tmp_path / "model.keras")
    for name, output in zip("ab", whole(np.zeros((1, 1), np.float32)), strict=True):
        assert (np.asarray(output) > 0.5) == (name == "b")
        assert [each.path for each in bundle[f"inner/n{name}"].inputs] == [f"f{name}"]

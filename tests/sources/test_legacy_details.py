"""Legacy HDF5 files that differ from a common one in a detail that decides what is read: names, types, and classes of the user's."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.files.place import Place
from exporter.keras.config import model_tree
from exporter.sources import keras_h5
from exporter.sources.legacy_h5.shared import without_hidden
from exporter.sources.legacy_h5.weights import LayerGroup, candidates, norms_of
from exporter.sources.shared.options import ReadOptions
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import ROLES, named, parameters, write
from tests.sources.test_keras_h5 import flat, norm_of_keras_0, same, write_unnamed

FIRST, SECOND = (parameters(seed=seed) for seed in range(2))


@pytest.mark.parametrize("name", ["graph", "nb_layers", "nb_params"])
def test_a_layer_that_is_called_like_a_part_of_a_file_of_keras_0_3(tmp_path, name):
    path = write(tmp_path / "w.h5", {name: named(name, FIRST)}, keras_version="2.2.4", backend="tensorflow")
    bundle = exporter.read(path, epsilon=0.1)
    assert bundle.paths() == [name]
    assert same(bundle[name], FIRST)


@pytest.mark.parametrize(("dtype", "is_read"), [("bfloat16", True), ("mixed_bfloat16", False), ("float32", False)])
def test_two_opaque_bytes_are_a_bfloat16_where_the_config_says_it(tmp_path, dtype, is_read):
    """Keras 3 writes them without the attribute that its own format has."""
    whole = {role: (values.view("u4") >> 16 << 16).view("f4") for role, values in FIRST.items()}
    halves = {role: (values.view("u4") >> 16).astype("u2").view("V2") for role, values in whole.items()}
    path = write(tmp_path / "m.h5", {"bn": named("bn", halves)}, sequential(norm("bn", dtype=dtype)), keras_version="3.3.0")
    if not is_read:
        with pytest.raises(exporter.FormatError):
            exporter.read(path)
        return
    found = exporter.read(path)["bn"]
    assert found.dtype == "bfloat16"
    assert [getattr(found, role).tolist() for role in ROLES] == [whole[role].tolist() for role in ROLES]


def test_a_layer_without_gamma_and_beta_beside_another_is_no_second_set(tmp_path):
    inner = sequential(norm("a"), norm("b", center=False, scale=False), name="inner")
    held = {"inner": [*named("a", FIRST), *named("b", SECOND, ROLES[2:])]}
    path = write(tmp_path / "m.h5", held, sequential(inner), keras_version="2.2.4")
    bundle = exporter.read(path)
    assert (bundle.paths(), bundle.warnings) == (["inner/a", "inner/b"], ())


def divided(scopes, *inner):
    """What `without_hidden` says is described and what is hidden, by scope, in a nested model of these layers."""
    node = model_tree(sequential(sequential(*inner, name="net")), "m").children[0][1]
    group = LayerGroup(name="net", path="net", weights=tuple(f"{scope}/{role}:0" for scope in scopes for role in ROLES))
    described, hidden = without_hidden(norms_of(group), "net", node, list(candidates("net", node)))
    return [one.scope for one in described], [one.scope for one in hidden]


BLOCK = layer("lab>Block", "mine")


@pytest.mark.parametrize(("scopes", "inner", "hidden"), [
    (["bn", "mine/bn"], [norm("bn"), BLOCK], ["mine/bn"]), (["bn", "mine/bn"], [norm("bn"), norm("mine/bn"), BLOCK], []),
    (["bn", "mine_1/bn"], [norm("bn"), BLOCK], ["mine_1/bn"]), (["bn", "other/bn"], [norm("bn"), BLOCK], []),
    (["bn", "mine/x"], [norm("bn"), layer("lab>Block", "mine", part=norm("x"))], []),
    (["bn", "d/bn"], [norm("bn"), layer("Dense", "d")], []), (["bn_1"], [norm("bn"), layer("lab>Block", "bn_1")], ["bn_1"]),
    (["mine/x", "mine/y"], [layer("lab>Outer", "outer", part=norm("mine/x")), BLOCK], ["mine/x", "mine/y"])])
def test_which_batch_norms_of_a_nested_model_are_inside_a_users_class(scopes, inner, hidden):
    """A layer may itself be called "mine/bn"; the class may hold one of that name, too, beside those that its config has."""
    assert divided(scopes, *inner) == ([scope for scope in scopes if scope not in hidden], hidden)


def test_names_of_a_merge_of_keras_1_are_no_other_sessions(tmp_path):
    """Its branches are in the file in its place, in another order than the layers of the config."""
    merge = layer("Merge", "merge_1", layers=[sequential(norm("batchnormalization_1"), name="left")])
    config = {"class_name": "Sequential", "config": [merge]}
    (tmp_path / "m.json").write_text(json.dumps(config))
    names = ("gamma", "beta", "running_mean", "running_std")
    held = named("batchnormalization_1", FIRST, separator="_", names=names, ending="")
    path = write(tmp_path / "w.h5", {"batchnormalization_1": held})
    bundle = exporter.read(path, architecture=tmp_path / "m.json", keras_version="1.2.2")
    assert (bundle.paths(), bundle.warnings) == (["merge_1/left/batchnormalization_1"], ())


def test_only_classes_of_the_users_are_named_as_what_the_config_does_not_describe(tmp_path):
    layers = [norm("bn"), layer("Dense", "d", units=3), BLOCK, layer("Custom>Block2", "more")]
    held = {"bn": [], "d": [("d/kernel:0", np.zeros((3, 3), "f4"))], "mine": named("mine/inner", FIRST), "more": []}
    path = write(tmp_path / "m.h5", held, sequential(*layers), keras_version="2.2.4")
    found = keras_h5.read(Place(path), ReadOptions())
    assert [each.name for each in found.own_classes] == ["Block", "Block2"]


@pytest.mark.parametrize(("given", "in_file", "raised"), [("theano", None, False), (None, "theano", False), ("tensorflow", None, True),
                                                          (None, "tensorflow", True), ("tensorflow", "theano", False)])
def test_which_backend_counts(tmp_path, given, in_file, raised):
    """What the file says goes before what the user says. TensorFlow's fused kernels raised a small epsilon."""
    said = {"keras_version": "2.3.1"} | ({"backend": in_file} if in_file else {})
    config = sequential(norm("bn", epsilon=1e-7, axis=3, batch_input_shape=[None, 4, 4, 3]))
    path = write(tmp_path / "m.h5", {"bn": named("bn", FIRST, ending="")}, config, **said)
    found = keras_h5.read(Place(path), ReadOptions(backend=given))
    assert (found.layers[0].effective_epsilon is not None) is raised


@pytest.mark.parametrize("kernels", [True, False])
def test_paths_in_a_model_of_keras_0_3_and_its_kernels(tmp_path, kernels):
    """The config of its Graph describes connections in another way, so that no kernel is read."""
    path = write_unnamed(tmp_path / "w.h5", [[*flat(FIRST), *flat(SECOND)]])
    inner = {"name": "Sequential", "layers": [norm_of_keras_0(axis=-1, custom_name="a"),
                                              {"name": "Sequential", "layers": [norm_of_keras_0(axis=-1, custom_name="b")]}]}
    (tmp_path / "m.json").write_text(json.dumps({"name": "Sequential", "layers": [inner]}))
    found = keras_h5.read(Place(path), ReadOptions(architecture=Place(tmp_path / "m.json"), kernels=kernels))
    paths = found.paths()
    assert [each.rpartition("/")[2] for each in paths] == ["a", "b"]
    assert paths[1].startswith(paths[0].rpartition("/")[0] + "/")
    assert found.kernels == ({} if kernels else None)


def test_a_merge_in_a_branch_of_a_merge_of_keras_1(tmp_path):
    inner = layer("Merge", "merge_2", layers=[sequential(norm("deep"), name="right")])
    outer = layer("Merge", "merge_1", layers=[sequential(inner, name="left")])
    names = ("gamma", "beta", "running_mean", "running_std")
    held = {"deep": named("deep", FIRST, separator="_", names=names, ending="")}
    path = write(tmp_path / "m.h5", held, {"class_name": "Sequential", "config": [outer]}, keras_version="1.2.2")
    assert exporter.read(path).paths() == ["merge_1/left/merge_2/right/deep"]


@pytest.mark.parametrize(("mean", "deviation", "is_read"), [(0, 1, True), (1, 1, False), (0, 2, False)])
def test_only_statistics_that_were_never_updated_need_no_version(tmp_path, mean, deviation, is_read):
    """A standard deviation of 1 is a variance of 1; but that the layer was trained shows that it is neither for certain."""
    names = ("gamma", "beta", "running_mean", "running_std")
    values = {**FIRST, "moving_mean": np.full(3, mean, "f4"), "moving_variance": np.full(3, deviation, "f4")}
    path = write(tmp_path / "w.h5", {"bn": named("bn", values, separator="_", names=names, ending="")})
    if is_read:
        assert exporter.read(path, epsilon=0.1).paths() == ["bn"]
        return
    with pytest.raises(exporter.UnresolvedError, match="whether running_std is a standard deviation or a variance"):
        exporter.read(path, epsilon=0.1)


def test_names_that_a_user_chose_are_not_numbered_in_another_session(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(sequential(norm("norm_1"), layer("Dense", "dense_1", units=3))))
    held = {"norm_2": named("norm_2", FIRST), "dense_2": [("dense_2/kernel:0", np.zeros((3, 3), "f4"))]}
    path = write(tmp_path / "w.h5", held, keras_version="2.2.4")
    with pytest.raises(exporter.FormatError, match="does not match"):
        exporter.read(path, architecture=tmp_path / "m.json")


@pytest.mark.parametrize(("shape", "is_noted"), [([None, 4, 4, 3], False), (None, True)])
def test_a_small_epsilon_is_noted_where_the_rank_of_the_input_is_unknown(tmp_path, shape, is_noted):
    config = norm("bn", epsilon=1e-7, **({"batch_input_shape": shape} if shape else {}))
    said = {"keras_version": "2.3.1", "backend": "tensorflow"}
    path = write(tmp_path / "m.h5", {"bn": named("bn", FIRST)}, sequential(config), **said)
    assert bool(keras_h5.read(Place(path), ReadOptions()).layers[0].notes) is is_noted


def test_a_config_without_a_version_says_nothing_of_what_a_users_class_contains(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"class_name": "Sequential", "config": [layer("Block", "mine")]}))
    names = ("gamma", "beta", "running_mean", "running_std")
    path = write(tmp_path / "w.h5", {"mine": named("mine", FIRST, separator="_", names=names, ending="")})
    with pytest.raises(exporter.UnresolvedError, match="whether running_std is a standard deviation or a variance"):
        exporter.read(path, architecture=tmp_path / "m.json", epsilon=0.1)


@pytest.mark.parametrize("order", [("d", "bn"), ("bn", "d")])
def test_weights_without_scopes_beside_those_of_another_layer(tmp_path, order):
    """Keras 3.0 to 3.2 put no names of layers into those of weights: a kernel beside them is another layer's."""
    layers = {"d": layer("Dense", "d", units=3), "bn": norm("bn")}
    weights = {"d": [("kernel", np.zeros((3, 3), "f4")), ("bias", np.zeros(3, "f4"))], "bn": named("", FIRST, separator="", ending="")}
    held = {"inner": [weight for name in order for weight in weights[name]]}
    path = write(tmp_path / "m.h5", held, sequential(sequential(*(layers[name] for name in order), name="inner")), keras_version="3.0.5")
    bundle = exporter.read(path)
    assert bundle.paths() == ["inner/bn"]
    assert same(bundle["inner/bn"], FIRST)

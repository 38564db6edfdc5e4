"""Legacy HDF5 files: which of the weights in a group are a batch norm's, and what the config and the version have to say of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.errors import FormatError, UnresolvedError
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import ROLES, named, parameters, write
from tests.sources.test_keras_h5 import old, same

FIRST, SECOND, THIRD = (parameters(seed=seed) for seed in range(3))
KERNEL = np.zeros((3, 3), np.float32)


def bare(values, roles=ROLES[2:]):
    """Weights of a batch norm without a scope."""
    return [(f"{role}:0", values[role]) for role in roles]


@pytest.mark.parametrize(("weights", "own"), [
    (named("bn", FIRST) + bare(SECOND), FIRST), (bare(SECOND) + named("bn", FIRST), FIRST),
    (named("bn", FIRST, ROLES[1:]) + bare(SECOND), {**FIRST, "gamma": None})], ids=["behind", "before", "without gamma"])
def test_a_second_set_of_statistics_without_a_scope(tmp_path, weights, own):
    """keras-swa makes such variables, which the layer does not compute with."""
    config = sequential(norm("bn", scale=own["gamma"] is not None))
    for model, options in ((config, {}), (None, {"epsilon": 0.1})):
        bundle = exporter.read(write(tmp_path / "m.h5", {"bn": weights}, model, keras_version="2.2.4"), **options)
        assert bundle.paths() == ["bn"]
        assert same(bundle["bn"], own, [role for role in ROLES if own[role] is not None])
        assert ["contains a second set of moving statistics in this layer" in each for each in bundle.warnings] == [True]


@pytest.mark.parametrize("weights", [
    named("a", FIRST, ROLES[2:]) + bare(SECOND), named("a", FIRST) + bare(SECOND, ROLES), named("a", FIRST) + bare(SECOND, ROLES[1:]),
    named("a", FIRST) + bare(SECOND) + [(f"{role}_1:0", THIRD[role]) for role in ROLES[2:]]],
    ids=["no gamma or beta", "whole", "with beta", "two"])
def test_what_is_no_such_second_set(tmp_path, weights):
    """All are batch norms, as inside a class that says nothing of what it contains."""
    count = sum("moving_mean" in name for name, _ in weights)
    path = write(tmp_path / "m.h5", {"own": weights}, sequential(layer("lab>Own", "own")), keras_version="2.2.4")
    assert len(exporter.read(path, epsilon=0.1)) == count


@pytest.mark.parametrize("missing", ROLES[2:])
def test_what_has_one_statistic_alone_is_no_batch_norm(tmp_path, missing):
    """Also inside a class that says nothing of what it contains."""
    half = named("own/half", SECOND, [role for role in ROLES if role != missing])
    path = write(tmp_path / "m.h5", {"own": [*half, *named("own/bn", FIRST)]}, sequential(layer("lab>Own", "own")), keras_version="2.2.4")
    bundle = exporter.read(path, epsilon=0.1)
    assert bundle.paths() == ["own/bn"]
    assert same(bundle["own/bn"], FIRST)


@pytest.mark.parametrize(("config", "roles", "said"), [
    ({}, ROLES, None), ({"scale": True}, ROLES[1:], "its config has scale=true, but the file contains no gamma"),
    ({"scale": False}, ROLES, "its config has scale=false, but the file contains a gamma"),
    ({"center": False}, ROLES, "its config has center=false, but the file contains a beta"),
    ({"center": True}, (ROLES[0], *ROLES[2:]), "its config has center=true, but the file contains no beta"),
    ({"scale": False, "center": False}, ROLES[2:], None)])
def test_gamma_and_beta_are_there_as_the_config_says(tmp_path, config, roles, said):
    path = write(tmp_path / "m.h5", {"bn": named("bn", FIRST, roles)}, sequential(norm("bn", **config)), keras_version="2.2.4")
    if said is None:
        assert same(exporter.read(path)["bn"], FIRST, roles)
        return
    with pytest.raises(FormatError, match=f"bn: {said}"):
        exporter.read(path)


@pytest.mark.parametrize(("missing", "said"), [("bn_gamma", "no gamma"), ("bn_beta", "no beta")])
@pytest.mark.parametrize("has_config", [True, False])
def test_layers_of_keras_1_have_both(tmp_path, missing, said, has_config):
    weights = [weight for weight in old("bn", FIRST) if weight[0] != missing]
    config = {"class_name": "Sequential", "config": [layer("BatchNormalization", "bn", epsilon=0.01, mode=0, axis=-1)]}
    path = write(tmp_path / "m.h5", {"bn": weights}, config if has_config else None, keras_version="1.2.2")
    with pytest.raises(FormatError, match=f"bn: a layer of Keras 1 always has one, but the file contains {said}"):
        exporter.read(path, epsilon=0.1)


def test_a_nested_model_whose_batch_norms_were_never_built(tmp_path):
    inner = sequential(norm("a"), layer("Dense", "d"), norm("b"), name="inner")
    path = write(tmp_path / "m.h5", {"inner": [("d/kernel:0", KERNEL)]}, sequential(inner), keras_version="2.2.4")
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(path)
    assert caught.value.layers == (("inner/a", "the file contains no parameters of it: it was never built"),
                                   ("inner/b", "the file contains no parameters of it: it was never built"))


@pytest.mark.parametrize("has_config", [True, False])
def test_names_of_keras_1_that_may_be_mixed_up(tmp_path, has_config):
    """Which batch norms there are is said, with the paths of the config or those that the names make."""
    stored = {**dict(old("a", FIRST)), **dict(old("b", SECOND))}
    weights = [(name, values) for role in ("gamma", "beta", "running_mean", "running_std") for name, values in stored.items()
               if name.endswith(role)]
    inner = sequential(*(layer("BatchNormalization", name, epsilon=0.01, axis=-1, mode=0) for name in "ab"), name="inner")
    path = write(tmp_path / "m.h5", {"inner": weights})
    options = {}
    if has_config:
        (tmp_path / "m.json").write_text(json.dumps({"class_name": "Sequential", "config": [inner]}))
        options = {"architecture": tmp_path / "m.json"}
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(path, **options)
    assert [(where, "under swapped names" in reason) for where, reason in caught.value.layers] == [("inner/a", True), ("inner/b", True)]
    assert "--keras-version" in caught.value.hint


def test_names_of_keras_1_whose_batch_norm_is_in_one_piece_at_another_position(tmp_path):
    """Frozen layers come last by name, and where they are by their values."""
    layers = (layer("Dense", "d", output_dim=3), layer("BatchNormalization", "a", epsilon=0.01, axis=-1, mode=0),
              layer("Dense", "e", output_dim=3))
    dense = {name: [(f"{name}_W", KERNEL), (f"{name}_b", SECOND["beta"])] for name in "de"}
    named_first, values_first = [*dense["e"], *dense["d"], *old("a", FIRST)], [*dense["d"], *old("a", FIRST), *dense["e"]]
    stored = [(name, values) for (name, _), (_, values) in zip(named_first, values_first, strict=True)]
    (tmp_path / "m.json").write_text(json.dumps({"class_name": "Sequential", "config": [sequential(*layers, name="inner")]}))
    bundle = exporter.read(write(tmp_path / "m.h5", {"inner": stored}), architecture=tmp_path / "m.json", keras_version="1.0.2",
                           backend="theano")
    assert same(bundle["inner/a"], {**FIRST, "moving_variance": bundle["inner/a"].moving_variance})


@pytest.mark.parametrize("version", ["1.0.2", "1.0.3"])
def test_names_of_a_nested_functional_model_of_keras_1_are_right(tmp_path, version):
    """Its values have the order of its names."""
    stored = {**dict(old("a", FIRST)), **dict(old("b", SECOND))}
    weights = [(name, values) for role in ("gamma", "beta", "running_mean", "running_std") for name, values in stored.items()
               if name.endswith(role)]
    entries = [{**layer("BatchNormalization", name, epsilon=0.01, axis=-1, mode=0), "name": name, "inbound_nodes": []} for name in "ab"]
    inner = {"class_name": "Model", "config": {"name": "inner", "layers": entries, "input_layers": [], "output_layers": []}}
    (tmp_path / "m.json").write_text(json.dumps({"class_name": "Sequential", "config": [inner]}))
    bundle = exporter.read(write(tmp_path / "m.h5", {"inner": weights}), architecture=tmp_path / "m.json", keras_version=version,
                           backend="theano")
    for name, values in (("a", FIRST), ("b", SECOND)):
        found = bundle[f"inner/{name}"]
        assert same(found, {**values, "moving_variance": found.moving_variance})


@pytest.mark.parametrize("has_config", [True, False])
def test_names_of_keras_1_that_both_orders_have_in_one_order(tmp_path, has_config):
    """Behind the last layer with trainable weights, a batch norm is saved under its own names, whatever the version."""
    inner = sequential(layer("Dense", "d", output_dim=3), layer("BatchNormalization", "a", epsilon=0.01, axis=-1, mode=0), name="inner")
    path = write(tmp_path / "m.h5", {"inner": [("d_W", KERNEL), ("d_b", FIRST["beta"]), *old("a", FIRST)]})
    if not has_config:
        with pytest.raises(UnresolvedError, match="inner/a: the file contains neither its epsilon nor the version"):  # that alone
            exporter.read(path)
        return
    (tmp_path / "m.json").write_text(json.dumps({"class_name": "Sequential", "config": [inner]}))
    bundle = exporter.read(path, architecture=tmp_path / "m.json")
    assert same(bundle["inner/a"], {**FIRST, "moving_variance": bundle["inner/a"].moving_variance})


@pytest.mark.parametrize(("scope", "config", "is_refused"), [
    ("bn", norm("bn"), True), ("td", layer("TimeDistributed", "td", layer=norm("bn")), False), ("", norm("bn"), True),
    ("mine", layer("lab>Block", "mine", part=norm("bn")), False)])
def test_more_weights_than_a_batch_norm_has(tmp_path, scope, config, is_refused):
    """Of a layer itself; a wrapper and a cell have weights of their own in the scope that their batch norm has, too."""
    more = [(f"{scope}/gain:0" if scope else "gain:0", FIRST["gamma"])]
    weights = named(scope, FIRST) if scope else bare(FIRST, ROLES)
    path = write(tmp_path / "m.h5", {config["config"]["name"]: weights + more}, sequential(config), keras_version="2.2.4")
    if is_refused:
        with pytest.raises(UnresolvedError, match=r"bn: it has weights that a batch norm does not have"):
            exporter.read(path)
        return
    assert [each.name for each in exporter.read(path)] == ["bn"]


def test_gamma_and_beta_of_another_layer_in_a_group_of_keras_1(tmp_path):
    """Its names have no scopes: they are no weights that the batch norm has too many."""
    weights = [*old("bn", FIRST), ("ln_gamma", SECOND["gamma"]), ("ln_beta", SECOND["beta"])]
    inner = sequential(layer("BatchNormalization", "bn", epsilon=0.01, mode=0, axis=-1), layer("LayerNorm", "ln"), name="inner")
    path = write(tmp_path / "m.h5", {"inner": weights}, {"class_name": "Sequential", "config": [inner]}, keras_version="1.2.2")
    bundle = exporter.read(path)
    assert (bundle.paths(), bundle.skipped) == (["inner/bn"], ())
    assert same(bundle["inner/bn"], FIRST)


@pytest.mark.parametrize(("name", "is_one"), [("kernel:0", True), ("gain:0", False)])
def test_more_weights_beside_a_batch_norm_that_no_config_describes(tmp_path, name, is_one):
    """A kernel and its batch norm share a scope in a layer that is both; other weights are of another kind of layer."""
    weights = [*named("mine", FIRST), (f"mine/{name}", KERNEL)]
    path = write(tmp_path / "m.h5", {"mine": weights}, sequential(layer("lab>Block", "mine")), keras_version="2.2.4")
    if is_one:
        assert exporter.read(path, epsilon=0.1).paths() == ["mine"]
        return
    with pytest.raises(UnresolvedError, match=r"mine: it has weights that a batch norm does not have"):
        exporter.read(path, epsilon=0.1)


@pytest.mark.parametrize("of_another", [("gamma",), ("beta",), ("gamma", "beta")], ids="-".join)
def test_gamma_and_beta_that_another_layer_has_as_well(tmp_path, of_another):
    """`second.gamma = first.gamma` (Keras 2.2.4, TensorFlow 1.12): the group contains it under the name of the first layer."""
    own = {**SECOND, **{role: FIRST[role] for role in of_another}}
    weights = [(f"{'first' if role in of_another else 'second'}/{role}:0", own[role]) for role in ROLES]
    groups = {"first": named("first", FIRST), "second": weights}
    path = write(tmp_path / "m.h5", groups, sequential(norm("first"), norm("second")), keras_version="2.2.4")
    assert same(exporter.read(path)["second"], own, ROLES)
    alone = write(tmp_path / "w.h5", groups, keras_version="2.2.4")
    with pytest.raises(UnresolvedError, match=f"second: its group also contains first/{of_another[0]}:0") as caught:
        exporter.read(alone, epsilon=0.1)
    assert "it may be the layer's own" in str(caught.value)
    assert exporter.read(alone, epsilon=0.1, skip_unresolved=True).paths() == ["first"]


@pytest.mark.parametrize("role", ROLES[:2])
def test_the_only_one_of_gamma_and_beta_that_another_layer_has_as_well(tmp_path, role):
    """Without the other one, too, the order of the weights is that of a batch norm."""
    own = {**SECOND, role: FIRST[role]}
    weights = [(f"first/{role}:0", own[role]), *named("second", SECOND, ROLES[2:])]
    flags = {"scale": role == "gamma", "center": role == "beta"}
    path = write(tmp_path / "m.h5", {"first": named("first", FIRST), "second": weights},
                 sequential(norm("first"), norm("second", **flags)), keras_version="2.2.4")
    assert same(exporter.read(path)["second"], own, (role, *ROLES[2:]))


@pytest.mark.parametrize("scope", ["second/", "second_1/", ""])
def test_a_gamma_of_another_layer_behind_beta(tmp_path, scope):
    """tf.keras 2.11 appends it, and its names have no scope if the layer was built before it was called."""
    weights = [(f"{scope}beta:0", SECOND["beta"]), ("first/gamma:0", FIRST["gamma"]),
               *((f"{scope}{role}:0", SECOND[role]) for role in ROLES[2:])]
    for model in (None, sequential(norm("second"))):
        path = write(tmp_path / "w.h5", {"second": weights}, model, keras_version="2.11.0")
        with pytest.raises(UnresolvedError, match="second: its group also contains first/gamma:0"):
            exporter.read(path, epsilon=0.1)
    nested = write(tmp_path / "n.h5", {"model": [("ln/beta:0", FIRST["beta"]), *named("bn", SECOND, (ROLES[0], *ROLES[2:]))]})
    assert same(exporter.read(nested, epsilon=0.1)["model/bn"], SECOND, (ROLES[0], *ROLES[2:]))


def test_gamma_of_another_layer_in_the_same_model(tmp_path):
    """A nested model without a config: the order of its weights shows that the gamma is not the batch norm's."""
    weights = [*named("ln", FIRST, ROLES[:2]), *named("bn", SECOND, ROLES[1:])]
    path = write(tmp_path / "w.h5", {"inner": weights}, keras_version="2.2.4")
    assert same(exporter.read(path, epsilon=0.1)["inner/bn"], SECOND, ROLES[1:])


@pytest.mark.parametrize("class_name", ["BatchNormalization", "lab>DomainNorm"])
@pytest.mark.parametrize("more", ["first/gamma:0", "bn/inner/beta:0"])
def test_additional_weights_that_are_called_like_those_of_a_batch_norm(tmp_path, class_name, more):
    """Keras 3 keeps the layer's own gamma beside that of another layer."""
    entry = {**norm("bn"), "class_name": class_name}
    path = write(tmp_path / "m.h5", {"bn": [*named("bn", FIRST), (more, SECOND["gamma"])]}, sequential(entry), keras_version="2.2.4")
    with pytest.raises(UnresolvedError, match=f"bn: it has weights that a batch norm does not have, .*: {more}; its class is"):
        exporter.read(path)

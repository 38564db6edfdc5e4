"""Weights that are matched with the layers of a config by their names: tfjs and Orbax."""

from __future__ import annotations

import json

import numpy as np
import pytest

from exporter.batchnorm.bundle import Origin
from exporter.keras import dialects
from exporter.keras.config import parse_config
from exporter.sources.shared.found import Found
from exporter.sources.shared.matching import by_name, unmatched
from exporter.sources.shared.options import ReadOptions
from tests.make.v3_files import entry, functional, given, norm, norm_arrays, sequential, shown

A, B = norm_arrays(1), norm_arrays(2)


class Weights:
    """Arrays by name, as a source of such weights gives them."""

    def __init__(self, owners, more=()):
        self.arrays = {f"{owner}/{role}": values for owner, arrays in owners.items() for role, values in arrays.items()}
        self.arrays |= {name: np.ones((3, 3), "f4") for name in more}

    def names(self):
        return self.arrays

    def read(self, name):
        return self.arrays[name], str(self.arrays[name].dtype)

    def quantized(self, owner):
        return f"like {owner}"


def match(layers, owners, *, own_config=True, more=()):
    found = Found(Origin(file="m", kind="tfjs"), ReadOptions())
    tree = parse_config(json.dumps(functional("m", *layers)), "m")
    by_name(tree, Weights(owners, more), dialects.era_of("2.4.0", None), found, own_config=own_config)
    return found


def test_one_layer_of_two_models_is_read_once():
    """The config lists it in each, without a mark; there is one owner of its name."""
    found = match([sequential("s", norm("bn")), sequential("t", norm("bn")), norm("other")], {"bn": A, "other": B})
    assert (shown(found), found.skipped) == ({"s/bn": (0.001, given(A)), "other": (0.001, given(B))}, [])


@pytest.mark.parametrize("other", [norm("bn", epsilon=0.5), norm("bn", class_name="SyncBatchNormalization")])
def test_layers_that_differ_are_not_one(other):
    found = match([sequential("s", norm("bn")), sequential("t", other)], {"bn": A})
    assert (found.paths(), [path for path, _ in found.skipped]) == ([], ["s/bn", "t/bn"])


@pytest.mark.parametrize(("owners", "is_said"), [(("batch_normalization_7", "stem"), True), (("batch_normalization", "stem"), False)])
def test_names_of_another_session_are_said(owners, is_said):
    found = match([norm("batch_normalization"), norm("stem")], dict(zip(owners, (A, B), strict=True)), own_config=False)
    assert shown(found) == {"batch_normalization": (0.001, given(A)), "stem": (0.001, given(B))}
    assert ["numbered in another session" in warning for warning in found.warnings] == [True] * is_said


def test_without_a_config_what_has_the_names_of_a_batch_norms_is_one():
    found = Found(Origin(file="m", kind="tfjs"), ReadOptions())
    unmatched(Weights({"net/bn": A, "own": B}, ["own/mask", "own/kernel"]), found)
    assert (shown(found), found.layers[0].name) == ({"net/bn": (None, given(A))}, "bn")
    assert [(path, "own/mask" in reason) for path, reason in found.skipped] == [("own", True)]
    assert found.layers[0].quantized == "like net/bn"


def test_two_layers_that_only_one_owner_fits():
    """Neither gets it, and the rest is nobody's."""
    layers = [sequential("s", norm("a")), sequential("t", norm("a", epsilon=0.5))]
    found = match(layers, {"a_1": A, "other_2": B})
    assert ([path for path, _ in found.skipped], [path for path in found.paths() if "a" in path]) == (["s/a", "t/a"], [])


@pytest.mark.parametrize("is_own", [True, False])
def test_a_kernel_beside_a_batch_norm_is_a_renamed_layers_unless_the_class_is_the_users(is_own):
    found = match([norm("dense", registered="own>Norm" if is_own else None)], {"dense": A}, more=["dense/kernel"])
    assert (found.paths(), len(found.skipped)) == (([], 1) if is_own else (["dense"], 0))


def test_a_layer_of_a_users_class_in_the_scope_of_its_wrapper():
    """Kernels in that scope are the wrapper's own; in its own scope they are the layer's."""
    wrapped = entry("TimeDistributed", "td", layer=norm("bn", registered="own>Norm"))
    found = match([wrapped], {"td": A}, more=["td/kernel"])
    assert (found.paths(), found.skipped) == (["td/bn"], [])
    found = match([wrapped], {"bn": A}, more=["bn/kernel"])
    assert (found.paths(), [path for path, _ in found.skipped]) == ([], ["td/bn"])


def test_of_a_model_that_runs_another_only_that_layer_is_named():
    found = match([norm("bn"), entry("Dense", "d"), entry("TFSMLayer", "served", filepath="x")], {"bn": A})
    assert (found.paths(), [path for path, _ in found.left_out], found.skipped) == (["bn"], ["served"], [])

"""Batch norms of a user's layer that its config does not describe, beside those that it does."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import ROLES, named, parameters, write


def test_one_that_is_not_used_does_not_get_the_weights_of_another(tmp_path):
    block = layer("acme>Block", "block", template=norm("template", epsilon=0.5))
    write(tmp_path / "m.h5", {"block": named("block/hidden", parameters())}, sequential(block), keras_version="2.4.0")
    with pytest.raises(exporter.FormatError, match=r"'block/template' at the position of .* 'block/hidden', in a custom class"):
        exporter.read(tmp_path / "m.h5")


@pytest.mark.parametrize("scope", ["block/described", "described", "block", "block/described_1", "block_2"])
def test_one_whose_scope_fits_does(scope, tmp_path):
    block = layer("acme>Block", "block", part=norm("described", epsilon=0.5))
    write(tmp_path / "m.h5", {"block": named(scope, parameters())}, sequential(block), keras_version="2.4.0")
    assert exporter.read(tmp_path / "m.h5")["block/described"].epsilon == 0.5


@pytest.mark.parametrize("entry", [layer("TimeDistributed", "outer", layer=norm("inner")), sequential(norm("inner"), name="outer")])
def test_what_can_hold_no_other_may_have_been_renamed(entry, tmp_path):
    write(tmp_path / "m.h5", {"outer": named("before", parameters())}, sequential(entry), keras_version="2.4.0")
    assert exporter.read(tmp_path / "m.h5").paths() == ["outer/inner"]


def test_two_arrays_of_an_archive_are_not_one_layer(tmp_path):
    """The path of a layer and its name."""
    import json

    scopes = {f"{scope}/{role}:0": parameters(seed=seed)[role] for seed, scope in enumerate(("a/bn", "bn")) for role in ROLES}
    np.savez(tmp_path / "w.npz", **scopes)
    (tmp_path / "m.json").write_text(json.dumps(sequential(sequential(norm("bn"), name="a"), sequential(norm("c"), name="x"))))
    with pytest.raises(exporter.FormatError, match="they do not match"):
        exporter.read(tmp_path / "w.npz", architecture=tmp_path / "m.json")


def test_one_that_was_never_built_beside_a_hidden_one(tmp_path):
    inner = sequential(norm("a"), norm("unbuilt"), layer("acme>Block", "block"), name="inner")
    weights = [*named("a", parameters()), *named("block/hidden", parameters())]
    with pytest.raises(exporter.UnresolvedError) as refused:
        exporter.read(write(tmp_path / "m.h5", {"inner": weights}, sequential(inner), keras_version="2.4.0"))
    assert {path for path, _ in refused.value.layers} == {"inner/unbuilt", "inner/block/hidden"}

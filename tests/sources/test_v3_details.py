"""Keras's own format where a detail decides what is read: layers without a name, without a group, and with negative numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from exporter.errors import FormatError
from exporter.files.place import Place
from exporter.sources import keras_archive, keras_weights
from exporter.sources.shared.architecture import node_tree_from
from exporter.sources.shared.options import ReadOptions
from tests.make.v3_files import entry, functional, given, norm, norm_arrays, shown, write_archive, write_weights

A, B, C = (norm_arrays(seed) for seed in range(3))


def archive(tmp_path, *layers, groups, **options):
    return keras_archive.read(Place(write_archive(tmp_path / "m.keras", functional("m", *layers), groups, **options)), ReadOptions())


@pytest.mark.parametrize("has_group", ["named", True, False])
def test_a_sequential_without_a_name(tmp_path, has_group):
    """Keras 1 gave it none in its config; it has that of its weights, or else that of its group."""
    inner = {"class_name": "Sequential", "config": [norm("bn", epsilon=0.5)]}
    (tmp_path / "m.json").write_text(json.dumps({"class_name": "Sequential", "config": [inner, norm("other")]}))
    if has_group == "named":
        groups = {"layers/batch_normalization": (A, "other"), "layers/sequential": ([], "seq"),
                  "layers/sequential/layers/batch_normalization": (B, "bn")}
    else:
        groups = {"layers/batch_normalization": A} | ({"layers/sequential/layers/batch_normalization": B} if has_group else {})
    place = Place(write_weights(tmp_path / "m.weights.h5", groups))
    options = ReadOptions(architecture=Place(tmp_path / "m.json"))
    if has_group:
        assert shown(keras_weights.read(place, options)) == {
            f"{'seq' if has_group == 'named' else 'sequential'}/bn": (0.5, given(B)), "other": (0.001, given(A))}
        return
    with pytest.raises(FormatError, match="bn: the architecture does not match: the weights have no group for this batch norm"):
        keras_weights.read(place, options)


def test_a_layer_without_weights_counts_twice_in_2_12_where_it_is_one_of_another_model(tmp_path):
    """A batch norm has weights, also where the file lacks them: what comes after it in another model has the next group but one."""
    inside = "_layer_checkpoint_dependencies"
    layers = [norm("a", shared=7), functional("f", norm("a", shared=7), norm("b", epsilon=0.5))]
    groups = {f"{inside}/functional/{inside}/batch_normalization_2": B}
    found = archive(tmp_path, *layers, groups=groups, version="2.12.0")
    assert (shown(found), [path for path, _ in found.skipped]) == ({"f/b": (0.5, given(B))}, ["a"])


def test_a_folder_without_weights_lacks_them_and_no_list_of_shards(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(functional("m", norm("bn"))))
    (tmp_path / "metadata.json").write_text(json.dumps({"keras_version": "3.4.0"}))
    with pytest.raises(FormatError) as caught:
        keras_archive.read(Place(tmp_path), ReadOptions())
    assert "model.weights.h5" in str(caught.value)
    assert "json" not in str(caught.value)


def test_a_folder_as_an_architecture(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(functional("m", norm("bn"))))
    (tmp_path / "metadata.json").write_text(json.dumps({"keras_version": "3.4.0"}))
    found = node_tree_from(Place(tmp_path))
    assert ([child.name for _, child in found.tree.children], found.keras_version) == (["bn"], "3.4.0")


@pytest.mark.parametrize("name", ["folder", "list.json"])
def test_what_is_no_list_of_shards(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.json").write_text('{"weights": {}}')
    assert not keras_weights.claims(Place(tmp_path / name))


@pytest.mark.parametrize(("count", "is_mentioned"), [(2, False), (3, True), (4, True)])
def test_arrays_in_the_rank_of_the_input_whose_last_is_no_variance(tmp_path, count, is_mentioned):
    """Two may be anything. More may be a batch norm's whose order is another one."""
    arrays = [np.full((1, 3, 1, 2), value, "f4") for value in (1, 2, 3, -4)[-count:]]
    path = write_weights(tmp_path / "m.weights.h5", {"layers/batch_normalization": A, "block/blur": arrays})
    found = keras_weights.read(Place(path), ReadOptions())
    assert [path for path, _ in found.left_out] == ["block/blur"] * is_mentioned


@pytest.mark.parametrize("kernels", [True, False])
def test_kernels_are_read_where_they_are_asked_for(tmp_path, kernels):
    (tmp_path / "m.json").write_text(json.dumps({"class_name": "Sequential", "config": {"name": "m", "layers": [
        entry("Dense", "d", units=3, use_bias=True), norm("bn")]}}))
    groups = {"layers/dense": [np.ones((2, 3), "f4"), np.zeros(3, "f4")], "layers/batch_normalization": A}
    path = write_weights(tmp_path / "m.weights.h5", groups)
    found = keras_weights.read(Place(path), ReadOptions(architecture=Place(tmp_path / "m.json"), kernels=kernels))
    assert (found.kernels is not None) is kernels
    assert not kernels or found.kernels["bn"].kernel.tolist() == np.ones((2, 3)).tolist()


def test_a_layer_before_a_batch_norm_whose_group_is_empty(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"class_name": "Sequential", "config": {"name": "m", "layers": [
        entry("Dense", "d", units=3, use_bias=True), norm("bn")]}}))
    path = write_weights(tmp_path / "m.weights.h5", {"layers/dense": [], "layers/batch_normalization": A})
    found = keras_weights.read(Place(path), ReadOptions(architecture=Place(tmp_path / "m.json"), kernels=True))
    assert found.kernels == {"bn": "which group of the weights is that of d, which feeds it, is not certain"}


@pytest.mark.parametrize("is_told", [True, False])
def test_two_vectors_in_a_class_whose_config_has_a_batch_norm(tmp_path, is_told):
    """They are likely those of its batch norm, where the config does not say which group that has."""
    block = entry("Block", "block", registered="lab>Block", **({"first": norm("n")} if is_told else {}))
    groups = {"layers/batch_normalization": A, "layers/block/other": list(B.values())[2:]}
    found = archive(tmp_path, norm("bn"), block, groups=groups)
    assert ([path for path, _ in found.skipped], [path for path, _ in found.left_out]) == (
        (["block/other"], []) if is_told else ([], ["block/other"]))

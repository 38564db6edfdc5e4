"""Keras's .keras files and folders: whose numbers a group holds, and what the config and it have to agree on."""

from __future__ import annotations

import json
import re
import zipfile

import numpy as np
import pytest

import exporter
from exporter.errors import ExporterError, FormatError, LayerError, UnresolvedError, UnsupportedError
from exporter.files.input_file import LocalFile
from exporter.files.place import Place
from exporter.sources import keras_archive
from exporter.sources.shared.archive import read_architecture
from exporter.sources.shared.options import ReadOptions
from tests.make.v3_files import (
    entry,
    functional,
    given,
    norm,
    norm_arrays,
    sequential,
    shown,
    stored,
    weights_bytes,
    write_archive,
    write_weights,
)

A, B, C, D = (norm_arrays(seed) for seed in range(4))


@pytest.fixture
def model(tmp_path):
    """model(config, groups, **options) -> the bundle of such a .keras file, before the gate."""

    def make(config, groups, **options):
        place = Place(write_archive(tmp_path / "m.keras", config, groups, **options))
        assert keras_archive.claims(place)
        return keras_archive.read(place, ReadOptions())

    return make


def error(call, *words, kind=ExporterError, **fields):
    with pytest.raises(kind) as caught:
        call(*words, **fields)
    return f"{caught.value} | {caught.value.hint}"


def test_one_layer_in_full(model):
    config = functional("net", norm("bn_1", epsilon=0.002, build=[None, 8, 3], momentum=0.9))
    bundle = model(config, {"layers/batch_normalization": A}, version="3.2.1")
    layer = bundle.layers[0]
    assert shown(bundle) == {"bn_1": (0.002, given(A))}
    assert (layer.name, layer.class_name, layer.axis, layer.shape, layer.ndim, layer.dtype) == (
        "bn_1", "BatchNormalization", (-1,), (3,), 3, "float32")
    assert (layer.momentum, layer.assumed, layer.effective_epsilon) == (0.9, (), None)
    assert (bundle.origin.kind, bundle.origin.keras_version, bundle.skipped, bundle.warnings) == ("keras-archive", "3.2.1", [], [])


def test_groups_count_classes_and_names_do_not_matter(model):
    """A layer named like another's group."""
    layers = [norm("batch_normalization_1", epsilon=0.1), entry("Dense", "batch_normalization"), norm("dense", epsilon=0.2),
              norm("vars", epsilon=0.3)]
    groups = {"layers/batch_normalization": A, "layers/batch_normalization_1": B, "layers/batch_normalization_2": C,
              "layers/dense": [np.ones((2, 3)), np.ones(3)]}
    assert shown(model(functional("m", *layers), groups)) == {
        "batch_normalization_1": (0.1, given(A)), "dense": (0.2, given(B)), "vars": (0.3, given(C))}


def test_more_than_ten_of_a_class(model):
    arrays = [norm_arrays(seed) for seed in range(12)]
    groups = {f"layers/batch_normalization{f'_{i}' if i else ''}": arrays[i] for i in range(12)}
    bundle = model(sequential("m", *(norm(f"n{i}") for i in range(12))), groups)
    assert shown(bundle) == {f"n{i}": (0.001, given(arrays[i])) for i in range(12)}


@pytest.mark.parametrize(("version", "container", "step"), [
    ("2.11.0", "layers", 1), ("2.12.0", "_layer_checkpoint_dependencies", 2), ("2.13.1", "_layer_checkpoint_dependencies", 2),
    ("2.14.0", "_layer_checkpoint_dependencies", 1), ("2.15.0", "layers", 1), ("3.0.5", "layers", 1)])
def test_how_versions_count(model, version, container, step):
    """2.12 and 2.13 count a layer with weights twice, one without once."""
    def name(base, number):
        return f"{container}/{base}" + (f"_{number}" if number else "")

    layers = [norm("a", axis=[1]), sequential("empty", entry("Activation", "relu")), sequential("s", norm("b", axis=[1])),
              norm("c", axis=[1]), sequential("t", norm("d", axis=[1]))]
    groups = {name("batch_normalization", 0): A, name("sequential", 0): [], f"{name('sequential', 1)}/{container}/batch_normalization": B,
              name("batch_normalization", step): C, f"{name('sequential', 1 + step)}/{container}/batch_normalization": D}
    bundle = model(functional("m", *layers), groups, version=version, weights="variables.h5" if version == "2.11.0" else "model.weights.h5")
    assert shown(bundle) == {"a": (0.001, given(A)), "s/b": (0.001, given(B)), "c": (0.001, given(C)), "t/d": (0.001, given(D))}
    assert bundle.layers[0].axis == (1,)


def test_without_a_version_the_numbering_that_fits(model):
    layers = functional("m", norm("a"), norm("b"), norm("c"))
    inside = "_layer_checkpoint_dependencies/batch_normalization"
    ones, twos = {inside: A, f"{inside}_1": B, f"{inside}_2": C}, {inside: A, f"{inside}_2": B, f"{inside}_4": C}
    expected = {name: (0.001, given(arrays)) for name, arrays in (("a", A), ("b", B), ("c", C))}
    assert shown(model(layers, ones, metadata__json=None)) == expected
    assert shown(model(layers, twos, metadata__json=None)) == expected


def test_variables_are_renumbered_without_gamma_or_beta(model):
    layers, groups = [], {}
    for number, (center, scale) in enumerate([(True, True), (True, False), (False, True), (False, False)]):
        layers.append(norm(f"n{number}", center=center, scale=scale))
        groups[f"layers/batch_normalization{f'_{number}' if number else ''}"] = norm_arrays(number, center=center, scale=scale)
    bundle = model(functional("m", *layers), groups)
    assert [stored(layer) for layer in bundle] == [given(arrays) for arrays in groups.values()]
    assert [(layer.gamma is None, layer.beta is None) for layer in bundle] == [(False, False), (True, False), (False, True), (True, True)]


def test_renorm_adds_variables_that_inference_does_not_use(model):
    arrays = list(A.values()) + [np.full(3, value, "f4") for value in (7, 8, 9)]
    bundle = model(functional("m", norm("bn", renorm=True, renorm_momentum=0.9)), {"layers/batch_normalization": arrays})
    assert shown(bundle) == {"bn": (0.001, given(A))}


def test_wrappers_cells_and_nests(model):
    cell = entry("NormCell", "cell", registered="lab>NormCell", units=3)
    layers = [
        entry("TimeDistributed", "td", layer=norm("inner", epsilon=0.1)),
        entry("TimeDistributed", "td2", layer=sequential("sub", norm("deep", epsilon=0.2))),
        entry("Bidirectional", "bi", layer=entry("RNN", "forward_rnn", cell=cell), backward_layer=entry("RNN", "backward_rnn", cell=cell)),
        entry("RNN", "stacked", cell=entry("StackedRNNCells", "stack", cells=[cell, cell])),
    ]
    e, f = norm_arrays(7), norm_arrays(8)
    groups = {"": ([], "m"), "layers/time_distributed/layer": (A, "inner"),
              "layers/time_distributed_1/layer/layers/batch_normalization": (B, "deep"),
              "layers/bidirectional/forward_layer/cell/norm": (C, "cell_norm"),
              "layers/bidirectional/backward_layer/cell/norm": (D, "cell_norm"), "layers/bidirectional/layer/cell/norm": ([], "cell_norm"),
              "layers/rnn/cell/cells/norm_cell/norm": (e, "cell_norm"), "layers/rnn/cell/cells/norm_cell_1/norm": (f, "cell_norm")}
    paths = ["td/inner", "td2/sub/deep", "bi/forward_rnn/cell/cell_norm", "bi/backward_rnn/cell/cell_norm", "stacked/stack/cell/cell_norm",
             "stacked/stack/cell/cell_norm"]
    bundle = model(functional("m", *layers), groups)
    assert bundle.paths() == paths
    assert [stored(layer) for layer in bundle] == [given(arrays) for arrays in (A, B, C, D, e, f)]
    assert [layer.epsilon for layer in bundle] == [0.1, 0.2, None, None, None, None]


def test_a_shared_layer_stands_once(model):
    nested = functional("nested", norm("twice", shared=7), norm("own"))
    layers = [norm("twice", shared=7), nested, norm("last")]
    groups = {"layers/batch_normalization": A, "layers/functional/layers/batch_normalization_1": B, "layers/batch_normalization_1": C}
    expected = {"twice": (0.001, given(A)), "nested/own": (0.001, given(B)), "last": (0.001, given(C))}
    assert shown(model(functional("m", *layers), groups)) == expected
    for layer in (layers[0], nested["config"]["layers"][0]):  # 2.11 and 2.12 have no identities of inner layers
        del layer["shared_object_id"]
    assert shown(model(functional("m", *layers), groups)) == expected
    block = entry("Block", "blk", registered="lab>Block", norm=norm("twice"))  # it, or a model of it, keeps the layer as an attribute
    bundle = model(functional("m", norm("twice"), block), {"layers/batch_normalization": A, "layers/block": []})
    assert (shown(bundle), bundle.skipped) == ({"twice": (0.001, given(A))}, [])


def test_users_batch_norms_and_impostors(model):
    layers = [norm("mine", class_name="GhostNorm2D", registered="lab>GhostNorm2D", epsilon=0.5, extra=1),
              entry("BatchNormalization", "fake", registered="fake>BatchNormalization"), norm("real")]
    groups = {"layers/ghost_norm2d": A, "layers/batch_normalization": [np.ones(3), -np.ones(3)], "layers/batch_normalization_1": B}
    bundle = model(functional("m", *layers), groups)
    assert shown(bundle) == {"mine": (0.5, given(A)), "real": (0.001, given(B))}
    assert bundle.layers[0].class_name == "lab>GhostNorm2D"  # as an .h5 of Keras 3 has it


def test_optimizer_and_metrics_are_no_layers(model):
    groups = {"layers/batch_normalization": A, "optimizer": list(B.values()), "metrics/auc": list(C.values()),
              "_compile_metrics/metrics/auc": list(C.values())}
    assert shown(model(functional("m", norm("bn")), groups)) == {"bn": (0.001, given(A))}


def test_subclassed_model_with_names(model):
    """Its config lists no layers; since Keras 3.6 the names are in the weights."""
    config = entry("Net", "net", registered="lab>Net")
    three = list(norm_arrays(9, center=False).values())
    groups = {"": ([], "net"), "block": ([], "blk"), "block/norm": (A, "batch_normalization_4"),
              "block/fc": ([np.ones((2, 3)), np.ones(3)], "dense"),
              "layers/batch_normalization": (B, "stem"), "norms/batch_normalization": (three, "lost"), "odd": (C, "other"),
              "ln": ([np.ones(3), np.zeros(3)], "layer_normalization"), "pair": ([np.ones(3), np.zeros(3)], "pair"),
              "auc": ([np.float32([3, 1]), np.float32([0, 2]), np.float32([5, 5]), np.float32([1, 1])], "auc")}
    bundle = model(config, groups)
    assert shown(bundle) == {"blk/batch_normalization_4": (None, given(A)), "stem": (None, given(B)), "other": (None, given(C))}
    assert [(path, "gamma or beta" in reason) for path, reason in bundle.skipped] == [("lost", True)]
    said = "\n".join(bundle.warnings)
    assert re.findall(r"(.*): assumed to be a batch norm because it contains four vectors of one length", said) == [
        "blk/batch_normalization_4", "other"]
    assert "pair: it contains two vectors of one length" in said
    assert "ln" not in said
    assert bundle.layers[0].axis is None


def test_subclassed_model_without_names(model):
    groups = {"block/norm": A, "layers/batch_normalization_1": B, "_layers/x": [np.ones(3, "f4")] * 3}
    bundle = model(entry("Net", "net", registered="lab>Net"), groups, version="3.3.3")
    assert shown(bundle) == {"block/norm": (None, given(A)), "layers/batch_normalization_1": (None, given(B))}
    assert [path for path, _ in bundle.skipped] == ["_layers/x"]


def test_config_inside_a_users_class(model):
    """Layers that its get_config holds: by the attribute of their key, or by their names."""
    block = entry("Block", "blk", registered="lab>Block", norm=norm("a", epsilon=0.1), other=norm("b", epsilon=0.2),
                  inner=functional("f", norm("c", epsilon=0.3)), blocks=[norm("d", epsilon=0.4)])
    groups = {"": ([], "m"), "layers/block": ([], "blk"), "layers/block/norm": (A, "a"), "layers/block/_hidden": (B, "b"),
              "layers/block/_model": ([], "f"), "layers/block/_model/layers/batch_normalization": (C, "c"),
              "layers/block/many/batch_normalization": (D, "d")}
    assert shown(model(functional("m", block), groups)) == {
        "blk/a": (0.1, given(A)), "blk/f/c": (0.3, given(C)), "blk/b": (0.2, given(B)), "blk/d": (0.4, given(D))}
    nameless = {path: arrays[0] for path, arrays in groups.items() if path}
    assert {path: epsilon for path, (epsilon, _) in shown(model(functional("m", block), nameless)).items()} == {
        "blk/a": 0.1, "blk/_hidden": None, "blk/_model/layers/batch_normalization": None, "blk/many/batch_normalization": None}


@pytest.mark.parametrize("listed", [["a", "b"], ["a", "b", "c"], ["a"]])
def test_a_list_in_a_users_class_is_read_in_order_if_it_has_as_many_layers_as_the_config(model, listed):
    """Without names in the weights only their number shows that these are the layers."""
    block = entry("Block", "blk", registered="lab>Block", blocks=[norm("a", epsilon=0.1), norm("b", epsilon=0.2)])
    groups = {f"layers/block/blocks/batch_normalization{f'_{n}' if n else ''}": arrays for n, arrays in zip(range(len(listed)), (A, B, C))}
    found = shown(model(functional("m", block), groups, version="3.3.3"))
    if len(listed) == 2:
        assert found == {"blk/a": (0.1, given(A)), "blk/b": (0.2, given(B))}
    else:
        assert {epsilon for epsilon, _ in found.values()} == {None}
        assert [values for _, values in found.values()] == [given(arrays) for arrays in (A, B, C)[:len(listed)]]


def test_a_namesake_inside_a_users_class(model):
    """Without names in the weights an impostor cannot be told from a batch norm: neither is exported."""
    inner = functional("f", norm("real"), entry("BatchNormalization", "fake", registered="fake>BatchNormalization"))
    config = functional("m", entry("Block", "blk", registered="lab>Block", inner=inner))
    hidden = "layers/block/_hidden/layers/batch_normalization"
    bundle = model(config, {hidden: A, f"{hidden}_1": B}, version="3.3.3")
    assert not bundle.layers
    assert ["a custom class that is only named BatchNormalization" in reason for _, reason in bundle.skipped] == [True, True]


def test_unbuilt_and_missing(model):
    bundle = model(functional("m", norm("here"), norm("gone")), {"layers/batch_normalization": A})
    assert bundle.paths() == ["here"]
    assert bundle.skipped[0][0] == "gone"
    assert "no weights" in bundle.skipped[0][1]
    bundle = model(functional("m", norm("gone")), {"layers/batch_normalization": ([], "gone")})
    assert bundle.skipped[0][0] == "gone"
    block = entry("Block", "blk", registered="lab>Block", norm=norm("inside"))
    bundle = model(functional("m", norm("here"), block), {"layers/batch_normalization": A, "layers/block": []})
    assert bundle.paths() == ["here"]
    assert [(path, "no weights" in reason) for path, reason in bundle.skipped] == [("blk/inside", True)]

def test_a_layer_with_one_variable_more_does_not_hide_the_others(model, tmp_path):
    """A gamma that was assigned to a built layer is saved with its own; the name in its group shows that the group is the layer's."""
    a, b = list(A.values()), list(B.values())
    groups = {"layers/batch_normalization": (A, "a"), "layers/batch_normalization_1": ([*b[:2], a[0], *b[2:]], "b")}
    config = functional("m", norm("a"), norm("b"))
    found = model(config, groups)
    assert shown(found) == {"a": (1e-3, given(A))}
    assert found.skipped == [("b", "the file contains 5 variables for it, which does not match center, scale and renorm of its config; its "
                              "class is BatchNormalization")]
    (tmp_path / "m.weights.h5").write_bytes(weights_bytes(groups))
    (tmp_path / "m.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="b: the file contains 5 variables for it"):  # the architecture may be another model's
        exporter.read(tmp_path / "m.weights.h5", architecture=tmp_path / "m.json", skip_unresolved=True)



def test_config_and_weights_that_do_not_fit(model):
    def said(config, arrays, **fields):
        return error(model, functional("m", config), {"layers/batch_normalization": arrays}, kind=FormatError, **fields)

    values = list(A.values())
    assert "bn: the file contains 3 variables for it" in said(norm("bn"), values[:3])
    assert "bn: the file contains 4 variables for it" in said(norm("bn", scale=False), values)
    assert "bn: the file contains 4 variables for it" in said(norm("bn", scale=False), (A, "bn"))
    assert "bn: the file contains 5 variables for it" in said(norm("bn", scale=False), ([*values, values[0]], "bn"))
    assert "bn: the file contains 5 variables for it" in said(norm("bn"), [*values, values[0]])
    assert "bn: the file contains 3 variables for it" in said(norm("bn"), (values[:3], "bn"))
    assert "bn: the file contains 5 variables for it" in said(norm("bn", renorm=True), ([*values, values[0]], "bn"))
    assert "its parameters have different shapes" in said(norm("bn"), [values[0][:2], *values[1:]])
    assert "its parameters have different types" in said(norm("bn"), [values[0].astype("f8"), *values[1:]])
    assert "its parameters have different shapes" in said(norm("bn"), [*values[:3], values[3].reshape(1, 3)])
    assert "expected one dimension for axis -1" in said(norm("bn"), [value.reshape(1, 3) for value in values])
    assert "has 3 channels, but was built on" in said(norm("bn", build=[None, 4]), values)
    assert "calls this layer 'bn', the weights 'other'" in said(norm("bn"), (A, "other"))
    assert "integers" in said(norm("bn"), [value.astype("i4") for value in values])
    extra = {"layers/batch_normalization": A, "layers/batch_normalization_1": B}
    assert "the config does not" in error(model, functional("m", norm("bn")), extra)
    both = {"layers/batch_normalization": A, "_layer_checkpoint_dependencies/batch_normalization": B}
    assert "in a model, got both" in error(model, functional("m", norm("bn")), both, kind=FormatError)
    custom = model(functional("m", norm("bn", class_name="MyBN", registered="lab>MyBN")), {"layers/my_bn": [*values, values[0]]})
    assert "5 variables" in custom.skipped[0][1]


def test_a_variable_that_is_missing(model, tmp_path):
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        for number, value in zip((0, 2, 3), A.values(), strict=False):
            file[f"layers/batch_normalization/vars/{number}"] = value
    said = error(model, functional("m", norm("bn")), {}, model__weights__h5=(tmp_path / "w.h5").read_bytes())
    assert "its variables are named 0, 2, 3: one is missing" in said


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_types(tmp_path, dtype):
    import h5py

    arrays = norm_arrays(3, dtype="float32" if dtype == "bfloat16" else dtype)
    if dtype == "bfloat16":
        arrays = {name: (values.view("u4") >> 16 << 16).view("f4") for name, values in arrays.items()}
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for number, values in enumerate(arrays.values()):
            if dtype == "bfloat16":
                values = (values.view("u4") >> 16).astype("u2").view("V2")
            file[f"layers/batch_normalization/vars/{number}"] = values
            if dtype == "bfloat16":
                file[f"layers/batch_normalization/vars/{number}"].attrs["dtype"] = "bfloat16"
    write_archive(tmp_path / "m.keras", functional("m", norm("bn")), {}, model__weights__h5=(tmp_path / "w.h5").read_bytes())
    layer = exporter.read(tmp_path / "m.keras")["bn"]
    assert layer.dtype == dtype
    assert stored(layer) == given(arrays)


def test_axes_of_tf_keras(model):
    """Lists of axes keep parameters in the input's rank; a virtual batch moves the axis by one."""
    full = norm_arrays(5, shape=(1, 3, 1, 2))
    bundle = model(functional("m", norm("bn", axis=[1, 3], build=[None, 3, 9, 2])), {"layers/batch_normalization": full}, version="2.15.0")
    assert (bundle.layers[0].axis, bundle.layers[0].shape, bundle.layers[0].ndim) == ((1, 3), (3, 2), 4)
    assert bundle.layers[0].gamma.ravel().tolist() == full["gamma"].ravel().tolist()
    virtual = norm_arrays(6, shape=(1, 1, 1, 1, 4))
    config = functional("m", norm("bn", axis=[4], virtual_batch_size=2, build=[None, 5, 5, 4]))
    bundle = model(config, {"layers/batch_normalization": virtual})
    assert (bundle.layers[0].axis, bundle.layers[0].shape, bundle.layers[0].ndim) == ((3,), (4,), 4)
    assert "does not match its axes [1, 2]" in error(model, functional("m", norm("bn", axis=[1, 2])), {"layers/batch_normalization": full})


def test_fused_kernel_of_2_11(model):
    config = functional("m", norm("bn", axis=[3], epsilon=1e-7, build=[None, 8, 8, 3]))
    bundle = model(config, {"layers/batch_normalization": A}, version="2.11.0", weights="variables.h5")
    assert (bundle.layers[0].epsilon, bundle.layers[0].effective_epsilon) == (1e-7, 1.001e-5)
    assert model(config, {"layers/batch_normalization": A}).layers[0].effective_epsilon is None


def test_through_the_gate(tmp_path):
    bad = {**A, "moving_variance": np.float32([1, np.nan, 1])}
    write_archive(tmp_path / "m.keras", functional("m", norm("bn")), {"layers/batch_normalization": bad})
    assert r"bn: moving_variance[1] is NaN" in error(exporter.read, tmp_path / "m.keras", kind=LayerError)
    write_archive(tmp_path / "m.keras", entry("Net", "n", registered="a>Net"), {"layers/batch_normalization": A})
    assert "--epsilon" in error(exporter.read, tmp_path / "m.keras", kind=UnresolvedError)
    layer = exporter.read(tmp_path / "m.keras", epsilon=0.01).layers[0]
    assert (layer.epsilon, layer.axis, layer.assumed) == (0.01, (-1,), ("epsilon", "axis"))


def test_pickled_and_missing_parts(tmp_path):
    config, groups = functional("m", norm("bn")), {"layers/batch_normalization": A}

    def said(**members):
        return error(exporter.read, write_archive(tmp_path / "m.keras", config, groups, **members))

    assert "the weights are in NumPy's .npz format" in said(model__weights__h5=None, model__weights__npz=b"\x80\x04.")
    assert "model.weights.h5 is missing" in said(model__weights__h5=None)
    assert "config.json is missing" in said(config__json=None)
    assert "expected model.weights.h5 or variables.h5, got both: which contains the weights is ambiguous" in said(variables__h5=b"")
    assert "not an HDF5 file" in said(model__weights__h5=b"<html>")
    assert "cut short" in said(model__weights__h5=weights_bytes(groups)[:-100])
    assert "config.json" in said(config__json=b"[]")
    pickled = write_archive(tmp_path / "m.keras", config, groups, model__weights__h5=None, model__weights__npz=b"")
    with pytest.raises(UnsupportedError):
        exporter.read(pickled)


def test_metadata_may_be_missing_or_broken(model):
    config, groups = functional("m", norm("bn")), {"layers/batch_normalization": A}
    assert model(config, groups, metadata__json=None).origin.keras_version is None
    bundle = model(config, groups, metadata__json=b"{")
    assert "metadata.json" in bundle.warnings[0]
    assert shown(bundle) == {"bn": (0.001, given(A))}


def test_folder(tmp_path):
    write_archive(tmp_path / "m.keras", functional("m", norm("bn")), {"layers/batch_normalization": A})
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extractall(tmp_path / "model")
    bundle = exporter.read(tmp_path / "model")
    assert (bundle.origin.file, shown(bundle)) == ("model", {"bn": (0.001, given(A))})
    assert read_architecture(Place(tmp_path / "model")).keras_version == "3.15.1"
    (tmp_path / "model" / "model.weights.h5").rename(tmp_path / "model" / "model_00000.weights.h5")
    shards = {"metadata": {"total_size": 48.0}, "weight_map": {"/layers/batch_normalization/vars": ["model_00000.weights.h5"]}}
    (tmp_path / "model" / "model.weights.json").write_text(json.dumps(shards))
    assert shown(exporter.read(tmp_path / "model")) == {"bn": (0.001, given(A))}


def test_a_folder_with_shards_and_whole_weights(tmp_path):
    """What is left of another save beside it is not read."""
    write_archive(tmp_path / "m.keras", functional("m", norm("bn")), {"layers/batch_normalization": A})
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extractall(tmp_path / "model")
    (tmp_path / "model" / "model.weights.json").write_text("{}")
    assert shown(exporter.read(tmp_path / "model")) == {"bn": (0.001, given(A))}


@pytest.mark.parametrize(("children", "groups", "known"), [
    ({"one": norm("b", epsilon=0.2)}, {"_h1": (A, "b"), "_h2": (B, "other")}, {"blk/b": 0.2, "blk/other": None}),
    ({"one": norm("b", epsilon=0.2)}, {"_h1": (A, "b"), "_h2": (B, "b")}, {"blk/b": None}),
    ({"one": norm("b", epsilon=0.2), "two": norm("b", epsilon=0.3)}, {"_h1": (A, "b")}, {"blk/b": None}),
    ({"one": norm("b", epsilon=0.2)}, {"metrics": ([], "metrics"), "metrics/b": (A, "b")}, {})], ids=["one", "groups", "layers", "metrics"])
def test_layers_of_a_users_class_are_found_by_names_that_are_there_once(model, children, groups, known):
    block = entry("Block", "blk", registered="lab>Block", **children)
    held = {"": ([], "m"), "layers/block": ([], "blk"), **{f"layers/block/{path}": each for path, each in groups.items()}}
    assert {path: epsilon for path, (epsilon, _) in shown(model(functional("m", block), held)).items()} == known


def test_what_is_claimed(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("document.xml", "<x/>")
    assert not keras_archive.claims(Place(tmp_path / "other.zip"))
    assert not keras_archive.claims(Place(tmp_path))
    whole = write_archive(tmp_path / "m.keras", functional("m", norm("bn")), {"layers/batch_normalization": A}).read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[:-30])
    assert keras_archive.claims(Place(tmp_path / "cut.keras"))
    assert "cut short" in error(exporter.read, tmp_path / "cut.keras")


def test_which_parts_make_a_model(tmp_path):
    """Two of them in an archive, of which other programs may have one by accident; the config and another in a folder."""
    for number, (names, in_zip, in_folder) in enumerate((
            (["config.json"], False, False), (["config.json", "metadata.json"], True, True), (["config.json", "variables.h5"], True, True),
            (["config.json", "model.weights.json"], True, True), (["config.json", "model.weights.npz"], True, True),
            (["metadata.json", "model.weights.h5"], True, False), (["config.json", "notes.txt"], False, False), ([], False, False))):
        folder = tmp_path / str(number)
        folder.mkdir()
        with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
            for name in [*names, "more.txt"]:
                archive.writestr(name, b"{}")
                (folder / name).write_bytes(b"{}")
        assert (keras_archive.claims(Place(tmp_path / "m.zip")), keras_archive.claims(Place(folder))) == (in_zip, in_folder), names


def test_a_large_model_is_not_read(tmp_path, monkeypatch):
    """Of a stored archive the batch norm's bytes are read and the directory, not the kernel beside it."""
    groups = {"layers/batch_normalization": A, "layers/dense": [np.zeros((3000, 2000), "f4"), np.zeros(2000, "f4")]}
    write_archive(tmp_path / "m.keras", functional("m", norm("bn"), entry("Dense", "d")), groups)
    read = []

    class Counted(LocalFile):
        def readinto(self, buffer):
            read.append(super().readinto(buffer))
            return read[-1]

        def read(self, size=-1):
            data = super().read(size)
            read.append(len(data))
            return data

        def read_at(self, at, size):
            data = super().read_at(at, size)
            read.append(len(data))
            return data

    monkeypatch.setattr(Place, "open", lambda place: Counted(place.local))
    bundle = keras_archive.read(Place(tmp_path / "m.keras"), ReadOptions())
    assert shown(bundle) == {"bn": (0.001, given(A))}
    assert sum(read) < 200_000


@pytest.mark.parametrize("version", ["3.15.1", "2.15.0"])
def test_sharing_that_the_config_lost(tmp_path, version):
    """A layer that the inner model called first has its weights there, and an entry in the outer model that says nothing of it."""
    config = functional("m", functional("inner", norm("bn", epsilon=0.1)), norm("bn", epsilon=0.1, shared=7))
    groups = {"layers/functional/layers/batch_normalization": A}
    archive = write_archive(tmp_path / "m.keras", config, groups, version=version)
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(archive)
    ((path, reason),) = caught.value.layers
    assert path == "bn"
    assert "does not record that they are one" in reason
    assert ".h5" in reason
    weights = write_weights(tmp_path / "m.weights.h5", groups)
    with pytest.raises(FormatError, match="record that they are one"):
        exporter.read(weights, architecture=archive)


@pytest.mark.parametrize("version", ["3.15.1", "2.15.0"])
def test_a_call_in_training_of_a_layer_whose_sharing_is_lost_may_be_one_of_its_other_entry(tmp_path, version):
    outer = {**norm("bn", epsilon=0.1, shared=7), "name": "bn"}
    outer["inbound_nodes"] = [{"args": [], "kwargs": {"training": True}}] if version > "3" else [[["inner", 1, 0, {"training": True}]]]
    config = functional("m", functional("inner", norm("bn", epsilon=0.1)), outer)
    archive = write_archive(tmp_path / "m.keras", config, {"layers/functional/layers/batch_normalization": A}, version=version)
    bundle = exporter.read(archive, skip_unresolved=True, stored_statistics=True)
    assert [(layer.path, layer.called_in_training, layer.calls) for layer in bundle] == [("inner/bn", True, ())]


def test_equal_layers_of_two_models_that_have_their_own_weights_share_nothing(tmp_path):
    """Beside a layer that has none, which says nothing of them."""
    outer = {**norm("bn", epsilon=0.1), "name": "bn", "inbound_nodes": [{"args": [], "kwargs": {"training": True}}]}
    config = functional("m", functional("inner", norm("bn", epsilon=0.1)), outer, norm("unbuilt"))
    groups = {"layers/functional/layers/batch_normalization": A, "layers/batch_normalization": B}
    bundle = exporter.read(write_archive(tmp_path / "m.keras", config, groups), skip_unresolved=True, stored_statistics=True)
    assert [(layer.path, layer.called_in_training) for layer in bundle] == [("inner/bn", False), ("bn", True)]
    assert [(path, "contains no weights" in reason) for path, reason in bundle.skipped] == [("unbuilt", True)]


def test_equal_layers_of_two_models_without_weights_may_be_one(tmp_path):
    config = functional("m", functional("inner", norm("bn", epsilon=0.1)), norm("bn", epsilon=0.1), norm("whole"))
    bundle = exporter.read(write_archive(tmp_path / "m.keras", config, {"layers/batch_normalization_1": A}), skip_unresolved=True)
    assert [(path, "does not record that they are one" in reason) for path, reason in bundle.skipped] == [("inner/bn", True), ("bn", True)]


def test_a_users_layer_that_a_nested_model_calls_too(tmp_path):
    """tf_keras: the outer entry has class and package apart, the nested one together, and no id says that they are one layer."""
    outer = {**norm("bn", epsilon=0.1, class_name="Mine", registered="own>Mine"), "inbound_nodes": [[["x", 0, 0, {}]]]}
    nested = {"class_name": "own>Mine", "config": outer["config"], "name": "bn", "inbound_nodes": [[["y", 0, 0, {}]]]}
    inner = {**functional("inner", entry("InputLayer", "y"), nested), "inbound_nodes": [[["bn", 0, 0, {}]]]}
    config = functional("m", entry("InputLayer", "x"), outer, inner)
    for each, first, last in ((inner, "y", "bn"), (config, "x", "inner")):
        each["config"].update(input_layers=[[first, 0, 0]], output_layers=[[last, 0, 0]])
    groups = {"layers/mine": A, "layers/functional/layers/conv2d": [np.ones(3, "float32")]}
    archive = write_archive(tmp_path / "m.keras", config, groups, version="2.15.0")
    for bundle in (exporter.read(archive), exporter.read(write_weights(tmp_path / "m.weights.h5", groups), architecture=archive)):
        assert shown(bundle) == {"bn": (0.1, given(A))}
        assert [[each.path for each in call.inputs] for call in bundle["bn"].calls] == [["x"], ["bn"]]


def test_what_a_quantizing_wrapper_keeps_for_itself(tmp_path):
    """tfmot's wrapper takes gamma away from its layer where it quantizes that."""
    quantize = {"class_name": "Default8BitQuantizeConfig", "config": {"weight_attrs": ["gamma"], "quantize_output": False}}
    config = functional("m", entry("QuantizeWrapperV2", "quant_bn", layer=norm("bn"), quantize_config=quantize), norm("plain"))
    left = {role: A[role] for role in ("beta", "moving_mean", "moving_variance")}
    groups = {"layers/quantize_wrapper_v2": [A["gamma"]], "layers/quantize_wrapper_v2/layer": left, "layers/batch_normalization": B}
    archive = write_archive(tmp_path / "m.keras", config, groups, version="2.15.0")
    bundle = exporter.read(archive, skip_unresolved=True)
    ((path, reason),) = bundle.skipped
    assert (bundle.paths(), path) == (["plain"], "quant_bn/bn")
    assert "keeps what it quantizes among its own weights" in reason


def test_a_class_whose_name_begins_with_private_has_its_own_groups(tmp_path):
    config = functional("m", norm("bn"), entry("Privatebatch_normalization", "own", registered="lab>Privatebatch_normalization"))
    groups = {"layers/batch_normalization": A, "layers/privatebatch_normalization": B}
    bundle = exporter.read(write_archive(tmp_path / "m.keras", config, groups, version="2.15.0"), skip_unresolved=True)
    assert shown(bundle) == {"bn": (0.001, given(A))}


@pytest.mark.parametrize(("group", "version"), [("private__block", "2.15.0"), ("__block", "3.3.3")])
def test_a_class_with_an_underscore_in_front(model, group, version):
    """tf.keras calls its groups private."""
    block = entry("_Block", "blk", registered="lab>_Block", norm=norm("bn", epsilon=0.1))
    bundle = model(functional("m", block, entry("_Block", "more", registered="lab>_Block", norm=norm("bn", epsilon=0.2))),
                   {f"layers/{group}/norm": A, f"layers/{group}_1/norm": B}, version=version)
    assert shown(bundle) == {"blk/bn": (0.1, given(A)), "more/bn": (0.2, given(B))}


def test_what_all_ways_to_count_agree_on_is_read(model):
    """Without a version, and with a group more than layers of a class, none of which is certain then."""
    own = [norm(name, class_name="MyBN", registered="lab>MyBN") for name in "bc"]
    inside = "_layer_checkpoint_dependencies"
    bundle = model(functional("m", norm("a"), *own), {f"{inside}/batch_normalization": A, f"{inside}/my_bn": B, f"{inside}/my_bn_1": C,
                                                      f"{inside}/my_bn_2": D}, metadata__json=None)
    assert shown(bundle)["a"] == (0.001, given(A))
    assert [path for path, reason in bundle.skipped if "is ambiguous" in reason] == ["b", "c"]


def test_a_group_that_the_config_does_not_list_is_read_once(model):
    bundle = model(functional("m", norm("bn")), {"layers/batch_normalization": A, "layers/mystery": B})
    assert bundle.paths() == ["bn", "mystery"]


def test_a_class_that_computes_something_else_and_has_no_weights(model):
    """What it computes is the better reason."""
    quantizer = {"class_name": "quantized_bits", "config": {"bits": 6}}
    quantized = norm("q", class_name="QBatchNormalization", registered="qkeras>QBatchNormalization", gamma_quantizer=quantizer)
    bundle = model(functional("m", quantized, norm("bn")), {"layers/q_batch_normalization": [], "layers/batch_normalization": []})
    assert [(path, "gamma_quantizer" in reason) for path, reason in bundle.skipped] == [("q", True), ("bn", False)]

"""Classes that have batch norm's config: what computes something else is refused by name, what may be one is said to be somebody's own."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pytest

import exporter
from exporter.commands.export import export
from exporter.errors import FormatError, UnresolvedError, UnsupportedError
from exporter.keras.lookalikes import SIGNS, reason_against
from exporter.keras.names import snake_case
from exporter.keras.node import Node, has_signs, is_batch_norm
from tests.make import v3_files
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import named, parameters, write

QUANTIZERS = ("beta_quantizer", "gamma_quantizer", "mean_quantizer", "variance_quantizer")
SIX_BITS = {"class_name": "quantized_bits", "config": {"bits": 6, "integer": 0}}
VALUES, OTHERS = parameters(3, 1), parameters(3, 2)


def h5(tmp_path, entry, weights=None, **groups):
    """A whole model of this layer and of a plain one."""
    name = entry["config"]["name"]
    held = {name: weights or named(name, VALUES), **groups, "plain": named("plain", OTHERS)}
    return write(tmp_path / "m.h5", held, sequential(entry, norm("plain")), keras_version="2.15.0", backend="tensorflow")


def test_a_class_with_other_names_for_its_statistics_is_skipped_alone(tmp_path):
    """keras-contrib's BatchRenormalization."""
    weights = [(f"own/{role}:0", np.ones(3, "f4")) for role in ("gamma", "beta", "running_mean", "running_variance", "r_max")]
    said = reasons(h5(tmp_path, norm("own", class_name="BatchRenormalization"), weights))
    assert "moving_mean and moving_variance are not among its weights: own/gamma:0" in said["own"]
    assert said["own"].endswith("its class is BatchRenormalization")
    with pytest.raises(FormatError, match="not among its weights"):
        exporter.read(h5(tmp_path, norm("own"), weights))


def test_a_class_of_any_name_has_the_config_of_a_batch_norm_if_it_has_its_signs():
    for config, expected in ((SIGNS, True), ({*SIGNS, "name"}, True), *((SIGNS - {sign}, False) for sign in SIGNS)):
        node = Node(name="own", class_name="Own", config=dict.fromkeys(config))
        assert is_batch_norm(node) == has_signs(node) == expected


@pytest.mark.parametrize("registered", [{"registered_name": "BatchNormalization"}, {}], ids=["Keras 2.13", "Keras 2.12"])
def test_a_class_that_is_only_called_a_batch_norm_is_left_out_and_named(tmp_path, registered):
    """A group normalization under that name, as Keras writes a user's class: its two vectors are gamma and beta."""
    own = {**layer("BatchNormalization", "own", groups=2, trainable=True), **registered}
    bundle = exporter.read(h5(tmp_path, own, [("own/gamma:0", np.ones(3, "f4")), ("own/beta:0", np.ones(3, "f4"))]))
    assert bundle.paths() == ["plain"]
    assert "own: its class BatchNormalization is not Keras's own and does not have the config of a batch norm" in bundle.warnings[0]
    frozen = layer("lab>FrozenBatchNorm2D", "own", trainable=False)
    assert "FrozenBatchNorm2D" in exporter.read(h5(tmp_path, frozen, [("own/weight:0", np.ones(3, "f4"))])).warnings[0]


@pytest.mark.parametrize(("class_name", "key"), [("TFSMLayer", "filepath"), ("tensorflow_hub>KerasLayer", "handle")])
def test_a_layer_that_runs_a_saved_model_elsewhere_is_named(tmp_path, class_name, key):
    """Its batch norms are the model's, too, but their parameters are variables without names and their epsilons in that SavedModel."""
    runs = v3_files.entry(class_name, "inner", **{key: "some/folder"})
    arrays = [np.ones(3, "f4")] * 5
    said = r"inner: this \w+ runs a SavedModel that the file does not describe \(some/folder\); a SavedModel of the whole model"
    group = snake_case(class_name.rpartition(">")[2])
    path = v3_files.write_archive(tmp_path / "m.keras", v3_files.functional("net", v3_files.norm("bn"), runs), {
        "layers/batch_normalization": VALUES, f"layers/{group}": arrays})
    bundle = exporter.read(path)
    assert bundle.paths() == ["bn"]
    assert [bool(re.match(said, warning)) for warning in bundle.warnings] == [True]
    alone = v3_files.write_archive(tmp_path / "alone.keras", v3_files.functional("net", runs), {f"layers/{group}": arrays})
    with pytest.raises(UnsupportedError, match=said) as error:
        exporter.read(alone)
    assert error.value.hint == ""
    saved = layer(class_name, "inner", **{key: "some/folder"})
    assert re.match(said, exporter.read(h5(tmp_path, saved, [("inner/a_gamma:0", np.ones(3, "f4"))])).warnings[0])
    recognized = exporter.read(h5(tmp_path, saved, named("inner/a", VALUES)), epsilon=1e-3)
    assert "inner/a" in recognized.paths()
    assert not [warning for warning in recognized.warnings if "SavedModel" in warning]


@pytest.mark.parametrize("group", ["tfsm_layer", "keras_layer_1"])
def test_four_variables_of_a_saved_model_elsewhere_may_be_of_two_batch_norms(tmp_path, group):
    """Two without gamma and beta have them in the order mean, variance, mean, variance."""
    path = v3_files.write_weights(tmp_path / "m.weights.h5", {f"layers/{group}": (VALUES, "inner")})
    with pytest.raises(UnsupportedError, match="inner: it has the variables of a SavedModel, of which the file does not specify what"):
        exporter.read(path, epsilon=1e-3)
    own = v3_files.write_weights(tmp_path / "own.weights.h5", {"layers/batch_normalization": OTHERS, f"own/{group}": VALUES})
    assert f"own/{group}" in exporter.read(own, epsilon=1e-3).paths()


def reasons(path, **options):
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(path, **options)
    assert [layer.path for layer in exporter.read(path, skip_unresolved=True, **options)] == ["plain"]
    return dict(caught.value.layers)


@pytest.mark.parametrize(("config", "words"), [
    (dict.fromkeys(QUANTIZERS, SIX_BITS), "quantizes the parameters that it computes with"),
    ({"gamma_quantizer": SIX_BITS}, "gamma_quantizer"),
    ({"inverse_quantizer": "quantized_bits(8)"}, "inverse_quantizer"), ({"quantize": 8}, "quantize"),
    ({"mean_weights_regularizer": None, "variance_weights_constraints": None}, "not a plain batch norm: it also has mean_weights"),
    ({"kernel_initializer": {"class_name": "Zeros"}}, "it also has kernel"),
    ({"activation": "leaky_relu"}, "applies an activation (leaky_relu)"),
    ({"activation": {"class_name": "ReLU"}}, "applies an activation"),
    ({"activation": "linear"}, None), ({"activation": None}, None),
    (dict.fromkeys(QUANTIZERS), None), ({"gamma_range": None, "beta_range": 4, "freeze": True, "activity_regularizer": None}, None),
])
def test_what_a_config_tells_of_a_class(config, words):
    said = reason_against("OwnNorm", {**norm()["config"], "beta_initializer": {}, "gamma_constraint": None, **config})
    assert (said is None) == (words is None)
    assert words is None or (words in said and "OwnNorm" in said)


@pytest.mark.parametrize("form", ["h5", "archive", "architecture"])
def test_quantizers_that_are_set_are_refused_in_every_container(tmp_path, form):
    if form == "h5":
        path, options = h5(tmp_path, norm("q", "QBatchNormalization", gamma_quantizer=SIX_BITS)), {}
    else:
        config = v3_files.functional("m", v3_files.norm("q", class_name="QBatchNormalization", registered="qkeras>QBatchNormalization",
                                                        gamma_quantizer=SIX_BITS), v3_files.norm("plain"))
        groups = {"layers/q_batch_normalization": v3_files.norm_arrays(1), "layers/batch_normalization": v3_files.norm_arrays(2)}
        options = {}
        if form == "archive":
            path = v3_files.write_archive(tmp_path / "m.keras", config, groups)
        else:
            path = v3_files.write_weights(tmp_path / "m.weights.h5", groups)
            (tmp_path / "m.json").write_text(json.dumps(config))
            options = {"architecture": tmp_path / "m.json"}
    (reason,) = reasons(path, **options).values()
    assert "quantizes the parameters that it computes with (gamma_quantizer): its outputs are not " in reason


def test_weights_of_its_own_are_refused(tmp_path):
    more = [*named("odd", VALUES), ("odd/shift:0", np.ones(3, np.float32))]
    assert reasons(h5(tmp_path, norm("odd", "own>ShiftedNorm"), more)) == {
        "odd": "it has weights that a batch norm does not have, and how it uses them is unknown: odd/shift:0; its class is "
               "own>ShiftedNorm"}
    inner = [(f"block/{name}", values) for name, values in more]
    block = layer("own>Block", "block", part=norm("odd", "own>ShiftedNorm"))
    assert list(reasons(h5(tmp_path, block, inner))) == ["block/odd"]
    path = write(tmp_path / "w.h5", {"odd": more, "plain": named("plain", OTHERS)})
    assert "its class is not in the file" in reasons(path, epsilon=0.1)["odd"]


def test_the_weights_of_a_cell_and_of_a_wrapper_are_not_those_of_the_batch_norm_in_it(tmp_path):
    kernel = [("rnn/cell/kernel:0", np.ones((2, 3), np.float32)), ("rnn/cell/gate:0", np.ones(3, np.float32))]
    weights = kernel + named("rnn/cell", VALUES)
    rnn = layer("RNN", "rnn", cell=layer("own>Cell", "cell", inner=norm("n")))
    assert exporter.read(h5(tmp_path, rnn, weights)).paths() == ["rnn/cell/n", "plain"]
    path = write(tmp_path / "w.h5", {"rnn": [kernel[0], *named("rnn/cell", VALUES)], "plain": named("plain", OTHERS)})
    assert exporter.read(path, epsilon=0.1).paths() == ["rnn/cell", "plain"]


def test_a_class_of_somebodys_own_that_adds_nothing_is_exported_and_said_once(tmp_path, run):
    config = sequential(norm("a", "BatchNorm"), norm("b", "BatchNorm"), norm("plain"))
    held = {name: named(name, VALUES) for name in ("a", "b", "plain")}
    path = write(tmp_path / "m.h5", held, config, keras_version="2.15.0", backend="tensorflow")
    code, shown, err = run(export, path)
    assert code == 0
    assert err.count("warning:") == 1
    assert "a, b: its class BatchNorm is not Keras's own" in err
    assert [line.split()[0] for line in shown.splitlines() if "class BatchNorm" in line] == ["a", "b"]


def test_a_registered_class_has_one_name_in_all_containers(tmp_path):
    plain = exporter.read(h5(tmp_path, norm("mine", "lab>MyNorm")))
    archive = v3_files.functional("m", v3_files.norm("mine", class_name="MyNorm", registered="lab>MyNorm"))
    other = exporter.read(v3_files.write_archive(tmp_path / "m.keras", archive, {"layers/my_norm": v3_files.norm_arrays(1)}))
    assert plain["mine"].class_name == other["mine"].class_name == "lab>MyNorm"
    impostor = v3_files.norm("bn", registered="lab>BatchNormalization")
    path = v3_files.write_archive(tmp_path / "n.keras", v3_files.functional("m", impostor), {"layers/batch_normalization": VALUES})
    assert any("lab>BatchNormalization is not Keras's own" in warning for warning in exporter.read(path).warnings)


FUSED = {"filters": 3, "kernel_size": [3, 3], "kernel_quantizer": SIX_BITS, "kernel_regularizer": None, "axis": [3], "epsilon": 1e-5,
         "center": True, "scale": True, "beta_initializer": {}, "trainable": True}


def test_a_kernel_and_a_batch_norm_in_one_layer(tmp_path):
    """QKeras's QConv2DBatchnorm: a plain batch norm is its attribute; .h5 and .keras give it one path."""
    arrays = list(VALUES.values())
    conv = [("conv/kernel:0", np.ones((3, 3, 2, 3), np.float32)), ("conv/bias:0", np.ones(3, np.float32))]
    weights = [*conv, *named("conv/batch_normalization", VALUES, ("gamma", "beta")), ("conv/iteration:0", np.int64(-1)),
               *named("conv/batch_normalization", VALUES, ("moving_mean", "moving_variance"))]
    first = exporter.read(h5(tmp_path, norm("conv", "QConv2DBatchnorm", **FUSED), weights))["conv/batchnorm"]
    config = v3_files.functional("m", v3_files.norm("conv", class_name="QConv2DBatchnorm", **FUSED))
    groups = {"layers/q_conv2d_batchnorm": [conv[0][1], conv[1][1], np.int64(-1)], "layers/q_conv2d_batchnorm/batchnorm": arrays}
    second = exporter.read(v3_files.write_archive(tmp_path / "m.keras", config, groups, version="2.15.0"))["conv/batchnorm"]
    for found in (first, second):
        assert (found.path, found.class_name, found.epsilon) == ("conv/batchnorm", "BatchNormalization", 1e-5)
        assert [values.tobytes() for values in found.parameters().values()] == [values.tobytes() for values in arrays]


@pytest.mark.parametrize(("quantize", "words"), [
    ({"class_name": "Default8BitQuantizeConfig", "config": {"weight_attrs": ["gamma"], "quantize_output": True}},
     "quantizes its gamma, output"),
    ({"class_name": "Default8BitOutputQuantizeConfig", "config": {"quantize_output": True}}, "quantizes its output in"),
    ({"class_name": "Own", "config": {}}, "quantizes as Own says, perhaps gamma"), (None, "quantizes as None says"),
    ({"class_name": "NoOpQuantizeConfig", "config": {}}, None),
    ({"class_name": "Default8BitOutputQuantizeConfig", "config": {"quantize_output": False}}, None)])
def test_a_wrapper_that_quantizes_is_said(tmp_path, quantize, words):
    """tfmot's: the inner layer, as it is stored, with what the wrapper does to it."""
    wrapper = layer("QuantizeWrapperV2", "quant_bn", layer=norm("bn", axis=[3]), batch_input_shape=[None, 4, 4, 3],
                    quantize_config=quantize)
    for scope in ("quant_bn", "bn"):
        weights = [*named(scope, VALUES, ("gamma", "beta")), ("quant_bn/optimizer_step:0", np.int32(-1)),
                   *((f"quant_bn/{name}:0", np.float32(6)) for name in ("gamma_min", "gamma_max", "output_min", "output_max")),
                   *named(scope, VALUES, ("moving_mean", "moving_variance"))]
        bundle = exporter.read(h5(tmp_path, wrapper, weights))
        assert bundle["quant_bn/bn"].moving_variance.tobytes() == VALUES["moving_variance"].tobytes()
        assert (bundle["quant_bn/bn"].axis, bundle["quant_bn/bn"].ndim) == ((3,), 4)
        said = [warning for warning in bundle.warnings if "QuantizeWrapperV2 around it" in warning]
        assert bool(said) == (words is not None)
        assert words is None or (said[0].startswith("quant_bn/bn: ") and words in said[0])


def test_six_arrays_of_an_averaging_callback(tmp_path):
    """keras-swa: a pair without a scope beside the layer's own four, of which predict uses the latter."""
    second = [("moving_mean:0", np.zeros(3, np.float32)), ("moving_variance:0", np.ones(3, np.float32))]
    own = named("bn", VALUES)
    weights = [*own[:2], *second, *own[2:]]
    plain = {"plain": named("plain", OTHERS)}
    for path, options in ((h5(tmp_path, norm("bn"), weights), {}), (write(tmp_path / "w.h5", {"bn": weights, **plain}), {"epsilon": 0.01})):
        bundle = exporter.read(path, **options)
        assert bundle.paths() == ["bn", "plain"]
        assert bundle["bn"].moving_mean.tobytes() == VALUES["moving_mean"].tobytes()
        assert any("second set of moving statistics" in warning for warning in bundle.warnings)
    with pytest.raises(FormatError, match="in more than one way"):  # which of two pairs, where both could be the layer's
        exporter.read(h5(tmp_path, norm("bn", center=False, scale=False), [*own[2:], *second]))


def weights_file(path, groups):
    with h5py.File(path, "w") as file:
        for group, (name, arrays) in groups.items():
            inner = file.require_group(f"{group}/vars" if group else "vars")
            inner.attrs["name"] = name
            for number, array in enumerate(arrays):
                inner[str(number)] = array
    return path


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7])
def test_weights_alone_take_no_name_for_proof(tmp_path, count):
    """The user named the layer, or the attribute; Keras alone counts classes in a list of layers."""
    vectors = [np.linspace(0.5, 1, 3, dtype=np.float32) + number for number in range(count)]
    plain = ("plain", list(OTHERS.values()))
    for group, name in (("ln", "batch_normalization_2"), ("batch_normalization", "ln")):
        path = weights_file(tmp_path / "m.weights.h5", {"": ("net", []), group: (name, vectors), "bn": plain})
        assert list(reasons(path, epsilon=0.1)) == [name]


def test_a_dense_layer_that_is_called_like_a_batch_norm_is_none(tmp_path):
    dense = [np.ones((2, 3), np.float32), np.ones(3, np.float32)]
    groups = {"": ("net", []), "fc": ("batch_normalization_2", dense), "bn": ("plain", VALUES.values())}
    path = weights_file(tmp_path / "m.weights.h5", groups)
    bundle = exporter.read(path, epsilon=0.1)
    assert (bundle.paths(), bundle.skipped) == (["plain"], ())


def test_more_than_four_vectors_are_mentioned(tmp_path):
    vectors = [*list(VALUES.values())[:2], np.ones(3, np.float32), *list(VALUES.values())[2:]]
    path = weights_file(tmp_path / "m.weights.h5", {"": ("net", []), "layers/gated_norm": ("gate", vectors),
                                                    "layers/batch_normalization": ("plain", OTHERS.values())})
    assert "5 vectors of one length" in reasons(path, epsilon=0.1)["gate"]

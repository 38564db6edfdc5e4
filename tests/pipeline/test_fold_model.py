"""A whole model folded: which kernel a batch norm goes into, in files of every era, what stays and why, and the archive that is written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest

import exporter
from exporter.batchnorm.folded import fold_bundle
from exporter.commands.export import export
from exporter.keras.names import snake_case
from exporter.sources.shared import kernels as limits
from exporter.targets.shared import folded_archive
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import named, parameters, write
from tests.make.v3_files import entry, functional, norm_arrays, write_archive
from tests.make.v3_files import norm as norm_3
from tests.make.v3_files import sequential as sequential_3

CHANNELS = 3
KERAS_2 = {"keras_version": b"2.15.0", "backend": b"tensorflow"}


def kernel(*shape, seed=7, dtype="f4"):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def conv(name="conv", **fields):
    return layer("Conv2D", name, **{"filters": CHANNELS, "kernel_size": [2, 2], "use_bias": True, "activation": "linear",
                                    "data_format": "channels_last", **fields})


def weights(name="conv", *, seed=7, bias=True, shape=(2, 2, 4, CHANNELS), ending=":0"):
    found = [(f"{name}/kernel{ending}", kernel(*shape, seed=seed))]
    return found + [(f"{name}/bias{ending}", kernel(shape[-1], seed=seed + 1))] * bias


def model(path, feeding, arrays, *, batch_norm=None, statistics=None):
    """An .h5 of a Sequential of one layer and the batch norm behind it."""
    groups = {feeding["config"]["name"]: arrays, "bn": named("bn", statistics or parameters(CHANNELS))}
    return write(path, groups, sequential(feeding, batch_norm or norm()), **KERAS_2)


def only(folded):
    (found,) = folded.folded
    assert not folded.kept
    return found


def reason(path, **options):
    """Why the one batch norm of a file stays."""
    with pytest.raises(exporter.UnsupportedError) as caught:
        exporter.fold_model(path, **options)
    return caught.value.what.removeprefix("no batch norm of the model can be folded: bn: ")


def test_the_numbers_are_those_of_exact_arithmetic_within_what_is_said(tmp_path):
    found = only(exporter.fold_model(model(tmp_path / "m.h5", conv(), weights())))
    norm_, old, bias = found.norm, found.source.kernel, found.source.bias
    with localcontext(prec=60):
        for channel in range(CHANNELS):
            gamma, beta, mean, variance = (Decimal(float(getattr(norm_, name)[channel])) for name in (
                "gamma", "beta", "moving_mean", "moving_variance"))
            scale = gamma / (variance + Decimal(norm_.epsilon)).sqrt()
            exact = [Decimal(float(value)) * scale for value in old[..., channel].ravel()]
            got = [Decimal(float(value)) for value in found.kernel[..., channel].ravel()]
            assert all(abs(a - b) <= Decimal(found.kernel_error) for a, b in zip(exact, got, strict=True))
            shifted = scale * (Decimal(float(bias[channel])) - mean) + beta
            assert abs(shifted - Decimal(float(found.bias[channel]))) <= Decimal(found.bias_error)
    assert found.kernel_error <= 1.01 * 2.0**-24 * np.abs(found.kernel).max(), "one rounding of the largest number"
    assert (found.path, found.source.kind, found.products) == ("conv", "Conv2D", 16)


def test_through_layers_that_change_nothing_in_inference(tmp_path):
    groups = {"conv": weights(), "drop": [], "same": [], "bn": named("bn", parameters(CHANNELS))}
    between = layer("Dropout", "drop", rate=0.5), layer("Activation", "same", activation="linear")
    direct = only(exporter.fold_model(model(tmp_path / "direct.h5", conv(), weights())))
    path = write(tmp_path / "m.h5", groups, sequential(conv(), *between, norm()), **KERAS_2)
    found = only(exporter.fold_model(path))
    assert (found.path, found.norm.path) == ("conv", "bn")
    assert (found.kernel.tobytes(), found.bias.tobytes()) == (direct.kernel.tobytes(), direct.bias.tobytes())
    with pytest.raises(exporter.LayerError, match="it is fed by same of class Activation"):  # who calls this may not know what is before
        exporter.fold(exporter.read(path)["bn"], found.source.kernel, found.source.bias)
    path = write(tmp_path / "other.h5", groups, sequential(conv(activation="relu"), *between, norm()), **KERAS_2)
    assert reason(path) == "conv, which feeds it, applies an activation in between"


def test_it_is_what_fold_gives_for_the_layer(tmp_path):
    path = model(tmp_path / "m.h5", conv(use_bias=False), weights(bias=False))
    found, by_hand = only(exporter.fold_model(path)), exporter.fold(exporter.read(path)["bn"], kernel(2, 2, 4, CHANNELS))
    assert found.kernel.tobytes() == by_hand.kernel.tobytes()
    assert found.bias.tobytes() == by_hand.bias.tobytes()
    assert found.source.bias is None


SHAPES = {  # class: its config, the shapes of its weights
    "Dense": ({"units": CHANNELS}, [(4, CHANNELS)]),
    "Conv1D": ({"filters": CHANNELS, "kernel_size": [2]}, [(2, 4, CHANNELS)]),
    "Conv2D": ({"filters": CHANNELS, "kernel_size": 2, "data_format": "channels_last", "groups": 2}, [(2, 2, 2, CHANNELS)]),
    "Conv2DTranspose": ({"filters": CHANNELS, "kernel_size": [2, 2], "data_format": "channels_last"}, [(2, 2, CHANNELS, 4)]),
    "DepthwiseConv2D": ({"depth_multiplier": 3, "kernel_size": [2, 2], "data_format": "channels_last"}, [(2, 2, 1, 3)]),
    "SeparableConv2D": ({"filters": CHANNELS, "depth_multiplier": 2, "kernel_size": [2, 2], "data_format": "channels_last"},
                        [(2, 2, 4, 2), (1, 1, 8, CHANNELS)]),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("use_bias", [True, False])
def test_kinds_in_hdf5_of_keras_2_and_in_an_archive_of_keras_3(tmp_path, kind, use_bias):
    fields, shapes = SHAPES[kind]
    names = ["depthwise_kernel", "pointwise_kernel"] if len(shapes) > 1 else ["depthwise_kernel" if kind[:5] == "Depth" else "kernel"]
    arrays = [kernel(*shape) for shape in shapes] + [kernel(CHANNELS)] * use_bias
    axis = 1 if kind == "Dense" else -1
    old = model(tmp_path / "m.h5", layer(kind, "k", use_bias=use_bias, activation="linear", batch_input_shape=[None, 4], **fields),
                [(f"k/{name}:0", values) for name, values in zip([*names, "bias"], arrays)], batch_norm=norm(axis=[axis]))
    config = sequential_3("m", entry(kind, "k", use_bias=use_bias, activation="linear", **fields), norm_3("bn", epsilon=0.01))
    new = archive(tmp_path, config, {snake_case(kind): arrays, "batch_normalization": parameters(CHANNELS)})
    for path in (old, new):
        found = only(exporter.fold_model(path))
        assert found.source.kernel.tobytes() == arrays[len(shapes) - 1].tobytes()
        assert (found.source.bias is None) == (not use_bias)
        assert found.kernel_name == ("pointwise_kernel" if len(shapes) > 1 else "kernel")
        assert found.source.count == CHANNELS
    one, other = (only(exporter.fold_model(path)) for path in (old, new))
    assert (one.kernel.tobytes(), one.bias.tobytes()) == (other.kernel.tobytes(), other.bias.tobytes())


@pytest.mark.parametrize(("feeding", "arrays", "said"), [
    (conv(activation="relu"), weights(), "conv, which feeds it, applies an activation (relu) in between"),
    (conv(activation={"class_name": "mine", "config": {}}), weights(), "applies an activation (mine) in between"),
    (conv(activation=["relu"]), weights(), "conv, which feeds it, applies an activation in between"),
    (conv(filters=4), weights(), "the kernel of conv, which feeds it, has shape [2, 2, 4, 3], which is not the one of its config"),
    (conv(filters=4), weights(shape=(2, 2, 4, 4)), "conv, which feeds it, has 4 output channels, but the batch norm has 3"),
    (conv(use_bias=False), weights(), "names and order do not agree"),
    (conv(), weights(bias=False), "names and order do not agree"),
    (conv(), weights()[::-1], "names and order do not agree"),
    (conv(), [("conv/kernel:0", kernel(2, 2, 4, 3)), ("conv/scale:0", kernel(3))], "names and order do not agree"),
    (conv(), [("conv/kernel:0", kernel(2, 2, 4, 3)), ("conv/bias:0", kernel(2))], "the bias of conv, which feeds it, has shape [2]"),
    (conv(), [("conv/kernel:0", np.ones((2, 2, 4, 3), "i1")), ("conv/bias:0", kernel(3))], "is stored as integers or another type"),
    (conv(use_bias=False), [("conv/kernel:0", np.ones((2, 2, 4, 3), "i1"))], "is stored as integers or another type"),
    (conv(), [("conv/kernel:0", np.full((2, 2, 4, 3), np.nan, "f4")), ("conv/bias:0", kernel(3))], "a number that is not finite"),
    (conv(data_format="channels_first"), weights(), "its output has channels first, but batch norm runs along axis (-1,)"),
    (conv(data_format=None), weights(), "its config does not specify whether its channels come first or last"),
    (conv(kernel_quantizer="auto"), weights(), "its kernel is quantized"),
    (conv(dtype={"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}), weights(), "its kernel is quantized"),
    (conv(lora_rank=4), weights(), "it has LoRA weights beside its kernel"),
    (layer("Add", "conv"), [], "it is fed by conv of class Add, which has no kernel of a known kind"),
    (layer("mine>Conv2D", "conv", filters=3, kernel_size=2), weights(), "class mine>Conv2D, which has no kernel of a known kind"),
    (layer("BatchNormalization", "conv", axis=-1, epsilon=0.1, momentum=0.9, moving_variance_initializer=None), named(
        "conv", parameters(CHANNELS)), "conv of class BatchNormalization, which has no kernel of a known kind"),
], ids=range(21))
def test_what_stays_and_why(tmp_path, feeding, arrays, said):
    path = model(tmp_path / "m.h5", feeding, arrays)
    with pytest.raises(exporter.UnsupportedError, match=re.escape(said)):
        exporter.fold_model(path)


@pytest.mark.parametrize(("batch_norm", "feeding", "right"), [
    (norm(axis=1), conv(data_format="channels_first"), True), (norm(axis=[-3]), conv(data_format="channels_first"), True),
    (norm(axis=3), conv(), True), (norm(axis=2), conv(), False), (norm(axis=1), conv(), False),
])
def test_the_axis_has_to_be_that_of_the_channels_that_come_out(tmp_path, batch_norm, feeding, right):
    path = model(tmp_path / "m.h5", feeding, weights(), batch_norm=batch_norm)
    if right:
        assert only(exporter.fold_model(path)).path == "conv"
    else:
        assert "its output has channels last, but batch norm runs along axis" in reason(path)


def test_a_number_that_would_overflow_stays(tmp_path):
    statistics = {**parameters(CHANNELS), "gamma": np.full(CHANNELS, 3e38, "f4"), "moving_variance": np.full(CHANNELS, 1e-12, "f4")}
    path = model(tmp_path / "m.h5", conv(), weights(), statistics=statistics)
    assert "a folded number does not fit float32" in reason(path)


def test_half_precision_is_rounded_once(tmp_path):
    arrays = [(name, values.astype("f2")) for name, values in weights()]
    found = only(exporter.fold_model(model(tmp_path / "m.h5", conv(dtype="float16"), arrays)))
    assert found.kernel.dtype == np.float16
    exact = found.source.kernel.astype("f8") * found.norm.scale
    assert (found.kernel == exact.astype("f2")).all()
    assert np.abs(found.kernel - exact).max() <= found.kernel_error < 2.0**-10 * np.abs(exact).max()


def test_keras_1_lays_kernels_out_as_its_backend_says(tmp_path):
    old = {"keras_version": b"1.2.2"}
    statistics = parameters(CHANNELS)
    for ordering, shape, axis in (("tf", (2, 2, 4, CHANNELS), -1), ("th", (CHANNELS, 4, 2, 2), 1)):
        feeding = layer("Convolution2D", "c", nb_filter=CHANNELS, nb_row=2, nb_col=2, dim_ordering=ordering, bias=True, activation="linear")
        values = kernel(*shape)
        config = {"class_name": "Sequential", "config": [feeding, layer("BatchNormalization", "bn", axis=axis, epsilon=1e-3, mode=0,
                                                                        momentum=0.9, gamma_regularizer=None)]}
        roles = ("gamma", "beta", "running_mean", "running_std")
        bn = named("bn", statistics, separator="_", names=roles)
        path = write(tmp_path / f"{ordering}.h5", {"c": [("c_W:0", values), ("c_b:0", kernel(CHANNELS))], "bn": bn}, config, **old)
        found = only(exporter.fold_model(path))
        assert found.source.kernel.tobytes() == values.tobytes()
        scale = found.norm.scale if ordering == "tf" else found.norm.scale[:, None, None, None]
        assert (found.kernel == (values.astype("f8") * scale).astype("f4")).all()


def nested(tmp_path, inner, names):
    """An .h5 of a model in a model; the scopes of its weights are given by `names`."""
    arrays = [weight for number, name in enumerate(names) for weight in weights(name, seed=10 * number)]
    config = sequential(sequential(*inner, name="inner"), layer("Flatten", "flat"))
    statistics = [each for name in ("n1", "n2") for each in named(name, parameters(CHANNELS, seed=len(name)))]
    return write(tmp_path / "m.h5", {"inner": arrays + statistics, "flat": []}, config, **KERAS_2)


def test_in_a_model_in_the_model_names_and_order_have_to_agree(tmp_path):
    inner = [conv("c"), norm("n1"), conv("c_1"), norm("n2")]
    found = exporter.fold_model(nested(tmp_path, inner, ["c", "c_1"]))
    assert {each.path: each.source.kernel.tobytes() for each in found.folded} == {
        "inner/c": kernel(2, 2, 4, 3, seed=0).tobytes(), "inner/c_1": kernel(2, 2, 4, 3, seed=10).tobytes()}
    # TensorFlow 1 made the names of a second model in one graph unique: the scope "c_1" is that of the layer "c"
    found = exporter.fold_model(nested(tmp_path, inner, ["c_1", "c_1_1"]))
    assert found["inner/c"].source.kernel.tobytes() == kernel(2, 2, 4, 3, seed=0).tobytes()
    assert found["inner/c_1"].source.kernel.tobytes() == kernel(2, 2, 4, 3, seed=10).tobytes()
    with_slashes = [conv("b/c"), norm("n1"), conv("b/d"), norm("n2")]  # below the scope of what is around them
    assert len(exporter.fold_model(nested(tmp_path, with_slashes, ["outer/b/c", "b/d"])).folded) == 2
    for names in (["c_1", "c"], ["c", "d"], ["c"], ["c", "c_1", "x"]):
        with pytest.raises(exporter.UnsupportedError, match="names and order do not agree"):
            exporter.fold_model(nested(tmp_path, inner, names))


def test_a_class_whose_groups_are_not_certain_says_nothing_of_another(tmp_path):
    conv_3 = entry("Conv1D", "q", filters=CHANNELS, kernel_size=[2], use_bias=False)
    config = sequential_3("m", dense("p"), norm_3("a"), conv_3, norm_3("b"))
    groups = {"dense": [kernel(4, CHANNELS)], "dense_1": [kernel(4, CHANNELS)], "conv1d": [kernel(2, 3, CHANNELS)],
              "batch_normalization": norm_arrays(1), "batch_normalization_1": norm_arrays(2)}
    found = exporter.fold_model(archive(tmp_path, config, groups))
    assert [each.path for each in found.folded] == ["q"]
    assert [(each.path, said) for each, said in found.kept] == [
        ("a", "which group of the weights is that of p, which feeds it, is not certain")]


def test_where_the_config_lost_which_layers_are_one_nothing_is_folded(tmp_path):
    """Then it does not show how each is called either."""
    shared = sequential_3("inner", dense("d"), norm_3("bn"))
    config = functional("m", shared, norm_3("bn", shared=7), dense("e"), norm_3("last"))
    groups = {"sequential/layers/dense": [kernel(4, CHANNELS)], "sequential/layers/batch_normalization": norm_arrays(1),
              "dense": [kernel(4, CHANNELS)], "batch_normalization_1": norm_arrays(2)}
    assert exporter.read(archive(tmp_path, config, groups), kernels=True, skip_unresolved=True).kernels == {}


def test_a_kernel_may_have_more_numbers_than_a_batch_norm(tmp_path):
    """As those of embeddings and the first dense layers behind images have."""
    large = np.ones((1 << 19, CHANNELS), "f2")
    feeding = layer("Dense", "d", units=CHANNELS, use_bias=False, activation="linear", dtype="float16", batch_input_shape=[None, 4])
    statistics = {name: values.astype("f2") for name, values in parameters(CHANNELS).items()}
    old = model(tmp_path / "m.h5", feeding, [("d/kernel:0", large)], statistics=statistics, batch_norm=norm(axis=[1]))
    config = sequential_3("m", dense("d", dtype="float16"), norm_3("bn", dtype="float16"))
    new = archive(tmp_path, config, {"dense": [large], "batch_normalization": statistics})
    for path in (old, new):
        assert only(exporter.fold_model(path)).source.kernel.size == large.size


def test_weights_that_are_not_there_or_too_few(tmp_path):
    alone = write(tmp_path / "m.h5", {"bn": named("bn", parameters(CHANNELS))}, sequential(conv(), norm()), **KERAS_2)
    assert reason(alone) == "the file contains no weights of conv, which feeds it"
    config = sequential_3("m", entry("Dense", "d", units=CHANNELS, activation="linear"), norm_3("bn"))
    few = archive(tmp_path, config, {"dense": [kernel(4, CHANNELS)], "batch_normalization": norm_arrays(1)})
    assert reason(few) == "its config gives d, which feeds it, kernel, bias, and the file 1 arrays"


def test_a_model_in_the_model_of_keras_1_is_not_folded(tmp_path):
    """1.0.0 to 1.0.2 saved its weights under each other's names."""
    inner = layer("Sequential", "inner", layers=[layer("Dense", "d", output_dim=CHANNELS, activation="linear", bias=True), layer(
        "BatchNormalization", "bn", axis=-1, epsilon=1e-3, mode=0, momentum=0.9, gamma_regularizer=None)])
    roles = ("gamma", "beta", "running_mean", "running_std")
    held = [("d_W", kernel(4, CHANNELS)), ("d_b", kernel(CHANNELS)),
            *named("bn", parameters(CHANNELS), separator="_", names=roles, ending="")]
    path = write(tmp_path / "m.h5", {"inner": held}, {"class_name": "Sequential", "config": [inner]}, keras_version=b"1.2.2")
    with pytest.raises(exporter.UnsupportedError, match="names and order do not agree"):
        exporter.fold_model(path)


def test_a_frozen_layer_comes_behind_the_others(tmp_path):
    inner = [conv("c", trainable=False), norm("n1"), conv("d"), norm("n2")]
    found = exporter.fold_model(nested(tmp_path, inner, ["d", "c"]))
    assert found["inner/c"].source.kernel.tobytes() == kernel(2, 2, 4, 3, seed=10).tobytes()
    with pytest.raises(exporter.UnsupportedError, match="names and order do not agree"):
        exporter.fold_model(nested(tmp_path, inner, ["c", "d"]))


def dense(name, **fields):
    return entry("Dense", name, units=CHANNELS, use_bias=False, activation="linear", **fields)


def archive(tmp_path, config, groups, **fields):
    arrays = {f"layers/{name}": values for name, values in groups.items()}
    return write_archive(tmp_path / "m.keras", config, arrays, **fields)


def test_groups_of_an_archive_are_counted_by_class(tmp_path):
    first, second = kernel(4, CHANNELS, seed=1), kernel(CHANNELS, CHANNELS, seed=2)
    config = sequential_3("m", dense("zz"), norm_3("a"), dense("aa"), norm_3("b"))
    groups = {"dense": [first], "dense_1": [second], "batch_normalization": norm_arrays(1), "batch_normalization_1": norm_arrays(2)}
    found = exporter.fold_model(archive(tmp_path, config, groups))
    assert (found["zz"].source.kernel == first).all()
    assert (found["aa"].source.kernel == second).all()
    # one group less, or one more, and none of the class is certain
    for changed in ({"dense_2": [second]}, {"dense_1": None}):
        wrong = {name: values for name, values in {**groups, **changed}.items() if values is not None}
        with pytest.raises(exporter.UnsupportedError, match=r"which group of the weights is that of .*, which feeds it, is not certain"):
            exporter.fold_model(archive(tmp_path, config, wrong))


@pytest.mark.parametrize(("version", "container", "step"), [
    ("2.12.0", "_layer_checkpoint_dependencies", 2), ("2.14.0", "_layer_checkpoint_dependencies", 1), ("2.15.0", "layers", 1),
    ("3.0.5", "layers", 1)])
def test_versions_count_groups_in_their_own_ways(tmp_path, version, container, step):
    def name(base, number):
        return f"{base}_{number * step}" if number else base

    values = [kernel(4, CHANNELS, seed=1), kernel(CHANNELS, CHANNELS, seed=2)]
    config = sequential_3("m", dense("p"), norm_3("a"), dense("q"), norm_3("b"))
    groups = {f"{container}/{name('dense', number)}": [each] for number, each in enumerate(values)}
    groups |= {f"{container}/{name('batch_normalization', number)}": norm_arrays(number) for number in range(2)}
    found = exporter.fold_model(write_archive(tmp_path / "m.keras", config, groups, version=version))
    assert [(found[path].source.kernel == each).all() for path, each in zip("pq", values)] == [True, True]


def test_a_name_in_the_weights_that_contradicts_the_config_is_an_error(tmp_path):
    config = sequential_3("m", dense("p"), norm_3("a"))
    groups = {"dense": ([kernel(4, CHANNELS)], "other"), "batch_normalization": (norm_arrays(0), "a")}
    with pytest.raises(exporter.FormatError, match="the config calls this layer 'p', the weights 'other'"):
        exporter.fold_model(archive(tmp_path, config, groups))


def test_shared_layers_and_outputs_stay(tmp_path):
    def called(item, *sources, times=1):
        calls = [{"args": [{"class_name": "__keras_tensor__", "config": {"shape": [None, CHANNELS], "dtype": "float32",
                                                                         "keras_history": [source, 0, 0]}}], "kwargs": {}}
                 for source in sources]
        return {**item, "name": item["config"]["name"], "inbound_nodes": calls}

    def said(*layers, outputs=("bn",)):
        config = functional("m", *layers)
        config["config"] |= {"input_layers": [["x", 0, 0]], "output_layers": [[name, 0, 0] for name in outputs]}
        groups = {"dense": [kernel(CHANNELS, CHANNELS)], "batch_normalization": norm_arrays(0)}
        return reason(archive(tmp_path, config, groups))

    x, first = called(entry("InputLayer", "x", batch_shape=[None, CHANNELS])), dense("d")
    assert "is used elsewhere, too" in said(x, called(first, "x"), called(norm_3("bn"), "d"), outputs=("bn", "d"))
    assert "is used elsewhere, too" in said(x, called(first, "x"), called(norm_3("bn"), "d"), called(entry("ReLU", "r"), "d"))
    assert "is used elsewhere, too" in said(x, called(first, "x", "x"), called(norm_3("bn"), "d"))
    assert "it is called 2 times" in said(x, called(first, "x"), called(norm_3("bn"), "d", "d"))


def test_weights_alone_need_their_architecture(tmp_path):
    path = model(tmp_path / "m.h5", conv(), weights())
    architecture = tmp_path / "a.json"
    architecture.write_text(json.dumps(sequential(conv(), norm())))
    alone = write(tmp_path / "w.h5", {"conv": weights(), "bn": named("bn", parameters(CHANNELS))}, **KERAS_2)
    assert only(exporter.fold_model(alone, architecture=architecture)).kernel.tobytes() == only(exporter.fold_model(path)).kernel.tobytes()
    with pytest.raises(exporter.UnsupportedError, match="the file does not specify what feeds it") as caught:
        exporter.fold_model(alone, epsilon=1e-3)
    assert "--architecture" in caught.value.hint


def test_names_of_another_session_are_paired_by_their_order(tmp_path):
    architecture = tmp_path / "a.json"
    architecture.write_text(json.dumps(sequential(conv("conv2d_7"), norm("batch_normalization_3"))))
    arrays = named("batch_normalization", parameters(CHANNELS))
    alone = write(tmp_path / "w.h5", {"conv2d": weights("conv2d"), "batch_normalization": arrays}, **KERAS_2)
    found = only(exporter.fold_model(alone, architecture=architecture))
    assert found.norm.path == "batch_normalization"
    assert found.source.kernel.tobytes() == kernel(2, 2, 4, CHANNELS).tobytes()


def test_what_is_inside_a_model_of_another_name_has_the_name_in_the_weights(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(sequential(sequential(conv(), norm("bn"), name="sequential_4"))))
    held = {"sequential_1": [*weights(), *named("bn", parameters(CHANNELS))]}
    found = only(exporter.fold_model(write(tmp_path / "w.h5", held, **KERAS_2), architecture=tmp_path / "a.json"))
    assert (found.norm.path, found.path) == ("sequential_1/bn", "sequential_1/conv")
    assert found.norm.calls[0].inputs[0].path == found.path


def test_in_a_child_and_here_it_is_the_same(tmp_path):
    path = model(tmp_path / "m.h5", conv(), weights())
    assert exporter.read(path).kernels is None, "they are large"
    here, child = exporter.read(path, kernels=True), exporter.read(path, kernels=True, isolated=True)
    (one,), (two,) = here.kernels.values(), child.kernels.values()
    assert (one.kernel.tobytes(), one.bias.tobytes()) == (two.kernel.tobytes(), two.bias.tobytes())
    assert (one.channels, one.kind, one.path, one.dtype) == (two.channels, two.kind, two.path, two.dtype)
    bad = model(tmp_path / "bad.h5", conv(activation="relu"), weights())
    assert exporter.read(bad, kernels=True, isolated=True).kernels == exporter.read(bad, kernels=True).kernels


def test_more_numbers_than_any_model_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_NUMBERS", 40)
    with pytest.raises(exporter.UnsupportedError, match="the kernels before its batch norms have more than 40 numbers"):
        exporter.fold_model(model(tmp_path / "m.h5", conv(), weights()))


def test_more_arrays_than_an_archive_may_contain_are_refused(tmp_path, monkeypatch):
    folded = exporter.fold_model(model(tmp_path / "m.h5", conv(), weights()))
    monkeypatch.setattr(folded_archive, "MAX_MEMBERS", 3)
    assert folded_archive.folded_archive(folded)
    monkeypatch.setattr(folded_archive, "MAX_MEMBERS", 2)
    with pytest.raises(exporter.OutputError, match=r"2 arrays, an \.npz of up to 2 is read"):
        folded_archive.folded_archive(folded)


def loaded(path):
    """What numpy.load gives: the arrays, and the bytes of folding.json."""
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def test_only_the_kernels_of_layers_that_are_wanted_are_read(tmp_path, monkeypatch):
    inner = [conv("c"), norm("n1"), conv("c_1"), norm("n2")]
    path = nested(tmp_path, inner, ["c", "c_1"])
    monkeypatch.setattr(limits, "MAX_NUMBERS", 60)
    with pytest.raises(exporter.UnsupportedError, match="more than 60 numbers"):
        exporter.fold_model(path)
    assert only(exporter.fold_model(path, layers="inner/n2")).path == "inner/c_1"


def two_norms(tmp_path):
    """An .h5 with one batch norm to fold and one to keep."""
    config = sequential(conv(), norm("bn"), layer("Activation", "relu", activation="relu"), norm("last", scale=False))
    statistics = {name: named(name, parameters(CHANNELS, seed=seed)) for seed, name in enumerate(("bn", "last"))}
    statistics["last"] = [pair for pair in statistics["last"] if "gamma" not in pair[0]]
    groups = {"conv": weights(), "bn": statistics["bn"], "relu": [], "last": statistics["last"]}
    return write(tmp_path / "m.h5", groups, config, **KERAS_2)


def test_the_archive_says_what_it_holds(tmp_path, run):
    path, out = two_norms(tmp_path), tmp_path / "folded.npz"
    code, printed, said = run(export, path, out, "--fold")
    assert (code, printed) == (0, "")
    assert "1 of 2 batch norms cannot be folded and are kept: last: it is fed by relu of class Activation" in said
    archive = loaded(out)
    content = json.loads(archive["folding.json"])
    (folded,), (kept,) = content["folded"], content["kept"]
    model_ = exporter.fold_model(path)
    assert (content["format"], content["version"], content["origin"]["file"]) == ("bn-folded", 1, "m.h5")
    assert archive[folded["kernel"]].tobytes() == model_["conv"].kernel.tobytes()
    assert archive[folded["bias"]].tobytes() == model_["conv"].bias.tobytes()
    assert folded == {"layer": "conv", "class_name": "Conv2D", "kind": "Conv2D", "batch_norm": "bn", "epsilon": model_["conv"].norm.epsilon,
                      "kernel": "conv/kernel", "bias": "conv/bias", "dtype": "float32", "shape": list(model_["conv"].kernel.shape),
                      "channel_axes": [3], "channels": CHANNELS, "products": 16, "bias_is_new": False,
                      "kernel_error": model_["conv"].kernel_error, "bias_error": model_["conv"].bias_error}
    layer_ = exporter.read(path)["last"]
    assert kept == {"batch_norm": "last", "class_name": "BatchNormalization", "axis": [-1], "dtype": "float32", "epsilon": layer_.epsilon,
                    "reason": "it is fed by relu of class Activation, which has no kernel of a known kind", "gamma": None,
                    **{name: f"last/{name}" for name in ("beta", "moving_mean", "moving_variance")}}
    assert all((archive[kept[name]] == getattr(layer_, name)).all() for name in ("beta", "moving_mean", "moving_variance"))
    assert archive["last/epsilon"] == kept["epsilon"] == layer_.epsilon
    assert sorted(archive) == sorted(["folding.json", "conv/kernel", "conv/bias", "last/beta", "last/moving_mean",
                                            "last/moving_variance", "last/epsilon"])


def test_the_archive_says_in_what_a_policy_computes(tmp_path):
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    found = exporter.fold_model(model(tmp_path / "m.h5", conv(dtype=policy), weights()))
    (tmp_path / "folded.npz").write_bytes(folded_archive.folded_archive(found))
    [folded] = json.loads(loaded(tmp_path / "folded.npz")["folding.json"])["folded"]
    assert (folded["dtype"], folded["compute_dtype"]) == ("float32", "float16")


def test_every_way_writes_the_same_bytes(tmp_path, run):
    path = two_norms(tmp_path)
    run(export, path, tmp_path / "a.npz", "--fold")
    exporter.write(exporter.read(path, kernels=True), tmp_path / "b.npz", fold=True)
    assert run(export, path, "--out-dir", tmp_path / "many", "--suffix", ".npz", "--fold")[0] == 0
    exporter.export_many([path], tmp_path / "more", suffix=".npz", write_options=exporter.WriteOptions(fold=True))
    files = [*tmp_path.glob("*.npz"), *tmp_path.glob("*/*.npz")]
    assert len(files) == 4
    assert len({file.read_bytes() for file in files}) == 1


def test_what_goes_wrong_says_so_and_leaves_what_stood_there(tmp_path, run):
    out = tmp_path / "folded.npz"
    out.write_bytes(b"before")
    bundle = tmp_path / "b.json"
    path = model(tmp_path / "m.h5", conv(activation="relu"), weights())
    assert run(export, path, bundle)[0] == 0
    for source, said in ((path, "no batch norm of the model can be folded: bn: conv, which feeds it, applies an activation (relu)"),
                         (bundle, "nothing can be folded: no kernels are read from this kind of file")):
        code, _, errors = run(export, source, out, "--fold")
        assert code == 1
        assert said in errors
        assert out.read_bytes() == b"before"
    assert run(export, path, tmp_path / "x.json", "--fold")[0] == 2
    assert run(export, path, "--fold")[0] == 2
    assert run(export, path, out, "--fold", "--no-vectors")[0] == 2
    with pytest.raises(exporter.UnsupportedError, match="nothing can be folded"):
        fold_bundle(exporter.read(path))


def test_a_folded_model_is_no_input(tmp_path, run):
    out = tmp_path / "folded.npz"
    run(export, two_norms(tmp_path), out, "--fold")
    code, _, said = run(export, out)
    assert code == 1
    assert "kernels with batch norms folded into them, written by bn-export --fold" in said


def test_a_path_that_leads_out_of_a_folder_names_no_member(tmp_path, run):
    config = sequential_3("m", dense("../../evil"), norm_3("bn"))
    path = archive(tmp_path, config, {"dense": [kernel(4, CHANNELS)], "batch_normalization": norm_arrays(0)})
    out = tmp_path / "folded.npz"
    assert run(export, path, out, "--fold")[0] == 0
    found = loaded(out)
    assert not any(".." in name for name in found)
    assert json.loads(found["folding.json"])["folded"][0]["layer"] == "../../evil"


def test_no_tensorflow_is_imported(tmp_path):
    path = os.fspath(two_norms(tmp_path))
    program = f"import sys, exporter; exporter.fold_model({path!r}); print({{'tensorflow', 'keras'}} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "set()"

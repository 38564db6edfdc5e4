"""Which layer's kernel a batch norm can go into, and how that lies, by the config of every Keras."""

from __future__ import annotations

import pytest

from exporter.keras.config import model_tree
from exporter.keras.kernels import Feeding, Layout, feeding_layers, kernel_layers
from tests.make.configs import functional, layer, norm, sequential

LAST, FIRST = {"data_format": "channels_last"}, {"data_format": "channels_first"}


def fed(entry, *, axis=-1, shape=None, **outer):
    """What feeds the batch norm behind this layer, or why it cannot go into that."""
    after = {**norm("bn", axis=axis), "build_config": {"input_shape": shape}}
    tree = model_tree({**sequential(entry, after), **outer}, "m")
    return feeding_layers(tree).get("bn")


def conv(class_name="Conv2D", **config):
    return layer(class_name, "conv", **{"filters": 5, "kernel_size": [3, 2], **LAST, **config})


@pytest.mark.parametrize(("entry", "kind", "layouts", "roles"), [
    (layer("Dense", "conv", units=5), "Dense", [((None, 5), (1,))], ("kernel", "bias")),
    (layer("Dense", "conv", output_dim=5, bias=False), "Dense", [((None, 5), (1,))], ("kernel",)),
    (conv("Conv1D", kernel_size=[3]), "Conv1D", [((3, None, 5), (2,))], ("kernel", "bias")),
    (conv("Conv1D", kernel_size=3, use_bias=False), "Conv1D", [((3, None, 5), (2,))], ("kernel",)),
    (conv(), "Conv2D", [((3, 2, None, 5), (3,))], ("kernel", "bias")), (conv("Convolution2D"), "Conv2D", [((3, 2, None, 5), (3,))],
                                                                      ("kernel", "bias")),
    (conv(kernel_size=3), "Conv2D", [((3, 3, None, 5), (3,))], ("kernel", "bias")),
    (conv(kernel_size=[3]), "Conv2D", [((None, None, None, 5), (3,))], ("kernel", "bias")),
    (conv(kernel_size=None), "Conv2D", [((None, None, None, 5), (3,))], ("kernel", "bias")),
    (conv(kernel_size=[3, "2"]), "Conv2D", [((3, None, None, 5), (3,))], ("kernel", "bias")),
    (conv("Conv3D", kernel_size=[3, 2, 1]), "Conv3D", [((3, 2, 1, None, 5), (4,))], ("kernel", "bias")),
    (conv("Conv1DTranspose", kernel_size=[3]), "Conv1DTranspose", [((3, 5, None), (1,))], ("kernel", "bias")),
    (conv("Conv2DTranspose"), "Conv2DTranspose", [((3, 2, 5, None), (2,))], ("kernel", "bias")),
    (conv("Conv3DTranspose", kernel_size=[3, 2, 1]), "Conv3DTranspose", [((3, 2, 1, 5, None), (3,))], ("kernel", "bias")),
    (conv("DepthwiseConv2D", filters=None, depth_multiplier=2), "DepthwiseConv2D", [((3, 2, None, 2), (2, 3))], ("kernel", "bias")),
    (conv("DepthwiseConv2D", depth_multiplier=None), "DepthwiseConv2D", [((3, 2, None, 1), (2, 3))], ("kernel", "bias")),
    (conv("SeparableConv2D"), "SeparableConv2D", [((1, 1, None, 5), (3,))], ("depthwise_kernel", "pointwise_kernel", "bias")),
    (conv("SeparableConv1D", kernel_size=[3], use_bias=False), "SeparableConv1D", [((1, None, 5), (2,))],
     ("depthwise_kernel", "pointwise_kernel")),
    (layer("Convolution1D", "conv", nb_filter=5, filter_length=3), "Conv1D", [((3, 1, None, 5), (3,)), ((5, None, 3, 1), (0,))],
     ("kernel", "bias")),
    (layer("Convolution2D", "conv", nb_filter=5, nb_row=3, nb_col=2, dim_ordering="tf"), "Conv2D", [((3, 2, None, 5), (3,))],
     ("kernel", "bias")),
    (layer("Convolution3D", "conv", nb_filter=5, kernel_dim1=3, kernel_dim2=2, kernel_dim3=1, dim_ordering="tf"), "Conv3D",
     [((3, 2, 1, None, 5), (4,))], ("kernel", "bias")),
])
def test_how_a_kernel_lies(entry, kind, layouts, roles):
    found = fed(entry)
    assert isinstance(found, Feeding), found
    assert (found.path, found.kind, found.roles) == ("conv", kind, roles)
    assert found.layouts == tuple(Layout(*each) for each in layouts)
    assert found.roles[found.kernel].endswith("kernel")
    assert "depthwise" not in found.roles[found.kernel]
    assert (None if found.bias is None else found.roles[found.bias]) == ("bias" if "bias" in roles else None)


def test_kernels_of_theano_have_the_filters_first():
    entry = layer("Convolution2D", "conv", nb_filter=5, nb_row=3, nb_col=2, dim_ordering="th")
    assert fed(entry, axis=1).layouts == (Layout((5, None, 3, 2), (0,)),)
    assert "channels first, but batch norm runs along axis (-1,)" in fed(entry)


@pytest.mark.parametrize(("shape", "fits"), [((3, 2, 7, 5), True), ((3, 2, 1, 5), True), ((3, 2, 7, 4), False), ((2, 2, 7, 5), False),
                                             ((3, 2, 7), False), ((3, 2, 7, 5, 1), False)])
def test_a_size_that_the_config_does_not_say_may_be_any(shape, fits):
    assert Layout((3, 2, None, 5), (3,)).fits(shape) is fits


@pytest.mark.parametrize(("entry", "right", "wrong"), [
    (conv(), [(-1,), (3,)], [(1,), (2,), (-3,), (4,), (0,)]), (conv(**FIRST), [(1,), (-3,)], [(-1,), (3,), (2,)]),
    (conv("Conv1D", kernel_size=[3]), [(-1,), (2,)], [(1,), (-2,)]),
    (conv("Conv1D", kernel_size=[3], **FIRST), [(1,), (-2,)], [(-1,), (2,)]),
    (conv("Conv3D", kernel_size=[3, 3, 3]), [(-1,), (4,)], [(1,), (3,)]),
    (conv("Conv3D", kernel_size=[3] * 3, **FIRST), [(1,), (-4,)], [(-1,)]),
    (conv("Conv2DTranspose"), [(-1,), (3,)], [(1,), (2,)]), (conv("Conv2DTranspose", **FIRST), [(1,), (-3,)], [(-1,), (3,)]),
    (layer("Dense", "conv", units=5), [(-1,)], [(1,), (2,)])])
def test_the_batch_norm_has_to_run_along_the_channels_that_come_out(entry, right, wrong):
    assert all(isinstance(fed(entry, axis=list(axis)), Feeding) for axis in right)
    assert all("batch norm runs along axis" in fed(entry, axis=list(axis)) for axis in (*wrong, (1, 2)))


def test_the_last_axis_of_a_dense_layer_is_known_where_the_rank_is():
    dense = layer("Dense", "conv", units=5)
    assert isinstance(fed(dense, axis=1, shape=[None, 5]), Feeding)
    assert isinstance(fed(dense, axis=2, shape=[None, 4, 5]), Feeding)
    assert "runs along axis" in fed(dense, axis=1, shape=[None, 4, 5])


def test_wrappers_over_time_on_both_sides_or_on_one():
    inside = layer("TimeDistributed", "td", layer=sequential(conv(), norm("bn", axis=3), name="s"))
    assert isinstance(feeding_layers(model_tree(sequential(inside), "m"))["td/s/bn"], Feeding)
    for axis, is_right in ((-1, True), (4, True), (3, False), (1, False)):
        beside = sequential(layer("TimeDistributed", "td", layer=conv()), norm("bn", axis=axis))
        assert isinstance(feeding_layers(model_tree(beside, "m"))["bn"], Feeding) is is_right
    shaped = layer("InputLayer", "x", batch_input_shape=[None, 7, 8, 8, 3])
    outside = sequential(shaped, layer("TimeDistributed", "td", layer=conv()), norm("bn", axis=4))
    assert isinstance(feeding_layers(model_tree(outside, "m"))["bn"], Feeding)
    first = sequential(layer("TimeDistributed", "td", layer=conv(**FIRST)), norm("bn", axis=1))
    assert "channels first" in feeding_layers(model_tree(first, "m"))["bn"]


@pytest.mark.parametrize(("entry", "said"), [
    (conv(activation="relu"), "conv, which feeds it, applies an activation in between"), (conv(activation="linear"), ""),
    (conv(activation=None), ""), (conv(activation={"class_name": "ReLU", "config": {}}), "applies an activation"),
    (conv(activation={"class_name": "function", "config": "linear", "registered_name": "function"}), ""),
    (conv(activation={"class_name": "function", "config": "linear", "registered_name": "own>linear"}), "applies an activation"),
    (conv(activation={"class_name": "function", "config": "relu"}), "applies an activation"),
    (layer("Dropout", "conv"), "conv of class Dropout, which has no kernel"),
    (conv("own>Conv2D"), "of class own>Conv2D, which has no kernel"),
    ({**conv(), "registered_name": "own>Conv2D"}, "of class own>Conv2D, which has no kernel"), ({**conv(), "registered_name": None}, ""),
    (conv(data_format=None), "does not specify whether its channels come first or last"),
    (conv(data_format="other"), "does not specify whether"), (conv(data_format=3), "does not specify whether"),
    (conv("Conv1D", kernel_size=3, data_format=None), ""), (conv(kernel_quantizer="q"), "its kernel is quantized"),
    (conv(kernel_quantizer=None, bias_quantizer={}), ""), (conv(quantization_config=None), ""),
    (conv(dtype={"class_name": "QuantizedDTypePolicy", "config": {}}), "its kernel is quantized"),
    (conv(dtype={"class_name": "DTypePolicy", "config": {"name": "float32"}}), ""), (conv(lora_rank=4), "it has LoRA weights"),
    (conv(lora_rank=None), ""), (conv(filters=None), "how many channels it has"), (conv(filters=0), "how many channels it has"),
    (conv(filters="5"), "how many channels it has"), (conv(filters=True), "how many channels it has"), (conv(filters=1), ""),
    (conv("SeparableConvolution2D", filters=None, nb_filter=5), "separable kernels in Keras 1")])
def test_what_is_against_it(entry, said):
    found = fed(entry)
    assert isinstance(found, Feeding) is (not said)
    assert said in found if said else found.path == "conv"


@pytest.mark.parametrize(("policy", "expected"), [
    (None, None), ("float32", None), ("mixed_float16", "float16"), ("mixed_bfloat16", "bfloat16"), (3, None), ({"config": None}, None),
    ({"class_name": "Policy", "config": {"name": "mixed_float16"}}, "float16"), ({"class_name": "Policy", "config": {"name": "x"}}, None)])
def test_what_a_mixed_policy_computes_in(policy, expected):
    assert fed(conv(dtype=policy)).compute_dtype == expected


def test_what_stands_around():
    x = (layer("InputLayer", "x", batch_input_shape=[None, 8, 8, 3]), [])
    plain = [x, (conv(), ["x"]), (norm("bn"), ["conv"])]

    def found(*layers, outputs=("bn",)):
        return feeding_layers(model_tree(functional(*layers, outputs=outputs), "m"))["bn"]

    assert isinstance(found(*plain), Feeding)
    elsewhere = "the output of conv is used elsewhere, too, or it is called more than once"
    assert found(*plain, (layer("Add", "add"), ["conv", "bn"]), outputs=["add"]) == elsewhere
    assert found(*plain, outputs=["bn", "conv"]) == elsewhere
    assert found(x, (norm("bn"), ["x"])).endswith("x of class InputLayer, which has no kernel of a known kind")
    two = found(x, (conv(), ["x"]), (layer("Dense", "d", units=3), ["x"]), (norm("bn"), ["conv", "d"]))
    assert two == "2 layers feed it"
    assert feeding_layers(model_tree(sequential(norm("bn")), "m")) == {"bn": "it reads the input of the model"}
    block = sequential(conv(), norm("bn"), name="inner")
    assert isinstance(feeding_layers(model_tree(sequential(block), "m"))["inner/bn"], Feeding)
    assert feeding_layers(model_tree(sequential(block), "m"))["inner/bn"].above[0].name == "inner"
    own = {**block, "registered_name": "lab>Inner"}
    assert "inner of class Sequential, which may do more" in feeding_layers(model_tree(sequential(own), "m"))["inner/bn"]
    assert fed(conv(), registered_name="lab>Net") is None


def test_only_those_that_are_wanted():
    tree = model_tree(sequential(conv(), norm("a"), layer("Dense", "d", units=3), norm("b")), "m")
    assert list(feeding_layers(tree)) == ["a", "b"]
    assert list(feeding_layers(tree, lambda path: path == "b")) == ["b"]


def test_layers_that_have_a_kernel():
    tree = model_tree(sequential(conv(), norm("a"), layer("TimeDistributed", "t", layer=layer("Dense", "d", units=3)), layer("LSTM", "l"),
                                 layer("Convolution1D", "old", nb_filter=3)), "m")
    assert [node.name for node in kernel_layers(tree)] == ["conv", "d", "old"]

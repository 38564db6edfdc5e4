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
    (layer("Dropout", "conv"), "it reads the input of the model through conv"),
    (layer("Masking", "conv"), "conv of class Masking, which has no kernel"),
    ({**conv(), "registered_name": "Conv2D"}, "of class Conv2D, which has no kernel"),  # a custom class that is not registered
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


def through(*between, **outer):
    """What feeds a batch norm behind a convolution and these layers, or why it cannot go into that."""
    return feeding_layers(model_tree({**sequential(conv(dtype="float32"), *between, norm("bn")), **outer}, "m"))["bn"]


@pytest.mark.parametrize("entry", [
    *(layer(name, "d") for name in ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise",
                                    "GaussianDropout", "AlphaDropout", "ActivityRegularization")),
    layer("Activation", "d", activation="linear"), layer("Activation", "d", activation=None),
    layer("Activation", "d", activation={"class_name": "function", "config": "linear", "registered_name": "function"}),
    {**layer("Dropout", "d", dtype="float32"), "registered_name": None},
    layer("Dropout", "d", dtype={"class_name": "DTypePolicy", "config": {"name": "float32"}}), layer("TimeDistributed", "t", layer=layer(
        "Dropout", "d"))], ids=range(14))
def test_layers_that_change_nothing_in_inference(entry):
    assert through(entry).path == through(entry, layer("Dropout", "other")).path == "conv"


@pytest.mark.parametrize(("entry", "said"), [
    (layer("Activation", "d", activation="relu"), "d of class Activation, which has no kernel"),
    (layer("Activation", "d"), "d of class Activation, which has no kernel"),
    (layer("own>Dropout", "d"), "d of class own>Dropout, which has no kernel"),
    ({**layer("Dropout", "d"), "registered_name": "own>Dropout"}, "d of class own>Dropout, which has no kernel"),
    ({**layer("Dropout", "d"), "registered_name": "Dropout"}, "d of class Dropout, which has no kernel"),  # not registered
    (layer("ReLU", "d"), "d of class ReLU, which has no kernel"),
    ({**layer("TimeDistributed", "t", layer=layer("Dropout", "d")), "registered_name": "own>TimeDistributed"}, "which may do more"),
    ({**sequential(layer("Dropout", "d"), name="s"), "registered_name": "own>S"}, "s of class Sequential, which may do more"),
    (layer("Dropout", "d", dtype="mixed_float16"), "computes in another type than the layer before it"),
    (layer("Dropout", "d", dtype={"class_name": "DTypePolicy", "config": {"name": "float16"}}), "computes in another type")],
    ids=range(10))
def test_layers_that_may_change_something(entry, said):
    assert said in through(entry)
    assert said in through(entry, layer("Dropout", "other"))


def test_what_stands_around_layers_that_change_nothing():
    x = (layer("InputLayer", "x", batch_input_shape=[None, 8, 8, 3]), [])
    drop = layer("Dropout", "d"), ["conv"]

    def found(*layers, outputs=("bn",)):
        return feeding_layers(model_tree(functional(x, *layers, outputs=outputs), "m"))["bn"]

    bn = norm("bn"), ["d"]
    assert found((conv(), ["x"]), drop, bn).path == "conv"
    elsewhere = "the output of {} is used elsewhere, too, or it is called more than once"
    assert found((conv(), ["x"]), drop, bn, outputs=["bn", "d"]) == elsewhere.format("d")
    assert found((conv(), ["x"]), drop, bn, (layer("ReLU", "r"), ["d"]), outputs=["bn", "r"]) == elsewhere.format("d")
    assert found((conv(), ["x"]), drop, bn, outputs=["bn", "conv"]) == elsewhere.format("conv")
    assert found((conv(), ["x"]), drop, bn, (layer("ReLU", "r"), ["conv"]), outputs=["bn", "r"]) == elsewhere.format("conv")
    assert found((layer("Dropout", "d"), ["x"]), bn).startswith("it is fed by x of class InputLayer")
    assert found((conv(), ["x"]), (layer("Dense", "e", units=5), ["x"]), (layer("Dropout", "d"), ["conv", "e"]), bn) == "2 layers feed d"
    shared = sequential(layer("Dropout", "d"), name="s")
    shared["inbound_nodes"] = [[["conv", 0, 0, {}]], [["x", 0, 0, {}]]]
    tree = functional(x, (conv(), ["x"]), (shared, []), (norm("bn"), ["s"]), (layer("ReLU", "r"), []), outputs=["bn", "r"])
    entries = {entry["config"]["name"]: entry for entry in tree["config"]["layers"]}
    entries["s"]["inbound_nodes"], entries["r"]["inbound_nodes"] = shared["inbound_nodes"], [[["s", 1, 0, {}]]]
    assert feeding_layers(model_tree(tree, "m"))["bn"] == elsewhere.format("s/d")


@pytest.mark.parametrize(("training", "is_kept"), [(True, True), (1, True), (False, False), (None, False)])
def test_a_dropout_that_is_called_in_training(training, is_kept):
    x = (layer("InputLayer", "x", batch_input_shape=[None, 8, 8, 3]), [])
    inner = sequential(layer("Dropout", "d"), name="s")
    for entry, path in ((layer("Dropout", "d"), "d"), (inner, "s/d")):
        tree = functional(x, (conv(), ["x"]), (entry, ["conv"]), (norm("bn"), [path[0]]), outputs=["bn"])
        tree["config"]["layers"][2]["inbound_nodes"][0][0][3]["training"] = training
        found = feeding_layers(model_tree(tree, "m"))["bn"]
        if is_kept:
            assert found == f"{path}, which feeds it, is called with training=True, so that it may also change its input in inference"
        else:
            assert found.path == "conv"


def test_only_those_that_are_wanted():
    tree = model_tree(sequential(conv(), norm("a"), layer("Dense", "d", units=3), norm("b")), "m")
    assert list(feeding_layers(tree)) == ["a", "b"]
    assert list(feeding_layers(tree, lambda path: path == "b")) == ["b"]


def test_layers_that_have_a_kernel():
    tree = model_tree(sequential(conv(), norm("a"), layer("TimeDistributed", "t", layer=layer("Dense", "d", units=3)), layer("LSTM", "l"),
                                 layer("Convolution1D", "old", nb_filter=3)), "m")
    assert [node.name for node in kernel_layers(tree)] == ["conv", "d", "old"]

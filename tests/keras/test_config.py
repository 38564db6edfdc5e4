"""The tree of a config, of every era, and what a batch norm's entry says."""

from __future__ import annotations

import json

import h5py
import pytest

from exporter.errors import ExporterError, FormatError
from exporter.files.place import Place
from exporter.keras import config
from exporter.keras.config import is_batch_norm, model_tree, norm_fields, parse_config, walk
from exporter.keras.ranks import input_ranks
from exporter.sources.shared.architecture import node_tree_from
from tests.make.configs import SIGNS, functional, layer, norm, sequential


def norms(value):
    return [path for path, node in walk(model_tree(value, "x")) if is_batch_norm(node)]


@pytest.mark.parametrize(("model", "paths"), [
    (sequential(norm("a"), layer("Dense", "fc"), norm("b")), ["a", "b"]),
    ({"class_name": "Sequential", "config": [norm("a"), norm("b")]}, ["a", "b"]),
    ({"class_name": "Sequential", "config": [{"class_name": "Sequential", "config": [norm("a")]}]}, ["a"]),
    (sequential(sequential(functional((norm("c"), ["x"]), name="deep"), name="mid")), ["mid/deep/c"]),
    (sequential(layer("TimeDistributed", "td", layer=norm("inner"))), ["td/inner"]),
    (sequential(layer("TimeDistributed", "td", layer=sequential(norm("b"), name="sub"))), ["td/sub/b"]),
    (sequential(layer("Bidirectional", "bi", layer=layer("RNN", "rnn", cell=layer("own>Cell", "cell", norm=norm("n"))))),
     ["bi/forward_rnn/cell/n", "bi/backward_rnn/cell/n"]),
    (sequential(layer("Bidirectional", "bi", layer=layer("RNN", "forward_rnn", cell=layer("C", "c", norm=norm("n"))),
                      backward_layer=layer("RNN", "backward_other", cell=layer("C", "c", norm=norm("n"))))),
     ["bi/forward_rnn/c/n", "bi/backward_other/c/n"]),
    (sequential(layer("RNN", "rnn", cell=layer("StackedRNNCells", "stack", cells=[layer("C", "c0", n=norm("n")),
                                                                                  layer("C", "c1", n=norm("n"))]))),
     ["rnn/stack/c0/n", "rnn/stack/c1/n"]),
    ({"class_name": "Sequential", "config": [
        layer("Merge", "merge_1", layers=[sequential(norm("l"), name="left"), sequential(norm("r"), name="right")]), norm("joint")]},
     ["merge_1/left/l", "merge_1/right/r", "joint"]),
    (sequential(layer("own>Block", "block", inner={"deeper": [norm("x"), {"again": norm("y")}]})), ["block/x", "block/y"]),
    (sequential(layer("own>Block", "block", spec={"config": {"name": "said"}}, inner=norm("n"))), ["block/n"]),
    (layer("own>Net", "net", backbone=sequential(norm("b"), name="backbone")), ["backbone/b"]),
    (sequential(norm("a/b"), norm("日本")), ["a/b", "日本"]),
    ({"name": "Sequential", "layers": [{"name": "Dense", "custom_name": "dense"}, {"name": "BatchNormalization", "custom_name": "bn"}]},
     ["bn"]),
    ({"name": "Sequential", "layers": [{"name": "Flatten"}, {"name": "BatchNormalization"}, {"name": "Sequential", "layers": [
        {"name": "BatchNormalization"}]}]}, ["layer_1", "layer_2/layer_0"]),
    ({"name": "Graph", "nodes": {"z": {"name": "BatchNormalization"}, "a": {"name": "BatchNormalization"}},
      "node_config": [{"name": "z"}, {"name": "a"}]}, ["z", "a"]),
])
def test_paths_in_the_order_of_the_model(model, paths):
    assert norms(model) == paths


@pytest.mark.parametrize(("entry", "expected"), [
    (norm(class_name="BatchNormalizationV1"), True), (norm(class_name="BatchNormalizationV2"), True),
    (norm(class_name="SyncBatchNormalization"), True), (norm(class_name="acme>GhostNorm"), True),
    ({**norm(class_name="GhostNorm"), "registered_name": "Custom>GhostNorm", "module": None}, True),
    (layer("BatchNormalization", "old", epsilon=1e-5, mode=0, axis=-1, momentum=0.9), True),
    (layer("LayerNormalization", "batch_normalization", epsilon=1e-3, axis=[1]), False),
    (layer("GroupNormalization", "bn", epsilon=1e-3), False),
    (layer("fake>BatchNormalization", "bn", units=3), False),
    ({**layer("BatchNormalization", "bn", units=3), "registered_name": "fake>BatchNormalization"}, False),
    ({**layer("BatchNormalization", "bn", epsilon=1e-3), "registered_name": "BatchNormalization"}, False),
    ({**norm(), "registered_name": "BatchNormalization"}, True), (layer("BatchNormalization", "bn", groups=3, trainable=True), False),
    (layer("BatchNormalization", "bn", epsilon=1e-3), True),
    (layer("Dense", "batch_normalization_1", units=3), False), (layer("own>Block", "b", **SIGNS, inner=norm()), False),
])
def test_what_is_a_batch_norm(entry, expected):
    assert is_batch_norm(model_tree(sequential(entry), "x").children[0][1]) is expected


def fields_of(entry):
    return norm_fields(model_tree(sequential(entry), "x").children[0][1])


def test_fields():
    entry = {**norm(axis=[1, 3], center=False, scale=1, renorm=True, virtual_batch_size=8, epsilon=1,
                    dtype={"class_name": "Policy", "config": {"name": "mixed_float16"}}), "build_config": {"input_shape": [None, 4, 4, 3]}}
    found = fields_of(entry)
    assert (found.axis, found.center, found.scale, found.epsilon, found.momentum) == ((1, 3), False, True, 1.0, 0.9)
    assert (found.renorm, found.virtual_batch_size, found.dtype, found.ndim, found.mode) == (True, 8, "mixed_float16", 4, 0)
    assert fields_of(norm(class_name="SyncBatchNormalization")).synchronized
    assert not fields_of(norm(synchronized=False)).synchronized
    missing = fields_of(layer("BatchNormalization", "bn"))
    assert (missing.axis, missing.epsilon, missing.momentum, missing.center, missing.scale) == (None,) * 5


@pytest.mark.parametrize(("dtype", "expected"), [
    ("float64", "float64"), (None, None), ({"class_name": "DTypePolicy", "config": {"name": "bfloat16"}}, "bfloat16"),
    ({"class_name": "DTypePolicyMap", "config": {"default_policy": {"class_name": "DTypePolicy", "config": {"name": "float16"}}}},
     "float16"),
])
def test_dtype_policies(dtype, expected):
    assert fields_of(norm(dtype=dtype)).dtype == expected


@pytest.mark.parametrize(("config", "what"), [
    ({"axis": "1"}, 'expected an integer or a list of integers as its axis, got "1"'),
    ({"axis": None}, "expected an integer or a list of integers as its axis, got null"),
    ({"axis": True}, "expected an integer or a list of integers as its axis, got true"),
    ({"axis": 1.0}, "expected an integer or a list of integers as its axis, got 1.0"),
    ({"axis": []}, "expected an integer or a list of integers as its axis, got []"),
    ({"epsilon": "0.001"}, 'expected a number as its epsilon, got "0.001"'),
    ({"epsilon": None}, "expected a number as its epsilon, got null"),
    ({"epsilon": True}, "expected a number as its epsilon, got true"),
    ({"epsilon": [1]}, "expected a number as its epsilon, got [1]"),
    ({"epsilon": -1e-3}, "expected an epsilon of 0 or more that fits float32, got -0.001"),
    ({"epsilon": 1e39}, "expected an epsilon of 0 or more that fits float32, got 1e+39"),
    ({"momentum": "high"}, 'expected a number as its momentum, got "high"'),
    ({"center": "false"}, 'expected true or false as its center, got "false"'),
    ({"scale": 2}, "expected true or false as its scale, got 2"),
    ({"mode": 0.5}, "expected an integer as its mode, got 0.5"),
])
def test_wrong_fields(config, what):
    with pytest.raises(FormatError) as caught:
        fields_of(norm(**config))
    assert str(caught.value).startswith(f"layer bn: {what}")


@pytest.mark.parametrize(("value", "what"), [
    ([], "this JSON is not the config of a Keras model"), (None, "this JSON is not the config"), (3, "this JSON is not the config"),
    ({"class_name": "Sequential", "config": {"name": "m"}}, "layer m: the config of a model has no list of layers"),
    ({"class_name": "Sequential", "config": {"name": "m", "layers": "x"}}, "layer m: the layers of a model are not a list"),
    ({"class_name": "Sequential", "config": {"name": "m", "layers": ["x"]}}, "layer m: an entry of its layers is not an object"),
    ({"class_name": "Dense", "config": []}, "the config of the model of class Dense is not an object"),
    (sequential({"class_name": ["Dense"], "config": {}}), "the class_name of a layer is not text"),
    (sequential({"class_name": "BatchNormalization", "config": {}}), "a layer has no name"),
    (sequential({"class_name": "Dense", "config": {"name": 3}}), "layer 3: the name of a layer is not text"),
    (sequential({"class_name": "BatchNormalization", "config": {"name": None}}), "a layer has no name"),
    ({"name": "Sequential", "layers": {}}, "layer Sequential: its layers are not a list of objects"),
    ({"name": "Sequential", "layers": [{"custom_name": "x"}]}, "layer x: a layer has no class name"),
    ({"name": "Sequential", "layers": [{"name": "Dense", "custom_name": 7}]}, "layer 7: the custom_name of a layer is not text"),
    ({"name": "Graph", "nodes": {"a": {}}, "node_config": [{"name": "b"}]}, "nodes and node_config of a Graph list different layers"),
])
def test_what_is_no_model(value, what):
    with pytest.raises(FormatError) as caught:
        parse_config(json.dumps(value), "model_config")
    assert str(caught.value).startswith(f"model_config: {what}")


def image(shape=(None, 8, 8, 3), **form):
    return layer("InputLayer", "x", **(form or {"batch_input_shape": list(shape)}))


@pytest.mark.parametrize(("model", "ranks"), [
    (sequential(image(), norm("a"), layer("Conv2D", "c"), norm("b"), layer("Flatten", "f"), norm("d")), {"a": 4, "b": 4, "d": 2}),
    (sequential(image(batch_shape=[None, 5, 4]), norm("a"), layer("LSTM", "l", return_sequences=False), norm("b")), {"a": 3, "b": 2}),
    (sequential(layer("Conv1D", "c"), norm("a"), layer("GlobalMaxPooling1D", "g"), norm("b")), {"a": 3, "b": 2}),
    (sequential(layer("Lambda", "l"), norm("a")), {"a": None}),
    (sequential(layer("Conv2D", "c"), layer("Lambda", "l"), norm("a"), layer("Conv2D", "d"), norm("b")), {"a": None, "b": 4}),
    (sequential(layer("Reshape", "r", target_shape=[3, 3, 2]), norm("a"), layer("GlobalAveragePooling2D", "g", keepdims=True), norm("b")),
     {"a": 4, "b": 4}),
    (functional((image(), []), (layer("Conv2D", "c"), ["x"]), (norm("a"), ["c"]), (layer("Add", "s"), ["a", "c"]),
                (norm("out"), ["s"])),
     {"a": 4, "out": 4}),
    (functional((image(), []), (layer("Flatten", "f"), ["x"]), (layer("Multiply", "m"), ["x", "f"]), (norm("out"), ["m"])), {"out": None}),
    (functional((image(), []), (functional((image(), []), (layer("Flatten", "out"), ["x"]), name="in"), ["x"]), (norm("out"), ["in"])),
     {"out": 2}),
    (sequential(image((None, 5, 4)), layer("TimeDistributed", "t", layer=norm("i")), norm("a")), {"t/i": 2, "a": 3}),
    (sequential(image((None, 5, 4)), layer("Bidirectional", "t", merge_mode="sum", layer=layer("GRU", "g", return_sequences=True)),
                norm("a")), {"a": 3}),
])
def test_ranks(model, ranks):
    tree = model_tree(model, "x")
    found = input_ranks(tree)
    assert {path: found.get(node) for path, node in walk(tree) if is_batch_norm(node)} == ranks


def test_ranks_of_keras_3_come_from_the_tensors():
    tensor = {"class_name": "__keras_tensor__", "config": {"shape": [None, 7, 7, 3], "dtype": "float32", "keras_history": ["own", 0, 0]}}
    entry = {**norm("a"), "name": "a", "inbound_nodes": [{"args": [tensor], "kwargs": {}}]}
    tree = model_tree(layer("Functional", "m", layers=[entry], input_layers=[], output_layers=[]), "x")
    assert input_ranks(tree)[tree.children[0][1]] == 4
    assert tree.children[0][1].inputs == ("own",)


def test_architecture_files(tmp_path):
    model = {**sequential(norm("a")), "keras_version": "1.0.5", "backend": "theano"}
    (tmp_path / "model.json").write_text(json.dumps(model))
    found = node_tree_from(Place(tmp_path / "model.json"))
    assert (found.keras_version, found.backend, found.tree.children[0][1].name) == ("1.0.5", "theano", "a")
    topology = {"keras_version": "2.4.0", "backend": "tensorflow", "model_config": sequential(norm("b"))}
    (tmp_path / "tfjs.json").write_text(json.dumps({"modelTopology": topology}))
    found = node_tree_from(Place(tmp_path / "tfjs.json"))
    assert (found.keras_version, found.tree.children[0][1].name) == ("2.4.0", "b")
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs.update({"model_config": json.dumps(sequential(norm("c"))), "keras_version": "2.4.0"})
    found = node_tree_from(Place(tmp_path / "model.h5"))
    assert (found.keras_version, found.tree.children[0][1].name) == ("2.4.0", "c")
    (tmp_path / "twice.json").write_text(json.dumps(json.dumps(model)))
    found = node_tree_from(Place(tmp_path / "twice.json"))
    assert (found.keras_version, found.backend, found.tree.children[0][1].name) == ("1.0.5", "theano", "a")


@pytest.mark.parametrize(("name", "content", "what"), [
    ("model.yaml", b"class_name: Sequential\n", "expected JSON or a model file"),
    ("empty.json", b"", "expected JSON or a model file"), ("list.json", b"[1]", "this JSON is not the config of a Keras model"),
    ("weights.h5", "hdf5", "this HDF5 file contains weights but no config"), ("text.json", b'"no model"', "this is not strict JSON"),
])
def test_architecture_files_that_hold_none(tmp_path, name, content, what):
    if content == "hdf5":
        h5py.File(tmp_path / name, "w").close()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExporterError) as caught:
        node_tree_from(Place(tmp_path / name))
    assert str(caught.value).startswith(f"{name}: {what}")


@pytest.mark.parametrize("model", [functional((norm("a"), ["x"]), (norm("a"), ["x"])), sequential(norm("a"), layer("Dense", "a")),
                                   sequential(sequential(norm("a"), norm("b"), norm("a"), name="inner"))])
def test_two_layers_of_one_name_in_one_model(model):
    with pytest.raises(FormatError, match="two layers of one model have this name") as caught:
        model_tree(model, "x")
    assert "layer a" in str(caught.value)


def test_one_name_in_two_models_is_nothing_odd():
    assert norms(sequential(sequential(norm("a"), name="left"), sequential(norm("a"), name="right"))) == ["left/a", "right/a"]


@pytest.mark.parametrize("entry", [
    {"class_name": "Custom>BatchNormalization", "config": {"name": None, "axis": -1}},
    {"class_name": "Custom>BatchNormalization", "config": {"axis": -1}},
    {"class_name": "BatchNormalization", "registered_name": "Custom>BatchNormalization", "config": {"name": None, "axis": -1}},
    {"class_name": "Mine", "config": {"name": None}}, {"class_name": "Mine", "config": {}}])
def test_a_users_class_may_have_no_name_in_its_config(entry):
    """get_config of a user's class need not call that of its base."""
    tree = model_tree({"class_name": "Sequential", "config": {"name": "m", "layers": [{**entry, "name": "outer"}]}}, "m")
    assert [node.name for _, node in tree.children] == ["outer"]
    tree = model_tree({"class_name": "Sequential", "config": {"name": "m", "layers": [entry]}}, "m")
    assert [node.name for _, node in tree.children] == [""]


@pytest.mark.parametrize("config", [{"name": None, "axis": -1}, {"axis": -1}])
def test_keras_own_class_has_one(config):
    entry = {"class_name": "BatchNormalization", "config": config}
    with pytest.raises(FormatError, match="a layer has no name"):
        model_tree({"class_name": "Sequential", "config": {"name": "m", "layers": [entry]}}, "m")


def test_a_name_that_is_said_twice_and_differs():
    model = functional((norm("a"), ["x"]))
    model["config"]["layers"][0]["name"] = "b"
    with pytest.raises(FormatError, match=r"the names of a layer disagree: the model calls it"):
        model_tree(model, "x")


def test_the_two_names_of_an_inner_model_have_to_agree():
    inner = {**sequential(norm("bn"), name="inner"), "name": "inner"}
    assert [path for path, node in walk(model_tree(sequential(inner), "m")) if node.class_name == "BatchNormalization"] == ["inner/bn"]
    with pytest.raises(FormatError, match=r"the names of a layer disagree: the model .* 'other', its config 'inner'"):
        model_tree(sequential({**inner, "name": "other"}), "m")


@pytest.mark.parametrize("wrapper", ["TimeDistributed", "Bidirectional"])
def test_a_wrapper_of_keras_own_says_its_name_twice_alike_and_has_a_layer(wrapper):
    with pytest.raises(FormatError, match=r"the names of a layer disagree: the model .* 'other', its config 'w'"):
        model_tree(sequential({**layer(wrapper, "w", layer=norm("n")), "name": "other"}), "m")
    with pytest.raises(FormatError, match=rf"layer w: the config of a {wrapper} contains no layer"):
        model_tree(sequential(layer(wrapper, "w")), "m")
    assert norms(sequential({**layer(wrapper, "w"), "name": "other", "registered_name": f"own>{wrapper}"})) == []


@pytest.mark.parametrize(("model", "count"), [
    (sequential(norm("a"), layer("Dense", "d")), 3), (sequential(sequential(norm("a"), name="s")), 3),
    (sequential(layer("TimeDistributed", "t", layer=norm("a"))), 3), (sequential(layer("own>C", "c", part={"x": [norm("a")]})), 3),
    ({"name": "Sequential", "layers": [{"name": "Dense"}, {"name": "TimeDistributed", "layer": {"name": "Dense"}}]}, 4)])
def test_how_many_layers_a_config_may_have(monkeypatch, model, count):
    monkeypatch.setattr(config, "MAX_LAYERS", count)
    assert len(list(walk(model_tree(model, "x")))) == count - 1
    monkeypatch.setattr(config, "MAX_LAYERS", count - 1)
    with pytest.raises(FormatError, match=f"x: expected at most {count - 1} layers, got more"):
        model_tree(model, "x")


@pytest.mark.parametrize("key", ["dtype", "input_layers", "output_layers", "inbound_nodes", "build_config", "compile_config",
                                 "training_config", "optimizer"])
def test_where_a_config_holds_no_layers(key):
    """Or a second description of layers that are listed already."""
    block = layer("own>Block", "block", first=norm("a"), **{key: norm("b")}, more={key: [norm("c")], "deep": {"x": norm("d")}})
    assert norms(sequential(block)) == ["block/a", "block/d"]


def test_layers_come_first_in_a_users_model():
    """As Keras tracks them."""
    assert norms(layer("own>Net", "net", head=norm("z"), layers=[norm("b"), norm("a")])) == ["b", "a", "z"]
    assert norms(sequential(layer("own>Net", "net", head=norm("z"), layers=[norm("b")]))) == ["net/b", "net/z"]


@pytest.mark.parametrize(("values", "found"), [
    ({"layer": {"class_name": "LSTM", "config": {}}}, []), ({"layer": norm("n")}, ["bi/forward_n", "bi/backward_n"]),
    ({"layer": norm("n"), "backward_layer": {"class_name": "LSTM", "config": {}}}, ["bi/forward_n", "bi/backward_n"]),
    ({"layer": norm("n"), "backward_layer": norm("m")}, ["bi/forward_n", "bi/backward_m"]),
    ({"layer": norm("n"), "forward_layer": norm("m")}, ["bi/forward_m", "bi/backward_n"])])
def test_both_directions(values, found):
    assert norms(sequential(layer("Bidirectional", "bi", **values))) == found


def first(entry):
    return model_tree(sequential(entry), "x").children[0][1]


@pytest.mark.parametrize(("more", "shared", "registered"), [
    ({}, None, None), ({"shared_object_id": 0}, 0, None), ({"shared_object_id": 7, "registered_name": "own>N"}, 7, "own>N"),
    ({"shared_object_id": True}, None, None), ({"shared_object_id": "7"}, None, None), ({"registered_name": 3}, None, None)])
def test_what_an_entry_says_beside_its_config(more, shared, registered):
    node = first({**norm("a"), **more})
    assert (node.shared_object, node.registered_name) == (shared, registered)


@pytest.mark.parametrize(("entry", "name"), [
    ({**layer("Dense", "own"), "name": "called"}, "own"), ({"class_name": "Dense", "config": {}, "name": "called"}, "called"),
    ({"class_name": "Dense", "config": {"name": None}, "name": "called"}, "called"), ({"class_name": "Dense", "config": {}}, ""),
    ({**norm("bn"), "name": "bn"}, "bn"), ({"class_name": "BatchNormalization", "config": {}, "name": "called"}, "called"),
    ({"class_name": "Sequential", "config": [norm("a")]}, ""), ({"class_name": "Sequential", "config": [norm("a")], "name": "s"}, "s")])
def test_the_name_of_a_layer(entry, name):
    assert first(entry).name == name


@pytest.mark.parametrize("form", ["build", "input", "batch", "tensor"])
@pytest.mark.parametrize(("shape", "expected"), [
    ([None, 4, 3], (None, 4, 3)), ([2, 4, 0], (2, 4, 0)), ({"class_name": "__tuple__", "items": [None, 3]}, (None, 3)), ([], None),
    (None, None), ([None, -1], None), ([None, True], None), ([None, 3.0], None), ("x", None), ({"items": 3}, None)])
def test_the_shape_of_the_input(form, shape, expected):
    tensor = {"class_name": "__keras_tensor__", "config": {"shape": shape, "keras_history": ["x", 0, 0]}}
    entry = {"build": {**norm(), "build_config": {"input_shape": shape}}, "input": norm(batch_input_shape=shape),
             "batch": norm(batch_shape=shape), "tensor": {**norm(), "inbound_nodes": [{"args": [tensor], "kwargs": {}}]}}[form]
    assert first(entry).input_shape == expected
    assert fields_of(entry).ndim == (len(expected) if expected else None)


def test_which_of_several_shapes_counts():
    """What the layer was built on, before what came into its first call; of several tensors none is the input."""
    tensors = [{"class_name": "__keras_tensor__", "config": {"shape": [None, size], "keras_history": ["x", 0, 0]}} for size in (5, 6)]
    entry = {**norm(batch_input_shape=[None, 3], batch_shape=[None, 4]), "build_config": {"input_shape": [None, 2]},
             "inbound_nodes": [{"args": tensors[:1], "kwargs": {}}]}
    for size, key in ((2, "build_config"), (3, "batch_input_shape"), (4, "batch_shape"), (5, "inbound_nodes")):
        assert first(entry).input_shape == (None, size)
        entry.pop(key, None)
        entry["config"].pop(key, None)
    assert first(entry).input_shape is None
    assert first({**norm(), "inbound_nodes": [{"args": tensors, "kwargs": {}}]}).input_shape is None


def test_layers_of_keras_0_3():
    model = {"name": "Sequential", "layers": [
        {"name": "Dense", "input_shape": [5], "output_dim": 3},
        {"name": "TimeDistributed", "layer": {"name": "BatchNormalization", "mode": 1}},
        {"name": "BatchNormalization", "custom_name": "own", "input_shape": 7}]}
    found = dict(walk(model_tree(model, "x")))
    assert list(found) == ["layer_0", "layer_1", "layer_1/layer", "own"]
    assert (found["layer_0"].input_shape, found["own"].input_shape, found["layer_0"].class_name) == ((None, 5), None, "Dense")
    assert dict(found["layer_0"].config) == {"input_shape": [5], "output_dim": 3}
    assert [role for role, _ in found["layer_1"].children] == ["layer"]
    assert norm_fields(found["layer_1/layer"]).mode == 1


@pytest.mark.parametrize(("nodes", "order", "said"), [
    ({"a": {"name": "Dense"}}, [{"name": "a"}, {"name": "a"}], "list different layers"), ({"a": {"name": "Dense"}}, None, "list different"),
    ({"a": {"name": "Dense"}}, [], "list different"), ([], [], "list different"), ({"a": 3}, [{"name": "a"}], "not a list of objects"),
    ({"a": {"name": "Dense"}}, [{"name": "a"}, {"name": "b"}], "list different"),
    ({"a": {"name": "Dense"}}, [{"name": "a"}, 7], "list different"),
    ({"a": {"name": "Dense"}, "b": {"name": "Dense"}}, [{"name": "a"}], "list different")])
def test_graphs_of_keras_0_3_that_contradict_themselves(nodes, order, said):
    with pytest.raises(FormatError, match=said):
        model_tree({"name": "Graph", "nodes": nodes, "node_config": order}, "x")


@pytest.mark.parametrize(("value", "is_model"), [
    ({"name": "Sequential", "layers": []}, True), ({"name": "Graph", "nodes": {}, "node_config": []}, True), ({"name": "Dense"}, False),
    ({"name": 3, "layers": []}, False), ({"class_name": 3, "config": {}}, False), ({"layers": []}, False), ({"nodes": {}}, False)])
def test_what_is_taken_for_a_model(value, is_model):
    if is_model:
        assert model_tree(value, "x").children == ()
    else:
        with pytest.raises(FormatError, match="this JSON is not the config of a Keras model"):
            model_tree(value, "x")


@pytest.mark.parametrize(("key", "given", "expected"), [
    ("epsilon", 0, 0.0), ("epsilon", 3.4028234663852886e38, 3.4028234663852886e38), ("epsilon", 2, 2.0), ("momentum", 0, 0.0),
    ("momentum", -1.5, -1.5), ("center", 0, False), ("center", 1, True), ("center", False, False), ("scale", True, True), ("mode", 2, 2),
    ("mode", None, 0), ("renorm", 1, True), ("renorm", False, False), ("virtual_batch_size", 4, 4), ("virtual_batch_size", None, None),
    ("synchronized", True, True), ("axis", 0, (0,)), ("axis", [1], (1,)), ("axis", [-1, 2], (-1, 2)), ("dtype", "float16", "float16"),
    ("dtype", {"config": {"default_policy": {"config": {"name": {"config": {"name": "float16"}}}}}}, None), ("dtype", 3, None),
    ("dtype", {"config": 3}, None), ("dtype", {"config": {}}, None)])
def test_values_that_a_field_may_have(key, given, expected):
    found = getattr(fields_of(norm(**{key: given})), key)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("key", "value"), [
    ("epsilon", 3.4028234663852890e38), ("epsilon", -5e-324), ("momentum", float("inf")), ("momentum", float("nan")), ("momentum", True),
    ("center", None), ("center", -1), ("center", 1.0), ("mode", True), ("virtual_batch_size", True), ("virtual_batch_size", "8"),
    ("renorm", None), ("synchronized", "yes"), ("axis", [1, True]), ("axis", [[1]]), ("axis", [1, 2.0])])
def test_values_that_it_may_not(key, value):
    with pytest.raises(FormatError, match=f"as its {key}, got|expected an {key} of 0 or more"):
        fields_of(norm(**{key: value}))


def test_what_lookalikes_say_of_a_layer():
    fused = norm("conv", "QConv2DBatchnorm", filters=3, kernel_size=[3, 3])
    quantized = layer("QuantizeWrapperV2", "q", layer=norm("n"), quantize_config=None)
    found = dict(walk(model_tree(sequential(fused, quantized, norm("plain")), "x")))
    assert list(found) == ["conv", "conv/batchnorm", "q", "q/n", "plain"]
    assert norm_fields(found["conv/batchnorm"]).epsilon == 0.01
    assert {path: len(node.surroundings.notes) for path, node in found.items()} == {
        "conv": 0, "conv/batchnorm": 0, "q": 0, "q/n": 1, "plain": 0}

"""What feeds and follows each batch norm of a config: calls, nested models, wrappers, shared layers, in the forms of every Keras."""

from __future__ import annotations

import dataclasses
import json

import pytest

import exporter
from exporter.batchnorm.places import Call, Neighbor
from exporter.commands.export import export
from exporter.keras.config import is_batch_norm, model_tree, walk
from exporter.keras.node import Node, are_alike
from exporter.keras.places import MAX_CALLS, OVERWRITTEN, with_shared
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import named, parameters, write


def called(entry, *calls):
    """A layer's entry with its calls, each of the names of the layers it reads, or of (name, number of the call)."""
    refs = [[[each, 0, 0, {}] if isinstance(each, str) else [*each, 0, {}] for each in call] for call in calls]
    return {**entry, "name": entry["config"]["name"], "inbound_nodes": refs}


def keras_3(entry, *calls):
    """The same as Keras 3 writes it."""
    tensors = [[{"class_name": "__keras_tensor__", "config": {"shape": [None, 3], "dtype": "float32", "keras_history": [each, 0, 0]}}
                for each in call] for call in calls]
    nodes = [{"args": call if len(call) == 1 else [call], "kwargs": {}} for call in tensors]
    return {**entry, "name": entry["config"]["name"], "inbound_nodes": nodes}


def model(*entries, inputs=("x",), outputs=("out",), name="model"):
    ends = [[each, 0, 0] if isinstance(each, str) else [*each, 0] for each in outputs]
    return layer("Functional", name, layers=list(entries), input_layers=[[each, 0, 0] for each in inputs], output_layers=ends)


def source(name="x"):
    return called(layer("InputLayer", name, batch_input_shape=[None, 4, 4, 3]))


CONV = layer("Conv2D", "conv", use_bias=False, activation="linear", padding="same")
RELU = layer("Activation", "relu", activation="relu")


def places(config):
    """{path: [(what feeds, what follows) of each call]}, as paths."""
    return {path: [tuple([each.path for each in side] for side in (call.inputs, call.outputs)) for call in node.calls]
            for path, node in walk(model_tree(config, "m")) if is_batch_norm(node)}


def neighbors(config, path="bn"):
    (call,) = dict(walk(model_tree(config, "m")))[path].calls
    return call


@pytest.mark.parametrize("form", [called, keras_3])
def test_what_is_said_of_the_layers_beside_it(form):
    after = layer("Conv2D", "after", use_bias=True, activation="relu", padding="same")
    found = neighbors(model(source(), form(CONV, ["x"]), form(norm(), ["conv"]), form(after, ["bn"]), outputs=["after"]))
    assert found == Call((Neighbor(path="conv", class_name="Conv2D", axis=3, use_bias=False),),
                         (Neighbor(path="after", class_name="Conv2D", activation="relu", padding="same"),))
    assert found.as_dict() == {"inputs": [{"path": "conv", "class_name": "Conv2D", "axis": 3, "use_bias": False}],
                               "outputs": [{"path": "after", "class_name": "Conv2D", "activation": "relu", "padding": "same"}]}
    assert Call.of(found.as_dict()) == found


@pytest.mark.parametrize(("entry", "axis"), [
    *((layer(name, "k", use_bias=True), axis) for name, axis in {
        "Dense": 1, "Conv1D": 2, "Conv2D": 3, "Conv3D": 4, "SeparableConv1D": 2, "SeparableConv2D": 3, "Conv1DTranspose": 1,
        "Conv2DTranspose": 2, "Conv3DTranspose": 3, "LSTM": None}.items()),
    *((layer(name, "k", bias=True, dim_ordering="tf"), axis) for name, axis in {
        "Convolution1D": None, "Convolution2D": 3, "Convolution3D": 4, "SeparableConvolution2D": 3}.items()),
    *((layer(f"DepthwiseConv{rank}", "k", use_bias=True, depth_multiplier=number), axis) for rank, number, axis in [
        ("1D", 1, 1), ("2D", 1, 2), ("3D", 1, None), ("2D", 2, None), ("1D", None, None)]),
    (layer("Convolution2D", "k", bias=True, dim_ordering="th"), None),
    (layer("MaxoutConvolution2D", "k", bias=True, image_dim_ordering="th"), None),
    (layer("Convolution2D", "k", bias=True, image_dim_ordering="th"), None)])
def test_the_axis_of_a_kernels_output_channels(entry, axis):
    (feeding,) = neighbors(sequential(entry, norm())).inputs
    assert (feeding.axis, feeding.use_bias) == (axis, True)


@pytest.mark.parametrize(("value", "name"), [
    ("relu", "relu"), ("linear", None), (None, None), ({"class_name": "ReLU", "config": {}}, "ReLU"),
    ({"module": "builtins", "class_name": "function", "config": "swish", "registered_name": "function"}, "swish")])
def test_activations(value, name):
    (feeding,) = neighbors(sequential(layer("Dense", "d", activation=value), norm())).inputs
    assert feeding.activation == name


def test_a_layer_whose_output_something_else_reads():
    add = layer("Add", "add")
    branched = model(source(), called(CONV, ["x"]), called(norm(), ["conv"]), called(add, ["conv", "bn"]), outputs=["add"])
    twice = model(source(), called(CONV, ["x"], ["bn"]), called(norm(), ["conv"]), outputs=[("conv", 1)])
    given = model(source(), called(CONV, ["x"]), called(norm(), ["conv"]), outputs=["conv", "bn"])
    alone = model(source(), called(CONV, ["x"]), called(norm(), ["conv"]), outputs=["bn"])
    assert [neighbors(each).inputs[0].is_shared for each in (branched, twice, given, alone)] == [True, True, True, False]
    assert [each.path for each in neighbors(branched).outputs] == ["add"]


def test_models_in_models_are_looked_through():
    """Call number 0 of a model made it: in the outer model it is read as number 1, up to Keras 2."""
    inner = model(source("i"), called(norm("first"), ["i"]), called(CONV, ["first"]), called(norm("last"), ["conv"]),
                  inputs=["i"], outputs=["last"], name="inner")
    for number in (0, 1):
        outer = model(source(), called(norm("before"), ["x"]), called(inner, ["before"]), called(RELU, [("inner", number)]),
                      outputs=["relu"])
        assert places(outer) == {"before": [(["x"], ["inner/first"])], "inner/first": [(["before"], ["inner/conv"])],
                                 "inner/last": [(["inner/conv"], ["relu"])]}
    chain = sequential(CONV, sequential(norm("a"), layer("Dense", "d"), name="s"), norm("b"))
    assert places(chain) == {"s/a": [(["conv"], ["s/d"])], "b": [(["s/d"], [])]}
    old = {"class_name": "Sequential", "config": [CONV, norm("a"), RELU]}
    assert places(old) == {"a": [(["conv"], ["relu"])]}


def test_each_output_of_a_model_is_a_layer_of_its_own():
    """["inner", call, 1] is the second thing that the model gives."""
    inner = model(source("i"), called(norm("one"), ["i"]), called(norm("two"), ["i"]), inputs=["i"], outputs=["one", "two"], name="inner")
    for second, expected in ((0, {"inner/one": ["relu"], "inner/two": []}), (1, {"inner/one": [], "inner/two": ["relu"]})):
        reads = {**RELU, "name": "relu", "inbound_nodes": [[["inner", 0, second, {}]]]}
        found = places(model(source(), called(inner, ["x"]), reads, outputs=["relu"]))
        assert {path: calls[0][1] for path, calls in found.items()} == expected


def test_a_number_of_an_output_that_there_is_not():
    """Of a layer that is no model the config does not say how many outputs it has."""
    inner = model(source("i"), called(norm("one"), ["i"]), called(norm("two"), ["i"]), called(norm("three"), ["i"]), inputs=["i"],
                  outputs=["one", "two", "three"], name="inner")
    for number, name in ((2, "three"), (3, "three"), (-1, "three"), (1, "two"), (0, "one")):
        reads = {**RELU, "name": "relu", "inbound_nodes": [[["inner", 0, number, {}]]]}
        found = places(model(source(), called(inner, ["x"]), reads, outputs=["relu"]))
        assert [path for path, calls in found.items() if calls[0][1] == ["relu"]] == [f"inner/{name}"]
    state = {**called(norm(), ["lstm"])}
    state["inbound_nodes"][0][0][2] = 1
    assert places(model(source(), called(layer("LSTM", "lstm"), ["x"]), state, outputs=["bn"])) == {"bn": [(["lstm"], [])]}


def test_a_sequential_model_reads_and_gives_one_tensor():
    two = model(source("i"), called(CONV, ["i"]), called(RELU, ["conv"]), inputs=["i"], outputs=["conv", "relu"], name="two")
    start = layer("InputLayer", "x", batch_input_shape=[None, 3])
    assert places(sequential(start, two, norm())) == {"bn": [(["two/conv"], [])]}
    own = sequential(layer("InputLayer", "i", batch_input_shape=[None, 3]), norm(), name="own")
    assert places(sequential(CONV, own, RELU)) == {"own/bn": [(["conv"], ["relu"])]}
    assert places(own) == {"bn": [(["i"], [])]}
    joined = model(source("a"), source("b"), called(sequential(norm(), name="s"), ["a", "b"]), inputs=["a", "b"], outputs=["s"])
    assert places(joined) == {"s/bn": [(["a"], [])]}


def test_entries_that_are_put_together_by_others():
    """As the objects of a SavedModel tell: each pair is one layer with all that is in it, and so is what has one of a pair in common."""
    config = sequential(*(sequential(norm("bn"), name=name) for name in "abcdef"), {**norm("own"), "shared_object_id": 4}, norm("same"),
                        norm("other"))
    tree = model_tree(config, "m")
    nodes = dict(walk(tree))
    pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("b", "e"), ("own", "same")]
    found = dict(walk(with_shared(tree, [(nodes[one], nodes[other]) for one, other in pairs])))
    numbers = {path: node.shared_object for path, node in found.items()}
    assert numbers["own"] == numbers["same"] == 4
    assert numbers["other"] is None
    assert len({numbers[f"{name}/bn"] for name in "abef"}) == len({numbers[f"{name}/bn"] for name in "cd"}) == 1
    assert len({*numbers.values()}) == 6
    assert len(found["a/bn"].calls) == 4
    assert len(found["c/bn"].calls) == 2
    assert len(found["other"].calls) == 1
    assert with_shared(tree, []) is tree
    shorter = model_tree(sequential(sequential(norm("x"), norm("y"), name="a"), sequential(norm("x"), name="b")), "m")
    (_, one), (_, other) = shorter.children
    merged = dict(walk(with_shared(shorter, [(one, other)])))
    assert merged["a/x"].shared_object == merged["b/x"].shared_object != merged["a/y"].shared_object


def test_each_call_of_a_shared_layer_and_of_a_shared_model():
    twice = model(source(), called(norm(), ["x"], ["relu"]), called(RELU, ["bn"]), outputs=[("bn", 1)])
    assert places(twice) == {"bn": [(["x"], ["relu"]), (["relu"], [])]}
    inner = model(source("i"), called(norm(), ["i"]), inputs=["i"], outputs=["bn"], name="inner")
    siamese = model(source("a"), source("b"), called(inner, ["a"], ["b"]), called(layer("Add", "add"), [("inner", 1), ("inner", 2)]),
                    inputs=["a", "b"], outputs=["add"])
    assert places(siamese) == {"inner/bn": [(["a"], ["add"]), (["b"], ["add"])]}


def test_wrappers():
    inside = sequential(layer("TimeDistributed", "t1", layer=CONV), layer("TimeDistributed", "t2", layer=norm()), RELU)
    assert places(inside) == {"t2/bn": [(["t1/conv"], ["relu"])]}
    whole = sequential(CONV, layer("TimeDistributed", "td", layer=sequential(norm(), RELU, name="s")), norm("after"))
    assert places(whole) == {"td/s/bn": [(["conv"], ["td/s/relu"])], "after": [(["td/s/relu"], [])]}
    spectral = sequential(layer("SpectralNormalization", "sn", layer=CONV), norm(), layer("QuantizeWrapperV2", "q", layer=norm("n")))
    assert places(spectral) == {"bn": [(["sn"], ["q/n"])], "q/n": [(["bn"], [])]}


def test_beside_a_layer_without_a_name_there_is_no_place():
    """In a Sequential a user's class may leave its name out of its config; Keras gives it one of its own."""
    nameless = {"class_name": "Mine", "config": {"units": 3}, "registered_name": "lab>Mine", "module": None}
    known = [CONV, norm(), RELU, nameless]
    for entries, found in (([CONV, norm(), nameless], []), ([nameless, norm(), CONV], []), (known, [(["conv"], ["relu"])])):
        assert places(sequential(*entries)) == {"bn": found}


def test_what_a_config_does_not_say_has_no_place():
    cell = sequential(layer("RNN", "rnn", cell=layer("own>Cell", "cell", inner=norm("n"))), norm("after"))
    assert places(cell) == {"rnn/cell/n": [], "after": [(["rnn"], [])]}
    assert places(layer("own>Net", "net", part=norm("n"))) == {"n": []}


@pytest.mark.parametrize("config", [
    model(source(), called(norm(), ["nowhere"]), outputs=["bn"]), model(source(), called(norm(), ["x"]), outputs=["nothing"]),
    model(source(), called(norm("a"), ["b"]), called(norm("b"), ["a"]), outputs=["b"]),
    model(source(), called(model(source("i"), called(norm(), ["i"]), inputs=["i", "i2"], outputs=["bn"], name="m"), ["x"]), outputs=["m"])])
def test_a_config_that_contradicts_itself_says_nothing(config):
    assert set(map(tuple, places(config).values())) == {()}


def test_a_call_in_training_counts_for_all_entries_of_a_layer_without_places():
    """In a config that contradicts itself, as tf.keras writes one for a model that two models hold."""
    plain, training = ({**called(norm(name), ["nowhere"]), "shared_object_id": 7} for name in ("bn", "again"))
    training["inbound_nodes"] = [[["nowhere", 0, 0, {"training": True}]]]
    other, another = called(norm("other"), ["nowhere"]), {**called(norm("another"), ["nowhere"]), "shared_object_id": 8}
    tree = model_tree(model(source(), plain, other, training, another, outputs=["bn"]), "m")
    assert [(node.name, node.surroundings.training) for _, node in walk(tree) if is_batch_norm(node)] == [
        ("bn", True), ("other", None), ("again", True), ("another", None)]


@pytest.mark.parametrize("most", [
    2000, pytest.param(MAX_CALLS, marks=pytest.mark.thorough("much time: as many calls as are followed in a user's model"))])
def test_models_that_double_at_every_level_come_to_an_end(most, monkeypatch):
    monkeypatch.setattr("exporter.keras.places.MAX_CALLS", most)
    config = model(source(), called(norm(), ["x"]), outputs=["bn"], name="m0")
    for number in range(1, 40):
        name = f"m{number - 1}"
        config = model(source(), called(config, ["x"], [(name, 1)]), outputs=[(name, 2)], name=f"m{number}")
    ((calls),) = places(config).values()
    assert calls == []


def test_entries_of_one_layer_are_put_together():
    """A .keras config lists a shared layer once a model, with one shared_object_id; a call in training counts for all."""
    first, second = ({**norm(), "shared_object_id": 7} for _ in range(2))
    inner = model(source("i"), called(first, ["i"]), inputs=["i"], outputs=["bn"], name="inner")
    second = called(second, ["inner"])
    second["inbound_nodes"][0][0][3] = {"training": True}
    tree = model_tree(model(source(), called(inner, ["x"]), second, outputs=["bn"]), "m")
    nodes = [node for _, node in walk(tree) if is_batch_norm(node)]
    assert [len(node.calls) for node in nodes] == [2, 2]
    assert [node.surroundings.training for node in nodes] == [True, True]


def test_bundle_and_listing_say_it(tmp_path, run):
    values = parameters(3)
    config = model(source(), called(CONV, ["x"]), called(norm("a"), ["conv"], ["relu"]), called(RELU, ["a"]), called(norm("b"), [("a", 1)]),
                   outputs=["b"])
    held = {"x": [], "conv": [], "a": named("a", values), "relu": [], "b": named("b", values)}
    path = write(tmp_path / "m.h5", held, config, keras_version="2.15.0", backend="tensorflow")
    bundle = exporter.read(path)
    assert bundle["a"].inputs is bundle["a"].outputs is None
    assert [each.path for each in bundle["b"].inputs] == ["a"]
    exporter.write(bundle, tmp_path / "o.json")
    first, second = json.loads((tmp_path / "o.json").read_text())["layers"]
    assert [[each["path"] for each in call["inputs"]] for call in first["calls"]] == [["conv"], ["relu"]]
    assert "inputs" not in first
    assert (second["inputs"], second["outputs"]) == ([{"path": "a", "class_name": "BatchNormalization", "shared": True}], [])
    assert [layer.calls for layer in exporter.load(tmp_path / "o.json")] == [layer.calls for layer in bundle]
    for model_or_bundle in (path, tmp_path / "o.json"):
        code, shown, _ = run(export, model_or_bundle, "--places")
        assert code == 0
        assert "conv (Conv2D) | relu (Activation, relu)" in shown
        assert "a (BatchNormalization)" in shown
    assert "conv" not in run(export, path)[1]
    code, _, err = run(export, path, tmp_path / "p.json", "--places")
    assert (code, "--places lists the layers" in err) == (2, True)


def test_what_lies_in_models_of_one_id_is_one_layer_each(tmp_path):
    """tf_keras writes ids inside the second of them only."""
    first = {**sequential(norm("bn"), name="net"), "shared_object_id": 3}
    second = {**sequential({**norm("bn"), "shared_object_id": 4}, name="net"), "shared_object_id": 3}
    config = sequential(first, layer("ReLU", "relu"), sequential(second, name="outer"))
    calls = [([], ["relu"]), (["relu"], [])]
    assert places(config) == {"net/bn": calls, "outer/net/bn": calls}


@pytest.mark.parametrize("form", [called, keras_3])
def test_one_call_in_training_of_a_layer_that_stands_in_two_models(form):
    """Each entry has the calls of its own model; which Keras says it is that of the call."""
    shared = {**norm("bn"), "shared_object_id": 5}
    inside = form(shared, ["x"])
    if form is keras_3:
        inside["inbound_nodes"][0]["kwargs"]["training"] = True
    else:
        inside["inbound_nodes"][0][0][3]["training"] = True
    inner = form(model(source(), inside, outputs=["bn"], name="inner"), ["bn"])
    tree = model_tree(model(source(), form(shared, ["x"]), inner, outputs=["inner"]), "m")
    around = [node.surroundings for _, node in walk(tree) if is_batch_norm(node)]
    assert [(each.training, each.is_keras_3) for each in around] == [(True, form is keras_3)] * 2


def test_calls_that_are_counted_on_from_another_model():
    """Keras 3.0: the outer model calls the layer first, and in the inner one its call has number 1."""
    shared = {**norm("bn"), "shared_object_id": 5}
    relu = keras_3(RELU, ["bn"])
    relu["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = ["bn", 1, 0]
    inner = keras_3(model(source(), keras_3(shared, ["x"]), relu, outputs=["relu"], name="inner"), ["bn"])
    inner["inbound_nodes"][0]["kwargs"]["training"] = True
    config = model(source(), keras_3(shared, ["x"]), inner, outputs=["inner"])
    calls = [(["x"], ["inner/bn"]), (["bn"], ["inner/relu"])]
    assert places(config) == {"bn": calls, "inner/bn": calls}
    assert [node.surroundings.training for _, node in walk(model_tree(config, "m")) if is_batch_norm(node)] == [True, True]


@pytest.mark.parametrize("wrap", [lambda entry: entry, lambda entry: layer("TimeDistributed", "over_time", {"layer": entry})])
def test_calls_that_a_nested_model_wrote_over_those_of_the_outer_one(wrap):
    """tf.keras 2.5 and later: the outer model calls the layer on relu, its entry has what the nested one says, and both have an x."""
    shared = {**called(wrap(norm("bn")), ["x"]), "shared_object_id": 5}
    name = shared["config"]["name"]
    inner = called(model(source(), shared, outputs=[name], name="inner"), [name])
    config = model(source(), called(RELU, ["x"]), shared, inner, called(norm("last"), ["inner"]), outputs=["last"])
    nodes = [node for _, node in walk(model_tree(config, "m")) if is_batch_norm(node)]
    assert [node.calls for node in nodes] == [(), (), ()]
    assert [node.surroundings.notes for node in nodes] == [(OVERWRITTEN,), (OVERWRITTEN,), ()]
    inner["config"]["layers"][1] = {**shared, "inbound_nodes": [[["x", 0, 0, {"training": False}]]]}  # each has its own
    assert all(places(config).values())


def test_one_layer_in_two_forms():
    """tf_keras writes a user's class in one way in the outermost model and in another in a nested one."""
    ones = {"module": "keras.initializers", "class_name": "Ones", "config": {}, "registered_name": None}
    policy = {"module": "keras", "class_name": "Policy", "config": {"name": "mixed_float16"}, "registered_name": None}
    outer = Node(name="a", class_name="Mine", registered_name="own>Mine", config={"gamma_initializer": ones, "dtype": policy, "axis": [1]})
    same = Node(name="a", class_name="own>Mine", config={
        "gamma_initializer": {**ones, "shared_object_id": 3}, "dtype": {"class_name": "Policy", "config": {"name": "mixed_float16"}},
        "axis": [1]})
    assert are_alike(outer, same)
    assert outer.kind == same.kind == "own>Mine"
    different = [
        {"name": "b"}, {"class_name": "Mine"}, {"class_name": "other>Mine"}, {"config": {**same.config, "axis": [2]}},
        {"config": {**same.config, "axis": [1, 2]}}, {"config": {**same.config, "axis": 1}}, {"config": {**same.config, "more": 1}},
        {"config": {**same.config, "gamma_initializer": {**ones, "class_name": "Zeros"}}},
        {"config": {**same.config, "gamma_initializer": {**ones, "registered_name": "own>Ones"}}},
        {"config": {**same.config, "gamma_initializer": {**ones, "more": 1}}},
        {"config": {**same.config, "dtype": {"class_name": "Policy", "config": {"name": "mixed_bfloat16"}}}},
        {"config": {**same.config, "dtype": "mixed_float16"}}]
    assert not any(are_alike(outer, dataclasses.replace(same, **fields)) for fields in different)

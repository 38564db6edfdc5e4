"""SavedModels: who holds which variable, what Keras or the graph says about it, and what the installed TensorFlow writes."""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest

import exporter
from exporter.batchnorm.stored import Statistic
from exporter.errors import FormatError, UnresolvedError, UnsupportedError
from exporter.files.place import Place
from exporter.formats.object_graph import OBJECT_GRAPH, CheckpointGraph, SavedGraph
from exporter.formats.protobuf import Message
from exporter.sources import saved_model
from exporter.sources.shared.architecture import node_tree_from
from exporter.sources.shared.options import ReadOptions
from exporter.sources.tf_graph.finder import Finder
from exporter.sources.tf_graph.graph_norm import UNKNOWN_FORM
from exporter.sources.tf_graph.saved import SavedFunctions
from exporter.sources.tf_objects.formula import CALL, OTHER_VARIABLES
from exporter.sources.tf_objects.parts import graphs_of, of_inference
from tests.make.graph_files import Function, const, frozen_variables, function, graph, meta_graph, node, tensor, variables
from tests.make.live import ROLES, check_live, config, fill
from tests.make.tensor_files import field, graph_proto, saved_graph_proto, saved_model_proto, write_bundle

VALUES = {role: np.array([number + 1, 2, 3], "f4") for number, role in enumerate(ROLES)}
CHILDREN = {role: number + 2 for number, role in enumerate(ROLES)}


def write(folder, *, metadata=None, separate=None, roles=ROLES, version="2.4.0", stored=None, functions=b"", objects=None):
    """A SavedModel of one batch norm, node 1, whose variables are nodes 2 to 5. metadata: its JSON in saved_model.pb."""
    children = {role: CHILDREN[role] for role in roles}
    said = [({"bn": 1}, {"class_name": "Model", "name": "net"} if metadata else None), (children, metadata),
            *(({}, f"scope/{role}") for role in ROLES)]
    keys = {role: f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number, role in enumerate(ROLES)}
    graph = stored or [({"bn": 1}, None), (children, None), *(({}, (f"scope/{role}", keys[role])) for role in ROLES)]
    (folder / "variables").mkdir(parents=True, exist_ok=True)
    write_bundle(folder / "variables", "variables", {**{keys[role]: VALUES[role] for role in ROLES}, OBJECT_GRAPH: [graph_proto(graph)]})
    objects = saved_graph_proto(said) + functions if objects is None else objects
    (folder / "saved_model.pb").write_bytes(saved_model_proto(objects, version))
    if separate is not None:
        (folder / "keras_metadata.pb").write_bytes(b"".join(field(1, field(2, node) + field(5, text)) for node, text in separate.items()))
    return folder


def metadata(name="bn_1", **more):
    return {**config(name, 2e-3), "name": name, "build_input_shape": {"class_name": "TensorShape", "items": [None, 4, 3]}, **more}


def read(folder):
    place = Place(folder)
    assert saved_model.claims(place)
    return saved_model.read(place, ReadOptions())


# ---- what is given

@pytest.mark.parametrize("part", ["variables", "variables/variables.index", "variables/variables.data-00000-of-00001",
                                  "variables/variables"])
def test_its_variables_mean_the_model(tmp_path, part):
    folder = write(tmp_path, metadata=metadata())
    assert read(folder / part)["bn_1"].epsilon == 2e-3


@pytest.mark.parametrize("part", [".", "variables.index"])
def test_its_variables_mean_the_model_from_within(tmp_path, monkeypatch, part):
    monkeypatch.chdir(write(tmp_path, metadata=metadata()) / "variables")
    assert read(part)["bn_1"].epsilon == 2e-3


def test_what_is_left_of_one_is_named(tmp_path):
    folder = write(tmp_path, metadata=metadata())
    (folder / "saved_model.pb").unlink()
    with pytest.raises(FormatError, match=r"a SavedModel without its saved_model\.pb"):
        exporter.read(folder)


@pytest.mark.parametrize("given", [".", "saved_model.pb"])
@pytest.mark.parametrize("separate", [True, False])
def test_its_config_is_an_architecture(tmp_path, given, separate):
    tree = {"class_name": "Sequential", "config": {"name": "net", "layers": [config("bn_1", 0.03)]}, "keras_version": "2.9.0"}
    write(tmp_path, separate={0: json.dumps(tree)} if separate else None)
    if not separate:
        (tmp_path / "saved_model.pb").write_bytes(saved_model_proto(saved_graph_proto([({}, tree)])))
    found = node_tree_from(Place(tmp_path / given))
    assert [child.name for _, child in found.tree.children] == ["bn_1"]
    assert (found.keras_version, found.backend) == ("2.9.0", None)


def test_a_config_of_no_layers_is_no_architecture(tmp_path):
    with pytest.raises(UnsupportedError, match="this SavedModel contains no config of a functional or Sequential model"):
        node_tree_from(Place(write(tmp_path, separate={0: b'{"class_name": "Mine", "name": "net", "config": {}}'})))


def test_a_layer_that_the_model_does_not_list_is_left_out(tmp_path):
    """Sequential.pop() in TensorFlow 1.15 keeps the objects of what it removes."""
    for name, expected in (("bn_1", ["bn_1"]), ("other", [])):
        listed = {"name": "net", "class_name": "Sequential", "config": {"name": "net", "layers": [config(name, 2e-3)]}}
        bundle = read(write(tmp_path / name, separate={0: json.dumps(listed), 1: json.dumps(metadata())}))
        assert bundle.paths() == expected
        assert [bool(re.match("bn_1: .*no longer has such a layer", warning)) for warning in bundle.warnings] == [True] * (not expected)


def test_a_layer_that_is_listed_and_also_held_by_an_attribute_stays(tmp_path):
    """model.base = base, where the model was made of base.output: it lists the layers of base one by one."""
    said = {0: {"name": "net", "class_name": "Functional", "config": {"name": "net", "layers": [config("bn_1", 2e-3)]}},
            6: {"name": "base", "class_name": "Functional", "config": {"name": "base", "layers": [config("bn_1", 2e-3)]}}, 1: metadata()}
    keys = [f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in range(4)]
    tail = [({"bn": 1}, None)]
    stored = [({"base": 6}, None), (CHILDREN, None), *(({}, (role, key)) for role, key in zip(ROLES, keys, strict=True)), *tail]
    objects = saved_graph_proto([({"base": 6}, None), (CHILDREN, None), *(({}, role) for role in ROLES), *tail])
    bundle = read(write(tmp_path, stored=stored, objects=objects,
                        separate={number: json.dumps(one).encode() for number, one in said.items()}))
    assert bundle.paths() == ["base/bn_1"]


@pytest.mark.parametrize("op", ["XlaCallModule", "Relu"])
@pytest.mark.parametrize("children", [None, CHILDREN])
def test_a_part_that_is_compiled(tmp_path, op, children):
    gamma, beta, mean, variance = VECTORS
    ops = [node("a", op, "x"), node("call", "FusedBatchNormV3", "a:activations:0", gamma, beta, mean, variance, is_training=False)]
    found = read(write_exported(tmp_path, ops=ops, children=children, serve="__inference_signature_wrapper_7"))
    assert len(found.layers) == 1
    assert [warning for warning in found.warnings if "is compiled" in warning] == [
        "a part of the model is compiled (the op XlaCallModule); batch norms in it are not visible"] * (op != "Relu")


def test_compiled_code_is_refused_as_that(tmp_path):
    write_exported(tmp_path, ops=[node("call", "XlaCallModule", "x")])
    with pytest.raises(UnsupportedError, match=r"compiled StableHLO \(the op XlaCallModule"):
        exporter.read(tmp_path)


def test_variables_of_which_no_function_says_what_they_are_for(tmp_path):
    objects = saved_graph_proto([({"a": 1}, None), ({}, "a")])
    stored = [({"a": 1}, None), ({}, ("a", "a/.ATTRIBUTES/VARIABLE_VALUE"))]
    write(tmp_path, objects=objects, stored=stored)
    with pytest.raises(UnsupportedError, match="the SavedModel contains no function that uses a variable and no Keras metadata, so"):
        exporter.read(tmp_path)


# ---- what is in the object graph

def test_metadata_beside_the_objects(tmp_path):
    bundle = read(write(tmp_path, metadata=metadata()))
    assert (bundle.origin.kind, bundle.origin.tensorflow_version) == ("saved-model", "2.4.0")
    layer = bundle["bn_1"]
    assert (layer.epsilon, layer.axis, layer.ndim, layer.momentum, layer.class_name) == (2e-3, (1,), 3, 0.9, "BatchNormalization")
    for role in ROLES:
        assert getattr(layer, role).tobytes() == VALUES[role].tobytes()


def test_metadata_in_a_file_of_its_own(tmp_path):
    folder = write(tmp_path, separate={0: b'{"name": "net"}', 1: json.dumps(metadata("own", **{"build_input_shape": [None, 3]})).encode()})
    assert read(folder).paths() == ["own"]
    assert read(folder / "saved_model.pb")["own"].ndim == 2


@pytest.mark.parametrize("said", [None, {"class_name": "Dense", "name": "bn_1", "config": {"name": "bn_1"}}, {"name": "bn_1"}])
def test_without_the_config_of_a_batch_norm_nothing_is_guessed(tmp_path, said):
    folder = write(tmp_path, metadata=said)
    layer = read(folder).layers[0]
    assert (layer.epsilon, layer.axis) == (None, None)
    with pytest.raises(UnresolvedError, match="the file does not contain its epsilon"):
        exporter.read(folder)


@pytest.mark.parametrize(("text", "what"), [
    (b"{", "metadata of node 1.*not strict JSON"), (b"[1]", "not a JSON object"), (b'{"a": 1, "a": 2}', "occurs more than once"),
    (b"\xff\xfe", "metadata of node 1"),
])
def test_bad_metadata(tmp_path, text, what):
    with pytest.raises(FormatError) as caught:
        read(write(tmp_path, separate={1: text}))

    assert re.search(what, str(caught.value))


def test_a_config_that_contradicts_the_variables(tmp_path):
    with pytest.raises(FormatError, match="its config has scale=True, but the checkpoint has"):
        read(write(tmp_path, metadata=metadata(), roles=ROLES[1:]))


def test_the_two_object_graphs_must_agree(tmp_path):
    other = [({"bn": 1}, None), ({**CHILDREN, "gamma": 3}, None), *(({}, (role, f"variables/{n}/.ATTRIBUTES/VARIABLE_VALUE"))
                                                                  for n, role in enumerate(ROLES))]
    with pytest.raises(FormatError, match="its object graph and that of the checkpoint list different parameters: scope/gamma, beta"):
        read(write(tmp_path, metadata=metadata(), stored=other))
    with pytest.raises(FormatError, match="its object graph and that of the checkpoint list different parameters"):
        read(write(tmp_path, metadata=metadata(), stored=[({}, None)]))


def test_a_batch_norm_that_is_the_root_itself(tmp_path):
    keys = [f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in range(4)]
    stored = [(CHILDREN, None), ({}, None), *(({}, (role, key)) for role, key in zip(ROLES, keys, strict=True))]
    objects = saved_graph_proto([(CHILDREN, None), ({}, None), *(({}, role) for role in ROLES)])
    assert read(write(tmp_path, stored=stored, objects=objects)).paths() == ["batch_normalization"]


def write_exported(folder, *, bound=(2, 3, 4, 5), names=ROLES, version="2.4.0", children=None, kernel=0.02, fused=True, ops=None,
                   serve="serve", gamma=None, own_call=(), full_names=ROLES, scope="net/bn"):
    """A SavedModel of one batch norm that only its functions tell: `call`, and `serve`, bound to the nodes `bound`, which calls it.

    children: what the object that holds the variables calls them; else numbers. kernel: the graph's epsilon. ops: in place of the norm.
    gamma: values of a constant of the main graph that the functions capture in place of the variable.
    own_call: the functions of the object's own call. full_names: the ends of the variables' own names, behind `scope`.
    """
    arguments = ["x", *"gbmv"]
    reads = [node(f"read_{name}", "ReadVariableOp", name) for name in "gbmv"]
    values = [f"read_{name}:value:0" for name in "gbmv"]
    norm = [node("bn/FusedBatchNormV3", "FusedBatchNormV3", "x", *values, epsilon=kernel, is_training=False)]
    if not fused:
        norm = spelled_out(*values, kernel)
    call = node("call", "StatefulPartitionedCall", *arguments, f=Function("call"))
    result = "call:y:0" if ops else "bn/FusedBatchNormV3:y:0" if fused else "y:z:0"
    functions = [function("call", arguments, [*reads, *(ops or norm)], {"y": result}),
                 function(serve, arguments, [call], {"y": "call:output:0"})]
    said = {"call": (2, 3, 4, 5), serve: bound} if gamma is None else dict.fromkeys(("call", serve), (6, 3, 4, 5))
    concrete = b"".join(field(2, field(1, name) + field(2, field(2, bytes(nodes)))) for name, nodes in said.items())
    places = dict(children) if children else {str(number): number + 2 for number in range(4)}
    keys = [f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in range(4)]
    stored = [({"net": 1}, None), (places, None), *(({}, (f"{scope}/{role}", key)) for role, key in zip(full_names, keys, strict=True))]
    objects = [({"net": 1}, None), (places, None), *(({}, f"net/bn/{name}") for name in names)]
    captured = []
    if gamma is not None:
        captured, places["0"] = [const("Const_1", np.array(gamma, "f4"))], 1
        objects.append(({}, field(9, field(1, "Const_1"))))  # behind all that the checkpoint has
    if own_call:
        places[CALL] = len(objects)
        objects.append(({}, field(6, b"".join(field(1, name) for name in own_call))))
        stored.append(({}, None))
    (folder / "variables").mkdir(parents=True)
    write_bundle(folder / "variables", "variables", {**dict(zip(keys, VALUES.values(), strict=True)), OBJECT_GRAPH: [graph_proto(stored)]})
    said = saved_model_proto(saved_graph_proto(objects) + concrete, version, graph=graph(*captured, functions=functions))
    (folder / "saved_model.pb").write_bytes(said)
    return folder


def spelled_out(gamma, beta, mean, variance, epsilon, *, x="x", name=""):
    """tf.nn.batch_normalization as a function's body has it. name: the beginning of the names of its ops."""
    return [const(f"{name}eps", np.float32(epsilon)), node(f"{name}add", "AddV2", variance, f"{name}eps:output:0"),
            node(f"{name}r", "Rsqrt", f"{name}add:z:0"), node(f"{name}inv", "Mul", f"{name}r:y:0", gamma),
            node(f"{name}scaled", "Mul", x, f"{name}inv:z:0"), node(f"{name}shift", "Mul", mean, f"{name}inv:z:0"),
            node(f"{name}sub", "Sub", beta, f"{name}shift:z:0"), node(f"{name}y", "AddV2", f"{name}scaled:z:0", f"{name}sub:z:0")]


@pytest.mark.parametrize("names", [ROLES, ("gamm#", *ROLES[1:]), tuple(f"#/{role}" for role in ROLES)])
def test_names_come_from_the_graph_that_has_a_checksum(names, tmp_path):
    layer = read(write_exported(tmp_path, names=names))["net/bn"]
    assert np.float32(layer.epsilon) == np.float32(0.02)
    for role in ROLES:
        assert getattr(layer, role).tobytes() == VALUES[role].tobytes()


def announced(folder, monkeypatch, heard):
    """What is found, after what is announced is in `heard`: layers, and None for the end of the search for batch norms."""
    run = Finder.run

    def noted(finder):
        yield from run(finder)
        heard.append(None)

    monkeypatch.setattr(Finder, "run", noted)
    return saved_model.read(Place(folder), ReadOptions(announce=heard.append))


def test_a_layer_is_announced_while_others_are_searched_for(tmp_path, monkeypatch):
    found = announced(write_exported(tmp_path, fused=False, scope="bn"), monkeypatch, heard := [])
    assert len(heard) == 2
    assert heard[0] is found.layers[0]
    assert heard[1] is None


def test_a_layer_that_was_announced_may_get_another_path(tmp_path, monkeypatch):
    """The name of the model is left out where there are several, which only the end shows."""
    found = announced(write_exported(tmp_path, fused=False), monkeypatch, heard := [])
    first, _, last = heard
    assert (first.path, last.path) == ("bn", "net/bn")
    assert found.layers == [last]


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_found_later_changes_a_layer_that_was_announced(tmp_path, monkeypatch, times):
    """A batch norm that is called again has no certain place in the model."""
    ops, x = [], "x"
    for number in range(times):
        ops.append(node(f"h{number}", "Relu", x))
        ops += spelled_out(*VECTORS, 0.02, x=f"h{number}:activations:0", name=f"bn{number}/")
        x = f"bn{number}/y:z:0"
    folder = write_exported(tmp_path, ops=[*ops, node("call", "Tanh", x)], scope="bn")
    (layer,) = announced(folder, monkeypatch, heard := []).layers
    assert heard == ([layer, None] if times == 1 else [heard[0], None, layer])
    assert heard[0].calls
    assert layer.calls == (heard[0].calls if times == 1 else ())
    assert layer.replace(calls=()) == heard[0].replace(calls=())


def test_a_layer_that_cannot_be_read_is_an_error_in_the_end(tmp_path, monkeypatch):
    folder = write_exported(tmp_path, fused=False)
    (data,) = (folder / "variables").glob("*.data-*")
    data.write_bytes(bytes(byte ^ 1 for byte in data.read_bytes()[:4]) + data.read_bytes()[4:])
    heard = []
    with pytest.raises(FormatError, match="is damaged: its CRC does not match"):
        announced(folder, monkeypatch, heard)
    assert heard == [None]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("gamma", [[1, 1, 1], [1, 2, 3]])
def test_a_constant_that_functions_capture(tmp_path, fused, gamma):
    """tf.keras 2.6 to 2.8 makes the ones of a layer without gamma when it builds the layer, outside of all functions."""
    (layer,) = read(write_exported(tmp_path, gamma=gamma, fused=fused)).layers
    assert (layer.gamma if layer.gamma is None else layer.gamma.tolist()) == (None if gamma == [1, 1, 1] else gamma)
    assert layer.beta.tolist() == VALUES["beta"].tolist()


@pytest.mark.parametrize("children", [{"mean": 4, "variance": 5, "count": 2}, {"mean": 4, "variance": 5},
                                      {"mean": 4, "variance": 3, "count": 2, "other": 5}])
@pytest.mark.parametrize("class_name", ["Normalization", "Standard"])
def test_inputs_that_keras_standardizes(tmp_path, monkeypatch, class_name, children):
    """By (x - mean) / sqrt(variance), in TensorFlow 2.3: also behind ops that show no input of the graph."""
    monkeypatch.setitem(globals(), "spelled_out", lambda gamma, beta, mean, variance, epsilon: [
        node("h", "Relu", "x"), node("d", "Sub", "h:activations:0", mean), node("s", "Sqrt", variance),
        node("y", "RealDiv", "d:z:0", "s:y:0")])
    names = ("count", "other", "mean", "variance")
    folder = write_exported(tmp_path, fused=False, children=children, version="2.3.1", names=names, full_names=names)
    said = {"class_name": class_name, "name": "normalization", "config": {"name": "normalization", "axis": [-1]}}
    (folder / "keras_metadata.pb").write_bytes(field(1, field(2, 1) + field(5, json.dumps(said))))
    is_own = class_name == "Normalization" and "count" in children and children["variance"] == 5
    assert [layer.epsilon for layer in read(folder)] == ([] if is_own else [0])


def keras_objects(*said):
    """A keras_metadata.pb of (number, way, kind, JSON)."""
    return b"".join(field(1, field(2, number) + field(3, way) + field(4, kind) + field(5, json.dumps(text)))
                    for number, way, kind, text in said)


MODEL_SAID = (0, "root", "_tf_keras_layer", {"class_name": "Model", "name": "net"})
NORM_SAID = (1, "root.bn", "_tf_keras_layer", metadata())


def test_metadata_says_which_object_it_is_about(tmp_path):
    folder = write(tmp_path, metadata=metadata())
    (folder / "keras_metadata.pb").write_bytes(keras_objects(MODEL_SAID, NORM_SAID))
    assert read(folder)["bn_1"].epsilon == 2e-3


@pytest.mark.parametrize(("said", "about"), [
    ([MODEL_SAID, (2, *NORM_SAID[1:])], "node 2, 'root.bn'"), ([MODEL_SAID, (1, "root.other", *NORM_SAID[2:])], "node 1, 'root.other'"),
    ([MODEL_SAID, (1, "root.bn", "_tf_keras_metric", metadata())], "node 1, 'root.bn'"), ([MODEL_SAID], "node 1"),
    ([MODEL_SAID, NORM_SAID, NORM_SAID], "node 1"), ([MODEL_SAID, (77, *NORM_SAID[1:])], "node 77"),
], ids=["number", "way", "kind", "missing", "twice", "no such node"])
def test_metadata_that_is_about_another_object_than_it_says_is_refused(tmp_path, said, about):
    folder = write(tmp_path, metadata=metadata())
    (folder / "keras_metadata.pb").write_bytes(keras_objects(*said))
    with pytest.raises(FormatError) as refused:
        read(folder)
    assert str(refused.value) == f"keras_metadata.pb: it and the object graph of saved_model.pb disagree about {about}"


def test_a_name_that_is_another_in_the_config_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"layer bn_2: its name is 'bn_1' in its own metadata and 'bn_2' in its config"):
        read(write(tmp_path, metadata={**metadata("bn_2"), "name": "bn_1"}))


def test_an_epsilon_that_is_another_in_the_models_config_is_refused(tmp_path):
    for epsilon in (2e-3, 0.1):
        model = {"name": "net", "class_name": "Sequential", "config": {"name": "net", "layers": [config("bn_1", epsilon)]}}
        folder = write(tmp_path / str(epsilon), separate={0: json.dumps(model), 1: json.dumps(metadata())})
        if epsilon == 2e-3:
            assert read(folder)["bn_1"].epsilon == 2e-3
            continue
        with pytest.raises(FormatError, match=r"layer bn_1: its epsilon is 0.002 in its own metadata and 0.1 in its model's"):
            read(folder)


def test_a_layer_that_quantizes_is_not_exported(tmp_path):
    said = metadata()
    said["config"]["gamma_quantizer"] = "quantized_bits(8)"
    bundle = read(write(tmp_path, metadata=said))
    assert (bundle.paths(), [path for path, _ in bundle.skipped]) == ([], ["bn_1"])


def held_by(folder, children, ways, said):
    """A SavedModel of objects that hold one another: the batch norm is node 1; said: the metadata of each."""
    keys = [f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in range(4)]
    rest = [(each, None) for each in ways]
    stored = [(children, None), (CHILDREN, None), *(({}, (role, key)) for role, key in zip(ROLES, keys, strict=True)), *rest]
    objects = saved_graph_proto([(children, None), (CHILDREN, None), *(({}, role) for role in ROLES), *rest])
    return read(write(folder, stored=stored, objects=objects, separate={node: json.dumps(one).encode() for node, one in said.items()}))


@pytest.mark.parametrize(("fields", "path"), [({"filters": 3, **config("", 2e-3)["config"]}, "conv/batchnorm"),
                                              ({"filters": 3}, "conv/bn_1")])
def test_the_batch_norm_of_a_layer_that_is_a_kernel_and_one_has_the_name_of_its_attribute(tmp_path, fields, path):
    """QKeras; a class that only calls an attribute so is none."""
    outer = {"class_name": "QConv2DBatchnorm", "name": "conv", "config": {**fields, "name": "conv"}}
    assert held_by(tmp_path, {"conv": 6}, [{"batchnorm": 1}], {1: metadata(), 6: outer}).paths() == [path]


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_is_called_in_training_if_one_of_its_calls_is(tmp_path, training):
    """The model calls it, and a model in it does so a second time."""
    def entry(each, *calls):
        return {**each, "name": each["config"]["name"], "inbound_nodes": list(calls)}

    sub = {"class_name": "Sequential", "name": "sub", "config": {"name": "sub", "layers": [config("bn_1", 2e-3)]}}
    layers = [entry({"class_name": "InputLayer", "config": {"name": "x"}}), entry(config("bn_1", 2e-3), [["x", 0, 0, {}]]),
              entry(sub, [["bn_1", 0, 0, {"training": training}]])]
    net = {"class_name": "Functional", "name": "net", "config": {"name": "net", "layers": layers, "input_layers": [["x", 0, 0]],
                                                                 "output_layers": [["sub", 1, 0]]}}
    (layer,) = held_by(tmp_path, {"layer-0": 7, "layer-1": 1, "layer-2": 6}, [{"layer-0": 1}, {}], {0: net, 1: metadata(), 6: sub}).layers
    assert layer.called_in_training is training
    assert len(layer.calls) == 2


def test_a_way_through_names_with_dots():
    objects = saved_graph_proto([({"a.b": 1}, None), ({"c": 2, "c.d": 3}, None), ({"d": 3}, None), ({}, None)])
    graph = SavedGraph(Message(objects, "objects"))
    assert [graph.reached(way) for way in ("root", "root.a.b", "root.a.b.c", "root.a.b.c.d", "root.a", "root.a.b.x")] == [
        {0}, {1}, {2}, {3}, set(), set()]


def with_metadata(folder, epsilon, *, kernel=0.02, version="2.9.1", chain=False):
    """A SavedModel whose layer has a config beside the functions that TensorFlow traced."""
    write_exported(folder, version=version, children=CHILDREN, kernel=kernel, fused=not chain)
    said = {**config("bn", epsilon), "name": "bn", "build_input_shape": [None, 4, 4, 3]}
    (folder / "keras_metadata.pb").write_bytes(field(1, field(2, 1) + field(5, json.dumps(said))))
    return folder


def test_config_and_graph_must_agree_about_epsilon(tmp_path):
    layer = read(with_metadata(tmp_path / "same", 0.02))["bn"]
    assert (layer.epsilon, layer.effective_epsilon) == (0.02, None)
    for name, chain in (("fused", False), ("chain", True)):
        bundle = read(with_metadata(tmp_path / name, 0.09, chain=chain))
        assert not bundle.layers
        assert bundle.skipped[0].reason.startswith("its epsilon is 0.09 in its config and 0.02 in the graph")


def test_what_the_code_of_a_class_of_its_own_does_with_epsilon(tmp_path, monkeypatch):
    """A subclass whose call adds epsilon to the root has the same config."""
    assert read(with_metadata(tmp_path / "standard", 0.02, chain=True))["bn"].statistic is Statistic.VARIANCE
    monkeypatch.setitem(globals(), "spelled_out", outside)
    assert read(with_metadata(tmp_path / "outside", 0.02, chain=True))["bn"].statistic is Statistic.EPSILON_OUTSIDE


@pytest.mark.parametrize("roles", [(1, 0, 2, 3), (0, 1, 0, 3), (1, 1, 2, 3)], ids=["exchanged", "another mean", "another gamma"])
def test_a_function_that_exchanges_the_variables_of_a_layer(tmp_path, monkeypatch, roles):
    """A model may take the variables of Keras's own layer and compute something else than the layer does."""
    plain = spelled_out

    def exchanged(*given):
        return plain(*(given[role] for role in roles), given[4])

    monkeypatch.setitem(globals(), "spelled_out", exchanged)
    bundle = read(with_metadata(tmp_path, 0.02, chain=True))
    assert not bundle.layers
    assert [reason for _, reason in bundle.skipped] == [OTHER_VARIABLES]


def outside(gamma, beta, mean, variance, epsilon):
    """gamma * (x - mean) / (sqrt(variance) + epsilon) + beta as a function's body has it."""
    return [const("eps", np.float32(epsilon)), node("s", "Sqrt", variance), node("add", "AddV2", "s:y:0", "eps:output:0"),
            node("d", "Sub", "x", mean), node("n", "RealDiv", "d:z:0", "add:z:0"), node("gn", "Mul", gamma, "n:z:0"),
            node("y", "AddV2", "gn:z:0", beta)]


@pytest.mark.parametrize(("version", "chain", "agrees"), [("2.9.1", False, True), ("1.15.0", False, True), ("2.12.0", False, False),
                                                           ("2.9.1", True, False)])
def test_a_fused_kernel_of_its_time_may_have_raised_epsilon(tmp_path, version, chain, agrees):
    bundle = read(with_metadata(tmp_path, 1e-7, kernel=1.001e-5, version=version, chain=chain))
    assert [layer.effective_epsilon for layer in bundle.layers] == ([float(np.float32(1.001e-5))] if agrees else [])
    assert len(bundle.skipped) == (not agrees)


def test_a_function_that_is_bound_to_nothing_is_refused(tmp_path):
    with pytest.raises(FormatError, match="the function serve is bound to a node that does not exist"):
        read(write_exported(tmp_path, bound=(2, 3, 4, 99)))


@pytest.mark.parametrize("bound", [(3, 2, 4, 5), (2, 3, 4, 4), (2, 3, 4, 1), (2, 3, 4)])
def test_functions_must_agree_about_their_variables(bound, tmp_path):
    with pytest.raises(FormatError, match="is bound to different objects than its caller"):
        read(write_exported(tmp_path, bound=bound))


def test_a_function_that_is_not_there(tmp_path):
    folder = write_exported(tmp_path)
    sound = (folder / "saved_model.pb").read_bytes()
    at = sound.rindex(b"\x05serve")
    (folder / "saved_model.pb").write_bytes(sound[:at] + b"\x05serv#" + sound[at + 6:])
    with pytest.raises(FormatError, match="the graph calls the function serv#, which it does not contain"):
        read(folder)


@pytest.mark.parametrize(("file", "given"), [("saved_model.pb", {"metadata": [1]}), ("keras_metadata.pb", {"separate": {1: "[1]"}})])
def test_metadata_that_is_no_object_is_named_by_its_file(tmp_path, file, given):
    with pytest.raises(FormatError, match=f"^{file}: the metadata of node 1 is not a JSON object"):
        read(write(tmp_path, **given))


@pytest.mark.parametrize(("spoil", "what"), [
    (lambda f: (f / "saved_model.pb").write_bytes(b""), "it contains no graph: it is truncated or not a SavedModel"),
    (lambda f: (f / "saved_model.pb").write_bytes(b"<!doctype html>"), "saved_model.pb"),
    (lambda f: (f / "saved_model.pb").write_bytes((f / "saved_model.pb").read_bytes()[:-9]), "saved_model.pb: field"),
    (lambda f: shutil.rmtree(f / "variables"), "has no variables"),
    (lambda f: (f / "variables/variables.index").write_bytes(b""), "the file is empty"),
    (lambda f: (f / "variables/variables.data-00000-of-00001").unlink(), "data-00000-of-00001 is missing"),
    (lambda f: (f / "keras_metadata.pb").write_bytes(b"\x0a\x7f"), "keras_metadata.pb"),
])
def test_damage(tmp_path, spoil, what):
    folder = write(tmp_path, metadata=metadata())
    spoil(folder)
    with pytest.raises(FormatError, match=what):
        exporter.read(folder)


def test_every_cut_of_the_model_is_an_error_of_ours(tmp_path):
    folder = write(tmp_path, metadata=metadata())
    sound = (folder / "saved_model.pb").read_bytes()
    for size in range(0, len(sound), 5):
        (folder / "saved_model.pb").write_bytes(sound[:size])
        with pytest.raises((FormatError, UnsupportedError, UnresolvedError)):
            exporter.read(folder)


def test_the_text_form_is_refused(tmp_path):
    (tmp_path / "saved_model.pbtxt").write_text("saved_model_schema_version: 1")
    with pytest.raises(UnsupportedError, match="text form"):
        read(tmp_path)


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    folder = write(tmp_path / "model", metadata=metadata())
    (tmp_path / "elsewhere").mkdir()
    (folder / "variables/variables.index").rename(tmp_path / "elsewhere/variables.index")
    (folder / "variables/variables.index").symlink_to(tmp_path / "elsewhere/variables.index")
    with pytest.raises(FormatError, match="symbolic link"):
        read(folder)


# ---- TensorFlow itself

@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow", reason="tensorflow is not installed", exc_type=ImportError)
    return pytest.importorskip("tf_keras", reason="tf_keras is not installed")


def classic(keras):
    """A model with nesting, a wrapper, layers of both layouts and every combination of parameters."""
    layers = keras.layers
    sub = keras.Sequential([keras.Input((4, 4, 4)), layers.BatchNormalization(center=False, epsilon=2e-3, name="norm"),
                            layers.BatchNormalization(axis=1, epsilon=1e-4, name="first")], name="sub")
    x = keras.Input((4, 4, 2))
    y = layers.Conv2D(4, 1)(layers.BatchNormalization(epsilon=1e-4, name="bn")(x))
    y = layers.TimeDistributed(layers.BatchNormalization(epsilon=5e-3, name="inner"), name="td")(sub(y))
    y = layers.Dense(3)(layers.Flatten()(y))
    y = layers.BatchNormalization(scale=False, center=False, epsilon=1e-6, name="plain")(layers.LayerNormalization()(y))
    return keras.Model(x, y, name="net")


PATHS = {"bn": 1e-4, "sub/norm": 2e-3, "sub/first": 1e-4, "td/inner": 5e-3, "plain": 1e-6}


def filled(model, keras):
    return fill([layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)])


def epsilons(bundle):
    return sorted(np.float32(layer.epsilon) for layer in bundle)


@pytest.mark.live
def test_live_model_save(tmp_path, keras):
    model = classic(keras)
    live = filled(model, keras)
    model.save(str(tmp_path / "m"), save_format="tf")
    bundle = exporter.read(tmp_path / "m")
    assert {layer.path: layer.epsilon for layer in bundle} == PATHS
    assert {layer.path: (layer.axis, layer.ndim) for layer in bundle}["sub/first"] == ((1,), 4)
    assert all(layer.effective_epsilon is None and not layer.assumed for layer in bundle)
    check_live(bundle, live, outputs=False)
    (tmp_path / "m/keras_metadata.pb").unlink()
    bundle = exporter.read(tmp_path / "m")
    assert epsilons(bundle) == sorted(map(np.float32, PATHS.values()))
    check_live(bundle, live, outputs=False)


@pytest.mark.live
@pytest.mark.parametrize(("package", "form"), [
    ("keras", "export"), *(pytest.param(*names, marks=pytest.mark.thorough("much time")) for names in (
        ("tf_keras", "saved_model.save"), ("keras", "saved_model.save"), ("tf_keras", "export")))])
def test_live_without_metadata(tmp_path, keras, package, form):
    import tensorflow as tf

    keras = pytest.importorskip(package)
    model = classic(keras)
    live = filled(model, keras)
    if form == "export":
        model.export(str(tmp_path / "m"))
    else:
        tf.saved_model.save(model, str(tmp_path / "m"))
    bundle = exporter.read(tmp_path / "m")
    assert epsilons(bundle) == sorted(map(np.float32, PATHS.values()))
    axes = {np.float32(layer.epsilon): layer.axis for layer in bundle if layer.gamma is not None and layer.beta is not None}
    assert axes[np.float32(5e-3)] == (-1,)
    check_live(bundle, live, outputs=False)


@pytest.mark.live
@pytest.mark.thorough("much time: TensorFlow traces and saves a recurrent model")
@pytest.mark.parametrize("form", ["metadata", "no metadata", "export"])
def test_live_batch_norm_in_a_cell(tmp_path, keras, form):
    layers = keras.layers

    class Cell(layers.Layer):
        units = state_size = output_size = 3

        def __init__(self, **options):
            super().__init__(**options)
            self.dense, self.norm = layers.Dense(3, name="d"), layers.BatchNormalization(epsilon=7e-4, name="in_cell")

        def call(self, inputs, states, training=None):
            y = self.norm(self.dense(inputs) + states[0], training=training)
            return y, [y]

        def get_config(self):
            return super().get_config()

    x = keras.Input((5, 2))
    model = keras.Model(x, layers.RNN(Cell(), name="rnn")(x))
    live = filled(model, keras)
    if form == "export":
        model.export(str(tmp_path / "m"))
    else:
        model.save(str(tmp_path / "m"), save_format="tf")
    if form == "no metadata":
        (tmp_path / "m/keras_metadata.pb").unlink()
    bundle = exporter.read(tmp_path / "m")
    assert epsilons(bundle) == [np.float32(7e-4)]
    check_live(bundle, live, outputs=False)
    if form == "metadata":
        assert bundle.paths() == ["rnn/cell/in_cell"]


@pytest.mark.live
@pytest.mark.parametrize("form", ["simple", "builder"])
def test_live_tensorflow_1(tmp_path, keras, form):
    import tensorflow as tf

    v1 = tf.compat.v1
    random = np.random.default_rng(3)
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 4))
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        with v1.variable_scope("enc/bn"):
            parts = {name: v1.get_variable(name, (4,)) for name in names}
        y = tf.nn.batch_normalization(x, parts["moving_mean"], parts["moving_variance"], parts["beta"], parts["gamma"], 3e-4)
        values = {name: random.uniform(0.1, 2, 4).astype("f4") for name in names}
        session.run(v1.global_variables_initializer())
        for name in names:
            parts[name].load(values[name], session)
        expected = session.run(y, {x: np.ones((1, 4), "f4")})
        if form == "simple":
            v1.saved_model.simple_save(session, str(tmp_path / "m"), {"x": x}, {"y": y})
        else:
            builder = v1.saved_model.Builder(str(tmp_path / "m"))
            builder.add_meta_graph_and_variables(session, ["train"])
            builder.add_meta_graph(["serve"])
            builder.save()
    layer = exporter.read(tmp_path / "m")["enc/bn"]
    assert np.float32(layer.epsilon) == np.float32(3e-4)
    for name in names:
        assert getattr(layer, name).tobytes() == values[name].tobytes()
    assert np.allclose(layer(np.ones((1, 4), "f4")), expected, rtol=1e-6)


@pytest.mark.live
def test_live_module_with_variables_of_its_own_names(tmp_path, keras):
    import tensorflow as tf

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.u, self.s, self.k, self.b = (tf.Variable(np.arange(1, 4, dtype="f4") * n) for n in (1, 2, 3, 4))

        @tf.function(input_signature=[tf.TensorSpec((None, 3))])
        def __call__(self, x):
            return tf.nn.batch_normalization(x, self.u, self.s, self.b, self.k, 0.02)

    tf.saved_model.save(Net(), str(tmp_path / "m"))
    layer, = exporter.read(tmp_path / "m")
    assert np.float32(layer.epsilon) == np.float32(0.02)
    assert [getattr(layer, role)[0] for role in ("moving_mean", "moving_variance", "gamma", "beta")] == [1, 2, 3, 4]


@pytest.mark.live
@pytest.mark.parametrize("index", ["kept", "left out"])
def test_live_model_whose_variables_were_frozen(tmp_path, keras, index):
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    norm = keras.layers.BatchNormalization(epsilon=0.03)
    norm.build((None, 4, 4, 3))
    fill([norm])
    spec = tf.TensorSpec((None, 4, 4, 3))
    frozen = convert_variables_to_constants_v2(tf.function(lambda x: norm(x, training=False)).get_concrete_function(spec))
    module = tf.Module()
    module.f = tf.function(lambda x: frozen(x)[0], input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.f.get_concrete_function())
    if index == "left out":
        shutil.rmtree(tmp_path / "m/variables")
    layer, = exporter.read(tmp_path / "m")
    assert np.float32(layer.epsilon) == np.float32(0.03)
    for role in ROLES:
        assert getattr(layer, role).tobytes() == np.asarray(getattr(norm, role)).tobytes()


def write_tensorflow_1(folder, *, training=False, names=ROLES, stored=None, gamma=()):
    """A SavedModel of TensorFlow 1: variables with names, no objects. names: under which its saver stores them. gamma: nodes of one called
    made, in place of the variable."""
    nodes, reads = variables("net/bn")
    nodes, reads = [*nodes, *gamma], ["made", *reads[1:]] if gamma else reads
    batch = [const("axes", np.int32([0])), node("mean", "Mean", "x", "axes"), node("d", "SquaredDifference", "x", "mean"),
             node("variance", "Mean", "d", "axes")]
    norm = node("net/bn/FusedBatchNorm", "FusedBatchNorm", "x", *reads, is_training=training, epsilon=1.001e-5,
                **({"exponential_avg_factor": 0.5} if training else {}))
    saver = [node("save/tensor_names", "Const", value=tensor([name.encode() for name in names])),
             node("save/SaveV2", "SaveV2", "save/Const", "save/tensor_names", "save/slices", *(f"net/bn/{role}" for role in ROLES))]
    data = graph(node("x", "Placeholder", shape=(-1, 4, 4, 3)), *nodes, *batch, norm, *saver)
    (folder / "variables").mkdir(parents=True)
    write_bundle(folder / "variables", "variables", stored or {name: VALUES[role] for name, role in zip(names, ROLES, strict=True)})
    (folder / "saved_model.pb").write_bytes(field(1, 1) + field(2, meta_graph(data, "1.13.1", "save/control_dependency:0")))
    return folder


@pytest.mark.parametrize("names", [tuple(f"net/bn/{role}" for role in ROLES), ("one", "two", "three", "four")])
def test_a_model_of_tensorflow_1_is_read_by_its_graph(tmp_path, names):
    bundle = read(write_tensorflow_1(tmp_path, names=names))
    assert (bundle.origin.kind, bundle.origin.tensorflow_version, bundle.paths()) == ("saved-model", "1.13.1", ["net/bn"])
    layer = bundle["net/bn"]
    assert (layer.epsilon, layer.axis, layer.ndim) == (float(np.float32(1.001e-5)), (-1,), 4)
    assert [getattr(layer, role).tobytes() for role in ROLES] == [VALUES[role].tobytes() for role in ROLES]


def write_exported_by_keras(folder, **options):
    """As experimental.export_saved_model of TensorFlow 1.13 to 1.15: object-based variables, no objects in the graph, a config."""
    keys = {role: f"layer-0/{role}/.ATTRIBUTES/VARIABLE_VALUE" for role in ROLES}
    objects = [({"layer-0": 1}, None), (CHILDREN, None), *(({}, (f"bn/{role}", keys[role])) for role in ROLES)]
    stored = {**{keys[role]: VALUES[role] for role in ROLES}, OBJECT_GRAPH: [graph_proto(objects)]}
    write_tensorflow_1(folder, names=tuple(keys.values()), stored=stored, **options)
    (folder / "assets").mkdir()
    model = {"class_name": "Sequential", "config": {"name": "net", "layers": [config("mine", 1e-7)]}, "keras_version": "2.2.4-tf"}
    (folder / "assets" / "saved_model.json").write_text(json.dumps(model))
    return folder


@pytest.mark.parametrize("training", [False, True])
def test_a_keras_model_of_tensorflow_1_has_its_config_in_a_file_of_its_own(tmp_path, training):
    """Its op has the epsilon that the kernel computes with."""
    (layer,) = read(write_exported_by_keras(tmp_path, training=training)).layers
    assert (layer.path, layer.epsilon, layer.effective_epsilon) == ("mine", 1e-7, float(np.float32(1.001e-5)))
    assert [getattr(layer, role).tobytes() for role in ROLES] == [VALUES[role].tobytes() for role in ROLES]


@pytest.mark.parametrize(("version", "raised"), [("1.2.0", True), ("1.4.0", False)])
def test_a_frozen_model_of_a_tensorflow_that_added_to_epsilon(tmp_path, version, raised):
    nodes, reads = frozen_variables("bn", list(VALUES.values()))
    op = node("bn/FusedBatchNorm", "FusedBatchNorm", "x", *reads, is_training=False, epsilon=1e-5 + 1e-12)
    data = saved_model_proto(b"", version, graph=graph(node("x", "Placeholder"), *nodes, op))
    (tmp_path / "saved_model.pb").write_bytes(data)
    (layer,) = read(tmp_path).layers
    assert [getattr(layer, role).tobytes() for role in ROLES] == [VALUES[role].tobytes() for role in ROLES]
    stored = float(np.float32(1e-5 + 1e-12))
    assert (layer.epsilon, layer.effective_epsilon) == ((float(np.float32(1e-5)), stored) if raised else (stored, None))


@pytest.mark.parametrize(("class_name", "role", "axis", "ndim"), [
    ("TimeDistributed", "layer", (-1,), None), ("lab>Wrapper", "layer", (2,), 3), ("RNN", "cell", (-1,), None),
    ("lab>Holder", "cells", (2,), 3)])
def test_a_wrapper_on_the_way_to_a_layer(tmp_path, class_name, role, axis, ndim):
    """What goes over time sees one axis less than the model: the last one is counted from the end."""
    inner = metadata()
    inner["config"]["axis"] = [2]
    outer = {"class_name": class_name, "name": "td", "config": {"name": "td", role: {"class_name": "BatchNormalization", "config": {}}}}
    held = {name: number + 3 for number, name in enumerate(ROLES)}
    keys = [f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in range(4)]
    place, listed = (7, [({"0": 2}, None)]) if role == "cells" else (2, [])  # in a list, which is an object without a name
    stored = [({"td": 1}, None), ({role: place}, None), (held, None),
              *(({}, (name, key)) for name, key in zip(ROLES, keys, strict=True)), *listed]
    said = saved_graph_proto([({"td": 1}, None), ({role: place}, outer), (held, inner), *(({}, name) for name in ROLES), *listed])
    layer = read(write(tmp_path, stored=stored, objects=said))["td/bn_1"]
    assert (layer.axis, layer.ndim, layer.epsilon) == (axis, ndim, 2e-3)


@pytest.mark.parametrize(("layout", "axis"), [("NHWC", (-1,)), ("NCHW", (1,))])
def test_objects_without_a_config_get_the_rest_from_the_functions(tmp_path, layout, axis):
    """Who plays which role is in the objects, epsilon and axis in the op."""
    values = [f"read_{name}:value:0" for name in "gbmv"]
    op = node("call", "FusedBatchNormV3", "x", *values, epsilon=0.02, is_training=False, data_format=layout)
    (layer,) = read(write_exported(tmp_path, children=CHILDREN, ops=[op])).layers
    assert (layer.epsilon, layer.axis, layer.ndim) == (float(np.float32(0.02)), axis, 4)
    assert [getattr(layer, role).tobytes() for role in ROLES] == [VALUES[role].tobytes() for role in ROLES]


def test_a_mean_that_a_function_computes_from_its_variable_is_no_activation(tmp_path):
    """(x - 2 * mean) * r * gamma + beta is a batch norm, whose mean is not the stored one."""
    gamma, beta, mean, variance = (f"read_{name}:value:0" for name in "gbmv")
    ops = [const("two", np.float32(2)), node("m2", "Mul", mean, "two:output:0"), node("d", "Sub", "x", "m2:z:0"),
           const("eps", np.float32(0.02)), node("add", "AddV2", variance, "eps:output:0"), node("r", "Rsqrt", "add:z:0"),
           node("dr", "Mul", "d:z:0", "r:y:0"), node("drg", "Mul", "dr:z:0", gamma), node("call", "AddV2", "drg:z:0", beta)]
    bundle = read(write_exported(tmp_path, ops=ops))
    assert not bundle.layers
    assert {each.reason for each in bundle.skipped} == {"its mean is what the op Mul computes"}


def test_a_variance_that_a_function_uses_in_another_way(tmp_path):
    ops = [const("eps", np.float32(0.02)), node("add", "AddV2", "read_v:value:0", "eps:output:0"), node("r", "Rsqrt", "add:z:0"),
           node("call", "Mul", "x", "r:y:0")]
    (skipped,) = read(write_exported(tmp_path, ops=ops)).skipped
    assert skipped == ("net/bn", "the graph uses its variance in a way that is not a known form of batch norm")


VECTORS = [f"read_{name}:value:0" for name in "gbmv"]
INFERENCE = node("served", "FusedBatchNormV3", "x", *VECTORS, epsilon=0.02, is_training=False)
TRAINING = node("call", "FusedBatchNormV3", "x", *VECTORS, epsilon=0.02)


@pytest.mark.parametrize(("ops", "serve", "doubt"), [
    ([TRAINING], "serve", True), ([TRAINING], "__inference_signature_wrapper_7", True),
    ([INFERENCE, TRAINING], "__inference__wrapped_model_7", True),
    ([INFERENCE, TRAINING], "serve", False)])  # a function for each mode
def test_a_model_that_uses_the_statistics_of_the_batch(tmp_path, ops, serve, doubt):
    """What a user's class asks for is in no config, but the function that serves the model has it."""
    update = [const("decay", np.float32(0.01))]
    for name, moment in (("m", "batch_mean"), ("v", "batch_variance")):
        update += [node(f"sub_{name}", "Sub", f"read_{name}:value:0", f"call:{moment}:0"),
                   node(f"mul_{name}", "Mul", f"sub_{name}:z:0", "decay:output:0"),
                   node(f"keep_{name}", "AssignSubVariableOp", name, f"mul_{name}:z:0")]
    (layer,) = read(write_exported(tmp_path, children=CHILDREN, ops=[*ops, *update], serve=serve)).layers
    assert (layer.doubt != "", layer.called_in_training) == (doubt, doubt)
    assert layer.epsilon == float(np.float32(0.02))


@pytest.mark.parametrize("has_config", [True, False])
@pytest.mark.parametrize("role", ["gamma", "beta"])
def test_a_gamma_or_beta_that_no_function_uses(tmp_path, role, has_config):
    """A config describes a layer that has it; without one, the graph alone says what is computed."""
    neutral = {"gamma": const("ones", np.ones(3, "f4")), "beta": const("zeros", np.zeros(3, "f4"))}[role]
    given = [{"gamma": "ones", "beta": "zeros"}[name] + ":output:0" if name == role else read
             for name, read in zip(ROLES, VECTORS, strict=True)]
    op = node("call", "FusedBatchNormV3", "x", *given, epsilon=0.02, is_training=False)
    write_exported(tmp_path, children=CHILDREN, ops=[neutral, op])
    if has_config:
        said = {**config("bn", 0.02), "name": "bn", "build_input_shape": [None, 4, 4, 3]}
        (tmp_path / "keras_metadata.pb").write_bytes(field(1, field(2, 1) + field(5, json.dumps(said))))
        bundle = read(tmp_path)
        assert (bundle.layers, bundle.skipped) == ([], [("bn", f"its config has a {role}, which the graph does not use")])
        return
    (layer,) = read(tmp_path).layers
    assert [name for name in ROLES if getattr(layer, name) is None] == [role]


def test_a_parameter_that_the_graph_reshapes_is_still_that_of_its_object(tmp_path):
    """The name of a variable in the graph is not its object."""
    ops = [const("three", np.int32([3])), node("same", "Reshape", VECTORS[0], "three:output:0"),
           node("call", "FusedBatchNormV3", "x", "same:output:0", *VECTORS[1:], epsilon=0.02, is_training=False)]
    (layer,) = read(write_exported(tmp_path, children=CHILDREN, ops=ops)).layers
    assert (layer.epsilon, set(layer.parameters())) == (float(np.float32(0.02)), set(ROLES))


def test_of_two_reasons_the_first_is_said(tmp_path):
    """That of the batch norm which the model calls first."""
    gamma, beta, mean, variance = VECTORS
    ops = [const("two", np.float32(2)), node("m2", "Mul", mean, "two:output:0"), node("e", "Exp", gamma)]
    first = node("call", "FusedBatchNormV3", "x", gamma, beta, "m2:z:0", variance, epsilon=0.02, is_training=False)
    second = node("other", "FusedBatchNormV3", "call:y:0", "e:y:0", beta, mean, variance, epsilon=0.02, is_training=False)
    found = read(write_exported(tmp_path, children=CHILDREN, ops=[*ops, first, second]))
    assert (found.layers, [each.reason for each in found.skipped]) == ([], ["its mean is what the op Mul computes"])


def test_objects_whose_function_computes_with_another_mean(tmp_path):
    """As QKeras's batch norm does, which quantizes it."""
    gamma, beta, mean, variance = VECTORS
    ops = [const("two", np.float32(2)), node("m2", "Mul", mean, "two:output:0"),
           node("call", "FusedBatchNormV3", "x", gamma, beta, "m2:z:0", variance, epsilon=0.02, is_training=False)]
    found = read(write_exported(tmp_path / "one", children=CHILDREN, ops=ops))
    assert (found.layers, [each.reason for each in found.skipped]) == ([], ["its mean is what the op Mul computes"])
    (layer,) = read(write_exported(tmp_path / "both", children=CHILDREN, ops=[*ops, INFERENCE])).layers
    assert (layer.epsilon, layer.ndim) == (float(np.float32(0.02)), 4)


@pytest.mark.parametrize("kernel", [0.02, 0.03])
def test_two_functions_that_disagree_about_epsilon_say_none(tmp_path, kernel):
    values = [f"read_{name}:value:0" for name in "gbmv"]
    ops = [node(name, "FusedBatchNormV3", "x", *values, epsilon=epsilon, is_training=False)
           for name, epsilon in (("a", 0.02), ("call", kernel))]
    (layer,) = read(write_exported(tmp_path, children=CHILDREN, ops=ops)).layers
    assert layer.epsilon == (float(np.float32(0.02)) if kernel == 0.02 else None)


@pytest.mark.parametrize(("graphs", "chosen"), [
    ([((), False)], 0), ([(("train",), False), (("serve",), False)], 1), ([(("serve",), False), (("train",), False)], 0),
    ([(("serve", "train"), False), (("serve",), False)], 1), ([(("train",), False), ((), False)], 1),
    ([((), False), (("eval",), False)], 0),
    ([(("serve",), False), (("train",), True)], 1), ([(("eval", "serve"), False), (("gpu",), False)], 0)])
def test_which_graph_is_that_of_inference(tmp_path, graphs, chosen):
    """Estimators write one each to train, to evaluate and to serve; TensorFlow 2 one, with its objects."""
    def part(number, tags, has_objects):
        info = b"".join(field(4, tag) for tag in tags) + field(5, f"1.{number}.0") + field(3, "serve") + field(6, "train")
        return field(1, info) + (field(7, saved_graph_proto([({}, None)])) if has_objects else b"")

    data = field(1, 1) + b"".join(field(2, part(number, *each)) for number, each in enumerate(graphs))
    (tmp_path / "saved_model.pb").write_bytes(data)
    parts = graphs_of(Place(tmp_path / "saved_model.pb"))
    assert [(each.tags, each.objects is not None) for each in parts] == graphs
    assert of_inference(parts).tensorflow_version == f"1.{chosen}.0"


def saved_functions(functions, more=(), bare=()):
    """Those of a SavedModel with the variables 2 to 6 of a batch norm and something else.

    functions: {name: (nodes, outputs, variables)}. more: functions that these call. bare: those that read nothing themselves.
    """
    bodies, concrete, names = [*more], b"", (*ROLES, "other")
    for name, (nodes, results, count) in functions.items():
        arguments = "gbmvo"[:count]
        reads = [node(f"read_{one}", "ReadVariableOp", one) for one in arguments if name not in bare]
        bodies.append(function(name, ["x", *arguments], [*reads, *nodes], results))
        concrete += field(2, field(1, name) + field(2, field(2, bytes(range(2, 2 + count)))))
    objects = [({"bn": 1, "o": 6}, None), (CHILDREN, None)]
    return SavedFunctions(meta_graph(graph(functions=bodies)),
                          SavedGraph(Message(saved_graph_proto([*objects, *(({}, name) for name in names)]) + concrete, "objects")),
                          CheckpointGraph(Message(graph_proto([*objects, *(({}, (name, name)) for name in names)]), "stored")))


@pytest.mark.parametrize(("functions", "modes"), [
    ({"train": (True, 1), "call": (False, 0)}, [True, False]),  # that with more variables first: what it computes in training counts less
    ({"train": (True, 0), "call": (False, 1)}, [False]), ({"call": (False, 0), "again": (False, 0)}, [False]),
    ({"__inference_signature_wrapper_1": (True, 0), "call": (False, 1)}, [True]),
    ({"train": (True, 0), "more": (True, 1)}, [True, True]), ({"__inference__wrapped_model_1": (False, 0), "train": (True, 1)}, [False])])
def test_which_functions_are_asked_what_they_compute(functions, modes):
    """The first of inference suffices: most files have a function for each mode of each layer and model."""
    saved = saved_functions({name: (
        [node("y", "FusedBatchNormV3", "x", *VECTORS, epsilon=0.02, is_training=training, exponential_avg_factor=0.5)], {"y": "y:y:0"},
        4 + more) for name, (training, more) in functions.items()})
    assert [norm.in_training for norm in saved.norms_of([5])[5]] == modes
    assert saved.norms_of([6]) == {6: []}


def test_what_a_function_of_inference_computes_is_not_looked_for_in_another():
    """Also if that is no known form of batch norm: the model is served as that function says."""
    other = [node("r", "Rsqrt", VECTORS[3]), node("y", "Mul", "x", "r:y:0")]
    functions = {"__inference_signature_wrapper_1": (other, {"y": "y:z:0"}, 5),
                 "__inference_signature_wrapper_2": ([INFERENCE], {"y": "served:y:0"}, 4)}
    assert [norm.reason for norm in saved_functions(functions).norms_of([5])[5]] == [UNKNOWN_FORM]


@pytest.mark.parametrize(("name", "result", "is_both"), [
    ("__inference_signature_wrapper_1", "served:y:0", False), ("__inference_signature_wrapper_1", "both:z:0", True),
    ("call", "both:z:0", False)])
def test_only_what_a_function_of_inference_returns_counts(name, result, is_both):
    """Not a loss that it computes as well, and nothing reads; nor what another function returns, which may be one to train."""
    ops = [INFERENCE, TRAINING, node("loss", "Relu", "call:y:0"), node("both", "AddV2", "served:y:0", "loss:activations:0")]
    functions = saved_functions({name: (ops, {"y": result}, 4)})
    for (norm,) in (functions.norms(), functions.norms_of([5])[5]):
        assert norm.also_in_training is is_both


def test_a_function_to_train_that_is_served_beside_that_of_inference():
    """As keras.export.ExportArchive writes it for two endpoints; the batch norm of the first is not called in training."""
    functions = saved_functions({"__inference_signature_wrapper_1": ([INFERENCE], {"y": "served:y:0"}, 4),
                                 "__inference_signature_wrapper_2": ([TRAINING], {"y": "call:y:0"}, 4)})
    for (norm, *_) in (functions.norms(), functions.norms_of([5])[5]):
        assert (norm.in_training, norm.also_in_training) == (False, False)


def write_functions(folder, scopes, *, prefix="", unused=()):
    """A SavedModel of batch norms that only functions tell, by the scopes of their variables. unused: numbers of those that none uses."""
    bodies, concrete, said, stored, tensors = [], b"", [({}, None)], [({}, None)], {}
    for number, scope in enumerate(scopes):
        first = len(stored)
        reads = [node(f"read_{one}", "ReadVariableOp", one) for one in "gbmv"]
        norm = node(f"{prefix}norm_{number}/FusedBatchNormV3", "FusedBatchNormV3", "x", *VECTORS, epsilon=0.02, is_training=False)
        result = {"y": f"{prefix}norm_{number}/FusedBatchNormV3:y:0"}
        bodies.append(function(f"call_{number}", ["x", *"gbmv"], [*reads, norm], result))
        if number not in unused:
            concrete += field(2, field(1, f"call_{number}") + field(2, field(2, bytes(range(first, first + 4)))))
        for role in ROLES:
            key = f"{number}/{role}/.ATTRIBUTES/VARIABLE_VALUE"
            said[0][0][f"{number}_{role}"] = stored[0][0][f"{number}_{role}"] = len(stored)
            said.append(({}, f"{scope}/{role}"))
            stored.append(({}, (f"{scope}/{role}", key)))
            tensors[key] = VALUES[role] + number
    (folder / "variables").mkdir(parents=True)
    write_bundle(folder / "variables", "variables", {**tensors, OBJECT_GRAPH: [graph_proto(stored)]})
    (folder / "saved_model.pb").write_bytes(saved_model_proto(saved_graph_proto(said) + concrete, graph=graph(functions=bodies)))
    return folder


@pytest.mark.parametrize(("scopes", "paths"), [
    (["net/a", "net/b"], ["a", "b"]), (["net/a"], ["net/a"]), (["net/a", "head/b"], ["net/a", "head/b"]),
    (["net/a", "net/block/b"], ["a", "block/b"]), (["net/a", "net"], ["net/a", "net"])])
def test_the_name_of_the_model_is_no_part_of_the_paths(tmp_path, scopes, paths):
    """What all variables begin with, where that leaves a name to each of several batch norms."""
    bundle = read(write_functions(tmp_path, scopes))
    assert bundle.paths() == paths
    assert [layer.name for layer in bundle] == [path.rpartition("/")[2] for path in paths]
    for number, layer in enumerate(bundle):
        assert all(getattr(layer, role).tobytes() == (VALUES[role] + number).tobytes() for role in ROLES)


@pytest.mark.parametrize(("scopes", "unused", "said"), [
    (["net/a", "net/b", "net/c"], (1, 2), "net/b, net/c: "), (["net/a", "net/b", "net/a"], (2,), ""), (["net/a", "net/b"], (), "")])
def test_statistics_that_no_function_uses(tmp_path, scopes, unused, said):
    """As of a layer behind the output of an endpoint of keras.export.ExportArchive; some files list an object twice."""
    found = read(write_functions(tmp_path, scopes, unused=unused))
    warnings = [each for each in found.warnings if "none of its functions uses" in each]
    assert [each.partition("the file")[0] for each in warnings] == ([said] if said else [])


@pytest.mark.parametrize(("said", "ndim"), [
    ({"build_input_shape": {"class_name": "TensorShape", "items": [None, 4, 3]}}, 3), ({"build_input_shape": [None, 3]}, 2),
    ({"batch_input_shape": [None, 4, 4, 3]}, 4), ({"build_input_shape": [None, 3], "batch_input_shape": [None, 4, 4, 3]}, 2),
    ({"build_input_shape": [[None, 3], [None, 3]]}, None), ({"build_input_shape": [{"a": 1}, 2], "input_spec": "four"}, None),
    ({"build_input_shape": "three", "input_spec": {"config": {"ndim": True}}}, None), ({"input_spec": {"config": {"ndim": 1}}}, None),
    ({"build_input_shape": [3], "input_spec": {"config": {"ndim": 2}}}, 2), ({"input_spec": {"config": 4}}, None),
    ({"batch_input_shape": [None, 4, 4, 3], "input_spec": {"config": {"ndim": 2}}}, 2)])
def test_the_rank_that_metadata_records(tmp_path, said, ndim):
    (layer,) = read(write(tmp_path, metadata={**config("bn_1", 2e-3), "name": "bn_1", **said})).layers
    assert layer.ndim == ndim


def test_a_wrapper_that_quantizes_is_noted(tmp_path):
    quantize = {"class_name": "Default8BitQuantizeConfig", "config": {"weight_attrs": ["gamma"], "quantize_output": False}}
    outer = {"class_name": "Custom>QuantizeWrapperV2", "name": "quant", "config": {"name": "quant", "quantize_config": quantize}}
    (layer,) = held_by(tmp_path, {"quant": 6}, [{"layer": 1}], {1: metadata(), 6: outer}).layers
    assert (layer.path, layer.notes) == (
        "quant/bn_1", ("QuantizeWrapperV2 around it quantizes its gamma in inference; the parameters are those before that",))


@pytest.mark.parametrize(("listed", "is_known"), [
    ([config("bn_1", 2e-3)], True), ([config("bn_1", 0.5)], False), ([config("other", 0.5), config("bn_1", 2e-3)], True),
    ([config("other", 2e-3), config("bn_1", 0.5)], False),
    ([config("bn_1", 0.5), config("bn_1", 0.5)], True), ([{"class_name": "Dense", "config": {}}, config("bn_1", 0.5)], True),
    ([7, config("bn_1", 0.5)], True), ("layers", True)])
def test_what_the_models_config_says_of_a_layer(tmp_path, listed, is_known):
    """Compared with the layer's own, where it lists one of that name, and is a list of layers at all."""
    model = {"name": "net", "class_name": "Mine", "config": {"name": "net", "layers": listed}}
    folder = write(tmp_path, separate={0: json.dumps(model), 1: json.dumps(metadata())})
    if is_known:
        assert read(folder)["bn_1"].epsilon == 2e-3
        return
    with pytest.raises(FormatError, match=r"its epsilon is 0\.002 in its own metadata and 0\.5 in its model's"):
        read(folder)


def test_a_variable_that_the_checkpoint_does_not_hold(tmp_path):
    folder = write_functions(tmp_path, ["net/a"])
    keys = {role: f"0/{role}/.ATTRIBUTES/VARIABLE_VALUE" for role in ROLES}
    stored = [({f"0_{role}": number + 1 for number, role in enumerate(ROLES)}, None), ({}, None),
              *(({}, (f"net/a/{role}", keys[role])) for role in ROLES[1:])]
    write_bundle(folder / "variables", "variables", {**{keys[role]: VALUES[role] for role in ROLES}, OBJECT_GRAPH: [graph_proto(stored)]})
    found = read(folder)
    assert (found.paths(), [reason for _, reason in found.skipped]) == (
        [], ["the file contains no value of its gamma, the variable net/a/gamma"])


def test_a_model_of_tensorflow_1_whose_config_says_nothing_of_its_layers(tmp_path):
    keys = {role: f"bn/{role}/.ATTRIBUTES/VARIABLE_VALUE" for role in ROLES}
    objects = [({"bn": 1}, None), (CHILDREN, None), *(({}, (f"bn/{role}", keys[role])) for role in ROLES)]
    stored = {**{keys[role]: VALUES[role] for role in ROLES}, OBJECT_GRAPH: [graph_proto(objects)]}
    write_tensorflow_1(tmp_path, names=tuple(keys.values()), stored=stored)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "saved_model.json").write_text(json.dumps({"class_name": "lab>Net", "config": {"name": "net"}}))
    (layer,) = read(tmp_path).layers
    assert (layer.path, layer.epsilon) == ("bn", None)


@pytest.mark.parametrize("result", ["served:y:0", "both:z:0"])
def test_functions_of_inference_that_call_a_layer_in_both_modes(tmp_path, result):
    ops = [INFERENCE, TRAINING, node("both", "AddV2", "served:y:0", "call:y:0")]
    folder = write_functions(tmp_path, ["net/a"])
    reads = [node(f"read_{one}", "ReadVariableOp", one) for one in "gbmv"]
    body = function("__inference_signature_wrapper_1", ["x", *"gbmv"], [*reads, *ops], {"y": result})
    said = saved_graph_proto([({f"0_{role}": number + 1 for number, role in enumerate(ROLES)}, None),
                              *(({}, f"net/a/{role}") for role in ROLES)])
    concrete = field(2, field(1, "__inference_signature_wrapper_1") + field(2, field(2, bytes(range(1, 5)))))
    (folder / "saved_model.pb").write_bytes(saved_model_proto(said + concrete, graph=graph(functions=[body])))
    found = read(folder)
    assert (found.paths(), ["in one of its calls" in reason for _, reason in found.skipped]) == (
        ([], [True]) if result == "both:z:0" else (["net/a"], []))


@pytest.mark.parametrize("is_both", [True, False])
def test_a_frozen_model_that_calls_a_layer_in_both_modes(tmp_path, is_both):
    nodes, reads = frozen_variables("bn", list(VALUES.values()))
    ops = [node("a", "FusedBatchNormV3", "x", *reads, is_training=False), node("b", "FusedBatchNormV3", "x", *reads, is_training=True),
           node("y", "AddV2" if is_both else "Relu", "a", *(["b"] if is_both else [])), node("loss", "Sum", "b", "axes"),
           const("axes", np.int32([0]))]
    data = saved_model_proto(b"", "1.15.0", graph=graph(node("x", "Placeholder"), *nodes, *ops))
    (tmp_path / "saved_model.pb").write_bytes(data)
    found = read(tmp_path)
    assert (len(found.layers), ["in one of its calls" in reason for _, reason in found.skipped]) == ((0, [True]) if is_both else (1, []))

"""TensorFlow 2's checkpoints: whatever names one, what the object graph says, and what the installed TensorFlow writes."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

import exporter
from exporter.errors import ExporterError, FormatError, UnresolvedError, UnsupportedError, UsageError
from exporter.files.place import Place
from exporter.formats.object_graph import OBJECT_GRAPH
from exporter.sources import tf_checkpoint
from exporter.sources.shared.options import ReadOptions
from exporter.sources.tf_checkpoint import claims
from exporter.sources.tf_objects.configs import about_removed
from tests.make.live import ROLES, check_live, check_output, config, fill
from tests.make.tensor_files import field, graph_proto, write_bundle, write_v1


class Model:
    """Builds the object graph and the tensors of a checkpoint."""

    def __init__(self):
        self.nodes, self.tensors, self.random = [({}, None)], {}, np.random.default_rng(5)

    def add(self, *path, **configs):
        """The node at this path, made with those above it."""
        node = 0
        for end, name in enumerate(path, 1):
            if name not in self.nodes[node][0]:
                self.nodes[node][0][name] = len(self.nodes)
                self.nodes.append(({}, None))
            node = self.nodes[node][0][name]
            config = configs.get("/".join(path[:end]))
            if config:
                key = "/".join([*path[:end], ".ATTRIBUTES/OBJECT_CONFIG_JSON"])
                self.tensors[key] = [json.dumps(config).encode()]
                self.nodes[node] = (self.nodes[node][0], None, key)
        return node

    def variable(self, path, scope="", shape=(3,), dtype="float32"):
        node = self.add(*path)
        key = "/".join(path) + "/.ATTRIBUTES/VARIABLE_VALUE"
        self.nodes[node] = ({}, (f"{scope}/{path[-1]}" if scope else path[-1], key))
        self.tensors[key] = self.random.uniform(0.5, 2, shape).astype(dtype)

    def norm(self, *path, scope="", roles=ROLES, **options):
        for role in roles:
            self.variable((*path, role), scope, **options)
        return self

    def dense(self, *path, scope=""):
        self.variable((*path, "kernel"), scope, (4, 3))
        return self

    def write(self, folder, prefix="model"):
        tensors = {**self.tensors, OBJECT_GRAPH: [graph_proto(self.nodes)]}
        return write_bundle(folder, prefix, tensors)


def read(path, **options):
    place = Place(path)
    assert claims(place)
    return tf_checkpoint.read(place, ReadOptions(**options))


@pytest.fixture
def simple():
    return Model().norm("layer_with_weights-0", scope="bn").dense("layer_with_weights-1", scope="fc")


# ---- what a checkpoint is called

@pytest.mark.parametrize("named", ["model.index", "model", "model.data-00000-of-00001", ".", "checkpoint"])
@pytest.mark.parametrize("prefix", ["model", ""])
def test_everything_that_names_a_checkpoint(tmp_path, simple, named, prefix):
    simple.write(tmp_path, prefix)
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{prefix or "."}"\nall_model_checkpoint_paths: "x"\n')
    named = named.replace("model", prefix)
    bundle = exporter.read(tmp_path / named, epsilon=1e-3)
    assert bundle.paths() == ["bn"]
    assert bundle.origin.kind == "tf-checkpoint"
    assert bundle["bn"].gamma.tobytes() == simple.tensors["layer_with_weights-0/gamma/.ATTRIBUTES/VARIABLE_VALUE"].tobytes()
    assert bundle["bn"].assumed == ("epsilon", "axis")


def test_what_it_does_not_claim(tmp_path, simple):
    simple.write(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / "notes.index").write_text("a book")
    (tmp_path / "notes.data-sheets").write_text("what it is about")
    (tmp_path / "empty").mkdir()
    for name in (".", "notes.index", "empty", "other", "saved_model.pb"):
        assert not claims(Place(tmp_path / name)), name


def test_a_folder_without_state_file(tmp_path, simple):
    index = simple.write(tmp_path, "one")
    (tmp_path / "notes.index").write_text("a book")
    (tmp_path / "old.index").mkdir()
    (tmp_path / "copy of one").write_bytes(index.read_bytes())
    assert len(read(tmp_path)) == 1
    simple.write(tmp_path, "two")
    with pytest.raises(FormatError, match=r"2 checkpoints \(one.index, two.index\)") as caught:
        read(tmp_path)
    assert caught.value.hint == "give one of them"


@pytest.mark.parametrize(("said", "warns"), [
    ("model", False), ("./model", False), ("gone/model", False), ("mod\\145l", False), ("mo\\x64el", False),
    ("/somewhere/else/model", True), ("../../model", True), ("C:\\\\runs\\\\model", True),
])
def test_state_files(tmp_path, simple, said, warns):
    simple.write(tmp_path)
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{said}"\n')
    bundle = read(tmp_path)
    assert len(bundle) == 1
    assert [("outside this folder; model.index in this folder is read" in warning) for warning in bundle.warnings] == [True] * warns


@pytest.mark.parametrize(("prefix", "text"), [("a\tb", "a\\tb"), ("a\nb", "a\\nb"), ("a\rb", "a\\rb"), ('a"b', 'a\\"b'), ("ab", "a\\b")])
def test_escapes_in_state_files(tmp_path, simple, prefix, text):
    simple.write(tmp_path, prefix)
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{text}"\n')
    assert len(read(tmp_path)) == 1


@pytest.mark.parametrize(("state", "what"), [
    (b'model_checkpoint_path: "/etc/passwd"', "names /etc/passwd, which is not in this folder"),
    (b'model_checkpoint_path: "../../x"', "which is not in this folder"),
    (b'model_checkpoint_path: "\\377\\376"', "not UTF-8"), (b'model_checkpoint_path: "\\777"', "not UTF-8"),
    (b"\0\xff\x12", "not a checkpoint state file"),
    (b"", "not a checkpoint state file"),
])
def test_state_files_that_name_nothing_here(tmp_path, simple, state, what):
    simple.write(tmp_path)
    (tmp_path / "checkpoint").write_bytes(state)
    with pytest.raises(FormatError, match=what):
        read(tmp_path)


def test_nothing_outside_the_folder_is_opened(tmp_path, simple):
    simple.write(tmp_path, "outside")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "checkpoint").write_text('model_checkpoint_path: "../outside"')
    with pytest.raises(FormatError, match="not in this folder"):
        read(inside)
    (inside / "link.index").symlink_to(tmp_path / "outside.index")
    (inside / "checkpoint").write_text('model_checkpoint_path: "link"')
    with pytest.raises(FormatError, match="symbolic link"):
        read(inside)


def test_a_missing_index_is_named(tmp_path, simple):
    simple.write(tmp_path).unlink()
    with pytest.raises(FormatError, match=r"the index file model.index is missing"):
        read(tmp_path / "model.data-00000-of-00001")


def test_a_damaged_index_is_ours_to_refuse(tmp_path, simple):
    index = simple.write(tmp_path)
    index.write_bytes(b"<!doctype html>" * 10)
    with pytest.raises(FormatError, match="not a TensorFlow checkpoint index"):
        read(index)


def test_a_checkpoint_without_object_graph_is_read_by_names(tmp_path):
    path = write_v1(tmp_path / "model.ckpt", {f"a/bn/{role}": np.ones(3, "f4") for role in ROLES})
    assert read(path).paths() == ["a/bn"]


# ---- the object graph

@pytest.mark.parametrize(("build", "paths"), [
    (lambda m: m.norm("layer_with_weights-0", scope="bn"), ["bn"]),
    (lambda m: m.norm("layer_with_weights-0", scope="beta_bn").norm("layer_with_weights-1", scope="gamma"), ["beta_bn", "gamma"]),
    (lambda m: m.norm("layer_with_weights-10", scope="b").norm("layer_with_weights-2", scope="a"), ["b", "a"]),
    (lambda m: m.norm("net", "norm1", scope="net/norm1").dense("net", "d", scope="net/d"), ["norm1"]),
    (lambda m: m.norm("one").norm("two"), ["one", "two"]),
    (lambda m: m.norm("blocks", "0", "n").norm("blocks", "1", "n"), ["blocks/0/n", "blocks/1/n"]),
    (lambda m: m.norm("a", "n", scope="net").norm("b", "n", scope="net").dense("c", scope="net"), ["a/n", "b/n"]),
    (lambda m: m.norm("layer_with_weights-0", "layer_with_weights-1", scope="bn").norm("layer_with_weights-1", scope="bn"),
     ["layer_with_weights-0/bn", "bn"]),
    (lambda m: m.norm("model", "layer_with_weights-0", scope="bn").norm("model", "layer_with_weights-1", scope="bn2"), ["bn", "bn2"]),
    (lambda m: m.norm("backbone", "layer_with_weights-0", scope="bn").norm("head", scope="net/head"), ["backbone/bn", "head"]),
    (lambda m: m.norm("p", "0", "norm", scope="net/p0").dense("p", "0", "fc", scope="net/p0").norm("p", "1", scope="net/p1"),
     ["p0/norm", "p1"]),
    (lambda m: m.norm("layer_with_weights-0", "layer", scope="td").norm("layer_with_weights-1", scope="bn"), ["td", "bn"]),
    (lambda m: m.norm("a", "layer_with_weights-0", scope="net/bn").norm("a", "layer_with_weights-1", scope="net/other")
     .norm("b", "layer_with_weights-0", scope="bn").norm("b", "layer_with_weights-1", scope="other"),
     ["net/bn", "net/other", "b/bn", "b/other"]),
    (lambda m: m.norm("a", "n", scope="net"), ["net"]),
    (lambda m: m.norm("a", "n", scope="bn").norm("a", "b", "o", scope="bn").dense("d", scope="fc"), ["bn", "bn/o"]),
    (lambda m: m.norm("layer_with_weights-0", scope="bn").norm("layer_with_weights-1", scope="bn"), ["bn", "bn"]),
    (lambda m: m.norm("a", "nets", "0", "layer_with_weights-0", scope="bn").norm("a", "nets", "1", "layer_with_weights-0", scope="bn")
     .norm("b", scope="other"), ["nets/0/bn", "nets/1/bn", "other"]),
    (lambda m: m.norm("layer_with_weights-0", "layer_with_weights-0", scope="sub/bn")
     .norm("layer_with_weights-0", "layer_with_weights-1", scope="sub/other"), ["sub/bn", "sub/other"]),
])
def test_paths(tmp_path, build, paths):
    bundle = read(build(Model()).write(tmp_path))
    assert bundle.paths() == paths
    assert [layer.name for layer in bundle] == [path.rpartition("/")[2] for path in paths]


@pytest.mark.parametrize("roles", [ROLES, ROLES[1:], ("gamma", *ROLES[2:]), ROLES[2:]], ids=len)
def test_which_parameters_there_are(tmp_path, roles):
    layer = read(Model().norm("bn", roles=roles).write(tmp_path)).layers[0]
    assert set(layer.parameters()) == set(roles)
    assert (layer.epsilon, layer.axis, layer.ndim, layer.dtype) == (None, None, None, "float32")


@pytest.mark.parametrize(("shape", "axis", "kept"), [
    ((5,), None, (5,)), ((1, 1, 1, 5), (-1,), (5,)), ((1, 4, 1, 2), (-3, -1), (4, 2)), ((1, 6, 1, 1), (-3,), (6,)), ((1, 1), (-1,), (1,)),
])
def test_several_axes_show_in_the_shape(tmp_path, shape, axis, kept):
    layer = read(Model().norm("bn", shape=shape).write(tmp_path)).layers[0]
    assert (layer.axis, layer.shape) == (axis, kept)
    assert layer.moving_variance.shape == kept


def test_decoys(tmp_path):
    model = Model().norm("layer_with_weights-0", scope="bn").norm("optimizer", "moving", roles=("gamma", "moving_mean"))
    model.variable(("layer_with_weights-1", "gamma"), "layer_norm")
    model.variable(("layer_with_weights-1", "beta"), "layer_norm")
    model.add("layer_with_weights-2", "moving_mean")  # no variables
    model.add("layer_with_weights-2", "moving_variance")
    assert read(model.write(tmp_path)).paths() == ["bn"]


def test_cycles_and_shared_layers_are_walked_once(tmp_path):
    model = Model().norm("a", "bn", scope="bn")
    bn = model.add("a", "bn")
    for number in range(5):
        model.nodes[0][0][f"again-{number}"] = bn
    model.nodes[bn][0]["owner"] = model.nodes[bn][0]["self"] = 0
    model.nodes[bn] = ({**model.nodes[bn][0], "me": bn}, None)
    assert len(read(model.write(tmp_path))) == 1


def test_a_layer_with_a_variable_of_its_own_is_not_taken_for_a_batch_norm(tmp_path):
    model = Model().norm("switch", scope="switch").norm("bn", scope="bn")
    model.variable(("switch", "mean_weight"), "switch")
    bundle = read(model.write(tmp_path))
    assert bundle.paths() == ["bn"]
    assert bundle.skipped == [("switch", "it also contains mean_weight, which BatchNormalization does not have")]


def test_renormalization_adds_variables_that_inference_does_not_use(tmp_path):
    model = Model().norm("bn", scope="bn")
    for name in ("moving_stddev", "renorm_mean", "renorm_stddev"):
        model.variable(("bn", name), "bn")
    assert read(model.write(tmp_path)).paths() == ["bn"]


def test_parameters_of_several_types_are_held_in_the_wider(tmp_path):
    model = Model().norm("bn", roles=ROLES[:2], dtype="float16").norm("bn", roles=ROLES[2:])
    layer = read(model.write(tmp_path)).layers[0]
    assert layer.dtype == "float32"
    assert layer.gamma.tobytes() == model.tensors["bn/gamma/.ATTRIBUTES/VARIABLE_VALUE"].astype("f4").tobytes()


@pytest.mark.parametrize(("dtypes", "held"), [
    (["float16"], "float16"), (["bfloat16"], "bfloat16"), (["float64"], "float64"), (["float16", "float64"], "float64"),
    (["bfloat16", "float16"], "float32"), (["float32", "float64"], "float64")])
def test_the_type_that_holds_all_parameters(tmp_path, dtypes, held):
    model = Model().norm("bn")
    for number, (key, values) in enumerate(model.tensors.items()):
        dtype = dtypes[number % len(dtypes)]
        model.tensors[key] = (np.float32([1, 2, 0.5]), dtype) if dtype == "bfloat16" else values.astype(dtype)
    layer = read(model.write(tmp_path)).layers[0]
    assert layer.dtype == held
    kept = [values[0] if isinstance(values, tuple) else values for values in model.tensors.values()]
    assert [values.astype("f8").tolist() for values in layer.parameters().values()] == [values.astype("f8").tolist() for values in kept]


@pytest.mark.parametrize(("spoil", "what"), [
    (lambda m: m.nodes.append(({"x": 2**31 - 1}, None)) or m.nodes[0][0].update(y=len(m.nodes) - 1), "refers to node 2147483647"),
    (lambda m: m.tensors.pop("bn/gamma/.ATTRIBUTES/VARIABLE_VALUE"), "bn/gamma/.* is missing from the checkpoint"),
    (lambda m: m.variable(("bn", "gamma"), shape=(4,)), "have different shapes"),
    (lambda m: m.variable(("bn", "gamma"), dtype="int64"), "its gamma has type int64, expected a floating point type"),
    (lambda m: m.tensors.update({OBJECT_GRAPH: [b"\xff"]}), "object graph"),
])
def test_damage(tmp_path, spoil, what):
    model = Model().norm("bn")
    spoil(model)
    index = write_bundle(tmp_path, "model", {OBJECT_GRAPH: [graph_proto(model.nodes)], **model.tensors})
    with pytest.raises(FormatError) as caught:
        read(index)
    assert re.search(what, str(caught.value))


@pytest.mark.parametrize(("children", "what"), [
    (field(1, field(1, 1) + field(2, "bn")) + field(1, field(1, 2) + field(2, "bn")),
     "node 0 of the object graph has two children named bn"),
    (field(1, field(1, b"x") + field(2, "bn")), "a reference in the object graph has the wrong types"),
    (field(1, field(1, 1) + field(2, 7)), "a reference in the object graph has the wrong types"),
    (field(1, field(1, 1) + field(2, b"\xff")), "the name of an object is not UTF-8"),
    (field(1, field(1, 1) + field(2, "bn")) * 2, None)], ids=["two", "node", "name", "text", "said twice"])
def test_children_that_are_no_children(tmp_path, children, what):
    model = Model().norm("bn")
    rest = graph_proto(model.nodes[1:])
    index = write_bundle(tmp_path, "model", {**model.tensors, OBJECT_GRAPH: [field(1, children) + rest]})
    if what is None:
        assert len(read(index)) == 1
        return
    with pytest.raises(FormatError, match=what):
        read(index)


def test_two_object_graphs_are_refused(tmp_path):
    model = Model().norm("bn")
    graph = graph_proto(model.nodes)
    index = write_bundle(tmp_path, "model", {**model.tensors, OBJECT_GRAPH: [graph, graph]}, change=lambda entries: [
        (key, value + field(2, field(2, field(1, 2))) if key == OBJECT_GRAPH.encode() else value) for key, value in entries])
    with pytest.raises(FormatError, match="expected the object graph to be one string"):
        read(index)


def test_a_chain_of_many_objects_is_refused(tmp_path):
    model = Model().norm(*["deeper"] * 300, "bn")
    with pytest.raises(FormatError, match="expected objects at most 200 levels deep, got more"):
        read(model.write(tmp_path))


def test_no_batch_norm_at_all(tmp_path):
    """Names alone do not establish that a model has none."""
    with pytest.raises(UnsupportedError, match="no object of the checkpoint has variables named moving_mean and moving_variance: the"):
        exporter.read(Model().dense("fc").write(tmp_path))


@pytest.mark.parametrize(("scale", "average", "axis"), [((3,), (1, 1, 1, 3), (-1,)), ((3, 1, 1), (1, 3, 1, 1), (1,)),
                                                        ((3,), (1, 3), (-1,))])
def test_batch_norm_of_sonnet(tmp_path, scale, average, axis):
    """Inference reads `average`; `_hidden` and `_counter` are how it was made."""
    model = Model()
    for role in ("scale", "offset"):
        model.variable(("net", "bn", role), "net/batch_norm", scale)
    for role in ROLES[2:]:
        for name, shape in (("_counter", ()), ("_hidden", average), ("average", average)):
            model.variable(("net", "bn", role, name), f"net/batch_norm/{role}", shape)
    (layer,) = exporter.read(model.write(tmp_path), epsilon=1e-5)
    keys = [f"net/bn/{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("scale", "offset", "moving_mean/average", "moving_variance/average")]
    for role, key in zip(ROLES, keys, strict=True):
        assert getattr(layer, role).tobytes() == model.tensors[key].tobytes()
    assert (layer.path, layer.axis, layer.ndim, layer.shape, layer.class_name) == ("net/bn", axis, len(average), (3,), "BatchNorm")


@pytest.mark.parametrize("spoil", ["_hidden", "_counter", "average"])
@pytest.mark.parametrize("statistic", ROLES[2:])
def test_averages_of_another_library_than_sonnet_are_not_taken_for_its(tmp_path, statistic, spoil):
    """`average` has to be a variable, beside those it is made from."""
    model = Model()
    for role in ROLES[2:]:
        for name in ("_counter", "_hidden", "average"):
            if (role, name) != (statistic, spoil):
                model.variable(("net", "bn", role, name))
            elif name == "average":
                model.add("net", "bn", role, name)
    with pytest.raises(UnsupportedError, match="no object of the checkpoint has variables named moving_mean and moving_variance: the"):
        exporter.read(model.write(tmp_path), epsilon=1e-3)


def test_a_parameter_is_a_variable(tmp_path):
    """What else a class of the user's calls beta is none: the layer has no beta."""
    model = Model().norm("bn", roles=("gamma", *ROLES[2:]))
    model.add("bn", "beta", "inner")
    layer, = read(model.write(tmp_path)).layers
    assert set(layer.parameters()) == {"gamma", *ROLES[2:]}


def test_a_module_with_names_of_its_own(tmp_path):
    model = Model()
    for role in ("weight", "bias", "avg", "sq"):
        model.variable(("net", "norm", role))
    with pytest.raises(UnsupportedError, match="no object of the checkpoint has variables named moving_mean and moving_variance: the"):
        exporter.read(model.write(tmp_path), epsilon=1e-3)


def test_epsilon_has_to_be_given(tmp_path, simple):
    index = simple.write(tmp_path)
    with pytest.raises(UnresolvedError, match="bn: the file does not contain its epsilon"):
        exporter.read(index)


# ---- configs


def test_configs_that_tensorflow_112_stored(tmp_path):
    model = Model().norm("layer_with_weights-0", scope="bn").norm("layer_with_weights-1", "layer_with_weights-0", scope="bn_1")
    sub = {"class_name": "Sequential", "config": {"name": "sub", "layers": []}}
    model.add("layer_with_weights-0", **{"layer_with_weights-0": config("first", 2e-3)})
    model.add("layer_with_weights-1", "layer_with_weights-0", **{
        "layer_with_weights-1": sub,
        "layer_with_weights-1/layer_with_weights-0": config("second", 1e-5, "BatchNormalizationV1", axis=[-1])})
    key = "/.ATTRIBUTES/OBJECT_CONFIG_JSON"
    model.tensors[key] = [json.dumps({"class_name": "Model", "config": {"name": "net", "layers": []}}).encode()]
    model.nodes[0] = (model.nodes[0][0], None, key)
    layers = read(model.write(tmp_path)).layers
    assert [(layer.path, layer.epsilon, layer.axis, layer.class_name) for layer in layers] == [
        ("first", 2e-3, (1,), "BatchNormalization"), ("sub/second", 1e-5, (-1,), "BatchNormalizationV1")]


def test_the_calls_that_the_stored_config_of_the_model_says(tmp_path):
    """Only the model's own config says how its layers are called, and what feeds them."""
    model = Model().norm("layer_with_weights-0", scope="bn").norm("layer_with_weights-1", scope="bn_1")
    for number, name in enumerate(("first", "second")):
        model.add(f"layer_with_weights-{number}", **{f"layer_with_weights-{number}": config(name)})
    calls = {"x": [], "first": [[["x", 0, 0, {"training": 1}]]], "second": [[["first", 0, 0, {}]]]}
    listed = [{**entry, "name": name, "inbound_nodes": calls[name]} for name, entry in (
        ("x", layer("InputLayer", "x")), ("first", config("first")), ("second", config("second")))]
    net = {"name": "net", "layers": listed, "input_layers": [["x", 0, 0]], "output_layers": [["second", 0, 0]]}
    key = "/.ATTRIBUTES/OBJECT_CONFIG_JSON"
    model.tensors[key] = [json.dumps({"class_name": "Model", "config": net}).encode()]
    model.nodes[0] = (model.nodes[0][0], None, key)
    first, second = read(model.write(tmp_path)).layers
    assert (first.called_in_training, second.called_in_training) == (True, False)
    assert "training=True" in first.doubt
    assert ([each.path for each in first.inputs], [each.path for each in second.inputs]) == (["x"], ["first"])


def functional(*layers, name="net", class_name="Functional"):
    return {"class_name": class_name, "config": {"name": name, "layers": list(layers)}}


def layer(class_name, name, **more):
    return {"class_name": class_name, "config": {"name": name, **more}}


def architecture(tmp_path, tree):
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(tree))
    return Place(path)


def nested():
    model = Model().norm("layer-1", scope="bn").norm("layer-2", "layer-0", scope="bn").norm("layer-3", "layer", scope="td")
    model.nodes[0][0]["layer_with_weights-0"] = model.add("layer-1")
    model.add("layer-0")
    return model


TREE = functional(layer("InputLayer", "in"), config("bn", 1e-5), functional(layer("InputLayer", "i"), config("inner", 1e-6), name="sub",
                                                                            class_name="Sequential"),
                  layer("TimeDistributed", "td", layer=config("norm", 1e-7)))


@pytest.mark.parametrize("root", ["", "model"])
def test_an_architecture_gives_names_and_epsilons(tmp_path, root):
    model = nested()
    if root:
        model.nodes = [({root: 1}, None), *(({name: child + 1 for name, child in node[0].items()}, *node[1:]) for node in model.nodes)]
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, TREE))
    assert {layer.path: layer.epsilon for layer in bundle} == {"bn": 1e-5, "sub/inner": 1e-6, "td/norm": 1e-7}
    assert {layer.path: layer.axis for layer in bundle} == {"bn": (1,), "sub/inner": (1,), "td/norm": (2,)}  # a wrapper adds an axis


@pytest.mark.parametrize(("tree", "what"), [
    (functional(config("bn")), "architecture.json: the model has 1 layers in it, but 4 in the checkpoint"),
    (functional(config("first"), *TREE["config"]["layers"][1:]), "first is a batch norm in it, but not in"),
    (functional(*TREE["config"]["layers"][:3], config("td")), "architecture.json: td is a batch norm in it, but not in the checkpoint"),
    (functional(TREE["config"]["layers"][0], config("bn", scale=False), *TREE["config"]["layers"][2:]), "its config has scale=False"),
])
def test_an_architecture_of_another_model_is_refused(tmp_path, tree, what):
    with pytest.raises(FormatError, match=what):
        read(nested().write(tmp_path), architecture=architecture(tmp_path, tree))


@pytest.mark.parametrize(("before", "class_name", "is_read"), [
    (["layer-0"], "Functional", True), ([], "Functional", True), (["layer-0", "layer-1"], "Functional", False),
    (["layer-0", "layer-1"], "Sequential", False), (["layer-0"], "Sequential", True)])
def test_an_input_that_the_config_or_the_checkpoint_does_not_count(tmp_path, before, class_name, is_read):
    """One at most, which has no variables."""
    model = Model()
    for name in before:
        model.add(name)
    model.norm(f"layer-{len(before)}", scope="bn")
    bare = functional(config("bn", 1e-5), class_name=class_name)
    path = model.write(tmp_path)
    if is_read:
        assert [(layer.path, layer.epsilon) for layer in read(path, architecture=architecture(tmp_path, bare))] == [("bn", 1e-5)]
        whole = functional(layer("InputLayer", "in"), config("bn", 1e-5), class_name=class_name)
        assert [layer.path for layer in read(path, architecture=architecture(tmp_path, whole))] == ["bn"]
        return
    with pytest.raises(FormatError, match=r"the model has 1 layers in it, but 3 in the checkpoint|bn is a batch norm in it, but not in"):
        read(path, architecture=architecture(tmp_path, bare))


@pytest.mark.parametrize("layers", [[], [layer("ReLU", "relu"), config("bn", 1e-5)]])
def test_an_architecture_of_fewer_or_more_layers(tmp_path, layers):
    path = Model().norm("layer-0", scope="bn").write(tmp_path)
    with pytest.raises(FormatError, match=f"the model has {len(layers)} layers in it, but 1 in the checkpoint"):
        read(path, architecture=architecture(tmp_path, functional(*layers)))


@pytest.mark.parametrize(("scopes", "is_read"), [
    (("first", "second"), True), (("first_1", "second_2"), True), (("net/first", "second"), True), (("second", "first"), False),
    (("first", "other"), False)])
def test_layers_behind_those_of_a_sequential_are_what_it_has_lost_if_the_names_agree(tmp_path, scopes, is_read):
    model = Model().norm("layer-0", scope=scopes[0]).norm("layer-1", scope=scopes[1]).norm("layer-2", scope="gone")
    tree = functional(config("first", 1e-5), config("second", 1e-6), class_name="Sequential")
    path = model.write(tmp_path)
    if is_read:
        bundle = read(path, architecture=architecture(tmp_path, tree))
        assert [(layer.path, layer.epsilon) for layer in bundle] == [("first", 1e-5), ("second", 1e-6)]
        return
    with pytest.raises(FormatError, match="the model has 2 layers in it, but 3 in the checkpoint"):
        read(path, architecture=architecture(tmp_path, tree))


def test_the_layers_of_keras_3_stand_in_a_list_of_operations(tmp_path):
    """A Sequential keeps it in the functional model that it makes of itself."""
    model = Model().norm("model", "_operations", "1", scope="bn")
    model.add("model", "_operations", "0")
    model.norm("model", "_operations", "2", "_functional", "_operations", "1", scope="sub/inner")
    model.add("model", "_operations", "2", "_functional", "_operations", "0")
    model.norm("model", "_operations", "3", "layer", scope="norm")
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, TREE))
    assert {layer.path: layer.epsilon for layer in bundle} == {"bn": 1e-5, "sub/inner": 1e-6, "td/norm": 1e-7}


def test_a_layer_that_two_models_of_an_architecture_hold_is_one(tmp_path):
    model = Model().norm("layer-0", "layer-0", scope="bn")
    for number, inner in ((0, 1), (1, 1)):
        model.add(f"layer-{number}", f"layer-{inner}")
    model.nodes[model.add("layer-1")][0]["layer-0"] = model.add("layer-0", "layer-0")
    one, other = (functional(config("bn", 1e-5), layer("ReLU", "relu"), name=name, class_name="Sequential") for name in ("one", "other"))
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, functional(one, other, class_name="Sequential")))
    assert [(each.path, each.epsilon) for each in bundle] == [("one/bn", 1e-5)]
    assert [([each.path for each in call.inputs], [each.path for each in call.outputs]) for call in bundle["one/bn"].calls] == [
        ([], ["one/relu"]), (["one/relu"], ["other/relu"])]


@pytest.mark.parametrize("others", [0, 1])
def test_operations_of_keras_3_have_numbers_and_are_no_objects(tmp_path, others):
    """Masking and keras.ops: the config lists them among the layers; a single one is not taken for an input that has no object."""
    model = Model().norm("model", "_operations", "2", scope="bn")
    model.add("model", "_operations", "0")
    operation = {"class_name": "NotEqual", "config": {"name": "not_equal"}}
    tree = functional(TREE["config"]["layers"][0], operation, config("bn", 1e-5, trainable=True),
                      *[operation | {"config": {"name": "any"}}] * others)
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, tree))
    assert {layer.path: layer.epsilon for layer in bundle} == {"bn": 1e-5}


def test_what_a_sequential_has_lost_is_left_out(tmp_path):
    """TensorFlow 1.15 goes on holding it, behind the others."""
    model = Model().norm("layer-1", scope="bn").norm("layer-2", "layer", scope="gone")
    model.add("layer-0")
    tree = functional(config("bn", 1e-5), class_name="Sequential")
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, tree))
    assert [layer.path for layer in bundle] == ["bn"]
    assert bundle.warnings == [about_removed(["gone"])]
    with pytest.raises(FormatError, match="the model has 1 layers in it, but 2 in the checkpoint"):
        read(model.write(tmp_path), architecture=architecture(tmp_path, functional(config("other", 1e-5), class_name="Sequential")))
    whole = functional(layer("InputLayer", "in"), config("bn", 1e-5), class_name="Sequential")  # which has all others in their places
    (bn,) = read(model.write(tmp_path), architecture=architecture(tmp_path, whole))
    assert bn.gamma.tobytes() == model.tensors["layer-1/gamma/.ATTRIBUTES/VARIABLE_VALUE"].tobytes()
    with pytest.raises(FormatError, match="the model has 2 layers in it, but 3 in the checkpoint"):
        read(model.write(tmp_path), architecture=architecture(tmp_path, {**whole, "class_name": "Functional"}))


def test_what_a_sequential_has_lost_may_be_a_layer_of_another_model(tmp_path):
    model = Model().norm("layer-0", scope="bn").norm("layer-1", "layer-0", scope="other")
    model.nodes[model.add("layer-1")][0]["layer-1"] = model.add("layer-0")
    tree = functional(config("bn", 1e-5), functional(config("other", 1e-6), name="sub", class_name="Sequential"))
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, tree))
    assert ({layer.path: layer.epsilon for layer in bundle}, bundle.warnings) == ({"bn": 1e-5, "sub/other": 1e-6}, [])


@pytest.mark.parametrize(("name", "scope", "is_it"), [
    ("a/bn", "a/bn", True), ("bn", "net/bn/moving", True), ("a/bn", "outer/a_1/bn_2", True),
    ("a_1/bn", "a_1/bn", True), ("a/bn", "a/x/bn", False),
    ("a/bn", "bn/a", False), ("a/bn", "bn", False)])
def test_the_name_of_a_layer_that_stays_may_have_slashes(tmp_path, name, scope, is_it):
    model = Model().norm("layer-1", scope=scope).norm("layer-2", scope="gone")
    model.add("layer-0")
    tree = architecture(tmp_path, functional(config(name, 1e-5), class_name="Sequential"))
    if is_it:
        assert read(model.write(tmp_path), architecture=tree).paths() == [name]
    else:
        with pytest.raises(FormatError, match="the model has 1 layers in it, but 2 in the checkpoint"):
            read(model.write(tmp_path), architecture=tree)


@pytest.mark.parametrize(("class_name", "is_read"), [("Sequential", True), ("Functional", False)])
def test_the_config_of_a_model_alone_says_which_kind_it_is(tmp_path, class_name, is_read):
    """A dump of get_config() has no class: input_layers are of a functional model, which loses no layers."""
    model = Model().norm("layer-1", scope="bn").norm("layer-2", "layer", scope="gone")
    model.add("layer-0")
    alone = {"name": "net", "layers": [config("bn", 1e-5)], **({"input_layers": []} if class_name == "Functional" else {})}
    path = model.write(tmp_path)
    if is_read:
        assert [layer.path for layer in read(path, architecture=architecture(tmp_path, alone))] == ["bn"]
        return
    with pytest.raises(FormatError, match="the model has 1 layers in it, but 3 in the checkpoint"):
        read(path, architecture=architecture(tmp_path, alone))


def test_a_class_of_the_users_says_nothing_of_its_layers(tmp_path):
    tree = layer("lab>Net", "net")
    architecture(tmp_path, tree)
    with pytest.raises(UnresolvedError, match="the config does not describe the layers inside the class Net"):
        exporter.read(Model().norm("bn").write(tmp_path), architecture=tmp_path / "architecture.json")
    model = Model().norm("one", "layer-1", scope="a").norm("two", "layer-1", scope="b")  # functional models among its attributes
    for name in ("one", "two"):
        model.add(name, "layer-0")
    assert exporter.read(model.write(tmp_path), architecture=tmp_path / "architecture.json", epsilon=0.1).paths() == [
        "one/a", "two/b"]


def test_the_epsilon_of_the_kernel_where_the_architecture_says_version_and_rank(tmp_path):
    model = Model().norm("layer-1", scope="bn").norm("layer-2", scope="bn_1")
    model.add("layer-0")
    norms = (config(name, 1e-6, axis=[3]) for name in ("bn", "bn_1"))
    tree = {**functional(layer("InputLayer", "in", batch_input_shape=[None, 4, 4, 3]), *norms, class_name="Sequential"),
            "keras_version": "2.9.0", "backend": "tensorflow"}
    tree["config"]["layers"][1]["class_name"] = "lab>MyNorm"  # a user's batch norm has the rank of its input, too
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, tree))
    assert [each.effective_epsilon for each in bundle] == [1.001e-5, 1.001e-5]
    del tree["config"]["layers"][0]["config"]["batch_input_shape"]
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, tree))
    assert [each.effective_epsilon for each in bundle] == [None, None]
    assert all("if that is 4, the fused kernel of the TensorFlow that wrote it used epsilon 1.001e-05 instead of 1e-06" in each.notes[0]
               for each in bundle)


def test_a_wrapper_whose_layer_the_checkpoint_does_not_hold(tmp_path):
    """What it describes inside is then nothing that was saved."""
    model = Model().norm("layer-1", scope="bn").norm("layer-2", "layer-0", scope="bn").dense("layer-3", "other")
    model.add("layer-0")
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, TREE))
    assert {layer.path: layer.epsilon for layer in bundle} == {"bn": 1e-5, "sub/inner": 1e-6}


def test_an_architecture_that_fits_two_of_three_models(tmp_path):
    model = Model().norm("c", "layer-2", scope="more")
    for name in "abc":
        model.add(name, "layer-0")
        model.norm(name, "layer-1", scope="bn")
    tree = functional(layer("InputLayer", "in"), config("bn", 1e-5))
    with pytest.raises(UsageError, match="the architecture fits several models of the checkpoint"):
        read(model.write(tmp_path), architecture=architecture(tmp_path, tree))


def test_an_architecture_cannot_name_a_subclassed_model(tmp_path):
    with pytest.raises(UsageError, match="is that of a functional or Sequential model"):
        read(Model().norm("bn").write(tmp_path), architecture=architecture(tmp_path, TREE))


def test_what_the_architecture_leaves_out_stays_unknown(tmp_path):
    model = nested().norm("layer-0", "norm", scope="custom")
    bundle = read(model.write(tmp_path), architecture=architecture(tmp_path, TREE))
    assert [layer.path for layer in bundle if layer.epsilon is None] == ["custom"]


# ---- TensorFlow itself

@pytest.fixture(scope="module")
def tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed", exc_type=ImportError)
    pytest.importorskip("tf_keras", reason="tf_keras is not installed")
    return tf


@pytest.mark.live
@pytest.mark.parametrize("form", ["save_weights", "Checkpoint(model)", "Checkpoint(root)"])
def test_live_functional_model(tmp_path, tensorflow, form):
    import tf_keras as keras

    layers = keras.layers
    sub = keras.Sequential([keras.Input((4, 4, 4)), layers.BatchNormalization(axis=1, center=False, epsilon=2e-3, name="norm")], name="sub")
    x = keras.Input((4, 4, 2))
    y = layers.Conv2D(4, 1)(layers.BatchNormalization(epsilon=1e-4, name="bn")(x))
    y = layers.TimeDistributed(layers.BatchNormalization(epsilon=5e-3, name="inner"), name="td")(sub(y))
    y = layers.BatchNormalization(axis=[1, 3], scale=False, name="two_axes")(y)
    y = layers.BatchNormalization(scale=False, center=False, dtype="float64", name="f64")(y)
    model = keras.Model(x, layers.LayerNormalization()(y))
    live = fill([layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)])
    (tmp_path / "model.json").write_text(model.to_json())
    tf = tensorflow
    if form == "save_weights":
        model.save_weights(str(tmp_path / "w"))
    else:
        (tf.train.Checkpoint(model=model) if form.endswith("(model)") else tf.train.Checkpoint(model)).write(str(tmp_path / "w"))
    bundle = exporter.read(tmp_path / "w.index", architecture=tmp_path / "model.json")
    said = {layer.path: layer.epsilon for layer in bundle}
    assert said == {"bn": 1e-4, "sub/norm": 2e-3, "td/inner": 5e-3, "two_axes": 1e-3, "f64": 1e-3}
    assert bundle["two_axes"].axis == (1, 3)
    assert bundle["f64"].dtype == "float64"
    live = {**live, **{values.reshape(-1).tobytes(): norm for norm in live.values() for values in [np.asarray(norm.moving_mean)]}}
    check_live(bundle, {layer.moving_mean.tobytes(): live[layer.moving_mean.tobytes()] for layer in bundle}, outputs=False)
    for layer in bundle:
        if layer.path not in ("td/inner",):
            check_output(layer, live[layer.moving_mean.tobytes()])
    alone = exporter.read(tmp_path / "w.index", epsilon=1e-3)
    assert [layer.gamma is None for layer in alone] == [layer.gamma is None for layer in bundle]
    assert [layer.moving_mean.tobytes() for layer in alone] == [layer.moving_mean.tobytes() for layer in bundle]


@pytest.mark.live
@pytest.mark.thorough("much time")
@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_live_trained_model_with_optimizer(tmp_path, tensorflow, package):
    keras = pytest.importorskip(package)
    model = keras.Sequential([keras.Input((5,)), keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.fit(np.ones((8, 5)), np.ones((8, 1)), verbose=0)
    tensorflow.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "run" / "ckpt"))
    bundle = exporter.read(tmp_path / "run", epsilon=1e-3)
    assert bundle.paths() == ["bn"]
    check_live(bundle, {np.asarray(model.layers[0].moving_mean).tobytes(): model.layers[0]}, outputs=False)


@pytest.mark.live
def test_live_partitioned_and_half(tmp_path, tensorflow):
    v1 = tensorflow.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        with v1.variable_scope("p", partitioner=v1.fixed_size_partitioner(3)):
            sliced = v1.get_variable("w", (7, 5), use_resource=False)
        half = v1.get_variable("h", (4,), tensorflow.float16)
        brain = v1.get_variable("b", (4,), tensorflow.bfloat16)
        session.run(v1.global_variables_initializer())
        expected = [np.asarray(values) for values in session.run([sliced.as_tensor(), half, brain])]
        v1.train.Saver().save(session, str(tmp_path / "v2"), write_meta_graph=False)
        old = v1.train.Saver(write_version=v1.train.SaverDef.V1, var_list=[sliced, half])
        old.save(session, str(tmp_path / "v1"), write_meta_graph=False)
    from exporter.formats.tensor_bundle import open_checkpoint

    for name, count in (("v2.index", 3), ("v1", 2)):
        with open_checkpoint(Place(tmp_path / name)) as checkpoint:
            for key, values in list(zip(("p/w", "h", "b"), expected, strict=True))[:count]:
                assert checkpoint.read(key).astype("f4").tobytes() == values.astype("f4").tobytes(), key


def test_errors_are_ours(tmp_path):
    """Whatever byte of the index changes, it is refused with one of the package's errors."""
    index = Model().norm("bn").write(tmp_path)
    sound = index.read_bytes()
    for number in range(0, len(sound), 7):
        index.write_bytes(sound[:number] + bytes([sound[number] ^ 0x55]) + sound[number + 1 :])
        with pytest.raises(ExporterError):
            exporter.read(index, epsilon=1e-3)


def test_a_state_file_that_names_shards_of_version_1(tmp_path):
    write_v1(tmp_path / "old.ckpt-00000-of-00001", {f"bn/{role}": np.ones(3, "f4") for role in ROLES})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "old.ckpt-?????-of-00001"')
    assert read(tmp_path).paths() == ["bn"]

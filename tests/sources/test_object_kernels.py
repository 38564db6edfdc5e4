"""The kernels before batch norms in TensorFlow's object graphs: of a checkpoint with an architecture, and of a SavedModel."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.errors import UnsupportedError
from exporter.formats.object_graph import OBJECT_GRAPH
from tests.make.configs import layer, norm, sequential
from tests.make.tensor_files import graph_proto, saved_graph_proto, saved_model_proto, write_bundle

RANDOM = np.random.default_rng(3)
NORM = {role: RANDOM.uniform(0.5, 2, 4).astype("f4") for role in ("gamma", "beta", "moving_mean", "moving_variance")}
CONV = {"filters": 4, "kernel_size": [3, 2], "data_format": "channels_last"}


def arrays(**shapes):
    return {name: RANDOM.normal(size=shape).astype("f4") for name, shape in shapes.items()}


KINDS = {
    "Dense": (layer("Dense", "k", units=4), arrays(kernel=(5, 4), bias=(4,))),
    "Dense without bias": (layer("Dense", "k", units=4, use_bias=False), arrays(kernel=(5, 4))),
    "Conv2D": (layer("Conv2D", "k", **CONV), arrays(kernel=(3, 2, 5, 4), bias=(4,))),
    "DepthwiseConv2D": (layer("DepthwiseConv2D", "k", **CONV, depth_multiplier=2), arrays(depthwise_kernel=(3, 2, 2, 2), bias=(4,))),
    "DepthwiseConv2D of Keras 3": (layer("DepthwiseConv2D", "k", **CONV, depth_multiplier=2), arrays(kernel=(3, 2, 2, 2), bias=(4,))),
    "SeparableConv2D": (layer("SeparableConv2D", "k", **CONV),
                        arrays(depthwise_kernel=(3, 2, 3, 1), pointwise_kernel=(1, 1, 3, 4), bias=(4,))),
}


def objects(*layers):
    """(nodes, tensors) of an object graph that holds these layers, {role: array} each, as tf.keras does."""
    nodes, tensors = [({}, None)], {}
    for number, held in enumerate(layers):
        for name in (f"layer-{number}", *([f"layer_with_weights-{number}"] if held else [])):
            nodes[0][0][name] = len(nodes)
        own = {role: len(nodes) + 1 + n for n, role in enumerate(held)}
        nodes.append((own, None))
        for role, values in held.items():
            key = f"layer-{number}/{role}/.ATTRIBUTES/VARIABLE_VALUE"
            nodes.append(({}, (f"x{number}/{role}", key)))
            tensors[key] = values
    return nodes, tensors


def checkpoint(folder, config, *layers):
    nodes, tensors = objects(*layers)
    (folder / "a.json").write_text(json.dumps(config))
    return write_bundle(folder, "w", {**tensors, OBJECT_GRAPH: [graph_proto(nodes)]})


def saved_model(folder, config, *layers):
    nodes, tensors = objects(*layers)
    entries = config["config"]["layers"]
    said = [(nodes[0][0], config)]
    own = iter(entries)
    for children, value in nodes[1:]:
        said.append((children, value[0] if value else {**(entry := next(own)), "name": entry["config"]["name"]}))
    said[0] = (nodes[0][0], {**config, "name": config["config"]["name"]})
    (folder / "variables").mkdir()
    write_bundle(folder / "variables", "variables", {**tensors, OBJECT_GRAPH: [graph_proto(nodes)]})
    (folder / "saved_model.pb").write_bytes(saved_model_proto(saved_graph_proto(said), "2.9.0"))
    return folder


def folded(tmp_path, make, config, *layers):
    path = make(tmp_path, config, *layers)
    return exporter.fold_model(path, **({"architecture": tmp_path / "a.json"} if make is checkpoint else {}))


@pytest.mark.parametrize("make", [checkpoint, saved_model])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(tmp_path, make, kind):
    entry, held = KINDS[kind]
    (found,) = folded(tmp_path, make, sequential(entry, norm("bn")), held, NORM).folded
    assert (found.path, found.norm.path) == ("k", "bn")
    name = "pointwise_kernel" if "pointwise_kernel" in held else "kernel" if "kernel" in held else "depthwise_kernel"
    assert found.source.kernel.tobytes() == held[name].tobytes()
    assert (None if found.source.bias is None else found.source.bias.tobytes()) == (held["bias"].tobytes() if "bias" in held else None)
    want = exporter.fold(found.norm.replace(calls=()), held[name], held.get("bias"), entry["class_name"])
    assert found.kernel.tobytes() == want.kernel.tobytes()
    assert found.bias.tobytes() == want.bias.tobytes()


@pytest.mark.parametrize("make", [checkpoint, saved_model])
@pytest.mark.parametrize(("held", "said"), [
    (arrays(kernel=(5, 4)), "holds kernel, and its config says kernel, bias"),
    (arrays(kernel=(5, 4), bias=(4,), more=(4,)), "holds bias, kernel, more, and its config says kernel, bias"),
    (arrays(kernel=(5, 3), bias=(4,)), "has shape [5, 3]"), (arrays(kernel=(5, 4), bias=(3,)), "the bias of k"),
    ({**arrays(kernel=(5, 4)), "bias": np.zeros(4, "f8")}, "is stored as")])
def test_variables_that_do_not_fit(tmp_path, make, held, said):
    with pytest.raises(UnsupportedError) as caught:
        folded(tmp_path, make, sequential(layer("Dense", "k", units=4), norm("bn")), held, NORM)
    assert said in str(caught.value)
    assert "k" in str(caught.value)


@pytest.mark.parametrize("make", [checkpoint, saved_model])
def test_a_batch_norm_that_is_fed_by_something_else(tmp_path, make):
    with pytest.raises(UnsupportedError, match="it is fed by relu of class ReLU, which has no kernel of a known kind"):
        folded(tmp_path, make, sequential(layer("ReLU", "relu"), norm("bn")), {}, NORM)


def test_a_kernel_in_a_model_in_a_saved_model(tmp_path):
    entry, held = KINDS["Dense"]
    inner = sequential(entry, norm("bn"), name="sub")
    arrays = [*held.items(), *NORM.items()]
    places = [{role: 4 + number for number, (role, _) in enumerate(arrays) if (role in held) is is_kernel} for is_kernel in (True, False)]
    nodes = [({"layer-0": 1}, sequential(inner)), ({"layer-0": 2, "layer-1": 3}, inner), (places[0], entry), (places[1], norm("bn"))]
    keys = [f"{number}/.ATTRIBUTES/VARIABLE_VALUE" for number in range(len(arrays))]
    stored = [*((children, None) for children, _ in nodes), *(({}, (role, key)) for (role, _), key in zip(arrays, keys, strict=True))]
    said = [*((children, {**one, "name": one["config"]["name"]}) for children, one in nodes), *(({}, role) for role, _ in arrays)]
    (tmp_path / "variables").mkdir()
    tensors = {key: values for key, (_, values) in zip(keys, arrays, strict=True)}
    write_bundle(tmp_path / "variables", "variables", {**tensors, OBJECT_GRAPH: [graph_proto(stored)]})
    (tmp_path / "saved_model.pb").write_bytes(saved_model_proto(saved_graph_proto(said), "2.9.0"))
    (found,) = exporter.fold_model(tmp_path).folded
    assert (found.path, found.source.kernel.tobytes()) == ("sub/k", held["kernel"].tobytes())


def test_a_saved_model_that_lists_no_layers(tmp_path):
    config = sequential(layer("Dense", "k", units=4), norm("bn"))
    path = saved_model(tmp_path, {**config, "config": {**config["config"], "layers": config["config"]["layers"]}}, KINDS["Dense"][1], NORM)
    data = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(data.replace(b'"layers":', b'"lAyers":'))
    with pytest.raises(UnsupportedError, match="the file does not specify what feeds it"):
        exporter.fold_model(path)


def test_a_layer_whose_object_is_not_certain(tmp_path):
    """Two objects of one name, of which one alone is the layer that the model calls."""
    config = sequential(layer("Dense", "k", units=4), norm("bn"))
    held = KINDS["Dense"][1]
    nodes, tensors = objects(held, NORM)
    said = [({**nodes[0][0], "again": len(nodes)}, {**config, "name": "model"})]
    own = iter(config["config"]["layers"])
    for children, value in nodes[1:]:
        said.append((children, value[0] if value else {**(entry := next(own)), "name": entry["config"]["name"]}))
    twin = {role: len(nodes) + 1 + n for n, role in enumerate(held)}
    stored = [(said[0][0], None), *nodes[1:], (twin, None)]
    said.append((twin, {**config["config"]["layers"][0], "name": "k"}))
    for role in held:
        key = f"again/{role}/.ATTRIBUTES/VARIABLE_VALUE"
        stored.append(({}, (f"again/{role}", key)))
        said.append(({}, f"again/{role}"))
        tensors[key] = held[role] + 1
    (tmp_path / "variables").mkdir()
    write_bundle(tmp_path / "variables", "variables", {**tensors, OBJECT_GRAPH: [graph_proto(stored)]})
    (tmp_path / "saved_model.pb").write_bytes(saved_model_proto(saved_graph_proto(said), "2.9.0"))
    with pytest.raises(UnsupportedError, match="which object of the file is k"):
        exporter.fold_model(tmp_path)


def test_a_kernel_of_an_object_without_a_name_in_a_layer(tmp_path):
    """What a layer keeps beside its own weights is no second layer of its name."""
    config = sequential(layer("Dense", "k", units=4), norm("bn"))
    held = KINDS["Dense"][1]
    nodes, tensors = objects(held, NORM)
    kept, key = len(nodes), "layer-0/kept/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    stored = [nodes[0], ({**nodes[1][0], "kept": kept}, None), *nodes[2:], ({"kernel": kept + 1}, None), ({}, ("kept/kernel", key))]
    names = {1: "k", 1 + 1 + len(held): "bn"}
    entries = {entry["config"]["name"]: {**entry, "name": entry["config"]["name"]} for entry in config["config"]["layers"]}
    said = [(children, value[0] if value else entries.get(names.get(number))) for number, (children, value) in enumerate(stored)]
    said[0] = (said[0][0], {**config, "name": "model"})
    (tmp_path / "variables").mkdir()
    write_bundle(tmp_path / "variables", "variables", {**tensors, key: held["kernel"] + 1, OBJECT_GRAPH: [graph_proto(stored)]})
    (tmp_path / "saved_model.pb").write_bytes(saved_model_proto(saved_graph_proto(said), "2.9.0"))
    (found,) = exporter.fold_model(tmp_path).folded
    assert (found.path, found.source.kernel.tobytes()) == ("k", held["kernel"].tobytes())

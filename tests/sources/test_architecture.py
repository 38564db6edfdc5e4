"""Configs beside weights: dumps of get_config(), and architectures of another session, whose layers Keras counted anew."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.errors import FormatError, UnresolvedError, UnsupportedError
from exporter.files.place import Place
from exporter.formats.object_graph import OBJECT_GRAPH
from exporter.sources.shared.architecture import node_tree_from
from tests.make import v3_files
from tests.make.h5_files import named, parameters, write
from tests.make.tensor_files import graph_proto, write_bundle
from tests.make.v3_files import entry, functional, norm, sequential, stored

A, B = parameters(seed=1), parameters(seed=2)


def kernel(name, inputs=2, outputs=3):
    return [(f"{name}/kernel:0", np.zeros((inputs, outputs), np.float32)), (f"{name}/bias:0", np.zeros(outputs, np.float32))]


def model(first, second, dense="dense", make=functional, **fields):
    layers = [entry("InputLayer", "input_1", batch_input_shape=[None, 2]), entry("Dense", dense, units=3),
              norm(first, epsilon=0.1, **fields), entry("Activation", "activation"), norm(second, epsilon=0.2, **fields)]
    return make("model", *layers)


def weights(path, first, second, dense="dense", names=("input_1",)):
    layers = {dense: kernel(dense), first: named(first, A), "activation": [], second: named(second, B)}
    return write(path, {**{name: [] for name in names}, **layers})


def read(tmp_path, config, file=None):
    (tmp_path / "architecture.json").write_text(json.dumps(config))
    return exporter.read(file or weights(tmp_path / "w.h5", "bn_a", "bn_b"), architecture=tmp_path / "architecture.json")


def shown(bundle):
    return {layer.path: (layer.epsilon, stored(layer)["gamma"]) for layer in bundle}


def gammas(first, second):
    return {first: (0.1, A["gamma"].tolist()), second: (0.2, B["gamma"].tolist())}


@pytest.mark.parametrize("make", [functional, sequential])
@pytest.mark.parametrize("form", [
    lambda entry: entry, lambda entry: entry["config"], lambda entry: entry["config"]["layers"],
    lambda entry: json.dumps(entry["config"]), lambda entry: {"model_config": entry["config"]}],
    ids=["to_json", "get_config", "list", "text of get_config", "under model_config"])
def test_a_dump_of_get_config_is_an_architecture(tmp_path, make, form):
    assert shown(read(tmp_path, form(model("bn_a", "bn_b", make=make)))) == gammas("bn_a", "bn_b")


def test_json_that_an_editor_on_windows_saved(tmp_path):
    path, file = tmp_path / "architecture.json", weights(tmp_path / "w.h5", "bn_a", "bn_b")
    path.write_text(json.dumps(model("bn_a", "bn_b")), encoding="utf-8-sig")
    assert shown(exporter.read(file, architecture=path)) == gammas("bn_a", "bn_b")
    path.write_text(json.dumps(model("bn_a", "bn_b")), encoding="utf-16")
    with pytest.raises(UnsupportedError, match=r"architecture\.json: this text is encoded in UTF-16"):
        exporter.read(file, architecture=path)


def test_an_error_in_a_config_names_its_layer(tmp_path):
    """A config that is the whole file has no name of its own in front of that."""
    with pytest.raises(FormatError, match=r"architecture\.json: layer model: the config of"):
        read(tmp_path, {"class_name": "Functional", **model("bn_a", "bn_b")["config"]})


def test_names_of_a_users_model_are_its_own(tmp_path):
    """Its config lists some of its layers, in no order."""
    tree = entry("Net", "net", registered="lab>Net", norm=norm("batch_normalization_3", epsilon=0.1))
    file = write(tmp_path / "w.h5", {"batch_normalization": named("batch_normalization", A)})
    with pytest.raises(UnresolvedError, match="batch_normalization: the config does not describe the layers inside the class Net"):
        read(tmp_path, tree, file)


VERSIONS = {"keras_version": "2.9.0", "backend": "tensorflow"}


@pytest.mark.parametrize(("form", "said"), [
    (lambda config: {**config, **VERSIONS}, VERSIONS), (lambda config: config, {"keras_version": None, "backend": None}),
    (lambda config: json.dumps({**config, **VERSIONS}), VERSIONS), (lambda config: {"modelTopology": {**config, **VERSIONS}}, VERSIONS),
    (lambda config: {"modelTopology": {"model_config": config, **VERSIONS}}, VERSIONS),
    (lambda config: {"model_config": config, **VERSIONS}, VERSIONS),
    (lambda config: {**config, "keras_version": 2, "backend": ["a"]}, {"keras_version": None, "backend": None}),
    (lambda config: {**config, "model_config": 3, "backend": "theano"}, {"keras_version": None, "backend": "theano"}),
    (lambda config: {**config, "model_config": sequential("other"), "modelTopology": 3}, {"keras_version": None, "backend": None})])
def test_the_forms_of_an_architecture_in_json(tmp_path, form, said):
    (tmp_path / "a.json").write_text("\n " + json.dumps(form(sequential("net", norm("bn")))))
    found = node_tree_from(Place(tmp_path / "a.json"))
    assert [node.name for _, node in found.tree.children] == ["bn"]
    assert {"keras_version": found.keras_version, "backend": found.backend} == said


@pytest.mark.parametrize(("content", "said"), [
    (b"config:\n", "expected JSON or a model file that contains a config"), (b"", "expected JSON or a model file that contains a config"),
    (b'{"modelTopology": null}', "a.json"), (b'"text"', "a.json")])
def test_what_is_no_architecture(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises((FormatError, UnsupportedError), match=said):
        node_tree_from(Place(tmp_path / "a.json"))


def test_an_archive_without_a_config_is_no_architecture(tmp_path):
    np.savez(tmp_path / "w.npz", A["gamma"])
    with pytest.raises(FormatError) as raised:
        node_tree_from(Place(tmp_path / "w.npz"))
    assert str(raised.value) == "w.npz: config.json is missing from the archive"
    assert raised.value.hint.startswith("an architecture is the JSON of model.to_json()")


def test_what_is_no_config_stays_none(tmp_path):
    for content in ([], {"layers": []}, [1, 2], {"name": "m", "layers": [{"class_name": 3, "config": {}}]}, [["class_name"]]):
        with pytest.raises(FormatError):
            read(tmp_path, content)


@pytest.mark.parametrize("keras_1", [False, True])
def test_names_of_another_session_are_paired_by_order(tmp_path, keras_1):
    stem = "batchnormalization" if keras_1 else "batch_normalization"
    file = weights(tmp_path / "w.h5", f"{stem}_3", f"{stem}_4", "dense_2", names=("input_2",))
    bundle = read(tmp_path, model(f"{stem}_1", f"{stem}_2"), file)
    assert shown(bundle) == gammas(f"{stem}_3", f"{stem}_4")
    assert any("paired by their order" in warning and f"{stem}_1 for {stem}_3" in warning for warning in bundle.warnings)


def test_a_sequential_does_not_list_its_input(tmp_path):
    file = weights(tmp_path / "w.h5", "batch_normalization", "batch_normalization_1", names=())
    bundle = read(tmp_path, model("batch_normalization_6", "batch_normalization_7", make=sequential), file)
    assert shown(bundle) == gammas("batch_normalization", "batch_normalization_1")


@pytest.mark.parametrize(("config", "what"), [
    (model("bn_1", "bn_2"), "the file contains no weights for it"),  # names that a user gave
    (model("batch_normalization_5", "batch_normalization_4"), "the file contains no weights for it"),  # made in another order
    (model("batch_normalization_4", "batch_normalization_5", "fc"), "the file contains no weights for it"),
    (model("dense", "batch_normalization_1", "batch_normalization"), "dense: the architecture .* does not match"),  # of two layers
    (functional("m", *model("batch_normalization_7", "batch_normalization_8")["config"]["layers"][:4]), "file contains no weights for it"),
    (model("batch_normalization_7", "batch_normalization_8", scale=False), "scale=false")])
def test_architectures_that_differ_in_more_than_made_up_names(tmp_path, config, what):
    file = weights(tmp_path / "w.h5", "batch_normalization", "batch_normalization_1")
    with pytest.raises(FormatError, match=what):
        read(tmp_path, config, file)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_kernel_of_a_convolution_of_another_shape(tmp_path, rank):
    shape = (*[1] * rank, 2, 3)
    names = ("batch_normalization", "batch_normalization_1")
    layers = [entry("InputLayer", "input_1", batch_input_shape=[None, *[4] * rank, 2]),
              entry(f"Conv{rank}D", "conv", filters=3), norm("batch_normalization_4", epsilon=0.1), entry("Activation", "activation"),
              norm("batch_normalization_5", epsilon=0.2)]
    held = [("conv/kernel:0", np.zeros(shape, np.float32)), ("conv/bias:0", np.zeros(3, np.float32))]
    first, second = named(names[0], A), named(names[1], B)
    file = write(tmp_path / "w.h5", {"input_1": [], "conv": held, names[0]: first, "activation": [], names[1]: second})
    assert len(read(tmp_path, functional("model", *layers), file)) == 2
    layers[1]["config"]["filters"] = 5
    with pytest.raises(FormatError, match=r"kernel has shape .*filters=5"):
        read(tmp_path, functional("model", *layers), file)
    unbuilt = write(tmp_path / "u.h5", {"input_1": [], "conv": [], names[0]: first, "activation": [], names[1]: second})
    assert len(read(tmp_path, functional("model", *layers), unbuilt)) == 2


def test_a_kernel_of_another_shape(tmp_path):
    config = model("batch_normalization_4", "batch_normalization_5")
    config["config"]["layers"][1]["config"]["units"] = 5
    with pytest.raises(FormatError, match=r"kernel has shape \[2, 3\].*units=5"):
        read(tmp_path, config, weights(tmp_path / "w.h5", "batch_normalization", "batch_normalization_1"))


def of_one_norm(path, kind):
    """Weights of this kind of one batch norm, bn, without a config."""
    if kind == "npz":
        np.savez(path / "w.npz", **{f"bn/{role}": values for role, values in A.items()})
        return path / "w.npz"
    if kind == "h5":
        return write(path / "w.h5", {"input_1": [], "bn": named("bn", A)})
    if kind == "weights.h5":
        return v3_files.write_weights(path / "w.weights.h5", {"layers/batch_normalization": A})
    if kind == "tf-checkpoint":
        keys = {role: f"layer_with_weights-0/{role}/.ATTRIBUTES/VARIABLE_VALUE" for role in A}
        nodes = [({"layer_with_weights-0": 1, "layer-0": 2, "layer-1": 1}, None), ({role: 3 + n for n, role in enumerate(A)}, None),
                 ({}, None), *(({}, (f"bn/{role}", keys[role])) for role in A)]
        write_bundle(path, "w", {**{keys[role]: values for role, values in A.items()}, OBJECT_GRAPH: [graph_proto(nodes)]})
        return path / "w.index"
    manifest = [{"paths": ["w.bin"], "weights": [{"name": f"bn/{role}", "shape": [3], "dtype": "float32"} for role in A]}]
    (path / "w.bin").write_bytes(b"".join(values.tobytes() for values in A.values()))
    (path / "model.json").write_text(json.dumps({"format": "layers-model", "modelTopology": None, "weightsManifest": manifest}))
    return path / "model.json"


@pytest.mark.parametrize("kind", ["npz", "h5", "weights.h5", "tf-checkpoint", "tfjs"])
@pytest.mark.parametrize(("version", "backend", "shape", "raised"), [
    ("2.9.0", "tensorflow", [None, 4, 4, 3], True), ("2.9.0", "tensorflow", [None, 3], False),
    ("2.12.0", "tensorflow", [None, 4, 4, 3], False), (None, None, [None, 4, 4, 3], False),
    ("2.2.4-tf", "tensorflow", [None, 4, 4, 3], True)])
def test_its_version_and_its_input_count_for_the_weights(tmp_path, kind, version, backend, shape, raised):
    """The fused kernels of that TensorFlow raised a small epsilon for inputs of rank 4."""
    config = functional("m", entry("InputLayer", "input_1", batch_input_shape=shape), norm("bn", epsilon=1e-7, axis=len(shape) - 1))
    layers = config["config"]["layers"]
    for each, before in zip(layers, ([], ["input_1"]), strict=True):
        each |= {"name": each["config"]["name"], "inbound_nodes": [[[name, 0, 0, {}] for name in before]] if before else []}
    config["config"] |= {"input_layers": [["input_1", 0, 0]], "output_layers": [["bn", 0, 0]]}
    said = {key: value for key, value in (("keras_version", version), ("backend", backend)) if value}
    layer = read(tmp_path, {**config, **said}, of_one_norm(tmp_path, kind))["bn"]
    assert layer.effective_epsilon == (1.001e-5 if raised else None)
    assert (layer.ndim, layer.axis, layer.epsilon) == (len(shape), (len(shape) - 1,), 1e-7)


@pytest.mark.parametrize(("in_file", "in_architecture", "expected"), [
    ({}, {}, (None, None)), ({}, {"keras_version": "2.2.4", "backend": "theano"}, ("2.2.4", "theano")),
    ({"backend": "theano"}, {"keras_version": "2.2.4", "backend": "tensorflow"}, ("2.2.4", "theano")),
    ({"keras_version": "2.3.1"}, {"keras_version": "2.2.4", "backend": "tensorflow"}, ("2.3.1", "tensorflow")),
    ({"keras_version": "2.3.1", "backend": "theano"}, {}, ("2.3.1", "theano")),
    ({"keras_version": "2.3.1", "backend": "theano"}, {"keras_version": "2.2.4", "backend": "tensorflow"}, ("2.3.1", "theano"))])
def test_what_the_weights_say_of_their_writer_goes_before(tmp_path, in_file, in_architecture, expected):
    path = write(tmp_path / "w.h5", {"bn": named("bn", A)}, **in_file)
    origin = read(tmp_path, {**functional("m", norm("bn")), **in_architecture}, path).origin
    assert (origin.keras_version, origin.backend) == expected

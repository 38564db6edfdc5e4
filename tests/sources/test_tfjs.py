"""TensorFlow.js layers models: names, shards that cut tensors, quantization."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.errors import ExporterError, FormatError, UnresolvedError, UnsupportedError
from exporter.files.place import Place
from exporter.sources import tfjs
from exporter.sources.shared.options import ReadOptions
from tests.make.v3_files import entry, functional, given, norm, norm_arrays, sequential, shown

A, B, C, D = (norm_arrays(seed) for seed in range(4))


def quantize(values, kind):
    """(bytes, the manifest's fields) as the converter makes them."""
    if kind == "float16":
        return values.astype("<f2").tobytes(), {"dtype": "float16", "original_dtype": "float32"}
    low, high = float(values.min()), float(values.max())
    scale = (high - low) / np.iinfo(kind).max
    return np.round((values - low) / scale).astype(kind).tobytes(), {"dtype": kind, "min": low, "scale": scale, "original_dtype": "float32"}


@pytest.fixture
def model(tmp_path):
    """model(config, weights) -> path of a model.json; weights: {name: array, or (array, "uint8")}."""

    def make(config, weights, *, cut=50, topology=None, groups=1, **fields):
        manifest = [{"paths": [], "weights": []} for _ in range(groups)]
        blobs = [b""] * groups
        for number, (name, array) in enumerate(weights.items()):
            array, kind = array if isinstance(array, tuple) else (array, None)
            raw, quantization = quantize(array, kind) if kind else (array.tobytes(), None)
            item = {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
            manifest[number % groups]["weights"].append({**item, "quantization": quantization} if quantization else item)
            blobs[number % groups] += raw
        for number, blob in enumerate(blobs):
            pieces = [blob[start:start + cut] for start in range(0, len(blob), cut)]
            for piece, data in enumerate(pieces):
                path = f"group{number + 1}-shard{piece + 1}of{len(pieces)}.bin"
                manifest[number]["paths"].append(path)
                (tmp_path / path).write_bytes(data)
        topology = topology or {"keras_version": "2.2.4", "backend": "tensorflow", "model_config": config}
        (tmp_path / "model.json").write_text(json.dumps({"format": "layers-model", "modelTopology": topology, "weightsManifest": manifest,
                                                         **fields}))
        return tmp_path / "model.json"

    return make


def named(owner, arrays):
    return {f"{owner}/{name}": values for name, values in arrays.items()}


def read(path, **options):
    assert tfjs.claims(Place(path))
    return tfjs.read(Place(path), ReadOptions(**options))


def refused(path, kind=ExporterError):
    with pytest.raises(kind) as caught:
        read(path)
    return f"{caught.value} | {caught.value.hint}"


@pytest.mark.parametrize("cut", [1, 7, 50, 1000])
@pytest.mark.parametrize("groups", [1, 3])
def test_shards_cut_where_they_like(model, cut, groups):
    weights = {"d/kernel": np.ones((2, 3), "f4"), **named("bn", A), **named("other", norm_arrays(9, center=False))}
    config = functional("m", entry("Dense", "d"), norm("bn", epsilon=0.1), norm("other", center=False))
    bundle = read(model(config, weights, cut=cut, groups=groups))
    assert shown(bundle) == {"bn": (0.1, given(A)), "other": (0.001, given(norm_arrays(9, center=False)))}
    assert (bundle.origin.keras_version, bundle.origin.backend, bundle.layers[0].quantized) == ("2.2.4", "tensorflow", None)


def test_weights_without_a_number_are_weights(model):
    weights = {"d/kernel": np.ones((0, 3), "f4"), **named("bn", A), "other/bias": np.ones(0, "f4")}
    assert shown(read(model(functional("m", entry("Dense", "d"), norm("bn")), weights))) == {"bn": (0.001, given(A))}


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16"])
def test_quantized(model, kind):
    """v * scale + min in float64, rounded once, is what TensorFlow.js computes."""
    values = norm_arrays(1, 40)
    bundle = read(model(functional("m", norm("bn")), {f"bn/{name}": (array, kind) for name, array in values.items()}))
    layer = bundle.layers[0]
    assert (layer.quantized, layer.dtype) == (kind, "float32")
    for name, array in values.items():
        raw, fields = quantize(array, kind)
        got = np.frombuffer(raw, {"uint8": "u1", "uint16": "<u2", "float16": "<f2"}[kind])
        if kind != "float16":
            got = np.array([float(v) * fields["scale"] + fields["min"] for v in got.tolist()], np.float32)
        assert getattr(layer, name).tobytes() == got.astype(np.float32).tobytes()


def test_model_made_in_javascript(model):
    """The topology is the config itself."""
    name = "batch_normalization_BatchNormalization1"
    config = {**sequential("s", norm(name)), "keras_version": "tfjs-layers 4.22.0", "backend": "tensor_flow.js"}
    bundle = read(model(None, named(name, A), topology=config))
    assert shown(bundle) == {name: (0.001, given(A))}
    assert bundle.origin.keras_version == "tfjs-layers 4.22.0"


def test_nests_wrappers_and_scopes(model):
    layers = [sequential("s", norm("bn", epsilon=0.1)), entry("TimeDistributed", "td", layer=norm("inner", epsilon=0.2)),
              norm("batch_normalization_1", epsilon=0.3), norm("x", epsilon=0.4)]
    weights = {**named("bn", A), **named("td", B), **named("batch_normalization_1_1", C), **named("m/x", D)}
    assert shown(read(model(functional("m", *layers), weights))) == {
        "s/bn": (0.1, given(A)), "td/inner": (0.2, given(B)), "batch_normalization_1": (0.3, given(C)), "x": (0.4, given(D))}


def test_a_batch_norm_that_is_called_like_another_layers_weights(model):
    """A single one that is left over is the single owner's that is left over, but not where the names say that two were exchanged."""
    kernel = {"fc/kernel": np.ones((2, 3), "f4"), "fc/bias": np.ones(3, "f4")}
    dense = entry("Dense", "bn", units=3)
    assert shown(read(model(sequential("s", norm("renamed")), {**kernel, **named("bn", A)}))) == {"renamed": (0.001, given(A))}
    bundle = read(model(sequential("s", dense, norm("fc")), {**kernel, **named("bn", A)}))
    assert [path for path, _ in bundle.skipped] == ["fc"]
    for names in ("fc", "s/fc"):
        weights = {f"{names}/kernel": np.ones((2, 3), "f4"), f"{names}/bias": np.ones(3, "f4"), **named("bn", A)}
        bundle = read(model(functional("m", sequential("s", dense, norm("fc"))), weights))
        assert [path for path, _ in bundle.skipped] == ["s/fc"]


def test_a_layer_that_runs_a_saved_model_elsewhere_is_named(model):
    bundle = read(model(functional("m", norm("bn"), entry("TFSMLayer", "inner", filepath="some/folder")), named("bn", A)))
    assert bundle.paths() == ["bn"]
    assert [text for text in bundle.warnings if text.startswith("inner: this TFSMLayer runs a SavedModel")]


def test_names_that_could_be_anybodys(model):
    layers = [sequential("s", norm("bn")), sequential("t", norm("bn")), norm("sure")]
    bundle = read(model(functional("m", *layers), {**named("bn", A), **named("bn_1", B), **named("sure", C)}))
    assert bundle.paths() == ["sure"]
    assert [path for path, _ in bundle.skipped] == ["s/bn", "t/bn"]
    bundle = read(model(functional("m", norm("beta_bn"), norm("bn")), {**named("beta_bn", A), **named("bn", B)}))
    assert shown(bundle) == {"beta_bn": (0.001, given(A)), "bn": (0.001, given(B))}


@pytest.mark.parametrize("owners", [
    ("bn", "bn_1"), ("bn_1", "bn_1_1"), ("bn_2", "bn_1_1"), ("bn_2", "bn_1"), ("bn", "bn_1_1"), ("m/bn_1", "m/bn_1_1")])
def test_scopes_that_were_taken(model, owners):
    """A second model of one session: TensorFlow numbers the scopes whose names the first has, so that bn_1 may be the layer bn."""
    config = functional("m", norm("bn", epsilon=0.1), norm("bn_1", epsilon=0.2))
    bundle = read(model(config, {**named(owners[1], B), **named(owners[0], A)}))
    assert shown(bundle) == {"bn": (0.1, given(A)), "bn_1": (0.2, given(B))}
    wrapped = functional("m", entry("TimeDistributed", "bn", layer=norm("x")), entry("TimeDistributed", "bn_1", layer=norm("y")))
    bundle = read(model(wrapped, {**named(owners[1], B), **named(owners[0], A)}))
    assert shown(bundle) == {"bn/x": (0.001, given(A)), "bn_1/y": (0.001, given(B))}


def test_all_scopes_have_a_number(model):
    config = functional("m", *(norm(name) for name in ("a_bn", "b_bn", "c_bn")))
    assert shown(read(model(config, {**named("a_bn_1", A), **named("b_bn_1", B), **named("c_bn_3", C)}))) == {
        "a_bn": (0.001, given(A)), "b_bn": (0.001, given(B)), "c_bn": (0.001, given(C))}
    bundle = read(model(config, {**named("a_bn_1", A), **named("a_bn_2", B), **named("c_bn", C)}))
    assert (bundle.paths(), [path for path, _ in bundle.skipped]) == (["c_bn"], ["a_bn", "b_bn"])


def test_inside_a_users_class(model):
    bundle = read(model(functional("m", entry("Block", "b"), norm("bn")), {**named("bn", A), **named("b/norm", B)}))
    assert shown(bundle) == {"bn": (0.001, given(A)), "b/norm": (None, given(B))}


def test_converted_from_keras_3(model):
    config = functional("m", norm("b", epsilon=0.1), sequential("s", norm("a", epsilon=0.2)))
    weights = {**{f"layers/batch_normalization/vars/{i}": array for i, array in enumerate(A.values())},
               **{f"layers/sequential/layers/batch_normalization/vars/{i}": (array, "uint16") for i, array in enumerate(B.values())}}
    bundle = read(model(config, weights, topology={"keras_version": "3.4.1", "model_config": config}))
    assert bundle.paths() == ["b", "s/a"]
    assert shown(bundle)["b"] == (0.1, given(A))
    assert [layer.quantized for layer in bundle] == [None, "uint16"]
    config["config"]["layers"].append(norm("never built"))
    bundle = read(model(config, weights, topology={"keras_version": "3.4.1", "model_config": config}))
    assert (bundle.paths(), [path for path, _ in bundle.skipped]) == (["b", "s/a"], ["never built"])


@pytest.fixture
def alone(model):
    """alone(weights) -> path of a model.json that the converter made of an HDF5 file of weights: without a config."""

    def make(weights):
        path = model(None, weights)
        path.write_text(json.dumps({**json.loads(path.read_text()), "modelTopology": None}))
        return path

    return make


def test_weights_alone(alone):
    center = norm_arrays(7, center=False)
    path = alone({"conv/kernel": np.ones((2, 3), "f4"), **named("bn", A), **named("block/bn_1", {**B, "beta": (B["beta"], "float16")}),
                  **named("free", center), "ln/gamma": A["gamma"], "ln/beta": A["beta"]})
    bundle = read(path)
    half = {**given(B), "beta": given({"beta": B["beta"].astype("f2").astype("f4")})["beta"]}
    assert shown(bundle) == {"bn": (None, given(A)), "block/bn_1": (None, half), "free": (None, given(center))}
    assert [(layer.name, layer.quantized) for layer in bundle] == [("bn", None), ("bn_1", "float16"), ("free", None)]
    with pytest.raises(UnresolvedError, match="bn, block/bn_1, free: the file does not contain its epsilon"):
        exporter.read(path)
    resolved = exporter.read(path, epsilon=0.01)
    assert [(layer.axis, layer.epsilon, set(layer.assumed)) for layer in resolved] == [((-1,), 0.01, {"epsilon", "axis"})] * 3


def test_weights_alone_of_one_scope(alone):
    """Batch norms of one scope, as a user's class makes them, are told by the numbers that TensorFlow gave their variables."""
    second = {f"b/{name}_1": values for name, values in B.items()}
    bundle = exporter.read(alone({**named("b", A), **second}), epsilon=0.01)
    assert shown(bundle) == {"b": (0.01, given(A)), "b#2": (0.01, given(B))}
    mixed = read(alone({**named("b", A), **{name: second[name] for name in list(second)[1:]}, **named("own", A)}))
    assert ([path for path, _ in mixed.skipped], mixed.paths()) == (["b", "b"], ["own"])
    assert "which belong together is ambiguous" in mixed.skipped[0].reason


def test_weights_alone_with_an_architecture(alone, tmp_path):
    config = functional("m", norm("bn", epsilon=0.1), sequential("s", norm("inner", epsilon=0.2)))
    (tmp_path / "architecture.json").write_text(json.dumps({**config, "keras_version": "2.2.4", "backend": "tensorflow"}))
    path = alone({**named("inner", B), **named("bn", A)})
    bundle = read(path, architecture=Place(tmp_path / "architecture.json"))
    assert shown(bundle) == {"bn": (0.1, given(A)), "s/inner": (0.2, given(B))}
    assert (bundle.origin.keras_version, bundle.origin.backend) == ("2.2.4", "tensorflow")
    for other in (("bn_1", "inner"), ("inner",), ("bn", "inner", "more")):  # counted names of another session
        path = alone({name: values for owner in other for name, values in named(owner, A).items()})
        with pytest.raises(FormatError, match="the architecture's batch norms are bn, s/inner, the weights' "):
            read(path, architecture=Place(tmp_path / "architecture.json"))


def test_weights_alone_that_say_too_little(alone):
    old = {"bn_gamma": A["gamma"], "bn_beta": A["beta"], "bn_running_mean": A["moving_mean"], "bn_running_std": A["moving_variance"]}
    found = read(alone(old))
    assert ([path for path, _ in found.skipped], found.paths()) == (["bn"], [])
    beta_first = {f"bn/{name}": A[name] for name in ("beta", "gamma", "moving_mean", "moving_variance")}
    assert "names and positions of its weights disagree: bn/beta, bn/gamma" in refused(alone(beta_first))
    assert "no modelTopology" in refused(alone({f"layers/batch_normalization/vars/{i}": array for i, array in enumerate(A.values())}))


def test_config_that_does_not_fit(model):
    assert "bn: the file contains gamma" in refused(model(functional("m", norm("bn", scale=False)), named("bn", A)))
    three = {name: array for name, array in A.items() if name != "gamma"}
    assert "the file contains beta" in refused(model(functional("m", norm("bn")), named("bn", three)))
    assert "have different shapes" in refused(model(functional("m", norm("bn")), named("bn", {**A, "beta": np.ones(2, "f4")})))
    assert "expected type float32, got int32" in refused(model(functional("m", norm("bn")), named("bn", {**A, "beta": np.ones(3, "i4")})))


def test_graph_models_are_folded(model, tmp_path):
    said = refused(model(None, {}, topology={"node": [], "library": {}, "versions": {}}, format="graph-model"), UnsupportedError)
    assert "folds batch norm" in said
    (tmp_path / "model.json").write_text(json.dumps({"format": "graph-model", "modelTopology": {}, "weightsManifest": []}))
    assert "folds batch norm" in refused(tmp_path / "model.json", UnsupportedError)
    (tmp_path / "model.json").write_text(json.dumps({"modelTopology": {"node": []}, "weightsManifest": []}))
    assert "folds batch norm" in refused(tmp_path / "model.json", UnsupportedError)


def test_shards_that_are_damaged(model, tmp_path):
    def fresh():
        return model(functional("m", norm("bn")), named("bn", A), cut=20)

    shard = tmp_path / "group1-shard2of3.bin"
    path = fresh()
    shard.unlink()
    assert "group1-shard2of3.bin is missing" in refused(path, FormatError)
    path = fresh()
    shard.write_bytes(shard.read_bytes()[:-3])
    assert "lists 48 bytes of weights" in refused(path)
    assert "cut short" in refused(path)
    shard.write_bytes(b"<!DOCTYPE html><html>not found</html>")
    assert "group1-shard2of3.bin: the shard is an HTML page" in refused(path)
    shard.write_bytes(bytes(25))
    assert "longer" in refused(path)


def test_manifests_that_make_no_sense(model):
    def said(change):
        path = model(functional("m", norm("bn")), named("bn", A))
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
        return refused(path)

    def entries(value):
        return value["weightsManifest"][0]["weights"]

    assert "modelTopology contains no config: it is not a JSON object" in said(lambda value: value.update(modelTopology="{}"))
    assert "lists no weights" in said(lambda value: value.pop("weightsManifest"))
    assert "no paths or no weights" in said(lambda value: value.update(weightsManifest=[{}]))
    assert "two weights are named 'bn/gamma'" in said(lambda value: entries(value)[1].update(name="bn/gamma"))

    def listed_again(value):
        value["weightsManifest"].append({"paths": value["weightsManifest"][0]["paths"], "weights": []})

    assert "the shard group1-shard1of1.bin is listed twice" in said(
        lambda value: value["weightsManifest"][0].update(paths=["group1-shard1of1.bin"] * 2))
    assert "is listed twice" in said(listed_again)
    assert "has no name" in said(lambda value: entries(value)[1].update(name=3))
    assert "expected a list of sizes as its shape" in said(lambda value: entries(value)[1].update(shape=[-1]))
    assert "weights of type string are not supported" in said(lambda value: entries(value)[1].update(dtype="string"))
    assert "quantization" in said(lambda value: entries(value)[1].update(quantization={"dtype": "uint8", "min": "0"}))
    assert "quantization" in said(lambda value: entries(value)[1].update(quantization=7))
    assert "quantization" in said(lambda value: entries(value)[1].update(quantization={"dtype": "int8", "min": 0.0, "scale": 1.0}))
    assert "a name inside the model's folder" in said(lambda value: value["weightsManifest"][0].update(paths=["../../etc/passwd"]))
    assert "bn/gamma: expected a shape that an array can have" in said(
        lambda value: entries(value)[0].update(shape=[1] * 65 + entries(value)[0]["shape"]))
    assert "lists 4398046511140 bytes" in said(lambda value: entries(value)[1].update(shape=[1 << 40]))


def test_through_the_door(model, tmp_path):
    path = model(functional("m", norm("bn", epsilon=0.01)), named("bn", A))
    bundle = exporter.read(path)
    assert (bundle.origin.kind, shown(bundle)) == ("tfjs", {"bn": (0.01, given(A))})
    assert exporter.read(path, isolated=True).digest() == bundle.digest()
    for text, is_claimed in (("[1]", False), ('{"layers": []}', False), ('{"modelTopology": {}}', True), ('{"weightsManifest": []}', True)):
        (tmp_path / "other.json").write_text(text)
        assert tfjs.claims(Place(tmp_path / "other.json")) is is_claimed


def test_a_look_alike_and_weights_of_its_own(model):
    quantized = norm("q", class_name="QBatchNormalization", gamma_quantizer={"class_name": "quantized_po2", "config": {}})
    shifted = norm("s", class_name="Shifted")
    weights = {**named("q", A), **named("s", {**B, "shift": np.ones(3, "f4")}), **named("bn", C)}
    path = model(functional("m", quantized, shifted, norm("bn")), weights)
    bundle = read(path)
    assert [layer.path for layer in bundle.layers] == ["bn"]
    assert [(skipped[0], word in skipped[1]) for skipped, word in zip(bundle.skipped, ("gamma_quantizer", "s/shift"), strict=True)] == [
        ("q", True), ("s", True)]


ORDERED = [f"{owner}/{role}" for owner in ("a", "b") for role in A]
BY_KIND = [f"{owner}/{role}" for roles in (("gamma", "beta"), ("moving_mean", "moving_variance")) for owner in ("a", "b") for role in roles]


def exchanged(names, first, second):
    return [second if name == first else first if name == second else name for name in names]


@pytest.mark.parametrize(("first", "second"), [("a/gamma", "b/gamma"), ("a/moving_variance", "b/moving_variance"), ("a/gamma", "a/beta"),
                                               ("a/moving_mean", "a/moving_variance"), ("b/beta", "b/moving_mean")])
@pytest.mark.parametrize("order", [ORDERED, BY_KIND])
def test_names_that_were_exchanged_in_the_manifest(model, order, first, second):
    config = functional("m", norm("a"), norm("b"))
    given_values = {**named("a", A), **named("b", B)}
    assert len(read(model(config, {name: given_values[name] for name in order})).layers) == 2
    with pytest.raises(FormatError, match="names and positions of the weights disagree for "):
        read(model(config, {name: given_values[name] for name in exchanged(order, first, second)}))


def test_pairs_that_were_exchanged_and_a_frozen_layer_that_moved(model):
    """A frozen layer's weights stand among those that are not trained: gamma and beta come late, and nothing is odd about it."""
    order = ["b/gamma", "b/beta", "a/gamma", "a/beta", "a/moving_mean", "a/moving_variance", "b/moving_mean", "b/moving_variance"]
    values = {**named("a", A), **named("b", B)}
    weights = {name: values[name] for name in order}
    assert len(read(model(functional("m", norm("a", trainable=False), norm("b")), weights)).layers) == 2
    with pytest.raises(FormatError, match=r"disagree for a, b"):
        read(model(functional("m", norm("a"), norm("b")), weights))


@pytest.mark.parametrize("version", ["2.2.4", "tfjs-layers 1.7.4", None])
def test_a_call_in_training(model, version):
    """In a public collection of these models 17 configs call their batch norms with training=1."""
    layers = [{**norm(name), "name": name, "inbound_nodes": [[["x", 0, 0, {"training": flag}]]]} for name, flag in (("g", 1), ("h", False))]
    config = functional("m", {**entry("InputLayer", "x"), "name": "x", "inbound_nodes": []}, *layers)
    config["config"] |= {"input_layers": [["x", 0, 0]], "output_layers": [["g", 0, 0], ["h", 0, 0]]}
    topology = {"keras_version": version, "model_config": config}
    path = model(config, {**named("g", A), **named("h", B)}, topology=topology)
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(path)
    assert [name for name, _ in caught.value.layers] == ["g"]
    bundle = exporter.read(path, stored_statistics=True)
    assert [layer.called_in_training for layer in bundle] == [True, False]
    assert [[each.path for each in layer.inputs] for layer in bundle] == [["x"], ["x"]]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_converted_from_keras_3_with_a_class_of_the_users(model, dtype):
    """What its layers are is told by what they hold."""
    config = functional("m", norm("b", epsilon=0.1), entry("Block", "blk", registered="lab>Block"))
    weights = {**{f"layers/batch_normalization/vars/{i}": array for i, array in enumerate(A.values())},
               **{f"layers/block/norm/vars/{i}": (np.abs(array) * 100).astype(dtype) for i, array in enumerate(B.values())}}
    bundle = read(model(config, weights, topology={"keras_version": "3.4.1", "model_config": config}))
    assert bundle.paths() == (["b", "blk/norm"] if dtype == "float32" else ["b"])


def test_a_weight_of_more_channels_than_any_model_has(model):
    weights = {**named("bn", A), "bn/gamma": np.ones((1 << 21), "f4")}
    with pytest.raises(FormatError, match="expected at most 1048576 values, got shape"):
        read(model(functional("m", norm("bn")), weights, cut=1 << 24))


def test_shards_that_became_shorter(model, monkeypatch):
    """Between the look at their sizes and the reading."""
    path = model(functional("m", norm("bn")), named("bn", A))
    size = Place.size
    monkeypatch.setattr(Place, "size", lambda place: size(place) + (4 if place.name.endswith(".bin") else 0))
    manifest = json.loads(path.read_text())
    manifest["weightsManifest"][0]["weights"].insert(0, {"name": "more/bias", "shape": [1], "dtype": "float32"})
    path.write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="moving_variance: the shards end inside this weight"):
        read(path)


def test_a_batch_norm_of_a_class_that_is_called_like_another_with_a_number(model):
    """The scope bn_1 could be that of bn, which has another."""
    bundle = read(model(functional("m", entry("Block", "b"), norm("bn", epsilon=0.1)), {**named("bn", A), **named("bn_1", B)}))
    assert shown(bundle) == {"bn": (0.1, given(A)), "bn_1": (None, given(B))}

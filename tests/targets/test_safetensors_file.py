"""The tensors and the metadata of a .safetensors file, in the names of Keras and of PyTorch; and that only valid documents are written."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.errors import BundleError, OutputError
from exporter.formats.safetensors import parse
from exporter.targets import target_for
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import bits, make_bundle, make_layer


def written(*layers, **options):
    metadata, tensors = parse(target_for("b.safetensors").write(make_bundle(*layers), WriteOptions(**options)))
    return metadata, {name: (tensor.dtype, tensor.shape, bytes(tensor.data)) for name, tensor in tensors.items()}


@pytest.mark.parametrize(("dtype", "kind", "one"), [
    ("float16", "F16", b"\0\x3c"), ("bfloat16", "BF16", b"\x80\x3f"), ("float32", "F32", b"\0\0\x80\x3f"),
    ("float64", "F64", b"\0\0\0\0\0\0\xf0\x3f")])
@pytest.mark.parametrize("missing", [(), ("gamma",), ("beta",), ("gamma", "beta")])
def test_what_load_state_dict_takes(dtype, kind, one, missing):
    """An absent gamma is ones, an absent beta zeros, and nothing was counted."""
    layer = make_layer("a/bn", dtype=dtype, epsilon=0.25, momentum=0.97).replace(**dict.fromkeys(missing))
    metadata, tensors = written(layer, names="torch")
    assert {name: value for name, value in metadata.items() if name != "bn-bundle"} == {
        "format": "pt", "a/bn.eps": "0.25", "a/bn.momentum": "0.03"}
    assert tensors.pop("a/bn.num_batches_tracked") == ("I64", (), bytes(8))
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    assert tensors.keys() == {f"a/bn.{name}" for name in names}
    assert {tensor[:2] for tensor in tensors.values()} == {(kind, (4,))}
    assert [tensors["a/bn.weight"][2] == 4 * one, tensors["a/bn.bias"][2] == bytes(4 * len(one))] == [
        "gamma" in missing, "beta" in missing]
    if dtype == "float32":
        assert tensors["a/bn.running_var"][2] == bits(layer.moving_variance, dtype)


def test_the_names_of_keras():
    layers = [make_layer("a", shape=(2, 3), axis=(1, 2), beta=False), make_layer("b", momentum=None)]
    metadata, tensors = written(*layers)
    assert list(metadata) == ["bn-bundle"]
    assert {name: (shape, data) for name, (_, shape, data) in tensors.items()} == {
        f"{layer.path}/{name}": (layer.shape, values.tobytes()) for layer in layers for name, values in layer.parameters().items()}
    assert "b.momentum" not in written(layers[1], names="torch")[0]
    with pytest.raises(OutputError, match=r"a: torch\.nn.BatchNorm has one axis, but this layer has 2"):
        written(layers[0], names="torch")


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize(("field", "value"), [("momentum", "0.9"), ("assumed", (1,))])
def test_what_breaks_the_schema_is_not_written(suffix, field, value):
    """The gate looks at what the formula uses."""
    layer = make_layer()
    object.__setattr__(layer, field, value)
    with pytest.raises(BundleError, match=field):
        target_for(f"b{suffix}").write(make_bundle(layer), WriteOptions())


@pytest.mark.parametrize("vectors", [True, False])
def test_vectors_are_in_the_document(vectors):
    import json

    (entry,) = json.loads(written(make_layer(), vectors=vectors)[0]["bn-bundle"])["layers"]
    assert ("vectors" in entry) is vectors
    assert entry["gamma"] == "encoder/bn_1/gamma"
    if vectors:
        assert np.float32(entry["vectors"]["output"]).shape == (2, 4)

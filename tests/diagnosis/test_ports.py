"""Other frameworks' forms of a batch norm: each is read, and what is damaged is refused with the reason."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import time

import numpy as np
import pytest

import exporter
from exporter.batchnorm.stored import Statistic, Unusable
from exporter.diagnosis import ports
from exporter.diagnosis.ports import onnx_graph
from exporter.diagnosis.ports.port import of_bundle
from exporter.diagnosis.ports.state import parted
from exporter.files.place import Place
from tests.make.layers import make_bundle, make_layer, make_stored
from tests.make.ports import flax_state, msgpack, onnx_model, torch_state


@pytest.fixture
def two():
    return make_bundle(make_layer("stem/bn_1", seed=1), make_layer("bn_2", shape=(3,), seed=2, epsilon=1e-5))


def npy(array):
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def nested(arrays):
    tree = {}
    for name, values in arrays.items():
        *folders, last = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = values
    return tree


def written(path, form, bundle):
    if form == "torch.npz":
        np.savez(path, **torch_state(*bundle))
    elif form == "torch.safetensors":
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(values) for name, values in torch_state(*bundle).items()}, str(path))
    elif form in ("torch.pt", "torch_old.pt"):
        torch = pytest.importorskip("torch")
        state = {name: torch.tensor(values) for name, values in torch_state(*bundle).items()}
        content = {"state_dict": {**state, "fc.weight": torch.zeros(4, 4)}, "epoch": 3}
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch.pt")
    elif form == "flax.npz":
        np.savez(path, **flax_state(*bundle))
    elif form == "flax.msgpack":
        path.write_bytes(msgpack(nested(flax_state(*bundle))))
    elif form == "m.onnx":
        path.write_bytes(onnx_model(*bundle))
    else:
        exporter.write(bundle, path)


FORMS = ["torch.npz", "torch.safetensors",
         *(pytest.param(name, marks=pytest.mark.thorough("PyTorch")) for name in ("torch.pt", "torch_old.pt")),
         "flax.npz", "flax.msgpack", "m.onnx", "m.csv", "m.h"]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_holds_the_same_numbers(two, tmp_path, form):
    written(tmp_path / form, form, two)
    port = ports.read(Place(tmp_path / form))
    assert len(port.layers) == 2
    for layer, ported in zip(two, sorted(port.layers, key=lambda one: -one.channels)):
        for name, values in layer.parameters().items():
            assert np.array_equal(ported.arrays[name].astype(np.float64), values.astype(np.float64)), name
        held = ported.epsilon
        assert held is None if form.startswith(("torch", "flax")) else np.float32(held) == np.float32(layer.epsilon)
    found = exporter.compare(two, tmp_path / form)
    assert found.same, found.text()
    assert found.text().endswith("the 2 layers are equal bit for bit\n") or "after rounding to float32" in found.text()


def test_layers_that_cannot_be_used_are_compared_where_they_have_a_variance(two):
    odd = [Unusable(make_stored(path, statistic=statistic), f"why {path}") for path, statistic in (
        ("a", Statistic.VARIANCE), ("b", Statistic.DEVIATION), ("c", Statistic.EPSILON_OUTSIDE))]
    port = of_bundle(two.replace(unusable=tuple(odd)), "m.h5", unsaid=["bn_2"])
    assert [(layer.path, layer.epsilon) for layer in port.layers] == [("stem/bn_1", 1e-3), ("bn_2", None), ("a", 1e-3)]
    assert port.notes == ("a cannot be used: why a", "m.h5 does not contain epsilon (bn_2), so it was not compared; --epsilon gives it")


@pytest.mark.parametrize(("name", "path", "role"), [
    ("a.b.weight", "a.b", "gamma"), ("module.bn.running_var", "module.bn", "moving_variance"), ("bn/mean/value", "bn", "moving_mean"),
    ("params/Block_0/BatchNorm_1/scale", "Block_0/BatchNorm_1", "gamma"), ("batch_stats/BatchNorm_1/var", "BatchNorm_1", "moving_variance"),
    ("bn.num_batches_tracked", "bn", None), ("bn/gamma:0", "bn", "gamma"), ("arg:bn0_gamma", "bn0", "gamma"),
    ("aux:bn0_moving_var", "bn0", "moving_variance"), ("bn/~/mean_ema/average", "bn", "moving_mean"), ("bn/~/var_ema/hidden", "", None),
    ("bn._variance", "bn", "moving_variance"), ("bn/TrainedMean", "bn", "moving_mean"), ("gamma", "", "gamma"), ("kernel", "", None)])
def test_names_of_frameworks(name, path, role):
    found = parted(name)
    assert found[1] == role
    if role is not None:
        assert found[0] == path


@pytest.mark.thorough("PyTorch")
def test_tensors_in_memory(two):
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(values) for name, values in torch_state(*two).items()}
    found = exporter.compare(two, state)
    assert found.same
    assert "set eps=0.001, momentum=0.01 for stem/bn_1" in found.text()
    assert "set eps=1e-05, momentum=0.01 for bn_2" in found.text()
    assert exporter.compare(two, nested(flax_state(*two))).same


@pytest.mark.thorough("PyTorch")
def test_half_types_in_safetensors(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    layer = make_layer("bn", dtype="bfloat16", seed=4)
    save_file({name: torch.tensor(values).to(torch.bfloat16 if values.dtype == np.float32 else torch.int64)
               for name, values in torch_state(layer).items()}, str(tmp_path / "s.safetensors"))
    found = exporter.compare(make_bundle(layer), tmp_path / "s.safetensors")
    assert found.same
    assert not found.pairs[0].rounding


def test_onnx_forms(two, tmp_path):
    (tmp_path / "m.onnx").write_bytes(onnx_model(*two, raw=False, names=""))
    assert exporter.compare(two, tmp_path / "m.onnx").same
    (tmp_path / "m.onnx").write_bytes(onnx_model(*two, names="", epsilon=1e-3))
    assert [one.what for one in exporter.compare(two, tmp_path / "m.onnx").differences] == ["epsilon"]
    exporter.write(two, tmp_path / "ours.onnx")
    found = exporter.compare(two, tmp_path / "ours.onnx")
    assert found.same, found.text()
    assert [pair.how for pair in found.pairs] == ["by path", "by path"]


@pytest.mark.parametrize(("name", "scale", "path"), [
    ("/enc/bn/BatchNormalization", "x", "enc/bn"), ("/bn/batchnorm/add_1", "x", "bn/batchnorm/add_1"), ("enc/bn", "x", "enc/bn"),
    ("BatchNormalization_3", "enc.bn.weight", "enc.bn"), ("BatchNormalization_3", "enc/bn/gamma", "enc.bn"),
    ("BatchNormalization_3", "bn.scale", "bn"), ("BatchNormalization_3", "const.5", "BatchNormalization_3"),
    ("BatchNormalization_3", "weight", "BatchNormalization_3"), ("", "weight", ""), ("FusedBatchNormV3", "enc/bn/gamma", "enc.bn"),
    ("FusedBatchNormV3", "x", "FusedBatchNormV3"), ("/bn/FusedBatchNormV3/BatchNormalization", "x", "bn"),
    ("BatchNormalization/relu", "bn.weight", "BatchNormalization/relu")])
def test_the_path_of_an_onnx_node(name, scale, path):
    assert onnx_graph._path(name, scale) == path


def test_what_else_an_onnx_graph_contains(two, tmp_path):
    """An attribute of older operators is no training mode; only floats may be the offset of a folded layer."""
    import onnx

    model = onnx.load_from_string(onnx_model(*two))
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("spatial", 1))
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("training_mode", 0))
    model.graph.node[0].domain = "ai.onnx"
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["half"], value_float=0.5))
    foreign = model.graph.node.add()
    foreign.CopyFrom(model.graph.node[0])
    foreign.domain, foreign.name = "com.example", "another_operator"
    for other, values in (("fc.bias", np.ones(3, "f4")), ("one", np.float32(2)), ("shape", np.array([2, 3])),
                          ("row", np.ones((1, 1, 3), "f4")), ("counts", np.ones(3, "i4")), ("kernel", np.ones((3, 4), "f4"))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), other))
    onnx.save(model, tmp_path / "m.onnx")
    port = onnx_graph.read(Place(tmp_path / "m.onnx"))
    assert [layer.path for layer in port.layers] == [layer.name for layer in two]
    assert port.others.keys() - {name for layer in port.layers for name in layer.called.values()} == {"fc.bias", "one", "row"}


def test_onnx_in_training_mode_is_not_compared(two, tmp_path):
    import onnx

    model = onnx.load_from_string(onnx_model(*two))
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("training_mode", 1))
    onnx.save(model, tmp_path / "m.onnx")
    found = exporter.compare(two, tmp_path / "m.onnx")
    assert [(one.path, one.what) for one in found.differences] == [("bn_2", "missing")]
    assert "normalizes by the batch" in found.text()
    model = onnx.load_from_string(onnx_model(*two))
    model.opset_import[0].version = 9
    for outputs, differences in ((["mean", "var", "saved_mean", "saved_var"], [("stem/bn_1", "missing")]), ([""] * 4, [])):
        del model.graph.node[0].output[1:]
        model.graph.node[0].output.extend(outputs)
        onnx.save(model, tmp_path / "m.onnx")
        assert [(one.path, one.what) for one in exporter.compare(two, tmp_path / "m.onnx").differences] == differences, "unnamed: unused"


def changed_onnx(path, change):
    """A model of one layer, whose graph `change` changes."""
    import onnx

    model = onnx.load_from_string(onnx_model(make_layer("bn")))
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("change", "what"), [
    (lambda graph: graph.node[0].input.pop(), "expected 5 inputs of BatchNormalization, got 4"),
    (lambda graph: graph.initializer[0].dims.__setitem__(0, 3), "expected 3 numbers, got 4"),
    (lambda graph: setattr(graph.initializer[0], "raw_data", bytes(15)), "expected a multiple of 4 bytes, got 15"),
    (lambda graph: (graph.initializer[0].dims.__setitem__(0, 3), setattr(graph.initializer[0], "raw_data", bytes(12))),
     r"expected arrays of one length, got \[3, 4\]")], ids=["inputs", "shape", "bytes", "lengths"])
def test_nodes_and_tensors_of_onnx_that_are_refused(tmp_path, change, what):
    with pytest.raises(exporter.FormatError, match=what):
        ports.read(Place(changed_onnx(tmp_path / "m.onnx", change)))


def test_an_onnx_graph_whose_parameters_are_computed_is_refused_with_the_reason(tmp_path):
    def computed(graph):
        graph.initializer.pop(0)
        for _ in range(3):
            graph.initializer.pop()

    with pytest.raises(exporter.UnsupportedError, match="contains no BatchNormalization node: bn: its bn_gamma is computed in the graph"):
        ports.read(Place(changed_onnx(tmp_path / "m.onnx", computed)))


def test_a_constant_that_an_identity_hands_on(tmp_path):
    import onnx

    def handed_on(graph):
        graph.node.insert(0, onnx.helper.make_node("Identity", ["bn_gamma"], ["handed"]))
        graph.node[1].input[1] = "handed"

    (layer,) = ports.read(Place(changed_onnx(tmp_path / "m.onnx", handed_on))).layers
    assert layer.arrays["gamma"].tobytes() == make_layer("bn").gamma.tobytes()


def test_an_epsilon_in_the_metadata_of_safetensors(two, tmp_path):
    from safetensors.numpy import save_file

    state = {name: np.ascontiguousarray(values) for name, values in torch_state(*two).items()}
    save_file({**state, "quantized": np.zeros(3, np.int8)}, str(tmp_path / "s.safetensors"), {"bn_1.eps": "0.001", "bn_2.eps": "1e-05"})
    assert [layer.epsilon for layer in ports.read(Place(tmp_path / "s.safetensors")).layers] == [0.001, 1e-05]
    save_file(state, str(tmp_path / "s.safetensors"), {"bn_1.eps": "small"})
    with pytest.raises(exporter.FormatError, match=r"expected a number for 'bn_1\.eps' of the metadata, got 'small'"):
        ports.read(Place(tmp_path / "s.safetensors"))


def test_external_data_is_named(two, tmp_path):
    import onnx

    model = onnx.load_from_string(onnx_model(*two))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    with pytest.raises(exporter.UnsupportedError, match="external data"):
        exporter.compare(two, tmp_path / "m.onnx")


@pytest.mark.thorough("PyTorch")
def test_a_checkpoint_that_holds_more_than_tensors_is_refused(two, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.BatchNorm1d(4), tmp_path / "whole.pt")
    with pytest.raises(exporter.UnsupportedError, match="more than tensors") as caught:
        exporter.compare(two, tmp_path / "whole.pt")
    assert "state_dict" in caught.value.hint


def test_damaged_files_are_refused(two, tmp_path):
    for form in ("torch.npz", "flax.msgpack", "m.onnx", "torch.safetensors"):
        path = tmp_path / form
        written(path, form, two)
        data = path.read_bytes()
        for size in (len(data) // 3, len(data) // 2, len(data) - 3):
            path.write_bytes(data[:size])
            with pytest.raises(exporter.ExporterError):
                exporter.compare(two, path)


@pytest.mark.parametrize(("content", "message"), [
    ("path,channel,epsilon,gamma,beta,moving_mean,moving_variance\nbn,0,0.001,1,0,0\n", "expected 7 cells, got 6"),
    ("path,channel,epsilon,gamma,beta,moving_mean,moving_variance\nbn,1,0.001,1,0,0,1\n", "channels 0 to 0"),
    ("path,channel,epsilon,moving_mean,moving_variance\nbn,0,0.001,x,1\n", "expected a number for moving_mean, got 'x'"),
    ("path,channel,epsilon,moving_mean,moving_variance\nbn,0,0.001,1,1\nbn,1,0.002,1,1\n", "one epsilon a layer"),
    ("path,moving_mean,moving_variance\nbn,1,\n", "empty cells"),
    (f"path,moving_mean,moving_variance\n{'x' * 200_000},1,1\n", "expected a table of comma-separated values: field larger than")])
def test_tables_that_are_refused(two, tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(exporter.FormatError, match=message):
        exporter.compare(two, tmp_path / "t.csv")


def test_tables_of_ones_own(tmp_path):
    layer = make_layer("bn", shape=(2,), seed=3)
    rows = zip(*(layer.parameters()[name].tolist() for name in ("moving_variance", "beta", "moving_mean", "gamma")))
    (tmp_path / "t.csv").write_text("\ufeffvar;bias;mean;weight\r\n" + "".join(";".join(map(repr, row)) + "\r\n" for row in rows), "utf-8")
    assert exporter.compare(make_bundle(layer), tmp_path / "t.csv", map={"bn": ""}).same


@pytest.mark.parametrize(("old", "new", "message"), [
    ("static const float", "static const float _again[1] = {1}; static const float", None),
    ("0x1", "zero", "expected a floating constant"), ("_gamma[", "_beta[", "occurs twice")])
def test_headers(two, tmp_path, old, new, message):
    exporter.write(two, tmp_path / "m.h")
    text = (tmp_path / "m.h").read_text()
    (tmp_path / "m.h").write_text(text.replace(old, new, 1))
    if message is None:
        assert exporter.compare(two, tmp_path / "m.h").same
    else:
        with pytest.raises(exporter.FormatError, match=message):
            exporter.compare(two, tmp_path / "m.h")


def test_paths_in_a_header_with_spaces_and_the_words_around_them(tmp_path):
    names = ["bn", "bn ", " bn", "bn: shape 3", "*/ enum { x_channels", "\u00e9"]
    bundle = make_bundle(*[make_layer(name, seed=seed, epsilon=0.1 + seed) for seed, name in enumerate(names)])
    exporter.write(bundle, tmp_path / "m.h")
    assert [layer.path for layer in ports.read(Place(tmp_path / "m.h")).layers] == names
    assert exporter.compare(bundle, tmp_path / "m.h").same


@pytest.mark.parametrize("text", [
    "/* ", "/**/", "const ", "[  ", "const float a_gamma[1] ", "const float a_gamma[1]={ ", "const float a_gamma[1]= x "])
def test_a_header_takes_time_in_proportion_to_its_length(tmp_path, text):
    (tmp_path / "m.h").write_text("const float a_moving_mean[1] = {1.0f};\nconst float a_moving_variance[1] = {1.0f};\n" + text * 50_000)
    began = time.process_time()
    with contextlib.suppress(exporter.FormatError):
        assert len(ports.read(Place(tmp_path / "m.h")).layers) == 1
    assert time.process_time() - began < 5


def test_a_state_in_json(two, tmp_path):
    """As of {name: tensor.tolist() for name, tensor in model.state_dict().items()}."""
    state = {name: values.tolist() for name, values in torch_state(*two).items()}
    (tmp_path / "n.json").write_text(json.dumps({**state, "fc.weight": [[1, 2], [3, 4]]}))
    assert exporter.compare(two, tmp_path / "n.json").same
    (tmp_path / "n.json").write_text(json.dumps({**state, next(iter(state)): "all"}))
    with pytest.raises(exporter.FormatError, match="expected numbers for"):
        exporter.compare(two, tmp_path / "n.json")


def test_numbers_in_json(two, tmp_path):
    content = {layer.path: {"scale": layer.gamma.tolist(), "offset": layer.beta.tolist(), "mean": layer.moving_mean.tolist(),
                            "var": layer.moving_variance.tolist(), "eps": layer.epsilon} for layer in two}
    (tmp_path / "n.json").write_text(json.dumps({"layers": content}))
    assert exporter.compare(two, tmp_path / "n.json").same


@pytest.mark.parametrize("data", [
    b"\x81\xa1a", b"\x81\xa1a\xc7", b"\x82\xa1a\x01\xa1a\x01", b"\x81\xa1a\xc1", b"\x81\xa1a\xc7\x02\x01\x93\x90",
    b"\x81\xa4mean\xdd\xff\xff\xff\xff", b"\x81\xa1a" + b"\x91" * 80 + b"\x01", b"\x81\xa1a\x01\x01",
    b"\x81\xa1a\xc9" + struct.pack(">I", 30) + b"\x01" + msgpack([[3], "float32", b"1234567890123456789"])[:29]])
def test_msgpack_that_is_no_tree_of_arrays(two, tmp_path, data):
    (tmp_path / "f.msgpack").write_bytes(data)
    with pytest.raises(exporter.ExporterError):
        exporter.compare(two, tmp_path / "f.msgpack")


def test_two_arrays_for_one_place_are_refused(two):
    state = {**torch_state(two["bn_2"]), "bn_2.gamma": np.ones(3)}
    with pytest.raises(exporter.FormatError, match=r"both 'bn_2\.weight' and 'bn_2\.gamma' may be its gamma"):
        exporter.compare(two, state)
    with pytest.raises(exporter.FormatError, match="arrays of one length"):
        exporter.compare(two, {**torch_state(two["bn_2"]), "bn_2.bias": np.ones(4)})
    with pytest.raises(exporter.UnsupportedError, match="expected arrays of batch norms"):
        exporter.compare(two, {"kernel": np.ones(3)})
    with pytest.raises(exporter.FormatError, match=r"two values of epsilon, 0\.001 and 0\.01"):
        exporter.compare(two, {**torch_state(two["bn_2"]), "bn_2.eps": np.array(1e-3), "bn_2.epsilon": np.array([1e-2])})


def test_two_arrays_of_one_path_are_refused(two, tmp_path):
    """A key of flax's tree can contain the "/" that joins keys."""
    tree = nested(flax_state(two["bn_2"]))
    (tmp_path / "f.msgpack").write_bytes(msgpack({**tree, "params/BatchNorm_0/scale": np.ones(3, np.float32)}))
    with pytest.raises(exporter.FormatError, match="two arrays are named 'params/BatchNorm_0/scale'"):
        exporter.compare(two, tmp_path / "f.msgpack")


def test_a_state_without_channels(two, tmp_path):
    np.savez(tmp_path / "s.npz", **{name: values[:0] for name, values in torch_state(two["bn_2"]).items() if values.ndim})
    with pytest.raises(exporter.FormatError, match="at least one channel, got 0"):
        exporter.compare(two, tmp_path / "s.npz")


@pytest.mark.parametrize(("data", "words"), [(b"nothing", r"\.npy array"), (b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}", r"\.npy array"),
                                             (b"\x93NUMPY\x09\x00", r"\.npy array"),
                                             (npy(np.zeros(4, "f4"))[:-1], r"expected 16 bytes of numbers for shape \[4\], got 15")])
def test_an_array_that_is_none(two, tmp_path, data, words):
    import zipfile

    np.savez(tmp_path / "s.npz", **{name: values for name, values in torch_state(*two).items() if not name.endswith("bn_1.weight")})
    name = next(name for name in torch_state(*two) if name.endswith("bn_1.weight"))
    with zipfile.ZipFile(tmp_path / "s.npz", "a") as archive:
        archive.writestr(f"{name}.npy", data)
    with pytest.raises(exporter.FormatError, match=words):
        exporter.compare(two, tmp_path / "s.npz")


def test_objects_are_never_unpickled(two, tmp_path):
    np.savez(tmp_path / "o.npz", weight=np.array({"a": 1}, object), mean=np.ones(3))
    with pytest.raises(exporter.UnsupportedError, match="pickle"):
        exporter.compare(two, tmp_path / "o.npz")


@pytest.mark.parametrize(("node", "scale", "path"), [
    ("/stem/bn/BatchNormalization", "x", "stem/bn"), ("/bn/FusedBatchNormV3", "x", "bn"),
    ("BatchNormalization_7", "stem.bn.weight", "stem.bn"), ("BatchNormalization_7", "stem/bn/gamma", "stem.bn"),
    ("BatchNormalization_7", "stem.bn.scale", "stem.bn"), ("BatchNormalization_7", "onnx::Mul_3", "BatchNormalization_7"),
    ("model/bn/batchnorm/add_1", "x", "model/bn/batchnorm/add_1"), ("bn", "other.weight", "bn"), ("", "x", "bn_y")])
def test_the_path_is_in_the_name_of_the_node_or_of_its_scale(tmp_path, node, scale, path):
    import onnx

    model = onnx.load_from_string(onnx_model(make_layer("bn")))
    (one,), tensors = model.graph.node, model.graph.initializer
    tensors[0].name = one.input[1] = scale
    one.name = node
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (layer,) = ports.read(Place(tmp_path / "m.onnx")).layers
    assert layer.path == path


@pytest.mark.parametrize(("dtype", "raw"), [("float16", True), ("float32", True), ("float32", False), ("float64", True),
                                            ("float64", False), ("bfloat16", True), ("float16", False), ("bfloat16", False)])
def test_each_type_of_numbers_in_onnx(tmp_path, dtype, raw):
    import onnx
    from onnx import numpy_helper

    layer = make_layer("bn", dtype=dtype)
    model = onnx.load_from_string(onnx_model(make_layer("bn")))
    for tensor, values in zip(model.graph.initializer, layer.parameters().values(), strict=True):
        kind = {"float16": onnx.TensorProto.FLOAT16, "float32": onnx.TensorProto.FLOAT, "float64": onnx.TensorProto.DOUBLE,
                "bfloat16": onnx.TensorProto.BFLOAT16}[dtype]
        if dtype == "bfloat16" and raw:
            made = onnx.helper.make_tensor(tensor.name, kind, values.shape, (values.view("<u4") >> 16).astype("<u2").tobytes(), raw=True)
        else:
            made = (numpy_helper.from_array(values, tensor.name) if raw else
                    onnx.helper.make_tensor(tensor.name, kind, values.shape, values.tolist()))
        tensor.CopyFrom(made)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found = exporter.compare(make_bundle(layer), tmp_path / "m.onnx")
    assert found.same, found.text()


def test_a_function_without_a_description_is_called_by_its_name(two, tmp_path):
    import onnx

    exporter.write(two, tmp_path / "ours.onnx")
    model = onnx.load(tmp_path / "ours.onnx")
    for function in model.functions:
        function.ClearField("doc_string")
    onnx.save(model, tmp_path / "m.onnx")
    assert [layer.path for layer in onnx_graph.read(Place(tmp_path / "m.onnx")).layers] == [function.name for function in model.functions]


def test_batch_norms_of_a_branch(two, tmp_path):
    import onnx
    from onnx import helper

    inner = onnx.load_from_string(onnx_model(*two)).graph
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=helper.make_graph([], "e", [], []))
    onnx.save(helper.make_model(helper.make_graph([choice], "g", [], [])), tmp_path / "m.onnx")
    assert [layer.path for layer in onnx_graph.read(Place(tmp_path / "m.onnx")).layers] == [layer.name for layer in two]


def test_an_onnx_node_without_an_epsilon_has_the_operators(tmp_path):
    def without(graph):
        del graph.node[0].attribute[:]

    (layer,) = ports.read(Place(changed_onnx(tmp_path / "m.onnx", without))).layers
    assert layer.epsilon == float(np.float32(1e-5))


def test_an_onnx_graph_into_which_all_batch_norms_were_folded(tmp_path):
    def fold(graph):
        del graph.node[:]

    port = ports.read(Place(changed_onnx(tmp_path / "m.onnx", fold)))
    assert port.layers == ()
    assert len(port.others) == 4


def test_what_only_begins_like_an_onnx_model_is_none(tmp_path):
    for name, data in (("damaged", b"\x08\x08\xff\xff"), ("short", b"\x08\x08"), ("empty", b"\x08\x08\x10\x01"),
                       ("saved", b"\x08\x01\x3a\x00")):
        (tmp_path / name).write_bytes(data)
        assert not onnx_graph.claims(Place(tmp_path / name)), name
    (tmp_path / "model").write_bytes(b"\x08\x03\x3a\x00")
    assert onnx_graph.claims(Place(tmp_path / "model"))


def test_the_graphs_inside_of_nodes_follow_level_by_level(tmp_path):
    import onnx

    def graph(name, *inner):
        nodes = [onnx.helper.make_node("BatchNormalization", ["x", "s", "s", "s", "s"], [name], name=name)]
        nodes += [onnx.helper.make_node("If", ["c"], [f"{each.name}_out"], then_branch=each) for each in inner]
        tensors = [onnx.numpy_helper.from_array(np.ones(2, "f4"), "s")] if name == "main" else []
        return onnx.helper.make_graph(nodes, name, [], [], tensors)

    whole = graph("main", graph("a", graph("a_inner")), graph("b"))
    (tmp_path / "m").write_bytes(onnx.helper.make_model(whole).SerializeToString())
    assert [layer.path for layer in onnx_graph.read(Place(tmp_path / "m")).layers] == ["main", "a", "b", "a_inner"]

"""Each kind of output, proven by the program it is made for; a program that is not installed is a visible skip."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors
from exporter.batchnorm.origin import Origin
from exporter.errors import MissingExtra, OutputError
from exporter.files.place import MAX_HEAD
from exporter.targets import SUFFIXES, c_header, is_export, numpy_npz, onnx_model, target_for
from exporter.targets.shared.names import MAX_STEM_LENGTH, identifiers
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import ROOT, make_bundle, make_layer, mixed

CONFORMANCE = ROOT / "vectors" / "batchnorm-1.json"
NASTY = ["*/ evil /*", "??/", "a\\nb", "größe/π bn", "3d conv", "", "a b", "a_b", "a/b", '"', "=cmd()", "line\nbreak", "int", "_x",
         "x" * 200, "x" * 201]


def within_bound(layer, x, got, want, dtype=None):
    """x, got, want: (rows, channels)."""
    error = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))
    assert (error <= vectors.bound(layer, x, dtype)).all(), f"{layer.path}: {(error / vectors.bound(layer, x, dtype)).max()} of the bound"


@pytest.mark.parametrize("suffix", [".json", ".npz", ".safetensors", ".onnx", ".h", ".csv", ".md", ".zip"])
def test_equal_bundles_give_equal_bytes(suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    target = target_for(f"x{suffix}")
    assert target.write(mixed(), WriteOptions()) == target.write(mixed(), WriteOptions())


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != "/"])
def test_what_a_target_writes_begins_with_its_mark(suffix):
    """By which `--out-dir` knows what it may replace."""
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    name = f"x{suffix}"
    for bundle in (mixed(), make_bundle(make_layer(shape=(1,))).replace(origin=Origin(file="ü" * 400, kind="k"))):
        assert is_export(name, target_for(name).write(bundle, WriteOptions())[:MAX_HEAD])
    for other in (b"", b"{}", b"PK\3\4", b"a,b\n1,2\n", b"<!DOCTYPE html>\n<title>mine</title>", b"# notes on bn-export\n", b"\x08\x08"):
        assert not is_export(name, other)


@pytest.mark.parametrize(("suffix", "words", "message"), [
    (".npz", ["--names", "torch"], "--names torch requires an output of .safetensors, got .npz"),
    (".json", ["--folded"], "--folded requires an output of .h or .zip or /, got .json"),
    (".json", ["--plain"], "--plain requires an output of .onnx, got .json"),
    (".npz", ["--axis", "1"], "--axis 1 requires an output of .onnx, got .npz"),
    (".zip", ["--no-vectors"], "--no-vectors requires an output of .json or .npz or .safetensors "
                                "or .onnx or .h or .csv or .md or .html or .htm, got .zip"),
    (".xyz", [], "unknown suffix '.xyz' of the output's name")])
def test_options_that_do_not_go_together_are_refused_alike(suffix, words, message, tmp_path, run, monkeypatch):
    """By the command, for many, and by the library: nothing is written."""
    from exporter.commands.export import export

    monkeypatch.chdir(tmp_path)
    exporter.write(make_bundle(), tmp_path / "b.json")
    options = {"--plain": {"plain": True}, "--axis": {"axis": 1}, "--names": {"names": "torch"}, "--folded": {"folded": True},
               "--no-vectors": {"vectors": False}}[words[0]] if words else {}
    for call in (["b.json", f"out{suffix}", *words], ["b.json", "--out-dir", "d", "--suffix", suffix, *words]):
        code, out, err = run(export, *call)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {message}\nhint: ")
    with pytest.raises(exporter.UsageError, match=re.escape(message)):
        exporter.write(make_bundle(), f"out{suffix}", **options)
    with pytest.raises(exporter.UsageError, match=re.escape(message)):
        exporter.export_many(["b.json"], "d", suffix=suffix, write_options=exporter.WriteOptions(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path, monkeypatch):
    target = f"{tmp_path}/kit/"
    (tmp_path / "kit").mkdir()
    exporter.write(make_bundle(), target)
    assert (tmp_path / "kit" / "bundle.json").is_file()
    with pytest.raises(OutputError, match="expected a new or empty folder, got one that contains files"):
        exporter.write(make_bundle(), target)
    (tmp_path / "k.zip").mkdir()
    with pytest.raises(OutputError, match="expected the name of a file, got a folder"):
        exporter.write(make_bundle(), tmp_path / "k.zip")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        exporter.write(make_bundle(), f"{tmp_path}/other/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.zip", "kit"]


# --- PyTorch ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough("PyTorch")
@pytest.mark.parametrize(("kind", "inner"), [
    ("BatchNorm1d", ()), ("BatchNorm1d", (5,)), ("BatchNorm2d", (3, 2)), ("BatchNorm3d", (2, 1, 3))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("has", [{}, {"gamma": False}, {"beta": False}, {"gamma": False, "beta": False}])
def test_load_state_dict_takes_the_tensors(kind, inner, dtype, has, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors")
    layer = make_layer("encoder/bn_1", dtype=dtype, shape=(6,), epsilon=2e-3, momentum=0.97, seed=7, **has)
    exporter.write(make_bundle(layer, make_layer("other")), tmp_path / "b.safetensors", WriteOptions(names="torch"))
    with safetensors.safe_open(tmp_path / "b.safetensors", "pt") as file:
        said = file.metadata()
        state = {name.removeprefix("encoder/bn_1."): file.get_tensor(name) for name in file.keys() if name.startswith("encoder/bn_1.")}  # noqa: SIM118
    eps, momentum = float(said["encoder/bn_1.eps"]), float(said["encoder/bn_1.momentum"])
    assert (eps, momentum) == (2e-3, 0.03)
    module = getattr(torch.nn, kind)(6, eps=eps, momentum=momentum, dtype=getattr(torch, dtype))
    module.load_state_dict(state, strict=True)
    assert int(module.num_batches_tracked) == 0
    module.eval()
    rows, want = vectors.make(layer)
    x = np.broadcast_to(rows.reshape(2, 6, *(1 for _ in inner)), (2, 6, *inner))
    y = module(torch.from_numpy(x.copy())).detach().numpy()
    for place in np.ndindex(*inner):
        within_bound(layer, rows, y[(slice(None), slice(None), *place)], want)


def test_a_layer_of_two_axes_has_no_module_in_pytorch(tmp_path):
    with pytest.raises(OutputError, match=r"d: torch.nn.BatchNorm has one axis, but this layer has 2"):
        exporter.write(mixed(), tmp_path / "b.safetensors", WriteOptions(names="torch"))
    assert not list(tmp_path.iterdir())


# --- ONNX ---------------------------------------------------------------------------------------------------------------------------------


def onnx_tools():
    return pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")


def session(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_onnx_runtime_gives_the_vectors(tmp_path):
    onnx, _ = onnx_tools()
    layers = [make_layer("a", ndim=2, seed=1), make_layer("b c/é", ndim=4, axis=(3,), gamma=False, seed=2),
              make_layer("d", ndim=4, axis=(1,), dtype="float64", beta=False, seed=3), make_layer("e", dtype="float16", seed=4)]
    exporter.write(make_bundle(*layers), tmp_path / "b.onnx")
    model = onnx.load(tmp_path / "b.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain: opset.version for opset in model.opset_import}[""] >= 15
    feed = {}
    for layer in layers:
        rows, _ = vectors.make(layer)
        feed[f"{layer.path}/x"] = np.moveaxis(rows.reshape(2, *[1] * ((layer.ndim or 2) - 2), -1), -1, layer.axis[0])
    found = session(model).run([f"{layer.path}/y" for layer in layers], feed)
    for layer, y in zip(layers, found):
        rows, want = vectors.make(layer)
        assert y.dtype == rows.dtype
        within_bound(layer, rows, np.moveaxis(y, layer.axis[0], -1).reshape(2, -1), want)


def merged(onnx, model, function, layer, rank):
    """A model of one's own that calls one of the functions between casts, with an input of a given rank: how a layer is merged."""
    from onnx import TensorProto, helper

    kind = onnx_model._type(layer.dtype)
    plain = TensorProto.FLOAT if layer.dtype == "bfloat16" else kind  # NumPy has no bfloat16
    nodes = [helper.make_node("Cast", ["in"], ["x"], to=kind), helper.make_node(function.name, ["x"], ["y"], domain=function.domain),
             helper.make_node("Cast", ["y"], ["out"], to=plain)]
    ends = [helper.make_tensor_value_info(name, plain, [None] * rank) for name in ("in", "out")]
    graph = helper.make_graph(nodes, "mine", ends[:1], ends[1:])
    mine = helper.make_model(graph, functions=[function], opset_imports=list(model.opset_import), ir_version=model.ir_version)
    onnx.checker.check_model(mine, full_check=True)
    return mine


def test_every_layout_of_the_conformance_file_in_onnx_runtime():
    onnx, _ = onnx_tools()
    bundle = exporter.load(CONFORMANCE)
    model = onnx.load_from_string(onnx_model.write(bundle, WriteOptions()))
    document, count = json.loads(CONFORMANCE.read_text("utf-8")), 0
    for layer, content, function in zip(bundle, document["layers"], model.functions):
        for case in content["cases"]:
            shape, axes = case["shape"], [axis % len(case["shape"]) for axis in layer.axis]

            def rows(values, shape=shape, axes=axes, layer=layer):
                moved = np.moveaxis(np.asarray(values, np.float64).reshape(shape), axes, range(len(shape) - len(axes), len(shape)))
                return moved.reshape(-1, layer.moving_mean.size)

            x = np.array(case["input"]).reshape(shape).astype("float32" if layer.dtype == "bfloat16" else layer.dtype)
            y = session(merged(onnx, model, function, layer, len(shape))).run(None, {"in": x})[0]
            within_bound(layer, rows(case["input"]), rows(y), rows(case["output"]))
            count += 1
    assert count >= 30


@pytest.mark.parametrize(("fields", "right", "wrong"), [
    ({"ndim": 4}, (2, 5, 6, 4), [(2, 4, 6, 5), (2, 4, 5, 8)]), ({}, (3, 4), [(4, 3), (2, 4, 8), (8,)]),
    ({"axis": (3,)}, (2, 5, 6, 4), [(2, 4, 6, 5)]), ({"axis": (2,), "ndim": 4}, (2, 3, 4, 5), [(2, 4, 3, 5), (2, 4, 2, 5)]),
    ({"axis": (1,), "ndim": 4}, (2, 4, 5, 6), [(2, 5, 6, 4)]),
    ({"axis": (1, 2), "shape": (2, 3), "ndim": 4}, (5, 2, 3, 4), [(5, 3, 2, 4), (5, 4, 2, 3), (5, 1, 6, 4)]),
    ({"axis": (-2, -1), "shape": (2, 3)}, (4, 2, 3), [(4, 3, 2), (4, 6, 1)]),
    ({"axis": (1, 3), "shape": (2, 3), "ndim": 4}, (5, 2, 4, 3), [(5, 3, 4, 2), (5, 4, 2, 3)])])
def test_a_tensor_of_another_layout_is_refused(fields, right, wrong):
    onnx, _ = onnx_tools()
    layer = make_layer("bn", **fields)
    model = onnx.load_from_string(onnx_model.write(make_bundle(layer), WriteOptions()))
    for shape in (right, *wrong):
        x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        runs = session(merged(onnx, model, model.functions[0], layer, len(shape)))
        if shape == right:
            assert np.abs(runs.run(None, {"in": x})[0] - layer(x)).max() < 1e-4 * np.abs(layer(x)).max()
        else:
            with pytest.raises(Exception, match="ONNXRuntimeError"):
                runs.run(None, {"in": x})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_channels_may_stand_along_another_axis(dtype, tmp_path):
    """--axis 1: NCHW, of the rank that the file says; a node for each layer and nothing that moves axes."""
    onnx, _ = onnx_tools()
    layers = [make_layer("a", ndim=4, dtype=dtype, seed=1), make_layer("b", ndim=3, axis=(2,), dtype=dtype, seed=2),
              make_layer("c", dtype=dtype)]
    for path, plain in (("f.onnx", False), ("p.onnx", True)):
        exporter.write(make_bundle(*layers), tmp_path / path, axis=1, plain=plain)
        model = onnx.load(tmp_path / path)
        nodes = [node for graph in (model.graph, *model.functions) for node in graph.node]
        assert {node.op_type for node in nodes} & {"Transpose", "Reshape", "Flatten"} == set()
        for layer, given in zip(layers, session(model).get_inputs()):
            shape = [2, 4, 5, 6][:layer.ndim or 2]
            assert [size if isinstance(size, int) else None for size in given.shape] == [None, 4, *[None] * (len(shape) - 2)]
            x = np.random.default_rng(1).normal(size=shape).astype(dtype)
            y = session(model).run([f"{layer.path}/y"], {**feed_of_others(layers, dtype), f"{layer.path}/x": x})[0]
            within_bound(layer, *(np.moveaxis(values, 1, -1).reshape(-1, 4) for values in (x, y, layer(x, axis=1))))


def feed_of_others(layers, dtype):
    return {f"{layer.path}/x": np.zeros([2, 4, 5, 6][:layer.ndim or 2], dtype) for layer in layers}


def test_onnx_runtime_folds_a_layer_along_axis_1_into_a_convolution(tmp_path):
    onnx, onnxruntime = onnx_tools()
    from onnx import TensorProto, helper, numpy_helper

    layer = make_layer("bn", ndim=4)
    model = onnx.load_from_string(onnx_model.write(make_bundle(layer), WriteOptions(axis=1, plain=True)))
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "kernel"))
    model.graph.node.insert(0, helper.make_node("Conv", ["image", "kernel"], ["bn/x"], pads=[1, 1, 1, 1]))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8]))
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}


def test_a_plain_model_has_no_functions_and_gives_the_vectors():
    onnx, _ = onnx_tools()
    bundle = make_bundle(*(layer for layer in mixed() if layer.dtype != "bfloat16"), make_layer("a/b/x", shape=(2, 3), axis=(1, 3), ndim=4))
    model = onnx.load_from_string(onnx_model.write(bundle, WriteOptions(plain=True)))
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
    assert {node.op_type for node in model.graph.node} >= {"BatchNormalization", "Flatten"}
    feed, sizes = {}, {}
    for layer in bundle:
        sizes[layer.path] = layer.ndim or 2
        shape = [2] * sizes[layer.path]
        for axis, size in zip(layer.axis, layer.shape):
            shape[axis] = size
        feed[f"{layer.path}/x"] = np.random.default_rng(2).normal(size=shape).astype(layer.dtype)
    found = session(model).run([f"{layer.path}/y" for layer in bundle], feed)
    for layer, y in zip(bundle, found):
        x, front = feed[f"{layer.path}/x"], range(y.ndim - len(layer.axis), y.ndim)
        within_bound(layer, *(np.moveaxis(values, layer.axis, front).reshape(-1, layer.channels) for values in (x, y, layer(x))))


def openvino_of(path):
    """A function of the input, of a model that OpenVINO has read."""
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().compile_model(str(path), "CPU")
    return lambda x: next(iter(model([x]).values()))


def opencv_of(path):
    cv2 = pytest.importorskip("cv2")
    net = cv2.dnn.readNetFromONNX(str(path))

    def call(x):
        net.setInput(x)
        return net.forward()

    return call


@pytest.mark.parametrize("read", [openvino_of, opencv_of])
@pytest.mark.parametrize(("fields", "axis"), [({"ndim": 4}, 1), ({"ndim": 3, "axis": (2,)}, 1), ({"ndim": 4}, None),
                                              ({"ndim": 4, "axis": (2,)}, None), ({"ndim": 4, "axis": (1, 3), "shape": (2, 3)}, None)])
def test_programs_that_know_no_functions_read_a_plain_model(read, fields, axis, tmp_path):
    layer = make_layer("a/b é", **fields)
    exporter.write(make_bundle(layer), tmp_path / "p.onnx", axis=axis, plain=True)
    axes = layer.axis if axis is None else (axis,)
    shape = [2, 5, 6, 7][:layer.ndim]
    for place, size in zip(axes, layer.shape):
        shape[place] = size
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    y, want = read(tmp_path / "p.onnx")(x), layer(x, axis=axes)
    assert y.shape == want.shape
    ends = range(x.ndim - len(axes), x.ndim)
    within_bound(layer, *(np.moveaxis(values, axes, ends).reshape(-1, layer.channels) for values in (x, y, want)))


@pytest.mark.parametrize(("layer", "axis", "message"), [
    (make_layer("two", shape=(2, 3), axis=(1, 2), ndim=4), 1, "two: expected a layer with one axis for --axis, got 2 axes"),
    (make_layer("flat", ndim=2), 2, "flat: the input has 2 dimensions, but --axis is 2"),
    (make_layer("batch", ndim=4), -4, "batch: the input has 4 dimensions, but --axis is -4")])
def test_an_axis_that_a_layer_cannot_have_is_refused(layer, axis, message, tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(OutputError, match=re.escape(message)):
        exporter.write(make_bundle(layer), tmp_path / "b.onnx", axis=axis)
    with pytest.raises(exporter.UsageError, match="axis 0, which is the batch"):
        exporter.write(make_bundle(layer), tmp_path / "b.onnx", axis=0)


def test_functions_become_plain_nodes():
    onnx, _ = onnx_tools()
    from onnx import inliner

    model = inliner.inline_local_functions(onnx.load_from_string(onnx_model.write(make_bundle(make_layer("bn", ndim=4)), WriteOptions())))
    assert not model.functions
    assert "BatchNormalization" in {node.op_type for node in model.graph.node}
    session(model)


def test_what_onnx_cannot_say_is_refused():
    pytest.importorskip("onnx")
    scattered = make_layer("s", shape=(2, 3), axis=(1, 3))
    with pytest.raises(OutputError, match="are not adjacent, and the file does not specify the rank of the input"):
        onnx_model.write(make_bundle(scattered), WriteOptions())
    assert onnx_model.write(make_bundle(scattered.replace(ndim=4)), WriteOptions())
    tiny = make_layer("t", epsilon=1e-60).replace(moving_variance=np.zeros(4, np.float32))
    with pytest.raises(OutputError, match="epsilon as float32"):
        onnx_model.write(make_bundle(tiny), WriteOptions())


def test_without_the_package_the_error_is_one_line(monkeypatch, tmp_path, run):
    from exporter.commands.export import export

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra):
        onnx_model.write(make_bundle(), WriteOptions())
    exporter.write(make_bundle(), tmp_path / "b.json")
    code, _, err = run(export, tmp_path / "b.json", tmp_path / "b.onnx")
    assert code == 1
    assert err.splitlines() == ["error: writing .onnx needs the package 'onnx', which is not installed",
                                "hint: pip install 'bn-export[onnx]'"]


# --- .h -----------------------------------------------------------------------------------------------------------------------------------

C = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


def compiled(source, folder, *, run=True):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    (folder / "main.c").write_text(source)
    done = subprocess.run(["gcc", *C, "main.c", "-o", "main", "-lm"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return subprocess.run(["./main"], cwd=folder, capture_output=True, text=True, check=True).stdout if run else ""


@pytest.mark.parametrize("options", [WriteOptions(), WriteOptions(folded=True), WriteOptions(vectors=False)])
def test_the_compiler_sees_the_same_bits(options, tmp_path):
    means = [-0.0, 1e-45, 0.1 if options.folded else 3.4028235e38, -1.1754942e-38]
    extreme = make_layer("ext/reme").replace(moving_mean=np.array(means, np.float32))
    bundle = make_bundle(extreme, make_layer("64", dtype="float64", epsilon=0.1, seed=1), make_layer("16", dtype="float16", seed=2))
    (tmp_path / "layers.h").write_bytes(c_header.write(bundle, options))
    stems = identifiers(bundle.paths())
    assert stems == ["ext_reme", "bn_64", "bn_16"]
    prints, want = [], []
    for stem, layer in zip(stems, bundle):
        arrays = layer.parameters()
        if options.folded:
            from exporter.batchnorm.dtypes import round_to
            from exporter.batchnorm.layer import scale_and_offset

            kind = "float64" if layer.dtype == "float64" else "float32"
            arrays |= {name: round_to(values, kind) for name, values in zip(("scale", "offset"), scale_and_offset(layer))}
        for name, values in arrays.items():
            prints += [f'printf("%a\\n", (double){stem}_{name}[{i}]);' for i in range(values.size)]
            want += values.astype(np.float64).tolist()
        prints.append(f'printf("%a\\n", {stem}_epsilon);')
        want.append(layer.epsilon)
    source = '#include <stdio.h>\n#include "layers.h"\n#include "layers.h"\nint main(void) {\n' + "\n".join(prints) + "\nreturn 0; }\n"
    found = [float.fromhex(line) for line in compiled(source, tmp_path).split()]
    assert np.array(found).tobytes() == np.array(want).tobytes()


@pytest.mark.parametrize("change", [{"moving_mean": 3.4e38, "moving_variance": 1e-6}, {"gamma": 1e-42}])
def test_what_float_cannot_fold_is_refused(change):
    layer = make_layer("bn").replace(**{name: np.full(4, value, np.float32) for name, value in change.items()})
    with pytest.raises(OutputError, match="bn: channel 0 cannot be folded"):
        c_header.write(make_bundle(layer), WriteOptions(folded=True))
    assert c_header.write(make_bundle(layer), WriteOptions())


def test_any_path_gives_an_identifier_of_its_own(tmp_path):
    stems = identifiers(NASTY)
    assert len(set(stems)) == len(NASTY)
    assert all(len(stem) <= MAX_STEM_LENGTH for stem in stems)
    bundle = make_bundle(*(make_layer(path, seed=i) for i, path in enumerate(NASTY)))
    data = c_header.write(bundle.replace(origin=exporter.read(CONFORMANCE).origin), WriteOptions())
    (tmp_path / "layers.h").write_bytes(data)
    shutil.copy(ROOT / "runtimes" / "c" / "batchnorm.h", tmp_path)
    source = ('#include "batchnorm.h"\n#include "layers.h"\n#include <stdio.h>\n'
              'int main(void) { for (int i = 0; i < bn_layer_count; i++) printf("%s%c", bn_layers[i].path, 1); return 0; }\n')
    assert compiled(source, tmp_path).split("\1")[:-1] == NASTY


# --- tables -------------------------------------------------------------------------------------------------------------------------------


def test_the_csv_holds_every_number(tmp_path):
    from exporter.batchnorm.layer import scale_and_offset

    bundle = make_bundle(make_layer("a,\"b\"\nc", seed=1), make_layer("=cmd()", dtype="float64", gamma=False, shape=(2, 3), axis=(1, 2)))
    exporter.write(bundle, tmp_path / "b.csv")
    with open(tmp_path / "b.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a,\"b\"\nc"] * 4 + ["'=cmd()"] * 6
    for layer, part in zip(bundle, (rows[:4], rows[4:])):
        assert [row["channel"] for row in part] == [str(i) for i in range(len(part))]
        assert {row["epsilon"] for row in part} == {"0.001"}
        for name, values in layer.parameters().items():
            assert np.array([float(row[name]) for row in part], layer.dtype).tobytes() == values.tobytes()
        assert [float(row["scale"]) for row in part] == scale_and_offset(layer)[0].ravel().tolist()
    assert {row["gamma"] for row in rows[4:]} == {""}


@pytest.mark.parametrize(("path", "cell"), [
    ("encoder/bn_1", "encoder/bn_1"), ("=1+1", "'=1+1"), (" =1+1", '"\' =1+1"'), ("\n@x", '"\'\n@x"'), ("＝x", "'＝x"), ("a;=x", '"a;=x"'),
    ('q"x', '"q""x"'), ("\tx", '"\'\tx"'), ("-bn", "'-bn"), ("a b", '"a b"')])
def test_no_cell_of_the_csv_is_a_formula_in_any_locale(path, cell, tmp_path):
    bundle = make_bundle(make_layer(path, shape=(1,)))
    exporter.write(bundle, tmp_path / "b.csv")
    text = (tmp_path / "b.csv").read_bytes().decode()
    assert text.partition("\r\n")[2].startswith(f"{cell},0,0.001,")
    done = exporter.compare(bundle, tmp_path / "b.csv")
    assert done.same, done.text()


@pytest.mark.parametrize("absent", [(), ("gamma",), ("beta",), ("gamma", "beta")])
def test_what_a_layer_lacks_is_named_and_nothing_else(absent):
    """Somebody reads there what to use instead."""
    bundle = make_bundle(make_layer("a", **dict.fromkeys(absent, False)))
    header = c_header.write(bundle, WriteOptions()).decode()
    said = re.search(r"/\* a: shape 4, axis -1; stored as float32(.*) \*/", header)[1]
    assert said == "".join({"gamma": "; no gamma: use 1", "beta": "; no beta: use 0"}[name] for name in absent)
    row = target_for("x.md").write(bundle, WriteOptions()).decode().splitlines()[4]
    assert [name for name in ("gamma", "beta") if f"no {name}" in row] == list(absent)


def test_the_markdown_table_is_a_table(tmp_path):
    bundle = make_bundle(*(make_layer(path, seed=i) for i, path in enumerate(["a|b", "<script>", "line\nbreak", "`*_[x](y)", "ok"])))
    exporter.write(bundle, tmp_path / "b.md")
    text = (tmp_path / "b.md").read_text("utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(bundle)
    assert {line.replace("\\|", "").count("|") for line in table} == {9}
    assert "<script>" not in text
    assert bundle.digest() in text


# --- docs/targets.md ----------------------------------------------------------------------------------------------------------------------


def page():
    return (ROOT / "docs" / "targets.md").read_text("utf-8")


def test_the_page_has_every_suffix():
    first = " ".join(line.split("|")[1] for line in page().splitlines() if line.startswith("| ["))
    assert SUFFIXES.keys() - {"/", ".htm"} == set(re.findall(r"\.\w+(?=`)", first))


@pytest.mark.parametrize("number", range(3))
def test_the_programs_of_the_page_run(number, tmp_path, monkeypatch):
    program = re.findall(r"```python\n(.*?)```", page(), re.DOTALL)[number]
    for package in ("torch", "safetensors", "onnx"):
        if re.search(rf"^(from|import) {package}\b", program, re.MULTILINE):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    bundle = make_bundle(make_layer("encoder/bn_1", ndim=4))
    exporter.write(bundle, "model.npz")
    exporter.write(bundle, "model.safetensors", WriteOptions(names="torch"))
    names = {}
    if "onnx" in program:
        onnx, _ = onnx_tools()
        exporter.write(bundle, "model.onnx")
        onnx.save(chain(onnx), "mine.onnx")
    exec(compile(program, "docs/targets.md", "exec"), names)
    if "onnx" in program:
        x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(1, 2, 3, 4)
        names["onnx"].checker.check_model(names["mine"], full_check=True)
        y = session(names["mine"]).run(None, {"in": x})[0]
        within_bound(bundle.layers[0], x.reshape(-1, 4), y.reshape(-1, 4), bundle.layers[0](x).reshape(-1, 4))
    elif "torch" in program:
        assert names["module"].running_var.numpy().tobytes() == bundle.layers[0].moving_variance.tobytes()
    else:
        assert names["gamma"].tobytes() == bundle.layers[0].gamma.tobytes()
        assert names["epsilon"] == 1e-3
        assert names["layers"][0]["path"] == "encoder/bn_1"


def chain(onnx):
    """A model of one's own that copies its input, and whose output the merged layer is to make."""
    from onnx import TensorProto, helper

    node = helper.make_node("Identity", ["in"], ["before"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 3, 4]) for name in ("in", "after")]
    graph = helper.make_graph([node], "mine", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_npz_has_no_more_arrays_than_are_read_back(monkeypatch):
    """Four parameters and an epsilon of each layer, beside the document."""
    bundle = make_bundle(make_layer("a"), make_layer("b"))
    monkeypatch.setattr(numpy_npz, "MAX_MEMBERS", 11)
    assert numpy_npz.write(bundle, WriteOptions(vectors=False))
    monkeypatch.setattr(numpy_npz, "MAX_MEMBERS", 10)
    with pytest.raises(OutputError, match="expected at most 10 arrays, which can be read back, got 10 for 2 layers"):
        numpy_npz.write(bundle, WriteOptions(vectors=False))

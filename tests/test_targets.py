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
from conftest import ROOT, make_bundle, make_layer, same_layer

import exporter
from exporter import output, vectors
from exporter.errors import BundleError, ExporterError, FormatError, MissingExtra, OutputError
from exporter.formats import npy
from exporter.formats.safetensors import Tensor, dump
from exporter.formats.zip_writer import stored_zip
from exporter.targets import Options, c_header, onnx_model, target_for

CONFORMANCE = ROOT / "vectors" / "batchnorm-1.json"
NASTY = ["*/ evil /*", "??/", "a\\nb", "größe/π bn", "3d conv", "", "a b", "a_b", "a/b", '"', "=cmd()", "line\nbreak", "int", "_x",
         "x" * 200, "x" * 201]


def mixed():
    """Layers of every type, with every field of the document somewhere."""
    return make_bundle(
        make_layer("a/b", seed=1), make_layer("a.b c", dtype="float16", gamma=False, seed=2, ndim=4),
        make_layer("ключ/\\ ..", dtype="bfloat16", beta=False, seed=3, assumed=("axis",), quantized="uint8"),
        make_layer("d", dtype="float64", shape=(2, 3), axis=(1, 2), ndim=4, seed=4, effective_epsilon=1.001e-5, momentum=None),
        make_layer("d/vectors", gamma=False, beta=False, seed=5, converted=("moving_variance",)), skipped=(("e", "said nothing"),))


def within_bound(layer, x, got, want, dtype=None):
    """x, got, want: (rows, channels)."""
    error = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))
    assert (error <= vectors.bound(layer, x, dtype)).all(), f"{layer.path}: {(error / vectors.bound(layer, x, dtype)).max()} of the bound"


@pytest.mark.parametrize(("name", "with_vectors"), [
    ("b.npz", True), ("b.npz", False), ("b.safetensors", True), ("b.safetensors", False), ("b.zip", True), ("b/", True)])
def test_every_form_gives_the_same_document_back(name, with_vectors, tmp_path):
    bundle, target = mixed(), f"{tmp_path}/{name}"
    output.write(bundle, tmp_path / "direct.json")
    output.write(bundle, target, Options(vectors=with_vectors))
    back = exporter.load(target)
    for a, b in zip(bundle, back):
        assert same_layer(a, b)
    assert bool(back.vectors) == with_vectors
    output.write(back, tmp_path / "back.json")
    assert (tmp_path / "back.json").read_bytes() == (tmp_path / "direct.json").read_bytes()


def test_the_names_of_pytorch_lose_nothing(tmp_path):
    bundle = mixed()
    bundle = bundle.replace(layers=tuple(layer for layer in bundle if len(layer.shape) == 1))
    output.write(bundle, tmp_path / "b.safetensors", Options(names="torch"))
    back = exporter.load(tmp_path / "b.safetensors")
    assert len(back) == 4
    for a, b in zip(bundle, back):
        assert same_layer(a, b)


@pytest.mark.parametrize("suffix", [".json", ".npz", ".safetensors", ".onnx", ".h", ".csv", ".md", ".zip"])
def test_equal_bundles_give_equal_bytes(suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    target = target_for(f"x{suffix}")
    assert target.write(mixed(), Options()) == target.write(mixed(), Options())


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "zip"])
def test_any_form_is_a_model_for_the_command(suffix, tmp_path, run):
    from exporter.cli import export

    output.write(make_bundle(), tmp_path / f"b.{suffix}")
    code, _, err = run(export, tmp_path / f"b.{suffix}", tmp_path / "out.json")
    assert (code, err) == (0, "")
    output.write(make_bundle(), tmp_path / "direct.json")
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "direct.json").read_bytes()


@pytest.mark.parametrize(("words", "message"), [
    (["out.npz", "--names", "torch"], "--names torch goes with a .safetensors output"),
    (["out.json", "--folded"], "--folded goes with a .h output or the kit"),
    (["out.zip", "--no-vectors"], "leave out --no-vectors"),
    (["out.xyz"], "the suffix '.xyz' of the output's name is not known")])
def test_options_that_do_not_go_together(words, message, tmp_path, run, monkeypatch):
    from exporter.cli import export

    monkeypatch.chdir(tmp_path)
    output.write(make_bundle(), tmp_path / "b.json")
    code, _, err = run(export, "b.json", *words)
    assert code == 2
    assert message in err


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path, monkeypatch):
    target = f"{tmp_path}/kit/"
    (tmp_path / "kit").mkdir()
    output.write(make_bundle(), target)
    assert (tmp_path / "kit" / "bundle.json").is_file()
    with pytest.raises(OutputError, match="only a new or empty folder"):
        output.write(make_bundle(), target)
    (tmp_path / "k.zip").mkdir()
    with pytest.raises(OutputError, match="give a file name"):
        output.write(make_bundle(), tmp_path / "k.zip")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        output.write(make_bundle(), f"{tmp_path}/other/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.zip", "kit"]


# --- .npz ---------------------------------------------------------------------------------------------------------------------------------


def test_numpy_reads_the_npz(tmp_path):
    bundle = mixed()
    output.write(bundle, tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz", allow_pickle=False) as arrays:
        for layer in bundle:
            for name, values in layer.parameters().items():
                found = arrays[f"{layer.path}/{name}"]
                assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes())
            assert arrays[f"{layer.path}/epsilon"] == layer.epsilon
        assert json.loads(arrays["bn-bundle"].tobytes())["layers"][0]["gamma"] == "a/b/gamma"
        lacking = 4  # gamma or beta, counted over the layers
        assert len(arrays.files) == 1 + 5 * len(bundle) - lacking


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", "|u1"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,)])
def test_npy_both_ways(kind, shape, tmp_path):
    array = np.arange(np.prod(shape, dtype=int)).astype(kind).reshape(shape)
    (tmp_path / "ours.npy").write_bytes(npy.dump(array))
    np.testing.assert_array_equal(np.load(tmp_path / "ours.npy"), array)
    np.save(tmp_path / "theirs.npy", array)
    back = npy.parse((tmp_path / "theirs.npy").read_bytes(), "x")
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def changed_npz(tmp_path, **changes):
    """A good .npz of one layer, "bn", with members replaced ("gamma", "epsilon", "document") or left out (None)."""
    from exporter.targets import numpy_npz

    (tmp_path / "good.npz").write_bytes(numpy_npz.write(make_bundle(make_layer("bn")), Options()))
    with np.load(tmp_path / "good.npz") as arrays:
        members = {f"{name}.npy": npy.dump(arrays[name]) for name in arrays.files}
    for name, data in changes.items():
        key = "bn-bundle.npy" if name == "document" else f"bn/{name}.npy"
        if data is None:
            del members[key]
        else:
            members[key] = data
    (tmp_path / "bad.npz").write_bytes(stored_zip(members.items()))
    return tmp_path / "bad.npz"


FOUR = np.arange(1, 5, dtype=np.float32)
BAD_ARRAYS = [
    (None, "missing"), (npy.dump(FOUR), "the digest does not fit"), (npy.dump(FOUR[:3]), r"its shape is \[3\]"),
    (npy.dump(FOUR.astype(np.float64)), "an array of float64 does not hold float32"), (npy.dump(FOUR)[:-1], "asks for 16 bytes, it has 15"),
    (npy.dump(FOUR).replace(b"(4,)", b"(9,)"), "asks for 36 bytes"), (npy.dump(FOUR).replace(b"<f4", b"|O8"), "an array of type"),
    (npy.dump(FOUR).replace(b"False", b"True "), "no .npy array"), (b"", "no .npy array")]


@pytest.mark.parametrize(("data", "message"), BAD_ARRAYS)
def test_a_damaged_npz_is_refused(data, message, tmp_path):
    with pytest.raises(ExporterError, match=message):
        exporter.load(changed_npz(tmp_path, gamma=data))


def test_an_npz_that_says_two_things_is_refused(tmp_path):
    assert len(exporter.load(changed_npz(tmp_path))) == 1
    assert len(exporter.load(changed_npz(tmp_path, epsilon=None))) == 1
    with pytest.raises(BundleError, match=r"the array says 0.002, the document 0.001"):
        exporter.load(changed_npz(tmp_path, epsilon=npy.dump(np.array(0.002))))
    with pytest.raises(ExporterError, match="strict JSON"):
        exporter.load(changed_npz(tmp_path, document=npy.dump(np.frombuffer(b"{", np.uint8))))
    with pytest.raises(BundleError, match="format"):
        exporter.load(changed_npz(tmp_path, document=npy.dump(np.frombuffer(b"[]", np.uint8))))


def test_vectors_whose_rows_differ_in_length_are_refused(tmp_path):
    output.write(make_bundle(), tmp_path / "b.json")
    content = json.loads((tmp_path / "b.json").read_text("utf-8"))
    content["layers"][0]["vectors"]["input"][0].append(1.0)
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="vectors: input and output of the vectors are not rows of 4 numbers"):
        exporter.load(tmp_path / "b.json")


def test_names_that_a_zip_archive_cannot_hold():
    with pytest.raises(OutputError, match="cannot hold the name"):
        stored_zip([("a\0b", b"")])


# --- .safetensors -------------------------------------------------------------------------------------------------------------------------


def test_safetensors_reads_the_file(tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    bundle = mixed().replace(layers=tuple(layer for layer in mixed() if layer.dtype != "bfloat16"))
    output.write(bundle, tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")
    assert len(found) == sum(len(layer.parameters()) for layer in bundle)
    for layer in bundle:
        for name, values in layer.parameters().items():
            array = found[f"{layer.path}/{name}"]
            assert (array.dtype, array.shape, array.tobytes()) == (values.dtype, values.shape, values.tobytes())


def test_bfloat16_through_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from safetensors.torch import load_file

    layer = make_layer("bn", dtype="bfloat16")
    output.write(make_bundle(layer), tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")["bn/gamma"]
    assert found.dtype == torch.bfloat16
    assert found.float().numpy().tobytes() == layer.gamma.tobytes()


def safetensors_file(tmp_path, tensors=None, **metadata):
    """A .safetensors of one layer, "bn", whose tensors and metadata are replaced."""
    from exporter.formats.safetensors import parse
    from exporter.targets import safetensors_file

    good, good_tensors = parse(safetensors_file.write(make_bundle(make_layer("bn")), Options()))
    good_tensors |= tensors or {}
    (tmp_path / "b.safetensors").write_bytes(dump({k: v for k, v in good_tensors.items() if v}, good | metadata))
    return tmp_path / "b.safetensors"


@pytest.mark.parametrize(("tensor", "message"), [
    (None, "which the document names, is missing"), (Tensor("F32", (4,), FOUR.tobytes()), "the digest does not fit"),
    (Tensor("F64", (4,), FOUR.astype("<f8").tobytes()), "a tensor of type F64 does not hold float32"),
    (Tensor("F32", (2, 2), FOUR.tobytes()), r"its shape is \[2, 2\]")])
def test_another_tensor_is_refused(tensor, message, tmp_path):
    with pytest.raises(BundleError, match=message):
        exporter.load(safetensors_file(tmp_path, {"bn/gamma": tensor}))


def test_more_tensors_and_metadata_are_ignored(tmp_path):
    path = safetensors_file(tmp_path, {"other": Tensor("U8", (3,), b"abc"), "none": Tensor("BOOL", (0,), b"")}, note="hello")
    assert len(exporter.load(path)) == 1


def raw(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(start=0, end=4, dtype="F32", shape=(1,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


META = {"__metadata__": {"bn-bundle": "{}"}}


@pytest.mark.parametrize(("data", "message"), [
    (raw({**META, "a": entry(4, 8)}, b"12345678"), "a hole or an overlap"),
    (raw({**META, "a": entry(), "b": entry()}, b"1234"), "a hole or an overlap"),
    (raw({**META, "a": entry()}, b"12345"), "5 bytes of numbers, its tensors 4"),
    (raw({**META, "a": entry(0, 8)}, b"12345678"), "does not fit its 8 bytes"),
    (raw({**META, "a": entry(shape=(1 << 62, 4))}, b"1234"), "does not fit"),
    (raw({**META, "a": entry(-4, 0)}, b"1234"), "not lists of sizes"),
    (raw({**META, "a": entry(dtype="F31")}, b"1234"), "is not one of the format's"),
    (raw({**META, "a": entry(shape=(True,))}, b"1234"), "not lists of sizes"),
    (raw({**META, "a": {"dtype": "F32"}}), "not dtype, shape and data_offsets"),
    (raw({"__metadata__": {"bn-bundle": 1}}), "not a table of strings"),
    (raw({"__metadata__": {"x": '"bn-bundle"', "y": "bn-bundle"}, "bn-bundle": entry()}, b"1234"), "has no \"bn-bundle\""),
    (raw(META), "its format is not"),
    (raw(b'{"__metadata__":{"bn-bundle":"{}"},"__metadata__":{"bn-bundle":"{}"}}'), "occurs twice"),
    (raw(META)[:-3], "cut short"), (raw(b'{"bn-bundle"'), "strict JSON")])
def test_a_damaged_safetensors_file_is_refused(data, message, tmp_path):
    (tmp_path / "b.safetensors").write_bytes(data)
    with pytest.raises((FormatError, BundleError), match=message):
        exporter.load(tmp_path / "b.safetensors")


# --- PyTorch ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "inner"), [
    ("BatchNorm1d", ()), ("BatchNorm1d", (5,)), ("BatchNorm2d", (3, 2)), ("BatchNorm3d", (2, 1, 3))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("has", [{}, {"gamma": False}, {"beta": False}, {"gamma": False, "beta": False}])
def test_load_state_dict_takes_the_tensors(kind, inner, dtype, has, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors")
    layer = make_layer("encoder/bn_1", dtype=dtype, shape=(6,), epsilon=2e-3, momentum=0.97, seed=7, **has)
    output.write(make_bundle(layer, make_layer("other")), tmp_path / "b.safetensors", Options(names="torch"))
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
    with pytest.raises(OutputError, match=r"d: torch.nn.BatchNorm has one axis, this layer has 2"):
        output.write(mixed(), tmp_path / "b.safetensors", Options(names="torch"))
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
    output.write(make_bundle(*layers), tmp_path / "b.onnx")
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
    model = onnx.load_from_string(onnx_model.write(bundle, Options()))
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


def test_functions_become_plain_nodes():
    onnx, _ = onnx_tools()
    from onnx import inliner

    model = inliner.inline_local_functions(onnx.load_from_string(onnx_model.write(make_bundle(make_layer("bn", ndim=4)), Options())))
    assert not model.functions
    assert "BatchNormalization" in {node.op_type for node in model.graph.node}
    session(model)


def test_what_onnx_cannot_say_is_refused():
    pytest.importorskip("onnx")
    scattered = make_layer("s", shape=(2, 3), axis=(1, 3))
    with pytest.raises(OutputError, match="do not stand together"):
        onnx_model.write(make_bundle(scattered), Options())
    assert onnx_model.write(make_bundle(scattered.replace(ndim=4)), Options())
    tiny = make_layer("t", epsilon=1e-60).replace(moving_variance=np.zeros(4, np.float32))
    with pytest.raises(OutputError, match="epsilon as float32"):
        onnx_model.write(make_bundle(tiny), Options())


def test_without_the_package_the_error_is_one_line(monkeypatch, tmp_path, run):
    from exporter.cli import export

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra):
        onnx_model.write(make_bundle(), Options())
    output.write(make_bundle(), tmp_path / "b.json")
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


@pytest.mark.parametrize("options", [Options(), Options(folded=True), Options(vectors=False)])
def test_the_compiler_sees_the_same_bits(options, tmp_path):
    means = [-0.0, 1e-45, 0.1 if options.folded else 3.4028235e38, -1.1754942e-38]
    extreme = make_layer("ext/reme").replace(moving_mean=np.array(means, np.float32))
    bundle = make_bundle(extreme, make_layer("64", dtype="float64", epsilon=0.1, seed=1), make_layer("16", dtype="float16", seed=2))
    (tmp_path / "layers.h").write_bytes(c_header.write(bundle, options))
    stems = c_header.identifiers(bundle.paths())
    assert stems == ["ext_reme", "bn_64", "bn_16"]
    prints, want = [], []
    for stem, layer in zip(stems, bundle):
        arrays = layer.parameters()
        if options.folded:
            from exporter.formula import round_to, scale_and_offset

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
        c_header.write(make_bundle(layer), Options(folded=True))
    assert c_header.write(make_bundle(layer), Options())


def test_any_path_gives_an_identifier_of_its_own(tmp_path):
    stems = c_header.identifiers(NASTY)
    assert len(set(stems)) == len(NASTY)
    assert all(len(stem) <= c_header.LONGEST_STEM for stem in stems)
    bundle = make_bundle(*(make_layer(path, seed=i) for i, path in enumerate(NASTY)))
    data = c_header.write(bundle.replace(origin=exporter.read(CONFORMANCE).origin), Options())
    (tmp_path / "layers.h").write_bytes(data)
    shutil.copy(ROOT / "runtimes" / "c" / "batchnorm.h", tmp_path)
    source = ('#include "batchnorm.h"\n#include "layers.h"\n#include <stdio.h>\n'
              'int main(void) { for (int i = 0; i < bn_layer_count; i++) printf("%s%c", bn_layers[i].path, 1); return 0; }\n')
    assert compiled(source, tmp_path).split("\1")[:-1] == NASTY


# --- tables -------------------------------------------------------------------------------------------------------------------------------


def test_the_csv_holds_every_number(tmp_path):
    from exporter.formula import scale_and_offset

    bundle = make_bundle(make_layer("a,\"b\"\nc", seed=1), make_layer("=cmd()", dtype="float64", gamma=False, shape=(2, 3), axis=(1, 2)))
    output.write(bundle, tmp_path / "b.csv")
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


def test_the_markdown_table_is_a_table(tmp_path):
    bundle = make_bundle(*(make_layer(path, seed=i) for i, path in enumerate(["a|b", "<script>", "line\nbreak", "`*_[x](y)", "ok"])))
    output.write(bundle, tmp_path / "b.md")
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
    from importlib import import_module

    from exporter.targets import TARGETS

    suffixes = {suffix for name in TARGETS for suffix in import_module(f"exporter.targets.{name}").SUFFIXES}
    first = " ".join(line.split("|")[1] for line in page().splitlines() if line.startswith("| ["))
    assert suffixes - {"/", ".htm"} == set(re.findall(r"\.\w+(?=`)", first))


@pytest.mark.parametrize("number", range(3))
def test_the_programs_of_the_page_run(number, tmp_path, monkeypatch):
    program = re.findall(r"```python\n(.*?)```", page(), re.DOTALL)[number]
    for package in ("torch", "safetensors", "onnx"):
        if re.search(rf"^(from|import) {package}\b", program, re.MULTILINE):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    bundle = make_bundle(make_layer("encoder/bn_1", ndim=4))
    output.write(bundle, "model.npz")
    output.write(bundle, "model.safetensors", Options(names="torch"))
    names = {}
    if "onnx" in program:
        onnx, _ = onnx_tools()
        output.write(bundle, "model.onnx")
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

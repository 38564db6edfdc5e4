"""Each form of a batch norm outside of a model: by what it is known, and what each part of it says."""

from __future__ import annotations

import io
import json
import runpy
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

import exporter
from exporter.diagnosis import ports
from exporter.diagnosis.alone import of_numbers, of_port
from exporter.diagnosis.ports import array_state, c_header, csv_table, flat_json, onnx_graph, torch_child, torch_state
from exporter.diagnosis.ports.port import FLAX, PLAIN, TORCH, Port, Ported, coarsest, flat
from exporter.diagnosis.ports.state import gather, parted, port_of
from exporter.diagnosis.samples import numbers
from exporter.files.place import Place
from exporter.formats import safetensors
from exporter.formats.safetensors import parse
from tests.make import ports as making
from tests.make.layers import make_bundle, make_layer, mixed


def at(tmp_path, content, name="f"):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Place(tmp_path / name)


@pytest.mark.parametrize("data", [b"", *(bytes([byte]) for byte in (0x08, 0x93, 0x81, ord("P"), ord("{"), ord("m"), ord("/"), ord("\n"))),
                                  b"\x08\x03", b"PK", b"PK\3\4", b"\xef\xbb\xbf", b"{}", b"\n\n"])
def test_files_of_a_few_bytes_are_in_no_form(tmp_path, data):
    place = at(tmp_path, data)
    assert [form.__name__ for form in (array_state, c_header, csv_table, flat_json, onnx_graph, torch_state) if form.claims(place)] == []


# tables

@pytest.mark.parametrize(("head", "yes"), [
    ("moving_mean,moving_variance\n", True), ("var;mean\r\n1;2", True), ("running_mean\trunning_var\n", True),
    ("\ufeff\"mean\",\"var\"\n", True), ("mean,var,a;b;c\n", True), ("mean,var,a\tb\tc\n", True), ("mean\tvar\ta,b\n", True),
    ("Mean , VAR\n", True), ("mean,beta\n", False), ("mean var\n", False), ("", False), ("mean,var\0\n", False),
    ("gamma,beta\nmean,var\n", False)])
def test_a_table_is_known_by_its_first_line(tmp_path, head, yes):
    assert csv_table.claims(at(tmp_path, head)) == yes


def table(tmp_path, text):
    return csv_table.read(at(tmp_path, text, "t.csv"))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_a_table_of_several_layers(tmp_path, order):
    layers = make_layer("a", seed=1), make_layer("=b", seed=2)
    lines = ["path,channel,epsilon,gamma,beta,moving_mean,moving_variance"]
    for channel in order:
        for layer in layers:
            numbers = [repr(float(values[channel])) for values in layer.parameters().values()]
            lines.append(",".join([layer.path.replace("=", "'="), str(channel), "0.001", *numbers]))
    port = table(tmp_path, "\n".join([*lines, "", " , , , , , , "]))
    assert [layer.path for layer in port.layers] == ["a", "=b"]
    for layer, ported in zip(layers, port.layers, strict=True):
        assert (ported.epsilon, ported.dtype, ported.text) == (0.001, "float64", True)
        for name, values in layer.parameters().items():
            assert np.array_equal(ported.arrays[name], values.astype(np.float64)), name
            assert ported.called[name] == name


@pytest.mark.parametrize(("text", "arrays", "path"), [
    ("scale,gamma,mean,var\n9,1,2,3\n", {"gamma": [1], "moving_mean": [2], "moving_variance": [3]}, ""),
    ("gamma,scale,mean,var\n1,9,2,3\n", {"gamma": [1], "moving_mean": [2], "moving_variance": [3]}, ""),
    ("mean;var;offset\n1;2;\n3;4;\n", {"moving_mean": [1, 3], "moving_variance": [2, 4]}, ""),
    ("mean\tvar\tpath\n1\t2\t'x\n", {"moving_mean": [1], "moving_variance": [2]}, "'x"),
    ("mean,var,path\n1,2,'-x\n", {"moving_mean": [1], "moving_variance": [2]}, "-x"),
    ("mean;var;path\n1;2;a,b,c,d,e,f\n", {"moving_mean": [1], "moving_variance": [2]}, "a,b,c,d,e,f"),
    ("channel,mean,var\n1,5,6\n0,7,8\n", {"moving_mean": [7, 5], "moving_variance": [8, 6]}, "")])
def test_the_columns_of_a_table(tmp_path, text, arrays, path):
    (layer,) = table(tmp_path, text).layers
    assert {name: values.tolist() for name, values in layer.arrays.items()} == arrays
    assert (layer.path, layer.epsilon) == (path, None)


@pytest.mark.parametrize(("text", "words"), [
    ("mean,var\n1\n", r"t\.csv: line 2: expected 2 cells, got 1"), ("mean,var\n\n1,2,3\n", "line 3: expected 2 cells, got 3"),
    ("mean,var\n1,x\n", "expected a number for moving_variance, got 'x'"),
    ("channel,mean,var\n0,1,2\n0,3,4\n", "expected the channels 0 to 1"),
    ("channel,mean,var\n0,1,2\n2,3,4\n", "expected the channels 0 to 1, once each"), ("mean,var\n1,\n2,\n", "got empty cells"),
    ("mean,var\n1,\n2,3\n", "expected a number for moving_variance, got ''"),
    ("mean,var,epsilon\n1,2,3\n1,2,4\n", "expected one epsilon a layer, got 2"),
    (b"mean,var\n\xff,1\n", "expected UTF-8 text"), ('mean,var\n"1,2\n', "expected 2 cells, got 1")])
def test_tables_that_are_damaged(tmp_path, text, words):
    with pytest.raises(exporter.FormatError, match=words):
        csv_table.read(at(tmp_path, text, "t.csv"))


# headers

def test_a_header_keeps_odd_paths(tmp_path):
    bundle = mixed()
    exporter.write(bundle, tmp_path / "m.h")
    port = ports.read(Place(tmp_path / "m.h"))
    assert [layer.path for layer in port.layers] == bundle.paths()
    for layer, ported in zip(bundle, port.layers, strict=True):
        assert ported.epsilon == pytest.approx(layer.epsilon, rel=1e-6)
        assert ported.dtype in ("float32", "float64")
        assert ported.called["moving_mean"].endswith("_moving_mean")


HEADER = "static const float s_moving_mean[] = {1, 2.5f, -0x1p-3F};\nstatic const float s_moving_variance[3] = {1.0f, 2L, .5,};\n"


@pytest.mark.parametrize(("text", "wanted"), [
    (HEADER, {"s": (None, [1, 2.5, -0.125], "float32")}), (HEADER + "const float s_epsilon = 1e-3f;", {"s": (1e-3, [1, 2.5, -0.125],
                                                                                                             "float32")}),
    (HEADER.replace("float", "double"), {"s": (None, [1, 2.5, -0.125], "float64")}),
    ("/* a/b: shape [3] */ enum { s_channels = 3 };" + HEADER, {"a/b": (None, [1, 2.5, -0.125], "float32")}),
    (HEADER + "// const float s_gamma[] = {1, 2, 3};\n/* const float s_beta[] = {1}; */", {"s": (None, [1, 2.5, -0.125], "float32")})])
def test_what_a_header_says(tmp_path, text, wanted):
    port = c_header.read(at(tmp_path, text))
    assert {layer.path: (layer.epsilon, layer.arrays["moving_mean"].tolist(), layer.dtype) for layer in port.layers} == wanted
    assert [sorted(layer.arrays) for layer in port.layers] == [["moving_mean", "moving_variance"]]
    assert port.layers[0].arrays["moving_variance"].tolist() == [1, 2, 0.5]


@pytest.mark.parametrize(("text", "words"), [
    (HEADER.replace("2.5f", "x"), "expected a floating constant, got 'x'"), (HEADER + HEADER, "the array occurs twice"),
    (HEADER.replace("moving_mean", "gamma"), "expected moving_mean and moving_variance and .* got gamma, moving_variance"),
    (HEADER.replace("2.5f, ", ""), "arrays of one length"),
    (HEADER + "const float s_epsilon = e;", "expected a floating constant, got 'e'")])
def test_headers_that_are_damaged(tmp_path, text, words):
    with pytest.raises(exporter.FormatError, match=words):
        c_header.read(at(tmp_path, text))


@pytest.mark.parametrize(("text", "yes"), [(HEADER, True), ("const x_moving_variance[", True), ("x_moving_variance[", False),
                                           ("const _moving_variance", False), ("const x_moving_variance[\0", False)])
def test_a_header_is_known_by_its_words(tmp_path, text, yes):
    assert c_header.claims(at(tmp_path, text)) == yes


# JSON

@pytest.mark.parametrize(("text", "yes"), [
    ('{"mean": [1], "var": [2]}', True), ('\ufeff \n{"a": {"running_var": [1]}}', True), ('{"gamma": [1]}', False),
    ('[{"mean": 1}]', False),
    *((f'{{"mean": 1, "{word}": 2}}', False) for word in ("bn-bundle", "class_name", "weight_map", "modelTopology", "weightsManifest"))])
def test_numbers_in_json_are_known_by_their_keys(tmp_path, text, yes):
    assert flat_json.claims(at(tmp_path, text)) == yes


@pytest.mark.parametrize(("content", "wanted"), [
    ({"mean": [1, 2], "Var": [3, 4], "eps": 0.5}, {"": (0.5, {"moving_mean": [1, 2], "moving_variance": [3, 4]})}),
    ({"mean": 1, "var": 3}, {"": (None, {"moving_mean": [1], "moving_variance": [3]})}),
    ({"mean": [1], "var": [3], "eps": 1, "epsilon": 2}, {"": (None, {"moving_mean": [1], "moving_variance": [3]})}),
    ({"mean": [1], "var": [3], "eps": "1"}, {"": (None, {"moving_mean": [1], "moving_variance": [3]})}),
    ({"mean": [1], "var": [3], "eps": True}, {"": (None, {"moving_mean": [1], "moving_variance": [3]})}),
    ({"mean": [1], "var": [3], "EPSILON": 0}, {"": (0, {"moving_mean": [1], "moving_variance": [3]})}),
    ({"mean": [[1, 2]], "var": [[3], [4]], "gamma": None, "beta": "x", "scale": True, "weight": {"a": 1}},
     {"": (None, {"moving_mean": [1, 2], "moving_variance": [3, 4]})}),
    ({"a": {"b": {"mean": [1], "var": [2]}}, "c": {"mean": [3], "var": [4]}, "d": {"mean": [5]}},
     {"a/b": (None, {"moving_mean": [1], "moving_variance": [2]}), "c": (None, {"moving_mean": [3], "moving_variance": [4]})})])
def test_what_an_object_says(tmp_path, content, wanted):
    port = flat_json.read(at(tmp_path, json.dumps(content)))
    assert {layer.path: (layer.epsilon, {name: values.tolist() for name,
                                         values in layer.arrays.items()}) for layer in port.layers} == wanted
    assert all((layer.dtype, layer.text) == ("float64", True) for layer in port.layers)


@pytest.mark.parametrize(("content", "words"), [
    ({"mean": [1], "running_mean": [1], "var": [1]}, "both 'mean' and 'running_mean' may be its moving_mean"),
    ({"mean": [1], "var": [1, 2]}, "expected arrays of one length, got mean: 1, var: 2"),
    ({"a": {"mean": [1], "var": [1, 2]}}, "a: expected arrays of one length"), ({"mean": ["x"], "var": [1]}, "expected numbers for 'mean'"),
    ({"mean": [1, [2]], "var": [1]}, "expected numbers for 'mean'"), ({"mean": [True], "var": [1]}, "expected numbers for 'mean'"),
    ({"mean": [None], "var": [1]}, "expected numbers for 'mean'"), ({"mean": [{}], "var": [1]}, "expected numbers for 'mean'"),
    ({"bn.mean": [True], "bn.var": [1]}, "expected numbers for 'bn.mean'"),
    ({"mean": [1]}, "expected an object with mean and variance")])
def test_objects_that_are_no_layer(tmp_path, content, words):
    with pytest.raises(exporter.ExporterError, match=words):
        flat_json.read(at(tmp_path, json.dumps(content)))


# arrays with names

ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(("names", "framework"), [
    (["bn.running_mean", "bn.running_var", "bn.weight"], TORCH), (["bn.running_mean", "bn.running_var"], PLAIN),
    (["bn.running_mean", "bn.running_var", "bn.num_batches_tracked"], TORCH), (["bn/mean", "bn/var", "bn/scale"], FLAX),
    (["bn/mean/value", "bn/var/value"], FLAX), (["bn.mean.value", "bn.var.value"], FLAX),
    (["bn.gamma", "bn.moving_mean", "bn.moving_var"], PLAIN)])
def test_the_framework_by_its_names(names, framework):
    port = port_of(dict.fromkeys(names, ONES), "s")
    assert port.framework is framework
    assert port.kind == ("arrays with names" if framework is PLAIN else f"a state of {framework.name}")


def test_what_belongs_to_no_batch_norm():
    arrays = {"bn.mean": ONES, "bn.var": ONES, "fc.weight": np.ones((3, 2)), "fc.bias": np.ones((1, 4)), "x.scale": np.float32(2),
              "odd": ONES,
              "bn.epsilon": np.array([0.25]), "q.eps": ONES}
    port = port_of(arrays, "s", {"bn": 0.25, "other": 1.0})
    assert [(layer.path, layer.epsilon, list(layer.arrays)) for layer in port.layers] == [("bn", 0.25, ["moving_mean", "moving_variance"])]
    assert {name: values.shape for name, values in port.others.items()} == {"fc.bias": (4,)}
    assert port_of({"bn.mean": ONES, "bn.var": ONES}, "s", {"bn": 0.5}).layers[0].epsilon == 0.5
    with pytest.raises(exporter.UnsupportedError, match="got odd"):
        port_of({"odd": ONES}, "s")
    with pytest.raises(exporter.UnsupportedError, match="got none"):
        port_of({}, "s")
    for second in (ONES, np.ones(0)):
        with pytest.raises(exporter.FormatError, match=r"both 'bn\.gamma' and 'bn\.weight' may be its gamma"):
            port_of({"bn.mean": ONES, "bn.var": ONES, "bn.gamma": ONES, "bn.weight": second}, "s")
    with pytest.raises(exporter.FormatError, match=r"s: bn: expected arrays of one length, got bn\.gamma: 2, bn\.mean: 3, bn\.var: 3"):
        port_of({"bn.mean": ONES, "bn.var": ONES, "bn.gamma": np.ones(2)}, "s")


@pytest.mark.parametrize(("name", "found"), [
    ("params/a/b/scale", ("a/b", "gamma")), ("a/params/scale", ("a", "gamma")), ("a/b/params/scale", ("a/b/params", "gamma")),
    ("bn.Weight", ("bn", "gamma")), ("bn.mean.raw_value", ("bn", "moving_mean")), ("value", ("", None)),
    ("a/~/b/~/mean_ema/average", ("a/b", "moving_mean")), ("a/b/var_ema/average", ("a/b", "moving_variance")),
    ("mean/value", ("", "moving_mean")), ("bn/mean/average", ("bn/mean", None)),
    ("average", ("", None)), ("mean_ema/average", ("mean_ema", None)), ("x_gamma", ("x", "gamma")),
    ("a.x_running_var", ("a.x", "moving_variance")),
    ("bn/beta:12", ("bn", "beta")), ("bn.EPS", ("bn", "epsilon")), ("aux:a_moving_mean", ("a", "moving_mean"))])
def test_a_name_taken_apart(name, found):
    assert parted(name) == found


def test_nested_arrays_are_found_by_their_paths():
    arrays = {}
    gather({"a": {"b": 1, "c": {"d": 2}}, "e": 3, 7: 4}, "", arrays, lambda value: None if value == 3 else np.array(value))
    assert {name: int(values) for name, values in arrays.items()} == {"a/b": 1, "a/c/d": 2, "7": 4}


def test_types_of_arrays():
    assert coarsest([np.zeros(1, "f4"), np.zeros(1, "f8")]) == "float32"
    assert coarsest([np.zeros(1, "f2"), np.zeros(1, "f4")]) == "float16"
    assert coarsest([np.zeros(1, "i8")]) == coarsest([np.zeros(1, "f8")]) == "float64"
    assert coarsest([]) == "float32"
    assert flat(np.zeros((2, 3), "i4"), "n", "w").shape == (6,)
    with pytest.raises(exporter.FormatError, match="w: n: expected numbers, got an array of type bool"):
        flat(np.zeros(2, bool), "n", "w")
    assert Ported(path="", arrays={"gamma": np.ones(1), "beta": np.ones(5)}, called={}, dtype="float32").channels == 5
    assert not Ported(path="", arrays={}, called={}, dtype="float32").text
    assert Port(name="n", kind="k", layers=()).others == {}


# as the layers that a diagnosis compares with

def test_the_layers_of_a_form_with_the_epsilons_that_are_said():
    def ported(path, **more):
        return Ported(**{"path": path, "arrays": {"moving_mean": ONES * 2, "moving_variance": ONES * 3, "gamma": ONES}, "called": {},
                         "dtype": "float32", **more})

    layers = (ported("a/x"), ported("a/y", epsilon=0.5), ported("b", epsilon=0.25, dtype="float64"),
              ported("c", dtype="float64", text=True),
              ported(""))
    port = Port(name="f", kind="k", layers=layers, notes=("n",), framework=TORCH)
    given = of_port(port, (("a/*", 0.1), ("*y", 0.2), ("nothing", 0.3)))
    assert [(layer.path, layer.epsilon, layer.dtype, layer.beta) for layer in given.bundle] == [
        ("a/x", 0.1, "float32", None), ("a/y", 0.2, "float32", None), ("b", 0.25, "float64", None), ("c", 1e-5, "float32", None),
        ("numbers", 1e-5, "float32", None)]
    assert [layer.name for layer in given.bundle] == ["x", "y", "b", "c", "numbers"]
    assumed = "the file does not contain epsilon: PyTorch's default, 1e-05, is assumed (set it with --epsilon)"
    assert given.notes == ("n", f"c: {assumed}", f"f: {assumed}")
    assert all(layer.moving_mean.tolist() == [2] * 3 and layer.moving_variance.tolist() == [3] * 3 for layer in given.bundle)
    plain = of_port(Port(name="f", kind="k", layers=(ported("c"),), framework=PLAIN), ())
    assert (plain.bundle.layers[0].epsilon, "Keras's default, 0.001, is assumed" in plain.notes[0]) == (1e-3, True)
    assert of_port(Port(name="f", kind="k", layers=(ported("c"),), framework=FLAX), ()).bundle.layers[0].epsilon == 1e-5
    with pytest.raises(exporter.UsageError, match="f: k without a batch norm"):
        of_port(Port(name="f", kind="k", layers=()), ())


# a PyTorch checkpoint, in the child, with a stand-in for torch

class Tensor:
    """As much of a torch.Tensor as the child uses."""

    def __init__(self, values, dtype=None):
        self.values, self.dtype = np.asarray(values), dtype or np.asarray(values).dtype.name
        self.shape = self.values.shape

    def detach(self):
        return self

    contiguous = cpu = detach

    def numel(self):
        return self.values.size

    def view(self, dtype):
        assert dtype == "int16"
        return Tensor(self.values.view(np.int16))

    def numpy(self):
        return self.values


@pytest.mark.skipif(sys.platform != "linux", reason="what the system tells of a process")
def test_the_child_has_limits(monkeypatch, tmp_path):
    """Of memory, as in any reading process: what it has, 4 GiB, and four times the file."""
    import resource

    noted = {}
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: noted.update({kind: pair}))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 40, 1 << 41))
    (tmp_path / "s.pt").write_bytes(bytes(1 << 20))
    torch_child._limit(str(tmp_path / "s.pt"))
    memory, hard = noted.pop(resource.RLIMIT_AS)
    assert noted == {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_CPU: (100, 101)}
    with open("/proc/self/statm", "rb") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    assert abs(memory - taken - (4 << 30) - (4 << 20)) < 1 << 20
    assert hard == 1 << 41


def child(monkeypatch, tmp_path, content):
    """(exit status, what it sends) of the child for a file that torch.load gives this for."""
    def load(path, map_location, weights_only):
        assert (path, map_location, weights_only) == (str(tmp_path / "s.pt"), "cpu", True)
        if isinstance(content, Exception):
            raise content
        return content

    torch = types.SimpleNamespace(load=load, **{name: name for name in ("float16", "bfloat16", "float32", "float64", "int64", "int16")})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "resource", None)  # no limits in this process
    sent = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=sent))
    return torch_child.main(str(tmp_path / "s.pt")), sent.getvalue()


def test_the_tensors_that_a_batch_norm_may_have_are_sent(monkeypatch, tmp_path):
    layer = make_layer("bn", seed=3)
    state = {name: Tensor(values) for name, values in making.torch_state(layer).items()}
    half = Tensor(np.array([0x3F80, 0xC000], np.uint16), "bfloat16")
    monkeypatch.setattr(torch_child, "MAX_CHANNELS", 8)
    status, data = child(monkeypatch, tmp_path, {"state_dict": {**state, "half": half, "one": Tensor(np.ones((1, 3, 1), np.float32))},
                                                 "kernel": Tensor(np.ones((2, 3), np.float32)), "long": Tensor(np.ones(9, np.float32)),
                                                 "epoch": 3, "mask": Tensor(np.ones(3, bool)), 5: {"x": Tensor(np.float64(2))}})
    assert status == 0
    metadata, tensors = parse(data)
    assert metadata == {}
    assert set(tensors) == {*(f"state_dict.{name}" for name in (*state, "half", "one")), "5.x"}
    for name, values in making.torch_state(layer).items():
        found = tensors[f"state_dict.{name}"]
        assert (found.shape, found.data) == (values.shape, values.tobytes())
        assert found.dtype == ("I64" if name.endswith("tracked") else "F32")
    assert (tensors["state_dict.half"].dtype, tensors["state_dict.half"].data) == ("BF16", half.values.tobytes())
    assert tensors["5.x"].dtype == "F64"


def test_what_torch_refuses(monkeypatch, tmp_path, capsys):
    import pickle

    assert child(monkeypatch, tmp_path, pickle.UnpicklingError("x"))[0] == torch_child.REFUSED == 3
    assert child(monkeypatch, tmp_path, RuntimeError("first line\nsecond"))[0] == torch_child.DAMAGED == 4
    assert child(monkeypatch, tmp_path, RuntimeError())[0] == 4
    assert capsys.readouterr().err == "RuntimeError: first line\nRuntimeError: \n"


def test_the_child_as_a_program(tmp_path):
    """In a process of its own, with the entries of sys.path that it is given."""
    (tmp_path / "torch.py").write_text("def load(path, **_):\n    raise RuntimeError(f'cannot read {path}')\n")
    with zipfile.ZipFile(tmp_path / "s.pt", "w") as archive:  # as torch writes it, and Python could import from it
        archive.writestr("torch.py", "raise SystemExit('executed')")
    done = subprocess.run([sys.executable, "-I", torch_child.__file__, str(tmp_path / "s.pt"), str(tmp_path), "relative", *sys.path],
                          capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"RuntimeError: cannot read {tmp_path / 's.pt'}\n"


def test_what_is_run_as_a_program(monkeypatch, tmp_path, capsys):
    resource = pytest.importorskip("resource", reason="limits of the system")
    (tmp_path / "torch.py").write_text("def load(path, **_):\n    raise RuntimeError(path)\n")
    (tmp_path / "s.pt").write_bytes(b"x")
    limited = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, _: limited.append(kind))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "argv", [torch_child.__file__, str(tmp_path / "s.pt"), str(tmp_path), "relative", *sys.path])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(torch_child.__file__, run_name="__main__")
    assert ended.value.code == 4
    assert capsys.readouterr().err == f"RuntimeError: {tmp_path / 's.pt'}\n"
    assert {resource.RLIMIT_CORE, resource.RLIMIT_CPU} <= {*limited}
    assert sys.path[0] == str(tmp_path)
    assert "relative" not in sys.path
    del sys.modules["torch"]  # for good; monkeypatch would put it back


@pytest.mark.parametrize(("status", "out", "kind", "words"), [
    (3, b"", exporter.UnsupportedError, "refuses it: it contains more than tensors"),
    (4, b"", exporter.FormatError, "torch.load cannot read it: RuntimeError: last"), (-9, b"", exporter.FormatError, "cannot read it"),
    (0, b"", exporter.FormatError, "."), (0, b"x" * 20, exporter.FormatError, ".")])
def test_how_the_child_may_end(monkeypatch, tmp_path, status, out, kind, words):
    from exporter.diagnosis.ports import torch_state as form

    monkeypatch.setattr(form.importlib.util, "find_spec", lambda name: object())
    asked = []

    def run(command, **options):
        asked.append(command)
        return types.SimpleNamespace(returncode=status, stdout=out, stderr=b"first\nsecond\nRuntimeError: last\n")

    monkeypatch.setattr(form.subprocess, "run", run)
    with pytest.raises(kind, match=words):
        form.read(at(tmp_path, b"x", "s.pt"))
    assert asked[0][:2] == [sys.executable, "-I"]
    assert asked[0][3] == str(tmp_path / "s.pt")


def test_what_the_child_says_is_part_of_the_error_alone(monkeypatch, tmp_path, capfd):
    """With a stand-in for torch, in the folders where this process looks for it."""
    (tmp_path / "torch.py").write_text("def load(path, **_):\n    print('out')\n    raise RuntimeError(f'cannot read {path}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(exporter.FormatError, match=r"^s\.pt: torch\.load cannot read it: RuntimeError: cannot read /.*/s\.pt$"):
        torch_state.read(at(tmp_path, b"x", "s.pt"))
    assert capfd.readouterr() == ("", "")


def test_a_child_that_takes_too_long(monkeypatch, tmp_path):
    from exporter.diagnosis.ports import torch_state as form

    def run(command, *, timeout, **options):
        assert timeout == 120
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(form.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(form.subprocess, "run", run)
    with pytest.raises(exporter.FormatError, match=r"^s.pt: reading it did not end within 120 seconds$"):
        form.read(at(tmp_path, b"x", "s.pt"))


def test_what_the_child_sends_is_a_port(monkeypatch, tmp_path):
    from exporter.diagnosis.ports import torch_state as form

    layer = make_layer("bn", seed=3)
    state = {name: Tensor(values) for name, values in making.torch_state(layer).items()}
    state["bn.bias"] = Tensor((layer.beta.view(np.uint32) >> 16).astype(np.uint16), "bfloat16")
    data = child(monkeypatch, tmp_path, state)[1]
    monkeypatch.setattr(form.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(form.subprocess, "run", lambda command, **options: types.SimpleNamespace(returncode=0, stdout=data, stderr=b""))
    port = form.read(at(tmp_path, b"x", "s.pt"))
    assert (port.framework, len(port.layers)) == (TORCH, 1)
    for name, values in layer.parameters().items():
        want = (values.view(np.uint32) >> 16 << 16).view(np.float32) if name == "beta" else values
        assert np.array_equal(port.layers[0].arrays[name], want), name


def test_without_torch_the_extra_is_named(monkeypatch, tmp_path):
    from exporter.diagnosis.ports import torch_state as form

    monkeypatch.setattr(form.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(exporter.MissingExtra, match="torch"):
        form.read(at(tmp_path, b"x"))


@pytest.mark.parametrize(("data", "yes"), [
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.rest", True), (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x18.", False),
    (b"PK\3\4" + bytes(22) + b"\x0d\0" + bytes(2) + b"name/data.pklx", True),
    (b"PK\3\4" + bytes(22) + b"\x08\0" + bytes(2) + b"data.pkl", False),
    (b"PK\3\4" + bytes(22) + b"\x0c\0" + bytes(2) + b"name/data.pklx", False), (b"", False)])
def test_a_checkpoint_of_pytorch_is_known_by_its_first_bytes(tmp_path, data, yes):
    from exporter.diagnosis.ports import torch_state as form

    assert form.claims(at(tmp_path, data)) == yes


def test_bundles_are_no_foreign_forms(tmp_path):
    for suffix in (".npz", ".safetensors", ".json"):
        exporter.write(make_bundle(make_layer("bn")), tmp_path / f"b{suffix}")
        assert ports.read(Place(tmp_path / f"b{suffix}")) is None
    assert ports.read(Place(tmp_path)) is None
    assert ports.read(Place(tmp_path / "absent")) is None


def test_numbers_of_a_json_object_are_text(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text('{"mean": [1, 2], "variance": [1, 2]}')
    assert flat_json.claims(Place(tmp_path / "a.json"))
    assert all(layer.text for layer in flat_json.read(Place(tmp_path / "a.json")).layers)
    monkeypatch.setattr(flat_json, "MAX_BYTES", 10)
    assert not flat_json.claims(Place(tmp_path / "a.json"))


@pytest.mark.parametrize(("name", "is_one"), [("archive/data.pkl", True), ("data.pkl", False), ("archive/data.txt", False)])
def test_a_state_of_torch_by_its_first_member(tmp_path, name, is_one):
    with zipfile.ZipFile(tmp_path / "s", "w") as file:
        file.writestr(name, b"")
        file.writestr("archive/data.pkl" if not is_one else "other", b"")
    assert torch_state.claims(Place(tmp_path / "s")) is is_one


def test_one_number_stands_for_all_channels():
    given = of_numbers({"gamma": numbers("[1.5, 2]"), "mean": numbers("0.5")}, 1e-3)
    (layer,) = given.bundle
    assert (layer.gamma.tolist(), layer.moving_mean.tolist()) == ([1.5, 2], [0.5, 0.5])


@pytest.mark.parametrize("name", ["gamma", "beta", "mean", "variance"])
def test_numbers_of_another_length_are_named_by_their_option(name):
    given = {**{each: numbers("[1, 2, 3]") for each in ("gamma", "beta", "mean", "variance")}, name: numbers("[1, 2]")}
    with pytest.raises(exporter.UsageError, match=f"^--{name}: expected 3 numbers, one a channel, got 2$"):
        of_numbers(given, 1e-3)


@pytest.mark.parametrize(("names", "epsilon", "notes"), [
    (["mean", "variance"], 1e-3, []), (["gamma", "variance"], 1e-3, ["moving_mean was not given: 0 is assumed"]),
    (["mean"], None, ["moving_variance was not given: 1 is assumed", "epsilon was not given: Keras's default, 0.001, is assumed"]),
    (["beta"], 0.0, ["moving_mean was not given: 0 is assumed", "moving_variance was not given: 1 is assumed"])])
def test_what_is_assumed_of_numbers_is_said(names, epsilon, notes):
    given = of_numbers({name: numbers("[0.5, 2]") for name in names}, epsilon)
    (layer,) = given.bundle
    assert list(given.notes) == notes
    assert layer.moving_mean.tolist() == ([0.5, 2] if "mean" in names else [0, 0])
    assert layer.moving_variance.tolist() == ([0.5, 2] if "variance" in names else [1, 1])
    assert layer.epsilon == (1e-3 if epsilon is None else epsilon)
    assert layer.axis == (-1,), "the channels are last, also in an input with two axes of their length"


@pytest.mark.parametrize("kind", [">f4", "<f8", ">i2", "|u1"])
def test_numbers_of_any_byte_order(kind):
    file = io.BytesIO()
    np.save(file, np.array([[1, 2, 3]], kind))
    found = array_state._npy(file.getvalue(), "w")
    assert (found.tolist(), found.dtype.isnative) == ([[1, 2, 3]], True)


def test_numbers_in_column_major_order():
    for order in "CF":
        file = io.BytesIO()
        np.save(file, np.array([[1, 2, 3], [4, 5, 6]], np.float32, order=order))
        assert array_state._npy(file.getvalue(), "w").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_layer_is_of_bfloat16_where_an_array_of_its_own_is(tmp_path):
    full, half = (safetensors.Tensor(kind, (2,), np.ones(2, dtype).tobytes()) for kind, dtype in (("F32", "<f4"), ("BF16", "<u2")))
    (tmp_path / "s").write_bytes(safetensors.dump({f"{layer}.{name}": half if (layer, name) == ("b", "weight") else full for layer in "abc"
                                                   for name in ("running_mean", "running_var", "weight")}, {}))
    assert [(layer.path, layer.dtype) for layer in array_state.read(Place(tmp_path / "s")).layers] == [
        ("a", "float32"), ("b", "bfloat16"), ("c", "float32")]


def test_tensors_of_types_that_no_batch_norm_has_are_left_out(tmp_path):
    ones, bits = (safetensors.Tensor(kind, (2,), data) for kind, data in (("F32", np.ones(2, "<f4").tobytes()), ("BOOL", b"\1\1")))
    (tmp_path / "s").write_bytes(safetensors.dump({"bn.running_mean": ones, "bn.running_var": ones, "bn.weight": bits}, {}))
    (layer,) = array_state.read(Place(tmp_path / "s")).layers
    assert list(layer.arrays) == ["moving_mean", "moving_variance"]


def test_names_with_paths_in_a_json_object(tmp_path):
    (tmp_path / "a.json").write_text('{"bn.running_mean": [1, 2], "bn.running_var": [3, 4]}')
    port = flat_json.read(Place(tmp_path / "a.json"))
    assert [layer.path for layer in port.layers] == ["bn"]
    assert of_port(port, ()).bundle.layers[0].dtype == "float32", "text has no type"
    (tmp_path / "b.json").write_text('{"bn.gamma": [1, 2]}')
    with pytest.raises(exporter.UnsupportedError, match="expected an object with mean and variance"):
        flat_json.read(Place(tmp_path / "b.json"))

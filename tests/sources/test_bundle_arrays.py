"""Bundles as .npz and .safetensors: read by the libraries of those formats, read back bit for bit, and refused where they are damaged."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

import exporter
from exporter.batchnorm.gate import MAX_NUMBERS
from exporter.errors import BundleError, ExporterError, FormatError, OutputError
from exporter.files.place import Place
from exporter.formats import npy
from exporter.formats.safetensors import Tensor, dump, parse
from exporter.formats.zip_writer import stored_zip
from exporter.sources import bundle_arrays
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import make_bundle, make_layer, mixed, same_layer


@pytest.mark.parametrize(("name", "with_vectors"), [
    ("b.npz", True), ("b.npz", False), ("b.safetensors", True), ("b.safetensors", False), ("b.zip", True), ("b/", True)])
def test_every_form_gives_the_same_document_back(name, with_vectors, tmp_path):
    bundle, target = mixed(), f"{tmp_path}/{name}"
    exporter.write(bundle, tmp_path / "direct.json")
    exporter.write(bundle, target, WriteOptions(vectors=with_vectors))
    back = exporter.load(target)
    for a, b in zip(bundle, back):
        assert same_layer(a, b)
    assert bool(back.vectors) == with_vectors
    exporter.write(back, tmp_path / "back.json")
    assert (tmp_path / "back.json").read_bytes() == (tmp_path / "direct.json").read_bytes()


def test_the_names_of_pytorch_lose_nothing(tmp_path):
    bundle = mixed()
    bundle = bundle.replace(layers=tuple(layer for layer in bundle if len(layer.shape) == 1))
    exporter.write(bundle, tmp_path / "b.safetensors", WriteOptions(names="torch"))
    back = exporter.load(tmp_path / "b.safetensors")
    assert len(back) == 4
    for a, b in zip(bundle, back):
        assert same_layer(a, b)


def test_what_is_claimed(tmp_path):
    """Not a zip archive that is cut short: which kind it was is another's to say."""
    for name in ("b.npz", "b.zip", "b.safetensors"):
        exporter.write(mixed(), tmp_path / name)
        assert bundle_arrays.claims(Place(tmp_path / name)), name
        (tmp_path / "cut").write_bytes((tmp_path / name).read_bytes()[:-20])
        assert bundle_arrays.claims(Place(tmp_path / "cut")) is (name == "b.safetensors")
    np.savez(tmp_path / "other.npz", gamma=np.ones(3))
    assert not bundle_arrays.claims(Place(tmp_path / "other.npz"))
    (tmp_path / "other.safetensors").write_bytes(raw({"x": entry(end=11, dtype="U8", shape=(11,))}, b'"bn-bundle"'))  # in its data
    assert not bundle_arrays.claims(Place(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "zip"])
def test_any_form_is_a_model_for_the_command(suffix, tmp_path, run):
    from exporter.commands.export import export

    exporter.write(make_bundle(), tmp_path / f"b.{suffix}")
    code, _, err = run(export, tmp_path / f"b.{suffix}", tmp_path / "out.json")
    assert (code, err) == (0, "")
    exporter.write(make_bundle(), tmp_path / "direct.json")
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "direct.json").read_bytes()


# --- .npz ---------------------------------------------------------------------------------------------------------------------------------


def test_numpy_reads_the_npz(tmp_path):
    bundle = mixed()
    exporter.write(bundle, tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz", allow_pickle=False) as arrays:
        stems = {**{path: path for path in bundle.paths()}, "ключ/\\ ..": "ключ__ _"}  # a backslash and dots could lead out of a folder
        for layer in bundle:
            for name, values in layer.parameters().items():
                found = arrays[f"{stems[layer.path]}/{name}"]
                assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes())
            assert arrays[f"{stems[layer.path]}/epsilon"] == layer.epsilon
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


LEADS_OUT = ["../x", "a/../../x", "/etc/x", "C:/x", "..\\x", "a\\b", ".. /x", "..", "__x", "___x", "a/..b", "a/b"]


def test_no_member_of_an_npz_leads_out_of_the_folder_it_is_extracted_to(tmp_path):
    bundle = make_bundle(*(make_layer(path, seed=seed) for seed, path in enumerate(LEADS_OUT)))
    exporter.write(bundle, tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "b.npz") as archive:
        names = archive.namelist()
    assert len(set(names)) == len(names) == 1 + 5 * len(LEADS_OUT)
    for name in names:
        parts = name.split("/")
        assert not name.startswith("/")
        assert not set("\\:") & set(name)
        assert not any(part.strip(". ") == "" for part in parts)
    for kept in ("a/..b", "a/b", "__x"):
        assert f"{kept}/gamma.npy" in names
    back = exporter.load(tmp_path / "b.npz")
    assert back.paths() == LEADS_OUT
    assert all(same_layer(a, b) for a, b in zip(bundle, back))


def test_epsilon_beside_a_name_that_was_changed_is_compared_too(tmp_path):
    exporter.write(make_bundle(make_layer("../x")), tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "b.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    [name] = [name for name in members if name.endswith("/epsilon.npy")]
    (tmp_path / "bad.npz").write_bytes(stored_zip({**members, name: npy.dump(np.array(0.5))}.items()))
    with pytest.raises(BundleError, match=r"the document 0\.001"):
        exporter.load(tmp_path / "bad.npz")


def changed_npz(tmp_path, **changes):
    """A good .npz of one layer, "bn", with members replaced ("gamma", "epsilon", "document") or left out (None)."""
    from exporter.targets import numpy_npz

    (tmp_path / "good.npz").write_bytes(numpy_npz.write(make_bundle(make_layer("bn")), WriteOptions()))
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
    (None, "missing"), (npy.dump(FOUR), "the digest does not match the layers: the bundle was modified or damaged after it was written"),
    (npy.dump(FOUR[:3]), r"expected the layer's shape \[4\], got \[3\]"),
    (npy.dump(FOUR.astype(np.float64)), "expected an array of float32 values, got float64"),
    (npy.dump(FOUR)[:-1], "expected 16 bytes for shape"),
    (npy.dump(FOUR).replace(b"(4,)", b"(9,)"), "expected 36 bytes for shape"),
    (npy.dump(FOUR).replace(b"<f4", b"|O8"), "expected an array of one of <f2, <f4, <f8"),
    (npy.dump(FOUR).replace(b"False", b"True "), "expected a .npy array of version 1.0 in row-major order"),
    (b"", "expected a .npy array of version 1.0 in row-major order")]


@pytest.mark.parametrize(("data", "message"), BAD_ARRAYS)
def test_a_damaged_npz_is_refused(data, message, tmp_path):
    with pytest.raises(ExporterError, match=message):
        exporter.load(changed_npz(tmp_path, gamma=data))


@pytest.mark.parametrize("dtype", ["int8", None, 4, "float"])
def test_a_type_that_no_layer_has_is_refused_as_in_any_bundle(tmp_path, dtype):
    with np.load(changed_npz(tmp_path)) as arrays:
        content = json.loads(arrays["bn-bundle"].tobytes())
    content["layers"][0]["dtype"] = dtype
    document = npy.dump(np.frombuffer(json.dumps(content).encode(), np.uint8))
    with pytest.raises(BundleError) as caught:
        exporter.load(changed_npz(tmp_path, document=document))
    assert "foresaw" not in str(caught.value)


def test_an_npz_that_says_two_things_is_refused(tmp_path):
    assert len(exporter.load(changed_npz(tmp_path))) == 1
    assert len(exporter.load(changed_npz(tmp_path, epsilon=None))) == 1
    with pytest.raises(BundleError, match=r"the array contains 0.002, the document 0.001"):
        exporter.load(changed_npz(tmp_path, epsilon=npy.dump(np.array(0.002))))
    with pytest.raises(ExporterError, match="strict JSON"):
        exporter.load(changed_npz(tmp_path, document=npy.dump(np.frombuffer(b"{", np.uint8))))
    with pytest.raises(BundleError, match="format"):
        exporter.load(changed_npz(tmp_path, document=npy.dump(np.frombuffer(b"[]", np.uint8))))


def test_vectors_whose_rows_differ_in_length_are_refused(tmp_path):
    exporter.write(make_bundle(), tmp_path / "b.json")
    content = json.loads((tmp_path / "b.json").read_text("utf-8"))
    content["layers"][0]["vectors"]["input"][0].append(1.0)
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="vectors: expected rows of 4 numbers as input and output of the vectors"):
        exporter.load(tmp_path / "b.json")


def test_names_that_a_zip_archive_cannot_hold():
    with pytest.raises(OutputError, match="a zip archive cannot contain the name 'a"):
        stored_zip([("a\0b", b"")])


# --- .safetensors -------------------------------------------------------------------------------------------------------------------------


def test_safetensors_reads_the_file(tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    bundle = mixed().replace(layers=tuple(layer for layer in mixed() if layer.dtype != "bfloat16"))
    exporter.write(bundle, tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")
    assert len(found) == sum(len(layer.parameters()) for layer in bundle)
    for layer in bundle:
        for name, values in layer.parameters().items():
            array = found[f"{layer.path}/{name}"]
            assert (array.dtype, array.shape, array.tobytes()) == (values.dtype, values.shape, values.tobytes())


@pytest.mark.thorough("PyTorch")
def test_bfloat16_through_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from safetensors.torch import load_file

    layer = make_layer("bn", dtype="bfloat16")
    exporter.write(make_bundle(layer), tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")["bn/gamma"]
    assert found.dtype == torch.bfloat16
    assert found.float().numpy().tobytes() == layer.gamma.tobytes()


def safetensors_file(tmp_path, tensors=None, **metadata):
    """A .safetensors of one layer, "bn", whose tensors and metadata are replaced."""
    from exporter.formats.safetensors import parse
    from exporter.targets import safetensors_file

    good, good_tensors = parse(safetensors_file.write(make_bundle(make_layer("bn")), WriteOptions()))
    good_tensors |= tensors or {}
    (tmp_path / "b.safetensors").write_bytes(dump({k: v for k, v in good_tensors.items() if v}, good | metadata))
    return tmp_path / "b.safetensors"


@pytest.mark.parametrize(("tensor", "message"), [
    (None, "which the document refers to, is missing"),
    (Tensor("F32", (4,), FOUR.tobytes()), "the digest does not match the layers: the bundle was modified or damaged after it was written"),
    (Tensor("F64", (4,), FOUR.astype("<f8").tobytes()), "expected a tensor of float32 values, got type F64"),
    (Tensor("F32", (2, 2), FOUR.tobytes()), r"expected the layer's shape \[4\], got \[2, 2\]")])
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
    (raw({**META, "a": entry(4, 8)}, b"12345678"), "the tensors of the safetensors file overlap or leave a gap"),
    (raw({**META, "a": entry(), "b": entry()}, b"1234"), "the tensors of the safetensors file overlap or leave a gap"),
    (raw({**META, "a": entry()}, b"12345"), "expected 4 bytes of tensors in the safetensors file, got 5"),
    (raw({**META, "a": entry(0, 8)}, b"12345678"), "does not fit its 8 bytes"),
    (raw({**META, "a": entry(shape=(1 << 62, 4))}, b"1234"), "does not fit"),
    (raw({**META, "a": entry(-4, 0)}, b"1234"), "not lists of sizes"),
    (raw({**META, "a": entry(dtype="F31")}, b"1234"), "the type 'F31' is not a safetensors type"),
    (raw({**META, "a": entry(shape=(True,))}, b"1234"), "not lists of sizes"),
    (raw({**META, "a": {"dtype": "F32"}}), "expected an entry with dtype, shape and data_offsets"),
    (raw({"__metadata__": {"bn-bundle": 1}}), "expected the safetensors metadata to map strings to strings"),
    (raw({"__metadata__": {"x": '"bn-bundle"', "y": "bn-bundle"}, "bn-bundle": entry()}, b"1234"), "has no \"bn-bundle\""),
    (raw(META), "its format is not"),
    (raw(b'{"__metadata__":{"bn-bundle":"{}"},"__metadata__":{"bn-bundle":"{}"}}'), "occurs more than once in one JSON object"),
    (raw(META)[:-3], "cut short"), (raw(b'{"bn-bundle"'), "strict JSON")])
def test_a_damaged_safetensors_file_is_refused(data, message, tmp_path):
    (tmp_path / "b.safetensors").write_bytes(data)
    with pytest.raises((FormatError, BundleError), match=message):
        exporter.load(tmp_path / "b.safetensors")


# --- the limit of all numbers together --------------------------------------------------------------------------------------------------


def test_many_layers_that_name_one_array_are_refused_before_they_take_memory(tmp_path):
    exporter.write(make_bundle(make_layer("big", shape=(1 << 16,))), tmp_path / "b.npz", vectors=False)
    with np.load(tmp_path / "b.npz") as archive:
        arrays = dict(archive)
    document = json.loads(arrays["bn-bundle"].tobytes())
    document["layers"] = [{**document["layers"][0], "path": f"big_{i}"} for i in range(1000)]
    document["layers"][-1]["gamma"] = "absent"  # it is not even looked for
    arrays["bn-bundle"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    np.savez_compressed(tmp_path / "many.npz", **arrays)
    with pytest.raises(FormatError, match=r"many.npz: expected at most 16777216 numbers in all batch norms of a model, got more"):
        exporter.load(tmp_path / "many.npz")


def test_the_limit_holds_of_documents(tmp_path, monkeypatch):
    bundle = mixed()
    exporter.write(bundle, tmp_path / "b.json")
    count = sum(values.size for layer in bundle for values in layer.parameters().values())
    monkeypatch.setattr("exporter.batchnorm.gate.MAX_NUMBERS", count)
    assert exporter.load(tmp_path / "b.json") == bundle
    monkeypatch.setattr("exporter.batchnorm.gate.MAX_NUMBERS", count - 1)
    with pytest.raises(FormatError, match=f"expected at most {count - 1} numbers in all batch norms"):
        exporter.load(tmp_path / "b.json")


def test_an_array_may_have_all_the_numbers_that_a_bundle_may_have():
    header = 256  # bytes, of an .npy file
    assert 8 * MAX_NUMBERS + header <= bundle_arrays.MAX_ARRAY < 16 * MAX_NUMBERS


def test_a_document_of_very_many_values_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    (tmp_path / "b.json").write_text('{"format": "bn-bundle", "version": 1, "layers": [' + "0," * 3000 + "0]}")
    monkeypatch.setattr("exporter.sources.bundle.MAX_VALUES", 3000)
    with pytest.raises(FormatError, match=r"b.json: the bundle: expected at most 3000 values in the JSON, got 3002 commas"):
        exporter.load(tmp_path / "b.json")


@pytest.mark.parametrize("name", ["x" * length for length in range(1, 9)])
def test_numbers_in_safetensors_begin_at_a_multiple_of_eight(tmp_path, name):
    """As the format asks, so that they can be used in place."""
    exporter.write(make_bundle(make_layer(name)), tmp_path / "b.safetensors")
    assert int.from_bytes((tmp_path / "b.safetensors").read_bytes()[:8], "little") % 8 == 0


def test_the_momentum_of_pytorch_is_the_part_that_is_new(tmp_path):
    """Keras's 0.99 is PyTorch's 0.01."""
    exporter.write(make_bundle(make_layer("bn", momentum=0.99)), tmp_path / "b.safetensors", WriteOptions(names="torch"))
    metadata, _ = parse((tmp_path / "b.safetensors").read_bytes())
    assert metadata["bn.momentum"] == "0.01"

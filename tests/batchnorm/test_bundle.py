"""The gate, the digest, and the bundle's JSON: bit-exact numbers, deterministic bytes, strict reading."""

from __future__ import annotations

import json
import re
import struct

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import exporter
from exporter.batchnorm import document, schema, vectors
from exporter.batchnorm import layer as layer_module
from exporter.batchnorm.bundle import Digest
from exporter.batchnorm.dtypes import HELD_IN, round_to, stored_bytes
from exporter.batchnorm.gate import remarks_on
from exporter.errors import BundleError, FormatError, LayerError, UnsupportedError
from exporter.pipeline.resolve import resolve
from exporter.sources.shared.options import ReadOptions
from exporter.targets import bundle_json
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import make_bundle, make_found, make_layer, make_stored, same_layer

DTYPES = ("float16", "bfloat16", "float32", "float64")


def written(bundle, **options):
    return bundle_json.write(bundle, WriteOptions(**options))


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_bit_patterns_survive_both_ways_of_parsing(dtype):
    """Parsed as a double and rounded, and parsed directly as the dtype: 200 000 random patterns each, zeros and subnormals among them."""
    random = np.random.default_rng(7)
    count = 200_000
    if dtype == "float64":
        values = random.integers(0, 2**64, count, np.uint64).view(np.float64)
    elif dtype == "float32":
        values = random.integers(0, 2**32, count, np.uint32).view(np.float32)
    elif dtype == "float16":
        values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    else:
        values = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    values = values[np.isfinite(values)]
    smallest = 2.0**-133 if dtype == "bfloat16" else np.finfo(values.dtype).smallest_subnormal
    values = np.concatenate([values, np.array([0.0, -0.0, smallest], values.dtype)])
    text = orjson.dumps(document.portable(values), option=orjson.OPT_SERIALIZE_NUMPY)
    as_double = np.array(json.loads(text), np.float64)
    assert round_to(as_double, dtype).tobytes() == values.tobytes()
    if dtype == "float64":
        return
    # Parsed directly: the decimal lies nearer to the value than to any other (a margin far above a double's rounding), or exactly
    # halfway, where parsers round to the even one.
    wide = values.astype(np.float64)
    with np.errstate(over="ignore"):
        half = np.minimum(np.abs(np.spacing(values)), np.finfo(values.dtype).max).astype(np.float64) / 2
    if dtype == "bfloat16":
        half *= 2**16
    distance = np.abs(as_double - wide)
    shift = 16 if dtype == "bfloat16" else 0
    even = (values.view({2: np.uint16, 4: np.uint32}[values.itemsize]) >> shift) % 2 == 0
    assert ((distance < half * (1 - 2.0**-20)) | ((distance == half) & even)).all()


@pytest.mark.parametrize("sign", [0, 0x80000000])
def test_the_one_float32_whose_shortest_decimal_is_rounded_twice(sign):
    """7.038531e-26 as a double lies halfway to the neighbor; the bundle writes more digits."""
    value = np.array([0x15AE43FD | sign], np.uint32).view(np.float32)
    shortest = float(orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))[0])
    assert np.float32(shortest).tobytes() != value.tobytes(), "then the exception would not be needed"
    layer = make_layer(shape=(3,)).replace(beta=np.float32([1.5, value[0], 0.1]))
    entry = json.loads(written(make_bundle(layer)))["layers"][0]
    assert np.float32(entry["beta"]).tobytes() == layer.beta.tobytes()


@given(st.data())
def test_round_trip_of_any_layer(tmp_path_factory, data):
    dtype = data.draw(st.sampled_from(DTYPES))
    rank = data.draw(st.integers(1, 3))
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank)))
    numbers = st.floats(-1e4, 1e4, width=64)

    def array(elements):
        return round_to(data.draw(hnp.arrays(np.float64, shape, elements=elements)), dtype)

    name = data.draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
    epsilon = data.draw(st.floats(1e-9, 1))
    layer = make_layer(name, shape=shape, axis=tuple(range(1, rank + 1)), dtype=dtype, epsilon=epsilon,
                       assumed=("epsilon",), converted=("moving_variance",),
                       effective_epsilon=data.draw(st.sampled_from([None, max(epsilon, 1.001e-05)])))
    layer = layer.replace(gamma=data.draw(st.sampled_from([None, array(numbers)])), beta=array(numbers), moving_mean=array(numbers),
                          moving_variance=array(st.floats(0, 1e4, width=64)))
    bundle = make_bundle(layer, skipped=(("a", "why"),))
    path = tmp_path_factory.mktemp("b") / "out.json"
    exporter.write(bundle, path)
    back = exporter.load(path)
    assert same_layer(back.layers[0], layer)
    assert back.skipped == bundle.skipped
    assert back.origin == bundle.origin
    assert back.digest() == bundle.digest()
    assert written(back) == path.read_bytes()


def test_keys_stand_in_the_documented_order_and_the_bytes_are_stable():
    text = written(make_bundle())
    content = json.loads(text)
    assert list(content) == ["format", "version", "producer", "source", "formula", "digest", "layers"]
    assert list(content["layers"][0]) == ["name", "path", "class_name", "axis", "shape", "ndim", "dtype", "epsilon", "momentum", "gamma",
                                          "beta",
                                          "moving_mean", "moving_variance", "vectors"]
    assert written(make_bundle()) == text
    assert "vectors" not in json.loads(written(make_bundle(), vectors=False))["layers"][0]


def test_digest_is_what_the_format_says():
    """docs/format.md, "digest", computed here by hand."""
    import hashlib

    layer = make_layer("é/bn", shape=(2,), axis=(3,), beta=False)
    data = "é/bn".encode() + b"\0float32\0" + struct.pack("<IiII", 1, 3, 1, 2) + struct.pack("<d", 1e-3)
    data += b"\1" + layer.gamma.tobytes() + b"\0" + b"\1" + layer.moving_mean.tobytes() + b"\1" + layer.moving_variance.tobytes()
    assert make_bundle(layer).digest() == "sha256:" + hashlib.sha256(data).hexdigest()
    other = layer.replace(class_name="Other", momentum=None, assumed=("axis",))
    assert make_bundle(other).digest() == make_bundle(layer).digest()
    assert make_bundle(layer.replace(epsilon=1e-5)).digest() != make_bundle(layer).digest()


@pytest.mark.parametrize("begun", [(), (0,), (0, 1), (0, 1, 2), (1,), (1, 0, 2), (0, 1, 2, 3), (0, 0)])
def test_the_digest_is_that_of_the_layers_at_the_end(begun):
    """Whatever layers were known before: all, some, others, or in another order."""
    layers = [make_layer(f"bn_{number}", seed=number) for number in range(4)]
    bundle = make_bundle(*layers[:3])
    digest, writer = Digest(), bundle_json.JsonWriter(WriteOptions())
    for each in begun:
        digest.add([layers[each]])
        writer.layers([layers[each]])
    assert digest.of(bundle.layers) == bundle.digest()
    assert b"".join(writer.end(bundle)) == written(bundle)


def test_bfloat16_is_hashed_as_two_bytes():
    assert stored_bytes(np.float32([1.0, -2.0]), "bfloat16") == b"\x80\x3f\x00\xc0"


@pytest.mark.parametrize(("change", "words"), [
    ({"gamma": np.float32([1, np.nan, 3, 4])}, r"encoder/bn_1: gamma\[1\] is NaN"),
    ({"beta": np.float32([1, 2, 3, np.inf])}, r"beta\[3\] is infinite"),
    ({"moving_mean": np.float32([1, 2, 3])}, r"expected moving_mean of shape \[4\], got \[3\]"),
    ({"moving_variance": np.float32([1, 2, -4, 4])}, r"moving_variance\[2\] is -4 and epsilon 0.001"),
    ({"moving_variance": np.float32([1, 0, 1, 4]), "epsilon": 0.0}, r"moving_variance\[1\] is 0 and epsilon 0"),
    ({"moving_variance": np.float64([1, 0, 1, 4])}, "expected moving_variance of type float32, got float64"),
    ({"epsilon": -1.0}, "expected an epsilon of 0 or more that fits float32, got -1.0"),
    ({"epsilon": float("nan")}, "expected an epsilon of 0 or more that fits float32, got nan"),
    ({"epsilon": 1e39}, "expected an epsilon of 0 or more that fits float32, got 1e"),
    ({"axis": (1, 2)}, r"axis \[1, 2\] does not fit parameters of shape \[4\]"), ({"axis": (0,)}, "axis 0 is the batch"),
    ({"axis": (4,), "ndim": 4}, "axis 4 does not fit an input of rank 4"), ({"axis": (-4,), "ndim": 4}, "axis -4 does not fit"),
    ({"dtype": "int8"}, "int8")])
def test_the_gate_refuses_what_the_formula_cannot_use(change, words):
    with pytest.raises(LayerError, match=words):
        make_layer().replace(**change)


def test_an_axis_named_twice_is_seen_where_the_rank_is_known():
    """Axes 1 and -1 are two in every rank but 2."""
    layer = make_layer(shape=(2, 2), axis=(1, -1))
    assert layer.replace(ndim=4).axis == (1, -1)
    with pytest.raises(LayerError, match=r"axis \[1, -1\] lists one axis twice"):
        layer.replace(ndim=2)


def test_the_gate_lets_odd_but_usable_numbers_pass():
    fine = make_layer().replace(gamma=np.float32([0, -0.0, 1e-45, 3e38]), moving_variance=np.float32([0, 7e-44, 1.9e9, 3.4e38]))
    assert remarks_on(fine.path, fine.moving_variance) == []
    odd = make_stored(moving_variance=np.float32([1, -1e-12, 1, 1]))
    assert "moving_variance[1] is slightly negative" in resolve(make_found(odd), ReadOptions()).warnings[0]


def test_there_is_no_layer_that_did_not_pass_the_gate():
    for fields in ({"epsilon": None}, {"epsilon": "1"}, {"axis": None}, {"axis": -2.0}, {"moving_variance": np.float32([1, 2, 3, -4])}):
        with pytest.raises(LayerError, match="encoder/bn_1: "):
            make_layer(**fields)
        with pytest.raises(LayerError, match="encoder/bn_1: "):
            make_layer().replace(**fields)
    with pytest.raises(TypeError, match="Stored"):
        make_bundle(make_stored())


def test_there_is_no_bundle_that_did_not_pass_the_gate():
    with pytest.raises(UnsupportedError, match="the model contains no BatchNormalization layer"):
        make_bundle().replace(layers=())
    with pytest.raises(LayerError, match="occurs twice"):
        make_bundle(make_layer(), make_layer())
    with pytest.raises(LayerError, match="occurs twice"):
        make_bundle(make_layer("a"), make_layer("b")).replace(layers=(make_layer("c"), make_layer("c")))


def test_a_layer_is_checked_once_on_its_way_into_a_file(monkeypatch, tmp_path):
    exporter.write(make_bundle(*(make_layer(f"bn_{number}") for number in range(20))), tmp_path / "b.json")
    checked = []
    monkeypatch.setattr(layer_module, "check_layer", lambda path, **fields: checked.append(path))
    exporter.write(exporter.read(tmp_path / "b.json"), tmp_path / "again.json")
    assert len(checked) == len(set(checked)) == 20
    checked.clear()
    found = make_found(make_stored("a"), make_stored("b"), make_stored("c", epsilon=0.5))
    exporter.write(resolve(found, ReadOptions()), tmp_path / "c.json")
    assert checked == ["a", "c"]  # b is like a, and its numbers are checked with those of a


def test_a_bundle_is_a_collection_of_layers():
    bundle = make_bundle(make_layer("a"), make_layer("b"))
    assert len(bundle) == 2
    assert [layer.path for layer in bundle] == bundle.paths() == ["a", "b"]
    assert "a" in bundle
    assert "c" not in bundle
    with pytest.raises(KeyError, match="no layer 'c'; the bundle has a, b"):
        bundle["c"]
    with pytest.raises(ValueError, match="read-only"):
        bundle["a"].gamma[0] = 1


def test_what_is_remarked_of_a_bundle():
    raised = [make_layer(path, epsilon=epsilon, effective_epsilon=1.001e-5) for path, epsilon in (("b", 1e-6), ("c", 1e-7))]
    bundle = make_bundle(make_layer("a"), *raised, warnings=("first",), skipped=(("d", "x"), ("e", "y"), ("f", "x")))
    assert bundle.remarks() == [
        "first", "2 of 3 layers ran in a fused kernel that used epsilon 1.001e-05, not the config's 1e-06 (first: b); --effective-epsilon "
        "writes that value as epsilon", "skipped d, f: x", "skipped e: y"]
    assert make_bundle().remarks() == []


@pytest.mark.parametrize(("edit", "words"), [
    (lambda b: b.update(format="x"), "this is not a bundle"),
    (lambda b: b.update(version=2), "expected a bundle of version 1, got version 2"),
    (lambda b: b.update(version=True), "version True"), (lambda b: b.pop("digest"), "'digest' is a required property"),
    (lambda b: b.update(digest="sha256:" + "0" * 64), "the digest does not match the layers"),
    (lambda b: b.update(layers=3), "is not of type 'array'"),
    (lambda b: b["layers"][0].update(gamma=[1, 2, 3]), "in gamma, got 3"),
    (lambda b: b["layers"][0].update(gamma=[1, 2, 3, "4"]), "'4' is not of type 'number'"),
    (lambda b: b["layers"][0].update(gamma=[1, 2, 3, True]), "True is not of type 'number'"),
    (lambda b: b["layers"][0].update(gamma=[1, 2, 3, 1e39]), "does not fit float32"),
    (lambda b: b["layers"][0].update(epsilon="0.001"), "is not of type 'number'"),
    (lambda b: b["layers"][0].update(dtype="int8"), "is not one of"),
    (lambda b: b["layers"][0].pop("beta"), "'beta' is a required property"),
    (lambda b: b["layers"][0].update(epsilon=0.002), "the digest does not match the layers"),
    (lambda b: b["layers"][0]["vectors"].update(input=[[1, 2]]), "expected rows of 4 numbers as input and output of the vectors"),
    (lambda b: b["layers"].append(b["layers"][0]), "occurs twice")])
def test_a_reader_refuses_what_breaks_the_contract(edit, words, tmp_path):
    content = json.loads(written(make_bundle()))
    edit(content)
    path = tmp_path / "b.json"
    path.write_text(json.dumps(content))
    with pytest.raises((BundleError, LayerError, FormatError), match=words) as error:
        exporter.load(path)
    assert str(error.value).startswith("b.json: ")


def test_unknown_keys_are_ignored_and_other_files_are_no_bundle(tmp_path):
    content = json.loads(written(make_bundle()))
    content["layers"][0]["color"] = "blue"
    path = tmp_path / "b.json"
    path.write_text(json.dumps({**content, "more": [1]}))
    assert same_layer(exporter.load(path).layers[0], make_layer())
    path.write_text("{}")
    with pytest.raises(FormatError, match="this is not a bundle"):
        exporter.load(path)


def test_the_schema_describes_every_field_and_is_valid():
    import jsonschema

    content = json.loads(schema.path().read_text())
    jsonschema.Draft202012Validator.check_schema(content)

    def walk(node):
        for name, field in node.get("properties", {}).items():
            assert field.get("description"), name
            walk(field)
            walk(field.get("items", {}))

    walk(content)
    walk(content["$defs"]["layer"])


def test_plain_jsonschema_accepts_what_is_written():
    import jsonschema

    jsonschema.validate(json.loads(written(make_bundle())), json.loads(schema.path().read_text()))


@pytest.mark.parametrize("values", [np.float32([1, np.nan]), np.array([1, 2]), np.float32([[1, 2]]), np.array(["a"])])
def test_arrays_are_checked_as_arrays(values):
    content = document.document(make_bundle())
    content["layers"][0]["beta"] = values
    with pytest.raises(BundleError, match=r"layers\[0\].beta"):
        schema.validate(content)


def test_every_held_dtype_has_a_unit():
    from exporter.batchnorm.dtypes import TINY, UNIT

    assert set(HELD_IN) == set(UNIT) == set(TINY) == set(DTYPES)


@pytest.mark.parametrize(("fields", "said"), [
    ({"effective_epsilon": 0.5}, "expected kernel_epsilon to be effective_epsilon, 0.5, in float32, got 1.001e-05"),
    ({"effective_epsilon": 1e-7, "kernel_epsilon": 1e-7}, "expected an effective_epsilon of at least epsilon, 1e-06, got 1e-07"),
    ({"kernel_epsilon": 1e-3}, "expected kernel_epsilon to be effective_epsilon, 1.001e-05, in float32, got 0.001"),
    ({"kernel_epsilon": 1e-5}, "in float32, got 1e-05")])
def test_the_epsilon_of_a_kernel_is_said_twice_alike(tmp_path, fields, said):
    exporter.write(make_bundle(make_layer(epsilon=1e-6, effective_epsilon=1.001e-5)), tmp_path / "b.json")
    content = json.loads((tmp_path / "b.json").read_text())
    content["layers"][0].update(fields)
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises((exporter.BundleError, exporter.LayerError), match=re.escape(said)):
        exporter.load(tmp_path / "b.json")


def test_vectors_of_many_channels_are_made_in_parts_and_alike(monkeypatch):
    """Also of several dimensions, without a parameter, and next to the largest numbers of the dtype."""
    layers = [make_layer(shape=(5, 7), axis=(1, 2)), make_layer(shape=(40,), dtype="bfloat16").replace(gamma=None),
              make_layer(shape=(40,), dtype="float16").replace(moving_mean=np.full(40, 65504, np.float16)),
              make_layer(shape=(33,), dtype="float64", ndim=4, axis=(3,))]
    whole = [vectors.make(layer) for layer in layers]
    monkeypatch.setattr(vectors, "AT_ONCE", 16)
    for layer, (x, y) in zip(layers, whole, strict=True):
        in_parts = vectors.make(layer)
        assert [rows.tobytes() for rows in in_parts] == [x.tobytes(), y.tobytes()]
        assert {rows.dtype for rows in in_parts} == {x.dtype}


def test_the_text_of_large_layers_is_made_while_it_is_written(monkeypatch):
    rare = np.array([0x15AE43FD], np.uint32).view(np.float32)[0]  # one that has more digits, and so has all its array
    large = make_layer("large", shape=(50,)).replace(beta=np.float32([*range(49), rare]))
    bundle = make_bundle(make_layer("a"), large, make_layer("wide", shape=(25, 2), axis=(1, 2), dtype="float64").replace(gamma=None))
    want = bundle_json.write(bundle, WriteOptions())
    monkeypatch.setattr(bundle_json, "LARGE", 10)
    writer = bundle_json.writer(WriteOptions())
    writer.layers(bundle.layers)
    assert [made.path for made, _ in writer._made.values()] == ["a"]
    assert b"".join(writer.end(bundle)) == want
    assert b"7.03853" in want
    assert max(map(len, writer.end(bundle))) < len(want) / 8

"""The checks made of the schema against jsonschema, which has the last word: it accepts what they accept, and they what is written."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.batchnorm import document, schema, schema_checks
from exporter.batchnorm.places import Call, Neighbor
from tests.make.layers import make_bundle, make_layer

SCHEMA = json.loads(schema.path().read_text())
AUTHORITY = jsonschema.Draft202012Validator(SCHEMA)
ACCEPTS = schema_checks.compiled(SCHEMA, SCHEMA)
CONVOLUTION = Neighbor(path="conv", class_name="Conv2D", axis=3, use_bias=False, activation="relu", padding="same", is_shared=True)
CALL = Call((CONVOLUTION,), (Neighbor(path="out", class_name="ReLU"),))


def rich_bundle():
    """Every field that a document may have is in one of its layers."""
    return make_bundle(
        make_layer("plain"), make_layer("one call", calls=(CALL,), assumed=("epsilon",), converted=("moving_variance",)),
        make_layer("two calls", calls=(CALL, CALL), quantized="uint8", epsilon=1e-5, effective_epsilon=2e-5, called_in_training=True),
        make_layer("bare", shape=(2, 3), axis=(1, 2), dtype="float64", momentum=None).replace(gamma=None, beta=None),
        skipped=(("lost", "no epsilon"),))


def as_json(content):
    return json.loads(json.dumps(content, default=np.ndarray.tolist))


def is_whole_float_inside(value):
    """Whether there is a 2.0, which jsonschema takes for an integer, too."""
    if isinstance(value, (dict, list)):
        return any(map(is_whole_float_inside, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()


def test_the_sample_has_every_field_of_the_schema():
    entries = as_json(document.document(rich_bundle()))
    assert set(entries) == set(SCHEMA["properties"])
    assert {field for entry in entries["layers"] for field in entry} == set(SCHEMA["$defs"]["layer"]["properties"])
    assert set(entries["layers"][1]["inputs"][0]) == set(SCHEMA["$defs"]["neighbor"]["properties"])


def test_what_is_written_is_accepted_with_arrays_and_as_json():
    content = document.document(rich_bundle())
    assert ACCEPTS(content)
    assert ACCEPTS(as_json(content))
    assert ACCEPTS(document.document(make_bundle(), with_vectors=False))


@pytest.mark.thorough("much time: every part of the schema; any of them, drawn by chance, is judged always")
def test_each_part_in_turn_is_judged_as_jsonschema_judges_it():
    """By the compiled checks, and by the validator that also accepts arrays and writes the error messages."""
    good = as_json(document.document(rich_bundle()))
    good["layers"] = good["layers"][2:3]
    others = [None, True, 0, 1, -1, 1.5, 1.0, "", "x", "float32", [], [1], [1.5, 2], ["a"], [[1.5]], [[]], [None], {}, {"a": 1}]
    counted = {True: 0, False: 0}

    def check(what):
        theirs = next(AUTHORITY.iter_errors(good), None) is None
        assert (next(schema._validator().iter_errors(good), None) is None) == theirs, what
        ours = ACCEPTS(good)
        assert ours == theirs or (theirs and what[-1] == 1.0), what
        counted[ours] += 1

    def visit(node, above):
        for key in list(node) if isinstance(node, dict) else range(min(len(node), 2)):
            old = node[key]
            for other in others:
                node[key] = other
                check((*above, key, other))
            node[key] = old
            if isinstance(node, dict):
                del node[key]
                check((*above, key, "gone"))
                node[key] = old
            if isinstance(old, (dict, list)):
                visit(old, (*above, key))

    visit(good, ())
    assert min(counted.values()) > 200


@pytest.mark.parametrize("keyword", [
    {"type": "string"}, {"type": ["integer", "null"]}, {"const": 1}, {"enum": ["a", 1]}, {"pattern": "^a"}, {"minimum": 1}, {"minItems": 1},
    {"maxItems": 1}, {"items": {"type": "number"}}, {"properties": {"a": {"type": "number"}}}, {"required": ["a"]}], ids=str)
def test_a_keyword_says_nothing_of_other_types(keyword):
    """Each by itself, as jsonschema takes it."""
    check, authority = schema_checks.compiled(keyword, SCHEMA), jsonschema.Draft202012Validator(keyword)
    for value in (None, True, 0, 1, 2, -1, 0.5, 1.5, "", "a", "b", [], [1], [1, 2], ["a"], {}, {"a": 1}, {"a": "x"}, {"b": 1}):
        assert check(value) == authority.is_valid(value), value


WORDS = st.sampled_from(["", "float16", "x", "bn-bundle"])
KEYS = st.sampled_from(["path", "class_name", "axis", "y"])
VALUES = st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | WORDS,
                      lambda inner: st.lists(inner, max_size=9) | st.dictionaries(KEYS, inner))
PARTS = [SCHEMA["$defs"]["neighbor"], *SCHEMA["$defs"]["layer"]["properties"].values(), *SCHEMA["properties"].values()]


@settings(max_examples=3 * settings.default.max_examples)
@given(st.sampled_from(PARTS), VALUES)
def test_any_value_at_any_part_is_judged_as_jsonschema_judges_it(part, value):
    theirs = AUTHORITY.evolve(schema=part).is_valid(value)
    ours = schema_checks.compiled(part, SCHEMA)(value)
    assert ours == theirs or (theirs and is_whole_float_inside(value))


@pytest.mark.parametrize(("field", "values", "fits"), [
    ("beta", np.float32([1, 2]), True), ("beta", np.float16([1]), True), ("beta", np.float32([]), False), ("beta", np.array([1, 2]), False),
    ("beta", np.float32([1, np.nan]), False), ("beta", np.float32([1, np.inf]), False), ("beta", np.float32([[1, 2]]), False),
    ("beta", np.array(["a"]), False), ("beta", np.float64(3), False), ("axis", np.float32([1]), False), ("name", np.float32([1]), False)])
def test_an_array_is_fine_where_its_list_is(field, values, fits):
    content = document.document(make_bundle())
    content["layers"][0][field] = values
    assert ACCEPTS(content) == fits


@pytest.mark.parametrize(("rows", "fits"), [
    (np.zeros((2, 4)), True), (np.zeros((0, 4)), False), (np.zeros((2, 0)), False), (np.zeros(4), False), (np.zeros((2, 2, 1)), False),
    (np.full((2, 4), np.nan), False)])
def test_vectors_are_rows_of_numbers(rows, fits):
    content = document.document(make_bundle())
    content["layers"][0]["vectors"]["input"] = rows
    assert ACCEPTS(content) == fits
    assert (next(schema._validator().iter_errors(content), None) is None) == fits


@pytest.mark.parametrize("change", [{"maximum": 1}, {"anyOf": [{"type": "number"}]}, {"items": {"type": "number"}, "uniqueItems": True}])
def test_a_keyword_that_is_not_known_leaves_it_to_jsonschema(change):
    assert not schema_checks.compiled({"type": ["number", "array"], **change}, SCHEMA)(1.5)
    changed = copy.deepcopy(SCHEMA)
    changed["$defs"]["layer"]["properties"]["gamma"]["items"] |= {"maximum": 3}
    accepts = schema_checks.compiled(changed, changed)
    content = document.document(make_bundle(make_layer().replace(gamma=np.float32([9, 9, 9, 9]))))
    assert not accepts(content)
    assert not accepts(as_json(content))


def test_subclasses_of_numbers_are_left_to_jsonschema():
    content = document.document(make_bundle())
    content["layers"][0]["epsilon"] = np.float64(0.5)
    assert not ACCEPTS(content)
    schema.validate(content)


def test_an_export_and_its_reading_import_no_jsonschema(tmp_path):
    path = str(tmp_path / "b.json")
    program = ("import sys; import exporter; from tests.make.layers import make_bundle; "
               f"exporter.write(make_bundle(), {path!r}); exporter.load({path!r}); print(*sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "jsonschema" not in done.stdout.split()


@pytest.mark.parametrize("folder", ["exporter/schemas", "schemas"])
def test_the_schema_lies_in_the_package_or_beside_it(tmp_path, monkeypatch, folder):
    (tmp_path / "exporter" / "batchnorm").mkdir(parents=True)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "bundle-1.schema.json").touch()
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "exporter" / "batchnorm" / "schema.py"))
    assert schema.path() == tmp_path / folder / "bundle-1.schema.json"

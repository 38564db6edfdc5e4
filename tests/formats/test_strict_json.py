"""JSON of an input: what is read, and the text of every refusal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import FormatError
from exporter.formats.strict_json import MAX_DEPTH, MAX_NUMBER_LENGTH, parse_json

NOT_STRICT = "this is not strict JSON: "  # then orjson's own words

values = st.recursive(st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats(allow_nan=False, allow_infinity=False)
                      | st.text(st.characters(exclude_categories=["Cs"])),
                      lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner))


@given(values, st.booleans())
def test_reads_what_json_writes(value, escaped):
    assert parse_json(json.dumps(value, ensure_ascii=escaped), "x") == value


@given(values, st.sampled_from(['a', '"', '\\', '":', '\\"', '{"a":1}', 'é', '\n']))
def test_finds_a_repeated_key_whatever_stands_around_it(value, key):
    around = json.dumps(value)
    encoded = json.dumps(key)
    with pytest.raises(FormatError, match="occurs more than once in one JSON object"):
        parse_json(f'[{around}, {{{encoded}: 1, "other": {around}, {encoded}: 2}}]', "x")


@pytest.mark.parametrize(("text", "what"), [
    ('{"layers": [], "layers": [1]}', "the key 'layers' occurs more than once in one JSON object"),
    ('[{"a": 1, "b": {"c": 1}, "d": 2}, {"x": 1, "y": 2, "x": 3, "y": 4}]', "the key 'x' occurs more than once in one JSON object"),
    ('{"a\\"b": 1, "a\\u0022b": 2}', "the key 'a\"b' occurs more than once in one JSON object"),
    ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"expected JSON nested at most {MAX_DEPTH} levels deep, got more"),
    ("[" * 100_000, f"expected JSON nested at most {MAX_DEPTH} levels deep, got more"),
    ('{"a":' * 2000 + "1" + "}" * 2000, f"expected JSON nested at most {MAX_DEPTH} levels deep, got more"),
    ("1" * (MAX_NUMBER_LENGTH + 1), f"expected numbers of at most {MAX_NUMBER_LENGTH} characters in the JSON, got a longer one"),
    ("1e400", NOT_STRICT),
    ("[NaN]", NOT_STRICT),
    ("-Infinity", NOT_STRICT),
    ("{} {}", NOT_STRICT),
    ("", NOT_STRICT),
    ('{"a": 1', NOT_STRICT),
    ("\ufeff{}", NOT_STRICT),
    (b'"\xff"', NOT_STRICT),
    ("\ud800", "the JSON is not UTF-8"),
    ('"\\ud800"', NOT_STRICT),
    ('"\n"', NOT_STRICT),
])
def test_refusals(text, what):
    with pytest.raises(FormatError) as caught:
        parse_json(text, "model_config")
    assert str(caught.value).startswith(f"model_config: {what}")


@pytest.mark.parametrize("length", [MAX_NUMBER_LENGTH + 1, 3 * MAX_NUMBER_LENGTH])
def test_a_long_number_is_found_wherever_it_stands(length):
    for before in range(MAX_NUMBER_LENGTH // 8 + 1):  # a part of the characters is looked at first
        with pytest.raises(FormatError, match="expected numbers of at most"):
            parse_json(" " * before + "[" + "7" * length + "]", "x")


def test_depth_and_number_at_the_limit_are_read():
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "x") is not None
    assert parse_json("0." + "1" * (MAX_NUMBER_LENGTH - 2), "x") == pytest.approx(1 / 9)


def test_brackets_and_long_digits_inside_strings_do_not_count():
    text = json.dumps(["[" * 1000, "1" * 1000, '\\"[{', {"a": ":"}])
    assert parse_json(text, "x") == json.loads(text)


def test_a_limit_on_size():
    with pytest.raises(FormatError, match="expected at most 10 bytes of JSON, got 12"):
        parse_json("[1, 2, 3, 4]", "x", limit=10)

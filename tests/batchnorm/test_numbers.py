"""Numbers that people have: typed, printed, in files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.diagnosis.samples import from_text, half_unit, looks_like_numbers, numbers, read
from exporter.errors import ExporterError, UsageError


@pytest.mark.parametrize(("word", "half"), [
    ("0.30664611", 0.5e-8), ("0.543057", 0.5e-6), ("-1", 0.5), ("4.", 0.5), (".25", 0.005), ("1e-3", 0.5e-3), ("1.50e2", 0.5),
    ("+2.5E-3", 0.5e-4), ("nan", 0), ("-inf", 0)])
def test_half_a_unit_of_the_last_digit(word, half):
    assert half_unit(word) == pytest.approx(half, rel=1e-12)


@pytest.mark.parametrize(("text", "shape"), [
    ("1, 5", (2,)), ("1 5", (2,)), ("[1,5]", (2,)), ("[[1. 5.]\n [2. 6.]]", (2, 2)), ("0.5", ()), ("[0.5]", (1,)),
    ("((1, 2), (3, 4))", (2, 2)), ("1;2;3", (3,)), ("[[[[-1]\n[1]]]]", (1, 1, 2, 1))])
def test_brackets_give_the_shape(text, shape):
    assert from_text(text).values.shape == shape
    assert looks_like_numbers(text)


@pytest.mark.parametrize("text", ["[1, 2", "1]", "[[1, 2], [3]]", "one", "", "[]", "1,,x", "["])
def test_what_are_no_numbers(text):
    with pytest.raises(ExporterError):
        from_text(text)


def test_arrays_are_exact_lists_are_typed():
    assert numbers(np.array([1.5, 2])).half is None
    assert numbers([1.5, 2]).half.tolist() == [0.05, 0.5]
    assert numbers(0.25).half == 0.005
    with pytest.raises(UsageError, match="contains no numbers"):
        numbers(np.array(["a"]))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20))
def test_what_python_and_json_print_is_read_back(values):
    for text in (repr(values), json.dumps(values)):
        found = from_text(text)
        assert found.values.tolist() == values or (len(values) == 1 and found.values.item() == values[0])
        assert (np.abs(found.half) <= np.maximum(0.5, np.abs(found.values))).all()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=8))
def test_what_numpy_prints_is_read_to_its_digits(values):
    array = np.array(values, np.float32)
    found = from_text(np.array2string(array, max_line_width=60))
    assert (np.abs(found.values - array) <= found.half * 1.0000001 + 1e-7 * np.abs(array)).all()


def test_files(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3) + 0.5
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "one.npz", array)
    np.savez(tmp_path / "two.npz", input=array, output=2 * array, more=3 * array)
    (tmp_path / "a.csv").write_text("a,b,c\n0.5,1.5,2.5\n3.5,4.5,5.5\n")
    (tmp_path / "column.csv").write_text("0.5\n1.5\n")
    (tmp_path / "a.txt").write_text(str(array))
    (tmp_path / "a.json").write_text(json.dumps(array.tolist()))
    (tmp_path / "o.json").write_text(json.dumps({"input": array.tolist(), "output": (2 * array).tolist()}))
    for name in ("a.npy", "one.npz", "two.npz", "a.csv", "a.txt", "a.json", "o.json"):
        assert np.array_equal(read(str(tmp_path / name), "input").values, array), name
    assert np.array_equal(read(str(tmp_path / "two.npz"), "output").values, 2 * array)
    assert np.array_equal(read(str(tmp_path / "o.json"), "output").values, 2 * array)
    assert np.array_equal(read(f"{tmp_path / 'two.npz'}:more", "output").values, 3 * array)
    assert read(str(tmp_path / "column.csv"), "input").values.shape == (2,)
    assert read(str(tmp_path / "a.csv"), "input").half.tolist() == np.full((2, 3), 0.05).tolist()
    assert read("1, 5", "input").values.tolist() == [1, 5]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("missing.npy", None, "no such file"),
    ("a.npy", b"\x93NUMPY\x01\x00garbage", "cannot be read"),
    ("a.npz", b"PK\x03\x04garbage", "cannot be read"),
    ("a.bin", b"\xff\xfe\x00\x80", "not a .npy, .npz, .csv or .json"),
    ("a.csv", b"1,2\n3,x\n", "'x' is not a number"),
    ("ragged.csv", b"1,2\n3\n", "rows of different lengths"),
    ("a.json", b'{"a": [1], "b": [2]}', "contains the arrays a, b"),
    ("twice.json", b'{"a": [1], "a": [2]}', "occurs more than once in one JSON object")])
def test_files_that_hold_no_numbers(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExporterError, match=message):
        read(str(path), "input")


def test_a_pickle_in_an_array_is_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "a.npz", np.array([{"a": 1}], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ExporterError, match="cannot be read"):
            read(str(tmp_path / name), "input")

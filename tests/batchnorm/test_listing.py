"""The table of a bundle's layers, as text and as HTML."""

from __future__ import annotations

import re

import pytest

from exporter.batchnorm import listing
from exporter.batchnorm.bundle import Origin
from tests.make.layers import make_bundle, make_layer, make_stored, mixed

ODD = "\x1b[2J\u202e\x07\x9b<b>&"


def shown(bundle):
    return listing.table(bundle.origin, bundle.layers)


def odd():
    """A bundle with an odd character in every field of text that a file can fill."""
    layer = make_layer(ODD, assumed=(ODD,), converted=(ODD,), quantized=ODD)
    return make_bundle(layer, origin=Origin(file=ODD, kind=ODD, keras_version=ODD, backend=ODD, tensorflow_version=ODD))


def test_each_layer_is_a_line_of_aligned_cells():
    lines = shown(mixed()).splitlines()
    assert lines[0] == "model.h5 (keras-h5, Keras 2.4.0, tensorflow): 5 batch norms, 22 channels"
    assert lines[2].split() == list(listing.HEADINGS)
    assert [line[lines[2].index("dtype"):].split()[0] for line in lines[3:]] == ["float32", "float16", "bfloat16", "float64", "float32"]
    assert "no gamma, no beta" in lines[7]
    assert "effective epsilon 1.001e-05" in lines[6]
    assert "assumed: axis; quantized uint8" in lines[5]


def test_nothing_of_a_file_reaches_the_terminal_or_the_page_as_it_is():
    text = shown(odd())
    assert not re.search("[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    page = odd()._repr_html_()
    assert not re.search("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|<b>|&(?!lt;|gt;|amp;|quot;|#x27;)", page)


@pytest.mark.parametrize(("count", "rows", "end"), [(2, 2, "</table>"), (3, 3, "</table>"), (4, 3, "<p>and 1 more</p>"),
                                                    (9, 3, "<p>and 6 more</p>")])
def test_a_page_shows_the_first_rows_of_many(monkeypatch, count, rows, end):
    monkeypatch.setattr(listing, "MAX_ROWS", 3)
    page = make_bundle(*(make_layer(f"bn{number}") for number in range(count)))._repr_html_()
    assert page.count("<tr>") == 1 + rows
    assert page.endswith(end)


@pytest.mark.parametrize(("fields", "last"), [
    ({}, ("encoder/bn_1", "4", "-1", "0.001", "float32", "all four", "")), ({"gamma": None}, ("no gamma", "")),
    ({"gamma": None, "beta": None}, ("no gamma, no beta", "")),
    ({"assumed": ("axis", "epsilon"), "converted": ("moving_variance",), "class_name": "lab>Own", "called_in_training": True},
     ("assumed: axis, epsilon; converted: moving_variance; class lab>Own; called with training=True",))])
def test_the_cells_of_a_row(fields, last):
    assert listing.cells(make_layer().replace(**fields))[-len(last):] == last


def test_the_row_of_a_layer_that_cannot_be_used():
    row = listing.cells(make_stored(axis=None, quantized="uint8"), "moving_variance[0] is -4")
    assert (row[2], row[-1]) == ("", "cannot be used: moving_variance[0] is -4; quantized uint8")
    row = listing.cells(make_layer("x" * 90, shape=(2, 3), axis=(1, -1), class_name="y" * 400))
    assert (len(row[0]), row[1], row[2], len(row[-1])) == (80, "2x3", "1,-1", 300)

"""The page of a comparison: what it lists, what it leaves out of two models that have nothing in common, and that it stays text."""

from __future__ import annotations

import re

import numpy as np
import pytest

from exporter.batchnorm.dtypes import round_to
from exporter.batchnorm.places import Call, Neighbor
from exporter.diagnosis import comparison_page
from exporter.diagnosis.comparison import compare
from exporter.diagnosis.comparison_page import page
from exporter.diagnosis.ports.port import of_bundle
from tests.make.layers import make_bundle, make_layer


def written(mine, theirs):
    port = of_bundle(theirs, "second.json")
    return page(compare(mine, port, (), "second.json"), mine, "first.json", port).decode()


def test_the_channels_that_are_farthest_apart_are_listed_with_all_their_digits():
    layer = make_layer("a", shape=(20,))
    other = layer.replace(beta=layer.beta + np.float32(0.25) * (np.arange(20) % 3 == 0))
    text = written(make_bundle(layer), make_bundle(other))
    rows = re.findall(r"<tr><td>(\d+)</td><td>([^<]*)</td><td>([^<]*)</td><td>0.25</td></tr>", text)
    assert sorted(int(channel) for channel, _, _ in rows) == [0, 3, 6, 9, 12, 15, 18]
    assert text.count("<tr><td>") == 7 + 1, "and the layer"
    for channel, first, second in rows:
        assert np.float32(first) == layer.beta[int(channel)]
        assert np.float32(second) == other.beta[int(channel)]


def test_what_is_equal_after_rounding_is_called_so_and_what_differs_is_not():
    layer = make_layer("a")
    half = layer.replace(dtype="float16", **{name: round_to(values, "float16") for name, values in layer.parameters().items()})
    assert '<span class="equal">equal after rounding to float16</span>' in written(make_bundle(layer), make_bundle(half))
    other = written(make_bundle(layer), make_bundle(half.replace(beta=half.beta + np.float16(1))))
    assert '<span class="differs">differs</span>' in other
    assert "after rounding" not in other


def test_numbers_that_are_none_and_very_small_ones_are_listed():
    layer = make_layer("a").replace(beta=np.float32([1e-30, -3e20, 0, 1]))
    other = layer.replace(beta=np.float32([2e-30, 3e20, -0.0, 1]))
    text = written(make_bundle(layer), make_bundle(other))
    half = layer.replace(beta=np.float32([1, 2, 0.5, 1]))
    assert "<td>0.0</td><td>0.5</td><td>0.5</td>" in written(make_bundle(layer), make_bundle(half))
    for value, shown in ((1e6, "1.e+06"), (999999, "999999.0"), (1e-4, "0.0001"), (0.9e-4, "9.e-05"), (-2e6, "-2.e+06")):
        some = layer.replace(beta=np.float32([value, 0, 0, 0]))
        assert f"<td>{shown}</td>" in written(make_bundle(some), make_bundle(layer)).replace(".0e", ".e")
    assert "<td>1.e-30</td>" in text or "<td>1.0e-30</td>" in text
    assert "<td>-3.e+20</td>" in text or "<td>-3.0e+20</td>" in text


def test_a_page_of_two_models_that_have_nothing_in_common_stays_small(monkeypatch):
    monkeypatch.setattr(comparison_page, "MAX_DRAWN", 5)
    mine, theirs = (make_bundle(*(make_layer(f"bn_{number}", seed=seed + number) for number in range(10))) for seed in (0, 100))
    text = written(mine, theirs)
    assert text.count("<svg") == 5
    assert re.search(r"Drawn are the first 5 of \d\d arrays that differ", text)
    assert "Drawn are" not in written(mine, mine)


def test_where_a_layer_stands_and_what_tells_the_page_apart():
    calls = (Call((Neighbor(path="<b>conv", class_name="Conv2D"),), (Neighbor(path="relu", class_name="ReLU"),)),)
    layer = make_layer("a", calls=calls)
    mine = make_bundle(layer)
    text = written(mine, make_bundle(layer.replace(beta=layer.beta + 1)))
    assert "after &lt;b&gt;conv (Conv2D), before relu (ReLU)" in text
    assert f"<title>first.json and second.json · 1 layer, {mine.digest()[7:15]}</title>" in text
    assert f"first.json: 1 layer, {mine.digest()[7:15]}; second.json: 1 layer." in text


def test_the_mistakes_are_explained_on_the_page():
    layer = make_layer("a")
    text = written(make_bundle(layer), make_bundle(layer.replace(gamma=layer.beta, beta=layer.gamma)))
    assert "<dl><dt><code>BN133</code> gamma and beta swapped</dt><dd>assign the arrays by name: gamma is the factor</dd></dl>" in text
    assert text.count("<code>BN133</code> is the layer&#x27;s") == 2
    same = written(make_bundle(layer), make_bundle(layer))
    assert "<dl>" not in same
    assert '<p class="equal"><strong>' in same
    assert '<span class="equal">equal</span>' in same
    missing = written(make_bundle(layer, make_layer("b", shape=(7,))), make_bundle(layer, make_layer("c", shape=(5,))))
    assert '<td><bdi>b</bdi></td><td>…</td><td class="differs">not in second.json </td>' in missing
    assert '<td>…</td><td><bdi>c</bdi></td><td class="differs">not in first.json</td>' in missing
    fields = written(make_bundle(layer), make_bundle(layer.replace(epsilon=1e-5, axis=(1,))))
    assert "<p>axis : [-1] and [1]</p>" in fields
    assert "<p>epsilon <code>BN103</code> the default of PyTorch" in fields
    assert ": 0.001 and 1e-05</p>" in fields


def test_drawings_have_each_channel_where_it_belongs():
    layer = make_layer("a").replace(beta=np.float32([0, 1, 2, 4]))
    text = written(make_bundle(layer), make_bundle(layer.replace(beta=np.float32([0, 1, 2, 3]))))
    assert re.findall(r'<circle cx="(\d+)" cy="(\d+)" r="2"/>', text) == [("0", "120"), ("30", "90"), ("60", "60"), ("120", "30")]
    assert "1 of 4 channels differ, most channel 3: 4 and 3" in text
    moved = written(make_bundle(layer.replace(beta=layer.beta - 7)), make_bundle(layer.replace(beta=np.float32([-7, -6, -5, -4]))))
    assert re.findall(r"<circle[^>]*>", moved) == re.findall(r"<circle[^>]*>", text), "from the lowest to the highest"
    nothing = layer.replace(beta=np.float32([5, 5, 5, 5]))
    assert 'cx="0" cy="0"' in written(make_bundle(layer.replace(beta=np.zeros(4, np.float32))), make_bundle(nothing))


def test_of_very_many_channels_some_are_drawn(monkeypatch):
    monkeypatch.setattr(comparison_page, "MAX_DOTS", 8)
    layer = make_layer("a", shape=(100,)).replace(beta=np.arange(100, dtype=np.float32))
    other = np.arange(100, dtype=np.float32)
    other[[7, 13, 21, 50]] += 3
    text = written(make_bundle(layer), make_bundle(layer.replace(beta=other)))
    drawn = re.findall(r"<circle", text)
    assert 6 <= len(drawn) <= 8
    found = {int(x) for x in re.findall(r'cx="(\d+)"', text)}
    assert {round(value * 120 / 99) for value in (0, 7, 13, 21, 50, 99)} <= found


@pytest.mark.parametrize(("mine", "theirs", "dots"), [
    ([1, 2], [1, 2], 2), ([np.nan, 2], [1, 2], 1), ([1, 2], [1, np.inf], 1), ([np.nan], [1], 0), ([5], [5], 1)])
def test_only_finite_numbers_are_drawn(mine, theirs, dots):
    drawing = comparison_page._scatter(np.array(mine, float), np.array(theirs, float))
    assert drawing.count("<circle") == dots
    assert "nan" not in drawing

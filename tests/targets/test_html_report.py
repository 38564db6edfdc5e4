"""The report: the page's text and drawings, and the page at work in a real browser (skipped where there is none)."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import time
from html.parser import HTMLParser

import numpy as np
import pytest

import exporter
from exporter.batchnorm.bundle import Origin
from exporter.batchnorm.findings import findings
from exporter.batchnorm.places import Call, Neighbor
from exporter.targets import html_report, target_for
from exporter.targets.shared import channel_data
from exporter.targets.shared.drawing import HEADROOM, HEIGHT, WIDTH, histogram, number, power, ranges, short
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import make_bundle, make_layer

HOSTILE = "encoder/</script><script>alert(1)</script>\u202egnp\"'<img src=x onerror=alert(1)>&amp;$title/\x00\ud800bn_1"
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\x00", "\\x00").replace("\ud800", "\\ud800")


def model(count):
    """A bundle of `count` layers of 16 to 2048 channels like those of a trained network, some of them with findings."""
    random = np.random.default_rng(7)
    layers = []
    for i in range(count):
        n = int(random.choice([16, 32, 64, 128, 256, 512, 1024, 2048]))
        gamma, beta, mean = random.normal(1, 0.2, n), random.normal(-0.2, 0.4, n), random.normal(0, 0.5, n)
        variance = np.exp(random.normal(-1, 1, n) + random.normal())
        if i % 9 == 1:
            gamma[: n // 8] = 0
        if i % 7 == 1:
            variance[: n // 4] = 1e-7
        arrays = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance}
        layer = make_layer(f"backbone/stage{i // 100 + 1}/conv{i}_bn", shape=(n,), epsilon=1.001e-5, ndim=4)
        layers.append(layer.replace(**{name: values.astype(np.float32) for name, values in arrays.items()}))
    return make_bundle(*layers)


def write(bundle):
    return html_report.write(bundle, WriteOptions())


class Page(HTMLParser):
    """The tags with their attributes, and the text outside script and style."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.inside = [], [], []
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not self.inside or self.inside[-1] not in ("script", "style"):
            self.text.append(data)


def test_the_suffix_chooses_it_and_the_command_writes_it(run, tmp_path):
    from exporter.commands import export as cli

    assert target_for("a.HTML") is html_report
    exporter.write(make_bundle(), tmp_path / "bundle.json")
    assert run(cli.export, tmp_path / "bundle.json", tmp_path / "report.html")[0] == 0
    assert (tmp_path / "report.html").read_bytes().startswith(b"<!DOCTYPE html>")


def test_the_same_bundle_gives_the_same_bytes():
    assert write(model(5)) == write(model(5))
    assert b"$" not in write(model(2))


@pytest.mark.thorough("much time: five hundred layers")
def test_five_hundred_layers_stay_below_three_megabytes_and_say_what_is_left_out():
    page = write(model(500))
    assert len(page) < 3_000_000
    parsed = Page(page)
    held = [attributes for tag, attributes in parsed.tags if tag == "div" and attributes.get("class") == "channels"]
    assert 0 < len(held) < 500
    assert sum(len(each["data-numbers"]) for each in held) <= channel_data.MAX_BYTES
    said = r"The numbers of its ([\d\u202f]+) channels? are omitted: this page has those of (\d+) of 500 layers"
    left = re.findall(said, "".join(parsed.text))
    assert len(left) == 500 - len(held)
    assert {count for _, count in left} == {str(len(held))}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_page_holds_the_numbers_of_each_channel_bit_for_bit(dtype):
    layer = make_layer(dtype=dtype, gamma=dtype != "float16", seed=3)
    (place,) = [attributes for tag, attributes in Page(write(make_bundle(layer))).tags if attributes.get("class") == "channels"]
    kind = "<f8" if dtype == "float64" else "<f4"
    numbers = np.frombuffer(base64.b64decode(place["data-numbers"]), kind).reshape(-1, layer.channels)
    assert place["data-names"].split() == list(layer.parameters())
    assert all((row == values).all() for row, values in zip(numbers, layer.parameters().values(), strict=True))
    assert (float(place["data-epsilon"]), place["data-count"], place["data-wide"]) == (layer.epsilon, "4", str(int(dtype == "float64")))


def test_layers_that_something_is_said_of_come_first_where_there_is_no_room_for_all(monkeypatch):
    monkeypatch.setattr(channel_data, "MAX_BYTES", 100)
    sound = make_layer("sound", shape=(3,)).replace(moving_variance=np.ones(3, np.float32), gamma=np.ones(3, np.float32))
    dead = sound.replace(path="dead", gamma=np.zeros(3, np.float32))
    text = "".join(Page(write(make_bundle(sound, dead))).text)
    assert text.count("are omitted: this page has those of 1 of 2 layers") == 1
    assert text.index("are omitted") < text.index("Dead channels", text.index("are omitted")), "those of the first layer are"


def test_where_a_layer_stands_and_whether_it_can_be_folded():
    def text(*inputs, outputs=()):
        return "".join(Page(write(make_bundle(make_layer(calls=(Call(inputs, outputs),))))).text)

    conv = Neighbor(path="block/conv", class_name="Conv2D", use_bias=False)
    found = text(conv, outputs=(Neighbor(path="next", class_name="Conv2D", padding="same"),))
    assert "Fed byblock/conv (Conv2D, no bias)" in found
    assert "Followed bynext (Conv2D, padding same)" in found
    assert "Foldingpossible, into block/conv" in found
    active = text(dataclasses.replace(conv, activation="relu"))
    assert "Foldingnot possible: block/conv, which feeds it, applies an activation (relu)" in active
    assert "Followed bynothing" in active
    drop = Neighbor(path="block/drop", class_name="Dropout")
    assert "Foldingperhaps possible, into the layer before block/drop: --fold checks that" in text(drop)
    assert "Foldingnot possible: it is fed by block/drop of class ReLU" in text(dataclasses.replace(drop, class_name="ReLU"))
    assert "Fed bythe model's input" in text()
    assert "Fed by" not in "".join(Page(write(make_bundle())).text)


def test_the_verdict_of_the_test_vectors(tmp_path):
    layers = [make_layer(f"bn_{number}", seed=number) for number in range(3)]
    text = "".join(Page(write(make_bundle(*layers))).text)
    assert "Test vectorsall within the bound" in text
    assert len(re.findall(r"Test vectorswithin the bound \([\d.]+ % of it\)", text)) == 3
    exporter.write(make_bundle(*layers), tmp_path / "b.json")
    read = exporter.load(tmp_path / "b.json")
    x, y = read.vectors["bn_1"]
    wrong = read.replace(vectors={**read.vectors, "bn_1": (x, y + np.float32(0.01) * np.abs(y))})
    text = "".join(Page(write(wrong)).text)
    assert "Test vectors2 of 3 within the bound" in text
    assert "Test vectorsbeyond the bound" in text


@pytest.mark.parametrize(("parts", "said"), [((1.0, 1.1), "1 of 2 within the bound"), ((1.0, 1.0), "all within the bound"),
                                            ((1.1, 1.9), "0 of 2 within the bound"), ((), "")])
def test_an_error_of_the_bound_is_within_it_and_no_more(parts, said):
    found = html_report._summary(make_bundle(), [], dict(enumerate(parts)))
    assert re.findall("<dt>Test vectors</dt><dd>(.*?)</dd>", found) == [said] * bool(parts)


def test_the_table_can_be_cut_down_to_each_kind_of_finding():
    bundle = model(20).replace(skipped=(("gone", "because"),))
    said = re.findall(r'<option value="([\w-]+)">', write(bundle).decode())
    kinds = {finding.kind.code for finding in findings(bundle)}
    assert "not-exported" in kinds, "which is in no row of it"
    assert len(kinds) > 2
    assert set(said) >= kinds - {"not-exported"}
    assert "not-exported" not in said


def known():
    """Layers whose numbers on the page can be computed in one's head: the roots of the first are 1 to 4."""
    arrays = {"gamma": [[2, -6, 3], [4, 4, 4]], "beta": [[0, 0, 0], [0, 0, 0]], "moving_mean": [[-1, 0, 3], [3, 3, 7]],
              "moving_variance": [[0.25, 3.25, 8.25], [15.25, 15.25, 15.25]]}
    first = make_layer("a_b", shape=(2, 3), axis=(1, -1), ndim=4, epsilon=0.75, momentum=0.9)
    first = first.replace(**{name: np.float32(values) for name, values in arrays.items()})
    one = make_layer("one", shape=(1,), gamma=False, beta=False, momentum=None)
    one = one.replace(moving_mean=np.float32([2]), moving_variance=np.float32([0.999]))
    return make_bundle(first, one, first.replace(path="c", epsilon=1e-3), skipped=(("gone", "because"),))


def cells(page, number):
    """(what it is sorted by, what is shown) of each cell of a layer's row."""
    row = re.search(rf'<tbody id="layer-{number}" [^>]*><tr class="row">(.*?)</tr>', page).group(1)
    return re.findall(r'<t[dh] [^>]*?(?:data-key="([^"]*)")?>(.*?)</t[dh]>', row)


def test_the_page_says_the_numbers_of_the_layers():
    page = write(known()).decode()
    assert [shown for _, shown in cells(page, 1)[:-1]] == [
        "1", "<bdi>a_<wbr>b</bdi>", "2×3", "1, −1", "float32", "0.75", "0.250", "3.00"]
    assert [key for key, _ in cells(page, 1)] == ["1", "", "6", "1", "", "0.75", "0.25", "3.0", "1"]
    assert re.search(r">Variance below epsilon <b>1</b></span>$", cells(page, 1)[-1][1])
    assert [shown for _, shown in cells(page, 2)] == ["2", "<bdi>one</bdi>", "1", "−1", "float32", "0.001", "0.999", "1.00", ""]
    assert cells(page, 2)[-1][0] == "0"
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page[: page.index("</header>")]))
    assert facts == {"Layers": "3", "Channels": "13", "Epsilon": "0.001, 0.75", "Type": "float32", "Layers with warnings": "1",
                     "Layers with notes": "1", "Test vectors": "all within the bound"}
    details = page.split('<tr class="detail"')
    assert "<dt>Input rank</dt><dd>4</dd></div><div><dt>Momentum</dt><dd>0.9</dd>" in details[1]
    assert "Input rank" not in details[2]
    assert "Momentum" not in details[2]
    assert '<small>1 layer, 1 channel</small></h3>' in page
    assert '<small>1 layer</small></h3>' in page
    assert "<li><bdi>gone</bdi>: because</li>" in page


def test_the_charts_are_of_the_layers_numbers():
    """160 units wide in 8 bins, the highest 40 high; a mark at its number."""
    page = write(known()).decode()
    figures = {name: (re.findall(r' d="([^"]*)"', picture), re.sub("<.*?>", " ", picture).split())
               for name, picture in re.findall(r'<figure aria-label="([^"]*)"><figcaption>.*?</figcaption>(.*?)</figure>',
                                               page.split('<tr class="detail"')[1])}
    assert figures["gamma"] == (["M0 52v-10h20v10h100v-10h20v-30h20V52z", "M96 0V52"],
                                ["0", "min", "−6.00", "median", "3.50", "max", "4.00"])
    assert figures["beta"] == (["M0 52h80v-40h20v40h60V52z"], ["all", "0"])
    assert figures["moving_mean"] == (["M0 52v-13h40v13h40v-40h20v40h40v-13h20V52z", "M20 0V52"],
                                      ["0", "min", "−1.00", "median", "3.00", "max", "7.00"])
    assert figures["moving_variance (log)"][0][1] == f"M{round(160 * np.log(0.75 / 0.25) / np.log(15.25 / 0.25))} 0V52"
    assert figures["moving_variance (log)"][1] == ["ε", "min", "0.250", "median", "11.8", "max", "15.2"]
    assert figures["effective scale"][1] == ["0", "min", "−3.00", "median", "1.00", "max", "2.00"]
    other = page.split('<tr class="detail"')[2]
    assert [word in other for word in ("none: the layer uses 1", "none: the layer uses 0", "one channel <b>2.00</b>")] == [True] * 3
    assert "ε</text>" not in other, "far below the only variance"


def test_the_drawing_over_all_layers():
    """1000 units wide and high; variances from 0.1 to 100, scales from 0.1 to 10."""
    drawings = re.findall(r'<div class="plot">(.*?)</div>', write(known()).decode())
    ends = [re.findall(r'<span class="(?:top|bottom|first|last)">(.*?)</span>', one) for one in drawings]
    assert ends == [["100", "0.1", "1", "3"], ["10", "0.1", "1", "3"]]

    def levels(*values, top, bottom):
        return [round((top - np.log10(value)) / (top - bottom) * 1000) for value in values]

    (high, low), line = levels(15.25, 0.25, top=2, bottom=-1), levels(11.217, 0.999, 11.217, 0.75, top=2, bottom=-1)  # geometric
    assert f'class="band" d="M0 {high}V{high}H333V667H667V{high}H1000V{low}H667V667H333V{low}H0z"' in drawings[0]
    assert f'class="middle" d="M0 {line[0]}V{line[0]}H333V{line[1]}H667V{line[2]}H1000"' in drawings[0]
    assert f'class="mark" d="M0 {line[3]}V{line[3]}H333' in drawings[0]
    assert 'class="grid" d="M0 667H1000M0 333H1000"' in drawings[0]
    scales = levels(3, 2 / 0.251**0.5, 4 / 15.251**0.5, top=1, bottom=-1)
    assert f'class="band" d="M0 {scales[0]}V{scales[0]}H333V500H667V{scales[1]}H1000V{scales[2]}H667V500H0z"' in drawings[1]
    assert "mark" not in drawings[1]
    assert [one.split('<span class="legend">')[1].partition("<")[0].count("dashed") for one in drawings] == [1, 0]


def test_what_is_said_of_many_layers_is_cut():
    dead = [make_layer(f"bn_{number}", epsilon=(number + 1) / 1000).replace(gamma=np.zeros(4, np.float32)) for number in range(6)]
    page = write(make_bundle(*dead)).decode()
    assert "<dd>0.001, 0.002, 0.003 and 3 more</dd>" in page
    kind = re.search(r'<section class="kind note"><h3>Dead channels<small>(.*?)</small>.*?<ul>(.*?)</ul>', page)
    assert kind.group(1) == "6 layers, 24 channels"
    assert re.findall(r'href="#(.*?)"', kind.group(2)) == ["layer-1", "layer-2", "layer-3", "layer-4", "layers"]
    assert 'data-kind="dead-channel">all 6 in the table' in kind.group(2)
    few = write(make_bundle(*dead[:4])).decode()
    assert "in the table" not in few
    assert "more</dd>" in few
    assert "0.003</dd>" in write(make_bundle(*dead[:3])).decode()


def test_warnings_weigh_more_than_any_notes():
    noted = make_layer("noted").replace(gamma=np.zeros(4, np.float32), moving_variance=np.full(4, 1e-13, np.float32))
    untrained = make_layer("untrained").replace(moving_mean=np.zeros(4, np.float32), moving_variance=np.ones(4, np.float32),
                                                gamma=np.ones(4, np.float32))
    page = write(make_bundle(noted, untrained)).decode()
    assert [int(cells(page, number)[-1][0]) for number in (1, 2)] == [3, 100]
    assert re.findall(r'<section class="kind (\w+)">', page) == ["warning", "note", "note", "note"]


def test_an_overflow_in_float32_is_said(monkeypatch):
    monkeypatch.setattr(html_report.vectors, "part_of_bound", lambda *args: float("inf"))
    text = "".join(Page(write(known())).text)
    assert "Test vectorsoverflow in float32" in text
    assert "Test vectors0 of 3 within the bound" in text


def test_large_counts_have_thin_spaces():
    assert "<dd>1\u202f200</dd>" in write(make_bundle(make_layer(shape=(1200,)))).decode()


def test_the_title_tells_models_of_one_name_apart():
    titles = [re.search(rb"<title>(.*?)</title>", write(make_bundle(make_layer(seed=seed)))).group(1).decode() for seed in (1, 2)]
    assert titles[0] != titles[1]
    assert all(re.fullmatch(r"model\.h5 · 1 layer · [0-9a-f]{8} · batch normalization", title) for title in titles)


def test_headings_and_chips_have_tooltips():
    tags = Page(write(model(3))).tags
    assert all(attributes.get("title") for tag, attributes in tags if tag == "th" and attributes.get("scope") == "col")
    assert all(attributes.get("title") for tag, attributes in tags if attributes.get("class", "").startswith("chip"))


def test_text_of_the_model_stays_text():
    layer = make_layer(HOSTILE, class_name="Evil><b onclick=x>")
    bundle = make_bundle(layer, make_layer("plain"), make_layer("other"), skipped=((HOSTILE, "<i>because</i>"),),
                         origin=Origin(file=HOSTILE, kind="keras-h5", keras_version="<u>", backend='"><u>'))
    page, harmless = Page(write(bundle)), Page(write(make_bundle(
        make_layer("a_a", class_name="b"), make_layer("plain"), make_layer("other"), skipped=(("a", "because"),))))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless.tags}
    assert {name for _, attributes in page.tags for name in attributes} == {name for _, attributes in harmless.tags for name in attributes}
    text = "".join(page.text)
    assert text.count(SHOWN) >= 3  # title, heading and the layer itself
    assert "Evil><b onclick=x>" in text
    assert "<i>because</i>" in text
    assert not set(text) & {"\u202e", "\x00"}


def test_the_policy_allows_this_page_only():
    page = write(model(1))
    policy = next(a["content"] for tag, a in Page(page).tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag in ("style", "script"):
        content, = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL)
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
    links = [value for _, a in Page(page).tags for name, value in a.items() if name in ("src", "href")]
    assert all(value.startswith("#") or value == "data:," for value in links)
    assert b"://" not in page


def test_a_bundle_with_nothing_but_skipped_layers_has_a_page():
    bundle = make_bundle(skipped=(("a/bn", "the file does not say its epsilon"),)).replace(layers=())
    assert "a/bn: the file does not say its epsilon" in "".join(Page(write(bundle)).text)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_numbers_at_the_ends_of_each_type_are_drawn(dtype):
    most = {"float16": 65504.0, "bfloat16": 3.3895314e38, "float32": 3.4028235e38, "float64": 1.7976931348623157e308}[dtype]
    layer = make_layer(shape=(4,), dtype=dtype, epsilon=1e-7)
    held = layer.moving_mean.dtype
    arrays = {"gamma": [most, -most, 0, -0.0], "beta": [5e-324, 0, 0, 0], "moving_mean": [most, most, -most, 1],
              "moving_variance": [most, 0, 5e-324, 1]}
    layer = layer.replace(**{name: np.array(a, held) for name, a in arrays.items()})
    page = "".join(Page(write(make_bundle(layer, layer.replace(path="b"), layer.replace(path="c")))).text)
    assert "nan" not in page.lower().replace("nan.", "")  # the meaning of the float16 finding ends in "infinity or NaN."


@pytest.mark.parametrize(("value", "three", "few"), [
    (0.0, "0", "0"), (-0.0, "0", "0"), (1.0, "1.00", "1"), (-0.5, "−0.500", "−0.5"), (26.5315, "26.5", "26.5315"),
    (999.6, "1000", "999.6"), (999.5, "1000", "999.5"), (4.36493e-4, "4.36e−4", "0.000436493"), (1.001e-5, "1.00e−5", "1.001e−5"),
    (1e-3, "0.00100", "0.001"), (9.996e-4, "1.00e−3", "0.0009996"), (999.4, "999", "999.4"), (99999.4, "99999", "99999.4"),
    (1e5, "1.00e5", "100000"), (1e6, "1.00e6", "1e6"),
    (128.0, "128", "128"), (65504.0, "65504", "65504"), (3.4e38, "3.40e38", "3.4e38"), (float("inf"), "inf", "inf")])
def test_numbers_for_people(value, three, few):
    assert number(value) == three
    assert short(value) == few


def heights(svg, bins):
    """The height of each bin of a histogram, read off its path."""
    path = re.search(r'class="bars" d="M0 \d+(.*?)V\d+z"', svg).group(1)
    level, x, found = 0, 0, {}
    for move, amount in re.findall(r"([hv])(-?\d+)", path):
        if move == "v":
            level -= int(amount)
        else:
            found.update(dict.fromkeys(range(x, x + int(amount)), level))
            x += int(amount)
    assert x == WIDTH
    return [found[(2 * i + 1) * WIDTH // bins // 2] for i in range(bins)]


@pytest.mark.parametrize(("count", "bins"), [(5, 8), (11, 8), (12, 16), (99, 16), (100, 32), (5000, 32)])
def test_a_histogram_shows_its_counts(count, bins):
    values = np.random.default_rng(count).normal(size=count)
    counts, _ = np.histogram(values, bins)
    drawn = heights(histogram(values, []), bins)
    for got, want in zip(drawn, counts):
        assert (got == 0) == (want == 0)
        assert got == 2 or abs(got - want / counts.max() * (HEIGHT - HEADROOM)) <= 0.5 + 1e-9


def test_a_histogram_of_one_value_and_its_marks():
    assert sum(h > 0 for h in heights(histogram(np.full(7, 3.0), [("zero", "0", 0.0)]), 8)) == 1
    svg = histogram(np.array([-1.0, 3.0]), [("zero", "0", 0.0), ("mark", "far", 9.0)])
    assert f'd="M{WIDTH // 4} 0V' in svg
    assert "far" not in svg


@pytest.mark.parametrize(("exponent", "said"), [(5, "100000"), (6, "1e6"), (-5, "1e−5"), (-6, "1e−6"), (0, "1"), (400, "1e400")])
def test_powers_of_ten(exponent, said):
    assert power(exponent) == said


@pytest.mark.parametrize(("value", "label"), [(8.0, 'x="131" y'), (8.2, 'x="128" text-anchor="end" y')])
def test_a_mark_at_the_right_has_its_label_at_the_left(value, label):
    svg = histogram(np.array([0.0, 10.0]), [("mark", "ε", value)])
    assert f'<path class="mark" d="M{round(value * 16)} 0V{HEIGHT}"/><text {label}="8">ε</text>' in svg


def test_an_epsilon_above_all_variances_is_at_the_right_end():
    layer = make_layer(epsilon=0.5).replace(moving_variance=np.float32([0.01, 0.02, 0.03, 0.04]))
    picture = re.search(r'aria-label="moving_variance \(log\)".*?</svg>', write(make_bundle(layer)).decode()).group()
    assert f'class="mark" d="M{WIDTH} 0V' in picture


@pytest.mark.parametrize(("top", "levels"), [(8, range(7, 0, -1)), (9, range(8, 0, -2)), (17, range(15, 0, -3))])
def test_a_grid_has_few_lines_at_whole_powers(top, levels):
    svg = ranges(*[np.array([1.0, 2.0])] * 3, None, 0.0, float(top))
    said = [int(level) for level in re.search(r'class="grid" d="(.*?)"', svg).group(1).replace("H1000", "").split("M0 ")[1:]]
    assert said == [round((top - level) / top * 1000) for level in sorted(levels)]


def test_an_epsilon_outside_the_drawing_is_not_drawn_at_its_edge():
    layers = [make_layer(f"bn_{i}", epsilon=1e-3) for i in range(3)]
    high, low = ([layer.replace(moving_variance=np.array([v, 8, 9, 9.9], np.float32)) for layer in layers] for v in (1.5, 1e-5))
    assert b"dashed: epsilon" not in write(make_bundle(*high))
    assert b"dashed: epsilon" in write(make_bundle(*low))
    assert b'<path class="mark" d="M0' not in write(make_bundle(*high))


def test_ranges_have_one_step_a_layer():
    low, middle, high = np.array([0.0, 1, 1]), np.array([1.0, 2, 2]), np.array([2.0, 3, 4])
    svg = ranges(low, middle, high, None, 0.0, 4.0)
    assert "mark" not in svg
    assert 'class="middle" d="M0 750V750H333V500H1000"' in svg
    assert 'class="band" d="M0 500V500H333V250H667V0H1000V750H333V1000H0z"' in svg


# --- In a browser ---


FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900"]


@contextlib.contextmanager
def started(folder, *flags):
    """Chromium, driven by selenium, with a new profile in `folder`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={folder}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with started(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(chromium, tmp_path):
    """opened(bundle) shows its report; afterward the console has to be empty and nothing may have been loaded."""
    media(chromium, "screen", "light")
    screen(chromium, 1280)

    def show(bundle):
        (tmp_path / "report.html").write_bytes(write(bundle))
        chromium.get((tmp_path / "report.html").as_uri())
        return chromium

    yield show
    assert chromium.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert chromium.get_log("browser") == []


def media(browser, medium, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})


def screen(browser, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def css(browser, selector, name):
    return browser.execute_script("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name)


def column(browser, heading):
    """The texts of a column as they stand in the table from top to bottom, of the layers that are shown."""
    return browser.execute_script("""
        const heads = [...document.querySelectorAll('thead th')].map(head => head.textContent);
        const column = heads.indexOf(arguments[0]);
        return [...document.querySelectorAll('tbody')].filter(body => !body.hidden).map(body => body.rows[0].cells[column].textContent)
        """, heading)


def click(browser, selector):
    browser.find_element("css selector", selector).click()


def find(browser, words):
    search = browser.find_element("id", "search")
    search.clear()
    search.send_keys(words)


def sort_by(browser, heading):
    next(b for b in browser.find_elements("css selector", "thead button") if b.get_attribute("textContent") == heading).click()


def natural(name):
    return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", name)]


def signed(text):
    return float(text.replace("−", "-"))


@pytest.mark.thorough("Chromium")
def test_every_column_sorts_both_ways(opened):
    bundle = model(30)
    browser = opened(bundle.replace(layers=(make_layer("zz", dtype="float64", axis=(1,), epsilon=0.01), *bundle.layers)))
    before = column(browser, "Layer")
    variances = {layer.path: float(layer.moving_variance.min()) for layer in bundle}
    for heading, key in [("No.", int), ("Layer", natural), ("Channels", int), ("Axis", signed), ("Type", str), ("Epsilon", signed),
                         ("Lowest variance", signed), ("Largest |scale|", float), ("Findings", None)]:
        if heading != "No.":  # it is sorted by that at first
            sort_by(browser, heading)
        up = column(browser, heading)
        assert key is None or up == sorted(up, key=key), heading
        assert browser.execute_script("return [...document.querySelectorAll('[aria-sort]')].map(h => [h.textContent, h.ariaSort])") == [
            [heading, "ascending"]]
        sort_by(browser, heading)
        assert key is None or column(browser, heading) == sorted(up, key=key, reverse=True), heading
    assert column(browser, "Findings")[-1] == "", "descending: most findings first"
    sort_by(browser, "Lowest variance")
    shown = [variances[path] for path in column(browser, "Layer") if path in variances]
    assert shown == sorted(variances.values()), "by the numbers, not by what is shown of them"
    sort_by(browser, "No.")
    assert column(browser, "Layer") == before


@pytest.mark.thorough("Chromium")
def test_the_keyboard_sorts_and_opens(opened):
    browser = opened(model(12))
    browser.execute_script("document.getElementById('all').focus()")
    press = browser.switch_to.active_element.send_keys
    for _ in range(3):  # No., Layer, Channels
        press("\ue004")
        press = browser.switch_to.active_element.send_keys
    assert browser.switch_to.active_element.get_attribute("textContent") == "Channels"
    press("\ue007")
    assert browser.find_element("css selector", "th[aria-sort]").get_attribute("textContent") == "Channels"
    assert css(browser, ":focus", "outlineStyle") == "solid"
    browser.find_element("css selector", "#layer-3 .name button").send_keys(" ")
    assert browser.find_element("id", "detail-3").is_displayed()
    assert not browser.find_element("id", "detail-4").is_displayed()


@pytest.mark.thorough("Chromium")
def test_search_and_filter(opened):
    bundle = model(120)
    browser = opened(bundle)
    find(browser, "STAGE2 conv10")
    assert column(browser, "Layer") == [f"backbone/stage2/conv{i}_bn" for i in range(100, 110)]
    assert browser.find_element("id", "status").text == "10 of 120 layers"
    find(browser, "no such layer")
    assert column(browser, "Layer") == []
    find(browser, "dead")
    dead = [layer.path for layer in bundle if (np.abs(layer.gamma) < 1e-4).any()]
    assert column(browser, "Layer") == dead
    click(browser, "a[data-kind=below-epsilon]")
    assert column(browser, "Layer") == [layer.path for layer in bundle if (layer.moving_variance < layer.epsilon).any()]
    assert browser.find_element("id", "search").get_property("value") == ""
    click(browser, "#show option[value=any]")
    assert set(dead) < set(column(browser, "Layer"))
    assert all(column(browser, "Findings"))
    click(browser, "a[href='#layer-2']")
    browser.get(browser.current_url.split("#")[0] + "#layer-1")  # has no finding, so the filter hides it
    assert browser.find_element("id", "detail-1").is_displayed()
    assert browser.find_element("id", "status").text == "120 layers"


@pytest.mark.thorough("Chromium")
def test_open_all_and_close_all(opened):
    browser = opened(model(20))
    shown = "return document.querySelectorAll('tbody.open:not([hidden])').length"
    assert browser.execute_script(shown) == 0
    click(browser, "#all")
    assert (browser.execute_script(shown), browser.find_element("id", "all").text) == (20, "Close all")
    click(browser, "#all")
    assert (browser.execute_script(shown), browser.find_element("id", "all").text) == (0, "Open all")
    click(browser, "#layer-5 .row")
    assert browser.find_element("id", "detail-5").is_displayed()
    assert browser.find_element("css selector", "#layer-5 .name button").get_attribute("aria-expanded") == "true"


@pytest.mark.thorough("Chromium")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_channels_are_shown_and_copied_with_all_digits(opened, chromium, dtype):
    layer = make_layer(dtype=dtype, shape=(50,), seed=8)
    browser = opened(make_bundle(layer))
    chromium.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    click(browser, ".channels button")
    heads = browser.execute_script("return [...document.querySelectorAll('.numbers th')].map(head => head.firstChild.textContent)")
    assert heads == ["channel", "gamma", "beta", "moving_mean", "moving_variance", "scale", "offset"]
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.numbers tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))")
    assert [signed(row[1]) for row in shown] == pytest.approx(layer.gamma.astype(float).tolist(), rel=1e-5)
    for place, values in enumerate((layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance, layer.scale, layer.offset)):
        browser.find_elements("css selector", ".numbers th button")[place].click()
        copied = json.loads(browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])"))
        assert (np.array(copied, values.dtype) == values).all(), heads[place + 1]
        assert len(json.dumps(copied)) < 30 * 50
    browser.find_elements("css selector", ".channels .bar button")[1].click()
    lines = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])").splitlines()
    assert lines[0] == "channel,gamma,beta,moving_mean,moving_variance,scale,offset"
    assert lines[4].split(",")[:2] == ["3", repr(float(layer.gamma[3])) if dtype == "float64" else lines[4].split(",")[1]]
    assert len(lines) == 51
    click(browser, ".channels button")
    assert not browser.find_element("css selector", ".numbers").is_displayed()


@pytest.mark.thorough("Chromium")
def test_the_drawing_over_all_layers_names_the_layer_under_the_mouse(opened, chromium):
    webdriver = pytest.importorskip("selenium.webdriver")
    browser = opened(model(9))
    drawing = browser.find_element("css selector", ".plot svg")
    webdriver.ActionChains(browser).move_to_element(drawing).perform()
    assert re.fullmatch(r"5\. backbone/stage1/conv4_bn: lowest variance \S+", browser.find_element("css selector", ".tip").text)
    drawing.click()
    assert browser.find_element("id", "detail-5").is_displayed()


@pytest.mark.thorough("Chromium")
def test_hostile_names_run_nothing(opened):
    from selenium.common.exceptions import NoAlertPresentException

    browser = opened(make_bundle(make_layer(HOSTILE), make_layer("b"), origin=Origin(file=HOSTILE, kind="keras-h5")))
    with pytest.raises(NoAlertPresentException):
        browser.switch_to.alert.dismiss()
    assert browser.title.startswith(f"{SHOWN} · 2 layers · ")
    assert column(browser, "Layer") == [SHOWN, "b"]
    assert browser.execute_script("return [document.scripts.length, document.images.length]") == [1, 0]


@pytest.mark.thorough("Chromium")
def test_the_policy_is_in_force(chromium, tmp_path):
    injected = b"<script>document.title = 'ran'</script><img src=x onerror='document.title = 1'>"
    page = write(model(1)).replace(b"</footer>", b"</footer>" + injected)
    (tmp_path / "report.html").write_bytes(page)
    chromium.get((tmp_path / "report.html").as_uri())
    assert chromium.title.startswith("model.h5 · 1 layer · ")
    assert len(chromium.get_log("browser")) >= 2


@pytest.mark.thorough("Chromium")
def test_it_follows_the_color_scheme_and_has_contrast(opened):
    browser = opened(model(10))
    for scheme in ("light", "dark"):
        media(browser, "screen", scheme)
        paper = luminance(css(browser, "body", "backgroundColor"))
        assert (paper > 0.9) if scheme == "light" else (paper < 0.05)
        for selector in ("h1", ".soft", ".kind p", ".kind a", "thead th", ".chip", ".charts p"):
            ink, behind = luminance(css(browser, selector, "color")), luminance(background(browser, selector))
            assert (max(ink, behind) + 0.05) / (min(ink, behind) + 0.05) >= 4.5, (scheme, selector)  # WCAG 2.2, 1.4.3


def background(browser, selector):
    return browser.execute_script("""
        let node = document.querySelector(arguments[0]);
        while (node && getComputedStyle(node).backgroundColor === 'rgba(0, 0, 0, 0)') node = node.parentElement;
        return getComputedStyle(node).backgroundColor""", selector)


def luminance(color):
    """Relative luminance of a CSS color (WCAG 2.2)."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.thorough("Chromium")
@pytest.mark.parametrize("width", [360, 700, 960, 1280, 1920])
def test_nothing_sticks_out_or_overlaps(opened, width):
    bundle = model(8)
    browser = opened(bundle.replace(layers=(make_layer("a_very_long_name" * 12), make_layer("unbroken" * 30), *bundle.layers)))
    screen(browser, width)
    click(browser, "#all")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("""
        const bad = [];
        for (const row of document.querySelectorAll('.row, .charts, .charts p, .controls, .summary, .facts')) {
            const boxes = [...row.children].map(cell => cell.getBoundingClientRect()).filter(box => box.width && box.height);
            boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
                if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) bad.push(row.className);
            }));
        }
        for (const cell of document.querySelectorAll('.row > *, .chip, figcaption, .charts p, dd'))
            if (cell.scrollWidth > cell.clientWidth + 1 && cell.clientWidth) bad.push(cell.textContent);
        return bad""") == []


@pytest.mark.thorough("Chromium")
def test_it_prints(opened):
    browser = opened(model(12))
    click(browser, "#layer-2 .name button")
    media(browser, "print", "dark")
    assert css(browser, "body", "color") == css(browser, "h1", "color") == "rgb(27, 31, 36)"
    assert css(browser, ".controls", "display") == "none"
    assert browser.find_element("id", "detail-2").is_displayed()
    assert base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]).startswith(b"%PDF")


@pytest.mark.thorough("Chromium")
def test_it_says_what_it_is_to_a_screen_reader(opened):
    browser = opened(model(7))
    click(browser, "#layer-2 .name button")
    nodes = [node for node in browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"] if not node["ignored"]]
    by_role: dict[str, list[str]] = {}
    for node in nodes:
        by_role.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert by_role["table"] == ["Batch normalization layers; each row is followed by its distributions"]
    assert by_role["searchbox"] == ["Search"]
    assert by_role["combobox"] == ["Show"]
    assert len(by_role["columnheader"]) == 9
    assert by_role["rowheader"] == [f"backbone/stage1/conv{i}_bn" for i in range(7)]
    for role in ("button", "link", "columnheader", "heading", "figure"):
        assert all(by_role[role]), (role, by_role[role])
    assert by_role["figure"][-5:] == ["gamma", "beta", "moving_mean", "moving_variance (log)", "effective scale"]


@pytest.mark.thorough("Chromium")
def test_five_hundred_layers_are_quick(opened):
    bundle = model(500)
    start = time.perf_counter()
    browser = opened(bundle)
    click(browser, "#all")
    sort_by(browser, "Largest |scale|")
    find(browser, "conv49")
    assert len(column(browser, "Layer")) == 11
    assert time.perf_counter() - start < 20  # about 2 s on two cores of 2023


@pytest.mark.thorough("Chromium")
def test_without_javascript_all_is_shown(tmp_path):
    (tmp_path / "report.html").write_bytes(write(model(8)))
    with started(tmp_path / "profile", "--blink-settings=scriptEnabled=false") as browser:
        browser.get((tmp_path / "report.html").as_uri())
        assert all(row.is_displayed() for row in browser.find_elements("css selector", ".detail"))
        assert not browser.find_element("css selector", ".controls").is_displayed()
        assert browser.find_elements("css selector", "button:not(#all)") == []


def test_a_layers_details_say_what_was_found_and_in_how_many_channels():
    """Also its momentum; what has no number of channels gets none."""
    odd = make_layer("odd", momentum=0.875, assumed=("epsilon",)).replace(gamma=np.float32([0, 1, 0, 1]))
    page = html_report.write(make_bundle(odd, make_layer("plain", momentum=None, shape=(1,), dtype="float64")), WriteOptions()).decode()
    assert "2 of 4 channels have a |gamma| below 0.0001; it is exactly 0." in page
    assert '<ul class="said">' in page
    assert "Dead channels <b>2</b></span>" in page
    assert "Not from the file</span>" in page
    assert page.count("<dt>Momentum</dt>") == 1
    assert "<dd>0.875</dd>" in page

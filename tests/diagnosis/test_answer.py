"""The answer as people and machines get it: the text line by line, the reasons, how numbers differ that nothing explains."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

import exporter
from exporter import diagnose
from exporter.diagnosis import search
from exporter.diagnosis.chance import expected, said
from exporter.diagnosis.differences import how_they_differ
from exporter.diagnosis.evidence import gather
from exporter.diagnosis.mistakes import BY_CODE, MISTAKES
from exporter.diagnosis.samples import numbers
from tests.make.layers import make_bundle, make_layer
from tests.make.questions import EPSILON_QUESTION, layer_of

LAYER = layer_of(gamma=[1.5, -2.0], beta=[0.5, -1.0], mean=[0.25, 1.0], variance=[0.5, 0.25], epsilon=1e-3)
X = np.array([[1, 2], [-1, 3], [0.5, -2], [4, 0.25]], np.float32)
ROW = BY_CODE["BN132"]
WHOLE = f"""\
bn: differs. 8 of 8 numbers beyond the error bound, the worst by 2.51e+05 times:
  at [2, 0] (channel 0): input 0.5, yours 0.529800534, right 1.02980055

BN132  {ROW.name}
  explains all numbers to within 4e-07 (0.035 of the tolerance)
  written  gamma * (x - mean) / np.sqrt(variance + epsilon)
  why      {ROW.why}
  instead  {ROW.instead}
  right    gamma * (x - mean) / np.sqrt(variance + epsilon) + beta

index  channel  input        yours        right        BN132
  2,0        0    0.5  0.529800534   1.02980055   0.52980055
  1,0        0     -1  -2.64900279  -2.14900275  -2.64900275
  0,0        0      1   1.58940172   2.08940165   1.58940165
  3,1        1   0.25   2.99401808   1.99401794   2.99401794
  0,1        1      2  -3.99202394  -4.99202392  -3.99202392
  2,1        1     -2   11.9760714   10.9760718   11.9760718
"""


def without_beta():
    return diagnose(LAYER, X, LAYER(X) - LAYER.beta)


def test_a_whole_answer():
    text = without_beta().text()
    assert text.replace("\n" + " " * 11, " ") == WHOLE
    assert max(map(len, text.splitlines()[1:])) < 80


def test_a_whole_answer_for_machines():
    content = without_beta().to_dict()
    json.dumps(content, allow_nan=False)
    assert {key: content[key] for key in ("verdict", "layer", "channel", "compared", "differing", "notes", "could_not_show")} == {
        "verdict": "differs", "layer": "bn", "channel": None, "compared": 8, "differing": 8, "notes": [],
        "could_not_show": ["BN161", "BN162", "BN163", "BN165"]}
    (one,) = content["explanations"]
    assert (one["codes"], one["names"], one["details"]) == (["BN132"], ["beta left out"], [""])
    assert one["written"] == ["gamma * (x - mean) / np.sqrt(variance + epsilon)"]
    assert one["right"] == "gamma * (x - mean) / np.sqrt(variance + epsilon) + beta"
    first = content["side_by_side"][0]
    assert list(first) == ["index", "channel", "input", "yours", "right", "explained"]
    assert content["worst"]["index"] == first["index"] == [2, 0]
    assert (content["worst"]["input"], first["yours"], first["right"]) == (0.5, pytest.approx(0.5298005), pytest.approx(1.0298005))
    assert one["worst"] < 1
    nothing = np.where(np.arange(4)[:, None] == 2, np.nan, LAYER(X))
    content = diagnose(LAYER, X, nothing).to_dict()
    assert (content["worst"]["yours"], content["worst"]["times_the_bound"], content["differing"]) == ("nan", "inf", 2)
    assert content["explanations"] == []
    assert {row["explained"] for row in content["side_by_side"]} == {None}


def test_an_answer_in_a_shell_is_short():
    assert len(repr(without_beta())) < 2000
    assert "Evidence" not in repr(without_beta())


def test_numbers_that_are_none_and_numbers_that_nothing_explains():
    text = diagnose(LAYER, X, np.where(np.arange(4)[:, None] == 2, np.nan, LAYER(X))).text()
    assert text.startswith("bn: differs. 2 of 8 numbers beyond the error bound, the worst by an infinite factor:\n  at [2, 0] (channel 0): "
                           "input 0.5, yours nan, right 1.02980055\n\nindex  channel  input        yours        right\n")
    assert text.splitlines()[4].split() == ["2,0", "0", "0.5", "nan", "1.02980055"]


def test_the_second_explanation_is_told_shortly():
    lines = diagnose(EPSILON_QUESTION, "-0.077417567", "0.543057").text().splitlines()
    assert lines[0] == "bn: differs. 1 of 1 number beyond the error bound, the worst by 4.99e+04 times:"
    assert lines[1] == "  channel 0: input -0.077417567, yours 0.543057, right 0.306646443"
    at = lines.index("BN105  another epsilon (with epsilon 4.278e-05, as any single number can be explained)")
    assert lines[at + 1:at + 4] == ["  explains all numbers to within 2.5e-06 (0.32 of the tolerance)",
                                    "  the numbers allow an epsilon from 4.27709e-05 to 4.27977e-05", ""]
    assert "BN101" in lines[at + 4].split()


def told(**changes):
    found = without_beta()
    return dataclasses.replace(found, explanations=(dataclasses.replace(found.explanations[0], **changes),)).text()


def test_what_is_said_of_an_explanation():
    assert "  explains these channels to within 4e-07 (0.035 of the tolerance)\n  in channels 1, 3 of bn\n" in told(channels=(1, 3))
    assert "  in channel 4 of bn\n" in told(channels=(4,))
    assert "  in channels 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 of bn\n" in told(channels=tuple(range(10)))
    assert "  in channels 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … of bn\n" in told(channels=tuple(range(11)))
    assert "  fits the pattern; nothing was predicted number by number\n" in told(weak=True)
    weak = told(weak=True, epsilon=(0.25, 0.125, 0.5))
    assert "  explains all numbers to within" in weak
    assert "  the numbers allow an epsilon from 0.125 to 0.5\n" in weak
    assert "\nBN101 + BN132  epsilon outside the root and beta left out (so)\n" in told(codes=("BN101", "BN132"), details=("", "so"))


def test_five_explanations_are_shown():
    found = without_beta()
    for count, rest in ((5, None), (6, "and 1 more that fit (--json lists all)"), (9, "and 4 more that fit (--json lists all)")):
        lines = dataclasses.replace(found, explanations=found.explanations * count).text().splitlines()
        assert sum(line == "BN132  beta left out" for line in lines) == 5
        assert sum("written" in line for line in lines) == 1
        assert [line for line in lines if "more that fit" in line] == ([] if rest is None else [rest])
        assert len(dataclasses.replace(found, explanations=found.explanations * count).to_dict()["explanations"]) == count


def test_the_place_has_its_channel():
    layer = make_layer(shape=(12,), seed=3)
    right = layer(np.repeat(X[:, :1], 12, axis=1))
    found = diagnose(layer, X[:, 0], right[:, 5] - 1, channel=5)
    assert found.text().startswith("encoder/bn_1, channel 5: differs. 4 of 4 numbers")
    assert found.worst["channel"] == 5
    assert {row[1] for row in found.side_by_side} == {5}
    assert "at [2] (channel 5): input 0.5, yours -3.60684657" in found.text()
    assert diagnose(layer, X[:, 0], right[:, 0], channel=0).text().startswith("encoder/bn_1, channel 0: same. 4 numbers within")
    assert diagnose(layer, X[:1, 0], right[:1, 0], channel=0).text().startswith("encoder/bn_1, channel 0: same. 1 number within")


# a right answer

def test_few_mistakes_that_would_not_have_shown_are_named():
    found = diagnose(LAYER, X, LAYER(X))
    assert found.text() == ("bn: same. 8 numbers within the error bound, the worst at 0.033 of it.\nThese inputs could not have shown: "
                            "BN161 parameters in float16; BN162 parameters in bfloat16; BN163 parameters in int8; BN165 parameters copied "
                            "from a print-out.\n")


def test_what_could_not_show_lies_within_the_bound():
    layer = make_layer("bn", shape=(3,), seed=8).replace(beta=np.zeros(3, np.float32), moving_mean=np.zeros(3, np.float32))
    found = diagnose(layer, X[:, [0, 0, 1]], layer(X[:, [0, 0, 1]]))
    case = found.evidence.case
    hidden = [mistake.code for mistake in MISTAKES if mistake.wrong is not None and any(
        (np.abs(changed.value() - case.value()) <= found.evidence.tolerance(changed)).all() for _, changed in mistake.variants(case))]
    assert found.could_not_show() == hidden
    assert {"BN132", "BN125", "BN140"} <= set(hidden)
    assert "BN101" not in hidden


REASONS = {"made": "has its initial values", "never": "never updated or loaded", "few": "too few", "coarse": "too coarse",
           "one": "only one value", "other": "change next to nothing: the bundle's own vectors"}


@pytest.mark.parametrize(("reason", "changes", "x", "form"), [
    ("made", {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1}, X, "exact"),
    ("never", {"gamma": 2, "beta": 0, "moving_mean": 0, "moving_variance": 1}, X, "exact"),
    ("never", {"gamma": 1, "beta": 2, "moving_mean": 0, "moving_variance": 1}, X, "exact"),
    ("few", {"beta": 0, "moving_mean": 0}, X[:2] * 0, "exact"), ("one", {"beta": 0, "moving_mean": 0}, X[:3] * 0, "exact"),
    ("coarse", {"beta": 0, "moving_mean": 0}, X[:3] * 1e-3, "printed"), ("other", {"beta": 0, "moving_mean": 0}, X * 1e-30, "exact"),
    ("one", {"moving_mean": 0, "beta": 0, "moving_variance": 2}, X * 0, "exact"),
    ("one", {"moving_mean": 0, "beta": 0}, X[[0, 0, 0]] * np.float32([0, 1e-30]), "exact")])
def test_why_many_mistakes_would_not_have_shown(reason, changes, x, form):
    layer = LAYER.replace(**{name: np.full(2, value, np.float32) for name, value in changes.items()})
    printed = "[" + ", ".join("[" + ", ".join(f"{value:.1f}" for value in row) + "]" for row in layer(x)) + "]"
    theirs = layer(x) if form == "exact" else printed
    text = diagnose(layer, x, theirs).text()
    assert [name for name, words in REASONS.items() if words in text] == [reason], text
    assert f"of {len(MISTAKES)} known mistakes (--json lists them)" in text


# what nothing explains

def compared(theirs, rows=40, x=None):
    """The evidence of a layer of which one channel has gamma 0."""
    return gather(WIDE, numbers(ROWS[:rows] if x is None else x), numbers(theirs))


ROWS = np.random.default_rng(3).normal(0, 2, (40, 12)).astype(np.float32)
WIDE = make_layer("bn", shape=(12,), seed=5)


def test_the_median_of_what_is_off_is_said():
    theirs = WIDE(ROWS).astype(np.float64)
    theirs[::2] += np.sin(np.arange(240.0)).reshape(20, 12) + 3
    one = compared(theirs)
    misfit = one.misfit(one.case)
    (first, *_) = how_they_differ(one)
    assert f"; 240 of 480 numbers are beyond the error bound, half of them by more than {np.median(misfit[misfit > 1]):.3g} times" in first


@pytest.mark.parametrize(("bad", "shown"), [([3], "1 of 12 channels differ: 3"), (range(12), None),
                                           (range(10), "10 of 12 channels differ: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
                                           (range(11), "11 of 12 channels differ: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …")])
def test_the_channels_that_differ_are_named(bad, shown):
    theirs = WIDE(ROWS).astype(np.float64)
    theirs[:25, list(bad)] += np.sin(np.arange(25.0 * len(bad))).reshape(25, -1) + 3
    evidence = compared(theirs)
    assert [note for note in how_they_differ(evidence) if "channels differ" in note] == ([] if shown is None else [shown])


def test_whether_the_parameters_can_be_right():
    theirs = WIDE(ROWS).astype(np.float64)
    theirs[:19, 3] += 1 + np.arange(19)
    assert "the other numbers of these channels are right" in how_they_differ(compared(theirs))[-1]
    theirs[:20, 3] = WIDE(ROWS)[:20, 3] + 1.0 + np.arange(20)
    assert "not a straight line" in how_they_differ(compared(theirs))[-1], "half of them is no accident"


def slopes(factor, offset):
    return how_they_differ(compared(WIDE(ROWS).astype(np.float64) * factor + offset))[-1]


def test_what_a_line_through_each_channel_says():
    """Where gamma is 0 the slope is right, whatever the factor."""
    assert slopes(1, 0.5).startswith("the slope is right in every channel and the offset is not (off by 0.5 to 0.5)")
    assert slopes(1, np.linspace(-1.25, 2, 12)).startswith("the slope is right in every channel and the offset is not (off by -1.25 to 2)")
    assert slopes(1.7, 0).startswith("the slope is 1.7 times the right one in every channel")
    assert slopes(-0.75, 3).startswith("the slope is -0.75 times the right one in every channel")
    own = np.r_[np.linspace(1.1, 1.8, 11), 1.1]
    assert "a slope of its own, 1.1 to 1.8 times the right one" in slopes(own, 0.25)
    bent = np.where(np.arange(12) == 4, np.abs(ROWS), 0)
    assert slopes(1, bent + 1).startswith("in 1 channels the output is not a straight line")
    tilted = ROWS * (np.arange(12) == 11)
    assert "a slope of its own, 1 to inf times" in slopes(1, tilted + 1), "where it should be flat"
    flat = np.where(np.arange(12) == 3, 0, 1)
    assert "a slope of its own, 0 to 1 times" in slopes(flat, 1), "flat where it should not be"


def test_of_too_few_numbers_no_line_is_drawn():
    for rows, words in ((2, "send more numbers"), (3, "slope is right")):
        theirs = WIDE(ROWS[:rows]).astype(np.float64) + 0.5
        assert words in how_they_differ(compared(theirs, rows))[-1]
    constant = np.ones((9, 12), np.float32)
    assert "send more numbers" in how_they_differ(compared(WIDE(constant) + np.float32(0.3), x=constant))[-1]
    assert "send more numbers" in how_they_differ(compared(WIDE(ROWS)[:, 0] + np.sin(ROWS[:, 1]), x=ROWS[:, 0]))[-1]


def test_without_a_layer_the_nearest_is_shown():
    near, far = make_layer("near", seed=1), make_layer("far", seed=2)
    x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    for layers in ((near, far), (far, near)):
        found = diagnose(make_bundle(*layers), x, near(x) + 1e-3 * np.sin(x))
        assert found.layer == "near"
        assert "none of 2 fits; the comparison is with the one that comes nearest" in " ".join(found.notes)
    assert not [note for note in diagnose(near, x, near(x) + 1e-3 * np.sin(x)).notes if "nearest" in note]


# what is judged beside the numbers

FOUR = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)


def test_other_layers_for_which_the_numbers_are_right_too_are_named():
    one = make_layer("one", seed=1)
    layers = one, one.replace(path="twin"), make_layer("other", seed=2), one.replace(path="third")
    found = diagnose(make_bundle(*layers), FOUR, one(FOUR))
    assert found.layer == "one"
    assert found.notes == ("the numbers are also right for twin, third",)
    assert diagnose(make_bundle(*layers), FOUR, layers[2](FOUR)).notes == ()


def test_numbers_of_one_channel_that_fit_several():
    layer = make_layer("bn", shape=(12,), seed=3)
    twins = layer.replace(**{name: values[[0, 1, 2, 1, 4, 1, 6, 7, 8, 9, 10, 1]] for name, values in layer.parameters().items()})
    found = diagnose(twins, FOUR[:, 0], layer(np.repeat(FOUR[:, :1], 12, axis=1))[:, 1])
    assert (found.verdict, found.channel) == ("same", None)
    assert found.notes == ("right for channels 1, 3, 5, 11: give --channel to say which",)
    assert (found.compared, found.differing, found.worst["channel"]) == (6, 0, 1)
    assert {row[1] for row in found.side_by_side} == {1}
    constant = layer.replace(**{name: values[[1] * 12] for name, values in layer.parameters().items()})
    found = diagnose(constant, FOUR[:, 0], layer(np.repeat(FOUR[:, :1], 12, axis=1))[:, 1])
    assert found.notes == ("right for channels 0, 1, 2, 3, 4, 5, 6, 7: give --channel to say which",)
    found = diagnose(layer, FOUR[:, 0], layer(np.repeat(FOUR[:, :1], 12, axis=1))[:, 1])
    assert (found.channel, found.notes) == (1, ())


def test_numbers_of_one_channel_whose_mistake_several_may_have():
    """Shown, counted and compared are the numbers of the first."""
    layer = make_layer("bn", shape=(5,), seed=3).replace(moving_variance=np.float32([0.3, 0.02, 2, 1, 4]))
    twins = layer.replace(**{name: values[[1, 0, 2, 1, 1]] for name, values in layer.parameters().items()})
    x = np.repeat(FOUR[:, :1], 5, axis=1)
    found = diagnose(twins, FOUR[:, 0], (layer(x) - layer.beta)[:, 1])
    assert found.explanations[0].channels == (0, 3, 4)
    assert (found.verdict, found.channel, found.compared, found.worst["channel"]) == ("differs", None, 6, 0)
    assert {row[1] for row in found.side_by_side} == {0}
    nothing = diagnose(layer, FOUR[:, 0], np.sin(7 * FOUR[:, 0]) + 50)
    assert (nothing.channel, nothing.explanations, nothing.compared, nothing.differing) == (None, (), 6, 6)


@pytest.mark.parametrize(("output", "count"), [("1.234", 1), ("3.0", 3)])
def test_explanations_that_few_digits_of_some_channel_have_by_chance(output, count):
    found = diagnose(make_layer("bn", shape=(12,), seed=3), "0.500000", output)
    assert len(found.explanations) == count
    assert ("few numbers and many channels: some of these fit by chance; say with --layer and --channel where they come from"
            in found.notes) == (count > 1)
    assert re.match(r"of \d+ results \(12 channels, each with the known mistakes\) that were tried", found.notes[-1])


def test_explanations_of_one_of_many_channels():
    layer = make_layer("bn", shape=(3,), seed=3).replace(moving_variance=np.float32([0.3, 0.02, 2]))
    x = np.repeat(FOUR[:, :1], 3, axis=1)
    wrong = diagnose(layer, FOUR[:, 0], (layer(x) - layer.beta)[:, 1])
    assert (wrong.layer, wrong.channel, wrong.compared, wrong.differing) == ("bn", 1, 6, 6)
    assert {row[1] for row in wrong.side_by_side} == {1}
    some = [note for note in wrong.notes if "some of these fit by chance" in note]
    assert len(some) == (len(wrong.explanations) > 1)
    alone = diagnose(layer, FOUR[:, 0], (layer.gamma * (x - layer.moving_mean) * np.sqrt(layer.moving_variance + np.float32(1e-3))
                                         + layer.beta)[:, 0])
    assert [one.codes for one in alone.explanations] == [("BN114",)]
    assert not [note for note in alone.notes if "by chance" in note]


def test_the_places_that_are_shown():
    """Six numbers: the worst of six channels, or the worst of few channels each."""
    for channels, rows in ((12, 1), (6, 1), (3, 2), (4, 1), (2, 3), (1, 6)):
        layer = make_layer("bn", shape=(channels,), seed=3)
        x = np.random.default_rng(2).normal(size=(9, channels)).astype(np.float32)
        found = search._differs([gather(layer, numbers(x), numbers(layer(x) + 1 + np.arange(channels) / 10))], [], [])
        shown = [row[1] for row in found.side_by_side]
        assert len(shown) == min(channels, 6) * rows
        assert all(shown.count(channel) == rows for channel in shown)


def test_whether_the_bundles_vectors_would_tell_two_apart(monkeypatch):
    layer = layer_of(gamma=[1.0, 1.0], beta=[0.5, 0.25], mean=[0.0, 0.0], variance=[1e-4, 2e-4])
    x = np.array([[0.25, -0.5]], np.float32)
    same = diagnose(layer, x, layer(x) - layer.beta)
    assert "several explanations fit, and the bundle's own vectors of this layer cannot tell them apart either" in same.notes
    solved = diagnose(EPSILON_QUESTION, "-0.077417567", "0.543057")
    assert "several explanations fit; more rows of input would tell them apart" in solved.notes
    usual = layer_of(gamma=[1.0, 2.0], beta=[0.5, 0.25], mean=[0.0, 0.0], variance=[0.5, 0.25])
    told = diagnose(usual, np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    assert len(told.explanations) > 1
    assert any("the output of your code for the bundle's own vectors of this layer would" in note for note in told.notes)
    monkeypatch.setattr("exporter.batchnorm.vectors.make", lambda layer: (np.zeros((1, 2), np.float32), None))
    told = diagnose(usual, np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    assert any("the bundle's own vectors of this layer cannot tell them apart either" in note for note in told.notes)


def test_of_many_layers_only_the_simple_things_are_tried(monkeypatch):
    layers = [make_layer(f"l{number}", seed=number) for number in range(4)]
    x = FOUR[:2]
    theirs = layers[2].gamma * (x - layers[2].moving_mean) / (np.sqrt(layers[2].moving_variance) + np.float32(1e-3))
    monkeypatch.setattr(search, "MAX_LAYERS", 4)
    assert ("BN101", "BN132") in [one.codes for one in diagnose(make_bundle(*layers), x, theirs).explanations]
    monkeypatch.setattr(search, "MAX_LAYERS", 3)
    found = diagnose(make_bundle(*layers), x, theirs)
    assert found.explanations == ()
    assert any("were not tried for all 4 layers: choose one with --layer" in note for note in found.notes)


def test_what_fits_no_layer():
    with pytest.raises(exporter.UsageError, match=r"bn: the input has shape \[3, 3\], the layer 2 channels"):
        diagnose(LAYER, np.ones((3, 3)), np.ones((3, 3)))
    two = make_bundle(LAYER, LAYER.replace(path="b"))
    with pytest.raises(exporter.UsageError, match=r"the input of shape \[3, 3\] fits none of the 2 layers"):
        diagnose(two, np.ones((3, 3)), np.ones((3, 3)))


def test_averages_of_a_layer_of_another_length_are_no_explanation():
    other = make_layer("bn", shape=(3,), seed=4)
    found = diagnose(LAYER, X, LAYER(X) + np.sin(X), averages=make_bundle(other))
    assert found.explanations == ()


# chance

def test_how_many_fits_come_by_chance():
    """Of results that are spread evenly within 64 tolerances one in 64 is as near as a fit."""
    layer = make_layer("bn", shape=(200,), seed=6).replace(gamma=np.full(200, 1, np.float32), moving_mean=np.zeros(200, np.float32),
                                                           moving_variance=np.full(200, 1, np.float32))
    spread = layer.replace(beta=np.linspace(-1, 1, 200).astype(np.float32))
    one = gather(spread, numbers("0.5"), numbers("0.50"))
    values = spread(np.full((1, 200), 0.5, np.float32))[0].astype(float)
    near = ((np.abs(values - 0.5) > 0.005) & (np.abs(values - 0.5) <= 64 * 0.005)).sum()
    count, tried = expected([one], mistakes=False)
    assert tried == 200
    assert count == pytest.approx(near / 64, abs=0.05)
    assert said([one], mistakes=False) == f"of 200 channels that were tried, about {count:.2g} would fit these numbers by chance"
    two = gather(spread, numbers("0.5, 0.5"), numbers("0.50, 0.50"))
    assert expected([two], mistakes=False)[0] == pytest.approx(near / 64**2, abs=0.001)
    three = gather(spread, numbers("0.5, 0.5, 1"), numbers("0.50, 0.50, 1"))
    assert expected([three], mistakes=False) == (0.0, 0)
    assert said([three], mistakes=True) == ""
    with_mistakes = expected([one], mistakes=True)
    assert with_mistakes[1] > 20 * 200
    assert with_mistakes[0] > count
    assert f"of {with_mistakes[1]} results (200 channels, each with the known mistakes)" in said([one], mistakes=True)
    single = gather(layer_of(gamma=[2], beta=[1], mean=[0.5], variance=[2]), numbers("0.5"), numbers("7.3"))
    with np.errstate(all="ignore"):
        pairs, singles = (expected([single], mistakes=True, pairs=pairs)[1] for pairs in (True, False))
    assert pairs > 5 * singles
    assert singles > expected([single], mistakes=False)[1] == 1
    assert expected([one, single], mistakes=False)[1] == 201
    assert said([one, single], mistakes=False).startswith("of 200 channels")

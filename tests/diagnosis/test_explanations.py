"""The search for explanations step by step: what is tried, in which order, what an explanation says, and that it holds."""

from __future__ import annotations

import dataclasses
import itertools
import random

import numpy as np
import pytest

from exporter.diagnosis import evidence, explanations
from exporter.diagnosis.case import make_case
from exporter.diagnosis.evidence import gather
from exporter.diagnosis.explanations import (
    Explanation,
    _half_precision,
    _orders,
    _pairs,
    _some_channels,
    again,
    explain,
    explain_by_averages,
    explain_closer,
    explain_further,
    rank,
    variant,
)
from exporter.diagnosis.mistakes import BY_CODE, MISTAKES
from exporter.diagnosis.samples import numbers
from exporter.diagnosis.solvers import describe_order, solve_epsilon
from tests.make.layers import make_layer
from tests.make.questions import layer_of

LAYER = layer_of(gamma=[1.5, -2.0, 0.75], beta=[0.5, -1.0, 0.25], mean=[0.25, 1.0, -2.0], variance=[0.5, 0.25, 0.003], epsilon=1e-3)
X = np.random.default_rng(7).normal(0, 2, (9, 3)).astype(np.float32)
G, B, M, V = (values.astype(np.float64) for values in LAYER.parameters().values())


def seen(theirs, x=X, layer=LAYER, **more):
    return gather(layer, numbers(x), numbers(theirs), **more)


def single(theirs, **more):
    one = seen(theirs, **more)
    return explain(one, one)


def norm(x=X, g=G, b=B, m=M, v=V, e=1e-3):
    return (g * (x - m) / np.sqrt(v + e) + b).astype(np.float32)


def told(**fields):
    return Explanation(**{"codes": ("BN132",), "details": ("",), "layer": "bn", "worst": 0.5, "error": 0.0, **fields})


def codes(found):
    return [one.codes for one in found]


def test_the_order_of_explanations():
    """What was predicted, one mistake, for all channels, with a fixed number, closely; then by code."""
    ordered = [told(worst=0.2), told(codes=("BN140",), worst=0.1), told(codes=("BN101",), worst=0.26), told(worst=0.5), told(worst=0.76),
               told(epsilon=(1.0, 0.5, 2.0)), told(channels=(1,)), told(channels=(1,), epsilon=(1.0, 0.5, 2.0)),
               told(codes=("BN101", "BN132"), details=("", "")), told(codes=("BN102", "BN132"), details=("", ""), channels=()),
               told(weak=True, worst=0.0), told(weak=True, worst=0.9), told(weak=True, codes=("BN101", "BN132"), details=("", ""))]
    shuffled = random.Random(3).sample(ordered, len(ordered))
    assert sorted(shuffled, key=rank) == ordered


def test_the_names_have_what_is_special_in_brackets():
    assert told(codes=("BN101", "BN103"), details=("", "epsilon 1e-05")).names() == (
        "epsilon outside the root and another framework's default epsilon (epsilon 1e-05)")


# single mistakes

def test_an_explanation_says_how_far_off_it_is():
    theirs = norm(b=0).astype(np.float64)
    theirs[4, 1] += 1e-6
    (found,) = [one for one in single(theirs) if one.codes == ("BN132",)]
    case = seen(theirs).case.but(beta=np.zeros(3))
    assert found.error == np.abs(theirs - case.value()).max() > 9e-7
    assert found.worst == (np.abs(theirs - case.value()) / case.bound("float32")).max() <= 1
    assert (found.layer, found.channels, found.epsilon, found.order, found.weak, found.details) == ("bn", None, None, None, False, ("",))


def test_what_explains_the_sample_only_is_no_explanation():
    theirs = norm(b=0)
    theirs[5, 0] += 1
    whole = seen(theirs)
    assert ("BN132",) in codes(explain(whole.take(np.arange(5)), whole.take(np.arange(5))))
    assert explain(whole.take(np.arange(5)), whole) == []
    assert explain(whole.take(np.arange(4, 9)), whole) == [], "and what does not explain the sample is not looked at again"


SAMPLE = np.arange(4)


def closer(sample, whole):
    printed = np.full_like(whole.printed, 1e-7)
    return explain_closer(dataclasses.replace(sample, printed=printed[SAMPLE]), dataclasses.replace(whole, printed=printed), [])


def test_a_sample_finds_a_mistake_and_all_numbers_say_how_far_off_it_is(monkeypatch):
    """A number outside the sample is off by more than those in it, and still within the bound."""
    monkeypatch.setattr(explanations, "MISTAKES", [BY_CODE["BN101"], BY_CODE["BN132"]])  # all pairs take long
    outside = {"b": 0, "v": (np.sqrt(V) + 1e-3)**2 - 1e-3}
    for search, mistakes, wrong in ((explain, ("BN132",), {"b": 0}), (explain, ("BN105",), {"e": 0.07}),
                                    (explain_further, ("BN101", "BN132"), outside), (closer, ("BN101", "BN132"), outside)):
        theirs = norm(**wrong).astype(np.float64)
        theirs[8, 1] += 2e-6
        whole = seen(theirs)
        found = next(one for one in search(whole.take(SAMPLE), whole) if one.codes == mistakes)
        distance = np.abs(theirs - again(whole, found).value())
        assert found.error == distance.max() == distance[8, 1], mistakes


def test_an_epsilon_is_that_of_the_sample():
    theirs = norm(e=0.07)
    whole = seen(theirs)
    few = whole.take(SAMPLE)
    (found,) = explain(few, whole)
    value, low, high, _ = solve_epsilon(few.case, few.theirs, few.tolerance, outside=False)
    assert found.epsilon == (value, low, high)
    assert (low, high) != solve_epsilon(whole.case, whole.theirs, whole.tolerance, outside=False)[1:3]


def test_an_order_that_the_sample_has_holds_for_all_numbers():
    theirs = wide(reordered())
    (found,) = explain_further(theirs.take(SAMPLE), theirs)
    assert found.worst == theirs.worst(theirs.case.at(ORDER)) > theirs.take(SAMPLE).worst(theirs.take(SAMPLE).case.at(ORDER))
    off = reordered()
    off[4, 3] += 1
    assert list(_orders(wide(off).take(SAMPLE), wide(off))) == []


def test_only_the_variant_that_fits_is_said():
    x = X - 3
    relu = {name: make_case(LAYER, x, (1,)).but(after=function).value() for name, function in (
        ("leaky relu, slope 0.1", lambda y: np.where(y < 0, 0.1 * y, y)), ("leaky relu, slope 0.3", lambda y: np.where(y < 0, 0.3 * y, y)))}
    for detail, theirs in relu.items():
        assert [one.details for one in single(theirs, x=x) if one.codes == ("BN152",)] == [(detail,)]


def test_of_numbers_of_some_channel_those_that_fit_are_named():
    theirs = norm(b=0)[:, 1]
    x = X[:, 1]
    (found,) = [one for one in single(theirs, x=x) if one.codes == ("BN132",)]
    assert found.channels == (1,)
    assert found.error < 1e-5, "of that channel only"
    twins = LAYER.replace(**{name: values[[1, 0, 1]] for name, values in LAYER.parameters().items()})
    (found,) = [one for one in single(theirs, x=x, layer=twins) if one.codes == ("BN132",)]
    assert found.channels == (0, 2)


# epsilon

@pytest.mark.parametrize(("epsilon", "has", "not_"), [
    (0.0, [("BN102",), ("BN101",)], ("BN105",)), (1e-5, [("BN103",)], ("BN105",)), (0.02, [("BN105",)], ("BN102",)),
    (1e-4, [("BN103",)], ("BN105",))])
def test_an_epsilon_with_a_name_is_called_by_it(epsilon, has, not_):
    found = codes(single(norm(e=epsilon)))
    assert set(has) <= set(found)
    assert not_ not in found


def test_the_epsilon_of_the_fused_kernel_has_a_name_too():
    layer = LAYER.replace(epsilon=1e-6)
    assert codes(single(norm(e=1.001e-5), layer=layer)) == [("BN104",)]


def test_an_epsilon_outside_the_root_is_solved_for_too():
    theirs = (G * (X - M) / (np.sqrt(V) + 0.07) + B).astype(np.float32)
    (found,) = single(theirs)
    assert (found.codes, found.weak) == (("BN101",), False)
    value, low, high = found.epsilon
    assert low <= 0.07 <= high
    assert value == pytest.approx(0.07, rel=1e-3)
    assert found.details == (f"with epsilon {value:g}",)
    case = again(seen(theirs), found)
    assert np.allclose(case.value(), theirs, rtol=1e-5)
    assert np.allclose(case.value(), G * (X - M) / (np.sqrt(V) + value) + B)
    (inside,) = single(norm(e=0.07))
    assert inside.codes == ("BN105",)
    assert np.allclose(again(seen(norm(e=0.07)), inside).value(), norm(e=inside.epsilon[0]), rtol=1e-5)


def test_an_epsilon_of_one_number_is_weak():
    one = make_layer(shape=(1,), seed=2).replace(moving_variance=np.float32([0.002]))
    x = np.float32([[1.5]])
    found = [e for e in single(one.replace(epsilon=0.004)(x), x=x, layer=one) if e.epsilon is not None]
    assert found
    assert all(e.weak and e.details[0].endswith(", as any single number can be explained") for e in found)
    assert all(again(seen(one.replace(epsilon=0.004)(x), x=x, layer=one), e) is not None for e in found), "it predicts that number"


def test_no_epsilon_is_solved_for_where_the_channel_is_not_known():
    assert [one for one in single(norm(e=0.02)[:, 1], x=X[:, 1]) if one.epsilon is not None] == []


def test_the_layers_own_epsilon_is_no_explanation():
    assert [one for one in single(norm(b=0)) if one.epsilon is not None] == []


# averages

def test_the_other_set_of_variables():
    other = make_layer("bn", shape=(3,), seed=4)
    (found,) = explain_by_averages(seen(other(X)), other)
    assert (found.codes, found.details) == (("BN147",), ("",))
    assert explain_by_averages(seen(norm()), other) == []


# pairs

def both(first, second, case):
    """The outputs of two mistakes together, by their details."""
    return {(one, two): twice.value() for one, changed in BY_CODE[first].variants(case) for two, twice in BY_CODE[second].variants(changed)}


PAIRS = [(first.code, second.code) for first, second in itertools.combinations(
    [mistake for mistake in MISTAKES if not mistake.alone and mistake.wrong is not None], 2)]


@pytest.mark.parametrize(("first", "second"), PAIRS[5::60])
def test_two_mistakes_together_are_found_with_their_details(first, second):
    layer = make_layer("bn", shape=(4,), seed=6).replace(moving_variance=np.float32([0.3, 2, 0.02, 0.7]))
    x = np.random.default_rng(2).normal(0, 2, (3, 4, 2, 4)).astype(np.float32)
    one = seen(layer(x), x=x, layer=layer)
    details, output = list(both(first, second, one.case).items())[-1]
    theirs = seen(output.reshape(x.shape).astype(np.float32), x=x, layer=layer)
    pairs = list(_pairs(theirs, theirs))
    assert ((first, second), details) in [(pair.codes, pair.details) for pair in pairs]
    assert all(np.allclose(again(theirs, pair).value(), theirs.theirs, rtol=1e-4, atol=1e-4, equal_nan=True) for pair in pairs)


@pytest.mark.thorough("much time: pairs of mistakes; others run always")
def test_pairs_are_looked_for_in_a_few_rows_and_hold_for_all():
    x = np.random.default_rng(2).normal(0, 2, (1500, 3)).astype(np.float32)
    theirs = (G * (x - M) / (np.sqrt(V) + 1e-3)).astype(np.float32)
    one = seen(theirs, x=x)
    assert ("BN101", "BN132") in codes(_pairs(one.sample(), one))
    theirs[3, 1] += 1
    one = seen(theirs, x=x)
    assert codes(_pairs(one, one)) == []


@pytest.mark.thorough("much time: pairs of mistakes; others run always")
def test_pairs_are_mentioned_where_they_fit_printed_numbers_much_better():
    theirs = norm(b=0, e=0).astype(np.float64)
    printed = seen("[" + ",".join("[" + ",".join(f"{value:.6f}" for value in row) + "]" for row in theirs.tolist()) + "]")
    pairs = list(_pairs(printed, printed))
    assert ("BN102", "BN132") in codes(pairs)
    closest = min(pair.worst for pair in pairs)
    assert closest > 0
    for worst in (1.0, 10.1 * closest, 9.9 * closest, 0.5 * closest):
        assert explain_closer(printed, printed, [told(worst=99.0), told(worst=worst), told(worst=0.0, weak=True)]) == [
            pair for pair in pairs if pair.worst <= 0.1 * worst]
    assert explain_closer(printed, printed, []) == explain_closer(printed, printed, [told(worst=0.0, weak=True)]) == pairs
    exact = seen(theirs.astype(np.float32))
    assert explain_closer(exact, exact, []) == [], "numbers with all digits need no second mistake"
    some = seen(",".join(f"{value:.6f}" for value in theirs[:, 1].tolist()), x=X[:, 1])
    assert explain_closer(some, some, []) == [], "of any channel pairs fit by chance"


def test_of_a_single_number_in_any_channel_no_pairs_are_tried(monkeypatch):
    monkeypatch.setattr(explanations, "MISTAKES", [BY_CODE["BN102"], BY_CODE["BN132"]])
    theirs = norm(b=0, e=0)[:1, 1]
    one = seen(theirs, x=X[:1, 1])
    assert explain_further(one, one) == []
    row = seen(norm(b=0, e=0)[:1], x=X[:1])
    assert ("BN102", "BN132") in codes(explain_further(row, row)), "but in a row of which each channel is known"
    two = seen(norm(b=0, e=0)[:2, 1], x=X[:2, 1])
    assert ("BN102", "BN132") in codes(explain_further(two, two))


# an order of channels

WIDE = make_layer("bn", shape=(12,), seed=9)
WIDE_X = np.random.default_rng(3).normal(0, 2, (5, 12)).astype(np.float32)
ORDER = np.random.default_rng(5).permutation(12)


def wide(theirs):
    return seen(theirs, x=WIDE_X, layer=WIDE)


def reordered(order=ORDER):
    return WIDE.replace(**{name: values[order] for name, values in WIDE.parameters().items()})(WIDE_X)


def test_an_order_of_the_parameters_and_one_of_the_result():
    one = wide(reordered())
    (found,) = explain_further(one, one)
    assert (found.codes, found.order, found.weak) == (("BN143",), tuple(ORDER.tolist()), False)
    assert found.details == (describe_order(ORDER),)
    assert "12 channels are elsewhere" in found.details[0]
    assert again(one, found) is None
    one = wide(WIDE(WIDE_X)[:, ORDER])
    (found,) = explain_further(one, one)
    assert (found.codes, found.order) == (("BN144",), tuple(ORDER.tolist()))
    assert found.details[0].startswith("the output's channels: ")


def test_an_order_is_looked_for_in_some_channels_after_the_other(monkeypatch):
    monkeypatch.setattr("exporter.diagnosis.solvers.CHANNELS_AT_ONCE", 5)
    for theirs, code in ((reordered(), "BN143"), (WIDE(WIDE_X)[:, ORDER], "BN144")):
        one = wide(theirs)
        assert [(found.codes, found.order) for found in _orders(one, one)] == [((code,), tuple(ORDER.tolist()))]


@pytest.mark.parametrize("of", ["parameters", "result"])
@pytest.mark.parametrize(("units", "is_found"), [(15.9, True), (16.1, False)])
def test_an_order_has_to_fit_within_the_error_bound(of, units, is_found):
    case = make_case(WIDE, WIDE_X, (1,)).at(ORDER)
    if of == "result":
        case = case.but(x=case.x[:, ORDER], magnitude=case.magnitude[:, ORDER])
    u = 2.0 ** -24
    scale = np.abs(case.gamma) / np.sqrt(case.variance + case.epsilon)
    off = units * u * (scale * np.abs(case.x) + scale * np.abs(case.mean) + np.abs(case.beta))
    for theirs in (case.value() + off, case.value() - off):
        one = wide(theirs.astype(np.float64))
        assert (("BN143" if of == "parameters" else "BN144",) in codes(_orders(one, one))) == is_found


def test_an_order_is_not_asked_of_what_is_not_known_well():
    one = wide(reordered())
    assert list(_orders(one.loosen(), one.loosen())) == []
    column = seen(reordered()[:, 0], x=WIDE_X[:, 0], layer=WIDE)
    assert list(_orders(column, column)) == []


# half precision

def test_half_precision_is_named_by_its_type():
    layer = make_layer("bn", seed=8).replace(moving_variance=np.float32([0.5, 1, 2, 0.25]))
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    right = layer(x).astype(np.float64)
    rough = right * (1 + 0.001 * np.sign(np.sin(np.arange(80.0))).reshape(20, 4))
    for dtype, off in (("float16", rough.astype(np.float16).astype(np.float64)), ("bfloat16", None)):
        if off is None:
            bits = (right * (1 + 0.01 * np.sign(np.sin(np.arange(80.0))).reshape(20, 4))).astype(np.float32).view(np.uint32)
            off = (bits >> 16 << 16).astype(np.uint32).view(np.float32).astype(np.float64)
        one = seen(off.astype(np.float32), x=x, layer=layer)
        (found,) = _half_precision(one)
        assert (found.codes, found.details, found.weak) == (("BN164",), (dtype,), True)
        assert again(one, found) is None, "nothing was predicted"
        off[2, 1] += 0.3 if dtype == "bfloat16" else 2.0 ** -20
        assert list(_half_precision(seen(off.astype(np.float32), x=x, layer=layer))) == []
    column = seen(rough.astype(np.float16).astype(np.float32)[:, 1], x=x[:, 1], layer=layer)
    assert list(_half_precision(column)) == []


# some channels only

def test_a_mistake_in_some_channels_holds_for_these():
    layer = make_layer("bn", shape=(6,), seed=8).replace(gamma=np.float32([1, 2, 0.5, 1.5, -1, 3]))
    x = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    theirs = layer(x)
    theirs[:, [1, 4]] -= layer.beta[[1, 4]]
    one = seen(theirs, x=x, layer=layer)
    found = explain_further(one, one)
    assert (("BN132",), (1, 4)) in [(each.codes, each.channels) for each in found]
    assert all(each.channels == (1, 4) and each.order is None for each in found)
    assert again(one, found[0]) is None, "an explanation of some channels says nothing of the others"
    turned = layer(x)
    turned[:, [0, 2, 5]] = turned[:, [2, 5, 0]]
    one = seen(turned, x=x, layer=layer)
    found = list(_some_channels(one))
    assert {each.channels for each in found} == {(0, 2, 5)}
    assert {each.codes for each in found} == {("BN144",)}
    assert {each.order for each in found} == {None}


def test_an_order_of_some_channels_holds_for_all_their_numbers(monkeypatch):
    monkeypatch.setattr(evidence, "MAX_SEARCHED", 24)
    layer = make_layer("bn", shape=(6,), seed=8).replace(gamma=np.float32([1, 2, 0.5, 1.5, -1, 3]))
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    turned = layer(x)
    turned[:, [0, 2, 5]] = turned[:, [2, 5, 0]]
    one = seen(turned, x=x, layer=layer)
    assert {each.codes for each in _some_channels(one)} == {("BN144",)}
    searched = one.channels(np.array([0, 2, 5])).sample().case.setting.rows.tolist()
    row = next(row for row in range(20, 40) if row not in searched)
    turned[row, 2] += 1e-3
    one = seen(turned, x=x, layer=layer)
    assert one.channels(np.array([0, 2, 5])).sample().case.setting.rows.tolist() == searched, "which do not have it"
    assert {each.codes for each in _some_channels(one)} <= {("BN146",)}


def test_parameters_of_another_checkpoint_are_those_that_differ_everywhere():
    layer = make_layer("bn", shape=(20,), seed=8)
    layer = layer.replace(gamma=np.abs(layer.gamma) + np.float32(0.5))
    x = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    good = layer(x)
    for bad in ([3], list(range(1, 11)), list(range(18))):
        theirs = good.copy()
        theirs[:, bad] = good[:, bad] * np.float32(1.37) + x[:, bad] * np.float32(0.21)
        one = seen(theirs, x=x, layer=layer)
        (found,) = _some_channels(one)
        shown = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
        assert found.details == (f"{len(bad)} of 20 channels differ: {shown}",)
        assert (found.codes, found.channels, found.weak, found.worst) == (("BN146",), tuple(bad), True, 0.0)
        assert found.error == np.abs(theirs.astype(np.float64) - one.case.value())[:, bad].max()
    theirs = good * np.float32(1.37) + x * np.float32(0.21)
    theirs[:, 0] = good[:, 0]
    assert list(_some_channels(seen(theirs, x=x, layer=layer))) == [], "one of twenty that agrees is too few"
    theirs = good.copy()
    theirs[:9, 3] += np.sin(np.arange(9)).astype(np.float32) + 2
    assert list(_some_channels(seen(theirs, x=x, layer=layer))) == [], "less than half of the numbers are off"
    theirs[9:12, 3] += 2
    assert codes(_some_channels(seen(theirs, x=x, layer=layer))) == [("BN146",)]


def test_channels_without_a_slope_agree_with_everything():
    """Where gamma is 0 only beta is compared: such channels do not tell one checkpoint from another."""
    layer = make_layer("bn", shape=(6,), seed=8).replace(gamma=np.float32([0, 0, 0, 0, 0, 1]))
    x = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    theirs = layer(x)
    theirs[:, 5] = np.sin(7 * x[:, 5])
    one = seen(theirs, x=x, layer=layer)
    assert list(_some_channels(one)) == []


# what an explanation gives

def test_every_explanation_gives_the_numbers_it_explains():
    for mistake in MISTAKES:
        if mistake.wrong is None:
            continue
        for detail, case in mistake.variants(seen(norm()).case)[-2:]:
            one = seen(case.value().astype(np.float32))
            for found in explain(one, one):
                values = again(one, found).value()
                assert np.allclose(values, one.theirs, rtol=1e-4, atol=1e-4, equal_nan=True), (mistake.code, detail, found.codes)
                if found.epsilon is None:
                    assert np.array_equal(variant(one.case, found).value(), values, equal_nan=True)


def test_a_mistake_that_a_layer_cannot_have_gives_nothing():
    bare = make_case(LAYER.replace(gamma=None), X, (1,))
    assert variant(bare, told(codes=("BN131",))) is None
    assert variant(bare, told(codes=("BN103",), details=("no such detail",))) is None
    assert variant(bare, told(codes=("BN146",), details=("whatever",))) is None
    twice = variant(bare, told(codes=("BN101", "BN132"), details=("", "")))
    assert np.allclose(twice.value(), (X - M) / (np.sqrt(V) + 1e-3), rtol=1e-5)

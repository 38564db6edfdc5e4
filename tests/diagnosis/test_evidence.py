"""The user's numbers beside a layer: how they are laid out, how far they may be off, and which rows are looked at first."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import exporter
from exporter.batchnorm.dtypes import TINY, UNIT
from exporter.diagnosis import evidence
from exporter.diagnosis.evidence import aligned, axes_for, channels_of, gather
from exporter.diagnosis.mistakes import MISTAKES
from exporter.diagnosis.samples import Numbers, numbers
from tests.make.layers import make_layer
from tests.make.questions import layer_of

LAYER = layer_of(gamma=[1.5, -2.0], beta=[0.5, -1.0], mean=[0.25, 1.0], variance=[0.5, 0.25], epsilon=1e-3)
X = np.array([[1, 2], [-1, 3], [0.5, -2]], np.float32)


def seen(layer=LAYER, x=X, theirs=None, **more):
    return gather(layer, numbers(x), numbers(layer(x) if theirs is None else theirs), **more)


# how far a number may be off

@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_tolerance_is_the_bound_of_the_coarser_type(dtype):
    gamma, beta, mean, variance = (values.astype(np.float64) for values in LAYER.parameters().values())
    scale = np.abs(gamma) / np.sqrt(variance + LAYER.epsilon)
    bound = 16 * UNIT[dtype] * (scale * np.abs(X) + scale * np.abs(mean) + np.abs(beta)) + TINY[dtype]
    one = seen(dtype=dtype)
    assert one.dtype == dtype
    assert np.allclose(one.tolerance(one.case), bound, rtol=1e-12, atol=0)
    assert seen(dtype="float64").dtype == "float32", "no finer than the layer's own"


def test_of_printed_numbers_half_a_digit_more_is_open():
    exact, printed = seen(), seen(x="[[1.00, 2.0], [-1.0, 3.000], [0.5, -2]]", theirs="[[1.2, 3.25], [1, 2], [3, 4]]")
    bound = exact.tolerance(exact.case)
    assert printed.dtype == "float32"
    assert np.allclose(printed.tolerance(printed.case) - bound, [[0.05, 0.005], [0.5, 0.5], [0.5, 0.5]], rtol=1e-3)
    scale = np.abs(printed.case.scale())
    loose = printed.loosen()
    more = loose.tolerance(loose.case) - printed.tolerance(printed.case)
    assert np.allclose(more, scale * [[0.005, 0.05], [0.05, 0.0005], [0.05, 0]], rtol=1e-6), "whole inputs are meant as they are typed"


@pytest.mark.parametrize("name", ["gamma", "beta", "moving_mean", "moving_variance"])
def test_a_printed_parameter_leaves_open_what_half_a_digit_of_it_changes(name):
    layer = make_layer(shape=(2,), dtype="float64", seed=3).replace(moving_variance=np.array([0.5, 0.25]), gamma=np.array([1.5, -2.0]))
    half = np.array([1e-6, 3e-6])
    one = seen(layer, X.astype(np.float64), slack={name: half})
    further = layer.replace(**{name: layer.parameters()[name] + half})(X.astype(np.float64))
    change = np.abs(further - layer(X.astype(np.float64)))
    assert np.allclose(one.slack, change, rtol=1e-4)
    loose = one.loosen()
    assert np.allclose(loose.tolerance(loose.case) - one.tolerance(one.case), one.slack)
    single = seen(layer, X[:, 1].astype(np.float64), theirs=layer(X.astype(np.float64))[:, 1], channel=1, slack={name: half})
    assert np.allclose(single.slack[:, 0], change[:, 1], rtol=1e-4)
    both = seen(layer, X.astype(np.float64), slack={name: half, "beta": half} if name != "beta" else {name: half})
    assert np.allclose(both.slack, change + (half if name != "beta" else 0), rtol=1e-4)


@pytest.mark.parametrize("rows", [[0], [0, 1], [0, 1, 2], [2, 1, 0]])
def test_numbers_at_the_bound_are_right(rows):
    """With a root of 1, the bound of x is 16 units of roundoff of it, exactly."""
    layer = layer_of(gamma=[1], beta=[0], mean=[0], variance=[0.75], epsilon=0.25)
    x = np.array([[1.0], [2.0], [4.0]])[rows]
    bound = x * 2.0 ** -20
    for theirs in (x + bound, x - bound):
        one = seen(layer, x, theirs=theirs, dtype="float32")
        assert one.misfit(one.case).max() == 1
        assert one.right()
        assert one.fits(one.case)
        assert one.channels_that_fit(one.case) == [0]
    for number in range(len(rows)):
        off = x + bound * (1 + 2.0 ** -20 * (np.arange(len(rows)) == number)[:, None])
        assert not seen(layer, x, theirs=off, dtype="float32").right()


def test_the_misfit_of_what_is_no_number():
    right = LAYER(X).astype(np.float64)
    theirs = right.copy()
    theirs[0, 0], theirs[1, 1] = np.nan, np.inf
    one = seen(theirs=theirs)
    assert one.misfit(one.case)[[0, 1], [0, 1]].tolist() == [np.inf, np.inf]
    hidden = one.case.but(beta=np.where(np.isnan(theirs) | np.isinf(theirs), theirs, one.case.beta))
    assert (one.misfit(hidden)[[0, 1], [0, 1]] == 0).all(), "the same nothing in both"
    off = seen(theirs=right + 0.25)
    assert np.allclose(off.misfit(off.case), 0.25 / off.tolerance(off.case), rtol=1e-3)
    assert not seen(theirs=np.full(X.shape, np.nan)).fits(one.case.but(beta=np.full(2, np.nan))), "NaN everywhere fits much"
    assert one.fits(hidden)


def test_a_case_is_close_where_it_gives_what_the_right_one_gives():
    one = seen(theirs=LAYER(X) + 5)
    bound = one.tolerance(one.case)
    assert one.close(one.case.but(beta=one.case.beta + 0.9 * bound))
    assert not one.close(one.case.but(beta=one.case.beta + 1.3 * bound))


def test_numbers_of_some_channel_fit_where_one_channel_does():
    wide = make_layer(shape=(4,), seed=3)
    x = np.float32([0.5, -1, 2])
    right = wide(np.repeat(x[:, None], 4, axis=1))
    one = seen(wide, x, theirs=right[:, 2])
    assert one.any_channel
    assert one.theirs.shape == (3, 4)
    assert one.channels_that_fit(one.case) == [2]
    assert one.worst(one.case) == one.misfit(one.case)[:, 2].max() <= 1
    assert one.right()
    mixed = seen(wide, x, theirs=[float(right[0, 0]), float(right[1, 1]), float(right[2, 2])])
    assert not mixed.right(), "each number fits some channel, and no channel fits all"
    assert mixed.channels_that_fit(mixed.case) == []
    far = right.copy()
    far[2, 1] += 1
    assert not seen(wide, np.repeat(x[:, None], 4, axis=1), theirs=far).right(), "the third row is off"


# rows and channels

def test_some_rows_keep_the_statistics_of_all():
    """Whatever the mistake: of some rows it gives what it gives of them among all."""
    layer = make_layer(shape=(3,), axis=(1,), dtype="float64", seed=4)
    x = np.random.default_rng(1).normal(size=(4, 3, 2, 3))
    whole = seen(layer, x, others=[make_layer("other", shape=(3,), dtype="float64", seed=5)])
    rows = np.array([1, 4, 5, 17])
    some = whole.take(rows)
    for values in ("theirs", "printed", "input_printed", "slack"):
        assert np.array_equal(getattr(some, values), getattr(whole, values)[rows])
    for mistake in MISTAKES:
        for (detail, part), (_, case) in zip(mistake.variants(some.case), mistake.variants(whole.case), strict=True):
            assert np.allclose(part.value(), case.value()[rows], equal_nan=True), (mistake.code, detail)
            assert np.allclose(part.bound("float32"), case.bound("float32")[rows], equal_nan=True), (mistake.code, detail)


def test_the_sample_has_the_worst_rows_and_some_of_all(monkeypatch):
    monkeypatch.setattr(evidence, "MAX_SEARCHED", 20)
    x = np.random.default_rng(1).normal(size=(101, 2)).astype(np.float32)
    theirs = LAYER(x)
    theirs[[7, 33, 71, 72, 98], [0, 1, 0, 1, 0]] += [5, 4, 3, 2, 1]
    few = seen(x=x, theirs=theirs).sample()
    assert few.case.setting.rows.tolist() == sorted([7, 33, 71, 72, 98, 0, 25, 50, 75, 100])
    assert len(seen(x=x[:10], theirs=theirs[:10]).sample().theirs) == 10
    wide = make_layer(shape=(12,), seed=2)
    many = np.random.default_rng(1).normal(size=(9, 12)).astype(np.float32)
    off = wide(many) + np.float32([0, 0, 0, 2, 0, 1, 0, 0, 0])[:, None]
    assert seen(wide, many, theirs=off).sample().case.setting.rows.tolist() == [0, 3, 5, 8], "four rows at least"


def test_some_channels_are_a_layer_of_their_own():
    layer = make_layer(shape=(5,), axis=(1,), seed=4, ndim=3)
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    one = seen(layer, x, theirs=np.round(layer(x).astype(float), 3).tolist(), slack={"beta": np.arange(5.0)})
    which = np.array([4, 1])
    part = one.channels(which)
    assert (part.layer.shape, part.layer.axis, part.layer.ndim) == ((2,), (-1,), None)
    for name in ("theirs", "printed", "input_printed", "slack"):
        assert np.array_equal(getattr(part, name), getattr(one, name)[:, which]), name
    assert np.array_equal(part.case.value(), one.case.value()[:, which])
    assert part.given == (6, 2)
    assert part.right()
    flat = channels_of(make_layer(shape=(2, 3), axis=(1, 2), seed=1), np.array([5, 0]))
    assert flat.gamma.tolist() == make_layer(shape=(2, 3), axis=(1, 2), seed=1).gamma.ravel()[[5, 0]].tolist()


def test_each_number_is_named_by_its_place_in_what_was_given():
    layer = make_layer(shape=(3,), axis=(1,), seed=4)
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    one = seen(layer, x)
    for row in range(8):
        for channel in range(3):
            assert x[one.position(row, channel)] == one.case.x[row, channel]
    single = seen(make_layer(shape=(7,)), np.arange(6.0).reshape(2, 3)[0], theirs=np.zeros(3))
    assert [single.position(row, 5) for row in range(3)] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(("shape", "axis", "given", "wanted"), [
    ((3,), (-1,), (2, 3), (1,)), ((3,), (1,), (3, 3, 3), (1,)), ((3,), (1,), (3, 2, 3), (2,)), ((3,), (-1,), (3, 3, 2), (1,)),
    ((3,), (-1,), (3, 2, 2), (0,)), ((3,), (3,), (2, 4, 3, 2), (2,)), ((3,), (-1,), (2, 4), None), ((3,), (2,), (3,), (0,)),
    ((2, 3), (1, 2), (4, 2, 3, 5), (1, 2)), ((2, 3), (1, 3), (4, 5, 2, 3), (2, 3)), ((2, 3), (2, 3), (4, 2, 3, 5), (1, 2)),
    ((2, 3), (1, 2), (4, 5, 3, 2), None), ((2, 3), (1, 2), (3,), None), ((3, 3), (1, -1), (4, 3), None)])
def test_the_axes_of_an_input(shape, axis, given, wanted):
    assert axes_for(make_layer(shape=shape, axis=axis), given, None) == wanted


@pytest.mark.parametrize(("axis", "given", "wanted"), [(0, (3, 3), (0,)), (-1, (3, 3), (1,)), (1, (3, 2), None), (2, (3, 3), None),
                                                      (-3, (3, 3), None), (-2, (3, 2), (0,))])
def test_an_axis_that_is_said(axis, given, wanted):
    assert axes_for(make_layer(shape=(3,)), given, axis) == wanted


@pytest.mark.parametrize(("channels", "given", "more", "rows", "any_channel"), [
    (4, (4,), {}, (1, 4), False), (4, (3,), {}, (3, 4), True), (4, (), {}, (1, 4), True), (1, (3,), {}, (3, 1), False),
    (1, (2, 3), {}, (6, 1), False), (4, (2, 3), {}, None, None), (4, (3,), {"channel": 2}, (3, 1), False),
    (4, (3,), {"channel": 4}, None, None), (4, (3,), {"channel": -1}, None, None), (4, (3,), {"axis": 0}, None, None),
    (4, (3,), {"channel": 3}, (3, 1), False), (4, (3,), {"channel": 0}, (3, 1), False), (1, (3, 1), {}, (3, 1), False),
    (1, (2, 3), {"axis": 1}, None, None), (4, (2, 3), {"channel": 1}, (6, 1), False), (1, (), {}, (1, 1), False)])
def test_which_numbers_are_of_which_channel(channels, given, more, rows, any_channel):
    layer, other = make_layer(shape=(channels,), seed=4), make_layer("other", shape=(channels,), seed=5)
    x = np.random.default_rng(1).normal(size=given)
    one = gather(layer, numbers(x), numbers(x), others=[other], **more)
    if rows is None:
        assert one is None
        return
    assert (one.theirs.shape, one.any_channel) == (rows, any_channel)
    assert one.given == given
    assert len(one.case.setting.others) == (0 if any_channel or "channel" in more else 1)
    if any_channel:
        assert (one.case.x == x.reshape(-1, 1)).all()
    if "channel" in more:
        assert one.layer.beta.tolist() == [layer.beta[more["channel"]]]


def test_layers_of_other_lengths_do_not_share_their_rows():
    """Without a layer given, all are tried, and what they have in common is made once."""
    shared = {}
    x, y = numbers(np.float32([0.5, 1])), numbers(np.float32([1, 2]))
    found = [gather(make_layer(shape=(channels,), seed=channels), x, y, shared=shared) for channels in (4, 7, 4, 2)]
    assert [one.theirs.shape for one in found] == [(2, 4), (2, 7), (2, 4), (1, 2)]
    assert found[0].theirs is found[2].theirs
    assert len(shared) == 3
    printed = gather(make_layer(shape=(4,)), numbers("0.5, 1.25"), numbers("1.5, 2"))
    assert printed.printed.tolist() == [[0.05] * 4, [0.5] * 4]
    assert printed.input_printed.tolist() == [[0.05] * 4, [0.005] * 4]


@pytest.mark.parametrize(("theirs", "layer", "wanted"), [
    (np.float16([1, 2]), "float32", "float16"), (np.float64([1, 2]), "float32", "float32"), (np.float64([1, 2]), "float64", "float64"),
    (np.array([1, 2]), "float64", "float64"), ("1, 2", "float64", "float32"), ("1, 2", "float16", "float16"),
    (np.float32([1, 2]), "bfloat16", "bfloat16"), (np.float32([1, 2]), "float64", "float32")])
def test_the_type_an_output_was_computed_in(theirs, layer, wanted):
    one = gather(make_layer(shape=(2,), dtype=layer), numbers(np.float32([1, 2])), numbers(theirs))
    assert one.dtype == wanted


# the output's shape

@pytest.mark.parametrize(("shape", "other", "note"), [
    ((2, 3), (2, 3), ""), ((2, 3), (2, 1, 3), ""), ((1, 2, 3, 1), (2, 3), ""), ((2, 3, 4), (2, 4, 3), "axes were moved"),
    ((2, 4, 5, 3), (2, 3, 4, 5), "axes were moved"), ((2, 3, 4, 5), (2, 4, 5, 3), "axes were moved"),
    ((2, 3), (6,), "in the order"), ((6,), (2, 3), "in the order")])
def test_an_output_of_another_shape_is_brought_into_the_inputs(shape, other, note):
    x = np.arange(np.prod(shape), dtype=float).reshape(shape)
    y = x.reshape(other)
    if note == "axes were moved":
        y = np.moveaxis(x, -1, 1) if np.moveaxis(x, -1, 1).shape == other else np.moveaxis(x, 1, -1)
        assert y.shape == other
    got, said = aligned(Numbers(x), Numbers(y, y + 1))
    assert np.array_equal(got.values, x)
    assert np.array_equal(got.half, x + 1)
    assert note in said
    assert bool(note) == bool(said)


@pytest.mark.parametrize(("shape", "other"), [((2, 3), (3, 2)), ((2, 3), (5,)), ((2, 2, 3), (4, 3)), ((2, 3, 4), (4, 3, 2)),
                                              ((2, 3), (2, 3, 2))])
def test_shapes_that_have_nothing_to_do_with_each_other(shape, other):
    with pytest.raises(exporter.UsageError, match="the input has shape"):
        aligned(Numbers(np.zeros(shape)), Numbers(np.zeros(other)))


def test_the_numbers_of_a_replaced_output_are_checked_against_all_rows():
    one = seen()
    assert one.right()
    for row in range(3):
        theirs = LAYER(X).astype(np.float64)
        theirs[row, 1] += 1
        assert not dataclasses.replace(one, theirs=theirs).right()


def test_one_sample_of_the_layers_own_shape():
    layer = make_layer("bn", shape=(2, 3), axis=(1, 2))
    x = np.float32([[0.5, -1, 2], [3, 0.25, -2]])
    assert exporter.diagnose(layer, x, layer(x[None])[0]).verdict == "same"
    assert exporter.diagnose(layer, x, layer(x[None])[0] + 1).verdict == "differs"


def test_what_is_right_and_no_number():
    layer = make_layer("bn", seed=1)
    found = exporter.diagnose(layer, [[np.nan] * 4], [[np.nan] * 4])
    assert found.verdict == "same"
    assert "none of the numbers is finite, as it should be for this input; nothing else was compared" in found.notes
    assert not [note for note in exporter.diagnose(layer, [[1, 2, 3, np.nan]], layer([[1, 2, 3, np.nan]])).notes if "finite" in note]


@pytest.mark.parametrize("name", ["gamma", "beta", "moving_mean", "moving_variance"])
def test_what_half_a_unit_of_a_parameter_may_change(name):
    """Nearly as much as the change itself does."""
    layer, x, half = make_layer(dtype="float64", seed=3), np.array([[0.5, -1.25, 3, 2]]), 1e-7
    found = gather(layer, numbers(x), numbers(x), slack={name: np.full(4, half)})
    moved = layer.replace(**{name: layer.parameters()[name] + half})
    assert found.slack == pytest.approx(np.abs(moved(x) - layer(x)), rel=2e-3, abs=1e-13)

"""What is solved for: an epsilon, an order of channels; and the sample that it is looked for in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import exporter
from exporter.diagnosis import evidence
from exporter.diagnosis.case import make_case
from exporter.diagnosis.solvers import _assign, describe_order, match_channels, simplest, solve_epsilon
from exporter.diagnosis.wrong import orders
from tests.make.layers import make_layer
from tests.make.questions import layer_of

LAYER = layer_of(gamma=[1.5, 2.0], beta=[0.5, -1.0], mean=[0.25, 1.0], variance=[0.5, 0.25], epsilon=1e-3)


def solved(x, *, epsilon=0.01, outside=False, layer=LAYER, slack=1e-6, change=lambda theirs: theirs):
    """What is solved of the outputs of another epsilon."""
    case = make_case(layer, np.asarray(x, np.float32), (1,))
    divisor = (lambda variance, eps: np.sqrt(variance) + eps) if outside else (lambda variance, eps: np.sqrt(variance + eps))
    theirs = change(case.but(epsilon=np.full_like(case.epsilon, epsilon), divisor=divisor).value())
    return solve_epsilon(case, theirs, lambda case: np.full(theirs.shape, slack), outside=outside)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 0.01, 0.3])
def test_the_epsilon_of_several_numbers(epsilon, outside):
    value, low, high, several = solved([[1, 2], [-1, 3]], epsilon=epsilon, outside=outside)
    assert low <= epsilon <= high
    assert value == pytest.approx(epsilon, rel=1e-3, abs=1e-5)
    assert several


@pytest.mark.parametrize("epsilon", [0.07, 1e-5, 0.025])
def test_of_the_epsilons_that_fit_the_shortest_is_said(epsilon):
    assert solved([[1, 2], [-1, 3]], epsilon=epsilon, slack=1e-7)[0] == epsilon


def test_a_product_of_one_says_as_much_as_another():
    one = layer_of(gamma=[1.0], beta=[0.0], mean=[0.0], variance=[0.5])
    assert solved([[1]], layer=one)[0] == 0.01


def test_numbers_that_are_beta_have_no_epsilon():
    """It would have to be infinite."""
    assert solved([[1, 2], [-1, 3]], change=lambda theirs: np.broadcast_to([0.5, -1.0], theirs.shape)) is None


def test_of_a_single_number_some_epsilon_always_fits():
    """The other numbers lie at the mean, where every epsilon gives beta."""
    value, _, _, several = solved([[1, 1], [0.25, 1]])
    assert value == pytest.approx(0.01, rel=1e-2)
    assert not several


def test_two_numbers_agree_on_an_epsilon():
    assert solved([[1, 2]])[3]
    assert not solved([[1, 1]])[3]
    nothing = solved([[1, 2]], change=lambda theirs: np.where(theirs == theirs[0, 1], np.nan, theirs))
    assert nothing[0] == pytest.approx(0.01, rel=1e-2)
    assert not nothing[3], "what is NaN says nothing"


def test_a_number_too_near_to_beta_says_only_how_small_epsilon_may_be():
    """|theirs - beta| within what it may be off: the divisor may be as large as it likes."""
    _, low, high, several = solved([[1, 1.0001]], slack=1e-3)
    assert not several
    assert low <= 0.01 <= high
    assert low == pytest.approx((1.125 / (1.125 / np.sqrt(0.51) + 1e-3)) ** 2 - 0.5)
    assert high == pytest.approx((1.125 / (1.125 / np.sqrt(0.51) - 1e-3)) ** 2 - 0.5)


def test_the_bounds_of_an_epsilon_are_the_narrowest_of_all_numbers():
    x, slack = np.array([[1, 2], [-1, 3], [4, -7]]), 1e-4
    _, low, high, _ = solved(x, slack=slack)
    variance = LAYER.moving_variance.astype(float)
    numerator = np.abs(LAYER.gamma.astype(float) * (x - LAYER.moving_mean))
    rest = numerator / np.sqrt(variance + 0.01)
    assert low == pytest.approx(((numerator / (rest + slack)) ** 2 - variance).max(), rel=1e-6)
    assert high == pytest.approx(((numerator / (rest - slack)) ** 2 - variance).min(), rel=1e-6)
    _, low, high, _ = solved(x, slack=slack, outside=True, epsilon=0.3)
    rest = numerator / (np.sqrt(variance) + 0.3)
    assert low == pytest.approx((numerator / (rest + slack) - np.sqrt(variance)).max(), rel=1e-6)
    assert high == pytest.approx((numerator / (rest - slack) - np.sqrt(variance)).min(), rel=1e-6)
    assert solved(x, epsilon=-1e-6, slack=1e-4)[1] == 0.0, "no epsilon is negative"
    assert solved(x, epsilon=-0.1, slack=1e-5) is None


def test_numbers_that_tell_nothing():
    """All at the mean, or where gamma is 0: no number depends on epsilon."""
    assert solved([[0.25, 1], [0.25, 1]]) is None
    assert solved([[1, 2]], layer=layer_of(gamma=[0, 0], beta=[0.5, -1.0], mean=[0.25, 1.0], variance=[0.5, 0.25], epsilon=1e-3)) is None


def test_numbers_that_no_epsilon_gives():
    assert solved([[1, 2], [-1, 3]], change=lambda theirs: 2 * LAYER.beta - theirs) is None  # the wrong side of beta
    assert solved([[1, 2], [-1, 3]], change=lambda theirs: theirs * 3) is None
    assert solved([[1, 2], [-1, 3]], change=lambda theirs: np.where(theirs > 0, theirs * 1.01, theirs)) is None


@pytest.mark.parametrize(("low", "high", "value"), [(0.0, 1e-9, 0.0), (-1.0, 0.5, 0.0), (9.9e-4, 1.01e-3, 1e-3), (1.2e-5, 1.3e-5, 1.2e-5),
                                                    (0.123455, 0.123457, 0.123456), (0.5, 0.5, 0.5), (0.36, 0.4, 0.4), (0.4, 0.44, 0.4),
                                                    (0.37, 0.41, 0.4)])
def test_the_number_with_the_fewest_digits(low, high, value):
    assert simplest(low, high) == value


def matched(fits):
    """match_channels where channel i fits column j as `fits` says."""
    fits = np.array(fits, bool)
    return match_channels(lambda row, columns: (np.where(fits[:, columns], 0.0, 9.0), np.zeros(fits[:, columns].shape)),
                          np.zeros((1, len(fits))), np.zeros((1, len(fits))))


def test_a_column_that_fits_two_channels_gives_way():
    """Column 0 fits channels 0 and 1, column 1 channel 0 only: column 0 has to take channel 1, though 0 is its own."""
    assert matched([[1, 1, 0], [1, 0, 0], [0, 0, 1]]).tolist() == [1, 0, 2]
    chosen = _assign([np.array([0, 1]), np.array([1, 2]), np.array([2, 3]), np.array([0])])
    assert chosen.tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("fits", [np.eye(3), [[1, 1, 0], [1, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 0, 0], [1, 1, 0]], np.ones((3, 3))],
                         ids=["straight", "straight too", "one fits nothing", "everything"])
def test_no_order_where_the_straight_one_or_none_fits(fits):
    assert matched(fits) is None


def of_values(theirs, slack=0.0, bound=0.0, channels=None):
    """match_channels where channel i gives i + 10 * row for any column."""
    theirs = np.array(theirs, float)
    count = channels or theirs.shape[1]

    def predict(row, columns):
        width = columns.stop - columns.start
        return np.repeat(np.arange(count)[:, None] + 10.0 * row, width, axis=1), np.full((count, width), bound)

    return match_channels(predict, theirs, np.full(theirs.shape, slack))


def test_each_row_has_to_fit_within_bound_and_digits():
    assert of_values([[1, 0, 2]]).tolist() == [1, 0, 2]
    assert of_values([[1, 0, 2], [11, 10, 12]]).tolist() == [1, 0, 2]
    assert of_values([[1, 0, 2], [11, 10, 13]]) is None
    assert of_values([[1.2, 0, 2.2]]) is None
    assert of_values([[1.2, 0, 2.2]], slack=0.25).tolist() == [1, 0, 2]
    assert of_values([[1.2, 0, 2.2]], bound=0.25).tolist() == [1, 0, 2]
    assert of_values([[1.2, 0, 2.2]], bound=0.125, slack=0.125).tolist() == [1, 0, 2]
    assert of_values([[1.3, 0, 2.3]], bound=0.125, slack=0.125) is None
    assert of_values([[0.0]]) is None, "one channel has one order"


@pytest.mark.parametrize("channels", [255, 256, 257, 600])
def test_many_channels_are_looked_at_in_parts(channels):
    order = np.random.default_rng(channels).permutation(channels)
    assert of_values([order]).tolist() == order.tolist()


def test_an_order_is_not_read_into_coincidences():
    """Four channels: six fits may be an order, seven are too many."""
    six, seven = np.eye(4)[[1, 0, 3, 2]], np.eye(4)[[1, 0, 3, 2]]
    six[0, 0] = six[1, 1] = seven[0, 0] = seven[1, 1] = seven[2, 2] = 1
    assert matched(six).tolist() == [0, 1, 3, 2]
    assert matched(seven) is None


def test_an_order_leaves_as_many_in_their_places_as_it_can():
    assert matched([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]).tolist() == [0, 1, 3, 2]


def test_one_channel_for_several_columns():
    order = matched([[0, 0, 0], [1, 1, 1], [0, 0, 0]])
    assert order.tolist() == [1, 1, 1]
    assert describe_order(order) == "every channel with the parameters of channel 1"


def test_an_order_in_words():
    assert describe_order(np.array([0, 2, 1])) == "2 of 3 channels are elsewhere: 1 as 2, 2 as 1"
    assert describe_order(np.array([0, 2, 2])) == "1 of 3 channels are elsewhere: 1 as 2; some channels are used twice"
    assert describe_order(np.roll(np.arange(10), 1)).endswith("7 as 6, …")
    assert describe_order(np.roll(np.arange(8), 1)).endswith("7 as 6")


@pytest.mark.parametrize(("channels", "shape"), [(2, (2,)), (3, (3,)), (4, (4,)), (6, (2, 3)), (12, (12,)), (64, (64,)), (96, (96,))])
def test_the_orders_of_a_mistake_are_all_different_ones(channels, shape):
    found = [(how, tuple(order.tolist())) for how, order in orders(channels, shape)]
    assert len({order for _, order in found}) == len(found)
    assert tuple(range(channels)) not in {order for _, order in found}
    assert all(sorted(order) == list(range(channels)) for _, order in found)
    named = dict(found)
    assert named["reversed"] == tuple(reversed(range(channels)))
    if channels > 2:
        assert named["off by one: each channel with the parameters of the next"] == (*range(1, channels), 0)
        assert named["off by one: each channel with the parameters of the one before"] == (channels - 1, *range(channels - 1))
    for groups in (2, 3, 4, 8, 16, 32):
        if channels % groups == 0:
            rows = [range(start, start + channels // groups) for start in range(0, channels, channels // groups)]
            order = tuple(itertools.chain(*zip(*rows, strict=True)))
            assert order in {*named.values(), tuple(range(channels))}
            assert channels != 96 or named[f"interleaved in {groups} groups"] == order
    assert channels != 96 or len(named) == 10


def test_a_mistake_among_very_many_numbers():
    """Looked for in a sample of them, and found in all."""
    layer = make_layer(shape=(8,), seed=5)
    rows = 2 * evidence.MAX_SEARCHED // 8
    x = np.random.default_rng(3).normal(0, 2, (rows, 8)).astype(np.float32)
    wrong = layer.replace(epsilon=0.1)(x)
    found = exporter.diagnose(layer, x, wrong)
    assert ("BN105",) in [explanation.codes for explanation in found.explanations]
    assert exporter.diagnose(layer, x, layer(x)).verdict == "same"
    some = np.where(np.arange(rows)[:, None] == rows - 7, layer(x) + 1, layer(x))  # one bad row of thousands is in the sample
    assert exporter.diagnose(layer, x, some).verdict == "differs"


def test_fewer_positions_than_channels():
    """Along the first axis of a matrix: read as channels first there is less than one number a channel."""
    layer = make_layer(shape=(6,), seed=5)
    x = np.random.default_rng(3).normal(0, 2, (6, 2)).astype(np.float32)
    found = exporter.diagnose(layer, x, layer(x, axis=0)[::-1], axis=0)
    assert found.verdict == "differs"


def test_a_channel_that_gives_way_to_another_takes_its_second():
    """Whatever its number is."""
    assert _assign([np.array([1, 2]), np.array([1]), np.array([0, 2])]).tolist() == [2, 1, 0]
    assert _assign([np.array([1]), np.array([1]), np.array([0, 2])]) is None

"""Statistics of the input in place of the moving ones: how much rounding is allowed for, beyond that of the formula itself."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.diagnosis.case import make_case
from exporter.diagnosis.wrong_statistics import batch_statistics, rows_by_themselves, unbiased_batch_statistics
from tests.make.layers import make_layer

X = np.array([[1.0, -2], [3, 4], [8, -5]])
LAYER = make_layer(shape=(2,), epsilon=0.25).replace(gamma=np.float32([2, -3]), beta=np.float32([1, 0]))


def by_hand(gamma, epsilon, mean, variance, largest, count):
    """Of sums of `count` numbers, and of a variance computed as E[x^2] - E[x]^2."""
    lost = (mean**2 + variance) / (variance + epsilon)
    return np.abs(gamma) / np.sqrt(variance + epsilon) * (largest * np.log2(max(count, 2)) + np.abs(X - mean) * lost)


@pytest.mark.parametrize(("variants", "unbiased"), [(batch_statistics, 1), (unbiased_batch_statistics, 3 / 2)])
def test_the_statistics_of_each_channel(variants, unbiased):
    mean, variance, largest = X.mean(axis=0), X.var(axis=0) * unbiased, np.abs(X).max(axis=0)
    found = dict(variants(make_case(LAYER, X, (1,))))
    for how, gamma, epsilon in (("", LAYER.gamma, 0.25), ("without gamma and beta", np.ones(2), 0.25),
                                ("without gamma, beta and epsilon", np.ones(2), 0)):
        case = found[how if variants is not batch_statistics else f"of each channel, {how}".removesuffix(", ")]
        np.testing.assert_allclose(case.extra, by_hand(gamma, epsilon, mean, variance, largest, 3), rtol=1e-12)
        np.testing.assert_allclose(case.variance, variance, rtol=1e-12)
        np.testing.assert_allclose(case.size(), case.but(extra=0.0).size() + case.extra, rtol=1e-12)
        np.testing.assert_allclose(case.value(), gamma * (X - mean) / np.sqrt(variance + epsilon) + (LAYER.beta if how == "" else 0))


def test_two_rows_have_an_unbiased_variance_and_one_has_none():
    found = dict(unbiased_batch_statistics(make_case(LAYER, X[:2], (1,))))
    variance = X[:2].var(axis=0, ddof=1)
    np.testing.assert_allclose(found[""].value(), LAYER.gamma * (X[:2] - X[:2].mean(axis=0)) / np.sqrt(variance + 0.25) + LAYER.beta)
    assert len(found) == 3
    assert list(unbiased_batch_statistics(make_case(LAYER, X[:1], (1,)))) == []


@pytest.mark.parametrize(("shape", "has"), [((2, 2, 2), True), ((1, 4, 2), False), ((4, 1, 2), False), ((2, 3, 2), True)])
def test_samples_of_several_rows_have_statistics_of_their_own(shape, has):
    x = np.arange(np.prod(shape)).reshape(shape) ** 1.5
    found = dict(rows_by_themselves(make_case(LAYER, x, (2,))))
    assert {how.partition(",")[0] for how in found} - {"each row of channels by itself"} == (
        {"each channel of a sample by itself", "each sample by itself"} if has else set())
    assert ("each channel of a sample by itself, without gamma, beta and epsilon, the variance unbiased" in found) == (has and shape[1] > 2)
    if has:
        mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        want = LAYER.gamma * (x - mean) / np.sqrt(variance + 0.25) + LAYER.beta
        np.testing.assert_allclose(found["each channel of a sample by itself"].value(), want.reshape(-1, 2))


def test_the_statistics_of_the_whole_input():
    found = dict(batch_statistics(make_case(LAYER, X, (1,))))
    case = found["of the whole input, all channels together"]
    np.testing.assert_allclose(case.extra, by_hand(LAYER.gamma, 0.25, X.mean(), X.var(), np.abs(X).max(axis=0), 6), rtol=1e-12)
    even = np.array([[1.0, 3], [3, 1]])
    assert not [how for how, _ in batch_statistics(make_case(LAYER, even, (1,))) if "whole" in how], "where all channels have one mean"


def test_the_statistics_of_each_row():
    found = dict(rows_by_themselves(make_case(LAYER, X, (1,))))
    case = found["each row of channels by itself"]
    mean, variance = X.mean(axis=1, keepdims=True), X.var(axis=1, keepdims=True)
    np.testing.assert_allclose(case.extra, by_hand(LAYER.gamma, 0.25, mean, variance, 8, 2), rtol=1e-12)
    assert not [how for how in found if "unbiased" in how], "two numbers are too few to tell"

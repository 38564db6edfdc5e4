"""Mistakes that normalize by other statistics than the moving ones: of the batch, of each row, as in training; see wrong.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from exporter.diagnosis.case import SMALL_BATCH, Case, Variants, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def _by(case: Case, mean: Array, variance: Array, largest: Array | float, count: int) -> Case:
    """Statistics computed in the same precision: sums of `count` numbers; E[x^2] - E[x]^2 loses precision by the factor mean^2 /
    variance."""
    with np.errstate(all="ignore"):
        divisor = variance + case.epsilon
        scale = np.abs(case.gamma) / np.sqrt(divisor)
        loss = (mean**2 + variance) / divisor
        extra = scale * (largest * np.log2(max(count, SMALL_BATCH)) + np.abs(case.x - mean) * loss)
    return case.but(mean=mean, variance=variance, extra=extra)


def _bare(case: Case) -> Iterator[tuple[str, Case]]:
    """The case without gamma and beta, with and without epsilon: the result of standardizing by hand."""
    bare = case.but(gamma=np.ones_like(case.gamma), beta=np.zeros_like(case.beta))
    if case.setting.layer.gamma is not None or case.setting.layer.beta is not None:
        yield "without gamma and beta", bare
    if case.epsilon.any():
        yield "without gamma, beta and epsilon", bare.but(epsilon=np.zeros_like(case.epsilon))


def batch_statistics(case: Case) -> Variants:
    if not case.setting.layer.called_in_training:
        yield from _of_the_batch(case)


def called_in_training(case: Case) -> Variants:
    if case.setting.layer.called_in_training:
        sheet = case.setting.sheet
        yield "of each channel", _by(case, sheet.mean, sheet.variance, sheet.largest, len(sheet.x))


def _of_the_batch(case: Case) -> Variants:
    sheet = case.setting.sheet
    rows, several = len(sheet.x), bool(np.ptp(sheet.mean) > 0)
    mean, variance = (np.full_like(case.mean, value) for value in sheet.whole)
    yield "of each channel", _by(case, sheet.mean, sheet.variance, sheet.largest, rows)
    if several:
        yield "of the whole input, all channels together", _by(case, mean, variance, sheet.largest, sheet.x.size)
    for how, bare in _bare(case):
        yield f"of each channel, {how}", _by(bare, sheet.mean, sheet.variance, sheet.largest, rows)
        if several:
            yield f"of the whole input, {how}", _by(bare, mean, variance, sheet.largest, sheet.x.size)


def unbiased_batch_statistics(case: Case) -> Variants:
    sheet = case.setting.sheet
    rows = len(sheet.x)
    if rows >= SMALL_BATCH:
        variance = sheet.variance * (rows / (rows - 1))
        for how, changed in (("", case), *_bare(case)):
            yield how, _by(changed, sheet.mean, variance, sheet.largest, rows)


def rows_by_themselves(case: Case) -> Variants:
    """Each row of channels, each sample, or each channel of a sample normalized by its own numbers."""
    largest = case.setting.sheet.largest.max()
    for which, mean, variance, count in _own_statistics(case):
        for how, changed in (("", case), *_bare(case)):
            yield ", ".join(filter(None, (which, how))), _by(changed, mean, variance, largest, count)
        if count > SMALL_BATCH:
            *_, (how, bare) = ("", case), *_bare(case)
            unbiased = variance * (count / (count - 1))
            yield ", ".join(filter(None, (which, how, "the variance unbiased"))), _by(bare, mean, unbiased, largest, count)


def _own_statistics(case: Case) -> Iterator[tuple[str, Array, Array, int]]:
    """(which numbers, their mean and variance of shape (rows, channels), their count)."""
    x, shape = case.x, case.x.shape
    if shape[1] > 1 and np.ptp(x, axis=1).any():
        yield ("each row of channels by itself", np.broadcast_to(x.mean(axis=1, keepdims=True), shape),
               np.broadcast_to(x.var(axis=1, keepdims=True), shape), shape[1])
    sheet = case.setting.sheet
    samples = sheet.shape[0]
    if 0 in sheet.axes or samples < SMALL_BATCH or len(sheet.x) <= samples:
        return
    which = rows_of(np.broadcast_to(np.arange(samples).reshape(-1, *[1] * (len(sheet.shape) - 1)), sheet.shape), sheet.axes)[:, 0]
    each = len(sheet.x) // samples
    sums, squares = (_summed(values, which, samples) for values in (sheet.x, sheet.x**2))
    mean = sums / each
    variance = np.maximum(_summed((sheet.x - mean[which])**2, which, samples) / each, 0)
    rows = which[case.setting.rows]
    yield "each channel of a sample by itself", mean[rows], variance[rows], each
    if shape[1] > 1:
        count = each * shape[1]
        whole = sums.sum(axis=1) / count
        spread = np.maximum(squares.sum(axis=1) / count - whole**2, 0)
        yield "each sample by itself", np.broadcast_to(whole[rows, None], shape), np.broadcast_to(spread[rows, None], shape), count


def _summed(values: Array, which: NDArray[np.intp], samples: int) -> Array:
    """The sums over the rows of each sample, (samples, channels)."""
    sums = np.zeros((samples, values.shape[1]))
    np.add.at(sums, which, values)
    return sums

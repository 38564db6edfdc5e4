"""Values that only the data can show: an epsilon, an order of channels. Each result is verified with the formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from exporter.diagnosis.case import Case

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MAX_CHANNELS = 4096  # for an order of channels without a name, for which all pairs are compared
CHANNELS_AT_ONCE = 256
MAX_FITS = 1.5  # channels that fit each channel, on average: above this, an order would be coincidence
MAX_ROWS = 8
MIN_LIMITS = 2  # numbers that limit epsilon on both sides; a single number always fits some epsilon


def solve_epsilon(case: Case, theirs: Array, tolerance: Callable[[Case], Array], *,
                  outside: bool) -> tuple[float, float, float, bool] | None:
    """(epsilon, lowest, highest, whether several numbers agree on it), the same for all channels, or None if none fits.

    Each number gives an interval for the divisor: |gamma * (x - mean)| / (|theirs - beta| ± tolerance). The intervals
    that result for epsilon are intersected.
    """
    numerator = case.gamma * (case.x - case.mean)
    rest = theirs - case.beta
    with np.errstate(all="ignore"):
        implied = case.but(divisor=lambda _v, _e: np.abs(numerator / rest), gamma=np.abs(case.gamma))
        slack = np.where(np.isfinite(size := tolerance(implied)), size, 0.0)
        lowest = np.abs(numerator) / (np.abs(rest) + slack)
        highest = np.where(np.abs(rest) > slack, np.abs(numerator) / (np.abs(rest) - slack), np.inf)
        wrong_sign = (np.sign(numerator) * np.sign(rest) < 0) & (np.abs(rest) > slack)
        if outside:
            root = np.sqrt(case.variance)
            lowest, highest = lowest - root, highest - root
        else:
            lowest, highest = lowest**2 - case.variance, highest**2 - case.variance
    telling = (numerator != 0) & np.isfinite(theirs)
    if wrong_sign.any() or not telling.any():
        return None
    low, high = float(np.max(lowest[telling])), float(np.min(highest[telling]))
    if not (math.isfinite(low) and math.isfinite(high)) or high < max(low, 0.0):
        return None
    low = max(low, 0.0)
    several = int((np.isfinite(highest) & telling).sum()) >= MIN_LIMITS
    return simplest(low, high), low, high, several


def simplest(low: float, high: float) -> float:
    """The decimal with the fewest digits between two numbers."""
    if low <= 0 <= high:
        return 0.0
    middle = (low + high) / 2
    for digits in range(1, 17):
        value = float(f"{middle:.{digits - 1}e}")
        if low <= value <= high:
            return value
    return middle


def match_channels(predict: Callable[[int, slice], tuple[Array, Array]], theirs: Array, slack: Array) -> NDArray[np.intp] | None:
    """The channel that each channel of `theirs` fits, if that is an order other than the identity; otherwise None.

    predict(row, columns): the result of each channel for these columns of theirs in a row, and its error bound; (channels, columns).
    """
    rows, channels = theirs.shape
    if channels > MAX_CHANNELS:
        return None
    candidates: list[NDArray[np.intp]] = []
    for start in range(0, channels, CHANNELS_AT_ONCE):
        columns = slice(start, min(start + CHANNELS_AT_ONCE, channels))
        fits = np.ones((channels, columns.stop - start), bool)
        for row in range(min(rows, MAX_ROWS)):
            value, bound = predict(row, columns)
            with np.errstate(all="ignore"):
                fits &= np.abs(value - theirs[row, columns]) <= bound + slack[row, columns]
        if not fits.any(axis=0).all():
            return None
        candidates += [np.flatnonzero(column) for column in fits.T]
    if sum(map(len, candidates)) > MAX_FITS * channels:
        return None
    order = _assign(candidates)
    return None if order is None or np.array_equal(order, np.arange(channels)) else order


def _assign(candidates: list[NDArray[np.intp]]) -> NDArray[np.intp] | None:
    """One candidate for each: a permutation if there is one, otherwise the only candidate of each."""
    owner: dict[int, int] = {}
    place: dict[int, int] = {}
    for column in range(len(candidates)):
        if not _augment(column, candidates, owner, place):
            return np.array([found[0] for found in candidates]) if all(len(found) == 1 for found in candidates) else None
    return np.array([place[column] for column in range(len(candidates))], np.intp)


def _augment(column: int, candidates: list[NDArray[np.intp]], owner: dict[int, int], place: dict[int, int]) -> bool:
    """Finds a channel for `column`, moving other columns where needed: an augmenting path, breadth first."""
    asked_by: dict[int, int] = {}
    queue = [column]
    while queue:
        current = queue.pop(0)
        for channel in sorted(candidates[current].tolist(), key=lambda one: one != current):  # its own channel first
            if channel in asked_by:
                continue
            asked_by[channel] = current
            if channel in owner:
                queue.append(owner[channel])
                continue
            while True:
                taker = asked_by[channel]
                left = place.get(taker)
                owner[channel], place[taker] = taker, channel
                if left is None:  # it is `column`
                    return True
                channel = left
    return False


def describe_order(order: NDArray[np.intp]) -> str:
    """An order of channels in words: the first few channels that moved."""
    channels = len(order)
    if len(set(order.tolist())) == 1:
        return f"every channel with the parameters of channel {order[0]}"
    moved = np.flatnonzero(order != np.arange(channels))
    shown = ", ".join(f"{channel} as {order[channel]}" for channel in moved[:8])
    kind = "" if len(set(order.tolist())) == channels else "; some channels are used twice"
    return f"{len(moved)} of {channels} channels are elsewhere: {shown}{', …' if len(moved) > 8 else ''}{kind}"

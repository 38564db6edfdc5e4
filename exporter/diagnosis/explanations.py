"""The search for the mistakes that explain the user's numbers: single ones, solved ones, pairs, and parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import TINY, UNIT, round_to
from exporter.batchnorm.layer import BatchNorm
from exporter.diagnosis.case import Case
from exporter.diagnosis.evidence import Evidence
from exporter.diagnosis.mistakes import BY_CODE, MISTAKES
from exporter.diagnosis.solvers import describe_order, match_channels, solve_epsilon

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PAIRED = 1 << 11  # numbers used while pairs of mistakes are tried
PAIR_GAIN = 0.1  # a pair is mentioned in addition to single mistakes if its misfit is this much smaller
OFF_SHARE = 0.5  # of a channel's numbers differ if its parameters are different
AGREEING_SHARE = 0.1  # of the channels have to agree before differences in the others are attributed to another checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Mistakes that explain the numbers.

    codes, details: of one mistake, or of two combined mistakes.     layer: path of the layer that they were applied to.
    worst:          the largest distance from the numbers in units of the tolerance; at most 1.
    error:          the largest distance itself.
    channels:       those that it explains, or None for all.
    epsilon:        (value, lowest, highest) if it was solved for.       order: the order of channels that was found.
    weak:           the numbers would fit anything of this kind (one number and one unknown), or nothing was predicted.
    """

    codes: tuple[str, ...]
    details: tuple[str, ...]
    layer: str
    worst: float
    error: float
    channels: tuple[int, ...] | None = None
    epsilon: tuple[float, float, float] | None = None
    order: tuple[int, ...] | None = None
    weak: bool = False

    def names(self) -> str:
        """The names of the mistakes, with their variants."""
        parts = [BY_CODE[code].name + (f" ({detail})" if detail else "") for code, detail in zip(self.codes, self.details)]
        return " and ".join(parts)


def rank(explanation: Explanation) -> tuple[Any, ...]:
    """A sorting key: predicted before unpredicted, one mistake before two, a fixed number before a solved one, then closeness."""
    return (explanation.weak, len(explanation.codes), explanation.channels is not None, explanation.epsilon is not None,
            int(4 * explanation.worst), explanation.codes)


def explain(sample: Evidence, whole: Evidence) -> list[Explanation]:
    """The single mistakes that explain the numbers of one layer, and an epsilon that is solved for. `sample`: some rows of `whole`."""
    found = [*_singles(sample, whole)]
    named = any(explanation.codes[0] in ("BN102", "BN103", "BN104") for explanation in found)
    return found + [solved for solved in _epsilon(sample, whole) if not (named and solved.codes == ("BN105",))]


def explain_by_averages(whole: Evidence, other: BatchNorm) -> list[Explanation]:
    """Whether the numbers fit the other set of variables in the same file: the moving averages of all of them, or the variables."""
    found = _explanation(whole, whole.case.with_layer(other), ("BN147",), ("",))
    return [] if found is None else [found]


def explain_closer(sample: Evidence, whole: Evidence, found: list[Explanation]) -> list[Explanation]:
    """Pairs that fit numbers of few digits much better than what was found."""
    if whole.any_channel or not whole.printed.any():
        return []
    limit = PAIR_GAIN * min((explanation.worst for explanation in found if not explanation.weak), default=1 / PAIR_GAIN)
    return [pair for pair in _pairs(sample, whole) if pair.worst <= limit]


def explain_further(sample: Evidence, whole: Evidence) -> list[Explanation]:
    """What is tried if no single mistake fits: an order of channels, pairs, half precision, only some channels."""
    found = [*_orders(sample, whole)]
    if not found and not (whole.any_channel and len(whole.theirs) == 1):  # a single number would fit some pair in some channel by chance
        found += _pairs(sample, whole)
    if not found:
        found += _half_precision(whole)
    if not found and not whole.any_channel:
        found += _some_channels(whole)
    return found


def _explanation(whole: Evidence, case: Case, codes: tuple[str, ...], details: tuple[str, ...], **more: Any) -> Explanation | None:
    """The explanation, if it explains all numbers."""
    if not whole.fits(case):
        return None
    with np.errstate(all="ignore"):
        error = np.abs(whole.theirs - case.value())
    channels = None
    if whole.any_channel:
        channels = tuple(whole.channels_that_fit(case))
        error = error[:, list(channels)]
    return Explanation(codes=codes, details=details, layer=whole.layer.path, worst=whole.worst(case),
                       error=float(np.nan_to_num(error, nan=0.0, posinf=0.0).max()), channels=channels, **more)


def _singles(sample: Evidence, whole: Evidence) -> Iterator[Explanation]:
    for mistake in MISTAKES:
        fitting = [number for number, (_, case) in enumerate(mistake.tried(sample.case)) if sample.fits(case)]
        for number, (detail, case) in enumerate(mistake.tried(whole.case)) if fitting else ():
            if number in fitting:
                explanation = _explanation(whole, case, (mistake.code,), (detail,))
                if explanation is not None:
                    yield explanation


def _epsilon(sample: Evidence, whole: Evidence) -> Iterator[Explanation]:
    if whole.any_channel:
        return
    for code, outside in (("BN105", False), ("BN101", True)):
        solved = solve_epsilon(sample.case, sample.theirs, sample.tolerance, outside=outside)
        if solved is None:
            continue
        value, low, high, several = solved
        epsilon = np.full_like(whole.case.epsilon, value)
        case = whole.case.but(epsilon=epsilon)
        if outside:
            case = case.but(divisor=lambda variance, eps: np.sqrt(variance) + eps)
        if np.array_equal(epsilon, whole.case.epsilon):
            continue
        detail = f"with epsilon {value:g}" + ("" if several else ", as any single number can be explained")
        explanation = _explanation(whole, case, (code,), (detail,), epsilon=(value, low, high), weak=not several)
        if explanation is not None:
            yield explanation


def _orders(sample: Evidence, whole: Evidence) -> Iterator[Explanation]:
    """An order of channels without a name: of the parameters, or of the output."""
    if whole.any_channel or whole.loosened:
        return
    case = sample.case
    scale, root, right = case.scale(), case.divisor(case.variance, case.epsilon), case.value()
    bound = case.bound(sample.dtype)

    def parameters(row: int, columns: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x = case.x[row, columns][None, :]
        with np.errstate(all="ignore"):
            value = case.gamma[:, None] * (x - case.mean[:, None]) / root[:, None] + case.beta[:, None]
            magnitude = np.abs(scale)[:, None] * (np.abs(x) + np.abs(case.mean)[:, None]) + np.abs(case.beta)[:, None]
        return value, 16 * UNIT[sample.dtype] * magnitude + TINY[sample.dtype]

    def result(row: int, columns: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shape = (right.shape[1], columns.stop - columns.start)
        return np.broadcast_to(right[row][:, None], shape), np.broadcast_to(bound[row][:, None], shape)

    for code, what, predict in (("BN143", "", parameters), ("BN144", "the output's channels", result)):
        order = match_channels(predict, sample.theirs, sample.printed)
        if order is None:
            continue
        changed = whole.case.at(order)
        if predict is result:
            changed = changed.but(x=whole.case.x[:, order], magnitude=whole.case.magnitude[:, order])
        detail = ": ".join(part for part in (what, describe_order(order)) if part)
        explanation = _explanation(whole, changed, (code,), (detail,), order=tuple(order.tolist()))
        if explanation is not None:
            yield explanation


def _pairs(sample: Evidence, whole: Evidence) -> Iterator[Explanation]:
    rows = max(2, MAX_PAIRED // sample.theirs.shape[1])
    few = sample.take(np.linspace(0, len(sample.theirs) - 1, min(rows, len(sample.theirs))).astype(np.intp))
    paired = [mistake for mistake in MISTAKES if not mistake.alone]
    for first, second, detail, case in _both(few.case, paired):
        if few.fits(case):
            again = next(changed for one, two, words, changed in _both(whole.case, [BY_CODE[first], BY_CODE[second]]) if words == detail)
            explanation = _explanation(whole, again, (first, second), detail)
            if explanation is not None:
                yield explanation


def _both(case: Case, mistakes: Sequence[Any]) -> Iterator[tuple[str, str, tuple[str, str], Case]]:
    """Every pair of mistakes, in each of their variants."""
    for number, first in enumerate(mistakes):
        for detail, changed in first.tried(case):
            for second in mistakes[number + 1:]:
                for more, twice in second.tried(changed):
                    yield first.code, second.code, (detail, more), twice


def _half_precision(whole: Evidence) -> Iterator[Explanation]:
    """Numbers that half precision can represent, with errors that its rounding explains."""
    for dtype in ("bfloat16", "float16"):  # float16 can represent most bfloat16 values, too
        held = round_to(whole.theirs, dtype).astype(np.float64)
        if whole.any_channel or not np.array_equal(held, whole.theirs, equal_nan=True):
            continue
        coarse = dataclasses.replace(whole, dtype=dtype)
        explanation = _explanation(coarse, coarse.case, ("BN164",), (dtype,), weak=True)
        if explanation is not None:
            yield explanation
            return


def _some_channels(whole: Evidence) -> Iterator[Explanation]:
    """If some channels agree: a mistake only in the others, or parameters of another checkpoint."""
    good = whole.channels_that_fit(whole.case)
    telling = [channel for channel in good if whole.case.scale()[channel] != 0]
    bad = np.setdiff1d(np.arange(whole.theirs.shape[1]), good)
    if not len(telling) or len(telling) < AGREEING_SHARE * whole.theirs.shape[1]:
        return
    part = whole.channels(bad)
    partly = [*_singles(part.sample(), part)] or [*_orders(part.sample(), part)]
    for explanation in partly:
        yield dataclasses.replace(explanation, channels=tuple(bad.tolist()), order=None)
    if not partly and (part.misfit(part.case) > 1).mean(axis=0).min() >= OFF_SHARE:
        shown = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
        error = np.abs(part.theirs - part.case.value())
        detail = f"{len(bad)} of {whole.theirs.shape[1]} channels differ: {shown}"
        yield Explanation(codes=("BN146",), details=(detail,), layer=whole.layer.path, worst=0.0,
                          error=float(np.nan_to_num(error, nan=0.0, posinf=0.0).max()), channels=tuple(bad.tolist()), weak=True)


def again(one: Evidence, explanation: Explanation) -> Case | None:
    """The case of an explanation, to compute its results."""
    unpredicted = explanation.weak and explanation.epsilon is None
    if unpredicted or explanation.order is not None or (explanation.channels and not one.any_channel):
        return None
    if explanation.epsilon is not None:
        case = one.case.but(epsilon=np.full_like(one.case.epsilon, explanation.epsilon[0]))
        return case.but(divisor=lambda variance, eps: np.sqrt(variance) + eps) if explanation.codes == ("BN101",) else case
    return variant(one.case, explanation)


def variant(case: Case, explanation: Explanation) -> Case | None:
    """Another case with the mistakes of an explanation, if that is possible."""
    cases = [case]
    for code, detail in zip(explanation.codes, explanation.details):
        cases = [changed for one in cases for words, changed in BY_CODE[code].tried(one) if words == detail]
    return cases[0] if cases else None

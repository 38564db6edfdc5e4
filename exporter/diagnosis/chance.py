"""How many of the results that were tried would fit by chance: many channels, many mistakes, and few numbers with few digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from exporter.diagnosis.case import Case
from exporter.diagnosis.evidence import Evidence
from exporter.diagnosis.mistakes import MISTAKES

NEAR_MISS = 64.0  # tolerances: near misses within this many are counted, and the share of them that would be fits is computed
MAX_NUMBERS = 2  # of a channel; more than this many never agree by chance
WORTH_SAYING = 0.01


def expected(evidence: Sequence[Evidence], *, mistakes: bool, pairs: bool = False) -> tuple[float, int]:
    """(expected number of fits by chance, number of results tried), for the right formula, and with `mistakes` for those of the table.

    Near misses, within NEAR_MISS tolerances, are spread evenly unless one is the answer: 1 in NEAR_MISS ** numbers of them fits.
    """
    near, tried = 0, 0
    numbers = 0
    for one in evidence:
        count = one.theirs.shape[0] if one.any_channel else one.theirs.size
        if count > MAX_NUMBERS:
            return 0.0, 0
        numbers = max(numbers, count)
        seen: set[tuple[float, ...]] = set()
        for case in _cases(one, mistakes=mistakes, pairs=pairs):
            misfit = one.misfit(case).max(axis=0) if one.any_channel else one.misfit(case).max().ravel()
            tried += misfit.size
            results = np.broadcast_to(case.value(), one.theirs.shape).T.reshape(misfit.size, count)
            close = (misfit > 1) & (misfit <= NEAR_MISS)
            seen.update(map(tuple, np.round(results[close], 12).tolist()))
        near += len(seen)
    return near / NEAR_MISS**numbers if numbers else 0.0, tried


def _cases(one: Evidence, *, mistakes: bool, pairs: bool) -> Iterator[Case]:
    yield one.case
    for mistake in MISTAKES if mistakes else ():
        for _, case in mistake.tried(one.case):
            yield case
            if pairs and not mistake.alone:
                for other in MISTAKES:
                    if not other.alone and other.code > mistake.code:
                        yield from (twice for _, twice in other.tried(case))


def said(evidence: Sequence[Evidence], *, mistakes: bool, pairs: bool = False) -> str:
    """The chance in words, or "" if there is hardly any."""
    with np.errstate(all="ignore"):
        count, tried = expected(evidence, mistakes=mistakes, pairs=pairs)
    if count < WORTH_SAYING:
        return ""
    channels = sum(one.theirs.shape[1] for one in evidence if one.any_channel)
    what = f"{channels} channels"
    if mistakes:
        what = f"{tried} results" + (f" ({channels} channels, each with the known mistakes)" if channels else "")
    return f"of {what} that were tried, about {count:.2g} would fit these numbers by chance"

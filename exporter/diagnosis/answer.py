"""The answer of `diagnose`, as text and as JSON types."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from exporter.batchnorm.listing import columns
from exporter.diagnosis.case import Case
from exporter.diagnosis.evidence import Evidence
from exporter.diagnosis.explanations import Explanation
from exporter.diagnosis.mistakes import BY_CODE, MISTAKES, RIGHT, advice
from exporter.errors import counted, printable

MAX_SHOWN = 5
MAX_HIDDEN = 8
FEW_ROWS = 3  # of input: fewer show little


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Diagnosis:
    """What `diagnose` found.

    verdict:       "same" or "differs".
    layer:         path of the layer; "" if it was not given and none was found.   channel: likewise, for numbers of one channel.
    explanations:  those within the error bound, likeliest first; if there are several, the data cannot tell them apart.
    compared, differing:  counts of numbers.
    worst:         {"index", "channel", "input", "yours", "right", "times_the_bound"} of the number with the largest error.
    side_by_side:  a few numbers: (index, channel, input, yours, right, result of the first explanation or None).
    notes:         sentences.
    evidence:      what was compared.
    """

    verdict: str
    layer: str
    channel: int | None
    explanations: tuple[Explanation, ...]
    compared: int
    differing: int
    worst: dict[str, Any]
    side_by_side: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...]
    evidence: Evidence = dataclasses.field(repr=False)

    def could_not_show(self) -> list[str]:
        """Codes of the mistakes that these inputs would not show: their results are within the error bound of the right ones."""
        with np.errstate(all="ignore"):
            small = self.evidence.sample()
            return [mistake.code for mistake in MISTAKES if any(small.close(case) for _, case in mistake.tried(small.case))]

    def text(self) -> str:
        """The diagnosis for people."""
        place = printable(self.layer, 120) + ("" if self.channel is None else f", channel {self.channel}")
        lines = []
        if self.verdict == "same":
            lines.append(f"{place}: same. {counted(self.compared, 'number')} within the error bound, "
                         f"the worst at {self.worst['times_the_bound']:.2g} of it.")
            hidden = [f"{code} {BY_CODE[code].name}" for code in self.could_not_show()]
            if len(hidden) > MAX_HIDDEN or _never_moved(self.evidence.case):
                lines.append(_why_hidden(self, f"{len(hidden)} of {len(BY_CODE)} known mistakes (--json lists them)"))
            elif hidden:
                lines.append(f"These inputs could not have shown: {'; '.join(hidden)}.")
        else:
            worst = self.worst
            lines.append(f"{place}: differs. {self.differing} of {counted(self.compared, 'number')} beyond the error bound, the worst by "
                         f"{_times(worst['times_the_bound'])}:")
            where = f"at {worst['index']} (channel {worst['channel']})" if worst["index"] else f"channel {worst['channel']}"
            lines.append(f"  {where}: input {worst['input']:.9g}, "
                         f"yours {worst['yours']:.9g}, right {worst['right']:.9g}")
        for number, explanation in enumerate(self.explanations[:MAX_SHOWN]):
            lines += ["", *_explanation(explanation, full=number == 0)]
        if len(self.explanations) > MAX_SHOWN:
            lines += ["", f"and {len(self.explanations) - MAX_SHOWN} more that fit (--json lists all)"]
        lines += ["", *_table(self)] if self.verdict == "differs" else []
        lines += ["", *(f"note: {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON types."""
        explanations = []
        for explanation in self.explanations:
            entry: dict[str, Any] = dataclasses.asdict(explanation)
            entry["names"] = [BY_CODE[code].name for code in explanation.codes]
            entry["written"] = [BY_CODE[code].line for code in explanation.codes]
            entry["instead"] = [BY_CODE[code].instead for code in explanation.codes]
            entry["right"] = RIGHT
            explanations.append(entry)
        keys = ("index", "channel", "input", "yours", "right", "explained")
        content = {"verdict": self.verdict, "layer": self.layer, "channel": self.channel, "compared": self.compared,
                   "differing": self.differing, "worst": self.worst, "explanations": explanations,
                   "side_by_side": [dict(zip(keys, row)) for row in self.side_by_side],
                   "notes": list(self.notes), "could_not_show": self.could_not_show()}
        result: dict[str, Any] = _plain(content)
        return result


def _never_moved(case: Case) -> bool:
    return not case.mean.any() and bool((case.variance == 1).all())


def _why_hidden(found: Diagnosis, hidden: str) -> str:
    """Why many mistakes would not show: because of the layer, or the numbers."""
    one = found.evidence
    case = one.case
    if _never_moved(case):
        if (case.gamma == 1).all() and not case.beta.any():
            return ("The layer has its initial values: moving_mean 0, moving_variance 1, gamma 1, beta 0. It changes next to nothing (an "
                    f"identity), so these numbers cannot show {hidden}.")
        return ("The statistics were never updated or loaded: moving_mean is 0 and moving_variance 1 in every channel, which hides "
                f"{hidden}.")
    if one.theirs.shape[0] < FEW_ROWS or one.any_channel:
        return f"These numbers are too few to show {hidden}; give more of them, with all their digits."
    if one.printed.any():
        return f"These numbers are too coarse to show {hidden}; give all their digits."
    if not np.ptp(case.x, axis=0).any():
        return f"Each channel of the input has only one value, which hides {hidden}; give other inputs."
    return f"In this layer, or with these inputs, {hidden} change next to nothing: the bundle's own vectors of the layer show more."


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times" if math.isfinite(ratio) else "an infinite factor"


def _explanation(explanation: Explanation, *, full: bool) -> list[str]:
    lines = [f"{' + '.join(explanation.codes)}  {printable(explanation.names(), 300)}"]
    if explanation.weak and explanation.epsilon is None:
        lines.append("  fits the pattern; nothing was predicted number by number")
    else:
        lines.append(f"  explains {'these channels' if explanation.channels else 'all numbers'} to within {explanation.error:.2g} "
                     f"({explanation.worst:.2g} of the tolerance)")
    if explanation.epsilon is not None:
        lines.append(f"  the numbers allow an epsilon from {explanation.epsilon[1]:.6g} to {explanation.epsilon[2]:.6g}")
    if explanation.channels is not None:
        channels = ", ".join(map(str, explanation.channels[:10])) + (", …" if len(explanation.channels) > 10 else "")
        lines.append(f"  in channel{'' if len(explanation.channels) == 1 else 's'} {channels} of {printable(explanation.layer, 80)}")
    if full:
        lines += [f"  {line}" for code in explanation.codes for line in advice(BY_CODE[code])]
        lines.append(f"  right    {RIGHT}")
    return lines


def _table(found: Diagnosis) -> list[str]:
    head = ["index", "channel", "input", "yours", "right"]
    explained = any(row[5] is not None for row in found.side_by_side)
    if explained:
        head.append(" + ".join(found.explanations[0].codes))
    rows = [head]
    for index, channel, *values in found.side_by_side:
        shown = [f"{value:.9g}" for value in (values if explained else values[:3])]
        rows.append([",".join(map(str, index)), str(channel), *shown])
    return columns(rows, str.rjust)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

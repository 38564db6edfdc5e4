"""Describes how numbers differ that no known mistake explains, and what to send to find out more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exporter.diagnosis.evidence import Evidence

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW_ROWS = 3  # a straight line through fewer points shows nothing
FEW_SHARE = 0.5  # of the numbers of the channels that differ
FAR_BOUNDS = 100.0  # times the error bound
SLOPE = 1e-4  # relative; a line through a few float32 numbers is not more accurate


def how_they_differ(one: Evidence) -> list[str]:
    """Sentences: the size of the error, whether each channel is a straight line in the input, whether slope or offset is wrong, what to
    send."""
    if not one.finite():
        return ["none of the numbers given is finite: look for a division by 0 or an array that was never filled"]
    misfit = one.misfit(one.case)
    channels, off = misfit.shape[1], misfit > 1
    notes = [f"no known mistake explains them, alone or in common pairs; {int(off.sum())} of {misfit.size} numbers are beyond the error "
             f"bound, half of them by more than {np.median(misfit[off]):.3g} times"]
    wrong = np.flatnonzero(off.any(axis=0))
    if 0 < len(wrong) < channels:
        shown = ", ".join(map(str, wrong[:10].tolist())) + (", …" if len(wrong) > 10 else "")
        notes.append(f"{len(wrong)} of {channels} channels differ: {shown}")
    if off[:, wrong].mean() < FEW_SHARE:
        return [*notes, "the other numbers of these channels are right, so the parameters are: look for what overwrites these places"]
    varied = wrong[np.ptp(one.case.x[:, wrong], axis=0) > 0]  # a single input gives no slope
    if len(one.theirs) < FEW_ROWS or one.any_channel or not len(varied):
        return [*notes, "send more numbers: three or more rows of input for each channel, e.g. the bundle's own vectors of the layer "
                        "run through your code"]
    return [*notes, _lines(one, varied)]


def _lines(one: Evidence, wrong: NDArray[np.intp]) -> str:
    """What a straight line through each channel's numbers shows."""
    case = one.case
    x, y = case.x[:, wrong], one.theirs[:, wrong]
    with np.errstate(all="ignore"):
        middle = x.mean(axis=0)
        slope = ((x - middle) * (y - y.mean(axis=0))).sum(axis=0) / np.square(x - middle).sum(axis=0)
        residue = np.abs(y - (slope * (x - middle) + y.mean(axis=0))).max(axis=0)
        most = FAR_BOUNDS * one.tolerance(case)[:, wrong].max(axis=0)
        straight = residue <= most
        flat = (case.scale()[wrong] == 0) & (np.ptp(y, axis=0) <= most)  # a slope of 0, as it should be
        factor = (slope / case.scale()[wrong])[~flat]
    if not straight.all():
        return (f"in {int((~straight).sum())} channels the output is not a straight line in the input: an activation, another input, "
                "noise; check that the input given is what entered the batch norm")
    if (np.abs(factor - 1) < SLOPE).all():
        shift = (y - case.value()[:, wrong]).mean(axis=0)
        return (f"the slope is right in every channel and the offset is not (off by {np.min(shift):.4g} to {np.max(shift):.4g}): look at "
                "moving_mean, beta and a bias of the layer before that was folded in")
    if np.ptp(factor) < SLOPE * np.abs(factor).max():
        return f"the slope is {np.median(factor):.7g} times the right one in every channel: a constant factor"
    return (f"each channel is a straight line in the input with a slope of its own, {np.min(factor):.4g} to {np.max(factor):.4g} times the "
            "right one: other parameters than the layer's; another checkpoint? bn-verify BUNDLE MODEL compares the parameters")

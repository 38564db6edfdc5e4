"""diagnose: which known mistakes explain the user's numbers within the error bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.layer import BatchNorm
from exporter.diagnosis.alone import Given
from exporter.diagnosis.answer import Diagnosis
from exporter.diagnosis.case import Case, make_case
from exporter.diagnosis.chance import said
from exporter.diagnosis.evidence import Evidence, aligned, channels_of, gather
from exporter.diagnosis.explanations import Explanation, again, explain, explain_by_averages, explain_closer, explain_further, rank, variant
from exporter.diagnosis.samples import Numbers, numbers
from exporter.errors import UsageError, names, printable

MAX_BESIDE = 6  # numbers that are shown side by side
MAX_LAYERS = 20  # in which pairs of mistakes are tried, at most a second each


def diagnose(model: Bundle | BatchNorm | Given, x: Any, theirs: Any, *, layer: str | None = None, channel: int | None = None,
             axis: int | None = None, dtype: str | None = None, averages: Bundle | None = None) -> Diagnosis:
    """Which known mistakes explain the output `theirs` for the input `x`.

    model:   a bundle or one layer; the command also accepts plain numbers.
    x:       the input of the batch norm: an array with the layer's channels along any axis, one row of channels, or numbers of a single
             channel. Arrays are exact; text, lists and numbers are accurate to half a unit of their last digit ("0.30664611", [1, 5]).
    theirs:  the output, in the same forms.
    layer:   the layer's path; None: all layers are tried.
    channel: the channel that the numbers belong to, if they belong to one; None: all are tried.
    axis:    the channel axis of the input, if it differs from the layer's.
    averages: the same model with the other set of variables in its checkpoint (exporter.read(..., ema=...)).
    dtype:   the type in which the output was computed, if it is less precise than the types of the layer and the output.

    Raises: UsageError if the numbers fit no layer.
    """
    given, output = numbers(x), numbers(theirs)
    output, moved = aligned(given, output)
    layers = [model] if isinstance(model, BatchNorm) else list(model.bundle if isinstance(model, Given) else model)
    halves = model.slack if isinstance(model, Given) else {}
    if layer is not None:
        found = [one for one in layers if one.path == layer]
        if not found:
            raise UsageError(f"there is no layer {printable(layer)!r}", hint=f"the layers are {names(one.path for one in layers)}")
        wanted = found
    else:
        wanted = layers
    with np.errstate(all="ignore"):  # a wrong formula may well divide by 0
        evidence = list(_gathered(wanted, layers, given, output, axis, channel, dtype, halves))
        if not evidence:
            raise _no_fit(wanted, given, channel)
        notes = [*([moved] if moved else []), *(model.notes if isinstance(model, Given) else ())]
        diagnosis = _judged(evidence, _others(averages, channel), notes)
    return diagnosis if channel is None else _of_channel(diagnosis, channel)


def _of_channel(found: Diagnosis, channel: int) -> Diagnosis:
    """A diagnosis of a single channel's numbers, with that channel's own index."""
    rows = tuple((row[0], channel, *row[2:]) for row in found.side_by_side)
    return dataclasses.replace(found, channel=channel, worst={**found.worst, "channel": channel}, side_by_side=rows)


def _gathered(wanted: Sequence[BatchNorm], layers: Sequence[BatchNorm], x: Numbers, theirs: Numbers, axis: int | None,
              channel: int | None, dtype: str | None, halves: Mapping[str, Any]) -> Iterator[Evidence]:
    shared: dict[Any, Any] = {}
    candidates = layers if len(wanted) == 1 else ()  # if the layer is not given, each is tried with its own parameters
    for one in wanted:
        others = [other for other in candidates if other is not one and other.channels == one.channels]
        found = gather(one, x, theirs, axis=axis, channel=channel, others=others, dtype=dtype, shared=shared, slack=halves)
        if found is not None:
            yield found


def _no_fit(layers: Sequence[BatchNorm], x: Numbers, channel: int | None) -> UsageError:
    counts = [one.channels for one in layers]
    if counts and channel is not None and not 0 <= channel < max(counts):
        return UsageError(f"there is no channel {channel}", where=layers[0].path if len(layers) == 1 else "",
                          hint=f"channels are counted from 0: the last one is {max(counts) - 1}")
    if len(layers) == 1:
        what = f"the input has shape {list(x.values.shape)}, the layer {layers[0].channels} channels"
        return UsageError(what, where=layers[0].path,
                          hint="give the input with the channels along one axis (--axis), or numbers of one channel (--channel)")
    return UsageError(f"the input of shape {list(x.values.shape)} fits none of the {len(layers)} layers")


def _others(averages: Bundle | None, channel: int | None) -> dict[str, BatchNorm]:
    """The layers of the other set of variables, by path; reduced to one channel if the numbers are."""
    which = None if channel is None else np.array([channel])
    return {layer.path: layer if which is None else channels_of(layer, which) for layer in averages or ()}


def _judged(evidence: list[Evidence], others: Mapping[str, BatchNorm], notes: list[str]) -> Diagnosis:
    loose = [one.loosen() for one in evidence if one.input_printed.any() or one.slack.any()]
    printed = "the input is also" if not any(one.slack.any() for one in evidence) else "the parameters and the input are also"
    for one in [*evidence, *loose]:
        if one.right():
            also = [other.layer.path for other in evidence if other.layer.path != one.layer.path and other.right()]
            if also:
                notes.append(f"the numbers are also right for {names(also)}")
            if not one.finite():
                notes.append("none of the numbers is finite, as it should be for this input; nothing else was compared")
            if one.loosened:
                notes.append(f"right if {printed} rounded to the typed digits")
            notes += filter(None, [said(evidence, mistakes=False)] if any(other.any_channel for other in evidence) else [])
            return _same(one, notes)
    found = _searched(evidence, others, notes)
    if not found and loose:
        found = _searched(loose, others, notes)
        if found:
            notes.append(f"these explanations are right if {printed} rounded to the typed digits")
            evidence = loose
    return _differs(evidence, sorted(found, key=rank), notes)


def _searched(evidence: list[Evidence], others: Mapping[str, BatchNorm], notes: list[str]) -> list[Explanation]:
    """The explanations of the numbers: first single mistakes in all layers, then what takes longer."""
    if not any(one.finite() for one in evidence):
        return []
    samples = [(one.sample(), one) for one in evidence]
    found = [explanation for pair in samples for explanation in explain(*pair)]
    found += [explanation for one in evidence if one.layer.path in others
              and others[one.layer.path].moving_mean.size == one.layer.moving_mean.size
              for explanation in explain_by_averages(one, others[one.layer.path])]
    if found:
        return found + [more for sample, one in samples if one.layer.path == found[0].layer for more in explain_closer(sample, one, found)]
    if len(samples) > MAX_LAYERS:
        notes.append(f"pairs of mistakes and orders of channels were not tried for all {len(samples)} layers: choose one with --layer")
        return []
    return [explanation for pair in samples for explanation in explain_further(*pair)]


def _same(one: Evidence, notes: list[str]) -> Diagnosis:
    fitting = one.channels_that_fit(one.case) if one.any_channel else []
    if len(fitting) > 1:
        notes.append(f"right for channels {', '.join(map(str, fitting[:8]))}: give --channel to say which")
    return Diagnosis(verdict="same", layer=one.layer.path, channel=fitting[0] if len(fitting) == 1 else None, explanations=(),
                     compared=one.theirs.shape[0] if one.any_channel else one.theirs.size, differing=0, worst=_worst(one, fitting[:1]),
                     side_by_side=_side_by_side(one, None, fitting[:1]), notes=tuple(notes), evidence=one)


def _differs(evidence: list[Evidence], found: list[Explanation], notes: list[str]) -> Diagnosis:
    best = found[0] if found else None
    one = next((item for item in evidence if best is not None and item.layer.path == best.layer), evidence[0])
    if best is None and len(evidence) > 1:
        one = min(evidence, key=lambda item: float(np.median(item.misfit(item.case))))
        notes.append(f"no layer was given and none of {len(evidence)} fits; the comparison is with the one that comes nearest")
    columns = list(best.channels or ()) if best is not None and one.any_channel else [0] if one.any_channel else []
    explained = again(one, best) if best is not None else None
    if not found:
        from exporter.diagnosis.differences import how_they_differ

        notes += how_they_differ(one)
    elif one.any_channel and len(found) > 1:
        notes.append("few numbers and many channels: some of these fit by chance; say with --layer and --channel where they come from")
    elif len(found) > 1:
        notes.append(_advice(one, found))
    if best is not None:
        notes += filter(None, [said(evidence, mistakes=True, pairs=len(best.codes) > 1)])
    off = one.misfit(one.case)[:, columns[:1]] if columns else one.misfit(one.case)
    return Diagnosis(verdict="differs", layer=one.layer.path, channel=columns[0] if best is not None and len(columns) == 1 else None,
                     explanations=tuple(found), compared=off.size, differing=int((off > 1).sum()), worst=_worst(one, columns[:1]),
                     side_by_side=_side_by_side(one, explained, columns[:1]), notes=tuple(notes), evidence=one)


def _advice(one: Evidence, found: list[Explanation]) -> str:
    """Whether the bundle's own vectors would distinguish the first two explanations."""
    from exporter.batchnorm import vectors

    layer = channels_of(one.layer, np.arange(one.layer.channels))
    rows = vectors.make(layer)[0].astype(np.float64)
    case = make_case(layer, rows, (1,), others=one.case.setting.others)
    first, second = (variant(case, explanation) if explanation.epsilon is None else None for explanation in found[:2])
    if first is None or second is None:
        return "several explanations fit; more rows of input would tell them apart"
    with np.errstate(all="ignore"):
        apart = np.abs(first.value() - second.value()) > first.bound(one.dtype) + second.bound(one.dtype)
    if apart.any():
        return "several explanations fit; the output of your code for the bundle's own vectors of this layer would tell them apart"
    return "several explanations fit, and the bundle's own vectors of this layer cannot tell them apart either"


def _worst(one: Evidence, columns: list[int]) -> dict[str, Any]:
    misfit = one.misfit(one.case)
    chosen = misfit[:, columns] if columns else misfit
    row, column = np.unravel_index(int(np.argmax(chosen)), chosen.shape)
    channel = columns[int(column)] if columns else int(column)
    index = list(one.position(int(row), channel))
    return {"index": index, "channel": channel, "input": float(one.case.x[row, channel]), "yours": float(one.theirs[row, channel]),
            "right": float(one.case.value()[row, channel]), "times_the_bound": float(misfit[row, channel])}


def _side_by_side(one: Evidence, explained: Case | None, columns: list[int]) -> tuple[tuple[Any, ...], ...]:
    """The numbers with the largest errors, one per channel if there are several channels."""
    right, misfit = one.case.value(), one.misfit(one.case)
    gives = None if explained is None else explained.value()
    channels = columns or np.argsort(-misfit.max(axis=0), kind="stable")[:MAX_BESIDE].tolist()
    each = max(1, MAX_BESIDE // len(channels))
    places = [(int(row), channel) for channel in channels for row in np.argsort(-misfit[:, channel], kind="stable")[:each]]
    return tuple((list(one.position(*at)), at[1], float(one.case.x[at]), float(one.theirs[at]), float(right[at]),
                  None if gives is None else float(gives[at])) for at in places)

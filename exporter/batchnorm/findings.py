"""What is worth knowing about the numbers of a bundle, in words. The kinds and their thresholds are explained in docs/report.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.layer import BatchNorm, scale_and_offset, wide
from exporter.batchnorm.stored import BATCH_NORMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.bundle import Bundle

DEAD = 1e-4  # |gamma| below this: the output changes by less for an input one standard deviation from the mean
CONSTANT = 1e-12  # a variance up to this counts as 0: nine orders of magnitude below Keras's default epsilon
HUGE = 100.0  # |scale| above
FLOAT16_MAX = 65504.0
FLOAT16_ZERO = 2.0**-25  # float16 rounds numbers up to this to 0
SIGMAS = 4  # standard deviations from the mean that an input is expected to reach


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of finding. level: "warning" (outputs may not be what is expected) or "note" (valid, but worth knowing)."""

    code: str
    level: str
    title: str
    meaning: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A finding about one layer.

    path:     of the layer.
    kind:     see KINDS.
    channels: the number of channels concerned; 0 if it concerns the whole layer.
    sentence: what was found, with its numbers; contains text from the model unescaped, so escape it before displaying it.
    """

    path: str
    kind: Kind
    channels: int
    sentence: str


KINDS = {kind.code: kind for kind in (
    Kind(code="not-exported", level="warning", title="Not exported",
         meaning="The file does not contain enough information about these layers. They are part of the model, but not of this bundle."),
    Kind(code="never-trained", level="warning", title="Statistics never trained",
         meaning="All means are 0 and all variances 1, the initial values: the layer was never run in training, or its moving "
                 "statistics were not saved. In inference it does not normalize."),
    Kind(code="called-in-training", level="warning", title="Called in training mode",
         meaning="The model calls these layers with training=True. Up to Keras 2 its own predict() then normalizes by the statistics of "
                 "the batch, not by the stored ones; in Keras 3, predict() uses the stored ones, model(x) and export() those of the "
                 "batch."),
    Kind(code="own-class", level="note", title="Not Keras's own class",
         meaning="The config is that of a batch norm, but the file does not show whether the class computes one."),
    Kind(code="huge-scale", level="warning", title="Huge scale",
         meaning=f"The effective scale is above {HUGE:g}: small differences of the input, and the "
                 "rounding errors of everything before it, are multiplied by that factor."),
    Kind(code="negative-variance", level="warning", title="Negative variance",
         meaning="No data has a negative variance. Epsilon lifts it above 0, so the layer works, but the training run that produced it "
                 "is suspect."),
    Kind(code="effective-epsilon", level="warning", title="Kernel used another epsilon",
         meaning="The fused kernel of the TensorFlow that wrote the file raised epsilon. To reproduce that model's outputs, export "
                 "with --effective-epsilon; to reproduce what its config describes, do not."),
    Kind(code="assumed", level="warning", title="Not from the file",
         meaning="These fields are not in the file: they were given or assumed, and the outputs are right only if these values are."),
    Kind(code="below-epsilon", level="note", title="Variance below epsilon",
         meaning="Epsilon, more than the data, determines the scale of these channels. A runtime that omits it, adds it outside the "
                 "root or uses a different one goes wrong here first."),
    Kind(code="constant-input", level="note", title="Constant input",
         meaning=f"A variance of {CONSTANT:g} or less: the input of these channels hardly changed in training, as after a unit "
                 "that never fires."),
    Kind(code="dead-channel", level="note", title="Dead channels",
         meaning=f"|gamma| is below {DEAD:g}: the output is beta, whatever the input. Such channels can often be pruned."),
    Kind(code="float16-overflow", level="note", title="Float16 overflow",
         meaning=f"Float16 ends at {FLOAT16_MAX:g} and rounds {FLOAT16_ZERO:.1g} to 0: in that type, these channels can produce "
                 "infinity or NaN."),
    Kind(code="converted", level="note", title="Converted",
         meaning="That version of Keras stored something else, or applied epsilon elsewhere. The numbers were converted so that the "
                 "standard formula gives the same outputs."),
    Kind(code="quantized", level="note", title="Quantized",
         meaning="The file contains small integers; the numbers here are the dequantized values."),
)}


def findings(bundle: Bundle) -> list[Finding]:
    """What is worth knowing about a bundle: layers that were not exported first, then by layer in the model's order."""
    found = [Finding(path=path, kind=KINDS["not-exported"], channels=0, sentence=reason) for path, reason in bundle.skipped]
    for layer in bundle:
        of_layer = dict(_layer_findings(layer))
        found += [Finding(path=layer.path, kind=kind, channels=of_layer[code][0], sentence=of_layer[code][1])
                  for code, kind in KINDS.items() if code in of_layer]
    return found


def _layer_findings(layer: BatchNorm) -> Iterator[tuple[str, tuple[int, str]]]:
    """(code, (channels, sentence)) of each finding about a layer, in any order."""
    yield from _statistics(layer)
    yield from _variances(layer)
    yield from _scales(layer)
    yield from _float16(layer)
    yield from _provenance(layer)


def _statistics(layer: BatchNorm) -> Iterator[tuple[str, tuple[int, str]]]:
    if layer.is_untouched:
        size = layer.channels
        where = "in the only channel" if size == 1 else f"in all {size} channels"
        yield "never-trained", (size, f"moving_mean is 0 and moving_variance 1 {where}" + (
            "; gamma and beta also have their initial values" if layer.is_affine_untouched else "; gamma and beta were trained"))


def _variances(layer: BatchNorm) -> Iterator[tuple[str, tuple[int, str]]]:
    variance = layer.moving_variance.astype(np.float64).ravel()
    epsilon = layer.epsilon
    lowest = int(np.argmin(variance))
    below = int((variance < epsilon).sum())
    if below:
        gamma, _, _, root = (values.ravel() for values in wide(layer))
        text = f"{_of(below, variance.size)} a variance below epsilon {epsilon:g}; the lowest is {variance[lowest]:.6g} in channel {lowest}"
        with np.errstate(over="ignore"):
            if variance[lowest] > CONSTANT and gamma[lowest]:
                text += (f", where the scale is {gamma[lowest] / root[lowest]:.4g} with epsilon under the root and would be "
                         f"{gamma[lowest] / np.sqrt(variance[lowest]):.4g} without it")
        yield "below-epsilon", (below, text)
    constant = int((np.abs(variance) <= CONSTANT).sum())
    if constant:
        yield "constant-input", (constant, f"{_of(constant, variance.size)} a variance of {CONSTANT:g} or less")
    negative = int((variance < 0).sum())
    if negative:
        yield "negative-variance", (negative, f"{_of(negative, variance.size)} a negative variance; the lowest is {variance[lowest]:.6g} "
                                              f"in channel {lowest}, epsilon is {epsilon:g}")


def _scales(layer: BatchNorm) -> Iterator[tuple[str, tuple[int, str]]]:
    gamma, _, _, root = (values.ravel() for values in wide(layer))
    dead = int((np.abs(gamma) < DEAD).sum())
    if dead:
        zeros = int((gamma == 0).sum())
        exactly = "" if not zeros else "; it is exactly 0" if zeros == dead else f"; in {zeros} of them it is exactly 0"
        yield "dead-channel", (dead, f"{_of(dead, gamma.size)} a |gamma| below {DEAD:g}{exactly}")
    with np.errstate(over="ignore"):
        scale = gamma / root
    huge = int((np.abs(scale) > HUGE).sum())
    if huge:
        worst = int(np.argmax(np.abs(scale)))
        yield "huge-scale", (huge, f"{_of(huge, gamma.size)} a scale above {HUGE:g}; the largest is {scale[worst]:.6g} in channel {worst} "
                                   f"(gamma {gamma[worst]:.6g}, variance {layer.moving_variance.ravel()[worst]:.6g})")


def _float16(layer: BatchNorm) -> Iterator[tuple[str, tuple[int, str]]]:
    """Channels where float16 overflows: in a stored number, in an input or output SIGMAS standard deviations from the mean, or by division
    by 0."""
    gamma, beta, mean, root = (values.ravel() for values in wide(layer))
    variance = layer.moving_variance.astype(np.float64).ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        scale, offset = (values.ravel() for values in scale_and_offset(layer))
        sizes = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance, "scale": scale, "offset": offset,
                 "the input": np.abs(mean) + SIGMAS * np.sqrt(np.maximum(variance, 0)), "the output": SIGMAS * np.abs(gamma) + np.abs(beta)}
    parts: list[str] = []
    bad = root * root <= FLOAT16_ZERO
    if bad.any():
        parts.append(f"variance + epsilon rounds to 0 in channel {int(np.argmin(root))}")
    for name, values in sizes.items():
        over = ~(np.abs(values) <= FLOAT16_MAX)
        if over.any():
            parts.append(f"{name} reaches {_largest(values)}")
        bad |= over
    if parts:
        count = int(bad.sum())
        yield "float16-overflow", (count, f"{count} of {gamma.size} channel{'s' * (gamma.size > 1)}: {', '.join(parts)}")


def _largest(values: NDArray[np.float64]) -> str:
    worst = int(np.argmax(np.where(np.isfinite(values), np.abs(values), np.inf)))
    return f"{values[worst]:.4g} in channel {worst}"


def _provenance(layer: BatchNorm) -> Iterator[tuple[str, tuple[int, str]]]:
    if layer.called_in_training:
        yield "called-in-training", (0, "it, or a model or wrapper that contains it, is called with training=True")
    if layer.class_name not in BATCH_NORMS:
        yield "own-class", (0, f"its class is {layer.class_name}")
    if layer.effective_epsilon is not None:
        _, _, _, root = wide(layer)
        effective = np.sqrt(layer.moving_variance.astype(np.float64) + layer.effective_epsilon)
        factor = float((effective / root).max())
        yield "effective-epsilon", (0, f"the kernel used {layer.effective_epsilon:.6g}, the config specifies {layer.epsilon:g}; "
                                       f"with the config's the scale is up to {factor:.4g} times as large")
    if layer.assumed:
        yield "assumed", (0, " and ".join(_assumed(layer, name) for name in layer.assumed))
    if layer.converted:
        yield "converted", (0, " and ".join(layer.converted))
    if layer.quantized is not None:
        yield "quantized", (0, f"stored as {layer.quantized}")


def _assumed(layer: BatchNorm, name: str) -> str:
    """A field with its value; a word of the file that is not a field is returned unchanged."""
    is_field = name in (field.name for field in dataclasses.fields(layer))
    return f"{name} ({_plain(getattr(layer, name))})" if is_field else name


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else type(value).__name__


def _of(count: int, total: int) -> str:
    if total == 1:
        return "the only channel has"
    return f"all {total} channels have" if count == total else f"{count} of {total} channels {'has' if count == 1 else 'have'}"

"""What became of an array in another form: it is compared with everything that a layer's parameters can be mistaken for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import TINY, UNIT, coarser, round_to
from exporter.diagnosis.pairing import fingerprint
from exporter.diagnosis.ports.port import Ported
from exporter.diagnosis.solvers import describe_order
from exporter.diagnosis.wrong import DEFAULT_EPSILONS, affine_uint8, orders, symmetric_int8
from exporter.keras.dialects import FUSED_MINIMUM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SLACK = 8  # units of roundoff that a computed array (a root, a quotient) may be off
INITIAL = {"gamma": (1.0,), "beta": (0.0,), "moving_mean": (0.0,), "moving_variance": (1.0, 0.0)}
NOT_LOADED = {"gamma": "BN131", "beta": "BN132", "moving_mean": "BN125", "moving_variance": "BN126"}
STEADY = 1e-6  # relative; how much a constant factor may vary over float32 numbers


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """What an array of another form is.

    code:   of the table of mistakes, or "".
    kind:   "array" (another one of the layer), "layer" (one of another layer), "initial", "derived", "order", "rounded".
    source: the parameter, the path, or the form of rounding, by which origins of one kind belong together.
    words:  what it is, after "is".
    name:   with "layer": which parameter of it.
    """

    code: str
    kind: str
    source: str
    words: str
    name: str = ""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """One pair of layers as it is looked at: float64 arrays, and the coarser of their types."""

    mine: Mapping[str, Array]
    theirs: Mapping[str, Array]
    dtype: str
    epsilon: float | None

    def same(self, a: Array, b: Array) -> bool:
        """Equal once both are rounded to the coarser type."""
        return bool(np.array_equal(round_to(a, self.dtype), round_to(b, self.dtype)))

    def close(self, got: Array, want: Array, magnitude: Array | None = None) -> bool:
        """Equal but for the rounding errors of a short computation."""
        with np.errstate(all="ignore"):
            bound = SLACK * UNIT[self.dtype] * np.abs(want if magnitude is None else magnitude) + TINY[self.dtype]
            return bool(np.isfinite(want).all() and (np.abs(got - want) <= bound).all())


def sight(mine: Ported, theirs: Ported) -> Sight:
    """Both layers' arrays; gamma 1 and beta 0 stand for those that the bundle's layer does not have."""
    wide = {name: values.astype(np.float64).ravel() for name, values in mine.arrays.items()}
    wide.setdefault("gamma", np.ones(mine.channels))
    wide.setdefault("beta", np.zeros(mine.channels))
    return Sight(mine=wide, theirs={name: values.astype(np.float64).ravel() for name, values in theirs.arrays.items()},
                 dtype=coarser(mine.dtype, theirs.dtype), epsilon=mine.epsilon)


class Index:
    """The arrays of all layers of a bundle by their bytes, for one type of the other form."""

    def __init__(self, layers: Sequence[Ported], dtype: str) -> None:
        self.dtype = dtype
        self.types = {layer.dtype for layer in layers}
        self.found: dict[bytes, list[tuple[str, str]]] = {}
        for layer in layers:
            for name, values in layer.arrays.items():
                self.found.setdefault(fingerprint(values, layer.dtype, dtype), []).append((layer.path, name))

    def whose(self, values: NDArray[Any]) -> Iterator[tuple[str, str]]:
        """(path, parameter) of the arrays that are equal after rounding."""
        for dtype in self.types:
            yield from self.found.get(fingerprint(values, self.dtype, dtype), ())


def origins(seen: Sight, name: str, path: str, index: Index) -> list[Origin]:
    """All that the array `name` of the other form may be, the plainest first; empty if it is nothing that is known."""
    got = seen.theirs[name]
    found = [Origin("", "array", other, f"the layer's {other}") for other, values in seen.mine.items()
             if other != name and seen.same(got, values) and np.ptp(values) > 0]
    found += [Origin(NOT_LOADED[name], "initial", "", f"the initial {value:g} in every channel: never loaded")
              for value in INITIAL[name] if (got == value).all()]
    found += _derived(seen, name)
    if np.ptp(got) > 0 or len(got) == 1:
        found += [Origin("BN145", "layer", owner, f"the {what} of {owner!r}", what) for owner, what in index.whose(got) if owner != path]
    found += _rounded(seen, name)
    return found


def _derived(seen: Sight, name: str) -> Iterator[Origin]:
    got, mine = seen.theirs[name], seen.mine
    makers = {"gamma": _of_gamma, "beta": _of_beta, "moving_mean": _of_mean, "moving_variance": _of_variance}
    with np.errstate(all="ignore"):
        for code, words, values in makers[name](seen):
            magnitude = _offset_size(seen) if "offset" in words else None
            if seen.close(got, values, magnitude) and not seen.same(got, mine[name]):
                yield Origin(code, "derived", words, words)


def _epsilons(seen: Sight) -> dict[float, str]:
    """Epsilons that people add, with how they are written: the layer's own first."""
    named = {seen.epsilon: "epsilon"} if seen.epsilon else {}
    return {**{value: f"{value:g}" for value in (*DEFAULT_EPSILONS, FUSED_MINIMUM) if value != seen.epsilon}, **named}


def _of_variance(seen: Sight) -> Iterator[tuple[str, str, Array]]:
    v = seen.mine["moving_variance"]
    root = np.sqrt(v)
    yield "BN113", "a standard deviation, sqrt(moving_variance)", root
    yield "BN114", "an inverse standard deviation, 1 / sqrt(moving_variance)", 1 / root
    yield "BN112", "squared, moving_variance**2", v**2
    yield "BN114", "an inverse, 1 / moving_variance", 1 / v
    for epsilon, shown in reversed(_epsilons(seen).items()):
        root = np.sqrt(v + epsilon)
        yield "BN113", f"a standard deviation with epsilon in it, sqrt(moving_variance + {shown})", root
        yield "BN114", f"an inverse standard deviation with epsilon in it, 1 / sqrt(moving_variance + {shown})", 1 / root
        yield "BN106", f"moving_variance with {shown} added already", v + epsilon
        yield "BN113", f"a standard deviation, sqrt(moving_variance) + {shown}", np.sqrt(v) + epsilon
        yield "BN114", f"an inverse, 1 / (moving_variance + {shown})", 1 / (v + epsilon)
    yield "", "the negative of moving_variance", -v
    yield "", "the logarithm of moving_variance", np.log(v)


def _of_mean(seen: Sight) -> Iterator[tuple[str, str, Array]]:
    yield "BN125", "the negative of moving_mean", -seen.mine["moving_mean"]
    root = _root(seen)
    if root is not None:
        yield "", "moving_mean / sqrt(moving_variance + epsilon)", seen.mine["moving_mean"] / root


def _of_gamma(seen: Sight) -> Iterator[tuple[str, str, Array]]:
    gamma, root = seen.mine["gamma"], _root(seen)
    if root is not None:
        yield "BN154", "the scale of the folded form, gamma / sqrt(moving_variance + epsilon)", gamma / root
        yield "BN102", "a scale folded without epsilon, gamma / sqrt(moving_variance)", gamma / np.sqrt(seen.mine["moving_variance"])
        yield "BN114", "gamma * sqrt(moving_variance + epsilon)", gamma * root
    yield "BN135", "gamma - 1", gamma - 1
    yield "BN135", "1 + gamma", gamma + 1
    yield "BN136", "the magnitude of gamma", np.abs(gamma)
    yield "BN136", "gamma where it is positive, else 0", np.maximum(gamma, 0)
    yield "BN139", "1 / gamma", 1 / gamma
    yield "", "the negative of gamma", -gamma


def _of_beta(seen: Sight) -> Iterator[tuple[str, str, Array]]:
    beta, gamma, mean, root = seen.mine["beta"], seen.mine["gamma"], seen.mine["moving_mean"], _root(seen)
    yield "BN140", "the negative of beta", -beta
    if root is not None:
        step = gamma * mean / root
        yield "BN154", "the offset of the folded form, beta - gamma * moving_mean / sqrt(moving_variance + epsilon)", beta - step
        yield "BN155", "a wrong offset of the folded form, beta + gamma * moving_mean / sqrt(moving_variance + epsilon)", beta + step
        yield "BN155", "a wrong offset of the folded form, beta - moving_mean / sqrt(moving_variance + epsilon)", beta - mean / root
    yield "BN155", "a wrong offset of the folded form, beta - moving_mean", beta - mean
    yield "BN139", "beta / gamma", beta / gamma


def _root(seen: Sight) -> Array | None:
    return None if seen.epsilon is None else np.sqrt(seen.mine["moving_variance"] + seen.epsilon)


def _offset_size(seen: Sight) -> Array:
    """What the rounding errors of a folded offset grow with."""
    root = _root(seen)
    scale = 1.0 if root is None else np.maximum(1, np.maximum(1, np.abs(seen.mine["gamma"])) / root)
    size: Array = np.abs(seen.mine["beta"]) + scale * np.abs(seen.mine["moving_mean"])
    return size


def _rounded(seen: Sight, name: str) -> Iterator[Origin]:
    """Fewer digits than the layer's; beyond what its type has lost anyway."""
    got, own = seen.theirs[name], seen.mine[name]
    for code, dtype in (("BN161", "float16"), ("BN162", "bfloat16")):
        if seen.same(got, round_to(own, dtype).astype(np.float64)):
            yield Origin(code, "rounded", dtype, f"rounded to {dtype}")
    for words, rounding in (("symmetric int8", symmetric_int8), ("affine uint8", affine_uint8)):
        if seen.close(got, rounding(own), np.full_like(own, np.abs(own).max())):
            yield Origin("BN163", "rounded", "int8", f"quantized to {words}")
    for digits in range(1, 9):
        if seen.same(got, np.round(own, digits)):
            yield Origin("BN165", "rounded", "print", f"rounded to {digits} digits after the point")
        if seen.same(got, np.array([float(f"{value:.{digits}e}") for value in own.tolist()])):
            yield Origin("BN165", "rounded", "print", f"rounded to {digits + 1} significant digits")


def order_of(seen: Sight, wrong: Sequence[str], shape: tuple[int, ...]) -> str | None:
    """The order of channels, in words, in which all of the wrong arrays are those of the layer; None if there is none."""
    mine = np.stack([round_to(seen.mine[name], seen.dtype) for name in wrong])
    theirs = np.stack([round_to(seen.theirs[name], seen.dtype) for name in wrong])
    if mine.shape != theirs.shape or mine.shape[1] < 2:
        return None
    for how, order in orders(mine.shape[1], shape):
        if np.array_equal(mine[:, order], theirs):
            return how
    places: dict[bytes, list[int]] = {}
    for channel in range(mine.shape[1] - 1, -1, -1):
        places.setdefault(np.ascontiguousarray(mine[:, channel]).tobytes(), []).append(channel)
    found = [places.get(np.ascontiguousarray(theirs[:, channel]).tobytes(), []) for channel in range(theirs.shape[1])]
    if not all(found):
        return None
    return describe_order(np.array([several.pop() if len(several) > 1 else several[0] for several in found]))


def steady(seen: Sight, name: str) -> str:
    """What can be said of an array that is nothing known: a constant factor, or a constant distance, to the layer's; or ""."""
    got, own = seen.theirs[name], seen.mine[name]
    with np.errstate(all="ignore"):
        factor, distance = got / own, got - own
    if len(own) < 2:
        return ""
    ratio, step, most = float(np.median(factor)), float(np.median(distance)), STEADY * np.abs(own).max()
    if np.isfinite(factor).all() and np.ptp(factor) <= STEADY * np.abs(factor).max() and abs(ratio - 1) > STEADY:
        count = ratio / (ratio - 1) if name == "moving_variance" and 1 < ratio < 1.5 else 0.0
        unbiased = f", as of an unbiased variance of {round(count)} numbers" if count and abs(count - round(count)) < 0.01 * count else ""
        return f"{ratio:.7g} times the layer's in every channel{unbiased}"
    if np.isfinite(distance).all() and np.ptp(distance) <= most and abs(step) > most:
        return f"the layer's and {step:.7g} in every channel"
    return ""

"""The differences between a bundle and another form of it, layer by layer, with the mistakes; and a bundle against its own vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm import vectors
from exporter.batchnorm.bundle import Bundle, ReadBack
from exporter.batchnorm.dtypes import UNIT, coarser, round_to
from exporter.batchnorm.layer import BatchNorm, exact_rows
from exporter.diagnosis.carried import Carried, carried
from exporter.diagnosis.origins import Index
from exporter.diagnosis.pairing import Pair, pair
from exporter.diagnosis.port_answer import DIFFERS, EQUAL, ROUNDED, Compared, Comparison, Difference
from exporter.diagnosis.ports.port import Port, Ported, coarsest, of_bundle, of_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A layer's outputs compared with the right ones: the worst error in ULP, absolute, and in units of the error bound.

    dtype: the type in which the outputs were computed, as far as it is known; ULP and bound refer to it.
    """

    path: str
    numbers: int
    dtype: str
    ulp: float
    error: float
    times_the_bound: float

    @property
    def passed(self) -> bool:
        return self.times_the_bound <= 1


def compare(mine: Bundle, theirs: Bundle | Port, told: Sequence[tuple[str, str]] = (), name: str = "") -> Comparison:
    """All differences of the layers' content. told: (glob over paths of `mine`, path of `theirs`) of layers that belong together."""
    other = of_bundle(theirs, name or theirs.origin.file) if isinstance(theirs, Bundle) else theirs
    layers = [of_layer(layer) for layer in mine]
    pairing = pair(layers, other, told)
    indexes = {dtype: Index(layers, dtype) for dtype in {layer.dtype for layer in other.layers}}
    pairs = [_compared(layers[one.mine], other.layers[one.theirs], one, indexes) for one in pairing.pairs]
    folded = {layer.path: said for layer in pairing.left.values() if (said := _folded_away(layer, other))}
    missing = [Difference(path=layer.path, what="missing", code="BN154" if layer.path in folded else "", says=folded.get(layer.path, ""))
               for layer in pairing.left.values()]
    added = [Difference(path=layer.path, what="added") for layer in pairing.right.values()]
    return Comparison(name=other.name, kind=other.kind, pairs=tuple(pairs), missing=tuple(missing), added=tuple(added),
                      to_set=tuple(_to_set(mine, other)), notes=(*other.notes, *_remarks(pairing.pairs)))


def _compared(mine: Ported, theirs: Ported, pair: Pair, indexes: dict[str, Index]) -> Compared:
    found = list(_fields(mine, theirs))
    rounding = ""
    if mine.channels == theirs.channels:
        arrays = carried(mine, theirs, indexes[theirs.dtype])
        found += [_difference(mine, theirs, one) for one in arrays if not one.right]
        rounding = next((one.rounding for one in arrays if one.rounding), "")
    if not found and not rounding and mine.epsilon is not None and theirs.epsilon is not None and mine.epsilon != theirs.epsilon:
        rounding = "float32"
    return Compared(path=mine.path, other=theirs.path, how=pair.how, verdict=DIFFERS if found else ROUNDED if rounding else EQUAL,
                    rounding=rounding, differences=tuple(found), called=tuple(theirs.called.items()))


def _fields(mine: Ported, theirs: Ported) -> Iterator[Difference]:
    if mine.channels != theirs.channels:
        yield Difference(path=mine.path, what="channels", mine=mine.channels, theirs=theirs.channels)
    elif None not in (mine.shape, theirs.shape) and mine.shape != theirs.shape:
        yield Difference(path=mine.path, what="shape", mine=list(mine.shape or ()), theirs=list(theirs.shape or ()))
    if not _same_axis(mine, theirs):
        yield Difference(path=mine.path, what="axis", mine=list(mine.axis or ()), theirs=list(theirs.axis or ()))
    if mine.epsilon is not None and theirs.epsilon is not None and not _same_in_float32(mine.epsilon, theirs.epsilon):
        code, says = _epsilon_code(mine.epsilon, theirs.epsilon)
        yield Difference(path=mine.path, what="epsilon", code=code, says=says, mine=mine.epsilon, theirs=theirs.epsilon)


def _same_in_float32(a: float, b: float) -> bool:
    with np.errstate(over="ignore"):
        return a == b or float(np.float32(a)) == float(np.float32(b))


def _epsilon_code(mine: float, theirs: float) -> tuple[str, str]:
    from exporter.diagnosis.wrong import DEFAULT_EPSILONS
    from exporter.keras.dialects import FUSED_MINIMUM

    if theirs == 0:
        return "BN102", ""
    if mine < FUSED_MINIMUM and _same_in_float32(theirs, FUSED_MINIMUM):
        return "BN104", ""
    whose = next((whose for value, whose in DEFAULT_EPSILONS.items() if _same_in_float32(value, theirs)), None)
    return ("BN105", "") if whose is None else ("BN103", f"the default of {whose}")


def _same_axis(mine: Ported, theirs: Ported) -> bool:
    """-1 and 3 are the same axis if the rank is 4; a form without axes matches any."""
    if mine.axis is None or theirs.axis is None or mine.axis == theirs.axis:
        return True
    rank = mine.ndim or theirs.ndim
    return rank is not None and [a % rank for a in mine.axis] == [a % rank for a in theirs.axis]


def _difference(mine: Ported, theirs: Ported, one: Carried) -> Difference:
    """The difference of an array, with its worst channel in units of the last place."""
    a, b = mine.arrays.get(one.name), theirs.arrays.get(one.name)
    if a is None or b is None:
        return Difference(path=mine.path, what=one.name, code=one.code, says=one.words, mine="none" if a is None else "there",
                          theirs="none" if b is None else "there")
    with np.errstate(all="ignore"):
        differ = (a != b) | (np.signbit(a) != np.signbit(b))
        ulps = np.where(differ, vectors.ulps(b, a, coarser(mine.dtype, theirs.dtype)), -1.0)
    worst = int(np.argmax(np.where(np.isnan(ulps), np.inf, ulps)))
    return Difference(path=mine.path, what=one.name, code=one.code, says=one.words, mine=float(a[worst]), theirs=float(b[worst]),
                      channels=int(differ.sum()), of=a.size, ulp=float(ulps[worst]), channel=worst)


def _folded_away(layer: Ported, other: Port) -> str:
    """The array of the other form that is the offset of a missing layer: the layer was folded into the one before it."""
    for name, values in other.others.items():
        if values.size == layer.channels and np.ptp(values.astype(np.float64)) > 0:
            held = Ported(path="", arrays={"beta": values}, called={"beta": name}, dtype=coarsest([values]))
            found = [one for one in carried(layer, held, Index([], held.dtype)) if one.code == "BN154"]
            if found:
                return f"folded already: {name} is {found[0].words}"
    return ""


def _to_set(mine: Bundle, other: Port) -> Iterator[str]:
    """The arguments that a form without epsilon and momentum needs in addition to its arrays, one line for layers that agree."""
    framework = other.framework
    if framework is None or all(layer.epsilon is not None for layer in other.layers):
        return
    groups: dict[str, list[str]] = {}
    for layer in mine:
        said = [f"{framework.epsilon}={layer.epsilon!r}"]
        if framework.momentum is not None and layer.momentum is not None:
            momentum = round(1 - layer.momentum, 12) if framework.opposite else layer.momentum
            said.append(f"{framework.momentum}={momentum!r}")
        groups.setdefault(", ".join(said), []).append(layer.path)
    for words, paths in groups.items():
        where = "" if len(groups) == 1 else f" for {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        yield f"set {words}{where}"


def _remarks(pairs: Sequence[Pair]) -> Iterator[str]:
    found = [pair.theirs for pair in pairs]
    if found != sorted(found) and any(pair.how == "by content" for pair in pairs):
        yield "OTHER lists its layers in another order; if it uses them in that order, layers are exchanged (BN145)"


def check_vectors(bundle: Bundle) -> list[Check]:
    """Each layer's stored vectors against the formula; layers without vectors are not in the result."""
    if not isinstance(bundle, ReadBack):
        return []
    found = []
    for layer in bundle:
        if layer.path in bundle.vectors:
            rows, output = bundle.vectors[layer.path]
            found.append(check_output(layer, rows, output))
    return found


def check_output(layer: BatchNorm, rows: NDArray[Any], output: NDArray[Any]) -> Check:
    """Outputs of shape (rows, channels) against the formula in float64, rounded once to the coarser of the layer's type and theirs."""
    name = output.dtype.name
    dtype = coarser(layer.dtype, name if name in UNIT else layer.dtype)
    want = round_to(exact_rows(layer, rows.reshape(-1, *layer.shape)), dtype).reshape(rows.shape)
    with np.errstate(all="ignore"):
        error = np.abs(np.asarray(output, np.float64) - want.astype(np.float64))
        ratio = error / vectors.bound(layer, rows, dtype)
        ulps = vectors.ulps(output, want, dtype)
    bad = ~np.isfinite(np.asarray(output, np.float64))
    ratio, ulps, error = (np.where(bad, np.inf, values) for values in (ratio, ulps, error))
    return Check(path=layer.path, numbers=rows.size, dtype=dtype, ulp=float(ulps.max()), error=float(error.max()),
                 times_the_bound=float(ratio.max()))

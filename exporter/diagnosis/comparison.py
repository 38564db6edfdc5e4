"""What differs between two bundles: which layers, which channels, how far in units of the last place. And a bundle against its vectors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm import vectors
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.dtypes import UNIT, round_to, stored_bytes
from exporter.batchnorm.layer import PARAMETERS, BatchNorm, exact_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS = ("dtype", "shape", "axis", "epsilon")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One difference of a layer.

    path:  the layer.   what: "epsilon", "gamma", ..., or "missing" (only in the first), "added" (only in the second).
    mine, theirs: the values, of a parameter those of the worst channel.
    channels, of: how many channels of a parameter differ.   ulp: the largest distance in units of the last place, at `channel`.
    """

    path: str
    what: str
    mine: Any = None
    theirs: Any = None
    channels: int = 0
    of: int = 0
    ulp: float = 0.0
    channel: int = 0

    def __str__(self) -> str:
        if self.what == "missing":
            return "not in the model"
        if self.what == "added":
            return "not in the bundle"
        if not self.of:
            return f"{self.what}: {self.mine} in the bundle, {self.theirs} in the model"
        return (f"{self.what}: {self.channels} of {self.of} channels differ, by up to {self.ulp:.6g} ULP (channel {self.channel}: "
                f"{self.mine:.9g} in the bundle, {self.theirs:.9g} in the model)")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """How a layer's outputs compare with what they should be: the worst in ULP, as an error, and in units of the error bound.

    dtype: what the outputs were computed in, as far as it is known; the ULP and the bound are its.
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


def compare(mine: Bundle, theirs: Bundle) -> list[Difference]:
    """All differences of the layers' content, in the order of `mine`, then what only `theirs` has. Layers are matched by path."""
    found: list[Difference] = []
    for layer in mine:
        if layer.path in theirs:
            found += compare_layers(layer, theirs[layer.path])
        else:
            found.append(Difference(path=layer.path, what="missing"))
    return found + [Difference(path=layer.path, what="added") for layer in theirs if layer.path not in mine]


def compare_layers(mine: BatchNorm, theirs: BatchNorm) -> list[Difference]:
    """The differences of two layers."""
    found = [Difference(path=mine.path, what=field, mine=_shown(a), theirs=_shown(b))
             for field in FIELDS if (a := getattr(mine, field)) != (b := getattr(theirs, field))
             and not (field == "axis" and _same_axis(mine, theirs))]
    for name in PARAMETERS:
        a, b = getattr(mine, name), getattr(theirs, name)
        if a is None or b is None:
            if (a is None) != (b is None):
                found.append(Difference(path=mine.path, what=name, mine="none" if a is None else "there",
                                        theirs="none" if b is None else "there"))
        elif a.size == b.size and (mine.dtype != theirs.dtype or stored_bytes(a, mine.dtype) != stored_bytes(b, mine.dtype)):
            found += _parameter(mine, name, a.ravel(), b.ravel())
    return found


def _same_axis(mine: BatchNorm, theirs: BatchNorm) -> bool:
    """-1 and 3 are one axis where the rank is known to be 4."""
    rank = mine.ndim or theirs.ndim
    if rank is None or mine.axis is None or theirs.axis is None:
        return False
    return [a % rank for a in mine.axis] == [a % rank for a in theirs.axis]


def _parameter(layer: BatchNorm, name: str, a: NDArray[Any], b: NDArray[Any]) -> list[Difference]:
    differ = (a != b) | (np.signbit(a) != np.signbit(b))
    if not differ.any():
        return []
    ulps = np.where(differ, vectors.ulps(b, a, layer.dtype), -1.0)
    worst = int(np.argmax(ulps))
    return [Difference(path=layer.path, what=name, mine=float(a[worst]), theirs=float(b[worst]), channels=int(differ.sum()), of=a.size,
                       ulp=float(ulps[worst]), channel=worst)]


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_vectors(bundle: Bundle) -> list[Check]:
    """Each layer's stored vectors against the formula; layers without vectors are not in the result."""
    found = []
    for layer in bundle:
        if layer.path in bundle.vectors:
            rows, output = bundle.vectors[layer.path]
            found.append(check_output(layer, rows, output))
    return found


def check_output(layer: BatchNorm, rows: NDArray[Any], output: NDArray[Any]) -> Check:
    """Outputs of shape (rows, channels) against the formula in float64, rounded once to the coarser of the layer's type and theirs."""
    name = output.dtype.name
    dtype = max([layer.dtype, name if name in UNIT else layer.dtype], key=UNIT.__getitem__)
    want = round_to(exact_rows(layer, rows.reshape(-1, *layer.shape)), dtype).reshape(rows.shape)
    with np.errstate(all="ignore"):
        error = np.abs(np.asarray(output, np.float64) - want.astype(np.float64))
        ratio = error / vectors.bound(layer, rows, dtype)
        ulps = vectors.ulps(output, want, dtype)
    bad = ~np.isfinite(np.asarray(output, np.float64))
    ratio, ulps, error = (np.where(bad, np.inf, values) for values in (ratio, ulps, error))
    return Check(path=layer.path, numbers=rows.size, dtype=dtype, ulp=float(ulps.max()), error=float(error.max()),
                 times_the_bound=float(ratio.max()))

"""Evidence: one layer, the user's input and output in the form (rows, channels), and how well a case explains them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import UNIT, coarser
from exporter.batchnorm.layer import BatchNorm
from exporter.diagnosis.case import Case, Sheet, case_on, make_case, make_sheet, rows_of
from exporter.diagnosis.samples import Numbers
from exporter.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Rows = tuple[Sheet, Array, Array, Array]  # the input, the output, half units of the output's and of the input's digits

HALF_UNIT = 0.5  # half a unit of a number without decimals
FIRST = 2
MAX_SEARCHED = 1 << 14  # numbers used while searching; results are then checked against all numbers


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """One layer and the user's numbers.

    case:     the right formula and the input.            theirs: the output, (rows, channels).
    printed:  half units of the output's printed digits.  input_printed: of the input's, 0 unless `loosened`.
    dtype:    the coarser of the layer's type and the output's: the error bound is in its unit.
    given:    the input's shape, as given.
    slack:    how much the missing digits of printed parameters change the output, (rows, channels); 0 unless `loosened`.
    any_channel:  every column contains the same numbers, which belong to one unknown channel.
    """

    case: Case
    theirs: Array
    printed: Array
    input_printed: Array
    dtype: str
    given: tuple[int, ...]
    slack: Array
    any_channel: bool
    loosened: bool = False

    @property
    def layer(self) -> BatchNorm:
        return self.case.setting.layer

    def tolerance(self, case: Case) -> Array:
        """The error bound of a case and the printed precision of the numbers."""
        bound = case.bound(self.dtype) + self.printed
        if self.loosened:
            with np.errstate(all="ignore"):
                bound = bound + np.abs(case.scale()) * self.input_printed + self.slack
        return bound

    def misfit(self, case: Case) -> Array:
        """|theirs - case| in units of the tolerance, (rows, channels); infinite where only one of them is NaN."""
        value = case.value()
        with np.errstate(all="ignore"):
            ratio = np.abs(self.theirs - value) / self.tolerance(case)
        same = (self.theirs == value) | (np.isnan(self.theirs) & np.isnan(value))
        return np.where(same, 0.0, np.where(np.isnan(ratio), np.inf, ratio))

    def worst(self, case: Case) -> float:
        """The largest misfit; with `any_channel`, that of the best channel."""
        misfit = self.misfit(case)
        return float(misfit.max(axis=0).min() if self.any_channel else misfit.max())

    def fits(self, case: Case) -> bool:
        """Whether the case explains the numbers, some of which have to be finite: NaN everywhere would fit too many cases."""
        return self.worst(case) <= 1 and self.finite()

    def finite(self) -> bool:
        """Whether any number of the output is finite."""
        return bool(np.isfinite(self.theirs).any())

    def right(self) -> bool:
        """Whether the numbers are right; two rows are checked first."""
        first = self.take(np.arange(min(FIRST, len(self.theirs))))
        return first.worst(first.case) <= 1 and self.worst(self.case) <= 1

    def close(self, case: Case) -> bool:
        """Whether the case gives the same as the right formula, so that these numbers cannot distinguish them."""
        return dataclasses.replace(self, theirs=self.case.value()).fits(case)

    def channels_that_fit(self, case: Case) -> list[int]:
        """The channels whose numbers the case explains."""
        return np.flatnonzero(self.misfit(case).max(axis=0) <= 1).tolist()

    def take(self, rows: NDArray[np.intp]) -> Evidence:
        """The evidence of some rows; the statistics of the whole input are kept."""
        case, setting = self.case, dataclasses.replace(self.case.setting, rows=self.case.setting.rows[rows])
        return dataclasses.replace(self, case=case.but(x=case.x[rows], magnitude=case.magnitude[rows], setting=setting),
                                   theirs=self.theirs[rows], printed=self.printed[rows], input_printed=self.input_printed[rows],
                                   slack=self.slack[rows])

    def sample(self) -> Evidence:
        """A few rows for searching: those that fit the right formula worst, and some evenly spaced ones."""
        rows, channels = self.theirs.shape
        keep = max(4, MAX_SEARCHED // channels)
        if rows <= keep:
            return self
        worst = np.argsort(-self.misfit(self.case).max(axis=1), kind="stable")[: keep // 2]
        return self.take(np.unique(np.concatenate([worst, np.linspace(0, rows - 1, keep - len(worst)).astype(np.intp)])))

    def channels(self, which: NDArray[np.intp]) -> Evidence:
        """The evidence of some channels, as a separate layer with its channels last."""
        layer = channels_of(self.layer, which)
        case = make_case(layer, self.case.x[:, which], (1,))
        return dataclasses.replace(self, case=case, theirs=self.theirs[:, which], printed=self.printed[:, which],
                                   input_printed=self.input_printed[:, which], given=case.x.shape, slack=self.slack[:, which])

    def loosen(self) -> Evidence:
        """The same evidence with the input and the parameters known only to their printed digits."""
        return dataclasses.replace(self, loosened=True)

    def position(self, row: int, channel: int) -> tuple[int, ...]:
        """The index of a number of the rows in the original arrays."""
        if self.any_channel:
            return tuple(int(index) for index in np.unravel_index(row, self.given))
        shape = self.case.setting.sheet.shape
        where = self.case.setting.to_rows(np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape))[row, channel]
        return tuple(int(index) for index in np.unravel_index(int(where), self.given))


def channels_of(layer: BatchNorm, which: NDArray[np.intp]) -> BatchNorm:
    """A layer of some channels of another one, with its channels last."""
    arrays = {name: values.ravel()[which] for name, values in layer.parameters().items()}
    return layer.replace(axis=(-1,), shape=(len(which),), ndim=None, **arrays)


def axes_for(layer: BatchNorm, shape: tuple[int, ...], axis: int | None) -> tuple[int, ...] | None:
    """The axes of an input of this shape that the layer's dimensions run along, or None if none fit.

    The layer's own axes if they fit; otherwise the last, otherwise axis 1, otherwise any that has the layer's length.
    """
    rank = len(shape)
    tried: list[tuple[int, ...]]
    if axis is not None:
        tried = [(axis,)]
    elif len(layer.shape) == 1:
        tried = [layer.axis, (-1,), (1,), *((other,) for other in range(rank))]
    else:
        tried = [layer.axis, tuple(range(-len(layer.shape), 0)), tuple(range(1, len(layer.shape) + 1))]
    for axes in tried:
        inside = all(-rank <= a < rank for a in axes) and len({a % rank for a in axes}) == len(axes)
        if inside and tuple(shape[a] for a in axes) == layer.shape:
            return tuple(a % rank for a in axes)
    return None


def gather(layer: BatchNorm, x: Numbers, theirs: Numbers, *, axis: int | None = None, channel: int | None = None,
           others: Sequence[BatchNorm] = (), dtype: str | None = None, shared: dict[Any, Rows] | None = None,
           slack: Mapping[str, NDArray[np.float64]] | None = None) -> Evidence | None:
    """The evidence for one layer, or None if the input does not fit it.

    Numbers that are fewer than the layer's channels may belong to one of its channels (`channel`, or any).
    slack:  half units of the last digits of printed parameters, by their names.
    shared: a cache of what layers that use the numbers in the same form have in common.
    """
    shared = {} if shared is None else shared
    if channel is not None:
        if not 0 <= channel < layer.channels:
            return None
        layer, others = channels_of(layer, np.array([channel])), ()
    shape = given = x.values.shape
    axes = axes_for(layer, shape, axis)
    any_channel = False
    if axes is None and axis is None and (len(shape) <= 1 or layer.channels == 1):
        any_channel = layer.channels > 1
        shape, axes = (*shape, 1), (len(shape),)
        layer, others = channels_of(layer, np.arange(layer.channels)), () if any_channel else others
    if axes is None:
        return None
    coarse = coarser(layer.dtype, dtype or _type_of(theirs, layer.dtype))
    key = (shape, axes, layer.channels if any_channel else 0)
    if key not in shared:
        shared[key] = _rows(x.reshape(shape), theirs.reshape(shape), axes, key[2])
    sheet, output, printed, input_printed = shared[key]
    case = case_on(sheet, layer, others)
    return Evidence(case=case, theirs=output, printed=printed, input_printed=input_printed, dtype=coarse, given=given,
                    slack=_slack(case, slack, channel), any_channel=any_channel)


def _slack(case: Case, halves: Mapping[str, NDArray[np.float64]] | None, channel: int | None) -> Array:
    """How much half a unit of each parameter's last printed digit may change the output."""
    found = np.zeros(case.x.shape)
    for name, half in (halves or {}).items():
        units = half if channel is None else half[[channel]]
        with np.errstate(all="ignore"):
            distance = case.x - case.mean
            found = found + units * np.abs({"gamma": distance / np.sqrt(case.variance + case.epsilon), "beta": np.ones_like(distance),
                                            "moving_mean": np.broadcast_to(case.scale(), distance.shape),
                                            "moving_variance": case.scale() * distance / (2 * (case.variance + case.epsilon))}[name])
    return found


def _rows(x: Numbers, theirs: Numbers, axes: tuple[int, ...], channels: int) -> Rows:
    """The numbers in the form (rows, channels); `channels`: repeat those of one channel this many times."""
    if channels:
        x, theirs, axes = _for_each_channel(x, channels), _for_each_channel(theirs, channels), (1,)
    half = _printed(x, axes)
    output = rows_of(np.asarray(theirs.values, np.float64), axes)
    return (make_sheet(np.asarray(x.values, np.float64), axes), output, _printed(theirs, axes),
            np.where(half < HALF_UNIT, half, 0.0))  # integers in an input are taken as exact


def _type_of(theirs: Numbers, dtype: str) -> str:
    """The type in which an output was computed, as far as it is visible: an array's own; for typed numbers at best float32."""
    name = theirs.values.dtype.name
    if theirs.half is not None:
        return "float32"
    return name if name in UNIT else dtype


def _for_each_channel(numbers: Numbers, channels: int) -> Numbers:
    def repeated(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.repeat(values.reshape(-1, 1), channels, axis=1)

    return Numbers(repeated(numbers.values), None if numbers.half is None else repeated(numbers.half))


def _printed(numbers: Numbers, axes: tuple[int, ...]) -> Array:
    return rows_of(np.broadcast_to(0.0, numbers.values.shape) if numbers.half is None else numbers.half, axes)


def aligned(x: Numbers, theirs: Numbers) -> tuple[Numbers, str]:
    """`theirs` in x's shape, and how it was converted.

    Raises: UsageError if the shapes have nothing to do with each other.
    """
    shape, other = x.values.shape, theirs.values.shape
    if shape == other:
        return theirs, ""
    if _long(shape) == _long(other):
        return theirs.reshape(shape), ""
    if len(shape) == len(other) > 2:
        for order in ((0, len(shape) - 1, *range(1, len(shape) - 1)), (0, *range(2, len(shape)), 1)):
            if tuple(other[a] for a in order) == shape:
                return theirs.transpose(order), f"the output has shape {list(other)} where the input has {list(shape)}: its axes were moved"
    if x.values.size == theirs.values.size and 1 in (x.values.ndim, theirs.values.ndim):
        return theirs.reshape(shape), f"the output of shape {list(other)} was taken in the order of the input's {list(shape)}"
    raise UsageError(f"the input has shape {list(shape)}, the output {list(other)}", hint="batch norm gives an output of its input's shape")


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)

"""Case: the formula taken apart, so that a mistake is a change of one of its parts and two mistakes are two changes.

    after(gamma * (x - mean) / divisor(variance, epsilon) + beta)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import TINY, UNIT
from exporter.batchnorm.layer import BatchNorm, broadcast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SMALL_BATCH = 2  # an unbiased variance needs this many rows


def root(variance: Array, epsilon: Array) -> Array:
    """The divisor of the formula."""
    return np.sqrt(variance + epsilon)


def unchanged(y: Array) -> Array:
    """No activation."""
    return y


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sheet:
    """An input in the form (rows, channels), and its statistics.

    shape, axes:    of the input, and the axes that the layer's dimensions run along in it.
    x, magnitude:   the rows, and |x|.
    mean, variance, largest:  of each channel; the variance is the biased one, `largest` the largest magnitude.
    whole:          (mean, variance) of all channels together.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    x: Array
    magnitude: Array
    mean: Array
    variance: Array
    largest: Array
    whole: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Setting:
    """What a mistake may need in addition to the layer's numbers.

    sheet:  the whole input.   rows: the rows of it in this case.   others: layers of the same bundle with equally many channels.
    """

    layer: BatchNorm
    sheet: Sheet
    rows: NDArray[np.intp]
    others: Sequence[BatchNorm] = ()

    def to_rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """An array of the input's shape in the form (rows, channels), reduced to the rows of the case."""
        return rows_of(values, self.sheet.axes)[self.rows]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """The parts, all float64: the parameters of shape (channels,) or (rows, channels), the input (rows, channels).

    magnitude: |x|, or more if x itself is the result of a computation that rounds.
    extra:     additional rounding, in units of the unit roundoff (the statistics of a batch have some).
    """

    gamma: Array
    beta: Array
    mean: Array
    variance: Array
    epsilon: Array
    x: Array
    magnitude: Array
    setting: Setting
    extra: Array | float = 0.0
    divisor: Callable[[Array, Array], Array] = root
    after: Callable[[Array], Array] = unchanged

    def but(self, **changes: Any) -> Case:
        """The same case with some parts changed."""
        return dataclasses.replace(self, **changes)

    def scale(self) -> Array:
        """gamma / sqrt(moving_variance + epsilon) in this case."""
        with np.errstate(all="ignore"):
            scale: Array = self.gamma / self.divisor(self.variance, self.epsilon)
            return scale

    def value(self) -> Array:
        """The result of the formula, of shape (rows, channels)."""
        with np.errstate(all="ignore"):
            return self.after(self.gamma * (self.x - self.mean) / self.divisor(self.variance, self.epsilon) + self.beta)

    def size(self) -> Array:
        """|a*x| + |a*mean| + |beta|: the error bound is proportional to it (docs/batchnorm.md)."""
        with np.errstate(all="ignore"):
            a = np.abs(self.scale())
            size: Array = a * self.magnitude + a * np.abs(self.mean) + np.abs(self.beta) + self.extra
            return size

    def bound(self, dtype: str) -> Array:
        """The error bound for a computation in `dtype`, like vectors.bound for the right formula."""
        return 16 * UNIT[dtype] * self.size() + TINY[dtype]

    def with_layer(self, layer: BatchNorm) -> Case:
        """The same input with the parameters of another layer with equally many channels."""
        return self.but(**parameters(layer))

    def at(self, index: NDArray[np.intp]) -> Case:
        """Each input number with the parameters of channel `index`, of shape (channels,) or (rows, channels)."""
        def pick(values: Array) -> Array:
            if values.ndim == 1:
                return values[index]
            return values[:, index] if index.ndim == 1 else np.take_along_axis(values, index, axis=1)

        return self.but(**{name: pick(getattr(self, name)) for name in ("gamma", "beta", "mean", "variance", "epsilon")})


Variants = Iterator[tuple[str, Case]]  # (which variant of a mistake, the changed case)


def rows_of(values: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """`values` with `axes` flattened and moved to the end: (rows, channels)."""
    last = range(values.ndim - len(axes), values.ndim)
    moved = np.moveaxis(values, axes, tuple(last))
    channels = int(np.prod(moved.shape[values.ndim - len(axes):], dtype=np.int64))
    return moved.reshape(-1, channels)


def parameters(layer: BatchNorm) -> dict[str, Any]:
    """gamma, beta, mean, variance and epsilon of a layer, each float64 of shape (channels,)."""
    channels = layer.channels
    flat = {name: values.astype(np.float64).ravel() for name, values in layer.parameters().items()}
    return {"gamma": flat.get("gamma", np.ones(channels)), "beta": flat.get("beta", np.zeros(channels)), "mean": flat["moving_mean"],
            "variance": flat["moving_variance"], "epsilon": np.full(channels, layer.epsilon, np.float64)}


def make_sheet(x: NDArray[Any], axes: tuple[int, ...]) -> Sheet:
    """An input of any shape with the layer's dimensions along `axes`."""
    rows = rows_of(np.asarray(x, np.float64), axes)
    mean, magnitude = rows.mean(axis=0), np.abs(rows)
    return Sheet(shape=x.shape, axes=axes, x=rows, magnitude=magnitude, mean=mean, variance=np.square(rows - mean).mean(axis=0),
                 largest=magnitude.max(axis=0), whole=(float(rows.mean()), float(rows.var())))


def make_case(layer: BatchNorm, x: NDArray[Any], axes: tuple[int, ...], *, others: Sequence[BatchNorm] = ()) -> Case:
    """The right formula for `layer` and an input of any shape with the layer's dimensions along `axes`."""
    return case_on(make_sheet(x, axes), layer, others)


def case_on(sheet: Sheet, layer: BatchNorm, others: Sequence[BatchNorm] = ()) -> Case:
    """The right formula for `layer` and an input that may be shared by several layers."""
    setting = Setting(layer=layer, sheet=sheet, rows=np.arange(len(sheet.x)), others=others)
    return Case(**parameters(layer), x=sheet.x, magnitude=sheet.magnitude, setting=setting)


def layouts(setting: Setting) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """The channel of each input number under other interpretations of the input's axes: (how, index)."""
    shape, axes = setting.sheet.shape, setting.sheet.axes
    channels = setting.layer.channels
    position = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    right = setting.to_rows(np.broadcast_to(broadcast(np.arange(channels).reshape(setting.layer.shape), axes, len(shape)), shape))
    readings = []
    if len(axes) == 1:
        readings += [(f"along axis {axis} of the input instead of axis {axes[0]}",
                      np.broadcast_to(broadcast(np.arange(channels), (axis,), len(shape)), shape))
                     for axis in range(len(shape)) if shape[axis] == channels]
    if len(shape) > 1 and channels > 1:
        sample = position.size // shape[0]
        readings.append(("the buffer read as channels last (index % channels)", position % channels))
        readings.append(("the buffer read as channels first (index // inner % channels)",
                         position % sample // max(1, sample // channels) % channels))
    for how, index in readings:
        rows = setting.to_rows(index)
        if not np.array_equal(rows, right):
            yield how, rows

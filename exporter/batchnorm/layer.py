"""BatchNorm: one layer, and the only implementation of the formula: gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta.

`exact` is the reference: float64 inside, rounded once. `fast` is float32 with one scale and one offset per channel.
Their error bounds are derived in docs/batchnorm.md.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from exporter.batchnorm.dtypes import HELD_IN, round_to
from exporter.batchnorm.gate import check_layer
from exporter.batchnorm.stored import PARAMETERS as PARAMETERS
from exporter.batchnorm.stored import Parameters, Stored
from exporter.errors import LayerError, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from exporter.batchnorm.fast import Run

FLOATS = tuple(HELD_IN)  # names of the input types that are used without conversion


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class BatchNorm(Parameters):
    """One BatchNormalization layer (Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167), inference only.

    The constructor checks it: an incomplete or unusable layer raises LayerError. Its arrays are read-only copies.

    Plain numbers suffice: BatchNorm(gamma=[1.5], beta=[0.5], moving_mean=[0.25], moving_variance=[4], epsilon=0.001). Lists and
    numbers become arrays of `dtype`, which defaults to the type of the arrays, or float32; `name` and `shape` are derived from the
    rest.

    path:             unique in its bundle: outer model, wrapper and cell names joined by "/".
    name:             the layer's own name, the last part of `path` unless the name itself contains "/".
    class_name:       as in the model, e.g. "BatchNormalization", "Custom>MyBN".
    axis:             for each dimension of `shape`, the axis of the input that it runs along, as in the model
                      (-1 or 3).
    shape:            shape of each of the parameters; one entry in nearly all models.
    ndim:             rank of the input with its batch axis, or None if the file does not specify it.
    dtype:            "float16", "bfloat16", "float32" or "float64": the type that the parameters are stored in.
    epsilon:          number added to the variance, under the square root.
    momentum:         of the moving average in training (Keras's convention), or None; not used in inference.
    gamma, beta:      arrays of `shape` in `dtype` (bfloat16: float32 arrays of bfloat16 values), or None if the
                      layer has no such parameter (scale=False, center=False).
    moving_mean, moving_variance:  arrays of `shape` in `dtype`.
    called_in_training: the model calls the layer with training=True, so it may normalize by the statistics of the batch.
    calls:            what feeds and follows each call of the layer; () if the file does not specify it. `inputs` and `outputs` are those of
                      the only call, or None if there are several.
    effective_epsilon: what the fused kernel of the TensorFlow that wrote the file used instead of `epsilon`; None: the same.
    assumed:          names of fields that did not come from the file.
    converted:        names of fields that were converted to the standard formula (old versions stored a standard deviation).
    quantized:        how the stored numbers were quantized ("uint8", ...), or None; the values are the dequantized ones.
    """

    path: str = "batch_normalization"
    name: str = ""
    class_name: str = "BatchNormalization"
    axis: tuple[int, ...] = (-1,)
    shape: tuple[int, ...] = ()
    ndim: int | None = None
    dtype: str = ""
    epsilon: float
    momentum: float | None = None
    gamma: NDArray[Any] | None = None
    beta: NDArray[Any] | None = None
    converted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, value in _completed(self).items():
            object.__setattr__(self, field, value)
        Parameters.__post_init__(self)
        check_layer(self.path, shape=self.shape, axis=self.axis, ndim=self.ndim, dtype=self.dtype, epsilon=self.epsilon,
                    effective_epsilon=self.effective_epsilon, parameters=self.parameters())

    @property
    def scale(self) -> NDArray[np.float64]:
        """gamma / sqrt(moving_variance + epsilon), of `shape`: the layer is scale * x + offset."""
        return scale_and_offset(self)[0]

    @property
    def offset(self) -> NDArray[np.float64]:
        """beta - scale * moving_mean, of `shape`."""
        return scale_and_offset(self)[1]

    @property
    def channels(self) -> int:
        """The number of channels: the size of each parameter."""
        return self.moving_mean.size

    @classmethod
    def of(cls, stored: Stored, **changes: Any) -> BatchNorm:
        """The complete layer for one that a file contains, with some fields changed."""
        return cls(**{**dict(zip(_FROM_FILES, _values_of(stored))), **changes})

    def prepare(self, *, axis: int | tuple[int, ...] | None = None, fast: Literal[True, "numba"] = True) -> Prepared:
        """Prepares the layer for many float32 inputs: `y = prepared(x)` and `prepared(x, out)` give what `exporter.evaluate` gives with
        `fast`, bit for bit, but scale and offset are computed only once.

        axis, fast: as in `exporter.evaluate`.

        Raises: UsageError, MissingExtra.
        """
        return Prepared(self, axis, fast)

    def __call__(self, x: ArrayLike, *, axis: int | tuple[int, ...] | None = None, fast: bool | str = False) -> NDArray[Any]:
        """`exporter.evaluate(self, x)`: the layer's output in inference for `x`, an array of any rank."""
        return evaluate(self, x, axis=axis, fast=fast)


def _completed(layer: BatchNorm) -> dict[str, Any]:
    """Converted values of the fields that a caller may omit or give in another form, if they need conversion."""
    given = layer.parameters()
    found: dict[str, Any] = {}
    if not all(isinstance(values, np.ndarray) and values.dtype.kind == "f" for values in given.values()) or not layer.dtype:
        arrays = {name: np.atleast_1d(np.asarray(values)) for name, values in given.items()}
        typed = [values.dtype.name for name, values in arrays.items() if isinstance(given[name], (np.ndarray, np.generic))]
        dtype = layer.dtype or next((name for name in typed if name in FLOATS), "float32")
        found = {"dtype": dtype, **{name: _typed(name, values, dtype, given[name]) for name, values in arrays.items()}}
    if not layer.shape:
        found["shape"] = np.shape(found.get("moving_mean", layer.moving_mean))
    if isinstance(layer.axis, (int, list)):
        found["axis"] = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    if type(layer.epsilon) is not float and isinstance(layer.epsilon, numbers.Real):
        found["epsilon"] = float(layer.epsilon)
    return {**found, **({} if layer.name else {"name": layer.path.rpartition("/")[2]})}


def _typed(name: str, values: NDArray[Any], dtype: str, given: Any) -> NDArray[Any]:
    """The values as an array of `dtype`; an array of another floating point type is returned unchanged, and the gate refuses it."""
    if isinstance(given, (np.ndarray, np.generic)) and values.dtype.name in FLOATS and values.dtype.name != "bfloat16":
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind not in "iufb" and values.dtype.name != "bfloat16":
        raise LayerError(f"{name}: expected numbers, got {values.dtype}")
    return round_to(values.astype(np.float64), dtype) if dtype in HELD_IN else values


_FROM_FILES = tuple({field.name for field in dataclasses.fields(Stored)} & {field.name for field in dataclasses.fields(BatchNorm)})
_values_of = operator.attrgetter(*_FROM_FILES)


def evaluate(layer: BatchNorm, x: ArrayLike, *, axis: int | tuple[int, ...] | None = None, fast: bool | str = False,
             out: NDArray[np.float32] | None = None) -> NDArray[Any]:
    """The output of `layer` in inference for `x`.

    x:    array of any rank that has the layer's channels along its axis. Arrays of float16, bfloat16 (ml_dtypes), float32 and
          float64 are used unchanged, and the result has their type; lists, numbers and integer arrays are converted to the
          layer's dtype first, as Keras does (bfloat16: float32 arrays of bfloat16 values).
    axis: an axis other than the layer's, e.g. 1 for a channels_first input to a layer saved as channels_last.
    fast: True for float32 arithmetic, one multiplication and one addition per number; requires float32 input. "numba": the same
          numbers in one pass, limited by memory bandwidth; needs the extra `numba`, and the first call compiles it.
    out:  with `fast`: float32 array of x's shape for the result; may be `x` itself.

    Error, with u the unit roundoff and a = gamma / sqrt(moving_variance + epsilon): exact, at most one rounding to the result's
    type (plus 2**-50 relative to |a*x| + |a*moving_mean| + |beta|); fast, 8 * 2**-24 * (|a*x| + |a*moving_mean| + |beta|).

    Raises: UsageError if x does not fit the layer, LayerError if x does not have the rank that the layer's axis
    requires, MissingExtra.
    """
    array = _as_input(layer, x)
    if fast not in (False, True, "numba"):
        raise UsageError(f"expected False, True or 'numba' for fast, got {fast!r}")
    if fast:
        return Prepared(layer, axis, "numba" if fast == "numba" else True)(array, out)
    if out is not None:
        raise UsageError("`out` requires fast=True: the exact mode always allocates its result")
    return _exact(layer, array, find_axes(layer, array, axis))


def exact_rows(layer: BatchNorm, x: NDArray[Any]) -> NDArray[np.float64]:
    """The formula in float64, before rounding, for x of shape (rows, *layer.shape)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return formula(wide(layer), x)


Wide = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]


def formula(parts: Wide, x: NDArray[Any]) -> NDArray[np.float64]:
    """`exact_rows` for what `wide` gives."""
    gamma, beta, mean, root = parts
    return gamma * (np.asarray(x, np.float64) - mean) / root + beta


def wide(layer: BatchNorm) -> Wide:
    """(gamma, beta, moving_mean, sqrt(moving_variance + epsilon)) in float64, of layer.shape; an absent gamma is 1, an absent beta 0."""
    gamma = np.ones(layer.shape) if layer.gamma is None else layer.gamma.astype(np.float64)
    beta = np.zeros(layer.shape) if layer.beta is None else layer.beta.astype(np.float64)
    return gamma, beta, layer.moving_mean.astype(np.float64), np.sqrt(layer.moving_variance.astype(np.float64) + layer.epsilon)


def scale_and_offset(layer: BatchNorm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(scale, offset) in float64, of layer.shape, with y = scale * x + offset."""
    gamma, beta, mean, root = wide(layer)
    scale = gamma / root
    return scale, beta - scale * mean


def _as_input(layer: BatchNorm, x: ArrayLike) -> NDArray[Any]:
    if isinstance(x, np.ndarray) and x.dtype.name in FLOATS:
        return x
    array = np.asarray(x)
    if array.dtype.kind not in "iufb":
        raise UsageError(f"expected a numeric input, got type {array.dtype}")
    return round_to(array.astype(np.float64), layer.dtype)


def find_axes(layer: BatchNorm, x: NDArray[Any], axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The axes of `x`, none negative, that the layer's dimensions run along. Raises: see `evaluate`."""
    given = layer.axis if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    if len(given) != len(layer.shape):
        raise UsageError(f"axis {given} does not fit parameters of shape {list(layer.shape)}", where=layer.path)
    if axis is None and layer.ndim not in (None, x.ndim) and max(given) >= 0:
        raise LayerError(f"expected an input of {layer.ndim} dimensions for axis {list(given)}, got {x.ndim}",
                         where=layer.path, hint="give the input's own channel axis with axis= (--axis), e.g. -1")
    for a, size in zip(given, layer.shape):
        if not -x.ndim <= a < x.ndim:
            raise UsageError(f"the layer's axis is {a}, but the input has {x.ndim} dimensions", where=layer.path,
                             hint="give the input's own channel axis with axis=, e.g. axis=-1")
        if x.shape[a] != size:
            raise UsageError(f"expected {size} channels along axis {a} of the input, got {x.shape[a]}", where=layer.path)
    axes = tuple(a % x.ndim for a in given)
    if len(set(axes)) != len(axes):
        raise UsageError(f"axis {list(given)} lists one axis twice", where=layer.path)
    return axes


def broadcast(values: NDArray[Any], axes: tuple[int, ...], ndim: int) -> NDArray[Any]:
    """`values`, whose dimensions run along `axes` of an input of rank `ndim`, shaped to broadcast against it."""
    order = np.argsort(axes)
    shape = [1] * ndim
    for axis, size in zip(axes, values.shape):
        shape[axis] = size
    return values.transpose(order).reshape(shape)


def _exact(layer: BatchNorm, x: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    gamma, beta, mean, root = (broadcast(values, axes, x.ndim) for values in wide(layer))
    with np.errstate(over="ignore", invalid="ignore"):
        y = formula((gamma, beta, mean, root), x)
    if x.dtype.name == "bfloat16":  # ml_dtypes: the conversion through float32 is exact, because the value is already a bfloat16
        return round_to(y, "bfloat16").astype(x.dtype)
    return round_to(y, x.dtype.name)


class _Fit(NamedTuple):
    """What was prepared for inputs of one shape. run: for contiguous inputs, viewed as `outer_channels_inner`; None: no special case.
    scale, offset: shaped to broadcast against other inputs."""

    shape: tuple[int, ...]
    outer_channels_inner: tuple[int, int, int]
    run: Run | None
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]


class Prepared:
    """y = prepared(x): the result of `exporter.evaluate(layer, x, axis=axis, fast=fast)`, bit for bit, without its work per call.

    It caches scale and offset for the latest input shape. Several threads may share one.
    """

    __slots__ = ("_axis", "_compiled", "_fit", "_layer", "_offset", "_scale")

    def __init__(self, layer: BatchNorm, axis: int | tuple[int, ...] | None, fast: Literal[True, "numba"]) -> None:
        if fast not in (True, "numba"):
            raise UsageError(f"expected True or 'numba' for fast, got {fast!r}")
        self._layer, self._axis, self._compiled = layer, axis, fast == "numba"
        self._scale, self._offset = (values.astype(np.float32) for values in scale_and_offset(layer))
        self._fit: _Fit | None = None
        if self._compiled:
            from exporter.batchnorm import compiled

            compiled.loops()  # or MissingExtra, now rather than later

    def __call__(self, x: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The layer's inference for a float32 array of any rank.

        out: float32 array of x's shape for the result; may be `x` itself.

        Raises: UsageError if `x` or `out` does not fit, LayerError if x does not have the rank that the layer's axis requires.
        """
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            kind = getattr(x, "dtype", type(x).__name__)
            raise UsageError(f"expected a float32 input in the fast mode, got {kind}", where=self._layer.path)
        fit = self._fit
        if fit is None or fit.shape != x.shape:
            fit = self._fit = self._fitted(x)
        if out is None:
            out = np.empty(fit.shape, np.float32)
        elif out.shape != fit.shape or out.dtype != np.float32:
            raise UsageError(f"expected `out` to be float32 of shape {x.shape}, got {out.dtype} of shape {out.shape}",
                             where=self._layer.path)
        if fit.run is not None and x.flags.c_contiguous and out.flags.c_contiguous:
            fit.run(x.reshape(fit.outer_channels_inner), out.reshape(fit.outer_channels_inner))
        else:
            np.multiply(x, fit.scale, out=out)
            np.add(out, fit.offset, out=out)
        return out

    def __repr__(self) -> str:
        return f"<Prepared {self._layer.path}>"

    def _fitted(self, x: NDArray[Any]) -> _Fit:
        axes = find_axes(self._layer, x, self._axis)
        scale, offset = (broadcast(values, axes, x.ndim) for values in (self._scale, self._offset))
        if len(axes) > 1 or not x.size:
            return _Fit(x.shape, (0, 0, 0), None, scale, offset)
        channels, inner = len(self._scale), math.prod(x.shape[axes[0] + 1:])
        whole = math.prod(x.shape[:axes[0]]), channels, inner
        if self._compiled:
            from exporter.batchnorm.compiled import written_out
        else:
            from exporter.batchnorm.fast import written_out
        return _Fit(x.shape, whole, written_out(whole, self._scale, self._offset), scale, offset)

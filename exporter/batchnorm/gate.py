"""The gate: what must be true of every layer and bundle. Their constructors call it, so that no invalid one can exist."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import HELD_IN, all_finite
from exporter.errors import FormatError, LayerError, UnsupportedError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.stored import Skipped

AN_EARLIER_ONE = "the training run diverged or the file is damaged; export an earlier checkpoint"
MAX_CHANNELS = 1 << 20
MAX_LAYERS = 100_000
MAX_FLOAT32 = float(np.finfo(np.float32).max)
MAX_NUMBERS = 1 << 24  # in all layers of a model or bundle that is read; about 350 MB as JSON


def check_bundle(paths: Sequence[str], skipped: Sequence[Skipped]) -> None:
    """Refuses a bundle without layers, with too many, or with a path that occurs twice. Raises: UnsupportedError, LayerError."""
    if not paths and not skipped:
        raise UnsupportedError("the model contains no BatchNormalization layer",
                               hint="LayerNormalization, GroupNormalization and similar layers are not batch norms")
    if len(paths) > MAX_LAYERS:
        raise LayerError(f"expected at most {MAX_LAYERS} batch norms, got {len(paths)}")
    if len(set(paths)) != len(paths):
        raise LayerError(f"the path {printable(next(p for p in paths if paths.count(p) > 1))!r} occurs twice")


def check_numbers(count: int) -> None:
    """Refuses more numbers in all layers than any real model has: a few bytes of a file can stand for very many. Raises: FormatError."""
    if count > MAX_NUMBERS:
        raise FormatError(f"expected at most {MAX_NUMBERS} numbers in all batch norms of a model, got more",
                          hint="no real model has a tenth of that; the file is damaged or forged")


def check_layer(path: str, *, shape: tuple[int, ...], axis: tuple[int, ...], ndim: int | None, dtype: str, epsilon: float,
                effective_epsilon: float | None, parameters: Mapping[str, NDArray[Any]]) -> None:
    """Refuses a layer that the formula cannot use. Raises: LayerError."""
    try:
        if dtype not in HELD_IN:
            raise LayerError(f"expected floating point parameters, got type {dtype}")
        _check_geometry(shape, axis, ndim)
        for name, values in parameters.items():
            _check_values(name, values, shape, dtype)
        _check_variance(parameters["moving_variance"], epsilon)
        _check_raised(effective_epsilon, epsilon)
    except LayerError as error:
        raise error.inside(path) from None


def remarks_on(path: str, moving_variance: NDArray[Any]) -> list[str]:
    """Warnings about a valid but unusual layer."""
    worst = int(moving_variance.argmin())
    lowest = float(moving_variance.item(worst))
    return [f"{path}: moving_variance[{worst}] is slightly negative ({lowest:.9g}); epsilon lifts it above 0"] if lowest < 0 else []


def _check_geometry(shape: tuple[int, ...], axis: tuple[int, ...], ndim: int | None) -> None:
    channels = math.prod(shape) if shape else 0
    if not 0 < channels <= MAX_CHANNELS:
        raise LayerError(f"expected 1 to {MAX_CHANNELS} channels, got {channels}")
    if not isinstance(axis, tuple):
        raise LayerError(f"expected axis to be a tuple with one axis for each dimension of the parameters, such as (-1,), got {axis}")
    if len(axis) != len(shape) or len(set(axis)) != len(axis):
        raise LayerError(f"axis {list(axis)} does not fit parameters of shape {list(shape)}")
    rank = 32 if ndim is None else ndim
    for a in axis:
        if not -rank <= a < rank or a in (0, -rank):
            raise LayerError(f"axis {a} does not fit an input of rank {ndim or '2 or more'}; axis 0 is the batch")
    if ndim is not None and len({a % ndim for a in axis}) != len(axis):
        raise LayerError(f"axis {list(axis)} lists one axis twice")


def _check_values(name: str, values: NDArray[Any], shape: tuple[int, ...], dtype: str) -> None:
    if values.shape != shape:
        raise LayerError(f"expected {name} of shape {list(shape)}, got {list(values.shape)}")
    if values.dtype != HELD_IN[dtype]:
        raise LayerError(f"expected {name} of type {dtype}, got {values.dtype}")
    if not all_finite(values):
        channel = int(np.argmin(np.isfinite(values).ravel()))
        value = values.ravel()[channel]
        kind = "NaN (not a number)" if np.isnan(value) else "infinite"
        raise LayerError(f"{name}[{channel}] is {kind}: inference cannot be computed with it", hint=AN_EARLIER_ONE)


def _check_variance(moving_variance: NDArray[Any], epsilon: float) -> None:
    if not isinstance(epsilon, float) or not 0 <= epsilon <= MAX_FLOAT32:
        raise LayerError(f"expected an epsilon of 0 or more that fits float32, got {epsilon}")
    worst = int(moving_variance.argmin())
    lowest = float(moving_variance.item(worst))
    if lowest + epsilon <= 0:
        raise LayerError(f"moving_variance[{worst}] is {lowest:.9g} and epsilon {epsilon:g}: nothing can be divided by the "
                         "root of their sum", hint=AN_EARLIER_ONE)


def _check_raised(effective_epsilon: float | None, epsilon: float) -> None:
    """Fused kernels raise an epsilon that is too small for them; none lowers it."""
    if effective_epsilon is None:
        return
    if not isinstance(effective_epsilon, float) or not effective_epsilon <= MAX_FLOAT32:
        raise LayerError(f"expected an effective_epsilon that fits float32, got {effective_epsilon}")
    if np.float32(effective_epsilon) < np.float32(epsilon):
        raise LayerError(f"expected an effective_epsilon of at least epsilon, {epsilon:g}, got {effective_epsilon:g}: kernels raise "
                         "epsilon and never lower it")

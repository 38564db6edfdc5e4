"""BatchNorm: one layer, as its file stores it. None means that the file does not say."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PARAMETERS = ("gamma", "beta", "moving_mean", "moving_variance")

# What an array of each dtype is held in. NumPy has no bfloat16: its values are exact in float32.
HELD_IN = {"float16": np.float16, "bfloat16": np.float32, "float32": np.float32, "float64": np.float64}

# Unit roundoff (half the distance from 1 to the next number) and smallest normal number of each dtype.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchNorm:
    """One BatchNormalization layer (Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167), inference only.

    path:             unique in its bundle: outer model, wrapper and cell names joined by "/".
    name:             the layer's own name, the last part of `path` unless names themselves hold "/".
    class_name:       as the model has it, e.g. "BatchNormalization", "Custom>MyBN".
    axis:             for each dimension of `shape` the axis of the input it runs along, as the model has it
                      (-1 or 3); None: the file does not say.
    shape:            shape of each of the parameters; one entry in nearly all models.
    ndim:             rank of the input with its batch axis, or None where the file does not say.
    dtype:            "float16", "bfloat16", "float32" or "float64": the type the parameters are stored in.
    epsilon:          number added to the variance, under the root; None: the file does not say.
    momentum:         of the moving average in training (Keras's convention), or None; not used in inference.
    gamma, beta:      arrays of `shape` in `dtype` (bfloat16: float32 arrays of bfloat16 values), or None where the
                      layer has no such parameter (scale=False, center=False).
    moving_mean, moving_variance:  arrays of `shape` in `dtype`.
    statistic:        what `moving_variance` holds: "variance"; or, in some Keras 0.x and 1.0 files, "deviation" (used as
                      s + epsilon) or "variance, epsilon outside" (used as sqrt(v) + epsilon). Only "variance" passes the gate:
                      `dialects.convert` turns the others into it once epsilon is known.
    effective_epsilon: what the fused kernel of the TensorFlow that wrote the file used instead of `epsilon`; None: the same.
    assumed:          names of fields that did not come from the file.
    converted:        names of fields that were converted to the one formula (an era that stored a deviation).
    quantized:        how the stored numbers were quantised ("uint8", ...), or None; the values are the dequantised ones.
    """

    path: str
    name: str
    class_name: str
    axis: tuple[int, ...] | None
    shape: tuple[int, ...]
    ndim: int | None
    dtype: str
    epsilon: float | None
    momentum: float | None
    gamma: NDArray[Any] | None
    beta: NDArray[Any] | None
    moving_mean: NDArray[Any]
    moving_variance: NDArray[Any]
    effective_epsilon: float | None = None
    assumed: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    quantized: str | None = None
    statistic: str = "variance"

    def __post_init__(self) -> None:
        for name in PARAMETERS:
            values = getattr(self, name)
            if values is not None:
                values.flags.writeable = False

    def parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters that the layer has, by name, in the order gamma, beta, moving_mean, moving_variance."""
        return {name: values for name in PARAMETERS if (values := getattr(self, name)) is not None}

    def replace(self, **changes: Any) -> BatchNorm:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __call__(self, x: ArrayLike, *, axis: int | tuple[int, ...] | None = None, fast: bool | str = False) -> NDArray[Any]:
        """`exporter.evaluate(self, x)`: what the layer gives in inference for `x`, an array of any rank."""
        from exporter.batchnorm.formula import evaluate

        return evaluate(self, x, axis=axis, fast=fast)

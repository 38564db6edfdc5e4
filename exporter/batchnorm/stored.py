"""Stored: a batch norm as a file has it, which may say less than a BatchNorm needs."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Layer = TypeVar("_Layer", bound="Parameters")

PARAMETERS = ("gamma", "beta", "moving_mean", "moving_variance")


class Statistic(enum.Enum):
    """What `moving_variance` of a file holds; the others than VARIANCE are of some Keras 0.x and 1.0 (exporter/keras/dialects.py)."""

    VARIANCE = "variance"
    DEVIATION = "deviation"  # used as s + epsilon
    EPSILON_OUTSIDE = "variance, epsilon outside"  # used as sqrt(v) + epsilon


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parameters:
    """What a batch norm has in a file as in a bundle; see BatchNorm."""

    path: str
    name: str
    class_name: str
    shape: tuple[int, ...]
    ndim: int | None
    dtype: str
    momentum: float | None
    gamma: NDArray[Any] | None
    beta: NDArray[Any] | None
    moving_mean: NDArray[Any]
    moving_variance: NDArray[Any]
    effective_epsilon: float | None = None
    assumed: tuple[str, ...] = ()
    quantized: str | None = None
    called_in_training: bool = False

    def __post_init__(self) -> None:
        for name in PARAMETERS:
            values = getattr(self, name)
            if values is not None:
                values.flags.writeable = False

    def parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters that the layer has, by name, in the order gamma, beta, moving_mean, moving_variance."""
        return {name: values for name in PARAMETERS if (values := getattr(self, name)) is not None}

    def replace(self: _Layer, **changes: Any) -> _Layer:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stored(Parameters):
    """A batch norm as a source finds it.

    axis:      as in BatchNorm; None: the file does not say.
    epsilon:   the number that is added to the variance; None: the file does not say.
    statistic: what `moving_variance` holds.
    doubt:     why the model itself does not compute with what is stored; "" where nothing speaks against it. A layer with a doubt is
               read only where the user asks for what is stored.
    """

    axis: tuple[int, ...] | None
    epsilon: float | None
    statistic: Statistic = Statistic.VARIANCE
    doubt: str = ""

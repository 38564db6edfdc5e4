"""Stored: a batch norm as stored in a file, which may contain less than a BatchNorm needs."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from exporter.errors import counted, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.places import Call, Neighbor

_Layer = TypeVar("_Layer", bound="Parameters")
_Any = TypeVar("_Any")

BATCH_NORMS = ("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization")  # Keras's own classes
AFFINE, STATISTICS = ("gamma", "beta"), ("moving_mean", "moving_variance")
PARAMETERS = AFFINE + STATISTICS


class Statistic(enum.Enum):
    """What `moving_variance` of a file contains; only some versions of Keras 0.x and 1.0 store other things than VARIANCE
    (exporter/keras/dialects.py)."""

    VARIANCE = "variance"
    DEVIATION = "deviation"  # used as s + epsilon
    EPSILON_OUTSIDE = "variance, epsilon outside"  # used as sqrt(v) + epsilon


class Skipped(NamedTuple):
    """A batch norm that is in the model but cannot be exported."""

    path: str
    reason: str


def frozen(values: NDArray[Any]) -> NDArray[Any]:
    """A read-only version of the array: backed by bytes, and copied unless it already is. The caller's array is left unchanged."""
    root: Any = values.base
    while type(root) is np.ndarray:
        root = root.base
    if type(root) is memoryview:
        root = root.obj
    if type(root) is bytes or values.size == 0 or values.dtype.hasobject:
        return values
    copy: NDArray[Any] = np.frombuffer(values.tobytes(), values.dtype).reshape(values.shape)
    return copy


def rebuilt(kind: Callable[..., _Any], fields: dict[str, Any]) -> _Any:
    """An object from its fields, for copy and pickle: made by its constructor, so the gate checks it."""
    return kind(**fields)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a is b or ((a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes())
    return type(a) is type(b) and bool(a == b)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Parameters:
    """The fields that a batch norm has both in a file and in a bundle; see BatchNorm. Equal if all fields are, arrays bit for bit."""

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
    calls: tuple[Call, ...] = ()

    def __post_init__(self) -> None:
        held = self.gamma, self.beta, self.moving_mean, self.moving_variance
        bases: set[type] = {type(values.base) for values in held if values is not None}
        for name in PARAMETERS if bases != {bytes} else ():  # as what comes from a file is frozen already
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, frozen(values))

    def __repr__(self) -> str:
        said = {"axis": ",".join(map(str, getattr(self, "axis", None) or ())), "epsilon": getattr(self, "epsilon", None)}
        facts = ", ".join(f"{field} {value}" for field, value in said.items())
        return f"<{type(self).__name__} {printable(self.path, 80)}: {counted(self.moving_mean.size, 'channel')}, {facts}, {self.dtype}>"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self is other or all(_same(getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self))

    def __hash__(self) -> int:
        return hash((self.path, self.shape, self.dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt, (type(self), {field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @property
    def inputs(self) -> tuple[Neighbor, ...] | None:
        """The layers that feed it, if it is called once and the file specifies where; for several calls see `calls`."""
        return self.calls[0].inputs if len(self.calls) == 1 else None

    @property
    def outputs(self) -> tuple[Neighbor, ...] | None:
        """The layers that follow it, likewise."""
        return self.calls[0].outputs if len(self.calls) == 1 else None

    @property
    def is_untouched(self) -> bool:
        """Whether the moving statistics are 0 and 1 in every channel, as in a new layer."""
        return bool((self.moving_mean == 0).all() and (self.moving_variance == 1).all())

    @property
    def is_affine_untouched(self) -> bool:
        """Whether gamma and beta are absent or 1 and 0 in every channel, as in a new layer."""
        return all(values is None or bool((values == start).all()) for values, start in ((self.gamma, 1), (self.beta, 0)))

    @property
    def is_never_updated(self) -> bool:
        """Whether gamma or beta were trained but the moving statistics were not."""
        return self.is_untouched and not self.is_affine_untouched

    def parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters that the layer has, by name, in the order gamma, beta, moving_mean, moving_variance."""
        return {name: values for name in PARAMETERS if (values := getattr(self, name)) is not None}

    def replace(self: _Layer, **changes: Any) -> _Layer:
        """A copy with some fields changed, checked like any bundle."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Stored(Parameters):
    """A batch norm as a source finds it.

    axis:      as in BatchNorm; None: the file does not specify it.
    epsilon:   the number that is added to the variance; None: the file does not contain it.
    statistic: what `moving_variance` contains.
    doubt:     why the model itself may not compute with what is stored, or "". A layer with a doubt is
               read only if the user asks for stored statistics.
    notes:     sentences about it for the user.
    """

    axis: tuple[int, ...] | None
    epsilon: float | None
    statistic: Statistic = Statistic.VARIANCE
    doubt: str = ""
    notes: tuple[str, ...] = ()


class Unusable(NamedTuple):
    """A complete batch norm with numbers that the formula cannot use."""

    layer: Stored
    reason: str

"""Kernel: the kernel of a layer that feeds a batch norm, as stored in a file."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.stored import frozen, rebuilt
from exporter.errors import LayerError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Kernel:
    """The kernel of a layer that feeds one batch norm, and nothing else.

    path, class_name: of the layer, as for a batch norm.
    kind:     one of Keras's own layers: "Dense", "Conv2D", ... (exporter.batchnorm.fold.KINDS).
    channels: the axes of `kernel` that the output channels run along, in order.
    dtype:    as for a batch norm. compute_dtype: the type that the layer computes in, if a policy specifies another one.
    kernel:   as stored; for a separable convolution, the pointwise kernel. bias: of shape (channels,), or None.
    """

    path: str
    class_name: str
    kind: str
    channels: tuple[int, ...]
    dtype: str
    kernel: NDArray[Any]
    bias: NDArray[Any] | None = None
    compute_dtype: str | None = None

    def __post_init__(self) -> None:
        """Raises LayerError if nothing can be folded into this kernel."""
        if self.dtype not in HELD_IN:
            raise LayerError(f"expected a kernel of {', '.join(HELD_IN)}, got {self.dtype}", where=self.path)
        if not self.channels or not all(0 <= axis < self.kernel.ndim for axis in self.channels) or not self.kernel.size:
            raise LayerError(f"a kernel of shape {list(self.kernel.shape)} has no axes {list(self.channels)} of channels", where=self.path)
        for name, values in (("kernel", self.kernel), ("bias", self.bias)):
            if values is None:
                continue
            if values.dtype != HELD_IN[self.dtype]:
                raise LayerError(f"its {name} has type {values.dtype}, the layer {self.dtype}", where=self.path)
            if not np.isfinite(values).all():
                raise LayerError(f"its {name} holds a number that is not finite", where=self.path)
            object.__setattr__(self, name, frozen(values))
        if self.bias is not None and self.bias.shape != (self.count,):
            raise LayerError(f"expected a bias of shape [{self.count}], got {list(self.bias.shape)}", where=self.path)

    @property
    def count(self) -> int:
        """The number of output channels."""
        return int(np.prod([self.kernel.shape[axis] for axis in self.channels]))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt, (type(self), {field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

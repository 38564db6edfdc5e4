"""Makes a Kernel from the weights and config of a layer that feeds a batch norm: with the shapes of the config, or the reason why not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.kernels import Kernel
from exporter.errors import LayerError, UnsupportedError, names, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.keras.kernels import Feeding

MAX_NUMBERS = 1 << 27  # of all kernels of a model: 512 MiB in float32; those of ResNet-152 are 2^26


class Weight(NamedTuple):
    """One stored array. dtype: None if it is not a floating point type. read: returns the values and the name of their type."""

    shape: tuple[int, ...]
    dtype: str | None
    read: Callable[[], tuple[NDArray[Any], str]]


class Kernels:
    """Collects the kernels of a model, at most MAX_NUMBERS numbers in all."""

    def __init__(self) -> None:
        self._numbers = 0

    def kernel(self, feeding: Feeding, weights: Sequence[Weight]) -> Kernel | str:
        """The kernel among the weights of a layer, which are in the order in which Keras saves them; or why it is uncertain.

        Raises: FormatError for damage, UnsupportedError for more numbers than any model has before its batch norms.
        """
        name = printable(feeding.path, 80)
        if len(weights) != len(feeding.roles):
            return f"its config gives {name}, which feeds it, {names(feeding.roles)}, and the file {len(weights)} arrays"
        kernel, bias = weights[feeding.kernel], None if feeding.bias is None else weights[feeding.bias]
        fitting = {layout.channels for layout in feeding.layouts if layout.fits(kernel.shape)}
        if len(fitting) != 1:
            return f"the kernel of {name}, which feeds it, has shape {list(kernel.shape)}, which is not the one of its config"
        channels = fitting.pop()
        count = math.prod(kernel.shape[axis] for axis in channels)
        if bias is not None and bias.shape != (count,):
            return f"the bias of {name}, which feeds it, has shape {list(bias.shape)}, and {count} channels come out"
        dtypes = {kernel.dtype, *([bias.dtype] if bias is not None else [])}
        if len(dtypes) != 1 or kernel.dtype not in HELD_IN:
            return f"the kernel of {name}, which feeds it, is stored as {kernel.dtype or 'integers or another type'}"
        self._numbers += math.prod(kernel.shape) + count
        if self._numbers > MAX_NUMBERS:
            raise UnsupportedError(f"the kernels before its batch norms have more than {MAX_NUMBERS} numbers",
                                   hint="--layers folds some of them; exporter.fold takes any kernel")
        return _read(feeding, channels, kernel, bias)


def _read(feeding: Feeding, channels: tuple[int, ...], kernel: Weight, bias: Weight | None) -> Kernel | str:
    values, dtype = kernel.read()
    added = None if bias is None else bias.read()[0]
    try:
        return Kernel(path=feeding.path, class_name=feeding.node.class_name, kind=feeding.kind, channels=channels, dtype=dtype,
                      kernel=values, bias=added, compute_dtype=feeding.compute_dtype)
    except LayerError as error:
        return f"{printable(feeding.path, 80)}, which feeds it: {error.what}"


def checked(found: dict[str, Kernel | str]) -> dict[str, Kernel | str]:
    """The kernels of a model by the batch norm after each, without those of layers with the same path."""
    paths = [kernel.path for kernel in found.values() if isinstance(kernel, Kernel)]
    twice = {path for path in paths if paths.count(path) > 1} if len(set(paths)) != len(paths) else set()
    same = {norm: f"two layers of the model have the path {printable(kernel.path, 80)}" for norm, kernel in found.items()
            if isinstance(kernel, Kernel) and kernel.path in twice}
    return {**found, **same}

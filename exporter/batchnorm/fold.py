"""fold: a batch norm into the kernel and bias of the layer that feeds it, so that the batch norm itself can go.

A batch norm in inference is y = scale * x + offset for each channel, and a convolution is linear, so that
scale * (kernel * x + bias) + offset = (scale * kernel) * x + (scale * bias + offset) (Jacob et al. 2018, section 3.2,
https://arxiv.org/abs/1712.05877). Whether a model allows it is another question: docs/folding.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from exporter.batchnorm.dtypes import TINY, UNIT
from exporter.batchnorm.layer import BatchNorm, wide
from exporter.errors import LayerError, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Kind(NamedTuple):
    """How Keras lays out the kernel of a class of layers.

    rank: of the kernel. channels: the axes of the kernel that the output channels run along, in their order.
    """

    rank: int
    channels: tuple[int, ...]


KINDS = {
    "Dense": Kind(2, (1,)),                    # (in, out)
    "Conv1D": Kind(3, (2,)),                   # (width, in, out)
    "Conv2D": Kind(4, (3,)),                   # (height, width, in, out)
    "Conv3D": Kind(5, (4,)),
    "Conv1DTranspose": Kind(3, (1,)),          # (width, out, in)
    "Conv2DTranspose": Kind(4, (2,)),          # (height, width, out, in)
    "Conv3DTranspose": Kind(5, (3,)),
    "DepthwiseConv1D": Kind(3, (1, 2)),        # (width, in, multiplier): channel = in * multiplier + which
    "DepthwiseConv2D": Kind(4, (2, 3)),        # (height, width, in, multiplier)
    "SeparableConv1D": Kind(3, (2,)),          # the pointwise kernel: (1, in * multiplier, out)
    "SeparableConv2D": Kind(4, (3,)),
}


class Folded(NamedTuple):
    """kernel: of the shape and type of the one that was folded into. bias: of shape (channels,), of the same type."""

    kernel: NDArray[Any]
    bias: NDArray[Any]


def fold(layer: BatchNorm, kernel: ArrayLike, bias: ArrayLike | None = None, kind: str = "Conv2D") -> Folded:
    """Kernel and bias of the feeding layer with the batch norm in them.

    kernel: in Keras's layout for `kind`, float16, float32 or float64; of a SeparableConv the pointwise kernel.
    bias:   of shape (channels,), or None for use_bias=False; the folded layer has one.
    kind:   the Keras class of the feeding layer, one of KINDS.

    Computed in float64 and rounded once to the kernel's type. What the folded layer gives differs from the exact result by at most
    `bound`; it may not be used where the feeding layer has an activation of its own, or feeds other layers, too (docs/folding.md).

    Raises: UsageError where kernel or bias do not fit the layer, LayerError where a folded number overflows the type.
    """
    layout = KINDS.get(kind)
    if layout is None:
        raise UsageError(f"expected a kind of layer among {', '.join(KINDS)}, got {kind!r}", where=layer.path)
    k = np.asarray(kernel)
    if k.dtype not in (np.float16, np.float32, np.float64):
        raise UsageError(f"expected a kernel of float16, float32 or float64, got {k.dtype}", where=layer.path)
    if k.ndim != layout.rank:
        raise UsageError(f"expected the kernel of a {kind} with {layout.rank} axes, got shape {list(k.shape)}", where=layer.path)
    sizes = [k.shape[axis] for axis in layout.channels]
    channels = layer.channels
    if len(layer.shape) != 1 or int(np.prod(sizes)) != channels:
        raise UsageError(f"expected a kernel with {channels} output channels, got {int(np.prod(sizes))} in shape {list(k.shape)}",
                         where=layer.path)
    b = np.zeros(channels) if bias is None else np.asarray(bias, np.float64)
    if b.shape != (channels,):
        raise UsageError(f"expected a bias of shape [{channels}], got {list(b.shape)}", where=layer.path)
    gamma, beta, mean, root = wide(layer)
    shape = [1] * k.ndim
    for axis, size in zip(layout.channels, sizes):
        shape[axis] = size
    with np.errstate(over="ignore"):
        scaled, moved = k.astype(np.float64) * (gamma / root).reshape(shape), gamma * (b - mean) / root + beta
        folded = Folded(scaled.astype(k.dtype), moved.astype(k.dtype))
    if not (np.isfinite(folded.kernel).all() and np.isfinite(folded.bias).all()):
        raise LayerError(f"a folded number does not fit {k.dtype}", where=layer.path, hint="fold into a kernel of a wider type")
    return folded


def products(kernel: NDArray[Any], kind: str) -> int:
    """How many products one output number of a layer of `kind` sums at most."""
    layout = KINDS[kind]
    return int(np.prod([size for axis, size in enumerate(kernel.shape) if axis not in layout.channels], dtype=np.int64))


def bound(folded: Folded, kind: str, size: NDArray[Any], dtype: str | None = None) -> NDArray[np.float64]:
    """The largest error of a folded layer computed in `dtype` (default: the kernel's), against exact arithmetic on the stored numbers.

    size: the sum of |kernel| * |x| for each output number: what the layer gives for |x| with |folded.kernel| and no bias; its last axis
    are the channels. (n + 3) * u * (size + |bias|) + (n + 1) * tiny for n products; derived in docs/folding.md.
    """
    dtype = dtype or str(folded.kernel.dtype)
    n = products(folded.kernel, kind)
    total: NDArray[np.float64] = (n + 3) * UNIT[dtype] * (np.asarray(size, np.float64) + np.abs(folded.bias.astype(np.float64)))
    return total + (n + 1) * TINY[dtype]

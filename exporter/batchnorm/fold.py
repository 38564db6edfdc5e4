"""fold: merges a batch norm into the kernel and bias of the layer that feeds it, so that the batch norm can be removed.

A batch norm in inference is y = scale * x + offset for each channel, and a convolution is linear, so that
scale * (kernel * x + bias) + offset = (scale * kernel) * x + (scale * bias + offset) (Jacob et al. 2018, section 3.2,
https://arxiv.org/abs/1712.05877). Whether a model allows it is explained in docs/folding.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from exporter.batchnorm.dtypes import TINY, UNIT
from exporter.batchnorm.layer import BatchNorm, wide
from exporter.errors import LayerError, UsageError, printable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from exporter.batchnorm.places import Neighbor


class Kind(NamedTuple):
    """The layout of the kernel of a class of layers.

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


# What Keras 1 called these classes, and what TensorFlow's graphs call what they compute.
ALIASES = {"Convolution1D": "Conv1D", "Convolution2D": "Conv2D", "Convolution3D": "Conv3D", "SeparableConvolution2D": "SeparableConv2D",
           "MatMul": "Dense", "DepthwiseConv2dNative": "DepthwiseConv2D", "Conv2DBackpropInput": "Conv2DTranspose"}

# Keras's layers whose output in inference is their input; Activation only if it is linear.
UNCHANGED = frozenset(("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise", "GaussianDropout",
                       "AlphaDropout", "ActivityRegularization", "Activation"))


class Folded(NamedTuple):
    """kernel: with the shape and type of the original kernel. bias: of shape (channels,), of the same type."""

    kernel: NDArray[Any]
    bias: NDArray[Any]


def fold(layer: BatchNorm, kernel: ArrayLike, bias: ArrayLike | None = None, kind: str = "Conv2D") -> Folded:
    """Folds a batch norm into the kernel and bias of the layer that feeds it.

    kernel: in Keras's layout for `kind`, float16, float32 or float64; for a SeparableConv, the pointwise kernel.
    bias:   of shape (channels,), or None for use_bias=False; the folded layer always has one.
    kind:   the Keras class of the feeding layer, one of KINDS.

    Computed in float64 and rounded once to the kernel's type. The output of the folded layer differs from the exact one by at most
    `bound`. If the layer specifies what feeds it (`layer.inputs`), that must be a layer of this kind, without an activation, that
    feeds nothing else; if it does not, the caller has to make sure of that (docs/folding.md).

    Raises: UsageError if kernel or bias do not fit the layer, LayerError if folding is not allowed or a folded number overflows.
    """
    k, b = _fitting(layer, kernel, bias, kind)
    _check_place(layer, kind)
    gamma, beta, mean, root = wide(layer)
    shape = [size if axis in KINDS[kind].channels else 1 for axis, size in enumerate(k.shape)]
    with np.errstate(over="ignore"):
        scaled, moved = k.astype(np.float64) * (gamma / root).reshape(shape), gamma * (b - mean) / root + beta
        folded = Folded(scaled.astype(k.dtype), moved.astype(k.dtype))
    if not (np.isfinite(folded.kernel).all() and np.isfinite(folded.bias).all()):
        raise LayerError(f"a folded number does not fit {k.dtype}", where=layer.path, hint="fold into a kernel of a wider type")
    return folded


def _fitting(layer: BatchNorm, kernel: ArrayLike, bias: ArrayLike | None, kind: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Kernel and bias, if a layer of this kind that has them can feed the batch norm; otherwise UsageError."""
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
    return k, b


def reason_against(layer: BatchNorm, *, is_chain_known: bool = False) -> str:
    """Why the layer's place or calls do not allow folding it into the layer that feeds it; "": nothing known forbids it.

    is_chain_known: the caller knows what is before a layer of UNCHANGED, which is then nothing against it.
    """
    if layer.called_in_training:
        return "its model calls it with training=True, so that it has no fixed scale and offset"
    if len(layer.shape) != 1:
        return f"it runs along {len(layer.shape)} axes of its input, and a kernel has one axis of channels"
    if len(layer.calls) > 1:
        return f"it is called {len(layer.calls)} times, and the batch norm would have to be folded into every layer that feeds it"
    if not layer.calls:
        return ""
    feeding = layer.calls[0].inputs
    if len(feeding) != 1:
        return "it reads the input of the model" if not feeding else f"{len(feeding)} layers feed it"
    return "" if is_chain_known and may_be_unchanged(feeding[0]) else _reason_of(feeding[0])


def may_be_unchanged(feeding: Neighbor) -> bool:
    """Whether a layer that feeds a batch norm may pass on its input as it is: a layer of UNCHANGED, unless called with training=True."""
    return feeding.class_name in UNCHANGED and feeding.activation is None


def _reason_of(feeding: Neighbor) -> str:
    """Why nothing can be folded into this feeding layer, or ""."""
    name, kind = printable(feeding.path, 80), printable(feeding.class_name, 60)
    if feeding.class_name == "InputLayer":
        return "it reads the input of the model"
    if kind_of(feeding.class_name) is None:
        return f"it is fed by {name} of class {kind}, which has no kernel of a known kind"
    if feeding.activation is not None:
        return f"{name}, which feeds it, applies an activation ({printable(feeding.activation, 40)}) in between"
    if feeding.is_shared:
        return (f"the output of {name}, which feeds it, is used elsewhere, too: it feeds another layer, is an output of the model, or "
                "the layer is called more than once")
    return ""


def kind_of(class_name: str) -> str | None:
    """The kind of a built-in class with a kernel; None for every other class, including a user's class of the same name."""
    name = ALIASES.get(class_name, class_name)
    return name if name in KINDS else None


def _check_place(layer: BatchNorm, kind: str) -> None:
    """Refuses to fold if the layer itself shows that it is not allowed."""
    reason = reason_against(layer)
    found = kind_of(layer.calls[0].inputs[0].class_name) if layer.calls and not reason else kind
    if found != kind:
        raise UsageError(f"expected the kernel of {printable(layer.calls[0].inputs[0].path, 80)}, a {found} that feeds the layer, got "
                         f"kind={kind!r}", where=layer.path)
    if reason:
        raise LayerError(f"it cannot be folded: {reason}", where=layer.path,
                         hint="keep the batch norm; to fold it anyway, remove its place: layer.replace(calls=())")


def products(kernel: NDArray[Any], kind: str) -> int:
    """The maximum number of products that are summed for one output number of a layer of `kind`."""
    layout = KINDS[kind]
    return int(np.prod([size for axis, size in enumerate(kernel.shape) if axis not in layout.channels], dtype=np.int64))


def bound(folded: Folded, kind: str, size: NDArray[Any], dtype: str | None = None) -> NDArray[np.float64]:
    """The largest error of a folded layer computed in `dtype` (default: the kernel's), against exact arithmetic on the stored numbers.

    size: the sum of |kernel| * |x| for each output number: the layer's output for |x| with |folded.kernel| and no bias; its last axis
    is that of the channels. (n + 3) * u * (size + |bias|) + (n + 1) * tiny for n products; derived in docs/folding.md.
    """
    dtype = dtype or str(folded.kernel.dtype)
    n = products(folded.kernel, kind)
    total: NDArray[np.float64] = (n + 3) * UNIT[dtype] * (np.asarray(size, np.float64) + np.abs(folded.bias.astype(np.float64)))
    return total + (n + 1) * TINY[dtype]

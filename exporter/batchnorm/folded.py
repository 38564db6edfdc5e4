"""FoldedModel: a whole model with its batch norms folded into the layers that feed them, where allowed, and the list of those kept."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import TINY, UNIT, round_to
from exporter.batchnorm.fold import reason_against
from exporter.batchnorm.kernels import Kernel
from exporter.batchnorm.layer import BatchNorm, wide
from exporter.errors import UnsupportedError, by_reason, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from exporter.batchnorm.bundle import Bundle
    from exporter.batchnorm.origin import Origin

NO_PLACE = "the file does not specify what feeds it"
GIVE_CONFIG = ("only the config of a functional or Sequential model specifies what feeds a batch norm: give the whole model, or "
               "--architecture; exporter.fold takes any layer and kernel")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class FoldedLayer:
    """A layer with the following batch norm folded into its kernel and bias.

    source:  the original layer: path, class, kind, type. norm: the batch norm, which must be removed from the model.
    kernel, bias: with the shape and type of those in the file; bias has shape (channels,).
    kernel_error, bias_error: the maximum difference from the results of exact arithmetic (docs/folding.md).
    """

    source: Kernel
    norm: BatchNorm
    kernel: NDArray[Any]
    bias: NDArray[Any]
    kernel_error: float
    bias_error: float

    def __repr__(self) -> str:
        return f"<FoldedLayer {printable(self.path, 80)}: {self.source.kind} and {printable(self.norm.path, 80)}>"

    @property
    def path(self) -> str:
        return self.source.path

    @property
    def kernel_name(self) -> str:
        """Keras's name of the array: "kernel", or "pointwise_kernel" for a separable convolution."""
        return "pointwise_kernel" if self.source.kind.startswith("Separable") else "kernel"

    @property
    def products(self) -> int:
        """The number of products summed for one output number: n in docs/folding.md."""
        return self.kernel.size // self.source.count


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FoldedModel:
    """The result of `fold_model`.

    folded:  the layers that a batch norm was folded into, in the order of their batch norms.
    kept:    (batch norm, reason) of each one that cannot be folded, as in the file.
    skipped: (path, reason) of batch norms that the file does not describe well enough, if skipping was requested.
    """

    folded: tuple[FoldedLayer, ...]
    kept: tuple[tuple[BatchNorm, str], ...]
    origin: Origin
    skipped: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, path: str) -> FoldedLayer:
        """The folded layer of this path."""
        found = next((layer for layer in self.folded if layer.path == path), None)
        if found is None:
            raise KeyError(f"no layer {path!r} is folded")
        return found

    def __repr__(self) -> str:
        return f"<FoldedModel {printable(self.origin.file, 80)}: {len(self.folded)} folded, {len(self.kept)} kept>"


def reason_to_keep(layer: BatchNorm, kernels: Mapping[str, Kernel | str]) -> str:
    """Why a batch norm of a model is kept; "" if it can be folded into `kernels[layer.path]`."""
    reason = reason_against(layer, is_chain_known=True)
    if reason:
        return reason
    if layer.quantized is not None:
        return f"its parameters are stored quantized ({printable(layer.quantized, 40)})"
    found = kernels.get(layer.path, NO_PLACE) if layer.calls else NO_PLACE
    if isinstance(found, str):
        return found
    if found.count != layer.channels:
        return f"{printable(found.path, 80)}, which feeds it, has {found.count} output channels, but the batch norm has {layer.channels}"
    if not _fits(layer, found):
        return f"a folded number does not fit {found.dtype}"
    return ""


def remark_on(layers: tuple[BatchNorm, ...], kernels: Mapping[str, Kernel | str]) -> list[str]:
    """A sentence about the batch norms that are kept, if there are any."""
    kept = [(layer.path, reason) for layer in layers if (reason := reason_to_keep(layer, kernels))]
    is_partial = 0 < len(kept) < len(layers)  # if all are kept, folding is an error
    return [f"{len(kept)} of {len(layers)} batch norms cannot be folded and are kept: {by_reason(kept)}"] if is_partial else []


def fold_bundle(bundle: Bundle) -> FoldedModel:
    """The bundle's batch norms folded into its kernels.

    Raises: UnsupportedError if it has none (kernels are not read from this kind of file), or if no batch norm can be folded.
    """
    if bundle.kernels is None:
        raise UnsupportedError(f"nothing can be folded: no kernels are read from this kind of file ({bundle.origin.kind})",
                               hint="--fold reads .h5, .keras, .weights.h5 and SavedModels of Keras; exporter.fold takes any kernel")
    reasons = [reason_to_keep(layer, bundle.kernels) for layer in bundle]
    folded = tuple(_folded(layer, kernel) for layer, reason in zip(bundle, reasons, strict=True)
                   if not reason and isinstance(kernel := bundle.kernels[layer.path], Kernel))
    kept = tuple((layer, reason) for layer, reason in zip(bundle, reasons, strict=True) if reason)
    if not folded:
        said = by_reason([(layer.path, reason) for layer, reason in kept])
        raise UnsupportedError(f"no batch norm of the model can be folded: {said}", hint=GIVE_CONFIG if NO_PLACE in reasons else "")
    return FoldedModel(folded=folded, kept=kept, origin=bundle.origin, skipped=bundle.skipped)


def _folded(layer: BatchNorm, source: Kernel) -> FoldedLayer:
    gamma, beta, mean, root = wide(layer)
    kernel = _scaled(source, gamma / root)
    shifted = gamma * (_bias(source) - mean) / root
    bias = round_to(shifted + beta, source.dtype)
    largest = _largest(kernel)
    return FoldedLayer(source=source, norm=layer, kernel=_closed(kernel), bias=_closed(bias),
                       kernel_error=_error(largest, largest, source.dtype),
                       bias_error=_error(_largest(bias), float((np.abs(shifted) + np.abs(beta)).max()), source.dtype))


def _bias(source: Kernel) -> NDArray[np.float64] | float:
    return 0.0 if source.bias is None else source.bias.astype(np.float64)


def _scaled(source: Kernel, scale: NDArray[np.float64]) -> NDArray[Any]:
    """The kernel times the scale of each output channel, computed in float64 and rounded once."""
    shape = [source.kernel.shape[axis] if axis in source.channels else 1 for axis in range(source.kernel.ndim)]
    if source.dtype == "bfloat16":
        return round_to(source.kernel.astype(np.float64) * scale.reshape(shape), source.dtype)
    rounded = np.empty(source.kernel.shape, source.kernel.dtype)  # in one pass, a buffer at a time, because kernels are large
    np.multiply(source.kernel, scale.reshape(shape), out=rounded, dtype=np.float64, casting="same_kind")
    return rounded


def _largest(values: NDArray[Any]) -> float:
    return float(max(abs(float(values.min())), abs(float(values.max()))))


def _closed(values: NDArray[Any]) -> NDArray[Any]:
    values.setflags(write=False)
    return values


def _error(largest: float, size: float, dtype: str) -> float:
    """The largest error of an array with numbers up to `largest`, computed from numbers up to `size` (docs/folding.md)."""
    unit = UNIT[dtype]
    return unit * (1 + 2 * unit) * largest + 7 * 2.0**-53 * size + unit * TINY[dtype]


def _fits(layer: BatchNorm, source: Kernel) -> bool:
    """Whether no folded number overflows: checks the largest weight of each channel and the biases."""
    others = tuple(axis for axis in range(source.kernel.ndim) if axis not in source.channels)
    largest = np.maximum(source.kernel.max(axis=others), -source.kernel.min(axis=others)).astype(np.float64).ravel()
    gamma, beta, mean, root = wide(layer)
    with np.errstate(over="ignore", invalid="ignore"):
        bias = gamma * (_bias(source) - mean) / root + beta
        folded = [round_to(values, source.dtype) for values in (largest * np.abs(gamma / root), bias)]
    return all(bool(np.isfinite(values).all()) for values in folded)

"""Bundle: the layers of one model and where they came from."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.batchnorm.dtypes import stored_bytes
from exporter.batchnorm.gate import check_bundle
from exporter.batchnorm.layer import PARAMETERS, BatchNorm
from exporter.errors import names

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Bundle = TypeVar("_Bundle", bound="Bundle")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a bundle came from.

    file: name of the model's file or folder, without its path. kind: NAME of the source that read it.
    keras_version, backend, tensorflow_version: as the file says them, or None.
    """

    file: str
    kind: str
    keras_version: str | None = None
    backend: str | None = None
    tensorflow_version: str | None = None

    def writers(self) -> list[str]:
        """What wrote the file, as people say it: ["Keras 2.4.0", "TensorFlow 2.4.1", "tensorflow"], as far as the file says it."""
        return [f"{name}{version}" for name, version in (("Keras ", self.keras_version), ("TensorFlow ", self.tensorflow_version),
                                                         ("", self.backend)) if version]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bundle:
    """The batch norms of one model, in the model's order.

    layers:   each with a `path` of its own; at least one, unless there is something in `skipped`.
    origin:   see Origin.
    skipped:  (path, reason) of those the file does not resolve.
    warnings: sentences for the user, not part of the bundle's content.
    """

    layers: tuple[BatchNorm, ...]
    origin: Origin
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for layer in self.layers:
            if not isinstance(layer, BatchNorm):
                raise TypeError(f"a bundle holds BatchNorm layers, got {type(layer).__name__}")
        check_bundle(self.paths(), self.skipped)

    def __getitem__(self, path: str) -> BatchNorm:
        for layer in self.layers:
            if layer.path == path:
                return layer
        raise KeyError(f"no layer {path!r}; the bundle has {names(self.paths())}")

    def __contains__(self, path: object) -> bool:
        return any(layer.path == path for layer in self.layers)

    def __iter__(self) -> Iterator[BatchNorm]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def paths(self) -> list[str]:
        """The paths of the layers, in the model's order."""
        return [layer.path for layer in self.layers]

    def replace(self: _Bundle, **changes: Any) -> _Bundle:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def remarks(self) -> list[str]:
        """What the user should know about a bundle that is fine: its warnings, other epsilons that a kernel used, what was skipped."""
        remarks = list(self.warnings)
        different = [layer for layer in self.layers if layer.effective_epsilon is not None]
        if different:
            first = different[0]
            remarks.append(
                f"{len(different)} of {len(self)} layers ran in a fused kernel that used epsilon {first.effective_epsilon:g}, not the "
                f"config's {first.epsilon:g} (first: {first.path}); --effective-epsilon writes that value as epsilon")
        return remarks + [f"skipped {path}: {reason}" for path, reason in self.skipped]

    def digest(self) -> str:
        """"sha256:" and the hash of what the layers hold (docs/format.md, "digest"): equal layers, equal digests."""
        import hashlib

        state = hashlib.sha256()
        for layer in self.layers:
            state.update(_identity(layer))
            for name in PARAMETERS:
                values = getattr(layer, name)
                state.update(b"\0" if values is None else b"\1" + stored_bytes(values, layer.dtype))
        return f"sha256:{state.hexdigest()}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReadBack(Bundle):
    """A bundle that was written before, with its test vectors: (input, output) arrays of shape (rows, channels) by path."""

    vectors: Mapping[str, tuple[NDArray[Any], NDArray[Any]]] = dataclasses.field(default_factory=dict)


def _identity(layer: BatchNorm) -> bytes:
    numbers = struct.pack(f"<I{len(layer.axis)}iI{len(layer.shape)}I", len(layer.axis), *layer.axis, len(layer.shape), *layer.shape)
    text = layer.path.encode("utf-8", "surrogatepass") + b"\0" + layer.dtype.encode() + b"\0"
    return text + numbers + struct.pack("<d", layer.epsilon)

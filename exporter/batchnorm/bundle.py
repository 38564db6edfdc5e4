"""Bundle: the layers of one model and where they came from."""

from __future__ import annotations

import dataclasses
import operator
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.batchnorm.dtypes import stored_bytes
from exporter.batchnorm.gate import check_bundle
from exporter.batchnorm.layer import PARAMETERS, BatchNorm
from exporter.batchnorm.origin import Origin as Origin
from exporter.batchnorm.stored import Skipped, Unusable, frozen, rebuilt
from exporter.errors import counted, names, paths_by_reason, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.kernels import Kernel

_Bundle = TypeVar("_Bundle", bound="Bundle")
_Default = TypeVar("_Default")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Bundle:
    """The batch norms of one model, in the model's order: a sequence of layers, and a mapping from paths to layers.

    Two bundles are equal if their layers, origin and skipped are equal, arrays bit for bit. Copies are checked again.

    layers:   at least one, unless `skipped` is not empty; every `path` is unique.
    origin:   see Origin.
    skipped:  path and reason of layers that the file does not describe well enough, and of those that cannot be evaluated.
    unusable: the latter as stored in the file, to list and compare; not part of the bundle's content.
    kernels:  by path, the kernel of the feeding layer, or why there is none; None if kernels were not read. Not part of the content.
    warnings: sentences for the user; not part of the bundle's content.
    """

    layers: tuple[BatchNorm, ...]
    origin: Origin
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    kernels: Mapping[str, Kernel | str] | None = None

    _by_path: dict[str, BatchNorm] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for layer in self.layers:
            if not isinstance(layer, BatchNorm):
                raise TypeError(f"a bundle holds BatchNorm layers, got {type(layer).__name__}")
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "skipped", tuple(Skipped(*each) for each in self.skipped))
        check_bundle(self.paths(), self.skipped)
        object.__setattr__(self, "_by_path", {layer.path: layer for layer in self.layers})

    def __repr__(self) -> str:
        channels = sum(layer.channels for layer in self.layers)
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"<Bundle {printable(self.origin.file, 80)}: {counted(len(self), 'layer')}, {counted(channels, 'channel')}{skipped}>"

    def _repr_html_(self) -> str:
        """The display in a notebook."""
        from exporter.batchnorm.listing import html_table

        return html_table(self.origin, self.layers)

    def _ipython_key_completions_(self) -> list[str]:
        return self.paths()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bundle):
            return NotImplemented
        return (self.origin, self.skipped, self.layers) == (other.origin, other.skipped, other.layers)

    def __hash__(self) -> int:
        return hash((self.origin, self.skipped, self.layers))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt, (type(self), {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init})

    def __getitem__(self, path: str) -> BatchNorm:
        if path not in self:
            raise KeyError(f"no layer {path!r}; the bundle has {names(self.paths())}")
        return self._by_path[path]

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and path in self._by_path

    def __iter__(self) -> Iterator[BatchNorm]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def get(self, path: str, default: _Default = None) -> BatchNorm | _Default:  # type: ignore[assignment]  # as of a dict
        """The layer of this path, or `default`."""
        return self._by_path.get(path, default)

    def keys(self) -> list[str]:
        """The paths of the layers; the same as `paths()`."""
        return self.paths()

    def values(self) -> tuple[BatchNorm, ...]:
        """The layers."""
        return self.layers

    def items(self) -> list[tuple[str, BatchNorm]]:
        """(path, layer) pairs."""
        return [(layer.path, layer) for layer in self.layers]

    def paths(self) -> list[str]:
        """The paths of the layers, in the model's order."""
        return [layer.path for layer in self.layers]

    def replace(self: _Bundle, **changes: Any) -> _Bundle:
        """A copy with some fields changed, checked like any bundle."""
        return dataclasses.replace(self, **changes)

    def remarks(self) -> list[str]:
        """What the user should know about a valid bundle: its warnings, different epsilons that a kernel used, and skipped layers."""
        remarks = list(self.warnings)
        different = [layer for layer in self.layers if layer.effective_epsilon is not None]
        if different:
            first = different[0]
            remarks.append(
                f"{len(different)} of {len(self)} layers ran in a fused kernel that used epsilon {first.effective_epsilon:g}, not the "
                f"config's {first.epsilon:g} (first: {first.path}); --effective-epsilon writes that value as epsilon")
        return remarks + [f"skipped {names(paths)}: {reason}" for reason, paths in paths_by_reason(self.skipped).items()]

    def digest(self) -> str:
        """"sha256:" and the hash of the layers' contents (docs/format.md, "digest"): equal layers have equal digests."""
        return Digest().of(self.layers)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ReadBack(Bundle):
    """A bundle that was read from a file, with its test vectors: (input, output) arrays of shape (rows, channels) by path."""

    vectors: Mapping[str, tuple[NDArray[Any], NDArray[Any]]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        Bundle.__post_init__(self)
        object.__setattr__(self, "vectors", {path: (frozen(x), frozen(y)) for path, (x, y) in self.vectors.items()})


class Digest:
    """The digest of a bundle, to which its layers may be added before all are known."""

    def __init__(self) -> None:
        import hashlib

        self._state = hashlib.sha256()
        self._layers: list[BatchNorm] = []

    def add(self, layers: Iterable[BatchNorm]) -> None:
        """Adds layers that the bundle will probably contain, in this order."""
        for layer in layers:
            self._layers.append(layer)
            self._state.update(_identity(layer))
            for name in PARAMETERS:
                values = getattr(layer, name)
                self._state.update(b"\0" if values is None else b"\1" + stored_bytes(values, layer.dtype))

    def of(self, layers: Sequence[BatchNorm]) -> str:
        """The digest of a bundle with exactly these layers."""
        begun = len(self._layers)
        if begun > len(layers) or not all(map(operator.is_, self._layers, layers)):
            return Digest().of(layers)
        self.add(layers[begun:])
        return f"sha256:{self._state.hexdigest()}"


def _identity(layer: BatchNorm) -> bytes:
    numbers = struct.pack(f"<I{len(layer.axis)}iI{len(layer.shape)}I", len(layer.axis), *layer.axis, len(layer.shape), *layer.shape)
    text = layer.path.encode("utf-8", "surrogatepass") + b"\0" + layer.dtype.encode() + b"\0"
    return text + numbers + struct.pack("<d", layer.epsilon)

"""ReadOptions: what the user adds to the contents of a file."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from exporter.errors import UsageError

if TYPE_CHECKING:
    from exporter.batchnorm.stored import Stored
    from exporter.files.place import Place

MAX_EPSILON = 3.4e38  # what fits float32
# The fields that only some kinds of files have a use for, with their flags; a source lists its own in OPTIONS.
CONDITIONAL = {"architecture": "--architecture", "keras_version": "--keras-version", "backend": "--backend", "ema": "--ema"}


def to_nobody(layer: Stored) -> None:
    """The default listener; a named function, so that options can be sent to another process."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """Information that the user adds to the contents of the file.

    epsilon:           (glob over paths, value) pairs; the last one that matches wins.
    architecture:      a JSON architecture or another model file that contains the config, for weights-only files.
    keras_version:     the version of Keras that wrote the file, if the file does not contain it, e.g. "1.0.5".
    backend:           "tensorflow", "theano", ...: the backend of that Keras.
    ema:               use the exponential moving averages of a TF1 checkpoint: None (as the graph does), "yes" or "no".
    layers:            globs; only layers whose path matches one are exported. Empty: all.
    skip_unresolved:   write the layers that can be resolved and list the others under "skipped".
    effective_epsilon: write the fused kernel's value as `epsilon`.
    stored_statistics: also write layers that their model calls with training=True.
    kernels:           also read the kernels of the layers that feed batch norms, if the model's config specifies them.
    announce:          called by a source with each layer as soon as it is found, so that work on it can start; only the bundle that is
                       returned at the end counts.
    """

    epsilon: tuple[tuple[str, float], ...] = ()
    architecture: Place | None = None
    keras_version: str | None = None
    backend: str | None = None
    ema: str | None = None
    layers: tuple[str, ...] = ()
    skip_unresolved: bool = False
    effective_epsilon: bool = False
    stored_statistics: bool = False
    kernels: bool = False
    announce: Callable[[Stored], object] = to_nobody

    def __post_init__(self) -> None:
        if self.ema not in (None, "yes", "no"):
            raise UsageError(f"ema must be 'yes', 'no' or None, got {self.ema!r}")

    def said(self) -> dict[str, Any]:
        """The options given by the user, by field."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "announce"}

    def inputs(self, place: Place) -> list[Place]:
        """All files that are read for the model at `place`."""
        return [place] if self.architecture is None else [place, self.architecture]

    def epsilon_for(self, path: str) -> float | None:
        """The epsilon that the user gave for this path, or None."""
        given = [value for glob, value in self.epsilon if fnmatch.fnmatchcase(path, glob)]
        return given[-1] if given else None

    def wants(self, path: str) -> bool:
        """Whether `layers` selects this path."""
        return not self.layers or any(fnmatch.fnmatchcase(path, glob) for glob in self.layers)


def epsilon_by_glob(epsilon: float | Mapping[str, float] | None) -> tuple[tuple[str, float], ...]:
    """ReadOptions.epsilon of one value for all layers, or of {glob: value}. Raises UsageError for an invalid epsilon."""
    table = epsilon if isinstance(epsilon, Mapping) else {} if epsilon is None else {"*": epsilon}
    for glob, value in table.items():
        if isinstance(value, str) or not 0 <= float(value) < MAX_EPSILON:
            raise UsageError(f"expected a finite epsilon of 0 or more, got {value!r} for {glob!r}")
    return tuple((glob, float(value)) for glob, value in table.items())

"""read: from a path to a bundle. Finds the source, adds what the user gave, converts old eras."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from exporter.batchnorm.bundle import Bundle, ReadBack
from exporter.batchnorm.layer import BatchNorm
from exporter.errors import FormatError, located
from exporter.files.place import Place
from exporter.files.remote import place_for
from exporter.files.spool import Content, spooled
from exporter.pipeline.finding import quiet, read_unresolved
from exporter.pipeline.resolve import Completion, read_back, resolve
from exporter.sources.shared.options import ReadOptions, epsilon_by_glob

if TYPE_CHECKING:
    from exporter.batchnorm.folded import FoldedModel
    from exporter.pipeline.readers import Asked


class Ahead(Protocol):
    """An output that starts its work before the bundle is complete (exporter/pipeline/write.py)."""

    def prepare(self) -> None: ...

    def layers(self, layers: Sequence[BatchNorm]) -> None: ...


class _Nobody:
    def prepare(self) -> None:
        pass

    def layers(self, layers: Sequence[BatchNorm]) -> None:
        pass


NOBODY = _Nobody()


def read(path: str | os.PathLike[str] | Content, *, epsilon: float | Mapping[str, float] | None = None,
         architecture: str | os.PathLike[str] | None = None, layers: str | Iterable[str] = (), skip_unresolved: bool = False,
         effective_epsilon: bool = False, stored_statistics: bool = False, ema: Literal["yes", "no"] | None = None,
         keras_version: str | None = None, backend: str | None = None, kernels: bool = False, isolated: bool = False) -> Bundle:
    """The batch norms of a model: any file or folder written by Keras or TensorFlow, or a bundle.

    path:              a path, an fsspec URL, the contents of a file (bytes) or a binary file object, which is copied to a temporary file.
    epsilon:           for files that do not contain it: one value, or {glob over paths: value}; the last match wins.
    architecture:      a JSON architecture, or another model file that contains the config, for weights-only files.
    layers:            globs over paths; only layers whose path matches one are read. Empty: all.
    skip_unresolved:   return the layers that can be resolved and list the others in `skipped`.
    effective_epsilon: return as epsilon the value that the fused kernel used (max(epsilon, 1.001e-5) in TensorFlow 1.4 to 2.11).
    stored_statistics: also return layers that the model calls with training=True, which normalize by the batch.
    ema:               use the moving averages of the variables in a TF1 checkpoint: "yes" or "no"; None: as the graph beside it does.
    keras_version:     the version of Keras that wrote a weights file, if the file does not contain it, e.g. "1.0.5".
    backend:           the backend of that Keras ("tensorflow", "theano", "cntk").
    kernels:           also read the kernels of the layers that feed batch norms, which `exporter.write(..., fold=True)` folds.
    isolated:          read in a child process with limits on time and memory, as the command does. Use it for untrusted files: libhdf5
                       can hang or crash on damaged ones. It starts an interpreter; the result is the same.

    Raises: FormatError, UnsupportedError, UnresolvedError, LayerError, UsageError.
    """
    options = ReadOptions(
        epsilon=epsilon_by_glob(epsilon), architecture=None if architecture is None else place_for(architecture),
        layers=(layers,) if isinstance(layers, str) else tuple(layers), skip_unresolved=skip_unresolved,
        effective_epsilon=effective_epsilon, stored_statistics=stored_statistics, ema=ema, keras_version=keras_version, backend=backend,
        kernels=kernels)
    with _placed(path) as place:
        return read_in_child(place, options) if isolated else read_here(place, options)


def fold_model(path: str | os.PathLike[str] | Content, **options: Any) -> FoldedModel:
    """Folds the batch norms of a model into the layers that feed them; lists the batch norms that are kept, with
    the reason. `bn-export MODEL folded.npz --fold` writes the same.

    path:    an .h5, .keras or .weights.h5 file, or a SavedModel of Keras, as in `read`.
    options: those of `read`, e.g. architecture, epsilon, layers, isolated.

    Computed in float64 and rounded once. Raises: as `read`; UnsupportedError if nothing can be folded.
    """
    from exporter.batchnorm.folded import fold_bundle

    return fold_bundle(read(path, kernels=True, **options))


def load(path: str | os.PathLike[str] | Content) -> ReadBack:
    """Reads a bundle (.json and the other formats that contain one) as strictly as docs/format.md requires.

    path: as in `read`.

    Raises: BundleError if it violates the format, FormatError if it is not a bundle at all.
    """
    from exporter.sources import bundle, bundle_arrays

    with _placed(path) as place, located(place.name), quiet():
        source = next((source for source in (bundle, bundle_arrays) if source.claims(place)), None)
        if source is None:
            place.check_exists()
            raise FormatError("this is not a bundle", hint="create a bundle from a model: bn-export MODEL out.json")
        return read_back(source.read(place, ReadOptions()), ReadOptions())


def _placed(path: str | os.PathLike[str] | Content) -> contextlib.AbstractContextManager[Place]:
    return contextlib.nullcontext(place_for(path)) if isinstance(path, (str, os.PathLike)) else spooled(path)


def read_here(place: Place, options: ReadOptions) -> Bundle:
    """`read` in this process, for a Place and ReadOptions."""
    with located(place.name), quiet():
        return resolve(read_unresolved(place, options), options)


def read_in_child(place: Place, options: ReadOptions, *, fork: bool = False, output: Ahead = NOBODY, keep_unusable: bool = False) -> Bundle:
    """`read` in a child process with limits, for a Place and ReadOptions.

    fork:   start the child by fork, which only a single-threaded program may do; it takes a millisecond.
    output: prepares itself while the child reads, and works ahead on each wanted layer; if that stays unchanged,
            the bundle contains the same object.
    keep_unusable: see `resolve`.
    """
    from exporter.pipeline import child

    completion = Completion(options)
    with located(place.name), quiet():
        started = child.start(place, options, fork=fork)
        found = child.finish(started, output.prepare, lambda stored: completion.begin(stored, output.layers))
        return resolve(found, options, completion, keep_unusable=keep_unusable)


def read_in_batch(place: Place, options: ReadOptions, output: Ahead, asked: Asked | None = None) -> Bundle:
    """Like `read_in_child`, but if possible in a child that reads many files: several times cheaper for a small one."""
    from exporter.pipeline.readers import READERS, can_serve

    if not can_serve(place):
        return read_in_child(place, options, fork=threading.active_count() == 1, output=output)
    completion = Completion(options)
    with located(place.name), quiet():
        found = READERS.read(place, options, output.prepare, lambda stored: completion.begin(stored, output.layers), asked)
        return resolve(found, options, completion)

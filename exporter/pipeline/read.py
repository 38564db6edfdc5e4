"""read: from a path to a checked bundle. Finds the source, adds what the user gave, converts old eras, applies the gate."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.layer import BatchNorm
from exporter.errors import ExporterError, FormatError
from exporter.files.place import Place
from exporter.files.remote import place_for
from exporter.pipeline.finding import quiet, read_unresolved
from exporter.pipeline.resolve import resolve
from exporter.sources.shared.options import ReadOptions


def read(path: str | os.PathLike[str], *, epsilon: float | dict[str, float] | None = None,
         architecture: str | os.PathLike[str] | None = None, isolated: bool = False, **options: Any) -> Bundle:
    """The batch norms of a model: any file or folder that Keras or TensorFlow wrote, or a bundle. A path, or a URL of fsspec.

    epsilon:      for files that do not say it: one value, or {glob over paths: value}.
    architecture: a JSON architecture, or another model file that holds the config, for weights-only files.
    isolated:     read in a child process with limits on time and memory, as the command does. For files from strangers: libhdf5 can
                  hang or crash on damaged ones. Costs the start of an interpreter; the result is the same.
    options:      the other fields of exporter.ReadOptions.

    Raises: FormatError, UnsupportedError, UnresolvedError, LayerError, UsageError.
    """
    table = epsilon if isinstance(epsilon, dict) else {} if epsilon is None else {"*": epsilon}
    place = place_for(path)
    given = ReadOptions(epsilon=tuple((glob, float(value)) for glob, value in table.items()),
                    architecture=None if architecture is None else place_for(architecture), **options)
    return read_place(place, given, isolated=isolated)


def load(path: str | os.PathLike[str]) -> Bundle:
    """A bundle that was written before (.json and the other forms that hold one), as strictly as docs/format.md asks.

    Raises: BundleError where it breaks the contract, FormatError where it is no bundle at all.
    """
    place = place_for(path)
    from exporter.sources import bundle, bundle_arrays

    try:
        source = next((source for source in (bundle, bundle_arrays) if source.claims(place)), None)
        if source is None:
            raise FormatError("this is not a bundle", hint="read a model with exporter.read")
        with quiet():
            return resolve(source.read(place, ReadOptions()), ReadOptions())
    except ExporterError as error:
        raise error.inside(place.name) from None


def read_place(place: Place, options: ReadOptions, *, isolated: bool = False, fork: bool = False,
               meanwhile: Callable[[], object] = lambda: None, each: Callable[[BatchNorm], object] = lambda layer: None) -> Bundle:
    """`read`, for a Place and ReadOptions.

    fork:      start the child by fork, which only a program of one thread may do.
    meanwhile: called while the child reads.
    each:      called with each layer that the child has found, before anything has judged it; if it stays as it is, the bundle holds
               this very object.
    """
    try:
        if isolated and (not place.is_local or place.exists()):
            from exporter.pipeline import child as isolation

            found = isolation.finish(isolation.start(place, options, fork=fork), meanwhile, each)
        else:
            found = read_unresolved(place, options)
        with quiet():
            return resolve(found, options)
    except ExporterError as error:
        raise error.inside(place.name) from None

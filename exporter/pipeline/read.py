"""read: from a path to a checked bundle. Finds the source, adds what the user gave, converts old eras, applies the gate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Any

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.gate import check
from exporter.batchnorm.layer import BatchNorm
from exporter.errors import ExporterError, FormatError, UnresolvedError, UsageError, names
from exporter.files.place import Place
from exporter.files.remote import place_for
from exporter.sources import source_for
from exporter.sources.shared.options import ReadOptions

NO_EPSILON = "the file does not say its epsilon"
HOW_TO_GIVE_EPSILON = ("give it with --epsilon 0.001 or --epsilon 'head/*=1e-5' (repeatable), or give the model's config with "
                       "--architecture model.json")


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
        with _quiet():
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
        with _quiet():
            return resolve(found, options)
    except ExporterError as error:
        raise error.inside(place.name) from None


def _quiet() -> contextlib.AbstractContextManager[object]:
    """NaN and overflow in a file are for the gate to judge, with the layer's name, not for a warning of NumPy's."""
    import numpy as np

    return np.errstate(all="ignore")


def read_unresolved(place: Place, options: ReadOptions) -> Bundle:
    """What the source that claims `place` finds there, before anything is added to it."""
    source = source_for(place)  # also for what does not exist: a checkpoint is known by the prefix of its files' names
    if source is None:
        if not place.exists():
            raise FormatError("no such file or folder")
        from exporter.sources.shared.refusals import refuse

        raise refuse(place)
    inputs = [place] if options.architecture is None else [place, options.architecture]
    try:
        with _quiet():
            bundle = source.read(place, options)
    except FormatError:
        from exporter.sources.shared.refusals import check_fetched

        for each in inputs:
            each.check_unchanged()  # the better reasons
            check_fetched(each)
        raise
    for each in inputs:
        each.check_unchanged()
    return bundle


def resolve(bundle: Bundle, options: ReadOptions) -> Bundle:
    """Adds to a source's bundle what the user gave, converts old eras to the one formula, and applies the gate.

    Raises: UnresolvedError for what is still not known, unless `skip_unresolved`; UsageError for an option that names nothing.
    """
    everything = unique_paths(bundle.layers)
    if options.layers and not any(map(options.wants, [*(layer.path for layer in everything), *(path for path, _ in bundle.skipped)])):
        raise UsageError(f"--layers {names(options.layers)} matches none of the batch norms {names(layer.path for layer in everything)}")
    skipped = [(path, reason) for path, reason in bundle.skipped if options.wants(path)]
    layers: list[BatchNorm] = []
    unknown = []
    for layer in everything:
        if not options.wants(layer.path):
            continue
        layer = _with_options(layer, options)
        if layer.epsilon is None:
            unknown.append((layer.path, NO_EPSILON))
        elif layer.axis is None:
            skipped.append((layer.path, f"its parameters have shape {list(layer.shape)} and the file does not say along which axes"))
        else:
            layers.append(_converted(layer))
    _check_globs(options, everything)
    unresolved = [*skipped, *unknown]
    if unresolved and not (options.skip_unresolved and layers) and not bundle.settled:
        raise _unresolved(unresolved, bool(unknown))
    odd = [f"{layer.path}: the file says its epsilon and not its axis; {list(layer.axis or ())} is assumed" for layer in layers
           if "axis" in layer.assumed and "epsilon" not in layer.assumed and not bundle.settled]
    return check(bundle.replace(layers=tuple(layers), skipped=tuple(unresolved), warnings=(*bundle.warnings, *odd)))


def unique_paths(layers: Iterable[BatchNorm]) -> list[BatchNorm]:
    """The layers with paths of their own: the second of one path gets "#2", the third "#3"."""
    layers = list(layers)
    taken = {layer.path for layer in layers}
    seen: set[str] = set()
    result = []
    for layer in layers:
        path, number = layer.path, 2
        while path in seen:
            path, number = f"{layer.path}#{number}", number + 1
            if path in taken and path not in seen:
                continue
        seen.add(path)
        result.append(layer if path == layer.path else layer.replace(path=path))
    return result


def _with_options(layer: BatchNorm, options: ReadOptions) -> BatchNorm:
    given = options.epsilon_for(layer.path)
    assumed = list(layer.assumed)
    if layer.epsilon is None and given is not None:
        layer = layer.replace(epsilon=given, assumed=(*assumed, "epsilon"))
    if layer.axis is None and len(layer.shape) == 1:
        layer = layer.replace(axis=(-1,), assumed=(*layer.assumed, "axis"))
    if options.effective_epsilon and layer.effective_epsilon is not None:
        layer = layer.replace(epsilon=layer.effective_epsilon, effective_epsilon=None)
    return layer


def _converted(layer: BatchNorm) -> BatchNorm:
    if layer.statistic == "variance":
        return layer
    from exporter.keras import dialects

    converted: BatchNorm = dialects.convert(layer)
    return converted


def _check_globs(options: ReadOptions, layers: list[BatchNorm]) -> None:
    import fnmatch

    for glob, _ in options.epsilon:
        if glob != "*" and not any(fnmatch.fnmatchcase(layer.path, glob) for layer in layers):
            raise UsageError(f"--epsilon {glob!r} matches none of the batch norms {names(layer.path for layer in layers)}")


def _unresolved(layers: list[tuple[str, str]], epsilon: bool) -> ExporterError:
    hints = [HOW_TO_GIVE_EPSILON] if epsilon else []
    hints.append("--skip-unresolved writes the rest and lists these")
    return UnresolvedError(layers, hint="; ".join(hints))



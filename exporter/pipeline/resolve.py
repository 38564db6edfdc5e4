"""From what a source found to a checked bundle: adds what the user gave, converts old eras to the one formula, applies the gate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.gate import check
from exporter.batchnorm.layer import BatchNorm
from exporter.errors import ExporterError, UnresolvedError, UsageError, names
from exporter.sources.shared.options import ReadOptions

NO_EPSILON = "the file does not say its epsilon"
HOW_TO_GIVE_EPSILON = ("give it with --epsilon 0.001 or --epsilon 'head/*=1e-5' (repeatable), or give the model's config with "
                       "--architecture model.json")


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
    doubtful = False
    for layer in everything:
        if not options.wants(layer.path):
            continue
        layer = _with_options(layer, options)
        if layer.epsilon is None:
            unknown.append((layer.path, NO_EPSILON))
        elif layer.axis is None:
            skipped.append((layer.path, f"its parameters have shape {list(layer.shape)} and the file does not say along which axes"))
        elif layer.doubt and not options.stored_statistics:
            skipped.append((layer.path, layer.doubt))
            doubtful = True
        else:
            layers.append(_converted(layer))
    _check_globs(options, everything)
    unresolved = [*skipped, *unknown]
    if unresolved and not (options.skip_unresolved and layers) and not bundle.settled:
        raise _unresolved(unresolved, unknown=bool(unknown), doubtful=doubtful)
    odd = [f"{layer.path}: the file does not say along which axis of its input it runs; {list(layer.axis or ())} is assumed"
           for layer in layers if "axis" in layer.assumed and "epsilon" not in layer.assumed and not bundle.settled]
    called = [] if bundle.settled else list(_about_calls(layers))
    layers = [layer.replace(doubt="") if layer.doubt else layer for layer in layers]
    return check(bundle.replace(layers=tuple(layers), skipped=tuple(unresolved), warnings=(*bundle.warnings, *odd, *called)))


def _about_calls(layers: Iterable[BatchNorm]) -> Iterator[str]:
    """What to know of layers that their model calls with training=True, once for all of a kind."""
    called = [layer for layer in layers if layer.called_in_training]
    for obeyed, meaning in ((True, "the model's own predict() normalizes by the statistics of the batch, not by these stored ones"),
                            (False, "Keras 3's predict() overrides that and uses the stored statistics, which are the ones written; "
                                    "model(x) and export() normalize by the batch")):
        paths = [layer.path for layer in called if bool(layer.doubt) == obeyed]
        if paths:
            yield f"{names(paths)}: called with training=True: {meaning}"


def unique_paths(layers: Iterable[BatchNorm]) -> list[BatchNorm]:
    """The layers with paths of their own: the second of one path gets "#2", the third "#3"; what another layer is called is passed over."""
    layers = list(layers)
    taken = {layer.path for layer in layers}
    last: dict[str, int] = {}  # by path the number that its latest copy has
    result = []
    for layer in layers:
        path = layer.path
        if path in last:
            number = last[path] + 1
            while f"{path}#{number}" in taken:
                number += 1
            last[path] = number
            layer = layer.replace(path=f"{path}#{number}")
        else:
            last[path] = 1
        result.append(layer)
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


def _unresolved(layers: list[tuple[str, str]], *, unknown: bool, doubtful: bool) -> ExporterError:
    hints = [HOW_TO_GIVE_EPSILON] if unknown else []
    hints += ["--stored-statistics writes what is stored of them all the same"] if doubtful else []
    hints.append("--skip-unresolved writes the rest and lists these")
    return UnresolvedError(layers, hint="; ".join(hints))

"""From what a source found to a bundle: adds what the user gave, and converts old eras to the standard formula."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from exporter.batchnorm.alike import of_run, runs
from exporter.batchnorm.bundle import Bundle, ReadBack
from exporter.batchnorm.gate import remarks_on
from exporter.batchnorm.layer import BatchNorm
from exporter.batchnorm.stored import Parameters, Skipped, Statistic, Stored, Unusable
from exporter.errors import ExporterError, LayerError, UnresolvedError, UnsupportedError, UsageError, by_reason, names, paths_by_reason
from exporter.pipeline.hints import hint, no_epsilon
from exporter.sources.shared.found import Found, Remedy
from exporter.sources.shared.options import ReadOptions

_Layer = TypeVar("_Layer", bound=Parameters)


class Completion:
    """Completes the layers that a source found with what the user gave, each once."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._made: dict[int, tuple[Stored, BatchNorm]] = {}  # by id: thousands may have one path, and so one hash

    def layer(self, stored: Stored) -> BatchNorm | None:
        """The layer, converted to the standard formula; None if its epsilon or axis is still unknown, or there is a doubt about it.

        Raises: LayerError if the formula cannot use it.
        """
        if id(stored) not in self._made:
            known = self._with_options(stored)
            if not self._is_complete(known):
                return None
            self._made[id(stored)] = stored, _converted(known)
        return self._made[id(stored)][1]

    def begin(self, layers: Sequence[Stored], each: Callable[[list[BatchNorm]], object]) -> None:
        """Calls `each` with these layers, long before all are known, but without those with a known problem."""
        pairs = [(stored, self._with_options(stored)) for stored in layers if self._options.wants(stored.path)]
        pairs = [pair for pair in pairs if self._is_complete(pair[1])]
        left = iter([stored for stored, _ in pairs])
        for run in runs(known for _, known in pairs):
            same = list(itertools.islice(left, len(run)))
            try:
                made = of_run(run) if run[0].statistic is Statistic.VARIANCE else [_converted(known) for known in run]
                self._made |= {id(stored): (stored, layer) for stored, layer in zip(same, made)}
            except ExporterError:  # of one of them; `resolve` handles it again later, when a better error may be known
                for stored in same:
                    with contextlib.suppress(ExporterError):
                        self.layer(stored)
        if begun := [self._made[id(stored)][1] for stored, _ in pairs if id(stored) in self._made]:
            each(begun)

    def unusable(self, stored: Stored, error: LayerError) -> Unusable:
        """A layer that `layer` refused, with what the user gave."""
        return Unusable(self._with_options(stored), error.what)

    def has_epsilon(self, stored: Stored) -> bool:
        """Whether the file or the user gives its epsilon."""
        return stored.epsilon is not None or self._options.epsilon_for(stored.path) is not None

    def is_refused(self, stored: Stored) -> bool:
        """Whether its axis is known, but there is a doubt that the user did not override."""
        return bool(stored.doubt) and not self._options.stored_statistics and (stored.axis is not None or len(stored.shape) == 1)

    def _is_complete(self, stored: Stored) -> bool:
        return stored.epsilon is not None and stored.axis is not None and not self.is_refused(stored)

    def _with_options(self, stored: Stored) -> Stored:
        options = self._options
        if stored.epsilon is None and (given := options.epsilon_for(stored.path)) is not None:
            stored = stored.replace(epsilon=given, assumed=(*stored.assumed, "epsilon"))
        if stored.axis is None and len(stored.shape) == 1:
            stored = stored.replace(axis=(-1,), assumed=(*stored.assumed, "axis"))
        if options.effective_epsilon and stored.effective_epsilon is not None:
            stored = stored.replace(epsilon=stored.effective_epsilon, effective_epsilon=None)
        return stored


def resolve(found: Found | ReadBack, options: ReadOptions, completion: Completion | None = None, *, keep_unusable: bool = False) -> Bundle:
    """Adds what the user gave to what a source found, and converts old eras to the standard formula.

    keep_unusable: do not refuse layers that the formula cannot use: they are in `skipped` and `unusable`, for listing and comparing.

    Raises: UnresolvedError for what is still unknown, unless `skip_unresolved`; UsageError for an option that matches nothing;
    UnsupportedError, LayerError from the gate.
    """
    if isinstance(found, ReadBack):
        return read_back(found, options)
    everything = unique_paths(found.layers)
    _check_globs(options, everything, found.skipped)
    if completion is None:
        completion = Completion(options)
        completion.begin(everything, lambda layers: None)
    what = _Sorted(found, [each for each in found.skipped if options.wants(each.path)])
    for stored in everything:
        if options.wants(stored.path):
            what.take(stored, completion)
    layers = what.accepted(options, keep_unusable)
    odd = [f"{layer.path}: the file does not say for certain which axis it normalizes; {list(layer.axis)} is assumed"
           for layer in layers if "axis" in layer.assumed and "epsilon" not in layer.assumed]
    warnings = (*found.warnings, *odd, *_about_calls(what.kept), *_once(what.kept), *_remarks(layers), *_about_updates(layers),
                *_about_epsilon(what.kept, options))
    if found.kernels is not None:
        from exporter.batchnorm.folded import remark_on

        warnings = (*warnings, *remark_on(tuple(layers), found.kernels))
    return Bundle(layers=tuple(layers), origin=found.origin, warnings=warnings, kernels=found.kernels,
                  skipped=(*what.skipped, *what.unknown, *_pairs(what.unusable)), unusable=tuple(each for each, _ in what.unusable))


@dataclasses.dataclass
class _Sorted:
    """The layers that were found, sorted by outcome.

    skipped: layers that cannot be exported, including doubtful ones. kept: `layers` as stored. unknown: those without an epsilon.
    """

    found: Found
    skipped: list[Skipped]
    layers: list[BatchNorm] = dataclasses.field(default_factory=list)
    kept: list[Stored] = dataclasses.field(default_factory=list)
    unknown: list[Skipped] = dataclasses.field(default_factory=list)
    unusable: list[tuple[Unusable, LayerError]] = dataclasses.field(default_factory=list)
    doubtful: bool = False

    def take(self, stored: Stored, completion: Completion) -> None:
        """Adds a layer to the right list."""
        try:
            layer = completion.layer(stored)
        except LayerError as error:
            self.unusable.append((completion.unusable(stored, error), error))
            return
        if layer is not None:
            self.layers.append(layer)
            self.kept.append(stored)
        elif not completion.has_epsilon(stored):
            self.unknown.append(Skipped(stored.path, no_epsilon(self.found.own_classes)))
        elif completion.is_refused(stored):
            self.skipped.append(Skipped(stored.path, stored.doubt))
            self.doubtful = True
        else:
            self.skipped.append(Skipped(stored.path, f"its parameters have shape {list(stored.shape)}, and the file does not specify along "
                                                     "which axes"))
            self.found.remedies[stored.path] = Remedy.ARCHITECTURE

    def accepted(self, options: ReadOptions, keep_unusable: bool) -> list[BatchNorm]:
        """The layers that are exported. Raises the error for others, where the options do not allow to leave them out."""
        found, layers, unresolved = self.found, self.layers, [*self.skipped, *self.unknown]
        refused = [] if keep_unusable or (options.skip_unresolved and layers) else self.unusable
        if unresolved and not (options.skip_unresolved and (layers or (keep_unusable and self.unusable))):
            remedies = [remedy for path, remedy in found.remedies.items() if options.wants(path)]
            raise UnresolvedError([*unresolved, *_pairs(refused)], hint=hint(
                options, epsilon=bool(self.unknown), classes=found.own_classes, remedies=remedies, doubtful=self.doubtful,
                rest=bool(layers), has_config=found.has_config))
        if refused:
            raise _cannot_be_used(refused, rest=bool(layers))
        if not (layers or unresolved or self.unusable) and found.left_out:
            raise UnsupportedError(f"none of the layers is certain to be a BatchNormalization: {by_reason(found.left_out)}",
                                   hint="" if found.has_config else "give the model's config with --architecture, or export the whole "
                                   "model")
        return layers


def _pairs(unusable: Sequence[tuple[Unusable, LayerError]]) -> list[Skipped]:
    return [Skipped(each.layer.path, each.reason) for each, _ in unusable]


def _cannot_be_used(unusable: Sequence[tuple[Unusable, LayerError]], *, rest: bool) -> LayerError:
    """The error for known layers from which inference cannot be computed."""
    hints = [*dict.fromkeys(error.hint for _, error in unusable if error.hint), *(["--skip-unresolved writes the rest"] if rest else [])]
    if len(unusable) == 1:
        ((_, only),) = unusable
        return only.replace(hint="; ".join(hints))
    return LayerError(f"{len(unusable)} batch norms cannot be used: {by_reason(_pairs(unusable))}", hint="; ".join(hints))


def _once(layers: Iterable[Stored]) -> Iterator[str]:
    """The notes of sources about layers, each sentence once with its layers."""
    found = paths_by_reason((layer.path, note) for layer in layers for note in layer.notes)
    yield from (f"{names(paths)}: {note}" for note, paths in found.items())


def _about_calls(layers: Iterable[Stored]) -> Iterator[str]:
    """Warnings about layers that their model calls with training=True, once for all of a kind."""
    called = [layer for layer in layers if layer.called_in_training]
    for obeyed, meaning in ((True, "the model's own predict() normalizes by the statistics of the batch, not by these stored ones"),
                            (False, "predict() of Keras 3 overrides that and uses the stored statistics, which are exported; "
                                    "model(x) and export() normalize by the batch")):
        paths = [layer.path for layer in called if bool(layer.doubt) == obeyed]
        if paths:
            yield f"{names(paths)}: called with training=True: {meaning}"


def _about_updates(layers: Iterable[BatchNorm]) -> Iterator[str]:
    paths = [layer.path for layer in layers if layer.is_never_updated]
    if paths:
        yield (f"{names(paths)}: the moving statistics are still 0 and 1, as in a new layer, although gamma or beta were trained: "
               "they were never updated in training, or not saved")


def read_back(bundle: ReadBack, options: ReadOptions) -> ReadBack:
    """A bundle that was read back, with the user's options applied. What it skips was accepted when it was made."""
    _check_globs(options, bundle.layers, bundle.skipped)
    layers = [layer for layer in bundle.layers if options.wants(layer.path)]
    about_epsilon = [*_about_epsilon(layers, options)]
    if options.effective_epsilon:
        layers = [layer if layer.effective_epsilon is None else layer.replace(epsilon=layer.effective_epsilon, effective_epsilon=None)
                  for layer in layers]
    skipped = [(path, reason) for path, reason in bundle.skipped if options.wants(path)]
    return bundle.replace(layers=tuple(layers), skipped=tuple(skipped), warnings=(*bundle.warnings, *_remarks(layers), *about_epsilon))


def _about_epsilon(layers: Iterable[Stored | BatchNorm], options: ReadOptions) -> Iterator[str]:
    """A given epsilon never replaces the one of the file. Who gives another one takes the layer for a different one."""
    unused = [(layer.path, layer.epsilon) for layer in layers if options.epsilon and "epsilon" not in layer.assumed
              and layer.epsilon is not None and (given := options.epsilon_for(layer.path)) is not None
              and not math.isclose(given, layer.epsilon, rel_tol=1e-7)]  # graphs contain it as float32
    if unused:
        yield (f"{names(path for path, _ in unused)}: the file contains another epsilon than the one given with --epsilon, "
               f"which is not used: {names(map(repr, dict.fromkeys(value for _, value in unused)))}")


def _remarks(layers: Iterable[BatchNorm]) -> list[str]:
    return [remark for layer in layers for remark in remarks_on(layer.path, layer.moving_variance)]


def unique_paths(layers: Iterable[_Layer]) -> list[_Layer]:
    """The layers with unique paths: the second one with the same path gets "#2", the third "#3"; names that another layer already has are
    not used."""
    layers = list(layers)
    taken = {layer.path for layer in layers}
    last: dict[str, int] = {}  # the number of the latest copy of each path
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


def _converted(stored: Stored) -> BatchNorm:
    if stored.statistic is Statistic.VARIANCE:
        return BatchNorm.of(stored)
    from exporter.keras import dialects

    return dialects.convert(stored)


def _check_globs(options: ReadOptions, layers: Sequence[Parameters], skipped: Sequence[tuple[str, str]]) -> None:
    """Refuses globs that match nothing: they are mistyped."""
    paths = [layer.path for layer in layers]
    if options.layers and not any(map(options.wants, [*paths, *(path for path, _ in skipped)])):
        raise _unmatched("--layers", names(options.layers), options.layers, paths)
    for glob, _ in options.epsilon:
        if glob != "*" and not any(fnmatch.fnmatchcase(path, glob) for path in paths):
            raise _unmatched("--epsilon", repr(glob), [glob], paths)


def _unmatched(option: str, shown: str, globs: Iterable[str], paths: Sequence[str]) -> UsageError:
    wider = next((each for glob in globs for each in (f"{glob}/*", f"*/{glob}") if any(fnmatch.fnmatchcase(path, each) for path in paths)),
                 None)
    return UsageError(f"{option} {shown} matches none of the batch norms {names(paths)}",
                      hint=f"a glob matches the whole path: give {wider!r}" if wider else "")

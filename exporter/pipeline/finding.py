"""The contents of a file before anything is added: read by the source that claims it."""

from __future__ import annotations

import contextlib

from exporter.batchnorm.bundle import ReadBack
from exporter.errors import FormatError, located
from exporter.files.place import Place
from exporter.sources import Source, source_for
from exporter.sources.shared.found import Found
from exporter.sources.shared.options import CONDITIONAL, ReadOptions


def read_unresolved(place: Place, options: ReadOptions) -> Found | ReadBack:
    """The result of the source that claims `place`, before anything is added."""
    source = source_for(place)  # also if it does not exist: a checkpoint is given by the prefix of its files' names
    if source is None:
        place.check_exists()
        return _read_inside(place, options)
    return _read_as(source, place, options)


def _read_inside(place: Place, options: ReadOptions) -> Found:
    """The contents of the only model in a folder or archive."""
    from exporter.pipeline.inside import one_model
    from exporter.sources.shared.refusals import refuse

    with one_model(place) as found:
        if found is None:
            raise refuse(place)
        path, inner, source = found
        with located(path):
            answer = _read_as(source, inner, options)
    assert isinstance(answer, Found)  # bundles are not searched for
    answer.warnings.insert(0, f"{path} is the model in {place.name} and is read")
    return answer


def _read_as(source: Source, place: Place, options: ReadOptions) -> Found | ReadBack:
    inputs = options.inputs(place)
    if options.architecture is not None:
        options.architecture.check_exists()  # whether or not this source uses it
    try:
        with quiet():
            found = source.read(place, options)
    except FormatError:
        from exporter.sources.shared.refusals import check_fetched

        for each in inputs:
            each.check_unchanged()  # these errors have better reasons
            check_fetched(each)
        raise
    for each in inputs:
        each.check_unchanged()
    if isinstance(found, Found):
        _note_unused(source, options, found)
    return found


def _note_unused(source: Source, options: ReadOptions, found: Found) -> None:
    """Warns of options that this kind of file has no use for."""
    for field, flag in CONDITIONAL.items():
        if getattr(options, field) is not None and field not in source.OPTIONS:
            found.warn(f"{flag} has no effect: it does not apply to this kind of file ({source.NAME})")


def quiet() -> contextlib.AbstractContextManager[object]:
    """Silences NumPy's warnings about NaN and overflow in a file: the gate reports them, with the layer's name."""
    import numpy as np

    return np.errstate(all="ignore")

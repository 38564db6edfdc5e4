"""How a model calls its layers, from the calls that a config records, and what that implies for the layers inside.

    Keras 1      [[["conv", 0, 0]]]                                   no arguments
    Keras 2      [[["conv", 0, 0, {"training": 1}]]]                  tf.keras, tf_keras and TensorFlow.js likewise
    Keras 3      [{"args": [tensor], "kwargs": {"training": true}}]

A call with training=True normalizes by the statistics of the batch. Measured with Keras 2.2.5, tf_keras 2.21 and Keras 3.15: up to
Keras 2 predict() obeys the call; Keras 3's predict() overrides it, and only model(x) and export() obey. An argument that is omitted or
null is inherited from the call of the model or wrapper around the layer. Up to Keras 2 a given argument has priority; in Keras 3 the
outer one has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """The effect of the models and wrappers around a layer, and of its own calls.

    training:   True if one of the calls has training=True, False if all have training=False, None if none specifies it.
    is_keras_3: whether the config that specifies it is Keras 3's.
    added_axes: the number of axes of the model's tensor that wrappers iterate over, so that the layer itself does not have them.
    notes:      sentences about the effect of wrappers on it.
    """

    training: bool | None = None
    is_keras_3: bool = False
    added_axes: int = 0
    notes: tuple[str, ...] = ()

    def called(self, entry: dict[str, Any]) -> Surroundings:
        """The surroundings, extended by the calls in a layer's entry, which apply to the layer and everything in it."""
        calls = calls_of(entry)
        said = [_training(call) for call in calls]
        if not said or set(said) == {None}:
            return self
        is_keras_3 = any(map(_is_keras_3, calls))
        if is_keras_3 and self.training is not None:
            return self
        each = [self.training if value is None else value for value in said]
        return dataclasses.replace(self, training=True if True in each else None if None in each else False, is_keras_3=is_keras_3)

    def noted(self, note: str) -> Surroundings:
        """The surroundings with one more sentence, unless it is "" or known."""
        return dataclasses.replace(self, notes=(*self.notes, note)) if note and note not in self.notes else self

    def inside(self, class_name: str, role: str) -> Surroundings:
        """The surroundings of the layer that a wrapper of this class has under this key of its config; "" for a model, which adds
        nothing."""
        goes_over_time = class_name == "TimeDistributed" or (role in ("cell", "cells") and class_name != "StackedRNNCells")
        return dataclasses.replace(self, added_axes=self.added_axes + 1) if goes_over_time else self


NOTHING_AROUND = Surroundings()
# Keras's own layers whose call has training=True as its default in some version of Keras 3.
ON_BY_DEFAULT = frozenset((
    "AugMix", "AutoContrast", "CenterCrop", "ContrastLimitedAdaptiveHistogramEqualization", "CutMix", "Equalization",
    "MaxNumBoundingBoxes", "MixUp", "Pipeline", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter",
    "RandomContrast", "RandomCrop", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale",
    "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness",
    "RandomShear", "RandomTranslation", "RandomZoom", "Resizing", "Solarization"))
NESTED = frozenset((dict, list))


def input_tensors(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The configs of the input tensors of a layer's first call (Keras 3)."""
    found: list[dict[str, Any]] = []
    if isinstance(call := _first(entry), dict):
        _add_tensors(call, found)
    return found


def input_names(entry: dict[str, Any], tensors: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The sibling layers that feed a layer's calls; tensors: see input_tensors."""
    call = _first(entry)
    if isinstance(call, dict):
        histories = [tensor.get("keras_history") for tensor in tensors]
    else:  # Keras 1 and 2: [[name, node, tensor], ...], or one such triple
        histories = call if isinstance(call, list) and not (call and isinstance(call[0], str)) else [call]
    names = tuple(history[0] for history in histories if isinstance(history, list) and history and isinstance(history[0], str))
    more = calls_of(entry)[1:]
    return (*names, *(name for later in more for name, _, _ in references(later))) if more else names


def references(value: Any) -> list[tuple[str, int, int]]:
    """(layer, number of its call, number of the tensor) of each tensor that a call reads, or that is an input or output of a model.

    Those of a dict are in the order of its keys, in which Keras numbers them.
    """
    if _is_plain(value):
        name, call, tensor, _ = value[0]
        return [(name, call, tensor)]
    found: list[tuple[str, int, int]] = []
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            config = value.get("config") if value.get("class_name") == "__keras_tensor__" else None
            value = config.get("keras_history") if isinstance(config, dict) else [value[key] for key in sorted(value)]
            if isinstance(value, dict):
                value = [value]
        if not isinstance(value, list):
            continue
        if len(value) > 2 and isinstance(value[0], str) and type(value[1]) is int and type(value[2]) is int:
            found.append((value[0], value[1], value[2]))
            if len(value) == 3:
                continue
            value = value[3:4]
        for part in reversed(value):
            if type(part) in NESTED and part:
                waiting.append(part)  # a list of the few that there are takes longer
    return found


def keys_given(call: Any) -> list[str] | None:
    """The keys of the dict of tensors that a call passes, in the order of `references`; None if it passes something else."""
    given = next(iter(call["args"]), None) if _is_keras_3(call) and isinstance(call["args"], list) else call
    return sorted(given) if isinstance(given, dict) and "class_name" not in given else None


def calls_of(entry: dict[str, Any]) -> list[Any]:
    """The calls of a layer in the model that contains it, from its entry."""
    calls = entry.get("inbound_nodes")
    return calls if isinstance(calls, list) else []


def _first(entry: dict[str, Any]) -> Any:
    calls = calls_of(entry)
    return calls[0] if calls else None


def _add_tensors(call: dict[str, Any] | list[Any], found: list[dict[str, Any]]) -> None:
    if isinstance(call, dict) and call.get("class_name") == "__keras_tensor__" and isinstance(call.get("config"), dict):
        found.append(call["config"])
        return
    for value in call.values() if isinstance(call, dict) else call:
        if type(value) in NESTED and value:
            _add_tensors(value, found)


def _is_keras_3(call: Any) -> bool:
    return isinstance(call, dict) and "args" in call and isinstance(call.get("kwargs"), dict)  # a dict of tensors has other keys


def _is_plain(call: Any) -> bool:
    """Whether a call reads one tensor and has no arguments, in the form of Keras 2, as most calls do."""
    return (type(call) is list and len(call) == 1 and type(read := call[0]) is list and len(read) == 4
            and type(read[0]) is str and type(read[1]) is int and type(read[2]) is int and not read[3])


def _training(call: Any) -> bool | None:
    """The `training` argument of a call. Everything except false, 0 and null counts as true, including a tensor, which may be true at run
    time."""
    if _is_plain(call):
        return None
    said = [value for value in _arguments(call, "training") if value is not None]
    return any(value is not False and value not in (0, "False") for value in said) if said else None


def _arguments(call: Any, name: str) -> Iterator[Any]:
    """The values of an argument of a call, which Keras 2 stores with each input tensor."""
    if _is_keras_3(call):
        yield call["kwargs"].get(name)
    elif isinstance(call, list) and len(call) > 3 and isinstance(call[0], str) and isinstance(call[3], dict):
        yield call[3].get(name)
    elif isinstance(call, (list, dict)):
        for part in call.values() if isinstance(call, dict) else call:
            yield from _arguments(part, name)

"""Orbax checkpoints of keras.callbacks.OrbaxCheckpoint (Keras 3.15): a folder of steps, or one step.

    run/2/model_config/_strings.json    {"config": the JSON of the whole model}; absent with save_weights_only=True
    run/2/pytree/                       the variables by kind and path: trainable_variables, bn, gamma
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from exporter.batchnorm.bundle import Origin
from exporter.errors import FormatError, UnsupportedError, located, names
from exporter.formats.ocdbt import MANIFEST, METADATA, Arrays
from exporter.formats.strict_json import parse_json
from exporter.keras import dialects
from exporter.keras.config import parse_config
from exporter.sources.shared.architecture import node_tree_from, note_unused
from exporter.sources.shared.found import Found

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.files.place import Place
    from exporter.sources.shared.options import ReadOptions

NAME = "orbax"
OPTIONS = ("architecture",)
CHECKPOINT, PYTREE, CONFIG, STRINGS = "_CHECKPOINT_METADATA", "pytree", "model_config", "_strings.json"
MODEL = ("trainable_variables", "non_trainable_variables")
WRITER = "3.0.0"  # the callback belongs to Keras 3, and the checkpoint contains no more about it


def claims(place: Place) -> bool:
    """A folder that is a step, or contains steps."""
    return place.is_folder() and (_is_step(place) or bool(_steps(place)))


def read(place: Place, options: ReadOptions) -> Found:
    """The batch norms of a step (the latest one of a folder of steps); without a config, their names are known but epsilon is None."""
    found = Found(Origin(file=place.name, kind=NAME), options)
    steps = {} if _is_step(place) else _steps(place)
    step = steps[max(steps)] if steps else place
    if len(steps) > 1:
        found.warn(f"reading step {step.name}, the latest of {names([str(number) for number in sorted(steps)])}; give the folder of "
                   "another step to read that")
    with located(step.name if steps else ""):
        _read(step, options, found)
    return found


def _is_step(folder: Place) -> bool:
    return folder.child(CHECKPOINT).is_file() or folder.child(PYTREE, MANIFEST).is_file() or folder.child(MANIFEST).is_file()


def _steps(folder: Place) -> dict[int, Place]:
    """The steps in a folder by number; while a step is being written, Orbax gives it another name."""
    return {int(child.name): child for child in folder.children()
            if child.name.isascii() and child.name.isdigit() and len(child.name) < 19 and child.is_folder() and _is_step(child)}


def _read(step: Place, options: ReadOptions, found: Found) -> None:
    from exporter.sources.shared.matching import by_name, unmatched  # this source is asked about many folders that are none of its own

    if not step.child(PYTREE, METADATA).is_file():
        raise UnsupportedError("this is an Orbax checkpoint that was not written by Keras's callback: it contains no folder 'pytree'",
                               hint="write it with keras.callbacks.OrbaxCheckpoint, or export the model to .keras")
    weights = _Variables(Arrays(step.child(PYTREE)))
    config = step.child(CONFIG, STRINGS)
    if config.is_file():
        tree = parse_config(_text(config), f"{CONFIG}/{STRINGS}")
        by_name(tree, weights.below(tree.name), dialects.era_of(WRITER, None), found, own_config=True)
        note_unused(options.architecture, found, "the checkpoint")
    elif options.architecture is not None:
        tree = node_tree_from(options.architecture).tree
        by_name(tree, weights.below(tree.name), dialects.era_of(WRITER, None), found, own_config=False)
    else:
        unmatched(weights, found)


def _text(config: Place) -> str:
    value = parse_json(config.read(), f"{CONFIG}/{STRINGS}")
    text = value.get("config") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise FormatError("expected the model's config as text under \"config\"", where=f"{CONFIG}/{STRINGS}",
                          hint="copy the whole folder of the step again")
    return text


class _Variables:
    """The model's variables by their paths."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._by_name: dict[str, tuple[str, ...]] = {}
        for keys in arrays.keys:
            if keys[0] not in MODEL or len(keys) < 2:
                continue
            name = "/".join(keys[1:])
            if name in self._by_name:
                raise FormatError("it is listed as both a trainable and a non-trainable variable", where=name)
            self._by_name[name] = keys
        if not self._by_name:
            raise UnsupportedError("this Orbax checkpoint contains no trainable_variables or non_trainable_variables, unlike one of Keras",
                                   hint="it was not written by keras.callbacks.OrbaxCheckpoint; export the model to .keras")

    def below(self, model: str) -> _Variables:
        """Without the model's own name, which precedes all paths in a Sequential that was built by its first call."""
        if all(name.startswith(f"{model}/") for name in self._by_name):
            self._by_name = {name.removeprefix(f"{model}/"): keys for name, keys in self._by_name.items()}
        return self

    def names(self) -> Iterable[str]:
        return self._by_name

    def read(self, name: str) -> tuple[NDArray[Any], str]:
        return self._arrays.read(self._by_name[name])

    def quantized(self, owner: str) -> str | None:
        return None

"""A config that is given in addition to weights: a JSON file (of to_json() or get_config()), a model in HDF5, a .keras archive or folder,
or a SavedModel."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

from exporter.errors import UnsupportedError, located, names, printable
from exporter.files.place import Place
from exporter.keras.config import HOW_TO_GIVE_ONE, Architecture, Node, is_batch_norm, model_tree, parse_config, walk, writer_in
from exporter.keras.dialects import KERAS_HUB, KERAS_HUB_EPSILON, Era
from exporter.keras.lookalikes import about_model_elsewhere, is_called_batch_norm
from exporter.keras.node import at_and_below
from exporter.keras.training import switched_on
from exporter.sources.shared.found import Found, OwnClass

SAVED_MODEL = "saved_model.pb"


def node_tree_from(place: Place) -> Architecture:
    """The config in a JSON file, a model in HDF5, a .keras archive or folder, or a SavedModel.

    Raises: FormatError, UnsupportedError if the file contains no config; `where` starts with the file's name.
    """
    with located(place.name):
        return _architecture(place)


def note_unused(given: Place | None, found: Found, what: str = "the file") -> None:
    """Warns that a model's own config is read and the one given is not."""
    if given is not None:
        found.warn(f"{what} contains its own config; the one given with --architecture is not used")


def _architecture(place: Place) -> Architecture:
    from exporter.formats.hdf5 import is_hdf5, open_hdf5

    if is_hdf5(place):
        with open_hdf5(place) as file:
            text = file.text("", "model_config")
            if text is None:
                raise UnsupportedError("this HDF5 file contains weights but no config", hint=HOW_TO_GIVE_ONE)
            return Architecture(tree=parse_config(text, "model_config"), keras_version=file.text("", "keras_version"),
                                backend=file.text("", "backend"))
    if place.is_folder() and place.child(SAVED_MODEL).is_file():
        return _saved_model(place)
    if place.name == SAVED_MODEL:
        return _saved_model(place.parent())
    if place.is_folder() or place.head(4).startswith(b"PK"):
        from exporter.sources.shared.archive import read_architecture

        return read_architecture(place)
    head = place.head().removeprefix(codecs.BOM_UTF8).lstrip()
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell redirects output
        raise UnsupportedError("this text is encoded in UTF-16", hint="save it as UTF-8")
    if not head.startswith((b"{", b"[", b'"')):
        raise UnsupportedError("expected JSON or a model file that contains a config", hint=HOW_TO_GIVE_ONE)
    from exporter.formats.strict_json import parse_json

    value = parse_json(place.read().removeprefix(codecs.BOM_UTF8), "")  # editors on Windows put the mark there
    if isinstance(value, str):  # json.dump(model.to_json(), file): to_json() already returns text
        value = parse_json(value, "")
    said: dict[str, Any] = {}
    if isinstance(value, dict):
        topology = value.get("modelTopology")  # in the model.json of TensorFlow.js
        said = value = topology if isinstance(topology, dict) else value
        if "class_name" not in value and isinstance(value.get("model_config"), dict):
            value = value["model_config"]
    version, backend = writer_in(said)
    whole = _with_class(value)
    return Architecture(tree=model_tree(whole, ""), keras_version=version, backend=backend, has_version=whole is value)


def _saved_model(folder: Place) -> Architecture:
    from exporter.sources.tf_objects.saved import read_model_config

    said = read_model_config(folder)
    version, backend = writer_in(said)
    return Architecture(tree=model_tree({key: said[key] for key in ("class_name", "config")}, SAVED_MODEL), keras_version=version,
                        backend=backend)


def note_config(tree: Node | None, era: Era, found: Found) -> None:
    """Records what a config shows of the layers that were found, and of those that were not."""
    note_own_classes(tree, found)
    note_models_elsewhere(tree, found)
    note_training(tree, era, found)


def note_own_classes(tree: Node | None, found: Found) -> None:
    """Records the classes whose layers a config does not describe, if information is missing because of that, and layers whose class is
    called a batch norm without having the config of one: nothing in the file shows what they compute."""
    called = [(path, node.base_name) for path, node in walk(tree) if is_called_batch_norm(node.base_name) and not is_batch_norm(node)
              ] if tree is not None and tree.has_unclear else []
    known = _known(found) if called else set()
    for path, class_name in called:
        if path not in known:
            found.leave_out(path, f"its class {printable(class_name, 80)} is not Keras's own and does not have the config of a batch norm")
    found.has_config = tree is not None
    if tree is not None and (found.skipped or any(layer.epsilon is None for layer in found)):
        found.own_classes += _own_classes(tree)


def note_models_elsewhere(tree: Node | None, found: Found) -> None:
    """Records the layers that run a SavedModel which the file does not describe, unless a batch norm in them was recognized."""
    if tree is None or not tree.has_unclear:
        return
    known = _known(found).union(path for path, _ in found.left_out)
    for path, node in walk(tree):
        reason = about_model_elsewhere(node.base_name, node.config)
        if reason and path not in known:
            found.leave_out(path, reason, "these are not exported")


def note_training(tree: Node | None, era: Era, found: Found) -> None:
    """Warns of batch norms that Keras 3 runs as in training because of a layer before them, unless it is told otherwise."""
    if tree is None or not tree.may_train:
        return
    switched = switched_on(tree, era)
    paths = [path for path in found.paths() if path in switched.paths] if switched else []
    if switched and paths:
        layer, class_name = printable(switched.layer, 80), printable(switched.class_name, 80)
        found.warn(f"{names(paths)}: Keras 3 runs what comes after {layer} ({class_name}) as in training: model(x) and export() normalize "
                   "by the batch; predict() and model(x, training=False) use the stored statistics, which are exported")


def _known(found: Found) -> set[str]:
    """The paths of what was found, and of all that contains it."""
    return {above for path in [*found.paths(), *(path for path, _ in found.skipped)] for above in _at_and_above(path)}


def _at_and_above(path: str) -> Iterator[str]:
    yield path
    while path:
        path = path.rpartition("/")[0]
        yield path


# Roles in which Keras's own models and wrappers contain layers; a custom class with others may build more than its config describes.
_OF_KERAS = frozenset(("layers", "layer", "forward_layer", "backward_layer", "cell", "cells"))


def _own_classes(tree: Node) -> list[OwnClass]:
    """The custom classes in a config, including those of packages such as KerasHub."""
    found: dict[str, OwnClass] = {}
    for node in at_and_below(tree):
        registered = node.registered_name or node.class_name
        is_own = ">" in registered if node is not tree else not node.is_model
        if is_own and not is_batch_norm(node) and not _OF_KERAS.intersection(role for role, _ in node.children):
            name = registered.rpartition(">")[2]
            said = node.config.get("batch_norm_epsilon", KERAS_HUB_EPSILON.get(name)) if registered.startswith(KERAS_HUB) else None
            found.setdefault(name, OwnClass(name, float(said) if isinstance(said, float) else None))
    return list(found.values())


def _with_class(value: Any) -> Any:
    """A model's config, completed by the class that a dump of get_config() lacks: {name, layers, input_layers, output_layers} of a
    functional model, {name, layers} or, before Keras 2.2.3, the list alone of a Sequential. In Keras 0.3 "layers" has entries without a
    class_name.
    """
    layers = value if isinstance(value, list) else value.get("layers") if isinstance(value, dict) and "class_name" not in value else None
    if not isinstance(layers, list) or not layers or not all(isinstance(entry, dict) and "class_name" in entry for entry in layers):
        return value
    is_graph = isinstance(value, dict) and "input_layers" in value
    return {"class_name": "Functional" if is_graph else "Sequential", "config": value}

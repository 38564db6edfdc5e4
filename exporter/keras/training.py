"""Which batch norms Keras 3 runs as in training although nothing says so of them.

A layer that is called without `training` gets the value of what is called around it, otherwise the default of its class. Keras 3 keeps
the value that a layer got for all layers that run after it (keras/src/layers/layer.py, Layer.__call__). model(x) and export() begin
without a value, predict() with False. Measured with Keras 3.0.5 to 3.15.1; up to Keras 2 the value ends with the call of the layer.
"""

from __future__ import annotations

from typing import NamedTuple

from exporter.keras.calls import ON_BY_DEFAULT
from exporter.keras.dialects import Era, has_training_on
from exporter.keras.node import Node, is_batch_norm, walk


class Switched(NamedTuple):
    """Batch norms that run as in training because of a layer before them. class_name: that of the layer."""

    layer: str
    class_name: str
    paths: dict[str, None]


def switched_on(tree: Node, era: Era) -> Switched | None:
    """The batch norms that model(x) of Keras 3 runs as in training because of a layer before them; None if there are none.

    tree: the config of a model, whose layers are listed in the order in which they run. era: its writer; only to_json() of Keras 3
    specifies none and says of every class whether it is Keras's own. Not listed are batch norms that are themselves called with
    training=True or False, and frozen ones, which use their stored statistics.
    """
    is_told = era.version is not None or tree.is_builtin or tree.registered_name is not None
    current: bool | None = None
    found: Switched | None = None
    for path, node in walk(tree):
        around = node.surroundings
        if around.training is not None:
            if around.training and not around.is_keras_3:
                return None
            current = around.training
        elif current is None and is_told and node.class_name in ON_BY_DEFAULT and node.registered_name is None and (
                node.is_builtin or era.version):  # .h5 has no registered names
            current = has_training_on(era, node.class_name) or None
        elif current and found and is_batch_norm(node) and node.config.get("trainable") is not False:
            found.paths[path] = None
        if current and not found:
            found = Switched(path, node.class_name, {})
    return found if found and found.paths else None

"""Configs of Keras 1 and 2, as nested dictionaries."""

from __future__ import annotations

SIGNS = {"momentum": 0.9, "epsilon": 0.01, "moving_variance_initializer": {"class_name": "Ones", "config": {}}}


def layer(class_name, name, children=None, **config):
    """A layer's entry of Keras 1 and later."""
    return {"class_name": class_name, "config": {"name": name, **(children or {}), **config}}


def norm(name="bn", class_name="BatchNormalization", **config):
    return layer(class_name, name, **{"axis": -1, **SIGNS, **config})


def sequential(*layers, name="model"):
    return layer("Sequential", name, layers=list(layers))


def functional(*layers, name="model", outputs=("out",)):
    """layers: (entry, names of its inputs)."""
    entries = [{**entry, "name": entry["config"]["name"], "inbound_nodes": [[[source, 0, 0, {}] for source in sources]] if sources else []}
               for entry, sources in layers]
    return layer("Functional", name, layers=entries, input_layers=[], output_layers=[[output, 0, 0] for output in outputs])

"""Writes legacy HDF5 files with the layouts of the different Keras versions."""

from __future__ import annotations

import json

import h5py
import numpy as np

ROLES = ("gamma", "beta", "moving_mean", "moving_variance")


def parameters(channels=3, seed=0, shape=None, dtype=np.float32):
    """{role: values}, no two alike."""
    random = np.random.default_rng([seed, channels])
    shape = shape or (channels,)
    return {role: np.abs(random.normal(size=shape)).astype(dtype) + dtype(0.01) for role in ROLES}


def named(scope, values, roles=ROLES, separator="/", ending=":0", names=ROLES):
    """[(weight name, values)] of one batch norm under `scope`."""
    return [(f"{scope}{separator}{names[ROLES.index(role)]}{ending}", values[role]) for role in roles]


def write(path, groups, model=None, *, base=None, as_bytes=True, names=None, **attributes):
    """A legacy HDF5 file. groups: {layer: [(weight name, values)]}; model: its config, or None for weights alone."""
    base = ("model_weights" if model is not None else "") if base is None else base
    with h5py.File(path, "w") as file:
        for key, value in attributes.items():
            file.attrs[key] = value
        if model is not None:
            file.attrs["model_config"] = json.dumps(model).encode()
        root = file.require_group(base) if base else file
        text = (lambda words: np.array([word.encode() for word in words])) if as_bytes else list
        root.attrs["layer_names"] = text(names if names is not None else list(groups))
        for layer_name, weights in groups.items():
            group = root.require_group(layer_name)
            group.attrs["weight_names"] = text([name for name, _ in weights])
            for name, values in weights:
                if values is not None:
                    group.create_dataset(name, data=values)
    return path

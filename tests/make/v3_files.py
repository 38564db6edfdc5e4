"""Writes model files in Keras's own format without Keras: configs and weights as written by the versions that the tests name."""

from __future__ import annotations

import io
import json
import zipfile

import h5py
import numpy as np

SIGNS = {"momentum": 0.99, "moving_variance_initializer": {"class_name": "Ones", "config": {}}}


def norm_arrays(seed, channels=3, *, center=True, scale=True, dtype="float32", shape=None):
    """{parameter: array} of a batch norm, different for each seed."""
    random = np.random.default_rng(seed)
    shape = shape or (channels,)
    values = {"gamma": random.normal(size=shape) if scale else None, "beta": random.normal(size=shape) if center else None,
              "moving_mean": random.normal(size=shape), "moving_variance": 10.0 ** random.uniform(-4, 2, shape)}
    return {name: value.astype(dtype) for name, value in values.items() if value is not None}


def entry(class_name, name, *, registered=None, build=None, shared=None, **config):
    """A layer's entry of a config, as Keras 3 writes it."""
    found = {"module": None if registered else "keras.layers", "class_name": class_name, "config": {"name": name, **config},
             "registered_name": registered}
    if build:
        found["build_config"] = {"input_shape": build}
    if shared:
        found["shared_object_id"] = shared
    return found


def norm(name, *, epsilon=1e-3, axis=-1, center=True, scale=True, class_name="BatchNormalization", **fields):
    extra = {key: fields.pop(key) for key in ("registered", "build", "shared") if key in fields}
    return entry(class_name, name, **{"axis": axis, "epsilon": epsilon, "center": center, "scale": scale, **SIGNS, **fields}, **extra)


def functional(name, *layers, class_name="Functional", **fields):
    return entry(class_name, name, layers=list(layers), input_layers=[], output_layers=[], **fields)


def sequential(name, *layers, **fields):
    return entry("Sequential", name, layers=list(layers), **fields)


def write_weights(target, groups):
    """groups: {"layers/batch_normalization": arrays, or (arrays, name)}; arrays: {…} or [...] in the order in which they are stored."""
    with h5py.File(target, "w") as file:
        for path, arrays in groups.items():
            arrays, name = arrays if isinstance(arrays, tuple) else (arrays, None)
            inner = file.require_group(f"{path}/vars" if path else "vars")
            if name is not None:
                inner.attrs["name"] = name
            for number, array in enumerate(arrays.values() if isinstance(arrays, dict) else arrays):
                inner[str(number)] = array
    return target


def weights_bytes(groups):
    return write_weights(io.BytesIO(), groups).getvalue()


def write_archive(path, config, groups, version="3.15.1", weights="model.weights.h5", **members):
    """A .keras file; `members` replaces parts of it, None leaves one out."""
    parts = {"metadata.json": json.dumps({"keras_version": version}), "config.json": json.dumps(config), weights: None}
    parts |= {name.replace("__", "."): data for name, data in members.items()}
    if parts[weights] is None and weights not in {name.replace("__", ".") for name in members}:
        parts[weights] = weights_bytes(groups)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def stored(layer):
    """{parameter: list} of a layer that was read, in float64."""
    return {name: values.astype(np.float64).tolist() for name, values in layer.parameters().items()}


def shown(bundle):
    """{path: (epsilon, parameters)} of a bundle."""
    return {layer.path: (layer.epsilon, stored(layer)) for layer in bundle}


def given(arrays):
    return {name: np.asarray(values, np.float64).tolist() for name, values in arrays.items()}

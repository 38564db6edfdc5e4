"""Batch norms of the installed Keras: sets their parameters, and compares them with what was exported."""

from __future__ import annotations

import numpy as np

import exporter

ROLES = ("gamma", "beta", "moving_mean", "moving_variance")


def config(name, epsilon=1e-3, class_name="BatchNormalization", **more):
    fields = {"name": name, "axis": [1], "epsilon": epsilon, "momentum": 0.9, "center": True, "scale": True,
              "moving_variance_initializer": None}
    return {"class_name": class_name, "config": {**fields, **more}}


def fill(layers, seed=0):
    """Random numbers for batch norms; returns {gamma's bytes or mean's bytes: the layer}."""
    random = np.random.default_rng(seed)
    for norm in layers:
        for role in ROLES:
            variable = getattr(norm, role, None)
            if variable is not None:
                shape = variable.shape
                values = 10.0 ** random.uniform(-6, 2, shape) if role == "moving_variance" else random.normal(1, 0.7, shape)
                variable.assign(values.astype(np.asarray(variable).dtype))
    return {np.asarray(norm.moving_mean).tobytes(): norm for norm in layers}


def check_live(bundle, live, *, outputs=True):
    """Bits of all parameters, and what each layer gives."""
    assert len(bundle) == len(live)
    for found in bundle:
        norm = live[found.moving_mean.tobytes()]
        for role in ROLES:
            variable = getattr(norm, role, None)
            values = getattr(found, role)
            assert (values is None) == (variable is None), f"{found.path}: {role}"
            assert values is None or values.tobytes() == np.asarray(variable).tobytes(), f"{found.path}: {role}"
        if outputs:
            check_output(found, norm)


def check_output(found, norm):
    rank = max(4, found.ndim or 0)
    shape = [2, 3, 4, 5, 6][:rank]
    axis = [a if a >= 0 else a + rank for a in found.axis]
    for a, size in zip(axis, found.shape, strict=True):
        shape[a] = size
    x = np.random.default_rng(1).normal(size=shape).astype(found.moving_mean.dtype)
    expected = np.asarray(norm(x, training=False))
    got = exporter.evaluate(found, x)
    scale = np.max(np.abs(expected)) + 1
    assert np.max(np.abs(got - expected)) <= 2.0**-19 * scale, found.path

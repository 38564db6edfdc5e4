"""Creates layers and bundles from a seed, and compares them."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import sys

import numpy as np

from exporter.batchnorm.bundle import Bundle, Origin
from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.layer import BatchNorm
from exporter.batchnorm.stored import Stored
from exporter.sources.shared.found import Found
from exporter.sources.shared.options import ReadOptions

ROOT = pathlib.Path(__file__).resolve().parents[2]


@functools.cache
def script(name):
    """The module in a file of the project that is in no package."""
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_layer(path="encoder/bn_1", *, shape=(4,), axis=(-1,), dtype="float32", epsilon=1e-3, seed=0, gamma=True, beta=True,
               kind=BatchNorm, **fields):
    """A layer with random parameters, variances from 1e-6 to 1e2, a negative and a zero gamma."""
    from exporter.batchnorm.dtypes import round_to

    random = np.random.default_rng(seed)
    g = random.normal(1, 0.7, shape)
    g.flat[0] = -abs(g.flat[0]) - 0.05
    g.flat[-1] = g.flat[-1] if g.size < 2 else 0.0
    values = {"gamma": g if gamma else None, "beta": random.normal(size=shape) if beta else None,
              "moving_mean": random.normal(0, 2, shape), "moving_variance": 10.0 ** random.uniform(-6, 2, shape)}
    if dtype == "float16":
        values["moving_variance"] = 10.0 ** random.uniform(-3, 2, shape)
    parameters = {name: None if array is None else round_to(array, dtype) for name, array in values.items()}
    return kind(**{"path": path, "name": path.rsplit("/", 1)[-1], "class_name": "BatchNormalization", "axis": axis, "shape": shape,
                   "ndim": None, "dtype": dtype, "epsilon": epsilon, "momentum": 0.99, **parameters, **fields})


def make_stored(path="encoder/bn_1", **fields):
    """The same as a source finds it."""
    return make_layer(path, kind=Stored, **fields)


def as_stored(layer, **changes):
    """The layer as it might be stored, with changes that the formula may not be able to use."""
    return Stored(**{name: getattr(layer, name) for name in Stored.__dataclass_fields__ if hasattr(layer, name)} | changes)


def make_found(*layers, skipped=()):
    """What a source found: these stored layers."""
    found = Found(Origin(file="model.h5", kind="keras-h5"), ReadOptions())
    for layer in layers:
        found.add(layer)
    for path, reason in skipped:
        found.skip(path, reason)
    return found


def make_bundle(*layers, **fields):
    return Bundle(layers=layers or (make_layer(),), **{"origin": Origin(file="model.h5", kind="keras-h5", keras_version="2.4.0",
                                                                        backend="tensorflow"), **fields})


def mixed():
    """Layers of every type, with every field of the document somewhere."""
    return make_bundle(
        make_layer("a/b", seed=1), make_layer("a.b c", dtype="float16", gamma=False, seed=2, ndim=4),
        make_layer("ключ/\\ ..", dtype="bfloat16", beta=False, seed=3, assumed=("axis",), quantized="uint8"),
        make_layer("d", dtype="float64", shape=(2, 3), axis=(1, 2), ndim=4, seed=4, epsilon=1e-6, effective_epsilon=1.001e-5,
                   momentum=None),
        make_layer("d/vectors", gamma=False, beta=False, seed=5, converted=("moving_variance",)), skipped=(("e", "said nothing"),))


def bits(array, dtype):
    """The stored bytes of an array, for comparison."""
    return None if array is None else np.asarray(array, HELD_IN[dtype]).tobytes()


def same_layer(a, b):
    """Every field equal, arrays bit for bit."""
    for field in a.__dataclass_fields__:
        left, right = getattr(a, field), getattr(b, field)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field
            assert left.shape == right.shape, field
            assert left.tobytes() == right.tobytes(), field
        else:
            assert left == right, field
    return True

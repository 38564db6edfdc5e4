"""The real layers of a model, run by the installed Keras or tf_keras, for comparison. The only module that imports them.

Keras builds a model from its config, and a config can name any Python object. So the config is read first, without Keras: a model with a
Lambda, a custom object or anything that is not Keras's own is refused before Keras sees it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.diagnosis.comparison import Check, check_output
from exporter.errors import FormatError, MissingExtra, UnsupportedError, names, printable
from exporter.files.place import Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.bundle import Bundle
    from exporter.batchnorm.layer import BatchNorm

OWN_PACKAGES = ("activations", "constraints", "dtype_policies", "engine", "initializers", "layers", "losses", "metrics", "models",
                "optimizers", "quantizers", "regularizers")
MAX_CONFIG = 64 << 20
WITHOUT_KERAS = "bn-verify BUNDLE MODEL without --live compares the parameters"


def check_live(bundle: Bundle, place: Place) -> tuple[list[Check], list[str]]:
    """Each layer of the bundle, run as the real layer of the model in `place` on the bundle's vectors: (checks, paths not found).

    Raises: MissingExtra without Keras, UnsupportedError for a model that is not run (custom objects, Lambdas, weights only).
    """
    from exporter.batchnorm import vectors
    from exporter.batchnorm.bundle import ReadBack

    layers = live_layers(place)
    stored = bundle.vectors if isinstance(bundle, ReadBack) else {}
    checks, absent = [], []
    for layer in bundle:
        real = layers.get(layer.path)
        if real is None:
            absent.append(layer.path)
            continue
        rows = stored[layer.path][0] if layer.path in stored else vectors.make(layer)[0]
        checks.append(check_output(layer, rows, run(real, layer, rows)))
    return checks, absent


def run(real: Any, layer: BatchNorm, rows: NDArray[Any]) -> NDArray[Any]:
    """The real layer's inference for `rows` of shape (rows, channels), in its output type, as an input of the rank that it was built
    for."""
    spec = getattr(real, "input_spec", None)
    rank = getattr(spec, "ndim", None) or layer.ndim or max([a if a >= 0 else len(layer.axis) for a in layer.axis]) + 1
    axes = tuple(a % rank for a in layer.axis)
    shape = [1] * rank
    shape[0] = len(rows)
    for axis, size in zip(axes, layer.shape):
        shape[axis] = size
    order = np.argsort(axes)
    x = rows.reshape(len(rows), *layer.shape).transpose(0, *(order + 1)).reshape(shape)
    y = np.asarray(real(x, training=False))
    back = y.reshape(len(rows), *(layer.shape[i] for i in order)).transpose(0, *(np.argsort(order) + 1))
    return back.reshape(rows.shape)


def live_layers(place: Place) -> dict[str, Any]:
    """The model's BatchNormalization layers by path."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    config, suffix = read_config(place)
    foreign = sorted(set(_foreign(config)))
    if foreign:
        raise UnsupportedError(f"the model contains {names(foreign)}: code that is not Keras's own is not run", where=place.name,
                               hint=WITHOUT_KERAS)
    return dict(_walk(_load(place, suffix)))


def read_config(place: Place) -> tuple[Any, str]:
    """(the model's config, the suffix that Keras requires), read without Keras."""
    from exporter.formats.strict_json import parse_json

    head = place.head(8)
    if head.startswith(b"PK\x03\x04"):
        import zipfile

        with zipfile.ZipFile(place.local) as archive:
            if "config.json" not in archive.namelist() or archive.getinfo("config.json").file_size > MAX_CONFIG:
                raise UnsupportedError("this archive contains no model that Keras can run", where=place.name)
            return parse_json(archive.read("config.json"), "config.json"), ".keras"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        import h5py

        with h5py.File(place.local, "r") as file:
            text = file.attrs.get("model_config")
        if text is None:
            raise UnsupportedError("this file contains only weights: there is no model that Keras can run", where=place.name,
                                   hint=WITHOUT_KERAS)
        return parse_json(text, "model_config"), ".h5"
    raise UnsupportedError("only .keras archives and whole-model .h5 files are run live", where=place.name, hint=WITHOUT_KERAS)


def _foreign(config: Any) -> Iterator[str]:
    """The parts of a config that would run code that is not Keras's own."""
    queue = [config]
    while queue:
        value = queue.pop()
        if isinstance(value, list):
            queue += value
        if not isinstance(value, dict):
            continue
        queue += value.values()
        name, module = value.get("class_name"), value.get("module")
        if not isinstance(name, str):
            continue
        registered = value.get("registered_name")
        if name == "Lambda" or name == "__lambda__" or value.get("function_type") == "lambda":
            yield "a Lambda"
        elif ">" in name or (isinstance(registered, str) and ">" in registered):
            yield f"a custom object {printable(str(registered or name), 60)!r}"
        elif module is not None and not _own(str(module), value):
            yield f"{printable(f'{module}.{name}', 60)!r}"


def _own(module: str, value: dict[str, Any]) -> bool:
    """Whether an entry of a config names a class of Keras's own, or a function by a plain name such as "relu"."""
    if module == "builtins":
        return value["class_name"] == "function" and isinstance(value.get("config"), str)
    parts = [part for part in module.split(".") if part != "src"]
    return parts[0] in ("keras", "tf_keras") and (len(parts) == 1 or parts[1] in OWN_PACKAGES)


def _load(place: Place, suffix: str) -> Any:
    """The model, loaded by Keras, or by tf_keras if Keras 3 no longer supports it."""
    tried = []
    with _with_suffix(place, suffix) as path:
        for package in ("keras", "tf_keras"):
            try:
                load = importlib.import_module(f"{package}.models").load_model
            except ImportError:
                continue
            try:
                return load(path, compile=False, safe_mode=True)
            except Exception as error:  # whatever the loader raises is reported, not hidden
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                tried.append(f"{package}: {printable(first, 120)}")
    if not tried:
        raise MissingExtra("keras", "tensorflow", "running the real layers")
    raise UnsupportedError(f"the installed Keras cannot load the model ({'; '.join(tried)})", where=place.name, hint=WITHOUT_KERAS)


@contextlib.contextmanager
def _with_suffix(place: Place, suffix: str) -> Iterator[str]:
    """A path with the suffix that Keras requires: the file itself, or a link to it."""
    if place.local.name.endswith(suffix):
        yield str(place.local)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{suffix}"
        try:
            os.symlink(place.local.resolve(), link)
        except OSError:
            raise FormatError(f"Keras wants a name that ends with {suffix}", where=place.name, hint="rename the file") from None
        yield str(link)


def _walk(model: Any) -> Iterator[tuple[str, Any]]:
    """(path, layer) of each batch norm: names of inner models, wrappers and cells joined by "/"; each layer once."""
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("", model)]
    while stack:
        prefix, holder = stack.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        stack += [(f"{prefix}{layer.name}/", layer) for layer in reversed(_inside(holder))]
        if type(holder).__name__ in ("BatchNormalization", "SyncBatchNormalization"):
            yield prefix[:-1], holder


def _inside(holder: Any) -> list[Any]:
    """The layers inside a model, a wrapper or a recurrent layer."""
    found = list(getattr(holder, "layers", []))
    for name in ("layer", "forward_layer", "backward_layer", "cell"):
        inner = getattr(holder, name, None)
        if hasattr(inner, "name") and hasattr(inner, "get_weights"):
            found.append(inner)
    return found + [cell for cell in getattr(holder, "cells", []) if hasattr(cell, "name")]

"""Writes random models with the installed Keras in every format it supports, together with the parameters and outputs of the live layers.

    python fuzz/write_models.py FOLDER --api keras|tf_keras|tf.keras --seed N [--count N]

Runs with the Python of that Keras (3.7 and later). Each model gets its own folder with its files, `truth.json` and `truth.npz`, which
fuzz/writers.py reads.
"""

import argparse
import importlib
import json
import os
import pathlib
import random
import sys
import time
import traceback
import warnings

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from random_models import Api, Builder, version_of
from users_classes import HOLDERS, classes

ROLES = ("gamma", "beta", "moving_mean", "moving_variance")
KEPT_APART = ("layer", "forward_layer", "backward_layer", "cell", "cells")


def load(name):
    """The Api of this name, and TensorFlow where it is behind it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    warnings.simplefilter("ignore")
    if name == "keras" and os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        keras, tensorflow = importlib.import_module("keras"), None
    else:
        tensorflow = importlib.import_module("tensorflow")
        keras = tensorflow.keras if name == "tf.keras" else importlib.import_module(name)
        tensorflow.get_logger().setLevel("ERROR")
    version = getattr(keras, "__version__", "") or tensorflow.__version__
    if name == "tf.keras":
        version = tensorflow.__version__
        return Api(name, keras, version_of(version), [tensorflow.compat.v1.keras.layers.BatchNormalization,
                                                      tensorflow.compat.v2.keras.layers.BatchNormalization]), tensorflow
    return Api(name, keras, version_of(version)), tensorflow


def values_of(api, variable):
    if api.is_3:
        return np.asarray(api.keras.ops.convert_to_numpy(variable))
    return np.asarray(api.keras.backend.get_value(variable))


def children(layer):
    """(name or None, layer) of what a layer holds."""
    if type(layer).__name__ in ("Sequential", "Functional", "Model"):
        return list(layer.layers)
    if type(layer).__name__ == "Bidirectional":
        return [layer.forward_layer, layer.backward_layer]
    found = []
    for key, value in vars(layer).items():
        if key in ("_layers", "_self_tracked_trackables", "_flatten_cache") or key.startswith("_inbound") or key.startswith("_outbound"):
            continue
        for each in inside(value):
            if not any(each is one for one in found):
                found.append(each)
    return found


def inside(value, depth=0):
    if hasattr(value, "get_config") and hasattr(value, "weights") and hasattr(value, "call"):
        return [value]
    if depth < 3 and isinstance(value, (list, tuple)):
        return [each for part in value for each in inside(part, depth + 1)]
    if depth < 3 and isinstance(value, dict):
        return [each for part in value.values() for each in inside(part, depth + 1)]
    return []


def walk(layer, path=(), over_time=False, own=False, seen=()):
    """(path, layer, whether axes of time lie around it, whether a user's class does) of each layer inside, once for each way to it."""
    kind = type(layer).__name__
    for child in children(layer):
        if any(child is one for one in seen):
            continue
        here = path + (child.name,)
        around = over_time or kind == "TimeDistributed" or (kind == "RNN" and child is layer.cell)
        users = own or kind in HOLDERS
        yield here, child, around, users
        yield from walk(child, here, around, users, seen + (layer,))


class Live:
    """What the live model holds."""

    def __init__(self, api, builder, model):
        self.api, self.builder, self.model = api, builder, model
        self.norms = []  # [layer, paths, over time, in a user's class]
        for path, layer, over_time, own in walk(model):
            if not builder.is_batch_norm(layer) or not hasattr(layer, "moving_mean") or layer.moving_mean is None:
                continue
            known = next((each for each in self.norms if each[0] is layer), None)
            if known is None:
                self.norms.append([layer, ["/".join(path)], over_time, own])
            elif "/".join(path) not in known[1]:
                known[1].append("/".join(path))
                known[2], known[3] = known[2] and over_time, known[3] and own

    def fill(self, seed):
        """Random numbers for all weights; the batch norms' means are unlike each other."""
        chance = np.random.RandomState(seed)
        for layer in [layer for layer, _, _, _ in self.norms] + self.builder.popped:
            for role in ROLES:
                variable = getattr(layer, role, None)
                if variable is None:
                    continue
                old = values_of(self.api, variable)
                new = 10.0 ** chance.uniform(-6, 2, old.shape) if role == "moving_variance" else chance.normal(0.5, 1, old.shape)
                self.assign(variable, new.astype(old.dtype))

    def assign(self, variable, values):
        if self.api.is_3:
            variable.assign(values)
        else:
            self.api.keras.backend.set_value(variable, values)

    def axes(self, layer):
        """(axes without negative ones, rank)"""
        spec = layer.input_spec[0] if isinstance(layer.input_spec, list) else layer.input_spec
        axis = list(layer.axis) if isinstance(layer.axis, (list, tuple)) else [layer.axis]
        axis = [int(each) for each in axis]
        if getattr(layer, "virtual_batch_size", None):
            axis = [each - 1 for each in axis]
        rank = spec.ndim
        if rank is None:
            rank = max(spec.axes) + 1 if all(each < 0 for each in axis) else max(axis) + 1
        return [each % rank for each in axis], rank

    def output(self, layer, seed, training=False):
        """(x, y): an input of the layer's rank, and what it gives for it in inference."""
        axes, rank = self.axes(layer)
        mean = values_of(self.api, layer.moving_mean)
        shape = [4, 3, 2, 2, 2, 2][:rank]
        sizes = [size for size in mean.shape if len(axes) == 1 or size > 1] if len(axes) > 1 else [mean.size]
        if len(axes) > 1:
            full = mean.shape[-rank:]
            sizes = [full[axis] for axis in axes]
        for axis, size in zip(axes, sizes):
            shape[axis] = size
        x = np.random.RandomState(seed).normal(0, 2, shape).astype("float64" if mean.dtype == np.float64 else "float32")
        if self.api.is_3:
            return x, np.asarray(self.api.keras.ops.convert_to_numpy(layer(x, training=training))).astype("float64")
        backend = self.api.keras.backend
        if self.api.version >= (2, 4):
            return x, np.asarray(layer(x, training=training)).astype("float64")
        return x, np.asarray(backend.eval(layer.call(backend.constant(x, dtype=x.dtype.name), training=training))).astype("float64")

    def calls(self):
        """(layer, path, training, paths and classes of what feeds it, of what follows it) of each call of a layer that is no model."""
        steps = []
        flatten(self, self.model, "", None, None, steps)
        return steps


class Step:
    """One call of a layer."""

    def __init__(self, layer, path, inputs, training):
        self.layer, self.path, self.inputs, self.training, self.outputs = layer, path, inputs, training, []
        for each in inputs:
            each.outputs.append(self)


class Unplanned(Exception):
    """A model without a plan."""


def flatten(live, model, path, given, training, steps):
    """The steps of a model and of all models in it; returns those that come out."""
    plan = live.builder.plans.get(id(model))
    if plan is None:
        raise Unplanned
    if given is None:
        given = [Step(None, each._keras_history[0].name, [], None) for each in model.inputs]
    done = {-1 - number: [step] for number, step in enumerate(given)}
    for number, (layer, arguments, reads) in enumerate(plan.steps):
        inputs = [step for each in reads for step in done[each]]
        said = arguments.get("training")
        mode = training if said is None or (live.api.is_3 and training is not None) else said
        here = f"{path}/{layer.name}" if path else layer.name
        while type(layer).__name__ == "TimeDistributed":
            layer = layer.layer
            here = f"{here}/{layer.name}"
        if id(layer) in live.builder.plans:
            done[number] = flatten(live, layer, here, inputs, mode, steps)
            continue
        step = Step(layer, here, inputs, mode)
        steps.append(step)
        done[number] = [step]
    return [step for each in plan.outputs for step in done[each]]


def truth_of(live, seed):
    """(what is told of each batch norm, arrays)"""
    try:
        steps = live.calls()
    except Unplanned:
        steps = None
    told, arrays = [], {}
    for number, (layer, paths, over_time, own) in enumerate(live.norms):
        axes, rank = live.axes(layer)
        mine = None if steps is None else [step for step in steps if step.layer is layer]
        fields = {
            "name": layer.name, "paths": paths, "class_name": type(layer).__name__, "axis": axes, "ndim": rank,
            "epsilon": float(layer.epsilon), "momentum": float(layer.momentum), "over_time": over_time, "own": own,
            "trainable": bool(layer.trainable),
            "virtual_batch_size": getattr(layer, "virtual_batch_size", None), "renorm": bool(getattr(layer, "renorm", False)),
            "compute_dtype": str(getattr(layer, "compute_dtype", None) or getattr(layer, "_compute_dtype", None)
                                 or getattr(layer, "dtype", "float32")),
            "training": None if mine is None or own else any(step.training is True for step in mine),
            "calls": None if not mine else [{"path": step.path, "training": step.training is True, "inputs": neighbors(step.inputs),
                                             "outputs": neighbors(step.outputs)} for step in mine]}
        for role in ROLES:
            variable = getattr(layer, role, None)
            if variable is not None:
                values = values_of(live.api, variable)
                fields["dtype"] = values.dtype.name
                arrays[f"{number}/{role}"] = values.astype("float32") if values.dtype.name == "bfloat16" else values
        try:
            arrays[f"{number}/x"], arrays[f"{number}/y"] = live.output(layer, seed)
            if fields["training"] and not layer.trainable:  # most Kerases ignore it then
                fields["training"] = not np.allclose(arrays[f"{number}/y"], live.output(layer, seed, training=True)[1],
                                                     equal_nan=True)
                # no config says of which of the two classes of tf.keras it is, and none of whether TensorFlow is 1.15 or 2.0
                fields["may_obey"] = live.api.has_renorm and (live.api.version < (2, 2) or not getattr(layer, "_USE_V2_BEHAVIOR", True))
        except Exception as error:
            fields["no_output"] = first_line(error)
        told.append(fields)
    return told, arrays


def neighbors(steps):
    return [[step.path, type(step.layer).__name__ if step.layer is not None else "InputLayer"] for step in steps]


def first_line(error):
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"


def again(api, model, choice, folder, zeros):
    """The model after it was cloned, built by its first call, or saved and loaded; the model itself where Keras cannot do that."""
    try:
        if choice < 0.5 and type(model).__name__ == "Sequential" and api.version >= (2, 4):
            config = model.get_config()
            layers = [entry for entry in config["layers"] if entry["class_name"] != "InputLayer"]
            for entry in layers:
                entry["config"].pop("batch_input_shape", None)
            found = type(model).from_config({"name": config["name"], "layers": layers})
            found(zeros)
            return found
        if choice < 0.5:
            return api.keras.models.clone_model(model)
        path = str(folder / ("before.h5" if choice < 0.8 or api.version < (2, 13) else "before.keras"))
        model.save(path)
        return api.keras.models.load_model(path, compile=False, **({"safe_mode": False} if api.version >= (2, 13) else {}))
    except Exception:
        return model


def compile_with_slots(api, model, optimizer):
    """Compiles a model; its optimizer gets the variables that training would give it."""
    model.compile(optimizer, "mse")
    if api.version >= (2, 11):
        model.optimizer.build(model.trainable_variables)
    elif api.version >= (2, 4):
        model.optimizer._create_all_weights(model.trainable_variables)


def make(api, tensorflow, own, seed, folder, only=()):
    """One model of a seed in a folder; returns its truth, or raises what Keras raised while the model was made."""
    from ways_to_save import ways

    api.keras.backend.clear_session()
    builder = Builder(api, own, seed)
    chance = random.Random(seed * 7 + 1)
    shape = builder.any_shape()
    folder.mkdir(parents=True, exist_ok=True)
    if chance.random() < 0.2:  # names and scopes go on from those of another model
        Builder(api, own, seed + 500_000_000).model(shape)
    model = builder.subclassed(shape) if chance.random() < 0.2 and api.version >= (2, 4) else builder.model(shape)
    if api.version >= (2, 4):
        zeros = [np.zeros((2,) + shape, "float32") for _ in getattr(model, "inputs", None) or "1"]
        model(zeros[0] if len(zeros) == 1 else zeros)
    original = model
    if chance.random() < 0.15 and type(model).__name__ != "Net":
        model = again(api, model, chance.random(), folder, np.zeros((2,) + shape, "float32"))
    for each in builder.kept:
        if chance.random() < 0.1:
            each.trainable = chance.random() < 0.2
    if chance.random() < 0.4:
        compile_with_slots(api, model, chance.choice(["sgd", "adam", "rmsprop"]))
    live = Live(api, builder, model)
    live.fill(seed)
    files, unsaved = [], {}
    for name, way, odds in ways(api, tensorflow):
        if (only and name not in only) or (not only and chance.random() >= odds):
            continue
        try:
            files += [dict(each, format=name) for each in way(model, folder / name.replace(" ", "_"), shape)]
        except Exception as error:
            unsaved[name] = first_line(error)
    told, arrays = truth_of(live, seed)
    truth = {"seed": seed, "api": api.name, "version": list(api.version), "is_keras_3": api.is_3,
             "is_any_called": any(said.get("training") is True for plan in builder.plans.values() for _, said, _ in plan.steps),
             "popped": [values_of(api, layer.moving_mean).astype("float32").ravel().tolist() for layer in builder.popped],
             "is_subclassed": type(model).__name__ == "Net", "is_copy": model is not original,
             "is_any_unfused": builder.is_any_unfused, "is_any_renamed": builder.is_any_renamed,
             "layers": told, "files": files, "unsaved": unsaved}
    (folder / "truth.json").write_text(json.dumps(truth))
    np.savez(str(folder / "truth.npz"), **arrays)
    return truth


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--api", default="keras")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--only", nargs="*", default=())
    args = parser.parse_args()
    api, tensorflow = load(args.api)
    own = classes(api.keras)
    end = time.time() + args.seconds
    for seed in range(args.seed, args.seed + args.count):
        if time.time() > end:
            break
        try:
            make(api, tensorflow, own, seed, args.folder / str(seed), args.only)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{seed}: not made: {first_line(error)} ({os.path.basename(where.filename)}:{where.lineno})", flush=True)
            if os.environ.get("TRACE"):
                traceback.print_exc()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Reads a model written by fuzz/write_models.py, and compares each batch norm with the live layer that has the same parameters."""

from __future__ import annotations

import collections
import json
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

import exporter
from exporter.keras import places
from exporter.pipeline import hints
from exporter.sources.keras_v3 import replay, weights
from exporter.sources.legacy_h5 import norms
from exporter.sources.legacy_h5 import weights as legacy_weights
from exporter.sources.shared import assemble, matching
from exporter.sources.tf_graph import graph_norm

ROLES = ("gamma", "beta", "moving_mean", "moving_variance")
SENTINEL = 0.0625  # given as epsilon to files that do not say one
UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-24}  # some kernels keep epsilon in float32
ABOUT_RANK = "the rank of its input"
ABOUT_WRAPPER = "its axis is that of the input of the wrapper around it"
NO_CONFIG = ("weights.h5 alone", "h5 weights alone", "tf weights", "checkpoint")
NO_NAMES = ("weights.h5 alone", "h5 weights alone", "tf weights", "checkpoint", "export", "saved_model.save", "frozen")

FROM_GRAPHS = ("export", "saved_model.save", "frozen")  # their epsilon is the kernel's
# A layer that two models hold is in them twice.
UNSHARED = ("h5", "h5 weights alone", "h5 weights + json", "h5 weights + get_config", "h5 weights + model")


def listed(values: Any) -> Any:
    """As in truth.json."""
    return values.astype("float32").ravel().tolist()


def _any(key: str) -> Any:
    return lambda truth, form: any(layer[key] for layer in truth["layers"])


def _is_any_called(truth: dict[str, Any], form: str) -> bool:
    """Keras 3 hands a call's training=True on to other layers, too, in a graph that it traces."""
    return truth.get("is_any_called", True)


def _says_little(truth: dict[str, Any], form: str) -> bool:
    """Whether no config in the file describes some of the layers."""
    return form in NO_CONFIG or truth["is_subclassed"] or any(layer["own"] for layer in truth["layers"])


def _is_shared(truth: dict[str, Any], form: str) -> bool:
    return any(len(layer["paths"]) > 1 for layer in truth["layers"])


# The true reasons for a refusal: what it is called here, how the sentence begins, and of which models and forms it may be.
REASONS = (
    ("no config says the epsilon", hints.no_epsilon([]), lambda truth, form: _says_little(truth, form) or (
        form == "saved_model.save" and _is_any_called(truth, form))),  # a graph that computes with the batch has no use for it
    ("no config says the epsilon of a user's class", "the config does not describe the layers inside the class", _says_little),
    ("gamma or beta", weights.ONE_OF_TWO, _says_little),
    ("three vectors", weights.THREE_VECTORS, _says_little),
    ("two vectors, as a LayerNormalization has", weights.TWO_VECTORS, _says_little),
    ("renorm in a class that no config describes", weights.MORE_VECTORS.partition("}")[2], _says_little),
    ("renamed beside a user's class", matching.NAMELESS, lambda truth, form: form == "orbax" and truth["is_any_renamed"] and _any("own")(
        truth, form)),
    ("renamed, in a user's class", "in a custom class: it is ambiguous whose they are", lambda truth, form: truth["is_any_renamed"]),
    ("in a user's layer, of which Keras before 2.3 saves nothing", norms.NEVER_BUILT, lambda truth, form: truth["version"] < [2, 3]),
    ("several in one scope", legacy_weights.MIXED.partition("{")[0], _any("own")),
    ("called in training mode", assemble.CALLED_IN_TRAINING, lambda truth, form: _any("training")(truth, form) or any(
        layer.get("may_obey") for layer in truth["layers"]) or (
        (_any("own")(truth, form) or truth["is_copy"]) and truth["is_any_called"])),  # whether a class hands it on is not in the file
    ("the graph computes with the batch", graph_norm.OF_THE_BATCH, _is_any_called),
    ("shared, in a file that Keras cannot load", replay.LOST_SHARING, _is_shared),
    ("shared, in a file that Keras cannot load", replay.UNCERTAIN, _is_shared),
)
NO_NORMS = ("no BatchNormalization", "no object of the checkpoint", "no batch norm", "no function that uses a variable")
MANY_AXES = weights.MANY_AXES.rpartition("}")[2]


class Reading:
    """The files of one model."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.truth: dict[str, Any] = json.loads((folder / "truth.json").read_text())
        with np.load(folder / "truth.npz") as arrays:
            self.arrays = {key: arrays[key] for key in arrays.files}
        self.by_mean = {self.arrays[f"{number}/moving_mean"].tobytes(): number for number in range(len(self.truth["layers"]))}
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.refusals: list[tuple[str, str, str]] = []
        self.paths: dict[int, dict[str, str]] = collections.defaultdict(dict)  # by layer and form

    def run(self) -> list[str]:
        """Reads all; returns what is wrong."""
        wrong = []
        for file in self.truth["files"]:
            found = list(self.file(file))
            self.counts[file["format"]]["wrong"] += len(found)
            wrong += [f"{file['format']}: {line}" for line in found]
        for number, paths in self.paths.items():
            if len(set(paths.values())) > 1:
                wrong.append(f"layer {number} has several paths: {paths}")
        return wrong

    def file(self, file: dict[str, Any]) -> Iterator[str]:
        form, counts, layers = file["format"], self.counts[file["format"]], self.truth["layers"]
        counts.update(files=1, layers=len(layers))
        options: dict[str, Any] = {"architecture": self.folder / file["architecture"]} if file.get("architecture") else {}
        bundle = self.read(file, options, form)
        if isinstance(bundle, str):
            if not layers and "Traceback" not in bundle:
                return
            if not any(self.is_in(file, number) for number in range(len(layers))) and any(words in bundle for words in NO_NORMS):
                return
            yield from self.refuse(form, bundle)
            bundle = self.read(file, {**options, "skip_unresolved": True, "stored_statistics": True, "epsilon": SENTINEL}, form)
            if isinstance(bundle, str):
                if "Traceback" in bundle:
                    yield bundle
                counts["refused"] += len(layers)
                return
        seen: dict[int, list[Any]] = {}
        for found in bundle:
            number = self.by_mean.get(found.moving_mean.tobytes())
            if number is None and form in NO_CONFIG and listed(found.moving_mean) in self.truth["popped"]:
                continue  # nothing says that it is no part of the model any more
            if number is None:
                yield f"{found.path}: in the file, not in the model"
                continue
            if number in seen and not (form in UNSHARED and len(layers[number]["paths"]) > 1):
                yield f"{found.path}: the layer {layers[number]['paths']} a second time"
            seen.setdefault(number, []).append(found)
            lines = list(self.layer(form, found, number, bundle.warnings))
            counts["right"] += not lines
            yield from (f"{found.path}: {line}" for line in lines)
        for number, entries in seen.items():
            yield from self.calls(form, entries, layers[number])
        for _, reason in bundle.skipped:
            yield from self.refuse(form, reason)
        missing = [layer["paths"][0] for number, layer in enumerate(layers) if number not in seen and self.is_in(file, number)]
        doubts = [sentence for sentence in bundle.warnings if weights.TWO_VECTORS in sentence or MANY_AXES in sentence]
        self.refusals += [(form, "said to be perhaps none", str(self.truth["seed"])) for _ in doubts]
        missing = missing[: max(len(missing) - len(doubts), 0)]
        counts["refused"] += min(len(missing), len(bundle.skipped))
        if len(missing) > len(bundle.skipped):
            yield f"dropped without a word: {missing}, skipped {[path for path, _ in bundle.skipped]}"
        elif len(missing) < len(bundle.skipped):
            self.refusals.append((form, "more is skipped than is missing", str(self.truth["seed"])))

    def is_in(self, file: dict[str, Any], number: int) -> bool:
        """Whether a file holds the layer at all: TensorFlow does not find what lies in a list or dict of a subclassed model of Keras 3, and
        Keras 2.3 leaves out the user's cell in the backward layer of Bidirectional."""
        mean = listed(self.arrays[f"{number}/moving_mean"])
        if file["format"].startswith("h5"):
            with h5py.File(self.folder / file["file"]) as held:
                names: list[str] = []
                held.visit(names.append)
                return mean in [listed(held[name][()]) for name in names if "moving_mean" in name and hasattr(held[name], "shape")]
        return "means" not in file or mean in file["means"]

    def read(self, file: dict[str, Any], options: dict[str, Any], form: str) -> Any:
        """A bundle, or why there is none."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return exporter.read(self.folder / file["file"], **options)
        except exporter.ExporterError as error:
            return str(error)
        except Exception as error:
            import traceback

            return f"Traceback: {type(error).__name__}: {error} {traceback.extract_tb(error.__traceback__)[-1]}"

    def refuse(self, form: str, sentence: str) -> Iterator[str]:
        """Counts each reason that a refusal gives; one that is not known, or not true of this model, is wrong."""
        known = [(name, applies) for name, words, applies in REASONS if words[:40] in sentence]
        for name, _ in known:
            self.refusals.append((form, name, str(self.truth["seed"])))
        if not any(applies(self.truth, form) for _, applies in known):
            yield f"refused: {sentence[:400]}"

    def layer(self, form: str, found: Any, number: int, warnings: tuple[str, ...]) -> Iterator[str]:
        """What is wrong with one layer."""
        truth = self.truth["layers"][number]
        for role in ROLES:
            want, got = self.arrays.get(f"{number}/{role}"), getattr(found, role)
            if form == "frozen" and want is None and got is not None and (got == (role == "gamma")).all():
                continue  # a graph may store the ones or zeros of a layer without it under the name of the kernel's argument
            if (want is None) != (got is None) or (want is not None and want.tobytes() != got.tobytes()):
                yield f"{role} is {got}, the layer's {want}"
        if found.dtype != truth["dtype"]:
            yield f"dtype {found.dtype}, the layer's {truth['dtype']}"
        is_old_name = form == "orbax" and self.truth["is_any_renamed"] and "epsilon" in found.assumed  # taken for one of a user's class
        if form not in NO_NAMES and not is_old_name:
            if not truth["own"] and (form not in UNSHARED or len(truth["paths"]) == 1):
                self.paths[number][form] = found.path
            if not truth["own"] and found.path.split("#")[0] not in truth["paths"] and found.path not in truth["paths"]:
                yield f"path {found.path!r}, the layer's {truth['paths']}"
        known = {np.float32(truth["epsilon"])} | ({np.float32(max(truth["epsilon"], 1.001e-5))} if form in FROM_GRAPHS else set())
        if "epsilon" not in found.assumed and np.float32(found.epsilon) not in known:
            yield f"epsilon {found.epsilon}, the layer's {truth['epsilon']}"
        if "axis" not in found.assumed:
            yield from self.axis(found, truth, any(ABOUT_WRAPPER in sentence and found.path in sentence for sentence in warnings))
        is_rank_said = not any(ABOUT_RANK in sentence for sentence in warnings)
        if "axis" not in found.assumed and "epsilon" not in found.assumed and is_rank_said:
            yield from self.output(found, number)
        is_one_of_several = form in UNSHARED and len(truth["paths"]) > 1
        training = truth["training"]
        if training and is_one_of_several:
            training = any(call["training"] for call in truth["calls"] if call["path"] == found.path)
        is_lost = truth.get("may_obey", False) or any(places.OVERWRITTEN in sentence and found.path in sentence for sentence in warnings)
        if training is not None and form not in NO_NAMES and not is_lost and found.called_in_training not in (training, truth["training"]):
            yield f"called_in_training {found.called_in_training}, the model's {truth['training']}"

    def axis(self, found: Any, truth: dict[str, Any], is_outer: bool) -> Iterator[str]:
        """is_outer: said to be the axis of the input of a wrapper, which has more axes."""
        if is_outer and truth["over_time"]:
            if min(found.axis) <= truth["axis"][0] or found.ndim is not None:
                yield f"axis {found.axis} of a wrapper's input, the layer's {truth['axis']}"
            return
        got = sorted(axis % truth["ndim"] for axis in found.axis)
        if got != sorted(truth["axis"]):
            yield f"axis {found.axis}, the layer's {truth['axis']} of rank {truth['ndim']}"
        elif found.ndim not in (None, truth["ndim"]):
            yield f"ndim {found.ndim}, the layer's {truth['ndim']}"
        elif truth["over_time"] and truth["axis"] == [truth["ndim"] - 1] and found.axis != (-1,):
            yield f"axis {found.axis} inside a wrapper that adds axes"

    def output(self, found: Any, number: int) -> Iterator[str]:
        x, y = self.arrays.get(f"{number}/x"), self.arrays.get(f"{number}/y")
        kind = self.truth["layers"][number]["compute_dtype"]
        unit = UNITS.get(kind.split(":")[-1].strip("'<> "), 2.0**-8 if "bfloat16" in kind else 2.0**-11 if "16" in kind else 2.0**-24)
        is_uncertain = found.effective_epsilon is not None and self.truth.get("is_any_unfused")
        if x is None or is_uncertain or found.dtype in ("float16", "bfloat16") or x.ndim != (found.ndim or x.ndim):
            return
        layer = found if found.effective_epsilon is None else found.replace(epsilon=found.effective_epsilon)
        got = exporter.evaluate(layer, x.astype(np.float64))
        from exporter.batchnorm.layer import broadcast, find_axes

        axes = find_axes(layer, x, None)
        scale = np.abs(broadcast(layer.scale, axes, x.ndim))
        mean = np.abs(broadcast(layer.moving_mean.astype(np.float64), axes, x.ndim))
        beta = 0 if layer.beta is None else np.abs(broadcast(layer.beta.astype(np.float64), axes, x.ndim))
        bound = 32 * unit * (scale * np.abs(x) + scale * mean + beta) + 1e-37
        off = np.where(np.isfinite(y), np.abs(got - y) / bound, 0)
        if off.max() > 1:
            worst = np.unravel_index(off.argmax(), off.shape)
            yield (f"output {got[worst]:.9g}, the layer's {y[worst]:.9g}, bound {np.broadcast_to(bound, y.shape)[worst]:.2g}, epsilon "
                   f"{found.epsilon:g} effective {found.effective_epsilon}")

    def calls(self, form: str, entries: list[Any], truth: dict[str, Any]) -> Iterator[str]:
        """Whether what feeds and follows each call is right; a Sequential's config may have an input layer or none. Each entry of a layer
        that a file holds more than once has the calls under its path, and all of them together have all calls."""
        def said(call: Any) -> Any:
            return tuple(tuple(sorted((each.path, plain(each.class_name)) for each in side if each.class_name != "InputLayer"))
                         for side in (call.inputs, call.outputs))

        def true(call: Any) -> Any:
            return tuple(tuple(sorted((path, kind) for path, kind in call[side] if kind != "InputLayer")) for side in ("inputs", "outputs"))

        def plain(name: str) -> str:
            return re.sub("V[12]$", "", name.rpartition(">")[2])

        if form in FROM_GRAPHS or not all(each.calls for each in entries):  # in graphs they are operations
            return
        if truth["calls"] is None and self.truth["is_copy"]:
            return
        if truth["calls"] is None:
            yield f"{entries[0].path}: its place is said, in a model of which none is known: {entries[0].calls}"
            return
        got, want = (collections.Counter(calls) for calls in (
            [said(call) for each in entries for call in each.calls], map(true, truth["calls"])))
        if got != want:
            yield f"{[each.path for each in entries]}: calls {sorted(got.elements())}, the model's {sorted(want.elements())}"
        for each in entries if len(entries) > 1 else ():
            own = collections.Counter(true(call) for call in truth["calls"] if call["path"] == each.path)
            if own - collections.Counter(map(said, each.calls)):
                yield f"{each.path}: calls {each.calls}, its own {sorted(own.elements())}"

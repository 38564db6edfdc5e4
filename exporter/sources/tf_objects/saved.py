"""Batch norms of a SavedModel's object graph: which they are, what Keras says about them, and where their numbers lie."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from exporter.batchnorm.stored import STATISTICS
from exporter.errors import FormatError, UnsupportedError, UsageError, names, printable
from exporter.formats.object_graph import CheckpointGraph, SavedGraph, Way, read_metadata
from exporter.formats.strict_json import parse_json
from exporter.keras.calls import NOTHING_AROUND, Surroundings
from exporter.keras.config import Node, NormFields, is_batch_norm, join, model_tree, norm_fields
from exporter.keras.lookalikes import INNER_NORM, about_wrapper, inner_norm
from exporter.sources.tf_objects import METADATA, MODEL
from exporter.sources.tf_objects.configs import Laid, given_configs
from exporter.sources.tf_objects.norms import ObjectNorm, object_norms, parameters
from exporter.sources.tf_objects.parts import graphs_of, of_inference

if TYPE_CHECKING:
    from exporter.files.place import Place

AGAIN = "the file is damaged: copy or save the SavedModel again"


class KerasMetadata:
    """Keras's JSON about each object: in keras_metadata.pb from TensorFlow 2.5 on, before that beside the object itself."""

    def __init__(self, place: Place, saved: SavedGraph, stored: CheckpointGraph) -> None:
        self._separate = read_metadata(place.read(), place.name, saved) if place.is_file() else None
        self._saved, self._stored = saved, stored
        self._where = place.name if self._separate is not None else saved.where
        self._parsed: dict[int, dict[str, Any]] = {}
        self._in_model: Laid | None = None

    def path(self, found: ObjectNorm) -> str:
        """The names of the Keras objects on the way to one, without the model's own; "" if its own is not known."""
        nodes, roles = found.way
        if not self._name(found.node):
            return ""
        path = "" if roles else self._name(found.node)
        for (outer, node), role in zip(itertools.pairwise(nodes), roles, strict=True):
            path = join(path, INNER_NORM if role == INNER_NORM and self._is_fused(outer) else self._name(node))
        return path

    def _is_fused(self, node: int) -> bool:
        """Whether a layer is a kernel and a batch norm in one, whose config gives the inner one no name."""
        said = self._json(node)
        return isinstance(said.get("config"), dict) and inner_norm(str(said.get("class_name")), said["config"]) is not None

    def config(self, found: ObjectNorm) -> tuple[Node, NormFields] | None:
        """The config of a batch norm, None if there is none or it is no batch norm's."""
        said = self._json(found.node)
        if not isinstance(said.get("class_name"), str) or not isinstance(said.get("config"), dict):
            return None
        tree = model_tree({"class_name": said["class_name"], "config": said["config"]}, self._where)
        if not is_batch_norm(tree):
            return None
        tree = self._placed(tree, found)
        config = norm_fields(tree)
        listed = _entry(self._json(found.way[0][-2]) if len(found.way[0]) > 1 else {}, tree.name).get("config")
        if tree.name not in ("", said.get("name", tree.name)):
            raise FormatError(f"its name is {printable(repr(said['name']), 80)} in its own metadata and {printable(tree.name, 80)!r} in "
                              "its config", where=f"layer {printable(tree.name, 80)}", hint=AGAIN)
        if isinstance(listed, dict) and listed.get("epsilon", config.epsilon) != config.epsilon:
            raise FormatError(f"its epsilon is {config.epsilon!r} in its own metadata and {listed['epsilon']!r} in its model's",
                              where=f"layer {tree.name}", hint=AGAIN)
        return tree, config if config.ndim is not None else dataclasses.replace(config, ndim=_rank(said))

    def is_removed(self, found: ObjectNorm) -> bool:
        """Whether a model on the way to a layer lists its layers and neither this one nor what holds it: tf.keras kept what
        Sequential.pop() took out."""
        called = [self._name(node) for node in found.way[0]]
        listed = [_listed(self._json(node)) for node in found.way[0]]
        return bool(called[-1]) and any(names and names.isdisjoint(called[number:]) for number, names in enumerate(listed[:-1], 1))

    def path_of(self, way: Way) -> str:
        """As `path`, of any object: the names of the Keras objects on the way to it; "" if it has none itself."""
        path = ""
        for node in way[0][1:]:
            path = join(path, self._name(node))
        return path if self._name(way[0][-1]) else ""

    def is_preparing(self, variance: int | None) -> bool:
        """Whether a variable is of Keras's Normalization, which in TensorFlow 2.3 computes (x - mean) / sqrt(variance)."""
        for node in self._stored.holders("variance"):
            children = self._stored.children(node)
            if children["variance"] == variance and {"mean", "count"} <= children.keys():
                return self._json(node).get("class_name") == "Normalization"
        return False

    def model(self) -> Node | None:
        """The config of the outermost model; None if it lists no layers."""
        laid = self._laid()
        return laid.tree if laid else None

    def _placed(self, tree: Node, found: ObjectNorm) -> Node:
        """The config of a batch norm with how its models call it: on this way to it, and, in the outermost model's config, on all."""
        laid = self._laid()
        _, listed = laid.norms.get(found.node, ("", None)) if laid else ("", None)
        around = self._surroundings(found)
        if listed is not None and listed.surroundings.training:
            around = dataclasses.replace(around, training=True)
        return tree.replace(surroundings=around, calls=listed.calls if listed is not None else ())

    def _laid(self) -> Laid | None:
        """The config of the outermost model, laid over the objects; of no layer where it does not fit them, None if it lists none."""
        said = self._json(0)
        if self._in_model is None and _listed(said):
            model = model_tree({key: said.get(key) for key in ("class_name", "config")}, self._where)
            try:
                self._in_model = given_configs(self._stored, model, self._where)
            except (FormatError, UsageError):  # what says nothing of a layer's numbers; what it says of those is checked elsewhere
                self._in_model = Laid({}, model, {})
        return self._in_model

    def _surroundings(self, found: ObjectNorm) -> Surroundings:
        """What the models and wrappers on the way to a layer say of it and of its calls."""
        around = NOTHING_AROUND
        outer: dict[str, Any] = {}
        for node, role in zip(found.way[0], ("", *found.way[1]), strict=True):
            if not self._name(node):
                continue
            around = _inside(around, outer, role)
            entry = _entry(outer, self._name(node))
            around, outer = around.called(entry), self._json(node)
        return around

    def _name(self, node: int) -> str:
        name = self._json(node).get("name")
        return name if isinstance(name, str) else ""

    def _json(self, node: int) -> dict[str, Any]:
        found = self._parsed.get(node)
        if found is None:
            text = self._saved.metadata(node) if self._separate is None else self._separate.get(node, b"")
            value = parse_json(text, f"{self._where}: metadata of node {node}") if text.strip() else {}
            if not isinstance(value, dict):
                raise FormatError(f"the metadata of node {node} is not a JSON object", where=self._where)
            found = self._parsed[node] = value
        return found


def _entries(model: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The name and the entry of each layer that a model's config lists; none where it is no model's."""
    config = model.get("config")
    layers = config.get("layers") if isinstance(config, dict) else None
    found = []
    for entry in layers if isinstance(layers, list) else ():
        own = entry.get("config") if isinstance(entry, dict) else None
        name = own.get("name") if isinstance(own, dict) else None
        if not isinstance(name, str):
            return []
        found.append((name, entry))
    return found


def _listed(model: dict[str, Any]) -> set[str]:
    return {name for name, _ in _entries(model)}


def read_model_config(folder: Place) -> dict[str, Any]:
    """The config of the model that Keras saved as a SavedModel, with keras_version and backend; UnsupportedError if it has none."""
    part = of_inference(graphs_of(folder.child(MODEL)))
    separate = folder.child(METADATA)
    text = b""
    if part.objects is not None:
        text = read_metadata(separate.read(), METADATA, part.objects).get(0, b"") if separate.is_file() else part.objects.metadata(0)
    said = parse_json(text, f"{MODEL}: metadata of the model") if text.strip() else {}
    if not isinstance(said, dict) or not _listed(said):
        raise UnsupportedError("this SavedModel contains no config of a functional or Sequential model")
    return {key: said[key] for key in ("class_name", "config", "keras_version", "backend") if key in said}


def _inside(around: Surroundings, outer: dict[str, Any], role: str) -> Surroundings:
    """The surroundings of what an object holds under this name, from its metadata."""
    class_name, config = str(outer.get("class_name")).rpartition(">")[2], outer.get("config")
    inside = around.inside(class_name, role)
    return inside.noted(about_wrapper(class_name, config)) if isinstance(config, dict) else inside


def _entry(model: dict[str, Any], name: str) -> dict[str, Any]:
    """What a model's config says of the layer of this name; {} where it says nothing. A Sequential has the name in the layer's config
    alone."""
    named = [entry for other, entry in _entries(model) if other == name]
    return named[0] if len(named) == 1 else {}


def _rank(said: dict[str, Any]) -> int | None:
    """Rank of the input that a layer was built on, from what TensorFlow 1.15 to 2.21 recorded of it: the shape, or what the layer expects
    since; at last the shape that the user gave, which Keras uses only for inputs of a model."""
    spec = said.get("input_spec")
    config = spec.get("config") if isinstance(spec, dict) else None
    rank = config.get("ndim") if isinstance(config, dict) else None
    if type(rank) is not int or rank < 2:
        rank = _size_of(said.get("batch_input_shape"))
    return _size_of(said.get("build_input_shape")) or rank


def _size_of(shape: Any) -> int | None:
    """The rank of a shape with at least two axes."""
    shape = shape.get("items") if isinstance(shape, dict) else shape
    is_shape = isinstance(shape, list) and len(shape) > 1 and not any(isinstance(size, (list, dict)) for size in shape)
    return len(shape) if is_shape else None


def same_norms(saved: SavedGraph, stored: CheckpointGraph) -> list[ObjectNorm]:
    """The batch norms of a SavedModel by the object graph of its checkpoint: that one has a checksum, saved_model.pb has none.

    Both graphs number the same objects alike. Raises FormatError if they differ in the parameters of a batch norm.
    """
    found = object_norms(stored, stored.is_variable)
    kept = {(norm.node, role, node): stored.variable_name(node) for norm in found for role, node in norm.variables.items()}
    said = {(norm, role, node): saved.variable_name(node)
            for norm in saved.holders(STATISTICS[0]) for role, node in parameters(saved, norm, saved.is_variable).items()}
    if said.keys() != kept.keys():
        called = names(dict.fromkeys((kept | said)[key] or f"{key[1]} of node {key[0]}" for key in sorted(said.keys() ^ kept.keys())))
        raise FormatError(f"its object graph and that of the checkpoint list different parameters: {called}", where=saved.where,
                          hint="a file of the folder is damaged or belongs to another model: copy or save the whole folder again")
    return found


def model_prefix(variables: Iterable[str]) -> re.Pattern[str] | None:
    """What matches the model's name, which all of its variables' names begin with, at the start of a path alone; None if they do not."""
    first = {name.partition("/")[0] for name in variables if name}
    return re.compile(rf"\A{re.escape(first.pop())}(_\d+)?/") if len(first) == 1 else None

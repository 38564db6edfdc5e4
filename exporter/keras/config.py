"""The JSON of a model, of every Keras version: a tree of its layers in the order in which the model contains and saves them.

    0.3       {"name": "Sequential", "layers": [{"name": "Dense", "custom_name": ...}]}, {"name": "Graph", "nodes": {...}}
    1.0-2.1   {"class_name": "Sequential", "config": [layer, ...]}
    2.2 on    {"class_name": "Sequential", "config": {"name": ..., "layers": [layer, ...]}}
    3         the same with module, registered_name and build_config

Nothing in a config is imported or called; whatever is not a layer of a known form is just data.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exporter.errors import FormatError, printable
from exporter.keras.calls import NESTED, NOTHING_AROUND, ON_BY_DEFAULT, Surroundings, input_names, input_tensors
from exporter.keras.lookalikes import BATCH_NORMS, INNER_NORM, MODELS_ELSEWHERE, WRITTEN, about_wrapper, inner_norm, is_called_batch_norm
from exporter.keras.node import MODELS as MODELS
from exporter.keras.node import Node as Node
from exporter.keras.node import is_batch_norm as is_batch_norm
from exporter.keras.node import join as join
from exporter.keras.node import walk as walk
from exporter.keras.places import with_ids_inside, with_places

MAX_LAYERS = 100_000
MAX_KEPT = 1 << 20  # characters of a config whose tree is kept for the next file: the checkpoints of one training have one config
HOW_TO_GIVE_ONE = "an architecture is the JSON of model.to_json() or get_config(), or a whole model of model.save(); YAML is not read"
GIVE_THEIR_OWN = "give the architecture of the model that these weights were saved from"

_WRAPPERS = ("TimeDistributed", "Bidirectional")
# Keys with objects that are not layers, or with a second description of listed layers.
_NO_LAYERS = frozenset(("dtype", "input_layers", "output_layers", "inbound_nodes", "build_config", "compile_config", "training_config",
                        "optimizer"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NormFields:
    """The contents of a batch norm's config; None: the key is missing.

    axis:  as written, a number as a tuple of one. dtype: name of the dtype or of the policy.
    ndim:  rank of the input with its batch axis, if the entry itself contains it.
    mode:  of Keras 0.3 to 1.2; 0 elsewhere. renorm, virtual_batch_size, synchronized: False, None, False if unused.
    """

    axis: tuple[int, ...] | None
    epsilon: float | None
    momentum: float | None
    center: bool | None
    scale: bool | None
    dtype: str | None
    ndim: int | None
    mode: int
    renorm: bool
    virtual_batch_size: int | None
    synchronized: bool


# The keys that `norm_fields` reads, and what it found for each text of their values: most batch norms of a model have the same.
_NORM_KEYS = ("axis", "epsilon", "momentum", "center", "scale", "dtype", "mode", "renorm", "virtual_batch_size", "synchronized")
_MISSING = (...,) * len(_NORM_KEYS)
_KNOWN_FIELDS: dict[str, NormFields] = {}
MAX_KNOWN = 1000


def parse_config(text: str | bytes, where: str) -> Node:
    """The tree of a model's JSON, e.g. of the attribute model_config, of to_json() or of config.json.

    Raises: FormatError for text that is not strict JSON or contains no model.
    """
    return _latest(text, where) if len(text) <= MAX_KEPT else _parsed(text, where)


def _parsed(text: str | bytes, where: str) -> Node:
    from exporter.formats.strict_json import parse_json

    return model_tree(parse_json(text, where), where)


_latest = functools.lru_cache(1)(_parsed)


def model_tree(value: Any, where: str) -> Node:
    """The tree of a parsed model config."""
    counter = _Counter(where)
    if isinstance(value, dict) and isinstance(value.get("class_name"), str):
        tree = with_places(with_ids_inside(_layer(value, counter, NOTHING_AROUND, "the model")))
    elif isinstance(value, dict) and isinstance(value.get("name"), str) and ("layers" in value or "nodes" in value):
        tree = _old_layer(value, counter, "")
    else:
        raise FormatError("this JSON is not the config of a Keras model", where=where, hint=HOW_TO_GIVE_ONE)
    return tree.replace(has_unclear=counter.has_unclear, may_train=counter.may_train)


class _Counter:
    """The place of the config, and how many more layers it may contain."""

    def __init__(self, where: str) -> None:
        self.where, self.left, self.has_unclear, self.may_train = where, MAX_LAYERS, False, False

    def error(self, what: str, name: object = "") -> FormatError:
        layer = f"layer {printable(str(name), 80)}" if name else ""
        return FormatError(what, where=": ".join(filter(None, (self.where, layer))))

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error(f"expected at most {MAX_LAYERS} layers, got more")


def _layer(entry: dict[str, Any], counter: _Counter, outer: Surroundings, what: str = "a layer", *, is_first: bool = False) -> Node:
    """A layer's entry {"class_name", "config", ...} of Keras 1 and later. is_first: of a Sequential, whose input it specifies."""
    counter.count()
    class_name, config = entry.get("class_name"), entry.get("config")
    if not isinstance(class_name, str):
        raise counter.error(f"the class_name of {what} is not text", entry.get("name", ""))
    listed, own = config if isinstance(config, list) else None, outer.called(entry)
    if listed is not None and class_name.rpartition(">")[2] in MODELS:
        children = _listed(listed, counter, class_name, own, is_sequential=True)
        return Node(name=_name(entry, {}, counter, optional=True), class_name=class_name, config={},
                    children=tuple(("layers", child) for child in children), surroundings=own)
    if not isinstance(config, dict):
        raise counter.error(f"the config of {what} of class {printable(class_name, 80)} is not an object", entry.get("name", ""))
    if _is_wrapper(entry) and "layer" not in config:
        raise counter.error(f"the config of a {class_name} contains no layer", entry.get("name", config.get("name", "")))
    base = class_name.rpartition(">")[2]
    registered, shared = entry.get("registered_name"), entry.get("shared_object_id")
    tensors = input_tensors(entry)
    # a user's class may omit its name from its config, or store the None that it was called with
    optional = base not in BATCH_NORMS or ">" in class_name or isinstance(registered, str)
    counter.has_unclear |= base in MODELS_ELSEWHERE or (is_called_batch_norm(base) and (optional or WRITTEN.isdisjoint(config)))
    counter.may_train |= own.training is True or base in ON_BY_DEFAULT
    return Node(name=_name(entry, config, counter, optional=optional), class_name=class_name, config=config,
                registered_name=registered if isinstance(registered, str) else None, is_builtin=entry.get("registered_name", "") is None,
                children=tuple(_children(base, config, counter, own)), input_shape=_input_shape(entry, config, tensors, is_first),
                inputs=input_names(entry, tensors), surroundings=own,
                shared_object=shared if isinstance(shared, int) and not isinstance(shared, bool) else None)


def _is_wrapper(entry: dict[str, Any]) -> bool:
    """Whether it is one of Keras's own wrappers rather than a user's class of the same name."""
    return entry.get("class_name") in _WRAPPERS and entry.get("registered_name") in (None, entry["class_name"])


def _name(entry: dict[str, Any], config: dict[str, Any], counter: _Counter, *, optional: bool) -> str:
    name = config["name"] if "name" in config and not (optional and config["name"] is None) else entry.get("name")
    called = entry.get("name", name)
    is_own = (entry.get("class_name") in MODELS or _is_wrapper(entry)) and isinstance(called, str) and isinstance(name, str)
    if (not optional or is_own) and called != name:
        raise counter.error(f"the names of a layer disagree: the model calls it {printable(str(called), 80)!r}, its config "
                            f"{printable(str(name), 80)!r}")
    if name is None and optional:
        return ""
    if name is None:
        raise counter.error("a layer has no name")
    if not isinstance(name, str):
        raise counter.error("the name of a layer is not text", name)
    return name


def _listed(entries: list[Any], counter: _Counter, owner: str, outer: Surroundings, *, is_sequential: bool) -> Iterator[Node]:
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise counter.error("an entry of its layers is not an object", owner)
        yield _layer(entry, counter, outer, is_first=is_sequential and number == 0)


def _children(base: str, config: dict[str, Any], counter: _Counter, outer: Surroundings) -> Iterator[tuple[str, Node]]:
    layers = config.get("layers")
    if base in MODELS:
        if not isinstance(layers, list):
            raise counter.error("the config of a model has no list of layers" if layers is None else "the layers of a model are not a list",
                                config.get("name", ""))
        seen: set[str] = set()
        for child in _listed(layers, counter, str(config.get("name", base)), outer, is_sequential="input_layers" not in config):
            if child.name in seen:
                raise counter.error("two layers of one model have this name, which Keras does not allow, so which weights belong to "
                                    "which is ambiguous",
                                    child.name)
            seen.update([child.name] if child.name else [])
            yield "layers", child
        return
    if base == "Bidirectional" and _is_layer(config.get("layer")):
        yield from _directions(config["layer"], config, counter, outer)
        return
    inner = inner_norm(base, config)
    if inner is not None:
        yield INNER_NORM, _layer(inner, counter, outer)
    for key in sorted(_holders(config), key="layers".__ne__):  # these first
        entries: list[dict[str, Any]] = []
        _collect(config[key], entries)
        if entries:
            inside = outer.noted(about_wrapper(base, config)).inside(base, key)
            yield from ((key, _layer(entry, counter, inside)) for entry in entries)


def _directions(layer: dict[str, Any], config: dict[str, Any], counter: _Counter, outer: Surroundings) -> Iterator[tuple[str, Node]]:
    """The two copies that Bidirectional makes of its layer; it prefixes their names with the direction (Keras 0.3 to 3)."""
    for direction in ("forward", "backward"):
        own = config.get(f"{direction}_layer")
        child = _layer(own if isinstance(own, dict) and _is_layer(own) else layer, counter, outer)
        plain = child.name.removeprefix("forward_").removeprefix("backward_")
        yield f"{direction}_layer", child.replace(name=f"{direction}_{plain}")


def _collect(value: Any, found: list[dict[str, Any]]) -> None:
    """Adds the entries of the layers that a value of a config contains, at any depth, except those inside another layer."""
    if type(value) is list:
        for child in value:
            if type(child) in NESTED:
                _collect(child, found)
    elif _is_layer(value):
        found.append(value)
    else:
        for key in _holders(value):
            _collect(value[key], found)


def _holders(config: dict[str, Any]) -> list[str]:
    """The keys of values that may contain layers."""
    return [key for key, value in config.items() if type(value) in NESTED and value and key not in _NO_LAYERS]


def _is_layer(value: Any) -> bool:
    """Whether a value is a serialized layer: initializers, regularizers and the like have a class_name but no name."""
    if not isinstance(value, dict):
        return False
    class_name, config = value.get("class_name"), value.get("config")
    if not isinstance(class_name, str):
        return False
    if isinstance(config, list):
        return class_name.rpartition(">")[2] in MODELS
    return isinstance(config, dict) and isinstance(config.get("name"), str)


def _old_layer(entry: dict[str, Any], counter: _Counter, group: str) -> Node:
    """A layer of Keras 0.3: one flat object whose "name" is the class. `custom_name` came with 0.3.2; before, the only name is that of its
    group."""
    counter.count()
    class_name, own = entry.get("name"), entry.get("custom_name", group)
    if not isinstance(class_name, str):
        raise counter.error("a layer has no class name", own)
    if not isinstance(own, str):
        raise counter.error("the custom_name of a layer is not text", own)
    counter.has_unclear |= class_name not in BATCH_NORMS and is_called_batch_norm(class_name)
    layers, order = entry.get("layers", []), entry.get("node_config")
    if class_name == "Graph":
        layers = _graph_nodes(entry.get("nodes"), order, counter)
    if not isinstance(layers, list) or not all(isinstance(child, dict) for child in layers):
        raise counter.error("its layers are not a list of objects", own or class_name)
    children = [("layers", _old_layer(child, counter, f"layer_{number}")) for number, child in enumerate(layers)]
    if isinstance(entry.get("layer"), dict):
        children.append(("layer", _old_layer(entry["layer"], counter, "layer")))
    shape = entry.get("input_shape")
    return Node(name=own, class_name=class_name, config={key: value for key, value in entry.items() if key != "name"},
                children=tuple(children), input_shape=_shape([None, *shape]) if isinstance(shape, list) else None)


def _graph_nodes(nodes: Any, order: Any, counter: _Counter) -> list[Any]:
    """The nodes of a Graph in the order of node_config, in which it saves them (the keys of `nodes` are unordered)."""
    names = [item.get("name") if isinstance(item, dict) else None for item in order] if isinstance(order, list) else []
    if not isinstance(nodes, dict) or len(set(map(str, names))) != len(names) or set(names) != set(nodes):
        raise counter.error("nodes and node_config of a Graph list different layers")
    return [{**nodes[name], "custom_name": name} if isinstance(nodes[name], dict) else None for name in names]


def _input_shape(entry: dict[str, Any], config: dict[str, Any], tensors: Sequence[dict[str, Any]],
                 is_first: bool) -> tuple[int | None, ...] | None:
    """The shape that a layer was built on. Keras 2 stores any input_shape that a layer was given, but uses only those of a model's inputs:
    the others are often copied from there.
    """
    build = entry.get("build_config")
    found = build.get("input_shape") if isinstance(build, dict) else None
    given = (config.get("batch_input_shape"), config.get("batch_shape")) if is_first or entry["class_name"] == "InputLayer" else ()
    incoming = tensors[0].get("shape") if len(tensors) == 1 else None
    for value in (found, *given, incoming):
        if value is not None and (shape := _shape(value)):
            return shape
    return None


def _shape(value: Any) -> tuple[int | None, ...] | None:
    if isinstance(value, dict):  # {"class_name": "__tuple__", "items": [...]} in the metadata of a SavedModel
        value = value.get("items")
    if not isinstance(value, list) or not all(size is None or (type(size) is int and size >= 0) for size in value):
        return None
    return tuple(value)


def norm_fields(node: Node) -> NormFields:
    """The checked contents of a batch norm's config: a wrong type is an error, a missing key is None.

    Raises: FormatError, with `where` "layer NAME".
    """
    said = repr((node.base_name, len(node.input_shape or ()), *map(node.config.get, _NORM_KEYS, _MISSING)))
    if said not in _KNOWN_FIELDS:
        if len(_KNOWN_FIELDS) >= MAX_KNOWN:
            _KNOWN_FIELDS.clear()
        _KNOWN_FIELDS[said] = _norm_fields(node)
    return _KNOWN_FIELDS[said]


def _norm_fields(node: Node) -> NormFields:
    config = node.config
    try:
        return NormFields(
            axis=_axis(config), epsilon=_epsilon(config), momentum=_number(config, "momentum"), center=_flag(config, "center"),
            scale=_flag(config, "scale"), dtype=_dtype(config.get("dtype")), ndim=len(node.input_shape) if node.input_shape else None,
            mode=_integer(config, "mode") or 0, renorm=_flag(config, "renorm") or False,
            virtual_batch_size=_integer(config, "virtual_batch_size"),
            synchronized=_flag(config, "synchronized") or node.base_name == "SyncBatchNormalization")
    except FormatError as error:
        raise error.inside(f"layer {printable(node.name or node.class_name, 80)}") from None


def _axis(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    if "axis" not in config:
        return None
    axis = config["axis"]
    numbers = axis if isinstance(axis, list) else [axis]
    if not numbers or not all(type(number) is int for number in numbers):
        raise FormatError(f"expected an integer or a list of integers as its axis, got {_shown(axis)}")
    return tuple(numbers)


def _epsilon(config: Mapping[str, Any]) -> float | None:
    value = _number(config, "epsilon")
    if value is not None and not 0 <= value <= 3.4028234663852886e38:
        raise FormatError(f"expected an epsilon of 0 or more that fits float32, got {value:g}")
    return value


def _number(config: Mapping[str, Any], key: str) -> float | None:
    if key not in config:
        return None
    value = config[key]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise FormatError(f"expected a number as its {key}, got {_shown(value)}")
    return float(value)


def _integer(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if value is not None and type(value) is not int:
        raise FormatError(f"expected an integer as its {key}, got {_shown(value)}")
    return value


def _flag(config: Mapping[str, Any], key: str) -> bool | None:
    """A switch; people also give 1 and 0."""
    value = config.get(key)
    if key in config and type(value) is not bool and not (type(value) is int and value in (0, 1)):
        raise FormatError(f"expected true or false as its {key}, got {_shown(value)}")
    return None if value is None else bool(value)


def _dtype(value: Any) -> str | None:
    """Name of a dtype or policy: "float32", {"class_name": "Policy", "config": {"name": "mixed_float16"}} or a DTypePolicyMap."""
    for _ in range(2):
        if not isinstance(value, dict):
            break
        config = value.get("config")
        value = config.get("name", config.get("default_policy")) if isinstance(config, dict) else None
    return value if isinstance(value, str) else None


def _shown(value: Any) -> str:
    import json

    return printable(json.dumps(value), 60)


def writer_in(said: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The version of Keras and the backend that a JSON object contains beside a config."""
    version, backend = (text if isinstance(text := said.get(key), str) else None for key in ("keras_version", "backend"))
    return version, backend


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Architecture:
    """A config that is stored separately from the weights: the tree, and the version and backend if its file contains them.

    has_version: whether such a file contains the version since Keras 1.0.4, as to_json() does and get_config() does not.
    """

    tree: Node
    keras_version: str | None
    backend: str | None
    has_version: bool = True

"""A layer in a model's config, of every Keras version, and traversal of the tree of layers."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from exporter.batchnorm.places import Call
from exporter.keras import lookalikes
from exporter.keras.calls import NOTHING_AROUND, Surroundings
from exporter.keras.lookalikes import BATCH_NORMS, INNER_NORM, SIGNS, WRITTEN

MODELS = ("Sequential", "Model", "Functional", "Network")
# Built-in layers that contain no other layer: their groups need not be opened.
LEAVES = frozenset((
    "InputLayer", "Dense", "Activation", "ReLU", "LeakyReLU", "PReLU", "Softmax", "Dropout", "Flatten", "Reshape", "Add", "Multiply",
    "Concatenate", "Rescaling", "LayerNormalization", "Embedding",
    *(f"{kind}{rank}D" for rank in (1, 2, 3)
      for kind in ("Conv", "DepthwiseConv", "SeparableConv", "ZeroPadding", "Cropping", "UpSampling", "MaxPooling", "AveragePooling",
                   "GlobalMaxPooling", "GlobalAveragePooling"))))


# Keys of which tf_keras writes none in the legacy form of an object, and ids, which it writes at only one of two places of a layer.
_OF_ONE_FORM = frozenset(("module", "registered_name", "build_config", "shared_object_id"))


@dataclasses.dataclass(kw_only=True, slots=True, eq=False)  # not frozen, which triples the time to make one; nothing changes it
class Node:
    """One layer of a config, or the model itself.

    name:            the layer's own; "" if the config contains none (a Sequential of Keras 1). A layer of Keras 0.3.0 has the name of
                     its group in HDF5, "layer_0".
    class_name:      as written, e.g. "BatchNormalization", "Custom>MyBN".
    base_name:       the class name without the package that it is registered under.
    registered_name: of a user's class in the configs that Keras 2.13 and later write, but in .h5, e.g. "Custom>MyBN"; otherwise None.
    is_builtin:      whether such a config says that the class is Keras's own.
    config:          the layer's config; {} for a Sequential whose config is a list.
    children:        (role, Node) in the order in which the layer contains them. A role is the config's key: "layers" of a model or
                     a legacy Merge, "layer" of a wrapper, "forward_layer" and "backward_layer" of Bidirectional, "cell" of RNN,
                     "cells" of StackedRNNCells, any other key of a user's class.
    input_shape:     batch shape it was built on, None for unknown sizes, where the config says it; else None.
    inputs:          names of the sibling layers that feed its calls; () in a Sequential.
    shared_object:   shared_object_id of the entry, or None: two entries with one id are one layer.
    surroundings:    the effect of the models and wrappers around it, and how it is called.
    calls:           of a batch norm: what feeds and follows each of its calls; () if the config does not specify it.
    has_unclear:     of the model itself: whether a layer in it may be or contain a batch norm that its config does not describe.
    may_train:       of the model itself: whether a layer in it may run as in training when the model is called (exporter.keras.training).
    """

    name: str
    class_name: str
    registered_name: str | None = None
    is_builtin: bool = False
    config: Mapping[str, Any]
    children: tuple[tuple[str, Node], ...] = ()
    input_shape: tuple[int | None, ...] | None = None
    inputs: tuple[str, ...] = ()
    shared_object: int | None = None
    surroundings: Surroundings = NOTHING_AROUND
    calls: tuple[Call, ...] = ()
    has_unclear: bool = False
    may_train: bool = False
    base_name: str = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.base_name = self.class_name.rpartition(">")[2]  # asked for many times

    def replace(self, **changes: Any) -> Node:
        """A copy with some fields changed; `dataclasses.replace` takes three times as long."""
        return Node(**{**dict(zip(_FIELDS, _values_of(self))), **changes})

    @property
    def kind(self) -> str:
        """The class with the package that it is registered under, which tf_keras writes in either of two keys, even in one file."""
        return self.registered_name or self.class_name

    @property
    def is_model(self) -> bool:
        """Whether it contains a list of layers, as a Sequential does."""
        return self.base_name in MODELS or (bool(self.children) and any(role == "layers" for role, _ in self.children))

    @property
    def is_order_known(self) -> bool:
        """Whether Keras defines the order of the weights of `children`: in a user's class, only if there is a single child."""
        return self.is_model or self.base_name in ("Bidirectional", "StackedRNNCells") or len(self.children) < 2


_FIELDS = tuple(field.name for field in dataclasses.fields(Node) if field.init)
_values_of = operator.attrgetter(*_FIELDS)


def are_alike(one: Node, other: Node) -> bool:
    """Whether two entries agree in name, class and config, so that they may be one layer.

    tf_keras 2.12 and later write the layers of the outermost model in another form than those of a nested one.
    """
    return one.name == other.name and one.kind == other.kind and _are_alike(one.config, other.config)


def repetitions(nodes: Iterable[Node]) -> list[tuple[Node, Node]]:
    """(earlier entry, later entry) of those that are alike."""
    first: dict[tuple[str, str], Node] = {}
    pairs = [(first.setdefault((node.name, node.kind), node), node) for node in nodes]
    return [(other, node) for other, node in pairs if other is not node and are_alike(other, node)]


def _are_alike(one: Any, other: Any) -> bool:
    if one == other:
        return True
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_alike, one, other))
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return False
    if "class_name" not in one or "class_name" not in other:
        return one.keys() == other.keys() and all(_are_alike(value, other[key]) for key, value in one.items())
    keys = one.keys() - _OF_ONE_FORM
    kinds = [each.get("registered_name") or each["class_name"] for each in (one, other)]
    return (keys == other.keys() - _OF_ONE_FORM and kinds[0] == kinds[1]
            and all(_are_alike(one[key], other[key]) for key in keys if key != "class_name"))


def walk(root: Node) -> Iterator[tuple[str, Node]]:
    """(path, layer) of every layer below `root` in the model's order; the model's own name is not part of a path."""
    stack = [iter([("", child) for _, child in root.children])]
    while stack:
        above, node = next(stack[-1], (None, root))
        if above is None:
            stack.pop()
            continue
        path = join(above, node.name)
        yield path, node
        if node.children:
            stack.append(iter([(path, child) for _, child in node.children]))


def at_and_below(node: Node) -> Iterator[Node]:
    """The layer, then every layer below it in the model's order."""
    yield node
    for _, child in node.children:
        yield from at_and_below(child)


def join(above: str, name: str) -> str:
    """An outer path and a name, joined; either may be ""."""
    return f"{above}/{name}" if above and name else above or name


def is_batch_norm(node: Node) -> bool:
    """Whether a layer is a batch norm: Keras's own classes, or a class of the user's that inherits its config.

    A user's class of the same name that is not a batch norm (registered as "fake>BatchNormalization", which only Keras 2.13 and later
    write for every class) lacks the config. Keras 0.3 has no names in a config.
    """
    signed = node.config.keys() >= SIGNS
    if node.base_name in BATCH_NORMS:
        own = ">" in node.class_name or node.registered_name is not None
        return signed or not (own or ("name" in node.config and node.config.keys().isdisjoint(WRITTEN)))
    return signed and not any(is_batch_norm(below) for _, below in walk(node))


def has_signs(node: Node) -> bool:
    """Whether a layer has the config of a batch norm, even if it contains one as well, so that it is not read as one itself."""
    return node.config.keys() >= SIGNS and all(role != INNER_NORM for role, _ in node.children)


def reason_against(node: Node) -> str | None:
    """Why a layer with the config of a batch norm is not one; None: nothing in the config shows that."""
    reason = lookalikes.reason_against(node.class_name, node.config)
    if reason or not node.children:
        return reason
    return lookalikes.about_layers([child.name for role, child in node.children if not lookalikes.described(role)], node.class_name)

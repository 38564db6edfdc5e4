"""The place of each batch norm in a config: the config's calls as one graph, through nested models and TimeDistributed.

A nested model is traversed once for each of its calls; each time, its layers get a call. What happens inside a user's class or an RNN
is not in the config: a batch norm in one has no place. If the config contradicts itself, no batch norm has one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from exporter.batchnorm.places import Call, Neighbor
from exporter.keras.calls import Surroundings, calls_of, keys_given, references
from exporter.keras.lookalikes import WRAPPERS_AS_THEY_ARE
from exporter.keras.node import MODELS, Node, at_and_below, is_batch_norm, join

MAX_CALLS = 200_000  # nested models that are each called twice double the number at every level

OVERWRITTEN = ("two models call it, one nested in the other, and Keras wrote the calls of the nested model over the others: whether those "
               "have training=True is not in the file")

# The axis of the output channels of each class's kernel; of a separable one, its pointwise kernel. Convolution1D, of Keras 1, has one of
# two layouts, which its config does not specify.
_KERNEL_AXES = {
    "Dense": 1, "Conv1D": 2, "Conv2D": 3, "Conv3D": 4, "Convolution2D": 3, "Convolution3D": 4, "SeparableConv1D": 2, "SeparableConv2D": 3,
    "SeparableConvolution2D": 3, "Conv1DTranspose": 1, "Conv2DTranspose": 2, "Conv3DTranspose": 3}


Reference = tuple[str, int, int]  # layer, number of its call, number of the tensor
_Keys = list[str] | None  # of the dict in which a call passes its tensors, if it does
_Reading = tuple[Node, int, list[Reference], _Keys]  # a layer, the number of its call and what the call reads


class _Unknown(Exception):
    """The config does not specify the calls, or contradicts itself."""


@dataclasses.dataclass(slots=True, eq=False)
class Step:
    """One call of a layer that is not a model."""

    path: str
    node: Node
    inputs: list[Step]
    outputs: list[Step] = dataclasses.field(default_factory=list)
    is_model_output: bool = False


def with_places(tree: Node) -> Node:
    """The tree with the calls of its batch norms; several entries of one layer are merged."""
    steps = steps_of(tree)
    if not steps:
        lost = _overwritten(tree, {})
        tree = _noted(tree, lost) if lost else tree
        shared = (node for node in at_and_below(tree) if node.shared_object is not None)
        called = {node.shared_object: node.surroundings for node in shared if node.surroundings.training}
        return _called(tree, called) if called else tree
    found = _rebuilt(tree, by_layer(steps))
    for step in steps:
        step.outputs.clear()  # else they hold each other, and with them the whole config, until cycles are searched for
    return found


def steps_of(tree: Node) -> list[Step]:
    """The calls of a model's layers, each after those that it reads; none if the config does not specify them or contradicts itself."""
    if tree.base_name not in MODELS or _overwritten(tree, {}):
        return []
    graph = _Graph()
    try:
        for step in graph.model(tree, "", None):
            step.is_model_output = True
    except _Unknown:
        return []
    return graph.steps


def _overwritten(model: Node, above: dict[int, list[Any]]) -> set[int]:
    """The shared_object of each layer whose entry contains its calls in a nested model instead of those in its own.

    tf.keras 2.5 and later, and tf_keras in .h5, keep one entry for a layer that a model contains and then a model nested in it as well,
    and write the calls of the nested one over the others. above: the calls of the layers of the models around this one.
    """
    if not above and not any(child.children for _, child in model.children):
        return set()
    entries = model.config.get("layers") if "input_layers" in model.config else None
    if not isinstance(entries, list) or len(entries) != len(model.children):
        entries = [{}] * len(model.children)
    found, own = set[int](), set[int]()
    for (_, child), entry in zip(model.children, entries, strict=True):
        if child.children:
            found |= _overwritten(child, above)
        shared, calls = child.shared_object, calls_of(entry)
        if shared is None or not calls or isinstance(calls[0], dict):  # Keras 3's are right
            continue
        if above.get(shared) == calls:
            found.add(shared)
        elif shared not in above:
            above[shared] = calls
            own.add(shared)
    for shared in own:
        del above[shared]
    return found


def _noted(node: Node, overwritten: AbstractSet[int], *, is_inside: bool = False) -> Node:
    """The node after each batch norm in the entries of these layers is said to have calls that the config lacks."""
    is_inside |= node.shared_object in overwritten
    return node.replace(
        surroundings=node.surroundings.noted(OVERWRITTEN) if is_inside and is_batch_norm(node) else node.surroundings,
        children=tuple((role, _noted(child, overwritten, is_inside=is_inside)) for role, child in node.children))


def by_layer(steps: Iterable[Step]) -> dict[object, list[Step]]:
    """The calls of each layer, by `key_of` it."""
    found: dict[object, list[Step]] = {}
    for step in steps:
        found.setdefault(key_of(step.node), []).append(step)
    return found


def with_ids_inside(tree: Node) -> Node:
    """The tree; layers at the same place inside entries of one id are also one layer: tf_keras writes no ids inside the first entry."""
    first: dict[int, Node] = {}
    pairs = [(other, node) for node in at_and_below(tree) if node.shared_object is not None and node.children
             and (other := first.setdefault(node.shared_object, node)) is not node]
    return _identified(tree, _owners(pairs)) if pairs else tree


def with_shared(tree: Node, pairs: Iterable[tuple[Node, Node]]) -> Node:
    """The tree after merging each pair of entries, with everything in them, into one layer, and the resulting calls of its batch norms."""
    owner = _owners(pairs)
    return with_places(_identified(tree, owner)) if owner else tree


def _owners(pairs: Iterable[tuple[Node, Node]]) -> dict[Node, int]:
    """One number for the nodes of each pair, and likewise for all nodes in them."""
    owner: dict[Node, int] = {}
    for one, other in pairs:
        for same in _together(one, other):
            known = {number for node in same if (number := owner.get(node, node.shared_object)) is not None}
            number = max(known, default=-1 - len(owner))  # the config's own if it has one
            owner.update({node: number for node, old in owner.items() if old in known} | dict.fromkeys(same, number))
    return owner


def _together(one: Node, other: Node) -> Iterator[tuple[Node, Node]]:
    yield one, other
    for (_, a), (_, b) in zip(one.children, other.children, strict=False):
        yield from _together(a, b)


def _identified(node: Node, numbers: Mapping[Node, int]) -> Node:
    children = tuple((role, _identified(child, numbers)) for role, child in node.children)
    if node not in numbers and all(new is old for (_, new), (_, old) in zip(children, node.children, strict=True)):
        return node
    return node.replace(children=children, shared_object=numbers.get(node, node.shared_object))


class _Graph:
    """The calls of a model, each after those that it reads."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def model(self, node: Node, path: str, given: Sequence[Step] | None, keys: _Keys = None) -> list[Step]:
        """Traverses a model and returns its outputs. given: its inputs, None for the outermost model."""
        layers = [child for role, child in node.children if role == "layers"]
        if "input_layers" in node.config:
            return self._functional(node, layers, path, given, keys)
        current = list(given or [])[:1]
        for child in layers:
            if child.class_name != "InputLayer" or given is None:
                current = self._layer(child, join(path, child.name), current)[:1]
        return current

    def _functional(self, node: Node, layers: list[Node], path: str, given: Sequence[Step] | None, keys: _Keys) -> list[Step]:
        values: dict[tuple[str, int], list[Step]] = {}
        if given is not None:
            inputs = _inputs(node.config["input_layers"], keys)
            if len(inputs) != len(given):
                raise _Unknown
            values = {(name, 0): [step] for name, step in zip(inputs, given, strict=True)}
        outputs = references(node.config.get("output_layers"))
        for child, number, read, keys in _in_order(layers, node.config["layers"], outputs, known=set(values)):
            values[child.name, number] = self._layer(child, join(path, child.name), [_pick(values, each) for each in read], keys)
        return [_pick(values, each) for each in outputs]

    def _layer(self, node: Node, path: str, inputs: list[Step], keys: _Keys = None) -> list[Step]:
        while (node.base_name == "TimeDistributed" or node.base_name in WRAPPERS_AS_THEY_ARE) and len(node.children) == 1:
            inner = node.children[0][1]
            if node.base_name != "TimeDistributed" and not is_batch_norm(inner):
                break  # it changes its layer's kernel
            node, path = inner, join(path, inner.name)
        if node.base_name in MODELS:
            return self.model(node, path, inputs, keys)
        step = Step(path, node, inputs)
        for each in inputs:
            each.outputs.append(step)
        self.steps.append(step)
        if len(self.steps) > MAX_CALLS:
            raise _Unknown
        return [step]


def _inputs(said: Any, keys: _Keys) -> list[str]:
    """The names of a nested model's inputs, in the order in which its call passes them; keys: if in a dict. A dict for a model with a list
    of inputs has the names of the inputs as its keys.
    """
    names = [name for name, _, _ in references(said)]
    if keys is None or isinstance(said, dict) or len(names) == 1:
        return names
    if sorted(names) != keys:
        raise _Unknown
    return keys


def _in_order(layers: list[Node], entries: list[Any], outputs: list[Reference], known: set[tuple[str, int]]) -> Iterator[_Reading]:
    """Each call of a functional model after those that it reads. entries: those of the layers."""
    waiting: dict[tuple[str, int], list[_Reading]] = {}
    open_reads: dict[tuple[str, int], int] = {}
    ready: list[_Reading] = []
    reads = [[(references(call), keys_given(call)) for call in calls_of(entry)] or [([], None)] for entry in entries]
    first = _first_numbers([*(read for calls in reads for read, _ in calls), outputs])
    for child, calls in zip(layers, reads, strict=True):
        for number, (read, keys) in enumerate(calls, first.get(child.name, 0)):
            if (child.name, number) in known:
                continue
            lacking = {(name, call) for name, call, _ in read} - known
            open_reads[child.name, number] = len(lacking)
            for each in lacking:
                waiting.setdefault(each, []).append((child, number, read, keys))
            if not lacking:
                ready.append((child, number, read, keys))
    done = 0
    while done < len(ready):
        child, number, read, keys = ready[done]
        done += 1
        yield child, number, read, keys
        for follower in waiting.pop((child.name, number), []):
            key = follower[0].name, follower[1]
            open_reads[key] -= 1
            if not open_reads[key]:
                ready.append(follower)
    if waiting:
        raise _Unknown


def _first_numbers(reads: list[list[Reference]]) -> dict[str, int]:
    """The lowest number of the calls of each layer that are read: 1 for most nested models, whose call number 0 created them, and
    in Keras 3.0 for a layer that another model called earlier."""
    found: dict[str, int] = {}
    for name, number, _ in (each for read in reads for each in read):
        found[name] = min(number, found.get(name, number))
    return found


def _pick(values: dict[tuple[str, int], list[Step]], reference: Reference) -> Step:
    name, call, tensor = reference
    found = values.get((name, call))
    if not found:
        raise _Unknown
    return found[tensor if 0 <= tensor < len(found) else -1]


def _called(node: Node, training: Mapping[int | None, Surroundings]) -> Node:
    """The node after all entries of a layer that one of them calls in training are said to be called so."""
    around = node.surroundings
    if not around.training and node.shared_object in training:
        around = dataclasses.replace(around, training=True, is_keras_3=training[node.shared_object].is_keras_3)
    return node.replace(surroundings=around, children=tuple((role, _called(child, training)) for role, child in node.children))


def key_of(node: Node) -> object:
    """Two entries with one shared_object_id are one layer."""
    return id(node) if node.shared_object is None else ("shared", node.shared_object)


def _rebuilt(node: Node, steps: dict[object, list[Step]]) -> Node:
    if is_batch_norm(node):
        own = steps.get(key_of(node), [])
        called = [step.node.surroundings for step in own if step.node.surroundings.training]
        around = dataclasses.replace(node.surroundings, training=True, is_keras_3=called[0].is_keras_3) if called else node.surroundings
        named = all(each.node.name for step in own for each in (*step.inputs, *step.outputs))  # a user's class may omit its name
        calls = tuple(_call(step, steps) for step in own) if named else ()
        return node.replace(calls=calls, surroundings=around) if own else node
    children = [(role, _rebuilt(child, steps)) for role, child in node.children]
    if all(new is old for (_, new), (_, old) in zip(children, node.children, strict=True)):
        return node
    return node.replace(children=tuple(children))


def _call(step: Step, steps: dict[object, list[Step]]) -> Call:
    feeding = [_neighbor(each, **_as_feeding(each), is_shared=len(each.outputs) > 1 or each.is_model_output or len(
        steps[key_of(each.node)]) > 1) for each in step.inputs]
    following = [_neighbor(each, padding=_text(each.node.config.get("padding"))) for each in step.outputs]
    return Call(tuple(feeding), tuple(following))


def _neighbor(step: Step, **more: Any) -> Neighbor:
    return Neighbor(path=step.path, class_name=step.node.class_name, activation=_activation(step.node.config.get("activation")), **more)


def _as_feeding(step: Step) -> dict[str, Any]:
    node, config = step.node, step.node.config
    axis = _KERNEL_AXES.get(node.base_name)
    if config.get("dim_ordering", config.get("image_dim_ordering")) == "th":  # Keras 1's layout for Theano, a different one
        axis = None
    if node.base_name.startswith("DepthwiseConv") and config.get("depth_multiplier") == 1:
        axis = int(node.base_name[-2]) if node.base_name[-2:] in ("1D", "2D") else None
    use_bias = config.get("use_bias", config.get("bias"))
    return {"axis": axis, "use_bias": use_bias if isinstance(use_bias, bool) else None}


def _activation(value: Any) -> str | None:
    """The name of an activation: text, or an object with class_name (for functions, with the name as its config)."""
    if isinstance(value, dict):
        value = value.get("config") if value.get("class_name") == "function" else value.get("class_name")
    return value if isinstance(value, str) and value != "linear" else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None

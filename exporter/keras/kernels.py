"""Finds in the config the kernel that each batch norm can be folded into: the layer that feeds it, the layout of its kernel, and what
forbids it.

    Keras 1       Convolution2D: nb_filter, nb_row, nb_col, dim_ordering; Dense: output_dim
    Keras 2, 3    Conv2D: filters, kernel_size, data_format; Dense: units
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exporter.batchnorm.fold import KINDS, UNCHANGED, kind_of
from exporter.errors import printable
from exporter.keras.config import MODELS, Node, is_batch_norm, norm_fields, walk
from exporter.keras.places import Step, by_layer, key_of, steps_of
from exporter.keras.ranks import input_ranks

_UNSET: tuple[Any, ...] = (None, False, "", "None", {}, [])
_OF_KERAS_1 = ("nb_filter", "output_dim")

NO_FORMAT = "its config does not specify whether its channels come first or last"


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """A possible layout of a kernel: its shape, with None for unknown sizes, and the axes of its channels."""

    shape: tuple[int | None, ...]
    channels: tuple[int, ...]

    def fits(self, shape: Sequence[int]) -> bool:
        return len(shape) == len(self.shape) and all(said in (None, size) for said, size in zip(self.shape, shape))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Feeding:
    """The layer with a kernel that feeds a batch norm, perhaps through layers that change nothing in inference, if the config does not
    forbid folding into it.

    path:     of the layer. above: the models and wrappers around it, without the outermost model, outermost first. node: its config.
    layouts:  of its kernel; roles: its weights in the order in which Keras saves them. The kernel is `roles[kernel]`.
    """

    path: str
    above: tuple[Node, ...]
    node: Node
    kind: str
    layouts: tuple[Layout, ...]
    roles: tuple[str, ...]
    compute_dtype: str | None

    @property
    def kernel(self) -> int:
        return 1 if self.kind.startswith("Separable") else 0

    @property
    def bias(self) -> int | None:
        return len(self.roles) - 1 if self.roles[-1] == "bias" else None


def feeding_layers(tree: Node, wants: Callable[[str], bool] = lambda path: True) -> dict[str, Feeding | str]:
    """For each wanted batch norm that the config calls, by path: the layer that feeds it, or why it cannot be folded into one."""
    if ">" in (tree.registered_name or tree.class_name):  # a custom class, whose call may do more than its config shows
        return {}
    steps = steps_of(tree)
    feeders = _Feeders(by_layer(steps), _parents(tree), input_ranks(tree))
    found: dict[str, Feeding | str] = {}
    for step in steps:
        if is_batch_norm(step.node) and wants(step.path):
            found[step.path] = feeders.at(step) if step.path not in found else "it is called more than once, or another layer has its path"
    return found


def _parents(tree: Node) -> dict[Node, tuple[Node, ...]]:
    """The models and wrappers around each layer, without the outermost model, outermost first."""
    found: dict[Node, tuple[Node, ...]] = {}
    stack: list[tuple[Node, tuple[Node, ...]]] = [(tree, ())]
    while stack:
        node, above = stack.pop()
        for _, child in node.children:
            found[child] = above
            stack.append((child, (*above, child)))
    return found


class _Feeders:
    """Examines the layers that feed the batch norms of a model."""

    def __init__(self, calls: Mapping[object, list[Step]], above: Mapping[Node, tuple[Node, ...]], ranks: Mapping[Node, int]) -> None:
        self._calls, self._above, self._ranks = calls, above, ranks

    def at(self, step: Step) -> Feeding | str:
        """The layer that feeds this call of a batch norm, or why folding is impossible."""
        if len(step.inputs) != 1:
            return "it reads the input of the model" if not step.inputs else f"{len(step.inputs)} layers feed it"
        feeding, above = step.inputs[0], self._above[step.node]
        while _is_unchanged(feeding.node):
            reason = self._reason_of_unchanged(feeding)
            if reason:
                return reason
            above, feeding = (*above, *self._above[feeding.node]), feeding.inputs[0]
        node, name = feeding.node, printable(feeding.path, 80)
        kind = kind_of(node.class_name)
        if kind is None or node.registered_name is not None:
            called = printable(node.registered_name or node.class_name, 60)
            return f"it is fed by {name} of class {called}, which has no kernel of a known kind"
        if not _is_linear(node.config.get("activation")):
            return f"{name}, which feeds it, applies an activation in between"
        if self._is_used_elsewhere(feeding):
            return f"the output of {name} is used elsewhere, too, or it is called more than once"
        for each in (*above, *self._above[node]):
            if (each.base_name not in MODELS and each.base_name != "TimeDistributed") or ">" in (each.registered_name or each.class_name):
                return f"it is inside {printable(each.name, 80)} of class {printable(each.class_name, 60)}, which may do more than call it"
        reason = _reason_against(node) or self._reason_of_axis(step.node, node, kind)
        if reason:
            return f"{name}, which feeds it: {reason}"
        return Feeding(path=feeding.path, above=self._above[node], node=node, kind=kind, layouts=_layouts(node, kind),
                       roles=_roles(node, kind), compute_dtype=_compute_dtype(node.config.get("dtype")))

    def _is_used_elsewhere(self, feeding: Step) -> bool:
        return len(feeding.outputs) > 1 or feeding.is_model_output or len(self._calls[key_of(feeding.node)]) > 1

    def _reason_of_unchanged(self, feeding: Step) -> str:
        """Why the kernel cannot be sought before a layer that changes nothing in inference, or ""."""
        node, name = feeding.node, printable(feeding.path, 80)
        if node.surroundings.training:
            return f"{name}, which feeds it, is called with training=True, so that it may also change its input in inference"
        if self._is_used_elsewhere(feeding):
            return f"the output of {name} is used elsewhere, too, or it is called more than once"
        if len(feeding.inputs) != 1:
            return f"it reads the input of the model through {name}" if not feeding.inputs else f"{len(feeding.inputs)} layers feed {name}"
        policy, before = (_policy(each.config.get("dtype")) for each in (node, feeding.inputs[0].node))
        if None not in (policy, before) and policy != before:
            return f"{name}, which feeds it, computes in another type than the layer before it"
        return ""

    def _reason_of_axis(self, norm: Node, node: Node, kind: str) -> str:
        """Whether the batch norm runs along the output channels of this layer."""
        axis = norm_fields(norm).axis or (-1,)
        is_last = _is_channels_last(node, kind)
        if is_last is None:
            return NO_FORMAT
        rank = self._ranks.get(norm)
        depths = [each.surroundings.added_axes for each in (norm, node)]
        if kind != "Dense" and depths[0] == depths[1]:
            rank = _spatial(kind) + 2
        right = ((-1,), *([(rank - 1,)] if rank else [])) if is_last else ((1,), (-_spatial(kind) - 1,)) if depths[0] == depths[1] else ()
        return "" if axis in right else f"its output has channels {'last' if is_last else 'first'}, but batch norm runs along axis {axis}"


def _is_unchanged(node: Node) -> bool:
    """Whether the output of a layer of Keras's own is its input, unless it is called with training=True."""
    if node.class_name not in UNCHANGED or node.registered_name is not None:
        return False
    return node.class_name != "Activation" or ("activation" in node.config and _is_linear(node.config["activation"]))


def _is_linear(activation: Any) -> bool:
    if isinstance(activation, dict) and activation.get("class_name") == "function" and ">" not in str(activation.get("registered_name")):
        activation = activation.get("config")
    return activation in (None, "linear")


def _spatial(kind: str) -> int:
    """The number of spatial axes of a convolution."""
    return int(kind.removesuffix("Transpose")[-2])


def _is_channels_last(node: Node, kind: str) -> bool | None:
    """Whether a layer's channels are the last axis of its output; None if its config does not specify that."""
    if kind == "Dense":
        return True
    said = node.config.get("data_format", node.config.get("dim_ordering"))
    if said is None and _spatial(kind) == 1:  # Keras 1 and 2.0 support no other order there, and write none
        return True
    return {"channels_last": True, "tf": True, "channels_first": False, "th": False}.get(said) if isinstance(said, str) else None


def _reason_against(node: Node) -> str:
    """Why the config of one of Keras's own layers forbids folding, or ""."""
    config = node.config
    quantized = [key for key, value in config.items() if "quant" in key and value not in _UNSET]
    policy = config.get("dtype")
    if quantized or (isinstance(policy, dict) and "Quant" in str(policy.get("class_name"))):
        return "its kernel is quantized"
    if config.get("lora_rank") is not None:
        return "it has LoRA weights beside its kernel"
    if _size(config, "units", "filters", "nb_filter", "output_dim", "depth_multiplier") is None:
        return "its config does not specify how many channels it has"
    if node.class_name.startswith("SeparableConvolution"):
        return "the layout of separable kernels in Keras 1 is not supported"
    return ""


def _layouts(node: Node, kind: str) -> tuple[Layout, ...]:
    """The possible layouts of a layer's kernel."""
    config = node.config
    if any(key in config for key in _OF_KERAS_1):
        return _layouts_of_keras_1(config, kind)
    channels = KINDS[kind].channels
    if kind == "Dense":
        return (Layout((None, _size(config, "units")), channels),)
    window = _window(config.get("kernel_size"), _spatial(kind))
    filters = _size(config, "filters")
    if kind.startswith("Depthwise"):
        return (Layout((*window, None, _size(config, "depth_multiplier") or 1), channels),)
    if kind.startswith("Separable"):
        return (Layout((*(1,) * len(window), None, filters), channels),)
    return (Layout((*window, filters, None) if kind.endswith("Transpose") else (*window, None, filters), channels),)


def _layouts_of_keras_1(config: Mapping[str, Any], kind: str) -> tuple[Layout, ...]:
    """The layouts of Keras 1: filters first for Theano, and one-dimensional convolutions as images of one row."""
    count = _size(config, "nb_filter", "output_dim")
    if kind == "Dense":
        return (Layout((None, count), (1,)),)
    if kind == "Conv1D":
        length = _size(config, "filter_length")
        return Layout((length, 1, None, count), (3,)), Layout((count, None, length, 1), (0,))
    keys = ("nb_row", "nb_col") if kind == "Conv2D" else ("kernel_dim1", "kernel_dim2", "kernel_dim3")
    window = tuple(_size(config, key) for key in keys)
    if config.get("dim_ordering") == "th":
        return (Layout((count, None, *window), (0,)),)
    return (Layout((*window, None, count), (len(window) + 1,)),)


def _window(said: Any, axes: int) -> tuple[int | None, ...]:
    sizes = said if isinstance(said, list) else [said] * axes
    return tuple(size if type(size) is int else None for size in sizes) if len(sizes) == axes else (None,) * axes


def _size(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((value for key in keys if type(value := config.get(key)) is int and value > 0), None)


def _roles(node: Node, kind: str) -> tuple[str, ...]:
    kernels = ("depthwise_kernel", "pointwise_kernel") if kind.startswith("Separable") else ("kernel",)
    return (*kernels, "bias") if node.config.get("use_bias", node.config.get("bias", True)) else kernels


def _compute_dtype(policy: Any) -> str | None:
    """The type that a layer computes in under a mixed policy; None: that of its variables."""
    name = _policy(policy)
    return name.removeprefix("mixed_") if name is not None and name.startswith("mixed_") else None


def _policy(policy: Any) -> str | None:
    """The name of a dtype policy, which for a plain one is that of the type."""
    if isinstance(policy, dict):
        inner = policy.get("config")
        policy = inner.get("name") if isinstance(inner, dict) else None
    return policy if isinstance(policy, str) else None


def has_kernel(node: Node) -> bool:
    """Whether a batch norm can be folded into a layer of this kind."""
    return not node.children and kind_of(node.class_name) is not None


def kernel_layers(node: Node) -> list[Node]:
    """The layers below `node` of these kinds, in the model's order."""
    return [child for _, child in walk(node) if has_kernel(child)]

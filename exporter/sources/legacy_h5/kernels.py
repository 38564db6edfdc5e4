"""The kernels of the layers that feed batch norms, in a legacy HDF5 file.

A group's weights are those of one layer of the outermost model. If that layer is itself the feeding one, alone or in TimeDistributed,
they belong to it. If it is a model, names and order have to agree, as for batch norms (exporter/sources/legacy_h5/weights.py).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from exporter.errors import printable
from exporter.keras.kernels import Feeding, feeding_layers, kernel_layers
from exporter.keras.names import spellings
from exporter.keras.node import Node
from exporter.sources.legacy_h5.renamed import renamed_path
from exporter.sources.shared.kernels import Kernels, Weight, checked

if TYPE_CHECKING:
    from exporter.batchnorm.kernels import Kernel
    from exporter.formats.hdf5_file import File
    from exporter.sources.legacy_h5.weights import LayerGroup

_NAME = re.compile(r"(?:(.*)/)?(depthwise_kernel|pointwise_kernel|kernel|bias)(?:_\d+)?(?::\d+)?", re.DOTALL)
_NAME_OF_KERAS_1 = re.compile(r".*_(W|b)(?:_\d+)?(?::\d+)?", re.DOTALL)
_ROLES_OF_KERAS_1 = {"W": "kernel", "b": "bias"}


def read_kernels(file: File, groups: Sequence[LayerGroup], tree: Node, renamed: Mapping[str, str],
                 wants: Callable[[str], bool]) -> dict[str, Kernel | str]:
    """The kernel that each batch norm of `tree` can be folded into, or why there is none, by the path of the batch norm in the file.

    wants: whether the batch norm of a path is wanted.
    renamed: layers of the outermost model that have other names in the file than in `tree`.
    """
    by_name, gathered = {group.name: group for group in groups}, Kernels()
    found: dict[str, Kernel | str] = {}
    for path, feeding in feeding_layers(tree, lambda path: wants(renamed_path(path, renamed))).items():
        kernel = feeding if isinstance(feeding, str) else _kernel(file, by_name, feeding, renamed, gathered)
        found[renamed_path(path, renamed)] = kernel
    return checked(found)


def _kernel(file: File, groups: Mapping[str, LayerGroup], feeding: Feeding, renamed: Mapping[str, str], gathered: Kernels) -> Kernel | str:
    top = (*feeding.above, feeding.node)[0]
    feeding = dataclasses.replace(feeding, path=renamed_path(feeding.path, renamed))
    group = groups.get(renamed.get(top.name, top.name))
    if group is None:
        return f"the file contains no weights of {printable(feeding.path, 80)}, which feeds it"
    weights = group.weights
    places = _places(weights, feeding, top)
    if isinstance(places, str):
        return places
    is_bfloat16 = feeding.node.config.get("dtype") == "bfloat16"

    def weight(path: str) -> Weight:
        dtype = file.dtype(path) or ("bfloat16" if is_bfloat16 else None)
        return Weight(file.shape(path), dtype, lambda: file.array(path, is_bfloat16=is_bfloat16, is_kernel=True))

    return gathered.kernel(feeding, [weight(f"{group.path}/{weights[place]}") for place in places])


def _places(weights: Sequence[str], feeding: Feeding, top: Node) -> list[int] | str:
    """The positions of the feeding layer's weights among those of a group, in order; or why that is uncertain."""
    parsed = [_parsed(weight) for weight in weights]
    if all(each.base_name == "TimeDistributed" for each in feeding.above):
        roles = tuple(each[1] if each else "" for each in parsed)
        return list(range(len(roles))) if _as_saved(roles) == feeding.roles else _unclear(feeding)
    if any(_NAME_OF_KERAS_1.fullmatch(weight) for weight in weights):  # 1.0.0 to 1.0.2 saved them under each other's names
        return _unclear(feeding)
    scopes: dict[str, list[int]] = {}
    for place, each in enumerate(parsed):
        if each is not None:
            scopes.setdefault(each[0], []).append(place)
    own = _scope_of(feeding, top, list(scopes))
    if own is None:
        return _unclear(feeding)
    places = scopes[own]
    roles = tuple(each[1] for place in places if (each := parsed[place]))
    return places if _as_saved(roles) == feeding.roles else _unclear(feeding)


def _as_saved(roles: tuple[str, ...]) -> tuple[str, ...]:
    """Keras 2's name of a depthwise kernel; Keras 3 and this package call it the kernel, unless there is another one."""
    return roles if "pointwise_kernel" in roles else tuple("kernel" if role == "depthwise_kernel" else role for role in roles)


def _unclear(feeding: Feeding) -> str:
    return f"which weights are those of {printable(feeding.path, 80)}, which feeds it, is not certain: names and order do not agree"


def _scope_of(feeding: Feeding, top: Node, scopes: list[str]) -> str | None:
    """The scope of the feeding layer's weights inside a model, if the scopes with a kernel correspond one to one to its layers."""
    layers = kernel_layers(top)
    trained = [node for node in layers if node.config.get("trainable") is not False]
    layers = [*trained, *(node for node in layers if node.config.get("trainable") is False)]  # the order of Model.weights
    if len(layers) != len(scopes) or not all(_is_named(scope, node.name) for scope, node in zip(scopes, layers)):
        return None
    return next((scope for scope, node in zip(scopes, layers) if node is feeding.node), None)


def _is_named(scope: str, name: str) -> bool:
    """Whether a scope belongs to a layer of this name, either exactly or with a number added by TensorFlow."""
    last = scope.rpartition("/")[2] if "/" not in name else scope
    return any(each == name or each.endswith(f"/{name}") for each in spellings(last))


def _parsed(weight: str) -> tuple[str, str] | None:
    """(scope, role) of a weight's name, without a scope where Keras 1 gave it; None if it is not a kernel or bias."""
    found = _NAME.fullmatch(weight)
    if found:
        return found[1] or "", found[2]
    found = _NAME_OF_KERAS_1.fullmatch(weight)
    return ("", _ROLES_OF_KERAS_1[found[1]]) if found else None

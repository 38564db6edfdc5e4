"""The kernels of the layers that feed batch norms, in TensorFlow's object graphs: objects with variables of these names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from exporter.batchnorm.dtypes import HELD_IN
from exporter.errors import names, printable
from exporter.keras.kernels import Feeding, feeding_layers
from exporter.sources.shared.kernels import Kernels, Weight, checked

if TYPE_CHECKING:
    from exporter.batchnorm.kernels import Kernel
    from exporter.formats.object_graph import CheckpointGraph
    from exporter.formats.tensor_bundle import TensorBundle
    from exporter.keras.config import Node
    from exporter.sources.tf_objects.saved import KerasMetadata

_DEPTHWISE = "depthwise_kernel"  # Keras 2's name for the kernel of a depthwise convolution
_VARIABLES = ("kernel", _DEPTHWISE, "pointwise_kernel")


def saved_kernels(checkpoint: TensorBundle, graph: CheckpointGraph, keras: KerasMetadata,
                  wants: Callable[[str], bool]) -> dict[str, Kernel | str]:
    """Those of a SavedModel, whose objects have Keras's names; {} if its metadata lists no layers."""
    tree = keras.model()
    if tree is None:
        return {}
    objects: dict[str, set[int]] = {}
    for way in graph.walk():
        if any(name in graph.children(way[0][-1]) for name in _VARIABLES):
            objects.setdefault(keras.path_of(way), set()).add(way[0][-1])
    places = {path: next(iter(nodes)) for path, nodes in objects.items() if len(nodes) == 1}
    return _read(checkpoint, graph, feeding_layers(tree, wants), lambda feeding: places.get(feeding.path))


def given_kernels(checkpoint: TensorBundle, graph: CheckpointGraph, feeding: Mapping[str, Feeding | str],
                  places: Mapping[Node, int]) -> dict[str, Kernel | str]:
    """Those of a checkpoint with an architecture. places: the objects of its layers."""
    return _read(checkpoint, graph, feeding, lambda one: places.get(one.node))


def _read(checkpoint: TensorBundle, graph: CheckpointGraph, feeding: Mapping[str, Feeding | str],
          place: Callable[[Feeding], int | None]) -> dict[str, Kernel | str]:
    gathered = Kernels()
    found: dict[str, Kernel | str] = {}
    for path, one in feeding.items():
        node = None if isinstance(one, str) else place(one)
        if isinstance(one, str):
            found[path] = one
        elif node is None:
            found[path] = f"which object of the file is {printable(one.path, 80)}, which feeds it, is not certain"
        else:
            found[path] = _kernel(checkpoint, graph, one, node, gathered)
    return checked(found)


def _kernel(checkpoint: TensorBundle, graph: CheckpointGraph, feeding: Feeding, node: int, gathered: Kernels) -> Kernel | str:
    variables = {name: child for name, child in graph.children(node).items() if graph.is_variable(child)}
    if _DEPTHWISE in variables and feeding.roles[0] == "kernel":
        variables["kernel"] = variables.pop(_DEPTHWISE)
    if set(variables) != set(feeding.roles):
        held = names(sorted(variables))
        return f"{printable(feeding.path, 80)}, which feeds it, holds {held}, and its config says {names(feeding.roles)}"
    return gathered.kernel(feeding, [_weight(checkpoint, graph, variables[role]) for role in feeding.roles])


def _weight(checkpoint: TensorBundle, graph: CheckpointGraph, variable: int) -> Weight:
    stored = graph.stored(variable)
    assert stored is not None
    info, key = checkpoint.info(stored.key), stored.key
    return Weight(info.shape, info.dtype if info.dtype in HELD_IN else None, lambda: (checkpoint.read(key), info.dtype))

"""The batch norms of an object-based checkpoint (TensorFlow 2, tf.keras from 1.12 on)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from exporter.batchnorm.stored import Skipped
from exporter.errors import UnsupportedError, names
from exporter.files.place import Place
from exporter.formats.tensor_bundle import TensorBundle
from exporter.keras.config import Node, NormFields, norm_fields
from exporter.keras.dialects import Era, era_of
from exporter.keras.node import reason_against
from exporter.keras.ranks import input_ranks
from exporter.sources.shared.architecture import node_tree_from, note_own_classes, note_training
from exporter.sources.tf_objects.configs import StoredConfigs, about_removed, given_configs
from exporter.sources.tf_objects.norms import (
    ObjectNames,
    ObjectNorm,
    batch_norm,
    object_norms,
    open_graph,
    sonnet_norms,
    with_kernel,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.batchnorm.stored import Stored
    from exporter.formats.object_graph import CheckpointGraph
    from exporter.sources.shared.found import Found
    from exporter.sources.tf_graph.graph_norm import GraphNorm


class Said(NamedTuple):
    """What is said of a batch norm: its path, and its config and the rank of its input where there are any."""

    path: str
    node: Node | None = None
    fields: NormFields | None = None
    rank: int | None = None


class Read(NamedTuple):
    """A batch norm that was read. key: of its moving variance in the checkpoint."""

    norm: ObjectNorm
    layer: Stored
    key: str


def read_norms(checkpoint: TensorBundle, graph: CheckpointGraph, norms: Iterable[ObjectNorm], said_of: Callable[[ObjectNorm], Said],
               era: Era | None, found: Found) -> Iterator[Read]:
    """The layers of these nodes as the checkpoint stores them; `found` takes those that hold more than a batch norm does."""
    for norm in norms:
        path, node, fields, rank = said_of(norm)
        reason = reason_against(node) if node else None
        if reason is not None:
            found.skip(path, reason)
            continue
        if norm.strange:
            found.skip(path, f"it also contains {names(norm.strange)}, which BatchNormalization does not have")
            continue
        stored = {role: graph.stored(variable) for role, variable in norm.variables.items()}
        keys = {role: value.key for role, value in stored.items() if value}
        layer = batch_norm(checkpoint, keys, path, node=node, config=fields, era=era, rank=rank, broadcasts=norm.is_sonnet)
        yield Read(norm, layer, keys["moving_variance"])


def read_objects(checkpoint: TensorBundle, architecture: Place | None, found: Found,
                 norms: Mapping[str, list[GraphNorm]] | None = None, *, kernels: Callable[[str], bool] | None = None) -> None:
    """Reads the batch norms of an object-based checkpoint (TensorFlow 2, tf.keras from 1.12 on) into `found`, by its object graph.

    kernels: reads also those before the batch norms whose paths it wants, where there is an architecture.
    norms: what a graph that is known to compute with them says, by the key of the moving variance.
    """
    graph = open_graph(checkpoint)
    configs: dict[int, tuple[str, Node]] = {}
    ranks: Mapping[Node, int] = {}
    era = tree = None
    removed: frozenset[int] = frozenset()
    if architecture is not None:
        given = node_tree_from(architecture)
        era = era_of(given.keras_version, given.backend)
        configs, tree, places, removed = given_configs(graph, given.tree, architecture.name)
        ranks = input_ranks(tree)
        if kernels is not None:
            from exporter.keras.kernels import feeding_layers
            from exporter.sources.tf_objects.kernels import given_kernels

            found.kernels = given_kernels(checkpoint, graph, feeding_layers(tree, kernels), places)
    paths, stored_configs = ObjectNames(graph), StoredConfigs(checkpoint, graph)

    def said_of(norm: ObjectNorm) -> Said:
        path, node = configs.get(norm.node) or stored_configs.of(norm) or (paths.path(norm.node), None)
        return Said(path, node, norm_fields(node) if node else None, ranks.get(node) if node else None)

    there = object_norms(graph, graph.is_variable)
    left_out = [norm for norm in there if not removed.isdisjoint(norm.way[0])]
    if left_out:
        found.warn(about_removed(paths.path(norm.node) for norm in left_out))
    for read in read_norms(checkpoint, graph, [norm for norm in there if norm not in left_out], said_of, era, found):
        found.take(_compared(read, norms.get(read.key, []), era) if norms else read.layer)
    for read in read_norms(checkpoint, graph, sonnet_norms(graph), lambda norm: Said("/".join(norm.way[1])), era, found):
        rank = len(checkpoint.info(read.key).shape)  # the averages have all axes of the input
        axis = tuple(number if number == -1 else number + rank for number in read.layer.axis) if read.layer.axis and rank > 1 else None
        found.add(read.layer.replace(class_name="BatchNorm", axis=axis, ndim=rank if axis else None))
    note_own_classes(tree, found)
    note_training(tree, era or Era(), found)
    if not found.layers and not found.skipped:
        raise UnsupportedError("no object of the checkpoint has variables named moving_mean and moving_variance: the model contains no "
                               "BatchNormalization layer, or one whose variables have other names",
                               hint="if the model has a custom batch norm, save it with tf.saved_model.save: "
                               "its graph shows the role of each variable")


def _compared(read: Read, norms: list[GraphNorm], era: Era | None) -> Stored | Skipped:
    """A layer with a config, compared with what a graph computes with its variables."""
    from exporter.sources.tf_objects.formula import of_norms

    reason = of_norms(norms, read.norm.variables, lambda node: False)
    return Skipped(read.layer.path, reason) if reason else with_kernel(read.layer, norms, era)

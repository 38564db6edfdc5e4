"""The batch norms of an object-based checkpoint (TensorFlow 2, tf.keras from 1.12 on)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import names
from exporter.files.place import Place
from exporter.formats.tensor_bundle import TensorBundle
from exporter.keras.config import norm_fields
from exporter.keras.dialects import era_of
from exporter.sources.shared.architecture import node_tree_from
from exporter.sources.tf_objects.configs import StoredConfigs, given_configs
from exporter.sources.tf_objects.norms import ObjectNames, batch_norm, find_norms, open_graph, with_kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.keras.config import Node
    from exporter.sources.shared.found import Found
    from exporter.sources.tf_graph.norms import GraphNorm


def read_objects(checkpoint: TensorBundle, architecture: Place | None, found: Found,
                 norms: Mapping[str, list[GraphNorm]] | None = None) -> None:
    """Reads the batch norms of an object-based checkpoint (TensorFlow 2, tf.keras from 1.12 on) into `found`, by its object graph.

    norms: what a graph that is known to compute with them says, by the key of the moving variance.
    """
    graph = open_graph(checkpoint)
    configs: dict[int, tuple[str, Node]] = {}
    era = None
    if architecture is not None:
        given = node_tree_from(architecture)
        configs, era = given_configs(graph, given, architecture.name), era_of(given.keras_version, given.backend)
    paths, stored_configs = ObjectNames(graph), StoredConfigs(checkpoint, graph)
    for norm in find_norms(graph, lambda node: graph.stored(node) is not None):
        path, node = configs.get(norm.node) or stored_configs.of(norm) or (paths.path(norm.node), None)
        if norm.strange:
            found.skip(path, f"it also holds {names(norm.strange)}, which no BatchNormalization has")
            continue
        stored = {role: graph.stored(variable) for role, variable in norm.variables.items()}
        keys = {role: value.key for role, value in stored.items() if value}
        layer = batch_norm(checkpoint, keys, path, node=node, config=norm_fields(node) if node else None, era=era)
        found.add(with_kernel(layer, norms.get(keys["moving_variance"], [])) if norms else layer)

"""TensorFlow.js layers models: model.json with the config and a list of weights, and shards with their bytes.

The weights of a group are contiguous across its shards, which may be cut anywhere (every 4 MiB). Names are those of the Keras
weights without ":0"; a model converted from .keras has the paths of its HDF5 weights instead ("layers/batch_normalization/vars/0").
The converter also accepts HDF5 files with only weights, and then writes "modelTopology": null (write_artifacts in tensorflowjs 0.1 to
4.22).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.batchnorm.bundle import Origin
from exporter.errors import FormatError, UnsupportedError
from exporter.files.place import MAX_HEAD, MiB, Place
from exporter.formats.strict_json import parse_json
from exporter.keras import dialects
from exporter.keras.config import model_tree, walk, writer_in
from exporter.sources.keras_v3.groups import VARIABLES, Group
from exporter.sources.layers_model.manifest import Paths, Weights, check_order
from exporter.sources.legacy_h5.weights import LayerGroup, norms_of
from exporter.sources.shared.architecture import node_tree_from, note_unused
from exporter.sources.shared.assemble import assemble
from exporter.sources.shared.found import Found
from exporter.sources.shared.matching import by_name

if TYPE_CHECKING:
    from exporter.sources.shared.options import ReadOptions

NAME = "tfjs"
OPTIONS = ("architecture",)
MAX_MODEL_JSON = 64 * MiB
GRAPH_MODEL = "this is a TensorFlow.js graph model: its converter folds batch norm into the layers before it, so its parameters are gone"


def claims(place: Place) -> bool:
    """A JSON file with the keys of a model.json."""
    head = place.head(MAX_HEAD)
    return head.lstrip()[:1] == b"{" and (b'"modelTopology"' in head or b'"weightsManifest"' in head)


def read(place: Place, options: ReadOptions) -> Found:
    """The batch norms of the model; quantized parameters as TensorFlow.js itself dequantizes them."""
    value = parse_json(place.read(MAX_MODEL_JSON), "")
    topology = value.get("modelTopology")
    if not isinstance(topology, dict) and topology is not None:
        raise FormatError("modelTopology contains no config: it is not a JSON object")
    if value.get("format") == "graph-model" or (topology and "node" in topology):
        raise UnsupportedError(GRAPH_MODEL, hint="export the Keras model or the SavedModel that it was converted from")
    if topology is None:
        return _without_config(Weights(value.get("weightsManifest"), place), place, options)
    config = topology.get("model_config", topology)
    tree = model_tree(parse_json(config, "modelTopology") if isinstance(config, str) else config, "modelTopology")
    version, backend = writer_in(topology)
    weights = Weights(value.get("weightsManifest"), place)
    found = Found(Origin(file=place.name, kind=NAME, keras_version=version, backend=backend), options)
    if weights.are_by_path():
        from exporter.sources.keras_v3.weights import read_weights  # this source is asked about many files that are none of its own

        read_weights(Group([Paths(weights)]), tree, version, found, own_config=True,
                     quantized=lambda group: weights.quantized(f"{group.path}/{VARIABLES}"))
    else:
        is_any_frozen = any(node.config.get("trainable") is False for _, node in walk(tree))
        for group in weights.by_group():
            check_order(group, is_any_frozen=is_any_frozen)
        by_name(tree, weights, dialects.era_of(version, backend), found, own_config=True)
    note_unused(options.architecture, found)
    return found


def _without_config(weights: Weights, place: Place, options: ReadOptions) -> Found:
    """The batch norms of weights alone, whose names and order are those of the original HDF5 file."""
    if weights.are_by_path():
        raise FormatError("this model.json contains no modelTopology, so there is no config to match the weights with")
    if options.architecture is not None:
        given = node_tree_from(options.architecture)
        found = Found(Origin(file=place.name, kind=NAME, keras_version=given.keras_version, backend=given.backend), options)
        by_name(given.tree, weights, dialects.era_of(given.keras_version, given.backend), found, own_config=False)
        return found
    found = Found(Origin(file=place.name, kind=NAME), options)
    for norm in norms_of(LayerGroup(name="weightsManifest", path="", weights=tuple(weights.by_name))):
        if norm.old_name or norm.doubt:
            found.skip(norm.scope, norm.doubt or (
                "its running_std of Keras 1 can be a standard deviation or a variance; export the HDF5 file itself"))
            continue
        arrays = {role: weights.read(name) for role, name in norm.datasets.items()}
        found.add(assemble(norm.scope, None, None, arrays, dialects.Era(), None, name=norm.scope.rpartition("/")[2],
                           quantized=weights.quantized(norm.scope)))
    return found

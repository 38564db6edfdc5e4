"""From the graphs, the objects and the variables of a SavedModel to its batch norms."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Hashable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from exporter.batchnorm.stored import Skipped, Stored
from exporter.errors import ExporterError, FormatError, names
from exporter.files.place import Place
from exporter.formats.graph_def import MetaGraph
from exporter.formats.object_graph import OBJECT_GRAPH, SavedGraph
from exporter.formats.tensor_bundle import Checkpoint, TensorBundle, open_checkpoint
from exporter.keras.dialects import era_of_tensorflow
from exporter.sources.tf_graph.graph_norm import OF_THE_BATCH
from exporter.sources.tf_graph.layers import Values, layers
from exporter.sources.tf_graph.norms import graph_norms
from exporter.sources.tf_graph.ops import VARIABLES as VARIABLE_OPS
from exporter.sources.tf_graph.saved import SavedFunctions, key_of
from exporter.sources.tf_graph.values import Variable
from exporter.sources.tf_objects import METADATA, MODEL, VARIABLES
from exporter.sources.tf_objects.configs import about_removed
from exporter.sources.tf_objects.norms import ObjectNames, ObjectNorm, epsilon_of, open_graph, with_kernel
from exporter.sources.tf_objects.parts import Part
from exporter.sources.tf_objects.read import Said, read_norms, read_objects
from exporter.sources.tf_objects.saved import KerasMetadata, model_prefix, same_norms

if TYPE_CHECKING:
    from exporter.batchnorm.kernels import Kernel
    from exporter.sources.shared.found import Found
    from exporter.sources.shared.options import ReadOptions
    from exporter.sources.tf_graph.graph_norm import GraphNorm

ARCHITECTURE = "assets/saved_model.json"  # written by tf.keras's export_saved_model in TensorFlow 1.12 to 2.0


def read_model(part: Part, folder: Place, found: Found, options: ReadOptions) -> None:
    """Reads the batch norms of a SavedModel into `found`. part: the graph of inference of its file; folder: where the file is."""
    index = folder.child(VARIABLES)
    if not index.is_file():
        _read_frozen(part, found)
        return
    with open_checkpoint(index) as checkpoint:
        _read(part, checkpoint, folder, found, options)


def _read(part: Part, checkpoint: Checkpoint, folder: Place, found: Found, options: ReadOptions) -> None:
    bundle = checkpoint if isinstance(checkpoint, TensorBundle) and OBJECT_GRAPH in checkpoint else None
    if bundle is not None and part.objects is not None:
        reader = _Reader(part, part.objects, bundle, folder)
        reader.read(found)
        if options.kernels:
            found.kernels = reader.kernels(options.wants)
        return
    graph = MetaGraph(part.data, MODEL)
    if bundle is not None and folder.child(ARCHITECTURE).is_file():
        read_objects(bundle, folder.child(ARCHITECTURE), found, _norms_by_key(graph),
                     kernels=options.wants if options.kernels else None)
    else:
        from exporter.sources.tf_graph.tf1 import read_graph

        read_graph(checkpoint, graph, found, options)


def _read_frozen(part: Part, found: Found) -> None:
    """Reads a model whose variables were turned into constants before it was saved."""
    graph = MetaGraph(part.data, MODEL).graph
    objects = part.objects
    if any(node.op in VARIABLE_OPS for node in graph.main.nodes.values()) or (
            objects is not None and any(map(objects.is_variable, range(len(objects))))):
        raise FormatError("the SavedModel has no variables: their index is missing", where=VARIABLES)
    for outcome in layers(graph_norms(graph), lambda variable: None, part.tensorflow_version, is_served=True):
        found.take(outcome)


def _norms_by_key(graph: MetaGraph) -> dict[str, list[GraphNorm]]:
    """The batch norms of a TensorFlow 1 graph, by the key under which its saver stores their variance."""
    from exporter.sources.tf_graph.tf1 import saved_names

    keys = saved_names(graph)
    found: dict[str, list[GraphNorm]] = {}
    for norm in graph_norms(graph.graph):
        variance = norm.moving[1] if norm.moving else norm.variance
        if isinstance(variance, Variable):
            found.setdefault(keys.get(variance.name, variance.name), []).append(norm)
    return found


class _Reader:
    """Reads a SavedModel that has an object graph."""

    def __init__(self, part: Part, objects: SavedGraph, checkpoint: TensorBundle, folder: Place) -> None:
        self._part, self._saved, self._checkpoint = part, objects, checkpoint
        self._stored = open_graph(checkpoint)
        self._keras = KerasMetadata(folder.child(METADATA), objects, self._stored)
        self._era = era_of_tensorflow(part.tensorflow_version)
        self._by_name: ObjectNames | None = None
        self._begun: dict[Hashable, tuple[GraphNorm, Stored | None]] = {}  # by what is their variance

    def read(self, found: Found) -> None:
        """Reads its batch norms into `found`."""
        norms = same_norms(self._saved, self._stored)
        removed = {norm.node: self._keras.path(norm) for norm in norms if self._keras.is_removed(norm)}
        if removed:
            found.warn(about_removed(removed.values()))
        if norms:
            self._by_objects(norms, removed.keys(), found)
        else:
            self._by_graph(found)

    def kernels(self, wants: Callable[[str], bool]) -> dict[str, Kernel | str]:
        """The kernels of the layers that feed its wanted batch norms."""
        from exporter.sources.tf_objects.kernels import saved_kernels

        return saved_kernels(self._checkpoint, self._stored, self._keras, wants)

    def _by_objects(self, norms: list[ObjectNorm], removed: Collection[int], found: Found) -> None:
        left = [norm for norm in norms if norm.node not in removed]
        read = list(read_norms(self._checkpoint, self._stored, left, self._said, self._era, found))
        for one in read:
            if one.layer.epsilon is not None:  # else the graph completes it
                found.begin(one.layer)
        functions = SavedFunctions(self._part.data, self._saved, self._stored)
        by_variance = functions.norms_of(one.norm.variables["moving_variance"] for one in read)
        for one in read:
            found.take(self._completed(one.layer, one.norm, by_variance[one.norm.variables["moving_variance"]], functions))
        known = {node for norm in norms for node in self._stored.children(norm.node).values()}
        self._add(functions.others(known), found)  # whose variables have other names
        for sentence in functions.about_compiled():
            found.warn(sentence)

    def _said(self, norm: ObjectNorm) -> Said:
        path = self._keras.path(norm)
        if not path:
            self._by_name = self._by_name or ObjectNames(self._stored)
            path = self._by_name.path(norm.node)
        return Said(path, *self._keras.config(norm) or (None, None))

    def _completed(self, layer: Stored, found: ObjectNorm, norms: list[GraphNorm], functions: SavedFunctions) -> Stored | Skipped:
        """The layer, completed from the graph: everything if it has no config, the epsilon of fused kernels, and whether the model uses
        the statistics of the batch, which the code of a user's class may ask for."""
        from exporter.sources.tf_objects.formula import other_formula, plays

        reason = other_formula(layer, norms, found, functions, self._saved)
        if reason:
            return Skipped(layer.path, reason)
        same = [norm for norm in norms if plays(norm, found)]
        if same and (any(norm.also_in_training for norm in same) or all(norm.in_training for norm in same)):
            layer = layer.replace(called_in_training=True, doubt=layer.doubt or OF_THE_BATCH)
        if layer.epsilon is not None:
            return with_kernel(layer, same, self._era)
        epsilon = epsilon_of(same)
        if epsilon is None:
            return layer
        for outcome in layers([norm for norm in same if not norm.reason][:1], self._values):
            if not isinstance(outcome, Skipped):
                return outcome.replace(path=layer.path, name=layer.name, class_name=layer.class_name, doubt=layer.doubt,
                                       called_in_training=layer.called_in_training)
        return layer.replace(epsilon=epsilon)

    def _by_graph(self, found: Found) -> None:
        """The batch norms of objects that are not Keras layers, as model.export writes them: from the functions alone."""
        functions = SavedFunctions(self._part.data, self._saved, self._stored)
        norms = functions.norms(lambda norm: self._begin(norm, found))
        self._add(norms, found)
        if not norms:
            functions.check_is_open()
        unused = self._unused(functions.used())
        if unused:
            found.warn(f"{names(unused)}: the file contains moving_mean and moving_variance of it, but none of its functions uses them")
        for sentence in functions.about_compiled():
            found.warn(sentence)

    def _unused(self, used: AbstractSet[int]) -> list[str]:
        """The scopes with statistics that no function uses, as of a layer behind the output of an endpoint."""
        names = [self._stored.variable_name(node) for node in set(range(len(self._stored))).difference(used)]
        scopes = sorted({name.rpartition("/")[0] for name in names if name.endswith("/moving_variance")})
        others = used if scopes else ()  # an object may be listed twice
        known = {self._stored.variable_name(node) for node in others if node < len(self._stored)}
        return [scope for scope in scopes if f"{scope}/moving_variance" not in known]

    @functools.cached_property
    def _prefix(self) -> re.Pattern[str] | None:
        return model_prefix(self._stored.variable_name(node) for node in range(len(self._stored)))

    def _begin(self, norm: GraphNorm, found: Found) -> None:
        """Reads a batch norm as soon as it is found: what is made of it will mostly be the same when all others are known, too."""
        if norm.variance.identity not in self._begun:  # one that is used again and again is read once, as in the end
            self._begun[norm.variance.identity] = norm, None
            with contextlib.suppress(ExporterError):  # the end has the same error, if it reads it
                layer = self._layer(norm, self._prefix)
                if isinstance(layer, Stored):
                    self._begun[norm.variance.identity] = norm, layer
                    found.begin(layer)

    def _add(self, norms: list[GraphNorm], found: Found) -> None:
        norms = [norm for norm in norms if norm.epsilon != 0 or not self._keras.is_preparing(key_of(norm.variance))]
        prefix = self._prefix if len(norms) > 1 else None
        if prefix is not None and not all(prefix.match(norm.path) for norm in norms):
            prefix = None
        for norm in norms:
            begun, layer = self._begun.get(norm.variance.identity, (norm, None))
            is_same = layer is not None and begun.has_fields_of(norm) and layer.path == _without(prefix, norm.path)
            found.take(layer if layer is not None and is_same else self._layer(norm, prefix))

    def _layer(self, norm: GraphNorm, prefix: re.Pattern[str] | None) -> Stored | Skipped:
        (outcome,) = layers([norm], self._values, is_served=True)
        path = _without(prefix, outcome.path)
        if isinstance(outcome, Skipped):
            return Skipped(path, outcome.reason)
        name = path.rpartition("/")[2]
        return outcome if name == outcome.path else outcome.replace(path=path, name=name)

    def _values(self, variable: Variable) -> Values | None:
        node = key_of(variable)
        stored = self._stored.stored(node) if node is not None and node < len(self._stored) else None
        if stored is None:
            return None
        return Values(*self._checkpoint.typed(stored.key))


def _without(prefix: re.Pattern[str] | None, path: str) -> str:
    return prefix.sub("", path) if prefix is not None else path

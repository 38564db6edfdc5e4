"""Checkpoints of tf.train.Saver: variables by name, and the graph beside them in a .meta file.

With the graph, every batch norm is found by the graph's edges, whatever the names of its variables. Without it only names remain: whole
last name components that TensorFlow itself generated, and no epsilon.

The .meta file beside a checkpoint is usually the training graph. A layer that it runs with the statistics of the batch is exported with
the moving averages that its update ops keep, with a warning; not if these still have their initial values, because then nothing runs
the update ops, and the model works with the statistics of the batch.

ReadOptions.ema, averages of variables (their name and "/ExponentialMovingAverage"):
    None    as the graph reads them; a warning lists averages in the checkpoint that are not used;
    "yes"   the average in place of the variable, wherever the checkpoint has one; also moving averages with their initial values;
    "no"    the variable in place of its average.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from exporter.batchnorm.stored import AFFINE, PARAMETERS, STATISTICS, Skipped, Stored
from exporter.errors import UnsupportedError, UsageError
from exporter.errors import names as listed
from exporter.formats.graph_def import MetaGraph, Node, open_file
from exporter.keras.dialects import Era
from exporter.sources.shared.assemble import assemble
from exporter.sources.shared.found import Found
from exporter.sources.tf_graph.graph_norm import OF_THE_BATCH, GraphNorm
from exporter.sources.tf_graph.layers import Values, layers
from exporter.sources.tf_graph.norms import graph_norms
from exporter.sources.tf_graph.ops import PASSES, VARIABLES
from exporter.sources.tf_graph.other_use import used_names, without_other_use
from exporter.sources.tf_graph.values import Constant, Variable

if TYPE_CHECKING:
    from exporter.files.place import Place
    from exporter.formats.tensor_bundle import Checkpoint
    from exporter.sources.shared.options import ReadOptions

NAME = "tf-checkpoint"
MAX_READS = 10  # ops that read one another, between a variable and the op that saves it
AVERAGE = "/ExponentialMovingAverage"
_PART = re.compile(r"/part_\d+$")
# Save ops (tensorflow/core/ops/io_ops.cc) with the number of their first tensor; input 1 contains the names.
SAVE_OPS = {"Save": 2, "SaveSlices": 3, "SaveV2": 3}
# tf.nn.moments's names of the two tensors after which the averages of a handwritten batch norm are named: TensorFlow 1.x, 0.12.
MOMENTS = (("/moments/Squeeze", "/moments/Squeeze_1"), ("/moments/moments_1/mean", "/moments/moments_1/variance"))


def read_tf1(checkpoint: Checkpoint, meta: Place | None, others: Sequence[Place], found: Found, options: ReadOptions) -> None:
    """Reads the batch norms of a name-based checkpoint into `found`.

    meta: the graph beside it, or None; --architecture may give another. others: graphs with other names in the folder; the only one is used
    if it has this checkpoint's variables. Raises FormatError for damage, UnsupportedError if names alone are inconclusive.
    """
    if options.architecture is not None:
        if options.architecture.suffix != ".meta":
            raise UsageError("for a checkpoint of tf.train.Saver, expected a .meta file, got a Keras architecture")
        meta = options.architecture
    if meta is None and len(others) == 1 and _fits(graph := MetaGraph(open_file(others[0]), others[0].name), checkpoint):
        found.warn(f"{others[0].name}, the only graph beside the checkpoint, is used to find the variables of its batch norms")
    elif meta is None:
        _by_name(checkpoint, found, options, others)
        return
    else:
        graph = MetaGraph(open_file(meta), meta.name)
    found.origin = dataclasses.replace(found.origin, tensorflow_version=graph.tensorflow_version or None)
    read_graph(checkpoint, graph, found, options)


def _fits(graph: MetaGraph, checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint stores the variables of every batch norm of a graph."""
    stored_as = saved_names(graph)
    roles = [role for norm in graph_norms(graph.graph) for role in (norm.gamma, norm.beta, *(norm.moving or (norm.mean, norm.variance)))]
    used = {role.name for role in roles if isinstance(role, Variable)}
    return bool(used) and all(_stored_name(name, stored_as, checkpoint) in checkpoint for name in used)


def read_graph(checkpoint: Checkpoint, graph: MetaGraph, found: Found, options: ReadOptions) -> None:
    """Reads the batch norms of a graph whose saver wrote this checkpoint into `found`."""
    norms = without_other_use(graph_norms(graph.graph), lambda: used_names(graph.graph.main))
    averaged = {norm.path for norm in norms if norm.moving}
    names = _Names(checkpoint, saved_names(graph), options.ema)
    for outcome in layers(list(map(_of_inference, norms)), names.read, graph.tensorflow_version):
        if isinstance(outcome, Stored) and outcome.path in averaged and options.ema != "yes" and outcome.is_untouched:
            found.skip(outcome.path, f"{OF_THE_BATCH}, and its moving averages were never updated")
        else:
            found.take(outcome)
    for scope in _unused(checkpoint, names, norms):
        found.skip(scope, "the graph beside the checkpoint does not use it")
    shown = [layer.path for layer in found.layers if layer.path in averaged]
    if shown:
        found.warn(f"{listed(shown)}: in training mode in this graph; exported with the moving averages that it keeps for inference")
    names.warn_of_averages(found)


def saved_names(meta: MetaGraph) -> dict[str, str]:
    """The name under which a graph's saver stores each variable, if it is not the variable's own name (Saver(var_list={...})).

    The slices of a partitioned variable, bn/gamma/part_0 and part_1, are stored as one, whose name is that of bn/gamma.
    """
    scope = meta.save_node.rpartition("/")[0]
    nodes = meta.graph.main.nodes
    found: dict[str, str] = {}
    for node in nodes.values():
        if node.op in SAVE_OPS and node.name.rpartition("/")[0] == scope and len(node.inputs) > 2:
            stored, first = _strings(nodes, node.inputs[1].node), SAVE_OPS[node.op]
            slices = [*(_strings(nodes, node.inputs[2].node) if first > 2 else []), *[""] * len(stored)]
            for output, name, part in zip(node.inputs[first:], stored, slices):
                variable = _variable_of(nodes, output.node)
                if variable is not None:
                    found[_PART.sub("", variable) if part and not _is_whole(part) else variable] = name
    return found


def _strings(nodes: Mapping[str, Node], name: str) -> list[str]:
    """The elements of a constant; none of another node."""
    node = nodes.get(name)
    return [text.decode("utf-8", "replace") for text in node.tensor().strings()] if node is not None and node.op == "Const" else []


def _is_whole(part: str) -> bool:
    """Whether a slice is all of its tensor, "4 3 0,4:-": its sizes, then start and length of each (tensor_slice.cc)."""
    *sizes, extents = part.split(" ")
    return all(extent in ("-", f"0,{size}") for size, extent in itertools.zip_longest(sizes, extents.split(":")))


def _stored_name(variable: str, stored_as: Mapping[str, str], checkpoint: Checkpoint) -> str:
    """The name of a variable in a checkpoint: that of the graph's saver, or its own if another saver wrote this checkpoint."""
    name = stored_as.get(variable, variable)
    return name if name in checkpoint else variable


def _variable_of(nodes: Mapping[str, Node], name: str) -> str | None:
    """The variable that a save op gets, directly or through a read."""
    for _ in range(MAX_READS):
        node = nodes.get(name)
        if node is None or node.op not in PASSES or not node.inputs:
            break
        name = node.inputs[0].node
    return name if name in nodes and nodes[name].op in VARIABLES else None


def _of_inference(norm: GraphNorm) -> GraphNorm:
    """A layer, if it is in training with the moving averages that its update ops keep."""
    return dataclasses.replace(norm, mean=norm.moving[0], variance=norm.moving[1], reason="") if norm.moving else norm


class _Names:
    """Values of variables by name, with averages in place of variables or the other way round."""

    def __init__(self, checkpoint: Checkpoint, stored_as: Mapping[str, str], ema: str | None) -> None:
        self._checkpoint, self._stored_as, self._ema = checkpoint, stored_as, ema
        self.used: set[str] = set()
        self._left: list[str] = []

    def read(self, variable: Variable) -> Values | None:
        """The stored values, None if the checkpoint has none."""
        name = _stored_name(variable.name, self._stored_as, self._checkpoint)
        if self._ema == "yes" and name + AVERAGE in self._checkpoint:
            name += AVERAGE
        elif self._ema == "no" and name.removesuffix(AVERAGE) in self._checkpoint:
            name = name.removesuffix(AVERAGE)
        if name not in self._checkpoint:
            return None
        self.used.add(name)
        if self._ema is None and name + AVERAGE in self._checkpoint:
            self._left.append(name)
        return Values(self._checkpoint.read(name), self._checkpoint.info(name).dtype)

    def warn_of_averages(self, found: Found) -> None:
        """Warns if the checkpoint has averages of the variables that were read, and they are not used."""
        if self._left:
            found.warn(f"the checkpoint also contains exponential moving averages of {listed(dict.fromkeys(self._left))}, "
                       "which are not used; --ema yes uses them, --ema no silences this")


def _unused(checkpoint: Checkpoint, names: _Names, norms: list[GraphNorm]) -> list[str]:
    """Scopes of the checkpoint with moving statistics that nothing in the graph computes with."""
    known = {norm.path for norm in norms}
    for norm in norms:
        known.update(role.name.rpartition("/")[0] for role in (norm.mean, norm.variance, *(norm.moving or ()))
                     if isinstance(role, (Variable, Constant)))
    return [scope for scope, last in _scopes(checkpoint).items()
            if last >= set(STATISTICS) and scope not in known and f"{scope}/moving_mean" not in names.used]


def _scopes(checkpoint: Checkpoint) -> dict[str, set[str]]:
    """The last components of the variables' names, by scope."""
    scopes: dict[str, set[str]] = {}
    for name in checkpoint.names():
        scope, _, last = name.rpartition("/")
        scopes.setdefault(scope, set()).add(last)
    return scopes


class _Named(NamedTuple):
    path: str
    variables: dict[str, str]


def _by_name(checkpoint: Checkpoint, found: Found, options: ReadOptions, graphs: Sequence[Place]) -> None:
    """What names alone show: the four of tf.layers, Keras and slim in one scope, and the averages of a handwritten batch norm.

    graphs: those in the folder, for the hint.
    """
    scopes = _scopes(checkpoint)
    named: list[_Named] = []
    for scope, last in scopes.items():
        statistics = last.intersection(STATISTICS)
        if len(statistics) == 1:
            found.skip(scope, f"it has only a {statistics.pop()}")
        elif statistics:
            named.append(_Named(scope, {role: _join(scope, role) for role in PARAMETERS if role in last}))
    for outcome in _hand_made(scopes):
        if isinstance(outcome, Skipped):
            found.take(outcome)
        else:
            named.append(outcome)
    if not named and not found.skipped:
        beside = listed(one.name for one in graphs)
        raise UnsupportedError("no variables are named moving_mean and moving_variance: the model contains no batch norm, or one whose "
                               "variables have other names",
                               hint=f"give this checkpoint's graph with --architecture; the folder contains {beside}" if graphs else
                               "if it has one, put the .meta file that tf.train.Saver wrote with this checkpoint into the same folder")
    known = {norm.path for norm in named} | {path for path, _ in found.skipped}
    alone = [scope for scope, last in scopes.items() if last.intersection(AFFINE) and scope not in known]
    if alone:
        found.warn(f"{listed(alone)}: expected moving_mean and moving_variance beside gamma or beta, got neither: a layer normalization, "
                   "or a batch norm whose statistics have other names, which the .meta file would tell")
    names = _Names(checkpoint, {}, options.ema)
    for norm in named:
        values = {role: stored for role, name in norm.variables.items() if (stored := names.read(Variable(name, name))) is not None}
        shapes, dtypes = {one.values.shape for one in values.values()}, {one.dtype for one in values.values()}
        if len(shapes) > 1 or len(dtypes) > 1:
            found.skip(norm.path, f"its variables differ in shape or type: {', '.join(map(str, sorted(shapes)))}")
            continue
        found.add(assemble(norm.path, None, None, values, Era(), None, name=norm.path))
    names.warn_of_averages(found)


def _hand_made(scopes: Mapping[str, set[str]]) -> Iterator[_Named | Skipped]:
    """Averages of tf.nn.moments: <variable scope>/<op scope>/moments/Squeeze and Squeeze_1, where <op scope> holds a beta or gamma."""
    for scope in [scope for scope, last in scopes.items() if AVERAGE[1:] in last]:
        for mean, variance in MOMENTS:
            inner = scope.removesuffix(mean)
            if inner == scope or AVERAGE[1:] not in scopes.get(inner + variance, ()):
                continue
            parts = inner.split("/")
            owners = ["/".join(parts[first:]) for first in range(len(parts))]
            owners = [owner for owner in owners if scopes.get(owner, set()).intersection(AFFINE)]
            if len(owners) != 1:
                whose = f"could belong to any of {len(owners)} scopes" if owners else "are in none of the scopes of its name"
                yield Skipped(inner, f"its gamma and beta {whose}; the .meta file would decide it")
                continue
            variables = {role: _join(owners[0], role) for role in AFFINE if role in scopes[owners[0]]}
            statistics = {"moving_mean": inner + mean + AVERAGE, "moving_variance": inner + variance + AVERAGE}
            yield _Named(owners[0], variables | statistics)


def _join(scope: str, last: str) -> str:
    return f"{scope}/{last}" if scope else last

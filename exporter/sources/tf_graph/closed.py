"""Graphs in which batch norms are not visible: compiled code, and files of other programs that look like TensorFlow's."""

from __future__ import annotations

from exporter.errors import UnsupportedError, names
from exporter.formats.graph_def import Graph
from exporter.sources.shared.refusals import FOLDED, ORIGINAL

# Ops that contain a program of another kind: what it is, and what to do.
COMPILED = {
    "XlaCallModule": "the model is compiled StableHLO (the op XlaCallModule, which Keras 3 on JAX or PyTorch and jax2tf write): epsilon "
                     "and the role of each variable are inside the compiled code",
    "TRTEngineOp": f"the model is compiled for TensorRT (the op TRTEngineOp): {FOLDED}",
    "_NeuronCoreRun": f"the model is compiled for AWS Neuron: {FOLDED}",
    "NeuronOp": f"the model is compiled for AWS Neuron: {FOLDED}",
    "EdgeTpuOp": f"the model is compiled for the Edge TPU: {FOLDED}",
}
FOREIGN = {
    "DataInput": "this is a graph of MMdnn's intermediate representation, not a TensorFlow graph; its weights are in a separate file",
}


def check_is_open(graph: Graph) -> None:
    """Raises UnsupportedError for a graph in which batch norms may be invisible."""
    for node in graph.all_nodes():
        if node.op in COMPILED:
            raise UnsupportedError(COMPILED[node.op], hint="export the Keras model that it was made from (.keras, .h5 or its weights)")
        if node.op in FOREIGN:
            raise UnsupportedError(FOREIGN[node.op], hint=ORIGINAL)


def about_compiled(graph: Graph) -> list[str]:
    """A warning about parts of a graph in which further batch norms would be invisible, as far as it was searched; none without any."""
    compiled = sorted(COMPILED.keys() & {node.op for body in graph.parsed() for node in body.nodes.values()})
    return [f"a part of the model is compiled (the op {names(compiled)}); batch norms in it are not visible"] if compiled else []

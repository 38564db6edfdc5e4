"""Paths for the batch norms of a graph: the scopes of their variables, else of their ops."""

from __future__ import annotations

import re
from collections.abc import Sequence

from exporter.formats.graph_def import Node
from exporter.sources.tf_graph.ops import FUSED
from exporter.sources.tf_graph.values import Constant, Parts, Traced, Variable

# TensorFlow's and Keras's names for the scopes and ops of a batch norm below the layer's own scope.
INNER_SCOPE = re.compile(r"(batchnorm|cond|batch_normalization_op|_?FusedBatchNorm(V2|V3|Ex)?)(_\d+)?")
CALL_SCOPE = re.compile(r"(Stateful)?PartitionedCall(_\d+)?")


def is_of_inference(function: str) -> bool:
    """Whether a function of this name serves a model (tensorflow/python/saved_model/signature_serialization.py, and Keras's
    saving_utils.py)."""
    return "signature_wrapper" in function or "_wrapped_model" in function


def variable_scope(affine: Sequence[Traced | None], statistics: Sequence[Traced | None]) -> str:
    """The scope that gamma and beta share, else the statistics; "" if they have none or the names are those of ops."""
    for roles in (affine, statistics):
        names = [re.sub(r"/part_\d+$", "", role.name) for role in roles if isinstance(role, (Variable, Constant, Parts))]
        scopes = {name.rpartition("/")[0] for name in names}
        if names:
            by_op = any(name.endswith(("/ReadVariableOp/resource", "/resource")) for name in names)
            return scopes.pop() if len(scopes) == 1 and not by_op else ""
    return ""


def op_scope(node: Node) -> str:
    """The scope of a batch norm's op without the parts that all batch norms have; the op's own name if nothing remains."""
    parts = node.name.split("/")
    if not FUSED.fullmatch(node.op) and len(parts) > 1:
        parts.pop()
    whole = list(parts)
    while parts and INNER_SCOPE.fullmatch(parts[-1]):
        parts.pop()
    while parts and CALL_SCOPE.fullmatch(parts[0]):
        parts.pop(0)
    return "/".join(parts or whole)

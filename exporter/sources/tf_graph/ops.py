"""What TensorFlow's ops do, as far as batch norms are found by it."""

from __future__ import annotations

import re

from exporter.formats.graph_def import Graph, Node, Output
from exporter.formats.tensorflow_types import dtype_of

ATTRIBUTE_TYPE = 6  # the field of an AttrValue that is a type

PASSES = frozenset({"Identity", "RefIdentity", "ReadVariableOp", "Switch", "RefSwitch", "_SwitchN", "Enter", "RefEnter", "Exit", "Snapshot",
                    "StopGradient", "PreventGradient", "CheckNumerics", "Cast", "EnsureShape"})
VARIABLES = frozenset({"VariableV2", "Variable", "VarHandleOp", "AutoReloadVariable"})
CALLS = {"PartitionedCall": "f", "StatefulPartitionedCall": "f", "RemoteCall": "f", "BatchFunction": "f", "TPUPartitionedCall": "f",
         "TPUPartitionedCallV2": "f", "MapDefun": "f", "XlaLaunch": "function", "XlaLaunchV2": "function"}
CHOICES = {"If": ("then_branch", "else_branch"), "StatelessIf": ("then_branch", "else_branch"), "Case": ("branches",),
           "StatelessCase": ("branches",), "XlaIf": ("then_branch", "else_branch")}
SELECTING = frozenset({*CHOICES, "Select", "SelectV2", "Switch", "RefSwitch", "_SwitchN"})
LOOPS = {"While": ("body", "cond"), "StatelessWhile": ("body", "cond")}
REDUCTIONS = frozenset({"Mean", "Sum"})
# What makes a statistic of other statistics: arithmetic on each element, and sums over replicas. Sizes of tensors are numbers among these.
ELEMENTWISE = frozenset({"Add", "AddV2", "AddN", "Sub", "Mul", "Neg", "RealDiv", "Div", "Reciprocal", "Inv", "Square", "SquaredDifference",
                         "Sqrt", "Rsqrt", "Pow", "Maximum", "Minimum", "Relu", "Select", "SelectV2", "Merge", "RefMerge",
                         "CollectiveReduce", "CollectiveReduceV2", "NcclAllReduce"})
SIZES = frozenset({"Shape", "Size", "Rank"})
OF_SIZES = frozenset({"Prod", "StridedSlice", "Gather", "GatherV2", "Cast", "Identity", "Pack"})  # compute a size of sizes
WRITES = frozenset({"Assign", "AssignAdd", "AssignSub"})  # of reference variables: their output is the variable
FUSED = re.compile(r"_?FusedBatchNorm(V2|V3|Ex)?")


def functions_called(op: str) -> tuple[str, ...]:
    """The attributes of an op that name the functions that it runs."""
    return (CALLS[op],) if op in CALLS else (*CHOICES.get(op, ()), *LOOPS.get(op, ()))


def called_by(node: Node, graph: Graph) -> list[str]:
    """The functions that a node may run."""
    return [*node.functions(*functions_called(node.op)), *([node.op] if node.op in graph else [])]


def truncates(node: Node) -> bool:
    """Whether a Cast makes integers of floating point numbers."""
    kinds = [dtype_of(said.unsigned(ATTRIBUTE_TYPE)).kind if (said := node.attribute(name)) else "" for name in ("SrcT", "DstT")]
    return kinds[0] == "float" and kinds[1] not in ("float", "")


def data_inputs(node: Node) -> list[Output]:
    """The inputs of a node without those that only select among others."""
    if node.op not in SELECTING:
        return node.inputs
    return node.inputs[1:] if node.op in CHOICES or node.op in ("Select", "SelectV2") else node.inputs[:1]

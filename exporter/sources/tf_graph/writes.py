"""Variables that a graph assigns before a batch norm reads them: what the file stores is not what it computes with.

    v.assign(v * 2)                                       AssignVariableOp
    y = tf.nn.batch_normalization(x, m, v, ...)           ReadVariableOp, which has to run after it: a control edge

Both may be in functions of their own, where the edge is between the calls.
"""

from __future__ import annotations

from collections.abc import Hashable

from exporter.formats.graph_def import Body, Node
from exporter.sources.tf_graph.ops import called_by, functions_called
from exporter.sources.tf_graph.trace import Tracer
from exporter.sources.tf_graph.values import Frame, Parts, Traced, Variable, operand

# How the names of ops begin that change the variable of their first input: those of training, too.
WRITERS = ("Assign", "Apply", "SparseApply", "Scatter", "ResourceApply", "ResourceSparseApply", "ResourceScatter")
MAX_STEPS = 5_000_000  # of all searches


class Writes:
    """The assignments of a graph."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._changes: dict[str, bool] = {}
        self._writers: dict[Frame, dict[Hashable, set[str]]] = {}
        self._steps = 0

    def precede(self, source: Traced | None) -> bool:
        """Whether the graph assigns a variable before it reads it."""
        if isinstance(source, Parts):
            return any(map(self.precede, source.parts))
        if not isinstance(source, Variable) or source.read is None:
            return False
        frame, node = source.read.frame, source.read.node
        while node is not None:
            if node.controls or frame is not source.read.frame:
                writers = self._of(frame).get(source.identity)
                if writers and not writers.isdisjoint(self._before(frame.body, node)):
                    return True
            if frame.caller is None:
                break
            frame, node = frame.caller, frame.call
        return False

    def _of(self, frame: Frame) -> dict[Hashable, set[str]]:
        """The ops of a frame that assign a variable, or call functions that do, by the variable."""
        if frame not in self._writers:
            found = self._writers[frame] = {}
            for node in frame.body.nodes.values() if self._may_change(frame.body) else ():
                if node.op.startswith(WRITERS) and node.inputs:
                    target = self._tracer.trace(operand(frame, node, 0))
                    targets = [target.identity] if isinstance(target, Variable) else []
                else:
                    called = [one for one in self._tracer.called(frame, node) if self._may_change(self._tracer.graph.function(one[0]))]
                    targets = [identity for name, first in called for identity in self._of(self._tracer.enter(frame, node, name, first))]
                for identity in targets:
                    found.setdefault(identity, set()).add(node.name)
        return self._writers[frame]

    def _may_change(self, body: Body) -> bool:
        """Whether a body, or one that it calls, assigns a variable."""
        if body.name not in self._changes:
            self._changes[body.name] = False  # a recursive call adds nothing
            graph, ops = self._tracer.graph, {node.op for node in body.nodes.values()}
            calling = {op for op in ops if functions_called(op) or op in graph}
            self._changes[body.name] = any(op.startswith(WRITERS) for op in ops) or (bool(calling) and any(
                self._may_change(graph.function(name)) for node in body.nodes.values() if node.op in calling
                for name in called_by(node, graph)))
        return self._changes[body.name]

    def _before(self, body: Body, node: Node) -> set[str]:
        """The nodes that have run when a node runs; all of them where that takes too long to find out."""
        queue, seen = [node], {node.name}
        for one in queue:
            for name in (*(output.node for output in one.inputs), *one.controls):
                if name not in seen and name in body.nodes:
                    seen.add(name)
                    queue.append(body.nodes[name])
        self._steps += len(queue)
        return seen - {node.name} if self._steps <= MAX_STEPS else set(body.nodes)

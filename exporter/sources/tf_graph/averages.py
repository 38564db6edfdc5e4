"""The moving averages that a training graph keeps of its statistics: which variable inference will read.

    average -= (average - statistic) * k                                  training/moving_averages.py
    average = average * k + statistic * (1 - k)                           as people write it by hand
    average -= (average - mean(statistics, 1)) * k                        with virtual_batch_size: those of each part of the batch
    biased -= (biased - statistic) * k;  average = biased / (1 - ...)     with zero_debias: inference reads `average`

Batch renormalization (tf.layers, contrib) corrects gamma and beta by the batch, gamma * r and gamma * d + beta, and averages its statistics
in several ways; inference reads the variables moving_mean and moving_variance beside the renorm_mean that the corrections are made from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence

from exporter.batchnorm.stored import STATISTICS
from exporter.formats.graph_def import Node
from exporter.sources.tf_graph.chain import ADDITIONS, DIVISIONS, inner
from exporter.sources.tf_graph.ops import VARIABLES, WRITES
from exporter.sources.tf_graph.trace import Tracer
from exporter.sources.tf_graph.values import (
    Constant,
    Frame,
    Moment,
    Opaque,
    Parameter,
    Parts,
    Roles,
    Traced,
    Value,
    Variable,
    is_made,
    operand,
)

SUBTRACTIONS = frozenset({"AssignSub", "AssignSubVariableOp"})
ASSIGNMENTS = frozenset({"Assign", "AssignVariableOp"})
RENORM = "renorm_"  # prefix of the names of renormalization's own averages


def without_correction(tracer: Tracer, source: Traced | None, ops: frozenset[str]) -> Traced | None:
    """gamma or beta without the correction of batch renormalization; None if there is only the correction.

    ops: that combine the two: gamma is multiplied by its correction, beta is added to one.
    """
    if not isinstance(source, Opaque) or not _is_correction(tracer, source):
        return source
    value = inner(source.value)
    if value.op not in ops:
        return None
    sides = [tracer.trace(value.operand(number)) for number in (0, 1)]
    own = [side for side in sides if isinstance(side, (Variable, Constant, Parts)) and not _is_renorm(side)]
    return own[0] if len(own) == 1 else None


def _is_correction(tracer: Tracer, source: Opaque) -> bool:
    return any(map(_is_renorm, tracer.statistics(source)))


def _is_renorm(source: Traced) -> bool:
    return isinstance(source, Variable) and source.name.rpartition("/")[2].startswith(RENORM)


class Averages:
    """The moving averages by their statistic. frames: where to look for the updates."""

    def __init__(self, tracer: Tracer, frames: Sequence[Frame]) -> None:
        self._tracer = tracer
        self._frames = frames
        self._found: dict[Hashable, list[Variable]] = {}
        debiased = dict(self._debiased())
        for statistic, average in self._updates():
            self._found.setdefault(statistic, []).append(debiased.get(average.identity, average))

    def of(self, roles: Roles, moment: Moment) -> tuple[Parameter, Parameter] | None:
        """Those of the mean and the variance of a layer in training, None if they are unknown. moment: one of its statistics."""
        computed = [source for source in (roles.gamma, roles.beta) if isinstance(source, Opaque)]
        if computed:  # other than by a correction: then the layer is unresolved
            found = self._beside_renorm(computed)
            return (_along(found[0], moment), _along(found[1], moment)) if found is not None else None
        mean, variance = (self._one(self._found.get(one.identity, ()), roles) for one in (roles.mean, roles.variance))
        return (_along(mean, moment), _along(variance, moment)) if mean is not None and variance is not None else None

    def _one(self, averages: Sequence[Variable], roles: Roles) -> Variable | None:
        """The average of a layer; of several of one statistic, as several towers or a summary keep them, the one beside gamma and beta."""
        different = {average.identity: average for average in averages}
        if len(different) > 1:
            scopes = {role.name.rpartition("/")[0] for role in (roles.gamma, roles.beta) if isinstance(role, (Variable, Parts))}
            different = {key: average for key, average in different.items() if average.name.rpartition("/")[0] in scopes}
        return next(iter(different.values())) if len(different) == 1 else None

    def _beside_renorm(self, computed: Sequence[Opaque]) -> tuple[Variable, Variable] | None:
        """The variables moving_mean and moving_variance in the scope of renormalization's own averages."""
        leaves = [leaf for source in computed for leaf in self._tracer.statistics(source)]
        scopes = {leaf.name.rpartition("/")[0] for leaf in leaves if isinstance(leaf, Variable) and _is_renorm(leaf)}
        if len(scopes) != 1:
            return None
        scope = scopes.pop()
        nodes = self._frames[0].body.nodes
        names = [f"{scope}/{name}" if scope else name for name in STATISTICS]
        if not all(name in nodes and nodes[name].op in VARIABLES for name in names):
            return None
        mean, variance = (Variable(name, name) for name in names)
        return mean, variance

    def _updates(self) -> Iterator[tuple[Hashable, Variable]]:
        """(statistic, average) of each update."""
        for frame, node, target in self._assignments(SUBTRACTIONS):
            for difference in self._sides(self._unless_empty(operand(frame, node, 1)), "Mul"):
                sides = self._sides(difference, "Sub")
                if sides and self._tracer.trace(sides[0]).identity == target.identity:
                    yield self._of_parts(sides[1]).identity, target
        for frame, node, target in self._assignments(ASSIGNMENTS):
            products = [self._sides(one, "Mul") for one in self._sides(operand(frame, node, 1), *ADDITIONS)]
            sources = [[source for side in product if not isinstance(source := self._tracer.trace(side), Constant)] for product in products]
            if len(sources) == 2 and all(len(one) == 1 for one in sources):
                one, other = sources[0][0], sources[1][0]
                one, other = (one, other) if one.identity == target.identity else (other, one)
                if one.identity == target.identity and self._tracer.is_statistic(other):
                    yield other.identity, target

    def _of_parts(self, value: Value) -> Traced:
        """The statistic; for the mean of the statistics of a batch's parts, along the second axis, those (virtual_batch_size)."""
        source, value = self._tracer.trace(value), inner(value)
        parts = self._tracer.trace(value.operand(0)) if isinstance(source, Moment) and source.axes == (1,) and value.op == "Mean" else None
        return parts if isinstance(parts, Moment) and parts.of_batch else source

    def _unless_empty(self, value: Value) -> Value:
        """The value that is chosen unless a batch is empty; for an empty one, Keras uses zeros under a distribution strategy."""
        value = inner(value)
        if value.op not in ("Select", "SelectV2"):
            return value
        kept = [side for side in (value.operand(1), value.operand(2)) if not is_made(self._tracer.trace(side), 0.0)]
        return kept[0] if len(kept) == 1 else value

    def _debiased(self) -> Iterator[tuple[Hashable, Variable]]:
        """(biased average, the variable that it is divided into) of each zero-debiased update."""
        for frame, node, target in self._assignments(SUBTRACTIONS | ASSIGNMENTS):
            value = inner(operand(frame, node, 1))
            if node.op in SUBTRACTIONS:  # average -= average - biased / (1 - ...)
                sides = self._sides(value, "Sub")
                if not sides or self._tracer.trace(sides[0]).identity != target.identity:
                    continue
                value = sides[1]
            sides = self._sides(value, *DIVISIONS)
            if sides and isinstance(biased := self._written(sides[0]), Variable):
                yield biased.identity, target

    def _written(self, value: Value) -> Traced:
        """The value; if it may be the result of updating a reference variable, that variable."""
        value = inner(value)
        return self._tracer.trace(value.operand(0) if value.op in WRITES else value)

    def _assignments(self, ops: frozenset[str]) -> Iterator[tuple[Frame, Node, Variable]]:
        for frame in self._frames:
            for node in frame.body.nodes.values():
                if node.op in ops and isinstance(target := self._tracer.trace(operand(frame, node, 0)), Variable):
                    yield frame, node, target

    def _sides(self, value: Value, *ops: str) -> list[Value]:
        """The two operands of a value that one of these ops computes; none for other ops."""
        value = inner(value)
        return [value.operand(0), value.operand(1)] if value.op in ops else []


def _along(average: Variable, moment: Moment) -> Parameter:
    """A moving average in the shape of the batch's statistics in the graph: along the only axis before their last that they keep, unless it
    is stored in that shape, as one of several axes is."""
    axes = moment.axes or ()
    kept = [number for number in range(max(axes, default=0)) if number not in axes]
    if len(kept) != 1 or average.shaping:
        return average
    sizes = tuple(-1 if number == kept[0] else 1 for number in range(max(axes) + 1))
    return dataclasses.replace(average, shaping=(("along", sizes),))

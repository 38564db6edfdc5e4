"""A batch norm as a graph describes it, before any parameter is read."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Hashable

from exporter.batchnorm.places import Call
from exporter.formats.graph_def import Node
from exporter.sources.tf_graph.values import Constant, Moment, Opaque, Parameter, Parts, Traced, Value, Variable

UNKNOWN_FORM = "the graph uses its variance in a way that is not a known form of batch norm"
ASSIGNED = "the graph assigns its {role} before it reads it: the stored one is not what it computes with"
OTHER_DIVISOR = ("it is not exactly a batch norm: it divides by its stored deviation or by something else, where batch norm divides by "
                 "sqrt(variance + epsilon)")
OTHER_USE = "the graph does not use its {role} as the {role} of a batch norm"
OF_THE_BATCH = "it uses the statistics of the batch (is_training), not stored ones"


@dataclasses.dataclass(slots=True, eq=False, repr=False)  # not frozen, as the classes of values.py
class GraphNorm:
    """One batch norm of a graph.

    path:     the scope of its variables, else of its ops; "" until all are known.
    node:     its last op. x: what it normalizes. conditional: whether it is in a branch of a conditional, or
              has no effect in a graph for training but on its averages.
    is_outside: whether epsilon is added to the root of the variance.
    splits_batch: whether the batch lies along the first two axes of x (virtual_batch_size).
    gamma, beta: None if the graph has none.
    mean, variance: parameters where `reason` is "".
    epsilon:  a float32 as a double, or None. axis, ndim: if the graph specifies them.
    in_training: whether it computes with the statistics of the batch.
    moving:   in training, the moving averages that the graph's update ops keep.
    also_in_training: whether the layer is also called in training, in the same graph of inference.
    certain:  whether it is a batch norm; otherwise only the root of a stored variance was found.
    is_assigned: whether the graph assigns a parameter before it reads it.
    reason:   why it cannot be resolved, or "".
    calls:    see Stored; () if the graph does not show it with certainty.
    """

    node: Node
    x: Value
    class_name: str
    gamma: Parameter | None
    beta: Parameter | None
    mean: Traced
    variance: Traced
    epsilon: float | None
    axis: int | None
    ndim: int | None
    reason: str
    in_training: bool = False
    moving: tuple[Parameter, Parameter] | None = None
    certain: bool = True
    conditional: bool = False
    is_outside: bool = False
    splits_batch: bool = False
    also_in_training: bool = False
    is_assigned: bool = False
    path: str = ""
    calls: tuple[Call, ...] = ()

    def has_fields_of(self, other: GraphNorm) -> bool:
        """Whether two say the same of a batch norm."""
        return bool(_fields_of(self) == _fields_of(other))

    def identity(self) -> tuple[Hashable, ...]:
        """Of what it computes with; of what is not known only what kind it is, if one of the statistics identifies the layer."""
        roles = (self.mean, self.variance, self.gamma, self.beta)
        is_known = any(isinstance(role, (Variable, Constant, Parts)) for role in roles[:2])
        identities = (role.reason if is_known and isinstance(role, Opaque) else role and role.identity for role in roles)
        return (*identities, self.epsilon, self.is_outside)

    @property
    def affine(self) -> tuple[Hashable, Hashable]:
        """What gamma and beta are."""
        return self.gamma.identity if self.gamma is not None else None, self.beta.identity if self.beta is not None else None

    @property
    def of_layer(self) -> Hashable:
        """What a layer has in both modes: gamma and beta, its statistics if it has neither; None if these are unknown."""
        return self.affine if self.affine != (None, None) else self.stored

    @property
    def stored(self) -> tuple[Hashable, Hashable] | None:
        """The stored statistics (in training, the moving averages); None if they are unknown."""
        mean, variance = self.moving or (self.mean, self.variance)
        return None if isinstance(mean, (Moment, Opaque)) or isinstance(variance, (Moment, Opaque)) else (mean.identity, variance.identity)


_fields_of = operator.attrgetter(*(field.name for field in dataclasses.fields(GraphNorm)))

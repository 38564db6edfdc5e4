"""Whether the functions of a SavedModel compute the batch norm that a config and the names of an object's variables describe.

A class may override `call` and keep the config, and a model may compute with the variables of Keras's own layer: gamma * exp(variance),
no beta, another factor at the end. Classes of users may also be called BatchNormalization, so that a name shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING

from exporter.batchnorm.stored import AFFINE, PARAMETERS
from exporter.keras.lookalikes import is_users_own
from exporter.sources.tf_graph.graph_norm import OTHER_USE, UNKNOWN_FORM
from exporter.sources.tf_graph.own_call import may_do_more
from exporter.sources.tf_graph.saved import SavedFunctions, key_of
from exporter.sources.tf_graph.values import Constant

if TYPE_CHECKING:
    from exporter.batchnorm.stored import Stored
    from exporter.formats.object_graph import SavedGraph
    from exporter.sources.tf_graph.graph_norm import GraphNorm
    from exporter.sources.tf_objects.norms import ObjectNorm

OTHER_VARIABLES = "the graph computes with its variance and another mean, gamma or beta than its own: its config does not describe that"
WITHOUT_VARIANCE = "the graph uses its {role} and not its moving_variance, so that it computes no batch norm with them"
CALL = "call_and_return_all_conditional_losses"  # Keras 2's name of the functions that compute what a layer's call does


def other_formula(layer: Stored, norms: Sequence[GraphNorm], found: ObjectNorm, functions: SavedFunctions, saved: SavedGraph) -> str:
    """Why the functions do not compute the batch norm of an object's variables; "" if they do, or may. norms: those with its variance."""
    same = [norm for norm in norms if plays(norm, found)]
    if not same and any(not norm.in_training and not norm.reason for norm in norms):
        return OTHER_VARIABLES
    stored = [norm for norm in same if not norm.in_training]
    if stored and all(norm.is_assigned for norm in stored):
        return stored[0].reason
    reason = _of_model(same, found, functions, has_config=layer.epsilon is not None)
    if reason or (stored and not is_users_own(layer.class_name) and not any(map(may_do_more, stored))):
        return reason
    return _of_call(found, functions, saved)


def plays(norm: GraphNorm, found: ObjectNorm) -> bool:
    """Whether the graph uses the variables in the roles that their names indicate, as far as it shows what has these roles."""
    mean = norm.moving[0] if norm.moving else norm.mean
    roles = {"moving_mean": key_of(mean), "gamma": key_of(norm.gamma), "beta": key_of(norm.beta)}
    return not isinstance(mean, Constant) and all(key is None or found.variables.get(role) == key for role, key in roles.items())


def _of_model(norms: Sequence[GraphNorm], found: ObjectNorm, functions: SavedFunctions, *, has_config: bool) -> str:
    """As `other_formula`, of the model's functions. norms: those of the object's variables."""
    if not norms:
        served = [role for role in PARAMETERS if role in found.variables and functions.serve(found.variables[role])]
        return "" if not served else UNKNOWN_FORM if "moving_variance" in served else WITHOUT_VARIANCE.format(role=served[0])
    return of_norms(norms, found.variables, functions.serve, has_config=has_config)


def of_norms(norms: Sequence[GraphNorm], variables: Mapping[str, int], is_used: Callable[[int], bool], *, has_config: bool = True) -> str:
    """Why no batch norm of a graph is that of an object's variables; "" if one is, or may be. norms: those of these variables."""
    reasons = [norm.reason for norm in norms if not norm.in_training]
    if reasons and all(reasons):
        return reasons[0]
    usable = [norm for norm in norms if not norm.reason]
    for role in AFFINE if usable else ():
        if role in variables and all(isinstance(getattr(norm, role), (Constant, NoneType)) for norm in usable):
            if is_used(variables[role]):
                return OTHER_USE.format(role=role)
            if has_config:
                return f"its config has a {role}, which the graph does not use"
    return ""


def _of_call(found: ObjectNorm, functions: SavedFunctions, saved: SavedGraph) -> str:
    """As `other_formula`, of the functions of the layer's own call, which Keras 2 saves."""
    call = saved.children(found.node).get(CALL)
    names = saved.functions(call) if call is not None else []
    variance = found.variables["moving_variance"]
    if names and not functions.use(names, variance):
        return "its call does not use its moving_variance"
    called = functions.of_call(names, variance)
    for norm, op in called:
        if norm.reason:
            return norm.reason
        if op:
            return f"its call computes more than a batch norm: also what the op {op} computes"
    return ""

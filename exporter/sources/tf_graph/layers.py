"""Layers from the batch norms of a graph: the values of each role, in one shape and along the axis of their use."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.stored import Skipped, Statistic, Stored
from exporter.errors import FormatError, printable
from exporter.keras.dialects import adds_to_epsilon
from exporter.sources.tf_graph.graph_norm import OF_THE_BATCH, GraphNorm
from exporter.sources.tf_graph.values import Constant, Filled, Parameter, Parts, Shaping, Variable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_VALUES = 1 << 20
# A constant called as an op of tf.nn.batch_normalization: an optimizer computed it, of a parameter and of what else was there.
FOLDED_OP = re.compile(r"(.*/)?batchnorm(_\d+)?/(add|sub|mul|Neg|Rsqrt)(_\d+)?")


class Values(NamedTuple):
    """A parameter's values (bfloat16: in float32) and the type that they are stored in."""

    values: NDArray[Any]
    dtype: str


class Unresolved(Exception):
    """A batch norm that cannot be exported; the message is the reason."""


Read = Callable[[Variable], "Values | None"]


def layers(norms: Sequence[GraphNorm], read: Read, tensorflow_version: str | None = None, *,
           is_served: bool = False) -> Iterator[Stored | Skipped]:
    """The batch norms of `graph_norms`, each as a layer or with the reason why it cannot be exported.

    read: the stored values of a variable, None if there are none. tensorflow_version: that wrote the graph, where known.
    is_served: whether the graph is that of inference alone, in which a call in training is no other mode of the whole model.
    Raises what `read` raises, and FormatError for broken constants.
    """
    adds = adds_to_epsilon(tensorflow_version)
    for norm in norms:
        try:
            if is_served and norm.also_in_training:
                raise Unresolved(f"in one of its calls {OF_THE_BATCH}")
            layer = _layer(norm, read)
            yield _without_addition(layer) if adds and norm.axis is not None else layer
        except Unresolved as reason:
            yield Skipped(norm.path, str(reason))


def _layer(norm: GraphNorm, read: Read) -> Stored:
    if norm.reason:
        raise Unresolved(norm.reason)
    roles = {"gamma": norm.gamma, "beta": norm.beta, "moving_mean": norm.mean, "moving_variance": norm.variance}
    stored: dict[str, Values] = {}
    for name, source in roles.items():
        if isinstance(source, (Variable, Constant, Parts, Filled)):
            stored[name] = _stored(name, source, read)
    dtypes = {one.dtype for one in stored.values()}
    if len(dtypes) > 1 or not dtypes <= HELD_IN.keys():
        raise Unresolved(f"expected parameters of one floating point type, got {', '.join(sorted(dtypes))}")
    arrays = {name: one.values for name, one in stored.items()}
    if norm.splits_batch and all(values.ndim > 2 and values.shape[:2] == (1, 1) for values in arrays.values()):
        norm = dataclasses.replace(norm, ndim=norm.ndim - 1 if norm.ndim is not None else None)
        arrays = {name: values[0] for name, values in arrays.items()}
    shape, axis, arrays = _aligned(norm, arrays)
    if isinstance(norm.gamma, Constant) and isinstance(norm.variance, Variable) and bool((arrays["gamma"] == 1).all()):
        del arrays["gamma"]  # a number in the graph beside variables in the checkpoint: the layer has no gamma
    if isinstance(norm.beta, Constant) and isinstance(norm.variance, Variable) and bool((arrays["beta"] == 0).all()):
        del arrays["beta"]
    return Stored(path=norm.path, name=norm.path, class_name=norm.class_name, axis=axis, shape=shape, ndim=norm.ndim, dtype=dtypes.pop(),
                     epsilon=norm.epsilon, momentum=None, gamma=arrays.get("gamma"), beta=arrays.get("beta"),
                     moving_mean=arrays["moving_mean"], moving_variance=arrays["moving_variance"], calls=norm.calls,
                     assumed=("axis",) if norm.axis is None and shape == (1,) and axis == (1,) else (),
                     statistic=Statistic.EPSILON_OUTSIDE if norm.is_outside else Statistic.VARIANCE)


def _without_addition(layer: Stored) -> Stored:
    """The intended epsilon, see `adds_to_epsilon`."""
    if layer.epsilon is None or not 0 < layer.epsilon <= 1.00001e-5:
        return layer
    return layer.replace(epsilon=float(np.float32(layer.epsilon - 1e-12)), effective_epsilon=layer.epsilon)


def _stored(role: str, source: Parameter, read: Read) -> Values:
    """The values of one role, in the shape in which the graph uses them."""
    if isinstance(source, Filled):
        raise Unresolved(f"its {role} is computed by the graph, not stored")
    if isinstance(source, Constant) and FOLDED_OP.fullmatch(source.name):
        raise Unresolved(f"its {role} was computed by a graph optimizer, from more than one parameter")
    found = _whole(source, read)
    if found is None:
        raise Unresolved(f"the file contains no value of its {role}, the variable {printable(source.name)}")
    if found.values.size > MAX_VALUES:
        raise Unresolved(f"its {role} has {found.values.size} values")
    return Values(_reshaped(role, found.values, source.shaping), found.dtype)


def _whole(source: Variable | Constant | Parts, read: Read) -> Values | None:
    if isinstance(source, Variable):
        return read(source)
    if isinstance(source, Constant):
        tensor = source.node.tensor()
        return (Values(tensor.array(), tensor.dtype.name) if tensor.size <= MAX_VALUES
                else Values(np.zeros(MAX_VALUES + 1, "f4"), "float32"))
    names = [part.name for part in source.parts]
    whole = read(Variable(source.name, source.name)) if names == [f"{source.name}/part_{n}" for n in range(len(names))] else None
    if whole is not None:
        return whole
    parts = [_whole(part, read) for part in source.parts]
    kept = [part for part in parts if part is not None]
    if len(kept) != len(parts) or len({part.dtype for part in kept}) != 1:
        return None
    try:
        return Values(np.concatenate([part.values for part in kept], source.axis), kept[0].dtype)
    except ValueError:
        raise FormatError(f"the slices of {printable(source.name)} do not match") from None


def _reshaped(role: str, values: NDArray[Any], shaping: Shaping) -> NDArray[Any]:
    for kind, sizes in shaping:
        try:
            if kind == "unknown":
                raise Unresolved(f"its {role} is reshaped to a shape that is known only at run time")
            if kind == "reshape":
                values = values.reshape(sizes)
            elif kind == "along":  # the axis of a vector
                values = values.reshape(sizes) if values.ndim == 1 else values
            elif kind == "expand":
                values = np.expand_dims(values, sizes)
            else:
                values = np.squeeze(values, sizes or None)
        except (ValueError, TypeError):
            raise Unresolved(f"its {role} of shape {list(values.shape)} does not match the graph's {kind} to {list(sizes)}") from None
    return values


def _aligned(norm: GraphNorm, arrays: dict[str, NDArray[Any]]) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, NDArray[Any]]]:
    """The arrays in the shape that they broadcast to, without axes of size 1, and the input's axis for each remaining axis."""
    try:
        whole = np.broadcast_shapes(*(values.shape for values in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in arrays.items())
        raise Unresolved(f"its parameters have different shapes: {shapes}") from None
    if math.prod(whole) > MAX_VALUES or 0 in whole:
        raise Unresolved(f"its parameters have the shape {list(whole)}")
    wide = [number for number, size in enumerate(whole) if size != 1]
    for name, values in arrays.items():
        if values.size not in (1, math.prod(whole)):  # what an optimizer put together of parameters of two layers
            raise Unresolved(f"its {name} has the shape {list(values.shape)}, its parameters together {list(whole)}")
    if norm.axis is not None:
        if len(whole) != 1:
            raise Unresolved(f"its parameters have the shape {list(whole)}, but a fused op takes one dimension")
        wide, axis = [0], [norm.axis]
    elif not wide:
        axis = [_axis_of_one(norm, len(whole))]
    else:
        is_whole = len(whole) > 2 and whole[0] == 1  # (channels, 1, 1) is broadcast, and lacks the batch
        rank = norm.ndim if norm.ndim is not None and norm.ndim >= len(whole) else len(whole) if is_whole else None
        axis = [_axis(number - len(whole), rank) for number in wide]
    shape = tuple(whole[number] for number in wide) or (1,)
    spread = ((name, values if values.shape == whole else np.broadcast_to(values, whole)) for name, values in arrays.items())
    return shape, tuple(axis), {name: np.ascontiguousarray(values).reshape(shape) for name, values in spread}


def _axis(from_the_end: int, rank: int | None) -> int:
    """The last axis as -1, others counted from the front if the rank is known."""
    return from_the_end if from_the_end == -1 or rank is None else from_the_end + rank


def _axis_of_one(norm: GraphNorm, rank: int) -> int:
    """The axis of a single channel. tf.layers, contrib and tf.keras reshape parameters, here to ones, where it is not the last; Keras 3
    also where it is, but not given as -1."""
    variance = norm.variance
    shaping = variance.shaping if isinstance(variance, (Variable, Constant, Parts)) else ()
    shapes = [sizes for kind, sizes in shaping if kind in ("reshape", "along")]
    return 1 if shapes and shapes[-1][-1:] != (-1,) and rank > 2 else -1

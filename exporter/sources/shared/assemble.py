"""Makes a Stored from the arrays that a Keras file contains for a batch norm, and its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.batchnorm.stored import Stored
from exporter.errors import FormatError, names
from exporter.keras import dialects
from exporter.keras.lookalikes import about_class, is_users_own

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.keras.config import Node, NormFields

Arrays = Mapping[str, tuple["NDArray[Any]", str]]

CALLED_IN_TRAINING = ("the model calls it with training=True, so that it normalizes by the statistics of the batch, also in predict(); the "
                      "stored ones are not used")
# Variables added by renormalization, unused in inference: those of tf.keras and Keras 3.14, then those of tf.layers 1.2 with its weights.
RENORM = ("moving_stddev", "renorm_mean", "renorm_stddev")
RENORM_EVER = (*RENORM, "renorm_mean_weight", "renorm_stddev_weight")


def roles_of(count: int, center: bool | None, scale: bool | None, *, renorm: bool = False) -> tuple[str, ...] | None:
    """The variables of a batch norm in the order in which Keras saves them; None if `count` is not their number.

    If the config does not contain center and scale, they follow from the number if possible.
    """
    if center is None or scale is None:
        both = count - 3 * renorm
        if both not in (2, 4):
            return None
        center, scale = (both == 4,) * 2
    found = ("gamma",) * scale + ("beta",) * center + ("moving_mean", "moving_variance") + RENORM * renorm
    return found if len(found) == count else None


def assemble(path: str, node: Node | None, fields: NormFields | None, arrays: Arrays, era: dialects.Era, rank: int | None, *,
             name: str = "", quantized: str | None = None) -> Stored:
    """A Stored from `arrays`, {parameter: (values, dtype)}; without a config, everything that it would specify is None.

    rank: of the input, if the config does not contain it. Raises: FormatError if shapes, types or config disagree.
    """
    forms = {(values.shape, dtype) for values, dtype in arrays.values()}
    if len(forms) != 1:
        _check_common({parameter: values.shape for parameter, (values, _) in arrays.items()}, "shape", path)
        _check_common({parameter: dtype for parameter, (_, dtype) in arrays.items()}, "type", path)
    shape, dtype = forms.pop()
    axis: tuple[int, ...] | None = None
    if fields is not None:
        rank = fields.ndim or rank or (len(shape) - (fields.virtual_batch_size is not None) if len(shape) > 1 else None)  # see `_along`
        axis, shape = _along(shape, fields, path)
        if node is not None and axis is not None:
            _check_channels(axis, shape, node.input_shape, path)
    elif len(shape) > 1:
        axis, shape = _along_by_shape(shape)
    found = {parameter: values if values.shape == shape else values.reshape(shape) for parameter, (values, _) in arrays.items()}
    mean, variance = found.get("moving_mean"), found.get("moving_variance")
    if mean is None or variance is None:
        raise FormatError("moving_mean or moving_variance is missing", where=path)
    added = node.surroundings.added_axes if node is not None else 0
    outer = _seen_from_outside(axis, rank, added) if added else Outside(axis, rank)
    return Stored(
        path=path, name=node.name if node else name, axis=outer.axis, shape=shape, ndim=outer.ndim, dtype=dtype,
        epsilon=fields.epsilon if fields else None, momentum=fields.momentum if fields else None, gamma=found.get("gamma"),
        beta=found.get("beta"), moving_mean=mean, moving_variance=variance, quantized=quantized,
        effective_epsilon=dialects.effective_epsilon(era, fields, dtype=dtype, ndim=rank) if fields else None,
        **_use(node, era, outer.note, dialects.about_rank(era, fields, dtype=dtype) if fields and rank is None else "") if node else {
            "class_name": "BatchNormalization"})


def _use(node: Node, era: dialects.Era, *more: str) -> dict[str, Any]:
    """The fields of a layer for its class and its use by the model; more: other sentences about it, or ""."""
    class_name, notes = _class_name(node), (*node.surroundings.notes, *filter(None, more))
    is_called = _is_called_in_training(node, era)
    if is_users_own(class_name) or node.registered_name is not None:  # none of Keras's own has one
        notes = (*notes, about_class(class_name))
    return {"class_name": class_name, "notes": notes,
            "called_in_training": is_called, "calls": node.calls,
            "doubt": CALLED_IN_TRAINING if is_called and not node.surroundings.is_keras_3 else ""}


def _class_name(node: Node) -> str:
    """A user's class with the package that it is registered under, which .keras archives store in a separate field."""
    registered = node.registered_name
    return registered if registered is not None and ">" in registered and ">" not in node.class_name else node.class_name


class Outside(NamedTuple):
    """The axis of a layer, the rank of the input to which it applies, and a sentence about which input that is, or ""."""

    axis: tuple[int, ...] | None
    ndim: int | None
    note: str = ""


def _seen_from_outside(axis: tuple[int, ...] | None, rank: int | None, added: int) -> Outside:
    """The axis of a layer in wrappers that iterate over `added` axes of the input, as TimeDistributed does over time, from that of its own
    input of `rank`: counted from the end it is the same on both. Keras 2 writes the last one as rank - 1. Another one that is counted from
    the front is right for the layer's own input alone; if that has an unknown rank, the axis of the wrapper's input is still certain.
    """
    if axis is None or all(number < 0 for number in axis):
        return Outside(axis, None)
    if rank is not None:
        return Outside((-1,), None) if axis == (rank - 1,) else Outside(axis, rank)
    return Outside(tuple(number + added if number >= 0 else number for number in axis), None,
                   "the file does not specify the rank of its input; its axis is that of the input of the wrapper around it")


def _is_called_in_training(node: Node, era: dialects.Era) -> bool:
    call = node.surroundings
    is_frozen = node.config.get("trainable") is False
    return call.training is True and not (is_frozen and dialects.ignores_training(era, is_keras_3=call.is_keras_3))


def _check_common(found: Mapping[str, Any], what: str, path: str) -> None:
    if len(set(found.values())) != 1:
        said = names(f"{parameter} {list(value) if isinstance(value, tuple) else value}" for parameter, value in found.items())
        raise FormatError(f"its parameters have different {what}s: {said}", where=path)


def _along(shape: tuple[int, ...], fields: NormFields, path: str) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """(axis, shape) of a layer. Over several axes, and with a virtual batch size, Keras stores parameters with the input's rank, with size
    1 in the axes that they do not run along.
    """
    axis = fields.axis
    if axis is None:
        return None, shape
    if len(axis) == 1 and fields.virtual_batch_size is None:
        if len(shape) != 1:
            raise FormatError(f"its parameters have shape {list(shape)}; expected one dimension for axis {axis[0]}", where=path)
        return axis, shape
    if len(shape) == 1 and len(axis) == 1:
        return dialects.real_axis(axis, fields.virtual_batch_size), shape
    rank = len(shape)
    along = sorted(number + rank if number < 0 else number for number in axis)
    fits = all(size == 1 for number, size in enumerate(shape) if number not in along)
    if len(set(along)) != len(along) or not all(0 < number < rank for number in along) or not fits:
        raise FormatError(f"its parameters have shape {list(shape)}, which does not match its axes {list(axis)}", where=path)
    return dialects.real_axis(tuple(along), fields.virtual_batch_size), tuple(shape[number] for number in along)


def _along_by_shape(shape: tuple[int, ...]) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """(axis, shape) without a config: parameters with the input's rank run along the axes where their size is not 1.

    Counted from the end, because a virtual batch size adds an axis in front. An axis of size 1 is omitted: nothing runs along it.
    """
    along = [number - len(shape) for number, size in enumerate(shape) if size != 1] or [-1]
    if shape[0] != 1:  # the batch
        return None, shape
    return tuple(along), tuple(shape[number] for number in along)


def _check_channels(axis: tuple[int, ...], shape: tuple[int, ...], input_shape: tuple[int | None, ...] | None, path: str) -> None:
    for number, size in zip(axis, shape, strict=True):
        if input_shape is None or not -len(input_shape) <= number < len(input_shape):
            return
        expected = input_shape[number]
        if expected is not None and expected != size:
            raise FormatError(f"it has {size} channels, but was built on an input of shape {list(input_shape)}", where=path)

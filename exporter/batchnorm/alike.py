"""Layers that differ only in names, calls and numbers, as most of a large model do: what is done for many of them at once."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from exporter.batchnorm.dtypes import all_finite
from exporter.batchnorm.layer import BatchNorm
from exporter.batchnorm.stored import PARAMETERS, Parameters, Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LAYERS, MAX_NUMBERS = 256, 1 << 14  # of a run

_OWN = ("path", "name", "calls", *PARAMETERS)  # the fields in which layers of a run differ
_SHARED = {kind: [field.name for field in dataclasses.fields(kind) if field.name not in _OWN] for kind in (Stored, BatchNorm)}
_shared_of: dict[type, Callable[[Any], tuple[Any, ...]]] = {kind: operator.attrgetter(*fields) for kind, fields in _SHARED.items()}
_Layer = TypeVar("_Layer", Stored, BatchNorm)


class _Checked(BatchNorm):
    """A BatchNorm without a look at its numbers: `of_run` looks at those of all."""

    __slots__ = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "__class__", BatchNorm)


def runs(layers: Iterable[_Layer]) -> Iterator[list[_Layer]]:
    """The layers in their order, cut into runs of layers that are alike."""
    run: list[_Layer] = []
    likeness: tuple[object, ...] = ()
    most = 0
    layer: _Layer  # whose type mypy cannot infer from the loop, as `likeness` depends on it
    for layer in layers:
        own = (type(layer), layer.gamma is None, layer.beta is None, min(len(layer.calls), 2), *_shared_of[type(layer)](layer))
        # where they are not the same objects, as text, which tells 1 from 1.0 and 0.0 from -0.0
        if len(run) >= most or not (all(map(operator.is_, own, likeness)) or repr(own) == repr(likeness)):
            if run:
                yield run
            run, likeness, most = [], own, min(MAX_LAYERS, MAX_NUMBERS // max(1, layer.moving_mean.size))
        run.append(layer)
    if run:
        yield run


def of_run(run: Sequence[Stored]) -> list[BatchNorm]:
    """`BatchNorm.of` each layer of a run. Raises: LayerError, as that does for the first one with unusable numbers."""
    first = BatchNorm.of(run[0])
    if len(run) == 1:
        return [first]
    arrays = _arrays_of(run[0])
    forms = {(values.shape, values.dtype) for layer in run for values in arrays(layer)}
    if forms != {(first.shape, first.moving_mean.dtype)} or not _are_usable(stacked(run), first.epsilon):
        return [first, *map(BatchNorm.of, run[1:])]
    shared = dict(zip(_SHARED[BatchNorm], _shared_of[BatchNorm](first)))
    return [first, *(_Checked(**shared, path=layer.path, name=layer.name or layer.path.rpartition("/")[2], calls=layer.calls,
                              gamma=layer.gamma, beta=layer.beta, moving_mean=layer.moving_mean, moving_variance=layer.moving_variance)
                     for layer in run[1:])]


def _are_usable(numbers: NDArray[Any], epsilon: float) -> bool:
    """Whether `check_layer` has nothing against these numbers."""
    return all_finite(numbers) and float(numbers[:, -1].min()) + epsilon > 0


def _arrays_of(first: Parameters) -> Callable[[Parameters], tuple[NDArray[Any], ...]]:
    """A function that returns the parameters of a layer like `first`."""
    return operator.attrgetter(*first.parameters())


def stacked(run: Sequence[Parameters]) -> NDArray[Any]:
    """The parameters of a run as one array of shape (layers, parameters of each, channels); the last two are mean and variance."""
    arrays = _arrays_of(run[0])
    return np.concatenate([values for layer in run for values in arrays(layer)]).reshape(len(run), -1, run[0].moving_mean.size)

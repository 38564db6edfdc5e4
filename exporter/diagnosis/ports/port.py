"""Port: the batch norms in another form, which may contain less than the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import UNIT
from exporter.batchnorm.stored import Statistic
from exporter.errors import FormatError, names, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.bundle import Bundle
    from exporter.batchnorm.layer import BatchNorm
    from exporter.batchnorm.stored import Stored


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Framework:
    """A framework's names for what its files cannot contain.

    name:      of the framework.      epsilon, momentum: of its layer's arguments.
    opposite:  whether its momentum is 1 minus Keras's.
    """

    name: str
    epsilon: str
    momentum: str | None
    opposite: bool = False


TORCH = Framework(name="PyTorch", epsilon="eps", momentum="momentum", opposite=True)
FLAX = Framework(name="flax", epsilon="epsilon", momentum="momentum")
PLAIN = Framework(name="it", epsilon="epsilon", momentum=None)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ported:
    """One batch norm in another form.

    path:      as the form names it; "" if it has no name.
    arrays:    those that exist, flat, by the names gamma, beta, moving_mean, moving_variance.
    called:    what the file calls each of them.
    dtype:     the coarsest type of its arrays.
    epsilon:   None if the form does not contain it.
    axis, ndim: as in BatchNorm; None if the form does not specify them.
    shape:     of the arrays, or None if they are flat in the form.
    text:      whether the numbers are text, which has no type.
    """

    path: str
    arrays: Mapping[str, NDArray[Any]]
    called: Mapping[str, str]
    dtype: str
    epsilon: float | None = None
    axis: tuple[int, ...] | None = None
    ndim: int | None = None
    shape: tuple[int, ...] | None = None
    text: bool = False

    @property
    def channels(self) -> int:
        return max(values.size for values in self.arrays.values())


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Port:
    """What another form holds.

    name, kind:  of the file; the kind in words: "a PyTorch state".
    layers:      in the order of the form.
    others:      one-dimensional arrays that belong to no batch norm, by name: they may contain a folded one.
    framework:   set if the form cannot contain epsilon.
    notes:       sentences.
    """

    name: str
    kind: str
    layers: tuple[Ported, ...]
    others: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    framework: Framework | None = None
    notes: tuple[str, ...] = ()


def of_bundle(bundle: Bundle, name: str, unsaid: Collection[str] = ()) -> Port:
    """A model, or another bundle, as a Port; including unusable layers, if they have a variance.

    unsaid: paths of layers with unknown epsilon.
    """
    unusable = [each for each in bundle.unusable if each.layer.statistic is Statistic.VARIANCE]
    layers = (*map(of_layer, bundle), *(of_layer(each.layer) for each in unusable))
    layers = tuple(dataclasses.replace(layer, epsilon=None) if layer.path in unsaid else layer for layer in layers)
    notes = [f"{printable(each.layer.path, 80)} cannot be used: {each.reason}" for each in unusable]
    if unsaid:
        notes.append(f"{printable(name, 80)} does not contain epsilon ({names(unsaid)}), so it was not compared; --epsilon gives it")
    return Port(name=name, kind=f"a bundle or model ({bundle.origin.kind})", layers=layers, notes=tuple(notes))


def of_layer(layer: BatchNorm | Stored) -> Ported:
    """A layer of a bundle as a Ported."""
    arrays = {name: values.ravel() for name, values in layer.parameters().items()}
    return Ported(path=layer.path, arrays=arrays, called={name: name for name in arrays}, dtype=layer.dtype, epsilon=layer.epsilon,
                  axis=layer.axis, ndim=layer.ndim, shape=layer.shape)


def coarsest(arrays: Iterable[NDArray[Any]]) -> str:
    """The name of the coarsest floating type of some arrays; integers and longer types count as float64."""
    found = [array.dtype.name if array.dtype.name in UNIT else "float64" for array in arrays]
    return max(found, key=UNIT.__getitem__, default="float32")


def flat(values: NDArray[Any], name: str, where: str) -> NDArray[Any]:
    """A parameter in the form for comparison. Raises: FormatError if it does not consist of numbers."""
    if values.dtype.kind not in "fiu" and values.dtype.name != "bfloat16":
        raise FormatError(f"expected numbers, got an array of type {values.dtype}", where=f"{where}: {printable(name, 80)}")
    return np.ascontiguousarray(values).reshape(-1)

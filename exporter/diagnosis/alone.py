"""Numbers without a file, or in a user's own file, as the layer that a diagnosis compares with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from exporter.batchnorm.bundle import Bundle, Origin
from exporter.batchnorm.dtypes import HELD_IN, round_to
from exporter.batchnorm.layer import BatchNorm
from exporter.diagnosis.ports.port import FLAX, TORCH, Port, Ported
from exporter.diagnosis.samples import Numbers
from exporter.errors import UsageError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROLES = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "variance": "moving_variance"}
STANDS = {"moving_mean": 0.0, "moving_variance": 1.0}  # the values of an untrained layer
KERAS, OTHERS = 1e-3, 1e-5  # default epsilons
NAMELESS = "numbers"  # the path of a layer without one
FINE = 1e-4  # half a unit above which a printed parameter counts as exact: "1.5" is 1.5, but "0.0004" may be rounded by torch


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Given:
    """A bundle made of numbers. slack: half units of the printed parameters, by name. notes: what was assumed."""

    bundle: Bundle
    slack: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def of_numbers(given: Mapping[str, Numbers], epsilon: float | None) -> Given:
    """A layer from typed numbers: gamma, beta, mean, variance and epsilon, any of which may be missing.

    Raises: UsageError if they have different lengths.
    """
    flat = {ROLES[name]: numbers.reshape((-1,)) for name, numbers in given.items()}
    channels = max(numbers.values.size for numbers in flat.values())
    for name, numbers in flat.items():
        if numbers.values.size not in (1, channels):
            where = "--" + name.removeprefix("moving_")
            raise UsageError(f"expected {channels} numbers, one a channel, got {numbers.values.size}", where=where)
    arrays = {name: np.broadcast_to(numbers.values, (channels,)) for name, numbers in flat.items()}
    slack = {name: np.broadcast_to(numbers.half, (channels,)) for name, numbers in flat.items() if numbers.half is not None}
    notes = [f"{name} was not given: {value:g} is assumed" for name, value in STANDS.items() if name not in arrays]
    if epsilon is None:
        notes.append(f"epsilon was not given: Keras's default, {KERAS:g}, is assumed")
    exact = all(numbers.half is None for numbers in flat.values()) and all(numbers.values.dtype == np.float64 for numbers in flat.values())
    layer = _layer(NAMELESS, arrays, "float64" if exact else "float32", KERAS if epsilon is None else epsilon)
    fine = {name: np.where(half < FINE, half, 0.0) for name, half in slack.items()}
    return Given(bundle=Bundle(layers=(layer,), origin=Origin(file="numbers", kind="numbers")), slack=fine, notes=tuple(notes))


def of_port(port: Port, epsilons: tuple[tuple[str, float], ...]) -> Given:
    """The layers of a file that is neither a model nor a bundle. epsilons: (glob over paths, value); the last match wins."""
    import fnmatch

    layers, notes = [], list(port.notes)
    default, whose = (OTHERS, port.framework.name) if port.framework in (TORCH, FLAX) and port.framework is not None else (KERAS, "Keras")
    for ported in port.layers:
        told = next((value for glob, value in reversed(epsilons) if fnmatch.fnmatchcase(ported.path, glob)), None)
        epsilon = told if told is not None else ported.epsilon
        if epsilon is None:
            epsilon = default
            where = printable(ported.path, 80) or port.name
            notes.append(f"{where}: the file does not contain epsilon: {whose}'s default, {default:g}, is assumed (set it with --epsilon)")
        layers.append(_layer(ported.path or NAMELESS, ported.arrays, _type_of(ported), epsilon))
    if not layers:
        raise UsageError(f"{port.kind} without a batch norm", where=port.name)
    return Given(bundle=Bundle(layers=tuple(layers), origin=Origin(file=port.name, kind="numbers")), notes=tuple(dict.fromkeys(notes)))


def _type_of(ported: Ported) -> str:
    """Text has no type: numbers that are exactly or nearly float32 are taken for float32, in which most models compute."""
    return "float32" if ported.text else ported.dtype


def _layer(path: str, arrays: Mapping[str, NDArray[np.float64]], dtype: str, epsilon: float) -> BatchNorm:
    channels = max(values.size for values in arrays.values())
    held = {name: round_to(np.array(values, np.float64), dtype) for name, values in arrays.items()}
    for name, value in STANDS.items():
        held.setdefault(name, np.full(channels, value, HELD_IN[dtype]))
    return BatchNorm(path=path, name=path.rpartition("/")[2], class_name="BatchNormalization", axis=(-1,), shape=(channels,), ndim=None,
                     dtype=dtype, epsilon=epsilon, momentum=None, gamma=held.get("gamma"), beta=held.get("beta"),
                     moving_mean=held["moving_mean"], moving_variance=held["moving_variance"])

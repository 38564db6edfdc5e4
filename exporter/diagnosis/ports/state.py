"""Named arrays of frameworks, combined into batch norms by the last part of their names.

Names, from the frameworks' own sources: torch.nn.modules.batchnorm (weight, bias, running_mean, running_var), flax.linen.normalization
and flax.nnx.nn.normalization (scale, bias, mean, var), keras.layers.BatchNormalization (gamma, beta, moving_mean, moving_variance),
haiku's BatchNorm (scale, offset), MXNet and Gluon (gamma, beta, moving_mean or running_mean), Paddle (_mean, _variance), MATLAB's
batchNormalizationLayer (Scale, Offset, TrainedMean, TrainedVariance).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from exporter.batchnorm.stored import STATISTICS
from exporter.diagnosis.ports.port import FLAX, PLAIN, TORCH, Framework, Port, Ported, coarsest, flat
from exporter.errors import FormatError, UnsupportedError, names, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROLES = {
    "gamma": ("gamma", "weight", "scale"),
    "beta": ("beta", "bias", "offset"),
    "moving_mean": ("moving_mean", "running_mean", "mean", "_mean", "trainedmean"),
    "moving_variance": ("moving_variance", "running_var", "var", "variance", "moving_var", "running_variance", "_variance",
                        "trainedvariance"),
}
ROLE_OF = {name: role for role, spellings in ROLES.items() for name in spellings}
EPSILON = "epsilon"
COLLECTIONS = ("params", "batch_stats", "param", "batchstat")  # flax stores parameters and statistics in two trees of the same shape
INNER = ("value", "raw_value")  # nnx stores an array inside a variable
_UNDERSCORED = re.compile(r"^(.+)_(gamma|beta|moving_mean|moving_var|running_mean|running_var)$")


def port_of(arrays: Mapping[str, NDArray[Any]], name: str, epsilons: Mapping[str, float] | None = None) -> Port:
    """The batch norms among named arrays. epsilons: those in the file, by the path of the layer.

    Raises: UnsupportedError if there is none, FormatError if two arrays could have the same role.
    """
    groups: dict[str, dict[str, str]] = {}
    lonely: dict[str, NDArray[Any]] = {}
    said = dict(epsilons or {})
    for whole, values in arrays.items():
        path, role = parted(whole)
        if role == EPSILON and values.size == 1 and said.setdefault(path, number := float(values.item())) != number:
            raise FormatError(f"two values of epsilon, {said[path]} and {number}", where=f"{name}: {printable(path, 80)}")
        if role is None or role == EPSILON:
            continue
        taken = groups.setdefault(path, {})
        if role in taken:
            raise FormatError(f"both {printable(taken[role], 80)!r} and {printable(whole, 80)!r} may be its {role}", where=name)
        taken[role] = whole
    layers = []
    for path, called in groups.items():
        if all(role in called for role in STATISTICS):
            layers.append(_layer(path, called, arrays, name, said.get(path)))
        else:
            lonely |= {whole: flat(arrays[whole], whole, name) for whole in called.values()
                       if sum(size != 1 for size in arrays[whole].shape) == 1}
    if not layers and not lonely:
        raise UnsupportedError("expected arrays of batch norms such as bn.running_mean and bn.running_var, got "
                               f"{names(arrays) or 'none'}", where=name)
    framework = _framework(arrays)
    return Port(name=name, kind=f"a state of {framework.name}" if framework is not PLAIN else "arrays with names", layers=tuple(layers),
                others=lonely, framework=framework)


def parted(name: str) -> tuple[str, str | None]:
    """(path of the layer, role) for an array's name; the role is None if a batch norm has no such array."""
    parts = re.split(r"[/.]", re.sub(r":\d+$", "", name.removeprefix("arg:").removeprefix("aux:")))
    if len(parts) > 1 and parts[-1] in INNER:
        parts = parts[:-1]
    if parts[-1].lower() == "average" and len(parts) > 2 and parts[-2] in ("mean_ema", "var_ema"):  # haiku
        parts = [*(part for part in parts[:-2] if part != "~"), parts[-2].removesuffix("_ema")]
    underscored = _UNDERSCORED.match(parts[-1])
    if underscored:
        parts = [*parts[:-1], underscored[1], underscored[2]]
    role = EPSILON if parts[-1].lower() in ("epsilon", "eps") else ROLE_OF.get(parts[-1].lower())
    kept = [part for number, part in enumerate(parts[:-1]) if not (part in COLLECTIONS and number < 2)]
    return ("." if "/" not in name else "/").join(kept), role


def gather(tree: Any, path: str, arrays: dict[str, NDArray[Any]], array: Callable[[Any], NDArray[Any] | None]) -> None:
    """The arrays of nested mappings, by their paths; flax nests them, and names are joined with "/" there. array: of a leaf, or None.

    Raises: FormatError for two of one path, where a key contains "/".
    """
    if not isinstance(tree, Mapping):
        values = array(tree)
        if values is not None:
            if path in arrays:
                raise FormatError(f"two arrays are named {printable(path, 80)!r}")
            arrays[path] = values
        return
    for key, value in tree.items():
        gather(value, f"{path}/{key}" if path else str(key), arrays, array)


def _layer(path: str, called: dict[str, str], arrays: Mapping[str, NDArray[Any]], where: str, epsilon: float | None) -> Ported:
    found = {role: flat(arrays[whole], whole, where) for role, whole in sorted(called.items(), key=lambda pair: list(ROLES).index(pair[0]))}
    sizes = {role: values.size for role, values in found.items()}
    if len(set(sizes.values())) > 1:
        raise FormatError(f"expected arrays of one length, got {', '.join(f'{called[role]}: {size}' for role, size in sizes.items())}",
                          where=f"{where}: {printable(path, 80)}")
    if not sizes["moving_mean"]:
        raise FormatError("expected at least one channel, got 0", where=f"{where}: {printable(path, 80)}")
    return Ported(path=path, arrays=found, called=called, dtype=coarsest(found.values()), epsilon=epsilon)


def _framework(arrays: Mapping[str, Any]) -> Framework:
    last = {re.split(r"[/.]", name.removesuffix(".value").removesuffix("/value"))[-1] for name in arrays}
    if ({"running_mean", "running_var"} <= last and "weight" in last) or "num_batches_tracked" in last:
        return TORCH
    return FLAX if {"mean", "var"} <= last else PLAIN

"""The order of named weights, as Keras and its converters write them: names and positions have to agree.

A layer's trainable weights follow one another, gamma and beta, and so do its others, the mean and the variance, whether they are written
layer by layer or, as Model.weights has them, all trainable ones first. In both, the layers come in one order; a frozen layer's weights
move to its place among the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from exporter.batchnorm.stored import AFFINE, PARAMETERS, STATISTICS
from exporter.errors import FormatError, names


def check_order(weights: Sequence[str], *, is_any_frozen: bool) -> None:
    """Refuses names of weights, such as "layer/gamma", at impossible positions: some of them were exchanged."""
    places: dict[str, dict[str, int]] = {}
    for place, name in enumerate(weights):
        owner, _, role = name.rpartition("/")
        if role in PARAMETERS:
            places.setdefault(owner, {})[role] = place
    norms = {owner: roles for owner, roles in places.items() if roles.keys() >= set(STATISTICS)}
    odd = [owner for owner, roles in norms.items() if not _is_regular(roles)]
    if not odd and not is_any_frozen:
        odd = _out_of_order(norms)
    if odd:
        raise FormatError(f"names and positions of the weights disagree for {names(odd)}: gamma and beta of a layer must be side by side, "
                          "and so must mean and variance, and all layers must use one order", where="weightsManifest",
                          hint="names were swapped after the model was converted: convert it again")


def _is_regular(roles: Mapping[str, int]) -> bool:
    """Whether the parameters of a layer are in Keras's order, each pair side by side."""
    order = [roles[role] for role in PARAMETERS if role in roles]
    pairs = [(roles[first], roles[second]) for first, second in (AFFINE, STATISTICS) if first in roles and second in roles]
    return order == sorted(order) and all(second == first + 1 for first, second in pairs)


def _out_of_order(norms: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The layers whose trainable weights are in another order than their statistics."""
    trained = [owner for owner, roles in norms.items() if len(roles) > 2]
    by_mean = sorted(trained, key=lambda owner: norms[owner]["moving_mean"])
    by_first = sorted(trained, key=lambda owner: min(_trainable(norms[owner])))
    return [owner for owner, other in zip(by_mean, by_first, strict=True) if owner != other]


def _trainable(roles: Mapping[str, int]) -> Iterable[int]:
    return (roles[role] for role in AFFINE if role in roles)

"""Weights by name and the layers of a config: each batch norm's are those that bear its path, its name or that of the wrapper around it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from exporter.batchnorm.layer import PARAMETERS
from exporter.errors import FormatError, names
from exporter.keras import dialects
from exporter.keras.config import Node, is_batch_norm, join, norm_fields
from exporter.keras.ranks import input_ranks
from exporter.sources.shared.assemble import assemble, roles_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.sources.shared.found import Found


class Named(Protocol):
    """Weights that a file keeps by name."""

    def names(self) -> Iterable[str]:
        """All of them, "layer/gamma"."""

    def read(self, name: str) -> tuple[NDArray[Any], str]:
        """Values and dtype of one."""

    def quantized(self, owner: str) -> str | None:
        """How the weights of a layer were quantised, or None."""


def by_name(tree: Node, weights: Named, era: dialects.Era, found: Found, *, own_config: bool) -> None:
    """Weights called layer/gamma, layer/beta …: Keras 2's, and those of models made in TensorFlow.js.

    own_config: whether the config was saved with them. Of another the names have to be the same: batch_normalization_2 may be its third.
    """
    owners = _owners(weights)
    norms = list(_norms(tree, "", ()))
    chosen = _choose(norms, list(owners))
    if own_config:
        _choose_rest(chosen, list(owners), norms)
    elif set(chosen) != set(owners):
        raise FormatError(f"the architecture's batch norms are {names(path for path, _, _ in norms)}, the weights' {names(owners)}: "
                          "they do not fit", hint="give the architecture of the very model that these weights were saved from")
    ranks = input_ranks(tree)
    for (path, node, _), own in zip(norms, chosen, strict=True):
        if own is None:
            found.skip(path, "no weights are named like it, or several: it is not certain which are its own")
            continue
        fields = norm_fields(node)
        expected = roles_of(len(owners[own]), fields.center, fields.scale)
        if expected is None or set(expected) != set(owners[own]):
            raise FormatError(f"the file holds {names(owners[own])} for it, which does not fit center and scale of its config", where=path)
        arrays = {role: weights.read(f"{own}/{role}") for role in expected}
        found.add(assemble(path, node, fields, arrays, era, ranks.get(node), quantized=weights.quantized(own)))
    if None not in chosen:  # inside a user's class
        _add_unmatched(weights, {owner: roles for owner, roles in owners.items() if owner not in chosen}, era, found)


def unmatched(weights: Named, found: Found) -> None:
    """The batch norms of weights without a config: their names alone say what they are."""
    _add_unmatched(weights, _owners(weights), dialects.Era(), found)


def _owners(weights: Named) -> dict[str, list[str]]:
    """The parameters below each owner of a mean and a variance."""
    owners: dict[str, list[str]] = {}
    for name in weights.names():
        owner, _, role = name.rpartition("/")
        if role in PARAMETERS:
            owners.setdefault(owner, []).append(role)
    return {owner: roles for owner, roles in owners.items() if {"moving_mean", "moving_variance"} <= set(roles)}


def _add_unmatched(weights: Named, owners: Mapping[str, list[str]], era: dialects.Era, found: Found) -> None:
    for owner, roles in owners.items():
        arrays = {role: weights.read(f"{owner}/{role}") for role in roles}
        found.add(assemble(owner, None, None, arrays, era, None, name=owner.rpartition("/")[2], quantized=weights.quantized(owner)))


def _norms(node: Node, path: str, wrappers: tuple[str, ...]) -> Iterator[tuple[str, Node, tuple[str, ...]]]:
    """(path, batch norm, names of the wrappers around it)."""
    if is_batch_norm(node):
        yield path, node, wrappers
        return
    outer = () if node.is_model else (*wrappers, node.name)
    for _, child in node.children:
        yield from _norms(child, join(path, child.name), outer)


def _choose(norms: list[tuple[str, Node, tuple[str, ...]]], owners: list[str]) -> list[str | None]:
    """For each batch norm the owner of its weights: the one that bears its path, else its name, else that of the wrapper around it,
    in whole components, and that no other batch norm could mean.
    """
    chosen: list[str | None] = []
    for path, node, wrappers in norms:
        fitting: set[str] = set()
        for wanted in ((path,), (path, node.name), wrappers):
            fitting = {owner for owner in owners if any(owner == text for text in wanted)} \
                or {owner for owner in owners if any(owner.endswith(f"/{text}") for text in wanted)}
            if fitting:
                break
        chosen.append(fitting.pop() if len(fitting) == 1 else None)
    return [owner if owner and chosen.count(owner) == 1 else None for owner in chosen]


def _choose_rest(chosen: list[str | None], owners: list[str], norms: list[tuple[str, Node, tuple[str, ...]]]) -> None:
    """Corrects and completes what was chosen: names in a file can differ from the scopes in it by TensorFlow's numbers alone. A single one
    left over is that of the single one left over.
    """
    chosen[:] = _without_doubtful(chosen, norms)
    left = [owner for owner in owners if owner not in chosen]
    if len(left) == 1 and chosen.count(None) == 1:
        chosen[chosen.index(None)] = left[0]
    elif len(left) == chosen.count(None):
        _choose_numbered(chosen, left, norms)


def _without_doubtful(chosen: list[str | None], norms: list[tuple[str, Node, tuple[str, ...]]]) -> list[str | None]:
    """Without the owners that may be another's: where a scope "bn" is there already TensorFlow takes "bn_1", a layer's name, too."""
    while True:
        ownerless = {name for (_, node, wrappers), owner in zip(norms, chosen, strict=True) if owner is None
                     for name in (node.name, *wrappers)}
        kept = [None if owner and _unnumbered(owner) in ownerless else owner for owner in chosen]
        if kept == chosen:
            return chosen
        chosen = kept


def _choose_numbered(chosen: list[str | None], left: list[str], norms: list[tuple[str, Node, tuple[str, ...]]]) -> None:
    """Gives the batch norms without an owner those that are left, where only one bears the name, as it is or with TensorFlow's number."""
    possible = {place: {owner for owner in left if {node.name, *wrappers} & {owner.rpartition("/")[2], _unnumbered(owner)}}
                for place, (_, node, wrappers) in enumerate(norms) if chosen[place] is None}
    while forced := [place for place, fitting in possible.items() if len(fitting) == 1]:
        chosen[forced[0]] = owner = possible.pop(forced[0]).pop()
        for fitting in possible.values():
            fitting.discard(owner)


def _unnumbered(owner: str) -> str:
    return re.sub(r"_\d+$", "", owner.rpartition("/")[2])

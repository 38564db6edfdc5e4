"""Matches named weights with the layers of a config: a batch norm's weights have its path, its name or that of the wrapper around it."""

from __future__ import annotations

import collections
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from exporter.batchnorm.stored import PARAMETERS, STATISTICS
from exporter.errors import FormatError, names
from exporter.keras import dialects
from exporter.keras.config import GIVE_THEIR_OWN, Node, norm_fields
from exporter.keras.lookalikes import BATCH_NORMS, KERNELS, about_weights
from exporter.keras.names import unnumbered
from exporter.keras.node import are_alike, reason_against
from exporter.keras.places import with_shared
from exporter.keras.ranks import input_ranks
from exporter.sources.legacy_h5.shared import each_once
from exporter.sources.legacy_h5.weights import Candidate, candidates
from exporter.sources.shared.architecture import note_config
from exporter.sources.shared.assemble import RENORM, assemble, roles_of
from exporter.sources.shared.sessions import about_session, in_another_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.sources.shared.found import Found


NAMELESS = "none or several of the weights match its name, so it is ambiguous which belong to it"


class Named(Protocol):
    """Weights that a file stores by name."""

    def names(self) -> Iterable[str]:
        """All names, such as "layer/gamma"."""

    def read(self, name: str) -> tuple[NDArray[Any], str]:
        """Values and dtype of one."""

    def quantized(self, owner: str) -> str | None:
        """How the weights of a layer were quantized, or None."""


def by_name(tree: Node, weights: Named, era: dialects.Era, found: Found, *, own_config: bool) -> None:
    """Weights called layer/gamma, layer/beta …: Keras 2's, and those of models made in TensorFlow.js.

    own_config: whether the config was saved with them. If not, the names have to be equal except for numbers from another session.
    """
    owners, others = _owners(weights), _others(weights)
    tree = _with_one_each(tree, list(owners))
    norms = list(each_once(candidates("", tree)))
    chosen = _paired(norms, list(owners), list(others), found, own_config=own_config)
    ranks = input_ranks(tree)
    for norm in norms:
        path, node, own = norm.path, norm.node, chosen.get(norm)
        if own is None:
            found.skip(path, NAMELESS)
            continue
        is_keras = node.is_builtin and node.class_name in BATCH_NORMS
        # a wrapper and a cell have weights of their own; beside those of Keras's own class, they are a renamed layer's
        more = [] if is_keras or own.rpartition("/")[2] in norm.around else others.get(own, [])
        reason = reason_against(node) or about_weights(more, node.class_name)
        if reason is not None:
            found.skip(path, reason)
            continue
        fields = norm_fields(node)
        expected = roles_of(len(owners[own]), fields.center, fields.scale)
        if expected is None or set(expected) != set(owners[own]):
            raise FormatError(f"the file contains {names(owners[own])} for it, which does not match center and scale of its config",
                              where=path)
        arrays = {role: weights.read(f"{own}/{role}") for role in expected}
        found.add(assemble(path, node, fields, arrays, era, ranks.get(node), quantized=weights.quantized(own)))
    taken = set(chosen.values()).union(*(_possible(norm, owners) for norm in norms if norm not in chosen))
    _add_unmatched(weights, {owner: roles for owner, roles in owners.items() if owner not in taken}, era, found)  # inside a user's class
    note_config(tree, era, found)


def _paired(norms: list[Candidate], owners: list[str], others: Iterable[str], found: Found, *, own_config: bool) -> dict[Candidate, str]:
    """The owner of the weights of each batch norm of a config. others: owners of weights of other layers."""
    chosen = _chosen(norms, owners)
    if own_config:
        return _with_rest(chosen, norms, owners, {name for owner in others for name in (owner, owner.rpartition("/")[2])})
    paired = in_another_session([norm.node for norm in norms], owners)
    if paired is not None:
        if said := about_session([norm.node for norm in norms], paired):
            found.warn(said)
        return dict(zip(norms, paired))
    if len(chosen) != len(norms) or set(chosen.values()) != set(owners):
        raise FormatError(f"the architecture's batch norms are {names(norm.path for norm in norms)}, the weights' {names(owners)}: "
                          "they do not match", hint=GIVE_THEIR_OWN)
    return chosen


def unmatched(weights: Named, found: Found) -> None:
    """The batch norms of weights without a config, recognized by their names alone."""
    _add_unmatched(weights, _owners(weights), dialects.Era(), found)


def _with_one_each(tree: Node, owners: Sequence[str]) -> Node:
    """The tree; batch norms of one name, class and config in several models are one layer where only one owner of weights has that name."""
    alike: dict[tuple[str, str], list[Candidate]] = {}
    for norm in candidates("", tree):
        alike.setdefault((norm.node.name, norm.node.kind), []).append(norm)
    pairs = [(same[0].node, other.node) for same in alike.values() for other in same[1:]
             if are_alike(same[0].node, other.node) and len(set().union(*(_possible(norm, owners) for norm in same))) == 1]
    return with_shared(tree, pairs) if pairs else tree


def _possible(norm: Candidate, owners: Iterable[str]) -> set[str]:
    """The owners with a batch norm's name or that of the wrapper around it, either exactly or with TensorFlow's number."""
    return {owner for owner in owners if {norm.node.name, *norm.around} & {owner.rpartition("/")[2], _unnumbered(owner)}}


def _owners(weights: Named) -> dict[str, list[str]]:
    """The parameters below each owner of a mean and a variance."""
    owners: dict[str, list[str]] = {}
    for name in weights.names():
        owner, _, role = name.rpartition("/")
        if role in PARAMETERS:
            owners.setdefault(owner, []).append(role)
    return {owner: roles for owner, roles in owners.items() if set(roles) >= set(STATISTICS)}


def _others(weights: Named) -> dict[str, list[str]]:
    """The weights of each owner that a batch norm does not have, except those of renormalization."""
    found: dict[str, list[str]] = {}
    for name in weights.names():
        owner, _, role = name.rpartition("/")
        if role not in PARAMETERS and role not in RENORM:
            found.setdefault(owner, []).append(name)
    return found


def _add_unmatched(weights: Named, owners: Mapping[str, list[str]], era: dialects.Era, found: Found) -> None:
    others = _others(weights)
    for owner, roles in owners.items():
        reason = about_weights([name for name in others.get(owner, []) if not KERNELS.search(name)], None)
        if reason is not None:
            found.skip(owner, reason)
            continue
        arrays = {role: weights.read(f"{owner}/{role}") for role in roles}
        found.add(assemble(owner, None, None, arrays, era, None, name=owner.rpartition("/")[2], quantized=weights.quantized(owner)))


def _chosen(norms: Sequence[Candidate], owners: Sequence[str]) -> dict[Candidate, str]:
    """The owner of each batch norm's weights, if it is unique and cannot belong to another batch norm."""
    fitting = {norm: owner for norm in norms if (owner := _only_owner(norm, owners))}
    meant = collections.Counter(fitting.values())
    return {norm: owner for norm, owner in fitting.items() if meant[owner] == 1}


def _only_owner(norm: Candidate, owners: Sequence[str]) -> str | None:
    """The owner with its path, or else its name, or else that of the wrapper around it, in whole components."""
    for wanted in ((norm.path,), (norm.path, norm.node.name), norm.around):
        fitting = {owner for owner in owners if owner in wanted} \
            or {owner for owner in owners if any(owner.endswith(f"/{text}") for text in wanted)}
        if fitting:
            return fitting.pop() if len(fitting) == 1 else None
    return None


def _with_rest(chosen: Mapping[Candidate, str], norms: Sequence[Candidate], owners: Sequence[str],
               kernels: Container[str]) -> dict[Candidate, str]:
    """The choice, corrected and completed: names can differ from the scopes in a file only by TensorFlow's numbers. A single
    remaining owner belongs to the single remaining batch norm, unless weights of another layer (`kernels`) have its name.
    """
    kept = _without_doubtful(chosen, norms)
    taken = set(kept.values())
    left = [owner for owner in owners if owner not in taken]
    ownerless = [norm for norm in norms if norm not in kept]
    if len(left) != len(ownerless):
        return kept
    if len(left) != 1:
        return kept | _by_number(ownerless, left)
    return kept if ownerless[0].node.name in kernels else kept | {ownerless[0]: left[0]}


def _without_doubtful(chosen: Mapping[Candidate, str], norms: Sequence[Candidate]) -> dict[Candidate, str]:
    """Without owners that may belong to another layer: if a scope "bn" already exists TensorFlow uses "bn_1", which may also be a layer's
    name."""
    kept = dict(chosen)
    while True:
        ownerless = {name for norm in norms if norm not in kept for name in (norm.node.name, *norm.around)}
        doubtful = [norm for norm, owner in kept.items() if _unnumbered(owner) in ownerless]
        if not doubtful:
            return kept
        for norm in doubtful:
            del kept[norm]


def _by_number(norms: Sequence[Candidate], left: Sequence[str]) -> dict[Candidate, str]:
    """The owners of these batch norms for which exactly one has the name, either exactly or with TensorFlow's number."""
    possible = {norm: _possible(norm, left) for norm in norms}
    found: dict[Candidate, str] = {}
    while forced := [norm for norm, fitting in possible.items() if len(fitting) == 1]:
        owner = next(iter(possible[forced[0]]))
        rivals = [norm for norm in forced if owner in possible[norm]]
        found.update({norm: owner for norm in rivals if len(rivals) == 1})
        for norm in rivals:
            del possible[norm]
        for fitting in possible.values():
            fitting.discard(owner)
    return found


def _unnumbered(owner: str) -> str:
    return unnumbered(owner.rpartition("/")[2])

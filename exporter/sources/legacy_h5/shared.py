"""Layers that occur twice in a nested model: Keras stores the weights of such a model in one group, each layer's once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from exporter.keras.config import Node, is_batch_norm
from exporter.keras.names import spellings
from exporter.keras.node import LEAVES, repetitions
from exporter.keras.places import with_shared
from exporter.sources.legacy_h5.weights import Candidate, LayerGroup, Norm, candidates, norms_of


def with_one_each(tree: Node, placed: Iterable[tuple[LayerGroup, str, Node | None]]) -> Node:
    """The tree; if a group has weights for as many batch norms as differ in name, class or config, those that do not differ are
    one layer."""
    pairs: list[tuple[Node, Node]] = []
    for group, path, node in placed:
        if node is None or not node.children:
            continue
        own = list(each_once(candidates(path, node)))
        alike = repetitions(candidate.node for candidate in own)
        if alike and len(without_hidden(norms_of(group), path, node, own)[0]) == len(own) - len(alike):
            pairs += alike
    return with_shared(tree, pairs) if pairs else tree


def without_hidden(norms: Sequence[Norm], path: str, node: Node, found: Sequence[Candidate]) -> tuple[list[Norm], list[Norm]]:
    """The batch norms that `found` describes, and those inside a user's class that does not say what it contains: in the scope of these
    stands the name of a layer of `node` that may be of such a class.

    Without this, a hidden one takes the place of a layer that the config lists twice. A layer may itself be called "mine/bn" beside one
    called "mine": it was built like every layer, so the scope is its own, or two have it and `match` finds that ambiguous.
    """
    known = {name for candidate in found for name in (candidate.node.name, *candidate.around)}
    holders = set(_without_norms(path, node)) - known
    described: list[Norm] = []
    hidden: list[Norm] = []
    own = {candidate.node.name for candidate in found if "/" in candidate.node.name and not candidate.may_have_others}
    for norm in norms:
        if own.intersection(spellings(norm.scope)):
            described.append(norm)
            continue
        parts = [part for part in norm.scope.split("/") if part not in known]
        is_hidden = any(holders.intersection(spellings(part)) for part in parts)
        (hidden if is_hidden else described).append(norm)
    return described, hidden


def _without_norms(path: str, node: Node) -> Iterator[str]:
    """The names of the layers at and below `node` that may contain a batch norm without saying so: no models, batch norms, layers around
    these, and layers of Keras's own that contain none. A renamed batch norm has the scope of its old name, which may be another's."""
    if not node.is_model and node.class_name not in LEAVES and not is_batch_norm(node) and not any(True for _ in candidates(path, node)):
        yield node.name
    for _, child in node.children:
        yield from _without_norms(path, child)


def each_once(found: Iterable[Candidate]) -> Iterator[Candidate]:
    """The batch norms without those that repeat an earlier one according to the config."""
    seen: set[int] = set()
    for candidate in found:
        shared = candidate.node.shared_object
        if shared is None or shared not in seen:
            yield candidate
        if shared is not None:
            seen.add(shared)

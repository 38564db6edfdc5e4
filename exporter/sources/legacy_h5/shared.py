"""Layers that occur twice in a nested model: Keras stores the weights of such a model in one group, each layer's once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exporter.keras.config import Node
from exporter.keras.places import with_shared
from exporter.sources.legacy_h5.weights import Candidate, LayerGroup, candidates, norms_of


def with_one_each(tree: Node, placed: Iterable[tuple[LayerGroup, str, Node | None]]) -> Node:
    """The tree; if a group has weights for as many batch norms as differ in name, class or config, those that do not differ are
    one layer."""
    pairs: list[tuple[Node, Node]] = []
    for group, path, node in placed:
        if node is None or not node.children:
            continue
        first: dict[tuple[str, str], Node] = {}
        alike = []
        own = list(each_once(candidates(path, node)))
        for candidate in own:
            other = first.setdefault((candidate.node.name, candidate.node.class_name), candidate.node)
            if other is not candidate.node and other.config == candidate.node.config:
                alike.append((other, candidate.node))
        if alike and len(norms_of(group)) == len(own) - len(alike):
            pairs += alike
    return with_shared(tree, pairs) if pairs else tree


def each_once(found: Iterable[Candidate]) -> Iterator[Candidate]:
    """The batch norms without those that repeat an earlier one according to the config."""
    seen: set[int] = set()
    for candidate in found:
        shared = candidate.node.shared_object
        if shared is None or shared not in seen:
            yield candidate
        if shared is not None:
            seen.add(shared)

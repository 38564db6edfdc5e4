"""Layers that one graph calls in both modes: with the statistics of the batch, and with stored ones."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

from exporter.formats.graph_def import Body

Affine = tuple[Hashable, Hashable]


class Called(Protocol):
    """A batch norm of a graph, see GraphNorm."""

    @property
    def in_training(self) -> bool: ...
    @property
    def conditional(self) -> bool: ...
    @property
    def affine(self) -> Affine: ...


def affine_of_both_modes(norms: Sequence[tuple[str, Called]], body: Body, *, is_served: bool) -> set[Affine]:
    """What gamma and beta are in the layers that are called in both modes.

    norms: each with the node of the body that it is, or that calls its function. is_served: whether all of the body computes the result
    of inference. Otherwise there may be a copy of the network for training in it, from which a call in the other mode differs in that
    both have an effect on one result.
    """
    stored = {norm.affine for _, norm in norms if not norm.in_training} - {(None, None)}
    training = [(name, norm.affine) for name, norm in norms if norm.in_training and not norm.conditional and norm.affine in stored]
    found = {affine for _, affine in training}
    if found and not is_served:
        users: dict[str, list[str]] = {}
        for node in body.nodes.values():
            for output in node.inputs:
                users.setdefault(output.node, []).append(node.name)
        others = (name for name, norm in norms if not norm.in_training and norm.affine in found)
        if _affected((name for name, _ in training), users).isdisjoint(_affected(others, users)):
            return set()
    return found


def _affected(names: Iterable[str], users: dict[str, list[str]]) -> set[str]:
    """The nodes on which one of these has an effect."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += users.get(name, ())
    return found

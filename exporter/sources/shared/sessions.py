"""Names that Keras numbers: two runs of one program give one model batch_normalization, batch_normalization_1 and then _2, _3."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.errors import names, printable
from exporter.keras.config import Node
from exporter.keras.names import numbered, snake_case


def made_up(node: Node) -> set[str]:
    """Keras's default names for a layer of this class, without the number. The second: Keras 1."""
    return {snake_case(node.base_name), node.base_name.lower()}


def in_another_session(nodes: Sequence[Node], owners: Sequence[str]) -> list[str] | None:
    """The owner of each layer's weights if Keras's default names were numbered in another session: paired by their numbers.

    All user-chosen names have to be equal, and each default name has to occur equally often. None: this is not so.
    """
    lasts = {owner.rpartition("/")[2]: owner for owner in owners}
    mine = [node.name for node in nodes]
    if len(lasts) != len(owners) or len(set(mine)) != len(mine) or len(mine) != len(lasts):
        return None
    counted = {numbered(node.name)[0] for node in nodes if numbered(node.name)[0] in made_up(node)}
    pairs = {name: name for name in mine}
    for stem in counted:
        here, there = (sorted((name for name in each if numbered(name)[0] == stem), key=numbered) for each in (mine, lasts))
        if len(here) != len(there):
            return None
        pairs.update(zip(here, there))
    return [lasts[pairs[name]] for name in mine] if set(pairs.values()) == set(lasts) else None


def about_session(nodes: Sequence[Node], owners: Sequence[str]) -> str:
    """A warning about layers that were paired by their numbers; "" if no name differs."""
    changed = [f"{printable(node.name, 60)} for {printable(last, 60)}" for node, owner in zip(nodes, owners)
               if (last := owner.rpartition("/")[2]) != node.name]
    return (f"{len(changed)} batch norms have other names in the architecture than in the weights, numbered in another session "
            f"({names(changed, 3)}): they are paired by their numbers") if changed else ""

"""Hints for unresolved batch norms: never an option that was already given, and nothing that cannot help.

No hint contains an epsilon as an example, because it would be pasted. Only values known for the class are given.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from exporter.errors import names
from exporter.sources.shared.found import OwnClass, Remedy

if TYPE_CHECKING:
    from exporter.sources.shared.options import ReadOptions

GIVE_EPSILON = "give it with --epsilon VALUE, or with --epsilon 'GLOB=VALUE' for some of the layers"
GIVE_CONFIG = "give the model's config with --architecture FILE"


def no_epsilon(classes: Collection[OwnClass]) -> str:
    """Why the epsilon of a layer is unknown."""
    if not classes:
        return "the file does not contain its epsilon"
    return (f"the config does not describe the layers inside the class {names((each.name for each in classes), 3)}, "
            "so the file does not contain its epsilon")


def hint(options: ReadOptions, *, epsilon: bool, classes: Collection[OwnClass], remedies: Collection[Remedy], doubtful: bool,
         rest: bool, has_config: bool = False) -> str:
    """The hint of a refusal.

    epsilon: whether an epsilon is missing. classes: custom classes in the config. remedies: for the skipped layers.
    has_config: whether the model's config was read.
    doubtful: whether a layer's own model does not use the stored statistics. rest: whether other layers would remain.
    """
    found: list[str] = []
    helps = options.architecture is None and not classes and not has_config  # a config
    if epsilon:
        found.append(GIVE_EPSILON + (f", or {GIVE_CONFIG}" if helps else ""))
        known = [each for each in classes if each.epsilon is not None]
        found += [f"{each.name} of KerasHub builds its own batch norms with epsilon {each.epsilon:g}" for each in known]
        if 0 < len(known) < len(classes):
            found.append("those of the other classes may have another")
    elif remedies and helps:
        found.append(f"{GIVE_CONFIG}, which contains it")
    if Remedy.VERSION in remedies and options.keras_version is None:
        found.append("specify the Keras that wrote the weights with --keras-version VERSION and --backend")
    if doubtful and not options.stored_statistics:
        found.append("--stored-statistics writes their stored statistics anyway")
    if rest and not options.skip_unresolved:
        found.append("--skip-unresolved writes the rest and lists these")
    return "; ".join(found)

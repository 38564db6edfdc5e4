"""What became of each model of a batch."""

from __future__ import annotations

import dataclasses

EXPORTED, SKIPPED, REFUSED = "exported", "skipped", "refused"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The outcome for one model.

    source, out: path or URL of the model and of its export. status: "exported", "skipped" (up to date) or "refused".
    layers, channels: how many batch norms were exported, and the sum of their channels.
    reason, hint:     of a refusal, as the command prints them.
    warnings:         what the user should know about a successful export.
    mark, written:    what identifies this version of the model and of the export (exporter/pipeline/resume.py).
    """

    source: str
    out: str
    status: str
    layers: int = 0
    channels: int = 0
    reason: str = ""
    hint: str = ""
    warnings: tuple[str, ...] = ()
    mark: str = ""
    written: str = ""


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Summary:
    """The result of `export_many`: the outcomes, in the order of the sources. warnings: other problems, e.g. an unwritable index."""

    outcomes: tuple[Outcome, ...]
    warnings: tuple[str, ...] = ()

    def of(self, status: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def is_complete(self) -> bool:
        """Whether nothing was refused."""
        return not self.of(REFUSED)

    def __repr__(self) -> str:
        return f"<Summary: {self}>"

    def __str__(self) -> str:
        return ", ".join(f"{status} {len(self.of(status))}" for status in (EXPORTED, SKIPPED, REFUSED))

    def reasons(self) -> list[tuple[int, Outcome]]:
        """The number of refusals for each reason, most frequent first, with the first outcome of each.

        Refusals with the same hint count as one reason: what to do about them is the same.
        """
        groups: dict[str, list[Outcome]] = {}
        for outcome in self.of(REFUSED):
            groups.setdefault(outcome.hint or outcome.reason, []).append(outcome)
        return sorted(((len(group), group[0]) for group in groups.values()), key=lambda pair: -pair[0])

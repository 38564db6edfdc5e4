"""What a source finds in a file, gathered as it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from exporter.batchnorm.bundle import Bundle, Origin

if TYPE_CHECKING:
    from exporter.batchnorm.layer import BatchNorm
    from exporter.sources.shared.options import ReadOptions


class Skipped(NamedTuple):
    """A batch norm that is there and cannot be had."""

    path: str
    reason: str


class Found:
    """The layers of a file in the model's order, what of it cannot be had, and what the user should know."""

    def __init__(self, origin: Origin, options: ReadOptions) -> None:
        self.origin = origin
        self.layers: list[BatchNorm] = []
        self.skipped: list[Skipped] = []
        self.warnings: list[str] = []
        self._announce = options.announce

    def add(self, layer: BatchNorm) -> None:
        """A layer, which whoever listens may begin to work on."""
        self.layers.append(layer)
        self._announce(layer)

    def skip(self, path: str, reason: str) -> None:
        """A batch norm that cannot be had."""
        self.skipped.append(Skipped(path, reason))

    def take(self, outcome: BatchNorm | Skipped) -> None:
        """Either of them."""
        if isinstance(outcome, Skipped):
            self.skipped.append(outcome)
        else:
            self.add(outcome)

    def warn(self, sentence: str) -> None:
        """What the user should know of it; said once however often it comes."""
        self.warnings.append(sentence)

    def bundle(self) -> Bundle:
        """What a source's `read` returns."""
        return Bundle(layers=tuple(self.layers), origin=self.origin, skipped=tuple(self.skipped),
                      warnings=tuple(dict.fromkeys(self.warnings)))

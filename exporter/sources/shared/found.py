"""What a source finds in a file, collected while it reads: the first stage of a bundle, before anything is added or checked."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from exporter.batchnorm.gate import MAX_NUMBERS, check_numbers
from exporter.batchnorm.stored import Skipped

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Origin
    from exporter.batchnorm.kernels import Kernel
    from exporter.batchnorm.stored import Stored
    from exporter.sources.shared.options import ReadOptions


class Remedy(enum.Enum):
    """What would resolve a batch norm that the file does not describe well enough."""

    ARCHITECTURE = "architecture"  # the config of the model
    VERSION = "version"  # the config, or the version of Keras that wrote the file


class OwnClass(NamedTuple):
    """A custom class whose layers the config does not describe.

    epsilon: of its batch norms, if it is known for the class.
    """

    name: str
    epsilon: float | None


class Found:
    """The layers of a file in the model's order, what cannot be exported, and what the user should know."""

    def __init__(self, origin: Origin, options: ReadOptions) -> None:
        self.origin = origin
        self.layers: list[Stored] = []
        self.skipped: list[Skipped] = []
        self.warnings: list[str] = []
        self.left_out: list[Skipped] = []  # possible batch norms, which may be other layers with similar weights
        self.remedies: dict[str, Remedy] = {}  # of skipped layers, by path
        self.own_classes: list[OwnClass] = []
        self.has_config = False  # whether the model's config was read, so that to give it cannot help
        self.kernels: dict[str, Kernel | str] | None = None  # of the feeding layers, by batch norm, or why there is none
        self._numbers = 0
        self._said: set[str] = set()
        self._announce = options.announce
        self._begun: dict[int, Stored] = {}  # by id: thousands may have one path
        self._numbers_begun = 0

    def __iter__(self) -> Iterator[Stored]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, path: str) -> Stored:
        return next(layer for layer in self.layers if layer.path == path)

    def paths(self) -> list[str]:
        """The paths of the layers; a path may occur twice."""
        return [layer.path for layer in self.layers]

    def begin(self, layer: Stored) -> None:
        """Announces a layer before it is certain that it will be added: listeners may start to work on it."""
        self._numbers_begun += layer.moving_mean.size * len(layer.parameters())
        if self._numbers_begun <= MAX_NUMBERS:
            self._begun[id(layer)] = layer
            self._announce(layer)

    def add(self, layer: Stored) -> None:
        """Adds a layer, on which listeners may start to work. FormatError if there are more numbers than any model has: a few bytes
        of a file can stand for very many."""
        self._numbers += layer.moving_mean.size * len(layer.parameters())
        check_numbers(self._numbers)
        self.layers.append(layer)
        if id(layer) not in self._begun:
            self._announce(layer)

    def skip(self, path: str, reason: str, remedy: Remedy | None = None) -> None:
        """Records a batch norm that cannot be exported, and what would help."""
        self.skipped.append(Skipped(path, reason))
        if remedy is not None:
            self.remedies[path] = remedy

    def leave_out(self, path: str, reason: str, effect: str = "not treated as a batch norm") -> None:
        """Records a possible batch norm that is not treated as one, or layers that may contain some."""
        self.left_out.append(Skipped(path, reason))
        self.warn(f"{path}: {reason}; {effect}")

    def take(self, outcome: Stored | Skipped) -> None:
        """Either of them."""
        if isinstance(outcome, Skipped):
            self.skipped.append(outcome)
        else:
            self.add(outcome)

    def warn(self, sentence: str) -> None:
        """Records a warning for the user; repeated warnings are recorded once."""
        if sentence not in self._said:
            self._said.add(sentence)
            self.warnings.append(sentence)

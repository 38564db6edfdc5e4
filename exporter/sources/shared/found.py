"""What a source finds in a file, gathered as it goes: the first stage of a bundle, before anything is added to it or judged."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from exporter.batchnorm.gate import check_numbers
from exporter.batchnorm.stored import Skipped

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Origin
    from exporter.batchnorm.kernels import Kernel
    from exporter.batchnorm.stored import Stored
    from exporter.sources.shared.options import ReadOptions


class Remedy(enum.Enum):
    """What would make a batch norm certain that the file does not say enough about."""

    ARCHITECTURE = "architecture"  # the config of the model
    VERSION = "version"  # that, or the Keras that wrote the file


class OwnClass(NamedTuple):
    """A class in a config that is not one of Keras's and whose layers the config does not describe.

    epsilon: of its batch norms, where that is known of the class.
    """

    name: str
    epsilon: float | None


class Found:
    """The layers of a file in the model's order, what of it cannot be had, and what the user should know."""

    def __init__(self, origin: Origin, options: ReadOptions) -> None:
        self.origin = origin
        self.layers: list[Stored] = []
        self.skipped: list[Skipped] = []
        self.warnings: list[str] = []
        self.left_out: list[Skipped] = []  # what may be a batch norm, or another layer with such weights
        self.remedies: dict[str, Remedy] = {}  # of what is skipped, by path
        self.own_classes: list[OwnClass] = []
        self.kernels: dict[str, Kernel | str] | None = None  # of what feeds each batch norm, by its path, or why there is none
        self._numbers = 0
        self._said: set[str] = set()
        self._announce = options.announce

    def __iter__(self) -> Iterator[Stored]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, path: str) -> Stored:
        return next(layer for layer in self.layers if layer.path == path)

    def paths(self) -> list[str]:
        """The paths of the layers; one may come twice."""
        return [layer.path for layer in self.layers]

    def add(self, layer: Stored) -> None:
        """Adds a layer, which listeners may start to work on. FormatError where there are more numbers than any model has: a few bytes
        of a file can stand for very many."""
        self._numbers += sum(values.size for values in layer.parameters().values())
        check_numbers(self._numbers)
        self.layers.append(layer)
        self._announce(layer)

    def skip(self, path: str, reason: str, remedy: Remedy | None = None) -> None:
        """A batch norm that cannot be had, and what would help."""
        self.skipped.append(Skipped(path, reason))
        if remedy is not None:
            self.remedies[path] = remedy

    def leave_out(self, path: str, reason: str) -> None:
        """What may be a batch norm, and is not treated as one."""
        self.left_out.append(Skipped(path, reason))
        self.warn(f"{path}: {reason}; not treated as a batch norm")

    def take(self, outcome: Stored | Skipped) -> None:
        """Either of them."""
        if isinstance(outcome, Skipped):
            self.skipped.append(outcome)
        else:
            self.add(outcome)

    def warn(self, sentence: str) -> None:
        """What the user should know of it; said once however often it comes."""
        if sentence not in self._said:
            self._said.add(sentence)
            self.warnings.append(sentence)

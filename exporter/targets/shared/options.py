"""WriteOptions: what the user asks of an output."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from exporter.errors import UsageError

if TYPE_CHECKING:
    from exporter.batchnorm.layer import BatchNorm

NAMES = ("keras", "torch")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WriteOptions:
    """What the user asks of the output.

    vectors: write each layer's test vectors. names: naming scheme of the arrays ("keras" or "torch"), where the target has one.
    folded: also write scale and offset, where the target can.
    begun: what a target's `begin` made of layers before the bundle was there.
    """

    vectors: bool = True
    names: str = "keras"
    folded: bool = False
    begun: dict[BatchNorm, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.names not in NAMES:
            raise UsageError(f"names must be {' or '.join(map(repr, NAMES))}, got {self.names!r}")

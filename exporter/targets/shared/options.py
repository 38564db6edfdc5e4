"""WriteOptions: the user's options for an output."""

from __future__ import annotations

import dataclasses

from exporter.errors import UsageError

NAMES = ("keras", "torch")
FLAGS = {"vectors": "--no-vectors", "names": "--names", "folded": "--folded", "axis": "--axis", "plain": "--plain",
         "fold": "--fold"}  # by field


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WriteOptions:
    """The user's options for the output. Each target lists in OPTIONS the fields that it supports; others are refused.

    vectors: write the test vectors of each layer.
    names:   naming scheme of the arrays, "keras" or "torch".
    folded:  also write scale and offset.
    axis:    the axis of the channels in the input of each layer, if it differs from the model's.
    plain:   write ONNX without functions, which some programs do not support.
    fold:    write the preceding layers with the batch norms folded into them, and the batch norms that are kept; needs the kernels.
    """

    vectors: bool = True
    names: str = "keras"
    folded: bool = False
    axis: int | None = None
    plain: bool = False
    fold: bool = False

    def __post_init__(self) -> None:
        if self.names not in NAMES:
            raise UsageError(f"names must be {' or '.join(map(repr, NAMES))}, got {self.names!r}")
        if self.axis == 0:
            raise UsageError("expected an axis of channels, got axis 0, which is the batch")
        if self.fold and not self.vectors:
            raise UsageError("a folded model has no test vectors", hint="omit --no-vectors")

    def given(self) -> list[str]:
        """The fields that differ from the defaults."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]

    def flag(self, field: str) -> str:
        """The command-line flag of a field, with its value if it has one."""
        value = getattr(self, field)
        return FLAGS[field] if isinstance(value, bool) else f"{FLAGS[field]} {value}"

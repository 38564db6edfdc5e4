"""Where a batch norm stands in its model: the layers that feed each of its calls, and those that follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

MORE = ("axis", "use_bias", "activation", "padding", "shared")  # what a document may say of a neighbor, beside its path and class
NO_MORE = (None,) * len(MORE)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Neighbor:
    """A layer beside a batch norm.

    path:       in the same form as the batch norm's own; class_name: as in the model.
    axis:       of a feeding kernel: the axis of its output channels, in the kernel's own layout: 3 for Conv2D's (h, w, in, out).
    use_bias:   of a feeding layer: whether it has a bias. None: a layer of this class never has one.
    activation: its own activation, named as in its config; None: none, or linear.
    padding:    of a following convolution or pooling: "valid", "same", ...
    is_shared:  of a feeding layer: something else also reads its output, or it is called more than once.
    """

    path: str
    class_name: str
    axis: int | None = None
    use_bias: bool | None = None
    activation: str | None = None
    padding: str | None = None
    is_shared: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For a document; unknown and inapplicable fields are omitted."""
        said: dict[str, Any] = {"path": self.path, "class_name": self.class_name}
        more = self.axis, self.use_bias, self.activation, self.padding, self.is_shared or None
        if more != NO_MORE:
            said |= {key: value for key, value in zip(MORE, more) if value is not None}
        return said

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Neighbor:
        """From a document; unknown keys are ignored."""
        return cls(path=said["path"], class_name=said["class_name"], axis=said.get("axis"), use_bias=said.get("use_bias"),
                   activation=said.get("activation"), padding=said.get("padding"), is_shared=said.get("shared", False))


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call of a batch norm. inputs: () if it reads the model's own input; outputs: () if nothing in the model reads its output."""

    inputs: tuple[Neighbor, ...]
    outputs: tuple[Neighbor, ...]

    def as_dict(self) -> dict[str, Any]:
        """For a document."""
        return {"inputs": [each.as_dict() for each in self.inputs], "outputs": [each.as_dict() for each in self.outputs]}

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Call:
        """From a document."""
        return cls(*(tuple(map(Neighbor.of, said[side])) for side in ("inputs", "outputs")))

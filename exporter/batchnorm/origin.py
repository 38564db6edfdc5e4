"""Origin: where the layers of a bundle came from."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a bundle came from.

    file: name of the model's file or folder, without its path. kind: NAME of the source that read it.
    keras_version, backend, tensorflow_version: as stored in the file, or None.
    """

    file: str
    kind: str
    keras_version: str | None = None
    backend: str | None = None
    tensorflow_version: str | None = None

    def writers(self) -> list[str]:
        """What wrote the file, for display: ["Keras 2.4.0", "TensorFlow 2.4.1", "tensorflow"], as far as the file specifies it."""
        return [f"{name}{version}" for name, version in (("Keras ", self.keras_version), ("TensorFlow ", self.tensorflow_version),
                                                         ("", self.backend)) if version]

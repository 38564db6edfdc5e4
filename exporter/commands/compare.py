"""compare: a bundle against another form of it, from any place. It is on this floor because it both reads and judges."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Bundle
    from exporter.diagnosis.port_answer import Comparison
    from exporter.diagnosis.ports.port import Port


def compare(bundle: Bundle, other: Bundle | Mapping[str, Any] | str | os.PathLike[str], *, map: Mapping[str, str] | None = None,
            **options: Any) -> Comparison:
    """The differences between the layers of a bundle and another form of them, with the known mistakes that explain them.

    other:    a bundle; the path of a model, bundle, PyTorch checkpoint or state, flax state, .onnx, .csv or .h file; or arrays by
              name, such as `model.state_dict()` of PyTorch.
    map:      {glob over paths of the bundle: path of the other form} for layers with different names; the same number of * on both
              sides. Otherwise layers are paired by path, by content, or by order and shape, and the result says how.
    options:  as for `exporter.read`, if `other` is the path of a model.

    Raises: UsageError, and for a path what `exporter.read` raises.
    """
    from exporter.batchnorm.bundle import Bundle
    from exporter.diagnosis import comparison, ports
    from exporter.files.remote import place_for
    from exporter.pipeline.read import read

    told = tuple((map or {}).items())
    if isinstance(other, Bundle):
        return comparison.compare(bundle, other, told)
    if isinstance(other, (str, os.PathLike)):
        place = place_for(other)
        return comparison.compare(bundle, ports.read(place) or read(other, **options), told, place.name)
    return comparison.compare(bundle, _of_arrays(other), told)


def _of_arrays(arrays: Mapping[str, Any]) -> Port:
    """The state of a model in memory: arrays or PyTorch tensors by name, possibly nested as in flax."""
    import numpy as np

    from exporter.diagnosis.ports.state import gather, port_of

    found: dict[str, Any] = {}
    gather(arrays, "", found, lambda value: np.asarray(value.detach().cpu() if hasattr(value, "detach") else value))
    return port_of(found, "the state")

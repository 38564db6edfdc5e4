"""The numbers of each channel for the script of a page: base64 of the parameters' bits, up to the limit of a page."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from exporter.batchnorm.layer import BatchNorm

MAX_BYTES = 1 << 20  # of base64 in a page


def channel_data(layer: BatchNorm) -> str:
    """The parameters of the layer, one after the other, little-endian: float64 for a float64 layer, otherwise float32."""
    kind = "<f8" if layer.dtype == "float64" else "<f4"
    return base64.b64encode(b"".join(np.ascontiguousarray(values, kind).tobytes() for values in layer.parameters().values())).decode()


def that_fit(layers: Iterable[BatchNorm]) -> set[str]:
    """Paths of the layers whose numbers a page contains: the first of these for which there is room."""
    found, left = set(), MAX_BYTES
    for layer in layers:
        size = 4 * -(-len(layer.parameters()) * layer.channels * (8 if layer.dtype == "float64" else 4) // 3)
        if size <= left:
            found.add(layer.path)
            left -= size
    return found

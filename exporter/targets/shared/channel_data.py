"""The numbers of each channel for the script of a page: base64 of the parameters' own bits, as many as a page may hold."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from exporter.batchnorm.layer import BatchNorm

MAX_BYTES = 1 << 20  # of base64 in a page


def channel_data(layer: BatchNorm) -> str:
    """The parameters that the layer has, one after the other, little-endian: float64 of a float64 layer, else float32, which holds them."""
    kind = "<f8" if layer.dtype == "float64" else "<f4"
    return base64.b64encode(b"".join(np.ascontiguousarray(values, kind).tobytes() for values in layer.parameters().values())).decode()


def that_fit(layers: Iterable[BatchNorm]) -> set[str]:
    """Paths of the layers whose numbers a page holds: of these, in this order, as many as there is room for."""
    found, left = set(), MAX_BYTES
    for layer in layers:
        size = 4 * -(-len(layer.parameters()) * layer.channels * (8 if layer.dtype == "float64" else 4) // 3)
        if size <= left:
            found.add(layer.path)
            left -= size
    return found

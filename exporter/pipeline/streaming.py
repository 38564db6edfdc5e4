"""Inference from a .npy file into a .npy file, a block at a time: inputs may be larger than memory."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.layer import FLOATS, BatchNorm, evaluate, find_axes
from exporter.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_AT_ONCE = 1 << 20  # numbers processed at once: 8 MiB of float64, several times


def evaluate_file(layer: BatchNorm, source: NDArray[Any], out: Path | BinaryIO, *, axis: int | tuple[int, ...] | None = None,
                  fast: bool = False) -> None:
    """`evaluate(layer, source)` written to `out`, a path or a stream, as a .npy file in row-major order; `source` is memory-mapped.

    Raises: UsageError if the input does not fit the layer or has no numbers, OutputError.
    """
    from exporter.files.output import replacing

    if source.dtype.kind not in "fiub":
        raise UsageError(f"expected an array of numbers as input, got {source.dtype}")
    if fast and source.dtype.name != "float32":
        raise UsageError(f"expected a float32 input with --fast, got {source.dtype}")
    axes = find_axes(layer, source, axis)
    dtype = np.dtype(source.dtype.name if source.dtype.name in FLOATS else HELD_IN[layer.dtype])
    with replacing(out) if isinstance(out, Path) else contextlib.nullcontext(out) as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype.newbyteorder("<")), "fortran_order": False, "shape": source.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in blocks(source.shape):
            x = np.ascontiguousarray(source[part], source.dtype.newbyteorder("="))
            y = evaluate(_part_of(layer, axes, part), x, axis=axes, fast=fast)
            file.write(np.ascontiguousarray(y, dtype.newbyteorder("<")).data)
            _forget(source)


def _forget(source: NDArray[Any]) -> None:
    """Releases the pages of a memory-mapped array, which would otherwise count as this process's memory."""
    if isinstance(source.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        source.base.madvise(mmap.MADV_DONTNEED)


def blocks(shape: tuple[int, ...], most: int = MAX_AT_ONCE) -> Iterator[tuple[slice, ...]]:
    """Slices that cover an array in row-major order, each with at most `most` numbers."""
    if 0 in shape:
        return
    cut = len(shape)  # the axes after `cut` are complete in each block
    inner = 1
    while cut > 0 and inner * shape[cut - 1] <= most:
        cut -= 1
        inner *= shape[cut]
    if cut == 0:
        yield tuple(slice(0, size) for size in shape)
        return
    step = most // inner
    whole = tuple(slice(0, size) for size in shape[cut:])
    for index in np.ndindex(*shape[: cut - 1]):
        for start in range(0, shape[cut - 1], step):
            yield (*(slice(i, i + 1) for i in index), slice(start, min(start + step, shape[cut - 1])), *whole)


def _part_of(layer: BatchNorm, axes: tuple[int, ...], part: tuple[slice, ...]) -> BatchNorm:
    """The layer with only the channels of a block of the input."""
    own = tuple(part[axis] for axis in axes)
    if all(one == slice(0, size) for one, size in zip(own, layer.shape)):
        return layer
    arrays = {name: values[own] for name, values in layer.parameters().items()}
    return layer.replace(shape=tuple(one.stop - one.start for one in own), **arrays)

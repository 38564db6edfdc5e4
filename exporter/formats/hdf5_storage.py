"""Where the data of an HDF5 dataset is; makes sure that it is complete, in the file itself, and in a form that can be read safely."""

from __future__ import annotations

import math
from typing import Any

from h5py import h5d

from exporter.errors import COPY_AGAIN, FormatError
from exporter.files.place import MiB

MAX_CHUNK = 64 * MiB
DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000


def shape_of(dataset: Any) -> tuple[int, ...]:
    """The shape of a dataset; () for a scalar."""
    shape = dataset.shape
    if shape is None:
        raise FormatError("this dataset is empty (a null dataspace)")
    return tuple(map(int, shape))


def storage_of(dataset: Any, size: int) -> list[tuple[int, int, bool]]:
    """(offset, size, whether the bytes are the plain values) of the pieces of a dataset's data in the file.

    size: the unpacked size in bytes. Refuses data that is not complete, in the file, and in a form that can be read safely.
    """
    place = dataset.get_offset()  # None unless the data is contiguous, in this file, and not in the object header
    if place is not None and dataset.get_storage_size() == size:
        return [(int(place), size, True)]
    properties = dataset.get_create_plist()
    layout = properties.get_layout()
    if properties.get_external_count():
        raise FormatError("its data is in another file (external storage); only data stored in the file itself is read")
    if layout == h5d.VIRTUAL:
        raise FormatError("this is a virtual dataset, whose data is elsewhere; only data stored in the dataset itself is read")
    if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        raise FormatError("its storage layout is unknown")
    if not dataset.get_storage_size():
        raise FormatError("the dataset was created but never written")
    if layout == h5d.CHUNKED:
        return _chunks(dataset, properties, size)
    if dataset.get_storage_size() != size:
        raise FormatError(f"expected {size} stored bytes, got {dataset.get_storage_size()}")
    return []


def _chunks(dataset: Any, properties: Any, size: int) -> list[tuple[int, int, bool]]:
    """Like `storage_of`, for a chunked dataset."""
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    for code in filters:
        if code not in (DEFLATE, SHUFFLE, FLETCHER32, LZF):
            raise FormatError(f"compressed with filter {code}, which is not supported (plugins are never loaded)")
        if filters.count(code) > 1 or {DEFLATE, LZF} <= {*filters}:
            raise FormatError("compressed twice")
    chunk = properties.get_chunk()
    chunk_size = math.prod(chunk) * dataset.get_type().get_size()
    if chunk_size > MAX_CHUNK or chunk_size > max(MiB, 4 * size):
        raise FormatError(f"expected chunks that fit {size} bytes of data, got chunks of {chunk_size} bytes")
    expected = math.prod(-(-length // step) for length, step in zip(shape_of(dataset), chunk, strict=True))
    if dataset.get_num_chunks() != expected:
        raise FormatError(f"expected {expected} stored chunks, got {dataset.get_num_chunks()}: part of the data was never written")
    infos = [dataset.get_chunk_info(i) for i in range(expected)]
    for info in infos:
        if info.size > 2 * chunk_size + 64:
            raise FormatError(f"expected at most the {chunk_size} bytes of a chunk, got {info.size} stored")
        mask, packed = dataset.read_direct_chunk(info.chunk_offset)
        _check_chunk(packed, [code for bit, code in enumerate(filters) if not mask >> bit & 1], chunk_size)
    return [(int(info.byte_offset), int(info.size), False) for info in infos]


def _check_chunk(packed: bytes, filters: list[int], chunk_size: int) -> None:
    """Whether a stored chunk unpacks to exactly its size: HDF5 1.14 leaves the rest of a short one uninitialized."""
    size = len(packed)
    for code in reversed(filters):
        if code == FLETCHER32:
            packed, size = packed[:-4], size - 4
        elif code == DEFLATE:
            size = _inflated_size(packed, chunk_size + 4)
        elif code == LZF:
            size = _lzf_size(packed)
    if size != chunk_size:
        raise FormatError(f"expected a chunk to decompress to {chunk_size} bytes, got {size}", hint=COPY_AGAIN)


def _inflated_size(packed: bytes, limit: int) -> int:
    import zlib

    try:
        return len(zlib.decompressobj().decompress(packed, limit + 1))
    except zlib.error as error:
        raise FormatError(f"a chunk cannot be decompressed: {error}", hint=COPY_AGAIN) from None


def _lzf_size(packed: bytes) -> int:
    """The unpacked length of LZF data: literal runs (control byte below 32) and back references."""
    size = i = 0
    while i < len(packed):
        control = packed[i]
        if control < 32:
            size, i = size + control + 1, i + control + 2
        else:
            long = control >> 5 == 7
            if long and i + 1 == len(packed):
                break
            size, i = size + (control >> 5) + 2 + (packed[i + 1] if long else 0), i + (3 if long else 2)
    return size if i == len(packed) else -1

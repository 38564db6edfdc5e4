"""The safetensors format: eight bytes with the header's length, the header as JSON, the tensors' bytes.

As strict as the reference reader: no duplicate name, no gap, no overlap, no extra byte. The package `safetensors` is not used: its NumPy
interface does not support bfloat16 and accepts a duplicate name with the same offsets, and the bytes written depend on its version.
Specification: https://github.com/huggingface/safetensors, README.md "Format" and safetensors/src/tensor.rs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import FormatError, printable
from exporter.formats.arrays import shaped, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_HEADER = 100_000_000  # bytes; the reference reader's limit
ALIGNMENT = 8
ITEM_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4,
              "F32": 4, "F64": 8, "I64": 8, "U64": 8}
FLOATS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
# The NumPy types of those that are read as arrays; NumPy has no bfloat16.
ARRAYS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """dtype: a key of ITEM_SIZES. data: the numbers, little-endian in row-major order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    def array(self, where: str) -> NDArray[Any]:
        """The numbers of a tensor of one of the types in ARRAYS, bfloat16 as float32."""
        values = shaped(np.frombuffer(self.data, ARRAYS[self.dtype]), self.shape, where)
        return widen(values) if self.dtype == "BF16" else values


def header_size(head: bytes) -> int | None:
    """The length of the header that the file's first nine bytes declare, or None if they are not those of a safetensors file."""
    size = int.from_bytes(head[:8], "little")
    return size if head[8:9] == b"{" and size <= MAX_HEADER else None


def dump(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The contents of a file. Tensors with larger items come first, so that each is aligned to its item size."""
    ordered = sorted(tensors.items(), key=lambda pair: -ITEM_SIZES[pair[1].dtype])
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in ordered:
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, at + len(tensor.data)]}
        at += len(tensor.data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensor.data for _, tensor in ordered)])


def parse(data: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """(metadata, tensors by name) of a file's contents. Raises FormatError if they violate the format."""
    from exporter.formats.strict_json import parse_json

    size = header_size(data[:9])
    if size is None or 8 + size > len(data):
        raise FormatError("the safetensors header is cut short or damaged")
    header = parse_json(data[8:8 + size], "the safetensors header", limit=MAX_HEADER)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("expected the safetensors metadata to map strings to strings")
    body = memoryview(data)[8 + size:]
    tensors = {name: _tensor(name, entry, body) for name, entry in header.items()}
    _check_cover([tuple(entry["data_offsets"]) for entry in header.values()], len(body))
    return metadata, tensors


def _tensor(name: str, entry: Any, body: memoryview) -> Tensor:
    where = f"tensor {printable(name, 80)!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError("expected an entry with dtype, shape and data_offsets", where=where)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise FormatError(f"the type {printable(repr(dtype), 40)} is not a safetensors type", where=where)
    if not all(_is_sizes(value) for value in (shape, offsets)) or len(offsets) != 2:
        raise FormatError("its shape and data_offsets are not lists of sizes", where=where)
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_SIZES[dtype] or end > len(body):
        raise FormatError(f"its shape {shape} does not fit its {end - start} bytes", where=where)
    return Tensor(dtype, tuple(shape), body[start:end])


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_cover(spans: list[tuple[int, ...]], size: int) -> None:
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise FormatError("the tensors of the safetensors file overlap or leave a gap")
        at = end
    if at != size:
        raise FormatError(f"expected {at} bytes of tensors in the safetensors file, got {size}")

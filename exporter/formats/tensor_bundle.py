"""TensorFlow checkpoints: tensors by name, in both forms that TensorFlow wrote.

V2, a TensorBundle (tensorflow/core/util/tensor_bundle): PREFIX.index is a table of names with the place of each tensor in
PREFIX.data-XXXXX-of-XXXXX. V1 (tensorflow/core/util/tensor_slice_writer.h): one table, or several shards, that contain the
tensors themselves. In both, a partitioned variable is stored as slices under separate keys.

Only the requested tensors are read. Sizes are checked in Python's unbounded integers against shape, type and file
before anything is read, and CRCs are verified if the format has them.
"""

from __future__ import annotations

import abc
import contextlib
import math
import re
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from exporter.errors import FormatError
from exporter.files.input_file import InputFile
from exporter.files.place import MiB, Place
from exporter.formats.arrays import shaped
from exporter.formats.protobuf import Message, fields, varint
from exporter.formats.sstable import Table, masked_crc
from exporter.formats.tensorflow_types import HALF_VAL, DType, dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

MAX_SHARDS = 10_000
MAX_OPEN = 64
MAX_DIMENSIONS = 254  # TensorShape::MaxDimensions
MAX_TENSOR = 64 * MiB  # of a tensor that is read: batch norm parameters and object graphs, never kernels

# Field numbers of tensor_bundle.proto, tensor_shape.proto, tensor_slice.proto, saved_tensor_slice.proto and tensor.proto.
HEADER_SHARDS, HEADER_ENDIANNESS, HEADER_VERSION = 1, 2, 3
ENTRY_DTYPE, ENTRY_SHAPE, ENTRY_SHARD, ENTRY_OFFSET, ENTRY_SIZE, ENTRY_CRC, ENTRY_SLICES = range(1, 8)
SHAPE_DIMENSIONS, SHAPE_UNKNOWN_RANK, DIMENSION_SIZE = 2, 3, 1
SLICE_EXTENTS, EXTENT_START, EXTENT_LENGTH = 1, 1, 2
V1_META, V1_DATA, META_TENSORS, META_NAME, META_SHAPE, META_TYPE, META_SLICES = 1, 2, 1, 1, 2, 3, 4
DATA_NAME, DATA_SLICE, DATA_TENSOR = 1, 2, 3

WHOLE_DIMENSION = -1  # length of an extent that spans its dimension

Extents = tuple[tuple[int, int], ...]


class TensorInfo(NamedTuple):
    """What a checkpoint says about a tensor. dtype: as in NumPy, or "bfloat16", "string", "resource", ..."""

    dtype: str
    shape: tuple[int, ...]


def open_checkpoint(place: Place) -> Checkpoint:
    """The checkpoint whose table is `place`: a .index file, a V1 file, or one shard of a V1 checkpoint (its others are found).

    Raises FormatError if it is neither, is damaged, or a shard is missing.
    """
    with contextlib.ExitStack() as stack:
        table = stack.enter_context(Table(place))
        header = table.get(b"")
        if header is None:
            raise FormatError("the index has no header", where=place.name)
        try:
            first = fields(header).get(1, [0])[0]  # V1: a message, V2: a number
        except FormatError as error:
            raise FormatError(f"bad header: {error.what}", where=place.name) from None
        kind = TensorSlices if isinstance(first, bytes) else TensorBundle
        return kind(place, table, stack.pop_all())


class Checkpoint(abc.ABC):
    """An open checkpoint of either form, for a `with` statement. Every method raises FormatError on damage."""

    def __init__(self, place: Place, table: Table, stack: contextlib.ExitStack) -> None:
        self.where, self._place, self._table, self._stack = place.name, place, table, stack
        self._shapes: dict[bytes, tuple[int, ...]] = {}  # by their bytes: there are few for many tensors
        try:
            self._check_header(Message(table.get(b"") or b"", self.where))
        except BaseException:
            stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abc.abstractmethod
    def __contains__(self, name: str) -> bool: ...

    @abc.abstractmethod
    def names(self) -> list[str]:
        """The names of all tensors, sorted. For a V2 checkpoint this reads the whole index."""

    @abc.abstractmethod
    def info(self, name: str) -> TensorInfo:
        """Type and shape; FormatError if there is no such tensor."""

    def read(self, name: str) -> NDArray[Any]:
        """A floating tensor: float16, float32 or float64; bfloat16 as float32 (exact)."""
        return self.typed(name)[0]

    @abc.abstractmethod
    def typed(self, name: str) -> tuple[NDArray[Any], str]:
        """What `read` returns, and the type in the file, as in TensorInfo."""

    @abc.abstractmethod
    def _check_header(self, header: Message) -> None:
        """Of the form; reads what comes with it."""

    def _error(self, name: str, what: str) -> FormatError:
        return FormatError(f"tensor {name} {what}", where=self.where)

    def _float_type(self, name: str, number: int) -> DType:
        dtype = dtype_of(number)
        if dtype.kind != "float":
            raise self._error(name, f"has type {dtype.name}, expected a floating point type")
        return dtype

    def _shape(self, name: str, shape: Message) -> tuple[int, ...]:
        known = self._shapes.get(shape.data)
        if known is not None:
            return known
        sizes = tuple(dimension.integer(DIMENSION_SIZE) for dimension in shape.messages(SHAPE_DIMENSIONS))
        if shape.boolean(SHAPE_UNKNOWN_RANK) or any(size < 0 for size in sizes):
            raise self._error(name, "has an unknown dimension")
        if len(sizes) > MAX_DIMENSIONS:
            raise self._error(name, f"has {len(sizes)} dimensions")
        self._shapes[shape.data] = sizes
        return sizes

    def _checked(self, name: str, extents: Extents, shape: tuple[int, ...]) -> Extents:
        try:
            return _lengths(extents, shape)
        except FormatError as error:
            raise self._error(name, error.what) from None

    def _join(self, name: str, shape: tuple[int, ...], dtype: DType, pieces: Iterable[tuple[Extents, NDArray[Any]]]) -> NDArray[Any]:
        """One tensor from slices that must cover it exactly once."""
        if math.prod(shape) * dtype.item_size > MAX_TENSOR:
            raise self._error(name, f"of shape {list(shape)} has more than the limit of {MAX_TENSOR} bytes")
        whole = np.zeros(shape, dtype.numpy)
        covered = np.zeros(shape, bool)
        for extents, piece in pieces:
            box = tuple(slice(start, start + length) for start, length in self._checked(name, extents, shape))
            if covered[box].any():
                raise self._error(name, "is stored in slices that overlap")
            whole[box] = piece
            covered[box] = True
        if not covered.all():
            raise self._error(name, "is stored in slices that do not cover all of it")
        return whole


class TensorBundle(Checkpoint):
    """An open V2 checkpoint."""

    def _check_header(self, header: Message) -> None:
        shards = header.integer(HEADER_SHARDS)
        if header.unsigned(HEADER_ENDIANNESS) != 0:
            raise FormatError("big-endian checkpoints are not supported", where=self.where)
        if not 0 < shards <= MAX_SHARDS:
            raise FormatError(f"expected 1 to {MAX_SHARDS} data shards, got {shards}", where=self.where)
        if header.message(HEADER_VERSION).integer(2) > 1:  # VersionDef.min_consumer; TensorFlow still writes 1
            raise FormatError("the index requires a version of TensorFlow that does not exist yet", where=self.where)
        self._shards = shards
        self._files: dict[int, tuple[InputFile, int, str]] = {}
        self._last: tuple[bytes | None, Message] = None, Message(b"")  # the last entry: asked for its type, then for its values
        self._stack.callback(self._close_shards)

    def _close_shards(self) -> None:
        for file, _, _ in self._files.values():
            file.close()

    def __contains__(self, name: str) -> bool:
        return bool(name) and self._table.get(name.encode()) is not None

    def names(self) -> list[str]:
        keys = [key for key, _ in self._table.items() if key and key[0]]  # keys of slices begin with a zero
        try:
            return [key.decode() for key in keys]
        except UnicodeDecodeError:
            raise FormatError("a tensor's name is not UTF-8", where=self.where) from None

    def info(self, name: str) -> TensorInfo:
        entry = self._entry(name, name.encode())
        return TensorInfo(dtype_of(entry.integer(ENTRY_DTYPE)).name, self._shape(name, entry.message(ENTRY_SHAPE)))

    def typed(self, name: str) -> tuple[NDArray[Any], str]:
        entry = self._entry(name, name.encode())
        dtype = self._float_type(name, entry.integer(ENTRY_DTYPE))
        shape = self._shape(name, entry.message(ENTRY_SHAPE))
        if ENTRY_SLICES not in entry:
            return dtype.widened(self._array(name, entry, dtype, shape)), dtype.name
        pieces = []
        for extents in map(_extents, entry.messages(ENTRY_SLICES)):
            piece = self._entry(name, slice_key(name, extents))
            if piece.integer(ENTRY_DTYPE) != entry.integer(ENTRY_DTYPE):
                raise self._error(name, "is stored in slices of several types")
            size = tuple(length for _, length in self._checked(name, extents, shape))
            if self._shape(name, piece.message(ENTRY_SHAPE)) != size:
                raise self._error(name, "has a slice whose shape does not match its extent")
            pieces.append((extents, self._array(name, piece, dtype, size)))
        return dtype.widened(self._join(name, shape, dtype, pieces)), dtype.name

    def strings(self, name: str) -> list[bytes]:
        """The elements of a string tensor, in row-major order (WriteStringTensor in tensor_bundle.cc)."""
        entry = self._entry(name, name.encode())
        if dtype_of(entry.integer(ENTRY_DTYPE)).name != "string" or ENTRY_SLICES in entry:
            raise self._error(name, "is not a tensor of strings")
        count = math.prod(self._shape(name, entry.message(ENTRY_SHAPE)))
        data = self._bytes(name, entry)
        if count + 4 > len(data):
            raise self._error(name, "is too small for its shape")
        lengths, at = [], 0
        for _ in range(count):
            length, at = varint(data, at, len(data))
            lengths.append(length)
        if at + 4 + sum(lengths) != len(data):
            raise self._error(name, "has strings whose lengths do not fit its size")
        sizes = b"".join(struct.pack("<I" if length < 1 << 32 else "<Q", length) for length in lengths)
        if masked_crc(sizes) != int.from_bytes(data[at: at + 4], "little"):
            raise self._error(name, "is damaged: the CRC of its lengths does not match")
        self._check_crc(name, entry, sizes + data[at:])
        at += 4
        out = []
        for length in lengths:
            out.append(data[at : at + length])
            at += length
        return out

    def _entry(self, name: str, key: bytes) -> Message:
        if key == self._last[0]:
            return self._last[1]
        value = self._table.get(key) if key else None
        if value is None:
            what = "is missing from the checkpoint" if key[:1] != b"\0" else "lacks a slice that the index lists"
            raise self._error(name, what)
        self._last = key, Message(value, f"{self.where}: entry of {name}")
        return self._last[1]

    def _array(self, name: str, entry: Message, dtype: DType, shape: tuple[int, ...]) -> NDArray[Any]:
        size, wanted = entry.integer(ENTRY_SIZE), math.prod(shape) * dtype.item_size
        if size != wanted:
            raise self._error(name, f"has {size} bytes, which does not match its shape {list(shape)}")
        data = self._bytes(name, entry)
        self._check_crc(name, entry, data)
        return shaped(np.frombuffer(data, dtype.numpy), shape, f"{self.where}: {name}")

    def _check_crc(self, name: str, entry: Message, data: bytes) -> None:
        if masked_crc(data) != entry.fixed32(ENTRY_CRC):
            raise self._error(name, "is damaged: its CRC does not match")

    def _bytes(self, name: str, entry: Message) -> bytes:
        number, offset, size = entry.integer(ENTRY_SHARD), entry.integer(ENTRY_OFFSET), entry.integer(ENTRY_SIZE)
        if not 0 <= number < self._shards:
            raise self._error(name, f"is in data shard {number}, but there are {self._shards}")
        file, length, shard = self._shard(number)
        if offset < 0 or size < 0 or offset + size > length:
            raise self._error(name, f"is outside {shard}, which has {length} bytes and may be cut short")
        if size > MAX_TENSOR:
            raise self._error(name, f"has {size} bytes, expected at most {MAX_TENSOR}")
        file.seek(offset)
        data = file.read(size)
        if len(data) != size:
            raise self._error(name, f"was cut off: {shard} was truncated while it was being read")
        return data

    def _shard(self, number: int) -> tuple[InputFile, int, str]:
        found = self._files.get(number)
        if found is None:
            if not self.where.endswith(".index"):
                raise FormatError("give the path of the file on disk: the names of the data files are derived from its own, NAME.index",
                                  where=self.where)
            place = self._place.sibling(f"{self.where[:-6]}.data-{number:05}-of-{self._shards:05}")
            if not place.is_file():
                raise FormatError(f"the data file {place.name} is missing", where=self.where,
                                  hint="a checkpoint consists of its .index file and all of its .data files")
            if len(self._files) >= MAX_OPEN:
                self._files.pop(next(iter(self._files)))[0].close()
            found = self._files[number] = (place.open(), place.size(), place.name)
        return found


class TensorSlices(Checkpoint):
    """An open V1 checkpoint: tables that hold SavedTensorSlices, the first of each the list of its tensors."""

    def _check_header(self, header: Message) -> None:
        self._tensors: dict[str, tuple[int, tuple[int, ...], list[tuple[Extents, Table]]]] = {}
        self._add(header, self._table)
        for place in self._other_shards():
            table = self._stack.enter_context(Table(place))
            self._add(Message(table.get(b"") or b"", place.name), table)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        return sorted(self._tensors)

    def info(self, name: str) -> TensorInfo:
        number, shape, _ = self._tensor(name)
        return TensorInfo(dtype_of(number).name, shape)

    def typed(self, name: str) -> tuple[NDArray[Any], str]:
        number, shape, slices = self._tensor(name)
        dtype = self._float_type(name, number)
        pieces = (self._piece(name, dtype, shape, *stored) for stored in slices)
        return dtype.widened(self._join(name, shape, dtype, pieces)), dtype.name

    def _piece(self, name: str, dtype: DType, shape: tuple[int, ...], extents: Extents, table: Table) -> tuple[Extents, NDArray[Any]]:
        value = table.get(slice_key(name, extents))
        if value is None:
            raise self._error(name, "lacks a slice that the checkpoint lists")
        data = Message(value, f"{table.where}: {name}").message(V1_DATA)
        if data.text(DATA_NAME) != name or _extents(data.message(DATA_SLICE)) != extents:
            raise self._error(name, "is stored under the key of another tensor")
        tensor = data.message(DATA_TENSOR)
        if dtype.field != HALF_VAL:
            values = np.frombuffer(tensor.packed(dtype.field, dtype.item_size), dtype.numpy)
        else:
            bits = tensor.unsigneds(HALF_VAL)
            if any(value >> 16 for value in bits):
                raise self._error(name, "has 16-bit numbers that do not fit 16 bits")
            values = np.array(bits, "<u2").view(dtype.numpy)
        size = [length for _, length in self._checked(name, extents, shape)]
        if len(values) != math.prod(size):
            raise self._error(name, f"has {len(values)} numbers, expected {math.prod(size)} for its shape")
        return extents, shaped(values, size, f"{table.where}: {name}")

    def _tensor(self, name: str) -> tuple[int, tuple[int, ...], list[tuple[Extents, Table]]]:
        if name not in self._tensors:
            raise self._error(name, "is missing from the checkpoint")
        return self._tensors[name]

    def _add(self, header: Message, table: Table) -> None:
        for tensor in header.message(V1_META).messages(META_TENSORS):
            name = tensor.text(META_NAME)
            found = tensor.integer(META_TYPE), self._shape(name, tensor.message(META_SHAPE))
            number, shape, slices = self._tensors.setdefault(name, (*found, []))
            if (number, shape) != found:
                raise self._error(name, "has another type or shape in another shard")
            slices += [(_extents(extents), table) for extents in tensor.messages(META_SLICES)]

    def _other_shards(self) -> list[Place]:
        match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})", self.where, re.DOTALL)
        if not match:
            return []
        stem, own, count = match[1], int(match[2]), int(match[3])
        if not own < count <= MAX_SHARDS:
            raise FormatError(f"expected at most {MAX_SHARDS} shards, got shard {own} of {count}", where=self.where)
        others = [self._place.sibling(f"{stem}-{number:05}-of-{count:05}") for number in range(count) if number != own]
        missing = next((place.name for place in others if not place.is_file()), None)
        if missing:
            raise FormatError(f"the shard {missing} is missing", where=self.where)
        return others


def _extents(message: Message) -> Extents:
    return tuple((extent.integer(EXTENT_START), extent.integer(EXTENT_LENGTH) if EXTENT_LENGTH in extent else WHOLE_DIMENSION)
                 for extent in message.messages(SLICE_EXTENTS))


def _lengths(extents: Extents, shape: Sequence[int]) -> Extents:
    """The extents with every length filled in; they must be inside `shape`."""
    if len(extents) != len(shape):
        raise FormatError("has a slice of another rank")
    spans = tuple((start, full if length == WHOLE_DIMENSION else length) for (start, length), full in zip(extents, shape, strict=True))
    if any(start < 0 or length < 0 or start + length > full for (start, length), full in zip(spans, shape, strict=True)):
        raise FormatError("has a slice outside its shape")
    return spans


def slice_key(name: str, extents: Extents) -> bytes:
    """The key of a slice (EncodeTensorNameSlice in saved_tensor_slice_util.cc), in an order-preserving code."""
    text = name.encode().replace(b"\0", b"\0\xff")  # 0xff is escaped as well, but UTF-8 has none
    numbers = b"".join(_signed(start) + _signed(length) for start, length in extents)
    return _unsigned(0) + text + b"\0\1" + _unsigned(len(extents)) + numbers


def _unsigned(value: int) -> bytes:
    """WriteNumIncreasing of tsl/lib/strings/ordered_code.cc: the count of the bytes, then the bytes."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed(value: int) -> bytes:
    """WriteSignedNumIncreasing: n bytes hold 7 n - 1 bits; a header of n ones (inverted for negative numbers) tells n."""
    magnitude = ~value if value < 0 else value
    size = magnitude.bit_length() // 7 + 1
    header = ((1 << size) - 1) << 7 * size
    return ((value & (1 << 8 * size) - 1) ^ header).to_bytes(size, "big")

"""The element types of TensorFlow (tensorflow/core/framework/types.proto), for checkpoints and graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from exporter.formats.arrays import widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["float", "integer", "boolean", "other"]


class DType(NamedTuple):
    """One element type.

    number: in types.proto. name: in NumPy or TensorFlow. kind: of its elements; only "other" cannot be read.
    numpy:  the NumPy type of the stored bytes, which are little-endian; bfloat16 is stored as its 16 bits.
    field:  of TensorProto (tensor.proto), which contains the values one by one.
    """

    number: int
    name: str
    kind: Kind = "other"
    numpy: str = ""
    field: int = 0

    @property
    def item_size(self) -> int:
        """Bytes of one element, as stored."""
        return np.dtype(self.numpy).itemsize

    def widened(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The numbers of an array of the type `numpy`: bfloat16, the upper half of a float32, as float32."""
        return widen(stored) if self.name == "bfloat16" else stored


FLOAT_VAL, DOUBLE_VAL, INT_VAL, STRING_VAL, INT64_VAL, BOOL_VAL, HALF_VAL, UINT32_VAL, UINT64_VAL = 5, 6, 7, 8, 10, 11, 13, 16, 17
VALUE_FIELDS = frozenset((FLOAT_VAL, DOUBLE_VAL, INT_VAL, STRING_VAL, INT64_VAL, BOOL_VAL, HALF_VAL, UINT32_VAL, UINT64_VAL))

TYPES = {dtype.number: dtype for dtype in (
    DType(1, "float32", "float", "<f4", FLOAT_VAL),
    DType(2, "float64", "float", "<f8", DOUBLE_VAL),
    DType(3, "int32", "integer", "<i4", INT_VAL),
    DType(4, "uint8", "integer", "|u1", INT_VAL),
    DType(5, "int16", "integer", "<i2", INT_VAL),
    DType(6, "int8", "integer", "|i1", INT_VAL),
    DType(7, "string"),
    DType(8, "complex64"),
    DType(9, "int64", "integer", "<i8", INT64_VAL),
    DType(10, "bool", "boolean", "|b1", BOOL_VAL),
    DType(11, "qint8"), DType(12, "quint8"), DType(13, "qint32"),
    DType(14, "bfloat16", "float", "<u2", HALF_VAL),
    DType(15, "qint16"), DType(16, "quint16"),
    DType(17, "uint16", "integer", "<u2", INT_VAL),
    DType(18, "complex128"),
    DType(19, "float16", "float", "<f2", HALF_VAL),
    DType(20, "resource"), DType(21, "variant"),
    DType(22, "uint32", "integer", "<u4", UINT32_VAL),
    DType(23, "uint64", "integer", "<u8", UINT64_VAL),
)}


def dtype_of(number: int) -> DType:
    """The type of this number; one that is not known is of kind "other"."""
    return TYPES.get(number) or DType(number, f"number {number}, which is unknown")

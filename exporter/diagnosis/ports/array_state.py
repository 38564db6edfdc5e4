"""States in .npz (numpy.savez), .safetensors and flax's own msgpack (flax.serialization.to_bytes)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.document import FORMAT
from exporter.batchnorm.stored import STATISTICS
from exporter.diagnosis.ports.port import Port
from exporter.diagnosis.ports.state import gather, parted, port_of
from exporter.errors import FormatError, UnsupportedError, printable
from exporter.formats.arrays import shaped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.files.place import Place

MAX_BYTES = 4 << 30  # bytes of a file; of an .npz, only arrays that may belong to a batch norm are read
MAX_HEAD = 64  # bytes that tell what a file is


def claims(place: Place) -> bool:
    """An .npz with named statistics or a safetensors file, neither of them one of our bundles; or a msgpack map with arrays."""
    from exporter.formats.msgpack import is_map
    from exporter.formats.safetensors import header_size

    head = place.head(MAX_HEAD)
    if head.startswith(b"PK\3\4"):
        from exporter.formats.zip_archive import names_in

        names = names_in(place) or []  # of a damaged one, a source reports what is wrong with it
        return f"{FORMAT}.npy" not in names and any(parted(name.removesuffix(".npy"))[1] in STATISTICS for name in names)
    size = header_size(head)
    if size is not None:
        return json.dumps(FORMAT).encode() not in place.head(8 + size)
    return is_map(head)


def read(place: Place) -> Port:
    """The batch norms of a state. Raises: FormatError, UnsupportedError."""
    head = place.head(MAX_HEAD)
    if head.startswith(b"PK"):
        return port_of(npz_arrays(place), place.name)
    if head[8:9] == b"{":
        return _safetensors(place)
    from exporter.formats.msgpack import parse

    arrays: dict[str, NDArray[Any]] = {}
    gather(parse(place.read(MAX_BYTES), place.name), "", arrays, lambda value: value if isinstance(value, np.ndarray) else None)
    return port_of(arrays, place.name)


def npz_arrays(place: Place) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz that may belong to a batch norm by name; a dictionary that numpy.savez pickled is refused."""
    from exporter.formats.zip_archive import Archive

    with place.open() as file:
        archive = Archive(file)
        names = [member.name.removesuffix(".npy") for member in archive.members]
        return {name: _npy(archive.read(f"{name}.npy", MAX_BYTES), f"{place.name}: {printable(name, 80)}") for name in names
                if parted(name)[1] is not None or ("/" not in name and "." not in name)}


def _npy(data: bytes, where: str) -> NDArray[Any]:
    """Any array of numbers that numpy.save writes; an array of objects is a pickle, which is never loaded."""
    import io

    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except ValueError as error:
        raise FormatError(f"this is not a .npy array: {printable(str(error), 120)}", where=where) from None
    if dtype.hasobject:
        raise UnsupportedError("an array of objects is a pickle, which is never loaded", where=where,
                               hint="save the arrays themselves under names of their own: np.savez(file, **arrays)")
    left, wanted = len(data) - file.tell(), math.prod(shape) * dtype.itemsize
    if left != wanted:
        raise FormatError(f"expected {wanted} bytes of numbers for shape {list(shape)}, got {left}", where=where)
    values = shaped(np.frombuffer(data, dtype, offset=file.tell()), shape, where, "F" if fortran else "C")
    return values.astype(dtype.newbyteorder("=")) if dtype.kind in "fiu" else values


def _safetensors(place: Place) -> Port:
    from exporter.formats.safetensors import ARRAYS, parse

    metadata, tensors = parse(place.read(MAX_BYTES))
    arrays = {name: tensor.array(f"tensor {printable(name, 80)!r}") for name, tensor in tensors.items()
              if tensor.dtype in ARRAYS}  # others are of a type that no batch norm has, e.g. a quantized kernel
    port = port_of(arrays, place.name, _epsilons(metadata))
    return _with_bfloat16(port, {name for name, tensor in tensors.items() if tensor.dtype == "BF16"})


def _epsilons(metadata: dict[str, str]) -> dict[str, float]:
    """`<path>.eps` of the metadata, which bn-export writes with --names torch."""
    found = {}
    for key, value in metadata.items():
        path, _, last = key.rpartition(".")
        if last == "eps":
            try:
                found[path] = float(value)
            except ValueError:
                raise FormatError(f"expected a number for {printable(key, 80)!r} of the metadata, got {printable(value, 40)!r}") from None
    return found


def _with_bfloat16(port: Port, which: set[str]) -> Port:
    import dataclasses

    layers = tuple(dataclasses.replace(layer, dtype="bfloat16") if which & set(layer.called.values()) else layer for layer in port.layers)
    return dataclasses.replace(port, layers=layers)

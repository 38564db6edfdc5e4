"""Our own bundles in the forms other than .json, read back: .npz, .safetensors, and the kit as .zip or as a folder (docs/targets.md).

In the first two, the document of docs/format.md contains the name of each parameter's array. The arrays are inserted into the document,
and then everything that docs/format.md requires of a reader is checked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.document import FORMAT, MAX_BYTES, MAX_VALUES, from_document
from exporter.batchnorm.dtypes import HELD_IN
from exporter.batchnorm.gate import MAX_NUMBERS, check_numbers
from exporter.batchnorm.layer import PARAMETERS
from exporter.errors import BundleError, printable
from exporter.files.place import MAX_HEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from exporter.batchnorm.bundle import ReadBack
    from exporter.files.place import Place
    from exporter.formats.zip_archive import Archive
    from exporter.sources.shared.options import ReadOptions

NAME = "bundle-arrays"
OPTIONS: tuple[str, ...] = ()
KIT = "bundle.json"
NPZ = f"{FORMAT}.npy"
MAX_ARRAY = 8 * MAX_NUMBERS + 4096  # bytes, with its header


def claims(place: Place) -> bool:
    """A folder or zip archive with bundle.json, an .npz or a safetensors file with the array or the metadata "bn-bundle"."""
    if place.is_folder():
        return json.dumps(FORMAT).encode() in place.child(KIT).head(MAX_HEAD)
    head = place.head(9)
    if head.startswith(b"PK"):
        from exporter.formats.zip_archive import names_in

        return not {KIT, NPZ}.isdisjoint(names_in(place) or ())  # of a damaged one, another source reports what is wrong with it
    from exporter.formats.safetensors import header_size

    size = header_size(head)
    return size is not None and json.dumps(FORMAT).encode() in place.head(8 + size)


def read(place: Place, options: ReadOptions) -> ReadBack:
    """The bundle in `place`. Raises BundleError if it violates docs/format.md, FormatError if the file is damaged."""
    if place.is_folder():
        return from_document(_parsed(place.child(KIT).read(MAX_BYTES)))
    if place.head(2) == b"PK":
        from exporter.formats.zip_archive import Archive

        with place.open() as file:
            return _read_archive(Archive(file))
    return _read_safetensors(place.read(MAX_BYTES))


def _parsed(data: bytes) -> Any:
    from exporter.formats.strict_json import parse_json

    return parse_json(data, "the bundle", limit=MAX_BYTES, most=MAX_VALUES)


def _read_archive(archive: Archive) -> ReadBack:
    if KIT in archive:
        return from_document(_parsed(archive.read(KIT, MAX_BYTES)))
    from exporter.formats import npy

    def array(name: str, limit: int = MAX_ARRAY) -> NDArray[Any]:
        return npy.parse(archive.read(f"{name}.npy", limit), printable(name, 80))

    def parameter(name: str, dtype: str) -> NDArray[Any]:
        values = array(name)
        if values.dtype != HELD_IN[dtype]:
            raise BundleError(f"expected an array of {dtype} values, got {values.dtype}", where=f"array {printable(name, 80)!r}")
        return values

    document = _parsed(array(FORMAT, MAX_BYTES).tobytes())
    named = [layer.get("moving_mean") for layer in document.get("layers", ())] if isinstance(document, dict) else []
    bundle = _joined(document, parameter)
    for layer, name in zip(bundle, named):
        epsilon = f"{str(name).removesuffix('/moving_mean')}/epsilon"
        if f"{epsilon}.npy" in archive and array(epsilon).tolist() != layer.epsilon:
            raise BundleError(f"the array contains {array(epsilon)}, the document {layer.epsilon}",
                              where=f"array {printable(epsilon, 80)!r}")
    return bundle


def _read_safetensors(data: bytes) -> ReadBack:
    from exporter.formats.safetensors import FLOATS, parse

    metadata, tensors = parse(data)
    if FORMAT not in metadata:
        raise BundleError("the safetensors metadata has no \"bn-bundle\"")

    def parameter(name: str, dtype: str) -> NDArray[Any]:
        if name not in tensors:
            raise BundleError(f"the tensor {printable(name, 80)!r}, which the document refers to, is missing")
        tensor, where = tensors[name], f"tensor {printable(name, 80)!r}"
        if tensor.dtype != FLOATS[dtype]:
            raise BundleError(f"expected a tensor of {dtype} values, got type {tensor.dtype}", where=where)
        return tensor.array(where)

    return _joined(_parsed(metadata[FORMAT].encode()), parameter)


def _joined(document: Any, parameter: Callable[[str, str], NDArray[Any]]) -> ReadBack:
    """The bundle of a document whose parameters are names: `parameter` returns the array for a name and the layer's dtype."""
    layers = document.get("layers") if isinstance(document, dict) else None
    count = 0
    for layer in layers if isinstance(layers, list) else ():
        dtype = layer.get("dtype") if isinstance(layer, dict) else None
        if not isinstance(dtype, str) or dtype not in HELD_IN:
            continue  # from_document reports what is wrong with it
        for key in PARAMETERS:
            name = layer.get(key)
            if isinstance(name, str):
                layer[key] = _flat(parameter(name, dtype), layer, name)
                count += layer[key].size
                check_numbers(count)  # before more is read: many layers may refer to one array
    return from_document(document)


def _flat(values: NDArray[Any], layer: dict[str, Any], name: str) -> NDArray[np.float64]:
    if list(values.shape) != layer.get("shape"):
        raise BundleError(f"expected the layer's shape {printable(repr(layer.get('shape')), 60)}, got {list(values.shape)}",
                          where=f"array {printable(name, 80)!r}")
    return values.astype(np.float64).reshape(-1)

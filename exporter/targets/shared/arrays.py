"""A bundle as named arrays, and its document, in which the value of each parameter is the name of its array."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from exporter.batchnorm import schema
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.document import document, portable

if TYPE_CHECKING:
    from numpy.typing import NDArray


def split(bundle: Bundle, with_vectors: bool, named: Callable[[str, str], str]) -> tuple[bytes, dict[str, tuple[str, NDArray[Any]]]]:
    """(document as JSON, {array's name: (layer's dtype, values)}), each array of its layer's shape and HELD_IN type.

    named: gives an array's name from the layer's path and the parameter's name.
    """
    import orjson

    content = document(bundle, with_vectors=with_vectors)
    schema.validate(content)
    arrays: dict[str, tuple[str, NDArray[Any]]] = {}
    for layer, entry in zip(bundle, content["layers"]):
        for name, values in layer.parameters().items():
            entry[name] = named(layer.path, name)
            arrays[entry[name]] = (layer.dtype, values)
        if with_vectors:
            entry["vectors"] = portable(entry["vectors"])
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), arrays

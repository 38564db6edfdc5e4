"""The bundle itself, as JSON: docs/format.md is the specification, schemas/bundle-1.schema.json the schema."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from exporter.batchnorm import schema
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.document import frame, layer_entry, portable
from exporter.batchnorm.layer import BatchNorm
from exporter.errors import ExporterError

if TYPE_CHECKING:
    from exporter.targets.shared.options import WriteOptions

NAME = "bundle"
OPTIONS = frozenset({"vectors"})


class JsonWriter:
    """Makes the text of each layer as soon as it is known; it is joined once, at the end: the text is several times the size of the
    parameters."""

    def __init__(self, options: WriteOptions) -> None:
        self._options = options
        self._made: dict[int, tuple[BatchNorm, list[bytes]]] = {}  # by id: thousands may have one path, and so one hash

    def layer(self, layer: BatchNorm) -> None:
        """Makes the text of a layer."""
        with np.errstate(all="ignore"), contextlib.suppress(ExporterError):
            self._made[id(layer)] = layer, _entry(layer, self._options)

    def end(self, bundle: Bundle) -> bytes:
        """The document, validated against the schema, one key a line."""
        content = frame(bundle)
        schema.validate(content)
        parts: list[bytes] = []
        for key, value in content.items():
            parts += (b",\n  " if parts else b"{\n  ", _text(key), b": ")
            if key == "layers" and bundle.layers:
                for place, layer in enumerate(bundle.layers):
                    parts.append(b",\n    {" if place else b"[\n    {")
                    parts += self._made[id(layer)][1] if id(layer) in self._made else _entry(layer, self._options)
                    parts.append(b"\n    }")
                parts.append(b"\n  ]")
            else:
                parts.append(_text(value))
        parts.append(b"\n}\n")
        return b"".join(parts)


writer = JsonWriter


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The document, as JsonWriter makes it."""
    return JsonWriter(options).end(bundle)


def _entry(layer: BatchNorm, options: WriteOptions) -> list[bytes]:
    """The text of a layer, between its braces, in pieces: joined once, at the end, for they are many or large."""
    content = layer_entry(layer, options.vectors)
    schema.validate_layer(content)
    return [_before(field, bool(place)) + _text(portable(held)) for place, (field, held) in enumerate(content.items())]


@functools.cache
def _before(field: str, is_next: bool) -> bytes:
    """What stands before the value of a field."""
    return (b",\n      " if is_next else b"\n      ") + _text(field) + b": "


def _text(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)

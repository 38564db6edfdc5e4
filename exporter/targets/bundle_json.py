"""The bundle itself, as JSON: docs/format.md is the specification, schemas/bundle-1.schema.json the schema."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from exporter.batchnorm import alike, schema, schema_checks, vectors
from exporter.batchnorm.bundle import Bundle, Digest
from exporter.batchnorm.document import calls_entry, frame, layer_entry, portable
from exporter.batchnorm.layer import BatchNorm
from exporter.errors import ExporterError

if TYPE_CHECKING:
    from exporter.targets.shared.options import WriteOptions

NAME = "bundle"
MARK = rb'\{\s*"format": "bn-bundle"'
OPTIONS = frozenset({"vectors"})

OWN = frozenset({"name", "path", "inputs", "outputs", "calls"})  # fields in which layers that are alike differ, beside their numbers
LARGE = 1 << 16  # channels of a layer whose text is not made in advance, because it is many times as large as the parameters


class JsonWriter:
    """Makes the text of each layer as soon as it is known, except for large ones."""

    def __init__(self, options: WriteOptions) -> None:
        self._options = options
        self._made: dict[int, tuple[BatchNorm, bytes]] = {}  # by id: thousands may have the same path, and so the same hash

    def layers(self, layers: Sequence[BatchNorm]) -> None:
        """Makes the text of layers, and the digest as far as they are the bundle's."""
        self._digest.add(layers)
        self._make(layers)

    @functools.cached_property
    def _digest(self) -> Digest:
        return Digest()

    def _make(self, layers: Sequence[BatchNorm]) -> None:
        for run in alike.runs(layers):
            if run[0].channels <= LARGE:
                with contextlib.suppress(ExporterError):
                    self._made |= {id(layer): (layer, text) for layer, text in zip(run, _entries_of_run(run, self._options))}

    def end(self, bundle: Bundle) -> Iterator[bytes]:
        """The document in pieces, validated against the schema, one key per line."""
        content = frame(bundle, self._digest.of(bundle.layers))
        schema.validate(content)
        for number, (key, value) in enumerate(content.items()):
            yield (b",\n  " if number else b"{\n  ") + _text(key) + b": "
            if key == "layers" and bundle.layers:
                yield from self._layers(bundle)
            else:
                yield _text(value)
        yield b"\n}\n"

    def _layers(self, bundle: Bundle) -> Iterator[bytes]:
        for place, layer in enumerate(bundle.layers):
            before, after = b",\n    {" if place else b"[\n    {", b"\n    }"
            if id(layer) not in self._made and layer.channels <= LARGE:
                self._make([other for other in bundle.layers[place: place + alike.MAX_LAYERS] if id(other) not in self._made])
            if id(layer) in self._made:
                yield before + self._made.pop(id(layer))[1] + after
            else:
                yield before
                yield from _entry(layer, self._options)
                yield after
        yield b"\n  ]"


writer = JsonWriter


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The document, as JsonWriter makes it."""
    return b"".join(JsonWriter(options).end(bundle))


def _entry(layer: BatchNorm, options: WriteOptions) -> Iterator[bytes]:
    """The text of a layer, between its braces, in pieces if it is large."""
    if layer.channels <= LARGE:
        yield _entry_at_once(layer, options)
        return
    for place, (field, held) in enumerate(_content(layer, options).items()):
        yield _before(field)[not place:]
        yield from _texts(portable(held))


def _entry_at_once(layer: BatchNorm, options: WriteOptions) -> bytes:
    parts: list[bytes] = []
    for field, held in _content(layer, options).items():
        kept = portable(held) if type(held) in (np.ndarray, dict) else held
        parts += _before(field), orjson.dumps(kept, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join(parts)[1:]


def _entries_of_run(run: Sequence[BatchNorm], options: WriteOptions) -> Iterator[bytes]:
    """`_entry_at_once` of each of the layers, which are alike: the texts of the others are made like that of the first."""
    if len(run) == 1:
        yield _entry_at_once(run[0], options)
        return
    parameters = alike.stacked(run)
    rows = np.concatenate([parameters, *(vectors.of_run(run, parameters) if options.vectors else ())], axis=1)
    each, count = rows.shape[1], parameters.shape[1]
    held = portable(rows)
    texts = _text(held.reshape(len(run) * each, -1))[2:-2].split(b"],[")
    template = _template(_content(run[0], options), each - count)
    are_fine = schema_checks.are_numbers(rows) and held.dtype == np.result_type(rows, np.float32)  # else some need more digits
    for start, layer in zip(range(0, len(texts), each), run):
        own = {"name": layer.name, "path": layer.path, **calls_entry(layer)}
        if not (are_fine and schema.accepts(own)):
            yield _entry_at_once(layer, options)
            continue
        name, path, *calls = map(orjson.dumps, own.values())
        numbers = texts[start: start + each]
        yield template % (name, path, *numbers[:count], *calls, *numbers[count:])


def _template(content: dict[str, Any], rows: int) -> bytes:
    """The text of a layer, with %b for its name, its numbers and its calls. rows: of its vectors, half of them inputs."""
    half = b",".join([b"[%b]"] * (rows // 2))
    parts: list[bytes] = []
    for field, held in content.items():
        if field == "vectors":
            text = b'{"input":[' + half + b'],"output":[' + half + b"]}"
        elif type(held) is np.ndarray:
            text = b"[%b]"
        else:
            text = b"%b" if field in OWN else orjson.dumps(held).replace(b"%", b"%%")
        parts += _before(field), text
    return b"".join(parts)[1:]


def _content(layer: BatchNorm, options: WriteOptions) -> dict[str, Any]:
    content = layer_entry(layer, options.vectors)
    schema.validate_layer(content)
    return content


@functools.cache
def _before(field: str) -> bytes:
    """The text before the value of a field, of which the first leaves out the comma."""
    return b",\n      " + _text(field) + b": "


def _texts(value: Any) -> Iterator[bytes]:
    """`_text` in pieces of some of the numbers of an array."""
    if isinstance(value, dict):
        for place, (key, held) in enumerate(value.items()):
            yield (b"," if place else b"{") + _text(key) + b":"
            yield from _texts(held)
        yield b"}"
    elif isinstance(value, np.ndarray):
        is_flat = value.ndim == 1
        for start in range(0, len(value), LARGE if is_flat else 1):
            yield b"," if start else b"["
            yield from (_text(value[start: start + LARGE])[1:-1],) if is_flat else _texts(value[start])
        yield b"]"
    else:
        yield _text(value)


def _text(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)

"""Strict JSON (RFC 8259): the only parser for JSON from an input."""

from __future__ import annotations

import re
from typing import Any

import orjson

from exporter.errors import FormatError, printable

MAX_BYTES = 64 << 20
MAX_DEPTH = 200  # levels, as in docs/format.md
MAX_WRITTEN_DEPTH = 254  # levels that orjson writes
MAX_NUMBER_LENGTH = 400

_LONG_NUMBER = re.compile(rb"[-+.0-9eE]{%d}" % (MAX_NUMBER_LENGTH + 1))
_NUMERIC = re.compile(rb"[-+.0-9eE]{8}")


def parse_json(text: str | bytes, where: str, limit: int = MAX_BYTES, most: int = MAX_BYTES) -> Any:
    """The value of one JSON document: dict, list, str, int, float, bool or None.

    UTF-8 without a byte order mark, one document, at most `limit` bytes and about `most` values, 200 levels, numbers of 400
    characters that fit a double, no NaN or Infinity, no key twice in one object. Integers over 64 bits come as float.

    Raises: FormatError, naming `where`.
    """
    try:
        data = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise FormatError("the JSON is not UTF-8", where=where) from None
    if len(data) > limit:
        raise FormatError(f"expected at most {limit} bytes of JSON, got {len(data)}", where=where)
    if len(data) > most and data.count(b",") > most:  # a value takes many times the memory of its two characters
        raise FormatError(f"expected at most {most} values in the JSON, got {data.count(b',')} commas", where=where)
    if _holds_long_number(data):
        raise FormatError(f"expected numbers of at most {MAX_NUMBER_LENGTH} characters in the JSON, got a longer one", where=where)
    try:
        value = orjson.loads(data)  # its own limit of 1024 levels prevents a stack overflow
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("depth limit"):
            raise _too_deep(where) from None
        raise FormatError(f"this is not strict JSON: {error}", where=where) from None
    try:
        strings = _quotes(orjson.dumps(_buried(value, MAX_WRITTEN_DEPTH - MAX_DEPTH)))
    except orjson.JSONEncodeError:  # nothing else from `loads` can fail to be written
        raise _too_deep(where) from None
    if strings != _quotes(data):  # if an object repeats a key, the first one is lost with its value
        raise FormatError(f"the key {_repeated_key(data)} occurs more than once in one JSON object", where=where,
                          hint="Keras never writes a key twice, and it is unknown which of the two is valid")
    return value


def _buried(value: Any, levels: int) -> Any:
    """`value` inside so many lists that the remaining levels that orjson writes are exactly the allowed ones."""
    for _ in range(levels):
        value = [value]
    return value


def _holds_long_number(data: bytes) -> bool:
    """Whether a number has more than MAX_NUMBER_LENGTH characters; eight consecutive digits in every fiftieth character show that one may
    exist."""
    return _NUMERIC.search(data[::MAX_NUMBER_LENGTH // 8]) is not None and _LONG_NUMBER.search(_without_strings(data)) is not None


def _quotes(data: bytes) -> int:
    """The quotation marks that begin or end a string."""
    return _unescaped(data).count(b'"')


def _without_strings(data: bytes) -> bytes:
    """`data` without the contents of its strings."""
    return b"".join(_unescaped(data).split(b'"')[::2])


def _unescaped(data: bytes) -> bytes:
    """`data` with no quotation mark inside a string; exact for valid JSON, in which backslashes occur only in strings."""
    return data.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in data else data


def _too_deep(where: str) -> FormatError:
    return FormatError(f"expected JSON nested at most {MAX_DEPTH} levels deep, got more", where=where)


def _repeated_key(data: bytes) -> str:
    """The first key that an object of this document repeats; only for the message, hence slow."""
    import json

    found: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                found.append(key)
            seen.add(key)

    json.loads(data, object_pairs_hook=note)
    return repr(printable(found[0], 80))

"""Strict JSON (RFC 8259): the one door for all JSON that comes from an input."""

from __future__ import annotations

import re
from typing import Any

import orjson

from exporter.errors import FormatError, printable

MOST_BYTES = 64 << 20
DEEPEST = 200
LONGEST_NUMBER = 400

_LONG_NUMBER = re.compile(rb"[-+.0-9eE]{%d}" % (LONGEST_NUMBER + 1))


def parse_json(text: str | bytes, where: str, limit: int = MOST_BYTES) -> Any:
    """The value of one JSON document: dict, list, str, int, float, bool or None.

    UTF-8 without a byte order mark, one document, at most `limit` bytes, 200 levels, numbers of 400 characters that fit a
    double, no NaN or Infinity, no key twice in one object. Integers over 64 bits come as float.

    Raises: FormatError, naming `where`.
    """
    try:
        data = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise FormatError("the JSON is not UTF-8", where=where) from None
    if len(data) > limit:
        raise FormatError(f"{len(data)} bytes of JSON is over the limit of {limit}", where=where)
    skeleton = _without_strings(data)
    if _LONG_NUMBER.search(skeleton):
        raise FormatError(f"the JSON holds a number of over {LONGEST_NUMBER} characters", where=where)
    try:
        value = orjson.loads(data)  # its own limit of 1024 levels keeps it from running out of stack
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("depth limit"):
            raise _too_deep(where) from None
        raise FormatError(f"this is not strict JSON: {error}", where=where) from None
    if _count_keys(value, where) != skeleton.count(b":"):
        raise FormatError(f"the key {_repeated_key(data)} occurs twice in one JSON object", where=where,
                          hint="nothing that Keras writes holds a key twice; which of the two is meant cannot be known")
    return value


def _without_strings(data: bytes) -> bytes:
    """`data` without its strings' contents; exact for valid JSON, where backslashes stand in strings only."""
    if b"\\" in data:
        data = data.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(data.split(b'"')[::2])


def _count_keys(value: Any, where: str) -> int:
    """The keys of all objects, level by level: without repeated keys as many as there are colons outside the strings."""
    count = depth = 0
    level = [value] if isinstance(value, (dict, list)) else []
    while level:
        depth += 1
        if depth > DEEPEST:
            raise _too_deep(where)
        objects = [item for item in level if type(item) is dict]
        count += sum(map(len, objects))
        level = [child for item in level for child in (item.values() if type(item) is dict else item) if type(child) in (dict, list)]
    return count


def _too_deep(where: str) -> FormatError:
    return FormatError(f"the JSON is nested deeper than {DEEPEST} levels", where=where)


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

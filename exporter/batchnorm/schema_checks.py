"""A JSON schema as functions that accept valid documents without `jsonschema`, whose import alone takes longer than reading a model.

The schema remains the authority. A check returns True only if `jsonschema` would accept; otherwise (an unknown keyword, a
Python type that is not JSON) `jsonschema` decides and words the error. Arrays of numbers may be NumPy arrays, whose dtype
and finiteness are checked instead of each number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from exporter.batchnorm.dtypes import all_finite

Check = Callable[[Any], bool]
SAYS_NOTHING = frozenset(("title", "description", "$schema", "$id", "$defs"))
TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "boolean": (bool,), "integer": (int,), "number": (int, float),
                                      "null": (type(None),), "array": (list, np.ndarray), "object": (dict,)}
NUMBERS = (int, float)
MAX_FORMS = 1000  # of objects, of which it is remembered that they are valid


def compiled(schema: dict[str, Any], root: dict[str, Any]) -> Check:
    """A function that returns True only for values that fit `schema`, which is part of `root`."""
    own = {keyword: content for keyword, content in schema.items() if keyword not in SAYS_NOTHING}
    if set(own) == {"$ref"}:
        return compiled(root["$defs"][own["$ref"].removeprefix("#/$defs/")], root)
    if not own.keys() <= KEYWORDS.keys():
        return lambda value: False
    checks = [KEYWORDS[keyword](content, root) for keyword, content in own.items()]
    together = _by_types(_all(checks)) if _has_only_types(own) else _all(checks)
    rank = rank_of_numbers({**own, "type": "array"}) - 1 if "array" in _types(own.get("type", ())) else 0
    return _numbers(rank, together) if rank > 0 else together


def _all(checks: list[Check]) -> Check:
    """A check that all of `checks` pass; a chain of pairs would take one more call for each."""
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:
        first, second = checks
        return lambda value: first(value) and second(value)

    def each(value: Any) -> bool:
        for check in checks:  # noqa: SIM110  # all() of a generator takes twice as long
            if not check(value):
                return False
        return True

    return each


def _has_only_types(own: dict[str, Any]) -> bool:
    """Whether a schema is of an object of which it says nothing but which keys it has and of which type their values are."""
    is_object = own.keys() == {"type", "required", "properties"}
    return is_object and all(held.keys() <= {"type", *SAYS_NOTHING} for held in own["properties"].values())


def _by_types(otherwise: Check) -> Check:
    """A check that looks once at objects of the same keys and types of values."""
    accepted: set[tuple[object, ...]] = set()

    def check(value: Any) -> bool:
        if type(value) is not dict:
            return otherwise(value)
        form = (*value, *map(type, value.values()))
        if form not in accepted:
            if not otherwise(value):
                return False
            if len(accepted) < MAX_FORMS:
                accepted.add(form)
        return True

    return check


def _numbers(rank: int, otherwise: Check) -> Check:
    """An array of numbers of this rank, which nearly always is one of NumPy's, at one look."""
    return lambda value: _is_of_numbers(value, rank) if type(value) is np.ndarray else otherwise(value)


def _is_of_numbers(value: Any, rank: int) -> bool:
    return value.ndim == rank and are_numbers(value)


def are_numbers(value: Any) -> bool:
    """Whether an array has nothing but finite floating point numbers, and at least one."""
    return value.size > 0 and value.dtype.kind == "f" and all_finite(value)


def _types(names: str | Collection[str]) -> Collection[str]:
    return [names] if isinstance(names, str) else names


def _type(names: str | list[str], _: object) -> Check:
    possible = frozenset(kind for name in _types(names) for kind in TYPES[name])
    return lambda value: type(value) in possible


def _enum(values: Collection[Any], _: object) -> Check:
    known = frozenset((type(value), value) for value in values)
    return lambda value: type(value) in (str, int) and (type(value), value) in known


def _pattern(pattern: str, _: object) -> Check:
    search = re.compile(pattern).search
    return lambda value: type(value) is not str or search(value) is not None


def _minimum(least: float, _: object) -> Check:
    return lambda value: type(value) not in NUMBERS or value >= least


def _least_items(least: int, _: object) -> Check:
    return lambda value: type(value) not in TYPES["array"] or len(value) >= least


def _most_items(most: int, _: object) -> Check:
    return lambda value: type(value) not in TYPES["array"] or len(value) <= most


def _items(schema: dict[str, Any], root: dict[str, Any]) -> Check:
    check, rank = compiled(schema, root), rank_of_numbers(schema)

    def each(value: Any) -> bool:
        if type(value) is np.ndarray:
            return rank > 0 and _is_of_numbers(value, rank)
        return type(value) is not list or all(map(check, value))

    return each


def rank_of_numbers(schema: dict[str, Any]) -> int:
    """The rank of the array that `schema` describes, if it describes only numbers or arrays of them; otherwise 0."""
    if schema == {"type": "number"}:
        return 1
    if schema.get("type") == "array" and schema.keys() == {"type", "minItems", "items"} and schema["minItems"] < 2:
        below = rank_of_numbers(schema["items"])
        return below and below + 1
    return 0


def _properties(schemas: dict[str, dict[str, Any]], root: dict[str, Any]) -> Check:
    checks = {name: compiled(schema, root) for name, schema in schemas.items()}

    def each(value: Any) -> bool:
        if type(value) is dict:
            for name, held in value.items():
                if name in checks and not checks[name](held):
                    return False
        return True

    return each


def _required(names: list[str], _: object) -> Check:
    wanted = frozenset(names)
    return lambda value: type(value) is not dict or wanted <= value.keys()


KEYWORDS: dict[str, Callable[[Any, dict[str, Any]], Check]] = {
    "type": _type, "const": lambda value, root: _enum([value], root), "enum": _enum, "pattern": _pattern, "minimum": _minimum,
    "minItems": _least_items, "maxItems": _most_items, "items": _items, "properties": _properties, "required": _required}

"""Validation of a bundle's document against schemas/bundle-1.schema.json with `jsonschema`, arrays checked as NumPy arrays."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import BundleError, printable

_SAYS_NOTHING = frozenset(("title", "description"))
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", np.ndarray: "array", dict: "object",
          type(None): "null"}  # of an integer and a bool as "number" jsonschema itself decides


def path() -> Path:
    """The schema's file: inside the package where it was installed, beside it in a checkout."""
    here = Path(__file__).resolve().parents[1]
    inside = here / "schemas" / "bundle-1.schema.json"
    return inside if inside.exists() else here.parent / "schemas" / "bundle-1.schema.json"


def validate(document: dict[str, Any]) -> None:
    """Refuses (BundleError) a document that breaks the schema; numeric arrays may be lists or NumPy arrays."""
    _refuse(_validator().iter_errors(document))


def validate_layer(layer: dict[str, Any]) -> None:
    """`validate`, for one entry of "layers"."""
    _refuse(_validator().descend(layer, {"$ref": "#/$defs/layer"}))


def _refuse(errors: Iterator[Any]) -> None:
    error = next(errors, None)
    if error is not None:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path).lstrip(".")
        raise BundleError(printable(error.message, 200), where=printable(place or "the document", 120))


def prepare() -> None:
    """Imports jsonschema and reads the schema, for a program that has something to wait for."""
    _validator()


@functools.cache
def _validator() -> Any:
    import jsonschema
    from jsonschema import validators

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine("array", lambda _, value: isinstance(value, (list, np.ndarray)))
    keywords = {"items": _items(base.VALIDATORS["items"]), "properties": _properties, "type": _type(base.VALIDATORS["type"])}
    extended = validators.extend(base, keywords, type_checker=types)
    import orjson

    return extended(orjson.loads(path().read_bytes()))


def _type(plain: Any) -> Any:
    """`type`, where what Python calls the value settles it."""

    def type_(validator: Any, types: Any, instance: Any, schema: Any) -> Iterator[Any]:
        name = _TYPES.get(type(instance))
        if name is None or not (name == types or (type(types) is list and name in types)):
            yield from plain(validator, types, instance, schema)

    return type_


def _items(plain: Any) -> Any:
    """`items`, where an array of numbers is one look at its dtype and its finiteness instead of a visit to each number."""

    def items(validator: Any, schema: Any, instance: Any, parent: Any) -> Iterator[Any]:
        if not isinstance(instance, np.ndarray):
            yield from plain(validator, schema, instance, parent)
            return
        import jsonschema

        while schema.get("type") == "array" and instance.ndim > 1:
            schema, instance = schema["items"], instance.reshape(-1, *instance.shape[2:])
        if schema.get("type") != "number" or set(schema) != {"type"} or instance.ndim != 1:
            yield jsonschema.ValidationError(f"an array of shape {list(instance.shape)} does not fit")
        elif instance.dtype.kind != "f" or not np.isfinite(instance).all():
            yield jsonschema.ValidationError(f"an array of {instance.dtype} holds something that is not a finite number")

    return items


def _properties(validator: Any, properties: Any, instance: Any, parent: Any) -> Iterator[Any]:
    """`properties`, one keyword of a property after the other without jsonschema's descent, which costs ten times the checks; it descends
    where something is wrong, for the error and its place."""
    if not validator.is_type(instance, "object"):
        return
    for name, schema in properties.items():
        if name not in instance:
            continue
        value = instance[name]
        for keyword, content in schema.items():
            check = validator.VALIDATORS.get(keyword)
            if keyword not in _SAYS_NOTHING and (check is None or next(iter(check(validator, content, value, schema) or ()), None)):
                yield from validator.descend(value, schema, path=name, schema_path=name)
                break

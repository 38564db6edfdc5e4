"""Validation of a bundle's document against schemas/bundle-1.schema.json with `jsonschema`, arrays checked as NumPy arrays."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from exporter.errors import BundleError, printable


def path() -> Path:
    """The schema's file: inside the package where it was installed, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "schemas" / "bundle-1.schema.json"
    return inside if inside.exists() else here.parent / "schemas" / "bundle-1.schema.json"


def validate(document: dict[str, Any]) -> None:
    """Refuses (BundleError) a document that breaks the schema; numeric arrays may be lists or NumPy arrays.

    `jsonschema` has the say; what is plainly valid is not shown to it, which saves its import and nine tenths of the time.
    """
    if _is_plainly_valid(document):
        return
    error = next(_validator().iter_errors(document), None)
    if error is not None:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path).lstrip(".")
        raise BundleError(printable(error.message, 200), where=printable(place or "the document", 120))


def _is_plainly_valid(document: dict[str, Any]) -> bool:
    """Whether the document is valid by the letter of the few keywords that the schema uses; False: not known here."""
    return _acceptor()(document)


@functools.cache
def _acceptor() -> Callable[[Any], bool]:
    schema = orjson.loads(path().read_bytes())
    try:
        return _accepts(schema, {f"#/$defs/{name}": part for name, part in schema.get("$defs", {}).items()})
    except KeyError:  # a keyword that is not known here
        return lambda value: False


def _accepts(schema: dict[str, Any], parts: dict[str, Any]) -> Callable[[Any], bool]:
    checks = [_KEYWORDS[keyword](value, parts) for keyword, value in schema.items() if keyword not in _SAYS_NOTHING]
    return checks[0] if len(checks) == 1 else lambda value: all(check(value) for check in checks)


def _accepts_type(names: str | list[str], parts: dict[str, Any]) -> Callable[[Any], bool]:
    kinds = frozenset(kind for name in ([names] if isinstance(names, str) else names) for kind in _TYPES[name])
    return lambda value: type(value) in kinds


def _accepts_properties(properties: dict[str, Any], parts: dict[str, Any]) -> Callable[[Any], bool]:
    checks = {name: _accepts(schema, parts) for name, schema in properties.items()}
    return lambda value: type(value) is not dict or all(name not in checks or checks[name](item) for name, item in value.items())


def _accepts_items(schema: dict[str, Any], parts: dict[str, Any]) -> Callable[[Any], bool]:
    check, rank = _accepts(schema, parts), 1
    while schema.get("type") == "array":
        schema, rank = schema["items"], rank + 1
    numbers = schema.get("type") == "number" and set(schema) == {"type"}

    def accept(value: Any) -> bool:
        if type(value) is np.ndarray:
            return numbers and value.ndim == rank and value.dtype.kind == "f" and value.size > 0 and bool(np.isfinite(value).all())
        return type(value) is not list or all(map(check, value))

    return accept


def _accepts_size(least: int, parts: dict[str, Any]) -> Callable[[Any], bool]:
    def accept(value: Any) -> bool:
        if type(value) is np.ndarray:
            return value.ndim > 0 and len(value) >= least
        return type(value) is not list or len(value) >= least

    return accept


_SAYS_NOTHING = frozenset(("$schema", "$id", "$defs", "title", "description"))
_TYPES: dict[str, tuple[type, ...]] = {"object": (dict,), "array": (list, np.ndarray), "string": (str,), "integer": (int,),
                                       "number": (int, float), "null": (type(None),)}
_KEYWORDS: dict[str, Callable[[Any, dict[str, Any]], Callable[[Any], bool]]] = {
    "type": _accepts_type, "properties": _accepts_properties, "items": _accepts_items, "minItems": _accepts_size,
    "$ref": lambda name, parts: _accepts(parts[name], parts),
    "required": lambda names, parts: lambda value: type(value) is not dict or all(name in value for name in names),
    "maxItems": lambda most, parts: lambda value: type(value) is not np.ndarray and (type(value) is not list or len(value) <= most),
    "minimum": lambda least, parts: lambda value: type(value) not in (int, float) or value >= least,
    "const": lambda constant, parts: lambda value: type(value) is type(constant) and value == constant,
    "enum": lambda values, parts: lambda value: type(value) is str and value in values,
    "pattern": lambda pattern, parts: lambda value: type(value) is not str or re.search(pattern, value) is not None,
}


@functools.cache
def _validator() -> Any:
    import jsonschema
    from jsonschema import validators

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine("array", lambda _, value: isinstance(value, (list, np.ndarray)))
    extended = validators.extend(base, {"items": _items(base.VALIDATORS["items"])}, type_checker=types)
    return extended(orjson.loads(path().read_bytes()))


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

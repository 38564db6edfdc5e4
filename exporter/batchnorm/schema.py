"""Validation of a bundle's document against schemas/bundle-1.schema.json; numeric arrays may be lists or NumPy arrays."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exporter.batchnorm import schema_checks
from exporter.errors import BundleError, printable


def path() -> Path:
    """The schema's file: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parents[1]
    inside = here / "schemas" / "bundle-1.schema.json"
    return inside if inside.exists() else here.parent / "schemas" / "bundle-1.schema.json"


def validate(document: dict[str, Any]) -> None:
    """Raises BundleError for a document that violates the schema."""
    if not _checks()[0](document):
        _refuse(_validator().iter_errors(document))


def validate_layer(layer: dict[str, Any]) -> None:
    """Like `validate`, for one entry of "layers"."""
    if not _checks()[1](layer):
        _refuse(_validator().descend(layer, {"$ref": "#/$defs/layer"}))


def accepts(fields: dict[str, Any]) -> bool:
    """Whether each of these fields of an entry of "layers" is valid."""
    return _checks()[2](fields)


def _refuse(errors: Iterator[Any]) -> None:
    error = next(errors, None)
    if error is not None:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path).lstrip(".")
        raise BundleError(printable(error.message, 200), where=printable(place or "the document", 120))


def prepare() -> None:
    """Reads the schema in advance, while the program is waiting for something else."""
    _checks()


@functools.cache
def _schema() -> dict[str, Any]:
    import orjson

    found: dict[str, Any] = orjson.loads(path().read_bytes())
    return found


@functools.cache
def _checks() -> tuple[schema_checks.Check, schema_checks.Check, schema_checks.Check]:
    """Functions that return True only for a valid document, a valid entry of its layers, or valid fields of one."""
    schema = _schema()
    layer = schema["$defs"]["layer"]
    whole, entry, fields = (schema_checks.compiled(part, schema) for part in (schema, layer, {"properties": layer["properties"]}))
    return whole, entry, fields


@functools.cache
def _validator() -> Any:
    """jsonschema's validator, for everything that the functions do not accept."""
    import jsonschema
    from jsonschema import validators

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine("array", lambda _, value: isinstance(value, (list, np.ndarray)))
    return validators.extend(base, {"items": _items(base.VALIDATORS["items"])}, type_checker=types)(_schema())


def _items(plain: Any) -> Any:
    """`items`, which checks an array of numbers as a whole (dtype and finiteness) instead of number by number."""

    def items(validator: Any, schema: Any, instance: Any, parent: Any) -> Iterator[Any]:
        if not isinstance(instance, np.ndarray):
            yield from plain(validator, schema, instance, parent)
            return
        import jsonschema

        rank = schema_checks.rank_of_numbers(schema)
        if instance.ndim != rank or not instance.size:
            yield jsonschema.ValidationError(f"an array of shape {list(instance.shape)} does not fit here")
        elif instance.dtype.kind != "f" or not np.isfinite(instance).all():
            yield jsonschema.ValidationError(f"an array of {instance.dtype} contains something that is not a finite number")

    return items

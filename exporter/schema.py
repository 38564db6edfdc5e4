"""Validation of a bundle's document against schemas/bundle-1.schema.json with `jsonschema`, arrays checked as NumPy arrays."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import BundleError, printable


def path() -> Path:
    """The schema's file: inside the package where it was installed, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "schemas" / "bundle-1.schema.json"
    return inside if inside.exists() else here.parent / "schemas" / "bundle-1.schema.json"


def validate(document: dict[str, Any]) -> None:
    """Refuses (BundleError) a document that breaks the schema; numeric arrays may be lists or NumPy arrays."""
    error = next(_validator().iter_errors(document), None)
    if error is not None:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path).lstrip(".")
        raise BundleError(printable(error.message, 200), where=printable(place or "the document", 120))


@functools.cache
def _validator() -> Any:
    import jsonschema
    from jsonschema import validators

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine("array", lambda _, value: isinstance(value, (list, np.ndarray)))
    extended = validators.extend(base, {"items": _items(base.VALIDATORS["items"])}, type_checker=types)
    return extended(json.loads(path().read_text("utf-8")))


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

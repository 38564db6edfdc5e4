"""Other forms in which people hold a batch norm that came from a model: what bn-verify and bn-diagnose compare with.

None of them is a source of models: a PyTorch state says neither epsilon nor axis. Each file here reads one kind; FORMS is their order.
A reader is a module with claims(place) and read(place).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from exporter.diagnosis.ports.port import Port

if TYPE_CHECKING:
    from exporter.files.place import Place

FORMS = ("array_state", "torch_state", "onnx_graph", "csv_table", "c_header", "flat_json")


class Form(Protocol):
    """What a module of this folder provides."""

    def claims(self, place: Place) -> bool:
        """Whether the contents of `place` are of this form; a bundle of ours never is."""

    def read(self, place: Place) -> Port:
        """What it contains."""


def form_of(place: Place) -> Form | None:
    """The form of a file, or None: then it may be a model or a bundle."""
    if not place.is_file():
        return None
    modules = (cast(Form, importlib.import_module(f"exporter.diagnosis.ports.{name}")) for name in FORMS)
    return next((module for module in modules if module.claims(place)), None)


def read(place: Place) -> Port | None:
    """What a file of one of these forms holds, or None for another one. Raises: FormatError, UnsupportedError."""
    form = form_of(place)
    return None if form is None else form.read(place)

"""Other forms of a model's batch norms, with which bn-verify and bn-diagnose compare.

None of them is a source of models: a PyTorch state contains neither epsilon nor axis. Each file here reads one kind; FORMS lists them
in order. A reader is a module with claims(place) and read(place).
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
        """Its contents."""


def read(place: Place) -> Port | None:
    """The contents of a file of one of these forms; None for other files, which may be a model or a bundle.

    Raises: FormatError, UnsupportedError.
    """
    modules = (cast(Form, importlib.import_module(f"exporter.diagnosis.ports.{name}")) for name in FORMS)
    return next((module.read(place) for module in modules if module.claims(place)), None) if place.is_file() else None

"""The supported kinds of files, one module each.

A source is a module with NAME, OPTIONS, claims(place) and read(place, options); SOURCES lists them in order. To add one, write a file
and add its name to SOURCES (docs/architecture.md has the complete list).
"""

from __future__ import annotations

import importlib
from typing import Protocol

from exporter.batchnorm.bundle import ReadBack
from exporter.files.place import Place
from exporter.sources.shared.found import Found
from exporter.sources.shared.options import ReadOptions

# Tried in this order; each is imported when it is tried.
SOURCES = ("keras_h5", "bundle_arrays", "numpy_archive", "keras_archive", "keras_weights", "orbax", "saved_model", "tf_checkpoint",
           "frozen_graph", "tfjs", "bundle")

OF_FOLDERS = tuple(name for name in SOURCES if name not in ("keras_h5", "numpy_archive", "keras_weights"))  # those claim no folder


class Source(Protocol):
    """The interface of a source module."""

    NAME: str
    OPTIONS: tuple[str, ...]
    """Of what the user may say about a file's writer and config, the fields of ReadOptions that it uses: see CONDITIONAL."""

    def claims(self, place: Place) -> bool:
        """Whether this source is the one for `place`, by its first bytes (a folder: by what it contains), never by its suffix."""

    def read(self, place: Place, options: ReadOptions) -> Found | ReadBack:
        """The layers as the file stores them, or a bundle that is read back."""


def source_for(place: Place) -> Source | None:
    """The source that claims `place`, or None."""
    for name in OF_FOLDERS if place.is_folder() else SOURCES:
        source: Source = importlib.import_module(f"exporter.sources.{name}")
        if source.claims(place):
            return source
    return None

"""The kinds of file that are written, one module each.

A target is a module with NAME, SUFFIXES and write(bundle, options); TARGETS is their order. Adding one is one file and one word
in TARGETS. The suffix of the output's name chooses the target.
"""

from __future__ import annotations

import importlib
import os
from pathlib import PurePath
from typing import Protocol

from exporter.batchnorm.bundle import Bundle
from exporter.errors import UsageError
from exporter.targets.shared.options import WriteOptions

TARGETS = ("bundle_json", "numpy_npz", "safetensors_file", "onnx_model", "c_header", "table_csv", "table_md", "html_report", "kit")


class Target(Protocol):
    """What a module of this folder provides."""

    NAME: str
    SUFFIXES: tuple[str, ...]

    def write(self, bundle: Bundle, options: WriteOptions) -> bytes:
        """The content of the output file; the same bundle gives the same bytes.

        A target may also have begin(layer, options): it works ahead on a layer that `write` will probably get, and keeps what it made
        in options.begun. Nothing has judged that layer yet; `write` uses what was made of the very layers that it is given.
        """


def target_for(name: str) -> Target:
    """The target whose SUFFIXES hold the suffix of `name`, "/" being that of a folder; UsageError where none does."""
    suffix = "/" if name.endswith(("/", os.sep)) else PurePath(name).suffix.lower()
    known: list[str] = []
    for module in TARGETS:
        target: Target = importlib.import_module(f"exporter.targets.{module}")
        if suffix in target.SUFFIXES:
            return target
        known += target.SUFFIXES
    raise UsageError(f"the suffix {suffix!r} of the output's name is not known" if suffix else "the output's name has no suffix",
                     hint=f"it chooses what is written; there are {' '.join(known)}")

"""The kinds of file that are written, one module each. The suffix of the output's name chooses the target.

A target is a module with NAME, MARK (a regular expression for how its files begin), OPTIONS (the fields of WriteOptions that it accepts)
and write(bundle, options). To add one, write a file and add a line to SUFFIXES for each of its suffixes. A target that can work while the
model is still being read also has writer(options).
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol

from exporter.errors import UsageError

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Bundle
    from exporter.batchnorm.layer import BatchNorm
    from exporter.targets.shared.options import WriteOptions

SUFFIXES = {".json": "bundle_json", ".npz": "numpy_npz", ".safetensors": "safetensors_file", ".onnx": "onnx_model", ".h": "c_header",
            ".csv": "table_csv", ".md": "table_md", ".html": "html_report", ".htm": "html_report", ".zip": "kit", "/": "kit"}
TEXT = frozenset({".json", ".h", ".csv", ".md", ".html", ".htm"})  # suffixes of formats that a terminal can show
FORMATS = " ".join(SUFFIXES).replace(" /", ", or a folder/")
HINTS = dict.fromkeys((".pt", ".pth"), ".safetensors with --names torch is for PyTorch; ") | dict.fromkeys(
    (".h5", ".hdf5", ".keras", ".pb"), "for many models give --out-dir DIR; ")  # of suffixes that people expect
TARGETS = tuple(dict.fromkeys(SUFFIXES.values()))


class Writer(Protocol):
    """An output that is being made."""

    def layers(self, layers: Sequence[BatchNorm]) -> None:
        """Works ahead on layers that the bundle will probably contain; `end` uses the results only for exactly the layers that it gets."""

    def end(self, bundle: Bundle) -> Iterable[bytes]:
        """The contents of the output file, in pieces: they may be many times as large as the bundle."""


class Target(Protocol):
    """The interface of a target module."""

    NAME: str
    MARK: bytes
    OPTIONS: frozenset[str]

    def write(self, bundle: Bundle, options: WriteOptions) -> bytes:
        """The contents of the output file; the same bundle gives the same bytes."""


class _Whole:
    """The writer for a target that starts when the bundle is complete."""

    def __init__(self, target: Target, options: WriteOptions) -> None:
        self._target, self._options = target, options

    def layers(self, layers: Sequence[BatchNorm]) -> None:
        pass

    def end(self, bundle: Bundle) -> Iterable[bytes]:
        return (self._target.write(bundle, self._options),)


def writer_for(name: str, options: WriteOptions) -> Writer:
    """The writer of the target that the suffix of `name` chooses. Raises UsageError for options that this target does not accept."""
    target = target_for(name)
    wrong = [field for field in options.given() if field not in target.OPTIONS]
    if wrong:
        takes = [suffix for suffix, module in SUFFIXES.items() if wrong[0] in _module(module).OPTIONS]
        raise UsageError(f"{options.flag(wrong[0])} requires an output of {' or '.join(takes)}, got {suffix_of(name)}", hint="omit it")
    making = getattr(target, "writer", None)
    writer: Writer = _Whole(target, options) if making is None else making(options)
    return writer


def target_for(name: str) -> Target:
    """The target that the suffix of `name` chooses; UsageError if none does."""
    suffix = suffix_of(name)
    if suffix not in SUFFIXES:
        raise UsageError(f"unknown suffix {suffix!r} of the output's name" if suffix else "the output's name has no suffix",
                         hint=f"{HINTS.get(suffix, '')}the suffix chooses the format: {FORMATS}")
    return _module(SUFFIXES[suffix])


def is_export(name: str, head: bytes) -> bool:
    """Whether a file with this name that begins with `head` was written by the target that its suffix chooses."""
    return re.match(target_for(name).MARK, head, re.DOTALL) is not None


def suffix_of(name: str) -> str:
    """The suffix that chooses the target: "/" for a folder."""
    return "/" if name.endswith(("/", os.sep)) else PurePath(name).suffix.lower()


def _module(name: str) -> Target:
    target: Target = importlib.import_module(f"exporter.targets.{name}")
    return target

"""A Markdown table for a README or a model card: one row per layer."""

from __future__ import annotations

import re

import numpy as np

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.document import FORMULA
from exporter.batchnorm.layer import BatchNorm, scale_and_offset
from exporter.batchnorm.listing import notes, size
from exporter.errors import printable
from exporter.targets.shared.options import WriteOptions

NAME = "markdown"
MARK = rb"[^\n]* batch norms?, \d+ channels?\n\n\| layer \| channels \| "
OPTIONS = frozenset({"vectors"})  # holds none
COLUMNS = ("layer", "channels", "axis", "dtype", "epsilon", "smallest variance", "largest scale", "notes")


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The table, with a line about the model above and the formula below. Scale is |gamma| / sqrt(moving_variance + epsilon)."""
    channels = sum(layer.channels for layer in bundle)
    lines = [f"{_text(bundle.origin.file)} ({_text(bundle.origin.kind)}): {size(len(bundle), channels)}", "",
             _line(COLUMNS), _line(["---"] * len(COLUMNS)), *(_line(_cells(layer)) for layer in bundle), "", f"    {FORMULA}", "",
             *(f"Skipped: {_text(path)}: {_text(reason)}\n" for path, reason in bundle.skipped), bundle.digest(), ""]
    return "\n".join(lines).encode()


def _cells(layer: BatchNorm) -> list[str]:
    scale, _ = scale_and_offset(layer)
    lacking = [f"no {name}" for name in ("gamma", "beta") if getattr(layer, name) is None]
    return [layer.path, " x ".join(map(str, layer.shape)), ", ".join(map(str, layer.axis)), layer.dtype, f"{layer.epsilon:g}",
            f"{layer.moving_variance.min():.3g}", f"{np.abs(scale).max():.3g}", "; ".join([*lacking, *notes(layer)])]


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def _text(text: str) -> str:
    """Text escaped for Markdown and HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~])", r"\\\1", printable(text, 300))

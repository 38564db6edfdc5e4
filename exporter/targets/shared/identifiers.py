"""Identifiers of C and of ONNX for the paths of layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST_STEM = 45  # with the longest ending, "_moving_variance", below the 63 characters that C99 5.2.4.1 tells apart


def identifiers(paths: Iterable[str]) -> list[str]:
    """An identifier for each path, all different: other characters than ASCII letters and digits become "_"."""
    taken: set[str] = set()
    found = []
    for path in paths:
        base = re.sub("[^A-Za-z0-9]+", "_", path).strip("_")
        base = base if base[:1].isalpha() else f"bn_{base}".rstrip("_")  # a leading digit, or nothing left
        stem, number = base[:LONGEST_STEM], 2
        while stem in taken:
            ending = f"_{number}"
            stem, number = base[:LONGEST_STEM - len(ending)] + ending, number + 1
        taken.add(stem)
        found.append(stem)
    return found

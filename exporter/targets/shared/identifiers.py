"""Identifiers of C and of ONNX for the paths of layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_STEM_LENGTH = 45  # with the longest suffix, "_moving_variance", below the 63 significant characters of C99 5.2.4.1
MAX_ENDING_LENGTH = 7  # "_100000", the maximum number of layers


def identifiers(paths: Iterable[str]) -> list[str]:
    """A unique identifier for each path: characters other than ASCII letters and digits become "_"."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # the next number to try, by the stem before the number
    found = []
    for path in paths:
        base = re.sub("[^A-Za-z0-9]+", "_", path).strip("_")
        base = base if base[:1].isalpha() else f"bn_{base}".rstrip("_")  # a leading digit, or an empty name
        stem = base[:MAX_STEM_LENGTH]
        if stem in taken:
            start = base[:MAX_STEM_LENGTH - MAX_ENDING_LENGTH]
            number = numbers.get(start, 2)
            while (stem := _numbered(base, number)) in taken:
                number += 1
            numbers[start] = number + 1
        taken.add(stem)
        found.append(stem)
    return found


def _numbered(base: str, number: int) -> str:
    ending = f"_{number}"
    return base[:MAX_STEM_LENGTH - len(ending)] + ending

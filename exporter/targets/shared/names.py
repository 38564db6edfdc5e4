"""Names for the paths of layers: identifiers of C and of ONNX, and the prefixes of a layer's arrays in an archive of files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

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


def stems_of(paths: Sequence[str]) -> dict[str, str]:
    """The prefix of the names of each layer's arrays: its path, unless that could lead a program that extracts the archive out of
    its folder."""
    stems = {path: path for path in paths if _inside(path)}
    taken, numbers = set(stems), dict[str, int]()
    for path in paths:
        if path not in stems:
            base = re.sub(r"[/\\:]|\.\.", "_", path)
            while (stem := f"{base}~{numbers[base]}" if base in numbers else base) in taken:
                numbers[base] = numbers.get(base, 1) + 1
            stems[path] = stem
            taken.add(stem)
    return stems


def _inside(path: str) -> bool:
    """Whether it stays inside the folder that it is extracted to, on every system: no "..", absolute path, drive or backslash."""
    parts = path.split("/")
    return path[:1] not in ("", "/") and "\\" not in path and ":" not in parts[0] and not any(
        part.startswith("..") and not part.strip(". ") for part in parts)

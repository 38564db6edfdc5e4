"""The prefix of the names of a layer's arrays in an archive of files."""

from __future__ import annotations

import re
from collections.abc import Sequence


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

"""Changes that make no difference to anybody, by the text of the lines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.mutation.mutants import Mutant

FILE = Path(__file__).parent / "equivalent.toml"


@dataclasses.dataclass(frozen=True)
class Equivalents:
    """reasons: by file, text before, and text after; None after stands for any change of these lines."""

    reasons: dict[tuple[str, str, str | None], str]

    @classmethod
    def read(cls, file: Path = FILE) -> Equivalents:
        try:
            import tomllib
        except ImportError:  # Python 3.10: pytest brings it along
            import tomli as tomllib
        entries = tomllib.loads(file.read_text("utf-8"))["equivalent"]
        return cls({(entry["file"], entry["was"].strip(), entry.get("now")): entry["reason"] for entry in entries})

    def stale(self, files: dict[str, str]) -> list[str]:
        """What is listed and no longer there. files: text by name."""
        lines = {file: {line.strip() for line in text.splitlines()} for file, text in files.items()}
        return [f"{file}: {was}" for file, was, _ in self.reasons if not set(was.splitlines()) <= lines.get(file, set())]

    def reason(self, mutant: Mutant) -> str | None:
        was, now = mutant.lines
        return self.reasons.get((mutant.file, was, now)) or self.reasons.get((mutant.file, was, None))

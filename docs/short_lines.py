"""Breaks the long lines of Markdown: a paragraph or list item with a line over 120 characters is filled again to 100.

Tables, code, headings and comments are left as they are. The generated pages go through `short` as they are made; for the others:

    python docs/short_lines.py README.md docs/*.md
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

MAX_LENGTH, FILLED = 120, 100
KEPT = re.compile(r"\s*(\||#|<!--|\[!?\[|!\[|>)")
ITEM = re.compile(r"(\s*)((?:[-*]|\d+\.) +)?")
WHOLE = re.compile(r"`+[^`]+`+|\[[^\]]*\]\([^)]*\)")  # code and links are not broken


def short(text: str) -> str:
    """`text` with no line of prose over MAX_LENGTH characters, where it has a blank to break at."""
    out: list[str] = []
    block: list[str] = []
    fence = ""

    def end() -> None:
        out.extend(_filled(block) if any(len(line) > MAX_LENGTH for line in block) else block)
        block.clear()

    for line in text.split("\n"):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if fence or mark:
            end()
            out.append(line)
            if mark and (not fence or line.strip() == fence):
                fence = "" if fence else mark[1]
        elif not line.strip() or KEPT.match(line) or line.startswith("    "):
            end()
            out.append(line)
        else:
            if ITEM.match(line)[2] or (block and block[-1].endswith("  ")):  # type: ignore[index]  # it always matches
                end()
            block.append(line)
    end()
    return "\n".join(out)


def long_lines(text: str) -> list[str]:
    """The lines of prose that are too long: what `short` would break."""
    kept = set(short(text).split("\n"))
    return [line for line in text.split("\n") if len(line) > MAX_LENGTH and line not in kept]


def _filled(lines: list[str]) -> list[str]:
    item = ITEM.match(lines[0])
    assert item
    first, rest = item[0], item[1] + " " * len(item[2] or "")
    text = " ".join(line.strip() for line in [lines[0][len(first):], *lines[1:]])
    text = re.sub(r" (?=(?:[-+*#]|\d+\.) )", "\0", text)  # at the start of a line it would be a list or a heading
    held = WHOLE.sub(lambda found: found[0].replace(" ", "\0").replace("-", "\1"), text)
    filled = textwrap.wrap(held, FILLED, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ").replace("\1", "-") + ("  " if lines[-1].endswith("  ") and line is filled[-1] else "")
            for line in filled]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(short(path.read_text("utf-8")), "utf-8")

"""The report of a batch, as JSON or as a page (batch.html beside this file): the outcome for each model."""

from __future__ import annotations

import html
import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from exporter.__about__ import __version__
from exporter.errors import UsageError, printable
from exporter.pipeline.outcome import EXPORTED, REFUSED, SKIPPED

if TYPE_CHECKING:
    from exporter.pipeline.outcome import Outcome, Summary

SUFFIXES = (".json", ".html")
MAX_CELL_LENGTH = 600  # characters


def check_name(path: str) -> None:
    """Refuses an unknown kind of report before any work is done."""
    if not path.lower().endswith(SUFFIXES):
        raise UsageError(f"expected a report name that ends in {' or '.join(SUFFIXES)}", where=path)


def write(summary: Summary, path: str) -> None:
    """Writes the report; the suffix chooses its kind. Raises OutputError."""
    from exporter.files import output

    text = as_html(summary) if path.lower().endswith(".html") else as_json(summary)
    output.write(path, text.encode("utf-8", "backslashreplace"))


def as_json(summary: Summary) -> str:
    """{"producer", "exported", "skipped", "refused", "models"}."""
    counts = {status: len(summary.of(status)) for status in (EXPORTED, SKIPPED, REFUSED)}
    models = [{"source": one.source, "out": one.out, "status": one.status, "layers": one.layers, "channels": one.channels,
               "reason": one.reason, "hint": one.hint, "warnings": list(one.warnings)} for one in summary.outcomes]
    return json.dumps({"producer": {"name": "bn-export", "version": __version__}, **counts, "models": models}, indent=2) + "\n"


def as_html(summary: Summary) -> str:
    """A self-contained page without scripts."""
    page = Template(Path(__file__).with_name("batch.html").read_text("utf-8"))
    return page.substitute(version=__version__, summary=_text(str(summary)), rows="\n".join(map(_row, summary.outcomes)))


def _row(one: Outcome) -> str:
    told = [one.reason or one.out, one.hint, *one.warnings]
    layers, channels = (str(one.layers), str(one.channels)) if one.status == EXPORTED else ("", "")
    cells = (("", one.source), (one.status, one.status), ("number", layers), ("number", channels))
    row = "".join(f'<td class="{kind}">{_text(text)}</td>' for kind, text in cells)
    return f"<tr>{row}<td>{'<br>'.join(map(_text, filter(None, told)))}</td></tr>"


def _text(text: str) -> str:
    return html.escape(printable(text, MAX_CELL_LENGTH))

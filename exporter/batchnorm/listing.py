"""The layers of a bundle as a table for people: what `bn-export MODEL` prints and a notebook shows."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from exporter.batchnorm.layer import BatchNorm
from exporter.batchnorm.stored import BATCH_NORMS
from exporter.errors import counted, printable

if TYPE_CHECKING:
    from exporter.batchnorm.origin import Origin
    from exporter.batchnorm.places import Neighbor
    from exporter.batchnorm.stored import Stored, Unusable

HEADINGS = ("layer", "channels", "axis", "epsilon", "dtype", "parameters", "notes")
MAX_ROWS = 200  # of the table in a notebook
MAX_LENGTH = 300  # characters of a cell


def table(origin: Origin, layers: Sequence[BatchNorm], unusable: Sequence[Unusable] = (), *, with_places: bool = False) -> str:
    """The table as text; everything from the file is escaped. with_places: also list what feeds and follows each layer."""
    rows = [HEADINGS, *map(cells, layers), *(cells(*each) for each in unusable)]
    if with_places:
        beside = [("fed by", "followed by"), *map(places, layers), *(places(each.layer) for each in unusable)]
        rows = [(row[0], *more, *row[1:]) for row, more in zip(rows, beside, strict=True)]
    return "\n".join([summary(origin, layers), "", *columns(rows), ""])


def html_table(origin: Origin, layers: Sequence[BatchNorm]) -> str:
    """The table as HTML, its first rows if it has many."""
    rows = [_row("th", HEADINGS), *(_row("td", cells(layer)) for layer in layers[:MAX_ROWS])]
    more = f"<p>and {len(layers) - MAX_ROWS} more</p>" if len(layers) > MAX_ROWS else ""
    return f"<p>{html.escape(summary(origin, layers))}</p><table>{''.join(rows)}</table>{more}"


def summary(origin: Origin, layers: Sequence[BatchNorm]) -> str:
    """One line about the whole bundle."""
    kind = ", ".join([printable(origin.kind), *map(printable, origin.writers())])
    return f"{printable(origin.file)} ({kind}): {size(len(layers), sum(layer.channels for layer in layers))}"


def size(layers: int, channels: int) -> str:
    """The numbers of batch norms and channels."""
    return f"{counted(layers, 'batch norm')}, {counted(channels, 'channel')}"


def cells(layer: BatchNorm | Stored, unusable: str = "") -> tuple[str, ...]:
    """The cells of a layer's row, each printable. unusable: why inference cannot be computed."""
    said_of_it = [*([f"cannot be used: {unusable}"] if unusable else []), *notes(layer)]
    lacking = [name for name in ("gamma", "beta") if getattr(layer, name) is None]
    said = (layer.path, "x".join(map(str, layer.shape)), ",".join(map(str, layer.axis or ())), f"{layer.epsilon:g}", layer.dtype,
            "no " + ", no ".join(lacking) if lacking else "all four", "; ".join(said_of_it))
    return tuple(printable(text, 80 if place == 0 else MAX_LENGTH) for place, text in enumerate(said))


def notes(layer: BatchNorm | Stored) -> list[str]:
    """What is unusual about the origin of the numbers."""
    converted = layer.converted if isinstance(layer, BatchNorm) else ()
    found = [f"{name}: {', '.join(fields)}" for name, fields in (("assumed", layer.assumed), ("converted", converted)) if fields]
    if layer.effective_epsilon is not None:
        found.append(f"effective epsilon {layer.effective_epsilon:g}")
    if layer.class_name not in BATCH_NORMS:
        found.append(f"class {layer.class_name}")
    if layer.is_never_updated:
        found.append("statistics are still 0 and 1")
    if layer.called_in_training:
        found.append("called with training=True")
    if layer.quantized:
        found.append(f"quantized {layer.quantized}")
    return found


def places(layer: BatchNorm | Stored) -> tuple[str, str]:
    """What feeds a layer and what follows it, call by call."""
    if not layer.calls:
        return "not known", "not known"
    fed = " | ".join(_shown(call.inputs, "the model's input") for call in layer.calls)
    followed = " | ".join(_shown(call.outputs, "nothing") for call in layer.calls)
    return printable(fed, MAX_LENGTH), printable(followed, MAX_LENGTH)


def _shown(neighbors: Sequence[Neighbor], none: str) -> str:
    return ", ".join(f"{each.path} ({', '.join(filter(None, (each.class_name, each.activation)))})" for each in neighbors) or none


def columns(rows: Iterable[Sequence[str]], align: Callable[[str, int], str] = str.ljust) -> list[str]:
    """Lines with aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(align(cell, width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _row(tag: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"

"""A comparison as a self-contained HTML page: a row per layer, and a drawing of each array that differs, channel by channel.

Text of the files reaches the page only through `_text`; nothing runs on it, and a content security policy with the hash of its style lets
nothing load.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.__about__ import __version__
from exporter.batchnorm.listing import places
from exporter.diagnosis.mistakes import BY_CODE
from exporter.diagnosis.port_answer import Compared, Comparison, Difference
from exporter.errors import counted, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.bundle import Bundle
    from exporter.batchnorm.layer import BatchNorm
    from exporter.diagnosis.ports.port import Port, Ported

MAX_LENGTH = 300  # characters of a name or sentence
SIDE = 120  # units of a drawing
MAX_DOTS = 512  # channels drawn, evenly spread; those that differ most are among them
MAX_DRAWN = 150  # arrays with a drawing, so that the page of two completely different models can still be opened
MAX_LISTED = 8  # channels of an array whose numbers are listed below the drawing
AXES = "a channel: its number in the first file to the right, in the second upward; equal ones are on the diagonal"
STYLE = """
:root { color-scheme: light dark; --line: #8886; --bad: #c2410c; --good: #15803d; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; }
tr { border-bottom: 1px solid var(--line); } bdi { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
body > table > thead > tr > th:not(:last-child) { width: 22%; }
td span { display: block; }
.differs { color: var(--bad); } .equal { color: var(--good); } figure { display: inline-block; margin: .4rem 1rem .4rem 0; }
svg { width: 150px; height: 150px; border: 1px solid var(--line); } circle { fill: currentColor; fill-opacity: .6; }
svg path { stroke: var(--line); fill: none; } figcaption { font-size: .8rem; max-width: 24rem; }
code { font-family: ui-monospace, monospace; } small, .soft { opacity: .75; } summary { cursor: pointer; font-size: .8rem; }
@media (max-width: 40rem) {
  body > table > * > tr, body > table > * > tr > *, body > table, body > table > * { display: block; }
  body > table > thead { display: none; } h1 { font-size: 1.3rem; overflow-wrap: anywhere; } figcaption { max-width: 100%; }
}
details { overflow-x: auto; }
details td, details th { padding: .05rem .6rem .05rem 0; text-align: right; font-size: .8rem; } details tr { border: 0; }
"""


def page(found: Comparison, mine: Bundle, mine_name: str, theirs: Port) -> bytes:
    """The page, UTF-8."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    right = {layer.path: layer for layer in theirs.layers}
    differing = sum(bool(one.of) for pair in found.pairs for one in pair.differences)
    drawings = iter(range(MAX_DRAWN))
    rows = "".join(_row(pair, mine[pair.path], right[pair.other], drawings) for pair in found.pairs)
    rows += "".join(f'<tr><td>{_path(one.path)}</td><td>…</td><td class="differs">not in {_text(found.name)} {_said(one)}</td></tr>'
                    for one in found.missing)
    rows += "".join(f'<tr><td>…</td><td>{_path(one.path)}</td><td class="differs">not in {_text(mine_name)}</td></tr>'
                    for one in found.added)
    verdict = found.text().splitlines()[-1]
    held = f"{counted(len(mine), 'layer')}, {mine.digest()[7:15]}"
    title = f"{_text(mine_name)} and {_text(found.name)}"
    told_apart = (f"{_text(mine_name)}: {held}; {_text(found.name)}: {counted(len(theirs.layers), 'layer')}"
                  + (f". Drawn are the first {MAX_DRAWN} of {differing} arrays that differ" if differing > MAX_DRAWN else ""))
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"
    body = (f'<h1>{title}</h1><p class="{"equal" if found.same else "differs"}"><strong>{_text(verdict)}</strong></p>'
            f'<p class="soft">{told_apart}.{f" A dot is {AXES}." if differing else ""}</p>'
            f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in (*found.notes, *found.to_set))}</ul>{_mistakes(found)}"
            f"<table><thead><tr><th>{_text(mine_name)}</th><th>{_text(found.name)}</th><th>what differs</th></tr></thead>"
            f"<tbody>{rows}</tbody></table><p>bn-export {__version__}</p>")
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
            f'<meta name="viewport" content="width=device-width"><title>{title} · {held}</title>'
            f"<style>{STYLE}</style>{body}</html>\n").encode()


def _text(text: str) -> str:
    """Text of a file as HTML: markup escaped; control and direction characters made visible instead of taking effect."""
    return html.escape(printable(text, MAX_LENGTH))


def _path(path: str) -> str:
    return f"<bdi>{_text(path)}</bdi>"


def _mistakes(found: Comparison) -> str:
    codes = dict.fromkeys(one.code for one in found.differences if one.code)
    rows = [f"<dt><code>{code}</code> {_text(BY_CODE[code].name)}</dt><dd>{_text(BY_CODE[code].instead)}</dd>" for code in codes]
    return f"<dl>{''.join(rows)}</dl>" if rows else ""


def _row(pair: Compared, mine: BatchNorm, theirs: Ported, room: Iterator[int]) -> str:
    drawings = "".join(_figures(pair, mine.parameters(), theirs, room))
    verdict = f"equal after rounding to {pair.rounding}" if pair.rounding and not pair.differences else pair.verdict
    kind = "differs" if pair.differences else "equal"
    fed, followed = places(mine)
    stands = f"<br><small>after {_text(fed)}, before {_text(followed)}</small>" if mine.calls else ""
    return (f'<tr><td>{_path(pair.path)}{stands}</td><td>{_path(pair.other)}<br><small>{_text(pair.how)}</small></td>'
            f'<td><span class="{kind}">{_text(verdict)}</span>{drawings}</td></tr>')


def _figures(pair: Compared, mine: Mapping[str, NDArray[np.generic]], theirs: Ported, room: Iterator[int]) -> Iterator[str]:
    for one in pair.differences:
        caption = f"{_text(one.what)} {_said(one)}"
        if not one.of:
            yield f"<p>{caption}: {_text(str(one.mine))} and {_text(str(one.theirs))}</p>"
            continue
        said = (f"{caption}; {one.channels} of {one.of} channels differ, most channel {one.channel}: {one.mine:.6g} and "
                f"{one.theirs:.6g}")
        if next(room, None) is None:
            yield f"<p>{said}</p>"
            continue
        left, right = mine[one.what].ravel(), theirs.arrays[one.what].ravel()
        drawing = _scatter(left.astype(np.float64), right.astype(np.float64))
        yield f"<figure>{drawing}<figcaption>{said}{_worst(left, right)}</figcaption></figure>"


def _worst(mine: NDArray[np.generic], theirs: NDArray[np.generic]) -> str:
    """The numbers of the channels that differ most, with all their digits."""
    with np.errstate(all="ignore"):
        distance = np.nan_to_num(np.abs(mine.astype(np.float64) - theirs.astype(np.float64)), nan=np.inf)
    order = [channel for channel in np.argsort(-distance, kind="stable")[:MAX_LISTED].tolist() if distance[channel] > 0]
    if not order:
        return ""
    rows = "".join(f"<tr><td>{channel}</td><td>{_digits(mine[channel])}</td><td>{_digits(theirs[channel])}</td>"
                   f"<td>{distance[channel]:.3g}</td></tr>" for channel in order)
    head = "".join(f"<th>{name}</th>" for name in ("channel", "first", "second", "distance"))
    return f"<details><summary>the channels that are farthest apart</summary><table><tr>{head}</tr>{rows}</table></details>"


def _digits(value: Any) -> str:
    """The fewest digits that distinguish a number from all others of its type."""
    plain = 1e-4 <= abs(float(value)) < 1e6 or value == 0
    return np.format_float_positional(value, trim="0") if plain else np.format_float_scientific(value, trim="0")


def _said(one: Difference) -> str:
    code = f"<code>{one.code}</code> " if one.code else ""
    return f"{code}is {_text(one.says)}" if one.says and one.of else f"{code}{_text(one.says)}"


def _scatter(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    """Each channel as a dot, mine to the right and theirs upward; equal ones are on the diagonal."""
    finite = np.isfinite(mine) & np.isfinite(theirs)
    mine, theirs = mine[finite], theirs[finite]
    if not mine.size:
        return ""
    if mine.size > MAX_DOTS:
        far = np.argsort(-np.abs(mine - theirs), kind="stable")[: MAX_DOTS // 2]
        kept = np.unique(np.concatenate([far, np.linspace(0, mine.size - 1, MAX_DOTS // 2).astype(np.intp)]))
        mine, theirs = mine[kept], theirs[kept]
    low, high = min(mine.min(), theirs.min()), max(mine.max(), theirs.max())
    with np.errstate(all="ignore"):
        x, y = (np.nan_to_num((values / 2 - low / 2) / (high / 2 - low / 2 or 1.0)) * SIDE for values in (mine, theirs))
    dots = "".join(f'<circle cx="{a:.0f}" cy="{SIDE - b:.0f}" r="2"/>' for a, b in zip(x.tolist(), y.tolist()))
    return (f'<svg viewBox="-4 -4 {SIDE + 8} {SIDE + 8}" role="img" aria-label="each channel"><title>{AXES}</title>'
            f'<path d="M0 {SIDE}L{SIDE} 0"/>{dots}</svg>')

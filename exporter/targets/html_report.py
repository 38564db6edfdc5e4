"""The report: a self-contained HTML file. The page is report.html beside this module.

Text of the model reaches the page only through `_text`; the style and the script are fixed, and a content security policy with their
hashes lets nothing else run or load.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import defaultdict
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from exporter.__about__ import __version__
from exporter.batchnorm import vectors
from exporter.batchnorm.bundle import ReadBack
from exporter.batchnorm.findings import CONSTANT, HUGE, KINDS, Finding, findings
from exporter.batchnorm.fold import may_be_unchanged, reason_against
from exporter.batchnorm.layer import BatchNorm
from exporter.errors import printable
from exporter.targets.shared.channel_data import channel_data, that_fit
from exporter.targets.shared.drawing import histogram, number, power, ranges, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.bundle import Bundle
    from exporter.batchnorm.places import Neighbor
    from exporter.targets.shared.options import WriteOptions

NAME = "html"
MARK = rb".{,2000}batch normalization</title>"
OPTIONS = frozenset({"vectors"})  # holds none

MAX_NAME_LENGTH = 400  # characters of a name or sentence that are shown
MAX_LINKS = 4  # layers named under a kind of finding; the table shows them all
TESTED = ("The test vectors of each layer: scale · x + offset in float32 (float64 layers: in float64) against the exact "
          "outputs, as a fraction of the error bound for runtimes")
FLAT = 1e-6  # scales below are drawn at it, as variances are at CONSTANT: one dead channel must not squeeze all others
LARGEST = float(np.finfo(np.float64).max)  # is drawn in place of infinity
COLUMNS = (  # heading, class of its cells, what it is
    ("No.", "n minor", "In the order of the model"), ("Layer", "name", "Path: outer models, wrappers and the layer's own name"),
    ("Channels", "n", "Number of channels; each has its own four parameters"),
    ("Axis", "n minor", "The axis of the input that the channels run along; −1 is the last"),
    ("Type", "minor", "The type in which the parameters are stored"), ("Epsilon", "n minor", "Added to the variance, under the root"),
    ("Lowest <br>variance", "n", "The lowest moving_variance of a channel: where a wrong epsilon shows first"),
    ("Largest <br>|scale|", "n", "The largest |gamma| / √(moving_variance + epsilon): what an input is multiplied by"),
    ("Findings", "found", "Findings, with the number of channels that they concern"))


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The page, UTF-8."""
    page = Template(Path(__file__).with_name("report.html").read_text("utf-8"))
    found, digest = findings(bundle), bundle.digest()
    parts = {layer.path: _part(bundle, layer) for layer in bundle}
    filled = page.substitute(
        policy=_policy(page.template), title=_text(bundle.origin.file), told_apart=f"{_count(len(bundle), 'layer')} · {digest[7:15]}",
        origin=_origin(bundle), summary=_summary(bundle, found, parts), findings=_findings(bundle, found), overview=_overview(bundle),
        choices=_choices(found), head=_head(), layers=_layers(bundle, found, parts), version=__version__, digest=digest)
    return filled.encode("utf-8")


def _policy(page: str) -> str:
    """Only this page's own style and script, by their hashes (https://www.w3.org/TR/CSP3/)."""
    rules = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "img-src data:"]
    for tag in ("style", "script"):
        match = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        content = match.group(1) if match else ""
        rules.append(f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'")
    return "; ".join(rules)


def _text(text: str) -> str:
    """Text of the model as HTML: markup escaped; control and direction characters made visible instead of taking effect."""
    return html.escape(printable(text, MAX_NAME_LENGTH))


def _path(path: str) -> str:
    """A layer's path, isolated so that right-to-left text in it does not reorder its surroundings."""
    return f"<bdi>{_text(path)}</bdi>"


def _thousands(count: int) -> str:
    return f"{count:,}".replace(",", "\u202f")


def _count(count: int, word: str) -> str:
    return f"{_thousands(count)} {word}{'' if count == 1 else 's'}"


def _origin(bundle: Bundle) -> str:
    origin = bundle.origin
    return " · ".join(map(_text, [origin.kind, *origin.writers()]))


def _part(bundle: Bundle, layer: BatchNorm) -> float:
    """The largest error of float32 arithmetic on the layer's test vectors, as a fraction of the bound."""
    stored = bundle.vectors.get(layer.path) if isinstance(bundle, ReadBack) else None
    return vectors.part_of_bound(layer, *(stored or vectors.make(layer)))


def _within(part: float) -> str:
    if part == float("inf"):
        return "overflow in float32"
    return f"{'within' if part <= 1 else 'beyond'} the bound ({short(round(100 * part, 1))} % of it)"


def _summary(bundle: Bundle, found: list[Finding], parts: dict[str, float]) -> str:
    epsilons, dtypes = sorted({layer.epsilon for layer in bundle}), sorted({layer.dtype for layer in bundle})
    warned, noted = (len({f.path for f in found if f.kind.level == level}) for level in ("warning", "note"))
    facts = {
        "Layers": _thousands(len(bundle)), "Channels": _thousands(sum(layer.channels for layer in bundle)),
        "Epsilon": ", ".join(map(short, epsilons[:3])) + (f" and {len(epsilons) - 3} more" if len(epsilons) > 3 else ""),
        "Type": ", ".join(dtypes), "Layers with warnings": _thousands(warned), "Layers with notes": _thousands(noted)}
    passed = sum(part <= 1 for part in parts.values())
    verdict = f"{'all' if passed == len(parts) else f'{_thousands(passed)} of {_thousands(len(parts))}'} within the bound" if parts else ""
    tested = f'<div title="{TESTED}"><dt>Test vectors</dt><dd>{verdict}</dd></div>' if parts else ""
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items() if value) + tested


def _findings(bundle: Bundle, found: list[Finding]) -> str:
    """The kinds of findings, warnings first, each with its meaning and its first layers."""
    if not found:
        return "<p>Nothing unusual was found.</p>"
    numbers = {layer.path: i for i, layer in enumerate(bundle, 1)}
    by_kind = defaultdict(list)
    for finding in found:
        by_kind[finding.kind.code].append(finding)
    return "".join(_kind(code, by_kind[code], numbers) for code in KINDS if code in by_kind)


def _kind(code: str, found: list[Finding], numbers: dict[str, int]) -> str:
    kind = KINDS[code]
    if code == "not-exported":
        shown = [f"<li>{_path(f.path)}: {_text(f.sentence)}</li>" for f in found]
    else:
        shown = [f'<li><a href="#layer-{numbers[f.path]}">{_path(f.path)}</a></li>' for f in found[:MAX_LINKS]]
    if len(found) > len(shown):
        shown.append(f'<li><a href="#layers" data-kind="{code}">all {len(found)} in the table</a></li>')
    channels = sum(f.channels for f in found)
    size = _count(len(found), "layer") + (f", {_count(channels, 'channel')}" if channels else "")
    return (f'<section class="kind {kind.level}"><h3>{kind.title}<small>{size}</small></h3>'
            f"<p>{html.escape(kind.meaning)}</p><ul>{''.join(shown)}</ul></section>")


def _overview(bundle: Bundle) -> str:
    """Variance and scale through the model: what stands out between the layers."""
    if len(bundle) < 3:
        return ""
    variances = [_logs(layer.moving_variance, CONSTANT) for layer in bundle]
    scales = [_logs(np.abs(_scale(layer)), FLAT) for layer in bundle]
    epsilons = np.log10(np.maximum([layer.epsilon for layer in bundle], CONSTANT))
    return ('<div class="overview">' + _ranges("Moving variance, layer by layer", variances, epsilons, "dashed: epsilon")
            + _ranges("Effective scale, layer by layer", scales, np.full(len(scales), np.log10(HUGE)), f"dashed: {HUGE:g}") + "</div>")


def _ranges(title: str, logs: list[NDArray[np.float64]], mark: NDArray[np.float64], legend: str) -> str:
    low, middle, high = (np.array([function(values) for values in logs]) for function in (np.min, np.median, np.max))
    bottom, top = float(np.floor(low.min())), float(np.floor(high.max()) + 1)
    inside = bool(((bottom < mark) & (mark < top)).any())
    words = "; ".join(["band: lowest to highest channel", "line: median", *([legend] if inside else [])])
    return (f'<figure aria-label="{title}"><figcaption>{title}</figcaption><div class="plot"><span class="top">{power(top)}</span>'
            f'<span class="bottom">{power(bottom)}</span>{ranges(low, middle, high, mark if inside else None, bottom, top)}'
            f'<span class="first">1</span><span class="legend">{words}</span><span class="last">{len(logs)}</span></div></figure>')


def _scale(layer: BatchNorm) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        return layer.scale.ravel()


def _logs(values: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """log10 of values; values below `least` (including negative variances) count as `least`."""
    return np.log10(np.clip(values.astype(np.float64).ravel(), least, LARGEST))


def _choices(found: list[Finding]) -> str:
    codes = {f.kind.code for f in found if f.kind.code != "not-exported"}
    return "".join(f'<option value="{kind.code}">{kind.title}</option>' for kind in KINDS.values() if kind.code in codes)


def _head() -> str:
    return "".join(f'<th scope="col" class="{css}" title="{html.escape(meaning)}">{heading}</th>' for heading, css, meaning in COLUMNS)


def _layers(bundle: Bundle, found: list[Finding], parts: dict[str, float]) -> str:
    by_path = defaultdict(list)
    for finding in found:
        by_path[finding.path].append(finding)
    held = that_fit(sorted(bundle, key=lambda layer: not by_path[layer.path]))  # layers with findings first
    left = "" if len(held) == len(bundle) else f"this page has those of {_thousands(len(held))} of {_count(len(bundle), 'layer')}"
    return "".join(_layer(i, layer, by_path[layer.path], parts[layer.path], "" if layer.path in held else left)
                   for i, layer in enumerate(bundle, 1))


def _layer(i: int, layer: BatchNorm, found: list[Finding], part: float, left_out: str) -> str:
    """Two rows: the layer in the table, and its drawings and findings."""
    axis = ", ".join(map(str, layer.axis)).replace("-", "−")
    epsilon, lowest, largest = layer.epsilon, float(layer.moving_variance.min()), min(float(np.abs(_scale(layer)).max()), LARGEST)
    weight = sum(100 if f.kind.level == "warning" else 1 for f in found)
    cells = [  # shown, sorted by
        (str(i), i), (_path(layer.path).replace("_", "_<wbr>"), None), ("×".join(map(str, layer.shape)), layer.channels),
        (axis, layer.axis[0]), (layer.dtype, None), (short(epsilon), epsilon), (number(lowest), lowest),
        (number(largest), largest), ("".join(map(_chip, found)), weight)]
    row = "".join(_cell(shown, key, css) for (shown, key), (_, css, _) in zip(cells, COLUMNS))
    codes = " ".join(f.kind.code for f in found)
    return (f'<tbody id="layer-{i}" data-kinds="{codes}"><tr class="row">{row}</tr>'
            f'<tr class="detail" id="detail-{i}"><td colspan="{len(COLUMNS)}">{_detail(layer, axis, found, part)}'
            f'{_channels(layer, left_out)}</td></tr></tbody>\n')


def _cell(shown: str, key: float | None, css: str) -> str:
    if css == "name":
        return f'<th scope="row" class="name">{shown}</th>'
    return f'<td class="{css}">{shown}</td>' if key is None else f'<td class="{css}" data-key="{key!r}">{shown}</td>'


def _chip(finding: Finding) -> str:
    channels = f" <b>{finding.channels}</b>" if finding.channels else ""
    return f'<span class="chip {finding.kind.level}" title="{html.escape(finding.kind.meaning)}">{finding.kind.title}{channels}</span>'


def _channels(layer: BatchNorm, left_out: str) -> str:
    """The placeholder of the table of channels, which the script creates from the numbers in it."""
    if left_out:
        return (f'<p class="soft">The numbers of its {_count(layer.channels, "channel")} are omitted: {left_out}. '
                "bn-export MODEL out.csv has all.</p>")
    return (f'<div class="channels" data-count="{layer.channels}" data-wide="{int(layer.dtype == "float64")}" '
            f'data-epsilon="{layer.epsilon!r}" data-names="{" ".join(layer.parameters())}" data-numbers="{channel_data(layer)}">'
            '<p class="soft without">The numbers of each channel are shown with JavaScript.</p></div>')


def _standing(layer: BatchNorm) -> dict[str, str]:
    """The layer's place, and whether it can be folded into what feeds it; empty if the file does not specify it."""
    if not layer.calls:
        return {}
    fed, followed = ("; ".join(", ".join(map(_neighbor, each)) or otherwise for each in sides) for sides, otherwise in (
        ([call.inputs for call in layer.calls], "the model's input"), ([call.outputs for call in layer.calls], "nothing")))
    reason = reason_against(layer, is_chain_known=True)
    folded = f"not possible: {_text(reason)}" if reason else _folded(layer.calls[0].inputs[0])
    return {"Fed by": fed, "Followed by": followed, "Folding": folded}


def _folded(feeding: Neighbor) -> str:
    if may_be_unchanged(feeding):
        return f"perhaps possible, into the layer before {_path(feeding.path)}: --fold checks that"
    return f"possible, into {_path(feeding.path)}"


def _neighbor(beside: Neighbor) -> str:
    facts = [beside.class_name, *([beside.activation] if beside.activation else []), *(["no bias"] if beside.use_bias is False else []),
             *([f"padding {beside.padding}"] if beside.padding else [])]
    return f"{_path(beside.path)} ({_text(', '.join(facts))})"


def _detail(layer: BatchNorm, axis: str, found: list[Finding], part: float) -> str:
    momentum = None if layer.momentum is None else short(layer.momentum)
    facts = {"Class": _text(layer.class_name), "Input rank": layer.ndim, "Momentum": momentum, "Test vectors": _within(part),
             **_standing(layer)}
    again = {"Axis": axis, "Type": layer.dtype, "Epsilon": short(layer.epsilon)}  # shown if the table is too narrow for them
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items() if value is not None)
    listed += "".join(f'<div class="again"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in again.items())
    said = "".join(f'<li class="{f.kind.level}"><b>{f.kind.title}:</b> {_sentence(f)}.</li>' for f in found)
    return (f'<dl class="facts">{listed}</dl>' + (f'<ul class="said">{said}</ul>' if said else "")
            + f'<div class="charts">{_charts(layer)}</div>')


def _sentence(finding: Finding) -> str:
    """The text with numbers as in the rest of the page: "2.3e-06" becomes "2.3e−6", which is not split by line breaks."""
    return re.sub(r"(?<=\d)e-0*(?=[1-9])", "e−", _text(finding.sentence))


def _charts(layer: BatchNorm) -> str:
    variance, epsilon = layer.moving_variance.astype(np.float64).ravel(), np.log10(max(layer.epsilon, CONSTANT))
    logs = _logs(variance, CONSTANT)
    low, high = float(logs.min()), float(logs.max())
    span = (low, max(high, epsilon)) if low < epsilon else (low, high)
    return (_chart("gamma", layer.gamma, "none: the layer uses 1") + _chart("beta", layer.beta, "none: the layer uses 0")
            + _chart("moving_mean", layer.moving_mean)
            + _figure("moving_variance (log)", variance, histogram(logs, [("mark", "ε", epsilon)], span))
            + _chart("effective scale", _scale(layer)))


def _chart(title: str, values: NDArray[np.float64] | None, otherwise: str = "") -> str:
    if values is None:
        return f'<figure aria-label="{title}"><figcaption>{title}</figcaption><p class="none">{otherwise}</p></figure>'
    wide = values.astype(np.float64).ravel()
    return _figure(title, wide, histogram(np.clip(wide, -LARGEST, LARGEST), [("zero", "0", 0.0)]))


def _figure(title: str, values: NDArray[np.float64], picture: str) -> str:
    """A chart with its lowest, middle and highest value as text for screen readers."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        numbers = f"<span>{'all' if values.size > 1 else 'one channel'} <b>{number(low)}</b></span>"
    else:
        shown = {"min": low, "median": float(np.median(values)), "max": high}
        numbers = "".join(f"<span>{name} <b>{number(value)}</b></span>" for name, value in shown.items())
    return f'<figure aria-label="{title}"><figcaption>{title}</figcaption>{picture}<p>{numbers}</p></figure>'

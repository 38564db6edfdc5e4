"""Small drawings of many numbers, as SVG: integer coordinates, one path per drawing, colors from the style sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

WIDTH, HEIGHT = 160, 52
HEADROOM = 12  # units above the highest bar, for the labels of the marks
GRID = 8  # lines across it, at most
LONG, TALL = 1000, 1000  # the drawing over all layers is stretched to fit


def number(value: float) -> str:
    """Three digits for people: "0.910", "26.5", "128", "4.36e−4", "0"."""
    if value == 0:
        return "0"
    size = abs(value)
    text = f"{value:#.3g}" if 1e-3 <= size < 999.5 else f"{value:.0f}" if 999.5 <= size < 1e5 else f"{value:.2e}"
    mantissa, e, exponent = text.rstrip(".").partition("e")
    return (f"{mantissa}e{int(exponent)}" if e else mantissa).replace("-", "−")


def short(value: float) -> str:
    """The shortest form of the number: "0.001", "1.001e−5"."""
    mantissa, e, exponent = f"{value + 0.0:.6g}".partition("e")
    return (f"{mantissa}e{int(exponent)}" if e else mantissa).replace("-", "−")


def power(exponent: float) -> str:
    """Ten to an integer exponent, which may be out of range for a float: "0.01", "1e−12"."""
    return short(10.0**exponent) if abs(exponent) <= 5 else f"1e{exponent:.0f}".replace("-", "−")


def histogram(values: Floats, marks: Sequence[tuple[str, str, float]], span: tuple[float, float] | None = None) -> str:
    """The distribution of finite `values`: a silhouette of 8 to 32 bins over `span` (from the lowest to the highest value).

    marks: vertical lines, (class, label, value); those outside the span are omitted.
    """
    low, high = span or (float(values.min()), float(values.max()))
    bins = 8 if values.size < 12 else 16 if values.size < 100 else 32
    lines = []
    if high / 2 - low / 2 > 0:
        for name, label, value in marks:
            if low <= value <= high:
                x = round(float(_place(value, low, high)) * WIDTH)
                side = f'{x - 3}" text-anchor="end' if x > WIDTH - 30 else f"{x + 3}"
                lines.append(f'<path class="{name}" d="M{x} 0V{HEIGHT}"/><text x="{side}" y="8">{label}</text>')
        index = np.minimum((_place(values, low, high) * bins).astype(np.int64), bins - 1)
    else:
        index = np.full(values.size, bins // 2)
    counts = np.bincount(index, minlength=bins)
    tall = HEIGHT - HEADROOM
    heights = np.where(counts > 0, np.maximum(2, np.rint(counts / counts.max() * tall)), 0).astype(np.int64)
    bars = _silhouette(heights.tolist(), WIDTH // bins)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true"><path class="bars" d="{bars}"/>{"".join(lines)}</svg>'


def _place(values: Floats | float, low: float, high: float) -> Floats:
    """The position of values from low (0) to high (1); halved, because high - low can overflow."""
    return np.asarray((np.asarray(values) / 2 - low / 2) / (high / 2 - low / 2))


def _silhouette(heights: Sequence[int], step: int) -> str:
    parts, level, run = [f"M0 {HEIGHT}"], 0, 0
    for height in heights:
        if height != level:
            parts += [f"h{run}" if run else "", f"v{level - height}"]
            level, run = height, 0
        run += step
    return "".join([*parts, f"h{run}V{HEIGHT}z"])


def ranges(low: Floats, middle: Floats, high: Floats, mark: Floats | None, bottom: float, top: float) -> str:
    """A band from `low` to `high` with a line at `middle`, one step per layer, between the values `bottom` and `top`; `mark` is dashed."""

    def y(values: Floats) -> list[int]:
        place: list[int] = np.rint((top - values) / (top - bottom) * TALL).astype(np.int64).tolist()
        return place

    edges = np.rint(np.linspace(0, LONG, len(low) + 1)).astype(np.int64).tolist()
    upper = "".join(_steps(y(high), edges[1:]))
    lower = "".join(_steps(y(low)[::-1], edges[:-1][::-1]))
    stride = np.ceil((top - bottom) / GRID)
    grid = "".join(f"M0 {level}H{LONG}" for level in y(np.arange(bottom + stride, top, stride)))

    def line(name: str, values: Floats) -> str:
        return f'<path class="{name}" d="M0 {y(values)[0]}{"".join(_steps(y(values), edges[1:]))}"/>'

    return (f'<svg viewBox="0 0 {LONG} {TALL}" preserveAspectRatio="none" aria-hidden="true"><path class="grid" d="{grid}"/>'
            f'<path class="band" d="M0 {y(high)[0]}{upper}{lower}z"/>'
            f'{"" if mark is None else line("mark", mark)}{line("middle", middle)}</svg>')


def _steps(levels: Sequence[int], ends: Sequence[int]) -> Iterator[str]:
    """V to each level, then H to the end of its step; equal neighbors are one step."""
    for i, (level, end) in enumerate(zip(levels, ends)):
        if i + 1 == len(levels) or levels[i + 1] != level:
            yield f"V{level}H{end}"

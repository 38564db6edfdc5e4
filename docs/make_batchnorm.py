"""Generates the sections on mistakes in docs/batchnorm.md from the table in exporter/diagnosis/mistakes.py.

    python docs/make_batchnorm.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from exporter.batchnorm.document import from_document
from exporter.diagnosis.case import Case, make_case
from exporter.diagnosis.mistakes import MISTAKES, RIGHT, Mistake

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from short_lines import short  # noqa: E402

MARK = "<!-- Everything below is made by docs/make_batchnorm.py from exporter/diagnosis/mistakes.py. -->\n"
SHOWN_ON = ("near_epsilon", "channels_first/4", "epsilon/1e-5", "no_gamma", "negative_and_zero_gamma", "types/float64",
            "called_in_training/four_arrays")


def cases() -> list[tuple[str, Case, dict[str, Any]]]:
    """(path, case, entry) of the layers of the conformance file that the examples are taken from."""
    document = json.loads((HERE.parent / "vectors" / "batchnorm-1.json").read_text("utf-8"))
    bundle = from_document(json.loads(json.dumps(document)))
    found = []
    for layer, content in zip(bundle, document["layers"]):
        if layer.path in SHOWN_ON:
            entry = content["cases"][-1]
            x = np.array(entry["input"]).reshape(entry["shape"])
            axes = tuple(a % x.ndim for a in layer.axis or ())
            others = [other for other in bundle if other is not layer and other.moving_mean.size == layer.moving_mean.size]
            found.append((layer.path, make_case(layer, x, axes, others=others), entry))
    return sorted(found, key=lambda item: SHOWN_ON.index(item[0]))


def example(mistake: Mistake, among: list[tuple[str, Case, dict[str, Any]]]) -> str:
    """A number of the conformance file that the mistake gets wrong."""
    for path, case, _ in among:
        for detail, changed in mistake.variants(case):
            right, wrong = case.value(), changed.value()
            with np.errstate(all="ignore"):
                ratio = np.abs(wrong - right) / case.bound("float32")
            row, channel = np.unravel_index(int(np.nanargmax(np.where(np.isinf(ratio), np.nan, ratio))), ratio.shape)
            if ratio[row, channel] > 1:
                variant = f" ({detail})" if detail else ""
                return (f"`{path}`, channel {channel}, x = {case.x[row, channel]:.6g}: {wrong[row, channel]:.6g} instead of "
                        f"{right[row, channel]:.6g}{variant}")
    raise SystemExit(f"{mistake.code}: no layer of the conformance file shows it")


def section(mistake: Mistake, among: list[tuple[str, Case, dict[str, Any]]]) -> str:
    """The section on one mistake."""
    seen = ", ".join(f"[{address.removeprefix('https://')}]({address})" for address in mistake.seen)
    code = f"```python\n{mistake.line}\n```" if not mistake.line.startswith("right") else f"The {mistake.line}."
    return (f"### {mistake.code}: {mistake.name}\n\n{code}\n\n**Why the numbers differ**: {mistake.why}\n\n"
            f"**Instead**: {mistake.instead}.\n\n**For example**: {example(mistake, among)}.\n\n**Seen in**: {seen}.\n")


def sections() -> str:
    """All sections, after a table of contents."""
    among = cases()
    contents = "\n".join(f"| [{mistake.code}](#{anchor(mistake)}) | {mistake.name} |" for mistake in MISTAKES)
    pages = "\n".join(section(mistake, among) for mistake in MISTAKES)
    return (f"## The mistakes\n\nThe correct formula is `{RIGHT}`. In the code below,\nthe names stand for arrays that broadcast along "
            f"the channel axis.\n\n| code | mistake |\n|---|---|\n{contents}\n\n{pages}")


def anchor(mistake: Mistake) -> str:
    """The URL fragment of a mistake's heading."""
    kept = "".join(character for character in f"{mistake.code}: {mistake.name}".lower() if character.isalnum() or character in " -_")
    return kept.replace(" ", "-")


def page(text: str) -> str:
    """The document with its generated part regenerated."""
    return short(text.partition(MARK)[0]) + MARK + "\n" + short(sections())


if __name__ == "__main__":
    path = HERE / "batchnorm.md"
    path.write_text(page(path.read_text("utf-8")), "utf-8")

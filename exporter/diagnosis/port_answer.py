"""The answer of `compare`: how the layers were paired, a line for each layer about which there is something to say, the verdict last."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np

from exporter.diagnosis.mistakes import BY_CODE
from exporter.diagnosis.pairing import HOWS
from exporter.errors import printable

MAX_SHOWN = 20  # pairs of other names, and layers without one
MAX_PART = 0.5  # of the layers that differ unexplained: then it is another checkpoint
EQUAL, ROUNDED, DIFFERS = "equal", "equal after rounding", "differs"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One difference of a layer.

    path:  the layer.   what: "epsilon", "gamma", ..., or "missing" (only in the first), "added" (only in the second).
    code, says: the mistake that it is, and what the other's array is; "" if that is not known.
    mine, theirs: the values, of a parameter those of the worst channel.
    channels, of: how many channels of a parameter differ.   ulp: the largest distance in units of the last place, at `channel`.
    """

    path: str
    what: str
    code: str = ""
    says: str = ""
    mine: Any = None
    theirs: Any = None
    channels: int = 0
    of: int = 0
    ulp: float = 0.0
    channel: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A pair of layers. other: the path in the other form. how: one of pairing.HOWS. rounding: the type in which they are equal."""

    path: str
    other: str
    how: str
    verdict: str
    rounding: str = ""
    differences: tuple[Difference, ...] = ()
    called: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The result of `compare`. missing, added: layers only in the bundle, only in the other form. to_set: what that form cannot store."""

    name: str
    kind: str
    pairs: tuple[Compared, ...]
    missing: tuple[Difference, ...] = ()
    added: tuple[Difference, ...] = ()
    to_set: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether every layer has a counterpart, and nothing differs beyond rounding to the other form's type."""
        return not self.differences

    @property
    def differences(self) -> tuple[Difference, ...]:
        """All differences, in the order of the bundle, then the layers that only the other form contains."""
        return (*(one for pair in self.pairs for one in pair.differences), *self.missing, *self.added)

    def text(self) -> str:
        """The comparison as text, with the verdict at the end."""
        name = printable(self.name, 80)
        layers = len(self.pairs) + len(self.missing)
        hows = Counter(pair.how for pair in self.pairs)
        lines = [f"{name}: {self.kind}", f"{len(self.pairs)} of {layers} layers paired"
                 + (": " + ", ".join(f"{hows[how]} {how}" for how in HOWS if hows[how]) if hows else "")]
        others = [pair for pair in self.pairs if pair.path != pair.other]
        lines += [f"  {printable(pair.path, 80)} = {printable(pair.other, 80) or name} ({pair.how})" for pair in others[:MAX_SHOWN]]
        if len(others) > MAX_SHOWN:
            lines.append(f"  and {len(others) - MAX_SHOWN} more pairs of other names (--json lists all)")
        lines += [f"  {line}" for pair in self.pairs for line in _layer(pair, name)]
        lines += [f"  {printable(one.path, 80)}: not in {name}" + (f"; {one.code} {printable(one.says, 300)}" if one.says else "")
                  for one in self.missing]
        lines += [f"  {printable(one.path, 80)}: not in the bundle" for one in self.added]
        lines += _instead(self)
        lines += [f"note: {printable(note, 300)}" for note in self.notes]
        lines += [f"note: {name} contains no epsilon, so it was not compared: {printable(words, 300)}" for words in self.to_set]
        return "\n".join([*lines, *_verdict(self, name, layers)]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON types."""
        pairs = [{"path": pair.path, "other": pair.other, "how": pair.how, "verdict": pair.verdict, "rounding": pair.rounding or None}
                 for pair in self.pairs]
        differences = [{key: value if not isinstance(value, float) or np.isfinite(value) else str(value)
                        for key, value in dataclasses.asdict(one).items()} for one in self.differences]
        return {"other": self.name, "kind": self.kind, "same": self.same, "pairs": pairs, "differences": differences,
                "to_set": list(self.to_set), "notes": list(self.notes)}


def _layer(pair: Compared, name: str) -> list[str]:
    if not pair.differences:
        return []
    called = dict(pair.called)
    by_code: dict[str, list[Difference]] = {}
    for one in pair.differences:
        by_code.setdefault(one.code if one.says or one.what == "epsilon" else "", []).append(one)
    parts = []
    for code, several in by_code.items():
        said = "; ".join(_differences(alike, called, name, bool(code)) for alike in _alike(several))
        parts.append(f"{code} {BY_CODE[code].name}: {said}" if code else said)
    return [f"{printable(pair.path, 80)}: {'; '.join(parts)}"]


def _alike(differences: list[Difference]) -> list[list[Difference]]:
    """Arrays of which the same is to be said, together."""
    groups: dict[Any, list[Difference]] = {}
    for number, one in enumerate(differences):
        groups.setdefault((one.says, bool(one.of)) if one.says and one.of else number, []).append(one)
    return list(groups.values())


def _differences(several: list[Difference], called: dict[str, str], name: str, explained: bool) -> str:
    one = several[0]
    label = ", ".join(_label(each.what, called) for each in several)
    if not one.of:
        says = f" ({printable(one.says, 200)})" if one.says and one.says != "left out" else ""
        return f"{label}: {_plain(one.mine)} in the bundle, {_plain(one.theirs)} in {name}{says}"
    if explained or one.says:
        return f"{label} {'is' if len(several) == 1 else 'are'} {printable(one.says, 300)}"
    size = f", by up to {one.ulp:.6g} ULP" if math.isfinite(one.ulp) else ""  # of a NaN there is no distance
    return (f"{label}: {one.channels} of {one.of} channels differ{size} (channel {one.channel}: "
            f"{one.mine:.9g} in the bundle, {one.theirs:.9g} in {name})")


def _label(what: str, called: dict[str, str]) -> str:
    shown = called.get(what, what)
    return what if shown == what else f"{what} ({printable(shown, 80)})"


def _plain(value: Any) -> str:
    """A number as short as its float32 allows, where it is one."""
    if isinstance(value, float) and float(np.float32(value)) == value:
        return f"{value:g}"
    return printable(str(value), 80)


def _instead(found: Comparison) -> list[str]:
    codes = dict.fromkeys(one.code for one in found.differences if one.code)
    return [f"{code}: {BY_CODE[code].instead}" for code in codes]


def _verdict(found: Comparison, name: str, layers: int) -> list[str]:
    if found.same:
        rounded = [pair for pair in found.pairs if pair.rounding]
        if not rounded:
            return [f"{name}: the {layers} layers are equal bit for bit"]
        types = sorted({pair.rounding for pair in rounded})
        return [f"{name}: the {layers} layers are equal, {len(rounded)} of them after rounding to {', '.join(types)}"]
    differing = len({one.path for one in found.differences if one.what != "added"}) + len(found.added)
    unexplained = sum(bool(pair.differences) and not any(one.code for one in pair.differences) for pair in found.pairs)
    hint = []
    if unexplained > MAX_PART * len(found.pairs):
        hint = ["no known mistake explains them: parameters of another checkpoint (BN146), or of another model?"]
    return [*hint, f"{name}: {differing} layer{' differs' if differing == 1 else 's differ'}"]

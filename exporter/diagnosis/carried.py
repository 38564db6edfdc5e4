"""What became of each array of a layer, and the one mistake that explains all changes, if there is one."""

from __future__ import annotations

import dataclasses

import numpy as np

from exporter.batchnorm.stored import AFFINE, PARAMETERS, STATISTICS
from exporter.diagnosis.origins import INITIAL, Index, Origin, Sight, order_of, origins, sight, steady
from exporter.diagnosis.ports.port import Ported

SWAPS = {AFFINE: "BN133", STATISTICS: "BN124"}
FOLDED = "BN154"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """An array of the other form.

    right:    whether it is the layer's.       rounding: the type in which it is equal, if it is not equal bit for bit.
    code:     of the mistake.                  words: what it is instead, after "is"; "" if that is unknown.
    """

    name: str
    right: bool = False
    rounding: str = ""
    code: str = ""
    words: str = ""


def carried(mine: Ported, theirs: Ported, index: Index) -> list[Carried]:
    """Each parameter that at least one of the two has. Raises nothing: the arrays have equal lengths."""
    seen = sight(mine, theirs)
    found = {name: _as_it_is(mine, theirs, seen, name) for name in PARAMETERS if name in mine.arrays or name in theirs.arrays}
    wrong = [name for name, one in found.items() if not one.right and not one.words]
    if wrong:
        found |= {one.name: one for one in _explained(mine, theirs, seen, wrong, index)}
    return list(found.values())


def _as_it_is(mine: Ported, theirs: Ported, seen: Sight, name: str) -> Carried:
    if name not in theirs.arrays:  # omitted: equivalent to 1 or 0
        stands = np.full(mine.channels, INITIAL[name][0])
        right = name in ("gamma", "beta") and seen.same(seen.mine[name], stands)
        code = {"gamma": "BN131", "beta": "BN132"}.get(name, "")
        return Carried(name=name, right=right, code="" if right else code, words="" if right else "left out")
    if not seen.same(seen.mine[name], seen.theirs[name]):
        return Carried(name=name)
    exact = bool((seen.mine[name] == seen.theirs[name]).all())
    signs = bool((np.signbit(seen.mine[name]) == np.signbit(seen.theirs[name])).all())
    if exact and not signs and mine.dtype == theirs.dtype:
        return Carried(name=name, words="equal but for the sign of a zero")
    return Carried(name=name, right=True, rounding="" if exact else seen.dtype)


def _explained(mine: Ported, theirs: Ported, seen: Sight, wrong: list[str], index: Index) -> list[Carried]:
    options = {name: origins(seen, name, mine.path, index) for name in wrong}
    swapped = [] if _initial(seen, wrong, options) else _swapped(wrong, options)
    left = [name for name in wrong if name not in {one.name for one in swapped}]
    if not left:
        return swapped
    joint = (_initial(seen, left, options) or _folded(left, options) or _other_layer(left, options) or _reordered(mine, seen, left)
             or _shifted(left, options) or _rounded(left, options))
    return swapped + (joint or [_alone(mine, seen, name, options[name]) for name in left])


def _initial(seen: Sight, wrong: list[str], options: dict[str, list[Origin]]) -> list[Carried]:
    found = {name: [one for one in options[name] if one.kind == "initial"] for name in wrong}
    if not found or not all(found.values()):
        return []
    every = len(seen.theirs) == len(PARAMETERS) and all((values == INITIAL[name][0]).all() for name, values in seen.theirs.items())
    statistics = all(name in seen.theirs and any((seen.theirs[name] == value).all() for value in INITIAL[name]) for name in STATISTICS)
    together = "BN127" if every else "BN123" if statistics else ""
    return [Carried(name=name, words=several[0].words, code=together if together and (every or name in STATISTICS) else several[0].code)
            for name, several in found.items()]


def _folded(wrong: list[str], options: dict[str, list[Origin]]) -> list[Carried]:
    """Scale and offset of the folded form in place of gamma and beta, with statistics that have no further effect."""
    form = {name: next((one for one in options[name] if one.kind == "derived" and one.code == FOLDED), None)
            for name in wrong if name not in STATISTICS}
    inert = [name for name in wrong if name in STATISTICS and any(one.kind == "initial" for one in options[name])]
    if not form or not inert or not all(form.values()) or len(form) + len(inert) < len(wrong):
        return []
    words = {name: one.words for name, one in form.items() if one} | {
        name: f"the {INITIAL[name][0]:g} that goes with it, where epsilon has to be 0" for name in inert}
    return [Carried(name=name, code=FOLDED, words=words[name]) for name in wrong]


def _swapped(wrong: list[str], options: dict[str, list[Origin]]) -> list[Carried]:
    """Two swapped arrays."""
    found = []
    for (one, other), code in SWAPS.items():
        both = [Carried(name=name, code=code, words=origin.words) for name, place in ((one, other), (other, one))
                for origin in options.get(name, ()) if origin.kind == "array" and origin.source == place]
        found += both if len(both) == len((one, other)) else []
    return found


def _other_layer(wrong: list[str], options: dict[str, list[Origin]]) -> list[Carried]:
    found = {name: {one.source: one for one in options[name] if one.kind == "layer" and one.name == name} for name in wrong}
    common = set.intersection(*(set(by_path) for by_path in found.values()))
    path = next((path for path in found[wrong[0]] if path in common), None)
    return [] if path is None else [Carried(name=name, code="BN145", words=f"as in the layer {path!r}") for name in wrong]


def _reordered(mine: Ported, seen: Sight, wrong: list[str]) -> list[Carried]:
    how = order_of(seen, wrong, mine.shape or (mine.channels,))
    return [] if how is None else [Carried(name=name, code="BN143", words=_order(how)) for name in wrong]


def _order(how: str) -> str:
    return f"the layer's in another order of channels ({how})"


def _shifted(wrong: list[str], options: dict[str, list[Origin]]) -> list[Carried]:
    """Arrays of the layer (or of the next one) in other places: all shifted, as if one was omitted, or in another order."""
    moved = {name: [one for one in options[name] if one.kind in ("array", "layer")] for name in wrong}
    inside = [name for name in wrong if moved[name] and moved[name][0].kind == "array"]
    if len(inside) < 2:
        return []
    place = PARAMETERS.index
    later = all(place(moved[name][0].source) > place(name) for name in inside)
    if any(not moved[name] and not any(one.kind == "initial" for one in options[name]) for name in wrong):
        return []
    code = "BN137" if later else "BN138"
    return [Carried(name=name, code=code, words=(moved[name] or options[name])[0].words) for name in wrong]


def _rounded(wrong: list[str], options: dict[str, list[Origin]]) -> list[Carried]:
    found = {name: {one.source: one for one in options[name] if one.kind == "rounded"} for name in wrong}
    common = set.intersection(*(set(by_form) for by_form in found.values()))
    form = next((form for form in found[wrong[0]] if form in common), None)
    return [] if form is None else [Carried(name=name, code=found[name][form].code, words=found[name][form].words) for name in wrong]


def _alone(mine: Ported, seen: Sight, name: str, options: list[Origin]) -> Carried:
    if options:
        best = min(options, key=lambda one: ("array", "initial", "derived", "layer", "rounded", "order").index(one.kind))
        return Carried(name=name, code=best.code or ("BN138" if best.kind == "array" else ""), words=best.words)
    how = order_of(seen, [name], mine.shape or (mine.channels,))
    if how is not None:
        return Carried(name=name, code="BN143", words=_order(how))
    return Carried(name=name, words=steady(seen, name))

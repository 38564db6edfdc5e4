"""Which layer of a bundle corresponds to which layer of another form: as given, by path, by content, or by order and shape."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import HELD_IN, coarser, round_to
from exporter.diagnosis.ports.port import Port, Ported
from exporter.errors import UsageError, names, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLD, PATH, CONTENT, ORDER = "by --map", "by path", "by content", "by order and shape"
HOWS = (TOLD, PATH, CONTENT, ORDER)
WRAPPERS = {"module", "model", "state_dict", "model_state_dict", "params", "batch_stats"}
# Names that a framework counts up by itself: the same network built twice in a process has other ones.
_COUNTED = re.compile(r"(?:(?:sync_)?batch_?norm(?:alization)?(?:_v\d)?(?:[123]d)?)(?:_?\d+)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Positions of two layers that belong together, and how that is known."""

    mine: int
    theirs: int
    how: str


class Pairing:
    """Pairs as they are found; each layer is in one at most."""

    def __init__(self, mine: Sequence[Ported], theirs: Sequence[Ported]) -> None:
        self.mine, self.theirs = mine, theirs
        self.left, self.right = dict(enumerate(mine)), dict(enumerate(theirs))
        self.pairs: list[Pair] = []

    def add(self, mine: int, theirs: int, how: str) -> None:
        del self.left[mine], self.right[theirs]
        self.pairs.append(Pair(mine, theirs, how))


def pair(mine: Sequence[Ported], other: Port, told: Sequence[tuple[str, str]] = ()) -> Pairing:
    """The pairs of a bundle's layers with another form's. told: (glob over the bundle's paths, path or glob of the other's).

    Raises: UsageError for a glob that names nothing.
    """
    found = Pairing(mine, other.layers)
    _as_told(found, told)
    counted_alike = _counted(found.left.values()) == _counted(found.right.values())
    _by_path(found, lambda layer: counted_alike or not _COUNTED.fullmatch(_parts(layer.path)[-1]))
    _by_content(found)
    if [layer.channels for layer in found.left.values()] != [found.right[at].channels for at in _in_order(found.right)]:
        _by_path(found, lambda layer: True)
    _by_order(found)
    found.pairs.sort(key=lambda one: one.mine)
    return found


def _as_told(found: Pairing, told: Sequence[tuple[str, str]]) -> None:
    paths = {layer.path: at for at, layer in found.right.items()}
    for old, new in told:
        matching = [at for at, layer in found.left.items() if fnmatch.fnmatchcase(layer.path, old)]
        if not matching:
            raise UsageError(f"--map {old}={new}: {printable(old)!r} matches no unpaired layer of the bundle",
                             hint=f"its layers are {names(layer.path for layer in found.mine)}")
        for at in matching:
            wanted = _translated(found.left[at].path, old, new)
            if wanted not in paths or paths[wanted] not in found.right:
                raise UsageError(f"--map {old}={new}: OTHER contains no unpaired layer {printable(wanted)!r}",
                                 hint=f"its layers are {names(paths)}")
            found.add(at, paths[wanted], TOLD)


def _translated(path: str, old: str, new: str) -> str:
    """`new` with its stars replaced by what the stars of `old` stand for in `path`."""
    stands = re.fullmatch("(.*)".join(re.escape(part) for part in old.split("*")), path)
    parts = new.split("*")
    if stands is None or len(parts) == 1:
        return new
    if len(parts) - 1 != len(stands.groups()):
        raise UsageError(f"--map {old}={new}: expected the same number of * on both sides", hint="e.g. --map 'encoder/*=enc.*'")
    return "".join(part + star for part, star in zip(parts, [*stands.groups(), ""]))


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path, "/" and "." alike, without what wraps a whole model."""
    parts = [part for part in re.split(r"[/.]", path) if part]
    while len(parts) > 1 and parts[0] in WRAPPERS:
        parts = parts[1:]
    return tuple(parts) or ("",)


def _counted(layers: Any) -> set[tuple[str, ...]]:
    return {parts for layer in layers if _COUNTED.fullmatch((parts := _parts(layer.path))[-1])}


def _by_path(found: Pairing, may: Callable[[Ported], bool]) -> None:
    """Equal paths; then paths of which one is the end of the other, where that is so for no second one."""
    exact = {layer.path: at for at, layer in found.right.items()}
    for at, layer in list(found.left.items()):
        if layer.path in exact and may(layer):
            found.add(at, exact[layer.path], PATH)
    mine = {at: _parts(layer.path) for at, layer in found.left.items()}
    theirs = {at: _parts(layer.path) for at, layer in found.right.items() if may(layer)}
    ends: dict[tuple[str, ...], list[int]] = {}
    for at, parts in theirs.items():
        for start in range(len(parts)):
            ends.setdefault(parts[start:], []).append(at)
    wholes: dict[tuple[str, ...], list[int]] = {}
    for at, parts in theirs.items():
        wholes.setdefault(parts, []).append(at)
    candidates = {at: wholes.get(parts) or _longest(parts, ends, wholes) for at, parts in mine.items()}
    taken = Counter(one for several in candidates.values() for one in several)
    for at, several in candidates.items():
        if len(several) == 1 and taken[several[0]] == 1:
            found.add(at, several[0], PATH)


def _longest(parts: tuple[str, ...], ends: dict[tuple[str, ...], list[int]], wholes: dict[tuple[str, ...], list[int]]) -> list[int]:
    """Those whose path ends with `parts`, else those with which `parts` ends, the longest first."""
    return ends.get(parts) or next((wholes[parts[start:]] for start in range(1, len(parts)) if parts[start:] in wholes), [])


def _by_content(found: Pairing) -> None:
    """Layers of which at least half of the telling arrays are equal, after rounding, in whatever place; the best for both sides only."""
    votes: dict[int, Counter[int]] = {}
    for dtype in {layer.dtype for layer in found.right.values()}:
        index: dict[bytes, set[int]] = {}
        for at, layer in found.left.items():
            for values in layer.arrays.values():
                index.setdefault(fingerprint(values, layer.dtype, dtype), set()).add(at)
        for at, layer in found.right.items():
            if layer.dtype == dtype:
                votes[at] = _votes(layer, found, index)
    best = {at: one for at, counts in votes.items() if (one := _only_best(counts)) is not None}
    wanted = Counter(best.values())
    for at, one in best.items():
        if wanted[one] == 1:
            found.add(one, at, CONTENT)


def _votes(layer: Ported, found: Pairing, index: dict[bytes, set[int]]) -> Counter[int]:
    counts: Counter[int] = Counter()
    telling = [values for values in layer.arrays.values() if values.size == 1 or np.ptp(values.astype(np.float64)) > 0]
    for values in telling:
        for dtype in {one.dtype for one in found.left.values()}:
            counts.update(index.get(fingerprint(values, layer.dtype, dtype), ()))
    return Counter({at: count for at, count in counts.items() if 2 * count >= len(telling)})


def _only_best(counts: Counter[int]) -> int | None:
    first = counts.most_common(2)
    return first[0][0] if len(first) == 1 or (first and first[0][1] > first[1][1]) else None


def fingerprint(values: NDArray[Any], dtype: str, other: str) -> bytes:
    """The bytes of an array in the coarser of two types."""
    coarse = coarser(dtype, other)
    return np.ascontiguousarray(round_to(values.astype(np.float64).ravel(), coarse), HELD_IN[coarse]).tobytes() + coarse.encode()


def _in_order(layers: dict[int, Ported]) -> list[int]:
    """Positions in the order of the model: as they stand, or counted up where a form sorts names as text (bn_10 before bn_2)."""
    paths = [layer.path for layer in layers.values()]
    return sorted(layers, key=lambda at: natural(layers[at].path)) if paths == sorted(paths) else list(layers)


def natural(path: str) -> list[tuple[int, int, str]]:
    """A sorting key in which bn_2 goes before bn_10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path) if part]


def _by_order(found: Pairing) -> None:
    """Layers that are left, in order, where as many of each length are left on both sides."""
    mine, theirs = list(found.left), _in_order(found.right)
    lengths = Counter(found.mine[at].channels for at in mine)
    same = {length for length, count in Counter(found.theirs[at].channels for at in theirs).items() if lengths[length] == count}
    for length in same:
        for one, other in zip(_of_length(found.mine, mine, length), _of_length(found.theirs, theirs, length)):
            found.add(one, other, ORDER)


def _of_length(layers: Sequence[Ported], positions: list[int], length: int) -> Iterator[int]:
    return (at for at in positions if layers[at].channels == length)

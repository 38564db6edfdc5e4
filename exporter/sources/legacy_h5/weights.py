"""The weights of a legacy HDF5 file: which of a layer group's weights make up one batch norm, and of which layer it is.

A group contains the weights of one layer of the outermost model, including everything inside that layer. Their names, as
Keras gave them to its variables:

    1.x                "bn_gamma:0", "bn_running_std:0" (no ":0" on Theano)
    2.x, tf.keras      "bn/gamma:0", "bn/moving_variance:0"; inside a wrapper or a cell the scope is the wrapper's or the cell's
    3.0 to 3.2         "gamma"; 3.3 on: "bn/gamma", "outer/bn/gamma"

A scope is not the layer's name: TensorFlow makes it unique ("bn_1"), and a layer can be renamed after it is built. But in every
version the statistics of a group are in the order of its layers, including frozen layers: Model.weights is all trainable
weights, layer by layer, and then all others, layer by layer; a frozen layer's weights move to its place among the others as a whole.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from exporter.batchnorm.layer import PARAMETERS
from exporter.errors import COPY_AGAIN, FormatError, names, printable
from exporter.keras.config import Node, is_batch_norm, join
from exporter.keras.lookalikes import INNER_NORM, WRAPPERS_AS_THEY_ARE
from exporter.keras.names import spellings, unnumbered
from exporter.keras.node import repetitions
from exporter.sources.shared.assemble import RENORM_EVER

if TYPE_CHECKING:
    from exporter.formats.hdf5_file import File

_NAME = re.compile(r"(gamma|beta|moving_mean|moving_variance)(_\d+)?(:\d+)?")
_NAME_OF_KERAS_1 = re.compile(r"(.+)_(gamma|beta|running_mean|running_std)(_\d+)?(:\d+)?", re.DOTALL)
_KERAS_1 = re.compile(r"_[^_/]+(:\d+)?$")  # the role at the end of a weight's name, "dense_1_W"
_HOLDERS = frozenset(("TimeDistributed", "Bidirectional", "RNN", "StackedRNNCells", *WRAPPERS_AS_THEY_ARE))  # Keras's own, of one layer
_IN_ORDER = {(*trained, "moving_mean", "moving_variance") for trained in ((), ("gamma",), ("beta",), ("gamma", "beta"))}
_ROLES = {"running_mean": "moving_mean", "running_std": "moving_variance"}

MIXED = "several batch norms have the scope {}, and not all have the same parameters: which belong together is ambiguous"
OF_ANOTHER = "its group also contains {}: it may be the layer's own, which it has in common with another layer"

Parsed = tuple[str, str, str]  # scope, parameter, number that makes it unique

S = TypeVar("S")
L = TypeVar("L")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LayerGroup:
    """A layer group: its name in `layer_names`, its path in the file, the names of its weights in the order in which they are saved.

    stored: the names of their datasets, if these differ. parsed: what the name of each weight says. datasets: their paths in the file.
    """

    name: str
    path: str
    weights: tuple[str, ...]
    stored: tuple[str, ...] = ()
    parsed: tuple[Parsed | None, ...] = dataclasses.field(init=False)
    datasets: tuple[str, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parsed", tuple(map(parse, self.weights)))
        above, names = self.path, self.stored or self.weights
        object.__setattr__(self, "datasets", tuple([f"{above}/{name}" if above and name else above or name for name in names]))


class Norm(NamedTuple):
    """The weights of one batch norm.

    scope:         the part before the parameters' names; may be "".
    datasets:      path in the file by parameter.
    old_name:      whether the fourth is called running_std. on_tensorflow: whether the names end in ":0".
    doubt:         why it is uncertain that these weights belong together, "" if it is not.
    """

    scope: str
    datasets: Mapping[str, str]
    old_name: bool
    on_tensorflow: bool
    doubt: str = ""


class Candidate(NamedTuple):
    """A batch norm of the config inside a group.

    around: names of the wrappers, cells and user's layers around it, whose scope it may have. may_have_others: whether one of these is a
    user's, which may hold batch norms that its config does not describe, and not use those that it does.
    """

    path: str
    node: Node
    around: tuple[str, ...]
    may_have_others: bool


def norms_of(group: LayerGroup, *, may_put_beta_first: bool = False, is_one: bool = False) -> list[Norm]:
    """The batch norms of a group in the order in which it contains their statistics.

    may_put_beta_first: see exporter.keras.dialects.Era. is_one: the group is that of one batch norm, according to the config.

    Raises: FormatError if a name occurs twice, or names and order disagree.
    """
    if group.parsed and None not in group.parsed:
        scopes, roles, numbers = zip(*group.parsed)
        if roles in _IN_ORDER and len({*scopes}) == 1 and not any(numbers):  # nearly always
            return [_norm(group, scopes[0], dict(zip(roles, range(len(roles)))), "")]
    found: dict[tuple[str, str], dict[str, int]] = {}
    for position, parsed in enumerate(group.parsed):
        if parsed is not None:
            scope, role, number = parsed
            if found.setdefault((scope, number), {}).setdefault(role, position) != position:
                raise FormatError(f"{printable(group.weights[position])!r} occurs twice among its weights", where=group.name)
    complete = {key: roles for key, roles in found.items() if "moving_mean" in roles and "moving_variance" in roles}
    mixed, shared = _mixed(found), _shared(group, found)
    if shared and len(complete) == 1 and is_one and _is_in_order(shared):
        complete = dict.fromkeys(complete, shared)
    for (scope, _), roles in complete.items():
        if scope in mixed:
            continue
        order = sorted(roles, key=roles.__getitem__)
        if may_put_beta_first and order[:2] == ["beta", "gamma"]:
            order[:2] = "gamma", "beta"
        if order != [role for role in PARAMETERS if role in roles]:
            listed = ", ".join(group.weights[position] for position in sorted(roles.values()))
            raise FormatError(f"names and positions of its weights disagree: {printable(listed)}", where=group.name,
                              hint="Keras saves gamma, beta, mean and variance in this order")
    return [_norm(group, scope, roles, MIXED.format(repr(printable(scope))) if scope in mixed else _doubt(group, scope, roles, shared))
            for (scope, _), roles in sorted(complete.items(), key=lambda item: item[1]["moving_mean"])]


def _shared(group: LayerGroup, found: Mapping[tuple[str, str], Mapping[str, int]]) -> dict[str, int]:
    """The weights of a group by role if they are those of one batch norm but for their scopes, so that some are perhaps also another
    layer's (`bn_2.gamma = bn_1.gamma`); {} if not."""
    roles = {role: position for each in found.values() for role, position in each.items()}
    return roles if len(found) > 1 and len(roles) == len(group.weights) else {}


def _is_in_order(roles: Mapping[str, int]) -> bool:
    return [role for role in PARAMETERS if role in roles] == sorted(roles, key=roles.__getitem__)


def _doubt(group: LayerGroup, scope: str, roles: Mapping[str, int], shared: Mapping[str, int]) -> str:
    """Why it is uncertain whether these roles are all that the batch norm has; "" if it is not."""
    others = [group.weights[position] for role, position in shared.items() if role not in roles]
    is_alone = unnumbered(scope) in ("", group.name)  # otherwise the group is that of a model
    return OF_ANOTHER.format(names(others)) if others and (is_alone or _is_in_order(shared)) else ""


def parse(weight: str) -> Parsed | None:
    """(scope, parameter, number that makes it unique) of a weight's name; None: not a parameter of a batch norm."""
    above, _, last = weight.rpartition("/")
    found = _parse_last(last)
    return found and (join(above, found[0]) if found[0] else above, found[1], found[2])


@functools.lru_cache(1000)  # a few names, over and over
def _parse_last(name: str) -> Parsed | None:
    """`parse` for a name without a slash."""
    found = _NAME.fullmatch(name)
    if found:
        return "", found[1], found[2] or ""
    found = _NAME_OF_KERAS_1.fullmatch(name)
    return (found[1], _ROLES.get(found[2], found[2]), found[3] or "") if found else None


@functools.lru_cache(1000)
def _is_old(name: str) -> bool:
    """Whether the name of a variance, without a slash, is one of Keras 1."""
    return _NAME.fullmatch(name) is None


def _mixed(found: Mapping[tuple[str, str], Mapping[str, int]]) -> set[str]:
    """The scopes with gamma, gamma_1, moving_mean, moving_mean_1, ... where not every number has the same parameters: each name is
    numbered separately, so that gamma_1 may belong to moving_mean_2."""
    return {scope for (scope, number), roles in found.items() if number and set(found.get((scope, ""), roles)) != set(roles)}


def _norm(group: LayerGroup, scope: str, roles: Mapping[str, int], doubt: str) -> Norm:
    variance = group.weights[roles["moving_variance"]]
    return Norm(scope=scope, datasets={role: group.datasets[position] for role, position in roles.items()},
                old_name=_is_old(variance.rpartition("/")[2]), on_tensorflow=variance.endswith(":0"), doubt=doubt)


def check_stored(file: File, group: LayerGroup) -> None:
    """Whether a group that may contain batch norms has all weights: a damaged name would otherwise look like a layer without gamma."""
    if any(group.parsed):
        missing = file.first_missing(group.datasets)
        if missing is not None:
            weight = group.weights[group.datasets.index(missing)]
            raise FormatError(f"weight_names lists {printable(weight, 80)!r}, but the file contains no such weight", where=group.name,
                              hint=COPY_AGAIN)


def check_not_exchanged(groups: Sequence[LayerGroup]) -> None:
    """Refuses groups that contain each other's weights according to their names: exchanged groups look like layers that were given each
    other's names after they were built. A layer that was renamed otherwise has names in its group that are those of no other layer.
    """
    known = {group.name for group in groups}
    owner = {group.name: scope for group in groups if (scope := _only_scope(group)) in known and scope != group.name}
    for name in owner:
        seen = [name]
        while (following := owner.get(seen[-1])) is not None and following not in seen:
            seen.append(following)
        if following == name:
            raise FormatError(f"the weights in this group have the names of {printable(owner[name], 80)!r}, and the group of that "
                              f"layer contains the weights of {printable(owner[owner[name]], 80)!r}", where=name,
                              hint="if the layers were given each other's names after they were built, load the model in Keras and save "
                                   "it again; else the file is damaged: its groups were exchanged; copy or download it again")


def _only_scope(group: LayerGroup) -> str:
    """The scope of all weights of a group; "" if there are several, or it is uncertain."""
    scopes = {parsed[0] for parsed in group.parsed if parsed is not None}
    if None in group.parsed:
        scopes |= {weight.rpartition("/")[0] or _KERAS_1.sub("", weight)
                   for weight, parsed in zip(group.weights, group.parsed) if parsed is None}
    return scopes.pop() if len(scopes) == 1 else ""


def names_below(groups: Sequence[LayerGroup]) -> dict[str, set[str]]:
    """By the name of a layer, what the names of other layers put into its group: "b" into the group of "a", for "a/b"."""
    known, below = {group.name for group in groups}, dict[str, set[str]]()
    for group in groups:
        for slash in re.finditer("/", group.name):
            if (above := group.name[:slash.start()]) in known:
                below.setdefault(above, set()).add(group.name[slash.end():].partition("/")[0])
    return below


def check_listed(file: File, group: LayerGroup, others: Iterable[str]) -> None:
    """Whether weight_names lists everything in a group that may contain batch norms: a truncated list would otherwise look
    like a layer of another kind. others: what else belongs into this group (`names_below`).
    """
    if group.weights and not any(group.parsed):
        return
    listed = {group.path: set(others)}
    for weight in group.weights:
        parts = weight.split("/")
        for depth, part in enumerate(parts):
            listed.setdefault(join(group.path, "/".join(parts[:depth])), set()).add(part)
    for path, known in listed.items():
        if file.is_group(path) and file.count(path) > len(known):
            extra = [name for name in file.names(path) if name not in known]
            raise FormatError(f"it holds {names(extra)}, which weight_names does not list", where=group.name, hint=COPY_AGAIN)


def other_weights(group: LayerGroup, norms: Sequence[Norm]) -> dict[str, list[str]]:
    """By scope, the names of the weights that its batch norms do not have, without those of renormalization."""
    used = {dataset for norm in norms for dataset in norm.datasets.values()}
    found: dict[str, list[str]] = {}
    for weight, parsed, dataset in zip(group.weights, group.parsed, group.datasets):
        if dataset in used or (parsed is not None and norms[0].old_name):
            continue
        scope, _, role = weight.rpartition("/")
        if re.sub(r"(_\d+)?(:\d+)?$", "", role) not in RENORM_EVER:
            found.setdefault(scope, []).append(weight)
    return found


def candidates(path: str, node: Node, around: tuple[str, ...] = (), may_have_others: bool = False) -> Iterator[Candidate]:
    """The batch norms at and below `node`, in the order of its layers."""
    if is_batch_norm(node):
        yield Candidate(path=path, node=node, around=around, may_have_others=may_have_others)
        return
    inside = () if node.is_model else (*around, node.name)
    for role, child in node.children:
        is_users = not node.is_model and node.base_name not in _HOLDERS and role != INNER_NORM
        yield from candidates(join(path, child.name), child, inside, may_have_others or is_users)


def has_known_order(node: Node) -> bool:
    """Whether Keras defines the order of all batch norms below `node`."""
    return node.is_order_known and all(has_known_order(child) for _, child in node.children)


def match(group: LayerGroup, norms: Sequence[Norm], found: Sequence[Candidate], *,
          in_order: bool) -> list[tuple[Norm | None, Candidate | None]]:
    """Assigns the weights to layers, in the order of the model.

    A norm without a candidate is inside a user's class that does not describe its contents; a candidate without a norm was never
    built. `in_order`: the order of the candidates is that of the model; otherwise only whole names decide.

    Raises: FormatError if names and order disagree, or allow more than one answer.
    """
    if in_order and len(norms) == len(found):
        fitting = [_fits(norm, candidate) for norm, candidate in zip(norms, found)]
        if any(fitting) and not all(fitting) and repetitions(candidate.node for candidate in found):
            raise FormatError("the config lists a batch norm twice, which may be one layer, and the weights named "
                              f"{printable(norms[fitting.index(False)].scope)!r} are of a layer that it does not name: which weights "
                              "belong to which layer is ambiguous", where=group.name)
        for norm, candidate, is_fitting in zip(norms, found, fitting):
            if not is_fitting and candidate.may_have_others:
                raise FormatError(f"the config has {printable(candidate.path)!r} at the position of the weights named "
                                  f"{printable(norm.scope)!r}, in a custom class: it is ambiguous whose they are", where=group.name)
            if not is_fitting and any(_is_named(norm.scope, other.node.name) for other in found):
                raise FormatError(f"names and order disagree: the weights named {printable(norm.scope)!r} are at the position "
                                  f"of {printable(candidate.path)!r}", where=group.name)
        return list(zip(norms, found))
    if not in_order:
        return _match_by_name(group, norms, found)
    if len(norms) > len(found):
        places = _only_embedding(group, found, norms, lambda candidate, norm: _fits(norm, candidate))
        owners = dict(zip(places, found))
        return [(norm, owners.get(place)) for place, norm in enumerate(norms)]
    places = _only_embedding(group, norms, found, _fits)
    built = dict(zip(places, norms))
    return [(built.get(place), candidate) for place, candidate in enumerate(found)]


def _match_by_name(group: LayerGroup, norms: Sequence[Norm], found: Sequence[Candidate]) -> list[tuple[Norm | None, Candidate | None]]:
    left = list(norms)
    pairs: list[tuple[Norm | None, Candidate | None]] = []
    for candidate in found:
        named = [norm for norm in norms if _is_named(norm.scope, candidate.node.name)]
        if len(named) != 1 or named[0] not in left:
            raise FormatError(f"which weights belong to {printable(candidate.path)!r} is ambiguous: its class is a custom one, and "
                              f"{len(named)} batch norms have that name", where=group.name)
        left.remove(named[0])
        pairs.append((named[0], candidate))
    return pairs + [(norm, None) for norm in left]


def _is_named(scope: str, name: str) -> bool:
    return bool(name) and (scope == name or scope.endswith(f"/{name}"))


def _fits(norm: Norm, candidate: Candidate) -> bool:
    """Whether a scope can belong to this layer: its name or that of a wrapper, either exactly or with TensorFlow's number; or no scope."""
    if not norm.scope or _is_named(norm.scope, candidate.node.name):  # nearly always
        return True
    return any(_is_named(scope, name) for scope in spellings(norm.scope) for name in (candidate.node.name, *candidate.around))


def _only_embedding(group: LayerGroup, short: Sequence[S], long: Sequence[L], fits: Callable[[S, L], bool]) -> list[int]:
    """Positions of `short` in `long`, in order, if they are unique: the first match from the left is then the first from the right."""
    first = _embedding(short, long, fits)
    last = _embedding(short[::-1], long[::-1], fits)
    if first is None or last is None:
        raise FormatError(f"its weights do not match the config: {len(short)} and {len(long)} batch norms with different names",
                          where=group.name)
    if first != [len(long) - 1 - place for place in reversed(last)]:
        raise FormatError("its weights match the config in more than one way: some of its batch norms have no config or were never built",
                          where=group.name)
    return first


def _embedding(short: Sequence[S], long: Sequence[L], fits: Callable[[S, L], bool]) -> list[int] | None:
    places: list[int] = []
    for item in short:
        start = places[-1] + 1 if places else 0
        place = next((place for place in range(start, len(long)) if fits(item, long[place])), None)
        if place is None:
            return None
        places.append(place)
    return places


def path_of(group: LayerGroup, scope: str) -> str:
    """The path of a batch norm without a config: the group's name, and what its scope adds."""
    if unnumbered(scope) == group.name:
        return group.name
    parts, own = scope.split("/"), group.name.split("/")
    for start in range(len(parts) - len(own), -1, -1):  # the last case: Keras 3 puts the outer model's name in front
        if parts[start:start + len(own)] == own:
            return "/".join(parts[start:])
    return join(group.name, scope)

"""Batch norms in the weights of .keras archives and .weights.h5 files, matched to the layers of a config or recognised without one.

Groups bear the names of attributes and of counted classes, not of layers. With a config the way to each layer's group is replayed as the
Keras that saved it went; what it finds has to fit: the number of variables, their shapes, and the layer's name where the file holds it
(Keras 3.6 on). Inside a user's own class, which no config describes, batch norms are recognised by what their groups hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from exporter import dialects
from exporter.errors import FormatError, printable
from exporter.errors import names as several
from exporter.keras_config import BATCH_NORMS, MODELS, Node, is_batch_norm, join, norm_fields
from exporter.layer import BatchNorm
from exporter.sources._norm import assemble, roles_of
from exporter.sources._v3_groups import LAYER_LISTS, NOT_LAYERS, Group, numbered, snake_case

if TYPE_CHECKING:
    from exporter.bundle import Bundle, Origin

# Layers of Keras's own that hold no other layer: their groups need not be opened.
LEAVES = frozenset((
    "InputLayer", "Dense", "Activation", "ReLU", "LeakyReLU", "PReLU", "Softmax", "Dropout", "Flatten", "Reshape", "Add", "Multiply",
    "Concatenate", "Rescaling", "LayerNormalization", "Embedding", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
    *(f"{kind}{rank}D" for rank in (1, 2, 3)
      for kind in ("Conv", "DepthwiseConv", "SeparableConv", "ZeroPadding", "Cropping", "UpSampling", "MaxPooling", "AveragePooling"))))
KNOWN_GROUPS = tuple(snake_case(name) for name in BATCH_NORMS)
OTHER_NORMS = ("layer_normalization", "group_normalization")  # they hold gamma and beta

ONE_OF_TWO = "one of its parameters is gamma or beta, and the file does not say which"
THREE_VECTORS = "it holds three vectors of one length, as a batch norm without gamma or beta does; the file does not say what they are"
TWO_VECTORS = "it holds two vectors of one length, as a LayerNormalization or a batch norm without gamma and beta does"
FOUR_VECTORS = "taken for a batch norm because it holds four vectors of one length; the file does not name its class"
NO_VARIANCE = "its second vector has negative values and is no variance"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Match:
    """A batch norm of the model.

    node:  its config, None inside a user's class. group: its weights, None where the file has none.
    told: whether the config tells of batch norms somewhere in this user's class.
    """

    path: str
    node: Node | None
    group: Group | None
    told: bool = False


@dataclasses.dataclass(slots=True)
class Found:
    """What a file holds: see Bundle. groups: that of each layer."""

    layers: list[BatchNorm] = dataclasses.field(default_factory=list)
    groups: list[Group] = dataclasses.field(default_factory=list)
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def bundle(self, origin: Origin, warnings: Sequence[str] = ()) -> Bundle:
        from exporter.bundle import Bundle

        return Bundle(layers=tuple(self.layers), origin=origin, skipped=tuple(self.skipped), warnings=(*warnings, *self.warnings))


def read_weights(root: Group, tree: Node | None, keras_version: str | None, *, own_config: bool) -> Found:
    """The batch norms under `root`.

    tree: the model's config, or None. own_config: whether it was saved together with these weights, so that names have to agree.
    Raises: FormatError where config and weights do not fit.
    """
    found = Found()
    ranks: Any = {}
    if tree is None:
        matches = [Match(path, None, group) for path, group in _groups_below(root, frozenset(), "", bool(root.name))]
    else:
        from exporter.ranks import input_ranks

        matches = _matched(root, tree, keras_version)
        ranks = input_ranks(tree)
        for match in matches:
            if match.node is not None and match.group is not None:
                _check_name(match.path, match.node, match.group, own_config)
    era = dialects.era_of(keras_version, None)
    for match in matches:
        if match.node is None:
            assert match.group is not None
            _recognise(match.path, match.group, found, match.told)
        elif match.group is None or not match.group.holds_variables():
            found.skipped.append((match.path, "the file holds no weights for it; was the model built before it was saved?"))
        else:
            _read(match.path, match.node, match.group, era, ranks.get(match.node), found)
    return found


def _read(path: str, node: Node, group: Group, era: dialects.Era, rank: int | None, found: Found) -> None:
    """A layer with a config: gamma and beta as it says, then the statistics; renorm adds three that inference does not use."""
    fields = norm_fields(node)
    count = len(group.variables())
    names = roles_of(count, fields.center, fields.scale, renorm=fields.renorm)
    if not count:
        raise FormatError(f"its variables are called {several(group.variable_names())}: one is missing", where=path)
    if names is None:
        reason = f"the file holds {count} variables for it, which does not fit center, scale and renorm of its config"
        if node.base_name in BATCH_NORMS:
            raise FormatError(reason, where=path)
        found.skipped.append((path, reason))
        return
    arrays = dict(zip(names, group.arrays(), strict=False))
    found.layers.append(assemble(path, node, fields, arrays, era, rank))
    found.groups.append(group)


def _check_name(path: str, node: Node, group: Group, own_config: bool) -> None:
    """Whether the name in the weights is the one in the config. Names that Keras made up differ from one session to the next."""
    name = group.name
    made_up = any(numbered(text)[0] == snake_case(node.base_name) for text in (name or "", node.name))
    if name is None or name == node.name or (made_up and not own_config):
        return
    what = "the config" if own_config else "the architecture"
    raise FormatError(f"{what} calls this layer {printable(node.name, 80)!r}, the weights {printable(name, 80)!r}: they do not fit",
                      where=path, hint="" if own_config else "give the architecture of the model that these weights are of")


def _matched(root: Group, tree: Node, keras_version: str | None) -> list[Match]:
    """Matches under the numbering that this version of Keras used; without a version, under the one that fits."""
    version = dialects.era_of(keras_version, None).version
    counts_in_twos = {False} if root.child(LAYER_LISTS[1]) is None else {True, False}
    if version is not None:
        counts_in_twos = {(2, 12) <= version < (2, 14)}
    ways = []
    for twos in sorted(counts_in_twos):
        ways.append(_Replay(root, twos))
        ways[-1].run(tree)
    fitting = [way for way in ways if way.fits]
    if len({way.places for way in fitting}) > 1:
        raise FormatError("the groups fit the layers in two ways, those of Keras 2.12 and 2.14",
                          hint="save the model as one file with a Keras of today")
    way = (fitting or ways)[0]
    for path in way.strange:
        raise FormatError("the weights hold this batch norm, the config does not: they do not fit", where=path)
    return way.matches


class _Replay:
    """The way that Keras goes over a model when it saves it, along a config and the groups at once."""

    def __init__(self, root: Group, twos: bool) -> None:
        self.root, self.twos = root, twos
        self.named = root.name is not None
        self.matches: list[Match] = []
        self.taken: set[str] = set()  # paths of the groups that the config explains
        self.strange: list[str] = []  # of batch norms in lists of layers that it does not explain
        self._shared: set[int] = set()
        self._saved: dict[str, list[Node]] = {}

    def run(self, tree: Node) -> None:
        self._node(tree, self.root, "")

    @property
    def fits(self) -> bool:
        return not self.strange and all(match.group is not None for match in self.matches)

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        return tuple((match.path, match.group.path if match.group else "") for match in self.matches)

    def _node(self, node: Node, group: Group | None, path: str) -> None:
        if self._is_saved_already(node, group):
            return
        if is_batch_norm(node):
            self.matches.append(Match(path, node, group))
            return
        unplaced = self._children(node, group, path)
        if group is not None:
            unplaced = self._by_name(unplaced, group, path)
        norms = [found for child in unplaced for found in _norms(child, path)]
        left = [] if group is None else list(_groups_below(group, self.taken, path, self.named))
        self.matches += [Match(below, None, inner, told=bool(norms)) for below, inner in left]
        if not left:
            self.matches += [Match(below, child, None) for below, child in norms if not self._is_saved_already(child, None)]

    def _is_saved_already(self, node: Node, group: Group | None) -> bool:
        """Whether the layer stands in the model for the second time: Keras saves it at the first. Inner entries have no
        shared_object_id before 2.13; there a second one without a group and with the same config is the same.
        """
        if node.shared_object is not None:
            if node.shared_object in self._shared:
                return True
            self._shared.add(node.shared_object)
        same = self._saved.setdefault(node.name, [])
        if group is None and any(other.class_name == node.class_name and other.config == node.config for other in same):
            return True
        if group is not None:
            same.append(node)
        return False

    def _children(self, node: Node, group: Group | None, path: str) -> list[Node]:
        """Goes on to the layers inside; returns those whose group is not where their role in the config says."""
        unplaced: list[Node] = []
        for role in dict.fromkeys(role for role, _ in node.children):
            nodes = [child for other, child in node.children if other == role]
            inner = None
            if group is not None:
                inner = group.layer_list() if role == "layers" else group.child(role)
            if inner is not None and not self._is_list(node, role):
                self.taken.add(inner.path)
                self._node(nodes[0], inner, join(path, _name_of(nodes[0], inner)))
                unplaced += nodes[1:]
            elif inner is not None and self._is_list_complete(node, role, inner, nodes):
                self.taken.add(inner.path)
                self._listed(nodes, inner, path)
            else:
                unplaced += nodes
        return unplaced

    def _by_name(self, unplaced: list[Node], group: Group, path: str) -> list[Node]:
        """Layers inside a user's class whose group has their name, and no other has it; returns the rest."""
        groups = list(_layers_below(group, self.taken)) if unplaced and self.named else []
        names = [inner.name for inner in groups]
        rest = []
        for node in unplaced:
            if names.count(node.name) == 1 and sum(other.name == node.name for other in unplaced) == 1:
                inner = groups[names.index(node.name)]
                self.taken.add(inner.path)
                self._node(node, inner, join(path, node.name))
            else:
                rest.append(node)
        return rest

    def _is_list(self, node: Node, role: str) -> bool:
        return role == "layers" or isinstance(node.config.get(role), list)

    def _is_list_complete(self, node: Node, role: str, inner: Group, nodes: list[Node]) -> bool:
        """Whether `nodes` are all that the container counted. In a user's class the names or the number of groups have to say so."""
        if node.base_name in (*MODELS, "StackedRNNCells") or (role == "layers" and "input_layers" in node.config):
            return True
        return len(list(inner.children())) == len(nodes)

    def _listed(self, nodes: list[Node], container: Group, path: str) -> None:
        """The layers of a container, counted by class; 2.12 and 2.13 count a layer with weights twice."""
        used: dict[str, int] = {}
        for node in nodes:
            base = snake_case(node.base_name)
            number = used.get(base, 0)
            name = f"{base}_{number}" if number else base
            self.taken.add(join(container.path, name))
            if node.class_name in LEAVES and node.registered_name is None and not self.twos:
                used[base] = number + 1
                continue
            group = container.child(name)
            weighted = self.twos and (_holds_norm(node) if group is None else group.holds_variables())
            used[base] = number + (2 if weighted else 1)
            self._node(node, group, join(path, _name_of(node, group)))
        self.strange += [group.path for name, group in container.children(self.taken)
                         if numbered(name)[0] in KNOWN_GROUPS and group.holds_variables()]
        self.matches += [Match(below, None, group) for below, group in _groups_below(container, self.taken, path, self.named)]


def _name_of(node: Node, group: Group | None) -> str:
    """The layer's name; where its config leaves it out, that in the weights or else that of its group."""
    return node.name or (group and (group.name or group.path.rpartition("/")[2])) or ""


def _norms(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    path = join(path, node.name)
    if is_batch_norm(node):
        yield path, node
    for _, child in node.children:
        yield from _norms(child, path)


def _holds_norm(node: Node) -> bool:
    return any(True for _ in _norms(node, ""))


def _layers_below(group: Group, taken: set[str]) -> Iterator[Group]:
    """The layers that `group` holds as attributes or in lists and dicts, without those inside them."""
    for name, child in group.children(taken):
        if name not in NOT_LAYERS:
            yield from [child] if child.is_layer else _layers_below(child, taken)


def _groups_below(group: Group, taken: AbstractSet[str], path: str, named: bool) -> Iterator[tuple[str, Group]]:
    """(path, group) of what may be a batch norm below `group`, but not in the groups `taken`; named: Keras 3.6 or later wrote them."""
    for name, child in group.children(taken):
        if name in NOT_LAYERS:
            continue
        own = child.name
        if own is None and (name in LAYER_LISTS or (named and not child.is_layer)):
            own = ""  # a list or dict of layers is no part of a path
        below = join(path, own if own is not None else name)
        if _may_be_norm(name, child):
            yield below, child
        else:
            yield from _groups_below(child, taken, below, named)


def _may_be_norm(name: str, group: Group) -> bool:
    """Whether a group holds what a batch norm does: two to seven floating point vectors of one length."""
    variables = group.variables()
    if not 2 <= len(variables) <= 7 or any(file.dtype(path) is None for file, path in variables):
        return False
    shapes = group.shapes()
    if not shapes[0] or len(set(shapes)) != 1:
        return False
    if len(variables) == 2 and _is_called(OTHER_NORMS, name, group):
        return False
    return _is_called(KNOWN_GROUPS, name, group) or (len(variables) <= 4 and len(shapes[0]) == 1)


def _is_called(classes: Sequence[str], name: str, group: Group) -> bool:
    """Whether the class is certain: the group's name counts one of `classes`, or the layer has the name that Keras gives it."""
    return numbered(name)[0] in classes or numbered(group.name or "")[0] in classes


def _recognise(path: str, group: Group, found: Found, told: bool) -> None:
    """A group without a config that may be a batch norm: added to `found` where that is certain enough to be said."""
    arrays = group.arrays()
    certain = _is_called(KNOWN_GROUPS, group.path.rpartition("/")[2], group)
    both = len(arrays) in (4, 7)
    names = roles_of(len(arrays), both, both, renorm=len(arrays) > 4)
    last = named["moving_variance"][0] if (named := dict(zip(names or (), arrays, strict=False))) else arrays[-1][0]
    possible = bool((last >= 0).all())  # as a variance
    if names is None:
        if certain or possible:
            found.skipped.append((path, ONE_OF_TWO if certain else THREE_VECTORS))
    elif len(last.shape) > 1:
        found.skipped.append((path, f"its parameters have shape {list(last.shape)} and the file does not say along which axes"))
    elif len(arrays) == 2 and not (certain and possible):
        if told and possible:
            found.skipped.append((path, TWO_VECTORS))
        elif certain or possible:
            found.warnings.append(f"{path}: {NO_VARIANCE if certain else TWO_VECTORS}; taken for no batch norm")
    elif certain or (possible and not _counts(named)):
        if not certain:
            found.warnings.append(f"{path}: {FOUR_VECTORS}")
        found.layers.append(assemble(path, None, None, named, dialects.Era(), None, name=group.name or group.path.rpartition("/")[2]))
        found.groups.append(group)


def _counts(named: dict[str, tuple[Any, str]]) -> bool:
    """Whether four vectors look like counts, as metrics keep them (AUC, F1Score), and not like a batch norm never trained."""
    fresh = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1}
    if all((named[name][0] == value).all() for name, value in fresh.items()):
        return False
    return all(((values >= 0) & (values == values.round())).all() for values, _ in named.values())

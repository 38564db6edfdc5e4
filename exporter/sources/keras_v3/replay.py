"""Replays how Keras traverses a model when it saves it, along the config and the groups of the weights at the same time.

In a list of layers the groups are counted by class, and versions differ in what they count (exporter.keras.dialects.Counting).
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from exporter.errors import FormatError
from exporter.keras import dialects
from exporter.keras.config import GIVE_THEIR_OWN, MODELS, Node, is_batch_norm, join, norm_fields, walk
from exporter.keras.dialects import Counting
from exporter.keras.lookalikes import BATCH_NORMS
from exporter.keras.names import numbered, snake_case
from exporter.keras.node import LEAVES, are_alike, at_and_below, has_signs
from exporter.keras.places import with_shared
from exporter.sources.keras_v3.groups import LAYER_LISTS, NOT_LAYERS, Group

KNOWN_GROUPS = tuple(snake_case(name) for name in BATCH_NORMS)
OTHER_NORMS = ("layer_normalization", "group_normalization")  # they contain gamma and beta

NO_WEIGHTS = "the file contains no weights for it; was the model built before it was saved?"
UNCERTAIN = "which group of the weights belongs to it is ambiguous: the numbers of layers of its class and of their groups differ"
LOST_SHARING = ("it may be the same layer as one of another model: if an inner model calls a layer first and the outer one later, a .keras "
                "config does not record that they are one, and Keras cannot load the file either; give the model's .h5, or its weights "
                "with the JSON of to_json()")
NAMESAKE = "it may be a custom class that is only named BatchNormalization"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Match:
    """A batch norm of the model.

    node:  its config, None inside a user's class. group: its weights, None if the file has none, for the reason `why`.
    told:  whether the config mentions batch norms somewhere in this custom class.
    may_be_called: whether it, or a layer that may be the same one, is called in training mode.
    """

    path: str
    node: Node | None
    group: Group | None
    told: bool = False
    why: str = NO_WEIGHTS
    may_be_called: bool = False

    @property
    def place(self) -> tuple[str, str]:
        return self.path, self.group.path if self.group else ""


def with_sharing(root: Group, tree: Node, keras_version: str | None, *, own_config: bool) -> Node:
    """The tree, in which entries of one layer are marked as such if the groups show it but the config does not, as with
    to_json()."""
    names = collections.Counter((node.name, node.base_name) for _, node in walk(tree) if node.shared_object is None)
    if not names or max(names.values()) == 1:
        return tree
    fitting = _fitting(_ways(root, tree, keras_version, own_config, frozenset()), keras_version)
    return with_shared(tree, fitting[0].same) if fitting else tree


def matched(root: Group, tree: Node, keras_version: str | None, kernels: dict[Node, Group | None], *, own_config: bool) -> list[Match]:
    """The batch norms of `tree` and the groups with their weights.

    keras_version: of the config, and of the weights if it is their own config. Without one, the way of counting that fits is used.
    kernels: layers of `tree` that have a kernel; each gets its group if that is certain.
    Raises: FormatError if the weights contain batch norms that the config does not, if two ways fit, or if an architecture does not fit.
    """
    ways = _ways(root, tree, keras_version, own_config, frozenset(kernels))
    fitting = _fitting(ways, keras_version)
    way = (fitting or ways)[0]
    for path in way.strange:
        raise FormatError("the weights contain this batch norm, but the config does not: they do not match", where=path)
    if fitting:
        for node in kernels:
            places = {found.path if (found := other.kernels.get(node)) else "" for other in fitting}
            kernels[node] = way.kernels.get(node) if len(places) == 1 else None
        return way.matches
    if not own_config:
        lost = next(match for match in _explained(way.matches) if match.group is None and match.node is not None)
        why = lost.why if lost.why == LOST_SHARING else "the weights have no group for this batch norm"
        raise FormatError(f"the architecture does not match: {why}", where=lost.path, hint=GIVE_THEIR_OWN)
    agreed = set.intersection(*(set(way.places) for way in ways))
    return _explained([match if match.node is None or match.place in agreed else dataclasses.replace(match, group=None, why=UNCERTAIN)
                       for match in way.matches])


def _ways(root: Group, tree: Node, keras_version: str | None, own_config: bool, kernels: frozenset[Node]) -> list[_Replay]:
    """Tries the ways in which these weights may have been saved."""
    likely = _likely(keras_version)
    return [_Replay(root, counting, equal_is_shared, kernels).run(tree)
            for counting in ([likely] if likely and own_config else _possible(root))
            for equal_is_shared in ((False,) if counting is Counting.EACH else (False, True))]


def _fitting(ways: list[_Replay], keras_version: str | None) -> list[_Replay]:
    """Those that fit. Raises: FormatError if they lead to different groups and the version does not decide which is right."""
    fitting = [way for way in ways if way.fits]
    if len({way.places for way in fitting}) > 1:
        fitting = [way for way in fitting if way.counting is _likely(keras_version)]
        if len({way.places for way in fitting}) != 1:
            raise FormatError("the groups match the layers in two ways, as different versions of Keras save them",
                              hint="save the model as one .keras file with a current version of Keras")
    return fitting


def _likely(keras_version: str | None) -> Counting | None:
    facts = dialects.era_of(keras_version, None).facts
    return facts.counting if facts else None


def _explained(matches: list[Match]) -> list[Match]:
    """The same, with the reason where a layer without weights of its own is like one of another model, which may be the same one; a call of
    either in training mode may be one of both."""
    alike: dict[object, list[Match]] = {}
    for match in matches:
        alike.setdefault(_identity(match), []).append(match)
    found = []
    for match in matches:
        same = alike[_identity(match)] if match.node is not None else []
        lost = len({each.path for each in same}) > 1 and any(each.group is None for each in same)
        called = lost and any(each.node is not None and each.node.surroundings.training is True for each in same)
        found.append(dataclasses.replace(match, why=LOST_SHARING if lost else match.why, may_be_called=called))
    return found


def _identity(match: Match) -> object:
    node = match.node
    return None if node is None else (node.name, node.kind, dataclasses.replace(norm_fields(node), ndim=None))


def _possible(root: Group) -> list[Counting]:
    """The ways of counting in which such weights may have been saved."""
    if root.child(LAYER_LISTS[1]) is not None:  # 2.12 to 2.14
        return [Counting.WEIGHTS_TWICE, Counting.UNSAVED]
    return [Counting.EACH] if root.name is not None else [Counting.EACH, Counting.UNSAVED]


class _Replay:
    """One way of counting, applied to a model.

    equal_is_shared: whether layers of one name, class and config in lists are one layer; only .keras files of 2.13 on mark shared ones.
    """

    def __init__(self, root: Group, counting: Counting, equal_is_shared: bool, wanted: AbstractSet[Node] = frozenset()) -> None:
        self.root, self.counting, self.equal_is_shared, self.wanted = root, counting, equal_is_shared, wanted
        self.classes = {node.class_name for node in wanted}
        self.kernels: dict[Node, Group] = {}  # the groups of the layers `wanted`
        self.named = root.name is not None
        self.matches: list[Match] = []
        self.taken: set[str] = set()  # paths of the groups that the config explains
        self.same: list[tuple[Node, Node]] = []  # entries that are one layer although the config does not say so
        self.strange: list[str] = []  # of batch norms in lists of layers, not explained by it
        self._weights_of: dict[int, bool] = {}  # by shared_object: whether it has weights
        self._saved: dict[str, list[tuple[Node, bool]]] = {}  # by name, with whether it has weights

    def run(self, tree: Node) -> _Replay:
        self._node(tree, self.root, "")
        return self

    @property
    def fits(self) -> bool:
        return not self.strange and all(match.group is not None or match.node is None for match in self.matches)

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        return tuple(match.place for match in self.matches)

    def _node(self, node: Node, group: Group | None, path: str) -> None:
        if self._saved_before(node, missing=group is None) is not None:
            return
        weights = self.counting is Counting.WEIGHTS_TWICE and _has_weights(node, group)
        if node.shared_object is not None:
            self._weights_of[node.shared_object] = weights
        if group is not None:
            self._saved.setdefault(node.name, []).append((node, weights))
            if node in self.wanted:
                self.kernels[node] = group
        if is_batch_norm(node):
            self.matches.append(Match(path, node, group))
        else:
            self._inside(node, group, path)

    def _saved_before(self, node: Node, *, missing: bool) -> bool | None:
        """None: this layer occurs for the first time. Otherwise, whether the layer that it repeats has weights; missing: it has no group
        here, so that an earlier one of the same name, class and config is taken for it.
        """
        if node.shared_object is not None:
            return self._weights_of.get(node.shared_object)
        if node.name and missing:
            for other, weights in self._saved.get(node.name, ()):
                if are_alike(other, node):
                    self.same.append((other, node))
                    return weights
        return None

    def _inside(self, node: Node, group: Group | None, path: str) -> None:
        if has_signs(node) and group is not None and group.variable_names():  # one of a user's class that contains others
            self.matches.append(Match(path, node, group))
        unplaced = self._children(node, group, path)
        if group is not None:
            unplaced = self._by_name(unplaced, group, path)
        norms = [found for child in unplaced for found in _norms(child, path)]
        left = [] if group is None else list(groups_below(group, self.taken, path, self.named))
        classes = {snake_case(other.base_name) for child in unplaced for other in at_and_below(child) if not is_batch_norm(other)}
        namesakes = tuple(classes.intersection(KNOWN_GROUPS))
        for below, inner in left:
            if is_called(namesakes, inner.path.rpartition("/")[2], inner):
                self.matches.append(Match(below, None, None, why=NAMESAKE))
            else:
                self.matches.append(Match(below, None, inner, told=bool(norms)))
        if not left:
            self.matches += [Match(below, child, None) for below, child in norms if self._saved_before(child, missing=True) is None]

    def _children(self, node: Node, group: Group | None, path: str) -> list[Node]:
        """Continues with the layers inside; returns those whose group is not where their role in the config indicates."""
        unplaced: list[Node] = []
        for role in dict.fromkeys(role for role, _ in node.children):
            nodes = [child for other, child in node.children if other == role]
            inner = None
            if group is not None:
                inner = group.layer_list() if role == "layers" else group.child(role)
            said = node.config.get(role)
            is_list = role == "layers" or isinstance(said, list) or (isinstance(said, dict) and "class_name" not in said)
            if inner is not None and not is_list:
                self.taken.add(inner.path)
                self._node(nodes[0], inner, join(path, _name_of(nodes[0], inner)))
                unplaced += nodes[1:]
            elif inner is not None and _is_complete(node, role, inner, nodes):
                self.taken.add(inner.path)
                self._listed(nodes, inner, path)
            else:
                unplaced += nodes
        return unplaced

    def _by_name(self, unplaced: list[Node], group: Group, path: str) -> list[Node]:
        """Layers inside a user's class that have a unique group of their name; returns the rest."""
        groups = list(_layers_below(group, self.taken)) if unplaced else []
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

    def _listed(self, nodes: list[Node], container: Group, path: str) -> None:
        """The layers of a container, counted by class."""
        members = container.members()
        used: dict[str, int] = {}
        reached: dict[str, list[tuple[str, int, int]]] = {}  # by class: name of the group, matches from, to
        for node in nodes:
            base = _group_class(node, members)
            before, number = self._saved_before(node, missing=self.equal_is_shared), used.get(base, 0)
            reached.setdefault(base, [])
            if before is not None and self.counting is Counting.UNSAVED:
                continue
            name = f"{base}_{number}" if number else base
            self.taken.add(join(container.path, name))
            used[base] = number + 1
            if node.is_builtin and node.class_name in LEAVES and node.class_name not in self.classes:
                reached.pop(base)
                continue
            group = None if before is not None and self.counting is not Counting.EACH else container.child(name)
            if self.counting is Counting.WEIGHTS_TWICE and (_has_weights(node, group) if before is None else before):
                used[base] += 1
            start = len(self.matches)
            self._node(node, group, join(path, _name_of(node, group)))
            if before is None:
                reached[base].append((name, start, len(self.matches)))
        for base, found in reached.items():
            if not self._is_even(base, found, members):
                for node in nodes if self.wanted else ():
                    if _group_class(node, members) == base:
                        self.kernels.pop(node, None)
                if self.counting is not Counting.EACH:
                    self._forget(found)
        self.strange += [group.path for name, group in container.children(self.taken)
                         if numbered(name)[0] in KNOWN_GROUPS and group.holds_variables()]
        self.matches += [Match(below, None, group) for below, group in groups_below(container, self.taken, path, self.named)]

    def _is_even(self, base: str, reached: list[tuple[str, int, int]], members: list[str]) -> bool:
        """Whether the groups of a class are those that the config leads to. tf.keras creates a group for each layer, even one without
        weights: else the counting went another way from some layer on, and none of the class is certain.
        """
        counted = re.compile(re.escape(base) + r"(_[1-9][0-9]*)?")
        there = {name for name in members if counted.fullmatch(name)}
        return there == {name for name, _, _ in reached}

    def _forget(self, reached: list[tuple[str, int, int]]) -> None:
        for _, start, end in reached:
            for place in range(start, end):
                if self.matches[place].node is not None:
                    self.matches[place] = dataclasses.replace(self.matches[place], group=None, why=UNCERTAIN)


def _group_class(node: Node, members: list[str]) -> str:
    """The name of a container's groups for this layer's class; tf.keras puts "private" before a leading underscore."""
    base = snake_case(node.base_name)
    return f"private{base}" if base.startswith("_") and f"private{base}" in members else base


def _is_complete(node: Node, role: str, inner: Group, nodes: list[Node]) -> bool:
    """Whether `nodes` are all layers that the container counted; in a user's class their number has to show it."""
    if node.base_name in (*MODELS, "StackedRNNCells") or (role == "layers" and "input_layers" in node.config):
        return True
    return len(list(inner.children())) == len(nodes)


def _name_of(node: Node, group: Group | None) -> str:
    """The layer's name; if its config omits it, that in the weights or else that of its group."""
    return node.name or (group and (group.name or group.path.rpartition("/")[2])) or ""


def _norms(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    path = join(path, node.name)
    if is_batch_norm(node):
        yield path, node
    for _, child in node.children:
        yield from _norms(child, path)


def _has_weights(node: Node, group: Group | None) -> bool:
    """Whether a layer has weights; without a group, only batch norms count."""
    return any(True for _ in _norms(node, "")) if group is None else group.holds_variables()


def _layers_below(group: Group, taken: AbstractSet[str]) -> Iterator[Group]:
    """The layers that `group` contains as attributes or in lists and dicts, without the layers inside them."""
    for name, child in group.children(taken):
        if name not in NOT_LAYERS:
            yield from [child] if child.is_layer else _layers_below(child, taken)


def groups_below(group: Group, taken: AbstractSet[str], path: str, named: bool) -> Iterator[tuple[str, Group]]:
    """(path, group) of possible batch norms below `group`, but not in the groups `taken`; named: Keras 3.6 or later wrote them.

    If the file contains no names, the path is that of the group with its "layers/": a group called just batch_normalization_1 would
    be taken for the layer of that name, which may be in another group.
    """
    for name, child in group.children(taken):
        if name in NOT_LAYERS:
            continue
        own = child.name
        if own is None and named and (name in LAYER_LISTS or not child.is_layer):
            own = ""  # a list or dict of layers is not part of a path
        below = join(path, own if own is not None else name)
        if _may_be_norm(name, child):
            yield below, child
        else:
            yield from groups_below(child, taken, below, named)


def _may_be_norm(name: str, group: Group) -> bool:
    """Whether a group is counted as a batch norm, or contains at least the arrays of one."""
    if group.is_counted and numbered(name)[0] in KNOWN_GROUPS:
        return bool(group.variable_names())
    if not holds_equals(group):
        return False
    shape = group.shapes()[0]
    if len(shape) > 1:  # over several axes, with 1 in the others and the batch
        axes = sum(size > 1 for size in shape)  # over one, with a virtual batch; two such arrays are usually something else
        return shape[0] == 1 and axes > 0 and (axes > 1 or len(group.variables()) > 2 or is_called(KNOWN_GROUPS, name, group))
    return len(group.variables()) > 2 or not is_called(OTHER_NORMS, name, group)


def holds_equals(group: Group) -> bool:
    """Whether a group contains two to seven floating point arrays of one shape, as that of a batch norm does."""
    variables = group.variables()
    if not 2 <= len(variables) <= 7 or any(file.dtype(path) is None for file, path in variables):
        return False
    shapes = group.shapes()
    return shapes[0] != () and len(set(shapes)) == 1


def is_called(classes: tuple[str, ...], name: str, group: Group) -> bool:
    """Whether a group or its layer is named like one of `classes`: not a proof, because people choose names."""
    return numbered(name)[0] in classes or numbered(group.name or "")[0] in classes

"""Batch norms in the weights of .keras archives and .weights.h5 files, matched to the layers of a config or recognized without one.

Groups have the names of attributes and of numbered classes, not of layers. With a config, the way to each layer's group is replayed as the
Keras that saved it traversed the model; the result has to fit: the number of variables, their shapes, and the layer's name if the file
contains it (Keras 3.6 on). Inside a user's own class, which no config describes, batch norms are recognized by what their groups contain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exporter.errors import FormatError, printable
from exporter.errors import names as several
from exporter.keras import dialects
from exporter.keras.config import Node, norm_fields
from exporter.keras.lookalikes import BATCH_NORMS, MODELS_ELSEWHERE
from exporter.keras.names import numbered, snake_case
from exporter.keras.node import reason_against
from exporter.sources.keras_v3.groups import File, Group
from exporter.sources.keras_v3.replay import KNOWN_GROUPS, LOST_SHARING, Match, groups_below, holds_equals, is_called, matched, with_sharing
from exporter.sources.shared.architecture import note_config
from exporter.sources.shared.assemble import assemble, roles_of
from exporter.sources.shared.found import Found, Remedy

if TYPE_CHECKING:
    from exporter.batchnorm.kernels import Kernel
    from exporter.keras.kernels import Feeding

ONE_OF_TWO = "one of its parameters is gamma or beta, and the file does not specify which"
THREE_VECTORS = "it contains three vectors of one length, like a batch norm without gamma or beta; the file does not specify what they are"
TWO_VECTORS = ("it contains two vectors of one length, like a LayerNormalization or a batch norm without gamma and beta; the name "
               "of a layer does not decide which")
MORE_VECTORS = ("it contains {count} vectors of one length, like a batch norm with renormalization or a custom class with more "
                "weights; the file does not specify what they are")
MANY_AXES = ("it contains {count} arrays of shape {shape}, like a batch norm over several axes or a custom class with such weights; the "
             "file does not specify what they are")
FOUR_VECTORS = "assumed to be a batch norm because it contains four vectors of one length; the file does not name its class"
OTHER_THINGS = "its group is named like a batch norm but does not contain two to seven floating point arrays of one shape"
VARIABLES_ELSEWHERE = ("it has the variables of a SavedModel, of which the file does not specify what they are; a SavedModel of the whole "
                       "model, as model.export() writes it, does")
CUT = "it contains two vectors, which are gamma and beta if this file is a shard that ends here; the file does not specify what they are"
NO_VARIANCE = "its second vector has negative values, so it is not a variance"

_MODELS_ELSEWHERE = frozenset(map(snake_case, MODELS_ELSEWHERE))


def read_weights(root: Group, tree: Node | None, keras_version: str | None, found: Found, *, own_config: bool,
                 kernels: Callable[[str], bool] | None = None, quantized: Callable[[Group], str | None] = lambda group: None,
                 may_be_cut: bool = False) -> None:
    """Reads the batch norms under `root` into `found`, and the kernels before those whose paths `kernels` selects.

    tree: the model's config, or None. own_config: whether it was saved together with these weights, so that names have to agree.
    quantized: how a group's weights are. may_be_cut: whether the file may end or begin in the middle of a layer.
    Raises: FormatError if config and weights do not fit.
    """
    ranks: Any = {}
    if tree is not None:
        tree = with_sharing(root, tree, keras_version, own_config=own_config)
    feeding: Mapping[str, Feeding | str] = {}
    if kernels is not None and tree is not None:
        from exporter.keras.kernels import feeding_layers

        feeding = feeding_layers(tree, kernels)
    groups: dict[Node, Group | None] = {each.node: None for each in feeding.values() if not isinstance(each, str)}
    if tree is None:
        matches = [Match(path, None, group) for path, group in groups_below(root, frozenset(), "", root.name is not None)]
    else:
        from exporter.keras.ranks import input_ranks

        matches = matched(root, tree, keras_version, groups, own_config=own_config)
        ranks = input_ranks(tree)
        _check_names(matches, found, own_config)
    era = dialects.era_of(keras_version, None)
    is_sharing_lost = any(match.why == LOST_SHARING for match in matches)
    root.expect(match.group for match in matches if match.group is not None)
    for match in matches:
        if match.group is None:
            found.skip(match.path, match.why)
        elif match.node is None:
            _recognize(match.path, match.group, found, match.told, quantized(match.group), may_be_cut=may_be_cut)
        elif not match.group.variable_names():
            found.skip(match.path, reason_against(match.node) or match.why)
        else:
            node = _without_sharing(match.node, match.may_be_called) if is_sharing_lost else match.node
            _read(match.path, node, match.group, era, ranks.get(match.node), found, quantized(match.group), own_config=own_config)
    if kernels is not None:
        found.kernels = {} if is_sharing_lost else _kernels(feeding, groups, own_config)
    note_config(tree, era, found)


def _check_names(matches: Sequence[Match], found: Found, own_config: bool) -> None:
    """Warns of layers with another name in the config than in the weights; refuses two names that cannot be of one layer."""
    if renamed := [said for match in matches if match.node is not None and match.group is not None
                   and (said := _renamed(match.path, match.node, match.group, own_config))]:
        found.warn(f"{len(renamed)} batch norms have other names in the architecture than in the weights, one of each pair "
                   f"generated by Keras ({several(renamed, 3)}): they are paired by their position in the model")


def _without_sharing(node: Node, may_be_called: bool) -> Node:
    """A layer of a model whose config no longer shows which layers are one, and so not how each is called."""
    around = dataclasses.replace(node.surroundings, training=True) if may_be_called else node.surroundings
    return node.replace(calls=(), surroundings=around)


def _read(path: str, node: Node, group: Group, era: dialects.Era, rank: int | None, found: Found, quantized: str | None, *,
          own_config: bool) -> None:
    """A layer with a config: gamma and beta as it specifies, then the statistics; renorm adds three that inference does not use.

    Raises: FormatError if config and weights do not fit. A layer whose group has its name and more variables than any is skipped.
    """
    fields = norm_fields(node)
    count = len(group.variables())
    reason = reason_against(node)
    if reason is not None:
        found.skip(path, reason)
        return
    names = roles_of(count, fields.center, fields.scale, renorm=fields.renorm)
    if not count:
        raise FormatError(f"its variables are named {several(group.variable_names())}: one is missing", where=path)
    if names is None:
        reason = (f"the file contains {count} variables for it, which does not match center, scale and renorm of its config; its class is "
                  f"{printable(node.registered_name or node.class_name, 80)}")
        # a variable that was assigned to a built layer, such as another layer's gamma, is saved with its own
        has_more = own_config and group.name == node.name and fields.center and fields.scale and count > 4 + 3 * fields.renorm
        if node.base_name in BATCH_NORMS and not node.surroundings.notes and not has_more:
            raise FormatError(reason, where=path)
        if node.surroundings.notes:
            reason += "; the wrapper around it keeps what it quantizes among its own weights, without names: the model's .h5 has them"
        found.skip(path, reason)
        return
    arrays = dict(zip(names, group.arrays(), strict=False))
    found.add(assemble(path, node, fields, arrays, era, rank, quantized=quantized))


def _kernels(feeding: Mapping[str, Feeding | str], groups: Mapping[Node, Group | None], own_config: bool) -> dict[str, Kernel | str]:
    """The kernels before the batch norms, from the groups of their layers."""
    from exporter.sources.shared.kernels import Kernels, Weight, checked

    def weight(file: File, path: str) -> Weight:
        return Weight(file.shape(path), file.dtype(path), lambda: file.array(path, is_kernel=True))

    found: dict[str, Kernel | str] = {}
    gathered = Kernels()
    for path, each in feeding.items():
        if isinstance(each, str):
            found[path] = each
            continue
        group = groups[each.node]
        if group is None or not group.variables():
            found[path] = f"which group of the weights is that of {printable(each.path, 80)}, which feeds it, is not certain"
            continue
        _renamed(each.path, each.node, group, own_config)
        found[path] = gathered.kernel(each, [weight(*stored) for stored in group.variables()])
    return checked(found)


def _renamed(path: str, node: Node, group: Group, own_config: bool) -> str:
    """How the name in the config differs from the one in the weights: default names differ between sessions.

    Raises: FormatError if another difference shows that they do not fit.
    """
    name = group.name
    if name is None or name == node.name:
        return ""
    if not own_config and snake_case(node.base_name) in (numbered(name)[0], numbered(node.name)[0]):
        return f"{printable(node.name, 60)} for {printable(name, 60)}"
    what = "the config" if own_config else "the architecture"
    raise FormatError(f"{what} calls this layer {printable(node.name, 80)!r}, the weights {printable(name, 80)!r}: they do not match",
                      where=path, hint="" if own_config else "give the architecture of the model that these weights are of")


def _recognize(path: str, group: Group, found: Found, told: bool, quantized: str | None, *, may_be_cut: bool) -> None:
    """A group without a config that may be a batch norm: added to `found` if that is certain enough."""
    own = group.path.rpartition("/")[2]
    certain = group.is_counted and numbered(own)[0] in KNOWN_GROUPS
    if group.is_counted and numbered(own)[0] in _MODELS_ELSEWHERE:
        found.leave_out(path, VARIABLES_ELSEWHERE)
        return
    if not holds_equals(group):
        found.skip(path, OTHER_THINGS, Remedy.ARCHITECTURE)
        return
    arrays = group.arrays()
    if not certain and (len(arrays) != 4 or len(arrays[-1][0].shape) > 1):
        _mention(path, arrays, found, is_likely=told or is_called(KNOWN_GROUPS, own, group))
        return
    if may_be_cut and len(arrays) == 2:
        found.skip(path, CUT, Remedy.ARCHITECTURE)
        return
    if len(arrays) == 5:  # renormalization without gamma and beta, or a weight more than a batch norm has
        found.skip(path, MORE_VECTORS.format(count=5), Remedy.ARCHITECTURE)
        return
    both = len(arrays) in (4, 7)
    names = roles_of(len(arrays), both, both, renorm=len(arrays) > 4)
    last = named["moving_variance"][0] if (named := dict(zip(names or (), arrays, strict=False))) else arrays[-1][0]
    possible = bool((last >= 0).all())  # as a variance
    if names is None:
        found.skip(path, ONE_OF_TWO, Remedy.ARCHITECTURE)
    elif len(last.shape) > 1 and not (certain and last.shape[0] == 1):
        found.skip(path, f"its parameters have shape {list(last.shape)}, and the file does not specify along which "
                         "axes", Remedy.ARCHITECTURE)
    elif len(arrays) == 2 and not possible:
        found.warn(f"{path}: {NO_VARIANCE}; not treated as a batch norm")
    elif certain or (possible and not _counts(named)):
        if not certain:
            found.warn(f"{path}: {FOUR_VECTORS}")
        found.add(assemble(path, None, None, named, dialects.Era(), None, name=group.name or own, quantized=quantized))


def _mention(path: str, arrays: Sequence[tuple[Any, str]], found: Found, *, is_likely: bool) -> None:
    """Reports equal arrays, other than four vectors, if the file does not say what they belong to."""
    last, count = arrays[-1][0], len(arrays)
    possible = bool((last >= 0).all())  # as a variance
    if len(last.shape) > 1:
        if possible or count > 2:
            found.leave_out(path, MANY_AXES.format(count=count, shape=list(last.shape)))
        return
    what = {2: TWO_VECTORS, 3: THREE_VECTORS}.get(count, MORE_VECTORS.format(count=count))
    if possible and (is_likely or count > 2):
        found.skip(path, what, Remedy.ARCHITECTURE)
    elif possible or count > 4:
        found.leave_out(path, what)


def _counts(named: dict[str, tuple[Any, str]]) -> bool:
    """Whether four vectors look like the counts of metrics (AUC, F1Score), and not like an untrained batch norm."""
    fresh = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1}
    if all((named[name][0] == value).all() for name, value in fresh.items()):
        return False
    return all(((values >= 0) & (values == values.round())).all() for values, _ in named.values())

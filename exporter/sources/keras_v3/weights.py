"""Batch norms in the weights of .keras archives and .weights.h5 files, matched to the layers of a config or recognized without one.

Groups bear the names of attributes and of counted classes, not of layers. With a config the way to each layer's group is replayed as the
Keras that saved it went; what it finds has to fit: the number of variables, their shapes, and the layer's name where the file holds it
(Keras 3.6 on). Inside a user's own class, which no config describes, batch norms are recognized by what their groups hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from exporter.errors import FormatError, printable
from exporter.errors import names as several
from exporter.keras import dialects
from exporter.keras.config import Node, norm_fields
from exporter.keras.lookalikes import BATCH_NORMS, reason_against
from exporter.sources.keras_v3.groups import File, Group, numbered, snake_case
from exporter.sources.keras_v3.replay import KNOWN_GROUPS, Match, groups_below, holds_equals, is_called, matched
from exporter.sources.shared.architecture import note_own_classes
from exporter.sources.shared.assemble import assemble, roles_of
from exporter.sources.shared.found import Found, Remedy

if TYPE_CHECKING:
    from exporter.batchnorm.kernels import Kernel
    from exporter.keras.kernels import Feeding

ONE_OF_TWO = "one of its parameters is gamma or beta, and the file does not say which"
THREE_VECTORS = "it holds three vectors of one length, as a batch norm without gamma or beta does; the file does not say what they are"
TWO_VECTORS = ("it holds two vectors of one length, as a LayerNormalization or a batch norm without gamma and beta does; what a layer is "
               "called does not say which")
MORE_VECTORS = ("it holds {count} vectors of one length, as a batch norm with renormalization or somebody's own class with more weights "
                "does; the file does not say what they are")
FOUR_VECTORS = "taken for a batch norm because it holds four vectors of one length; the file does not name its class"
OTHER_THINGS = "its group is called like a batch norm and does not hold two to seven floating point arrays of one shape"
NO_VARIANCE = "its second vector has negative values and is no variance"


def read_weights(root: Group, tree: Node | None, keras_version: str | None, found: Found, *, own_config: bool,
                 with_kernels: bool = False, quantized: Callable[[Group], str | None] = lambda group: None) -> None:
    """Reads the batch norms under `root` into `found`, and if asked for the kernels before them.

    tree: the model's config, or None. own_config: whether it was saved together with these weights, so that names have to agree.
    quantized: how a group's weights are. Raises: FormatError where config and weights do not fit.
    """
    ranks: Any = {}
    feeding: Mapping[str, Feeding | str] = {}
    if with_kernels and tree is not None:
        from exporter.keras.kernels import feeding_layers

        feeding = feeding_layers(tree)
    groups: dict[Node, Group | None] = {each.node: None for each in feeding.values() if not isinstance(each, str)}
    if tree is None:
        matches = [Match(path, None, group) for path, group in groups_below(root, frozenset(), "", root.name is not None)]
    else:
        from exporter.keras.ranks import input_ranks

        matches = matched(root, tree, keras_version, own_config=own_config, kernels=groups)
        ranks = input_ranks(tree)
        renamed = [said for match in matches if match.node is not None and match.group is not None
                   and (said := _renamed(match.path, match.node, match.group, own_config))]
        if renamed:
            found.warn(f"the architecture gives {len(renamed)} batch norms other names than the weights do, one of which Keras made up "
                       f"({several(renamed, 3)}): they are paired by their place in the model")
    era = dialects.era_of(keras_version, None)
    for match in matches:
        if match.group is None:
            found.skip(match.path, match.why)
        elif match.node is None:
            _recognize(match.path, match.group, found, match.told, quantized(match.group))
        elif not match.group.variable_names():
            found.skip(match.path, match.why)
        else:
            _read(match.path, match.node, match.group, era, ranks.get(match.node), found, quantized(match.group))
    if with_kernels:
        found.kernels = _kernels(feeding, groups, own_config)
    note_own_classes(tree, found)


def _read(path: str, node: Node, group: Group, era: dialects.Era, rank: int | None, found: Found, quantized: str | None) -> None:
    """A layer with a config: gamma and beta as it says, then the statistics; renorm adds three that inference does not use."""
    fields = norm_fields(node)
    count = len(group.variables())
    look = reason_against(node.class_name, node.config)
    if look is not None:
        found.skip(path, look)
        return
    names = roles_of(count, fields.center, fields.scale, renorm=fields.renorm)
    if not count:
        raise FormatError(f"its variables are called {several(group.variable_names())}: one is missing", where=path)
    if names is None:
        reason = (f"the file holds {count} variables for it, which does not fit center, scale and renorm of its config; its class is "
                  f"{printable(node.registered_name or node.class_name, 80)}")
        if node.base_name in BATCH_NORMS:
            raise FormatError(reason, where=path)
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
    """How the name in the config differs from the one in the weights: those that Keras made up do from one session to the next.

    Raises: FormatError where another difference shows that they do not fit.
    """
    name = group.name
    made_up = any(numbered(text)[0] == snake_case(node.base_name) for text in (name or "", node.name))
    if name is None or name == node.name:
        return ""
    if made_up and not own_config:
        return f"{printable(node.name, 60)} for {printable(name, 60)}"
    what = "the config" if own_config else "the architecture"
    raise FormatError(f"{what} calls this layer {printable(node.name, 80)!r}, the weights {printable(name, 80)!r}: they do not fit",
                      where=path, hint="" if own_config else "give the architecture of the model that these weights are of")


def _recognize(path: str, group: Group, found: Found, told: bool, quantized: str | None) -> None:
    """A group without a config that may be a batch norm: added to `found` where that is certain enough to be said."""
    own = group.path.rpartition("/")[2]
    certain = group.is_counted and numbered(own)[0] in KNOWN_GROUPS
    if not holds_equals(group):
        found.skip(path, OTHER_THINGS, Remedy.ARCHITECTURE)
        return
    arrays = group.arrays()
    if not certain and len(arrays) != 4:
        is_variance = bool((arrays[-1][0] >= 0).all())
        _mention(path, len(arrays), found, is_likely=told or is_called(KNOWN_GROUPS, own, group), possible=is_variance)
        return
    both = len(arrays) in (4, 7)
    names = roles_of(len(arrays), both, both, renorm=len(arrays) > 4)
    last = named["moving_variance"][0] if (named := dict(zip(names or (), arrays, strict=False))) else arrays[-1][0]
    possible = bool((last >= 0).all())  # as a variance
    if names is None:
        found.skip(path, ONE_OF_TWO, Remedy.ARCHITECTURE)
    elif len(last.shape) > 1 and not (certain and last.shape[0] == 1):
        found.skip(path, f"its parameters have shape {list(last.shape)} and the file does not say along which axes", Remedy.ARCHITECTURE)
    elif len(arrays) == 2 and not possible:
        found.warn(f"{path}: {NO_VARIANCE}; taken for no batch norm")
    elif certain or (possible and not _counts(named)):
        if not certain:
            found.warn(f"{path}: {FOUR_VECTORS}")
        found.add(assemble(path, None, None, named, dialects.Era(), None, name=group.name or own, quantized=quantized))


def _mention(path: str, count: int, found: Found, *, is_likely: bool, possible: bool) -> None:
    """Says of two, three or more than four vectors of one length, of which the file does not say whose they are, that they are there."""
    what = {2: TWO_VECTORS, 3: THREE_VECTORS}.get(count, MORE_VECTORS.format(count=count))
    if possible and (is_likely or count > 2):
        found.skip(path, what, Remedy.ARCHITECTURE)
    elif possible or count > 4:
        found.warn(f"{path}: {what}; taken for no batch norm")


def _counts(named: dict[str, tuple[Any, str]]) -> bool:
    """Whether four vectors look like counts, as metrics keep them (AUC, F1Score), and not like a batch norm never trained."""
    fresh = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1}
    if all((named[name][0] == value).all() for name, value in fresh.items()):
        return False
    return all(((values >= 0) & (values == values.round())).all() for values, _ in named.values())

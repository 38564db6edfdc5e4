"""From the weights and the config of one batch norm in a legacy HDF5 file to a Stored."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

from exporter.batchnorm.stored import PARAMETERS, Statistic, Stored
from exporter.errors import FormatError, names, printable
from exporter.keras import dialects
from exporter.keras.config import Node, NormFields, is_batch_norm, norm_fields, walk
from exporter.keras.lookalikes import KERNELS, about_weights, is_users_own
from exporter.keras.node import has_signs, reason_against
from exporter.keras.ranks import input_ranks
from exporter.sources.legacy_h5.shared import each_once, without_hidden
from exporter.sources.legacy_h5.weights import (
    Candidate,
    LayerGroup,
    Norm,
    candidates,
    check_stored,
    has_known_order,
    match,
    norms_of,
    other_weights,
    path_of,
)
from exporter.sources.shared.assemble import Arrays, assemble
from exporter.sources.shared.found import Found, Remedy

if TYPE_CHECKING:
    from exporter.formats.hdf5_file import File

NEVER_BUILT = "the file contains no parameters of it: it was never built"
UNKNOWN_ERA = ("the file contains neither its epsilon nor the version of Keras, which decides whether running_std is a standard "
               "deviation or a variance")
UNKNOWN_VERSION = ("its config does not specify the version of Keras, which decides whether running_std is a standard deviation or a "
                   "variance")
MIXED_UP = ("Keras 1.0.0 to 1.0.2 saved the weights of a nested Sequential under swapped names, and it cannot be detected "
            "whether this file is affected")


class Reading:
    """Reads the batch norms of a file into `found`.

    tree: the model's config or None. is_version_unwritten: the config is text from to_json(), which contains its version since
    Keras 1.0.4, so that one without a version is from an older Keras.
    """

    def __init__(self, file: File, era: dialects.Era, tree: Node | None, found: Found, *, is_version_unwritten: bool = False) -> None:
        self.file, self.era, self.tree, self.found, self.is_version_unwritten = file, era, tree, found, is_version_unwritten
        self.ranks = input_ranks(tree) if tree else {}
        self._shared: dict[int, Stored] = {}

    def add(self, group: LayerGroup, path: str, node: Node | None) -> None:
        """The batch norms of one group, that of the layer `node` (None: there is no config)."""
        check_stored(self.file, group)
        found = list(each_once(candidates(path, node))) if node else []
        norms = norms_of(group, may_put_beta_first=self.era.may_put_beta_first, is_one=bool(found) and found[0].node is node)
        if not norms:
            self._skip_unbuilt(group, path, node, found)
            return
        others = other_weights(group, norms) if len(group.weights) > len(norms[0].datasets) else {}
        if len(norms) > 1:
            norms = self._without_second_set(group, norms, path)
        if norms[0].old_name:
            from exporter.sources.legacy_h5.mixed_names import as_named

            named = as_named(self.file, group, node, self.era)
            if named is None:
                for below in [candidate.path for candidate in found] or [path_of(group, norm.scope) for norm in norms]:
                    self.found.skip(below, MIXED_UP, Remedy.VERSION)
                return
            norms = norms_of(named)
        if node is not None and len(norms) > len(found) > 0 and found[0].node is not node and has_signs(node):  # it contains others
            rest = [norm for norm in norms if path_of(group, norm.scope) != group.name]
            if len(rest) < len(norms):
                self.found.skip(path, reason_against(node) or "")
                norms = rest
        namesakes = {below.name for _, below in walk(node) if not is_batch_norm(below)} if node and node.children else set()
        for norm, owner in _owners(group, norms, path, node, found):
            if norm is not None:
                below = owner.path if owner else path_of(group, norm.scope)
                reason = _reason_against(norm, owner, others, namesakes, is_alone=owner is not None and owner.node is node)
                if reason is None:
                    self._add_norm(norm, owner, below, group.name)
                else:
                    self.found.skip(below, reason)
            elif owner is not None:
                self.found.skip(owner.path, NEVER_BUILT)

    def _skip_unbuilt(self, group: LayerGroup, path: str, node: Node | None, found: Sequence[Candidate]) -> None:
        """Skips the batch norms that a config describes in a group without the parameters of any."""
        if found and found[0].node is node and group.weights:
            what = f"moving_mean and moving_variance are not among its weights: {names(group.weights)}"
            if not is_users_own(found[0].node.base_name):
                raise FormatError(what, where=group.name)
            self.found.skip(path, f"{what}; its class is {printable(found[0].node.class_name, 80)}")
            return
        for candidate in found:
            self.found.skip(candidate.path, NEVER_BUILT)

    def _without_second_set(self, group: LayerGroup, norms: list[Norm], path: str) -> list[Norm]:
        """The batch norms of a group, without a pair moving_mean, moving_variance that has no scope if others have one.

        keras-swa 0.1.0 leaves such a pair: variables that it made to reset the statistics, which the layer does not compute with
        (checked against predict of the model that it left).
        """
        second = [norm for norm in norms if not norm.scope and set(norm.datasets) == {"moving_mean", "moving_variance"}]
        kept = [norm for norm in norms if norm.scope]
        if len(second) != 1 or not any({"gamma", "beta"} & set(norm.datasets) for norm in kept):
            return norms
        self.found.warn(f"{path}: the file contains a second set of moving statistics in this layer, whose names have no scope, as "
                        "keras-swa leaves them; the set in the layer's own scope is used")
        return kept

    def _add_norm(self, norm: Norm, candidate: Candidate | None, path: str, group: str) -> None:
        fields = norm_fields(candidate.node) if candidate else None
        # the policy that keeps parameters in this type, too ("mixed_bfloat16" keeps them in float32)
        is_bfloat16 = fields is not None and fields.dtype == "bfloat16"
        arrays = dict(zip(norm.datasets, self.file.arrays([*norm.datasets.values()], is_bfloat16=is_bfloat16)))
        _check_presence(path, fields, arrays, always=norm.old_name)
        statistic, assumed = self._statistic(norm, candidate, path, arrays)
        reason = dialects.reason_against(fields.mode) if fields else None
        if reason or statistic is None:
            self.found.skip(path, reason or (UNKNOWN_ERA if fields is None else UNKNOWN_VERSION), None if reason else Remedy.VERSION)
            return
        self._add_layer(path, candidate, fields, arrays, name=group if path == group else path.rpartition("/")[2],
                        statistic=statistic, assumed=assumed)

    def add_unnamed(self, candidate: Candidate, datasets: Sequence[str]) -> None:
        """A batch norm of Keras 0.3, whose four parameters have only numbers."""
        fields = norm_fields(candidate.node)
        reason = dialects.reason_against(fields.mode)
        if reason:
            self.found.skip(candidate.path, reason)
            return
        arrays = dict(zip(PARAMETERS, self.file.arrays(datasets)))
        self._add_layer(candidate.path, candidate, fields, arrays, statistic=Statistic.DEVIATION)

    def _statistic(self, norm: Norm, candidate: Candidate | None, path: str, arrays: Arrays) -> tuple[Statistic | None, tuple[str, ...]]:
        """What the fourth parameter contains, and which part of that is assumed; None if it cannot be known."""
        found = dialects.statistic(self.era, old_name=norm.old_name, on_tensorflow=norm.on_tensorflow)
        if found is not None:
            return found, ()
        if candidate and "gamma_regularizer" in candidate.node.config:  # a key since Keras 1.1.0
            return Statistic.VARIANCE, ()
        if candidate and self.is_version_unwritten:
            self.found.warn("the architecture does not specify a version of Keras, like to_json() of 1.0.3 and earlier: running_std "
                            "is read as a standard deviation; override it with --keras-version")
            return Statistic.DEVIATION, ()
        if (arrays["moving_mean"][0] == 0).all() and (arrays["moving_variance"][0] == 1).all():
            self.found.warn(f"{path}: its statistics were never updated (mean 0 and running_std 1 in every channel); 1 is used as "
                            "the variance, since the file does not specify the version of Keras")
            return Statistic.VARIANCE, ("moving_variance",)
        return None, ()

    def _is_first(self, shared: int, layer: Stored) -> bool:
        """Whether this is the first group with a layer that several groups contain according to the config; the others contain the same
        numbers."""
        known = self._shared.setdefault(shared, layer)
        kept, values = known.parameters(), layer.parameters()
        if known is not layer and (kept.keys() != values.keys() or any(kept[role].tobytes() != values[role].tobytes() for role in kept)):
            raise FormatError(f"the config says that it is the layer {known.path} again, but its weights differ", where=layer.path,
                              hint="the file is damaged or was changed after it was saved")
        return known is layer

    def _add_layer(self, path: str, candidate: Candidate | None, fields: NormFields | None, arrays: Arrays, *, name: str = "",
                   statistic: Statistic, assumed: tuple[str, ...] = ()) -> None:
        node = candidate.node if candidate else None
        layer = assemble(path, node, fields, arrays, self.era, self.ranks.get(node) if node else None, name=name)
        if node is not None and node.shared_object is not None and not self._is_first(node.shared_object, layer):
            return
        if statistic != Statistic.VARIANCE or assumed:
            layer = layer.replace(statistic=statistic, assumed=assumed)
        if layer.axis is None and fields is not None:
            layer = _with_axis(layer, self.era)
        epsilon = self.era.default_epsilon
        if fields and fields.epsilon is None and epsilon is not None:
            layer = layer.replace(epsilon=epsilon, assumed=(*layer.assumed, "epsilon"))
            self.found.warn(f"{path}: its config has no epsilon; {epsilon:g}, the default of that version, is used")
        self.found.add(layer)


def _owners(group: LayerGroup, norms: list[Norm], path: str, node: Node | None, found: Sequence[Candidate],
            ) -> list[tuple[Norm | None, Candidate | None]]:
    """Pairs of a batch norm in a group and its owner in the config, either of which may be missing."""
    described, hidden = without_hidden(norms, path, node, found) if node and node.children and found else (norms, [])
    pairs = match(group, described, found, in_order=node is None or has_known_order(node))
    if not hidden:
        return pairs
    owners = {id(norm): owner for norm, owner in pairs if norm is not None}
    return [*((norm, owners.get(id(norm))) for norm in norms), *(pair for pair in pairs if pair[0] is None)]


def _reason_against(norm: Norm, owner: Candidate | None, others: Mapping[str, list[str]], namesakes: Container[str], *,
                    is_alone: bool) -> str | None:
    """Why these weights are not those of a plain batch norm; others: of its group, by scope; namesakes: names of the other layers in the
    group; is_alone: the group is one layer's."""
    reason = norm.doubt or (reason_against(owner.node) if owner else None)
    if is_alone:
        more = [weight for scope in others.values() for weight in scope]
    elif not norm.scope or (owner is not None and (norm.scope.rpartition("/")[2] in owner.around or owner.node.name in namesakes)):
        more = []  # a wrapper and a cell have weights of their own, and so has another layer of that name in another model
    else:
        more = [weight for weight in others.get(norm.scope, []) if owner is not None or not KERNELS.search(weight)]
    return reason or about_weights(more, owner.node.class_name if owner else None)


def _check_presence(path: str, fields: NormFields | None, arrays: Arrays, *, always: bool) -> None:
    """Whether gamma and beta exist as the config specifies; `always`: Keras 1 has no layers without them."""
    flags = {"gamma": ("scale", fields.scale if fields else None), "beta": ("center", fields.center if fields else None)}
    for parameter, (key, flag) in flags.items():
        if flag is None and not always:
            continue
        if (flag is not False) != (parameter in arrays):
            said = f"its config has {key}={str(flag).lower()}" if flag is not None else "a layer of Keras 1 always has one"
            raise FormatError(f"{said}, but the file contains {'a' if parameter in arrays else 'no'} {parameter}", where=path)


def _with_axis(layer: Stored, era: dialects.Era) -> Stored:
    """The axis of a layer whose config does not specify it, if the shape of its parameters leaves only one."""
    if era.is_per_element:
        return layer.replace(axis=tuple(range(1, len(layer.shape) + 1)))
    return layer.replace(axis=(-1,), assumed=(*layer.assumed, "axis")) if len(layer.shape) == 1 else layer

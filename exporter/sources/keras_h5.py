"""Legacy HDF5 files: whole models and weights alone, of Keras 0.3 to 2.4, tf.keras, tf_keras and Keras 3.

    0.3         attribute nb_layers, groups layer_0 ... with param_0 ...; or one group "graph". No names, no config
    1.0 on      attribute layer_names, one group per layer with the attribute weight_names; a whole model has them under
                model_weights and its config in the attribute model_config
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporter.batchnorm.bundle import Origin
from exporter.errors import COPY_AGAIN, FormatError, UnsupportedError, UsageError, printable
from exporter.formats.hdf5 import is_hdf5, open_hdf5
from exporter.keras import dialects
from exporter.keras.config import GIVE_THEIR_OWN, Architecture, Node, join, parse_config
from exporter.sources.legacy_h5.norms import Reading
from exporter.sources.legacy_h5.renamed import named_as
from exporter.sources.legacy_h5.shared import with_one_each
from exporter.sources.legacy_h5.weights import Candidate, LayerGroup, candidates, check_listed, check_not_exchanged, names_below
from exporter.sources.shared.architecture import node_tree_from, note_config, note_own_classes, note_unused
from exporter.sources.shared.found import Found

if TYPE_CHECKING:
    from exporter.batchnorm.kernels import Kernel
    from exporter.files.place import Place
    from exporter.formats.hdf5_file import File
    from exporter.sources.shared.options import ReadOptions

NAME = "keras-h5"
OPTIONS = ("architecture", "keras_version", "backend")
OTHER_GROUPS = ("top_level_model_weights", "optimizer_weights")  # in addition to those of the layers

# Number of weights of each class of Keras 0.3 (from its source): a file of that time numbers them without names.
_WEIGHTS_OF_KERAS_0 = {
    "Dense": 2, "TimeDistributedDense": 2, "MaxoutDense": 2, "Highway": 4, "Embedding": 1, "Convolution1D": 2, "Convolution2D": 2,
    "Convolution3D": 2, "SimpleRNN": 3, "GRU": 9, "LSTM": 12, "PReLU": 1, "ParametricSoftplus": 2, "SReLU": 4, **dict.fromkeys((
        "LeakyReLU", "ELU", "ThresholdedLinear", "ThresholdedReLU", "Masking", "TimeDistributedMerge", "Dropout", "Activation", "Reshape",
        "Permute", "Flatten", "RepeatVector", "ActivityRegularization", "Lambda", "MaskedLambda", "GaussianNoise", "GaussianDropout",
        *(f"{kind}{rank}D" for kind in ("MaxPooling", "AveragePooling", "UpSampling", "ZeroPadding") for rank in (1, 2, 3))), 0)}


def claims(place: Place) -> bool:
    """HDF5 with the marks of the legacy layout, or without those of the layout that came with Keras 2.12 (.weights.h5)."""
    if not is_hdf5(place):
        return False
    try:
        with open_hdf5(place) as file:
            legacy = {"layer_names", "layer_names0", "model_config", "nb_layers"} & set(file.attributes("")) or file.exists("model_weights")
            return bool(legacy) or not any(file.exists(name) for name in ("layers", "_layer_checkpoint_dependencies", "vars"))
    except FormatError:
        return True  # a damaged file; `read` reports what is wrong with it


def read(place: Place, options: ReadOptions) -> Found:
    """The batch norms of a legacy HDF5 file; see exporter.sources.Source."""
    with open_hdf5(place) as file:
        if "nb_layers" in file.attributes("") or (file.is_group("graph") and "nb_params" in file.attributes("graph")):
            return _read_unnamed(file, place, options)
        return _read_named(file, place, options)


def _read_named(file: File, place: Place, options: ReadOptions) -> Found:
    base = "model_weights" if file.is_group("model_weights") and not _has_layer_names(file, "") else ""
    if not _has_layer_names(file, base):
        raise FormatError("the attribute layer_names is missing: the HDF5 file was not written by Keras, or it is damaged", where=base)
    said = {name: _said(file, base, name) for name in ("keras_version", "backend")}
    text = file.text("", "model_config")
    architecture = tree = None
    if text is not None:
        tree = parse_config(text, "model_config")
    elif options.architecture is not None:
        architecture = node_tree_from(options.architecture)
        tree = architecture.tree
    found = Found(Origin(file=place.name, kind=NAME, **_origin(said, architecture)), options)
    era = _era(said, architecture, options)
    groups = _groups(file, base)
    if text is None:
        _check_lists(file, base, groups)
    try:
        if architecture is not None:
            tree, renamed = named_as(architecture.tree, groups, file)
            if renamed:
                found.warn(renamed)
        placed, before = list(_placed(groups, tree)), tree
        tree = tree and with_one_each(tree, placed)
        reading = Reading(file, era, tree, found, is_version_unwritten=architecture is not None and architecture.has_version)
        file.expect(group.datasets[-1].rpartition("/")[0] for group in groups if any(group.parsed))
        for group, path, node in placed if tree is before else _placed(groups, tree):
            reading.add(group, path, node)
    except FormatError as error:
        if architecture is None:
            raise
        raise _does_not_fit(options, error) from None
    if options.kernels:
        found.kernels = _kernels(file, groups, architecture.tree if architecture else tree, tree, options)
    note_config(tree, era, found)
    if text is not None:
        note_unused(options.architecture, found)
    return found


def _kernels(file: File, groups: list[LayerGroup], said: Node | None, named: Node | None, options: ReadOptions) -> dict[str, Kernel | str]:
    """The kernels before the batch norms. said: the config as given; named: the config with the names of the file."""
    from exporter.sources.legacy_h5.kernels import read_kernels

    if said is None:
        return {}
    assert named is not None, "it is `said`, with other names"
    pairs = zip(said.children, named.children, strict=True)
    return read_kernels(file, groups, said, {old.name: new.name for (_, old), (_, new) in pairs}, options.wants)


def _said(file: File, base: str, name: str) -> str | None:
    """The version or backend of the writer, which a whole model states for itself and for its weights. Two versions whose files have the
    same meaning do not contradict each other: people edit one of them to make a loader accept the file.
    """
    own, inner = file.text("", name), file.text(base, name)
    if own and inner and own != inner and (name == "backend" or not dialects.write_alike(own, inner)):
        raise FormatError(f"its {name} is {printable(own, 40)!r}, and in the group of its weights {printable(inner, 40)!r}",
                          hint="the file is damaged, or two files were put together; save the model again")
    return own or inner


def _does_not_fit(options: ReadOptions, error: FormatError) -> FormatError:
    name = printable(options.architecture.name) if options.architecture else ""
    return FormatError(f"the architecture {name} does not match: {error.what}", where=error.where, hint=GIVE_THEIR_OWN)


def _has_layer_names(file: File, base: str) -> bool:
    return any(name.startswith("layer_names") for name in file.attributes(base))


def _origin(said: dict[str, str | None], architecture: Architecture | None) -> dict[str, str | None]:
    if architecture is None:
        return said
    return {"keras_version": said["keras_version"] or architecture.keras_version, "backend": said["backend"] or architecture.backend}


def _era(said: dict[str, str | None], architecture: Architecture | None, options: ReadOptions) -> dialects.Era:
    """The writer of the weights: according to the file, or else the user, or else the architecture's file."""
    backend = said["backend"] or options.backend or (architecture.backend if architecture else None)
    if options.keras_version is not None:
        given = dialects.era_given(options.keras_version, backend)
        written = dialects.era_of(said["keras_version"], backend)
        if written.version not in (None, given.version):
            raise UsageError(f"--keras-version {printable(options.keras_version, 40)} contradicts the file, which specifies "
                             f"{printable(str(said['keras_version']), 40)}", hint="leave the option out")
        return given
    return dialects.era_of(said["keras_version"] or (architecture.keras_version if architecture else None), backend)


def _groups(file: File, base: str) -> list[LayerGroup]:
    names = file.strings(base, "layer_names") or []
    seen: set[str] = set()
    groups = []
    for name in names:
        if name in seen:
            raise FormatError(f"layer_names lists {printable(name)!r} twice", where=base)
        seen.add(name)
        path = join(base, name)
        weights = file.strings(path, "weight_names")
        if weights is None:
            raise FormatError("the attribute weight_names is missing", where=name)
        groups.append(LayerGroup(name=name, path=path, weights=tuple(weights)))
    check_not_exchanged(groups)
    return groups


def _check_lists(file: File, base: str, groups: list[LayerGroup]) -> None:
    """Refuses unlisted weights in a file without a config (which would reveal them): a truncated list would otherwise
    silently lose a layer, or a parameter of one."""
    below = names_below(groups)
    for group in groups:
        check_listed(file, group, below.get(group.name, ()))
    listed = {group.name.partition("/")[0] for group in groups}
    extra = [name for name in file.names(base) if name not in listed and name not in OTHER_GROUPS] if file.count(base) > len(listed) else []
    for name in extra:
        path = join(base, name)
        if file.is_group(path) and any(attribute.startswith("weight_names") for attribute in file.attributes(path)):
            raise FormatError(f"the group {printable(name)!r} holds weights, and layer_names does not list it", where=base, hint=COPY_AGAIN)


def _placed(groups: list[LayerGroup], tree: Node | None) -> Iterator[tuple[LayerGroup, str, Node | None]]:
    """(group, path, layer) of each group, in the order of the file; without a config the layer is None.

    Raises: FormatError, naming the first difference, if config and file do not contain the same layers in the same order.
    """
    if tree is None:
        yield from ((group, group.name, None) for group in groups)
        return
    if not tree.is_model:  # a user's class: its config describes only the layers that are serialized in it
        yield from ((group, group.name, _child(tree, group.name)) for group in groups)
        return
    layers = list(_saved_layers(tree))
    named, known = {group.name for group in groups}, {node.name for _, node in layers}
    nameless = [group for group in groups if group.name not in known]
    unnamed = [number for number, (_, node) in enumerate(layers) if not node.name]
    if len(unnamed) == len(nameless):  # a Sequential inside a Sequential of Keras 1 has its name only in layer_names
        for number, group in zip(unnamed, nameless):
            above, node = layers[number]
            layers[number] = above, node.replace(name=group.name)
    absent = next((node for _, node in layers if node.name not in named and any(candidates(node.name, node))), None)
    if absent is not None:
        raise FormatError("the config has this layer, but the file contains no weights for it", where=absent.name)
    yield from _in_order(groups, [(above, node) for above, node in layers if node.name in named])


def _child(tree: Node, name: str) -> Node | None:
    named = [child for _, child in tree.children if child.name == name]
    return named[0] if len(named) == 1 else None


def _in_order(groups: list[LayerGroup], layers: list[tuple[str, Node]]) -> Iterator[tuple[LayerGroup, str, Node]]:
    left, known = iter(layers), {node.name for _, node in layers}
    for group in groups:
        if group.name not in known:
            if group.weights:
                raise FormatError("the file contains weights for this layer, but the config has no such layer", where=group.name)
            continue
        above, node = next(left, ("", None))
        if node is None or node.name != group.name:
            raise FormatError("the order of layer_names differs from the config, or a layer occurs twice: "
                              f"{printable(node.name) if node else 'nothing'!r} expected here", where=group.name)
        yield group, join(above, node.name), node


def _saved_layers(tree: Node, above: str = "") -> Iterator[tuple[str, Node]]:
    """(outer path, layer) of the layers that have groups: those of the model, and for a legacy Merge of Keras 1 those of its branches."""
    for _, child in tree.children:
        if child.base_name == "Merge" and child.children:
            outer = join(above, child.name)
            for _, branch in child.children:
                if branch.children:
                    yield from _saved_layers(branch, join(outer, branch.name))
                else:
                    yield outer, branch
        else:
            yield above, child


def _read_unnamed(file: File, place: Place, options: ReadOptions) -> Found:
    """Keras 0.3: the weights of the layers are numbered in the order of the config."""
    if options.architecture is None:
        raise UnsupportedError("weights of Keras 0.3 have no names, and the file contains neither epsilon nor the classes of the layers",
                               hint="give the config with --architecture FILE")
    architecture = node_tree_from(options.architecture)
    found = Found(Origin(file=place.name, kind=NAME), options)
    found.kernels = {} if options.kernels else None  # the config of a Graph describes connections in another way
    reading = Reading(file, dialects.era_of("0.3.0", None), architecture.tree, found)
    try:
        if file.is_group("graph"):
            _add_unnamed(reading, "graph", "", architecture.tree)
        else:
            count = file.integer("", "nb_layers")
            if count != len(architecture.tree.children):
                raise FormatError(f"the file contains {count} layers, the config {len(architecture.tree.children)}")
            for number, (_, child) in enumerate(architecture.tree.children):
                _add_unnamed(reading, f"layer_{number}", child.name, child)
    except FormatError as error:
        raise _does_not_fit(options, error) from None
    note_own_classes(architecture.tree, found)
    return found


def _add_unnamed(reading: Reading, group: str, path: str, node: Node) -> None:
    found: list[tuple[Candidate, int]] = []
    if not any(candidates(path, node)):
        return
    expected = _count(path, node, 0, found)
    count = reading.file.integer(group, "nb_params")
    if count != expected:
        raise FormatError(f"the file contains {count} parameters, the config {expected}", where=group)
    for candidate, first in found:
        reading.add_unnamed(candidate, [f"{group}/param_{first + number}" for number in range(4)])


def _count(path: str, node: Node, first: int, found: list[tuple[Candidate, int]]) -> int:
    """The number after the last parameter of `node`, whose first number is `first`; its batch norms are added to `found`."""
    own = list(candidates(path, node))
    if own and own[0].node is node:
        found.append((own[0], first))
        return first + 4
    if node.class_name in ("Sequential", "Graph", "Merge"):
        for _, child in node.children:
            first = _count(join(path, child.name), child, first, found)
        return first
    if node.class_name not in _WEIGHTS_OF_KERAS_0:
        raise FormatError(f"the number of parameters of a layer of class {printable(node.class_name)} is unknown, so those after it "
                          "cannot be assigned", where=node.name)
    return first + _WEIGHTS_OF_KERAS_0[node.class_name]

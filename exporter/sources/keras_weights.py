"""Weights without a config in Keras's format since tf.keras 2.12: .weights.h5, and .weights.json with its shards (Keras 3.10 on).

They contain no epsilon, no axis, and no layer classes: these come from an architecture or from the user.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporter.batchnorm.bundle import Origin
from exporter.errors import located
from exporter.files.place import MAX_HEAD, Place
from exporter.formats.hdf5 import is_hdf5, open_hdf5
from exporter.sources.keras_v3.groups import LAYER_LISTS, VARIABLES, Group
from exporter.sources.shared.found import Found
from exporter.sources.shared.shards import may_be_shard, open_shards

if TYPE_CHECKING:
    from exporter.formats.hdf5_file import File
    from exporter.sources.shared.options import ReadOptions

SHARD = ("its name is that of a shard: if a .weights.json lists it, the other shards contain further layers; give the .weights.json "
         "instead")

NAME = "keras-weights"
OPTIONS = ("architecture",)


def claims(place: Place) -> bool:
    """HDF5 with the groups of this format, or the JSON that lists shards."""
    if is_hdf5(place):
        with open_hdf5(place) as file:
            if any(re.fullmatch(r"layer_names[0-9]*|nb_layers|model_config", name) for name in file.attributes("")):
                return False  # the older layout, whatever the names of its layers
            return any(map(file.is_group, (*LAYER_LISTS, VARIABLES))) or any(path.endswith(f"/{VARIABLES}") for path in file.walk())
    return place.is_file() and place.head(1) == b"{" and b'"weight_map"' in place.head(MAX_HEAD)


def read(place: Place, options: ReadOptions) -> Found:
    """The batch norms; epsilon is None unless `options.architecture` gives the config."""
    from exporter.sources.keras_v3.weights import read_weights  # this source is asked about many files that are none of its own

    found = Found(Origin(file=place.name, kind=NAME), options)
    may_be_cut = is_hdf5(place) and may_be_shard(place)
    tree = version = None
    if options.architecture is not None:
        from exporter.sources.shared.architecture import node_tree_from

        architecture = node_tree_from(options.architecture)
        tree, version = architecture.tree, architecture.keras_version
    hint = f"the architecture is that of {options.architecture.name}" if options.architecture else ""
    with _open(place) as files, located("", hint):
        read_weights(Group(files), tree, version, found, own_config=False, kernels=options.wants if options.kernels else None,
                     may_be_cut=may_be_cut)
    if may_be_cut and (tree is None or found.own_classes):  # nothing else shows that layers are missing
        found.warn(SHARD)
    return found


@contextlib.contextmanager
def _open(place: Place) -> Iterator[list[File]]:
    if is_hdf5(place):
        with open_hdf5(place) as file:
            yield [file]
    else:
        with open_shards(place) as files:
            yield files

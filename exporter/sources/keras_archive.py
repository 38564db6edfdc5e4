"""Keras's own format since tf.keras 2.11: a .keras zip, or a folder, of metadata.json, config.json and weights in HDF5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.batchnorm.bundle import Origin
from exporter.files.place import Place
from exporter.sources.shared.architecture import note_unused
from exporter.sources.shared.archive import CONFIG, METADATA, PICKLED, SHARDED, WEIGHTS, Folder, Zip, config_of
from exporter.sources.shared.found import Found

if TYPE_CHECKING:
    from exporter.sources.shared.options import ReadOptions

NAME = "keras-archive"
OPTIONS = ("architecture",)


def claims(place: Place) -> bool:
    """A zip archive or folder with the parts of a model at its top."""
    others = (METADATA, *WEIGHTS, SHARDED, *PICKLED)
    if place.is_folder():
        return place.child(CONFIG).is_file() and any(place.child(name).is_file() for name in others)
    from exporter.formats.zip_archive import MAGIC, names_in  # a folder is none

    if place.head(4) not in MAGIC:
        return False
    found = names_in(place)
    return found is None or len({CONFIG, *others}.intersection(found)) > 1  # of a damaged one, reading it reports how


def read(place: Place, options: ReadOptions) -> Found:
    """The batch norms of the model; epsilon is None inside a user's classes, whose config does not describe their layers."""
    if place.is_folder():
        return _read(Folder(place), place, options)
    with place.open() as file:
        return _read(Zip(file), place, options)


def _read(parts: Zip | Folder, place: Place, options: ReadOptions) -> Found:
    from exporter.sources.keras_v3.groups import Group  # this source is asked about many files that are none of its own
    from exporter.sources.keras_v3.weights import read_weights

    architecture = config_of(parts)
    found = Found(Origin(file=place.name, kind=NAME, keras_version=architecture.keras_version), options)
    for warning in parts.warnings:
        found.warn(warning)
    with parts.weights() as files:
        read_weights(Group(files), architecture.tree, architecture.keras_version, found, own_config=True,
                     kernels=options.wants if options.kernels else None)
    note_unused(options.architecture, found)
    return found

"""Keras's own format since tf.keras 2.11: a .keras zip, or a folder, of metadata.json, config.json and weights in HDF5."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from exporter.batchnorm.bundle import Bundle, Origin
from exporter.errors import FormatError, UnsupportedError
from exporter.files.place import Place
from exporter.formats.hdf5 import open_hdf5
from exporter.formats.strict_json import parse_json
from exporter.formats.zip_archive import MAGIC, Archive
from exporter.keras.config import Architecture, parse_config
from exporter.sources.keras_v3.groups import Group
from exporter.sources.keras_v3.weights import read_weights
from exporter.sources.keras_weights import open_shards

if TYPE_CHECKING:
    from exporter.formats.hdf5_file import File
    from exporter.sources.shared.options import ReadOptions

NAME = "keras-archive"

CONFIG, METADATA = "config.json", "metadata.json"
WEIGHTS = ("model.weights.h5", "variables.h5")  # the second: tf.keras 2.11
SHARDED = "model.weights.json"
PICKLED = ("model.weights.npz", "variables.npz")


def claims(place: Place) -> bool:
    """A zip archive or folder with the parts of a model; in an archive they may lie deeper, which reading refuses with the reason."""
    if place.is_folder():
        others = (METADATA, *WEIGHTS, SHARDED, *PICKLED)
        return place.child(CONFIG).is_file() and any(place.child(name).is_file() for name in others)
    if place.head(4) not in MAGIC:
        return False
    with place.open() as file:
        try:
            found = {member.name.rpartition("/")[2] for member in Archive(file).members}
        except FormatError:  # damaged: reading it says how
            return True
    return not found.isdisjoint((CONFIG, *WEIGHTS, *PICKLED))


def read(place: Place, options: ReadOptions) -> Bundle:
    """The batch norms of the model; epsilon None inside a user's own classes, whose config says nothing of their layers."""
    if place.is_folder():
        return _read(_Folder(place), place, options)
    with place.open() as file:
        return _read(_Zip(file), place, options)


def read_architecture(place: Place) -> Architecture:
    """The config alone."""
    if place.is_folder():
        return _architecture(_Folder(place))
    with place.open() as file:
        return _architecture(_Zip(file))


class _Zip:
    """The parts of a .keras file."""

    def __init__(self, file: BinaryIO) -> None:
        self._archive = Archive(file)
        self.warnings = self._archive.warnings()

    def has(self, name: str) -> bool:
        return name in self._archive

    def text(self, name: str) -> bytes:
        return self._archive.read(name)

    @contextlib.contextmanager
    def weights(self) -> Iterator[list[File]]:
        name = _weights_name(self)
        with self._archive.open(name) as member, open_hdf5(member, name) as file:
            yield [file]


class _Folder:
    """The parts of an unpacked model (Keras 3.4 and later write one with zipped=False; KerasHub presets are such folders, too)."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.warnings: list[str] = []

    def has(self, name: str) -> bool:
        return self._place.child(name).is_file()

    def text(self, name: str) -> bytes:
        return self._place.child(name).read()

    @contextlib.contextmanager
    def weights(self) -> Iterator[list[File]]:
        if self.has(SHARDED) and not self.has(WEIGHTS[0]):
            with open_shards(self._place.child(SHARDED)) as files:
                yield files
        else:
            name = _weights_name(self)
            with open_hdf5(self._place.child(name), name) as file:
                yield [file]


def _read(parts: _Zip | _Folder, place: Place, options: ReadOptions) -> Bundle:
    architecture = _architecture(parts)
    with parts.weights() as files:
        found = read_weights(Group(files), architecture.tree, architecture.keras_version, options.announce, own_config=True)
    return found.bundle(Origin(file=place.name, kind=NAME, keras_version=architecture.keras_version), parts.warnings)


def _architecture(parts: _Zip | _Folder) -> Architecture:
    tree = parse_config(parts.text(CONFIG), CONFIG)
    version = None
    if parts.has(METADATA):
        try:
            metadata = parse_json(parts.text(METADATA), METADATA)
            version = metadata.get("keras_version") if isinstance(metadata, dict) else None
        except FormatError as error:  # it holds nothing that the numbers depend on
            parts.warnings.append(f"{error}; it is ignored")
    return Architecture(tree=tree, keras_version=version if isinstance(version, str) else None, backend=None)


def _weights_name(parts: _Zip | _Folder) -> str:
    found = [name for name in WEIGHTS if parts.has(name)]
    if len(found) > 1:
        raise FormatError(f"both {found[0]} and {found[1]} are there: it is not clear which holds the weights")
    if found:
        return found[0]
    for name in filter(parts.has, PICKLED):
        raise UnsupportedError("the weights are in NumPy's .npz form, a pickle of the backend's own objects; a pickle is never loaded",
                               where=name, hint="save the model again in the default form, with its weights in HDF5")
    return WEIGHTS[0]  # opening it says that it is missing

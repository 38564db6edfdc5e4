"""The parts of a model in Keras's own format since tf.keras 2.11: metadata.json, config.json and weights in HDF5, in a zip or a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporter.errors import FormatError, UnsupportedError, located
from exporter.files.input_file import InputFile
from exporter.files.place import Place
from exporter.formats.hdf5 import open_hdf5
from exporter.formats.strict_json import parse_json
from exporter.keras.config import HOW_TO_GIVE_ONE, Architecture, parse_config

if TYPE_CHECKING:
    from exporter.formats.hdf5_file import File

CONFIG, METADATA = "config.json", "metadata.json"
WEIGHTS = ("model.weights.h5", "variables.h5")  # the second: tf.keras 2.11
SHARDED = "model.weights.json"
PICKLED = ("model.weights.npz", "variables.npz")


class Zip:
    """The parts of a .keras file."""

    def __init__(self, file: InputFile) -> None:
        from exporter.formats.zip_archive import Archive  # neither is needed to know a folder that is no model of this format

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


class Folder:
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
            from exporter.sources.shared.shards import open_shards

            with open_shards(self._place.child(SHARDED)) as files:
                yield files
        else:
            name = _weights_name(self)
            with open_hdf5(self._place.child(name), name) as file:
                yield [file]


def config_of(parts: Zip | Folder) -> Architecture:
    """The config of the model, and the version in its metadata."""
    tree = parse_config(parts.text(CONFIG), CONFIG)
    version = None
    if parts.has(METADATA):
        try:
            metadata = parse_json(parts.text(METADATA), METADATA)
            version = metadata.get("keras_version") if isinstance(metadata, dict) else None
        except FormatError as error:  # nothing in it affects the numbers
            parts.warnings.append(f"{error}; it is ignored")
    return Architecture(tree=tree, keras_version=version if isinstance(version, str) else None, backend=None)


def _weights_name(parts: Zip | Folder) -> str:
    found = [name for name in WEIGHTS if parts.has(name)]
    if len(found) > 1:
        raise FormatError(f"expected {found[0]} or {found[1]}, got both: which contains the weights is ambiguous")
    if found:
        return found[0]
    for name in filter(parts.has, PICKLED):
        raise UnsupportedError("the weights are in NumPy's .npz format, a pickle of the backend's own objects; pickles are never loaded",
                               where=name, hint="save the model again in the default format, with its weights in HDF5")
    return WEIGHTS[0]  # opening it reports that it is missing


def read_architecture(place: Place) -> Architecture:
    """The config alone."""
    if place.is_folder():
        return config_of(Folder(place))
    with place.open() as file, located("", HOW_TO_GIVE_ONE):  # any zip archive may be given, as an .npz of weights
        return config_of(Zip(file))

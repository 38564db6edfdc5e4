"""The only model in a folder or zip archive that is not itself a model, as web tools, servers and callbacks create them.

    Edge Impulse         trained.h5.zip, trained.savedmodel.zip
    Teachable Machine    converted_keras.zip (keras_model.h5, labels.txt); a folder of model.json, metadata.json and weights.bin
    Silicon Labs MLTK    NAME.mltk.zip (NAME.h5, NAME.tflite, logs)
    TensorFlow Serving   a folder of versions or timestamps, each a SavedModel
    BackupAndRestore     latest.weights.h5 and training_metadata.json

Bundles and NumPy archives are not searched for: they may be beside the model that they were made from, or be its training data.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator

from exporter.errors import FormatError, UnsupportedError, names
from exporter.files.place import Place
from exporter.formats.hdf5 import SIGNATURE
from exporter.formats.zip_archive import MAGIC
from exporter.sources import Source, source_for
from exporter.targets.shared.folded_archive import CONTENT as FOLDED

MAX_FILES = 5000  # that are examined
MAX_MODELS = 20  # more are not searched for
MAX_DEPTH = 3  # nested folders
KEYS = (b'"modelTopology"', b'"weightsManifest"', b'"weight_map"')  # of the JSON files that list a model's weights
BESIDE_MODELS = ("bundle", "bundle-arrays", "numpy-archive")  # files beside a model that are not models

_SHARD = re.compile(r"(.*)_[0-9]{5}\.weights\.h5", re.DOTALL)

Model = tuple[str, Place, Source]


@contextlib.contextmanager
def one_model(place: Place) -> Iterator[Model | None]:
    """(path inside, place, source) of the only model in a folder or zip archive; None: `place` is neither.

    Raises: UnsupportedError if it contains none or several, FormatError for a damaged archive.
    """
    if not place.is_folder() and place.head(4) not in MAGIC:
        yield None
        return
    with contextlib.ExitStack() as stack:
        found = []
        for model in _models(place, stack, _Budget()):
            found.append(model)
            if len(found) == MAX_MODELS:
                break
        kind = "folder" if place.is_folder() else "zip archive"
        if not found and place.is_folder():
            yield None
            return
        if not found and _is_torch(place, stack):
            raise UnsupportedError("this is a PyTorch file, which is a pickle: it can run code and is not loaded",
                                   hint="bn-verify compares it with a bundle of the Keras model")
        if not found and _top(place, stack).child(FOLDED).is_file():
            raise UnsupportedError("this file contains kernels with batch norms folded into them, written by bn-export --fold",
                                   hint="give the model that it was made of")
        if not found:
            raise UnsupportedError(f"this zip archive is not a .keras model and contains no supported model; it contains "
                                   f"{_content(place, stack)}",
                                   hint="the README lists the supported formats")
        if len(found) > 1:
            count = len(found) if len(found) < MAX_MODELS else f"{MAX_MODELS} or more"
            raise UnsupportedError(f"this {kind} contains {count} models: {names((path for path, _, _ in found), 8)}",
                                   hint="give one of them" if place.is_folder() else "unpack it and give one of them")
        yield found[0]


class _Budget:
    """How many more files may be examined."""

    def __init__(self) -> None:
        self.left = MAX_FILES

    def spend(self, places: list[Place]) -> list[Place]:
        self.left -= len(places)
        if self.left < 0:
            raise UnsupportedError(f"it contains more than {MAX_FILES} files and is not a model itself", hint="give the model in it")
        return places


def _models(place: Place, stack: contextlib.ExitStack, budget: _Budget, above: str = "", depth: int = 0) -> Iterator[Model]:
    """The models in a folder or zip archive and in the folders below it."""
    folder = place if place.is_folder() else _top(place, stack)
    is_archive = folder is not place
    if is_archive and (source := _model_source(folder)):
        yield above or place.name, folder, source
        return
    indexes: set[str] = set()
    for child in budget.spend(folder.children()):
        path = f"{above}/{child.name}" if above else child.name
        if child.name.startswith(".") or child.name == "__MACOSX":
            continue
        if child.is_folder():
            if source := _model_source(child):
                yield path, child, source
            elif depth < MAX_DEPTH:
                yield from _models(child, stack, budget, path, depth + 1)
        elif _may_be_model(child) and not _is_shard(child.name, indexes, folder):
            if source := _model_source(child):
                yield path, child, source
            elif child.is_local and child.head(4) in MAGIC:  # not inside a nested archive
                with contextlib.suppress(FormatError):  # a damaged archive is not a model
                    yield from _models(child, stack, budget, path, depth + 1)


def _top(place: Place, stack: contextlib.ExitStack) -> Place:
    from exporter.formats.zip_place import Content, ZipPlace

    return ZipPlace(Content(place, stack.enter_context(place.open())))


def _model_source(place: Place) -> Source | None:
    source = source_for(place)
    return None if source is None or source.NAME in BESIDE_MODELS else source


def _may_be_model(place: Place) -> bool:
    """Decided by the first bytes: asking every source about each of a thousand images would take long."""
    head = place.head(4096)
    return head.startswith((SIGNATURE, *MAGIC)) or place.suffix in (".pb", ".pbtxt") or (
        head.lstrip().startswith(b"{") and any(key in head for key in KEYS))


def _is_shard(name: str, indexes: set[str], folder: Place) -> bool:
    """Whether a .weights.json lists this file: together they are one model."""
    part = _SHARD.fullmatch(name)
    if part is None:
        return False
    if part[1] not in indexes and folder.child(f"{part[1]}.weights.json").is_file():
        indexes.add(part[1])
    return part[1] in indexes


def _is_torch(place: Place, stack: contextlib.ExitStack) -> bool:
    """Whether an archive was written by torch.save: a folder of any name with data.pkl and version."""
    return any(folder.child("data.pkl").is_file() for folder in _top(place, stack).children())


def _content(place: Place, stack: contextlib.ExitStack) -> str:
    held: Iterable[str] = (child.name for child in _top(place, stack).children())
    return names(held) or "no file"

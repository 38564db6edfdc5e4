"""SavedModels: the folders of tf.saved_model.save, model.save, model.export, of TensorFlow 1's builder and estimators.

Batch norms come from the object graph of saved_model.pb, their numbers from variables/ by the node of each variable, their
configs from Keras's metadata. Without metadata, the graph itself shows which variables belong to a batch norm, and its epsilon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.batchnorm.bundle import Origin
from exporter.errors import FormatError, UnsupportedError
from exporter.files.place import Place
from exporter.sources.shared.found import Found
from exporter.sources.tf_objects import MODEL, VARIABLES

if TYPE_CHECKING:
    from exporter.sources.shared.options import ReadOptions

NAME = "saved-model"
OPTIONS = ("ema",)
TEXT_MODEL = "saved_model.pbtxt"


def claims(place: Place) -> bool:
    """A folder that contains saved_model.pb, that file itself, or the variables beside it; also an incomplete folder of this kind."""
    folder = _folder(place)
    if folder is None:
        return False
    return folder.child(MODEL).is_file() or folder.child(TEXT_MODEL).is_file() or (folder == place and folder.child(VARIABLES).is_file())


def read(place: Place, options: ReadOptions) -> Found:
    """The batch norms of a SavedModel."""
    folder = _folder(place)
    assert folder is not None
    if not folder.child(MODEL).is_file() and not folder.child(TEXT_MODEL).is_file():
        raise FormatError(f"a SavedModel without its {MODEL}: only its variables were found", hint="copy the whole folder; or give "
                          f"{VARIABLES} with the model's --architecture")
    if not folder.child(MODEL).is_file():
        raise UnsupportedError("SavedModels in text format are not supported", where=TEXT_MODEL,
                               hint="load it with TensorFlow and save it again")
    from exporter.sources.tf_objects.model import read_model  # this source is asked about many files that are none of its own
    from exporter.sources.tf_objects.parts import graphs_of, of_inference

    part = of_inference(graphs_of(folder.child(MODEL)))
    found = Found(Origin(file=place.name, kind=NAME, tensorflow_version=part.tensorflow_version), options)
    read_model(part, folder, found, options)
    return found


def _folder(place: Place) -> Place | None:
    """The folder of the SavedModel that contains a place, or is the place."""
    above = place.parent()
    if place.name in (MODEL, TEXT_MODEL):
        return above
    name = VARIABLES.partition("/")[0]
    for folder, variables in ((above, place), (above.parent(), above)):
        if variables.name == name and variables.is_folder() and folder.child(MODEL).is_file() and not variables.child(MODEL).is_file():
            return folder if variables is place or place.name.partition(".")[0] == name else None
    return place if place.is_folder() else None

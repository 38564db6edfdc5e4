"""The file saved_model.pb: the graphs of a SavedModel, each with the objects that it belongs to."""

from __future__ import annotations

from typing import NamedTuple

from exporter.errors import FormatError, located
from exporter.files.place import Place
from exporter.formats.graph_def import open_file
from exporter.formats.object_graph import SavedGraph
from exporter.formats.protobuf import Message, fields

# Field numbers of saved_model.proto and meta_graph.proto.
MODEL_META_GRAPHS = 2
META_INFO, META_OBJECTS = 1, 7
INFO_TAGS, INFO_VERSION = 4, 5


class Part(NamedTuple):
    """One of the graphs of a SavedModel with what belongs to it; `data` is its MetaGraphDef."""

    data: bytes
    tags: tuple[str, ...]
    tensorflow_version: str | None
    objects: SavedGraph | None


def graphs_of(place: Place) -> list[Part]:
    """The graphs of a saved_model.pb."""
    with located(place.name, hint="the file is truncated or not a SavedModel: copy or download it again"):
        found = fields(open_file(place)).get(MODEL_META_GRAPHS, [])
        parts = [_part(data, place.name) for data in found if not isinstance(data, int)]
    if not parts:
        raise FormatError("it contains no graph: it is truncated or not a SavedModel", where=place.name)
    return parts


def _part(data: bytes, where: str) -> Part:
    found = fields(data)

    def message(number: int) -> Message:
        return Message(b"".join(bytes(value) for value in found.get(number, []) if not isinstance(value, int)), where)

    info, objects = message(META_INFO), SavedGraph(message(META_OBJECTS))
    return Part(data, tuple(info.texts(INFO_TAGS)), info.text(INFO_VERSION) or None, objects if len(objects) else None)


def of_inference(parts: list[Part]) -> Part:
    """The one of inference: TensorFlow 2 writes one, estimators one each for train, eval and serve."""
    return min(parts, key=lambda part: (part.objects is None, "serve" not in part.tags, "train" in part.tags))

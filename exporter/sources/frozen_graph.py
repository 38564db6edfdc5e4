"""Frozen graphs: a GraphDef in which variables became constants (freeze_graph, convert_variables_to_constants), as a .pb file.

Graph tools may fold all batch norms or some of them. Complete ones are exported; folded ones are reported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from exporter.batchnorm.bundle import Origin
from exporter.errors import FormatError, UnsupportedError
from exporter.files.place import MAX_HEAD
from exporter.formats.protobuf import varint
from exporter.sources.shared.found import Found

if TYPE_CHECKING:
    from exporter.files.place import Place
    from exporter.sources.shared.options import ReadOptions

NAME = "frozen-graph"
OPTIONS: tuple[str, ...] = ()

SAVED_MODEL = b"\x08\x01\x12"  # saved_model.proto: the schema version, 1, and the first of the graphs

_OP = re.compile(rb"[A-Za-z_][A-Za-z0-9_.>]*")
_TEXT = re.compile(rb"\s*(#[^\n]*\n\s*)*(node|versions|library|meta_info_def|graph_def)\s*:?\s*\{")


def claims(place: Place) -> bool:
    """A GraphDef, or a file that contains one: a MetaGraphDef, or a renamed SavedModel file; in binary or text form."""
    return _kind(place.head(MAX_HEAD)) is not None


def read(place: Place, options: ReadOptions) -> Found:
    """The batch norms whose parameters are constants of the graph. Raises: FormatError, UnsupportedError (not frozen, folded, text)."""
    kind = _kind(place.head(MAX_HEAD))
    if kind == "text":
        raise UnsupportedError("this is a graph in text format, which is not supported", hint="write it with as_text=False")
    from exporter.formats.graph_def import Graph, MetaGraph, open_file  # this source is asked about many files that are none of its own
    from exporter.sources.tf_graph.frozen import read_constants
    from exporter.sources.tf_objects.parts import graphs_of, of_inference

    if kind == "graph":
        graph, version = Graph(open_file(place), place.name), ""
    else:
        meta = MetaGraph(of_inference(graphs_of(place)).data if kind == "saved model" else open_file(place), place.name)
        graph, version = meta.graph, meta.tensorflow_version
    found = Found(Origin(file=place.name, kind=NAME, tensorflow_version=version or None), options)
    read_constants(graph, version, found)
    return found


def _kind(head: bytes) -> str | None:
    """The kind of file according to its first bytes: "graph", "meta graph", "saved model", "text", or None."""
    if _TEXT.match(head):
        return "text"
    if head.startswith(SAVED_MODEL):
        return "saved model"
    try:
        if head[:1] != b"\x0a":
            return None
        size, at = varint(head, 1, len(head))
        inside = head[at : at + size]
        return _kind_of_first(inside) if size else None
    except FormatError:
        return None


def _kind_of_first(inside: bytes) -> str | None:
    """A GraphDef begins with a node: name, then op. A MetaGraphDef with its info: version, list of ops, tags, version of TensorFlow.

    An OpList begins with an op: name, then inputs or attributes, which begin with their names, where the info has an op and the tags text.
    """
    at = 0
    if inside[:1] == b"\x0a":
        size, at = varint(inside, 1, len(inside))
        at += size
    if inside[at : at + 1] == b"\x12":
        size, start = varint(inside, at + 1, len(inside))
        if at and _OP.fullmatch(inside[start : start + size]):
            return "graph"
        if inside[start : start + 1] != b"\x0a":
            return None
        size, start = varint(inside, start + 1, len(inside))
        return "meta graph" if not size or inside[start : start + 1] == b"\x0a" else None
    if inside[at : at + 1] == b"\x22":
        _, start = varint(inside, at + 1, len(inside))
        return "meta graph" if inside[start : start + 1] != b"\x0a" else None
    return "meta graph" if inside[at : at + 1] == b"\x2a" else None

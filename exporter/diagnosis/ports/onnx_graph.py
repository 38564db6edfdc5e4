"""An .onnx model: its BatchNormalization nodes with constant parameters, read from the protobuf without the package onnx.

Field numbers: onnx/onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3). Operator:
https://onnx.ai/onnx/operators/onnx__BatchNormalization.html: inputs X, scale, B, mean, var; epsilon is a float32, 1e-5 where absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.diagnosis.ports.port import Port, Ported, coarsest, flat
from exporter.errors import FormatError, UnsupportedError, printable
from exporter.formats.arrays import widen
from exporter.formats.protobuf import Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.files.place import Place

MAX_BYTES = 2 << 30  # bytes; no protobuf is larger
DEFAULT_EPSILON = float(np.float32(1e-5))
OPERATOR = "BatchNormalization"
STORED = {1: "<f4", 10: "<f2", 11: "<f8", 16: "<u2", 7: "<i8"}  # TensorProto.DataType: the type of raw_data
BFLOAT16, EXTERNAL = 16, 1
TYPED_FIELDS = {1: (4, "<f4"), 11: (10, "<f8")}  # for each type: the field of numbers that are not raw, and how they are packed


class ModelProto:
    IR_VERSION, GRAPH, FUNCTIONS = 1, 7, 25


class GraphProto:
    NODE, INITIALIZER = 1, 5


class FunctionProto:
    NAME, NODE, DOC_STRING = 1, 7, 8


class NodeProto:
    INPUT, OUTPUT, NAME, OP_TYPE, ATTRIBUTE, DOMAIN = 1, 2, 3, 4, 5, 7


class AttributeProto:
    NAME, F, I, T, G = 1, 2, 3, 5, 6  # noqa: E741


class TensorProto:
    DIMS, DATA_TYPE, FLOAT_DATA, INT32_DATA, NAME, RAW_DATA, DOUBLE_DATA, DATA_LOCATION = 1, 2, 4, 5, 8, 9, 10, 14


def claims(place: Place) -> bool:
    """A ModelProto: it begins with an IR version of 3 or more; a SavedModel's file begins with its own version, 1."""
    head = place.head(64)
    if len(head) < 3 or head[0] != 0x08 or not 3 <= head[1] <= 100:
        return False
    try:
        return ModelProto.GRAPH in Message(place.read(MAX_BYTES), place.name)
    except FormatError:
        return False


def read(place: Place) -> Port:
    """The batch norms of the main graph, its subgraphs and its functions. Raises: FormatError, UnsupportedError if there is none."""
    model = Message(place.read(MAX_BYTES), place.name)
    graph = model.message(ModelProto.GRAPH)
    layers: list[Ported] = []
    notes: list[str] = []
    constants: dict[str, NDArray[Any]] = {}
    for scope, nodes, tensors in _scopes(graph, model):
        constants = {**constants, **_constants(nodes, tensors, place.name)}
        for node in nodes:
            if node.text(NodeProto.OP_TYPE) == OPERATOR and node.text(NodeProto.DOMAIN) in ("", "ai.onnx"):
                found = _layer(node, scope, constants, place.name)
                if isinstance(found, str):
                    notes.append(found)
                else:
                    layers.append(found)
    others = {name: values for name, values in constants.items() if values.dtype.kind == "f"}
    if not layers and not others:
        raise UnsupportedError("the ONNX graph contains no BatchNormalization node" + (f": {notes[0]}" if notes else ""), where=place.name)
    return Port(name=place.name, kind="an ONNX model", layers=tuple(_named_apart(layers)), others=others, notes=tuple(notes))


def _scopes(graph: Message, model: Message) -> Iterator[tuple[str, list[Message], list[Message]]]:
    """(name of a function or "", nodes, initializers) of the graph, of the graphs in its nodes, and of the functions."""
    pending = [graph]
    while pending:
        current = pending.pop(0)
        nodes = current.messages(GraphProto.NODE)
        yield "", nodes, current.messages(GraphProto.INITIALIZER)
        pending += [attribute.message(AttributeProto.G) for node in nodes for attribute in node.messages(NodeProto.ATTRIBUTE)
                    if AttributeProto.G in attribute]
    for function in model.messages(ModelProto.FUNCTIONS):
        yield function.text(FunctionProto.DOC_STRING) or function.text(FunctionProto.NAME), function.messages(FunctionProto.NODE), []


def _constants(nodes: list[Message], tensors: list[Message], where: str) -> dict[str, NDArray[Any]]:
    """Initializers and Constant nodes of one long dimension, by name; a node that passes a constant on (Identity) included."""
    found = {}
    named = [(tensor.text(TensorProto.NAME), tensor) for tensor in tensors]
    for node in nodes:
        if node.text(NodeProto.OP_TYPE) == "Constant":
            named += [(name, attribute.message(AttributeProto.T)) for attribute in node.messages(NodeProto.ATTRIBUTE)
                      if AttributeProto.T in attribute for name in node.texts(NodeProto.OUTPUT)]
    for name, tensor in named:
        if sum(size != 1 for size in tensor.integers(TensorProto.DIMS)) <= 1:
            found[name] = _values(tensor, name, where)
    for node in nodes:
        if node.text(NodeProto.OP_TYPE) == "Identity":
            for source, target in zip(node.texts(NodeProto.INPUT), node.texts(NodeProto.OUTPUT)):
                if source in found:
                    found[target] = found[source]
    return found


def _values(tensor: Message, name: str, where: str) -> NDArray[Any]:
    place = f"{where}: {printable(name, 80)}"
    kind, shape = tensor.unsigned(TensorProto.DATA_TYPE), tensor.integers(TensorProto.DIMS)
    if tensor.unsigned(TensorProto.DATA_LOCATION) == EXTERNAL:
        raise UnsupportedError("its numbers are in another file (external data)", where=place,
                               hint="onnx.save(onnx.load(file), one_file) writes one file with all data")
    if kind not in STORED:
        return np.zeros(0, np.int64)
    if TensorProto.RAW_DATA in tensor:
        values = np.frombuffer(_whole(tensor.raw(TensorProto.RAW_DATA), STORED[kind], place), STORED[kind])
    elif kind in TYPED_FIELDS:
        values = np.frombuffer(tensor.packed(TYPED_FIELDS[kind][0], np.dtype(TYPED_FIELDS[kind][1]).itemsize), TYPED_FIELDS[kind][1])
    else:  # half-precision types are stored as bits in one int32 each
        values = np.array(tensor.integers(TensorProto.INT32_DATA), "<i4").astype("<u2").view(STORED[kind])
    if values.size != math.prod(shape):
        raise FormatError(f"expected {math.prod(shape)} numbers, got {values.size}", where=place)
    return widen(values) if kind == BFLOAT16 else values


def _whole(data: bytes, kind: str, where: str) -> bytes:
    if len(data) % np.dtype(kind).itemsize:
        raise FormatError(f"expected a multiple of {np.dtype(kind).itemsize} bytes, got {len(data)}", where=where)
    return data


def _layer(node: Message, scope: str, constants: dict[str, NDArray[Any]], where: str) -> Ported | str:
    """The batch norm of a node, or why it cannot be compared."""
    inputs, outputs = node.texts(NodeProto.INPUT), node.texts(NodeProto.OUTPUT)
    name = node.text(NodeProto.NAME) or (outputs[0] if outputs else "")
    if len(inputs) != 5:
        raise FormatError(f"expected 5 inputs of BatchNormalization, got {len(inputs)}", where=f"{where}: {printable(name, 80)}")
    called = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), inputs[1:]))
    unknown = [whole for whole in called.values() if whole not in constants]
    path = scope or _path(name, inputs[1])
    if unknown:
        return f"{printable(path, 80)}: its {printable(unknown[0], 80)} is computed in the graph, so it is not compared"
    if len([name for name in outputs if name]) > 1:  # below opset 14, a node in training mode is one with the training outputs
        return _training(path)
    arrays = {role: flat(constants[whole], whole, where) for role, whole in called.items()}
    sizes = {values.size for values in arrays.values()}
    if len(sizes) != 1:
        raise FormatError(f"expected arrays of one length, got {sorted(sizes)}", where=f"{where}: {printable(name, 80)}")
    epsilon = DEFAULT_EPSILON
    for attribute in node.messages(NodeProto.ATTRIBUTE):
        if attribute.text(AttributeProto.NAME) == "training_mode" and attribute.integer(AttributeProto.I):
            return _training(path)
        if attribute.text(AttributeProto.NAME) == "epsilon":
            epsilon = attribute.single(AttributeProto.F)
    return Ported(path=path, arrays=arrays, called=called, dtype=coarsest(arrays.values()), epsilon=epsilon)


def _training(path: str) -> str:
    return f"{printable(path, 80)}: a node in training mode normalizes by the batch and not by these statistics (BN121)"


def _path(name: str, scale: str) -> str:
    """The layer's path from the node's name, or from the name of its scale: "/bn/BatchNormalization" and "bn.weight" both give "bn"."""
    parts = [part for part in name.split("/") if part]
    while parts and parts[-1].lower().startswith(("batchnormalization", "fusedbatchnorm")):
        parts = parts[:-1]
    if parts:
        return "/".join(parts)
    head, _, last = scale.replace("/", ".").rpartition(".")
    return head if head and last in ("weight", "scale", "gamma") else name


def _named_apart(layers: list[Ported]) -> Iterator[Ported]:
    """Later layers with the same path get "#2", "#3", as in a bundle."""
    import dataclasses

    seen: dict[str, int] = {}
    for layer in layers:
        seen[layer.path] = seen.get(layer.path, 0) + 1
        yield layer if seen[layer.path] == 1 else dataclasses.replace(layer, path=f"{layer.path}#{seen[layer.path]}")

"""Layers of a bundle in the formats of other frameworks."""

from __future__ import annotations

import struct

import numpy as np

TORCH = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
FLAX = {"gamma": "params/{}/scale", "beta": "params/{}/bias", "moving_mean": "batch_stats/{}/mean", "moving_variance": "batch_stats/{}/var"}


def torch_state(*layers, prefix="", **renamed):
    """The arrays of a state_dict; renamed: the name of a layer in it."""
    state = {}
    for layer in layers:
        name = prefix + renamed.get(layer.name, layer.name)
        state |= {f"{name}.{TORCH[key]}": np.array(values) for key, values in layer.parameters().items()}
        state[f"{name}.num_batches_tracked"] = np.array(7, np.int64)
    return state


def flax_state(*layers):
    """The flat arrays of flax variables, named BatchNorm_0, BatchNorm_1, ..."""
    return {FLAX[key].format(f"BatchNorm_{number}"): np.array(values) for number, layer in enumerate(layers)
            for key, values in layer.parameters().items()}


def onnx_model(*layers, epsilon=None, names="/{}/BatchNormalization", raw=True, **attributes):
    """The bytes of an ONNX model with a BatchNormalization node for each layer."""
    import onnx
    from onnx import helper, numpy_helper

    nodes, tensors = [], []
    for layer in layers:
        arrays = {"gamma": np.ones(layer.shape, "f"), "beta": np.zeros(layer.shape, "f"), **layer.parameters()}
        inputs = [f"{layer.name}_{name}" for name in TORCH]
        for name, key in zip(inputs, TORCH):
            values = np.asarray(arrays[key], np.float32)
            tensors.append(numpy_helper.from_array(values, name) if raw else
                           helper.make_tensor(name, onnx.TensorProto.FLOAT, values.shape, values.tolist()))
        given = {"epsilon": layer.epsilon if epsilon is None else epsilon, "name": names.format(layer.name), **attributes}
        nodes.append(helper.make_node("BatchNormalization", [f"{layer.name}_x", *inputs], [f"{layer.name}_y"], **given))
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8).SerializeToString()


def msgpack(value):
    """MessagePack of nested dictionaries of arrays, as flax.serialization.to_bytes writes it."""
    if isinstance(value, dict):
        return bytes([0x80 | len(value)]) + b"".join(msgpack(key) + msgpack(each) for key, each in value.items())
    if isinstance(value, str):
        return bytes([0xA0 | len(value)]) + value.encode()
    if isinstance(value, int):
        return bytes([value])
    if isinstance(value, list):
        return bytes([0x90 | len(value)]) + b"".join(map(msgpack, value))
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    content = msgpack([list(value.shape), value.dtype.name, value.tobytes()])
    return b"\xc9" + struct.pack(">I", len(content)) + b"\x01" + content

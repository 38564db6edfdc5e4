"""Minimal writers of TensorFlow's file formats, to test the readers without TensorFlow."""

from __future__ import annotations

import json
import struct

import numpy as np

from exporter.formats.sstable import MAGIC, masked_crc
from exporter.formats.tensor_bundle import slice_key

DTYPES = {"float32": 1, "float64": 2, "int64": 9, "string": 7, "bfloat16": 14, "float16": 19}


def encode(value):
    """A varint."""
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number, value):
    """One field: an int as a varint, a float as a fixed32, bytes and text with their length."""
    if isinstance(value, int):
        return encode(number << 3) + encode(value)
    if isinstance(value, float):
        return encode(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return encode(number << 3 | 2) + encode(len(data)) + data


def fixed32(number, value):
    return encode(number << 3 | 5) + struct.pack("<I", value)


def block(entries, compress=None):
    """A block of a table with its trailer; `compress` is a function on bytes, by snappy's format."""
    out, previous = b"", b""
    for key, value in entries:
        common = min(len(previous), len(key))
        differ = int.from_bytes(previous[:common], "big") ^ int.from_bytes(key[:common], "big")
        shared = common - (differ.bit_length() + 7) // 8
        out += encode(shared) + encode(len(key) - shared) + encode(len(value)) + key[shared:] + value
        previous = key
    out += struct.pack("<II", 0, 1)
    out = (compress(out) + b"\1") if compress else out + b"\0"
    return out + struct.pack("<I", masked_crc(out))


def table(entries, *, per_block=3, compress=None):
    """A table of (key, value) pairs, in the order given."""
    out, index = b"", []
    for start in range(0, len(entries), per_block):
        part = entries[start : start + per_block]
        data = block(part, compress)
        index.append((part[-1][0], encode(len(out)) + encode(len(data) - 5)))
        out += data
    meta, handles = block([]), b""
    for data in (meta, block(index)):
        handles += encode(len(out)) + encode(len(data) - 5)
        out += data
    return out + handles.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def literal(data):
    """`data` in snappy's format, as literals alone."""
    return encode(len(data)) + b"".join(bytes([61 << 2]) + struct.pack("<H", len(data[at : at + 60000]) - 1) + data[at : at + 60000]
                                        for at in range(0, len(data), 60000))


def shape_proto(shape):
    return b"".join(field(2, field(1, size)) for size in shape)


def slice_proto(extents):
    return b"".join(field(1, field(1, start) + (field(2, length) if length >= 0 else b"")) for start, length in extents)


def stored(array, dtype):
    """The bytes of a floating tensor as its type stores them; bfloat16 is given as float32."""
    if dtype == "bfloat16":
        return (np.asarray(array, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes()


def string_tensor(strings):
    sizes = b"".join(struct.pack("<I", len(text)) for text in strings)
    check = struct.pack("<I", masked_crc(sizes))
    return b"".join(encode(len(text)) for text in strings) + check + b"".join(strings), masked_crc(sizes + check + b"".join(strings))


def write_bundle(folder, prefix, tensors, *, shards=1, slices=None, header=None, change=None, **options):
    """PREFIX.index and its data files. tensors: {name: array, (array, dtype) or list of bytes}; slices: {name: list of extents}.

    change: a function on the entries before they are written. Returns the index's path.
    """
    entries, data = [], [b""] * shards

    def entry(key, payload, dtype, shape, crc):
        number = len(entries) % shards
        entries.append((key, field(1, DTYPES[dtype]) + field(2, shape_proto(shape)) + field(3, number) + field(4, len(data[number]))
                        + field(5, len(payload)) + fixed32(6, crc)))
        data[number] += payload

    for name, value in tensors.items():
        key = name.encode()
        if isinstance(value, list):
            payload, crc = string_tensor(value)
            entry(key, payload, "string", (), crc)
            continue
        array, dtype = value if isinstance(value, tuple) else (value, str(value.dtype))
        if slices and name in slices:
            entries.append((key, field(1, DTYPES[dtype]) + field(2, shape_proto(array.shape))
                            + b"".join(field(7, slice_proto(extents)) for extents in slices[name])))
            for extents in slices[name]:
                box = tuple(slice(start, None if length < 0 else start + length) for start, length in extents)
                payload = stored(array[box], dtype)
                entry(slice_key(name, tuple(extents)), payload, dtype, array[box].shape, masked_crc(payload))
        else:
            payload = stored(array, dtype)
            entry(key, payload, dtype, array.shape, masked_crc(payload))
    header = field(1, shards) + field(3, field(1, 1)) if header is None else header
    entries = [(b"", header), *sorted(entries)]
    index = folder / f"{prefix}.index"
    index.write_bytes(table(change(entries) if change else entries, **options))
    for number, content in enumerate(data):
        (folder / f"{prefix}.data-{number:05}-of-{shards:05}").write_bytes(content)
    return index


def write_v1(path, tensors, slices=None):
    """A V1 checkpoint of floating arrays."""
    meta, entries = b"", []
    for name, array in tensors.items():
        parts = (slices or {}).get(name, [[(0, -1)] * array.ndim])
        number = DTYPES[str(array.dtype)]
        meta += field(1, field(1, name) + field(2, shape_proto(array.shape)) + field(3, number)
                      + b"".join(field(4, slice_proto(extents)) for extents in parts))
        for extents in parts:
            box = tuple(slice(start, None if length < 0 else start + length) for start, length in extents)
            values = stored(array[box], str(array.dtype))
            tensor = field(1, number) + (field(13, b"".join(map(encode, np.frombuffer(values, "<u2").tolist()))) if number == 19
                                         else field({1: 5, 2: 6}[number], values))
            entries.append((slice_key(name, tuple(extents)),
                            field(2, field(1, name) + field(2, slice_proto(extents)) + field(3, tensor))))
    path.write_bytes(table([(b"", field(1, meta)), *sorted(entries)]))
    return path


def graph_proto(nodes):
    """A TrackableObjectGraph of (children {name: node}, stored (full name, key) or None, config key or None)."""
    out = b""
    for children, value, *config in nodes:
        node = b"".join(field(1, field(1, child) + field(2, name)) for name, child in children.items())
        if value:
            node += field(2, field(1, "VARIABLE_VALUE") + field(2, value[0]) + field(3, value[1]))
        if config:
            node += field(2, field(1, "OBJECT_CONFIG_JSON") + field(3, config[0]))
        out += field(1, node)
    return out


def saved_graph_proto(nodes):
    """A SavedObjectGraph of (children {name: node}, metadata dict, or a variable's name, or the bytes of another object, or None)."""
    out = b""
    for children, said in nodes:
        node = b"".join(field(1, field(1, child) + field(2, name)) for name, child in children.items())
        if isinstance(said, str):
            node += field(7, field(1, 1) + field(6, said))
        elif isinstance(said, bytes):
            node += said
        else:
            node += field(4, (field(1, "_tf_keras_layer") + field(3, json.dumps(said))) if said else field(1, "_generic_user_object"))
        out += field(1, node)
    return out


def saved_model_proto(objects, version="2.4.0", tags=("serve",), graph=b""):
    """A SavedModel with one MetaGraphDef."""
    info = b"".join(field(4, tag) for tag in tags) + field(5, version)
    return field(1, 1) + field(2, field(1, info) + field(2, graph) + field(7, objects))

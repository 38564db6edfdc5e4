"""Models of any size in Keras's file formats, written with h5py alone: random parameters, kernels of zeros. Keras can load them.

    python benchmarks/models.py densenet201.h5 densenet201.keras
    python benchmarks/models.py row.h5 --row 1000 16
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VERSION_OF_H5, VERSION_OF_KERAS = "2.15.0", "3.5.0"


@dataclasses.dataclass
class Layer:
    """name, class, config, the layers that feed it, and the weights by name."""

    name: str
    class_name: str
    config: dict[str, Any]
    inputs: list[str]
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Network:
    """A functional model under construction; `last` is the layer that the next one takes its input from."""

    def __init__(self, channels: int) -> None:
        self.random = np.random.default_rng(0)
        self.layers: list[Layer] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.last = ""
        self.add("InputLayer", {"batch_shape": [None, 224, 224, channels]}, inputs=[])
        self.channels = channels

    def add(self, class_name: str, config: dict[str, Any], inputs: list[str] | None = None, **weights: np.ndarray) -> str:
        kind, number = snake_case(class_name), self.counts[class_name]
        self.counts[class_name] += 1
        name = f"{kind}_{number}" if number else kind
        self.layers.append(Layer(name, class_name, {"name": name, **config}, [self.last] if inputs is None else inputs, weights))
        self.last = name
        return name

    def norm(self) -> None:
        n, random = self.channels, self.random
        values = {"gamma": random.normal(1, 0.3, n), "beta": random.normal(0, 0.5, n), "moving_mean": random.normal(0, 2, n),
                  "moving_variance": random.gamma(1, 1, n) + 1e-6}
        self.add("BatchNormalization", {"axis": 3, "momentum": 0.99, "epsilon": 1.001e-05, "center": True, "scale": True},
                 **{name: value.astype(np.float32) for name, value in values.items()})

    def convolution(self, filters: int, size: int, strides: int = 1) -> None:
        self.add("Conv2D", {"filters": filters, "kernel_size": [size, size], "strides": [strides, strides], "padding": "same",
                            "use_bias": False}, kernel=np.zeros((size, size, self.channels, filters), np.float32))
        self.channels = filters

    def norm_and_convolution(self, filters: int, size: int) -> None:
        self.norm()
        self.add("Activation", {"activation": "relu"})
        self.convolution(filters, size)


def densenet201() -> list[Layer]:
    """DenseNet201 (https://arxiv.org/abs/1608.06993): 201 batch norms of 114528 channels, 83 MB."""
    net = Network(3)
    net.convolution(64, 7, strides=2)
    net.norm()
    net.add("MaxPooling2D", {"pool_size": [3, 3], "strides": [2, 2], "padding": "same"})
    for block, count in enumerate((6, 12, 48, 32)):
        for _ in range(count):
            before, channels = net.last, net.channels
            net.norm_and_convolution(128, 1)
            net.norm_and_convolution(32, 3)
            net.add("Concatenate", {"axis": 3}, [before, net.last])
            net.channels = channels + 32
        if block < 3:
            net.norm_and_convolution(net.channels // 2, 1)
            net.add("AveragePooling2D", {"pool_size": [2, 2], "strides": [2, 2]})
    net.norm()
    net.add("GlobalAveragePooling2D", {})
    net.add("Dense", {"units": 1000}, kernel=np.zeros((net.channels, 1000), np.float32), bias=np.zeros(1000, np.float32))
    return net.layers


def row(count: int, channels: int) -> list[Layer]:
    """`count` batch norms of `channels` channels, one after the other, and nothing else."""
    net = Network(channels)
    for _ in range(count):
        net.norm()
    return net.layers


def plain(count: int, channels: int) -> list[Layer]:
    """`count` times a convolution of 3 x 3 and its batch norm."""
    net = Network(channels)
    for _ in range(count):
        net.convolution(channels, 3)
        net.norm()
    return net.layers


def write_h5(path: Path, layers: Sequence[Layer]) -> None:
    """The whole model in legacy HDF5, as Keras 2 lays it out and Keras 3 can load it."""
    with h5py.File(path, "w") as file:
        file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", VERSION_OF_H5
        file.attrs["model_config"] = _config(layers, by_keras_3=False)
        group = file.create_group("model_weights")
        for layer in layers:
            own = group.create_group(layer.name)
            own.attrs["weight_names"] = [f"{layer.name}/{name}:0".encode() for name in layer.weights]
            for name, values in layer.weights.items():
                own.create_dataset(f"{layer.name}/{name}:0", data=values)
        _write_list(group, "layer_names", [layer.name.encode() for layer in layers])
        group.attrs["backend"], group.attrs["keras_version"] = b"tensorflow", VERSION_OF_H5.encode()


def write_keras(path: Path, layers: Sequence[Layer]) -> None:
    """The whole model as a .keras archive."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for layer in layers:
            variables = file.create_group(f"layers/{layer.name}/vars")
            variables.attrs["name"] = layer.name
            for number, values in enumerate(layer.weights.values()):
                variables.create_dataset(str(number), data=values)
        file.create_group("vars").attrs["name"] = "functional"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": VERSION_OF_KERAS, "date_saved": "2024-09-01@12:00:00"}))
        archive.writestr("config.json", _config(layers, by_keras_3=True))
        archive.writestr("model.weights.h5", weights.getbuffer())


def snake_case(class_name: str) -> str:
    """As Keras names layers: "conv2d" of Conv2D."""
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", class_name).lower()


def _config(layers: Sequence[Layer], *, by_keras_3: bool) -> str:
    entries = []
    for layer in layers:
        config = dict(layer.config)
        if not by_keras_3 and "batch_shape" in config:
            config["batch_input_shape"] = config.pop("batch_shape")
        own = {"module": "keras.layers", "registered_name": None} if by_keras_3 else {}
        entries.append({**own, "class_name": layer.class_name, "config": config, "name": layer.name,
                        "inbound_nodes": [[[name, 0, 0, {}] for name in layer.inputs]] if layer.inputs else []})
    config = {"name": "functional", "trainable": True, "layers": entries, "input_layers": [[layers[0].name, 0, 0]],
              "output_layers": [[layers[-1].name, 0, 0]]}
    own = {"module": "keras.src.models.functional", "registered_name": None} if by_keras_3 else {}
    return json.dumps({**own, "class_name": "Functional", "config": config})


def _write_list(group: h5py.Group, name: str, values: list[bytes]) -> None:
    """An attribute of strings, cut as Keras does where it would not fit an object header."""
    pieces = np.array_split(np.asarray(values), -(-np.asarray(values).nbytes // 60000))
    for number, piece in enumerate(pieces):
        group.attrs[name if len(pieces) == 1 else f"{name}{number}"] = piece


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="the suffix says which layout: .h5 or .keras")
    parser.add_argument("--row", nargs=2, type=int, metavar=("COUNT", "CHANNELS"), help="batch norms in a row instead of DenseNet201")
    args = parser.parse_args()
    for path in args.paths:
        (write_keras if path.suffix == ".keras" else write_h5)(path, row(*args.row) if args.row else densenet201())
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

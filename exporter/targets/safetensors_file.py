"""safetensors: `<path>/gamma` and so on, or with `--names torch` what `load_state_dict` of torch.nn.BatchNorm1d/2d/3d takes.

The rest of the bundle is JSON in the metadata, under "bn-bundle". With PyTorch's names the metadata also has `<path>.eps` and
`<path>.momentum`; PyTorch's momentum is 1 minus Keras's (torch.nn.BatchNorm2d: new = (1 - momentum) * old + momentum * batch).
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.document import FORMAT
from exporter.batchnorm.dtypes import stored_bytes
from exporter.batchnorm.layer import BatchNorm
from exporter.errors import OutputError
from exporter.formats.safetensors import FLOATS, Tensor, dump
from exporter.targets.shared.arrays import split
from exporter.targets.shared.options import WriteOptions

NAME = "safetensors"
MARK = rb'.{8}\{"__metadata__":\{"bn-bundle":'
OPTIONS = frozenset({"vectors", "names"})
TORCH = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The file. Raises OutputError for a layer of several axes with PyTorch's names."""
    torch = options.names == "torch"
    text, arrays = split(bundle, options.vectors, _torch_name if torch else "{}/{}".format)
    metadata = {FORMAT: text.decode()}
    tensors = {name: Tensor(FLOATS[dtype], values.shape, stored_bytes(values, dtype)) for name, (dtype, values) in arrays.items()}
    if torch:
        metadata["format"] = "pt"
        for layer in bundle:
            metadata |= _torch_metadata(layer)
            tensors |= _torch_rest(layer)
    return dump(tensors, metadata)


def _torch_name(path: str, name: str) -> str:
    return f"{path}.{TORCH[name]}"


def _torch_metadata(layer: BatchNorm) -> dict[str, str]:
    said = {f"{layer.path}.eps": repr(layer.epsilon)}
    if layer.momentum is not None:
        said[f"{layer.path}.momentum"] = str(1 - Decimal(repr(layer.momentum)))  # 0.99 gives 0.01, not 0.010000000000000009
    return said


def _torch_rest(layer: BatchNorm) -> dict[str, Tensor]:
    """What load_state_dict requires in addition to the layer's parameters: ones and zeros for an absent gamma and beta, and the counter."""
    if len(layer.shape) != 1:
        raise OutputError(f"torch.nn.BatchNorm has one axis, but this layer has {len(layer.shape)}", where=layer.path,
                          hint="exclude it with --layers, or omit --names torch")
    rest = {f"{layer.path}.num_batches_tracked": Tensor("I64", (), bytes(8))}
    for name, value in (("gamma", 1.0), ("beta", 0.0)):
        if getattr(layer, name) is None:
            filled = stored_bytes(np.full(layer.shape, value), layer.dtype)
            rest[_torch_name(layer.path, name)] = Tensor(FLOATS[layer.dtype], layer.shape, filled)
    return rest

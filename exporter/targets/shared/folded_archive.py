"""A folded model as an .npz: `<path>/kernel` and `<path>/bias` of each layer that a batch norm was folded into, the five arrays of each
batch norm that is kept, and `folding.json`, which describes the arrays.

`folding.json` is a plain member of the zip archive; numpy.load returns its bytes. docs/folding.md describes it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from exporter.batchnorm.stored import PARAMETERS
from exporter.errors import OutputError
from exporter.formats import npy
from exporter.formats.zip_archive import MAX_MEMBERS
from exporter.formats.zip_writer import stored_zip
from exporter.targets.shared.names import stems_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.batchnorm.folded import FoldedLayer, FoldedModel
    from exporter.batchnorm.layer import BatchNorm

FORMAT, VERSION, CONTENT = "bn-folded", 1, "folding.json"


def folded_archive(model: FoldedModel) -> bytes:
    """The archive; equal models give equal bytes. Raises OutputError for more arrays than an archive may contain."""
    stems = stems_of([*(layer.path for layer in model.folded), *(norm.path for norm, _ in model.kept)])
    arrays: dict[str, NDArray[Any]] = {}
    folded = [_folded(layer, stems[layer.path], arrays) for layer in model.folded]
    kept = [_kept(norm, reason, stems[norm.path], arrays) for norm, reason in model.kept]
    if len(arrays) >= MAX_MEMBERS:
        raise OutputError(f"{len(arrays)} arrays, an .npz of up to {MAX_MEMBERS} is read", hint="--layers writes some of them")
    origin = {key: value for key, value in dataclasses.asdict(model.origin).items() if value is not None}
    content = {"format": FORMAT, "version": VERSION, "origin": origin, "folded": folded, "kept": kept,
               "skipped": [{"batch_norm": path, "reason": reason} for path, reason in model.skipped]}
    members = [(CONTENT, orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))]
    members += [(f"{name}.npy", npy.dump(values.astype(values.dtype.newbyteorder("<"), order="C"))) for name, values in arrays.items()]
    return stored_zip(members)


def _folded(layer: FoldedLayer, stem: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    source = layer.source
    names = {"kernel": f"{stem}/{layer.kernel_name}", "bias": f"{stem}/bias"}
    computed = {} if source.compute_dtype is None else {"compute_dtype": source.compute_dtype}
    arrays |= {names["kernel"]: layer.kernel, names["bias"]: layer.bias}
    return {"layer": layer.path, "class_name": source.class_name, "kind": source.kind, "batch_norm": layer.norm.path,
            "epsilon": layer.norm.epsilon, **names, "dtype": source.dtype, **computed, "shape": list(layer.kernel.shape),
            "channel_axes": list(source.channels), "channels": source.count, "products": layer.products,
            "bias_is_new": source.bias is None, "kernel_error": layer.kernel_error, "bias_error": layer.bias_error}


def _kept(norm: BatchNorm, reason: str, stem: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    own = norm.parameters()
    arrays |= {f"{stem}/{name}": values for name, values in own.items()}
    arrays[f"{stem}/epsilon"] = np.array(norm.epsilon, np.float64)
    names = {name: f"{stem}/{name}" if name in own else None for name in PARAMETERS}
    return {"batch_norm": norm.path, "class_name": norm.class_name, "reason": reason, "axis": list(norm.axis), "dtype": norm.dtype, **names,
            "epsilon": norm.epsilon}

"""NumPy's .npz: `<path>/gamma`, `beta`, `moving_mean`, `moving_variance`, `epsilon`, and the rest as JSON in the array `bn-bundle`.

In a path that could lead out of a folder ("../x"), these characters are replaced; the document contains the names of the arrays.
numpy.load reads it without pickle. bfloat16 values, for which NumPy has no type, are float32 arrays. With `fold` it contains
something else: kernels with the batch norms folded in (exporter/targets/shared/folded_archive.py).
"""

from __future__ import annotations

import numpy as np

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.document import FORMAT
from exporter.batchnorm.folded import fold_bundle
from exporter.errors import OutputError
from exporter.formats import npy
from exporter.formats.zip_archive import MAX_MEMBERS
from exporter.formats.zip_writer import stored_zip
from exporter.targets.shared.arrays import split
from exporter.targets.shared.folded_archive import folded_archive
from exporter.targets.shared.names import stems_of
from exporter.targets.shared.options import WriteOptions

NAME = "npz"
MARK = rb"PK\x03\x04.{26}(bn-bundle\.npy|folding\.json)"
OPTIONS = frozenset({"vectors", "fold"})


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The archive. Raises OutputError if it would contain more arrays than can be read back, UnsupportedError if nothing can be folded."""
    if options.fold:
        return folded_archive(fold_bundle(bundle))
    stems = stems_of(bundle.paths())
    text, arrays = split(bundle, options.vectors, lambda path, name: f"{stems[path]}/{name}")
    arrays |= {f"{stems[layer.path]}/epsilon": ("float64", np.array(layer.epsilon, np.float64)) for layer in bundle}
    if len(arrays) >= MAX_MEMBERS:
        raise OutputError(f"expected at most {MAX_MEMBERS} arrays, which can be read back, got {len(arrays)} for {len(bundle)} layers",
                          hint="write .safetensors or .json")
    members = [(f"{FORMAT}.npy", npy.dump(np.frombuffer(text, np.uint8)))]
    for name, (_, values) in arrays.items():
        members.append((f"{name}.npy", npy.dump(values.astype(values.dtype.newbyteorder("<"), order="C"))))
    return stored_zip(members)

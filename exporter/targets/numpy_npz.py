"""NumPy's .npz: `<path>/gamma`, `beta`, `moving_mean`, `moving_variance`, `epsilon`, and the rest as JSON in the array `bn-bundle`.

numpy.load takes it as it is; no array needs pickle. bfloat16 values, which NumPy has no type for, are float32 arrays.
"""

from __future__ import annotations

import numpy as np

from exporter.batchnorm.bundle import Bundle
from exporter.errors import OutputError
from exporter.formats import npy
from exporter.formats.zip_archive import MOST_MEMBERS
from exporter.formats.zip_writer import stored_zip
from exporter.targets.shared.arrays import DOCUMENT, split
from exporter.targets.shared.options import WriteOptions

NAME = "npz"
OPTIONS = frozenset({"vectors"})


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The archive. Raises OutputError where it would hold more arrays than are read back."""
    text, arrays = split(bundle, options.vectors, lambda path, name: f"{path}/{name}")
    arrays |= {f"{layer.path}/epsilon": ("float64", np.array(layer.epsilon, np.float64)) for layer in bundle}
    if len(arrays) >= MOST_MEMBERS:
        raise OutputError(f"{len(bundle)} layers are {len(arrays)} arrays, an .npz of up to {MOST_MEMBERS} is read back",
                          hint="write .safetensors or .json")
    members = [(f"{DOCUMENT}.npy", npy.dump(np.frombuffer(text, np.uint8)))]
    for name, (_, values) in arrays.items():
        members.append((f"{name}.npy", npy.dump(values.astype(values.dtype.newbyteorder("<"), order="C"))))
    return stored_zip(members)

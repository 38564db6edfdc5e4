"""NumPy's .npz: `<path>/gamma`, `beta`, `moving_mean`, `moving_variance`, `epsilon`, and the rest as JSON in the array `bn-bundle`.

A path that could lead out of a folder ("../x") has other characters there, and the document says which names its arrays have.
numpy.load takes it as it is; no array needs pickle. bfloat16 values, which NumPy has no type for, are float32 arrays.
"""

from __future__ import annotations

import re

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
    stems = _stems(bundle.paths())
    text, arrays = split(bundle, options.vectors, lambda path, name: f"{stems[path]}/{name}")
    arrays |= {f"{stems[layer.path]}/epsilon": ("float64", np.array(layer.epsilon, np.float64)) for layer in bundle}
    if len(arrays) >= MOST_MEMBERS:
        raise OutputError(f"{len(bundle)} layers are {len(arrays)} arrays, an .npz of up to {MOST_MEMBERS} is read back",
                          hint="write .safetensors or .json")
    members = [(f"{DOCUMENT}.npy", npy.dump(np.frombuffer(text, np.uint8)))]
    for name, (_, values) in arrays.items():
        members.append((f"{name}.npy", npy.dump(values.astype(values.dtype.newbyteorder("<"), order="C"))))
    return stored_zip(members)


def _stems(paths: list[str]) -> dict[str, str]:
    """The beginning of the names of each layer's arrays: its path, unless a program that extracts the archive could take that out of
    its folder."""
    stems = {path: path for path in paths if _inside(path)}
    taken, numbers = set(stems), dict[str, int]()
    for path in paths:
        if path not in stems:
            base = re.sub(r"[/\\:]|\.\.", "_", path)
            while (stem := f"{base}~{numbers[base]}" if base in numbers else base) in taken:
                numbers[base] = numbers.get(base, 1) + 1
            stems[path] = stem
            taken.add(stem)
    return stems


def _inside(path: str) -> bool:
    """Whether it stays inside the folder that it is extracted to, on every system: no "..", absolute path, drive or backslash."""
    parts = path.split("/")
    return path[:1] not in ("", "/") and "\\" not in path and ":" not in parts[0] and not any(
        part.startswith("..") and not part.strip(". ") for part in parts)

"""The arrays of an Orbax checkpoint: zarr arrays in an OCDBT database, read with tensorstore (the extra `orbax`).

Their tree is in the file _METADATA; the name of an array consists of its keys, joined by ".". Specifications: the file formats of OCDBT
and zarr3 at https://google.github.io/tensorstore/kvstore/ocdbt/ and https://zarr-specs.readthedocs.io; Orbax's own files are known from
its source.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import FormatError, MissingExtra, printable
from exporter.files.place import MiB, Place
from exporter.formats.strict_json import parse_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

METADATA, MANIFEST = "_METADATA", "manifest.ocdbt"
MAX_METADATA = 64 * MiB
MAX_FAR_AWAY = 256 * MiB  # of a remote checkpoint, which is fetched completely
MAX_VALUES = 1 << 20  # of one array
MAX_FILES = 10_000
FLOATS = ("float16", "bfloat16", "float32", "float64")
AGAIN = "copy the whole folder of the step again"

Keys = tuple[str, ...]


class Arrays:
    """The arrays of the folder that Orbax calls a PyTree. Raises: FormatError, MissingExtra."""

    def __init__(self, folder: Place) -> None:
        try:
            import tensorstore
        except ImportError:
            raise MissingExtra("tensorstore", "orbax", "reading an Orbax checkpoint") from None
        self._store: Any = tensorstore
        metadata = parse_json(folder.child(METADATA).read(MAX_METADATA), METADATA)
        said = metadata if isinstance(metadata, dict) else {}
        self._driver = "zarr3" if said.get("use_zarr3") else "zarr"
        self.keys = _keys(said.get("tree_metadata"))
        # few threads: each takes some of the reading process's limited memory
        self._context = tensorstore.Context({"file_io_concurrency": {"limit": 2}, "data_copy_concurrency": {"limit": 1}})
        base = _on_this_machine(folder) if folder.is_local else self._fetched(folder)
        self._base = {"driver": "ocdbt", "base": base} if said.get("use_ocdbt", True) else base

    def read(self, keys: Keys) -> tuple[NDArray[Any], str]:
        """Values and type of an array, bfloat16 as float32."""
        name = ".".join(keys)
        path = f"{name}/"
        kvstore = {**self._base, "path": path} if self._base["driver"] != "file" else {**self._base, "path": f"{self._base['path']}{path}"}
        spec = {"driver": self._driver, "kvstore": kvstore, "fill_missing_data_reads": False}
        try:
            array = self._store.open(spec, open=True, read=True, context=self._context).result()
            shape, dtype = tuple(array.shape), array.dtype.name
            if dtype not in FLOATS:
                raise FormatError(f"expected an array of floating point numbers, got {printable(dtype, 40)}", where=name)
            if math.prod(shape) > MAX_VALUES:
                raise FormatError(f"expected at most {MAX_VALUES} values, got shape {list(shape)}", where=name)
            values = array.read().result()
        except (ValueError, OSError, RuntimeError, OverflowError) as error:  # what tensorstore raises
            raise FormatError(f"tensorstore cannot read it: {printable(str(error), 200)}", where=name, hint=AGAIN) from None
        return np.array(values, np.float32 if dtype == "bfloat16" else values.dtype), dtype

    def _fetched(self, folder: Place) -> dict[str, Any]:
        """A store in memory with the files of a remote folder."""
        store = self._store.KvStore.open({"driver": "memory"}, context=self._context).result()
        size = 0
        for name, place in _files(folder):
            size += place.size()
            if size > MAX_FAR_AWAY:
                raise FormatError(f"expected a remote checkpoint of at most {MAX_FAR_AWAY} bytes, got more",
                                  hint="download it and pass its path")
            store.write(name, place.read(MAX_FAR_AWAY)).result()
        return {"driver": "memory"}


def _keys(tree: Any) -> list[Keys]:
    """The keys of each array, outermost first. Raises: FormatError if two arrays have the same keys."""
    found: dict[str, Keys] = {}
    for entry in tree.values() if isinstance(tree, dict) else ():
        listed = entry.get("key_metadata") if isinstance(entry, dict) else None
        keys = tuple(str(key.get("key")) for key in listed if isinstance(key, dict)) if isinstance(listed, list) else ()
        if not keys or any(not key or "/" in key or key in (".", "..") for key in keys):
            raise FormatError("an entry of its tree_metadata has no keys, or keys that are not names", where=METADATA, hint=AGAIN)
        name = ".".join(keys)
        if name in found:
            raise FormatError(f"two arrays are named {printable(name, 80)!r}, so which layer each belongs to is ambiguous", where=METADATA)
        found[name] = keys
    if not found:
        raise FormatError("its tree_metadata lists no arrays", where=METADATA, hint=AGAIN)
    return list(found.values())


def _on_this_machine(folder: Place) -> dict[str, Any]:
    _files(folder)  # looks at each, and refuses a link that leads out of the folder
    return {"driver": "file", "path": os.path.abspath(folder.local) + "/"}


def _files(folder: Place) -> list[tuple[str, Place]]:
    """(path inside, place) of each file below a folder."""
    found: list[tuple[str, Place]] = []
    waiting = [("", folder)]
    while waiting:
        path, place = waiting.pop()
        for child in place.children():
            if child.is_folder():
                waiting.append((f"{path}{child.name}/", child))
            elif child.is_file():
                found.append((f"{path}{child.name}", child))
        if len(found) + len(waiting) > MAX_FILES:
            raise FormatError(f"expected a checkpoint of at most {MAX_FILES} files, got more", where=folder.name)
    return found

"""The shards of a model (Keras 3.10 and later, max_shard_size): a .weights.json lists HDF5 files that continue one another."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from exporter.errors import COPY_AGAIN, FormatError, UnsupportedError, names, printable
from exporter.files.place import Place
from exporter.formats.hdf5 import open_hdf5
from exporter.formats.strict_json import parse_json

if TYPE_CHECKING:
    from exporter.formats.hdf5_file import File

MAX_SHARDS = 500  # all are open at the same time

VARIABLES = "vars"  # the group of a layer's own variables
_SHARD = re.compile(r"(.*_)([0-9]{5})\.weights\.h5", re.DOTALL)


@contextlib.contextmanager
def open_shards(index: Place) -> Iterator[list[File]]:
    """The shards that a .weights.json lists, opened in order.

    Raises: FormatError for a shard that is missing or does not belong to the others.
    """
    weight_map, total = _parsed(index)
    *listed, following = _listed(weight_map)
    complete = any(isinstance(value, list) for value in weight_map.values())
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_shard(index, name)) for name in listed]
        sizes = [_stored(file) for file in files]
        if not complete and sum(sizes) != total and index.sibling(following).is_file():
            # for each layer, Keras 3.10 lists only the shard in which it begins
            files.append(stack.enter_context(_shard(index, following)))
            sizes.append(_stored(files[-1]))
        if sum(sizes) != total:
            raise FormatError(f"the shards contain {sum(sizes)} bytes of weights, but {index.name} lists {total}",
                              hint="they were not all saved together; copy all files of the model again")
        _check_groups(weight_map, dict(zip(listed, files)))
        yield files


def may_be_shard(place: Place) -> bool:
    """Whether a file may be one of several shards: its name is that of one. Other files may have such names, too.

    Raises: UnsupportedError if the list of the shards is beside it.
    """
    part = _SHARD.fullmatch(place.name)
    if part is None:
        return False
    index = place.sibling(f"{part[1].removesuffix('_')}.weights.json")
    if index.is_file():
        raise UnsupportedError(f"this is one shard of {printable(index.name, 80)}: the others contain the rest of the model, which may cut "
                               "a layer in two", hint=f"give {printable(index.name, 80)}, which lists them")
    return True


def _parsed(index: Place) -> tuple[dict[str, Any], int]:
    value = parse_json(index.read(), "")
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    metadata = value.get("metadata") if isinstance(value, dict) else None
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(total, (int, float)) or total != int(total):
        raise FormatError("this is not a list of shards: weight_map or metadata.total_size is missing")
    return weight_map, int(total)


def _listed(weight_map: dict[str, Any]) -> list[str]:
    """Names of the shards in order, including those in which no layer begins, which Keras 3.10 does not list, and of the one after."""
    values = [name for value in weight_map.values() for name in (value if isinstance(value, list) else [value])]
    parts = [_SHARD.fullmatch(name) if isinstance(name, str) else None for name in values]
    bases = {part[1] for part in parts if part}
    if None in parts or len(bases) != 1:
        raise FormatError(f"these shards were not saved together: {names(sorted(set(map(str, values))))}")
    last = max(int(part[2]) for part in parts if part)
    if last >= MAX_SHARDS:
        raise UnsupportedError(f"expected at most {MAX_SHARDS} shards, got {last + 1}", hint="save with a larger max_shard_size")
    return [f"{base}{number:05}.weights.h5" for base in bases for number in range(last + 2)]


def _check_groups(weight_map: dict[str, Any], files: dict[str, File]) -> None:
    """Refuses a shard without a group that weight_map lists in it: the group's name, or that of a layer around it, was damaged."""
    for path, value in weight_map.items():
        for name in value if isinstance(value, list) else [value]:
            if not files[name].is_group(path.strip("/")):
                raise FormatError(f"the list of shards puts {printable(path, 80)!r} into this file, which does not contain it", where=name,
                                  hint=COPY_AGAIN)


def _shard(index: Place, name: str) -> File:
    place = index.sibling(name)
    if not place.is_file():
        raise FormatError(f"the shard {printable(name, 80)} is missing", hint="put it in the folder of the .weights.json")
    return open_hdf5(place, name)


def _stored(file: File) -> int:
    """The size of all variables in a shard in bytes."""
    groups = (path for path in file.walk() if path.rpartition("/")[2] == VARIABLES)
    return sum(file.size(f"{path}/{name}") for path in groups for name in file.names(path))

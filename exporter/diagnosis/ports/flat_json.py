"""A user's own JSON object: gamma, beta, mean, variance and epsilon under one of their names, one such object per layer, or a state whose
names contain the layers: {"bn1.running_mean": [...]}."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.stored import PARAMETERS, STATISTICS
from exporter.diagnosis.ports.port import Port, Ported
from exporter.diagnosis.ports.state import ROLE_OF, parted, port_of
from exporter.errors import FormatError, UnsupportedError, printable

if TYPE_CHECKING:
    from exporter.files.place import Place

MAX_BYTES = 64 << 20  # bytes
MAX_HEAD = 1 << 12  # bytes of white space in front
EPSILON = ("epsilon", "eps")


def claims(place: Place) -> bool:
    """A JSON object with names of statistics; bundles, configs and lists of shards are recognized before."""
    if place.head(MAX_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{" or place.size() > MAX_BYTES:
        return False
    data = place.read(MAX_BYTES)
    if any(word in data for word in (b'"bn-bundle"', b'"class_name"', b'"weight_map"', b'"modelTopology"', b'"weightsManifest"')):
        return False
    return any(f'{before}{name}"'.encode() in data for role in STATISTICS for name, of in ROLE_OF.items() if of == role for before in '"./')


def read(place: Place) -> Port:
    """The layers of the object. Raises: FormatError, UnsupportedError."""
    from exporter.formats.strict_json import parse_json

    content = parse_json(place.read(MAX_BYTES).removeprefix(b"\xef\xbb\xbf"), place.name)
    found = [layer for path, each in _objects(content, "") if (layer := _layer(path, each, place.name)) is not None]
    if not found:
        named = {name: value for name, value in content.items() if all(parted(name))} if isinstance(content, dict) else {}
        if any(parted(name)[1] in STATISTICS for name in named):
            short = {name: value for name, value in named.items() if not isinstance(value, list) or not _is_nested(value)}  # no kernels
            port = port_of({name: _array(value, name, place.name) for name, value in short.items()}, place.name)
            return dataclasses.replace(port, layers=tuple(dataclasses.replace(layer, text=True) for layer in port.layers))
        raise UnsupportedError("expected an object with mean and variance, and with gamma, beta and epsilon where there are any",
                               where=place.name)
    return Port(name=place.name, kind="numbers in JSON", layers=tuple(found))


def _is_nested(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], list)


def _objects(value: Any, path: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict):
        return []
    inner = [pair for key, each in value.items() for pair in _objects(each, f"{path}/{key}" if path else key)]
    return [(path, value), *inner]


def _layer(path: str, content: dict[str, Any], where: str) -> Ported | None:
    called: dict[str, str] = {}
    for key, value in content.items():
        role = ROLE_OF.get(key.lower())
        if role is None or value is None or isinstance(value, (dict, str, bool)):
            continue
        if role in called:
            raise FormatError(f"both {called[role]!r} and {printable(key, 40)!r} may be its {role}", where=where)
        called[role] = key
    if not all(role in called for role in STATISTICS):
        return None
    arrays = {role: _array(content[called[role]], called[role], where) for role in PARAMETERS if role in called}
    if len({values.size for values in arrays.values()}) != 1:
        sizes = ", ".join(f"{called[role]}: {values.size}" for role, values in arrays.items())
        raise FormatError(f"expected arrays of one length, got {sizes}", where=f"{where}: {printable(path, 80)}" if path else where)
    epsilons = [value for key, value in content.items() if key.lower() in EPSILON and type(value) in (int, float)]
    return Ported(path=path, arrays=arrays, called=called, dtype="float64", text=True,
                  epsilon=float(epsilons[0]) if len(epsilons) == 1 else None)


def _array(value: Any, name: str, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        numbers = np.array(value)
        if numbers.dtype.kind in "iufU":  # neither true nor null
            return numbers.astype(np.float64).reshape(-1)
    except (TypeError, ValueError):
        pass
    raise FormatError(f"expected numbers for {printable(name, 40)!r}", where=where)

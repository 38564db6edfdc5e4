"""NumPy archives (.npz) of weights by name: tensorpack's dumps and model zoo, and numpy.savez(file, **{weight.name: value}).

    tensorpack    bn0/gamma:0, bn0/beta:0, bn0/mean/EMA:0, bn0/variance/EMA:0
    Keras 2 on    bn/gamma:0, bn/beta:0, bn/moving_mean:0, bn/moving_variance:0; TensorFlow's layers alike, with or without ":0"

Epsilon is no weight: it is in an array bn/epsilon that somebody added, in an architecture with the same names, or the user gives it.
Arrays of objects are pickles and never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.bundle import Origin
from exporter.batchnorm.stored import STATISTICS
from exporter.errors import FormatError, UnsupportedError, names, printable
from exporter.files.input_file import InputFile
from exporter.formats import npy
from exporter.formats.zip_archive import MAGIC, Archive, names_in
from exporter.keras import dialects
from exporter.keras.config import Node, is_batch_norm, norm_fields, walk
from exporter.keras.node import reason_against
from exporter.keras.ranks import input_ranks
from exporter.sources.shared.assemble import assemble
from exporter.sources.shared.found import Found
from exporter.sources.shared.sessions import about_session, in_another_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.files.place import Place
    from exporter.sources.shared.options import ReadOptions

NAME = "numpy-archive"
OPTIONS = ("architecture", "ema")
MAX_ARRAY = 9 * (1 << 20)  # bytes: 2**20 float64, and a header

# The roles by the end of a name; whole components only.
ROLES = {"gamma": "gamma", "beta": "beta", "moving_mean": "moving_mean", "moving_variance": "moving_variance",
         "mean/EMA": "moving_mean", "variance/EMA": "moving_variance"}
_NAME = re.compile(rf"(?:(.*)/)?({'|'.join(ROLES)})(?::0)?", re.DOTALL)
_RENORM = re.compile(r"(moving_stddev|renorm_(mean|stddev)(_weight)?)(:0)?")
_OLD = re.compile(r".*_running_(mean|std)(:0)?", re.DOTALL)
_AVERAGE = re.compile(rf"((?:.*/)?(?:{'|'.join(ROLES)}))/ExponentialMovingAverage(?::0)?", re.DOTALL)
_EPSILON = re.compile(r"(.*)/(?:epsilon|eps)(?::0)?", re.DOTALL)
_UNNAMED = re.compile(r"arr_\d+")

Scopes = dict[str, dict[str, str]]


def claims(place: Place) -> bool:
    """A zip archive of .npy files and nothing else."""
    if place.head(4) not in MAGIC:
        return False
    found = names_in(place)  # of a damaged one, another source reports what is wrong with it
    return bool(found) and all(name.endswith(".npy") for name in found or ())


def read(place: Place, options: ReadOptions) -> Found:
    """The batch norms whose parameter names are unambiguous. Raises: UnsupportedError if there are none, FormatError."""
    with place.open() as file:
        arrays = _Arrays(file)
        scopes = _scopes(arrays.names)
        whole = {scope: roles for scope, roles in scopes.items() if roles.keys() >= set(STATISTICS)}
        found = Found(Origin(file=place.name, kind=NAME), options)
        for scope, roles in scopes.items():
            lacking = set(STATISTICS) - roles.keys()
            if len(lacking) == 1:
                found.skip(scope, f"the archive contains no {lacking.pop()} of it")
        if not scopes or not (whole or found.skipped):
            raise _no_norms(arrays.names)
        _add(arrays, whole, found, options)
    return found


class _Arrays:
    """The arrays of an archive, read one by one."""

    def __init__(self, file: InputFile) -> None:
        self._archive = Archive(file)
        self.names = [member.name.removesuffix(".npy") for member in self._archive.members]
        self.epsilons: dict[str, list[str]] = {}  # by the scope
        for name in self.names:
            if match := _EPSILON.fullmatch(name):
                self.epsilons.setdefault(match[1], []).append(name)
        self._averages = {match[1]: name for name in self.names if (match := _AVERAGE.fullmatch(name))}

    def average_of(self, name: str) -> str | None:
        """The name of a variable's moving average over the steps of training; None if there is none."""
        return self._averages.get(name.removesuffix(":0"))

    def epsilon_of(self, scope: str, said: float | None) -> float | None:
        """The epsilon of a scope; said: that of its config. Raises: FormatError if there are two, or it is no number."""
        found = said
        for name in self.epsilons.get(scope, ()):
            values, _ = self.read(name)
            if values.size != 1 or not 0 <= (own := float(values.reshape(-1)[0])) <= np.finfo(np.float32).max:
                raise FormatError("expected one number that is not negative as epsilon", where=name)
            if found is not None and values.dtype.type(found) != values.reshape(-1)[0]:
                raise FormatError(f"its epsilon is {own}, according to another array or its config {found}", where=name)
            found = own if found is None else found
        return found

    def read(self, name: str) -> tuple[NDArray[Any], str]:
        """Values and the name of their type."""
        data = self._archive.read(f"{name}.npy", MAX_ARRAY)
        if b"'|O'" in data[:256]:
            raise UnsupportedError("an array of objects is a pickle, which is never loaded: it can run code", where=name,
                                   hint="save the arrays themselves: numpy.savez(file, **{weight.name: weight.numpy()})")
        values = npy.parse(data, name)
        if values.dtype.kind != "f":
            raise FormatError(f"expected an array of floating point numbers, got {values.dtype}", where=name)
        return np.ascontiguousarray(values), values.dtype.name


def _scopes(found: Iterable[str]) -> Scopes:
    """{scope: {role: name of the array}}, in the order of the archive. Raises: FormatError for a role that occurs twice."""
    scopes: Scopes = {}
    for name in found:
        match = _NAME.fullmatch(name)
        if match:
            roles = scopes.setdefault(match[1] or "", {})
            role = ROLES[match[2]]
            if role in roles:
                raise FormatError(f"both {printable(roles[role], 80)!r} and {printable(name, 80)!r} are its {role}", where=match[1] or "")
            roles[role] = name
    return scopes


def _add(arrays: _Arrays, whole: Scopes, found: Found, options: ReadOptions) -> None:
    nodes: Mapping[str, tuple[str, Node]] = {}
    era, ranks, tree = dialects.Era(), {}, None
    if options.architecture is not None:
        from exporter.sources.shared.architecture import node_tree_from, note_training

        architecture = node_tree_from(options.architecture)
        tree = architecture.tree
        nodes, said = _named(tree, list(whole), options.architecture.name)
        if said:
            found.warn(said)
        ranks = dict(input_ranks(tree))
        era = dialects.era_of(architecture.keras_version, architecture.backend)
    beside, averaged = _beside(arrays.names, whole), list[str]()
    for scope, roles in whole.items():
        if beside[scope]:
            found.skip(scope, f"it also contains {names(beside[scope])}, which a batch norm does not have")
            continue
        path, node = nodes.get(scope, (scope, None))
        reason = reason_against(node) if node else None
        if reason is not None:
            found.skip(path, reason)
            continue
        fields = norm_fields(node) if node else None
        averages = {role: average for role, name in roles.items() if (average := arrays.average_of(name))}
        averaged += [] if options.ema else [roles[role] for role in averages]
        values = {role: arrays.read(averages.get(role, name) if options.ema == "yes" else name) for role, name in roles.items()}
        if fields is not None and ((fields.scale is False) == ("gamma" in roles) or (fields.center is False) == ("beta" in roles)):
            raise FormatError(f"the archive contains {names(roles)} for it, which does not match center and scale of its config",
                              where=path)
        layer = assemble(path or "batch_norm", node, fields, values, era, ranks.get(node) if node else None,
                         name=scope.rpartition("/")[2] or "batch_norm")
        found.add(layer.replace(epsilon=arrays.epsilon_of(scope, layer.epsilon)))
    if tree is not None:
        note_training(tree, era, found)
    if averaged:
        found.warn(f"the archive also contains exponential moving averages of {names(averaged)}, which are not used; "
                   "--ema yes uses them, --ema no silences this")


def _named(tree: Node, scopes: list[str], architecture: str) -> tuple[Mapping[str, tuple[str, Node]], str]:
    """{scope: (path, layer)}, with the one layer whose path or name is the scope; and a warning, or ""."""
    norms = [(path, node) for path, node in walk(tree) if is_batch_norm(node)]
    nodes = [node for _, node in norms]
    paired = in_another_session(nodes, scopes)
    if paired is not None and _is_in_order(nodes, paired, scopes):
        return dict(zip(paired, norms)), about_session(nodes, paired)
    owners = {scope: [(path, node) for path, node in norms if scope in (path, node.name)] for scope in scopes}
    named = {found[0][1] for found in owners.values() if len(found) == 1}
    if not len(norms) == len(scopes) == len(named):  # each scope names one layer, and no two the same
        raise FormatError(f"the architecture's batch norms are {names(path for path, _ in norms)}, the archive's {names(scopes)}: they do "
                          f"not match", hint=f"the architecture is that of {printable(architecture, 80)}: give the one of this model, or "
                                           "its epsilon")
    return {scope: only for scope, (only,) in owners.items()}, ""


def _is_in_order(nodes: Sequence[Node], paired: Sequence[str], scopes: Sequence[str]) -> bool:
    """Whether the archive has the layers in the order of the model, according to Keras's numbers."""
    counted = [scopes.index(scope) for node, scope in zip(nodes, paired) if node.name != scope]
    return counted == sorted(counted)


def _beside(found: Iterable[str], whole: Scopes) -> Mapping[str, list[str]]:
    """The arrays of each scope that a batch norm does not have; those of renormalization are harmless."""
    beside: dict[str, list[str]] = {scope: [] for scope in whole}
    for name in found:
        scope, _, last = name.rpartition("/")
        if scope in beside and not any(form.fullmatch(name) for form in (_NAME, _EPSILON)) and not _RENORM.fullmatch(last):
            beside[scope].append(last)
    return beside


def _no_norms(found: list[str]) -> UnsupportedError:
    what = f"this is a NumPy archive (.npz), and the names of its arrays ({names(found)}) are not those of a batch norm's parameters"
    if all(map(_UNNAMED.fullmatch, found)):
        return UnsupportedError(f"this is a NumPy archive (.npz) of arrays without names ({names(found)}), which cannot be told apart",
                                hint="give the model itself, or save the arrays under their weights' names")
    if any(map(_OLD.fullmatch, found)):
        return UnsupportedError(f"{what}: running_std of Keras 1 can be a standard deviation or a variance",
                                hint="give the HDF5 file of the weights")
    return UnsupportedError(what, hint="names such as bn/gamma, bn/beta, bn/moving_mean and bn/moving_variance are read")

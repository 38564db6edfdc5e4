"""The fuzz targets: seeds and a check for each kind of untrusted input.

A check takes bytes. It returns if all is well; any exception that it raises is a bug. Both a result and a refusal (ExporterError) are valid
answers; each check verifies what is guaranteed beyond that.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import pathlib
import random
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from unittest import mock

import jsonschema
import mutations
import numpy as np

import exporter
from exporter.batchnorm import folded, schema
from exporter.batchnorm.bundle import Bundle, Origin, ReadBack
from exporter.batchnorm.document import from_document
from exporter.batchnorm.stored import Stored
from exporter.errors import MAX_MESSAGE_LENGTH, ExporterError, FormatError
from exporter.files.input_file import MemoryFile
from exporter.files.place import Place
from exporter.formats import graph_def, object_graph, strict_json, tensor_bundle
from exporter.formats import hdf5 as formats_hdf5
from exporter.formats.protobuf import Message
from exporter.formats.zip_archive import Archive
from exporter.keras import config as keras_config
from exporter.keras import kernels as keras_kernels
from exporter.pipeline import finding, message, read, resolve
from exporter.sources.shared.found import Found
from exporter.sources.shared.options import ReadOptions
from exporter.sources.tf_objects.parts import graphs_of
from exporter.targets import bundle_json
from exporter.targets.shared.options import WriteOptions

SAMPLES = pathlib.Path(__file__).resolve().parent.parent / "sample_models"
SAVED_MODEL = SAMPLES / "saved_model_tfkeras" / "saved_model"
MAX_SEED = 200_000


@dataclasses.dataclass(frozen=True)
class Target:
    """seeds: sound inputs. check: see above. mutate: one step away from an input. forks: whether the check starts a process."""

    seeds: Callable[[], Iterable[bytes]]
    check: Callable[[bytes], None]
    mutate: Callable[[bytes, random.Random], bytes] = mutations.damage
    forks: bool = False


def _samples(*patterns: str) -> list[bytes]:
    found = [path.read_bytes() for pattern in patterns for path in sorted(SAMPLES.glob(pattern))]
    assert found, patterns
    return [data for data in found if len(data) <= MAX_SEED]


def _refused(error: ExporterError) -> None:
    """A refusal is one line of plain characters."""
    if type(error) is ExporterError and error.what.startswith("unexpected "):  # what exporter.errors.unexpected makes
        raise AssertionError(str(error))
    for text in (str(error), error.hint):
        assert text.isprintable(), repr(text)
        assert len(text) <= MAX_MESSAGE_LENGTH, len(text)


def _read(data: bytes, name: str) -> Bundle | None:
    """The way of the command: a child reads, the gate checks, the bundle is written and reads back with the same content."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, name)
        path.write_bytes(data)
        return _read_here(path, in_child=True)


def _round_trip(bundle: Bundle) -> None:
    again = from_document(strict_json.parse_json(bundle_json.write(bundle, WriteOptions()), "again"))
    assert again.digest() == bundle.digest()


def hdf5(data: bytes) -> None:
    """Whatever libhdf5 does, the caller gets a bundle or a refusal, in time."""
    _read(data, "model.h5")


def hdf5_plain(data: bytes) -> None:
    """What is read of a file without libhdf5, kernels and all, in this process: its bundle is written, its batch norms are folded."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(formats_hdf5, "_opened_by_library", _without_library):
        path = pathlib.Path(folder, "model.h5")
        path.write_bytes(data)
        bundle = _read_here(path, kernels=True)
    if bundle is not None:
        try:
            for layer in folded.fold_bundle(bundle).folded:
                assert np.isfinite(layer.kernel).all(), layer.path
                assert np.isfinite(layer.bias).all(), layer.path
        except ExporterError as error:
            _refused(error)


def _without_library(*_: object) -> None:
    raise FormatError("only libhdf5 reads this")


def keras(data: bytes) -> None:
    """A .keras archive, all of which has checksums: the true layers or a refusal."""
    bundle = _read(data, "model.keras")
    assert bundle is None or bundle.digest() in _true_digests()


@functools.cache
def _true_digests() -> frozenset[str]:
    return frozenset(exporter.read(path).digest() for path in SAMPLES.glob("*/*.keras"))


def zip_archive(data: bytes) -> None:
    """What is accepted is what Python's zipfile reads, where that accepts it."""
    try:
        archive = Archive(MemoryFile(data))
        content = {member.name: _member(archive, member.name) for member in archive.members}
        archive.warnings()
    except ExporterError as error:
        _refused(error)
        return
    try:
        other = zipfile.ZipFile(io.BytesIO(data))
        for name, found in content.items():
            if found is not None:
                assert other.read(name) == found, name
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, KeyError, EOFError, OSError):
        pass


def _member(archive: Archive, name: str) -> bytes | None:
    try:
        return archive.read(name)
    except ExporterError as error:
        _refused(error)
        return None


def protobuf(data: bytes) -> None:
    """A message is taken apart to its leaves, and read as each of the messages that this package knows."""
    for way in (_all_fields, graph_def.Graph, graph_def.MetaGraph, _objects, _metadata):
        try:
            way(data)
        except ExporterError as error:
            _refused(error)


def _all_fields(data: bytes) -> None:
    stack, budget = [Message(data, "input")], 3000
    while stack and budget:
        message, budget = stack.pop(), budget - 1
        try:
            numbers = message.numbers()
        except ExporterError:
            continue
        for number in numbers:
            try:
                stack += message.messages(number)
            except ExporterError:
                message.unsigneds(number)


def _metadata(data: bytes) -> None:
    object_graph.read_metadata(data, "input", _sample_graph())


@functools.cache
def _sample_graph() -> object_graph.SavedGraph:
    graph = graphs_of(Place(SAVED_MODEL / "saved_model.pb"))[0].objects
    assert graph is not None
    return graph


def _objects(data: bytes) -> None:
    for kind in (object_graph.CheckpointGraph, object_graph.SavedGraph):
        graph = kind(Message(data, "input"))
        for node in range(min(len(graph), 1000)):
            graph.children(node)


def frozen(data: bytes) -> None:
    """A frozen graph, whole: a walk over edges that can lead anywhere ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "frozen.pb")
        path.write_bytes(data)
        _read_here(path)


def _read_here(path: pathlib.Path, *, in_child: bool = False, kernels: bool = False) -> Bundle | None:
    try:
        options = ReadOptions(epsilon=(("*", 1e-3),), skip_unresolved=True, kernels=kernels)
        bundle = read.read_in_child(Place(path), options, fork=True) if in_child else read.read_here(Place(path), options)
    except ExporterError as error:
        _refused(error)
        return None
    _round_trip(bundle)
    return bundle


def saved_model(data: bytes) -> None:
    """saved_model.pb and keras_metadata.pb behind each other, the length of the first in front; the variables are sound and have
    checksums: no array comes out that is not in them."""
    length = int.from_bytes(data[:4], "little")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "saved_model")
        shutil.copytree(SAVED_MODEL, path)
        (path / "saved_model.pb").write_bytes(data[4:4 + length])
        (path / "keras_metadata.pb").write_bytes(data[4 + length:])
        for layer in _read_here(path) or ():
            for name, values in layer.parameters().items():
                assert values.tobytes() in _true_arrays(), f"{layer.path}: {name}"


@functools.cache
def _true_arrays() -> frozenset[bytes]:
    with tensor_bundle.open_checkpoint(Place(SAVED_MODEL / "variables" / "variables.index")) as found:
        return frozenset(found.read(name).tobytes() for name in found.names() if found.info(name).dtype == "float32")


def _saved_models() -> Iterable[bytes]:
    first = (SAVED_MODEL / "saved_model.pb").read_bytes()
    yield len(first).to_bytes(4, "little") + first + (SAVED_MODEL / "keras_metadata.pb").read_bytes()


def checkpoint(data: bytes) -> None:
    """An index and its data file behind each other, the length of the index in front: every tensor is read or refused."""
    length = int.from_bytes(data[:4], "little")
    with tempfile.TemporaryDirectory() as folder:
        index = pathlib.Path(folder, "weights.index")
        index.write_bytes(data[4:4 + length])
        pathlib.Path(folder, "weights.data-00000-of-00001").write_bytes(data[4 + length:])
        try:
            with tensor_bundle.open_checkpoint(Place(index)) as found:
                names = found.names()[:100]
                for name in names:
                    _tensor(found, name)
        except ExporterError as error:
            _refused(error)


def _tensor(found: tensor_bundle.TensorBundle | tensor_bundle.TensorSlices, name: str) -> None:
    try:
        info = found.info(name)
        if info.dtype in ("float16", "float32", "float64", "bfloat16"):
            assert found.read(name).shape == info.shape
    except ExporterError as error:
        _refused(error)


def _checkpoints() -> Iterable[bytes]:
    for path in sorted(SAMPLES.rglob("*.index")):
        index = path.read_bytes()
        data = next(path.parent.glob(f"{path.stem}.data-*")).read_bytes()
        yield len(index).to_bytes(4, "little") + index + data


def config_json(data: bytes) -> None:
    """A config that is accepted means the same to Python's own JSON reader, and every batch norm in it says a usable number or none."""
    try:
        value = strict_json.parse_json(data, "config")
    except ExporterError as error:
        _refused(error)
        return
    assert json.loads(data, parse_int=_whole_or_float) == value
    try:
        tree = keras_config.model_tree(value, "config")
        keras_kernels.feeding_layers(tree)
        for path, node in keras_config.walk(tree):
            if keras_config.is_batch_norm(node):
                fields = keras_config.norm_fields(node)
                assert fields.epsilon is None or 0 <= fields.epsilon <= np.finfo(np.float32).max, path
    except ExporterError as error:
        _refused(error)


def _whole_or_float(text: str) -> int | float:
    number = int(text)
    return number if -1 << 63 <= number < 1 << 64 else float(text)


def _configs() -> Iterable[bytes]:
    yield from _samples("*/architecture.json")
    for path in sorted(SAMPLES.glob("*/*.keras")):
        yield zipfile.ZipFile(path).read("config.json")


def bundle_document(data: bytes) -> None:
    """A bundle that is accepted passes the gate or is refused by it, and reads back with the same content."""
    try:
        bundle = resolve.resolve(from_document(strict_json.parse_json(data, "bundle")), ReadOptions())
    except ExporterError as error:
        _refused(error)
        return
    _round_trip(bundle)


def schema_checks(data: bytes) -> None:
    """What the functions made of the schema accept, jsonschema accepts, too."""
    try:
        document = strict_json.parse_json(data, "bundle")
    except ExporterError as error:
        _refused(error)
        return
    for is_fine, validator in zip(schema._checks(), _validators()):
        assert not is_fine(document) or validator.is_valid(document)


@functools.cache
def _validators() -> tuple[jsonschema.Draft202012Validator, ...]:
    content = json.loads(schema.path().read_bytes())
    return tuple(jsonschema.Draft202012Validator(each) for each in (content, {"$defs": content["$defs"], "$ref": "#/$defs/layer"}))


def _entries() -> Iterable[bytes]:
    """Bundles, and layers of theirs by themselves."""
    for data in _bundles():
        yield data
        yield from (json.dumps(layer).encode() for layer in json.loads(data)["layers"][:3])


def _bundles() -> Iterable[bytes]:
    for name in ("no_beta_keras208/model.h5", "encoder_keras3/model.keras"):
        yield bundle_json.write(exporter.read(SAMPLES / name), WriteOptions())


def child_answer(data: bytes) -> None:
    """What a child sends, damaged as a damaged child might: a bundle of the right types or a refusal."""
    try:
        found = _received(data)
        for layer in found.layers:
            assert isinstance(layer.path, str)
            assert isinstance(layer.moving_mean, np.ndarray)
        for kernel in (found.kernels or {}).values() if isinstance(found, Found) else ():
            assert isinstance(kernel, str) or (isinstance(kernel.kernel, np.ndarray) and isinstance(kernel.path, str))
        resolve.resolve(found, ReadOptions())
    except ExporterError as error:
        _refused(error)


def _received(data: bytes) -> Found | ReadBack:
    reader = message.Reader(FormatError("damaged"))
    reader.feed(data)
    return reader.answer()


def _sent(found: Found | ReadBack) -> bytes:
    parts: list[bytes] = []
    message.Writer(parts.append).answer(found)
    return b"".join(parts)


def _answers() -> Iterable[bytes]:
    for path in ("no_beta_keras208/model.h5", "saved_model_tfkeras/model.h5"):
        yield _sent(finding.read_unresolved(Place(SAMPLES / path), ReadOptions()))
    yield _sent(finding.read_unresolved(Place(SAMPLES / "saved_model_tfkeras" / "model.h5"), ReadOptions(kernels=True)))
    yield _sent(from_document(strict_json.parse_json(next(iter(_bundles())), "bundle")))
    ones = np.ones(2, np.float32)
    layer = Stored(path="a", name="a", class_name="BatchNormalization", axis=(-1,), shape=(2,), ndim=None, dtype="float32", epsilon=1e-3,
                   momentum=None, gamma=None, beta=None, moving_mean=ones, moving_variance=ones.copy())
    found = Found(Origin(file="a", kind="b"), ReadOptions())
    found.add(layer)
    yield _sent(found)


TARGETS = {
    "hdf5": Target(lambda: _samples("*/*.h5"), hdf5, forks=True),
    "hdf5_plain": Target(lambda: _samples("*/*.h5"), hdf5_plain),
    "keras": Target(lambda: _samples("*/*.keras"), keras, forks=True),
    "zip": Target(lambda: _samples("*/*.keras"), zip_archive),
    "protobuf": Target(lambda: _samples("*/*/*.pb", "*/*.pb", "*/*.meta"), protobuf),
    "graph": Target(lambda: _samples("*/frozen.pb"), frozen),
    "saved_model": Target(_saved_models, saved_model),
    "checkpoint": Target(_checkpoints, checkpoint),
    "config": Target(_configs, config_json, mutations.damage_json),
    "bundle": Target(_bundles, bundle_document, mutations.damage_json),
    "schema_checks": Target(_entries, schema_checks, mutations.damage_json),
    "answer": Target(_answers, child_answer),
}

"""SavedModels: which files of a folder are one, what saved_model.pb may lack, and by which of its descriptions a model is read."""

from __future__ import annotations

import json

import pytest

from exporter.files.place import Place
from exporter.formats.object_graph import OBJECT_GRAPH
from exporter.sources import saved_model
from exporter.sources.shared.options import ReadOptions
from exporter.sources.tf_objects.parts import graphs_of
from tests.make.graph_files import node
from tests.make.live import ROLES, config
from tests.make.tensor_files import field, graph_proto, saved_graph_proto
from tests.sources.test_saved_model import (
    CHILDREN,
    INFERENCE,
    VALUES,
    metadata,
    read,
    saved_functions,
    with_metadata,
    write,
    write_tensorflow_1,
)


@pytest.mark.parametrize("place", ["assets", "assets/variables.txt", "assets/notes"])
def test_other_folders_in_one_are_none(tmp_path, place):
    write(tmp_path, metadata=metadata())
    (tmp_path / "assets").mkdir()
    for name in ("variables.txt", "notes"):
        (tmp_path / "assets" / name).write_text("words")
    assert not saved_model.claims(Place(tmp_path / place))


@pytest.mark.parametrize(("version", "expected"), [("2.9.1", "2.9.1"), (None, None), ("", None)])
def test_the_version_of_its_writer(tmp_path, version, expected):
    info = b"" if version is None else field(5, version)
    (tmp_path / "saved_model.pb").write_bytes(field(2, field(1, info)))
    (part,) = graphs_of(Place(tmp_path / "saved_model.pb"))
    assert (part.tensorflow_version, part.objects, part.tags) == (expected, None, ())


def test_numbers_in_place_of_messages_are_none(tmp_path):
    """A field of the same number with another wire type, which protobuf skips as unknown."""
    said = field(1, 1 << 20) + field(1, field(4, "serve")) + field(7, 1 << 20) + field(7, saved_graph_proto([({}, None)]))
    (tmp_path / "saved_model.pb").write_bytes(field(1, 1) + field(2, 1 << 20) + field(2, said))
    (part,) = graphs_of(Place(tmp_path / "saved_model.pb"))
    assert (part.tags, len(part.objects)) == (("serve",), 1)


OBJECT_KEYS = {role: f"layer-0/{role}/.ATTRIBUTES/VARIABLE_VALUE" for role in ROLES}


def objects_and_values():
    objects = [({"layer-0": 1}, None), (CHILDREN, None), *(({}, (f"bn/{role}", key)) for role, key in OBJECT_KEYS.items())]
    return {**{key: VALUES[role] for role, key in OBJECT_KEYS.items()}, OBJECT_GRAPH: [graph_proto(objects)]}


@pytest.mark.parametrize(("is_by_objects", "has_config", "path"), [(True, True, "mine"), (True, False, None), (False, True, "net/bn")])
def test_a_graph_of_tensorflow_1_has_objects_and_a_config_or_is_read_alone(tmp_path, is_by_objects, has_config, path):
    """The config describes variables that are stored by objects, and the graph those that are stored by name."""
    names = tuple(OBJECT_KEYS.values()) if is_by_objects else tuple(f"net/bn/{role}" for role in ROLES)
    write_tensorflow_1(tmp_path, names=names, stored=objects_and_values() if is_by_objects else None)
    if has_config:
        (tmp_path / "assets").mkdir()
        said = {"class_name": "Sequential", "config": {"name": "net", "layers": [config("mine", 1.001e-5)]}}
        (tmp_path / "assets" / "saved_model.json").write_text(json.dumps(said))
    (layer,) = read(tmp_path).layers
    assert [getattr(layer, role).tobytes() for role in ROLES] == [VALUES[role].tobytes() for role in ROLES]
    assert path in (None, layer.path)
    assert (layer.momentum is not None) is (path == "mine")


@pytest.mark.parametrize(("said", "kernel"), [(0.01, 1.001e-5), (1e-7, 0.5), (1e-7, 2e-5), (2e-5, 1.001e-5)])
def test_an_epsilon_that_no_kernel_would_have_raised_to_that(tmp_path, said, kernel):
    """Only to 1.001e-5, and only what is below."""
    bundle = read(with_metadata(tmp_path, said, kernel=kernel, version="2.9.1"))
    assert [path for path, _ in bundle.skipped] == ["bn"]


def test_functions_that_do_not_serve_are_not_searched_for_other_layers():
    """Where one serves: others hold, for example, a model to train."""
    ops = {"y": "served:y:0"}
    served = saved_functions({"__inference_signature_wrapper_1": ([node("y", "Relu", "x")], {"y": "y:activations:0"}, 0),
                              "call": ([INFERENCE], ops, 4)})
    assert served.others(set()) == []
    assert len(saved_functions({"call": ([INFERENCE], ops, 4)}).others(set())) == 1


@pytest.mark.parametrize("first", ["loss", "call"])
def test_of_functions_that_use_the_same_variables_each_is_searched(first):
    """Where none serves. One may only sum up what another computes with."""
    bodies = {"loss": ([node("y", "AddN", "read_g:value:0", "read_b:value:0", "read_m:value:0", "read_v:value:0")], {"y": "y:sum:0"}, 4),
              "call": ([INFERENCE], {"y": "served:y:0"}, 4)}
    functions = saved_functions({name: bodies[name] for name in (first, *bodies)})
    assert len(functions.others(set())) == 1


@pytest.mark.parametrize("kernels", [True, False])
def test_kernels_of_a_graph_of_tensorflow_1_with_a_config(tmp_path, kernels):
    write_tensorflow_1(tmp_path, names=tuple(OBJECT_KEYS.values()), stored=objects_and_values())
    (tmp_path / "assets").mkdir()
    said = {"class_name": "Sequential", "config": {"name": "net", "layers": [config("mine", 1.001e-5)]}}
    (tmp_path / "assets" / "saved_model.json").write_text(json.dumps(said))
    found = saved_model.read(Place(tmp_path), ReadOptions(kernels=kernels))
    assert (found.kernels is not None) is kernels

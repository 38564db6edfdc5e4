"""A config that is given beside a file that contains its own: the file's is read, and the user told so, whatever the format."""

from __future__ import annotations

import json

import pytest

import exporter
from exporter.keras.node import Node
from exporter.sources.tf_objects import configs
from tests.make import v3_files
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import named, parameters, write


def h5(path):
    return write(path / "m.h5", {"bn": named("bn", parameters())}, sequential(norm()), keras_version="2.4.0")


def archive(path):
    return v3_files.write_archive(path / "m.keras", sequential(norm()), {"layers/batch_normalization": parameters()})


def tfjs(path):
    values = parameters()
    listed = [{"name": f"bn/{role}", "shape": [3], "dtype": "float32"} for role in values]
    (path / "w.bin").write_bytes(b"".join(value.tobytes() for value in values.values()))
    said = {"modelTopology": sequential(norm()), "weightsManifest": [{"paths": ["w.bin"], "weights": listed}]}
    (path / "model.json").write_text(json.dumps(said))
    return path / "model.json"


@pytest.mark.parametrize("form", [h5, archive, tfjs])
def test_it_is_not_used(form, tmp_path):
    given = tmp_path / "other.json"
    given.write_text(json.dumps(sequential(norm(epsilon=0.5))))
    model = form(tmp_path)
    bundle = exporter.read(model, architecture=given)
    assert bundle["bn"].epsilon == 0.01
    assert bundle.warnings == ("the file contains its own config; the one given with --architecture is not used",)
    given.unlink()
    with pytest.raises(exporter.FormatError, match=r"other\.json"):
        exporter.read(model, architecture=given)


@pytest.mark.parametrize("isolated", [True, False])
def test_nothing_asks_for_one_that_would_not_be_used(isolated, tmp_path):
    """The batch norm in a class that no config describes."""
    path = write(tmp_path / "m.h5", {"block": named("block/bn", parameters())}, sequential(layer("Block", "block")), keras_version="2.4.0")
    weights = write(tmp_path / "w.h5", {"block": named("block/bn", parameters())})
    for file, is_asked in ((path, False), (weights, True)):
        with pytest.raises(exporter.UnresolvedError) as refused:
            exporter.read(file, isolated=isolated)
        assert ("--architecture" in refused.value.hint, "--epsilon" in refused.value.hint) == (is_asked, True)


@pytest.mark.parametrize(("class_name", "config", "expected"), [
    ("Add", {"name": "add"}, True), ("Dense", {"name": "dense", "trainable": True}, False), ("InputLayer", {"name": "x"}, False)])
def test_an_operation_is_no_layer_and_may_be_missing_in_a_checkpoint(class_name, config, expected):
    """A layer that is missing there shows that the config is another model's."""
    assert configs._is_operation(Node(name=config["name"], class_name=class_name, config=config)) is expected

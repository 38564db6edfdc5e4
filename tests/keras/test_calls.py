"""What the calls of a model say of its layers: training=True in the forms of every Keras, and who inherits it from whom."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.commands.export import export
from exporter.errors import UnresolvedError
from exporter.keras.calls import references
from exporter.keras.config import is_batch_norm, model_tree, walk
from tests.make import v3_files
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import named, parameters, write

TENSOR = {"class_name": "__keras_tensor__", "config": {"shape": [None, 3], "dtype": "float32", "keras_history": ["x", 0, 0]}}


def keras_2(**arguments):
    return [["x", 0, 0, arguments]]


def keras_3(**arguments):
    return {"args": [TENSOR], "kwargs": arguments}


def called(entry, *calls):
    return {**entry, "name": entry["config"]["name"], "inbound_nodes": list(calls)}


def model(*entries, name="model"):
    return layer("Functional", name, layers=list(entries), input_layers=[["x", 0, 0]], output_layers=[["bn", 0, 0]])


def around(config):
    return {path: node.surroundings for path, node in walk(model_tree(config, "x")) if is_batch_norm(node)}


@pytest.mark.parametrize(("calls", "training"), [
    ([], None), ([[["x", 0, 0]]], None), ([keras_2()], None), ([keras_2(training=None)], None), ([keras_2(training=False)], False),
    ([keras_2(training=0)], False), ([keras_2(training="False")], False), ([keras_2(training=True)], True), ([keras_2(training=1)], True),
    ([keras_2(training="True")], True), ([keras_2(training=["learning_phase", 0, 0])], True),
    ([keras_2(), keras_2(training=True)], True), ([keras_2(training=False), keras_2()], None),
    ([["x", 0, 0, {"training": True}]], True), ([{"a": ["x", 0, 0, {"training": True}]}], True),
    ([[["x", 0, 0, {}], ["y", 0, 0, {"training": True}]]], True),
    ([[]], None), ([[], keras_2(training=True)], True), ([[[]]], None), ([[["x"]]], None),
    ([keras_3()], None), ([keras_3(mask=None)], None), ([keras_3(training=True)], True), ([keras_3(training=1)], True),
    ([keras_3(training=False)], False), ([keras_3(), keras_3(training=True)], True),
])
def test_every_form_of_a_call(calls, training):
    found = around(model(called(norm(), *calls)))["bn"]
    assert (found.training, found.is_keras_3) == (training, training is not None and isinstance(calls[-1], dict) and "args" in calls[-1])


@pytest.mark.parametrize(("call", "inner", "expected"), [
    (keras_2, None, True), (keras_2, False, False), (keras_2, True, True), (keras_3, None, True), (keras_3, False, True),
])
def test_the_call_of_a_model_counts_for_what_lies_in_it(call, inner, expected):
    """Measured: up to Keras 2 the layer's own argument wins, in Keras 3 the outer one."""
    held = called(norm(), call() if inner is None else call(training=inner))
    for outer in (model(held, name="inner"), sequential(model(held, name="inner"), name="outer"),
                  layer("TimeDistributed", "td", layer=model(held, name="inner")),
                  layer("own>Block", "block", parts=[model(held, name="inner")])):
        (found,) = around(model(called(outer, call(training=True)))).values()
        assert found.training is expected


def test_false_outside_does_not_undo_true_inside_but_in_keras_3():
    for call, expected in ((keras_2, True), (keras_3, False)):
        inner = model(called(norm(), call(training=True)), name="inner")
        assert around(model(called(inner, call(training=False))))["inner/bn"].training is expected


def test_wrappers_that_go_over_an_axis_are_counted():
    deep = sequential(norm("b"), layer("TimeDistributed", "t", layer=norm("c")), name="sub")
    config = sequential(norm("a"), layer("TimeDistributed", "td", layer=deep), layer("SpectralNormalization", "sn", layer=norm("d")),
                        layer("RNN", "rnn", cell=layer("StackedRNNCells", "stack", cells=[layer("own>C", "cell", inner=norm("e"))])))
    assert {path: found.added_axes for path, found in around(config).items()} == {
        "a": 0, "td/sub/b": 1, "td/sub/t/c": 2, "sn/d": 0, "rnn/stack/cell/e": 1}


FIRST, SECOND = parameters(3, 1), parameters(3, 2)


def h5(tmp_path, *calls, version="2.2.5", **config):
    entries = [called(norm("bn_1", epsilon=0.01, **config), *calls), called(norm("bn_2", epsilon=0.02), keras_2(training=False))]
    return write(tmp_path / "m.h5", {"bn_1": named("bn_1", FIRST), "bn_2": named("bn_2", SECOND)}, model(*entries), keras_version=version,
                 backend="tensorflow")


def test_a_training_call_is_refused_skipped_or_written_as_it_is_stored(tmp_path, run):
    path, out = h5(tmp_path, keras_2(training=1)), tmp_path / "out.json"
    code, _, err = run(export, path, out)
    assert (code, out.exists()) == (1, False)
    assert all(word in err for word in ("bn_1", "training=True", "--stored-statistics"))
    assert "bn_2" not in err
    code, _, err = run(export, path, out, "--skip-unresolved")
    document = json.loads(out.read_text())
    assert code == 0
    assert [entry["path"] for part in ("layers", "skipped") for entry in document[part]] == ["bn_2", "bn_1"]
    code, _, err = run(export, path, out, "--stored-statistics")
    first, second = json.loads(out.read_text())["layers"]
    assert code == 0
    assert "bn_1: called with training=True: the model's own predict() normalizes by the statistics of the batch" in err
    assert (first["called_in_training"], "called_in_training" in second) == (True, False)
    assert np.array(first["moving_mean"], "f4").tobytes() == FIRST["moving_mean"].tobytes()
    code, shown, err = run(export, out)
    assert (code, err) == (0, "")
    assert "called with training=True" in shown
    assert [layer.called_in_training for layer in exporter.read(out)] == [True, False]


@pytest.mark.parametrize(("version", "refused"), [("2.2.5", True), ("2.3.1", True), ("2.2.4-tf", True), ("2.3.0-tf", False),
                                                  ("2.4.0", False), ("2.15.0", False)])
def test_a_frozen_layer_uses_its_statistics_since_tensorflow_2(tmp_path, version, refused):
    path = h5(tmp_path, keras_2(training=True), version=version, trainable=False)
    if refused:
        with pytest.raises(UnresolvedError, match="training=True"):
            exporter.read(path)
    else:
        assert not exporter.read(path)["bn_1"].called_in_training


@pytest.mark.parametrize("architecture", [False, True])
def test_keras_3_is_exported_with_a_warning(tmp_path, architecture):
    config = v3_files.functional("m", {**v3_files.norm("bn"), "name": "bn", "inbound_nodes": [keras_3(training=True)]})
    groups = {"layers/batch_normalization": v3_files.norm_arrays(1)}
    if architecture:
        path = v3_files.write_weights(tmp_path / "m.weights.h5", groups)
        (tmp_path / "m.json").write_text(json.dumps(config))
        bundle = exporter.read(path, architecture=tmp_path / "m.json")
    else:
        bundle = exporter.read(v3_files.write_archive(tmp_path / "m.keras", config, groups))
    assert bundle["bn"].called_in_training
    assert any("predict() of Keras 3 overrides" in warning for warning in bundle.warnings)


@pytest.mark.parametrize(("value", "expected"), [
    (None, []), ("x", []), (3, []), ([], []), ({}, []), (["x", 0], []), (["x", True, 0], []), (["x", 0, 1], [("x", 0, 1)]),
    ([["x", 0, 0, {"state": ["y", 1, 0]}]], [("x", 0, 0), ("y", 1, 0)]), (TENSOR, [("x", 0, 0)]),
    ([TENSOR, ["z", 0, 0]], [("x", 0, 0), ("z", 0, 0)])])
def test_what_a_call_reads(value, expected):
    assert references(value) == expected

"""Variables that a graph assigns before a batch norm reads them: the stored ones are not what it computes with."""

from __future__ import annotations

import json

import numpy as np
import pytest

import exporter
from exporter.errors import UnresolvedError
from tests.make.graph_files import Function, const, function, graph, meta_graph, node, parameters, variables
from tests.make.live import config
from tests.make.tensor_files import field, write_bundle
from tests.sources.test_frozen_graph import ROLES, X
from tests.sources.test_saved_model import CHILDREN, VECTORS, saved_functions, write_exported
from tests.sources.test_saved_model import read as read_saved_model

SAID = "the graph assigns its {} before it reads it: the stored one is not what it computes with"
TWO = const("two", np.float32(2))


def assignment(name="assign", op="AssignVariableOp", of="v"):
    return node(name, op, of, "two:output:0")


def body(*more, read="v", training=False, after="assign"):
    """A batch norm that reads one of its variables once more, after one of `more`."""
    vectors = [f"late_{one}:value:0" if one == read else f"read_{one}:value:0" for one in "gbmv"]
    return [TWO, *more, node(f"late_{read}", "ReadVariableOp", read, *[f"^{after}"] * bool(more)),
            node("y", "FusedBatchNormV3", "x", *vectors, epsilon=0.02, is_training=training)]


def norms(nodes, **others):
    functions = {"__inference_signature_wrapper_1": nodes, **others}
    return saved_functions({name: (each, {"y": "y:y:0"}, 5) for name, each in functions.items()}).norms()


@pytest.mark.parametrize(("more", "read", "said"), [
    ([assignment()], "v", "variance"), ([assignment(of="g")], "g", "gamma"), ([assignment(op="AssignSubVariableOp")], "v", "variance"),
    ([assignment(op="ResourceApplyGradientDescent", of="b")], "b", "beta"),
    ([assignment("first"), node("assign", "NoOp", "^first")], "v", "variance"),
    ([assignment("first"), node("n", "Identity", "two:output:0", "^first"), node("assign", "Identity", "n:output:0")], "v", "variance"),
    ([assignment(of="g")], "v", ""), ([assignment("later"), node("assign", "NoOp")], "v", "")])
def test_an_assignment_before_a_read(more, read, said):
    (norm,) = norms(body(*more, read=read))
    assert (norm.reason, norm.is_assigned) == (SAID.format(said) if said else "", bool(said))


@pytest.mark.parametrize("op", ["StatefulPartitionedCall", "If", "While"])
@pytest.mark.parametrize("of", ["v", "g"])
def test_an_assignment_in_a_function_that_is_called_before(op, of):
    attributes = {"StatefulPartitionedCall": ["f"], "If": ["then_branch", "else_branch"], "While": ["body", "cond"]}[op]
    given = (["x"] if op == "If" else []) + [of]
    call = node("call", op, *given, **dict.fromkeys(attributes, Function("update")))
    inner = function("update", ["g"], [TWO, assignment(of="g")], {"y": "g"})  # its argument is called g, whatever it is given
    functions = saved_functions({"__inference_signature_wrapper_1": (body(call, after="call"), {"y": "y:y:0"}, 5)}, more=[inner])
    (norm,) = functions.norms()
    assert norm.is_assigned is (of == "v")


def test_an_assignment_before_the_call_that_reads():
    vectors = [f"r_{one}:value:0" for one in "gbmv"]
    inner = function("norm", ["x", *"gbmv"], [*(node(f"r_{one}", "ReadVariableOp", one) for one in "gbmv"),
                                              node("y", "FusedBatchNormV3", "x", *vectors, is_training=False)], {"y": "y:y:0"})
    for controls, said in ((["^assign"], True), ([], False)):
        call = node("y", "StatefulPartitionedCall", "x", *"gbmv", *controls, f=Function("norm"))
        functions = saved_functions({"__inference_signature_wrapper_1": ([TWO, assignment(), call], {"y": "y:output:0"}, 5)}, more=[inner])
        (norm,) = functions.norms()
        assert norm.is_assigned is said


def test_another_function_reads_what_is_stored():
    """That of training assigns, and then computes with the result."""
    for nodes in ({"first": body(assignment()), "second": body()}, {"first": body(), "second": body(assignment())}):
        (norm,) = norms(body(), **nodes)
        assert (norm.reason, norm.is_assigned) == ("", False)
    (norm,) = norms(body(assignment()), second=body())
    assert not norm.is_assigned


def test_training_that_assigns_its_averages_is_no_other_batch_norm():
    (norm,) = norms(body(assignment(), training=True))
    assert norm.in_training
    assert not norm.is_assigned


@pytest.mark.parametrize("has_config", [True, False])
def test_an_object_of_keras_whose_model_assigns_its_variance(tmp_path, has_config):
    gamma, beta, mean, _ = VECTORS
    ops = [TWO, assignment(), node("late", "ReadVariableOp", "v", "^assign"),
           node("call", "FusedBatchNormV3", "x", gamma, beta, mean, "late:value:0", epsilon=2e-3, is_training=False)]
    folder = write_exported(tmp_path, children=CHILDREN, ops=ops, serve="__inference_signature_wrapper_7")
    if has_config:
        said = config("bn", 2e-3) | {"name": "bn", "build_input_shape": [None, 4, 4, 3]}
        (folder / "keras_metadata.pb").write_bytes(field(1, field(2, 1) + field(5, json.dumps(said))))
    (skipped,) = read_saved_model(folder).skipped
    assert skipped.reason == SAID.format("variance")


@pytest.mark.parametrize("is_read_later", [True, False])
def test_a_variable_of_the_first_tensorflow(tmp_path, is_read_later):
    """Its initializer assigns it, too, and nothing waits for that."""
    nodes, (gamma, beta, mean, _) = variables("bn")
    nodes += [const("two", np.float32(2)), node("bn/init", "Assign", "bn/moving_variance", "two"),
              node("late", "Identity", "bn/moving_variance", *["^bn/init"] * is_read_later),
              node("y", "FusedBatchNorm", "x", gamma, beta, mean, "late", is_training=False)]
    (tmp_path / "model.ckpt.meta").write_bytes(meta_graph(graph(X, *nodes)))
    path = write_bundle(tmp_path, "model.ckpt", {f"bn/{role}": value for role, value in zip(ROLES, parameters(), strict=True)})
    if is_read_later:
        with pytest.raises(UnresolvedError, match=SAID.format("variance")):
            exporter.read(path)
    else:
        assert exporter.read(path).paths() == ["bn"]


def test_a_search_that_takes_too_long_counts_as_one_that_finds_it(monkeypatch):
    monkeypatch.setattr("exporter.sources.tf_graph.writes.MAX_STEPS", 1)
    assert norms(body(assignment("other"), node("assign", "NoOp")))[0].is_assigned

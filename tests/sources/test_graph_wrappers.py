"""Functions that only call another one, as each signature of a model does: what that contains is searched once, with the same result."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.sources.tf_graph.finder import Finder
from tests.make.graph_files import Function, const, function, node
from tests.sources.test_saved_model import VECTORS, saved_functions

INFERENCE = "__inference_signature_wrapper_{}"
NORM = ([node("a", "Relu", "x"), node("y", "FusedBatchNormV3", "a:activations:0", *VECTORS, epsilon=0.02, is_training=False),
         node("z", "Relu", "y:y:0")], {"y": "z:activations:0"}, 4)
TRAINED = ([*NORM[0], node("t", "FusedBatchNormV3", "x", *VECTORS, is_training=True), node("s", "AddV2", "z:activations:0", "t:y:0")],
           {"y": "s:z:0"}, 4)
LAST = (NORM[0], {"y": "y:y:0"}, 4)


def bare(*nodes, result="c:output:0"):
    """A function whose arguments nothing reads but these nodes."""
    return ([*nodes], {"y": result}, 4)


def call(*given, of="net", name="c", op="StatefulPartitionedCall"):
    return node(name, op, *given, f=Function(of))


WHOLE = bare(call("x", *"gbmv"), node("i", "Identity", "c:output:0"), node("n", "NoOp"), result="i:output:0")
TWICE = bare(call("x", *"gbmv"), call("x", *"gbmv", name="d"), node("i", "Identity", "d:output:0"))
CHAINED = bare(call("x", *"gbmv"), call("c:output:0", *"gbmv", name="d"), result="d:output:0")
CHANGED = bare(node("r", "Relu", "x"), call("r:activations:0", *"gbmv"))
FIXED = bare(const("k", np.float32([1, 2, 3])), call("x", "k:output:0", *"bmv"))
TABLES = {
    "two signatures": ({"net": NORM, INFERENCE.format(1): WHOLE, INFERENCE.format(2): WHOLE}, 1),
    "signatures first": ({INFERENCE.format(1): WHOLE, INFERENCE.format(2): WHOLE, "net": NORM}, 1),
    "the last op": ({"net": LAST, INFERENCE.format(1): WHOLE}, 1), "one alone": ({"net": LAST}, 1),
    "in training too": ({"net": TRAINED, INFERENCE.format(1): WHOLE}, 1), "called twice": ({"net": NORM, INFERENCE.format(1): TWICE}, 2),
    "one after the other": ({"net": NORM, INFERENCE.format(1): CHAINED}, 3),
    "what is changed": ({"net": NORM, INFERENCE.format(1): CHANGED}, 2), "a constant": ({"net": NORM, INFERENCE.format(1): FIXED}, 2)}


def outcome(functions):
    return [(norm.identity(), norm.path, norm.calls, norm.also_in_training, norm.reason, norm.node.name, norm.ndim)
            for norm in saved_functions(functions, bare=[name for name, each in functions.items() if each[0] and each not in (
                NORM, TRAINED, LAST)]).norms()]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_what_a_wrapper_calls_is_searched_once_with_the_same_result(monkeypatch, name):
    functions, searches = TABLES[name]
    searched, within = [], Finder._within
    monkeypatch.setattr(Finder, "_within", lambda self, frame: searched.append(frame.body.name) or within(self, frame))
    found = outcome(functions)
    assert searched.count("net") == searches
    monkeypatch.setattr("exporter.sources.tf_graph.finder.is_wrapper", lambda *args: False)
    assert outcome(functions) == found
    assert found


def test_of_two_signatures_that_call_what_no_object_holds_one_is_searched(monkeypatch):
    """As Keras 2 writes it, except that it has one."""
    searched, within = [], Finder._within
    monkeypatch.setattr(Finder, "_within", lambda self, frame: searched.append(frame.body.name) or within(self, frame))
    reads = [node(f"read_{one}", "ReadVariableOp", one) for one in "gbmv"]
    inner = function("net", ["x", *"gbmv"], [*reads, *NORM[0]], NORM[1])
    names = [INFERENCE.format(number) for number in (1, 2)]
    (norm,) = saved_functions(dict.fromkeys(names, WHOLE), more=[inner], bare=names).norms()
    assert searched.count("net") == 1
    assert norm.calls


@pytest.mark.parametrize("result", ["served:y:0", "both:z:0"])
def test_a_layer_without_gamma_and_beta_that_is_called_in_both_modes(result):
    """Its statistics are all that shows that it is one."""
    made = [const("ones", np.ones(3, "f4")), const("zeros", np.zeros(3, "f4"))]
    calls = [node(name, "FusedBatchNormV3", "x", "ones:output:0", "zeros:output:0", *VECTORS[2:], is_training=training)
             for name, training in (("served", False), ("trained", True))]
    ops = [*made, *calls, node("both", "AddV2", "served:y:0", "trained:y:0")]
    (norm,) = saved_functions({INFERENCE.format(1): (ops, {"y": result}, 4)}).norms()
    assert norm.also_in_training is (result == "both:z:0")
    assert (norm.gamma, norm.beta) == (None, None)


@pytest.mark.parametrize("is_called", [False, True])
def test_what_follows_the_result_of_a_function_is_known_if_none_calls_it(is_called):
    around = bare(call("x", *"gbmv"), node("r", "Relu", "c:output:0"), result="r:activations:0")
    functions = {"net": LAST, **({INFERENCE.format(1): around} if is_called else {})}
    norms = saved_functions(functions, bare=[INFERENCE.format(1)]).norms()
    assert [[[each.class_name for each in one.outputs] for one in norm.calls] for norm in norms] == [[] if is_called else [["Relu"]]]

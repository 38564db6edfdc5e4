"""GraphDefs byte by byte: constants in all their encodings, attributes, functions, and damage."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest

from exporter.errors import ExporterError, FormatError
from exporter.files.place import Place
from exporter.formats import graph_def
from exporter.formats.graph_def import Graph, MetaGraph, Node, Output, TensorProto, _entry, open_file
from exporter.sources.tf_graph.norms import graph_norms
from tests.make.graph_files import Function, chain, const, frozen_variables, function, graph, meta_graph, node, parameters, tensor
from tests.make.tensor_files import encode, field, shape_proto


def listed(number, shape, values_field, payload):
    """A TensorProto with its values one by one."""
    return field(1, number) + field(2, shape_proto(shape)) + field(values_field, payload)


def halves(values, dtype):
    return b"".join(encode(int(bits)) for bits in np.asarray(values, dtype).view("<u2"))


@pytest.mark.parametrize(("data", "expected"), [
    (tensor(np.float32([1, 2, 3])), np.float32([1, 2, 3])),
    (listed(1, (3,), 5, np.float32([1, 2, 3]).tobytes()), np.float32([1, 2, 3])),
    (listed(1, (3,), 5, np.float32([1, 2]).tobytes()), np.float32([1, 2, 2])),
    (field(1, 1) + field(2, shape_proto((2,))) + field(5, 0.5), np.float32([0.5, 0.5])),
    (field(1, 1) + field(2, shape_proto((2,))), np.float32([0, 0])),
    (listed(2, (2,), 6, np.float64([0.1, -0.0]).tobytes()), np.float64([0.1, -0.0])),
    (listed(19, (3,), 13, halves([1, -2], "<f2")), np.float16([1, -2, -2])),
    (listed(14, (2,), 13, encode(0x3F80) + encode(0xC000)), np.float32([1, -2])),
    (tensor(np.float32([1, -2]), "bfloat16"), np.float32([1, -2])),
    (listed(9, (2,), 10, encode(-1)), np.int64([-1, -1])),
    (listed(3, (2,), 7, encode(5) + encode(-5)), np.int32([5, -5])),
    (listed(22, (2,), 16, encode(7) + encode(2**32 - 1)), np.uint32([7, 2**32 - 1])),
    (listed(23, (2,), 17, encode(7) + encode(2**64 - 1)), np.uint64([7, 2**64 - 1])),
    (field(1, 10) + field(11, 1), np.array(True)),
    (tensor(np.zeros((0, 3), "f4")), np.zeros((0, 3), "f4")),
], ids=["content", "packed", "last repeats", "unpacked", "none is zero", "double", "half", "bfloat16 values", "bfloat16 content", "int64",
        "int32", "uint32", "uint64", "bool", "empty"])
def test_a_constant_is_decoded(data, expected):
    found = TensorProto(data, "")
    assert found.shape == expected.shape
    values = found.array()
    assert values.dtype == expected.dtype
    assert values.tobytes() == expected.tobytes()


ONE, TWO = field(5, 1), field(3, 2)


@pytest.mark.parametrize("entry", [
    field(1, "key") + field(2, ONE), field(2, ONE) + field(1, "key"), field(1, "other") + field(2, TWO) + field(1, "key") + field(2, ONE),
    field(1, "key") + field(2, TWO) + field(2, ONE), field(1, "key") + field(2, ONE) + field(3, 7), field(1, "other") + field(1, "key")
    + field(2, ONE), b"\x8a\x00" + field(1, "key")[1:] + field(2, ONE), b"\x0a\x83\x00key" + field(2, ONE),
    b"\x0a\x03key\x12\x82\x00" + ONE], ids=["as TensorFlow writes it", "value first", "twice", "two values", "more", "two keys", "long tag",
                                           "long size of the key", "long size of the value"])
def test_an_attribute_in_every_spelling(entry):
    """Of what is repeated, the last counts, as in protobuf."""
    said = Node(field(1, "n") + field(2, "Op") + field(5, entry), "", False)
    assert said.boolean("key", False)
    assert said.content("key") == ONE
    assert said.attribute("other") is None


@pytest.mark.parametrize(("entry", "said"), [
    (b"", {""}), (field(1, "key"), {"key"}), (field(2, ONE), {""}), (field(1, "") + field(2, ONE), {""}),
    (field(1, "key") + field(2, ""), {"key"})])
def test_an_attribute_without_key_or_value(entry, said):
    found = Node(field(1, "n") + field(2, "Op") + field(5, entry), "", False)
    assert {name for name in ("", "key") if found.attribute(name) is not None} == said


@pytest.mark.parametrize("entry", [field(1, b"\xff") + field(2, ONE), field(1, "key") + b"\x12\x03" + ONE, field(1, "key") + b"\x12",
                                   b"\x0a\x7fkey", b"\x0a", field(1, "key") + field(2, ONE) + b"\x12"])
def test_a_damaged_attribute(entry):
    with pytest.raises(FormatError):
        Node(field(1, "n") + field(2, "Op") + field(5, entry), "", False).attribute("key")


def test_a_long_attribute_is_not_compared_with_others():
    """Weights would be copied and kept."""
    most = graph_def.MAX_CONTENT
    said = Node(field(1, "n") + field(5, field(1, "most") + field(2, bytes(most))) + field(5, field(1, "more") + field(2, bytes(most + 1)))
                + field(5, field(1, "number") + field(2, 1)), "", False)
    assert [said.content(name) for name in ("most", "more", "number", "none")] == [bytes(most), None, None, None]


def test_strings_of_a_constant_are_bytes():
    """A number in their place is damage: it has no text, whatever its size."""
    assert TensorProto(field(1, 7) + field(8, b"a") + field(8, 3) + field(8, b"") + field(8, 1 << 60), "").strings() == [b"a", b""]


@pytest.mark.parametrize(("data", "message"), [
    (field(1, 2) + field(2, shape_proto(())) + field(5, struct.pack("<f", 1.5)), "of type float64 has values of another type"),
    (field(1, 1) + field(2, shape_proto((2,))) + field(10, 3), "of type float32 has values of another type"),
    (field(1, 1) + field(2, shape_proto((2,))) + field(4, b"1234"), "has 4 bytes"),
    (listed(1, (2,), 5, np.float32([1, 2, 3]).tobytes()), "has 3 values"),
    (listed(1, (1,), 5, np.float32([1, 2]).tobytes()), "has 2 values"), (listed(1, (0,), 5, np.float32([1, 2]).tobytes()), "has 2 values"),
    (listed(1, (1 << 40, 1 << 40), 5, b""), "expected constants of at most 67108864 bytes, got one of shape"),
    (listed(1, (2,), 5, b"12345"), "field 5 has 5 bytes, expected a multiple of 4"),
    (field(1, 1) + field(2, field(2, field(1, -1))), "a constant has an invalid shape"),
    (field(1, 7) + field(8, b"text"), "expected a numeric constant"),
    (field(1, 99), "expected a numeric constant"),
    (field(1, 1) + field(2, shape_proto((2,))) + field(4, 8), "expected bytes as tensor_content"),
])
def test_a_broken_constant_is_refused(data, message):
    with pytest.raises(FormatError, match=message) as caught:
        TensorProto(data, "here").array()
    assert caught.value.where == "here"


def test_a_constant_over_the_limit_is_refused(monkeypatch):
    for limit in (12, 11):
        monkeypatch.setattr(graph_def, "MAX_CONSTANT", limit)
        with contextlib.nullcontext() if limit == 12 else pytest.raises(FormatError, match=f"constants of at most {limit} bytes"):
            assert TensorProto(tensor(np.float32([1, 2, 3])), "").array().size == 3


def test_attributes_are_given_by_type():
    data = node("n", "Op", "a", "b:2", "^control", yes=True, number=0.5, text="NCHW", axes=[0, -1], shape=(2, 3), call=Function("f"))
    found = Graph(graph(data)).main.nodes["n"]
    assert found.inputs == [Output("a", 0), Output("b", 2)]
    assert (found.boolean("yes", False), found.single("number", 1.0), found.text("text")) == (True, 0.5, "NCHW")
    assert (found.integers("axes"), found.shape("shape"), found.functions("call")) == ([0, -1], (2, 3), ["f"])
    assert (found.boolean("no", True), found.single("no", 1.0), found.text("no", "x"), found.shape("no")) == (True, 1.0, "x", None)


def test_an_attribute_that_is_a_number_allocates_nothing():
    data = field(1, "n") + field(2, "Op") + field(5, field(1, "a") + field(2, 1 << 60))
    with pytest.raises(FormatError, match="node n: the attribute a is a number"):
        Graph(graph(data)).main.nodes["n"].boolean("a", False)


def test_functions_name_outputs_of_nodes():
    body = [node("add", "AddV2", "x", "y"), node("norm", "FusedBatchNormV3", "add:z:0"),
            node("call", "PartitionedCall", "norm:batch_mean:0")]
    found = Graph(graph(functions=[function("f", ["x", "y"], body, {"out": "call:output:1"})])).function("f")
    assert found.arguments == ("x", "y")
    assert [found.nodes[name].inputs for name in ("add", "norm", "call")] == [
        [Output("x", 0), Output("y", 0)], [Output("add", 0, "z")], [Output("norm", 1, "batch_mean")]]
    assert found.results == {"out": Output("call", 1, "output")}


@pytest.mark.parametrize(("data", "message"), [
    (graph(node("a", "NoOp"), node("a", "NoOp")), "two nodes are named a"),
    (field(1, 5), "expected a message, got a number"),
    (field(1, field(1, b"\xff") + field(2, "NoOp")), "not UTF-8"),
    (graph(node("c", "Const"))[:5], "field 1 claims 10 bytes, but 3 are left"),
    (graph(*[node(f"n{number}", "NoOp") for number in range(6)]), "expected at most 5 nodes, got more"),
    (graph(functions=[function(f"f{number}", [], [], {}) for number in range(4)]), "expected at most 3 functions, got more"),
    (b"".join(graph(functions=[function(f"{name}{number}", [], [], {}) for number in range(2)]) for name in "fg"),
     "expected at most 3 functions, got more"),
])
def test_a_broken_graph_is_refused(data, message, monkeypatch):
    monkeypatch.setattr(graph_def, "MAX_NODES", 5)
    monkeypatch.setattr(graph_def, "MAX_FUNCTIONS", 3)
    assert len(Graph(graph(*[node(f"n{number}", "NoOp") for number in range(5)])).main.nodes) == 5
    with pytest.raises(FormatError, match=message):
        assert Graph(data).main


def test_a_function_that_is_named_twice_is_refused():
    """Its name is looked up at its beginning, and is the last of two to a reader that goes through all of it."""
    twice = function("f", [], [], {}) + field(1, field(1, "g"))
    found = Graph(graph(functions=[twice]))
    assert "f" in found
    assert "g" not in found
    with pytest.raises(FormatError, match="the function f has another name in a second signature"):
        found.function("f")


def test_a_function_whose_name_stands_elsewhere_is_found():
    nodes = field(3, node("n", "NoOp"))
    found = Graph(graph(functions=[nodes + function("f", [], [], {})]))
    assert list(found.function("f").nodes) == ["n"]


@pytest.mark.parametrize("size", [5, 127, 128, 300])
def test_a_name_of_any_length_is_read(size):
    found = Graph(graph(node("n" * size, "NoOp", "i" * size), node("i" * size, "Const")))
    assert [each.name for each in found.main.nodes.values()] == ["n" * size, "i" * size]
    assert found.main.nodes["n" * size].inputs == [Output("i" * size, 0)]


def test_each_tensor_of_a_node_is_its_own():
    """The value of a constant is remembered, whatever was asked for before."""
    made = Node(node("x", "Op", value=tensor(np.float32([1, 2])), other=tensor(np.float32([3]))), "", False)
    for _ in range(2):
        assert made.tensor("other").array().tolist() == [3]
        assert made.tensor().array().tolist() == [1, 2]


def test_what_is_not_there_is_an_error():
    found = Graph(graph(node("c", "Const")))
    with pytest.raises(FormatError, match="node c: the constant has no value"):
        found.main.nodes["c"].tensor()
    with pytest.raises(FormatError, match="calls the function f"):
        found.function("f")


def test_a_file_is_mapped_and_an_empty_one_is_empty(tmp_path):
    (tmp_path / "g.pb").write_bytes(graph(const("c", np.float32([1, 2]))))
    (tmp_path / "empty.pb").write_bytes(b"")
    found = Graph(open_file(Place(tmp_path / "g.pb")))
    assert found.main.nodes["c"].tensor().array().tolist() == [1, 2]
    assert Graph(open_file(Place(tmp_path / "empty.pb"))).main.nodes == {}


def test_a_file_over_the_limit_is_not_mapped(tmp_path, monkeypatch):
    assert graph_def.MAX_GRAPH == 1 << 31, "protobuf's own"
    (tmp_path / "g").write_bytes(bytes(11))
    monkeypatch.setattr(graph_def, "MAX_GRAPH", 11)
    assert len(open_file(Place(tmp_path / "g"))) == 11
    monkeypatch.setattr(graph_def, "MAX_GRAPH", 10)
    with pytest.raises(FormatError, match="expected a graph of at most 10 bytes, got 11"):
        open_file(Place(tmp_path / "g"))


def test_a_number_in_place_of_a_message_is_refused():
    with pytest.raises(FormatError, match="expected a message in field 3"):
        MetaGraph(field(2, graph()) + field(3, 7), "m")


def test_a_meta_graph_says_who_wrote_it():
    found = MetaGraph(meta_graph(graph(node("a", "NoOp")), version="1.12.0"))
    assert (found.tensorflow_version, found.tags, found.save_node) == ("1.12.0", ["serve"], "save/control_dependency")


def test_every_cut_and_every_changed_byte_is_an_answer_or_an_error_of_ours():
    gamma, beta, mean, variance = parameters()
    nodes, reads = frozen_variables("bn", (gamma, beta, mean, variance))
    call = function("f", ["x"], [node("s", "Rsqrt", "x")], {"y": "s:y:0"})
    data = graph(node("x", "Placeholder"), *nodes, *chain("bn", "x", *reads), node("call", "PartitionedCall", "x", f=Function("f")),
                 functions=[call])
    random = np.random.default_rng(0)
    broken = [data[:end] for end in range(0, len(data), 7)]
    for _ in range(400):
        copy = bytearray(data)
        copy[random.integers(len(copy))] = random.integers(256)
        broken.append(bytes(copy))
    for one in broken:
        with contextlib.suppress(ExporterError):
            assert all(norm.path for norm in graph_norms(Graph(one)))


@pytest.mark.parametrize("op", ["Identity", "Merge", "Fill", "Select", "ConcatV2", "Mul", "Squeeze", "Pack", "FusedBatchNormV3",
                                pytest.param("Reshape", marks=pytest.mark.thorough("much time: the longest way round"))])
def test_a_graph_that_leads_in_circles_ends(op):
    inputs = {"Identity": ["a"], "Squeeze": ["a"], "Select": ["a"] * 3, "FusedBatchNormV3": ["a:1"] * 5}.get(op, ["a", "a"])
    found = graph_norms(Graph(graph(node("a", op, *inputs), node("x", "Placeholder"), *chain("bn", "x", "a", "a", "a", "a"),
                                   node("f", "FusedBatchNormV3", "x", "a", "a", "a", "a", is_training=False))))
    assert all(norm.reason for norm in found)


def test_a_walk_over_the_users_of_nodes_reaches_each_once():
    """Also in a circle, which a damaged file may contain; a node that does not lead on may be reached another way."""
    body = Graph(graph(node("a", "Const"), node("b", "Neg", "a", "d"), node("c", "Abs", "b", "a"), node("d", "Neg", "b"),
                       node("e", "Neg", "d", "c"))).main
    walk = body.following([body.nodes["a"]], lambda one, user: (one.name, user.name) != ("d", "e") and user.op == "Neg")
    assert [one.name for one in walk] == ["a", "b", "d"]
    assert [one.name for one in body.following([body.nodes["a"]], lambda one, user: one.name != "d")] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(("data", "found"), [
    (field(1, "k") + field(2, b"v"), ("k", b"v")), (field(2, b"v") + field(1, "k"), ("k", b"v")), (field(1, "k"), ("k", b"")),
    (field(3, "k") + field(2, b"v"), ("", b"v")), (field(1, "k") + field(3, b"v"), ("k", b"")), (b"", ("", b"")),
    (field(1, "k") + field(2, b"v") + field(2, b"w"), ("k", b"w")), (field(1, "k" * 127) + field(2, b"v"), ("k" * 127, b"v")),
    (field(1, "k" * 127 + "\x12") + field(2, b"v" * 17), ("k" * 127 + "\x12", b"v" * 17)),
    (field(1, "k") + field(2, b"v" * 127), ("k", b"v" * 127)), (field(1, "k") + field(2, b"v" * 128), ("k", b"v" * 128)),
    (field(1, "k") + b"\x12\x81\0v" + field(3, b"x" * 125), ("k", b"v")), (field(1, "") + field(2, b""), ("", b"")),
    (field(1, "k") + b"\x12\x80\0" + field(3, b"x" * 125), ("k", b"")), (field(1, "k") + field(2, 5), ("k", 5))])
def test_the_entries_of_a_table(data, found):
    """Fields in any order, repeated, missing, of any length, and others beside them."""
    key, value = _entry(data, "here")
    assert (key, bytes(value) if isinstance(value, (bytes, memoryview)) else value) == found


@pytest.mark.parametrize("data", [
    7, field(1, "k") + b"\x12", field(1, b"\xff") + field(2, b"v"), field(1, "k") + field(2, b"v")[:-1], field(1, 7) + field(2, b"v")])
def test_what_is_no_entry_of_a_table(data):
    with pytest.raises(FormatError) as caught:
        _entry(data, "here")
    assert caught.value.where == "here"

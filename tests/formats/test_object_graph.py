"""Object graphs: which object contains which, in which order they are walked, and what contradicts itself."""

from __future__ import annotations

import pytest

from exporter.errors import FormatError
from exporter.formats import object_graph
from exporter.formats.object_graph import CheckpointGraph, KeptValue, ObjectGraph, SavedGraph, read_metadata
from exporter.formats.protobuf import Message
from tests.make.tensor_files import field


def child(name, number):
    return field(1, field(1, number) + field(2, name))


def graph(*nodes, kind=ObjectGraph, more=b""):
    """nodes: {name: number} of the children, or the bytes of a node."""
    held = [node if isinstance(node, bytes) else b"".join(child(name, number) for name, number in node.items()) for node in nodes]
    return kind(Message(b"".join(field(1, node) for node in held) + more, "here"))


def test_children_and_who_holds_them():
    found = graph({"a": 1, "b": 2}, {"b": 2, "x": 0}, {"ab": 0}, child("b", 1) * 2)
    assert len(found) == 4
    assert [found.children(number) for number in range(4)] == [{"a": 1, "b": 2}, {"b": 2, "x": 0}, {"ab": 0}, {"b": 1}]
    assert [found.holders(name) for name in ("b", "x", "a", "c")] == [[0, 1, 3], [1], [0], []]


@pytest.mark.parametrize(("node", "said"), [
    (child("a", 2), "refers to node 2, but has 2 nodes"), (child("a", -1), "refers to node -1|refers to node 18446744073709551615"),
    (child("a", 0) + child("a", 1), "node 0 of the object graph has two children named a"),
    (field(1, field(1, b"x") + field(2, "a")), "a reference in the object graph has the wrong types"),
    (field(1, field(1, 1) + field(2, 3)), "a reference in the object graph has the wrong types"),
    (field(1, field(1, 1) + field(2, b"\xff")), "the name of an object is not UTF-8")])
def test_children_that_are_none(node, said):
    with pytest.raises(FormatError, match=said) as caught:
        graph(node, {}).children(0)
    assert caught.value.where == "here"


def test_a_child_without_a_number_is_the_root():
    assert graph(field(1, field(2, "self"))).children(0) == {"self": 0}


@pytest.mark.parametrize(("reference", "children"), [
    (field(2, "a") + field(1, 1), {"a": 1}), (field(1, 1), {"": 1}), (field(1, 1) + field(2, ""), {"": 1}),
    *((field(1, 1) + field(2, "n" * size), {"n" * size: 1}) for size in (127, 128, 300)),
    (field(1, 1) + field(2, "a") + field(3, 5), {"a": 1}), (field(1, 1) + field(3, "a"), {"": 1}),
    (field(1, 0) + field(2, "a") + field(1, 1), {"a": 1}), (field(1, 1) + field(2, "a") + field(2, "b"), {"b": 1})])
def test_references_of_every_form(reference, children):
    assert graph(field(1, reference), {}).children(0) == children


def test_references_to_nodes_beyond_the_first_hundreds():
    children = {"a": 127, "b": 128, "c": 299, "n" * 17: 18}  # the last: a number, a tag and a length that look alike
    assert graph(children, *[{}] * 299).children(0) == children


@pytest.mark.parametrize("name", ["\x11" + "n" * 17, "n" * 16 + "\x12"])
def test_the_root_under_a_name_that_looks_like_a_tag(name):
    assert graph(field(1, field(2, name))).children(0) == {name: 0}


@pytest.mark.parametrize("reference", [b"\x08", b"\x08\x80", b"\x08\x01\x12", b"\x08\x01\x12\x05a", b"\x08\x01\x12\x01ab",
                                       b"\x08\x01\x12\x80" + b"\x7f" * 128])
def test_references_that_are_cut(reference):
    with pytest.raises(FormatError):
        graph(field(1, reference), {}).children(0)


@pytest.mark.parametrize(("nodes", "ways"), [
    ([], []), ([{}], [((0,), ())]),
    ([{"b": 1, "a": 2}, {"c": 3}, {}, {}], [((0,), ()), ((0, 1), ("b",)), ((0, 1, 3), ("b", "c")), ((0, 2), ("a",))]),
    ([{"variables": 1, "own": 2}, {"0": 3}, {"gamma": 3}, {}],
     [((0,), ()), ((0, 2), ("own",)), ((0, 2, 3), ("own", "gamma")), ((0, 1), ("variables",))]),
    ([{"variables": 1, "optimizer": 2}, {}, {}], [((0,), ()), ((0, 1), ("variables",)), ((0, 2), ("optimizer",))]),
    ([{"a": 1}, {"back": 0, "again": 1, "optimizer": 2}, {"keras_api": 3}, {}],
     [((0,), ()), ((0, 1), ("a",)), ((0, 1, 2), ("a", "optimizer")), ((0, 1, 2, 3), ("a", "optimizer", "keras_api"))])])
def test_the_walk_prefers_an_objects_own_attributes(nodes, ways):
    assert list(graph(*nodes).walk()) == ways


def test_a_walk_that_is_too_deep(monkeypatch):
    monkeypatch.setattr(object_graph, "MAX_DEPTH", 3)
    chain = [{"x": number + 1} for number in range(3)]
    assert len(list(graph(*chain, {}).walk())) == 4
    with pytest.raises(FormatError, match="expected objects at most 3 levels deep, got more"):
        list(graph(*chain, {"x": 4}, {}).walk())


def test_what_a_checkpoint_stores():
    def attribute(name, full_name, key):
        return field(2, field(1, name) + field(2, full_name) + field(3, key))

    node = attribute("OTHER", "o", "k/o") + attribute("VARIABLE_VALUE", "bn/gamma", "k/v") + attribute("VARIABLE_VALUE", "second", "k/w")
    found = graph({}, node, kind=CheckpointGraph)
    assert [found.is_variable(number) for number in (0, 1)] == [False, True]
    assert [found.variable_name(number) for number in (0, 1)] == ["", "bn/gamma"]
    assert found.stored(1) == KeptValue("bn/gamma", "k/v")
    assert found.stored(1, "OTHER") == KeptValue("o", "k/o")
    assert found.stored(1, "NONE") is None


def saved(*nodes, more=b""):
    return graph(*nodes, kind=SavedGraph, more=more)


def layer(kind, **children):
    return b"".join(child(name, number) for name, number in children.items()) + field(4, field(1, kind))


def test_what_a_saved_graph_says():
    functions = field(2, field(1, "f") + field(2, field(2, 1) + field(2, 2) + field(2, 0))) + field(2, field(1, "g") + field(2, b""))
    found = saved({"v": 1}, field(7, field(6, "bn/gamma")), layer("_tf_keras_layer"), more=functions)
    assert found.bound_inputs() == {"f": [1, 2, 0], "g": []}
    assert [found.is_variable(number) for number in range(3)] == [False, True, False]
    assert [found.variable_name(number) for number in range(3)] == ["", "bn/gamma", ""]
    assert [found.identifier(number) for number in range(3)] == ["", "", "_tf_keras_layer"]
    for wrong in (3, -1):
        with pytest.raises(FormatError, match="the function f is bound to a node that does not exist"):
            saved({}, {}, {}, more=field(2, field(1, "f") + field(2, field(2, wrong)))).bound_inputs()


MODEL = (layer("_tf_keras_model", **{"layer-0": 1, "a.b": 2}), layer("_tf_keras_layer"), layer("_tf_keras_layer"), {})


def entry(number, way, kind, text="{}"):
    return field(1, field(2, number) + field(3, way) + field(4, kind) + field(5, text))


WHOLE = [entry(0, "root", "_tf_keras_model", "m"), entry(1, "root.layer-0", "_tf_keras_layer", "l"),
         entry(2, "root.a.b", "_tf_keras_layer", "k")]


@pytest.mark.parametrize(("entries", "found"), [
    ([], {}), (WHOLE, {0: b"m", 1: b"l", 2: b"k"}), ([*WHOLE[:2], entry(2, "", "", "k")], {0: b"m", 1: b"l", 2: b"k"}),
    ([*WHOLE, entry(3, "", "", "o")], {0: b"m", 1: b"l", 2: b"k", 3: b"o"}), (WHOLE[:2], "node 2(?m:$)"),
    ([*WHOLE, WHOLE[1]], "node 1(?m:$)"), ([*WHOLE, entry(4, "", "")], "node 4(?m:$)"), ([*WHOLE, entry(-1, "", "")], "node -1(?m:$)"),
    ([WHOLE[0], entry(2, "root.layer-0", "_tf_keras_layer"), WHOLE[1]], "node 2, 'root.layer-0'"),
    ([WHOLE[0], entry(1, "root.layer-0", "_tf_keras_model"), WHOLE[2]], "node 1, 'root.layer-0'"),
    ([WHOLE[0], WHOLE[1], entry(2, "root.a", "_tf_keras_layer")], "node 2, 'root.a'")])
def test_metadata_that_the_objects_bear_out_or_not(entries, found):
    data = b"".join(entries)
    if isinstance(found, dict):
        assert read_metadata(data, "there", saved(*MODEL)) == found
        return
    with pytest.raises(FormatError, match=f"it and the object graph of saved_model.pb disagree about {found}") as caught:
        read_metadata(data, "there", saved(*MODEL))
    assert caught.value.where == "there"

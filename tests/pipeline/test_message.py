"""What one process sends to another: everything arrives, and nothing that is no message is taken for one."""

from __future__ import annotations

import dataclasses

import numpy as np
import orjson
import pytest

from exporter.batchnorm.bundle import Origin, ReadBack
from exporter.batchnorm.kernels import Kernel
from exporter.batchnorm.places import Call, Neighbor
from exporter.batchnorm.stored import Statistic, Stored
from exporter.errors import ExporterError, FormatError, LayerError, MissingExtra, UnresolvedError
from exporter.pipeline.message import LENGTHS, Reader, Writer
from exporter.sources.shared.found import Found, OwnClass, Remedy
from exporter.sources.shared.options import ReadOptions
from tests.make.layers import make_stored, mixed, same_layer

BROKEN = FormatError("broken")


def sent(answer):
    data = bytearray()
    writer = Writer(data.extend)
    (writer.error if isinstance(answer, ExporterError) else writer.answer)(answer)
    return bytes(data)


def received(data, each=lambda layers: None):
    reader = Reader(BROKEN, each)
    reader.feed(data)
    return reader.answer()


def everything():
    """Found with something in every field."""
    near = Neighbor(path="conv", class_name="Conv2D", axis=3, use_bias=False, activation="relu", padding="same", is_shared=True)
    layers = [make_stored("a", seed=1), make_stored("b", seed=2, gamma=False, statistic=Statistic.DEVIATION, epsilon=None, axis=None),
              make_stored("c", seed=3, shape=(2, 3), axis=(1, 2), ndim=4, dtype="bfloat16", doubt="why", called_in_training=True,
                          calls=(Call((near,), ()), Call((), (near, near)))),
              make_stored("d", seed=4, dtype="float16", quantized="uint8", notes=("n1", "n2"), assumed=("axis",))]
    found = Found(Origin(file="m.h5", kind="keras-h5", keras_version="2.4.0", backend="theano"), ReadOptions())
    found.layers += layers
    found.skip("x", "no epsilon", Remedy.VERSION)
    found.skip("y", "no axis")
    found.leave_out("z", "may be one")
    found.warn("careful")
    found.own_classes += [OwnClass("Block", None), OwnClass("Net", 0.5)]
    found.has_config = True
    kernel = Kernel(path="conv", class_name="Conv2D", kind="Conv2D", channels=(3,), dtype="float32", compute_dtype="float16",
                    kernel=np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), bias=np.arange(4, dtype=np.float32))
    plain = Kernel(path="dense", class_name="Dense", kind="Dense", channels=(1,), dtype="float16", kernel=np.ones((2, 4), np.float16))
    found.kernels = {"a": kernel, "b": "it is shared", "c": plain}
    return found


def test_all_that_was_found_arrives():
    found, came = everything(), []
    got = received(sent(found), came.extend)
    assert [layer.path for layer in came] == ["a", "b", "c", "d"]
    for one, other in zip(found.layers, got.layers, strict=True):
        assert type(other) is Stored
        assert same_layer(one, other)
    for name in ("origin", "skipped", "warnings", "left_out", "remedies", "own_classes", "has_config"):
        assert getattr(got, name) == getattr(found, name), name
    assert list(map(type, got.skipped)) == list(map(type, found.skipped))
    assert got.kernels.keys() == found.kernels.keys()
    assert got.kernels["b"] == "it is shared"
    for path in "ac":
        for field in dataclasses.fields(Kernel):
            one, other = getattr(got.kernels[path], field.name), getattr(found.kernels[path], field.name)
            assert np.array_equal(one, other) if isinstance(other, np.ndarray) else one == other, field.name
    bare = everything()
    bare.kernels = None
    assert received(sent(bare)).kernels is None


def test_a_bundle_arrives_with_its_vectors():
    bundle = mixed()
    vectors = {layer.path: (np.ones((2, layer.channels), layer.moving_mean.dtype), np.zeros((2, layer.channels), layer.moving_mean.dtype))
               for layer in bundle}
    back = ReadBack(layers=bundle.layers, origin=bundle.origin, skipped=bundle.skipped, warnings=("w",), vectors=vectors)
    got = received(sent(back), pytest.fail)  # these layers are complete: there is nothing to work ahead on
    assert all(same_layer(a, b) for a, b in zip(bundle, got, strict=True))
    assert (got.origin, got.skipped, got.warnings) == (back.origin, back.skipped, back.warnings)
    for path, pair in vectors.items():
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(pair, got.vectors[path], strict=True))


def test_layers_that_were_sent_before_come_once_and_in_the_order_of_the_answer():
    found, data = everything(), bytearray()
    writer = Writer(data.extend)
    writer.layer(found.layers[2])
    writer.layer(make_stored("never used"))
    writer.layer(found.layers[0])
    before = len(data)
    writer.answer(found)
    assert data[before:].count(b'"path":["a"]') == 0
    assert [layer.path for layer in received(bytes(data)).layers] == ["a", "b", "c", "d"]


def run_of(*changes):
    """What arrives of the layers a, b, c, ..., which are alike but for these changes, and the number of frames."""
    layers = [make_stored(path, seed=number, **change) for number, (path, change) in enumerate(zip("abcdefgh", changes))]
    found = Found(Origin(file="m.h5", kind="keras-h5"), ReadOptions())
    found.layers += layers
    data = sent(found)
    assert all(map(same_layer, layers, received(data).layers))
    return received(data).layers, len(frames(data)) - 1


def test_layers_that_are_alike_come_together_and_with_their_own_names_calls_and_numbers():
    near = Neighbor(path="conv", class_name="Conv2D", axis=3, use_bias=False)
    layers, count = run_of({}, {"name": "other"}, {"calls": (Call((near,), (near, near)), Call((), ()))}, {"calls": (Call((), ()),)})
    assert count == 1
    assert [len(layer.calls) for layer in layers] == [0, 0, 2, 1]


@pytest.mark.parametrize("change", [
    {"epsilon": 0.5}, {"epsilon": -0.0}, {"momentum": 0.0}, {"gamma": False}, {"beta": False}, {"shape": (5,)}, {"dtype": "float16"},
    {"axis": (1,)}, {"ndim": 4}, {"class_name": "Other"}, {"statistic": Statistic.DEVIATION}, {"doubt": "why"}, {"notes": ("n",)},
    {"assumed": ("axis",)}, {"quantized": "uint8"}, {"called_in_training": True}, {"effective_epsilon": 1.0}])
def test_layers_that_differ_in_anything_else_come_apart(change):
    start = {"epsilon": 0.0, "momentum": -0.0}
    layers, count = run_of(start, start, start | change, start)
    assert count == 3
    assert [repr(layer.epsilon) for layer in layers] == ["0.0", "0.0", repr(layers[2].epsilon), "0.0"]


def test_a_run_ends_before_it_becomes_long():
    found = Found(Origin(file="m.h5", kind="keras-h5"), ReadOptions())
    few, data = [make_stored(f"bn_{number}", shape=(1 << 13,)) for number in range(5)], bytearray()
    writer, epsilon = Writer(data.extend), few[0].epsilon
    for number, layer in enumerate(few, 1):
        writer.layer(layer)
        assert len(frames(bytes(data))) == number // 2
    found.layers += [*few, *(make_stored(f"n_{number}", epsilon=epsilon) for number in range(300))]
    assert [len(header["path"]) for header, _ in frames(sent(found))[:-1]] == [2, 2, 1, 128, 128, 44]


@pytest.mark.parametrize("error", [
    FormatError("what", where="w", hint="h"), ExporterError("plain"), LayerError("l", where="bn"), MissingExtra("numba", "numba", "speed"),
    UnresolvedError([("a", "no epsilon"), ("b", "no axis")], hint="h")])
def test_errors_arrive_as_they_are(error):
    with pytest.raises(type(error)) as caught:
        received(sent(error))
    assert type(caught.value) is type(error)
    assert (str(caught.value), caught.value.hint, caught.value.where) == (str(error), error.hint, error.where)
    assert list(getattr(caught.value, "layers", ())) == list(getattr(error, "layers", ()))


def test_the_words_of_an_error_are_printable_and_not_endless():
    with pytest.raises(FormatError) as caught:
        received(sent(FormatError("a\x1b[2Jb" + "x" * 5000)))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("step", [1, 7, 16, 1000])
def test_it_may_come_in_pieces(step):
    data = sent(everything())[:]
    reader = Reader(BROKEN)
    for at in range(0, len(data), step):
        assert not reader.is_complete
        reader.feed(data[at:at + step])
    assert reader.is_complete
    assert len(reader.answer().layers) == 4
    with pytest.raises(FormatError, match="broken"):
        Reader(BROKEN).answer()


def frames(data):
    """[(header, data)] of a message."""
    found, at = [], 0
    while at < len(data):
        header, size = LENGTHS.unpack_from(data, at)
        at += LENGTHS.size
        assert (at + header) % 8 == 0
        found.append((orjson.loads(data[at:at + header]), data[at + header:at + header + size]))
        at += header + size
    return found


def joined(parts):
    out = b""
    for header, data in parts:
        text = orjson.dumps(header)
        out += LENGTHS.pack(len(text), len(data)) + text + data
    return out


def changed(number, drop=(), data=None, **fields):
    """A message of which one frame is changed."""
    parts = frames(sent(everything()))
    header = {key: value for key, value in parts[number][0].items() if key not in drop} | fields
    parts[number] = (header, parts[number][1] if data is None else data)
    return joined(parts)


def test_the_message_put_together_again_is_one():
    assert len(received(changed(0)).layers) == 4


def layer_of_a_bundle():
    bundle = mixed()
    return frames(sent(ReadBack(layers=bundle.layers, origin=bundle.origin)))[0]


@pytest.mark.parametrize("data", [
    changed(-1, vectors={}), joined([layer_of_a_bundle(), (frames(sent(everything()))[-1][0] | {"order": [0]}, b"")]),
    changed(0, drop=["path"]), changed(0, path=[3]), changed(0, path=None), changed(0, path=[]), changed(0, path=["a", "b"]),
    changed(0, name=[None]), changed(0, name=["a", "b"]), changed(0, calls=[[], []]), changed(0, epsilon="0.1"), changed(0, shape=[2.0]),
    changed(0, shape=["4"]), changed(0, shape=[True]), changed(0, axis=[None]), changed(0, ndim="4"), changed(0, dtype="int8"),
    changed(0, present=["gamma"]), changed(0, present=["gamma", "beta", "moving_mean"]), changed(0, present=3), changed(0, data=b""),
    *(changed(0, present=["gamma", "beta", name], data=bytes(48)) for name in ("moving_mean", "moving_variance")),
    changed(0, data=b"x" * 63), changed(0, data=b"x" * 65), changed(0, shape=[1 << 62, 1 << 62]),
    changed(0, shape=[1 << 63]), changed(0, shape=[0, 1 << 63]), changed(0, shape=[-4]),
    changed(0, shape=[-1]),
    changed(0, statistic="odd"), changed(0, called_in_training="no"), changed(0, calls=[[{}]]), changed(0, calls=[[[[]]]]),
    changed(0, new_field=1),
    changed(0, quantized=3), changed(0, doubt=3), changed(0, notes=[3]), changed(0, assumed=[None]), changed(0, notes=None),
    *(changed(0, calls=[[[[list(({"path": "a", "class_name": "Conv2D", "axis": 3, "use_bias": False, "activation": None, "padding": None,
                                  "is_shared": False} | wrong).values())], []]]])
      for wrong in ({"path": 3}, {"class_name": None}, {"axis": True}, {"use_bias": 1}, {"activation": 3}, {"padding": 3},
                    {"is_shared": None}, {"more": 1})),
    changed(-1, order=[-1]), changed(-1, order=[True]), changed(-1, order=[4]), changed(-1, order="0"), changed(-1, origin={"file": "x"}),
    changed(-1, skipped=[["a"]]), changed(-1, remedies={"x": "odd"}), changed(-1, own_classes=[["a", "b"]]), changed(-1, drop=["warnings"]),
    changed(-1, data=b"more"), changed(4, kind=3), changed(4, channels=["3"]), changed(4, compute_dtype=3),
    changed(4, shapes=[[1, 2, 2, 4]]), changed(4, shapes=[]), changed(-1, vectors={"nosuch": [1, 4]}), joined([([], b"")]),
    joined([({}, b"")]), joined([*frames(sent(everything())), frames(sent(everything()))[0]]),
    joined([*frames(sent(FormatError("why"))), frames(sent(everything()))[0]]), joined(frames(sent(everything()))[-1:] * 2),
    LENGTHS.pack(4, 0) + b"null", LENGTHS.pack(1, 0) + b"{"])
def test_what_is_no_message_is_none(data):
    with pytest.raises((FormatError, LayerError)) as caught:
        received(data)
    assert "broken" in str(caught.value)


def test_what_follows_the_end_is_no_message():
    data = sent(everything())
    reader = Reader(BROKEN)
    reader.feed(data + b"x")
    assert not reader.is_complete
    with pytest.raises(FormatError, match="broken"):
        reader.answer()
    reader = Reader(BROKEN)
    reader.feed(data[:-1])
    assert not reader.is_complete
    with pytest.raises(FormatError, match="broken"):
        reader.answer()


def test_an_error_of_a_kind_that_nobody_knows_is_one_of_ours():
    text = {"error": "OSError", "layers": [], "what": "w", "where": "", "hint": ""}
    with pytest.raises(ExporterError) as caught:
        received(joined([(text, b"")]))
    assert type(caught.value) is ExporterError

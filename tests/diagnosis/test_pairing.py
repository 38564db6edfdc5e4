"""Which layers belong together: each way by itself, and where none is sure."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import exporter
from exporter.diagnosis.pairing import CONTENT, ORDER, PATH, TOLD, natural, pair
from exporter.diagnosis.ports.port import Port, of_layer
from tests.make.layers import as_stored, make_bundle, make_layer


def port(*layers):
    return Port(name="p", kind="k", layers=tuple(map(of_layer, layers)))


def paired(mine, theirs, told=()):
    """{path of mine: (path of theirs, how)}"""
    found = pair([of_layer(layer) for layer in mine], port(*theirs), told)
    return {mine[one.mine].path: (theirs[one.theirs].path, one.how) for one in found.pairs}


def named(*paths, seed=0, shape=(4,)):
    return [make_layer(path, seed=seed + number, shape=shape) for number, path in enumerate(paths)]


def trained(layers, *paths):
    """Layers whose arrays are all others, under other paths."""
    paths = paths or [layer.path for layer in layers]
    return [layer.replace(path=path, gamma=layer.gamma * 3 + 1, beta=layer.beta + 2, moving_mean=layer.moving_mean * 5,
                          moving_variance=layer.moving_variance * 7) for layer, path in zip(layers, paths, strict=True)]


@pytest.mark.parametrize(("mine", "theirs", "wanted"), [
    (["enc/a", "dec/a"], ["x.dec.a", "x.enc.a"], {"enc/a": "x.enc.a", "dec/a": "x.dec.a"}),  # mine are ends of theirs
    (["x/enc/a", "x/dec/a"], ["dec.a", "enc.a"], {"x/enc/a": "enc.a", "x/dec/a": "dec.a"}),  # theirs are ends of mine
    (["x/y/a", "y/b"], ["y/a", "a", "y.b"], {"x/y/a": "y/a", "y/b": "y.b"}),  # the longest end
    (["module/a"], ["params/state_dict/a"], {"module/a": "params/state_dict/a"}),  # wrappers say nothing
    (["x/y/a", "x/y/b"], ["b", "a"], {"x/y/a": "a", "x/y/b": "b"}),  # the longest end that is there
    (["enc//a", "/b"], ["enc.a", "b/"], {"enc//a": "enc.a", "/b": "b/"}),  # an empty part is none
    (["model"], ["module"], {}), (["a"], ["b"], {})])
def test_paths_that_are_ends_of_each_other(mine, theirs, wanted):
    layers = named(*mine)
    others = [make_layer(path, seed=50 + number, shape=(4,)) for number, path in enumerate(theirs)]
    found = paired(layers, others)
    assert {path: other for path, (other, how) in found.items() if how == PATH} == wanted


def test_an_end_that_two_have_says_nothing():
    layers = named("bn_a")
    found = paired(layers, trained(named("x.bn_a", "y.bn_a")))
    assert {how for _, how in found.values()} <= {ORDER}
    found = paired(named("x/bn_a", "y/bn_a"), trained(named("bn_a")))
    assert {how for _, how in found.values()} <= {ORDER}


@pytest.mark.parametrize("name", ["batch_normalization", "BatchNorm", "batchnorm2d", "sync_batch_norm", "batch_norm_v1", "bn"])
def test_names_that_a_framework_counts(name):
    """Where the two count differently, equal names are not the same layer: the content is."""
    mine = named(f"{name}_1", f"{name}_2")
    theirs = [mine[0].replace(path=f"{name}_2"), mine[1].replace(path=f"{name}_3")]
    found = paired(mine, theirs)
    if name == "bn":  # a name of a person's own
        assert found[f"{name}_2"] == (f"{name}_2", PATH)
    else:
        assert found == {f"{name}_1": (f"{name}_2", CONTENT), f"{name}_2": (f"{name}_3", CONTENT)}


def test_counted_names_are_paths_where_lengths_leave_no_order():
    """Trained further, counted otherwise, and of other lengths: the names are all there is."""
    mine = [make_layer("batch_norm_1", shape=(4,), seed=1), make_layer("batch_norm_2", shape=(5,), seed=2)]
    theirs = trained([mine[1].replace(path="x"), mine[0].replace(path="y"), make_layer("z", shape=(6,), seed=3)],
                     "batch_norm_2", "batch_norm_1", "batch_norm_3")
    assert paired(mine, theirs) == {"batch_norm_1": ("batch_norm_1", PATH), "batch_norm_2": ("batch_norm_2", PATH)}


def test_content_needs_half_of_the_telling_arrays():
    a, b = named("a", "b")
    for equal, how in ((4, CONTENT), (3, CONTENT), (2, CONTENT), (1, ORDER), (0, ORDER)):
        names = list(a.parameters())
        theirs = a.replace(path="q", **{name: a.parameters()[name] * 3 + np.float32(0.5) for name in names[equal:]})
        assert paired([a, b], [theirs, *trained([b], "r")]) == {"a": ("q", how), "b": ("r", ORDER)}, equal


def test_arrays_that_are_constant_tell_nothing():
    plain = [make_layer(path, seed=seed).replace(gamma=np.ones(4, np.float32), beta=np.zeros(4, np.float32),
                                                 moving_mean=np.zeros(4, np.float32)) for seed, path in enumerate("ab")]
    theirs = [plain[1].replace(path="q"), plain[0].replace(path="r")]
    assert paired(plain, theirs) == {"a": ("r", CONTENT), "b": ("q", CONTENT)}
    other = plain[0].replace(path="q", moving_variance=plain[0].moving_variance * 3)
    assert paired(plain[:1], [other]) == {"a": ("q", ORDER)}, "although three of four arrays are equal"


def test_content_that_two_layers_have_is_not_decided_by():
    a, b = named("a", "b")
    twin = a.replace(path="b")
    found = paired([a, twin], [a.replace(path="q"), b.replace(path="r")])
    assert CONTENT not in {how for _, how in found.values()}
    found = paired([a, b], [a.replace(path="q"), a.replace(path="r")])
    assert found == {"a": ("q", ORDER), "b": ("r", ORDER)}, "two of theirs want one of mine"
    better = a.replace(path="q", beta=b.beta)
    assert paired([a, b], [better, b.replace(path="r")])["a"] == ("q", CONTENT)


def test_content_is_seen_after_rounding():
    a, b = named("a", "b")
    half = [layer.replace(path=path, dtype="float16", **{name: values.astype(np.float16) for name, values in layer.parameters().items()})
            for layer, path in ((b, "q"), (a, "r"))]
    assert paired([a, b], half) == {"a": ("r", CONTENT), "b": ("q", CONTENT)}
    assert paired(half, [a, b]) == {"q": ("b", CONTENT), "r": ("a", CONTENT)}


def test_the_rest_goes_by_order_where_as_many_of_each_length_are_left():
    short, long = named("a", "b", "c"), named("d", "e", seed=20, shape=(7,))
    theirs = trained([short[0], long[0], short[1], short[2]], "p", "q", "r", "s")
    assert paired([*short, *long], theirs) == {"a": ("p", ORDER), "b": ("r", ORDER), "c": ("s", ORDER)}
    assert paired(short, trained(named("x", "y", seed=9), "p", "q")) == {}


def test_an_order_by_name_is_counted_up():
    """A form that sorts its names has n_10 before n_2; one that does not has the model's order."""
    mine = named(*(f"m{number}" for number in range(12)))
    names = sorted(f"n_{number}" for number in range(12))
    assert [other for other, _ in paired(mine, trained(mine, *names)).values()] == [f"n_{number}" for number in range(12)]
    own = ["n_3", "n_1", "n_2", *(f"n_{number}" for number in range(4, 13))]
    assert [other for other, _ in paired(mine, trained(mine, *own)).values()] == own
    assert sorted(["a10", "a9b2", "a9b10", "a", "10", "9"], key=natural) == ["9", "10", "a", "a9b2", "a9b10", "a10"]


@pytest.mark.parametrize(("told", "wanted"), [
    ([("a", "q")], {"a": ("q", TOLD), "b": ("r", ORDER)}), ([("*", "*2")], None), ([("a", "q"), ("a", "r")], None),
    ([("a", "r"), ("b", "q")], {"a": ("r", TOLD), "b": ("q", TOLD)}), ([("a", "q"), ("b", "q")], None), ([("?", "q")], None),
    ([("a*", "q")], {"a": ("q", TOLD), "b": ("r", ORDER)}), ([("a*", "q*")], {"a": ("q", TOLD), "b": ("r", ORDER)}),
    ([("a*", "*q*")], None)])
def test_pairs_that_are_told(told, wanted):
    mine = named("a", "b")
    theirs = trained(mine, "q", "r")
    if wanted is None:
        with pytest.raises(exporter.UsageError, match="--map"):
            paired(mine, theirs, told)
    else:
        assert paired(mine, theirs, told) == wanted


def test_pairs_are_in_the_order_of_the_bundle():
    mine = named("a", "b", "c")
    found = pair([of_layer(layer) for layer in mine], port(*trained(mine[::-1])), [("c", "c")])
    assert [one.mine for one in found.pairs] == [0, 1, 2]
    assert (found.left, found.right) == ({}, {})


def test_arrays_without_a_place_of_their_own_are_not_confused(recwarn):
    """A layer in another form may lack arrays; what is left has to be half of what tells."""
    a, b = named("a", "b")
    less = as_stored(a, path="q", gamma=None, beta=None)
    assert paired([a, b], [less, *trained([b], "r")])["a"] == ("q", CONTENT)
    assert not recwarn


def test_an_equal_path_is_found_beside_one_of_the_same_parts():
    other = exporter.compare(make_bundle(make_layer("a/b")), make_bundle(make_layer("a.b", seed=1), make_layer("a/b", seed=2)))
    assert [(pair.other, pair.how) for pair in other.pairs] == [("a/b", "by path")]


def test_a_layer_without_a_name_is_paired_by_what_it_holds():
    layers = named("a", "batch_normalization_3")
    nameless = [dataclasses.replace(of_layer(layer), path="") for layer in (layers[1], *trained(layers[:1]))]
    found = pair([of_layer(layer) for layer in layers], Port(name="p", kind="k", layers=tuple(nameless)))
    assert [(one.mine, one.theirs, one.how) for one in found.pairs] == [(0, 1, ORDER), (1, 0, CONTENT)]


def test_layers_of_one_channel_are_known_by_what_they_hold():
    layers = named("a", "b", shape=(1,))
    others = [layer.replace(path=path) for layer, path in zip(reversed(layers), "xy", strict=True)]
    assert paired(layers, others) == {"a": ("y", CONTENT), "b": ("x", CONTENT)}


def test_what_is_the_same_in_every_channel_tells_nothing():
    alike = {"beta": np.full(4, 0.5, np.float32), "moving_mean": np.full(4, 2, np.float32)}
    layers = [layer.replace(**alike) for layer in named("a", "b")]
    others = trained(layers, "x", "y")
    others = [other.replace(moving_variance=layer.moving_variance, **alike) for other, layer in zip(others, reversed(layers), strict=True)]
    assert paired(layers, others) == {"a": ("y", CONTENT), "b": ("x", CONTENT)}


def test_half_of_the_arrays_have_to_be_the_same():
    layers = [layer.replace(gamma=None) for layer in named("a", "b")]
    others = trained([layer.replace(gamma=layer.beta) for layer in layers], "x", "y")
    one = [other.replace(gamma=None, moving_variance=layer.moving_variance) for other, layer in zip(others, reversed(layers), strict=True)]
    assert paired(layers, one) == {"a": ("x", ORDER), "b": ("y", ORDER)}
    two = [other.replace(moving_mean=layer.moving_mean) for other, layer in zip(one, reversed(layers), strict=True)]
    assert paired(layers, two) == {"a": ("y", CONTENT), "b": ("x", CONTENT)}

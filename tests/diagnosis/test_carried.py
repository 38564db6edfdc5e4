"""What became of the arrays of a layer, one by one and together: which changes are one mistake, and which are several."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import exporter
from exporter.batchnorm.dtypes import round_to
from exporter.diagnosis.carried import carried
from exporter.diagnosis.origins import Index
from exporter.diagnosis.ports.port import of_layer
from tests.make.layers import as_stored, make_bundle, make_layer

MINE = make_layer("bn", seed=1, shape=(6,)).replace(moving_variance=np.float32([0.3, 2, 1.7, 0.5, 0.9, 1e-3]))
HEAD, TAIL = make_layer("head", seed=2, shape=(6,)), make_layer("tail", seed=3, shape=(6,))
G, B, M, V = (values.astype(np.float64) for values in MINE.parameters().values())
ROOT = np.sqrt(V + MINE.epsilon)
ZEROS, ONES = np.zeros(6), np.ones(6)
STATISTICS = ("moving_mean", "moving_variance")


def found(mine=MINE, lacking=(), **arrays):
    """{name: (code, words)} of the arrays that are not the layer's, where the other form has these arrays."""
    theirs = as_stored(mine, **{name: np.asarray(values, np.float32) for name, values in arrays.items()}, **dict.fromkeys(lacking))
    index = Index([of_layer(mine), of_layer(HEAD), of_layer(TAIL)], "float32")
    return {one.name: (one.code, one.words) for one in carried(of_layer(mine), of_layer(theirs), index) if not one.right}


def codes(mine=MINE, lacking=(), **arrays):
    return {name: code for name, (code, _) in found(mine, lacking, **arrays).items()}


def test_an_array_that_is_left_out_is_right_where_its_initial_values_are():
    plain = MINE.replace(gamma=np.ones(6, np.float32), beta=np.zeros(6, np.float32))
    assert found(plain, lacking=["gamma", "beta"]) == {}
    assert found(lacking=["gamma", "beta"]) == {"gamma": ("BN131", "left out"), "beta": ("BN132", "left out")}
    index = Index([of_layer(plain)], "float32")
    alone = carried(of_layer(plain), of_layer(as_stored(plain, moving_mean=None, moving_variance=None)), index)
    assert {one.name: (one.right, one.code, one.words) for one in alone if one.name in STATISTICS} == dict.fromkeys(
        STATISTICS, (False, "", "left out")), "statistics have no value that they have if they are left out"


@pytest.mark.parametrize(("own", "other"), [([0, 0, 0, 0], [0, 0, -0.0, 0]), ([0, 1, 2, 3], [-0.0, 1, 2, 3])])
def test_the_sign_of_a_zero_is_told_as_that(own, other):
    """It is neither an initial value nor a number that lost digits."""
    layer = make_layer().replace(beta=np.float32(own))
    theirs = layer.replace(beta=np.float32(other))
    (one,) = exporter.compare(make_bundle(layer), make_bundle(theirs)).differences
    assert (one.what, one.code, one.says) == ("beta", "", "equal but for the sign of a zero")
    half = theirs.replace(dtype="float16", **{name: round_to(values, "float16") for name, values in theirs.parameters().items()})
    assert exporter.compare(make_bundle(layer), make_bundle(half)).differences == ()
    changed = theirs.replace(gamma=-layer.gamma)
    assert {one.what: one.says for one in exporter.compare(make_bundle(layer), make_bundle(changed)).differences} == {
        "beta": "equal but for the sign of a zero", "gamma": "the negative of gamma"}


def test_a_small_number_that_became_a_zero_of_the_other_sign_is_rounded():
    """Of several types in one form, the coarsest counts."""
    mine = dataclasses.replace(of_layer(MINE), dtype="float16", arrays={**of_layer(MINE).arrays, "beta": np.float32([1e-9, *B[1:]])})
    theirs = dataclasses.replace(mine, arrays={**mine.arrays, "beta": round_to(np.float32([-0.0, *B[1:]]), "float16")})
    (one,) = (one for one in carried(mine, theirs, Index([mine], "float16")) if one.name == "beta")
    assert (one.right, one.rounding, one.words) == (True, "float16", "")


def test_the_type_in_which_arrays_are_equal():
    index = Index([of_layer(MINE)], "float32")
    half = MINE.replace(dtype="float16", **{name: round_to(values, "float16") for name, values in MINE.parameters().items()})
    assert {one.rounding for one in carried(of_layer(MINE), of_layer(MINE), index)} == {""}
    assert {(one.right, one.rounding) for one in carried(of_layer(MINE), of_layer(half), index)} == {(True, "float16")}


@pytest.mark.parametrize("rounded", ["gamma", "beta", "moving_mean", "moving_variance"])
def test_layers_are_not_called_equal_bit_for_bit_where_one_array_is_rounded(rounded):
    exact = MINE.replace(**{name: round_to(values, "float16").astype(np.float32) for name, values in MINE.parameters().items()})
    mine = exact.replace(**{rounded: MINE.parameters()[rounded]})
    half = mine.replace(dtype="float16", **{name: round_to(values, "float16") for name, values in mine.parameters().items()})
    (pair,) = exporter.compare(make_bundle(mine), make_bundle(half)).pairs
    assert (pair.differences, pair.rounding) == ((), "float16")


# initial values

INITIAL = {"gamma": ONES, "beta": ZEROS, "moving_mean": ZEROS, "moving_variance": ONES}
EACH = {"gamma": "BN131", "beta": "BN132", "moving_mean": "BN125", "moving_variance": "BN126"}


@pytest.mark.parametrize(("names", "wanted"), [
    (list(INITIAL), dict.fromkeys(INITIAL, "BN127")), (STATISTICS, dict.fromkeys(STATISTICS, "BN123")),
    (["gamma", *STATISTICS], {"gamma": "BN131", **dict.fromkeys(STATISTICS, "BN123")}),
    (["gamma", "beta"], {"gamma": "BN131", "beta": "BN132"}), (["moving_mean"], {"moving_mean": "BN125"}),
    (["beta", "moving_variance"], {"beta": "BN132", "moving_variance": "BN126"})])
def test_initial_values_in_several_arrays(names, wanted):
    assert codes(**{name: INITIAL[name] for name in names}) == wanted


def test_initial_values_beside_another_mistake():
    assert codes(moving_mean=ZEROS, moving_variance=ONES, gamma=-G) == {"gamma": "", "moving_mean": "BN125", "moving_variance": "BN126"}
    assert codes(moving_mean=ZEROS, moving_variance=ONES, gamma=B, beta=G) == {
        "gamma": "BN133", "beta": "BN133", **dict.fromkeys(STATISTICS, "BN123")}
    assert codes(moving_mean=ZEROS, moving_variance=ZEROS) == dict.fromkeys(STATISTICS, "BN123"), "torch's empty buffers"


def test_of_statistics_that_were_never_loaded_one_may_be_right_by_chance():
    layer = MINE.replace(moving_mean=np.zeros(6, np.float32))
    assert codes(layer, moving_variance=ONES) == {"moving_variance": "BN123"}
    unit = MINE.replace(moving_variance=np.ones(6, np.float32))
    assert codes(unit, moving_mean=ZEROS) == {"moving_mean": "BN123"}
    assert codes(unit, moving_mean=ZEROS, gamma=ONES, beta=ZEROS) == dict.fromkeys(("gamma", "beta", "moving_mean"), "BN127")


def test_a_form_without_gamma_has_lost_its_statistics_only():
    bare = MINE.replace(gamma=None)
    assert codes(bare, beta=ZEROS, moving_mean=ZEROS, moving_variance=ONES) == {"beta": "BN132", **dict.fromkeys(STATISTICS, "BN123")}


# the folded form

def test_a_folded_form_has_the_scale_of_the_folded_form():
    folded = {"moving_mean": ZEROS, "moving_variance": ONES}
    inert = {"moving_mean": "BN154", "moving_variance": "BN154"}
    assert codes(gamma=G / ROOT, beta=B - G * M / ROOT, **folded) == {"gamma": "BN154", "beta": "BN154", **inert}
    assert found(gamma=G / ROOT, **folded)["moving_mean"] == ("BN154", "the 0 that goes with it, where epsilon has to be 0")
    for gamma, code in ((-G, ""), (G / np.sqrt(V), "BN102"), (G * ROOT, "BN114"), (ONES, "BN131")):
        said = codes(gamma=gamma, beta=B - G * M / ROOT, moving_mean=ZEROS)
        assert said == {"gamma": code, "beta": "BN154", "moving_mean": "BN125"}, "another scale"
    assert codes(gamma=G / ROOT, beta=B + G * M / ROOT, **folded) == {
        "gamma": "BN154", "beta": "BN155", "moving_mean": "BN125", "moving_variance": "BN126"}, "another offset"
    assert codes(gamma=G / ROOT, beta=B - G * M / ROOT) == {"gamma": "BN154", "beta": "BN154"}


def test_a_folded_form_is_none_where_a_statistic_is_something_else():
    assert codes(gamma=G / ROOT, moving_mean=-M, moving_variance=ONES) == {
        "gamma": "BN154", "moving_mean": "BN125", "moving_variance": "BN126"}
    assert found(gamma=G / ROOT, moving_mean=-M, moving_variance=ONES)["moving_variance"][1].endswith("never loaded")


# arrays in each other's places

def test_two_arrays_are_swapped_where_each_is_the_other():
    assert codes(gamma=B, beta=G) == {"gamma": "BN133", "beta": "BN133"}
    assert codes(moving_mean=V, moving_variance=M) == dict.fromkeys(STATISTICS, "BN124")
    assert codes(gamma=B, beta=G, moving_mean=V, moving_variance=M) == {
        "gamma": "BN133", "beta": "BN133", **dict.fromkeys(STATISTICS, "BN124")}
    assert codes(gamma=B) == {"gamma": "BN138"}, "in two places"
    assert codes(gamma=B, beta=-B) == {"gamma": "BN138", "beta": "BN140"}
    assert codes(gamma=B, beta=G, moving_mean=-M) == {"gamma": "BN133", "beta": "BN133", "moving_mean": "BN125"}


def test_arrays_are_shifted_to_the_front_or_in_another_order():
    assert codes(gamma=B, beta=M, moving_mean=V, moving_variance=ONES) == dict.fromkeys(INITIAL, "BN137")
    assert codes(gamma=M, beta=V) == {"gamma": "BN137", "beta": "BN137"}
    assert codes(beta=G, moving_mean=B, moving_variance=M) == dict.fromkeys(("beta", *STATISTICS), "BN138"), "to the back"
    assert codes(gamma=M, beta=G) == {"gamma": "BN138", "beta": "BN138"}
    assert codes(gamma=B, beta=M, moving_mean=-M) == {"gamma": "BN138", "beta": "BN138", "moving_mean": "BN125"}


def test_arrays_that_another_layer_has_too_are_the_layers_own():
    twin = MINE.replace(path="a twin")
    index = Index([of_layer(twin), of_layer(MINE)], "float32")
    theirs = as_stored(MINE, gamma=MINE.beta, beta=MINE.moving_mean, moving_mean=MINE.moving_variance, moving_variance=np.ones(6, "f4"))
    assert {one.name: (one.code, one.words) for one in carried(of_layer(MINE), of_layer(theirs), index)} == {
        "gamma": ("BN137", "the layer's beta"), "beta": ("BN137", "the layer's moving_mean"),
        "moving_mean": ("BN137", "the layer's moving_variance"),
        "moving_variance": ("BN137", "the initial 1 in every channel: never loaded")}


# another layer

def test_another_layer_is_one_mistake_where_it_is_the_same_layer():
    head, tail = HEAD.parameters(), TAIL.parameters()
    for names in (list(head), STATISTICS, ["gamma"]):
        assert found(**{name: head[name] for name in names}) == dict.fromkeys(names, ("BN145", "as in the layer 'head'"))
    apart = found(gamma=head["gamma"], beta=tail["beta"])
    assert apart == {"gamma": ("BN145", "the gamma of 'head'"), "beta": ("BN145", "the beta of 'tail'")}
    crossed = found(gamma=head["gamma"], beta=head["moving_mean"])
    assert crossed == {"gamma": ("BN145", "the gamma of 'head'"), "beta": ("BN145", "the moving_mean of 'head'")}
    some = found(gamma=head["gamma"], beta=-B)
    assert some == {"gamma": ("BN145", "the gamma of 'head'"), "beta": ("BN140", "the negative of beta")}


# an order of channels

def test_an_order_is_one_mistake_where_all_arrays_have_it():
    turned = {name: values[::-1] for name, values in MINE.parameters().items()}
    words = "the layer's in another order of channels (reversed)"
    assert found(**turned) == dict.fromkeys(turned, ("BN143", words))
    mixed = found(gamma=G[::-1], beta=np.roll(B, 1))
    assert mixed["gamma"] == ("BN143", words)
    assert mixed["beta"][0] == "BN143"
    assert mixed["beta"][1] != words
    assert found(gamma=G[::-1], beta=-B) == {"gamma": ("BN143", words), "beta": ("BN140", "the negative of beta")}


def test_the_order_of_two_axes_is_seen_also_beside_another_mistake():
    layer = make_layer("bn", shape=(2, 3), axis=(1, 2), seed=4)
    turned = layer.beta.ravel().reshape((2, 3), order="F")
    assert found(layer, gamma=-layer.gamma, beta=turned) == {
        "gamma": ("", "the negative of gamma"),
        "beta": ("BN143", "the layer's in another order of channels (the parameters read in column-major order)")}


# lost digits

def test_rounding_is_one_mistake_where_all_arrays_have_it():
    half = {name: round_to(values, "float16") for name, values in MINE.parameters().items()}
    assert found(**half) == dict.fromkeys(half, ("BN161", "rounded to float16"))
    mixed = found(gamma=round_to(G, "float16"), beta=round_to(B, "bfloat16"))
    assert mixed == {"gamma": ("BN161", "rounded to float16"), "beta": ("BN162", "rounded to bfloat16")}
    printed = found(gamma=np.round(G, 3), beta=np.round(B, 4))
    assert {code for code, _ in printed.values()} == {"BN165"}
    assert found(gamma=round_to(G, "float16"), beta=-B)["gamma"] == ("BN161", "rounded to float16")


def test_the_rounding_that_all_arrays_have_is_the_one_that_is_said():
    """Half precision would explain the first of them as well."""
    layer = MINE.replace(gamma=np.float32([0.5, 1.25, 2, -0.75, 3, 1]) + np.float32(1e-5))
    assert codes(layer, gamma=np.round(layer.gamma.astype(float), 3)) == {"gamma": "BN161"}
    assert codes(layer, gamma=np.round(layer.gamma.astype(float), 3), beta=np.round(B, 3)) == {"gamma": "BN165", "beta": "BN165"}


def test_of_an_array_by_itself_the_plainest_is_said():
    assert found(moving_mean=M * 1.5 + 0.25)["moving_mean"] == ("", "")
    assert found(moving_mean=M * 1.5)["moving_mean"] == ("", "1.5 times the layer's in every channel")
    same = MINE.replace(beta=(-MINE.gamma))
    assert found(same, gamma=same.beta) == {"gamma": ("BN138", "the layer's beta")}, "also its negative"
    other = make_layer("bn", seed=1, shape=(6,)).replace(gamma=-HEAD.gamma)
    assert found(other, gamma=HEAD.gamma, beta=-other.beta)["gamma"] == ("", "the negative of gamma"), "also the gamma of 'head'"

"""What each array of another form is found to be: every form that is known, one that is nearly so, and none."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.batchnorm.dtypes import UNIT, round_to
from exporter.diagnosis.origins import Index, Sight, order_of, origins, sight, steady
from exporter.diagnosis.ports.port import of_layer
from exporter.diagnosis.wrong import affine_uint8, symmetric_int8
from tests.make.layers import as_stored, make_layer

MINE = make_layer("bn", seed=1, shape=(6,)).replace(moving_variance=np.float32([0.3, 2, 1.7, 0.5, 0.9, 1e-3]))
OTHER = make_layer("head", seed=2, shape=(6,))
G, BETA, M, V = (values.astype(np.float64) for values in MINE.parameters().values())
EPSILONS = ("epsilon", "0.0001", "1e-05", "1e-06", "1e-07", "1e-08", "1e-12", "1.001e-05")


def origins_of(name, values, mine=MINE):
    theirs = as_stored(mine, **{name: np.asarray(values, np.float32)})
    layers = [of_layer(mine), of_layer(OTHER)]
    return origins(sight(layers[0], of_layer(theirs)), name, "bn", Index(layers, "float32"))


def words(name, values):
    return {(one.code, one.words) for one in origins_of(name, values)}


@pytest.mark.parametrize("shown", EPSILONS)
def test_each_epsilon_that_people_add_to_a_variance(shown):
    e = MINE.epsilon if shown == "epsilon" else float(shown)
    said = words("moving_variance", np.sqrt(V + e))
    assert ("BN113", f"a standard deviation with epsilon in it, sqrt(moving_variance + {shown})") in said
    assert ("BN114", f"an inverse standard deviation with epsilon in it, 1 / sqrt(moving_variance + {shown})") in words(
        "moving_variance", 1 / np.sqrt(V + e))
    assert ("BN114", f"an inverse, 1 / (moving_variance + {shown})") in words("moving_variance", 1 / (V + e))
    if e > 1e-7:
        assert ("BN106", f"moving_variance with {shown} added already") in words("moving_variance", V + e)
        assert ("BN113", f"a standard deviation, sqrt(moving_variance) + {shown}") in words("moving_variance", np.sqrt(V) + e)


ROOT, SHIFT = np.sqrt(V + MINE.epsilon), "moving_mean / sqrt(moving_variance + epsilon)"
DERIVED = {
    "moving_variance": {("BN113", "a standard deviation, sqrt(moving_variance)"): np.sqrt(V), ("", "the negative of moving_variance"): -V,
                        ("BN114", "an inverse standard deviation, 1 / sqrt(moving_variance)"): 1 / np.sqrt(V),
                        ("BN112", "squared, moving_variance**2"): V * V, ("BN114", "an inverse, 1 / moving_variance"): 1 / V,
                        ("", "the logarithm of moving_variance"): np.log(V)},
    "moving_mean": {("BN125", "the negative of moving_mean"): -M, ("", "moving_mean / sqrt(moving_variance + epsilon)"): M / ROOT},
    "gamma": {("BN154", "the scale of the folded form, gamma / sqrt(moving_variance + epsilon)"): G / ROOT,
              ("BN102", "a scale folded without epsilon, gamma / sqrt(moving_variance)"): G / np.sqrt(V),
              ("BN114", "gamma * sqrt(moving_variance + epsilon)"): G * ROOT, ("BN135", "gamma - 1"): G - 1, ("BN135", "1 + gamma"): 1 + G,
              ("BN136", "the magnitude of gamma"): np.abs(G), ("BN136", "gamma where it is positive, else 0"): np.where(G > 0, G, 0),
              ("", "the negative of gamma"): -G},
    "beta": {("BN140", "the negative of beta"): -BETA,
             ("BN154", f"the offset of the folded form, beta - gamma * {SHIFT}"): BETA - G * M / ROOT,
             ("BN155", f"a wrong offset of the folded form, beta + gamma * {SHIFT}"): BETA + G * M / ROOT,
             ("BN155", f"a wrong offset of the folded form, beta - {SHIFT}"): BETA - M / ROOT,
             ("BN155", "a wrong offset of the folded form, beta - moving_mean"): BETA - M}}


@pytest.mark.parametrize(("name", "said"), [(name, said) for name, forms in DERIVED.items() for said in forms])
def test_what_is_computed_from_the_layers_arrays(name, said):
    assert said in words(name, DERIVED[name][said])
    off = DERIVED[name][said] * (1 + 40 * UNIT["float32"] * 8)
    assert said not in words(name, off), "but for rounding"


def test_a_computed_array_may_be_off_by_eight_units_of_roundoff():
    seen = Sight(mine={}, theirs={}, dtype="float32", epsilon=None)
    want, unit = np.array([1.0, -4.0]), UNIT["float32"] * np.array([1, 4])
    assert seen.close(want + 8 * unit, want)
    assert seen.close(want - 8 * unit, want)
    assert not seen.close(want + [0, 8.1] * unit, want)
    assert not seen.close(want - [0, 8.1] * unit, want)
    assert seen.close(want + [0, 8.1] * unit, want, np.array([1.0, 5.0])), "of a magnitude that is given"
    assert not seen.close(np.array([np.inf]), np.array([np.inf])), "what is infinite says nothing"


def test_a_layer_without_gamma_and_beta_has_a_folded_form_too():
    bare = MINE.replace(gamma=None, beta=None)
    seen = sight(of_layer(bare), of_layer(MINE.replace(gamma=(1 / ROOT).astype(np.float32), beta=(-M / ROOT).astype(np.float32))))
    for name in ("gamma", "beta"):
        assert "BN154" in {one.code for one in origins(seen, name, "bn", Index([of_layer(bare)], "float32"))}


def test_of_two_epsilons_that_fit_the_layers_own_is_said_first():
    layer = MINE.replace(epsilon=1e-7, moving_variance=np.float32([0.5, 0.51, 0.52, 0.53, 0.54, 0.55]))
    added = [one.words for one in origins_of("moving_variance", layer.moving_variance + np.float32(1e-7), layer) if one.code == "BN106"]
    assert added[0] == "moving_variance with epsilon added already"
    assert "moving_variance with 1e-08 added already" in added


def test_a_constant_is_no_array_of_another_layer():
    other = OTHER.replace(beta=np.full(6, 0.25, np.float32))
    other = other.replace(moving_mean=other.moving_mean / np.float32(100))
    for values, count in ((other.beta, 0), (other.gamma, 1), (other.moving_mean, 1)):
        seen = sight(of_layer(MINE), of_layer(as_stored(MINE, beta=values)))
        found = origins(seen, "beta", "bn", Index([of_layer(MINE), of_layer(other)], "float32"))
        assert [one.kind for one in found].count("layer") == count


def test_one_digit_is_no_print_out():
    """Zeros and ones would fit by chance."""
    assert not [one for one in origins_of("moving_mean", np.round(M)) if one.source == "print"]
    assert not [one for one in origins_of("moving_mean", [float(f"{value:.0e}") for value in M]) if one.source == "print"]


def test_a_channel_that_stands_in_two_places():
    twice = MINE.replace(**{name: values[[0, 0, 2, 3, 5, 4]] for name, values in MINE.parameters().items()})
    seen = sight(of_layer(MINE), of_layer(twice))
    assert order_of(seen, ["gamma", "beta", "moving_mean"], (6,)) == (
        "3 of 6 channels are elsewhere: 1 as 0, 4 as 5, 5 as 4; some channels are used twice")


@pytest.mark.parametrize(("mean", "gamma", "off", "is_found"), [
    (100, 0.1, 7 * 100 / 0.01, True), (100, 0.1, 9 * 100 / 0.01, False), (100, 3, 7 * 100 * 3 / 0.01, True), (0.01, 1, 9, False)])
def test_the_error_of_an_offset_grows_with_what_is_subtracted(mean, gamma, off, is_found):
    """off: units of roundoff. Here sqrt(moving_variance + epsilon) is 0.01."""
    layer = make_layer(shape=(2,), dtype="float64", epsilon=5e-5).replace(
        gamma=np.full(2, gamma), beta=np.array([0.0, 1e-6]), moving_mean=np.full(2, mean), moving_variance=np.full(2, 5e-5))
    got = layer.beta - layer.moving_mean / 0.01 + UNIT["float64"] * off
    seen = sight(of_layer(layer), of_layer(layer.replace(beta=got)))
    found = origins(seen, "beta", "bn", Index([of_layer(layer)], "float64"))
    assert any("beta - moving_mean / sqrt" in one.words for one in found) == is_found


def test_quotients_by_gamma():
    layer = MINE.replace(gamma=np.abs(MINE.gamma) + np.float32(0.25))
    g = layer.gamma.astype(float)
    assert ("BN139", "1 / gamma") in {(one.code, one.words) for one in origins_of("gamma", 1 / g, layer)}
    assert ("BN139", "beta / gamma") in {(one.code, one.words) for one in origins_of("beta", BETA / g, layer)}


@pytest.mark.parametrize("name", ["gamma", "beta", "moving_mean", "moving_variance"])
def test_what_any_array_may_be(name):
    own = MINE.parameters()[name].astype(float)
    for place, values in MINE.parameters().items():
        assert (("", f"the layer's {place}") in words(name, values)) == (place != name)
    for what, values in OTHER.parameters().items():
        assert ("BN145", f"the {what} of 'head'") in words(name, values)
    assert not [one for one in origins_of(name, own) if one.kind == "layer"], "its own layer is no other"
    initial = {"gamma": ("BN131", [1]), "beta": ("BN132", [0]), "moving_mean": ("BN125", [0]), "moving_variance": ("BN126", [1, 0])}[name]
    for value in (0, 1):
        said = (initial[0], f"the initial {value} in every channel: never loaded")
        assert (said in words(name, np.full(6, value))) == (value in initial[1])
        assert not [one for one in origins_of(name, np.full(6, value)) if one.kind in ("array", "layer")], "constants are anybody's"
    assert ("BN161", "rounded to float16") in words(name, round_to(own, "float16"))
    assert ("BN162", "rounded to bfloat16") in words(name, round_to(own, "bfloat16"))
    assert ("BN163", "quantized to symmetric int8") in words(name, symmetric_int8(own))
    assert ("BN163", "quantized to affine uint8") in words(name, affine_uint8(own))
    for digits in range(2, 6):
        assert ("BN165", f"rounded to {digits} digits after the point") in words(name, np.round(own, digits))
        assert ("BN165", f"rounded to {digits} significant digits") in words(name, [float(f"{value:.{digits}g}") for value in own])
    assert words(name, own * 1.01 + 0.003) == set(), "nothing that is known"


def test_without_an_epsilon_nothing_is_computed_with_it():
    theirs = of_layer(as_stored(MINE, gamma=(G / ROOT).astype(np.float32)))
    mine = of_layer(MINE.replace(epsilon=0.0))
    found = origins(sight(mine, theirs), "gamma", "bn", Index([mine], "float32"))
    assert [one.words for one in found] == []
    root = of_layer(as_stored(MINE, moving_variance=np.sqrt(V).astype(np.float32)))
    said = [one.words for one in origins(sight(mine, root), "moving_variance", "bn", Index([mine], "float32"))]
    assert said[0] == "a standard deviation, sqrt(moving_variance)"


@pytest.mark.parametrize(("factor", "step", "name", "said"), [
    (1.5, 0, "gamma", "1.5 times the layer's in every channel"), (-1, 0, "beta", "-1 times the layer's in every channel"),
    (32 / 31, 0, "moving_variance", "1.032258 times the layer's in every channel, as of an unbiased variance of 32 numbers"),
    (32 / 31, 0, "moving_mean", "1.032258 times the layer's in every channel"),
    (1.5, 0, "moving_variance", "1.5 times the layer's in every channel"),
    (10.05 / 9.05, 0, "moving_variance", "1.110497 times the layer's in every channel, as of an unbiased variance of 10 numbers"),
    (10.15 / 9.15, 0, "moving_variance", "1.10929 times the layer's in every channel"),
    (1.6, 0, "moving_variance", "1.6 times the layer's in every channel"),
    (1.45, 0, "moving_variance", "1.45 times the layer's in every channel"),
    (1, 0.25, "gamma", "the layer's and 0.25 in every channel"), (1, -2, "moving_mean", "the layer's and -2 in every channel"),
    (1.5, 0.25, "gamma", ""), (0, 0, "gamma", "0 times the layer's in every channel"), (1 + 2**-23, 0, "gamma", ""),
    (0.97, 0, "moving_variance", "0.97 times the layer's in every channel")])
def test_a_constant_factor_or_distance(factor, step, name, said):
    layer = MINE.replace(gamma=np.float32([1, 2, 3, -1, 0.5, 4]))
    own = layer.parameters()[name].astype(float)
    assert steady(sight(of_layer(layer), of_layer(as_stored(layer, **{name: (own * factor + step).astype(np.float32)}))), name) == said


@pytest.mark.parametrize(("spread", "is_steady"), [(0.9e-6, True), (1.1e-6, False)])
def test_how_much_a_constant_factor_or_distance_may_vary(spread, is_steady):
    """A millionth of the factor, or of the layer's largest number."""
    own = np.array([1.0, -2.0, 4.0])
    factor = 3 * np.array([1, 1 - spread / 2, 1 + spread / 2])
    distance = 0.5 + 4 * np.array([0, spread / 2, -spread / 2])
    for got, said in ((own * factor, "3 times the layer's in every channel"), (own + distance, "the layer's and 0.5 in every channel")):
        seen = Sight(mine={"gamma": own}, theirs={"gamma": got}, dtype="float32", epsilon=None)
        assert steady(seen, "gamma") == (said if is_steady else "")


def test_of_one_channel_no_factor_is_said():
    layer = make_layer("bn", shape=(1,))
    seen = sight(of_layer(layer), of_layer(as_stored(layer, beta=layer.beta * 3)))
    assert steady(seen, "beta") == ""
    layer = make_layer("bn", shape=(2,))
    seen = sight(of_layer(layer), of_layer(as_stored(layer, beta=layer.beta * 3)))
    assert steady(seen, "beta") == "3 times the layer's in every channel", "of two it is"
    zero = MINE.replace(beta=np.zeros(6, np.float32))
    seen = sight(of_layer(zero), of_layer(as_stored(zero, beta=np.full(6, 2, np.float32))))
    assert steady(seen, "beta") == "the layer's and 2 in every channel"
    assert steady(sight(of_layer(zero), of_layer(zero)), "beta") == ""


def test_the_order_of_channels_of_several_arrays():
    def order(permutation, *names, layer=MINE):
        moved = as_stored(layer, **{name: values[list(permutation)] for name, values in layer.parameters().items()})
        return order_of(sight(of_layer(layer), of_layer(moved)), names, (len(permutation),))

    assert order([5, 4, 3, 2, 1, 0], "gamma", "beta") == "reversed"
    assert order([1, 0, 2, 3, 5, 4], "gamma", "beta") == "4 of 6 channels are elsewhere: 0 as 1, 1 as 0, 4 as 5, 5 as 4"
    strange = as_stored(MINE, gamma=np.float32([9, *MINE.gamma[1:]]))
    assert order_of(sight(of_layer(MINE), of_layer(strange)), ["gamma"], (6,)) is None
    one = make_layer("bn", shape=(1,))
    assert order_of(sight(of_layer(one), of_layer(one)), ["gamma"], (1,)) is None


def test_equal_channels_are_used_once_each():
    twins = MINE.replace(gamma=np.float32([1, 1, 2, 2, 3, 3]))
    moved = as_stored(twins, gamma=np.float32([2, 2, 1, 1, 3, 3]))
    said = order_of(sight(of_layer(twins), of_layer(moved)), ["gamma"], (6,))
    assert said == "4 of 6 channels are elsewhere: 0 as 2, 1 as 3, 2 as 0, 3 as 1"


def test_a_folded_offset_is_known_in_spite_of_what_small_variances_magnify():
    """Rounding errors of the offset grow with gamma * moving_mean / sqrt(moving_variance + epsilon)."""
    small = MINE.replace(beta=np.zeros(6, np.float32), moving_variance=np.float32([1e-6, 3e-6, 2e-7, 5e-6, 9e-7, 1e-6]), epsilon=1e-7)
    root = np.sqrt(small.moving_variance + np.float32(1e-7))
    offset = -(small.gamma * (small.moving_mean / root))
    said = {one.code for one in origins_of("beta", offset, small)}
    assert "BN154" in said
    large = small.replace(moving_variance=small.moving_variance * np.float32(1e13))
    offset = -(large.gamma * (large.moving_mean / np.sqrt(large.moving_variance + np.float32(1e-7))))
    assert "BN154" in {one.code for one in origins_of("beta", offset, large)}
    assert "BN154" not in {one.code for one in origins_of("beta", offset + np.abs(large.moving_mean) * 2.0 ** -18, large)}


def test_the_error_of_an_offset_grows_with_beta_as_well():
    """beta and the step round each on its own, also where the two would cancel."""
    layer = MINE.replace(beta=np.float32([900, -800, 700, -600, 500, -400]), gamma=np.ones(6, np.float32), epsilon=1e-3,
                         moving_variance=np.ones(6, np.float32), moving_mean=np.float32([899, -799, 699, -599, 499, -399]))
    exact = layer.beta.astype(np.float64) - layer.moving_mean / np.sqrt(1.001)
    assert "BN154" in {one.code for one in origins_of("beta", (exact + np.abs(layer.beta) * 2.0 ** -24).astype(np.float32), layer)}

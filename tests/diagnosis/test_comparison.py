"""compare: how layers are paired, and which mistake a difference is."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import exporter
from exporter.batchnorm.dtypes import round_to
from exporter.diagnosis.comparison import Check
from exporter.diagnosis.wrong import affine_uint8
from tests.make.layers import as_stored, make_bundle, make_layer
from tests.make.ports import flax_state, torch_state

MINE = make_layer("bn", seed=1, shape=(6,)).replace(moving_variance=np.array([0.3, 2, 1.7, 0.5, 0.9, 1e-3], np.float32))
OTHER = make_layer("head", seed=2, shape=(6,))
G, B, M, V = (values.astype(np.float64) for values in MINE.parameters().values())
ROOT = np.sqrt(V + MINE.epsilon)


def judged(**arrays):
    """What is said of a port of two layers, the first with some arrays changed."""
    changed = as_stored(MINE, **{name: np.asarray(values, np.float32) for name, values in arrays.items()})
    return exporter.compare(make_bundle(MINE, OTHER), torch_state(changed, OTHER))


def codes(found):
    return {one.what: one.code for one in found.differences}


@pytest.mark.parametrize(("arrays", "code", "words"), [
    ({"gamma": B, "beta": G}, "BN133", "gamma (bn.weight) is the layer's beta; beta (bn.bias) is the layer's gamma"),
    ({"moving_mean": V, "moving_variance": M}, "BN124", "moving_mean (bn.running_mean) is the layer's moving_variance"),
    ({"moving_variance": np.sqrt(V)}, "BN113", "sqrt(moving_variance)"),
    ({"moving_variance": ROOT}, "BN113", "sqrt(moving_variance + epsilon)"),
    ({"moving_variance": np.sqrt(V + 1e-5)}, "BN113", "sqrt(moving_variance + 1e-05)"),
    ({"moving_variance": 1 / np.sqrt(V)}, "BN114", "1 / sqrt(moving_variance)"),
    ({"moving_variance": 1 / ROOT}, "BN114", "1 / sqrt(moving_variance + epsilon)"),
    ({"moving_variance": V + MINE.epsilon}, "BN106", "added already"),
    ({"moving_variance": V**2}, "BN112", "squared"),
    ({"moving_mean": -M}, "BN125", "negative of moving_mean"),
    ({"moving_mean": M / ROOT}, "", "moving_mean / sqrt(moving_variance + epsilon)"),
    ({"beta": -B}, "BN140", "negative of beta"),
    ({"gamma": np.abs(G)}, "BN136", "magnitude"),
    ({"gamma": G - 1}, "BN135", "gamma - 1"),
    ({"gamma": np.ones(6)}, "BN131", "is the initial 1 in every channel: never loaded"),
    ({"beta": np.zeros(6)}, "BN132", "is the initial 0 in every channel: never loaded"),
    ({"moving_mean": np.zeros(6), "moving_variance": np.ones(6)}, "BN123", "the initial 0 in every channel"),
    ({"moving_variance": np.ones(6)}, "BN126", "is the initial 1 in every channel: never loaded"),
    ({"gamma": np.ones(6), "beta": np.zeros(6), "moving_mean": np.zeros(6), "moving_variance": np.ones(6)}, "BN127", "nothing loaded"),
    ({name: OTHER.parameters()[name] for name in OTHER.parameters()}, "BN145", "are as in the layer 'head'"),
    ({name: OTHER.parameters()[name] for name in ("moving_mean", "moving_variance")}, "BN145", "are as in the layer 'head'"),
    ({name: values[::-1] for name, values in MINE.parameters().items()}, "BN143", "reversed"),
    ({name: values[[2, 0, 5, 1, 4, 3]] for name, values in MINE.parameters().items()}, "BN143", "0 as 2, 1 as 0, 2 as 5"),
    ({"gamma": G[::-1]}, "BN143", "reversed"),
    ({"gamma": G[::-1], "beta": B + 3.1}, "BN143", "the layer's in another order of channels (rev"),
    ({"gamma": B, "beta": M, "moving_mean": V, "moving_variance": np.ones(6)}, "BN137", "shifted"),
    ({"gamma": M, "beta": V, "moving_mean": G, "moving_variance": B}, "BN138", "another order"),
    ({name: round_to(values, "float16") for name, values in MINE.parameters().items()}, "BN161", "rounded to float16"),
    ({name: round_to(values, "bfloat16") for name, values in MINE.parameters().items()}, "BN162", "rounded to bfloat16"),
    ({"gamma": affine_uint8(G)}, "BN163", "affine uint8"),
    ({name: np.round(values.astype(float), 4) for name, values in MINE.parameters().items()}, "BN165", "4 digits after the point"),
    ({"gamma": G / ROOT, "beta": B - G * M / ROOT, "moving_mean": np.zeros(6), "moving_variance": np.ones(6)}, "BN154", "folded form"),
    ({"beta": B - M}, "BN155", "wrong offset"),
])
def test_each_mistake_has_its_code(arrays, code, words):
    found = judged(**arrays)
    assert not found.same
    assert code in codes(found).values(), found.text()
    assert words in found.text(), found.text()
    assert "not compared" in found.text()
    assert "head:" not in found.text()
    assert found.text().splitlines()[-1] == "the state: 1 layer differs"


def test_arrays_are_shifted_where_each_is_known():
    """What is nothing known, beside two arrays in each other's places, is no arrays' shift."""
    unknown = M * 1.3 + 0.7 * V
    assert codes(judged(gamma=B, beta=M, moving_mean=unknown)) == {"gamma": "BN138", "beta": "BN138", "moving_mean": ""}
    assert codes(judged(gamma=B, beta=M, moving_mean=np.zeros(6))) == dict.fromkeys(("gamma", "beta", "moving_mean"), "BN137")


def test_two_mistakes_are_named_side_by_side():
    assert codes(judged(gamma=B, beta=G, moving_variance=np.sqrt(V))) == {"gamma": "BN133", "beta": "BN133", "moving_variance": "BN113"}
    found = judged(moving_mean=-M, moving_variance=1 / ROOT)
    assert codes(found) == {"moving_mean": "BN125", "moving_variance": "BN114"}


def test_what_is_no_known_mistake_is_told_by_channel():
    gamma = MINE.gamma.copy()
    gamma[2] = np.nextafter(gamma[2], np.float32(9), dtype=np.float32)
    found = judged(gamma=gamma)
    assert "gamma (bn.weight): 1 of 6 channels differ, by up to 1 ULP (channel 2:" in found.text()
    assert [(one.code, one.channels, one.channel) for one in found.differences] == [("", 1, 2)]


def test_a_folded_layer_is_one_mistake():
    folded = {"gamma": G / ROOT, "beta": B - G * M / ROOT, "moving_mean": np.zeros(6), "moving_variance": np.ones(6)}
    found = judged(**folded)
    assert set(codes(found).values()) == {"BN154"}
    assert "is the 1 that goes with it, where epsilon has to be 0" in found.text()
    assert codes(judged(**{**folded, "gamma": G})) == {"beta": "BN154", "moving_mean": "BN154", "moving_variance": "BN154"}
    assert codes(judged(gamma=G / ROOT)) == {"gamma": "BN154"}
    assert codes(judged(**{**folded, "moving_mean": M * 3 + 1}))["moving_mean"] == "", "the form has no statistics of its own"


def test_a_number_that_is_none_has_no_distance():
    mean = MINE.moving_mean.copy()
    mean[3] = np.nan
    assert "1 of 6 channels differ (channel 3:" in judged(moving_mean=mean).text()


def test_a_constant_factor_is_said():
    found = judged(moving_variance=V * 32 / 31)
    assert "1.032258 times the layer's in every channel, as of an unbiased variance of 32 numbers" in found.text()


def test_another_checkpoint():
    random = np.random.default_rng(5)
    further = {name: values * random.uniform(0.9, 1.1, 6) for name, values in MINE.parameters().items()}
    found = exporter.compare(make_bundle(MINE), torch_state(MINE.replace(**{k: v.astype(np.float32) for k, v in further.items()})))
    assert "another checkpoint (BN146)" in found.text()
    assert set(codes(found).values()) == {""}


def test_an_absent_gamma_is_one():
    bare = MINE.replace(gamma=None)
    state = torch_state(MINE.replace(gamma=np.ones(6, np.float32)))
    assert exporter.compare(make_bundle(bare), state).same
    assert codes(exporter.compare(make_bundle(MINE), torch_state(bare))) == {"gamma": "BN131"}
    shifted = torch_state(MINE.replace(**dict(zip(MINE.parameters(), map(np.float32, (B, M, V, np.ones(6)))))))
    found = exporter.compare(make_bundle(bare), shifted)
    assert set(codes(found).values()) == {"BN137"}


def test_arrays_that_slid_into_the_next_layer():
    """A list of arrays without the first gamma, dealt out in order."""
    layers = [make_layer(f"l{n}", seed=n, shape=(5,)) for n in range(3)]
    queue = [values for layer in layers for values in layer.parameters().values()][1:] + [np.ones(5, np.float32)]
    moved = [as_stored(layer, **dict(zip(layer.parameters(), queue[4 * n:4 * n + 4]))) for n, layer in enumerate(layers)]
    found = exporter.compare(make_bundle(*layers), torch_state(*moved))
    assert {one.code for one in found.differences} == {"BN137"}
    assert "moving_variance (l0.running_var) is the gamma of 'l1'" in found.text()


@pytest.mark.parametrize(("epsilon", "code"), [(1e-5, "BN103"), (0.0, "BN102"), (0.0123, "BN105")])
def test_epsilon(epsilon, code):
    found = exporter.compare(make_bundle(MINE), make_bundle(MINE.replace(epsilon=epsilon)))
    assert codes(found) == {"epsilon": code}
    assert f"epsilon: 0.001 in the bundle, {epsilon:g} in model.h5" in found.text()


def test_the_epsilon_of_the_fused_kernel():
    found = exporter.compare(make_bundle(MINE.replace(epsilon=1e-5)), make_bundle(MINE.replace(epsilon=float(np.float32(1.001e-5)))))
    assert codes(found) == {"epsilon": "BN104"}


def test_epsilon_against_its_own_float32_is_the_same():
    found = exporter.compare(make_bundle(MINE), make_bundle(MINE.replace(epsilon=float(np.float32(1e-3)))))
    assert found.same
    assert found.text().endswith("the 1 layers are equal, 1 of them after rounding to float32\n")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_coarser_form_is_equal_after_rounding(dtype):
    half = MINE.replace(dtype=dtype, **{name: round_to(values.astype(float), dtype) for name, values in MINE.parameters().items()})
    found = exporter.compare(make_bundle(MINE), make_bundle(half))
    assert found.same
    assert found.pairs[0].rounding == ("" if dtype == "float64" else dtype)


def test_other_lengths_and_axes():
    assert codes(exporter.compare(make_bundle(MINE), make_bundle(make_layer("bn", shape=(5,))))) == {"channels": ""}
    assert codes(exporter.compare(make_bundle(MINE), make_bundle(MINE.replace(axis=(1,))))) == {"axis": ""}
    table = make_layer("bn", shape=(2, 3), axis=(1, 3))
    flat = table.replace(shape=(6,), axis=(-1,), **{name: values.reshape(-1) for name, values in table.parameters().items()})
    assert exporter.compare(make_bundle(table), torch_state(flat)).same


def test_not_a_number_differs():
    found = judged(gamma=np.array([np.nan, *G[1:]]))
    assert codes(found) == {"gamma": ""}
    json.dumps(found.to_dict(), allow_nan=False)


# pairing

def hows(found):
    return [(pair.path, pair.other, pair.how) for pair in found.pairs]


def numbered(*names, first=1, shape=(6,)):
    return [make_layer(name, seed=first + number, shape=shape) for number, name in enumerate(names)]


def test_paths_of_other_spelling_are_the_same():
    mine = make_bundle(make_layer("encoder/block1/norm", seed=1), make_layer("decoder/block1/norm", seed=2))
    state = {**torch_state(mine["encoder/block1/norm"], prefix="module.encoder.block1."),
             **torch_state(mine["decoder/block1/norm"], prefix="module.decoder.block1.")}
    assert hows(exporter.compare(mine, state)) == [("encoder/block1/norm", "module.encoder.block1.norm", "by path"),
                                                   ("decoder/block1/norm", "module.decoder.block1.norm", "by path")]
    layer = make_layer("bn_a", seed=1)
    assert [pair.how for pair in exporter.compare(make_bundle(layer), torch_state(layer, prefix="net.0.")).pairs] == ["by path"]


def test_layers_without_a_common_name_are_paired_by_content():
    a, b, c = numbered("a", "b", "c")
    found = exporter.compare(make_bundle(a, b, c), flax_state(c, a, b))
    assert [pair[1:] for pair in hows(found)] == [(f"BatchNorm_{number}", "by content") for number in (1, 2, 0)]
    assert found.same
    assert "layers are exchanged (BN145)" in found.text()
    assert "layers are exchanged" not in exporter.compare(make_bundle(a, b, c), flax_state(a, b, c)).text()


def test_content_is_seen_through_a_swap():
    a, b = numbered("a", "b")
    found = exporter.compare(make_bundle(a, b), flax_state(a, b.replace(gamma=b.beta, beta=b.gamma)))
    assert [pair.how for pair in found.pairs] == ["by content", "by content"]
    assert codes(found) == {"gamma": "BN133", "beta": "BN133"}


def test_names_that_are_counted_up_say_nothing():
    """bn_1 of the one is not bn_1 of the other where the counter began elsewhere."""
    mine = numbered("batch_normalization", "batch_normalization_1", "batch_normalization_2")
    mine[1] = make_layer("batch_normalization_1", seed=7, shape=(5,))
    for trained in (0, 0.1):
        theirs = [layer.replace(path=f"batch_normalization_{number}", name=f"batch_normalization_{number}",
                                **{name: values + np.float32(trained) for name, values in layer.parameters().items()})
                  for number, layer in enumerate(mine, 1)]
        found = exporter.compare(make_bundle(*mine), make_bundle(*theirs))
        assert [pair[1] for pair in hows(found)] == [f"batch_normalization_{number}" for number in (1, 2, 3)]
        assert {pair.how for pair in found.pairs} == {"by order and shape" if trained else "by content"}
        assert found.same == (not trained)


def test_names_are_counted_up_not_spelled():
    mine = numbered(*(f"layer_{n}" for n in range(12)))
    trained = [layer.replace(gamma=layer.gamma * 2, beta=layer.beta * 2, moving_mean=layer.moving_mean * 3,
                             moving_variance=layer.moving_variance * 5) for layer in mine]
    state = dict(sorted(flax_state(*trained).items()))
    found = exporter.compare(make_bundle(*mine), state)
    assert [pair[1] for pair in hows(found)] == [f"BatchNorm_{n}" for n in range(12)]


def test_the_same_counted_names_are_paired_by_path():
    mine = numbered("bn_1", "batch_normalization_3")
    other = [layer.replace(gamma=layer.gamma + 1) for layer in mine]
    assert {pair.how for pair in exporter.compare(make_bundle(*mine), make_bundle(*reversed(other))).pairs} == {"by path"}


def test_a_shape_and_a_number_of_channels_that_differ():
    mine = make_layer("bn", shape=(2, 3), axis=(1, 2), ndim=3)
    found = exporter.compare(make_bundle(mine), make_bundle(mine.replace(shape=(3, 2), **{
        name: values.reshape(3, 2) for name, values in mine.parameters().items()})))
    shapes = [(one.mine, one.theirs) for one in found.differences if one.what == "shape"]
    assert shapes == [([2, 3], [3, 2])]
    longer = exporter.compare(make_bundle(MINE), make_bundle(make_layer("bn", shape=(7,))))
    assert [(one.what, one.mine, one.theirs) for one in longer.differences] == [("channels", 6, 7)]


@pytest.mark.parametrize(("mine", "theirs", "code"), [
    (1e-6, 1.001e-5, "BN104"), (1e-6, 1e-5, "BN103"), (1e-3, 1e-5, "BN103"), (1e-6, 0.0, "BN102"), (1e-6, 0.25, "BN105"),
    (1e-3, 1.001e-5, "BN105")])
def test_an_epsilon_has_a_name(mine, theirs, code):
    layer = MINE.replace(epsilon=mine)
    found = exporter.compare(make_bundle(layer), make_bundle(layer.replace(epsilon=theirs)))
    assert [(one.what, one.code) for one in found.differences] == [("epsilon", code)]


def test_no_rounding_is_nothing_in_json():
    same = exporter.compare(make_bundle(MINE), make_bundle(MINE)).to_dict()
    assert [pair["rounding"] for pair in same["pairs"]] == [None]


def test_what_is_only_on_one_side():
    a, b = numbered("a", "b")
    longer = make_layer("c", shape=(7,), seed=3)
    found = exporter.compare(make_bundle(a, b), torch_state(b, longer))
    assert [(one.path, one.what) for one in found.differences] == [("a", "missing"), ("c", "added")]
    assert "c: not in the bundle" in found.text()
    assert found.to_dict()["differences"][1] == {"path": "c", "what": "added", "code": "", "says": "", "mine": None, "theirs": None,
                                                 "channels": 0, "of": 0, "ulp": 0.0, "channel": 0}
    found = exporter.compare(make_bundle(a, b), make_bundle(b))
    assert [(one.path, one.what) for one in found.differences] == [("a", "missing")]
    assert "a: not in model.h5" in found.text()


def test_a_layer_that_was_folded_away_is_found_in_a_bias():
    for factor in (1, 1 / 64):
        offset = ((B - G * M / ROOT) * factor).astype(np.float32)
        state = {**torch_state(OTHER), "conv.bias": offset, "conv.weight": np.ones((6, 3), np.float32)}
        mine = MINE.replace(beta=(B * factor).astype("f4"), moving_mean=(M * factor).astype("f4"))
        found = exporter.compare(make_bundle(mine, OTHER), state)
        assert [(one.path, one.what, one.code) for one in found.differences] == [("bn", "missing", "BN154")]
        assert "folded already: conv.bias is the offset" in found.text()


@pytest.mark.parametrize(("told", "pairs"), [
    ({"a": "z"}, [("a", "z"), ("b", "y")]), ({"enc*": "e.*"}, None), ({"*": "a"}, None), ({"a": "q"}, None), ({"q": "z"}, None)])
def test_told_pairs(told, pairs):
    a, b = numbered("a", "b")
    state = torch_state(a.replace(name="y"), b.replace(name="z"))
    if pairs is None:
        with pytest.raises(exporter.UsageError, match="--map"):
            exporter.compare(make_bundle(a, b), state, map=told)
    else:
        assert [pair[:2] for pair in hows(exporter.compare(make_bundle(a, b), state, map=told))] == pairs


def test_globs_take_over_what_the_stars_stand_for():
    layers = numbered("enc/bn1", "enc/bn2", "dec/bn1")
    state = torch_state(*(layer.replace(name=layer.path.replace("enc/", "encoder.norm_").replace("dec/", "d.")) for layer in layers))
    found = exporter.compare(make_bundle(*layers), state, map={"enc/*": "encoder.norm_*", "*/bn1": "d.bn1"})
    assert [pair.other for pair in found.pairs] == ["encoder.norm_bn1", "encoder.norm_bn2", "d.bn1"]
    assert {pair.how for pair in found.pairs} == {"by --map"}


def differences(mine, theirs):
    [pair] = exporter.compare(make_bundle(mine), make_bundle(theirs)).pairs
    return pair.differences


def test_the_sign_of_zero_differs():
    layer = make_layer().replace(beta=np.zeros(4, np.float32))
    found = differences(layer, layer.replace(beta=np.array([0, 0, -0.0, 0], np.float32)))
    assert [(one.what, one.channels, one.channel) for one in found] == [("beta", 1, 2)]


def test_one_axis_under_two_names_is_one():
    layer = make_layer().replace(ndim=4)
    assert differences(layer, layer.replace(axis=(3,))) == ()
    assert [one.what for one in differences(layer, layer.replace(axis=(1,)))] == ["axis"]


def test_one_axis_is_one_where_either_form_knows_the_rank():
    layer = make_layer("bn", ndim=4)
    assert differences(layer, layer.replace(axis=(3,), ndim=None)) == ()
    assert differences(layer.replace(ndim=None), layer.replace(axis=(3,))) == ()
    assert [one.what for one in differences(layer.replace(ndim=None), layer.replace(axis=(3,), ndim=None))] == ["axis"]


@pytest.mark.parametrize("names", [("gamma", "beta", "moving_mean", "moving_variance"), ("beta",)])
def test_channels_of_two_axes_that_were_read_in_column_major_order(names):
    layer = make_layer("bn", shape=(2, 3), axis=(1, 2), seed=4)
    turned = layer.replace(**{name: layer.parameters()[name].ravel().reshape((2, 3), order="F") for name in names})
    found = differences(layer, turned)
    assert {(one.what, one.code) for one in found} == {(name, "BN143") for name in names}
    assert {one.says for one in found} == {"the layer's in another order of channels (the parameters read in column-major order)"}


def test_an_error_at_the_bound_has_passed():
    check = Check(path="a", numbers=1, dtype="float32", ulp=1, error=1e-7, times_the_bound=1.0)
    assert check.passed
    assert not dataclasses.replace(check, times_the_bound=np.nextafter(1, 2)).passed


def test_a_folded_offset_in_which_beta_is_nearly_all():
    """Then its own rounding is that of beta."""
    mine = MINE.replace(beta=(B * 1000).astype("f4"), moving_mean=(M / 100).astype("f4"))
    offset = (mine.beta.astype(float) - G * mine.moving_mean.astype(float) / ROOT).astype(np.float32)
    found = exporter.compare(make_bundle(mine, OTHER), {**torch_state(OTHER), "conv.bias": offset})
    assert [(one.path, one.code) for one in found.differences] == [("bn", "BN154")]

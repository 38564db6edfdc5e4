"""The text of a comparison, line by line."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors
from exporter.batchnorm.dtypes import round_to
from exporter.diagnosis.comparison import check_output, check_vectors
from exporter.diagnosis.mistakes import BY_CODE
from tests.make.layers import as_stored, make_bundle, make_layer
from tests.make.ports import flax_state, torch_state

A, B, C, D = (make_layer(name, seed=seed) for seed, name in enumerate(("enc/a", "enc/b", "enc/c", "d")))
WHOLE = f"""\
the state: a state of PyTorch
4 of 5 layers paired: 4 by path
  enc/a = a (by path)
  enc/b = b (by path)
  enc/c = c (by path)
  enc/b: BN133 gamma and beta swapped: gamma (b.weight) is the layer's beta; beta (b.bias) is the layer's gamma
  enc/c: moving_mean (c.running_mean) is 1.5 times the layer's in every channel
  gone: not in the state
  z: not in the bundle
BN133: {BY_CODE['BN133'].instead}
note: the state contains no epsilon, so it was not compared: set eps=0.002, momentum=0.01 for enc/a
note: the state contains no epsilon, so it was not compared: set eps=0.001, momentum=0.01 for enc/b and 2 more
note: the state contains no epsilon, so it was not compared: set eps=0.001, momentum=0.1 for enc/c
the state: 4 layers differ
"""


def test_a_whole_comparison():
    state = {**torch_state(A, B.replace(gamma=B.beta, beta=B.gamma), C.replace(moving_mean=C.moving_mean * np.float32(1.5)), D),
             "z.running_mean": np.ones(3, np.float32), "z.running_var": np.ones(3, np.float32)}
    mine = make_bundle(A.replace(epsilon=0.002), B, C.replace(momentum=0.9), D, make_layer("gone", shape=(7,)))
    found = exporter.compare(mine, state)
    assert found.text() == WHOLE
    assert [pair.verdict for pair in found.pairs] == ["equal", "differs", "differs", "equal"]
    assert found.to_dict()["differences"][1] == {
        "path": "enc/b", "what": "beta", "code": "BN133", "says": "the layer's gamma", "mine": float(B.beta[1]),
        "theirs": float(B.gamma[1]), "channels": 4, "of": 4, "ulp": 37874839.0, "channel": 1}


def test_fields_that_differ():
    found = exporter.compare(make_bundle(A, B, C), make_bundle(A.replace(epsilon=1e-5), B.replace(axis=(1,)), C.replace(gamma=None)))
    assert found.text().splitlines()[2:] == [
        "  enc/a: BN103 another framework's default epsilon: epsilon: 0.001 in the bundle, 1e-05 in model.h5 "
        "(the default of PyTorch, ONNX, Caffe, Paddle, Keras 1.0.8 to 1.1)",
        "  enc/b: axis: [-1] in the bundle, [1] in model.h5",
        "  enc/c: BN131 gamma left out: gamma: there in the bundle, none in model.h5",
        f"BN103: {BY_CODE['BN103'].instead}", f"BN131: {BY_CODE['BN131'].instead}", "model.h5: 3 layers differ"]
    assert "gamma: none in the bundle, there in" in exporter.compare(make_bundle(C.replace(gamma=None)), make_bundle(C)).text()
    two = exporter.compare(make_bundle(A), make_bundle(A.replace(epsilon=0.0, axis=(1,), gamma=A.gamma + 1)))
    assert "enc/a: axis: [-1] in the bundle, [1] in model.h5; BN102 no epsilon: epsilon: 0.001 in the bundle, 0 in model.h5; " in two.text()
    assert two.text().endswith("model.h5: 1 layer differs\n")


@pytest.mark.parametrize(("mine", "theirs", "shown"), [(1e-3, 0.25, "0.25"), (1e-3, 1.5, "1.5"), (0.1, 1e-7, "1e-07"),
                                                       (float(np.float32(0.1)), 0.01, "0.01"), (1e-3, 0.1234567891, "0.1234567891")])
def test_numbers_are_as_short_as_their_float32_allows(mine, theirs, shown):
    text = exporter.compare(make_bundle(A.replace(epsilon=mine)), make_bundle(A.replace(epsilon=theirs))).text()
    assert f"epsilon: {0.1 if mine > 0.09 else 0.001} in the bundle, {shown} in model.h5" in text


@pytest.mark.parametrize(("count", "more"), [(20, None), (21, "  and 1 more pairs of other names (--json lists all)"),
                                             (24, "  and 4 more pairs of other names (--json lists all)")])
def test_twenty_pairs_of_other_names_are_listed(count, more):
    layers = [make_layer(f"e{number}", seed=number) for number in range(count)]
    lines = exporter.compare(make_bundle(*layers), flax_state(*layers)).text().splitlines()
    assert lines[1] == f"{count} of {count} layers paired: {count} by content"
    assert [line for line in lines if " = " in line and "by content" in line] == [
        f"  e{number} = BatchNorm_{number} (by content)" for number in range(20)]
    assert [line for line in lines if "more pairs" in line] == ([] if more is None else [more])
    assert lines[-1] == f"the state: the {count} layers are equal bit for bit"


def test_the_last_line_counts_what_was_rounded():
    def rounded(layer, dtype):
        return layer.replace(dtype=dtype, **{name: round_to(values.astype(float), dtype) for name, values in layer.parameters().items()})

    other = make_bundle(rounded(A, "float16"), rounded(B, "float16"), C, rounded(D, "bfloat16"))
    text = exporter.compare(make_bundle(A, B, C, D), other).text()
    assert text.endswith("model.h5: the 4 layers are equal, 3 of them after rounding to bfloat16, float16\n")


@pytest.mark.parametrize(("trained", "other_checkpoint"), [(0, False), (1, False), (2, False), (3, True)])
def test_another_checkpoint_is_suspected_where_most_layers_differ(trained, other_checkpoint):
    random = np.random.default_rng(4)
    layers = [A, B, C, D]
    further = [layer.replace(**{name: (values * random.uniform(0.9, 1.1, 4)).astype(np.float32)
                                for name, values in layer.parameters().items()}) for layer in layers]
    other = [*further[:trained], *layers[trained:]]
    text = exporter.compare(make_bundle(*layers), make_bundle(*other)).text()
    assert ("another checkpoint (BN146)" in text) == other_checkpoint
    swapped = [layer.replace(gamma=layer.beta, beta=layer.gamma) for layer in layers]
    assert "another checkpoint" not in exporter.compare(make_bundle(*layers), make_bundle(*swapped)).text(), "that is explained"


def test_the_worst_channel_in_units_of_the_last_place():
    gamma = A.gamma.copy()
    gamma[1] = np.nextafter(np.nextafter(gamma[1], np.float32(9)), np.float32(9))
    gamma[2] += np.float32(0.25)
    gamma[3] = -0.0
    mine = make_bundle(A.replace(gamma=np.float32([*A.gamma[:3], 0.0])))
    (one,) = exporter.compare(mine, make_bundle(A.replace(gamma=gamma))).differences
    ulp = np.spacing(np.abs(A.gamma[2]))
    assert (one.channels, one.of, one.channel) == (3, 4, 2)
    assert one.ulp == pytest.approx(0.25 / ulp, rel=0.5)
    assert (one.mine, one.theirs) == (float(A.gamma[2]), float(gamma[2]))
    gamma[0] = np.nan
    (one,) = exporter.compare(make_bundle(A), torch_state(as_stored(A, gamma=gamma))).differences
    assert (one.channel, one.channels) == (0, 4)
    assert np.isnan(one.ulp)


@pytest.mark.parametrize(("mine", "theirs", "same"), [
    (((-1,), 4), ((3,), None), True), (((3,), None), ((-1,), 4), True), (((-1,), None), ((3,), None), False),
    (((-1,), 4), ((2,), 4), False), (((-1,), 4), ((3,), 4), True), (((-1,), None), ((-1,), 4), True), (((1,), 3), ((-1,), None), False)])
def test_an_axis_counted_from_the_end_is_the_same_where_the_rank_is_known(mine, theirs, same):
    one, other = (make_layer("a", axis=axis, ndim=ndim) for axis, ndim in (mine, theirs))
    assert exporter.compare(make_bundle(one), make_bundle(other)).same == same


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_outputs_against_the_formula(dtype):
    """Within 16 units of the coarser type, and the worst is told."""
    layer = make_layer("a", seed=3).replace(moving_variance=np.float32([0.5, 1, 2, 0.25]))
    rows = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    output = layer(rows).astype(dtype)
    check = check_output(layer, rows, output)
    coarse = "float16" if dtype == "float16" else "float32"
    assert (check.path, check.numbers, check.dtype, check.passed) == ("a", 20, coarse, True)
    bound = vectors.bound(layer, rows, coarse)
    for factor, passed in ((0.7, True), (1.6, False)):
        off = output.astype(np.float64)
        off[2, 1] += factor * bound[2, 1]
        check = check_output(layer, rows, off.astype(np.float64))
        if coarse == "float32":
            assert check.passed == passed
            assert check.times_the_bound == pytest.approx(factor, rel=0.1)
            assert check.error == pytest.approx(factor * bound[2, 1], rel=0.1)
    for bad in (np.nan, np.inf):
        wrong = output.copy()
        wrong[3, 2] = bad
        check = check_output(layer, rows, wrong)
        assert (check.ulp, check.error, check.times_the_bound, check.passed) == (np.inf, np.inf, np.inf, False)


def test_vectors_that_a_bundle_does_not_have_are_not_checked():
    assert check_vectors(make_bundle(A)) == []


def test_arrays_of_which_nothing_is_known_have_a_line_each():
    other = A.replace(gamma=A.gamma * np.float32([1, 1, 1.7, 1]), beta=A.beta + np.float32([0, 0.3, 0, 0]))
    (line,) = [line for line in exporter.compare(make_bundle(A), make_bundle(other)).text().splitlines() if line.startswith("  enc/a: ")]
    assert "gamma: 1 of 4 channels differ" in line
    assert "; beta: 1 of 4 channels differ" in line


def test_the_type_in_which_layers_are_equal_is_part_of_the_answer():
    half = A.replace(**{name: round_to(values, "float16") for name, values in A.parameters().items()}, dtype="float16")
    pairs = exporter.compare(make_bundle(A, B), make_bundle(half, B)).to_dict()["pairs"]
    assert [pair["rounding"] for pair in pairs] == ["float16", None]

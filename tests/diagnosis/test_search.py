"""diagnose: each mistake found by name, none where there is none, and honest where the data cannot tell."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import exporter
from exporter import diagnose
from exporter.batchnorm import vectors
from exporter.diagnosis.case import make_case
from exporter.diagnosis.mistakes import MISTAKES
from tests.make.layers import ROOT, make_bundle, make_layer
from tests.make.questions import BATCH_QUESTION, EPSILON_QUESTION, layer_of

SAMPLE = ROOT / "sample_models" / "encoder_keras3" / "model.keras"


@pytest.fixture(scope="module")
def model():
    return exporter.read(SAMPLE)


def inputs(layer, rows=40, seed=1):
    """Inputs around the layer's mean, of rank 4, square so that a wrong axis has the right length."""
    random = np.random.default_rng(seed)
    channels = layer.moving_mean.size
    deviation = np.sqrt(layer.moving_variance.astype(np.float64) + layer.epsilon)
    x = layer.moving_mean + deviation * random.normal(0, 2, (max(1, rows // channels), channels, 3, channels))
    return x.astype(np.float32)


# the two public questions

@pytest.mark.parametrize("x", ["-0.077417567", [-0.077417567], np.array([[-0.077417567]])])
def test_epsilon_outside_the_root(x):
    found = diagnose(EPSILON_QUESTION, x, "0.543057")
    assert found.verdict == "differs"
    assert found.explanations[0].codes == ("BN101",)
    assert "np.sqrt(variance + epsilon)" in found.text()
    assert diagnose(EPSILON_QUESTION, x, "0.30664611").verdict == "same"


def test_a_single_number_fits_some_epsilon_and_that_is_said():
    other = diagnose(EPSILON_QUESTION, "-0.077417567", "0.543057").explanations[1]
    assert other.codes == ("BN105",)
    assert other.weak
    assert "any single number" in other.details[0]


@pytest.mark.parametrize("x", ["1, 5", [1, 5], [[[[1], [5]]]], "[[[[ 1.]\n   [ 5.]]]]"])
def test_statistics_of_the_batch(x):
    expected = "-1, 1" if isinstance(x, str) and "[" not in x else "[[[[-1], [1]]]]" if str(x).startswith("[[") else [-1, 1]
    found = diagnose(BATCH_QUESTION, x, expected)
    assert found.verdict == "differs"
    assert all("BN121" in explanation.codes or "BN122" in explanation.codes for explanation in found.explanations)
    assert found.explanations[0].codes == ("BN121",)
    assert any("without gamma and beta" in explanation.details[0] for explanation in found.explanations), "[-1, 1] is without gamma"


def test_printed_numbers_that_are_right():
    for theirs in ("[0.79519051, 4.17485714]", "0.795 4.175", "[0.79519, 4.17486]"):
        assert diagnose(BATCH_QUESTION, "1, 5", theirs).verdict == "same"
    assert diagnose(BATCH_QUESTION, "1, 5", "0.795 4.176").verdict == "differs"


def test_the_numbers_that_are_furthest_off_are_shown_first():
    layer = make_layer(shape=(2,), seed=3)
    x = np.float32([[1, 2], [3, 4], [5, 6], [7, 8]])
    theirs = layer(x)
    theirs[1, 0] += 0.01
    theirs[2, 0] += 50
    theirs[3, 1] += 1
    shown = [place for place, *_ in diagnose(layer, x, theirs).side_by_side]
    assert [place for place in shown if place[1] == 0][:2] == [[2, 0], [1, 0]]
    assert next(place for place in shown if place[1] == 1) == [3, 1]


def test_of_numbers_of_one_channel_that_channel_is_shown():
    layer = make_layer(shape=(4,), seed=3)
    x = np.float32([0.5, -1, 2])
    y = layer(np.repeat(x[:, None], 4, axis=1))[:, 2]
    found = diagnose(layer, x, y)
    assert (found.verdict, found.channel) == ("same", 2)
    assert {channel for _, channel, *_ in found.side_by_side} == {2}
    assert [theirs for _, _, _, theirs, *_ in found.side_by_side[:1]] == [pytest.approx(float(y[found.side_by_side[0][0][0]]))]


# every mistake, by name, on the layers of a real model

@pytest.mark.parametrize("paths", [
    pytest.param({"stem_bn"}, id="one"),
    pytest.param({"shared", "block_a/bn", "block_b/bn", "no_beta", "frozen", "per_row/inner"}, id="others",
                 marks=pytest.mark.thorough("much time: each mistake on six more layers"))])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.code)
def test_each_mistake_is_found_by_name(model, mistake, paths):
    tried = 0
    for layer in model:
        if layer.path not in paths:
            continue
        x = inputs(layer)
        others = [other for other in model if other is not layer and other.moving_mean.size == 6]
        case = make_case(layer, x, (3,), others=others)
        for detail, changed in mistake.variants(case):
            theirs = changed.value().astype(np.float32).reshape(x.shape)
            averages = model if mistake.code != "BN147" else make_bundle(with_parameters(layer, changed))
            found = diagnose(model, x, theirs, layer=layer.path, averages=averages)
            if found.verdict == "same":
                assert mistake.code in found.could_not_show() or mistake.wrong is None, "a mistake that does not show is said not to show"
                continue
            tried += 1
            codes = [explanation.codes for explanation in found.explanations]
            assert (mistake.code,) in codes, (layer.path, detail, codes)
            assert all(explanation.worst <= 1 for explanation in found.explanations)
    if mistake.code not in ("BN136", "BN104", "BN137", "BN129"):
        assert tried > 0
    if tried == 0:
        assert _found_on_a_made_layer(mistake)


def with_parameters(layer, case):
    """A layer with the parameters of a case."""
    return layer.replace(gamma=case.gamma.astype(np.float32), beta=case.beta.astype(np.float32), moving_mean=case.mean.astype(np.float32),
                         moving_variance=case.variance.astype(np.float32))


def _found_on_a_made_layer(mistake):
    layer = make_layer(epsilon=1e-6, beta=mistake.code != "BN137", seed=4, called_in_training=mistake.code == "BN129")
    layer = layer.replace(moving_variance=np.array([1e-6, 1e-5, 0.5, 2], np.float32))
    x = inputs(layer)
    variants = mistake.variants(make_case(layer, x, (3,)))
    theirs = [changed.value().astype(np.float32).reshape(x.shape) for _, changed in variants]
    return variants and all((mistake.code,) in [e.codes for e in diagnose(layer, x, y).explanations] for y in theirs)


@pytest.mark.thorough("much time: test_explanations.py has others always")
def test_two_mistakes_together(model):
    layer = model["stem_bn"]
    x = inputs(layer, rows=12)
    m, v, g = layer.moving_mean, layer.moving_variance, layer.gamma
    pairs = {("BN101", "BN132"): g * (x - m) / (np.sqrt(v) + np.float32(1e-3)),
             ("BN102", "BN131"): (x - m) / np.sqrt(v) + layer.beta,
             ("BN103", "BN133"): layer.beta * (x - m) / np.sqrt(v + np.float32(1e-5)) + g,
             ("BN125", "BN132"): g * x / np.sqrt(v + np.float32(1e-3)),
             ("BN102", "BN152"): np.maximum(g * (x - m) / np.sqrt(v) + layer.beta, 0)}
    for codes, theirs in pairs.items():
        found = diagnose(model, x, theirs, layer="stem_bn")
        explained = [explanation.codes for explanation in found.explanations]
        assert codes in explained or ("BN155",) in explained, (codes, explained)


# what is solved for

@given(st.floats(1e-9, 1.0))
def test_an_epsilon_is_solved_for(epsilon):
    layer = layer_of(gamma=[1, 0.5, -2], beta=[0.1, 0, -0.3], mean=[0.5, -1, 0], variance=[1e-6, 1e-4, 0.01])
    x = np.array([[1, 1, 1], [-2, 0.5, 3], [0.25, -3, -1]], np.float32)
    theirs = layer.gamma * (x - layer.moving_mean) / np.sqrt(layer.moving_variance + np.float32(epsilon)) + layer.beta
    found = diagnose(layer, x, theirs)
    if found.verdict == "same":
        assert epsilon == pytest.approx(layer.epsilon, rel=1e-3)
        return
    solved = [explanation for explanation in found.explanations if explanation.epsilon is not None]
    named = [explanation for explanation in found.explanations if explanation.codes in (("BN102",), ("BN103",), ("BN104",))]
    assert solved or named
    for explanation in solved:
        value, low, high = explanation.epsilon
        assert low <= value <= high
        assert low * 0.999 - 1e-12 <= epsilon <= high * 1.001 + 1e-12
        assert high - low < 1e-3 * epsilon + 1e-9


@pytest.mark.parametrize("channels", [2, 7, 64])
def test_an_order_of_channels_is_found_and_told(channels):
    layer = make_layer(shape=(channels,), seed=2)
    layer = layer.replace(gamma=np.linspace(0.5, 2, channels, dtype=np.float32))
    order = np.random.default_rng(channels).permutation(channels)
    if (order == np.arange(channels)).all():
        order = order[::-1]
    x = inputs(layer, rows=channels)
    shuffled = layer.replace(**{name: values[order] for name, values in layer.parameters().items()})
    found = diagnose(layer, x, shuffled(x))
    assert found.explanations[0].codes == ("BN143",)
    if found.explanations[0].order is not None:
        assert list(found.explanations[0].order) == order.tolist()
    right = layer(x)
    found = diagnose(layer, x, right[..., order])
    assert found.explanations[0].codes == ("BN144",)


def test_one_channel_for_all_is_found():
    layer = make_layer(shape=(8,), seed=2)
    x = inputs(layer)
    first = layer.replace(**{name: np.repeat(values[:1], 8) for name, values in layer.parameters().items()})
    found = diagnose(layer, x, first(x))
    assert found.explanations[0].codes == ("BN143",)
    assert "every channel with the parameters of channel 0" in found.explanations[0].details[0]


def test_a_mistake_in_some_channels_only(model):
    layer = model["stem_bn"]
    x = inputs(layer)
    theirs = layer(x)
    wrong = layer.gamma * (x - layer.moving_mean) / (np.sqrt(layer.moving_variance) + np.float32(layer.epsilon)) + layer.beta
    theirs[..., 4:] = wrong[..., 4:]
    best = diagnose(layer, x, theirs).explanations[0]
    assert best.codes == ("BN101",)
    assert best.channels == (4, 5)


def test_parameters_of_another_checkpoint(model):
    layer = model["stem_bn"]
    x = inputs(layer)
    trained = layer.replace(gamma=np.where(np.arange(6) == 2, np.float32(1.37), layer.gamma).astype(np.float32))
    best = diagnose(layer, x, trained(x)).explanations[0]
    assert best.codes == ("BN146",)
    assert best.channels == (2,)


# which layer, which channel, which shape

def test_the_layer_is_found(model):
    for layer in model:
        x = inputs(layer)
        assert diagnose(model, x, layer(x, axis=3)).layer == layer.path
    layer = model["block_b/bn"]
    x = inputs(layer)
    wrong = layer.gamma * (x - layer.moving_mean) / (layer.moving_variance + np.float32(layer.epsilon)) + layer.beta
    found = diagnose(model, x, wrong)
    assert (found.layer, found.explanations[0].codes) == ("block_b/bn", ("BN111",))


def test_the_parameters_of_another_layer(model):
    x = inputs(model["block_a/bn"])
    found = diagnose(model, x, model["block_b/bn"](x), layer="block_a/bn")
    assert found.explanations[0].codes == ("BN145",)
    assert "block_b/bn" in found.explanations[0].details[0]


def test_the_channel_is_found(model):
    layer = model["stem_bn"]
    value = np.float32(layer.moving_mean[3] + 1)
    right = layer(np.full((1, 6), value))[0, 3]
    found = diagnose(layer, repr(float(value)), repr(float(right)))
    assert (found.verdict, found.channel) == ("same", 3)
    wrong = layer.gamma[3] * (value - layer.moving_mean[3]) / layer.moving_variance[3] + layer.beta[3]
    for channel in (None, 3):
        found = diagnose(model, float(value), float(wrong), layer="stem_bn", channel=channel)
        assert ("BN111",) in [explanation.codes for explanation in found.explanations]


@pytest.mark.parametrize("shape", [
    (6,), (5, 6), (2, 6, 3), *(pytest.param(shape, marks=pytest.mark.thorough("much time")) for shape in [
        (1, 6), (2, 3, 6), (2, 6, 3, 4), (6, 1), (3, 2, 2, 2, 6)])])
def test_the_channel_axis_may_be_anywhere(model, shape):
    layer = model["stem_bn"]
    axis = len(shape) - 1 - shape[::-1].index(6)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    right = layer(x, axis=axis)
    assert diagnose(layer, x, right).verdict == "same"
    assert diagnose(layer, x, right + np.float32(1)).verdict == "differs"


def test_an_output_in_the_other_layout_is_moved(model):
    layer = model["stem_bn"]
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    found = diagnose(layer, x, np.moveaxis(layer(x), -1, 1))
    assert found.verdict == "same"
    assert "its axes were moved" in found.notes[0]


def test_several_axes():
    layer = make_layer(shape=(2, 3), axis=(1, 3), seed=5)
    x = np.random.default_rng(0).normal(size=(4, 2, 5, 3)).astype(np.float32)
    right = layer(x)
    assert diagnose(layer, x, right).verdict == "same"
    found = diagnose(layer, x, right - layer.beta.reshape(1, 2, 1, 3))
    assert found.explanations[0].codes == ("BN132",)


@pytest.mark.parametrize(("x", "theirs", "more", "message"), [
    (np.ones((2, 6)), np.ones((3, 6)), {}, "the input has shape"), (np.ones((2, 5)), np.ones((2, 5)), {}, "fits none|the layer 6 channels"),
    (np.ones((2, 6)), np.ones((2, 6)), {"layer": "nothing"}, "there is no layer 'nothing'"),
    (np.ones((2, 6)), np.ones((2, 6)), {"axis": 0}, "the input has shape"), (1.0, 2.0, {"channel": 9}, "there is no channel 9"),
    ("x", "1", {}, "not a number")])
def test_what_cannot_be_compared(model, x, theirs, more, message):
    with pytest.raises(exporter.UsageError, match=message) as caught:
        diagnose(model["stem_bn"], x, theirs, **more)
    assert caught.value.where == ("stem_bn" if more.keys() & {"axis", "channel"} or "fits" in message else "")


# no false alarm

def five_orders(layer, x):
    """Correct float32 evaluations of the formula."""
    one = np.float32(1)
    gamma = one if layer.gamma is None else layer.gamma
    beta = np.float32(0) if layer.beta is None else layer.beta
    mean, root = layer.moving_mean, np.sqrt(layer.moving_variance + np.float32(layer.epsilon))
    scale, inverse = gamma / root, one / root
    yield gamma * (x - mean) / root + beta
    yield (x - mean) * (gamma * inverse) + beta
    yield scale * x + (beta - scale * mean)
    yield (x - mean) / root * gamma + beta
    shift = (beta - (scale.astype(np.float64) * mean)).astype(np.float32)  # fused multiply-add: one rounding for both
    yield (scale.astype(np.float64) * x + shift).astype(np.float32)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.thorough("much time: as many diagnoses"))])
def test_correct_evaluations_are_none_of_them_mistaken(count):
    random = np.random.default_rng(5)
    evaluations, worst = 0, 0.0
    while evaluations < count:
        channels, far = int(random.integers(1, 20)), 10 ** random.uniform(-3, 4)
        layer = layer_of(gamma=random.normal(0, 2, channels) if random.random() < 0.8 else None,
                         beta=random.normal(0, 1, channels) * 10 ** random.uniform(-4, 3) if random.random() < 0.8 else None,
                         mean=random.normal(0, far, channels), variance=10 ** random.uniform(-8, 6, channels),
                         epsilon=float(random.choice([1e-3, 1e-5, 1e-7, 0.1])))
        deviation = np.sqrt(layer.moving_variance + layer.epsilon)
        x = (layer.moving_mean + deviation * random.normal(0, 3, (4, channels))).astype(np.float32)
        for theirs in five_orders(layer, x):
            assert theirs.dtype == np.float32
            found = diagnose(layer, x, theirs)
            assert found.verdict == "same", found.text()
            worst = max(worst, found.worst["times_the_bound"])
            evaluations += 1
    assert worst < 0.5


@given(st.integers(2, 9), st.integers(0, 1000))
def test_printed_outputs_are_accepted_at_their_digits(digits, seed):
    layer = make_layer(seed=seed)
    x = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    printed = "[" + ", ".join("[" + ", ".join(f"{value:.{digits}f}" for value in row) + "]" for row in layer(x).tolist()) + "]"
    assert diagnose(layer, x, printed).verdict == "same"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types(dtype):
    layer = make_layer(dtype=dtype, seed=6)
    assert diagnose(layer, *vectors.make(layer)).verdict == "same"


def test_half_precision_is_named():
    layer = make_layer(seed=8).replace(moving_variance=np.array([0.5, 1, 2, 0.25], np.float32))
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float16)
    half = {name: values.astype(np.float16) for name, values in layer.parameters().items()}
    theirs = half["gamma"] * ((x - half["moving_mean"]) / np.sqrt(half["moving_variance"] + np.float16(1e-3))) + half["beta"]
    assert diagnose(layer, x, theirs).verdict == "same", "an output of type float16 is held to float16's bound"
    found = diagnose(layer, x, theirs.astype(np.float32))
    assert found.explanations[0].codes == ("BN164",)
    assert found.explanations[0].weak


# honesty

def test_what_the_data_cannot_tell_apart_is_listed():
    layer = layer_of(gamma=[1.0, 1.0], beta=[0.5, 0.25], mean=[0.0, 0.0], variance=[1e-4, 2e-4])
    x = np.array([[0.25, -0.5]], np.float32)
    theirs = layer.gamma * x / np.sqrt(layer.moving_variance + np.float32(layer.epsilon))
    found = diagnose(layer, x, theirs)
    assert {explanation.codes for explanation in found.explanations} >= {("BN132",), ("BN155",)}
    assert any("cannot tell" in note for note in found.notes)


def test_a_right_answer_says_what_it_could_not_have_shown():
    layer = layer_of(gamma=[1.0], beta=None, mean=[0.5], variance=[1.0])
    found = diagnose(layer, np.array([[0.5]], np.float32), np.array([[0.0]], np.float32))
    assert found.verdict == "same"
    assert "BN101" in found.could_not_show()
    assert "too few to show" in found.text()


def test_when_nothing_fits_it_says_how_they_differ(model):
    layer = model["stem_bn"]
    x = inputs(layer, rows=12)
    right = layer(x)
    wanted = {"the slope is right in every channel and the offset is not": right + np.float32(0.7),
              "1.7 times the right one in every channel": right * np.float32(1.7),
              "not a straight line in the input": right + np.random.default_rng(0).normal(0, 1, x.shape).astype(np.float32),
              "a slope of its own": right * np.linspace(1.1, 1.9, 6, dtype=np.float32)}
    for sentence, theirs in wanted.items():
        found = diagnose(layer, x, theirs)
        assert found.verdict == "differs"
        assert found.explanations == ()
        assert sentence in found.text()
        assert found.differing > 0
    found = diagnose(layer, x[:1, :1, :1], right[:1, :1, :1] + np.float32(0.7))
    assert "send more numbers" in found.text()
    assert "none of the numbers given is finite" in diagnose(layer, x, np.full_like(x, np.nan)).text()


def test_the_worst_number_is_named(model):
    layer = model["stem_bn"]
    x = inputs(layer)
    theirs = layer(x)
    theirs[2, 1, 0, 3] += 1
    found = diagnose(layer, x, theirs)
    assert found.worst["index"] == [2, 1, 0, 3]
    assert found.worst["channel"] == 3
    assert found.differing == 1
    assert found.explanations == ()
    assert "the other numbers of these channels are right" in found.text()


def test_the_machine_form_is_json(model):
    layer = model["stem_bn"]
    x = inputs(layer)
    for theirs in (layer(x), layer(x) - layer.beta, layer(x) * np.float32(np.nan)):
        content = json.loads(json.dumps(diagnose(layer, x, theirs).to_dict(), allow_nan=False))
        assert content["verdict"] in ("same", "differs")
        assert len(content["side_by_side"]) > 0
    assert diagnose(make_bundle(layer), x, layer(x) - layer.beta).to_dict()["explanations"][0]["codes"] == ["BN132"]


@settings(max_examples=settings.default.max_examples // 5, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_is_given_there_is_an_answer_or_a_usage_error(data):
    """Any shape, any numbers (none finite, all zero, whole ones), typed or not."""
    channels = data.draw(st.integers(1, 4))
    shape = tuple(data.draw(st.lists(st.integers(1, 4), max_size=3))) + ((channels,) if data.draw(st.booleans()) else ())
    layer = make_layer(shape=(channels,), dtype=data.draw(st.sampled_from(["float16", "bfloat16", "float32", "float64"])),
                       gamma=data.draw(st.booleans()), beta=data.draw(st.booleans()), epsilon=data.draw(st.sampled_from([0.0, 1e-5, 1e-3])))
    number = st.one_of(st.floats(width=32), st.integers(-3, 3), st.sampled_from([0.0, float("nan"), float("inf"), 1e30]))
    count = int(np.prod(shape))
    x, theirs = (np.array(data.draw(st.lists(number, min_size=count, max_size=count)), np.float64).reshape(shape) for _ in range(2))
    if data.draw(st.booleans()):
        x, theirs = x.tolist(), theirs.tolist()
    try:
        found = diagnose(make_bundle(layer, make_layer("other", seed=9)) if data.draw(st.booleans()) else layer, x, theirs)
    except exporter.UsageError:
        return
    assert found.text()
    json.dumps(found.to_dict(), allow_nan=False)


# statistics of the input at hand, whatever gamma and beta are

def standardized(x, axis, **how):
    epsilon, ddof = how.get("epsilon", 0.001), how.get("ddof", 0)
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, ddof=ddof, keepdims=True) + epsilon)


@pytest.mark.parametrize(("axis", "how", "code", "words"), [
    (0, {}, "BN121", "without gamma and beta"), (0, {"epsilon": 0}, "BN121", "without gamma, beta and epsilon"),
    (None, {}, "BN121", "of the whole input"), (0, {"ddof": 1, "epsilon": 0}, "BN122", "without gamma, beta and epsilon"),
    (0, {"ddof": 1}, "BN122", "without gamma and beta"), (1, {}, "BN128", "each row of channels by itself"),
    (1, {"epsilon": 0}, "BN128", "each row"), (1, {"ddof": 1, "epsilon": 0}, "BN128", "unbiased")])
def test_plain_standardization(axis, how, code, words):
    layer = make_layer(shape=(5,), seed=6)
    x = np.random.default_rng(3).normal(1, 2, (9, 5)).astype(np.float32)
    found = diagnose(layer, x, standardized(x.astype(np.float64), axis, **how).astype(np.float32))
    assert found.explanations[0].codes == (code,), found.text()
    assert words in found.text()


@pytest.mark.parametrize(("axes", "words"), [((1, 2), "each channel of a sample"), ((1, 2, 3), "each sample by itself")])
@pytest.mark.parametrize("affine", [True, False])
def test_samples_standardized_by_themselves(axes, words, affine):
    layer = make_layer(shape=(3,), seed=6)
    x = np.random.default_rng(4).normal(1, 2, (4, 5, 6, 3)).astype(np.float32)
    y = standardized(x.astype(np.float64), axes)
    found = diagnose(layer, x, (layer.gamma * y + layer.beta if affine else y).astype(np.float32))
    assert found.explanations[0].codes == ("BN128",)
    assert words in found.text()


def test_the_output_of_a_layer_called_in_training_is_its_own():
    layer = make_layer(shape=(3,), seed=6, called_in_training=True)
    x = np.random.default_rng(4).normal(1, 2, (8, 3)).astype(np.float32)
    found = diagnose(layer, x, (layer.gamma * standardized(x.astype(np.float64), 0) + layer.beta).astype(np.float32))
    assert [explanation.codes for explanation in found.explanations] == [("BN129",)]
    assert "Keras's own" in found.text()
    assert diagnose(layer, x, layer(x)).verdict == "same"


def test_moving_averages_of_the_variables_are_told_apart():
    layer = make_layer(seed=6)
    averages = make_layer(seed=7)
    x = inputs(layer)
    assert [one.codes for one in diagnose(layer, x, averages(x), averages=make_bundle(averages)).explanations] == [("BN147",)]
    found = diagnose(layer, x[0, :, 0, 1], averages(x)[0, :, 0, 1], channel=1, averages=make_bundle(averages))
    assert ("BN147",) in [one.codes for one in found.explanations]


# what hides a mistake

def test_the_reason_why_mistakes_are_hidden():
    fresh = layer_of(gamma=[1, 1, 1], beta=[0, 0, 0], mean=[0, 0, 0], variance=[1, 1, 1])
    x = np.random.default_rng(4).normal(1, 2, (80, 3)).astype(np.float32)
    text = diagnose(fresh, x, fresh(x)).text()
    assert "changes next to nothing (an identity)" in text
    assert "too few" not in text
    untrained = fresh.replace(gamma=np.array([1.5, 2, 0.5], np.float32), beta=np.array([0.1, -0.2, 0.3], np.float32))
    assert "never updated" in diagnose(untrained, x, untrained(x)).text()
    constant = np.full((40, 3), 0.0, np.float32)
    assert "only one value" in diagnose(fresh.replace(moving_mean=np.ones(3, np.float32)), constant,
                                        fresh.replace(moving_mean=np.ones(3, np.float32))(constant)).text()


# chance

def test_the_chance_of_a_fit_is_computed_and_said():
    layer = make_layer(shape=(512,), seed=6)
    found = diagnose(layer, "0.5", "0.37")
    assert "would fit these numbers by chance" in found.text() or "would fit" in found.text(), found.text()


def test_one_number_that_is_right_in_some_of_many_channels():
    layer = make_layer(shape=(2048,), seed=6)
    outputs = layer(np.full((1, 2048), 0.5, np.float32))[0]
    found = diagnose(layer, "0.5", f"{np.median(outputs):.3f}")
    assert found.verdict == "same"
    assert "of 2048 channels that were tried, about" in found.text()
    x = np.array([0.5, 0.25, 1.0], np.float32)
    assert "by chance" not in diagnose(layer, x, layer(np.repeat(x[:, None], 2048, 1))[:, 7]).text()


def test_what_numbers_of_few_digits_may_also_be_is_looked_for_in_the_layer_that_was_found(monkeypatch):
    from exporter.diagnosis import search

    asked = []
    monkeypatch.setattr(search, "explain_closer", lambda sample, whole, found: asked.append(whole.layer.path) or [])
    layers = [make_layer(path, seed=number, shape=(6,)) for number, path in enumerate("abc")]
    x = np.random.default_rng(0).normal(size=(9, 6)).astype("f4")
    found = diagnose(make_bundle(*layers), x, layers[1](x) - layers[1].beta)
    assert (found.explanations[0].codes, found.explanations[0].layer, asked) == (("BN132",), "b", ["b"])


def test_numbers_that_a_mistake_explains_as_they_are_typed_are_taken_so():
    layer = make_layer(shape=(2,), dtype="float64", seed=5)
    x = [[0.5, -1.25], [3.5, 0.75]]
    wrong = (layer(np.array(x)) - layer.beta).tolist()
    found = diagnose(layer, str(x), str(wrong))
    assert found.explanations[0].codes == ("BN132",)
    assert not any("rounded to the typed digits" in note for note in found.notes)


def test_of_several_layers_that_do_not_fit_the_nearest_is_shown():
    layers = [make_layer(path, seed=number, shape=(6,)) for number, path in enumerate("abc")]
    x = np.random.default_rng(0).normal(size=(9, 6)).astype("f4")
    noise = np.random.default_rng(1).uniform(0.01, 0.02, x.shape).astype("f4")
    found = diagnose(make_bundle(*layers), x, layers[1](x) + noise)
    assert (found.verdict, found.layer, found.explanations) == ("differs", "b", ())
    assert any("no layer was given and none of 3 fits; the comparison is with the one that comes nearest" in note for note in found.notes)


def test_numbers_that_fit_no_layer_of_a_channel():
    layer = make_layer(shape=(4,), seed=5)
    for channel in (-1, 4):
        with pytest.raises(exporter.UsageError, match=f"there is no channel {channel}") as caught:
            diagnose(layer, [1.0], [1.0], channel=channel)
        assert caught.value.hint == "channels are counted from 0: the last one is 3"
    for channel in (0, 3):
        with pytest.raises(exporter.UsageError, match=r"the input has shape \[2, 3\], the layer 4 channels"):
            diagnose(layer, np.ones((2, 3)), np.ones((2, 3)), channel=channel, axis=1)
    none = make_bundle(layer).replace(layers=(), skipped=(("a", "why"),))
    with pytest.raises(exporter.UsageError, match=r"the input of shape \[1\] fits none of the 0 layers"):
        diagnose(none, [1.0], [1.0], channel=0)

"""What each variant of each mistake computes: formulas of their own, written as people write them, on arrays of any layout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from exporter.diagnosis.case import make_case
from exporter.diagnosis.mistakes import MISTAKES
from tests.make.layers import make_layer

EPSILON = 0.004
GAMMA, BETA, MEAN, VARIANCE = [1.5, -0.75, 0.0, 2.0], [0.25, 1.0, -0.5, -2.0], [0.5, -1.25, 2.0, -0.125], [0.3, 2e-3, 1.75, 0.9]
EPSILONS = {1e-3: "Keras 1.2 and later, TensorFlow", 1e-4: "TensorFlow's FusedBatchNorm op",
            1e-5: "PyTorch, ONNX, Caffe, Paddle, Keras 1.0.8 to 1.1", 1e-6: "Keras 0.1 to 1.0.7, darknet", 1e-7: "keras.backend.epsilon()",
            1e-8: "hand-written code", 1e-12: "LayerNorm code of BERT"}
ACTIVATIONS = {"relu": lambda y: y * (y > 0), "relu6": lambda y: np.minimum(y * (y > 0), 6), "tanh": np.tanh,
               "elu": lambda y: np.where(y > 0, y, np.exp(y) - 1), "sigmoid": lambda y: 0.5 + 0.5 * np.tanh(y / 2),
               "swish": lambda y: y * (0.5 + 0.5 * np.tanh(y / 2)), "softplus": lambda y: np.log1p(np.exp(-np.abs(y))) + y * (y > 0),
               **{f"leaky relu, slope {slope}": lambda y, slope=slope: np.maximum(y, slope * y) for slope in (0.01, 0.1, 0.2, 0.3)}}
BARE = ("without gamma and beta", "without gamma, beta and epsilon")


def norm(x, g, b, m, v, e):
    return g * (x - m) / np.sqrt(v + e) + b


def bfloat16(values):
    bits = np.float32(values).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32).astype(np.float64)


def float16(values):
    return values.astype(np.float16).astype(np.float64)


def symmetric(values):
    step = np.abs(values).max() / 127 or 1.0
    return np.rint(values / step) * step


def affine(values):
    step = (values.max() - values.min()) / 255 or 1.0
    return np.rint((values - values.min()) / step) * step + values.min()


def of_parameters(x, g, b, m, v, e):
    """What follows from the parameters and the input alone, number by number."""
    root, one, zero = np.sqrt(v + e), np.ones_like(m), np.zeros_like(m)
    right = norm(x, g, b, m, v, e)
    yield "BN101", "", g * (x - m) / (np.sqrt(v) + e) + b
    yield "BN102", "", norm(x, g, b, m, v, 0)
    for epsilon, whose in EPSILONS.items():
        yield "BN103", f"epsilon {epsilon:g} ({whose})", norm(x, g, b, m, v, epsilon)
    for epsilon in (0.01, 0.002, 3e-5):
        yield "BN105", f"epsilon {epsilon:g}", norm(x, g, b, m, v, epsilon)
    yield "BN106", "under the root and behind it", g * (x - m) / (root + e) + b
    yield "BN107", "sqrt(max(variance, epsilon))", g * (x - m) / np.sqrt(np.maximum(v, e)) + b
    yield "BN107", "max(sqrt(variance), epsilon)", g * (x - m) / np.maximum(np.sqrt(v), e) + b
    yield "BN111", "variance + epsilon", g * (x - m) / (v + e) + b
    yield "BN111", "variance alone", g * (x - m) / v + b
    yield "BN112", "", norm(x, g, b, m, v * v, e)
    yield "BN113", "sqrt(variance)", norm(x, g, b, m, np.sqrt(v), e)
    yield "BN113", "sqrt(variance + epsilon)", norm(x, g, b, m, root, e)
    yield "BN114", "by the root", g * (x - m) * root + b
    yield "BN114", "by the variance", g * (x - m) * (v + e) + b
    yield "BN123", "mean 0, variance 1", norm(x, g, b, 0, 1, e)
    yield "BN123", "mean 0, variance 0", norm(x, g, b, 0, 0, e)
    yield "BN124", "", norm(x, g, b, v, m, e)
    yield "BN124", "the negative variances clamped to 0", norm(x, g, b, v, np.maximum(m, 0), e)
    yield "BN124", "their magnitudes", norm(x, g, b, v, np.abs(m), e)
    yield "BN125", "left out", g * x / root + b
    yield "BN125", "added", g * (x + m) / root + b
    yield "BN126", "variance 1", norm(x, g, b, m, 1, e)
    yield "BN127", "gamma 1, beta 0, mean 0, variance 1", norm(x, 1, 0, 0, 1, e)
    yield "BN131", "", (x - m) / root + b
    yield "BN132", "", g * (x - m) / root
    yield "BN133", "", norm(x, b, g, m, v, e)
    yield "BN134", "gamma * (normalized + beta)", g * ((x - m) / root + b)
    yield "BN134", "gamma * (x - mean + beta) / sqrt(...)", g * (x - m + b) / root
    yield "BN135", "", norm(x, 1 + g, b, m, v, e)
    yield "BN136", "|gamma|", norm(x, np.abs(g), b, m, v, e)
    yield "BN136", "max(gamma, 0)", norm(x, g * (g > 0), b, m, v, e)
    arrays = {"gamma": g, "beta": b, "mean": m, "variance": v}
    for order in itertools.permutations(arrays):
        moved = [(name, taken) for name, taken in zip(arrays, order, strict=True) if name != taken]
        if moved and moved not in ([("gamma", "beta"), ("beta", "gamma")], [("mean", "variance"), ("variance", "mean")]):
            yield "BN138", ", ".join(f"{taken} for {name}" for name, taken in moved), norm(x, *(arrays[name] for name in order), e)
    yield "BN139", "the factor 1 / gamma", (x - m) / (g * root) + b
    yield "BN139", "the offset with beta / gamma", np.where(np.broadcast_to(g == 0, x.shape), np.nan, right)
    yield "BN140", "", g * (x - m) / root - b
    yield "BN147", "all four arrays", norm(x, 0.97 * g, b + 0.03, 1.02 * m, 1.05 * v, e)
    for name, function in ACTIVATIONS.items():
        yield "BN151", name, norm(function(x), g, b, m, v, e)
        yield "BN152", name, function(right)
    yield "BN153", "", norm(right, g, b, m, v, e)
    yield "BN154", "", x
    yield "BN155", "beta - mean", g / root * x + (b - m)
    yield "BN155", "beta - mean / sqrt(...)", g / root * x + (b - m / root)
    yield "BN155", "no offset", g / root * x
    for code, form, rounding in (("BN161", "", float16), ("BN162", "", bfloat16), ("BN163", "symmetric int8, ", symmetric),
                                 ("BN163", "affine uint8, ", affine)):
        yield code, f"{form}the four parameters", norm(x, *map(rounding, (g, b, m, v)), e)
        yield code, f"{form}scale and offset of the folded form", rounding(g / root * one) * x + rounding(b - g / root * m + zero)
    half = [values.astype(np.float16) for values in (g, x, m, v, np.full_like(m, e), b)]
    yield "BN164", "each step in float16", (half[0] * ((half[1] - half[2]) / np.sqrt(half[3] + half[4])) + half[5]).astype(np.float64)
    for digits in range(2, 9):
        yield "BN165", f"{digits} digits after the point", norm(x, *(np.round(values, digits) for values in (g, b, m, v)), e)


def of_the_input(x, g, b, e, axes):
    """Statistics of the input at hand. axes: of the channels."""
    every = tuple(range(x.ndim))

    def ways(mean, variance):
        yield "", norm(x, g, b, mean, variance, e)
        yield BARE[0], norm(x, 1, 0, mean, variance, e)
        yield BARE[1], norm(x, 1, 0, mean, variance, 0)

    rows = tuple(axis for axis in every if axis not in axes)
    for how, value in ways(x.mean(rows, keepdims=True), x.var(rows, keepdims=True)):
        yield "BN121", ", ".join(filter(None, ("of each channel", how))), value
    for how, value in ways(x.mean(), x.var()):
        yield "BN121", f"of the whole input, {how or 'all channels together'}", value
    for how, value in ways(x.mean(rows, keepdims=True), x.var(rows, ddof=1, keepdims=True)):
        yield "BN122", how, value
    for which, over in (("each row of channels by itself", axes), ("each channel of a sample by itself", rows[1:]),
                        ("each sample by itself", every[1:])):
        mean = x.mean(over, keepdims=True)
        for how, value in ways(mean, x.var(over, keepdims=True)):
            yield "BN128", ", ".join(filter(None, (which, how))), value
        yield "BN128", f"{which}, {BARE[1]}, the variance unbiased", norm(x, 1, 0, mean, x.var(over, ddof=1, keepdims=True), 0)


COMMON = {"reversed": [3, 2, 1, 0], "off by one: each channel with the parameters of the next": [1, 2, 3, 0],
          "off by one: each channel with the parameters of the one before": [3, 0, 1, 2], "halves swapped": [2, 3, 0, 1]}
ORDERS = {1: {**COMMON, "interleaved in 2 groups": [0, 2, 1, 3]}, 2: {**COMMON, "the parameters read in column-major order": [0, 2, 1, 3]}}
LAYOUTS = {"last": ((3, 4, 2, 4), (3,)), "first": ((3, 4, 2, 5), (1,)), "second of three": ((2, 5, 4), (2,)),
           "several": ((3, 2, 5, 2), (1, 3))}


def make(layout, **more):
    """(layer, another layer, input, its axes, the layer's parameters in a form that broadcasts against it)."""
    shape, axes = LAYOUTS[layout]
    wide = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
    lengths = tuple(shape[axis] for axis in axes)
    arrays = {name: np.array(values).reshape(lengths) for name, values in (("gamma", GAMMA), ("beta", BETA), ("moving_mean", MEAN),
                                                                            ("moving_variance", VARIANCE))}
    arrays |= more
    layer = make_layer(shape=lengths, axis=axes, dtype="float64", epsilon=EPSILON).replace(**arrays)
    x = np.random.default_rng(3).normal(0.3, 2, shape)
    held = [np.zeros(wide) + (fill if arrays[name] is None else arrays[name].reshape(wide))
            for name, fill in (("gamma", 1.0), ("beta", 0.0), ("moving_mean", 0.0), ("moving_variance", 0.0))]
    return layer, make_layer("other", shape=lengths, axis=axes, dtype="float64", seed=9), x, axes, held


def computed(layer, other, x, axes):
    case = make_case(layer, x, axes, others=[other])
    return {(mistake.code, detail): changed.value() for mistake in MISTAKES for detail, changed in mistake.variants(case)}


def as_rows(values, axes):
    """(rows, channels)"""
    rows = [axis for axis in range(values.ndim) if axis not in axes]
    return values.transpose(*rows, *axes).reshape(-1, int(np.prod([values.shape[axis] for axis in axes])))


def wanted(layer, other, x, axes, held):
    found = {}
    with np.errstate(all="ignore"):
        for code, detail, value in (*of_parameters(x, *held, EPSILON), *of_the_input(x, *held[:2], EPSILON, axes)):
            found[code, detail] = as_rows(value * np.ones_like(x), axes)
    columns = [as_rows(values, axes)[0] for values in held]
    rows, straight = as_rows(x, axes), np.arange(4)
    further = np.where(straight % 3 == 0, 1.01, 1.0)
    found["BN146", "every third channel"] = norm(rows, further * columns[0], columns[1], further * columns[2], further**2 * columns[3],
                                                 EPSILON)
    for how, order in ORDERS[len(axes)].items():
        found["BN143", how] = norm(rows, *(values[order] for values in columns), EPSILON)
        found["BN144", how] = norm(rows, *columns, EPSILON)[:, order]
    theirs = [as_rows(np.zeros_like(x) + values.reshape(held[0].shape), axes)[0] for values in other.parameters().values()]
    for what, taken in (("all", (0, 1, 2, 3)), ("moving_mean and moving_variance", (2, 3)), ("gamma and beta", (0, 1))):
        chosen = [theirs[at] if at in taken else columns[at] for at in range(4)]
        epsilon = other.epsilon if what == "all" else EPSILON
        found["BN145", f"{what} of 'other'"] = norm(rows, *chosen, epsilon)
    position = np.arange(x.size).reshape(x.shape)
    inner = x[0].size // 4
    readings = {("BN141", f"along axis {axis} of the input instead of axis {axes[0]}"): np.indices(x.shape)[axis]
                for axis in range(x.ndim) if len(axes) == 1 and axis not in axes and x.shape[axis] == 4}
    readings["BN142", "the buffer read as channels last (index % channels)"] = position % 4
    readings["BN142", "the buffer read as channels first (index // inner % channels)"] = position // inner % 4
    own = np.zeros(x.shape, int) + np.arange(4).reshape(held[0].shape)
    for key, channel in readings.items():
        if (channel != own).any():
            found[key] = as_rows(norm(x, *(values[channel] for values in columns), EPSILON), axes)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_variant_computes_what_its_name_says(layout):
    layer, other, x, axes, held = make(layout)
    got, want = computed(layer, other, x, axes), wanted(layer, other, x, axes, held)
    assert set(got) == set(want)
    assert {key for key, value in got.items() if not np.allclose(value, want[key], rtol=1e-9, atol=1e-12, equal_nan=True)} == set()


def test_a_layer_without_gamma_or_beta_has_the_mistakes_that_it_can_have():
    full = set(computed(*make("last")[:4]))
    orders = {key for key in full if key[0] == "BN138"}
    signs = {("BN136", "|gamma|"), ("BN136", "max(gamma, 0)"), ("BN139", "the offset with beta / gamma")}
    without_gamma = {("BN131", ""), ("BN134", "gamma * (normalized + beta)"), ("BN139", "the factor 1 / gamma"),
                     ("BN155", "beta - mean / sqrt(...)"), *signs, *orders}
    without_beta = {("BN132", ""), ("BN134", "gamma * (normalized + beta)"), ("BN134", "gamma * (x - mean + beta) / sqrt(...)"),
                    ("BN140", ""), *orders}
    bare = {key for key in full if key[1].endswith(BARE[0])}
    for lacking, gone, new in (
            ({"gamma": None}, without_gamma, "beta taken for gamma, mean for beta, variance for mean"),
            ({"beta": None}, without_beta, "mean taken for beta, variance for mean"),
            ({"gamma": None, "beta": None}, without_gamma | without_beta | bare | {("BN133", ""), ("BN145", "gamma and beta of 'other'")},
             "mean taken for gamma, variance for beta")):
        layer, other, x, axes, held = make("last", **lacking)
        got = computed(layer, other, x, axes)
        assert set(got) == full - gone | {("BN137", new)}, lacking
        g, b, m, v = held
        shifted = {1: (b, m, v, 1), 2: (g, m, v, 1), 3: (m, v, 0, 1)}[("gamma" in lacking) + 2 * ("beta" in lacking)]
        assert np.allclose(got["BN137", new], as_rows(norm(x, *shifted, EPSILON), axes), rtol=1e-9)
        want = wanted(layer, other, x, axes, held)
        assert {key for key in got if key[0] != "BN137" and not np.allclose(got[key], want[key], rtol=1e-9, equal_nan=True)} == set()


def test_variants_that_change_nothing_are_left_out():
    layer, other, x, axes, _ = make("last")
    usual = layer.replace(epsilon=1e-3, gamma=np.abs(layer.gamma) / 4 + np.float32(0.1))
    codes = [key for key in computed(usual, other, x, axes) if key[0] in ("BN103", "BN136") or "beta / gamma" in key[1]]
    assert codes == [("BN103", f"epsilon {epsilon:g} ({whose})") for epsilon, whose in EPSILONS.items() if epsilon != 1e-3]
    positive = computed(layer.replace(gamma=np.array([0.0, 1, 2, 3])), other, x, axes)
    assert [key for key in positive if key[0] == "BN136" or "beta / gamma" in key[1]] == [("BN139", "the offset with beta / gamma")]
    none = set(computed(layer.replace(epsilon=0.0), other, x, axes))
    assert ("BN102", "") not in none
    assert not {key for key in none if key[1].endswith(BARE[1])}
    assert ("BN128", "each row of channels by itself, without gamma and beta, the variance unbiased") in none
    small = computed(layer.replace(epsilon=1e-6), other, x, axes)["BN104", "epsilon 1.001e-05"]
    assert np.allclose(small, layer.replace(epsilon=1.001e-5)(x).reshape(small.shape))
    said = {key[1] for key in computed(layer.replace(epsilon=1e-6, effective_epsilon=2e-5), other, x, axes) if key[0] == "BN104"}
    assert said == {"epsilon 2e-05"}
    assert not {key for key in computed(layer.replace(epsilon=1.001e-5), other, x, axes) if key[0] == "BN104"}


@pytest.mark.parametrize(("shape", "axes", "gone"), [
    ((1, 4), (1,), {"BN122", "BN142", "each sample", "each channel of a sample"}),  # one row: no unbiased variance
    ((6, 4), (1,), {"BN142", "each sample", "each channel of a sample"}),  # one row a sample
    ((1, 3, 4), (2,), {"each sample", "each channel of a sample"}), ((4, 5), (0,), {"each sample", "each channel of a sample"})])
def test_statistics_that_the_input_does_not_have(shape, axes, gone):
    x = np.random.default_rng(3).normal(0.3, 2, shape)
    layer = make_layer(shape=(4,), dtype="float64", epsilon=EPSILON)
    keys = set(computed(layer, layer, x, axes))
    for what in ("BN122", "BN142", "each sample", "each channel of a sample", "each row of channels"):
        assert any(what in " ".join(key) for key in keys) != (what in gone), what


def test_a_layer_called_in_training_has_no_statistics_of_the_batch_but_its_own():
    layer, other, x, axes, held = make("last")
    got = computed(layer.replace(called_in_training=True), other, x, axes)
    assert {key for key in got if key[0] in ("BN121", "BN129")} == {("BN129", "of each channel")}
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    assert np.allclose(got["BN129", "of each channel"], norm(x.reshape(-1, 4), *(v.ravel() for v in held[:2]), mean, variance, EPSILON))


def test_one_channel_has_no_rows_and_no_whole_of_its_own():
    layer = make_layer(shape=(1,), dtype="float64", epsilon=EPSILON)
    keys = set(computed(layer, layer, np.random.default_rng(3).normal(0.3, 2, (3, 5, 1)), (2,)))
    said = {detail for code, detail in keys if code in ("BN121", "BN128", "BN142", "BN143")}
    assert not {detail for detail in said if "whole" in detail or "row" in detail or "each sample" in detail or "buffer" in detail}
    assert "each channel of a sample by itself" in said

"""The mistakes of the table in exporter/diagnosis/mistakes.py as changes of a Case: each function yields (which variant, the changed case).

A variant that is impossible for a layer (no gamma to omit, one row without an unbiased variance) is not yielded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from exporter.batchnorm.dtypes import round_to
from exporter.diagnosis.case import Case, Variants, layouts
from exporter.keras.dialects import FUSED_MINIMUM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DEFAULT_EPSILONS = {  # whose default it is
    1e-3: "Keras 1.2 and later, TensorFlow", 1e-4: "TensorFlow's FusedBatchNorm op",
    1e-5: "PyTorch, ONNX, Caffe, Paddle, Keras 1.0.8 to 1.1",
    1e-6: "Keras 0.1 to 1.0.7, darknet", 1e-7: "keras.backend.epsilon()", 1e-8: "hand-written code", 1e-12: "LayerNorm code of BERT"}

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda y: np.maximum(y, 0),
    "relu6": lambda y: np.minimum(np.maximum(y, 0), 6),
    "leaky relu, slope 0.01": lambda y: np.maximum(0.01 * y, y),
    "leaky relu, slope 0.1": lambda y: np.maximum(0.1 * y, y),
    "leaky relu, slope 0.2": lambda y: np.maximum(0.2 * y, y),
    "leaky relu, slope 0.3": lambda y: np.maximum(0.3 * y, y),
    "elu": lambda y: np.maximum(np.expm1(np.minimum(y, 0)), y),
    "sigmoid": lambda y: 1 / (1 + np.exp(-y)),
    "tanh": np.tanh,
    "swish": lambda y: y / (1 + np.exp(-y)),
    "softplus": lambda y: np.logaddexp(y, 0),
}


def epsilon_outside(case: Case) -> Variants:
    yield "", case.but(divisor=lambda variance, epsilon: np.sqrt(variance) + epsilon)


def no_epsilon(case: Case) -> Variants:
    if case.epsilon.any():
        yield "", case.but(epsilon=np.zeros_like(case.epsilon))


def default_epsilon(case: Case) -> Variants:
    for value, whose in DEFAULT_EPSILONS.items():
        if (case.epsilon != value).any():
            yield f"epsilon {value:g} ({whose})", case.but(epsilon=np.full_like(case.epsilon, value))


def fused_epsilon(case: Case) -> Variants:
    value = case.setting.layer.effective_epsilon or FUSED_MINIMUM
    if (case.epsilon < value).any():
        yield f"epsilon {value:g}", case.but(epsilon=np.maximum(case.epsilon, value))


def epsilon_twice(case: Case) -> Variants:
    yield "under the root and behind it", case.but(divisor=lambda variance, epsilon: np.sqrt(variance + epsilon) + epsilon)


def epsilon_as_floor(case: Case) -> Variants:
    yield "sqrt(max(variance, epsilon))", case.but(divisor=lambda variance, epsilon: np.sqrt(np.maximum(variance, epsilon)))
    yield "max(sqrt(variance), epsilon)", case.but(divisor=lambda variance, epsilon: np.maximum(np.sqrt(variance), epsilon))


def divided_by_variance(case: Case) -> Variants:
    yield "variance + epsilon", case.but(divisor=lambda variance, epsilon: variance + epsilon)
    yield "variance alone", case.but(divisor=lambda variance, _: variance)


def variance_squared(case: Case) -> Variants:
    yield "", case.but(variance=case.variance**2)


def deviation_as_variance(case: Case) -> Variants:
    with np.errstate(invalid="ignore"):
        yield "sqrt(variance)", case.but(variance=np.sqrt(case.variance))
    yield "sqrt(variance + epsilon)", case.but(variance=np.sqrt(case.variance + case.epsilon))


def multiplied(case: Case) -> Variants:
    yield "by the root", case.but(divisor=lambda variance, epsilon: 1 / np.sqrt(variance + epsilon))
    yield "by the variance", case.but(divisor=lambda variance, epsilon: 1 / (variance + epsilon))


def statistics_never_loaded(case: Case) -> Variants:
    mean, variance = np.zeros_like(case.mean), np.ones_like(case.variance)
    yield "mean 0, variance 1", case.but(mean=mean, variance=variance)
    yield "mean 0, variance 0", case.but(mean=mean, variance=mean)


def variance_never_loaded(case: Case) -> Variants:
    yield "variance 1", case.but(variance=np.ones_like(case.variance))


def never_loaded(case: Case) -> Variants:
    one, zero = np.ones_like(case.mean), np.zeros_like(case.mean)
    yield "gamma 1, beta 0, mean 0, variance 1", case.but(gamma=one, beta=zero, mean=zero, variance=one)


def mean_and_variance_swapped(case: Case) -> Variants:
    yield "", case.but(mean=case.variance, variance=case.mean)
    yield "the negative variances clamped to 0", case.but(mean=case.variance, variance=np.maximum(case.mean, 0))
    yield "their magnitudes", case.but(mean=case.variance, variance=np.abs(case.mean))


def mean_not_subtracted(case: Case) -> Variants:
    yield "left out", case.but(mean=np.zeros_like(case.mean))
    yield "added", case.but(mean=-case.mean)


def no_gamma(case: Case) -> Variants:
    if case.setting.layer.gamma is not None:
        yield "", case.but(gamma=np.ones_like(case.gamma))


def no_beta(case: Case) -> Variants:
    if case.setting.layer.beta is not None:
        yield "", case.but(beta=np.zeros_like(case.beta))


def gamma_and_beta_swapped(case: Case) -> Variants:
    if case.setting.layer.gamma is not None or case.setting.layer.beta is not None:
        yield "", case.but(gamma=case.beta, beta=case.gamma)


def beta_inside(case: Case) -> Variants:
    if case.setting.layer.beta is not None:
        if case.setting.layer.gamma is not None:
            yield "gamma * (normalized + beta)", case.but(beta=case.gamma * case.beta)
        yield "gamma * (x - mean + beta) / sqrt(...)", case.but(beta=case.scale() * case.beta)


def one_plus_gamma(case: Case) -> Variants:
    yield "", case.but(gamma=1 + case.gamma)


def absolute_gamma(case: Case) -> Variants:
    if (case.gamma < 0).any():
        yield "|gamma|", case.but(gamma=np.abs(case.gamma))
        yield "max(gamma, 0)", case.but(gamma=np.maximum(case.gamma, 0))


def divided_by_gamma(case: Case) -> Variants:
    if case.setting.layer.gamma is not None:
        with np.errstate(divide="ignore"):
            yield "the factor 1 / gamma", case.but(gamma=1 / case.gamma)
    if (case.gamma == 0).any():
        yield "the offset with beta / gamma", case.but(beta=np.where(case.gamma == 0, np.nan, case.beta))


def beta_subtracted(case: Case) -> Variants:
    if case.setting.layer.beta is not None:
        yield "", case.but(beta=-case.beta)


def arrays_shifted(case: Case) -> Variants:
    """The arrays of a layer that lacks gamma or beta, assigned in order as if it had both; whatever is then missing remains 1."""
    layer, ones = case.setting.layer, np.ones_like(case.gamma)
    if layer.gamma is None and layer.beta is not None:
        yield "beta taken for gamma, mean for beta, variance for mean", case.but(
            gamma=case.beta, beta=case.mean, mean=case.variance, variance=ones)
    elif layer.beta is None and layer.gamma is not None:
        yield "mean taken for beta, variance for mean", case.but(beta=case.mean, mean=case.variance, variance=ones)
    elif layer.gamma is None:
        yield "mean taken for gamma, variance for beta", case.but(
            gamma=case.mean, beta=case.variance, mean=np.zeros_like(ones), variance=ones)


def arrays_reordered(case: Case) -> Variants:
    import itertools

    names = ("gamma", "beta", "mean", "variance")
    swaps = {("beta", "gamma", "mean", "variance"), ("gamma", "beta", "variance", "mean"), names}
    if case.setting.layer.gamma is None or case.setting.layer.beta is None:
        return
    for order in itertools.permutations(names):
        if order not in swaps:
            yield ", ".join(f"{taken} for {name}" for name, taken in zip(names, order) if name != taken), case.but(
                **{name: getattr(case, taken) for name, taken in zip(names, order)})


def wrong_axis(case: Case) -> Variants:
    for how, index in layouts(case.setting):
        if how.startswith("along"):
            yield how, case.at(index)


def wrong_layout(case: Case) -> Variants:
    for how, index in layouts(case.setting):
        if not how.startswith("along"):
            yield how, case.at(index)


def orders(channels: int, shape: tuple[int, ...]) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """The orders of channels that mistakes produce, without the identity and without repetition."""
    straight = np.arange(channels)
    named = [("reversed", straight[::-1]), ("off by one: each channel with the parameters of the next", np.roll(straight, -1)),
             ("off by one: each channel with the parameters of the one before", np.roll(straight, 1)),
             ("the parameters read in column-major order", straight.reshape(shape, order="F").ravel())]
    for groups in (2, 3, 4, 8, 16, 32):
        if channels % groups == 0:
            named.append((f"interleaved in {groups} groups", straight.reshape(groups, -1).T.ravel()))
    if channels % 2 == 0:
        named.append(("halves swapped", np.roll(straight, channels // 2)))
    seen = {straight.tobytes()}
    for how, order in named:
        order = np.ascontiguousarray(order)
        if order.tobytes() not in seen:
            seen.add(order.tobytes())
            yield how, order


def channels_reordered(case: Case) -> Variants:
    for how, order in orders(case.x.shape[1], case.setting.layer.shape):
        yield how, case.at(order)


def result_reordered(case: Case) -> Variants:
    for how, order in orders(case.x.shape[1], case.setting.layer.shape):
        yield how, case.at(order).but(x=case.x[:, order], magnitude=case.magnitude[:, order])


def other_layer(case: Case) -> Variants:
    own = case.setting.layer
    for other in case.setting.others:
        yield f"all of {other.path!r}", case.with_layer(other)
        theirs, mine = case.with_layer(other), case
        yield f"moving_mean and moving_variance of {other.path!r}", mine.but(mean=theirs.mean, variance=theirs.variance)
        if own.gamma is not None or own.beta is not None:
            yield f"gamma and beta of {other.path!r}", mine.but(gamma=theirs.gamma, beta=theirs.beta)


def activation_before(case: Case) -> Variants:
    for name, function in ACTIVATIONS.items():
        with np.errstate(all="ignore"):
            yield name, case.but(x=function(case.x))


def activation_after(case: Case) -> Variants:
    for name, function in ACTIVATIONS.items():
        yield name, case.but(after=function)


def applied_twice(case: Case) -> Variants:
    yield "", case.but(x=case.value(), magnitude=case.size())


def not_applied(case: Case) -> Variants:
    one, zero = np.ones_like(case.mean), np.zeros_like(case.mean)
    yield "", case.but(gamma=one, beta=zero, mean=zero, variance=one, epsilon=zero)


def folded_offset(case: Case) -> Variants:
    yield "beta - mean", case.but(beta=case.beta - case.mean + case.scale() * case.mean)
    if case.setting.layer.gamma is not None:
        root = case.divisor(case.variance, case.epsilon)
        yield "beta - mean / sqrt(...)", case.but(beta=case.beta - case.mean / root + case.scale() * case.mean)
    yield "no offset", case.but(mean=np.zeros_like(case.mean), beta=np.zeros_like(case.beta))


def _rounded(case: Case, rounding: Callable[[Array], Array]) -> Variants:
    yield "the four parameters", case.but(gamma=rounding(case.gamma), beta=rounding(case.beta), mean=rounding(case.mean),
                                          variance=rounding(case.variance))
    scale = case.scale()
    yield "scale and offset of the folded form", case.but(
        gamma=rounding(scale), beta=rounding(case.beta - scale * case.mean), mean=np.zeros_like(case.mean),
        divisor=lambda variance, _: np.ones_like(variance))


def parameters_in_float16(case: Case) -> Variants:
    yield from _rounded(case, lambda values: round_to(values, "float16").astype(np.float64))


def parameters_in_bfloat16(case: Case) -> Variants:
    yield from _rounded(case, lambda values: round_to(values, "bfloat16").astype(np.float64))


def symmetric_int8(values: Array) -> Array:
    """127 steps up and down from 0, one step size for the array."""
    step = np.abs(values).max() / 127 or 1.0
    return np.asarray(np.rint(values / step) * step)


def affine_uint8(values: Array) -> Array:
    """256 steps from the smallest to the largest value, one step size for the array (as TensorFlow.js quantizes)."""
    low, high = values.min(), values.max()
    step = (high - low) / 255 or 1.0
    return np.asarray(np.rint((values - low) / step) * step + low)


def parameters_in_int8(case: Case) -> Variants:
    for name, rounding in (("symmetric int8", symmetric_int8), ("affine uint8", affine_uint8)):
        for which, changed in _rounded(case, rounding):
            yield f"{name}, {which}", changed


def parameters_from_print(case: Case) -> Variants:
    for digits in (2, 3, 4, 5, 6, 7, 8):
        yield f"{digits} digits after the point", case.but(**{
            name: np.round(getattr(case, name), digits) for name in ("gamma", "beta", "mean", "variance")})


def float16_arithmetic(case: Case) -> Variants:
    """An example: each step rounded to float16."""
    def steps(_: Array) -> Array:
        with np.errstate(all="ignore"):
            half = [values.astype(np.float16) for values in (case.gamma, case.x, case.mean, case.variance, case.epsilon, case.beta)]
            gamma, x, mean, variance, epsilon, beta = half
            return np.asarray(gamma * ((x - mean) / np.sqrt(variance + epsilon)) + beta, np.float64)

    yield "each step in float16", case.but(after=steps)


def another_epsilon(case: Case) -> Variants:
    """Examples; the value is solved for from the data."""
    for value in (0.01, 2e-3, 3e-5):
        yield f"epsilon {value:g}", case.but(epsilon=np.full_like(case.epsilon, value))


def moving_averages(case: Case) -> Variants:
    """An example: averages that lag behind the variables by a different amount in each array."""
    yield "all four arrays", case.but(gamma=case.gamma * 0.97, beta=case.beta + 0.03, mean=case.mean * 1.02, variance=case.variance * 1.05)


def another_checkpoint(case: Case) -> Variants:
    """An example: every third channel was trained a little further."""
    factor = np.where(np.arange(case.x.shape[1]) % 3 == 0, 1.01, 1.0)
    yield "every third channel", case.but(gamma=case.gamma * factor, mean=case.mean * factor, variance=case.variance * factor**2)

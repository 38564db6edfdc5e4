"""Batch normalisation in inference from a bundle, with Python's standard library alone.

    layers = load(open("bundle.json", encoding="utf-8").read())
    y = layers["encoder/bn_1"](x, shape)      # x: numbers in row-major order, shape: of the input; y: likewise

The format is described in docs/format.md of bn-export. Python 3.8 or later.
"""

import json
import math

# dtype: (bits of the significand, exponent of the smallest subnormal number, largest number)
TYPES = {"float16": (11, -24, 65504.0), "bfloat16": (8, -133, (2 - 2.0**-7) * 2.0**127),
         "float32": (24, -149, (2 - 2.0**-23) * 2.0**127), "float64": (53, -1074, (2 - 2.0**-52) * 2.0**1023)}


class BundleError(ValueError):
    """A bundle that breaks the format."""


def load(text):
    """The layers of a bundle, {path: Layer} in the model's order. Raises BundleError."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"this is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != "bn-bundle":
        raise BundleError("this is not a bundle")
    if document.get("version") != 1:
        raise BundleError(f"version {document.get('version')} of the format is not known")
    layers = {}
    try:
        for entry in document["layers"]:
            layer = Layer(entry)
            if layer.path in layers:
                raise BundleError(f"{layer.path}: this path occurs twice")
            layers[layer.path] = layer
    except (KeyError, TypeError, OverflowError) as error:
        raise BundleError(f"something is missing or of another type: {error}") from None
    return layers


def _refuse_constant(name):
    raise BundleError(f"{name} is not JSON")


class Layer:
    """One layer. gamma, beta, moving_mean, moving_variance are lists of `channels` numbers; an absent gamma is 1, an absent beta 0."""

    def __init__(self, entry):
        self.path, self.dtype, self.axis, self.shape = (entry[key] for key in ("path", "dtype", "axis", "shape"))
        self.epsilon, self.vectors = entry["epsilon"], entry.get("vectors")
        if type(self.path) is not str or self.dtype not in TYPES or type(self.epsilon) not in (int, float) or not self.epsilon >= 0:
            raise BundleError(f"{self.path}: dtype {self.dtype!r} or epsilon {self.epsilon!r} is not possible")
        if len(self.axis) != len(self.shape) or 0 in self.axis or any(type(number) is not int for number in [*self.axis, *self.shape]):
            raise BundleError(f"{self.path}: axis {self.axis} does not fit parameters of shape {self.shape}")
        self.channels = math.prod(self.shape)
        self.gamma, self.beta = self._numbers(entry, "gamma", 1.0), self._numbers(entry, "beta", 0.0)
        self.moving_mean, self.moving_variance = self._numbers(entry, "moving_mean"), self._numbers(entry, "moving_variance")
        if not all(variance + self.epsilon > 0 for variance in self.moving_variance):
            raise BundleError(f"{self.path}: moving_variance + epsilon is not above 0")

    def _numbers(self, entry, name, default=None):
        values = entry[name]
        if values is None and default is not None:
            return [default] * self.channels
        if type(values) is not list or len(values) != self.channels or any(type(value) not in (int, float) for value in values):
            raise BundleError(f"{self.path}: {name} is not {self.channels} numbers")
        numbers = [round_to(float(value), self.dtype) for value in values]
        if not all(map(math.isfinite, numbers)):
            raise BundleError(f"{self.path}: {name} holds a number that overflows {self.dtype}")
        return numbers

    def __call__(self, x, shape):
        """What inference gives for the numbers x of an input of this shape: the formula in double, rounded once to dtype."""
        roots = [math.sqrt(variance + self.epsilon) for variance in self.moving_variance]
        parameters = list(zip(self.gamma, self.moving_mean, roots, self.beta))
        result = []
        for value, channel in zip(x, self.channel_of_each(shape)):
            gamma, mean, root, beta = parameters[channel]
            result.append(round_to(gamma * (value - mean) / root + beta, self.dtype))
        return result

    def channel_of_each(self, shape):
        """The channel of each number of an input of this shape, in row-major order."""
        axes = [axis % len(shape) if -len(shape) <= axis < len(shape) else None for axis in self.axis]
        if None in axes or [shape[axis] for axis in axes] != list(self.shape):
            raise ValueError(f"{self.path}: an input of shape {list(shape)} does not have {self.shape} channels along axis {self.axis}")
        steps = [0] * len(shape)
        for d, axis in enumerate(axes):
            steps[axis] = math.prod(self.shape[d + 1:])
        channels = [0]
        for size, step in zip(shape, steps):
            channels = [channel + i * step for channel in channels for i in range(size)]
        return channels


def round_to(value, dtype):
    """The number of `dtype` nearest to a double, half to even; infinite where it overflows."""
    bits, lowest, largest = TYPES[dtype]
    if dtype == "float64" or not math.isfinite(value):
        return float(value)
    quantum = max(math.frexp(value)[1] - bits, lowest)
    rounded = math.copysign(math.ldexp(round(math.ldexp(value, -quantum)), quantum), value)
    return rounded if abs(rounded) <= largest else math.copysign(math.inf, value)

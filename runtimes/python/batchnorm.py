"""Batch normalization in inference from a bundle, with Python's standard library alone.

    layers = load(open("bundle.json", "rb").read())
    y = layers["encoder/bn_1"](x, shape)      # x: numbers in row-major order, shape: of the input; y: likewise

The format is described in docs/format.md of bn-export. Python 3.8 or later.
"""

import json
import math
import operator
import re

# dtype: (bits of the significand, exponent of the smallest subnormal number, largest number)
TYPES = {"float16": (11, -24, 65504.0), "bfloat16": (8, -133, (2 - 2.0**-7) * 2.0**127),
         "float32": (24, -149, (2 - 2.0**-23) * 2.0**127), "float64": (53, -1074, (2 - 2.0**-52) * 2.0**1023)}
FORMULA = "gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta"
MAX_DEPTH = 200          # arrays and objects inside each other
MAX_AXES = 8
MAX_NUMBER_LENGTH = 400  # characters; older Pythons need quadratic time for the digits of an integer
ANY_RANK = 32            # the largest rank that is assumed where the bundle has no ndim

_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


class BundleError(ValueError):
    """A bundle that breaks the format."""


def load(text):
    """The layers of a bundle (str, or bytes in UTF-8), {path: Layer} in the model's order. Raises BundleError."""
    document = parse(text)
    if type(document) is not dict or document.get("format") != "bn-bundle":
        raise BundleError('this is not a bundle: expected "format": "bn-bundle"')
    if _get(document, "version", int) != 1:
        raise BundleError(f"expected version 1 of the format, got {document['version']}")
    for key, kind in (("producer", dict), ("source", dict), ("digest", str)):
        _get(document, key, kind)
    if _get(document, "formula", str) != FORMULA:
        raise BundleError(f"expected the formula {FORMULA}")
    layers = {}
    for entry in _get(document, "layers", list):
        layer = Layer(entry)
        if layer.path in layers:
            raise BundleError(f"{layer.path}: this path occurs twice")
        layers[layer.path] = layer
    return layers


def parse(text):
    """The value of a strict JSON document: UTF-8, no key twice in one object, every number finite, at most 200 levels."""
    try:
        text = text if isinstance(text, str) else bytes(text).decode("utf-8")
        text.encode("utf-8")
        _check_depth(text)
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_number(float),
                          parse_int=_number(int))
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError(f"this is not JSON: {error}") from None


def _check_depth(text):
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > MAX_DEPTH:
            raise BundleError(f"expected JSON of at most {MAX_DEPTH} levels, got more")


def _object(pairs):
    found = {}
    for key, value in pairs:
        if key in found:
            raise BundleError(f"the key {key!r} occurs twice in one object")
        found[key] = value
    return found


def _number(kind):
    def parse_number(text):
        if len(text) > MAX_NUMBER_LENGTH or not math.isfinite(float(text)):
            raise BundleError(f"expected numbers that fit a double, got {text[:40]}")
        return kind(text)

    return parse_number


def _refuse_constant(name):
    raise BundleError(f"{name} is not JSON")


def _get(entry, key, *kinds):
    if type(entry) is not dict or key not in entry:
        raise BundleError(f"{key} is missing")
    if type(entry[key]) not in kinds:
        raise BundleError(f"{key}: expected {' or '.join(kind.__name__ for kind in kinds)}, got {type(entry[key]).__name__}")
    return entry[key]


class Layer:
    """One layer. gamma, beta, moving_mean, moving_variance are lists of `channels` numbers; an absent gamma is 1, an absent beta 0.

    axis: for each dimension of `shape` the axis of the input it runs along. Setting it also sets `ndim` to None.
    ndim: rank of the input with its batch axis, or None: any.
    """

    def __init__(self, entry):
        self.path, self.dtype, self._axis, self.shape = (
            _get(entry, key, kind) for key, kind in (("path", str), ("dtype", str), ("axis", list), ("shape", list)))
        try:
            self._read(entry)
        except BundleError as error:
            raise BundleError(f"{self.path}: {error}") from None

    def _read(self, entry):
        for key, kinds in (("name", [str]), ("class_name", [str]), ("momentum", [int, float, type(None)])):
            _get(entry, key, *kinds)
        self.ndim, self.epsilon = _get(entry, "ndim", int, type(None)), _get(entry, "epsilon", int, float)
        if self.dtype not in TYPES or not 0 <= self.epsilon <= TYPES["float32"][2]:
            raise BundleError(f"expected a known dtype and an epsilon of 0 or more, got {self.dtype!r} and {self.epsilon!r}")
        self._check_geometry()
        # No number is converted and nothing is made of this size before the lists of the file have it.
        self.channels = math.prod(self.shape)
        self.moving_mean, self.moving_variance = self._numbers(entry, "moving_mean"), self._numbers(entry, "moving_variance")
        self.gamma, self.beta = self._numbers(entry, "gamma", 1.0), self._numbers(entry, "beta", 0.0)
        if not all(variance + self.epsilon > 0 for variance in self.moving_variance):
            raise BundleError("expected moving_variance + epsilon above 0 in each channel")
        self.vectors = self._vectors(_get(entry, "vectors", dict)) if "vectors" in entry else None

    def _check_geometry(self):
        axis, shape, ndim = self._axis, self.shape, self.ndim
        if not 1 <= len(axis) == len(shape) <= MAX_AXES or {*map(type, axis), *map(type, shape)} != {int} or min(shape) < 1:
            raise BundleError(f"axis {axis} does not fit parameters of shape {shape}")
        rank = ANY_RANK if ndim is None else ndim
        if any(a == 0 or not -rank < a < rank for a in axis):
            raise BundleError(f"axis {axis} does not fit an input of rank {rank}; axis 0 is the batch")
        if len({a if ndim is None else a % ndim for a in axis}) < len(axis):
            raise BundleError(f"axis {axis} names one axis twice")

    def _numbers(self, entry, name, default=None):
        values = entry.get(name, ())
        if values is None and default is not None:
            return [default] * self.channels
        if type(values) is not list or len(values) != self.channels or not {*map(type, values)} <= {int, float}:
            raise BundleError(f"{name}: expected a list of {self.channels} numbers")
        numbers = [round_to(float(value), self.dtype) for value in values]
        if not all(map(math.isfinite, numbers)):
            raise BundleError(f"{name} has a number that overflows {self.dtype}")
        return numbers

    def _vectors(self, entry):
        rows = [[self._numbers({key: row}, key) for row in _get(entry, key, list)] for key in ("input", "output")]
        if not 1 <= len(rows[0]) == len(rows[1]):
            raise BundleError(f"vectors: expected as many rows of output as of input, got {len(rows[1])} and {len(rows[0])}")
        return dict(zip(("input", "output"), rows))

    @property
    def axis(self):
        return self._axis

    @axis.setter
    def axis(self, axis):
        self._axis, self.ndim = list(axis), None

    def __call__(self, x, shape):
        """What inference gives for the numbers x of an input of this shape: the formula in double, rounded once to dtype.

        x: a list, an array, a flat NumPy array, of any numeric type. Raises ValueError where it does not fit the shape or the layer.
        """
        self._axes(shape)
        numbers = x.tolist() if hasattr(x, "tolist") else list(x)
        if len(numbers) != math.prod(shape):
            raise ValueError(f"{self.path}: expected {math.prod(shape)} numbers for the shape {list(shape)}, got {len(numbers)}")
        roots = [math.sqrt(variance + self.epsilon) for variance in self.moving_variance]
        parameters = list(zip(self.gamma, self.moving_mean, roots, self.beta))
        result = []
        for value, channel in zip(map(_double, numbers), self.channel_of_each(shape)):
            gamma, mean, root, beta = parameters[channel]
            result.append(round_to(gamma * (value - mean) / root + beta, self.dtype))
        return result

    def channel_of_each(self, shape):
        """The channel of each number of an input of this shape, in row-major order."""
        steps = [0] * len(shape)
        for d, axis in enumerate(self._axes(shape)):
            steps[axis] = math.prod(self.shape[d + 1:])
        channels = [0]
        for size, step in zip(shape, steps):
            channels = [channel + i * step for channel in channels for i in range(size)]
        return channels

    def _axes(self, shape):
        sizes = [operator.index(size) for size in shape]
        if self.ndim not in (None, len(sizes)) and max(self.axis) > 0:
            raise ValueError(f"{self.path}: axis {self.axis} is that of an input of rank {self.ndim}, got the shape {sizes}; "
                             "set layer.axis to the axis of its channels, e.g. [-1]")
        axes = [axis + len(sizes) if axis < 0 else axis for axis in self.axis]
        if (any(size < 0 for size in sizes) or len(set(axes)) < len(axes) or not all(0 <= axis < len(sizes) for axis in axes)
                or [sizes[axis] for axis in axes] != self.shape):
            raise ValueError(f"{self.path}: expected {self.shape} channels along axis {self.axis}, got an input of shape {sizes}")
        return axes


def _double(value):
    """A number of any type, e.g. a NumPy scalar, as a double: all arithmetic is done in it."""
    if isinstance(value, (int, float)):
        return float(value)
    if not hasattr(type(value), "__float__"):
        raise ValueError(f"expected a flat sequence of numbers in row-major order, got {type(value).__name__} in it")
    return type(value).__float__(value)


def round_to(value, dtype):
    """The number of `dtype` nearest to a double, half to even; infinite where it overflows."""
    bits, lowest, largest = TYPES[dtype]
    if dtype == "float64" or not math.isfinite(value):
        return float(value)
    quantum = max(math.frexp(value)[1] - bits, lowest)
    rounded = math.copysign(math.ldexp(round(math.ldexp(value, -quantum)), quantum), value)
    return rounded if abs(rounded) <= largest else math.copysign(math.inf, value)

"""Writes vectors/batchnorm-1.json, the conformance file that docs/runtimes.md describes. The same bytes on every machine.

    python vectors/make_batchnorm_1.py [OUT]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from exporter.batchnorm.bundle import Bundle, Origin
from exporter.batchnorm.dtypes import HELD_IN, round_to
from exporter.batchnorm.layer import BatchNorm, wide
from exporter.diagnosis.case import Case, make_case
from exporter.diagnosis.mistakes import MISTAKES
from exporter.targets import bundle_json
from exporter.targets.shared.options import WriteOptions

HERE = Path(__file__).resolve().parent
MARGIN = 16  # a vector catches a mistake that is off by as many times the bound, in each of its variants
PRIMES = {"gamma": 2, "beta": 3, "mean": 5, "input": 7}


def spread(count: int, seed: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that need no random generator: multiples of the square root of a small prime, modulo 1."""
    return np.modf(np.sqrt(seed) * np.arange(1, count + 1))[0]


def layer(path: str, variance: list[float], *, epsilon: float = 1e-3, axis: tuple[int, ...] = (-1,),
          shape: tuple[int, ...] | None = None, ndim: int | None = None, dtype: str = "float32", mean: list[float] | float = 1.0,
          gamma: list[float] | str | None = "spread", beta: list[float] | str | None = "spread",
          momentum: float | None = 0.99, called_in_training: bool = False) -> BatchNorm:
    """A layer; gamma and beta are spread over 0.5 to 2 and -1 to 1, the mean over -mean to mean, unless given."""
    count = len(variance)
    made: dict[str, Any] = {"gamma": 0.5 + 1.5 * spread(count, PRIMES["gamma"]), "beta": 2 * spread(count, PRIMES["beta"]) - 1}
    for name, given in (("gamma", gamma), ("beta", beta)):
        if given != "spread":
            made[name] = given
    made["moving_mean"] = mean if isinstance(mean, list) else mean * (2 * spread(count, PRIMES["mean"]) - 1)
    made["moving_variance"] = variance
    shape = shape or (count,)
    arrays: dict[str, Any] = {name: None if values is None else round_to(np.array(values, np.float64), dtype).reshape(shape)
                              for name, values in made.items()}
    return BatchNorm(path=path, name=path.rpartition("/")[2], class_name="BatchNormalization", axis=axis, shape=shape, ndim=ndim,
                     dtype=dtype, epsilon=epsilon, momentum=momentum, called_in_training=called_in_training, **arrays)


NEAR = [1e-6, 1e-5, 4e-5, 1e-4, 4e-4, 1e-3, 3e-3, 1e-2]
MIXED = [0.0004, 0.003, 0.05, 0.7, 0.00002]

# Each layer with the shapes of inputs it is tested with; None stands for the channels.
LAYERS: list[tuple[BatchNorm, list[tuple[int, ...]]]] = [
    (layer("near_epsilon", NEAR, ndim=2), [(5, 8)]),
    (layer("near_epsilon_too", NEAR[::-1], ndim=2, mean=0.3), [(2, 8)]),
    (layer("epsilon/1e-5", [1e-6, 2e-6, 5e-6, 1e-5, 3e-5], epsilon=1e-5, ndim=4), [(1, 2, 3, 5)]),
    (layer("epsilon/1e-12", [2e-8, 3e-7, 2.5e-6, 4e-5], epsilon=1e-12, mean=0.01), [(3, 4)]),
    (layer("epsilon/0", [1e-4, 1.0, 30.0], epsilon=0.0), [(2, 3)]),
    (layer("large_epsilon", [1e-4, 0.5, 2.0], epsilon=0.5), [(2, 3)]),
    (layer("no_gamma", MIXED, gamma=None, ndim=2), [(3, 5)]),
    (layer("no_beta", MIXED, beta=None, ndim=2), [(3, 5)]),
    (layer("no_gamma_no_beta", MIXED, gamma=None, beta=None, ndim=2), [(3, 5)]),
    (layer("negative_and_zero_gamma", MIXED, gamma=[-1.5, 0.0, 0.25, -0.01, -0.0]), [(4, 5)]),
    (layer("large_means", [0.01, 1.0, 400.0, 1e6], mean=[1000.0, -50000.0, 3e6, -1e8]), [(6, 4)]),
    (layer("wide_range", [1e-30, 1e-3, 1e12, 1e30], epsilon=1e-9, mean=[1e-9, 1.0, 1e6, -1e15]), [(3, 4)]),
    (layer("zeros_and_subnormals", [0.0, 1e-45, 1.1754942e-38, 1e-40], mean=[-0.0, 1e-42, 0.0, -1e-39], gamma=[1.0, 1e-40, -1e-42, 0.5],
           beta=[-0.0, 1e-44, -3e-39, 0.0]), [(3, 4)]),
    (layer("one_channel", [0.000436493], mean=[-0.089603029], gamma=[1.0055743], beta=[-0.016652612]), [(4, 1), (2, 3, 1), (1, 1)]),
    (layer("sequence", NEAR[2:5], ndim=3, momentum=None), [(2, 4, 3)]),
    (layer("encoder/block_1/bn", NEAR[2:7], ndim=4, axis=(3,)), [(2, 2, 3, 5), (1, 5, 5, 5)]),
    (layer("volume", NEAR[1:4], ndim=5), [(1, 2, 2, 2, 3)]),
    (layer("channels_first/3", NEAR[2:5], ndim=3, axis=(1,)), [(2, 3, 3)]),
    (layer("channels_first/4", NEAR[1:5], ndim=4, axis=(1,)), [(2, 4, 2, 3), (4, 4, 4, 4)]),
    (layer("channels_first/5", NEAR[3:5], ndim=5, axis=(1,)), [(1, 2, 2, 3, 2)]),
    (layer("any_rank", NEAR[2:6]), [(3, 4), (2, 3, 4), (1, 2, 2, 4)]),
    (layer("wrapped/bn", NEAR[2:5], ndim=3), [(2, 3, 3), (2, 2, 2, 3)]),  # TimeDistributed adds an axis: -1 is the channels in any rank
    (layer("middle_axis", NEAR[2:5], ndim=4, axis=(2,)), [(2, 2, 3, 2)]),
    (layer("list_axis/1_2", NEAR[1:7], ndim=3, axis=(1, 2), shape=(2, 3)), [(3, 2, 3)]),
    (layer("list_axis/1_3", NEAR[1:7], ndim=4, axis=(1, 3), shape=(3, 2)), [(2, 3, 2, 2)]),
    (layer("list_axis/all", NEAR, ndim=4, axis=(1, 2, 3), shape=(2, 2, 2)), [(2, 2, 2, 2)]),
    (layer("list_axis/one", NEAR[2:5], ndim=4, axis=(-1,)), [(1, 2, 2, 3)]),
    (layer("much_at_once/four_arrays", [3e-6, 4e-5, 2e-4], epsilon=1e-5, ndim=4, axis=(1,), gamma=[-0.75, 1.25, 0.5]), [(2, 3, 3, 2)]),
    (layer("much_at_once/three_arrays", [3e-6, 4e-5, 2e-4], epsilon=1e-5, ndim=4, axis=(1,), gamma=[0.75, -1.25, 0.5], beta=None),
     [(2, 3, 3, 2)]),
    (layer("called_in_training/four_arrays", [3e-6, 4e-5, 2e-4], epsilon=1e-5, ndim=4, axis=(1,), gamma=[-0.75, 1.25, 0.5],
           called_in_training=True), [(2, 3, 3, 2)]),
    (layer("called_in_training/three_arrays", [3e-6, 4e-5, 2e-4], epsilon=1e-5, ndim=4, axis=(1,), gamma=[0.75, -1.25, 0.5], beta=None,
           called_in_training=True), [(2, 3, 3, 2)]),
    (layer("many_channels", [NEAR[i % 8] * (1 + i / 64) for i in range(37)]), [(3, 37)]),
    (layer("größe/π bn", MIXED, ndim=2), [(2, 5)]),
    (layer("größe/π bn#2", MIXED[::-1], ndim=2), [(2, 5)]),
    (layer("types/float16", [0.0001, 0.004, 0.06, 3.0], dtype="float16", ndim=2), [(3, 4)]),
    (layer("types/bfloat16", [0.0001, 0.004, 0.06, 3.0], dtype="bfloat16", ndim=2), [(3, 4)]),
    (layer("types/float64", [1e-6, 0.0004, 0.06, 3.0], dtype="float64", ndim=2), [(3, 4)]),
]


def inputs(bn: BatchNorm, shape: tuple[int, ...]) -> NDArray[Any]:
    """Inputs from 4 deviations below to 4 above the mean, none nearer to it than half a deviation, in the layer's type."""
    assert bn.axis is not None
    axes = tuple(a % len(shape) for a in bn.axis)
    _, _, mean, deviation = wide(bn)
    rest = [size for axis, size in enumerate(shape) if axis not in axes]
    rows = int(np.prod(rest))
    far = 0.5 + 3.5 * spread(rows * mean.size, PRIMES["input"]).reshape(rows, *bn.shape)
    signs = np.where(np.arange(rows * mean.size) % 3 == 1, -1, 1).reshape(far.shape)
    x = round_to(mean + signs * far * deviation, bn.dtype).reshape(*rest, *bn.shape)
    return np.ascontiguousarray(np.moveaxis(x, tuple(range(len(rest), len(shape))), axes))


def catches(case: Case, dtype: str) -> list[str]:
    """Codes of the mistakes whose every variant is off by a wide margin somewhere."""
    right, bound = case.value(), case.bound(dtype)
    codes = []
    for mistake in MISTAKES:
        variants = mistake.variants(case)
        if variants and all(off(changed, right, bound) > MARGIN for _, changed in variants):
            codes.append(mistake.code)
    return codes


def off(changed: Case, right: NDArray[np.float64], bound: NDArray[np.float64]) -> float:
    """The largest distance from the right result in units of the bound; infinite where it is no number."""
    with np.errstate(all="ignore"):
        ratio = np.abs(changed.value() - right) / bound
    return float(np.where(np.isnan(ratio), np.inf, ratio).max())


def numbers(values: NDArray[Any]) -> list[float]:
    """The shortest decimals that come back bit for bit, as the bundle has them."""
    flat = np.ascontiguousarray(values.ravel(), np.float64 if values.dtype == np.float64 else np.float32)
    found: list[float] = json.loads(orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY))
    return found


def test_case(bn: BatchNorm, shape: tuple[int, ...], others: list[BatchNorm]) -> dict[str, Any]:
    """One entry of "cases"."""
    assert bn.axis is not None
    x = inputs(bn, shape)
    case = make_case(bn, x, tuple(a % len(shape) for a in bn.axis), others=others)
    output = bn(x).astype(HELD_IN[bn.dtype])
    if bn.dtype == "bfloat16":
        output = round_to(output.astype(np.float64), "bfloat16")
    return {"shape": list(shape), "input": numbers(x), "output": numbers(output), "catches": catches(case, bn.dtype)}


def document() -> dict[str, Any]:
    """The whole file: a bundle with more keys."""
    layers = [bn for bn, _ in LAYERS]
    bundle = Bundle(layers=tuple(layers), origin=Origin(file="make_batchnorm_1.py", kind="synthetic"))
    content: dict[str, Any] = json.loads(bundle_json.write(bundle, WriteOptions()))
    content["producer"] = {"name": "make_batchnorm_1.py", "version": "1"}
    content["mistakes"] = {mistake.code: mistake.name for mistake in MISTAKES}
    for entry, (bn, shapes) in zip(content["layers"], LAYERS):
        others = [other for other in layers if other is not bn and other.moving_mean.size == bn.moving_mean.size]
        rows = np.array(entry["vectors"]["input"], np.float64).reshape(-1, *bn.shape)
        case = make_case(bn, rows, tuple(range(1, 1 + len(bn.shape))), others=others)
        entry["vectors"]["catches"] = catches(case, bn.dtype)
        entry["cases"] = [test_case(bn, shape, others) for shape in shapes]
    content["layers"][1].update(OTHER_KEYS)
    content["refuse"], content["accept"], content["refuse_inputs"] = refused(), accepted(), REFUSED_INPUTS
    return content


# Keys that a reader does not know, so it ignores them: keys differ by case.
OTHER_KEYS: dict[str, Any] = {"Epsilon": 0.5, "GAMMA": [7.0] * 8, "Beta": None, "moving_Variance": [1.0] * 8, "comment": {"axis": [[0]]}}

# Inputs that do not fit a layer: so many numbers of such a shape.
REFUSED_INPUTS: list[dict[str, Any]] = [
    {"why": why, "layer": path, "shape": shape, "count": count} for why, path, shape, count in (
        ("one number is missing", "near_epsilon", [5, 8], 39),
        ("one number too many", "near_epsilon", [5, 8], 41),
        ("no numbers", "near_epsilon", [5, 8], 0),
        ("another count of channels", "near_epsilon", [8, 5], 40),
        ("an input without axes", "near_epsilon", [], 1),
        ("one row where the shape has three axes", "near_epsilon", [2, 2, 8], 16),
        ("a shape whose product is 2**64", "near_epsilon", [65536, 65536, 65536, 8192, 8], 0),
        ("a shape whose product is 2**64 + 40", "near_epsilon", [5, 8, 461168601842738791, 8], 40),
        ("axis 3 of an input of rank 4, rank 5", "encoder/block_1/bn", [1, 2, 2, 5, 5], 100),
        ("axis 3 of an input of rank 4, rank 3", "encoder/block_1/bn", [2, 3, 5], 30),
        ("axis 1 of an input of rank 4, rank 2", "channels_first/4", [3, 4], 12),
        ("axis 1 of an input of rank 4, rank 5", "channels_first/4", [1, 4, 1, 2, 2], 16),
        ("axis -1 of an input without axes", "wrapped/bn", [], 3),
    )]


def good(gamma: list[float] | str = "spread") -> dict[str, Any]:
    """A sound document of one layer."""
    bn = layer("bn", [0.5, 0.002], ndim=2, gamma=gamma)
    found: dict[str, Any] = json.loads(
        bundle_json.write(Bundle(layers=(bn,), origin=Origin(file="good.h5", kind="keras-h5")), WriteOptions()))
    return found


def changed(why: str, top: dict[str, Any] | None = None, **entry: Any) -> dict[str, str]:
    """A document with other values at its top or in its layer."""
    content = good()
    content["layers"][0].update(entry)
    content.update(top or {})
    return {"why": why, "text": json.dumps(content)}


def without(key: str) -> dict[str, str]:
    """A document that lacks a key."""
    content = good()
    del (content if key in content else content["layers"][0])[key]
    return {"why": f"no {key}", "text": json.dumps(content)}


def with_text(why: str, before: str, after: str) -> dict[str, str]:
    """A document with a part of its text exchanged, once."""
    text = json.dumps(good())
    assert before in text
    return {"why": why, "text": text.replace(before, after, 1)}


def nested(levels: int) -> dict[str, Any]:
    """A document whose innermost list is that many levels deep; the document itself is the first."""
    value: list[Any] = []
    for _ in range(levels - 2):
        value = [value]
    return {**good(), "comment": value}


def refused() -> list[dict[str, str]]:
    """Documents that a reader refuses, as text, each made from a good one of one layer by one change."""
    return [*refused_json(), *refused_keys(), *refused_geometry(), *refused_numbers()]


def refused_json() -> list[dict[str, str]]:
    """What is not strict JSON."""
    text, epsilon = json.dumps(good()), '"epsilon": 0.001'
    return [
        {"why": "cut off", "text": text[: len(text) // 2]},
        {"why": "something after the document", "text": text + "{}"},
        {"why": "a zero byte after the document", "text": text + "\0"},
        {"why": "a byte order mark", "text": "\ufeff" + text},
        {"why": "a list", "text": f"[{text}]"},
        {"why": "201 levels", "text": json.dumps(nested(201))},
        {"why": "2000 levels", "text": "[" * 2000 + "]" * 2000},
        with_text("NaN is not JSON", "0.002", "NaN"),
        with_text("Infinity is not JSON", epsilon, '"epsilon": Infinity'),
        with_text("epsilon overflows a double", epsilon, '"epsilon": 1e999'),
        with_text("a number that no reader needs overflows a double", epsilon, f'{epsilon}, "comment": -1e999'),
        with_text("a key twice", epsilon, f'{epsilon}, "epsilon": 0.5'),
        with_text("a key twice with one value", epsilon, f"{epsilon}, {epsilon}"),
        with_text("a key twice, once with an escape", epsilon, f'{epsilon}, "\\u0065psilon": 0.5'),
        with_text("a key twice at the top", '"version": 1', '"version": 1, "version": 2'),
        with_text("a key twice in an object that no reader needs", epsilon, f'{epsilon}, "comment": [{{"a": 1, "b": 2, "a": 1}}]'),
        with_text("a comment", epsilon, f"{epsilon} /* one */"),
        with_text("a comma before the end", '"axis": [-1]', '"axis": [-1,]'),
        with_text("a missing comma", f"{epsilon}, ", f"{epsilon} "),
        with_text("single quotes", epsilon, "'epsilon': 0.001"),
        with_text("a number with a leading zero", epsilon, '"epsilon": 00.001'),
        with_text("a number without a digit before the point", epsilon, '"epsilon": .001'),
        with_text("a number without a digit after the point", epsilon, '"epsilon": 1.'),
        with_text("a number with a plus sign", epsilon, '"epsilon": +0.001'),
        with_text("a hexadecimal number", epsilon, '"epsilon": 0x1'),
        with_text("a capital in a literal", '"momentum": 0.99', '"momentum": Null'),
        with_text("a line break in a string", '"name": "bn"', '"name": "b\nn"'),
        with_text("an escape that is none", '"name": "bn"', '"name": "b\\xn"'),
    ]


def refused_keys() -> list[dict[str, str]]:
    """Keys that are missing, or values that are of another type, or not those of this format."""
    layer_keys = [key for key in good()["layers"][0] if key != "vectors"]
    twice = good()
    twice["layers"] *= 2
    return [
        *(without(key) for key in ("format", "version", "producer", "source", "formula", "digest", "layers", *layer_keys)),
        changed("another format", {"format": "bn-list"}),
        changed("a higher version", {"version": 2}),
        changed("a version that is text", {"version": "1"}),
        changed("a version that is true", {"version": True}),
        changed("a version that is no integer", {"version": 1.5}),
        changed("another formula", {"formula": "gamma * (x - moving_mean) / (sqrt(moving_variance) + epsilon) + beta"}),
        changed("layers as an object", {"layers": {"bn": good()["layers"][0]}}),
        changed("a layer that is null", {"layers": [None]}),
        with_text("the key Layers, layers is missing", '"layers"', '"Layers"'),
        with_text("the key Epsilon, epsilon is missing", '"epsilon"', '"Epsilon"'),
        with_text("the key movingMean, moving_mean is missing", '"moving_mean"', '"movingMean"'),
        changed("another dtype", dtype="int8"),
        changed("a dtype in capitals", dtype="FLOAT32"),
        changed("epsilon is text", epsilon="0.001"),
        changed("epsilon is true", epsilon=True),
        changed("epsilon is null", epsilon=None),
        changed("momentum is text", momentum="0.99"),
        changed("path is a number", path=1),
        changed("ndim is text", ndim="2"),
        changed("moving_mean is null", moving_mean=None),
        changed("gamma is one number", gamma=1.0),
        changed("null among the numbers", gamma=[1.0, None]),
        changed("text among the numbers", beta=[1.0, "1.0"]),
        changed("a list among the numbers", beta=[1.0, [1.0]]),
        changed("vectors is null", vectors=None),
        changed("vectors without output", vectors={"input": [[1.0, 2.0]]}),
        {"why": "a path that occurs twice", "text": json.dumps(twice)},
    ]


def refused_geometry() -> list[dict[str, str]]:
    """axis, shape and ndim that are not possible, and lengths that disagree."""
    rows = good()["layers"][0]["vectors"]
    none = {"gamma": None, "beta": None}  # so that nothing but moving_mean and moving_variance says how many channels there are
    return [
        changed("axis 0 is the batch", axis=[0]),
        changed("axis -2 of an input of rank 2 is the batch", axis=[-2]),
        changed("axis 2 of an input of rank 2", axis=[2]),
        changed("axis -3 of an input of rank 2", axis=[-3]),
        changed("axis 32 of an input of unknown rank", axis=[32], ndim=None),
        changed("axis 2**32 + 1, which is 1 in 32 bits", axis=[2**32 + 1]),
        changed("axis 2**32 - 1, which is -1 in 32 bits", axis=[2**32 - 1]),
        changed("axis 2**64 + 1, which is 1 in 64 bits", axis=[2**64 + 1]),
        changed("axis 2**64 - 1, which is -1 in 64 bits", axis=[2**64 - 1]),
        changed("axis 2**32 + 1 of an input of unknown rank", axis=[2**32 + 1], ndim=None),
        changed("axis 1e30", axis=[1e30], ndim=None),
        changed("axis 1.5", axis=[1.5]),
        changed("axis is a number", axis=-1),
        changed("axis is true", axis=[True]),
        changed("rank 0", ndim=0),
        changed("rank -4", ndim=-4, axis=[1]),
        changed("rank 1 has the batch only", ndim=1),
        changed("two axes for one dimension", axis=[1, -1]),
        changed("one axis for two dimensions", shape=[1, 2], ndim=3),
        changed("one axis twice", axis=[1, 1], shape=[1, 2], ndim=3),
        changed("one axis twice, counted from both ends", axis=[2, -1], shape=[1, 2], ndim=3),
        changed("one axis twice in an input of unknown rank", axis=[-1, -1], shape=[1, 2], ndim=None),
        changed("axis and shape without entries", axis=[], shape=[]),
        changed("nine axes", axis=[*range(1, 10)], shape=[2] + [1] * 8, ndim=10),
        changed("shape 0", shape=[0]),
        changed("shape 0 and no numbers", shape=[0], **none, moving_mean=[], moving_variance=[]),
        changed("a negative shape", shape=[-2]),
        changed("two negative sizes", axis=[1, 2], shape=[-1, -2], ndim=3),
        changed("a shape that is no integer", shape=[2.5]),
        changed("a shape of a thousand million", shape=[10**9], **none),
        changed("a shape of two hundred million", shape=[2 * 10**8], **none),
        changed("a shape of 2**63 - 1", shape=[2**63 - 1], **none),
        changed("a shape of 2**32 + 2, which is 2 in 32 bits", shape=[2**32 + 2], **none),
        changed("a shape whose product is 2 in 32 bits", axis=[1, 2, 3], shape=[2, 641, 6700417], ndim=4, **none),
        changed("a shape whose product is 2 in 64 bits", axis=[1, 2, 3], shape=[2, 274177, 67280421310721], ndim=4, **none),
        changed("gamma has 3 numbers, the shape asks for 2", gamma=[1.0, 1.0, 1.0]),
        changed("gamma has 1 number, the shape asks for 2", gamma=[1.0]),
        changed("beta has no numbers", beta=[]),
        changed("moving_mean has 1 number, the shape asks for 2", moving_mean=[1.0]),
        changed("moving_variance has 3 numbers, the shape asks for 2", moving_variance=[1.0, 1.0, 1.0]),
        changed("all have 2 numbers, the shape asks for 1", shape=[1]),
        changed("a row of the vectors has 1 number", vectors={**rows, "input": [[1.0]] * 2}),
        changed("a row of the vectors is a number", vectors={**rows, "output": [1.0, 2.0]}),
        changed("vectors with an input more than outputs", vectors={**rows, "input": [*rows["input"], [1.0, 2.0]]}),
        changed("vectors without rows", vectors={"input": [], "output": []}),
    ]


def refused_numbers() -> list[dict[str, str]]:
    """Numbers that the type or the formula cannot use."""
    float16 = good()["layers"][0] | {"dtype": "float16", "gamma": [1.0, 65520.0]}
    return [
        changed("moving_variance + epsilon is negative", moving_variance=[0.5, -0.002]),
        changed("moving_variance + epsilon is 0", moving_variance=[0.5, 0.0], epsilon=0.0),
        changed("a negative epsilon", epsilon=-0.001),
        changed("an epsilon that overflows float32", epsilon=1e39),
        changed("a number that overflows float32", moving_mean=[1.0, 1e39]),
        changed("a number that overflows float32 when it is rounded", beta=[1.0, 3.4028235677973366e38]),
        changed("a number that overflows float16", **float16),
        changed("a number of the vectors that overflows float32", vectors={"input": [[1.0, 1e39]], "output": [[1.0, 1.0]]}),
    ]


def accepted() -> list[dict[str, str]]:
    """Documents that look odd and that a reader takes."""
    bare, whole = good(), good(gamma=[1.0, 2.0])
    del bare["layers"][0]["vectors"]
    whole["layers"][0].update(gamma=[1, 2], momentum=1)
    return [
        {"why": "200 levels", "text": json.dumps(nested(200))},
        {"why": "no vectors", "text": json.dumps(bare)},
        {"why": "brackets and quotation marks in a string", "text": json.dumps(good() | {"comment": '["{\\"' * 300})},
        {"why": "white space around the document", "text": f" \t\r\n{json.dumps(good(), indent=1)}\n"},
        changed("keys in another case", OTHER_KEYS, **OTHER_KEYS),
        changed("one key in objects inside each other", {"comment": {"a": {"a": {"a": [{"a": 1}, {"a": 2}]}}}}),
        {"why": "integers for numbers", "text": json.dumps(whole)},
        changed("integers beyond 64 bits", {"comment": [2**64 + 1, 10**300]}),
        changed("a subnormal number and one that is rounded to 0", {"comment": [5e-324, 1e-400]}),
    ]


def main(out: Path) -> None:
    """Writes the file with one key of a layer a line."""
    content = document()
    lists = {key: content.pop(key) for key in ("layers", "refuse", "accept", "refuse_inputs")}

    def block(entries: list[dict[str, Any]], indent: str) -> str:
        lines = []
        for entry in entries:
            fields = [f"{indent}  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
            lines.append(f"{indent}{{\n" + ",\n".join(fields) + f"\n{indent}}}")
        return ",\n".join(lines)

    head = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
    tail = ",\n".join(f'  "{key}": [\n{block(entries, "    ")}\n  ]' for key, entries in lists.items())
    out.write_text(f"{{\n{head},\n{tail}\n}}\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "batchnorm-1.json")

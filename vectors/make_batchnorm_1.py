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
          momentum: float | None = 0.99) -> BatchNorm:
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
                     dtype=dtype, epsilon=epsilon, momentum=momentum, **arrays)


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
    (layer("middle_axis", NEAR[2:5], ndim=4, axis=(2,)), [(2, 2, 3, 2)]),
    (layer("list_axis/1_2", NEAR[1:7], ndim=3, axis=(1, 2), shape=(2, 3)), [(3, 2, 3)]),
    (layer("list_axis/1_3", NEAR[1:7], ndim=4, axis=(1, 3), shape=(3, 2)), [(2, 3, 2, 2)]),
    (layer("list_axis/all", NEAR, ndim=4, axis=(1, 2, 3), shape=(2, 2, 2)), [(2, 2, 2, 2)]),
    (layer("list_axis/one", NEAR[2:5], ndim=4, axis=(-1,)), [(1, 2, 2, 3)]),
    (layer("much_at_once/four_arrays", [3e-6, 4e-5, 2e-4], epsilon=1e-5, ndim=4, axis=(1,), gamma=[-0.75, 1.25, 0.5]), [(2, 3, 3, 2)]),
    (layer("much_at_once/three_arrays", [3e-6, 4e-5, 2e-4], epsilon=1e-5, ndim=4, axis=(1,), gamma=[0.75, -1.25, 0.5], beta=None),
     [(2, 3, 3, 2)]),
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
    content["refuse"] = refused()
    return content


def refused() -> list[dict[str, str]]:
    """Documents that a reader refuses, as text, each made from a good one of one layer by one change."""
    def good(**changes: Any) -> dict[str, Any]:
        bn = layer("bn", [0.5, 0.002], ndim=2).replace(**changes)
        found: dict[str, Any] = json.loads(
            bundle_json.write(Bundle(layers=(bn,), origin=Origin(file="good.h5", kind="keras-h5")), WriteOptions(vectors=False)))
        return found

    def changed(why: str, top: dict[str, Any] | None = None, **entry: Any) -> dict[str, str]:
        content = good()
        content.update(top or {})
        content["layers"][0].update(entry)
        return {"why": why, "text": json.dumps(content)}

    text = json.dumps(good())
    negative = good(moving_variance=np.array([0.5, -0.002], np.float32))
    twice = good()
    twice["layers"] *= 2
    lacking = good()
    del lacking["layers"][0]["epsilon"]
    return [
        changed("another format", {"format": "bn-list"}),
        changed("a higher version", {"version": 2}),
        changed("gamma has 3 numbers, the shape asks for 2", gamma=[1.0, 1.0, 1.0]),
        changed("moving_mean has 1 number, the shape asks for 2", moving_mean=[1.0]),
        changed("two axes for one dimension", axis=[1, -1]),
        changed("moving_mean is null", moving_mean=None),
        changed("a negative epsilon", epsilon=-0.001),
        changed("epsilon is text", epsilon="0.001"),
        {"why": "moving_variance + epsilon is negative", "text": json.dumps(negative)},
        {"why": "a path that occurs twice", "text": json.dumps(twice)},
        {"why": "no epsilon", "text": json.dumps(lacking)},
        {"why": "NaN is not JSON", "text": json.dumps(good()).replace("0.002", "NaN")},
        {"why": "cut off", "text": text[: len(text) // 2]},
    ]


def main(out: Path) -> None:
    """Writes the file with one key of a layer a line."""
    content = document()
    layers, refuse = content.pop("layers"), content.pop("refuse")

    def block(entries: list[dict[str, Any]], indent: str) -> str:
        lines = []
        for entry in entries:
            fields = [f"{indent}  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
            lines.append(f"{indent}{{\n" + ",\n".join(fields) + f"\n{indent}}}")
        return ",\n".join(lines)

    head = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
    tail = f'  "layers": [\n{block(layers, "    ")}\n  ],\n  "refuse": [\n{block(refuse, "    ")}\n  ]'
    out.write_text(f"{{\n{head},\n{tail}\n}}\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "batchnorm-1.json")

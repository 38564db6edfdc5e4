"""Runs the tests in a bundle: `python check.py bundle.json`. Exit code 1 where a number is off by more than the bound."""

import json
import math
import sys

from batchnorm import BundleError, load, round_to

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


def main(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    document, layers = json.loads(text), load(text)
    tests, numbers, wrong, worst = 0, 0, 0, 0.0
    for entry in document["layers"]:
        layer = layers[entry["path"]]
        for x, want, shape, axis in cases(entry):
            tests, layer.axis = tests + 1, axis
            for channel, value, got, wanted in zip(layer.channel_of_each(shape), x, layer(x, shape), want):
                error, limit = abs(got - wanted), bound(layer, channel, value)
                numbers, wrong = numbers + 1, wrong + (not error <= limit)
                if layer.dtype == "float32":
                    size = max(abs(wanted), TINY["float32"])
                    worst = max(worst, error / math.ldexp(2 * UNIT["float32"], math.frexp(size)[1] - 1))
    accepted = [case["why"] for case in document.get("refuse", ()) if accepts(case["text"])]
    for why in accepted:
        print(f"not refused: {why}")
    print(f"python: {len(layers)} layers, {tests} tests, {numbers} numbers, {wrong} wrong, worst {worst:.2f} ulp")
    return 1 if wrong or accepted or not numbers else 0


def cases(entry):
    """(input, output, shape, axis) of each test of a layer; numbers in row-major order, in the layer's dtype."""
    for x, y, shape, axis in _stored_cases(entry):
        yield [round_to(value, entry["dtype"]) for value in x], [round_to(value, entry["dtype"]) for value in y], shape, axis


def _stored_cases(entry):
    if "vectors" in entry:
        rows = entry["vectors"]["input"]
        flat = [[value for row in entry["vectors"][key] for value in row] for key in ("input", "output")]
        yield (*flat, [len(rows), *entry["shape"]], list(range(1, 1 + len(entry["shape"]))))
    for case in entry.get("cases", ()):
        yield case["input"], case["output"], case["shape"], entry["axis"]


def bound(layer, channel, x):
    a = abs(layer.gamma[channel]) / math.sqrt(layer.moving_variance[channel] + layer.epsilon)
    size = a * abs(x) + a * abs(layer.moving_mean[channel]) + abs(layer.beta[channel])
    return 16 * UNIT[layer.dtype] * size + TINY[layer.dtype]


def accepts(text):
    try:
        load(text)
    except BundleError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Runs the tests in a bundle: `python check.py bundle.json`; without a name, those of the kit that this file lies in.

Exit code 1 where a number is off by more than the bound, or where something is taken that a reader refuses or refused that it takes.
"""

import math
import os
import sys

from batchnorm import BundleError, load, parse, round_to

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


def main(path):
    with open(path, "rb") as file:
        text = file.read()
    document, layers = parse(text), load(text)
    tests, numbers, wrong, worst = 0, 0, 0, 0.0
    for layer, x, want, shape in tests_of(document, text):
        tests += 1
        for channel, value, got, wanted in zip(layer.channel_of_each(shape), x, layer(x, shape), want):
            error, limit = abs(got - wanted), bound(layer, channel, value)
            numbers, wrong = numbers + 1, wrong + (not error <= limit)
            if layer.dtype == "float32":
                size = max(abs(wanted), TINY["float32"])
                worst = max(worst, error / math.ldexp(2 * UNIT["float32"], math.frexp(size)[1] - 1))
    faults = [f"not refused: {case['why']}" for case in document.get("refuse", ()) if accepts(load, BundleError, case["text"])]
    faults += [f"not accepted: {case['why']}" for case in document.get("accept", ()) if not accepts(load, BundleError, case["text"])]
    faults += [f"not refused: {case['why']}" for case in document.get("refuse_inputs", ())
               if accepts(layers[case["layer"]], ValueError, [1.0] * case["count"], case["shape"])]
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"python: {len(layers)} layers, {tests} tests, {numbers} numbers, {wrong} wrong, worst {worst:.2f} ulp")
    return 1 if wrong or faults or not numbers else 0


def tests_of(document, text):
    """(layer, input, output, shape) of each test; numbers in row-major order, in the layer's dtype."""
    for entry, layer, rows in zip(document["layers"], load(text).values(), load(text).values()):
        if rows.vectors:  # as if the parameters ran along all axes but the first
            rows.axis = range(1, 1 + len(rows.shape))
            x, y = ([value for row in rows.vectors[key] for value in row] for key in ("input", "output"))
            yield rows, x, y, [len(rows.vectors["input"]), *rows.shape]
        for case in entry.get("cases", ()):
            x, y = ([round_to(value, layer.dtype) for value in case[key]] for key in ("input", "output"))
            yield layer, x, y, case["shape"]


def bound(layer, channel, x):
    a = abs(layer.gamma[channel]) / math.sqrt(layer.moving_variance[channel] + layer.epsilon)
    size = a * abs(x) + a * abs(layer.moving_mean[channel]) + abs(layer.beta[channel])
    return 16 * UNIT[layer.dtype] * size + TINY[layer.dtype]


def accepts(function, refusal, *arguments):
    try:
        function(*arguments)
    except refusal:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bundle.json")))

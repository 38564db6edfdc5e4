"""Writes folding-1.json: for each kind of layer a kernel, a batch norm, an input, and the exact results of folding.

Run from the root of a checkout: python vectors/make_folding_1.py. The results come from exact rational arithmetic on the float32 inputs
(the root with 60 digits), so no formula of the package judges itself. docs/folding.md has the layouts and the bound.
"""

import decimal
import fractions
import itertools
import json
import pathlib

import numpy as np

KERNELS = {
    "Dense": (3, 4), "Conv1D": (2, 3, 4), "Conv2D": (2, 2, 2, 3), "Conv3D": (2, 1, 2, 2, 2), "Conv1DTranspose": (2, 3, 2),
    "Conv2DTranspose": (2, 2, 3, 2), "Conv3DTranspose": (2, 1, 2, 3, 2), "DepthwiseConv1D": (2, 2, 2), "DepthwiseConv2D": (2, 2, 3, 2),
    "SeparableConv1D": (1, 4, 3), "SeparableConv2D": (1, 1, 4, 3),
}
EPSILON = 0.001
decimal.getcontext().prec = 60


def channel_of(kind, index):
    """The output channel of an element of a kernel."""
    if kind.startswith("Depthwise"):
        return index[-2] * KERNELS[kind][-1] + index[-1]
    return index[-2] if kind.endswith("Transpose") else index[-1]


def exact(value):
    return fractions.Fraction(float(value))


def nearest(value):
    """A fraction as the nearest float32; numerator and denominator are divided in 60 digits first."""
    return float(np.float32(float(decimal.Decimal(value.numerator) / decimal.Decimal(value.denominator))))


def case(kind, with_bias, seed):
    random = np.random.default_rng(seed)
    shape = KERNELS[kind]
    kernel = random.normal(size=shape).astype(np.float32)
    channels = 1 + max(channel_of(kind, index) for index in np.ndindex(shape))
    gamma, beta, mean = (random.normal(size=channels).astype(np.float32) for _ in range(3))
    variance = (10.0 ** random.uniform(-5, 1, channels)).astype(np.float32)
    bias = random.normal(size=channels).astype(np.float32) if with_bias else None
    root = [decimal.Decimal(float(v)) + decimal.Decimal(EPSILON) for v in variance]
    scale = [exact(g) / fractions.Fraction(r.sqrt()) for g, r in zip(gamma, root)]
    folded = [nearest(exact(kernel[index]) * scale[channel_of(kind, index)]) for index in np.ndindex(shape)]
    moved = [nearest((exact(0 if bias is None else bias[c]) - exact(mean[c])) * scale[c] + exact(beta[c])) for c in range(channels)]
    return {"kind": kind, "kernel_shape": list(shape), "kernel": kernel.ravel().tolist(), "bias": None if bias is None else bias.tolist(),
            "epsilon": EPSILON, "gamma": gamma.tolist(), "beta": beta.tolist(), "moving_mean": mean.tolist(),
            "moving_variance": variance.tolist(), "folded_kernel": folded, "folded_bias": moved}


def main():
    cases = [case(kind, with_bias, seed) for seed, (kind, with_bias) in enumerate(itertools.product(KERNELS, (False, True)))]
    path = pathlib.Path(__file__).with_name("folding-1.json")
    path.write_text(json.dumps({"format": "bn-folding", "version": 1, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""usage: python encoder.py BUNDLE STATE.msgpack"""
import sys

import numpy as np
from flax import linen, serialization

import exporter

bundle = exporter.load(sys.argv[1])
variables = {"params": {}, "batch_stats": {}}
for layer in bundle:
    one, zero = np.ones(layer.shape, "f"), np.zeros(layer.shape, "f")
    name = layer.path.replace("/", "_")
    variables["params"][name] = {"scale": one if layer.gamma is None else np.array(layer.gamma),
                                 "bias": zero if layer.beta is None else np.array(layer.beta)}
    variables["batch_stats"][name] = {"mean": np.array(layer.moving_mean), "var": np.array(layer.moving_variance)}


class Head(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=True, epsilon=bundle["head_bn"].epsilon, name="head_bn")(x)


with open(sys.argv[2], "wb") as file:
    file.write(serialization.to_bytes(variables))
print(*np.asarray(Head().apply(variables, np.array([[0.5, -0.25, 1, 2]], np.float32))).ravel())

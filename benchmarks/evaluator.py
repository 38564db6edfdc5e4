"""Compares the fast evaluator with memcpy, ONNX Runtime, PyTorch and TensorFlow, with one thread each, in milliseconds.

    OMP_NUM_THREADS=1 python benchmarks/evaluator.py [RUNS]      tab-separated
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from exporter import BatchNorm, evaluate

# shape of the input and its channel axis
CASES = [((64, 1024), 1), ((256, 1024), 1), ((4096, 16), 1), ((8, 28, 28, 512), 3), ((8, 512, 28, 28), 1), ((32, 112, 112, 3), 3),
         ((32, 3, 112, 112), 1), ((32, 56, 56, 256), 3), ((32, 256, 56, 56), 1)]
Work = Callable[[], object]


def layer_of(channels: int, axis: int) -> BatchNorm:
    random = np.random.default_rng(1)
    values = {name: random.random(channels, np.float32) + np.float32(0.5) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    return BatchNorm(path="bn", name="bn", class_name="BatchNormalization", axis=(axis,), shape=(channels,), ndim=None, dtype="float32",
                     epsilon=1e-3, momentum=0.99, **values)


def onnx_runtime(layer: BatchNorm, x: Any, out: Any, axis: int) -> Work:
    import onnxruntime
    from onnx import TensorProto, helper

    node = helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"], epsilon=layer.epsilon)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    parameters = zip("gbmv", layer.parameters().values())
    constants = [helper.make_tensor(name, TensorProto.FLOAT, values.shape, values) for name, values in parameters]
    model = helper.make_model(helper.make_graph([node], "bn", info[:1], info[1:], constants), opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(out))
    return lambda: session.run_with_iobinding(binding)


def torch(layer: BatchNorm, x: Any, out: Any, axis: int) -> Work:
    import torch as library

    library.set_num_threads(1)
    tensor = library.from_numpy(x)
    gamma, beta, mean, variance = (library.from_numpy(np.array(values)) for values in layer.parameters().values())
    return lambda: library.nn.functional.batch_norm(tensor, mean, variance, gamma, beta, eps=layer.epsilon)


def tensorflow(layer: BatchNorm, x: Any, out: Any, axis: int) -> Work:
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # only before its first use
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    gamma, beta, mean, variance = (tf.reshape(tf.constant(values), shape) for values in layer.parameters().values())
    tensor = tf.constant(x)
    function = tf.function(lambda t: tf.nn.batch_normalization(t, mean, variance, beta, gamma, layer.epsilon))
    return lambda: function(tensor)


OTHERS = {"ONNX Runtime": (onnx_runtime, ("onnx", "onnxruntime"), True), "PyTorch": (torch, ("torch",), True),
          "TensorFlow": (tensorflow, ("tensorflow",), False)}  # the third: channels along axis 1 alone


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    others = {name: other for name, other in OTHERS.items() if all(map(importlib.util.find_spec, other[1]))}
    has_numba = importlib.util.find_spec("numba") is not None
    print("\t".join(["input", "axis", "memcpy", "fast, out=", "fast", '"numba", out=', "prepared", 'prepared "numba"',
                     "prepared, memcpy = 1", 'prepared "numba"', *others]))
    for shape, axis in CASES:
        layer = layer_of(shape[axis], axis)
        x = np.random.default_rng(0).random(shape, np.float32)
        out = np.empty_like(x)
        work: dict[str, Work] = {"memcpy": lambda x=x, out=out: np.copyto(out, x),
                                 "out": lambda x=x, out=out, layer=layer: evaluate(layer, x, fast=True, out=out),
                                 "new": lambda x=x, layer=layer: evaluate(layer, x, fast=True),
                                 "prepared": functools.partial(layer.prepare(), x, out)}
        if has_numba:
            work["numba"] = lambda x=x, out=out, layer=layer: evaluate(layer, x, fast="numba", out=out)
            work["numba"]()  # compiles it
            work["prepared numba"] = functools.partial(layer.prepare(fast="numba"), x, out)
        for name, (make, _, axis_1_alone) in others.items():
            if axis == 1 or not axis_1_alone:
                work[name] = make(layer, x, out, axis)
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(runs * (30 if x.size < 1 << 19 else 3)):  # a short call is soon disturbed
            for name, function in work.items():
                began = time.perf_counter()
                function()
                times[name].append(1e3 * (time.perf_counter() - began))
        middle = {name: statistics.median(values) for name, values in times.items()}
        speeds = [f"{statistics.median(a / b for a, b in zip(times['memcpy'], times.get(name, []))):.2f}" if name in times else ""
                  for name in ("prepared", "prepared numba")]
        ours, theirs = ([f"{middle[name]:.3f}" if name in middle else "" for name in names]
                        for names in (("memcpy", "out", "new", "numba", "prepared", "prepared numba"), others))
        print("\t".join(["x".join(map(str, shape)), str(axis), *ours, *speeds, *theirs]))


if __name__ == "__main__":
    main()

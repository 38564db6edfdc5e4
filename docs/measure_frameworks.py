"""Runs batch norms of a bundle in each framework that is installed: the worst error as a part of the error bound.

    python docs/measure_frameworks.py            all of them, each in a process of its own, as a table
    python docs/measure_frameworks.py pytorch    one of them

Every function below is the row of docs/frameworks.md as code: how the four arrays and epsilon are handed over.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import exporter
from exporter.batchnorm import vectors
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.layer import BatchNorm
from exporter.targets.shared.options import WriteOptions

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parent / "vectors" / "batchnorm-1.json"
MAX_BYTES = 1e20  # of a variance or an input: beyond it single arithmetic overflows on the way, in every framework
NORMAL = 2.0**-100  # below it some kernels flush to zero

Run = Callable[[BatchNorm, Any], Any]  # rows of channels in, rows of channels out


def filled(layer: BatchNorm) -> tuple[Any, Any, Any, Any]:
    """gamma, beta, mean, variance, with 1 and 0 for an absent gamma and beta."""
    gamma = np.ones(layer.shape, np.float32) if layer.gamma is None else layer.gamma
    beta = np.zeros(layer.shape, np.float32) if layer.beta is None else layer.beta
    return np.array(gamma), np.array(beta), np.array(layer.moving_mean), np.array(layer.moving_variance)


def pytorch(layer: BatchNorm, x: Any) -> Any:
    import torch
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        exporter.write(one(layer), path, WriteOptions(names="torch"))
        state = load_file(str(path))
    module = torch.nn.BatchNorm1d(layer.moving_mean.size, eps=layer.epsilon)
    module.load_state_dict({name.rpartition(".")[2]: tensor for name, tensor in state.items() if name.startswith(f"{layer.path}.")
                            and name.rpartition(".")[2] in module.state_dict()})
    with torch.no_grad():
        return module.eval()(torch.from_numpy(x)).numpy()


def flax_linen(layer: BatchNorm, x: Any) -> Any:
    from flax import linen

    gamma, beta, mean, variance = filled(layer)
    module = linen.BatchNorm(use_running_average=True, epsilon=layer.epsilon)
    return np.asarray(module.apply({"params": {"scale": gamma, "bias": beta}, "batch_stats": {"mean": mean, "var": variance}}, x))


def flax_nnx(layer: BatchNorm, x: Any) -> Any:
    import jax.numpy as jnp
    from flax import nnx

    module = nnx.BatchNorm(layer.moving_mean.size, epsilon=layer.epsilon, use_running_average=True, rngs=nnx.Rngs(0))
    for name, values in zip(("scale", "bias", "mean", "var"), filled(layer)):
        setattr(module, name, type(getattr(module, name))(jnp.asarray(values)))
    return np.asarray(module(jnp.asarray(x)))


def tensorflow(layer: BatchNorm, x: Any) -> Any:
    import tensorflow as tf

    gamma, beta, mean, variance = filled(layer)
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, layer.epsilon).numpy()


def keras(layer: BatchNorm, x: Any) -> Any:
    import keras as k

    module = k.layers.BatchNormalization(epsilon=layer.epsilon)
    module.build(x.shape)
    module.set_weights(list(filled(layer)))
    return np.asarray(module(x, training=False))


def litert(layer: BatchNorm, x: Any) -> Any:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    gamma, beta, mean, variance = filled(layer)

    @tf.function(input_signature=[tf.TensorSpec(x.shape, tf.float32)])
    def normalize(value: Any) -> Any:
        return tf.nn.batch_normalization(value, mean, variance, beta, gamma, layer.epsilon)

    model = tf.lite.TFLiteConverter.from_concrete_functions([normalize.get_concrete_function()]).convert()
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def onnx_file(layer: BatchNorm, folder: str) -> Path:
    """The layer as a plain .onnx with the channels along axis 1, for rows of channels."""
    path = Path(folder) / "layer.onnx"
    exporter.write(one(layer.replace(ndim=2)), path, WriteOptions(axis=1, plain=True))
    return path


def onnx_runtime(layer: BatchNorm, x: Any) -> Any:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(str(onnx_file(layer, folder)), providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: x})[0]


def openvino(layer: BatchNorm, x: Any) -> Any:
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        model = ov.Core().compile_model(str(onnx_file(layer, folder)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return model([x])[0]


def opencv(layer: BatchNorm, x: Any) -> Any:
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        net = cv2.dnn.readNetFromONNX(str(onnx_file(layer, folder)))
        net.setInput(x)
        return net.forward()


def ncnn(layer: BatchNorm, x: Any) -> Any:
    import ncnn as engine

    gamma, beta, mean, variance = filled(layer)
    channels = layer.moving_mean.size
    with tempfile.TemporaryDirectory() as folder:
        param, weights = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_text(f"7767517\n2 2\nInput in 0 1 x\nBatchNorm bn 1 1 x y 0={channels} 1={layer.epsilon:e}\n")
        weights.write_bytes(b"".join(values.astype("<f4").tobytes() for values in (gamma, mean, variance, beta)))
        net = engine.Net()
        net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
        net.load_param(str(param))
        net.load_model(str(weights))
        extractor = net.create_extractor()
        channels_first = np.ascontiguousarray(x.T).reshape(channels, 1, -1)
        extractor.input("x", engine.Mat(channels_first).clone())  # the layer works in place, so not in NumPy's memory
        return np.array(extractor.extract("y")[1]).reshape(channels, -1).T


FRAMEWORKS: dict[str, tuple[Run, tuple[str, ...]]] = {  # how to run it, and the packages that it needs, its own first
    "pytorch": (pytorch, ("torch", "safetensors")), "flax.linen": (flax_linen, ("flax", "jax")), "flax.nnx": (flax_nnx, ("flax", "jax")),
    "tensorflow": (tensorflow, ("tensorflow",)), "keras": (keras, ("keras",)), "litert": (litert, ("ai-edge-litert", "tensorflow")),
    "onnx runtime": (onnx_runtime, ("onnxruntime", "onnx")), "openvino": (openvino, ("openvino", "onnx")),
    "opencv": (opencv, ("opencv-python-headless", "onnx")), "ncnn": (ncnn, ("ncnn",)),
}


def one(layer: BatchNorm) -> Bundle:
    """A bundle of one layer."""
    return Bundle(layers=(layer,), origin=exporter.Origin(file="conformance", kind="synthetic"))


def layers() -> Iterator[tuple[BatchNorm, Any]]:
    """The float32 layers of the conformance file with one axis, each with its rows, but for those with numbers at the edges of the type."""
    for layer in exporter.load(VECTORS):
        if layer.dtype != "float32" or len(layer.shape) != 1:
            continue
        layer = layer.replace(axis=(-1,), ndim=None)
        rows = np.array(vectors.make(layer)[0])
        numbers = np.concatenate([rows.ravel(), *(values.ravel() for values in layer.parameters().values())])
        if np.abs(numbers).max() < MAX_BYTES and np.abs(numbers[numbers != 0]).min() > NORMAL:
            yield layer, rows


def missing(name: str) -> str:
    """The first package that a framework needs and that is not installed, or ""."""
    for package in FRAMEWORKS[name][1]:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return package
    return ""


def measure(name: str) -> tuple[int, float]:
    """(how many numbers, the worst error in units of the bound) of a framework."""
    run = FRAMEWORKS[name][0]
    numbers, worst = 0, 0.0
    for layer, x in layers():
        want = vectors.make(layer)[1].astype(np.float64)
        got = np.asarray(run(layer, x), np.float64).reshape(want.shape)
        ratio = np.abs(got - want) / vectors.bound(layer, x)
        numbers += x.size
        worst = max(worst, float(np.where(np.isnan(ratio), np.inf, ratio).max()))
    return numbers, worst


def main(names: list[str]) -> int:
    """Prints a row for each framework; 1 where one is beyond the bound."""
    if names:
        numbers, worst = measure(names[0])
        version = importlib.metadata.version(FRAMEWORKS[names[0]][1][0])
        print(f"{names[0]:14} {version:12} {numbers:6} numbers, worst at {worst:.3f} of the bound")
        return int(worst > 1)
    failed = 0
    for name in FRAMEWORKS:
        if package := missing(name):
            print(f"{name:14} not measured: the package {package} is not installed")
            continue
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu",
                       "KERAS_BACKEND": "tensorflow"}
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, env=environment)
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        print(done.stdout.splitlines()[-1] if done.stdout else f"{name:14} failed: {why}", flush=True)
        failed = failed or done.returncode
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What ONNX Runtime makes of the layers of an .onnx file in a network: node counts and times, the table of docs/targets.md.

    python docs/measure_onnx.py          prints the table and writes it into the page
    python docs/measure_onnx.py print    prints it

The network is 20 times Conv (3 x 3, 32 channels, NCHW), batch norm, Relu, on 1 x 32 x 56 x 56 float32, with random numbers. Its batch norms
come from `exporter.write`, in the ways that a user has; the nodes are counted as they are given and as ONNX Runtime runs them.
"""

from __future__ import annotations

import collections
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx.inliner
import onnxruntime
from onnx import helper, numpy_helper

import exporter

PAGE = Path(__file__).with_name("targets.md")
BEGIN, END = "<!-- begin onnx: made by docs/measure_onnx.py -->", "<!-- end onnx -->"
LAYERS, CHANNELS, SIDE, ROUNDS = 20, 32, 56, 60


def batch_norms() -> exporter.Bundle:
    """Layers with the channels last, as in Keras."""
    random = np.random.default_rng(0)
    layers = []
    for number in range(LAYERS):
        arrays = {name: random.uniform(low, high, CHANNELS).astype(np.float32) for name, low, high in (
            ("gamma", 0.5, 1.5), ("beta", -0.5, 0.5), ("moving_mean", -0.5, 0.5), ("moving_variance", 0.1, 3))}
        layers.append(exporter.BatchNorm(path=f"bn_{number}", axis=(-1,), ndim=4, epsilon=1e-3, **arrays))
    return exporter.Bundle(layers=tuple(layers), origin=exporter.Origin(file="network", kind="numbers"))


def kernels() -> list[Any]:
    """Of the convolutions, as ONNX has them: (out, in, height, width)."""
    random = np.random.default_rng(1)
    return [random.normal(0, (2 / (9 * CHANNELS)) ** 0.5, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32) for _ in range(LAYERS)]


def network(functions: onnx.ModelProto | None, *, transposed: bool = False, folded: list[tuple[Any, Any]] | None = None) -> onnx.ModelProto:
    """The network. functions: those of an .onnx file, or None without batch norms; folded: (kernel, bias) of each convolution."""
    nodes, constants, value = [], [], "x"
    own = {} if functions is None else {function.doc_string: function for function in functions.functions}
    for number, kernel in enumerate(kernels()):
        names = [f"k{number}"]
        arrays = [kernel] if folded is None else list(folded[number])
        names += [f"b{number}"] * (len(arrays) - 1)
        constants += [numpy_helper.from_array(array, name) for array, name in zip(arrays, names)]
        nodes.append(helper.make_node("Conv", [value, *names], [f"c{number}"], pads=[1, 1, 1, 1]))
        value = f"c{number}"
        if functions is not None:
            function = own[f"bn_{number}"]
            if transposed:
                nodes.append(helper.make_node("Transpose", [value], [f"last{number}"], perm=[0, 2, 3, 1]))
                value = f"last{number}"
            nodes.append(helper.make_node(function.name, [value], [f"n{number}"], domain=function.domain))
            value = f"n{number}"
            if transposed:
                nodes.append(helper.make_node("Transpose", [value], [f"first{number}"], perm=[0, 3, 1, 2]))
                value = f"first{number}"
        nodes.append(helper.make_node("Relu", [value], [f"y{number}"]))
        value = f"y{number}"
    shape = [1, CHANNELS, SIDE, SIDE]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", value)]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], constants)
    domains = [] if functions is None else [helper.make_opsetid(name, 1) for name in {function.domain for function in functions.functions}]
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15), *domains], ir_version=8)
    made.functions.extend([] if functions is None else functions.functions)
    return made


def written(**options: Any) -> onnx.ModelProto:
    """The batch norms as exporter.write has them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.onnx"
        exporter.write(batch_norms(), path, **options)
        return onnx.load(path)


def folded_kernels() -> list[tuple[Any, Any]]:
    """What exporter.fold makes of each convolution, through Keras's layout and back."""
    found = []
    for layer, kernel in zip(batch_norms(), kernels()):
        both = exporter.fold(layer, kernel.transpose(2, 3, 1, 0), None, "Conv2D")
        found.append((np.ascontiguousarray(both.kernel.transpose(3, 2, 0, 1)), both.bias))
    return found


def session(model: onnx.ModelProto, *, optimized: bool = True) -> tuple[onnxruntime.InferenceSession, str]:
    """A session of one thread, and the nodes that it runs, counted by kind."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimized else levels.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "run.onnx")
        made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return made, counted(onnx.load(options.optimized_model_filepath))


def counted(model: onnx.ModelProto) -> str:
    """How many nodes there are of each kind, the most frequent first; those of a function within it."""
    kinds = collections.Counter(node.op_type for node in model.graph.node)
    return f"{sum(kinds.values())}: " + ", ".join(f"{count} {name}" for name, count in kinds.most_common())


def rows() -> list[tuple[str, str, str, float, float]]:
    """(what, nodes as given, nodes as run, milliseconds, largest difference from the first row)."""
    inlined = onnx.inliner.inline_local_functions
    models = {"channels last (no option), between two Transpose": network(written(), transposed=True),
              "`--axis 1`": network(written(axis=1)), "`exporter.fold`, no batch norm": network(None, folded=folded_kernels())}
    sessions = {name: session(model) for name, model in models.items()}
    x = np.random.default_rng(2).normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    outputs = {name: made.run(None, {"x": x})[0].astype(np.float64) for name, (made, _) in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):  # in turns: what else the machine does meets all alike
        for name, (made, _) in sessions.items():
            began = time.perf_counter()
            made.run(None, {"x": x})
            times[name].append(time.perf_counter() - began)
    first = next(iter(outputs.values()))
    return [(name, counted(inlined(model)), sessions[name][1], 1000 * statistics.median(times[name]),
             float(np.abs(outputs[name] - first).max() / np.abs(first).max())) for name, model in models.items()]


def table() -> str:
    found = rows()
    head = "| batch norms | nodes as given | nodes as ONNX Runtime runs them | time | difference from the first |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {name} | {given} | {run} | {time_:.1f} ms | {difference:.0e} |\n" if difference else
                          f"| {name} | {given} | {run} | {time_:.1f} ms | |\n" for name, given, run, time_, difference in found)


def main() -> None:
    text = table()
    print(text)
    if sys.argv[1:] != ["print"]:
        page = PAGE.read_text()
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(f"{page[:start]}\n{text}{page[end:]}")


if __name__ == "__main__":
    main()

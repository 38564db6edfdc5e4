"""ONNX: one function a layer, and a main graph that calls each with an input and an output of its own.

A function (ONNX IR 8 and later) holds its constants, so that it is put into another model by copying it and adding one node; nothing
has to be renamed. onnx.inliner.inline_local_functions makes plain nodes of it.

BatchNormalization wants the channels along axis 1. Channels last, and other axes that stand together, get there by Reshape alone, for
inputs of any rank and without a copy: (N, H, W, C) is (N*H*W, C), channels along axis a are (-1, C, rest). Only axes that do not stand
together in order, as in axis=[1, 3], need a Transpose and hence the rank.

Specification: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html (version 15), onnx__Shape.html (version 15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.__about__ import __version__
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.layer import BatchNorm, wide
from exporter.errors import MissingExtra, OutputError
from exporter.targets.shared.identifiers import identifiers
from exporter.targets.shared.options import WriteOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "onnx"
OPTIONS = frozenset({"vectors"})  # holds none
OPSET, IR_VERSION = 15, 8  # the first opset whose Shape takes a part of the shape; IR 8 is the first with functions
DOMAIN = "bn-bundle"
ROUNDINGS = 8  # epsilon and variance + epsilon may be off by so many units of float32; the error bound of the vectors is wider


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The model. Raises MissingExtra without the package onnx, OutputError for a layer that ONNX cannot say."""
    try:
        import onnx
        from onnx import helper
    except ImportError:
        raise MissingExtra("onnx", "onnx", "writing .onnx") from None
    functions, nodes, inputs, outputs = [], [], [], []
    for layer, name in zip(bundle, identifiers(bundle.paths())):
        function = _function(layer, name)
        x, y = f"{layer.path}/x", f"{layer.path}/y"
        functions.append(function)
        nodes.append(helper.make_node(function.name, [x], [y], domain=DOMAIN, name=layer.path))
        inputs.append(_value(layer, x))
        outputs.append(_value(layer, y))
    graph = helper.make_graph(nodes, "bn-bundle", inputs, outputs)
    model = helper.make_model(graph, functions=functions, producer_name="bn-export", producer_version=__version__, ir_version=IR_VERSION,
                              opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)])
    helper.set_model_props(model, {"bn-bundle.digest": bundle.digest(), "bn-bundle.source": bundle.origin.file})
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _value(layer: BatchNorm, name: str) -> Any:
    """The type of a layer's input or output in the main graph: channels where they stand, the other sizes open.

    The main graph has to say a rank (onnx.checker asks for it). Where the file does not, it is the smallest that the axes allow: rows of
    channels for axis -1. The function itself takes any rank.
    """
    from onnx import helper

    axes = layer.axis
    rank = layer.ndim or max(a + 1 if a >= 0 else 1 - a for a in axes)
    sizes: list[Any] = [f"{name}:{axis}" for axis in range(rank)]
    for axis, size in zip(axes, layer.shape):
        sizes[axis] = size
    return helper.make_tensor_value_info(name, _type(layer.dtype), sizes)


def _type(dtype: str) -> int:
    from onnx import TensorProto

    types = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
    return types[dtype]


class _Body:
    """Nodes of a function under construction; each call adds one and gives the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        result = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [result], **attributes))
        return result

    def constant(self, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        return self.add("Constant", value=numpy_helper.from_array(values))


def _function(layer: BatchNorm, name: str) -> Any:
    """The layer as a function of one input, `x`, and one output, `y`, both in the layer's dtype."""
    from onnx import TensorProto, helper

    body = _Body()
    narrow = layer.dtype in ("float16", "bfloat16")  # computed in float32: ONNX Runtime has no such kernel in every build
    x = body.add("Cast", "x", to=TensorProto.FLOAT) if narrow else "x"
    y = _normalized(body, layer, x)
    y = body.add("Cast", y, to=_type(layer.dtype)) if narrow else y
    body.nodes[-1].output[0] = "y"
    return helper.make_function(DOMAIN, name, ["x"], ["y"], body.nodes, [helper.make_opsetid("", OPSET)], doc_string=layer.path)


def _normalized(body: _Body, layer: BatchNorm, x: str) -> str:
    """The nodes that bring the channels to axis 1, normalise, and bring them back."""
    axes = tuple(a if layer.ndim is None else a % layer.ndim for a in layer.axis)
    if axes == (1,):
        return _batch_normalization(body, layer, x)
    order = None
    if not _together(axes):
        if layer.ndim is None:
            raise OutputError(f"axes {list(axes)} do not stand together, and the file does not say the input's rank", where=layer.path)
        order = [axis for axis in range(layer.ndim) if axis not in axes] + list(axes)
        x, axes = body.add("Transpose", x, perm=order), tuple(range(layer.ndim - len(axes), layer.ndim))
    flat = body.add("Reshape", x, _flat_shape(body, layer, x, axes[-1]))
    y = body.add("Reshape", _batch_normalization(body, layer, flat), body.add("Shape", x), allowzero=1)
    return y if order is None else body.add("Transpose", y, perm=np.argsort(order).tolist())


def _together(axes: tuple[int, ...]) -> bool:
    return axes == tuple(range(axes[0], axes[0] + len(axes))) and (axes[0] < 0) == (axes[-1] < 0)


def _flat_shape(body: _Body, layer: BatchNorm, x: str, last: int) -> str:
    """[-1, channels], followed by the product of the sizes after axis `last` if it is not the last of all."""
    front = body.constant(np.array([-1, layer.channels], np.int64))
    if last in (-1, (layer.ndim or 0) - 1):
        return front
    rest = body.add("ReduceProd", body.add("Shape", x, start=last + 1), keepdims=1)
    return body.add("Concat", front, rest, axis=0)


def _batch_normalization(body: _Body, layer: BatchNorm, x: str) -> str:
    variance, epsilon = _variance_and_epsilon(layer)
    kind = variance.dtype
    gamma, beta, mean, _ = (values.astype(kind).ravel() for values in wide(layer))
    constants = [body.constant(values) for values in (gamma, beta, mean, variance)]
    return body.add("BatchNormalization", x, *constants, epsilon=epsilon)


def _variance_and_epsilon(layer: BatchNorm) -> tuple[NDArray[Any], float]:
    """What the operator gets. Its epsilon is a float32: a float64 layer whose epsilon is none has it added to the variance instead."""
    variance, epsilon = layer.moving_variance.ravel(), np.float32(layer.epsilon)
    if layer.dtype == "float64":
        return (variance, float(epsilon)) if float(epsilon) == layer.epsilon else (variance + layer.epsilon, 0.0)
    variance = variance.astype(np.float32)
    wanted = variance.astype(np.float64) + layer.epsilon
    if (np.abs((variance + epsilon).astype(np.float64) - wanted) > ROUNDINGS * 2.0**-24 * wanted).any():
        raise OutputError(f"ONNX holds epsilon as float32, and {layer.epsilon!r} is lost in it beside these variances", where=layer.path)
    return variance, float(epsilon)

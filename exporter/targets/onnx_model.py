"""ONNX: one function per layer, and a main graph that calls each with its own input and output.

A function (ONNX IR 8 and later) contains its constants, so it is inserted into another model by copying it and adding one node; nothing
has to be renamed. onnx.inliner.inline_local_functions turns it into plain nodes.

BatchNormalization requires the channels along axis 1. Channels last, and other adjacent axes, need only Flatten or Reshape,
for inputs of any rank and without a copy: (N, H, W, C) is (N*H*W, C), channels along axis a are (-1, C, rest). Only axes that are
not adjacent and in order, as in axis=[1, 3], need a Transpose and therefore the rank.

Specification: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html (version 15), onnx__Shape.html (version 15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.__about__ import __version__
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.layer import BatchNorm, wide
from exporter.errors import MissingExtra, OutputError
from exporter.targets.shared.names import identifiers
from exporter.targets.shared.options import WriteOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "onnx"
MARK = rb".{,8}bn-export"
OPTIONS = frozenset({"vectors", "axis", "plain"})  # holds none
OPSET, IR_VERSION = 15, 8  # the first opset whose Shape can return part of the shape; IR 8 is the first with functions
DOMAIN = "bn-bundle"
ROUNDINGS = 8  # epsilon and variance + epsilon may be off by this many float32 units; the error bound of the vectors is wider


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The model. Raises MissingExtra without the package onnx, OutputError for a layer that ONNX cannot represent."""
    try:
        import onnx
        from onnx import helper
    except ImportError:
        raise MissingExtra("onnx", "onnx", "writing .onnx") from None
    functions, nodes, constants = [], [], []
    layers = [layer if options.axis is None else _along(layer, options.axis) for layer in bundle]
    for layer, name in zip(layers, identifiers(bundle.paths())):
        x, y = f"{layer.path}/x", f"{layer.path}/y"
        if options.plain:
            body = _Graph(f"{name}/", x)
            nodes += _nodes(body, layer, y)
            constants += body.constants
        else:
            function = helper.make_function(DOMAIN, name, ["x"], ["y"], _nodes(_Body("", "x"), layer, "y"),
                                            [helper.make_opsetid("", OPSET)], doc_string=layer.path)
            functions.append(function)
            nodes.append(helper.make_node(function.name, [x], [y], domain=DOMAIN, name=layer.path))
    graph = helper.make_graph(nodes, "bn-bundle", [_value(layer, f"{layer.path}/x") for layer in layers],
                              [_value(layer, f"{layer.path}/y") for layer in layers], constants)
    domains = ["", DOMAIN] if functions else [""]
    model = helper.make_model(graph, functions=functions, producer_name="bn-export", producer_version=__version__, ir_version=IR_VERSION,
                              opset_imports=[helper.make_opsetid(domain, 1 if domain else OPSET) for domain in domains])
    helper.set_model_props(model, {"bn-bundle.digest": bundle.digest(), "bn-bundle.source": bundle.origin.file})
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _along(layer: BatchNorm, axis: int) -> BatchNorm:
    """The layer with its channels along another axis of the input."""
    if len(layer.shape) != 1:
        raise OutputError(f"expected a layer with one axis for --axis, got {len(layer.shape)} axes", where=layer.path,
                          hint="exclude it with --layers")
    if layer.ndim is not None and not -layer.ndim < axis < layer.ndim:
        raise OutputError(f"the input has {layer.ndim} dimensions, but --axis is {axis}", where=layer.path, hint="exclude it with --layers")
    return layer.replace(axis=(axis,))


def _value(layer: BatchNorm, name: str) -> Any:
    """The type of a layer's input or output in the main graph: the channels at their axis, the other sizes open.

    The main graph has to specify a rank (onnx.checker requires it). If the file does not, it is the smallest that the axes allow: rows of
    channels for axis -1. The function itself accepts any rank.
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
    """Nodes of a function under construction; each call adds one and returns the name of its result. `x` is the input."""

    def __init__(self, prefix: str, x: str) -> None:
        self.nodes: list[Any] = []
        self.prefix, self.x = prefix, x

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        result = f"{self.prefix}v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [result], **attributes))
        return result

    def constant(self, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        return self.add("Constant", value=numpy_helper.from_array(values))


class _Graph(_Body):
    """The same as part of the main graph: constants are initializers, where readers without support for functions expect them."""

    def __init__(self, prefix: str, x: str) -> None:
        super().__init__(prefix, x)
        self.constants: list[Any] = []

    def constant(self, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"{self.prefix}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name


def _nodes(body: _Body, layer: BatchNorm, y: str) -> list[Any]:
    """The layer from its input to its output `y`, both in the layer's dtype."""
    from onnx import TensorProto

    narrow = layer.dtype in ("float16", "bfloat16")  # computed in float32: ONNX Runtime has no such kernel in every build
    x = body.add("Cast", body.x, to=TensorProto.FLOAT) if narrow else body.x
    result = _normalized(body, layer, x)
    if narrow:
        body.add("Cast", result, to=_type(layer.dtype))
    body.nodes[-1].output[0] = y
    return body.nodes


def _normalized(body: _Body, layer: BatchNorm, x: str) -> str:
    """The nodes that bring the channels to axis 1, normalize, and bring them back."""
    axes = tuple(a if layer.ndim is None else a % layer.ndim for a in layer.axis)
    if axes == (1,):
        return _batch_normalization(body, layer, x)
    order = None
    if not _together(axes):
        if layer.ndim is None:
            raise OutputError(f"axes {list(axes)} are not adjacent, and the file does not specify the rank of the input", where=layer.path)
        order = [axis for axis in range(layer.ndim) if axis not in axes] + list(axes)
        x, axes = body.add("Transpose", x, perm=order), tuple(range(layer.ndim - len(axes), layer.ndim))
    flat = _flat(body, layer, x, axes)
    y = body.add("Reshape", _batch_normalization(body, layer, flat), body.add("Shape", x), allowzero=1)
    return y if order is None else body.add("Transpose", y, perm=np.argsort(order).tolist())


def _together(axes: tuple[int, ...]) -> bool:
    return axes == tuple(range(axes[0], axes[0] + len(axes))) and (axes[0] < 0) == (axes[-1] < 0)


def _flat(body: _Body, layer: BatchNorm, x: str, axes: tuple[int, ...]) -> str:
    """`x` as (-1, channels), followed by the product of the sizes after the last of `axes`, if there are any.

    The channels are counted along the axes of `x` itself, and BatchNormalization refuses another number than the layer's: a tensor of
    another layout, such as NCHW instead of NHWC, has equally many numbers and would pass a Reshape to the layer's own number.
    """
    behind = axes[-1] not in (-1, (layer.ndim or 0) - 1)
    if len(axes) == 1 and not behind:
        return body.add("Flatten", x, axis=-1)
    sizes = body.add("Shape", x, start=axes[0], **({} if axes[-1] == -1 else {"end": axes[-1] + 1}))
    shape = [body.constant(np.array([-1], np.int64)), sizes] if len(axes) == 1 else [_if_equal(body, sizes, layer)]
    if behind:
        shape.append(body.add("ReduceProd", body.add("Shape", x, start=axes[-1] + 1), keepdims=1))
    return body.add("Reshape", x, body.add("Concat", *shape, axis=0) if len(shape) > 1 else shape[0])


def _if_equal(body: _Body, sizes: str, layer: BatchNorm) -> str:
    """[-1, channels] if `sizes` are the layer's own; otherwise a Gather beyond its table, which fails: sizes in another order have the
    same product."""
    from onnx import TensorProto

    same = body.add("Equal", sizes, body.constant(np.array(layer.shape, np.int64)))
    fewest = body.add("ReduceMin", body.add("Cast", same, to=TensorProto.INT64), keepdims=0)
    row = body.add("Sub", body.constant(np.array(1, np.int64)), fewest)
    return body.add("Gather", body.constant(np.array([[-1, layer.channels]], np.int64)), row, axis=0)


def _batch_normalization(body: _Body, layer: BatchNorm, x: str) -> str:
    variance, epsilon = _variance_and_epsilon(layer)
    kind = variance.dtype
    gamma, beta, mean, _ = (values.astype(kind).ravel() for values in wide(layer))
    constants = [body.constant(values) for values in (gamma, beta, mean, variance)]
    return body.add("BatchNormalization", x, *constants, epsilon=epsilon)


def _variance_and_epsilon(layer: BatchNorm) -> tuple[NDArray[Any], float]:
    """The operator's inputs. Its epsilon is a float32: a float64 layer whose epsilon does not fit has it added to the variance instead."""
    variance, epsilon = layer.moving_variance.ravel(), np.float32(layer.epsilon)
    if layer.dtype == "float64":
        return (variance, float(epsilon)) if float(epsilon) == layer.epsilon else (variance + layer.epsilon, 0.0)
    variance = variance.astype(np.float32)
    wanted = variance.astype(np.float64) + layer.epsilon
    if (np.abs((variance + epsilon).astype(np.float64) - wanted) > ROUNDINGS * 2.0**-24 * wanted).any():
        raise OutputError(f"ONNX stores epsilon as float32, in which {layer.epsilon!r} is lost beside these variances", where=layer.path)
    return variance, float(epsilon)

"""A minimal writer of GraphDef files, to test the graph readers without TensorFlow."""

from __future__ import annotations

import numpy as np

from tests.make.tensor_files import field, shape_proto, stored

TYPES = {"float32": 1, "float64": 2, "int32": 3, "string": 7, "int64": 9, "bool": 10, "bfloat16": 14, "float16": 19}


class Function(str):
    """The name of a function, as an attribute."""


def tensor(values, dtype=None, shape=None):
    """A TensorProto with its values as tensor_content."""
    if isinstance(values, list):
        return field(1, TYPES["string"]) + field(2, shape_proto((len(values),))) + b"".join(field(8, text) for text in values)
    values = np.asarray(values, dtype if dtype != "bfloat16" else "float32")
    dtype = dtype or str(values.dtype)
    return field(1, TYPES[dtype]) + field(2, shape_proto(values.shape if shape is None else shape)) + field(4, stored(values, dtype))


def attribute(value):
    """An AttrValue, by the type of `value`: bytes are a TensorProto, tuples a shape, lists are lists of ints, text or shapes."""
    if isinstance(value, bool):
        return field(5, int(value))
    if isinstance(value, float):
        return field(4, value)
    if isinstance(value, Function):
        return field(10, field(1, str(value)))
    if isinstance(value, bytes):
        return field(8, value)
    if isinstance(value, tuple):
        return field(7, shape_proto(value))
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):
            return field(1, b"".join(field(7, shape_proto(one)) for one in value))
        return field(1, b"".join(field(2 if isinstance(one, str) else 3, one) for one in value))
    return field(2, value)


def node(name, op, *inputs, **attributes):
    entries = (field(5, field(1, key) + field(2, attribute(value))) for key, value in attributes.items())
    return field(1, name) + field(2, op) + b"".join(field(3, one) for one in inputs) + b"".join(entries)


def const(name, values, dtype=None):
    return node(name, "Const", value=tensor(values, dtype))


def function(name, arguments, nodes, results):
    """A FunctionDef. results: {name: output of a node}."""
    signature = field(1, name) + b"".join(field(2, field(1, one)) for one in arguments)
    signature += b"".join(field(3, field(1, one)) for one in results)
    return (field(1, signature) + b"".join(field(3, one) for one in nodes)
            + b"".join(field(4, field(1, one) + field(2, output)) for one, output in results.items()))


def graph(*nodes, functions=()):
    library = field(2, b"".join(field(1, one) for one in functions)) if functions else b""
    return b"".join(field(1, one) for one in nodes) + library + field(4, field(1, 134))


def meta_graph(data, version="1.15.5", save_node="save/control_dependency:0"):
    return field(1, field(2, field(1, b"")) + field(4, "serve") + field(5, version)) + field(2, data) + field(3, field(2, save_node))


def parameters(channels=3, seed=0):
    """gamma, beta, mean, variance in float32."""
    random = np.random.default_rng(seed)
    values = [random.normal(center, width, channels) for center, width in ((1, 0.5), (0, 1), (0, 1))]
    values.append(10.0 ** random.uniform(-5, 1, channels))
    return [one.astype("float32") for one in values]


def frozen_variables(scope, values, names=("gamma", "beta", "moving_mean", "moving_variance")):
    """What freezing makes of variables: a Const, and the Identity that read it. Returns (nodes, names of the reads).

    values: None for one that nothing uses: freezing leaves it out.
    """
    nodes = []
    for name, array in zip(names, values):
        if array is None:
            continue
        nodes += [const(f"{scope}/{name}", array), node(f"{scope}/{name}/read", "Identity", f"{scope}/{name}")]
    return nodes, [f"{scope}/{name}/read" for name in names]


def variables(scope, count=4, names=("gamma", "beta", "moving_mean", "moving_variance"), op="VariableV2"):
    """Variables and their reads. Returns (nodes, names of the reads)."""
    nodes = []
    for name in names[:count]:
        nodes += [node(f"{scope}/{name}", op), node(f"{scope}/{name}/read", "Identity", f"{scope}/{name}")]
    return nodes, [f"{scope}/{name}/read" for name in names[:count]]


def chain(scope, x, gamma, beta, mean, variance, epsilon=1e-3, add="AddV2", name="batchnorm"):
    """The ops of tf.nn.batch_normalization (tensorflow/python/ops/nn_impl.py), numbered as TensorFlow does."""
    s = f"{scope}/{name}" if scope else name
    nodes = [const(f"{s}/add/y", np.float32(epsilon)), node(f"{s}/add", add, variance, f"{s}/add/y"),
             node(f"{s}/Rsqrt", "Rsqrt", f"{s}/add")]
    inverse, number = f"{s}/Rsqrt", 0
    if gamma:
        nodes.append(node(f"{s}/mul", "Mul", inverse, gamma))
        inverse, number = f"{s}/mul", 1
    scaled = f"{s}/mul_{number}" if number else f"{s}/mul"
    shifted = f"{s}/mul_{number + 1}"
    nodes.append(node(scaled, "Mul", x, inverse))
    if beta:
        nodes += [node(shifted, "Mul", mean, inverse), node(f"{s}/sub", "Sub", beta, shifted)]
        last = f"{s}/sub"
    else:
        nodes += [node(f"{s}/Neg", "Neg", mean), node(shifted, "Mul", f"{s}/Neg", inverse)]
        last = shifted
    return [*nodes, node(f"{s}/add_1", add, scaled, last)]


class Made:
    """A tensor in a formula: what Python's operators make of two of them is a node more."""

    def __init__(self, name, nodes, prefix):
        self.name, self.nodes, self.prefix = name, nodes, prefix

    def made(self, op, *others):
        name = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(node(name, op, self.name, *(other.name for other in others)))
        return Made(name, self.nodes, self.prefix)

    def __add__(self, other):
        return self.made("AddV2", other)

    def __sub__(self, other):
        return self.made("Sub", other)

    def __mul__(self, other):
        return self.made("Mul", other)

    def __truediv__(self, other):
        return self.made("RealDiv", other)

    def __neg__(self):
        return self.made("Neg")


def formula(text, prefix="f", **names):
    """The nodes of statements such as "r = rsqrt(v + e); y = x * r": names of ops in small letters, names of tensors as given. The nodes
    are called by the prefix and a number."""
    nodes = []
    ops = {op.lower(): lambda *sides, op=op: sides[0].made(op, *sides[1:])
           for op in ("Rsqrt", "Sqrt", "Pow", "Inv", "Reciprocal", "Exp", "Relu", "BiasAdd", "Mean", "Identity", "Reshape", "ExpandDims",
                      "Sum", "SelectV2", "Size", "Shape", "Prod", "Cast", "Gather", "Square", "Maximum", "ZerosLike", "DivNoNan", "Xdivy")}
    exec(text, ops | {key: Made(name, nodes, prefix) for key, name in names.items()})  # the tests' own text
    return nodes

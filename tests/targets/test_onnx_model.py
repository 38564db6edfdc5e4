"""The graph of a layer: which nodes each layout needs, and which numbers they hold (test_targets.py runs them)."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.errors import OutputError
from exporter.targets import onnx_model
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import make_bundle, make_layer

NORM = ["BatchNormalization"]
BACK = ["Shape", "Reshape"]
EQUAL = ["Shape", "Equal", "Cast", "ReduceMin", "Sub", "Gather"]  # the sizes of x along several axes are the layer's
BEHIND = ["Shape", "ReduceProd", "Concat", "Reshape"]  # with what comes after the channels
LAST = ["Flatten", *NORM, *BACK]
TWO = {"shape": (2, 3)}


def written(*layers, **options):
    onnx = pytest.importorskip("onnx")
    return onnx.load_from_string(onnx_model.write(make_bundle(*layers), WriteOptions(**options)))


def attributes(node):
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


@pytest.mark.parametrize(("fields", "nodes", "sizes"), [
    ({}, LAST, [0, 4]), ({"axis": (1,)}, NORM, [0, 4]), ({"axis": (3,)}, ["Shape", *BEHIND, *NORM, *BACK], [0, 1, 2, 4]),
    ({"axis": (-2,)}, ["Shape", *BEHIND, *NORM, *BACK], [0, 4, 2]), ({"axis": (-2,), "ndim": 3}, NORM, [0, 4, 2]),
    ({"ndim": 4, "axis": (1,)}, NORM, [0, 4, 2, 3]), ({"ndim": 4, "axis": (-3,)}, NORM, [0, 4, 2, 3]), ({"ndim": 4}, LAST, [0, 1, 2, 4]),
    ({"ndim": 4, "axis": (3,)}, LAST, [0, 1, 2, 4]), ({"ndim": 4, "axis": (2,)}, ["Shape", *BEHIND, *NORM, *BACK], [0, 1, 4, 3]),
    ({"ndim": 2}, NORM, [0, 4]), ({"axis": (1, 2), **TWO}, [*EQUAL, *BEHIND, *NORM, *BACK], [0, 2, 3]),
    ({"axis": (1, 2), "ndim": 4, **TWO}, [*EQUAL, *BEHIND, *NORM, *BACK], [0, 2, 3, 3]),
    ({"axis": (2, 3), "ndim": 4, **TWO}, [*EQUAL, "Reshape", *NORM, *BACK], [0, 1, 2, 3]),
    ({"axis": (-2, -1), **TWO}, [*EQUAL, "Reshape", *NORM, *BACK], [0, 2, 3]),
    ({"axis": (-3, -2), **TWO}, [*EQUAL, *BEHIND, *NORM, *BACK], [0, 2, 3, 3]),
    ({"axis": (1, -1), "ndim": 4, **TWO}, ["Transpose", *EQUAL, "Reshape", *NORM, *BACK, "Transpose"], [0, 2, 2, 3]),
    ({"axis": (2, 1), "ndim": 4, **TWO}, ["Transpose", *EQUAL, "Reshape", *NORM, *BACK, "Transpose"], [0, 3, 2, 3]),
    ({"dtype": "float64"}, LAST, [0, 4]), ({"dtype": "float16"}, ["Cast", *LAST, "Cast"], [0, 4]),
    ({"dtype": "bfloat16"}, ["Cast", *LAST, "Cast"], [0, 4])])
def test_the_nodes_of_each_layout(fields, nodes, sizes):
    layer = make_layer("bn", **fields)
    model = written(layer)
    assert [node.op_type for node in model.functions[0].node if node.op_type != "Constant"] == nodes
    given = model.graph.input[0].type.tensor_type.shape.dim
    axes = [axis % len(given) for axis in layer.axis]
    assert [size.dim_value if axis in axes else size.dim_param for axis, size in enumerate(given)] == [
        sizes[axis] if axis in axes else f"bn/x:{axis}" for axis in range(len(sizes))]
    plain = written(layer, plain=True)
    assert [node.op_type for node in plain.graph.node] == nodes


@pytest.mark.parametrize("fields", [{}, {"axis": (3,)}, {"axis": (1, -1), "ndim": 4, **TWO}])
def test_an_input_without_numbers_keeps_its_shape(fields):
    """A size of 0 in what a Reshape is given means the size of its input, unless it says otherwise."""
    back = [node for node in written(make_layer("bn", **fields), plain=True).graph.node if node.op_type == "Reshape"][-1]
    assert attributes(back) == {"allowzero": 1}


@pytest.mark.parametrize("fields", [{}, {"gamma": False}, {"beta": False}, {"dtype": "float64", "epsilon": 2.0**-10}, {"dtype": "float16"}])
def test_the_numbers_of_a_layer(fields):
    from onnx import numpy_helper

    layer = make_layer("bn", ndim=2, **fields)
    nodes = written(layer).functions[0].node
    constants = [numpy_helper.to_array(attributes(node)["value"]) for node in nodes if node.op_type == "Constant"]
    kind = np.float64 if layer.dtype == "float64" else np.float32
    want = [np.ones(4) if layer.gamma is None else layer.gamma, np.zeros(4) if layer.beta is None else layer.beta, layer.moving_mean,
            layer.moving_variance]
    assert [values.tobytes() for values in constants] == [values.astype(kind).tobytes() for values in want]
    (norm,) = [node for node in nodes if node.op_type == "BatchNormalization"]
    assert attributes(norm) == {"epsilon": pytest.approx(layer.epsilon, rel=2.0**-24)}


def test_what_is_said_of_the_model():
    layers = [make_layer("a b", ndim=2), make_layer("c", ndim=2)]
    model = written(*layers)
    assert {each.key: each.value for each in model.metadata_props} == {"bn-bundle.digest": make_bundle(*layers).digest(),
                                                                       "bn-bundle.source": "model.h5"}
    assert (model.producer_name, model.ir_version, model.graph.name) == ("bn-export", 8, "bn-bundle")
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 15, "bn-bundle": 1}
    assert [(function.name, function.doc_string) for function in model.functions] == [("a_b", "a b"), ("c", "c")]
    assert [(node.op_type, node.name, *node.input, *node.output) for node in model.graph.node] == [
        ("a_b", "a b", "a b/x", "a b/y"), ("c", "c", "c/x", "c/y")]
    names = [each.name for each in written(*layers, plain=True).graph.initializer]
    assert len(set(names)) == len(names) == 8


@pytest.mark.parametrize(("dtype", "variance", "epsilon", "stored", "added"), [
    ("float64", 0.5, 2.0**-10, 0.5, 2.0**-10), ("float64", 0.5, 0.1, 0.6, 0.0), ("float32", 0.5, 0.1, 0.5, float(np.float32(0.1))),
    ("float32", 1e-20, 1e-3, 1e-20, float(np.float32(1e-3))), ("float32", 0.0, 2.0**-149, 0.0, 2.0**-149),
    ("float32", 1.0, 1e-60, 1.0, 0.0)])
def test_where_epsilon_goes(dtype, variance, epsilon, stored, added):
    layer = make_layer(dtype=dtype, epsilon=epsilon).replace(moving_variance=np.full(4, variance, dtype))
    found, given = onnx_model._variance_and_epsilon(layer)
    assert (found.tolist(), given) == ([np.dtype(dtype).type(stored)] * 4, added)


@pytest.mark.parametrize("variances", [[0, 0, 0, 0], [1, 1, 0, 1]])
def test_an_epsilon_that_float32_loses_is_refused(variances):
    layer = make_layer("bn", epsilon=1e-46).replace(moving_variance=np.float32(variances))
    with pytest.raises(OutputError, match="bn: ONNX stores epsilon as float32, in which 1e-46 is lost beside these variances"):
        onnx_model._variance_and_epsilon(layer)


@pytest.mark.parametrize(("fields", "axis", "said"), [
    ({}, 5, None), ({"ndim": 4}, 3, None), ({"ndim": 4}, -3, None), ({"ndim": 4}, 4, "the input has 4 dimensions, but --axis is 4"),
    ({"ndim": 4}, -4, "the input has 4 dimensions, but --axis is -4"),
    ({"axis": (1, 2), **TWO}, 1, "expected a layer with one axis for --axis, got 2 axes")])
def test_another_axis(fields, axis, said):
    layer = make_layer("bn", **fields)
    if said is None:
        assert onnx_model._along(layer, axis) == layer.replace(axis=(axis,))
        return
    with pytest.raises(OutputError, match=f"bn: {said}") as caught:
        onnx_model._along(layer, axis)
    assert caught.value.hint == "exclude it with --layers"


@pytest.mark.parametrize("axis", [(1, -1), (1, 3), (-1, -2)])
def test_axes_apart_need_the_rank(axis):
    pytest.importorskip("onnx")
    with pytest.raises(OutputError, match=r"bn: axes .* are not adjacent, and the file does not specify the rank of the input"):
        onnx_model.write(make_bundle(make_layer("bn", axis=axis, **TWO)), WriteOptions())

"""usage: python splice.py LAYERS.onnx OUT.onnx"""
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

# somebody's model: one convolution that copies its 6 channels
kernel = numpy_helper.from_array(np.eye(6, dtype=np.float32).reshape(6, 6, 1, 1), "kernel")
x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 6, 2, 2]) for name in "xy")
graph = helper.make_graph([helper.make_node("Conv", ["x", "kernel"], ["y"])], "model", [x], [y], [kernel])
model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 15)])

# the splice: copy the function and its domain, let the convolution write elsewhere, add the node
layers = onnx.load(sys.argv[1])
function = layers.functions[0]
model.functions.append(function)
model.opset_import.append(helper.make_opsetid(function.domain, 1))
model.graph.node[0].output[0] = "convolved"
model.graph.node.append(helper.make_node(function.name, ["convolved"], ["y"], domain=function.domain))
onnx.checker.check_model(model, full_check=True)
onnx.save(model, sys.argv[2])

session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
image = np.arange(24, dtype=np.float32).reshape(1, 6, 2, 2) / 10
print(*session.run(None, {"x": image})[0].ravel())

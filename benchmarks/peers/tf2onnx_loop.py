"""tf2onnx: converts the model to ONNX and reads its BatchNormalization nodes (those that were not folded)."""
import sys

import orjson
import tensorflow as tf
import tf2onnx
from onnx import numpy_helper

model, _ = tf2onnx.convert.from_keras(tf.keras.models.load_model(sys.argv[1], compile=False))
tensors = {tensor.name: tensor for tensor in model.graph.initializer}
found = {node.name: [numpy_helper.to_array(tensors[name]) for name in node.input[1:]]
         for node in model.graph.node if node.op_type == "BatchNormalization"}
with open(sys.argv[2], "wb") as out:
    out.write(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))

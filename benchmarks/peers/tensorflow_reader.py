"""TensorFlow: the variables of a loaded SavedModel, or of a checkpoint by name. Neither contains epsilon."""
import pathlib
import sys

import orjson
import tensorflow as tf

parts = ("gamma", "beta", "moving_mean", "moving_variance")
if pathlib.Path(sys.argv[1]).is_dir():
    found = {v.path if hasattr(v, "path") else v.name: v.numpy() for v in tf.saved_model.load(sys.argv[1]).variables
             if v.name.split(":")[0].rsplit("/")[-1] in parts}
else:
    checkpoint = tf.train.load_checkpoint(sys.argv[1])
    found = {name: checkpoint.get_tensor(name) for name in checkpoint.get_variable_to_shape_map()
             if any(f"/{part}/" in name for part in parts)}
with open(sys.argv[2], "wb") as out:
    out.write(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))

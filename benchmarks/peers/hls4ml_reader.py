"""hls4ml's reader of Keras's HDF5: finds each parameter by a substring of its name."""
import sys

import h5py
import orjson
from hls4ml.converters.keras_v2_to_hls import KerasFileReader

reader = KerasFileReader({"KerasH5": sys.argv[1]})
with h5py.File(sys.argv[1], "r") as file:
    config = orjson.loads(file.attrs["model_config"])
names = [layer["config"]["name"] for layer in config["config"]["layers"] if layer["class_name"] == "BatchNormalization"]
parts = ("gamma", "beta", "moving_mean", "moving_variance")
found = {name: {part: reader.get_weights_data(name, part) for part in parts} for name in names}
with open(sys.argv[2], "wb") as out:
    out.write(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))

"""The baseline: h5py and orjson, without any checks. Reads only legacy HDF5."""
import sys

import h5py
import orjson

found = {}
with h5py.File(sys.argv[1], "r") as file:
    root = file["model_weights"]
    for name in root.attrs["layer_names"]:
        group = root[name]
        weights = [weight.decode() if isinstance(weight, bytes) else weight for weight in group.attrs["weight_names"]]
        if any("moving_variance" in weight for weight in weights):
            found[group.name] = {weight.rsplit("/")[-1].split(":")[0]: group[weight][()] for weight in weights}
with open(sys.argv[2], "wb") as out:
    out.write(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))

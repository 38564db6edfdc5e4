"""Keras itself: load_model, then a loop over the layers."""
import sys

import keras
import orjson

found = {}
for layer in keras.models.load_model(sys.argv[1], compile=False).layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        found[layer.name] = {"epsilon": float(layer.epsilon), **{w.name.rsplit("/")[-1].split(":")[0]: w.numpy() for w in layer.weights}}
with open(sys.argv[2], "wb") as out:
    out.write(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))

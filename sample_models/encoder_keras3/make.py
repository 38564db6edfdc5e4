"""A small image encoder with a nested model, a shared layer, wrappers, a frozen layer and every combination of gamma and beta.

Keras 3, TensorFlow:  pip install keras tensorflow
Run in this folder: python make.py. Writes model.keras, model.h5, model.weights.h5 and the config as architecture.json.
"""
import json
import sys

import keras
import numpy as np
from keras import layers

sys.path.insert(0, "..")
from truth import record

keras.utils.set_random_seed(7)


def block(name, filters):
    inputs = keras.Input((None, None, filters))
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(epsilon=1.001e-5, name="bn")(x)
    return keras.Model(inputs, layers.Add(name="add")([inputs, layers.ReLU(name="relu")(x)]), name=name)


inputs = keras.Input((8, 8, 3))
x = layers.Conv2D(6, 3, name="stem")(inputs)
x = layers.BatchNormalization(name="stem_bn", momentum=0.9)(x)
x = block("block_a", 6)(x)
x = block("block_b", 6)(x)
x = layers.BatchNormalization(center=False, epsilon=1e-5, name="no_beta")(x)
x = layers.LayerNormalization(name="not_a_batch_norm")(x)
shared = layers.BatchNormalization(scale=False, name="shared")
x = layers.Add(name="sum")([shared(x), shared(layers.ReLU(name="act")(x))])
frozen = layers.BatchNormalization(center=False, scale=False, name="frozen")
frozen.trainable = False
x = frozen(x)
x = layers.Reshape((6, 6, 6), name="rows")(x)
x = layers.TimeDistributed(layers.BatchNormalization(name="inner"), name="per_row")(x)
x = layers.GlobalAveragePooling2D(name="pool")(x)
x = layers.Dense(4, name="head")(x)
model = keras.Model(inputs, layers.BatchNormalization(name="head_bn", dtype="float32")(x), name="encoder")

random = np.random.default_rng(7)
for variable in model.variables:
    shape = tuple(variable.shape)
    name = variable.path.rsplit("/", 1)[-1]
    if name == "moving_variance":
        variable.assign((10.0 ** random.uniform(-6, 1, shape)).astype("float32"))
    elif name == "gamma":
        variable.assign(random.normal(1, 0.5, shape).astype("float32"))
    elif name in ("beta", "moving_mean"):
        variable.assign(random.normal(0, 1, shape).astype("float32"))
model.save("model.keras")
model.save("model.h5")
model.save_weights("model.weights.h5")
with open("architecture.json", "w") as file:
    file.write(json.dumps(json.loads(model.to_json()), indent=1, sort_keys=True) + "\n")
get = model.get_layer
record({"stem_bn": get("stem_bn"), "block_a/bn": get("block_a").get_layer("bn"), "block_b/bn": get("block_b").get_layer("bn"),
        "no_beta": get("no_beta"), "shared": shared, "frozen": frozen, "per_row/inner": get("per_row").layer, "head_bn": get("head_bn")})

"""Weights dumped by name with numpy.savez, as programs do that share numbers and not models, and the model's JSON beside them.

pip install tensorflow tf_keras
Run in this folder: python make.py. Writes weights.npz and architecture.json.
"""
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import numpy as np
import tf_keras as keras
from tf_keras import layers

sys.path.insert(0, "..")
from truth import record

keras.utils.set_random_seed(5)
inputs = keras.Input((8, 8, 2))
x = layers.Conv2D(4, 3, name="conv1")(inputs)
x = layers.BatchNormalization(name="bn1", epsilon=1e-5)(x)
x = layers.Conv2D(3, 3, name="conv2")(x)
x = layers.BatchNormalization(name="bn2", epsilon=0.01, scale=False)(x)
model = keras.Model(inputs, x, name="net")
random = np.random.default_rng(5)
for layer in model.layers:
    if isinstance(layer, layers.BatchNormalization):
        layer.set_weights([10.0 ** random.uniform(-4, 1, w.shape) if "variance" in v.name else random.normal(size=w.shape)
                           for v, w in zip(layer.weights, layer.get_weights())])
np.savez("weights.npz", **{weight.name: weight.numpy() for weight in model.weights})
with open("architecture.json", "w") as file:
    file.write(model.to_json(indent=1))
record({name: model.get_layer(name) for name in ("bn1", "bn2")})

"""A SavedModel and a checkpoint of one model, written by tf_keras (Keras 2): names and epsilons come from its object graph and metadata.

pip install tensorflow tf_keras
Run in this folder: python make.py. Writes saved_model/, checkpoint/ and model.h5.
"""
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import numpy as np
import tf_keras as keras
from tf_keras import layers

sys.path.insert(0, "..")
from truth import record

keras.utils.set_random_seed(11)
inner = keras.Sequential([layers.Dense(3, name="dense"), layers.BatchNormalization(name="bn", epsilon=0.002)], name="inner")
inputs = keras.Input((5,))
x = layers.BatchNormalization(name="first", scale=False)(inputs)
x = inner(x)
x = layers.Reshape((3, 1), name="reshape")(x)
x = layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="rnn")(x)
model = keras.Model(inputs, layers.BatchNormalization(axis=1, name="rows", momentum=0.5)(x), name="net")
random = np.random.default_rng(11)
for layer in (*model.layers, *inner.layers):
    if isinstance(layer, layers.BatchNormalization):
        layer.set_weights([10.0 ** random.uniform(-5, 1, w.shape) if "variance" in v.name else random.normal(size=w.shape)
                           for v, w in zip(layer.weights, layer.get_weights())])
model.save("saved_model", save_format="tf", save_traces=False)
model.save_weights("checkpoint/weights", save_format="tf")
model.save("model.h5")
record({"first": model.get_layer("first"), "inner/bn": inner.get_layer("bn"), "rows": model.get_layer("rows")})

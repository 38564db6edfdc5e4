"""A folder of steps as keras.callbacks.OrbaxCheckpoint writes it: nested and wrapped layers, a frozen one, and one without beta.

pip install keras==3.15.1 jax orbax-checkpoint
Run in this folder: python make.py. Writes run/ and truth.json.
"""
import os
import pathlib
import shutil
import sys

os.environ["KERAS_BACKEND"] = "jax"
import keras
import numpy as np
from keras import layers

sys.path.insert(0, "..")
from truth import record

keras.utils.set_random_seed(6)
random = np.random.default_rng(6)
inner = keras.Sequential([layers.Dense(3, name="dense"), layers.BatchNormalization(name="bn", epsilon=0.002)], name="inner")
inputs = keras.Input((4, 2))
x = layers.BatchNormalization(name="bn", epsilon=1e-5, center=False)(inputs)
x = layers.TimeDistributed(inner, name="each")(x)
model = keras.Model(inputs, layers.BatchNormalization(name="last", scale=False, trainable=False)(x), name="net")
for layer in (*inner.layers, *model.layers):
    if isinstance(layer, layers.BatchNormalization):
        layer.set_weights([10.0 ** random.uniform(-4, 1, w.shape) if "variance" in v.name else random.normal(size=w.shape)
                           for v, w in zip(layer.weights, layer.get_weights())])
model.compile("sgd", "mse")
shutil.rmtree("run", ignore_errors=True)
checkpoint = keras.callbacks.OrbaxCheckpoint(os.path.abspath("run"), save_freq="epoch", max_to_keep=2, save_on_background=False)
model.fit(random.normal(size=(16, 4, 2)), random.normal(size=(16, 4, 3)), epochs=3, verbose=0, callbacks=[checkpoint])
for said in pathlib.Path("run").rglob("commit_success.txt"):  # it names the folder it was written to
    said.chmod(0o644)
    said.write_text("Checkpoint commit was successful\n")
record({"bn": model.get_layer("bn"), "each/inner/bn": inner.get_layer("bn"), "last": model.get_layer("last")})

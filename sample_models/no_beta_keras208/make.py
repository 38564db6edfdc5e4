"""The model of a public question: a BatchNormalization without beta, whose answers for 1 and 5 were not the expected [-1, 1].

Keras 2.0.8, TensorFlow 1.3.0, Python 3.6:  pip install keras==2.0.8 tensorflow==1.3.0 h5py==2.7.1 numpy==1.13.3
Run in this folder: python make.py
"""
import sys

import numpy as np
from keras.layers import BatchNormalization, Input
from keras.models import Model

sys.path.insert(0, "..")
from truth import record

inputs = Input(shape=(1, 2, 1))
model = Model(inputs, BatchNormalization(center=False, name="bn")(inputs))
# the numbers that were printed: gamma, moving_mean, moving_variance
model.layers[1].set_weights([np.array([v], "float32") for v in (0.80644524, 0.05885344, 0.91000736)])
print(model.predict(np.array([[[[1], [5]]]], "float32")).ravel())  # [0.79519051 4.17485714]
model.save("model.h5")
record({"bn": model.layers[1]})

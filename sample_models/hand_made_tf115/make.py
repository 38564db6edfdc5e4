"""The batch norm of a public question, made by hand: tf.nn.moments, ExponentialMovingAverage, tf.cond and tf.nn.batch_normalization.

pip install tensorflow==1.15.5 "protobuf<3.21" "numpy<1.19" (Python 3.7); TensorFlow 2 writes the same through tf.compat.v1.
Run in this folder: python make.py. Writes model.ckpt with its .meta, no_graph/model.ckpt without one, frozen.pb and truth.json. The first
channel of layer_0/bn has the numbers of the question, whose -0.077417567 became 0.30664611.
"""
import json
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()
QUESTION = {"gamma": 1.0055743, "beta": -0.016652612, "moving_mean": -0.089603029, "moving_variance": 0.000436493}
truth = {}


def batch_norm(z, size, training):
    """The question's code, and what it made."""
    with tf.variable_scope("bn"):
        beta = tf.Variable(tf.constant(0.0, shape=[size]), name="beta", trainable=True)
        gamma = tf.Variable(tf.constant(1.0, shape=[size]), name="gamma", trainable=True)
        batch_mean, batch_var = tf.nn.moments(z, [0], name="moments")
        ema = tf.train.ExponentialMovingAverage(decay=0.5)

        def mean_var_with_update():
            with tf.control_dependencies([ema.apply([batch_mean, batch_var])]):
                return tf.identity(batch_mean), tf.identity(batch_var)

        mean, var = tf.cond(training, mean_var_with_update, lambda: (ema.average(batch_mean), ema.average(batch_var)))
        output = tf.nn.batch_normalization(z, mean, var, beta, gamma, 1e-3)
    return output, {"gamma": gamma, "beta": beta, "moving_mean": ema.average(batch_mean), "moving_variance": ema.average(batch_var)}


training = tf.placeholder(tf.bool, name="phase_train")
x = tf.placeholder(tf.float32, [None, 4], "x")
inputs, layers, h = [], [], x
random = np.random.RandomState(1)
for number, size in enumerate((5, 3)):
    with tf.variable_scope(f"layer_{number}"):
        weights = tf.Variable(random.normal(0, 0.5, (4 if number == 0 else 5, size)).astype("float32"), name="weights")
        inputs.append(tf.matmul(h, weights))
        h, variables = batch_norm(inputs[-1], size, training)
        layers.append((h, variables))
        h = tf.nn.tanh(h)
out = tf.identity(h, name="out")

with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for number, (_, variables) in enumerate(layers):
        size = variables["gamma"].shape.as_list()[0]
        values = {"gamma": random.normal(1, 0.3, size), "beta": random.normal(0, 0.5, size), "moving_mean": random.normal(0, 1, size),
                  "moving_variance": 10.0 ** random.uniform(-5, 1, size)}
        for name, variable in variables.items():
            if number == 0:
                values[name][0] = QUESTION[name]
            variable.load(values[name].astype("float32"), session)
        stored = {name: [float(value) for value in session.run(variable)] for name, variable in variables.items()}
        truth[f"layer_{number}/bn"] = {"axis": [-1], "epsilon": float(np.float32(1e-3)), "parameters": stored}
    z = np.zeros((1, 5), "float32")
    z[0, 0] = -0.077417567
    print("TensorFlow gives", session.run(layers[0][0], {inputs[0]: z, training: False})[0, 0])
    saver = tf.train.Saver()
    saver.save(session, "./model.ckpt")
    os.makedirs("no_graph", exist_ok=True)
    saver.save(session, "./no_graph/model.ckpt", write_meta_graph=False, write_state=False)
    frozen = tf.graph_util.convert_variables_to_constants(session, session.graph_def, ["out"])
with open("frozen.pb", "wb") as file:
    file.write(frozen.SerializeToString())
with open("truth.json", "w") as file:
    json.dump(truth, file, indent=1, sort_keys=True)
    file.write("\n")

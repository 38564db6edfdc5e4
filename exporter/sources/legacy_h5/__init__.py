"""The legacy HDF5 layout (Keras 0.3 to 2, tf.keras, tf_keras, Keras 3 .h5): which weights of a group form a batch norm, and of which
layer."""

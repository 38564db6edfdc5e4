"""Containers, read as bytes: HDF5, zip archives, protocol buffers and TensorFlow's tables, arrays, JSON. None knows Keras."""

"""Batch norms found in TensorFlow graphs: the tracer, chains of operations, and the layers that they make."""

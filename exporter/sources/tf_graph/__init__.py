"""Batch norms in TensorFlow graphs: the tracer, chains of operations, and the resulting layers."""

"""What a batch norm is and computes: NumPy only; nothing here opens a file or knows about Keras."""

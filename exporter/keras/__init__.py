"""What Keras means: configs, ranks, calls, and the facts of each version, as tables."""

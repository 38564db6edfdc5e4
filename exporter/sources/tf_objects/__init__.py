"""Object graphs of TensorFlow 2 checkpoints and SavedModels: names, configs and the variables of a batch norm."""

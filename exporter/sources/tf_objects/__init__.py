"""Object graphs of TensorFlow 2 checkpoints and SavedModels: names, configs and the variables of a batch norm."""

MODEL, METADATA, VARIABLES = "saved_model.pb", "keras_metadata.pb", "variables/variables.index"  # in the folder of a SavedModel

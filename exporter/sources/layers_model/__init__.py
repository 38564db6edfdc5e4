"""The weights of a TensorFlow.js layers model: the manifest in model.json, and the shards that it lists."""

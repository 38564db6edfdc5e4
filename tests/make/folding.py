"""Keras models whose batch norms can be folded, and the same models without the folded batch norms."""

from __future__ import annotations

import json

import numpy as np

KINDS = {  # input shape, arguments; six channels come out of each
    "Dense": ((5,), {"units": 6}), "Conv1D": ((7, 3), {"filters": 6, "kernel_size": 3}),
    "Conv2D": ((6, 7, 3), {"filters": 6, "kernel_size": 3, "padding": "same"}), "Conv3D": ((4, 5, 4, 2), {"filters": 6, "kernel_size": 2}),
    "Conv1DTranspose": ((7, 3), {"filters": 6, "kernel_size": 3}),
    "Conv2DTranspose": ((5, 6, 3), {"filters": 6, "kernel_size": 3, "strides": 2}),
    "Conv3DTranspose": ((3, 4, 3, 2), {"filters": 6, "kernel_size": 2}),
    "DepthwiseConv1D": ((7, 3), {"kernel_size": 3, "depth_multiplier": 2}),
    "DepthwiseConv2D": ((6, 7, 3), {"kernel_size": 3, "depth_multiplier": 2}),
    "SeparableConv1D": ((7, 3), {"filters": 6, "kernel_size": 3, "depth_multiplier": 2}),
    "SeparableConv2D": ((6, 7, 3), {"filters": 6, "kernel_size": 3, "depth_multiplier": 2}),
}


def layers_of(model, path=""):
    """(path, layer) of all layers of a model and of the models in it, with TimeDistributed's."""
    for layer in model.layers:
        own = f"{path}/{layer.name}" if path else layer.name
        yield own, layer
        if hasattr(layer, "layers") and not isinstance(layer.layers, property):
            yield from layers_of(layer, own)
        elif type(layer).__name__ == "TimeDistributed":
            yield f"{own}/{layer.layer.name}", layer.layer


def randomize(model, seed=0):
    """Gives every weight of a model random numbers, as trained ones might be: outputs neither vanish nor explode."""
    random = np.random.default_rng(seed)
    for _, layer in layers_of(model):
        if "BatchNormalization" in type(layer).__name__:
            for name, low, high in (("gamma", 0.5, 1.5), ("beta", -0.5, 0.5), ("moving_mean", -0.5, 0.5), ("moving_variance", 0.1, 3)):
                variable = getattr(layer, name, None)
                if variable is not None:
                    variable.assign(random.uniform(low, high, variable.shape).astype("float32"))
        elif "kernel" in " ".join(weight.name for weight in layer.weights) and not hasattr(layer, "layers") and not hasattr(layer, "layer"):
            values = [random.normal(0, (2 / max(1, np.prod(weight.shape[:-1]))) ** 0.5 if len(weight.shape) > 1 else 0.1, weight.shape)
                      for weight in layer.weights]
            layer.set_weights([each.astype("float32") for each in values])
    return model


def arrays_of(layer, name):
    """The live array that `name` of a folded model is made from."""
    found = getattr(layer, name, None)
    return np.asarray(layer.depthwise_kernel if found is None else found)


def without_norms(keras, model, folded):
    """The model with the folded batch norms taken out and the folded arrays in it, made anew from its own config."""
    config = json.loads(model.to_json())
    norms, kernels = {each.norm.path for each in folded.folded}, {each.path for each in folded.folded}
    _edit(config, "", norms, kernels)
    made = keras.models.model_from_json(json.dumps(config))
    old = dict(layers_of(model))
    for path, layer in layers_of(made):
        if path in kernels:
            one, weights = folded[path], old[path].get_weights()
            weights = [*(weights[:-1] if old[path].use_bias else weights), one.bias]
            weights[-2] = one.kernel
            layer.set_weights(weights)
        elif layer.weights and path not in norms and not hasattr(layer, "layers") and not hasattr(layer, "layer"):
            layer.set_weights(old[path].get_weights())
    return made


def _edit(entry, path, norms, kernels):
    config = entry["config"]
    for child in config.get("layers", [config["layer"]] if isinstance(config.get("layer"), dict) else []):
        own = child["config"]["name"]
        below = f"{path}/{own}" if path else own
        if below in norms:
            child["class_name"], child["config"] = "Activation", {"name": own, "activation": "linear"}
            child.update({"module": "keras.layers", "registered_name": None} if "module" in child else {})
            child.pop("build_config", None)
            for call in child.get("inbound_nodes", []):
                if isinstance(call, dict):  # of Keras 3; the mask of a batch norm is nothing that an Activation takes
                    call["kwargs"] = {}
        elif below in kernels:
            child["config"]["use_bias"] = True
        else:
            _edit(child, below, norms, kernels)


def zoo(keras, kind):
    """Two layers of a kind, one with a bias and one without, each with a batch norm behind it, one of them in a model in the model."""
    layers = keras.layers
    shape, fields = KINDS[kind]
    make = getattr(layers, kind)
    x = layers.Input(shape)
    y = layers.BatchNormalization(epsilon=0.01, name="first_norm")(make(use_bias=False, name="first", **fields)(x))
    inner = keras.Sequential([make(name="second", **fields), layers.BatchNormalization(scale=False, name="second_norm"),
                              layers.Activation("relu"), layers.Flatten(), layers.Dense(6, name="last")], name="inner")
    return randomize(keras.Model(x, [inner(x), y]))

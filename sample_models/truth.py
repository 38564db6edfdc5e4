"""What a live model holds, written down beside its sample by the script that made it. Runs on every Python that a sample needs."""
import json


def record(layers, path="truth.json"):
    """layers: {path in the model: live BatchNormalization layer}. Numbers are written with the digits of a double, so no bit is lost."""
    found = {}
    for name, layer in layers.items():
        values = {}
        for variable, numbers in zip(layer.weights, layer.get_weights()):
            short = variable.name.split("/")[-1].split(":")[0]
            values[short] = [float(number) for number in numbers.ravel()]
        found[name] = {
            "epsilon": layer.epsilon,
            "axis": [int(a) for a in layer.axis] if hasattr(layer.axis, "__len__") else [int(layer.axis)],
            "parameters": {name: values.get(name) for name in ("gamma", "beta", "moving_mean", "moving_variance")},
        }
    with open(path, "w") as file:
        json.dump(found, file, indent=1, sort_keys=True)
        file.write("\n")

"""All the ways in which a Keras version can save a model: (name, function, relative frequency).

The function takes the model, a path without suffix to save to, and the shape of an input. It returns what it wrote,
[{"file": ..., "architecture": ... or None}], with paths relative to the model's folder.
"""

import json
import os


def ways(api, tensorflow):
    """Those of this Keras and its backend."""
    return list(_keras_3(api, tensorflow) if api.is_3 else _keras_2(api, tensorflow))


def _wrote(path, file, architecture=None):
    folder = path.parent
    told = {"file": os.path.relpath(str(file), str(folder))}
    if architecture is not None:
        told["architecture"] = os.path.relpath(str(architecture), str(folder))
    return told


def _json_beside(model, path):
    beside = path.with_name(path.name + ".json")
    beside.write_text(model.to_json())
    return beside


def _with_suffix(path, suffix):
    return path.with_name(path.name + suffix)


def _save(suffix, **options):
    def way(model, path, shape):
        file = _with_suffix(path, suffix)
        model.save(str(file), **options)
        return [_wrote(path, file)]
    return way


def _weights(suffix, with_json, **options):
    def way(model, path, shape):
        file = _with_suffix(path, suffix)
        model.save_weights(str(file), **options)
        beside = _json_beside(model, path) if with_json else None
        return [_wrote(path, file, beside)]
    return way


def _weights_and_config_dump(suffix):
    def way(model, path, shape):
        file, beside = _with_suffix(path, suffix), _with_suffix(path, ".config.json")
        config = model.get_config()
        if "layers" not in config:
            return []
        model.save_weights(str(file))
        beside.write_text(json.dumps(config))
        return [_wrote(path, file, beside)]
    return way


def _weights_and_model(suffix):
    """Weights with another file of the whole model as the architecture."""
    def way(model, path, shape):
        file, beside = _with_suffix(path, suffix), _with_suffix(path, ".model.h5")
        model.save_weights(str(file))
        model.save(str(beside))
        return [_wrote(path, file, beside)]
    return way


def _export(model, path, shape):
    model.export(str(path), **({"verbose": False} if _takes(model.export, "verbose") else {}))
    return [_wrote(path, path)]


def _takes(function, name):
    import inspect

    return name in inspect.signature(function).parameters


def _saved_model(tensorflow):
    def way(model, path, shape):
        tensorflow.saved_model.save(model, str(path))
        return [_wrote(path, path)]
    return way


def _checkpoint(tensorflow, with_json):
    def way(model, path, shape):
        written = tensorflow.train.Checkpoint(model=model).write(str(path))
        reader = tensorflow.train.load_checkpoint(str(written))
        means = [reader.get_tensor(key).astype("float32").ravel().tolist() for key in reader.get_variable_to_shape_map()
                 if "/moving_mean/" in key]
        return [dict(_wrote(path, str(written) + ".index", _json_beside(model, path) if with_json else None), means=means)]
    return way


def _tf_weights(with_json):
    def way(model, path, shape):
        model.save_weights(str(path), save_format="tf")
        return [_wrote(path, str(path) + ".index", _json_beside(model, path) if with_json else None)]
    return way


def _frozen(tensorflow):
    def way(model, path, shape):
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        dtype = model.inputs[0].dtype if getattr(model, "inputs", None) else "float32"
        count = len(model.inputs) if getattr(model, "inputs", None) else 1
        specs = [tensorflow.TensorSpec((None,) + tuple(shape), dtype) for _ in range(count)]
        function = tensorflow.function(lambda *x: model(x[0] if count == 1 else list(x), training=False))
        frozen = convert_variables_to_constants_v2(function.get_concrete_function(*specs))
        file = _with_suffix(path, ".pb")
        file.write_bytes(frozen.graph.as_graph_def().SerializeToString())
        return [_wrote(path, file)]
    return way


def _folder_of_keras(model, path, shape):
    model.save(str(path), zipped=False)
    return [_wrote(path, path)]


def _sharded(model, path, shape):
    file = _with_suffix(path, ".weights.json")
    model.save_weights(str(file), max_shard_size=2e-7)
    return [_wrote(path, file, _json_beside(model, path))]


def _orbax(keras):
    def way(model, path, shape):
        if getattr(model, "optimizer", None) is None:
            model.compile("sgd", "mse")
        callback = keras.callbacks.OrbaxCheckpoint(str(path), save_weights_only=False, save_on_background=False)
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_epoch_end(0, {})
        callback.on_train_end()
        return [_wrote(path, path)]
    return way


def _keras_3(api, tensorflow):
    yield "keras", _save(".keras"), 1
    yield "h5", _save(".h5"), 1
    yield "weights.h5 alone", _weights(".weights.h5", with_json=False), 0.5
    yield "weights.h5 + json", _weights(".weights.h5", with_json=True), 1
    yield "weights.h5 + get_config", _weights_and_config_dump(".weights.h5"), 0.5
    if api.version >= (3, 4):
        yield "keras folder", _folder_of_keras, 0.3
    if api.version >= (3, 10):
        yield "sharded weights + json", _sharded, 0.3
    if hasattr(api.keras.callbacks, "OrbaxCheckpoint"):
        yield "orbax", _orbax(api.keras), 0.2
    if tensorflow is None:
        return
    yield "export", _export, 0.4
    yield "saved_model.save", _saved_model(tensorflow), 0.2
    yield "checkpoint", _checkpoint(tensorflow, with_json=False), 0.3
    yield "checkpoint + json", _checkpoint(tensorflow, with_json=True), 0.5
    yield "frozen", _frozen(tensorflow), 0.3


def _keras_2(api, tensorflow):
    yield "h5", _save(".h5"), 1
    yield "h5 weights alone", _weights(".h5", with_json=False), 0.5
    yield "h5 weights + json", _weights(".h5", with_json=True), 1
    yield "h5 weights + get_config", _weights_and_config_dump(".h5"), 0.4
    yield "h5 weights + model", _weights_and_model(".h5"), 0.3
    if api.name == "keras" and api.version < (2, 4):  # Keras itself, not tf.keras: graphs of TensorFlow are its sessions'
        return
    yield "tf weights", _tf_weights(with_json=False), 0.4
    yield "tf weights + json", _tf_weights(with_json=True), 1
    yield "checkpoint + json", _checkpoint(tensorflow, with_json=True), 0.4
    if api.version >= (2, 12):
        yield "keras", _save(".keras", **({"save_format": "keras_v3"} if api.version < (2, 13) else {})), 1
        yield "weights.h5 + json", _weights(".weights.h5", with_json=True), 1
        yield "weights.h5 alone", _weights(".weights.h5", with_json=False), 0.5
    if api.version >= (2, 4):
        yield "saved model", _save("", save_format="tf"), 0.4
        yield "saved model without traces", _save("", save_format="tf", save_traces=False), 0.2
        yield "saved_model.save", _saved_model(tensorflow), 0.2
        yield "frozen", _frozen(tensorflow), 0.3
    if api.version >= (2, 13):
        yield "export", _export, 0.3

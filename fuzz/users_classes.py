"""User-defined classes for the random models of fuzz/random_models.py, with and without batch norms in them.

Runs with the Python of the Keras that writes the models (3.7 and later).
"""

HOLDERS = ("Block", "NormCell", "Net", "Tower", "Holder")  # layers of the user's that contain others


def classes(keras):
    """Those of one keras module: what they contain is in none of their configs, but for Holder's."""
    layers = keras.layers

    class MyNorm(layers.BatchNormalization):
        pass

    class Impostor(layers.Layer):
        """Four vectors, and no batch norm."""

        def build(self, shape):
            self.parts = [self.add_weight(name=f"w{k}", shape=(int(shape[-1]),), initializer="ones") for k in range(4)]
            super().build(shape)

        def call(self, x):
            return x * self.parts[0]

    class Block(layers.Layer):
        def __init__(self, units=4, epsilon=0.002, **fields):
            super().__init__(**fields)
            self.units, self.fc = units, layers.Dense(units)
            self.norm = layers.BatchNormalization(epsilon=epsilon, name="inner")

        def build(self, shape):
            self.fc.build(shape)
            self.norm.build(tuple(shape[:-1]) + (self.units,))
            super().build(shape)

        def call(self, x, training=None):
            return self.norm(self.fc(x), training=training)

        def get_config(self):
            return dict(super().get_config(), units=self.units)

        def compute_output_shape(self, shape):
            return tuple(shape[:-1]) + (self.units,)

    class Tower(layers.Layer):
        """Layers in a list, in a dict and in a layer of another class of the user's."""

        def __init__(self, norms=(), **fields):
            super().__init__(**fields)
            norms = list(norms) or [layers.BatchNormalization(), layers.BatchNormalization(epsilon=0.1, scale=False)]
            self.steps, self.table, self.deep = norms[:-1], {"last": norms[-1]}, Block(3, name="deep")

        def build(self, shape):
            for norm in [*self.steps, self.table["last"]]:
                norm.build(shape)
            self.deep.build(shape)
            super().build(shape)

        def call(self, x, training=None):
            for norm in [*self.steps, self.table["last"]]:
                x = norm(x, training=training)
            return self.deep(x, training=training)

        def get_config(self):
            return dict(super().get_config())

        def compute_output_shape(self, shape):
            return tuple(shape[:-1]) + (3,)

    class Holder(layers.Layer):
        """A layer whose config describes the one inside."""

        def __init__(self, norm=None, **fields):
            super().__init__(**fields)
            self.norm = layers.deserialize(norm) if isinstance(norm, dict) else norm

        def build(self, shape):
            self.norm.build(shape)
            super().build(shape)

        def call(self, x, training=None):
            return self.norm(x, training=training)

        def get_config(self):
            return dict(super().get_config(), norm=layers.serialize(self.norm))

        def compute_output_shape(self, shape):
            return shape

    class NormCell(layers.Layer):
        def __init__(self, units=3, **fields):
            super().__init__(**fields)
            self.units = self.state_size = self.output_size = units
            self.proj, self.norm = layers.Dense(units), layers.BatchNormalization(name="cell_norm")

        def build(self, shape):
            self.proj.build(shape)
            self.norm.build((None, self.units))
            super().build(shape)

        def call(self, x, states, training=None):
            out = self.norm(self.proj(x), training=False) + states[0]
            return out, [out]

        def get_config(self):
            return dict(super().get_config(), units=self.units)

    class Net(keras.Model):
        """A subclassed model: its parts are attributes, lists and dicts of layers, called one after the other."""

        def __init__(self, parts=(), **fields):
            super().__init__(**fields)
            self.order = [name for name, _ in parts]
            for name, value in parts:
                setattr(self, name, value)

        def call(self, x, training=None):
            for name in self.order:
                value = getattr(self, name)
                for layer in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]:
                    x = layer(x, training=training) if "BatchNorm" in type(layer).__name__ else layer(x)
            return x

        def get_config(self):
            return {"name": self.name}

    found = {each.__name__: each for each in (MyNorm, Impostor, Block, Tower, Holder, NormCell, Net)}
    register = getattr(getattr(keras, "saving", None), "register_keras_serializable", None) or getattr(
        keras.utils, "register_keras_serializable", None)
    for name, each in found.items():
        if register is not None and name in ("MyNorm", "Block", "Net", "Tower", "Holder"):
            register("lab")(each)
        else:
            keras.utils.get_custom_objects()[name] = each
    return found

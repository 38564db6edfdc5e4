"""Random models of the installed Keras: nested, wrappers, cells, shared layers, user classes with and without configs of their layers."""

from __future__ import annotations

import random
import types

NAMES = ("batch_normalization", "batch_normalization_1", "dense", "gamma", "moving_mean", "norm", "layers", "vars", "sequential")


def classes(keras):
    """Users' classes, made for one keras module."""
    layers, register = keras.layers, keras.saving.register_keras_serializable
    serialize, deserialize = keras.saving.serialize_keras_object, keras.saving.deserialize_keras_object

    @register("lab")
    class MyBN(layers.BatchNormalization):
        pass

    @register("fake")
    class BatchNormalization(layers.Layer):
        """An impostor with four vectors."""

        def build(self, shape):
            self.parts = [self.add_weight(name=f"w{i}", shape=(shape[-1],), initializer="ones") for i in range(4)]
            self.built = True

        def call(self, x):
            return x * self.parts[0]

    @register("lab")
    class Block(layers.Layer):
        """Its config says nothing of its layers."""

        def __init__(self, units=4, **fields):
            super().__init__(**fields)
            self.units, self.fc = units, layers.Dense(units)
            self.norm, self.ln = layers.BatchNormalization(epsilon=0.002, name="inner"), layers.LayerNormalization()

        def build(self, shape):
            shape = (*shape[:-1], self.units)
            for layer in (self.norm, self.ln):
                layer.build(shape)
            self.built = True

        def call(self, x, training=None):
            return self.ln(self.norm(self.fc(x), training=training))

        def get_config(self):
            return {**super().get_config(), "units": self.units}

        def compute_output_shape(self, shape):
            return (*shape[:-1], self.units)

    @register("lab")
    class Holder(layers.Layer):
        """Its config holds its layers, under other names than its attributes."""

        def __init__(self, parts=(), **fields):
            super().__init__(**fields)
            self.inner = [deserialize(part) if isinstance(part, dict) else part for part in parts]

        def build(self, shape):
            for layer in self.inner:
                if not layer.built:
                    layer.build(shape)
            self.built = True

        def call(self, x, training=None):
            for layer in self.inner:
                x = layer(x, training=training)
            return x

        def get_config(self):
            return {**super().get_config(), "parts": [serialize(part) for part in self.inner]}

        def compute_output_shape(self, shape):
            return shape

    @register("lab")
    class NormCell(layers.Layer):
        def __init__(self, units=3, **fields):
            super().__init__(**fields)
            self.units = self.state_size = self.output_size = units
            self.proj, self.norm = layers.Dense(units), layers.BatchNormalization(name="cell_norm")

        def build(self, shape):
            self.proj.build(shape)
            self.norm.build((None, self.units))
            self.built = True

        def call(self, x, states, training=None):
            out = self.norm(self.proj(x), training=False) + states[0]
            return out, [out]

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    @register("lab")
    class Net(keras.Model):
        """A subclassed model: lists, dicts and attributes on both sides of "layers" in the alphabet."""

        def __init__(self, width=3, **fields):
            super().__init__(**fields)
            self.width = width
            self.arms = [layers.BatchNormalization(), layers.Dense(width), layers.BatchNormalization()]
            self.stem, self.zone = layers.BatchNormalization(name="stem_bn"), Block(width, name="zone_block")
            self.table = {"b": layers.BatchNormalization(), "a": layers.BatchNormalization()}

        def call(self, x, training=None):
            x = self.stem(x, training=training)
            for layer in (*self.arms, *self.table.values()):
                x = layer(x, training=training) if isinstance(layer, layers.BatchNormalization) else layer(x)
            return self.zone(x, training=training)

        def get_config(self):
            return {**super().get_config(), "width": self.width}

    return types.SimpleNamespace(MyBN=MyBN, Impostor=BatchNormalization, Block=Block, Holder=Holder, NormCell=NormCell, Net=Net)


class Builder:
    """A model a seed."""

    def __init__(self, keras, own, seed, dtypes=()):
        self.keras, self.own, self.random, self.dtypes = keras, own, random.Random(seed), dtypes

    def name(self, used):
        name = f"{self.random.choice(NAMES)}_{self.random.randrange(9)}"
        if name in used or self.random.random() < 0.4:
            return None
        used.add(name)
        return name

    def norm(self, used):
        kind = self.random.choice([self.keras.layers.BatchNormalization] * 4 + [self.own.MyBN])
        center, scale = self.random.choice([(True, True), (True, True), (True, False), (False, True), (False, False)])
        dtype = {"dtype": self.random.choice(self.dtypes)} if self.dtypes and self.random.random() < 0.3 else {}
        return kind(name=self.name(used), center=center, scale=scale, epsilon=self.random.choice([1e-3, 1e-5, 0.25]),
                    trainable=self.random.random() < 0.8, **dtype)

    def layer(self, used, width, depth):
        """(layer, width of what comes out)"""
        layers, choice = self.keras.layers, self.random.random()
        out = self.random.randint(2, 5)
        if choice < 0.35 or (depth > 2 and choice > 0.75):
            return self.norm(used), width
        if choice < 0.45:
            return layers.Dense(out, name=self.name(used)), out
        if choice < 0.50:
            return layers.LayerNormalization(name=self.name(used)), width
        if choice < 0.55:
            return layers.Activation("relu"), width
        if choice < 0.60:
            return self.own.Impostor(name=self.name(used) or f"impostor_{out}{len(used)}"), width
        if choice < 0.68:
            return self.own.Block(out, name=self.name(used)), out
        if choice < 0.75:
            return self.own.Holder([self.keras.layers.BatchNormalization(name=name) for name in ("one", "two", None)]), width
        return self.inner(width, depth + 1, self.name(used))

    def inner(self, width, depth, name=None):
        used, parts, start = set(), [], width
        for _ in range(self.random.randint(1, 4)):
            layer, width = self.layer(used, width, depth)
            parts.append(layer)
        if self.random.random() < 0.4:
            return self.keras.Sequential([self.keras.Input((start,)), *parts], name=name), width
        x = y = self.keras.Input((start,))
        for layer in parts:
            y = layer(y)
        return self.keras.Model(x, y, name=name), width

    def model(self):
        layers, used, before = self.keras.layers, set(), []
        width = self.random.randint(2, 5)
        x = y = self.keras.Input((width,))
        for _ in range(self.random.randint(3, 8)):
            choice = self.random.random()
            if choice < 0.1 and before:  # a layer called twice
                layer, needs, out = self.random.choice(before)
                y, width = layer(y if needs == width else layers.Dense(needs)(y)), out
            elif choice < 0.2 and before:  # a model that shares a layer with this one
                layer, needs, out = self.random.choice(before)
                z = self.keras.Input((needs,))
                y = self.keras.Model(z, self.norm(set())(layer(z)))(y if needs == width else layers.Dense(needs)(y))
                width = out
            elif choice < 0.3:
                wrapped = layers.TimeDistributed(self.norm(set()), name=self.name(used))
                y = layers.Reshape((width,))(wrapped(layers.Reshape((1, width))(y)))
            elif choice < 0.4:
                rnn = layers.RNN(self.own.NormCell(width))
                y = layers.Dense(width)(layers.Bidirectional(rnn, name=self.name(used))(layers.Reshape((1, width))(y)))
            else:
                layer, out = self.layer(used, width, 0)
                y = layer(y)
                before.append((layer, width, out))
                width = out
        return self.keras.Model(x, self.norm(used)(y), name=self.random.choice([None, "outer", "layers"]))

"""Random models for any Keras from 2.3 on, with batch norms in all the positions and shapes that occur in practice.

Runs with the Python of the Keras that writes the models (3.7 and later); fuzz/write_models.py saves them. Each model comes with a plan that
records which layer is called with which outputs, so that a layer's position can be checked against something other than the config in
the file.
"""

import random

NAMES = ("batch_normalization", "batch_normalization_1", "batch_normalization_10", "norm", "bn", "bn_1", "gamma", "moving_mean", "layers",
         "vars", "model_weights", "dense", "sequential", "model", "beta.0", "stem-bn", "block1_conv1", "layer_with_weights-0")
SLASHES = ("bn/a", "block/bn/norm", "norm/gamma")  # up to Keras 2
ODD = ("bn 1", "bn:0", "\u043d\u043e\u0440\u043c\u0430", "#2")  # from Keras 3 on
EPSILONS = (1e-3, 1e-3, 1e-3, 1e-5, 1.001e-5, 1e-6, 1e-7, 1e-4, 0.25)
PARTS = ("stem", "arms", "norm", "zone", "_hidden", "bn1", "table", "layer_list", "gamma_block")


def twice(x):
    return x * 2.0


class Plan:
    """The calls of one model: steps of (layer, arguments, numbers of the values that it reads), and the numbers of what comes out.

    A value's number is -1 - k for the k-th input, else the number of the step whose output it is. None for steps: not known.
    """

    def __init__(self, steps=None, outputs=()):
        self.steps, self.outputs = steps, list(outputs)


class Api:
    """One Keras: its name here, the module, its version, and what it can do."""

    def __init__(self, name, keras, version, norms=()):
        self.name, self.keras, self.version = name, keras, version
        self.norms = list(norms)  # more classes of batch norms
        self.is_3 = version >= (3,)
        self.has_axis_lists = not self.is_3 and name != "keras"
        self.has_renorm = self.has_axis_lists


def version_of(text):
    """(2, 10, 0) of "2.10.0-tf"."""
    return tuple(int(part) for part in text.split("-")[0].split(".") if part.isdigit())


class Builder:
    """Makes one model of a seed; `plans` holds the plan of each functional and Sequential model in it, by id."""

    def __init__(self, api, own, seed):
        self.api, self.keras, self.own, self.random = api, api.keras, own, random.Random(seed)
        self.plans, self.before, self.kept, self.popped = {}, [], [], []
        self.is_any_unfused = False  # by its argument, which no config contains
        self.is_any_renamed = False
        self.dtype = self.random.choice([None] * 6 + ["mixed_float16", "mixed_bfloat16", "float64", "float16"])

    def chance(self, odds):
        return self.random.random() < odds

    def name(self, used, odds=0.6):
        """A name, or None for the automatic one."""
        names = NAMES + (ODD if self.api.is_3 else SLASHES)
        name = self.random.choice(names) if self.chance(0.5) else f"{self.random.choice(NAMES)}_{self.random.randrange(20)}"
        if name in used or not self.chance(odds):
            return None
        used.add(name)
        return name

    def policy(self):
        """The dtype argument of a layer; for float16 in old versions it means a policy, which has to be given as one."""
        if self.dtype is None or (self.api.version < (2, 4) and self.dtype != "float64"):
            return {}
        return {"dtype": self.dtype}

    def norm(self, shape, used, wrapped=False):
        """A batch norm for inputs of this shape, which is without the batch axis."""
        rank, layers = len(shape) + 1, self.keras.layers
        axis = self.random.choice([-1] * 6 + [1, rank - 1])
        if self.api.has_axis_lists and self.chance(0.1) and rank > 2:
            axis = self.random.choice([[1, rank - 1], [rank - 1], [1, 2]])
        center, scale = self.random.choice([(True, True)] * 4 + [(True, False), (False, True), (False, False)])
        fields = dict(axis=axis, center=center, scale=scale, epsilon=self.random.choice(EPSILONS),
                      momentum=self.random.choice([0.99, 0.9, 0.5]), name=self.name(used), trainable=self.chance(0.85), **self.policy())
        kind, choice = layers.BatchNormalization, self.random.random()
        if choice < 0.1:
            kind = self.own["MyNorm"]
        elif choice < 0.2 and self.api.has_renorm and not isinstance(axis, list) and self.dtype is None:
            fields.update({"renorm": True} if self.api.version >= (2, 16) or self.chance(0.5) else {"virtual_batch_size": 2})
        elif choice < 0.24 and self.has_plain(axis):
            kind = self.random.choice(self.api.norms or [kind])
        elif choice < 0.29 and self.has_plain(axis):
            fields["fused"] = False
            self.is_any_unfused = True
        elif choice < 0.34 and not wrapped:
            if hasattr(getattr(layers, "experimental", None), "SyncBatchNormalization") and not isinstance(axis, list):
                kind = layers.experimental.SyncBatchNormalization
            elif self.api.version >= (2, 12):
                fields["synchronized"] = True
        return kind(**fields)

    def has_plain(self, axis):
        """Whether a batch norm of these axes takes the arguments of tf.keras alone."""
        return self.api.has_renorm and not isinstance(axis, list) and self.dtype is None

    def plain(self, shape, used):
        """A layer that is no batch norm and fits the shape."""
        layers, width = self.keras.layers, self.random.randint(2, 5)
        activation = self.random.choice([None, None, "relu", "tanh"])
        named = dict(name=self.name(used, 0.3), **self.policy())
        bias = self.chance(0.7)
        makers = [lambda: layers.Dense(width, activation=activation, use_bias=bias, **named)] * 2 + [
            lambda: layers.Activation("relu", **named), lambda: layers.Dropout(0.3, **named), lambda: layers.Flatten(**named),
            lambda: layers.ReLU(**named), lambda: layers.LeakyReLU(**named)]
        if hasattr(layers, "LayerNormalization"):
            makers.append(lambda: layers.LayerNormalization(**named))
        if self.dtype is None:
            makers += [lambda: layers.Lambda(twice, output_shape=shape, name=named["name"])]
            makers += [lambda: layers.GroupNormalization(1, **named)] * hasattr(layers, "GroupNormalization")
            makers += [lambda: layers.SpectralNormalization(layers.Dense(width), **named)] * hasattr(layers, "SpectralNormalization")
            makers += [lambda: layers.Normalization(mean=0.5, variance=2.0, **named)] * hasattr(layers, "Normalization")
        if len(shape) == 1:
            makers += [lambda: layers.RepeatVector(3, **named), lambda: layers.Reshape((1, shape[0]), **named),
                       lambda: self.own["Impostor"](name=named["name"])]
        if len(shape) == 2:
            makers += [lambda: layers.Conv1D(width, 2, padding="same", use_bias=bias, **named),
                       lambda: layers.GlobalAveragePooling1D(**named),
                       lambda: layers.LSTM(width, return_sequences=bias, **named)]
        if len(shape) == 3:
            makers += [lambda: layers.Conv2D(width, 2, padding="same", use_bias=bias, activation=activation, **named)] * 2 + [
                lambda: layers.DepthwiseConv2D(2, padding="same", use_bias=bias, **named), lambda: layers.GlobalAveragePooling2D(**named),
                lambda: layers.SeparableConv2D(width, 2, padding="same", **named),
                lambda: layers.Conv2DTranspose(width, 2, padding="same", **named)]
        if len(shape) == 4:
            makers += [lambda: layers.Conv3D(width, 1, **named), lambda: layers.GlobalAveragePooling3D(**named)]
        return self.random.choice(makers)()

    def wrapper(self, shape, used, depth):
        """A layer around one or more batch norms."""
        layers, choice = self.keras.layers, self.random.random()
        if len(shape) >= 3 and choice < 0.08:
            return layers.TimeDistributed(layers.TimeDistributed(self.norm(shape[2:], set(), wrapped=True)), name=self.name(used))
        if len(shape) >= 2 and choice < 0.4:
            return layers.TimeDistributed(self.norm(shape[1:], set(), wrapped=True), name=self.name(used))
        if len(shape) >= 2 and choice < 0.65 and depth < 2:
            return layers.TimeDistributed(self.model(shape[1:], depth + 1, only_one=True), name=self.name(used))
        if len(shape) == 2 and choice < 0.9:
            cells = [self.own["NormCell"](self.random.randint(2, 4)) for _ in range(1 + self.chance(0.3))]
            rnn = layers.RNN(cells if len(cells) > 1 else cells[0], return_sequences=True)
            return layers.Bidirectional(rnn, name=self.name(used)) if self.chance(0.6) else rnn
        if self.chance(0.3):
            return self.own["Holder"](self.norm(shape, set(), wrapped=True), name=self.name(used))
        if self.chance(0.4):
            names = set()
            return self.own["Tower"]([self.norm(shape, names, wrapped=True) for _ in range(self.random.randint(1, 4))],
                                     name=self.name(used))
        return self.own["Block"](self.random.randint(2, 5), epsilon=self.random.choice(EPSILONS), name=self.name(used))

    def layer(self, shape, used, depth):
        """Any layer for this shape."""
        choice = self.random.random()
        if choice < 0.4:
            return self.norm(shape, used)
        if choice < 0.55:
            return self.wrapper(shape, used, depth)
        if choice < 0.7 and depth < 2:
            return self.model(shape, depth + 1, used=used)
        return self.plain(shape, used)

    def arguments(self, layer):
        """Of a call: now and then it says in which mode it is."""
        if not self.is_batch_norm(layer) and id(layer) not in self.plans:
            return {}
        choice = self.random.random()
        return {"training": True} if choice < 0.06 else {"training": False} if choice < 0.12 else {}

    def is_batch_norm(self, layer):
        return any("BatchNormalization" in each.__name__ for each in type(layer).__mro__)

    def model(self, shape, depth=0, used=None, only_one=False):
        """A Sequential, functional or subclassed model for this shape; only_one: with one input and one output."""
        name = self.name(set() if used is None else used)
        choice = self.random.random()
        made = self.sequential(shape, depth, name) if choice < 0.35 else self.functional(shape, depth, name, only_one or depth > 0)
        self.kept.append(made)
        return made

    def sequential(self, shape, depth, name):
        layers, used, parts = self.keras.layers, set(), []
        model = self.keras.Sequential(name=name)
        model.add(self.keras.Input(shape=shape) if hasattr(self.keras, "Input") and self.api.version >= (2, 4)
                  else layers.InputLayer(input_shape=shape))
        for _ in range(self.random.randint(1, 5)):
            layer = self.layer(shape, used, depth)
            model.add(layer)
            if parts:
                self.rename(parts[-1], used)
            parts.append(layer)
            shape = self.shape_of(model.outputs[0])
        if self.chance(0.15):
            self.popped.append(self.norm(shape, used))
            model.add(self.popped[-1])
            model.pop()
        self.plans[id(model)] = Plan([(layer, {}, [number - 1]) for number, layer in enumerate(parts)], [len(parts) - 1])
        return model

    def functional(self, shape, depth, name, only_one):
        plan, values = Plan([]), []
        inputs = [self.keras.Input(shape=shape)]
        if depth == 0 and not only_one and self.chance(0.1):
            inputs.append(self.keras.Input(shape=shape))
        values += [(-1 - number, value) for number, value in enumerate(inputs)]
        used, open_ends = set(), [number for number, _ in values]

        def call(layer, numbers, **arguments):
            given = [dict(values)[number] for number in numbers]
            values.append((len(plan.steps), layer(given[0] if len(given) == 1 else given, **arguments)))
            plan.steps.append((layer, arguments, list(numbers)))
            open_ends[:] = [number for number in open_ends if number not in numbers] + [values[-1][0]]

        for _ in range(self.random.randint(2, 4) if depth else self.random.randint(3, 9)):
            number, value = self.random.choice(values[-3:])
            here = self.shape_of(value)
            if self.api.version >= (2, 4) and self.chance(0.07):  # no layer of the user's: Keras makes one of the operation
                values.append((len(plan.steps), value * 2.0))
                plan.steps.append((values[-1][1]._keras_history[0], {}, [number]))
                open_ends[:] = [each for each in open_ends if each != number] + [values[-1][0]]
                continue
            again = [(layer, needs) for layer, needs in self.before if needs == here]
            if again and self.chance(0.12):
                layer = self.random.choice(again)[0]
                if layer.name in used and not any(layer is one for one, _, _ in plan.steps):
                    continue
                if any(layer is one and reads == [number] for one, _, reads in plan.steps):  # Keras 2 keeps what a model gave for it
                    continue
            else:
                layer = self.layer(here, used, depth)
                self.before.append((layer, here))
            call(layer, [number], **self.arguments(layer))
            used.add(layer.name)
            self.rename(layer, used)
        while len(open_ends) > 1:
            a, b = open_ends[:2]
            one, other = (self.shape_of(dict(values)[number]) for number in (a, b))
            if one == other:
                call(self.random.choice([self.keras.layers.Add, self.keras.layers.Concatenate])(), [a, b])
            elif not only_one and self.chance(0.3):
                break
            else:
                for number, here in ((a, one), (b, other)):
                    if len(here) > 1:
                        call(self.keras.layers.Flatten(), [number])
                flat = [number for number in open_ends if len(self.shape_of(dict(values)[number])) == 1][-2:]
                if len(flat) < 2:
                    flat = [a, b]
                call(self.keras.layers.Concatenate(), flat)
        plan.outputs = list(open_ends) if not only_one else open_ends[:1]
        outputs = [dict(values)[number] for number in plan.outputs]
        model = self.keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs[0] if len(outputs) == 1 else outputs,
                                 **({"name": name} if name else {}))
        self.plans[id(model)] = plan
        return model

    def rename(self, layer, used):
        """Now and then: a new name, after the weights were made under the old one."""
        name = f"{self.random.choice(NAMES)}_{self.random.randrange(50, 99)}"
        if self.chance(0.06) and name not in used:
            used.add(name)
            self.is_any_renamed = True
            setattr(layer, "name" if self.api.is_3 or self.api.name == "keras" else "_name", name)

    def subclassed(self, shape):
        """A model of the user's own class, of layers as attributes."""
        parts, width = [], shape
        for name in self.random.sample(PARTS, self.random.randint(2, 4)):
            made = []
            for _ in range(self.random.randint(1, 3)):
                if self.chance(0.2):
                    made.append(self.model(width, 1, only_one=True))
                    width = self.shape_of(made[-1].outputs[0])
                    continue
                layer = self.norm(width, set()) if self.chance(0.6) else self.keras.layers.Dense(self.random.randint(2, 5))
                if not self.is_batch_norm(layer):
                    width = width[:-1] + (layer.units,)
                made.append(layer)
            parts += [(name, made)] if len(made) > 1 and self.chance(0.6) else [(name, dict(zip("zyx", made)))] if self.chance(0.5) else [
                (f"{name}{number or ''}", layer) for number, layer in enumerate(made)]
        return self.own["Net"](parts, name=self.name(set()) or "net")

    def shape_of(self, tensor):
        shape = tensor.shape if self.api.is_3 else self.keras.backend.int_shape(tensor)
        return tuple(int(size) for size in shape[1:])

    def any_shape(self):
        return tuple(self.random.randint(2, 5) for _ in range(self.random.choice([1, 1, 2, 2, 3, 3, 3, 4])))

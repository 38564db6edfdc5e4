"""Classes with batch norm's config that are not Keras's own: those that compute something else, and those that may.

A custom class usually inherits the config of BatchNormalization. What it adds identifies some of them: an active quantizer
(QKeras's QBatchNormalization; without one it computes plain batch norm, as measured), initializers of variables that batch norm does not
have (SwitchNormalization's mean_weights), an activation, a kernel (QKeras's QConv2DBatchnorm has a batch norm as its attribute
`batchnorm`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from exporter.batchnorm.stored import BATCH_NORMS as BATCH_NORMS
from exporter.errors import names, printable

# Keys in get_config() of every BatchNormalization subclass since Keras 2.0, and of no other layer.
SIGNS = frozenset(("momentum", "epsilon", "moving_variance_initializer"))
# Keys that every version of Keras has written for its own batch norms.
WRITTEN = frozenset(("epsilon", "momentum", "axis", "mode"))
# Weights of Keras's own layers and cells, whose scope may contain a batch norm.
KERNELS = re.compile(r"(^|[/_])(kernel|bias)(_\d+)?(:\d+)?$")
INNER_NORM = "batchnorm"  # QKeras's name of the attribute
# Layers of Keras 3 and of tensorflow_hub that run a SavedModel, and the key of their config with its address. Its variables are theirs.
MODELS_ELSEWHERE = {"TFSMLayer": "filepath", "KerasLayer": "handle"}

_CALLED = re.compile(r"batch_?(re)?norm", re.IGNORECASE)
_FUSED_WITH = frozenset(("filters", "kernel_size", "units", "depth_multiplier"))
_OF_THE_NORM = frozenset((*SIGNS, "axis", "center", "scale", "trainable", "dtype", "renorm", "virtual_batch_size"))
_DESCRIBED = re.compile(r"(.+)_(?:initializer|regularizer|constraints?)")
_VARIABLES = frozenset(("beta", "gamma", "moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev", "activity"))
_UNSET: tuple[Any, ...] = (None, False, 0, "", "None", {}, [])

# Wrappers that pass on their input unchanged.
WRAPPERS_AS_THEY_ARE = frozenset((
    "SpectralNormalization", "WeightNormalization", "PruneLowMagnitude", "QuantizeWrapper", "QuantizeWrapperV2"))
# Wrappers that quantize the values that their layer computes with; the layer's own arrays are stored as trained.
_QUANTIZING_WRAPPERS = ("QuantizeWrapper", "QuantizeWrapperV2")


def reason_against(class_name: str, config: Mapping[str, Any]) -> str | None:
    """Why a layer with the config of a batch norm is not one; None: nothing in the config shows that."""
    quantizing, others = _telling(tuple(config))
    quantizers = [key for key in quantizing if config[key] not in _UNSET]
    if quantizers:
        return (f"its class {printable(class_name, 80)} quantizes the parameters that it computes with ({names(quantizers)}): its "
                "outputs are not those of the stored parameters")
    activation = config.get("activation")
    if activation not in (*_UNSET, "linear"):
        shown = activation if isinstance(activation, str) else "activation"
        return f"its class {printable(class_name, 80)} applies an activation ({printable(shown, 40)}), which a batch norm does not"
    if others:
        return f"its class {printable(class_name, 80)} is not a plain batch norm: it also has {names(others)}"
    return None


@functools.lru_cache(100)  # configs have the same keys over and over
def _telling(keys: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Of the keys of a config: those of quantizers, and the variables that a batch norm does not have."""
    variables = dict.fromkeys(map(described, keys))
    return [key for key in keys if "quant" in key], [variable for variable in variables if variable and variable not in _VARIABLES]


def described(key: str) -> str:
    """The variable of which a key of a config holds an initializer, a regularizer or a constraint, which may have a name like a layer; ""
    for any other key."""
    found = _DESCRIBED.fullmatch(key)
    return found[1] if found else ""


def about_layers(inside: Sequence[str], class_name: str) -> str | None:
    """Why layers in a batch norm's config show that it does more than that; None if there are none."""
    if not inside:
        return None
    return f"its class {printable(class_name, 80)} is not a plain batch norm: it contains other layers ({names(inside)})"


def about_weights(more: Sequence[str], class_name: str | None) -> str | None:
    """Why additional weights show that it is not a batch norm; None if there are none. class_name: None if the file has none."""
    if not more:
        return None
    what = "its class is not in the file" if class_name is None else f"its class is {printable(class_name, 80)}"
    return f"it has weights that a batch norm does not have, and how it uses them is unknown: {names(more)}; {what}"


def is_users_own(class_name: str) -> bool:
    """Whether a class is not one of Keras's own batch norms."""
    return class_name not in BATCH_NORMS


def about_model_elsewhere(base_name: str, config: Mapping[str, Any]) -> str | None:
    """That a layer runs a SavedModel that the file does not describe; None for other layers."""
    address = config.get(MODELS_ELSEWHERE.get(base_name, ""))
    if not isinstance(address, str):
        return None
    return (f"this {base_name} runs a SavedModel that the file does not describe ({printable(address, 200)}); a SavedModel of the whole "
            "model, as model.export() writes it, contains its batch norms")


@functools.lru_cache(1000)  # a few classes, over and over
def is_called_batch_norm(class_name: str) -> bool:
    """Whether the name of a class says that it is a batch norm."""
    return _CALLED.search(class_name) is not None


def about_class(class_name: str) -> str:
    """A note about a layer whose class is not Keras's own."""
    return (f"its class {printable(class_name, 80)} is not Keras's own: its config is that of a batch norm, but the file does not show "
            "whether it computes as one")


def inner_norm(base_name: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of the batch norm in a layer that combines a kernel and a batch norm; None for other layers."""
    if base_name in BATCH_NORMS or not config.keys() >= SIGNS or _FUSED_WITH.isdisjoint(config):
        return None
    own = {key: value for key, value in config.items() if key in _OF_THE_NORM}
    return {"class_name": "BatchNormalization", "config": {**own, "name": INNER_NORM}}


def about_wrapper(base_name: str, config: Mapping[str, Any]) -> str:
    """The effect of a wrapper on the batch norm in it, as a sentence; "" if it has none."""
    if base_name not in _QUANTIZING_WRAPPERS:
        return ""
    quantize = config.get("quantize_config")
    said = quantize if isinstance(quantize, dict) else {}
    own = said.get("config")
    inner = own if isinstance(own, dict) else {}
    listed = inner.get("weight_attrs")
    parts = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    parts += ["output"] if inner.get("quantize_output") is True else []
    # tfmot's own configs, which list everything that they quantize
    known = str(said.get("class_name")).rpartition(">")[2].startswith(("Default8Bit", "NoOpQuantizeConfig"))
    if known and not parts:
        return ""
    what = f"its {names(parts)}" if parts else f"as {printable(str(said.get('class_name')), 60)} says, perhaps gamma,"
    return f"{base_name} around it quantizes {what} in inference; the parameters are those before that"

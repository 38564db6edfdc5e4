"""What the numbers of each era mean, measured by running the versions named here.

    Keras                 `running_std` / `moving_variance` holds     inference divides by
    0.2 to 1.0.5          a deviation: sqrt(var + epsilon)            s + epsilon
    1.0.6 Theano          a deviation                                 s + epsilon
    1.0.6 TensorFlow      a variance                                  sqrt(v + epsilon)
    1.0.7 Theano          a variance                                  sqrt(v) + epsilon
    1.0.7 TensorFlow      a variance                                  sqrt(v + epsilon)
    1.0.8 and later       a variance, also under the old name         sqrt(v + epsilon)

HISTORY lists what changed in which version; no other module of the package compares versions.

Whole models contain their version since Keras 1.0.7, to_json() since 1.0.4. `backend` came with 2.0.0; before, the names of weights
end in ":0" on TensorFlow and not on Theano.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.batchnorm.dtypes import UNIT, round_to
from exporter.batchnorm.layer import BatchNorm
from exporter.batchnorm.stored import Statistic, Stored
from exporter.errors import FormatError, LayerError, UsageError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.keras.config import NormFields

# tf.nn.fused_batch_norm raised epsilon to this from TF 1.4 to 2.11, "a requirement by CUDNN", also on CPUs; TF 2.12 does not.
FUSED_MINIMUM = 1.001e-5

# Epsilon of all batch norms that a KerasHub class builds itself without listing them in its config, so not of those in its backbone
# (keras_hub/src/models, 0.32). Only a hint, never used.
KERAS_HUB = "keras_hub>"
KERAS_HUB_EPSILON = {
    "ResNetBackbone": 1e-5, "CSPNetBackbone": 1e-5, "MobileNetBackbone": 1e-5, "DenseNetBackbone": 1.001e-5, "HGNetV2Backbone": 1e-5,
    "SegFormerBackbone": 1e-5, "XceptionBackbone": 1e-3, "DeepLabV3Backbone": 1e-3, "BASNetBackbone": 1e-3}

Version = tuple[int, int, int]


class Counting(enum.Enum):
    """What is counted when the groups of a list of layers are named (exporter/sources/keras_v3/replay.py)."""

    EACH = enum.auto()  # each layer
    WEIGHTS_TWICE = enum.auto()  # a layer with weights twice, because it is listed under two keys
    UNSAVED = enum.auto()  # each layer that was not already saved elsewhere in the model


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The properties of a version of Keras, and of the tf.keras with this version number (tf_...).

    on_theano, on_tensorflow: what `running_std` contains.
    default_epsilon:     the epsilon if a config has none.
    is_per_element:      a layer has parameters for each element of its input.
    mixes_nested_names:  weights of a Sequential inside another model are saved under each other's names.
    counting:            see Counting.
    fused, tf_fused:     (rank, axis) of the inputs for which TensorFlow's fused kernel runs, which raises small epsilons.
    tf_puts_beta_first:  tf.contrib.keras is tf.layers' BatchNormalization, which created beta before gamma until TensorFlow 1.4.
    tf_ignores_training: a frozen layer uses its stored statistics however it is called.
    """

    on_theano: Statistic = Statistic.DEVIATION
    on_tensorflow: Statistic = Statistic.DEVIATION
    default_epsilon: float = 1e-6
    is_per_element: bool = True
    mixes_nested_names: bool = True
    counting: Counting = Counting.EACH
    fused: frozenset[tuple[int, int]] = frozenset()
    tf_fused: frozenset[tuple[int, int]] = frozenset()
    tf_puts_beta_first: bool = False
    tf_ignores_training: bool = False


CHANNELS_LAST = frozenset({(4, 3), (4, -1)})
# Each row: what is new in this version. The version of tf.keras is 2.0.2 to 2.0.6 in TensorFlow 1.2 and 1.3, 2.0.8 in 1.4, 2.1.6 in 1.9
# to 1.12, 2.2.4 in 1.13 to 2.1, and TensorFlow's own from 2.5 to 2.15. When kernels are fused was measured in TensorFlow 1.4 and 1.12 to
# 2.12, and read in the wheels of 1.5 to 1.11 and of Keras 2.2. TensorFlow 1.4 does not fuse layers with a regularizer.
HISTORY: tuple[tuple[Version, dict[str, Any]], ...] = (
    ((1, 0, 0), {"is_per_element": False}),  # 0.3.2, which no file contains
    ((1, 0, 3), {"mixes_nested_names": False}),
    ((1, 0, 6), {"on_tensorflow": Statistic.VARIANCE}),
    ((1, 0, 7), {"on_theano": Statistic.EPSILON_OUTSIDE}),
    ((1, 0, 8), {"on_theano": Statistic.VARIANCE, "default_epsilon": 1e-5}),
    ((1, 2, 0), {"default_epsilon": 1e-3}),
    ((2, 0, 2), {"tf_puts_beta_first": True}),
    ((2, 0, 7), {"tf_puts_beta_first": False, "tf_fused": CHANNELS_LAST}),
    ((2, 2, 0), {"fused": frozenset({(4, 3)})}),  # it does not support -1 yet
    ((2, 2, 1), {"fused": CHANNELS_LAST}),
    ((2, 3, 0), {"tf_ignores_training": True}),
    ((2, 6, 0), {"tf_fused": CHANNELS_LAST | {(4, 1), (4, -3), (5, 4), (5, -1), (5, 1), (5, -4)}}),
    ((2, 12, 0), {"tf_fused": frozenset(), "counting": Counting.WEIGHTS_TWICE}),
    ((2, 14, 0), {"counting": Counting.UNSAVED}),
    ((3, 0, 0), {"counting": Counting.EACH, "fused": frozenset()}),  # from 2.4 on Keras is tf.keras
)
# The version of tf.keras in a TensorFlow before this one; since the last row it is that of TensorFlow.
KERAS_OF_TENSORFLOW: tuple[tuple[Version, Version], ...] = (((1, 13, 0), (2, 1, 6)), ((2, 4, 0), (2, 2, 4)))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Era:
    """The writer of a file: version and backend, None if neither the file nor the user specifies them."""

    version: Version | None = None
    backend: str | None = None
    is_tf_keras: bool = False

    @property
    def facts(self) -> Facts | None:
        """The properties of this version; None if it is unknown."""
        return None if self.version is None else _facts_of(self.version)

    @property
    def may_put_beta_first(self) -> bool:
        """Whether beta may come before gamma."""
        return self.is_tf_keras and self.facts is not None and self.facts.tf_puts_beta_first

    @property
    def raises_epsilon(self) -> bool:
        """Whether the fused kernels of this TensorFlow raised small epsilons (FUSED_MINIMUM)."""
        return self.facts is not None and bool(self.facts.tf_fused)

    @property
    def is_per_element(self) -> bool:
        """Whether layers are known to have parameters for each element of their input."""
        return self.facts is not None and self.facts.is_per_element

    @property
    def default_epsilon(self) -> float | None:
        """The epsilon of this version if the config has none; None if the version is unknown."""
        return self.facts.default_epsilon if self.facts else None


@functools.cache
def _facts_of(version: Version) -> Facts:
    facts = Facts()
    for since, news in HISTORY:
        if version >= since:
            facts = dataclasses.replace(facts, **news)
    return facts


def era_of(keras_version: str | None, backend: str | None) -> Era:
    """The era of a `keras_version` in a file: "1.0.8", "2.2.4-tf", "2.15.0", "3.3.3". Anything that is not a version is unknown."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(.*)", keras_version or "", re.DOTALL)
    if not found:
        return Era(backend=backend)
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    return Era(version=version, backend=backend, is_tf_keras=found[4].startswith("-tf") or (2, 4) <= version < (3,))


def write_alike(a: str, b: str) -> bool:
    """Whether two values of `keras_version`, if both are versions, are of writers whose files have the same meaning."""
    one, other = era_of(a, None), era_of(b, None)
    return None in (one.facts, other.facts) or (one.facts, one.is_tf_keras) == (other.facts, other.is_tf_keras)


def era_of_tensorflow(version: str | None) -> Era:
    """The era of tf.keras in this TensorFlow."""
    era = era_of(version, "tensorflow")
    numbers = [own for until, own in KERAS_OF_TENSORFLOW if era.version is not None and era.version < until]
    return dataclasses.replace(era, version=numbers[0] if numbers else era.version, is_tf_keras=True)


def adds_to_epsilon(tensorflow_version: str | None) -> bool:
    """tf.nn.fused_batch_norm of TensorFlow 1.0 to 1.3 put epsilon + 1e-12 into the graph if epsilon was 1e-5 or less (nn_impl.py)."""
    version = era_of(tensorflow_version, None).version
    return version is not None and (1,) <= version < (1, 4)


def era_given(text: str, backend: str | None) -> Era:
    """The era of a version that the user gave. Raises UsageError if it is not a version."""
    era = era_of(text, backend)
    if era.version is None:
        raise UsageError(f"--keras-version: expected a version, got {printable(text, 40)!r}",
                         hint="give up to three numbers joined by dots, e.g. 2.2.4")
    return era


def statistic(era: Era, *, old_name: bool, on_tensorflow: bool | None) -> Statistic | None:
    """What the fourth parameter contains, see the table above; None if it depends on an unknown version.

    old_name:      it is called running_std, or has no name (Keras 0.3). on_tensorflow: whether weight names end in ":0".
    """
    if not old_name:
        return Statistic.VARIANCE
    if era.facts is None:
        return None
    tensorflow = era.backend == "tensorflow" if era.backend else bool(on_tensorflow)
    return era.facts.on_tensorflow if tensorflow else era.facts.on_theano


def reason_against(mode: int) -> str | None:
    """Why a layer of this `mode` (Keras 0.3 to 1.2) is not a fixed affine map; None: it is one."""
    if mode == 0:
        return None
    if mode == 1:
        return "its mode 1 normalizes each sample by the sample's own mean and standard deviation, not by the stored statistics"
    if mode == 2:
        return "its mode 2 normalizes by the statistics of the batch, also in inference, not by the stored ones"
    return f"its mode {mode} is unknown"


def ignores_training(era: Era, *, is_keras_3: bool) -> bool:
    """Whether a frozen layer (trainable=False) uses its stored statistics however it is called: the batch norm of TensorFlow 2 does, and
    Keras 3's."""
    return is_keras_3 or (era.is_tf_keras and era.facts is not None and era.facts.tf_ignores_training)


def has_training_on(era: Era, class_name: str) -> bool:
    """Whether training=True is the default of a layer of ON_BY_DEFAULT and, as in Keras 3, remains so for what runs after it."""
    return era.version is None or era.version >= ((3, 6) if class_name in ("CenterCrop", "Resizing") else (3,))


def real_axis(axis: tuple[int, ...], virtual_batch_size: int | None) -> tuple[int, ...]:
    """The axes of the input. With a virtual batch size tf.keras 1.12 to 2.15 builds the layer on the batch split in two axes and
    saves the axis of that, one too many.
    """
    if virtual_batch_size is None:
        return axis
    return tuple(number - 1 if number > 0 else number for number in axis)


def about_rank(era: Era, fields: NormFields, *, dtype: str) -> str:
    """A warning for a layer of unknown rank, if it depends on the rank whether a fused kernel raised its epsilon; otherwise ""."""
    ranks = [rank for rank in (4, 5) if effective_epsilon(era, fields, dtype=dtype, ndim=rank) is not None]
    if not ranks:
        return ""
    return (f"the file does not specify the rank of its input; if that is {' or '.join(map(str, ranks))}, the fused kernel of the "
            f"TensorFlow that wrote it used epsilon {FUSED_MINIMUM:g} instead of {fields.epsilon:g}")


def effective_epsilon(era: Era, fields: NormFields, *, dtype: str, ndim: int | None) -> float | None:
    """The epsilon that the fused kernel of the TensorFlow of that era used instead of the config's; None: the same, or uncertain.

    No config contains whether a layer was made with fused=False.
    """
    if fields.epsilon is None or fields.epsilon >= FUSED_MINIMUM or dtype == "float64" or fields.renorm or fields.synchronized:
        return None
    if fields.virtual_batch_size is not None or fields.axis is None or len(fields.axis) != 1 or era.facts is None or ndim is None:
        return None
    fused = era.facts.tf_fused if era.is_tf_keras else era.facts.fused if era.backend == "tensorflow" else frozenset()
    return FUSED_MINIMUM if (ndim, *fields.axis) in fused else None


def convert(layer: Stored) -> BatchNorm:
    """The layer for the standard formula: with the new `moving_variance` it divides as the layer's own era did.

    With d = s + epsilon, or sqrt(v) + epsilon, in float64: moving_variance = d**2 - epsilon, rounded to the layer's dtype; where that
    is negative in one channel, moving_variance = d**2 and epsilon = 0 for the whole layer.

    Raises: LayerError for statistics that no era could have used, and for float16 ones whose square overflows float16.
    """
    if layer.statistic is Statistic.VARIANCE:
        return BatchNorm.of(layer)
    if layer.epsilon is None:
        raise FormatError("the file does not contain its epsilon", where=layer.path)
    stored = layer.moving_variance.astype(np.float64)
    outside = layer.statistic is Statistic.EPSILON_OUTSIDE
    _check(layer, stored, stored < 0 if outside else stored + layer.epsilon <= 0, "not a valid divisor")
    square = ((np.sqrt(stored) if outside else stored) + layer.epsilon) ** 2
    epsilon = 0.0 if (square < layer.epsilon).any() else layer.epsilon
    variance = round_to(square - epsilon, layer.dtype)
    lost = np.abs(variance.astype(np.float64) + epsilon - square) > 2 * UNIT[layer.dtype] * square
    _check(layer, stored, lost, f"its square, the variance, does not fit {layer.dtype}")
    changed = ("moving_variance",) if epsilon == layer.epsilon else ("moving_variance", "epsilon")
    return BatchNorm.of(layer, moving_variance=variance, epsilon=epsilon, effective_epsilon=None, converted=changed)


def _check(layer: Stored, stored: NDArray[np.float64], bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        channel = int(np.argmax(bad))
        name = "variance" if layer.statistic is Statistic.EPSILON_OUTSIDE else "deviation"
        raise LayerError(f"the stored {name}[{channel}] is {stored.ravel()[channel]:.9g} and epsilon {layer.epsilon:g}: {why}",
                         where=layer.path)

"""What each era's numbers mean, measured by running the versions named here.

    Keras                 `running_std` / `moving_variance` holds     inference divides by
    0.2 to 1.0.5          a deviation: sqrt(var + epsilon)            s + epsilon
    1.0.6 Theano          a deviation                                 s + epsilon
    1.0.6 TensorFlow      a variance                                  sqrt(v + epsilon)
    1.0.7 Theano          a variance                                  sqrt(v) + epsilon
    1.0.7 TensorFlow,
    1.0.8 and later       a variance, also under the old name         sqrt(v + epsilon)

Whole models say their version from Keras 1.0.7 on, to_json() from 1.0.4 on. `backend` came with 2.0.0; before, the names of weights
end in ":0" on TensorFlow and not on Theano.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import numpy as np

from exporter.batchnorm.dtypes import UNIT
from exporter.batchnorm.layer import BatchNorm
from exporter.batchnorm.stored import Statistic, Stored
from exporter.errors import FormatError, LayerError, UsageError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.keras.config import NormFields

# tf.nn.fused_batch_norm raised epsilon to this from TF 1.12 to 2.11, "a requirement by CUDNN", on CPUs too; TF 2.12 does not.
FUSED_MINIMUM = 1.001e-5

Version = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Era:
    """Who wrote a file: version and backend, None where neither the file nor the user says.

    Keras 2.4 is tf.keras: the package of that version only imports it.
    """

    version: Version | None = None
    backend: str | None = None
    is_tf_keras: bool = False

    @property
    def may_put_beta_first(self) -> bool:
        """tf.contrib.keras of TensorFlow 1.2 and 1.3 is tf.layers' BatchNormalization, which made beta before gamma until 1.4."""
        return self.is_tf_keras and self.version is not None and (2, 0, 2) <= self.version <= (2, 0, 6)

    @property
    def raises_epsilon(self) -> bool:
        """Whether the fused kernels of this TensorFlow raised small epsilons (FUSED_MINIMUM)."""
        return self.version is not None and (2, 1, 6) <= self.version < (2, 12)


def era_of(keras_version: str | None, backend: str | None) -> Era:
    """The era of a `keras_version` as files have it: "1.0.8", "2.2.4-tf", "2.15.0", "3.3.3". What is no version is unknown."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(.*)", keras_version or "", re.DOTALL)
    if not found:
        return Era(backend=backend)
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    return Era(version=version, backend=backend, is_tf_keras=found[4].startswith("-tf") or (2, 4) <= version < (3,))


def era_given(text: str, backend: str | None) -> Era:
    """The era of a version that the user gave. Raises UsageError where it is none."""
    era = era_of(text, backend)
    if era.version is None:
        raise UsageError(f"--keras-version {printable(text, 40)!r} is no version", hint="give it like --keras-version 1.0.5")
    return era


def statistic(era: Era, *, old_name: bool, on_tensorflow: bool | None) -> Statistic | None:
    """What the fourth parameter holds, see the table above; None where the version decides and is not known.

    old_name:      it is called running_std, or has no name (Keras 0.3). on_tensorflow: whether weight names end in ":0".
    """
    if not old_name or (era.version is not None and era.version >= (1, 0, 8)):
        return Statistic.VARIANCE
    if era.version is None:
        return None
    tensorflow = era.backend == "tensorflow" if era.backend else bool(on_tensorflow)
    if era.version < (1, 0, 6):
        return Statistic.DEVIATION
    if tensorflow:
        return Statistic.VARIANCE
    return Statistic.DEVIATION if era.version == (1, 0, 6) else Statistic.EPSILON_OUTSIDE


def default_epsilon(era: Era) -> float | None:
    """What this version takes where the config has no epsilon; None where the version is not known."""
    if era.version is None:
        return None
    return 1e-6 if era.version < (1, 0, 8) else 1e-5 if era.version < (1, 2, 0) else 1e-3


def reason_against(mode: int) -> str | None:
    """Why a layer of this `mode` (Keras 0.3 to 1.2) is no fixed affine map; None: it is one."""
    if mode == 0:
        return None
    if mode == 1:
        return "its mode 1 normalises each sample by that sample's own mean and deviation; the stored statistics are not used"
    if mode == 2:
        return "its mode 2 normalises by the statistics of the batch at hand, also in inference; the stored ones are not used"
    return f"its mode {mode} is not known"


def ignores_training(era: Era, *, is_keras_3: bool) -> bool:
    """Whether a frozen layer (trainable=False) uses its stored statistics however it is called: the batch norm of TensorFlow 2 does, and
    Keras 3's. tf.keras calls itself 2.2.4 in TensorFlow 1.13 to 2.1."""
    return is_keras_3 or (era.is_tf_keras and era.version is not None and era.version >= (2, 3, 0))


def real_axis(axis: tuple[int, ...], virtual_batch_size: int | None) -> tuple[int, ...]:
    """The axes of the input. With a virtual batch size tf.keras 1.12 to 2.15 builds the layer on the batch split in two axes and
    saves the axis of that, one too many.
    """
    if virtual_batch_size is None:
        return axis
    return tuple(number - 1 if number > 0 else number for number in axis)


def effective_epsilon(era: Era, fields: NormFields, *, dtype: str, ndim: int | None) -> float | None:
    """The epsilon that the fused kernel of the TensorFlow of that era used instead of the config's; None: the same, or not certain.

    That a layer was made with fused=False is not in any config.
    """
    if fields.epsilon is None or fields.epsilon >= FUSED_MINIMUM or dtype == "float64" or fields.renorm or fields.synchronized:
        return None
    if fields.virtual_batch_size is not None or fields.axis is None or len(fields.axis) != 1 or era.version is None or ndim is None:
        return None
    channels_last = fields.axis[0] % ndim == ndim - 1
    if not channels_last and fields.axis[0] % ndim != 1:
        return None
    if era.is_tf_keras:
        return FUSED_MINIMUM if _is_fused_in_tf_keras(era.version, ndim, channels_last) else None
    # K.batch_normalization of Keras 2.2 and 2.3 on TensorFlow; 2.2.0 knows axis 3 and not yet -1 (read in the wheels)
    fused = era.backend == "tensorflow" and (2, 2, 0) <= era.version < (2, 4) and ndim == 4 and channels_last
    return FUSED_MINIMUM if fused and (era.version > (2, 2, 0) or fields.axis == (3,)) else None


def _is_fused_in_tf_keras(version: Version, ndim: int, channels_last: bool) -> bool:
    """Measured: rank 4 channels-last from TF 1.12 to 2.11; channels-first and rank 5 in TF 2.6, 2.9 and 2.11, rank 5 not in 2.4."""
    if not (2, 1, 6) <= version < (2, 12):
        return False
    return (ndim == 4 and channels_last) or (ndim in (4, 5) and version >= (2, 6))


def convert(layer: Stored) -> BatchNorm:
    """The layer for the one formula: `moving_variance` is the variance that makes it divide as the layer's own era did.

    With d = s + epsilon, or sqrt(v) + epsilon, in float64: moving_variance = d**2 - epsilon, rounded to the layer's dtype; where that
    is negative in one channel, moving_variance = d**2 and epsilon = 0 for the whole layer.

    Raises: LayerError for statistics that no era could have used, and for float16 ones whose square float16 cannot hold.
    """
    if layer.statistic is Statistic.VARIANCE:
        return BatchNorm.of(layer)
    if layer.epsilon is None:
        raise FormatError("the file does not say its epsilon", where=layer.path)
    from exporter.batchnorm.dtypes import round_to

    stored = layer.moving_variance.astype(np.float64)
    outside = layer.statistic is Statistic.EPSILON_OUTSIDE
    _check(layer, stored, stored < 0 if outside else stored + layer.epsilon <= 0, "nothing can be divided by that")
    square = ((np.sqrt(stored) if outside else stored) + layer.epsilon) ** 2
    epsilon = 0.0 if (square < layer.epsilon).any() else layer.epsilon
    variance = round_to(square - epsilon, layer.dtype)
    lost = np.abs(variance.astype(np.float64) + epsilon - square) > 2 * UNIT[layer.dtype] * square
    _check(layer, stored, lost, f"its square does not fit {layer.dtype}, which the one formula would need")
    changed = ("moving_variance",) if epsilon == layer.epsilon else ("moving_variance", "epsilon")
    return BatchNorm.of(layer, moving_variance=variance, epsilon=epsilon, effective_epsilon=None, converted=changed)


def _check(layer: Stored, stored: NDArray[np.float64], bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        channel = int(np.argmax(bad))
        name = "variance" if layer.statistic is Statistic.EPSILON_OUTSIDE else "deviation"
        raise LayerError(f"the stored {name}[{channel}] is {stored.ravel()[channel]:.9g} and epsilon {layer.epsilon:g}: {why}",
                         where=layer.path)

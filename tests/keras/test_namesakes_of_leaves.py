"""A user's class may have the name of a class of Keras's own that contains no other layer, and contain a batch norm nevertheless."""

from __future__ import annotations

import pytest

import exporter
from tests.make import v3_files
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import named, parameters, write

MINE = layer("Dense", "mine", units=3)  # unregistered: nothing else tells that it is not Keras's own


@pytest.mark.parametrize("version", ["2.4.0", "3.0.5", "3.15.1"])
def test_in_h5(version, tmp_path):
    """No Keras writes registered_name there."""
    groups = {"plain": named("plain", parameters()), "mine": named("mine/hidden", parameters(seed=1))}
    path = write(tmp_path / "m.h5", groups, sequential(norm("plain"), MINE), keras_version=version)
    assert exporter.read(path, epsilon=0.5).paths() == ["plain", "mine/hidden"]


@pytest.mark.parametrize("version", ["2.11.0", "2.12.0", "2.13.1"])
def test_in_the_archives_of_keras_2(version, tmp_path):
    """The layers inside a model have no registered_name in 2.11 and 2.12."""
    counted = "layers" if version == "2.11.0" else "_layer_checkpoint_dependencies"
    weights = "variables.h5" if version == "2.11.0" else "model.weights.h5"
    groups = {f"{counted}/batch_normalization": parameters(), f"{counted}/dense/hidden": parameters(seed=1)}
    path = v3_files.write_archive(tmp_path / "m.keras", sequential(norm("plain"), MINE), groups, version, weights)
    assert exporter.read(path, epsilon=0.5).paths() == ["plain", "mine/hidden"]


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_as_the_installed_keras_writes_it(suffix, tmp_path):
    import keras

    class Dense(keras.layers.Layer):
        def build(self, shape):
            self.norm = keras.layers.BatchNormalization(name="hidden")
            self.norm.build(shape)

        def call(self, x):
            return self.norm(x)

    keras.Sequential([keras.Input((3,)), Dense(name="mine")]).save(tmp_path / f"m{suffix}")
    assert exporter.read(tmp_path / f"m{suffix}", epsilon=0.5).paths() == ["mine/hidden"]


def test_a_batch_norm_of_the_users_with_keras_own_name_is_noted(tmp_path):
    """Keras 2.13 and later write a registered_name for every class that is not its own, registered or not."""
    for registered in (None, "BatchNormalization"):
        entry = v3_files.norm("bn", registered=registered)
        entry["registered_name"] = registered
        path = v3_files.write_archive(tmp_path / "m.keras", v3_files.sequential("m", entry), {"layers/batch_normalization": parameters()})
        notes = [note for note in exporter.read(path).warnings if note.startswith("bn: its class BatchNormalization is not Keras's own")]
        assert len(notes) == (registered is not None)

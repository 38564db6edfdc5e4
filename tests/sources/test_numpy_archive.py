"""NumPy archives: arrays are a batch norm's by whole names; nothing is unpickled, nothing is guessed from positions."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

import exporter
from exporter.errors import ExporterError, FormatError, UnresolvedError, UnsupportedError
from exporter.files.place import Place
from exporter.sources import numpy_archive
from tests.make.v3_files import functional, norm, sequential, stored

ROLES = ("gamma", "beta", "moving_mean", "moving_variance")
TENSORPACK = dict(zip(ROLES, ("gamma", "beta", "mean/EMA", "variance/EMA")))


def values(seed=0, channels=3, roles=ROLES):
    random = np.random.default_rng(seed)
    return {role: np.abs(random.normal(size=channels)).astype(np.float32) for role in roles}


def archive(path, *, save=np.savez, **arrays):
    save(path, **arrays)
    return path


def named(scope, arrays, called=None, ending=":0"):
    return {f"{scope}/{(called or {}).get(role, role)}{ending}": array for role, array in arrays.items()}


def refusal(path, kind=UnsupportedError, **options):
    with pytest.raises(kind) as caught:
        exporter.read(path, **{"epsilon": 0.1, **options})
    return f"{caught.value} | {caught.value.hint}"


@pytest.mark.parametrize("called", [None, TENSORPACK], ids=["keras", "tensorpack"])
@pytest.mark.parametrize("ending", ["", ":0"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_names_say_all_but_epsilon(tmp_path, called, ending, save):
    first, second = values(1), values(2, 5, ROLES[1:])
    path = archive(tmp_path / "model.npz", save=save, **named("bn0", first, called, ending), **named("a/b/bn1", second, called, ending),
                   **{"conv0/W:0": np.zeros((3, 3, 2, 3), np.float32), "step": np.array(7), "bn0x/gamma_of_mine": np.zeros(3)})
    assert numpy_archive.claims(Place(path))
    bundle = exporter.read(path, epsilon={"*": 1e-5, "a/*": 1e-3})
    assert [(layer.path, layer.epsilon, stored(layer)) for layer in bundle] == [
        ("bn0", 1e-5, {role: array.tolist() for role, array in first.items()}),
        ("a/b/bn1", 1e-3, {role: array.tolist() for role, array in second.items()})]
    assert [layer.name for layer in bundle] == ["bn0", "bn1"]
    assert bundle["bn0"].assumed == ("epsilon", "axis")
    assert "bn0, a/b/bn1: the file does not contain its epsilon" in refusal(path, UnresolvedError, epsilon=None)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_types(tmp_path, dtype):
    arrays = {role: array.astype(dtype) for role, array in values().items()}
    layer = exporter.read(archive(tmp_path / "m.npz", **named("bn", arrays)), epsilon=0.1)["bn"]
    assert (layer.dtype, layer.gamma.dtype) == (np.dtype(dtype).name, dtype)


def test_an_architecture_of_another_session(tmp_path):
    """Keras went on counting: the second program's first is batch_normalization_2 here. A name that a person gave has to be the same."""
    auto = "batch_normalization"
    arrays = {number: values(number) for number in range(3)}
    scopes = [f"{auto}_9", "bn", f"{auto}_10"]
    held = [named(scope, arrays[number]) for number, scope in enumerate(scopes)]
    path = archive(tmp_path / "m.npz", **{name: array for each in held for name, array in each.items()})
    config = [norm(auto, epsilon=0.1), norm("bn", epsilon=0.2), norm(f"{auto}_1", epsilon=0.3)]
    (tmp_path / "a.json").write_text(json.dumps(functional("m", *config)))
    bundle = exporter.read(path, architecture=tmp_path / "a.json")
    assert [(layer.path, layer.epsilon) for layer in bundle] == [(auto, 0.1), ("bn", 0.2), (f"{auto}_1", 0.3)]
    assert [layer.gamma.tobytes() for layer in bundle] == [arrays[number]["gamma"].tobytes() for number in range(3)]
    assert "2 batch norms have other names in the architecture than in the weights, numbered in another session" in bundle.warnings[0]
    for other in ([config[2], config[1], config[0]], [config[0], norm("other"), config[2]], config[:2]):
        (tmp_path / "a.json").write_text(json.dumps(functional("m", *other)))
        assert "they do not match" in refusal(path, FormatError, epsilon=None, architecture=tmp_path / "a.json")


def test_an_architecture_says_the_rest(tmp_path):
    path = archive(tmp_path / "m.npz", **named("bn_1", values(1, 3, ROLES[1:])), **named("bn_0", values(2)))
    config = functional("m", sequential("inner", norm("bn_1", epsilon=0.3, scale=False)), norm("bn_0", epsilon=0.2, axis=1))
    (tmp_path / "a.json").write_text(json.dumps(config))
    bundle = exporter.read(path, architecture=tmp_path / "a.json")
    assert [(layer.path, layer.epsilon, layer.axis, layer.assumed) for layer in bundle] == [
        ("inner/bn_1", 0.3, (-1,), ()), ("bn_0", 0.2, (1,), ())]
    for other, what in ((functional("m", norm("bn_0"), norm("bn_2")), "they do not match"),
                        (functional("m", norm("bn_0"), norm("bn_1"), norm("bn_2")), "they do not match"),
                        (functional("m", norm("bn_0"), norm("bn_1")), "which does not match center and scale"),
                        (functional("m", norm("bn_0", center=False), norm("bn_1", scale=False)), "which does not match center and scale")):
        (tmp_path / "a.json").write_text(json.dumps(other))
        assert what in refusal(path, FormatError, epsilon=None, architecture=tmp_path / "a.json")


def test_layers_of_one_name_are_told_apart_by_their_paths(tmp_path):
    path = archive(tmp_path / "m.npz", **named("a/bn", values(1)), **named("b/bn", values(2)))
    config = functional("m", sequential("b", norm("bn", epsilon=0.2)), sequential("a", norm("bn", epsilon=0.1)))
    (tmp_path / "a.json").write_text(json.dumps(config))
    bundle = exporter.read(path, architecture=tmp_path / "a.json")
    assert {layer.path: (layer.epsilon, layer.gamma.tobytes()) for layer in bundle} == {
        "a/bn": (0.1, values(1)["gamma"].tobytes()), "b/bn": (0.2, values(2)["gamma"].tobytes())}


@pytest.mark.parametrize(("arrays", "words"), [
    ({"arr_0": np.zeros(3), "arr_1": np.zeros(3)}, "NumPy archive (.npz) of arrays without names (arr_0, arr_1)"),
    ({"x_train": np.zeros((2, 3)), "gammas": np.zeros(3)}, "the names of its arrays (x_train, gammas) are not those"),
    ({"bn/gamma": np.zeros(3), "bn/beta": np.zeros(3)}, "are not those of a batch norm"),  # a LayerNormalization
    ({"bn_gamma": np.ones(3), "bn_running_mean": np.ones(3), "bn_running_std": np.ones(3)}, "running_std of Keras 1 can be a standard")])
def test_what_names_do_not_say(tmp_path, arrays, words):
    assert words in refusal(archive(tmp_path / "m.npz", **arrays))


def test_what_is_no_plain_batch_norm_is_named(tmp_path):
    switch = {**named("sn", values()), "sn/mean_weights:0": np.ones(3), "sn/variance_weights:0": np.ones(3)}
    cut = {name: array for name, array in named("cut", values()).items() if "variance" not in name}
    path = archive(tmp_path / "m.npz", **named("bn", values()), **switch, **cut, **{"bn/renorm_mean:0": np.ones(3)})
    bundle = exporter.read(path, epsilon=0.1, skip_unresolved=True)
    assert bundle.paths() == ["bn"]
    assert dict(bundle.skipped) == {"cut": "the archive contains no moving_variance of it",
                                    "sn": "it also contains mean_weights:0, variance_weights:0, which a batch norm does not have"}


@pytest.mark.parametrize("said", [np.float64(1e-5), np.float32([1e-5])])
def test_an_epsilon_beside_the_weights(tmp_path, said):
    path = archive(tmp_path / "m.npz", **named("bn", values()), **named("bn/deep", values(1)), **{"bn/epsilon": said})
    bundle = exporter.read(path, epsilon={"bn/deep": 0.25})
    assert {layer.path: (layer.epsilon, layer.assumed) for layer in bundle} == {
        "bn": (float(said.item()), ("axis",)), "bn/deep": (0.25, ("epsilon", "axis"))}
    (tmp_path / "a.json").write_text(json.dumps(functional("m", norm("bn", epsilon=1e-5), norm("bn/deep"))))
    assert exporter.read(path, architecture=tmp_path / "a.json")["bn"].epsilon == 1e-5
    (tmp_path / "a.json").write_text(json.dumps(functional("m", norm("bn", epsilon=1e-3), norm("bn/deep"))))
    assert "according to another array or its config 0.001" in refusal(path, FormatError, epsilon=None, architecture=tmp_path / "a.json")
    both = archive(tmp_path / "m.npz", **named("bn", values()), **{"bn/epsilon": said, "bn/eps": np.float64(1e-3)})
    assert "according to another array or its config" in refusal(both, FormatError)


@pytest.mark.parametrize("said", [np.ones(2), np.float64(-1), np.float64("nan"), np.float64("inf"), np.float64(1e39), np.zeros(0)])
def test_an_epsilon_that_is_none(tmp_path, said):
    path = archive(tmp_path / "m.npz", **named("bn", values()), **{"bn/epsilon": said})
    assert "bn/epsilon: expected one number that is not negative as epsilon" in refusal(path, FormatError)


def test_a_class_that_computes_something_else_is_left_out(tmp_path):
    """The architecture says that its parameters are quantized: what stands in the archive is not what it computes with."""
    quantizer = {"class_name": "quantized_bits", "config": {"bits": 6}}
    quantized = norm("q", class_name="QBatchNormalization", registered="qkeras>QBatchNormalization", gamma_quantizer=quantizer)
    config = functional("m", quantized, norm("bn"))
    (tmp_path / "m.json").write_text(json.dumps(config))
    path = archive(tmp_path / "m.npz", **named("q", values()), **named("bn", values(1)))
    bundle = exporter.read(path, architecture=tmp_path / "m.json", skip_unresolved=True)
    assert bundle.paths() == ["bn"]
    assert [path for path, _ in bundle.skipped] == ["q"]
    assert "gamma_quantizer" in bundle.skipped[0][1]


def test_a_role_that_comes_twice(tmp_path):
    twice = {**named("bn", values()), "bn/mean/EMA:0": np.ones(3, np.float32)}
    assert "both 'bn/moving_mean:0' and 'bn/mean/EMA:0' are its moving_mean" in refusal(archive(tmp_path / "m.npz", **twice), FormatError)


def test_nothing_is_unpickled(tmp_path):
    arrays = {**named("bn", values()), "bn/gamma:0": np.array([{"a": 1}, None, 2], object)}
    with open(tmp_path / "m.npz", "wb") as file:
        np.savez(file, **arrays)
    assert "a pickle, which is never loaded" in refusal(tmp_path / "m.npz")


@pytest.mark.parametrize(("array", "words"), [
    (np.ones(3, np.uint8), "expected an array of floating point numbers, got uint8"), (np.ones(4, np.float32), "its parameters have "
                                                                                                               "different shapes"),
    (np.ones(3, np.float64), "its parameters have different types"), (np.asfortranarray(np.ones((3, 2), np.float32)), "row-major"),
    (np.ones(3, np.int64), "got <i8"), (np.ones(2 << 20, np.float64), "expected at most 9437184 bytes in this member")])
def test_arrays_that_are_no_parameters(tmp_path, array, words):
    path = archive(tmp_path / "m.npz", save=np.savez_compressed, **{**named("bn", values()), "bn/gamma:0": array})
    assert words in refusal(path, ExporterError)


def test_other_zip_archives_are_left_to_others(tmp_path):
    for members in ({}, {"a.npy": b"", "b.txt": b""}):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        (tmp_path / "m.zip").write_bytes(data.getvalue())
        assert not numpy_archive.claims(Place(tmp_path / "m.zip"))
    (tmp_path / "m.zip").write_bytes(data.getvalue()[:-5])
    assert not numpy_archive.claims(Place(tmp_path / "m.zip"))


def test_training_data_beside_a_model_is_no_second_model(tmp_path):
    archive(tmp_path / "data.npz", x=np.zeros(3))
    sample = exporter.read("sample_models/no_beta_keras208/model.h5")
    with open("sample_models/no_beta_keras208/model.h5", "rb") as file:
        (tmp_path / "model.h5").write_bytes(file.read())
    assert exporter.read(tmp_path).digest() == sample.digest()


@pytest.mark.parametrize(("ema", "seed", "said"), [(None, 0, True), ("no", 0, False), ("yes", 1, False)])
def test_averages_over_the_steps_beside_the_variables(tmp_path, ema, seed, said):
    arrays, averages = values(), values(seed=1)
    shadows = {f"{name.removesuffix(':0')}/ExponentialMovingAverage:0": array for name, array in named("bn", averages).items()}
    bundle = exporter.read(archive(tmp_path / "w.npz", **named("bn", arrays), **shadows), epsilon=0.1, ema=ema)
    assert all(getattr(bundle["bn"], role).tobytes() == array.tobytes() for role, array in values(seed=seed).items())
    assert any("exponential moving averages of bn/gamma:0" in warning for warning in bundle.warnings) == said


@pytest.mark.parametrize("there", [(), ("gamma",), ("beta",), ("gamma", "beta")])
@pytest.mark.parametrize("said", [(), ("gamma",), ("beta",), ("gamma", "beta")])
def test_gamma_and_beta_are_there_as_the_config_says(tmp_path, there, said):
    """Of an archive without one of them, nothing else shows that it was not lost."""
    config = sequential("m", norm("bn", scale="gamma" in said, center="beta" in said))
    (tmp_path / "a.json").write_text(json.dumps(config))
    path = archive(tmp_path / "m.npz", **named("bn", values(roles=(*there, *ROLES[2:]))))
    if there == said:
        assert [layer.path for layer in exporter.read(path, architecture=tmp_path / "a.json")] == ["bn"]
    else:
        assert "which does not match center and scale of its config" in refusal(path, FormatError, architecture=tmp_path / "a.json")

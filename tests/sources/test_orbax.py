"""Checkpoints of keras.callbacks.OrbaxCheckpoint: steps, paths of variables, and what is missing or damaged."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile

import numpy as np
import pytest

import exporter
from exporter.errors import ExporterError, FormatError, MissingExtra, UnresolvedError, UnsupportedError
from exporter.files.place import Place
from exporter.formats import ocdbt
from tests.make.layers import ROOT
from tests.make.v3_files import entry, functional, given, norm, norm_arrays, sequential, stored

tensorstore = pytest.importorskip("tensorstore", reason="the extra `orbax` is not installed", exc_type=ImportError)

A, B = norm_arrays(1), norm_arrays(2, scale=False)
STATISTICS = ("moving_mean", "moving_variance")


def variables(scope, arrays):
    """{keys: array} as Keras sorts the variables of a batch norm."""
    return {("non_trainable_variables" if role in STATISTICS else "trainable_variables", *scope.split("/"), role): array
            for role, array in arrays.items()}


def write_step(folder, arrays, config=None, *, driver="zarr3"):
    """A step as Orbax lays it out."""
    pytree = folder / "pytree"
    pytree.mkdir(parents=True)
    for keys, array in arrays.items():
        spec = {"driver": driver, "kvstore": {"driver": "ocdbt", "base": f"file://{pytree}/", "path": ".".join(keys) + "/"}}
        tensorstore.open(spec, create=True, dtype=array.dtype, shape=array.shape).result().write(array).result()
    tree = {str(keys): {"key_metadata": [{"key": key, "key_type": 2} for key in keys]} for keys in arrays}
    (pytree / "_METADATA").write_text(json.dumps({"tree_metadata": tree, "use_ocdbt": True, "use_zarr3": driver == "zarr3"}))
    (folder / "_CHECKPOINT_METADATA").write_text("{}")
    if config is not None:
        (folder / "model_config").mkdir()
        (folder / "model_config" / "_strings.json").write_text(json.dumps({"config": json.dumps(config)}))
    return folder


CONFIG = functional("net", sequential("inner", norm("bn", epsilon=0.2)), norm("bn", epsilon=0.1, scale=False))
STEP = {**variables("inner/bn", A), **variables("bn", B), ("optimizer_variables", "sgd", "iteration"): np.array(3),
        ("trainable_variables", "dense", "kernel"): np.zeros((2, 3), np.float32)}


def refusal(path, kind=ExporterError, **options):
    with pytest.raises(kind) as caught:
        exporter.read(path, **options)
    return f"{caught.value} | {caught.value.hint}"


@pytest.mark.parametrize(("driver", "isolated"), [("zarr3", False), ("zarr", False), ("zarr3", True), pytest.param(
    "zarr", True, marks=pytest.mark.thorough("much time: a child imports tensorstore"))])
def test_a_step_is_read_by_the_paths_of_its_variables(tmp_path, driver, isolated):
    bundle = exporter.read(write_step(tmp_path / "7", STEP, CONFIG, driver=driver), isolated=isolated)
    assert {layer.path: (layer.epsilon, stored(layer)) for layer in bundle} == {"inner/bn": (0.2, given(A)), "bn": (0.1, given(B))}
    assert (bundle.origin.kind, bundle.warnings) == ("orbax", ())


def test_a_step_without_the_metadata_of_checkpoints(tmp_path):
    """It is known by its database, whatever its name."""
    step = write_step(tmp_path / "best", STEP, CONFIG)
    (step / "_CHECKPOINT_METADATA").unlink()
    assert exporter.read(step).paths() == ["inner/bn", "bn"]


def test_metadata_of_many_variables_may_be_large(tmp_path):
    metadata = write_step(tmp_path / "7", STEP, CONFIG) / "pytree" / "_METADATA"
    metadata.write_text(metadata.read_text() + " " * (2 << 20))
    assert exporter.read(tmp_path / "7").paths() == ["inner/bn", "bn"]


def test_one_layer_of_two_models_and_one_inside_a_class_of_the_users(tmp_path):
    """The config has the shared one twice; only one owner of variables is called by its name. The class says nothing of its own."""
    config = functional("net", norm("bn"), functional("inner", norm("bn")), entry("Block", "block", registered="lab>Block"))
    step = write_step(tmp_path / "0", {**variables("bn", A), **variables("block/own", B)}, config)
    bundle = exporter.read(step, epsilon={"block/own": 0.5})
    assert {layer.path: stored(layer) for layer in bundle} == {"bn": given(A), "block/own": given(B)}


@pytest.mark.parametrize("scopes", [("net/inner/bn", "net/bn"), ("inner/bn", "bn")])
def test_the_name_of_the_model_that_precedes_all_paths_is_none_of_a_layer(tmp_path, scopes):
    """In a Sequential that was built by its first call."""
    step = {key: array for scope, arrays in zip(scopes, (A, B), strict=True) for key, array in variables(scope, arrays).items()}
    bundle = exporter.read(write_step(tmp_path / "0", step, CONFIG))
    assert {layer.path: stored(layer) for layer in bundle} == {"inner/bn": given(A), "bn": given(B)}


def test_what_is_not_certain_hides_no_other(tmp_path):
    config = functional("net", norm("bn"), functional("inner", norm("bn", epsilon=0.5)), entry("Block", "block", registered="lab>Block"))
    step = write_step(tmp_path / "0", {**variables("bn", A), **variables("block/own", B)}, config)
    bundle = exporter.read(step, epsilon={"block/own": 0.5}, skip_unresolved=True)
    assert (bundle.paths(), [path for path, _ in bundle.skipped]) == (["block/own"], ["bn", "inner/bn"])


def test_its_own_config_goes_before_a_given_one(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(functional("net", norm("other", epsilon=0.5))))
    bundle = exporter.read(write_step(tmp_path / "0", variables("bn", A), functional("m", norm("bn", epsilon=0.1))),
                           architecture=tmp_path / "a.json")
    assert {layer.path: layer.epsilon for layer in bundle} == {"bn": 0.1}
    assert bundle.warnings == ("the checkpoint contains its own config; the one given with --architecture is not used",)


def test_weights_of_more_than_a_batch_norm_are_not_taken_for_one(tmp_path):
    step = write_step(tmp_path / "0", {**variables("bn", B), **variables("switch", A),
                                       ("trainable_variables", "switch", "mean_weight"): np.ones(2, np.float32)})
    bundle = exporter.read(step, epsilon=0.1, skip_unresolved=True)
    assert bundle.paths() == ["bn"]
    assert [(path, "mean_weight" in reason) for path, reason in bundle.skipped] == [("switch", True)]


def test_weights_of_a_renamed_layer_beside_those_of_a_batch_norm(tmp_path):
    """A Dense that was called dense when it was built; only a user's class can have weights of its own beside a batch norm's."""
    arrays = {**variables("dense", A), ("trainable_variables", "dense", "kernel"): np.ones((3, 3), "f4")}
    for registered in (None, "own>BatchNormalization"):
        config = functional("m", norm("dense", registered=registered), entry("Dense", "new"))
        step = write_step(tmp_path / str(bool(registered)), arrays, config)
        if registered:
            assert "it has weights that a batch norm does not have" in refusal(step)
        else:
            assert stored(exporter.read(step)["dense"]) == given(A)


def test_of_several_steps_the_latest_is_read_by_number(tmp_path):
    for number, arrays in ((9, A), (10, norm_arrays(5))):
        write_step(tmp_path / "run" / str(number), variables("bn", arrays), functional("m", norm("bn")))
    write_step(tmp_path / "run" / "11.orbax-checkpoint-tmp", variables("bn", A), functional("m", norm("bn")))
    bundle = exporter.read(tmp_path / "run")
    assert stored(bundle["bn"]) == given(norm_arrays(5))
    assert "reading step 10, the latest of 9, 10; give the folder of " in bundle.warnings[0]
    assert stored(exporter.read(tmp_path / "run" / "9")["bn"]) == given(A)


def test_names_of_a_sequential_begin_with_its_own(tmp_path):
    config = sequential("net", entry("Dense", "dense", units=3), norm("bn", epsilon=0.3))
    assert stored(exporter.read(write_step(tmp_path / "0", variables("net/bn", A), config))["bn"]) == given(A)


def test_weights_alone(tmp_path):
    """save_weights_only=True leaves the config out."""
    step = write_step(tmp_path / "0", STEP)
    assert "bn: the file does not contain its epsilon" in refusal(step, UnresolvedError)
    assert sorted(exporter.read(step, epsilon=0.5).paths()) == ["bn", "inner/bn"]
    (tmp_path / "a.json").write_text(json.dumps(CONFIG))
    assert exporter.read(step, architecture=tmp_path / "a.json")["inner/bn"].epsilon == 0.2
    (tmp_path / "a.json").write_text(json.dumps(functional("net", norm("bn"), norm("other"))))
    auto = write_step(tmp_path / "1", {**variables("batch_normalization_10", A), **variables("batch_normalization_9", B)})
    config = functional("net", norm("batch_normalization", epsilon=0.3, scale=False), norm("batch_normalization_1", epsilon=0.4))
    (tmp_path / "b.json").write_text(json.dumps(config))
    bundle = exporter.read(auto, architecture=tmp_path / "b.json")  # of another session
    assert {layer.path: (layer.epsilon, stored(layer)) for layer in bundle} == {
        "batch_normalization": (0.3, given(B)), "batch_normalization_1": (0.4, given(A))}
    assert "numbered in another session" in bundle.warnings[0]
    assert "they do not match" in refusal(step, FormatError, architecture=tmp_path / "a.json")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_types(tmp_path, dtype):
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    arrays = {role: np.array([0.5, 1.5, 3.0]).astype(kind) for role in ("gamma", "beta", *STATISTICS)}
    layer = exporter.read(write_step(tmp_path / "0", variables("bn", arrays), functional("m", norm("bn"))))["bn"]
    assert (layer.dtype, layer.gamma.astype(float).tolist()) == (dtype, [0.5, 1.5, 3.0])


@pytest.mark.parametrize(("arrays", "what"), [
    ({("params", "bn", "scale"): np.ones(3, np.float32)}, "this Orbax checkpoint contains no trainable_variables or"),
    ({**variables("bn", A), ("non_trainable_variables", "bn", "gamma"): A["gamma"]}, "it is listed as both a trainable"),
    ({**variables("bn", A), ("trainable_variables", "bn.gamma"): A["gamma"]}, "two arrays are named 'trainable_variables.bn.gamma'"),
    ({**variables("bn", A), ("trainable_variables", "bn", "gamma"): np.ones(3, np.int32)}, "floating point numbers, got int32"),
    ({**variables("bn", A), ("trainable_variables", "bn", "gamma"): np.ones((3, 1 << 19), np.float32)}, "expected at most 1048576 "
                                                                                                        "values, got shape [3, 524288]")])
def test_checkpoints_that_are_refused(tmp_path, arrays, what):
    unique = {".".join(keys): keys for keys in arrays}
    step = write_step(tmp_path / "0", {keys: arrays[keys] for keys in unique.values()}, functional("m", norm("bn")))
    metadata = {"tree_metadata": {str(keys): {"key_metadata": [{"key": key} for key in keys]} for keys in arrays}, "use_zarr3": True}
    (step / "pytree" / "_METADATA").write_text(json.dumps(metadata))
    assert what in refusal(step)


def test_an_array_that_was_never_written_is_not_taken_for_zeros(tmp_path):
    step = write_step(tmp_path / "0", variables("bn", A), functional("m", norm("bn")))
    base = f"file://{step / 'pytree'}/"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    key = next(key for key in store.list().result() if key.startswith(b"trainable_variables.bn.gamma/c"))
    store.write(key, None).result()
    assert "tensorstore cannot read it" in refusal(step, FormatError)


def test_a_damaged_database(tmp_path):
    step = write_step(tmp_path / "0", variables("bn", A), functional("m", norm("bn")))
    for file in (step / "pytree" / "d").iterdir():
        file.write_bytes(bytes(100))
    assert "tensorstore cannot read it" in refusal(step, FormatError, isolated=True)
    (step / "model_config" / "_strings.json").write_text('{"config": 3}')
    assert "expected the model's config as text" in refusal(step)
    (step / "pytree" / "_METADATA").write_text('{"tree_metadata": {"a": {"key_metadata": [{"key": "../x"}]}}}')
    assert "an entry of its tree_metadata has no keys, or keys that are not names" in refusal(step)
    for tree in ("{}", "[]", "3", "null"):
        (step / "pytree" / "_METADATA").write_text(f'{{"tree_metadata": {tree}}}')
        assert "its tree_metadata lists no arrays" in refusal(step, FormatError)


def test_a_link_out_of_the_folder(tmp_path):
    step = write_step(tmp_path / "0", variables("bn", A), functional("m", norm("bn")))
    manifest = step / "pytree" / "manifest.ocdbt"
    shutil.move(manifest, tmp_path / "elsewhere")
    manifest.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link that points outside" in refusal(step, FormatError)


def test_checkpoints_of_other_programs_are_called_so(tmp_path):
    (tmp_path / "state" / "default").mkdir(parents=True)
    (tmp_path / "state" / "_CHECKPOINT_METADATA").write_text("{}")
    assert "this is an Orbax checkpoint that was not written by Keras's callback" in refusal(tmp_path / "state", UnsupportedError)


def test_without_the_extra(tmp_path, monkeypatch):
    step = write_step(tmp_path / "0", variables("bn", A), functional("m", norm("bn")))
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    assert "pip install 'bn-export[orbax]'" in refusal(step, MissingExtra)


def test_a_step_in_a_zip_archive(tmp_path, monkeypatch):
    run = ROOT / "sample_models" / "orbax_keras3" / "run"
    with zipfile.ZipFile(tmp_path / "run.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(run.rglob("*")):
            if file.is_file():
                archive.write(file, str(file.relative_to(run.parent)))
    assert exporter.read(tmp_path / "run.zip").digest() == exporter.read(run).digest()
    monkeypatch.setattr(ocdbt, "MAX_FAR_AWAY", 500)
    assert "expected a remote checkpoint of at most 500 bytes, got more" in refusal(tmp_path / "run.zip", FormatError)


def test_no_link_leads_out_of_the_folder(tmp_path):
    (tmp_path / "outside").write_bytes(b"x")
    (tmp_path / "step" / "d").mkdir(parents=True)
    assert ocdbt._on_this_machine(Place(tmp_path / "step")) == {"driver": "file", "path": f"{tmp_path}/step/"}
    (tmp_path / "step" / "d" / "x").symlink_to(tmp_path / "outside")
    with pytest.raises(FormatError, match="a symbolic link that points outside the model's folder is not followed"):
        ocdbt._on_this_machine(Place(tmp_path / "step"))


@pytest.mark.parametrize(("names", "is_read"), [
    (["a", "b"], True), (["a", "b", "c"], False), (["a", "d/b"], True), (["d/", "e/", "a"], False)])
def test_how_many_files_a_checkpoint_may_have(tmp_path, monkeypatch, names, is_read):
    """Folders that wait to be looked into are counted, too."""
    monkeypatch.setattr(ocdbt, "MAX_FILES", 2)
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_bytes(b"")
    if is_read:
        assert sorted(name for name, _ in ocdbt._files(Place(tmp_path))) == names
        return
    with pytest.raises(FormatError, match="expected a checkpoint of at most 2 files, got more"):
        ocdbt._files(Place(tmp_path))

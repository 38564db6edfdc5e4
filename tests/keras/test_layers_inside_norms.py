"""A user's batch norm whose config holds other layers: what it does with them is not in the file, so it is no plain batch norm."""

from __future__ import annotations

import pytest

import exporter
from exporter.keras.names import snake_case
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import named, parameters, write
from tests.make.v3_files import write_archive

RELU = layer("ReLU", "relu")
HAS_LAYERS = "is not a plain batch norm: it contains other layers (relu)"


def h5(path, *entries):
    groups = {entry["config"]["name"]: named(entry["config"]["name"], parameters(seed=seed)) for seed, entry in enumerate(entries)}
    return write(path / "m.h5", groups, sequential(*entries), keras_version="2.4.0", backend="tensorflow")


def archive(path, *entries):
    groups = {f"layers/{snake_case(entry['class_name'].rpartition('>')[2])}": parameters(seed=seed) for seed, entry in enumerate(entries)}
    return write_archive(path / "m.keras", sequential(*entries), groups)


@pytest.mark.parametrize("form", [h5, archive])
def test_it_is_refused(form, tmp_path):
    path = form(tmp_path, norm("plain"), norm("own", class_name="acme>OwnNorm", act=RELU))
    with pytest.raises(exporter.UnresolvedError) as refused:
        exporter.read(path)
    assert [(each, HAS_LAYERS in reason) for each, reason in refused.value.layers] == [("own", True)]
    assert exporter.read(path, skip_unresolved=True).paths() == ["plain"]


@pytest.mark.parametrize("form", [h5, archive])
def test_what_is_no_layer_may_have_a_name(form, tmp_path):
    named_like_one = {"class_name": "acme>Soft", "config": {"name": "soft", "l2": 0.1}}
    path = form(tmp_path, norm("plain"), norm("own", class_name="acme>OwnNorm", gamma_regularizer=named_like_one))
    assert exporter.read(path).paths() == ["plain", "own"]


@pytest.mark.parametrize("inside", [{}, {"act": RELU}])
def test_a_class_that_is_only_called_so_is_named(inside, tmp_path):
    bundle = exporter.read(archive(tmp_path, norm("plain"), layer("acme>OwnBatchNorm", "own", **inside)))
    assert bundle.paths() == ["plain"]
    assert "own: its class OwnBatchNorm is not Keras's own" in " ".join(bundle.warnings)


def test_one_that_holds_a_batch_norm_is_not(tmp_path):
    path = write(tmp_path / "m.h5", {"own": named("own/bn", parameters())}, sequential(layer("acme>OwnBatchNorm", "own", part=norm("bn"))),
                 keras_version="2.4.0")
    bundle = exporter.read(path)
    assert (bundle.paths(), bundle.warnings) == (["own/bn"], ())


def test_one_that_holds_a_batch_norm_and_is_one_itself_is_refused(tmp_path):
    """The inner one is read."""
    entry = norm("own", class_name="acme>TwoNorms", other=norm("bn", epsilon=0.25))
    first, second = parameters(seed=1), parameters(seed=2)
    old = write(tmp_path / "m.h5", {"own": [*named("own", first), *named("own/bn", second)]}, sequential(entry), keras_version="2.4.0")
    new = write_archive(tmp_path / "m.keras", sequential(entry), {"layers/two_norms": first, "layers/two_norms/other": second})
    for path in (old, new):
        with pytest.raises(exporter.UnresolvedError, match=r"own: .* contains other layers \(bn\)"):
            exporter.read(path)
        (layer,) = exporter.read(path, skip_unresolved=True)
        assert (layer.path, layer.epsilon, layer.gamma.tobytes()) == ("own/bn", 0.25, second["gamma"].tobytes())


def test_one_that_holds_a_batch_norm_and_has_no_group_lacks_that_batch_norm(tmp_path):
    """It was never built; the rest is read."""
    entry = norm("own", class_name="acme>TwoNorms", other=norm("bn"))
    path = write_archive(tmp_path / "m.keras", sequential(norm("plain"), entry), {"layers/batch_normalization": parameters()})
    bundle = exporter.read(path, skip_unresolved=True)
    assert (bundle.paths(), [path for path, _ in bundle.skipped]) == (["plain"], ["own/bn"])


def test_one_that_holds_two_batch_norms_and_describes_one_of_them(tmp_path):
    entry = norm("own", class_name="acme>TwoNorms", other=norm("bn"))
    groups = {"own": [*named("own/bn", parameters()), *named("own/more", parameters())]}
    with pytest.raises(exporter.UnresolvedError) as refused:
        exporter.read(write(tmp_path / "m.h5", groups, sequential(entry), keras_version="2.4.0"))
    assert [path for path, _ in refused.value.layers] == ["own/more"]

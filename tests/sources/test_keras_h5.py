"""Legacy HDF5 files of every Keras, written here as those versions wrote them, and (live) by the installed Keras and tf_keras."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

import exporter
from exporter.errors import ExporterError, FormatError, UnresolvedError, UnsupportedError, UsageError
from exporter.files.place import Place
from exporter.sources.keras_h5 import claims
from exporter.sources.legacy_h5.weights import LayerGroup, names_below
from tests.make.configs import functional, layer, norm, sequential
from tests.make.h5_files import ROLES, named, parameters, write

RUNNING = ("gamma", "beta", "running_mean", "running_std")


def same(found, values, roles=ROLES):
    for role in ROLES:
        got = getattr(found, role)
        if role not in roles:
            assert got is None, role
        else:
            assert got.dtype == values[role].dtype
            assert got.tobytes() == values[role].tobytes(), role
    return True


MODEL = sequential(layer("Dense", "fc", units=3), norm("bn_1", epsilon=0.002, scale=True), layer("Dense", "out", units=4),
                   norm("bn_2", scale=False, center=True))
FIRST, SECOND = parameters(3, 1), parameters(4, 2)
NO_GAMMA = ROLES[1:]


def groups(scope="bn_1", **form):
    kernel = np.zeros((2, 3), np.float32)
    return {"fc": [("fc/kernel:0", kernel)], "bn_1": named(scope, FIRST, **form), "out": [],
            "bn_2": named("bn_2", SECOND, NO_GAMMA, **form)}


@pytest.mark.parametrize(("version", "form"), [
    ("2.0.8", {}), ("2.2.4", {"ending": ""}), ("2.2.4-tf", {}), ("2.9.0", {}), ("3.0.5", {"separator": "", "ending": ""}),
    ("3.15.1", {"ending": ""}),
])
def test_a_whole_model(tmp_path, version, form):
    if not form.get("separator", "/"):
        held = {"fc": [], "bn_1": named("", FIRST, **form), "out": [], "bn_2": named("", SECOND, NO_GAMMA, **form)}
    else:
        held = groups(**form)
    path = write(tmp_path / "model.h5", held, MODEL, keras_version=version, backend="tensorflow", as_bytes=version < "2.9")
    bundle = exporter.read(path)
    assert bundle.paths() == ["bn_1", "bn_2"]
    assert same(bundle["bn_1"], FIRST)
    assert same(bundle["bn_2"], SECOND, NO_GAMMA)
    assert (bundle["bn_1"].epsilon, bundle["bn_1"].axis, bundle["bn_1"].momentum, bundle["bn_1"].assumed) == (0.002, (-1,), 0.9, ())
    assert (bundle.origin.kind, bundle.origin.keras_version, bundle.origin.backend) == ("keras-h5", version, "tensorflow")
    assert not bundle.warnings


def test_weights_alone(tmp_path):
    path = write(tmp_path / "weights.h5", groups(), keras_version="2.4.0", backend="tensorflow")
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(path)
    assert "bn_1, bn_2: the file does not contain its epsilon" in str(caught.value)
    assert "--epsilon" in caught.value.hint
    assert "--architecture" in caught.value.hint
    bundle = exporter.read(path, epsilon={"bn_1": 0.5, "bn_2": 0.25})
    assert [(found.path, found.epsilon, found.assumed) for found in bundle] == [("bn_1", 0.5, ("epsilon", "axis")),
                                                                                ("bn_2", 0.25, ("epsilon", "axis"))]
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    bundle = exporter.read(path, architecture=tmp_path / "model.json")
    assert [(found.path, found.epsilon, found.assumed) for found in bundle] == [("bn_1", 0.002, ()), ("bn_2", 0.01, ())]


@pytest.mark.parametrize(("model", "what"), [
    (sequential(layer("Dense", "fc"), norm("bn_1"), layer("Dense", "out"), norm("other", scale=False)),
     "weights.h5: other: the architecture model.json does not match: the config has this layer, but the file contains no weights for"),
    (sequential(norm("bn_1"), norm("bn_2", scale=False)),
     "weights.h5: fc: the architecture model.json does not match: the file contains weights for this layer, but the config has no such"),
    (sequential(layer("Dense", "fc"), norm("bn_2", scale=False), norm("bn_1"), layer("Dense", "out")),
     "weights.h5: bn_1: the architecture model.json does not match: the order of layer_names differs from the config, or"),
    (sequential(layer("Dense", "fc"), norm("bn_1", scale=False), layer("Dense", "out"), norm("bn_2", scale=False)),
     "weights.h5: bn_1: the architecture model.json does not match: its config has scale=false, but the file contains a gamma"),
    (sequential(layer("Dense", "fc"), norm("bn_1"), layer("Dense", "out"), norm("bn_2", axis=[1, 2], scale=False)),
     "weights.h5: bn_2: the architecture model.json does not match: its parameters have shape [4], which does not match"),
])
def test_an_architecture_that_does_not_fit(tmp_path, model, what):
    path = write(tmp_path / "weights.h5", groups(), keras_version="2.4.0")
    (tmp_path / "model.json").write_text(json.dumps(model))
    with pytest.raises(ExporterError) as caught:
        exporter.read(path, architecture=tmp_path / "model.json")
    assert str(caught.value).startswith(what)


def test_an_architecture_beside_a_whole_model_is_not_used(tmp_path):
    path = write(tmp_path / "model.h5", groups(), MODEL)
    (tmp_path / "model.json").write_text(json.dumps(sequential(norm("other"))))
    bundle = exporter.read(path, architecture=tmp_path / "model.json")
    assert bundle.warnings == ("the file contains its own config; the one given with --architecture is not used",)
    with pytest.raises(exporter.errors.MissingFileError, match=r"nosuch\.json: no such file"):
        exporter.read(path, architecture=tmp_path / "nosuch.json")


def nested_weights(order):
    """The weights of a group: `order` lists "scope/role"."""
    values = {scope: parameters(3, seed) for seed, scope in enumerate(dict.fromkeys(item.rpartition("/")[0] for item in order))}
    split = [item.rpartition("/")[::2] for item in order]
    kernel = np.zeros((3, 3), np.float32)
    return [(f"{scope}/{role}:0", kernel if role == "kernel" else values[scope][role]) for scope, role in split], values


INNER = sequential(norm("a"), layer("Dense", "d"), sequential(norm("b", scale=False), name="deep"), name="inner")


@pytest.mark.parametrize("order", [
    ["a/gamma", "a/beta", "d/kernel", "b/beta", "a/moving_mean", "a/moving_variance", "b/moving_mean", "b/moving_variance"],
    ["d/kernel", "b/beta", "a/gamma", "a/beta", "a/moving_mean", "a/moving_variance", "b/moving_mean", "b/moving_variance"],  # a is frozen
    ["a/gamma", "a/beta", "d/kernel", "a/moving_mean", "a/moving_variance", "b/beta", "b/moving_mean", "b/moving_variance"],  # b is frozen
])
def test_a_nested_model_with_frozen_layers(tmp_path, order):
    weights, values = nested_weights(order)
    path = write(tmp_path / "m.h5", {"inner": weights}, sequential(INNER), keras_version="2.4.0")
    bundle = exporter.read(path)
    assert bundle.paths() == ["inner/a", "inner/deep/b"]
    assert same(bundle["inner/a"], values["a"])
    assert same(bundle["inner/deep/b"], values["b"], NO_GAMMA)


@pytest.mark.parametrize(("scopes", "refused"), [
    (("a", "b"), None), (("a_1", "b_1"), None), (("x", "y"), None), (("inner/a", "b"), None), (("b_1", "x"), None),
    (("b", "a"), "'b' are at the position of 'inner/a'"), (("b", "c"), "'b' are at the position of 'inner/a'"),
    (("a_1", "a"), "'a' are at the position of 'inner/b'"),
])
def test_names_and_order_have_to_agree(tmp_path, scopes, refused):
    """A scope is not its layer's name where TensorFlow made it unique or the layer was renamed; one that names another layer is refused."""
    order = [f"{scope}/{role}" for scope in scopes for role in ROLES]
    weights, values = nested_weights(order)
    path = write(tmp_path / "m.h5", {"inner": weights}, sequential(sequential(norm("a"), norm("b"), name="inner")))
    if refused is None:
        bundle = exporter.read(path)
        assert same(bundle["inner/a"], values[scopes[0]])
        assert same(bundle["inner/b"], values[scopes[1]])
    else:
        with pytest.raises(ExporterError, match=f"m.h5: inner: names and order disagree: the weights named {refused}"):
            exporter.read(path)


@pytest.mark.parametrize(("change", "what"), [
    (lambda root: root["b"].attrs.__setitem__("weight_names", [f"b/{role}:0".encode() for role in ROLES[:3]]),
     "b: it holds moving_variance:0, which weight_names does not list"),
    (lambda root: root["b"].attrs.__setitem__("weight_names", np.zeros(0, "S1")), "b: it holds b, which weight_names does not list"),
    (lambda root: root.attrs.__setitem__("layer_names", [b"a", b"a/b"]), "the group 'b' holds weights, and layer_names does not list it"),
], ids=["a parameter", "all parameters", "a layer"])
def test_weights_alone_that_are_there_and_not_listed(tmp_path, change, what):
    groups = {name: named(name, parameters(seed=seed)) for seed, name in enumerate(("a", "a/b", "b"))}
    path = write(tmp_path / "w.h5", groups)
    whole = write(tmp_path / "m.h5", groups, sequential())  # and a whole model that has lost its config
    with h5py.File(whole, "r+") as file:
        del file.attrs["model_config"]
    for each, base in ((path, "/"), (whole, "model_weights")):
        assert exporter.read(each, epsilon=1e-3).paths() == ["a", "a/b", "b"]
        with h5py.File(each, "r+") as file:
            change(file[base])
        with pytest.raises(FormatError) as refused:
            exporter.read(each, epsilon=1e-3)
        assert str(refused.value).endswith(what)


@pytest.mark.parametrize("name", ["notes", "top_level_model_weights", "optimizer_weights"])
def test_other_groups_beside_those_of_layers(tmp_path, name):
    path = write(tmp_path / "w.h5", {"a": named("a", parameters())})
    with h5py.File(path, "r+") as file:
        file.create_dataset("data", data=np.ones(3))
        if name == "notes":
            file.create_group(name).attrs["author"] = "somebody"
        else:
            file.create_group(name).attrs["weight_names"] = [b"m"]
    assert exporter.read(path, epsilon=1e-3).paths() == ["a"]


@pytest.mark.parametrize(("name", "value", "is_refused"), [
    ("keras_version", "2.3.1", True), ("keras_version", "2.2.5", False), ("keras_version", "1.0.5", True),
    ("keras_version", "2.2.4-tf", True), ("keras_version", "two", False), ("backend", "tensorflow", False), ("backend", "theano", True)])
def test_a_writer_that_is_said_twice(tmp_path, name, value, is_refused):
    path = write(tmp_path / "m.h5", {"a": named("a", parameters())}, sequential(norm("a")), keras_version="2.2.4", backend="tensorflow")
    with h5py.File(path, "r+") as file:
        file["model_weights"].attrs[name] = value
    if not is_refused:
        assert exporter.read(path).origin.keras_version == "2.2.4"
        return
    with pytest.raises(FormatError, match=f"m.h5: its {name} is '.*', and in the group of its weights {value!r}"):
        exporter.read(path)


@pytest.mark.parametrize("of_keras_1", [False, True])
def test_groups_that_were_exchanged(tmp_path, of_keras_1):
    """Of layers that were renamed the weights keep the old names; those of two that have each other's may also have been exchanged."""
    words = {"separator": "_", "names": ("gamma", "beta", "running_mean", "running_std")} if of_keras_1 else {}
    config = sequential(*(norm(name) for name in ("a", "b", "c")))
    version = {"keras_version": "1.2.2" if of_keras_1 else "2.2.4", "backend": "tensorflow"}

    def made(*scopes):
        groups = {name: named(scope, parameters(seed=seed), **words) for seed, (name, scope) in enumerate(zip("abc", scopes, strict=True))}
        return write(tmp_path / "m.h5", groups, config, **version)

    assert exporter.read(made("old_a", "a", "b")).paths() == ["a", "b", "c"]
    for scopes, first, where, there in (("bac", "a", "b", "a"), ("bca", "a", "b", "c")):
        with pytest.raises(FormatError) as refused:
            exporter.read(made(*scopes))
        assert str(refused.value) == (f"m.h5: {first}: the weights in this group have the names of {where!r}, and the group of "
                                      f"that layer contains the weights of {there!r}")
        assert "given each other's names after they were built, load the model in Keras and save it again; else" in refused.value.hint


@pytest.mark.parametrize(("model", "scopes", "paths"), [
    (layer("TimeDistributed", "td", layer=norm("bn")), ["td"], ["td/bn"]),
    (layer("TimeDistributed", "td", layer=norm("bn")), ["td/bn"], ["td/bn"]),
    (layer("TimeDistributed", "td", layer=layer("TimeDistributed", "in", layer=norm("bn"))), ["td"], ["td/in/bn"]),
    (layer("Bidirectional", "td", layer=layer("RNN", "rnn", cell=layer("own>C", "c", n=norm("n")))),
     ["td/forward_rnn/c", "td/backward_rnn/c"], ["td/forward_rnn/c/n", "td/backward_rnn/c/n"]),
    (layer("RNN", "td", cell=layer("StackedRNNCells", "s", cells=[layer("own>C", f"c{i}", n=norm("n")) for i in (0, 1)])),
     ["td/s/c0", "td/s/c1"], ["td/s/c0/n", "td/s/c1/n"]),
    (layer("own>Block", "td", x=norm("p"), y=norm("q")), ["td/q", "td/p"], ["td/p", "td/q"]),
])
def test_wrappers_and_cells(tmp_path, model, scopes, paths):
    weights, values = nested_weights([f"{scope}/{role}" for scope in scopes for role in ROLES])
    bundle = exporter.read(write(tmp_path / "m.h5", {"td": weights}, sequential(model)))
    assert bundle.paths() == paths
    by_name = {"td/p": "td/p", "td/q": "td/q"}
    for path, scope in zip(paths, scopes):
        assert same(bundle[path], values[by_name.get(path, scope)])


def test_user_classes_whose_config_says_nothing(tmp_path):
    """Batch norms between the known ones are found by their weights; they have no epsilon."""
    weights, values = nested_weights([f"{scope}/{role}" for scope in ("a", "mine/n1", "mine/n2", "b") for role in ROLES])
    inner = sequential(norm("a"), layer("own>Block", "mine", units=3), norm("b"), name="inner")
    path = write(tmp_path / "m.h5", {"inner": weights}, sequential(inner), keras_version="2.9.0")
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(path)
    assert [path for path, _ in caught.value.layers] == ["inner/mine/n1", "inner/mine/n2"]
    bundle = exporter.read(path, epsilon=0.125)
    assert [(found.path, found.epsilon) for found in bundle] == [("inner/a", 0.01), ("inner/mine/n1", 0.125), ("inner/mine/n2", 0.125),
                                                                 ("inner/b", 0.01)]
    assert same(bundle["inner/b"], values["b"])
    skipped = exporter.read(path, skip_unresolved=True)
    assert skipped.paths() == ["inner/a", "inner/b"]


def test_a_users_model_describes_the_layers_that_its_config_names_once(tmp_path):
    tree = layer("own>Net", "net", a=norm("bn", epsilon=0.5), b=norm("twin"), c=norm("twin"))
    held = {name: named(name, parameters(seed=seed)) for seed, name in enumerate(("twin", "bn", "other"))}
    bundle = exporter.read(write(tmp_path / "m.h5", held, tree), epsilon=0.25)
    assert {each.path: each.epsilon for each in bundle} == {"twin": 0.25, "bn": 0.5, "other": 0.25}
    assert same(bundle["bn"], parameters(seed=1))


def test_a_group_without_weights_needs_no_config(tmp_path):
    path = write(tmp_path / "m.h5", {"bn": named("bn", FIRST), "metrics": []}, sequential(norm("bn")))
    assert exporter.read(path).paths() == ["bn"]


@pytest.mark.parametrize(("order", "built"), [(["b"], "b"), (["a", "c"], "ac"), (["b_1", "c"], "bc"), (["x"], None), (["c", "a"], None)])
def test_a_layer_of_a_nested_model_that_was_never_built(tmp_path, order, built):
    """The others have their weights, if their names say which they are."""
    weights, values = nested_weights([f"{scope}/{role}" for scope in order for role in ROLES])
    epsilons = {"a": 0.1, "b": 0.2, "c": 0.3}
    inner = sequential(*(norm(name, epsilon=epsilon) for name, epsilon in epsilons.items()), name="inner")
    path = write(tmp_path / "m.h5", {"inner": weights}, sequential(inner))
    if built is None:
        with pytest.raises(FormatError, match=f"its weights do not match the config: {len(order)} and 3 batch norms with different names"):
            exporter.read(path)
        return
    bundle = exporter.read(path, skip_unresolved=True)
    assert [(each.path, each.epsilon) for each in bundle] == [(f"inner/{name}", epsilons[name]) for name in built]
    assert all(same(layer, values[scope]) for layer, scope in zip(bundle, order, strict=True))
    assert [(path, "never built" in reason) for path, reason in bundle.skipped] == [
        (f"inner/{name}", True) for name in epsilons if name not in built]


def test_user_classes_that_leave_more_than_one_reading(tmp_path):
    weights, _ = nested_weights([f"{scope}/{role}" for scope in ("bn", "bn_1") for role in ROLES])
    inner = sequential(norm("bn"), layer("own>Block", "mine"), name="inner")
    with pytest.raises(ExporterError, match="its weights match the config in more than one way"):
        exporter.read(write(tmp_path / "m.h5", {"inner": weights}, sequential(inner)))
    weights, _ = nested_weights([f"mine/{scope}/{role}" for scope in ("p", "p_1") for role in ROLES])
    block = layer("own>Block", "mine", x=norm("p"), y=norm("p"))
    with pytest.raises(ExporterError, match=r"which weights belong to 'mine/p' is ambiguous: its class is a custom one, and "):
        exporter.read(write(tmp_path / "n.h5", {"mine": weights}, sequential(block)))


def test_layers_that_were_never_built(tmp_path):
    path = write(tmp_path / "m.h5", {"bn_1": named("bn_1", FIRST), "bn_2": []}, sequential(norm("bn_1"), norm("bn_2")))
    with pytest.raises(UnresolvedError, match="the file contains no parameters of it: it was never built"):
        exporter.read(path)
    assert exporter.read(path, skip_unresolved=True).paths() == ["bn_1"]


def test_custom_classes_imposters_and_decoys(tmp_path):
    model = sequential(norm("ghost", class_name="acme>GhostNorm", gain=2), layer("fake>BatchNormalization", "fake", units=3),
                       layer("LayerNormalization", "ln"), norm("v1", class_name="BatchNormalizationV1"),
                       norm("sync", class_name="SyncBatchNormalization"), layer("Dense", "beta_bn", units=3))
    held = {"ghost": named("ghost", FIRST), "fake": named("fake", FIRST, ("gamma", "beta")), "ln": named("ln", FIRST, ("gamma", "beta")),
            "v1": named("v1", SECOND), "sync": named("sync", parameters(5)),
            "beta_bn": [("beta_bn/kernel:0", np.zeros((3, 3), np.float32))]}
    path = write(tmp_path / "m.h5", held, model, keras_version="2.4.0")
    with h5py.File(path, "a") as file:
        for role in ROLES:
            file.create_dataset(f"optimizer_weights/training/Adam/v1/{role}/m:0", data=FIRST[role])
        file.create_group("model_weights/top_level_model_weights").attrs["weight_names"] = []
    bundle = exporter.read(path)
    assert [(found.path, found.class_name) for found in bundle] == [("ghost", "acme>GhostNorm"), ("v1", "BatchNormalizationV1"),
                                                                    ("sync", "SyncBatchNormalization")]
    assert same(bundle["v1"], SECOND)


@pytest.mark.parametrize("version", ["2.0.2-tf", "2.0.6-tf"])
def test_beta_before_gamma(tmp_path, version):
    """tf.contrib.keras of TensorFlow 1.2 and 1.3."""
    held = {"bn_1": named("bn_1", FIRST, ("beta", "gamma", *ROLES[2:])), "bn_2": named("bn_2", SECOND, NO_GAMMA)}
    bundle = exporter.read(write(tmp_path / "m.h5", held, keras_version=version, backend="tensorflow"), epsilon=0.1)
    assert same(bundle["bn_1"], FIRST)
    assert same(bundle["bn_2"], SECOND, NO_GAMMA)
    for other in ("2.0.6", "2.0.8-tf"):
        with pytest.raises(ExporterError, match="bn_1: names and positions of its weights disagree"):
            exporter.read(write(tmp_path / "n.h5", held, keras_version=other, backend="tensorflow"), epsilon=0.1)


def test_renorm_and_other_weights(tmp_path):
    more = [(f"bn/{name}:0", np.zeros(3, np.float32)) for name in ("moving_stddev", "renorm_mean", "renorm_stddev")]
    held = {"bn": named("bn", FIRST) + more}
    assert not exporter.read(write(tmp_path / "m.h5", held, sequential(norm("bn", renorm=True)))).warnings
    held["bn"].append(("bn/gain:0", np.ones(3, np.float32)))
    with pytest.raises(UnresolvedError, match=r"bn: it has weights that a batch norm does not have.*: bn/gain:0; its class is BatchNorm"):
        exporter.read(write(tmp_path / "n.h5", held, sequential(norm("bn", renorm=True))))


@pytest.mark.parametrize(("shape", "config", "axis", "kept"), [
    ((1, 3, 1, 2), {"axis": [1, 3]}, (1, 3), (3, 2)), ((1, 3, 1, 2), {"axis": [3, 1]}, (1, 3), (3, 2)),
    ((1, 1, 1, 1, 3), {"axis": [4], "virtual_batch_size": 2}, (3,), (3,)), ((3,), {"axis": [3]}, (3,), (3,)),
])
def test_axes(tmp_path, shape, config, axis, kept):
    values = parameters(shape=shape)
    bundle = exporter.read(write(tmp_path / "m.h5", {"bn": named("bn", values)}, sequential(norm("bn", **config))))
    assert (bundle["bn"].axis, bundle["bn"].shape) == (axis, kept)
    assert same(bundle["bn"], {role: array.reshape(kept) for role, array in values.items()})
    alone = exporter.read(write(tmp_path / "w.h5", {"bn": named("bn", values)}), epsilon=0.1)
    assert alone["bn"].shape == kept
    assert alone["bn"].axis == tuple(number - len(shape) for number, size in enumerate(shape) if size != 1), "the shape tells"
    assert ("axis" in alone["bn"].assumed) == (len(shape) == 1)


@pytest.mark.parametrize("has_config", [True, False])
def test_parameters_of_several_axes_that_nothing_names(tmp_path, has_config):
    """The first axis of an input is the batch: two sizes that are not 1 may lie along any two of the others."""
    wide = norm("wide")
    del wide["config"]["axis"]
    held = {"wide": named("wide", parameters(shape=(2, 3))), "bn": named("bn", FIRST)}
    path = write(tmp_path / "m.h5", held, sequential(wide, norm("bn")) if has_config else None)
    given = {} if has_config else {"epsilon": 0.1}
    with pytest.raises(UnresolvedError, match=r"wide: its parameters have shape \[2, 3\], and the file does not specify along which axes"):
        exporter.read(path, **given)
    assert exporter.read(path, **given, skip_unresolved=True).paths() == ["bn"]


def test_the_fused_kernel_of_the_era(tmp_path):
    model = sequential(layer("InputLayer", "x", batch_input_shape=[None, 4, 4, 3]), norm("bn", axis=[3], epsilon=1e-7))
    path = write(tmp_path / "m.h5", {"bn": named("bn", FIRST)}, model, keras_version="2.4.0", backend="tensorflow")
    assert (exporter.read(path)["bn"].epsilon, exporter.read(path)["bn"].effective_epsilon) == (1e-7, 1.001e-5)
    assert exporter.read(path, effective_epsilon=True)["bn"].epsilon == 1.001e-5
    later = write(tmp_path / "n.h5", {"bn": named("bn", FIRST)}, model, keras_version="2.12.0", backend="tensorflow")
    assert exporter.read(later)["bn"].effective_epsilon is None


def old(scope, values, ending=""):
    return named(scope, values, separator="_", ending=ending, names=RUNNING)


OLD = {"class_name": "Sequential", "config": [layer("BatchNormalization", "bn", epsilon=0.01, mode=0, axis=-1, momentum=0.9)]}


@pytest.mark.parametrize(("version", "ending", "divisor"), [
    ("1.0.7", "", lambda s: np.sqrt(s) + 0.01), ("1.0.7", ":0", lambda s: np.sqrt(s + 0.01)), ("1.0.8", "", lambda s: np.sqrt(s + 0.01)),
    ("1.2.2", ":0", lambda s: np.sqrt(s + 0.01)),
])
def test_running_std_of_whole_models(tmp_path, version, ending, divisor):
    bundle = exporter.read(write(tmp_path / "m.h5", {"bn": old("bn", FIRST, ending)}, OLD, keras_version=version))
    check_divisor(bundle, divisor)


def check_divisor(bundle, divisor):
    found = bundle["bn"]
    stored = FIRST["moving_variance"].astype(np.float64)
    assert found.gamma.tobytes() == FIRST["gamma"].tobytes()
    assert found.moving_mean.tobytes() == FIRST["moving_mean"].tobytes()
    np.testing.assert_allclose(np.sqrt(found.moving_variance.astype(np.float64) + found.epsilon), divisor(stored), rtol=2.0**-23)
    assert bool(found.converted) == (found.moving_variance.tobytes() != FIRST["moving_variance"].tobytes())


@pytest.mark.parametrize(("options", "text", "divisor"), [
    ({"keras_version": "1.0.5"}, {}, lambda s: s + 0.01), ({}, {"keras_version": "1.0.5"}, lambda s: s + 0.01),
    ({}, {"keras_version": "1.1.0"}, lambda s: np.sqrt(s + 0.01)), ({}, {}, lambda s: s + 0.01),
    ({"keras_version": "1.0.7", "backend": "theano"}, {}, lambda s: np.sqrt(s) + 0.01),
])
def test_running_std_of_weights_alone(tmp_path, options, text, divisor):
    path = write(tmp_path / "w.h5", {"bn": old("bn", FIRST)})
    (tmp_path / "model.json").write_text(json.dumps({**OLD, **text}))
    bundle = exporter.read(path, architecture=tmp_path / "model.json", **options)
    check_divisor(bundle, divisor)
    assert bool(bundle.warnings) == (not options and not text)


def test_running_std_of_a_later_keras_than_its_architecture_says(tmp_path):
    """gamma_regularizer is a key since 1.1.0: a config that has it is of no older Keras, whatever else it does not say."""
    path = write(tmp_path / "w.h5", {"bn": old("bn", FIRST)})
    later = {"class_name": "Sequential", "config": [layer("BatchNormalization", "bn", epsilon=0.01, axis=-1, gamma_regularizer=None)]}
    (tmp_path / "model.json").write_text(json.dumps(later))
    check_divisor(exporter.read(path, architecture=tmp_path / "model.json"), lambda s: np.sqrt(s + 0.01))


def test_running_std_of_an_unknown_keras(tmp_path):
    path = write(tmp_path / "w.h5", {"bn": old("bn", FIRST)})
    for options in ({}, {"epsilon": 0.001}):
        with pytest.raises(UnresolvedError, match="bn: the file contains neither its epsilon nor the version of Keras"):
            exporter.read(path, **options)
    never_updated = {**FIRST, "moving_mean": np.zeros(3, np.float32), "moving_variance": np.ones(3, np.float32)}
    bundle = exporter.read(write(tmp_path / "n.h5", {"bn": old("bn", never_updated)}), epsilon=0.001)
    assert bundle["bn"].assumed == ("moving_variance", "epsilon", "axis")
    assert "its statistics were never updated" in bundle.warnings[0]


def test_a_version_that_contradicts_the_file(tmp_path):
    path = write(tmp_path / "m.h5", {"bn": old("bn", FIRST)}, OLD, keras_version="1.2.2")
    with pytest.raises(UsageError, match=r"contradicts the file, which specifies "):
        exporter.read(path, keras_version="1.0.5")
    assert exporter.read(path, keras_version="1.2.2").paths() == ["bn"]


@pytest.mark.parametrize("mode", [1, 2])
def test_modes_of_keras_1(tmp_path, mode):
    model = {"class_name": "Sequential", "config": [layer("BatchNormalization", "bn", epsilon=0.01, mode=mode, axis=-1)]}
    with pytest.raises(UnresolvedError, match=f"bn: its mode {mode} normalizes"):
        exporter.read(write(tmp_path / "m.h5", {"bn": old("bn", FIRST)}, model, keras_version="1.2.2"))


def test_defaults_of_an_old_config(tmp_path):
    model = {"class_name": "Sequential", "config": [layer("BatchNormalization", "bn", mode=0)]}
    bundle = exporter.read(write(tmp_path / "m.h5", {"bn": old("bn", FIRST)}, model, keras_version="1.0.8"))
    assert (bundle["bn"].epsilon, bundle["bn"].axis, bundle["bn"].assumed) == (1e-5, (-1,), ("axis", "epsilon"))
    assert bundle.warnings == ("bn: its config has no epsilon; 1e-05, the default of that version, is used",)


def test_merge_and_nameless_sequentials_of_keras_1(tmp_path):
    nameless = [{"class_name": "Sequential", "config": inside} for inside in ([norm("left")], [layer("Dense", "d"), norm("deep")])]
    merge = layer("Merge", "merge_1", layers=[nameless[0], sequential(norm("right"), name="branch"), norm("alone")])
    model = {"class_name": "Sequential", "config": [merge, nameless[1], norm("top")]}
    held = {name: old(name, parameters(3, seed)) for seed, name in enumerate(("left", "right", "alone"))}
    held["sequential_7"] = [("d_W", np.zeros((3, 3), np.float32)), *old("deep", FIRST)]
    held["top"] = old("top", SECOND)
    bundle = exporter.read(write(tmp_path / "m.h5", held, model, keras_version="1.2.2"))
    assert bundle.paths() == ["merge_1/left", "merge_1/branch/right", "merge_1/alone", "sequential_7/deep", "top"]
    assert same(bundle["sequential_7/deep"], FIRST)


def nested_in_keras_1(ordered_values):
    """A nested Sequential d, a, e, b: names with all trainable weights first, values by layer or as named."""
    a, b = parameters(3, 1), parameters(3, 2)
    kernels = {"d_W": np.full((3, 3), 7, np.float32), "d_b": np.zeros(3, np.float32), "e_W": np.full((3, 3), 8, np.float32),
               "e_b": np.zeros(3, np.float32)}
    values = {**kernels, **dict(old("a", a)), **dict(old("b", b))}
    names = ["d_W", "d_b", "a_gamma", "a_beta", "e_W", "e_b", "b_gamma", "b_beta",
             "a_running_mean", "a_running_std", "b_running_mean", "b_running_std"]
    by_layer = sorted(names, key=lambda name: "daeb".index(name[0]))
    return [(name, values[source]) for name, source in zip(names, by_layer if ordered_values else names)], a, b


@pytest.mark.parametrize("ordered_values", [True, False])
@pytest.mark.parametrize("kind", [layer("Sequential", "inner", layers=[]), layer("TimeDistributed", "inner")])
def test_what_keras_1_0_saved_under_each_others_names(tmp_path, ordered_values, kind):
    weights, a, b = nested_in_keras_1(ordered_values)
    inner = [layer("Dense", "d"), *(layer("BatchNormalization", name, epsilon=0.01, axis=-1) for name in "a"), layer("Dense", "e"),
             layer("BatchNormalization", "b", epsilon=0.01, axis=-1)]
    entry = sequential(*inner, name="inner")
    if kind["class_name"] == "TimeDistributed":
        entry = layer("TimeDistributed", "inner", layer={"class_name": "Sequential", "config": inner})
    path = write(tmp_path / "w.h5", {"inner": weights})
    (tmp_path / "model.json").write_text(json.dumps({"class_name": "Sequential", "config": [entry]}))
    found = list(exporter.read(path, architecture=tmp_path / "model.json"))
    for layer_found, values in zip(found, (a, b)):
        assert layer_found.gamma.tobytes() == values["gamma"].tobytes()
        assert layer_found.moving_mean.tobytes() == values["moving_mean"].tobytes()
    if ordered_values:
        with pytest.raises(UnresolvedError, match="saved the weights of a nested Sequential under swapped names, and it cannot be"):
            exporter.read(path, epsilon=0.1)


@pytest.mark.parametrize(("version", "is_mixed"), [("1.0.2", True), ("1.0.3", False), ("1.2.2", False)])
def test_the_version_says_whether_the_names_of_a_nested_sequential_are_mixed(tmp_path, version, is_mixed):
    """Its batch norms alone: their shapes do not."""
    a, b = parameters(3, 1), parameters(3, 2)
    stored = {**dict(old("a", a)), **dict(old("b", b))}
    names = [*(f"{name}_{role}" for name in "ab" for role in RUNNING[:2]), *(f"{name}_{role}" for name in "ab" for role in RUNNING[2:])]
    weights = [(name, stored[source]) for name, source in zip(names, sorted(names, key=lambda name: name[0]) if is_mixed else names)]
    inner = sequential(*(layer("BatchNormalization", name, epsilon=0.01, axis=-1, mode=0) for name in "ab"), name="inner")
    path = write(tmp_path / "m.h5", {"inner": weights}, {"class_name": "Sequential", "config": [inner]}, keras_version=version)
    bundle = exporter.read(path)
    assert [(each.path, each.gamma.tobytes(), each.moving_mean.tobytes()) for each in bundle] == [
        (f"inner/{name}", values["gamma"].tobytes(), values["moving_mean"].tobytes()) for name, values in (("a", a), ("b", b))]


@pytest.mark.parametrize("is_mixed", [True, False])
def test_the_lengths_of_batch_norms_say_whether_the_names_of_a_nested_sequential_are_mixed(tmp_path, is_mixed):
    """Of an unknown version. Each batch norm has one length."""
    a, b = parameters(3, 1), parameters(4, 2)
    stored = {**dict(old("a", a)), **dict(old("b", b))}
    names = [*(f"{name}_{role}" for name in "ab" for role in RUNNING[:2]), *(f"{name}_{role}" for name in "ab" for role in RUNNING[2:])]
    weights = [(name, stored[source]) for name, source in zip(names, sorted(names, key=lambda name: name[0]) if is_mixed else names)]
    inner = sequential(*(layer("BatchNormalization", name, epsilon=0.01, axis=-1, mode=0) for name in "ab"), name="inner")
    (tmp_path / "model.json").write_text(json.dumps({"class_name": "Sequential", "config": [inner]}))
    found = exporter.read(write(tmp_path / "w.h5", {"inner": weights}), architecture=tmp_path / "model.json")
    assert [(each.path, each.gamma.tobytes(), each.moving_mean.tobytes()) for each in found] == [
        (f"inner/{name}", values["gamma"].tobytes(), values["moving_mean"].tobytes()) for name, values in (("a", a), ("b", b))]


@pytest.mark.parametrize(("kernel_after", "is_ambiguous"), [(False, True), (True, False)])
def test_only_a_kernel_behind_a_batch_norm_shows_that_names_are_right(tmp_path, kernel_after, is_ambiguous):
    """Vectors of one length fit any order; under wrong names a kernel would have the shape of a mean."""
    weights, *_ = nested_in_keras_1(False)
    if not kernel_after:
        weights = [weight for weight in weights if not weight[0].startswith("e_")]
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(write(tmp_path / "w.h5", {"inner": weights}), epsilon=0.1)
    assert ("under swapped names" in str(caught.value)) is is_ambiguous


def write_unnamed(path, layers, *, graph=False):
    with h5py.File(path, "w") as file:
        if graph:
            flat = [values for weights in layers for values in weights]
            group = file.create_group("graph")
            group.attrs["nb_params"] = len(flat)
            for number, values in enumerate(flat):
                group[f"param_{number}"] = values
            return path
        file.attrs["nb_layers"] = len(layers)
        for number, weights in enumerate(layers):
            group = file.create_group(f"layer_{number}")
            group.attrs["nb_params"] = len(weights)
            for place, values in enumerate(weights):
                group[f"param_{place}"] = values
    return path


def flat(values):
    return [values[role] for role in ROLES]


KERNEL = [np.zeros((2, 3), np.float32), np.zeros(3, np.float32)]


def norm_of_keras_0(**config):
    return {"name": "BatchNormalization", "epsilon": 0.01, "momentum": 0.9, "mode": 0, **config}


@pytest.mark.parametrize("graph", [False, True])
def test_keras_0_3(tmp_path, graph):
    entries = {"d": {"name": "Dense"}, "n": norm_of_keras_0(axis=-1), "r": {"name": "Activation"},
               "m": norm_of_keras_0(axis=-1, custom_name="n")}
    if graph:
        model = {"name": "Graph", "nodes": dict(reversed(entries.items())), "node_config": [{"name": name} for name in entries]}
        paths = ["n", "m"]
    else:
        model = {"name": "Sequential", "layers": list(entries.values())}
        paths = ["layer_1", "n"]
    path = write_unnamed(tmp_path / "w.h5", [KERNEL, flat(FIRST), [], flat(SECOND)], graph=graph)
    (tmp_path / "model.json").write_text(json.dumps(model))
    with pytest.raises(UnsupportedError, match=r"weights of Keras 0.3 have no names"):
        exporter.read(path, epsilon=0.1)
    bundle = exporter.read(path, architecture=tmp_path / "model.json")
    assert bundle.paths() == paths
    for found, values in zip(bundle, (FIRST, SECOND)):
        assert found.converted[0] == "moving_variance"
        assert found.gamma.tobytes() == values["gamma"].tobytes()
        root = np.sqrt(found.moving_variance.astype(np.float64) + found.epsilon)
        np.testing.assert_allclose(root, values["moving_variance"].astype(np.float64) + 0.01, rtol=2.0**-23)


@pytest.mark.parametrize(("count", "names"), [
    (0, "LeakyReLU ELU ThresholdedLinear ThresholdedReLU Masking TimeDistributedMerge Dropout Activation Reshape Permute Flatten "
        "RepeatVector ActivityRegularization Lambda MaskedLambda GaussianNoise GaussianDropout MaxPooling1D MaxPooling2D MaxPooling3D "
        "AveragePooling1D AveragePooling2D AveragePooling3D UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D "
        "ZeroPadding3D"),
    (1, "Embedding PReLU"), (3, "SimpleRNN"), (4, "Highway SReLU"), (9, "GRU"), (12, "LSTM"),
    (2, "Dense TimeDistributedDense MaxoutDense Convolution1D Convolution2D Convolution3D ParametricSoftplus")])
def test_the_weights_of_each_class_of_keras_0_3(tmp_path, count, names):
    """A file of that time holds those of a model in a model in one row, without names: those before a batch norm have to be counted."""
    named = names.split()
    path = write_unnamed(tmp_path / "w.h5", [[*[np.zeros(3, np.float32)] * count * len(named), *flat(FIRST)]])
    inner = {"name": "Sequential", "layers": [*({"name": name} for name in named), norm_of_keras_0(axis=-1)]}
    (tmp_path / "model.json").write_text(json.dumps({"name": "Sequential", "layers": [inner]}))
    (layer,) = exporter.read(path, architecture=tmp_path / "model.json")
    assert layer.gamma.tobytes() == FIRST["gamma"].tobytes()


def test_models_in_a_model_of_keras_0_3(tmp_path):
    """Their weights are numbered on through them."""
    path = write_unnamed(tmp_path / "w.h5", [[*KERNEL, *flat(FIRST), *flat(SECOND)], flat(FIRST)])
    inner = {"name": "Sequential", "layers": [{"name": "Dense"}, norm_of_keras_0(axis=-1), {
        "name": "Sequential", "layers": [{"name": "Activation"}, norm_of_keras_0(axis=-1)]}]}
    (tmp_path / "model.json").write_text(json.dumps({"name": "Sequential", "layers": [inner, norm_of_keras_0(axis=-1)]}))
    bundle = exporter.read(path, architecture=tmp_path / "model.json")
    assert [layer.gamma.tobytes() for layer in bundle] == [values["gamma"].tobytes() for values in (FIRST, SECOND, FIRST)]


def test_a_users_batch_norm_of_keras_0_3_is_reported(tmp_path):
    """It was left out in silence."""
    path = write_unnamed(tmp_path / "w.h5", [flat(FIRST), flat(SECOND), []])
    own = {**norm_of_keras_0(axis=-1, custom_name="lab"), "name": "LabBatchNormalization"}
    layers = [norm_of_keras_0(axis=-1), own, {"name": "Dropout"}]
    (tmp_path / "model.json").write_text(json.dumps({"name": "Sequential", "layers": layers}))
    bundle = exporter.read(path, architecture=tmp_path / "model.json")
    assert (bundle.paths(), [warning.partition(":")[0] for warning in bundle.warnings]) == (["layer_0"], ["lab"])
    assert "its class LabBatchNormalization is not Keras's own" in bundle.warnings[0]


def test_keras_0_3_0_has_a_parameter_for_each_element(tmp_path):
    values = parameters(shape=(2, 3))
    path = write_unnamed(tmp_path / "w.h5", [flat(values)])
    (tmp_path / "model.json").write_text(json.dumps({"name": "Sequential", "layers": [norm_of_keras_0(input_shape=[2, 3])]}))
    found = exporter.read(path, architecture=tmp_path / "model.json")["layer_0"]
    assert (found.axis, found.shape, found.ndim) == ((1, 2), (2, 3), 3)


@pytest.mark.parametrize(("model", "what"), [
    ([norm_of_keras_0()], "the file contains 2 layers, the config 1"),
    ([norm_of_keras_0(), {"name": "Dense"}],
     "the file contains 2 parameters, the config 4"),
    ([{"name": "Dense"}, {"name": "Sequential", "layers": [{"name": "Mine", "custom_name": "m"}, norm_of_keras_0()]}],
     "the number of parameters of a layer of class Mine is unknown, so those after it "),
])
def test_an_architecture_that_does_not_fit_keras_0_3(tmp_path, model, what):
    path = write_unnamed(tmp_path / "w.h5", [KERNEL, flat(FIRST)])
    (tmp_path / "model.json").write_text(json.dumps({"name": "Sequential", "layers": model}))
    with pytest.raises(ExporterError) as caught:
        exporter.read(path, architecture=tmp_path / "model.json")
    assert what in str(caught.value)


@pytest.mark.parametrize("mode", [1, 2])
def test_a_mode_of_keras_0_3_that_is_no_batch_norm_is_not_dropped_in_silence(tmp_path, mode):
    path = write_unnamed(tmp_path / "w.h5", [KERNEL, flat(FIRST), flat(SECOND)])
    model = {"name": "Sequential", "layers": [{"name": "Dense"}, norm_of_keras_0(mode=mode), norm_of_keras_0()]}
    (tmp_path / "model.json").write_text(json.dumps(model))
    with pytest.raises(UnresolvedError, match=f"layer_1: its mode {mode} normalizes"):
        exporter.read(path, architecture=tmp_path / "model.json")
    bundle = exporter.read(path, architecture=tmp_path / "model.json", skip_unresolved=True)
    assert (bundle.paths(), [skipped for skipped, _ in bundle.skipped]) == (["layer_2"], ["layer_1"])


def test_chunked_names_and_names_with_slashes_and_unicode(tmp_path):
    names = ["a", "a/bn", "a/bn/c", "norm ①", "beta", "model_weights", "layers"]
    values = {name: parameters(3, seed) for seed, name in enumerate(names)}
    held = {name: named(name, values[name]) for name in names}
    path = write(tmp_path / "m.h5", held, sequential(*map(norm, names)), as_bytes=False)
    with h5py.File(path, "a") as file:
        attributes = file["model_weights"].attrs
        del attributes["layer_names"]
        attributes["layer_names0"], attributes["layer_names1"] = names[:4], names[4:]
    bundle = exporter.read(path)
    assert bundle.paths() == names
    assert all(same(bundle[name], values[name]) and bundle[name].name == name for name in names)
    alone = exporter.read(write(tmp_path / "w.h5", held, as_bytes=False), epsilon=0.5)
    assert alone.paths() == names
    assert [found.name for found in alone] == names


def put(group, name, values):
    del group[name]
    group[name] = values


@pytest.mark.parametrize(("change", "what"), [
    (lambda root: root.attrs.__delitem__("layer_names"), "model_weights: the attribute layer_names is missing"),
    (lambda root: root["bn_1"].attrs.__delitem__("weight_names"), "bn_1: the attribute weight_names is missing"),
    (lambda root: root.attrs.__setitem__("layer_names", [b"fc", b"bn_1", b"bn_1", b"bn_2"]),
     "model_weights: layer_names lists 'bn_1' twice"),
    (lambda root: root.attrs.__setitem__("layer_names", [b"fc", b"bn_1"]),
     "bn_2: the config has this layer, but the file contains no weights for"),
    (lambda root: root.attrs.__setitem__("layer_names", [b"fc", b"bn_2", b"out", b"bn_1"]),
     "bn_2: the order of layer_names differs from the config"),
    (lambda root: root["bn_1"].attrs.__setitem__("weight_names", [f"bn_1/{role}:0".encode() for role in reversed(ROLES)]),
     "bn_1: names and positions of its weights disagree: bn_1/moving_variance:0, bn_1/moving_mean:0, bn_1/beta:0, bn_1/gamma:0"),
    (lambda root: root["bn_1"].attrs.__setitem__("weight_names", [b"bn_1/gamma:0", b"bn_1/gamma:0", b"bn_1/moving_mean:0"]),
     "bn_1: 'bn_1/gamma:0' occurs twice among its weights"),
    (lambda root: root["bn_1"].attrs.__setitem__("weight_names", [b"bn_1/gamma:0", b"bn_1/beta:0", b"bn_1/moving_mean:0"]),
     "bn_1: moving_mean and moving_variance are not among its weights: bn_1/gamma:0, bn_1/beta:0, bn_1/moving_mean:0"),
    (lambda root: root["bn_1"].attrs.__setitem__("weight_names", [f"bn_1/{role}:0".encode() for role in ROLES[1:]]),
     "bn_1: its config has scale=true, but the file contains no gamma"),
    (lambda root: root["bn_1"].__delitem__("bn_1/beta:0"), "bn_1: weight_names lists 'bn_1/beta:0', but the file contains no such weight"),
    (lambda root: put(root["bn_1"], "bn_1/beta:0", np.zeros(4, np.float32)), "bn_1: its parameters have different shapes: gamma [3]"),
    (lambda root: put(root["bn_1"], "bn_1/beta:0", np.zeros(3, np.float64)),
     "bn_1: its parameters have different types: gamma float32, beta float64"),
    (lambda root: put(root["bn_1"], "bn_1/beta:0", np.zeros(3, np.int32)), "model_weights/bn_1/bn_1/beta:0: expected a dataset of"),
    (lambda root: root.__delitem__("bn_1"), "model_weights/bn_1: the file contains no object of this name"),
])
def test_damaged_files(tmp_path, change, what):
    model = write(tmp_path / "model.h5", groups(), MODEL, keras_version="2.4.0")
    with h5py.File(model, "a") as file:
        change(file["model_weights"])
    with pytest.raises(ExporterError) as caught:
        exporter.read(model)
    assert str(caught.value).startswith(f"model.h5: {what}")


def test_more_numbers_than_any_model_has_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "m.h5", groups(), MODEL)
    monkeypatch.setattr("exporter.batchnorm.gate.MAX_NUMBERS", 24)
    assert len(exporter.read(path)) == 2
    monkeypatch.setattr("exporter.batchnorm.gate.MAX_NUMBERS", 23)
    with pytest.raises(FormatError, match="expected at most 23 numbers in all batch norms of a model, got more"):
        exporter.read(path)


def test_numbers_that_make_names_unique(tmp_path):
    """A scope that two batch norms share: the number at each name is that name's own, so all four have to have the same ones."""
    weights = [(f"cell/{role}{number}:0", FIRST[role]) for number in ("", "_1") for role in ROLES]
    bundle = exporter.read(write(tmp_path / "w.h5", {"rnn": weights}), epsilon=0.1)
    assert bundle.paths() == ["rnn/cell", "rnn/cell#2"]
    mixed = [pair for pair in weights if pair[0] != "cell/gamma_1:0"]
    with pytest.raises(ExporterError, match="several batch norms have the scope 'cell', and not all have the same parameters"):
        exporter.read(write(tmp_path / "x.h5", {"rnn": mixed}), epsilon=0.1)
    others = exporter.read(write(tmp_path / "x.h5", {"rnn": mixed, "bn": named("bn", FIRST)}), epsilon=0.1, skip_unresolved=True)
    assert (others.paths(), [path for path, _ in others.skipped]) == (["bn"], ["rnn/cell"] * 2)
    others = exporter.read(write(tmp_path / "x.h5", {"rnn": [*mixed[::-1], *named("own", FIRST)]}), epsilon=0.1, skip_unresolved=True)
    assert (others.paths(), [path for path, _ in others.skipped]) == (["rnn/own"], ["rnn/cell"] * 2)


def test_channels_that_the_config_contradicts(tmp_path):
    entry = {**norm("bn"), "build_config": {"input_shape": [None, 5]}}
    with pytest.raises(ExporterError, match=r"bn: it has 3 channels, but was built on an input of shape \[None, 5\]"):
        exporter.read(write(tmp_path / "m.h5", {"bn": named("bn", FIRST)}, sequential(entry)))


def test_an_hdf5_file_that_is_no_model(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(ExporterError, match=r"the attribute layer_names is missing: the HDF5 file was not written by Keras, or it is"):
        exporter.read(tmp_path / "data.h5")


def test_no_batch_norm(tmp_path):
    with pytest.raises(UnsupportedError, match="the model contains no BatchNormalization layer"):
        exporter.read(write(tmp_path / "m.h5", {"fc": [("fc/kernel:0", np.zeros((2, 2), np.float32))]}, sequential(layer("Dense", "fc"))))


def test_functional_models_are_read_in_their_own_order(tmp_path):
    model = functional((layer("InputLayer", "x", batch_input_shape=[None, 3]), []), (norm("late"), ["x"]), (norm("early"), ["late"]))
    held = {"x": [], "late": named("late", FIRST), "early": named("early", SECOND)}
    bundle = exporter.read(write(tmp_path / "m.h5", held, model))
    assert [(found.path, found.ndim) for found in bundle] == [("late", 2), ("early", 2)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_element_types(tmp_path, dtype):
    values = parameters(5, dtype=dtype)
    found = exporter.read(write(tmp_path / "m.h5", {"bn": named("bn", values)}, sequential(norm("bn"))))["bn"]
    assert found.dtype == np.dtype(dtype).name
    assert same(found, values)


def test_another_layer_of_its_name_in_another_model_of_the_group(tmp_path):
    """The weights of two models in a third lie in one group, and their layers may share a name."""
    values = parameters()
    other = [("bn/depthwise_kernel:0", np.zeros((2, 2, 3, 1), np.float32)), ("bn/bias:0", np.zeros(3, np.float32))]
    tree = sequential(sequential(sequential(norm("bn"), name="one"), sequential(layer("DepthwiseConv2D", "bn"), name="other"), name="net"))
    held = {"net": [*named("bn", values, ROLES[:2]), *other, *named("bn", values, ROLES[2:])]}
    bundle = exporter.read(write(tmp_path / "m.h5", held, tree, keras_version="2.9.0"))
    assert bundle.paths() == ["net/one/bn"]
    assert same(bundle["net/one/bn"], values)


@pytest.mark.parametrize("shared", [{"shared_object_id": 5}, {}])
def test_a_layer_that_two_models_of_a_group_hold_has_its_weights_there_once(tmp_path, shared):
    """The config says it by an id, or there are weights for one of two that do not differ."""
    values = parameters()
    one, other = (sequential({**norm("bn"), **shared}, layer("ReLU", "relu"), name=name) for name in ("one", "other"))
    path = write(tmp_path / "m.h5", {"net": named("bn", values)}, sequential(sequential(one, other, name="net")), keras_version="2.9.0")
    bundle = exporter.read(path)
    assert bundle.paths() == ["net/one/bn"]
    assert [([each.path for each in call.inputs], [each.path for each in call.outputs]) for call in bundle["net/one/bn"].calls] == [
        ([], ["net/one/relu"]), (["net/one/relu"], ["net/other/relu"])]


@pytest.mark.parametrize("scope", ["mine", "mine_1", "mine/n", "mine/bn", "net/mine/bn"])
@pytest.mark.parametrize("first", [True, False])
def test_a_layer_that_two_models_hold_beside_a_users_class(tmp_path, scope, first):
    """There are as many batch norms as in the config, and one of them is inside the class, which does not say what it contains."""
    values, hidden = parameters(), parameters(seed=1)
    one, other = (sequential(norm("bn"), layer("ReLU", "relu"), name=name) for name in ("one", "other"))
    mine = layer("own>Block", "mine")
    net = sequential(*([mine, one, other] if first else [one, mine, other]), name="net")
    shared, inside = named("bn", values), named(scope, hidden)
    path = write(tmp_path / "m.h5", {"net": [*inside, *shared] if first else [*shared, *inside]}, sequential(net), keras_version="2.9.0")
    bundle = exporter.read(path, skip_unresolved=True)
    assert bundle.paths() == ["net/one/bn"]
    assert same(bundle["net/one/bn"], values)
    assert ["mine" in each for each, _ in bundle.skipped] == [True]


@pytest.mark.parametrize("scope", ["mine/bn", "mine/bn_1"])
def test_a_layer_called_like_one_inside_a_users_class(tmp_path, scope):
    """TensorFlow makes its scope unique where the class has taken it; its path is the one of the config, as in a checkpoint."""
    values, hidden = parameters(), parameters(seed=1)
    net = sequential(layer("own>Block", "mine"), norm("mine/bn", epsilon=0.01), name="net")
    held = {"net": [*named("mine_1", hidden), *named(scope, values)]}
    bundle = exporter.read(write(tmp_path / "m.h5", held, sequential(net), keras_version="2.9.0"), skip_unresolved=True)
    assert bundle.paths() == ["net/mine/bn"]
    assert same(bundle["net/mine/bn"], values)
    assert bundle["net/mine/bn"].epsilon == 0.01
    assert [path for path, _ in bundle.skipped] == ["net/mine_1"]
    held["net"] = [*named("mine/bn", hidden), *named("mine/bn_1", values)]  # which of them is the layer's, nothing says
    with pytest.raises(FormatError, match="in more than one way"):
        exporter.read(write(tmp_path / "m.h5", held, sequential(net), keras_version="2.9.0"), skip_unresolved=True)


def test_a_renamed_layer_whose_old_name_another_layer_has(tmp_path):
    """That one is of a class of Keras's own that contains no batch norm."""
    net = sequential(norm("bn"), norm("new"), layer("GlobalAveragePooling1D", "old"), name="net")
    held = {"net": [*named("bn", parameters()), *named("old", parameters(seed=1))]}
    bundle = exporter.read(write(tmp_path / "m.h5", held, sequential(net), keras_version="2.9.0"))
    assert bundle.paths() == ["net/bn", "net/new"]
    assert same(bundle["net/new"], parameters(seed=1))


def test_a_layer_that_two_models_hold_beside_weights_whose_name_says_nothing(tmp_path):
    one, other = (sequential(norm("bn"), name=name) for name in ("one", "other"))
    net = sequential(one, other, layer("own>Block", "mine"), name="net")
    held = {"net": [*named("bn", parameters()), *named("inside", parameters(seed=1))]}
    with pytest.raises(FormatError, match=r"the weights named 'inside' are of a layer that it does not name: .* is ambiguous"):
        exporter.read(write(tmp_path / "m.h5", held, sequential(net), keras_version="2.9.0"))


def test_a_shared_layer_in_two_groups(tmp_path):
    """Each layer of the outermost model has its weights; an id in the config says that they are one layer's."""
    values = parameters()
    tree = sequential({**norm("bn"), "shared_object_id": 5}, sequential({**norm("bn"), "shared_object_id": 5}, name="net"))
    path = write(tmp_path / "m.h5", {"bn": named("bn", values), "net": named("bn", values)}, tree, keras_version="2.9.0")
    assert exporter.read(path).paths() == ["bn"]
    path = write(tmp_path / "m.h5", {"bn": named("bn", values), "net": named("bn", parameters(seed=1))}, tree, keras_version="2.9.0")
    with pytest.raises(FormatError, match="the config says that it is the layer bn again, but its weights differ"):
        exporter.read(path)


def test_the_group_of_a_layer_holds_those_of_layers_named_below_it():
    groups = [LayerGroup(name=name, path=name, weights=()) for name in ("a", "ab", "a/b", "a/b/c", "a/d/e", "lone/x", "ab/b")]
    assert names_below(groups) == {"a": {"b", "d"}, "a/b": {"c"}, "ab": {"b"}}


@pytest.mark.parametrize("inner", [
    [layer("Dense", "d"), sequential(norm("a"), name="deep"), norm("b")], [layer("Dense", "other"), norm("a"), norm("b")]],
    ids=["a model in it", "another name"])
def test_names_of_keras_1_0_that_belong_to_no_layer(tmp_path, inner):
    """Nothing says then in which order the layers have them."""
    weights, *_ = nested_in_keras_1(True)
    weights = [weight for weight in weights if not weight[0].startswith("e_")]
    path = write(tmp_path / "w.h5", {"inner": weights})
    (tmp_path / "model.json").write_text(json.dumps({"class_name": "Sequential", "config": [sequential(*inner, name="inner")]}))
    with pytest.raises(UnresolvedError, match="saved the weights of a nested Sequential under swapped names"):
        exporter.read(path, architecture=tmp_path / "model.json")


def test_batch_norms_of_two_sizes_show_that_names_of_keras_1_0_are_right(tmp_path):
    """Each has one shape, and the kernel between them two axes."""
    first, second = old("a", parameters(3, 1)), old("b", parameters(4, 2))
    between = [("e_W", np.zeros((3, 4), np.float32)), ("e_b", np.zeros(4, np.float32))]
    path = write(tmp_path / "w.h5", {"inner": [*first[:2], *between, *second[:2], *first[2:], *second[2:]]})
    with pytest.raises(UnresolvedError, match="inner/a, inner/b: the file contains neither its epsilon nor the version of Keras"):
        exporter.read(path, epsilon=0.1)


def test_which_hdf5_files_are_of_this_layout(tmp_path):
    """By the marks of it, or where those of the next are not there."""
    for attributes, groups, expected in (
            ("layer_names", "", True), ("layer_names0", "", True), ("model_config", "", True), ("nb_layers", "", True),
            ("", "model_weights", True),
            ("", "layers", False), ("", "_layer_checkpoint_dependencies", False), ("", "vars", False), ("", "", True),
            ("other", "data", True),
            ("layer_names", "layers", True), ("layer_names1", "layers", False)):
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file.attrs.update(dict.fromkeys(attributes.split(), 1))
            for name in groups.split():
                file.create_group(name)
        assert claims(Place(tmp_path / "f.h5")) is expected, (attributes, groups)
    (tmp_path / "f.h5").write_bytes((tmp_path / "f.h5").read_bytes()[:100])
    assert claims(Place(tmp_path / "f.h5")), "reading it says what is wrong with it"
    (tmp_path / "f.h5").write_bytes(b"no HDF5")
    assert not claims(Place(tmp_path / "f.h5"))

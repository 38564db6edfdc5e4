"""Weights without a config: .weights.h5 and shards, alone and with an architecture."""

from __future__ import annotations

import itertools
import json

import h5py
import numpy as np
import pytest

import exporter
from exporter.errors import ExporterError, FormatError, UnresolvedError, UnsupportedError
from exporter.files.place import Place
from exporter.sources import keras_archive, keras_weights
from exporter.sources.shared.options import ReadOptions
from tests.make.v3_files import entry, functional, given, norm, norm_arrays, sequential, shown, write_archive, write_weights

A, B, C, D = (norm_arrays(seed) for seed in range(4))


def read(path, architecture=None):
    assert keras_weights.claims(Place(path))
    return keras_weights.read(Place(path), ReadOptions(architecture=None if architecture is None else Place(architecture)))


@pytest.fixture
def weights(tmp_path):
    return lambda groups: write_weights(tmp_path / "m.weights.h5", groups)


@pytest.fixture
def architecture(tmp_path):
    def make(*layers):
        (tmp_path / "arch.json").write_text(json.dumps(functional("m", *layers)))
        return tmp_path / "arch.json"

    return make


def test_alone(weights):
    path = weights({"": ([], "m"), "layers/batch_normalization": (A, "stem"),
                    "layers/batch_normalization_1": (norm_arrays(1, scale=False), "b"),
                    "layers/sync_batch_normalization": (list(norm_arrays(2, scale=False, center=False).values()), "s"),
                    "layers/sequential": ([], "seq"), "layers/sequential/layers/batch_normalization": (D, "deep")})
    bundle = read(path)
    assert shown(bundle) == {"stem": (None, given(A)), "seq/deep": (None, given(D)),
                             "s": (None, given(norm_arrays(2, scale=False, center=False)))}
    assert {layer.path: layer.name for layer in bundle} == {"stem": "stem", "s": "s", "seq/deep": "deep"}
    assert bundle.skipped[0][0] == "b"
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(path)
    assert "--epsilon" in caught.value.hint
    assert "--architecture" in caught.value.hint
    assert exporter.read(path, epsilon=0.01, skip_unresolved=True)["seq/deep"].epsilon == 0.01


def test_alone_without_names(weights):
    inside = "_layer_checkpoint_dependencies"
    bundle = read(weights({f"{inside}/batch_normalization_2": A, f"{inside}/batch_normalization_10": B,
                           f"{inside}/sequential/{inside}/batch_normalization": C}))
    assert bundle.paths() == [f"{inside}/batch_normalization_2", f"{inside}/batch_normalization_10",
                              f"{inside}/sequential/{inside}/batch_normalization"]
    assert [layer.name for layer in bundle] == ["batch_normalization_2", "batch_normalization_10", "batch_normalization"]


@pytest.mark.parametrize(("container", "step"), [
    ("layers", 1), ("_layer_checkpoint_dependencies", 2), ("_layer_checkpoint_dependencies", 1)])
def test_with_an_architecture(weights, architecture, container, step):
    groups = {f"{container}/batch_normalization": A, f"{container}/batch_normalization_{step}": norm_arrays(1, scale=False),
              f"{container}/sequential/{container}/batch_normalization": C}
    beside = architecture(norm("x", epsilon=0.1), sequential("s", norm("y", epsilon=0.2)), norm("z", epsilon=0.3, scale=False))
    assert shown(read(weights(groups), beside)) == {
        "x": (0.1, given(A)), "s/y": (0.2, given(C)), "z": (0.3, given(norm_arrays(1, scale=False)))}


def test_architecture_from_another_model(tmp_path, weights):
    write_archive(tmp_path / "other.keras", functional("m", norm("x", epsilon=0.5)), {"layers/batch_normalization": B})
    bundle = exporter.read(weights({"layers/batch_normalization": A}), architecture=tmp_path / "other.keras")
    assert shown(bundle) == {"x": (0.5, given(A))}


def test_architecture_that_does_not_fit(weights, architecture):
    def said(groups, *layers):
        with pytest.raises(FormatError) as caught:
            read(weights(groups), architecture(*layers))
        return f"{caught.value} | {caught.value.hint}"

    one = {"layers/batch_normalization": A}
    assert "the config does not" in said({**one, "layers/batch_normalization_1": B}, norm("x"))
    assert "| the architecture is that of arch.json" in said({**one, "layers/batch_normalization_1": B}, norm("x"))
    assert "x: the file contains 4 variables for it, which does not match" in said(one, norm("x", scale=False))
    assert "the architecture calls this layer 'x', the weights 'y'" in said({"layers/batch_normalization": (A, "y")}, norm("x"))
    assert "built on an input" in said(one, norm("x", build=[None, 9]))
    assert "no group for this batch norm" in said(one, norm("x"), norm("more"))
    assert "no weights" in read(weights({"layers/batch_normalization": []}), architecture(norm("x"))).skipped[0][1]


def test_names_that_keras_made_up_may_differ(weights, architecture):
    path = weights({"layers/batch_normalization": (A, "batch_normalization_7")})
    bundle = read(path, architecture(norm("x")))
    assert shown(bundle) == {"x": (0.001, given(A))}
    assert any("x for batch_normalization_7" in warning for warning in bundle.warnings)
    path = weights({"layers/batch_normalization": (A, "x")})
    assert shown(read(path, architecture(norm("batch_normalization_3")))) == {"batch_normalization_3": (0.001, given(A))}


def test_equal_layers_may_be_one(weights, architecture):
    """to_json() does not mark shared layers. tf.keras leaves one that is saved already out of the count, Keras 3 counts it."""
    beside = architecture(norm("one"), functional("f", norm("one"), norm("two")), norm("three"))
    inside = "layers/functional/layers/batch_normalization"
    expected = {"one": (0.001, given(A)), "f/two": (0.001, given(B)), "three": (0.001, given(C))}
    shared = {"layers/batch_normalization": A, f"{inside}_1": B, "layers/batch_normalization_1": C}
    assert shown(read(weights(shared), beside)) == expected
    shared = {"layers/batch_normalization": A, inside: B, "layers/batch_normalization_1": C, "layers/functional": []}
    assert shown(read(weights(shared), beside)) == expected
    twins = {"layers/batch_normalization": A, inside: D, f"{inside}_1": B, "layers/batch_normalization_1": C, "layers/functional": []}
    assert shown(read(weights(twins), beside)) == {**expected, "f/one": (0.001, given(D))}


def test_groups_that_do_not_come_out_even(weights, architecture, tmp_path):
    """A layer kept as an attribute is saved there and not counted: which of the others is which cannot be known."""
    groups = {"norm": A, "layers/batch_normalization": B, "layers/batch_normalization_1": C}
    layers = [norm("a"), norm("b"), norm("c")]
    with pytest.raises(FormatError, match="the architecture does not match: the weights have no group for this batch norm"):
        read(weights(groups), architecture(*layers))
    write_archive(tmp_path / "m.keras", functional("m", *layers), groups, version="2.15.0")
    bundle = keras_archive.read(Place(tmp_path / "m.keras"), ReadOptions())
    assert [path for path, reason in bundle.skipped if "is ambiguous" in reason] == ["a", "b", "c"]
    assert shown(bundle) == {"norm": (None, given(A))}


def test_more_groups_than_layers(weights, architecture):
    """Counted in ones two of them would have a group, counted in twos as well."""
    inside = "_layer_checkpoint_dependencies"
    groups = {f"{inside}/my_bn{number}": norm_arrays(i) for i, number in enumerate(("", "_1", "_2"))}
    layers = [norm(name, class_name="MyBN", registered="lab>MyBN") for name in "ab"]
    with pytest.raises(FormatError, match="the architecture does not match: the weights have no group for this batch norm"):
        read(weights(groups), architecture(*layers))
    assert read(weights(groups), architecture(*layers, norm("c", class_name="MyBN", registered="lab>MyBN"))).paths() == ["a", "b", "c"]


def test_other_layouts_are_not_claimed(tmp_path):
    for name, fill in {"legacy": lambda file: file.attrs.update(layer_names=np.array([b"layers"])),
                       "empty": lambda file: None, "old": lambda file: file.attrs.update(nb_layers=1)}.items():
        with h5py.File(tmp_path / name, "w") as file:
            fill(file)
            if name != "empty":
                file.create_group("layers/layers/vars")
        assert not keras_weights.claims(Place(tmp_path / name)), name
    with h5py.File(tmp_path / "sub", "w") as file:
        file["block/norm/vars/0"] = np.ones(3)
    assert keras_weights.claims(Place(tmp_path / "sub"))
    for name in ("layers", "_layer_checkpoint_dependencies", "vars"):  # of a model without any variable, or with its own alone
        with h5py.File(tmp_path / "sub", "w") as file:
            file.create_group(name)
        assert keras_weights.claims(Place(tmp_path / "sub")), name
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert not keras_weights.claims(Place(tmp_path / "x.json"))
    assert not keras_weights.claims(Place(tmp_path))


@pytest.fixture
def shards(tmp_path):
    """shards(parts, weight_map, total) -> path of the index; parts: the groups of each shard, {number: array} in each group."""

    def make(parts, weight_map, total=None):
        size = 0
        for number, groups in enumerate(parts):
            with h5py.File(tmp_path / f"w_{number:05}.weights.h5", "w") as file:
                for path, (name, arrays) in groups.items():
                    inner = file.create_group(f"{path}/vars" if path else "vars")
                    if name:
                        inner.attrs["name"] = name
                    for key, array in arrays.items():
                        inner[str(key)] = array
                        size += array.nbytes
        index = {"metadata": {"total_size": float(size if total is None else total)}, "weight_map": weight_map}
        (tmp_path / "w.weights.json").write_text(json.dumps(index))
        return tmp_path / "w.weights.json"

    return make


def split(arrays, *cuts):
    """The variables of one layer in pieces: [{number: array}, …]."""
    numbered = list(enumerate(arrays.values()))
    edges = [0, *cuts, len(numbered)]
    return [dict(numbered[start:end]) for start, end in itertools.pairwise(edges)]


FIRST, SECOND = "layers/batch_normalization", "layers/batch_normalization_1"


def names(*numbers):
    return [f"w_{number:05}.weights.h5" for number in numbers]


def test_shards_that_cut_a_layer(shards):
    a, b = split(A, 3), split(B, 0, 2)
    parts = [{"": ("m", {}), FIRST: ("one", a[0])}, {FIRST: (None, a[1]), SECOND: ("two", b[0])}, {SECOND: (None, b[1])},
             {SECOND: (None, b[2])}]
    bundle = read(shards(parts, {f"/{FIRST}/vars": names(0, 1), f"/{SECOND}/vars": names(2, 3)}))
    assert shown(bundle) == {"one": (None, given(A)), "two": (None, given(B))}


def test_index_of_3_10_names_only_the_first_shard(shards):
    a, b = split(A, 1, 3), split(B, 1)
    parts = [{FIRST: ("one", a[0])}, {FIRST: (None, a[1])}, {FIRST: (None, a[2]), SECOND: ("two", b[0])}, {SECOND: (None, b[1])}]
    bundle = read(shards(parts, {f"/{FIRST}/vars": names(0)[0], f"/{SECOND}/vars": names(2)[0]}))
    assert shown(bundle) == {"layers/one": (None, given(A)), "layers/two": (None, given(B))}


def test_a_shard_left_from_another_save_is_not_read(shards):
    parts = [{FIRST: ("one", dict(enumerate(A.values())))}, {SECOND: ("old", dict(enumerate(B.values())))}]
    assert read(shards(parts, {f"/{FIRST}/vars": names(0)}, total=48)).paths() == ["layers/one"]
    assert read(shards(parts, {f"/{FIRST}/vars": names(0)[0]}, total=48)).paths() == ["layers/one"]


def test_one_shard_beside_its_list(shards):
    a = split(A, 2)
    path = shards([{FIRST: ("one", a[0])}, {FIRST: (None, a[1])}], {f"/{FIRST}/vars": names(0, 1)})
    with pytest.raises(UnsupportedError, match=r"this is one shard of w\.weights\.json") as caught:
        read(path.with_name("w_00000.weights.h5"))
    assert caught.value.hint == "give w.weights.json, which lists them"


def test_one_shard_alone(shards, tmp_path):
    """Its last layer may be cut after gamma and beta, which are the only two vectors of a batch norm without them."""
    half = {number: np.abs(array) for number, array in split(A, 2)[0].items()}
    shards([{SECOND: ("two", dict(enumerate(B.values()))), FIRST: ("one", half)}], {f"/{FIRST}/vars": names(0)}).unlink()
    bundle = read(tmp_path / "w_00000.weights.h5")
    assert bundle.paths() == ["layers/two"]
    assert [(path, reason.partition(",")[0]) for path, reason in bundle.skipped] == [("layers/one", "it contains two vectors")]
    assert any("its name is that of a shard" in warning for warning in bundle.warnings)
    (tmp_path / "both.json").write_text(json.dumps(functional("m", norm("one", center=False, scale=False), norm("two"))))
    known = read(tmp_path / "w_00000.weights.h5", tmp_path / "both.json")
    assert known.paths() == ["one", "two"]
    assert not known.warnings
    (tmp_path / "w_00000.weights.h5").rename(tmp_path / "w_0001.weights.h5")
    whole = read(tmp_path / "w_0001.weights.h5")
    assert whole.paths() == ["layers/one", "layers/two"]
    assert not any("shard" in warning for warning in whole.warnings)


def test_shards_that_are_damaged(shards, tmp_path):
    parts = [{FIRST: ("one", dict(enumerate(A.values())))}, {SECOND: ("two", dict(enumerate(B.values())))}]
    weight_map = {f"/{FIRST}/vars": names(0), f"/{SECOND}/vars": names(1)}

    def said(weight_map, kind=ExporterError, **fields):
        path = shards(parts, weight_map, **fields)
        if fields.pop("missing", None):
            (tmp_path / names(1)[0]).unlink()
        with pytest.raises(kind) as caught:
            read(path)
        return str(caught.value)

    assert "the shards contain 96 bytes of weights, but w.weights.json lists 95" in said(weight_map, total=95)
    assert "the shards contain 48 bytes of weights, but w.weights.json lists 96" in said({f"/{FIRST}/vars": names(0)})
    assert "the list of shards puts '/layers/other/vars' into this file" in said({**weight_map, "/layers/other/vars": names(1)})
    assert "these shards were not saved together" in said({"/a/vars": ["../../etc/passwd"]})
    assert "these shards were not saved together" in said({"/a/vars": ["other_00000.weights.h5"], "/b/vars": names(1)})
    assert "these shards were not saved together" in said({"/a/vars": [7]})
    assert "this is not a list of shards: weight_map or metadata.total_size is missing" in said({})
    assert "expected at most 500 shards, got 100000" in said({"/a/vars": names(99999)}, kind=UnsupportedError)
    path = shards(parts, weight_map)
    (tmp_path / names(1)[0]).unlink()
    with pytest.raises(FormatError, match=r"w_00001.weights.h5 is missing"):
        read(path)
    both = [{FIRST: ("one", dict(enumerate(A.values())))}, {FIRST: (None, {0: np.ones(3, "f4")})}]
    with pytest.raises(FormatError, match="two shards contain the same variable"):
        read(shards(both, {f"/{FIRST}/vars": names(0, 1)}))


@pytest.mark.parametrize("index", [
    [1], {"weight_map": 3, "metadata": {"total_size": 48}}, {"weight_map": {"/a/vars": names(0)}},
    {"weight_map": {"/a/vars": names(0)}, "metadata": 4},
    {"weight_map": {"/a/vars": names(0)}, "metadata": {"total_size": "48"}},
    {"weight_map": {"/a/vars": names(0)}, "metadata": {"total_size": 48.5}}, {"weight_map": {}, "metadata": {"total_size": 48}}])
def test_what_is_no_list_of_shards(tmp_path, index):
    (tmp_path / "w.weights.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match=r"this is not a list of shards: weight_map or metadata\.total_size is missing"):
        keras_weights.read(Place(tmp_path / "w.weights.json"), ReadOptions())


def test_the_last_shard_may_be_the_only_one(shards):
    """Keras 3.10 lists only the first, where a layer begins; what stays over is in the next, if there is one."""
    parts = [{FIRST: ("one", split(A, 2)[0])}, {FIRST: (None, split(A, 2)[1])}]
    assert shown(read(shards(parts, {f"/{FIRST}/vars": names(0)[0]}))) == {"layers/one": (None, given(A))}
    path = shards(parts, {f"/{FIRST}/vars": names(0)[0]})
    path.with_name(names(1)[0]).unlink()
    with pytest.raises(FormatError, match=r"the shards contain 24 bytes of weights, but w\.weights\.json lists 48"):
        read(path)


def test_shards_with_an_architecture(shards, architecture):
    parts = [{FIRST: ("one", split(A, 2)[0])}, {FIRST: (None, split(A, 2)[1])}]
    beside = architecture(norm("one", epsilon=0.25), entry("Dense", "d"))
    assert shown(read(shards(parts, {f"/{FIRST}/vars": names(0, 1)}), beside)) == {"one": (0.25, given(A))}


@pytest.mark.parametrize(("name", "roles", "warns"), [
    ("blur", slice(0, 4), True), ("blur", slice(1, 4), True), ("blur", slice(2, 4), True), ("batch_normalization", slice(2, 4), True),
    ("blur", slice(0, 2), False)])  # the last: what is negative is no variance
def test_a_batch_norm_over_several_axes_that_no_config_describes_is_not_dropped_without_a_word(weights, name, roles, warns):
    """Nothing says along which axes; a custom class may hold such arrays, too."""
    wide = list(norm_arrays(4, shape=(1, 3, 1, 2)).values())[roles]
    path = weights({"layers/batch_normalization": A, f"stem/{name}": wide})
    bundle = read(path)
    assert [layer.path for layer in bundle] == ["layers/batch_normalization"]
    assert any(f"stem/{name}: it contains {len(wide)} arrays of shape [1, 3, 1, 2]" in warning for warning in bundle.warnings) == warns


@pytest.mark.parametrize(("shape", "axis"), [((1, 3, 1, 2), (1, 3)), ((1, 1, 1, 3), (-1,)), ((3, 1), None), ((2, 3), None)])
def test_parameters_in_the_rank_of_the_input_say_their_axes(weights, shape, axis):
    """tf.keras keeps them so for a list of axes; the first is that of the batch, and has one element."""
    path = weights({"layers/batch_normalization": norm_arrays(4, shape=shape)})
    if axis is None:
        assert ["does not specify along which axes" in reason for _, reason in read(path).skipped] == [True]
        return
    (layer,) = exporter.read(path, epsilon=1e-3)
    assert layer.axis == tuple(each - len(shape) if each >= 0 else each for each in axis)
    assert layer.shape == tuple(size for size in shape if size > 1)


def test_two_vectors_of_which_the_second_is_no_variance(weights):
    path = weights({"layers/batch_normalization": A, "layers/batch_normalization_1": [np.float32([1, 2]), np.float32([1, -2])]})
    bundle = read(path)
    assert (bundle.paths(), bundle.skipped) == (["layers/batch_normalization"], [])
    assert bundle.warnings == ["layers/batch_normalization_1: its second vector has negative values, so it is not a variance; not treated "
                               "as a batch norm"]


@pytest.mark.parametrize(("values", "is_norm"), [((1, 0, 0, 1), True), ((1, 0, 0, 2), False), ((1, 0, 3, 1), False), ((1.5, 0, 0, 1), True),
                                                 ((1, 0, 0, -1), False), ((1, -1, 0, 1), True)])
def test_four_vectors_of_whole_numbers_are_counts_unless_they_are_those_of_a_fresh_layer(weights, values, is_norm):
    """A metric counts in such vectors. A batch norm that was never trained has 1, 0, 0, 1."""
    path = weights({"layers/batch_normalization": A, "some/thing": [np.full(3, value, np.float32) for value in values]})
    assert ("some/thing" in read(path).paths()) is is_norm


def test_what_may_be_the_only_batch_norm(weights):
    """That a file contains none is said only where that is certain."""
    path = weights({"layers/blur": list(norm_arrays(4).values())[2:]})
    for options in ({}, {"epsilon": 1e-3}, {"skip_unresolved": True}):
        said = "none of the layers is certain to be a BatchNormalization: layers/blur: it contains two"
        with pytest.raises(UnsupportedError, match=said) as error:
            exporter.read(path, **options)
        assert "--architecture" in error.value.hint
    with pytest.raises(UnsupportedError, match="the model contains no BatchNormalization layer"):
        exporter.read(weights({"layers/blur": [np.float32([1, -2, 3]), np.float32([1, -2, 3])]}))


def test_a_variable_outside_of_vars(weights):
    """All of Keras's variables lie in groups called so; where the name is another one, a layer would be gone without a word."""
    path = weights({"": ([], "m"), "layers/batch_normalization": (A, "a"), "layers/batch_normalization_1": (B, "b")})
    assert read(path).paths() == ["a", "b"]
    with h5py.File(path, "r+") as file:
        group = file["layers/batch_normalization_1"]
        group.move("vars", "SNOD")
    with pytest.raises(FormatError, match=r"layers/batch_normalization_1/SNOD/0: a variable is not inside a group called 'vars'"):
        exporter.read(path, epsilon=1e-3)


GOOD = {"layers/batch_normalization_9": A}  # what is certain stays so, whatever is beside it


def outcome(bundle, path):
    """What becomes of a group: "layer", "skipped" or "left out" with the reason, or "nothing"."""
    assert bundle.paths()[-1:] == ["layers/batch_normalization_9"] or path in bundle.paths()
    found = [f"skipped: {reason}" for other, reason in bundle.skipped if other == path]
    found += [f"left out: {reason}" for other, reason in bundle.left_out if other == path]
    found += ["layer" for other in bundle.paths() if other == path]
    assert len(found) < 2
    return found[0] if found else "nothing"


def vectors(count, *, negative=False, shape=(3,)):
    values = [np.full(shape, 1.5 + number, np.float32) for number in range(count)]
    return [*values[:-1], -values[-1]] if negative else values


@pytest.mark.parametrize(("count", "expected"), [
    (1, "skipped: its group is named like a batch norm but"), (2, "layer"), (3, "skipped: one of its parameters is gamma or beta"),
    (4, "layer"), (5, "skipped: it contains 5 vectors of one length"), (6, "skipped: one of its parameters is gamma or beta"), (7, "layer"),
    (8, "skipped: its group is named like a batch norm but")])
def test_how_many_vectors_a_counted_batch_norm_has(weights, count, expected):
    """With renormalization three more. Five are also those of a layer with gamma, beta and one weight more: Keras 3 saves the gamma that it
    has in common with another layer beside its own."""
    found = read(weights({**GOOD, "layers/batch_normalization": vectors(count)}))
    assert outcome(found, "layers/batch_normalization").startswith(expected)
    if expected == "layer":
        layer = found["layers/batch_normalization"]
        assert [(layer.gamma is not None), (layer.beta is not None)] == [count in (4, 7)] * 2
        first = 2 if count in (4, 7) else 0
        assert [layer.moving_mean[0], layer.moving_variance[0]] == [1.5 + first, 2.5 + first]


@pytest.mark.parametrize("arrays", [
    [np.ones(3, np.int32)] * 4, [np.float32(1)] * 4, [np.ones(3, "f4"), np.ones(3, "f4"), np.ones(3, "f4"), np.ones(2, "f4")],
    [np.ones(3, "f4"), np.ones(3, "f4"), np.ones(3, "f4"), np.ones(3, np.int64)]], ids=["integers", "numbers", "shapes", "one of integers"])
def test_what_a_counted_batch_norm_cannot_hold(weights, arrays):
    said = outcome(read(weights({**GOOD, "layers/batch_normalization": arrays})), "layers/batch_normalization")
    assert said.startswith("skipped: its group is named like a batch norm but")
    assert outcome(read(weights({**GOOD, "layers/odd": arrays})), "layers/odd") == "nothing"


@pytest.mark.parametrize(("name", "count", "negative", "expected"), [
    ("odd", 1, False, "nothing"), ("odd", 2, False, "left out: it contains two vectors"), ("odd", 2, True, "nothing"),
    ("odd", 3, False, "skipped: it contains three vectors"), ("odd", 3, True, "nothing"), ("odd", 4, False, "layer"),
    ("odd", 4, True, "nothing"), ("odd", 5, False, "skipped: it contains 5 vectors"), ("odd", 5, True, "left out: it contains 5 vectors"),
    ("odd", 7, False, "skipped: it contains 7 vectors"), ("odd", 8, False, "nothing"),
    ("layer_normalization", 2, False, "nothing"), ("group_normalization_1", 2, False, "nothing"),
    ("layer_normalization", 3, False, "skipped: it contains three vectors"),
    ("batch_normalization", 2, False, "skipped: it contains two vectors"), ("batch_normalization", 2, True, "nothing")])
def test_how_many_vectors_an_attribute_has(weights, name, count, negative, expected):
    """Of whatever class it is: the name of an attribute is the user's, and only makes it likely."""
    found = read(weights({**GOOD, f"block/{name}": vectors(count, negative=negative)}))
    assert outcome(found, f"block/{name}").startswith(expected)


@pytest.mark.parametrize(("name", "count", "shape", "is_mentioned"), [
    ("blur", 2, (1, 3, 1, 2), True), ("blur", 2, (1, 1, 1, 3), False), ("blur", 3, (1, 1, 1, 3), True), ("blur", 4, (2, 1, 1, 3), False),
    ("blur", 4, (1, 1, 1), False), ("batch_normalization", 2, (1, 1, 1, 3), True), ("layer_normalization", 2, (1, 1, 1, 3), False)])
def test_how_many_arrays_in_the_rank_of_the_input_an_attribute_has(weights, name, count, shape, is_mentioned):
    found = read(weights({**GOOD, f"block/{name}": vectors(count, shape=shape)}))
    assert outcome(found, f"block/{name}").startswith(f"left out: it contains {count} arrays of shape" if is_mentioned else "nothing")


@pytest.mark.parametrize(("version", "more"), [(None, None), ("2.15.0", {"f/three": (0.001, given(C))}), ("3.3.3", {})])
def test_groups_that_fit_in_two_ways(weights, tmp_path, version, more):
    """tf.keras counts a layer once however many models have it, Keras 3 in each: the last group is of one entry, or of the other."""
    layers = [norm("one", shared=7), norm("three"), functional("f", norm("one", shared=7), norm("three"))]
    (tmp_path / "arch.json").write_text(json.dumps({**functional("m", *layers), "keras_version": version}))
    path = weights({"layers/batch_normalization": A, "layers/batch_normalization_1": B, "layers/functional/layers/batch_normalization": C})
    if more is None:
        with pytest.raises(FormatError, match="the groups match the layers in two ways"):
            read(path, tmp_path / "arch.json")
        return
    assert shown(read(path, tmp_path / "arch.json")) == {"one": (0.001, given(A)), "three": (0.001, given(B)), **more}


def test_what_is_no_group_where_one_is_expected(tmp_path):
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["layers"] = np.ones(3)
    with pytest.raises(FormatError, match="layers: "):
        keras_weights.read(Place(tmp_path / "m.weights.h5"), ReadOptions())

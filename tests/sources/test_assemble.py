"""The variables of a batch norm by their number, the axes that they run along, and options that nobody gave."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from exporter.batchnorm.stored import PARAMETERS
from exporter.errors import FormatError, UsageError
from exporter.keras.config import is_batch_norm, model_tree, norm_fields
from exporter.keras.dialects import era_of
from exporter.sources.shared.assemble import assemble, roles_of
from exporter.sources.shared.options import ReadOptions, epsilon_by_glob
from tests.make.configs import layer, norm, sequential

STATISTICS = ("moving_mean", "moving_variance")
RENORM = ("moving_stddev", "renorm_mean", "renorm_stddev")


@pytest.mark.parametrize(("count", "center", "scale", "roles"), [
    (4, True, True, ("gamma", "beta", *STATISTICS)), (3, True, False, ("beta", *STATISTICS)), (3, False, True, ("gamma", *STATISTICS)),
    (2, False, False, STATISTICS), (3, True, True, None), (4, False, True, None), (5, True, True, None), (0, True, True, None)])
def test_the_config_says_which(count, center, scale, roles):
    assert roles_of(count, center, scale) == roles
    assert roles_of(count + 3, center, scale, renorm=True) == (None if roles is None else (*roles, *RENORM))


@pytest.mark.parametrize(("center", "scale"), [(None, None), (None, True), (False, None)])
@pytest.mark.parametrize(("count", "roles"), [(4, ("gamma", "beta", *STATISTICS)), (2, STATISTICS), (3, None), (1, None), (5, None)])
def test_where_it_does_not_say_the_number_does_if_it_can(count, roles, center, scale):
    """Three may be gamma or beta with the statistics: the number does not tell."""
    assert roles_of(count, center, scale) == roles
    assert roles_of(count + 3, center, scale, renorm=True) == (None if roles is None else (*roles, *RENORM))


def test_nothing_is_asked_for_by_default():
    assert {name: value for name, value in ReadOptions().said().items() if value not in (None, (), False)} == {}


def of(shape, *, axis=None, virtual=None, input_shape=None, rank=None, ndim=None, around=None, **config):
    """What becomes of parameters of this shape: (axis, shape, ndim, assumed)."""
    values = {name: (np.full(shape, number, np.float32), "float32") for number, name in enumerate(PARAMETERS, 1)}
    node = fields = None
    if axis is not None:
        entry = norm("bn", axis=list(axis), virtual_batch_size=virtual, batch_input_shape=input_shape, **config)
        node = model_tree(sequential(around(entry) if around else entry), "m").children[0][1]
        while not is_batch_norm(node):
            node = node.children[0][1]
        fields = dataclasses.replace(norm_fields(node), ndim=ndim)
    made = assemble("bn", node, fields, values, era_of("2.9.0", "tensorflow"), rank)
    assert made.gamma.shape == made.moving_variance.shape == made.shape
    return made.axis, made.shape, made.ndim, made.assumed


@pytest.mark.parametrize(("shape", "fields", "expected"), [
    ((3,), {"axis": (3,)}, ((3,), (3,))), ((3,), {"axis": (-1,)}, ((-1,), (3,))), ((3,), {}, (None, (3,))),
    ((1, 5, 1, 3), {"axis": (1, 3)}, ((1, 3), (5, 3))), ((1, 5, 1, 3), {"axis": (3, 1)}, ((1, 3), (5, 3))),
    ((1, 5, 1, 3), {"axis": (-1, -3)}, ((1, 3), (5, 3))), ((1, 1, 5, 3), {"axis": (2, -1)}, ((2, 3), (5, 3))),
    ((3,), {"axis": (4,), "virtual": 2}, ((3,), (3,))), ((1, 1, 1, 1, 3), {"axis": (4,), "virtual": 2}, ((3,), (3,))),
    ((1, 1, 5, 1, 3), {"axis": (2, 4), "virtual": 2}, ((1, 3), (5, 3))),
    ((1, 1, 1, 3), {}, ((-1,), (3,))), ((1, 5, 1, 3), {}, ((-3, -1), (5, 3))), ((1, 3, 1, 1), {}, ((-3,), (3,))),
    ((1, 1, 1, 1), {}, ((-1,), (1,))), ((1,), {}, (None, (1,))), ((2, 3), {}, (None, (2, 3)))])
def test_the_axes_that_parameters_run_along(shape, fields, expected):
    """Keras keeps them in the input's rank, with 1 elsewhere, where there are several axes or a virtual batch."""
    assert of(shape, **fields)[:2] == expected


@pytest.mark.parametrize(("shape", "fields", "said"), [
    ((2, 3), {"axis": (-1,)}, r"shape \[2, 3\]; expected one dimension for axis -1"),
    ((1, 5, 2, 3), {"axis": (1, 3)}, r"shape \[1, 5, 2, 3\], which does not match its axes \[1, 3\]"),
    ((1, 5, 1, 3), {"axis": (3, -1)}, r"does not match its axes \[3, -1\]"), ((1, 5, 1, 3), {"axis": (0, 3)}, "does not match its axes"),
    ((1, 5, 1, 3), {"axis": (1, 4)}, "does not match its axes"), ((2, 5, 1, 3), {"axis": (1, 3)}, "does not match its axes"),
    ((3,), {"axis": (1, 2)}, "does not match its axes"), ((1, 1, 1, 3), {"axis": (0, 3)}, "does not match its axes"),
    ((3,), {"axis": (3,), "input_shape": [None, 4, 4, 5]}, r"it has 3 channels, but was built on an input of shape \[None, 4, 4, 5\]"),
    ((3,), {"axis": (-3,), "input_shape": [None, 4, 3, 3]}, "it has 3 channels, but was built"),
    ((1, 5, 1, 3), {"axis": (1, 3), "input_shape": [None, 5, 5, 5]}, "it has 3 channels, but was built")])
def test_shapes_that_contradict_the_config(shape, fields, said):
    with pytest.raises(FormatError, match=said):
        of(shape, **fields)


@pytest.mark.parametrize("fields", [
    {"axis": (3,), "input_shape": [None, 5, 5, None]}, {"axis": (3,), "input_shape": [None, 5, 5, 3]},
    {"axis": (-4,), "input_shape": [3, 5, 5, 5]}, {"axis": (4,), "input_shape": [None, 5, 5, 5]}, {"axis": (3,)}])
def test_shapes_that_do_not(fields):
    assert of((3,), **fields)[:2] == (fields["axis"], (3,))


def in_time(entry):
    return layer("TimeDistributed", "td", layer=entry)


@pytest.mark.parametrize(("axis", "rank", "expected"), [
    ((-1,), 4, ((-1,), None)), ((-3,), None, ((-3,), None)), ((3,), 4, ((-1,), None)), ((1,), None, ((2,), None)), ((1,), 4, ((1,), 4))])
def test_an_axis_in_a_wrapper_is_counted_from_the_end_where_it_is_certain(axis, rank, expected):
    """The wrapper goes over one more axis: what is counted from the front is another one outside."""
    found, _, *rest = of((3,), axis=axis, rank=rank, around=in_time)
    assert (found, *rest) == (*expected, ())
    assert of((3,), axis=axis, rank=rank) == (axis, (3,), rank, ())


def test_several_axes_in_a_wrapper_stay_as_they_are():
    assert of((1, 5, 1, 3), axis=(1, 3), rank=4, around=in_time) == ((1, 3), (5, 3), 4, ())
    assert of((1, 5, 1, 3), axis=(-3, -1), rank=4, around=in_time) == ((1, 3), (5, 3), 4, ())
    assert of((1, 5, 1, 3), axis=(1, 3), around=in_time) == ((1, 3), (5, 3), 4, ())  # the parameters have the rank of the input


def test_the_rank_that_the_config_says_goes_before_another_one():
    assert of((3,), axis=(3,), rank=5, ndim=4)[2] == 4
    assert of((3,), axis=(3,), rank=5)[2] == 5
    assert of((3,), rank=5)[2] == 5


@pytest.mark.parametrize(("change", "said"), [
    ({"gamma": (np.ones(4, np.float32), "float32")}, r"different shapes: gamma \[4\], beta \[3\]"),
    ({"beta": (np.ones(3, np.float16), "float16")}, "different types: gamma float32, beta float16"),
    ({"moving_mean": None}, "moving_mean or moving_variance is missing"), ({"moving_variance": None}, "moving_mean or moving_variance is")])
def test_parameters_that_do_not_belong_together(change, said):
    values = {name: (np.ones(3, np.float32), "float32") for name in PARAMETERS} | change
    with pytest.raises(FormatError, match=said):
        assemble("bn", None, None, {name: value for name, value in values.items() if value}, era_of(None, None), None)


@pytest.mark.parametrize(("class_name", "registered", "expected"), [
    ("BatchNormalization", None, "BatchNormalization"), ("Ghost", "lab>Ghost", "lab>Ghost"), ("lab>Ghost", None, "lab>Ghost"),
    ("Ghost", "Ghost", "Ghost"), ("lab>Ghost", "other>Ghost", "lab>Ghost")])
def test_the_class_with_the_package_that_it_is_registered_under(class_name, registered, expected):
    node = model_tree(sequential({**norm("bn", class_name=class_name), "registered_name": registered}), "m").children[0][1]
    values = {name: (np.ones(3, np.float32), "float32") for name in PARAMETERS}
    assert assemble("bn", node, norm_fields(node), values, era_of("3.0.0", None), None).class_name == expected


@pytest.mark.parametrize(("training", "trainable", "version", "is_called", "has_doubt"), [
    (True, True, "2.2.4-tf", True, True), (False, True, "2.2.4-tf", False, False), (True, False, "2.2.4-tf", True, True),
    (True, False, "2.3.0-tf", False, False), (True, True, "2.3.0-tf", True, True), (True, None, "2.3.0-tf", True, True)])
def test_who_is_called_in_training(training, trainable, version, is_called, has_doubt):
    """A frozen layer of TensorFlow 2 uses its stored statistics however it is called."""
    own = {} if trainable is None else {"trainable": trainable}
    entry = {**norm("bn", **own), "inbound_nodes": [[["x", 0, 0, {"training": training}]]]}
    node = model_tree(sequential(entry), "m").children[0][1]
    values = {name: (np.ones(3, np.float32), "float32") for name in PARAMETERS}
    made = assemble("bn", node, norm_fields(node), values, era_of(version, "tensorflow"), None)
    assert (made.called_in_training, bool(made.doubt)) == (is_called, has_doubt)


@pytest.mark.parametrize("epsilon", [-1e-9, 3.5e38, float("inf"), float("nan"), "0.001"])
def test_an_epsilon_that_no_layer_can_have(epsilon):
    with pytest.raises(UsageError, match="expected a finite epsilon of 0 or more, got"):
        epsilon_by_glob({"a*": epsilon})
    assert epsilon_by_glob({"a*": 0, "b": 3.3e38}) == (("a*", 0.0), ("b", 3.3e38))
    assert epsilon_by_glob(0.5) == (("*", 0.5),)
    assert epsilon_by_glob(None) == ()

"""What each era's numbers mean: the table of versions, conversion to the one formula, the fused kernel's epsilon."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest

from exporter.batchnorm.layer import exact_rows
from exporter.batchnorm.stored import Statistic
from exporter.errors import FormatError, LayerError, UsageError
from exporter.keras import dialects
from exporter.keras.config import NormFields
from exporter.keras.dialects import Counting, Era, era_of
from tests.make.layers import ROOT, make_stored
from tests.make.package import PACKAGE, one_worker, tree_of

VARIANCE, DEVIATION, EPSILON_OUTSIDE = Statistic


def fields(**changes):
    return NormFields(**{"axis": (3,), "epsilon": 1e-7, "momentum": 0.99, "center": True, "scale": True, "dtype": "float32", "ndim": None,
                         "mode": 0, "renorm": False, "virtual_batch_size": None, "synchronized": False, **changes})


@pytest.mark.parametrize(("text", "version", "is_tf_keras"), [
    ("1.0.8", (1, 0, 8), False), ("2.2.4", (2, 2, 4), False), ("2.2.4-tf", (2, 2, 4), True), ("2.3.1", (2, 3, 1), False),
    ("2.4.0", (2, 4, 0), True), ("2.15.0", (2, 15, 0), True), ("3.0.5", (3, 0, 5), False), ("3.15", (3, 15, 0), False),
    ("2.6.0rc1", (2, 6, 0), True), ("garbage", None, False), ("", None, False), (None, None, False), ("99999.1", None, False),
])
def test_versions(text, version, is_tf_keras):
    assert era_of(text, "tensorflow") == Era(version=version, backend="tensorflow", is_tf_keras=is_tf_keras)


def test_a_version_that_the_user_gives_must_be_one():
    assert dialects.era_given("1.0.5", None).version == (1, 0, 5)
    with pytest.raises(UsageError, match="--keras-version: expected a version, got 'old'"):
        dialects.era_given("old", None)


@pytest.mark.parametrize(("version", "on_tensorflow", "expected"), [
    ("0.3.3", False, DEVIATION), ("1.0.0", True, DEVIATION), ("1.0.5", False, DEVIATION), ("1.0.5", True, DEVIATION),
    ("1.0.6", False, DEVIATION), ("1.0.6", True, VARIANCE), ("1.0.7", False, EPSILON_OUTSIDE), ("1.0.7", True, VARIANCE),
    ("1.0.8", False, VARIANCE), ("1.0.8", True, VARIANCE), ("1.2.2", False, VARIANCE), (None, True, None), ("x", False, None),
])
def test_what_running_std_holds(version, on_tensorflow, expected):
    assert dialects.statistic(era_of(version, None), old_name=True, on_tensorflow=on_tensorflow) == expected
    assert dialects.statistic(era_of(version, None), old_name=False, on_tensorflow=on_tensorflow) == VARIANCE


def test_the_backend_that_the_user_gives_decides_before_the_names():
    assert dialects.statistic(era_of("1.0.7", "theano"), old_name=True, on_tensorflow=None) == EPSILON_OUTSIDE
    assert dialects.statistic(era_of("1.0.7", "tensorflow"), old_name=True, on_tensorflow=None) == VARIANCE


@pytest.mark.parametrize(("version", "epsilon"), [("0.3.3", 1e-6), ("1.0.7", 1e-6), ("1.0.8", 1e-5), ("1.1.2", 1e-5), ("1.2.0", 1e-3),
                                                  ("2.4.0", 1e-3), ("3.3.3", 1e-3), (None, None)])
def test_default_epsilon(version, epsilon):
    assert era_of(version, None).default_epsilon == epsilon


@pytest.mark.parametrize("mode", [1, 2, 7])
def test_modes_that_are_no_affine_map(mode):
    words = {1: "normalizes each sample by the sample's own mean", 2: "normalizes by the statistics of the batch", 7: "is unknown"}
    assert f"its mode {mode} {words[mode]}" in dialects.reason_against(mode)
    assert dialects.reason_against(0) is None


def divisor(statistic, stored, epsilon):
    return {DEVIATION: stored + epsilon, EPSILON_OUTSIDE: np.sqrt(stored) + epsilon}[statistic]


@pytest.mark.parametrize(("dtype", "epsilon"), [("float16", 0.5), ("float32", 1e-6), ("float32", 1e-3), ("float32", 0.5),
                                                ("float64", 1e-6)])
@pytest.mark.parametrize("statistic", [DEVIATION, EPSILON_OUTSIDE])
def test_conversion_gives_what_that_era_gave(statistic, epsilon, dtype):
    layer = make_stored(shape=(50,), dtype=dtype, epsilon=epsilon, statistic=statistic)
    converted = dialects.convert(layer)
    stored = layer.moving_variance.astype(np.float64)
    x = np.random.default_rng(1).normal(size=(5, 50))
    gamma, beta, mean = (values.astype(np.float64) for values in (layer.gamma, layer.beta, layer.moving_mean))
    expected = gamma * (x - mean) / divisor(statistic, stored, epsilon) + beta
    size = np.abs(gamma / divisor(statistic, stored, epsilon)) * (np.abs(x) + np.abs(mean)) + np.abs(beta)
    unit = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}[dtype]
    assert np.all(np.abs(exact_rows(converted, x) - expected) <= 4 * unit * size)
    assert converted.moving_variance.dtype == layer.moving_variance.dtype
    negative = (divisor(statistic, stored, epsilon) ** 2 < epsilon).any()
    assert converted.converted == (("moving_variance", "epsilon") if negative else ("moving_variance",))
    assert converted.epsilon == (0 if negative else epsilon)


def test_a_channel_that_never_varied_is_converted():
    """Behind a dead ReLU the variance is 0 exactly, and epsilon outside of the root still divides."""
    layer = make_stored(shape=(3,), statistic=EPSILON_OUTSIDE, epsilon=0.1).replace(moving_variance=np.float32([0, 1, 4]))
    converted = dialects.convert(layer)
    assert np.allclose(np.sqrt(converted.moving_variance.astype(np.float64) + converted.epsilon), [0.1, 1.1, 2.1], rtol=1e-7)
    assert converted.epsilon == 0


def test_conversion_leaves_a_variance_alone():
    stored = make_stored()
    converted = dialects.convert(stored)
    assert converted.moving_variance is stored.moving_variance
    assert (converted.epsilon, converted.converted) == (stored.epsilon, ())


@pytest.mark.parametrize(("statistic", "stored", "what"), [
    (DEVIATION, [1, -0.5], r"the stored deviation\[1\] is -0.5 and epsilon 0.001: not a valid divisor"),
    (EPSILON_OUTSIDE, [1, -1e-9], r"the stored variance\[1\] is -9.99999972e-10"),
])
def test_statistics_that_no_era_could_use(statistic, stored, what):
    layer = make_stored(shape=(2,), statistic=statistic).replace(moving_variance=np.array(stored, np.float32))
    with pytest.raises(LayerError, match=what):
        dialects.convert(layer)


def test_conversion_needs_epsilon():
    with pytest.raises(FormatError, match="the file does not contain its epsilon"):
        dialects.convert(make_stored(epsilon=None, statistic=DEVIATION))


def test_a_deviation_whose_square_float16_cannot_hold():
    layer = make_stored(shape=(2,), dtype="float16", epsilon=1e-6, statistic=DEVIATION).replace(moving_variance=np.float16([1, 1e-3]))
    with pytest.raises(LayerError, match=r"deviation\[1\] is 0.00100040436 and epsilon 1e-06: its square, the variance, does not fit"):
        dialects.convert(layer)


@pytest.mark.parametrize(("axis", "virtual_batch_size", "expected"), [((3,), None, (3,)), ((4,), 2, (3,)), ((-1,), 2, (-1,)),
                                                                      ((2, 4), 8, (1, 3)), ((0,), 2, (0,)), ((1,), 2, (0,)),
                                                                      ((-2, 3), 4, (-2, 2))])
def test_virtual_batches_shift_the_axis(axis, virtual_batch_size, expected):
    assert dialects.real_axis(axis, virtual_batch_size) == expected


@pytest.mark.parametrize(("version", "changes", "ndim", "clamped"), [
    ("2.1.6-tf", {}, 4, True), ("2.2.4-tf", {}, 4, True), ("2.4.0", {}, 4, True), ("2.11.0", {}, 4, True), ("2.12.0", {}, 4, False),
    ("3.3.3", {}, 4, False), ("2.4.0", {"axis": (4,)}, 5, False), ("2.6.0", {"axis": (4,)}, 5, True), ("2.9.0", {"axis": (1,)}, 4, True),
    ("2.4.0", {"axis": (1,)}, 4, False), ("2.9.0", {"axis": (2,)}, 4, False), ("2.9.0", {"axis": (-1,)}, 4, True),
    ("2.9.0", {"axis": (1,)}, 2, False), ("2.9.0", {"axis": (2,)}, 3, False), ("2.9.0", {"axis": (1, 3)}, 4, False),
    ("2.9.0", {}, None, False),
    ("2.9.0", {"renorm": True}, 4, False), ("2.9.0", {"virtual_batch_size": 2}, 4, False), ("2.9.0", {"synchronized": True}, 4, False),
    ("2.9.0", {"epsilon": 1.001e-5}, 4, False), ("2.9.0", {"epsilon": 1.0009e-5}, 4, True), ("2.9.0", {"axis": None}, 4, False),
    ("2.0.6-tf", {}, 4, False), ("2.9.0", {"axis": (4,)}, 5, True), ("2.9.0", {"axis": (-4,)}, 5, True),
    ("2.9.0", {"axis": (-3,)}, 4, True), ("2.9.0", {"axis": (-1,)}, 5, True), ("2.9.0", {"axis": (1,)}, 5, True),
    ("2.9.0", {"axis": (-2,)}, 5, False),
    ("2.5.0", {"axis": (-3,)}, 4, False), ("2.5.0", {"axis": (1,)}, 5, False), ("2.4.0", {"axis": (-1,)}, 4, True),
    ("2.2.4-tf", {"axis": (-1,)}, 4, True), ("2.3.2", {"axis": (-1,)}, 4, True), ("3.0.0", {"axis": (-1,)}, 4, False),
    ("2.9.0", {"epsilon": 1e-5}, 4, True), ("2.9.0", {"epsilon": None}, 4, False),
    ("2.2.4", {"axis": (-1,)}, 4, True), ("2.2.0", {"axis": (-1,)}, 4, False), ("2.2.0", {}, 4, True), ("2.1.6", {}, 4, False),
    ("2.2.4", {"axis": (1,)}, 4, False), ("2.3.1", {}, 4, True), (None, {}, 4, False),
])
def test_epsilon_of_the_fused_kernel(version, changes, ndim, clamped):
    found = dialects.effective_epsilon(era_of(version, "tensorflow"), fields(**changes), dtype="float32", ndim=ndim)
    assert found == (1.001e-5 if clamped else None)


@pytest.mark.parametrize(("ndim", "output"), [(2, 953.462646484375), (4, 301.3743896484375)])
def test_what_tensorflow_1_4_computes(ndim, output):
    """Measured in TensorFlow 1.4.1 and 1.12.3: input 1, variance 1e-6, epsilon 1e-7."""
    for version in ("2.0.8-tf", "2.1.2-tf", "2.1.6-tf"):
        epsilon = dialects.effective_epsilon(era_of(version, "tensorflow"), fields(axis=(-1,)), dtype="float32", ndim=ndim) or 1e-7
        assert 1 / (1e-6 + epsilon) ** 0.5 == pytest.approx(output, rel=1e-6)


def test_no_fused_kernel_for_double_precision_or_on_theano():
    assert dialects.effective_epsilon(era_of("2.9.0", "tensorflow"), fields(), dtype="float64", ndim=4) is None
    assert dialects.effective_epsilon(era_of("2.2.4", "theano"), fields(), dtype="float32", ndim=4) is None


@pytest.mark.parametrize(("fact", "versions"), [
    (lambda era: era.is_per_element, {"0.3.3": True, "1.0.0": False, "2.4.0": False, "x": False}),
    (lambda era: era.facts and era.facts.mixes_nested_names, {"1.0.2": True, "1.0.3": False, "2.4.0": False, "x": None}),
    (lambda era: era.facts and era.facts.counting, {
        "2.4.0": Counting.EACH, "2.11.9": Counting.EACH, "2.12.0": Counting.WEIGHTS_TWICE, "2.13.9": Counting.WEIGHTS_TWICE,
        "2.14.0": Counting.UNSAVED, "2.16.0": Counting.UNSAVED, "3.0.0": Counting.EACH, "3.15.1": Counting.EACH, "x": None}),
    (lambda era: era.may_put_beta_first, {
        "2.0.1-tf": False, "2.0.2-tf": True, "2.0.6-tf": True, "2.0.7-tf": False, "2.0.4": False, "2.4.0": False, "x": False}),
    (lambda era: era.raises_epsilon, {"2.0.6-tf": False, "2.0.7-tf": True, "2.4.0": True, "2.11.9": True, "2.12.0": False, "3.3.3": False,
                                      "x": False}),
    (lambda era: dialects.ignores_training(era, is_keras_3=False), {
        "2.2.9-tf": False, "2.3.0-tf": True, "2.3.1": False, "2.4.0": True, "2.15.0": True, "x": False}),
    (lambda era: dialects.ignores_training(era, is_keras_3=True), {"2.2.4": True, "3.0.0": True, "x": True}),
])
def test_what_each_version_does(fact, versions):
    """The last version before a change, the first with it, and what is no version, of which nothing is known."""
    assert {version: fact(era_of(version, "tensorflow")) for version in versions} == versions


@pytest.mark.parametrize(("a", "b", "alike"), [
    ("2.2.4", "2.2.4", True), ("2.9.0", "2.10.1", True), ("2.3.0-tf", "2.4.0", True), ("2.2.4", "2.2.4-tf", False),
    ("1.0.5", "1.0.6", False), ("2.13.0", "2.14.0", False), ("2.15.0", "3.0.0", False), ("x", "1.0.5", True), ("1.0.5", "", True)])
def test_whose_files_mean_the_same(a, b, alike):
    assert dialects.write_alike(a, b) == dialects.write_alike(b, a) == alike


@pytest.mark.parametrize(("version", "changes", "ranks"), [
    ("2.6.0", {"axis": (-1,)}, "4 or 5"), ("2.6.0", {"axis": (3,)}, "4"), ("2.6.0", {"axis": (4,)}, "5"), ("2.4.0", {"axis": (-1,)}, "4"),
    ("2.6.0", {"axis": (2,)}, ""), ("2.6.0", {"axis": (-1,), "epsilon": 1e-3}, ""), ("3.0.0", {"axis": (-1,)}, "")])
def test_what_is_said_where_the_rank_decides(version, changes, ranks):
    said = dialects.about_rank(era_of(version, "tensorflow"), fields(**changes), dtype="float32")
    assert (f"if that is {ranks}, the fused kernel of the TensorFlow that wrote it used epsilon 1.001e-05 instead of 1e-07" in said
            ) is bool(ranks)
    assert bool(said) is bool(ranks)


def test_the_table_in_words_is_the_table_of_data():
    """Each row of the docstring, at both of its ends: what `running_std` holds there."""
    divisors = {"s + epsilon": DEVIATION, "sqrt(v) + epsilon": EPSILON_OUTSIDE, "sqrt(v + epsilon)": VARIANCE}
    rows = [re.split(r" {2,}", line.strip()) for line in dialects.__doc__.split("divides by\n")[1].split("\n\n")[0].splitlines()]
    assert len(rows) == 6
    for versions, _, divisor in rows:
        first, *rest = versions.split()
        backends = [rest[0].lower()] if rest[0] in ("Theano", "TensorFlow") else ["theano", "tensorflow"]
        for version in (first, {"to": rest[-1], "and": "3.9.0"}.get(rest[0], first)):
            for backend in backends:
                assert dialects.statistic(era_of(version, backend), old_name=True, on_tensorflow=None) is divisors[divisor], version


def test_history_is_in_order_and_every_row_of_it_says_something_new():
    versions = [version for version, _ in dialects.HISTORY]
    assert versions == sorted(set(versions))
    before = dialects.Facts()
    for version, news in dialects.HISTORY:
        facts = Era(version=version).facts
        assert all(getattr(facts, name) == value != getattr(before, name) for name, value in news.items()), version
        before = facts


@one_worker
def test_versions_are_compared_in_one_file():
    """No other file of Keras's meaning or of the sources compares a version with a tuple of numbers."""
    for path in PACKAGE:
        is_meant = path.relative_to(ROOT / "exporter").parts[0] in ("keras", "sources") and path.name != "dialects.py"
        for node in ast.walk(tree_of(path)) if is_meant else ():
            if isinstance(node, ast.Compare) and "version" in ast.unparse(node):
                numbers = [part.value for side in (node.left, *node.comparators) if isinstance(side, ast.Tuple)
                           for part in side.elts if isinstance(part, ast.Constant) and type(part.value) is int]
                assert not numbers, f"{path}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(("tensorflow", "keras"), [("1.12.0", (2, 1, 6)), ("1.13.1", (2, 2, 4)), ("2.3.0", (2, 2, 4)), ("2.4.0", (2, 4, 0)),
                                                   ("2.15.1", (2, 15, 1)), (None, None)])
def test_what_tf_keras_calls_itself(tensorflow, keras):
    era = dialects.era_of_tensorflow(tensorflow)
    assert (era.version, era.backend, era.is_tf_keras) == (keras, "tensorflow", True)


@pytest.mark.parametrize(("version", "adds"), [("1.0.1", True), ("1.3.0", True), ("1.4.0", False), ("0.12.1", False),
                                                 ("2.1.0", False), ("", False)])
def test_tensorflows_that_added_to_epsilon(version, adds):
    assert dialects.adds_to_epsilon(version) == adds

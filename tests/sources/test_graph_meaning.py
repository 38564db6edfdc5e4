"""What a graph computes with is what is exported, or nothing is: parameters that it changes first, and batch norms beside others."""

from __future__ import annotations

import numpy as np
import pytest

import exporter
from exporter.errors import UnresolvedError
from exporter.sources.tf_graph.graph_norm import UNKNOWN_FORM
from tests.make.graph_files import const, formula, frozen_variables, node, parameters
from tests.sources.test_frozen_graph import X, check, read
from tests.sources.test_graph_chains import NAMES, NUMBERS
from tests.sources.test_saved_model import CHILDREN, VECTORS, saved_functions, write_exported
from tests.sources.test_saved_model import read as read_saved_model


def written(tmp_path, text, values=None, x=X, more=()):
    """A bundle of the formula `text` of x, g, b, m, v, e, a vector c and the number one."""
    nodes, reads = frozen_variables("bn", values or parameters(), ("scale", "offset", "mu", "sigma2"))
    named = NAMES | dict(zip("gbmv", reads, strict=True)) | {"one": "one"}
    return read(tmp_path, x, const("one", np.float32(1)), *NUMBERS, *nodes, *more, *formula(text, **named))


@pytest.mark.parametrize("text", [
    "s = sqrt(v + e); i = one / s; y = (x - m) * i * g + b",
    "s = sqrt(v + e); i = one / s; y = x * (i * g) + (b - m * (i * g))"])
def test_one_divided_by_the_root(tmp_path, text):
    values = parameters()
    check(written(tmp_path, text, values)["bn"], values)


@pytest.mark.parametrize(("text", "said"), [
    ("s = sqrt(v + e); h = g + one; y = (x - m) / s * h + b", "its gamma is what the op AddV2 computes"),
    ("s = sqrt(v + e); h = exp(g); y = h * (x - m) / s + b", "its gamma is what the op Exp computes"),
    ("r = rsqrt(v + e); h = exp(g); y = (x - m) * r * h + b", "its gamma is what the op Exp computes"),
    ("r = rsqrt(v + e); h = exp(g); y = x * (r * h) + (b - m * (r * h))", "its gamma is what the op Exp computes"),
    ("r = rsqrt(v + e); y = (x - m) * r * g + b * c", "its beta is what the op Mul computes")])
def test_parameters_that_the_graph_changes_first(tmp_path, text, said):
    """They were taken for something that comes after a batch norm without them."""
    with pytest.raises(UnresolvedError, match=said):
        written(tmp_path, text)


def exported(tmp_path, ops, serve="__inference_signature_wrapper_7"):
    return read_saved_model(write_exported(tmp_path, children=CHILDREN, ops=ops, serve=serve))


@pytest.mark.parametrize(("serve", "said"), [("__inference_signature_wrapper_7", True), ("other", False)])
def test_an_object_whose_variables_are_called_like_a_batch_norms(tmp_path, serve, said):
    """(x - mean) / (sqrt(variance) + epsilon): with --epsilon it would have been another number."""
    gamma, beta, mean, variance = VECTORS
    ops = [const("eps", np.float32(0.02)), node("s", "Sqrt", variance), node("d", "AddV2", "s:y:0", "eps:output:0"),
           node("c", "Sub", "x", mean), node("q", "RealDiv", "c:z:0", "d:z:0"), node("qg", "Mul", "q:z:0", gamma),
           node("call", "AddV2", "qg:z:0", beta)]
    found = exported(tmp_path, ops, serve)
    assert [each.reason for each in found.skipped] == [UNKNOWN_FORM] * said
    assert [layer.epsilon for layer in found.layers] == [None] * (not said)


def test_an_object_whose_gamma_comes_after_the_batch_norm(tmp_path):
    gamma, beta, mean, variance = VECTORS
    ops = [const("ones", np.ones(3, "f4")), node("n", "FusedBatchNormV3", "x", "ones:output:0", beta, mean, variance, is_training=False),
           node("act", "Relu", "n:y:0"), node("call", "Mul", "act:activations:0", gamma)]
    (skipped,) = exported(tmp_path, ops).skipped
    assert skipped.reason == "the graph does not use its gamma as the gamma of a batch norm"


def both_modes(*training):
    return saved_functions({f"__inference_signature_wrapper_{number}": (
        [node("y", "FusedBatchNormV3", "x", *VECTORS, epsilon=0.02, is_training=one, exponential_avg_factor=0.5)], {"y": "y:y:0"},
        5 - number) for number, one in enumerate(training)})


@pytest.mark.parametrize(("training", "modes"), [((True, False), [True, False]), ((False, True), [False]), ((True, True), [True, True])])
def test_a_signature_to_train_beside_that_of_inference(training, modes):
    """The larger one is asked first; it must not hide the other."""
    assert [norm.in_training for norm in both_modes(*training).norms_of([5])[5]] == modes


@pytest.mark.parametrize(("known", "count"), [({2, 3, 4, 5}, 0), ({4}, 0), ({6}, 1), (set(), 1)])
def test_batch_norms_of_other_variables_than_the_known_ones(known, count):
    functions = both_modes(False, False)
    assert len(functions.others(known)) == count
    assert (functions.serve(5), functions.serve(7)) == (True, False)


@pytest.mark.live
def test_live_objects_with_variables_of_other_names(tmp_path):
    """Beside one with the names of a batch norm's variables they were left out in silence."""
    import tensorflow as tf

    class Norm(tf.Module):
        def __init__(self, *names):
            super().__init__()
            self.roles = names
            for number, name in enumerate(names, 1):
                setattr(self, name, tf.Variable(np.arange(1, 4, dtype="f4") * number))

        def __call__(self, x):
            mean, variance, beta, gamma = (getattr(self, name) for name in self.roles)
            return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 0.02)

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Norm("moving_mean", "moving_variance", "beta", "gamma"), Norm("u", "s", "b", "k")
            self.three = Norm("u2", "s2", "b2", "k2")

        @tf.function(input_signature=[tf.TensorSpec((None, 3))])
        def __call__(self, x):
            return tf.nondifferentiable_batch_function(1, 8, 1)(lambda y: self.three(self.two(y)))(self.one(x))

    net = Net()
    tf.saved_model.save(net, str(tmp_path / "m"))
    bundle = exporter.read(tmp_path / "m")
    x = y = np.random.default_rng(0).normal(size=(4, 3)).astype("f4")
    for layer in bundle:
        y = layer(y)
    assert len(bundle) == 3
    assert np.allclose(y, net(x), rtol=1e-4, atol=1e-5)

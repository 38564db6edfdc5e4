"""A user's own formula over the variables of a batch norm whose config stays as it is: the graph shows it, and the layer is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import exporter
from exporter.batchnorm.stored import Statistic
from exporter.errors import UnresolvedError
from exporter.sources.tf_graph.graph_norm import UNKNOWN_FORM
from exporter.sources.tf_objects.formula import OTHER_VARIABLES
from tests.make.graph_files import const, formula, frozen_variables, graph, node, parameters, variables
from tests.make.live import ROLES, config
from tests.make.tensor_files import field
from tests.sources.test_saved_model import CHILDREN, VECTORS, read, write_exported, write_exported_by_keras
from tests.sources.test_tf1_checkpoint import X, save

ALSO = "its call computes more than a batch norm: also what the op {} computes"
SERVE = "__inference_signature_wrapper_7"
NUMBERS = [const("bn/two", np.float32(2)), const("bn/to", np.int32([0, 1, 2, 3]))]


def norm(x):
    return node("bn/FusedBatchNormV3", "FusedBatchNormV3", x, *VECTORS, epsilon=2e-3, is_training=False)


def saved(folder, *ops, own_call=("call",), class_name="BatchNormalization"):
    """A SavedModel of a layer with a config and a function of its call."""
    write_exported(folder, children=CHILDREN, ops=[*NUMBERS, *ops], serve=SERVE, own_call=own_call)
    said = {**config("bn", 2e-3), "name": "bn", "build_input_shape": [None, 4, 4, 3], "class_name": class_name}
    (folder / "keras_metadata.pb").write_bytes(field(1, field(2, 1) + field(5, json.dumps(said))))
    found = read(folder)
    return found.paths(), [reason for _, reason in found.skipped]


@pytest.mark.parametrize(("before", "after", "said"), [
    ("Identity", "Mul", ALSO.format("Mul")), ("Mul", "Identity", ALSO.format("Mul")), ("Identity", "Relu", ALSO.format("Relu")),
    ("Abs", "Cast", ALSO.format("Abs")), ("Cast", "Identity", ""), ("Transpose", "Transpose", ""), ("Reshape", "Reshape", "")])
def test_what_the_call_of_a_layer_does_besides_its_batch_norm(tmp_path, before, after, said):
    """2 * super().call(x); casts and shapes are Keras's own."""
    def op(kind, name, given):
        return node(name, kind, given, *{"Mul": ["bn/two:output:0"], "Transpose": ["bn/to:output:0"],
                                         "Reshape": ["bn/to:output:0"]}.get(kind, []))

    ops = [op(before, "bn/before", "x"), norm("bn/before:y:0"), op(after, "bn/after", "bn/FusedBatchNormV3:y:0"),
           node("call", "Identity", "bn/after:y:0")]
    for number, own_call in enumerate((["call"], [SERVE], [SERVE, "call"])):  # a function may call another one that computes
        assert saved(tmp_path / str(number), *ops, own_call=own_call) == (([], [said]) if said else (["bn"], []))
    assert saved(tmp_path / "none", *ops, own_call=()) == (["bn"], [])


@pytest.mark.parametrize(("class_name", "paths"), [("BatchNormalization", ["bn"]), ("lab>Norm", [])])
def test_what_follows_outside_of_the_scope_of_a_layer_is_of_another_one(tmp_path, class_name, paths):
    """Of Keras's own classes the functions of calls are only looked at where the model's function gives a reason to, as that takes time."""
    fused = node("net/bn/norm", "FusedBatchNormV3", "net/tanh/Tanh:y:0", *VECTORS, epsilon=2e-3, is_training=False)
    ops = [node("net/tanh/Tanh", "Tanh", "x"), fused, node("net/relu/Relu", "Relu", "net/bn/norm:y:0"),
           node("call", "Identity", "net/relu/Relu:activations:0")]
    assert saved(tmp_path, *ops, class_name=class_name)[0] == paths


@pytest.mark.parametrize("scope", ["bn", "bn/batchnorm"])
@pytest.mark.parametrize("casts", [True, False])
def test_what_a_layer_of_keras_does_besides_its_batch_norm_is_in_its_scope(tmp_path, scope, casts):
    """Perhaps after a cast, as with mixed precision."""
    fused = node(f"{scope}/norm", "FusedBatchNormV3", "tanh/Tanh:y:0", *VECTORS, epsilon=2e-3, is_training=False)
    cast = [node("bn/Cast", "Cast", f"{scope}/norm:y:0")] if casts else []
    ops = [node("tanh/Tanh", "Tanh", "x"), fused, *cast, node("bn/mul", "Mul", "bn/Cast:y:0" if casts else f"{scope}/norm:y:0",
                                                              "bn/two:output:0"), node("call", "Identity", "bn/mul:z:0")]
    assert saved(tmp_path, *ops) == ([], [ALSO.format("Mul")])


@pytest.mark.parametrize(("after", "said"), [("Relu", ALSO.format("Relu")), ("Identity", "")])
def test_a_call_whose_function_calls_the_one_that_computes(tmp_path, after, said):
    ops = [norm("x"), node("bn/after", after, "bn/FusedBatchNormV3:y:0"), node("call", "Identity", "bn/after:y:0")]
    assert saved(tmp_path, *ops, own_call=("__inference_signature_wrapper_7",)) == (([], [said]) if said else (["bn"], []))


def test_a_call_whose_function_chooses_is_not_refused(tmp_path):
    choice = node("call", "Select", "x", "bn/FusedBatchNormV3:y:0", "x")
    assert saved(tmp_path, norm("x"), choice) == (["bn"], [])


OTHER = "the graph does not use its {0} as the {0} of a batch norm"
TRUNCATED = "no op of the graph uses its beta: the graph seems to be truncated"  # only of a file that contains its own variables
SPELLED = "r = rsqrt(v + e); n = (x - m) * r; "


@pytest.mark.parametrize(("text", "names", "said"), [
    (SPELLED + "y = n * g + b", ROLES, ""), (SPELLED + "y = (n + b) * g", ROLES, OTHER.format("gamma")),
    (SPELLED + "y = n * g - b", ROLES, OTHER.format("beta")),
    (SPELLED + "y = n * g + b; z = (n + b) * g", ROLES, ""),
    (SPELLED + "y = n * g", ROLES, TRUNCATED), (SPELLED + "y = (n + b) * g", ("scale", *ROLES[1:]), ""),
    (SPELLED + "y = (n + b) * g", (*ROLES[:3], "variance"), "")])
@pytest.mark.parametrize("kind", ["frozen", "checkpoint"])
def test_a_gamma_or_beta_that_a_graph_uses_for_something_else(tmp_path, kind, text, names, said):
    """What comes after a batch norm is no part of it; the name says here that gamma is, and that the formula is another one."""
    values, nodes = parameters(), [const("e", np.float32(1e-3))]
    for scope, ends, formed in (("sound", ROLES, SPELLED + "y = n * g + b"), ("bn", names, text)):
        held, reads = frozen_variables(scope, values, ends) if kind == "frozen" else variables(scope, names=ends)
        nodes += [*held, *formula(formed, f"{scope}_", x="x", e="e", **dict(zip("gbmv", reads, strict=True)))]
    if kind == "frozen":
        (tmp_path / "model.ckpt.index").write_bytes(graph(X, *nodes))
    else:
        save(tmp_path, {f"{scope}/{end}": value for scope, ends in (("sound", ROLES), ("bn", names))
                        for end, value in zip(ends, values, strict=True)}, *nodes)
    bundle = exporter.read(tmp_path / "model.ckpt.index", skip_unresolved=True)
    said = "" if said == TRUNCATED and kind == "checkpoint" else said
    assert dict(bundle.skipped) == ({"bn": said} if said else {})
    assert bundle.paths() == ["sound", *["bn"] * (said in ("", TRUNCATED))]


def test_a_gamma_used_for_something_else_behind_sums_of_one_value(tmp_path):
    """Each is looked at once, however many ways lead to it."""
    nodes, reads = frozen_variables("bn", parameters())
    sums = [node(f"h{number}", "AddV2", *[f"h{number - 1}" if number else "x"] * 2) for number in range(60)]
    ops = formula(SPELLED + "y = (n + b) * g", "bn_", x="h59", e="e", **dict(zip("gbmv", reads, strict=True)))
    (tmp_path / "g.pb").write_bytes(graph(X, *nodes, const("e", np.float32(1e-3)), *sums, *ops))
    with pytest.raises(UnresolvedError, match=OTHER.format("gamma")):
        exporter.read(tmp_path / "g.pb")


@pytest.mark.parametrize(("op", "is_refused"), [
    ("VarIsInitializedOp", False), ("IsVariableInitialized", False), ("VariableShape", False), ("AssignVariableOp", False), ("Abs", True)])
def test_a_gamma_that_a_graph_only_has(tmp_path, op, is_refused):
    """TensorFlow makes ops for each variable, also for one that nothing computes with."""
    nodes, reads = variables("bn")
    nodes += [const("e", np.float32(1e-3)), *formula(SPELLED + "y = n + b", "bn_", x="x", e="e", **dict(zip("gbmv", reads, strict=True)))]
    save(tmp_path, {f"bn/{role}": value for role, value in zip(ROLES, parameters(), strict=True)}, *nodes, node("one_more", op, "bn/gamma"))
    if is_refused:
        with pytest.raises(UnresolvedError, match=OTHER.format("gamma")):
            exporter.read(tmp_path / "model.ckpt.index")
    else:
        assert exporter.read(tmp_path / "model.ckpt.index")["bn"].gamma is None


@pytest.mark.parametrize(("names", "is_kept"), [
    (ROLES, False), (("gamma", "gamma", *ROLES[2:]), True), (("gamma", "moving_variance", *ROLES[2:]), True)])
def test_a_gamma_that_an_exported_function_uses_for_something_else(tmp_path, names, is_kept):
    """Without Keras's objects; not if several variables have its name, or that of the variance."""
    given = ["ones:output:0", *VECTORS[1:]]
    ops = [const("ones", np.ones(3, "f4")), node("n", "FusedBatchNormV3", "x", *given, epsilon=2e-3, is_training=False),
           node("call", "Mul", "n:y:0", VECTORS[0])]
    found = read(write_exported(tmp_path, ops=ops, full_names=names, serve=SERVE))
    assert (found.paths(), found.skipped) == (["net/bn"], []) if is_kept else ([], [("net/bn", OTHER.format("gamma"))])


@pytest.mark.parametrize(("gamma", "said"), [
    ([const("one", np.float32(1)), node("made", "Add", "net/bn/gamma/read", "one")], "its gamma is what the op Add computes"),
    ([const("made", np.float32([2, 3, 4]))], "its config has a gamma, which the graph does not use"), (
        [node("made", "Identity", "net/bn/gamma/read")], ""), ([const("none", np.int32([3])), node("made", "Fill", "none", "one"),
                                                   const("one", np.float32(1))], "its config has a gamma, which the graph does not use")])
def test_a_formula_in_a_graph_of_tensorflow_1_beside_a_config(tmp_path, gamma, said):
    found = read(write_exported_by_keras(tmp_path, gamma=gamma))
    assert (found.paths(), [reason for _, reason in found.skipped]) == (([], [said]) if said else (["mine"], []))


def centered(layer, x):
    import tensorflow as tf

    return (x - layer.moving_mean) * tf.math.rsqrt(layer.moving_variance + layer.epsilon)


def forms(tf):
    """What the call of each class computes, and why it is refused; "" if it is not."""
    return {
        "plain": (lambda s, x: tf.nn.batch_normalization(x, s.moving_mean, s.moving_variance, s.beta, s.gamma, s.epsilon), ""),
        "one_more": (lambda s, x: centered(s, x) * (1 + s.gamma) + s.beta, "its gamma is what the op AddV2 computes"),
        "no_beta": (lambda s, x: centered(s, x) * s.gamma, "its config has a beta, which the graph does not use"),
        "no_gamma": (lambda s, x: centered(s, x) + s.beta, "its config has a gamma, which the graph does not use"),
        "beta_first": (lambda s, x: (centered(s, x) + s.beta) * s.gamma, OTHER.format("gamma")),
        "exp": (lambda s, x: (x - s.moving_mean) / tf.sqrt(tf.exp(s.moving_variance) + s.epsilon) * s.gamma + s.beta, UNKNOWN_FORM),
        "no_mean": (lambda s, x: x / tf.sqrt(s.moving_variance + s.epsilon) * s.gamma + s.beta, UNKNOWN_FORM),
        "no_root": (lambda s, x: (x - s.moving_mean) / (s.moving_variance + s.epsilon) * s.gamma + s.beta, UNKNOWN_FORM),
        "twice": (lambda s, x: centered(s, x) * tf.math.rsqrt(s.moving_variance + s.epsilon) * s.gamma + s.beta,
                  "its gamma is what the op Rsqrt computes"),
        "outside": (lambda s, x: (x - s.moving_mean) / (tf.sqrt(s.moving_variance) + s.epsilon) * s.gamma + s.beta, ""),
        "number": (lambda s, x: tf.nn.batch_normalization(x, s.moving_mean, s.moving_variance, s.beta, s.gamma, 0.5),
                   "its epsilon is 0.001 in its config and 0.5 in the graph: the code of its class uses another one, or the file was "
                   "changed after it was saved"),
        "scaled": (lambda s, x: 2 * tf.nn.batch_normalization(x, s.moving_mean, s.moving_variance, s.beta, s.gamma, s.epsilon),
                   ALSO.format("Mul")),
        "numbers": (lambda s, x: tf.nn.batch_normalization(x, s.moving_mean, s.moving_variance, s.beta, tf.constant([2.0, 3, 4]),
                                                           s.epsilon), "its config has a gamma, which the graph does not use"),
        "number_as_mean": (lambda s, x: tf.nn.batch_normalization(x, tf.constant([2.0, 3, 4]), s.moving_variance, s.beta, s.gamma,
                                                                  s.epsilon), OTHER_VARIABLES),
        "gamma_alone": (lambda s, x: x * s.gamma, "the graph uses its gamma and not its moving_variance, so that it computes no batch norm "
                        "with them"),
        "nothing": (lambda s, x: tf.tanh(x), "its call does not use its moving_variance"),
    }


@pytest.mark.live
@pytest.mark.parametrize("class_name", ["BatchNormalization", pytest.param("Norm", marks=pytest.mark.thorough("much time"))])
def test_live_formulas_of_a_users_class(tmp_path, class_name):
    """A subclass may have the name of Keras's own class, and its config."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed", exc_type=ImportError)
    keras = pytest.importorskip("tf_keras", reason="tf_keras is not installed")
    said = forms(tf)

    def layer(name, form):
        def call(self, x, training=None):
            return form(self, x)

        return type(class_name, (keras.layers.BatchNormalization,), {"call": tf.autograph.experimental.do_not_convert(call)})(name=name)

    x = keras.Input((4, 3))
    keras.Model(x, [layer(name, form)(x) for name, (form, _) in said.items()]).save(str(tmp_path / "m"), save_format="tf")
    found = read(tmp_path / "m")
    assert dict(found.skipped) == {name: reason for name, (_, reason) in said.items() if reason}
    assert found.paths() == [name for name, (_, reason) in said.items() if not reason]
    assert found["outside"].statistic is Statistic.EPSILON_OUTSIDE
    (tmp_path / "m" / "keras_metadata.pb").unlink()
    found = read(tmp_path / "m")  # without a config, the layer is what the graph computes
    assert [(layer.gamma is None, layer.beta is None) for layer in (found["no_gamma"], found["no_beta"])] == [(True, False), (False, True)]

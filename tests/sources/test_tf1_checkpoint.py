"""Checkpoints of tf.train.Saver: roles by the graph beside them, by names where these are certain, averages as asked for."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

import exporter
from exporter.batchnorm import vectors
from exporter.errors import FormatError, MissingFileError, UnresolvedError, UnsupportedError, UsageError
from exporter.files.place import Place
from exporter.formats.object_graph import OBJECT_GRAPH
from tests.make.graph_files import chain, const, graph, meta_graph, node, parameters, tensor, variables
from tests.make.layers import ROOT
from tests.make.tensor_files import graph_proto, write_bundle, write_v1

ROLES = ("gamma", "beta", "moving_mean", "moving_variance")
X = node("x", "Placeholder", shape=(-1, 3))
SAMPLE = ROOT / "sample_models" / "hand_made_tf115"


def tensors(scope, values, names=ROLES):
    return {f"{scope}/{name}": value for name, value in zip(names, values, strict=False)}


def save(folder, stored, *nodes, version="1.15.5", **options):
    """A checkpoint, with a graph where there are nodes."""
    index = write_bundle(folder, "model.ckpt", stored, **options)
    if nodes:
        (folder / "model.ckpt.meta").write_bytes(meta_graph(graph(X, *nodes), version))
    return index


def save_under_other_names(folder, values, stored=None, op="SaveV2"):
    """As Saver(var_list={"one": gamma, ...}) does: the save op says which variable is stored as what. stored: what is, by another saver."""
    nodes, reads = variables("bn")
    stored_as = [b"one", b"two", b"three", b"four"]
    saver = [node("save/tensor_names", "Const", value=tensor(stored_as)),
             node(f"save/{op}", op, "save/Const", "save/tensor_names", *(["save/slices"] if op != "Save" else []),
                  *(f"bn/{role}" for role in ROLES))]
    stored = stored or dict(zip([name.decode() for name in stored_as], values, strict=True))
    return save(folder, stored, *nodes, *chain("bn", "x", *reads), *saver)


def check(layer, values, *, epsilon=1e-3):
    for role, expected in zip(ROLES, values, strict=True):
        found = getattr(layer, role)
        assert (found is None) == (expected is None), role
        assert found is None or found.tobytes() == np.asarray(expected).tobytes(), role
    assert layer.epsilon == (None if epsilon is None else float(np.float32(epsilon)))


def test_the_public_question():
    """-0.077417567 became 0.30664611: epsilon stands under the root. With sqrt(variance) + epsilon it would be 0.543057."""
    layer = exporter.read(SAMPLE / "model.ckpt.index")["layer_0/bn"]
    first = [getattr(layer, role)[0] for role in ROLES]
    assert first == [np.float32(value) for value in (1.0055743, -0.016652612, -0.089603029, 0.000436493)]
    assert layer.epsilon == float(np.float32(1e-3))
    x = np.zeros((1, 5), np.float32)
    x[0, 0] = -0.077417567
    y = layer(x)
    assert abs(float(y[0, 0]) - 0.30664611) <= vectors.bound(layer, x)[0, 0]
    gamma, beta, mean, variance = (float(value) for value in first)
    assert gamma * (x[0, 0] - mean) / (np.sqrt(variance) + 1e-3) + beta == pytest.approx(0.543057, abs=1e-6)


def test_a_saver_that_is_given_reads_of_variables(tmp_path):
    """Also through several ops that change no value; of what is computed it stores no variable."""
    values = parameters()
    nodes, reads = variables("bn")
    more = [node(f"more_{n}", "Switch" if n else "Identity", one, "p") for n, one in enumerate(reads)]
    saver = [node("p", "Placeholder"), *more, node("twice", "Add", reads[0], reads[0]),
             node("save/tensor_names", "Const", value=tensor([b"one", b"two", b"three", b"four", b"five"])),
             node("save/SaveV2", "SaveV2", "save/Const", "save/tensor_names", "save/slices", *(f"more_{n}" for n in range(4)), "twice")]
    stored = dict(zip(("one", "two", "three", "four"), values, strict=True))
    check(exporter.read(save(tmp_path, {**stored, "five": values[1]}, *nodes, *chain("bn", "x", *reads), *saver))["bn"], values)


@pytest.mark.parametrize("name", ["a", "model.ckpt-100"])
def test_the_graph_beside_a_checkpoint_means_the_checkpoint(tmp_path, name):
    values = parameters()
    nodes, reads = variables("bn")
    (tmp_path / f"{name}.meta").write_bytes(meta_graph(graph(X, *nodes, *chain("bn", "x", *reads))))
    write_bundle(tmp_path, name, tensors("bn", values))
    write_bundle(tmp_path, "other", tensors("bn", parameters(seed=1)))
    check(exporter.read(tmp_path / f"{name}.meta")["bn"], values)


@pytest.mark.parametrize("meta", ["model.ckpt.meta", "graph.meta"])
def test_another_saver_of_the_graph_may_use_the_variables_own_names(tmp_path, meta):
    values = parameters()
    index = save_under_other_names(tmp_path, values, tensors("bn", values))
    (tmp_path / "model.ckpt.meta").rename(tmp_path / meta)
    check(exporter.read(index)["bn"], values)


def test_free_names_get_their_roles_from_the_graph(tmp_path):
    values = parameters()
    names = ("scale", "offset", "mean_of_it", "sigma2")
    nodes, reads = variables("net/q", names=names)
    index = save(tmp_path, tensors("net/q", values, names), *nodes, *chain("bn", "x", *reads, epsilon=5e-3))
    bundle = exporter.read(index)
    assert (bundle.origin.kind, bundle.origin.tensorflow_version, bundle.paths()) == ("tf-checkpoint", "1.15.5", ["net/q"])
    check(bundle["net/q"], values, epsilon=5e-3)


@pytest.mark.parametrize("shift", [np.float32(0.5), np.float32([0.5, 0.6, 0.7])])
def test_an_input_that_is_shifted_first(tmp_path, shift):
    """x - 0.5 before a batch norm: the mean is the variable, not the number; in a checkpoint nothing else would show it."""
    values = parameters()
    nodes, reads = variables("bn")
    before = [const("half", shift), node("h", "Sub", "x", "half")]
    check(exporter.read(save(tmp_path, tensors("bn", values), *before, *nodes, *chain("bn", "h", *reads)))["bn"], values)


@pytest.mark.parametrize("op", ["VariableV2", "Variable", "VarHandleOp"])
def test_each_kind_of_variable(tmp_path, op):
    values = parameters()
    nodes, reads = variables("bn", op=op)
    check(exporter.read(save(tmp_path, tensors("bn", values), *nodes, *chain("bn", "x", *reads)))["bn"], values)


def test_a_checkpoint_of_version_1(tmp_path):
    values = parameters()
    nodes, reads = variables("bn")
    write_v1(tmp_path / "old.ckpt", tensors("bn", values))
    (tmp_path / "old.ckpt.meta").write_bytes(meta_graph(graph(X, *nodes, *chain("bn", "x", *reads))))
    check(exporter.read(tmp_path / "old.ckpt")["bn"], values)


@pytest.mark.parametrize("op", ["SaveV2", "SaveSlices", "Save"])
def test_names_that_the_saver_gave(tmp_path, op):
    values = parameters()
    index = save_under_other_names(tmp_path, values, op=op)
    check(exporter.read(index)["bn"], values)


def test_names_that_the_saver_gave_are_not_those_of_an_unused_layer(tmp_path):
    values, names = parameters(), ("scale", "offset", "mu", "sigma2")
    nodes, reads = variables("net/q", names=names)
    stored = tensors("bn", values)
    saver = [node("save/tensor_names", "Const", value=tensor([name.encode() for name in stored])),
             node("save/SaveV2", "SaveV2", "save/Const", "save/tensor_names", "save/slices", *(f"net/q/{name}" for name in names))]
    bundle = exporter.read(save(tmp_path, stored, *nodes, *chain("q", "x", *reads), *saver))
    assert (bundle.paths(), bundle.skipped) == (["net/q"], ())


@pytest.mark.parametrize("given", [False, True])
def test_an_object_based_checkpoint_with_its_graph(tmp_path, given):
    """Keras's estimators of TensorFlow 2 write both: the epsilon is in the graph alone."""
    values = parameters()
    objects = graph_proto([({"bn": 1}, None), (dict(zip(ROLES, range(2, 6), strict=True)), None),
                           *(({}, (f"bn/{role}", key)) for role, key in zip(ROLES, ("one", "two", "three", "four"), strict=True))])
    stored = dict(zip(("one", "two", "three", "four"), values, strict=True))
    index = save_under_other_names(tmp_path, values, {**stored, OBJECT_GRAPH: [objects]})
    options = {}
    if given:
        options = {"architecture": (tmp_path / "model.ckpt.meta").rename(tmp_path / "other.meta")}
    check(exporter.read(index, **options)["bn"], values)
    check(exporter.read(index, epsilon=0.25, architecture=options.get("architecture"))["bn"], values)  # the graph's own goes first


def test_partitioned_variables(tmp_path):
    values = parameters(5)
    nodes, reads = [const("axis", np.int32(0))], []
    for role in ROLES:
        parts = [f"bn/{role}/part_{number}" for number in range(2)]
        nodes += [node(part, "VariableV2") for part in parts]
        nodes += [node(f"{part}/read", "Identity", part) for part in parts]
        nodes.append(node(f"bn/{role}/concat", "ConcatV2", *(f"{part}/read" for part in parts), "axis"))
        reads.append(f"bn/{role}/concat")
    graphs = [*nodes, *chain("bn", "x", *reads)]
    slices = {f"bn/{role}": [[(0, 3)], [(3, 2)]] for role in ROLES}
    check(exporter.read(save(tmp_path, tensors("bn", values), *graphs, slices=slices))["bn"], values)
    alone = {f"bn/{role}/part_{number}": part for role, value in zip(ROLES, values, strict=True)
             for number, part in enumerate((value[:3], value[3:]))}
    check(exporter.read(save(tmp_path, alone, *graphs))["bn"], values)


def test_a_part_of_a_partitioned_variable_that_is_not_there(tmp_path):
    values = parameters(5)
    nodes, reads, stored = [const("axis", np.int32(0))], [], {}
    for role, array in zip(ROLES, values, strict=True):
        for number, part in enumerate((array[:2], array[2:])):
            nodes += [node(f"bn/{role}/part_{number}", "VariableV2"),
                      node(f"bn/{role}/part_{number}/read", "Identity", f"bn/{role}/part_{number}")]
            stored[f"bn/{role}/part_{number}"] = part
        nodes.append(node(f"bn/{role}", "ConcatV2", f"bn/{role}/part_0/read", f"bn/{role}/part_1/read", "axis"))
        reads.append(f"bn/{role}")
    index = save(tmp_path, stored, *nodes, *chain("bn", "x", *reads))
    check(exporter.read(index)["bn"], values)
    del stored["bn/gamma/part_1"]
    save(tmp_path, stored, *nodes, *chain("bn", "x", *reads))
    with pytest.raises(UnresolvedError, match="no value of its gamma"):
        exporter.read(index)


def test_variables_that_are_not_there_are_unresolved(tmp_path):
    values = parameters()
    nodes, reads = variables("bn")
    index = save(tmp_path, tensors("bn", values[:3]), *nodes, *chain("bn", "x", *reads))
    with pytest.raises(UnresolvedError, match="bn: the file contains no value of its moving_variance, the variable bn/moving_variance"):
        exporter.read(index)


def test_what_the_graph_does_not_compute_with_is_named(tmp_path):
    values = parameters()
    nodes, reads = variables("bn")
    index = save(tmp_path, {**tensors("bn", values), **tensors("left", values)}, *nodes, *chain("bn", "x", *reads))
    bundle = exporter.read(index, skip_unresolved=True)
    assert bundle.paths() == ["bn"]
    assert bundle.skipped == (("left", "the graph beside the checkpoint does not use it"),)


def test_gamma_of_ones_in_the_graph_is_none(tmp_path):
    values = parameters()
    nodes, reads = variables("bn", names=ROLES[1:], count=3)
    fused = node("bn/FusedBatchNorm", "FusedBatchNorm", "x", "scale", *reads, is_training=False, epsilon=0.001)
    index = save(tmp_path, tensors("bn", values[1:], ROLES[1:]), *nodes, const("scale", np.ones(3, "f4")), fused)
    check(exporter.read(index)["bn"], [None, *values[1:]])


def test_variables_that_hold_ones_and_zeros_stay(tmp_path):
    """They are the layer's, as it was before it was trained."""
    values = [np.ones(3, "f4"), np.zeros(3, "f4"), *parameters()[2:]]
    nodes, reads = variables("bn")
    fused = node("bn/FusedBatchNorm", "FusedBatchNorm", "x", *reads, is_training=False, epsilon=0.001)
    check(exporter.read(save(tmp_path, tensors("bn", values), *nodes, fused))["bn"], values)


@pytest.mark.parametrize(("offset", "kept"), [(np.zeros(3, "f4"), None), (np.float32([0, 1, 2]), np.float32([0, 1, 2]))])
def test_beta_of_zeros_in_the_graph_is_none(tmp_path, offset, kept):
    """A number in the graph beside variables in the checkpoint; one that adds something is kept."""
    values = parameters()
    names = ("gamma", "moving_mean", "moving_variance")
    nodes, (gamma, mean, variance) = variables("bn", names=names, count=3)
    fused = node("bn/FusedBatchNorm", "FusedBatchNorm", "x", gamma, "offset", mean, variance, is_training=False, epsilon=0.001)
    index = save(tmp_path, tensors("bn", [values[0], *values[2:]], names), *nodes, const("offset", offset), fused)
    check(exporter.read(index)["bn"], [values[0], kept, *values[2:]])


@pytest.mark.parametrize(("version", "epsilon", "effective"), [("1.3.0", 1e-7, 1.00001e-7), ("1.12.0", 1.00001e-7, None)])
def test_what_the_first_fused_kernel_added_to_epsilon(tmp_path, version, epsilon, effective):
    """tf.nn.fused_batch_norm of TensorFlow 1.0 to 1.3 put epsilon + 1e-12 into the graph where epsilon was 1e-5 or less."""
    nodes, reads = variables("bn")
    fused = node("bn/FusedBatchNorm", "FusedBatchNorm", "x", *reads, is_training=False, epsilon=1.00001e-7)
    layer = exporter.read(save(tmp_path, tensors("bn", parameters()), *nodes, fused, version=version))["bn"]
    assert layer.epsilon == float(np.float32(epsilon))
    assert layer.effective_epsilon == (None if effective is None else float(np.float32(effective)))


def in_training(scope, reads, *, updates=True):
    """A chain over the batch's statistics, and the update ops of tf.layers that keep the moving ones."""
    gamma, beta, mean, variance = reads
    nodes = [const("axes", np.int32([0])), node("batch_mean", "Mean", "x", "axes"), node("square", "SquaredDifference", "x", "batch_mean"),
             node("batch_variance", "Mean", "square", "axes"), *chain(scope, "x", gamma, beta, "batch_mean", "batch_variance")]
    for name, read, batch in (("m", mean, "batch_mean"), ("v", variance, "batch_variance")) if updates else ():
        nodes += [const(f"{name}/decay", np.float32(0.01)), node(f"{name}/sub", "Sub", read, batch),
                  node(f"{name}/mul", "Mul", f"{name}/sub", f"{name}/decay"),
                  node(name, "AssignSub", read.removesuffix("/read"), f"{name}/mul")]
    return nodes


def test_a_training_graph_gives_the_moving_averages_that_it_keeps(tmp_path):
    values = parameters()
    nodes, reads = variables("bn")
    index = save(tmp_path, tensors("bn", values), *nodes, *in_training("bn", reads))
    bundle = exporter.read(index)
    check(bundle["bn"], values)
    assert bundle.warnings == ("bn: in training mode in this graph; exported with the moving averages that it keeps for inference",)
    check(exporter.read(index, ema="no")["bn"], values)


def test_moving_averages_that_were_never_updated_are_not_what_the_model_uses(tmp_path):
    values = [*parameters()[:2], np.zeros(3, "f4"), np.ones(3, "f4")]
    nodes, reads = variables("bn")
    index = save(tmp_path, tensors("bn", values), *nodes, *in_training("bn", reads))
    with pytest.raises(UnresolvedError, match="its moving averages were never updated"):
        exporter.read(index)
    check(exporter.read(index, ema="yes")["bn"], values)


@pytest.mark.parametrize(("mean", "variance"), [(0, 2), (1, 1)])
def test_moving_averages_of_which_one_was_updated_are_used(tmp_path, mean, variance):
    values = [*parameters()[:2], np.full(3, mean, "f4"), np.full(3, variance, "f4")]
    nodes, reads = variables("bn")
    check(exporter.read(save(tmp_path, tensors("bn", values), *nodes, *in_training("bn", reads)))["bn"], values)


def test_a_graph_of_training_may_hold_both_modes(tmp_path):
    """Unlike one that serves the model, it is no file of inference alone: a loss may compare the two."""
    values = parameters()
    nodes, reads = variables("bn")
    ops = [*in_training("copy", reads, updates=False), *chain("bn", "x", *reads), node("sum", "Add", "copy/batchnorm/add_1",
                                                                                     "bn/batchnorm/add_1")]
    bundle = exporter.read(save(tmp_path, tensors("bn", values), *nodes, *ops))
    check(bundle["bn"], values)
    assert (bundle.skipped, bundle.warnings) == ((), ())


def test_statistics_of_the_batch_that_nobody_keeps_are_unresolved(tmp_path):
    nodes, reads = variables("bn")
    index = save(tmp_path, tensors("bn", parameters()), *nodes, *in_training("bn", reads, updates=False))
    with pytest.raises(UnresolvedError, match=r"bn: it uses the statistics of the batch \(is_training\), not stored ones"):
        exporter.read(index)


def test_averages_of_variables_as_asked_for(tmp_path):
    values, averages = parameters(), parameters(seed=1)
    shadows = {f"{name}/ExponentialMovingAverage": value for name, value in tensors("bn", averages[:2]).items()}
    nodes, reads = variables("bn")
    index = save(tmp_path, {**tensors("bn", values), **shadows}, *nodes, *chain("bn", "x", *reads))
    bundle = exporter.read(index)
    check(bundle["bn"], values)
    assert "exponential moving averages of bn/gamma, bn/beta" in bundle.warnings[0]
    check(exporter.read(index, ema="no")["bn"], values)
    assert not exporter.read(index, ema="no").warnings
    assert not exporter.read(index, ema="yes").warnings
    check(exporter.read(index, ema="yes")["bn"], [*averages[:2], *values[2:]])


def test_averages_that_the_graph_reads(tmp_path):
    values, averages = parameters(), parameters(seed=1)
    names = [f"{role}/ExponentialMovingAverage" for role in ROLES[:2]]
    nodes, reads = variables("bn", names=(*names, *ROLES[2:]))
    index = save(tmp_path, {**tensors("bn", values), **tensors("bn", averages, names)}, *nodes, *chain("bn", "x", *reads))
    (layer,) = exporter.read(index)
    check(layer, [*averages[:2], *values[2:]])
    (layer,) = exporter.read(index, ema="no")
    check(layer, values)


def test_statistics_that_an_unresolved_batch_norm_uses_are_not_called_unused(tmp_path):
    """Its own scope is that of its gamma and beta."""
    nodes, (mean, variance) = variables("bn", names=ROLES[2:])
    more, (gamma, beta) = variables("affine", 2)
    values = parameters()
    stored = {**tensors("bn", values[2:], ROLES[2:]), **tensors("affine", values[:2]), **tensors("left", values)}
    norm = node("norm", "FusedBatchNorm", "x", gamma, beta, mean, "e", is_training=False, epsilon=0.001)
    index = save(tmp_path, stored, *nodes, *more, node("e", "Exp", variance), norm)
    with pytest.raises(UnresolvedError) as caught:
        exporter.read(index)
    assert [(path, "does not use it" in reason) for path, reason in caught.value.layers] == [("affine", False), ("left", True)]


def test_names_alone(tmp_path):
    """Without a graph: whole last components in one scope; epsilon and axis are not there. Slots and averages beside are no layers."""
    values = parameters()
    stored = {**tensors("a/bn", values), **tensors("beta_bn", values[1:], ROLES[1:]), "a/bn/gamma/Adam": values[0],
              "a/bn/moving_mean/biased": values[2], "a/bn/moving_mean/ExponentialMovingAverage": values[2], "a/kernel": values[0]}
    index = save(tmp_path, stored)
    with pytest.raises(UnresolvedError, match="a/bn, beta_bn: the file does not contain its epsilon"):
        exporter.read(index)
    bundle = exporter.read(index, epsilon=0.001)
    assert bundle.paths() == ["a/bn", "beta_bn"]
    check(bundle["a/bn"].replace(epsilon=0.5), values, epsilon=0.5)
    check(bundle["beta_bn"].replace(epsilon=0.5), [None, *values[1:]], epsilon=0.5)
    assert bundle["a/bn"].assumed == ("epsilon", "axis")
    assert "exponential moving averages of a/bn/moving_mean, which are not used" in bundle.warnings[0]


@pytest.mark.parametrize(("shape", "axis"), [((3,), (-1,)), ((1, 1, 1, 3), (-1,)), ((1, 3, 1, 1), (-3,)), ((1,), (-1,))])
def test_names_alone_and_the_axes_that_shapes_say(tmp_path, shape, axis):
    values = parameters(max(shape))
    index = save(tmp_path, tensors("bn", [one.reshape(shape) for one in values]))
    (layer,) = exporter.read(index, epsilon=0.5)
    check(layer, values, epsilon=0.5)
    assert (layer.axis, layer.shape, "axis" in layer.assumed) == (axis, (max(shape),), len(shape) == 1)


def test_a_root_of_a_number_is_none_of_a_variance(tmp_path):
    """A learning rate of 1 / sqrt(step) in a graph of training."""
    values = parameters()
    nodes, reads = variables("bn")
    more = [node("step", "VariableV2", shape=()), node("step/read", "Identity", "step"), node("rate", "Rsqrt", "step/read"),
            node("y", "Mul", "rate", "x")]
    bundle = exporter.read(save(tmp_path, {**tensors("bn", values), "step": np.float32(9)}, *nodes, *more, *chain("bn", "x", *reads)))
    assert (bundle.paths(), bundle.skipped) == (["bn"], ())


def test_names_alone_do_not_tell_statistics_of_other_names(tmp_path):
    values = parameters()
    stored = {**tensors("bn", values), **tensors("own", values, ("gamma", "beta", "mean", "variance")), "own/gamma/Adam": values[0]}
    bundle = exporter.read(save(tmp_path, stored), epsilon=0.001)
    assert bundle.paths() == ["bn"]
    assert bundle.warnings[0].startswith("own: expected moving_mean and moving_variance beside gamma or beta")


@pytest.mark.parametrize(("moments", "scope"), [("{0}/moments/Squeeze{1}", "net/bn"), ("{0}/moments/moments_1/{2}", "net/bn")])
def test_averages_of_moments_by_name(tmp_path, moments, scope):
    """The hand-made batch norm without its graph: the averages' names hold the scope a second time."""
    values = parameters()
    stored = tensors(scope, values[:2])
    for value, number, word in ((values[2], "", "mean"), (values[3], "_1", "variance")):
        stored[f"{scope}/{moments.format(scope, number, word)}/ExponentialMovingAverage"] = value
    index = save(tmp_path, stored)
    bundle = exporter.read(index, epsilon=0.5)
    check(bundle[scope], values, epsilon=0.5)


def test_averages_of_moments_whose_owner_is_unclear(tmp_path):
    values = parameters()
    stored = {**tensors("bn", values[:2]), **tensors("net/bn", values[:2]),
              **{f"net/bn/moments/{last}/ExponentialMovingAverage": values[2] for last in ("Squeeze", "Squeeze_1")}}
    sure = tensors("sure", parameters(seed=1))
    for folder in ("mixed", "lonely"):
        (tmp_path / folder).mkdir()
    mixed = exporter.read(save(tmp_path / "mixed", {**stored, **sure}), epsilon=0.5, skip_unresolved=True)
    assert (mixed.paths(), [path for path, _ in mixed.skipped]) == (["sure"], ["net/bn"])
    lonely = {name: value for name, value in stored.items() if "moments" in name}
    mixed = exporter.read(save(tmp_path / "lonely", {**lonely, **sure}), epsilon=0.5, skip_unresolved=True)
    assert (mixed.paths(), [path for path, _ in mixed.skipped]) == (["sure"], ["net/bn"])
    with pytest.raises(UnresolvedError, match="its gamma and beta could belong to any of 2 scopes; "):
        exporter.read(save(tmp_path, stored))


def test_names_that_say_nothing(tmp_path):
    values = parameters()
    with pytest.raises(UnsupportedError, match="no variables are named moving_mean and moving_variance: the model") as error:
        exporter.read(save(tmp_path, tensors("bn", values, ("scale", "offset", "mean", "variance"))))
    assert ".meta" in error.value.hint
    with pytest.raises(UnresolvedError, match="bn: it has only a moving_mean"):
        exporter.read(save(tmp_path, tensors("bn", values[:3])))
    with pytest.raises(UnresolvedError, match="differ in shape or type"):
        exporter.read(save(tmp_path, tensors("bn", [*values[:3], np.ones(4, "f4")])))


def test_the_only_graph_of_the_folder_under_another_name(tmp_path):
    """tensorpack: graph-1203-084736.meta beside model-100.index; variables bn/mean/EMA and bn/variance/EMA."""
    values, names = parameters(), ("gamma", "beta", "mean/EMA", "variance/EMA")
    nodes, reads = variables("bn", names=names)
    index = save(tmp_path, tensors("bn", values, names), *nodes, *chain("bn", "x", *reads))
    (tmp_path / "model.ckpt.meta").rename(tmp_path / "graph-1203-084736.meta")
    (tmp_path / "older.meta").mkdir()
    bundle = exporter.read(index)
    check(bundle["bn"], values)
    assert "graph-1203-084736.meta, the only graph beside the checkpoint" in bundle.warnings[0]
    (tmp_path / "graph-1204-000000.meta").write_bytes((tmp_path / "graph-1203-084736.meta").read_bytes())
    with pytest.raises(UnsupportedError) as error:
        exporter.read(index)
    assert "graph-1203-084736.meta" in error.value.hint


def test_the_only_graph_of_the_folder_whose_saver_gave_names(tmp_path):
    values = parameters()
    index = save_under_other_names(tmp_path, values)
    (tmp_path / "model.ckpt.meta").rename(tmp_path / "graph.meta")
    check(exporter.read(index)["bn"], values)


def test_the_only_graph_of_the_folder_is_of_another_model(tmp_path):
    values = parameters()
    nodes, reads = variables("other")
    index = save(tmp_path, tensors("bn", values), *nodes, *chain("other", "x", *reads))
    (tmp_path / "model.ckpt.meta").rename(tmp_path / "discriminator.meta")
    assert exporter.read(index, epsilon=1e-3).paths() == ["bn"]


def test_the_only_graph_of_the_folder_has_no_batch_norm(tmp_path):
    """Then it is another one's, or says nothing of these variables."""
    index = save(tmp_path, tensors("bn", parameters()), node("y", "Relu", "x"))
    (tmp_path / "model.ckpt.meta").rename(tmp_path / "graph.meta")
    bundle = exporter.read(index, epsilon=0.5)
    assert (bundle.paths(), bundle.warnings) == (["bn"], ())


@pytest.mark.parametrize(("saver", "is_used"), [
    ([node("save/tensor_names", "Const", value=tensor([b"one"])), node("save/SaveV2", "SaveV2", "save/Const", "save/tensor_names", "s",
                                                                       "bn/gamma")], True),
    ([node("save/tensor_names", "Placeholder"), node("save/SaveV2", "SaveV2", "save/Const", "save/tensor_names", "s", "bn/gamma")], False),
    ([node("save/tensor_names", "Const", value=tensor([b"one"])), node("other/SaveV2", "SaveV2", "save/Const", "save/tensor_names", "s",
                                                                       "bn/gamma")], False),
    ([node("save/tensor_names", "Const", value=tensor([b"one"])), node("save/SaveV2", "SaveV2", "save/Const", "save/tensor_names")], False),
    ([node("save/tensor_names", "Const", value=tensor([b"one"])), node("save/Pack", "Pack", "save/Const", "save/tensor_names", "s",
                                                                       "bn/gamma")], False)],
    ids=["as it says", "unknown names", "another saver", "nothing saved", "no saver"])
def test_what_says_under_which_name_a_variable_is_stored(tmp_path, saver, is_used):
    values = parameters()
    nodes, reads = variables("bn")
    stored = {**tensors("bn", values), "one": values[0] + 1}
    check(exporter.read(save(tmp_path, stored, *nodes, *chain("bn", "x", *reads), *saver))["bn"], [values[0] + is_used, *values[1:]])


def test_names_alone_and_variables_of_two_types(tmp_path):
    values = parameters()
    index = save(tmp_path, {**tensors("bn", [values[0].astype("f8"), *values[1:]]), **tensors("sure", values)})
    bundle = exporter.read(index, epsilon=0.5, skip_unresolved=True)
    assert (bundle.paths(), [(path, "differ in shape or type" in reason) for path, reason in bundle.skipped]) == (["sure"], [("bn", True)])


def test_a_graph_from_elsewhere(tmp_path):
    values = parameters()
    nodes, reads = variables("bn")
    (tmp_path / "elsewhere.meta").write_bytes(meta_graph(graph(X, *nodes, *chain("bn", "x", *reads, epsilon=2e-3))))
    index = save(tmp_path, tensors("bn", values))
    check(exporter.read(index, architecture=tmp_path / "elsewhere.meta")["bn"], values, epsilon=2e-3)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UsageError, match=r"for a checkpoint of tf.train.Saver, expected a .meta file, got a Keras architecture"):
        exporter.read(index, architecture=tmp_path / "model.json")


def test_a_graph_that_is_cut_short_is_refused(tmp_path):
    nodes, reads = variables("bn")
    index = save(tmp_path, tensors("bn", parameters()), *nodes, *chain("bn", "x", *reads))
    meta = tmp_path / "model.ckpt.meta"
    data = meta.read_bytes()
    meta.write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match=r"model\.ckpt\.meta"):
        exporter.read(index)


# ---- live ----


class Live:
    """Batch norms in a graph of the installed TensorFlow, each with the tensors around it and the variables that play its roles."""

    def __init__(self, tf, resource):
        self.tf, self.resource, self.norms, self.random = tf, resource, {}, np.random.default_rng(7)

    def variable(self, name, size, shape=None, **options):
        tf = self.tf
        return tf.get_variable(name, shape or [size], initializer=tf.zeros_initializer(), use_resource=self.resource, **options)

    def note(self, path, x, y, roles, epsilon):
        self.norms[path] = x, y, roles, epsilon
        return y

    def four(self, scope, size, names=ROLES, **options):
        with self.tf.variable_scope(scope):
            return [self.variable(name, size, **options) for name in names]

    def fill(self, session):
        session.run(self.tf.global_variables_initializer())
        for _, _, roles, _ in self.norms.values():
            for number, role in enumerate(roles):
                for part in [] if role is None else role if isinstance(role, list) else [role]:
                    values = self.random.normal(size=part.shape) if number < 3 else 10.0 ** self.random.uniform(-5, 1, part.shape)
                    part.load(values.astype("float32"), session)


def block(live, x, size, training, scope, **average):
    """The hand-made batch norm of the public question."""
    tf = live.tf
    with tf.variable_scope(scope):
        beta, gamma = live.variable("beta", size), live.variable("gamma", size)
        mean, variance = tf.nn.moments(x, [0], name="moments")
        ema = tf.train.ExponentialMovingAverage(decay=0.5, **average)
        ema.apply([mean, variance])
        m, v = tf.cond(training, lambda: (tf.identity(mean), tf.identity(variance)), lambda: (ema.average(mean), ema.average(variance)))
        return tf.nn.batch_normalization(x, m, v, beta, gamma, 1e-3), [gamma, beta, ema.average(mean), ema.average(variance)]


def build(live, training):
    """A network of every kind of batch norm that this TensorFlow can still write."""
    tf = live.tf
    x = tf.placeholder(tf.float32, [None, 5], "x")
    h = tf.matmul(x, np.eye(5, 4, dtype="float32"))
    y, roles = block(live, h, 4, training, "outer/bn")
    h = live.note("outer/bn", h, y, roles, 1e-3)
    y, roles = block(live, h, 4, training, "bn", zero_debias=True)
    h = live.note("bn", h, y, roles, 1e-3)
    for number, (gamma, beta) in enumerate(((True, True), (True, False), (False, True), (False, False))):
        g, b, m, v = live.four(f"chain_{number}", 4, ("w", "u", "mu", "sigma2"))
        y = tf.nn.batch_normalization(h, m, v, b if beta else None, g if gamma else None, 2e-3)
        h = live.note(f"chain_{number}", h, y, [g if gamma else None, b if beta else None, m, v], 2e-3)
    g, b, m, v = live.four("by_hand", 4)
    h = live.note("by_hand", h, g * (h - m) / tf.sqrt(v + 1e-5) + b, [g, b, m, v], 1e-5)
    roles = live.four("parts", 4, partitioner=tf.fixed_size_partitioner(2))
    g, b, m, v = (tf.convert_to_tensor(role) for role in roles)
    h = live.note("parts", h, tf.nn.batch_normalization(h, m, v, b, g, 1e-3), [list(role) for role in roles], 1e-3)
    h = tf.reshape(h, [-1, 2, 1, 2])
    g, b, m, v = live.four("fused", 2)
    y = tf.cond(training, lambda h=h: tf.nn.fused_batch_norm(h, g, b, epsilon=1e-4)[0],
                lambda h=h: tf.nn.fused_batch_norm(h, g, b, m, v, epsilon=1e-4, is_training=False)[0])
    h = live.note("fused", h, y, [g, b, m, v], 1e-4)
    _, b, m, v = live.four("no_gamma", 2)
    y = tf.nn.fused_batch_norm(h, tf.ones([2]), b, m, v, epsilon=1e-3, is_training=False)[0]
    h = live.note("no_gamma", h, y, [None, b, m, v], 1e-3)
    mean, variance = tf.nn.moments(h, [1, 2, 3], keepdims=True)
    return tf.identity(tf.nn.batch_normalization(h, mean, variance, live.variable("ln_b", 2), live.variable("ln_g", 2), 1e-6), "out")


@contextlib.contextmanager
def control_flow(tf, version):
    """tf.cond of TensorFlow 1 (Switch and Merge), or of 2 (functions)."""
    was = tf.control_flow_v2_enabled()
    (tf.enable_control_flow_v2 if version == 2 else tf.disable_control_flow_v2)()
    try:
        yield
    finally:
        (tf.enable_control_flow_v2 if was else tf.disable_control_flow_v2)()


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", [
    pytest.param(1, id="switch"),
    pytest.param(2, id="functions", marks=pytest.mark.thorough("much time; frozen graphs of functions run always"))])
@pytest.mark.parametrize("resource", [
    pytest.param(False, id="reference"), pytest.param(True, id="resource", marks=pytest.mark.thorough("much time"))])
@pytest.mark.parametrize("form", ["V2", pytest.param("V1", marks=pytest.mark.thorough("much time")),
                                  pytest.param("frozen", marks=pytest.mark.thorough("much time"))])
def test_what_the_installed_tensorflow_saves(tmp_path, version, resource, form):
    """Bits, epsilon and the outputs of the session; frozen: of the same graph with constants for variables."""
    tf = pytest.importorskip("tensorflow").compat.v1
    with control_flow(tf, version), tf.Graph().as_default(), tf.Session() as session:
        live, training = Live(tf, resource), tf.placeholder_with_default(False, [], "training")
        build(live, training)
        live.fill(session)
        if form == "frozen":
            definition = tf.graph_util.convert_variables_to_constants(session, session.graph_def, ["out"])
            path = tmp_path / "frozen.pb"
            path.write_bytes(definition.SerializeToString())
        else:
            kind = tf.train.SaverDef.V2 if form == "V2" else tf.train.SaverDef.V1
            tf.train.Saver(write_version=kind).save(session, str(tmp_path / "model.ckpt"))
            path = tmp_path / ("model.ckpt.index" if form == "V2" else "model.ckpt")
        bundle = exporter.read(path)
        assert bundle.paths() == list(live.norms), "no layer lost, none invented"
        for name, (x, y, roles, epsilon) in live.norms.items():
            values = [None if role is None else np.concatenate(session.run(role)) if isinstance(role, list) else session.run(role)
                      for role in roles]
            layer = bundle[name]
            check(layer, values, epsilon=epsilon)
            given = live.random.normal(0, 2, [6, *x.shape.as_list()[1:]]).astype("float32")
            rows, wanted = (np.asarray(one, np.float64).reshape(-1, layer.shape[0]) for one in (given, session.run(y, {x: given})))
            got = np.asarray(layer(given), np.float64).reshape(-1, layer.shape[0])
            assert (np.abs(got - wanted) <= vectors.bound(layer, rows)).all(), name


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")
def test_a_live_training_graph_without_averages_is_unresolved(tmp_path):
    tf = pytest.importorskip("tensorflow").compat.v1
    with tf.Graph().as_default(), tf.Session() as session:
        live = Live(tf, False)
        g, b = live.four("bn", 3, ROLES[:2])
        tf.nn.fused_batch_norm(tf.placeholder(tf.float32, [None, 2, 2, 3]), g, b, is_training=True)
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    with pytest.raises(UnresolvedError, match=r"bn: it uses the statistics of the batch \(is_training\), not stored ones"):
        exporter.read(tmp_path / "model.ckpt.index")


def test_the_samples_truth_is_the_bundle():
    truth = json.loads((SAMPLE / "truth.json").read_text())
    bundle = exporter.read(SAMPLE / "frozen.pb")
    for path, want in truth.items():
        check(bundle[path], [np.float32(want["parameters"][role]) for role in ROLES], epsilon=want["epsilon"])


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """As on some servers: whether a graph of another name is in it cannot be told."""
    values = parameters()
    index = save(tmp_path, tensors("bn", values))

    def refuse(place):
        raise MissingFileError("no listing")

    monkeypatch.setattr(Place, "children", refuse)
    assert exporter.read(index, epsilon=0.5).paths() == ["bn"]


@pytest.mark.parametrize("count", [1, 3, 30])
def test_a_saver_that_is_given_a_variable_through_many_ops(tmp_path, count):
    """A limit ends circles: what it does not reach is read under its own name."""
    values = parameters()
    nodes, reads = variables("bn")
    steps = [node(f"s{number}", "Identity", f"s{number - 1}" if number else "bn/gamma") for number in range(count)]
    saver = [*steps, node("save/tensor_names", "Const", value=tensor([b"one"])),
             node("save/SaveV2", "SaveV2", "save/Const", "save/tensor_names", "save/slices", f"s{count - 1}")]
    stored = {**tensors("bn", values[1:], ROLES[1:]), "one": values[0], "bn/gamma": values[0] + 1}
    check(exporter.read(save(tmp_path, stored, *nodes, *chain("bn", "x", *reads), *saver))["bn"],
          [values[0] + (count == 30), *values[1:]])

"""Object graphs that differ from a common one in a detail that decides what is read: what a name holds, and where a layer stands."""

from __future__ import annotations

import pytest

import exporter
from exporter.errors import FormatError, UnsupportedError
from exporter.files.place import Place
from exporter.formats.object_graph import OBJECT_GRAPH
from exporter.sources.shared.architecture import node_tree_from
from tests.make.live import ROLES, config
from tests.make.tensor_files import graph_proto, saved_graph_proto, saved_model_proto, write_bundle
from tests.sources.test_saved_model import VALUES, held_by, metadata
from tests.sources.test_saved_model import read as read_saved_model
from tests.sources.test_saved_model import write as write_saved_model
from tests.sources.test_tf_checkpoint import Model, architecture, functional, layer, read


def sonnet(*, roles):
    model = Model()
    for role in roles:
        model.variable(("net", "bn", role), "net/batch_norm")
    for role in ROLES[2:]:
        for name, shape in (("_counter", ()), ("_hidden", (1, 3)), ("average", (1, 3))):
            model.variable(("net", "bn", role, name), f"net/batch_norm/{role}", shape)
    return model


@pytest.mark.parametrize(("roles", "kept"), [(("scale",), {"gamma"}), (("offset",), {"beta"}), ((), set())])
def test_batch_norm_of_sonnet_without_scale_or_offset(tmp_path, roles, kept):
    (found,) = exporter.read(sonnet(roles=roles).write(tmp_path), epsilon=1e-5)
    assert set(found.parameters()) == kept | {*ROLES[2:]}


def test_an_offset_of_sonnet_is_a_variable(tmp_path):
    model = sonnet(roles=("scale",))
    model.add("net", "bn", "offset", "inner")
    (found,) = exporter.read(model.write(tmp_path), epsilon=1e-5)
    assert set(found.parameters()) == {"gamma", *ROLES[2:]}


@pytest.mark.parametrize("role", ROLES[2:])
def test_what_has_a_statistic_that_is_no_variable_is_no_batch_norm(tmp_path, role):
    model = Model().norm("bn", scope="bn").norm("metric", scope="metric", roles=[one for one in ROLES if one != role])
    model.add("metric", role, "total")
    assert read(model.write(tmp_path)).paths() == ["bn"]


@pytest.mark.parametrize(("said", "epsilon"), [(config("mine", 0.25), 0.25), (layer("Own", "mine", epsilon=0.25), None)])
def test_a_stored_config_of_something_else_says_nothing_of_a_batch_norm(tmp_path, said, epsilon):
    model = Model().norm("layer_with_weights-0", scope="bn")
    model.add("layer_with_weights-0", **{"layer_with_weights-0": said})
    (found,) = read(model.write(tmp_path)).layers
    assert found.epsilon == epsilon
    assert found.class_name == "BatchNormalization"


def test_a_sequential_of_keras_3_has_no_operations(tmp_path):
    """A config of more layers than it has is another model's, also if one of these says nothing of whether it is trained."""
    model = Model().norm("model", "_functional", "_operations", "1", scope="bn")
    model.add("model", "_functional", "_operations", "0")
    tree = functional(config("bn", 1e-5), class_name="Sequential")
    (found,) = read(model.write(tmp_path), architecture=architecture(tmp_path, tree)).layers
    assert found.epsilon == 1e-5
    more = functional(layer("Dense", "d"), config("bn", 1e-5), layer("Dense", "more"), class_name="Sequential")
    with pytest.raises(FormatError, match="the model has 3 layers in it, but 2 in the checkpoint"):
        read(model.write(tmp_path), architecture=architecture(tmp_path, more))


def test_layers_that_are_objects_are_layers_whatever_their_config_says(tmp_path):
    """A class of the user's may leave out of its config what Keras's own layers say, and has an object for its number."""
    model = Model().norm("model", "_operations", "3", scope="bn")
    for number in ("0", "1"):
        model.add("model", "_operations", number)
    own, operation = layer("lab>Own", "own"), layer("NotEqual", "not_equal")
    tree = functional(layer("InputLayer", "in"), own, operation, config("bn", 1e-5, trainable=True))
    (found,) = read(model.write(tmp_path), architecture=architecture(tmp_path, tree)).layers
    assert (found.path, found.epsilon) == ("bn", 1e-5)


@pytest.mark.parametrize("name", ["optimizer", "keras_api", "save_counter"])
def test_what_is_not_of_the_model_says_nothing_of_its_name(tmp_path, name):
    """Variables of an optimizer have a scope of their own, outside of the model's."""
    model = Model().norm("net", "layer-0", scope="net/bn").dense("net", "layer-1", scope="net/fc")
    expected = read(model.write(tmp_path)).paths()
    model.variable((name, "rate"), "Adam")
    model.variable((name, "layer-0", "m"), "Adam/bn")
    assert read(model.write(tmp_path)).paths() == expected == ["bn"]


def test_a_batch_norm_that_is_all_of_a_saved_model(tmp_path):
    """No model around it says anything more of it."""
    keys = {role: f"{role}/.ATTRIBUTES/VARIABLE_VALUE" for role in ROLES}
    children = {role: number + 1 for number, role in enumerate(ROLES)}
    said = [(children, metadata()), *(({}, role) for role in ROLES)]
    write_saved_model(tmp_path, objects=saved_graph_proto(said))
    stored = [(children, None), *(({}, (role, keys[role])) for role in ROLES)]
    write_bundle(tmp_path / "variables", "variables", {**{keys[role]: VALUES[role] for role in ROLES}, OBJECT_GRAPH: [graph_proto(stored)]})
    (found,) = read_saved_model(tmp_path).layers
    assert (found.path, found.epsilon) == ("bn_1", 2e-3)


@pytest.mark.parametrize(("epsilon", "is_refused"), [(2e-3, False), (0.5, True)])
def test_what_the_nearest_model_says_of_a_layer_counts(tmp_path, epsilon, is_refused):
    sub = {"class_name": "Functional", "name": "sub", "config": {"name": "sub", "layers": [config("bn_1", epsilon)]}}
    net = {"class_name": "Functional", "name": "net", "config": {"name": "net", "layers": [{**sub}]}}
    said = {0: net, 1: metadata(), 6: sub}
    if is_refused:
        with pytest.raises(FormatError, match=r"its epsilon is 0\.002 in its own metadata and 0\.5 in its model's"):
            held_by(tmp_path, {"layer-0": 6}, [{"layer-0": 1}], said)
        return
    (found,) = held_by(tmp_path, {"layer-0": 6}, [{"layer-0": 1}], said).layers
    assert (found.path, found.epsilon) == ("sub/bn_1", 2e-3)


@pytest.mark.parametrize("roles", [ROLES[2:], ROLES[1:], ROLES])
def test_a_layer_without_gamma_and_beta_fits_an_architecture(tmp_path, roles):
    model = Model().norm("layer-0", scope="bn", roles=roles)
    flags = {"scale": "gamma" in roles, "center": "beta" in roles}
    tree = functional(config("bn", 1e-5, **flags), class_name="Sequential")
    (found,) = read(model.write(tmp_path), architecture=architecture(tmp_path, tree)).layers
    assert (found.epsilon, set(found.parameters())) == (1e-5, set(roles))


def test_the_calls_of_a_model_that_an_object_holds(tmp_path):
    """tf.train.Checkpoint(model=model): the outermost config is not that of the root, which has none."""
    model = Model().norm("model", "layer-0", scope="bn")
    listed = [{**layer("InputLayer", "x"), "name": "x", "inbound_nodes": []},
              {**config("first"), "name": "first", "inbound_nodes": [[["x", 0, 0, {"training": 1}]]]}]
    net = {"class_name": "Model", "config": {"name": "net", "layers": listed, "input_layers": [["x", 0, 0]],
                                              "output_layers": [["first", 0, 0]]}}
    model.add("model", "layer-0", **{"model": net, "model/layer-0": config("first")})
    (found,) = read(model.write(tmp_path)).layers
    assert (found.path, found.called_in_training, [each.path for each in found.inputs]) == ("first", True, ["x"])


def test_a_checkpoint_whose_only_batch_norm_holds_more(tmp_path):
    model = Model().norm("bn", scope="bn")
    model.variable(("bn", "gain"), "bn")
    found = read(model.write(tmp_path))
    assert ([path for path, _ in found.skipped], found.layers) == (["bn"], [])


@pytest.mark.parametrize("said", [[1], {"class_name": "Sequential", "config": {"name": "net", "layers": [config("bn_1", 0.03)]}}])
def test_the_config_of_a_saved_model_is_that_of_its_first_object(tmp_path, said):
    objects = saved_graph_proto([({"bn": 1}, said), ({}, config("other", 0.5))])
    (tmp_path / "saved_model.pb").write_bytes(saved_model_proto(objects))
    if isinstance(said, list):
        with pytest.raises(UnsupportedError, match="contains no config of a functional or Sequential model"):
            node_tree_from(Place(tmp_path))
        return
    assert [child.name for _, child in node_tree_from(Place(tmp_path)).tree.children] == ["bn_1"]


@pytest.mark.parametrize("kernels", [True, False])
def test_what_else_a_layer_holds_beside_its_kernel(tmp_path, kernels):
    """Objects that are no variables, such as the policy of a layer or a list."""
    model = Model().dense("layer-0", scope="fc").norm("layer-1", scope="bn")
    model.add("layer-0", "keras_api", "inner")
    model.add("layer-0", "policy")
    tree = functional(layer("Dense", "fc", units=3, use_bias=False), config("bn", 1e-5, axis=[-1]), class_name="Sequential")
    found = read(model.write(tmp_path), architecture=architecture(tmp_path, tree), kernels=kernels)
    assert (found.kernels is not None) is kernels
    assert not kernels or found.kernels["bn"].kernel.tobytes() == model.tensors["layer-0/kernel/.ATTRIBUTES/VARIABLE_VALUE"].tobytes()


@pytest.mark.parametrize("said", [{}, {"config": None}, {"config": {"name": "conv"}}])
def test_an_object_that_says_nothing_of_the_batch_norm_that_it_holds(tmp_path, said):
    """Its attribute is called as that of a layer that is a kernel and a batch norm in one."""
    outer = {"class_name": "lab>Conv", "name": "conv", **said}
    (found,) = held_by(tmp_path, {"conv": 6}, [{"batchnorm": 1}], {1: metadata(), 6: outer}).layers
    assert found.path == "conv/bn_1"


def test_a_layer_in_a_batch_norm_of_a_users_is_not_laid_over_an_object(tmp_path):
    """That layer may not have been built, and what it is called by in the config may be another object."""
    model = Model().norm("layer-0", scope="bn").dense("layer-0", "extra", scope="bn/extra")
    tree = functional(config("bn", 1e-5, "lab>BatchNormalization", extra=config("inner", 0.5)), class_name="Sequential")
    (skipped,) = read(model.write(tmp_path), architecture=architecture(tmp_path, tree)).skipped
    assert skipped.path == "bn"
    assert "it contains other layers (inner)" in skipped.reason

"""What the names of weights in legacy HDF5 files say: which parameter of which batch norm each is, where that stands, and whose it is."""

from __future__ import annotations

import pytest

from exporter.errors import FormatError
from exporter.keras.config import model_tree
from exporter.sources.legacy_h5.weights import (
    LayerGroup,
    candidates,
    check_not_exchanged,
    has_known_order,
    match,
    norms_of,
    other_weights,
    path_of,
)
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import ROLES


def group(*weights, name="g"):
    return LayerGroup(name=name, path=name, weights=weights)


def held(*scopes, roles=ROLES):
    return group(*(f"{scope}/{role}" for scope in scopes for role in roles))


WEIGHTS = [
    ("bn/gamma:0", ("bn", "gamma", "")), ("gamma", ("", "gamma", "")), ("a/b/moving_mean_12:0", ("a/b", "moving_mean", "_12")),
    ("bn/beta_1", ("bn", "beta", "_1")), ("bn_gamma", ("bn", "gamma", "")), ("a/bn_running_std:0", ("a/bn", "moving_variance", "")),
    ("bn_1_running_mean_2", ("bn_1", "moving_mean", "_2")), ("a\nb_beta:1", ("a\nb", "beta", "")), ("bn/kernel:0", None),
    ("bn/gammas", None), ("bn_moving_mean", None), ("bn/_gamma", None), ("bn/gamma:x", None), ("gamma/bn", None), ("", None)]


def test_what_the_name_of_a_weight_says():
    for weight, said in WEIGHTS:
        assert group(weight).parsed == (said,), weight


PATHS = [
    ("bn", "bn", "bn"), ("bn", "bn_1", "bn"), ("bn", "", "bn"), ("bn", "other", "bn/other"), ("bn", "bn_1/inner", "bn/bn_1/inner"),
    ("sub", "sub/bn", "sub/bn"), ("sub", "net/sub/bn", "sub/bn"), ("sub", "sub/sub/bn", "sub/bn"), ("sub", "bn_sub", "sub/bn_sub"),
    ("a/b", "a/b", "a/b"), ("a/b", "x/a/b/bn", "a/b/bn"), ("a/b", "b/bn", "a/b/b/bn"), ("sub", "net/sub", "sub"),
    ("sub", "net/x/sub/bn", "sub/bn")]


def test_the_path_of_a_batch_norm_without_a_config():
    for name, scope, path in PATHS:
        assert path_of(group(name=name), scope) == path, scope


def test_the_batch_norms_of_a_group():
    """In the order of their means; what has no mean or no variance is none."""
    names = ["b/gamma:0", "a/beta:0", "ln/gamma:0", "half/moving_mean:0", "a/moving_mean:0", "a/moving_variance:0", "b/moving_mean:0",
             "b/moving_variance:0", "fc/kernel:0", "old_running_mean", "old_running_std"]
    found = norms_of(group(*names))
    assert [(each.scope, list(each.datasets.values()), each.old_name, each.on_tensorflow) for each in found] == [
        ("a", ["g/a/beta:0", "g/a/moving_mean:0", "g/a/moving_variance:0"], False, True),
        ("b", ["g/b/gamma:0", "g/b/moving_mean:0", "g/b/moving_variance:0"], False, True),
        ("old", ["g/old_running_mean", "g/old_running_std"], True, False)]


@pytest.mark.parametrize(("roles", "may_put_beta_first", "is_sound"), [
    (ROLES, False, True), (("beta", "gamma", *ROLES[2:]), False, False), (("beta", "gamma", *ROLES[2:]), True, True), (ROLES, True, True),
    (("moving_mean", "gamma", "beta", "moving_variance"), True, False), (("gamma", "beta", "moving_variance", "moving_mean"), True, False),
    (("beta", "moving_mean", "moving_variance"), True, True), (("moving_mean", "moving_variance", "gamma"), True, False)])
def test_the_order_of_a_batch_norms_weights(roles, may_put_beta_first, is_sound):
    if is_sound:
        (found,) = norms_of(held("a", roles=roles), may_put_beta_first=may_put_beta_first)
        assert found.datasets == {role: f"g/a/{role}" for role in roles}
        return
    with pytest.raises(FormatError, match="names and positions of its weights disagree: a/"):
        norms_of(held("a", roles=roles), may_put_beta_first=may_put_beta_first)


@pytest.mark.parametrize(("numbers", "is_sound"), [
    ({"": ROLES, "_1": ROLES}, True), ({"": ROLES, "_1": ROLES[1:]}, False), ({"": ROLES[1:], "_1": ROLES}, False),
    ({"_1": ROLES}, True), ({"_1": ROLES, "_2": ROLES[1:]}, True)])
def test_numbers_that_make_names_unique(numbers, is_sound):
    """Each name has its own: they go together where all names have all of them."""
    weights = group(*(f"a/{role}{number}" for number, roles in numbers.items() for role in roles))
    found = norms_of(weights)
    assert len(found) == len(numbers)
    for one in found:
        assert ("which belong together is ambiguous" in one.doubt) is not is_sound


@pytest.mark.parametrize(("scopes", "is_sound"), [
    ({"a": "a", "b": "b"}, True), ({"a": "b", "b": "a"}, False), ({"a": "b", "b": "c", "c": "a"}, False), ({"a": "b", "b": "c"}, True),
    ({"a": "b", "b": "b"}, True), ({"a": "old", "b": "a"}, True), ({"a": "b", "b": "c", "c": "b"}, False)])
def test_groups_that_have_each_others_weights(scopes, is_sound):
    for form in ("{}/kernel:0", "{}/gamma:0", "{}_W", "{}_running_mean"):
        groups = [group(form.format(scope), form.format(scope), name=name) for name, scope in scopes.items()]
        if is_sound:
            check_not_exchanged(groups)
            continue
        with pytest.raises(FormatError, match="the weights in this group have the names of"):
            check_not_exchanged(groups)


def test_groups_with_several_scopes_are_no_others():
    check_not_exchanged([group("b/gamma", "x/gamma", name="a"), group("a/gamma", name="b")])


def test_weights_that_a_batch_norm_does_not_have():
    names = ["bn/gamma:0", "bn/gain:0", "bn/renorm_mean:0", "bn/moving_stddev_1:0", "bn/renorm_mean_weight", "fc/kernel_1:0", "top"]
    own = norms_of(held("bn"))
    assert other_weights(group(*names), own) == {"bn": ["bn/gamma:0", "bn/gain:0"], "fc": ["fc/kernel_1:0"], "": ["top"]}


def test_parameters_of_other_layers_of_keras_1_are_none_of_a_batch_norms():
    """Their scope is not in front of a slash: "ln_gamma" is not a weight without a layer."""
    names = ["bn_running_mean", "bn_running_std", "ln_gamma", "fc_W"]
    assert other_weights(group(*names), norms_of(group(*names))) == {"": ["fc_W"]}


def paired(norms, tree, *, in_order=True):
    """The pairs of `match`, by scope and path."""
    found = list(candidates("net", model_tree(tree, "m")))
    pairs = match(group(), norms_of(held(*norms)), found, in_order=in_order)
    return [(one and one.scope, other and other.path) for one, other in pairs]


NET = [norm("a"), norm("b"), norm("c")]
TWICE = [sequential(norm("a"), name=name) for name in ("one", "two")]
WRAPPED = layer("TimeDistributed", "td", layer=norm("a"))


@pytest.mark.parametrize(("norms", "layers", "pairs"), [
    (["a", "b", "c"], NET, [("a", "net/a"), ("b", "net/b"), ("c", "net/c")]), (["x", "y", "z"], NET, [("x", "net/a"), ("y", "net/b"),
                                                                                                     ("z", "net/c")]),
    (["a_1", "c_2"], NET, [("a_1", "net/a"), (None, "net/b"), ("c_2", "net/c")]), (["c"], NET, [(None, "net/a"), (None, "net/b"),
                                                                                              ("c", "net/c")]),
    (["a", "own/x", "b"], NET[:2], [("a", "net/a"), ("own/x", None), ("b", "net/b")]),
    (["own/x", "a"], NET[:1], [("own/x", None), ("a", "net/a")]), (["td", "own"], [WRAPPED], [("td", "net/td/a"), ("own", None)]),
    (["td_1", "own"], [WRAPPED], [("td_1", "net/td/a"), ("own", None)]), (["out/td", "own"], [WRAPPED], [("out/td", "net/td/a"),
                                                                                                     ("own", None)])])
def test_whose_weights_are_whose(norms, layers, pairs):
    """In the order of the model, by the name of the layer or of the wrapper around it, with TensorFlow's number or without."""
    assert paired(norms, sequential(*layers)) == pairs


@pytest.mark.parametrize(("norms", "layers", "said"), [
    (["b", "a"], NET[:2], "names and order disagree: the weights named 'b' are at the position of 'net/a'"),
    (["x", "a"], TWICE, "the config lists a batch norm twice, which may be one layer, and the weights named 'x'"),
    (["x", "a"], NET[:2], "names and order disagree: the weights named 'a' are at the position of 'net/b'"),
    (["x"], NET, "its weights do not match the config: 1 and 3 batch norms with different names"),
    (["x", "y"], NET[:1], "its weights do not match the config: 1 and 2 batch norms with different names"),
    (["a", "a_1"], NET[:1], "its weights match the config in more than one way"),
    (["", "c"], NET, "its weights match the config in more than one way"),
    (["c", "a"], NET, "its weights do not match the config: 2 and 3 batch norms")])
def test_whose_weights_cannot_be_told(norms, layers, said):
    with pytest.raises(FormatError, match=said):
        paired(norms, sequential(*layers))


@pytest.mark.parametrize(("norms", "layers", "pairs"), [
    (["b", "a"], NET[:2], [("a", "net/a"), ("b", "net/b")]), (["x", "own/a"], NET[:1], [("own/a", "net/a"), ("x", None)]),
    (["a", "own/a"], NET[:1], None), (["x"], NET[:1], None), (["a_1"], NET[:1], None), (["a"], NET[:2], None)])
def test_where_the_order_is_not_known_names_alone_decide(norms, layers, pairs):
    if pairs is not None:
        assert paired(norms, sequential(*layers), in_order=False) == pairs
        return
    with pytest.raises(FormatError, match=r"is ambiguous: its class is a custom one, and \d batch norms have that name"):
        paired(norms, sequential(*layers), in_order=False)


def test_a_layer_that_is_listed_twice_and_weights_of_other_names():
    """As in another session: none of the names is the config's, so that the order says it."""
    assert paired(["x", "y"], sequential(*TWICE)) == [("x", "net/one/a"), ("y", "net/two/a")]


def test_one_of_a_group_is_not_given_to_two_layers():
    twins = [sequential(norm("a"), name="one"), sequential(norm("a", epsilon=0.5), name="two")]
    with pytest.raises(FormatError, match="is ambiguous"):
        paired(["a"], sequential(*twins), in_order=False)


@pytest.mark.parametrize(("tree", "is_known"), [
    (sequential(norm("a")), True), (sequential(layer("own>Block", "b", x=norm("p"), y=norm("q"))), False),
    (sequential(sequential(layer("own>Block", "b", x=norm("p"), y=norm("q")))), False), (sequential(WRAPPED), True)])
def test_where_the_order_of_batch_norms_is_known(tree, is_known):
    assert has_known_order(model_tree(tree, "m")) is is_known

"""The order of weights by name: what Keras writes, and names that were exchanged."""

from __future__ import annotations

import pytest

from exporter.errors import FormatError
from exporter.sources.layers_model.manifest import check_order

ROLES = ("gamma", "beta", "moving_mean", "moving_variance")


def of(*layers):
    """The weights of each layer, all of it together: (owner, roles)."""
    return [f"{owner}/{role}" for owner, roles in layers for role in roles]


def in_two_parts(*layers):
    """All trainable weights first, as Model.weights has them."""
    return of(*((owner, [role for role in roles if role in ROLES[:2]]) for owner, roles in layers),
              *((owner, [role for role in roles if role in ROLES[2:]]) for owner, roles in layers))


@pytest.mark.parametrize("written", [of, in_two_parts])
@pytest.mark.parametrize("layers", [
    [("a", ROLES)], [("a", ROLES), ("b", ROLES), ("c/d", ROLES)], [("a", ROLES[1:]), ("b", (ROLES[0], *ROLES[2:])), ("c", ROLES)],
    [("a", ROLES), ("bare", ROLES[2:]), ("b", ROLES)], [("bare", ROLES[2:])], [("d", ("kernel", "bias")), ("a", ROLES)]])
def test_what_keras_writes(layers, written):
    check_order(written(*layers), is_any_frozen=False)


@pytest.mark.parametrize(("weights", "who"), [
    (of(("a", (ROLES[1], ROLES[0], *ROLES[2:]))), "a"), (of(("a", (*ROLES[:2], ROLES[3], ROLES[2]))), "a"),
    (of(("a", ROLES[2:]), ("a", ROLES[:2])), "a"), (["a/gamma", "d/kernel", "a/beta", "a/moving_mean", "a/moving_variance"], "a"),
    (["a/gamma", "a/beta", "a/moving_mean", "d/kernel", "a/moving_variance"], "a"),
    (of(("bare", (ROLES[3], ROLES[2]))), "bare"), (["bare/moving_mean", "d/kernel", "bare/moving_variance"], "bare"),
    (["a/gamma", "b/beta", "b/gamma", "a/beta", *of(("a", ROLES[2:]), ("b", ROLES[2:]))], "a, b")])
def test_names_that_stand_where_they_cannot(weights, who):
    for is_any_frozen in (False, True):
        with pytest.raises(FormatError, match=f"disagree for {who}: gamma and beta of a layer must be side by side"):
            check_order(weights, is_any_frozen=is_any_frozen)


def test_layers_in_two_orders_unless_one_is_frozen():
    """A frozen layer's gamma and beta move behind the others'."""
    weights = of(("a", ROLES[:2]), ("b", ROLES[:2]), ("b", ROLES[2:]), ("a", ROLES[2:]))
    with pytest.raises(FormatError, match="disagree for"):
        check_order(weights, is_any_frozen=False)
    check_order(weights, is_any_frozen=True)


def test_half_a_batch_norm_is_no_batch_norm():
    check_order(["a/beta", "a/gamma", "a/moving_mean"], is_any_frozen=False)

"""Layers whose default names were numbered in another session, and whose weights are whose then."""

from __future__ import annotations

from exporter.keras.config import model_tree
from exporter.sources.shared.sessions import about_session, in_another_session
from tests.make.configs import norm, sequential


def nodes(*names):
    return [model_tree(sequential(norm(name)), "m").children[0][1] for name in names]


BN = "batch_normalization"

SESSIONS = [
    ([BN, f"{BN}_1"], [f"{BN}_2", f"{BN}_3"], [f"{BN}_2", f"{BN}_3"]), ([f"{BN}_1", BN], [f"{BN}_2", f"{BN}_3"], [f"{BN}_3", f"{BN}_2"]),
    ([f"{BN}_9", f"{BN}_10"], [f"{BN}_2", f"{BN}_11"], [f"{BN}_2", f"{BN}_11"]), ([BN, "stem"], ["stem", f"{BN}_7"], [f"{BN}_7", "stem"]),
    ([BN, "stem"], ["net/stem", f"net/{BN}_7"], [f"net/{BN}_7", "net/stem"]), (["batchnormalization_1"], ["batchnormalization_4"],
                                                                            ["batchnormalization_4"]),
    (["a", "b"], ["b", "a"], ["a", "b"]), ([BN, "stem"], ["head", f"{BN}_7"], None), ([BN, f"{BN}_1"], [f"{BN}_2", "stem"], None),
    ([BN], [f"{BN}_2", f"{BN}_3"], None), ([BN, f"{BN}_1"], [f"{BN}_2"], None), ([BN, BN], [f"{BN}_2", f"{BN}_3"], None),
    ([BN, f"{BN}_1"], [f"a/{BN}", f"b/{BN}"], None), (["norm_1"], ["norm_2"], None), ([BN], ["batchnormalization_1"], None)]


def test_whose_weights_are_whose():
    """By the order of the numbers, where everything that people chose is equal."""
    for mine, theirs, expected in SESSIONS:
        assert in_another_session(nodes(*mine), theirs) == expected, (mine, theirs)


def test_what_is_said_of_it():
    found = nodes(BN, "stem", f"{BN}_1")
    assert about_session(found, [BN, "net/stem", f"net/{BN}_1"]) == ""
    assert about_session(found, [f"{BN}_5", "net/stem", f"net/{BN}_6"]) == (
        "2 batch norms have other names in the architecture than in the weights, numbered in another session "
        f"({BN} for {BN}_5, {BN}_1 for {BN}_6): they are paired by their numbers")
    many = nodes(*(f"{BN}_{number}" for number in range(5)))
    assert about_session(many, [f"{BN}_{number}" for number in range(5, 10)]).endswith(
        f"({BN}_0 for {BN}_5, {BN}_1 for {BN}_6, {BN}_2 for {BN}_7 and 2 more): they are paired by their numbers")

"""How many results would fit by chance: which near misses count, how many were tried, and when it is said."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

from exporter.diagnosis import chance
from exporter.diagnosis.chance import expected, said
from exporter.diagnosis.evidence import gather
from exporter.diagnosis.samples import numbers
from tests.make.questions import layer_of

UNITS = 2.0 ** -20  # the tolerance of a number near 1 in float32


def constant(*betas):
    """A layer with one channel for each, whose result is beta whatever the input is."""
    zeros = [0.0] * len(betas)
    return layer_of(gamma=zeros, beta=list(betas), mean=zeros, variance=[1.0] * len(betas))


def seen(layer, *theirs):
    return gather(layer, numbers(np.full(len(theirs), 0.5)), numbers(np.array(theirs)))


@pytest.mark.parametrize(("units", "is_near"), [(0, False), (1, False), (1.5, True), (64, True), (65, False), (-64, True), (-1, False)])
def test_a_near_miss_is_beyond_the_tolerance_and_within_64_of_it(units, is_near):
    assert expected([seen(constant(1, 500), 1 + units * UNITS)], mistakes=False) == (is_near / 64, 2)
    assert expected([seen(constant(1), 1 + units * UNITS)], mistakes=False) == (is_near / 64, 1), "also of a channel that is known"


def test_equal_results_are_one_near_miss_and_each_layer_adds_its_own():
    near = 1 + 5 * UNITS
    assert expected([seen(constant(1, 1, 1 + UNITS), near)], mistakes=False) == (2 / 64, 3)
    x, layer = [0.0, 1.0], layer_of(gamma=[0, UNITS, 0], beta=[1, 1, 500], mean=[0] * 3, variance=[1] * 3, epsilon=0.0)
    theirs = seen(layer, near, near)
    assert expected([dataclasses.replace(theirs, case=gather(layer, numbers(np.array(x)), numbers(np.array([near] * 2))).case)],
                    mistakes=False) == (2 / 64**2, 3), "of two results that are equal in the first number"
    assert expected([seen(constant(1, 500), near), seen(constant(1, 1, 500), near)], mistakes=False) == (2 / 64, 5)


def test_two_numbers_fit_less_often_and_three_never():
    near = 1 + 5 * UNITS
    assert expected([seen(constant(1, 500, 501), near, near)], mistakes=False) == (1 / 64**2, 3)
    assert expected([seen(constant(1, 500, 501), near, 1.5)], mistakes=False) == (0, 3), "both have to be near"
    assert expected([seen(constant(1, 500), near, near, near)], mistakes=False) == (0, 0)
    assert expected([seen(constant(1), near), seen(constant(1), near, near)], mistakes=False) == (2 / 64**2, 2)
    assert expected([], mistakes=False) == (0, 0)


def test_how_many_results_are_tried(monkeypatch):
    """Of the right formula, of each mistake, and of two in the order of the table, where neither stands alone."""
    def mistake(code, alone, variants):
        return types.SimpleNamespace(code=code, alone=alone, tried=lambda case: ((str(number), case) for number in range(variants)))

    known = [mistake("A", False, 1), mistake("B", False, 2), mistake("C", True, 1), mistake("D", False, 0)]
    monkeypatch.setattr(chance, "MISTAKES", known)
    found = seen(constant(1, 2, 3), 0.5)
    assert [expected([found], mistakes=mistakes, pairs=pairs)[1] for mistakes, pairs in (
        (False, False), (True, False), (True, True))] == [3, 3 * (1 + 4), 3 * (1 + 4 + 2)]


def test_what_is_said():
    near = 1 + 5 * UNITS
    assert said([seen(constant(1, 500), near)], mistakes=False) == (
        "of 2 channels that were tried, about 0.016 would fit these numbers by chance")
    assert said([seen(constant(1, 500), near), seen(constant(1, 500, 501), near)], mistakes=False).startswith("of 5 channels that")
    assert said([seen(constant(1, 500), 1 + 65 * UNITS)], mistakes=False) == ""
    tried = expected([seen(constant(1, 500), near)], mistakes=True)[1]
    assert said([seen(constant(1, 500), near)], mistakes=True).startswith(
        f"of {tried} results (2 channels, each with the known mistakes) that were tried, about ")
    tried = expected([seen(constant(1), near)], mistakes=True)[1]
    assert said([seen(constant(1), near)], mistakes=True).startswith(f"of {tried} results that were tried, about ")

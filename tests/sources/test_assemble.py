"""The variables of a batch norm by their number, and options that nobody gave."""

from __future__ import annotations

import pytest

from exporter.sources.shared.assemble import roles_of
from exporter.sources.shared.options import ReadOptions

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

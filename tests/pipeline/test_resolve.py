"""From what a source found to a checked bundle: paths of their own, at a cost that grows with the layers and not with their square."""

from __future__ import annotations

import pytest

from exporter.pipeline.resolve import unique_paths
from exporter.targets.shared.identifiers import identifiers
from tests.make.counting import lines_run
from tests.make.layers import make_layer


@pytest.mark.parametrize(("paths", "wanted"), [
    (["a", "a", "a"], ["a", "a#2", "a#3"]),
    (["a", "a#2", "a", "a"], ["a", "a#2", "a#3", "a#4"]),
    (["a", "a", "a#2", "a#2"], ["a", "a#3", "a#2", "a#2#2"]),
    (["b", "a", "b"], ["b", "a", "b#2"]),
])
def test_paths_of_their_own(paths, wanted):
    assert [layer.path for layer in unique_paths(make_layer(path) for path in paths)] == wanted


FAMILIES = {
    "one name": lambda count: ["bn"] * count,
    "names that are there already": lambda count: [f"bn#{number}" for number in range(2, count // 2 + 2)] + ["bn"] * (count // 2),
    "one long name": lambda count: ["x" * 60] * count,
    "long names that differ at their end": lambda count: [f"{'x' * 60}{number}" for number in range(count)],
    "numbers that are there already": lambda count: [f"bn_{number}" for number in range(2, count // 2 + 2)] + ["bn"] * (count // 2),
    "nothing but punctuation": lambda count: ["-" * (number % 7 + 1) for number in range(count)],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [unique_paths, identifiers])
def test_names_take_linear_work(family, name):
    """Twice the layers, twice the lines; 16 000 layers took 24 seconds once."""
    def cost(count):
        paths = FAMILIES[family](count)
        given = [make_layer(path) for path in paths] if name is unique_paths else paths
        return lines_run(lambda: name(given))

    assert cost(2000) < 2.3 * cost(1000)
    assert len(set(identifiers(FAMILIES[family](1000)))) == 1000

"""A user's layer that keeps its layers in a dict, in its attribute and in its config: Keras saves them as it saves a list."""

from __future__ import annotations

import pytest

import exporter
from tests.make.configs import layer, norm, sequential
from tests.make.h5_files import ROLES, parameters
from tests.make.v3_files import write_archive


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("named", [True, False])
def test_each_gets_its_own_group(count, named, tmp_path):
    names = ["b", "a", "c"][:count]
    block = layer("acme>Block", "block", parts={name: norm(name, epsilon=0.1 + place) for place, name in enumerate(names)})
    arrays = [parameters(seed=place) for place in range(count)]
    groups = {f"layers/block/parts/batch_normalization{f'_{place}' if place else ''}": (values, names[place] if named else None)
              for place, values in enumerate(arrays)}
    bundle = exporter.read(write_archive(tmp_path / "m.keras", sequential(block), groups))
    assert bundle.paths() == [f"block/{name}" for name in names]
    for place, found in enumerate(bundle):
        assert found.epsilon == 0.1 + place
        assert all(getattr(found, role).tobytes() == arrays[place][role].tobytes() for role in ROLES)

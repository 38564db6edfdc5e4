"""What a source found: each thing is recorded once, in order."""

from __future__ import annotations

from exporter.batchnorm.bundle import Origin
from exporter.sources.shared.found import Found
from exporter.sources.shared.options import ReadOptions
from tests.make.layers import make_found, make_stored


def test_who_listens_hears_of_each_layer_at_once():
    heard = []
    found = Found(Origin(file="model.h5", kind="keras-h5"), ReadOptions(announce=heard.append))
    first, second = make_stored("a"), make_stored("b")
    found.add(first)
    assert heard == [first]
    found.take(second)
    found.skip("c", "lost")
    assert heard == [first, second]


def test_a_layer_that_was_begun_is_not_announced_again():
    heard = []
    found = Found(Origin(file="model.h5", kind="keras-h5"), ReadOptions(announce=heard.append))
    first, other = make_stored("a"), make_stored("a")
    found.begin(first)
    assert (heard, found.layers) == ([first], [])
    found.add(first)
    assert len(heard) == 1
    found.add(other)
    assert heard[1] is other, "an equal layer is another one"
    assert found.layers == [first, other]


def test_layers_are_begun_only_as_far_as_numbers_are_allowed(monkeypatch):
    """They may not stand in the bundle, whose numbers are limited."""
    heard = []
    found = Found(Origin(file="model.h5", kind="keras-h5"), ReadOptions(announce=heard.append))
    first, second = make_stored("a"), make_stored("b")
    monkeypatch.setattr("exporter.sources.shared.found.MAX_NUMBERS", len(first.parameters()) * first.moving_mean.size)
    found.begin(first)
    found.begin(second)
    assert heard == [first]
    found.add(second)
    assert heard == [first, second]


def test_what_is_said_again_is_a_warning_once():
    found = make_found()
    for sentence in ("b", "a", "b", "b", "c"):
        found.warn(sentence)
    assert found.warnings == ["b", "a", "c"]


def test_what_is_left_out_is_said_and_what_is_skipped_is_not():
    found = make_found(make_stored("a"))
    found.leave_out("b", "odd")
    found.skip("c", "lost")
    assert found.warnings == ["b: odd; not treated as a batch norm"]
    assert (found.paths(), found.left_out, found.skipped) == (["a"], [("b", "odd")], [("c", "lost")])

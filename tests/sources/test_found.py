"""What a source found: each thing is recorded once, in order."""

from __future__ import annotations

from tests.make.layers import make_found, make_stored


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

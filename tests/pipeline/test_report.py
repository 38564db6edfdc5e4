"""The report of a batch and its sums."""

from __future__ import annotations

import json

import pytest

import exporter
from exporter.pipeline import report
from exporter.pipeline.outcome import Outcome, Summary


def outcome(status, name="m.h5", **fields):
    return Outcome(source=name, out=f"out/{name}.json", status=status, **fields)


SUMMARY = Summary((outcome("exported", "a.h5", layers=3, channels=40, warnings=("w1", "w2")), outcome("skipped", "b.h5", layers=7),
                   outcome("refused", "c.h5", reason="r1", hint="h1"), outcome("refused", "d<.h5", reason="r2", hint="h2"),
                   outcome("refused", "e.h5", reason="other words", hint="h2"), outcome("refused", "f.h5", reason="r3"),
                   outcome("refused", "g.h5", reason="r3"), outcome("refused", "h.h5", reason="r3")))


def test_the_sums():
    assert str(SUMMARY) == "exported 1, skipped 1, refused 6"
    assert repr(SUMMARY) == "<Summary: exported 1, skipped 1, refused 6>"
    assert not SUMMARY.is_complete
    assert Summary(SUMMARY.outcomes[:2]).is_complete
    assert [(count, first.source) for count, first in SUMMARY.reasons()] == [(3, "f.h5"), (2, "d<.h5"), (1, "c.h5")]


def test_as_json(tmp_path):
    report.write(SUMMARY, str(tmp_path / "r.json"))
    content = json.loads((tmp_path / "r.json").read_text())
    assert (content["exported"], content["skipped"], content["refused"]) == (1, 1, 6)
    assert content["producer"] == {"name": "bn-export", "version": exporter.__version__}
    assert content["models"][0] == {"source": "a.h5", "out": "out/a.h5.json", "status": "exported", "layers": 3, "channels": 40,
                                    "reason": "", "hint": "", "warnings": ["w1", "w2"]}
    assert content["models"][2] == {"source": "c.h5", "out": "out/c.h5.json", "status": "refused", "layers": 0, "channels": 0,
                                    "reason": "r1", "hint": "h1", "warnings": []}
    assert [model["source"] for model in content["models"]] == [one.source for one in SUMMARY.outcomes]


def test_as_a_page(tmp_path):
    report.write(SUMMARY, str(tmp_path / "r.HTML"))
    page = (tmp_path / "r.HTML").read_text()
    assert "exported 1, skipped 1, refused 6" in page
    assert '<td class="number">3</td><td class="number">40</td><td>out/a.h5.json<br>w1<br>w2</td>' in page
    assert '<td class="skipped">skipped</td><td class="number"></td><td class="number"></td><td>out/b.h5.json</td>' in page
    assert '<td class="">c.h5</td><td class="refused">refused</td>' in page
    assert '<td>r1<br>h1</td>' in page
    assert "d&lt;.h5" in page
    assert "d<.h5" not in page
    assert page.count("<tr><td") == len(SUMMARY.outcomes)


@pytest.mark.parametrize(("name", "known"), [("r.json", True), ("r.HTML", True), ("r.txt", False), ("json", False)])
def test_kinds_of_report(name, known):
    if known:
        report.check_name(name)
    else:
        with pytest.raises(exporter.UsageError, match=r"expected a report name that ends in \.json or \.html"):
            report.check_name(name)

"""One layer whose numbers no inference can be computed from: the default export refuses, all else goes on without it and says so."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import exporter
from exporter.commands.diagnose import diagnose
from exporter.commands.export import export
from exporter.commands.verify import verify
from exporter.errors import MAX_MESSAGE_LENGTH, LayerError, UnresolvedError, by_reason
from tests.make.h5_files import named, parameters, write
from tests.make.v3_files import norm, sequential

GOOD = parameters(seed=1)
BAD = {"negative": ("moving_variance", -0.126, r"moving_variance\[1\] is -0.126"), "NaN": ("moving_mean", np.nan, "NaN"),
       "infinite": ("gamma", np.inf, "infinite")}


def spoilt(how):
    role, value, _ = BAD[how]
    values = {name: array.copy() for name, array in parameters(seed=2).items()}
    values[role][1] = value
    return values


def model(path, **layers):
    config = sequential("net", *(norm(name, epsilon=0.01) for name in layers))
    return write(path, {name: named(name, values) for name, values in layers.items()}, config, keras_version="2.2.4", backend="tensorflow")


@pytest.fixture(params=BAD)
def bad(request, tmp_path):
    return model(tmp_path / "bad.h5", good=GOOD, bad=spoilt(request.param)), BAD[request.param]


def test_the_default_export_refuses_with_a_way_on(bad, run, tmp_path):
    path, (_, _, reason) = bad
    for isolated in (False, True) if "NaN" in reason else (False,):
        with pytest.raises(LayerError, match=f"bad.h5: bad: .*{reason}"):
            exporter.read(path, isolated=isolated)
    code, _, err = run(export, path, tmp_path / "out.json")
    assert code == 1
    assert "hint: the training run diverged or the file is damaged; export an earlier checkpoint; --skip-unresolved writes the rest" in err
    assert not (tmp_path / "out.json").exists()


def test_the_listing_marks_it(bad, run):
    code, out, err = run(export, bad[0])
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "cannot be used: " in rows["bad"]
    assert "cannot be used" not in rows["good"]
    assert "skipped bad: " in err
    code, out, _ = run(export, bad[0], "--json")
    listed = json.loads(out)
    assert [layer["path"] for layer in listed["layers"]] == ["good"]
    assert [entry["path"] for entry in listed["skipped"]] == ["bad"]


def test_the_rest_is_written_where_that_is_asked_for(bad, run, tmp_path):
    code, _, err = run(export, bad[0], tmp_path / "out.json", "--skip-unresolved")
    assert code == 0
    assert "skipped bad: " in err
    bundle = exporter.load(tmp_path / "out.json")
    assert bundle.paths() == ["good"]
    assert [path for path, _ in bundle.skipped] == ["bad"]
    [unusable] = exporter.read(bad[0], skip_unresolved=True).unusable
    assert (unusable.layer.path, unusable.layer.epsilon) == ("bad", 0.01)


def test_a_comparison_goes_on(bad, run, tmp_path):
    path, (role, _, _) = bad
    exporter.write(exporter.read(model(tmp_path / "before.h5", good=GOOD, bad=parameters(seed=2))), tmp_path / "before.json")
    code, out, _ = run(verify, tmp_path / "before.json", path)
    assert code == 1
    assert f"bad: {role}" in out
    assert "note: bad cannot be used" in out
    assert "good:" not in out


def test_a_diagnosis_goes_on(bad, run):
    right = exporter.read(bad[0], skip_unresolved=True)["good"](np.float32([[1, 2, 3]]))
    code, out, err = run(diagnose, bad[0], "--input", "1,2,3", "--output", ",".join(map(str, right.ravel())))
    assert (code, out.split()[0]) == (0, "good:")
    assert re.search(f"warning: bad is skipped: .*{bad[1][2]}", err)
    code, _, err = run(diagnose, bad[0], "--layer", "bad", "--input", "1,2,3", "--output", "1,2,3")
    assert code == 1
    assert "error: bad: " in err


def test_where_nothing_is_left(run, tmp_path):
    path = model(tmp_path / "m.h5", a=spoilt("NaN"), b=spoilt("NaN"), c=spoilt("negative"))
    for options in ({}, {"skip_unresolved": True}):
        with pytest.raises(LayerError) as caught:
            exporter.read(path, **options)
        assert "3 batch norms cannot be used: a, b: moving_mean[1] is NaN" in str(caught.value)
        assert "--skip-unresolved" not in caught.value.hint
    code, out, _ = run(export, path)
    assert code == 0
    assert out.count("cannot be used") == 3


def test_together_with_layers_that_are_not_known(tmp_path):
    path = write(tmp_path / "w.h5", {"a": named("a", GOOD), "b": named("b", spoilt("NaN"))})
    with pytest.raises(UnresolvedError, match="the file does not contain its epsilon"):
        exporter.read(path, epsilon={"b": 0.1})


def test_a_reason_is_said_once_and_whole():
    assert by_reason([("a", "x"), ("b", "y"), ("c", "x")]) == "a, c: x; b: y"
    many = [(f"block_{number}/bn", f"reason {number % 40} " + "of some length " * 3) for number in range(400)]
    said = by_reason(many)
    assert len(said) < MAX_MESSAGE_LENGTH
    assert said.startswith("block_0/bn, block_40/bn, block_80/bn, block_120/bn, block_160/bn and 5 more: reason 0 of some length")
    assert said.endswith(" more for other reasons")
    long = by_reason([("p" * 70 + str(number), "give the architecture " * 15) for number in range(9)])
    assert long.endswith("give the architecture ")
    assert len(long) < MAX_MESSAGE_LENGTH

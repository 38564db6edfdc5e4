"""The commands where the system has no fork, as on Windows, or where it is not to be used, as on macOS: os.fork is taken away, and
multiprocessing starts fresh interpreters."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import exporter
from tests.make import processes
from tests.make.h5_files import named, parameters, write
from tests.make.layers import ROOT, make_bundle, make_layer
from tests.make.v3_files import norm, sequential

SAMPLE = ROOT / "sample_models" / "encoder_keras3" / "model.keras"
# In every interpreter that a command starts, but the reading ones, which start nothing: they ignore PYTHONPATH.
HIDDEN = """\
import os
for name in ("fork", "forkpty", "register_at_fork"):
    if hasattr(os, name):
        delattr(os, name)
import multiprocessing
if multiprocessing.get_start_method(allow_none=True) is None:
    multiprocessing.set_start_method("spawn")
"""

CHECK = "import os, sys; assert not hasattr(os, 'fork'); from exporter.commands.export import export_command; export_command()"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="is so anyway")


@pytest.fixture
def started(tmp_path):
    """started(*words) -> a running bn-export without os.fork, in tmp_path."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDDEN)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'hidden'}{os.pathsep}{ROOT}"}

    def call(*words, first=""):
        return subprocess.Popen([sys.executable, "-c", first + CHECK, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, cwd=tmp_path, env=environment, start_new_session=True)

    return call


@pytest.fixture
def done(tmp_path, monkeypatch):
    """done(*words) -> (exit status, stdout, stderr)."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDDEN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'hidden'}{os.pathsep}{ROOT}")

    def call(*words):
        ended = processes.run(HIDDEN + CHECK, *words, text=True, cwd=tmp_path)
        return ended.returncode, ended.stdout, ended.stderr

    return call


def test_one_model_is_listed_and_exported(done, tmp_path):
    code, out, err = done(SAMPLE)
    assert (code, err) == (0, "")
    assert out.startswith("model.keras (keras-archive, Keras 3")
    assert done(SAMPLE, "out.json") == (0, "", "")
    assert exporter.load(tmp_path / "out.json").layers == exporter.read(SAMPLE).layers


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.thorough("much time; by two processes it runs always")), 2])
def test_many_models_with_a_damaged_one_among_them(done, tmp_path, jobs):
    (tmp_path / "zoo").mkdir()
    for number in range(5):
        write(tmp_path / "zoo" / f"m{number}.h5", {"bn": named("bn", parameters(seed=number))}, sequential("net", norm("bn")),
              keras_version="2.4.0", backend="tensorflow")
    (tmp_path / "zoo" / "m2.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 600)
    code, out, err = done("zoo", "--out-dir", "out", "--jobs", jobs, "--report", "report.json")
    assert (code, out) == (1, "")
    assert "exported 4, skipped 0, refused 1" in err
    assert "Traceback" not in err
    status = {os.path.basename(model["source"]): model["status"] for model in json.loads((tmp_path / "report.json").read_text())["models"]}
    assert status == {f"m{number}.h5": "refused" if number == 2 else "exported" for number in range(5)}
    for number in (0, 1, 3, 4):
        assert exporter.load(tmp_path / "out" / f"m{number}.h5.json").layers == exporter.read(tmp_path / "zoo" / f"m{number}.h5").layers


@pytest.mark.thorough("much time: a damaged one among others is refused always")
def test_a_hostile_file_is_refused(done, tmp_path):
    """Nothing that it asks for is done, and what reads it ends within its limits."""
    (tmp_path / "deep.json").write_text('{"format": "bn-bundle", "layers": ' + "[" * 100_000)
    code, out, err = done("deep.json")
    assert (code, out) == (1, "")
    assert err.startswith("error: deep.json: the bundle: ")
    bundle = make_bundle(make_layer("a"))
    exporter.write(bundle, tmp_path / "b.json")
    text = (tmp_path / "b.json").read_text()
    (tmp_path / "b.json").write_text(re.sub(r'"epsilon": ?[^,]+', '"epsilon": 1e-320', text, count=1))
    code, _, err = done("b.json", "out.json")
    assert code == 1
    assert "b.json: the digest does not " in err
    assert not (tmp_path / "out.json").exists()


INTERRUPTED = """\
import multiprocessing.process, os, signal
start = multiprocessing.process.BaseProcess.start
def interrupted(self):
    multiprocessing.process.BaseProcess.start = start
    start(self)
    os.kill(os.getpid(), signal.SIGINT)
multiprocessing.process.BaseProcess.start = interrupted
"""


def test_ctrl_c_while_a_worker_starts(started, tmp_path):
    """A worker that was started but not recorded printed a traceback, or took another one's signal to end, and the command hung."""
    (tmp_path / "zoo").mkdir()
    for number in range(4):
        exporter.write(make_bundle(make_layer(seed=number)), tmp_path / "zoo" / f"m{number}.json")
    with started("zoo", "--out-dir", "out", "--jobs", "2", first=INTERRUPTED) as process:
        try:
            _, err = process.communicate(timeout=60)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted: no model is done yet" in err


@pytest.mark.thorough("forty models, and a signal at a random moment")
def test_ctrl_c(started, tmp_path):
    (tmp_path / "zoo").mkdir()
    for number in range(40):
        exporter.write(make_bundle(make_layer(seed=number, shape=(3000,))), tmp_path / "zoo" / f"m{number}.json")
    with started("zoo/m*.json", "--out-dir", "out", "--jobs", "2") as process:
        try:
            for _ in range(4500):
                if len(list(tmp_path.glob("out/m*.json"))) > 2:
                    break
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode in (130, 0)
    assert "Traceback" not in err
    if process.returncode:
        assert re.search(r"^interrupted: (\d+ of 40 models are done, 0 of them refused|no model is done yet)$", err, re.MULTILINE)
    for path in tmp_path.glob("out/m*.json"):
        exporter.load(path)
    assert not list(tmp_path.glob("out/.*.tmp"))
    for _ in range(1000):  # no process of its group is left
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("processes are left")

"""Standard streams as daemons, full disks, pipes and old consoles leave them to a command."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

import exporter
from tests.make.layers import ROOT, make_bundle, make_layer

KERAS = ROOT / "sample_models" / "encoder_keras3" / "model.keras"
COMMAND = f"{sys.executable} -m exporter"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")


@pytest.fixture
def shell(tmp_path):
    """shell(line, **env) -> the finished process of a line in an empty folder."""

    def call(line, **env):
        return subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=60,
                              env={**os.environ, "PYTHONPATH": str(ROOT), **env})

    return call


def test_a_name_that_the_console_lacks_is_escaped(shell, tmp_path):
    exporter.write(make_bundle(make_layer("正規化/π")), tmp_path / "m.json")
    done = shell(f"{COMMAND} m.json", PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u6b63\u898f\u5316/\u03c0" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("words", [f"{KERAS}", f"{KERAS} --json", f"{KERAS} -"])
def test_a_full_disk_is_told_as_that(shell, words):
    done = shell(f"{COMMAND} {words} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == b"error: standard output: cannot be written: No space left on device\n"


def test_closed_streams(shell, tmp_path):
    done = shell(f"{COMMAND} {KERAS} a.json <&- >&-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert shell(f"{COMMAND} {KERAS} b.json <&- >&- 2>&-").returncode == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert shell(f"{COMMAND} {KERAS} --out-dir d --jobs 2 <&- >&-").returncode == 0
    assert (tmp_path / "d" / "model.keras.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    done = shell(f"{COMMAND} {KERAS} >&-")
    assert done.returncode == 1
    assert done.stderr == b"error: standard output: cannot be written: it is closed\n"
    done = shell(f"{COMMAND} - o.json <&-")
    assert done.returncode == 2
    assert b"standard input is closed" in done.stderr


def test_a_model_from_a_pipe_and_a_bundle_into_one(shell, tmp_path):
    done = shell(f"cat {KERAS} | {COMMAND} - - --layers head_bn | cat")
    assert done.stderr == b""
    document = json.loads(done.stdout)
    assert document["source"]["file"] == "<stdin>"
    assert [layer["path"] for layer in document["layers"]] == ["head_bn"]
    assert shell(f"{COMMAND} - o.npz < {KERAS}").returncode == 0
    assert exporter.load(tmp_path / "o.npz").digest() == exporter.read(KERAS).digest()
    assert shell(f"{COMMAND} {KERAS} - > p.json && {COMMAND} {KERAS} f.json && cmp p.json f.json").returncode == 0
    assert shell(f"{COMMAND} - < {KERAS} | head -1").stdout.startswith(b"<stdin> (keras-archive")
    done = shell(f"echo nothing | {COMMAND} - o.json")
    assert (done.returncode, done.stderr.splitlines()[0][:16]) == (1, b"error: <stdin>: ")
    done = shell(f"{COMMAND} {KERAS} - --names torch")
    assert (done.returncode, done.stdout) == (2, b"")
    done = shell(f"{COMMAND} - --out-dir d < {KERAS}")
    assert done.returncode == 2
    assert b"- goes with one model" in done.stderr


def test_a_folder_that_was_removed(shell, tmp_path):
    gone = "mkdir gone; cd gone; rmdir ../gone; "
    assert shell(f"{gone} {COMMAND} {KERAS} {tmp_path}/o.json").returncode == 0
    for words in ("m.h5", f"{KERAS} o.json", "m.h5 --out-dir d", "'*.h5' --out-dir d"):
        done = shell(f"{gone} {COMMAND} {words}")
        assert done.returncode in (1, 2), words
        lines = done.stderr.decode().splitlines()
        assert any(line.startswith("error: ") for line in lines), words
        assert not any("Traceback" in line or "foresaw" in line for line in lines), done.stderr


@pytest.mark.parametrize("words", ["''", "'' o.json", f"{KERAS} ''", f"{KERAS} --out-dir ''", "'' --out-dir d",
                                   f"{KERAS} o.json --architecture ''"])
def test_an_empty_name_is_a_usage_error(shell, tmp_path, words):
    done = shell(f"{COMMAND} {words}")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"empty" in done.stderr
    assert not list(pathlib.Path(tmp_path).iterdir())

"""Standard streams as daemons, full disks, pipes and old consoles leave them to a command."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import exporter
from exporter.batchnorm.bundle import Origin
from tests.make import processes
from tests.make.layers import ROOT, make_bundle, make_layer

KERAS = ROOT / "sample_models" / "encoder_keras3" / "model.keras"
COMMAND = f"{sys.executable} -m exporter"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")


def command(*words, **streams):
    """The finished process of a command; streams: see processes.run."""
    return processes.run(processes.MODULE, *words, **streams)


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
@pytest.mark.parametrize("words", [[], ["--json"], ["-"]])
def test_a_full_disk_is_told_as_that(words):
    done = command(KERAS, *words, stdout="/dev/full")
    assert done.returncode == 1
    assert done.stderr == b"error: standard output: cannot be written: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_help_on_a_full_disk_and_messages_that_nobody_gets(shell, tmp_path):
    done = shell(f"{COMMAND} --help > /dev/full")
    assert (done.returncode, done.stderr) == (1, b"error: standard output: cannot be written: No space left on device\n")
    assert command(KERAS, tmp_path / "o.json", "-v", stderr="/dev/full").returncode == 0
    assert exporter.load(tmp_path / "o.json")
    assert command("nothing.h5", stderr="/dev/full").returncode == 1
    assert command("--nothing", stderr="/dev/full").returncode == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize(("stream", "before", "code", "said"), [
    ("stdout", "", 1, b"error: standard output: cannot be written: No space left on device\n"), ("stderr", "", 0, b""),
    ("stdout", "import os; nobody, sending = os.pipe(); os.close(nobody); os.dup2(sending, 1)", 1, b"")])
def test_what_cannot_be_written_is_not_tried_again_at_exit(stream, before, code, said):
    """The interpreter would fail to write it, and say so in its own words and by its own exit code."""
    program = f"{before}\nimport sys; from exporter.commands.shared import main; main(lambda words: sys.{stream}.write('[###') or 0, [])"
    full = {} if before else {stream: "/dev/full"}
    done = processes.run(program, **full)
    assert (done.returncode, done.stderr) == (code, said)


ODD = "\x1b[2J\x1b]0;x\x07\u202e\x9b\u2066"


def test_no_word_of_a_file_or_an_argument_reaches_the_terminal_as_it_is(run, tmp_path, monkeypatch):
    """Each command, on files that have odd characters in every field."""
    from exporter.commands.diagnose import diagnose
    from exporter.commands.evaluate import evaluate
    from exporter.commands.export import export
    from exporter.commands.verify import verify

    monkeypatch.chdir(tmp_path)
    origin = Origin(file=ODD, kind=ODD, keras_version=ODD, backend=ODD, tensorflow_version=ODD)
    layer = make_layer(ODD, assumed=(ODD,), converted=(ODD,), quantized=ODD, class_name=ODD)
    exporter.write(make_bundle(layer, origin=origin, skipped=((ODD, ODD),)), "a.json")
    exporter.write(make_bundle(layer.replace(epsilon=0.5), origin=origin), f"{ODD}.json")
    np.save("x.npy", np.ones((2, 4), np.float32))
    for command, *words in [
            (export, "a.json"), (export, "a.json", "--json"), (export, f"{ODD}.json", "o.json", "-v"), (export, ODD),
            (export, "a.json", ODD),
            (export, f"{ODD}.json", ODD, "--out-dir", "d", "-v", "--jobs", "1"), (export, "a.json", "--layers", f"x{ODD}"),
            (export, "a.json", f"--{ODD}"), (export, "a.json", "o.json", "--names", ODD), (verify, "a.json", f"{ODD}.json"), (verify, ODD),
            (diagnose, "a.json", "--layer", ODD, "--input", "x.npy", "--output", "x.npy"), (evaluate, "a.json", ODD, "y.npy"),
            (diagnose, f"{ODD}.json", "--layer", "x", "--input", "x.npy", "--output", "x.npy")]:
        _, out, err = run(command, *words)
        assert out + err, words
        assert not re.search("[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", out + err), words


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)])
def test_no_file_of_ours_gets_the_number_of_a_closed_stream(closed):
    """What is printed would go into it. The exit code says which streams are the null device."""
    program = ("import os; from exporter.commands import streams; null = os.stat(os.devnull)\n"
               "with streams.guarded(): os._exit(sum(os.path.samestat(os.fstat(number), null) << number for number in range(3)))")
    assert processes.run(program, closed=closed).returncode == sum(1 << number for number in closed)


def test_closed_streams(shell, tmp_path):
    done = command(KERAS, tmp_path / "a.json", closed=(0, 1))
    assert (done.returncode, done.stderr) == (0, b"")
    assert shell(f"{COMMAND} {KERAS} b.json <&- >&- 2>&-").returncode == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert command(KERAS, "--out-dir", "d", "--jobs", "2", cwd=tmp_path, closed=(0, 1)).returncode == 0
    assert (tmp_path / "d" / "model.keras.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    done = command(KERAS, closed=(1,))
    assert done.returncode == 1
    assert done.stderr == b"error: standard output: cannot be written: it is closed\n"
    done = command("-", "o.json", closed=(0,))
    assert done.returncode == 2
    assert b"- is standard input, which is closed" in done.stderr


def test_a_model_from_a_pipe_and_a_bundle_into_one(shell, tmp_path):
    done = command("-", "-", "--layers", "head_bn", data=KERAS.read_bytes())
    assert done.stderr == b""
    document = json.loads(done.stdout)
    assert document["source"]["file"] == "<stdin>"
    assert [layer["path"] for layer in document["layers"]] == ["head_bn"]
    assert shell(f"{COMMAND} - o.npz < {KERAS}").returncode == 0
    assert exporter.load(tmp_path / "o.npz").digest() == exporter.read(KERAS).digest()
    assert command(KERAS, "-", stdout=tmp_path / "p.json").returncode == 0
    assert command(KERAS, tmp_path / "f.json").returncode == 0
    assert (tmp_path / "p.json").read_bytes() == (tmp_path / "f.json").read_bytes() == command(KERAS, "-").stdout
    assert command("-", data=KERAS.read_bytes()).stdout.startswith(b"<stdin> (keras-archive")
    done = command("-", "o.json", data=b"nothing\n")
    assert (done.returncode, done.stderr.splitlines()[0][:16]) == (1, b"error: <stdin>: ")
    done = command(KERAS, "-", "--names", "torch")
    assert (done.returncode, done.stdout) == (2, b"")
    done = command("-", "--out-dir", "d", data=KERAS.read_bytes())
    assert done.returncode == 2
    assert b"expected one model with -" in done.stderr


@pytest.mark.parametrize("words", [["-"], ["-", "o.json"]])
def test_a_standard_input_that_is_closed(run, monkeypatch, words):
    from exporter.commands import export as cli

    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = run(cli.export, *words)
    assert (code, out) == (2, "")
    assert "standard input" in err
    assert "closed" in err


def test_a_folder_that_was_removed(shell, tmp_path):
    gone = "mkdir gone; cd gone; rmdir ../gone; "
    assert shell(f"{gone} {COMMAND} {KERAS} {tmp_path}/o.json").returncode == 0
    gone = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); "
    for words in (["m.h5"], [KERAS, "o.json"], ["m.h5", "--out-dir", "d"], ["*.h5", "--out-dir", "d"]):
        done = processes.run(gone + processes.MODULE, *words, cwd=tmp_path)
        assert done.returncode in (1, 2), words
        lines = done.stderr.decode().splitlines()
        assert any(line.startswith("error: ") for line in lines), words
        assert not any("Traceback" in line or "foresaw" in line for line in lines), done.stderr


@pytest.mark.parametrize("words", [[""], ["", "o.json"], [KERAS, ""], [KERAS, "--out-dir", ""], ["", "--out-dir", "d"],
                                   [KERAS, "o.json", "--architecture", ""]],
                         ids=["model", "model and output", "output", "folder", "model for a folder", "architecture"])
def test_an_empty_name_is_a_usage_error(tmp_path, words):
    done = command(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"empty" in done.stderr
    assert not list(pathlib.Path(tmp_path).iterdir())

"""Output: whole or not at all, never over the input, nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import exporter
from exporter.errors import OutputError, UsageError
from exporter.files import output
from exporter.files.place import Place
from exporter.files.remote import place_for
from exporter.pipeline.streaming import evaluate_file
from tests.make.layers import make_bundle, make_layer


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "out.json"
    exporter.write(make_bundle(), path)
    first = path.read_bytes()
    path.write_text("old")
    exporter.write(make_bundle(), path)
    assert path.read_bytes() == first
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.parametrize(("prepare", "name", "words"), [
    (lambda folder: None, "no/such/out.json", "its folder does not exist"),
    (lambda folder: (folder / "out.json").mkdir(), "out.json", "expected the name of a file, got a folder"),
    (lambda folder: os.mkfifo(folder / "out.json"), "out.json", "expected a regular file")])
def test_outputs_that_cannot_be_written_are_refused(prepare, name, words, tmp_path):
    prepare(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OutputError, match=words):
        exporter.write(make_bundle(), tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not writable"):
        exporter.write(make_bundle(), tmp_path / "out.json")


def test_a_folder_that_may_not_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    """What the system says of a folder, whoever asks."""
    monkeypatch.setattr(os, "access", lambda path, mode: not (os.fspath(path) == os.fspath(tmp_path) and mode == os.W_OK))
    with pytest.raises(OutputError, match="its folder is not writable"):
        output.check_output(tmp_path / "out.json")


def test_inputs_far_away_are_nowhere_near_the_output(tmp_path):
    (tmp_path / "out.json").write_text("old")
    output.check_output(tmp_path / "out.json", [place_for("https://example.com/model.h5"), place_for("memory://folder/model")])


def test_unknown_suffixes_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match=r"unknown suffix '\.xyz'") as error:
        exporter.write(make_bundle(), tmp_path / "out.xyz")
    assert error.value.hint.startswith("the suffix chooses the format: .json")
    with pytest.raises(UsageError) as error:
        exporter.write(make_bundle(), tmp_path / "out.pt")
    assert error.value.hint.startswith(".safetensors with --names torch is for PyTorch; the suffix chooses")
    with pytest.raises(UsageError, match="has no suffix"):
        exporter.write(make_bundle(), tmp_path / "out")


def test_the_input_is_never_replaced(tmp_path):
    path = tmp_path / "model.json"
    exporter.write(make_bundle(), path)
    (tmp_path / "link.json").symlink_to(path)
    for name in ("model.json", "link.json"):
        with pytest.raises(OutputError, match="would replace the input"):
            output.check_output(tmp_path / name, [Place(path)])
    folder = tmp_path / "saved_model"
    (folder / "variables").mkdir(parents=True)
    with pytest.raises(OutputError, match="inside the model's folder"):
        output.check_output(folder / "variables" / "out.json", [Place(folder)])


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    exporter.write(make_bundle(), tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert exporter.load(tmp_path / "real.json").paths() == ["encoder/bn_1"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_output(step, tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    path.write_text("old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputError, match="No space left on device") as error:
        output.write(path, b"new")
    assert "unchanged" in error.value.hint
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_file_size_limit_leaves_the_old_output(tmp_path):
    """As a full disk, for real: the kernel refuses to write more than 1000 bytes."""
    path = tmp_path / "out.json"
    path.write_text("old")
    program = textwrap.dedent(f"""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        from exporter import errors
        from exporter.files import output
        try:
            output.write({str(path)!r}, b"x" * 5000)
        except errors.OutputError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_polite_kill_removes_the_temporary_file(tmp_path):
    program = textwrap.dedent(f"""
        import os, signal
        from exporter.commands import shared as cli
        from exporter.files import output
        from pathlib import Path
        def command(words):
            os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGTERM)
            output.write({str(tmp_path / "out.json")!r}, b"x")
        cli.main(command)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 143
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.thorough("much time: a command is killed always")
def test_kill_minus_nine_leaves_the_old_output_or_the_new_one(tmp_path):
    """Killed at many moments of writing: what stands under the name is whole. (The last moments are after the rename.)"""
    path = tmp_path / "out.json"
    exporter.write(make_bundle(), tmp_path / "new.json")
    new = (tmp_path / "new.json").read_bytes()
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from exporter.files import output
        data = Path({str(tmp_path / "new.json")!r}).read_bytes()
        print("ready", flush=True)
        while True:
            output.write({str(path)!r}, data)
    """)
    for moment in range(12):
        path.write_bytes(b"old")
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.0007 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert path.read_bytes() in (b"old", new)


# folders

def archive(**members):
    import io
    import zipfile

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return data.getvalue()


def test_a_path_with_a_slash_becomes_a_folder(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("new/", "old/"):
        output.check_output(f"{tmp_path}/{name}")
        output.write(f"{tmp_path}/{name}", archive(a="1", b="2"))
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["a", "b"]
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]
    for name in ("new/", "file/"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(OutputError, match="expected a new or empty folder, got one that contains files"):
            output.check_output(f"{tmp_path}/{name}")
    with pytest.raises(OutputError, match="its folder does not exist") as caught:
        output.check_output(tmp_path / "no" / "such" / "x/")
    assert caught.value.hint == f"create it first: mkdir -p {tmp_path / 'no' / 'such'}"


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "theirs").write_text("x")
    with pytest.raises(OutputError, match="cannot be written: Directory not empty"):
        output.write(f"{tmp_path}/full/", archive(a="1"))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["theirs"]

    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        output.write(f"{tmp_path}/new/", archive(a="1"))
    assert os.listdir(tmp_path) == ["full"]


def test_what_lies_in_or_over_an_input(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("x")
    (tmp_path / "model.h5").write_text("x")
    (tmp_path / "models").mkdir()
    inputs = [Place(tmp_path / "model.h5"), Place(tmp_path / "model"), Place(tmp_path / "absent")]
    for name in ("other.json", "models/x.json", "absent", "models/"):
        output.check_output(f"{tmp_path}/{name}", inputs)
    for name, words in (("model/x.json", "inside the model's folder"), ("model/x/", "inside the model's folder"), ("model.h5", "replace")):
        with pytest.raises(OutputError, match=words):
            output.check_output(f"{tmp_path}/{name}", inputs)
    with pytest.raises(OutputError, match="would replace the input"):
        output.check_output(f"file://{tmp_path}/model.h5", inputs)


@pytest.mark.parametrize(("path", "yes"), [("a/", True), ("a", False), ("a/b", False), ("/", True)])
def test_a_slash_asks_for_a_folder(path, yes):
    assert output.is_folder_name(path) == yes


def test_pieces_and_long_names(tmp_path):
    name = "n" * 250
    output.write_pieces(tmp_path / name, (piece for piece in (b"ab", b"", b"c")))
    assert (tmp_path / name).read_bytes() == b"abc"
    output.write_pieces(f"file://{tmp_path}/a%20b", [b"d"])
    assert (tmp_path / "a b").read_bytes() == b"d"
    (tmp_path / "dangling").symlink_to("target")
    output.write(tmp_path / "dangling", b"e")
    assert (tmp_path / "target").read_bytes() == b"e"
    assert (tmp_path / "dangling").is_symlink()


def test_new_files_have_the_modes_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        output.write(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the names of descriptors")
@pytest.mark.parametrize("write", [
    lambda path: output.write(path, b"x" * 10),
    lambda path: evaluate_file(make_layer(shape=(2,)), np.zeros((3, 2), np.float32), path)], ids=["bytes", "blocks"])
def test_the_data_is_on_the_disk_before_the_name_and_the_name_too(write, tmp_path, monkeypatch):
    steps, real = [], (os.fsync, os.replace)
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
                        or real[0](descriptor))
    monkeypatch.setattr(os, "replace", lambda old, new: steps.append("replace") or real[1](old, new))
    write(tmp_path / "a")
    assert steps[0].startswith(".a.")
    assert steps[1:] == ["replace", tmp_path.name]

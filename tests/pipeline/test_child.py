"""Reading in a child: the same bundle, and a clear error where the child hangs, crashes, eats memory or answers nonsense."""

from __future__ import annotations

import io
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

import exporter
from exporter.batchnorm.stored import Statistic
from exporter.errors import ExporterError, FormatError, LayerError, UnresolvedError, UsageError
from exporter.files.place import Place
from exporter.pipeline import child as isolation
from exporter.pipeline import finding, limits, message, read
from exporter.sources.shared.options import ReadOptions
from exporter.targets import bundle_json
from exporter.targets.shared.options import WriteOptions
from tests.make import processes
from tests.make.layers import ROOT, make_bundle, make_found, make_layer, make_stored, same_layer

BOTH = pytest.mark.parametrize("fork", [True, False], ids=["fork", "spawn"])


@pytest.fixture
def path(tmp_path):
    layers = [make_layer("a", shape=(2, 3), axis=(1, 3), dtype="bfloat16"), make_layer("b", dtype="float64", gamma=False),
              make_layer("é", dtype="float16", epsilon=1e-6, effective_epsilon=1.001e-5, assumed=("axis",))]
    exporter.write(make_bundle(*layers, skipped=(("x", "why"),)), tmp_path / "b.json")
    return tmp_path / "b.json"


@BOTH
def test_a_child_reads_the_same(path, fork):
    here = exporter.load(path)
    there = read.read_in_child(Place(path), ReadOptions(), fork=fork)
    assert all(same_layer(a, b) for a, b in zip(here, there))
    assert (here.origin, here.skipped) == (there.origin, there.skipped)
    for name, (x, y) in here.vectors.items():
        assert there.vectors[name][0].tobytes() == x.tobytes()
        assert there.vectors[name][1].tobytes() == y.tobytes()


def test_options_reach_a_spawned_child(path):
    options = ReadOptions(epsilon=(("*", 0.1),), layers=("a",), architecture=Place(path))
    request = isolation.request(Place(path), options, limits.Limits.of(Place(path)))
    assert b'"epsilon": [["*", 0.1]]' in request
    assert exporter.read(path, isolated=True, layers=("a",)).paths() == ["a"]


@BOTH
def test_errors_come_through(tmp_path, fork):
    (tmp_path / "b.json").write_text('{"format": "bn-bundle", "version": 7}')
    with pytest.raises(exporter.BundleError, match="version 7") as error:
        read.read_in_child(Place(tmp_path / "b.json"), ReadOptions(), fork=fork)
    assert error.value.hint == "upgrade bn-export"
    assert error.value.where == "b.json"


def in_child(monkeypatch, path, act):
    monkeypatch.setattr(finding, "read_unresolved", lambda place, options: act())
    return read.read_in_child(Place(path), ReadOptions(), fork=True)


def raise_unresolved():
    raise UnresolvedError([("a", "why")], hint="do this")


def test_an_unresolved_error_keeps_its_layers(monkeypatch, path):
    with pytest.raises(UnresolvedError, match="a: why") as error:
        in_child(monkeypatch, path, raise_unresolved)
    assert error.value.layers == (("a", "why"),)
    assert error.value.hint == "do this"


def test_a_crash_is_a_clear_error(monkeypatch, path):
    with pytest.raises(FormatError, match=f"signal {signal.SIGSEGV.value}"):
        in_child(monkeypatch, path, lambda: os.kill(os.getpid(), signal.SIGSEGV))


def test_an_unexpected_exception_is_a_clear_error(monkeypatch, path):
    with pytest.raises(exporter.ExporterError, match=r"unexpected ZeroDivisionError at test_child\.py:\d+: division by zero"):
        in_child(monkeypatch, path, lambda: 1 / 0)


def test_a_model_that_is_nested_too_deeply_is_refused(monkeypatch, path):
    def deeper():
        return deeper()

    with pytest.raises(FormatError, match="it is nested too deeply"):
        in_child(monkeypatch, path, deeper)


def test_an_answer_over_the_limit_is_not_taken(monkeypatch, path):
    monkeypatch.setattr(isolation, "MAX_ANSWER", 100)
    with pytest.raises(FormatError, match="expected at most 100 bytes of batch norms, got more"):
        exporter.read(path, isolated=True)


def spin():
    while True:
        pass


@pytest.mark.thorough("a second of computing, as with a signal that is ignored, which runs always")
def test_a_hang_ends(monkeypatch, path):
    monkeypatch.setattr(limits, "CPU_SECONDS", 0)
    with pytest.raises(FormatError, match="seconds of processor time"):
        in_child(monkeypatch, path, spin)


def test_time_grows_with_what_is_read(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    for name, size in (("saved_model.pb", 20 << 20), ("model.data-00000-of-00001", 100 << 20), ("model.index", 5 << 20)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    for name, extra in (("", 125), ("model", 125), ("saved_model.pb", 20), ("model.index", 5), ("nothing/here", 0)):
        found = limits.Limits.of(Place(folder / name))
        assert found.cpu_seconds == limits.CPU_SECONDS + extra, name  # "model": a checkpoint's prefix
        assert found.wall_seconds >= 60 + 10 * found.cpu_seconds
    (folder / "a" / "b" / "c" / "d").mkdir(parents=True)
    for inner in ("a/b", "a/b/c", "a/b/c/d"):  # the last is too deep for a model
        with (folder / inner / "x").open("wb") as file:
            file.truncate(10 << 20)
    assert limits.Limits.of(Place(folder)).cpu_seconds == limits.CPU_SECONDS + 145
    with (folder / "model.index").open("wb") as file:
        file.truncate(1 << 40)
    assert limits.Limits.of(Place(folder)).cpu_seconds == limits.CPU_SECONDS + limits.MAX_EXTRA_SECONDS


def test_a_sleep_ends_and_the_file_is_not_blamed(monkeypatch, path):
    monkeypatch.setattr(limits, "WALL_SECONDS", 0.3)
    monkeypatch.setattr(limits, "WALL_PER_CPU", 0)
    with pytest.raises(exporter.ExporterError, match=r"timed out: reading it took more than 0\.3 seconds") as error:
        in_child(monkeypatch, path, lambda: time.sleep(60))
    assert not isinstance(error.value, FormatError)
    assert "damaged" not in error.value.hint


def test_memory_ends(monkeypatch, path):
    with pytest.raises(FormatError, match="exceeded its memory limit"):
        in_child(monkeypatch, path, lambda: np.ones(1 << 30))


def test_what_the_child_says_passes_the_gate(monkeypatch, path):
    bad = make_stored(moving_variance=np.float32([1, 2, 3, -4]))
    with pytest.raises(LayerError, match="-4"):
        in_child(monkeypatch, path, lambda: make_found(bad))


def sent(found, announced=()):
    parts = []
    writer = message.Writer(parts.append)
    for layer in announced:
        writer.layer(layer)
    writer.answer(found)
    return b"".join(parts)


def received(data, step=1 << 20, each=lambda layers: None):
    reader = message.Reader(FormatError("was damaged by it"), each)
    for at in range(0, len(data), step):
        reader.feed(data[at:at + step])
    return reader.answer()


@pytest.mark.parametrize("step", [1, 7, 16, 100, 1 << 20])
def test_a_message_may_come_in_pieces(step):
    found = make_found(make_stored(), make_stored("b", dtype="float64", epsilon=None, axis=None, statistic=Statistic.DEVIATION),
                       make_stored("c", gamma=False, shape=(2, 3), axis=(1, 3)), skipped=[("d", "why")])
    found.warn("mind this")
    seen = []
    got = received(sent(found), step, seen.extend)
    assert all(map(same_layer, got.layers, found.layers))
    assert (got.origin, got.skipped, got.warnings) == (found.origin, found.skipped, found.warnings)
    assert seen == got.layers  # the very same, so that what was made of them in the meantime holds


def test_a_layer_that_was_announced_counts_only_if_the_bundle_holds_it():
    first, second, dropped = make_stored("a"), make_stored("b"), make_stored("c")
    got = received(sent(make_found(first, second), announced=(second, dropped, first)))
    assert [layer.path for layer in got.layers] == ["a", "b"]


def test_nonsense_from_the_child_is_refused():
    data = sent(make_found(make_stored()))
    assert same_layer(received(data).layers[0], make_stored())
    for damaged in (b"", data[:40], data[:-4], data + data, data + b"x", data.replace(b'"float32"', b'"float31"'),
                    data.replace(b'"shape":[4]', b'"shape":[9]'), data.replace(b'"order":[0]', b'"order":[1]'),
                    data.replace(b'"order":[0]', b'"order":[-1]'), data.replace(b'"shape":[4]', b'"shape":[3]'),
                    data.replace(b'"variance"', b'"covariant"')):
        assert damaged != data
        with pytest.raises(FormatError, match="was damaged by it"):
            received(damaged)


MODEL = pathlib.Path(__file__).parents[2] / "sample_models" / "no_beta_keras208" / "model.h5"
SEVERAL = MODEL.parents[1] / "encoder_keras3" / "model.keras"


class Watched:
    """An output that notes what happens to it."""

    def __init__(self):
        self.writer, self.came, self.prepared = bundle_json.writer(WriteOptions()), [], 0

    def prepare(self):
        self.prepared += 1

    def layers(self, layers):
        self.came += layers
        self.writer.layers(layers)


def test_a_text_that_was_made_early_is_the_one_that_is_written(monkeypatch):
    output = Watched()
    bundle = read.read_in_child(Place(MODEL), ReadOptions(), fork=True, output=output)
    assert output.prepared == 1
    assert set(output.came) == set(bundle.layers)
    want = bundle_json.write(bundle, WriteOptions())
    monkeypatch.setattr(bundle_json, "layer_entry", None)  # nothing is made a second time
    assert b"".join(output.writer.end(bundle)) == want


def test_only_layers_that_are_wanted_are_worked_on_early():
    output = Watched()
    bundle = read.read_in_child(Place(SEVERAL), ReadOptions(layers=("block_a/*",)), fork=True, output=output)
    assert [layer.path for layer in output.came] == bundle.paths() == ["block_a/bn"]


def test_a_layer_that_cannot_be_written_is_not_made_early(monkeypatch):
    found = make_found(make_stored("a", epsilon=None), make_stored("b", axis=None, shape=(2, 2)),
                       make_stored("c", moving_variance=np.float32([1, 2, 3, -4])), make_stored("d"))
    monkeypatch.setattr(finding, "read_unresolved", lambda place, options: found)
    output = Watched()
    with pytest.raises(ExporterError):
        read.read_in_child(Place(MODEL), ReadOptions(), fork=True, output=output)
    assert [layer.path for layer in output.came] == ["d"]


PROGRAM = """
import os, signal, sys, threading
{before}
if __name__ == "__main__":
    import exporter
    from exporter.files.place import Place
    from exporter.pipeline.read import read_in_child
    from exporter.sources.shared.options import ReadOptions

    def work():
        for fork in {forks}:
            bundle = read_in_child(Place({path!r}), ReadOptions(), fork=fork)
            with open({out!r}, "a") as file:
                file.write(f"{{len(bundle)}} ")

    {run}
"""


def run_program(tmp_path, path, before="", run="work()", forks=(True, False), **options):
    out = tmp_path / "out.txt"
    text = PROGRAM.format(before=before, run=run, forks=forks, path=str(path), out=str(out))
    if "spawn" in run or "forkserver" in run:  # they start the file again
        program = tmp_path / "program.py"
        program.write_text(text)
        done = subprocess.run([sys.executable, str(program)], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True,
                              text=True, **options)
    else:
        done = processes.run(text, text=True, **options)
    return done, out.read_text() if out.exists() else ""


@pytest.mark.parametrize("before", [
    pytest.param("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", id="SIGCHLD ignored"),
    pytest.param("signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, os.WNOHANG))", id="children reaped",
                 marks=pytest.mark.thorough("much time")),
    pytest.param("os.close(0)", id="stdin closed", marks=pytest.mark.thorough("much time")),
    pytest.param("os.close(1); sys.stdout = None", id="stdout closed", marks=pytest.mark.thorough("much time")),
    pytest.param("os.closerange(0, 3); sys.stdin = sys.stdout = sys.stderr = None", id="all closed"),
    pytest.param("os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')", id="folder removed"),
    pytest.param("signal.signal(signal.SIGXCPU, signal.SIG_IGN)", id="SIGXCPU ignored", marks=pytest.mark.thorough("much time"))])
def test_whatever_state_the_caller_is_in(tmp_path, before):
    done, out = run_program(tmp_path, MODEL, before, cwd=tmp_path)
    assert (done.returncode, out) == (0, "1 1 "), done.stderr


PROCESS = ("import multiprocessing; p = multiprocessing.get_context({!r}).Process(target=exporter.read, args=({!r},), "
           "kwargs={{'isolated': True}}); p.start(); p.join(); assert p.exitcode == 0; work()")


@pytest.mark.parametrize("run", [
    pytest.param("threads = [threading.Thread(target=work) for _ in range(3)]; [t.start() for t in threads]; [t.join() for t in threads]",
                 id="threads"),
    pytest.param(PROCESS.format("fork", str(MODEL)), id="fork"),
    pytest.param(PROCESS.format("spawn", str(MODEL)), id="spawn", marks=pytest.mark.thorough("much time")),
    pytest.param(PROCESS.format("forkserver", str(MODEL)), id="forkserver", marks=pytest.mark.thorough("much time"))])
def test_in_threads_and_processes(tmp_path, run):
    done, out = run_program(tmp_path, MODEL, run=run, forks=(False,))
    assert done.returncode == 0, done.stderr
    assert out == "1 " * (3 if "Thread" in run else 1)


def test_an_ignored_signal_does_not_let_a_hang_go_on(monkeypatch, path):
    monkeypatch.setattr(limits, "CPU_SECONDS", 0)
    before = signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    try:
        with pytest.raises(FormatError, match="seconds of processor time"):
            in_child(monkeypatch, path, spin)
    finally:
        signal.signal(signal.SIGXCPU, before)


@pytest.mark.parametrize("executable", ["/bin/cat", "", None])
def test_the_program_itself_is_never_started_again(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)  # a program that Python is embedded in
    assert os.path.basename(isolation.interpreter()).startswith("python")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(UsageError, match="isolated=True starts a Python interpreter, which this program does not have") as error:
        exporter.read(MODEL, isolated=True)
    assert error.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit of time ends it")
def test_a_process_ends_with_its_parent():
    receiving, sending = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            isolation.forked(lambda _: os.write(sending, b"there") and time.sleep(20))
            time.sleep(20)
        finally:
            os._exit(0)
    os.close(sending)
    assert os.read(receiving, 9) == b"there"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert select.select([receiving], [], [], 10)[0], "the pipe ends with the last process that may write to it"
    assert os.read(receiving, 9) == b""
    os.close(receiving)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit of time ends it")
@pytest.mark.parametrize(("is_there", "status"), [(True, 7), (False, 0)])
def test_a_process_whose_parent_is_gone_already_ends_at_once(is_there, status):
    parent = os.getpid() if is_there else -1
    pid = os.fork()
    if pid == 0:
        try:
            limits.die_with_parent(parent)
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status


def test_a_spawned_child_does_what_it_is_asked_and_ends_with_who_asked(monkeypatch):
    asked, done = isolation.request(Place(MODEL), ReadOptions(layers=("a",)), limits.Limits(1, 2.0, 3.0)), []
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(asked)))
    monkeypatch.setattr(isolation, "die_with_parent", lambda parent: done.append(parent))
    monkeypatch.setattr(isolation, "prepare", lambda: done.append("prepared"))
    monkeypatch.setattr(isolation, "_serve", lambda place, options, bound, descriptor: done.append(
        (place.address, options.layers, bound, descriptor)))
    isolation.serve_request()
    assert done == [os.getpid(), "prepared", (str(MODEL), ("a",), limits.Limits(1, 2.0, 3.0), 1)]


def test_no_variable_reaches_the_library_of_a_child(monkeypatch):
    for name in (*isolation.HDF5_VARIABLES, "HDF5_PLUGIN_PRELOAD"):
        monkeypatch.setenv(name, "/plugins")
    monkeypatch.setattr("gc.disable", lambda: None)
    isolation.prepare()
    assert {name: value for name, value in os.environ.items() if name.startswith("HDF5_")} == {"HDF5_PLUGIN_PRELOAD": "::"}


def test_a_process_that_has_ended_gets_no_signal(monkeypatch, forks):
    """Its number may be another's by then."""
    receiving, process = isolation.forked(lambda sending: None)
    os.close(receiving)
    assert process.wait() == 0
    monkeypatch.setattr(os, "kill", lambda *which: pytest.fail(f"a signal was sent: {which}"))
    process.kill()
    assert process.wait() == 0


def test_no_variable_reaches_the_library_of_a_fork(monkeypatch, forks):
    variables = (*isolation.HDF5_VARIABLES, "HDF5_PLUGIN_PRELOAD")
    for name in variables:
        monkeypatch.setenv(name, "/plugins")

    def read_unresolved(place, options):
        raise FormatError(" ".join(f"{name}={os.environ[name]}" for name in variables if name in os.environ))

    monkeypatch.setattr(finding, "read_unresolved", read_unresolved)
    with pytest.raises(FormatError) as said:
        read.read_in_child(Place(MODEL), ReadOptions(), fork=True)
    assert said.value.what == "HDF5_PLUGIN_PRELOAD=::"


@pytest.mark.parametrize("option", ["", "architecture"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, option):
    from exporter.sources import source_for

    model, other = tmp_path / f"m{MODEL.suffix}", tmp_path / f"other{MODEL.suffix}"
    for copy in (model, other):
        copy.write_bytes(MODEL.read_bytes())
    source = source_for(Place(model))
    honest = source.read

    def changing(place, options):
        found = honest(place, options)
        for each in options.inputs(place):
            each.read()
        os.utime(other if option else model, ns=(5, 5))
        return found

    options = ReadOptions(architecture=Place(other)) if option else ReadOptions()
    monkeypatch.setattr(source, "read", changing)
    with pytest.raises(FormatError, match="the file changed while it was being read"):
        finding.read_unresolved(Place(model), options)


def until(true, seconds=20):
    """Whether `true` comes to hold within this time."""
    end = time.monotonic() + seconds
    while not (held := true()) and time.monotonic() < end:
        time.sleep(0.05)
    return held


FROZEN = """\
import sys
with open(sys.argv[2], "a") as file:
    file.write("started\\n")
import exporter
print(len(exporter.read(sys.argv[1])))
try:
    exporter.read(sys.argv[1], isolated=True)
except exporter.UsageError as error:
    print(error)
"""
NOT_NEEDED = ("aiohttp", "boto3", "botocore", "cv2", "dask", "distributed", "fsspec", "jax", "keras", "llvmlite", "matplotlib", "numba",
              "onnx", "onnxruntime", "openvino", "pandas", "s3fs", "scipy", "tensorflow", "tensorstore", "tf_keras", "torch")


@pytest.mark.thorough("a program is frozen, which takes minutes")
def test_a_frozen_program_is_started_once(tmp_path):
    """`sys.executable` of a frozen program is the program: a child made of it would do the program's own work, and so on."""
    pytest.importorskip("PyInstaller", reason="needs PyInstaller: pip install pyinstaller")
    (tmp_path / "program.py").write_text(FROZEN)
    words = [sys.executable, "-m", "PyInstaller", "--onedir", "--log-level", "ERROR", "--paths", str(ROOT),
             "--collect-submodules", "exporter", "--add-data", f"{ROOT / 'schemas'}{os.pathsep}schemas",
             *(word for name in NOT_NEEDED for word in ("--exclude-module", name))]
    subprocess.run([*words, "program.py"], cwd=tmp_path, check=True, timeout=1200)
    model = ROOT / "sample_models" / "encoder_keras3" / "model.h5"
    done = subprocess.run([tmp_path / "dist" / "program" / "program", model, tmp_path / "started.txt"], capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.stdout.startswith("8\nmodel.h5: isolated=True starts a Python interpreter"), done.stderr
    assert (tmp_path / "started.txt").read_text() == "started\n"


def test_a_child_is_ended_where_nobody_wants_its_answer():
    done = []
    receiving, sending = os.pipe()
    running = isolation.Child(receiving, lambda: done.append("waited for"), lambda: done.append("ended"), limits.Limits(0, 1, 1))
    with pytest.raises(ZeroDivisionError):
        isolation.finish(running, lambda: 1 / 0, lambda layer: None)
    os.close(sending)
    assert done == ["ended", "waited for"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(receiving)


def test_what_a_child_prints_is_not_for_the_user(monkeypatch, path, capfd):
    def act():
        for stream in (1, 2):
            os.write(stream, b"noise of a library")
        raise FormatError("after that")

    with pytest.raises(FormatError, match="after that"):
        in_child(monkeypatch, path, act)
    assert capfd.readouterr() == ("", "")


def test_a_child_that_says_nothing_is_waited_for_no_longer_than_its_time():
    receiving, sending = os.pipe()
    running = isolation.Child(receiving, lambda: None, lambda: None, limits.Limits(0, 1, 0.05))
    with pytest.raises(ExporterError, match=r"timed out: reading it took more than 0\.05 seconds"):
        isolation.receive(running, lambda part: None)
    os.write(sending, b"12")
    parts = []
    isolation.receive(running, parts.append, lambda: bool(parts))
    os.close(sending)
    isolation.receive(running, parts.append)
    os.close(receiving)
    assert parts == [b"12"]


@pytest.mark.parametrize(("act", "status"), [(lambda sending: None, 0), (lambda sending: 1 / 0, 70)])
def test_how_a_fork_ends_by_itself(act, status):
    receiving, process = isolation.forked(act)
    assert process.wait() == process.wait() == status
    os.close(receiving)


def test_a_fork_that_does_not_end_by_itself_is_ended():
    receiving, process = isolation.forked(lambda sending: time.sleep(60))
    process.kill()
    assert process.wait() == process.wait() == -signal.SIGKILL
    process.kill()  # nothing is there
    os.close(receiving)


def test_how_long_an_answer_is_waited_for(monkeypatch):
    waits = []

    class Poll:
        def register(self, descriptor, events):
            assert (descriptor, events) == (5, select.POLLIN)

        def poll(self, milliseconds):
            waits.append(milliseconds)

    monkeypatch.setattr(isolation.select, "poll", Poll)
    with pytest.raises(ExporterError, match="timed out: reading it took more than 7 seconds"):
        isolation.receive(isolation.Child(5, lambda: None, lambda: None, limits.Limits(0, 1, 7)), lambda part: None)
    assert len(waits) == 1
    assert 6000 < waits[0] <= 7000

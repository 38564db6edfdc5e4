"""Reading processes that serve many files: replaced where one dies, not used again after a damaged file, and the results are the same."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import pathlib
import signal
import sys
import threading
import time
import types

import pytest

import exporter
from exporter.errors import FormatError, UnresolvedError, UsageError
from exporter.files.place import Place
from exporter.pipeline import finding, readers
from exporter.pipeline.many import export_many
from exporter.pipeline.read import read_here
from exporter.sources.shared.options import ReadOptions
from tests.make import processes
from tests.make.layers import make_bundle, make_layer, same_layer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="each file has a process of its own there")
OPTIONS = ReadOptions()
both_ways = pytest.mark.parametrize("start", ["fork", "spawn"], indirect=True)


@pytest.fixture
def zoo(tmp_path):
    for number in range(6):
        exporter.write(make_bundle(make_layer(seed=number, shape=(64,))), tmp_path / f"m{number}.json")
    (tmp_path / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 600)
    return tmp_path


@pytest.fixture
def pool():
    made = readers.Readers()
    yield made
    made.close()


def read(pool, path, options=OPTIONS):
    return pool.read(Place(path), options, lambda: None, lambda stored: None)


def idle(pool):
    return [reader.pid for reader in pool._idle]


@pytest.fixture(params=["fork", pytest.param("spawn", marks=pytest.mark.thorough("much time; a few tests of both ways run always"))])
def start(request, monkeypatch):
    """Whether processes are forked or spawned."""
    kind = readers._spawned if request.param == "spawn" else readers._forked
    for name in ("_forked", "_spawned"):  # whatever threads other tests have left
        monkeypatch.setattr(readers, name, kind)
    return request.param


@both_ways
def test_one_process_reads_many_files(zoo, pool, start):
    for number in range(6):
        found = read(pool, zoo / f"m{number}.json")
        here = read_here(Place(zoo / f"m{number}.json"), OPTIONS)
        assert all(same_layer(a, b) for a, b in zip(found.layers, here.layers, strict=True))
    assert len(idle(pool)) == 1
    assert pool._idle[0].files == 6


@both_ways
def test_a_process_that_met_a_damaged_file_reads_no_other(zoo, pool, start):
    read(pool, zoo / "m0.json")
    before = idle(pool)
    with pytest.raises(FormatError):
        read(pool, zoo / "damaged.h5")
    assert idle(pool) == []
    read(pool, zoo / "m1.json")
    assert idle(pool) != before
    with pytest.raises(ProcessLookupError):
        os.kill(before[0], 0)


def test_one_that_was_killed_while_it_waited_is_replaced(zoo, pool, start):
    read(pool, zoo / "m0.json")
    (pid,) = idle(pool)
    os.kill(pid, signal.SIGKILL)
    assert len(read(pool, zoo / "m1.json").layers) == 1
    assert idle(pool) != [pid]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_was_killed_while_it_waited_is_not_asked_ahead(zoo, pool, start):
    read(pool, zoo / "m0.json")
    (reader,) = pool._idle
    os.kill(reader.pid, signal.SIGKILL)
    os.waitid(os.P_PID, reader.pid, os.WEXITED | os.WNOWAIT)
    assert pool.ask(Place(zoo / "m1.json"), OPTIONS) is None
    assert idle(pool) == []
    with pytest.raises(ProcessLookupError):
        os.kill(reader.pid, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader.requests)


def test_one_that_was_started_early_and_ended_before_its_first_file_is_replaced(zoo, pool, monkeypatch):
    """On a cluster it may wait longer than it is willing to: until the models are listed."""
    monkeypatch.setattr(readers, "_can_fork", lambda: False)
    monkeypatch.setattr(readers, "_spawned", readers._forked)
    monkeypatch.setattr(readers, "IDLE_SECONDS", 0)
    pool.begin(Place(zoo / "m0.json"))
    assert pool._idle[0].running.wait() == 0
    monkeypatch.setattr(readers, "IDLE_SECONDS", 60)
    assert len(read(pool, zoo / "m0.json").layers) == 1


def at_path(monkeypatch, act):
    """Has the processes do `act` with each file, by its name, before they read it."""
    monkeypatch.setattr(readers, "_spawned", readers._forked)
    honest = finding.read_unresolved

    def read_unresolved(place, options):
        act(place.name)
        return honest(place, options)

    monkeypatch.setattr(finding, "read_unresolved", read_unresolved)


def test_one_that_dies_over_a_file_after_others_gives_it_to_a_new_one(zoo, pool, monkeypatch):
    """It may have brought along what killed it; a new process that dies, too, tells that it was the file."""
    marks = zoo / "marks"
    marks.mkdir()

    def act(name):
        if name == "m1.json" and not (marks / "once").exists():
            (marks / "once").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "m2.json":
            with open(marks / "twice", "a", encoding="utf-8") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)

    at_path(monkeypatch, act)
    for name in ("m0.json", "m1.json"):
        assert len(read(pool, zoo / name).layers) == 1
    with pytest.raises(FormatError, match=f"signal {signal.SIGKILL.value}"):
        read(pool, zoo / "m2.json")
    assert (marks / "twice").read_text() == "xx"
    assert len(read(pool, zoo / "m3.json").layers) == 1


def test_limits_are_set_for_each_file(zoo, pool, monkeypatch):
    """From the time that the process has taken so far."""
    import resource

    from exporter.pipeline import limits

    noted, spent = zoo / "limits", itertools.count(100, 100)
    monkeypatch.setattr(limits, "CPU_SECONDS", 5)

    def act(name):
        resource.getrusage = lambda whose: (next(spent), 0.5)  # in the process that reads: from the next file on
        with open(noted, "a", encoding="utf-8") as file:
            print(resource.getrlimit(resource.RLIMIT_CPU)[0], file=file)
        if name == "m2.json":
            os.kill(os.getpid(), signal.SIGXCPU)  # as the kernel does

    at_path(monkeypatch, act)
    for name in ("m0.json", "m1.json"):
        read(pool, zoo / name)
    assert len(idle(pool)) == 1
    with pytest.raises(FormatError, match="5 seconds of processor time"):
        read(pool, zoo / "m2.json")
    assert noted.read_text().split()[1:] == ["106", "206"]


@pytest.mark.thorough("three seconds of computing, in which the kernel ends a process")
def test_limits_hold_for_each_file(zoo, pool, monkeypatch):
    from exporter.pipeline import limits

    monkeypatch.setattr(limits, "CPU_SECONDS", 1)

    def act(name):
        end = time.process_time() + (0.4 if name != "m3.json" else 60)
        while time.process_time() < end:
            pass

    at_path(monkeypatch, act)
    for name in ("m0.json", "m1.json", "m2.json"):  # more than a second in all
        read(pool, zoo / name)
    assert len(idle(pool)) == 1
    with pytest.raises(FormatError, match="1 seconds of processor time"):
        read(pool, zoo / "m3.json")


@pytest.mark.parametrize("name", ["MAX_FILES", pytest.param("MAX_GROWTH", marks=pytest.mark.thorough("much time: four interpreters"))])
def test_one_that_has_read_enough_or_has_grown_is_replaced(zoo, pool, forks, monkeypatch, name):
    monkeypatch.setattr(readers, name, 2 if name == "MAX_FILES" else -(1 << 40))
    seen, ended = set(), []
    monkeypatch.setattr(readers.Reader, "close", lambda reader, close=readers.Reader.close: ended.append(reader.pid) or close(reader))
    for number in range(4):
        read(pool, zoo / f"m{number}.json")
        seen.update(idle(pool))
    assert len(seen) == (2 if name == "MAX_FILES" else 0)
    assert len({*ended}) == (2 if name == "MAX_FILES" else 4), "what is replaced has been ended"


def test_what_the_user_did_not_say_is_no_damage(tmp_path, pool, forks):
    import h5py
    import numpy as np

    with h5py.File(tmp_path / "w.weights.h5", "w") as file:
        file.attrs["layer_names"] = [b"bn"]
        group = file.create_group("bn")
        group.attrs["weight_names"] = [f"bn/{name}:0".encode() for name in ("gamma", "beta", "moving_mean", "moving_variance")]
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            group.create_dataset(f"bn/{name}:0", data=np.ones(3, "f4"))
    summary = export_many([tmp_path / "w.weights.h5"], tmp_path / "out")
    assert "epsilon" in summary.outcomes[0].reason
    pool.read(Place(tmp_path / "w.weights.h5"), OPTIONS, lambda: None, lambda stored: None)
    assert len(idle(pool)) == 1
    assert UnresolvedError in readers.ABOUT_OPTIONS


def test_a_process_whose_answer_is_about_the_options_reads_the_next_file(zoo, pool, start):
    import h5py

    with h5py.File(zoo / "w.h5", "w") as file:
        file.attrs.update(layer_names=[b"d"], keras_version=b"2.2.4")
        file.create_group("d").attrs["weight_names"] = [b"d/kernel:0"]
    read(pool, zoo / "m0.json")
    before = idle(pool)
    with pytest.raises(UsageError, match=r"--keras-version 1\.0 contradicts the file"):
        read(pool, zoo / "w.h5", ReadOptions(keras_version="1.0"))
    assert idle(pool) == before
    read(pool, zoo / "m1.json")
    assert (idle(pool), pool._idle[0].files) == (before, 3)


@both_ways
def test_threads_share_them(zoo, start):
    here = {number: exporter.load(zoo / f"m{number}.json").digest() for number in range(6)}
    before = threading.enumerate()
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        summary = export_many([zoo / "*"], zoo / "out", executor=executor)
    assert str(summary) == "exported 6, skipped 0, refused 1"
    assert {number: exporter.load(zoo / f"out/m{number}.json.json").digest() for number in range(6)} == here
    assert readers.READERS._idle == []
    assert not set(threading.enumerate()) - set(before)


def test_the_folder_may_change_meanwhile(zoo, pool, forks, monkeypatch):
    monkeypatch.chdir(zoo)
    read(pool, pathlib.Path("m0.json"))
    (zoo / "below").mkdir()
    monkeypatch.chdir(zoo / "below")
    assert len(read(pool, pathlib.Path("../m1.json")).layers) == 1
    assert len(idle(pool)) == 1


def test_a_fork_of_this_process_leaves_them_alone(zoo, pool, forks):
    read(pool, zoo / "m0.json")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if pool._idle == [] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    (before,) = idle(pool)
    read(pool, zoo / "m1.json")
    assert idle(pool) == [before]


def test_they_end_with_the_process_that_asks(zoo):
    program = ("import sys, os, signal\nfrom exporter.files.place import Place\nfrom exporter.pipeline import readers\n"
               "from exporter.sources.shared.options import ReadOptions\n"
               f"readers.READERS.read(Place({str(zoo / 'm0.json')!r}), ReadOptions(), lambda: None, lambda stored: None)\n"
               "print(readers.READERS._idle[0].pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n")
    pid = int(processes.run(program).stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("a reading process outlived the one that asked it")


@pytest.mark.parametrize(("change", "forks"), [
    (lambda patch: None, True), (lambda patch: patch.setattr(threading, "active_count", lambda: 2), False),
    (lambda patch: patch.delattr(os, "fork"), False), (lambda patch: patch.setitem(sys.modules, "tensorstore", threading), False)])
def test_where_a_process_may_be_forked(monkeypatch, change, forks):
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.delitem(sys.modules, "tensorstore", raising=False)
    change(monkeypatch)
    assert readers._can_fork() is forks


@pytest.mark.parametrize(("serves", "threads", "expected"), [
    (True, 1, "a waiting process"), (False, 1, "its own, forked"), (False, 2, "its own, started")])
def test_which_process_reads_a_file_of_a_batch(zoo, monkeypatch, serves, threads, expected):
    from exporter.pipeline import read as reading

    def own(place, options, *, fork, output):
        return "its own, forked" if fork else "its own, started"

    monkeypatch.setattr(readers, "can_serve", lambda place: serves)
    monkeypatch.setattr(readers.Readers, "read", lambda *_: "a waiting process")
    monkeypatch.setattr(reading, "read_in_child", own)
    monkeypatch.setattr(reading, "resolve", lambda found, *_: found)
    monkeypatch.setattr(threading, "active_count", lambda: threads)
    assert reading.read_in_batch(Place(zoo / "m0.json"), OPTIONS, reading.NOBODY) == expected


def test_a_fork_closes_its_end_of_the_pipes(pool):
    pipes = os.pipe()
    pool._idle.append(readers.Reader(pipes[1], readers.child.Child(pipes[0], lambda: 0, lambda: None, readers.NO_LIMITS), 0))
    pool._forget()
    for descriptor in pipes:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    assert pool._idle == []


@pytest.mark.parametrize(("name", "value"), [
    ("HDF5_PLUGIN_PATH", "/plugins"), ("HDF5_DRIVER", "core"), ("HDF5_PLUGIN_PRELOAD", "/plugins"), ("HDF5_PLUGIN_PRELOAD", "")])
def test_where_a_variable_asks_for_plugins_no_process_but_the_reading_ones_loads_them(monkeypatch, name, value):
    for other in (*readers.child.HDF5_VARIABLES, "HDF5_PLUGIN_PRELOAD"):  # TensorFlow sets one as it is imported
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError):
        readers.prepare(library=True)
    readers.prepare()
    monkeypatch.setenv("HDF5_PLUGIN_PRELOAD", "::")
    with pytest.raises(ImportError):
        readers.prepare(library=True)
    monkeypatch.setenv(name, value)
    readers.prepare(library=True)


def test_a_process_that_reads_many_files_loads_no_plugins(zoo, pool, monkeypatch):
    noted, variables = zoo / "noted", (*readers.child.HDF5_VARIABLES, "HDF5_PLUGIN_PRELOAD")

    def act(name):
        noted.write_text(" ".join(f"{each}={os.environ[each]}" for each in variables if each in os.environ))

    at_path(monkeypatch, act)
    for name in variables:
        monkeypatch.setenv(name, "/plugins")
    assert len(read(pool, zoo / "m0.json").layers) == 1
    assert noted.read_text() == "HDF5_PLUGIN_PRELOAD=::"


def test_a_process_that_cannot_be_asked_is_ended(zoo, pool, forks, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(readers, "_ask", stop)
    taken, take = [], pool._take
    monkeypatch.setattr(pool, "_take", lambda: taken.append(take()) or taken[0])
    with pytest.raises(KeyboardInterrupt):
        pool.ask(Place(zoo / "m0.json"), OPTIONS)
    with pytest.raises(ProcessLookupError):
        os.kill(taken[0].pid, 0)


def test_of_a_pipe_no_more_is_read_than_the_request():
    """Which may come in pieces, the next one behind it."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as requests, os.fdopen(writing, "wb", buffering=0) as asked:
        first = types.SimpleNamespace(read=lambda size: requests.read(min(size, 3)))
        asked.write(b"requestnext")
        assert readers._exactly(first, 7) == b"request"
        assert requests.read(9) == b"next"
        asked.write(b"req")
        asked.close()
        assert readers._exactly(requests, 7) is None


def test_a_request_that_nobody_reads():
    reading, writing = os.pipe()
    assert readers._ask(writing, b"request")
    assert os.read(reading, 100) == b"\7\0\0\0\0\0\0\0request"
    os.close(reading)
    assert not readers._ask(writing, b"request")
    os.close(writing)


# --- ahead of time ----------------------------------------------------------------------------------------------------------------------


def test_a_file_that_was_asked_for_ahead_is_read_once(zoo, pool, start):
    asked = pool.ask(Place(zoo / "m1.json"), OPTIONS)
    found = pool.read(Place(zoo / "m1.json"), OPTIONS, lambda: None, lambda stored: None, asked)
    assert found.layers[0].moving_mean.tobytes() == exporter.load(zoo / "m1.json").layers[0].moving_mean.tobytes()
    assert idle(pool) == [asked.reader.pid]
    asked.close()  # no harm: it was taken
    assert read(pool, zoo / "m2.json").layers
    assert idle(pool) == [asked.reader.pid]


def test_one_that_dies_meanwhile_is_replaced(zoo, pool, start):
    before = os.listdir("/dev/fd")
    asked = pool.ask(Place(zoo / "m1.json"), OPTIONS)
    os.kill(asked.reader.pid, signal.SIGKILL)
    found = pool.read(Place(zoo / "m1.json"), OPTIONS, lambda: None, lambda stored: None, asked)
    assert len(found.layers) == 1
    assert idle(pool) != [asked.reader.pid]
    pool.close()
    assert os.listdir("/dev/fd") == before, "nothing is left open"


def test_one_that_nobody_listens_to_is_ended(zoo, pool, start):
    asked = pool.ask(Place(zoo / "m1.json"), OPTIONS)
    asked.close()
    with pytest.raises(ProcessLookupError):
        os.kill(asked.reader.pid, 0)
    assert read(pool, zoo / "m1.json").layers


def test_what_is_wrong_with_a_file_is_said_of_that_file(zoo, pool, start):
    asked = pool.ask(Place(zoo / "damaged.h5"), OPTIONS)
    with pytest.raises(FormatError):
        pool.read(Place(zoo / "damaged.h5"), OPTIONS, lambda: None, lambda stored: None, asked)
    assert idle(pool) == []


def test_while_one_is_written_the_next_is_being_read(zoo, forks, monkeypatch):
    from exporter.pipeline import write

    done = []

    def noting(kind, name, say):
        whole = getattr(kind, name)

        def call(self, first, *rest):
            done.append(say(self, first))
            return whole(self, first, *rest)

        monkeypatch.setattr(kind, name, call)

    noting(readers.Readers, "ask", lambda _, place: f"ask {place.name}")
    noting(write.Output, "end", lambda output, _: f"write {os.path.basename(output.path)}")
    (zoo / "out" / "m2.json.json").mkdir(parents=True)  # where nothing can be written: what was asked for is not read
    summary = export_many([zoo / "m0.json", zoo / "m1.json", zoo / "m2.json", zoo / "damaged.h5", zoo / "m3.json"], zoo / "out")
    assert [outcome.status for outcome in summary.outcomes] == ["exported", "exported", "refused", "refused", "exported"]
    assert done == ["ask m1.json", "write m0.json.json", "ask m2.json", "write m1.json.json", "write m3.json.json"]


def test_a_process_whose_requests_nobody_can_send_ends():
    """And leaves no open pipe here."""
    before = os.listdir("/proc/self/fd")
    reader = readers._forked()
    reader.forget()
    for _ in range(200):
        if os.waitpid(reader.pid, os.WNOHANG)[0]:
            break
        time.sleep(0.05)
    else:
        reader.running.kill()
        pytest.fail("it still waits")
    assert os.listdir("/proc/self/fd") == before


def test_one_that_is_closed_is_ended_before_it_is_waited_for():
    done = []
    pipes = os.pipe()
    running = readers.child.Child(pipes[0], lambda: done.append("waited for"), lambda: done.append("ended"), readers.NO_LIMITS)
    readers.Reader(pipes[1], running, 0).close()
    assert done == ["ended", "waited for"]
    for descriptor in pipes:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize(("files", "memory", "size", "is_worn", "remembered"), [
    (1, 0, 100, False, 100), (2, 100, 150, False, 100), (2, 100, 151, True, 100), (3, 100, 100, True, 100), (4, 100, 0, True, 100)])
def test_when_a_process_is_replaced(monkeypatch, files, memory, size, is_worn, remembered):
    """After so many files, or when it has grown so much beyond what it took after its first."""
    monkeypatch.setattr(readers, "MAX_FILES", 3)
    monkeypatch.setattr(readers, "MAX_GROWTH", 50)
    monkeypatch.setattr(readers, "memory_of", lambda process, field: {(7, 1): size}[process, field])
    reader = readers.Reader(0, None, 7, files=files, memory=memory)
    assert (reader.is_worn(), reader.memory) == (is_worn, remembered)


def test_a_new_process_may_grow_from_what_it_took_after_its_first_file(monkeypatch):
    sizes = iter([3 << 30, (3 << 30) + readers.MAX_GROWTH, (3 << 30) + readers.MAX_GROWTH + 1])
    monkeypatch.setattr(readers, "memory_of", lambda process, field: next(sizes))
    reader = readers.Reader(0, None, 7)
    assert (reader.files, reader.has_waited) == (0, False)
    assert [reader.is_worn() for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(("forks", "serves", "begun"), [(False, True, 1), (True, True, 0), (False, False, 0), (True, False, 0)])
def test_only_a_process_that_takes_long_to_start_is_started_early(pool, monkeypatch, forks, serves, begun):
    monkeypatch.setattr(readers, "_can_fork", lambda: forks)
    monkeypatch.setattr(readers, "can_serve", lambda place: serves)
    pipes = os.pipe()
    made = readers.Reader(pipes[1], readers.child.Child(pipes[0], lambda: 0, lambda: None, readers.NO_LIMITS), 0)
    monkeypatch.setattr(readers, "_spawned", lambda: made)
    pool.begin(Place("m.h5"))
    assert pool._idle == [made] * begun
    assert made.has_waited is bool(begun)
    made.forget()
    pool._idle.clear()


def test_what_was_asked_for_ahead_is_ended_once_unless_it_was_taken():
    closed = []
    reader = readers.Reader(0, readers.child.Child(0, lambda: 0, lambda: None, readers.NO_LIMITS), 0)
    reader.close = lambda: closed.append("closed")
    asked, taken = readers.Asked(reader), readers.Asked(reader)
    taken.taken = True
    for one in (asked, asked, taken):
        one.close()
    assert closed == ["closed"]

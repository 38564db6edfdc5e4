"""How much time and memory reading may take: by what lies there, and in the process that is bound to it."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from exporter.files.place import Place
from exporter.files.remote import place_for
from exporter.pipeline import limits
from exporter.pipeline.child import ending, is_out_of_time
from exporter.pipeline.limits import MEMORY, OUT_OF_MEMORY, OUT_OF_TIME, Limits, _size, _size_below

MiB = 1 << 20


def sparse(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize(("size", "seconds"), [(0, 3), (MiB - 1, 3), (MiB, 4), (100 * MiB, 103), (600 * MiB, 603), (9000 * MiB, 603)])
def test_a_second_for_each_mebibyte(tmp_path, size, seconds):
    found = Limits.of(Place(sparse(tmp_path / "m", size)))
    assert found == Limits(memory=2 << 30, cpu_seconds=seconds, wall_seconds=60 + 10 * seconds)
    assert MEMORY == 2 << 30


def test_what_lies_far_away_has_a_limit_of_its_own():
    assert Limits.of(place_for("memory://m")) == Limits(memory=2 << 30, cpu_seconds=30, wall_seconds=360)


def test_a_folder_counts_with_what_lies_below(tmp_path):
    sparse(tmp_path / "m" / "a", 10)
    sparse(tmp_path / "m" / "1" / "b", 200)
    sparse(tmp_path / "m" / "1" / "2" / "3" / "c", 3000)
    sparse(tmp_path / "m" / "1" / "2" / "3" / "4" / "d", 40000)
    (tmp_path / "m" / "link").symlink_to(tmp_path / "other")
    sparse(tmp_path / "other" / "e", 500000)
    assert _size(Place(tmp_path / "m")) == 3210
    assert _size(Place(tmp_path / "m" / "a")) == 10
    assert _size(Place(tmp_path / "m" / "1" / "prefix-of-a-checkpoint")) == 200, "what lies beside it"
    assert _size(Place(tmp_path / "absent" / "x")) == 0
    assert [_size_below(str(tmp_path / "m"), depth) for depth in range(5)] == [10, 210, 210, 3210, 43210]
    for number in range(30):
        sparse(tmp_path / "many" / str(number) / "x", 1)
    assert _size(Place(tmp_path / "many")) == 20


def in_fork(act):
    """What `act` gives in a fork of this process, as text."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(sending, repr(act()).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(sending)
    said = os.read(receiving, 1000).decode()
    os.close(receiving)
    return said


@pytest.mark.skipif(sys.platform != "linux", reason="what the system tells of a process")
def test_a_process_is_bound_to_them():
    import resource

    def bound():
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGXCPU})
        resource.getrusage = lambda _: (5.5, 20.25, 1 << 20, 0)  # seconds of its own, seconds of the system for it, memory
        space, hard = limits.memory_of("self", 0), {kind: resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS)}
        resource.setrlimit(resource.RLIMIT_AS, (space + (1 << 29), hard[resource.RLIMIT_AS]))
        resource.setrlimit(resource.RLIMIT_CPU, (500, hard[resource.RLIMIT_CPU]))
        noted, alarms, limit = {}, [], resource.setrlimit
        resource.setrlimit = lambda kind, pair: noted.update({kind: pair}) or limit(kind, pair)
        signal.alarm = alarms.append
        Limits(memory=1 << 30, cpu_seconds=40, wall_seconds=70.5).apply()
        memory = resource.getrlimit(resource.RLIMIT_AS)
        return (resource.getrlimit(resource.RLIMIT_CPU) == (66, hard[resource.RLIMIT_CPU]), noted[resource.RLIMIT_CORE] == (0, 0),
                abs(memory[0] - space - (1 << 30)) < 64 * MiB, memory[1] == hard[resource.RLIMIT_AS],
                signal.getsignal(signal.SIGXCPU) == signal.SIG_DFL, signal.getsignal(signal.SIGALRM) == signal.SIG_DFL,
                not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGALRM, signal.SIGXCPU}, alarms == [75])

    assert in_fork(bound) == repr((True,) * 8)


@pytest.mark.skipif(sys.platform != "linux", reason="what the system tells of a process")
def test_a_process_that_may_have_less_memory_is_bound_to_that():
    import resource

    def bound():
        less = limits.memory_of("self", 0) + (1 << 29)
        resource.setrlimit(resource.RLIMIT_AS, (less - 4096, less))
        signal.alarm = lambda seconds: None
        Limits(memory=1 << 30, cpu_seconds=40, wall_seconds=70).apply()
        return resource.getrlimit(resource.RLIMIT_AS) == (less, less)

    assert in_fork(bound) == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it")
def test_the_address_space_is_that_of_the_system():
    with open("/proc/self/status", encoding="ascii") as file:
        said = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmSize"))
    assert abs(limits.memory_of("self", 0) - said) < 64 * MiB


@pytest.mark.parametrize(("status", "words", "is_late"), [
    (OUT_OF_TIME, "timed out: reading it took more than 70 seconds, but not of processor time", True),
    (-signal.SIGALRM, "timed out", True), (-signal.SIGXCPU, "reading it took more than 4 seconds of processor time", True),
    (OUT_OF_MEMORY, "reading it exceeded its memory limit", False), (-signal.SIGSEGV, "reading it crashed the reading process (signal 11)",
                                                                     False),
    (70, "reading it ended the process (exit status 70)", False), (1, "reading it ended the process (exit status 1)", False)])
def test_what_an_exit_status_says(status, words, is_late):
    error = ending(status, Limits(1, 4, 70))
    assert str(error).startswith(words)
    assert ("damaged or forged" in error.hint) == ("timed out" not in words)
    assert is_out_of_time(status) == is_late


def test_a_look_at_a_process_leaves_nothing_open():
    before = os.listdir("/proc/self/fd")
    assert limits.memory_of("self", 0) >= limits.memory_of("self", 1) > 0
    assert limits.memory_of("none", 0) == limits.memory_of("self", 99) == 0
    assert os.listdir("/proc/self/fd") == before


def test_where_the_system_knows_no_limits_a_timer_ends_the_process(monkeypatch):
    timers = []

    class Timer:
        daemon = False

        def __init__(self, seconds, act, given):
            timers.append((self, seconds, act, given))

        def start(self):
            assert self.daemon, "else the process waits for it at its end"
            timers.append("started")

    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(threading, "Timer", Timer)
    Limits(memory=1, cpu_seconds=2, wall_seconds=3).apply()
    assert timers[0][1:] == (3, os._exit, (OUT_OF_TIME,))
    assert timers[1:] == ["started"]


def test_a_child_that_ended_without_an_answer_or_a_reason():
    assert "ended the process (exit status 0)" in str(ending(0, Limits(1, 4, 70)))

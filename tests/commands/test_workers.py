"""The processes of --jobs: what they leave to the process that started them, and what Ctrl-C must not interrupt."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
import types

import pytest

from exporter.commands import workers
from exporter.errors import MissingExtra, UsageError
from exporter.pipeline import pieces

without_signals = pytest.mark.skipif(sys.platform == "win32", reason="a process of Windows is ended without a word")


def is_blocked():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit of time ends it")
@pytest.mark.usefixtures("forks")
def test_a_worker_ends_with_its_parent_and_leaves_ctrl_c_to_it(monkeypatch):
    """It would wait for work forever: the pipe that work comes from is open in the other workers."""
    monkeypatch.setattr(workers, "_import", lambda: None)
    receiving, sending = os.pipe()
    ready, begun = os.pipe()
    parent = os.fork()
    if parent == 0:  # a worker, too, which ends as usual
        try:
            signal.signal(signal.SIGTERM, lambda *_: None)  # as in a command
            with workers._without_interrupts():
                workers._begin_worker()
                os.kill(os.getpid(), signal.SIGINT)
                os.write(sending, f"{is_blocked()} {signal.getsignal(signal.SIGTERM) is signal.SIG_DFL}".encode())
            if os.fork() == 0:
                workers._begin_worker()
                os.write(begun, b".")
                time.sleep(20)
            else:
                os.read(ready, 1)
        finally:
            os._exit(0)
    for descriptor in (sending, ready, begun):
        os.close(descriptor)
    with open(receiving, "rb", buffering=0) as worker:
        assert worker.read(20) == b"False True"
        os.waitpid(parent, 0)
        assert select.select([worker], [], [], 10)[0], "it goes on alone"
        assert worker.read() == b""


@without_signals
def test_ctrl_c_while_a_worker_starts_comes_afterward(monkeypatch):
    done = []
    monkeypatch.setattr(concurrent.futures.ProcessPoolExecutor, "submit",
                        lambda self, word: (signal.pthread_kill(threading.get_ident(), signal.SIGINT), done.append(word)))
    with pytest.raises(KeyboardInterrupt):
        object.__new__(workers._Workers).submit("started")
    assert done == ["started"]
    assert not is_blocked()


@pytest.mark.parametrize(("may_fork", "how"), [(True, multiprocessing.get_start_method()), (False, "spawn")])
def test_exports_in_progress_are_finished_and_no_others_begun(monkeypatch, may_fork, how):
    class Workers:
        def __init__(self, jobs, mp_context, initializer):
            done.append((jobs, mp_context.get_start_method(), initializer))

        def shutdown(self, **how):
            done.append(how)

    done = []
    monkeypatch.setattr(workers, "_Workers", Workers)
    monkeypatch.setattr(workers, "_import", lambda: None)
    with pytest.raises(KeyboardInterrupt), workers.pool(3, may_fork=may_fork):
        raise KeyboardInterrupt
    assert done == [(3, how, workers._begin_worker), {"wait": True, "cancel_futures": True}]


class Client:
    """Of a cluster with two workers."""

    def __init__(self, address, timeout):
        if address != "tcp://x:1":
            raise OSError("nobody is there")
        self.asked, self.is_open = [], False

    def nthreads(self):
        return {"first": 1, "second": 8}

    def __enter__(self):
        self.is_open = True

    def __exit__(self, *_):
        self.is_open = False

    def submit(self, function, *args, **options):
        self.asked.append((function, args, options))

    def get_executor(self, **options):
        return self, options


def test_each_worker_of_a_cluster_begins_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", types.SimpleNamespace(Client=Client))
    with workers.cluster("tcp://x:1", "a.h5") as (client, options):
        assert client.is_open
        assert options == {"pure": False}, "the same model may be exported again"
        assert client.asked == [(pieces.begin, ("a.h5",), {"workers": [name], "pure": False}) for name in ("first", "second")]
    assert not client.is_open


def test_a_cluster_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", types.SimpleNamespace(Client=Client))
    words = "cannot connect to a Dask scheduler at tcp://y:1: nobody is there"
    with pytest.raises(UsageError, match=words), workers.cluster("tcp://y:1", "a"):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match="--dask"), workers.cluster("tcp://x:1", "a"):
        pass

"""The processes of --jobs: what they leave to the process that started them."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

import pytest

from exporter.commands import workers


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit of time ends it")
@pytest.mark.usefixtures("forks")
def test_a_worker_ends_with_its_parent_and_leaves_ctrl_c_to_it(monkeypatch):
    """It would wait for work forever: the pipe that work comes from is open in the other workers."""
    monkeypatch.setattr(workers, "_import", lambda: None)
    receiving, sending = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            signal.signal(signal.SIGTERM, lambda *_: None)  # as in a command
            with workers._without_interrupts():
                if os.fork() == 0:
                    workers._begin_worker()
                    os.kill(os.getpid(), signal.SIGINT)
                    is_blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
                    os.write(sending, f"{is_blocked} {signal.getsignal(signal.SIGTERM) is signal.SIG_DFL}".encode())
            os.close(sending)
            time.sleep(20)
        finally:
            os._exit(0)
    os.close(sending)
    with open(receiving, "rb", buffering=0) as worker:
        assert worker.read(20) == b"False True"
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert select.select([worker], [], [], 10)[0], "it goes on alone"
        assert worker.read() == b""

"""export_many on a Dask cluster of this machine: a scheduler and two workers, one of which is killed in the middle."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

import exporter
from exporter.pipeline.many import export_many
from tests.make.layers import ROOT, make_bundle, make_layer

pytestmark = [pytest.mark.filterwarnings("ignore"),  # of distributed and tornado
              pytest.mark.skipif(importlib.util.find_spec("distributed") is None,
                                 reason="needs the extra `dask`: pip install 'bn-export[dask]'"),
              pytest.mark.skipif(sys.platform == "win32", reason="signals")]
MODELS = 24


def start(tmp_path, name, *words):
    with open(tmp_path / f"{name}.log", "wb") as log:
        return subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:]], stdout=log, stderr=log,
                                cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s"})


@pytest.fixture
def cluster(tmp_path):
    """(address of the scheduler, the two workers' processes)."""
    scheduler = start(tmp_path, "scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show")
    started = [scheduler]
    try:
        address = wait_for(tmp_path / "scheduler.log", r"Scheduler at:\s*(tcp://\S+)")
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        workers = [start(tmp_path, f"worker{i}", "worker", address, *options) for i in range(2)]
        started += workers
        for i in range(2):
            wait_for(tmp_path / f"worker{i}.log", r"(Registered to)")
        yield address, workers
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for(log, pattern):
    for _ in range(600):
        found = re.search(pattern, log.read_text()) if log.exists() else None
        if found:
            return found[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
def zoo(tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    for number in range(MODELS):
        exporter.write(make_bundle(make_layer(seed=number, shape=(64,))), folder / f"m{number:02}.json")
    (folder / "bad.h5").write_text("junk")
    return folder


@pytest.mark.thorough("much time: three processes of a cluster are started, and one is killed")
def test_a_worker_killed_in_the_middle_loses_nothing_and_does_nothing_twice(cluster, zoo, tmp_path):
    import distributed

    address, workers = cluster
    outcomes, inodes = [], {}

    def progress(outcome, done, count):
        outcomes.append(outcome)
        if outcome.status == "exported":
            inodes[outcome.out] = os.stat(outcome.out).st_ino
        if done == 5:
            workers[0].send_signal(signal.SIGKILL)

    with distributed.Client(address) as client:
        summary = export_many([zoo / "*"], tmp_path / "out", executor=client.get_executor(pure=False), progress=progress)
    assert workers[0].wait(10) == -signal.SIGKILL
    assert str(summary) == f"exported {MODELS}, skipped 0, refused 1"
    assert len(outcomes) == len({outcome.source for outcome in outcomes}) == MODELS + 1
    for out, inode in inodes.items():
        assert os.stat(out).st_ino == inode, "an export that was reported was written again"
        name = pathlib.Path(out).name.removesuffix(".json")
        assert exporter.load(out).digest() == exporter.load(zoo / name).digest()
    assert len(inodes) == MODELS
    assert len(list((tmp_path / "out").glob(".*.tmp"))) <= 2  # of what the killed one was writing


@pytest.mark.thorough("much time: three processes of a cluster are started")
def test_the_command(cluster, zoo, tmp_path):
    address, _ = cluster
    words = [sys.executable, "-m", "exporter", f"{zoo}/*", "--out-dir", str(tmp_path / "out"), "--dask", address]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == f"exported {MODELS}, skipped 0, refused 1"
    again = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert again.stderr.splitlines()[-1] == f"exported 0, skipped {MODELS}, refused 1"


def test_no_scheduler(zoo, tmp_path, monkeypatch):
    import distributed

    from exporter.commands.export import export

    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout="0.3s"))
    with pytest.raises(exporter.UsageError, match="cannot connect to a Dask scheduler"):
        export([str(zoo), "--out-dir", str(tmp_path / "out"), "--dask", "tcp://127.0.0.1:9"])

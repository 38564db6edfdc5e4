"""What a batch says while it runs, when it is interrupted and at its end, and who does the work."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import types

import pytest

from exporter.commands import export_many, workers
from exporter.commands.export import export
from exporter.commands.export_many import Progress
from exporter.commands.streams import ERASE
from exporter.errors import UsageError
from exporter.pipeline import many
from exporter.pipeline.outcome import Outcome, Summary


def outcome(status="exported", source="m.h5", **fields):
    return Outcome(source=source, out="o", status=status, **fields)


class Stream(io.StringIO):
    """seen: what was flushed, and so can be seen where no line ended."""

    seen = ""

    def flush(self):
        self.seen = self.getvalue()


@pytest.fixture
def shown(monkeypatch):
    """(what is written to a terminal of 80 columns, or with tty=False to a file; a Progress)"""
    def make(verbose=False, tty=True, columns=80):
        stream = Stream()
        stream.isatty = lambda: tty
        now = [100.0]
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(export_many, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setenv("COLUMNS", str(columns))
        return stream, Progress(verbose), now

    return make


def test_a_bar_on_a_terminal(shown):
    stream, progress, now = shown()
    now[0] = 104.0
    progress(outcome(), 1, 4)
    assert stream.seen == f"{ERASE}[{'#' * 6}{'.' * 18}] 1 of 4, 12 s left"
    progress(outcome("refused", reason="odd", hint="h"), 2, 4)
    progress(outcome("refused", "n.h5", reason="odd", hint="h"), 4, 4)
    lines = stream.getvalue().split(ERASE)
    assert lines[2] == f"error: m.h5: odd\nhint: h\n[{'#' * 12}{'.' * 12}] 2 of 4, 1 refused, 4 s left"
    assert lines[3] == f"error: n.h5: odd\n[{'#' * 24}] 4 of 4, 2 refused, 0 s left", "a hint once"
    progress.end()
    assert stream.seen.endswith(f"0 s left{ERASE}")
    assert progress.interrupted() == ("interrupted: 4 of 4 models are done, 2 of them refused\n"
                                      "hint: run the same command again to export the rest")


@pytest.mark.parametrize(("columns", "bar"), [(45, f"[{'#' * 12}{'.' * 12}] 1 of 2, 4 s left"),
                                              (44, f"[{'#' * 12}{'.' * 12}] 1 of 2, 4 s left"),
                                              (43, "1 of 2, 4 s left"), (17, "1 of 2, 4 s left"), (16, "1 of 2, 4 s lef")])
def test_a_bar_that_would_wrap_is_left_out(shown, columns, bar):
    stream, progress, now = shown(columns=columns)
    now[0] = 104.0
    progress(outcome(), 1, 2)
    assert stream.getvalue() == ERASE + bar


def test_elsewhere_only_what_is_worth_a_line(shown):
    stream, progress, _ = shown(tty=False)
    progress(outcome(layers=2, channels=7, warnings=("w",)), 1, 3)
    progress(outcome("skipped"), 2, 3)
    assert stream.getvalue() == "warning: m.h5: w\n"
    assert progress.interrupted().startswith("interrupted: 2 of 3 models are done, 0 of them refused\n")
    stream, progress, _ = shown(verbose=True, tty=False)
    assert progress.interrupted().startswith("interrupted: no model is done yet\n")
    progress(outcome(layers=2, channels=7), 1, 3)
    progress(outcome("skipped", layers=2, channels=7), 2, 3)
    assert stream.getvalue() == "exported m.h5: 2 batch norms, 7 channels\nskipped m.h5\n"


@pytest.fixture
def batch(monkeypatch, run, tmp_path):
    """batch(summary, *words) -> what a batch prints that ends with this Summary, or error, and (globs, folder, options) of the call."""
    def call(summary, *words, on_terminal=False):
        calls = []

        def instead(*args, progress, **options):
            calls.append((*args, options))
            progress._bar = on_terminal
            if isinstance(summary, BaseException):
                raise summary
            return summary

        monkeypatch.setattr(many, "export_many", instead)
        monkeypatch.chdir(tmp_path)
        return run(export, *words), *calls

    return call


def test_the_end_of_a_batch(batch, tmp_path):
    good, odd = outcome(), [outcome("refused", f"{name}.h5", reason=f"odd {name}", hint="h") for name in "ab"]
    done, _ = batch(Summary((good,), ("w",)), "*.h5", "--out-dir", "d", "--jobs", "1")
    assert done == (0, "", "warning: w\nexported 1, skipped 0, refused 0\n")
    (code, out, err), _ = batch(Summary((good, *odd, outcome("refused", "c.h5", reason="other"))), "*.h5", "--out-dir", "d", "--jobs", "1",
                                "--report", "r.json")
    assert (code, out) == (1, "")
    assert err == "exported 1, skipped 0, refused 3\n  2 like a.h5: odd a (h)\n  1 like c.h5: other\n"
    assert len(json.loads((tmp_path / "r.json").read_text("utf-8"))["models"]) == 4
    assert batch(Summary((good, odd[0])), "*.h5", "--out-dir", "d", "--jobs", "1")[0] == (1, "", "exported 1, skipped 0, refused 1\n")


def test_a_batch_that_is_interrupted_says_how_to_go_on(batch):
    said = "interrupted: no model is done yet\nhint: run the same command again to export the rest\n"
    assert batch(KeyboardInterrupt(), "*.h5", "--out-dir", "d", "--jobs", "1")[0] == (130, "", said)
    (_, _, err), _ = batch(KeyboardInterrupt(), "*.h5", "--out-dir", "d", "--jobs", "1", on_terminal=True)
    assert err.startswith(f"{ERASE}{said}")


def test_no_bar_is_left_behind(batch):
    (_, _, err), _ = batch(Summary(()), "*.h5", "--out-dir", "d", "--jobs", "1", on_terminal=True)
    assert err == f"{ERASE}exported 0, skipped 0, refused 0\n"
    (_, _, err), _ = batch(UsageError("odd"), "*.h5", "--out-dir", "d", "--jobs", "1", on_terminal=True)
    assert err == f"{ERASE}error: odd\n"


@pytest.mark.parametrize(("words", "told"), [
    (["--jobs", "1"], None), (["--jobs", "2"], (2, True)), ([], (5, True)), (["s3://b/*.h5", "--jobs", "3"], (3, False)),
    (["--dask", "tcp://x:1"], ("tcp://x:1", "*.h5"))])
def test_who_does_the_work(batch, monkeypatch, words, told):
    """Processes, as many as asked for or as there are processors, which are no forks where a thread lists a store; or a cluster."""
    monkeypatch.setattr(export_many, "_processors", lambda: 5)
    monkeypatch.setattr(workers, "pool", lambda jobs, may_fork: contextlib.nullcontext((jobs, may_fork)))
    monkeypatch.setattr(workers, "cluster", lambda address, first: contextlib.nullcontext((address, first)))
    (code, _, _), (words, folder, options) = batch(Summary(()), "*.h5", "--out-dir", "d", *words)
    assert (code, words[0], folder, options["executor"], options["suffix"]) == (0, "*.h5", "d", told, ".json")


def test_processes_and_a_cluster_are_not_both_asked_for(batch, monkeypatch):
    monkeypatch.setattr(workers, "cluster", lambda address, first: contextlib.nullcontext((address, first)))
    ((code, _, err),) = batch(Summary(()), "*.h5", "--out-dir", "d", "--dask", "tcp://x:1", "--jobs", "2")
    assert (code, err) == (2, "error: expected --jobs or --dask, got both: the number of workers is the cluster's\n")


def test_as_many_processes_as_this_one_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3, 5}, raising=False)
    assert export_many._processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, wanted in ((7, 7), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert export_many._processors() == wanted

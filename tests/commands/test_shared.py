"""Every outcome of a command as an exit code and a message; and what a batch says while it runs."""

from __future__ import annotations

import io
import os
import signal
import sys
import types

import pytest

from exporter.commands import export_many, shared
from exporter.commands.diagnose import diagnose_parser
from exporter.commands.evaluate import eval_parser
from exporter.commands.export import export_parser
from exporter.commands.export_many import Progress
from exporter.commands.streams import ERASE
from exporter.commands.verify import verify_parser
from exporter.errors import ExporterError, FormatError, UsageError
from exporter.pipeline.outcome import Outcome


def raising(error):
    def command(words):
        raise error

    return command


@pytest.mark.skipif(sys.platform == "win32", reason="a process of Windows is ended without a word")
def test_a_command_that_is_asked_to_end_does(run):
    def command(words):
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run(command) == (143, "", "")
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("error", "code", "said"), [
    (FormatError("odd", where="f", hint="do this"), 1, "error: f: odd\nhint: do this\n"), (UsageError("no such"), 2, "error: no such\n"),
    (KeyboardInterrupt(), 130, ""), (BrokenPipeError(), 1, ""), (SystemExit(3), 3, ""), (SystemExit(None), 0, ""), (SystemExit("text"),
                                                                                                                    1, ""),
    (MemoryError(), 1, "error: MemoryError: the input needs more memory than is available\n"),
    (RecursionError(), 1, "error: RecursionError: the input needs more memory than is available\n")], ids=repr)
def test_each_outcome_has_a_code(run, monkeypatch, error, code, said):
    monkeypatch.setattr(shared.streams, "discard_output", lambda: None)
    assert run(raising(error)) == (code, "", said)


@pytest.mark.parametrize("make", [export_parser, diagnose_parser, verify_parser, eval_parser])
def test_help_fits_a_terminal_of_80_columns(monkeypatch, make):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, make().format_help().splitlines())) < 80


@pytest.mark.parametrize("error", [ValueError("odd"), FileNotFoundError("odd")])
def test_what_nobody_foresaw_is_said_to_be_that(run, error):
    code, _, err = run(raising(error))
    assert code == 1
    assert "odd" in err
    assert "Traceback" not in err
    assert "current folder" not in err


def test_a_folder_that_is_gone_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        code, _, err = run(raising(FileNotFoundError("odd")))
    finally:
        os.chdir(tmp_path)
    assert (code, err) == (1, "error: the current folder no longer exists\nhint: change to one that exists\n")


def test_output_that_is_lost_at_the_end_is_an_error(run, monkeypatch):
    """It waits in a buffer until then."""
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared.streams, "discard_output", lambda: None)
    monkeypatch.setattr(sys, "stdout", Full())
    assert run(lambda words: 0) == (1, "", "error: standard output: cannot be written: No space left on device\n")


def test_twenty_warnings_are_printed(capsys):
    for count, more in ((20, None), (21, 1), (25, 5)):
        shared.warn([f"w{number}" for number in range(count)])
        lines = capsys.readouterr().err.splitlines()
        assert lines[:20] == [f"warning: w{number}" for number in range(20)]
        assert lines[20:] == ([] if more is None else [f"warning: and {more} more like these"])


@pytest.mark.parametrize(("word", "wanted"), [("0.5", ("*", 0.5)), ("a*=1e-3", ("a*", 0.001)), ("a=b=0", ("a=b", 0.0)), ("=2", ("*", 2.0)),
                                              ("3.3e38", ("*", 3.3e38)), ("-1", None), ("nan", None), ("inf", None), ("3.4e38", None),
                                              ("a=", None), ("x", None)])
def test_an_epsilon_as_a_word(word, wanted):
    if wanted is None:
        with pytest.raises(UsageError, match="expected a number of 0 or more for --epsilon"):
            shared._epsilon(word)
    else:
        assert shared._epsilon(word) == wanted


# a batch

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


def test_errors_without_a_hint(capsys):
    assert shared.fail(ExporterError("odd\x1b")) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: odd")

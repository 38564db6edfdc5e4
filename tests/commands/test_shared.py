"""Every outcome of a command as an exit code and a message, and how its process ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest

from exporter.commands import shared
from exporter.commands.diagnose import diagnose_parser
from exporter.commands.evaluate import eval_parser
from exporter.commands.export import export_parser
from exporter.commands.verify import verify_parser
from exporter.errors import ExporterError, FormatError, UsageError


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


@pytest.mark.parametrize("make", [export_parser, diagnose_parser, verify_parser, eval_parser])
def test_commands_and_options_in_examples_are_not_broken_at_a_hyphen(monkeypatch, make):
    """Whatever the width: half an option is another one."""
    whole = [*map(str.split, make().epilog.splitlines())]
    for columns in range(30, 100, 7):
        monkeypatch.setenv("COLUMNS", str(columns))
        words = make().format_help().split()
        assert words[len(words) - sum(map(len, whole)):] == [word for line in whole for word in line]


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


def test_errors_without_a_hint(capsys):
    assert shared.fail(ExporterError("odd\x1b")) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: odd")


# the end

@pytest.mark.parametrize(("words", "code"), [([], 2), (["absent.h5"], 1), (["--version"], 0)])
def test_what_else_is_to_be_done_at_exit_is_done(words, code):
    """A command ends its process itself; coverage and other tools write what they know when a process ends."""
    program = (f"import atexit, sys; sys.argv = ['bn-export', *{words!r}]; atexit.register(print, 'at exit'); "
               "from exporter.commands.export import export_command; export_command()")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, "at exit")


def test_a_thread_is_waited_for():
    program = ("import sys, threading; sys.argv = ['bn-export', '--version']; "
               "threading.Thread(target=lambda: (threading.main_thread().join(), print('done'))).start(); "
               "from exporter.commands.export import export_command; export_command()")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "done")

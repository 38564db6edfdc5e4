"""Many models in one call: which ones a pattern names, where their exports go, what is skipped, and what does not stop the rest."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from concurrent.futures.process import BrokenProcessPool

import pytest

import exporter
from exporter.commands.export_many import Progress
from exporter.errors import FormatError, OutputError, UsageError
from exporter.pipeline import each, many
from exporter.pipeline.each import Task, export_each
from exporter.pipeline.many import export_many
from exporter.pipeline.matches import expand
from exporter.pipeline.naming import named_sources, public
from exporter.pipeline.outcome import Summary
from tests.make import processes
from tests.make.layers import ROOT, make_bundle, make_layer

LATER = 2_000_000_000


@pytest.fixture
def tree(tmp_path, monkeypatch, forks):
    """zoo/a.json, zoo/deep/a.json, zoo/deep/b.json, more.json: bundles, which are models as good as any."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("zoo/a.json", "zoo/deep/a.json", "zoo/deep/b.json", "more.json")):
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        exporter.write(make_bundle(make_layer(seed=number)), name)
    return tmp_path


def found(folder):
    return sorted(str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob("*")
                  if path.is_file() and not path.name.startswith("."))


def statuses(summary):
    return {outcome.source: outcome.status for outcome in summary.outcomes}


def many_command(*words, **more):
    return processes.run(processes.MODULE, *words, text=True, **more)


def test_names_mirror_the_tree(tree):
    summary = export_many(["zoo/**/*.json", "more.json"], "out")
    assert found("out") == ["more.json.json", "zoo/a.json.json", "zoo/deep/a.json.json", "zoo/deep/b.json.json"]
    assert summary.is_complete
    assert str(summary) == "exported 4, skipped 0, refused 0"
    for outcome in summary.outcomes:
        assert exporter.load(outcome.out).digest() == exporter.read(outcome.source).digest()


def test_names_start_below_what_all_arguments_have_in_common(tree):
    assert named_sources(["zoo/**/*.json"], "out", ".npz").outputs == {
        "zoo/a.json": "out/a.json.npz", "zoo/deep/a.json": "out/deep/a.json.npz", "zoo/deep/b.json": "out/deep/b.json.npz"}
    assert named_sources(["zoo/a.json", "zoo/deep/a.json"], "out", ".json").outputs == {
        "zoo/a.json": "out/a.json.json", "zoo/deep/a.json": "out/deep/a.json.json"}
    assert set(named_sources([tree / "zoo/deep/b.json"], "out", ".json").outputs.values()) == {"out/b.json.json"}


def test_names_that_would_collide_without_their_suffix_do_not():
    named = named_sources(["x/model.h5", "x/model.keras", "x/model"], "out", ".json").outputs
    assert len(set(named.values())) == 3


def test_one_model_by_two_names_is_one(tree):
    named = named_sources(["zoo/a.json", str(tree / "zoo" / "a.json"), "zoo/../zoo/a.json", "zoo/a*"], "out", ".json").outputs
    assert list(named) == ["zoo/a.json"]


def test_names_of_urls():
    urls = ["https://me:pw@host/dir/m.h5?key=SECRET", "https://host/dir/m.h5?key=OTHER", "s3://bucket/../m.h5"]
    named = named_sources(urls, "out", ".json").outputs
    assert len(set(named.values())) == 3
    assert all(out.startswith("out/") and ".." not in out.split("/") for out in named.values())
    assert not any("SECRET" in out or "pw" in out for out in named.values())
    assert "SECRET" not in public("https://me:pw@host/m.h5?key=SECRET")
    assert "pw" not in public("https://me:pw@host/m.h5")


def test_a_path_with_wildcards_in_its_name_is_itself(tree):
    os.rename("zoo/a.json", "zoo/[a].json")
    assert list(expand("zoo/[a].json", lambda path: False, {}, is_folder=False)) == ["zoo/[a].json"]


def test_patterns_leave_out_what_is_no_model_of_its_own(tree):
    folder = pathlib.Path("zoo/saved")
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    (folder / "variables" / "variables.index").write_bytes(b"")
    for name in ("checkpoint", "m.index", "m.data-00000-of-00001", "m.meta"):
        pathlib.Path("zoo/deep", name).write_bytes(b"x")
    pathlib.Path("zoo/out").mkdir()
    pathlib.Path("zoo/out/a.json").write_bytes(b"{}")
    assert list(named_sources(["zoo/**"], "zoo/out", ".x").outputs) == \
        ["zoo/a.json", "zoo/deep/a.json", "zoo/deep/b.json", "zoo/deep/m.index", "zoo/saved"]
    # a folder with a checkpoint is a model where only the folder is named
    assert list(named_sources(["zoo/d*"], "zoo/out", ".x").outputs) == ["zoo/deep"]


def test_one_bad_file_does_not_stop_the_rest(tree):
    pathlib.Path("zoo/bad.h5").write_text("junk")
    summary = export_many(["zoo/*", "absent.h5", "nothing/*.h5"], "out")
    assert statuses(summary) == {"zoo/a.json": "exported", "zoo/bad.h5": "refused", "absent.h5": "refused", "nothing/*.h5": "refused"}
    reasons = {outcome.source: outcome.reason for outcome in summary.of("refused")}
    assert reasons["absent.h5"] == "no such file or folder"
    assert reasons["nothing/*.h5"] == "no file or folder matches this pattern"
    assert not summary.is_complete
    assert found("out") == ["zoo/a.json.json"]


def test_a_file_that_is_no_export_is_kept_unless_it_may_be_replaced(tree):
    pathlib.Path("out").mkdir()
    pathlib.Path("out/a.json").write_text("my notes")
    task = Task("zoo/a.json", "out/a.json", "m", "out")
    outcome = next(export_each([task], exporter.ReadOptions(), exporter.WriteOptions()))
    assert (outcome.status, outcome.reason) == ("refused", "out/a.json: a file of this name exists that is no export")
    assert pathlib.Path("out/a.json").read_text() == "my notes"
    outcome = next(export_each([dataclasses.replace(task, may_replace=True)], exporter.ReadOptions(), exporter.WriteOptions()))
    assert outcome.status == "exported"
    assert len(exporter.load("out/a.json")) > 0
    assert list(export_each([], exporter.ReadOptions(), exporter.WriteOptions())) == []


def test_what_was_asked_for_ahead_is_given_up_once_its_turn_is_over(tree, monkeypatch):
    closed = []
    monkeypatch.setattr(type(each.READERS), "ask", lambda _, place, options: types.SimpleNamespace(close=lambda: closed.append(place.name)))
    monkeypatch.setattr("exporter.pipeline.read.read_in_batch", lambda place, options, output, asked: exporter.load(place.local))
    tasks = [Task("zoo/a.json", f"out/{number}.json", "m", "out") for number in range(3)]
    before = [len(closed) for _ in export_each(tasks, exporter.ReadOptions(), exporter.WriteOptions())]
    assert before == [0, 1, 2]
    closed.clear()
    interrupted = export_each(tasks, exporter.ReadOptions(), exporter.WriteOptions())
    next(interrupted)
    interrupted.close()
    assert closed == ["a.json"]


def test_a_folder_that_another_worker_makes_at_the_same_time(tree, monkeypatch):
    isdir = os.path.isdir

    def just_before(path):
        found = isdir(path)
        if not found:
            os.makedirs(path)
        return found

    monkeypatch.setattr(os.path, "isdir", just_before)
    outcome = next(export_each([Task("zoo/a.json", "new/out/a.json", "m", "new/out")], exporter.ReadOptions(), exporter.WriteOptions()))
    assert (outcome.status, outcome.reason) == ("exported", "")


@pytest.mark.parametrize(("error", "reason"), [
    (ZeroDivisionError("oops"), "ZeroDivisionError"),
    (OSError(28, "No space left on device"), "cannot be written: No space left on device"),
    (OSError("odd"), "cannot be written: odd"), (FormatError("damaged", where="a.json"), "damaged"),
    (FormatError("damaged", where="a.json: bn"), "bn: damaged"), (FormatError("damaged", where="other"), "other: damaged")])
def test_what_goes_wrong_with_one_export_does_not_stop_the_rest(tree, monkeypatch, error, reason):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("exporter.pipeline.read.read_in_batch", broken)
    outcome = next(export_each([Task("zoo/a.json", "out/a.json", "m", "out")], exporter.ReadOptions(), exporter.WriteOptions()))
    assert (outcome.source, outcome.out, outcome.status) == ("zoo/a.json", "out/a.json", "refused")
    assert reason in outcome.reason
    assert outcome.reason.startswith(reason) or not isinstance(error, FormatError)


def test_what_is_there_and_unchanged_is_skipped(tree):
    export_many(["zoo/**/*.json"], "out")
    before = {name: os.stat(pathlib.Path("out", name)).st_ino for name in found("out")}
    summary = export_many(["zoo/**/*.json"], "out")
    assert set(statuses(summary).values()) == {"skipped"}
    assert before == {name: os.stat(pathlib.Path("out", name)).st_ino for name in found("out")}
    assert set(statuses(export_many(["zoo/**/*.json"], "out", force=True)).values()) == {"exported"}


@pytest.mark.parametrize("how", ["model, same size and time", "export", "options", *(
    pytest.param(how, marks=pytest.mark.thorough("much time; the like runs always")) for how in ("model", "export gone", "index"))])
def test_what_has_changed_is_exported_again(tree, how):
    export_many(["zoo/**/*.json"], "out")
    options = exporter.ReadOptions()
    if how.startswith("model"):
        old = os.stat("zoo/a.json")
        text = pathlib.Path("zoo/a.json").read_text()
        pathlib.Path("zoo/a.json").write_text(text if "same" in how else text + "\n")
        if "same" in how:
            os.utime("zoo/a.json", ns=(old.st_atime_ns, old.st_mtime_ns))
    elif how == "export":
        pathlib.Path("out/a.json.json").write_text("damaged")
    elif how == "export gone":
        pathlib.Path("out/a.json.json").unlink()
    elif how == "options":
        options = exporter.ReadOptions(effective_epsilon=True)
    else:
        pathlib.Path("out/.bn-export-index.json").write_text("[1, {")
    summary = export_many(["zoo/**/*.json"], "out", options=options)
    expected = {"zoo/a.json": "exported", "zoo/deep/a.json": "skipped", "zoo/deep/b.json": "skipped"}
    assert statuses(summary) == (dict.fromkeys(expected, "exported") if how in ("options", "index") else expected)
    assert exporter.load("out/a.json.json").digest() == exporter.read("zoo/a.json").digest()


def test_an_export_of_another_model_is_not_replaced(tree):
    export_many(["zoo/a.json"], "out")
    summary = export_many(["zoo/deep/a.json"], "out")
    assert statuses(summary) == {"zoo/deep/a.json": "refused"}
    assert "this is the export of another model" in summary.outcomes[0].reason
    assert statuses(export_many(["zoo/deep/a.json"], "out", force=True)) == {"zoo/deep/a.json": "exported"}
    os.remove("zoo/deep/a.json")
    assert statuses(export_many(["zoo/a.json"], "out")) == {"zoo/a.json": "exported"}


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_file_that_is_no_export_is_not_replaced(tree, suffix):
    """Nobody gave its name: "a.json.csv" may be a user's own table of "a.json"."""
    pathlib.Path("out").mkdir()
    name = f"out/a.json{suffix}"
    pathlib.Path(name).write_text('{"mine": 1}')
    summary = export_many(["zoo/**/*.json"], "out", suffix=suffix)
    assert statuses(summary) == {"zoo/a.json": "refused", "zoo/deep/a.json": "exported", "zoo/deep/b.json": "exported"}
    assert "a file of this name exists that is no export" in summary.of("refused")[0].reason
    assert summary.of("refused")[0].hint.endswith("replace it with --force")
    assert pathlib.Path(name).read_text() == '{"mine": 1}'
    assert statuses(export_many(["zoo/a.json"], "out", suffix=suffix, force=True)) == {"zoo/a.json": "exported"}
    pathlib.Path(name).write_text("changed")
    assert statuses(export_many(["zoo/a.json"], "out", suffix=suffix)) == {"zoo/a.json": "exported"}, "the index knows it"


def test_an_architecture_beside_its_weights_is_not_replaced(tree):
    """A pattern takes it for an export, because its name is that of one."""
    pathlib.Path("zoo/a.json.json").write_text('{"class_name": "Sequential", "config": {"name": "s", "layers": []}}')
    os.chdir("zoo")
    assert statuses(export_many(["a.*"], ".")) == {"a.json": "refused"}
    assert "Sequential" in pathlib.Path("a.json.json").read_text()


@pytest.mark.parametrize("make", [lambda: concurrent.futures.ThreadPoolExecutor(3), lambda: concurrent.futures.ProcessPoolExecutor(2)])
def test_any_executor(tree, make):
    pathlib.Path("zoo/bad.h5").write_text("junk")
    seen = []
    with make() as executor:
        summary = export_many(["zoo/**/*.*"], "out", executor=executor, progress=lambda *now: seen.append(now))
    assert statuses(summary) == {"zoo/a.json": "exported", "zoo/bad.h5": "refused", "zoo/deep/a.json": "exported",
                                 "zoo/deep/b.json": "exported"}
    assert [(done, count) for _, done, count in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [outcome.source for outcome in summary.outcomes] == sorted(statuses(summary)), "in the order of the sources"


def test_a_worker_that_dies_is_reported(tree):
    class Dying(concurrent.futures.Executor):
        def submit(self, work, piece):
            future = concurrent.futures.Future()
            if "zoo/deep/b.json" in piece:
                future.set_exception(BrokenProcessPool("a process died"))
            else:
                future.set_result(work(piece))
            return future

    summary = export_many(["zoo/**/*.json"], "out", executor=Dying())
    assert statuses(summary) == {"zoo/a.json": "exported", "zoo/deep/a.json": "exported", "zoo/deep/b.json": "refused"}
    assert "a process died" in summary.of("refused")[0].reason


def test_results_are_let_go_as_they_come(tree):
    """A cluster computes a result again if it is still held and its worker dies."""
    import gc
    import weakref

    futures = []

    class Watched(concurrent.futures.Executor):
        def submit(self, work, *rest):
            future = concurrent.futures.Future()
            future.set_result(work(*rest))
            futures.append(weakref.ref(future))
            return future

    alive = []
    gc.freeze()  # what other tests have imported

    def progress(_, done, count):
        gc.collect()
        alive.append(sum(ref() is not None for ref in futures))

    export_many(["zoo/**/*.json"], "out", executor=Watched(), progress=progress)
    assert len(futures) == 3
    assert alive == [2, 1, 0], "of what was reported nothing is held"


def test_what_no_worker_has_begun_is_called_off_with_the_rest(tree):
    futures = []

    class Slow(concurrent.futures.Executor):
        def submit(self, work, text):
            futures.append(concurrent.futures.Future())
            if len(futures) == 1:
                futures[0].set_result(work(text))
            return futures[-1]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_many(["zoo/**/*.json"], "out", executor=Slow(), progress=stop)
    assert [future.cancelled() for future in futures] == [False] + [True] * (len(futures) - 1)
    assert len(futures) > 1


def test_an_interrupted_call_is_gone_on_with(tree):
    def interrupt(outcome, done, count):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_many(["zoo/**/*.json"], "out", progress=interrupt)
    summary = export_many(["zoo/**/*.json"], "out")
    assert list(statuses(summary).values()) == ["skipped", "skipped", "exported"]


def test_usage():
    with pytest.raises(UsageError, match="expected at least one model, got none"):
        export_many([], "out")
    with pytest.raises(UsageError, match="suffix"):
        export_many(["a.h5"], "out", suffix=".xyz")


def test_the_command(tree):
    pathlib.Path("zoo/bad.h5").write_text("junk")
    done = many_command("zoo/**/*.*", "more.json", "--out-dir", "out", "--jobs", 2, "--report", "r.json", "-v")
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[-1] == "exported 4, skipped 0, refused 1"
    assert sum(line.startswith("exported zoo/") for line in lines) == 3
    assert "exported zoo/a.json: 1 batch norm, 4 channels" in lines
    assert any(line.startswith("error: zoo/bad.h5: this is a text file, not a model") for line in lines)
    report = json.loads(pathlib.Path("r.json").read_text())
    assert (report["exported"], report["skipped"], report["refused"]) == (4, 0, 1)
    assert [model["status"] for model in report["models"]].count("refused") == 1
    assert all(model["reason"] for model in report["models"] if model["status"] == "refused")
    os.remove("zoo/bad.h5")
    again = many_command("zoo/**/*.json", "more.json", "--out-dir=out", "--report", "r.html")
    assert again.returncode == 0
    assert again.stderr == "exported 0, skipped 4, refused 0\n"
    said = many_command("more.json", "--out-dir=out", "-v").stderr
    assert said == "skipped more.json\nexported 0, skipped 1, refused 0\n"
    assert "<td>zoo/deep/b.json</td>" in pathlib.Path("r.html").read_text().replace(' class=""', "")


def test_the_report_escapes_what_names_hold(tree):
    pathlib.Path("zoo/<script>\u202e.h5").write_text("junk")
    assert many_command("zoo/*.h5", "--out-dir", "out", "--jobs", 1, "--report", "r.html").returncode == 1
    page = pathlib.Path("r.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;\\u202e.h5" in page


@pytest.mark.parametrize("words", [["a.h5", "--out-dir", "out", "--jobs", "0"], ["--out-dir", "out"],
                                   ["a.h5", "--out-dir", "out", "--report", "r.txt"],
                                   ["a.h5", "--out-dir", "out", "--dask", "tcp://x:1", "--jobs", "2"]])
def test_wrong_use_of_the_command(tree, words):
    done = many_command(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_reading_options_hold_for_all(tree):
    done = many_command("zoo/**/*.json", "--out-dir", "out", "--jobs", 1, "--layers", "nothing*")
    assert done.returncode == 1
    assert len(re.findall("^error: .*matches none of the batch norms", done.stderr, re.MULTILINE)) == 3
    assert "  3 like zoo/a.json: --layers nothing* matches none" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_bar_on_a_terminal_alone(tree):
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "exporter", "zoo/**/*.json", "--out-dir", "out", "--jobs", "1"]
    with subprocess.Popen(words, stderr=slave, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.wait(60) == 0
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert "[########" in shown
    assert "3 of 3" in shown
    assert shown.endswith("\r\x1b[Kexported 3, skipped 0, refused 0\r\n")


def test_no_bar_elsewhere(capsys):
    progress = Progress(verbose=False)
    progress(many.Outcome(source="a", out="b", status="exported"), 1, 2)
    progress.end()
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_whole_files_and_the_next_run_goes_on(tree):
    for number in range(40):
        exporter.write(make_bundle(make_layer(seed=number, shape=(1500,))), f"zoo/m{number}.json")
    words = [sys.executable, "-m", "exporter", "zoo/m*.json", "--out-dir", "out", "--jobs", "2"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
                          start_new_session=True) as process:
        for _ in range(4500):
            if os.path.isdir("out") and len(found("out")) > 3:
                break
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode in (130, 0)
    assert "Traceback" not in err
    if process.returncode:
        assert re.search(r"^interrupted: (\d+ of 40 models are done, 0 of them refused|no model is done yet)$", err, re.MULTILINE)
        assert "hint: run the same command again to export the rest" in err
    done = found("out")
    for name in done:
        exporter.load(pathlib.Path("out", name))
    summary = export_many(["zoo/m*.json"], "out")
    assert summary.is_complete
    assert len(summary.outcomes) == 40
    assert not list(pathlib.Path("out").rglob("*.tmp"))


def test_a_summary_counts():
    outcomes = tuple(many.Outcome(source="a", out="", status=status) for status in ("exported", "refused", "skipped", "skipped"))
    assert str(Summary(outcomes)) == "exported 1, skipped 2, refused 1"


def test_the_models_may_lie_in_the_output_folder(tree):
    """As `bn-export '*.json' --out-dir .` asks for; the exports of the first run are no models to the second, with or without its index."""
    os.chdir("zoo")
    assert statuses(export_many(["*.json"], ".")) == {"a.json": "exported"}
    assert statuses(export_many(["*.json"], ".")) == {"a.json": "skipped"}
    os.remove(".bn-export-index.json")
    assert statuses(export_many(["*.json"], ".")) == {"a.json": "exported"}


def test_links_to_folders_are_not_followed_by_a_pattern(tree):
    os.symlink("..", "zoo/up")
    assert set(statuses(export_many(["zoo/**/*.json"], "out"))) == {"zoo/a.json", "zoo/deep/a.json", "zoo/deep/b.json"}


@pytest.mark.parametrize("link", ["out/zoo/a.json.json", "out/zoo"])
def test_no_link_is_followed_below_the_output_folder(tree, link):
    pathlib.Path("victim").mkdir()
    pathlib.Path("victim/a.json.json").write_text("mine")
    pathlib.Path(link).parent.mkdir(parents=True)
    os.symlink(tree / "victim" / ("a.json.json" if link.endswith("json") else ""), link)
    summary = export_many(["zoo/a.json", "more.json"], "out")
    assert statuses(summary) == {"zoo/a.json": "refused", "more.json": "exported"}
    assert "this is a symbolic link" in summary.of("refused")[0].reason
    assert pathlib.Path("victim/a.json.json").read_text() == "mine"


def test_the_output_folder_itself_may_be_a_link(tree):
    pathlib.Path("real").mkdir()
    os.symlink("real", "out")
    assert export_many(["zoo/a.json"], "out").is_complete
    assert found("real") == ["a.json.json"]


def test_a_report_may_lie_in_the_output_folder(tree):
    assert many_command("zoo", "--out-dir", "new/out", "--report", "new/out/r.json").returncode == 0
    assert json.loads(pathlib.Path("new/out/r.json").read_text())["exported"] == 3


def test_an_output_folder_that_is_a_file_is_refused(tree):
    with pytest.raises(OutputError, match=r"more\.json: expected a folder as --out-dir, got a file"):
        export_many(["zoo/a.json"], "more.json")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink(os.path.basename(path), path), os.mkdir],
                         ids=["fifo", "loop", "folder"])
def test_an_odd_path_is_one_refusal(tree, make):
    make("zoo/odd.json")
    summary = export_many(["zoo/*.json", "zoo/odd.json"], "out")
    assert statuses(summary) == {"zoo/a.json": "exported", "zoo/odd.json": "refused"}


def test_a_folder_means_the_models_below_it(tree):
    pathlib.Path("zoo/notes.txt").write_text("no model")
    assert set(statuses(export_many(["zoo"], "out"))) == {"zoo/a.json", "zoo/deep/a.json", "zoo/deep/b.json"}
    assert found("out") == ["a.json.json", "deep/a.json.json", "deep/b.json.json"]
    pathlib.Path("empty").mkdir()
    assert [outcome.reason for outcome in export_many(["empty"], "out").outcomes] == ["no file or folder matches this pattern"]


def test_an_index_that_cannot_be_written_is_a_warning(tree):
    pathlib.Path("out/.bn-export-index.json").mkdir(parents=True)
    summary = export_many(["zoo/a.json"], "out")
    assert summary.is_complete
    assert "the index of the exports could not be written" in summary.warnings[0]


def test_runs_side_by_side_merge_their_index(tree):
    """The second begins before the first has saved, and saves after it: what the first exported is still skipped."""
    class Other(concurrent.futures.Executor):
        def submit(self, call, *args):
            assert export_many(["more.json"], "out").is_complete
            future = concurrent.futures.Future()
            future.set_result(call(*args))
            return future

    assert export_many(["zoo/deep/b.json"], "out", executor=Other()).is_complete
    assert statuses(export_many(["more.json"], "out")) == {"more.json": "skipped"}
    assert statuses(export_many(["zoo/deep/b.json"], "out")) == {"zoo/deep/b.json": "skipped"}


@pytest.mark.parametrize("report", ["nowhere/r.json", "zoo/a.json", "out/a.json.json", "zoo/../out/.bn-export-index.json"])
def test_a_report_that_cannot_be_is_refused_before_any_work(tree, report):
    before = pathlib.Path("zoo/a.json").read_bytes()
    done = many_command("zoo/*.json", "--out-dir", "out", "--report", report)
    assert done.returncode == 1
    assert report.rpartition("/")[2] in done.stderr
    assert found("out") == []
    assert pathlib.Path("zoo/a.json").read_bytes() == before


def test_refusals_are_summed_up_by_reason(tree):
    for name in "abc":
        pathlib.Path(f"zoo/{name}.h5").write_text("junk")
    done = many_command("zoo/*", "absent.h5", "--out-dir", "out", "--jobs", 1)
    assert "exported 1, skipped 0, refused 4" in done.stderr
    assert re.search("^  3 like zoo/a.h5: ", done.stderr, re.MULTILINE)
    assert re.search("^  1 like absent.h5: no such file or folder", done.stderr, re.MULTILINE)


def test_a_file_url_means_the_path_that_it_writes(tree):
    """"a b" and "a%20b" are two files; in a URL the second is written "a%2520b"."""
    for number, name in enumerate(("a b.json", "a%20b.json"), 1):
        exporter.write(make_bundle(*(make_layer(path=f"l{i}") for i in range(number))), f"zoo/{name}")
    summary = export_many([(tree / "zoo").as_uri() + "/a*b.json"], (tree / "out").as_uri())
    assert summary.is_complete
    assert [len(exporter.load(f"out/{name}.json")) for name in ("a b.json", "a%20b.json")] == [1, 2]
    assert len(exporter.read((tree / "zoo" / "a%20b.json").as_uri())) == 2
    exporter.write(make_bundle(make_layer()), (tree / "c d.json").as_uri())
    assert pathlib.Path("c d.json").is_file()


@pytest.mark.parametrize("word", [
    "sftp://bob:s3cretpw@h/m.h5", "zip://m.h5::htp://bob:s3cretpw@h/z.zip?sig=TOKEN123",
    *(pytest.param(word, marks=pytest.mark.thorough("much time")) for word in (
        "hosted://bob:s3cretpw@h/m.h5", "htp://bob:s3cretpw@h/m.h5?sig=TOKEN123", "simplecache::htp://bob:s3cretpw@h/m.h5?sig=TOKEN123"))])
def test_no_secret_of_an_address_is_shown_or_kept(tree, word):
    pytest.importorskip("fsspec")
    done = many_command(word, "more.json", "--out-dir", "out", "--jobs", 1, "--report", "r.json", stores=True)
    assert done.returncode == 1
    kept = [path.read_text() for path in pathlib.Path("out").rglob(".bn*")] + list(map(str, pathlib.Path("out").rglob("*")))
    for secret in ("bob", "s3cretpw", "TOKEN123"):
        assert secret not in "".join([done.stderr, pathlib.Path("r.json").read_text(), *kept])


def test_no_hdf5_file_is_opened_by_the_process_that_lists_a_folder(tmp_path, monkeypatch):
    """libhdf5 hangs or crashes on some damaged files; a process with limits meets them, not the batch itself."""
    from exporter.formats import hdf5

    shutil.copy(ROOT / "sample_models" / "encoder_keras3" / "model.h5", tmp_path / "a.h5")
    shutil.copy(ROOT / "sample_models" / "encoder_keras3" / "model.weights.h5", tmp_path / "b.weights.h5")
    (tmp_path / "c.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 600)
    (tmp_path / "notes.txt").write_text("no model")

    def opened(*_):
        raise AssertionError("opened here")

    monkeypatch.setattr(hdf5, "_opened", opened)
    unreadable = {}
    found = list(expand(str(tmp_path), lambda path: False, unreadable, is_folder=True))
    assert [os.path.basename(path) for path in found] == ["a.h5", "b.weights.h5", "c.h5"]
    assert unreadable == {}


def test_the_sources_are_asked_once_about_a_folder_of_models(tree, monkeypatch):
    """Each may list it, however many models lie there."""
    from exporter import sources

    asked, source_for = [], sources.source_for
    monkeypatch.setattr(sources, "source_for", lambda place: asked.append(os.path.normpath(place.local)) or source_for(place))
    plan = named_sources(["zoo/"], "out", ".json")
    assert asked.count("zoo") == 1
    assert list(plan.outputs) == [os.path.join("zoo", *name.split("/")) for name in ("a.json", "deep/a.json", "deep/b.json")]


@pytest.mark.parametrize(("where", "reason"), [("m.h5", "what"), ("m.h5: bn", "bn: what"), ("m.h5x: bn", "m.h5x: bn: what"), ("", "what")])
def test_a_refusal_does_not_repeat_the_name_of_its_model(where, reason):
    assert each.refused("folder/m.h5", "out", FormatError("what", where=where)).reason == reason

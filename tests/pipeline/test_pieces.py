"""The pieces of a batch: how they are cut, and that they arrive as they were sent."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys

import pytest

import exporter
from exporter.files.place import Place
from exporter.pipeline import each, pieces
from exporter.pipeline.outcome import Outcome
from exporter.sources.shared.options import ReadOptions
from exporter.targets.shared.options import WriteOptions
from tests.make.layers import make_bundle, make_layer

ALL_OPTIONS = ReadOptions(epsilon=(("*", 0.1), ("a/*", 1e-5)), architecture=Place("m.json"), keras_version="2.1", backend="theano",
                          ema="yes", layers=("a*", "b"), skip_unresolved=True, effective_epsilon=True, stored_statistics=True, kernels=True)


@pytest.mark.parametrize(("count", "sizes"), [
    (0, []), (1, [1]), (15, [1] * 15), (40, [2] * 20), (80, [5] * 12 + [5, 3, 3, 3, 3, 3]),
    (300, [16] * 15 + [15, 11, 8, 6, 5, 3, 3, 3, 3, 3]),
])
def test_the_last_pieces_are_small_and_there_are_enough_for_16_workers(count, sizes):
    tasks = list(range(count))
    cut = list(pieces.cut(tasks))
    assert [len(piece) for piece in cut] == sizes
    assert [task for piece in cut for task in piece] == tasks


def test_a_piece_arrives_as_it_was_sent(monkeypatch):
    tasks = [each.Task("b\udce9.h5", "out/b\udce9.h5.json", "mark", "out"), each.Task("c.h5", "out/c.h5.json", "", "out")]
    writing = WriteOptions(vectors=False, names="torch", folded=True, axis=1, plain=True)
    ends = [Outcome(source="b\udce9.h5", out="o", status="exported", layers=2, channels=3, warnings=("w", "é"), mark="m", written="x"),
            Outcome(source="c.h5", out="", status="refused", reason="r", hint="h")]
    sent = []

    def export_each(*arguments):
        sent.append(arguments)
        return iter(ends)

    monkeypatch.setattr(each, "export_each", export_each)
    answer = pieces.export_piece(pieces.text_of(tasks, ALL_OPTIONS, writing))
    (got, options, got_writing), = sent
    assert (got, got_writing) == (tasks, writing)
    assert options.architecture.address == ALL_OPTIONS.architecture.address
    assert dataclasses.replace(options, architecture=ALL_OPTIONS.architecture) == ALL_OPTIONS
    assert pieces.outcomes_in(answer) == ends


def test_a_piece_is_exported(tmp_path):
    exporter.write(make_bundle(make_layer()), tmp_path / "m.json")
    task = each.Task(str(tmp_path / "m.json"), str(tmp_path / "out" / "m.json.json"), "mark", str(tmp_path / "out"))
    outcome, = pieces.outcomes_in(pieces.export_piece(pieces.text_of([task], ReadOptions(), WriteOptions())))
    assert (outcome.status, outcome.layers, outcome.mark) == ("exported", 1, "mark")
    assert exporter.load(task.out).digest() == exporter.load(task.source).digest()


@pytest.mark.parametrize("work", [pieces.begin, pieces.export_piece])
def test_a_scheduler_that_passes_on_a_piece_imports_nothing_for_it(work):
    task = each.Task("m.h5", "out/m.h5.json", "mark", "out")
    sent = pickle.dumps((work, pieces.text_of([task], ALL_OPTIONS, WriteOptions())))
    program = f"import pickle, sys; pickle.loads({sent!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {name for name in done.stdout.split() if name.startswith(("exporter", "numpy"))}
    assert imported == {"exporter", "exporter.__about__", "exporter.pipeline", "exporter.pipeline.pieces"}

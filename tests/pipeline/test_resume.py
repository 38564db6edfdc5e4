"""What the next run may skip: which model in which state, made how, and whether the export is still what was written."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from exporter.files.place import Place
from exporter.files.remote import RemotePlace
from exporter.pipeline import resume
from exporter.pipeline.outcome import Outcome
from exporter.pipeline.resume import NAME, Index, mark_of, written
from exporter.sources.shared.options import ReadOptions
from exporter.targets.shared.options import WriteOptions

READ, WRITE = ReadOptions(), WriteOptions()


def index(folder, read=READ, write=WRITE):
    return Index(str(folder), read, write)


def exported(folder, name="a.json", data=b"content", **fields):
    """The outcome of an export that lies there."""
    out = folder / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(data)
    return Outcome(**{"source": "models/a.h5", "out": str(out), "status": "exported", "mark": "m1", "written": written(str(out)), **fields})


@pytest.fixture
def noted(tmp_path):
    one = index(tmp_path)
    one.note(exported(tmp_path, "sub/a.json"))
    one.save()
    return tmp_path


def test_an_export_is_there_as_it_was_written(noted):
    out = str(noted / "sub" / "a.json")
    assert index(noted).has(out, "m1")
    assert not index(noted).has(out, "m2"), "the model changed"
    assert not index(noted).has(str(noted / "sub" / "b.json"), "m1")
    assert not index(noted).has(str(noted / "sub" / "b.json"), None), "what is not noted has no state"
    (noted / "sub" / "a.json").write_bytes(b"changed")
    assert not index(noted).has(out, "m1")
    (noted / "sub" / "a.json").unlink()
    assert not index(noted).has(out, "m1")


@pytest.mark.parametrize("changes", [{"epsilon": (("*", 0.1),)}, {"keras_version": "1.0"}, {"backend": "theano"}, {"ema": "yes"},
                                     {"layers": ("a",)}, {"skip_unresolved": True}, {"effective_epsilon": True},
                                     {"stored_statistics": True}, {"kernels": True}], ids=str)
def test_every_way_of_reading_counts(noted, changes):
    out = str(noted / "sub" / "a.json")
    assert not index(noted, ReadOptions(**changes)).has(out, "m1")
    assert index(noted, ReadOptions(announce=print)).has(out, "m1"), "who listens makes no difference"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(WriteOptions)])
def test_every_way_of_writing_counts(noted, field):
    other = {"vectors": False, "names": "torch", "axis": 1}.get(field, True)
    assert not index(noted, write=WriteOptions(**{field: other})).has(str(noted / "sub" / "a.json"), "m1")


def test_an_architecture_counts_with_its_content(tmp_path):
    config, out = tmp_path / "c.json", tmp_path / "out"
    config.write_text("{}")
    options = ReadOptions(architecture=Place(config))
    one = index(out, options)
    one.note(exported(out))
    one.save()
    assert index(out, options).has(str(out / "a.json"), "m1")
    os.utime(config, ns=(5, 5))
    assert not index(out, options).has(str(out / "a.json"), "m1")
    assert not index(out).has(str(out / "a.json"), "m1")


def test_an_architecture_of_unknown_state_is_never_the_same(tmp_path):
    options = ReadOptions(architecture=Place(tmp_path / "absent" / "c.json"))
    one = index(tmp_path, options)
    one.note(exported(tmp_path))
    one.save()
    assert not index(tmp_path, options).has(str(tmp_path / "a.json"), "m1")


def test_what_earlier_runs_wrote_is_known(noted):
    one = index(noted)
    assert one.wrote(str(noted / "sub" / "a.json"))
    assert one.wrote(str(noted / NAME))
    assert not one.wrote(str(noted / "a.json"))
    assert one.owner(str(noted / "sub" / "a.json")) == os.path.abspath("models/a.h5")
    assert one.owner(str(noted / "other.json")) is None
    (noted / "sub" / "a.json").unlink()
    assert one.owner(str(noted / "sub" / "a.json")) is None


def test_only_exports_are_noted(tmp_path):
    one = index(tmp_path)
    for status in ("skipped", "refused"):
        one.note(exported(tmp_path, status=status))
    one.save()
    assert not (tmp_path / NAME).exists(), "nothing new, nothing written"
    one.note(exported(tmp_path, source="s3://bucket/a.h5"))
    one.save()
    entries = json.loads((tmp_path / NAME).read_text())
    assert entries["version"] == 1
    assert entries["exports"]["a.json"]["source"] == "s3://bucket/a.h5"
    assert set(entries["exports"]["a.json"]) == {"source", "mark", "how", "written"}


def test_names_of_exports_are_on_disk_before_the_index_that_lists_them(tmp_path, monkeypatch):
    """After a power failure an export that the index lists would be taken for written."""
    done = []
    monkeypatch.setattr(resume.output, "sync_folder", lambda folder: done.append(os.fspath(folder)))
    monkeypatch.setattr(resume.output, "write", lambda path, data: done.append("index"))
    one = index(tmp_path)
    (tmp_path / "sub").mkdir()
    one.note(exported(tmp_path, "sub/a.json"))
    one.save()
    assert done == [str(tmp_path / "sub"), "index"]


def test_it_is_saved_every_two_seconds(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    one = index(tmp_path)
    saved = []
    for name, at in (("a", 100.0), ("b", 102.0), ("c", 102.1), ("d", 104.1), ("e", 104.2)):
        now[0] = at
        one.note(exported(tmp_path, f"{name}.json"))
        saved.append(sorted(json.loads((tmp_path / NAME).read_text())["exports"]) if (tmp_path / NAME).exists() else [])
    assert [len(each) for each in saved] == [0, 0, 3, 3, 5]


def test_what_another_run_adds_is_kept(tmp_path):
    first, second = index(tmp_path), index(tmp_path)
    first.note(exported(tmp_path, "a.json"))
    second.note(exported(tmp_path, "b.json", mark="m2"))
    second.note(exported(tmp_path, "c.json"))
    first.save()
    second.save()
    assert [index(tmp_path).wrote(str(tmp_path / name)) for name in ("a.json", "b.json", "c.json")] == [True, True, True]
    first.note(exported(tmp_path, "d.json"))
    first.save()
    assert index(tmp_path).has(str(tmp_path / "b.json"), "m2"), "not the older state that the first run knew"


@pytest.mark.parametrize("content", ["", "[]", "{", "3", '{"exports": []}', '{"exports": {"a.json": 3}}', '{"exports": null}', "\xff"])
def test_a_damaged_index_is_none(tmp_path, content):
    (tmp_path / NAME).write_bytes(content.encode("latin-1"))
    assert not index(tmp_path).wrote(str(tmp_path / "a.json"))
    (tmp_path / NAME).write_text('{"exports": {"a.json": {"source": 3}}}')
    (tmp_path / "a.json").write_text("x")
    assert index(tmp_path).owner(str(tmp_path / "a.json")) is None
    assert not index(tmp_path).has(str(tmp_path / "a.json"), "m1")


def test_an_index_behind_a_link_is_not_written(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "theirs").write_text("{}")
    (tmp_path / "out" / NAME).symlink_to(tmp_path / "theirs")
    one = index(tmp_path / "out")
    one.note(exported(tmp_path / "out"))
    one.save()
    assert (tmp_path / "theirs").read_text() == "{}"
    assert "the next run will export all of them again" in one.warnings[0]


# the state of a model

def test_a_model_that_is_one_file_does_not_depend_on_its_neighbors(tmp_path):
    for name, head in (("a.h5", b"\x89HDF\r\n"), ("b.keras", b"PK\3\4xx")):
        (tmp_path / name).write_bytes(head)
        before = mark_of(Place(tmp_path / name))
        (tmp_path / f"{name[0]}.json").write_text("x")
        assert mark_of(Place(tmp_path / name)) == before != ""
        os.utime(tmp_path / name, ns=(7, 7))
        assert mark_of(Place(tmp_path / name)) != before


def test_other_models_have_parts_beside_them(tmp_path):
    (tmp_path / "ckpt.index").write_bytes(b"x")
    (tmp_path / "other.data").write_bytes(b"x")
    for place in (Place(tmp_path / "ckpt"), Place(tmp_path / "ckpt.index")):
        before = mark_of(place)
        (tmp_path / "other.data").write_bytes(b"yy")
        assert mark_of(place) == before != ""
        (tmp_path / "ckpt.data").write_bytes(os.urandom(3))
        assert mark_of(place) != before
        (tmp_path / "ckpt.data").unlink()
    assert mark_of(Place(tmp_path / "absent" / "x")) == ""
    assert mark_of(Place(tmp_path / "nothing")) == ""


def test_a_folder_is_all_that_lies_below_it_but_exports(tmp_path):
    (tmp_path / "m" / "v").mkdir(parents=True)
    for name in ("saved_model.pb", "v/data"):
        (tmp_path / "m" / name).write_bytes(b"x")
    before = mark_of(Place(tmp_path / "m"))
    assert mark_of(Place(tmp_path / "m")) == before
    (tmp_path / "m" / "v" / "out.json").write_bytes(b"x")
    assert mark_of(Place(tmp_path / "m")) != before
    assert mark_of(Place(tmp_path / "m"), lambda path: path.endswith("out.json")) == before
    (tmp_path / "m" / "v" / "data").write_bytes(b"xy")
    assert mark_of(Place(tmp_path / "m"), lambda path: path.endswith("out.json")) != before


def far(name, info):
    place = RemotePlace(f"memory://{name}")
    place._known, place._asked = info, True
    return place


def test_far_away_two_marks_are_needed():
    known = {"size": 5, "ETag": "x", "type": "file"}
    assert mark_of(far("a.h5", known)) == mark_of(far("a.keras", known)) == mark_of(far("a.hdf5", known)) != ""
    assert mark_of(far("a.h5", {**known, "ETag": "y"})) != mark_of(far("a.h5", known))
    assert mark_of(far("a.h5", {"size": 5})) == ""
    assert mark_of(far("a.h5", {"size": 5, "mtime": None})) == ""
    assert mark_of(far("a.pb", known)) == "", "what lies beside it is a part of it"
    assert mark_of(far("a.h5", None)) == ""


def test_what_was_written_far_away_is_known_by_what_its_store_says(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/out/a.json", b"12345")
    assert written("memory://out/a.json") == "size=5"
    assert written("memory://out/absent.json") == ""
    assert written("nosuch://out/a.json") == ""


def test_keys_are_paths_below_the_output_folder(tmp_path):
    assert index(tmp_path)._key(str(tmp_path / "a" / "b.json")) == "a/b.json"
    pytest.importorskip("fsspec")
    for folder in ("memory://bucket/out", "memory://bucket/out/"):
        assert index(folder)._key("memory://bucket/out/a/b.json") == "a/b.json"


def test_an_index_without_news_is_not_written_again(noted, monkeypatch):
    one = index(noted)
    one.note(exported(noted, "b.json"))
    one.save()
    before = os.stat(noted / NAME)
    one.save()
    assert os.stat(noted / NAME).st_ino == before.st_ino


def test_what_is_written_far_away_is_asked_for_anew(monkeypatch):
    """A store keeps what it was told of a folder; the export has just replaced a file of it."""
    fsspec = pytest.importorskip("fsspec")

    class Remembering(fsspec.get_filesystem_class("memory")):
        protocol, store, pseudo_dirs, kept = "remembering", {}, [""], {}

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.partition("://")[2] if "://" in path else path

        def info(self, path, **options):
            return self.kept.setdefault(path, super().info(path, **options))

        def invalidate_cache(self, path=None):
            self.kept.clear()

    fsspec.register_implementation("remembering", Remembering, clobber=True)
    store = fsspec.filesystem("remembering")
    for data in (b"12345", b"123456789"):
        store.pipe("/out/a.json", data)
        assert store.info("/out/a.json")["size"] == 5, "before it is asked anew"
        assert written("remembering://out/a.json") == f"size={len(data)}"

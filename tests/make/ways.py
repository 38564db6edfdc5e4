"""The ways by which one model becomes one bundle: in this process, in a child of each kind, in a batch, from a web server, from a store,
from a pipe, and by writing the bundle and reading it back.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import exporter
from exporter.files.place import Place
from exporter.targets import bundle_json
from tests.make import processes
from tests.make.layers import ROOT
from tests.make.range_server import serving

SAMPLES = ROOT / "sample_models"
PROGRAM = "from exporter.commands.export import export_command; export_command()"
WRITTEN = ("b.json", "b.npz", "b.safetensors", "b.zip", "folder/")


def document(bundle):
    """The bundle as it is written, but for the name of the file that it is from."""
    return bundle_json.write(bundle.replace(origin=dataclasses.replace(bundle.origin, file="")), exporter.WriteOptions())


def documents(path, scratch, options):
    """(way, document) for each way to read `path`, the plain one first. options: of exporter.read."""
    bundle = exporter.read(path, **options)
    yield "here", document(bundle)
    yield "a fresh child", document(exporter.read(path, isolated=True, **options))
    words = words_of(options)
    yield "a forked child", by_command([path, scratch / "forked.json", *words], scratch / "forked.json")
    yield "a batch", in_a_batch(path, scratch / "batch", options)
    if path.is_file():
        with serving(path.parent) as server:
            yield "a server", document(exporter.read(server.url(path.name), **options))
    yield "a store", document(exporter.read(stored(path), **options))
    alone = without_neighbors(path, scratch, options)
    if alone is not None:
        yield "bytes", document(exporter.read(alone.read_bytes(), **options))
        yield "a pipe", by_command(["-", scratch / "piped.json", *words], scratch / "piped.json", alone)
    for name in WRITTEN:
        exporter.write(bundle, f"{scratch}/{name}")
        yield name, document(exporter.load(scratch / name))


def stored(path):
    """The URL of a copy of the model, and of all that lies beside it, in a store in this process's memory."""
    import fsspec

    store = fsspec.filesystem("memory")
    if store.exists("/ways"):
        store.rm("/ways", recursive=True)
    store.put(str(path.parent), "/ways", recursive=True)
    return f"memory://ways/{path.name}"


def without_neighbors(path, scratch, options):
    """A copy of the file in a folder of its own; None where it needs what lies beside it, or is none."""
    if not path.is_file():
        return None
    (scratch / "alone").mkdir()
    copy = Path(shutil.copy(path, scratch / "alone"))
    try:
        exporter.read(copy, **options)
    except exporter.ExporterError:
        return None
    return copy


def words_of(options):
    """The options of exporter.read as those of the command."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))]


def by_command(words, out, piped=os.devnull):
    """What bn-export writes to `out`, in a process of its own."""
    done = processes.run(PROGRAM, *words, data=Path(piped).read_bytes(), text=True)
    assert done.returncode == 0, done.stderr
    return document(exporter.load(out))


def in_a_batch(path, out_dir, options):
    """The file between two others, by one reading process."""
    fields = dict(options)
    if "epsilon" in fields:
        fields["epsilon"] = (("*", float(fields["epsilon"])),)
    if "architecture" in fields:
        fields["architecture"] = Place(Path(fields["architecture"]))
    sources = [SAMPLES / "no_beta_keras208" / "model.h5", path, SAMPLES / "encoder_keras3" / "model.keras"]
    summary = exporter.export_many(sources, out_dir, options=exporter.ReadOptions(**fields))
    outs = {outcome.source: outcome.out for outcome in summary.outcomes}
    return document(exporter.load(os.path.join(out_dir, outs[os.fspath(path)])))

"""Faults around a sound program: inputs that are no files, that change while they are read, that are larger than any memory; outputs that
cannot be written; the surroundings that it is started in. The slow ones are in fuzz/faults.py.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys

import h5py
import numpy as np
import pytest

import exporter
from exporter.errors import FormatError
from exporter.files.place import Place
from exporter.formats.protobuf import fields
from exporter.pipeline import finding, read
from exporter.sources.shared.options import ReadOptions
from exporter.sources.tf_objects.parts import META_OBJECTS, MODEL_META_GRAPHS
from tests.make import processes
from tests.make.layers import ROOT, make_bundle

MODEL = ROOT / "sample_models" / "encoder_keras3" / "model.h5"
SAVED_MODEL = ROOT / "sample_models" / "saved_model_tfkeras" / "saved_model"
PROGRAM = "from exporter.commands.export import export_command; export_command()"
# Tells its own peak memory: what the system says of a child starts with that of the process it was started from.
TELLING = """
import atexit, pathlib, resource, sys
def tell():
    own = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")][0].split()[1]
    print(f"\\npeak {max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)}", file=sys.stderr)
atexit.register(tell)
from exporter.commands.export import export_command
export_command()
"""
OLD = b"what stood there before"


def command(*words, **more):
    """Runs bn-export in a process of its own, for a minute and 600 MB at most; more: what only a new interpreter takes."""
    if more:
        done = subprocess.run([sys.executable, "-c", TELLING, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, **more)
    else:
        done = processes.run(TELLING, *words, cwd=ROOT, text=True)
    done.stderr, _, peak = done.stderr.rpartition("\npeak ")
    assert int(peak) < 600 << 10
    assert "Traceback" not in done.stderr
    return done


def refuse(path, words):
    """Both ways of reading refuse `path`, and the command leaves nothing behind."""
    out = path.parent / "out.json"
    done = command(path, out)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr, done.stderr
    assert not out.exists()
    with pytest.raises(exporter.ExporterError, match=words):
        exporter.read(path)


def processor_seconds():
    """That this process and its children have taken."""
    return sum(sum(resource.getrusage(whose)[:2]) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


# --- inputs that are no regular files --------------------------------------------------------------------------------------------------

def make_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(("make", "words"), [
    (os.mkfifo, "expected a file or folder, got a pipe, socket or device"),
    (make_socket, "expected a file or folder, got a pipe, socket or device"),
    (lambda path: path.symlink_to("/dev/zero"), "expected a file or folder, got a pipe, socket or device"),
    (lambda path: path.symlink_to("/dev/null"), "expected a file or folder, got a pipe, socket or device"),
    (lambda path: path.symlink_to("nothing"), "no such file"), (lambda path: path.symlink_to(path), "symbolic links"),
    (pathlib.Path.mkdir, "this is a folder without a model"), (lambda path: None, "no such file"), (pathlib.Path.touch, "empty")],
    ids=["fifo", "socket", "zero", "null", "dangling", "loop", "folder", "nothing", "empty"])
def test_what_is_no_file_is_refused(make, words, tmp_path):
    path = tmp_path / "model.h5"
    make(path)
    refuse(path, words)


@pytest.mark.parametrize("name", ["saved_model.pb", "keras_metadata.pb", "variables/variables.index"])
def test_a_pipe_inside_a_model_is_not_read(name, tmp_path):
    shutil.copytree(SAVED_MODEL, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    os.mkfifo(tmp_path / "model" / name)
    refuse(tmp_path / "model", "expected a file or folder, got a pipe, socket or device")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere, and read")
def test_a_file_that_may_not_be_read(tmp_path):
    shutil.copy(MODEL, tmp_path / "model.h5")
    (tmp_path / "model.h5").chmod(0)
    refuse(tmp_path / "model.h5", "Permission denied")


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.thorough("much time: ten times the files"))])
def test_a_folder_full_of_files(count, tmp_path):
    """In time that grows with their number: of the processor, since a busy machine takes any time on the wall."""
    (tmp_path / "model").mkdir()
    for number in range(count):
        (tmp_path / "model" / f"weights_{number}.index").touch()
    began = processor_seconds()
    refuse(tmp_path / "model", "model")
    assert processor_seconds() - began < 5 + count / 250


def test_the_users_own_link_is_followed(tmp_path):
    (tmp_path / "model.h5").symlink_to(MODEL)
    assert command(tmp_path / "model.h5", tmp_path / "out.json").returncode == 0


# --- inputs that are larger than they should be ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("start", [b"", MODEL.read_bytes()[:2000], b"PK\3\4", b"{"], ids=["zeros", "hdf5", "zip", "json"])
def test_a_sparse_file_of_64_gigabytes(start, tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(start)
    os.truncate(path, 64 << 30)
    refuse(path, "model.h5")


def test_a_model_in_a_sparse_file_is_read(tmp_path):
    shutil.copy(MODEL, tmp_path / "model.h5")
    os.truncate(tmp_path / "model.h5", 64 << 30)
    assert command(tmp_path / "model.h5", tmp_path / "out.json").returncode == 0


def test_groups_two_thousand_deep(tmp_path):
    shutil.copy(MODEL, tmp_path / "beside.h5")
    shutil.copy(ROOT / "sample_models" / "encoder_keras3" / "model.weights.h5", tmp_path / "instead.h5")
    for name, outer in (("beside.h5", "model_weights"), ("instead.h5", "layers")):
        with h5py.File(tmp_path / name, "r+") as file:
            group = file[outer]
            for _ in range(2000):
                group = group.create_group("g")
    assert command(tmp_path / "beside.h5", tmp_path / "out.json").returncode == 0, "nobody asks for them"
    (tmp_path / "out.json").unlink()
    refuse(tmp_path / "instead.h5", "levels deep")


def test_groups_that_lead_back(tmp_path):
    """Forty groups, each held twice by the one before it, have 2**40 paths; the last one holds the first."""
    path = tmp_path / "model.weights.h5"
    shutil.copy(ROOT / "sample_models" / "encoder_keras3" / "model.weights.h5", path)
    with h5py.File(path, "r+") as file:
        first = group = file["layers"].create_group("first")
        for _ in range(40):
            inner = group.create_group("a")
            group["b"] = inner
            group = inner
        group["back"] = first
    done = command(path, "--epsilon", "0.001", "--skip-unresolved", "--json")
    assert done.returncode in (0, 1)


# --- inputs that change ----------------------------------------------------------------------------------------------------------------

def append(path):
    with open(path, "ab") as file:
        file.write(b"x")


def touch(path):
    os.utime(path, ns=(1, 1))


def replace(path):
    other = path.with_name("other")
    shutil.copy(path, other)
    os.replace(other, path)


def truncate(path):
    os.truncate(path, 100)


@pytest.mark.parametrize("change", [append, touch, replace, truncate, os.unlink])
@pytest.mark.parametrize("name", ["model.h5", "saved_model/variables/variables.index", "saved_model/keras_metadata.pb"])
def test_an_input_that_changes_while_it_is_read(change, name, tmp_path, monkeypatch):
    shutil.copy(MODEL, tmp_path / "model.h5")
    shutil.copytree(SAVED_MODEL, tmp_path / "saved_model")
    place = Place(tmp_path / name.split("/")[0])
    found = finding.source_for(place)

    class Meanwhile:
        @staticmethod
        def read(place, options):
            bundle = found.read(place, options)
            change(tmp_path / name)
            return bundle

    monkeypatch.setattr(finding, "source_for", lambda place: Meanwhile)
    with pytest.raises(FormatError, match="changed while it was being read") as error:
        read.read_here(place, ReadOptions())
    assert name.rsplit("/", 1)[-1] in error.value.where


def test_a_refusal_of_an_input_that_changed_says_so(tmp_path, monkeypatch):
    shutil.copy(MODEL, tmp_path / "model.h5")
    place = Place(tmp_path / "model.h5")
    found = finding.source_for(place)

    class Meanwhile:
        @staticmethod
        def read(place, options):
            truncate(tmp_path / "model.h5")
            return found.read(place, options)

    monkeypatch.setattr(finding, "source_for", lambda place: Meanwhile)
    with pytest.raises(FormatError, match="changed while it was being read"):
        read.read_here(place, ReadOptions())


def test_an_architecture_that_changes_is_noticed_too(tmp_path, monkeypatch):
    folder = ROOT / "sample_models" / "encoder_keras3"
    for name in ("model.weights.h5", "architecture.json"):
        shutil.copy(folder / name, tmp_path)
    place, options = Place(tmp_path / "model.weights.h5"), ReadOptions(architecture=Place(tmp_path / "architecture.json"))
    found = finding.source_for(place)

    class Meanwhile:
        @staticmethod
        def read(place, options):
            bundle = found.read(place, options)
            append(tmp_path / "architecture.json")
            return bundle

    monkeypatch.setattr(finding, "source_for", lambda place: Meanwhile)
    with pytest.raises(FormatError, match="changed while it was being read"):
        read.read_here(place, options)


# --- outputs ---------------------------------------------------------------------------------------------------------------------------

def test_a_disk_that_fills_up_leaves_the_old_output(tmp_path):
    """The kernel refuses to write more than 2000 bytes, as it does on a full disk."""
    out = tmp_path / "out.json"
    out.write_bytes(OLD)
    done = command(MODEL, out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)))
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert out.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.thorough("much time: eight processes at once"))])
def test_many_exports_to_one_name(count, tmp_path):
    out = tmp_path / "out.json"
    words = [sys.executable, "-c", PROGRAM, str(MODEL), str(out)]
    processes = [subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(count)]
    assert [process.communicate()[1] for process in processes] == [b""] * count
    assert [process.returncode for process in processes] == [0] * count
    assert exporter.load(out).digest() == exporter.read(MODEL).digest()
    assert os.listdir(tmp_path) == ["out.json"]


def test_kill_minus_nine(tmp_path):
    """A few of the 200 of fuzz/faults.py: the old output or the new one, and at most one temporary file a kill."""
    out = tmp_path / "out.json"
    new = exporter.write(exporter.read(MODEL), tmp_path / "new.json") or (tmp_path / "new.json").read_bytes()
    for moment in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        out.write_bytes(OLD)
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(MODEL), str(out)], cwd=ROOT)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        assert out.read_bytes() in (OLD, new)
    left = set(os.listdir(tmp_path)) - {"out.json", "new.json"}
    assert len(left) <= 6
    assert all(name.startswith(".out.json.") and name.endswith(".tmp") for name in left)


# --- surroundings ----------------------------------------------------------------------------------------------------------------------

TRAP = "open('PWNED', 'w').close()\n"


@pytest.mark.parametrize("isolated", [True, pytest.param(False, marks=pytest.mark.thorough("much time; with a child it runs always"))])
def test_modules_beside_the_model_are_not_imported(isolated, tmp_path):
    """The current folder may be that of a model from a stranger."""
    for name in ("h5py", "numpy", "json", "orjson", "exporter", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    program = tmp_path.parent / f"{tmp_path.name}.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r}); import exporter; "
                       f"print(len(exporter.read({str(MODEL)!r}, isolated={isolated})))")
    done = subprocess.run([sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 3
    assert not (tmp_path / "PWNED").exists()


HDF5_VARIABLES = ("HDF5_PLUGIN_PATH", "HDF5_PLUGIN_PRELOAD", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER")
EACH = [pytest.param((name,), id=name, marks=pytest.mark.thorough("much time: an interpreter for each; all together run always"))
        for name in HDF5_VARIABLES]


def for_the_library(folder):
    """A model that libhdf5 has to read: one of its arrays is compressed."""
    path, name = folder / "compressed.h5", "model_weights/head_bn/head_bn/gamma"
    shutil.copy(MODEL, path)
    with h5py.File(path, "r+") as file:
        values = file[name][()]
        del file[name]
        file.create_dataset(name, data=values, compression="gzip")
    return path


def with_traps(names, folder):
    """An environment in which these variables tell HDF5 to load code, or to open files in another way."""
    (folder / "libtrap.so").write_bytes(b"\x7fELF")
    return {**os.environ, **{name: {"HDF5_VOL_CONNECTOR": "trap", "HDF5_DRIVER": "split"}.get(name, str(folder)) for name in names}}


@pytest.mark.parametrize("names", [pytest.param(HDF5_VARIABLES, id="all"), *EACH])
def test_variables_of_hdf5_load_nothing(names, tmp_path):
    done = command(for_the_library(tmp_path), tmp_path / "out.json", env=with_traps(names, tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("names", [pytest.param(HDF5_VARIABLES, id="all"), *EACH[1:]])
@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.thorough("much time; by two processes it runs always")), 2])
def test_variables_of_hdf5_load_nothing_in_a_batch(names, jobs, tmp_path):
    models = [for_the_library(tmp_path), ROOT / "sample_models" / "no_beta_keras208" / "model.h5"]
    done = command(*models, "--jobs", jobs, "--out-dir", tmp_path / "out", env=with_traps(names, tmp_path))
    assert (done.returncode, done.stderr) == (0, "exported 2, skipped 0, refused 0\n")


def test_a_name_that_is_not_unicode(tmp_path):
    name = os.fsencode(tmp_path) + b"/m\xff\x1b[2J.h5"
    shutil.copy(MODEL, name)
    done = command(os.fsdecode(name), tmp_path / "out.json")
    assert (done.returncode, done.stderr) == (0, "")
    with open(name, "r+b") as file:
        file.truncate(5000)
    done = command(os.fsdecode(name), tmp_path / "out.json")
    assert done.returncode == 1
    assert done.stderr.replace("\n", "").isprintable()


# --- HDF5 data that lies where it should not: only an address says whose it is -----------------------------------------------------------

def address_of(path, name):
    """Where in the file the address of a dataset's data stands, and the address."""
    with h5py.File(path) as file:
        at = file[name].id.get_offset()
        size = file[name].id.get_storage_size()
    data = path.read_bytes()
    record = at.to_bytes(8, "little") + size.to_bytes(8, "little")
    assert data.count(record) == 1
    return data.index(record), at


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        for number in range(2):
            for role in range(4):
                file[f"layers/batch_normalization{'_1' * number}/vars/{role}"] = np.arange(1, 6, dtype=np.float32) + 10 * role + number
    return path


def test_a_damaged_address_is_noticed(small):
    """Into another dataset's data, and into each structure of the file that holds the address itself."""
    name, other = "layers/batch_normalization/vars/2", "layers/batch_normalization_1/vars/1"
    assert len(exporter.read(small, epsilon=1e-3)) == 2
    sound = small.read_bytes()
    where, at = address_of(small, name)
    structures = [sound.index(signature) + inside for signature in (b"TREE", b"SNOD", b"HEAP") for inside in (4, 20, 40)]
    with h5py.File(small) as file:
        headers = [h5py.h5o.get_info(file[path].id).addr + 24 for path in (name, other, "layers")]
    for target in (address_of(small, other)[1], address_of(small, other)[1] + 8, at - 20, *structures, *headers):
        small.write_bytes(sound[:where] + target.to_bytes(8, "little") + sound[where + 8:])
        with pytest.raises(FormatError, match=r"its data overlaps (that of layers/\S+|the metadata)"):
            exporter.read(small, epsilon=1e-3)


def test_two_parameters_in_one_dataset_are_refused(small):
    with h5py.File(small, "r+") as file:
        del file["layers/batch_normalization/vars/3"]
        file["layers/batch_normalization/vars/3"] = file["layers/batch_normalization_1/vars/3"]
    with pytest.raises(FormatError, match="its data overlaps that of layers/batch_normalization/vars/3"):
        exporter.read(small, epsilon=1e-3)


def test_a_damaged_name_is_not_a_missing_parameter(tmp_path):
    """Weights alone, without a config that says whether there is a beta."""
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"bn"]
        names = ["gamma", "beta", "moving_mean", "moving_variance"]
        file.create_group("bn").attrs["weight_names"] = [f"bn/{name}:0".encode() for name in names]
        for name in names:
            file[f"bn/bn/{name}:0"] = np.ones(3, np.float32)
    assert exporter.read(path, epsilon=1e-3)["bn"].beta is not None
    path.write_bytes(path.read_bytes().replace(b"bn/beta:0", b"bn/bexa:0", 1))
    with pytest.raises(FormatError, match="but the file contains no such weight"):
        exporter.read(path, epsilon=1e-3)


def test_at_most_twenty_warnings_and_long_messages_are_cut(tmp_path, run):
    from exporter.commands import export as cli
    from tests.make.layers import make_layer

    layers = [make_layer(f"layer_{number}_{'x' * 900}\x1b[31m").replace(moving_variance=np.float32([1, 1, 1, -1e-6]))
              for number in range(50)]
    exporter.write(make_bundle(*layers), tmp_path / "b.json")
    code, _, err = run(cli.export, tmp_path / "b.json", tmp_path / "c.json")
    lines = err.splitlines()
    assert code == 0
    assert len(lines) == 21
    assert lines[-1] == "warning: and 30 more like these"
    assert all(len(line) < 520 and line.isprintable() for line in lines)


def test_a_config_without_an_axis_is_worth_a_warning(tmp_path):
    shutil.copy(MODEL, tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"axis"', '"azis"', 1)
    done = command(tmp_path / "model.h5")
    assert done.returncode == 0
    assert "warning: stem_bn: the file does not say for certain which axis it normalizes; [-1] is assumed" in done.stderr


def test_a_signaling_nan_is_judged_by_the_gate(tmp_path):
    from exporter.formats import safetensors

    exporter.write(make_bundle(), tmp_path / "b.safetensors")
    data = (tmp_path / "b.safetensors").read_bytes()
    size = 8 + (safetensors.header_size(data[:9]) or 0)
    (tmp_path / "b.safetensors").write_bytes(data[:size] + b"\1\0\xa0\x7f" + data[size + 4:])
    with pytest.raises(exporter.BundleError, match="not a finite number"):
        exporter.load(tmp_path / "b.safetensors")


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.thorough("much time: ten times the layers"))])
def test_thousands_of_layers_in_one_group(count, tmp_path):
    """The names of so many grow the group's heap, which then leaves its old place behind; and the time allowed grows with the file."""
    path = tmp_path / "weights.h5"
    names = [f"bn_{number}" for number in range(count)]
    roles = ("gamma", "beta", "moving_mean", "moving_variance")
    with h5py.File(path, "w") as file:
        for part in range(3):
            file.attrs[f"layer_names{part}"] = [name.encode() for name in names[part * count // 3:(part + 1) * count // 3]]
        for name in names:
            file.create_group(name).attrs["weight_names"] = [f"{name}/{role}:0".encode() for role in roles]
            for role in roles:
                file[f"{name}/{name}/{role}:0"] = np.ones(4, np.float32)
    assert len(exporter.read(path, epsilon=1e-3, isolated=True)) == count


@pytest.mark.parametrize("damage", ["integers", "another length", "one more", "gone"])
def test_a_group_called_batch_normalization_is_not_passed_over(damage, small):
    with h5py.File(small, "r+") as file:
        group = file["layers/batch_normalization/vars"]
        if damage != "one more":
            del group["1"]
        if damage == "integers":
            group["1"] = np.arange(5)
        elif damage == "another length":
            group["1"] = np.ones(6, np.float32)
        elif damage == "one more":
            for number in range(4, 8):
                group[str(number)] = np.ones(5, np.float32)
    with pytest.raises(exporter.UnresolvedError, match="layers/batch_normalization: its group is named like a batch norm"):
        exporter.read(small, epsilon=1e-3)
    assert exporter.read(small, epsilon=1e-3, skip_unresolved=True).paths() == ["layers/batch_normalization_1"]


@pytest.mark.parametrize("name", ["add/y", "add", "Rsqrt", "mul"])
def test_a_damaged_name_does_not_hide_a_norm(name, tmp_path):
    """In a graph without checksums: the node by its new name, and who reads it by the old one."""
    sound = (ROOT / "sample_models" / "hand_made_tf115" / "frozen.pb").read_bytes()
    whole = f"layer_1/bn/batchnorm/{name}".encode()
    definition = b"\x0a" + bytes([len(whole)]) + whole
    assert sound.count(definition) == 1
    (tmp_path / "frozen.pb").write_bytes(sound.replace(definition, definition[:-1] + b"#"))
    words = "which it does not contain" if name.startswith("add") else "cannot be resolved|which it does not contain"
    with pytest.raises(exporter.ExporterError, match=words):
        exporter.read(tmp_path / "frozen.pb")


@pytest.mark.parametrize("name", ["gamma", "moving_variance"])
def test_a_damaged_object_graph_loses_no_parameter(name, tmp_path):
    """The one in saved_model.pb has no checksum; that in the variables' index has."""
    shutil.copytree(SAVED_MODEL, tmp_path / "model")
    path = tmp_path / "model" / "saved_model.pb"
    child = b"\x12" + bytes([len(name)]) + name.encode()
    sound = path.read_bytes()
    digest = exporter.read(tmp_path / "model").digest()
    refused = 0
    for found in re.finditer(re.escape(child), sound):
        path.write_bytes(sound[:found.start()] + child[:-1] + b"#" + sound[found.end():])
        try:
            assert exporter.read(tmp_path / "model").digest() == digest
        except FormatError as error:
            refused += "list different parameters" in error.what
    assert refused >= 2


@pytest.mark.parametrize("step", [37, pytest.param(3, marks=pytest.mark.thorough("much time: twelve times the bits"))])
def test_a_flipped_bit_of_the_object_graph_changes_nothing_in_silence(step, tmp_path):
    """In every `step`-th byte, another bit each time."""
    shutil.copytree(SAVED_MODEL, tmp_path / "model")
    path = tmp_path / "model" / "saved_model.pb"
    sound = path.read_bytes()
    (graph,) = fields(sound)[MODEL_META_GRAPHS]
    (objects,) = fields(graph)[META_OBJECTS]
    digest = exporter.read(tmp_path / "model").digest()
    for number, at in enumerate(range(sound.index(objects), sound.index(objects) + len(objects), step)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << number % 8]) + sound[at + 1:])
        with contextlib.suppress(exporter.ExporterError):
            assert exporter.read(tmp_path / "model").digest() == digest, at

"""Measures all numbers in docs/performance.md, and updates them there.

    python benchmarks/run.py                                    everything, with the installed peers
    python benchmarks/run.py --only one-file --runs 11
    python benchmarks/run.py --python tf2onnx=/path/to/python   a peer installed elsewhere

Inputs are created in --folder unless they exist. Programs run as whole processes, in pairs: each run of a peer is paired with a run of
bn-export, alternately before and after it. Ratios are medians over the pairs, so that a machine that slows down affects both programs.
Everything takes about eight minutes on two quiet processors, and two more to create the inputs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DOCUMENT = ROOT / "docs" / "performance.md"
MAX_LAYERS = 99_998  # batch norms of the largest model: it counts as a layer, and so does its input, of which 100 000 are read
SLOW, VERY_SLOW = 2, 10  # seconds
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(ROOT))

import batch  # noqa: E402
import chart  # noqa: E402

# Script in peers/, the packages it needs, the suffixes of the models that it reads.
PEERS = {"plain h5py script": ("plain_h5py", ("h5py", "orjson"), (".h5",)),
         "Keras": ("keras_loop", ("keras", "tensorflow"), (".h5", ".keras")),
         "TensorFlow": ("tensorflow_reader", ("tensorflow",), ("",)),
         "tf_keras": ("tf_keras_loop", ("tf_keras",), (".h5",)),
         "tf2onnx": ("tf2onnx_loop", ("tf2onnx", "tensorflow"), (".h5",)),
         "hls4ml's reader": ("hls4ml_reader", ("hls4ml",), (".h5",))}


class Run(NamedTuple):
    """One process: seconds on the clock, of the processors, and MiB at its peak (of the largest, where it starts others)."""

    wall: float
    cpu: float
    peak: float


def run(words: Sequence[str]) -> Run:
    """Runs a program to its end. Raises SystemExit where it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT,
                                   env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""})
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(words)} failed:\n{log.read().decode(errors='replace')[-2000:]}")
    return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def repeated(words: Sequence[str], runs: int) -> list[Run]:
    """`runs` runs of a program after one that is not counted; of a slow one that one, and another if it is not very slow."""
    first = run(words)
    if first.wall > SLOW:
        return [first, *([run(words)] if first.wall < VERY_SLOW else [])]
    return [run(words) for _ in range(runs)]


def paired(ours: Sequence[str], other: Sequence[str], runs: int) -> list[tuple[Run, Run]]:
    """Runs of two programs, one beside the other, which of them is first by turns; how many as in `repeated`."""
    run(ours)
    first = run(other)
    if first.wall > VERY_SLOW:
        return [(run(ours), first)]
    pairs = []
    for number in range(2 if first.wall > SLOW else runs):
        if number % 2:
            one, another = run(ours), run(other)
        else:
            another, one = run(other), run(ours)
        pairs.append((one, another))
    return pairs


def medians(runs: Sequence[Run]) -> Run:
    return Run(*(statistics.median(getattr(each, field) for each in runs) for field in Run._fields))


def ratios(pairs: Sequence[tuple[Run, Run]]) -> Run:
    """Medians of other / ours over the pairs."""
    return Run(*(statistics.median(getattr(other, field) / getattr(ours, field) for ours, other in pairs) for field in Run._fields))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join([" --- "] + [" ---: "] * (len(header) - 1)) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def made(path: Path, *row: int) -> Path:
    """The model at `path`, made if it is not there: `row` batch norms and channels, or DenseNet201.

    Another process makes it: the system counts the memory of this one to each program that it starts.
    """
    if not path.exists():
        run([sys.executable, str(HERE / "models.py"), str(path), *(["--row", *map(str, row)] if row else [])])
    return path


def made_by_keras(model: Path, path: Path, code: str) -> Path:
    """The SavedModel or checkpoint at `path` that Keras writes of `model`."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-c", f"import keras, tensorflow as tf\nm = keras.models.load_model({str(model)!r}, compile=False)\n{code}"])
    return path


def ours(model: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "exporter", str(model), str(out), *options]


def has(python: str, packages: Sequence[str]) -> bool:
    code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {list(packages)!r})))"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def one_file(args: argparse.Namespace) -> str:
    """The command against its peers on DenseNet201 in every form."""
    folder, out = args.folder, args.folder / "out.json"
    inputs = [made(folder / "densenet201.h5"), made(folder / "densenet201.keras")]
    if has(sys.executable, ("keras", "tensorflow")):
        saved, prefix = folder / "densenet201_saved", folder / "densenet201_ckpt" / "checkpoint_of_densenet201"
        made_by_keras(inputs[0], saved / "saved_model.pb", f"m.export({str(saved)!r})")
        made_by_keras(inputs[0], prefix.with_suffix(".index"), f"tf.train.Checkpoint(model=m).write({str(prefix)!r})")
        inputs += [saved, prefix]
    rows = []
    for model in inputs:
        options = ["--epsilon", "1.001e-05"] if model.name.startswith("checkpoint") else []
        command = ours(model, out, *options)
        measured: dict[str, list[tuple[Run, Run]]] = {}
        for name, (script, packages, suffixes) in PEERS.items():
            python = args.python.get(script.split("_")[0], sys.executable)
            is_bar = script == "plain_h5py"  # of every form, though it reads one alone
            if (is_bar or model.suffix in suffixes) and has(python, packages):
                read = inputs[0] if is_bar else model
                words = [python, str(HERE / "peers" / f"{script}.py"), str(read), str(out)]
                measured[name + (f", of {read.name}" if read is not model else "")] = paired(command, words, args.runs)
        own = medians([one for pairs in measured.values() for one, _ in pairs] or repeated(command, args.runs))
        rows.append([model.name, "bn-export", f"{own.wall:.2f}", f"{own.cpu:.2f}", f"{own.peak:.0f}", "1", "1", "1"])
        print(rows[-1], file=sys.stderr)
        for name, pairs in measured.items():
            theirs = medians([other for _, other in pairs])
            rows.append(["", name, f"{theirs.wall:.2f}", f"{theirs.cpu:.2f}", f"{theirs.peak:.0f}",
                         *(f"{r:.2f}" if r < 10 else f"{r:.0f}" for r in ratios(pairs))])
            print(rows[-1], file=sys.stderr)
    return table(["model", "program", "wall s", "CPU s", "peak MiB", "wall, bn-export = 1", "CPU", "peak"], rows)


def scale(args: argparse.Namespace) -> str:
    """Time, memory and size against the number of layers and of channels; and two pictures of it."""
    sizes = {"layers": [(count, 16) for count in (1, 10, 100, 1000, 10_000, MAX_LAYERS)],
             "channels": [(1, channels) for channels in (16, 1 << 10, 1 << 14, 1 << 17, 1 << 20)]}
    rows = []
    for axis, pairs in sizes.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        for count, channels in pairs:
            for suffix in (".h5",) if count == MAX_LAYERS else (".h5", ".keras"):
                model = made(args.folder / f"row_{count}_{channels}{suffix}", count, channels)
                wall, cpu, peak = medians(repeated(ours(model, args.folder / "out.json"), 3))
                rows.append([f"{count} x {channels}", suffix, f"{wall:.2f}", f"{cpu:.2f}", f"{1000 * wall / count:.2f}", f"{peak:.0f}",
                             f"{4 * 4 * count * channels / 2**20:.2f}"])
                print(rows[-1], file=sys.stderr)
                lines.setdefault(suffix, []).append((count if axis == "layers" else channels, wall))
        label = "batch norms of 16 channels" if axis == "layers" else "channels of one batch norm"
        if not args.print:
            (DOCUMENT.parent / f"performance-{axis}.svg").write_text(chart.lines(lines, label, "seconds"), "utf-8")
    return table(["layers x channels", "file", "wall s", "CPU s", "wall ms a layer", "peak MiB", "MiB of parameters"], rows)


def many(args: argparse.Namespace) -> str:
    """Many small models in one command, and on a Dask cluster."""
    has_dask = has(sys.executable, ("distributed",))
    cells = [[row.what, "" if row.milliseconds is None else f"{row.milliseconds:.1f}", f"{row.seconds:.2f}",
              "" if row.times is None else f"{row.times:.2f}"] for row in batch.rows(300, min(args.runs, 5), dask=has_dask)]
    return table(["300 models of 8 batch norms", "CPU ms a model", "wall s", "wall, --jobs 2 = 1"], cells)


def far_away(args: argparse.Namespace) -> str:
    """Bytes and requests for the two single files over http, from a server that sends one range in an answer and one that sends several."""
    from tests.make.range_server import serving

    rows = []
    for suffix in (".h5", ".keras"):
        path = made(args.folder / f"densenet201{suffix}")
        for several in (False, True):
            with serving(args.folder, several=several) as server:
                wall = run([*ours(Path("x"), args.folder / "out.json")[:3], server.url(path.name), str(args.folder / "out.json")]).wall
                size = path.stat().st_size
                rows.append([path.name, "many" if several else "one", f"{size}", f"{server.bytes_sent}",
                             f"{100 * server.bytes_sent / size:.2f} %", f"{len(server.requests)}", f"{wall:.1f}"])
    return table(["file", "ranges in an answer", "bytes", "bytes fetched", "part", "requests", "wall s, server on the same machine"], rows)


def evaluator(args: argparse.Namespace) -> str:
    """The fast evaluator against others, in one process of one thread each."""
    words = [sys.executable, str(HERE / "evaluator.py"), str(args.runs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""})
    if done.returncode:
        raise SystemExit(done.stderr)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return table(rows[0], rows[1:])


def machine(args: argparse.Namespace) -> str:
    """What it was measured on."""
    from exporter import __version__

    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    versions = []
    for name in ("h5py", "numpy", "orjson", "keras", "tensorflow", "tf_keras", "onnxruntime", "torch", "numba"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (f"bn-export {__version__}; {found[1] if found else platform.processor()}, {os.cpu_count()} processors; "
            f"{platform.system()} {platform.machine()}; "
            f"Python {platform.python_version()}; {', '.join(versions)}. Medians of {args.runs} pairs of runs; of two where a program "
            f"takes more than {SLOW} s; one pair where it takes more than {VERY_SLOW} s.")


SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "machine": machine, "one-file": one_file, "scale": scale, "many": many, "far-away": far_away, "evaluator": evaluator}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=SECTIONS, help="one section; repeatable")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bn-export-benchmarks")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="interpreter that has a peer, e.g. tf2onnx=...")
    parser.add_argument("--print", action="store_true", help="print the tables, leave docs/performance.md alone")
    args = parser.parse_args()
    args.python = dict(word.split("=", 1) for word in args.python)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.only or SECTIONS:
        began = time.perf_counter()
        text = SECTIONS[name](args)
        print(text)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        if not args.print:
            document = DOCUMENT.read_text("utf-8")
            begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
            before, _, rest = document.partition(begin)
            DOCUMENT.write_text(before + begin + text.rstrip("\n") + "\n" + end + rest.partition(end)[2], "utf-8")


if __name__ == "__main__":
    main()

"""Builds the runtimes, runs a bundle's tests with each, and writes the table of docs/runtimes.md.

    python runtimes/measure.py [--write] [BUNDLE]     default: vectors/batchnorm-1.json
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import exporter
from exporter.targets import c_header
from exporter.targets.shared.options import WriteOptions

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parent / "vectors" / "batchnorm-1.json"
PAGE = HERE.parent / "docs" / "runtimes.md"
BEGIN, END = "<!-- made by runtimes/measure.py: begin -->", "<!-- end -->"

CRATES = Path("/usr/share/cargo/registry")  # where Debian's librust-*-dev packages put their sources
C_FLAGS = ("-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


Run = Callable[[Path], str]  # runs a bundle's tests and gives what the program printed; RuntimeError where it finds something wrong


class Missing(Exception):
    """A tool that a runtime needs is not on this machine."""


def need(*programs: str) -> None:
    """Raises Missing where a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            raise Missing(f"{program} is not installed")


def call(command: Sequence[object], folder: Path) -> str:
    """Runs a command; its output, or a RuntimeError with it where it fails."""
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, errors="backslashreplace")
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def python(folder: Path) -> Run:
    return lambda bundle: call([sys.executable, "-E", "-s", "-S", "-B", "check.py", bundle], HERE / "python")  # -S: no installed packages


def javascript(folder: Path) -> Run:
    need("node")
    return lambda bundle: call(["node", "check.mjs", bundle], HERE / "javascript")


def c(folder: Path) -> Run:
    need("gcc")

    def run(bundle: Path) -> str:
        (folder / "layers.h").write_bytes(c_header.write(exporter.load(bundle), WriteOptions()))
        (folder / "cases.h").write_text(c_cases(json.loads(bundle.read_text("utf-8"))), "ascii")
        call(["gcc", "-std=c99", *C_FLAGS, "-I", ".", '-DBN_CASES="cases.h"', HERE / "c" / "check.c", "-lm", "-o", "check"], folder)
        return call(["./check"], folder)

    return run


def c_cases(document: dict[str, Any]) -> str:
    """The cases of a conformance file, and the inputs that do not fit a layer, as tables for check.c."""
    arrays: list[str] = []
    rows: list[str] = []
    layers = document["layers"]
    for index, layer in enumerate(layers):
        kind, ending = ("double", "") if layer["dtype"] == "float64" else ("float", "f")
        for case in layer.get("cases", ()):
            names = []
            for key in ("input", "output"):
                names.append(f"case_{len(rows)}_{key}")
                numbers = ", ".join(float(value).hex() + ending for value in case[key])
                arrays.append(f"static const {kind} {names[-1]}[] = {{{numbers}}};")
            rows.append(_c_case(index, case["shape"], len(case["input"]), *names))
    paths = [layer["path"] for layer in layers]
    refused = [_c_case(paths.index(entry["layer"]), entry["shape"], entry["count"])
               for entry in document.get("refuse_inputs", ())]
    return "\n".join([*arrays, *_c_table("case", rows), *_c_table("refused", refused), ""])


def _c_case(layer: int, shape: list[int], count: int, x: str = "0", y: str = "0") -> str:
    return f"    {{{layer}, {len(shape)}, {{{', '.join(map(str, shape)) or 0}}}, {count}, {x}, {y}}},"


def _c_table(name: str, rows: list[str]) -> list[str]:
    array = "bn_cases" if name == "case" else f"bn_{name}"
    return [f"enum {{ bn_{name}_count = {len(rows)} }};", f"static const bn_case {array}[] = {{", *(rows or [_c_case(0, [], 0)]), "};"]


def cpp(folder: Path) -> Run:
    need("g++")
    probe = ["g++", "-std=c++17", "-x", "c++", "-fsyntax-only", "-include", "nlohmann/json.hpp", "/dev/null"]
    if subprocess.run(probe, capture_output=True).returncode:
        raise Missing("nlohmann/json.hpp is not installed (Debian: nlohmann-json3-dev)")
    call(["g++", "-std=c++17", *C_FLAGS, HERE / "cpp" / "check.cpp", "-o", "check"], folder)
    return lambda bundle: call(["./check", bundle], folder)


def rust(folder: Path) -> Run:
    need("cargo")
    if not list(CRATES.glob("serde_json-*")):
        raise Missing("the crate serde_json is not installed (Debian: librust-serde-json-dev)")
    shutil.copytree(HERE / "rust", folder, dirs_exist_ok=True)
    (folder / "offline.toml").write_text(f'[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "{CRATES}"\n')
    call(["cargo", "--config", "offline.toml", "build", "--offline", "--quiet", "--example", "check"], folder)
    return lambda bundle: call(["target/debug/examples/check", bundle], folder)


def go(folder: Path) -> Run:
    need("go")
    call(["go", "build", "-o", folder / "check", "./check"], HERE / "go")
    return lambda bundle: call(["./check", bundle], folder)


def java(folder: Path) -> Run:
    need("java", "javac")
    sources = sorted((HERE / "java").glob("src/main/java/bnbundle/*.java"))
    call(["javac", "-Xlint:all", "-Werror", "-d", folder, *sources], HERE / "java")
    return lambda bundle: call(["java", "-cp", folder, "bnbundle.Check", bundle], folder)


ROUNDED_ONCE = "double, rounded once"
RUNTIMES: dict[str, tuple[Callable[[Path], Run], str]] = {  # how to build each, and what it computes in
    "python": (python, ROUNDED_ONCE), "javascript": (javascript, ROUNDED_ONCE), "c": (c, "float: `scale * (x - mean) + beta`"),
    "cpp": (cpp, ROUNDED_ONCE), "rust": (rust, ROUNDED_ONCE), "go": (go, ROUNDED_ONCE), "java": (java, ROUNDED_ONCE)}
SUMMARY = re.compile(r"(\d+) layers, (\d+) tests.*?, (\d+) numbers, (\d+) wrong, worst ([\d.]+) ulp")


def build(name: str, folder: Path) -> Run:
    """Builds a runtime's program in an empty folder. Raises Missing, or RuntimeError where it does not build."""
    return RUNTIMES[name][0](folder)


def measure(run: Run, bundle: Path) -> tuple[int, int, float]:
    """(numbers, wrong, worst ULP of float32) for a bundle. Raises RuntimeError where the program finds something wrong."""
    output = run(bundle.resolve())
    found = SUMMARY.search(output)
    if found is None:
        raise RuntimeError(f"no summary in:\n{output}")
    return int(found[3]), int(found[4]), float(found[5])


def row(name: str, numbers: int, wrong: int, worst: float) -> str:
    """A line of the table."""
    return f"| [{name}](../runtimes/{name}/README.md) | {RUNTIMES[name][1]} | {numbers} | {wrong} | {worst:.2f} ULP |"


def table(bundle: Path) -> list[str]:
    """The table's lines; every runtime has to be there."""
    lines = ["| runtime | computes in | numbers | out of bound | worst error, float32 layers |", "|---|---|---|---|---|"]
    for name in RUNTIMES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, *measure(build(name, Path(folder)), bundle)))
    return lines


def main() -> None:
    """Prints the table; with --write puts it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", nargs="?", type=Path, default=VECTORS)
    parser.add_argument("--write", action="store_true", help="put the table into docs/runtimes.md")
    args = parser.parse_args()
    lines = table(args.bundle)
    print("\n".join(lines))
    if args.write:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), "utf-8")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Reads each file of a museum in every way there is, and expects the same bundle from all of them, byte for byte.

usage: museum_ways.py MUSEUM [--only TEXT]

The ways are those of tests/make/ways.py: in this process, in a fresh child, with the command, from a pipe, from a server, from a store, as
bytes, in a batch, and written in each format and read back. What a file does not contain is given as its truth.json specifies it; files
that are refused are only counted. Prints a line for each file that differs and ends with `N alike, M not, K refused`.
"""
import argparse
import concurrent.futures
import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import exporter
from tests.make.ways import documents


def options_for(folder: pathlib.Path, source: pathlib.Path, truth: dict) -> dict | None:
    """What has to be said for this file to be read, or None where it is refused whatever is said."""
    more = {"architecture": str(folder / truth["architecture"])} if truth.get("architecture") else {"epsilon": 0.001}
    for options in ({}, more, {"skip_unresolved": True}, {**more, "skip_unresolved": True}):
        try:
            exporter.read(source, **options)
        except exporter.ExporterError:
            continue
        return options
    return None


def check(folder: pathlib.Path) -> tuple[str, str]:
    """(the file's name, what differs): "" where nothing does, "refused" where it is not read."""
    truth = json.loads((folder / "truth.json").read_text())
    source = folder / truth["source"]
    options = options_for(folder, source, truth)
    if options is None:
        return folder.name, "refused"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = dict(documents(source, pathlib.Path(scratch), options))
        except Exception as error:
            return folder.name, f"{type(error).__name__}: {error}"
    return folder.name, ", ".join(way for way, text in found.items() if text != found["here"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("museum", type=pathlib.Path)
    parser.add_argument("--only", default="", help="only files whose path has this in it")
    arguments = parser.parse_args()
    folders = sorted(path.parent for path in arguments.museum.resolve().rglob("truth.json") if arguments.only in str(path.parent))
    with concurrent.futures.ProcessPoolExecutor() as pool:
        results = list(pool.map(check, folders))
    wrong = [(name, what) for name, what in results if what not in ("", "refused")]
    refused = sum(what == "refused" for _, what in results)
    for name, what in wrong:
        print(f"{name}: {what}")
    print(f"{len(results) - len(wrong) - refused} alike, {len(wrong)} not, {refused} refused")
    return 1 if wrong or refused == len(results) else 0


if __name__ == "__main__":
    sys.exit(main())

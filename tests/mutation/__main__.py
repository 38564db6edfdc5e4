"""Changes lines of exporter/ one at a time and reports the changes that no test detects.

    python -m tests.mutation --count 20 --seed "$(git rev-parse HEAD)"

The first run records which test executes which line (a run of the suite with coverage.py; the result is kept in a file outside of the
tree). Later runs only execute the test files that have changed since. Changes that survive but make no observable difference are
listed in equivalent.toml, each with the reason.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.mutation import covering
from tests.mutation.equivalents import Equivalents
from tests.mutation.mutants import Mutant, sample
from tests.mutation.running import Result, run_all, temporary_folder

ROOT = Path(__file__).resolve().parents[2]
LINES = "bn-export-lines-{}.json"  # in the folder of temporary files


def main() -> int:
    words = arguments()
    files = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted((ROOT / "exporter").rglob("*.py"))}
    lines = words.lines or Path(tempfile.gettempdir()) / LINES.format(digest(files))
    if not lines.exists():
        print(f"gathering which test executes which line, into {lines}", flush=True)
        covering.gather(ROOT, lines, words.processes, None if words.anew else latest())
    chosen = {name: text for name, text in files.items() if any(fnmatch.fnmatch(name, glob) for glob in words.files)}
    mutants = sample(chosen, words.count, words.seed)
    known = Equivalents.read()
    for line in known.stale(files):
        print(f"equivalent.toml names a line that is no longer there: {line}")
    results = [Result(mutant, "equivalent", reason) for mutant in mutants if (reason := known.reason(mutant))]
    left = [mutant for mutant in mutants if not known.reason(mutant)]
    with temporary_folder() as folder:
        ran = run_all(ROOT, folder, left, covering.load(lines), processes=words.processes, is_deep=words.deep)
        for number, result in enumerate(ran, 1):
            results.append(result)
            told(result, f"{number}/{len(left)}")
            if words.json:
                words.json.write_text(json.dumps([entry(one) for one in results], indent=1))
    print(table(results))
    return summary(results)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=["exporter/*"], help="globs of the files to change (default: all of exporter/)")
    parser.add_argument("--count", type=int, default=20, help="of mutants, at most one a line (default: 20)")
    parser.add_argument("--seed", default="1", help="which ones; any text (default: 1)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--deep", action="store_true", help="try a survivor with all tests that execute the line, for a minute or two")
    parser.add_argument("--lines", type=Path, help="the file of which test executes which line; made where it is not there")
    parser.add_argument("--anew", action="store_true", help="run all tests to make it, not only those that differ from the last time")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    return parser.parse_args()


def latest() -> Path | None:
    """What was gathered last, of other texts."""
    found = Path(tempfile.gettempdir()).glob(LINES.format("*"))
    return max((path for path in found if '"texts": ' in path.read_text()), key=lambda path: path.stat().st_mtime, default=None)


def digest(files: dict[str, str]) -> str:
    """Of all that decides which test executes which line."""
    tests = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("*.py"))}
    return hashlib.sha256(repr(sorted({**files, **tests}.items())).encode()).hexdigest()[:12]


def told(result: Result, number: str) -> None:
    print(f"{number} {result.how} {result.mutant.file}:{result.mutant.line} ({result.mutant.kind}, {result.seconds:.1f} s) {result.by}",
          flush=True)
    if result.how == "survived":
        print("\n".join(f"    {line}" for line in result.mutant.diff.splitlines()[2:]), flush=True)


def entry(result: Result) -> dict[str, object]:
    mutant: Mutant = result.mutant
    was, now = mutant.lines
    return {"file": mutant.file, "line": mutant.line, "kind": mutant.kind, "was": was, "now": now, "diff": mutant.diff, "how": result.how,
            "by": result.by, "tests": result.tests, "seconds": round(result.seconds, 1)}


def table(results: list[Result]) -> str:
    """By module: what was noticed of what makes a difference."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for result in results:
        module = result.mutant.file.removeprefix("exporter/")
        for name in {module, module.split("/")[0] + "/"} if "/" in module else {module}:
            counts[name][result.how] += 1
    rows = [f"{'module':44} mutants killed equivalent survived score"]
    for name, count in sorted(counts.items()):
        real = count["killed"] + count["survived"]
        score = f"{100 * count['killed'] / real:.0f} %" if real else "-"
        rows.append(f"{name:44} {count.total():7} {count['killed']:6} {count['equivalent']:10} {count['survived']:8} {score:>5}")
    return "\n".join(rows)


def summary(results: list[Result]) -> int:
    """Fails where nothing was noticed at all: then something is wrong here."""
    count = collections.Counter(result.how for result in results)
    real = count["killed"] + count["survived"]
    print(f"{count['killed']} of {real} mutants were noticed ({100 * count['killed'] / max(real, 1):.1f} %); "
          f"{count['equivalent']} are equivalent, {count['error']} could not be run")
    return 1 if (real and not count["killed"]) or count["error"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Which tests execute which lines: gathered once, by the suite under coverage.py, and kept in a file.

As a plugin of pytest (`-p tests.mutation.covering`, with the folder to write into in `BN_EXPORT_LINES`) this module notes the lines of
exporter/ that each test executes, also in children that are forked; of children that are killed or start afresh it knows nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

VARIABLE = "BN_EXPORT_LINES"
OWN = "tests/mutation/covering.py"


@dataclasses.dataclass
class Covering:
    """seconds: of the processor, of each test. tests: by file and line."""

    seconds: dict[str, float]
    tests: dict[str, dict[int, set[str]]]

    def of(self, file: str, first: int, last: int) -> set[str]:
        """The tests that execute one of these lines."""
        lines = self.tests.get(file, {})
        return set().union(*(lines.get(line, ()) for line in range(first, last + 1)))

    def of_file(self, file: str) -> set[str]:
        return set().union(*self.tests.get(file, {}).values())


def gather(root: Path, file: Path, processes: int, older: Path | None = None) -> None:
    """Runs the suite of `root` under coverage and writes what it found to `file`.

    older: such a file of other texts. Only files of tests that differ are then run, and lines that were moved are looked up; what a change
    of the package or of helpers does to the other tests is not seen.
    """
    texts = {path.relative_to(root).as_posix(): path.read_text("utf-8") for folder in ("exporter", "tests")
             for path in sorted((root / folder).rglob("*.py"))}
    known = json.loads(older.read_text()) if older is not None else {"texts": {}}
    if known["texts"].get(OWN) != texts.get(OWN):  # what it wrote then may mean something else now
        older, known = None, {"texts": {}}
    same = {name for name, text in texts.items() if known["texts"].get(name) == text}
    changed = sorted(name for name in texts.keys() - same if name.rpartition("/")[2].startswith("test_"))
    notes = _still(known, texts, same) if older is not None else []
    if changed:
        notes += _run(root, processes, changed if older is not None else [])
    file.write_text(json.dumps({**_joined(notes), "texts": texts}))


def _run(root: Path, processes: int, tests: list[str]) -> list[dict]:
    """The notes of these files of tests, of all if there are none."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, VARIABLE: folder, "PYTHONPATH": str(root), "COVERAGE_CORE": "ctrace"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutation.covering", "-p", "no:cacheprovider", "-n", str(processes),
                   "-m", "not live", *tests]  # comparisons with live Keras take half of the time, and notice what others notice, too
        done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
        print(done.stdout.strip().splitlines()[-1])
        notes = [json.loads(line) for path in sorted(Path(folder).iterdir()) for line in path.read_text().splitlines()]
    if not notes:
        raise RuntimeError(f"no test was run:\n{done.stdout[-2000:]}")
    return notes


def _still(known: dict, texts: dict[str, str], same: set[str]) -> list[dict]:
    """The notes of the tests in files that are the same, with the lines where they are now."""
    names = known["names"]
    notes = {name: {"test": name, "seconds": seconds, "lines": collections.defaultdict(list)}
             for name, seconds in known["seconds"].items() if name.split("::")[0] in same}
    heirs = _heirs(known["texts"], texts)
    for path, lines in known["lines"].items():
        for heir in heirs.get(path, ()):
            places = _moved(known["texts"][path], texts[heir])
            for line, numbers in lines.items():
                for name in {names[number] for number in numbers} & notes.keys():
                    notes[name]["lines"][heir] += places.get(int(line), [])
    return list(notes.values())


def _heirs(old: dict[str, str], new: dict[str, str]) -> dict[str, list[str]]:
    """By file, the files with its lines: itself, and new ones that have more lines of it than of others, as a part that moved has."""
    found = collections.defaultdict(list, {path: [path] for path in old.keys() & new.keys()})
    before = {path: set(text.splitlines()) for path, text in old.items() if path.startswith("exporter/")}
    for path in sorted(new.keys() - old.keys()):
        if before and path.startswith("exporter/"):
            lines = set(new[path].splitlines())
            found[max(before, key=lambda other: len(lines & before[other]))].append(path)
    return found


def _moved(old: str, new: str) -> dict[int, list[int]]:
    """Where each line is now. Lines in place of others are taken for executed by the tests of these and of the lines around them."""
    found: dict[int, list[int]] = collections.defaultdict(list)
    matcher = difflib.SequenceMatcher(None, old.splitlines(), new.splitlines(), autojunk=False)
    for tag, first, last, start, end in matcher.get_opcodes():
        if tag == "equal":
            for line in range(first, last):
                found[line + 1].append(start + line - first + 1)
        else:
            for line in range(max(first - 1, 0), last + 1):
                found[line + 1] += range(start + 1, end + 1)
    return found


def load(file: Path) -> Covering:
    content = json.loads(file.read_text())
    names = content["names"]
    tests = {path: {int(line): {names[number] for number in numbers} for line, numbers in lines.items()}
             for path, lines in content["lines"].items()}
    return Covering(content["seconds"], tests)


def _joined(notes: list[dict]) -> dict:
    """Of the notes of all tests one table: {"names", "seconds", "lines": {file: {line: [number of the name]}}}."""
    seconds = {note["test"]: note["seconds"] for note in notes if note["seconds"] is not None}
    names = sorted(seconds)
    numbers = {name: number for number, name in enumerate(names)}
    found: dict[str, dict[int, set[int]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for note in notes:
        for path, lines in note["lines"].items() if note["test"] in numbers else ():
            for line in lines:
                found[path][line].add(numbers[note["test"]])
    return {"names": names, "seconds": seconds, "lines": {path: {line: sorted(tests) for line, tests in lines.items()}
                                                          for path, lines in found.items()}}


def name_of(item: pytest.Item) -> str:
    """The name of a test, without the group that xdist adds to it in its workers."""
    group = item.get_closest_marker("xdist_group")
    return item.nodeid.removesuffix(f"@{group.args[0]}") if group else item.nodeid


class Noting:
    """Notes the lines of each test of this process, and of its forks when they end. A test that failed is not noted."""

    def __init__(self, folder: str, root: Path) -> None:
        import coverage

        self._root = os.fspath(root)
        self._coverage = coverage.Coverage(data_file=None, include=[f"{root}/exporter/*"], config_file=False)
        self._descriptor = os.open(os.path.join(folder, f"{os.getpid()}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._test = None
        self._is_good = True
        self._process = os.getpid()
        self._exit = os._exit

    def start(self) -> None:
        self._coverage.start()
        os._exit = self._ended

    def _ended(self, status: int) -> None:
        if os.getpid() != self._process and self._test is not None:
            self._write(None)
        self._exit(status)

    def _lines(self) -> dict[str, list[int]]:
        """What was executed since it was last asked; in a fork, also what its parent executed of the test before."""
        data = self._coverage._collector.data
        lines = {os.path.relpath(path, self._root): sorted(found) for path, found in data.items() if path.startswith(self._root)}
        data.clear()
        return lines

    def _write(self, seconds: float | None) -> None:
        note = {"test": self._test, "seconds": seconds, "lines": self._lines()}
        os.write(self._descriptor, json.dumps(note).encode() + b"\n")

    # Hooks.

    def pytest_runtest_logreport(self, report) -> None:
        self._is_good = self._is_good and report.passed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):
        self._lines()
        self._test, self._is_good = name_of(item), True
        began = _processor_seconds()
        result = yield
        if self._is_good:
            self._write(round(_processor_seconds() - began, 4))
        self._test = None
        return result


def _processor_seconds() -> float:
    """Of this process and its children: what a busy machine does not change."""
    return sum(sum(resource.getrusage(whose)[:2]) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def pytest_configure(config) -> None:
    is_at_work = VARIABLE in os.environ and (hasattr(config, "workerinput") or not config.getoption("numprocesses", None))
    if is_at_work:
        noting = Noting(os.environ[VARIABLE], Path(config.rootpath))
        config.pluginmanager.register(noting)
        noting.start()

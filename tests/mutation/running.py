"""Mutants run: each in a process that is forked from one which has imported everything but the package and its tests."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path

from tests.mutation.covering import Covering
from tests.mutation.mutants import Mutant

# What the package and its tests import that is not theirs; it is there once, for all mutants.
IMPORTED = ("pytest", "numpy", "h5py", "hypothesis", "jsonschema", "orjson", "google_crc32c", "fsspec", "onnx", "zipfile",
            "http.server")
MAX_TESTS, MAX_FILES, MAX_OF_ONE, MAX_SECONDS = 25, 8, 3, 20.0  # that a mutant is first tried with
MORE_TESTS, MORE_SECONDS = 600, 8.0  # that what is not noticed is tried with: every row of a table, where the first have three each
DEEP_TESTS, DEEP_SECONDS = 400, 90.0  # and then, if asked for
OUTPUT = "output.txt"  # of the last tests, in a copy of the tree
GATHERING = "an error where the tests are gathered"
REWRITE = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is there before pytest starts
PYTEST_ENDED = 64  # added to the exit status of pytest: with any other, the mutant ended the process
PATIENCE_SECONDS, PATIENCE = 15, 4  # of processor time, beside what the tests took without a change; on the wall five times that


@dataclasses.dataclass
class Result:
    """how: "killed", "survived", "equivalent", or "error" of this tool. by: the test that failed, or what else happened."""

    mutant: Mutant
    how: str
    by: str = ""
    tests: int = 0
    seconds: float = 0.0


@dataclasses.dataclass
class Run:
    """Tests to run with a changed file, or with none."""

    mutant: Mutant | None
    tests: list[str]


@contextlib.contextmanager
def temporary_folder() -> Generator[Path]:
    """Removed at the end by the process that made it alone: a mutant may let a fork run what its parent has registered for its own end."""
    folder, owner = Path(tempfile.mkdtemp()), os.getpid()
    try:
        yield folder
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)


def run_all(root: Path, folder: Path, mutants: Iterable[Mutant], covering: Covering, *, processes: int, is_deep: bool) -> Generator[Result]:
    """Gives the results as they come. In `folder` each process has a copy of the tree of its own."""
    for name in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    left = iter(mutants)
    sound: dict[str, bool] = {}
    free = [copied(root, folder / "0")]
    free += [Path(shutil.copytree(free[0], folder / str(number))) for number in range(1, processes)]  # with what is compiled
    running: dict[int, _Process] = {}
    while True:
        while free and (mutant := next(left, None)) is not None:
            process = _Process(free.pop(), mutant, stages(mutant, covering, is_deep), sound, covering.seconds)
            if process.step():
                running[process.pid] = process
            else:
                free.append(process.tree)
                yield process.result
        if not running:
            return
        ended = _ended(running)
        for process in ended:
            del running[process.pid]
            if process.step():
                running[process.pid] = process
            else:
                free.append(process.tree)
                yield process.result


def _ended(running: dict[int, _Process]) -> list[_Process]:
    """Waits until one has ended, or its time has."""
    poll = select.poll()
    for process in running.values():
        poll.register(process.descriptor, select.POLLIN | select.POLLHUP)
    until = min(process.deadline for process in running.values())
    ready = {descriptor for descriptor, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)}
    return [process for process in running.values() if process.descriptor in ready or process.deadline <= time.monotonic()]


def copied(root: Path, tree: Path) -> Path:
    """A copy of what git knows of a tree, compiled: so that what is compiled is known by its text, not its time."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if (root / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, tree / name)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPATH": str(tree)}
    quiet = {"cwd": tree, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0"], **quiet)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode", "checked-hash", "exporter"], **quiet, check=True)
    return tree


def stages(mutant: Mutant, covering: Covering, is_deep: bool) -> list[list[str]]:
    """The tests to try, in order: a few that are quick and near; then more, the nearest first, and those near that are not known to execute
    the line, as they may in processes that start afresh; if asked for, all that execute it."""
    found = set() if mutant.at_import else covering.of(mutant.file, mutant.first, mutant.last)
    near = _mirror(mutant.file)
    others = {test for test in covering.seconds if test.startswith(f"{near}::")} - found
    if not found:
        found, others = covering.of_file(mutant.file) | others, set()
    order = sorted(found, key=lambda test: (not test.startswith(f"{near}::"), covering.seconds[test]))
    first, files, functions, seconds = [], set(), {}, 0.0
    for test in order:
        file, function = test.split("::")[0], test.split("[")[0]
        functions[function] = functions.get(function, 0) + 1
        is_near = file == near
        if len(first) == MAX_TESTS or functions[function] > MAX_OF_ONE or (len(first) > MAX_TESTS // 2 and is_near):
            continue
        if (file in files or len(files) < MAX_FILES) and seconds + covering.seconds[test] <= MAX_SECONDS:
            files.add(file)
            seconds += covering.seconds[test]
            first.append(test)
    first = first or order[:1]
    more = _quick(_one_of_each_first([test for test in order if test not in set(first)], near), covering, MORE_TESTS, MORE_SECONDS)
    more += _quick(sorted(others, key=covering.seconds.__getitem__), covering, MORE_TESTS, MORE_SECONDS)
    left = found - {*first, *more}
    deep = _quick(sorted(left, key=covering.seconds.__getitem__), covering, DEEP_TESTS, DEEP_SECONDS) if is_deep else []
    return [stage for stage in (first, more, deep) if stage]


def _one_of_each_first(tests: list[str], near: str) -> list[str]:
    """The near ones, then one row of each table, then the rest: of what thousands of tests execute, rows of few tables notice less."""
    tables: set[str] = set()

    def place(test: str) -> tuple[bool, bool]:
        table = test.split("[")[0]
        is_other_row = table in tables
        tables.add(table)
        return not test.startswith(f"{near}::"), is_other_row

    return sorted(tests, key=place)


def _quick(tests: list[str], covering: Covering, most: int, limit: float) -> list[str]:
    """The first of the tests, as many as are run in that many seconds."""
    seconds = itertools.accumulate(covering.seconds[test] for test in tests)
    return [test for test, spent in zip(tests[:most], seconds) if spent <= limit]


def _mirror(file: str) -> str:
    """The file of tests that stands where a module stands: exporter/keras/config.py, tests/keras/test_config.py."""
    path = Path(file)
    return str(Path("tests", *path.parts[1:-1], f"test_{path.name}"))


class _Process:
    """A mutant in one copy of the tree, step by step."""

    def __init__(self, tree: Path, mutant: Mutant, tests: list[list[str]], sound: dict[str, bool], seconds: dict[str, float]) -> None:
        self.tree = tree
        self.result = Result(mutant, "survived")
        self.pid, self.descriptor, self.deadline = 0, -1, 0.0
        self._seconds = seconds
        self._sound = sound
        self._steps = self._judge(mutant, [list(stage) for stage in tests if stage])
        self._changed: str | None = None

    def step(self) -> bool:
        """Goes on: to the next process, or to the result (False)."""
        try:
            run = self._steps.send(self._outcome() if self.pid else None)
        except StopIteration:
            return False
        self._start(run)
        return True

    def _judge(self, mutant: Mutant, stages: list[list[str]]) -> Generator[Run, str]:
        """A test that fails also where nothing is changed says nothing."""
        if not stages:
            self.result.by = "no test executes it"
        for stage in stages:
            while stage:
                failed = yield Run(mutant, stage)
                self.result.tests += len(stage)
                if not failed:
                    break
                if failed == GATHERING and (yield Run(None, stage)) == GATHERING:
                    failed = "error: the tests cannot be gathered, whatever is changed"
                if failed.startswith("error"):
                    self.result.how, self.result.by = "error", failed
                    return
                if failed in self._seconds and failed not in self._sound:
                    self._sound[failed] = not (yield Run(None, [failed]))
                if self._sound.get(failed, True):
                    self.result.how, self.result.by = "killed", failed
                    return
                stage.remove(failed)

    def _start(self, run: Run) -> None:
        mutant = run.mutant
        if mutant is not None:
            (self.tree / mutant.file).write_text(mutant.changed, "utf-8")
            self._changed = mutant.file
        expected = sum(self._seconds[test] for test in run.tests)
        limit = PATIENCE_SECONDS + PATIENCE * expected
        self.deadline = time.monotonic() + 5 * limit
        self._began = time.monotonic()
        self.descriptor, sending = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = PYTEST_ENDED + 3
            try:
                os.close(self.descriptor)
                resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
                status = PYTEST_ENDED + _run_tests(self.tree, run.tests, sending)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(sending)

    def _outcome(self) -> str:
        """Which test failed; or what else happened, where something did."""
        is_late = not select.select([self.descriptor], [], [], 0)[0]
        said = b"" if is_late else os.read(self.descriptor, 1 << 16)
        os.close(self.descriptor)
        if is_late or said:
            _kill(self.pid)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        _kill(self.pid)  # what it has left running
        if self._changed is not None:
            self._restore()
        self.result.seconds += time.monotonic() - self._began
        if said:
            return said.decode()
        if is_late or status < 0:
            return "a limit of time" if is_late or -status in (signal.SIGXCPU, signal.SIGKILL) else f"a crash (signal {-status})"
        if not PYTEST_ENDED <= status <= PYTEST_ENDED + 5:
            return f"an end of the process (status {status})"
        return {0: "", 2: GATHERING, 4: GATHERING}.get(status - PYTEST_ENDED, f"error: pytest ended with {status - PYTEST_ENDED}")

    def _restore(self) -> None:
        (self.tree / self._changed).write_text(self.result.mutant.original, "utf-8")
        self._changed = None


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _run_tests(tree: Path, tests: list[str], descriptor: int) -> int:
    """In the forked process: runs them in this order up to the first that fails, and sends its name."""
    import pytest

    os.setsid()
    os.chdir(tree)
    for stream, name, flags in ((0, os.devnull, os.O_RDONLY), (1, OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        os.dup2(os.open(name, flags), stream)
    os.dup2(1, 2)
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", str(Path(__file__).parents[2])))]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "exporter")]:
        del sys.modules[name]
    place = {test: number for number, test in enumerate(tests)}

    class Chosen:
        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(self, items):
            items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])

        def pytest_runtest_logreport(self, report):
            if report.failed:
                os.write(descriptor, report.nodeid.encode())
                os._exit(1)

    functions = dict.fromkeys(test.split("[")[0] for test in tests)
    return int(pytest.main(["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-W", REWRITE, *functions], plugins=[Chosen()]))

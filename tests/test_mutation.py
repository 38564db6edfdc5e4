"""The tool that changes lines and runs the tests: what it changes, what it leaves alone, and that it tells what is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import types

import pytest

from tests.make.layers import ROOT
from tests.mutation import covering
from tests.mutation.covering import Covering
from tests.mutation.equivalents import Equivalents
from tests.mutation.mutants import mutants, sample
from tests.mutation.running import MAX_OF_ONE, MORE_TESTS, stages


def changes(text):
    """{(kind, changed line without indentation)}"""
    return {(mutant.kind, mutant.lines[1]) for mutant in mutants("exporter/x.py", textwrap.dedent(text))}


def test_each_kind_of_change():
    assert changes("def f(a, b):\n    return a < b\n") == {("comparison", "return a <= b"), ("comparison", "return a >= b")}
    assert changes("def f(a, b):\n    return a and b\n") == {
        ("and/or", "return ((a) or (b))"), ("operand", "return ((a))"), ("operand", "return ((b))")}
    assert changes("def f(a):\n    return a + 2\n") == {
        ("operator", "return ((a) - (2))"), ("operand", "return (a)"), ("operand", "return (2)"), ("constant", "return a + 3"),
        ("constant", "return a + 1")}
    assert changes("def f(a):\n    return not a\n") == {("sign", "return (a)")}
    assert changes("def f(a, b):\n    g(a, b)\n") == {("swapped", "g(b, a)"), ("call", "pass")}
    assert changes("def f(a, b):\n    return max(a, np.minimum(a, b)), f(b, a)\n") == {
        ("swapped", "return max(a, np.minimum(a, b)), f(a, b)")}, "of these the order says nothing"
    assert changes("def f(a):\n    if a:\n        raise ValueError(a)\n") == {("condition", "if not (a):"), ("raise", "pass")}
    assert changes("def f(a):\n    return [b for b in a if b]\n") == {("condition", "return [b for b in a if True]")}
    assert ("constant", "X = False") in changes("X = True\n")


def test_what_is_the_same_in_any_order_is_not_swapped():
    assert changes("def f(a, b):\n    return max(a, b)\n") == set()


def test_of_a_limit_it_is_tested_that_there_is_one_not_where():
    assert changes("MAX_DEPTH = 9\n") == set()
    assert changes("def f(a):\n    return a > MAX_DEPTH\n") == {("comparison", "return a <= MAX_DEPTH")}
    assert changes("def f(a):\n    return a == MAX_DEPTH\n") == {("comparison", "return a != MAX_DEPTH")}


def test_words_and_types_are_left_alone():
    assert not changes('''
        """Words."""
        from typing import TYPE_CHECKING

        if TYPE_CHECKING:
            import other

        x: int | None
        Either = First | Second | Third

        class Named(Protocol):
            def name(self, short: bool = False) -> str: ...

        def f(a: list[int] | None, b: tuple[int, 1]) -> int | str:
            """Words: 1 + 1."""
            assert a is not None
            return f"{a + 1} of {b!r:>3}", "words", zip(a, strict=True), printable(b, 80)
    ''')


def test_a_limit_is_not_changed_by_one():
    sizes = (("operator", "((64) >> (20))"), ("operand", "(64)"), ("operand", "(20)"))
    assert changes("MAX_SIZE, MAX_COUNT = 64 << 20, 16\n") == {(kind, f"MAX_SIZE, MAX_COUNT = {size}, 16") for kind, size in sizes}


def test_lengths_that_may_differ_are_no_words():
    assert changes("def f(a):\n    return zip(a, strict=False)\n") == {("constant", "return zip(a, strict=True)")}


def test_letters_of_several_bytes_move_nothing():
    assert changes("def f(a):\n    return 'ключ', a == 1\n") >= {("comparison", "return 'ключ', a != 1")}


def test_a_sample_has_one_mutant_a_line_and_depends_on_the_seed_alone():
    files = {f"exporter/{name}.py": f"def {name}(a, b):\n" + "".join(f"    a = a + b > {i}\n" for i in range(50)) for name in "abc"}
    found = sample(files, 40, "seed")
    assert len({(mutant.file, mutant.line) for mutant in found}) == len(found) == 40
    assert found == sample(files, 40, "seed") != sample(files, 40, "other")


def test_what_a_few_tests_do_not_notice_is_tried_with_every_row_of_a_table():
    """The first have few rows of each; the rest of them may be the only tests of a branch."""
    rows = [f"tests/test_x.py::test_x[{number}]" for number in range(20)]
    slow, elsewhere = "tests/test_ways.py::test_slow", "tests/test_ways.py::test_other"
    seconds = {row: 0.01 + number / 1000 for number, row in enumerate(rows)} | {slow: 1000.0, elsewhere: 0.02}
    known = Covering(seconds, {"exporter/x.py": {2: set(seconds)}})
    mutant = mutants("exporter/x.py", "def f(a):\n    return not a\n")[0]
    first, more = stages(mutant, known, is_deep=False)
    assert first == [*rows[:MAX_OF_ONE], elsewhere]
    assert more == rows[MAX_OF_ONE:]
    assert stages(mutant, known, is_deep=True) == [first, more]
    apart = "tests/test_x.py::test_in_a_process_of_its_own"
    assert stages(mutant, Covering({**seconds, apart: 0.5}, known.tests), is_deep=False) == [first, [*more, apart]]


def test_a_row_of_each_table_is_tried_before_all_rows_of_one():
    """Of what thousands of tests execute, the quickest are the rows of a few tables."""
    tables = {f"tests/test_{table}.py::test[{row}]": 0.001 * (table + 1) for table in range(20) for row in range(40)}
    known = Covering(tables, {"exporter/z.py": {2: set(tables)}})
    first, more = stages(mutants("exporter/z.py", "def f(a):\n    return not a\n")[0], known, is_deep=False)
    assert {test.split("[")[0] for test in (*first, *more[:20])} == {test.split("[")[0] for test in tables}
    assert len(more) == MORE_TESTS


def test_a_test_is_known_by_its_name_in_whatever_group_it_is():
    for group, nodeid, name in (("package", "a::b@package", "a::b"), ("package", "a::b", "a::b"), (None, "a::b[@c]", "a::b[@c]")):
        mark = types.SimpleNamespace(args=(group,)) if group else None
        assert covering.name_of(types.SimpleNamespace(nodeid=nodeid, get_closest_marker=lambda kind, mark=mark: mark)) == name


def test_lines_that_moved_keep_their_tests(tmp_path, monkeypatch):
    """Also those that are in another file now. Only the files of tests that were changed are run again."""
    texts = {"exporter/x.py": "a\nb\nc\n", "tests/test_x.py": "x", "tests/test_y.py": "y", "tests/helper.py": "h"}

    def put():
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)

    def ran(root, processes, tests):
        asked.append(tests)
        return [{"test": f"{name}::test", "seconds": 1, "lines": {"exporter/x.py": [3]}} for name in tests or ["tests/test_x.py"]]

    asked = []
    monkeypatch.setattr(covering, "_run", ran)
    put()
    covering.gather(tmp_path, tmp_path / "first", 1)
    assert covering.load(tmp_path / "first").tests == {"exporter/x.py": {3: {"tests/test_x.py::test"}}}
    texts |= {"exporter/x.py": "new\na\nb\nother\nc\n", "exporter/part.py": "c\n", "tests/test_y.py": "z", "tests/helper.py": "i"}
    put()
    covering.gather(tmp_path, tmp_path / "second", 1, tmp_path / "first")
    assert asked == [[], ["tests/test_y.py"]]
    both = {"tests/test_x.py::test", "tests/test_y.py::test"}
    assert covering.load(tmp_path / "second").tests == {"exporter/x.py": {
        3: {"tests/test_y.py::test"}, 4: {"tests/test_x.py::test"}, 5: {"tests/test_x.py::test"}},
        "exporter/part.py": {1: {"tests/test_x.py::test"}}}
    assert covering.load(tmp_path / "second").seconds.keys() == both


def test_what_is_listed_as_equivalent_has_a_reason_and_counts_as_long_as_the_line_is_there(tmp_path):
    known = Equivalents.read()
    assert all(was != now and len(reason) > 10 for (_, was, now), reason in known.reasons.items())
    (mutant, *_), text = mutants("exporter/x.py", "X = 1\n"), "exporter/x.py"
    (tmp_path / "e.toml").write_text(f"[[equivalent]]\nfile = '{text}'\nwas = 'X = 1'\nreason = 'whatever it is'\n")
    known = Equivalents.read(tmp_path / "e.toml")
    assert known.reason(mutant) == "whatever it is"
    assert known.stale({text: "X = 1\n"}) == []
    assert known.stale({text: "X = 2\n"}) == known.stale({}) == [f"{text}: X = 1"]


FORK = """
import atexit, os, sys
from tests.mutation.running import temporary_folder

with temporary_folder() as folder:
    if (child := os.fork()) == 0:
        if sys.argv[1] == "functions":
            atexit._run_exitfuncs()
            os._exit(0)
        sys.exit(0)
    os.waitpid(child, 0)
    print(folder.is_dir())
print(folder.is_dir())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the tool forks")
@pytest.mark.parametrize("end", ["functions", "program"])
def test_a_fork_that_ends_as_a_program_does_leaves_the_copies(end):
    done = subprocess.run([sys.executable, "-c", FORK, end], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"], "there after the fork, gone at the end"


PACKAGE = """
import os


def seen(a):
    return a + 1


def unseen(a):
    return a * 2


def waits(a):
    while a > 0:
        a -= 1
    return 0


def ends(a):
    if a > 1:
        os._exit(0)
    return a
"""
TESTS = """
import pytest
from exporter.x import ends, seen, unseen, waits

one = pytest.mark.parametrize("one", [1])


@one
def test_seen(one):
    assert seen(one) == 2


@one
def test_unseen(one):
    unseen(one)


@one
def test_waits(one):
    assert waits(one) == 0


@one
def test_ends(one):
    assert ends(one) == 1
"""
PROGRAM = """
import json, sys
from pathlib import Path
from tests.mutation.covering import Covering
from tests.mutation.mutants import mutants
from tests.mutation.running import run_all

if __name__ == "__main__":
    root = Path(sys.argv[1])
    text = (root / "exporter" / "x.py").read_text()
    names = sys.argv[3].split(",")
    tests = {f"tests/test_x.py::test_{name}[1]": 0.01 for name in names}
    covering = Covering(tests, {"exporter/x.py": {line: set(tests) for line in range(1, 20)}})
    wanted = [mutant for mutant in mutants("exporter/x.py", text) if mutant.lines[1] in sys.argv[4:]]
    results = run_all(root, Path(sys.argv[2]), wanted, covering, processes=1, is_deep=True)
    print(json.dumps({result.mutant.lines[1]: [result.how, result.by] for result in results}))
"""


@pytest.mark.thorough("much time: mutants in copies of a package, each with its tests")
@pytest.mark.skipif(sys.platform == "win32", reason="the tool forks")
@pytest.mark.parametrize("are_there", [True, False])
def test_it_tells_what_the_tests_notice(tmp_path, are_there):
    """Tests that cannot be gathered notice nothing."""
    root = tmp_path / "root"
    for name, text in {"exporter/__init__.py": "", "tests/__init__.py": "", "exporter/x.py": PACKAGE, "tests/test_x.py": TESTS}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    lines = ["return ((a) - (1))", "return a * 3", "while a >= 0:", "return 1", "if a >= 1:"]
    names = "seen,unseen,waits,ends" if are_there else "seen,gone"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(root), str(tmp_path / "copies"), names, *lines], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    if not are_there:
        assert {how for how, _ in json.loads(done.stdout).values()} == {"error"}
        return
    assert json.loads(done.stdout) == {
        "return ((a) - (1))": ["killed", "tests/test_x.py::test_seen[1]"], "return a * 3": ["survived", ""],
        "while a >= 0:": ["survived", ""], "return 1": ["killed", "tests/test_x.py::test_waits[1]"],
        "if a >= 1:": ["killed", "an end of the process (status 0)"]}
    assert "return a + 1" in (root / "exporter" / "x.py").read_text()

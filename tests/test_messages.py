"""The sentences that the package says, as one list under review: messages of errors, hints, warnings, notes and help texts.

They are collected from the source, so that a message is in the list before any test provokes it. Where one changes, this test fails and
the change is seen as a line of tests/golden/messages.txt. To renew the list after looking at the difference:

    python -m tests.test_messages
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator

from tests.make.layers import ROOT
from tests.make.package import PACKAGE, one_worker, tree_of

GOLDEN = ROOT / "tests" / "golden" / "messages.txt"
SPEAKING = re.compile(r"(Error|Extra)$")       # classes whose first argument is a message
SPEAKING_KEYWORDS = {"hint", "help", "what", "reason", "description", "epilog"}
WORDS_OF_A_SENTENCE = 3
NOT_MESSAGES = {"exporter/targets/kit.py"}     # templates of files that are written


def docstrings(nodes: list[ast.AST]) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.add(node.value)
    return found


def text_of(node: ast.expr) -> str | None:
    """The string that an expression spells, {} for what is filled in; None where it spells none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def said_directly(node: ast.AST) -> set[ast.AST]:
    """The strings that are messages whatever they look like: first arguments of errors, and what `hint=` and its like are given."""
    found: set[ast.AST] = set()
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [word.value for word in node.keywords if word.arg in SPEAKING_KEYWORDS]
        for value in [*node.args[:1], *given] if SPEAKING.search(name) else given:
            found.update(value.values if isinstance(value, ast.BoolOp) else [value])
    return found


def is_sentence(text: str) -> bool:
    return len(re.findall(r"(?<![\w{<])[A-Za-z][a-z']*(?=[\s,.:;]|$)", text)) >= WORDS_OF_A_SENTENCE and " " in text.strip()


def messages_of(tree: ast.AST) -> Iterator[str]:
    nodes = list(ast.walk(tree))
    skipped = docstrings(nodes)
    direct: set[ast.AST] = set()
    for node in nodes:
        direct |= said_directly(node)
        if isinstance(node, ast.JoinedStr):
            skipped.update(part for part in node.values if isinstance(part, ast.Constant))
            skipped.update(part.format_spec for part in node.values if isinstance(part, ast.FormattedValue) and part.format_spec)
    for node in nodes:
        text = None if node in skipped or not isinstance(node, ast.expr) else text_of(node)
        if text and (is_sentence(text) or (node in direct and " " in text)):
            yield re.sub(r"\s+", " ", text).strip()


def collected() -> str:
    lines: list[str] = []
    for path in PACKAGE:
        name = path.relative_to(ROOT).as_posix()
        said = sorted(set(messages_of(tree_of(path)))) if name not in NOT_MESSAGES else []
        if said:
            lines += [f"# {name}", *said, ""]
    return "\n".join(lines)


@one_worker
def test_a_change_of_words_is_seen():
    known, now = GOLDEN.read_text(encoding="utf-8"), collected()
    changed = "\n".join(difflib.unified_diff(known.splitlines(), now.splitlines(), "the list", "the source", n=0, lineterm=""))
    assert known == now, f"messages changed; read them as a user would, then run `python -m tests.test_messages`:\n{changed}"


def test_the_collector_finds_what_it_should():
    source = '''
def f(path, n):
    """A docstring is no message."""
    raise FormatError(f"expected {n} bytes, got {len(path)}", hint="copy it again" if n else OTHER)
TABLE = {"key": "a reason in a table", "short key": 1}
'''
    assert sorted(messages_of(ast.parse(source))) == ["a reason in a table", "copy it again", "expected {} bytes, got {}"]


if __name__ == "__main__":
    GOLDEN.write_text(collected(), encoding="utf-8")

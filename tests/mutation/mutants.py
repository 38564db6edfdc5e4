"""Mutants: one small change of one line, such as people make by mistake."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import itertools
import random
from collections import defaultdict

COMPARED = {ast.Lt: ("<=", ">="), ast.LtE: ("<", ">"), ast.Gt: (">=", "<="), ast.GtE: (">", "<"), ast.Eq: ("!=",), ast.NotEq: ("==",),
            ast.Is: ("is not",), ast.IsNot: ("is",), ast.In: ("not in",), ast.NotIn: ("in",)}
COMBINED = {ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.LShift: ">>", ast.RShift: "<<",
            ast.BitAnd: "|", ast.BitOr: "&", ast.Pow: "*"}

# Whose first two arguments may be swapped.
SYMMETRIC = {"max", "min", "maximum", "minimum", "logaddexp", "multiply", "array_equal", "gcd", "suppress", "coarser", "_product",
             "check_one_standard_input", "same", "_same_in_float32", "_in_one_order"}

# kind, node, statement that it is part of, whether that runs at import, new text of node
Change = tuple[str, ast.expr | ast.stmt, ast.stmt, bool, str]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A changed file. line: the first of what is changed. first, last: of the statement it is part of (of its head, where it has a body).
    at_import: runs when the module is imported, not in a function."""

    file: str
    line: int
    first: int
    last: int
    at_import: bool
    kind: str
    original: str
    changed: str

    @property
    def lines(self) -> tuple[str, str]:
        """The lines that differ, before and after, without indentation."""
        marked = list(difflib.unified_diff(self.original.splitlines(), self.changed.splitlines(), n=0, lineterm=""))[3:]
        return tuple("\n".join(line[1:].strip() for line in marked if line[0] == sign) for sign in "-+")

    @property
    def diff(self) -> str:
        lines = difflib.unified_diff(self.original.splitlines(), self.changed.splitlines(), self.file, self.file, n=1, lineterm="")
        return "\n".join(lines)


def sample(files: dict[str, str], count: int, seed: str) -> list[Mutant]:
    """At most one mutant a line, of `count` lines of `files` (text by name)."""
    by_line = defaultdict(list)
    for file, text in sorted(files.items()):
        for change in _changes(text):
            by_line[file, change[1].lineno].append(change)
    chance = random.Random(seed)
    lines = sorted(by_line)
    chance.shuffle(lines)
    found = (_one(file, files[file], by_line[file, line], chance) for file, line in lines)
    return list(itertools.islice((mutant for mutant in found if mutant is not None), count))


def _one(file: str, text: str, changes: list[Change], chance: random.Random) -> Mutant | None:
    """One of the changes of a line that is another program: each kind is as likely as another."""
    weights = {change[0]: 0 for change in changes}
    for change in changes:
        weights[change[0]] += 1
    order = sorted(changes, key=lambda change: chance.random() ** weights[change[0]])
    return next((mutant for change in reversed(order) if (mutant := _mutant(file, text, change)) is not None), None)


def mutants(file: str, text: str) -> list[Mutant]:
    """All mutants of a file."""
    return [mutant for change in _changes(text) if (mutant := _mutant(file, text, change)) is not None]


def _changes(text: str) -> list[Change]:
    finder = _Finder(text)
    finder.visit(ast.parse(text))
    return finder.found


def _mutant(file: str, text: str, change: Change) -> Mutant | None:
    """None for what is no program, or the same one."""
    kind, node, statement, at_import, new = change
    data = text.encode().splitlines(keepends=True)
    head = b"".join(data[: node.lineno - 1]) + data[node.lineno - 1][: node.col_offset]
    tail = data[node.end_lineno - 1][node.end_col_offset :] + b"".join(data[node.end_lineno :])
    changed = (head + new.encode() + tail).decode()
    try:
        if ast.dump(ast.parse(changed)) == ast.dump(ast.parse(text)):
            return None
    except SyntaxError:
        return None
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if isinstance(body, list) else statement.end_lineno
    return Mutant(file, node.lineno, statement.lineno, max(last, statement.lineno), at_import, kind, text, changed)


class _Finder(ast.NodeVisitor):
    """Collects the changes of a module."""

    def __init__(self, text: str) -> None:
        self._lines = text.encode().splitlines(keepends=True)
        self._statement: ast.stmt | None = None
        self._functions = 0
        self._is_limit = False
        self.found: list[Change] = []

    def visit(self, node: ast.AST) -> None:
        before = self._statement
        if isinstance(node, ast.stmt):
            self._statement = node
        super().visit(node)
        self._statement = before

    def _add(self, kind: str, node: ast.expr | ast.stmt, new: str) -> None:
        self.found.append((kind, node, self._statement, self._functions == 0, new))

    def _said(self, node: ast.AST) -> str:
        data = self._lines[node.lineno - 1 : node.end_lineno]
        data[-1] = data[-1][: node.end_col_offset]
        data[0] = data[0][node.col_offset :]
        return b"".join(data).decode()

    # What is not changed: words, types, what only a type checker reads, and by one what is called MAX_… or compared with it: where exactly
    # a limit against bombs and circles lies is nobody's contract.

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        before = self._is_limit
        names = [each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        self._is_limit = bool(names) and all(name.startswith("MAX_") for name in names)
        self.visit(node.value)
        self._is_limit = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if any(ast.unparse(base) == "Protocol" for base in node.bases):  # only a type checker reads it
            return
        for child in node.body:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)):
            self.visit(default)
        self._functions += 1
        for child in node.body:
            self.visit(child)
        self._functions -= 1

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._functions += 1
        self.visit(node.body)
        self._functions -= 1

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict" or ast.unparse(node.value) != "True":  # zip(strict=True) says what holds, like assert
            self.visit(node.value)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        for child in node.body:
            self.visit(child)

    # What is changed.

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add("raise", node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add("continue", node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._add("call", node, "pass")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if self._said(node.test).endswith("TYPE_CHECKING"):
            return
        self._condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._add("condition", test, "True")
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        if not isinstance(test, (ast.Compare, ast.UnaryOp)):
            self._add("condition", test, f"not ({self._said(test)})")

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [self._said(side) for side in (node.left, *node.comparators)]
        signs = [self._said_sign(sign) for sign in node.ops]
        is_limit = any(isinstance(name, ast.Name) and name.id.startswith("MAX_") for name in ast.walk(node))
        for i, sign in enumerate(node.ops):
            others = COMPARED[type(sign)]
            for new in others[1:] if is_limit and len(others) > 1 else others:  # the first differs for the limit itself alone
                parts = [sides[0]]
                for j, side in enumerate(sides[1:]):
                    parts += [new if j == i else signs[j], side]
                self._add("comparison", node, " ".join(parts))
        self.generic_visit(node)

    @staticmethod
    def _said_sign(sign: ast.cmpop) -> str:
        return ast.unparse(ast.Compare(ast.Name("a"), [sign], [ast.Name("b")]))[2:-2]

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        values = [self._said(value) for value in node.values]
        sign = " and " if isinstance(node.op, ast.And) else " or "
        other = " or " if sign == " and " else " and "
        self._add("and/or", node, f"({other.join(f'({value})' for value in values)})")
        for i in range(len(values)):
            left = [f"({value})" for j, value in enumerate(values) if j != i]
            self._add("operand", node, f"({sign.join(left)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.BitOr) and all(name[:1].isupper() and not name.isupper() for name in ast.unparse(node).split(" | ")):
            return  # a name for several types
        left, right = self._said(node.left), self._said(node.right)
        is_text = any(isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, (str, bytes)))
                      for side in (node.left, node.right))
        if type(node.op) in COMBINED and not is_text:
            self._add("operator", node, f"(({left}) {COMBINED[type(node.op)]} ({right}))")
        self._add("operand", node, f"({left})")
        self._add("operand", node, f"({right})")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in COMBINED:
            self._add("operator", node, f"{self._said(node.target)} {COMBINED[type(node.op)]}= {self._said(node.value)}")
        self.visit(node.value)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
            self._add("sign", node, f"({self._said(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add("constant", node, str(not value))
        elif isinstance(value, int) and not self._is_limit:
            for new in (value + 1, value - 1):
                self._add("constant", node, str(new) if new >= 0 else f"({new})")
        elif isinstance(value, float):
            self._add("constant", node, repr(value * 2 if value else 1.0))

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "printable":
            self.visit(node.args[0])  # the other is where long words are cut
            return
        if len(node.args) >= 2 and name not in SYMMETRIC and not any(isinstance(arg, ast.Starred) for arg in node.args[:2]):
            first, second = (self._said(arg) for arg in node.args[:2])
            call = self._said(node)
            start = len(self._said(node.func))
            at = call.index(first, start)
            then = call.index(second, at + len(first))
            swapped = call[:at] + second + call[at + len(first) : then] + first + call[then + len(second) :]
            self._add("swapped", node, swapped)
        self.generic_visit(node)

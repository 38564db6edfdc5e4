"""Makes docs/cli.md from the parsers of the commands, and docs/api.md from the docstrings of the public names.

    python docs/make_reference.py
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import exporter
from exporter.commands.diagnose import diagnose_parser
from exporter.commands.evaluate import eval_parser
from exporter.commands.export import export_parser
from exporter.commands.verify import verify_parser

HERE = Path(__file__).resolve().parent
MADE = "<!-- Made by docs/make_reference.py. -->\n"
PARSERS: tuple[Callable[[], argparse.ArgumentParser], ...] = (export_parser, diagnose_parser, verify_parser, eval_parser)
CLI_HEAD = """# The commands

stdout is data, stderr is talk. Exit status: 0 fine, 1 refused or found something (the reason is on stderr), 2 usage. Options may
stand anywhere on a command line and may be abbreviated as long as they stay unambiguous.
"""
API_HEAD = """# The Python API

`import exporter` takes a few milliseconds: each name is imported when it is first used. Every error that the package raises on
purpose is an `exporter.ExporterError` with `what`, `where` and `hint`.
"""


def commands() -> str:
    """The text of docs/cli.md."""
    parts = [MADE, CLI_HEAD]
    for make in PARSERS:
        parser = make()
        parts.append(f"\n## {parser.prog}\n\n{_prose(parser.description or '')}\n")
        for group in parser._action_groups:
            rows = [_row(action) for action in group._group_actions if action.help is not argparse.SUPPRESS]
            if rows:
                title = (group.title or "").capitalize()
                parts.append(f"\n### {parser.prog}: {title.lower()}\n\n| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
        if parser.epilog:
            parts.append(f"\n```text\n{parser.epilog.strip()}\n```\n")
    return "".join(parts)


def _row(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else _metavar(action)
    names = ", ".join(f"`{name}{' ' + value if value else ''}`" for name in action.option_strings) or f"`{value}`"
    filled = {"default": action.default, "prog": "bn-export"}
    return f"| {names.replace('|', chr(92) + '|')} | {_prose((action.help or '') % filled).replace('|', chr(92) + '|')} |"


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper()


def _prose(text: str) -> str:
    return " ".join(text.split())


def api() -> str:
    """The text of docs/api.md."""
    parts = [MADE, API_HEAD]
    for name in exporter.__all__:
        parts.append("\n" + "\n".join(_entry(name, getattr(exporter, name))) + "\n")
    return "".join(parts)


def _entry(name: str, value: object) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    if inspect.isclass(value) and issubclass(value, Exception):
        parent = value.__mro__[1].__name__
        yield f"An exception, a kind of `{parent}`."
        yield ""
    elif callable(value):
        yield f"```python\nexporter.{name}{_signature(value)}\n```"
        yield ""
    yield f"```text\n{inspect.cleandoc(value.__doc__ or '')}\n```"
    if inspect.isclass(value) and not issubclass(value, Exception):
        for member, method in sorted(vars(value).items()):
            function = method.fget if isinstance(method, property) else method
            if member.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
                continue
            kind = "" if isinstance(method, property) else _signature(function)
            yield f"\n**`{name}.{member}{kind}`** {_prose(function.__doc__)}"


def _signature(value: Callable[..., object]) -> str:
    text = re.sub(r"""(: |-> )(["'])(.*?)\2(?= = |, |\)|$)""", r"\1\3", str(inspect.signature(value)))  # of annotations alone
    text = re.sub(r"<function [\w.]*?(<lambda>|\w+) at 0x[0-9a-f]+>", "...", text)
    return re.sub(r"<factory>", "...", text)


def main() -> None:
    (HERE / "cli.md").write_text(commands(), "utf-8")
    (HERE / "api.md").write_text(api(), "utf-8")


if __name__ == "__main__":
    main()

"""Generates docs/cli.md from the parsers of the commands, and docs/api.md from the docstrings of the public names.

    python docs/make_reference.py
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import exporter
from exporter.commands.diagnose import diagnose_parser
from exporter.commands.evaluate import eval_parser
from exporter.commands.export import export_parser
from exporter.commands.verify import verify_parser

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from short_lines import short  # noqa: E402

MADE = "<!-- Made by docs/make_reference.py. -->\n"
PARSERS: tuple[Callable[[], argparse.ArgumentParser], ...] = (export_parser, diagnose_parser, verify_parser, eval_parser)
READING = "reading"  # the title of the options that all commands have
CLI_HEAD = """# The commands

Results go to stdout, messages to stderr. Exit status: 0 fine, 1 refused or found something (the reason is on stderr), 2 usage. Options may
appear anywhere on a command line and may be abbreviated as long as they are unambiguous. `--help` prints what is below and `--version` the
version; `--json` prints the result as JSON, `--verbose` a line for each layer or model, and `--places` the layers around each batch norm.

## Shell completion

`--print-completion` of each command prints its completion script for bash, zsh or tcsh (`pip install 'bn-export[completion]'`):

```bash
# bash; then start a new shell
bn-export --print-completion bash > ~/.local/share/bash-completion/completions/bn-export
# zsh, if ~/.zfunc is in $fpath
bn-export --print-completion zsh > ~/.zfunc/_bn-export
```
"""
FLAGS_HEAD = """
## Which page explains which flag

| flag | commands | explained in |
|---|---|---|
"""
PAGES = {  # the page that explains a flag in its context
    "cli.md": ("--help", "--version", "--json", "--verbose", "--places", "--print-completion"),
    "reading.md": ("--epsilon", "--architecture", "--layers", "--skip-unresolved", "--effective-epsilon", "--stored-statistics", "--ema",
                   "--keras-version", "--backend"),
    "targets.md": ("--no-vectors", "--names", "--folded", "--axis", "--plain"),
    "folding.md": ("--fold",),
    "many.md": ("--out-dir", "--suffix", "--jobs", "--dask", "--force", "--report"),
    "tutorial-differ.md": ("--layer", "--input", "--output", "--gamma", "--beta", "--mean", "--variance", "--channel", "--dtype",
                           "--explain", "--list", "--fast"),
    "tutorial-port.md": ("--map", "--live"),
}
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
            if rows and (group.title != READING or make is PARSERS[0]):
                parts.append(f"\n### {parser.prog}: {group.title}\n\n| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
            elif rows:
                parts.append(f"\n### {parser.prog}: {READING}\n\nAs for [{PARSERS[0]().prog}](#bn-export-reading).\n")
        if parser.epilog:
            parts.append(f"\n```text\n{parser.epilog.strip()}\n```\n")
    parts += [FLAGS_HEAD, *(f"| `{flag}` | {', '.join(names)} | {_page(flag)} |\n" for flag, names in sorted(flags().items()))]
    return short("".join(parts))


def flags() -> dict[str, list[str]]:
    """Each long flag, and the commands that have it."""
    found: dict[str, list[str]] = {}
    for make in PARSERS:
        parser = make()
        for action in parser._actions:
            for flag in action.option_strings:
                if flag.startswith("--"):
                    found.setdefault(flag, []).append(f"`{parser.prog}`")
    return found


def _page(flag: str) -> str:
    page = next((page for page, explained in PAGES.items() if flag in explained), None)
    if page is None:
        raise SystemExit(f"no page explains {flag}: describe it in docs/, and add the page to PAGES")
    return f"[{page.removesuffix('.md')}]({page})"


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
    return short("".join(parts))


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

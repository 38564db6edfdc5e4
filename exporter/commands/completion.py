"""Completion in shells: --print-completion prints the script that shtab makes from a command's own parser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from exporter.errors import MissingExtra

SHELLS = ("bash", "zsh", "tcsh")
FILES = frozenset({"words", "bundle", "input", "out", "output", "other", "architecture", "report"})
FOLDERS = frozenset({"out_dir"})


class PrintCompletion(argparse.Action):
    """Prints the completion script and ends the command, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: str | Sequence[Any] | None,
                 option_string: str | None = None) -> None:
        try:
            import shtab
        except ImportError:
            raise MissingExtra("shtab", "completion", "shell completion") from None
        for action in parser._actions:
            if action.dest in FILES | FOLDERS:
                action.complete = shtab.FILE if action.dest in FILES else shtab.DIRECTORY  # type: ignore[attr-defined]  # shtab's own
        print(shtab.complete(parser, shell=str(values)))
        parser.exit()


def add_completion(parser: argparse.ArgumentParser) -> None:
    """The option that prints the completion script of a command."""
    parser.add_argument("--print-completion", choices=SHELLS, action=PrintCompletion,
                        help="print the completion script for a shell; requires the extra 'completion'")

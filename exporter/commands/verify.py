"""bn-verify: arguments, printing, exit codes. 0 nothing differs, 1 something does (or refused), 2 usage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from exporter.__about__ import __version__
from exporter.commands.shared import add_reading_options, main, read_options, warn
from exporter.errors import UsageError, printable

if TYPE_CHECKING:
    from exporter.diagnosis.comparison import Check, Difference


def verify_command() -> NoReturn:
    """bn-verify"""
    main(verify)


def verify(words: Sequence[str] | None = None) -> int:
    """bn-verify BUNDLE [MODEL]"""
    args = verify_parser().parse_args(words)
    if args.live and args.model is None:
        raise UsageError("--live needs the MODEL whose layers are to be run")
    from exporter.diagnosis import comparison
    from exporter.files.remote import place_for
    from exporter.pipeline.read import load, read_in_child

    bundle = load(args.bundle)
    warn(bundle.warnings)
    report: dict[str, Any] = {"bundle": args.bundle, "layers": len(bundle)}
    checks = comparison.check_vectors(bundle)
    report["vectors"] = _rows(checks)
    text = [_table("the bundle's own vectors", checks, len(bundle) - len(checks), "without vectors")]
    passed = all(check.passed for check in checks)
    if args.model is not None and not args.live:
        model = read_in_child(place_for(args.model), read_options(args), fork=True)
        differences = comparison.compare(bundle, model)
        report["differences"] = [dataclasses.asdict(difference) for difference in differences]
        text.append(_differences(differences, len(bundle), args.model))
        passed = passed and not differences
    if args.live:
        from exporter.diagnosis.live import check_live

        live, absent = check_live(bundle, place_for(args.model))
        report["live"], report["not_found_live"] = _rows(live), absent
        text.append(_table("the real layers", live, len(absent), f"not found in the model: {', '.join(map(printable, absent[:5]))}"))
        passed = passed and not absent and all(check.passed for check in live)
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if args.json else "\n".join(text))
    return 0 if passed else 1


def _rows(checks: list[Check]) -> list[dict[str, Any]]:
    rows = [{**dataclasses.asdict(check), "passed": check.passed} for check in checks]
    return [{key: str(value) if value in (math.inf, -math.inf) else value for key, value in row.items()} for row in rows]


def _table(what: str, checks: list[Check], others: int, why: str) -> str:
    good = sum(check.passed for check in checks)
    lines = [f"{what}: {good} of {len(checks)} layers pass" + (f"; {others} {why}" if others else "")]
    if checks:
        rows = [("layer", "numbers", "type", "max ULP", "max error", "of the bound")]
        rows += [(printable(check.path, 80), str(check.numbers), check.dtype, f"{check.ulp:.6g}", f"{check.error:.3g}",
                  f"{check.times_the_bound:.3g}") for check in checks]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def _differences(differences: list[Difference], layers: int, model: str) -> str:
    if not differences:
        return f"{printable(model)}: the {layers} layers are equal bit for bit\n"
    paths = {difference.path for difference in differences}
    lines = [f"{printable(model)}: {len(paths)} layers differ"]
    lines += [f"  {printable(difference.path, 80)}: {difference}" for difference in differences]
    return "\n".join(lines) + "\n"


def verify_parser() -> argparse.ArgumentParser:
    """The arguments of bn-verify."""
    parser = argparse.ArgumentParser(
        prog="bn-verify", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Check a bundle: against its own vectors; with MODEL, against another checkpoint or bundle, parameter by parameter;\n"
                    "with --live, against the real layers of MODEL, run on the vectors by the Keras or tf_keras that is installed.\n"
                    "A model with a Lambda or a custom object is not run.",
        epilog="examples:\n  bn-verify out.json\n  bn-verify out.json newer.h5\n  bn-verify out.json model.keras --live\n\n"
               "exit status: 0 nothing differs, 1 something does (or is refused), 2 usage")
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle in any form that bn-export reads back")
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a model or a bundle to compare with")
    parser.add_argument("--live", action="store_true", help="run MODEL's own layers with the installed Keras")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--version", action="version", version=f"bn-verify {__version__}")
    add_reading_options(parser)
    return parser

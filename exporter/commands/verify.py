"""bn-verify: arguments, printing, exit codes. 0 nothing differs, 1 something does (or refused), 2 usage."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from exporter.commands.operands import STANDARD, check_one_standard_input, operand
from exporter.commands.shared import add_common_options, comparing_options, main, make_parser, warn
from exporter.errors import FormatError, UsageError, printable

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Bundle
    from exporter.diagnosis.comparison import Check
    from exporter.diagnosis.ports.port import Port
    from exporter.files.place import Place

UNSAID = 1.0  # placeholder for an unknown epsilon while a model is read


def verify_command() -> NoReturn:
    """bn-verify"""
    main(verify)


def verify(words: Sequence[str] | None = None) -> int:
    """bn-verify BUNDLE [OTHER]"""
    args = verify_parser().parse_args(words)
    if args.other is None and (args.live or args.map):
        raise UsageError("--live requires the MODEL whose layers to run" if args.live else "--map requires OTHER, whose layers it names")
    check_one_standard_input(args.bundle, args.other)
    if args.report is not None:
        _check_report(args)
    report: dict[str, Any] = {"bundle": args.bundle}
    with contextlib.ExitStack() as stack:
        bundle = _bundle(stack.enter_context(operand(args.bundle)), args)
        warn(bundle.warnings)
        report["layers"] = len(bundle)
        text, passed = _own_vectors(bundle, report, brief=args.other is not None)
        if args.other is not None:
            part = _live if args.live else _compared
            said, fine = part(bundle, stack.enter_context(operand(args.other)), args, report)
            text += said
            passed = passed and fine
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if args.json else text)
    return 0 if passed else 1


def _bundle(place: Place, args: argparse.Namespace) -> Bundle:
    """The first operand: a bundle, or also a model if there is a second operand."""
    from exporter.pipeline.read import load, read_in_child
    from exporter.sources import bundle, bundle_arrays

    place.check_exists()
    if any(source.claims(place) for source in (bundle, bundle_arrays)):
        return load(place.address)
    if args.other is None or args.live:
        raise FormatError("this is not a bundle", where=place.name, hint="create one from the model: bn-export MODEL out.json")
    found = read_in_child(place, comparing_options(args), fork=True, keep_unusable=True)
    warn([f"{each.layer.path} is not compared: {each.reason}" for each in found.unusable])
    return found


def _own_vectors(bundle: Bundle, report: dict[str, Any], *, brief: bool) -> tuple[str, bool]:
    from exporter.diagnosis import comparison

    checks = comparison.check_vectors(bundle)
    report["vectors"] = _rows(checks)
    shown = [check for check in checks if not check.passed] if brief else checks
    good = sum(check.passed for check in checks)
    if brief and not checks:
        return "", True
    return _table("the bundle's own vectors", shown, good, len(checks), len(bundle) - len(checks), "without vectors"), good == len(checks)


def _compared(bundle: Bundle, place: Place, args: argparse.Namespace, report: dict[str, Any]) -> tuple[str, bool]:
    from exporter.diagnosis import comparison, ports

    other = ports.read(place) or _model(place, args)
    found = comparison.compare(bundle, other, tuple(map(_map, args.map)), place.name)
    report |= found.to_dict()
    if args.report is not None:
        from exporter.diagnosis.comparison_page import page
        from exporter.files import output
        from exporter.files.remote import place_for

        mine = "standard input" if args.bundle == STANDARD else place_for(args.bundle).name
        output.write(args.report, page(found, bundle, mine, other))
    return found.text(), found.same


def _check_report(args: argparse.Namespace) -> None:
    """Refuses, before anything is read, a report that cannot be written."""
    from exporter.files.output import check_output
    from exporter.files.remote import place_for

    if args.live or not args.report.lower().endswith(".html"):
        raise UsageError("a comparison is reported as an .html file; --live writes no report" if args.live else
                         f"expected a REPORT.html, got {printable(args.report, 80)}")
    check_output(args.report, [place_for(word) for word in (args.bundle, args.other) if word != STANDARD])


def _model(place: Place, args: argparse.Namespace) -> Port:
    """A model as OTHER. If neither the model nor the user gives epsilon, everything except epsilon is compared."""
    from exporter.batchnorm.bundle import ReadBack
    from exporter.diagnosis.ports.port import of_bundle
    from exporter.pipeline.read import read_in_child

    options = comparing_options(args)
    read = functools.partial(read_in_child, place, fork=True, keep_unusable=True)
    found = read(options if options.epsilon else dataclasses.replace(options, epsilon=(("*", UNSAID),)))
    is_given = options.epsilon or isinstance(found, ReadBack)  # a bundle contains the epsilon that was given when it was made
    unsaid = set() if is_given else {layer.path for layer in found if "epsilon" in layer.assumed}
    if any(found[path].converted for path in unsaid):  # an era that stored a standard deviation: its variance depends on epsilon
        found = read(options)
    return of_bundle(found, place.name, unsaid)


def _map(word: str) -> tuple[str, str]:
    old, equals, new = word.partition("=")
    if not (old and equals and new):
        raise UsageError(f"--map {printable(word)}: expected OLD=NEW", hint="e.g. --map 'encoder/bn_1=enc.bn1' or --map 'encoder/*=enc.*'")
    return old, new


def _live(bundle: Bundle, place: Place, args: argparse.Namespace, report: dict[str, Any]) -> tuple[str, bool]:
    from exporter.diagnosis.live import check_live

    live, absent = check_live(bundle, place)
    report["live"], report["not_found_live"] = _rows(live), absent
    good = sum(check.passed for check in live)
    why = f"not found in the model: {', '.join(map(printable, absent[:5]))}"
    return _table("the real layers", live, good, len(live), len(absent), why), not absent and good == len(live)


def _rows(checks: list[Check]) -> list[dict[str, Any]]:
    rows = [{**dataclasses.asdict(check), "passed": check.passed} for check in checks]
    return [{key: str(value) if value in (math.inf, -math.inf) else value for key, value in row.items()} for row in rows]


def _table(what: str, checks: list[Check], good: int, of: int, others: int, why: str) -> str:
    from exporter.batchnorm.listing import columns

    lines = [f"{what}: {good} of {of} layers pass" + (f"; {others} {why}" if others else "")]
    if checks:
        rows = [("layer", "numbers", "type", "max ULP", "max error", "of the bound")]
        rows += [(printable(check.path, 80), str(check.numbers), check.dtype, f"{check.ulp:.6g}", f"{check.error:.3g}",
                  f"{check.times_the_bound:.3g}") for check in checks]
        lines += [f"  {line}" for line in columns(rows)]
    return "\n".join(lines) + "\n"


def verify_parser() -> argparse.ArgumentParser:
    """The arguments of bn-verify."""
    parser = make_parser(
        "bn-verify",
        description="Check a bundle against its own vectors; with OTHER, against another form of the model, parameter by parameter: a "
                    "checkpoint, a bundle, a PyTorch or flax state (.pt, .safetensors, .npz, .msgpack), an .onnx, .csv or .h file. "
                    "A difference that is a known mistake is named by its code (bn-diagnose --explain). With --live, against the "
                    "real layers of a model, run on the vectors by the installed Keras or tf_keras; a model with a Lambda "
                    "or a custom object is not run.",
        examples="examples:\n  bn-verify out.json\n  bn-verify out.json newer.h5\n"
                 "  bn-verify out.json state.safetensors --map 'encoder/*=enc.*'\n  bn-verify before.h5 after.h5 report.html\n"
                 "  bn-verify out.json model.keras --live\n\n"
                 "layers are paired by --map, by path, by content, or by order and shape; the report says how\n"
                 "exit status: 0 nothing differs, 1 something does (or is refused), 2 usage")
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle in any form that bn-export reads back; with OTHER, also a model")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="the file to compare with; - is standard input, here or as BUNDLE")
    parser.add_argument("report", metavar="REPORT.html", nargs="?", help="also write the comparison as an HTML page")
    parser.add_argument("--map", action="append", default=[], metavar="OLD=NEW",
                        help="layer OLD of the bundle is NEW in OTHER; globs with the same number of * on both sides; repeatable")
    parser.add_argument("--live", action="store_true", help="run the layers of OTHER, a model, with the installed Keras")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_common_options(parser)
    return parser

"""bn-diagnose: arguments, printing, exit codes. 0 the same, 1 different (or refused), 2 usage."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from exporter.commands.operands import STANDARD, check_one_standard_input, operand
from exporter.commands.shared import add_common_options, comparing_options, main, make_parser, read_options, warn
from exporter.errors import ExporterError, LayerError, UsageError

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Bundle
    from exporter.diagnosis.alone import Given
    from exporter.diagnosis.answer import Diagnosis
    from exporter.diagnosis.samples import Numbers
    from exporter.files.place import Place

ALONE = ("gamma", "beta", "mean", "variance")
GIVEN = ("--input", "--output", *(f"--{name}" for name in ALONE))


def diagnose_command() -> NoReturn:
    """bn-diagnose"""
    main(diagnose)


def diagnose(words: Sequence[str] | None = None) -> int:
    """bn-diagnose BUNDLE --layer PATH --input X --output THEIRS"""
    parser = diagnose_parser()
    args = parser.parse_args(gathered(sys.argv[1:] if words is None else words))
    if args.explain is not None or args.list:
        return _explain(args)
    alone = {name: word for name in ALONE if (word := getattr(args, name)) is not None}
    if (args.bundle is None and not alone) or args.input is None or args.output is None:
        raise UsageError("BUNDLE, --input and --output are needed",
                         hint="bn-diagnose out.json --layer bn_1 --input '1, 5' --output '-1, 1'; without a file, --gamma, --beta, --mean, "
                              "--variance and --epsilon describe the layer")
    if args.bundle is not None and alone:
        raise UsageError(f"--{next(iter(alone))} describes a layer without a file, but a file was given")
    with contextlib.ExitStack() as stack:
        found = _found(args, alone, stack)
    if args.json:
        import json

        print(json.dumps(found.to_dict(), indent=2))
    else:
        sys.stdout.write(found.text())
    return 0 if found.verdict == "same" else 1


def _found(args: argparse.Namespace, alone: dict[str, str], stack: contextlib.ExitStack) -> Diagnosis:
    from exporter.diagnosis import samples
    from exporter.diagnosis.search import diagnose as find

    words = {"input": args.input, "output": args.output, **alone}
    is_sample = any(map(samples.is_standard_input, words.values()))  # one file may contain several arrays
    check_one_standard_input(args.bundle, STANDARD if is_sample else None)
    given = stack.enter_context(operand(STANDARD)) if is_sample else None
    numbers = {role: samples.read(word, role, given) for role, word in words.items()}
    x, theirs = numbers.pop("input"), numbers.pop("output")
    limits: dict[str, Any] = {"layer": args.layer, "channel": args.channel, "axis": args.axis, "dtype": args.dtype}
    if alone:
        return find(_of_numbers(numbers, args), x, theirs, **limits)
    place = stack.enter_context(operand(args.bundle))
    model = _model(place, args)
    return find(model, x, theirs, averages=_averages(place, args, model), **limits)


def _of_numbers(numbers: dict[str, Numbers], args: argparse.Namespace) -> Given:
    from exporter.diagnosis.alone import of_numbers

    said = read_options(args).epsilon
    return of_numbers(numbers, said[-1][1] if said else None)


def _model(place: Place, args: argparse.Namespace) -> Bundle | Given:
    from exporter.diagnosis import ports
    from exporter.diagnosis.alone import of_port
    from exporter.pipeline.read import read_in_child

    options = comparing_options(args)
    port = ports.read(place)
    if port is not None:
        return of_port(port, options.epsilon)
    bundle = read_in_child(place, options, fork=True, keep_unusable=True)
    for each in bundle.unusable:
        if args.layer == each.layer.path or not len(bundle):
            raise LayerError(each.reason, where=each.layer.path, hint="there is no right output to compare with")
    warn([*bundle.warnings, *(f"{each.layer.path} is skipped: {each.reason}" for each in bundle.unusable)])
    return bundle


def _averages(place: Place, args: argparse.Namespace, model: Bundle | Given) -> Bundle | None:
    """The model with the other set of variables, where its checkpoint contains both them and their moving averages."""
    from exporter.batchnorm.bundle import Bundle

    if not isinstance(model, Bundle) or model.origin.kind != "tf-checkpoint":
        return None
    from exporter.pipeline.read import read_in_child

    options = comparing_options(args)
    for ema in ("yes", "no"):
        with contextlib.suppress(ExporterError):  # then there is only one set
            other = read_in_child(place, dataclasses.replace(options, ema=ema), fork=True)
            if other.digest() != model.digest():
                return other
    return None


def _explain(args: argparse.Namespace) -> int:
    from exporter.diagnosis import mistakes

    if args.list:
        for mistake in mistakes.MISTAKES:
            print(f"{mistake.code}  {mistake.name}")
    else:
        sys.stdout.write(mistakes.explain(mistakes.find(args.explain)))
    return 0


def gathered(words: Sequence[str]) -> list[str]:
    """The words, with --input and --output joined to their values, so that "--output -1 1", "--output -1,1" and "--output -:y" are
    not taken for options."""
    if not any(word in GIVEN for word in words):
        return list(words)
    from exporter.diagnosis.samples import looks_like_numbers

    result: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if word in GIVEN and pending and looks_like_numbers(pending[0]):
            numbers = []
            while pending and looks_like_numbers(pending[0]):
                numbers.append(pending.pop(0))
            word = f"{word}={' '.join(numbers)}"
        elif word in GIVEN and pending and pending[0].startswith("-:"):  # an array from standard input
            word = f"{word}={pending.pop(0)}"
        result.append(word)
    return result


def diagnose_parser() -> argparse.ArgumentParser:
    """The arguments of bn-diagnose."""
    parser = make_parser(
        "bn-diagnose",
        description="Find the known mistakes that explain why your own batch norm gives different numbers than the layer.",
        examples="examples:\n  bn-diagnose out.json --layer bn_1 --input '1, 5' --output '-1, 1'\n"
                 "  bn-diagnose out.json --input x.npy --output mine.npy\n"
                 "  ./mine < x.npy | bn-diagnose out.json --input x.npy --output -\n"
                 "  bn-diagnose --gamma 1.5 --beta 0.25 --mean 0.5 --variance 4 \\\n"
                 "      --epsilon 0.001 --input 1 --output 0.624953\n"
                 "  bn-diagnose --explain BN101\n\n"
                 "numbers on the command line are assumed to be accurate to half a unit of their last digit\n"
                 "exit status: 0 the same within the error bound, 1 different (or refused), 2 usage")
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?",
                        help="a bundle, a model as bn-export takes it, or a .json, .npz or .csv file of gamma, beta, mean, variance and "
                             "epsilon; - is standard input")
    parser.add_argument("--layer", metavar="PATH", help="the layer; without this option all layers are tried")
    parser.add_argument("--input", metavar="X",
                        help="the input of the batch norm: numbers, or a .npy, .npz, .csv or .json file; FILE:NAME selects one of its "
                             "arrays; - is standard input")
    parser.add_argument("--output", metavar="THEIRS", help="the output of your code for it, in the same forms")
    for name in ALONE:
        parser.add_argument(f"--{name}", metavar="X", help=f"without a file: the layer's {name}, one number for each channel")
    parser.add_argument("--axis", type=int, metavar="N", help="the channel axis of the input, if it differs from the layer's")
    parser.add_argument("--channel", type=int, metavar="N", help="the numbers belong to this channel only")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32", "float64"],
                        help="the type that your code computes in, if it is less precise than the layer's")
    parser.add_argument("--json", action="store_true", help="print the diagnosis as JSON")
    parser.add_argument("--explain", metavar="CODE", help="explain a known mistake, e.g. BN101")
    parser.add_argument("--list", action="store_true", help="list the known mistakes")
    add_common_options(parser)
    return parser

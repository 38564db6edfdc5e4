"""bn-eval: arguments, exit codes. 0 fine, 1 refused, 2 usage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from exporter.__about__ import __version__
from exporter.commands.shared import add_reading_options, main, read_options, warn
from exporter.errors import UsageError, names, printable


def eval_command() -> NoReturn:
    """bn-eval"""
    main(evaluate)


def evaluate(words: Sequence[str] | None = None) -> int:
    """bn-eval BUNDLE IN.npy OUT.npy --layer PATH"""
    args = eval_parser().parse_args(words)
    from exporter.diagnosis import samples
    from exporter.files import output
    from exporter.files.place import Place
    from exporter.files.remote import is_url, place_for
    from exporter.pipeline import streaming
    from exporter.pipeline.read import read_in_child

    if is_url(args.out):
        raise UsageError("OUT is a local file", hint="copy it afterward")
    model, source = place_for(args.bundle), Place(args.input)
    output.check_output(args.out, [model, source])
    bundle = read_in_child(model, read_options(args), fork=True)
    warn(bundle.warnings)
    if args.layer is None and len(bundle) > 1:
        raise UsageError(f"the bundle has {len(bundle)} layers", hint=f"say which with --layer: {names(bundle.paths())}")
    if args.layer is not None and args.layer not in bundle:
        raise UsageError(f"there is no layer {printable(args.layer)!r}", hint=f"there are {names(bundle.paths())}")
    layer = bundle.layers[0] if args.layer is None else bundle[args.layer]
    streaming.evaluate_file(layer, samples.load_npy(source), Path(args.out), axis=args.axis, fast=args.fast)
    return 0


def eval_parser() -> argparse.ArgumentParser:
    """The arguments of bn-eval."""
    parser = argparse.ArgumentParser(
        prog="bn-eval", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compute a batch norm's inference for an array in a .npy file. The files are worked on in pieces and may be larger\n"
                    "than the memory. The result is float64 arithmetic rounded once to the input's type.",
        epilog="example:\n  bn-eval out.json x.npy y.npy --layer encoder/bn_1\n\n"
               "exit status: 0 fine, 1 refused (the reason is on stderr), 2 usage")
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle, or a model as bn-export takes it")
    parser.add_argument("input", metavar="IN.npy", help="the input; its channels along the layer's axis")
    parser.add_argument("out", metavar="OUT.npy", help="the result, of the input's shape and type")
    parser.add_argument("--layer", metavar="PATH", help="the layer; needed where the bundle has several")
    parser.add_argument("--axis", type=int, metavar="N", help="the input's channel axis, where it is not the layer's")
    parser.add_argument("--fast", action="store_true", help="float32 arithmetic: one multiplication and one addition a number")
    parser.add_argument("--version", action="version", version=f"bn-eval {__version__}")
    add_reading_options(parser)
    return parser

"""bn-eval: arguments, exit codes. 0 fine, 1 refused, 2 usage."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from exporter.commands.operands import STANDARD, binary_output, check_one_standard_input, operand
from exporter.commands.shared import add_common_options, main, make_parser, read_options, warn
from exporter.errors import LayerError, UsageError, names, printable

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Bundle
    from exporter.batchnorm.layer import BatchNorm


def eval_command() -> NoReturn:
    """bn-eval"""
    main(evaluate)


def evaluate(words: Sequence[str] | None = None) -> int:
    """bn-eval BUNDLE IN.npy OUT.npy --layer PATH"""
    args = eval_parser().parse_args(words)
    from exporter.diagnosis import samples
    from exporter.files import output
    from exporter.files.place import Place
    from exporter.files.remote import is_url
    from exporter.pipeline import streaming
    from exporter.pipeline.read import read_in_child

    if is_url(args.out):
        raise UsageError("expected a local file as OUT, got a URL", hint="copy it afterward")
    check_one_standard_input(args.bundle, args.input)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(operand(args.bundle))
        source = stack.enter_context(operand(STANDARD)) if args.input == STANDARD else Place(args.input)
        out = binary_output() if args.out == STANDARD else Path(args.out)
        if isinstance(out, Path):
            output.check_output(args.out, [model, source])
        layer = _layer(read_in_child(model, read_options(args), fork=True, keep_unusable=True), args.layer)
        streaming.evaluate_file(layer, samples.load_npy(source), out, axis=args.axis, fast=args.fast)
    return 0


def _layer(bundle: Bundle, wanted: str | None) -> BatchNorm:
    """The requested layer. Other layers with unusable numbers don't matter."""
    unusable = {each.layer.path: each.reason for each in bundle.unusable}
    paths = [*bundle.paths(), *unusable]
    if wanted is None and len(paths) > 1:
        raise UsageError(f"the bundle has {len(paths)} layers", hint=f"choose one with --layer: {names(paths)}")
    path = paths[0] if wanted is None else wanted
    if path in unusable:
        others = f"; others are {names(bundle.paths())}" if len(bundle) else ""
        raise LayerError(unusable[path], where=path, hint=f"there is no inference to compute{others}")
    if path not in bundle:
        raise UsageError(f"there is no layer {printable(path)!r}", hint=f"its layers are {names(paths)}")
    warn(bundle.warnings)
    return bundle[path]


def eval_parser() -> argparse.ArgumentParser:
    """The arguments of bn-eval."""
    parser = make_parser(
        "bn-eval",
        description="Compute the output of a batch norm for an array in a .npy file. The file is processed in chunks and may be larger "
                    "than the memory. The result is computed in float64 and rounded once to the type of the input.",
        examples="examples:\n  bn-eval out.json x.npy y.npy --layer encoder/bn_1\n"
                 "  ./features | bn-eval out.json - - --layer encoder/bn_1 | ./rest\n\n"
                 "exit status: 0 fine, 1 refused (the reason is on stderr), 2 usage")
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle, or a model as bn-export takes it; - is standard input")
    parser.add_argument("input", metavar="IN.npy", help="the input, with its channels along the layer's axis; - is standard input")
    parser.add_argument("out", metavar="OUT.npy", help="the output, of the shape and type of the input; - is standard output")
    parser.add_argument("--layer", metavar="PATH", help="the layer; required if the bundle has more than one")
    parser.add_argument("--axis", type=int, metavar="N", help="the channel axis of the input, if it differs from the layer's")
    parser.add_argument("--fast", action="store_true", help="compute in float32: one multiplication and one addition per number")
    add_common_options(parser)
    return parser

"""bn-export: list the batch norms of a model, write them, or do that for many models (exporter/commands/export_many.py)."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from exporter.commands.operands import STANDARD, binary_output, operand
from exporter.commands.shared import add_common_options, main, make_parser, read_options, warn
from exporter.errors import UsageError, printable
from exporter.targets import FORMATS, TEXT, suffix_of

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Bundle
    from exporter.targets.shared.options import WriteOptions

DESCRIPTION = """\
Export gamma, beta, moving_mean, moving_variance and epsilon of every BatchNormalization layer of a Keras or \
TensorFlow model, bit for bit. Without OUT, list the layers. With --out-dir, export many models: names in DIR mirror \
the paths of the models, and exports that are up to date are skipped."""
EXAMPLES = """\
examples:
  bn-export model.h5 out.json
  bn-export model.keras
  bn-export weights.h5 out.json --architecture model.json
  bn-export weights.h5 out.json --epsilon 0.001 --epsilon 'head/*=1e-5'
  cat model.h5 | bn-export - - --suffix .npz > weights.npz
  bn-export model.keras folded.npz --fold
  bn-export 'models/**/*.h5' more.keras --out-dir bundles
  bn-export 's3://bucket/zoo/*.keras' --out-dir bundles --report summary.html

exit status: 0 fine, 1 refused (the reasons are on stderr), 2 usage"""


def export_command() -> NoReturn:
    """bn-export"""
    main(export)


def export(words: Sequence[str] | None = None) -> int:
    """bn-export MODEL [OUT], or MODEL... --out-dir DIR"""
    args = export_parser().parse_intermixed_args(words)
    _check(args)
    if args.out_dir is not None:
        from exporter.commands.export_many import export_models

        return export_models(args, read_options(args), write_options(args))
    return _list(args) if args.out is None else _export(args)


def _list(args: argparse.Namespace) -> int:
    from exporter.pipeline.read import read_in_child

    options = read_options(args)
    with operand(args.model) as place:
        bundle = read_in_child(place, options, fork=True, keep_unusable=True)
    warn(bundle.remarks())
    if args.json:
        sys.stdout.write(_json(bundle) + "\n")
    else:
        from exporter.batchnorm.listing import table

        sys.stdout.write(table(bundle.origin, bundle.layers, bundle.unusable, with_places=args.places))
    return 0


def _export(args: argparse.Namespace) -> int:
    from exporter.pipeline.read import read_in_child
    from exporter.pipeline.write import Output

    options, writing = dataclasses.replace(read_options(args), kernels=args.fold), write_options(args)
    name, stream = args.out, None
    if args.out == STANDARD:
        name = f"{STANDARD}{'.json' if args.suffix is None else args.suffix}"
        stream = sys.stdout.buffer if suffix_of(name) in TEXT else binary_output()
    with operand(args.model) as place:
        output = Output(name, writing, options.inputs(place), stream=stream)
        bundle = read_in_child(place, options, fork=True, output=output)
    warn(bundle.remarks())
    output.end(bundle)
    for layer in bundle if args.verbose else ():
        print(f"{printable(layer.path)}: {layer.channels} channels, epsilon {layer.epsilon:g}", file=sys.stderr)
    return 0


def write_options(args: argparse.Namespace) -> WriteOptions:
    """WriteOptions from parsed arguments."""
    from exporter.targets.shared.options import WriteOptions

    return WriteOptions(vectors=not args.no_vectors, names=args.names or "keras", folded=args.folded, axis=args.axis,
                        plain=args.plain, fold=args.fold)


WRITING = ("--names", "--folded", "--fold", "--no-vectors", "--axis", "--plain", "--verbose")  # go with OUT or --out-dir
LISTING = ("--json", "--places")
MANY = ("--suffix", "--jobs", "--dask", "--force", "--report")  # go with --out-dir


def _check(args: argparse.Namespace) -> None:
    """Sorts the positional arguments into args.model and args.out; refuses options that would be ignored."""
    many = args.out_dir is not None
    if "" in args.words or args.out_dir == "":
        raise UsageError("expected a file name, got an empty argument", hint="is a shell variable not set?")
    if many and "-" in args.words:
        raise UsageError("expected one model with -: standard input contains only one", hint="for a file of this name, give ./-")
    if not many and len(args.words) > 2:
        raise UsageError(f"expected MODEL and OUT, got {len(args.words)} names", hint="to export many models, give --out-dir DIR")
    args.model, args.out = args.words[0], None if many or len(args.words) == 1 else args.words[1]
    wrong = [option for option in MANY if not many and _is_given(args, option)]
    if wrong == ["--suffix"] and args.out == STANDARD:
        _check_stream(args.suffix)
    elif wrong:
        raise UsageError(f"{wrong[0]} requires --out-dir DIR" + (" or - as OUT" if wrong[0] == "--suffix" else ""))
    wrong = [option for option in WRITING if not many and args.out is None and _is_given(args, option)]
    if wrong:
        raise UsageError(f"{wrong[0]} requires OUT or --out-dir DIR: without them the layers are listed")
    wrong = [option for option in LISTING if (many or args.out is not None) and _is_given(args, option)]
    if wrong:
        raise UsageError(f"{wrong[0]} lists the layers, so it excludes OUT and --out-dir")


def _check_stream(suffix: str) -> None:
    if suffix_of(f"{STANDARD}{suffix}") == "/":
        raise UsageError("OUT is -, and a folder cannot be written to standard output",
                         hint="--suffix .zip writes the same files as one archive")


def _is_given(args: argparse.Namespace, option: str) -> bool:
    return getattr(args, option.strip("-").replace("-", "_")) not in (None, False)


def export_parser() -> argparse.ArgumentParser:
    """The arguments of bn-export."""
    parser = make_parser("bn-export", DESCRIPTION, EXAMPLES,
                         usage="%(prog)s MODEL [OUT] [options]\n       %(prog)s MODEL... --out-dir DIR [options]")
    parser.add_argument("words", metavar="MODEL", nargs="+",
                        help="a file or folder written by Keras or TensorFlow, or a bundle; with --out-dir also a quoted pattern: "
                             "* ? [], and ** over folders. Without --out-dir the last name is OUT, the output; its suffix "
                             f"chooses the format: {FORMATS}. "
                             "- is standard input, and as OUT standard output: the bundle, or with --suffix another kind")
    parser.add_argument("--json", action="store_true", help="without OUT: print the list as JSON")
    parser.add_argument("--places", action="store_true", help="without OUT: also list the layers that feed and follow each")
    parser.add_argument("-v", "--verbose", action="store_true", help="print a line for each layer on stderr; with --out-dir a line "
                                                                     "for each model")
    add_common_options(parser)
    writing = parser.add_argument_group("writing")
    writing.add_argument("--no-vectors", action="store_true", help="omit the test vectors from the bundle")
    writing.add_argument("--names", choices=["keras", "torch"],
                         help="tensor names in a .safetensors file (default: keras); torch: as load_state_dict expects them")
    writing.add_argument("--folded", action="store_true", help="in a .h file or the kit: also write scale and offset, with y = scale "
                                                               "* x + offset")
    writing.add_argument("--fold", action="store_true",
                         help="write an .npz file with the kernels and biases of the preceding layers, with the batch norms folded "
                              "into them, the batch norms that cannot be folded, and why")
    writing.add_argument("--axis", type=int, metavar="N",
                         help="in an .onnx file: write layers with their channels along axis N of the input; 1 is NCHW, as usual in ONNX")
    writing.add_argument("--plain", action="store_true", help="write an .onnx file without local functions, for programs that do not "
                                                              "support them")
    _add_many_options(parser)
    return parser


def _add_many_options(parser: argparse.ArgumentParser) -> None:
    """The options for many models."""
    group = parser.add_argument_group("many models")
    group.add_argument("--out-dir", metavar="DIR", help="the folder or URL to write the exports to")
    group.add_argument("--suffix", help="the format of the exports, as for OUT (default: .json); also with - as OUT")
    group.add_argument("--jobs", type=int, metavar="N", help="the number of processes (default: one per processor)")
    group.add_argument("--dask", metavar="ADDRESS", help="run on the workers of a Dask cluster, e.g. tcp://host:8786; "
                                                         "they must see the models and DIR under the same paths")
    group.add_argument("--force", action="store_true", help="also export models whose export is up to date, and replace "
                                                                  "files that are no exports")
    group.add_argument("--report", metavar="FILE", help="write a report on every model to a .json or .html file")


def _json(bundle: Bundle) -> str:
    """The table as JSON: the bundle's document without arrays."""
    import json

    from exporter.batchnorm.document import document
    from exporter.batchnorm.layer import PARAMETERS

    content = document(bundle, with_vectors=False)
    for layer in content["layers"]:
        for name in PARAMETERS:
            layer[name] = None if layer[name] is None else len(layer[name])
    return json.dumps(content, indent=2, ensure_ascii=True)

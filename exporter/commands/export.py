"""bn-export MODEL [OUT]: list the batch norms of a model, or write them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from exporter.__about__ import __version__
from exporter.commands.shared import add_reading_options, main, read_options, warn
from exporter.errors import printable

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Bundle


def export_command() -> NoReturn:
    """bn-export"""
    main(export)


def export(words: Sequence[str] | None = None) -> int:
    """bn-export MODEL [OUT]"""
    words = sys.argv[1:] if words is None else words
    if any(word == "--out-dir" or word.startswith("--out-dir=") for word in words):
        from exporter.commands.export_many import export_models

        return export_models(words)
    parser = export_parser()
    args = parser.parse_args(words)
    from exporter.files.remote import place_for
    from exporter.pipeline.read import NOBODY, read_in_child
    from exporter.pipeline.write import Output
    from exporter.targets.shared.options import WriteOptions

    place, options = place_for(args.model), read_options(args)
    output = None
    if args.out is not None:
        writing = WriteOptions(vectors=not args.no_vectors, names=args.names, folded=args.folded)
        output = Output(args.out, writing, options.inputs(place))
    bundle = read_in_child(place, options, fork=True, output=output or NOBODY)
    warn(bundle.remarks())
    if output is not None:
        output.end(bundle)
        for layer in bundle if args.verbose else ():
            print(f"{printable(layer.path)}: {layer.moving_mean.size} channels, epsilon {layer.epsilon:g}", file=sys.stderr)
    elif args.json:
        sys.stdout.write(_json(bundle) + "\n")
    else:
        sys.stdout.write(table(bundle))
    return 0


def export_parser() -> argparse.ArgumentParser:
    """The arguments of bn-export."""
    parser = argparse.ArgumentParser(
        prog="bn-export", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Export gamma, beta, moving_mean, moving_variance and epsilon of every BatchNormalization layer of a Keras or\n"
                    "TensorFlow model, bit for bit. Without OUT: list the layers.",
        epilog="examples:\n  bn-export model.h5 out.json\n  bn-export model.keras\n"
               "  bn-export weights.h5 out.json --architecture model.json\n"
               "  bn-export weights.h5 out.json --epsilon 0.001 --epsilon 'head/*=1e-5'\n"
               "  bn-export 'models/**/*.h5' --out-dir bundles     (many; see bn-export --out-dir DIR --help)\n\n"
               "exit status: 0 fine, 1 refused (the reason is on stderr), 2 usage")
    parser.add_argument("model", metavar="MODEL", help="a file or folder that Keras or TensorFlow wrote, or a bundle")
    parser.add_argument("out", metavar="OUT", nargs="?",
                        help="the output; its suffix says its kind: .json .npz .safetensors .onnx .h .csv .md .html .zip, or a folder/")
    parser.add_argument("--json", action="store_true", help="without OUT: the list as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="one line a layer on stderr")
    parser.add_argument("--no-vectors", action="store_true", help="leave the test vectors out of the bundle")
    parser.add_argument("--names", choices=["keras", "torch"], default="keras",
                        help="names of the tensors in a .safetensors file; torch: what load_state_dict takes")
    parser.add_argument("--folded", action="store_true", help="a .h file: also scale and offset, with y = scale * x + offset")
    parser.add_argument("--version", action="version", version=f"bn-export {__version__}")
    add_reading_options(parser)
    return parser


def table(bundle: Bundle) -> str:
    """The layers as a table for people."""
    rows = [("layer", "channels", "axis", "epsilon", "dtype", "parameters", "notes")]
    for layer in bundle:
        axis = ",".join(map(str, layer.axis or ()))
        notes = [f"{name}: {', '.join(fields)}" for name, fields in (("assumed", layer.assumed), ("converted", layer.converted)) if fields]
        if layer.effective_epsilon is not None:
            notes.append(f"effective epsilon {layer.effective_epsilon:g}")
        if layer.called_in_training:
            notes.append("called with training=True")
        if layer.quantized:
            notes.append(f"quantized {layer.quantized}")
        lacking = [name for name in ("gamma", "beta") if getattr(layer, name) is None]
        rows.append((printable(layer.path, 80), "x".join(map(str, layer.shape)), axis, f"{layer.epsilon:g}", layer.dtype,
                     "no " + ", no ".join(lacking) if lacking else "all four", "; ".join(notes)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    channels = sum(layer.moving_mean.size for layer in bundle)
    origin = bundle.origin
    said = [f"Keras {printable(origin.keras_version)}" if origin.keras_version else "",
            f"TensorFlow {printable(origin.tensorflow_version)}" if origin.tensorflow_version else "", origin.backend or ""]
    wrote = ", ".join(word for word in said if word)
    summary = f"{printable(origin.file)} ({origin.kind}{', ' + wrote if wrote else ''}): {len(bundle)} batch norms, {channels} channels"
    return "\n".join([summary, "", *lines, ""])


def _json(bundle: Bundle) -> str:
    """The table for machines: the bundle's document without arrays."""
    import json

    from exporter.batchnorm.document import document
    from exporter.batchnorm.layer import PARAMETERS

    content = document(bundle, with_vectors=False)
    for layer in content["layers"]:
        for name in PARAMETERS:
            layer[name] = None if layer[name] is None else len(layer[name])
    return json.dumps(content, indent=2, ensure_ascii=True)

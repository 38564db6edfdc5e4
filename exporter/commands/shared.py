"""Shared by the commands: exit codes, warnings, and the options for information that a file does not contain.

Exit codes: 0 fine, 1 refused or found something, 2 usage. Data goes to stdout, messages go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from exporter.commands import streams
from exporter.errors import MAX_MESSAGE_LENGTH, ExporterError, UsageError, printable, unexpected

if TYPE_CHECKING:
    from exporter.sources.shared.options import ReadOptions

MAX_WARNINGS = 20


def main(command: Callable[[Sequence[str] | None], int], words: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and turns every outcome into an exit code and a message. words: None: those of this process, which ends."""
    gc.disable()  # the process is short-lived; searching for reference cycles costs a tenth of its time
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no matrix products here; BLAS threads cost as much as NumPy
    with contextlib.suppress(ValueError, AttributeError):  # SIGTERM removes the temporary file, as Ctrl-C does
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with streams.guarded():
        code = _outcome(command, words)
    gc.freeze()  # not at exit either
    if words is None:
        _end(code)
    sys.exit(code)


def _end(code: int) -> None:
    """Ends the process like sys.exit, but without first freeing all modules and objects, which takes up to a tenth of a second. Does
    nothing if a thread is still to be waited for."""
    import atexit
    import threading

    if not all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
    os._exit(code)


def _outcome(command: Callable[[Sequence[str] | None], int], words: Sequence[str] | None) -> int:
    try:
        code = _code(command, words)
        sys.stdout.flush()
        return code
    except ExporterError as error:
        return fail(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output closed it, as `head` does
        streams.discard_output()
        return 1
    except (MemoryError, RecursionError) as error:
        return fail(ExporterError(f"{type(error).__name__}: the input needs more memory than is available"))
    except FileNotFoundError as error:
        gone = ExporterError("the current folder no longer exists", hint="change to one that exists")
        return fail(unexpected(error) if _has_folder() else gone)
    except Exception as error:
        return fail(unexpected(error))


def _code(command: Callable[[Sequence[str] | None], int], words: Sequence[str] | None) -> int:
    try:
        return command(words)
    except SystemExit as done:  # argparse: --help, --version, a usage error; its output has not been flushed yet
        return done.code if isinstance(done.code, int) else 0 if done.code is None else 1


def _has_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def fail(error: ExporterError) -> int:
    """Prints an error and its hint; returns the exit code."""
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {printable(error.hint, MAX_MESSAGE_LENGTH)}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1


def warn(sentences: Sequence[str]) -> None:
    """Prints the first twenty warnings, and the number of further ones."""
    for sentence in sentences[:MAX_WARNINGS]:
        print(f"warning: {printable(sentence, MAX_MESSAGE_LENGTH)}", file=sys.stderr)
    if len(sentences) > MAX_WARNINGS:
        print(f"warning: and {len(sentences) - MAX_WARNINGS} more like these", file=sys.stderr)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wraps each line of the description and of the examples to the width of the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        return "\n".join(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in text.splitlines())


def make_parser(name: str, description: str, examples: str, usage: str | None = None) -> argparse.ArgumentParser:
    """The parser of a command, without its arguments."""
    return argparse.ArgumentParser(prog=name, usage=usage, description=description, epilog=examples, formatter_class=_Help)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command: its version, completion, and what the file does not contain."""
    from exporter.__about__ import __version__
    from exporter.commands.completion import add_completion

    parser.add_argument("--version", action="version", version=f"{parser.prog} {__version__}")
    add_completion(parser)
    group = parser.add_argument_group("reading")
    group.add_argument("--epsilon", action="append", default=[], metavar="V|GLOB=V",
                       help="epsilon of layers whose file does not contain it; GLOB matches paths; repeatable")
    group.add_argument("--architecture", metavar="FILE", help="the JSON of the model, or another model file that contains its config")
    group.add_argument("--layers", action="append", default=[], metavar="GLOB", help="use only layers whose path matches; repeatable")
    group.add_argument("--skip-unresolved", action="store_true", help="write the layers that can be resolved and list the others in "
                                                                      "the bundle")
    group.add_argument("--effective-epsilon", action="store_true",
                       help="use the epsilon that the fused kernel used (max(epsilon, 1.001e-5) in TensorFlow 1.4 to 2.11)")
    group.add_argument("--stored-statistics", action="store_true",
                       help="also write layers that the model calls with training=True, which normalize by the batch")
    group.add_argument("--ema", choices=["yes", "no"],
                       help="TF1 checkpoints and their arrays in .npz: use the moving averages of the variables "
                            "(X/ExponentialMovingAverage) where they exist, or never; "
                            "default: as the graph beside the checkpoint uses them")
    group.add_argument("--keras-version", metavar="V", help="the version of Keras that wrote a weights file, if the file does not "
                                                            "contain it, e.g. 1.0.5")
    group.add_argument("--backend", choices=["tensorflow", "theano", "cntk"], help="the backend of that Keras")


def read_options(args: argparse.Namespace) -> ReadOptions:
    """ReadOptions from parsed arguments. Raises UsageError for an epsilon that is not a number."""
    from exporter.files.remote import place_for
    from exporter.sources.shared.options import ReadOptions

    return ReadOptions(epsilon=tuple(map(_epsilon, args.epsilon)),
                       architecture=None if args.architecture is None else place_for(args.architecture),
                       keras_version=args.keras_version, backend=args.backend, ema=args.ema, layers=tuple(args.layers),
                       skip_unresolved=args.skip_unresolved, effective_epsilon=args.effective_epsilon,
                       stored_statistics=args.stored_statistics)


def comparing_options(args: argparse.Namespace) -> ReadOptions:
    """The same for a model that is compared: layers that it calls with training=True, too."""
    import dataclasses

    return dataclasses.replace(read_options(args), stored_statistics=True)


def _epsilon(word: str) -> tuple[str, float]:
    from exporter.sources.shared.options import MAX_EPSILON

    glob, _, number = word.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < MAX_EPSILON:
        raise UsageError(f"expected a number of 0 or more for --epsilon, got {word!r}",
                         hint="give --epsilon VALUE, or --epsilon 'GLOB=VALUE' for some of the layers")
    return glob or "*", value

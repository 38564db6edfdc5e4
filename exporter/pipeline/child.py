"""Reading in a child process with limits: libhdf5 hangs or crashes on some damaged files, which then affects only the child.

What the child sends back (exporter/pipeline/message.py) is checked, and passes the gate like any other bundle. `fork` starts a
child in a millisecond, for a single-threaded program such as the command; `spawn` starts a new interpreter, safe in any program and on
Windows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from exporter import errors
from exporter.errors import ExporterError, FormatError, UsageError
from exporter.files.place import Place
from exporter.files.remote import place_for
from exporter.pipeline.limits import OUT_OF_MEMORY, OUT_OF_TIME, Limits, die_with_parent

if TYPE_CHECKING:
    import subprocess

    from exporter.batchnorm.bundle import ReadBack
    from exporter.batchnorm.stored import Stored
    from exporter.sources.shared.found import Found
    from exporter.sources.shared.options import ReadOptions

MAX_ANSWER = 2 << 30  # bytes
PIPE = 1 << 20  # bytes; the maximum for an unprivileged process on Linux
BUFFER = 1 << 16
# Environment variables that make HDF5 load code or open files in a different way.
HDF5_VARIABLES = ("HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER", "HDF5_DRIVER_CONFIG")
NO_PLUGINS = "::"
HARMLESS = "the file is damaged or forged; nothing was read from it"


@dataclasses.dataclass(frozen=True)
class Child:
    """A running child: its answer is read from `descriptor`, within `limits`.

    wait: waits for its end and returns its exit status; None if the system has discarded it.
    """

    descriptor: int
    wait: Callable[[], int | None]
    kill: Callable[[], None]
    limits: Limits


def start(place: Place, options: ReadOptions, *, fork: bool) -> Child:
    """Starts the child and returns at once.

    Raises: UsageError if there is no interpreter to start.
    """
    limits = Limits.of(place)
    return _fork(place, options, limits) if fork and hasattr(os, "fork") else _spawn(place, options, limits)


def finish(child: Child, meanwhile: Callable[[], object], each: Callable[[list[Stored]], object]) -> Found | ReadBack:
    """Calls `meanwhile`, then receives what the child sends, and calls `each` with the layers as they arrive, before they are
    checked.

    If this ends early, it also ends the child.
    """
    try:
        meanwhile()
        from exporter.pipeline.message import Reader

        reader = Reader(FormatError("the file made the reading process fail", hint=HARMLESS), each)
        receive(child, reader.feed)
        status = child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        os.close(child.descriptor)
    if status:
        raise ending(status, child.limits)
    return reader.answer()


def ending(status: int, limits: Limits) -> ExporterError:
    """The error for the exit status of a child that failed."""
    if status == OUT_OF_TIME or -status == getattr(signal, "SIGALRM", None):
        return _timed_out(limits)
    if -status == getattr(signal, "SIGXCPU", None):
        what = f"took more than {limits.cpu_seconds} seconds of processor time"
    elif status < 0:
        what = f"crashed the reading process (signal {-status})"
    else:
        what = "exceeded its memory limit" if status == OUT_OF_MEMORY else f"ended the process (exit status {status})"
    return FormatError(f"reading it {what}", hint=HARMLESS)


def is_out_of_time(status: int) -> bool:
    """Whether a child with this exit status exceeded its processor time."""
    return status == OUT_OF_TIME or -status in (getattr(signal, "SIGALRM", None), getattr(signal, "SIGXCPU", None))


def _timed_out(limits: Limits) -> ExporterError:
    """The error for a timeout, which implies nothing about the file."""
    return ExporterError(f"timed out: reading it took more than {limits.wall_seconds} seconds, but not of processor time",
                         hint="the machine, or the disk or network with the file, is too busy; try again")


def receive(child: Child, feed: Callable[[bytes], object], is_complete: Callable[[], bool] = lambda: False) -> None:
    """Feeds what a child sends, until the child ends or everything has arrived."""
    deadline = time.monotonic() + child.limits.wall_seconds
    size = 0
    waiting = None
    if sys.platform != "win32":  # where pipes cannot be polled; there the child's own timer ends it, and thereby the read
        waiting = select.poll()
        waiting.register(child.descriptor, select.POLLIN)
    while not is_complete():
        left = deadline - time.monotonic()
        if left <= 0 or (waiting is not None and not waiting.poll(1000 * left)):
            raise _timed_out(child.limits)
        part = os.read(child.descriptor, 1 << 20)
        if not part:
            return
        size += len(part)
        if size > MAX_ANSWER:
            raise FormatError(f"expected at most {MAX_ANSWER} bytes of batch norms, got more")
        feed(part)


def _fork(place: Place, options: ReadOptions, limits: Limits) -> Child:
    def serve(sending: int) -> None:
        prepare()
        _serve(place, options, limits, sending)

    receiving, process = forked(serve)
    return Child(receiving, process.wait, process.kill, limits)


def forked(serve: Callable[[int], object], *not_its: int) -> tuple[int, Forked]:
    """(descriptor of what it sends, the process): a fork of this process that calls `serve` with the descriptor to send to, and
    exits. not_its: descriptors that it does not need.
    """
    receiving, sending = os.pipe()
    widen(sending)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:  # never returns into the caller's program
        status = 70
        try:
            for descriptor in (receiving, *not_its):
                os.close(descriptor)
            die_with_parent(parent)
            serve(silenced(sending))
            status = 0
        finally:
            os._exit(status)
    os.close(sending)
    return receiving, Forked(pid)


class Forked:
    """A forked process, by its number."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._is_there = True
        self._status: int | None = None

    def wait(self) -> int | None:
        """Waits for its end and gives its exit status, also when called again."""
        if self._is_there:
            self._is_there = False
            with contextlib.suppress(ChildProcessError):  # this program ignores SIGCHLD, or waits for all children itself
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def kill(self) -> None:
        if self._is_there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def silenced(sending: int) -> int:
    """Closes the standard streams in the child: what a crashing libhdf5 or libc prints is not for the user. Returns the pipe's descriptor,
    which may have been one of the three if the caller had closed them."""
    import fcntl

    sending = fcntl.fcntl(sending, fcntl.F_DUPFD_CLOEXEC, 3)
    silent = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, 3)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    return sending


def widen(pipe: int) -> None:
    """Enlarges a pipe, if the system allows it, so that the child need not wait while this process imports."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)


STARTER = "import sys; sys.path[:] = dict.fromkeys(sys.argv[1:]); from exporter.pipeline import child; child.serve_request()"


def interpreter() -> str:
    """A Python of this installation. In a frozen program, or one with an embedded Python, `sys.executable` is that program: started
    again, it would repeat its own work, and so on.

    Raises: UsageError if there is none.
    """
    version = "{}.{}".format(*sys.version_info)
    beside = [os.path.join(sys.exec_prefix, *parts) for parts in (("bin", f"python{version}"), ("bin", "python3"), ("python.exe",))]
    for path in [] if getattr(sys, "frozen", False) else [sys.executable, *beside]:
        if path and re.match(r"python|pypy|graalpy", os.path.basename(path), re.IGNORECASE) and os.access(path, os.X_OK):
            return path
    raise UsageError("isolated=True starts a Python interpreter, which this program does not have",
                     hint="omit isolated=True, or run bn-export")


def spawned(program: str) -> tuple[IO[bytes], int, subprocess.Popen[bytes]]:
    """(pipe to it, descriptor of what it sends, the process): a new interpreter that runs one line of ours."""
    import subprocess

    # -I: neither the current folder, which may be the model's, nor a variable adds places to import modules from
    command = [interpreter(), "-I", "-c", program, str(Path(__file__).resolve().parents[2]), *filter(os.path.isabs, sys.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    receiving = os.dup(process.stdout.fileno())
    process.stdout.close()
    widen(receiving)
    return process.stdin, receiving, process


def _spawn(place: Place, options: ReadOptions, limits: Limits) -> Child:
    pipe, receiving, process = spawned(STARTER)
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(request(place, options, limits))
    return Child(receiving, process.wait, process.kill, limits)


def request(place: Place, options: ReadOptions, limits: Limits) -> bytes:
    """The request to a child that does not share its parent's memory."""
    import json

    return json.dumps({"path": place.address, "options": fields_of(options), "limits": dataclasses.asdict(limits),
                       "parent": os.getpid()}).encode()


def serve_request() -> None:
    """In a spawned child: serves the request on its standard input."""
    asked = sys.stdin.buffer.read()
    place, options, limits, parent = understood(asked)
    die_with_parent(parent)
    prepare()
    _serve(place, options, limits, 1)


def understood(asked: bytes) -> tuple[Place, ReadOptions, Limits, int]:
    """A request, with the process id of its sender."""
    import json

    said = json.loads(asked)
    return place_for(said["path"]), options_of(said["options"]), Limits(**said["limits"]), said["parent"]


def fields_of(options: ReadOptions) -> dict[str, Any]:
    """Options for JSON."""
    return {**options.said(), "architecture": None if options.architecture is None else options.architecture.address}


def options_of(fields: dict[str, Any]) -> ReadOptions:
    """The options that `fields_of` describes."""
    from exporter.sources.shared.options import ReadOptions

    return ReadOptions(**{**fields, "epsilon": tuple((glob, value) for glob, value in fields["epsilon"]), "layers": tuple(fields["layers"]),
                          "architecture": None if fields["architecture"] is None else place_for(fields["architecture"])})


def asks_for_plugins() -> bool:
    """Whether importing h5py in this process could make libhdf5 load code or print messages."""
    return any(name in os.environ for name in HDF5_VARIABLES) or os.environ.get("HDF5_PLUGIN_PRELOAD", NO_PLUGINS) != NO_PLUGINS


def prepare() -> None:
    """In a child: stops libhdf5 from loading plugins and from opening files in any unexpected way."""
    import gc

    gc.disable()  # a short-lived process without reference cycles
    for name in HDF5_VARIABLES:
        os.environ.pop(name, None)
    os.environ["HDF5_PLUGIN_PRELOAD"] = NO_PLUGINS


def _serve(place: Place, options: ReadOptions, limits: Limits, descriptor: int) -> None:
    """In a child that reads one file: sends the answer."""
    with os.fdopen(descriptor, "wb", buffering=BUFFER, closefd=True) as file:
        serve(place, options, limits, file.write)


def serve(place: Place, options: ReadOptions, limits: Limits, write: Callable[[bytes], object]) -> None:
    """In a child: reads with limits and writes the answer."""
    from exporter.pipeline.finding import read_unresolved
    from exporter.pipeline.message import Writer

    limits.apply()
    writer = Writer(write)
    try:
        writer.answer(read_unresolved(place, dataclasses.replace(options, announce=writer.layer)))
    except ExporterError as error:
        writer.error(error)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # nothing more can be sent
    except RecursionError:
        writer.error(FormatError("it is nested too deeply", hint=HARMLESS))
    except Exception as error:  # a bug of this package, reported as such; `exporter.read` without isolation shows where
        writer.error(errors.unexpected(error))

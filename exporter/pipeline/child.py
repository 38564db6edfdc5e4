"""Reading in a child process with limits: libhdf5 hangs or crashes on some damaged files, and a child takes that with it.

What the child sends back (exporter/pipeline/message.py) is checked, and the gate applied to it as to any other bundle. `fork` starts a
child in a millisecond, for a program of one thread such as the command; `spawn` starts a fresh interpreter, safe in any program and on
Windows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import selectors
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from exporter import errors
from exporter.errors import ExporterError, FormatError, UsageError
from exporter.files.place import Place
from exporter.files.remote import place_for
from exporter.pipeline.limits import OUT_OF_MEMORY, OUT_OF_TIME, Limits, die_with_parent

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import ReadBack
    from exporter.batchnorm.stored import Stored
    from exporter.sources.shared.found import Found
    from exporter.sources.shared.options import ReadOptions

MOST_ANSWER = 2 << 30  # bytes
PIPE = 1 << 20  # bytes; what an unprivileged process may ask for on Linux
BUFFER = 1 << 16
# What would have HDF5 load code or open files in another way than this package says.
HDF5_VARIABLES = ("HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER", "HDF5_DRIVER_CONFIG")
HARMLESS = "the file is damaged, or made to do this; nothing was read from it"


@dataclasses.dataclass(frozen=True)
class Child:
    """A running child: its answer is read from `descriptor`, within `limits`.

    wait: waits for its end and gives its exit status; None where the system has thrown it away.
    """

    descriptor: int
    wait: Callable[[], int | None]
    kill: Callable[[], None]
    limits: Limits


def start(place: Place, options: ReadOptions, *, fork: bool) -> Child:
    """Starts the child and returns at once.

    Raises: UsageError where there is no interpreter to start.
    """
    limits = Limits.of(place)
    return _fork(place, options, limits) if fork and hasattr(os, "fork") else _spawn(place, options, limits)


def finish(child: Child, meanwhile: Callable[[], object], each: Callable[[Stored], object]) -> Found | ReadBack:
    """Calls `meanwhile`, then takes in what the child sends, calling `each` with each layer as it comes, before anything has judged it.

    Whatever ends this early ends the child, too.
    """
    try:
        meanwhile()
        from exporter.pipeline.message import Reader

        reader = Reader(FormatError("the reading process was damaged by it", hint=HARMLESS), each)
        _receive(child, reader.feed)
        status = child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        os.close(child.descriptor)
    if status:
        raise _ending(status, child.limits)
    return reader.answer()


def _ending(status: int, limits: Limits) -> ExporterError:
    """What the exit status of a child says that did not end well."""
    if status == OUT_OF_TIME or -status == getattr(signal, "SIGALRM", None):
        return _timed_out(limits)
    if -status == getattr(signal, "SIGXCPU", None):
        what = f"did not end within {limits.cpu_seconds} seconds of processor time"
    elif status < 0:
        what = f"crashed the reading process (signal {-status})"
    else:
        what = "ran out of the memory allowed for it" if status == OUT_OF_MEMORY else f"ended the reading process (exit status {status})"
    return FormatError(f"reading it {what}", hint=HARMLESS)


def _timed_out(limits: Limits) -> ExporterError:
    """Where the clock ended it: which says nothing about the file."""
    return ExporterError(f"timed out: reading it took more than {limits.wall_seconds} seconds, though not of processor time",
                         hint="the machine, or the disk or network that the file lies on, is too busy; try again")


def _receive(child: Child, feed: Callable[[bytes], object]) -> None:
    deadline = time.monotonic() + child.limits.wall_seconds
    size = 0
    with contextlib.ExitStack() as stack:
        selector = None
        if sys.platform != "win32":  # where pipes cannot be waited for; the child's own timer ends it, and the read with it
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(child.descriptor, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or (selector is not None and not selector.select(left)):
                raise _timed_out(child.limits)
            part = os.read(child.descriptor, 1 << 20)
            if not part:
                return
            size += len(part)
            if size > MOST_ANSWER:
                raise FormatError(f"it holds more than {MOST_ANSWER} bytes of batch norms")
            feed(part)


def _fork(place: Place, options: ReadOptions, limits: Limits) -> Child:
    receiving, sending = os.pipe()
    _widen(sending)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:  # never returns into the caller's program
        status = 70
        try:
            os.close(receiving)
            die_with_parent(parent)
            _serve(place, options, limits, _silenced(sending))
            status = 0
        finally:
            os._exit(status)
    os.close(sending)

    def wait() -> int | None:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:  # this program ignores SIGCHLD, or waits for all children itself
            return None

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    return Child(receiving, wait, kill, limits)


def _silenced(sending: int) -> int:
    """Closes the standard streams to the child: what a dying libhdf5 or libc prints is not for the user. Returns the pipe's descriptor,
    which may have been one of the three where the caller had closed them."""
    import fcntl

    sending = fcntl.fcntl(sending, fcntl.F_DUPFD_CLOEXEC, 3)
    silent = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, 3)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    return sending


def _widen(pipe: int) -> None:
    """Makes room in a pipe, where the system lets us, so that the child needs not wait while this process imports."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)


STARTER = "import sys; sys.path[:] = dict.fromkeys(sys.argv[1:]); from exporter.pipeline import child; child.serve_request()"


def _interpreter() -> str:
    """A Python of this installation. `sys.executable` of a frozen program, or of one that Python is embedded in, is that program: started
    again it would do its own work again, and so on.

    Raises: UsageError where there is none.
    """
    version = "{}.{}".format(*sys.version_info)
    beside = [os.path.join(sys.exec_prefix, *parts) for parts in (("bin", f"python{version}"), ("bin", "python3"), ("python.exe",))]
    for path in [] if getattr(sys, "frozen", False) else [sys.executable, *beside]:
        if path and re.match(r"python|pypy|graalpy", os.path.basename(path), re.IGNORECASE) and os.access(path, os.X_OK):
            return path
    raise UsageError("isolated=True starts a Python interpreter, and this program has none", hint="read without it, or have bn-export read")


def _spawn(place: Place, options: ReadOptions, limits: Limits) -> Child:
    import subprocess

    # -I: neither the current folder, which may be the model's, nor a variable adds to the places that modules come from
    command = [_interpreter(), "-I", "-c", STARTER, str(Path(__file__).resolve().parents[2]), *filter(os.path.isabs, sys.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(_request(place, options, limits))
    receiving = os.dup(process.stdout.fileno())
    process.stdout.close()
    _widen(receiving)
    return Child(receiving, process.wait, process.kill, limits)


def _request(place: Place, options: ReadOptions, limits: Limits) -> bytes:
    import json

    fields = {**options.said(), "architecture": None if options.architecture is None else options.architecture.address}
    return json.dumps({"path": place.address, "options": fields, "limits": dataclasses.asdict(limits), "parent": os.getpid()}).encode()


def serve_request() -> None:
    """In a spawned child: serves the request on its standard input."""
    import json

    from exporter.sources.shared.options import ReadOptions

    asked = json.loads(sys.stdin.buffer.read())
    die_with_parent(asked["parent"])
    fields = asked["options"]
    fields["epsilon"] = tuple((glob, value) for glob, value in fields["epsilon"])
    fields["layers"] = tuple(fields["layers"])
    fields["architecture"] = None if fields["architecture"] is None else place_for(fields["architecture"])
    _serve(place_for(asked["path"]), ReadOptions(**fields), Limits(**asked["limits"]), 1)


def _serve(place: Place, options: ReadOptions, limits: Limits, descriptor: int) -> None:
    """In the child: reads under limits and sends the answer."""
    import gc

    from exporter.pipeline.finding import read_unresolved

    limits.apply()
    gc.disable()  # a short life, and nothing in it goes round in circles
    for name in HDF5_VARIABLES:
        os.environ.pop(name, None)
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # libhdf5 then loads no plugins
    with os.fdopen(descriptor, "wb", buffering=BUFFER, closefd=True) as file:
        from exporter.pipeline.message import Writer

        writer = Writer(file.write)
        try:
            writer.answer(read_unresolved(place, dataclasses.replace(options, announce=writer.layer)))
        except ExporterError as error:
            writer.error(error)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)  # nothing more can be sent
        except RecursionError:
            writer.error(FormatError("it is nested too deeply", hint=HARMLESS))
        except Exception as error:  # a bug of ours, told as such; `exporter.read` without isolation shows where
            writer.error(errors.unexpected(error))

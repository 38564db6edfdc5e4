"""Reading in a child process with limits: libhdf5 hangs or crashes on some damaged files, and a child takes that with it.

What the child sends back (exporter/pipeline/message.py) is checked, and the gate applied to it as to any other bundle. `fork` starts a
child in a millisecond, for a program of one thread such as the command; `spawn` starts a fresh interpreter, safe in any program and on
Windows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from exporter import errors
from exporter.errors import ExporterError, FormatError
from exporter.files.place import Place
from exporter.files.remote import place_for

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import ReadBack
    from exporter.batchnorm.stored import Stored
    from exporter.sources.shared.found import Found
    from exporter.sources.shared.options import ReadOptions

MEMORY = 2 << 30  # bytes of address space beyond what the child starts with
CPU_SECONDS = 3  # and one more for each MiB of the model; a sound one takes a tenth of that at most
REMOTE_CPU_SECONDS = 30  # the libraries of the store and its encryption take their share
WALL_SECONDS, REMOTE_WALL_SECONDS = 60, 600
OUT_OF_MEMORY = 71  # exit status
MOST_ANSWER = 2 << 30  # bytes
PIPE = 1 << 20  # bytes; what an unprivileged process may ask for on Linux
BUFFER = 1 << 16
# What would have HDF5 load code or open files in another way than this package says.
HDF5_VARIABLES = ("HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER", "HDF5_DRIVER_CONFIG")
HARMLESS = "the file is damaged, or made to do this; nothing was read from it"


class Child:
    """A running child: its answer is read from `descriptor`, for at most `seconds`; it has `cpu_seconds` of processor time."""

    def __init__(self, descriptor: int, wait: Callable[[], int], kill: Callable[[], None], place: Place) -> None:
        self.descriptor, self.wait, self.kill = descriptor, wait, kill
        self.seconds, self.cpu_seconds = _wall_seconds(place), _cpu_seconds(place)


def start(place: Place, options: ReadOptions, *, fork: bool) -> Child:
    """Starts the child and returns at once."""
    return _fork(place, options) if fork and hasattr(os, "fork") else _spawn(place, options)


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
    if status != 0:
        raise FormatError(f"reading it {_ending(status, child.cpu_seconds)}", hint=HARMLESS)
    return reader.answer()


def _ending(status: int, cpu_seconds: int) -> str:
    if status < 0 and -status == getattr(signal, "SIGXCPU", None):
        return f"did not end within {cpu_seconds} seconds of processor time"
    if status < 0:
        return f"crashed the reading process (signal {-status})"
    return "ran out of the memory allowed for it" if status == OUT_OF_MEMORY else f"ended the reading process (exit status {status})"


def _receive(child: Child, feed: Callable[[bytes], object]) -> None:
    deadline = time.monotonic() + child.seconds
    size = 0
    with selectors.DefaultSelector() if sys.platform != "win32" else _NoSelector() as selector:
        selector.register(child.descriptor, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise FormatError(f"reading it did not end within {child.seconds} seconds", hint=HARMLESS)
            part = os.read(child.descriptor, 1 << 20)
            if not part:
                return
            size += len(part)
            if size > MOST_ANSWER:
                raise FormatError(f"it holds more than {MOST_ANSWER} bytes of batch norms")
            feed(part)


class _NoSelector:
    """Windows cannot select on pipes: there the child's own timer (see `_limit`) ends it, and the read with it."""

    def __enter__(self) -> _NoSelector:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def register(self, descriptor: int, events: int) -> None:
        pass

    def select(self, timeout: float) -> bool:
        return True


def _fork(place: Place, options: ReadOptions) -> Child:
    receiving, sending = os.pipe()
    _widen(sending)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:  # never returns into the caller's program
        status = 70
        try:
            os.close(receiving)
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):  # what a dying libhdf5 or libc prints is not for the user
                os.dup2(silent, stream)
            _serve(place, options, sending)
            status = 0
        finally:
            os._exit(status)
    os.close(sending)

    def wait() -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    return Child(receiving, wait, kill, place)


def _widen(pipe: int) -> None:
    """Makes room in a pipe, where the system lets us, so that the child needs not wait while this process imports."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)


STARTER = "import sys; sys.path[:] = dict.fromkeys(sys.argv[1:]); from exporter.pipeline import child; child.serve_request()"


def _spawn(place: Place, options: ReadOptions) -> Child:
    import subprocess

    # -I: neither the current folder, which may be the model's, nor a variable adds to the places that modules come from
    command = [sys.executable, "-I", "-c", STARTER, str(Path(__file__).resolve().parents[2]), *filter(os.path.isabs, sys.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(_request(place, options))
    receiving = os.dup(process.stdout.fileno())
    process.stdout.close()
    _widen(receiving)
    return Child(receiving, process.wait, process.kill, place)


def _request(place: Place, options: ReadOptions) -> bytes:
    import json

    fields = {**options.said(), "architecture": None if options.architecture is None else options.architecture.address}
    return json.dumps({"path": place.address, "options": fields}).encode()


def serve_request() -> None:
    """In a spawned child: serves the request on its standard input."""
    import json

    from exporter.sources.shared.options import ReadOptions

    asked = json.loads(sys.stdin.buffer.read())
    fields = asked["options"]
    fields["epsilon"] = tuple((glob, value) for glob, value in fields["epsilon"])
    fields["layers"] = tuple(fields["layers"])
    fields["architecture"] = None if fields["architecture"] is None else place_for(fields["architecture"])
    _serve(place_for(asked["path"]), ReadOptions(**fields), 1)


def _serve(place: Place, options: ReadOptions, descriptor: int) -> None:
    """In the child: reads under limits and sends the answer."""
    import gc

    from exporter.pipeline.finding import read_unresolved

    _limit(place)
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


def _wall_seconds(place: Place) -> int:
    return WALL_SECONDS if place.is_local else REMOTE_WALL_SECONDS


def _cpu_seconds(place: Place) -> int:
    if not place.is_local:
        return REMOTE_CPU_SECONDS
    sizes = [place.local.stat().st_size] if place.local.is_file() else []
    with contextlib.suppress(OSError):
        if not sizes:  # a folder, or the prefix of a checkpoint: all that lies there but the data, of which only parts are read
            with os.scandir(place.local if place.local.is_dir() else place.local.parent) as entries:
                sizes = [entry.stat().st_size for entry in entries if entry.is_file() and ".data-" not in entry.name]
    return CPU_SECONDS + min(sum(sizes) >> 20, WALL_SECONDS)


def _limit(place: Place) -> None:
    seconds = _cpu_seconds(place)
    try:
        import resource
    except ImportError:  # Windows: a timer that ends the process
        import threading

        timer = threading.Timer(_wall_seconds(place), os._exit, (72,))
        timer.daemon = True
        timer.start()
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + seconds + 1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = _address_space() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _address_space() -> int:
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 0

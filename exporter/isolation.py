"""Reading in a child process with limits: libhdf5 hangs or crashes on some damaged files, and a child takes that with it.

The child sends back JSON and raw array bytes, nothing that is unpickled; the parent builds the layers from them, checking every
length, and applies the gate as for any other bundle. `fork` starts a child in a millisecond, for a program of one thread such as the
command; `spawn` starts a fresh interpreter, safe in any program and on Windows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter import errors
from exporter.errors import ExporterError, FormatError, UnresolvedError, printable
from exporter.place import Place
from exporter.remote import place_for

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from exporter.sources import Options

MEMORY = 2 << 30  # bytes of address space beyond what the child starts with
CPU_SECONDS = 3  # and one more for each 4 MiB of the file; a sound file takes a tenth of that at most
REMOTE_CPU_SECONDS = 30  # the libraries of the store and its encryption take their share
WALL_SECONDS, REMOTE_WALL_SECONDS = 60, 600
OUT_OF_MEMORY = 71  # exit status
MOST_ANSWER = 2 << 30  # bytes
# What would have HDF5 load code or open files in another way than this package says.
HDF5_VARIABLES = ("HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER", "HDF5_DRIVER_CONFIG")
HARMLESS = "the file is damaged, or made to do this; nothing was read from it"


class Child:
    """A running child: its answer is read from `descriptor`, for at most `seconds`."""

    def __init__(self, descriptor: int, wait: Callable[[], int], kill: Callable[[], None], seconds: int) -> None:
        self.descriptor, self.wait, self.kill, self.seconds = descriptor, wait, kill, seconds


def start(place: Place, options: Options, *, fork: bool) -> Child:
    """Starts the child and returns at once."""
    return _fork(place, options) if fork and hasattr(os, "fork") else _spawn(place, options)


def finish(child: Child, meanwhile: Callable[[], object]) -> Bundle:
    """Calls `meanwhile`, waits for the child's answer and checks it. Whatever ends this early ends the child, too."""
    try:
        meanwhile()
        answer = _receive(child)
        status = child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        os.close(child.descriptor)
    if status != 0:
        raise FormatError(f"reading it {_ending(status)}", hint=HARMLESS)
    return decode(answer)


def _ending(status: int) -> str:
    if status < 0 and -status == getattr(signal, "SIGXCPU", None):
        return f"did not end within {CPU_SECONDS} seconds of processor time"
    if status < 0:
        return f"crashed the reading process (signal {-status})"
    return "ran out of the memory allowed for it" if status == OUT_OF_MEMORY else f"ended the reading process (exit status {status})"


def _receive(child: Child) -> bytes:
    deadline = time.monotonic() + child.seconds
    parts: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() if sys.platform != "win32" else _NoSelector() as selector:
        selector.register(child.descriptor, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise FormatError(f"reading it did not end within {child.seconds} seconds", hint=HARMLESS)
            part = os.read(child.descriptor, 1 << 20)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
            if size > MOST_ANSWER:
                raise FormatError(f"it holds more than {MOST_ANSWER} bytes of batch norms")


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


def _fork(place: Place, options: Options) -> Child:
    receiving, sending = os.pipe()
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

    return Child(receiving, wait, kill, _wall_seconds(place))


STARTER = "import sys; sys.path[:] = dict.fromkeys(sys.argv[1:]); from exporter import isolation; isolation.serve_request()"


def _spawn(place: Place, options: Options) -> Child:
    # -I: neither the current folder, which may be the model's, nor a variable adds to the places that modules come from
    command = [sys.executable, "-I", "-c", STARTER, str(Path(__file__).resolve().parent.parent), *filter(os.path.isabs, sys.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(_request(place, options))
    receiving = os.dup(process.stdout.fileno())
    process.stdout.close()
    return Child(receiving, process.wait, process.kill, _wall_seconds(place))


def _request(place: Place, options: Options) -> bytes:
    import json

    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    fields["architecture"] = None if options.architecture is None else options.architecture.address
    return json.dumps({"path": place.address, "options": fields}).encode()


def serve_request() -> None:
    """In a spawned child: serves the request on its standard input."""
    import json

    from exporter.sources import Options

    asked = json.loads(sys.stdin.buffer.read())
    fields = asked["options"]
    fields["epsilon"] = tuple((glob, value) for glob, value in fields["epsilon"])
    fields["layers"] = tuple(fields["layers"])
    fields["architecture"] = None if fields["architecture"] is None else place_for(fields["architecture"])
    _serve(place_for(asked["path"]), Options(**fields), 1)


def _serve(place: Place, options: Options, descriptor: int) -> None:
    """In the child: reads under limits and sends the answer."""
    from exporter.resolve import read_unresolved

    _limit(place)
    for name in HDF5_VARIABLES:
        os.environ.pop(name, None)
    try:
        answer = encode(read_unresolved(place, options))
    except ExporterError as error:
        answer = [_encode_error(error)]
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # nothing more can be sent
    except RecursionError:
        answer = [_encode_error(FormatError("it is nested too deeply", hint=HARMLESS))]
    except Exception as error:  # a bug of ours, told as such; `exporter.read` without isolation shows where
        answer = [_encode_error(errors.unexpected(error))]
    with os.fdopen(descriptor, "wb", buffering=0, closefd=True) as file:
        for part in answer:
            view = memoryview(part).cast("B")
            while view:
                view = view[file.write(view) or 0:]


def _wall_seconds(place: Place) -> int:
    return WALL_SECONDS if place.is_local else REMOTE_WALL_SECONDS


def _limit(place: Place) -> None:
    size = place.size() if place.is_local and place.is_file() else 0
    seconds = (CPU_SECONDS if place.is_local else REMOTE_CPU_SECONDS) + (size >> 22)
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


# --- what goes through the pipe: the length of a JSON header, the header, the arrays one after the other -------------------------------

def encode(bundle: Bundle) -> list[bytes]:
    """A bundle as the parts of a message."""
    import numpy as np
    import orjson

    from exporter.layer import PARAMETERS

    arrays, layers = [], []
    for layer in bundle.layers:
        fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer) if field.name not in PARAMETERS}
        fields["present"] = list(layer.parameters())
        layers.append(fields)
        arrays += [np.ascontiguousarray(values).data for values in layer.parameters().values()]
    vectors = {path: list(x.shape) for path, (x, _) in bundle.vectors.items()}
    arrays += [np.ascontiguousarray(rows).data for pair in bundle.vectors.values() for rows in pair]
    header = orjson.dumps({"layers": layers, "origin": dataclasses.asdict(bundle.origin), "skipped": bundle.skipped,
                           "warnings": bundle.warnings, "vectors": vectors, "settled": bundle.settled})
    return [len(header).to_bytes(8, "little"), header, *arrays]  # type: ignore[list-item]  # memoryviews are written as they are


ERRORS = {kind.__name__: kind for kind in ExporterError.__subclasses__()}


def _encode_error(error: ExporterError) -> bytes:
    import orjson

    fields = {"what": error.what, "where": error.where, "hint": error.hint}
    layers = [(printable(path), printable(reason, 1000)) for path, reason in getattr(error, "layers", ())]
    header = orjson.dumps({"error": type(error).__name__, "layers": layers,
                           **{name: printable(str(text), 1000) for name, text in fields.items()}})
    return len(header).to_bytes(8, "little") + header


def decode(answer: bytes) -> Bundle:
    """The bundle of a message, every length checked; raises the error that the message holds instead."""
    import orjson

    from exporter.bundle import Bundle, Origin

    broken = FormatError("the reading process was damaged by it", hint=HARMLESS)
    length = int.from_bytes(answer[:8], "little")
    try:
        header = orjson.loads(memoryview(answer)[8:8 + length])
        refused = _decode_error(header) if "error" in header else None
    except (KeyError, TypeError, ValueError):
        raise broken from None
    if refused is not None:
        raise refused
    data = _arrays(memoryview(answer)[8 + length:], broken)
    try:
        layers = tuple(_decode_layer(fields, data) for fields in header["layers"])
        by_path = {layer.path: layer for layer in layers}
        vectors = {path: (data(by_path[path].dtype, shape), data(by_path[path].dtype, shape)) for path, shape in header["vectors"].items()}
        skipped = tuple((str(path), str(reason)) for path, reason in header["skipped"])
        return Bundle(layers=layers, origin=Origin(**header["origin"]), skipped=skipped, warnings=tuple(map(str, header["warnings"])),
                      vectors=vectors, settled=bool(header["settled"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise broken from None


def _decode_error(header: dict[str, Any]) -> ExporterError:
    what, where, hint = (str(header[name]) for name in ("what", "where", "hint"))
    if header["error"] == "UnresolvedError":
        return UnresolvedError([(str(path), str(reason)) for path, reason in header["layers"]], where=where, hint=hint)
    error = ExporterError(what, where=where, hint=hint)
    error.__class__ = ERRORS.get(header["error"], ExporterError)
    return error


def _arrays(data: memoryview, broken: FormatError) -> Callable[[str, Any], Any]:
    import numpy as np

    from exporter.layer import HELD_IN

    position = 0

    def take(dtype: str, shape: Any) -> Any:
        nonlocal position
        kind = np.dtype(HELD_IN[dtype])
        size = kind.itemsize
        for length in shape:
            size *= int(length)
        if size < 0 or position + size > len(data):
            raise broken
        array = np.frombuffer(data[position:position + size], kind).reshape(shape)
        position += size
        return array

    return take


FIELDS = {**dict.fromkeys(("path", "name", "class_name", "statistic"), str), "quantized": str | None, "ndim": int | None,
          **dict.fromkeys(("epsilon", "momentum", "effective_epsilon"), float | None),
          "shape": tuple}


def _decode_layer(fields: dict[str, Any], data: Callable[[str, Any], Any]) -> Any:
    from exporter.layer import PARAMETERS, BatchNorm

    present = fields.pop("present")
    for name in ("axis", "shape", "assumed", "converted"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    for name in PARAMETERS:
        fields[name] = data(fields["dtype"], fields["shape"]) if name in present else None
    if fields["moving_mean"] is None or fields["moving_variance"] is None:
        raise TypeError("a parameter is missing")
    whole = all(type(number) is int for name in ("axis", "shape") for number in fields[name] or ())
    if not (whole and all(isinstance(fields[name], kind) for name, kind in FIELDS.items())):
        raise TypeError("a field is of another type")
    return BatchNorm(**fields)


"""Reading processes that serve many files, for batches: starting one per file takes several times as long as reading a small file.

A process that could not read a file is never used again: the file may have damaged it. Nor is a process that has read many
files, or has grown. Limits on time and memory apply to each file. What it sends is checked as from any other child.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

from exporter.errors import ExporterError, FormatError, UnresolvedError, UsageError
from exporter.files.remote import place_for
from exporter.pipeline import child
from exporter.pipeline.limits import Limits, memory_of

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import ReadBack
    from exporter.batchnorm.stored import Stored
    from exporter.files.place import Place
    from exporter.sources.shared.found import Found
    from exporter.sources.shared.options import ReadOptions

MAX_FILES = 500  # that one process reads
MAX_GROWTH = 256 << 20  # bytes of memory in addition to what it had after its first file
IDLE_SECONDS = 60  # of waiting, after which it ends by itself
NO_LIMITS = Limits(0, 0, 0)  # until a file is asked for
LENGTH = struct.Struct("<Q")
ABOUT_OPTIONS = (UnresolvedError, UsageError)  # errors that imply nothing about the file


@dataclasses.dataclass
class Reader:
    """A process that waits for the next file. requests: the pipe to it. files: the number it has read. memory: after the first file.
    has_waited: whether it waited for a file, which it does for IDLE_SECONDS."""

    requests: int
    running: child.Child
    pid: int
    files: int = 0
    memory: int = 0
    has_waited: bool = False

    def close(self) -> None:
        """Ends it, and waits for its end."""
        self.running.kill()
        self.forget()
        self.running.wait()

    def forget(self) -> None:
        """Closes this end of its pipes."""
        for descriptor in (self.requests, self.running.descriptor):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def is_worn(self) -> bool:
        """Whether it should be replaced."""
        size = memory_of(self.pid, 1)
        self.memory = self.memory or size
        return self.files >= MAX_FILES or size > self.memory + MAX_GROWTH


class Asked:
    """A process that is reading a file ahead of time. taken: whether somebody is receiving what it sends."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.taken = False

    def close(self) -> None:
        """Ends it, unless it was taken."""
        if not self.taken:
            self.taken = True
            self.reader.close()


class Readers:
    """The waiting reading processes, shared by all readers in this process, in any thread."""

    def __init__(self) -> None:
        self._idle: list[Reader] = []
        self._started = False
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def begin(self, place: Place) -> None:
        """Starts a process early if it takes long to start: it imports its modules while the caller imports others. place: the first to be
        read."""
        if _can_fork() or not can_serve(place):
            return
        with contextlib.suppress(ExporterError, OSError):  # reported when a file is read
            self._keep(self._take())

    def ask(self, place: Place, options: ReadOptions) -> Asked | None:
        """Starts reading a file ahead of time, while the caller still writes another one; None if that is not possible."""
        if not can_serve(place):
            return None
        reader = self._take()
        try:
            was_asked = _ask(reader.requests, _request(place, options))
        except BaseException:
            reader.close()
            raise
        if was_asked:
            return Asked(reader)
        reader.close()
        return None

    def read(self, place: Place, options: ReadOptions, meanwhile: Callable[[], object], each: Callable[[list[Stored]], object],
             asked: Asked | None = None) -> Found | ReadBack:
        """Like `child.start` and `child.finish`, by a waiting process, a new one, or the one that is already reading this file. If
        a process dies that had waited for a file, or had to wait with its answer, a new one tries again: the file may not be to blame. Then
        `each` is called again for every layer.
        """
        while True:
            reader = self._take() if asked is None else asked.reader
            is_new = not reader.has_waited and asked is None
            try:
                found = _answer(reader, place, options, meanwhile, each, asked)
            except _DiedError as death:
                reader.close()
                if is_new:
                    raise death.reason from None
                asked = None
            except ABOUT_OPTIONS:
                self._give_back(reader)
                raise
            except BaseException:
                reader.close()
                raise
            else:
                self._give_back(reader)
                return found

    def close(self) -> None:
        """Ends the waiting processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.close()

    def _take(self) -> Reader:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            is_first, self._started = not self._started, True
        if not _can_fork():
            return _spawned()
        prepare(library=not is_first)  # this one follows one that was worn or had a damaged file: more will come, and each may need it
        return _forked()

    def _give_back(self, reader: Reader) -> None:
        if reader.is_worn():
            reader.close()
            return
        self._keep(reader)

    def _keep(self, reader: Reader) -> None:
        reader.has_waited = True
        with self._lock:
            self._idle.append(reader)

    def _forget(self) -> None:
        """In a fork of this process: these belong to the parent, and end when all their pipes are closed."""
        for reader in self._idle:
            reader.forget()
        self._idle, self._lock = [], threading.Lock()


READERS = Readers()


def can_serve(place: Place) -> bool:
    """Whether these processes read it: not remote files, because a store may keep too much state between two files."""
    return place.is_local and sys.platform != "win32"  # only its own timer ends a process there


def _can_fork() -> bool:
    """Not beside other threads, and not after tensorstore was imported: Python does not count its threads, without which a fork aborts."""
    return threading.active_count() == 1 and hasattr(os, "fork") and "tensorstore" not in sys.modules


class _DiedError(Exception):
    """The process ended before its answer was complete. reason: the error if this file was its first."""

    def __init__(self, reason: ExporterError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _answer(reader: Reader, place: Place, options: ReadOptions, meanwhile: Callable[[], object], each: Callable[[list[Stored]], object],
            asked: Asked | None) -> Found | ReadBack:
    from exporter.pipeline.message import Reader as Message

    limits = Limits.of(place)
    running = dataclasses.replace(reader.running, limits=limits)
    message = Message(FormatError("the file made the reading process fail", hint=child.HARMLESS), each)
    if asked is not None:
        asked.taken = True
    ended = asked is None and not _ask(reader.requests, _request(place, options))
    meanwhile()
    if not ended:
        child.receive(running, message.feed, lambda: message.is_complete)
    if not message.is_complete:
        status = running.wait()
        reason = child.ending(status or 0, limits)
        if asked is not None or status is None or not child.is_out_of_time(status):
            raise _DiedError(reason)
        raise reason
    reader.files += 1
    return message.answer()


def _request(place: Place, options: ReadOptions) -> bytes:
    return child.request(_absolute(place), _with_absolute(options), Limits.of(place))


def _ask(pipe: int, request: bytes) -> bool:
    """Writes a request; returns whether there is a reader."""
    data = memoryview(LENGTH.pack(len(request)) + request)
    try:
        while data:
            data = data[os.write(pipe, data):]
    except BrokenPipeError:
        return False
    return True


def _absolute(place: Place) -> Place:
    """The same place for a process that may have started in another folder."""
    return place_for(os.path.join(os.getcwd(), place.address)) if place.is_local and not os.path.isabs(place.address) else place


def _with_absolute(options: ReadOptions) -> ReadOptions:
    return options if options.architecture is None else dataclasses.replace(options, architecture=_absolute(options.architecture))


def _forked() -> Reader:
    """A fork of this single-threaded process, after `prepare`."""
    asked, asking = os.pipe()
    receiving, process = child.forked(lambda sending: _serve(asked, sending), asking)
    os.close(asked)
    return Reader(asking, child.Child(receiving, process.wait, process.kill, NO_LIMITS), process.pid)


STARTER = "import sys; sys.path[:] = dict.fromkeys(sys.argv[1:]); from exporter.pipeline import readers; readers.serve_standard_streams()"


def _spawned() -> Reader:
    pipe, receiving, process = child.spawned(STARTER)
    asking = os.dup(pipe.fileno())
    pipe.close()
    return Reader(asking, child.Child(receiving, process.wait, process.kill, NO_LIMITS), process.pid)


def serve_standard_streams() -> None:
    """In a spawned process."""
    child.prepare()
    prepare()
    _serve(0, 1)


def prepare(*, library: bool = False) -> None:
    """Imports the modules for reading, once for all forks of this process.

    library: also import h5py, which few files need; if that could load foreign code, each fork imports it itself.
    """
    import exporter.formats.hdf5_file
    import exporter.pipeline.finding
    import exporter.pipeline.message
    import exporter.sources.keras_archive
    import exporter.sources.keras_h5  # noqa: F401

    if library and not child.asks_for_plugins():
        import h5py  # noqa: F401


def collect_rarely() -> None:
    """Lets a process that goes on for long search for reference cycles, of which there are few, among what it did not import."""
    import gc

    gc.freeze()
    gc.set_threshold(100_000)
    gc.enable()


def _serve(asked: int, sending: int) -> None:
    """In a process that reads many files: answers requests until there are none. A file that it could not read is its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides
    child.prepare()
    collect_rarely()
    with cast(BinaryIO, os.fdopen(asked, "rb", buffering=0)) as requests, os.fdopen(sending, "wb", buffering=child.BUFFER) as answers:
        waiting = select.poll()  # select.select refuses descriptors above 1023
        waiting.register(requests, select.POLLIN)
        while waiting.poll(1000 * IDLE_SECONDS):
            head = _exactly(requests, LENGTH.size)
            if head is None:
                return
            request = _exactly(requests, LENGTH.unpack(head)[0])
            if request is None:
                return
            place, options, limits, _ = child.understood(request)
            child.serve(place, options, limits, answers.write)
            answers.flush()
            signal.alarm(0)  # of the limits


def _exactly(file: BinaryIO, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = file.read(size - len(data))
        if not part:
            return None
        data += part
    return data

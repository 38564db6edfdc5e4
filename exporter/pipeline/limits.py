"""Limits on time and memory of the reading process, fixed before it starts and the same on both sides."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys

from exporter.files.place import Place

MEMORY = 2 << 30  # bytes of address space in addition to what the child starts with
CPU_SECONDS, REMOTE_CPU_SECONDS = 3, 30  # the libraries of a store and its encryption need some of it
MAX_EXTRA_SECONDS = 600
# The limit on elapsed time is for a child that waits forever: on a busy machine, or behind a slow disk, a valid file takes many times its
# processor time, and only processor time indicates damage.
WALL_SECONDS, WALL_PER_CPU = 60, 10
MAX_DEPTH, MAX_FOLDERS = 3, 20  # depth of a folder with a model: run/2/pytree/d of Orbax, exp/1795642988 of TensorFlow Serving
OUT_OF_MEMORY, OUT_OF_TIME = 71, 72  # exit status


@dataclasses.dataclass(frozen=True)
class Limits:
    """memory: bytes. cpu_seconds: of processor time. wall_seconds: of elapsed time."""

    memory: int
    cpu_seconds: float
    wall_seconds: float

    @classmethod
    def of(cls, place: Place) -> Limits:
        """The limits for reading `place`: one second of processor time per MiB; a valid file takes at most a tenth of that."""
        cpu = REMOTE_CPU_SECONDS
        if place.is_local:
            cpu = CPU_SECONDS + min(_size(place) >> 20, MAX_EXTRA_SECONDS)
        return cls(MEMORY, cpu, WALL_SECONDS + WALL_PER_CPU * cpu)

    def apply(self) -> None:
        """Applies the limits to this process."""
        try:
            import resource
        except ImportError:  # Windows: a timer that ends the process
            import threading

            timer = threading.Timer(self.wall_seconds, os._exit, (OUT_OF_TIME,))
            timer.daemon = True
            timer.start()
            return
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (int(used + self.cpu_seconds) + 1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        with contextlib.suppress(OSError, ValueError):
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            wanted = memory_of("self", 0) + self.memory
            resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
        for number in (signal.SIGXCPU, signal.SIGALRM):  # which the caller may ignore or block
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGXCPU, signal.SIGALRM})
        signal.alarm(int(self.wall_seconds) + 5)  # the parent ends it first, if it is still there


def die_with_parent(parent: int) -> None:
    """Makes the system end this process when its parent, with this process id, ends for any reason. On systems other than Linux,
    the time limit does that."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def _size(place: Place) -> int:
    """The size in bytes of a file; of a folder with everything below it; of a checkpoint's prefix with the files beside it."""
    with contextlib.suppress(OSError):
        if os.path.isfile(place.local):
            return os.path.getsize(place.local)
        is_folder = os.path.isdir(place.local)
        return _size_below(os.fspath(place.local if is_folder else place.local.parent), MAX_DEPTH if is_folder else 0)
    return 0


def _size_below(folder: str, depth: int) -> int:
    with os.scandir(folder) as found:
        entries = list(found)
    own = sum(entry.stat().st_size for entry in entries if entry.is_file())
    below = [entry.path for entry in entries if depth and entry.is_dir(follow_symlinks=False)]
    return own + sum(_size_below(path, depth - 1) for path in below[:MAX_FOLDERS])


def memory_of(process: int | str, field: int) -> int:
    """Bytes of memory of a process, by its number or "self": its address space (field 0), or what of it is in memory (1). 0 if the system
    does not report it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        descriptor = os.open(f"/proc/{process}/statm", os.O_RDONLY)
        try:
            return int(os.read(descriptor, 200).split()[field]) * os.sysconf("SC_PAGE_SIZE")
        finally:
            os.close(descriptor)
    return 0

"""Limits: how much time and memory the reading process may take, fixed before it starts and the same on both sides."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys

from exporter.files.place import Place

MEMORY = 2 << 30  # bytes of address space beyond what the child starts with
CPU_SECONDS, REMOTE_CPU_SECONDS = 3, 30  # the libraries of a store and its encryption take their share
MAX_EXTRA_SECONDS = 600
# The clock on the wall is for a child that waits for ever: on a busy machine, or behind a slow disk, a sound file takes many times its
# processor time, which alone tells of damage.
WALL_SECONDS, WALL_PER_CPU = 60, 10
MAX_DEPTH, MAX_FOLDERS = 3, 20  # of a folder that holds a model: run/2/pytree/d of Orbax, exp/1795642988 of TensorFlow Serving
OUT_OF_MEMORY, OUT_OF_TIME = 71, 72  # exit status


@dataclasses.dataclass(frozen=True)
class Limits:
    """memory: bytes. cpu_seconds: of processor time. wall_seconds: in all."""

    memory: int
    cpu_seconds: float
    wall_seconds: float

    @classmethod
    def of(cls, place: Place) -> Limits:
        """For reading `place`: one second of processor time for each MiB of it, of which a sound one takes a tenth at most."""
        cpu = REMOTE_CPU_SECONDS
        if place.is_local:
            cpu = CPU_SECONDS + min(_size(place) >> 20, MAX_EXTRA_SECONDS)
        return cls(MEMORY, cpu, WALL_SECONDS + WALL_PER_CPU * cpu)

    def apply(self) -> None:
        """Binds this process to them."""
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
            wanted = _address_space() + self.memory
            resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
        for number in (signal.SIGXCPU, signal.SIGALRM):  # which the caller may ignore or hold back
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGXCPU, signal.SIGALRM})
        signal.alarm(int(self.wall_seconds) + 5)  # the parent ends it first, if it is still there


def die_with_parent(parent: int) -> None:
    """Has the system end this process when its parent, of this process number, ends, however that comes about. Elsewhere than on Linux
    the limit of time does."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def _size(place: Place) -> int:
    """Bytes of a file; of a folder what lies there and below; of the prefix of a checkpoint's files what lies beside them."""
    with contextlib.suppress(OSError):
        if place.local.is_file():
            return place.local.stat().st_size
        is_folder = place.local.is_dir()
        return _size_below(os.fspath(place.local if is_folder else place.local.parent), MAX_DEPTH if is_folder else 0)
    return 0


def _size_below(folder: str, depth: int) -> int:
    with os.scandir(folder) as found:
        entries = list(found)
    own = sum(entry.stat().st_size for entry in entries if entry.is_file())
    below = [entry.path for entry in entries if depth and entry.is_dir(follow_symlinks=False)]
    return own + sum(_size_below(path, depth - 1) for path in below[:MAX_FOLDERS])


def _address_space() -> int:
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 0

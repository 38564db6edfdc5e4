"""The processes of --jobs, and the workers of a cluster. Not imported for a single process: `multiprocessing` takes as long as
exporting four small models."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

from exporter.errors import MissingExtra, UsageError, printable


@contextlib.contextmanager
def pool(jobs: int, *, may_fork: bool) -> Iterator[concurrent.futures.Executor]:
    """So many processes, started as the system usually does, or without a fork."""
    context = multiprocessing.get_context(None if may_fork else "spawn")
    if context.get_start_method() == "fork":
        _import()  # once for all workers
    executor = _Workers(jobs, mp_context=context, initializer=_begin_worker)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)  # exports in progress are finished, also after Ctrl-C


class _Workers(concurrent.futures.ProcessPoolExecutor):
    """A pool that Ctrl-C cannot damage while it starts a worker, which it does when work is submitted: a worker that was started but not
    yet recorded would take another one's signal to end, and the pool would wait for that one forever. A starting worker inherits the
    blocked signal, so Ctrl-C does not kill it either.
    """

    def submit(self, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        with _without_interrupts():
            return super().submit(*args, **kwargs)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Delays Ctrl-C, if the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Sets up each process: it ends when the parent is killed, leaves Ctrl-C to the parent, and imports the modules for reading once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from exporter.pipeline.limits import die_with_parent

    die_with_parent(os.getppid())
    _import()


def _import() -> None:
    import exporter.targets.bundle_json  # noqa: F401
    from exporter.batchnorm import schema
    from exporter.pipeline import readers

    readers.prepare()
    schema.prepare()


@contextlib.contextmanager
def cluster(address: str, first: str) -> Iterator[concurrent.futures.Executor]:
    """The workers of a Dask cluster. first: one of the words for models.

    Raises: MissingExtra, UsageError if there is none at this address.
    """
    try:
        import distributed
    except ImportError:
        raise MissingExtra("distributed", "dask", "--dask") from None
    from exporter.pipeline.pieces import begin

    try:
        client: Any = distributed.Client(address, timeout="15s")  # type: ignore[no-untyped-call]  # distributed has few annotations
        workers = client.nthreads()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot connect to a Dask scheduler at {printable(address)}: {printable(str(error), 150)}") from None
    with client:
        # nobody waits for these: what goes wrong in them goes wrong again, and is reported, in an export
        begun = [client.submit(begin, first, workers=[worker], pure=False) for worker in workers]
        yield client.get_executor(pure=False)
        del begun

"""Runs programs in separate processes, started as forks of a process that has already imported the libraries (but not `exporter`).

A new interpreter spends more time on these imports than most commands take. Tests of how an interpreter starts (environment variables,
closed streams) start a new one instead.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading

from tests.make.layers import ROOT

LIBRARIES = ("argparse", "csv", "ctypes", "google_crc32c", "h5py", "hashlib", "html", "json", "jsonschema", "numpy", "orjson", "subprocess",
             "zipfile")
STORES = ("aiohttp", "fsspec", "s3fs")
MODULE = "import runpy; runpy.run_module('exporter', run_name='__main__', alter_sys=True)"  # python -m exporter
MAX_REQUEST = 1 << 17


def run(program, *words, data=b"", text=False, cwd=None, stdout=None, stderr=None, closed=(), stores=False, timeout=60):
    """The finished process of a program, given as its text: like subprocess.run([python, "-c", program, *words], input=data), with the
    output as bytes or as text.

    stdout, stderr: files to write to. closed: the numbers of the standard streams that are closed. stores: whether it will read from one.
    """
    words, files = list(map(str, words)), (stdout, stderr)
    if sys.platform == "linux":
        request = {"program": program, "words": words, "cwd": os.fspath(cwd or os.getcwd()), "env": dict(os.environ), "closed": closed}
        forking = server(LIBRARIES + STORES * stores, os.getpid())
        out, err, code = forking.call(json.dumps(request).encode(), data, files, timeout)
    else:  # which lack packets between processes, or forks
        done = interpreted(program, words, data, cwd, files, closed, timeout)
        out, err, code = done.stdout or b"", done.stderr or b"", done.returncode
    return subprocess.CompletedProcess(words, code, out.decode() if text else out, err.decode() if text else err)


def interpreted(program, words, data, cwd, files, closed, timeout):
    """The same by a new interpreter."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    with contextlib.ExitStack() as stack:
        out, err = (subprocess.PIPE if file is None else stack.enter_context(open(file, "wb")) for file in files)
        return subprocess.run([sys.executable, "-c", program, *words], input=data, stdout=out, stderr=err, cwd=cwd, timeout=timeout,
                              env={**os.environ, "PYTHONPATH": path},
                              preexec_fn=(lambda: [os.close(number) for number in closed]) if closed else None)


@functools.cache
def server(libraries, process):
    """The process that forks, one for each process of tests (by its id): a fork of that would share the connection."""
    started = Server(libraries)
    atexit.register(started.close)
    return started


class Server:
    """This end of it."""

    def __init__(self, libraries):
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            program = f"from tests.make.processes import serve; exec(serve({theirs.fileno()}, {libraries}))"
            self.process = subprocess.Popen([sys.executable, "-c", program], pass_fds=[theirs.fileno()], cwd=ROOT, stdin=subprocess.DEVNULL,
                                            env={**os.environ, "PYTHONPATH": str(ROOT)})

    def call(self, request, data, files, timeout):
        """The output, the errors and the exit code of one fork."""
        (stdin, feed), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        given = [stdin, stdout, stderr]
        for number, file in enumerate(files, 1):
            if file is not None:
                os.dup2(opened := os.open(file, os.O_WRONLY | os.O_CREAT), given[number])
                os.close(opened)
        socket.send_fds(self.connection, [request], given)
        for descriptor in given:
            os.close(descriptor)
        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            results = [threads.submit(drain, descriptor) for descriptor in (out, err)]
            threads.submit(fill, feed, data)
            pid = int(self.connection.recv(20))
            timer = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
            timer.start()
            code = int(self.connection.recv(20))
            timer.cancel()
            timer.join()
        return *(result.result() for result in results), code

    def close(self):
        self.connection.close()
        self.process.wait()


def drain(descriptor):
    with open(descriptor, "rb") as file:
        return file.read()


def fill(descriptor, data):
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb") as file:
        file.write(data)


def serve(descriptor, libraries):
    """In the process that forks: answers requests until there are none. Returns in each fork, with the program that it has to run."""
    for name in libraries:
        with contextlib.suppress(ImportError):  # of an extra
            importlib.import_module(name)
    gc.freeze()
    connection = socket.socket(fileno=descriptor)
    while True:
        request, descriptors, *_ = socket.recv_fds(connection, MAX_REQUEST, 3)
        if not request:
            return ""
        pid = os.fork()
        if pid == 0:
            connection.close()
            return prepare(json.loads(request), descriptors)
        for each in descriptors:
            os.close(each)
        connection.send(b"%d" % pid)
        connection.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def prepare(request, descriptors):
    """Makes this fork what a new interpreter would be; returns the program."""
    for number, (name, descriptor) in enumerate(zip(("stdin", "stdout", "stderr"), descriptors)):
        os.dup2(descriptor, number)
        os.close(descriptor)
        old, new = getattr(sys, name), None
        if number in request["closed"]:
            os.close(number)
        else:
            raw = io.FileIO(number, "w" if number else "r", closefd=False)
            raw.name = f"<{name}>"
            new = io.TextIOWrapper(io.BufferedWriter(raw) if number else io.BufferedReader(raw), old.encoding, old.errors, newline="\n",
                                   line_buffering=number == 2)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[1:] = request["words"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    return request["program"]

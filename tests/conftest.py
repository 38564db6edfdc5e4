"""Fixtures shared by the test modules, and how the suite is divided among workers."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import random
import re
import signal
import sys
import threading
import warnings

os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")  # with one, it imports trio

import hypothesis
import pytest
from xdist.scheduler import LoadGroupScheduling

FOLDERS = itertools.count()


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", default=bool(os.environ.get("BN_EXPORT_THOROUGH")),
                     help="run also the tests that need compilers, a browser, other frameworks, or much time (or: BN_EXPORT_THOROUGH=1)")
    parser.addoption("--order-seed", metavar="SEED", help="run the tests in a random order, by this seed")


def pytest_configure(config):
    examples = 200 if config.getoption("--thorough") else 25
    hypothesis.settings.register_profile("suite", max_examples=examples, deadline=None)  # on a busy machine an example takes any time
    hypothesis.settings.load_profile("suite")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts commands in the background; what the tests start inherits it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session):
    """In a fresh checkout, each worker starts compiling the tests at a different one, so that the others are already compiled by then."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args != session.config.getini("testpaths"):
        return
    names = [".".join(path.relative_to(session.config.rootpath).with_suffix("").parts)
             for path in sorted(session.config.rootpath.glob("tests/**/test_*.py"))]
    first = len(names) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what warns or fails does so again as it is collected
        for name in names[first:] + names[:first]:
            with contextlib.suppress(Exception, pytest.skip.Exception):
                importlib.import_module(name)


@pytest.hookimpl(tryfirst=True)  # before that of xdist, which reads the groups
def pytest_collection_modifyitems(config, items):
    if (seed := config.getoption("--order-seed")) is not None:  # the same in all workers
        random.Random(seed).shuffle(items)
    for item in items:
        if item.get_closest_marker("live"):  # importing TensorFlow takes seconds: in one worker, not in each
            item.add_marker(pytest.mark.xdist_group("live"))
        thorough = item.get_closest_marker("thorough")
        if thorough and not config.getoption("--thorough"):
            item.add_marker(pytest.mark.skip(reason=f"{thorough.args[0]}: only with --thorough"))


class ByFunction(LoadGroupScheduling):
    """Assigns a test function with all its parameters, or a group, to one worker at a time, in the order of the files. Assigning single
    tests would cost a message for each, and a search through all tests that the worker was assigned before.
    """

    def _split_scope(self, nodeid):
        group = super()._split_scope(nodeid)
        return nodeid.partition("[")[0] if group == nodeid else group

    def schedule(self):
        self.config.option.loadscopereorder = False
        super().schedule()

    def mark_test_complete(self, node, item_index, duration=0):
        super().mark_test_complete(node, item_index, duration)
        given = self.assigned_work[node]
        scope = self._split_scope(self.registered_collections[node][item_index])
        if all(given[scope].values()):
            del given[scope]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFunction(config, log)


@hypothesis.settings(max_examples=1, database=None)
@hypothesis.given(hypothesis.strategies.none())
def first_example(nothing):
    """Makes Hypothesis create its random number generator before gc.freeze: it looks for references to it, and warns if it finds none."""


def pytest_collection_finish():
    first_example()
    gc.freeze()  # otherwise, each garbage collection would traverse all that the tests have imported


@pytest.fixture
def tmp_path(tmp_path_factory, request):
    """An empty folder for one test. pytest's own fixture lists the folders of all previous tests to find the next number, which took a
    tenth of the time with thousands of tests.
    """
    path = tmp_path_factory.getbasetemp() / f"{next(FOLDERS)}-{re.sub('[^A-Za-z0-9_]', '_', request.node.name)[:30]}"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def forks(request, monkeypatch):
    """Models are read by forks, as in a single-threaded program that has not imported tensorstore. In a worker, which has pytest-xdist's
    thread and has imported the tests of Orbax, each reading process would be a new interpreter.
    """
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.delitem(sys.modules, "tensorstore", raising=False)
    request.applymarker(pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"))


@pytest.fixture
def run(capsys, monkeypatch, forks):
    """run(command, *words) -> (exit code, stdout, stderr) of a command in this process."""
    from exporter.commands import shared as cli

    monkeypatch.setattr(gc, "freeze", lambda: None)  # a command is the only thing in its process; this one goes on

    def call(command, *words):
        try:
            with pytest.raises(SystemExit) as done:
                cli.main(command, [str(word) for word in words])
        finally:
            gc.enable()
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return call


@pytest.fixture(scope="module", params=[
    "keras", pytest.param("tf_keras", marks=pytest.mark.thorough("much time: Keras 2 is imported as well"))])
def keras(request):
    """Keras 3 and Keras 2, as they are today."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow", reason="tensorflow is not installed", exc_type=ImportError)
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    module = importlib.import_module(request.param)
    gc.freeze()  # as after the collection of tests
    return module

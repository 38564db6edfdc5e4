"""Fixtures that several test modules share: the commands run in this process, and the installed Keras."""

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
    """In a fresh checkout each worker begins to compile the tests at a place of its own, and finds the rest compiled by the others."""
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
    """A worker is given a test function with all its parameters, or a group, in the order of the files. Each test by itself would cost a
    message, and a walk over all that the worker was given before.
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
    """Hypothesis makes its source of random numbers, and looks who refers to it: in what is frozen it would find nobody, and warn."""


def pytest_collection_finish():
    first_example()
    gc.freeze()  # what the tests import: each search for reference cycles would walk all of it


@pytest.fixture
def tmp_path(tmp_path_factory, request):
    """An empty folder for one test. pytest's own lists the folders of all tests before it to number its own: with thousands of tests, that
    took a tenth of their time.
    """
    path = tmp_path_factory.getbasetemp() / f"{next(FOLDERS)}-{re.sub('[^A-Za-z0-9_]', '_', request.node.name)[:30]}"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def forks(request, monkeypatch):
    """Models are read by forks, as in a program of one thread that has not read an Orbax checkpoint; beside the thread of pytest-xdist, and
    after the tests of Orbax were imported, each would be read by a new interpreter.
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

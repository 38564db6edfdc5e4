"""Errors are values: they never change, and copies and pickles of them are whole."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import pickle
import sys
import traceback

import pytest

import exporter
from exporter.errors import KINDS, ExporterError, FormatError, MissingExtra, MissingFileError, UnresolvedError, UsageError, located, rebuilt

EACH = [*(kind("odd numbers", where="m.h5: bn", hint="try again") for name, kind in KINDS.items()
          if name not in ("UnresolvedError", "MissingExtra")),
        UnresolvedError([("a", "no epsilon"), ("b", "no axis")], where="m.h5", hint="--epsilon"), MissingExtra("onnx", "onnx", "writing")]


def everything(error):
    return type(error), str(error), vars(error), error.args


def test_every_kind_is_in_the_table():
    def below(kind):
        return {kind, *(inner for each in kind.__subclasses__() for inner in below(each))}

    assert set(KINDS.values()) == below(ExporterError)
    assert {type(error) for error in EACH} == set(KINDS.values())


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
def test_copies_and_pickles_are_whole(error):
    for other in (copy.copy(error), copy.deepcopy(error), *(pickle.loads(pickle.dumps(error, form)) for form in range(6)),
                  rebuilt(type(error), vars(error))):
        assert everything(other) == everything(error)


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
def test_no_error_changes(error):
    for name in ("what", "where", "hint", "layers"):
        with pytest.raises(AttributeError, match=f"{name} of an error cannot be changed"):
            setattr(error, name, "other")
    before = everything(error)
    inner = error.inside("folder")
    assert everything(error) == before
    assert (type(inner), inner.what, inner.hint) == (type(error), error.what, error.hint)
    assert inner.where == (f"folder: {error.where}" if error.where else "folder")
    assert getattr(inner, "layers", None) == getattr(error, "layers", None)


def test_a_place_is_said_once():
    error = FormatError("odd", where="m.h5: bn")
    assert error.inside("m.h5") is error
    assert error.inside("") is error
    assert error.inside("bn").where == "bn: m.h5: bn"
    assert error.inside("m").where == "m: m.h5: bn"


def raise_odd():
    raise FormatError("odd", where="bn")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="earlier tracebacks show no notes")
def test_a_traceback_shows_the_hint():
    shown = traceback.format_exception(UsageError("no such", hint="do this"))
    assert shown[-2:] == ["exporter.errors.UsageError: no such\n", "hint: do this\n"]
    pickling_support = pytest.importorskip("tblib.pickling_support")  # as Dask uses it
    other = pickling_support.unpickle_exception(*pickling_support.pickle_exception(UsageError("no such", hint="do this"))[1])
    assert traceback.format_exception(other)[-2:] == shown[-2:]
    assert traceback.format_exception(UsageError("no such"))[-1] == "exporter.errors.UsageError: no such\n"
    noted = UsageError("no such", hint="do this")
    noted.add_note("as the third model")  # of the caller
    for error in (noted.inside("m.h5"), pickle.loads(pickle.dumps(noted)), noted.replace(hint="do that")):
        assert error.__notes__ == [f"hint: {error.hint}", "as the third model"]


def test_located_adds_what_is_missing_and_keeps_the_line():
    with pytest.raises(FormatError) as caught, located("m.h5", hint="again"):
        raise_odd()
    assert (caught.value.where, caught.value.hint) == ("m.h5: bn", "again")
    assert "raise_odd" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    with pytest.raises(FormatError) as caught, located("m.h5", hint="again"):
        raise FormatError("odd", hint="do this")
    assert (caught.value.where, caught.value.hint) == ("m.h5", "do this")


def test_a_file_that_is_not_there_is_caught_as_python_does(tmp_path):
    for call in (exporter.read, exporter.load, lambda path: exporter.read(path, isolated=True)):
        with pytest.raises(FileNotFoundError, match=r"absent\.h5: no such file") as caught:
            call(tmp_path / "absent.h5")
        assert isinstance(caught.value, FormatError)
        assert isinstance(caught.value, MissingFileError)
        assert caught.value.errno == 2


def refused(number):
    raise EACH[number]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.thorough("much time; forks pickle the same"))])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # xdist's threads
def test_errors_travel_between_processes(start):
    context = multiprocessing.get_context(start)
    with context.Pool(1) as pool, concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        for number, error in enumerate(EACH):
            for ask in (lambda number: pool.apply_async(refused, (number,)).get(timeout=60),
                        lambda number: executor.submit(refused, number).result(timeout=60)):
                with pytest.raises(type(error)) as caught:
                    ask(number)
                assert everything(caught.value) == everything(error)

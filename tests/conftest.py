"""Fixtures that several test modules share: the commands run in this process, and the installed Keras."""

from __future__ import annotations

import gc
import importlib
import os

import pytest


@pytest.fixture
def run(capsys):
    """run(command, *words) -> (exit code, stdout, stderr) of a command in this process."""
    from exporter.commands import shared as cli

    def call(command, *words):
        try:
            with pytest.raises(SystemExit) as done:
                cli.main(command, [str(word) for word in words])
        finally:
            gc.unfreeze()  # a command is the only thing in its process; this one goes on
            gc.enable()
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return call


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def keras(request):
    """Keras 3 and Keras 2, as they are today."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow", reason="tensorflow is not installed", exc_type=ImportError)
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return importlib.import_module(request.param)

"""Bytes and streams as a file: the same model, its name, and the stream as it was."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import types

import pytest

import exporter
from exporter.files import spool
from tests.make.layers import ROOT, same_layer

KERAS = ROOT / "sample_models" / "encoder_keras3" / "model.keras"
DATA = KERAS.read_bytes()
IN_STEPS = memoryview(bytes(each for each in DATA for _ in range(2)))[::2]


@pytest.mark.parametrize("content", [DATA, bytearray(DATA), memoryview(DATA), IN_STEPS, io.BytesIO(DATA),
                                     io.BufferedReader(io.BytesIO(DATA))],
                         ids=lambda content: type(content).__name__)
def test_content_is_read_as_the_file_is(content):
    want = exporter.read(KERAS)
    got = exporter.read(content, isolated=isinstance(content, io.BytesIO))
    assert all(same_layer(a, b) for a, b in zip(want, got, strict=True))
    assert got.origin.file == "<bytes>"


def test_a_file_object_gives_its_name_and_is_left_where_it_stood():
    with open(KERAS, "rb") as file:
        file.seek(7)
        assert exporter.read(file).origin.file == "model.keras"
        assert file.tell() == 7
    named = io.BytesIO(DATA)
    named.name = "s3/bucket/zoo.keras"
    assert exporter.read(named).origin.file == "zoo.keras"
    named.name = "n" * 20 + "x" * 53 + ".keras"
    assert exporter.read(named).origin.file == "n" + "x" * 53 + ".keras", "the last 60 characters"
    for odd in (3, "", "..", ".", "a/", "a\0b"):
        named.name = odd
        assert exporter.read(named).origin.file == "<bytes>", odd


def test_a_pipe_is_read_to_its_end():
    receiving, sending = os.pipe()

    def send():
        with os.fdopen(sending, "wb") as pipe:
            pipe.write(DATA)

    sender = threading.Thread(target=send)
    sender.start()
    with os.fdopen(receiving, "rb") as pipe:
        assert exporter.read(pipe).origin.file == "<bytes>"
    sender.join()


def test_a_bundle_is_loaded_from_bytes(tmp_path):
    exporter.write(exporter.read(KERAS), tmp_path / "b.json")
    assert exporter.load((tmp_path / "b.json").read_bytes()).digest() == exporter.read(KERAS).digest()
    with pytest.raises(exporter.ExporterError, match="<bytes>: "):
        exporter.read(b"nothing that anybody wrote")


def test_what_is_no_content_is_refused():
    with pytest.raises(exporter.UsageError, match="expected a path, a URL, bytes or a binary file object, got int"):
        exporter.read(3)


def test_a_model_itself_is_no_content():
    with pytest.raises(exporter.UsageError, match="a binary file object, got SimpleNamespace") as error:
        exporter.read(types.SimpleNamespace(save=print))
    assert error.value.hint == "save the model first, e.g. model.save('model.keras'), and give its path"
    with pytest.raises(exporter.UsageError) as error:
        exporter.read(types.SimpleNamespace())
    assert error.value.hint == ""


def test_what_is_too_much_or_text_is_refused(monkeypatch):
    with pytest.raises(exporter.UsageError, match="got a text file object") as error:
        exporter.read(io.StringIO("text"))
    assert "'rb'" in error.value.hint
    monkeypatch.setattr(spool, "MAX_SPOOLED", 100)
    with pytest.raises(exporter.FormatError, match="expected at most 100 bytes, got more"):
        exporter.read(DATA)


def test_the_copy_is_gone_afterward(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    exporter.read(DATA)
    with pytest.raises(exporter.ExporterError):
        exporter.read(DATA[:1000])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(exporter.FormatError, match="cannot be copied to a temporary file") as error:
        exporter.read(DATA)
    assert "TMPDIR" in error.value.hint

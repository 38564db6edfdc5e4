"""Files that are no models: what each is said to be, by its first bytes, and what is not said of one that only resembles it."""

from __future__ import annotations

from exporter.files.place import Place
from exporter.sources.shared.refusals import refuse

OTHER = "this is not a model file of Keras or TensorFlow: its first bytes match no supported format"

KINDS = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "this is a Git LFS pointer, not the model itself"),
    (b"<!DOCTYPE html><html>", "this is an HTML or XML page"), (b"\n <HTML>", "this is an HTML or XML page"),
    (b"<head>", "this is an HTML or XML page"), (b"\xef\xbb\xbf<?xml version='1.0'?>", "this is an HTML or XML page"),
    (b"\x89", "the HDF5 file is cut short after 1 bytes"), (b"\x89HDF\r\n\x1a", "the HDF5 file is cut short after 7 bytes"),
    (b"\x89HDF\n\x1a\n\0\0", "the HDF5 signature is damaged"), (b"\xefHDF\r\n\x1a\n", "the HDF5 signature is damaged"),
    (b"?HDF\0\0\0\0", "the HDF5 signature is damaged"), (b"\xef\xbb\xbfHDF\r\n", "the HDF5 signature is damaged"),
    (b"\x89\rHDF\n\x1a\n\0", "the HDF5 signature is damaged"),
    (b"\0\0\0\0\0\0\0\0HDF", OTHER), (b"\0\0\0\0\0\0HDF", OTHER), (b"\x89HDG\r\n\x1a", OTHER),
    (b"\x1f\x8b\x08\0", "this is a gzip file"), (b"BZh9", "this is a bzip2 file"), (b"\xfd7zXZ\0", "this is a xz file"),
    (b"\x28\xb5\x2f\xfd\0", "this is a zstd file"), (b"7z\xbc\xaf\x27\x1c", "this is a 7z file"), (b"Rar!\x1a\x07", "this is a rar file"),
    (b"\0" * 257 + b"ustar\0", "this is a tar file"), (b"\0" * 256 + b"ustar\0", OTHER), (b"\0" * 258 + b"ustar\0", OTHER),
    (b"\xff\xd8\xff\0", "this is a JPEG image, not a model"), (b"\x89PNG\r\n\x1a\n", "this is a PNG image"),
    (b'<?xml version="1.0"?>\n<net name="m" version="11">', "this is the graph of an OpenVINO model: converters fold"),
    (b'<?xml version="1.0"?>\n<note/>', "this is an HTML or XML page"), (b'<html><net name="m">', "this is an HTML or XML page"),
    (b"GIF89a", "this is a GIF image"), (b"%PDF-1.7", "this is a PDF file"),
    *((bytes([0x80, version]), "this is a Python pickle, which is never loaded") for version in (2, 3, 4, 5)),
    (b"\x80\x01", OTHER), (b"\x80\x06", OTHER), (b"\x80", OTHER), (b"\x81\x04", OTHER),
    (b"\x1c\0\0\0TFL3", "this is a TFLite model: converters fold"), (b"\0TFL3\0\0\0", OTHER),
    *((bytes([8, 31]) + start + b"\0\0", "this is an ONNX model: converters fold") for start in (b"\x12", b"\x3a", b"\x42", b"\x1a")),
    (b"\x08\x07\x13\0\0", OTHER), (b"\x08\x20\x12\0\0", OTHER), (b"\x08\x07\x12\0", OTHER), (b"\x09\x07\x12\0\0", OTHER),
    (b"\x93NUMPY\x01\0", "this is a .npy file"),
    ((1).to_bytes(8, "little") + b"{}", "this is a safetensors file that does not contain a bundle"),
    ((1 << 27).to_bytes(8, "little") + b"{}", OTHER), ((1).to_bytes(8, "little") + b"[]", OTHER), ((1).to_bytes(8, "little"), OTHER),
    (b"backend: tensorflow", "this is a YAML architecture"), (b" class_name: Model", "this is a YAML"), (b"config:\n", "this is a YAML"),
    (b'\xef\xbb\xbf{"a": 1}', "this JSON file contains no weights"), (b"[1]", "this is a text file, not a model"),
    ("däß".encode(), "this is a text file"), (b"a\tb\r\n\fc", "this is a text file"), ("ä".encode()[:1], "this is a text file"),
    (b"a\0b", OTHER), (b"a\x7fb", OTHER), (b"\xff\xfe", OTHER)]


def test_what_a_file_is_said_to_be(tmp_path):
    for data, said in KINDS:
        (tmp_path / "f").write_bytes(data)
        assert str(refuse(Place(tmp_path / "f"))).startswith(said), data


def test_no_bytes_and_folders(tmp_path):
    (tmp_path / "f").touch()
    assert str(refuse(Place(tmp_path / "f"))).startswith("the file is empty (0 bytes)")
    assert str(refuse(Place(tmp_path))) == "this is a folder without a model: f"
    (tmp_path / "f").unlink()
    assert str(refuse(Place(tmp_path))) == "this is a folder without a model: it is empty"

"""Errors for files that no source claims: they name the kind of file and say what to do."""

from __future__ import annotations

import codecs
import unicodedata

from exporter.errors import ExporterError, FormatError, UnsupportedError, names
from exporter.files.place import MAX_HEAD, Place
from exporter.formats.hdf5 import SIGNATURE

FOLDED = "converters fold batch norm into the layers around it, so gamma, beta and the statistics are no longer in the file"
ORIGINAL = "export the model it was made from"
POINTER = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md


def refuse(place: Place) -> ExporterError:
    """The error for a `place` that is not a supported model."""
    if place.is_folder():
        held = names(child.name for child in place.children())
        return FormatError(f"this is a folder without a model: {held or 'it is empty'}", hint="the README lists the supported formats")
    size = place.size()
    if size == 0:
        return FormatError("the file is empty (0 bytes)", hint="copy or download it again")
    head = place.head(MAX_HEAD)
    for test, error in _KINDS:
        if test(head):
            return error(place)
    return FormatError("this is not a model file of Keras or TensorFlow: its first bytes match no supported format",
                       hint="the README lists the supported formats")


def check_fetched(place: Place) -> None:
    """Refuses a model if one of its opened files is a Git LFS pointer."""
    for opened in place.opened():
        if opened.head(len(POINTER)) == POINTER:
            raise FormatError("this is a Git LFS pointer, not the file itself", where=opened.name, hint="fetch it with: git lfs pull")


def _text(head: bytes) -> str:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").decode("latin-1").lower()


def _is_onnx(head: bytes) -> bool:
    # ModelProto: ir_version (field 1, varint), then producer_name (field 2) or opset_import/graph
    return head[:1] == b"\x08" and len(head) > 4 and head[1] < 32 and head[2:3] in (b"\x12", b"\x3a", b"\x42", b"\x1a")


# The first bytes of files that are found beside models, or that a model was packed in.
_PACKED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"7z\xbc\xaf\x27\x1c", "7z"),
           (b"Rar!\x1a\x07", "rar"))
_PICTURES = ((b"\xff\xd8\xff", "a JPEG image"), (b"\x89PNG\r\n\x1a\n", "a PNG image"), (b"GIF8", "a GIF image"), (b"%PDF-", "a PDF file"))


def _named(head: bytes, kinds: tuple[tuple[bytes, str], ...]) -> str:
    return next((name for start, name in kinds if head.startswith(start)), "")


def _is_plain_text(head: bytes) -> bool:
    """Whether it is UTF-8 without control characters, except for a character that is cut off at the end."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
    return "\ufffd" not in text and not any(unicodedata.category(character) == "Cc" and character not in "\t\r\n\f" for character in text)


_KINDS = (
    (lambda h: h.startswith(POINTER),
     lambda p: FormatError("this is a Git LFS pointer, not the model itself", hint="fetch it with: git lfs pull")),
    (lambda h: _text(h).startswith("<?xml") and b"<net " in h,
     lambda p: UnsupportedError(f"this is the graph of an OpenVINO model: {FOLDED}", hint=ORIGINAL)),
    (lambda h: _text(h).startswith(("<!doctype", "<html", "<head", "<?xml")),
     lambda p: FormatError("this is an HTML or XML page, not a model", hint="after a download: download the file itself")),
    (lambda h: 0 < len(h) < 8 and SIGNATURE.startswith(h),
     lambda p: FormatError(f"the HDF5 file is cut short after {p.size()} bytes", hint="copy or download it again")),
    (lambda h: b"HDF" in h[:8],
     lambda p: FormatError("the HDF5 signature is damaged, as by a transfer in text mode", hint="copy or download it again as binary")),
    (lambda h: bool(_named(h, _PACKED)), lambda p: FormatError(f"this is a {_named(p.head(), _PACKED)} file", hint="unpack it first")),
    (lambda h: h[257:262] == b"ustar", lambda p: FormatError("this is a tar file", hint="unpack it first")),
    (lambda h: bool(_named(h, _PICTURES)),
     lambda p: UnsupportedError(f"this is {_named(p.head(), _PICTURES)}, not a model", hint="give the model file itself")),
    (lambda h: len(h) > 1 and h[0] == 0x80 and h[1] in (2, 3, 4, 5),
     lambda p: UnsupportedError("this is a Python pickle, which is never loaded: it can run code", hint="save the model as .keras or .h5")),
    (lambda h: h[4:8] == b"TFL3", lambda p: UnsupportedError(f"this is a TFLite model: {FOLDED}", hint=ORIGINAL)),
    (_is_onnx, lambda p: UnsupportedError(f"this is an ONNX model: {FOLDED}", hint=ORIGINAL)),
    (lambda h: h.startswith(b"\x93NUMPY"), lambda p: UnsupportedError("this is a .npy file: one array without names or a config")),
    (lambda h: h[8:9] == b"{" and int.from_bytes(h[:8], "little") < 1 << 27,
     lambda p: UnsupportedError("this is a safetensors file that does not contain a bundle")),
    (lambda h: _text(h).startswith(("backend:", "class_name:", "config:")),
     lambda p: UnsupportedError("this is a YAML architecture: it contains no weights, and YAML is not supported",
                                hint="use model.to_json()")),
    (lambda h: _text(h).startswith("{"),
     lambda p: UnsupportedError("this JSON file contains no weights",
                                 hint="give the weights as MODEL and an architecture with --architecture")),
    (_is_plain_text, lambda p: UnsupportedError("this is a text file, not a model", hint="give the model file itself; labels and code "
                                                                                         "beside it are not read")),
)

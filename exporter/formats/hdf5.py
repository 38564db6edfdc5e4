"""HDF5, read only: the only entry point, so that every byte from an HDF5 file has passed the same checks.

    hdf5.py            opens a file and checks it as a whole
    hdf5_file.py       what the objects of an open file contain: attributes and arrays
    hdf5_objects.py    the objects by their path; hdf5_names.py: paths, names, and the places of errors
    hdf5_plain.py      objects of the form that Keras writes, parsed here; hdf5_messages.py, hdf5_layout.py: their bytes
    hdf5_library.py    all other objects, by libhdf5; hdf5_storage.py: where their data is
    hdf5_groups.py     the members of groups; hdf5_alike.py: of many groups at once
    hdf5_overlap.py    refuses data that overlaps something else
    hdf5_ahead.py      fetches what will be needed of a remote file

Specification: HDF5 File Format 3.0, https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from typing import TYPE_CHECKING, Any

from exporter.errors import COPY_AGAIN, FormatError
from exporter.files.input_file import InputFile, MemoryFile
from exporter.files.place import Place

if TYPE_CHECKING:
    from exporter.formats.hdf5_file import File

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK_BYTES = 96
MAX_WHOLE = 1 << 17  # bytes of a near file that is read at once: its pieces are hundreds


class _Exact(io.RawIOBase):
    """A file object for libhdf5 that never returns fewer bytes than requested: h5py takes a short read for a full one."""

    def __init__(self, file: InputFile) -> None:
        self._file = file

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer)
        data = self._file.read(wanted)
        if len(data) != wanted:
            raise OSError("the file ends inside its data")
        memoryview(buffer)[:] = data
        return wanted


def superblock_at(file: InputFile) -> int | None:
    """Where the HDF5 superblock is: 0, or after a user block of 512, 1024, 2048 … bytes; None: this is not HDF5.

    A zip archive is never taken for a user block, whatever it contains.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(8)
    if head == SIGNATURE:
        return 0
    offset = 512
    while offset + 8 <= size and not head.startswith(b"PK"):
        file.seek(offset)
        if file.read(8) == SIGNATURE:
            return offset
        offset *= 2
    return None


def is_hdf5(place: Place) -> bool:
    """Whether a file is HDF5, by its signature."""
    if not place.is_file():
        return False
    with place.open() as file:
        return superblock_at(file) is not None


def _check_extent(file: InputFile, start: int) -> None:
    """Compares the file's size with the end that its superblock declares (HDF5 File Format, II.A)."""
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    block = file.read(SUPERBLOCK_BYTES)
    version = block[8] if len(block) > 8 else 0
    width_at, first = {0: (13, 24), 1: (13, 28), 2: (9, 12), 3: (9, 12)}.get(version, (0, 0))
    if not first:
        raise FormatError(f"expected an HDF5 superblock of version 0 to 3, got version {version}", hint=COPY_AGAIN)
    width = block[width_at] if len(block) > width_at else 8
    field = block[first + 2 * width: first + 3 * width]
    if width not in (2, 4, 8) or len(field) < width:
        raise FormatError(f"the file is cut short: {size} bytes, less than its superblock takes")
    end = int.from_bytes(field, "little")
    if end > size:
        raise FormatError(f"the file is cut short: expected {end} bytes, got {size} ({end - size} are missing)",
                          hint="copy or download the file again")
    if end < size:
        file.seek(max(end, size - 65557))  # the maximum distance between the end of a zip archive's directory and the end of the archive
        if b"PK\5\6" in file.read():
            raise FormatError("the file is an HDF5 file and a zip archive at once, so its contents are ambiguous")


def open_hdf5(source: Place | InputFile, label: str = "") -> File:
    """Opens a file, or a seekable binary file object such as a member of an archive, for reading.

    label: the place of this file in the input, put in front of paths in messages. The caller has to close the file object,
    after the File.
    Raises FormatError: not HDF5, cut short, damaged.
    """
    try:
        if not isinstance(source, Place):
            return _opened(source, None, label)
        with contextlib.ExitStack() as stack:
            opened = _opened(stack.enter_context(source.open()), os.fspath(source.local) if source.is_local else None, label)
            opened.keep_open(stack.pop_all())
            return opened
    except FormatError as error:
        raise (error if error.where or not label else error.inside(label)) from None


def _opened(file: InputFile, path: str | None, label: str) -> File:
    start = superblock_at(file)
    if start is None:
        raise FormatError("this is not an HDF5 file: its signature is missing")
    _check_extent(file, start)
    if file.is_far:
        from exporter.formats import hdf5_ahead

        hdf5_ahead.walk(file, start)
    from exporter.formats.hdf5_file import File
    from exporter.formats.hdf5_plain import is_plain

    size, is_near = file.seek(0, io.SEEK_END), not file.is_far
    if is_near and size <= MAX_WHOLE:
        file = MemoryFile(file.read_at(0, size))
    block = file.read_at(start, SUPERBLOCK_BYTES)
    return File(functools.partial(_opened_by_library, file, path), label, file, start,
                is_plain=is_near and not start and is_plain(block, size),
                can_look_back=is_near and _has_own_ranks(block))


def _has_own_ranks(superblock: bytes) -> bool:
    """Whether the B-trees of groups have the library's default ranks, on which their sizes depend."""
    return superblock[8] > 1 or superblock[16:20] == b"\x04\0\x10\0"


def _opened_by_library(file: InputFile, path: str | None) -> Any:
    from exporter.formats.hdf5_names import reason

    try:
        return _opened_as(file, path)
    except BlockingIOError:
        raise FormatError("the file is locked: another program is writing it", hint="wait until it is written") from None
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        if path is not None:  # a program that has the file open, too, has said there how libhdf5 opens it
            with contextlib.suppress(OSError, OverflowError, RuntimeError, ValueError):
                return _opened_as(file, None)
        raise FormatError(f"HDF5 cannot open this file: {reason(error)}", hint=COPY_AGAIN) from None


def _opened_as(file: InputFile, path: str | None) -> Any:
    from h5py import h5f, h5fd, h5p

    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    if path is None:
        access.set_fileobj_driver(h5fd.fileobj_driver, _Exact(file))
    elif os.name == "posix":
        access.set_fapl_sec2()  # instead of the driver in HDF5_DRIVER
    try:
        return h5f.open(os.fsencode(path or "file object"), h5f.ACC_RDONLY, fapl=access)
    finally:
        access.close()  # a file kept alive by a traceback crashes the interpreter at exit

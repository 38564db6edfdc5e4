"""Output: written completely or not at all. The only module that creates files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from exporter.errors import OutputError
from exporter.files import remote
from exporter.files.address import is_url, without_file_scheme
from exporter.files.place import Place


def is_folder_name(path: str | os.PathLike[str]) -> bool:
    """Whether the path asks for a folder: it ends with a slash."""
    return os.fspath(path).endswith(("/", os.sep))


def check_output(path: str | os.PathLike[str], inputs: Iterable[Place] = ()) -> None:
    """Refuses an output that cannot be written, or that would replace or lie in one of the inputs, before any work is done."""
    path = without_file_scheme(path)
    if is_url(path):
        remote.check_output(path, inputs)
        return
    as_folder, path = is_folder_name(path), Path(path)
    folder = path.parent
    if as_folder and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise OutputError("expected a new or empty folder, got one that contains files", where=str(path), hint="choose another name")
    if path.is_dir() and not as_folder:
        raise OutputError("expected the name of a file, got a folder", where=str(path))
    if not folder.is_dir():
        raise OutputError("its folder does not exist", where=str(path), hint=f"create it first: mkdir -p {folder}")
    if path.exists() and not path.is_file() and not as_folder:
        raise OutputError("expected a regular file, got a device or a pipe", where=str(path))
    if not os.access(folder, os.W_OK):
        raise OutputError("its folder is not writable", where=str(path))
    for place in inputs:
        if not place.is_local:
            continue
        if path.exists() and place.exists() and os.path.samefile(path, place.local):
            raise OutputError("the output would replace the input", where=str(path), hint="choose another name")
        if place.is_folder() and folder.resolve().is_relative_to(place.local.resolve()):
            raise OutputError("the output would lie inside the model's folder", where=str(path), hint="choose another folder")


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces the file or object at a path or URL by `data`; a path that ends with a slash becomes the folder that the zip archive
    `data` contains. Completely or not at all."""
    write_pieces(path, (data,))


def write_pieces(path: str | os.PathLike[str], pieces: Iterable[bytes], *, sync: bool = True) -> None:
    """Like `write`, for data that comes in pieces. sync: whether its folder is synced, too; if not, the caller does
    that, once for many files."""
    path = without_file_scheme(path)
    if is_url(path):
        remote.write_bytes(path, b"".join(pieces))
    elif is_folder_name(path):
        write_folder(Path(path), b"".join(pieces))
    else:
        with replacing(Path(path), sync=sync) as file:
            file.writelines(pieces)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write to that becomes `path` at the end: a temporary file in the same folder, flushed to disk, then renamed.

    The temporary file is removed on every error and on the signals that Python turns into exceptions.
    """
    if path.is_symlink():  # write through the user's symbolic link instead of replacing it by a file
        path = path.resolve()
    temporary = path.with_name(f".{path.name[:60]}.{os.urandom(6).hex()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot be written: {os.strerror(error.errno) if error.errno else error}", where=str(path),
                          hint="an existing file of this name is unchanged") from None


def write_folder(path: Path, data: bytes) -> None:
    """Creates the folder `path` from the zip archive `data` of a target, under another name first; completely or not at all."""
    import io
    import shutil
    import zipfile

    temporary = path.with_name(f".{path.name[:60]}.{os.urandom(6).hex()}.tmp")
    try:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                archive.extractall(temporary)
            if path.is_dir():
                path.rmdir()  # it is empty: check_output checked that, and rmdir checks again
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot be written: {os.strerror(error.errno) if error.errno else error}", where=str(path)) from None


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Makes new names in it survive a power failure, if the system can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

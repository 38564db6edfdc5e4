"""Place: one file or folder of the input. Sources and formats access the file system only through it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from exporter.errors import ExporterError, FormatError, MissingFileError, printable
from exporter.files import address
from exporter.files.input_file import InputFile, LocalFile

MiB = 1 << 20
MAX_HEAD = 1 << 12  # bytes that are read to tell what kind a file is of

Stamp = tuple[int, int, int, int]  # what changes when a file is replaced or written to


class Place:
    """A file or folder. Regular files and folders only: a FIFO, socket or device is refused before it is opened.

    The user's own path may be a symbolic link (model caches use them). A link *inside* a model folder is followed
    only if it stays inside that folder, or leads to the blobs of the same model in a cache of the Hugging Face Hub.

    The files of one model share a table with the state of each when it was first opened: see `check_unchanged`.
    """

    def __init__(self, path: str | os.PathLike[str], root: Path | None = None, opened: dict[Path, Stamp] | None = None) -> None:
        self.local = Path(path)
        self.root = root
        self._opened: dict[Path, Stamp] = {} if opened is None else opened

    def __repr__(self) -> str:
        return f"Place({str(self.local)!r})"

    @property
    def is_local(self) -> bool:
        """Whether `local` is a path on this machine; otherwise the place is behind a URL (exporter/files/remote.py)."""
        return True

    @property
    def address(self) -> str:
        """The path or URL that leads here."""
        return str(self.local)

    @property
    def name(self) -> str:
        """The last component, safe for a bundle or a message."""
        name = address.name_of(str(self.local)) if address.is_mistyped(str(self.local)) else self.local.name
        if not name:
            with contextlib.suppress(FileNotFoundError):  # the current folder was removed
                name = Path(os.path.abspath(self.local)).name
        return os.fsencode(name).decode("utf-8", "replace")

    @property
    def suffix(self) -> str:
        return self.local.suffix.lower()

    def stat(self) -> os.stat_result | None:
        """None if there is nothing; an error if it is neither a file nor a folder."""
        try:
            found = os.stat(self.local)
            if self.root is not None:
                self._check_inside(self.root.resolve())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise self._error(error) from None
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise FormatError("expected a file or folder, got a pipe, socket or device, which is never read", where=self.name)
        return found

    def _check_inside(self, root: Path) -> None:
        real = self.local.resolve()
        if not real.is_relative_to(root) and not real.is_relative_to(_blobs(root) or root):
            raise FormatError("a symbolic link that points outside the model's folder is not followed", where=self.name,
                              hint="copy the model so that the folder contains the files themselves (cp -rL)")

    def is_file(self) -> bool:
        found = self.stat()
        return found is not None and stat.S_ISREG(found.st_mode)

    def is_folder(self) -> bool:
        found = self.stat()
        return found is not None and stat.S_ISDIR(found.st_mode)

    def exists(self) -> bool:
        return self.stat() is not None

    def check_exists(self) -> None:
        """Raises MissingFileError if there is nothing."""
        if not self.exists():
            raise MissingFileError("no such file or folder", where=self.name)

    def size(self) -> int:
        """Bytes of the file."""
        found = self.stat()
        if found is None:
            raise MissingFileError("no such file", where=self.name)
        return found.st_size

    def check_is_file(self) -> None:
        """Raises FormatError for a folder or if there is nothing."""
        if not self.is_file():
            self.size()  # raises if there is nothing
            raise FormatError("expected a file, got a folder", where=self.name)

    def open(self) -> InputFile:
        """The file, for reading bytes; the caller closes it. It is unbuffered: the formats read pieces of known size anywhere in it."""
        self.check_is_file()
        try:
            descriptor = os.open(self.local, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
            self._opened.setdefault(self.local, _stamp(os.fstat(descriptor)))
            return LocalFile(descriptor)
        except OSError as error:
            raise self._error(error) from None

    def head(self, count: int = 512) -> bytes:
        """The first bytes; b"" for a folder or if there is nothing."""
        if not self.is_file():
            return b""
        with self.open() as file:
            return file.read(count)

    def read(self, limit: int = 64 * MiB) -> bytes:
        """The whole file; an error, before any byte is read, if it is larger than `limit` bytes."""
        if self.size() > limit:
            raise FormatError(f"expected at most {limit} bytes in this file, got {self.size()}", where=self.name)
        with self.open() as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise FormatError(f"expected at most {limit} bytes in this file, got more", where=self.name)
        return data

    def child(self, *parts: str) -> Place:
        """A file or folder below this folder. `parts` may come from the input, so none may lead out of it."""
        check_parts(parts, self.name)
        return Place(self.local.joinpath(*parts), self.root or self.local, self._opened)

    def sibling(self, name: str) -> Place:
        """A file or folder beside this one; `name` is checked as in `child`."""
        return self.parent().child(name)

    def parent(self) -> Place:
        above = self.local.parent if self.local.name not in ("", os.pardir) else self.local / os.pardir
        return Place(above, self.root, self._opened)

    def children(self) -> list[Place]:
        """What the folder contains, sorted by name."""
        try:
            found = sorted(os.listdir(self.local))
        except OSError as error:
            raise self._error(error) from None
        return [Place(self.local / name, self.root or self.local, self._opened) for name in found]

    def opened(self) -> list[Place]:
        """The files of the model that were opened so far."""
        return [Place(path, self.root, self._opened) for path in self._opened]

    def check_unchanged(self) -> None:
        """Refuses a model if one of its files was written to, replaced or removed since it was first opened."""
        for path, stamp in self._opened.items():
            try:
                same = _stamp(os.stat(path)) == stamp
            except OSError:
                same = False
            if not same:
                raise FormatError("the file changed while it was being read", where=path.name,
                                  hint="try again when the program that writes it has finished")

    def _error(self, error: OSError | ValueError) -> ExporterError:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        hint = "check the permissions of the file and its folders" if getattr(error, "errno", 0) in (errno.EACCES, errno.EPERM) else ""
        return FormatError(f"cannot be read: {reason}", where=self.name, hint=hint)


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_parts(parts: tuple[str, ...], where: str) -> None:
    """Refuses names, perhaps from the input, that could lead out of the folder they are looked up in."""
    for part in parts:
        pieces = part.replace("\\", "/").split("/")
        if not part or "\0" in part or part.startswith(("/", "\\")) or ".." in pieces or ":" in pieces[0]:
            raise FormatError(f"expected a name inside the model's folder, got {printable(part)!r}", where=where)


def _blobs(root: Path) -> Path | None:
    """Where the cache of the Hugging Face Hub keeps the files of a snapshot: models--NAME/blobs for models--NAME/snapshots/REVISION."""
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots":
            blobs = folder.parent.parent / "blobs"
            return blobs if blobs.is_dir() else None
    return None

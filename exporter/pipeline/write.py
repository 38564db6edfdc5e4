"""write: from a checked bundle to a file, a folder or a URL."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.gate import check
from exporter.files import remote
from exporter.files.output import check_output, is_folder_name, write_bytes, write_folder
from exporter.files.place import Place
from exporter.targets import target_for
from exporter.targets.shared.options import WriteOptions


def write(bundle: Bundle, path: str | os.PathLike[str], options: WriteOptions | None = None, *, inputs: Iterable[Place] = ()) -> None:
    """Writes `bundle` to `path`; the suffix chooses the target (exporter/targets). A path that ends with a slash becomes a folder.
    A URL is written through fsspec (exporter/files/remote.py).

    inputs: the files and folders that were read, which the output may not replace or lie in.

    Raises: UsageError (unknown suffix), OutputError (cannot be written; what stood there is untouched), MissingExtra.
    """
    target = target_for(os.fspath(path))
    check_output(path, inputs)
    data = target.write(check(bundle), options or WriteOptions())
    if remote.is_url(path):
        remote.write_bytes(os.fspath(path), data)
    elif is_folder_name(path):
        write_folder(Path(path), data)
    else:
        write_bytes(Path(path), data)

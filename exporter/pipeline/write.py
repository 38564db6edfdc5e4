"""write: from a checked bundle to a file, a folder or a URL."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.gate import check
from exporter.errors import UsageError
from exporter.files import remote
from exporter.files.output import check_output, is_folder_name, write_bytes, write_folder
from exporter.files.place import Place
from exporter.targets import target_for
from exporter.targets.shared.options import WriteOptions


def write(bundle: Bundle, path: str | os.PathLike[str], options: WriteOptions | None = None, *, vectors: bool = True,
          names: Literal["keras", "torch"] = "keras", folded: bool = False, inputs: Iterable[Place] = ()) -> None:
    """Writes `bundle` to `path`; the suffix chooses the target (exporter/targets). A path that ends with a slash becomes a folder.
    A URL is written through fsspec (exporter/files/remote.py).

    vectors: write the test vectors of each layer.
    names:   of the tensors in a .safetensors file: "keras", or "torch" for what load_state_dict takes.
    folded:  a .h file, also in the kit: write scale and offset, too, with y = scale * x + offset.
    options: the three in one, in place of them.
    inputs:  the files and folders that were read, which the output may not replace or lie in.

    Raises: UsageError (unknown suffix), OutputError (cannot be written; what stood there is untouched), MissingExtra.
    """
    keywords = WriteOptions(vectors=vectors, names=names, folded=folded)
    if options is not None and keywords != WriteOptions():
        raise UsageError("the options of the output are given twice: as WriteOptions and by name")
    options = options or keywords
    target = target_for(os.fspath(path))
    check_output(path, inputs)
    data = target.write(check(bundle), options)
    if remote.is_url(path):
        remote.write_bytes(os.fspath(path), data)
    elif is_folder_name(path):
        write_folder(Path(path), data)
    else:
        write_bytes(Path(path), data)

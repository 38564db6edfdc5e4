"""write: from a checked bundle to a file, a folder or a URL."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO, Literal

from exporter.errors import UsageError
from exporter.files import output
from exporter.targets import writer_for
from exporter.targets.shared.options import WriteOptions

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Bundle
    from exporter.batchnorm.layer import BatchNorm
    from exporter.files.place import Place


class Output:
    """An output that is being made: options and place are checked first, so that nothing is read for nothing."""

    def __init__(self, path: str | os.PathLike[str], options: WriteOptions, inputs: Iterable[Place] = (), *,
                 stream: BinaryIO | None = None, sync: bool = True) -> None:
        """inputs: the files and folders that are read; the output may not replace them or be inside them.
        stream: is written to instead of the path, which then only specifies the kind. sync: see exporter.files.output.write_pieces.

        Raises: UsageError (unknown suffix, options that this kind does not accept), OutputError (cannot be written).
        """
        self.path, self._writer = os.fspath(path), writer_for(os.fspath(path), options)
        self._stream, self._sync = stream, sync
        if stream is None:
            output.check_output(self.path, inputs)

    def prepare(self) -> None:
        """Imports the modules for checking and writing; there is time for it while a child reads."""
        import hashlib  # noqa: F401  # for the digest

        import exporter.batchnorm.layer
        import exporter.batchnorm.schema

        exporter.batchnorm.schema.prepare()

    def layers(self, layers: Sequence[BatchNorm]) -> None:
        """Works ahead on layers that the bundle will probably contain."""
        self._writer.layers(layers)

    def end(self, bundle: Bundle) -> None:
        """Writes `bundle`. Raises OutputError (an existing file is unchanged), MissingExtra."""
        pieces = self._writer.end(bundle)
        if self._stream is not None:
            self._stream.write(b"".join(pieces))  # all or nothing, as for files
        else:
            output.write_pieces(self.path, pieces, sync=self._sync)


def write(bundle: Bundle, path: str | os.PathLike[str], options: WriteOptions | None = None, *, vectors: bool = True,
          names: Literal["keras", "torch"] = "keras", folded: bool = False, axis: int | None = None, plain: bool = False,
          fold: bool = False, inputs: Iterable[Place] = ()) -> None:
    """Writes `bundle` to `path`; the suffix chooses the target (exporter/targets). A path that ends with a slash becomes a folder.
    A URL is written through fsspec (exporter/files/remote.py).

    vectors: write the test vectors of each layer.
    names:   of the tensors in a .safetensors file: "keras", or "torch" as load_state_dict expects them.
    folded:  in a .h file or the kit: also write scale and offset, with y = scale * x + offset.
    axis:    in an .onnx file: the axis of the channels in each layer's input; 1 for NCHW. None: as in the model.
    plain:   in an .onnx file: without local functions, for readers that do not support them.
    fold:    in an .npz file: write the layers that feed batch norms with the batch norms folded in, and those that are kept
             (docs/folding.md). The bundle must come from `read(path, kernels=True)`.
    options: all of these as one object, instead of separately.
    inputs:  the files and folders that were read; the output must not replace them or be inside them.

    Raises: UsageError (no bundle, unknown suffix), OutputError (cannot be written; an existing file is unchanged), MissingExtra.
    """
    from exporter.batchnorm.bundle import Bundle

    if not isinstance(bundle, Bundle):
        raise UsageError(f"expected a Bundle, got {type(bundle).__name__}",
                         hint="read(path) returns one; write(read(path, kernels=True), out, fold=True) writes a folded model")
    keywords = WriteOptions(vectors=vectors, names=names, folded=folded, axis=axis, plain=plain, fold=fold)
    if options is not None and keywords != WriteOptions():
        raise UsageError("expected the output options as WriteOptions or by name, got both")
    Output(path, options or keywords, inputs).end(bundle)

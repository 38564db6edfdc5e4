"""Our own bundles, read back (docs/format.md): the .json form. A bundle may be the MODEL of every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.batchnorm.bundle import ReadBack
from exporter.batchnorm.document import MAX_BYTES, MAX_VALUES, from_document
from exporter.files.place import MAX_HEAD

if TYPE_CHECKING:
    from exporter.files.place import Place
    from exporter.sources.shared.options import ReadOptions

NAME = "bundle"
OPTIONS: tuple[str, ...] = ()


def claims(place: Place) -> bool:
    """A JSON object whose first kilobytes name the format: other producers may order keys differently."""
    head = place.head(MAX_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith(b"{") and b'"bn-bundle"' in head


def read(place: Place, options: ReadOptions) -> ReadBack:
    """The bundle in `place`. Raises BundleError if it violates docs/format.md."""
    from exporter.formats.strict_json import parse_json

    return from_document(parse_json(place.read(MAX_BYTES), "the bundle", limit=MAX_BYTES, most=MAX_VALUES))
